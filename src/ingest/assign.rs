//! Assignment: values of one type into a column of another, as PostgreSQL casts in `INSERT`.

use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, ListArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, IntervalUnit, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, FixedOffset, Offset, TimeZone};

use super::{Intake, number};
use crate::error::{Error, Result, SqlState};
use crate::types::SqlType;
use crate::types::text::TextParser;

/// What is assigned to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assignment<'a> {
    /// The column's name.
    pub(super) column: &'a str,
    /// Its type.
    pub(super) to: &'a SqlType,
    /// Of which write the values are.
    pub(super) intake: &'a Intake,
}

impl Assignment<'_> {
    /// Names row and column in an error that does not speak of them.
    pub(super) fn at_row(&self, error: Error, row: usize) -> Error {
        match error.detail_text() {
            Some(_) => error,
            None => error.detail(format!("Row {}, column \"{}\".", self.intake.first_row + row + 1, self.column)),
        }
    }

    fn mismatch(&self, from: &str) -> Error {
        let message = format!("column \"{}\" is of type {} but expression is of type {from}", self.column, self.to);
        Error::new(SqlState::DatatypeMismatch, message).hint("You will need to rewrite or cast the expression.")
    }

    fn failed(&self, source: arrow::error::ArrowError) -> Error {
        let message = format!("a value of column \"{}\" is out of range for type {}", self.column, self.to);
        Error::new(SqlState::DataException, message).caused_by(source)
    }
}

/// `column`, described by `field`, in the Arrow form of the column assigned to.
pub(super) fn assign(column: &ArrayRef, field: &Field, to: &Assignment<'_>) -> Result<ArrayRef> {
    let wanted = to.to.arrow();
    if column.data_type() == &DataType::Null {
        return Ok(new_null_array(&wanted, column.len()));
    }
    let from = SqlType::of_field(field).ok_or_else(|| to.mismatch(&field.data_type().to_string()))?;
    let column = plain(column).map_err(|source| to.failed(source))?;
    let assigned = match (&from, to.to) {
        (from, wanted) if from == wanted && !matches!(wanted, SqlType::Vector(_)) => column,
        (SqlType::Text | SqlType::Name | SqlType::Char, SqlType::Text | SqlType::Name | SqlType::Char) => column,
        (SqlType::Json | SqlType::Uuid, SqlType::Text) => column,
        (SqlType::Text | SqlType::Name, _) => from_text(&column, to)?,
        (from, wanted) if is_number(from) && is_number(wanted) => number::assign(&column, to)?,
        (SqlType::Date, SqlType::Timestamp) => cast(&column, &wanted_timestamp(None)).map_err(|source| to.failed(source))?,
        (SqlType::Date, SqlType::TimestampTz) => {
            let local = cast(&column, &wanted_timestamp(None)).map_err(|source| to.failed(source))?;
            to_instants(&local, to)?
        }
        (SqlType::Timestamp, SqlType::TimestampTz) => to_instants(&column, to)?,
        (SqlType::TimestampTz, SqlType::Timestamp) => to_local(&column, to)?,
        (SqlType::Timestamp, SqlType::Date | SqlType::Time) => cast(&column, &wanted).map_err(|source| to.failed(source))?,
        (SqlType::TimestampTz, SqlType::Date | SqlType::Time) => {
            cast(&to_local(&column, to)?, &wanted).map_err(|source| to.failed(source))?
        }
        (from, SqlType::Text) if is_number(from) || *from == SqlType::Boolean => {
            cast(&column, &wanted).map_err(|source| to.failed(source))?
        }
        (SqlType::Array(_) | SqlType::Vector(_), SqlType::Array(element)) => array(&column, element, to)?,
        (SqlType::Array(_) | SqlType::Vector(_), SqlType::Vector(length)) => vector(&column, *length, to)?,
        (from, _) => return Err(to.mismatch(&from.name())),
    };
    in_form(&assigned, &wanted).map_err(|source| to.failed(source))
}

/// The same values in exactly this Arrow type, which differs at most in how it is laid out or named inside.
fn in_form(column: &ArrayRef, wanted: &DataType) -> std::result::Result<ArrayRef, arrow::error::ArrowError> {
    if column.data_type() == wanted { Ok(column.clone()) } else { cast(column, wanted) }
}

/// The values in the Arrow type that our own columns have for them: one form of text, of bytes, of instants, of lists.
fn plain(column: &ArrayRef) -> std::result::Result<ArrayRef, arrow::error::ArrowError> {
    let wanted = match column.data_type() {
        DataType::Dictionary(_, value) => return plain(&cast(column, value)?),
        DataType::RunEndEncoded(_, value) => return plain(&cast(column, value.data_type())?),
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => DataType::Decimal128(*precision, *scale),
        DataType::Decimal256(_, scale) => DataType::Decimal128(38, *scale),
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(TimeUnit::Nanosecond) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(_, None) => wanted_timestamp(None),
        DataType::Timestamp(_, Some(_)) => wanted_timestamp(Some("UTC")),
        DataType::Interval(IntervalUnit::YearMonth | IntervalUnit::DayTime) | DataType::Duration(_) => {
            DataType::Interval(IntervalUnit::MonthDayNano)
        }
        DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => DataType::List(item.clone()),
        _ => return Ok(column.clone()),
    };
    in_form(column, &wanted)
}

fn wanted_timestamp(zone: Option<&str>) -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into))
}

fn is_number(data_type: &SqlType) -> bool {
    matches!(
        data_type,
        SqlType::SmallInt
            | SqlType::Integer
            | SqlType::BigInt
            | SqlType::Oid
            | SqlType::Real
            | SqlType::DoublePrecision
            | SqlType::Numeric { .. }
    )
}

fn from_text(column: &ArrayRef, to: &Assignment<'_>) -> Result<ArrayRef> {
    let mut parser = TextParser::new(to.to, &to.intake.time_zone)?;
    for (row, text) in column.as_string::<i32>().iter().enumerate() {
        parser.append(text).map_err(|error| to.at_row(error, row))?;
    }
    Ok(parser.finish())
}

/// Local times of the session's zone to instants.
fn to_instants(column: &ArrayRef, to: &Assignment<'_>) -> Result<ArrayRef> {
    let local = column.as_primitive::<TimestampMicrosecondType>();
    if is_utc(&to.intake.time_zone) {
        return Ok(Arc::new(local.clone().with_timezone("UTC")));
    }
    // The parser knows PostgreSQL's rule for times that a change of clocks skips or repeats.
    let mut parser = TextParser::new(&SqlType::TimestampTz, &to.intake.time_zone)?;
    for (row, micros) in local.iter().enumerate() {
        let text = micros.and_then(DateTime::from_timestamp_micros).map(|at| at.format("%Y-%m-%d %H:%M:%S%.6f").to_string());
        parser.append(text.as_deref()).map_err(|error| to.at_row(error, row))?;
    }
    Ok(parser.finish())
}

/// Instants to local times of the session's zone.
fn to_local(column: &ArrayRef, to: &Assignment<'_>) -> Result<ArrayRef> {
    let instants = column.as_primitive::<TimestampMicrosecondType>();
    let offset = |micros: i64| -> Result<i64> {
        let utc = DateTime::from_timestamp_micros(micros)
            .ok_or_else(|| Error::new(SqlState::DatetimeFieldOverflow, "timestamp out of range"))?
            .naive_utc();
        let seconds = match zone(&to.intake.time_zone)? {
            Zone::Named(zone) => zone.offset_from_utc_datetime(&utc).fix().local_minus_utc(),
            Zone::Fixed(offset) => offset.local_minus_utc(),
        };
        Ok(micros + i64::from(seconds) * 1_000_000)
    };
    if is_utc(&to.intake.time_zone) {
        return Ok(Arc::new(TimestampMicrosecondArray::new(instants.values().clone(), instants.nulls().cloned())));
    }
    let mut local = TimestampMicrosecondArray::builder(instants.len());
    for (row, micros) in instants.iter().enumerate() {
        local.append_option(micros.map(offset).transpose().map_err(|error| to.at_row(error, row))?);
    }
    Ok(Arc::new(local.finish()))
}

enum Zone {
    Named(chrono_tz::Tz),
    Fixed(FixedOffset),
}

fn is_utc(time_zone: &str) -> bool {
    ["utc", "etc/utc", "gmt", "z", "zulu", "+00", "+00:00"].contains(&time_zone.to_ascii_lowercase().as_str())
}

fn zone(name: &str) -> Result<Zone> {
    if let Ok(zone) = chrono_tz::Tz::from_str(name) {
        return Ok(Zone::Named(zone));
    }
    FixedOffset::from_str(name).map(Zone::Fixed).map_err(|source| {
        let message = format!("time zone \"{name}\" not recognized");
        Error::new(SqlState::InvalidParameterValue, message).caused_by(source)
    })
}

/// The elements of an array, each assigned to the element type.
fn array(column: &ArrayRef, element: &SqlType, to: &Assignment<'_>) -> Result<ArrayRef> {
    let lists = lists(column, to)?;
    let DataType::List(item) = to.to.arrow() else {
        return Err(Error::internal(format!("{} is no array", to.to)));
    };
    let DataType::List(from) = lists.data_type() else {
        return Err(Error::internal("a list without elements"));
    };
    let values = assign(lists.values(), from, &Assignment { to: element, ..*to })?;
    let assigned = ListArray::try_new(item, lists.offsets().clone(), values, lists.nulls().cloned());
    assigned.map(|lists| Arc::new(lists) as ArrayRef).map_err(|source| to.failed(source))
}

fn lists(column: &ArrayRef, to: &Assignment<'_>) -> Result<ListArray> {
    let DataType::FixedSizeList(item, _) = column.data_type() else {
        return Ok(column.as_list::<i32>().clone());
    };
    let lists = cast(column, &DataType::List(item.clone())).map_err(|source| to.failed(source))?;
    Ok(lists.as_list::<i32>().clone())
}

/// Embeddings: every one of the column's length, without NULLs inside.
fn vector(column: &ArrayRef, length: u32, to: &Assignment<'_>) -> Result<ArrayRef> {
    let lists = lists(column, to)?;
    let DataType::List(from) = lists.data_type() else {
        return Err(Error::internal("a list without elements"));
    };
    let values = assign(lists.values(), from, &Assignment { to: &SqlType::Real, ..*to })?;
    let values = values.as_primitive::<Float32Type>();
    let wanted = usize::try_from(length).unwrap_or(usize::MAX);
    let mut elements: Vec<f32> = Vec::with_capacity(lists.len().saturating_mul(wanted).min(values.len() + wanted));
    for (row, ends) in lists.offsets().windows(2).enumerate() {
        if lists.is_null(row) {
            elements.resize(elements.len() + wanted, 0.0);
            continue;
        }
        let (from, to_end) = (place(ends[0]), place(ends[1]));
        if to_end - from != wanted {
            let message = format!("expected {wanted} elements, not {}", to_end - from);
            return Err(to.at_row(Error::new(SqlState::DataException, message), row));
        }
        if (from..to_end).any(|at| values.is_null(at)) {
            return Err(to.at_row(Error::new(SqlState::NullValueNotAllowed, "a vector must not contain nulls"), row));
        }
        elements.extend_from_slice(&values.values()[from..to_end]);
    }
    let item = Arc::new(SqlType::Real.field("item", true));
    let size = i32::try_from(length).map_err(|_too_long| Error::internal("a vector is too long"))?;
    let vectors = FixedSizeListArray::try_new(item, size, Arc::new(Float32Array::from(elements)), lists.nulls().cloned());
    vectors.map(|vectors| Arc::new(vectors) as ArrayRef).map_err(|source| to.failed(source))
}

fn place(offset: i32) -> usize {
    usize::try_from(offset).unwrap_or(0)
}
