//! One client's conversation: settings, blocks, prepared statements. Free of bytes: the protocol room speaks for it.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::scalar::ScalarValue;

use crate::error::{Error, Result};
use crate::offline::BatchStream;
use crate::parser::{CopyOptions, Statement};
use crate::registry::Target;
use crate::types::SqlType;

/// Where a session stands, as `ReadyForQuery` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// No block is open.
    Idle,
    /// A block is open.
    Open,
    /// A block is open and a statement in it failed.
    Failed,
}

/// A message beside the answer.
#[derive(Clone, Debug)]
pub struct Notice {
    /// `WARNING`, `NOTICE`, …
    pub severity: &'static str,
    /// Its SQLSTATE.
    pub code: &'static str,
    /// The text.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Who logs in, and with which settings.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
    /// Settings given at start, names in lower case (from the startup message and its `options`).
    pub settings: Vec<(String, String)>,
    /// The number that `pg_backend_pid()` gives.
    pub backend_pid: i32,
}

/// A statement with its parameter types and result columns known.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The statement.
    pub statement: Arc<Statement>,
    /// The types of its parameters.
    pub parameters: Vec<SqlType>,
    /// The columns of its rows; `None` where it gives none.
    pub columns: Option<SchemaRef>,
}

/// What running a statement gives.
pub enum Answer {
    /// Rows, then the tag `<verb> <count>` (`SELECT 3`) or the bare verb where it has no count (`EXPLAIN`, `SHOW`).
    Rows {
        /// Their columns.
        schema: SchemaRef,
        /// The batches.
        stream: BatchStream,
        /// The tag's verb.
        verb: &'static str,
        /// Whether the tag counts rows.
        counted: bool,
    },
    /// Nothing but the tag.
    Done(String),
    /// `COPY … FROM STDIN`: the client sends rows of these columns, then [`Session::copy_in`] takes them.
    CopyIn(CopyIn),
    /// `COPY … TO STDOUT`: rows, written in this format; tag `COPY <count>`.
    CopyOut {
        /// Their columns.
        schema: SchemaRef,
        /// The batches.
        stream: BatchStream,
        /// The format.
        options: CopyOptions,
    },
    /// The statement was empty.
    Empty,
}

/// A `COPY … FROM STDIN` under way.
#[derive(Clone, Debug)]
pub struct CopyIn {
    /// The relation written to.
    pub target: Target,
    /// The columns sent, in order.
    pub columns: SchemaRef,
    /// The format.
    pub options: CopyOptions,
}

/// What sessions are made from: everything one gateway shares among its clients.
pub struct Services {}

/// One client's conversation.
pub struct Session {}

impl Session {
    /// Opens a session for who logs in; an error refuses the login.
    pub fn open(_services: &Arc<Services>, _login: Login) -> Result<Self> {
        Err(Error::unsupported("login"))
    }

    /// The settings a client is told at login, in PostgreSQL's order.
    pub fn reported_settings(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The reported settings that changed since the last call.
    pub fn take_changed_settings(&mut self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The notices since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        Vec::new()
    }

    /// Where the session stands.
    pub fn transaction(&self) -> TransactionStatus {
        TransactionStatus::Idle
    }

    /// The value of a setting, for the encoding of results (`extra_float_digits`, `TimeZone`, `bytea_output`, …).
    pub fn setting(&self, _name: &str) -> Option<&str> {
        None
    }

    /// Finds out parameter types and result columns. `types` are what the client stated.
    pub async fn prepare(&mut self, _statement: Statement, _types: &[Option<SqlType>]) -> Result<Prepared> {
        Err(Error::unsupported("prepare"))
    }

    /// Runs a prepared statement. Outside a block each call is a transaction of its own, unless
    /// [`Session::begin_implicit`] joined it with others.
    pub async fn run(&mut self, _prepared: &Prepared, _parameters: &[ScalarValue]) -> Result<Answer> {
        Err(Error::unsupported("run"))
    }

    /// Writes what a `COPY … FROM STDIN` brought; gives the tag.
    pub async fn copy_in(&mut self, _copy: &CopyIn, _rows: Vec<RecordBatch>) -> Result<String> {
        Err(Error::unsupported("copy"))
    }

    /// Joins the statements up to [`Session::end_implicit`] into one transaction, as a simple query of several statements
    /// and an extended pipeline are.
    pub fn begin_implicit(&mut self) {}

    /// Ends it: commits what the statements wrote.
    pub async fn end_implicit(&mut self) -> Result<()> {
        Ok(())
    }

    /// Marks the open transaction as failed, after an error; an implicit one is rolled back.
    pub fn fail(&mut self) {}
}
