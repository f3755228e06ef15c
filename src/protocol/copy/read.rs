//! `COPY` data to rows.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};

use super::binary::BinaryRows;
use super::lines::LineReader;
use super::{csv, text};
use crate::error::{Error, Result, SqlState};
use crate::parser::{CopyFormat, CopyOptions};
use crate::protocol::frontend::utf8;
use crate::session::CopyIn;
use crate::types::SqlType;
use crate::types::text::{TextParser, Zone};

/// The rows of a batch.
const BATCH_ROWS: usize = 8192;

/// The characters of data that an error shows.
const SHOWN_CHARS_MAX: usize = 100;

/// Builds batches from the data of one `COPY … FROM STDIN`.
pub(crate) struct CopyReader {
    schema: SchemaRef,
    rows: Rows,
    batches: Vec<RecordBatch>,
}

enum Rows {
    Lines(Box<LineRows>),
    Binary(Box<BinaryRows>),
}

impl CopyReader {
    /// A reader of rows of `copy`'s columns. A line, or a binary row, may have `row_bytes_max` bytes.
    pub(crate) fn new(copy: &CopyIn, zone: Zone, row_bytes_max: usize) -> Result<Self> {
        let columns = copy.columns.fields().iter().map(|field| {
            let sql_type = SqlType::of_field(field);
            let sql_type = sql_type.ok_or_else(|| Error::unsupported(format!("COPY into column \"{}\"", field.name())))?;
            Ok((field.name().clone(), sql_type))
        });
        let columns: Vec<(String, SqlType)> = columns.collect::<Result<_>>()?;
        // Whether a column takes NULL is checked where all rows are, however they come.
        let fields: Vec<_> = columns.iter().map(|(name, sql_type)| sql_type.field(name, true)).collect();
        let relation = copy.target.name().to_owned();
        let rows = match copy.options.format {
            CopyFormat::Binary => Rows::Binary(Box::new(BinaryRows::new(relation, &columns, row_bytes_max))),
            CopyFormat::Text | CopyFormat::Csv => {
                Rows::Lines(Box::new(LineRows::new(relation, &columns, &copy.options, zone, row_bytes_max)))
            }
        };
        Ok(Self { schema: Arc::new(Schema::new(fields)), rows, batches: Vec::new() })
    }

    /// Takes a piece of the data, cut anywhere.
    pub(crate) fn feed(&mut self, data: &[u8]) -> Result<()> {
        match &mut self.rows {
            Rows::Lines(lines) if lines.ended => {}
            Rows::Lines(lines) => lines.lines.feed(data),
            Rows::Binary(binary) => binary.feed(data),
        }
        self.read_rows()
    }

    fn read_rows(&mut self) -> Result<()> {
        loop {
            let more = match &mut self.rows {
                Rows::Lines(lines) => lines.read(BATCH_ROWS)?,
                Rows::Binary(binary) => binary.read(BATCH_ROWS)?,
            };
            match more {
                More::Full => self.finish_batch()?,
                More::NeedsData => return Ok(()),
            }
        }
    }

    /// All rows; an error if the data ends in the middle of one.
    pub(crate) fn finish(mut self) -> Result<Vec<RecordBatch>> {
        match &mut self.rows {
            Rows::Lines(lines) => lines.end()?,
            Rows::Binary(binary) => binary.end()?,
        }
        self.finish_batch()?;
        Ok(self.batches)
    }

    fn finish_batch(&mut self) -> Result<()> {
        let (rows, columns) = match &mut self.rows {
            Rows::Lines(lines) => lines.take_batch(),
            Rows::Binary(binary) => binary.take_batch(),
        };
        if rows > 0 {
            let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)
                .map_err(|problem| Error::internal("COPY rows that do not fit their columns").caused_by(problem))?;
            self.batches.push(batch);
        }
        Ok(())
    }
}

/// Why reading stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum More {
    /// A batch is full.
    Full,
    /// There is no whole row left.
    NeedsData,
}

/// The fields of a line, held in one buffer that is used again and again.
#[derive(Debug, Default)]
pub(super) struct Fields {
    bytes: Vec<u8>,
    ranges: Vec<Option<Range<usize>>>,
}

impl Fields {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ranges.clear();
    }

    pub(super) fn push_null(&mut self) {
        self.ranges.push(None);
    }

    /// Turns the last field into NULL.
    pub(super) fn make_null(&mut self) {
        if let Some(last) = self.ranges.last_mut() {
            *last = None;
        }
    }

    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        self.ranges.push(Some(start..self.bytes.len()));
    }
}

/// Rows from lines.
struct LineRows {
    relation: String,
    names: Vec<String>,
    parsers: Vec<TextParser>,
    options: CopyOptions,
    lines: LineReader,
    fields: Fields,
    rows: usize,
    /// Whether the header line is still to come.
    header: bool,
    /// Whether the mark of the end was read; what follows it is not looked at.
    ended: bool,
}

impl LineRows {
    fn new(relation: String, columns: &[(String, SqlType)], options: &CopyOptions, zone: Zone, line_bytes_max: usize) -> Self {
        Self {
            relation,
            names: columns.iter().map(|(name, _)| name.clone()).collect(),
            parsers: columns.iter().map(|(_, sql_type)| TextParser::in_zone(sql_type, zone)).collect(),
            options: options.clone(),
            lines: LineReader::new(options, line_bytes_max),
            fields: Fields::default(),
            rows: 0,
            header: options.header,
            ended: false,
        }
    }

    fn read(&mut self, rows_max: usize) -> Result<More> {
        while self.rows < rows_max {
            if self.ended {
                return Ok(More::NeedsData);
            }
            let line = self.lines.next().map_err(|error| self.in_line(error))?;
            match line {
                Some(line) => self.take_line(line)?,
                None => return Ok(More::NeedsData),
            }
        }
        Ok(More::Full)
    }

    fn end(&mut self) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let line = self.lines.last().map_err(|error| self.in_line(error))?;
        line.map_or(Ok(()), |line| self.take_line(line))
    }

    fn take_line(&mut self, line: Range<usize>) -> Result<()> {
        if std::mem::take(&mut self.header) {
            return Ok(());
        }
        let bytes = self.lines.line(line.clone());
        if bytes == b"\\." {
            self.ended = true;
            return Ok(());
        }
        self.fields.clear();
        let split = match self.options.format {
            CopyFormat::Csv => csv::split(bytes, &self.options, &mut self.fields),
            CopyFormat::Text | CopyFormat::Binary => {
                text::split(bytes, &self.options, &mut self.fields);
                Ok(())
            }
        };
        split.and_then(|()| self.check_count()).map_err(|error| self.in_line_shown(error, line))?;
        for (index, parser) in self.parsers.iter_mut().enumerate() {
            let range = self.fields.ranges[index].clone();
            let field = range.map(|range| utf8(&self.fields.bytes[range])).transpose();
            let field = field.map_err(|error| error.context(format!("COPY {}, line {}", self.relation, self.lines.number)))?;
            parser.append(field).map_err(|error| {
                let shown = field.map_or_else(|| "null input".to_owned(), |field| format!("\"{}\"", shortened(field)));
                let (relation, line, column) = (&self.relation, self.lines.number, &self.names[index]);
                error.context(format!("COPY {relation}, line {line}, column {column}: {shown}"))
            })?;
        }
        self.rows += 1;
        Ok(())
    }

    fn check_count(&self) -> Result<()> {
        let (given, wanted) = (self.fields.ranges.len(), self.names.len());
        if given > wanted {
            return Err(Error::new(SqlState::BadCopyFileFormat, "extra data after last expected column"));
        }
        match self.names.get(given) {
            Some(missing) => Err(Error::new(SqlState::BadCopyFileFormat, format!("missing data for column \"{missing}\""))),
            None => Ok(()),
        }
    }

    fn in_line(&self, error: Error) -> Error {
        error.context(format!("COPY {}, line {}", self.relation, self.lines.number.max(1)))
    }

    fn in_line_shown(&self, error: Error, line: Range<usize>) -> Error {
        let shown = String::from_utf8_lossy(self.lines.line(line));
        error.context(format!("COPY {}, line {}: \"{}\"", self.relation, self.lines.number, shortened(&shown)))
    }

    fn take_batch(&mut self) -> (usize, Vec<ArrayRef>) {
        (std::mem::take(&mut self.rows), self.parsers.iter_mut().map(TextParser::finish).collect())
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
