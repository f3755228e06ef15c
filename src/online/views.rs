//! The online store with what the gateway knows of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{EntityKey, Epoch, Lifetime, OnlineStore, PackedRow, Progress, RowKey, not_whole};
use crate::error::{Error, Result, SqlState};
use crate::registry::{FeatureView, ObjectId, Ttl};
use crate::time::{DatasetVersion, EventTime};

/// How long a lookup waits for rows that have become due to be applied.
const DUE_TIMEOUT: Duration = Duration::from_secs(1);

/// The online store, the views whose rows are ready in it, and the rows that wait for their time.
///
/// A row of the future is kept here, out of the store, and applied when its time comes: by the first lookup after it, or by
/// [`OnlineViews::apply_due`]. What is kept here is lost with the process and rebuilt from the offline store.
#[derive(Debug)]
pub struct OnlineViews {
    store: Arc<dyn OnlineStore>,
    expiry: Expiry,
    /// Read by every lookup on every thread, so that not even a counter of readers is shared.
    ready: ArcSwap<HashMap<ObjectId, Readiness>>,
    waiting: Mutex<Waiting>,
    /// The earliest event time that waits, in microseconds; `i64::MAX` where none does. Stays in the past until the rows that
    /// have become due are in the store, so that no lookup can pass them by.
    next_due: AtomicI64,
    /// Held by the one who applies rows that have become due; the others wait for it and find them applied.
    due_turn: tokio::sync::Mutex<()>,
}

/// Whether rows may go from the store when their [`Lifetime`] is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry {
    /// They stay until newer ones take their place, as under a clock that is set by hand: their time may come again.
    Never,
    /// They may, as time goes by.
    ByTheClock,
}

#[derive(Clone, Copy, Debug, Default)]
struct Readiness {
    /// The epoch of the store through which the rows are all there.
    through: Option<Epoch>,
    /// How often rows went missing so far.
    losses: u64,
}

impl Readiness {
    fn lose(&mut self) {
        self.through = None;
        self.losses += 1;
    }
}

/// Whether a view can be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewState {
    /// Its rows are all there.
    Ready,
    /// They may not be: its lookups read the offline store.
    Rebuilding,
    /// The store cannot be asked: lookups fail at once, or read the offline store where the session prefers that.
    Away,
}

/// How many rows of a view are in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Entities that have a row there, not counting retractions.
    pub keys: u64,
    /// Of those, the entities whose row is past its TTL. Such a row goes from the store some time after it.
    pub expired: u64,
}

/// A view's readiness at one moment, so that what was found out since can be told from what was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadinessMark {
    losses: u64,
    epoch: Epoch,
}

impl ReadinessMark {
    /// The store's epoch at that moment.
    pub fn epoch(self) -> Epoch {
        self.epoch
    }
}

#[derive(Debug, Default)]
struct Waiting {
    rows: BTreeMap<(EventTime, u64), (Kept, EntityKey, PackedRow)>,
    /// Numbers rows of one event time.
    next: u64,
    /// For each view, the version up to which its rows of the future are here, or have been applied in this epoch.
    known: HashMap<ObjectId, (DatasetVersion, Epoch)>,
    /// The views that had rows of the future. Those that have been applied since are in no commit that a store could be found to
    /// lack: where the epoch is over, they are looked for again.
    had_some: HashSet<ObjectId>,
}

/// What the keeping of a view's rows depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    view: ObjectId,
    ttl: Option<Ttl>,
}

impl OnlineViews {
    /// Over `store`, with no view ready. No row leaves the store because of its age.
    pub fn new(store: Arc<dyn OnlineStore>) -> Self {
        Self {
            store,
            expiry: Expiry::Never,
            ready: ArcSwap::default(),
            waiting: Mutex::default(),
            next_due: AtomicI64::new(i64::MAX),
            due_turn: tokio::sync::Mutex::default(),
        }
    }

    /// The same, but rows go from the store when their [`Lifetime`] is over. Only for a clock that runs by itself.
    #[must_use]
    pub fn with_expiry(self) -> Self {
        Self { expiry: Expiry::ByTheClock, ..self }
    }

    /// For how long rows of the view that are written at `now` are kept; `None`: for ever.
    pub fn lifetime(&self, view: &FeatureView, now: EventTime) -> Option<Lifetime> {
        self.lifetime_of(view.ttl, now)
    }

    fn lifetime_of(&self, ttl: Option<Ttl>, now: EventTime) -> Option<Lifetime> {
        match self.expiry {
            Expiry::Never => None,
            Expiry::ByTheClock => ttl.map(|ttl| Lifetime::new(ttl, now)),
        }
    }

    /// The store itself, which knows nothing of readiness or of rows that wait.
    pub fn store(&self) -> &Arc<dyn OnlineStore> {
        &self.store
    }

    /// Whether the view's rows are all there.
    pub fn is_ready(&self, view: ObjectId) -> bool {
        self.state(view) == ViewState::Ready
    }

    /// Whether the view can be looked up here. No IO.
    pub fn state(&self, view: ObjectId) -> ViewState {
        match (self.store.epoch(), self.ready_through(view)) {
            (None, _) => ViewState::Away,
            (Some(epoch), Some(through)) if epoch == through => ViewState::Ready,
            (Some(_), _) => ViewState::Rebuilding,
        }
    }

    fn ready_through(&self, view: ObjectId) -> Option<Epoch> {
        self.ready.load().get(&view)?.through
    }

    /// The present moment, for [`OnlineViews::set_ready`]; fails where the store is away.
    pub async fn readiness_mark(&self, view: ObjectId) -> Result<ReadinessMark> {
        let epoch = self.store.connected().await?;
        Ok(ReadinessMark { losses: self.ready.load().get(&view).map_or(0, |readiness| readiness.losses), epoch })
    }

    /// Says that the view's rows were all there at `mark`; they still are unless some went missing since.
    pub fn set_ready(&self, view: ObjectId, mark: ReadinessMark) {
        self.change(|ready| {
            let readiness = ready.entry(view).or_default();
            if readiness.losses == mark.losses {
                readiness.through = Some(mark.epoch);
            }
        });
    }

    /// Says that rows of the view may be missing: its lookups read the offline store until it is ready again.
    pub fn set_unready(&self, view: ObjectId) {
        self.change(|ready| ready.entry(view).or_default().lose());
    }

    /// Says that rows of any view may be wrong, as they are when the clock was set back.
    pub fn set_all_unready(&self) {
        self.change(|ready| ready.values_mut().for_each(Readiness::lose));
    }

    /// Changes what is known of the views' readiness. Rare beside the lookups that read it.
    fn change(&self, change: impl Fn(&mut HashMap<ObjectId, Readiness>)) {
        self.ready.rcu(|ready| {
            let mut ready = HashMap::clone(ready);
            change(&mut ready);
            ready
        });
    }

    /// The rows at `now`: rows whose event time has come since the last call are applied first. One round trip.
    ///
    /// A row may have an event time a moment after `now`: it became due, or was written, after `now` was taken. It stands in the
    /// place of the row that answered at `now`, so a reader that judges expiry takes the later of the two instants.
    ///
    /// Fails with `58030` while the store is away, and with `55000` where the rows of a view turn out not to be all there: the
    /// offline store answers then, whatever the session prefers.
    pub async fn get(&self, keys: &[RowKey], now: EventTime) -> Result<Vec<Option<PackedRow>>> {
        let Some(epoch) = self.common_epoch(keys) else {
            self.store.connected().await?;
            return Err(not_whole());
        };
        if self.next_due.load(Ordering::Acquire) <= now.micros() {
            // The limit counts the wait for a turn too: where the store hangs, lookups must not wait for it one after another.
            let applied = tokio::time::timeout(DUE_TIMEOUT, self.apply_due(now)).await;
            applied
                .map_err(|_late| Error::new(SqlState::IoError, "could not apply rows that became due to the online store"))??;
        }
        let rows = self.store.get(keys, epoch).await;
        if rows.as_ref().is_err_and(|error| error.code() == SqlState::ObjectNotInPrerequisiteState) {
            for key in keys {
                self.set_unready(key.view);
            }
        }
        rows
    }

    /// The epoch through which the rows of all views of `keys` are there.
    fn common_epoch(&self, keys: &[RowKey]) -> Option<Epoch> {
        let Some(first) = keys.first() else { return self.store.epoch() };
        let ready = self.ready.load();
        let through = |view| ready.get(&view).and_then(|readiness: &Readiness| readiness.through);
        let epoch = through(first.view)?;
        let mut last = first.view;
        for key in keys {
            if key.view != last && through(key.view) != Some(epoch) {
                return None;
            }
            last = key.view;
        }
        Some(epoch)
    }

    /// Applies the rows of commit `version`: those of the future are kept until their time comes, the others upserted, and the
    /// applied version moved on if it was the one before. Where the rows cannot be applied, the view is no longer ready.
    pub async fn apply(
        &self,
        view: &FeatureView,
        rows: Vec<(EntityKey, PackedRow)>,
        now: EventTime,
        version: DatasetVersion,
    ) -> Result<()> {
        let applied = self.try_apply(view, rows, now, version).await;
        if applied.is_err() {
            self.set_unready(view.id);
        }
        applied
    }

    async fn try_apply(
        &self,
        view: &FeatureView,
        rows: Vec<(EntityKey, PackedRow)>,
        now: EventTime,
        version: DatasetVersion,
    ) -> Result<()> {
        // The commit that made the view has no rows; what stands before the first that has some is built, not moved on from.
        let before = DatasetVersion(version.0.saturating_sub(1));
        let epoch = self.store.connected().await?;
        self.upsert(view, rows, now).await?;
        {
            let mut waiting = self.waiting.lock();
            if waiting.known.get(&view.id) == Some(&(before, epoch)) {
                waiting.known.insert(view.id, (version, epoch));
            }
        }
        let moved = self.store.advance(view.id, &Progress::Through(before), version, epoch).await?;
        if !moved && self.store.applied(view.id).await?.is_none() {
            self.set_unready(view.id);
        }
        Ok(())
    }

    /// Keeps rows of the future until their time comes, and upserts of the others the newest of each entity, unless its lifetime
    /// is over.
    pub async fn upsert(&self, view: &FeatureView, rows: Vec<(EntityKey, PackedRow)>, now: EventTime) -> Result<()> {
        let (later, due): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, row)| row.version().event_time > now);
        let kept = Kept { view: view.id, ttl: view.ttl };
        self.wait(kept, later);
        self.upsert_due(kept, due, now).await
    }

    /// Upserts rows whose time has come. Where that of the newest is over, so is that of each older one of its entity, and nothing
    /// need be known of them.
    async fn upsert_due(&self, kept: Kept, mut rows: Vec<(EntityKey, PackedRow)>, now: EventTime) -> Result<()> {
        let lifetime = self.lifetime_of(kept.ttl, now);
        if let Some(lifetime) = lifetime {
            rows.retain(|(_, row)| lifetime.keeps(row.version().event_time));
        }
        let rows = newest_of_each(rows);
        if rows.is_empty() {
            return Ok(());
        }
        self.store.upsert(kept.view, &rows, lifetime).await.map(drop)
    }

    /// Keeps rows until their event time comes. Keeping a row twice is harmless.
    fn wait(&self, kept: Kept, rows: Vec<(EntityKey, PackedRow)>) {
        if rows.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        waiting.had_some.insert(kept.view);
        for (entity, row) in rows {
            let event_time = row.version().event_time;
            let number = waiting.next;
            waiting.next += 1;
            waiting.rows.insert((event_time, number), (kept, entity, row));
            self.next_due.fetch_min(event_time.micros(), Ordering::AcqRel);
        }
    }

    /// Applies the rows whose event time has come by `now`. Cheap where there are none; called by lookups, and now and then so
    /// that rows nobody looks up do not pile up.
    pub async fn apply_due(&self, now: EventTime) -> Result<()> {
        // A tokio mutex, held while the store is written: that is what makes the others wait until the rows are there.
        let _turn = self.due_turn.lock().await;
        let mut due: BTreeMap<Kept, Vec<(EntityKey, PackedRow)>> = BTreeMap::new();
        let mut places = Vec::new();
        {
            let waiting = self.waiting.lock();
            for (place, (kept, entity, row)) in waiting.rows.range(..=(now, u64::MAX)) {
                places.push(*place);
                due.entry(*kept).or_default().push((entity.clone(), row.clone()));
            }
        }
        for (kept, rows) in due {
            self.upsert_due(kept, rows, now).await?;
        }
        let mut waiting = self.waiting.lock();
        for place in places {
            waiting.rows.remove(&place);
        }
        let next = waiting.rows.first_key_value().map_or(i64::MAX, |((event_time, _), _)| event_time.micros());
        self.next_due.store(next, Ordering::Release);
        Ok(())
    }

    /// The version up to which the view's rows of the future are known here, and were not lost since they became due.
    pub fn waiting_through(&self, view: ObjectId, epoch: Epoch) -> Option<DatasetVersion> {
        let waiting = self.waiting.lock();
        let (version, known_in) = *waiting.known.get(&view)?;
        (known_in == epoch || !waiting.had_some.contains(&view)).then_some(version)
    }

    /// Says that the view's rows of the future are known here up to `version`. `some`: there are such rows, or were.
    pub fn set_waiting_through(&self, view: ObjectId, version: DatasetVersion, epoch: Epoch, some: bool) {
        let mut waiting = self.waiting.lock();
        if some {
            waiting.had_some.insert(view);
        }
        let known = waiting.known.entry(view).or_insert((version, epoch));
        *known = (version.max(known.0), epoch);
    }

    /// Counts the view's rows in the store, by looking at each: takes as long as the store is large. One that is written
    /// meanwhile may be counted or not.
    pub async fn census(&self, view: &FeatureView, now: EventTime) -> Result<Census> {
        let (mut census, mut cursor) = (Census::default(), Some(0));
        while let Some(from) = cursor {
            let page = self.store.page(view.id, from).await?;
            for (_, row) in page.rows.iter().filter(|(_, row)| !row.is_retraction()) {
                let event_time = row.version().event_time;
                census.keys += 1;
                census.expired += u64::from(!Ttl::is_live(view.ttl, event_time, now.max(event_time)));
            }
            cursor = page.next;
        }
        Ok(census)
    }

    /// Forgets all there is of the view, here and in the store.
    pub async fn forget(&self, view: ObjectId) -> Result<()> {
        self.set_unready(view);
        {
            let mut waiting = self.waiting.lock();
            waiting.known.remove(&view);
            waiting.had_some.remove(&view);
            waiting.rows.retain(|_, (kept, _, _)| kept.view != view);
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
