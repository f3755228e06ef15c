//! For each slot of a left side, the right row that answers it.
//!
//! Right rows come in any order. A row that became true at `e` can answer every left row of its entity from `e` on, so it is
//! offered to the first slot that it reaches, where the greatest stays; a running maximum over each entity's slots then
//! brings every slot its answer. Nothing is sorted but the left side.
//!
//! Where left rows know different things the greatest row of a slot need not be known to all slots after it. A row that all
//! of them know is offered as before; one that only some know is kept beside, and each slot looks for the last of those that
//! it knows. Their number is that of the corrections and late rows, not that of the history.

use super::spine::{Knowledge, Slots};
use crate::registry::Ttl;
use crate::time::EventTime;

/// The address of no row.
pub(crate) const NO_ROW: u64 = u64::MAX;

/// What orders the rows of an entity: time, commit time, sequence.
pub(crate) type Version = (i64, i64, i64);

/// A right row on offer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) version: Version,
    pub(crate) address: u64,
}

const NOTHING: Offer = Offer { version: (i64::MIN, i64::MIN, i64::MIN), address: NO_ROW };

/// A row that not all slots from its own on know.
#[derive(Clone, Copy, Debug)]
struct Late {
    slot: u32,
    offer: Offer,
}

/// The greatest row offered to each slot so far.
#[derive(Debug)]
pub(crate) struct Candidates {
    best: Vec<Offer>,
    late: Vec<Late>,
}

impl Candidates {
    /// None for this many slots.
    pub(crate) fn new(slots: usize) -> Self {
        Self { best: vec![NOTHING; slots], late: Vec::new() }
    }

    /// The bytes they take.
    pub(crate) fn bytes(&self) -> usize {
        // Late rows are sorted and indexed in the end.
        self.best.len() * size_of::<Offer>() + self.late.capacity() * (size_of::<Late>() + 32)
    }

    /// Offers a row of `entity` to the slots it reaches.
    pub(crate) fn offer(&mut self, slots: &Slots, entity: u32, offer: Offer) {
        self.offer_with(slots, entity, offer, |_, _| true);
    }

    /// The same where versions can be equal: `before` says whether the first of two addresses stands before the second.
    pub(crate) fn offer_with(&mut self, slots: &Slots, entity: u32, offer: Offer, before: impl Fn(u64, u64) -> bool) {
        let Some(slot) = slots.first_reached(entity, offer.version.0) else { return };
        let best = &mut self.best[slot];
        let greater = best.address == NO_ROW
            || offer.version > best.version
            || (offer.version == best.version && before(best.address, offer.address));
        if !greater {
            return;
        }
        match slots.knowledge() {
            Some(knowledge) if offer.version.1 > knowledge.floor[slot] => {
                if offer.version.1 <= knowledge.ceiling[slot] {
                    self.late.push(Late { slot: u32::try_from(slot).unwrap_or(u32::MAX), offer });
                }
            }
            Some(_) | None => *best = offer,
        }
    }

    /// Adds what was offered to another set of candidates for the same slots.
    pub(crate) fn unite(&mut self, other: Candidates) {
        for (best, offer) in self.best.iter_mut().zip(other.best) {
            if offer.address != NO_ROW && (best.address == NO_ROW || offer.version > best.version) {
                *best = offer;
            }
        }
        self.late.extend(other.late);
    }

    /// The address of each slot's answer, or [`NO_ROW`].
    pub(crate) fn choose(mut self, window: Option<Ttl>, slots: &Slots) -> Vec<u64> {
        for (start, end) in slots.ranges() {
            for slot in start + 1..end {
                // A row that reaches a later slot first is later than all that reached an earlier one.
                if self.best[slot].address == NO_ROW {
                    self.best[slot] = self.best[slot - 1];
                }
            }
        }
        if let Some(knowledge) = slots.knowledge() {
            self.add_late(slots, knowledge);
        }
        let answer = |(slot, offer): (usize, &Offer)| {
            let (event_time, at) = (EventTime::from_micros(offer.version.0), EventTime::from_micros(slots.time(slot)));
            // A strict bound can only be told by the slot, which it was when the row was offered.
            if offer.address != NO_ROW && Ttl::is_live(window, event_time, at) { offer.address } else { NO_ROW }
        };
        self.best.iter().enumerate().map(answer).collect()
    }

    /// Puts the last late row that a slot knows in place of its best where it is greater.
    fn add_late(&mut self, slots: &Slots, knowledge: &Knowledge) {
        let late = &mut self.late;
        if late.is_empty() {
            return;
        }
        late.sort_unstable_by_key(|late| (late.slot, late.offer.version));
        let index = LastAtMost::new(late.iter().map(|late| late.offer.version.1), late.len());
        let mut end = 0;
        for (first, last) in slots.ranges() {
            let start = end;
            for slot in first..last {
                while late.get(end).is_some_and(|late| late.slot as usize <= slot) {
                    end += 1;
                }
                let Some(found) = index.find(end, knowledge.known[slot]).filter(|found| *found >= start) else { continue };
                let offer = late[found].offer;
                if self.best[slot].address == NO_ROW || offer.version > self.best[slot].version {
                    self.best[slot] = offer;
                }
            }
        }
    }
}

/// Finds the last of some numbers that is at most a limit, in logarithmic time: a tree of minima.
struct LastAtMost {
    /// The children of node `n` are `2n` and `2n + 1`; the numbers are the leaves, from `leaves` on.
    minima: Vec<i64>,
    leaves: usize,
}

impl LastAtMost {
    fn new(numbers: impl Iterator<Item = i64>, len: usize) -> Self {
        let leaves = (len + 1).next_power_of_two();
        let mut minima = vec![i64::MAX; 2 * leaves];
        for (leaf, number) in minima[leaves..].iter_mut().zip(numbers) {
            *leaf = number;
        }
        for node in (1..leaves).rev() {
            minima[node] = minima[2 * node].min(minima[2 * node + 1]);
        }
        Self { minima, leaves }
    }

    /// The last place before `end` whose number is at most `limit`.
    fn find(&self, end: usize, limit: i64) -> Option<usize> {
        let mut node = self.leaves + end;
        while node > 1 {
            let left = node - 1;
            if node % 2 == 1 && self.minima[left] <= limit {
                return Some(self.last_below(left, limit));
            }
            node /= 2;
        }
        None
    }

    /// The last leaf under `node` whose number is at most `limit`; there is one.
    fn last_below(&self, mut node: usize, limit: i64) -> usize {
        while node < self.leaves {
            let right = 2 * node + 1;
            node = if self.minima[right] <= limit { right } else { right - 1 };
        }
        node - self.leaves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_at_most_a_limit_is_found() {
        for len in 0..20_usize {
            let numbers: Vec<i64> = (0..len).map(|place| (place as i64 * 7) % 11).collect();
            let index = LastAtMost::new(numbers.iter().copied(), len);
            for end in 0..=len {
                for limit in -1..12 {
                    let expected = numbers[..end].iter().rposition(|number| *number <= limit);
                    assert_eq!(index.find(end, limit), expected, "{numbers:?}, before {end}, at most {limit}");
                }
            }
        }
    }

    #[test]
    fn the_greatest_limit_finds_no_leaf_that_is_not_there() {
        let index = LastAtMost::new([i64::MAX].into_iter(), 1);
        assert_eq!(index.find(1, i64::MAX), Some(0));
        assert_eq!(index.find(0, i64::MAX), None);
    }
}
