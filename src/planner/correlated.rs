//! Subqueries that choose rows by what a left row holds, taken apart and joined to it.
//!
//! DataFusion cannot run a correlated `LIMIT`. Where the subquery chooses the one row nearest to an instant of the left side it
//! becomes an as-of join; else every row that goes with a left row is joined to it, and the wanted ones are counted off.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue, TableReference};
use datafusion::error::Result as DfResult;
use datafusion::execution::SessionState;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::expr::{Sort, WindowFunction};
use datafusion::logical_expr::{
    Case, Expr, ExprFunctionExt, Extension, JoinType, LogicalPlan, LogicalPlanBuilder, Projection, WindowFunctionDefinition, lit,
};

use super::StatementContext;
use super::choice::{Choice, pieces, reads_outside};
use super::errors::from_datafusion;
use super::nodes::AsOfJoinNode;
use crate::error::Result;
use crate::executor::AsOfKind;

/// What opens the names of what is joined to the left side.
const JOINED: char = '\u{1f}';

/// A subquery that gives `outputs` of the rows of a choice: those after the first `skip`, at most `fetch`. Columns of the left
/// side are still marked as outer ones.
#[derive(Clone, Debug)]
pub(super) struct Correlated {
    pub(super) choice: Choice,
    pub(super) outputs: Vec<Expr>,
    pub(super) skip: u64,
    pub(super) fetch: Option<u64>,
}

/// Where a subquery's rows stand once they are joined.
pub(super) struct Joined {
    /// The left side's columns first.
    pub(super) plan: LogicalPlan,
    /// The outputs over it: NULL where a left row has no row of the subquery.
    pub(super) outputs: Vec<Expr>,
}

impl Correlated {
    /// The subquery's rows beside those of `left`; `None` where the subquery reads more than the two, or nothing of `left`.
    pub(super) fn join_to(
        self,
        left: &LogicalPlan,
        kind: AsOfKind,
        state: &SessionState,
        context: &Arc<StatementContext>,
    ) -> Result<Option<Joined>> {
        if has_outer_columns(&self.choice.base).map_err(from_datafusion)? {
            return Ok(None);
        }
        let Some(over) = self.over(left.schema()).map_err(from_datafusion)? else { return Ok(None) };
        if over.skip == 0
            && over.fetch == Some(1)
            && over.reads_right_alone()
            && let Some((right, asked)) = over.choice.as_of(left.schema(), kind, state, context)?
        {
            let (right, mark) = over.marked(right, left).map_err(from_datafusion)?;
            let node = AsOfJoinNode::new(left.clone(), right, asked).map_err(from_datafusion)?;
            let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
            return Ok(Some(Joined { plan, outputs: over.marked_outputs(kind, &mark) }));
        }
        over.counted_off(left, kind).map(Some).map_err(from_datafusion)
    }

    /// The same with the columns of the left side plain, and those of the base under names that the left side cannot have.
    fn over(self, left: &DFSchema) -> DfResult<Option<Self>> {
        let Choice { base, conditions, sorts } = self.choice;
        let old = Arc::clone(base.schema());
        let relation = TableReference::bare(format!("{JOINED}{}", left.fields().len()));
        let names = old.fields().iter().enumerate().map(|(place, field)| {
            let is_twice = old.fields().iter().filter(|other| other.name() == field.name()).count() > 1;
            if is_twice { format!("{}{JOINED}{place}", field.name()) } else { field.name().clone() }
        });
        let names: Vec<String> = names.collect();
        let renamed = old.columns().into_iter().zip(&names);
        let renamed = renamed.map(|(column, name)| Expr::Column(column).alias_qualified(Some(relation.clone()), name));
        let base = LogicalPlan::Projection(Projection::try_new(renamed.collect(), Arc::new(base.clone()))?);
        let mut known = true;
        let mut plain = |expr: Expr| {
            let plain = expr.transform_up(|expr| match expr {
                Expr::OuterReferenceColumn(_, column) => {
                    known &= left.maybe_index_of_column(&column).is_some();
                    Ok(Transformed::yes(Expr::Column(column)))
                }
                Expr::Column(column) => match old.maybe_index_of_column(&column) {
                    Some(place) => Ok(Transformed::yes(Expr::Column(Column::new(Some(relation.clone()), names[place].clone())))),
                    None => Ok(Transformed::no(Expr::Column(column))),
                },
                expr => {
                    known &= !matches!(expr, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_));
                    Ok(Transformed::no(expr))
                }
            });
            plain.map(|plain| plain.data)
        };
        let conditions = conditions.into_iter().map(&mut plain).collect::<DfResult<Vec<_>>>()?;
        let sorts = sorts.into_iter().map(|sort| Ok(Sort { expr: plain(sort.expr)?, ..sort })).collect::<DfResult<Vec<_>>>()?;
        let outputs = self.outputs.into_iter().map(&mut plain).collect::<DfResult<Vec<_>>>()?;
        let conditions: Vec<Expr> = conditions.into_iter().flat_map(pieces).collect();
        let exprs = conditions.iter().chain(&outputs).chain(sorts.iter().map(|sort| &sort.expr));
        known &= !exprs.clone().any(reads_outside);
        let correlated = exprs.flat_map(Expr::column_refs).any(|column| left.maybe_index_of_column(column).is_some());
        let choice = Choice { base, conditions, sorts };
        Ok((known && correlated).then_some(Self { choice, outputs, ..self }))
    }

    fn reads_right_alone(&self) -> bool {
        let right = self.choice.base.schema();
        let exprs = self.outputs.iter().chain(self.choice.sorts.iter().map(|sort| &sort.expr));
        exprs.flat_map(Expr::column_refs).all(|column| right.maybe_index_of_column(column).is_some())
    }

    /// The right side of an as-of join, and an expression over it that is NULL in none of its rows that are chosen.
    fn marked(&self, right: LogicalPlan, left: &LogicalPlan) -> DfResult<(LogicalPlan, Expr)> {
        if let Some(Sort { expr: first @ Expr::Column(_), .. }) = self.choice.sorts.first() {
            // It is on its side of the instant.
            return Ok((right, first.clone()));
        }
        let mark = own_name("mark", left);
        let columns = columns_of(right.schema()).into_iter().chain([lit(true).alias(&mark)]);
        let right = LogicalPlan::Projection(Projection::try_new(columns.collect(), Arc::new(right))?);
        Ok((right, Expr::Column(Column::new_unqualified(mark))))
    }

    /// The outputs, which are NULL where `mark` is.
    fn marked_outputs(&self, kind: AsOfKind, mark: &Expr) -> Vec<Expr> {
        let right = self.choice.base.schema();
        let output = |output: &Expr| match output {
            // Already NULL without a match.
            Expr::Column(column) if right.maybe_index_of_column(column).is_some() => output.clone(),
            output if kind == AsOfKind::Inner => output.clone(),
            output => when(mark.clone().is_not_null(), output.clone()),
        };
        self.outputs.iter().map(output).collect()
    }

    /// Every row that goes with a left row beside it, the wanted ones counted off in their order.
    fn counted_off(self, left: &LogicalPlan, kind: AsOfKind) -> DfResult<Joined> {
        let [left_row, mark, number, count] = ["row", "mark", "number", "count"].map(|what| own_name(what, left));
        let column = |name: &String| Expr::Column(Column::new_unqualified(name.clone()));
        let rows = row_number().alias(&left_row);
        let numbered = LogicalPlanBuilder::from(left.clone()).window([rows])?;
        let right = columns_of(self.choice.base.schema()).into_iter().chain([lit(true).alias(&mark)]);
        let right = Projection::try_new(right.collect(), Arc::new(self.choice.base.clone()))?;
        let join_type = if kind == AsOfKind::Left { JoinType::Left } else { JoinType::Inner };
        let joined = numbered.join_on(LogicalPlan::Projection(right), join_type, self.choice.conditions.clone())?;
        let of_left_row = vec![column(&left_row)];
        let mut numbers = row_number().partition_by(of_left_row.clone());
        if !self.choice.sorts.is_empty() {
            numbers = numbers.order_by(self.choice.sorts.clone());
        }
        let numbers = numbers.build()?.alias(&number);
        let after = (self.skip > 0).then(|| column(&number).gt(lit(self.skip)));
        let until = self.fetch.map(|fetch| column(&number).lt_eq(lit(self.skip.saturating_add(fetch))));
        let mut wanted = after.clone().into_iter().chain(until).reduce(Expr::and).unwrap_or(lit(true));
        let mut plan = joined.window([numbers])?;
        let mut outputs = self.outputs;
        if kind == AsOfKind::Left {
            let mut has_rows = if self.fetch == Some(0) { lit(false) } else { column(&mark).is_not_null() };
            let is_given = after.into_iter().fold(has_rows.clone(), Expr::and);
            outputs = outputs.into_iter().map(|output| when(is_given.clone(), output)).collect();
            if self.skip > 0 {
                let counts = WindowFunction::new(WindowFunctionDefinition::AggregateUDF(count_udaf()), vec![column(&mark)]);
                plan = plan.window([Expr::from(counts).partition_by(of_left_row).build()?.alias(&count)])?;
                let skipped = i64::try_from(self.skip).unwrap_or(i64::MAX);
                has_rows = has_rows.and(column(&count).gt(lit(skipped)));
            }
            // A left row whose rows are all skipped, or that has none, stays once.
            wanted = has_rows.clone().and(wanted).or(is_not_true(has_rows).and(column(&number).eq(lit(1_u64))));
        }
        Ok(Joined { plan: plan.filter(wanted)?.build()?, outputs })
    }
}

fn row_number() -> Expr {
    Expr::from(WindowFunction::new(WindowFunctionDefinition::WindowUDF(row_number_udwf()), Vec::new()))
}

fn when(condition: Expr, value: Expr) -> Expr {
    Expr::Case(Case { expr: None, when_then_expr: vec![(Box::new(condition), Box::new(value))], else_expr: None })
}

fn is_not_true(condition: Expr) -> Expr {
    Expr::IsNotTrue(Box::new(condition))
}

/// A name that no column of `left` has.
fn own_name(what: &str, left: &LogicalPlan) -> String {
    format!("{JOINED}{what}{}", left.schema().fields().len())
}

pub(super) fn columns_of(schema: &DFSchema) -> Vec<Expr> {
    schema.columns().into_iter().map(Expr::Column).collect()
}

fn has_outer_columns(plan: &LogicalPlan) -> DfResult<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= node.contains_outer_reference();
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// The number that a `LIMIT` or `OFFSET` is.
pub(super) fn number(expr: &Expr) -> Option<u64> {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(number)), _) => u64::try_from(*number).ok(),
        _ => None,
    }
}
