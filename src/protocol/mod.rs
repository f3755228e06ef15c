//! Bytes to session and back: PostgreSQL's protocol, versions 3.0 and 3.2.
//!
//! The room reads frames (`wire`), understands them (`frontend`), keeps one client's prepared statements and portals
//! (`extended`), and turns Arrow into rows and `COPY` data and back (`encode`, `decode`, `copy`). What a statement
//! means is the session's to know. Backend messages are encoded by pgwire; frames are taken apart here, because a frame is
//! only parsed when it is whole, as a slice of its own, and every count in it is checked against what is there.
//!
//! Lookups by key take a road of their own (`lookups`, `key_values`): from the bytes of `Bind` to keys, from packed rows to
//! `DataRow`, all of a pipeline at once. Those that were compiled are shared by all connections (`statements`).
//!
//! Results stream: a batch is encoded as rows, the rows are written once enough have gathered, and the next batch is asked
//! for only when the client has taken them. Cancel requests, `statement_timeout` and the client's going away drop the
//! stream wherever it stands.

mod backend;
mod cancel;
mod connection;
mod copy;
mod decode;
mod encode;
mod extended;
mod frontend;
#[cfg(test)]
mod fuzz;
mod key_values;
mod lookups;
mod rows;
mod startup;
mod statements;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::sync::watch;

use crate::error::{Error, Result, SqlState};
use crate::session::Services;
use crate::types::SqlType;
use crate::types::cells::Cells;
use crate::types::text::Zone;

pub use cancel::CancelRegistry;
pub use connection::serve_connection;
pub use statements::StatementCache;

/// What one connection may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The longest message after login, in bytes. A longer one is read past and answered with an error.
    pub message_bytes_max: usize,
    /// The prepared statements one connection may hold.
    pub statements_max: usize,
    /// The portals one connection may hold.
    pub portals_max: usize,
    /// The bytes one `COPY … FROM STDIN` may bring: all of its rows are written, or none, so all of them are held.
    pub copy_bytes_max: usize,
    /// How long a login may take.
    pub login_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 16 << 20,
            statements_max: 4096,
            portals_max: 256,
            copy_bytes_max: 1 << 30,
            login_timeout: Duration::from_secs(60),
        }
    }
}

/// How far the server is from stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// It is not.
    No,
    /// Connections close as soon as they are idle.
    WhenIdle,
    /// Connections cancel what they run and close.
    Now,
}

/// Whether there is room for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Free,
    /// There is none: the client is told so after it has said who it is. Cancel requests are still taken.
    Full,
}

/// What the server gives every connection.
#[derive(Clone)]
pub struct Host {
    /// What sessions are made from.
    pub services: Arc<Services>,
    /// What the connection may take.
    pub limits: Limits,
    /// The lookups that connections share.
    pub statements: Arc<StatementCache>,
    /// Where running statements can be cancelled.
    pub cancels: Arc<CancelRegistry>,
    /// Whether the server is stopping.
    pub stopping: watch::Receiver<Stopping>,
}

/// Why a message was not carried out.
#[derive(Debug)]
enum Failure {
    /// The client went away, or the socket broke: there is nobody to tell.
    Gone,
    /// The connection cannot go on: the client is told, then it is closed.
    Fatal(Error),
    /// The statement failed; the connection goes on.
    Statement(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Statement(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(_: std::io::Error) -> Self {
        Failure::Gone
    }
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// As text.
    Text,
    /// In its type's binary form.
    Binary,
}

impl Format {
    fn of_code(code: i16) -> Result<Self> {
        match code {
            0 => Ok(Format::Text),
            1 => Ok(Format::Binary),
            other => Err(Error::new(SqlState::InvalidParameterValue, format!("unsupported format code: {other}"))),
        }
    }

    fn code(self) -> i16 {
        match self {
            Format::Text => 0,
            Format::Binary => 1,
        }
    }
}

/// The cells of a batch as text, a row a vector, as a client that asks for text is sent them; `None` is NULL.
///
/// For few rows: it copies every cell.
pub fn text_cells(batch: &RecordBatch, time_zone: &str) -> Result<Vec<Vec<Option<String>>>> {
    let zone = Zone::parse(time_zone)?;
    let mut rows = vec![Vec::with_capacity(batch.num_columns()); batch.num_rows()];
    for (array, field) in batch.columns().iter().zip(batch.schema_ref().fields()) {
        let sql_type =
            SqlType::of_field(field).ok_or_else(|| Error::unsupported(format!("a result of type {}", field.data_type())))?;
        let cells = Cells::new(array, &sql_type)?;
        for (n, row) in rows.iter_mut().enumerate() {
            let text = (!cells.is_null(n)).then(|| {
                let mut text = String::new();
                cells.write_text(n, zone, &mut text);
                text
            });
            row.push(text);
        }
    }
    Ok(rows)
}
