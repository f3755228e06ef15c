//! From a join whose right side is a feature view with a clause over left columns to an [`AsOfJoinNode`].

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result as DfResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{BinaryExpr, Cast, TryCast};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, ExprSchemable, Extension, Filter, Join, JoinType, LogicalPlan, Operator};
use datafusion::optimizer::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion::sql::sqlparser::ast;

use super::StatementContext;
use super::errors::from_datafusion;
use super::instant::{contains_subquery, instant};
use super::moment::interval;
use super::nodes::{AsOfJoinNode, Asked};
use crate::error::{Error, Result, SqlState};
use crate::executor::{AsOfKind, Bound, Direction};
use crate::parser::TimeClause;
use crate::registry::{FeatureView, KeyColumn, ObjectKind};
use crate::types::SqlType;

/// The as-of join that `join` asks for; its right side is `view` with this clause.
pub(super) fn as_of_join(
    join: &Join,
    view: &FeatureView,
    clause: &TimeClause,
    state: &SessionState,
    context: &StatementContext,
) -> Result<AsOfJoinNode> {
    let asked = asked(join, &Keyed::from(view), clause, state, context)?;
    AsOfJoinNode::new(join.left.as_ref().clone(), join.right.as_ref().clone(), asked).map_err(from_datafusion)
}

/// What is asked by key: its first columns are the keys.
#[derive(Clone, Copy)]
pub(super) struct Keyed<'a> {
    pub(super) kind: ObjectKind,
    pub(super) name: &'a str,
    pub(super) keys: &'a [KeyColumn],
}

impl<'a> From<&'a FeatureView> for Keyed<'a> {
    fn from(view: &'a FeatureView) -> Self {
        Self { kind: ObjectKind::FeatureView, name: &view.name, keys: &view.keys }
    }
}

impl Keyed<'_> {
    fn unbound(&self, key: &KeyColumn) -> Error {
        let Self { kind, name, .. } = self;
        Error::unsupported(format!("an AS OF join that does not bind the key \"{}\" of {kind} \"{name}\"", key.name))
            .hint(format!("Add an equality on \"{}\" to ON, or name it in USING.", key.name))
    }
}

/// What a join with this clause asks of its right side.
pub(super) fn asked(
    join: &Join,
    right: &Keyed<'_>,
    clause: &TimeClause,
    state: &SessionState,
    context: &StatementContext,
) -> Result<Asked> {
    let kind = match join.join_type {
        JoinType::Left => AsOfKind::Left,
        JoinType::Inner => AsOfKind::Inner,
        other => {
            return Err(Error::unsupported(format!("AS OF a column on the right side of a {other} JOIN"))
                .hint("Use LEFT JOIN or INNER JOIN, with the feature view on the right."));
        }
    };
    let left = join.left.schema();
    let (known_at, within) = (known_at(Some(clause), left, state, context)?, within(clause.within.as_ref(), "WITHIN", state)?);
    let as_of = clause.as_of.as_ref().map(|as_of| over_left(as_of, left, state, context)).transpose()?;
    // A system time alone asks what a read at that time answered.
    let instant = as_of.or_else(|| known_at.clone()).ok_or_else(|| Error::internal("an as-of join without an instant"))?;
    let conditions = conditions(join);
    if let (true, Some(key)) = (conditions.is_empty(), right.keys.first()) {
        return Err(right.unbound(key).hint("Use LEFT JOIN … ON f.key = l.key; CROSS JOIN and the comma bind no key."));
    }
    let (keys, rest) = bind_keys(right, left, join.right.schema(), conditions)?;
    if rest.iter().any(contains_subquery) {
        return Err(Error::unsupported("a subquery in the ON clause of a join with AS OF").hint("Put it into WHERE."));
    }
    Ok(Asked {
        keys,
        instant,
        known_at,
        within,
        right: None,
        condition: conjunction(rest),
        direction: Direction::Backward,
        bound: Bound::Inclusive,
        kind,
    })
}

/// What is known is told by the clause, or else by the session.
pub(super) fn known_at(
    clause: Option<&TimeClause>,
    left: &DFSchema,
    state: &SessionState,
    context: &StatementContext,
) -> Result<Option<Expr>> {
    match (clause.and_then(|clause| clause.system_time.as_ref()), context.system_time) {
        (Some(written), _) => over_left(written, left, state, context).map(Some),
        (None, Some(_)) if clause.is_some_and(|clause| clause.version.is_some()) => Ok(None),
        (None, Some(known_at)) => {
            let value = ScalarValue::TimestampMicrosecond(Some(known_at.micros()), Some("UTC".into()));
            Ok(Some(Expr::Literal(value, None)))
        }
        (None, None) => Ok(None),
    }
}

/// An instant over the left side.
fn over_left(written: &ast::Expr, left: &DFSchema, state: &SessionState, context: &StatementContext) -> Result<Expr> {
    let written = ast::ExprWithAlias { expr: written.clone(), alias: None };
    let expr = state.create_logical_expr_from_sql_expr(written, left).map_err(from_datafusion)?;
    instant(expr, left, &context.time_zone)
}

/// A limit on the distance, which no column may decide.
pub(super) fn within(written: Option<&ast::Expr>, what: &str, state: &SessionState) -> Result<Option<Expr>> {
    let Some(written) = written else { return Ok(None) };
    let written = ast::ExprWithAlias { expr: written.clone(), alias: None };
    let expr = state.create_logical_expr_from_sql_expr(written, &DFSchema::empty()).map_err(from_datafusion)?;
    interval(expr, what).map(Some)
}

/// What `ON` and `USING` say, piece by piece; what is always true says nothing.
pub(super) fn conditions(join: &Join) -> Vec<Expr> {
    let equal = |(left, right): &(Expr, Expr)| {
        Expr::BinaryExpr(BinaryExpr::new(Box::new(left.clone()), Operator::Eq, Box::new(right.clone())))
    };
    let filters = join.filter.iter().flat_map(|filter| split_conjunction_owned(filter.clone()));
    let all = join.on.iter().map(equal).chain(filters);
    all.filter(|part| !matches!(part, Expr::Literal(ScalarValue::Boolean(Some(true)), _))).collect()
}

/// Takes the equality that binds each entity key out of `conditions`; gives the keys' values over the left side, and the
/// conditions that remain.
pub(super) fn bind_keys(
    keyed: &Keyed<'_>,
    left: &DFSchema,
    right: &DFSchema,
    conditions: Vec<Expr>,
) -> Result<(Vec<Expr>, Vec<Expr>)> {
    let mut keys: Vec<Option<Expr>> = vec![None; keyed.keys.len()];
    let mut rest = Vec::new();
    for condition in conditions {
        match key_equality(keyed.keys.len(), left, right, &condition) {
            Some((place, value)) if keys[place].is_none() => {
                keys[place] = Some(as_key(value, &keyed.keys[place], left)?);
            }
            _ => rest.push(condition),
        }
    }
    let keys = keys.into_iter().zip(keyed.keys).map(|(value, key)| value.ok_or_else(|| keyed.unbound(key)));
    Ok((keys.collect::<Result<_>>()?, rest))
}

/// Which key an equality binds, and to what of the left side.
fn key_equality(keys: usize, left: &DFSchema, right: &DFSchema, condition: &Expr) -> Option<(usize, Expr)> {
    let Expr::BinaryExpr(BinaryExpr { left: first, op: Operator::Eq, right: second }) = condition else { return None };
    let key = |expr: &Expr| match expr {
        // The right side keeps the view's columns in place, whatever it calls them.
        Expr::Column(column) => right.maybe_index_of_column(column).filter(|place| *place < keys),
        _ => None,
    };
    let from_left = |expr: &Expr| {
        let columns = expr.column_refs();
        !contains_subquery(expr) && columns.iter().all(|column| left.maybe_index_of_column(column).is_some())
    };
    match (key(first), key(second)) {
        (Some(place), None) if from_left(second) => Some((place, second.as_ref().clone())),
        (None, Some(place)) if from_left(first) => Some((place, first.as_ref().clone())),
        _ => None,
    }
}

/// A value of the left side as a key: types that PostgreSQL compares with each other, and no others. A number that the
/// key's type cannot hold matches nothing.
fn as_key(value: Expr, key: &KeyColumn, left: &DFSchema) -> Result<Expr> {
    let from = value.get_type(left).map_err(from_datafusion)?;
    let target = key.data_type.arrow();
    if from == target {
        return Ok(value);
    }
    let is_text = |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let cast = |value: Expr| Expr::Cast(Cast::new(Box::new(value), target.clone()));
    match (&from, &target) {
        (DataType::Null, _) => Ok(cast(value)),
        (from, target) if is_text(from) && is_text(target) => Ok(cast(value)),
        (from, _) if is_text(from) && matches!(value, Expr::Literal(..)) => Ok(cast(value)),
        (from, target) if from.is_integer() && target.is_integer() => {
            Ok(Expr::TryCast(TryCast::new(Box::new(value), target.clone())))
        }
        (DataType::Timestamp(..) | DataType::Date32, DataType::Timestamp(..)) => Ok(cast(value)),
        (DataType::Binary | DataType::LargeBinary | DataType::BinaryView, DataType::Binary) => Ok(cast(value)),
        _ => {
            let from = SqlType::of_arrow(&from).map_or_else(|| from.to_string(), |sql_type| sql_type.name());
            Err(Error::new(SqlState::UndefinedFunction, format!("operator does not exist: {} = {from}", key.data_type))
                .hint("No operator matches the given types. You might need to add explicit type casts."))
        }
    }
}

/// Moves a filter on the left side of an as-of join below it. A filter on the right side stays: below, it would choose
/// another row.
#[derive(Debug)]
pub(super) struct FilterBelowAsOfJoin;

impl OptimizerRule for FilterBelowAsOfJoin {
    fn name(&self) -> &'static str {
        "filter_below_as_of_join"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        let LogicalPlan::Filter(filter) = &plan else { return Ok(Transformed::no(plan)) };
        let LogicalPlan::Extension(extension) = filter.input.as_ref() else { return Ok(Transformed::no(plan)) };
        let Some(join) = extension.node.as_any().downcast_ref::<AsOfJoinNode>() else { return Ok(Transformed::no(plan)) };
        let left = join.left.schema();
        let is_left = |column: &&Column| left.maybe_index_of_column(column).is_some();
        let (below, above): (Vec<Expr>, Vec<Expr>) = split_conjunction_owned(filter.predicate.clone())
            .into_iter()
            .partition(|part| !part.is_volatile() && part.column_refs().iter().all(is_left));
        let Some(below) = conjunction(below) else { return Ok(Transformed::no(plan)) };
        let mut node = join.clone();
        node.left = LogicalPlan::Filter(Filter::try_new(below, Arc::new(node.left))?);
        let join = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(Transformed::yes(match conjunction(above) {
            None => join,
            Some(above) => LogicalPlan::Filter(Filter::try_new(above, Arc::new(join))?),
        }))
    }
}
