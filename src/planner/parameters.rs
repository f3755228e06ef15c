//! The types of `$1`, `$2`, ….
//!
//! A type comes from the client, else from a cast in the query, else from what the parameter is compared or computed with,
//! else it is text. Once all are known each parameter is cast to its type where it stands, so that whatever is bound later
//! fits the plan.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::ast::{self, VisitMut, VisitorMut};

use super::errors::from_datafusion;
use super::types::{cast, sql_type};
use crate::error::{Error, Result, SqlState};
use crate::parser::{Query, TimeClause};
use crate::types::SqlType;

/// The most parameters a statement may have, as on the wire.
const PARAMETERS_MAX: usize = 65_535;

/// What is known of a query's parameters.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    types: Vec<Option<SqlType>>,
    /// Those that stand in `= ANY($n)`, whose type is an array of what they are compared with.
    arrays: Vec<usize>,
}

impl Parameters {
    /// What the client and the query's own casts say.
    pub(super) fn of(query: &mut Query, stated: &[Option<SqlType>]) -> Result<Self> {
        let mut found = Found { casts: BTreeMap::new(), arrays: Vec::new(), count: stated.len(), error: None };
        let _ = query.body.visit(&mut found);
        for expr in query.clauses.iter_mut().flat_map(expressions) {
            let _ = expr.visit(&mut found);
        }
        if let Some(error) = found.error {
            return Err(error);
        }
        let given = |place: usize| stated.get(place).cloned().flatten();
        let types = (0..found.count).map(|place| given(place).or_else(|| found.casts.get(&place).cloned())).collect();
        Ok(Self { types, arrays: found.arrays })
    }

    /// Whether nothing is left to infer.
    pub(super) fn all_known(&self) -> bool {
        self.types.iter().all(Option::is_some)
    }

    /// The query with the known parameters cast; for inference `= ANY($n)` becomes `= $n` where `$n` is unknown.
    pub(super) fn for_inference(&self, query: &Query) -> Result<Query> {
        self.applied(query, Purpose::Inference)
    }

    /// The query with every parameter cast.
    pub(super) fn apply(&self, query: &Query) -> Result<Query> {
        self.applied(query, Purpose::Plan)
    }

    fn applied(&self, query: &Query, purpose: Purpose) -> Result<Query> {
        let mut query = query.clone();
        let mut caster = Caster { parameters: self, purpose, error: None };
        let _ = query.body.visit(&mut caster);
        for expr in query.clauses.iter_mut().flat_map(expressions) {
            let _ = expr.visit(&mut caster);
        }
        match caster.error {
            None => Ok(query),
            Some(error) => Err(error),
        }
    }

    /// Learns what a plan tells of the unknown ones. A later use that tells nothing does not undo an earlier one.
    pub(super) fn learn(&mut self, plan: &LogicalPlan) -> Result<()> {
        let mut learned: BTreeMap<usize, SqlType> = BTreeMap::new();
        plan.apply_with_subqueries(|node| {
            node.apply_expressions(|expr| {
                expr.apply(|expr| {
                    if let Expr::Placeholder(placeholder) = expr
                        && let Some(field) = &placeholder.field
                        && let Some(place) = place(&placeholder.id)
                        && let Some(sql_type) = SqlType::of_field(field)
                    {
                        learned.entry(place).or_insert(sql_type);
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })
        .map_err(from_datafusion)?;
        for (place, sql_type) in learned {
            let is_array = self.arrays.contains(&place);
            if let Some(slot @ None) = self.types.get_mut(place) {
                *slot = Some(if is_array { SqlType::Array(Box::new(sql_type)) } else { sql_type });
            }
        }
        Ok(())
    }

    /// Makes the rest text.
    pub(super) fn settle(&mut self) {
        for place in 0..self.types.len() {
            let text = if self.arrays.contains(&place) { SqlType::Array(Box::new(SqlType::Text)) } else { SqlType::Text };
            self.types[place].get_or_insert(text);
        }
    }

    /// The types, in order.
    pub(super) fn into_types(self) -> Vec<SqlType> {
        self.types.into_iter().map(|sql_type| sql_type.unwrap_or(SqlType::Text)).collect()
    }
}

/// The expressions of a time clause.
fn expressions(clause: &mut TimeClause) -> impl Iterator<Item = &mut ast::Expr> {
    let TimeClause { as_of, within, system_time, version, position: _ } = clause;
    [as_of, within, system_time, version].into_iter().filter_map(Option::as_mut)
}

/// The place of `$n`, from 0.
fn place(name: &str) -> Option<usize> {
    name.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)
}

/// The place of a parameter standing alone.
fn bare(expr: &ast::Expr) -> Option<usize> {
    match expr {
        ast::Expr::Value(ast::ValueWithSpan { value: ast::Value::Placeholder(name), .. }) => place(name),
        ast::Expr::Nested(inner) => bare(inner),
        _ => None,
    }
}

/// What the tree itself tells.
struct Found {
    casts: BTreeMap<usize, SqlType>,
    arrays: Vec<usize>,
    count: usize,
    error: Option<Error>,
}

impl VisitorMut for Found {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<()> {
        for limit in limits(query) {
            if let Some(place) = bare(limit) {
                self.casts.entry(place).or_insert(SqlType::BigInt);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<()> {
        match expr {
            ast::Expr::Cast { expr: inner, data_type, .. } => {
                if let Some(place) = bare(inner) {
                    match sql_type(data_type) {
                        Ok(Some(sql_type)) => drop(self.casts.entry(place).or_insert(sql_type)),
                        Ok(None) => {}
                        Err(error) => {
                            self.error.get_or_insert(error);
                            return ControlFlow::Break(());
                        }
                    }
                }
            }
            ast::Expr::AnyOp { right, .. } | ast::Expr::AllOp { right, .. } => self.arrays.extend(bare(right)),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, value: &mut ast::ValueWithSpan) -> ControlFlow<()> {
        let ast::Value::Placeholder(name) = &value.value else { return ControlFlow::Continue(()) };
        match place(name) {
            Some(place) if place < PARAMETERS_MAX => self.count = self.count.max(place + 1),
            _ => {
                self.error.get_or_insert(Error::new(SqlState::UndefinedParameter, format!("there is no parameter {name}")));
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

/// The row counts of a query.
fn limits(query: &mut ast::Query) -> Vec<&mut ast::Expr> {
    let mut found = Vec::new();
    match &mut query.limit_clause {
        Some(ast::LimitClause::LimitOffset { limit, offset, limit_by: _ }) => {
            found.extend(limit.as_mut());
            found.extend(offset.as_mut().map(|offset| &mut offset.value));
        }
        Some(ast::LimitClause::OffsetCommaLimit { offset, limit }) => found.extend([offset, limit]),
        None => {}
    }
    found.extend(query.fetch.as_mut().and_then(|fetch| fetch.quantity.as_mut()));
    found
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Inference,
    Plan,
}

/// Puts casts around parameters.
struct Caster<'a> {
    parameters: &'a Parameters,
    purpose: Purpose,
    error: Option<Error>,
}

impl VisitorMut for Caster<'_> {
    type Break = ();

    /// Row counts must be literals once the parameters are bound, and nobody folds a cast around one.
    fn post_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<()> {
        for limit in limits(query) {
            if let ast::Expr::Cast { expr, .. } = limit
                && bare(expr).is_some()
            {
                *limit = expr.as_ref().clone();
            }
        }
        ControlFlow::Continue(())
    }

    /// After the children, so that a cast is not entered again.
    fn post_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<()> {
        if let ast::Expr::Value(_) = expr
            && let Some(place) = bare(expr)
            && let Some(Some(sql_type)) = self.parameters.types.get(place)
        {
            match cast(expr.clone(), sql_type) {
                Ok(cast) => *expr = cast,
                Err(error) => {
                    self.error = Some(error);
                    return ControlFlow::Break(());
                }
            }
        }
        if self.purpose == Purpose::Inference
            && let ast::Expr::AnyOp { left, compare_op, right, .. } | ast::Expr::AllOp { left, compare_op, right } = expr
            && bare(right).is_some()
        {
            *expr = ast::Expr::BinaryOp { left: left.clone(), op: compare_op.clone(), right: right.clone() };
        }
        ControlFlow::Continue(())
    }
}
