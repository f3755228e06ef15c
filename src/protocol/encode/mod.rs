//! Columns and packed rows to what the protocol sends.

mod binary;
#[cfg(test)]
mod golden;
mod packed;

use bytes::{BufMut, BytesMut};

use super::Format;
use super::backend::with_length;
use crate::error::Result;
use crate::types::cells::Cells;
use crate::types::text::Zone;

pub(super) use binary::{EPOCH_DAYS, EPOCH_MICROS};
pub(super) use packed::write_packed;

/// How the session wants its text.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextStyle {
    /// The zone that instants are shown in.
    pub(crate) zone: Zone,
}

impl Cells {
    /// Adds a cell with its length before it, as rows have it.
    pub(super) fn write_field(&self, row: usize, format: Format, style: TextStyle, out: &mut BytesMut) -> Result<()> {
        if self.is_null(row) {
            out.put_i32(-1);
            return Ok(());
        }
        with_length(out, 0, |out| match format {
            Format::Text => {
                self.write_text(row, style.zone, out);
                Ok(())
            }
            Format::Binary => self.write_binary(row, out),
        })
    }
}
