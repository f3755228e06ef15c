//! `COPY` data, both ways.

mod binary;
mod csv;
mod lines;
mod read;
mod text;
mod write;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::backend::Backend;
use super::connection::{Connection, guard};
use super::frontend::Message;
use super::{Failure, Format};
use crate::error::{Error, SqlState};
use crate::parser::CopyFormat;
use crate::session::CopyIn;

pub(super) use read::CopyReader;
pub(super) use write::CopyWriter;

/// How many bytes are read before other connections have their turn.
const READ_BYTES: usize = 64 * 1024;

fn message_format(format: CopyFormat) -> Format {
    match format {
        CopyFormat::Text | CopyFormat::Csv => Format::Text,
        CopyFormat::Binary => Format::Binary,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    /// Takes the rows a client sends, and has the session write them: all or none.
    pub(super) async fn copy_in(&mut self, copy: &CopyIn, deadline: Option<Instant>) -> Result<(), Failure> {
        let mut reader = CopyReader::new(copy, self.zone()?, self.limits.message_bytes_max)?;
        self.wire.outbox.copy_in(message_format(copy.options.format), copy.columns.fields().len())?;
        self.flush_guarded(deadline).await?;
        let (mut taken, mut turn_ends) = (0, READ_BYTES);
        loop {
            let frame = self.next_guarded(deadline).await?;
            match Message::parse(&frame)? {
                Message::CopyData(data) => {
                    taken += data.len();
                    if taken > self.limits.copy_bytes_max {
                        return Err(Failure::Statement(self.copy_too_long()));
                    }
                    reader.feed(data)?;
                    // Connections of one thread have their turns, however fast a client sends.
                    if taken >= turn_ends {
                        turn_ends = taken + READ_BYTES;
                        tokio::task::yield_now().await;
                    }
                }
                Message::CopyDone => break,
                Message::CopyFail(why) => {
                    return Err(Error::new(SqlState::QueryCanceled, format!("COPY from stdin failed: {why}")).into());
                }
                // Clients that send them with the statement, before they know that it is a COPY.
                Message::Flush | Message::Sync => {}
                Message::Terminate => return Err(Failure::Gone),
                _ => {
                    let message = format!("unexpected message type 0x{:02X} during COPY from stdin", frame.tag);
                    return Err(Error::new(SqlState::ProtocolViolation, message).into());
                }
            }
        }
        let rows = reader.finish()?;
        let tag = guard(&self.registration.switch, deadline, self.session.copy_in(copy, rows)).await?;
        self.notices()?;
        self.wire.outbox.complete(&tag)?;
        Ok(())
    }

    fn copy_too_long(&self) -> Error {
        let most = self.limits.copy_bytes_max;
        Error::new(SqlState::ProgramLimitExceeded, format!("a COPY may bring at most {most} bytes"))
            .hint("Load the rows in several COPY commands.")
    }
}
