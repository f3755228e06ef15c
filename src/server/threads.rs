//! The threads that serve connections, each with a runtime of its own.
//!
//! A connection stays on the thread that it was given to. On a runtime that they share, threads take work from each other: that balances
//! what takes long, but what a lookup needs is done in less time than it takes to wake another thread for it.

use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, Result, SqlState};

/// A runtime of one thread that serves connections. What takes long there moves aside by itself: see
/// [`at_length`](crate::executor::at_length).
pub fn connection_runtime() -> Result<Runtime> {
    // Not the kind for the current thread alone: on that one, what takes long could not move aside.
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("connections").enable_all().build();
    runtime.map_err(|source| Error::new(SqlState::SystemError, "could not start a thread for connections").caused_by(source))
}

/// The threads that serve connections. They end when this is dropped.
#[derive(Debug)]
pub struct Threads {
    /// The first is the one that this was started on.
    threads: Vec<Thread>,
    started: Vec<Runtime>,
}

#[derive(Debug)]
struct Thread {
    runtime: Handle,
    /// Held by each connection of the thread.
    connections: Arc<Seat>,
}

/// What a connection holds while it is served.
#[derive(Debug)]
pub(super) struct Seat;

impl Threads {
    /// So many threads, of which that of the runtime that it is called within is the first. Fails where the system gives no more.
    pub fn start(count: usize) -> Result<Self> {
        let started: Vec<_> = (1..count).map(|_| connection_runtime()).collect::<Result<_>>()?;
        let all = std::iter::once(Handle::current()).chain(started.iter().map(|runtime| runtime.handle().clone()));
        let threads = all.map(|runtime| Thread { runtime, connections: Arc::new(Seat) }).collect();
        Ok(Self { threads, started })
    }

    /// A seat on the thread that has the fewest connections, and the thread's runtime.
    pub(super) fn seat(&self) -> (Arc<Seat>, &Handle) {
        let mut least = &self.threads[0];
        for thread in &self.threads[1..] {
            if Arc::strong_count(&thread.connections) < Arc::strong_count(&least.connections) {
                least = thread;
            }
        }
        (Arc::clone(&least.connections), &least.runtime)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Dropping a runtime waits for its thread, which must not happen on a thread of another runtime.
        for runtime in self.started.drain(..) {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_is_given_to_the_thread_that_has_the_fewest() {
        let threads = Threads::start(3).unwrap();
        let mut seats: Vec<_> = (0..7).map(|_| threads.seat()).collect();
        let on = |runtime: &Handle| threads.threads.iter().position(|thread| thread.runtime.id() == runtime.id()).unwrap();
        let given: Vec<_> = seats.iter().map(|(_, runtime)| on(runtime)).collect();
        assert_eq!(given, [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(threads.threads[0].runtime.id(), Handle::current().id());
        // The second connection of thread 2 ends.
        drop(seats.remove(5));
        assert_eq!(on(threads.seat().1), 2);
    }
}
