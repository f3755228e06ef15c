//! The form in which Lance keeps our columns, where it cannot keep them as they are.
//!
//! Lance reads `.` and `` ` `` in a column name as a path, keeps some names for itself, and has no interval type. Names are
//! escaped and intervals kept as their 16 bytes; everything else is stored as it stands, so that other readers of Lance can
//! read it.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeBinaryArray, IntervalMonthDayNanoArray, ListArray, RecordBatch};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, IntervalMonthDayNano, IntervalUnit, Schema};
use arrow::error::ArrowError;

/// The bytes of an interval: months, days (4 bytes each), nanoseconds (8), little endian.
const INTERVAL_BYTES: i32 = 16;

/// The field metadata key that tells a stored interval from plain bytes.
const STORED_AS_KEY: &str = "tidegate_stored_as";
const STORED_INTERVAL: &str = "interval";

/// Floating-point numbers are stored plain: their bits neither pack nor repeat enough to pay for finding out at every write and
/// for unpacking at every read (measured: half of the time of a write, a tenth of that of a read).
const PLAIN: [(&str, &str); 2] = [("lance-encoding:compression", "none"), ("lance-encoding:dict-divisor", "4294967295")];

/// The name under which Lance keeps the column `name`: `%`, `.`, `` ` `` and the first letter of the names that Lance keeps for
/// itself become `%` and two hexadecimal digits.
pub(super) fn stored_name(name: &str) -> Cow<'_, str> {
    let reserved = is_reserved(name);
    if !reserved && !name.contains(['%', '.', '`']) {
        return Cow::Borrowed(name);
    }
    let mut stored = String::with_capacity(name.len() + 4);
    for (place, c) in name.chars().enumerate() {
        match c {
            '%' | '.' | '`' => stored.push_str(&format!("%{:02x}", u32::from(c))),
            '_' if reserved && place == 0 => stored.push_str("%5f"),
            _ => stored.push(c),
        }
    }
    Cow::Owned(stored)
}

/// The column name that [`stored_name`] turned into `stored`.
pub(super) fn column_name(stored: &str) -> Cow<'_, str> {
    if !stored.contains('%') {
        return Cow::Borrowed(stored);
    }
    let mut name = String::with_capacity(stored.len());
    let mut rest = stored;
    while let Some(at) = rest.find('%') {
        name.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => {
                name.push(char::from(code));
                rest = &rest[at + 3..];
            }
            None => {
                name.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    name.push_str(rest);
    Cow::Owned(name)
}

/// The names Lance gives to columns of its own: `_rowid`, `_rowaddr`, `_distance` and their like.
fn is_reserved(name: &str) -> bool {
    name.starts_with('_') && !name.starts_with("__")
}

/// The schema Lance gets for `schema`.
pub(super) fn stored_schema(schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| stored_field(field).with_name(stored_name(field.name())));
    Schema::new(fields.collect::<Vec<_>>())
}

fn stored_field(field: &Field) -> Field {
    match field.data_type() {
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let mut metadata = field.metadata().clone();
            metadata.insert(STORED_AS_KEY.to_owned(), STORED_INTERVAL.to_owned());
            field.clone().with_data_type(DataType::FixedSizeBinary(INTERVAL_BYTES)).with_metadata(metadata)
        }
        DataType::List(item) => field.clone().with_data_type(DataType::List(Arc::new(stored_field(item)))),
        DataType::Float32 | DataType::Float64 => {
            let mut metadata = field.metadata().clone();
            metadata.extend(PLAIN.map(|(key, value)| (key.to_owned(), value.to_owned())));
            field.clone().with_metadata(metadata)
        }
        _ => field.clone(),
    }
}

/// The field of ours that Lance keeps as `field`.
pub(super) fn column_field(field: &Field) -> Field {
    inner_column_field(field).with_name(column_name(field.name()))
}

fn inner_column_field(field: &Field) -> Field {
    match field.data_type() {
        DataType::FixedSizeBinary(INTERVAL_BYTES)
            if field.metadata().get(STORED_AS_KEY).is_some_and(|it| it == STORED_INTERVAL) =>
        {
            let mut metadata = field.metadata().clone();
            metadata.remove(STORED_AS_KEY);
            field.clone().with_data_type(DataType::Interval(IntervalUnit::MonthDayNano)).with_metadata(metadata)
        }
        DataType::List(item) => field.clone().with_data_type(DataType::List(Arc::new(inner_column_field(item)))),
        DataType::Float32 | DataType::Float64 => {
            let mut metadata = field.metadata().clone();
            metadata.retain(|key, _| PLAIN.iter().all(|(plain, _)| plain != key));
            field.clone().with_metadata(metadata)
        }
        _ => field.clone(),
    }
}

/// Rows as Lance gets them; the columns of `rows` in their order.
pub(super) fn to_stored(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = Arc::new(stored_schema(&rows.schema()));
    let columns = rows.columns().iter().zip(schema.fields()).map(|(column, field)| convert(column, field));
    RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>()?)
}

/// A column in the type of `field`: intervals from or to their bytes, the rest as it is.
pub(super) fn convert(column: &ArrayRef, field: &FieldRef) -> Result<ArrayRef, ArrowError> {
    if column.data_type() == field.data_type() {
        return Ok(column.clone());
    }
    match (column.data_type(), field.data_type()) {
        (DataType::Interval(IntervalUnit::MonthDayNano), DataType::FixedSizeBinary(INTERVAL_BYTES)) => {
            let intervals = column.as_primitive::<arrow::datatypes::IntervalMonthDayNanoType>();
            let mut bytes = Vec::with_capacity(intervals.len() * 16);
            for interval in intervals.values() {
                bytes.extend_from_slice(&interval.months.to_le_bytes());
                bytes.extend_from_slice(&interval.days.to_le_bytes());
                bytes.extend_from_slice(&interval.nanoseconds.to_le_bytes());
            }
            let bytes = FixedSizeBinaryArray::try_new(INTERVAL_BYTES, Buffer::from_vec(bytes), intervals.nulls().cloned())?;
            Ok(Arc::new(bytes))
        }
        (DataType::FixedSizeBinary(INTERVAL_BYTES), DataType::Interval(IntervalUnit::MonthDayNano)) => {
            let stored = column.as_fixed_size_binary();
            let intervals: ScalarBuffer<_> =
                (0..stored.len()).map(|row| interval_of(stored.value(row))).collect::<Vec<_>>().into();
            Ok(Arc::new(IntervalMonthDayNanoArray::try_new(intervals, stored.nulls().cloned())?))
        }
        (DataType::List(_), DataType::List(item)) => {
            let list = column.as_list::<i32>();
            let values = convert(list.values(), item)?;
            Ok(Arc::new(ListArray::try_new(item.clone(), list.offsets().clone(), values, list.nulls().cloned())?))
        }
        _ => arrow::compute::cast(column, field.data_type()),
    }
}

fn interval_of(bytes: &[u8]) -> IntervalMonthDayNano {
    let four = |at: usize| bytes.get(at..at + 4).and_then(|it| it.try_into().ok()).map_or(0, i32::from_le_bytes);
    let eight = |at: usize| bytes.get(at..at + 8).and_then(|it| it.try_into().ok()).map_or(0, i64::from_le_bytes);
    IntervalMonthDayNano::new(four(0), four(4), eight(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_from_storage() {
        for name in ["user_id", "a.b", "a`b", "100%", "%2e", "_rowaddr", "_x", "__sequence", "é.ü", "", "%"] {
            let stored = stored_name(name);
            assert!(!stored.contains(['.', '`']), "{stored}");
            assert_eq!(column_name(&stored), name);
        }
        assert_eq!(stored_name("_rowid"), "%5frowid");
        assert_eq!(stored_name("__sequence"), "__sequence");
    }

    #[test]
    fn intervals_come_back_from_storage() {
        let interval = IntervalMonthDayNano::new(-14, 3, -1_000_001);
        let intervals: ArrayRef = Arc::new(IntervalMonthDayNanoArray::from(vec![Some(interval), None]));
        let field = Field::new("i", DataType::Interval(IntervalUnit::MonthDayNano), true);
        let stored = Arc::new(stored_field(&field));
        let bytes = convert(&intervals, &stored).unwrap();
        assert_eq!(bytes.data_type(), &DataType::FixedSizeBinary(16));
        assert_eq!(column_field(&stored), field);
        assert_eq!(&convert(&bytes, &Arc::new(field)).unwrap(), &intervals);
    }
}
