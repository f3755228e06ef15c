//! Small answers made by the session itself: settings, descriptions, and the statements that steer it.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{Schema, SchemaRef};
use futures::{StreamExt, stream};

use super::{Answer, Session};
use crate::error::{Error, Result, SqlState};
use crate::parser::{RelationName, SetScope};
use crate::time::CommitTime;
use crate::types::SqlType;
use crate::types::text::parse_instant;

/// Columns of text by these names.
pub(super) fn text_columns(names: &[&str]) -> SchemaRef {
    Arc::new(Schema::new(names.iter().map(|name| SqlType::Text.field(*name, true)).collect::<Vec<_>>()))
}

/// Rows of text; each row has a value a column.
fn text_rows(schema: &SchemaRef, rows: &[Vec<Option<String>>], verb: &'static str) -> Result<Answer> {
    let columns = (0..schema.fields().len()).map(|column| {
        let values = rows.iter().map(|row| row.get(column).and_then(Option::as_deref));
        Arc::new(values.collect::<StringArray>()) as ArrayRef
    });
    let batch = RecordBatch::try_new(Arc::clone(schema), columns.collect())
        .map_err(|source| Error::internal("could not build an answer").caused_by(source))?;
    Ok(Answer::Rows { schema: Arc::clone(schema), stream: stream::iter([Ok(batch)]).boxed(), verb, counted: false })
}

/// The columns of `SHOW ALL`.
pub(super) const SHOW_ALL: &[&str] = &["name", "setting", "description"];

/// The columns of `DESCRIBE`.
pub(super) const DESCRIBE: &[&str] = &["column", "type", "role", "comment"];

impl Session {
    /// The columns of `SHOW name`.
    pub(super) fn show_columns(&self, name: &str) -> Result<SchemaRef> {
        self.settings.show(name).map(|(name, _)| text_columns(&[&name]))
    }

    pub(super) fn show(&self, name: &str) -> Result<Answer> {
        let (name, mut value) = self.settings.show(name)?;
        if let Some(block) = &self.block {
            match name.as_str() {
                "transaction_isolation" => block.isolation_name().clone_into(&mut value),
                "transaction_read_only" => (if block.read_only { "on" } else { "off" }).clone_into(&mut value),
                _ => {}
            }
        }
        text_rows(&text_columns(&[&name]), &[vec![Some(value)]], "SHOW")
    }

    pub(super) fn show_all(&self) -> Result<Answer> {
        let rows: Vec<_> = self
            .settings
            .show_all()
            .map(|shown| [shown.name, shown.value, shown.description].map(|text| Some(text.to_owned())).to_vec())
            .collect();
        text_rows(&text_columns(SHOW_ALL), &rows, "SHOW")
    }

    pub(super) fn set(&mut self, name: &str, value: Option<&str>, scope: SetScope) -> Result<Answer> {
        match name {
            "transaction_isolation" | "transaction_read_only" => {
                return Err(Error::unsupported(format!("SET {name}")).hint("Use SET TRANSACTION or BEGIN with its modes."));
            }
            _ => {}
        }
        self.settings.set(name, value)?;
        match (scope, &mut self.block) {
            (SetScope::Session, Some(block)) => block.settings_kept.set(name, value)?,
            (SetScope::Local, None) => {
                self.settings.reset(name)?;
                self.notice(
                    "WARNING",
                    SqlState::NoActiveSqlTransaction,
                    "SET LOCAL can only be used in transaction blocks",
                    None,
                );
            }
            (SetScope::Local, Some(_)) | (SetScope::Session, None) => {}
        }
        self.settings_changed();
        Ok(Answer::Done("SET".into()))
    }

    pub(super) fn reset(&mut self, name: Option<&str>) -> Result<Answer> {
        match name {
            Some(name) => self.settings.reset(name)?,
            None => self.settings.reset_all(),
        }
        if let Some(block) = &mut self.block {
            match name {
                Some(name) => block.settings_kept.reset(name)?,
                None => block.settings_kept.reset_all(),
            }
        }
        self.settings_changed();
        Ok(Answer::Done("RESET".into()))
    }

    pub(super) fn discard(&mut self) -> Result<Answer> {
        if self.block.as_ref().is_some_and(|block| block.explicit) {
            return Err(Error::new(SqlState::ActiveSqlTransaction, "DISCARD ALL cannot run inside a transaction block"));
        }
        self.settings.reset_all();
        self.prepared.clear();
        self.settings_changed();
        Ok(Answer::Done("DISCARD ALL".into()))
    }

    /// Moves the gateway's clock, where it was started with one that can be set.
    pub(super) fn set_clock(&mut self, instant: &str) -> Result<Answer> {
        let micros = parse_instant(instant, self.settings.time_zone())?;
        let before = self.services.clock.now();
        self.services.clock.set(CommitTime::from_micros(micros)).map_err(|_| {
            Error::new(SqlState::CantChangeRuntimeParam, "the gateway's clock runs by itself and cannot be set")
                .hint("Start the gateway with --clock INSTANT to set it.")
        })?;
        // A clock set back leaves rows of the future online; the next catch-up builds them anew.
        if self.services.clock.now() < before {
            self.services.stores.online.set_all_unready();
        }
        Ok(Answer::Done("ALTER SYSTEM".into()))
    }

    /// The columns of a relation, with the part each plays.
    pub(super) fn describe(&self, name: &RelationName) -> Result<Answer> {
        let (context, _) = self.context();
        let registry = &context.registry;
        let row = |name: &str, data_type: &SqlType, role: &str, comment: Option<&String>| {
            vec![Some(name.to_owned()), Some(data_type.name()), Some(role.to_owned()), comment.cloned()]
        };
        let mut rows = Vec::new();
        let found = matches!(name.schema.as_deref(), None | Some("public")).then_some(name.name.as_str());
        if let Some(view) = found.and_then(|name| registry.views.get(name)) {
            rows.extend(view.keys.iter().map(|key| row(&key.name, &key.data_type, "key", None)));
            rows.push(row(&view.event_time, &SqlType::TimestampTz, "event time", None));
            rows.extend(view.features.iter().map(|f| row(&f.name, &f.data_type, "feature", f.comment.as_ref())));
        } else if let Some(table) = found.and_then(|name| registry.tables.get(name)) {
            rows.extend(table.columns.iter().map(|c| row(&c.name, &c.data_type, "column", c.comment.as_ref())));
        } else if let Some(view) = found.and_then(|name| registry.sql_views.get(name)) {
            rows.extend(view.columns.iter().map(|c| row(&c.name, &c.data_type, "column", c.comment.as_ref())));
        } else if let Some(service) = found.and_then(|name| registry.services.get(name)) {
            rows.extend(service.keys.iter().map(|key| row(&key.name, &key.data_type, "key", None)));
            rows.extend(service.columns.iter().map(|c| row(&c.name, &c.data_type, "feature", c.comment.as_ref())));
        } else {
            return Err(super::write::undefined_relation(name));
        }
        text_rows(&text_columns(DESCRIBE), &rows, "DESCRIBE")
    }
}
