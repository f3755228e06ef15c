//! Comparisons of rows, part by part: `(a, b) = (1, 'x')`, `(a, b) IN ((1, 'x'), (2, 'y'))`.
//!
//! That is how SQL defines them, NULLs included; so literals take the types of what stands beside them, and filters on the parts
//! of a key are seen for what they are.

use sqlparser::ast::{BinaryOperator, Expr, UnaryOperator};

use super::expressions::placeholder;
use crate::error::{Error, Result, SqlState};

/// Turns one expression, whose parts are already turned.
pub(super) fn rewrite(expr: &mut Expr) -> Result<()> {
    let (comparison, negated) = match expr {
        Expr::BinaryOp { left, op: op @ (BinaryOperator::Eq | BinaryOperator::NotEq), right } => {
            let (Expr::Tuple(left), Expr::Tuple(right)) = (left.as_ref(), right.as_ref()) else { return Ok(()) };
            (equal(left, right)?, *op == BinaryOperator::NotEq)
        }
        Expr::InList { expr, list, negated } => {
            let Expr::Tuple(row) = expr.as_ref() else { return Ok(()) };
            let mut alternatives = Vec::with_capacity(list.len());
            for item in list.iter() {
                let Expr::Tuple(item) = item else { return Ok(()) };
                alternatives.push(equal(row, item)?);
            }
            (joined(alternatives, &BinaryOperator::Or), *negated)
        }
        _ => return Ok(()),
    };
    *expr = match negated {
        false => comparison,
        true => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(comparison) },
    };
    Ok(())
}

fn equal(left: &[Expr], right: &[Expr]) -> Result<Expr> {
    if left.len() != right.len() {
        return Err(Error::new(SqlState::SyntaxError, "unequal number of entries in row expressions"));
    }
    let parts = left.iter().zip(right).map(|(left, right)| Expr::BinaryOp {
        left: Box::new(left.clone()),
        op: BinaryOperator::Eq,
        right: Box::new(right.clone()),
    });
    Ok(joined(parts.collect(), &BinaryOperator::And))
}

/// The expressions joined by one operator, as a tree no deeper than it must be: lists may be long.
fn joined(mut expressions: Vec<Expr>, op: &BinaryOperator) -> Expr {
    if expressions.len() < 2 {
        return expressions.pop().unwrap_or_else(placeholder);
    }
    let right = expressions.split_off(expressions.len() / 2);
    let joined = Expr::BinaryOp { left: Box::new(joined(expressions, op)), op: op.clone(), right: Box::new(joined(right, op)) };
    Expr::Nested(Box::new(joined))
}
