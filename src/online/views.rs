//! The online store with what the gateway knows of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::{EntityKey, OnlineStore, PackedRow, READ_TIMEOUT, RowKey};
use crate::error::{Error, Result, SqlState};
use crate::registry::ObjectId;
use crate::time::{DatasetVersion, EventTime};

/// The online store, the views whose rows are ready in it, and the rows that wait for their time.
///
/// A row of the future is kept here, out of the store, and applied when its time comes: by the first lookup after it, or by
/// [`OnlineViews::apply_due`]. What is kept here is lost with the process and rebuilt from the offline store.
#[derive(Debug)]
pub struct OnlineViews {
    store: Arc<dyn OnlineStore>,
    ready: RwLock<HashMap<ObjectId, Readiness>>,
    waiting: Mutex<Waiting>,
    /// The earliest event time that waits, in microseconds; `i64::MAX` where none does. Stays in the past until the rows that
    /// have become due are in the store, so that no lookup can pass them by.
    next_due: AtomicI64,
    /// Held by the one who applies rows that have become due; the others wait for it and find them applied.
    due_turn: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Readiness {
    ready: bool,
    /// How often rows went missing so far.
    losses: u64,
}

/// A view's readiness at one moment, so that what was found out since can be told from what was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadinessMark(u64);

#[derive(Debug, Default)]
struct Waiting {
    rows: BTreeMap<(EventTime, u64), (ObjectId, EntityKey, PackedRow)>,
    /// Numbers rows of one event time.
    next: u64,
    /// For each view, the version up to which its rows of the future are here.
    known: HashMap<ObjectId, DatasetVersion>,
}

impl OnlineViews {
    /// Over `store`, with no view ready.
    pub fn new(store: Arc<dyn OnlineStore>) -> Self {
        Self {
            store,
            ready: RwLock::default(),
            waiting: Mutex::default(),
            next_due: AtomicI64::new(i64::MAX),
            due_turn: tokio::sync::Mutex::default(),
        }
    }

    /// The store itself, which knows nothing of readiness or of rows that wait.
    pub fn store(&self) -> &Arc<dyn OnlineStore> {
        &self.store
    }

    /// Whether the view's rows are all there, so that a lookup may be answered from them.
    pub fn is_ready(&self, view: ObjectId) -> bool {
        self.ready.read().get(&view).is_some_and(|readiness| readiness.ready)
    }

    /// The present moment, for [`OnlineViews::set_ready`].
    pub fn readiness_mark(&self, view: ObjectId) -> ReadinessMark {
        ReadinessMark(self.ready.read().get(&view).map_or(0, |readiness| readiness.losses))
    }

    /// Says that the view's rows were all there at `mark`; they still are unless some went missing since.
    pub fn set_ready(&self, view: ObjectId, mark: ReadinessMark) {
        let mut ready = self.ready.write();
        let readiness = ready.entry(view).or_default();
        readiness.ready |= readiness.losses == mark.0;
    }

    /// Says that rows of the view may be missing: its lookups read the offline store until it is ready again.
    pub fn set_unready(&self, view: ObjectId) {
        let mut ready = self.ready.write();
        let readiness = ready.entry(view).or_default();
        readiness.ready = false;
        readiness.losses += 1;
    }

    /// Says that rows of any view may be wrong, as they are when the clock was set back.
    pub fn set_all_unready(&self) {
        for readiness in self.ready.write().values_mut() {
            readiness.ready = false;
            readiness.losses += 1;
        }
    }

    /// The rows at `now`: rows whose event time has come since the last call are applied first. One round trip.
    ///
    /// A row may have an event time a moment after `now`: it became due, or was written, after `now` was taken. It stands in the
    /// place of the row that answered at `now`, so a reader that judges expiry takes the later of the two instants.
    pub async fn get(&self, keys: &[RowKey], now: EventTime) -> Result<Vec<Option<PackedRow>>> {
        if self.next_due.load(Ordering::Acquire) <= now.micros() {
            // The limit counts the wait for a turn too: where the store hangs, lookups must not wait for it one after another.
            let applied = tokio::time::timeout(READ_TIMEOUT, self.apply_due(now)).await;
            applied
                .map_err(|_late| Error::new(SqlState::IoError, "could not apply rows that became due to the online store"))??;
        }
        self.store.get(keys).await
    }

    /// Applies the rows of commit `version`: those of the future are kept until their time comes, the others upserted, and the
    /// applied version moved on if it was the one before. Where the rows cannot be applied, the view is no longer ready.
    pub async fn apply(
        &self,
        view: ObjectId,
        rows: Vec<(EntityKey, PackedRow)>,
        now: EventTime,
        version: DatasetVersion,
    ) -> Result<()> {
        let applied = self.try_apply(view, rows, now, version).await;
        if applied.is_err() {
            self.set_unready(view);
        }
        applied
    }

    async fn try_apply(
        &self,
        view: ObjectId,
        rows: Vec<(EntityKey, PackedRow)>,
        now: EventTime,
        version: DatasetVersion,
    ) -> Result<()> {
        let before = version.0.checked_sub(1).filter(|before| *before > 0).map(DatasetVersion);
        self.upsert(view, rows, now).await?;
        {
            let mut waiting = self.waiting.lock();
            if waiting.known.get(&view).copied() == before {
                waiting.known.insert(view, version);
            }
        }
        if !self.store.advance(view, before, version).await? && self.store.applied(view).await?.is_none() {
            self.set_unready(view);
        }
        Ok(())
    }

    /// Keeps rows of the future until their time comes, and upserts of the others the newest of each entity.
    pub async fn upsert(&self, view: ObjectId, rows: Vec<(EntityKey, PackedRow)>, now: EventTime) -> Result<()> {
        let (later, due): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, row)| row.version().event_time > now);
        self.wait(view, later);
        let due = newest_of_each(due);
        if due.is_empty() {
            return Ok(());
        }
        self.store.upsert(view, &due).await.map(drop)
    }

    /// Keeps rows until their event time comes. Keeping a row twice is harmless.
    fn wait(&self, view: ObjectId, rows: Vec<(EntityKey, PackedRow)>) {
        if rows.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        for (entity, row) in rows {
            let event_time = row.version().event_time;
            let number = waiting.next;
            waiting.next += 1;
            waiting.rows.insert((event_time, number), (view, entity, row));
            self.next_due.fetch_min(event_time.micros(), Ordering::AcqRel);
        }
    }

    /// Applies the rows whose event time has come by `now`. Cheap where there are none; called by lookups, and now and then so
    /// that rows nobody looks up do not pile up.
    pub async fn apply_due(&self, now: EventTime) -> Result<()> {
        // A tokio mutex, held while the store is written: that is what makes the others wait until the rows are there.
        let _turn = self.due_turn.lock().await;
        let mut due: BTreeMap<ObjectId, Vec<(EntityKey, PackedRow)>> = BTreeMap::new();
        let mut places = Vec::new();
        {
            let waiting = self.waiting.lock();
            for (place, (view, entity, row)) in waiting.rows.range(..=(now, u64::MAX)) {
                places.push(*place);
                due.entry(*view).or_default().push((entity.clone(), row.clone()));
            }
        }
        for (view, rows) in due {
            self.store.upsert(view, &newest_of_each(rows)).await?;
        }
        let mut waiting = self.waiting.lock();
        for place in places {
            waiting.rows.remove(&place);
        }
        let next = waiting.rows.first_key_value().map_or(i64::MAX, |((event_time, _), _)| event_time.micros());
        self.next_due.store(next, Ordering::Release);
        Ok(())
    }

    /// The version up to which the view's rows of the future are known here.
    pub fn waiting_through(&self, view: ObjectId) -> Option<DatasetVersion> {
        self.waiting.lock().known.get(&view).copied()
    }

    /// Says that the view's rows of the future are known here up to `version`.
    pub fn set_waiting_through(&self, view: ObjectId, version: DatasetVersion) {
        let mut waiting = self.waiting.lock();
        let known = waiting.known.entry(view).or_insert(version);
        *known = version.max(*known);
    }

    /// Forgets all there is of the view, here and in the store.
    pub async fn forget(&self, view: ObjectId) -> Result<()> {
        self.set_unready(view);
        {
            let mut waiting = self.waiting.lock();
            waiting.known.remove(&view);
            waiting.rows.retain(|_, (of, _, _)| *of != view);
        }
        self.store.clear(view).await
    }
}

/// Of rows in any order, the newest of each entity.
fn newest_of_each(rows: Vec<(EntityKey, PackedRow)>) -> Vec<(EntityKey, PackedRow)> {
    let mut newest: HashMap<EntityKey, PackedRow> = HashMap::with_capacity(rows.len());
    for (entity, row) in rows {
        match newest.get_mut(&entity) {
            Some(kept) if kept.version() >= row.version() => {}
            Some(kept) => *kept = row,
            None => drop(newest.insert(entity, row)),
        }
    }
    newest.into_iter().collect()
}
