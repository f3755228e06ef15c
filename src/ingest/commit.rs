//! Group commit: one relation's writes, gathered while a commit is under way, become the next one.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::error::ArrowError;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Stores, ValidBatch, catch_up};
use crate::error::{Error, Result};
use crate::offline::{Commit, Dataset, SEQUENCE, Staged};
use crate::online::{EntityKey, PackedRow, RowLayout};
use crate::registry::{FeatureView, Target};
use crate::time::CommitTime;

/// The most rows that writes of different clients put into one commit. A single larger write is one commit all the same.
const GROUP_ROWS_MAX: usize = 1 << 20;

/// A commit carries no commit time older than this when it is made, so that what a read as of a system time older than this
/// answered stays true. Microseconds.
pub(super) const COMMIT_LAG: i64 = 1_000_000;

/// From so many rows on, checking, sorting and packing holds up no other connection.
pub(super) const BLOCKING_ROWS_MIN: usize = 4096;

/// The queue of writes to one relation.
#[derive(Debug)]
pub(super) struct Relation {
    target: Target,
    queue: Mutex<Queue>,
    /// The commit time given last: the next is later, whatever the clock says.
    previous: Mutex<Option<CommitTime>>,
}

#[derive(Debug, Default)]
struct Queue {
    writes: Vec<Write>,
    /// Whether a committer is at work, who will see what is queued.
    committing: bool,
}

/// One client's write, waiting to be committed.
#[derive(Debug)]
struct Write {
    rows: Rows,
    done: oneshot::Sender<Result<Option<Error>>>,
}

/// What a client wrote.
#[derive(Debug)]
enum Rows {
    /// Rows at hand, which can share a commit.
    Held(Vec<ValidBatch>),
    /// So many rows that they were staged as they came: a commit of their own.
    Staged(Box<Staged>),
}

impl Write {
    /// How many rows it brings to a commit that others share; `None` where it shares none.
    fn shared_rows(&self) -> Option<usize> {
        match &self.rows {
            Rows::Held(batches) => Some(batches.iter().map(ValidBatch::len).sum()),
            Rows::Staged(_) => None,
        }
    }
}

impl Relation {
    pub(super) fn new(target: &Target) -> Arc<Self> {
        Arc::new(Self { target: target.clone(), queue: Mutex::default(), previous: Mutex::default() })
    }

    /// Writes `batches`, all or none, in a commit that may hold other writes too. If the caller goes away, the write goes on.
    pub(super) async fn write(self: Arc<Self>, stores: &Stores, batches: Vec<ValidBatch>) -> Result<Option<Error>> {
        self.queue(stores, Rows::Held(batches)).await
    }

    /// Commits staged rows. If the caller goes away, the commit goes on.
    pub(super) async fn write_staged(self: Arc<Self>, stores: &Stores, staged: Staged) -> Result<Option<Error>> {
        self.queue(stores, Rows::Staged(Box::new(staged))).await
    }

    async fn queue(self: Arc<Self>, stores: &Stores, rows: Rows) -> Result<Option<Error>> {
        let (done, outcome) = oneshot::channel();
        let idle = {
            let mut queue = self.queue.lock();
            queue.writes.push(Write { rows, done });
            !std::mem::replace(&mut queue.committing, true)
        };
        if idle {
            // Ends when the queue is empty. Its owners are the writers, who wait for it here.
            tokio::spawn(Committer { relation: self.clone(), stores: stores.clone() }.run());
        }
        outcome.await.unwrap_or_else(|_stopped| {
            Err(Error::internal(format!("the writer of \"{}\" stopped", self.target.name()))
                .hint("The rows may or may not be stored: look before writing them again."))
        })
    }
}

struct Committer {
    relation: Arc<Relation>,
    stores: Stores,
}

impl Drop for Committer {
    /// Only a committer that did not come to its end finds writes here: their writers must not wait for ever.
    fn drop(&mut self) {
        let mut queue = self.relation.queue.lock();
        if queue.committing {
            queue.committing = false;
            queue.writes.clear();
        }
    }
}

impl Committer {
    async fn run(self) {
        while let Some(group) = self.next_group() {
            let (rows, waiting): (Vec<_>, Vec<_>) = group.into_iter().map(|write| (write.rows, write.done)).unzip();
            let outcome = self.commit(rows).await;
            for done in waiting {
                // A writer that went away does not hear of it.
                let _ = done.send(outcome.clone());
            }
        }
    }

    /// What is queued, up to the limit; ends the committer's time if that is nothing.
    fn next_group(&self) -> Option<Vec<Write>> {
        let mut queue = self.relation.queue.lock();
        if queue.writes.is_empty() {
            queue.committing = false;
            return None;
        }
        let mut rows = 0;
        let fits = queue.writes.iter().map_while(Write::shared_rows).take_while(|more| {
            rows += more;
            rows <= GROUP_ROWS_MAX
        });
        let count = fits.count().max(1);
        Some(queue.writes.drain(..count).collect())
    }

    /// Commits writes: either one that was staged, or some that share a commit.
    async fn commit(&self, writes: Vec<Rows>) -> Result<Option<Error>> {
        let mut held = Vec::with_capacity(writes.len());
        for write in writes {
            match write {
                Rows::Staged(staged) => return self.commit_staged(*staged).await,
                Rows::Held(batches) => held.extend(batches),
            }
        }
        let Stores { offline, online, clock } = &self.stores;
        let target = &self.relation.target;
        let dataset = dataset(target);
        let created_time = self.stamp().await?;
        let prepared = prepare(target, held, created_time).await?;
        let rows = prepared.stored;
        let count = rows.num_rows();
        let staged = offline.stage(dataset, stream::once(async { Ok(rows) }).boxed(), created_time).await?;
        let commit = self.commit_in_time(staged).await?;
        tracing::debug!(relation = target.name(), version = %commit.version, rows = count, "batch appended");
        let (Target::View(view), Some(packed)) = (target, prepared.packed) else {
            return Ok(None);
        };
        let applied = match commit.created_time == created_time {
            true => online.apply(view, packed, clock.now().as_event_time(), commit.version).await,
            // What was packed has the first stamp: the rows are read again.
            false => self.catch_up().await,
        };
        Ok(applied.err().map(|error| self.not_online(error, commit)))
    }

    /// Commits staged rows. The online store reads those that concern it from there.
    async fn commit_staged(&self, staged: Staged) -> Result<Option<Error>> {
        let commit = self.commit_in_time(staged).await?;
        tracing::debug!(relation = self.relation.target.name(), version = %commit.version, "staged rows committed");
        Ok(self.catch_up().await.err().map(|error| self.not_online(error, commit)))
    }

    async fn catch_up(&self) -> Result<()> {
        match &self.relation.target {
            Target::View(view) if view.online => {
                let caught_up = catch_up::view(&self.stores, view, self.stores.clock.now().as_event_time()).await;
                if caught_up.is_err() {
                    self.stores.online.set_unready(view.id);
                }
                caught_up
            }
            Target::View(_) | Target::Table(_) => Ok(()),
        }
    }

    /// The commit time of a commit made now: later than every other of the relation.
    async fn stamp(&self) -> Result<CommitTime> {
        let newest = self.stores.offline.latest(dataset(&self.relation.target)).await?.created_time;
        let mut previous = self.relation.previous.lock();
        let created_time = self.stores.clock.now().after((*previous).max(Some(newest)));
        *previous = Some(created_time);
        Ok(created_time)
    }

    /// Makes staged rows a commit whose commit time is no older than [`COMMIT_LAG`], giving them another where it is. Where
    /// that takes too long itself, the next one lies ahead, and the commit waits for it.
    async fn commit_in_time(&self, mut staged: Staged) -> Result<Commit> {
        let Stores { offline, clock, .. } = &self.stores;
        let dataset = dataset(&self.relation.target);
        if matches!(self.relation.target, Target::View(_)) {
            let mut ahead = 0;
            while clock.now().micros() - staged.created_time().micros() > COMMIT_LAG {
                let start = clock.now().micros();
                let created_time = CommitTime::from_micros(self.stamp().await?.micros() + ahead);
                staged = offline.restamp(dataset, staged, created_time).await?;
                if ahead > 0 {
                    let early = u64::try_from(created_time.micros() - clock.now().micros()).unwrap_or(0);
                    tokio::time::sleep(Duration::from_micros(early)).await;
                }
                ahead = 2 * (clock.now().micros() - start);
            }
        }
        offline.commit(dataset, staged).await
    }

    /// The warning about rows that are durable and not yet online.
    fn not_online(&self, error: Error, commit: Commit) -> Error {
        let relation = self.relation.target.name();
        tracing::warn!(relation, version = %commit.version, %error, "batch not applied online");
        Error::new(error.code(), format!("the rows of \"{relation}\" are stored, but not yet in the online store"))
            .hint("Lookups read them from the offline store until the online store has caught up, which needs no help.")
            .caused_by(error)
    }
}

fn dataset(target: &Target) -> Dataset {
    match target {
        Target::View(view) => Dataset::History(view.id),
        Target::Table(table) => Dataset::Table(table.id),
    }
}

/// The rows of one commit.
struct Prepared {
    /// As the offline store gets them.
    stored: RecordBatch,
    /// As the online store gets them; `None` where it gets none.
    packed: Option<Vec<(EntityKey, PackedRow)>>,
}

async fn prepare(target: &Target, batches: Vec<ValidBatch>, created_time: CommitTime) -> Result<Prepared> {
    let rows: usize = batches.iter().map(ValidBatch::len).sum();
    let first_sequence = first_sequence();
    let target = target.clone();
    let work = move || prepare_rows(&target, &batches, created_time, first_sequence);
    if rows < BLOCKING_ROWS_MIN {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(|source| Error::internal("rows could not be prepared").caused_by(source))?
}

fn prepare_rows(target: &Target, batches: &[ValidBatch], created_time: CommitTime, first_sequence: i64) -> Result<Prepared> {
    let mut stored = stored_rows(target, batches, created_time, first_sequence, usize::MAX)?;
    let stored = stored.pop().ok_or_else(|| Error::internal("a commit without rows"))?;
    let packed = match target {
        Target::View(view) if view.online => Some(RowLayout::new(view).pack(&stored)?),
        Target::View(_) | Target::Table(_) => None,
    };
    Ok(Prepared { stored, packed })
}

/// Rows as the offline store gets them: those of a view sorted, in batches of at most so many rows, each with arrays of its own.
pub(super) fn stored_rows(
    target: &Target,
    batches: &[ValidBatch],
    created_time: CommitTime,
    first_sequence: i64,
    batch_rows: usize,
) -> Result<Vec<RecordBatch>> {
    let mut stored = Vec::with_capacity(batches.len());
    let mut sequence = first_sequence;
    for batch in batches {
        stored.push(batch.stored(created_time, sequence)?);
        sequence += i64::try_from(batch.len()).map_err(|_too_many| Error::internal("too many rows in one commit"))?;
    }
    let failed = |source| Error::internal(format!("rows of \"{}\" could not be put together", target.name())).caused_by(source);
    let together = match &stored[..] {
        [one] => one.clone(),
        several => concat_batches(&several[0].schema(), several).map_err(failed)?,
    };
    match target {
        Target::View(view) => sort(view, together, batch_rows).map_err(failed),
        Target::Table(_) => Ok(vec![together]),
    }
}

/// A random number for the commit above the number of the row: two gateways that commit in the same microsecond do not
/// interleave, and rows keep the order in which they came.
pub(super) fn first_sequence() -> i64 {
    let nonce = Uuid::new_v4().as_u128() as u32 >> 1;
    i64::from(nonce) << 32
}

/// Sorts by keys, event time and sequence: lookups by key and scans of one entity then touch few pages.
fn sort(view: &FeatureView, rows: RecordBatch, batch_rows: usize) -> std::result::Result<Vec<RecordBatch>, ArrowError> {
    if rows.num_rows() < 2 {
        return Ok(vec![rows]);
    }
    let names = view.keys.iter().map(|key| key.name.as_str()).chain([view.event_time.as_str(), SEQUENCE]);
    let columns: Vec<ArrayRef> = names.filter_map(|name| rows.column_by_name(name).cloned()).collect();
    let columns: Vec<_> = columns.into_iter().map(|values| SortColumn { values, options: None }).collect();
    let order: UInt32Array = lexsort_to_indices(&columns, None)?;
    let starts = (0..order.len()).step_by(batch_rows);
    starts.map(|start| take_record_batch(&rows, &order.slice(start, batch_rows.min(order.len() - start)))).collect()
}
