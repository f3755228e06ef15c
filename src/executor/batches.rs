//! Batches brought into the shape that is promised.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::kernel;
use crate::error::{Error, Result};
use crate::offline::ROW_ADDRESS;

/// `batch` under `schema`: the same columns by position, cast where the Arrow type differs, with the schema's names and
/// metadata. Free where nothing differs.
pub fn conform(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    if batch.num_columns() != schema.fields().len() {
        return Err(Error::internal(format!("{} columns where {} belong", batch.num_columns(), schema.fields().len())));
    }
    let rows = batch.num_rows();
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| as_type(column, field.data_type()));
    batch_of(schema, columns.collect::<Result<Vec<_>>>()?, rows)
}

/// The bytes of a batch's own rows, where it may be a slice of a larger one.
pub fn own_bytes(batch: &RecordBatch) -> usize {
    let column = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(column.get_array_memory_size());
    batch.columns().iter().map(column).sum()
}

/// `column` as `data_type`.
pub(crate) fn as_type(column: &ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    if column.data_type() == data_type {
        return Ok(Arc::clone(column));
    }
    cast(column, data_type).map_err(kernel)
}

/// A batch of `rows` rows, also where it has no columns.
pub(crate) fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(kernel)
}

/// The named columns of `schema`, in this order, then the row address where it is asked for.
pub(crate) fn project_schema(schema: &SchemaRef, columns: &[String], row_address: bool) -> Result<SchemaRef> {
    let mut fields = Vec::with_capacity(columns.len() + 1);
    for name in columns {
        let field = schema.field_with_name(name).map_err(|_| Error::internal(format!("no stored column \"{name}\"")))?;
        fields.push(field.clone());
    }
    if row_address {
        fields.push(Field::new(ROW_ADDRESS, DataType::UInt64, true));
    }
    Ok(Arc::new(Schema::new(fields)))
}
