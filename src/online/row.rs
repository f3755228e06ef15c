//! Online rows as packed bytes.
//!
//! ```text
//!  0  u8     format version: 1
//!  1  u8     flags: bit 0, a retraction
//!  2  u16    features in this row: the first so many of the view's
//!  4  i64    event time, microseconds
//! 12  i64    commit time, microseconds
//! 20  i64    sequence
//! 28  ..     one bit a feature, set where it has a value
//!     ..     the features of a fixed width, in order; zeros where there is no value
//!     ..     for each other feature, in order, u32: where its bytes end, counted from the end of these numbers
//!     ..     those bytes
//! ```
//!
//! Numbers are little endian, instants microseconds since 1970-01-01 UTC. A feature is found by arithmetic, without touching the
//! others. Bytes 4 to 28 order the rows of an entity, compared number by number: the greatest is the newest. The script on the
//! Redis side reads them at these places.
//!
//! A row with another format version is none that this text describes. One with fewer features than the view has now is older
//! than the features it lacks: they have no value. A reader must drop a retraction, which says that the entity has no value since
//! its event time; a row whose event time is more than the view's TTL ago; and one whose event time has not come.
//!
//! | type | bytes |
//! |---|---|
//! | `boolean` | 1: 0 or 1 |
//! | `smallint`, `integer`, `bigint` | 2, 4, 8 |
//! | `real`, `double precision` | 4, 8: IEEE 754 |
//! | `numeric(p, s)` | 16: the number times 10 to the power of s, as an integer |
//! | `date` | 4: days since 1970-01-01 |
//! | `time` | 8: microseconds since midnight |
//! | `timestamp`, `timestamptz` | 8: microseconds |
//! | `interval` | 16: i32 months, i32 days, i64 nanoseconds |
//! | `uuid` | 16, in the order they are written |
//! | `real[n]` of a fixed length | 4 for each |
//! | `text`, `json`, `bytea` | as many as there are; text is UTF-8 |
//! | other arrays | u32: how many elements; one bit an element, set where it has a value; then elements of a fixed width side by side, zeros where there is no value, or for each element the u32 where its bytes end, counted from the end of these numbers, and those bytes |
//!
//! A bit of number n is the bit of value 2^(n mod 8) of byte n / 8. The keys are in the row's key, as [`key`](super::key) says, and
//! not repeated here. `tests/it/layout.rs` reads a row by this text alone.

mod read;
mod write;

pub use read::{ColumnReader, column_reader};

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondBuilder};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use bytes::Bytes;

use super::key::{EntityKey, entity_keys, in_type};
use crate::error::{Error, Result, SqlState};
use crate::registry::FeatureView;
use crate::time::{CommitTime, EventTime};
use crate::types::SqlType;

/// The names of the history columns that order rows and mark retractions; the offline store gives them.
const CREATED_TIME: &str = "created_time";
const SEQUENCE: &str = "__sequence";
const RETRACTED: &str = "__retracted";

const FORMAT_VERSION: u8 = 1;
const RETRACTION: u8 = 1;
const HEADER_BYTES: usize = 28;

/// What orders the rows of one entity: the greatest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowVersion {
    /// When it became true.
    pub event_time: EventTime,
    /// When the store learned it.
    pub created_time: CommitTime,
    /// The order among rows equal in both.
    pub sequence: i64,
}

/// A row as the online store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedRow(Bytes);

impl PackedRow {
    /// The row that these bytes, read from a store, hold; `XX001` if they hold none.
    pub fn from_bytes(bytes: Bytes) -> Result<Self> {
        if bytes.len() < HEADER_BYTES || bytes[0] != FORMAT_VERSION {
            return Err(corrupt());
        }
        Ok(Self(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Its place among the rows of its entity.
    pub fn version(&self) -> RowVersion {
        RowVersion {
            event_time: EventTime::from_micros(self.number(4)),
            created_time: CommitTime::from_micros(self.number(12)),
            sequence: self.number(20),
        }
    }

    /// Its event time, as a packed feature of type `timestamptz` is.
    pub fn event_time_bytes(&self) -> &[u8] {
        &self.0[4..12]
    }

    /// Whether it says that the entity has no value.
    pub fn is_retraction(&self) -> bool {
        self.0[1] & RETRACTION != 0
    }

    fn number(&self, at: usize) -> i64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[at..at + 8]);
        i64::from_le_bytes(bytes)
    }

    fn features(&self) -> usize {
        usize::from(u16::from_le_bytes([self.0[2], self.0[3]]))
    }
}

/// The error for a row, or a value in one, whose bytes are not what they should be: `XX001`.
pub fn corrupt() -> Error {
    Error::new(SqlState::DataCorrupted, "a row in the online store does not decode")
        .hint("Rows are rebuilt from the offline store when the feature view's online rows are cleared.")
}

/// How the rows of one view are packed.
#[derive(Clone, Debug)]
pub struct RowLayout {
    view: Arc<FeatureView>,
    slots: Vec<Slot>,
    /// The bytes of the fixed section of a row with the first n features.
    fixed_bytes: Vec<usize>,
    /// How many of the first n features have no fixed width.
    sized: Vec<usize>,
}

/// Where a feature lies.
#[derive(Clone, Copy, Debug)]
enum Slot {
    /// So many bytes, from this place of the fixed section.
    Fixed { at: usize, width: usize },
    /// The bytes of this number among those with a length of their own.
    Sized(usize),
}

impl RowLayout {
    /// The layout of `view`'s rows.
    pub fn new(view: &FeatureView) -> Self {
        let (mut fixed, mut sized) = (0, 0);
        let mut layout = Self { view: Arc::new(view.clone()), slots: Vec::new(), fixed_bytes: vec![fixed], sized: vec![sized] };
        for feature in &view.features {
            layout.slots.push(match fixed_width(&feature.data_type) {
                Some(width) => {
                    fixed += width;
                    Slot::Fixed { at: fixed - width, width }
                }
                None => {
                    sized += 1;
                    Slot::Sized(sized - 1)
                }
            });
            layout.fixed_bytes.push(fixed);
            layout.sized.push(sized);
        }
        layout
    }

    /// Packs rows of the view's history schema.
    pub fn pack(&self, rows: &RecordBatch) -> Result<Vec<(EntityKey, PackedRow)>> {
        let view = &self.view;
        let keys: Vec<_> = view.keys.iter().map(|key| column(rows, &key.name).cloned()).collect::<Result<_>>()?;
        let keys = match keys.is_empty() {
            true => vec![Some(EntityKey::global()); rows.num_rows()],
            false => entity_keys(&view.keys, &keys)?,
        };
        let instants = |name: &str| -> Result<_> {
            Ok(in_type(column(rows, name)?, &SqlType::TimestampTz)?.as_primitive::<TimestampMicrosecondType>().clone())
        };
        let (event_times, created_times) = (instants(&view.event_time)?, instants(CREATED_TIME)?);
        let sequences = column(rows, SEQUENCE)?.as_primitive::<Int64Type>();
        let retracted = column(rows, RETRACTED)?.as_boolean();
        let mut features = Vec::with_capacity(view.features.len());
        for feature in &view.features {
            features.push(in_type(column(rows, &feature.name)?, &feature.data_type)?.into_owned());
        }
        let typed = view.features.iter().zip(&features);
        let writers: Vec<_> = typed.map(|(feature, column)| write::writer(&feature.data_type, column)).collect::<Result<_>>()?;

        let mut packed = Vec::with_capacity(rows.num_rows());
        for (row, key) in keys.into_iter().enumerate() {
            let key = key.ok_or_else(|| Error::internal("a stored row without a key"))?;
            let mut bytes = Vec::with_capacity(HEADER_BYTES + self.slots.len() + self.fixed_bytes[self.slots.len()]);
            bytes.push(FORMAT_VERSION);
            bytes.push(if retracted.value(row) { RETRACTION } else { 0 });
            bytes.extend_from_slice(&feature_count(self.slots.len())?.to_le_bytes());
            bytes.extend_from_slice(&event_times.value(row).to_le_bytes());
            bytes.extend_from_slice(&created_times.value(row).to_le_bytes());
            bytes.extend_from_slice(&sequences.value(row).to_le_bytes());
            self.pack_features(row, &features, &writers, &mut bytes)?;
            packed.push((key, PackedRow(Bytes::from(bytes))));
        }
        Ok(packed)
    }

    fn pack_features(&self, row: usize, columns: &[ArrayRef], writers: &[write::Writer<'_>], bytes: &mut Vec<u8>) -> Result<()> {
        let bitmap = bytes.len();
        bytes.resize(bitmap + self.slots.len().div_ceil(8), 0);
        for (place, column) in columns.iter().enumerate() {
            if column.is_valid(row) {
                bytes[bitmap + place / 8] |= 1 << (place % 8);
            }
        }
        for ((slot, column), write) in self.slots.iter().zip(columns).zip(writers) {
            match *slot {
                Slot::Fixed { .. } if column.is_valid(row) => write(row, bytes)?,
                Slot::Fixed { width, .. } => bytes.resize(bytes.len() + width, 0),
                Slot::Sized(_) => {}
            }
        }
        let ends = bytes.len();
        let start = ends + 4 * self.sized[self.slots.len()];
        bytes.resize(start, 0);
        for ((slot, column), write) in self.slots.iter().zip(columns).zip(writers) {
            if let Slot::Sized(number) = *slot {
                if column.is_valid(row) {
                    write(row, bytes)?;
                }
                let end = write::size(bytes.len() - start)?;
                bytes[ends + 4 * number..ends + 4 * number + 4].copy_from_slice(&end.to_le_bytes());
            }
        }
        Ok(())
    }

    /// Unpacks event times and the features at these places (in the order of the view's features), one row a slot; NULLs
    /// where the slot is `None`. The first array is the event time. Costs the features asked for.
    pub fn unpack(&self, rows: &[Option<&PackedRow>], features: &[usize]) -> Result<Vec<ArrayRef>> {
        let mut event_times = TimestampMicrosecondBuilder::with_capacity(rows.len()).with_data_type(SqlType::TimestampTz.arrow());
        for row in rows {
            event_times.append_option(row.map(|row| row.version().event_time.micros()));
        }
        let mut columns: Vec<ArrayRef> = vec![Arc::new(event_times.finish())];
        for &place in features {
            let feature = self.view.features.get(place).ok_or_else(|| Error::internal(format!("no feature {place}")))?;
            let mut reader = column_reader(&feature.data_type, rows.len())?;
            for row in rows {
                match row {
                    Some(row) => reader.append(self.value(row, place)?)?,
                    None => reader.append(None)?,
                }
            }
            columns.push(reader.finish()?);
        }
        Ok(columns)
    }

    /// The packed bytes of the feature at this place; `None` where it has no value, or the row is older than the feature.
    /// `XX001` where the row is not of this layout.
    pub fn value<'a>(&self, row: &'a PackedRow, place: usize) -> Result<Option<&'a [u8]>> {
        let count = row.features();
        let bytes = row.as_bytes();
        if count > self.slots.len() {
            return Err(corrupt());
        }
        if place >= count {
            return Ok(None);
        }
        let bits = bytes.get(HEADER_BYTES + place / 8).ok_or_else(corrupt)?;
        if bits & (1 << (place % 8)) == 0 {
            return Ok(None);
        }
        let fixed = HEADER_BYTES + count.div_ceil(8);
        let value = match self.slots[place] {
            Slot::Fixed { at, width } => bytes.get(fixed + at..fixed + at + width),
            Slot::Sized(number) => {
                let ends = fixed + self.fixed_bytes[count];
                let start = ends + 4 * self.sized[count];
                let end_of = |number: usize| read::size(bytes.get(ends + 4 * number..)?);
                let from = if number == 0 { Some(0) } else { end_of(number - 1) };
                from.zip(end_of(number)).and_then(|(from, to)| bytes.get(start.checked_add(from)?..start.checked_add(to)?))
            }
        };
        value.map(Some).ok_or_else(corrupt)
    }
}

/// How many elements a packed array has; `None` where the bytes are no array.
pub fn list_len(array: &[u8]) -> Option<usize> {
    read::size(array)
}

/// The packed bytes of an element of a packed array, `Some(None)` for NULL; `None` where the bytes are no array with so many
/// elements of this type.
pub fn list_element<'a>(element: &SqlType, array: &'a [u8], place: usize) -> Option<Option<&'a [u8]>> {
    let count = list_len(array).filter(|count| place < *count)?;
    let (bitmap, rest) = array[4..].split_at_checked(count.div_ceil(8))?;
    let is_present = bitmap[place / 8] & (1 << (place % 8)) != 0;
    let value = match fixed_width(element) {
        Some(width) => rest.get(place.checked_mul(width)?..)?.get(..width)?,
        None => {
            let (ends, values) = rest.split_at_checked(count.checked_mul(4)?)?;
            let from = if place == 0 { 0 } else { read::size(&ends[4 * place - 4..])? };
            values.get(from..read::size(&ends[4 * place..])?)?
        }
    };
    Some(is_present.then_some(value))
}

/// Gives the packed bytes of a column's values, in order; `None` for NULL. The column has the Arrow form of `data_type`.
pub fn pack_column(data_type: &SqlType, column: &ArrayRef, mut add: impl FnMut(Option<&[u8]>)) -> Result<()> {
    let column = in_type(column, data_type)?;
    let write = write::writer(data_type, &column)?;
    let mut bytes = Vec::new();
    for row in 0..column.len() {
        bytes.clear();
        if column.is_valid(row) {
            write(row, &mut bytes)?;
        }
        add(column.is_valid(row).then_some(&bytes[..]));
    }
    Ok(())
}

fn feature_count(count: usize) -> Result<u16> {
    u16::try_from(count).map_err(|_too_many| Error::internal(format!("{count} features in a row")))
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    rows.column_by_name(name).ok_or_else(|| Error::internal(format!("rows to pack have no column \"{name}\"")))
}

/// The bytes of every value of a type; `None` where values have a length of their own.
fn fixed_width(data_type: &SqlType) -> Option<usize> {
    match data_type {
        SqlType::Boolean => Some(1),
        SqlType::SmallInt => Some(2),
        SqlType::Integer | SqlType::Real | SqlType::Date => Some(4),
        SqlType::BigInt | SqlType::Oid | SqlType::DoublePrecision | SqlType::Time | SqlType::Timestamp | SqlType::TimestampTz => {
            Some(8)
        }
        SqlType::Numeric { .. } | SqlType::Interval | SqlType::Uuid => Some(16),
        SqlType::Vector(length) => Some(usize::try_from(*length).unwrap_or(usize::MAX).saturating_mul(4)),
        SqlType::Text
        | SqlType::Bytea
        | SqlType::Json
        | SqlType::Name
        | SqlType::Char
        | SqlType::Array(_)
        | SqlType::Int2Vector
        | SqlType::OidVector => None,
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use tests::one_feature;
