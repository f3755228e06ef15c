//! PostgreSQL's own way to ask as of: `LEFT JOIN LATERAL (SELECT … FROM r WHERE r.k = l.k AND r.t <= l.t ORDER BY r.t DESC
//! LIMIT 1) f ON true`.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DfResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{Expr, Join, JoinType, LogicalPlan, Projection};

use super::StatementContext;
use super::as_of_join::conditions;
use super::choice::Choice;
use super::correlated::{Correlated, columns_of, number};
use super::errors::from_datafusion;
use crate::error::Result;
use crate::executor::AsOfKind;

/// What a lateral join whose subquery has a `LIMIT` is without one; `None` for any other join.
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
    let Some(correlated) = limited(&subquery.subquery).map_err(from_datafusion)? else { return Ok(None) };
    let Some(joined) = correlated.join_to(&join.left, kind, state, context)? else { return Ok(None) };
    let given = join.right.schema().columns().into_iter().zip(joined.outputs);
    let given = given.map(|(column, output)| output.alias_qualified(alias.clone().or(column.relation), column.name));
    let columns = columns_of(join.left.schema()).into_iter().chain(given).collect();
    let plan = Projection::try_new(columns, Arc::new(joined.plan)).map_err(from_datafusion)?;
    Ok(Some(LogicalPlan::Projection(plan)))
}

/// Takes `LIMIT` over `ORDER BY` over `WHERE` apart.
pub(super) fn limited(subquery: &LogicalPlan) -> DfResult<Option<Correlated>> {
    let LogicalPlan::Limit(limit) = subquery else { return Ok(None) };
    let fetch = limit.fetch.as_deref().map(number);
    let skip = limit.skip.as_deref().map_or(Some(0), number);
    let (Some(skip), None | Some(Some(_))) = (skip, fetch) else { return Ok(None) };
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
            LogicalPlan::Filter(filter) => {
                let choice = Choice { base: filter.input.as_ref().clone(), conditions: vec![filter.predicate.clone()], sorts };
                return Ok(Some(Correlated { choice, outputs, skip, fetch: fetch.flatten() }));
            }
            _ => return Ok(None),
        }
    }
}

/// An expression over a projection, over the projection's input.
pub(super) fn below(expr: Expr, projection: &Projection) -> DfResult<Expr> {
    expr.transform_up(|expr| {
        let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
        let Some(place) = projection.schema.maybe_index_of_column(column) else { return Ok(Transformed::no(expr)) };
        Ok(Transformed::yes(projection.expr[place].clone().unalias()))
    })
    .map(|expr| expr.data)
}
