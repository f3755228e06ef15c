//! Values of catalog rows and functions, and their way into and out of Arrow.
//!
//! The catalogs are small and made anew with every registry version, so plain values are fast enough here; no other room
//! uses them.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, ListArray,
    StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, IntervalMonthDayNano, IntervalUnit, TimeUnit};
use datafusion::scalar::ScalarValue;

use crate::error::{Error, Result, SqlState};
use crate::planner::NO_FUNCTION_HINT;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// NULL of any type.
    Null,
    /// A truth value.
    Bool(bool),
    /// An integer or an object number.
    Int(i64),
    /// A floating point number.
    Float(f64),
    /// A text, name or code.
    Text(String),
    /// An instant, in microseconds since 1970-01-01 UTC.
    Instant(i64),
    /// A length of time, in microseconds.
    Length(i64),
    /// An array.
    List(Vec<Value>),
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Value::Int(i64::from(value))
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Value::Int(i64::from(value))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::Text(value)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Self {
        Value::List(values.into_iter().map(Into::into).collect())
    }
}

impl Value {
    /// The number, also where a client wrote it as text (`c.oid = '16384'`).
    pub(super) fn int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            Value::Text(text) => text.trim().parse().ok(),
            Value::Bool(_) | Value::Null | Value::Float(_) | Value::Instant(_) | Value::Length(_) | Value::List(_) => None,
        }
    }

    /// The number as an object number; `None` for what cannot be one.
    pub(super) fn oid(&self) -> Option<u32> {
        self.int().and_then(|number| u32::try_from(number).ok())
    }

    /// The text.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value, also where a client wrote it as text.
    pub(super) fn bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            Value::Text(text) => match text.as_str() {
                "t" | "true" | "on" | "yes" | "1" => Some(true),
                "f" | "false" | "off" | "no" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// The value as PostgreSQL prints it; `None` for NULL.
    pub(super) fn print(&self) -> Option<String> {
        Some(match self {
            Value::Null => return None,
            Value::Bool(value) => if *value { "t" } else { "f" }.to_owned(),
            Value::Int(number) | Value::Instant(number) | Value::Length(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Text(text) => text.clone(),
            Value::List(elements) => {
                let elements: Vec<String> = elements.iter().map(|element| element.print().unwrap_or("NULL".into())).collect();
                format!("{{{}}}", elements.join(","))
            }
        })
    }

    /// The value of an Arrow scalar, whatever width and encoding it has.
    pub(super) fn of_scalar(scalar: &ScalarValue) -> Result<Self> {
        if scalar.is_null() {
            return Ok(Value::Null);
        }
        let wrong = || Error::unsupported(format!("a value of type {} here", scalar.data_type()));
        Ok(match scalar {
            ScalarValue::Boolean(Some(value)) => Value::Bool(*value),
            ScalarValue::Float32(Some(number)) => Value::Float(f64::from(*number)),
            ScalarValue::Float64(Some(number)) => Value::Float(*number),
            ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)) => {
                Value::Text(text.clone())
            }
            ScalarValue::Dictionary(_, value) => Self::of_scalar(value)?,
            ScalarValue::TimestampMicrosecond(Some(micros), _) => Value::Instant(*micros),
            ScalarValue::TimestampNanosecond(Some(nanos), _) => Value::Instant(nanos.div_euclid(1000)),
            ScalarValue::List(list) => Self::of_elements(&list.value(0))?,
            ScalarValue::LargeList(list) => Self::of_elements(&list.value(0))?,
            ScalarValue::FixedSizeList(list) => Self::of_elements(&list.value(0))?,
            other => match other.cast_to(&DataType::Int64) {
                Ok(ScalarValue::Int64(Some(number))) => Value::Int(number),
                Ok(_) | Err(_) => return Err(wrong()),
            },
        })
    }

    fn of_elements(elements: &ArrayRef) -> Result<Self> {
        let values = (0..elements.len()).map(|index| {
            let element = ScalarValue::try_from_array(elements, index)
                .map_err(|source| Error::internal("could not read an array's element").caused_by(source))?;
            Self::of_scalar(&element)
        });
        values.collect::<Result<Vec<_>>>().map(Value::List)
    }
}

/// An Arrow array of `data_type` that holds `values`. A value of another kind is a defect, as is a type no catalog has.
pub(super) fn array_of(data_type: &DataType, values: &[Value]) -> Result<ArrayRef> {
    if values.iter().all(|value| *value == Value::Null) {
        return Ok(new_null_array(data_type, values.len()));
    }
    let wrong = || Error::internal(format!("a catalog value is not of type {data_type}: {values:?}"));
    Ok(match data_type {
        DataType::Boolean => Arc::new(collect(values, Value::bool).map(BooleanArray::from).ok_or_else(wrong)?),
        DataType::Int16 => Arc::new(collect(values, narrow).map(Int16Array::from).ok_or_else(wrong)?),
        DataType::Int32 => Arc::new(collect(values, narrow).map(Int32Array::from).ok_or_else(wrong)?),
        DataType::Int64 => Arc::new(collect(values, Value::int).map(Int64Array::from).ok_or_else(wrong)?),
        DataType::Float32 => Arc::new(collect(values, float32).map(Float32Array::from).ok_or_else(wrong)?),
        DataType::Float64 => Arc::new(collect(values, float).map(Float64Array::from).ok_or_else(wrong)?),
        DataType::Utf8 => Arc::new(collect(values, Value::print).map(StringArray::from).ok_or_else(wrong)?),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let instants = collect(values, instant).map(TimestampMicrosecondArray::from).ok_or_else(wrong)?;
            Arc::new(instants.with_timezone_opt(zone.clone()))
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            Arc::new(collect(values, length).map(IntervalMonthDayNanoArray::from).ok_or_else(wrong)?)
        }
        DataType::List(field) => {
            let mut elements = Vec::new();
            let mut lengths = Vec::with_capacity(values.len());
            for value in values {
                match value {
                    Value::List(list) => {
                        elements.extend(list.iter().cloned());
                        lengths.push(list.len());
                    }
                    Value::Null => lengths.push(0),
                    _ => return Err(wrong()),
                }
            }
            let nulls: NullBuffer = values.iter().map(|value| *value != Value::Null).collect();
            let elements = array_of(field.data_type(), &elements)?;
            let list = ListArray::try_new(Arc::clone(field), OffsetBuffer::from_lengths(lengths), elements, Some(nulls));
            Arc::new(list.map_err(|source| Error::internal("a catalog array does not fit").caused_by(source))?)
        }
        _ => return Err(wrong()),
    })
}

/// Each value through `convert`, NULLs kept; `None` if one does not convert.
fn collect<T>(values: &[Value], convert: impl Fn(&Value) -> Option<T>) -> Option<Vec<Option<T>>> {
    values
        .iter()
        .map(|value| match value {
            Value::Null => Some(None),
            value => convert(value).map(Some),
        })
        .collect()
}

fn narrow<T: TryFrom<i64>>(value: &Value) -> Option<T> {
    value.int().and_then(|number| T::try_from(number).ok())
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Float(number) => Some(*number),
        value => value.int().and_then(|number| i32::try_from(number).ok()).map(f64::from),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the catalogs' real columns hold small estimates")]
fn float32(value: &Value) -> Option<f32> {
    float(value).map(|number| number as f32)
}

fn instant(value: &Value) -> Option<i64> {
    match value {
        Value::Instant(micros) => Some(*micros),
        _ => None,
    }
}

fn length(value: &Value) -> Option<IntervalMonthDayNano> {
    match value {
        Value::Length(micros) => Some(IntervalMonthDayNano::new(0, 0, micros.saturating_mul(1000))),
        _ => None,
    }
}

/// The error of a function that was called with arguments it does not take, as PostgreSQL words it.
pub(super) fn no_function(name: &str, arguments: &[DataType]) -> Error {
    let types: Vec<String> = arguments
        .iter()
        .map(|argument| crate::types::SqlType::of_arrow(argument).map_or_else(|| argument.to_string(), |known| known.name()))
        .collect();
    Error::new(SqlState::UndefinedFunction, format!("function {name}({}) does not exist", types.join(", ")))
        .hint(NO_FUNCTION_HINT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SqlType;

    #[test]
    fn values_survive_the_way_through_arrow() {
        let cases = [
            (SqlType::Boolean, vec![Value::Bool(true), Value::Null]),
            (SqlType::SmallInt, vec![Value::Int(-1)]),
            (SqlType::Oid, vec![Value::Int(4_294_967_295), Value::Null]),
            (SqlType::Name, vec![Value::from("a"), Value::Null]),
            (SqlType::TimestampTz, vec![Value::Instant(7)]),
            (SqlType::Int2Vector, vec![Value::from(vec![1, 2]), Value::Null, Value::List(vec![])]),
            (SqlType::Array(Box::new(SqlType::Text)), vec![Value::from(vec!["a", "b"])]),
        ];
        for (sql_type, values) in cases {
            let array = array_of(&sql_type.arrow(), &values).unwrap();
            assert_eq!(array.data_type(), &sql_type.arrow());
            let back: Vec<Value> = (0..array.len())
                .map(|index| Value::of_scalar(&ScalarValue::try_from_array(&array, index).unwrap()).unwrap())
                .collect();
            assert_eq!(back, values);
        }
    }
}
