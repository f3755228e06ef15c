//! Frames from a byte stream, and buffered bytes back.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Failure;
use crate::error::{Error, SqlState};

/// The longest message of a type that is never long, and the longest of any type before login.
pub(super) const SMALL_MESSAGE_BYTES_MAX: usize = 10_000;

/// No message may announce more: PostgreSQL's own limit.
const ANNOUNCED_BYTES_MAX: usize = 0x3fff_ffff;

/// How much is read ahead of the statement that runs, while watching for the client's going away.
const READ_AHEAD_BYTES_MAX: usize = 256 * 1024;

/// How much is asked of the socket at once.
const READ_BYTES: usize = 16 * 1024;

/// The shortest and the longest packet before login, its length included.
const STARTUP_BYTES: std::ops::RangeInclusive<usize> = 8..=SMALL_MESSAGE_BYTES_MAX;

/// A message: its type and what follows the length.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// What arrived.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A whole message.
    Frame(Frame),
    /// A message over the limit, read past.
    TooLong {
        /// Its type.
        tag: u8,
    },
}

/// A socket with a buffer on either side.
#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    inbox: BytesMut,
    /// What waits to be sent.
    pub(super) outbox: BytesMut,
    message_bytes_max: usize,
    /// A message over the limit that is being read past: its type, and the bytes still to come.
    skipping: Option<(u8, usize)>,
    read_closed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S, message_bytes_max: usize) -> Self {
        Self {
            stream,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            message_bytes_max: message_bytes_max.min(ANNOUNCED_BYTES_MAX),
            skipping: None,
            read_closed: false,
        }
    }

    /// The next message; `None` at the end of the stream. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Incoming>, Failure> {
        loop {
            if let Some(incoming) = self.take()? {
                return Ok(Some(incoming));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// A packet of the time before login: what follows its length. `None` where there is none, or what came is not one.
    pub(super) async fn next_startup(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(length) = self.inbox.first_chunk().map(|length| u32::from_be_bytes(*length)) {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if !STARTUP_BYTES.contains(&length) {
                    return Ok(None);
                }
                if self.inbox.len() >= length {
                    self.inbox.advance(4);
                    return Ok(Some(self.inbox.split_to(length - 4).freeze()));
                }
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// The type of the next message, if it has begun to arrive.
    pub(super) fn next_tag(&self) -> Option<u8> {
        self.inbox.first().copied()
    }

    fn take(&mut self) -> Result<Option<Incoming>, Failure> {
        if let Some((tag, left)) = self.skipping {
            let here = left.min(self.inbox.len());
            self.inbox.advance(here);
            if here < left {
                self.skipping = Some((tag, left - here));
                return Ok(None);
            }
            self.skipping = None;
            return Ok(Some(Incoming::TooLong { tag }));
        }
        let Some(&tag) = self.inbox.first() else { return Ok(None) };
        let may_be_long = may_be_long(tag).ok_or_else(|| unknown_type(tag))?;
        let Some(length) = self.inbox.get(1..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let body_bytes = length.checked_sub(4).filter(|bytes| *bytes <= ANNOUNCED_BYTES_MAX).ok_or_else(invalid_length)?;
        if body_bytes > SMALL_MESSAGE_BYTES_MAX && !may_be_long {
            return Err(invalid_length());
        }
        if body_bytes > self.message_bytes_max {
            self.inbox.advance(5);
            self.skipping = Some((tag, body_bytes));
            return self.take();
        }
        if self.inbox.len() < 5 + body_bytes {
            return Ok(None);
        }
        self.inbox.advance(5);
        Ok(Some(Incoming::Frame(Frame { tag, body: self.inbox.split_to(body_bytes).freeze() })))
    }

    /// Reads what is there; `false` at the end of the stream.
    async fn fill(&mut self) -> Result<bool, Failure> {
        if self.read_closed {
            return Ok(false);
        }
        self.inbox.reserve(READ_BYTES);
        let read = self.stream.read_buf(&mut self.inbox).await?;
        self.read_closed = read == 0;
        Ok(read > 0)
    }

    /// Returns when the client has gone away; until then reads ahead a bounded part of what it sends. Cancel safe.
    pub(super) async fn gone(&mut self) {
        loop {
            if self.inbox.len() >= READ_AHEAD_BYTES_MAX {
                std::future::pending::<()>().await;
            }
            match self.fill().await {
                Ok(true) => {}
                Ok(false) | Err(_) => return,
            }
        }
    }

    /// Sends what waits. Cancel safe: what was not sent stays in the outbox.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        while !self.outbox.is_empty() {
            // One buffer: the system does less for it than for the list of buffers that `write_buf` hands over.
            match self.stream.write(&self.outbox).await? {
                0 => return Err(Failure::Gone),
                all if all == self.outbox.len() => self.outbox.clear(),
                part => self.outbox.advance(part),
            }
        }
        Ok(self.stream.flush().await?)
    }

    /// Says that nothing more will be sent.
    pub(super) async fn close(&mut self) {
        // The client may have closed first; either way the connection is over.
        let _ = self.stream.shutdown().await;
    }
}

/// Whether messages of this type may be long; `None` for types that no client sends after login.
fn may_be_long(tag: u8) -> Option<bool> {
    match tag {
        b'Q' | b'P' | b'B' | b'F' | b'd' => Some(true),
        b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' | b'f' => Some(false),
        _ => None,
    }
}

fn unknown_type(tag: u8) -> Failure {
    Failure::Fatal(Error::new(SqlState::ProtocolViolation, format!("invalid frontend message type {tag}")))
}

fn invalid_length() -> Failure {
    Failure::Fatal(Error::new(SqlState::ProtocolViolation, "invalid message length"))
}
