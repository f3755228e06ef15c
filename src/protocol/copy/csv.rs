//! The fields of a line in `COPY`'s CSV format.

use super::read::Fields;
use crate::error::{Error, Result, SqlState};
use crate::parser::CopyOptions;

/// Splits a line at its delimiters and takes the quotes off each field. A field that was quoted is never NULL.
pub(super) fn split(line: &[u8], options: &CopyOptions, fields: &mut Fields) -> Result<()> {
    let mut rest = line;
    loop {
        let mut field = Field::default();
        fields.push(|bytes| field.read(rest, options, bytes));
        if field.is_open {
            return Err(Error::new(SqlState::BadCopyFileFormat, "unterminated CSV quoted field"));
        }
        if !field.is_quoted && &rest[..field.length] == options.null.as_bytes() {
            fields.make_null();
        }
        match &rest[field.length..] {
            [_, tail @ ..] => rest = tail,
            [] => return Ok(()),
        }
    }
}

/// What was seen of a field.
#[derive(Default)]
struct Field {
    length: usize,
    is_quoted: bool,
    is_open: bool,
}

impl Field {
    fn read(&mut self, text: &[u8], options: &CopyOptions, bytes: &mut Vec<u8>) {
        let CopyOptions { delimiter, quote, escape, .. } = *options;
        while let Some(&byte) = text.get(self.length) {
            if !self.is_open && byte == delimiter {
                return;
            }
            self.length += 1;
            let next = text.get(self.length).copied();
            if self.is_open && byte == escape && next.is_some_and(|next| next == quote || next == escape) {
                bytes.extend(next);
                self.length += 1;
            } else if byte == quote {
                self.is_open = !self.is_open;
                self.is_quoted = true;
            } else {
                bytes.push(byte);
            }
        }
    }
}
