//! The answers of any relation to the left rows of an as-of join.
//!
//! The relation is collected: it has no versions to read twice. Its ordered column may have any ordered type; instants and
//! ordered values become 64-bit numbers of the same order, directly where the type allows, else by their ranks among the
//! values of both sides.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, IntervalMonthDayNanoType, IntervalUnit};
use arrow::row::{RowConverter, Rows, SortField};

use super::as_of_match::{Matches, Mirror};
use super::as_of_side::Reach;
use super::kernel;
use super::key_dictionary::NO_ENTITY;
use super::spine::Slots;
use crate::error::{Error, Result, SqlState};
use crate::registry::Ttl;
use crate::time::EventTime;

/// The ordered values of the two sides as numbers of the same order, not mirrored. NULL stays NULL.
pub(crate) fn comparable_numbers(left: &ArrayRef, right: &ArrayRef) -> Result<(Int64Array, Int64Array)> {
    if left.data_type() != right.data_type() {
        return Err(Error::internal(format!("instants of type {} and {}", left.data_type(), right.data_type())));
    }
    match (numbers(left)?, numbers(right)?) {
        (Some(left), Some(right)) => Ok((left, right)),
        _ => ranks(left, right),
    }
}

/// The values as numbers of the same order; `None` for types that have no such numbers.
fn numbers(values: &ArrayRef) -> Result<Option<Int64Array>> {
    let numbers = match values.data_type() {
        DataType::Null => return Ok(Some(Int64Array::new_null(values.len()))),
        DataType::Int64 => values.as_primitive::<Int64Type>().clone(),
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::Timestamp(..)
        | DataType::Time64(_) => cast(values, &DataType::Int64).map_err(kernel)?.as_primitive::<Int64Type>().clone(),
        DataType::Date32 => {
            let days = cast(values, &DataType::Int32).and_then(|days| cast(&days, &DataType::Int64)).map_err(kernel)?;
            days.as_primitive::<Int64Type>().clone()
        }
        DataType::Float32 | DataType::Float64 => {
            let values = cast(values, &DataType::Float64).map_err(kernel)?;
            values.as_primitive::<Float64Type>().unary(float_number)
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => values.as_primitive::<IntervalMonthDayNanoType>().unary(|interval| {
            // As PostgreSQL compares them: a month is 30 days, a day 24 hours.
            let days = i64::from(interval.months) * 30 + i64::from(interval.days);
            days.saturating_mul(86_400_000_000).saturating_add(interval.nanoseconds / 1_000)
        }),
        _ => return Ok(None),
    };
    Ok(Some(numbers))
}

/// A number with the place of `value` in PostgreSQL's order: both zeros are equal, every NaN is the greatest.
fn float_number(value: f64) -> i64 {
    if value.is_nan() {
        return i64::MAX;
    }
    let bits = (value + 0.0).to_bits().cast_signed();
    if bits < 0 { !bits ^ i64::MIN } else { bits }
}

/// The rank of each value among those of both sides.
fn ranks(left: &ArrayRef, right: &ArrayRef) -> Result<(Int64Array, Int64Array)> {
    let converter = RowConverter::new(vec![SortField::new(left.data_type().clone())]).map_err(|source| {
        Error::new(SqlState::UndefinedFunction, format!("values of type {} have no order", left.data_type())).caused_by(source)
    })?;
    let rows = |values: &ArrayRef| converter.convert_columns(std::slice::from_ref(values)).map_err(kernel);
    let (left_rows, right_rows) = (rows(left)?, rows(right)?);
    let mut all: Vec<_> = left_rows.iter().chain(right_rows.iter()).collect();
    all.sort_unstable();
    all.dedup();
    let ranked = |values: &ArrayRef, rows: &Rows| {
        let rank = |row: usize| {
            let place = all.partition_point(|other| *other < rows.row(row));
            (!values.is_null(row)).then(|| i64::try_from(place).unwrap_or(i64::MAX))
        };
        (0..values.len()).map(rank).collect::<Int64Array>()
    };
    Ok((ranked(left, &left_rows), ranked(right, &right_rows)))
}

/// Finds the answers among `rows`, whose keys are `keys` and whose (mirrored) ordered values are `order`; gives `columns`
/// of them. Of equal rows one answers, the same whatever order they come in.
pub(crate) fn find_in_relation(
    slots: &Slots,
    reach: Reach,
    left_rows: usize,
    rows: &RecordBatch,
    keys: &[ArrayRef],
    order: &Int64Array,
    columns: &[usize],
) -> Result<Matches> {
    let entities = slots.find(keys, rows.num_rows())?;
    let mut winners: Vec<Option<usize>> = vec![None; slots.len()];
    let mut ties = Ties { rows, encoded: None };
    for (row, entity) in entities.iter().enumerate() {
        if *entity == NO_ENTITY || order.is_null(row) {
            continue;
        }
        let Some(slot) = slots.first_answered(*entity, order.value(row), reach.bound) else { continue };
        let wins = match winners[slot] {
            None => true,
            Some(winner) => match order.value(row).cmp(&order.value(winner)) {
                Ordering::Greater => true,
                Ordering::Less => false,
                Ordering::Equal => ties.compare(row, winner)? == Ordering::Greater,
            },
        };
        if wins {
            winners[slot] = Some(row);
        }
    }
    let mut places = vec![None; left_rows];
    for (start, end) in slots.ranges() {
        let mut answer = None;
        for slot in start..end {
            // Rows offered to a later slot are greater than all before.
            answer = winners[slot].or(answer);
            let near = |row: &usize| {
                let (event_time, at) = (EventTime::from_micros(order.value(*row)), EventTime::from_micros(slots.time(slot)));
                Ttl::is_live(reach.window, event_time, at)
            };
            if let Some(row) = answer.filter(near) {
                places[slots.row(slot)] = Some(u32::try_from(row).map_err(|_| {
                    Error::new(SqlState::ProgramLimitExceeded, "too many rows on the right side of an as-of join")
                })?);
            }
        }
    }
    let given = rows.project(columns).map_err(kernel)?;
    Ok(Matches { rows: given, places: UInt32Array::from(places), history_rows: rows.num_rows() })
}

/// Instants turned around where the answer lies ahead.
pub(crate) fn mirrored(values: Int64Array, mirror: Mirror) -> Int64Array {
    values.unary(|value| mirror.turn(value))
}

/// Decides between rows of the same ordered value by all that they hold.
struct Ties<'a> {
    rows: &'a RecordBatch,
    /// Made at the first tie.
    encoded: Option<Rows>,
}

impl Ties<'_> {
    fn compare(&mut self, first: usize, second: usize) -> Result<Ordering> {
        if self.encoded.is_none() {
            let fields = self.rows.schema_ref().fields().iter();
            let fields: Vec<_> = fields.map(|field| SortField::new(field.data_type().clone())).collect();
            let columns = self.rows.columns().iter().zip(&fields);
            // What has no encoding decides nothing.
            let (columns, fields): (Vec<ArrayRef>, Vec<SortField>) = columns
                .filter(|(_, field)| RowConverter::supports_fields(std::slice::from_ref(field)))
                .map(|(column, field)| (Arc::clone(column), field.clone()))
                .unzip();
            let converter = RowConverter::new(fields).map_err(kernel)?;
            self.encoded = Some(converter.convert_columns(&columns).map_err(kernel)?);
        }
        match &self.encoded {
            Some(encoded) => Ok(encoded.row(first).cmp(&encoded.row(second))),
            None => Ok(Ordering::Equal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_keep_their_order() {
        let ordered = [f64::NEG_INFINITY, f64::MIN, -1.5, -f64::MIN_POSITIVE, 0.0, 1e-300, 2.0, f64::INFINITY, f64::NAN];
        for pair in ordered.windows(2) {
            assert!(float_number(pair[0]) < float_number(pair[1]), "{pair:?}");
        }
        assert_eq!(float_number(-0.0), float_number(0.0));
    }
}
