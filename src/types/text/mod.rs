//! PostgreSQL's text form of values, both ways.
//!
//! In: [`TextParser`] builds a column from text as PostgreSQL's input functions read it, with their errors. Out: the
//! `write_…` functions give the text that PostgreSQL's output functions give. Dates are ISO, intervals in the `postgres`
//! style, `bytea` in hex, floats in their shortest exact form.

mod array;
mod bytes;
mod column;
mod datetime;
mod interval;
mod number;
mod zone;

use arrow::array::ArrayRef;

pub use array::{split as array_elements, write_element};
pub use bytes::{parse_bytea, parse_uuid, write_bytea};
pub use column::ColumnBuilder;
pub use datetime::{AFTER_ALL, BEFORE_ALL, parse_instant, write_date, write_time, write_timestamp, write_timestamptz};
pub use interval::{parse_interval, write_interval};
pub use number::{parse_decimal, write_decimal, write_float4, write_float8, write_integer};
pub use zone::Zone;

use super::SqlType;
use crate::error::{Error, Result, SqlState};

/// Where text is written: strings and buffers of bytes, which cannot fail.
pub trait TextSink {
    /// Adds `text` at the end.
    fn put(&mut self, text: &str);
}

impl TextSink for String {
    fn put(&mut self, text: &str) {
        self.push_str(text);
    }
}

impl TextSink for Vec<u8> {
    fn put(&mut self, text: &str) {
        self.extend_from_slice(text.as_bytes());
    }
}

impl TextSink for bytes_crate::BytesMut {
    fn put(&mut self, text: &str) {
        self.extend_from_slice(text.as_bytes());
    }
}

use ::bytes as bytes_crate;

/// Builds a column of one SQL type from PostgreSQL text: parameters, `COPY` fields, string literals.
#[derive(Debug)]
pub struct TextParser {
    data_type: SqlType,
    zone: Zone,
    column: ColumnBuilder,
}

impl TextParser {
    /// A parser for values of `data_type`; instants without a zone are read in `time_zone` (an IANA name or an offset).
    pub fn new(data_type: &SqlType, time_zone: &str) -> Result<Self> {
        Ok(Self::in_zone(data_type, Zone::parse(time_zone)?))
    }

    /// As [`TextParser::new`], for a zone that is parsed already.
    pub fn in_zone(data_type: &SqlType, zone: Zone) -> Self {
        Self { data_type: data_type.clone(), zone, column: ColumnBuilder::new(data_type) }
    }

    /// Adds a value; `None` is NULL. Errors carry the SQLSTATE and message PostgreSQL would give
    /// (`22P02`: `invalid input syntax for type bigint: "x"`), and leave the column as it was.
    pub fn append(&mut self, text: Option<&str>) -> Result<()> {
        match text {
            None => {
                self.column.push_null();
                Ok(())
            }
            Some(text) => parse_into(&mut self.column, &self.data_type, text, self.zone),
        }
    }

    /// The number of values added since the last [`TextParser::finish`].
    pub fn len(&self) -> usize {
        self.column.len()
    }

    /// Whether no value was added since the last [`TextParser::finish`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values added so far, of the type's Arrow form. The parser starts anew.
    pub fn finish(&mut self) -> ArrayRef {
        self.column.finish()
    }
}

fn parse_into(column: &mut ColumnBuilder, data_type: &SqlType, text: &str, zone: Zone) -> Result<()> {
    match column {
        ColumnBuilder::Boolean(values) => values.append_value(number::parse_bool(text)?),
        ColumnBuilder::Int16(values) => values.append_value(number::parse_integer(text, "smallint")?),
        ColumnBuilder::Int32(values) => values.append_value(number::parse_integer(text, "integer")?),
        ColumnBuilder::Int64(values) => match data_type {
            SqlType::Oid => values.append_value(number::parse_oid(text)?),
            _ => values.append_value(number::parse_integer(text, "bigint")?),
        },
        ColumnBuilder::Float32(values) => values.append_value(number::parse_float4(text)?),
        ColumnBuilder::Float64(values) => values.append_value(number::parse_float8(text)?),
        ColumnBuilder::Decimal { values, precision, scale } => {
            values.append_value(number::parse_decimal(text, *precision, *scale)?);
        }
        ColumnBuilder::Utf8(values) => match data_type {
            SqlType::Uuid => values.append_value(bytes::format_uuid(parse_uuid(text)?)),
            SqlType::Json => values.append_value(check_json(text)?),
            SqlType::Name => values.append_value(prefix(text, NAME_BYTES_MAX)),
            SqlType::Char => values.append_value(prefix(text, 1)),
            _ => values.append_value(text),
        },
        ColumnBuilder::Binary(values) => values.append_value(parse_bytea(text)?),
        ColumnBuilder::Date32(values) => values.append_value(datetime::parse_date(text)?),
        ColumnBuilder::Time64(values) => values.append_value(datetime::parse_time(text)?),
        ColumnBuilder::Timestamp { values, with_zone } => values.append_value(match with_zone {
            false => datetime::parse_timestamp(text)?,
            true => datetime::parse_timestamptz(text, zone)?,
        }),
        ColumnBuilder::Interval(values) => values.append_value(parse_interval(text)?),
        ColumnBuilder::List(_) | ColumnBuilder::Vector(_) => append_array(column, data_type, text, zone)?,
    }
    Ok(())
}

/// The bytes a `name` may have; PostgreSQL cuts off the rest.
const NAME_BYTES_MAX: usize = 63;

fn append_array(column: &mut ColumnBuilder, data_type: &SqlType, text: &str, zone: Zone) -> Result<()> {
    let elements = match data_type {
        SqlType::Int2Vector | SqlType::OidVector => text.split_ascii_whitespace().map(|word| Some(word.to_owned())).collect(),
        _ => array::split(text)?,
    };
    let element_type = column::element_type(data_type);
    let mut parsed = ColumnBuilder::new(&element_type);
    for element in &elements {
        match element {
            Some(element) => parse_into(&mut parsed, &element_type, element, zone)?,
            None => parsed.push_null(),
        }
    }
    column.push_list(&parsed.finish())
}

fn prefix(text: &str, bytes_max: usize) -> &str {
    let end = text.char_indices().map(|(start, c)| start + c.len_utf8()).take_while(|end| *end <= bytes_max).last();
    match end {
        Some(end) => &text[..end],
        // A first character wider than the limit stays whole: half a character is not text.
        None => text.chars().next().map_or("", |first| &text[..first.len_utf8()]),
    }
}

fn check_json(text: &str) -> Result<&str> {
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(text),
        Err(problem) => {
            Err(Error::new(SqlState::InvalidTextRepresentation, "invalid input syntax for type json")
                .detail(format!("{problem}.")))
        }
    }
}

fn syntax(type_name: &str, text: &str) -> Error {
    Error::new(SqlState::InvalidTextRepresentation, format!("invalid input syntax for type {type_name}: \"{text}\""))
}
