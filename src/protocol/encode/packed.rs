//! Values of packed rows and keys, as the online store holds them, to PostgreSQL values: what [`Cells`](crate::types::cells::Cells) does for
//! columns, a value at a time and without building one.

use bytes::BytesMut;

use super::TextStyle;
use super::binary::{EPOCH_DAYS, EPOCH_MICROS, instant_out_of_range, put_numeric, too_many_elements};
use crate::error::{Error, Result, SqlState};
use crate::protocol::Format;
use crate::protocol::backend::with_length;
use crate::types::SqlType;
use crate::types::text::{
    TextSink, write_bytea, write_date, write_decimal, write_element, write_float4, write_float8, write_integer, write_interval,
    write_time, write_timestamp, write_timestamptz,
};

/// Writes a packed value of `sql_type`; `XX001` where the bytes are none.
pub(crate) fn write_packed(sql_type: &SqlType, value: &[u8], format: Format, style: TextStyle, out: &mut BytesMut) -> Result<()> {
    match format {
        Format::Text => write_text(sql_type, value, style, out),
        Format::Binary => write_binary(sql_type, value, out),
    }
}

fn write_text(sql_type: &SqlType, value: &[u8], style: TextStyle, out: &mut BytesMut) -> Result<()> {
    match sql_type {
        SqlType::Boolean => out.put(if exactly::<1>(value)? == [0] { "f" } else { "t" }),
        SqlType::SmallInt => write_integer(out, i16::from_le_bytes(exactly(value)?).into()),
        SqlType::Integer => write_integer(out, i32::from_le_bytes(exactly(value)?).into()),
        SqlType::BigInt | SqlType::Oid => write_integer(out, i64::from_le_bytes(exactly(value)?)),
        SqlType::Real => write_float4(out, f32::from_le_bytes(exactly(value)?)),
        SqlType::DoublePrecision => write_float8(out, f64::from_le_bytes(exactly(value)?)),
        SqlType::Numeric { scale, .. } => write_decimal(out, &i128::from_le_bytes(exactly(value)?), *scale),
        SqlType::Text | SqlType::Json | SqlType::Name | SqlType::Char => out.put(text(value)?),
        SqlType::Bytea => write_bytea(out, value),
        SqlType::Uuid => {
            let uuid = uuid::Uuid::from_bytes(exactly(value)?);
            out.put(uuid.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()));
        }
        SqlType::Date => write_date(out, i32::from_le_bytes(exactly(value)?)),
        SqlType::Time => write_time(out, i64::from_le_bytes(exactly(value)?)),
        SqlType::Timestamp => write_timestamp(out, i64::from_le_bytes(exactly(value)?)),
        SqlType::TimestampTz => write_timestamptz(out, i64::from_le_bytes(exactly(value)?), style.zone),
        SqlType::Interval => write_interval(out, interval(value)?.arrow()),
        SqlType::Vector(_) => {
            out.put("{");
            for (place, element) in numbers(value)?.iter().enumerate() {
                out.put(if place > 0 { "," } else { "" });
                write_float4(out, f32::from_le_bytes(*element));
            }
            out.put("}");
        }
        SqlType::Array(_) | SqlType::Int2Vector | SqlType::OidVector => write_list(sql_type, value, style, out)?,
    }
    Ok(())
}

fn write_list(sql_type: &SqlType, value: &[u8], style: TextStyle, out: &mut BytesMut) -> Result<()> {
    let element_type = element_of(sql_type);
    let (open, separator, close) = match sql_type {
        SqlType::Int2Vector | SqlType::OidVector => ("", " ", ""),
        _ => ("{", ",", "}"),
    };
    out.put(open);
    let mut scratch = BytesMut::new();
    for place in 0..count(value)? {
        if place > 0 {
            out.put(separator);
        }
        match element(element_type, value, place)? {
            None => out.put("NULL"),
            Some(element) if is_never_quoted(element_type) => write_text(element_type, element, style, out)?,
            Some(element) => {
                scratch.clear();
                write_text(element_type, element, style, &mut scratch)?;
                write_element(out, text(&scratch)?);
            }
        }
    }
    out.put(close);
    Ok(())
}

/// Whether the text of such values can never be misread inside an array.
fn is_never_quoted(sql_type: &SqlType) -> bool {
    use SqlType::{BigInt, Boolean, DoublePrecision, Integer, Numeric, Oid, Real, SmallInt, Time};
    matches!(sql_type, Boolean | SmallInt | Integer | BigInt | Oid | Real | DoublePrecision | Numeric { .. } | Time)
}

fn write_binary(sql_type: &SqlType, value: &[u8], out: &mut BytesMut) -> Result<()> {
    // Here, because the other form's sink has a `put` too.
    use bytes::BufMut;
    match sql_type {
        SqlType::Boolean => out.put_u8(u8::from(exactly::<1>(value)? != [0])),
        SqlType::SmallInt => out.put_i16(i16::from_le_bytes(exactly(value)?)),
        SqlType::Integer => out.put_i32(i32::from_le_bytes(exactly(value)?)),
        SqlType::BigInt | SqlType::Time => out.put_i64(i64::from_le_bytes(exactly(value)?)),
        SqlType::Oid => {
            let number = u32::try_from(i64::from_le_bytes(exactly(value)?));
            out.put_u32(number.map_err(|_| Error::new(SqlState::NumericValueOutOfRange, "OID out of range"))?);
        }
        SqlType::Real => out.put_u32(u32::from_le_bytes(exactly(value)?)),
        SqlType::DoublePrecision => out.put_u64(u64::from_le_bytes(exactly(value)?)),
        SqlType::Numeric { scale, .. } => put_numeric(out, &i128::from_le_bytes(exactly(value)?), *scale)?,
        SqlType::Text | SqlType::Json | SqlType::Name => out.extend_from_slice(text(value)?.as_bytes()),
        SqlType::Char => out.put_u8(value.first().copied().unwrap_or(0)),
        SqlType::Bytea | SqlType::Uuid => out.extend_from_slice(value),
        SqlType::Date => {
            let days = i32::from_le_bytes(exactly(value)?);
            out.put_i32(days.checked_sub(EPOCH_DAYS).ok_or_else(instant_out_of_range)?);
        }
        SqlType::Timestamp | SqlType::TimestampTz => {
            let micros = i64::from_le_bytes(exactly(value)?);
            out.put_i64(micros.checked_sub(EPOCH_MICROS).ok_or_else(instant_out_of_range)?);
        }
        SqlType::Interval => {
            let Interval { months, days, nanos } = interval(value)?;
            out.put_i64(nanos / 1000);
            out.put_i32(days);
            out.put_i32(months);
        }
        SqlType::Vector(_) => {
            let numbers = numbers(value)?;
            list_head(&SqlType::Real, numbers.len(), false, 1, out)?;
            for number in numbers {
                out.put_i32(4);
                out.put_u32(u32::from_le_bytes(*number));
            }
        }
        SqlType::Array(_) | SqlType::Int2Vector | SqlType::OidVector => {
            let element_type = element_of(sql_type);
            let lower_bound = i32::from(matches!(sql_type, SqlType::Array(_)));
            let elements = (0..count(value)?).map(|place| element(element_type, value, place)).collect::<Result<Vec<_>>>()?;
            list_head(element_type, elements.len(), elements.contains(&None), lower_bound, out)?;
            for element in elements {
                match element {
                    None => out.put_i32(-1),
                    Some(element) => with_length(out, 0, |out| write_binary(element_type, element, out))?,
                }
            }
        }
    }
    Ok(())
}

/// Dimensions, a flag for NULLs, the element type, and the dimension's length and lower bound.
fn list_head(element_type: &SqlType, length: usize, has_null: bool, lower_bound: i32, out: &mut BytesMut) -> Result<()> {
    use bytes::BufMut;
    out.put_i32(i32::from(length > 0));
    out.put_i32(i32::from(has_null));
    out.put_u32(element_type.oid());
    if length > 0 {
        out.put_i32(i32::try_from(length).map_err(|_| too_many_elements())?);
        out.put_i32(lower_bound);
    }
    Ok(())
}

fn element_of(sql_type: &SqlType) -> &SqlType {
    match sql_type {
        SqlType::Array(element) => element,
        SqlType::OidVector => &SqlType::Oid,
        _ => &SqlType::SmallInt,
    }
}

/// How many elements a packed array has.
fn count(value: &[u8]) -> Result<usize> {
    crate::online::row::list_len(value).ok_or_else(corrupt)
}

/// An element of a packed array; `None` for NULL.
fn element<'a>(element_type: &SqlType, value: &'a [u8], place: usize) -> Result<Option<&'a [u8]>> {
    crate::online::row::list_element(element_type, value, place).ok_or_else(corrupt)
}

/// The numbers of a packed vector.
fn numbers(value: &[u8]) -> Result<&[[u8; 4]]> {
    match value.as_chunks() {
        (numbers, []) => Ok(numbers),
        _ => Err(corrupt()),
    }
}

struct Interval {
    months: i32,
    days: i32,
    nanos: i64,
}

impl Interval {
    fn arrow(self) -> arrow::datatypes::IntervalMonthDayNano {
        arrow::datatypes::IntervalMonthDayNano::new(self.months, self.days, self.nanos)
    }
}

fn interval(value: &[u8]) -> Result<Interval> {
    let [m0, m1, m2, m3, d0, d1, d2, d3, nanos @ ..] = exactly::<16>(value)?;
    Ok(Interval {
        months: i32::from_le_bytes([m0, m1, m2, m3]),
        days: i32::from_le_bytes([d0, d1, d2, d3]),
        nanos: i64::from_le_bytes(nanos),
    })
}

fn text(value: &[u8]) -> Result<&str> {
    std::str::from_utf8(value).map_err(|source| corrupt().caused_by(source))
}

fn exactly<const N: usize>(value: &[u8]) -> Result<[u8; N]> {
    value.try_into().map_err(|_| corrupt())
}

fn corrupt() -> Error {
    crate::online::row::corrupt()
}
