//! Entity keys as bytes.
//!
//! Each part delimits itself: a fixed width by its type, or a length before the bytes. So the keys `('ab', 'c')` and
//! `('a', 'bc')` differ. The types are those of the view and need no tags; numbers are little endian.
//!
//! | type | bytes |
//! |---|---|
//! | `boolean` | 1 |
//! | `smallint`, `integer`, `bigint` | 2, 4, 8 |
//! | `date` | 4: days since 1970-01-01 |
//! | `timestamp`, `timestamptz` | 8: microseconds since 1970-01-01 (UTC) |
//! | `uuid` | 16 |
//! | `text`, `bytea` | 4 of length, then as many |

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{ArrowPrimitiveType, Date32Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use uuid::Uuid;

use crate::error::{Error, Result, SqlState};
use crate::registry::{KeyColumn, ObjectId};
use crate::types::SqlType;

/// The key of one entity: its key columns in one unambiguous encoding, in which equal keys are equal bytes and no two
/// composite keys collide.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityKey(Bytes);

impl EntityKey {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key whose parts, in order, these bytes are.
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The key of the one row that a view without entities has.
    pub fn global() -> Self {
        Self(Bytes::new())
    }
}

/// The key of one row: an entity of a view.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// The view.
    pub view: ObjectId,
    /// The entity.
    pub entity: EntityKey,
}

/// Encodes keys column-wise: one slot per row of `columns`, `None` where a part is NULL. `columns` are in the order and of
/// the Arrow types of `keys`. For a view without keys there is [`EntityKey::global`].
pub fn entity_keys(keys: &[KeyColumn], columns: &[ArrayRef]) -> Result<Vec<Option<EntityKey>>> {
    if keys.len() != columns.len() {
        return Err(Error::internal(format!("{} key columns where {} belong", columns.len(), keys.len())));
    }
    let rows = columns.first().map_or(0, |column| column.len());
    let mut encoded: Vec<Option<Vec<u8>>> = vec![Some(Vec::with_capacity(8 * keys.len())); rows];
    for (key, column) in keys.iter().zip(columns) {
        let column = in_type(column, &key.data_type)?;
        append_part(&mut encoded, &key.data_type, &column)?;
    }
    Ok(encoded.into_iter().map(|bytes| bytes.map(|bytes| EntityKey(Bytes::from(bytes)))).collect())
}

/// Adds a part of an integer type to a key; gives whether the number fits the type, without which nothing is added.
pub fn append_integer(key: &mut Vec<u8>, data_type: &SqlType, number: i64) -> bool {
    match data_type {
        SqlType::SmallInt => i16::try_from(number).map(|number| key.extend_from_slice(&number.to_le_bytes())).is_ok(),
        SqlType::Integer => i32::try_from(number).map(|number| key.extend_from_slice(&number.to_le_bytes())).is_ok(),
        SqlType::BigInt => {
            key.extend_from_slice(&number.to_le_bytes());
            true
        }
        _ => false,
    }
}

/// Adds a part of type `text` or `bytea` to a key; gives whether it is short enough.
pub fn append_sized(key: &mut Vec<u8>, part: &[u8]) -> bool {
    let Ok(length) = u32::try_from(part.len()) else { return false };
    key.extend_from_slice(&length.to_le_bytes());
    key.extend_from_slice(part);
    true
}

/// Takes a key apart: the value of its first part, of this type, as a packed row would hold it, and the bytes of the parts
/// behind it. `None` where the bytes are not such a key.
pub fn split_part<'a>(data_type: &SqlType, key: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let width = match data_type {
        SqlType::Boolean => 1,
        SqlType::SmallInt => 2,
        SqlType::Integer | SqlType::Date => 4,
        SqlType::BigInt | SqlType::Timestamp | SqlType::TimestampTz => 8,
        SqlType::Uuid => 16,
        SqlType::Text | SqlType::Bytea => {
            let (length, rest) = key.split_first_chunk()?;
            return rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?);
        }
        _ => return None,
    };
    key.split_at_checked(width)
}

/// The column in the Arrow type of `data_type`: engines hand on texts in several forms.
pub(super) fn in_type<'a>(column: &'a ArrayRef, data_type: &SqlType) -> Result<Cow<'a, ArrayRef>> {
    let wanted = data_type.arrow();
    if column.data_type() == &wanted {
        return Ok(Cow::Borrowed(column));
    }
    let cast = arrow::compute::cast(column, &wanted);
    cast.map(Cow::Owned).map_err(|source| {
        Error::internal(format!("a value of type {data_type} in a column of type {}", column.data_type())).caused_by(source)
    })
}

fn append_part(encoded: &mut [Option<Vec<u8>>], data_type: &SqlType, column: &ArrayRef) -> Result<()> {
    match data_type {
        SqlType::Boolean => {
            for (slot, value) in encoded.iter_mut().zip(column.as_boolean()) {
                extend(slot, value.map(|value| [u8::from(value)]));
            }
        }
        SqlType::SmallInt => fixed::<Int16Type, 2>(encoded, column, i16::to_le_bytes),
        SqlType::Integer => fixed::<Int32Type, 4>(encoded, column, i32::to_le_bytes),
        SqlType::BigInt => fixed::<Int64Type, 8>(encoded, column, i64::to_le_bytes),
        SqlType::Date => fixed::<Date32Type, 4>(encoded, column, i32::to_le_bytes),
        SqlType::Timestamp | SqlType::TimestampTz => fixed::<TimestampMicrosecondType, 8>(encoded, column, i64::to_le_bytes),
        SqlType::Uuid => {
            for (slot, value) in encoded.iter_mut().zip(column.as_string::<i32>()) {
                extend(slot, value.map(uuid_bytes).transpose()?);
            }
        }
        SqlType::Text => {
            for (slot, value) in encoded.iter_mut().zip(column.as_string::<i32>()) {
                extend_sized(slot, value.map(str::as_bytes))?;
            }
        }
        SqlType::Bytea => {
            for (slot, value) in encoded.iter_mut().zip(column.as_binary::<i32>()) {
                extend_sized(slot, value)?;
            }
        }
        other => return Err(Error::internal(format!("a key of type {other}"))),
    }
    Ok(())
}

fn fixed<T: ArrowPrimitiveType, const N: usize>(
    encoded: &mut [Option<Vec<u8>>],
    column: &ArrayRef,
    to_bytes: impl Fn(T::Native) -> [u8; N],
) {
    for (slot, value) in encoded.iter_mut().zip(column.as_primitive::<T>()) {
        extend(slot, value.map(&to_bytes));
    }
}

/// Adds a part to a key that has no NULL so far; a NULL part takes the whole key away.
fn extend<const N: usize>(slot: &mut Option<Vec<u8>>, part: Option<[u8; N]>) {
    match (slot.as_mut(), part) {
        (Some(bytes), Some(part)) => bytes.extend_from_slice(&part),
        _ => *slot = None,
    }
}

fn extend_sized(slot: &mut Option<Vec<u8>>, part: Option<&[u8]>) -> Result<()> {
    match (slot.as_mut(), part) {
        (Some(bytes), Some(part)) => {
            let length = u32::try_from(part.len())
                .map_err(|_too_long| Error::new(SqlState::ProgramLimitExceeded, "a key value is longer than 4 GB"))?;
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(part);
        }
        _ => *slot = None,
    }
    Ok(())
}

/// The 16 bytes of a uuid, whatever spelling it is in.
pub(super) fn uuid_bytes(text: &str) -> Result<[u8; 16]> {
    let uuid = Uuid::parse_str(text).map_err(|source| {
        Error::new(SqlState::InvalidTextRepresentation, format!("invalid input syntax for type uuid: \"{text}\""))
            .caused_by(source)
    })?;
    Ok(uuid.into_bytes())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, BooleanArray, Date32Array, Int16Array, Int32Array, Int64Array, StringArray, StringViewArray,
        TimestampMicrosecondArray,
    };

    use super::*;

    fn key(name: &str, data_type: SqlType) -> KeyColumn {
        KeyColumn { name: name.into(), data_type }
    }

    fn encode(data_type: SqlType, column: ArrayRef) -> Vec<Option<EntityKey>> {
        entity_keys(&[key("k", data_type)], &[column]).unwrap()
    }

    fn check(data_type: SqlType, column: ArrayRef, expected: &[u8]) {
        assert_eq!(encode(data_type.clone(), column)[0].as_ref().unwrap().as_bytes(), expected, "{data_type}");
    }

    #[test]
    fn keys_have_these_bytes() {
        check(SqlType::Boolean, Arc::new(BooleanArray::from(vec![true])), &[1]);
        check(SqlType::SmallInt, Arc::new(Int16Array::from(vec![-2])), &[0xfe, 0xff]);
        check(SqlType::Integer, Arc::new(Int32Array::from(vec![258])), &[2, 1, 0, 0]);
        check(SqlType::BigInt, Arc::new(Int64Array::from(vec![i64::MIN])), &[0, 0, 0, 0, 0, 0, 0, 0x80]);
        check(SqlType::Date, Arc::new(Date32Array::from(vec![1])), &[1, 0, 0, 0]);
        check(SqlType::Timestamp, Arc::new(TimestampMicrosecondArray::from(vec![7])), &[7, 0, 0, 0, 0, 0, 0, 0]);
        let instants = TimestampMicrosecondArray::from(vec![7]).with_timezone("UTC");
        check(SqlType::TimestampTz, Arc::new(instants), &[7, 0, 0, 0, 0, 0, 0, 0]);
        check(SqlType::Text, Arc::new(StringArray::from(vec!["é"])), &[2, 0, 0, 0, 0xc3, 0xa9]);
        check(SqlType::Bytea, Arc::new(BinaryArray::from(vec![b"\0{".as_slice()])), &[2, 0, 0, 0, 0, 0x7b]);
        let uuid = "00112233-4455-6677-8899-aabbccddeeff";
        let bytes = [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
        check(SqlType::Uuid, Arc::new(StringArray::from(vec![uuid])), &bytes);
        check(SqlType::Uuid, Arc::new(StringArray::from(vec![uuid.to_uppercase()])), &bytes);
        check(SqlType::Text, Arc::new(StringViewArray::from(vec!["a"])), &[1, 0, 0, 0, b'a']);
    }

    #[test]
    fn composite_keys_do_not_collide() {
        let keys = [key("a", SqlType::Text), key("b", SqlType::Text)];
        let left: ArrayRef = Arc::new(StringArray::from(vec!["ab", "a", "", "abc"]));
        let right: ArrayRef = Arc::new(StringArray::from(vec!["c", "bc", "abc", ""]));
        let encoded = entity_keys(&keys, &[left, right]).unwrap();
        let distinct: std::collections::HashSet<_> = encoded.iter().collect();
        assert_eq!(distinct.len(), 4);
    }

    #[test]
    fn keys_are_joined_of_parts_and_taken_apart() {
        let keys = [key("a", SqlType::Integer), key("b", SqlType::Text), key("c", SqlType::Boolean)];
        let columns: [ArrayRef; 3] = [
            Arc::new(Int32Array::from(vec![-7])),
            Arc::new(StringArray::from(vec!["é"])),
            Arc::new(BooleanArray::from(vec![true])),
        ];
        let whole = entity_keys(&keys, &columns).unwrap()[0].clone().unwrap();
        let mut joined = Vec::new();
        assert!(append_integer(&mut joined, &SqlType::Integer, -7));
        assert!(!append_integer(&mut joined, &SqlType::Integer, i64::from(i32::MAX) + 1));
        assert!(append_sized(&mut joined, "é".as_bytes()));
        joined.push(1);
        assert_eq!(whole, EntityKey::from_bytes(Bytes::from(joined)));
        let (first, rest) = split_part(&SqlType::Integer, whole.as_bytes()).unwrap();
        let (second, rest) = split_part(&SqlType::Text, rest).unwrap();
        let (third, rest) = split_part(&SqlType::Boolean, rest).unwrap();
        assert_eq!((first, second, third, rest), (&(-7_i32).to_le_bytes()[..], "é".as_bytes(), &[1][..], &[][..]));
        assert_eq!(split_part(&SqlType::Text, &[9, 0, 0, 0, b'x']), None);
    }

    #[test]
    fn a_null_part_makes_no_key() {
        let keys = [key("a", SqlType::Integer), key("b", SqlType::Text)];
        let left: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(1)]));
        let right: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), Some("x"), None]));
        let encoded = entity_keys(&keys, &[left, right]).unwrap();
        assert_eq!(encoded.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false]);
    }
}
