//! Lines from pieces of data: a line end inside quotes, or after a backslash, is part of a value.

use crate::error::{Error, Result, SqlState};
use crate::parser::{CopyFormat, CopyOptions};

/// How lines end; the first line decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineEnd {
    Newline,
    CarriageReturnNewline,
}

/// Cuts data into lines.
#[derive(Debug)]
pub(super) struct LineReader {
    buffer: Vec<u8>,
    /// Where the line that is looked for starts.
    start: usize,
    /// How far it was looked for.
    scanned: usize,
    scan: Scan,
    line_end: Option<LineEnd>,
    /// The lines taken or begun, as an editor would count them.
    pub(super) number: u64,
    line_bytes_max: usize,
}

#[derive(Clone, Copy, Debug)]
enum Scan {
    Text { after_backslash: bool },
    Csv { quote: u8, escape: Option<u8>, in_quotes: bool, after_escape: bool },
}

impl LineReader {
    pub(super) fn new(options: &CopyOptions, line_bytes_max: usize) -> Self {
        let scan = match options.format {
            CopyFormat::Csv => Scan::Csv {
                quote: options.quote,
                // A doubled quote closes and opens again: the same to who looks for line ends.
                escape: (options.escape != options.quote).then_some(options.escape),
                in_quotes: false,
                after_escape: false,
            },
            CopyFormat::Text | CopyFormat::Binary => Scan::Text { after_backslash: false },
        };
        Self { buffer: Vec::new(), start: 0, scanned: 0, scan, line_end: None, number: 0, line_bytes_max }
    }

    pub(super) fn feed(&mut self, data: &[u8]) {
        self.buffer.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(data);
    }

    /// Moves to the next whole line; `None` until more data comes. [`LineReader::line`] gives it.
    pub(super) fn next(&mut self) -> Result<Option<std::ops::Range<usize>>> {
        while let Some(&byte) = self.buffer.get(self.scanned) {
            self.scanned += 1;
            if byte == b'\n' {
                self.number += 1;
            }
            if self.ends_line(byte) {
                let line = self.start..self.scanned - 1;
                self.start = self.scanned;
                return self.without_return(line).map(Some);
            }
        }
        if self.buffer.len() - self.start > self.line_bytes_max {
            let message = format!("a line of COPY data is longer than {} bytes", self.line_bytes_max);
            return Err(Error::new(SqlState::ProgramLimitExceeded, message));
        }
        Ok(None)
    }

    /// The last line, if it has no end of its own.
    pub(super) fn last(&mut self) -> Result<Option<std::ops::Range<usize>>> {
        let line = self.start..self.buffer.len();
        if line.is_empty() {
            return Ok(None);
        }
        self.start = self.buffer.len();
        self.number += 1;
        if matches!(self.scan, Scan::Csv { in_quotes: true, .. }) {
            return Err(Error::new(SqlState::BadCopyFileFormat, "unterminated CSV quoted field"));
        }
        match (self.line_end, self.buffer[line.clone()].last()) {
            (Some(LineEnd::CarriageReturnNewline), Some(b'\r')) => Ok(Some(line.start..line.end - 1)),
            _ => Ok(Some(line)),
        }
    }

    pub(super) fn line(&self, line: std::ops::Range<usize>) -> &[u8] {
        &self.buffer[line]
    }

    fn ends_line(&mut self, byte: u8) -> bool {
        match &mut self.scan {
            Scan::Text { after_backslash } => {
                let escaped = std::mem::replace(after_backslash, byte == b'\\' && !*after_backslash);
                byte == b'\n' && !escaped
            }
            Scan::Csv { quote, escape, in_quotes, after_escape } => {
                if *in_quotes && *escape == Some(byte) {
                    *after_escape = !*after_escape;
                    return false;
                }
                if byte == *quote && !*after_escape {
                    *in_quotes = !*in_quotes;
                }
                *after_escape = false;
                byte == b'\n' && !*in_quotes
            }
        }
    }

    fn without_return(&mut self, line: std::ops::Range<usize>) -> Result<std::ops::Range<usize>> {
        let has_return = self.buffer[line.clone()].last() == Some(&b'\r');
        let here = if has_return { LineEnd::CarriageReturnNewline } else { LineEnd::Newline };
        match (*self.line_end.get_or_insert(here), here) {
            (LineEnd::Newline, LineEnd::Newline) => Ok(line),
            (LineEnd::CarriageReturnNewline, LineEnd::CarriageReturnNewline) => Ok(line.start..line.end - 1),
            (LineEnd::Newline, LineEnd::CarriageReturnNewline) => Err(self.stray("carriage return", "\\r")),
            (LineEnd::CarriageReturnNewline, LineEnd::Newline) => Err(self.stray("newline", "\\n")),
        }
    }

    fn stray(&self, what: &str, escape: &str) -> Error {
        let (kind, hint) = match self.scan {
            Scan::Text { .. } => ("literal", format!("Use \"{escape}\" to represent {what}.")),
            Scan::Csv { .. } => ("unquoted", format!("Use quoted CSV field to represent {what}.")),
        };
        Error::new(SqlState::BadCopyFileFormat, format!("{kind} {what} found in data")).hint(hint)
    }
}
