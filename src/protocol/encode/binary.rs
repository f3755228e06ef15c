//! Values in PostgreSQL's binary form.

use bytes::{BufMut, BytesMut};

use crate::error::{Error, Result, SqlState};
use crate::protocol::backend::with_length;
use crate::types::SqlType;
use crate::types::cells::{Cells, Values};
use crate::types::text::{AFTER_ALL, BEFORE_ALL, parse_uuid, write_decimal};

/// PostgreSQL counts days and microseconds from 2000-01-01.
pub(crate) const EPOCH_DAYS: i32 = 10_957;
pub(crate) const EPOCH_MICROS: i64 = 946_684_800_000_000;

impl Cells {
    /// Writes the cell's binary form; nothing for NULL.
    pub(crate) fn write_binary(&self, row: usize, out: &mut BytesMut) -> Result<()> {
        match &self.values {
            Values::Null => {}
            Values::Boolean(values) => out.put_u8(u8::from(values.value(row))),
            Values::Int16(values) => out.put_i16(values.value(row)),
            Values::Int32(values) => out.put_i32(values.value(row)),
            Values::Int64(values) => match self.sql_type {
                SqlType::Oid => out.put_u32(u32::try_from(values.value(row)).map_err(|_| oid_out_of_range())?),
                _ => out.put_i64(values.value(row)),
            },
            Values::Float32(values) => out.put_f32(values.value(row)),
            Values::Float64(values) => out.put_f64(values.value(row)),
            Values::Decimal128(values, scale) => put_numeric(out, &values.value(row), *scale)?,
            Values::Decimal256(values, scale) => put_numeric(out, &values.value(row), *scale)?,
            Values::Utf8(values) => self.put_text(values.value(row), out)?,
            Values::LargeUtf8(values) => self.put_text(values.value(row), out)?,
            Values::Utf8View(values) => self.put_text(values.value(row), out)?,
            Values::Binary(values) => out.extend_from_slice(values.value(row)),
            Values::LargeBinary(values) => out.extend_from_slice(values.value(row)),
            Values::BinaryView(values) => out.extend_from_slice(values.value(row)),
            Values::Date(values) => out.put_i32(values.value(row).checked_sub(EPOCH_DAYS).ok_or_else(instant_out_of_range)?),
            Values::Time(values) => out.put_i64(values.value(row)),
            Values::Timestamp(values) => {
                out.put_i64(match values.value(row) {
                    infinite @ (BEFORE_ALL | AFTER_ALL) => infinite,
                    micros => micros.checked_sub(EPOCH_MICROS).ok_or_else(instant_out_of_range)?,
                });
            }
            Values::Interval(values) => {
                let value = values.value(row);
                out.put_i64(value.nanoseconds / 1000);
                out.put_i32(value.days);
                out.put_i32(value.months);
            }
            Values::List(_, _) | Values::FixedList(_, _) => self.put_list(row, out)?,
        }
        Ok(())
    }

    fn put_text(&self, text: &str, out: &mut BytesMut) -> Result<()> {
        match self.sql_type {
            SqlType::Uuid => out.extend_from_slice(&parse_uuid(text)?),
            SqlType::Char => out.put_u8(text.bytes().next().unwrap_or(0)),
            _ => out.extend_from_slice(text.as_bytes()),
        }
        Ok(())
    }

    /// Dimensions, a flag for NULLs, the element type, each dimension's length and lower bound, then the elements.
    fn put_list(&self, row: usize, out: &mut BytesMut) -> Result<()> {
        let mut lengths = Vec::new();
        self.dimensions(row, &mut lengths);
        if lengths.contains(&0) {
            lengths.clear();
        }
        let count = |number: usize| i32::try_from(number).map_err(|_| too_many_elements());
        out.put_i32(count(lengths.len())?);
        let flag_at = out.len();
        out.put_i32(0);
        out.put_u32(self.innermost().sql_type.oid());
        let is_zero_based = matches!(self.sql_type, SqlType::Int2Vector | SqlType::OidVector);
        for length in &lengths {
            out.put_i32(count(*length)?);
            out.put_i32(i32::from(!is_zero_based));
        }
        let mut has_null = false;
        self.put_elements(row, &lengths, out, &mut has_null)?;
        if has_null {
            out[flag_at + 3] = 1;
        }
        Ok(())
    }

    fn dimensions(&self, row: usize, lengths: &mut Vec<usize>) {
        let Some((range, elements)) = self.elements(row) else { return };
        lengths.push(range.len());
        if !range.is_empty() && !elements.is_null(range.start) {
            elements.dimensions(range.start, lengths);
        }
    }

    fn innermost(&self) -> &Cells {
        match &self.values {
            Values::List(_, elements) | Values::FixedList(_, elements) => elements.innermost(),
            _ => self,
        }
    }

    fn put_elements(&self, row: usize, lengths: &[usize], out: &mut BytesMut, has_null: &mut bool) -> Result<()> {
        let (Some((range, elements)), Some((length, inner))) = (self.elements(row), lengths.split_first()) else { return Ok(()) };
        if range.len() != *length {
            let message = "multidimensional arrays must have sub-arrays with matching dimensions";
            return Err(Error::new(SqlState::DataException, message));
        }
        for element in range {
            if !inner.is_empty() {
                if elements.is_null(element) {
                    return Err(Error::unsupported("a NULL among the inner arrays of an array of several dimensions"));
                }
                elements.put_elements(element, inner, out, has_null)?;
            } else if elements.is_null(element) {
                *has_null = true;
                out.put_i32(-1);
            } else {
                with_length(out, 0, |out| elements.write_binary(element, out))?;
            }
        }
        Ok(())
    }
}

pub(super) fn too_many_elements() -> Error {
    Error::new(SqlState::ProgramLimitExceeded, "an array has more elements than a message can hold")
}

fn oid_out_of_range() -> Error {
    Error::new(SqlState::NumericValueOutOfRange, "OID out of range")
}

pub(super) fn instant_out_of_range() -> Error {
    Error::new(SqlState::DatetimeFieldOverflow, "timestamp out of range")
}

/// Groups of four decimal digits, with the place of the first and the digits to show after the point.
pub(super) fn put_numeric(out: &mut BytesMut, unscaled: &impl std::fmt::Display, scale: i8) -> Result<()> {
    let mut text = String::new();
    write_decimal(&mut text, unscaled, scale);
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, text.as_str()),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let whole = whole.trim_start_matches('0');
    let padding = (4 - whole.len() % 4) % 4;
    let digits: Vec<u8> = std::iter::repeat_n(b'0', padding).chain(whole.bytes()).chain(fraction.bytes()).collect();
    let group = |digits: &[u8]| {
        let number = digits.iter().fold(0, |number, digit| number * 10 + i16::from(digit - b'0'));
        number * 10_i16.pow(4 - u32::try_from(digits.len()).unwrap_or(4))
    };
    let groups: Vec<i16> = digits.chunks(4).map(group).collect();
    let leading = groups.iter().take_while(|group| **group == 0).count();
    let significant = groups.iter().rposition(|group| *group != 0).map_or(0, |last| last + 1 - leading);
    let misfit = |_| Error::internal("a decimal with more digits than any has");
    let whole_groups = i16::try_from((whole.len() + padding) / 4).map_err(misfit)?;
    let weight = if significant == 0 { 0 } else { whole_groups - 1 - i16::try_from(leading).map_err(misfit)? };
    out.put_i16(i16::try_from(significant).map_err(misfit)?);
    out.put_i16(weight);
    out.put_u16(if negative && significant > 0 { 0x4000 } else { 0 });
    out.put_u16(u16::try_from(fraction.len()).map_err(|_| Error::internal("a decimal with more digits than any has"))?);
    for group in groups.iter().skip(leading).take(significant) {
        out.put_i16(*group);
    }
    Ok(())
}
