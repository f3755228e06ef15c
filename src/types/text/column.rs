//! A column under construction, one builder per Arrow form.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, FixedSizeListArray, Float32Builder,
    Float64Builder, Int16Builder, Int32Builder, Int64Builder, IntervalMonthDayNanoBuilder, ListArray, NullBufferBuilder,
    StringBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder, new_empty_array,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::compute::concat;
use arrow::datatypes::{DataType, FieldRef};

use crate::error::{Error, Result, SqlState};
use crate::types::SqlType;

/// A column under construction. Which SQL type it holds is its maker's to know: `text`, `uuid` and `json` all build Utf8.
#[derive(Debug)]
pub enum ColumnBuilder {
    /// `boolean`
    Boolean(BooleanBuilder),
    /// `smallint`
    Int16(Int16Builder),
    /// `integer`
    Int32(Int32Builder),
    /// `bigint`, `oid`
    Int64(Int64Builder),
    /// `real`
    Float32(Float32Builder),
    /// `double precision`
    Float64(Float64Builder),
    /// `numeric`
    Decimal {
        /// The values, as multiples of ten to the minus `scale`.
        values: Decimal128Builder,
        /// Digits in all.
        precision: u8,
        /// Digits after the point.
        scale: i8,
    },
    /// `text`, `uuid`, `json`, `name`, `"char"`
    Utf8(StringBuilder),
    /// `bytea`
    Binary(BinaryBuilder),
    /// `date`: days since 1970-01-01
    Date32(Date32Builder),
    /// `time`: microseconds since midnight
    Time64(Time64MicrosecondBuilder),
    /// `timestamp`, `timestamptz`: microseconds since 1970-01-01
    Timestamp {
        /// The values.
        values: TimestampMicrosecondBuilder,
        /// Whether they are instants in UTC.
        with_zone: bool,
    },
    /// `interval`
    Interval(IntervalMonthDayNanoBuilder),
    /// Arrays of any length.
    List(ListBuilder),
    /// Arrays of one length.
    Vector(VectorBuilder),
}

/// Arrays of any length, under construction.
#[derive(Debug)]
pub struct ListBuilder {
    field: FieldRef,
    parts: Vec<ArrayRef>,
    offsets: Vec<i32>,
    valid: NullBufferBuilder,
}

/// Arrays of one length, under construction.
#[derive(Debug)]
pub struct VectorBuilder {
    field: FieldRef,
    length: i32,
    parts: Vec<ArrayRef>,
    valid: NullBufferBuilder,
}

/// The type of an array's elements; of the type itself where it is no array.
pub(super) fn element_type(data_type: &SqlType) -> SqlType {
    match data_type {
        SqlType::Array(element) => (**element).clone(),
        SqlType::Vector(_) => SqlType::Real,
        SqlType::Int2Vector => SqlType::SmallInt,
        SqlType::OidVector => SqlType::Oid,
        other => other.clone(),
    }
}

impl ColumnBuilder {
    /// An empty column of `data_type`.
    pub fn new(data_type: &SqlType) -> Self {
        match data_type.arrow() {
            DataType::Boolean => ColumnBuilder::Boolean(BooleanBuilder::new()),
            DataType::Int16 => ColumnBuilder::Int16(Int16Builder::new()),
            DataType::Int32 => ColumnBuilder::Int32(Int32Builder::new()),
            DataType::Int64 => ColumnBuilder::Int64(Int64Builder::new()),
            DataType::Float32 => ColumnBuilder::Float32(Float32Builder::new()),
            DataType::Float64 => ColumnBuilder::Float64(Float64Builder::new()),
            data_type @ DataType::Decimal128(precision, scale) => {
                ColumnBuilder::Decimal { values: Decimal128Builder::new().with_data_type(data_type), precision, scale }
            }
            DataType::Binary => ColumnBuilder::Binary(BinaryBuilder::new()),
            DataType::Date32 => ColumnBuilder::Date32(Date32Builder::new()),
            DataType::Time64(_) => ColumnBuilder::Time64(Time64MicrosecondBuilder::new()),
            data_type @ DataType::Timestamp(_, _) => {
                let with_zone = matches!(data_type, DataType::Timestamp(_, Some(_)));
                ColumnBuilder::Timestamp { values: TimestampMicrosecondBuilder::new().with_data_type(data_type), with_zone }
            }
            DataType::Interval(_) => ColumnBuilder::Interval(IntervalMonthDayNanoBuilder::new()),
            DataType::List(field) => {
                ColumnBuilder::List(ListBuilder { field, parts: Vec::new(), offsets: vec![0], valid: NullBufferBuilder::new(0) })
            }
            DataType::FixedSizeList(field, length) => {
                ColumnBuilder::Vector(VectorBuilder { field, length, parts: Vec::new(), valid: NullBufferBuilder::new(0) })
            }
            // Every other SQL type is held as text.
            _ => ColumnBuilder::Utf8(StringBuilder::new()),
        }
    }

    /// Adds a NULL.
    pub fn push_null(&mut self) {
        match self {
            ColumnBuilder::Boolean(values) => values.append_null(),
            ColumnBuilder::Int16(values) => values.append_null(),
            ColumnBuilder::Int32(values) => values.append_null(),
            ColumnBuilder::Int64(values) => values.append_null(),
            ColumnBuilder::Float32(values) => values.append_null(),
            ColumnBuilder::Float64(values) => values.append_null(),
            ColumnBuilder::Decimal { values, .. } => values.append_null(),
            ColumnBuilder::Utf8(values) => values.append_null(),
            ColumnBuilder::Binary(values) => values.append_null(),
            ColumnBuilder::Date32(values) => values.append_null(),
            ColumnBuilder::Time64(values) => values.append_null(),
            ColumnBuilder::Timestamp { values, .. } => values.append_null(),
            ColumnBuilder::Interval(values) => values.append_null(),
            ColumnBuilder::List(list) => list.push(None),
            ColumnBuilder::Vector(vector) => vector.push_null(),
        }
    }

    /// Adds an array of these elements, which have the element type's Arrow form; an error if the column holds no arrays or
    /// only ones of another length.
    pub fn push_list(&mut self, elements: &ArrayRef) -> Result<()> {
        match self {
            ColumnBuilder::List(list) => {
                list.push(Some(elements));
                Ok(())
            }
            ColumnBuilder::Vector(vector) => vector.push(elements),
            _ => Err(Error::new(SqlState::DatatypeMismatch, "an array stands where a single value belongs")),
        }
    }

    /// The number of values so far.
    pub fn len(&self) -> usize {
        use arrow::array::ArrayBuilder;
        match self {
            ColumnBuilder::Boolean(values) => values.len(),
            ColumnBuilder::Int16(values) => values.len(),
            ColumnBuilder::Int32(values) => values.len(),
            ColumnBuilder::Int64(values) => values.len(),
            ColumnBuilder::Float32(values) => values.len(),
            ColumnBuilder::Float64(values) => values.len(),
            ColumnBuilder::Decimal { values, .. } => values.len(),
            ColumnBuilder::Utf8(values) => values.len(),
            ColumnBuilder::Binary(values) => values.len(),
            ColumnBuilder::Date32(values) => values.len(),
            ColumnBuilder::Time64(values) => values.len(),
            ColumnBuilder::Timestamp { values, .. } => values.len(),
            ColumnBuilder::Interval(values) => values.len(),
            ColumnBuilder::List(list) => list.valid.len(),
            ColumnBuilder::Vector(vector) => vector.valid.len(),
        }
    }

    /// Whether there are no values yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values so far; the column is empty afterwards.
    pub fn finish(&mut self) -> ArrayRef {
        match self {
            ColumnBuilder::Boolean(values) => Arc::new(values.finish()),
            ColumnBuilder::Int16(values) => Arc::new(values.finish()),
            ColumnBuilder::Int32(values) => Arc::new(values.finish()),
            ColumnBuilder::Int64(values) => Arc::new(values.finish()),
            ColumnBuilder::Float32(values) => Arc::new(values.finish()),
            ColumnBuilder::Float64(values) => Arc::new(values.finish()),
            ColumnBuilder::Decimal { values, .. } => Arc::new(values.finish()),
            ColumnBuilder::Utf8(values) => Arc::new(values.finish()),
            ColumnBuilder::Binary(values) => Arc::new(values.finish()),
            ColumnBuilder::Date32(values) => Arc::new(values.finish()),
            ColumnBuilder::Time64(values) => Arc::new(values.finish()),
            ColumnBuilder::Timestamp { values, .. } => Arc::new(values.finish()),
            ColumnBuilder::Interval(values) => Arc::new(values.finish()),
            ColumnBuilder::List(list) => list.finish(),
            ColumnBuilder::Vector(vector) => vector.finish(),
        }
    }
}

impl ListBuilder {
    fn push(&mut self, elements: Option<&ArrayRef>) {
        let end = self.offsets.last().copied().unwrap_or(0);
        match elements {
            Some(elements) => {
                // A message is far shorter than 2^31 elements, and so is what one column gathers before it is finished.
                self.offsets.push(end.saturating_add(i32::try_from(elements.len()).unwrap_or(i32::MAX)));
                self.parts.push(Arc::clone(elements));
                self.valid.append_non_null();
            }
            None => {
                self.offsets.push(end);
                self.valid.append_null();
            }
        }
    }

    fn finish(&mut self) -> ArrayRef {
        let values = join(&std::mem::take(&mut self.parts), self.field.data_type());
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Arc::new(ListArray::new(Arc::clone(&self.field), offsets, values, self.valid.finish()))
    }
}

impl VectorBuilder {
    fn push(&mut self, elements: &ArrayRef) -> Result<()> {
        if i32::try_from(elements.len()).ok() != Some(self.length) {
            return Err(Error::new(
                SqlState::DataException,
                format!("expected {} numbers in real[{}], not {}", self.length, self.length, elements.len()),
            ));
        }
        self.parts.push(Arc::clone(elements));
        self.valid.append_non_null();
        Ok(())
    }

    fn push_null(&mut self) {
        let length = usize::try_from(self.length).unwrap_or(0);
        self.parts.push(arrow::array::new_null_array(self.field.data_type(), length));
        self.valid.append_null();
    }

    fn finish(&mut self) -> ArrayRef {
        let values = join(&std::mem::take(&mut self.parts), self.field.data_type());
        Arc::new(FixedSizeListArray::new(Arc::clone(&self.field), self.length, values, self.valid.finish()))
    }
}

fn join(parts: &[ArrayRef], data_type: &DataType) -> ArrayRef {
    match parts {
        [] => new_empty_array(data_type),
        [one] => Arc::clone(one),
        several => {
            let several: Vec<&dyn Array> = several.iter().map(|part| part.as_ref()).collect();
            concat(&several).expect("the parts all come from one element builder")
        }
    }
}
