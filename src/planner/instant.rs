//! The instants of time clauses.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{Cast, Placeholder};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use super::errors::from_datafusion;
use super::literals;
use crate::error::{Error, Result, SqlState};
use crate::time::EventTime;
use crate::types::SqlType;

/// `expr` as an instant: `timestamptz` as it is, what has no zone read in the session's, text that is written out parsed.
pub(super) fn instant(expr: Expr, schema: &DFSchema, time_zone: &str) -> Result<Expr> {
    let target = SqlType::TimestampTz.arrow();
    let expr = match expr {
        Expr::Alias(alias) => *alias.expr,
        expr => expr,
    };
    if let Some(text) = written_text(&expr) {
        // `TIMESTAMP '… Z'` too: a zone that is written counts.
        let value = literals::read(text, &SqlType::TimestampTz, &target, time_zone)?;
        return Ok(Expr::Literal(value, None));
    }
    if let Expr::Placeholder(Placeholder { id, field: None }) = expr {
        let field = SqlType::TimestampTz.field_ref("", true);
        return Ok(Expr::Placeholder(Placeholder::new_with_field(id, Some(field))));
    }
    if contains_subquery(&expr) {
        return Err(Error::unsupported("a subquery in AS OF").hint("Join the relation that has the instant instead."));
    }
    let expr = literals::literals(expr, time_zone).map_err(from_datafusion)?.data;
    let data_type = expr.get_type(schema).map_err(from_datafusion)?;
    let cast = |expr: Expr, data_type: DataType| Expr::Cast(Cast::new(Box::new(expr), data_type));
    match data_type {
        DataType::Null => Ok(Expr::Literal(ScalarValue::TimestampMicrosecond(None, Some("UTC".into())), None)),
        data_type if data_type == target => Ok(expr),
        DataType::Timestamp(_, Some(_)) => Ok(cast(expr, target)),
        DataType::Timestamp(_, None) | DataType::Date32 => {
            let local = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from(time_zone)));
            let naive = cast(expr, DataType::Timestamp(TimeUnit::Microsecond, None));
            Ok(cast(cast(naive, local), target))
        }
        other => {
            let name = SqlType::of_arrow(&other).map_or_else(|| other.to_string(), |sql_type| sql_type.name());
            Err(Error::new(
                SqlState::DatatypeMismatch,
                format!("argument of AS OF must be type timestamp with time zone, not type {name}"),
            )
            .hint("Cast it: AS OF (x::timestamptz)."))
        }
    }
}

/// The text of a literal, also under a cast to `timestamp` or `timestamptz`.
fn written_text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)), _) => Some(text),
        Expr::Cast(Cast { expr, field }) if matches!(field.data_type(), DataType::Timestamp(..)) => match expr.as_ref() {
            Expr::Literal(ScalarValue::Utf8(Some(text)), _) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a query stands inside `expr`.
pub(super) fn contains_subquery(expr: &Expr) -> bool {
    use datafusion::common::tree_node::TreeNode;
    expr.exists(|expr| {
        Ok(matches!(expr, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::OuterReferenceColumn(..)))
    })
    .unwrap_or(true)
}

/// The value of an instant without parameters; `None` where it is NULL.
pub(super) fn resolve(expr: &Expr, state: &SessionState) -> Result<Option<EventTime>> {
    match constant(expr, state, &SqlType::TimestampTz.arrow())? {
        ScalarValue::TimestampMicrosecond(micros, _) => Ok(micros.map(EventTime::from_micros)),
        _ => Err(Error::internal("an instant of another type")),
    }
}

/// The value of an expression without columns and parameters, as `data_type`.
pub(super) fn constant(expr: &Expr, state: &SessionState, data_type: &DataType) -> Result<ScalarValue> {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(DFSchema::empty()))
        .with_config_options(Arc::clone(state.config_options()))
        .with_query_execution_start_time(state.execution_props().query_execution_start_time)
        .build();
    let simplifier = ExprSimplifier::new(context);
    let expr = simplifier.coerce(expr.clone(), &DFSchema::empty()).map_err(from_datafusion)?;
    let expr = simplifier.simplify(expr).map_err(from_datafusion)?;
    match expr {
        Expr::Literal(value, _) => value.cast_to(data_type).map_err(from_datafusion),
        _ => Err(Error::unsupported("a time clause whose value is not known when the query starts")
            .hint("Use a constant, a parameter, or an expression of now().")),
    }
}
