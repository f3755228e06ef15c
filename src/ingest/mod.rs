//! The one write path: validate, append to the offline store, upsert into the online store.

use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::error::{Error, Result};
use crate::offline::SharedOfflineStore;
use crate::online::OnlineViews;
use crate::registry::{Registry, Target};
use crate::time::{Clock, CommitTime};

/// Rows that may be written as they are: nobody checks again.
#[derive(Clone, Debug)]
pub struct ValidBatch {
    /// The relation they belong to.
    target: Target,
    /// Its columns as stored, without commit time and sequence.
    rows: RecordBatch,
}

impl ValidBatch {
    /// The relation the rows belong to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows as a commit at `created_time` stores them, sequences counting up from `first_sequence`.
    pub fn stored(&self, _created_time: CommitTime, _first_sequence: i64) -> Result<RecordBatch> {
        Ok(self.rows.clone())
    }
}

/// What a write did.
#[derive(Debug, Default)]
pub struct Written {
    /// Rows written.
    pub rows: u64,
    /// What the client should know although the write succeeded.
    pub warnings: Vec<Error>,
}

/// The write path, shared by all sessions of a gateway.
#[derive(Debug)]
pub struct Ingest {}

impl Ingest {
    /// A write path into these stores.
    pub fn new(_offline: SharedOfflineStore, _online: Arc<OnlineViews>, _clock: Arc<dyn Clock>) -> Self {
        Self {}
    }

    /// Checks rows against the relation they are for: columns by name, types by assignment, keys and event times not NULL,
    /// `CHECK`s. All rows or none; the error names row and column. A missing event time is `now`; other missing columns are
    /// NULL. Text is parsed as the column's type, instants without a zone in `time_zone`.
    pub fn validate(&self, _target: &Target, _rows: &RecordBatch, _now: CommitTime, _time_zone: &str) -> Result<ValidBatch> {
        Err(Error::unsupported("writing"))
    }

    /// Writes batches: durable when this returns, atomic per relation, visible to the next lookup.
    pub async fn write(&self, _batches: Vec<ValidBatch>) -> Result<Written> {
        Err(Error::unsupported("writing"))
    }

    /// Makes the stores ready for a relation that the registry has just got.
    pub async fn create(&self, _target: &Target) -> Result<()> {
        Ok(())
    }

    /// Forgets a relation that the registry has just lost.
    pub async fn remove(&self, _target: &Target) -> Result<()> {
        Ok(())
    }

    /// Brings the online store up to the offline store for every view of `registry`: builds what is missing, replays what was
    /// committed since, and keeps the rows whose time has not come. Called at start, and again and again while serving.
    pub async fn catch_up(&self, _registry: &Registry) -> Result<()> {
        Ok(())
    }
}
