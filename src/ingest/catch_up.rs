//! Bringing the online rows of a view up to its history.

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{and, filter_record_batch};
use arrow::datatypes::{TimestampMicrosecondType, UInt64Type};
use futures::TryStreamExt;

use super::Stores;
use super::newest::{self, TAKE_ROWS, all_columns, column, versions};
use crate::error::{Error, Result};
use crate::offline::{CREATED_TIME, Dataset, ROW_ADDRESS, Scan};
use crate::online::{BuildId, Epoch, Progress, RowLayout, RowVersion};
use crate::registry::FeatureView;
use crate::time::{DatasetVersion, EventTime};

/// How often a catch-up that another gateway overtook looks again.
const ATTEMPTS_MAX: usize = 5;

/// Catches up one view: builds its online rows where there are none, replays the commits that were not applied, and keeps the
/// rows whose time has not come. The view is ready when this returns.
pub(super) async fn view(stores: &Stores, view: &FeatureView, now: EventTime) -> Result<()> {
    for _attempt in 0..ATTEMPTS_MAX {
        // In this order: what was applied is never ahead of what was committed.
        let mut mark = stores.online.readiness_mark(view.id).await?;
        let applied = stores.online.store().applied(view.id).await?;
        let latest = stores.offline.latest(Dataset::History(view.id)).await?;
        let work = Work { stores, view, layout: RowLayout::new(view), version: latest.version, now };
        let from = match applied {
            Some(applied) if applied == latest.version => None,
            Some(applied) if applied < latest.version && work.replayed(applied).await? => Some(Progress::Through(applied)),
            Some(_) => {
                // Applied commits that were never made are those of a store that is gone; what followed one whose version
                // was dropped cannot be told.
                stores.online.forget(view.id).await?;
                continue;
            }
            None => {
                stores.online.set_unready(view.id);
                mark = stores.online.readiness_mark(view.id).await?;
                Some(Progress::Building(work.rebuild().await?))
            }
        };
        let moved = match &from {
            None => true,
            Some(from) => stores.online.store().advance(view.id, from, latest.version, mark.epoch()).await?,
        };
        if moved {
            work.wait(mark.epoch()).await?;
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

    /// As [`Work::replay`]; `false` where versions that it takes were dropped.
    async fn replayed(&self, applied: DatasetVersion) -> Result<bool> {
        Ok(self.unless_dropped(applied, self.replay(applied).await).await?.is_some())
    }

    /// What was done with the versions from `from` on; `None` where it failed because some were dropped.
    async fn unless_dropped<T>(&self, from: DatasetVersion, done: Result<T>) -> Result<Option<T>> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(_) if self.stores.offline.earliest(self.dataset()).await? > from => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Applies the rows of the commits after `applied`. Rows that are there already lose against themselves.
    async fn replay(&self, applied: DatasetVersion) -> Result<()> {
        let scan = Scan { columns: all_columns(self.view), added_after: Some(applied), ..Scan::default() };
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

    /// Applies the newest row of each entity, unless its lifetime is over: finds them by their keys and times, then reads only
    /// them. Gives the building that it is the whole of.
    async fn rebuild(&self) -> Result<BuildId> {
        let building = self.stores.online.store().begin_build(self.view.id).await?;
        let lifetime = self.stores.online.lifetime(self.view, self.now);
        let counts =
            |row: &RowVersion| row.event_time <= self.now && lifetime.is_none_or(|lifetime| lifetime.keeps(row.event_time));
        let newest = newest::of_each(self.stores, self.view, self.version, counts).await?;
        let entities = newest.len();
        self.apply_at(newest.into_values().map(|row| row.address).collect()).await?;
        tracing::info!(view = %self.view.name, version = %self.version, entities, "online rows rebuilt");
        Ok(building)
    }

    /// Keeps the rows that wait for their time. Those that were written as rows of the future and have become due since are
    /// applied: the gateway that kept them may be gone.
    async fn wait(&self, epoch: Epoch) -> Result<()> {
        let known = self.stores.online.waiting_through(self.view.id, epoch);
        let some = match known {
            Some(known) if known == self.version => false,
            Some(known) => match self.unless_dropped(known, self.wait_for_added(known).await).await? {
                Some(some) => some,
                None => self.wait_for_all().await?,
            },
            None => self.wait_for_all().await?,
        };
        self.stores.online.set_waiting_through(self.view.id, self.version, epoch, some);
        Ok(())
    }

    /// As [`Work::wait`], for the rows added after `known`. They are read whole: after a rewrite they may be given from files
    /// that this version no longer has, where their addresses would lead nowhere. Gives whether there were any.
    async fn wait_for_added(&self, known: DatasetVersion) -> Result<bool> {
        let scan = Scan { columns: all_columns(self.view), added_after: Some(known), ..Scan::default() };
        let mut batches = self.stores.offline.scan(self.dataset(), self.version, scan).await?;
        let mut some = false;
        while let Some(batch) = batches.try_next().await? {
            let waits: BooleanArray = self.waits(&batch)?.into_iter().map(Some).collect();
            let rows = filter_record_batch(&batch, &waits)
                .map_err(|source| Error::internal("rows could not be filtered").caused_by(source))?;
            if rows.num_rows() > 0 {
                some = true;
                self.apply(&rows).await?;
            }
        }
        Ok(some)
    }

    /// As [`Work::wait`], for the whole history: finds the rows by their times, then reads only them.
    async fn wait_for_all(&self) -> Result<bool> {
        let columns = vec![self.view.event_time.clone(), CREATED_TIME.to_owned()];
        let scan = Scan { columns, row_address: true, ..Scan::default() };
        let mut batches = self.stores.offline.scan(self.dataset(), self.version, scan).await?;
        let mut addresses = Vec::new();
        while let Some(batch) = batches.try_next().await? {
            let at = column(&batch, ROW_ADDRESS)?.as_primitive::<UInt64Type>();
            let waits = self.waits(&batch)?;
            addresses.extend(at.values().iter().zip(waits).filter(|(_, waits)| *waits).map(|(address, _)| *address));
        }
        let some = !addresses.is_empty();
        self.apply_at(addresses).await?;
        Ok(some)
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
        let columns = all_columns(self.view);
        for addresses in addresses.chunks(TAKE_ROWS) {
            let rows = self.stores.offline.take(self.dataset(), self.version, addresses, &columns).await?;
            self.apply(&rows).await?;
        }
        Ok(())
    }

    async fn apply(&self, rows: &RecordBatch) -> Result<()> {
        self.stores.online.upsert(self.view, self.layout.pack(rows)?, self.now).await
    }
}
