//! PostgreSQL values to Arrow: parameters, and the fields of binary `COPY`.

use arrow::array::ArrayRef;
use arrow::datatypes::IntervalMonthDayNano;
use datafusion::scalar::ScalarValue;

use super::Format;
use super::encode::{EPOCH_DAYS, EPOCH_MICROS};
use super::frontend::{Cursor, utf8};
use crate::error::{Error, Result, SqlState};
use crate::types::SqlType;
use crate::types::text::{AFTER_ALL, BEFORE_ALL, ColumnBuilder, TextParser, Zone, parse_decimal};

/// The value of a parameter, counted from 1.
pub(super) fn parameter(
    value: Option<&[u8]>,
    format: Format,
    sql_type: &SqlType,
    number: usize,
    zone: Zone,
) -> Result<ScalarValue> {
    let array = match (value, format) {
        (None, _) => {
            return ScalarValue::try_from(sql_type.arrow())
                .map_err(|problem| Error::unsupported(format!("a parameter of type {sql_type}")).caused_by(problem));
        }
        (Some(bytes), Format::Text) => {
            let mut parser = TextParser::in_zone(sql_type, zone);
            parser.append(Some(utf8(bytes)?))?;
            parser.finish()
        }
        (Some(bytes), Format::Binary) => {
            let mut parser = BinaryParser::new(sql_type);
            parser.append(Some(bytes)).map_err(|problem| match problem {
                Unread::Length => {
                    let message = format!("incorrect binary data format in bind parameter {number}");
                    Error::new(SqlState::InvalidBinaryRepresentation, message)
                }
                Unread::Value(error) => error,
            })?;
            parser.finish()
        }
    };
    ScalarValue::try_from_array(&array, 0)
        .map_err(|problem| Error::internal("a parameter that is no single value").caused_by(problem))
}

/// Why bytes could not be read as a value.
#[derive(Debug)]
pub(super) enum Unread {
    /// There are more or fewer than the type has.
    Length,
    /// They mean nothing, or too much, in the type.
    Value(Error),
}

impl From<Error> for Unread {
    fn from(error: Error) -> Self {
        match error.code() {
            SqlState::ProtocolViolation => Unread::Length,
            _ => Unread::Value(error),
        }
    }
}

/// Builds a column of one SQL type from PostgreSQL's binary form.
#[derive(Debug)]
pub(super) struct BinaryParser {
    sql_type: SqlType,
    column: ColumnBuilder,
}

impl BinaryParser {
    pub(super) fn new(sql_type: &SqlType) -> Self {
        Self { sql_type: sql_type.clone(), column: ColumnBuilder::new(sql_type) }
    }

    /// Adds a value; `None` is NULL. After an error the column is as it was.
    pub(super) fn append(&mut self, value: Option<&[u8]>) -> Result<(), Unread> {
        match value {
            None => {
                self.column.push_null();
                Ok(())
            }
            Some(bytes) => read_into(&mut self.column, &self.sql_type, bytes),
        }
    }

    pub(super) fn finish(&mut self) -> ArrayRef {
        self.column.finish()
    }
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Unread> {
    bytes.try_into().map_err(|_| Unread::Length)
}

fn read_into(column: &mut ColumnBuilder, sql_type: &SqlType, bytes: &[u8]) -> Result<(), Unread> {
    match column {
        ColumnBuilder::Boolean(values) => values.append_value(exactly::<1>(bytes)? != [0]),
        ColumnBuilder::Int16(values) => values.append_value(i16::from_be_bytes(exactly(bytes)?)),
        ColumnBuilder::Int32(values) => values.append_value(i32::from_be_bytes(exactly(bytes)?)),
        ColumnBuilder::Int64(values) => values.append_value(match sql_type {
            SqlType::Oid => u32::from_be_bytes(exactly(bytes)?).into(),
            _ => i64::from_be_bytes(exactly(bytes)?),
        }),
        ColumnBuilder::Float32(values) => values.append_value(f32::from_be_bytes(exactly(bytes)?)),
        ColumnBuilder::Float64(values) => values.append_value(f64::from_be_bytes(exactly(bytes)?)),
        ColumnBuilder::Decimal { values, precision, scale } => {
            values.append_value(parse_decimal(&numeric_text(bytes)?, *precision, *scale)?);
        }
        ColumnBuilder::Utf8(values) => values.append_value(text_of(sql_type, bytes)?),
        ColumnBuilder::Binary(values) => values.append_value(bytes),
        ColumnBuilder::Date32(values) => {
            let days = i32::from_be_bytes(exactly(bytes)?);
            if matches!(days, i32::MIN | i32::MAX) {
                return Err(Unread::Value(infinite("date")));
            }
            values.append_value(days.checked_add(EPOCH_DAYS).ok_or_else(|| Unread::Value(out_of_range("date")))?);
        }
        ColumnBuilder::Time64(values) => {
            let micros = i64::from_be_bytes(exactly(bytes)?);
            if !(0..=86_400_000_000).contains(&micros) {
                return Err(Unread::Value(out_of_range("time")));
            }
            values.append_value(micros);
        }
        ColumnBuilder::Timestamp { values, .. } => {
            values.append_value(match i64::from_be_bytes(exactly(bytes)?) {
                infinite @ (BEFORE_ALL | AFTER_ALL) => infinite,
                micros => micros.checked_add(EPOCH_MICROS).ok_or_else(|| Unread::Value(out_of_range("timestamp")))?,
            });
        }
        ColumnBuilder::Interval(values) => values.append_value(interval(&exactly(bytes)?)?),
        ColumnBuilder::List(_) | ColumnBuilder::Vector(_) => {
            let elements = array(sql_type, bytes)?;
            column.push_list(&elements)?;
        }
    }
    Ok(())
}

fn infinite(type_name: &str) -> Error {
    Error::unsupported(format!("an infinite {type_name}")).hint("Send a finite one, such as 9999-12-31.")
}

fn out_of_range(what: &str) -> Error {
    Error::new(SqlState::DatetimeFieldOverflow, format!("{what} out of range"))
}

fn text_of(sql_type: &SqlType, bytes: &[u8]) -> Result<String, Unread> {
    let text = match sql_type {
        SqlType::Uuid => {
            let [a, b, c, d, e, f, g, h, tail @ ..] = exactly::<16>(bytes)?;
            let head = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
            let tail = u64::from_be_bytes(tail);
            let hex = format!("{head:016x}{tail:016x}");
            return Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]));
        }
        // `jsonb` has a version byte before its text, which no JSON begins with.
        SqlType::Json => utf8(bytes.strip_prefix(&[1]).unwrap_or(bytes))?,
        _ => utf8(bytes)?,
    };
    if text.contains('\0') {
        let message = "invalid byte sequence for encoding \"UTF8\": 0x00";
        return Err(Unread::Value(Error::new(SqlState::CharacterNotInRepertoire, message)));
    }
    if *sql_type == SqlType::Json {
        // What is stored as JSON is JSON, whichever way it came.
        TextParser::in_zone(sql_type, Zone::Utc).append(Some(text))?;
    }
    Ok(text.to_owned())
}

fn interval(bytes: &[u8; 16]) -> Result<IntervalMonthDayNano, Unread> {
    let mut body = Cursor { rest: bytes };
    let (micros, days, months) = (body.i64()?, body.i32()?, body.i32()?);
    let nanos = micros
        .checked_mul(1000)
        .ok_or_else(|| Unread::Value(Error::new(SqlState::IntervalFieldOverflow, "interval field value out of range")))?;
    Ok(IntervalMonthDayNano::new(months, days, nanos))
}

/// The decimal text of a binary `numeric`.
fn numeric_text(bytes: &[u8]) -> Result<String, Unread> {
    let mut body = Cursor { rest: bytes };
    let (count, weight, sign, _shown) = (body.i16()?, body.i16()?, body.i16()?, body.i16()?);
    let groups = usize::try_from(count).map_err(|_| Unread::Length)?;
    let negative = match u16::from_be_bytes(sign.to_be_bytes()) {
        0x0000 => false,
        0x4000 => true,
        0xc000 => return Ok("NaN".into()),
        0xd000 => return Ok("Infinity".into()),
        0xf000 => return Ok("-Infinity".into()),
        _ => return Err(bad_numeric("sign")),
    };
    let mut digits = String::new();
    for _ in 0..groups {
        let group = body.i16()?;
        if !(0..10_000).contains(&group) {
            return Err(bad_numeric("digit"));
        }
        digits.push_str(&format!("{group:04}"));
    }
    if !body.rest.is_empty() {
        return Err(Unread::Length);
    }
    // The point stands after the group of weight 0; the exponent moves it there from the end of the digits.
    let exponent = (i32::from(weight) + 1 - i32::from(count)) * 4;
    let digits = if digits.is_empty() { "0" } else { &digits };
    Ok(format!("{}{digits}e{exponent}", if negative { "-" } else { "" }))
}

fn bad_numeric(what: &str) -> Unread {
    Unread::Value(Error::new(SqlState::InvalidBinaryRepresentation, format!("invalid {what} in external \"numeric\" value")))
}

/// The elements of a binary array, as a column of their own.
fn array(sql_type: &SqlType, bytes: &[u8]) -> Result<ArrayRef, Unread> {
    let element_type = match sql_type {
        SqlType::Array(element) => (**element).clone(),
        SqlType::Vector(_) => SqlType::Real,
        SqlType::Int2Vector => SqlType::SmallInt,
        SqlType::OidVector => SqlType::Oid,
        other => other.clone(),
    };
    let mut body = Cursor { rest: bytes };
    let (dimensions, _has_nulls, element_oid) = (body.i32()?, body.i32()?, body.u32()?);
    let sent = SqlType::from_oid(element_oid);
    let is_same = match (&sent, &element_type) {
        (Some(SqlType::Numeric { .. }), SqlType::Numeric { .. }) => true,
        (Some(sent), expected) => sent == expected || (is_text(sent) && is_text(expected)),
        (None, _) => false,
    };
    if !is_same {
        let sent = sent.map_or_else(|| "unknown".to_owned(), |sent| sent.name());
        let message = format!(
            "binary data has array element type {element_oid} ({sent}) instead of expected {} ({element_type})",
            element_type.oid()
        );
        return Err(Unread::Value(Error::new(SqlState::DatatypeMismatch, message)));
    }
    let count = match dimensions {
        0 => 0,
        1 => {
            let (length, _lower_bound) = (body.i32()?, body.i32()?);
            usize::try_from(length).map_err(|_| Unread::Length)?
        }
        2..=6 => return Err(Unread::Value(Error::unsupported("an array of several dimensions"))),
        other => {
            let message = format!("invalid number of dimensions: {other}");
            return Err(Unread::Value(Error::new(SqlState::InvalidBinaryRepresentation, message)));
        }
    };
    let mut elements = ColumnBuilder::new(&element_type);
    for _ in 0..count {
        match body.value()? {
            Some(bytes) => read_into(&mut elements, &element_type, bytes)?,
            None => elements.push_null(),
        }
    }
    if body.rest.is_empty() { Ok(elements.finish()) } else { Err(Unread::Length) }
}

fn is_text(sql_type: &SqlType) -> bool {
    matches!(sql_type, SqlType::Text | SqlType::Name)
}
