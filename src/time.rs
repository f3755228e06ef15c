//! The two clocks of a feature store, and the only place that reads the machine's.
//!
//! An [`EventTime`] says when something became true in the world, a [`CommitTime`] when the store learned it. Both are
//! microseconds since 1970-01-01 UTC; they are different types so that one cannot stand for the other.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};

use serde::{Deserialize, Serialize};

/// When a row became true in the world: microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventTime(i64);

/// When the store learned a row: microseconds since 1970-01-01 UTC, increasing from commit to commit of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CommitTime(i64);

macro_rules! instant {
    ($name:ident) => {
        impl $name {
            /// The instant this many microseconds after 1970-01-01 UTC.
            pub const fn from_micros(micros: i64) -> Self {
                Self(micros)
            }

            /// Microseconds since 1970-01-01 UTC.
            pub const fn micros(self) -> i64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match chrono::DateTime::from_timestamp_micros(self.0) {
                    Some(instant) => write!(f, "{}", instant.format("%Y-%m-%d %H:%M:%S%.6fZ")),
                    None if self.0 == i64::MAX => f.write_str("infinity"),
                    None if self.0 == i64::MIN => f.write_str("-infinity"),
                    None => write!(f, "{}us", self.0),
                }
            }
        }
    };
}

instant!(EventTime);
instant!(CommitTime);

/// A version of a dataset: a point on the knowledge axis that has a number. Grows by one with every commit, whoever makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DatasetVersion(pub u64);

impl fmt::Display for DatasetVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl CommitTime {
    /// The same instant on the other axis: what a read at this moment means by "now".
    pub const fn as_event_time(self) -> EventTime {
        EventTime(self.0)
    }

    /// The commit time that follows `previous`: `self`, or a microsecond later than `previous` if the clock has not moved on.
    #[must_use]
    pub fn after(self, previous: Option<CommitTime>) -> CommitTime {
        match previous {
            Some(previous) if previous >= self => CommitTime(previous.0 + 1),
            Some(_) | None => self,
        }
    }
}

/// Time, so that tests and the demo can hold it still.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present instant.
    fn now(&self) -> CommitTime;

    /// Moves the clock; `Err` on a clock that runs by itself.
    fn set(&self, now: CommitTime) -> Result<(), ClockRuns>;
}

/// The clock follows the machine's and cannot be set.
#[derive(Debug)]
pub struct ClockRuns;

/// The machine's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> CommitTime {
        CommitTime(chrono::Utc::now().timestamp_micros())
    }

    fn set(&self, _now: CommitTime) -> Result<(), ClockRuns> {
        Err(ClockRuns)
    }
}

/// A clock that stands still until it is set.
#[derive(Debug)]
pub struct SetClock(AtomicI64);

impl SetClock {
    /// A clock that shows `now`.
    pub fn new(now: CommitTime) -> Self {
        Self(AtomicI64::new(now.0))
    }
}

impl Clock for SetClock {
    fn now(&self) -> CommitTime {
        CommitTime(self.0.load(Ordering::SeqCst))
    }

    fn set(&self, now: CommitTime) -> Result<(), ClockRuns> {
        self.0.store(now.0, Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_times_increase_even_when_the_clock_stands_still() {
        let now = CommitTime::from_micros(10);
        assert_eq!(now.after(None).micros(), 10);
        assert_eq!(now.after(Some(now)).micros(), 11);
        assert_eq!(now.after(Some(CommitTime::from_micros(9))).micros(), 10);
    }
}
