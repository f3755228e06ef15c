//! The runtime on which scans and joins run, apart from connections and lookups.

use std::pin::Pin;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use futures::{Stream, StreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::{Error, Result, SqlState};
use crate::offline::BatchStream;

/// Batches that may wait between the two runtimes.
const BATCHES_WAITING_MAX: usize = 2;

/// The stack of a worker thread. Planning and simplifying recurse over the query's tree.
const STACK_BYTES: usize = 8 << 20;

/// A runtime of its own for queries, so that a large one does not delay the lookups beside it.
#[derive(Debug)]
pub struct QueryRuntime {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl QueryRuntime {
    /// A runtime with this many worker threads.
    pub fn new(threads: usize) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("query")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|source| Error::new(SqlState::SystemError, "could not start the query runtime").caused_by(source))?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Polls `stream` on this runtime and hands its batches over. Dropping what is returned stops the work.
    pub fn stream(&self, mut stream: BatchStream) -> BatchStream {
        let (sender, receiver) = mpsc::channel(BATCHES_WAITING_MAX);
        let work = async move {
            while let Some(batch) = stream.next().await {
                let ended = batch.is_err();
                if sender.send(batch).await.is_err() || ended {
                    break;
                }
            }
        };
        match &self.runtime {
            Some(runtime) => Handed { receiver, work: Some(runtime.spawn(work)) }.boxed(),
            None => futures::stream::once(async { Err(shutting_down()) }).boxed(),
        }
    }
}

impl Drop for QueryRuntime {
    fn drop(&mut self) {
        // Dropping a runtime waits for its threads, which must not happen on a thread of another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn shutting_down() -> Error {
    Error::new(SqlState::AdminShutdown, "terminating connection because the server is stopping")
}

/// The receiving end of a stream that is polled elsewhere.
struct Handed {
    receiver: mpsc::Receiver<Result<RecordBatch>>,
    work: Option<JoinHandle<()>>,
}

impl Stream for Handed {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.receiver.poll_recv(context) {
            Poll::Ready(None) => {}
            other => return other,
        }
        // The sender is gone: at the end of the rows, or because the work broke off, which must not look like an end.
        let Some(work) = self.work.as_mut() else { return Poll::Ready(None) };
        let ended = match Pin::new(work).poll(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(ended) => ended,
        };
        self.work = None;
        match ended {
            Ok(()) => Poll::Ready(None),
            Err(error) if error.is_panic() => Poll::Ready(Some(Err(Error::internal("a query operator panicked")))),
            Err(_) => Poll::Ready(Some(Err(shutting_down()))),
        }
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let Some(work) = &self.work {
            work.abort();
        }
    }
}
