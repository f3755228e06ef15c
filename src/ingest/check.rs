//! `CHECK` conditions, compiled once and judged batch by batch.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::Intake;
use crate::error::{Error, Result, SqlState};
use crate::registry::FeatureView;

/// The conditions that the rows of a view meet.
#[derive(Debug)]
pub(super) struct Checks(Vec<Check>);

#[derive(Debug)]
struct Check {
    /// The name PostgreSQL would give the constraint.
    name: String,
    condition: Arc<dyn PhysicalExpr>,
}

impl Checks {
    /// Compiles the conditions of `view`'s features.
    pub(super) fn new(view: &FeatureView) -> Result<Self> {
        if view.features.iter().all(|feature| feature.check.is_none()) {
            return Ok(Self(Vec::new()));
        }
        let schema = view.schema();
        let columns = DFSchema::try_from(schema.as_ref().clone()).map_err(|source| {
            Error::internal(format!("the columns of \"{}\" do not go together", view.name)).caused_by(source)
        })?;
        let context =
            SessionContext::new_with_config(SessionConfig::new().set_str("datafusion.sql_parser.dialect", "postgresql"));
        let mut checks = Vec::new();
        for feature in &view.features {
            let Some(text) = &feature.check else { continue };
            let condition = context
                .parse_sql_expr(text, &columns)
                .and_then(|expression| context.create_physical_expr(expression, &columns))
                .map_err(|source| unreadable(&feature.name, text, source))?;
            match condition.data_type(&schema) {
                Ok(DataType::Boolean) => {}
                Ok(_) => {
                    let message = "argument of CHECK must be type boolean";
                    return Err(Error::new(SqlState::DatatypeMismatch, message).detail(format!("CHECK ({text})")));
                }
                Err(source) => return Err(not_a_condition(&feature.name, text).caused_by(source)),
            }
            checks.push(Check { name: format!("{}_{}_check", view.name, feature.name), condition });
        }
        Ok(Self(checks))
    }

    /// An error unless no condition is false for any row; one that is NULL holds.
    pub(super) fn hold(&self, view: &FeatureView, rows: &RecordBatch, intake: &Intake) -> Result<()> {
        for check in &self.0 {
            let judged = check.condition.evaluate(rows).and_then(|value| value.into_array(rows.num_rows()));
            let judged = judged.map_err(|source| {
                let message = format!("check constraint \"{}\" of relation \"{}\" could not be evaluated", check.name, view.name);
                Error::new(SqlState::DataException, message).detail(source.strip_backtrace()).caused_by(source)
            })?;
            let judged = judged.as_boolean();
            if let Some(row) = (0..judged.len()).find(|row| judged.is_valid(*row) && !judged.value(*row)) {
                let message = format!("new row for relation \"{}\" violates check constraint \"{}\"", view.name, check.name);
                return Err(Error::new(SqlState::CheckViolation, message).detail(intake.failing_row(row)));
            }
        }
        Ok(())
    }
}

/// Why a condition cannot be compiled: a column that is not there, as PostgreSQL would say it, or anything else.
fn unreadable(column: &str, text: &str, source: DataFusionError) -> Error {
    if let DataFusionError::SchemaError(problem, _) = source.find_root()
        && let SchemaError::FieldNotFound { field, .. } = problem.as_ref()
    {
        return Error::new(SqlState::UndefinedColumn, format!("column \"{}\" does not exist", field.name));
    }
    not_a_condition(column, text).detail(source.strip_backtrace()).caused_by(source)
}

fn not_a_condition(column: &str, text: &str) -> Error {
    let message = format!("CHECK ({text}) of column \"{column}\" is not a condition on the columns of its row");
    Error::new(SqlState::InvalidTableDefinition, message)
}
