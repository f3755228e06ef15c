//! Values of every ordered type, for the oracle of as-of joins.

use arrow::array::{
    BinaryArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int16Array, IntervalMonthDayNanoArray,
    Time64MicrosecondArray,
};
use arrow::datatypes::IntervalMonthDayNano;

use super::*;

/// The ordered types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ordered {
    SmallInt,
    BigInt,
    Real,
    DoublePrecision,
    Numeric,
    Text,
    Bytea,
    Uuid,
    Boolean,
    Date,
    Time,
    Timestamp,
    TimestampTz,
    Interval,
}

pub(super) const ORDERED: [Ordered; 14] = [
    Ordered::SmallInt,
    Ordered::BigInt,
    Ordered::Real,
    Ordered::DoublePrecision,
    Ordered::Numeric,
    Ordered::Text,
    Ordered::Bytea,
    Ordered::Uuid,
    Ordered::Boolean,
    Ordered::Date,
    Ordered::Time,
    Ordered::Timestamp,
    Ordered::TimestampTz,
    Ordered::Interval,
];

impl Ordered {
    pub(super) fn sql_type(self) -> SqlType {
        match self {
            Self::SmallInt => SqlType::SmallInt,
            Self::BigInt => SqlType::BigInt,
            Self::Real => SqlType::Real,
            Self::DoublePrecision => SqlType::DoublePrecision,
            Self::Numeric => SqlType::Numeric { precision: 38, scale: 5 },
            Self::Text => SqlType::Text,
            Self::Bytea => SqlType::Bytea,
            Self::Uuid => SqlType::Uuid,
            Self::Boolean => SqlType::Boolean,
            Self::Date => SqlType::Date,
            Self::Time => SqlType::Time,
            Self::Timestamp => SqlType::Timestamp,
            Self::TimestampTz => SqlType::TimestampTz,
            Self::Interval => SqlType::Interval,
        }
    }

    /// Numbers in the order of the values that stand for these times: equal where PostgreSQL calls the values equal.
    pub(super) fn rank(self, time: i64) -> i64 {
        match self {
            Self::Boolean => i64::from(time >= 15),
            // The infinity, both zeros, NaN.
            Self::DoublePrecision | Self::Real => match time {
                ..=2 => 2,
                6 => 5,
                28.. => 28,
                other => other,
            },
            _ => time,
        }
    }

    /// What further tells values of one rank apart when two rows tie.
    pub(super) fn apart(self, time: i64) -> i64 {
        match self {
            Self::DoublePrecision | Self::Real if time == 6 => 1,
            _ => 0,
        }
    }

    fn double(time: i64) -> f64 {
        match time {
            ..=2 => f64::NEG_INFINITY,
            5 => -0.0,
            6 => 0.0,
            28.. => f64::NAN,
            other => (other as f64 - 5.5) / 3.0,
        }
    }

    /// Values that stand for these times; the left side writes some of them in another way.
    pub(super) fn values(self, times: &[Option<i64>], left: bool) -> ArrayRef {
        let times = times.iter().copied();
        let texts =
            |text: fn(i64) -> String| -> ArrayRef { Arc::new(times.clone().map(|time| time.map(text)).collect::<StringArray>()) };
        match self {
            Self::SmallInt => Arc::new(times.map(|time| time.map(|time| time as i16 - 10)).collect::<Int16Array>()),
            Self::BigInt => {
                let ends = |time: i64| if time < 15 { i64::MIN + 2 + time } else { i64::MAX - 33 + time };
                Arc::new(times.map(|time| time.map(ends)).collect::<Int64Array>())
            }
            Self::Real => Arc::new(times.map(|time| time.map(|time| Self::double(time) as f32)).collect::<Float32Array>()),
            Self::DoublePrecision => Arc::new(times.map(|time| time.map(Self::double)).collect::<Float64Array>()),
            Self::Numeric => {
                let huge = |time: i64| (i128::from(time) - 15) * 10_i128.pow(36) / 2;
                let values = times.map(|time| time.map(huge)).collect::<Decimal128Array>();
                Arc::new(values.with_precision_and_scale(38, 5).unwrap())
            }
            Self::Text => texts(|time| char::from_u32(0x41 + (time + 2) as u32 * 0x400).unwrap_or('A').to_string().repeat(3)),
            Self::Uuid => texts(|time| format!("00000000-0000-4000-8000-{:012x}", time + 2)),
            Self::Bytea => {
                let values: Vec<_> = times.map(|time| time.map(|time| vec![100, (time * 4 + 8) as u8])).collect();
                Arc::new(values.iter().map(|value| value.as_deref()).collect::<BinaryArray>())
            }
            Self::Boolean => Arc::new(times.map(|time| time.map(|time| time >= 15)).collect::<BooleanArray>()),
            Self::Date => Arc::new(times.map(|time| time.map(|time| time as i32 - 10)).collect::<Date32Array>()),
            Self::Time => Arc::new(times.map(|time| time.map(|time| time + 5)).collect::<Time64MicrosecondArray>()),
            Self::Timestamp => Arc::new(times.collect::<TimestampMicrosecondArray>()),
            Self::TimestampTz => instants(times.collect()),
            Self::Interval => {
                let month = |time: i64| match left {
                    true => IntervalMonthDayNano::new(1, time as i32 - 30, 0),
                    false => IntervalMonthDayNano::new(0, time as i32 - 1, 86_400_000_000_000),
                };
                Arc::new(times.map(|time| time.map(month)).collect::<IntervalMonthDayNanoArray>())
            }
        }
    }
}
