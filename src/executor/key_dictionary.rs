//! Entity keys as small numbers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::HashMap;

use super::kernel;
use crate::error::Result;
use crate::registry::KeyColumn;

/// The number that stands for a key with a NULL in it, or one that the dictionary does not have.
pub(crate) const NO_ENTITY: u32 = u32::MAX;

/// A number for each entity key, from 0 up in the order in which they were first met.
#[derive(Debug)]
pub(crate) struct KeyDictionary {
    entities: Entities,
    count: u32,
}

#[derive(Debug)]
enum Entities {
    /// A view without entities: one group.
    One,
    /// One key column whose values are whole numbers, or days, or instants.
    Integers(HashMap<i64, u32>),
    /// One text key column.
    Texts(HashMap<Box<str>, u32>),
    /// Anything else, in Arrow's row format.
    Rows(Arc<RowConverter>, HashMap<Box<[u8]>, u32>),
}

impl KeyDictionary {
    /// An empty dictionary for a view's keys.
    pub(crate) fn new(keys: &[KeyColumn]) -> Result<Self> {
        let types: Vec<DataType> = keys.iter().map(|key| key.data_type.arrow()).collect();
        Self::of_types(&types)
    }

    /// An empty dictionary for keys of these types.
    pub(crate) fn of_types(types: &[DataType]) -> Result<Self> {
        let entities = match types {
            [] => Entities::One,
            [
                DataType::Boolean
                | DataType::Int8
                | DataType::Int16
                | DataType::Int32
                | DataType::Int64
                | DataType::Date32
                | DataType::Timestamp(..),
            ] => Entities::Integers(HashMap::default()),
            [DataType::Utf8] => Entities::Texts(HashMap::default()),
            types => {
                let fields = types.iter().cloned().map(SortField::new).collect();
                Entities::Rows(Arc::new(RowConverter::new(fields).map_err(kernel)?), HashMap::default())
            }
        };
        Ok(Self { entities, count: 0 })
    }

    /// How many entities it has.
    pub(crate) fn len(&self) -> usize {
        self.count as usize
    }

    /// The numbers of these keys, one a row; keys not met before get a new one.
    pub(crate) fn intern(&mut self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let count = &mut self.count;
        let mut next = || {
            let number = *count;
            *count += 1;
            number
        };
        Ok(match &mut self.entities {
            Entities::One => {
                *count = 1;
                vec![0; rows]
            }
            Entities::Integers(map) => {
                let values = integers(&columns[0])?;
                integer_slots(&values, |value| *map.entry(value).or_insert_with(&mut next))
            }
            Entities::Texts(map) => text_slots(columns[0].as_string::<i32>(), |value| match map.get(value) {
                Some(number) => *number,
                None => *map.entry(value.into()).or_insert_with(&mut next),
            }),
            Entities::Rows(converter, map) => row_slots(converter, columns, rows, |value| match map.get(value) {
                Some(number) => *number,
                None => *map.entry(value.into()).or_insert_with(&mut next),
            })?,
        })
    }

    /// The numbers of these keys, one a row; [`NO_ENTITY`] for those it does not have.
    pub(crate) fn find(&self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        Ok(match &self.entities {
            Entities::One => vec![if self.count == 0 { NO_ENTITY } else { 0 }; rows],
            Entities::Integers(map) => {
                let values = integers(&columns[0])?;
                integer_slots(&values, |value| map.get(&value).copied().unwrap_or(NO_ENTITY))
            }
            Entities::Texts(map) => {
                text_slots(columns[0].as_string::<i32>(), |value| map.get(value).copied().unwrap_or(NO_ENTITY))
            }
            Entities::Rows(converter, map) => {
                row_slots(converter, columns, rows, |value| map.get(value).copied().unwrap_or(NO_ENTITY))?
            }
        })
    }
}

/// Whole numbers, days and instants as 64 bits.
fn integers(column: &ArrayRef) -> Result<Int64Array> {
    let widened = match column.data_type() {
        DataType::Int64 => return Ok(column.as_primitive::<Int64Type>().clone()),
        DataType::Date32 => cast(&cast(column, &DataType::Int32).map_err(kernel)?, &DataType::Int64),
        _ => cast(column, &DataType::Int64),
    };
    Ok(widened.map_err(kernel)?.as_primitive::<Int64Type>().clone())
}

fn integer_slots(values: &Int64Array, mut number: impl FnMut(i64) -> u32) -> Vec<u32> {
    // Equal neighbours are common, because batches are stored sorted by key: they cost no look-up.
    let mut last = (0_i64, NO_ENTITY, false);
    let mut slot = |value: i64| {
        if last.2 && last.0 == value {
            return last.1;
        }
        last = (value, number(value), true);
        last.1
    };
    if values.null_count() == 0 {
        return values.values().iter().map(|value| slot(*value)).collect();
    }
    values.iter().map(|value| value.map_or(NO_ENTITY, &mut slot)).collect()
}

fn text_slots(values: &StringArray, mut number: impl FnMut(&str) -> u32) -> Vec<u32> {
    let mut slots = Vec::with_capacity(values.len());
    let mut last: Option<(&str, u32)> = None;
    for index in 0..values.len() {
        if values.is_null(index) {
            slots.push(NO_ENTITY);
            continue;
        }
        let value = values.value(index);
        let slot = match last {
            Some((previous, slot)) if previous == value => slot,
            _ => number(value),
        };
        last = Some((value, slot));
        slots.push(slot);
    }
    slots
}

fn row_slots(
    converter: &RowConverter,
    columns: &[ArrayRef],
    rows: usize,
    mut number: impl FnMut(&[u8]) -> u32,
) -> Result<Vec<u32>> {
    let encoded = converter.convert_columns(columns).map_err(kernel)?;
    let slot = |row: usize| {
        if columns.iter().any(|column| column.is_null(row)) { NO_ENTITY } else { number(encoded.row(row).data()) }
    };
    Ok((0..rows).map(slot).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SqlType;

    fn key(data_type: SqlType) -> KeyColumn {
        KeyColumn { name: "k".into(), data_type }
    }

    #[test]
    fn equal_keys_share_a_number_and_null_has_none() {
        let mut dictionary = KeyDictionary::new(&[key(SqlType::Text)]).unwrap();
        let column: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("b"), Some("a")]));
        assert_eq!(dictionary.intern(&[column], 4).unwrap(), [0, NO_ENTITY, 1, 0]);
        let column: ArrayRef = Arc::new(StringArray::from(vec!["c", "b"]));
        assert_eq!(dictionary.find(&[column], 2).unwrap(), [NO_ENTITY, 1]);
    }

    #[test]
    fn composite_keys_do_not_run_together() {
        let mut dictionary = KeyDictionary::new(&[key(SqlType::Text), key(SqlType::Text)]).unwrap();
        let first: ArrayRef = Arc::new(StringArray::from(vec!["ab", "a"]));
        let second: ArrayRef = Arc::new(StringArray::from(vec!["c", "bc"]));
        assert_eq!(dictionary.intern(&[first, second], 2).unwrap(), [0, 1]);
    }

    #[test]
    fn a_view_without_entities_is_one_group() {
        let mut dictionary = KeyDictionary::new(&[]).unwrap();
        assert_eq!(dictionary.find(&[], 2).unwrap(), [NO_ENTITY, NO_ENTITY]);
        assert_eq!(dictionary.intern(&[], 2).unwrap(), [0, 0]);
        assert_eq!(dictionary.len(), 1);
    }
}
