//! One client's connection: messages in, answers out, until either side ends it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::backend::{Backend, Severity};
use super::cancel::{CancelSwitch, Registration, shutdown_error};
use super::copy::CopyWriter;
use super::encode::TextStyle;
use super::extended::Extended;
use super::frontend::{Message, is_extended};
use super::lookups::Gathered;
use super::rows::{Formats, RowCursor};
use super::startup::{Opening, open};
use super::statements::StatementCache;
use super::wire::{Frame, Incoming, Wire};
use super::{Failure, Format, Host, Limits, Room, Stopping};
use crate::error::{Error, Result, SqlState};
use crate::parser::{self, Statement};
use crate::session::{Answer, Login, Session};
use crate::types::text::Zone;

/// How many bytes of a result gather before they are written.
pub(super) const WRITE_BYTES: usize = 64 * 1024;

/// Speaks with one client until it leaves, breaks the protocol, or the server stops. Never fails: what goes wrong is told to
/// the client, or to the log if it is the server's fault.
///
/// Not cancel safe; to end it, set [`Host::stopping`].
pub async fn serve_connection<S: AsyncRead + AsyncWrite + Unpin>(stream: S, host: Host, room: Room) {
    let mut wire = Wire::new(stream, host.limits.message_bytes_max);
    // A defect that panics takes down one connection, not the server, and its client is told.
    let outcome = AssertUnwindSafe(converse(&mut wire, &host, room)).catch_unwind().await;
    let failure = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(Failure::Gone)) => return,
        Ok(Err(Failure::Fatal(error) | Failure::Statement(error))) => Some(error),
        Err(_) => Some(Error::internal("the connection failed by a defect of the server")),
    };
    if let Some(failure) = failure {
        log(&failure);
        let told = wire.outbox.error(Severity::Fatal, &failure);
        debug_assert!(told.is_ok(), "an error message is always short enough");
    }
    let farewell = async {
        // Nobody may be there any more to read it.
        let _ = wire.flush().await;
        wire.close().await;
    };
    // A client that reads nothing is not waited for.
    let _ = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
}

const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>, host: &Host, room: Room) -> Result<(), Failure> {
    let opening = tokio::time::timeout(host.limits.login_timeout, open(wire)).await.map_err(|_| Failure::Gone)??;
    let (login, version) = match opening {
        Opening::LogIn { login, version } => (login, version),
        Opening::Cancel { pid, key } => {
            host.cancels.cancel(pid, &key);
            return Ok(());
        }
        Opening::Nothing => return Ok(()),
    };
    if room == Room::Full {
        return Err(Failure::Fatal(Error::new(SqlState::TooManyConnections, "sorry, too many clients already")));
    }
    let mut connection = Connection::log_in(wire, host, login, version)?;
    connection.ready()?;
    connection.wire.flush().await?;
    connection.serve(host).await
}

/// A connection whose client has logged in.
pub(super) struct Connection<'a, S> {
    pub(super) wire: &'a mut Wire<S>,
    pub(super) session: Session,
    pub(super) limits: Limits,
    pub(super) extended: Extended,
    /// The lookups of the pipeline that are not answered yet.
    pub(super) gathered: Gathered,
    pub(super) statements: Arc<StatementCache>,
    pub(super) registration: Registration,
    read: SettingsRead,
}

/// What the protocol reads of the session's settings, as it was at a generation of them.
struct SettingsRead {
    generation: u64,
    statement_timeout: Option<Duration>,
    zone: Zone,
}

impl SettingsRead {
    fn of(session: &Session) -> Result<Self> {
        Ok(Self {
            generation: session.settings_generation(),
            statement_timeout: session.setting("statement_timeout").and_then(parse_duration),
            zone: session.setting("TimeZone").map_or(Ok(Zone::Utc), Zone::parse)?,
        })
    }
}

/// What became of a result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// All of it was sent.
    Whole,
    /// As many rows as asked for; there may be more.
    Part,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Connection<'a, S> {
    /// Opens the session and greets the client. This is where a password would be asked for: nothing of the startup message
    /// has been acted on before.
    fn log_in(wire: &'a mut Wire<S>, host: &Host, mut login: Login, version: u32) -> Result<Self, Failure> {
        let registration = host.cancels.register();
        login.backend_pid = registration.pid;
        let session = Session::open(&host.services, login).map_err(Failure::Fatal)?;
        let out = &mut wire.outbox;
        out.authentication_ok()?;
        for (name, value) in session.reported_settings() {
            out.parameter_status(name, &value)?;
        }
        out.backend_key(&registration, version)?;
        Ok(Self {
            wire,
            read: SettingsRead::of(&session)?,
            session,
            limits: host.limits.clone(),
            extended: Extended::default(),
            gathered: Gathered::default(),
            statements: Arc::clone(&host.statements),
            registration,
        })
    }

    async fn serve(&mut self, host: &Host) -> Result<(), Failure> {
        let mut stopping = host.stopping.clone();
        let switch = Arc::clone(&self.registration.switch);
        let mut cutting = host.stopping.clone();
        // The switch cuts off a statement under way; between statements the other arm of the loop notices.
        let cut = async move {
            if cutting.wait_for(|stopping| *stopping == Stopping::Now).await.is_ok() {
                switch.shut_down();
            }
            std::future::pending::<()>().await;
        };
        // Waited for by one future each all along: to begin to wait means to queue with the other connections.
        let stop = stopping.wait_for(|stopping| *stopping != Stopping::No);
        tokio::pin!(cut, stop);
        loop {
            let incoming = tokio::select! {
                biased;
                incoming = self.wire.next() => incoming?,
                _ = &mut stop => return Err(Failure::Fatal(shutdown_error())),
            };
            let Some(incoming) = incoming else { return Ok(()) };
            let goes_on = tokio::select! {
                biased;
                goes_on = self.take(incoming) => goes_on?,
                () = &mut cut => false,
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Carries out a message; gives whether there may be more.
    async fn take(&mut self, incoming: Incoming) -> Result<bool, Failure> {
        let (Incoming::Frame(Frame { tag, .. }) | Incoming::TooLong { tag }) = incoming;
        if self.extended.skips(tag) {
            return Ok(true);
        }
        let frame = match incoming {
            Incoming::Frame(frame) => frame,
            Incoming::TooLong { tag } => return self.refuse(tag, self.too_long()).await.map(|()| true),
        };
        let message = match Message::parse(&frame) {
            Ok(message) => message,
            Err(problem) => return self.refuse(frame.tag, problem).await.map(|()| true),
        };
        match message {
            Message::Terminate => return Ok(false),
            Message::Query(text) => self.simple_query(text).await?,
            Message::Sync => self.sync().await?,
            Message::Flush => self.flush_pipeline().await?,
            // What is left of a `COPY` that failed.
            Message::CopyData(_) | Message::CopyDone | Message::CopyFail(_) => {}
            Message::FunctionCall => self.refuse(b'F', Error::unsupported("a function call message")).await?,
            message => self.extended_message(message, &frame.body).await?,
        }
        Ok(true)
    }

    pub(super) fn too_long(&self) -> Error {
        Error::new(
            SqlState::ProgramLimitExceeded,
            format!("the message is longer than the {} bytes a message may have", self.limits.message_bytes_max),
        )
        .hint("Send less at once, or raise the server's limit.")
    }

    /// Answers a message that could not be understood, as its kind wants.
    async fn refuse(&mut self, tag: u8, problem: Error) -> Result<(), Failure> {
        match tag {
            _ if is_extended(tag) => self.fail_extended(&problem).await,
            b'd' => Ok(()),
            _ => {
                self.fail(&problem)?;
                self.ready()?;
                self.wire.flush().await
            }
        }
    }

    /// Tells the client of an error, and the session that its transaction failed.
    pub(super) fn fail(&mut self, error: &Error) -> Result<()> {
        log(error);
        self.session.fail();
        self.notices()?;
        self.wire.outbox.error(Severity::Error, error)
    }

    /// Tells the client that the next message may come.
    pub(super) fn ready(&mut self) -> Result<()> {
        self.notices()?;
        for (name, value) in self.session.take_changed_settings() {
            self.wire.outbox.parameter_status(name, &value)?;
        }
        let status = self.session.transaction();
        self.wire.outbox.ready(status)
    }

    pub(super) fn notices(&mut self) -> Result<()> {
        for notice in self.session.take_notices() {
            self.wire.outbox.notice(&notice)?;
        }
        Ok(())
    }

    async fn simple_query(&mut self, text: &str) -> Result<(), Failure> {
        if !self.settle_or_fail().await? {
            return Ok(());
        }
        self.extended.end_unnamed();
        // A pipeline that was not ended by `Sync` ends here.
        if self.extended.take_joined() {
            self.end_implicit().await?;
        }
        match self.run_script(text).await {
            Ok(()) => {}
            Err(Failure::Statement(error)) => {
                self.fail(&error)?;
                // Whatever the statements were joined into is over: the next query starts anew.
                self.end_implicit().await?;
            }
            Err(other) => return Err(other),
        }
        self.extended.end_of_transaction(self.session.transaction());
        self.ready()?;
        self.wire.flush().await
    }

    /// The statements of one `Query`: one transaction, unless they say otherwise.
    async fn run_script(&mut self, text: &str) -> Result<(), Failure> {
        let mut statements = parser::parse(text)?;
        statements.retain(|statement| !matches!(statement, Statement::Empty));
        if statements.is_empty() {
            self.wire.outbox.empty_query()?;
            return Ok(());
        }
        let is_joined = statements.len() > 1;
        if is_joined {
            self.session.begin_implicit();
        }
        for statement in statements {
            let deadline = self.start_statement();
            if self.extended.deallocates(&statement, self.session.transaction()) {
                self.wire.outbox.complete("DEALLOCATE")?;
                continue;
            }
            let switch = &self.registration.switch;
            let prepared = guard(switch, deadline, self.session.prepare(statement, &[])).await?;
            if self.look_up_described(&prepared).await? {
                continue;
            }
            let switch = &self.registration.switch;
            let answer = guard(switch, deadline, self.session.run(&prepared, &[])).await?;
            self.send_described(answer, deadline).await?;
        }
        if is_joined {
            let deadline = self.start_statement();
            guard(&self.registration.switch, deadline, self.session.end_implicit()).await?;
        }
        Ok(())
    }

    /// Ends an implicit transaction: commits it, or clears away what is left of one that failed. An error is told.
    pub(super) async fn end_implicit(&mut self) -> Result<(), Failure> {
        let deadline = self.start_statement();
        match guard(&self.registration.switch, deadline, self.session.end_implicit()).await {
            Err(Failure::Statement(error)) => Ok(self.fail(&error)?),
            other => other,
        }
    }

    /// Sends an answer whole, its columns first.
    async fn send_described(&mut self, answer: Answer, deadline: Option<Instant>) -> Result<(), Failure> {
        match answer {
            Answer::Rows { schema, stream, verb, counted } => {
                let formats = Formats::All(Format::Text);
                let mut cursor = RowCursor::new(&schema, stream, (verb, counted), formats, self.style()?)?;
                self.wire.outbox.row_description(&cursor.columns, |_| Format::Text)?;
                self.send_rows(&mut cursor, u64::MAX, deadline).await.map(|_| ())
            }
            other => self.send_other(other, deadline).await,
        }
    }

    /// Sends an answer that is not rows.
    pub(super) async fn send_other(&mut self, answer: Answer, deadline: Option<Instant>) -> Result<(), Failure> {
        match answer {
            Answer::Rows { .. } => return Err(Error::internal("rows where none were expected").into()),
            Answer::Done(tag) => {
                self.notices()?;
                self.wire.outbox.complete(&tag)?;
            }
            Answer::Empty => self.wire.outbox.empty_query()?,
            Answer::CopyIn(copy) => self.copy_in(&copy, deadline).await?,
            Answer::CopyOut { schema, mut stream, options } => {
                let mut writer = CopyWriter::new(&schema, &options, self.style()?)?;
                self.wire.outbox.copy_out(writer.format(), schema.fields().len())?;
                writer.begin(&mut self.wire.outbox)?;
                let mut rows: u64 = 0;
                while let Some(batch) = self.next_batch(&mut stream, deadline).await? {
                    let typed = writer.typed(&batch)?;
                    for row in 0..typed.rows() {
                        writer.write_row(&typed, row, &mut self.wire.outbox)?;
                        if self.wire.outbox.len() >= WRITE_BYTES {
                            self.flush_guarded(deadline).await?;
                        }
                    }
                    rows += batch.num_rows() as u64;
                }
                writer.end(&mut self.wire.outbox)?;
                self.wire.outbox.copy_done()?;
                self.notices()?;
                self.wire.outbox.complete(&format!("COPY {rows}"))?;
            }
        }
        Ok(())
    }

    /// Sends rows until there are no more or `rows_max` are sent, then the tag or word of the suspension.
    pub(super) async fn send_rows(
        &mut self,
        cursor: &mut RowCursor,
        rows_max: u64,
        deadline: Option<Instant>,
    ) -> Result<Sent, Failure> {
        let mut sent = 0;
        loop {
            if cursor.wants_batch() {
                match self.next_batch(&mut cursor.stream, deadline).await? {
                    Some(batch) => cursor.take_batch(&batch)?,
                    None => {
                        self.notices()?;
                        self.wire.outbox.complete(&cursor.tag(sent))?;
                        return Ok(Sent::Whole);
                    }
                }
            }
            sent += cursor.write_rows(rows_max - sent, WRITE_BYTES, &mut self.wire.outbox)?;
            if sent == rows_max {
                self.wire.outbox.portal_suspended()?;
                return Ok(Sent::Part);
            }
            if self.wire.outbox.len() >= WRITE_BYTES {
                self.flush_guarded(deadline).await?;
            }
        }
    }

    /// The next batch of a stream; the client's going away ends the wait, as nobody is left to read it.
    async fn next_batch(
        &mut self,
        stream: &mut crate::offline::BatchStream,
        deadline: Option<Instant>,
    ) -> Result<Option<arrow::array::RecordBatch>, Failure> {
        let wire = &mut *self.wire;
        tokio::select! {
            biased;
            reason = stopped(&self.registration.switch, deadline) => Err(reason),
            batch = stream.next() => Ok(batch.transpose()?),
            () = wire.gone() => Err(Failure::Gone),
        }
    }

    /// Writes what waits, as far as the client takes it before the statement is cancelled or out of time. The other connections
    /// of the thread then have their turn, however fast this one's client reads.
    pub(super) async fn flush_guarded(&mut self, deadline: Option<Instant>) -> Result<(), Failure> {
        tokio::select! {
            biased;
            reason = stopped(&self.registration.switch, deadline) => return Err(reason),
            flushed = self.wire.flush() => flushed?,
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    /// The next message of a `COPY … FROM STDIN`.
    pub(super) async fn next_guarded(&mut self, deadline: Option<Instant>) -> Result<Frame, Failure> {
        let incoming = tokio::select! {
            biased;
            reason = stopped(&self.registration.switch, deadline) => return Err(reason),
            incoming = self.wire.next() => incoming?,
        };
        match incoming {
            Some(Incoming::Frame(frame)) => Ok(frame),
            Some(Incoming::TooLong { .. }) => Err(Failure::Statement(self.too_long())),
            None => Err(Failure::Gone),
        }
    }

    /// Starts the clock of a statement; gives when its time is up.
    pub(super) fn start_statement(&mut self) -> Option<Instant> {
        self.registration.switch.arm();
        // Settings that cannot be read are told where their values are needed.
        let timeout = self.read_settings().ok()?.statement_timeout?;
        Instant::now().checked_add(timeout)
    }

    fn read_settings(&mut self) -> Result<&SettingsRead> {
        if self.read.generation != self.session.settings_generation() {
            self.read = SettingsRead::of(&self.session)?;
        }
        Ok(&self.read)
    }

    pub(super) fn zone(&mut self) -> Result<Zone> {
        Ok(self.read_settings()?.zone)
    }

    pub(super) fn style(&mut self) -> Result<TextStyle> {
        Ok(TextStyle { zone: self.zone()? })
    }
}

/// Lets the session work until it is done, cancelled, or out of time.
pub(super) async fn guard<T>(
    switch: &CancelSwitch,
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        // What need not wait is done before anybody waits for it to be stopped.
        done = work => Ok(done?),
        reason = stopped(switch, deadline) => Err(reason),
    }
}

/// Returns when the statement must stop, with the reason. Cancel safe.
async fn stopped(switch: &CancelSwitch, deadline: Option<Instant>) -> Failure {
    let timeout = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    let reason = tokio::select! {
        biased;
        reason = switch.cancelled() => reason,
        () = timeout => Error::new(SqlState::QueryCanceled, "canceling statement due to statement timeout"),
    };
    match reason.code() {
        SqlState::AdminShutdown => Failure::Fatal(reason),
        _ => Failure::Statement(reason),
    }
}

/// A duration as settings write it: a number of milliseconds, or one with its unit. `None` for zero, which means no limit.
fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let number: f64 = text[..digits].parse().ok()?;
    let micros_per_unit = match text[digits..].trim() {
        "us" => 1.0,
        "" | "ms" => 1e3,
        "s" => 1e6,
        "min" => 60e6,
        "h" => 3600e6,
        "d" => 86_400e6,
        _ => return None,
    };
    // Casting a float saturates.
    let micros = (number * micros_per_unit) as u64;
    (micros > 0).then(|| Duration::from_micros(micros))
}

/// A client's mistake is of interest to whoever looks for it; the server's own wants someone to look.
fn log(error: &Error) {
    let code = error.code().code();
    let cause = std::error::Error::source(error).map(ToString::to_string);
    match error.code() {
        SqlState::InternalError | SqlState::DataCorrupted => error!(code, message = error.message(), cause, "statement failed"),
        SqlState::IoError | SqlState::SystemError | SqlState::ConnectionFailure | SqlState::DiskFull | SqlState::OutOfMemory => {
            warn!(code, message = error.message(), cause, "statement failed");
        }
        _ => debug!(code, cause, "statement failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_settings_write_them() {
        let check =
            |text: &str, millis: Option<u64>| assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text}");
        check("0", None);
        check("250", Some(250));
        check("5s", Some(5000));
        check("1.5 s", Some(1500));
        check("2min", Some(120_000));
        check("soon", None);
    }
}
