//! Rows to `COPY` data, a message a row.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use bytes::{BufMut, BytesMut};

use super::binary::{SIGNATURE, TRAILER};
use super::message_format;
use crate::error::Result;
use crate::parser::{CopyFormat, CopyOptions};
use crate::protocol::Format;
use crate::protocol::backend::{Column, with_length};
use crate::protocol::encode::TextStyle;
use crate::protocol::rows::{Formats, TypedBatch, columns_of};

/// Writes rows in one format.
pub(crate) struct CopyWriter {
    columns: Arc<[Column]>,
    options: CopyOptions,
    style: TextStyle,
    value: BytesMut,
    /// Whether the signature is still to be written: it shares the message of whatever comes first, as in PostgreSQL, and
    /// clients rely on that.
    unsigned: bool,
}

impl CopyWriter {
    pub(crate) fn new(schema: &Schema, options: &CopyOptions, style: TextStyle) -> Result<Self> {
        Ok(Self { columns: columns_of(schema)?, options: options.clone(), style, value: BytesMut::new(), unsigned: true })
    }

    pub(crate) fn format(&self) -> Format {
        message_format(self.options.format)
    }

    pub(crate) fn typed(&self, batch: &RecordBatch) -> Result<TypedBatch> {
        TypedBatch::new(batch, &self.columns)
    }

    /// Writes the header line, where one is wanted.
    pub(crate) fn begin(&self, out: &mut BytesMut) -> Result<()> {
        match self.options.format {
            CopyFormat::Binary => Ok(()),
            CopyFormat::Text | CopyFormat::Csv if self.options.header => message(out, |out| {
                for (index, column) in self.columns.iter().enumerate() {
                    self.put_value(index, column.name.as_bytes(), out);
                }
                out.put_u8(b'\n');
                Ok(())
            }),
            CopyFormat::Text | CopyFormat::Csv => Ok(()),
        }
    }

    pub(crate) fn write_row(&mut self, batch: &TypedBatch, row: usize, out: &mut BytesMut) -> Result<()> {
        if self.options.format == CopyFormat::Binary {
            let unsigned = std::mem::take(&mut self.unsigned);
            return message(out, |out| {
                put_signature(unsigned, out);
                batch.write_fields(row, &Formats::All(Format::Binary), self.style, out)
            });
        }
        let mut value = std::mem::take(&mut self.value);
        let written = message(out, |out| {
            for (index, cells) in batch.cells().iter().enumerate() {
                if cells.is_null(row) {
                    if index > 0 {
                        out.put_u8(self.options.delimiter);
                    }
                    out.extend_from_slice(self.options.null.as_bytes());
                } else {
                    value.clear();
                    cells.write_text(row, self.style.zone, &mut value);
                    self.put_value(index, &value, out);
                }
            }
            out.put_u8(b'\n');
            Ok(())
        });
        self.value = value;
        written
    }

    pub(crate) fn end(&self, out: &mut BytesMut) -> Result<()> {
        match self.options.format {
            CopyFormat::Binary => message(out, |out| {
                put_signature(self.unsigned, out);
                out.put_i16(TRAILER);
                Ok(())
            }),
            CopyFormat::Text | CopyFormat::Csv => Ok(()),
        }
    }

    fn put_value(&self, index: usize, value: &[u8], out: &mut BytesMut) {
        if index > 0 {
            out.put_u8(self.options.delimiter);
        }
        match self.options.format {
            CopyFormat::Csv => self.put_csv(value, out),
            CopyFormat::Text | CopyFormat::Binary => self.put_text(value, out),
        }
    }

    fn put_text(&self, value: &[u8], out: &mut BytesMut) {
        for byte in value {
            let escaped = match byte {
                0x08 => b'b',
                0x0c => b'f',
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                0x0b => b'v',
                b'\\' => b'\\',
                byte if *byte == self.options.delimiter => *byte,
                byte => {
                    out.put_u8(*byte);
                    continue;
                }
            };
            out.put_u8(b'\\');
            out.put_u8(escaped);
        }
    }

    /// Values are quoted where they would otherwise be read as something else: NULL, several values, the end of the data.
    fn put_csv(&self, value: &[u8], out: &mut BytesMut) {
        let CopyOptions { delimiter, quote, escape, .. } = self.options;
        let is_special = |byte: &u8| *byte == delimiter || *byte == quote || matches!(byte, b'\n' | b'\r');
        let is_end = self.columns.len() == 1 && value == b"\\.";
        if value != self.options.null.as_bytes() && !is_end && !value.iter().any(is_special) {
            out.extend_from_slice(value);
            return;
        }
        out.put_u8(quote);
        for byte in value {
            if *byte == quote || *byte == escape {
                out.put_u8(escape);
            }
            out.put_u8(*byte);
        }
        out.put_u8(quote);
    }
}

/// The signature, with no flags and no extension.
fn put_signature(unsigned: bool, out: &mut BytesMut) {
    if unsigned {
        out.extend_from_slice(SIGNATURE);
        out.put_i32(0);
        out.put_i32(0);
    }
}

fn message(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut) -> Result<()>) -> Result<()> {
    let start = out.len();
    out.put_u8(b'd');
    let written = with_length(out, 4, body);
    if written.is_err() {
        out.truncate(start);
    }
    written
}
