//! Arrow columns as columns of PostgreSQL values. A column is looked at once a batch; after that its type is known and a cell costs
//! no allocation.

mod text;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array,
    FixedSizeListArray, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray,
    LargeBinaryArray, LargeStringArray, ListArray, StringArray, StringViewArray, Time64MicrosecondArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, TimeUnit};

use super::SqlType;
use crate::error::{Error, Result, SqlState};

/// The values of one column of a batch.
#[derive(Debug)]
pub(crate) struct Cells {
    pub(crate) sql_type: SqlType,
    nulls: Option<NullBuffer>,
    pub(crate) values: Values,
}

/// A column by the form its values have. Rare forms are turned into these, a column at a time.
#[derive(Debug)]
pub(crate) enum Values {
    Null,
    Boolean(BooleanArray),
    Int16(Int16Array),
    Int32(Int32Array),
    Int64(Int64Array),
    Float32(Float32Array),
    Float64(Float64Array),
    Decimal128(Decimal128Array, i8),
    Decimal256(Decimal256Array, i8),
    Utf8(StringArray),
    LargeUtf8(LargeStringArray),
    Utf8View(StringViewArray),
    Binary(BinaryArray),
    LargeBinary(LargeBinaryArray),
    BinaryView(BinaryViewArray),
    Date(Date32Array),
    Time(Time64MicrosecondArray),
    Timestamp(TimestampMicrosecondArray),
    Interval(IntervalMonthDayNanoArray),
    List(OffsetBuffer<i32>, Box<Cells>),
    FixedList(usize, Box<Cells>),
}

impl Cells {
    /// The cells of `array`, which hold values of `sql_type`. An error if a value does not fit the type (an instant beyond
    /// its range), or the array is of a kind that has no PostgreSQL type.
    pub(crate) fn new(array: &ArrayRef, sql_type: &SqlType) -> Result<Self> {
        let array = usual_form(array, sql_type)?;
        let nulls = array.logical_nulls();
        let values = match array.data_type() {
            DataType::Null => Values::Null,
            DataType::Boolean => Values::Boolean(typed(&array)?),
            DataType::Int16 => Values::Int16(typed(&array)?),
            DataType::Int32 => Values::Int32(typed(&array)?),
            DataType::Int64 => Values::Int64(typed(&array)?),
            DataType::Float32 => Values::Float32(typed(&array)?),
            DataType::Float64 => Values::Float64(typed(&array)?),
            DataType::Decimal128(_, scale) => Values::Decimal128(typed(&array)?, *scale),
            DataType::Decimal256(_, scale) => Values::Decimal256(typed(&array)?, *scale),
            DataType::Utf8 => Values::Utf8(typed(&array)?),
            DataType::LargeUtf8 => Values::LargeUtf8(typed(&array)?),
            DataType::Utf8View => Values::Utf8View(typed(&array)?),
            DataType::Binary => Values::Binary(typed(&array)?),
            DataType::LargeBinary => Values::LargeBinary(typed(&array)?),
            DataType::BinaryView => Values::BinaryView(typed(&array)?),
            DataType::Date32 => Values::Date(typed(&array)?),
            DataType::Time64(TimeUnit::Microsecond) => Values::Time(typed(&array)?),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Values::Timestamp(typed(&array)?),
            DataType::Interval(_) => Values::Interval(typed(&array)?),
            DataType::List(_) => {
                let list: ListArray = typed(&array)?;
                Values::List(list.offsets().clone(), Box::new(Cells::new(list.values(), &element_of(sql_type, list.values()))?))
            }
            DataType::FixedSizeList(_, length) => {
                let list: FixedSizeListArray = typed(&array)?;
                let length = usize::try_from(*length).map_err(|_| Error::internal("a list of negative length"))?;
                Values::FixedList(length, Box::new(Cells::new(list.values(), &element_of(sql_type, list.values()))?))
            }
            other => return Err(Error::unsupported(format!("a result of type {other}"))),
        };
        Ok(Self { sql_type: sql_type.clone(), nulls, values })
    }

    pub(crate) fn is_null(&self, row: usize) -> bool {
        matches!(self.values, Values::Null) || self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// The elements of a list cell: where they lie, and the cells they lie in.
    pub(crate) fn elements(&self, row: usize) -> Option<(std::ops::Range<usize>, &Cells)> {
        match &self.values {
            Values::List(offsets, cells) => {
                let start = usize::try_from(offsets[row]).ok()?;
                let end = usize::try_from(offsets[row + 1]).ok()?;
                Some((start..end, cells))
            }
            Values::FixedList(length, cells) => Some((row * length..(row + 1) * length, cells)),
            _ => None,
        }
    }
}

fn typed<T: Array + Clone + 'static>(array: &ArrayRef) -> Result<T> {
    array.as_any().downcast_ref::<T>().cloned().ok_or_else(|| Error::internal("an array that is not of the type it says"))
}

/// The type of a list's elements. Arrays of several dimensions are one type in PostgreSQL.
fn element_of(sql_type: &SqlType, elements: &ArrayRef) -> SqlType {
    match sql_type {
        _ if is_list(elements.data_type()) => sql_type.clone(),
        SqlType::Array(element) => (**element).clone(),
        SqlType::Vector(_) => SqlType::Real,
        SqlType::Int2Vector => SqlType::SmallInt,
        SqlType::OidVector => SqlType::Oid,
        other => other.clone(),
    }
}

fn is_list(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::List(_)
            | DataType::LargeList(_)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
            | DataType::FixedSizeList(_, _)
    )
}

/// The array in a form that [`Values`] has, its values unchanged.
fn usual_form(array: &ArrayRef, sql_type: &SqlType) -> Result<ArrayRef> {
    let data_type = array.data_type();
    let is_usual = match sql_type {
        _ if data_type == &DataType::Null => true,
        SqlType::Text | SqlType::Uuid | SqlType::Json | SqlType::Name | SqlType::Char => {
            matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
        }
        SqlType::Bytea => matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView),
        SqlType::Numeric { .. } => matches!(data_type, DataType::Decimal128(_, _) | DataType::Decimal256(_, _)),
        SqlType::Timestamp | SqlType::TimestampTz => matches!(data_type, DataType::Timestamp(TimeUnit::Microsecond, _)),
        SqlType::Array(_) | SqlType::Vector(_) | SqlType::Int2Vector | SqlType::OidVector => {
            matches!(data_type, DataType::List(_) | DataType::FixedSizeList(_, _))
        }
        other => data_type == &other.arrow(),
    };
    if is_usual {
        return Ok(Arc::clone(array));
    }
    let target = match data_type {
        DataType::LargeList(element) | DataType::ListView(element) | DataType::LargeListView(element) => {
            DataType::List(Arc::new(Field::clone(element)))
        }
        DataType::Dictionary(_, values) => (**values).clone(),
        DataType::RunEndEncoded(_, values) => values.data_type().clone(),
        _ => sql_type.arrow(),
    };
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let cast = cast_with_options(array, &target, &options).map_err(|problem| {
        Error::new(SqlState::DataException, format!("a result of type {data_type} does not fit {sql_type}")).caused_by(problem)
    })?;
    // Dictionaries may hold values that are not of a usual form either.
    if matches!(data_type, DataType::Dictionary(_, _) | DataType::RunEndEncoded(_, _)) {
        usual_form(&cast, sql_type)
    } else {
        Ok(cast)
    }
}
