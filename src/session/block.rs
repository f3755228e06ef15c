//! A transaction block: what it keeps back until `COMMIT`, and what `ROLLBACK` undoes.
//!
//! Rows are kept back and shown to the block's own reads. Objects that a block creates are there at once, for everyone, and
//! are dropped again on `ROLLBACK`; drops and comments are kept back until `COMMIT` and only the block sees them before.

use std::sync::Arc;

use super::settings::Settings;
use super::{Answer, Session};
use crate::error::{Error, Result, SqlState};
use crate::ingest::ValidBatch;
use crate::parser::{Isolation, TransactionMode};
use crate::planner::{HeldRows, VersionPins};
use crate::registry::{Change, ObjectId, ObjectKind, Registry, Target};
use crate::time::CommitTime;

/// The sequence of the first row a block keeps back: later than any that is stored, so that the block's own rows win ties.
const HELD_SEQUENCE: i64 = i64::MAX / 2;

/// An open transaction.
#[derive(Debug)]
pub(super) struct Block {
    /// Whether `BEGIN` opened it; if not, it ends with the pipeline or simple query.
    pub(super) explicit: bool,
    /// Whether a statement in it failed.
    pub(super) failed: bool,
    pub(super) read_only: bool,
    isolation: Isolation,
    started: CommitTime,
    /// The rows, as they will be written.
    writes: Vec<ValidBatch>,
    /// The same rows as the block's reads see them.
    held: Arc<HeldRows>,
    held_rows: i64,
    pins: Arc<VersionPins>,
    /// Objects made in the block.
    pub(super) created: Vec<(ObjectKind, String)>,
    /// Changes kept back.
    pub(super) changes: Vec<Change>,
    /// The settings before the block, for `ROLLBACK`.
    settings_before: Settings,
    /// The settings after it: with what `SET` changed, without what `SET LOCAL` did.
    pub(super) settings_kept: Settings,
}

impl Block {
    /// A transaction that ends with the pipeline or simple query it stands in.
    pub(super) fn implicit(settings: &Settings, started: CommitTime) -> Self {
        Self {
            explicit: false,
            failed: false,
            read_only: settings.is_on("default_transaction_read_only"),
            isolation: match settings.get("default_transaction_isolation") {
                Some("repeatable read" | "serializable") => Isolation::RepeatableRead,
                Some(_) | None => Isolation::ReadCommitted,
            },
            started,
            writes: Vec::new(),
            held: Arc::default(),
            held_rows: 0,
            pins: Arc::default(),
            created: Vec::new(),
            changes: Vec::new(),
            settings_before: settings.clone(),
            settings_kept: settings.clone(),
        }
    }

    fn set_mode(&mut self, mode: TransactionMode) {
        let TransactionMode { isolation, read_only } = mode;
        self.isolation = isolation.unwrap_or(self.isolation);
        self.read_only = read_only.unwrap_or(self.read_only);
    }

    pub(super) fn isolation_name(&self) -> &'static str {
        match self.isolation {
            Isolation::ReadCommitted => "read committed",
            Isolation::RepeatableRead => "repeatable read",
        }
    }

    /// Whether every statement of the block reads the versions that the first one read.
    pub(super) fn is_pinned(&self) -> bool {
        self.explicit && self.isolation == Isolation::RepeatableRead
    }

    /// The `now()` of a block whose reads stand still.
    pub(super) fn pinned_now(&self) -> Option<CommitTime> {
        self.is_pinned().then_some(self.started)
    }

    pub(super) fn pins(&self) -> Arc<VersionPins> {
        Arc::clone(&self.pins)
    }

    pub(super) fn held(&self) -> Arc<HeldRows> {
        Arc::clone(&self.held)
    }

    /// Whether the block keeps rows of this relation back.
    pub(super) fn holds_rows_of(&self, relation: ObjectId) -> bool {
        self.held.get(&relation).is_some_and(|rows| rows.iter().any(|batch| batch.num_rows() > 0))
    }

    /// The definitions as the block sees them: `current`, with the changes it keeps back.
    pub(super) fn registry(&self, current: &Arc<Registry>) -> Arc<Registry> {
        if self.changes.is_empty() {
            return Arc::clone(current);
        }
        // A change that no longer applies, because another session was faster, fails at COMMIT and is not seen before.
        let seen = self.changes.iter().fold(Registry::clone(current), |seen, change| seen.apply(change).unwrap_or(seen));
        Arc::new(seen)
    }

    /// Keeps rows back until `COMMIT`.
    fn hold(&mut self, rows: ValidBatch, now: CommitTime) -> Result<()> {
        let stored = rows.stored(now, HELD_SEQUENCE + self.held_rows)?;
        self.held_rows += i64::try_from(rows.len()).unwrap_or(i64::MAX);
        Arc::make_mut(&mut self.held).entry(rows.target().id()).or_default().push(stored);
        self.writes.push(rows);
        Ok(())
    }

    fn held_bytes(&self) -> usize {
        self.held.values().flatten().map(arrow::array::RecordBatch::get_array_memory_size).sum()
    }
}

impl Session {
    pub(super) fn begin(&mut self, mode: TransactionMode) -> Answer {
        match &mut self.block {
            Some(block) if block.explicit => {
                let message = "there is already a transaction in progress";
                self.notice("WARNING", SqlState::ActiveSqlTransaction, message, None);
            }
            Some(block) => {
                block.explicit = true;
                block.set_mode(mode);
            }
            None => {
                let mut block = Block::implicit(&self.settings, self.services.clock.now());
                block.explicit = true;
                block.set_mode(mode);
                self.block = Some(block);
            }
        }
        Answer::Done("BEGIN".into())
    }

    pub(super) fn set_transaction(&mut self, mode: TransactionMode) -> Result<Answer> {
        match &mut self.block {
            Some(block) if block.explicit => block.set_mode(mode),
            Some(_) | None => {
                // Outside a block the modes are those of the blocks to come, as SET SESSION CHARACTERISTICS has it.
                let TransactionMode { isolation, read_only } = mode;
                if let Some(read_only) = read_only {
                    let value = if read_only { "on" } else { "off" };
                    self.settings.set("default_transaction_read_only", Some(value))?;
                }
                if let Some(isolation) = isolation {
                    let value = match isolation {
                        Isolation::ReadCommitted => "read committed",
                        Isolation::RepeatableRead => "repeatable read",
                    };
                    self.settings.set("default_transaction_isolation", Some(value))?;
                }
                self.settings_changed();
            }
        }
        Ok(Answer::Done("SET".into()))
    }

    pub(super) async fn commit_by_client(&mut self) -> Result<Answer> {
        match &self.block {
            Some(block) if block.failed => Ok(self.rollback_by_client().await),
            Some(_) => self.commit().await,
            None => {
                self.no_transaction();
                Ok(Answer::Done("COMMIT".into()))
            }
        }
    }

    pub(super) async fn rollback_by_client(&mut self) -> Answer {
        match self.block.take() {
            Some(block) => self.undo(block).await,
            None => self.no_transaction(),
        }
        Answer::Done("ROLLBACK".into())
    }

    fn no_transaction(&mut self) {
        self.notice("WARNING", SqlState::NoActiveSqlTransaction, "there is no transaction in progress", None);
    }

    /// Ends the block and does what it kept back: all changes of the registry as one version, which may be lost to another
    /// gateway, and then nothing is done; rows; and the removal of what was dropped. If the rows cannot be written, what the
    /// block created is dropped again.
    pub(super) async fn commit(&mut self) -> Result<Answer> {
        let Some(mut block) = self.block.take() else { return Ok(Answer::Done("COMMIT".into())) };
        let mut writes = std::mem::take(&mut block.writes);
        let before = self.services.registry.current();
        if !block.changes.is_empty() {
            match self.services.registry.commit_all(&block.changes).await {
                // Rows for what the block itself drops have nowhere to go. What another gateway dropped is an error below.
                Ok(_) => writes.retain(|rows| !block.changes.iter().any(|change| drops(change, rows.target()))),
                Err(error) => {
                    self.undo(block).await;
                    return Err(error);
                }
            }
        }
        if !writes.is_empty() {
            match self.services.ingest.write(writes).await {
                Ok(written) => self.warn(written.warnings),
                Err(error) => {
                    self.undo(block).await;
                    return Err(error);
                }
            }
        }
        self.take_settings(block.settings_kept);
        for change in &block.changes {
            self.remove_dropped(&before, change).await?;
        }
        Ok(Answer::Done("COMMIT".into()))
    }

    /// Drops what the block kept back, and the objects it made.
    async fn undo(&mut self, block: Block) {
        self.take_settings(block.settings_before);
        for (kind, name) in block.created.into_iter().rev() {
            let change = Change::Drop { kind, name: name.clone(), if_exists: true };
            if let Err(error) = self.change_now(&change).await {
                let hint = Some(format!("Drop {kind} \"{name}\" yourself."));
                self.notice("WARNING", error.code(), format!("could not undo the creation of {kind} \"{name}\""), hint);
            }
        }
    }

    /// Forgets an implicit transaction after an error. What it created is dropped by [`Session::undo_abandoned`], which may
    /// wait for stores.
    pub(super) fn abandon(&mut self) {
        if let Some(block) = self.block.take() {
            self.take_settings(block.settings_before.clone());
            self.abandoned = Some(block);
        }
    }

    /// Undoes what an abandoned transaction had done.
    pub(super) async fn undo_abandoned(&mut self) {
        if let Some(block) = self.abandoned.take() {
            self.undo(block).await;
        }
    }

    /// Fails in a block that refuses writes; `command` is named in the error.
    pub(super) fn refuse_if_read_only(&self, command: &str) -> Result<()> {
        let read_only = match &self.block {
            Some(block) => block.read_only,
            None => self.settings.is_on("default_transaction_read_only"),
        };
        if read_only {
            return Err(Error::new(
                SqlState::ReadOnlySqlTransaction,
                format!("cannot execute {command} in a read-only transaction"),
            ));
        }
        Ok(())
    }

    /// Writes rows: at once, or at the end of the open block.
    pub(super) async fn write(&mut self, rows: ValidBatch) -> Result<u64> {
        let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        if rows.is_empty() {
            return Ok(0);
        }
        let limit = self.services.limits.write_bytes_max;
        match &mut self.block {
            Some(block) => {
                block.hold(rows, self.services.clock.now())?;
                if block.held_bytes() > limit {
                    return Err(too_much_written(limit));
                }
            }
            None => {
                let written = self.services.ingest.write(vec![rows]).await?;
                self.warn(written.warnings);
            }
        }
        Ok(count)
    }

    pub(super) fn warn(&mut self, warnings: Vec<Error>) {
        for warning in warnings {
            let hint = warning.hint_text().map(str::to_owned);
            self.notice("WARNING", warning.code(), warning.message(), hint);
        }
    }
}

/// Whether a change drops the relation; entities have names of their own.
fn drops(change: &Change, target: &Target) -> bool {
    matches!(change, Change::Drop { kind, name, .. } if *kind != ObjectKind::Entity && name == target.name())
}

/// The error for a statement or block over the limit of what may be written at once.
pub(super) fn too_much_written(limit: usize) -> Error {
    Error::new(SqlState::ProgramLimitExceeded, format!("more than {} MiB would be written at once", limit >> 20))
        .hint("Write in several statements or blocks, or raise write_bytes_max.")
}
