//! One client's conversation: its settings, its block, its prepared statements. Free of bytes: the protocol room speaks for it.
//!
//! [`Session::prepare`] finds out what a statement takes and gives, [`Session::run`] does it. What a statement reads is fixed
//! in a [`StatementContext`] when it runs; what it writes is kept back in the session's `block` until `COMMIT`, or goes
//! through [`Ingest`] at once where no block is open.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::scalar::ScalarValue;

use crate::catalog::{Catalog, SessionInfo};
use crate::error::{Error, Result, SqlState};
use crate::ingest::Ingest;
use crate::lookup::CompiledLookup;
use crate::offline::BatchStream;
use crate::parser::{CopyOptions, Statement};
use crate::planner::{Planner, StatementContext, Stores, Surface, VersionPins};
use crate::registry::{RegistryStore, Target};
use crate::time::Clock;
use crate::types::SqlType;

mod answers;
mod block;
mod define;
mod query;
mod set_config;
mod settings;
mod short_road;
mod write;

pub use settings::SERVER_VERSION;

use block::Block;
use settings::Settings;
use short_road::Steering;

/// The parts of a gateway that sessions work with.
#[derive(Debug)]
pub struct Services {
    /// The definitions.
    pub registry: Arc<RegistryStore>,
    /// What SQL can name.
    pub catalog: Catalog,
    /// Plans and runs queries.
    pub planner: Arc<Planner>,
    /// The write path.
    pub ingest: Arc<Ingest>,
    /// What queries read.
    pub stores: Stores,
    /// The gateway's clock.
    pub clock: Arc<dyn Clock>,
    /// The limits of a session.
    pub limits: SessionLimits,
}

/// The limits of a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// The most bytes that one statement or block may write.
    pub write_bytes_max: usize,
    /// The most prepared statements made with SQL's `PREPARE`.
    pub prepared_max: usize,
}

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
    /// The lookup of the short road that it is, if it is one.
    pub lookup: Option<Arc<CompiledLookup>>,
}

impl Prepared {
    /// The statement that is none.
    pub fn empty() -> Self {
        Self { statement: Arc::new(Statement::Empty), parameters: Vec::new(), columns: None, lookup: None }
    }
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

/// One client's conversation.
pub struct Session {
    services: Arc<Services>,
    settings: Settings,
    /// What the settings say of lookups.
    steering: Steering,
    /// Grows whenever a setting changes.
    settings_generation: u64,
    info: SessionInfo,
    reported: Vec<(&'static str, String)>,
    /// The generation of the settings that were last compared with what was reported.
    reported_generation: u64,
    notices: Vec<Notice>,
    block: Option<Block>,
    /// An implicit transaction that failed and is not undone yet.
    abandoned: Option<Block>,
    /// Whether statements join an implicit transaction until [`Session::end_implicit`].
    joined: bool,
    /// Statements made with SQL's `PREPARE`, by name.
    prepared: HashMap<String, Prepared>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Session {
    /// Begins a conversation. Fails where a setting given at login is unknown or wrong.
    pub fn open(services: &Arc<Services>, login: Login) -> Result<Self> {
        let settings = Settings::new(&login.user, &login.settings)?;
        let info = SessionInfo {
            user: login.user,
            database: login.database,
            backend_pid: login.backend_pid,
            settings: Arc::new(settings.all()),
        };
        let reported = settings.reported();
        Ok(Self {
            services: Arc::clone(services),
            steering: Steering::of(&settings),
            settings,
            settings_generation: 0,
            info,
            reported,
            reported_generation: 0,
            notices: Vec::new(),
            block: None,
            abandoned: None,
            joined: false,
            prepared: HashMap::new(),
        })
    }

    /// The settings a client is told at login.
    pub fn reported_settings(&self) -> Vec<(&'static str, String)> {
        self.reported.clone()
    }

    /// The reported settings that changed since the last call.
    pub fn take_changed_settings(&mut self) -> Vec<(&'static str, String)> {
        if self.reported_generation == self.settings_generation {
            return Vec::new();
        }
        self.reported_generation = self.settings_generation;
        let now = self.settings.reported();
        let changed = now.iter().zip(&self.reported).filter(|(new, old)| new.1 != old.1).map(|(new, _)| new.clone()).collect();
        self.reported = now;
        changed
    }

    /// The notices since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Where the session stands.
    pub fn transaction(&self) -> TransactionStatus {
        match &self.block {
            Some(block) if block.failed => TransactionStatus::Failed,
            Some(block) if block.explicit => TransactionStatus::Open,
            Some(_) | None => TransactionStatus::Idle,
        }
    }

    /// A number that grows whenever a setting changes, so that what was read of them need not be read again.
    pub fn settings_generation(&self) -> u64 {
        self.settings_generation
    }

    /// The value of a setting, by name in any case; for the encoding of results and the deadline of statements.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name)
    }

    /// Finds out parameter types and result columns. `types` are what the client stated for `$1`, `$2`, ….
    pub async fn prepare(&mut self, statement: Statement, types: &[Option<SqlType>]) -> Result<Prepared> {
        self.refuse_in_failed_block(&statement)?;
        let shape = self.shape(&statement, types).await?;
        Ok(shape.of(Arc::new(statement)))
    }

    /// Runs a prepared statement. Outside a block each call is a transaction of its own, unless
    /// [`Session::begin_implicit`] joined it with others.
    pub async fn run(&mut self, prepared: &Prepared, parameters: &[ScalarValue]) -> Result<Answer> {
        self.refuse_in_failed_block(&prepared.statement)?;
        self.undo_abandoned().await;
        if self.joined && self.block.is_none() {
            self.block = Some(Block::implicit(&self.settings, self.services.clock.now()));
        }
        self.dispatch(prepared, parameters).await
    }

    /// Joins the statements up to [`Session::end_implicit`] into one transaction, as a simple query of several statements
    /// and an extended pipeline are.
    pub fn begin_implicit(&mut self) {
        self.joined = true;
    }

    /// Ends it: commits what the statements wrote.
    pub async fn end_implicit(&mut self) -> Result<()> {
        self.joined = false;
        self.undo_abandoned().await;
        match &self.block {
            Some(block) if !block.explicit => self.commit().await.map(drop),
            Some(_) | None => Ok(()),
        }
    }

    /// Marks the open transaction as failed, after an error; an implicit one is rolled back.
    pub fn fail(&mut self) {
        match &mut self.block {
            Some(block) if block.explicit => block.failed = true,
            Some(_) => self.abandon(),
            None => {}
        }
    }

    /// In a failed block only its end is listened to.
    fn refuse_in_failed_block(&self, statement: &Statement) -> Result<()> {
        let ends = matches!(statement, Statement::Commit | Statement::Rollback);
        if self.transaction() == TransactionStatus::Failed && !ends {
            return Err(Error::new(
                SqlState::InFailedSqlTransaction,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        Ok(())
    }

    async fn dispatch(&mut self, prepared: &Prepared, parameters: &[ScalarValue]) -> Result<Answer> {
        match prepared.statement.as_ref() {
            Statement::Empty => Ok(Answer::Empty),
            Statement::Query(query) => self.query(query, &prepared.parameters, parameters, "SELECT").await,
            Statement::SetConfig(statement) => self.set_config(statement, prepared, parameters).await,
            Statement::Explain { analyze, verbose, query } => {
                self.explain(query, &prepared.parameters, parameters, *analyze, *verbose).await
            }
            Statement::Insert(insert) => self.insert(insert, &prepared.parameters, parameters).await,
            Statement::Copy(copy) => self.copy(copy).await,
            Statement::Begin(mode) => Ok(self.begin(*mode)),
            Statement::SetTransaction(mode) => self.set_transaction(*mode),
            Statement::Commit => self.commit_by_client().await,
            Statement::Rollback => Ok(self.rollback_by_client().await),
            Statement::Set { name, value, scope } => self.set(name, value.as_deref(), *scope),
            Statement::Reset(name) => self.reset(name.as_deref()),
            Statement::Show(name) => self.show(name),
            Statement::ShowAll => self.show_all(),
            Statement::Discard => self.discard(),
            Statement::NothingThere(tag) => Ok(Answer::Done((*tag).to_owned())),
            Statement::Prepare { name, types, statement } => self.sql_prepare(name, types, statement).await,
            Statement::Execute { name, arguments } => self.sql_execute(name, arguments.as_ref()).await,
            Statement::Deallocate(name) => self.deallocate(name.as_deref()),
            Statement::SetClock(instant) => self.set_clock(instant),
            Statement::ShowFeatureViews => self.system_query(query::SHOW_FEATURE_VIEWS).await,
            Statement::ShowFeatureServices => self.system_query(query::SHOW_FEATURE_SERVICES).await,
            Statement::ShowEntities => self.system_query(query::SHOW_ENTITIES).await,
            Statement::Describe(name) => self.describe(name),
            Statement::Optimize(name) => self.optimize(name).await,
            Statement::RefreshOnline(name) => self.refresh_online(name).await,
            Statement::CreateTableAs { .. } => self.create_table_as(&prepared.statement).await,
            Statement::CreateEntity(_)
            | Statement::CreateFeatureView(_)
            | Statement::CreateTable { .. }
            | Statement::CreateExternalTable { .. }
            | Statement::CreateView { .. }
            | Statement::CreateFeatureService(_)
            | Statement::Drop { .. }
            | Statement::CreateTag { .. }
            | Statement::DropTag { .. }
            | Statement::Comment { .. } => self.define(&prepared.statement).await,
        }
    }

    /// What a statement that starts now sees.
    fn context(&self) -> (Arc<StatementContext>, Surface) {
        let registry = match &self.block {
            Some(block) => block.registry(&self.services.registry.current()),
            None => self.services.registry.current(),
        };
        let pinned = self.block.as_ref().is_some_and(Block::is_pinned);
        let context = Arc::new(StatementContext {
            registry,
            now: self.block.as_ref().and_then(Block::pinned_now).unwrap_or_else(|| self.services.clock.now()),
            as_of: self.settings.as_of(),
            system_time: self.settings.system_time(),
            time_zone: self.settings.time_zone().to_owned(),
            route: self.settings.route(),
            online_fallback: self.settings.online_fallback(),
            held: self.block.as_ref().map(Block::held).unwrap_or_default(),
            pinned,
            pins: match &self.block {
                Some(block) if pinned => block.pins(),
                Some(_) | None => Arc::new(VersionPins::default()),
            },
            stores: self.services.stores.clone(),
        });
        let surface = self.services.catalog.surface(&context, &self.info);
        (context, surface)
    }

    fn notice(&mut self, severity: &'static str, code: SqlState, message: impl Into<String>, hint: Option<String>) {
        self.notices.push(Notice { severity, code: code.code(), message: message.into(), hint });
    }

    /// Goes on with these settings, which in nearly every block are those there were.
    fn take_settings(&mut self, settings: Settings) {
        if !self.settings.is(&settings) {
            self.settings = settings;
            self.settings_changed();
        }
    }

    fn settings_changed(&mut self) {
        self.settings_generation += 1;
        self.steering = Steering::of(&self.settings);
        self.info.settings = Arc::new(self.settings.all());
    }
}
