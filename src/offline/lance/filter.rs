//! Predicates as the filter text that Lance parses.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, UInt8Type, UInt16Type,
    UInt32Type,
};

use super::stored::stored_name;
use crate::error::{Error, Result};
use crate::offline::Predicate;

/// A filter for Lance.
#[derive(Debug, PartialEq)]
pub(super) enum Filter {
    /// Every row matches.
    All,
    /// No row can match.
    Nothing,
    /// The rows for which this text is true.
    Text(String),
}

/// The rows that meet every one of `predicates`.
pub(super) fn filter(predicates: &[Predicate]) -> Result<Filter> {
    let mut conditions = Vec::new();
    for predicate in predicates {
        match predicate {
            Predicate::In { column, values } => {
                let literals = literals(values)?;
                if literals.is_empty() {
                    return Ok(Filter::Nothing);
                }
                conditions.push(format!("{} IN ({})", quoted(column), literals.join(",")));
            }
            Predicate::EventTime { column, min, max } => {
                // Bounds that every number meets are left out: Lance would count the numbers between them, which is one more than
                // it has numbers for.
                if let Some(min) = min.filter(|min| min.micros() != i64::MIN) {
                    conditions.push(format!("{} >= {}", quoted(column), instant(min.micros(), true)));
                }
                if let Some(max) = max.filter(|max| max.micros() != i64::MAX) {
                    conditions.push(format!("{} <= {}", quoted(column), instant(max.micros(), true)));
                }
            }
        }
    }
    Ok(if conditions.is_empty() { Filter::All } else { Filter::Text(conditions.join(" AND ")) })
}

fn quoted(column: &str) -> String {
    format!("`{}`", stored_name(column))
}

fn instant(micros: i64, zoned: bool) -> String {
    let zone = if zoned { "Some(\"UTC\")" } else { "None" };
    format!("arrow_cast({}, 'Timestamp(Microsecond, {zone})')", bigint(micros))
}

/// The values that are not NULL, as literals of the filter language.
fn literals(values: &dyn Array) -> Result<Vec<String>> {
    macro_rules! numbers {
        ($type:ty) => {
            values.as_primitive::<$type>().iter().flatten().map(|value| value.to_string()).collect()
        };
    }
    Ok(match values.data_type() {
        DataType::Boolean => values.as_boolean().iter().flatten().map(|value| value.to_string()).collect(),
        DataType::Int8 => numbers!(Int8Type),
        DataType::Int16 => numbers!(Int16Type),
        DataType::Int32 => numbers!(Int32Type),
        DataType::Int64 => values.as_primitive::<Int64Type>().iter().flatten().map(bigint).collect(),
        DataType::UInt8 => numbers!(UInt8Type),
        DataType::UInt16 => numbers!(UInt16Type),
        DataType::UInt32 => numbers!(UInt32Type),
        DataType::Utf8 => values.as_string::<i32>().iter().flatten().map(text).collect(),
        DataType::LargeUtf8 => values.as_string::<i64>().iter().flatten().map(text).collect(),
        DataType::Utf8View => values.as_string_view().iter().flatten().map(text).collect(),
        DataType::Binary => values.as_binary::<i32>().iter().flatten().map(hexadecimal).collect(),
        DataType::LargeBinary => values.as_binary::<i64>().iter().flatten().map(hexadecimal).collect(),
        DataType::BinaryView => values.as_binary_view().iter().flatten().map(hexadecimal).collect(),
        DataType::Date32 => {
            let days = values.as_primitive::<Date32Type>().iter().flatten();
            days.map(|day| format!("arrow_cast(arrow_cast({day}, 'Int32'), 'Date32')")).collect()
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let instants = values.as_primitive::<TimestampMicrosecondType>().iter().flatten();
            instants.map(|micros| instant(micros, zone.is_some())).collect()
        }
        other => return Err(Error::internal(format!("a scan cannot compare values of type {other}"))),
    })
}

/// Lance reads the digits before it reads the sign, and those of the least number are one too many.
fn bigint(value: i64) -> String {
    if value == i64::MIN { "(-9223372036854775807 - 1)".into() } else { value.to_string() }
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn hexadecimal(value: &[u8]) -> String {
    let mut literal = String::with_capacity(value.len() * 2 + 3);
    literal.push_str("X'");
    for byte in value {
        literal.push_str(&format!("{byte:02x}"));
    }
    literal.push('\'');
    literal
}
