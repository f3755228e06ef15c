//! The columns of a view's history, beyond those a client sees.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::registry::FeatureView;
use crate::types::SqlType;

/// The column of the commit time (`timestamptz`).
pub const CREATED_TIME: &str = "created_time";

/// The hidden column that orders rows equal in event time and commit time (Int64).
pub const SEQUENCE: &str = "__sequence";

/// The hidden column that marks a row as a retraction: from its event time on, the entity has no value (Boolean).
pub const RETRACTED: &str = "__retracted";

/// The schema of `view`'s history as it is stored: the columns of [`FeatureView::schema`] under their own names, then
/// `created_time`, `__sequence` and `__retracted`. The event time column keeps the name the view gives it.
pub fn history_schema(view: &FeatureView) -> SchemaRef {
    let visible = view.schema();
    let mut fields: Vec<Field> = visible.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(SqlType::TimestampTz.field(CREATED_TIME, false));
    fields.push(Field::new(SEQUENCE, DataType::Int64, false));
    fields.push(Field::new(RETRACTED, DataType::Boolean, false));
    Arc::new(Schema::new(fields))
}

/// The columns by which a view's history is sorted where it is rewritten: keys, event time, commit time, sequence.
pub fn history_order(view: &FeatureView) -> Vec<String> {
    let keys = view.keys.iter().map(|key| key.name.clone());
    keys.chain([view.event_time.clone(), CREATED_TIME.to_owned(), SEQUENCE.to_owned()]).collect()
}
