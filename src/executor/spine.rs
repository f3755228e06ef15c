//! The left side of an as-of join, ordered so that history needs no order.

use arrow::array::{Array, ArrayRef, Int64Array};

use super::as_of_side::Bound;
use super::key_dictionary::{KeyDictionary, NO_ENTITY};
use crate::error::{Error, Result, SqlState};

/// The left rows that can match, as slots sorted by entity and instant.
#[derive(Debug)]
pub(crate) struct Slots {
    entities: KeyDictionary,
    /// The slots of entity `e` are `starts[e]..starts[e + 1]`.
    starts: Vec<u32>,
    /// The instant of each slot.
    times: Vec<i64>,
    /// The left row of each slot.
    rows: Vec<u32>,
}

impl Slots {
    /// The slots of left rows with these keys and instants; `entities` is empty and made for such keys. Rows with a NULL in
    /// either have none.
    pub(crate) fn new(mut entities: KeyDictionary, columns: &[ArrayRef], instants: &Int64Array) -> Result<Self> {
        let count = u32::try_from(instants.len())
            .map_err(|_| Error::new(SqlState::ProgramLimitExceeded, "too many rows on the left side of an as-of join"))?;
        let numbers = entities.intern(columns, instants.len())?;
        let mut starts = vec![0_u32; entities.len() + 1];
        let can_match = |row: usize| numbers[row] != NO_ENTITY && !instants.is_null(row);
        for row in (0..instants.len()).filter(|row| can_match(*row)) {
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
                slots[*place as usize] = (instants.value(row as usize), row);
                *place += 1;
            }
        }
        for range in starts.windows(2) {
            slots[range[0] as usize..range[1] as usize].sort_unstable();
        }
        let (times, rows) = slots.into_iter().unzip();
        Ok(Self { entities, starts, times, rows })
    }

    /// How many slots.
    pub(crate) fn len(&self) -> usize {
        self.times.len()
    }

    /// The earliest and the latest instant; `None` where no row can match.
    pub(crate) fn bounds(&self) -> Option<(i64, i64)> {
        Some((*self.times.iter().min()?, *self.times.iter().max()?))
    }

    /// The entities of history rows, as numbers; [`NO_ENTITY`] for those that no left row has.
    pub(crate) fn find(&self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        self.entities.find(columns, rows)
    }

    /// The first slot of `entity` that a row of `event_time` can answer.
    pub(crate) fn first_answered(&self, entity: u32, event_time: i64, bound: Bound) -> Option<usize> {
        let (start, end) = self.range(entity as usize);
        let times = &self.times[start..end];
        let place = match bound {
            Bound::Inclusive => times.partition_point(|time| *time < event_time),
            Bound::Strict => times.partition_point(|time| *time <= event_time),
        };
        (place < times.len()).then_some(start + place)
    }

    /// Each entity's slots.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.starts.len() - 1).map(|entity| self.range(entity))
    }

    fn range(&self, entity: usize) -> (usize, usize) {
        (self.starts[entity] as usize, self.starts[entity + 1] as usize)
    }

    /// How many entities the left rows have.
    pub(crate) fn entities(&self) -> usize {
        self.starts.len() - 1
    }

    /// The instant of a slot.
    pub(crate) fn time(&self, slot: usize) -> i64 {
        self.times[slot]
    }

    /// The left row of a slot.
    pub(crate) fn row(&self, slot: usize) -> usize {
        self.rows[slot] as usize
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::DataType;

    use super::*;

    #[test]
    fn slots_are_sorted_and_rows_that_cannot_match_have_none() {
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), Some(8), Some(7), None, Some(7)]));
        let instants = Int64Array::from(vec![Some(30), Some(5), Some(10), Some(1), None]);
        let slots = Slots::new(KeyDictionary::of_types(&[DataType::Int64]).unwrap(), &[keys], &instants).unwrap();
        assert_eq!(slots.len(), 3);
        assert_eq!(slots.bounds(), Some((5, 30)));
        let first = |event_time, bound| slots.first_answered(0, event_time, bound).map(|slot| slots.row(slot));
        assert_eq!(first(10, Bound::Inclusive), Some(2));
        assert_eq!(first(10, Bound::Strict), Some(0));
        assert_eq!(first(11, Bound::Inclusive), Some(0));
        assert_eq!(first(30, Bound::Strict), None);
        assert_eq!(first(31, Bound::Inclusive), None);
    }
}
