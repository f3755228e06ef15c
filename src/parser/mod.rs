//! SQL text to [`Statement`], parsed once.
//!
//! What PostgreSQL and DataFusion know is parsed by sqlparser with PostgreSQL's dialect. Ours are the time clauses
//! ([`time_clause`]), which are taken out of the token stream and travel beside the tables they stand at, the two spellings of
//! `ASOF JOIN` ([`as_of_join`]), and the statements that define features ([`definition`]). From here on the tree travels, never text.

use sqlparser::ast;

pub mod as_of_join;
mod cursor;
mod data_type;
pub mod definition;
pub mod postgres;
mod rows;
mod service;
mod set_config;
mod settings;
mod statement;
pub mod time_clause;
mod translate;

pub use as_of_join::{AsOfJoin, Spelling};
pub use data_type::sql_type;
pub use definition::{CreateEntity, CreateFeatureView};

pub use rows::{assigned_parameters, takes_type_of_column, with_defaults};
pub use service::CreateFeatureService;
pub use set_config::{SetConfig, SetConfigPart};
pub use statement::{parse, parse_query};
pub use time_clause::TimeClause;

/// A query whose tables may carry time clauses.
///
/// A table with a clause has `version = VERSION AS OF n` in the tree, where `n` is the clause's place in `clauses`. The
/// planner takes every one of them or refuses; sqlparser's other version forms never occur.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// The query.
    pub body: Box<ast::Query>,
    /// The time clauses of its tables, wherever they stand in it.
    pub clauses: Vec<TimeClause>,
    /// Its `ASOF JOIN`s, by the number that their match conditions carry in the tree.
    pub joins: Vec<AsOfJoin>,
}

/// The relation a statement names: at most a schema and a name, folded to lower case where unquoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationName {
    /// The schema, where one is given.
    pub schema: Option<String>,
    /// The name.
    pub name: String,
}

/// The rows of an `INSERT`.
#[derive(Clone, Debug, PartialEq)]
pub struct Insert {
    /// The relation written to.
    pub table: RelationName,
    /// The columns named, in order; empty: all of them.
    pub columns: Vec<String>,
    /// The rows.
    pub source: Query,
}

/// The format of `COPY` data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    /// Tab-separated lines with backslash escapes.
    Text,
    /// Comma-separated values.
    Csv,
    /// PostgreSQL's binary rows.
    Binary,
}

/// How `COPY` data is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyOptions {
    /// The format.
    pub format: CopyFormat,
    /// The byte between values.
    pub delimiter: u8,
    /// What stands for NULL.
    pub null: String,
    /// Whether the first line names the columns.
    pub header: bool,
    /// The byte around values (CSV).
    pub quote: u8,
    /// The byte before a quote inside a value (CSV).
    pub escape: u8,
}

/// What a `COPY` moves, and which way.
#[derive(Clone, Debug, PartialEq)]
pub enum Copy {
    /// `COPY table (columns) FROM STDIN`
    In {
        /// The relation written to.
        table: RelationName,
        /// The columns named, in order; empty: all of them.
        columns: Vec<String>,
        /// The format.
        options: CopyOptions,
    },
    /// `COPY (query) TO STDOUT`; a table is turned into a query over it.
    Out {
        /// The rows.
        source: Query,
        /// The format.
        options: CopyOptions,
    },
}

/// How far a block's reads stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees what is committed when it starts.
    ReadCommitted,
    /// Every statement sees what the first one saw (`SERIALIZABLE` too).
    RepeatableRead,
}

/// How a block starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionMode {
    /// Its isolation, where given.
    pub isolation: Option<Isolation>,
    /// Whether it refuses writes, where given.
    pub read_only: Option<bool>,
}

/// How far a `SET` reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetScope {
    /// The session.
    Session,
    /// The block (`SET LOCAL`).
    Local,
}

/// What `COMMENT ON` speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommentTarget {
    /// An object as a whole.
    Object(crate::registry::ObjectKind, RelationName),
    /// A column of a relation.
    Column(RelationName, String),
}

/// A statement, understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `SELECT`, `VALUES`, `TABLE`, `WITH`
    Query(Query),
    /// `EXPLAIN [ANALYZE] [VERBOSE]` of a query.
    Explain {
        /// Run it and show what happened.
        analyze: bool,
        /// Show more.
        verbose: bool,
        /// The query.
        query: Query,
    },
    /// `INSERT`
    Insert(Insert),
    /// `COPY`
    Copy(Copy),
    /// `BEGIN`, `START TRANSACTION`
    Begin(TransactionMode),
    /// `COMMIT`, `END`
    Commit,
    /// `ROLLBACK`, `ABORT`
    Rollback,
    /// `SET`; the value as written, without quotes, list items joined by `, `; `None` is `DEFAULT`.
    Set {
        /// The setting's name, lower case.
        name: String,
        /// Its value.
        value: Option<String>,
        /// How far it reaches.
        scope: SetScope,
    },
    /// `SELECT set_config(…)`, with other columns perhaps
    SetConfig(SetConfig),
    /// `SET TRANSACTION`, `SET SESSION CHARACTERISTICS`
    SetTransaction(TransactionMode),
    /// `SHOW name`
    Show(String),
    /// `SHOW ALL`
    ShowAll,
    /// `RESET name`; `None` is `ALL`.
    Reset(Option<String>),
    /// `DISCARD ALL`
    Discard,
    /// What takes away things that a session here never has, and so does nothing: cursors of SQL, channels it listens to,
    /// temporary tables, sequences, another role. The tag that it is answered with.
    NothingThere(&'static str),
    /// `PREPARE name (types) AS statement`
    Prepare {
        /// Its name.
        name: String,
        /// The types of its parameters, as far as given.
        types: Vec<crate::types::SqlType>,
        /// The statement.
        statement: Box<Statement>,
    },
    /// `EXECUTE name (arguments)`
    Execute {
        /// The prepared statement.
        name: String,
        /// Its arguments: a query of one row, `None` without arguments.
        arguments: Option<Query>,
    },
    /// `DEALLOCATE name`; `None` is `ALL`.
    Deallocate(Option<String>),
    /// `ALTER SYSTEM SET tidegate.clock`: the instant as written.
    SetClock(String),
    /// `CREATE ENTITY`
    CreateEntity(CreateEntity),
    /// `CREATE FEATURE VIEW`
    CreateFeatureView(CreateFeatureView),
    /// `CREATE FEATURE SERVICE`
    CreateFeatureService(CreateFeatureService),
    /// `CREATE TABLE`
    CreateTable {
        /// Its name.
        name: RelationName,
        /// Its columns.
        columns: Vec<crate::registry::Column>,
        /// Leave a relation of that name as it is.
        if_not_exists: bool,
    },
    /// `CREATE TABLE … AS`
    CreateTableAs {
        /// Its name.
        name: RelationName,
        /// The names of its columns, where given.
        columns: Vec<String>,
        /// Its rows.
        query: Query,
        /// Leave a relation of that name as it is.
        if_not_exists: bool,
        /// Whether rows are written (`WITH NO DATA` writes none).
        with_data: bool,
    },
    /// `CREATE EXTERNAL TABLE`
    CreateExternalTable {
        /// Its name.
        name: RelationName,
        /// Its columns; empty: as the files have them.
        columns: Vec<crate::registry::Column>,
        /// The files' format.
        format: crate::registry::FileFormat,
        /// Where they are.
        location: String,
        /// Leave a relation of that name as it is.
        if_not_exists: bool,
    },
    /// `CREATE VIEW`
    CreateView {
        /// Its name.
        name: RelationName,
        /// The names of its columns, where given.
        columns: Vec<String>,
        /// Its query, as text.
        definition: String,
        /// Its query.
        query: Query,
        /// Take the place of a view of that name.
        or_replace: bool,
        /// Leave a relation of that name as it is.
        if_not_exists: bool,
    },
    /// `DROP`
    Drop {
        /// What kind of objects.
        kind: crate::registry::ObjectKind,
        /// Their names.
        names: Vec<RelationName>,
        /// No error for those that are not there.
        if_exists: bool,
    },
    /// `COMMENT ON`
    Comment {
        /// What it speaks of.
        target: CommentTarget,
        /// The comment; `None` removes it.
        comment: Option<String>,
    },
    /// `OPTIMIZE FEATURE VIEW`
    Optimize(RelationName),
    /// `REFRESH ONLINE view`
    RefreshOnline(RelationName),
    /// `CREATE TAG name ON FEATURE VIEW view [VERSION n]`
    CreateTag {
        /// The tag.
        tag: String,
        /// The feature view.
        view: RelationName,
        /// The version it names; the newest where none is given.
        version: Option<u64>,
        /// Leave a tag of that name as it is.
        if_not_exists: bool,
    },
    /// `DROP TAG name ON FEATURE VIEW view`
    DropTag {
        /// The tag.
        tag: String,
        /// The feature view.
        view: RelationName,
        /// No error if there is none.
        if_exists: bool,
    },
    /// `SHOW FEATURE VIEWS`
    ShowFeatureViews,
    /// `SHOW FEATURE SERVICES`
    ShowFeatureServices,
    /// `SHOW ENTITIES`
    ShowEntities,
    /// `DESCRIBE name`
    Describe(RelationName),
    /// Nothing between two semicolons.
    Empty,
}

#[cfg(test)]
mod tests;
