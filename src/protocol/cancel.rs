//! Cancelling what a connection runs, from outside it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::error::{Error, SqlState};

const NOT_CANCELLED: u8 = 0;
const BY_USER: u8 = 1;
const BY_SHUTDOWN: u8 = 2;

/// Tells one connection to stop what it runs.
#[derive(Debug, Default)]
pub(super) struct CancelSwitch {
    reason: AtomicU8,
    changed: Notify,
}

impl CancelSwitch {
    /// Forgets a cancel that came before the statement that now starts: it was meant for an earlier one.
    pub(super) fn arm(&self) {
        // Losing this exchange means nobody cancelled, or the server is stopping, which holds for every statement.
        let _ = self.reason.compare_exchange(BY_USER, NOT_CANCELLED, Ordering::SeqCst, Ordering::SeqCst);
    }

    fn cancel(&self) {
        // Losing this exchange means that it is cancelled already.
        let _ = self.reason.compare_exchange(NOT_CANCELLED, BY_USER, Ordering::SeqCst, Ordering::SeqCst);
        self.changed.notify_one();
    }

    pub(super) fn shut_down(&self) {
        self.reason.store(BY_SHUTDOWN, Ordering::SeqCst);
        self.changed.notify_one();
    }

    /// Why it was cancelled, if it was.
    pub(super) fn reason(&self) -> Option<Error> {
        match self.reason.load(Ordering::SeqCst) {
            NOT_CANCELLED => None,
            BY_SHUTDOWN => Some(shutdown_error()),
            _ => Some(Error::new(SqlState::QueryCanceled, "canceling statement due to user request")),
        }
    }

    /// Returns when it is cancelled, with the reason. Cancel safe; only the connection itself waits here.
    pub(super) async fn cancelled(&self) -> Error {
        loop {
            if let Some(reason) = self.reason() {
                return reason;
            }
            self.changed.notified().await;
        }
    }
}

pub(super) fn shutdown_error() -> Error {
    Error::new(SqlState::AdminShutdown, "terminating connection due to administrator command")
}

/// The secret by which a client may cancel, long enough for protocol 3.2.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct CancelKey([u8; 32]);

impl CancelKey {
    fn random() -> Self {
        let mut key = [0; 32];
        key[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        key[16..].copy_from_slice(Uuid::new_v4().as_bytes());
        Self(key)
    }

    /// The first four bytes: all that protocol 3.0 has room for, all of them random.
    pub(super) fn short(&self) -> i32 {
        let [a, b, c, d, ..] = self.0;
        i32::from_be_bytes([a, b, c, d])
    }

    pub(super) fn long(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in a time that does not tell how much was right.
    fn matches(&self, given: &[u8]) -> bool {
        let known = match given.len() {
            4 => &self.0[..4],
            _ => &self.0[..],
        };
        given.len() == known.len() && given.iter().zip(known).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
    }
}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CancelKey(..)")
    }
}

/// The connections that can be cancelled, by process number and secret.
#[derive(Debug, Default)]
pub struct CancelRegistry {
    last_pid: AtomicI32,
    connections: Mutex<HashMap<i32, (CancelKey, Arc<CancelSwitch>)>>,
}

impl CancelRegistry {
    /// Cancels what the connection runs, if there is one with this number and secret; says nothing either way.
    pub(super) fn cancel(&self, pid: i32, key: &[u8]) {
        let connections = self.connections.lock();
        if let Some((known, switch)) = connections.get(&pid)
            && known.matches(key)
        {
            switch.cancel();
        }
    }

    /// Gives a connection its number and secret, until the registration is dropped.
    pub(super) fn register(self: &Arc<Self>) -> Registration {
        let key = CancelKey::random();
        let switch = Arc::new(CancelSwitch::default());
        let mut connections = self.connections.lock();
        let pid = loop {
            let pid = self.last_pid.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & i32::MAX;
            if pid != 0 && !connections.contains_key(&pid) {
                break pid;
            }
        };
        connections.insert(pid, (key.clone(), Arc::clone(&switch)));
        drop(connections);
        Registration { registry: Arc::clone(self), pid, key, switch }
    }
}

/// A connection's place in the registry.
#[derive(Debug)]
pub(super) struct Registration {
    registry: Arc<CancelRegistry>,
    pub(super) pid: i32,
    pub(super) key: CancelKey,
    pub(super) switch: Arc<CancelSwitch>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.connections.lock().remove(&self.pid);
    }
}
