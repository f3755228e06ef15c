//! The online store with what the gateway knows of it.

use std::sync::Arc;

use super::{EntityKey, OnlineStore, PackedRow, RowKey};
use crate::error::Result;
use crate::registry::ObjectId;
use crate::time::{DatasetVersion, EventTime};

/// The online store, the views whose rows are ready in it, and the rows that wait for their time.
#[derive(Debug)]
pub struct OnlineViews {
    store: Arc<dyn OnlineStore>,
}

impl OnlineViews {
    /// Over `store`, with no view ready.
    pub fn new(store: Arc<dyn OnlineStore>) -> Self {
        Self { store }
    }

    /// Whether the view's rows are all there, so that a lookup may be answered from them.
    pub fn is_ready(&self, _view: ObjectId) -> bool {
        false
    }

    /// The rows at `now`: rows whose event time has come since the last call are applied first. One round trip.
    pub async fn get(&self, keys: &[RowKey], _now: EventTime) -> Result<Vec<Option<PackedRow>>> {
        self.store.get(keys).await
    }

    /// Applies the rows of commit `version`: those of the future are kept until their time comes, the others upserted, and the
    /// applied version moved on if it was the one before.
    pub async fn apply(
        &self,
        view: ObjectId,
        rows: Vec<(EntityKey, PackedRow)>,
        now: EventTime,
        _version: DatasetVersion,
    ) -> Result<()> {
        let _ = now;
        self.store.upsert(view, &rows).await.map(drop)
    }
}
