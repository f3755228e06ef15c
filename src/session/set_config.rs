//! `SELECT set_config(…)`: settings set from within a query.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, TryStreamExt, stream};

use super::block::Block;
use super::{Answer, Prepared, Session};
use crate::error::{Error, Result, SqlState};
use crate::parser::{Query, SetConfig, SetConfigPart, SetScope};

impl Session {
    /// Sets what the query says, column by column, and gives its row. Where a column fails, nothing is set.
    pub(super) async fn set_config(
        &mut self,
        statement: &SetConfig,
        prepared: &Prepared,
        parameters: &[ScalarValue],
    ) -> Result<Answer> {
        // Outside of a block the statement is one of its own, at whose end what is local to it ends.
        let alone = self.block.is_none();
        if alone {
            self.block = Some(Block::implicit(&self.settings, self.services.clock.now()));
        }
        let columns = self.columns_of(statement, prepared, parameters).await;
        match columns {
            Ok(_) if alone => drop(self.commit().await?),
            Err(_) if alone => self.abandon(),
            Ok(_) | Err(_) => {}
        }
        row_of(columns?, prepared)
    }

    async fn columns_of(
        &mut self,
        statement: &SetConfig,
        prepared: &Prepared,
        parameters: &[ScalarValue],
    ) -> Result<Vec<ArrayRef>> {
        let mut columns: Vec<ArrayRef> = Vec::new();
        for part in &statement.parts {
            match part {
                SetConfigPart::Columns(query) => {
                    columns.extend(self.one_row(query, prepared, parameters).await?.columns().iter().cloned());
                }
                SetConfigPart::Call(query) => {
                    let arguments = self.one_row(query, prepared, parameters).await?;
                    columns.push(Arc::new(StringArray::from(vec![self.call_set_config(&arguments)?])));
                }
            }
        }
        Ok(columns)
    }

    /// Does one call, of these arguments; what the setting is then.
    fn call_set_config(&mut self, arguments: &RecordBatch) -> Result<Option<String>> {
        let text = |column: usize| arguments.column(column).as_string_opt::<i32>().filter(|text| text.is_valid(0));
        let Some(name) = text(0).map(|name| name.value(0).to_owned()) else {
            return Err(Error::new(SqlState::NullValueNotAllowed, "SET requires parameter name"));
        };
        let value = text(1).map(|value| value.value(0).to_owned());
        let is_local = arguments.column(2).as_boolean_opt().is_some_and(|local| local.is_valid(0) && local.value(0));
        let scope = if is_local { SetScope::Local } else { SetScope::Session };
        self.set(&name.to_lowercase(), value.as_deref(), scope)?;
        Ok(self.settings.get(&name).map(str::to_owned))
    }

    /// The row of a query that must have one.
    async fn one_row(&self, query: &Query, prepared: &Prepared, parameters: &[ScalarValue]) -> Result<RecordBatch> {
        let rows = self.rows(query, &prepared.parameters, parameters).await?;
        let batches: Vec<RecordBatch> =
            rows.stream.try_filter(|batch| std::future::ready(batch.num_rows() > 0)).try_collect().await?;
        match batches.as_slice() {
            [row] if row.num_rows() == 1 => Ok(row.clone()),
            _ => Err(Error::unsupported("set_config beside several rows").hint("Call it in a SELECT of its own.")),
        }
    }
}

/// The columns as an answer, under the names that were announced.
fn row_of(columns: Vec<ArrayRef>, prepared: &Prepared) -> Result<Answer> {
    let announced = prepared.columns.as_ref().ok_or_else(|| Error::internal("a SELECT without columns"))?;
    let batch = RecordBatch::try_new(Arc::clone(announced), columns)
        .map_err(|source| Error::internal("could not build an answer").caused_by(source))?;
    Ok(Answer::Rows { schema: Arc::clone(announced), stream: stream::iter([Ok(batch)]).boxed(), verb: "SELECT", counted: true })
}
