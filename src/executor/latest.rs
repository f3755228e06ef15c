//! For each slot of a left side, the last right row it reaches, told by event time alone.
//!
//! Rows of one entity seldom share an event time, and then neither commit times nor sequences decide: they need not be read.
//! Rows that do share one are set aside as rivals, and their versions are read in the end.
//!
//! Histories are stored in sorted pieces, so the rows of an entity mostly come together and in order: then each slot looks for
//! its row among them, which is less work than looking for the slot of each row.

use std::collections::HashMap;

use super::candidates::NO_ROW;
use super::key_dictionary::NO_ENTITY;
use super::spine::Slots;
use crate::registry::Ttl;
use crate::time::EventTime;

/// From so many rows of an entity in a row on, its slots look for their rows.
const RUN_ROWS_MIN: usize = 4;

/// So many rows are set aside at most.
const RIVALS_KEPT_MAX: usize = 1 << 16;

/// A right row: its time, in the direction in which answers are looked for, and where it is.
#[derive(Clone, Copy, Debug)]
struct Found {
    time: i64,
    address: u64,
}

const NOTHING: Found = Found { time: i64::MIN, address: NO_ROW };

/// The last row that reaches each slot before any other, so far.
#[derive(Debug)]
pub(crate) struct Latest {
    last: Vec<Found>,
    /// Rows of the same time as the last one of their slot, when they came.
    rivals: Vec<(u32, Found)>,
    /// Whether there were more of them than are kept.
    too_many: bool,
}

impl Latest {
    /// Nothing for this many slots.
    pub(crate) fn new(slots: usize) -> Self {
        Self { last: vec![NOTHING; slots], rivals: Vec::new(), too_many: false }
    }

    /// The bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.last.len() * size_of::<Found>() + self.rivals.capacity() * size_of::<(u32, Found)>()
    }

    /// Offers right rows: their entities, times and addresses.
    pub(crate) fn offer(&mut self, slots: &Slots, entities: &[u32], times: &[i64], addresses: &[u64]) {
        let mut start = 0;
        for run in entities.chunk_by(|one, next| one == next) {
            let rows = start..start + run.len();
            start = rows.end;
            if run[0] == NO_ENTITY {
                continue;
            }
            let (times, addresses) = (&times[rows.clone()], &addresses[rows]);
            if times.len() >= RUN_ROWS_MIN && times.is_sorted() {
                self.offer_run(slots, run[0], times, addresses);
            } else {
                for (time, address) in times.iter().zip(addresses) {
                    if let Some(slot) = slots.first_reached(run[0], *time) {
                        self.put(slot, Found { time: *time, address: *address });
                    }
                }
            }
        }
    }

    /// Offers rows of one entity whose times ascend.
    fn offer_run(&mut self, slots: &Slots, entity: u32, times: &[i64], addresses: &[u64]) {
        // An entity may have many slots before these rows.
        let Some(first) = times.first().and_then(|time| slots.first_reached(entity, *time)) else { return };
        let mut reached = 0;
        for slot in first..slots.of(entity).end {
            let reach = reached + slots.reaching(slot, &times[reached..]);
            if reach > reached {
                let time = times[reach - 1];
                // The last of them, and those that it cannot be told from.
                let tied = reached + times[reached..reach].partition_point(|earlier| *earlier < time);
                for address in &addresses[tied..reach] {
                    self.put(slot, Found { time, address: *address });
                }
                reached = reach;
            }
            if reached == times.len() {
                return;
            }
        }
    }

    fn put(&mut self, slot: usize, found: Found) {
        let last = &mut self.last[slot];
        if last.address == NO_ROW || found.time > last.time {
            *last = found;
        } else if found.time == last.time {
            if self.rivals.len() < RIVALS_KEPT_MAX {
                self.rivals.push((u32::try_from(slot).unwrap_or(u32::MAX), found));
            } else {
                self.too_many = true;
            }
        }
    }

    /// Whether more rows share their time than can be told apart here.
    pub(crate) fn has_too_many(&self) -> bool {
        self.too_many
    }

    /// Adds what was offered to another one for the same slots.
    pub(crate) fn unite(&mut self, other: Latest) {
        for (slot, found) in other.last.into_iter().enumerate() {
            if found.address != NO_ROW {
                self.put(slot, found);
            }
        }
        self.rivals.extend(other.rivals);
        self.too_many |= other.too_many;
    }

    /// The addresses of rows whose versions decide, ascending.
    pub(crate) fn undecided(&mut self) -> Vec<u64> {
        self.rivals.retain(|(slot, rival)| self.last[*slot as usize].time == rival.time);
        let rivals = self.rivals.iter().flat_map(|(slot, rival)| [rival.address, self.last[*slot as usize].address]);
        let mut addresses: Vec<u64> = rivals.collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Decides between rivals by their versions.
    pub(crate) fn decide(&mut self, versions: &HashMap<u64, (i64, i64)>) {
        for (slot, rival) in std::mem::take(&mut self.rivals) {
            let last = &mut self.last[slot as usize];
            if versions.get(&rival.address) > versions.get(&last.address) {
                *last = rival;
            }
        }
    }

    /// The address of each slot's answer, or [`NO_ROW`].
    pub(crate) fn choose(mut self, window: Option<Ttl>, slots: &Slots) -> Vec<u64> {
        for (start, end) in slots.ranges() {
            for slot in start + 1..end {
                // A row that reaches a later slot first is later than all that reached an earlier one.
                if self.last[slot].address == NO_ROW {
                    self.last[slot] = self.last[slot - 1];
                }
            }
        }
        let answer = |(slot, found): (usize, &Found)| {
            let (event_time, at) = (EventTime::from_micros(found.time), EventTime::from_micros(slots.time(slot)));
            if found.address != NO_ROW && Ttl::is_live(window, event_time, at) { found.address } else { NO_ROW }
        };
        self.last.iter().enumerate().map(answer).collect()
    }
}
