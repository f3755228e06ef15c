//! The online store in this process's memory: nothing to run beside the gateway, rebuilt from the offline store at start.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};

use super::{EntityKey, OnlineStore, PackedRow, RowKey};
use crate::error::Result;
use crate::registry::ObjectId;
use crate::time::DatasetVersion;

/// How many parts the rows of a view are in, each behind a lock of its own.
const SHARDS: usize = 16;

/// Rows in memory. Holds every row it is given: its size is the sum of the packed rows and keys.
#[derive(Debug, Default)]
pub struct MemoryStore {
    views: RwLock<HashMap<ObjectId, Arc<ViewRows>>>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct ViewRows {
    shards: [RwLock<HashMap<EntityKey, PackedRow>>; SHARDS],
    applied: Mutex<Option<DatasetVersion>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn view(&self, view: ObjectId) -> Arc<ViewRows> {
        if let Some(rows) = self.views.read().get(&view) {
            return rows.clone();
        }
        self.views.write().entry(view).or_default().clone()
    }

    fn shard(&self, entity: &EntityKey) -> usize {
        usize::try_from(self.hasher.hash_one(entity) % SHARDS as u64).unwrap_or(0)
    }
}

#[async_trait]
impl OnlineStore for MemoryStore {
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<PackedRow>>> {
        let views = self.views.read();
        let row = |key: &RowKey| views.get(&key.view)?.shards[self.shard(&key.entity)].read().get(&key.entity).cloned();
        Ok(keys.iter().map(row).collect())
    }

    async fn upsert(&self, view: ObjectId, rows: &[(EntityKey, PackedRow)]) -> Result<usize> {
        let stored = self.view(view);
        let mut kept = 0;
        for (entity, row) in rows {
            match stored.shards[self.shard(entity)].write().entry(entity.clone()) {
                Entry::Occupied(mut slot) => {
                    if row.version() > slot.get().version() {
                        slot.insert(row.clone());
                        kept += 1;
                    }
                }
                Entry::Vacant(slot) => {
                    slot.insert(row.clone());
                    kept += 1;
                }
            }
        }
        Ok(kept)
    }

    async fn applied(&self, view: ObjectId) -> Result<Option<DatasetVersion>> {
        Ok(self.views.read().get(&view).and_then(|rows| *rows.applied.lock()))
    }

    async fn advance(&self, view: ObjectId, from: Option<DatasetVersion>, to: DatasetVersion) -> Result<bool> {
        let stored = self.view(view);
        let mut applied = stored.applied.lock();
        let moves = *applied == from;
        if moves {
            *applied = Some(to);
        }
        Ok(moves)
    }

    async fn clear(&self, view: ObjectId) -> Result<()> {
        self.views.write().remove(&view);
        Ok(())
    }
}
