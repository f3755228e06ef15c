//! The extended protocol: prepared statements, portals, and the pipelines they come in.
//!
//! The statements between two `Sync` are one transaction. A single statement right before its `Sync`, as nearly all come, runs
//! as a transaction of its own: the same to its client, and an error at its commit stands in place of its tag.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use bytes::Bytes;
use datafusion::scalar::ScalarValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::backend::{Backend, Column};
use super::connection::{Connection, Sent, guard};
use super::decode;
use super::frontend::{Bind, Kind, Message};
use super::lookups::{Gathering, KeptRows};
use super::rows::{Formats, RowCursor};
use super::statements::NamedStatement;
use super::wire::Frame;
use super::{Failure, Format};
use crate::error::{Error, Result, SqlState};
use crate::lookup::{Ask, CompiledLookup};
use crate::parser::{self, Statement};
use crate::session::{Answer, Prepared, TransactionStatus};
use crate::types::SqlType;

/// A statement with its parameters, run or to be run.
struct Portal {
    bound: Arc<Bound>,
    state: PortalState,
}

/// A statement with its parameters.
pub(super) struct Bound {
    pub(super) statement: Arc<NamedStatement>,
    /// Their values; of a lookup, none: there is an [`Ask`] in their place.
    parameters: Vec<ScalarValue>,
    pub(super) formats: Formats,
}

pub(super) enum PortalState {
    /// It has not run.
    New,
    /// It has not run, and is a lookup. The message that bound it is kept for the planner.
    Lookup { ask: Ask, bind: Bytes },
    /// It is among the lookups that are not answered yet.
    Gathered,
    /// Some of its rows were sent.
    Suspended(Box<RowCursor>),
    /// Some of its rows were sent, the others are here.
    Kept(KeptRows),
    /// All of its rows were sent; running it again gives none.
    Exhausted,
    /// It ran, and cannot run again.
    Done,
}

/// The longest `Bind` that is copied to be kept. Keeping a part of the inbox instead keeps all of it.
const BIND_BYTES_COPIED_MAX: usize = 4096;

/// What one connection holds between messages.
#[derive(Default)]
pub(super) struct Extended {
    statements: HashMap<String, Arc<NamedStatement>>,
    portals: HashMap<String, Portal>,
    /// After an error, until `Sync`.
    skipping: bool,
    /// Whether the statements since the last `Sync` were joined into one transaction.
    joined: bool,
}

impl Extended {
    /// Whether a message is to be passed over.
    pub(super) fn skips(&self, tag: u8) -> bool {
        self.skipping && !matches!(tag, b'S' | b'X')
    }

    /// Forgets the unnamed statement and portal, as every simple query does.
    pub(super) fn end_unnamed(&mut self) {
        self.statements.remove("");
        self.portals.remove("");
    }

    /// Whether there is a pipeline to end; from now on there is none.
    pub(super) fn take_joined(&mut self) -> bool {
        std::mem::take(&mut self.joined)
    }

    /// Portals live as long as their transaction.
    pub(super) fn end_of_transaction(&mut self, status: TransactionStatus) {
        if status == TransactionStatus::Idle {
            self.portals.clear();
        }
    }

    /// Does what `DEALLOCATE` and `DISCARD` mean for the statements kept here; whether that is all there is to do.
    pub(super) fn deallocates(&mut self, statement: &Statement, status: TransactionStatus) -> bool {
        match statement {
            _ if status == TransactionStatus::Failed => false,
            Statement::Deallocate(Some(name)) => self.statements.remove(name).is_some(),
            Statement::Deallocate(None) => {
                self.statements.clear();
                false
            }
            Statement::Discard => {
                self.statements.clear();
                self.portals.clear();
                false
            }
            _ => false,
        }
    }

    /// Takes another statement for one that stays what it was to its client.
    pub(super) fn replace_statement(&mut self, name: &str, statement: &Arc<NamedStatement>) {
        if let Some(slot) = self.statements.get_mut(name) {
            *slot = Arc::clone(statement);
        }
    }

    /// Makes a name stand for what it stood for before.
    pub(super) fn put_back(&mut self, name: &str, statement: Option<Arc<NamedStatement>>) {
        match statement {
            Some(statement) => drop(self.statements.insert(name.to_owned(), statement)),
            None => drop(self.statements.remove(name)),
        }
    }

    /// What became of a portal, if it is still the one that was bound so.
    pub(super) fn set_state(&mut self, name: &str, bound: &Arc<Bound>, state: PortalState) {
        if let Some(portal) = self.portals.get_mut(name).filter(|portal| Arc::ptr_eq(&portal.bound, bound)) {
            portal.state = state;
        }
    }

    /// Takes out a portal that has not run, if it is a lookup that may be gathered.
    pub(super) fn take_lookup(&mut self, name: &str, may_be: impl FnOnce(&CompiledLookup) -> bool) -> Option<Gathering> {
        let portal = self.portals.get_mut(name)?;
        if !matches!(&portal.state, PortalState::Lookup { ask, .. } if may_be(&ask.lookup)) {
            return None;
        }
        match std::mem::replace(&mut portal.state, PortalState::Gathered) {
            PortalState::Lookup { ask, bind } => Some(Gathering { bound: Arc::clone(&portal.bound), ask, bind }),
            other => {
                portal.state = other;
                None
            }
        }
    }

    /// Removes a portal, if it is still the one that was bound so.
    pub(super) fn remove_portal(&mut self, name: &str, bound: &Arc<Bound>) {
        if self.portals.get(name).is_some_and(|portal| Arc::ptr_eq(&portal.bound, bound)) {
            self.portals.remove(name);
        }
    }

    fn statement(&self, name: &str) -> Result<&Arc<NamedStatement>> {
        self.statements.get(name).ok_or_else(|| {
            let message = match name {
                "" => "unnamed prepared statement does not exist".to_owned(),
                name => format!("prepared statement \"{name}\" does not exist"),
            };
            Error::new(SqlState::InvalidSqlStatementName, message)
        })
    }
}

fn no_portal(name: &str) -> Error {
    Error::new(SqlState::InvalidCursorName, format!("portal \"{name}\" does not exist"))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    /// Carries out a message whose body is `body`.
    pub(super) async fn extended_message(&mut self, message: Message<'_>, body: &Bytes) -> Result<(), Failure> {
        let outcome = match message {
            Message::Parse { name, query, types } => self.parse(name, query, &types).await,
            Message::Bind(bind) => self.bind(&bind, body).await,
            Message::Describe { kind, name } => self.describe(kind, name).map_err(Failure::from),
            Message::Execute { portal, rows_max } => self.execute(portal, rows_max).await,
            Message::Close { kind, name } => self.close(kind, name).await,
            other => Err(Error::internal(format!("{other:?} is not of the extended protocol")).into()),
        };
        match outcome {
            Err(Failure::Statement(error)) => self.fail_extended(&error).await,
            other => other,
        }
    }

    /// Answers the lookups gathered so far, or tells what is wrong with them; gives whether the pipeline goes on.
    pub(super) async fn settle_or_fail(&mut self) -> Result<bool, Failure> {
        match self.settle().await {
            Err(Failure::Statement(error)) => self.fail_extended(&error).await.map(|()| false),
            other => other.map(|()| true),
        }
    }

    /// Sends everything that can be answered so far.
    pub(super) async fn flush_pipeline(&mut self) -> Result<(), Failure> {
        self.settle_or_fail().await?;
        self.wire.flush().await
    }

    /// Tells the client of an error, at once, and passes over everything up to `Sync`: there are clients that send it only
    /// when they have read the error.
    pub(super) async fn fail_extended(&mut self, error: &Error) -> Result<(), Failure> {
        // If a lookup before it fails, what is wrong with this message is not of interest any more.
        let earlier = match self.settle().await {
            Err(Failure::Statement(earlier)) => Some(earlier),
            other => other.map(|()| None)?,
        };
        self.extended.skipping = true;
        self.fail(earlier.as_ref().unwrap_or(error))?;
        self.wire.flush().await
    }

    /// Ends a pipeline: commits it, if it was more than one statement, and answers everything at once.
    pub(super) async fn sync(&mut self) -> Result<(), Failure> {
        self.settle_or_fail().await?;
        self.extended.skipping = false;
        // Also after an error: it rolled back what was joined, and ends it no less than a commit does.
        if self.extended.take_joined() {
            self.end_implicit().await?;
        }
        self.extended.end_of_transaction(self.session.transaction());
        self.ready()?;
        self.wire.flush().await
    }

    async fn parse(&mut self, name: &str, query: &str, types: &[u32]) -> Result<(), Failure> {
        if name.is_empty() {
            let before = self.extended.statements.remove("");
            self.gathered.replaces("", before);
        } else if self.extended.statements.contains_key(name) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(Error::new(SqlState::DuplicatePreparedStatement, message).into());
        }
        if self.extended.statements.len() >= self.limits.statements_max {
            return Err(limit("prepared statements", self.limits.statements_max, "DEALLOCATE").into());
        }
        let statement = match self.shared_lookup(query, types) {
            Some(shared) if self.session.transaction() != TransactionStatus::Failed => shared,
            _ => self.prepare_text(query, types).await?,
        };
        let before = self.extended.statements.insert(name.to_owned(), statement);
        self.gathered.replaces(name, before);
        self.wire.outbox.parse_complete()?;
        Ok(())
    }

    /// Prepares a statement, for all connections if it is a lookup.
    pub(super) async fn prepare_text(&mut self, query: &str, types: &[u32]) -> Result<Arc<NamedStatement>, Failure> {
        let stated = types.iter().map(|oid| stated_type(*oid)).collect::<Result<Vec<_>>>()?;
        let mut statements = parser::parse(query)?;
        statements.retain(|statement| !matches!(statement, Statement::Empty));
        let statement = statements.pop().unwrap_or(Statement::Empty);
        if !statements.is_empty() {
            let message = "cannot insert multiple commands into a prepared statement";
            return Err(Error::new(SqlState::SyntaxError, message).into());
        }
        let prepared = match statement {
            Statement::Empty => Prepared::empty(),
            statement => {
                let deadline = self.start_statement();
                guard(&self.registration.switch, deadline, self.session.prepare(statement, &stated)).await?
            }
        };
        let statement = Arc::new(NamedStatement::new(prepared, query, types)?);
        self.statements.keep(&statement);
        Ok(statement)
    }

    async fn bind(&mut self, bind: &Bind<'_>, body: &Bytes) -> Result<(), Failure> {
        let statement = Arc::clone(self.extended.statement(bind.statement)?);
        let statement = self.renewed(bind.statement, statement).await;
        if bind.portal.is_empty() {
            self.extended.portals.remove("");
        } else if self.extended.portals.contains_key(bind.portal) {
            return Err(Error::new(SqlState::DuplicateCursor, format!("cursor \"{}\" already exists", bind.portal)).into());
        }
        if self.extended.portals.len() >= self.limits.portals_max {
            return Err(limit("portals", self.limits.portals_max, "Close").into());
        }
        check_parameters(bind, &statement.prepared.parameters)?;
        let ask = match &statement.prepared.lookup {
            Some(lookup) if self.session.takes_short_road(lookup) => self.ask(bind, lookup),
            _ => None,
        };
        let (parameters, state) = match ask {
            Some(ask) => {
                let bind = if body.len() > BIND_BYTES_COPIED_MAX { body.clone() } else { Bytes::copy_from_slice(body) };
                (Vec::new(), PortalState::Lookup { ask, bind })
            }
            None => (self.parameters(bind, &statement.prepared.parameters)?, PortalState::New),
        };
        let columns = statement.columns.as_ref().map_or(0, |columns| columns.len());
        let formats = result_formats(&bind.result_formats, columns)?;
        let portal = Portal { bound: Arc::new(Bound { statement, parameters, formats }), state };
        self.extended.portals.insert(bind.portal.to_owned(), portal);
        Ok(self.wire.outbox.bind_complete()?)
    }

    fn parameters(&mut self, bind: &Bind<'_>, types: &[SqlType]) -> Result<Vec<ScalarValue>> {
        let zone = self.zone()?;
        let values = bind.parameters.iter().zip(types).enumerate().map(|(place, (value, sql_type))| {
            decode::parameter(*value, bind.parameter_format(place)?, sql_type, place + 1, zone)
        });
        values.collect()
    }

    /// What a lookup is bound to, with the values of its parameters.
    pub(super) fn bound_for_planner(&mut self, bound: &Bound, bind: &Bytes) -> Result<Arc<Bound>> {
        let frame = Frame { tag: b'B', body: bind.clone() };
        let Message::Bind(bind) = Message::parse(&frame)? else {
            return Err(Error::internal("a lookup that was bound by another message"));
        };
        let parameters = self.parameters(&bind, &bound.statement.prepared.parameters)?;
        Ok(Arc::new(Bound { statement: Arc::clone(&bound.statement), parameters, formats: bound.formats.clone() }))
    }

    fn describe(&mut self, kind: Kind, name: &str) -> Result<()> {
        let (statement, formats) = match kind {
            Kind::Statement => (self.extended.statement(name)?, Formats::All(Format::Text)),
            Kind::Portal => {
                let portal = self.extended.portals.get(name).ok_or_else(|| no_portal(name))?;
                (&portal.bound.statement, portal.bound.formats.clone())
            }
        };
        if kind == Kind::Statement {
            self.wire.outbox.parameter_description(&statement.prepared.parameters)?;
        }
        statement.describe(&formats, &mut self.wire.outbox)
    }

    async fn close(&mut self, kind: Kind, name: &str) -> Result<(), Failure> {
        self.settle().await?;
        match kind {
            Kind::Statement => drop(self.extended.statements.remove(name)),
            Kind::Portal => drop(self.extended.portals.remove(name)),
        }
        Ok(self.wire.outbox.close_complete()?)
    }

    async fn execute(&mut self, name: &str, rows_max: i32) -> Result<(), Failure> {
        let rows_max = u64::try_from(rows_max).ok().filter(|rows| *rows > 0).unwrap_or(u64::MAX);
        if self.gather(name, rows_max).await? {
            return Ok(());
        }
        self.settle().await?;
        // The portal is out of the map while it runs, and stays out if it fails.
        let Portal { mut bound, state } = self.extended.portals.remove(name).ok_or_else(|| no_portal(name))?;
        let deadline = self.start_statement();
        let state = match state {
            PortalState::New => self.run_portal(&bound, rows_max, deadline).await?,
            PortalState::Lookup { bind, .. } => {
                bound = self.bound_for_planner(&bound, &bind)?;
                self.run_portal(&bound, rows_max, deadline).await?
            }
            PortalState::Suspended(cursor) => self.continue_portal(cursor, rows_max, deadline).await?,
            PortalState::Kept(mut rows) => {
                let sent = rows.write(rows_max, &mut self.wire.outbox);
                if sent == rows_max {
                    self.wire.outbox.portal_suspended()?;
                    PortalState::Kept(rows)
                } else {
                    self.wire.outbox.select_complete(sent);
                    PortalState::Exhausted
                }
            }
            PortalState::Exhausted => {
                self.wire.outbox.complete("SELECT 0")?;
                PortalState::Exhausted
            }
            PortalState::Done => {
                let message = format!("portal \"{name}\" cannot be run");
                return Err(Error::new(SqlState::ObjectNotInPrerequisiteState, message).into());
            }
            PortalState::Gathered => return Err(Error::internal("a lookup that was settled and is not answered").into()),
        };
        self.extended.portals.insert(name.to_owned(), Portal { bound, state });
        Ok(())
    }

    pub(super) async fn run_portal(
        &mut self,
        bound: &Bound,
        rows_max: u64,
        deadline: Option<Instant>,
    ) -> Result<PortalState, Failure> {
        let prepared = &bound.statement.prepared;
        if matches!(*prepared.statement, Statement::Empty) {
            self.wire.outbox.empty_query()?;
            return Ok(PortalState::Done);
        }
        let before = self.session.transaction();
        if self.extended.deallocates(&prepared.statement, before) {
            self.wire.outbox.complete("DEALLOCATE")?;
            return Ok(PortalState::Done);
        }
        if before == TransactionStatus::Idle && !self.extended.joined && self.wire.next_tag() != Some(b'S') {
            self.session.begin_implicit();
            self.extended.joined = true;
        }
        let answer = guard(&self.registration.switch, deadline, self.session.run(prepared, &bound.parameters)).await?;
        if before != TransactionStatus::Idle {
            self.extended.end_of_transaction(self.session.transaction());
        }
        match answer {
            Answer::Rows { schema, stream, verb, counted } => {
                same_columns(&schema, bound.statement.columns.as_deref())?;
                let cursor = RowCursor::new(&schema, stream, (verb, counted), bound.formats.clone(), self.style()?)?;
                self.continue_portal(Box::new(cursor), rows_max, deadline).await
            }
            other => {
                self.send_other(other, deadline).await?;
                Ok(PortalState::Done)
            }
        }
    }

    async fn continue_portal(
        &mut self,
        mut cursor: Box<RowCursor>,
        rows_max: u64,
        deadline: Option<Instant>,
    ) -> Result<PortalState, Failure> {
        Ok(match self.send_rows(&mut cursor, rows_max, deadline).await? {
            Sent::Whole => PortalState::Exhausted,
            Sent::Part => PortalState::Suspended(cursor),
        })
    }
}

fn limit(what: &str, most: usize, way_out: &str) -> Error {
    Error::new(SqlState::ConfigurationLimitExceeded, format!("a connection may have at most {most} {what}"))
        .hint(format!("{way_out} those no longer needed."))
}

/// The type a client states by its OID; `None` where it leaves it to the server.
fn stated_type(oid: u32) -> Result<Option<SqlType>> {
    match oid {
        0 | 705 => Ok(None),
        oid => match SqlType::from_oid(oid) {
            Some(sql_type) => Ok(Some(sql_type)),
            None => Err(Error::new(SqlState::UndefinedObject, format!("type with OID {oid} does not exist"))),
        },
    }
}

/// Whether a `Bind` has a value, and a format, for each parameter.
fn check_parameters(bind: &Bind<'_>, types: &[SqlType]) -> Result<()> {
    let violation = |message: String| Err(Error::new(SqlState::ProtocolViolation, message));
    let (formats, given) = (bind.parameter_formats.len(), bind.parameters.len());
    if formats > 1 && formats != given {
        return violation(format!("bind message has {formats} parameter formats but {given} parameters"));
    }
    if given != types.len() {
        let (name, wanted) = (bind.statement, types.len());
        return violation(format!(
            "bind message supplies {given} parameters, but prepared statement \"{name}\" requires {wanted}"
        ));
    }
    Ok(())
}

fn result_formats(codes: &[i16], columns: usize) -> Result<Formats> {
    match codes {
        [] => Ok(Formats::All(Format::Text)),
        [all] => Ok(Formats::All(Format::of_code(*all)?)),
        each if each.len() == columns => {
            Ok(Formats::Each(each.iter().map(|code| Format::of_code(*code)).collect::<Result<_>>()?))
        }
        each => {
            let message = format!("bind message has {} result formats but query has {columns} columns", each.len());
            Err(Error::new(SqlState::ProtocolViolation, message))
        }
    }
}

/// A result must be what its statement was described as; an object it reads may have changed since.
fn same_columns(schema: &Schema, described: Option<&[Column]>) -> Result<()> {
    let same = described.is_some_and(|described| {
        described.len() == schema.fields().len()
            && described
                .iter()
                .zip(schema.fields())
                .all(|(column, field)| SqlType::of_field(field).is_some_and(|sql_type| sql_type.oid() == column.sql_type.oid()))
    });
    match same {
        true => Ok(()),
        false => Err(Error::new(SqlState::FeatureNotSupported, "cached plan must not change result type")),
    }
}
