//! Values of any ordered type as 64-bit numbers in the same order, which is PostgreSQL's.

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Decimal128Array, Int64Array, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, IntervalMonthDayNanoType, IntervalUnit, UInt64Type};

use super::kernel;
use crate::error::{Error, Result};

const NANOSECONDS_PER_DAY: i128 = 86_400_000_000_000;
const DAYS_PER_MONTH: i128 = 30;

/// How values of one type become numbers. Types wider than 64 bits are numbered by the place among the values of the right
/// side; a value that it does not have falls between two of them, which is all that a comparison with it needs.
#[derive(Debug)]
pub(crate) enum Order {
    /// The values are numbers of 64 bits themselves.
    Direct,
    /// The distinct values of the right side, ascending: decimals and intervals.
    Wide(Vec<i128>),
    /// The same of text, compared by its bytes, and of bytes.
    Bytes(BinaryArray),
}

impl Order {
    /// The order for a right side of these values.
    pub(crate) fn new(values: &ArrayRef) -> Result<Self> {
        Ok(match values.data_type() {
            DataType::Decimal128(_, _) | DataType::Interval(_) | DataType::UInt64 => {
                let mut distinct: Vec<i128> = wide(values)?.iter().flatten().collect();
                distinct.sort_unstable();
                distinct.dedup();
                Order::Wide(distinct)
            }
            DataType::Utf8 | DataType::Binary => {
                let values = bytes(values)?;
                let mut places: Vec<u32> =
                    (0_u32..).take(values.len()).filter(|place| values.is_valid(*place as usize)).collect();
                places.sort_unstable_by_key(|place| values.value(*place as usize));
                places.dedup_by_key(|place| values.value(*place as usize));
                let distinct = take(&values, &UInt32Array::from(places), None).map_err(kernel)?;
                Order::Bytes(distinct.as_binary().clone())
            }
            _ => Order::Direct,
        })
    }

    /// The numbers of `values`, of either side; NULL stays NULL. Refuses types that have no order.
    pub(crate) fn numbers(&self, values: &ArrayRef) -> Result<Int64Array> {
        match self {
            Order::Direct => integers(values),
            Order::Wide(distinct) => {
                let place = |value: i128| distinct.binary_search(&value);
                Ok(wide(values)?.iter().map(|value| value.map(|value| number(place(value)))).collect())
            }
            Order::Bytes(distinct) => {
                let place = |value: &[u8]| search(distinct, value);
                Ok(bytes(values)?.iter().map(|value| value.map(|value| number(place(value)))).collect())
            }
        }
    }
}

/// Odd numbers stand for values that are there, even ones for the gaps between them.
fn number(place: std::result::Result<usize, usize>) -> i64 {
    let (place, odd) = place.map_or_else(|gap| (gap, 0), |place| (place, 1));
    i64::try_from(place).unwrap_or(i64::MAX / 2).saturating_mul(2) + odd
}

fn search(distinct: &BinaryArray, value: &[u8]) -> std::result::Result<usize, usize> {
    let (mut low, mut high) = (0, distinct.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        match distinct.value(middle).cmp(value) {
            std::cmp::Ordering::Equal => return Ok(middle),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    Err(low)
}

/// Numbers of 64 bits in the order of the values: whole numbers, days, times, instants, and floats with NaN the greatest.
pub(crate) fn integers(values: &ArrayRef) -> Result<Int64Array> {
    let widened = match values.data_type() {
        DataType::Int64 => return Ok(values.as_primitive::<Int64Type>().clone()),
        DataType::Timestamp(_, _) | DataType::Time64(_) | DataType::Date64 | DataType::Boolean => {
            cast(values, &DataType::Int64).map_err(kernel)?
        }
        DataType::Date32 | DataType::Time32(_) => {
            cast(&cast(values, &DataType::Int32).map_err(kernel)?, &DataType::Int64).map_err(kernel)?
        }
        DataType::Float32 | DataType::Float64 => {
            let values = cast(values, &DataType::Float64).map_err(kernel)?;
            return Ok(values.as_primitive::<Float64Type>().unary(float_number));
        }
        whole if whole.is_integer() => cast(values, &DataType::Int64).map_err(kernel)?,
        other => return Err(Error::unsupported(format!("an as-of join ordered by a column of type {other}"))),
    };
    Ok(widened.as_primitive::<Int64Type>().clone())
}

/// A number in the order of floats: both zeros are one, every NaN is one and the greatest.
fn float_number(value: f64) -> i64 {
    let value = if value.is_nan() { f64::NAN.abs() } else { value + 0.0 };
    let bits = value.to_bits().cast_signed();
    if bits < 0 { bits ^ i64::MAX } else { bits }
}

/// Values of up to 128 bits.
fn wide(values: &ArrayRef) -> Result<Decimal128Array> {
    match values.data_type() {
        DataType::Decimal128(_, _) => Ok(values.as_primitive::<Decimal128Type>().clone()),
        DataType::UInt64 => Ok(values.as_primitive::<UInt64Type>().unary(i128::from)),
        _ => lengths(values),
    }
}

/// The lengths of intervals in nanoseconds, a month being thirty days and a day 24 hours, as PostgreSQL compares them.
pub(crate) fn lengths(values: &ArrayRef) -> Result<Decimal128Array> {
    let values = cast(values, &DataType::Interval(IntervalUnit::MonthDayNano)).map_err(kernel)?;
    Ok(values.as_primitive::<IntervalMonthDayNanoType>().unary(|interval| {
        let days = i128::from(interval.months) * DAYS_PER_MONTH + i128::from(interval.days);
        days * NANOSECONDS_PER_DAY + i128::from(interval.nanoseconds)
    }))
}

fn bytes(values: &ArrayRef) -> Result<BinaryArray> {
    Ok(cast(values, &DataType::Binary).map_err(kernel)?.as_binary().clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, StringArray};
    use arrow::datatypes::IntervalMonthDayNano;

    use super::*;

    fn numbers(right: ArrayRef, left: ArrayRef) -> (Vec<Option<i64>>, Vec<Option<i64>>) {
        let order = Order::new(&right).unwrap();
        (order.numbers(&right).unwrap().iter().collect(), order.numbers(&left).unwrap().iter().collect())
    }

    #[test]
    fn floats_keep_postgresqls_order() {
        let values = [f64::NEG_INFINITY, -1.0, -f64::MIN_POSITIVE, -0.0, f64::MIN_POSITIVE, f64::INFINITY, f64::NAN];
        let numbers: Vec<i64> = values.into_iter().map(float_number).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        assert_eq!(float_number(-0.0), float_number(0.0));
        assert_eq!(float_number(-f64::NAN), float_number(f64::NAN));
        let column: ArrayRef = Arc::new(Float64Array::from(vec![None, Some(1.0)]));
        assert_eq!(integers(&column).unwrap().iter().map(|value| value.is_some()).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn a_value_the_right_side_lacks_falls_into_a_gap() {
        let right: ArrayRef = Arc::new(StringArray::from(vec![Some("b"), Some("a"), None, Some("b")]));
        let left: ArrayRef = Arc::new(StringArray::from(vec!["", "a", "aa", "b", "ü"]));
        let (right, left) = numbers(right, left);
        assert_eq!(right, [Some(3), Some(1), None, Some(3)]);
        assert_eq!(left, [Some(0), Some(1), Some(2), Some(3), Some(4)]);
    }

    #[test]
    fn a_month_is_thirty_days() {
        let day = |months, days| IntervalMonthDayNano::new(months, days, 0);
        let right: ArrayRef =
            Arc::new(arrow::array::IntervalMonthDayNanoArray::from(vec![day(1, 0), day(0, 29), day(0, 30), day(i32::MAX, 1)]));
        let (numbers, _) = numbers(Arc::clone(&right), right);
        assert_eq!(numbers, [Some(3), Some(1), Some(3), Some(5)]);
    }
}
