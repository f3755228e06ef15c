//! The functions that the parser's rewriting puts around `array_agg`: they take an array of any type.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, UInt32Array, new_empty_array, new_null_array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::super::value::{Value, array_of};
use super::external;
use crate::error::{Error, SqlState};
use crate::types::SqlType;

/// `__single`, `__array`, `__subscripts` and `__no_array`.
pub(super) fn all() -> impl Iterator<Item = Arc<ScalarUDF>> {
    [ListFunction::Single, ListFunction::OrEmpty, ListFunction::Subscripts, ListFunction::NoArray].into_iter().map(|kind| {
        let signature = Signature::any(1, Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(OverList { kind, signature }))
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ListFunction {
    /// The only element of an array; NULL for an empty one, an error for several: what a scalar subquery gives.
    Single,
    /// The array itself; an empty one for NULL: what `ARRAY(subquery)` gives.
    OrEmpty,
    /// The numbers of its elements: from 1, in the catalogs' vectors from 0.
    Subscripts,
    /// NULL, of the type of arrays of such elements.
    NoArray,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OverList {
    kind: ListFunction,
    signature: Signature,
}

impl ScalarUDFImpl for OverList {
    fn name(&self) -> &str {
        match self.kind {
            ListFunction::Single => "__single",
            ListFunction::OrEmpty => "__array",
            ListFunction::Subscripts => "__subscripts",
            ListFunction::NoArray => "__no_array",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        match (self.kind, arguments) {
            (ListFunction::Single, [DataType::List(element)]) => Ok(element.data_type().clone()),
            (ListFunction::Subscripts, [_]) => Ok(SqlType::Array(Box::new(SqlType::Integer)).arrow()),
            (_, [other]) => Ok(other.clone()),
            _ => Err(external(Error::internal(format!("{} takes one array", self.name())))),
        }
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef, DataFusionError> {
        let [argument] = arguments.arg_fields else {
            return Err(external(Error::internal(format!("{} takes one array", self.name()))));
        };
        if self.kind == ListFunction::Subscripts {
            return Ok(SqlType::Array(Box::new(SqlType::Integer)).field_ref(self.name(), true));
        }
        if self.kind == ListFunction::NoArray {
            let element = argument.as_ref().clone().with_name("item").with_nullable(true);
            return Ok(Arc::new(Field::new(self.name(), DataType::List(Arc::new(element)), true)));
        }
        let field = match (self.kind, argument.data_type()) {
            (ListFunction::Single, DataType::List(element)) => element,
            _ => argument,
        };
        Ok(Arc::new(field.as_ref().clone().with_name(self.name()).with_nullable(true)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        if self.kind == ListFunction::NoArray {
            return Ok(ColumnarValue::Array(new_null_array(arguments.return_field.data_type(), arguments.number_rows)));
        }
        let array = match arguments.args.first() {
            Some(argument) => argument.to_array(arguments.number_rows)?,
            None => return Err(external(Error::internal(format!("{} takes one array", self.name())))),
        };
        let Some(list) = array.as_list_opt::<i32>() else {
            return Ok(ColumnarValue::Array(array));
        };
        Ok(ColumnarValue::Array(match self.kind {
            ListFunction::Single => single(list)?,
            ListFunction::NoArray | ListFunction::OrEmpty => or_empty(list)?,
            ListFunction::Subscripts => {
                let kind = arguments.arg_fields.first().and_then(|field| SqlType::of_field(field));
                subscripts(list, matches!(kind, Some(SqlType::Int2Vector | SqlType::OidVector)))?
            }
        }))
    }
}

fn single(list: &ListArray) -> Result<ArrayRef, DataFusionError> {
    let mut picked = Vec::with_capacity(list.len());
    for row in 0..list.len() {
        let start = list.value_offsets()[row];
        picked.push(match list.value_length(row) {
            _ if list.is_null(row) => None,
            0 => None,
            1 => u32::try_from(start).ok(),
            _ => {
                let several = "more than one row returned by a subquery used as an expression";
                return Err(external(Error::new(SqlState::CardinalityViolation, several)));
            }
        });
    }
    Ok(take(list.values(), &UInt32Array::from(picked), None)?)
}

fn subscripts(list: &ListArray, from_zero: bool) -> Result<ArrayRef, DataFusionError> {
    let first = if from_zero { 0 } else { 1 };
    let places = (0..list.len()).map(|row| {
        let length = if list.is_null(row) { 0 } else { i64::from(list.value_length(row)) };
        Value::List((first..first + length).map(Value::Int).collect())
    });
    let places: Vec<Value> = places.collect();
    array_of(&SqlType::Array(Box::new(SqlType::Integer)).arrow(), &places).map_err(external)
}

fn or_empty(list: &ListArray) -> Result<ArrayRef, DataFusionError> {
    let DataType::List(element) = list.data_type() else {
        return Ok(Arc::new(list.clone()));
    };
    let lengths = (0..list.len()).map(|row| if list.is_null(row) { 0 } else { list.value(row).len() });
    let offsets = OffsetBuffer::from_lengths(lengths);
    let values: Vec<ArrayRef> = (0..list.len()).filter(|row| !list.is_null(*row)).map(|row| list.value(row)).collect();
    let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
    let values = if values.is_empty() { new_empty_array(element.data_type()) } else { arrow::compute::concat(&values)? };
    Ok(Arc::new(ListArray::try_new(Arc::clone(element), offsets, values, None)?))
}
