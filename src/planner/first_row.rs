//! The first row of each group of a join: `SELECT DISTINCT ON (l.id) … FROM l LEFT JOIN r ON r.k = l.k AND r.t <= l.t ORDER BY
//! l.id, r.t DESC`, and `row_number() OVER (PARTITION BY l.id ORDER BY r.t DESC) = 1`.
//!
//! The join gives every row of `r` up to `l.t`, and all but one are dropped again. Of the rows that one left row gives only the
//! first by the order over `r` can be the first of a group, if that left row's rows are all in one group. So the join becomes an
//! as-of join and what stands above it stays: the answer is right whether or not the groups are single left rows, and whatever
//! else the order names.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result as DfResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{BinaryExpr, Cast, Sort};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    Distinct, Expr, Extension, Filter, Join, JoinType, LogicalPlan, Operator, Projection, Window, WindowFunctionDefinition,
};

use super::StatementContext;
use super::as_of_join::conditions;
use super::choice::{Choice, pieces, reads_outside};
use super::correlated::columns_of;
use super::errors::from_datafusion;
use super::lateral::below;
use super::nodes::AsOfJoinNode;
use crate::error::Result;
use crate::executor::AsOfKind;

/// A `DISTINCT ON`, or a filter for the first row of each group, over as-of joins; `None` where there are none below it.
pub(super) fn first_rows(
    node: &LogicalPlan,
    state: &SessionState,
    context: &Arc<StatementContext>,
) -> Result<Option<LogicalPlan>> {
    match node {
        LogicalPlan::Distinct(Distinct::On(distinct)) => {
            let Some(sorts) = &distinct.sort_expr else { return Ok(None) };
            let mut distinct = distinct.clone();
            let sorts = without_repeats(sorts);
            let order = Order { groups: distinct.on_expr.clone(), sorts: sorts.clone() };
            distinct.sort_expr = Some(sorts);
            let search = Search { state, context };
            if let Some(input) = search.within(&distinct.input, order)? {
                distinct.input = Arc::new(input);
            }
            Ok(Some(LogicalPlan::Distinct(Distinct::On(distinct))))
        }
        LogicalPlan::Filter(filter) => {
            let search = Search { state, context };
            for number in first_numbers(&filter.predicate) {
                if let Some(input) = search.numbered(&filter.input, number)? {
                    return filtered(input, vec![filter.predicate.clone()]).map(Some);
                }
            }
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// Sort keys without those that stand among them before: they decide nothing, and DataFusion cannot run a `DISTINCT ON` that has
/// such.
fn without_repeats(sorts: &[Sort]) -> Vec<Sort> {
    let mut kept: Vec<Sort> = Vec::new();
    for sort in sorts {
        if !kept.iter().any(|earlier| earlier.expr == sort.expr) {
            kept.push(sort.clone());
        }
    }
    kept
}

/// The columns of which a condition says that they are 1, or at most that.
fn first_numbers(predicate: &Expr) -> Vec<Column> {
    let one = |expr: &Expr, number: i64| match expr {
        Expr::Literal(ScalarValue::Int64(Some(value)), _) => *value == number,
        _ => false,
    };
    let number = |piece: Expr| {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = piece else { return None };
        let (column, op, value) = match (*left, *right) {
            (Expr::Column(column), value) => (column, op, value),
            (value, Expr::Column(column)) => (column, op.swap()?, value),
            _ => return None,
        };
        let is_first = match op {
            Operator::Eq | Operator::LtEq => one(&value, 1),
            Operator::Lt => one(&value, 2),
            _ => false,
        };
        is_first.then_some(column)
    };
    pieces(predicate.clone()).into_iter().filter_map(number).collect()
}

/// What decides the first rows: each group's first by `sorts`.
#[derive(Clone)]
struct Order {
    groups: Vec<Expr>,
    sorts: Vec<Sort>,
}

impl Order {
    fn map(self, mut over: impl FnMut(Expr) -> DfResult<Expr>) -> DfResult<Self> {
        let groups = self.groups.into_iter().map(&mut over).collect::<DfResult<_>>()?;
        let sorts = self.sorts.into_iter().map(|sort| Ok(Sort { expr: over(sort.expr)?, ..sort })).collect::<DfResult<_>>()?;
        Ok(Self { groups, sorts })
    }

    fn exprs(&self) -> impl Iterator<Item = &Expr> {
        self.groups.iter().chain(self.sorts.iter().map(|sort| &sort.expr))
    }
}

/// Looks for joins of which only the first rows count.
struct Search<'a> {
    state: &'a SessionState,
    context: &'a Arc<StatementContext>,
}

impl Search<'_> {
    /// `plan` where only the rows count that `column` numbers 1.
    fn numbered(&self, plan: &LogicalPlan, column: Column) -> Result<Option<LogicalPlan>> {
        let input = match plan {
            LogicalPlan::SubqueryAlias(alias) => {
                let Some(place) = alias.schema.maybe_index_of_column(&column) else { return Ok(None) };
                let column = alias.input.schema().columns().swap_remove(place);
                self.numbered(&alias.input, column)?
            }
            LogicalPlan::Projection(projection) => match below(Expr::Column(column), projection).map_err(from_datafusion)? {
                Expr::Column(column) => self.numbered(&projection.input, column)?,
                // As `bigint` the number is the same.
                Expr::Cast(Cast { expr, field }) if field.data_type().is_signed_integer() => match *expr {
                    Expr::Column(column) => self.numbered(&projection.input, column)?,
                    _ => None,
                },
                _ => None,
            },
            // Rows that are dropped for another reason do not change which one is first.
            LogicalPlan::Filter(filter) => self.numbered(&filter.input, column)?,
            LogicalPlan::Window(window) => match row_number_order(window, &column) {
                Some(order) => self.within(&window.input, order)?,
                None => None,
            },
            _ => None,
        };
        let over = |input| plan.with_new_exprs(plan.expressions(), vec![input]).map_err(from_datafusion);
        input.map(over).transpose()
    }

    /// `plan` where of each group only the first row counts.
    fn within(&self, plan: &LogicalPlan, order: Order) -> Result<Option<LogicalPlan>> {
        if order.exprs().any(reads_outside) {
            return Ok(None);
        }
        let input = match plan {
            LogicalPlan::SubqueryAlias(alias) => {
                let (outer, inner) = (&alias.schema, alias.input.schema().columns());
                let order = order.map(|expr| renamed(expr, outer, &inner)).map_err(from_datafusion)?;
                self.within(&alias.input, order)?
            }
            LogicalPlan::Projection(projection) => {
                let order = order.map(|expr| below(expr, projection)).map_err(from_datafusion)?;
                self.within(&projection.input, order)?
            }
            LogicalPlan::Filter(_) | LogicalPlan::Join(_) => {
                let (plan, found) = self.joins(plan, Vec::new(), &order, &mut Vec::new())?;
                return Ok(found.then_some(plan));
            }
            _ => None,
        };
        let over = |input| plan.with_new_exprs(plan.expressions(), vec![input]).map_err(from_datafusion);
        input.map(over).transpose()
    }

    /// `plan` with these conditions on its rows, its joins as as-of joins where they can be, and whether any could. What the
    /// joins above ask by is in `pinned`: a join below must not choose between rows that differ in it.
    fn joins(
        &self,
        plan: &LogicalPlan,
        mut wheres: Vec<Expr>,
        order: &Order,
        pinned: &mut Vec<Expr>,
    ) -> Result<(LogicalPlan, bool)> {
        match plan {
            LogicalPlan::Filter(filter) => {
                wheres.extend(pieces(filter.predicate.clone()));
                self.joins(&filter.input, wheres, order, pinned)
            }
            LogicalPlan::Join(join) if matches!(join.join_type, JoinType::Left | JoinType::Inner) => {
                let (left, right) = (join.left.schema(), join.right.schema());
                let touches = |expr: &Expr, schema: &DFSchema| reads(expr, schema) || reads_outside(expr);
                let (above, below): (Vec<_>, Vec<_>) = wheres.into_iter().partition(|expr| touches(expr, right));
                if let Some((asked, is_turned)) = self.as_of(join, &above, order, pinned)? {
                    let own = asked.asked.expressions();
                    if is_turned {
                        // What is called left is on the right, and has no joins of ours below it.
                        let node = LogicalPlan::Extension(Extension { node: Arc::new(asked) });
                        let columns = columns_of(join.schema.as_ref());
                        let plan = Projection::try_new(columns, Arc::new(node)).map_err(from_datafusion)?;
                        return Ok((filtered(LogicalPlan::Projection(plan), below)?, true));
                    }
                    pinned.extend(own);
                    let (input, _) = self.joins(&join.left, below, order, pinned)?;
                    let node = AsOfJoinNode::new(input, asked.right, asked.asked).map_err(from_datafusion)?;
                    return Ok((LogicalPlan::Extension(Extension { node: Arc::new(node) }), true));
                }
                let own = conditions(join);
                if own.iter().chain(&above).any(reads_outside) {
                    let plan = LogicalPlan::Join(join.clone());
                    return Ok((filtered(plan, above.into_iter().chain(below).collect())?, false));
                }
                pinned.extend(own.into_iter().chain(above.iter().cloned()));
                let (input, found) = self.joins(&join.left, below, order, pinned)?;
                let mut join = join.clone();
                join.left = Arc::new(input);
                let _ = left;
                Ok((filtered(LogicalPlan::Join(join), above)?, found))
            }
            plan => Ok((filtered(plan.clone(), wheres)?, false)),
        }
    }

    /// The as-of join that a join is, and whether its sides had to change places; its conditions are the join's and `wheres`.
    fn as_of(&self, join: &Join, wheres: &[Expr], order: &Order, pinned: &[Expr]) -> Result<Option<(AsOfJoinNode, bool)>> {
        let is_inner = join.join_type == JoinType::Inner;
        let is_right =
            |expr: &Expr| matches!(expr, Expr::Column(column) if reads(&Expr::Column(column.clone()), join.right.schema()));
        let drops_unmatched = |expr: &Expr| match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                matches!(op, Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq)
                    && (is_right(left) || is_right(right))
            }
            _ => false,
        };
        let kind = match join.join_type {
            // A condition on the right side that NULL does not meet makes an inner join of it.
            _ if is_inner || wheres.iter().any(drops_unmatched) => AsOfKind::Inner,
            _ if wheres.is_empty() => AsOfKind::Left,
            _ => return Ok(None),
        };
        let conditions: Vec<Expr> = conditions(join).into_iter().flat_map(pieces).chain(wheres.iter().cloned()).collect();
        if let Some(node) = self.chosen((&join.left, &join.right), conditions.clone(), kind, order, pinned)? {
            return Ok(Some((node, false)));
        }
        if !is_inner {
            return Ok(None);
        }
        let turned = self.chosen((&join.right, &join.left), conditions, kind, order, pinned)?;
        Ok(turned.map(|node| (node, true)))
    }

    fn chosen(
        &self,
        (left, right): (&Arc<LogicalPlan>, &Arc<LogicalPlan>),
        conditions: Vec<Expr>,
        kind: AsOfKind,
        order: &Order,
        pinned: &[Expr],
    ) -> Result<Option<AsOfJoinNode>> {
        let schema = right.schema();
        if order.groups.iter().chain(pinned).any(|expr| reads(expr, schema)) {
            return Ok(None);
        }
        let sorts: Vec<Sort> = order.sorts.iter().filter(|sort| reads(&sort.expr, schema)).cloned().collect();
        let of_right = |column: &Column| schema.maybe_index_of_column(column).is_some();
        if !sorts.iter().all(|sort| sort.expr.column_refs().into_iter().all(of_right)) {
            return Ok(None);
        }
        let choice = Choice { base: right.as_ref().clone(), conditions, sorts };
        // What cannot be compared here is for the join to say.
        let Ok(Some((right, asked))) = choice.as_of(left.schema(), kind, self.state, self.context) else { return Ok(None) };
        AsOfJoinNode::new(left.as_ref().clone(), right, asked).map(Some).map_err(from_datafusion)
    }
}

/// The groups and the order of the `row_number()` that `column` of a window is.
fn row_number_order(window: &Window, column: &Column) -> Option<Order> {
    let place = window.schema.maybe_index_of_column(column)?.checked_sub(window.input.schema().fields().len())?;
    let ([Expr::WindowFunction(function)], 0) = (window.window_expr.as_slice(), place) else { return None };
    let WindowFunctionDefinition::WindowUDF(udwf) = &function.fun else { return None };
    let params = &function.params;
    let is_plain = params.filter.is_none() && !params.distinct && params.null_treatment.is_none();
    (udwf.name() == "row_number" && is_plain)
        .then(|| Order { groups: params.partition_by.clone(), sorts: params.order_by.clone() })
}

/// Whether an expression reads a column of `schema`.
fn reads(expr: &Expr, schema: &DFSchema) -> bool {
    expr.column_refs().into_iter().any(|column| schema.maybe_index_of_column(column).is_some())
}

fn filtered(plan: LogicalPlan, conditions: Vec<Expr>) -> Result<LogicalPlan> {
    match conjunction(conditions) {
        None => Ok(plan),
        Some(condition) => Filter::try_new(condition, Arc::new(plan)).map(LogicalPlan::Filter).map_err(from_datafusion),
    }
}

/// An expression over an alias, over what it stands for.
fn renamed(expr: Expr, outer: &DFSchema, inner: &[Column]) -> DfResult<Expr> {
    expr.transform_up(|expr| {
        let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
        let Some(place) = outer.maybe_index_of_column(column) else { return Ok(Transformed::no(expr)) };
        Ok(Transformed::yes(Expr::Column(inner[place].clone())))
    })
    .map(|expr| expr.data)
}
