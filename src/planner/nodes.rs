//! Our own nodes of logical plans.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{DFSchema, DFSchemaRef, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::logical_plan::builder::build_join_schema;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNodeCore};

use super::StatementContext;
use super::errors::from_datafusion;
use super::moment::ClauseTimes;
use super::provider::RelationProvider;
use super::service::Service;
use crate::error::Result;
use crate::executor::{AsOfKind, Bound, Direction};
use crate::registry::{FeatureView, ObjectId};
use crate::time::DatasetVersion;

/// A feature view at a moment that is known when the query runs: it may hold parameters until then.
#[derive(Clone)]
pub(super) struct SnapshotNode {
    context: Arc<StatementContext>,
    of: SnapshotOf,
    reference: TableReference,
    times: ClauseTimes,
    /// The version that is read of each view.
    versions: Vec<Option<DatasetVersion>>,
    schema: DFSchemaRef,
}

/// What a snapshot is taken of.
#[derive(Clone, Debug)]
pub(super) enum SnapshotOf {
    /// A feature view.
    View(Arc<FeatureView>),
    /// A feature service: each of its views.
    Service(Service),
}

impl SnapshotNode {
    /// A view or service, named `reference`, at the moment that `times` and `versions` name.
    pub(super) fn new(
        context: &Arc<StatementContext>,
        of: SnapshotOf,
        reference: TableReference,
        times: ClauseTimes,
        versions: Vec<Option<DatasetVersion>>,
    ) -> Result<Self> {
        let columns = match &of {
            SnapshotOf::View(view) => view.schema(),
            SnapshotOf::Service(service) => service.schema(),
        };
        let schema = DFSchema::try_from_qualified_schema(reference.clone(), &columns).map_err(from_datafusion)?;
        Ok(Self { context: Arc::clone(context), of, reference, times, versions, schema: Arc::new(schema) })
    }

    /// The relation at its moment, now that parameters are values.
    pub(super) fn plan(&self, state: &SessionState) -> Result<LogicalPlan> {
        let moment = |place: usize, view: &FeatureView| {
            let version = self.versions.get(place).copied().flatten();
            self.times.moment(&self.context, view, version, state)
        };
        let plan = match &self.of {
            SnapshotOf::View(view) => {
                let relation = RelationProvider::view(&self.context, view, moment(0, view)?);
                LogicalPlanBuilder::scan(self.reference.clone(), provider_as_source(Arc::new(relation)), None)
            }
            SnapshotOf::Service(service) => {
                let rows = service.at(moment)?.rows().map(LogicalPlanBuilder::from);
                rows.and_then(|rows| rows.alias(self.reference.clone()))
            }
        };
        plan.and_then(LogicalPlanBuilder::build).map_err(from_datafusion)
    }

    fn identity(&self) -> (ObjectId, &TableReference, &ClauseTimes, &[Option<DatasetVersion>]) {
        let id = match &self.of {
            SnapshotOf::View(view) => view.id,
            SnapshotOf::Service(service) => service.id(),
        };
        (id, &self.reference, &self.times, &self.versions)
    }
}

impl fmt::Debug for SnapshotNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_for_explain(f)
    }
}

impl PartialEq for SnapshotNode {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for SnapshotNode {}

impl Hash for SnapshotNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl PartialOrd for SnapshotNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.identity().partial_cmp(&other.identity())
    }
}

impl UserDefinedLogicalNodeCore for SnapshotNode {
    fn name(&self) -> &'static str {
        "Snapshot"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        Vec::new()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.times.expressions()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.of {
            SnapshotOf::View(view) => &view.name,
            SnapshotOf::Service(service) => service.name(),
        };
        write!(f, "Snapshot: view={name}, {:?}", self.times)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, _inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        Ok(Self { times: self.times.with(exprs), ..self.clone() })
    }
}

/// Marks the right side of an `ASOF JOIN` until the join becomes an [`AsOfJoinNode`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd)]
pub(super) struct MatchNode {
    /// The join's number among the query's.
    pub(super) number: usize,
    /// The right side.
    pub(super) input: LogicalPlan,
}

impl MatchNode {
    pub(super) fn new(number: usize, input: LogicalPlan) -> Self {
        Self { number, input }
    }
}

impl UserDefinedLogicalNodeCore for MatchNode {
    fn name(&self) -> &'static str {
        "Match"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Match: join={}", self.number)
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let input = inputs.pop().ok_or_else(|| DataFusionError::Internal("a match has one input".into()))?;
        Ok(Self { number: self.number, input })
    }
}

/// The columns of a relation that is no feature view, over the right input.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd)]
pub(super) struct AskedOf {
    /// The keys.
    pub(super) keys: Vec<Expr>,
    /// What stands for the event time.
    pub(super) order: Expr,
    /// What decides between rows of the same keys and order.
    pub(super) ties: Vec<Sort>,
}

impl AskedOf {
    fn expressions(&self) -> impl Iterator<Item = &Expr> {
        self.keys.iter().chain([&self.order]).chain(self.ties.iter().map(|tie| &tie.expr))
    }

    fn with(&self, exprs: &mut impl Iterator<Item = Expr>) -> Option<Self> {
        let keys = exprs.by_ref().take(self.keys.len()).collect();
        let order = exprs.next()?;
        let ties = self.ties.iter().map(|tie| Some(Sort { expr: exprs.next()?, ..*tie })).collect::<Option<_>>()?;
        Some(Self { keys, order, ties })
    }
}

/// What an as-of join asks its right side.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd)]
pub(super) struct Asked {
    /// The keys over the left input: of a view in its order and types, else of the right keys' types.
    pub(super) keys: Vec<Expr>,
    /// The instant over the left input.
    pub(super) instant: Expr,
    /// The knowledge instant over the left input.
    pub(super) known_at: Option<Expr>,
    /// A limit on the distance: an interval without columns.
    pub(super) within: Option<Expr>,
    /// What the right input is asked by; `None` where that is a feature view.
    pub(super) right: Option<AskedOf>,
    /// A further condition on the chosen row, over both inputs.
    pub(super) condition: Option<Expr>,
    /// On which side of the instant the answer lies.
    pub(super) direction: Direction,
    /// Whether a row at the instant itself answers.
    pub(super) bound: Bound,
    /// What becomes of left rows without a match.
    pub(super) kind: AsOfKind,
}

impl Asked {
    /// All its expressions.
    pub(super) fn expressions(&self) -> Vec<Expr> {
        let right = self.right.iter().flat_map(AskedOf::expressions);
        let optional = [&self.known_at, &self.within, &self.condition].into_iter().flatten();
        self.keys.iter().chain([&self.instant]).chain(right).chain(optional).cloned().collect()
    }

    /// The same with other expressions, in the same order; `None` where they are too few.
    fn with(&self, exprs: Vec<Expr>) -> Option<Self> {
        let mut exprs = exprs.into_iter();
        let keys: Vec<Expr> = exprs.by_ref().take(self.keys.len()).collect();
        let instant = exprs.next()?;
        let right = match &self.right {
            Some(right) => Some(right.with(&mut exprs)?),
            None => None,
        };
        let mut next = |there: &Option<Expr>| there.as_ref().and_then(|_| exprs.next());
        let (known_at, within, condition) = (next(&self.known_at), next(&self.within), next(&self.condition));
        Some(Self { keys, instant, known_at, within, right, condition, ..self.clone() })
    }
}

/// Each row of the left input with the row of the right input that answers it.
///
/// Where the right input is a feature view it only tells which of the view's columns are wanted, and under which names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AsOfJoinNode {
    /// The rows that ask.
    pub(super) left: LogicalPlan,
    /// What is asked.
    pub(super) right: LogicalPlan,
    /// The question.
    pub(super) asked: Asked,
    schema: DFSchemaRef,
}

impl AsOfJoinNode {
    /// A join of the two inputs.
    pub(super) fn new(left: LogicalPlan, right: LogicalPlan, asked: Asked) -> DfResult<Self> {
        let join_type = match asked.kind {
            AsOfKind::Left => JoinType::Left,
            AsOfKind::Inner => JoinType::Inner,
        };
        let schema = Arc::new(build_join_schema(left.schema(), right.schema(), &join_type)?);
        Ok(Self { left, right, asked, schema })
    }
}

impl PartialOrd for AsOfJoinNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.asked.partial_cmp(&other.asked)
    }
}

impl UserDefinedLogicalNodeCore for AsOfJoinNode {
    fn name(&self) -> &'static str {
        "AsOfJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.asked.expressions()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.asked.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "AsOfJoin: keys=[{keys}], as_of={}", self.asked.instant)?;
        match &self.asked.condition {
            Some(condition) => write!(f, ", condition={condition}"),
            None => Ok(()),
        }
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let misshapen = || DataFusionError::Internal("an as-of join has two inputs, its keys and an instant".into());
        let [left, right] = <[LogicalPlan; 2]>::try_from(inputs).map_err(|_| misshapen())?;
        Self::new(left, right, self.asked.with(exprs).ok_or_else(misshapen)?)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let left = self.left.schema().fields().len();
        let (of_left, of_right): (Vec<usize>, Vec<usize>) = output_columns.iter().partition(|column| **column < left);
        Some(vec![of_left, of_right.into_iter().map(|column| column - left).collect()])
    }
}
