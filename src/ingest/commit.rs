//! Group commit: one relation's writes, gathered while a commit is under way, become the next one.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Stores, ValidBatch};
use crate::error::{Error, Result};
use crate::offline::{Dataset, SEQUENCE};
use crate::online::{EntityKey, PackedRow, RowLayout};
use crate::registry::{FeatureView, Target};
use crate::time::CommitTime;

/// The most rows that writes of different clients put into one commit. A single larger write is one commit all the same.
const GROUP_ROWS_MAX: usize = 1 << 20;

/// From so many rows on, sorting and packing goes to a thread for blocking work.
const BLOCKING_ROWS_MIN: usize = 4096;

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
    batches: Vec<ValidBatch>,
    done: oneshot::Sender<Result<Option<Error>>>,
}

impl Write {
    fn rows(&self) -> usize {
        self.batches.iter().map(ValidBatch::len).sum()
    }
}

impl Relation {
    pub(super) fn new(target: &Target) -> Arc<Self> {
        Arc::new(Self { target: target.clone(), queue: Mutex::default(), previous: Mutex::default() })
    }

    /// Writes `batches`, all or none, in a commit that may hold other writes too. If the caller goes away, the write goes on.
    pub(super) async fn write(self: Arc<Self>, stores: &Stores, batches: Vec<ValidBatch>) -> Result<Option<Error>> {
        let (done, outcome) = oneshot::channel();
        let idle = {
            let mut queue = self.queue.lock();
            queue.writes.push(Write { batches, done });
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
            let (batches, waiting): (Vec<_>, Vec<_>) = group.into_iter().map(|write| (write.batches, write.done)).unzip();
            let outcome = self.commit(batches.into_iter().flatten().collect()).await;
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
        let fits = queue.writes.iter().take_while(|write| {
            rows += write.rows();
            rows <= GROUP_ROWS_MAX
        });
        let count = fits.count().max(1);
        Some(queue.writes.drain(..count).collect())
    }

    async fn commit(&self, batches: Vec<ValidBatch>) -> Result<Option<Error>> {
        let Stores { offline, online, clock } = &self.stores;
        let target = &self.relation.target;
        let dataset = match target {
            Target::View(view) => Dataset::History(view.id),
            Target::Table(table) => Dataset::Table(table.id),
        };
        let newest = offline.latest(dataset).await?.created_time;
        let created_time = {
            let mut previous = self.relation.previous.lock();
            let created_time = clock.now().after((*previous).max(Some(newest)));
            *previous = Some(created_time);
            created_time
        };
        let rows = prepare(target, batches, created_time).await?;
        let count = rows.stored.num_rows();
        let commit = offline.append(dataset, rows.stored, created_time).await?;
        tracing::debug!(relation = target.name(), version = %commit.version, rows = count, "batch appended");
        let Some(packed) = rows.packed else {
            return Ok(None);
        };
        match online.apply(target.id(), packed, clock.now().as_event_time(), commit.version).await {
            Ok(()) => Ok(None),
            Err(error) => {
                tracing::warn!(relation = target.name(), version = %commit.version, %error, "batch not applied online");
                let message = format!("the rows of \"{}\" are stored, but not yet in the online store", target.name());
                let warning = Error::new(error.code(), message)
                    .hint("Lookups read them from the offline store until the online store has caught up, which needs no help.")
                    .caused_by(error);
                Ok(Some(warning))
            }
        }
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
    let Target::View(view) = target else {
        return Ok(Prepared { stored: together, packed: None });
    };
    let sorted = sort(view, &together).map_err(failed)?;
    let packed = if view.online { Some(RowLayout::new(view).pack(&sorted)?) } else { None };
    Ok(Prepared { stored: sorted, packed })
}

/// A random number for the commit above the number of the row: two gateways that commit in the same microsecond do not
/// interleave, and rows keep the order in which they came.
fn first_sequence() -> i64 {
    let nonce = Uuid::new_v4().as_u128() as u32 >> 1;
    i64::from(nonce) << 32
}

/// Sorts by keys, event time and sequence: lookups by key and scans of one entity then touch few pages.
fn sort(view: &FeatureView, rows: &RecordBatch) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
    if rows.num_rows() < 2 {
        return Ok(rows.clone());
    }
    let names = view.keys.iter().map(|key| key.name.as_str()).chain([view.event_time.as_str(), SEQUENCE]);
    let columns: Vec<ArrayRef> = names.filter_map(|name| rows.column_by_name(name).cloned()).collect();
    let columns: Vec<_> = columns.into_iter().map(|values| SortColumn { values, options: None }).collect();
    let order: UInt32Array = lexsort_to_indices(&columns, None)?;
    take_record_batch(rows, &order)
}
