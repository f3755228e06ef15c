//! Work on one stream of batches by all threads of the query runtime.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::offline::BatchStream;

/// More workers than this wait for the stream rather than for their turn to compute.
const WORKERS_MAX: usize = 8;

/// A stream from which several workers take batches, each batch going to one of them.
#[derive(Clone)]
pub(super) struct SharedBatches(Arc<Mutex<BatchStream>>);

impl SharedBatches {
    pub(super) fn new(batches: BatchStream) -> Self {
        Self(Arc::new(Mutex::new(batches)))
    }

    /// The next batch that no other worker has taken.
    pub(super) async fn next(&self) -> Option<Result<RecordBatch>> {
        self.0.lock().await.next().await
    }
}

/// Starts as many workers as the runtime has threads, and gives what each of them made. The first error stops all; so does
/// dropping the future.
pub(super) async fn on_all_workers<W, T>(worker: impl Fn() -> W) -> Result<Vec<T>>
where
    W: Future<Output = Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let mut workers = JoinSet::new();
    for _ in 0..Handle::current().metrics().num_workers().clamp(1, WORKERS_MAX) {
        workers.spawn(worker());
    }
    let mut made = Vec::with_capacity(workers.len());
    while let Some(part) = workers.join_next().await {
        made.push(part.map_err(|error| Error::internal("a worker of a query broke off").caused_by(error))??);
    }
    Ok(made)
}
