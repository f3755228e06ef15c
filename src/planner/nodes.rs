//! Our own nodes of logical plans.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{DFSchema, DFSchemaRef, TableReference};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::logical_plan::builder::build_join_schema;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, UserDefinedLogicalNodeCore};

use super::StatementContext;
use super::errors::from_datafusion;
use crate::error::Result;
use crate::executor::AsOfKind;
use crate::registry::{FeatureView, ObjectId};

/// A feature view at an instant that is known when the query runs: it may hold parameters until then.
#[derive(Clone)]
pub(super) struct SnapshotNode {
    context: Arc<StatementContext>,
    view: Arc<FeatureView>,
    reference: TableReference,
    instant: Expr,
    schema: DFSchemaRef,
}

impl SnapshotNode {
    /// `view`, named `reference`, at `instant`.
    pub(super) fn new(
        context: &Arc<StatementContext>,
        view: Arc<FeatureView>,
        reference: TableReference,
        instant: Expr,
    ) -> Result<Self> {
        let schema = DFSchema::try_from_qualified_schema(reference.clone(), &view.schema()).map_err(from_datafusion)?;
        Ok(Self { context: Arc::clone(context), view, reference, instant, schema: Arc::new(schema) })
    }

    pub(super) fn context(&self) -> &Arc<StatementContext> {
        &self.context
    }

    pub(super) fn view(&self) -> &Arc<FeatureView> {
        &self.view
    }

    pub(super) fn reference(&self) -> &TableReference {
        &self.reference
    }

    pub(super) fn instant(&self) -> &Expr {
        &self.instant
    }

    fn identity(&self) -> (ObjectId, &TableReference, &Expr) {
        (self.view.id, &self.reference, &self.instant)
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
        vec![self.instant.clone()]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot: view={}, as_of={}", self.view.name, self.instant)
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, _inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let instant = exprs.pop().ok_or_else(|| DataFusionError::Internal("a snapshot has an instant".into()))?;
        Ok(Self { instant, ..self.clone() })
    }
}

/// Each row of the left input with the row of a feature view that answered at the left row's instant.
///
/// The right input stands for the view: it tells which of its columns are wanted, and under which names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AsOfJoinNode {
    /// The rows that ask.
    pub(super) left: LogicalPlan,
    /// The view asked.
    pub(super) right: LogicalPlan,
    /// The entity keys over the left input, in the view's order and types.
    pub(super) keys: Vec<Expr>,
    /// The instant over the left input.
    pub(super) instant: Expr,
    /// A further condition on the chosen row, over both inputs.
    pub(super) condition: Option<Expr>,
    /// What becomes of left rows without a match.
    pub(super) kind: AsOfKind,
    schema: DFSchemaRef,
}

impl AsOfJoinNode {
    /// A join of the two inputs.
    pub(super) fn new(
        left: LogicalPlan,
        right: LogicalPlan,
        keys: Vec<Expr>,
        instant: Expr,
        condition: Option<Expr>,
        kind: AsOfKind,
    ) -> DfResult<Self> {
        let join_type = match kind {
            AsOfKind::Left => JoinType::Left,
            AsOfKind::Inner => JoinType::Inner,
        };
        let schema = Arc::new(build_join_schema(left.schema(), right.schema(), &join_type)?);
        Ok(Self { left, right, keys, instant, condition, kind, schema })
    }
}

impl PartialOrd for AsOfJoinNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.keys.as_slice(), &self.instant, &self.condition, self.kind).partial_cmp(&(
            other.keys.as_slice(),
            &other.instant,
            &other.condition,
            other.kind,
        ))
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
        let mut expressions = self.keys.clone();
        expressions.push(self.instant.clone());
        expressions.extend(self.condition.clone());
        expressions
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "AsOfJoin: keys=[{keys}], as_of={}", self.instant)?;
        match &self.condition {
            Some(condition) => write!(f, ", condition={condition}"),
            None => Ok(()),
        }
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let misshapen = || DataFusionError::Internal("an as-of join has two inputs, its keys and an instant".into());
        let [left, right] = <[LogicalPlan; 2]>::try_from(inputs).map_err(|_| misshapen())?;
        let mut exprs = exprs.into_iter();
        let keys = exprs.by_ref().take(self.keys.len()).collect();
        let instant = exprs.next().ok_or_else(misshapen)?;
        Self::new(left, right, keys, instant, exprs.next(), self.kind)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let left = self.left.schema().fields().len();
        let (of_left, of_right): (Vec<usize>, Vec<usize>) = output_columns.iter().partition(|column| **column < left);
        Some(vec![of_left, of_right.into_iter().map(|column| column - left).collect()])
    }
}
