//! What the server says: messages into the outbox.

use bytes::{BufMut, Bytes, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::copy::{CopyDone, CopyInResponse, CopyOutResponse};
use pgwire::messages::data::{FieldDescription, NoData, ParameterDescription, RowDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete, PortalSuspended};
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus as WireStatus,
};
use pgwire::messages::startup::{Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey};

use super::Format;
use super::cancel::Registration;
use crate::error::{Error, Result};
use crate::session::{Notice, TransactionStatus};
use crate::types::SqlType;
use crate::types::text::write_integer;

/// The version spoken: what a client that asks for a later one is told.
pub(super) const PROTOCOL_LATEST: u32 = 3 << 16 | 2;

/// How bad an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// The statement failed.
    Error,
    /// The connection ends.
    Fatal,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        }
    }
}

/// A column of a result, as a client is told of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) sql_type: SqlType,
}

/// Messages under construction.
pub(super) trait Backend {
    /// Adds a message as pgwire encodes it.
    fn message(&mut self, message: &impl Message) -> Result<()>;

    fn authentication_ok(&mut self) -> Result<()> {
        self.message(&Authentication::Ok)
    }

    fn negotiate_version(&mut self, version: u32, unknown_options: Vec<String>) -> Result<()> {
        let version = i32::try_from(version).unwrap_or(i32::MAX);
        self.message(&NegotiateProtocolVersion::new(version, unknown_options))
    }

    fn backend_key(&mut self, registration: &Registration, version: u32) -> Result<()> {
        let key = match version & 0xffff {
            0 | 1 => SecretKey::I32(registration.key.short()),
            _ => SecretKey::Bytes(Bytes::copy_from_slice(registration.key.long())),
        };
        self.message(&BackendKeyData::new(registration.pid, key))
    }

    fn parameter_status(&mut self, name: &str, value: &str) -> Result<()> {
        self.message(&ParameterStatus::new(plain(name), plain(value)))
    }

    fn ready(&mut self, status: TransactionStatus) -> Result<()> {
        self.message(&ReadyForQuery::new(match status {
            TransactionStatus::Idle => WireStatus::Idle,
            TransactionStatus::Open => WireStatus::Transaction,
            TransactionStatus::Failed => WireStatus::Error,
        }))
    }

    fn complete(&mut self, tag: &str) -> Result<()> {
        self.message(&CommandComplete::new(plain(tag)))
    }

    /// The tag of a query.
    fn select_complete(&mut self, rows: u64);

    fn empty_query(&mut self) -> Result<()> {
        self.message(&EmptyQueryResponse::new())
    }

    fn parse_complete(&mut self) -> Result<()> {
        self.message(&ParseComplete::new())
    }

    fn bind_complete(&mut self) -> Result<()> {
        self.message(&BindComplete::new())
    }

    fn close_complete(&mut self) -> Result<()> {
        self.message(&CloseComplete::new())
    }

    fn portal_suspended(&mut self) -> Result<()> {
        self.message(&PortalSuspended::new())
    }

    fn no_data(&mut self) -> Result<()> {
        self.message(&NoData::new())
    }

    fn parameter_description(&mut self, types: &[SqlType]) -> Result<()> {
        self.message(&ParameterDescription::new(types.iter().map(SqlType::oid).collect()))
    }

    fn row_description(&mut self, columns: &[Column], format: impl Fn(usize) -> Format) -> Result<()> {
        let describe = |(index, column): (usize, &Column)| {
            let Column { name, sql_type } = column;
            let (oid, size, modifier) = (sql_type.oid(), sql_type.wire_size(), sql_type.type_modifier());
            FieldDescription::new(plain(name), 0, 0, oid, size, modifier, format(index).code())
        };
        self.message(&RowDescription::new(columns.iter().enumerate().map(describe).collect()))
    }

    fn copy_in(&mut self, format: Format, columns: usize) -> Result<()> {
        let (count, formats) = copy_formats(format, columns)?;
        self.message(&CopyInResponse::new(i8::from(format == Format::Binary), count, formats))
    }

    fn copy_out(&mut self, format: Format, columns: usize) -> Result<()> {
        let (count, formats) = copy_formats(format, columns)?;
        self.message(&CopyOutResponse::new(i8::from(format == Format::Binary), count, formats))
    }

    fn copy_done(&mut self) -> Result<()> {
        self.message(&CopyDone::new())
    }

    fn error(&mut self, severity: Severity, error: &Error) -> Result<()> {
        let mut fields = header(severity.name(), error.code().code(), error.message());
        let optional = [(b'D', error.detail_text()), (b'H', error.hint_text()), (b'W', error.context_text())];
        fields.extend(optional.into_iter().filter_map(|(field, text)| text.map(|text| (field, plain(text)))));
        fields.extend(error.position().map(|position| (b'P', position.to_string())));
        self.message(&ErrorResponse::new(fields))
    }

    fn notice(&mut self, notice: &Notice) -> Result<()> {
        let mut fields = header(notice.severity, notice.code, &notice.message);
        fields.extend(notice.hint.iter().map(|hint| (b'H', plain(hint))));
        self.message(&NoticeResponse::new(fields))
    }
}

impl Backend for BytesMut {
    fn message(&mut self, message: &impl Message) -> Result<()> {
        let start = self.len();
        message.encode(self).map_err(|problem| {
            // What was begun of it is taken back, so that the stream of messages stays whole.
            self.truncate(start);
            Error::internal("could not encode a message").caused_by(problem)
        })
    }

    fn select_complete(&mut self, rows: u64) {
        let start = self.len();
        self.extend_from_slice(b"C\0\0\0\0SELECT ");
        write_integer(self, i64::try_from(rows).unwrap_or(i64::MAX));
        self.put_u8(0);
        // A tag has few bytes.
        let length = u8::try_from(self.len() - start - 1).unwrap_or(u8::MAX);
        self[start + 4] = length;
    }
}

fn header(severity: &str, code: &str, message: &str) -> Vec<(u8, String)> {
    vec![(b'S', severity.to_owned()), (b'V', severity.to_owned()), (b'C', code.to_owned()), (b'M', plain(message))]
}

fn copy_formats(format: Format, columns: usize) -> Result<(i16, Vec<i16>)> {
    let count = i16::try_from(columns).map_err(|_| Error::internal("a relation with more columns than COPY can have"))?;
    Ok((count, vec![format.code(); columns]))
}

/// Strings end at a zero byte on the wire, so none may stand inside.
fn plain(text: &str) -> String {
    text.replace('\0', "")
}

/// Writes a length before what `write` adds. A length that does not fit is refused: a client would take the rest for the next
/// message.
pub(super) fn with_length(
    out: &mut BytesMut,
    counts_itself: usize,
    write: impl FnOnce(&mut BytesMut) -> Result<()>,
) -> Result<()> {
    let start = out.len();
    out.put_i32(0);
    write(out)?;
    let length = out.len() - start - 4 + counts_itself;
    if length > VALUE_BYTES_MAX {
        return Err(Error::new(
            crate::error::SqlState::ProgramLimitExceeded,
            format!("a row or value of {length} bytes is longer than a message may be"),
        ));
    }
    let length = i32::try_from(length).map_err(|_| Error::internal("a length over the limit got past it"))?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// The longest value and the longest row: PostgreSQL's limit.
const VALUE_BYTES_MAX: usize = 0x3fff_ffff;
