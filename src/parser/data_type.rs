//! SQL type names to [`SqlType`].

use sqlparser::ast::{ArrayElemTypeDef, DataType, ExactNumberInfo, TimezoneInfo};

use crate::error::{Error, Result, SqlState};
use crate::types::{NUMERIC_PRECISION_MAX, SqlType};

/// The longest fixed-length vector.
const VECTOR_LENGTH_MAX: u64 = 16_000;

/// The type a column, parameter or feature is declared with. What PostgreSQL has and Tidegate has not is refused by name.
pub fn sql_type(data_type: &DataType) -> Result<SqlType> {
    Ok(match data_type {
        DataType::Boolean | DataType::Bool => SqlType::Boolean,
        DataType::SmallInt(None) | DataType::Int2(None) => SqlType::SmallInt,
        DataType::Integer(None) | DataType::Int(None) | DataType::Int4(None) => SqlType::Integer,
        DataType::BigInt(None) | DataType::Int8(None) => SqlType::BigInt,
        DataType::Real | DataType::Float4 => SqlType::Real,
        DataType::Float(ExactNumberInfo::Precision(bits)) if *bits <= 24 => SqlType::Real,
        DataType::Float(_) | DataType::DoublePrecision | DataType::Double(ExactNumberInfo::None) | DataType::Float8 => {
            SqlType::DoublePrecision
        }
        DataType::Numeric(info) | DataType::Decimal(info) | DataType::Dec(info) => numeric(info)?,
        DataType::Text | DataType::Varchar(None) | DataType::CharacterVarying(None) | DataType::CharVarying(None) => {
            SqlType::Text
        }
        DataType::Bytea => SqlType::Bytea,
        DataType::Date => SqlType::Date,
        DataType::Time(None | Some(6), TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => SqlType::Time,
        DataType::Timestamp(None | Some(6), TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => SqlType::Timestamp,
        DataType::Timestamp(None | Some(6), TimezoneInfo::Tz | TimezoneInfo::WithTimeZone) => SqlType::TimestampTz,
        DataType::Interval { fields: None, precision: None } => SqlType::Interval,
        DataType::Uuid => SqlType::Uuid,
        DataType::JSON => SqlType::Json,
        DataType::Array(ArrayElemTypeDef::SquareBracket(element, length)) => array(element, *length)?,
        DataType::Custom(name, arguments) if arguments.is_empty() => match name.to_string().to_lowercase().as_str() {
            "name" => SqlType::Name,
            "oid" => SqlType::Oid,
            other => return Err(Error::new(SqlState::UndefinedObject, format!("type \"{other}\" does not exist"))),
        },
        DataType::Varchar(_) | DataType::CharacterVarying(_) | DataType::Char(_) | DataType::Character(_) => {
            return Err(refused(data_type).hint("Use text, and a CHECK where the length matters."));
        }
        DataType::JSONB => return Err(refused(data_type).hint("Use json.")),
        other => return Err(refused(other)),
    })
}

fn refused(data_type: &DataType) -> Error {
    Error::unsupported(format!("type {data_type}"))
}

fn numeric(info: &ExactNumberInfo) -> Result<SqlType> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => {
            return Err(Error::unsupported("numeric without a precision").hint("Give precision and scale, as in numeric(18,2)."));
        }
        ExactNumberInfo::Precision(precision) => (*precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
    };
    let out_of_range = |what: String| Error::new(SqlState::InvalidParameterValue, what);
    let precision = u8::try_from(precision)
        .ok()
        .filter(|precision| (1..=NUMERIC_PRECISION_MAX).contains(precision))
        .ok_or_else(|| out_of_range(format!("NUMERIC precision {precision} must be between 1 and {NUMERIC_PRECISION_MAX}")))?;
    let scale = i8::try_from(scale)
        .ok()
        .filter(|scale| *scale >= 0 && i16::from(*scale) <= i16::from(precision))
        .ok_or_else(|| out_of_range(format!("NUMERIC scale {scale} must be between 0 and precision {precision}")))?;
    Ok(SqlType::Numeric { precision, scale })
}

fn array(element: &DataType, length: Option<u64>) -> Result<SqlType> {
    let element = match sql_type(element)? {
        SqlType::Array(_) | SqlType::Vector(_) => return Err(Error::unsupported("an array of more than one dimension")),
        element => element,
    };
    match (element, length) {
        (SqlType::Real, Some(length)) => {
            let length = u32::try_from(length).ok().filter(|_| (1..=VECTOR_LENGTH_MAX).contains(&length));
            let length = length.ok_or_else(|| {
                Error::new(SqlState::InvalidParameterValue, format!("a vector has 1 to {VECTOR_LENGTH_MAX} elements"))
            })?;
            Ok(SqlType::Vector(length))
        }
        (element, _) => Ok(SqlType::Array(Box::new(element))),
    }
}
