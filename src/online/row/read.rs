//! Bytes to values.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, FixedSizeListArray, Float32Builder, ListArray, NullBufferBuilder, PrimitiveBuilder,
    StringBuilder,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, FieldRef, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
};
use uuid::Uuid;

use super::{corrupt, fixed_width};
use crate::error::{Error, Result};
use crate::types::SqlType;

/// Builds a column from packed values.
pub trait ColumnReader {
    /// Adds a value; `None` is NULL. `XX001` where the bytes are none of the type.
    fn append(&mut self, value: Option<&[u8]>) -> Result<()>;

    /// The column.
    fn finish(&mut self) -> Result<ArrayRef>;
}

/// A reader of `rows` values of `data_type`, in that type's Arrow form.
pub fn column_reader(data_type: &SqlType, rows: usize) -> Result<Box<dyn ColumnReader>> {
    Ok(match data_type {
        SqlType::Boolean => Box::new(BooleanBuilder::with_capacity(rows)),
        SqlType::SmallInt => fixed::<Int16Type, 2>(data_type, rows, i16::from_le_bytes),
        SqlType::Integer => fixed::<Int32Type, 4>(data_type, rows, i32::from_le_bytes),
        SqlType::BigInt | SqlType::Oid => fixed::<Int64Type, 8>(data_type, rows, i64::from_le_bytes),
        SqlType::Real => fixed::<Float32Type, 4>(data_type, rows, f32::from_le_bytes),
        SqlType::DoublePrecision => fixed::<Float64Type, 8>(data_type, rows, f64::from_le_bytes),
        SqlType::Numeric { .. } => fixed::<Decimal128Type, 16>(data_type, rows, i128::from_le_bytes),
        SqlType::Date => fixed::<Date32Type, 4>(data_type, rows, i32::from_le_bytes),
        SqlType::Time => fixed::<Time64MicrosecondType, 8>(data_type, rows, i64::from_le_bytes),
        SqlType::Timestamp | SqlType::TimestampTz => fixed::<TimestampMicrosecondType, 8>(data_type, rows, i64::from_le_bytes),
        SqlType::Interval => fixed::<IntervalMonthDayNanoType, 16>(data_type, rows, interval),
        SqlType::Uuid => Box::new(UuidReader(StringBuilder::with_capacity(rows, rows * 36))),
        SqlType::Text | SqlType::Json | SqlType::Name | SqlType::Char => Box::new(StringBuilder::with_capacity(rows, rows * 16)),
        SqlType::Bytea => Box::new(BinaryBuilder::with_capacity(rows, rows * 16)),
        SqlType::Vector(length) => Box::new(VectorReader {
            length: i32::try_from(*length).map_err(|_too_long| Error::internal("a vector is too long"))?,
            elements: Float32Builder::new(),
            nulls: NullBufferBuilder::new(rows),
        }),
        SqlType::Array(element) => list(data_type, element, rows)?,
        SqlType::Int2Vector => list(data_type, &SqlType::SmallInt, rows)?,
        SqlType::OidVector => list(data_type, &SqlType::Oid, rows)?,
    })
}

/// The u32 at the front of `bytes`.
pub(super) fn size(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*bytes.first_chunk()?)).ok()
}

fn interval(bytes: [u8; 16]) -> IntervalMonthDayNano {
    let packed = u128::from_le_bytes(bytes);
    let four = |shift: u32| (packed >> shift) as u32 as i32;
    IntervalMonthDayNano::new(four(0), four(32), (packed >> 64) as u64 as i64)
}

struct FixedReader<T: ArrowPrimitiveType, const N: usize> {
    builder: PrimitiveBuilder<T>,
    from_bytes: fn([u8; N]) -> T::Native,
}

fn fixed<T: ArrowPrimitiveType, const N: usize>(
    data_type: &SqlType,
    rows: usize,
    from_bytes: fn([u8; N]) -> T::Native,
) -> Box<dyn ColumnReader> {
    let builder = PrimitiveBuilder::<T>::with_capacity(rows).with_data_type(data_type.arrow());
    Box::new(FixedReader { builder, from_bytes })
}

impl<T: ArrowPrimitiveType, const N: usize> ColumnReader for FixedReader<T, N> {
    fn append(&mut self, value: Option<&[u8]>) -> Result<()> {
        match value {
            Some(bytes) => self.builder.append_value((self.from_bytes)(bytes.try_into().map_err(|_other_width| corrupt())?)),
            None => self.builder.append_null(),
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(self.builder.finish()))
    }
}

impl ColumnReader for BooleanBuilder {
    fn append(&mut self, value: Option<&[u8]>) -> Result<()> {
        self.append_option(value.map(|bytes| bytes.first().is_some_and(|byte| *byte != 0)));
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(BooleanBuilder::finish(self)))
    }
}

impl ColumnReader for StringBuilder {
    fn append(&mut self, value: Option<&[u8]>) -> Result<()> {
        let text = value.map(std::str::from_utf8).transpose().map_err(|source| corrupt().caused_by(source))?;
        self.append_option(text);
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(StringBuilder::finish(self)))
    }
}

impl ColumnReader for BinaryBuilder {
    fn append(&mut self, value: Option<&[u8]>) -> Result<()> {
        self.append_option(value);
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(BinaryBuilder::finish(self)))
    }
}

struct UuidReader(StringBuilder);

impl ColumnReader for UuidReader {
    fn append(&mut self, value: Option<&[u8]>) -> Result<()> {
        match value {
            Some(bytes) => {
                let uuid = Uuid::from_slice(bytes).map_err(|source| corrupt().caused_by(source))?;
                self.0.append_value(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
            }
            None => self.0.append_null(),
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(self.0.finish()))
    }
}

struct VectorReader {
    length: i32,
    elements: Float32Builder,
    nulls: NullBufferBuilder,
}

impl ColumnReader for VectorReader {
    fn append(&mut self, value: Option<&[u8]>) -> Result<()> {
        let length = usize::try_from(self.length).unwrap_or(0);
        match value {
            Some(bytes) => {
                if bytes.len() != 4 * length {
                    return Err(corrupt());
                }
                for element in bytes.as_chunks::<4>().0 {
                    self.elements.append_value(f32::from_le_bytes(*element));
                }
                self.nulls.append_non_null();
            }
            None => {
                self.elements.append_nulls(length);
                self.nulls.append_null();
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let item = Arc::new(SqlType::Real.field("item", true));
        let elements = Arc::new(self.elements.finish());
        let vectors = FixedSizeListArray::try_new(item, self.length, elements, self.nulls.finish());
        Ok(Arc::new(vectors.map_err(|source| corrupt().caused_by(source))?))
    }
}

struct ListReader {
    item: FieldRef,
    width: Option<usize>,
    elements: Box<dyn ColumnReader>,
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
}

fn list(data_type: &SqlType, element: &SqlType, rows: usize) -> Result<Box<dyn ColumnReader>> {
    let DataType::List(item) = data_type.arrow() else {
        return Err(Error::internal(format!("{data_type} is no array")));
    };
    let elements = column_reader(element, rows)?;
    let nulls = NullBufferBuilder::new(rows);
    Ok(Box::new(ListReader { item, width: fixed_width(element), elements, offsets: vec![0], nulls }))
}

impl ListReader {
    /// Adds the elements of one array; gives how many.
    fn append_elements(&mut self, bytes: &[u8]) -> Result<usize> {
        let count = size(bytes).ok_or_else(corrupt)?;
        let rest = &bytes[4..];
        let (bitmap, rest) = rest.split_at_checked(count.div_ceil(8)).ok_or_else(corrupt)?;
        let table = if self.width.is_some() { 0 } else { count.checked_mul(4).ok_or_else(corrupt)? };
        let (ends, values) = rest.split_at_checked(table).ok_or_else(corrupt)?;
        let mut from = 0_usize;
        for place in 0..count {
            let to = match self.width {
                Some(width) => from.checked_add(width),
                None => ends.get(4 * place..).and_then(size),
            };
            let value = to.and_then(|to| values.get(from..to)).ok_or_else(corrupt)?;
            let present = bitmap[place / 8] & (1 << (place % 8)) != 0;
            self.elements.append(present.then_some(value))?;
            from += value.len();
        }
        Ok(count)
    }
}

impl ColumnReader for ListReader {
    fn append(&mut self, value: Option<&[u8]>) -> Result<()> {
        let count = match value {
            Some(bytes) => {
                self.nulls.append_non_null();
                self.append_elements(bytes)?
            }
            None => {
                self.nulls.append_null();
                0
            }
        };
        let end = self.offsets.last().copied().unwrap_or(0);
        let end = i32::try_from(count).ok().and_then(|count| end.checked_add(count));
        self.offsets.push(end.ok_or_else(|| Error::internal("the arrays of one answer have over 2^31 elements"))?);
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.offsets, vec![0])));
        let lists = ListArray::try_new(self.item.clone(), offsets, self.elements.finish()?, self.nulls.finish());
        Ok(Arc::new(lists.map_err(|source| corrupt().caused_by(source))?))
    }
}
