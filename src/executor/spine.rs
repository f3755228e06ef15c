//! The left side of an as-of join, ordered so that the right side needs no order.

use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::datatypes::DataType;

use super::as_of_side::Bound;
use super::key_dictionary::{KeyDictionary, NO_ENTITY};
use crate::error::{Error, Result, SqlState};

/// What the left rows ask, one value a row.
pub(crate) struct Asked<'a> {
    /// The keys, column by column.
    pub(crate) keys: &'a [ArrayRef],
    /// The instants, as numbers that grow in the direction in which answers are looked for.
    pub(crate) times: &'a Int64Array,
    /// What each row may know, where that differs from row to row.
    pub(crate) known: Option<&'a Int64Array>,
}

/// The left rows that can match, as slots sorted by entity and instant.
#[derive(Debug)]
pub(crate) struct Slots {
    entities: KeyDictionary,
    bound: Bound,
    /// The slots of entity `e` are `starts[e]..starts[e + 1]`.
    starts: Vec<u32>,
    /// The instant of each slot.
    times: Vec<i64>,
    /// The left row of each slot.
    rows: Vec<u32>,
    knowledge: Option<Knowledge>,
}

/// What the slots know.
#[derive(Debug)]
pub(crate) struct Knowledge {
    /// The knowledge instant of each slot.
    pub(crate) known: Vec<i64>,
    /// The least over a slot and those after it of its entity: what was committed by then, all of them know.
    pub(crate) floor: Vec<i64>,
    /// The greatest over the same slots: what was committed later, none of them knows.
    pub(crate) ceiling: Vec<i64>,
}

impl Slots {
    /// The slots of left rows with keys of these types. Rows with a NULL in what they ask have none.
    pub(crate) fn new(types: &[DataType], asked: &Asked<'_>, bound: Bound) -> Result<Self> {
        let times = asked.times;
        let count = u32::try_from(times.len())
            .map_err(|_| Error::new(SqlState::ProgramLimitExceeded, "too many rows on the left side of an as-of join"))?;
        let (entities, numbers) = KeyDictionary::of_rows(types, asked.keys, times.len())?;
        let mut starts = vec![0_u32; entities.len() + 1];
        let can_match =
            |row: usize| numbers[row] != NO_ENTITY && times.is_valid(row) && asked.known.is_none_or(|known| known.is_valid(row));
        for row in (0..times.len()).filter(|row| can_match(*row)) {
            starts[numbers[row] as usize + 1] += 1;
        }
        for entity in 1..starts.len() {
            starts[entity] += starts[entity - 1];
        }
        let total = starts.last().copied().unwrap_or(0) as usize;
        let mut slots = vec![(0_i64, 0_u32); total];
        let mut next = starts.clone();
        for row in 0..count {
            if can_match(row as usize) {
                let place = &mut next[numbers[row as usize] as usize];
                slots[*place as usize] = (times.value(row as usize), row);
                *place += 1;
            }
        }
        for range in starts.windows(2) {
            slots[range[0] as usize..range[1] as usize].sort_unstable();
        }
        let (times, rows) = slots.into_iter().unzip();
        let mut slots = Self { entities, bound, starts, times, rows, knowledge: None };
        slots.knowledge = asked.known.map(|known| slots.knowledge_of(known));
        Ok(slots)
    }

    fn knowledge_of(&self, known: &Int64Array) -> Knowledge {
        let known: Vec<i64> = self.rows.iter().map(|row| known.value(*row as usize)).collect();
        let (mut floor, mut ceiling) = (known.clone(), known.clone());
        for (start, end) in self.ranges() {
            for slot in (start + 1..end).rev() {
                floor[slot - 1] = floor[slot - 1].min(floor[slot]);
                ceiling[slot - 1] = ceiling[slot - 1].max(ceiling[slot]);
            }
        }
        Knowledge { known, floor, ceiling }
    }

    /// How many slots.
    pub(crate) fn len(&self) -> usize {
        self.times.len()
    }

    /// The least and the greatest instant; `None` where no row can match.
    pub(crate) fn bounds(&self) -> Option<(i64, i64)> {
        Some((*self.times.iter().min()?, *self.times.iter().max()?))
    }

    /// The entities of right rows, as numbers; [`NO_ENTITY`] for those that no left row has.
    pub(crate) fn find(&self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        self.entities.find(columns, rows)
    }

    /// The first slot of `entity` that a row of this time can answer.
    pub(crate) fn first_reached(&self, entity: u32, row_time: i64) -> Option<usize> {
        let (start, end) = self.range(entity as usize);
        let times = &self.times[start..end];
        let place = match self.bound {
            Bound::Inclusive => times.partition_point(|time| *time < row_time),
            Bound::Strict => times.partition_point(|time| *time <= row_time),
        };
        (start + place < end).then_some(start + place)
    }

    /// How many of these times, which ascend, reach a slot: from the first on.
    pub(crate) fn reaching(&self, slot: usize, row_times: &[i64]) -> usize {
        let at = self.times[slot];
        match self.bound {
            Bound::Inclusive => row_times.partition_point(|time| *time <= at),
            Bound::Strict => row_times.partition_point(|time| *time < at),
        }
    }

    /// An entity's slots.
    pub(crate) fn of(&self, entity: u32) -> std::ops::Range<usize> {
        let (start, end) = self.range(entity as usize);
        start..end
    }

    /// Each entity's slots.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.starts.len() - 1).map(|entity| self.range(entity))
    }

    fn range(&self, entity: usize) -> (usize, usize) {
        (self.starts[entity] as usize, self.starts[entity + 1] as usize)
    }

    /// The instant of a slot.
    pub(crate) fn time(&self, slot: usize) -> i64 {
        self.times[slot]
    }

    /// The left row of a slot.
    pub(crate) fn row(&self, slot: usize) -> u32 {
        self.rows[slot]
    }

    /// What the slots know, where that differs from row to row.
    pub(crate) fn knowledge(&self) -> Option<&Knowledge> {
        self.knowledge.as_ref()
    }

    /// The bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        let knowledge = if self.knowledge.is_some() { 24 } else { 0 };
        self.times.len() * (12 + knowledge) + self.starts.len() * 4 + self.entities.len() * 48
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn slots(bound: Bound) -> Slots {
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), Some(8), Some(7), None, Some(7), Some(7)]));
        let times = Int64Array::from(vec![Some(30), Some(5), Some(10), Some(1), None, Some(40)]);
        let known = Int64Array::from(vec![Some(3), Some(5), Some(9), Some(1), Some(1), Some(6)]);
        Slots::new(&[DataType::Int64], &Asked { keys: &[keys], times: &times, known: Some(&known) }, bound).unwrap()
    }

    #[test]
    fn slots_are_sorted_and_rows_that_cannot_match_have_none() {
        let slots = slots(Bound::Inclusive);
        assert_eq!(slots.len(), 4);
        assert_eq!(slots.bounds(), Some((5, 40)));
        let reached = |time| slots.first_reached(0, time).map(|slot| slots.row(slot));
        assert_eq!([reached(10), reached(11), reached(31), reached(41)], [Some(2), Some(0), Some(5), None]);
        let knowledge = slots.knowledge().unwrap();
        assert_eq!(knowledge.known, [9, 3, 6, 5]);
        assert_eq!(knowledge.floor, [3, 3, 6, 5]);
        assert_eq!(knowledge.ceiling, [9, 6, 6, 5]);
    }

    #[test]
    fn a_strict_bound_leaves_the_instant_itself_out() {
        let slots = slots(Bound::Strict);
        let reached = |time| slots.first_reached(0, time).map(|slot| slots.row(slot));
        assert_eq!([reached(9), reached(10), reached(39), reached(40)], [Some(2), Some(0), Some(5), None]);
    }
}
