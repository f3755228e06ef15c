//! Bringing the online rows of a view up to its history.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{and, filter_record_batch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType, UInt64Type};
use futures::TryStreamExt;

use super::Stores;
use crate::error::{Error, Result};
use crate::offline::{CREATED_TIME, Dataset, ROW_ADDRESS, SEQUENCE, Scan, history_schema};
use crate::online::key::entity_keys;
use crate::online::{EntityKey, RowLayout, RowVersion};
use crate::registry::FeatureView;
use crate::time::{CommitTime, DatasetVersion, EventTime};

/// How many rows are read at their addresses at a time.
const TAKE_ROWS: usize = 8192;

/// How often a catch-up that another gateway overtook looks again.
const ATTEMPTS_MAX: usize = 5;

/// Catches up one view: builds its online rows where there are none, replays the commits that were not applied, and keeps the
/// rows whose time has not come. The view is ready when this returns.
pub(super) async fn view(stores: &Stores, view: &FeatureView, now: EventTime) -> Result<()> {
    for _attempt in 0..ATTEMPTS_MAX {
        // In this order: what was applied is never ahead of what was committed.
        let mut mark = stores.online.readiness_mark(view.id);
        let applied = stores.online.store().applied(view.id).await?;
        let latest = stores.offline.latest(Dataset::History(view.id)).await?;
        let work = Work { stores, view, layout: RowLayout::new(view), version: latest.version, now };
        let moved = match applied {
            Some(applied) if applied == latest.version => true,
            Some(applied) if applied < latest.version => {
                work.replay(applied).await?;
                stores.online.store().advance(view.id, Some(applied), latest.version).await?
            }
            Some(_) | None => {
                // Applied commits that were never made are those of a store that is gone.
                stores.online.set_unready(view.id);
                if applied.is_some() {
                    stores.online.forget(view.id).await?;
                }
                mark = stores.online.readiness_mark(view.id);
                work.rebuild().await?;
                stores.online.store().advance(view.id, None, latest.version).await?
            }
        };
        if moved {
            work.wait().await?;
            stores.online.set_ready(view.id, mark);
            return Ok(());
        }
    }
    Err(Error::internal(format!("the online rows of \"{}\" could not be caught up: others kept changing them", view.name)))
}

/// What is to be done for one view, at one version of its history.
struct Work<'a> {
    stores: &'a Stores,
    view: &'a FeatureView,
    layout: RowLayout,
    version: DatasetVersion,
    now: EventTime,
}

impl Work<'_> {
    fn dataset(&self) -> Dataset {
        Dataset::History(self.view.id)
    }

    /// Applies the rows of the commits after `applied`. Rows that are there already lose against themselves.
    async fn replay(&self, applied: DatasetVersion) -> Result<()> {
        let scan = Scan { columns: self.all_columns(), added_after: Some(applied), ..Scan::default() };
        let mut batches = self.stores.offline.scan(self.dataset(), self.version, scan).await?;
        while let Some(batch) = batches.try_next().await? {
            self.apply(&self.without_outdated(&batch)?).await?;
        }
        tracing::info!(view = %self.view.name, from = %applied, to = %self.version, "online rows caught up");
        Ok(())
    }

    /// The rows but those which the next row of their entity outdates. Rows are stored sorted by keys and times, so few of a
    /// large commit are left.
    fn without_outdated(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let Some(last) = batch.num_rows().checked_sub(1) else { return Ok(batch.clone()) };
        let failed = |source| Error::internal("rows could not be compared").caused_by(source);
        let mut same_entity = BooleanArray::from(vec![true; last]);
        for key in &self.view.keys {
            let values = column(batch, &key.name)?;
            let equal = not_distinct(&values.slice(0, last), &values.slice(1, last)).map_err(failed)?;
            same_entity = and(&same_entity, &equal).map_err(failed)?;
        }
        let version = versions(batch, &self.view.event_time)?;
        // A row of the future outdates nothing yet.
        let outdated = |row: usize| {
            let next = version(row + 1);
            same_entity.value(row) && next.event_time <= self.now && next > version(row)
        };
        let kept: BooleanArray = (0..=last).map(|row| Some(row == last || !outdated(row))).collect();
        filter_record_batch(batch, &kept).map_err(failed)
    }

    /// Applies the newest row of each entity: finds them by their keys and times, then reads only them.
    async fn rebuild(&self) -> Result<()> {
        let keys = self.view.keys.iter().map(|key| key.name.clone());
        let order = [self.view.event_time.clone(), CREATED_TIME.to_owned(), SEQUENCE.to_owned()];
        let scan = Scan { columns: keys.chain(order).collect(), row_address: true, ..Scan::default() };
        let mut batches = self.stores.offline.scan(self.dataset(), self.version, scan).await?;
        let mut newest: HashMap<EntityKey, (RowVersion, u64)> = HashMap::new();
        while let Some(batch) = batches.try_next().await? {
            self.keep_newest(&batch, &mut newest)?;
        }
        let entities = newest.len();
        self.apply_at(newest.into_values().map(|(_, address)| address).collect()).await?;
        tracing::info!(view = %self.view.name, version = %self.version, entities, "online rows rebuilt");
        Ok(())
    }

    fn keep_newest(&self, batch: &RecordBatch, newest: &mut HashMap<EntityKey, (RowVersion, u64)>) -> Result<()> {
        let keys = self.view.keys.iter().map(|key| column(batch, &key.name).cloned()).collect::<Result<Vec<_>>>()?;
        let entities = match keys.is_empty() {
            true => vec![Some(EntityKey::global()); batch.num_rows()],
            false => entity_keys(&self.view.keys, &keys)?,
        };
        let version_of = versions(batch, &self.view.event_time)?;
        let addresses = column(batch, ROW_ADDRESS)?.as_primitive::<UInt64Type>();
        for (row, entity) in entities.into_iter().enumerate() {
            let version = version_of(row);
            let Some(entity) = entity else { continue };
            if version.event_time > self.now {
                continue;
            }
            let candidate = (version, addresses.value(row));
            match newest.entry(entity) {
                Entry::Occupied(mut kept) if kept.get().0 < version => drop(kept.insert(candidate)),
                Entry::Occupied(_) => {}
                Entry::Vacant(slot) => drop(slot.insert(candidate)),
            }
        }
        Ok(())
    }

    /// Keeps the rows that wait for their time. Those that were written as rows of the future and have become due since are
    /// applied: the gateway that kept them may be gone.
    async fn wait(&self) -> Result<()> {
        let known = self.stores.online.waiting_through(self.view.id);
        if known == Some(self.version) {
            return Ok(());
        }
        match known {
            Some(known) => self.wait_for_added(known).await?,
            None => self.wait_for_all().await?,
        }
        self.stores.online.set_waiting_through(self.view.id, self.version);
        Ok(())
    }

    /// As [`Work::wait`], for the rows added after `known`. They are read whole: after a rewrite they may be given from files
    /// that this version no longer has, where their addresses would lead nowhere.
    async fn wait_for_added(&self, known: DatasetVersion) -> Result<()> {
        let scan = Scan { columns: self.all_columns(), added_after: Some(known), ..Scan::default() };
        let mut batches = self.stores.offline.scan(self.dataset(), self.version, scan).await?;
        while let Some(batch) = batches.try_next().await? {
            let waits: BooleanArray = self.waits(&batch)?.into_iter().map(Some).collect();
            let rows = filter_record_batch(&batch, &waits)
                .map_err(|source| Error::internal("rows could not be filtered").caused_by(source))?;
            if rows.num_rows() > 0 {
                self.apply(&rows).await?;
            }
        }
        Ok(())
    }

    /// As [`Work::wait`], for the whole history: finds the rows by their times, then reads only them.
    async fn wait_for_all(&self) -> Result<()> {
        let columns = vec![self.view.event_time.clone(), CREATED_TIME.to_owned()];
        let scan = Scan { columns, row_address: true, ..Scan::default() };
        let mut batches = self.stores.offline.scan(self.dataset(), self.version, scan).await?;
        let mut addresses = Vec::new();
        while let Some(batch) = batches.try_next().await? {
            let at = column(&batch, ROW_ADDRESS)?.as_primitive::<UInt64Type>();
            let waits = self.waits(&batch)?;
            addresses.extend(at.values().iter().zip(waits).filter(|(_, waits)| *waits).map(|(address, _)| *address));
        }
        self.apply_at(addresses).await
    }

    /// Whether each row was, or may have been, one of the future when it was written, or is one now.
    fn waits(&self, batch: &RecordBatch) -> Result<Vec<bool>> {
        let event_times = column(batch, &self.view.event_time)?.as_primitive::<TimestampMicrosecondType>();
        let created_times = column(batch, CREATED_TIME)?.as_primitive::<TimestampMicrosecondType>();
        // Commit times may run ahead of the clock, so a row that its commit time makes a present one may be of the future.
        let waits = |row: usize| event_times.value(row) > created_times.value(row).min(self.now.micros());
        Ok((0..batch.num_rows()).map(waits).collect())
    }

    async fn apply_at(&self, mut addresses: Vec<u64>) -> Result<()> {
        addresses.sort_unstable();
        let columns = self.all_columns();
        for addresses in addresses.chunks(TAKE_ROWS) {
            let rows = self.stores.offline.take(self.dataset(), self.version, addresses, &columns).await?;
            self.apply(&rows).await?;
        }
        Ok(())
    }

    async fn apply(&self, rows: &RecordBatch) -> Result<()> {
        self.stores.online.upsert(self.view.id, self.layout.pack(rows)?, self.now).await
    }

    fn all_columns(&self) -> Vec<String> {
        history_schema(self.view).fields().iter().map(|field| field.name().clone()).collect()
    }
}

/// What orders the rows of a batch of history, by row.
fn versions<'a>(batch: &'a RecordBatch, event_time: &str) -> Result<impl Fn(usize) -> RowVersion + 'a> {
    let event_times = column(batch, event_time)?.as_primitive::<TimestampMicrosecondType>();
    let created_times = column(batch, CREATED_TIME)?.as_primitive::<TimestampMicrosecondType>();
    let sequences = column(batch, SEQUENCE)?.as_primitive::<Int64Type>();
    Ok(|row| RowVersion {
        event_time: EventTime::from_micros(event_times.value(row)),
        created_time: CommitTime::from_micros(created_times.value(row)),
        sequence: sequences.value(row),
    })
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| Error::internal(format!("a scan gave no column \"{name}\"")))
}
