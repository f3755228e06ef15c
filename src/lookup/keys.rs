//! From parameters to entity keys.

use std::collections::HashSet;
use std::ops::Range;

use arrow::array::ArrayRef;
use bytes::Bytes;

use crate::error::{Error, Result};
use crate::online::EntityKey;
use crate::online::key::{append_integer, append_sized, entity_keys};
use crate::registry::KeyColumn;
use crate::types::SqlType;

/// The most entities one lookup may name.
pub const LOOKUP_KEYS_MAX: usize = 10_000;

/// Where a part of an entity key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartSource {
    /// These bytes, as keys hold them.
    Constant(Bytes),
    /// The values of a slot: as many alternatives as it has.
    Slot(usize),
}

/// A parameter as the part of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// The parameter, from 0.
    pub parameter: usize,
    /// Its type: the part's, another integer type, or an array of either, any of whose elements may be the part.
    pub parameter_type: SqlType,
    /// The part's type.
    pub part_type: SqlType,
}

/// How the keys of a lookup are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlan {
    /// What is taken from the parameters.
    pub slots: Vec<Slot>,
    /// The ways to make keys, each with a source for every part.
    pub alternatives: Vec<Vec<PartSource>>,
}

/// The values of a lookup's slots, encoded as parts of keys. A value that is NULL, or that no key can have, is not among them.
#[derive(Debug, Default)]
pub struct SlotValues {
    bytes: Vec<u8>,
    /// Where each value ends in `bytes`.
    value_ends: Vec<usize>,
    /// Where the values of each slot end in `value_ends`.
    slot_ends: Vec<usize>,
}

impl SlotValues {
    /// Forgets all values and keeps the space.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.value_ends.clear();
        self.slot_ends.clear();
    }

    /// Adds a number to the slot under way, whose parts are of this integer type; one that does not fit equals no key.
    pub fn add_integer(&mut self, part_type: &SqlType, number: i64) {
        if append_integer(&mut self.bytes, part_type, number) {
            self.value_ends.push(self.bytes.len());
        }
    }

    /// Adds a text or `bytea` to the slot under way.
    pub fn add_sized(&mut self, value: &[u8]) {
        if append_sized(&mut self.bytes, value) {
            self.value_ends.push(self.bytes.len());
        }
    }

    /// Adds a value of a fixed width, in the encoding of keys.
    pub fn add_encoded(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.value_ends.push(self.bytes.len());
    }

    /// Adds the values of a column, of the Arrow type of `part_type` or of another integer type, to the slot under way.
    pub fn add_column(&mut self, part_type: &SqlType, values: &ArrayRef) -> Result<()> {
        for part in parts(part_type, values)?.into_iter().flatten() {
            self.add_encoded(part.as_bytes());
        }
        Ok(())
    }

    /// Ends the slot under way: the next value belongs to the next.
    pub fn end_slot(&mut self) {
        self.slot_ends.push(self.value_ends.len());
    }

    fn slot(&self, slot: usize) -> Range<usize> {
        let start = slot.checked_sub(1).map_or(0, |before| self.slot_ends[before]);
        start..self.slot_ends[slot]
    }

    fn value(&self, value: usize) -> &[u8] {
        let start = value.checked_sub(1).map_or(0, |before| self.value_ends[before]);
        &self.bytes[start..self.value_ends[value]]
    }
}

/// The values of a column, of the Arrow type of `part_type` or of another integer type, as keys of that one part; `None` where a
/// value is NULL or does not fit.
pub fn parts(part_type: &SqlType, values: &ArrayRef) -> Result<Vec<Option<EntityKey>>> {
    // A number that does not fit becomes NULL, which no key is.
    let values = arrow::compute::cast(values, &part_type.arrow())
        .map_err(|source| Error::internal(format!("a key of type {part_type} that is none")).caused_by(source))?;
    let column = KeyColumn { name: String::new(), data_type: part_type.clone() };
    entity_keys(std::slice::from_ref(&column), &[values])
}

impl KeyPlan {
    /// The entities that these values name, each once, in the order in which they are named. `None` where more are named than
    /// a lookup may ([`LOOKUP_KEYS_MAX`]).
    pub fn entities(&self, values: &SlotValues) -> Option<Vec<EntityKey>> {
        let mut keys = Keys::default();
        for alternative in &self.alternatives {
            let choices = |source: &PartSource| match source {
                PartSource::Constant(_) => 1,
                PartSource::Slot(slot) => values.slot(*slot).len(),
            };
            let count = alternative.iter().map(choices).try_fold(1_usize, usize::checked_mul)?;
            if keys.ends.len() + count > LOOKUP_KEYS_MAX {
                return None;
            }
            let size = |source: &PartSource| match source {
                PartSource::Constant(bytes) => bytes.len(),
                PartSource::Slot(slot) => values.slot(*slot).next().map_or(0, |value| values.value(value).len()),
            };
            keys.bytes.reserve_exact(alternative.iter().map(size).sum::<usize>() * count);
            for choice in 0..count {
                // The last part changes fastest.
                let mut stride = count;
                for source in alternative {
                    match source {
                        PartSource::Constant(bytes) => keys.bytes.extend_from_slice(bytes),
                        PartSource::Slot(slot) => {
                            let slot = values.slot(*slot);
                            stride /= slot.len();
                            keys.bytes.extend_from_slice(values.value(slot.start + choice / stride % slot.len()));
                        }
                    }
                }
                keys.ends.push(keys.bytes.len());
            }
        }
        Some(keys.distinct())
    }
}

/// Keys side by side.
#[derive(Default)]
struct Keys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    /// Each key once, all of them in one allocation.
    fn distinct(self) -> Vec<EntityKey> {
        let bytes = Bytes::from(self.bytes);
        if let [_only] = self.ends[..] {
            return vec![EntityKey::from_bytes(bytes)];
        }
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let spans = starts.zip(&self.ends).map(|(start, end)| start..*end);
        let mut seen = HashSet::with_capacity(self.ends.len());
        let first = spans.filter(|span| seen.insert(&bytes[span.clone()]));
        first.map(|span| EntityKey::from_bytes(bytes.slice(span))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(parameter: usize) -> Slot {
        Slot { parameter, parameter_type: SqlType::BigInt, part_type: SqlType::SmallInt }
    }

    fn values(slots: &[&[i64]]) -> SlotValues {
        let mut values = SlotValues::default();
        for slot in slots {
            slot.iter().for_each(|number| values.add_integer(&SqlType::SmallInt, *number));
            values.end_slot();
        }
        values
    }

    /// The keys, as the numbers of their parts.
    fn keys(plan: &KeyPlan, slots: &[&[i64]]) -> Option<Vec<Vec<i16>>> {
        let keys = plan.entities(&values(slots))?;
        let numbers = |key: &EntityKey| key.as_bytes().as_chunks().0.iter().map(|part| i16::from_le_bytes(*part)).collect();
        Some(keys.iter().map(numbers).collect())
    }

    fn pair() -> KeyPlan {
        KeyPlan { slots: vec![slot(0), slot(1)], alternatives: vec![vec![PartSource::Slot(0), PartSource::Slot(1)]] }
    }

    #[test]
    fn keys_are_the_product_of_their_parts() {
        assert_eq!(keys(&pair(), &[&[1], &[2]]), Some(vec![vec![1, 2]]));
        assert_eq!(keys(&pair(), &[&[1, 2], &[3, 4]]), Some(vec![vec![1, 3], vec![1, 4], vec![2, 3], vec![2, 4]]));
        assert_eq!(keys(&pair(), &[&[1, 1, 2], &[3]]), Some(vec![vec![1, 3], vec![2, 3]]));
    }

    #[test]
    fn a_part_without_a_value_makes_no_key() {
        assert_eq!(keys(&pair(), &[&[], &[2]]), Some(vec![]));
        assert_eq!(keys(&pair(), &[&[40_000], &[2]]), Some(vec![]));
    }

    #[test]
    fn alternatives_add_up_and_are_asked_once() {
        let constant = |number: i16| PartSource::Constant(Bytes::copy_from_slice(&number.to_le_bytes()));
        let plan = KeyPlan {
            slots: vec![slot(0)],
            alternatives: vec![
                vec![PartSource::Slot(0), constant(9)],
                vec![constant(7), constant(9)],
                vec![constant(8), PartSource::Slot(0)],
            ],
        };
        assert_eq!(keys(&plan, &[&[7]]), Some(vec![vec![7, 9], vec![8, 7]]));
        assert_eq!(keys(&plan, &[&[]]), Some(vec![vec![7, 9]]));
    }

    #[test]
    fn a_view_without_entities_has_one_key() {
        let plan = KeyPlan { slots: vec![], alternatives: vec![vec![]] };
        assert_eq!(plan.entities(&values(&[])), Some(vec![EntityKey::global()]));
    }

    #[test]
    fn too_many_keys_are_left_to_the_planner() {
        let many: Vec<i64> = (0..101).collect();
        assert_eq!(keys(&pair(), &[&many, &many]), None);
        assert_eq!(keys(&pair(), &[&many[..100], &many[..100]]).unwrap().len(), LOOKUP_KEYS_MAX);
    }
}
