//! The left side of an as-of join, ordered so that history needs no order.

use arrow::array::{Array, ArrayRef, TimestampMicrosecondArray};

use super::key_dictionary::{KeyDictionary, NO_ENTITY};
use crate::error::{Error, Result, SqlState};
use crate::registry::KeyColumn;

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
    /// The slots of left rows with these keys and instants. Rows with a NULL in either have none.
    pub(crate) fn new(keys: &[KeyColumn], columns: &[ArrayRef], instants: &TimestampMicrosecondArray) -> Result<Self> {
        let count = u32::try_from(instants.len())
            .map_err(|_| Error::new(SqlState::ProgramLimitExceeded, "too many rows on the left side of an as-of join"))?;
        let mut entities = KeyDictionary::new(keys)?;
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

    /// The first slot of `entity` whose instant is not before `event_time`.
    pub(crate) fn first_not_before(&self, entity: u32, event_time: i64) -> Option<usize> {
        let (start, end) = self.range(entity as usize);
        let place = start + self.times[start..end].partition_point(|time| *time < event_time);
        (place < end).then_some(place)
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
    pub(crate) fn row(&self, slot: usize) -> usize {
        self.rows[slot] as usize
    }

    /// The bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.times.len() * 12 + self.starts.len() * 4 + self.entities.len() * 48
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;
    use crate::types::SqlType;

    #[test]
    fn slots_are_sorted_and_rows_that_cannot_match_have_none() {
        let key = KeyColumn { name: "k".into(), data_type: SqlType::BigInt };
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), Some(8), Some(7), None, Some(7)]));
        let instants = TimestampMicrosecondArray::from(vec![Some(30), Some(5), Some(10), Some(1), None]);
        let slots = Slots::new(&[key], &[keys], &instants).unwrap();
        assert_eq!(slots.len(), 3);
        assert_eq!(slots.bounds(), Some((5, 30)));
        assert_eq!(slots.first_not_before(0, 10).map(|slot| slots.row(slot)), Some(2));
        assert_eq!(slots.first_not_before(0, 11).map(|slot| slots.row(slot)), Some(0));
        assert_eq!(slots.first_not_before(0, 31), None);
    }
}
