//! Scalar subqueries that choose a row by what the outer row holds: `(SELECT r.x FROM r WHERE r.k = l.k AND r.t <= l.t ORDER BY
//! r.t DESC LIMIT 1)`.
//!
//! The parser room has made an aggregate of it, `first_value(r.x ORDER BY r.t DESC)`, if it has no `OFFSET`. Subqueries that
//! choose the same row share one join.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DfResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{AggregateFunction, BinaryExpr};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator, Projection};

use super::StatementContext;
use super::choice::{Choice, pieces};
use super::correlated::{Correlated, columns_of};
use super::errors::from_datafusion;
use super::lateral::limited;
use crate::error::Result;
use crate::executor::AsOfKind;

/// A scalar subquery taken apart.
struct Scalar {
    /// As it stands in the node's expressions.
    subquery: Expr,
    /// Which of the joins has its row, and which of that join's outputs is its value.
    join: usize,
    output: usize,
    /// What becomes of the value, which is its one column.
    shown: Expr,
}

/// `node` with its scalar subqueries that choose a row joined below it; `None` where it has none.
pub(super) fn scalar_subqueries(
    node: &LogicalPlan,
    state: &SessionState,
    context: &Arc<StatementContext>,
) -> Result<Option<LogicalPlan>> {
    // Nodes whose input's columns show above them.
    let keeps_columns = matches!(node, LogicalPlan::Filter(_) | LogicalPlan::Sort(_) | LogicalPlan::Window(_));
    let computes = matches!(node, LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_));
    if !keeps_columns && !computes {
        return Ok(None);
    }
    let [input] = node.inputs()[..] else { return Ok(None) };
    let (scalars, joins) = found(node).map_err(from_datafusion)?;
    if scalars.is_empty() {
        return Ok(None);
    }
    let mut plan = input.clone();
    let mut outputs = Vec::new();
    for join in joins {
        match join.join_to(&plan, AsOfKind::Left, state, context)? {
            Some(joined) => {
                plan = joined.plan;
                outputs.push(Some(joined.outputs));
            }
            None => outputs.push(None),
        }
    }
    let mut values = Vec::new();
    for scalar in scalars {
        let Some(outputs) = &outputs[scalar.join] else { continue };
        let value = scalar.shown.transform_up(|expr| match expr {
            Expr::Column(_) => Ok(Transformed::yes(outputs[scalar.output].clone())),
            expr => Ok(Transformed::no(expr)),
        });
        values.push((scalar.subquery, value.map_err(from_datafusion)?.data));
    }
    if values.is_empty() {
        return Ok(None);
    }
    rebuilt(node, plan, &values, keeps_columns).map(Some).map_err(from_datafusion)
}

/// The scalar subqueries in a node's expressions that can be joined, and the joins.
fn found(node: &LogicalPlan) -> DfResult<(Vec<Scalar>, Vec<Correlated>)> {
    let (mut scalars, mut joins): (Vec<Scalar>, Vec<Correlated>) = (Vec::new(), Vec::new());
    node.apply_expressions(|expr| {
        expr.apply(|expr| {
            let Expr::ScalarSubquery(subquery) = expr else { return Ok(TreeNodeRecursion::Continue) };
            if scalars.iter().any(|scalar| scalar.subquery == *expr) {
                return Ok(TreeNodeRecursion::Continue);
            }
            let Some((correlated, shown)) = take_apart(&subquery.subquery)? else {
                return Ok(TreeNodeRecursion::Continue);
            };
            let same_row = |join: &Correlated| join.choice == correlated.choice && join.skip == correlated.skip;
            let (join, output) = match joins.iter().position(same_row) {
                Some(join) => {
                    joins[join].outputs.extend(correlated.outputs);
                    (join, joins[join].outputs.len() - 1)
                }
                None => {
                    joins.push(correlated);
                    (joins.len() - 1, 0)
                }
            };
            scalars.push(Scalar { subquery: expr.clone(), join, output, shown });
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok((scalars, joins))
}

/// Takes a subquery of one value apart, where DataFusion cannot run it; also gives what becomes of that value.
fn take_apart(subquery: &LogicalPlan) -> DfResult<Option<(Correlated, Expr)>> {
    if let Some(correlated) = limited(subquery)? {
        let mut columns = subquery.schema().columns();
        let only = columns.pop().filter(|_| columns.is_empty() && correlated.fetch == Some(1));
        return Ok(only.map(|column| (correlated, Expr::Column(column))));
    }
    Ok(first_value(subquery))
}

/// Takes `first_value(value ORDER BY …)` over `WHERE` apart, where some condition is more than an equality.
fn first_value(subquery: &LogicalPlan) -> Option<(Correlated, Expr)> {
    let LogicalPlan::Projection(projection) = subquery else { return None };
    let LogicalPlan::Aggregate(aggregate) = projection.input.as_ref() else { return None };
    let LogicalPlan::Filter(filter) = aggregate.input.as_ref() else { return None };
    let [Expr::AggregateFunction(AggregateFunction { func, params })] = aggregate.aggr_expr.as_slice() else { return None };
    let ([value], [shown]) = (params.args.as_slice(), projection.expr.as_slice()) else { return None };
    let is_first = func.name() == "first_value"
        && !params.distinct
        && params.filter.is_none()
        && params.null_treatment.is_none()
        && aggregate.group_expr.is_empty();
    let is_equality = |piece: &Expr| matches!(piece, Expr::BinaryExpr(BinaryExpr { op: Operator::Eq, .. }));
    let conditions = pieces(filter.predicate.clone());
    let only_equalities = conditions.iter().all(|piece| !piece.contains_outer() || is_equality(piece));
    if !is_first || (only_equalities && !value.contains_outer()) {
        return None;
    }
    let choice = Choice { base: filter.input.as_ref().clone(), conditions, sorts: params.order_by.clone() };
    let correlated = Correlated { choice, outputs: vec![value.clone()], skip: 0, fetch: Some(1) };
    Some((correlated, shown.clone().unalias()))
}

/// The node over `input`, which has columns more than the node's, with values in the place of subqueries.
fn rebuilt(node: &LogicalPlan, input: LogicalPlan, values: &[(Expr, Expr)], keeps_columns: bool) -> DfResult<LogicalPlan> {
    let names = NamePreserver::new(node);
    let replaced = node.expressions().into_iter().map(|expr| {
        let name = names.save(&expr);
        let replaced = expr.transform_up(|expr| match values.iter().find(|(subquery, _)| *subquery == expr) {
            Some((_, value)) => Ok(Transformed::yes(value.clone())),
            None => Ok(Transformed::no(expr)),
        });
        replaced.map(|replaced| name.restore(replaced.data))
    });
    let replaced = replaced.collect::<DfResult<Vec<_>>>()?;
    let rebuilt = node.with_new_exprs(replaced, vec![input])?;
    if !keeps_columns {
        return Ok(rebuilt);
    }
    let columns = columns_of(node.schema());
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(rebuilt))?))
}
