//! Work on streams of batches by all threads of the query runtime.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::StreamExt;
use futures::stream::Fuse;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::runtime::give_way;
use crate::error::{Error, Result};
use crate::offline::BatchStream;

/// More workers than this wait for the stream rather than for their turn to compute.
const WORKERS_MAX: usize = 8;

/// How many workers there are.
pub(super) fn workers() -> usize {
    Handle::current().metrics().num_workers().clamp(1, WORKERS_MAX)
}

/// Streams from which workers take batches, each batch going to one of them: each worker from its own stream first, then from
/// those of the others.
#[derive(Clone)]
pub(super) struct SharedBatches(Arc<Vec<Mutex<Fuse<BatchStream>>>>);

impl SharedBatches {
    pub(super) fn new(streams: Vec<BatchStream>) -> Self {
        Self(Arc::new(streams.into_iter().map(|stream| Mutex::new(stream.fuse())).collect()))
    }

    /// The next batch that no other worker has taken, for this one.
    pub(super) async fn next(&self, worker: usize) -> Option<Result<RecordBatch>> {
        give_way();
        for turn in 0..self.0.len() {
            let batch = self.0[(worker + turn) % self.0.len()].lock().await.next().await;
            if batch.is_some() {
                return batch;
            }
        }
        None
    }
}

/// Starts as many workers as the runtime has threads, each with its number, and gives what each of them made. The first error stops all; so does
/// dropping the future.
pub(super) async fn on_all_workers<W, T>(worker: impl Fn(usize) -> W) -> Result<Vec<T>>
where
    W: Future<Output = Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let mut workers = JoinSet::new();
    for number in 0..self::workers() {
        workers.spawn(worker(number));
    }
    let mut made = Vec::with_capacity(workers.len());
    while let Some(part) = workers.join_next().await {
        made.push(part.map_err(|error| Error::internal("a worker of a query broke off").caused_by(error))??);
    }
    Ok(made)
}
