//! Writes of any size: rows are checked, sorted and staged as they come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::check::Checks;
use super::commit::{first_sequence, stored_rows};
use super::{Intake, Stores, ValidBatch, validate};
use crate::error::{Error, Result};
use crate::executor::own_bytes;
use crate::offline::{BatchStream, Dataset, Staged};
use crate::registry::Target;
use crate::time::CommitTime;

/// Rows that fit in this many bytes are held and share a commit with others; more are staged as they come.
const HELD_BYTES_MAX: usize = 32 << 20;

/// About how many bytes of a view's rows are sorted together. A history that is loaded at once is a row of sorted pieces.
const SORTED_BYTES: usize = 96 << 20;

/// How many pieces are checked and sorted while one is written.
const PIECES_AHEAD: usize = 2;

/// The rows of a batch of a view that the offline store gets.
const BATCH_ROWS: usize = 1 << 16;

/// About how many bytes of a table's rows are put together. Lance makes a page of what many small pieces of a large array take
/// up together, which is the large array each time: they get an array of their own.
const GATHERED_BYTES: usize = 16 << 20;

/// What rows of one relation have to be.
#[derive(Clone, Debug)]
pub(super) struct Intaker {
    pub(super) target: Target,
    /// The conditions of a view.
    pub(super) checks: Option<Arc<Checks>>,
}

impl Intaker {
    pub(super) fn validate(&self, rows: &RecordBatch, intake: &Intake) -> Result<ValidBatch> {
        let valid = validate::columns(&self.target, rows, intake)?;
        if let (Target::View(view), Some(checks)) = (&self.target, &self.checks) {
            checks.hold(view, &valid, intake)?;
        }
        Ok(ValidBatch { target: self.target.clone(), rows: valid })
    }
}

/// What came of waiting for the end of some rows.
pub(super) enum Gathered {
    /// They ended, and were few.
    All(RecordBatch),
    /// There were none.
    Nothing,
    /// They go on: those that have come, and the others.
    More(Vec<RecordBatch>, BatchStream),
}

/// Waits for the end of `rows`, or until there are too many to be held.
pub(super) async fn gather(mut rows: BatchStream) -> Result<Gathered> {
    let (mut come, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = rows.try_next().await? {
        bytes += own_bytes(&batch);
        come.push(batch);
        if bytes > HELD_BYTES_MAX {
            return Ok(Gathered::More(come, rows));
        }
    }
    Ok(together(&come)?.map_or(Gathered::Nothing, Gathered::All))
}

fn together(batches: &[RecordBatch]) -> Result<Option<RecordBatch>> {
    let Some(first) = batches.first() else { return Ok(None) };
    let batch = concat_batches(&first.schema(), batches);
    batch.map(Some).map_err(|source| Error::internal("could not gather rows").caused_by(source))
}

/// Stages rows under way; gives also how many they were.
pub(super) async fn stage(stores: &Stores, intaker: Intaker, intake: Intake, rows: BatchStream) -> Result<(Staged, u64)> {
    let dataset = match &intaker.target {
        Target::View(view) => Dataset::History(view.id),
        Target::Table(table) => Dataset::Table(table.id),
    };
    let created_time = stores.clock.now();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let stored = stored_pieces(intaker, intake, rows, created_time)
        .map_ok(|batches| stream::iter(batches.into_iter().map(Ok)))
        .try_flatten();
    let stored = stored.inspect_ok(move |batch| {
        counted.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
    });
    let staged = stores.offline.stage(dataset, stored.boxed(), created_time).await?;
    Ok((staged, count.load(Ordering::Relaxed)))
}

/// The rows as the offline store gets them, in pieces that are checked and sorted on threads for blocking work.
fn stored_pieces(
    intaker: Intaker,
    intake: Intake,
    batches: BatchStream,
    created_time: CommitTime,
) -> impl Stream<Item = Result<Vec<RecordBatch>>> + Send {
    let nonce = first_sequence();
    let whole = match &intaker.target {
        Target::View(_) => SORTED_BYTES,
        Target::Table(_) => GATHERED_BYTES,
    };
    pieces(batches, whole)
        .map(move |piece| {
            let (intaker, intake) = (intaker.clone(), intake.clone());
            async move {
                let Piece { batches, first_row } = piece?;
                let intake = Intake { first_row: intake.first_row + first_row, ..intake };
                let sequence =
                    nonce + i64::try_from(first_row).map_err(|_many| Error::internal("too many rows in one commit"))?;
                let work = move || match together(&batches)? {
                    Some(batch) => {
                        let valid = intaker.validate(&batch, &intake)?;
                        stored_rows(&intaker.target, &[valid], created_time, sequence, BATCH_ROWS)
                    }
                    None => Err(Error::internal("a piece without rows")),
                };
                let done = tokio::task::spawn_blocking(work).await;
                done.map_err(|source| Error::internal("rows could not be prepared").caused_by(source))?
            }
        })
        .buffered(PIECES_AHEAD)
}

/// Batches that are worked on together, and how many rows came before them.
struct Piece {
    batches: Vec<RecordBatch>,
    first_row: usize,
}

/// The batches in pieces of about so many bytes.
fn pieces(
    batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    bytes_min: usize,
) -> impl Stream<Item = Result<Piece>> + Send {
    stream::try_unfold((batches.boxed(), 0), move |(mut batches, first_row)| async move {
        let (mut piece, mut bytes, mut rows) = (Vec::new(), 0, 0);
        while piece.is_empty() || bytes < bytes_min {
            let Some(batch) = batches.try_next().await? else { break };
            bytes += own_bytes(&batch);
            rows += batch.num_rows();
            if batch.num_rows() > 0 {
                piece.push(batch);
            }
        }
        if piece.is_empty() {
            return Ok(None);
        }
        Ok(Some((Piece { batches: piece, first_row }, (batches, first_row + rows))))
    })
}
