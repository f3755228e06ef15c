//! The types that queries name, as PostgreSQL means them.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::{
    self, ArrayElemTypeDef, DataType as Written, ExactNumberInfo, Ident, ObjectName, ObjectNamePart, TimezoneInfo,
};

use crate::error::{Error, Result, SqlState};
use crate::parser::Query;
use crate::types::{NUMERIC_PRECISION_MAX, SqlType};

/// The name under which a type of ours stands in a parse tree.
const GIVEN_TYPE: &str = "__tidegate_type";

/// Digits after the point of a `numeric` written without any.
const NUMERIC_SCALE: i8 = 10;

/// Plans the types of one statement; instants with a zone are read in the session's.
#[derive(Debug)]
pub(super) struct Types {
    time_zone: Arc<str>,
}

impl Types {
    /// For a session in this time zone.
    pub(super) fn new(time_zone: &str) -> Self {
        Self { time_zone: time_zone.into() }
    }
}

impl TypePlanner for Types {
    fn plan_type_field(&self, written: &Written) -> DfResult<Option<FieldRef>> {
        let Some(sql_type) = sql_type(written).map_err(|error| DataFusionError::External(Box::new(error)))? else {
            return Ok(None);
        };
        Ok(Some(match sql_type {
            // In the session's zone, so that casts from text and from `timestamp` read their input there.
            SqlType::TimestampTz => {
                let zone = Some(Arc::clone(&self.time_zone));
                Arc::new(Field::new("", DataType::Timestamp(TimeUnit::Microsecond, zone), true))
            }
            sql_type => sql_type.field_ref("", true),
        }))
    }
}

/// How a type of ours is written into a parse tree.
pub(super) fn written(sql_type: &SqlType) -> Result<Written> {
    let text =
        serde_json::to_string(sql_type).map_err(|source| Error::internal("a type that cannot be written").caused_by(source))?;
    Ok(Written::Custom(ObjectName(vec![ObjectNamePart::Identifier(Ident::new(GIVEN_TYPE))]), vec![text]))
}

/// The SQL type that is written; `None` where DataFusion may know it and we do not.
pub(super) fn sql_type(written: &Written) -> Result<Option<SqlType>> {
    Ok(Some(match written {
        Written::Boolean | Written::Bool => SqlType::Boolean,
        Written::SmallInt(_) | Written::Int2(_) => SqlType::SmallInt,
        Written::Int(_) | Written::Integer(_) | Written::Int4(_) => SqlType::Integer,
        Written::BigInt(_) | Written::Int8(_) => SqlType::BigInt,
        Written::Real | Written::Float4 => SqlType::Real,
        Written::Float(ExactNumberInfo::Precision(bits)) if *bits <= 24 => SqlType::Real,
        Written::Float(_) | Written::Double(_) | Written::DoublePrecision | Written::Float8 => SqlType::DoublePrecision,
        Written::Numeric(number) | Written::Decimal(number) | Written::Dec(number) => numeric(number)?,
        Written::Text
        | Written::Varchar(_)
        | Written::CharacterVarying(_)
        | Written::CharVarying(_)
        | Written::Char(_)
        | Written::Character(_) => SqlType::Text,
        Written::Bytea => SqlType::Bytea,
        Written::Date => SqlType::Date,
        Written::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => SqlType::Time,
        Written::Time(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
            return Err(Error::unsupported("type time with time zone"));
        }
        Written::Timestamp(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => SqlType::Timestamp,
        Written::Timestamp(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => SqlType::TimestampTz,
        Written::Interval { .. } => SqlType::Interval,
        Written::Uuid => SqlType::Uuid,
        Written::JSON | Written::JSONB => SqlType::Json,
        Written::Regclass => SqlType::Oid,
        Written::Custom(name, modifiers) => return named(name, modifiers).map(Some),
        Written::Array(ArrayElemTypeDef::SquareBracket(element, size)) => match (sql_type(element)?, size) {
            (Some(SqlType::Real), Some(length)) => SqlType::Vector(
                u32::try_from(*length).map_err(|_| Error::new(SqlState::InvalidParameterValue, "array too long"))?,
            ),
            (Some(element), _) => SqlType::Array(Box::new(element)),
            (None, _) => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

fn numeric(number: &ExactNumberInfo) -> Result<SqlType> {
    let (precision, scale) = match number {
        ExactNumberInfo::None => return Ok(SqlType::Numeric { precision: NUMERIC_PRECISION_MAX, scale: NUMERIC_SCALE }),
        ExactNumberInfo::Precision(precision) => (*precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
    };
    let limit = u64::from(NUMERIC_PRECISION_MAX);
    let fits = (1..=limit).contains(&precision) && (0..=i64::try_from(precision).unwrap_or(0)).contains(&scale);
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision), Ok(scale)) if fits => Ok(SqlType::Numeric { precision, scale }),
        _ => Err(Error::new(
            SqlState::InvalidParameterValue,
            format!("NUMERIC({precision},{scale}) is outside 1 to {NUMERIC_PRECISION_MAX} digits"),
        )),
    }
}

/// Types that are names to the parser.
fn named(name: &ObjectName, modifiers: &[String]) -> Result<SqlType> {
    let last = name.0.last().and_then(ObjectNamePart::as_ident);
    let Some(Ident { value, quote_style, .. }) = last else {
        return Err(undefined(&name.to_string()));
    };
    if value == GIVEN_TYPE {
        let text = modifiers.first().map(String::as_str).unwrap_or_default();
        return serde_json::from_str(text).map_err(|source| Error::internal("an unreadable type").caused_by(source));
    }
    let folded = if quote_style.is_some() { value.clone() } else { value.to_ascii_lowercase() };
    // PostgreSQL's own names of array types, which asyncpg writes.
    match folded.strip_prefix('_') {
        Some(element) => builtin(element).map(|element| SqlType::Array(Box::new(element))),
        None => builtin(&folded),
    }
    .ok_or_else(|| undefined(&folded))
}

/// A type by its name in `pg_type`.
fn builtin(name: &str) -> Option<SqlType> {
    Some(match name {
        "bool" => SqlType::Boolean,
        "int2" => SqlType::SmallInt,
        "int4" => SqlType::Integer,
        "int8" => SqlType::BigInt,
        "float4" => SqlType::Real,
        "float8" => SqlType::DoublePrecision,
        "numeric" => SqlType::Numeric { precision: NUMERIC_PRECISION_MAX, scale: NUMERIC_SCALE },
        "text" | "varchar" | "bpchar" | "unknown" | "cstring" => SqlType::Text,
        "name" => SqlType::Name,
        "char" => SqlType::Char,
        "bytea" => SqlType::Bytea,
        "date" => SqlType::Date,
        "time" => SqlType::Time,
        "timestamp" => SqlType::Timestamp,
        "timestamptz" => SqlType::TimestampTz,
        "interval" => SqlType::Interval,
        "uuid" => SqlType::Uuid,
        "json" | "jsonb" => SqlType::Json,
        "oid" | "xid" | "regclass" | "regtype" | "regproc" | "regprocedure" | "regnamespace" | "regrole" | "regoper" => {
            SqlType::Oid
        }
        _ => return None,
    })
}

fn undefined(name: &str) -> Error {
    Error::new(SqlState::UndefinedObject, format!("type \"{name}\" does not exist"))
}

/// `expr` as a value of `sql_type`, in a parse tree.
pub(super) fn cast(expr: ast::Expr, sql_type: &SqlType) -> Result<ast::Expr> {
    Ok(ast::Expr::Cast {
        kind: ast::CastKind::Cast,
        expr: Box::new(expr),
        data_type: written(sql_type)?,
        array: false,
        format: None,
    })
}

/// The rows of an `INSERT` in which a text literal stands in a column where other rows have values of another type: the literal
/// takes the type of the column it is written to, as in PostgreSQL, and a bad one is told by that type. A column of text
/// literals alone needs none: the write path reads it, and names the row.
pub fn typed_literals<'a>(query: Cow<'a, Query>, columns: &[FieldRef]) -> Result<Cow<'a, Query>> {
    let ast::SetExpr::Values(values) = query.body.body.as_ref() else { return Ok(query) };
    let mixed = |column: usize| {
        let mut texts = values.rows.iter().filter_map(|row| row.content.get(column)).map(is_text_literal);
        let first = texts.next();
        texts.any(|text| Some(text) != first)
    };
    let mixed: Vec<(usize, SqlType)> = columns
        .iter()
        .enumerate()
        .filter(|(column, _)| mixed(*column))
        .filter_map(|(column, field)| Some((column, SqlType::of_field(field)?)))
        .filter(|(_, sql_type)| !matches!(sql_type, SqlType::Text | SqlType::Array(_) | SqlType::Vector(_)))
        .collect();
    if mixed.is_empty() {
        return Ok(query);
    }
    let mut query = query.into_owned();
    if let ast::SetExpr::Values(values) = query.body.body.as_mut() {
        for row in &mut values.rows {
            for (column, sql_type) in &mixed {
                if let Some(expr) = row.content.get_mut(*column).filter(|expr| is_text_literal(expr)) {
                    *expr = cast(expr.clone(), sql_type)?;
                }
            }
        }
    }
    Ok(Cow::Owned(query))
}

fn is_text_literal(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Value(value) if matches!(value.value, ast::Value::SingleQuotedString(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_survives_the_parse_tree() {
        for sql_type in [SqlType::BigInt, SqlType::Array(Box::new(SqlType::Uuid)), SqlType::Numeric { precision: 9, scale: 2 }] {
            let written = written(&sql_type).unwrap();
            assert_eq!(super::sql_type(&written).unwrap(), Some(sql_type));
        }
    }

    fn custom(name: &str) -> Written {
        let parts = ["pg_catalog", name].map(|part| ObjectNamePart::Identifier(Ident::new(part)));
        Written::Custom(ObjectName(parts.into()), Vec::new())
    }

    #[test]
    fn an_unknown_type_is_named() {
        for (name, said) in [("Money", "money"), ("_money", "_money"), ("__int8", "__int8")] {
            let error = super::sql_type(&custom(name)).unwrap_err();
            assert_eq!(error.message(), format!("type \"{said}\" does not exist"));
        }
    }

    #[test]
    fn array_types_have_names_of_their_own() {
        let array = |element| Some(SqlType::Array(Box::new(element)));
        assert_eq!(super::sql_type(&custom("_INT8")).unwrap(), array(SqlType::BigInt));
        assert_eq!(super::sql_type(&custom("_text")).unwrap(), array(SqlType::Text));
    }
}
