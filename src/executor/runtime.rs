//! The runtime on which scans, joins and large writes run, apart from connections and lookups, and behind them.
//!
//! Its threads work for whole milliseconds at a time, and a lookup is done in microseconds. So they have the lowest priority, and
//! give their processor away after each batch, and within those that take long: on a machine with nothing to spare a lookup waits
//! for a batch, not for the system's next tick. A query alone gets every processor; beside lookups that want them all it gets a
//! small part.

use std::pin::Pin;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use futures::{Stream, StreamExt};
use thread_priority::{ThreadPriority, set_current_thread_priority};
use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, block_in_place};

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
            .on_thread_start(stand_back)
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

    /// Where other long work is started; it ends with this runtime.
    pub fn handle(&self) -> Result<Handle> {
        self.runtime.as_ref().map(|runtime| runtime.handle().clone()).ok_or_else(shutting_down)
    }
}

/// Does what takes milliseconds on a thread that serves connections: the others go on meanwhile on another thread, to which
/// they are handed in some ten microseconds. On a runtime of the current thread alone they wait.
pub fn at_length<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        _ => work(),
    }
}

/// [`at_length`], for what waits now and then.
pub async fn await_at_length<T>(work: impl Future<Output = T>) -> T {
    let runtime = Handle::current();
    match runtime.runtime_flavor() {
        RuntimeFlavor::MultiThread => block_in_place(|| runtime.block_on(work)),
        _ => work.await,
    }
}

/// Gives the thread the lowest priority; the threads that it starts have it, too.
fn stand_back() {
    if let Err(error) = set_current_thread_priority(ThreadPriority::Min) {
        tracing::debug!(?error, "a thread for queries keeps the priority of lookups");
    }
}

/// Lets other threads have the processor, if any wait for it. Costs less than a microsecond.
pub(super) fn give_way() {
    std::thread::yield_now();
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
