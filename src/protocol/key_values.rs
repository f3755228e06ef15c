//! Parameters of a lookup, from the bytes of `Bind` straight to the parts of entity keys.

use super::Format;
use super::decode;
use super::frontend::{Cursor, utf8};
use crate::error::Result;
use crate::lookup::{Slot, SlotValues};
use crate::planner::slot_values;
use crate::types::SqlType;
use crate::types::text::Zone;

/// Adds the values that a parameter gives a slot. What is not in one of the usual forms goes the way that every other parameter
/// goes, and fails as it fails there.
pub(super) fn add_slot(slot: &Slot, value: Option<&[u8]>, format: Format, zone: Zone, values: &mut SlotValues) -> Result<()> {
    let Some(bytes) = value else {
        values.end_slot();
        return Ok(());
    };
    if add_usual(slot, bytes, format, values).is_some() {
        values.end_slot();
        return Ok(());
    }
    let value = decode::parameter(value, format, &slot.parameter_type, slot.parameter + 1, zone)?;
    slot_values(slot, &value, values)
}

/// Adds a value in one of the forms that nearly all have; `None`, and nothing added, where it is not.
fn add_usual(slot: &Slot, bytes: &[u8], format: Format, values: &mut SlotValues) -> Option<()> {
    match (&slot.parameter_type, format) {
        (SqlType::SmallInt | SqlType::Integer | SqlType::BigInt, _) => {
            values.add_integer(&slot.part_type, integer(&slot.parameter_type, bytes, format)?);
        }
        (SqlType::Text, _) => {
            let text = utf8(bytes).ok()?.as_bytes();
            if text.contains(&0) {
                return None;
            }
            values.add_sized(text);
        }
        (SqlType::Uuid, Format::Binary) => values.add_encoded(<&[u8; 16]>::try_from(bytes).ok()?),
        (SqlType::Array(element), Format::Binary) => add_elements(slot, element, bytes, values)?,
        (SqlType::Array(element), Format::Text) => add_numbers(slot, element, bytes, values)?,
        _ => return None,
    }
    Some(())
}

fn integer(sql_type: &SqlType, bytes: &[u8], format: Format) -> Option<i64> {
    Some(match (sql_type, format) {
        (SqlType::SmallInt, Format::Binary) => i16::from_be_bytes(bytes.try_into().ok()?).into(),
        (SqlType::Integer, Format::Binary) => i32::from_be_bytes(bytes.try_into().ok()?).into(),
        (SqlType::BigInt, Format::Binary) => i64::from_be_bytes(bytes.try_into().ok()?),
        (SqlType::SmallInt, Format::Text) => utf8(bytes).ok()?.parse::<i16>().ok()?.into(),
        (SqlType::Integer, Format::Text) => utf8(bytes).ok()?.parse::<i32>().ok()?.into(),
        (SqlType::BigInt, Format::Text) => utf8(bytes).ok()?.parse().ok()?,
        _ => return None,
    })
}

/// Adds the elements of a binary array of one dimension; NULL equals nothing.
fn add_elements(slot: &Slot, element_type: &SqlType, bytes: &[u8], values: &mut SlotValues) -> Option<()> {
    let mut body = Cursor { rest: bytes };
    let (dimensions, _has_nulls, oid) = (body.i32().ok()?, body.i32().ok()?, body.u32().ok()?);
    if dimensions != 1 || oid != element_type.oid() {
        return None;
    }
    let (count, _lower_bound) = (usize::try_from(body.i32().ok()?).ok()?, body.i32().ok()?);
    // All of them are looked at before the first is added.
    let mut elements = Vec::with_capacity(count.min(bytes.len() / 4));
    for _ in 0..count {
        elements.extend(body.value().ok()?);
    }
    let is_usual = |element: &&[u8]| match element_type {
        SqlType::SmallInt => element.len() == 2,
        SqlType::Integer => element.len() == 4,
        SqlType::BigInt => element.len() == 8,
        SqlType::Text => !element.contains(&0) && utf8(element).is_ok(),
        _ => false,
    };
    if !body.rest.is_empty() || !elements.iter().all(is_usual) {
        return None;
    }
    for element in elements {
        match integer(element_type, element, Format::Binary) {
            Some(number) => values.add_integer(&slot.part_type, number),
            None => values.add_sized(element),
        }
    }
    Some(())
}

/// Adds the numbers of an array written as `{1,2,3}`.
fn add_numbers(slot: &Slot, element_type: &SqlType, bytes: &[u8], values: &mut SlotValues) -> Option<()> {
    if !matches!(element_type, SqlType::SmallInt | SqlType::Integer | SqlType::BigInt) {
        return None;
    }
    let written = bytes.strip_prefix(b"{")?.strip_suffix(b"}")?;
    let numbers = written.split(|byte| *byte == b',').map(|number| integer(element_type, number, Format::Text));
    for number in numbers.collect::<Option<Vec<_>>>()? {
        values.add_integer(&slot.part_type, number);
    }
    Some(())
}
