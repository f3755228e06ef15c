//! Rows of any shape to the columns of a relation.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray, new_null_array};
use arrow::datatypes::{Field, TimestampMicrosecondType};

use super::assign::{Assignment, assign};
use crate::error::{Error, Result, SqlState};
use crate::registry::Target;
use crate::time::CommitTime;
use crate::types::SqlType;

/// What rows are judged by beside themselves.
#[derive(Clone, Debug)]
pub struct Intake {
    /// The event time of rows that state none.
    pub now: CommitTime,
    /// The session's zone, in which instants without one are read.
    pub time_zone: String,
    /// How many rows of the same write came before: errors count from there.
    pub first_row: usize,
}

impl Intake {
    /// Which row failed, counted over the whole write.
    pub(super) fn failing_row(&self, row: usize) -> String {
        format!("The failing row is row {}.", self.first_row + row + 1)
    }
}

/// The columns of `target`, from the columns of `rows` of the same names.
pub(super) fn columns(target: &Target, rows: &RecordBatch, intake: &Intake) -> Result<RecordBatch> {
    let schema = target.schema();
    known(target, rows)?;
    let event_time = match target {
        Target::View(view) => Some(view.event_time.as_str()),
        Target::Table(_) => None,
    };
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let given = rows.schema_ref().column_with_name(field.name()).map(|(place, given)| (rows.column(place), given));
        let column = match given {
            Some((column, given)) => {
                let data_type = sql_type(field)?;
                let assignment = Assignment { column: field.name(), to: &data_type, intake };
                assign(column, given, &assignment)?
            }
            None if Some(field.name().as_str()) == event_time => {
                let now = TimestampMicrosecondArray::from_value(intake.now.micros(), rows.num_rows());
                Arc::new(now.with_timezone("UTC"))
            }
            None => new_null_array(field.data_type(), rows.num_rows()),
        };
        if !field.is_nullable() {
            not_null(target, field.name(), &column, intake)?;
        }
        if Some(field.name().as_str()) == event_time {
            finite(field.name(), &column, intake)?;
        }
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(schema, columns, &options)
        .map_err(|source| Error::internal(format!("rows do not fit relation \"{}\"", target.name())).caused_by(source))
}

/// Every column given is one of the relation, given once.
fn known(target: &Target, rows: &RecordBatch) -> Result<()> {
    let schema = target.schema();
    let given = rows.schema();
    for (place, field) in given.fields().iter().enumerate() {
        let name = field.name();
        if schema.column_with_name(name).is_none() {
            let message = format!("column \"{name}\" of relation \"{}\" does not exist", target.name());
            return Err(Error::new(SqlState::UndefinedColumn, message));
        }
        if given.fields()[..place].iter().any(|before| before.name() == name) {
            return Err(Error::new(SqlState::DuplicateColumn, format!("column \"{name}\" specified more than once")));
        }
    }
    Ok(())
}

fn sql_type(field: &Field) -> Result<SqlType> {
    SqlType::of_field(field).ok_or_else(|| Error::internal(format!("column \"{}\" has no SQL type", field.name())))
}

fn not_null(target: &Target, column: &str, values: &ArrayRef, intake: &Intake) -> Result<()> {
    if values.null_count() == 0 {
        return Ok(());
    }
    let row = (0..values.len()).find(|row| values.is_null(*row)).unwrap_or(0);
    let message = format!("null value in column \"{column}\" of relation \"{}\" violates not-null constraint", target.name());
    Err(Error::new(SqlState::NotNullViolation, message).detail(intake.failing_row(row)))
}

/// An infinite event time would be after, or before, every instant that can be asked for.
fn finite(column: &str, values: &ArrayRef, intake: &Intake) -> Result<()> {
    let instants = values.as_primitive::<TimestampMicrosecondType>();
    let infinite = instants.values().iter().position(|micros| matches!(*micros, i64::MIN | i64::MAX));
    match infinite {
        None => Ok(()),
        Some(row) => {
            let message = format!("an event time must be finite, and column \"{column}\" is an event time");
            Err(Error::new(SqlState::DatetimeFieldOverflow, message).detail(intake.failing_row(row)))
        }
    }
}
