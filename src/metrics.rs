//! Counters of what the gateway did. They cost one relaxed atomic addition each, and threads that count at once do not wait for
//! each other.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How many threads may count without sharing a place.
const PLACES: usize = 8;

/// The place of the next thread that counts.
static NEXT_PLACE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static PLACE: Cell<usize> = Cell::new(NEXT_PLACE.fetch_add(1, Ordering::Relaxed) % PLACES);
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter([Place; PLACES]);

/// A part of a counter, far enough from the next that processors do not take its memory from each other.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Place(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        // A thread that is ending has no place of its own any more.
        let place = PLACE.try_with(Cell::get).unwrap_or(0);
        self.0[place].0.fetch_add(n, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn get(&self) -> u64 {
        self.0.iter().map(|place| place.0.load(Ordering::Relaxed)).sum()
    }
}

/// How many durations are remembered.
const DURATIONS: usize = 1024;

/// The last durations of something done again and again. Recording one costs two relaxed atomic operations.
#[derive(Debug)]
pub struct Durations {
    /// In microseconds, plus one: 0 is a place not yet used.
    micros: Box<[AtomicU32]>,
    next: AtomicUsize,
}

impl Default for Durations {
    fn default() -> Self {
        Self { micros: (0..DURATIONS).map(|_place| AtomicU32::new(0)).collect(), next: AtomicUsize::new(0) }
    }
}

impl Durations {
    /// Remembers `duration` in the place of the oldest.
    pub fn record(&self, duration: Duration) {
        let micros = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX - 1).saturating_add(1);
        let place = self.next.fetch_add(1, Ordering::Relaxed) % DURATIONS;
        self.micros[place].store(micros, Ordering::Relaxed);
    }

    /// The median, and the duration that 99 of 100 did not exceed, of those remembered; `None` where there are none.
    pub fn quantiles(&self) -> (Option<Duration>, Option<Duration>) {
        let mut micros: Vec<u32> = self.micros.iter().map(|micros| micros.load(Ordering::Relaxed)).collect();
        micros.retain(|micros| *micros > 0);
        micros.sort_unstable();
        let of = |hundredths: usize| {
            let micros = *micros.get((micros.len() * hundredths).div_ceil(100).checked_sub(1)?)?;
            Some(Duration::from_micros(u64::from(micros - 1)))
        };
        (of(50), of(99))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_threads_counted_is_summed_up() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            for n in 1..=20 {
                let counter = &counter;
                scope.spawn(move || (0..1000).for_each(|_| counter.add(n)));
            }
        });
        assert_eq!(counter.get(), 210_000);
    }

    #[test]
    fn quantiles_are_of_the_last_durations() {
        let durations = Durations::default();
        assert_eq!(durations.quantiles(), (None, None));
        durations.record(Duration::ZERO);
        assert_eq!(durations.quantiles(), (Some(Duration::ZERO), Some(Duration::ZERO)));
        for micros in (1..=5000).rev() {
            durations.record(Duration::from_micros(micros));
        }
        // The last 1024 are 1 to 1024.
        assert_eq!(durations.quantiles(), (Some(Duration::from_micros(512)), Some(Duration::from_micros(1014))));
    }
}
