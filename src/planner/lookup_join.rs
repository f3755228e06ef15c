//! From a join of a few rows with a feature view or a service on its whole key to a [`LookupJoinNode`], which asks the online
//! store for the keys of those rows instead of reading the view whole. A chain of them that names keys by the same rows becomes
//! one operator.
//!
//! Few rows are those of `VALUES`, of `unnest` over constants, of lookups, of anything under a small `LIMIT`, and of such joins
//! again. What is done with the view's rows before they are joined (filters, expressions) stays as it is: the rows that were
//! looked up take the place of the view's.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DFSchemaRef, JoinType, NullEquality};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{Cast, TryCast};
use datafusion::logical_expr::logical_plan::builder::build_join_schema;
use datafusion::logical_expr::{
    Expr, ExprSchemable, Extension, FetchType, Filter, Join, LogicalPlan, Projection, SubqueryAlias, TableScan,
    UserDefinedLogicalNodeCore,
};
use datafusion::optimizer::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_planner::PhysicalPlanner;

use super::casts::same_or_wider;
use super::keys::BoundKeys;
use super::physical::column_places;
use super::provider::RelationProvider;
use super::service_scan::ServiceScan;
use crate::executor::{LookupJoin, LookupJoinExec, LookupJoinKind};
use crate::lookup::LOOKUP_KEYS_MAX;
use crate::registry::KeyColumn;
use crate::types::SqlType;

/// A few rows, each with the row of a feature view that has its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LookupJoinNode {
    left: LogicalPlan,
    /// The view's rows, as they are joined: the scan at the bottom is one that is asked for keys.
    right: LogicalPlan,
    view: String,
    /// For each of the view's keys, its value over the left input and its column of the right.
    keys: Vec<(Expr, Expr)>,
    kind: LookupJoinKind,
    schema: DFSchemaRef,
}

impl LookupJoinNode {
    fn new(left: LogicalPlan, right: LogicalPlan, view: String, keys: Vec<(Expr, Expr)>, kind: LookupJoinKind) -> DfResult<Self> {
        let join_type = match kind {
            LookupJoinKind::Left => JoinType::Left,
            LookupJoinKind::Inner => JoinType::Inner,
        };
        let schema = Arc::new(build_join_schema(left.schema(), right.schema(), &join_type)?);
        Ok(Self { left, right, view, keys, kind, schema })
    }
}

impl PartialOrd for LookupJoinNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.keys.partial_cmp(&other.keys)
    }
}

impl UserDefinedLogicalNodeCore for LookupJoinNode {
    fn name(&self) -> &'static str {
        "LookupJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys.iter().flat_map(|(value, key)| [value.clone(), key.clone()]).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LookupJoin: view={}, keys={:?}", self.view, self.keys)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let misshapen = || DataFusionError::Internal("a lookup join has two inputs and two expressions a key".into());
        let [left, right] = <[LogicalPlan; 2]>::try_from(inputs).map_err(|_| misshapen())?;
        let pairs = exprs.as_chunks::<2>().0.iter().map(|[value, key]| (value.clone(), key.clone()));
        Self::new(left, right, self.view.clone(), pairs.collect(), self.kind)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let left = self.left.schema().fields().len();
        let (of_left, of_right): (Vec<usize>, Vec<usize>) = output_columns.iter().partition(|column| **column < left);
        Some(vec![of_left, of_right.into_iter().map(|column| column - left).collect()])
    }
}

/// Makes lookup joins of joins that may be ones.
#[derive(Debug)]
pub(super) struct JoinByLookup;

impl OptimizerRule for JoinByLookup {
    fn name(&self) -> &'static str {
        "join_by_lookup"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        let LogicalPlan::Join(join) = &plan else { return Ok(Transformed::no(plan)) };
        match by_lookup(join)? {
            Some(lookup) => Ok(Transformed::yes(lookup)),
            None => Ok(Transformed::no(plan)),
        }
    }
}

/// The join by lookups; `None` where it is to stay what it is.
fn by_lookup(join: &Join) -> DfResult<Option<LogicalPlan>> {
    if join.null_equality != NullEquality::NullEqualsNothing || join.null_aware {
        return Ok(None);
    }
    let swapped: Vec<(Expr, Expr)> = join.on.iter().map(|(left, right)| (right.clone(), left.clone())).collect();
    let joined = match (join.join_type, &join.filter) {
        (JoinType::Inner, _) => match joined(&join.left, &join.right, &join.on, LookupJoinKind::Inner)? {
            Some(node) => Some(node),
            None => joined(&join.right, &join.left, &swapped, LookupJoinKind::Inner)?,
        },
        (JoinType::Left, None) => joined(&join.left, &join.right, &join.on, LookupJoinKind::Left)?,
        (JoinType::Right, None) => joined(&join.right, &join.left, &swapped, LookupJoinKind::Left)?,
        _ => None,
    };
    let Some(node) = joined else { return Ok(None) };
    let mut plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
    if let Some(condition) = &join.filter {
        plan = LogicalPlan::Filter(Filter::try_new(condition.clone(), Arc::new(plan))?);
    }
    if plan.schema().columns() != join.schema.columns() {
        // The inputs changed places.
        let columns = join.schema.columns().into_iter().map(Expr::Column).collect();
        plan = LogicalPlan::Projection(Projection::try_new(columns, Arc::new(plan))?);
    }
    Ok(Some(plan))
}

/// `few` joined to the view that `right` reads, if it reads one that may be asked, and `on` names its whole key.
fn joined(few: &LogicalPlan, right: &LogicalPlan, on: &[(Expr, Expr)], kind: LookupJoinKind) -> DfResult<Option<LookupJoinNode>> {
    if !is_few(few) {
        return Ok(None);
    }
    let Some((asked, Entities { name, parts })) = asked(right)? else { return Ok(None) };
    let mut keys: Vec<Option<(Expr, Expr)>> = vec![None; parts.len()];
    for (value, key) in on {
        let Some((column, compared)) = uncast(key, right.schema()) else { return Ok(None) };
        let Some(place) = key_place(right, &column, parts.len()) else { return Ok(None) };
        let Some(value) = as_key(value, few.schema(), &compared, &parts[place].data_type)? else { return Ok(None) };
        match &mut keys[place] {
            slot @ None => *slot = Some((value, Expr::Column(column))),
            Some(_) => return Ok(None),
        }
    }
    match keys.into_iter().collect::<Option<Vec<_>>>() {
        Some(keys) if !keys.is_empty() => LookupJoinNode::new(few.clone(), asked, name, keys, kind).map(Some),
        _ => Ok(None),
    }
}

/// Whether a plan gives few rows, whatever is stored.
fn is_few(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => true,
        LogicalPlan::Limit(limit) => {
            let is_small = matches!(limit.get_fetch_type(), Ok(FetchType::Literal(Some(rows))) if rows <= LOOKUP_KEYS_MAX);
            is_small || is_few(&limit.input)
        }
        LogicalPlan::TableScan(scan) => names_entities(scan).unwrap_or(false),
        LogicalPlan::Extension(extension) => {
            extension.node.as_any().downcast_ref::<LookupJoinNode>().is_some_and(|join| is_few(&join.left))
        }
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Aggregate(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Union(_) => plan.inputs().into_iter().all(is_few),
        _ => false,
    }
}

/// Whether the filters of a scan name the entities of a view.
fn names_entities(scan: &TableScan) -> Option<bool> {
    let provider = source_as_provider(&scan.source).ok()?;
    let keys = match provider.downcast_ref::<ServiceScan>() {
        Some(service) => &service.definition().keys,
        None => &provider.downcast_ref::<RelationProvider>()?.as_view()?.0.keys,
    };
    let filters: Vec<&Expr> = scan.filters.iter().collect();
    Some(BoundKeys::of(keys, &filters).ok()?.is_whole())
}

/// What a relation that is asked for keys is called, and what its keys are.
struct Entities {
    name: String,
    parts: Vec<KeyColumn>,
}

/// The plan with the one view or service that it reads, in the present tense, as one that is asked for keys; `None` where it reads something
/// else, or the online store cannot answer.
fn asked(plan: &LogicalPlan) -> DfResult<Option<(LogicalPlan, Entities)>> {
    Ok(match plan {
        LogicalPlan::TableScan(scan) => asked_scan(scan)?,
        LogicalPlan::SubqueryAlias(alias) => match asked(&alias.input)? {
            Some((input, view)) => {
                let alias = SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?;
                Some((LogicalPlan::SubqueryAlias(alias), view))
            }
            None => None,
        },
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) => {
            let expressions = plan.expressions();
            let is_plain = |expr: &Expr| !expr.is_volatile() && !super::instant::contains_subquery(expr);
            match plan.inputs().as_slice() {
                [input] if expressions.iter().all(is_plain) => match asked(input)? {
                    Some((input, view)) => Some((plan.with_new_exprs(expressions, vec![input])?, view)),
                    None => None,
                },
                _ => None,
            }
        }
        _ => None,
    })
}

fn asked_scan(scan: &TableScan) -> DfResult<Option<(LogicalPlan, Entities)>> {
    if scan.fetch.is_some() || names_entities(scan) != Some(false) {
        return Ok(None);
    }
    let provider = source_as_provider(&scan.source)?;
    let found: Option<(Arc<dyn TableProvider>, Entities)> = if let Some(service) = provider.downcast_ref::<ServiceScan>() {
        let definition = service.definition();
        let entities = Entities { name: definition.name.clone(), parts: definition.keys.clone() };
        (!service.is_asked() && service.is_best_asked()).then(|| (Arc::new(service.asked()) as _, entities))
    } else if let Some(relation) = provider.downcast_ref::<RelationProvider>()
        && let Some((view, _)) = relation.as_view()
    {
        let entities = Entities { name: view.name.clone(), parts: view.keys.clone() };
        (!relation.is_asked() && relation.is_online_by_key()).then(|| (Arc::new(relation.asked()) as _, entities))
    } else {
        None
    };
    Ok(found.map(|(provider, entities)| {
        // Filters that were passed down are judged above as well: they do not bind the whole key.
        let asked = TableScan { source: provider_as_source(provider), filters: Vec::new(), ..scan.clone() };
        (LogicalPlan::TableScan(asked), entities)
    }))
}

/// The column that an expression is, cast at most to a type that keeps its values apart; and the type that it is compared in.
fn uncast(expr: &Expr, schema: &DFSchema) -> Option<(Column, SqlType)> {
    match expr {
        Expr::Column(column) => {
            let place = schema.maybe_index_of_column(column)?;
            Some((column.clone(), SqlType::of_field(schema.field(place))?))
        }
        Expr::Cast(Cast { expr, field }) => {
            let (column, from) = uncast(expr, schema)?;
            Some((column, same_or_wider(&from, &SqlType::of_field(field)?)?))
        }
        _ => None,
    }
}

/// Which of so many keys a column of the plan is.
fn key_place(plan: &LogicalPlan, column: &Column, keys: usize) -> Option<usize> {
    let place = plan.schema().maybe_index_of_column(column)?;
    match plan {
        LogicalPlan::TableScan(scan) => {
            let place = scan.projection.as_ref().map_or(Some(place), |projection| projection.get(place).copied())?;
            (place < keys).then_some(place)
        }
        LogicalPlan::SubqueryAlias(alias) => below(&alias.input, place, keys),
        LogicalPlan::Filter(filter) => below(&filter.input, place, keys),
        LogicalPlan::Projection(projection) => {
            let mut expr = projection.expr.get(place)?;
            while let Expr::Alias(alias) = expr {
                expr = &alias.expr;
            }
            match expr {
                Expr::Column(column) => key_place(&projection.input, column, keys),
                _ => None,
            }
        }
        _ => None,
    }
}

fn below(input: &LogicalPlan, place: usize, keys: usize) -> Option<usize> {
    let column = Column::from(input.schema().qualified_field(place));
    key_place(input, &column, keys)
}

/// A value of the left side as a key of this type, where it is compared in `compared`; a number that the key's type cannot hold
/// equals none.
fn as_key(value: &Expr, schema: &DFSchema, compared: &SqlType, key: &SqlType) -> DfResult<Option<Expr>> {
    let (_, field) = value.to_field(schema)?;
    let is_integer = |sql_type: &SqlType| matches!(sql_type, SqlType::SmallInt | SqlType::Integer | SqlType::BigInt);
    Ok(match SqlType::of_field(&field) {
        Some(from) if from == *key && from == *compared => Some(value.clone()),
        Some(from) if is_integer(&from) && is_integer(key) => {
            Some(Expr::TryCast(TryCast::new(Box::new(value.clone()), key.arrow())))
        }
        _ => None,
    })
}

/// The operator of a lookup join.
pub(super) fn plan_lookup_join(
    planner: &dyn PhysicalPlanner,
    join: &LookupJoinNode,
    inputs: &[&LogicalPlan],
    plans: &[Arc<dyn ExecutionPlan>],
    state: &SessionState,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    let ([left, right], [left_plan, right_plan]) = (inputs, plans) else {
        return Err(DataFusionError::Internal("a lookup join has two inputs".into()));
    };
    let values = join.keys.iter().map(|(value, _)| planner.create_physical_expr(value, left.schema(), state));
    let keys = join.keys.iter().map(|(_, key)| match key {
        Expr::Column(column) => right.schema().index_of_column(column),
        _ => Err(DataFusionError::Internal("a lookup join's key is a column".into())),
    });
    let (values, keys) = (values.collect::<DfResult<_>>()?, keys.collect::<DfResult<_>>()?);
    let schema = Arc::new(join.schema.as_arrow().clone());
    let joined = LookupJoin { right: Arc::clone(right_plan), values, keys, kind: join.kind };
    united(left_plan, joined, schema)
}

/// The join of `left` with one more input. Where `left` is such a join itself, under a choice of its columns or not, and the new
/// input is asked by nothing but that join's left side, one operator does both, in one round trip.
fn united(left: &Arc<dyn ExecutionPlan>, joined: LookupJoin, schema: SchemaRef) -> DfResult<Arc<dyn ExecutionPlan>> {
    let (below, places) = match left.downcast_ref::<ProjectionExec>() {
        Some(projection) => (projection.input(), column_places(projection)),
        None => (left, Some((0..left.schema().fields().len()).collect())),
    };
    let alone = |joined| Ok(Arc::new(LookupJoinExec::new(Arc::clone(left), vec![joined], Arc::clone(&schema))) as _);
    let (Some(below), Some(places)) = (below.downcast_ref::<LookupJoinExec>(), places) else { return alone(joined) };
    let width = below.left().schema().fields().len();
    let is_of_left = |value: &Arc<dyn PhysicalExpr>| collect_columns(value).iter().all(|column| places[column.index()] < width);
    if !joined.values.iter().all(is_of_left) {
        return alone(joined);
    }
    let moved = |value: &Arc<dyn PhysicalExpr>| {
        let moved = Arc::clone(value).transform_up(|expr| match expr.downcast_ref::<PhysicalColumn>() {
            Some(column) => {
                let column: Arc<dyn PhysicalExpr> = Arc::new(PhysicalColumn::new(column.name(), places[column.index()]));
                Ok(Transformed::yes(column))
            }
            None => Ok(Transformed::no(expr)),
        });
        moved.map(|moved| moved.data)
    };
    let values = joined.values.iter().map(moved).collect::<DfResult<_>>()?;
    let below_schema = below.schema();
    let own = &schema.fields()[places.len()..];
    let fields: Vec<FieldRef> = below_schema.fields().iter().chain(own).cloned().collect();
    let joins = below.joins().iter().cloned().chain([LookupJoin { values, ..joined }]).collect();
    let united: Arc<dyn ExecutionPlan> =
        Arc::new(LookupJoinExec::new(Arc::clone(below.left()), joins, Arc::new(Schema::new(fields))));
    let shown = places.into_iter().chain(below_schema.fields().len()..united.schema().fields().len());
    let exprs = shown.zip(schema.fields()).map(|(place, field)| {
        let expr: Arc<dyn PhysicalExpr> = Arc::new(PhysicalColumn::new(united.schema().field(place).name(), place));
        ProjectionExpr { expr, alias: field.name().clone() }
    });
    Ok(Arc::new(ProjectionExec::try_new(exprs.collect::<Vec<_>>(), Arc::clone(&united))?))
}
