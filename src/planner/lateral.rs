//! PostgreSQL's own way to ask as of: `LEFT JOIN LATERAL (SELECT … FROM r WHERE r.k = l.k AND r.t <= l.t ORDER BY r.t DESC
//! LIMIT 1) f ON true`.
//!
//! DataFusion cannot run a correlated `LIMIT`. Where the subquery chooses the one row of `r` nearest to an instant of the left
//! side, it is an as-of join; everything else is left as it is.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue, TableReference};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::Result as DfResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{BinaryExpr, Cast, Sort};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, ExprSchemable, Extension, Filter, Join, JoinType, LogicalPlan, LogicalPlanBuilder, Operator, Projection, SubqueryAlias,
};

use super::StatementContext;
use super::as_of_join::{bind_keys, conditions, known_at};
use super::errors::from_datafusion;
use super::instant::contains_subquery;
use super::literals;
use super::match_condition::{Inequality, Sides, comparable, inequality_between, key_pair, sides};
use super::moment::{At, Moment};
use super::nodes::{AsOfJoinNode, Asked, AskedOf};
use super::provider::RelationProvider;
use crate::error::Result;
use crate::executor::{AsOfKind, Direction};
use crate::offline::CREATED_TIME;
use crate::registry::FeatureView;
use crate::types::SqlType;

/// What opens the names of columns that are computed on the right side.
const COMPUTED: char = '\u{1f}';

/// The subquery of a lateral join, taken apart: it gives `outputs` of the first row of `base`, by `sorts`, for which all
/// conditions hold. Columns of the left side are plain columns in them.
struct Choice {
    base: LogicalPlan,
    conditions: Vec<Expr>,
    sorts: Vec<Sort>,
    outputs: Vec<Expr>,
}

/// The as-of join that a lateral join is; `None` where it is none.
pub(super) fn lateral_join(join: &Join, state: &SessionState, context: &Arc<StatementContext>) -> Result<Option<LogicalPlan>> {
    let kind = match join.join_type {
        JoinType::Left => AsOfKind::Left,
        JoinType::Inner => AsOfKind::Inner,
        _ => return Ok(None),
    };
    if !conditions(join).is_empty() {
        return Ok(None);
    }
    let (alias, plan) = match join.right.as_ref() {
        LogicalPlan::SubqueryAlias(alias) => (Some(alias.alias.clone()), alias.input.as_ref()),
        plan => (None, plan),
    };
    let LogicalPlan::Subquery(subquery) = plan else { return Ok(None) };
    let Some(choice) = take_apart(&subquery.subquery).map_err(from_datafusion)? else { return Ok(None) };
    let Some((base, asked)) = question(&choice, join.left.schema(), kind, state, context)? else { return Ok(None) };
    joined(join, alias.as_ref(), &choice, base, asked).map(Some).map_err(from_datafusion)
}

/// Takes `LIMIT 1` over `ORDER BY` over `WHERE` apart.
fn take_apart(subquery: &LogicalPlan) -> DfResult<Option<Choice>> {
    let LogicalPlan::Limit(limit) = subquery else { return Ok(None) };
    let is_number =
        |expr: &Expr, wanted: i64| matches!(expr, Expr::Literal(ScalarValue::Int64(Some(number)), _) if *number == wanted);
    let one = limit.fetch.as_deref().is_some_and(|fetch| is_number(fetch, 1));
    let from_start = limit.skip.as_deref().is_none_or(|skip| is_number(skip, 0));
    if !one || !from_start {
        return Ok(None);
    }
    let mut outputs: Vec<Expr> = columns_of(subquery.schema());
    let mut sorts = Vec::new();
    let mut plan = limit.input.as_ref();
    loop {
        match plan {
            LogicalPlan::Projection(projection) => {
                outputs = outputs.into_iter().map(|expr| below(expr, projection)).collect::<DfResult<_>>()?;
                let below_sort = |sort: Sort| Ok(Sort { expr: below(sort.expr, projection)?, ..sort });
                sorts = sorts.into_iter().map(below_sort).collect::<DfResult<_>>()?;
                plan = projection.input.as_ref();
            }
            LogicalPlan::Sort(sort) if sorts.is_empty() && sort.fetch.is_none() => {
                sorts.clone_from(&sort.expr);
                plan = sort.input.as_ref();
            }
            LogicalPlan::Filter(filter) if !sorts.is_empty() => {
                let base = filter.input.as_ref().clone();
                if has_outer_columns(&base)? || outputs.iter().chain(sorts.iter().map(|sort| &sort.expr)).any(reads_outside) {
                    return Ok(None);
                }
                let conditions = split_conjunction_owned(filter.predicate.clone());
                let conditions = conditions.into_iter().map(inside_out).collect::<DfResult<_>>()?;
                return Ok(Some(Choice { base, conditions, sorts, outputs }));
            }
            _ => return Ok(None),
        }
    }
}

fn columns_of(schema: &DFSchema) -> Vec<Expr> {
    schema.columns().into_iter().map(Expr::Column).collect()
}

/// An expression over a projection, over the projection's input.
fn below(expr: Expr, projection: &Projection) -> DfResult<Expr> {
    expr.transform_up(|expr| {
        let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
        let Some(place) = projection.schema.maybe_index_of_column(column) else { return Ok(Transformed::no(expr)) };
        Ok(Transformed::yes(projection.expr[place].clone().unalias()))
    })
    .map(|expr| expr.data)
}

fn reads_outside(expr: &Expr) -> bool {
    contains_subquery(expr) || expr.is_volatile()
}

fn has_outer_columns(plan: &LogicalPlan) -> DfResult<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= node.contains_outer_reference();
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Columns of the left side as plain columns.
fn inside_out(expr: Expr) -> DfResult<Expr> {
    expr.transform_up(|expr| match expr {
        Expr::OuterReferenceColumn(_, column) => Ok(Transformed::yes(Expr::Column(column))),
        expr => Ok(Transformed::no(expr)),
    })
    .map(|expr| expr.data)
}

/// The question that a choice asks, and the relation it is asked of.
fn question(
    choice: &Choice,
    left: &DFSchema,
    kind: AsOfKind,
    state: &SessionState,
    context: &Arc<StatementContext>,
) -> Result<Option<(LogicalPlan, Asked)>> {
    let right = choice.base.schema();
    // A name that both sides have could mean either.
    if right.columns().iter().any(|column| left.maybe_index_of_column(column).is_some())
        || choice.conditions.iter().any(contains_subquery)
    {
        return Ok(None);
    }
    let (mut equalities, mut inequalities) = (Vec::new(), Vec::new());
    let (mut of_left, mut of_right) = (Vec::new(), Vec::new());
    for condition in &choice.conditions {
        match sides(condition, left, right) {
            Sides::Left | Sides::Neither => of_left.push(condition.clone()),
            Sides::Right => of_right.push(condition.clone()),
            Sides::Both => match (key_pair(condition, left, right), inequality_between(condition, left, right)) {
                (Some(pair), _) => equalities.push((condition.clone(), pair)),
                (None, Some(inequality)) => inequalities.push(inequality),
                (None, None) => return Ok(None),
            },
        }
    }
    let Some((first, ties)) = choice.sorts.split_first() else { return Ok(None) };
    let Some((inequality, within)) = nearest(first, inequalities) else { return Ok(None) };
    let base_asked = |keys, instant, known_at, right| Asked {
        keys,
        instant,
        known_at,
        within: within.clone(),
        right,
        condition: conjunction(of_left.clone()),
        direction: inequality.direction,
        bound: inequality.bound,
        kind,
    };
    if let Some((view, base)) = as_view(choice, &inequality, ties, context)?
        && of_right.is_empty()
        && let Ok((keys, rest)) =
            bind_keys(&view, left, right, equalities.iter().map(|(condition, _)| condition.clone()).collect())
        && rest.is_empty()
        && inequality.left.get_type(left).map_err(from_datafusion)? == SqlType::TimestampTz.arrow()
    {
        let known_at = known_at(None, left, state, context)?;
        return Ok(Some((base, base_asked(keys, inequality.left.clone(), known_at, None))));
    }
    let pairs = equalities
        .into_iter()
        .map(|(_, (of_left, of_right))| comparable((of_left, left), (of_right, right), "=", &context.time_zone));
    let (keys, right_keys): (Vec<_>, Vec<_>) = pairs.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let (instant, order) =
        comparable((inequality.left.clone(), left), (inequality.right.clone(), right), inequality.operator, &context.time_zone)?;
    let right_side = AskedOf { keys: right_keys, order, ties: ties.to_vec() };
    let base = match conjunction(of_right) {
        None => choice.base.clone(),
        Some(filter) => LogicalPlan::Filter(Filter::try_new(filter, Arc::new(choice.base.clone())).map_err(from_datafusion)?),
    };
    Ok(Some((base, base_asked(keys, instant, None, Some(right_side)))))
}

/// The inequality that the first sort key goes with, and the window that a second one leaves: `r.t >= l.t - interval`.
fn nearest(first: &Sort, inequalities: Vec<Inequality>) -> Option<(Inequality, Option<Expr>)> {
    let direction = if first.asc { Direction::Forward } else { Direction::Backward };
    let (mut main, mut other): (Vec<_>, Vec<_>) =
        inequalities.into_iter().partition(|inequality| inequality.direction == direction && inequality.right == first.expr);
    let main = match (main.pop(), main.is_empty()) {
        (Some(main), true) => main,
        _ => return None,
    };
    let away = if first.asc { Operator::Plus } else { Operator::Minus };
    match (other.pop(), other.is_empty()) {
        (None, _) => Some((main, None)),
        (Some(limit), true) => {
            // Both ends count, as they do in a window.
            let inclusive = limit.right == first.expr && limit.bound == crate::executor::Bound::Inclusive;
            let Expr::BinaryExpr(BinaryExpr { left, op, right }) = &limit.left else { return None };
            let is_window = inclusive && *op == away && **left == main.left && is_fixed_length(right);
            is_window.then(|| (main, Some(right.as_ref().clone())))
        }
        (Some(_), false) => None,
    }
}

/// Whether an expression is an interval that a window may have.
fn is_fixed_length(expr: &Expr) -> bool {
    let interval = match expr {
        Expr::Literal(value, _) => Ok(value.clone()),
        Expr::Cast(Cast { expr, field }) if matches!(field.data_type(), DataType::Interval(_)) => match expr.as_ref() {
            Expr::Literal(ScalarValue::Utf8(Some(text)), _) => {
                literals::read(text, &SqlType::Interval, &SqlType::Interval.arrow(), "UTC")
            }
            _ => return false,
        },
        _ => return false,
    };
    matches!(interval, Ok(ScalarValue::IntervalMonthDayNano(Some(interval)))
        if interval.months == 0 && interval.days >= 0 && interval.nanoseconds >= 0)
}

/// The feature view whose history the choice is made from, as an as-of join reads it: by event time, the last correction
/// first, and none of the columns that only the history has.
fn as_view(
    choice: &Choice,
    inequality: &Inequality,
    ties: &[Sort],
    context: &Arc<StatementContext>,
) -> Result<Option<(Arc<FeatureView>, LogicalPlan)>> {
    let is_created = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == CREATED_TIME);
    let is_correction = |tie: &Sort| is_created(&tie.expr) && !tie.asc;
    let reads_created = choice.outputs.iter().flat_map(Expr::column_refs).any(|column| column.name == CREATED_TIME);
    let computes = choice.outputs.iter().any(|output| !matches!(output, Expr::Column(_)));
    if !matches!(ties, [] | [_]) || !ties.iter().all(is_correction) || reads_created || computes {
        return Ok(None);
    }
    let Some((view, plan)) = history_as_view(&choice.base, context)? else { return Ok(None) };
    let by_event_time = matches!(&inequality.right, Expr::Column(column) if column.name == view.event_time);
    Ok(by_event_time.then_some((view, plan)))
}

fn history_as_view(plan: &LogicalPlan, context: &Arc<StatementContext>) -> Result<Option<(Arc<FeatureView>, LogicalPlan)>> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => {
            let Some((view, input)) = history_as_view(&alias.input, context)? else { return Ok(None) };
            let alias = SubqueryAlias::try_new(Arc::new(input), alias.alias.clone()).map_err(from_datafusion)?;
            Ok(Some((view, LogicalPlan::SubqueryAlias(alias))))
        }
        LogicalPlan::TableScan(scan) => {
            let Ok(provider) = source_as_provider(&scan.source) else { return Ok(None) };
            let Some(view) = provider.downcast_ref::<RelationProvider>().and_then(RelationProvider::as_history) else {
                return Ok(None);
            };
            // A history has no TTL.
            let moment = Moment { at: At::OfMatch(None), window: None, known_at: None, version: None };
            let relation = RelationProvider::view(context, view, moment);
            let scan = LogicalPlanBuilder::scan(scan.table_name.clone(), provider_as_source(Arc::new(relation)), None);
            let plan = scan.and_then(LogicalPlanBuilder::build).map_err(from_datafusion)?;
            Ok(Some((Arc::clone(view), plan)))
        }
        _ => Ok(None),
    }
}

/// The as-of join, with the columns that the lateral join had.
fn joined(
    join: &Join,
    alias: Option<&TableReference>,
    choice: &Choice,
    base: LogicalPlan,
    asked: Asked,
) -> DfResult<LogicalPlan> {
    let computed = choice.outputs.iter().enumerate().map(|(place, output)| output.clone().alias(format!("{COMPUTED}{place}")));
    let right = Projection::try_new(columns_of(base.schema()).into_iter().chain(computed).collect(), Arc::new(base))?;
    let node = AsOfJoinNode::new(join.left.as_ref().clone(), LogicalPlan::Projection(right), asked)?;
    let node = LogicalPlan::Extension(Extension { node: Arc::new(node) });
    let given = join.right.schema().columns().into_iter().enumerate().map(|(place, column)| {
        let computed = Expr::Column(Column::new_unqualified(format!("{COMPUTED}{place}")));
        computed.alias_qualified(alias.cloned().or(column.relation), column.name)
    });
    let columns = columns_of(join.left.schema()).into_iter().chain(given).collect();
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(node))?))
}
