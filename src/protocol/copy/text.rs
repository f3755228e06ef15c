//! The fields of a line in `COPY`'s text format.

use super::read::Fields;
use crate::parser::CopyOptions;

/// Splits a line at its delimiters and resolves the backslash escapes of each field.
pub(super) fn split(line: &[u8], options: &CopyOptions, fields: &mut Fields) {
    let mut rest = line;
    loop {
        let length = raw_length(rest, options.delimiter);
        let (raw, tail) = rest.split_at(length);
        // NULL is told from what is written, before escapes: `\\N` is a backslash and an N.
        if raw == options.null.as_bytes() {
            fields.push_null();
        } else {
            fields.push(|field| unescape(raw, field));
        }
        match tail {
            [_, tail @ ..] => rest = tail,
            [] => return,
        }
    }
}

fn raw_length(text: &[u8], delimiter: u8) -> usize {
    let mut escaped = false;
    for (at, byte) in text.iter().enumerate() {
        if *byte == delimiter && !escaped {
            return at;
        }
        escaped = *byte == b'\\' && !escaped;
    }
    text.len()
}

fn unescape(raw: &[u8], field: &mut Vec<u8>) {
    let mut rest = raw;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        field.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        rest = match rest {
            [b'b', tail @ ..] => pushed(field, 0x08, tail),
            [b'f', tail @ ..] => pushed(field, 0x0c, tail),
            [b'n', tail @ ..] => pushed(field, b'\n', tail),
            [b'r', tail @ ..] => pushed(field, b'\r', tail),
            [b't', tail @ ..] => pushed(field, b'\t', tail),
            [b'v', tail @ ..] => pushed(field, 0x0b, tail),
            [b'0'..=b'7', ..] => numbered(field, rest, 8, 3),
            [b'x', digits @ ..] if digits.first().is_some_and(u8::is_ascii_hexdigit) => numbered(field, digits, 16, 2),
            [other, tail @ ..] => pushed(field, *other, tail),
            [] => pushed(field, b'\\', rest),
        };
    }
    field.extend_from_slice(rest);
}

fn pushed<'a>(field: &mut Vec<u8>, byte: u8, tail: &'a [u8]) -> &'a [u8] {
    field.push(byte);
    tail
}

/// A byte by its number: up to `digits_max` digits.
fn numbered<'a>(field: &mut Vec<u8>, text: &'a [u8], radix: u32, digits_max: usize) -> &'a [u8] {
    let digits = text.iter().take(digits_max).map_while(|byte| char::from(*byte).to_digit(radix));
    let (mut number, mut count) = (0, 0);
    for digit in digits {
        number = number * radix + digit;
        count += 1;
    }
    // Three octal digits can say more than a byte; the low eight bits count, as in PostgreSQL.
    field.push(number.to_le_bytes()[0]);
    &text[count..]
}
