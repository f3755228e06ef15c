//! Comparing the online rows of a view with its history, row by row.
//!
//! Others may write meanwhile. So each online row is held against two versions of the history: what had been applied before the
//! online rows were read, and what is committed after. A row that is the newest of the first must be so byte by byte; one that is
//! later must not be later than the second. Rows past their TTL may be missing: nobody is answered with them. Holds the keys of all
//! entities in memory.

use std::collections::HashMap;

use super::Stores;
use super::newest::{self, Found, TAKE_ROWS, all_columns};
use crate::error::{Error, Result};
use crate::offline::Dataset;
use crate::online::{EntityKey, PackedRow, RowLayout, RowVersion};
use crate::registry::{FeatureView, Ttl};
use crate::time::{DatasetVersion, EventTime};

/// How long a row of the future may stay out of the online store after its time has come, where no lookup asks for it: gateways
/// look for such rows a few times a second.
const DUE_WITHIN_MICROS: i64 = 2_000_000;

/// What a comparison of a view's online rows with its history found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Whether the online store holds the view's rows as whole. Where it does not, no row is looked at: lookups do not either.
    pub built: bool,
    /// Entities that should have an online row: those whose newest is not past its TTL.
    pub entities: u64,
    /// Of those, entities that have none.
    pub missing: u64,
    /// Online rows that are older than the newest applied.
    pub older: u64,
    /// Online rows that are newer than the newest committed.
    pub newer: u64,
    /// Online rows that are the right one by their times, with other contents.
    pub different: u64,
    /// Online rows of entities that the history does not know.
    pub unknown: u64,
}

impl Audit {
    /// How many rows are not as they should be.
    pub fn differences(&self) -> u64 {
        self.missing + self.older + self.newer + self.different + self.unknown
    }

    /// Whether lookups answer from the online store what the history says.
    pub fn agrees(&self) -> bool {
        self.built && self.differences() == 0
    }
}

/// How far an audit is, for whoever waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditStep {
    /// The history is being read, to find each entity's newest row.
    ReadingHistory,
    /// So many online rows have been compared, of about so many.
    Comparing {
        /// Compared so far.
        rows: u64,
        /// About all there are.
        of: u64,
    },
}

pub(super) async fn view(stores: &Stores, view: &FeatureView, progress: &(dyn Fn(AuditStep) + Sync)) -> Result<Audit> {
    progress(AuditStep::ReadingHistory);
    let began = stores.clock.now().as_event_time();
    let history = Dataset::History(view.id);
    let Some(applied) = stores.online.store().applied(view.id).await? else {
        return Ok(Audit::default());
    };
    if stores.offline.latest(history).await?.version < applied {
        // What was applied was never committed to this store: none of it counts.
        return Ok(Audit::default());
    }
    let expected = newest::of_each(stores, view, applied, |row| is_due(row, began)).await?;
    let entities = of_use(view, expected.values(), began);
    let mut comparison = Comparison {
        stores,
        view,
        layout: RowLayout::new(view),
        applied,
        expected,
        exact: Vec::new(),
        outdated: HashMap::new(),
        other: HashMap::new(),
        audit: Audit { built: true, entities, ..Audit::default() },
    };
    let (mut rows, mut cursor) = (0, Some(0));
    while let Some(from) = cursor {
        let page = stores.online.store().page(view.id, from).await?;
        rows += page.rows.len() as u64;
        comparison.add(page.rows).await?;
        progress(AuditStep::Comparing { rows, of: entities });
        cursor = page.next;
    }
    comparison.finish().await
}

/// Whether a row that was written as one of the future must be online by now; others must be once they are applied.
fn is_due(row: &RowVersion, now: EventTime) -> bool {
    let was_of_the_future = row.event_time > row.created_time.as_event_time();
    let due_by = if was_of_the_future { now.micros().saturating_sub(DUE_WITHIN_MICROS) } else { now.micros() };
    row.event_time.micros() <= due_by
}

/// How many of these rows are not past their TTL. The others may be missing, or older ones be in their place, which are so too.
fn of_use<'a>(view: &FeatureView, rows: impl Iterator<Item = &'a Found>, now: EventTime) -> u64 {
    let of_use = |row: &&Found| Ttl::is_live(view.ttl, row.version.event_time, now.max(row.version.event_time));
    rows.filter(of_use).count() as u64
}

/// A comparison under way.
struct Comparison<'a> {
    stores: &'a Stores,
    view: &'a FeatureView,
    layout: RowLayout,
    /// What had been applied before.
    applied: DatasetVersion,
    /// Its newest row of each entity that was not found online so far.
    expected: HashMap<EntityKey, Found>,
    /// Those in whose place an older one was found.
    outdated: HashMap<EntityKey, Found>,
    /// Online rows that are the expected ones by their times, to be held against the history.
    exact: Vec<(u64, EntityKey, PackedRow)>,
    /// Online rows that are later than expected, or of entities that are not: they may have been written while we looked.
    other: HashMap<EntityKey, RowVersion>,
    audit: Audit,
}

impl Comparison<'_> {
    /// Compares rows that are online. One that comes twice is counted once.
    async fn add(&mut self, rows: Vec<(EntityKey, PackedRow)>) -> Result<()> {
        for (entity, row) in rows {
            match self.expected.remove(&entity) {
                Some(found) if row.version() == found.version => self.exact.push((found.address, entity, row)),
                Some(found) if row.version() < found.version => drop(self.outdated.insert(entity, found)),
                Some(_) | None => drop(self.other.insert(entity, row.version())),
            }
        }
        if self.exact.len() >= TAKE_ROWS {
            self.compare_exact().await?;
        }
        Ok(())
    }

    async fn compare_exact(&mut self) -> Result<()> {
        let mut exact = std::mem::take(&mut self.exact);
        exact.sort_unstable_by_key(|(address, _, _)| *address);
        let columns = all_columns(self.view);
        for chunk in exact.chunks(TAKE_ROWS) {
            let addresses: Vec<u64> = chunk.iter().map(|(address, _, _)| *address).collect();
            let rows = self.stores.offline.take(Dataset::History(self.view.id), self.applied, &addresses, &columns).await?;
            let stored = self.layout.pack(&rows)?;
            if stored.len() != chunk.len() {
                return Err(Error::internal("rows taken by their addresses are fewer than asked for"));
            }
            let same = chunk.iter().zip(&stored).filter(|((_, entity, row), (of, stored))| entity == of && row == stored);
            self.audit.different += (chunk.len() - same.count()) as u64;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Audit> {
        self.compare_exact().await?;
        let ended = self.stores.clock.now().as_event_time();
        self.audit.missing = of_use(self.view, self.expected.values(), ended);
        self.audit.older = of_use(self.view, self.outdated.values(), ended);
        if !self.other.is_empty() {
            let latest = self.stores.offline.latest(Dataset::History(self.view.id)).await?.version;
            let newest = newest::of_each(self.stores, self.view, latest, |row| row.event_time <= ended).await?;
            for (entity, version) in &self.other {
                match newest.get(entity) {
                    None => self.audit.unknown += 1,
                    Some(newest) if *version > newest.version => self.audit.newer += 1,
                    Some(_) => {}
                }
            }
        }
        // Where rows were lost meanwhile, the rest was compared in vain.
        self.audit.built = self.stores.online.store().applied(self.view.id).await?.is_some_and(|now| now >= self.applied);
        Ok(self.audit)
    }
}
