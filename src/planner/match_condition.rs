//! `ASOF JOIN`, in both spellings, between any two relations.
//!
//! The parser leaves each join with a match condition that carries its number. Before DataFusion plans the query the join
//! becomes an ordinary one whose right side is marked with that number; afterwards [`match_join`] makes an as-of join of it.

use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{BinaryExpr, Cast};
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, ExprSchemable, Join, LogicalPlan, Operator};
use datafusion::sql::sqlparser::ast::{
    self, Ident, JoinConstraint, JoinOperator, Select, TableAlias, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};
use std::sync::Arc;

use super::StatementContext;
use super::as_of_join::{Keyed, bind_keys, conditions, known_at, within};
use super::errors::from_datafusion;
use super::instant::{contains_subquery, instant};
use super::nodes::{AsOfJoinNode, Asked, AskedOf};
use crate::error::{Error, Result, SqlState};
use crate::executor::{AsOfKind, Bound, Direction};
use crate::parser::{Query, Spelling, TimeClause};
use crate::registry::FeatureView;
use crate::types::SqlType;

/// The character that opens the alias of a marked right side.
const MARK: char = '\u{1f}';

/// What an `ASOF JOIN` says beside `ON` and `USING`.
#[derive(Clone, Debug)]
pub(super) struct MatchClause {
    kind: AsOfKind,
    /// The inequality of `MATCH_CONDITION`.
    condition: Option<ast::Expr>,
    tolerance: Option<ast::Expr>,
    /// Where it stands in the statement.
    pub(super) position: usize,
}

/// Takes the `ASOF JOIN`s out of the tree: each becomes a `LEFT` or `INNER JOIN` whose right side is marked.
pub(super) fn match_clauses(query: &mut Query) -> Result<Vec<MatchClause>> {
    struct Matches<'a> {
        joins: &'a [crate::parser::AsOfJoin],
        found: Vec<MatchClause>,
    }
    impl VisitorMut for Matches<'_> {
        type Break = Error;

        fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
            select.from.iter_mut().try_for_each(|from| self.take(from))
        }

        fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
            match factor {
                TableFactor::NestedJoin { table_with_joins, .. } => self.take(table_with_joins),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    impl Matches<'_> {
        fn take(&mut self, from: &mut TableWithJoins) -> ControlFlow<Error> {
            for join in &mut from.joins {
                let JoinOperator::AsOf { match_condition, constraint } = &join.join_operator else { continue };
                let Some((stated, condition, tolerance)) = parts(match_condition, self.joins) else {
                    return ControlFlow::Break(Error::internal("an ASOF JOIN without a number"));
                };
                if let Err(error) = check_constraint(stated.spelling, constraint) {
                    return ControlFlow::Break(error.at(stated.position));
                }
                let number = self.found.len();
                let kind = if stated.keeps_left { AsOfKind::Left } else { AsOfKind::Inner };
                let clause = MatchClause { kind, condition, tolerance, position: stated.position };
                self.found.push(clause);
                join.join_operator = match kind {
                    AsOfKind::Left => JoinOperator::LeftOuter(constraint.clone()),
                    AsOfKind::Inner => JoinOperator::Inner(constraint.clone()),
                };
                let name = Ident::with_quote('"', format!("{MARK}{number}"));
                let alias = Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None });
                let relation = std::mem::replace(&mut join.relation, nothing());
                let marked = Box::new(TableWithJoins { relation, joins: Vec::new() });
                join.relation = TableFactor::NestedJoin { table_with_joins: marked, alias };
            }
            ControlFlow::Continue(())
        }
    }
    let mut matches = Matches { joins: &query.joins, found: Vec::new() };
    match query.body.visit(&mut matches) {
        ControlFlow::Continue(()) => Ok(matches.found),
        ControlFlow::Break(error) => Err(error),
    }
}

/// A relation that is replaced at once.
fn nothing() -> TableFactor {
    let relation = TableFactor::TableFunction { expr: ast::Expr::Value(ast::Value::Null.into()), alias: None };
    let table_with_joins = Box::new(TableWithJoins { relation, joins: Vec::new() });
    TableFactor::NestedJoin { table_with_joins, alias: None }
}

/// The join's statement, its condition and its tolerance, from `(number, condition, tolerance)`.
fn parts(
    row: &ast::Expr,
    joins: &[crate::parser::AsOfJoin],
) -> Option<(crate::parser::AsOfJoin, Option<ast::Expr>, Option<ast::Expr>)> {
    let ast::Expr::Tuple(row) = row else { return None };
    let [ast::Expr::Value(number), condition, tolerance] = row.as_slice() else { return None };
    let ast::Value::Number(number, _) = &number.value else { return None };
    let stated = joins.get(number.to_string().parse::<usize>().ok()?)?;
    let written = |expr: &ast::Expr| match expr {
        ast::Expr::Value(value) if value.value == ast::Value::Null => None,
        expr => Some(expr.clone()),
    };
    Some((*stated, written(condition), written(tolerance)))
}

fn check_constraint(spelling: Spelling, constraint: &JoinConstraint) -> Result<()> {
    match (spelling, constraint) {
        (_, JoinConstraint::On(_)) | (Spelling::Snowflake, JoinConstraint::Using(_)) => Ok(()),
        (Spelling::DuckDb, JoinConstraint::Using(_)) => {
            Err(Error::unsupported("ASOF JOIN with USING and without MATCH_CONDITION")
                .hint("Write MATCH_CONDITION (l.ts >= r.ts) before USING, or ON … AND l.ts >= r.ts."))
        }
        (_, JoinConstraint::Natural | JoinConstraint::None) => Err(Error::unsupported("ASOF JOIN without ON or USING")),
    }
}

/// The number of the `ASOF JOIN` whose right side `relation` is marked as.
pub(super) fn match_number(relation: &TableFactor) -> Option<usize> {
    let TableFactor::NestedJoin { alias: Some(alias), .. } = relation else { return None };
    alias.name.value.strip_prefix(MARK)?.parse().ok()
}

/// The as-of join of `join`, whose right side is `right`: `view` with its history, or any relation.
pub(super) fn match_join(
    join: &Join,
    right: &LogicalPlan,
    view: Option<Arc<FeatureView>>,
    clause: &MatchClause,
    time_clause: Option<&TimeClause>,
    state: &SessionState,
    context: &StatementContext,
) -> Result<AsOfJoinNode> {
    let (left_schema, right_schema) = (join.left.schema(), right.schema());
    let mut conditions = conditions(join);
    let inequality = match &clause.condition {
        Some(written) => {
            let both = left_schema.join(right_schema).map_err(from_datafusion)?;
            let written = ast::ExprWithAlias { expr: written.clone(), alias: None };
            let expr = state.create_logical_expr_from_sql_expr(written, &both).map_err(from_datafusion)?;
            stated_inequality(expr, left_schema, right_schema)?
        }
        None => found_inequality(&mut conditions, left_schema, right_schema)?,
    };
    if conditions.iter().any(contains_subquery) {
        return Err(Error::unsupported("a subquery in the condition of an ASOF JOIN").hint("Put it into WHERE."));
    }
    let mut equalities = Vec::new();
    let mut of_left = Vec::new();
    for condition in conditions {
        match sides(&condition, left_schema, right_schema) {
            Sides::Left | Sides::Neither => of_left.push(condition),
            Sides::Right | Sides::Both => match key_pair(&condition, left_schema, right_schema) {
                Some(pair) => equalities.push((condition, pair)),
                None => return Err(right_condition()),
            },
        }
    }
    let within = within(clause.tolerance.as_ref(), "TOLERANCE", state)?;
    let (keys, instant, right_side) = match &view {
        Some(view) => {
            let conditions = equalities.into_iter().map(|(condition, _)| condition).collect();
            let (keys, rest) = bind_keys(&Keyed::from(view.as_ref()), left_schema, right_schema, conditions)?;
            if !rest.is_empty() {
                return Err(right_condition());
            }
            let is_event_time = matches!(&inequality.right, Expr::Column(column)
                if right_schema.maybe_index_of_column(column) == Some(view.event_time_index()));
            if !is_event_time {
                return Err(Error::unsupported(format!(
                    "an ASOF JOIN with feature view \"{}\" on anything but its event time \"{}\"",
                    view.name, view.event_time
                ))
                .hint(format!("Join its rows as they are: ASOF JOIN history.{}.", view.name)));
            }
            (keys, instant(inequality.left, left_schema, &context.time_zone)?, None)
        }
        None => {
            let pairs = equalities
                .into_iter()
                .map(|(_, (left, right))| comparable((left, left_schema), (right, right_schema), "=", &context.time_zone));
            let (keys, right_keys): (Vec<_>, Vec<_>) = pairs.collect::<Result<Vec<_>>>()?.into_iter().unzip();
            let left = (inequality.left, left_schema.as_ref());
            let (mut instant, mut order) =
                comparable(left, (inequality.right, right_schema), inequality.operator, &context.time_zone)?;
            if within.is_some() {
                (instant, order) = (as_timestamp(instant, left_schema)?, as_timestamp(order, right_schema)?);
            }
            (keys, instant, Some(AskedOf { keys: right_keys, order, ties: Vec::new() }))
        }
    };
    let known_at = match &view {
        Some(_) => known_at(time_clause, left_schema, state, context)?,
        None => None,
    };
    let asked = Asked {
        keys,
        instant,
        known_at,
        within,
        right: right_side,
        condition: conjunction(of_left),
        direction: inequality.direction,
        bound: inequality.bound,
        kind: clause.kind,
    };
    AsOfJoinNode::new(join.left.as_ref().clone(), right.clone(), asked).map_err(from_datafusion)
}

fn right_condition() -> Error {
    Error::unsupported("a condition on the right side of an ASOF JOIN")
        .detail("ON takes equalities of both sides, the one inequality, and conditions on the left side.")
        .hint("Put it into WHERE, where it is judged on the chosen row; join a subquery that filters first; or use AS OF.")
}

/// Which inputs an expression reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sides {
    Neither,
    Left,
    Right,
    Both,
}

pub(super) fn sides(expr: &Expr, left: &DFSchema, right: &DFSchema) -> Sides {
    let columns = expr.column_refs();
    let of_left = columns.iter().any(|column| left.maybe_index_of_column(column).is_some());
    let of_right = columns.iter().any(|column| right.maybe_index_of_column(column).is_some());
    match (of_left, of_right) {
        (false, false) => Sides::Neither,
        (true, false) => Sides::Left,
        (false, true) => Sides::Right,
        (true, true) => Sides::Both,
    }
}

/// The two sides of an equality between the inputs, the left input's first.
pub(super) fn key_pair(condition: &Expr, left: &DFSchema, right: &DFSchema) -> Option<(Expr, Expr)> {
    let Expr::BinaryExpr(BinaryExpr { left: first, op: Operator::Eq, right: second }) = condition else { return None };
    match (sides(first, left, right), sides(second, left, right)) {
        (Sides::Left, Sides::Right) => Some((first.as_ref().clone(), second.as_ref().clone())),
        (Sides::Right, Sides::Left) => Some((second.as_ref().clone(), first.as_ref().clone())),
        _ => None,
    }
}

/// The inequality of an `ASOF JOIN`, with the left input's side first.
pub(super) struct Inequality {
    pub(super) left: Expr,
    pub(super) right: Expr,
    pub(super) operator: &'static str,
    pub(super) direction: Direction,
    pub(super) bound: Bound,
}

impl Inequality {
    fn new(left: &Expr, operator: Operator, right: &Expr) -> Option<Self> {
        let (operator, direction, bound) = match operator {
            Operator::GtEq => (">=", Direction::Backward, Bound::Inclusive),
            Operator::Gt => (">", Direction::Backward, Bound::Strict),
            Operator::LtEq => ("<=", Direction::Forward, Bound::Inclusive),
            Operator::Lt => ("<", Direction::Forward, Bound::Strict),
            _ => return None,
        };
        Some(Self { left: left.clone(), right: right.clone(), operator, direction, bound })
    }
}

/// The inequality that `MATCH_CONDITION` states.
fn stated_inequality(expr: Expr, left: &DFSchema, right: &DFSchema) -> Result<Inequality> {
    let wrong = |what: &str| {
        Error::new(SqlState::SyntaxError, what.to_owned()).hint("Write MATCH_CONDITION (l.ts >= r.ts), with >=, >, <= or <.")
    };
    if split_conjunction_owned(expr.clone()).len() != 1 {
        return Err(wrong("MATCH_CONDITION takes one inequality"));
    }
    let Expr::BinaryExpr(BinaryExpr { left: first, op, right: second }) = &expr else {
        return Err(wrong("MATCH_CONDITION takes an inequality"));
    };
    match (sides(first, left, right), sides(second, left, right)) {
        (Sides::Left, Sides::Right) => {
            Inequality::new(first, *op, second).ok_or_else(|| wrong("MATCH_CONDITION takes an inequality"))
        }
        (Sides::Right, Sides::Left) => Err(wrong("MATCH_CONDITION names the left input first")),
        _ => Err(wrong("MATCH_CONDITION compares the two inputs of the join")),
    }
}

/// An inequality between the inputs, whichever side is written first.
pub(super) fn inequality_between(condition: &Expr, left: &DFSchema, right: &DFSchema) -> Option<Inequality> {
    let Expr::BinaryExpr(BinaryExpr { left: first, op, right: second }) = condition else { return None };
    match (sides(first, left, right), sides(second, left, right)) {
        (Sides::Left, Sides::Right) => Inequality::new(first, *op, second),
        (Sides::Right, Sides::Left) => Inequality::new(second, op.swap()?, first),
        _ => None,
    }
}

/// Takes the one inequality between the inputs out of the conditions of `ON`.
fn found_inequality(conditions: &mut Vec<Expr>, left: &DFSchema, right: &DFSchema) -> Result<Inequality> {
    let mut found = None;
    for place in (0..conditions.len()).rev() {
        if let Some(inequality) = inequality_between(&conditions[place], left, right) {
            conditions.remove(place);
            if found.replace(inequality).is_some() {
                return Err(Error::new(SqlState::SyntaxError, "ASOF JOIN takes one inequality between its inputs")
                    .hint("For a limit on the distance write TOLERANCE INTERVAL '3 hours' after the condition."));
            }
        }
    }
    found.ok_or_else(|| {
        Error::new(SqlState::SyntaxError, "ASOF JOIN needs an inequality between its inputs")
            .hint("Add l.ts >= r.ts to ON, with >=, >, <= or <.")
    })
}

/// Both sides brought to one type, where PostgreSQL would compare them.
pub(super) fn comparable(
    (left, left_schema): (Expr, &DFSchema),
    (right, right_schema): (Expr, &DFSchema),
    operator: &str,
    time_zone: &str,
) -> Result<(Expr, Expr)> {
    let from_left = left.get_type(left_schema).map_err(from_datafusion)?;
    let from_right = right.get_type(right_schema).map_err(from_datafusion)?;
    if from_left == from_right {
        return Ok((left, right));
    }
    let is_text = |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_time = |data_type: &DataType| matches!(data_type, DataType::Timestamp(..) | DataType::Date32);
    let is_binary = |data_type: &DataType| matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    let cast = |expr: Expr, target: &DataType| Expr::Cast(Cast::new(Box::new(expr), target.clone()));
    if is_time(&from_left) && is_time(&from_right) {
        return Ok((instant(left, left_schema, time_zone)?, instant(right, right_schema, time_zone)?));
    }
    let alike = (from_left.is_numeric() && from_right.is_numeric())
        || (is_text(&from_left) && is_text(&from_right))
        || (is_binary(&from_left) && is_binary(&from_right))
        || from_left.is_null()
        || from_right.is_null();
    match comparison_coercion(&from_left, &from_right).filter(|_| alike) {
        Some(common) => Ok((cast(left, &common), cast(right, &common))),
        None => {
            let name = |data_type: &DataType| {
                SqlType::of_arrow(data_type).map_or_else(|| data_type.to_string(), |sql_type| sql_type.name())
            };
            let message = format!("operator does not exist: {} {operator} {}", name(&from_left), name(&from_right));
            Err(Error::new(SqlState::UndefinedFunction, message)
                .hint("No operator matches the given types. You might need to add explicit type casts."))
        }
    }
}

/// An ordered column whose distances are lengths of time.
fn as_timestamp(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    match expr.get_type(schema).map_err(from_datafusion)? {
        DataType::Timestamp(..) => Ok(expr),
        DataType::Date32 => Ok(Expr::Cast(Cast::new(Box::new(expr), SqlType::Timestamp.arrow()))),
        DataType::Null => Ok(Expr::Literal(ScalarValue::Null, None)),
        other => {
            let name = SqlType::of_arrow(&other).map_or_else(|| other.to_string(), |sql_type| sql_type.name());
            Err(Error::new(SqlState::DatatypeMismatch, format!("TOLERANCE needs instants or dates, not {name}"))
                .hint("Leave TOLERANCE out, and test the distance in WHERE."))
        }
    }
}
