//! Numbers into columns of other number types, with PostgreSQL's rounding and range errors.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type};

use super::assign::Assignment;
use crate::error::{Error, Result, SqlState};
use crate::types::SqlType;

/// A column of numbers in the number type of the column assigned to.
pub(super) fn assign(column: &ArrayRef, to: &Assignment<'_>) -> Result<ArrayRef> {
    Ok(match to.to {
        SqlType::SmallInt => {
            let integers = integers(column, to)?;
            each::<Int64Type, Int16Type>(&integers, to, |value| i16::try_from(value).map_err(|_over| out_of_range("smallint")))?
        }
        SqlType::Integer => {
            let integers = integers(column, to)?;
            each::<Int64Type, Int32Type>(&integers, to, |value| i32::try_from(value).map_err(|_over| out_of_range("integer")))?
        }
        SqlType::BigInt | SqlType::Oid => integers(column, to)?,
        SqlType::Real => reals(column, to)?,
        SqlType::DoublePrecision => doubles(column, to)?,
        SqlType::Numeric { precision, scale } => numerics(column, *precision, *scale, to)?,
        other => return Err(Error::internal(format!("{other} is not a number type"))),
    })
}

/// Each value, turned by `turn`; its error names the row.
fn each<From: ArrowPrimitiveType, To: ArrowPrimitiveType>(
    column: &ArrayRef,
    to: &Assignment<'_>,
    turn: impl Fn(From::Native) -> Result<To::Native>,
) -> Result<ArrayRef> {
    let values = column.as_primitive::<From>();
    let mut turned = PrimitiveArray::<To>::builder(values.len()).with_data_type(to_arrow::<To>(to.to));
    for (row, value) in values.iter().enumerate() {
        turned.append_option(value.map(&turn).transpose().map_err(|error| to.at_row(error, row))?);
    }
    Ok(Arc::new(turned.finish()))
}

/// The Arrow type of the values on the way to `to`, which for numerics has their precision.
fn to_arrow<To: ArrowPrimitiveType>(to: &SqlType) -> DataType {
    match To::DATA_TYPE {
        DataType::Decimal128(..) => to.arrow(),
        plain => plain,
    }
}

fn out_of_range(name: &str) -> Error {
    Error::new(SqlState::NumericValueOutOfRange, format!("{name} out of range"))
}

fn failed(source: arrow::error::ArrowError) -> Error {
    Error::internal("a number could not be cast").caused_by(source)
}

/// As `bigint`: floating point rounds half to even, numerics half away from zero.
fn integers(column: &ArrayRef, to: &Assignment<'_>) -> Result<ArrayRef> {
    let name = if *to.to == SqlType::Oid { "OID".to_owned() } else { to.to.name() };
    match column.data_type() {
        DataType::Float32 | DataType::Float64 => {
            let doubles = cast(column, &DataType::Float64).map_err(failed)?;
            each::<Float64Type, Int64Type>(&doubles, to, |value| {
                let rounded = value.round_ties_even();
                // 2^63 is a double, the greatest bigint is not.
                let fits = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&rounded);
                if fits { Ok(rounded as i64) } else { Err(out_of_range(&name)) }
            })
        }
        DataType::Decimal128(_, scale) => each::<Decimal128Type, Int64Type>(column, to, |value| {
            let rounded = rescaled(value, *scale, 0);
            rounded.and_then(|value| i64::try_from(value).ok()).ok_or_else(|| out_of_range(&name))
        }),
        _ => cast(column, &DataType::Int64).map_err(failed),
    }
}

fn doubles(column: &ArrayRef, to: &Assignment<'_>) -> Result<ArrayRef> {
    match column.data_type() {
        DataType::Decimal128(_, scale) => each::<Decimal128Type, Float64Type>(column, to, |value| Ok(as_double(value, *scale))),
        _ => cast(column, &DataType::Float64).map_err(failed),
    }
}

fn reals(column: &ArrayRef, to: &Assignment<'_>) -> Result<ArrayRef> {
    let doubles = match column.data_type() {
        DataType::Float32 => return Ok(column.clone()),
        DataType::Decimal128(_, scale) => each::<Decimal128Type, Float64Type>(column, to, |value| Ok(as_double(value, *scale)))?,
        _ => cast(column, &DataType::Float64).map_err(failed)?,
    };
    each::<Float64Type, Float32Type>(&doubles, to, |value| {
        let real = value as f32;
        let overflow = real.is_infinite() && value.is_finite();
        let underflow = real == 0.0 && value != 0.0;
        match (overflow, underflow) {
            (true, _) => Err(Error::new(SqlState::NumericValueOutOfRange, "value out of range: overflow")),
            (_, true) => Err(Error::new(SqlState::NumericValueOutOfRange, "value out of range: underflow")),
            _ => Ok(real),
        }
    })
}

/// The double nearest to a numeric: through its digits, because neither part need be a double.
fn as_double(value: i128, scale: i8) -> f64 {
    format!("{value}e{}", -i32::from(scale)).parse().unwrap_or(f64::NAN)
}

fn numerics(column: &ArrayRef, precision: u8, scale: i8, to: &Assignment<'_>) -> Result<ArrayRef> {
    let limit = 10_i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX);
    let fits = |value: Option<i128>| {
        value.filter(|value| value.unsigned_abs() < limit.unsigned_abs()).ok_or_else(|| numeric_overflow(precision, scale))
    };
    match column.data_type() {
        DataType::Float32 => {
            each::<Float32Type, Decimal128Type>(column, to, |value| fits(from_double(f64::from(value), 6, scale)?))
        }
        DataType::Float64 => each::<Float64Type, Decimal128Type>(column, to, |value| fits(from_double(value, 15, scale)?)),
        DataType::Decimal128(_, from) => {
            each::<Decimal128Type, Decimal128Type>(column, to, |value| fits(rescaled(value, *from, scale)))
        }
        _ => {
            let integers = cast(column, &DataType::Int64).map_err(failed)?;
            each::<Int64Type, Decimal128Type>(&integers, to, |value| fits(rescaled(i128::from(value), 0, scale)))
        }
    }
}

/// `value` with another scale, rounded half away from zero; `None` where it leaves 128 bits.
fn rescaled(value: i128, from: i8, to: i8) -> Option<i128> {
    let shift = i32::from(to) - i32::from(from);
    let Some(power) = 10_i128.checked_pow(shift.unsigned_abs()) else {
        return if shift < 0 || value == 0 { Some(0) } else { None };
    };
    if shift >= 0 {
        return value.checked_mul(power);
    }
    let (quotient, rest) = (value / power, value % power);
    let up = rest.unsigned_abs() >= power.unsigned_abs() - power.unsigned_abs() / 2;
    Some(if up { quotient + value.signum() } else { quotient })
}

/// A floating point number as PostgreSQL makes a numeric of it: from its first `digits` significant digits.
fn from_double(value: f64, digits: usize, scale: i8) -> Result<Option<i128>> {
    if !value.is_finite() {
        let message = if value.is_nan() { "cannot convert NaN to numeric" } else { "cannot convert infinity to numeric" };
        return Err(Error::new(SqlState::NumericValueOutOfRange, message).hint("A numeric here is always finite."));
    }
    let text = format!("{value:.*e}", digits - 1);
    let parsed = text.split_once('e').and_then(|(mantissa, exponent)| {
        let digits: i128 = mantissa.replace('.', "").parse().ok()?;
        Some((digits, exponent.parse::<i32>().ok()?))
    });
    let Some((mantissa, exponent)) = parsed else {
        return Err(Error::internal("a double without digits"));
    };
    let from = i32::try_from(digits).unwrap_or(0) - 1 - exponent;
    // Beyond these bounds the value is zero at any scale, or too great for any.
    Ok(match i8::try_from(from) {
        Ok(from) => rescaled(mantissa, from, scale),
        Err(_) if from > 0 || mantissa == 0 => Some(0),
        Err(_) => None,
    })
}

fn numeric_overflow(precision: u8, scale: i8) -> Error {
    let whole = i32::from(precision) - i32::from(scale);
    let bound = if whole == 0 { "1".to_owned() } else { format!("10^{whole}") };
    Error::new(SqlState::NumericValueOutOfRange, "numeric field overflow")
        .detail(format!("A field with precision {precision}, scale {scale} must round to an absolute value less than {bound}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numerics_round_half_away_from_zero() {
        for (value, from, to, expected) in [
            (125, 2, 1, Some(13)),
            (-125, 2, 1, Some(-13)),
            (124, 2, 1, Some(12)),
            (5, 0, 2, Some(500)),
            (15, 1, 0, Some(2)),
            (i128::MAX, 0, 1, None),
            (1, 100, 0, Some(0)),
            (0, 0, 100, Some(0)),
        ] {
            assert_eq!(rescaled(value, from, to), expected, "{value} from {from} to {to}");
        }
    }

    #[test]
    fn doubles_become_numerics_by_their_first_fifteen_digits() {
        for (value, scale, expected) in
            [(0.1 + 0.2, 17, 30_000_000_000_000_000), (1e20, 0, 100_000_000_000_000_000_000), (1e-200, 5, 0), (-2.5, 0, -3)]
        {
            assert_eq!(from_double(value, 15, scale).unwrap(), Some(expected), "{value}");
        }
        assert_eq!(from_double(1e200, 15, 0).unwrap(), None);
        assert!(from_double(f64::NAN, 15, 0).is_err());
    }
}
