//! The SQL types, and how each stands in Arrow and on the wire.
//!
//! Where several SQL types share an Arrow type (`text`, `uuid`, `json`, `name` are all Utf8), the field's metadata says
//! which one is meant, under [`PG_TYPE_KEY`]. Everything that crosses a room boundary as Arrow keeps that metadata.

pub(crate) mod cells;
pub mod text;

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit, TimeUnit};
use serde::{Deserialize, Serialize};

/// The field metadata key under which the SQL type's name stands where the Arrow type alone does not tell it.
pub const PG_TYPE_KEY: &str = "pg_type";

/// The digits a `numeric` may have: what 128 bits hold.
pub const NUMERIC_PRECISION_MAX: u8 = 38;

/// A SQL type, as PostgreSQL names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SqlType {
    /// `boolean`
    Boolean,
    /// `smallint`
    SmallInt,
    /// `integer`
    Integer,
    /// `bigint`
    BigInt,
    /// `real`
    Real,
    /// `double precision`
    DoublePrecision,
    /// `numeric(precision, scale)`
    Numeric {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits after the point.
        scale: i8,
    },
    /// `text`
    Text,
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time without time zone`
    Time,
    /// `timestamp without time zone`
    Timestamp,
    /// `timestamp with time zone`
    TimestampTz,
    /// `interval`
    Interval,
    /// `uuid`, held as its canonical text
    Uuid,
    /// `json`, held as its text
    Json,
    /// An array of any length.
    Array(Box<SqlType>),
    /// `real[n]`: an embedding of exactly `n` numbers.
    Vector(u32),
    /// `name`: the catalogs' identifiers
    Name,
    /// `oid`: the catalogs' object numbers
    Oid,
    /// `"char"`: the catalogs' one-letter codes
    Char,
    /// `int2vector`, in the catalogs only
    Int2Vector,
    /// `oidvector`, in the catalogs only
    OidVector,
}

impl SqlType {
    /// The name PostgreSQL's `format_type` gives.
    pub fn name(&self) -> String {
        match self {
            SqlType::Boolean => "boolean".into(),
            SqlType::SmallInt => "smallint".into(),
            SqlType::Integer => "integer".into(),
            SqlType::BigInt => "bigint".into(),
            SqlType::Real => "real".into(),
            SqlType::DoublePrecision => "double precision".into(),
            SqlType::Numeric { precision, scale } => format!("numeric({precision},{scale})"),
            SqlType::Text => "text".into(),
            SqlType::Bytea => "bytea".into(),
            SqlType::Date => "date".into(),
            SqlType::Time => "time without time zone".into(),
            SqlType::Timestamp => "timestamp without time zone".into(),
            SqlType::TimestampTz => "timestamp with time zone".into(),
            SqlType::Interval => "interval".into(),
            SqlType::Uuid => "uuid".into(),
            SqlType::Json => "json".into(),
            SqlType::Array(element) => format!("{}[]", element.name()),
            SqlType::Vector(length) => format!("real[{length}]"),
            SqlType::Name => "name".into(),
            SqlType::Oid => "oid".into(),
            SqlType::Char => "\"char\"".into(),
            SqlType::Int2Vector => "int2vector".into(),
            SqlType::OidVector => "oidvector".into(),
        }
    }

    /// The type's OID in `pg_type`.
    pub fn oid(&self) -> u32 {
        match self {
            SqlType::Boolean => 16,
            SqlType::Bytea => 17,
            SqlType::Char => 18,
            SqlType::Name => 19,
            SqlType::BigInt => 20,
            SqlType::SmallInt => 21,
            SqlType::Int2Vector => 22,
            SqlType::Integer => 23,
            SqlType::Text => 25,
            SqlType::Oid => 26,
            SqlType::OidVector => 30,
            SqlType::Json => 114,
            SqlType::Real => 700,
            SqlType::DoublePrecision => 701,
            SqlType::Date => 1082,
            SqlType::Time => 1083,
            SqlType::Timestamp => 1114,
            SqlType::TimestampTz => 1184,
            SqlType::Interval => 1186,
            SqlType::Numeric { .. } => 1700,
            SqlType::Uuid => 2950,
            SqlType::Vector(_) => 1021,
            SqlType::Array(element) => element.array_oid(),
        }
    }

    /// The OID of the array type over this one; arrays of arrays are the same type in PostgreSQL.
    pub fn array_oid(&self) -> u32 {
        match self {
            SqlType::Boolean => 1000,
            SqlType::Bytea => 1001,
            SqlType::Char => 1002,
            SqlType::Name => 1003,
            SqlType::SmallInt => 1005,
            SqlType::Int2Vector => 1006,
            SqlType::Integer => 1007,
            SqlType::Text => 1009,
            SqlType::OidVector => 1013,
            SqlType::BigInt => 1016,
            SqlType::Real => 1021,
            SqlType::DoublePrecision => 1022,
            SqlType::Oid => 1028,
            SqlType::Timestamp => 1115,
            SqlType::Date => 1182,
            SqlType::Time => 1183,
            SqlType::TimestampTz => 1185,
            SqlType::Interval => 1187,
            SqlType::Numeric { .. } => 1231,
            SqlType::Json => 199,
            SqlType::Uuid => 2951,
            SqlType::Array(_) | SqlType::Vector(_) => self.oid(),
        }
    }

    /// The type a client means by an OID in `Parse`; `None` for OIDs this server has no type for.
    ///
    /// `varchar` (1043), `bpchar` (1042) and `unknown` (705) are text, `jsonb` (3802) is json.
    pub fn from_oid(oid: u32) -> Option<Self> {
        let scalar = match oid {
            16 => SqlType::Boolean,
            17 => SqlType::Bytea,
            18 => SqlType::Char,
            19 => SqlType::Name,
            20 => SqlType::BigInt,
            21 => SqlType::SmallInt,
            22 => SqlType::Int2Vector,
            23 => SqlType::Integer,
            25 | 705 | 1042 | 1043 => SqlType::Text,
            26 => SqlType::Oid,
            30 => SqlType::OidVector,
            114 | 3802 => SqlType::Json,
            700 => SqlType::Real,
            701 => SqlType::DoublePrecision,
            1082 => SqlType::Date,
            1083 => SqlType::Time,
            1114 => SqlType::Timestamp,
            1184 => SqlType::TimestampTz,
            1186 => SqlType::Interval,
            1700 => SqlType::Numeric { precision: NUMERIC_PRECISION_MAX, scale: 10 },
            2950 => SqlType::Uuid,
            _ => {
                let element = match oid {
                    1000 => 16,
                    1001 => 17,
                    1002 => 18,
                    1003 => 19,
                    1005 => 21,
                    1007 => 23,
                    1009 | 1014 | 1015 => 25,
                    1016 => 20,
                    1021 => 700,
                    1022 => 701,
                    1028 => 26,
                    1115 => 1114,
                    1182 => 1082,
                    1183 => 1083,
                    1185 => 1184,
                    1187 => 1186,
                    1231 => 1700,
                    199 | 3807 => 114,
                    2951 => 2950,
                    _ => return None,
                };
                return Self::from_oid(element).map(|element| SqlType::Array(Box::new(element)));
            }
        };
        Some(scalar)
    }

    /// `typlen`: the bytes of a fixed-width type, or -1.
    pub fn wire_size(&self) -> i16 {
        match self {
            SqlType::Boolean | SqlType::Char => 1,
            SqlType::SmallInt => 2,
            SqlType::Integer | SqlType::Real | SqlType::Date | SqlType::Oid => 4,
            SqlType::BigInt | SqlType::DoublePrecision | SqlType::Time | SqlType::Timestamp | SqlType::TimestampTz => 8,
            SqlType::Interval | SqlType::Uuid => 16,
            SqlType::Name => 64,
            SqlType::Numeric { .. }
            | SqlType::Text
            | SqlType::Bytea
            | SqlType::Json
            | SqlType::Array(_)
            | SqlType::Vector(_)
            | SqlType::Int2Vector
            | SqlType::OidVector => -1,
        }
    }

    /// `atttypmod`: precision and scale of a `numeric` column, else -1.
    pub fn type_modifier(&self) -> i32 {
        match self {
            SqlType::Numeric { precision, scale } => ((i32::from(*precision) << 16) | (i32::from(*scale) & 0x7ff)) + 4,
            _ => -1,
        }
    }

    /// How values of this type are held in Arrow. Instants are microseconds, as in PostgreSQL.
    pub fn arrow(&self) -> DataType {
        match self {
            SqlType::Boolean => DataType::Boolean,
            SqlType::SmallInt => DataType::Int16,
            SqlType::Integer => DataType::Int32,
            SqlType::BigInt | SqlType::Oid => DataType::Int64,
            SqlType::Real => DataType::Float32,
            SqlType::DoublePrecision => DataType::Float64,
            SqlType::Numeric { precision, scale } => DataType::Decimal128(*precision, *scale),
            SqlType::Text | SqlType::Uuid | SqlType::Json | SqlType::Name | SqlType::Char => DataType::Utf8,
            SqlType::Bytea => DataType::Binary,
            SqlType::Date => DataType::Date32,
            SqlType::Time => DataType::Time64(TimeUnit::Microsecond),
            SqlType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            SqlType::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            SqlType::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            SqlType::Array(element) => DataType::List(Arc::new(element.field("item", true))),
            SqlType::Vector(length) => {
                let length = i32::try_from(*length).unwrap_or(i32::MAX);
                DataType::FixedSizeList(Arc::new(SqlType::Real.field("item", true)), length)
            }
            SqlType::Int2Vector => DataType::List(Arc::new(SqlType::SmallInt.field("item", true))),
            SqlType::OidVector => DataType::List(Arc::new(SqlType::Oid.field("item", true))),
        }
    }

    /// An Arrow field of this type, with the metadata that tells it from others of the same Arrow type.
    pub fn field(&self, name: impl Into<String>, nullable: bool) -> Field {
        let field = Field::new(name, self.arrow(), nullable);
        match self.marker() {
            Some(marker) => field.with_metadata([(PG_TYPE_KEY.to_owned(), marker.to_owned())].into()),
            None => field,
        }
    }

    /// As [`SqlType::field`], shared.
    pub fn field_ref(&self, name: impl Into<String>, nullable: bool) -> FieldRef {
        Arc::new(self.field(name, nullable))
    }

    fn marker(&self) -> Option<&'static str> {
        match self {
            SqlType::Uuid => Some("uuid"),
            SqlType::Json => Some("json"),
            SqlType::Name => Some("name"),
            SqlType::Oid => Some("oid"),
            SqlType::Char => Some("char"),
            SqlType::Int2Vector => Some("int2vector"),
            SqlType::OidVector => Some("oidvector"),
            _ => None,
        }
    }

    /// The SQL type of an Arrow field; `None` where a client has no type for it (structs, maps, unions).
    pub fn of_field(field: &Field) -> Option<Self> {
        match field.metadata().get(PG_TYPE_KEY).map(String::as_str) {
            Some("uuid") => Some(SqlType::Uuid),
            Some("json") => Some(SqlType::Json),
            Some("name") => Some(SqlType::Name),
            Some("oid") => Some(SqlType::Oid),
            Some("char") => Some(SqlType::Char),
            Some("int2vector") => Some(SqlType::Int2Vector),
            Some("oidvector") => Some(SqlType::OidVector),
            Some(_) | None => Self::of_arrow(field.data_type()),
        }
    }

    /// The SQL type of a bare Arrow type, as [`SqlType::of_field`].
    pub fn of_arrow(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean => SqlType::Boolean,
            DataType::Int8 | DataType::UInt8 | DataType::Int16 => SqlType::SmallInt,
            DataType::UInt16 | DataType::Int32 => SqlType::Integer,
            DataType::UInt32 | DataType::Int64 => SqlType::BigInt,
            DataType::UInt64 => SqlType::Numeric { precision: 20, scale: 0 },
            DataType::Float16 | DataType::Float32 => SqlType::Real,
            DataType::Float64 => SqlType::DoublePrecision,
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale)
            | DataType::Decimal256(precision, scale) => SqlType::Numeric { precision: *precision, scale: *scale },
            DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => SqlType::Text,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => SqlType::Bytea,
            DataType::Date32 | DataType::Date64 => SqlType::Date,
            DataType::Time32(_) | DataType::Time64(_) => SqlType::Time,
            DataType::Timestamp(_, None) => SqlType::Timestamp,
            DataType::Timestamp(_, Some(_)) => SqlType::TimestampTz,
            DataType::Interval(_) | DataType::Duration(_) => SqlType::Interval,
            DataType::FixedSizeList(element, length) if element.data_type() == &DataType::Float32 => {
                SqlType::Vector(u32::try_from(*length).ok()?)
            }
            DataType::List(element)
            | DataType::LargeList(element)
            | DataType::ListView(element)
            | DataType::LargeListView(element)
            | DataType::FixedSizeList(element, _) => match Self::of_field(element)? {
                nested @ (SqlType::Array(_) | SqlType::Vector(_)) => nested,
                element => SqlType::Array(Box::new(element)),
            },
            DataType::Dictionary(_, value) => Self::of_arrow(value)?,
            DataType::RunEndEncoded(_, value) => Self::of_field(value)?,
            DataType::Struct(_) | DataType::Map(_, _) | DataType::Union(_, _) => return None,
        })
    }

    /// Whether values have exactly one encoding each, so that they can be part of an entity key.
    pub fn is_key(&self) -> bool {
        matches!(
            self,
            SqlType::Boolean
                | SqlType::SmallInt
                | SqlType::Integer
                | SqlType::BigInt
                | SqlType::Text
                | SqlType::Bytea
                | SqlType::Uuid
                | SqlType::Date
                | SqlType::Timestamp
                | SqlType::TimestampTz
        )
    }
}

impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_the_way_through_arrow() {
        let types = [
            SqlType::Boolean,
            SqlType::SmallInt,
            SqlType::Integer,
            SqlType::BigInt,
            SqlType::Real,
            SqlType::DoublePrecision,
            SqlType::Numeric { precision: 12, scale: 2 },
            SqlType::Text,
            SqlType::Bytea,
            SqlType::Date,
            SqlType::Time,
            SqlType::Timestamp,
            SqlType::TimestampTz,
            SqlType::Interval,
            SqlType::Uuid,
            SqlType::Json,
            SqlType::Name,
            SqlType::Oid,
            SqlType::Char,
            SqlType::Vector(3),
            SqlType::Array(Box::new(SqlType::Uuid)),
        ];
        for sql_type in types {
            assert_eq!(SqlType::of_field(&sql_type.field("c", true)), Some(sql_type));
        }
    }

    #[test]
    fn oids_name_their_types() {
        for oid in [16, 17, 20, 21, 23, 25, 114, 700, 701, 1082, 1083, 1114, 1184, 1186, 1700, 2950, 1016, 1021, 2951] {
            assert_eq!(SqlType::from_oid(oid).map(|sql_type| sql_type.oid()), Some(oid));
        }
    }
}
