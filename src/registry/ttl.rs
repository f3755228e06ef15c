//! How long a row lives.

use arrow::datatypes::IntervalMonthDayNano;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, SqlState};
use crate::time::EventTime;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A view's time to live: a fixed, positive-or-zero length in microseconds.
///
/// Months and years are refused where the length is parsed, because they have no fixed length; a day is 24 hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ttl(i64);

impl Ttl {
    /// A TTL of this many microseconds. Zero means an exact match; a negative length is `22023`.
    pub fn from_micros(micros: i64) -> Result<Self> {
        if micros < 0 {
            return Err(Error::new(SqlState::InvalidParameterValue, "a TTL cannot be negative"));
        }
        Ok(Self(micros))
    }

    /// A TTL as long as an interval; a day has 24 hours. Months are `22023`, because they have no fixed length.
    pub fn from_interval(interval: IntervalMonthDayNano) -> Result<Self> {
        if interval.months != 0 {
            return Err(Error::new(SqlState::InvalidParameterValue, "a TTL cannot be counted in months or years")
                .hint("Months and years differ in length; give days (of 24 hours) or less."));
        }
        let days = i64::from(interval.days).checked_mul(MICROS_PER_DAY);
        let micros = days.and_then(|days| days.checked_add(interval.nanoseconds / 1_000));
        Self::from_micros(micros.ok_or_else(|| Error::new(SqlState::DatetimeFieldOverflow, "interval out of range"))?)
    }

    /// The shorter of two lengths; none is no limit.
    pub fn shorter(first: Option<Ttl>, second: Option<Ttl>) -> Option<Ttl> {
        match (first, second) {
            (Some(first), Some(second)) => Some(first.min(second)),
            (first, second) => first.or(second),
        }
    }

    /// The length in microseconds.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Whether a row that became true at `event_time` still answers at `at`: `at - ttl <= event_time <= at`, both ends
    /// included. Both routes judge by this function alone.
    pub fn is_live(ttl: Option<Ttl>, event_time: EventTime, at: EventTime) -> bool {
        event_time <= at && Self::oldest(ttl, at).is_none_or(|oldest| event_time >= oldest)
    }

    /// The earliest event time that still answers at `at`.
    pub fn oldest(ttl: Option<Ttl>, at: EventTime) -> Option<EventTime> {
        ttl.map(|ttl| EventTime::from_micros(at.micros().saturating_sub(ttl.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_the_window_are_inside() {
        let at = EventTime::from_micros;
        let ttl = Some(Ttl::from_micros(10).unwrap());
        assert!(Ttl::is_live(ttl, at(90), at(100)));
        assert!(!Ttl::is_live(ttl, at(89), at(100)));
        assert!(Ttl::is_live(ttl, at(100), at(100)));
        assert!(!Ttl::is_live(ttl, at(101), at(100)));
        assert!(Ttl::is_live(None, at(i64::MIN), at(100)));
        assert!(Ttl::is_live(Some(Ttl::from_micros(0).unwrap()), at(100), at(100)));
        assert!(Ttl::is_live(Some(Ttl::from_micros(i64::MAX).unwrap()), at(i64::MIN), at(-5)));
    }
}
