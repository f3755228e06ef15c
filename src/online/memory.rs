//! The online store in this process's memory: nothing to run beside the gateway, rebuilt from the offline store at start.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};

use super::{BuildId, EntityKey, Epoch, Lifetime, OnlineStore, PackedRow, Page, Progress, RowKey, StoreStatus, not_whole};
use crate::error::{Error, Result};
use crate::registry::ObjectId;
use crate::time::DatasetVersion;

/// How many parts the rows of a view are in, each behind a lock of its own.
const SHARDS: usize = 16;

/// How many rows a shard has at least before it is looked through for rows whose lifetime is over.
const SWEPT_ROWS_MIN: usize = 256;

/// Rows in memory. Its size is the sum of the packed rows and keys. Rows whose lifetime is over are dropped while others are written:
/// a shard is looked through when it has twice the rows that the last look left, so that looks cost a write little.
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// Read by every lookup on every thread, so that not even a counter of readers is shared.
    views: ArcSwap<HashMap<ObjectId, Arc<ViewRows>>>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct ViewRows {
    shards: [RwLock<Shard>; SHARDS],
    applied: Mutex<Applied>,
    /// Whether `applied` is [`Applied::Through`] a version, for lookups, which wait for no lock. Changed while `applied` is locked.
    are_whole: AtomicBool,
}

impl ViewRows {
    fn set_applied(&self, applied: &mut Applied, to: Applied) {
        self.are_whole.store(matches!(to, Applied::Through(_)), Ordering::Release);
        *applied = to;
    }
}

#[derive(Debug, Default)]
struct Shard {
    rows: HashMap<EntityKey, PackedRow>,
    /// How many rows the last look for those whose lifetime is over has left.
    swept: usize,
}

impl Shard {
    /// Keeps the row if it is newer than the one there; gives whether it is.
    fn upsert(&mut self, entity: &EntityKey, row: &PackedRow) -> bool {
        match self.rows.entry(entity.clone()) {
            Entry::Occupied(slot) if row.version() <= slot.get().version() => return false,
            Entry::Occupied(mut slot) => drop(slot.insert(row.clone())),
            Entry::Vacant(slot) => drop(slot.insert(row.clone())),
        }
        true
    }

    fn sweep(&mut self, lifetime: Lifetime) {
        if self.rows.len() >= SWEPT_ROWS_MIN.max(2 * self.swept) {
            self.rows.retain(|_, row| lifetime.keeps(row.version().event_time));
            self.rows.shrink_to(2 * self.rows.len());
            self.swept = self.rows.len();
        }
    }
}

/// How far the rows of a view are whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Applied {
    #[default]
    Nothing,
    Building(BuildId),
    Through(DatasetVersion),
}

/// What is in memory is not lost as long as the process is there.
const EPOCH: Epoch = Epoch(1);

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn view(&self, view: ObjectId) -> Arc<ViewRows> {
        if let Some(rows) = self.views.load().get(&view) {
            return Arc::clone(rows);
        }
        let mut stored = Arc::default();
        self.views.rcu(|views| {
            let mut views = HashMap::clone(views);
            stored = Arc::clone(views.entry(view).or_default());
            views
        });
        stored
    }

    fn shard(&self, entity: &EntityKey) -> usize {
        usize::try_from(self.hasher.hash_one(entity) % SHARDS as u64).unwrap_or(0)
    }
}

#[async_trait]
impl OnlineStore for MemoryStore {
    fn epoch(&self) -> Option<Epoch> {
        Some(EPOCH)
    }

    async fn connected(&self) -> Result<Epoch> {
        Ok(EPOCH)
    }

    async fn get(&self, keys: &[RowKey], _epoch: Epoch) -> Result<Vec<Option<PackedRow>>> {
        let views = self.views.load();
        let mut rows = Vec::with_capacity(keys.len());
        for keys in keys.chunk_by(|one, next| one.view == next.view) {
            let Some(stored) = views.get(&keys[0].view) else { return Err(not_whole()) };
            // Before, as rows that were missing then may have come since; and after, as they may be missing by now.
            let are_whole = || stored.are_whole.load(Ordering::Acquire);
            if !are_whole() {
                return Err(not_whole());
            }
            let row = |key: &RowKey| stored.shards[self.shard(&key.entity)].read().rows.get(&key.entity).cloned();
            rows.extend(keys.iter().map(row));
            if !are_whole() {
                return Err(not_whole());
            }
        }
        Ok(rows)
    }

    async fn upsert(&self, view: ObjectId, rows: &[(EntityKey, PackedRow)], lifetime: Option<Lifetime>) -> Result<usize> {
        let stored = self.view(view);
        let mut kept = 0;
        for (entity, row) in rows {
            let mut shard = stored.shards[self.shard(entity)].write();
            kept += usize::from(shard.upsert(entity, row));
            if let Some(lifetime) = lifetime {
                shard.sweep(lifetime);
            }
        }
        Ok(kept)
    }

    async fn applied(&self, view: ObjectId) -> Result<Option<DatasetVersion>> {
        let views = self.views.load();
        let Some(rows) = views.get(&view) else { return Ok(None) };
        match *rows.applied.lock() {
            Applied::Through(version) => Ok(Some(version)),
            Applied::Nothing | Applied::Building(_) => Ok(None),
        }
    }

    async fn begin_build(&self, view: ObjectId) -> Result<BuildId> {
        let stored = self.view(view);
        let mut applied = stored.applied.lock();
        if let Applied::Building(id) = &*applied {
            return Ok(id.clone());
        }
        let id = BuildId(uuid::Uuid::new_v4().to_string());
        stored.set_applied(&mut applied, Applied::Building(id.clone()));
        Ok(id)
    }

    async fn advance(&self, view: ObjectId, from: &Progress, to: DatasetVersion, _epoch: Epoch) -> Result<bool> {
        let stored = self.view(view);
        let mut applied = stored.applied.lock();
        let moves = match (&*applied, from) {
            (Applied::Through(current), _) if *current >= to => return Ok(true),
            (Applied::Through(current), Progress::Through(from)) => current >= from,
            (Applied::Building(current), Progress::Building(from)) => current == from,
            (Applied::Nothing | Applied::Building(_) | Applied::Through(_), _) => false,
        };
        if moves {
            stored.set_applied(&mut applied, Applied::Through(to));
        }
        Ok(moves)
    }

    async fn clear(&self, view: ObjectId) -> Result<()> {
        self.views.rcu(|views| {
            let mut views = HashMap::clone(views);
            views.remove(&view);
            views
        });
        Ok(())
    }

    /// A page is a shard.
    async fn page(&self, view: ObjectId, cursor: u64) -> Result<Page> {
        let place = usize::try_from(cursor).ok().filter(|place| *place < SHARDS);
        let place = place.ok_or_else(|| Error::internal(format!("no page {cursor}")))?;
        let rows = self.views.load().get(&view).cloned().unwrap_or_default();
        let rows = rows.shards[place].read().rows.iter().map(|(entity, row)| (entity.clone(), row.clone())).collect();
        Ok(Page { rows, next: (place + 1 < SHARDS).then_some(cursor + 1) })
    }

    async fn status(&self) -> StoreStatus {
        let (mut keys, mut bytes) = (0_u64, 0_u64);
        for rows in self.views.load().values() {
            for shard in &rows.shards {
                let shard = shard.read();
                keys += shard.rows.len() as u64;
                bytes +=
                    shard.rows.iter().map(|(entity, row)| (entity.as_bytes().len() + row.as_bytes().len()) as u64).sum::<u64>();
            }
        }
        StoreStatus { kind: "memory", connected: true, keys: Some(keys), memory_bytes: Some(bytes), ..StoreStatus::default() }
    }
}
