//! What can go wrong, in the shape a PostgreSQL client reads.
//!
//! An [`Error`] is what PostgreSQL's own `ereport` carries: a SQLSTATE, a message, and where they help a detail, a hint and
//! a position in the statement. The cause is kept for the log and never sent to a client.
//! Callers that decide by the kind of error compare [`Error::code`].

use std::fmt;
use std::sync::Arc;

/// A result whose error a client can read.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! sql_states {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// The SQLSTATEs this server answers with (PostgreSQL, Appendix A).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum SqlState { $($(#[$doc])* $name,)* }

        impl SqlState {
            /// The five characters sent to the client.
            pub fn code(self) -> &'static str {
                match self { $(SqlState::$name => $code,)* }
            }
        }
    };
}

sql_states! {
    /// `00000`: nothing went wrong; the code of notices.
    SuccessfulCompletion = "00000",
    /// `08003`: the client went away.
    ConnectionDoesNotExist = "08003",
    /// `08006`: a store's connection broke.
    ConnectionFailure = "08006",
    /// `08P01`: a malformed or misplaced message.
    ProtocolViolation = "08P01",
    /// `0A000`: understood, and refused by name.
    FeatureNotSupported = "0A000",
    /// `21000`: a scalar subquery gave several rows.
    CardinalityViolation = "21000",
    /// `22000`: a value that does not fit, with no nearer code.
    DataException = "22000",
    /// `22001`: a text too long.
    StringDataRightTruncation = "22001",
    /// `22003`: a number out of its type's range.
    NumericValueOutOfRange = "22003",
    /// `22004`: a NULL where none may stand.
    NullValueNotAllowed = "22004",
    /// `22007`: not a date or time.
    InvalidDatetimeFormat = "22007",
    /// `22008`: an instant out of range.
    DatetimeFieldOverflow = "22008",
    /// `22009`: an offset from UTC beyond what zones have.
    InvalidTimeZoneDisplacementValue = "22009",
    /// `22012`: division by zero.
    DivisionByZero = "22012",
    /// `22015`: an interval out of range.
    IntervalFieldOverflow = "22015",
    /// `2201W`: a negative `LIMIT`.
    InvalidRowCountInLimitClause = "2201W",
    /// `2201X`: a negative `OFFSET`.
    InvalidRowCountInResultOffsetClause = "2201X",
    /// `22021`: bytes that are not UTF-8.
    CharacterNotInRepertoire = "22021",
    /// `22023`: a parameter's value is not acceptable.
    InvalidParameterValue = "22023",
    /// `22P02`: text that does not parse as its type.
    InvalidTextRepresentation = "22P02",
    /// `22P03`: binary that does not parse as its type.
    InvalidBinaryRepresentation = "22P03",
    /// `22P04`: malformed `COPY` data.
    BadCopyFileFormat = "22P04",
    /// `23502`: a NULL in a column that takes none.
    NotNullViolation = "23502",
    /// `23514`: a `CHECK` that does not hold.
    CheckViolation = "23514",
    /// `25001`: a transaction is already under way.
    ActiveSqlTransaction = "25001",
    /// `25006`: a write in a read-only transaction.
    ReadOnlySqlTransaction = "25006",
    /// `25P01`: no transaction is under way.
    NoActiveSqlTransaction = "25P01",
    /// `25P02`: the transaction is aborted.
    InFailedSqlTransaction = "25P02",
    /// `26000`: no such prepared statement.
    InvalidSqlStatementName = "26000",
    /// `28000`: the login is refused.
    InvalidAuthorizationSpecification = "28000",
    /// `2BP01`: other objects depend on it.
    DependentObjectsStillExist = "2BP01",
    /// `34000`: no such portal or cursor.
    InvalidCursorName = "34000",
    /// `3B001`: no such savepoint.
    InvalidSavepointSpecification = "3B001",
    /// `3D000`: no such database.
    InvalidCatalogName = "3D000",
    /// `3F000`: no such schema.
    InvalidSchemaName = "3F000",
    /// `40001`: lost a race; try again.
    SerializationFailure = "40001",
    /// `42501`: not permitted.
    InsufficientPrivilege = "42501",
    /// `42601`: a syntax error.
    SyntaxError = "42601",
    /// `42602`: not a name.
    InvalidName = "42602",
    /// `42622`: a name over 63 bytes.
    NameTooLong = "42622",
    /// `42701`: a column named twice.
    DuplicateColumn = "42701",
    /// `42702`: a column name with several meanings.
    AmbiguousColumn = "42702",
    /// `42703`: no such column.
    UndefinedColumn = "42703",
    /// `42704`: no such object.
    UndefinedObject = "42704",
    /// `42710`: an object of that name exists.
    DuplicateObject = "42710",
    /// `42712`: a table alias used twice.
    DuplicateAlias = "42712",
    /// `42803`: a column neither grouped nor aggregated.
    GroupingError = "42803",
    /// `42804`: types that do not go together.
    DatatypeMismatch = "42804",
    /// `42809`: the object is of another kind.
    WrongObjectType = "42809",
    /// `42883`: no such function or operator.
    UndefinedFunction = "42883",
    /// `42P01`: no such table.
    UndefinedTable = "42P01",
    /// `42P02`: no such parameter.
    UndefinedParameter = "42P02",
    /// `42P03`: a cursor of that name exists.
    DuplicateCursor = "42P03",
    /// `42P05`: a prepared statement of that name exists.
    DuplicatePreparedStatement = "42P05",
    /// `42P07`: a table of that name exists.
    DuplicateTable = "42P07",
    /// `42P10`: a column reference that leads nowhere.
    InvalidColumnReference = "42P10",
    /// `42P16`: a table definition that cannot be.
    InvalidTableDefinition = "42P16",
    /// `42P17`: an object definition that cannot be.
    InvalidObjectDefinition = "42P17",
    /// `42P18`: a parameter whose type cannot be told.
    IndeterminateDatatype = "42P18",
    /// `53200`: out of memory.
    OutOfMemory = "53200",
    /// `53100`: the disk is full.
    DiskFull = "53100",
    /// `53300`: too many connections.
    TooManyConnections = "53300",
    /// `53400`: a configured limit was reached.
    ConfigurationLimitExceeded = "53400",
    /// `54000`: a limit of the server was reached.
    ProgramLimitExceeded = "54000",
    /// `54001`: nested too deep.
    StatementTooComplex = "54001",
    /// `55000`: not in the state for it.
    ObjectNotInPrerequisiteState = "55000",
    /// `55P02`: the setting cannot be changed now.
    CantChangeRuntimeParam = "55P02",
    /// `57014`: cancelled, or over its time.
    QueryCanceled = "57014",
    /// `57P01`: the server is stopping.
    AdminShutdown = "57P01",
    /// `57P05`: idle for too long.
    IdleSessionTimeout = "57P05",
    /// `58000`: the system around the server failed.
    SystemError = "58000",
    /// `58030`: a store could not be read or written.
    IoError = "58030",
    /// `F0000`: the configuration does not hold together.
    ConfigFileError = "F0000",
    /// `XX000`: a defect of the server.
    InternalError = "XX000",
    /// `XX001`: stored bytes that do not decode.
    DataCorrupted = "XX001",
}

/// An error as a client reads it, with its cause for the log.
///
/// The message is lower case, without a full stop, and names the object.
#[derive(Clone, Debug)]
pub struct Error(Box<Report>);

#[derive(Clone, Debug)]
struct Report {
    code: SqlState,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    context: Option<String>,
    position: Option<usize>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of kind `code` that says `message`.
    pub fn new(code: SqlState, message: impl Into<String>) -> Self {
        Self(Box::new(Report {
            code,
            message: message.into(),
            detail: None,
            hint: None,
            context: None,
            position: None,
            source: None,
        }))
    }

    /// What Tidegate understands and refuses; `what` is named in the message.
    pub fn unsupported(what: impl fmt::Display) -> Self {
        Self::new(SqlState::FeatureNotSupported, format!("{what} is not supported"))
    }

    /// A defect of the server: a state that no input should reach.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(SqlState::InternalError, message)
    }

    /// Adds the line that tells more of what happened.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds the line that says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the line that says where it happened, in data rather than in the statement (`COPY t, line 3, column x: "abc"`).
    #[must_use]
    pub fn context(mut self, context: impl Into<String>) -> Self {
        self.0.context = Some(context.into());
        self
    }

    /// Points at the statement's `position`-th character, counted from 1.
    #[must_use]
    pub fn at(mut self, position: usize) -> Self {
        self.0.position = Some(position);
        self
    }

    /// Keeps the cause for the log.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into().into());
        self
    }

    /// The kind of error.
    pub fn code(&self) -> SqlState {
        self.0.code
    }

    /// The primary message.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The detail line, if there is one.
    pub fn detail_text(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// The hint, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Where in the data it happened, if it was there.
    pub fn context_text(&self) -> Option<&str> {
        self.0.context.as_deref()
    }

    /// The character of the statement it points at, counted from 1.
    pub fn position(&self) -> Option<usize> {
        self.0.position
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(detail) = &self.0.detail {
            write!(f, " ({detail})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
