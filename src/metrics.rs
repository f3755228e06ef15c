//! Counters of what the gateway did. They cost one relaxed atomic addition each.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The gateway's counters.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Lookups answered on the short road.
    pub lookups_short: Counter,
    /// Lookups that were planned, each view of a statement one.
    pub lookups_planned: Counter,
    /// Entity keys asked of the online store.
    pub online_keys: Counter,
    /// Of those, keys for which a live row was served.
    pub online_hits: Counter,
    /// History rows read from the offline store by snapshots and as-of joins.
    pub history_rows: Counter,
    /// Rows acknowledged as written.
    pub rows_written: Counter,
    /// Commits to the offline store.
    pub commits: Counter,
}
