//! How long a row stays in the online store where nothing newer takes its place.

use crate::registry::Ttl;
use crate::time::EventTime;

/// How long a row stays after its TTL. Until then a gateway whose clock is behind that of the one that wrote it may still answer
/// with it, and so may a statement that began before.
const MARGIN_MICROS: i128 = 3_600_000_000;

/// For how long the rows of a view are kept, counted from a writer's present. It is memory hygiene and judges nothing: a row that is
/// past its TTL answers nobody, whether it is there or not, and neither does any older one of its entity.
///
/// A store counts it from its own present, so that its clock and the writer's need not agree: only that neither jumps ahead by as
/// much as the margin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// The milliseconds that are left of a row's time, less the milliseconds of its event time.
    shift_ms: i64,
}

impl Lifetime {
    /// That of the rows of a view with this TTL, seen from `now`.
    pub fn new(ttl: Ttl, now: EventTime) -> Self {
        // A thousandth of three numbers of 64 bits is one again.
        let micros = i128::from(ttl.micros()) + MARGIN_MICROS - i128::from(now.micros());
        Self { shift_ms: i64::try_from(micros.div_euclid(1000)).unwrap_or(i64::MAX) }
    }

    /// What is added to the milliseconds of a row's event time to give those for which it is kept.
    pub fn shift_ms(self) -> i64 {
        self.shift_ms
    }

    /// Whether a row of this event time is kept at all.
    pub fn keeps(self, event_time: EventTime) -> bool {
        event_time.micros().div_euclid(1000).saturating_add(self.shift_ms) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_kept_for_its_ttl_and_an_hour() {
        let at = EventTime::from_micros;
        let now = 1_767_225_600_000_000;
        let kept = 3_600_000_000 + 10_000_000;
        let lifetime = Lifetime::new(Ttl::from_micros(10_000_000).unwrap(), at(now));
        assert!(lifetime.keeps(at(now)));
        assert!(lifetime.keeps(at(now - kept + 1_000)));
        assert!(!lifetime.keeps(at(now - kept)));
        assert_eq!(now / 1000 + lifetime.shift_ms(), kept / 1000);
    }

    #[test]
    fn no_length_and_no_instant_is_too_great() {
        let at = EventTime::from_micros;
        let for_ever = Ttl::from_micros(i64::MAX).unwrap();
        for now in [i64::MIN, -1, 0, i64::MAX] {
            assert!(Lifetime::new(for_ever, at(now)).keeps(at(now)), "{now}");
            assert!(Lifetime::new(Ttl::from_micros(0).unwrap(), at(now)).keeps(at(now)), "{now}");
        }
        assert!(!Lifetime::new(for_ever, at(i64::MAX)).keeps(at(i64::MIN)));
        assert!(Lifetime::new(Ttl::from_micros(0).unwrap(), at(i64::MIN)).keeps(at(i64::MAX)));
    }
}
