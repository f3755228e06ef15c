//! What clients say: the bodies of their messages, taken apart.

use super::Format;
use super::wire::Frame;
use crate::error::{Error, Result, SqlState};

/// A message from the client, borrowing from its frame.
#[derive(Debug, PartialEq)]
pub(super) enum Message<'a> {
    Query(&'a str),
    Parse { name: &'a str, query: &'a str, types: Vec<u32> },
    Bind(Bind<'a>),
    Describe { kind: Kind, name: &'a str },
    Execute { portal: &'a str, rows_max: i32 },
    Close { kind: Kind, name: &'a str },
    Flush,
    Sync,
    Terminate,
    CopyData(&'a [u8]),
    CopyDone,
    CopyFail(&'a str),
    FunctionCall,
}

/// What `Describe` and `Close` speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Statement,
    Portal,
}

/// `Bind`: a portal from a statement and its parameters.
#[derive(Debug, PartialEq)]
pub(super) struct Bind<'a> {
    pub(super) portal: &'a str,
    pub(super) statement: &'a str,
    pub(super) parameter_formats: Vec<i16>,
    pub(super) parameters: Vec<Option<&'a [u8]>>,
    pub(super) result_formats: Vec<i16>,
}

impl Bind<'_> {
    /// How the parameter at this place, from 0, is written.
    pub(super) fn parameter_format(&self, place: usize) -> Result<Format> {
        let code = match self.parameter_formats.as_slice() {
            [] => 0,
            [all] => *all,
            each => each.get(place).copied().unwrap_or(0),
        };
        Format::of_code(code)
    }
}

impl<'a> Message<'a> {
    /// Takes a frame apart; `08P01` if its body is not what its type says.
    pub(super) fn parse(frame: &'a Frame) -> Result<Self> {
        let mut body = Cursor { rest: &frame.body };
        let message = match frame.tag {
            b'Q' => Message::Query(body.text()?),
            b'P' => Message::Parse { name: body.text()?, query: body.text()?, types: body.counted(Cursor::u32)? },
            b'B' => Message::Bind(Bind {
                portal: body.text()?,
                statement: body.text()?,
                parameter_formats: body.counted(Cursor::i16)?,
                parameters: body.counted(Cursor::value)?,
                result_formats: body.counted(Cursor::i16)?,
            }),
            b'D' => Message::Describe { kind: body.kind("DESCRIBE")?, name: body.text()? },
            b'C' => Message::Close { kind: body.kind("CLOSE")?, name: body.text()? },
            b'E' => Message::Execute { portal: body.text()?, rows_max: body.i32()? },
            b'H' => Message::Flush,
            b'S' => Message::Sync,
            b'X' => Message::Terminate,
            b'd' => Message::CopyData(std::mem::take(&mut body.rest)),
            b'c' => Message::CopyDone,
            b'f' => Message::CopyFail(body.text()?),
            b'F' => return Ok(Message::FunctionCall),
            tag => return Err(violation(format!("invalid frontend message type {tag}"))),
        };
        if body.rest.is_empty() { Ok(message) } else { Err(violation("invalid message format")) }
    }
}

/// Whether a message belongs to the extended protocol, after whose errors everything up to `Sync` is skipped.
pub(super) fn is_extended(tag: u8) -> bool {
    matches!(tag, b'P' | b'B' | b'D' | b'C' | b'E' | b'H')
}

fn violation(message: impl Into<String>) -> Error {
    Error::new(SqlState::ProtocolViolation, message)
}

/// What is left of a body.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(count) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => Err(violation("insufficient data left in message")),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.rest.split_first_chunk() {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(*bytes)
            }
            None => Err(violation("insufficient data left in message")),
        }
    }

    pub(super) fn i16(&mut self) -> Result<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// A string that ends with a zero byte.
    pub(super) fn text(&mut self) -> Result<&'a str> {
        let length = self.rest.iter().position(|byte| *byte == 0).ok_or_else(|| violation("invalid string in message"))?;
        let text = self.bytes(length)?;
        self.bytes(1)?;
        utf8(text)
    }

    /// As many items as the count before them says. Space is taken as they are found, not as they are announced.
    fn counted<T>(&mut self, item: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let count = u16::from_be_bytes(self.array()?);
        (0..count).map(|_| item(self)).collect()
    }

    /// A value with its length before it; -1 is NULL, and no other length may be negative.
    pub(super) fn value(&mut self) -> Result<Option<&'a [u8]>> {
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| violation("insufficient data left in message"))?;
                self.bytes(length).map(Some)
            }
        }
    }

    fn kind(&mut self, message: &str) -> Result<Kind> {
        match self.array()? {
            [b'S'] => Ok(Kind::Statement),
            [b'P'] => Ok(Kind::Portal),
            [other] => Err(violation(format!("invalid {message} message subtype {other}"))),
        }
    }
}

/// The bytes as text; `22021` if they are not UTF-8, naming the first bytes that are not.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|problem| {
        let bad = &bytes[problem.valid_up_to()..];
        let length = problem.error_len().unwrap_or(bad.len()).min(bad.len());
        let shown: Vec<String> = bad[..length].iter().map(|byte| format!("0x{byte:02x}")).collect();
        let message = format!("invalid byte sequence for encoding \"UTF8\": {}", shown.join(" "));
        Error::new(SqlState::CharacterNotInRepertoire, message)
    })
}
