//! Building the batches of system relations from named cells.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};

use super::definition::SystemRelation;
use super::value::{Value, array_of};
use crate::error::{Error, Result};
use crate::types::SqlType;

/// The rows of one system relation under construction.
pub(super) struct Rows<'a> {
    relation: &'a SystemRelation,
    index: HashMap<&'a str, usize>,
    columns: Vec<Vec<Value>>,
    len: usize,
}

impl<'a> Rows<'a> {
    /// No rows of `relation` yet.
    pub(super) fn new(relation: &'a SystemRelation) -> Self {
        let index = relation.columns.iter().enumerate().map(|(index, column)| (column.name.as_str(), index));
        Self { relation, index: index.collect(), columns: vec![Vec::new(); relation.columns.len()], len: 0 }
    }

    /// Adds a row. Columns that are not named are NULL, or nothing (`false`, 0, `''`, `{}`) where they take no NULL.
    pub(super) fn add<const N: usize>(&mut self, cells: [(&str, Value); N]) -> Result<()> {
        self.extend(cells)
    }

    /// As [`Rows::add`], with cells from a list.
    pub(super) fn extend<'c>(&mut self, cells: impl IntoIterator<Item = (&'c str, Value)>) -> Result<()> {
        for (values, column) in self.columns.iter_mut().zip(&self.relation.columns) {
            values.push(if column.nullable { Value::Null } else { nothing(&column.data_type) });
        }
        for (name, value) in cells {
            let slot = self.index.get(name).and_then(|index| self.columns.get_mut(*index)).and_then(|values| values.last_mut());
            *slot.ok_or_else(|| Error::internal(format!("a system relation has no column \"{name}\"")))? = value;
        }
        self.len += 1;
        Ok(())
    }

    /// The batch.
    pub(super) fn finish(self) -> Result<RecordBatch> {
        let schema = schema_of(self.relation);
        let arrays = self.columns.iter().zip(schema.fields()).map(|(values, field)| array_of(field.data_type(), values));
        let arrays = arrays.collect::<Result<Vec<ArrayRef>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.len));
        RecordBatch::try_new_with_options(schema, arrays, &options)
            .map_err(|source| Error::internal("the rows of a system relation do not fit its columns").caused_by(source))
    }
}

/// The Arrow schema of a system relation.
pub(super) fn schema_of(relation: &SystemRelation) -> SchemaRef {
    let fields = relation.columns.iter().map(|column| column.data_type.field(&column.name, column.nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn nothing(data_type: &SqlType) -> Value {
    match data_type {
        SqlType::Boolean => Value::Bool(false),
        SqlType::SmallInt | SqlType::Integer | SqlType::BigInt | SqlType::Oid | SqlType::Real | SqlType::DoublePrecision => {
            Value::Int(0)
        }
        SqlType::Array(_) | SqlType::Int2Vector | SqlType::OidVector => Value::List(Vec::new()),
        SqlType::TimestampTz | SqlType::Timestamp => Value::Instant(0),
        SqlType::Interval => Value::Length(0),
        _ => Value::from(""),
    }
}
