//! The left side of a join with views: its rows, from parameters and constants, and the keys that they are joined by.

use std::ops::Range;

use arrow::array::{Array, AsArray};
use bytes::Bytes;

use super::ask::Given;
use super::keys::LOOKUP_KEYS_MAX;
use crate::error::{Error, Result};
use crate::online::key::{append_integer, append_sized};
use crate::online::row::pack_column;
use crate::types::SqlType;

/// How the rows of a left side are made: `unnest` of arrays side by side, or `VALUES`.
#[derive(Clone, Debug)]
pub struct LeftPlan {
    /// Its columns. A shorter one ends in NULLs.
    pub columns: Vec<LeftColumn>,
    /// The columns that together are the key of a service, and the types of its parts: a row where one of them is no part of a
    /// key has a row in none of the views. Empty where each view is joined by itself.
    pub service_key: Vec<(usize, SqlType)>,
}

/// A column of a left side.
#[derive(Clone, Debug)]
pub struct LeftColumn {
    /// The type of its values.
    pub data_type: SqlType,
    /// Its values.
    pub source: LeftSource,
}

/// Where the values of a column are.
#[derive(Clone, Debug)]
pub enum LeftSource {
    /// The elements of a parameter, from 0, which is an array of the column's type. NULL has none.
    Elements(usize),
    /// One by one.
    Cells(Vec<LeftCell>),
}

/// A value of a left side.
#[derive(Clone, Debug)]
pub enum LeftCell {
    /// These packed bytes; `None` for NULL.
    Constant(Option<Bytes>),
    /// A parameter, from 0, of this type, which the column's holds every value of.
    Parameter(usize, SqlType),
}

impl LeftPlan {
    /// The parameters that it takes, from 0.
    pub fn parameters(&self) -> impl Iterator<Item = usize> {
        self.columns.iter().flat_map(|column| {
            let (elements, cells) = match &column.source {
                LeftSource::Elements(parameter) => (Some(*parameter), &[][..]),
                LeftSource::Cells(cells) => (None, &cells[..]),
            };
            let of_cells = cells.iter().filter_map(|cell| match cell {
                LeftCell::Parameter(parameter, _) => Some(*parameter),
                LeftCell::Constant(_) => None,
            });
            elements.into_iter().chain(of_cells)
        })
    }

    /// The rows; `None` where there are more than a lookup may have ([`LOOKUP_KEYS_MAX`]).
    pub(super) fn rows(&self, given: &mut impl Given) -> Result<Option<LeftRows>> {
        let columns = self.columns.iter().map(|column| column.values(given)).collect::<Result<Vec<_>>>()?;
        let len = columns.iter().map(|column| column.spans.len()).max().unwrap_or(0);
        Ok((len <= LOOKUP_KEYS_MAX).then_some(LeftRows { columns, len }))
    }
}

impl LeftColumn {
    fn values(&self, given: &mut impl Given) -> Result<Values> {
        let mut values = Values::default();
        match &self.source {
            LeftSource::Elements(parameter) => {
                let array = given.value(*parameter, &SqlType::Array(Box::new(self.data_type.clone())))?;
                let elements = array.as_list_opt::<i32>().ok_or_else(|| Error::internal("an array parameter that is none"))?;
                if elements.is_valid(0) {
                    pack_column(&self.data_type, &elements.value(0), |value| values.add(value))?;
                }
            }
            LeftSource::Cells(cells) => {
                for cell in cells {
                    match cell {
                        LeftCell::Constant(value) => values.add(value.as_deref()),
                        LeftCell::Parameter(parameter, data_type) => {
                            let value = given.value(*parameter, data_type)?;
                            pack_column(&self.data_type, &value, |value| values.add(value))?;
                        }
                    }
                }
            }
        }
        Ok(values)
    }
}

/// Packed values, one after the other.
#[derive(Clone, Debug, Default)]
struct Values {
    bytes: Vec<u8>,
    /// Where each is; `None` for NULL.
    spans: Vec<Option<Range<usize>>>,
}

impl Values {
    fn add(&mut self, value: Option<&[u8]>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.spans.push(value.map(|_| start..self.bytes.len()));
    }
}

/// The rows of a left side.
#[derive(Clone, Debug)]
pub(super) struct LeftRows {
    columns: Vec<Values>,
    len: usize,
}

impl LeftRows {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A packed value; `None` for NULL.
    pub(super) fn value(&self, row: usize, column: usize) -> Option<&[u8]> {
        let values = self.columns.get(column)?;
        values.spans.get(row)?.clone().map(|span| &values.bytes[span])
    }
}

/// Adds a packed value of type `of` to a key, as a part of type `part`: the same type, or both are integers. Gives whether a key
/// can have it, without which nothing is added.
pub(super) fn append_packed(key: &mut Vec<u8>, part: &SqlType, of: &SqlType, value: &[u8]) -> bool {
    match part {
        SqlType::SmallInt | SqlType::Integer | SqlType::BigInt => {
            integer(of, value).is_some_and(|number| append_integer(key, part, number))
        }
        SqlType::Text | SqlType::Bytea => append_sized(key, value),
        _ => {
            key.extend_from_slice(value);
            true
        }
    }
}

fn integer(of: &SqlType, value: &[u8]) -> Option<i64> {
    match of {
        SqlType::SmallInt => value.try_into().ok().map(|bytes| i16::from_le_bytes(bytes).into()),
        SqlType::Integer => value.try_into().ok().map(|bytes| i32::from_le_bytes(bytes).into()),
        SqlType::BigInt => value.try_into().ok().map(i64::from_le_bytes),
        _ => None,
    }
}
