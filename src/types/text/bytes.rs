//! `bytea` and `uuid`.

use super::{TextSink, syntax};
use crate::error::{Error, Result, SqlState};

/// Reads `bytea` in either of PostgreSQL's forms: `\x6869`, or text with `\\` and `\ooo` escapes.
pub fn parse_bytea(text: &str) -> Result<Vec<u8>> {
    match text.strip_prefix("\\x") {
        Some(digits) => parse_hex(digits),
        None => parse_escapes(text),
    }
}

fn parse_hex(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    let mut digits = text.chars().filter(|c| !matches!(c, ' ' | '\n' | '\t' | '\r'));
    while let Some(high) = digits.next() {
        let high = hex_digit(high)?;
        let Some(low) = digits.next() else {
            return Err(Error::new(SqlState::InvalidParameterValue, "invalid hexadecimal data: odd number of digits"));
        };
        bytes.push(high << 4 | hex_digit(low)?);
    }
    Ok(bytes)
}

fn hex_digit(digit: char) -> Result<u8> {
    digit
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
        .ok_or_else(|| Error::new(SqlState::InvalidParameterValue, format!("invalid hexadecimal digit: \"{digit}\"")))
}

fn parse_escapes(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = match (first, tail) {
            (b'\\', [b'\\', tail @ ..]) => {
                bytes.push(b'\\');
                tail
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                tail
            }
            (b'\\', _) => {
                return Err(Error::new(SqlState::InvalidTextRepresentation, "invalid input syntax for type bytea"));
            }
            (byte, tail) => {
                bytes.push(byte);
                tail
            }
        };
    }
    Ok(bytes)
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Writes `bytea` in hex: `\x6869`.
pub fn write_bytea(out: &mut impl TextSink, bytes: &[u8]) {
    out.put("\\x");
    for chunk in bytes.chunks(64) {
        let mut digits = [0; 128];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(chunk) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        let digits = &digits[..chunk.len() * 2];
        out.put(std::str::from_utf8(digits).expect("hex digits are ASCII"));
    }
}

/// Reads a UUID in any of the forms PostgreSQL takes: either case, in braces or not, hyphens after any four digits.
pub fn parse_uuid(text: &str) -> Result<[u8; 16]> {
    let bad = || syntax("uuid", text);
    let digits = match text.strip_prefix('{') {
        Some(inner) => inner.strip_suffix('}').ok_or_else(bad)?,
        None => text,
    };
    let mut rest = digits.as_bytes();
    let mut uuid = [0; 16];
    for (index, byte) in uuid.iter_mut().enumerate() {
        let [high, low, tail @ ..] = rest else { return Err(bad()) };
        let high = char::from(*high).to_digit(16).ok_or_else(bad)?;
        let low = char::from(*low).to_digit(16).ok_or_else(bad)?;
        *byte = u8::try_from(high << 4 | low).map_err(|_| bad())?;
        rest = match tail {
            [b'-', tail @ ..] if index % 2 == 1 && index < 15 => tail,
            tail => tail,
        };
    }
    if rest.is_empty() { Ok(uuid) } else { Err(bad()) }
}

/// The canonical text of a UUID: lower case, hyphens at 8-4-4-4-12.
pub(super) fn format_uuid(uuid: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push(char::from(HEX[usize::from(byte >> 4)]));
        text.push(char::from(HEX[usize::from(byte & 15)]));
    }
    text
}
