//! `COPY`'s binary format.

use arrow::array::ArrayRef;

use super::read::More;
use crate::error::{Error, Result, SqlState};
use crate::protocol::decode::{BinaryParser, Unread};
use crate::protocol::frontend::Cursor;
use crate::types::SqlType;

/// What binary data starts with.
pub(super) const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// What stands in place of a count of fields after the last row.
pub(super) const TRAILER: i16 = -1;

/// The flags that a reader must understand; none of them is.
const CRITICAL_FLAGS: u32 = 0xffff_0000;

/// Rows from binary data.
pub(super) struct BinaryRows {
    relation: String,
    names: Vec<String>,
    parsers: Vec<BinaryParser>,
    buffer: Vec<u8>,
    state: State,
    /// The rows taken, of all batches.
    number: u64,
    rows: usize,
    row_bytes_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Rows,
    Ended,
}

impl BinaryRows {
    pub(super) fn new(relation: String, columns: &[(String, SqlType)], row_bytes_max: usize) -> Self {
        Self {
            relation,
            names: columns.iter().map(|(name, _)| name.clone()).collect(),
            parsers: columns.iter().map(|(_, sql_type)| BinaryParser::new(sql_type)).collect(),
            buffer: Vec::new(),
            state: State::Header,
            number: 0,
            rows: 0,
            row_bytes_max,
        }
    }

    pub(super) fn feed(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    pub(super) fn read(&mut self, rows_max: usize) -> Result<More> {
        let buffer = std::mem::take(&mut self.buffer);
        let mut rest = buffer.as_slice();
        let mut more = More::Full;
        while self.rows < rows_max {
            match self.step(rest)? {
                Some(used) => rest = &rest[used..],
                None => {
                    more = More::NeedsData;
                    break;
                }
            }
        }
        if rest.len() > self.row_bytes_max {
            let message = format!("a row of COPY data is longer than {} bytes", self.row_bytes_max);
            if more == More::NeedsData {
                return Err(Error::new(SqlState::ProgramLimitExceeded, message).context(self.place(None)));
            }
        }
        self.buffer = rest.to_vec();
        Ok(more)
    }

    /// Reads the header, a row or the trailer; gives the bytes it took, `None` if it is not whole yet.
    fn step(&mut self, data: &[u8]) -> Result<Option<usize>> {
        match self.state {
            State::Header => self.header(data),
            State::Rows => self.row(data),
            State::Ended if data.is_empty() => Ok(None),
            State::Ended => {
                let message = "received copy data after EOF marker";
                Err(Error::new(SqlState::BadCopyFileFormat, message).context(self.place(None)))
            }
        }
    }

    fn header(&mut self, data: &[u8]) -> Result<Option<usize>> {
        let bad = |message: &str| Error::new(SqlState::BadCopyFileFormat, message);
        let begun = data.len().min(SIGNATURE.len());
        if data[..begun] != SIGNATURE[..begun] {
            return Err(bad("COPY file signature not recognized"));
        }
        let Some(rest) = data.get(SIGNATURE.len()..) else { return Ok(None) };
        let mut cursor = Cursor { rest };
        let (Ok(flags), Ok(extension)) = (cursor.u32(), cursor.i32()) else { return Ok(None) };
        if flags & CRITICAL_FLAGS != 0 {
            return Err(bad("unrecognized critical flags in COPY file header"));
        }
        let extension = usize::try_from(extension).map_err(|_| bad("invalid COPY file header (missing length)"))?;
        if cursor.bytes(extension).is_err() {
            return Ok(None);
        }
        self.state = State::Rows;
        Ok(Some(data.len() - cursor.rest.len()))
    }

    fn row(&mut self, data: &[u8]) -> Result<Option<usize>> {
        let mut cursor = Cursor { rest: data };
        let Ok(count) = cursor.i16() else { return Ok(None) };
        if count == TRAILER {
            self.state = State::Ended;
            return Ok(Some(2));
        }
        if usize::try_from(count).ok() != Some(self.parsers.len()) {
            let message = format!("row field count is {count}, expected {}", self.parsers.len());
            return Err(Error::new(SqlState::BadCopyFileFormat, message).context(self.place_after(None)));
        }
        // The row is looked over first, so that nothing is taken of one that is not whole.
        let mut whole = Cursor { rest: cursor.rest };
        for index in 0..self.parsers.len() {
            let Ok(length) = whole.i32() else { return Ok(None) };
            match usize::try_from(length) {
                Ok(length) if whole.bytes(length).is_err() => return Ok(None),
                Ok(_) => {}
                Err(_) if length == -1 => {}
                Err(_) => {
                    let error = Error::new(SqlState::BadCopyFileFormat, "invalid field size");
                    return Err(error.context(self.place_after(Some(index))));
                }
            }
        }
        for index in 0..self.parsers.len() {
            let value = cursor.value()?;
            self.parsers[index].append(value).map_err(|problem| {
                let error = match problem {
                    Unread::Length => Error::new(SqlState::InvalidBinaryRepresentation, "incorrect binary data format"),
                    Unread::Value(error) => error,
                };
                error.context(self.place_after(Some(index)))
            })?;
        }
        self.number += 1;
        self.rows += 1;
        Ok(Some(data.len() - cursor.rest.len()))
    }

    pub(super) fn end(&mut self) -> Result<()> {
        match self.state {
            State::Ended => Ok(()),
            State::Header | State::Rows => {
                Err(Error::new(SqlState::BadCopyFileFormat, "unexpected EOF in COPY data").context(self.place_after(None)))
            }
        }
    }

    pub(super) fn take_batch(&mut self) -> (usize, Vec<ArrayRef>) {
        (std::mem::take(&mut self.rows), self.parsers.iter_mut().map(BinaryParser::finish).collect())
    }

    /// The row that is read, as errors name it.
    fn place_after(&self, column: Option<usize>) -> String {
        self.place_at(self.number + 1, column)
    }

    fn place(&self, column: Option<usize>) -> String {
        self.place_at(self.number, column)
    }

    fn place_at(&self, row: u64, column: Option<usize>) -> String {
        let relation = &self.relation;
        match column.and_then(|index| self.names.get(index)) {
            Some(column) => format!("COPY {relation}, line {row}, column {column}"),
            None => format!("COPY {relation}, line {row}"),
        }
    }
}
