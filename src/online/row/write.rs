//! Values to bytes.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
};

use super::fixed_width;
use crate::error::{Error, Result, SqlState};
use crate::online::key::uuid_bytes;
use crate::types::SqlType;

/// Appends the value of one row, which is not NULL, of the column it was made for.
pub(super) type Writer<'a> = Box<dyn Fn(usize, &mut Vec<u8>) -> Result<()> + Send + 'a>;

/// The writer of a column of `data_type`, which has that type's Arrow form.
pub(super) fn writer<'a>(data_type: &SqlType, column: &'a ArrayRef) -> Result<Writer<'a>> {
    Ok(match data_type {
        SqlType::Boolean => {
            let values = column.as_boolean();
            Box::new(|row, bytes| {
                bytes.push(u8::from(values.value(row)));
                Ok(())
            })
        }
        SqlType::SmallInt => fixed::<Int16Type, 2>(column, i16::to_le_bytes),
        SqlType::Integer => fixed::<Int32Type, 4>(column, i32::to_le_bytes),
        SqlType::BigInt | SqlType::Oid => fixed::<Int64Type, 8>(column, i64::to_le_bytes),
        SqlType::Real => fixed::<Float32Type, 4>(column, f32::to_le_bytes),
        SqlType::DoublePrecision => fixed::<Float64Type, 8>(column, f64::to_le_bytes),
        SqlType::Numeric { .. } => fixed::<Decimal128Type, 16>(column, i128::to_le_bytes),
        SqlType::Date => fixed::<Date32Type, 4>(column, i32::to_le_bytes),
        SqlType::Time => fixed::<Time64MicrosecondType, 8>(column, i64::to_le_bytes),
        SqlType::Timestamp | SqlType::TimestampTz => fixed::<TimestampMicrosecondType, 8>(column, i64::to_le_bytes),
        SqlType::Interval => {
            let values = column.as_primitive::<IntervalMonthDayNanoType>();
            Box::new(|row, bytes| {
                let value = values.value(row);
                bytes.extend_from_slice(&value.months.to_le_bytes());
                bytes.extend_from_slice(&value.days.to_le_bytes());
                bytes.extend_from_slice(&value.nanoseconds.to_le_bytes());
                Ok(())
            })
        }
        SqlType::Uuid => {
            let values = column.as_string::<i32>();
            Box::new(|row, bytes| {
                bytes.extend_from_slice(&uuid_bytes(values.value(row))?);
                Ok(())
            })
        }
        SqlType::Text | SqlType::Json | SqlType::Name | SqlType::Char => {
            let values = column.as_string::<i32>();
            Box::new(|row, bytes| {
                bytes.extend_from_slice(values.value(row).as_bytes());
                Ok(())
            })
        }
        SqlType::Bytea => {
            let values = column.as_binary::<i32>();
            Box::new(|row, bytes| {
                bytes.extend_from_slice(values.value(row));
                Ok(())
            })
        }
        SqlType::Vector(_) => {
            let vectors = column.as_fixed_size_list();
            let elements = vectors.values().as_primitive::<Float32Type>();
            Box::new(|row, bytes| {
                let from = usize::try_from(vectors.value_offset(row)).unwrap_or(0);
                let to = from + usize::try_from(vectors.value_length()).unwrap_or(0);
                for element in &elements.values()[from..to] {
                    bytes.extend_from_slice(&element.to_le_bytes());
                }
                Ok(())
            })
        }
        SqlType::Array(element) => list(element, column)?,
        SqlType::Int2Vector => list(&SqlType::SmallInt, column)?,
        SqlType::OidVector => list(&SqlType::Oid, column)?,
    })
}

fn fixed<T: ArrowPrimitiveType, const N: usize>(column: &ArrayRef, to_bytes: fn(T::Native) -> [u8; N]) -> Writer<'_> {
    let values = column.as_primitive::<T>();
    Box::new(move |row, bytes| {
        bytes.extend_from_slice(&to_bytes(values.value(row)));
        Ok(())
    })
}

/// An array: u32 of elements; a bit for each, set where it has a value; then as in a row, elements of a fixed width side by
/// side, others as the ends of their bytes and the bytes.
fn list<'a>(element: &SqlType, column: &'a ArrayRef) -> Result<Writer<'a>> {
    let lists = column.as_list::<i32>();
    let elements = lists.values();
    let width = fixed_width(element);
    let write = writer(element, elements)?;
    Ok(Box::new(move |row, bytes| {
        let offsets = lists.value_offsets();
        let place = |at: usize| usize::try_from(offsets[at]).unwrap_or(0);
        let (from, to) = (place(row), place(row + 1));
        bytes.extend_from_slice(&size(to - from)?.to_le_bytes());
        let bitmap = bytes.len();
        bytes.resize(bitmap + (to - from).div_ceil(8), 0);
        for place in (from..to).filter(|place| elements.is_valid(*place)) {
            bytes[bitmap + (place - from) / 8] |= 1 << ((place - from) % 8);
        }
        let ends = bytes.len();
        if width.is_none() {
            bytes.resize(ends + 4 * (to - from), 0);
        }
        let start = bytes.len();
        for place in from..to {
            match width {
                _ if elements.is_valid(place) => write(place, bytes)?,
                Some(width) => bytes.resize(bytes.len() + width, 0),
                None => {}
            }
            if width.is_none() {
                let end = size(bytes.len() - start)?;
                let at = ends + 4 * (place - from);
                bytes[at..at + 4].copy_from_slice(&end.to_le_bytes());
            }
        }
        Ok(())
    }))
}

pub(super) fn size(bytes: usize) -> Result<u32> {
    u32::try_from(bytes).map_err(|_too_long| Error::new(SqlState::ProgramLimitExceeded, "a row is longer than 4 GB"))
}
