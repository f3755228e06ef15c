//! Entity keys as small numbers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::compute::{max, min};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use datafusion::common::HashMap;

use super::kernel;
use super::order::{integers, lengths};
use crate::error::Result;
use crate::registry::KeyColumn;

/// The number that stands for a key with a NULL in it, or one that the dictionary does not have.
pub(crate) const NO_ENTITY: u32 = u32::MAX;

/// Keys are looked up by their value itself where the values between the least and the greatest are no more than this many
/// for each key, and this many beside.
const NEAR_VALUES_PER_KEY: usize = 8;
const NEAR_VALUES_MIN: usize = 1024;

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
    /// One key column whose values are numbers of 64 bits.
    Integers(HashMap<i64, u32>),
    /// The same when all are known and lie close together: the numbers by value, from the least on. Has no new ones.
    Near(i64, Vec<u32>),
    /// One text key column.
    Texts(HashMap<Box<str>, u32>),
    /// Anything else, in Arrow's row format.
    Rows(Arc<RowConverter>, HashMap<Box<[u8]>, u32>),
}

impl KeyDictionary {
    /// An empty dictionary for keys of these columns.
    pub(crate) fn new(keys: &[KeyColumn]) -> Result<Self> {
        let types: Vec<_> = keys.iter().map(|key| key.data_type.arrow()).collect();
        Self::of_types(&types)
    }

    /// An empty dictionary for keys of these types.
    pub(crate) fn of_types(types: &[DataType]) -> Result<Self> {
        let entities = match types {
            [] => Entities::One,
            [key] => match key {
                DataType::Boolean
                | DataType::Int16
                | DataType::Int32
                | DataType::Int64
                | DataType::Date32
                | DataType::Float32
                | DataType::Float64
                | DataType::Time64(_)
                | DataType::Timestamp(_, _) => Entities::Integers(HashMap::default()),
                DataType::Utf8 => Entities::Texts(HashMap::default()),
                _ => Self::rows(types)?,
            },
            types => Self::rows(types)?,
        };
        Ok(Self { entities, count: 0 })
    }

    fn rows(types: &[DataType]) -> Result<Entities> {
        let field = |key: &DataType| match key {
            DataType::Float32 | DataType::Float64 => SortField::new(DataType::Int64),
            DataType::Interval(_) => SortField::new(DataType::Decimal128(38, 0)),
            other => SortField::new(other.clone()),
        };
        let fields = types.iter().map(field).collect();
        Ok(Entities::Rows(Arc::new(RowConverter::new(fields).map_err(kernel)?), HashMap::default()))
    }

    /// A dictionary of exactly these keys, and the number of each row's. Integers that lie close together are numbered in their
    /// order, and found without hashing.
    pub(crate) fn of_rows(types: &[DataType], columns: &[ArrayRef], rows: usize) -> Result<(Self, Vec<u32>)> {
        let mut dictionary = Self::of_types(types)?;
        if let (Entities::Integers(_), [key]) = (&dictionary.entities, columns)
            && let Some((near, count)) = near(&integers(key)?)
        {
            let dictionary = Self { entities: near, count };
            let numbers = dictionary.find(columns, rows)?;
            return Ok((dictionary, numbers));
        }
        let numbers = dictionary.intern(columns, rows)?;
        Ok((dictionary, numbers))
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
            Entities::Near(..) => return self.find(columns, rows),
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
            Entities::Near(least, numbers) => {
                let values = integers(&columns[0])?;
                let number = |value: i64| {
                    let place = usize::try_from(value.checked_sub(*least)?).ok()?;
                    numbers.get(place).copied()
                };
                integer_slots(&values, |value| number(value).unwrap_or(NO_ENTITY))
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

/// Numbers for the values that there are, in their order, where few are missing between them; and how many there are.
fn near(values: &Int64Array) -> Option<(Entities, u32)> {
    let (least, greatest) = (min(values)?, max(values)?);
    let range = usize::try_from(i128::from(greatest) - i128::from(least) + 1).ok()?;
    if range > values.len().saturating_mul(NEAR_VALUES_PER_KEY).saturating_add(NEAR_VALUES_MIN) {
        return None;
    }
    let mut numbers = vec![NO_ENTITY; range];
    for value in values.iter().flatten() {
        numbers[value.abs_diff(least) as usize] = 0;
    }
    let mut count = 0;
    for number in numbers.iter_mut().filter(|number| **number == 0) {
        *number = count;
        count += 1;
    }
    Some((Entities::Near(least, numbers), count))
}

/// A column whose equal values, in PostgreSQL's sense, are equal bit by bit: its zeros, its NaNs, and a month of thirty days.
fn normalised(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(match column.data_type() {
        DataType::Float32 | DataType::Float64 => Arc::new(integers(column)?),
        DataType::Interval(_) => {
            let lengths = lengths(column)?.with_precision_and_scale(38, 0).map_err(kernel)?;
            Arc::new(lengths)
        }
        _ => Arc::clone(column),
    })
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
    let columns = columns.iter().map(normalised).collect::<Result<Vec<_>>>()?;
    let encoded = converter.convert_columns(&columns).map_err(kernel)?;
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
    fn keys_close_together_are_found_like_others() {
        let others = [i64::MIN, i64::MAX, 0, -3, 5, i64::MIN + 1, 4, -4, 6];
        let cases = [(vec![-3, 5, 4, 5], true), (vec![i64::MIN, i64::MAX, 0], false), (vec![i64::MIN, i64::MIN + 2], true)];
        for (keys, is_near) in cases {
            let column: ArrayRef = Arc::new(keys.iter().map(|key| Some(*key)).chain([None]).collect::<Int64Array>());
            let (dictionary, numbers) =
                KeyDictionary::of_rows(&[DataType::Int64], &[Arc::clone(&column)], keys.len() + 1).unwrap();
            assert_eq!(matches!(dictionary.entities, Entities::Near(..)), is_near);
            let asked: Vec<i64> = keys.iter().chain(&others).copied().collect();
            let found = dictionary.find(&[Arc::new(Int64Array::from(asked.clone()))], asked.len()).unwrap();
            assert_eq!(numbers[..keys.len()], found[..keys.len()]);
            assert_eq!(numbers[keys.len()], NO_ENTITY);
            let mut distinct = keys.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(dictionary.len(), distinct.len());
            for (key, number) in asked.iter().zip(&found) {
                assert_eq!(*number != NO_ENTITY, keys.contains(key), "{key}");
                assert_eq!(keys.iter().position(|other| other == key).map_or(NO_ENTITY, |place| found[place]), *number);
            }
        }
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
