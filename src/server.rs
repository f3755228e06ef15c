//! Sockets: accepting, limiting and stopping.

mod threads;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::protocol::{Host, Limits, Room, Stopping, serve_connection};
use crate::session::Services;

pub use threads::{Threads, connection_runtime};

/// What the server as a whole may take.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// What each connection may take.
    pub limits: Limits,
    /// The connections served at once. Further clients are told that there are too many.
    pub connections_max: usize,
    /// How long a stop waits for what runs before cancelling it.
    pub drain_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { limits: Limits::default(), connections_max: 100, drain_timeout: Duration::from_secs(5) }
    }
}

/// How many clients may at once be told that there are too many, or send a cancel request while there are.
const CONNECTIONS_OVER_MAX: usize = 32;

/// How long what was cancelled has to end by itself.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(3);

/// The pause after an error of the listener, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the clients of `listener` on these threads until `shutdown` completes. Then it accepts no more; connections are told `57P01` and close
/// as they become idle; what still runs after [`ServerConfig::drain_timeout`] is cancelled. Every connection has ended when
/// this returns.
///
/// Not cancel safe: dropping it drops all connections where they are.
pub async fn serve(
    listener: TcpListener,
    threads: Threads,
    config: ServerConfig,
    services: Arc<Services>,
    shutdown: impl Future<Output = ()>,
) {
    let (stopping, watched) = watch::channel(Stopping::No);
    let host =
        Host { services, limits: config.limits.clone(), statements: Arc::default(), cancels: Arc::default(), stopping: watched };
    let open = Arc::new(AtomicUsize::new(0));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => admit(stream, &config, &host, &open, &threads, &mut connections),
                Err(problem) => {
                    warn!(%problem, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    info!(connections = connections.len(), "stopping");
    for (phase, timeout) in [(Stopping::WhenIdle, config.drain_timeout), (Stopping::Now, CANCEL_TIMEOUT)] {
        stopping.send_replace(phase);
        let all_ended = async {
            while let Some(ended) = connections.join_next().await {
                report(ended);
            }
        };
        if tokio::time::timeout(timeout, all_ended).await.is_ok() {
            return;
        }
    }
    warn!(connections = connections.len(), "connections did not end by themselves");
    connections.shutdown().await;
}

/// Starts a connection of its own, on one of the threads.
fn admit(
    stream: TcpStream,
    config: &ServerConfig,
    host: &Host,
    open: &Arc<AtomicUsize>,
    threads: &Threads,
    connections: &mut JoinSet<()>,
) {
    let Ok(place) = Place::take(open, config.connections_max + CONNECTIONS_OVER_MAX) else { return };
    let stream = match prepare(stream) {
        Ok(stream) => stream,
        Err(problem) => return warn!(%problem, "could not set up a connection"),
    };
    let room = if place.number <= config.connections_max { Room::Free } else { Room::Full };
    let host = host.clone();
    let (seat, runtime) = threads.seat();
    let serve = async move {
        match TcpStream::from_std(stream) {
            Ok(stream) => serve_connection(stream, host, room).await,
            Err(problem) => warn!(%problem, "could not set up a connection"),
        }
        drop((place, seat));
    };
    connections.spawn_on(serve, runtime);
}

/// The socket, for whichever thread. Answers are written whole, so there is nothing for the kernel to wait for.
fn prepare(stream: TcpStream) -> io::Result<std::net::TcpStream> {
    stream.set_nodelay(true)?;
    stream.into_std()
}

/// A connection's place among those that are open.
struct Place {
    open: Arc<AtomicUsize>,
    number: usize,
}

struct NoPlace;

impl Place {
    fn take(open: &Arc<AtomicUsize>, most: usize) -> Result<Self, NoPlace> {
        let number = open.fetch_add(1, Ordering::SeqCst) + 1;
        let place = Self { open: Arc::clone(open), number };
        if number > most { Err(NoPlace) } else { Ok(place) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(problem) = ended
        && problem.is_panic()
    {
        error!(%problem, "a connection ended by a defect of the server");
    }
}
