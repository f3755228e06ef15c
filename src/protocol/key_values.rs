//! Parameters of a lookup, from the bytes of `Bind` straight to the parts of entity keys.

use super::Format;
use super::decode;
use super::frontend::utf8;
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
