//! A result on its way to the client.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use bytes::{BufMut, BytesMut};

use super::Format;
use super::backend::{Column, with_length};
use super::encode::TextStyle;
use crate::error::{Error, Result, SqlState};
use crate::offline::BatchStream;
use crate::types::cells::Cells;

/// The columns of a result as a client knows them; `0A000` where a column has no PostgreSQL type.
pub(super) fn columns_of(schema: &Schema) -> Result<Arc<[Column]>> {
    if schema.fields().len() > COLUMNS_MAX {
        return Err(Error::new(SqlState::ProgramLimitExceeded, format!("a result can have at most {COLUMNS_MAX} columns")));
    }
    let columns = schema.fields().iter().map(|field| {
        let sql_type = crate::types::SqlType::of_field(field).ok_or_else(|| {
            Error::unsupported(format!("column \"{}\" of type {}", field.name(), field.data_type()))
                .hint("Select its parts, or cast it to text.")
        })?;
        Ok(Column { name: field.name().clone(), sql_type })
    });
    columns.collect()
}

/// The columns a result may have: PostgreSQL's limit.
const COLUMNS_MAX: usize = 1664;

/// The formats of a result's columns.
#[derive(Clone, Debug)]
pub(super) enum Formats {
    /// All the same.
    All(Format),
    /// One each.
    Each(Vec<Format>),
}

impl Formats {
    pub(super) fn of(&self, column: usize) -> Format {
        match self {
            Formats::All(format) => *format,
            Formats::Each(formats) => formats.get(column).copied().unwrap_or(Format::Text),
        }
    }
}

/// A batch, its columns typed.
pub(super) struct TypedBatch {
    cells: Vec<Cells>,
    rows: usize,
}

impl TypedBatch {
    pub(super) fn new(batch: &RecordBatch, columns: &[Column]) -> Result<Self> {
        if batch.num_columns() != columns.len() {
            return Err(Error::internal(format!("a batch of {} columns in a result of {}", batch.num_columns(), columns.len())));
        }
        let cells = batch.columns().iter().zip(columns).map(|(array, column)| Cells::new(array, &column.sql_type));
        Ok(Self { cells: cells.collect::<Result<_>>()?, rows: batch.num_rows() })
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn cells(&self) -> &[Cells] {
        &self.cells
    }

    /// Adds a row's count of fields and its fields, each with its length: what `DataRow` and binary `COPY` have in common.
    pub(super) fn write_fields(&self, row: usize, formats: &Formats, style: TextStyle, out: &mut BytesMut) -> Result<()> {
        let count = i16::try_from(self.cells.len()).map_err(|_| Error::internal("a row with more fields than a row can have"))?;
        out.put_i16(count);
        for (column, cells) in self.cells.iter().enumerate() {
            cells.write_field(row, formats.of(column), style, out)?;
        }
        Ok(())
    }
}

/// A result, part of which may have been sent already. It holds one batch at a time.
pub(super) struct RowCursor {
    pub(super) columns: Arc<[Column]>,
    pub(super) formats: Formats,
    pub(super) stream: BatchStream,
    pub(super) verb: &'static str,
    pub(super) counted: bool,
    style: TextStyle,
    current: Option<(TypedBatch, usize)>,
}

impl RowCursor {
    pub(super) fn new(
        schema: &SchemaRef,
        stream: BatchStream,
        (verb, counted): (&'static str, bool),
        formats: Formats,
        style: TextStyle,
    ) -> Result<Self> {
        Ok(Self { columns: columns_of(schema)?, formats, stream, verb, counted, style, current: None })
    }

    /// Whether the next batch is to be asked for.
    pub(super) fn wants_batch(&self) -> bool {
        self.current.is_none()
    }

    pub(super) fn take_batch(&mut self, batch: &RecordBatch) -> Result<()> {
        self.current = Some((TypedBatch::new(batch, &self.columns)?, 0));
        Ok(())
    }

    /// Writes rows until the batch ends, `rows_max` are written, or `out` holds `bytes_max`; gives how many.
    pub(super) fn write_rows(&mut self, rows_max: u64, bytes_max: usize, out: &mut BytesMut) -> Result<u64> {
        let Some((batch, next)) = &mut self.current else { return Ok(0) };
        let mut written = 0;
        while *next < batch.rows() && written < rows_max && out.len() < bytes_max {
            let start = out.len();
            out.put_u8(b'D');
            let row = with_length(out, 4, |out| batch.write_fields(*next, &self.formats, self.style, out));
            if let Err(error) = row {
                out.truncate(start);
                return Err(error);
            }
            *next += 1;
            written += 1;
        }
        if *next >= batch.rows() {
            self.current = None;
        }
        Ok(written)
    }

    /// The tag of the part that was sent.
    pub(super) fn tag(&self, rows: u64) -> String {
        if self.counted { format!("{} {rows}", self.verb) } else { self.verb.to_owned() }
    }
}
