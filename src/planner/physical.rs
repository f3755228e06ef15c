//! From our logical nodes to operators.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arrow::compute::SortOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::SessionState;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

use super::as_of_source::AsOfSourceExec;
use super::instant::resolve;
use super::lookup_join::{LookupJoinNode, plan_lookup_join};
use super::moment::{length, refuse_future};
use super::nodes::AsOfJoinNode;
use crate::error::Error;
use crate::executor::{AsOfJoinExec, AsOfSide, AsOfSource, Reach};
use crate::registry::Ttl;
use crate::time::CommitTime;

type Planned<'a, T> = Pin<Box<dyn Future<Output = DfResult<T>> + Send + 'a>>;

/// DataFusion's planner, and ours for our nodes.
pub(super) struct OurQueryPlanner(DefaultPhysicalPlanner);

impl OurQueryPlanner {
    pub(super) fn new() -> Self {
        Self(DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(OurNodes)]))
    }
}

impl std::fmt::Debug for OurQueryPlanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OurQueryPlanner")
    }
}

impl QueryPlanner for OurQueryPlanner {
    fn create_physical_plan<'life0, 'life1, 'life2, 'async_trait>(
        &'life0 self,
        plan: &'life1 LogicalPlan,
        state: &'life2 SessionState,
    ) -> Planned<'async_trait, Arc<dyn ExecutionPlan>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        Self: 'async_trait,
    {
        self.0.create_physical_plan(plan, state)
    }
}

/// Plans our nodes.
struct OurNodes;

impl ExtensionPlanner for OurNodes {
    fn plan_extension<'life0, 'life1, 'life2, 'life3, 'life4, 'life5, 'life6, 'async_trait>(
        &'life0 self,
        planner: &'life1 dyn PhysicalPlanner,
        node: &'life2 dyn UserDefinedLogicalNode,
        logical_inputs: &'life3 [&'life4 LogicalPlan],
        physical_inputs: &'life5 [Arc<dyn ExecutionPlan>],
        state: &'life6 SessionState,
    ) -> Planned<'async_trait, Option<Arc<dyn ExecutionPlan>>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        'life3: 'async_trait,
        'life4: 'async_trait,
        'life5: 'async_trait,
        'life6: 'async_trait,
        Self: 'async_trait,
    {
        let node = node.as_any();
        let planned = if let Some(join) = node.downcast_ref::<AsOfJoinNode>() {
            plan_join(planner, join, logical_inputs, physical_inputs, state).map(Some)
        } else if let Some(join) = node.downcast_ref::<LookupJoinNode>() {
            plan_lookup_join(planner, join, logical_inputs, physical_inputs, state).map(Some)
        } else {
            Ok(None)
        };
        Box::pin(std::future::ready(planned))
    }
}

fn plan_join(
    planner: &dyn PhysicalPlanner,
    join: &AsOfJoinNode,
    logical_inputs: &[&LogicalPlan],
    physical_inputs: &[Arc<dyn ExecutionPlan>],
    state: &SessionState,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    let ([left, right_logical], [spine, right]) = (logical_inputs, physical_inputs) else {
        return Err(DataFusionError::Internal("an as-of join has two inputs".into()));
    };
    let external = |error: Error| DataFusionError::External(Box::new(error));
    let asked = &join.asked;
    let over_left = |expr: &Expr| planner.create_physical_expr(expr, left.schema(), state);
    let keys = asked.keys.iter().map(over_left).collect::<DfResult<Vec<_>>>()?;
    let instant = over_left(&asked.instant)?;
    if let Some(known_at) = asked.known_at.as_ref().filter(|known_at| known_at.column_refs().is_empty())
        && let Some(known_at) = resolve(known_at, state).map_err(external)?
        && let Some(now) = state.execution_props().query_execution_start_time
    {
        let now = CommitTime::from_micros(now.timestamp_micros());
        refuse_future(CommitTime::from_micros(known_at.micros()), now).map_err(external)?;
    }
    let known_at = asked.known_at.as_ref().map(over_left).transpose()?;
    let within = asked.within.as_ref().map(|within| length(within, state)).transpose().map_err(external)?;
    let (source, columns, window) = match &asked.right {
        None => {
            let Some((source, places)) = source(right) else {
                return Err(DataFusionError::Internal("an as-of join's right side is a feature view".into()));
            };
            let (view, reader, projection, window) = source.parts();
            let columns = places.into_iter().map(|place| projection[place]).collect();
            (AsOfSource::View { view: Arc::clone(view), reader: reader.clone() }, columns, window)
        }
        Some(right_side) => {
            let over_right = |expr: &Expr| planner.create_physical_expr(expr, right_logical.schema(), state);
            let ties = right_side.ties.iter().map(|tie| &tie.expr);
            let asked_of = right_side.keys.iter().chain([&right_side.order]).chain(ties);
            let computed = asked_of.map(over_right).collect::<DfResult<Vec<_>>>()?;
            let width = right.schema().fields().len();
            let plan = with_columns(right, computed)?;
            let order = width + right_side.keys.len();
            // The row that the sort puts first is the greatest in the opposite order.
            let options = |tie: &Sort| SortOptions { descending: tie.asc, nulls_first: !tie.nulls_first };
            let ties = right_side.ties.iter().map(options).enumerate();
            let ties = ties.map(|(place, options)| (order + 1 + place, options)).collect();
            let source = AsOfSource::Relation { plan, keys: (width..order).collect(), order, ties };
            (source, (0..width).collect(), None)
        }
    };
    let whole = datafusion::logical_expr::UserDefinedLogicalNodeCore::schema(join);
    let condition = asked.condition.as_ref().map(|expr| planner.create_physical_expr(expr, whole, state)).transpose()?;
    let fields = whole.fields().iter().skip(left.schema().fields().len()).cloned().collect();
    let reach = Reach { direction: asked.direction, bound: asked.bound, window: Ttl::shorter(window, within) };
    let joined = AsOfSide { source, keys, instant, known_at, reach, columns, fields, condition, kind: asked.kind };
    united(spine, joined)
}

/// The join of `spine` with one more side. Where `spine` is such a join itself, under a choice of its columns or not, and the new
/// side asks with nothing but that join's left side, one operator does both.
fn united(spine: &Arc<dyn ExecutionPlan>, side: AsOfSide) -> DfResult<Arc<dyn ExecutionPlan>> {
    let (join, places) = match spine.downcast_ref::<ProjectionExec>() {
        Some(projection) => (projection.input(), column_places(projection)),
        None => (spine, Some((0..spine.schema().fields().len()).collect())),
    };
    let (Some(join), Some(places)) = (join.downcast_ref::<AsOfJoinExec>(), places) else {
        return Ok(Arc::new(AsOfJoinExec::new(Arc::clone(spine), vec![side])));
    };
    let below = join.spine().schema().fields().len();
    let over_spine = |expr: &Arc<dyn PhysicalExpr>| collect_columns(expr).iter().all(|column| places[column.index()] < below);
    if !side.keys.iter().chain([&side.instant]).chain(&side.known_at).all(over_spine) {
        return Ok(Arc::new(AsOfJoinExec::new(Arc::clone(spine), vec![side])));
    }
    let (shown, width) = (places.len(), join.schema().fields().len());
    let place = |column: usize| if column < shown { places[column] } else { width + column - shown };
    let moved = |expr: Arc<dyn PhysicalExpr>| {
        let moved = expr.transform_up(|expr| match expr.downcast_ref::<Column>() {
            Some(column) => {
                let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(column.name(), place(column.index())));
                Ok(Transformed::yes(column))
            }
            None => Ok(Transformed::no(expr)),
        });
        moved.map(|moved| moved.data)
    };
    let fields = side.fields.len();
    let mut sides = join.sides().to_vec();
    sides.push(AsOfSide {
        keys: side.keys.into_iter().map(moved).collect::<DfResult<_>>()?,
        instant: moved(side.instant)?,
        known_at: side.known_at.map(moved).transpose()?,
        condition: side.condition.map(moved).transpose()?,
        ..side
    });
    let united: Arc<dyn ExecutionPlan> = Arc::new(AsOfJoinExec::new(Arc::clone(join.spine()), sides));
    if shown == width && places.iter().enumerate().all(|(place, below)| place == *below) {
        return Ok(united);
    }
    let names = spine.schema();
    let exprs = (0..shown + fields).map(|column| {
        let below = united.schema();
        let alias = names.fields().get(column).map_or_else(|| below.field(place(column)).name(), |field| field.name()).clone();
        let expr: Arc<dyn PhysicalExpr> = Arc::new(Column::new(below.field(place(column)).name(), place(column)));
        ProjectionExpr { expr, alias }
    });
    Ok(Arc::new(ProjectionExec::try_new(exprs.collect::<Vec<_>>(), Arc::clone(&united))?))
}

/// The places of a projection's columns below it; `None` where it computes.
pub(super) fn column_places(projection: &ProjectionExec) -> Option<Vec<usize>> {
    projection.expr().iter().map(|expr| Some(expr.expr.downcast_ref::<Column>()?.index())).collect()
}

/// `plan` with these columns behind its own.
fn with_columns(plan: &Arc<dyn ExecutionPlan>, computed: Vec<Arc<dyn PhysicalExpr>>) -> DfResult<Arc<dyn ExecutionPlan>> {
    let own = plan
        .schema()
        .fields()
        .iter()
        .enumerate()
        .map(|(place, field)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), place));
            (column, field.name().clone())
        })
        .collect::<Vec<_>>();
    let computed = computed.into_iter().enumerate().map(|(place, expr)| (expr, format!("\u{1f}{place}")));
    let exprs = own.into_iter().chain(computed).map(|(expr, alias)| ProjectionExpr { expr, alias });
    Ok(Arc::new(ProjectionExec::try_new(exprs.collect::<Vec<_>>(), Arc::clone(plan))?))
}

/// The view at the bottom of a right side, and the places of its columns there.
fn source(plan: &Arc<dyn ExecutionPlan>) -> Option<(&AsOfSourceExec, Vec<usize>)> {
    if let Some(source) = plan.downcast_ref::<AsOfSourceExec>() {
        let places = (0..plan.schema().fields().len()).collect();
        return Some((source, places));
    }
    let projection = plan.downcast_ref::<ProjectionExec>()?;
    let (found, below) = source(projection.input())?;
    let places = column_places(projection)?.into_iter().map(|column| below.get(column).copied());
    Some((found, places.collect::<Option<_>>()?))
}
