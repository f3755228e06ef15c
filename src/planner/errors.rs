//! DataFusion's errors as a PostgreSQL client knows them.
//!
//! Our own errors travel through DataFusion and are taken out again unchanged. The rest is told by its class, and where a
//! class is only text, by that text: DataFusion gives no code for "no such table".

use arrow::error::ArrowError;
use datafusion::common::{Diagnostic, SchemaError};
use datafusion::error::DataFusionError;

use crate::error::{Error, SqlState};

/// What PostgreSQL advises where no function takes the arguments that it is given.
pub(crate) const NO_FUNCTION_HINT: &str =
    "No function matches the given name and argument types. You might need to add explicit type casts.";

/// The error a client reads.
pub(crate) fn from_datafusion(error: DataFusionError) -> Error {
    // Moved out where it can be, so that the cause stays with it.
    match error {
        DataFusionError::External(source) => match source.downcast::<Error>() {
            Ok(error) => *error,
            Err(source) => convert(&DataFusionError::External(source)),
        },
        other => {
            let error = convert(&other);
            if error.code() == SqlState::InternalError { error.caused_by(other) } else { error }
        }
    }
}

fn convert(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::External(source) => from_source(source.as_ref()),
        DataFusionError::Context(_, inner) => convert(inner),
        DataFusionError::Diagnostic(diagnostic, inner) => positioned(convert(inner), diagnostic),
        DataFusionError::Shared(inner) => convert(inner),
        DataFusionError::Collection(errors) => match errors.first() {
            Some(first) => convert(first),
            None => Error::internal("an empty list of errors"),
        },
        DataFusionError::SchemaError(schema, _) => from_schema(schema),
        DataFusionError::Plan(message) => from_plan(message),
        DataFusionError::NotImplemented(message) => Error::new(SqlState::FeatureNotSupported, sentence(message)),
        DataFusionError::ArrowError(inner, _) => from_arrow(inner),
        DataFusionError::ResourcesExhausted(message) => {
            let message = message.lines().next().unwrap_or_default();
            Error::new(SqlState::OutOfMemory, "out of memory").detail(message.to_owned())
        }
        DataFusionError::Execution(message) => from_execution(message),
        DataFusionError::SQL(inner, _) => Error::new(SqlState::SyntaxError, sentence(&inner.to_string())),
        DataFusionError::ParquetError(inner) => io(inner.to_string()),
        DataFusionError::ObjectStore(inner) => io(inner.to_string()),
        DataFusionError::IoError(inner) => io(inner.to_string()),
        DataFusionError::Internal(_)
        | DataFusionError::Configuration(_)
        | DataFusionError::ExecutionJoin(_)
        | DataFusionError::Substrait(_)
        | DataFusionError::Ffi(_) => Error::internal("the query could not be planned or run"),
        #[expect(unreachable_patterns, reason = "DataFusion's features add variants")]
        _ => Error::internal("the query could not be planned or run"),
    }
}

fn from_source(source: &(dyn std::error::Error + Send + Sync + 'static)) -> Error {
    if let Some(error) = source.downcast_ref::<Error>() {
        copy(error)
    } else if let Some(error) = source.downcast_ref::<DataFusionError>() {
        convert(error)
    } else if let Some(error) = source.downcast_ref::<ArrowError>() {
        from_arrow(error)
    } else {
        Error::internal("the query could not be planned or run")
    }
}

/// Everything of a shared error that a client sees.
fn copy(error: &Error) -> Error {
    let mut copy = Error::new(error.code(), error.message());
    if let Some(detail) = error.detail_text() {
        copy = copy.detail(detail);
    }
    if let Some(hint) = error.hint_text() {
        copy = copy.hint(hint);
    }
    if let Some(position) = error.position() {
        copy = copy.at(position);
    }
    copy
}

/// Our tokens are all on the first line: a column is a place in the text.
fn positioned(error: Error, diagnostic: &Diagnostic) -> Error {
    match diagnostic.span {
        Some(span) if error.position().is_none() => {
            usize::try_from(span.start.column).map_or_else(|_| copy(&error), |column| copy(&error).at(column))
        }
        _ => error,
    }
}

fn io(cause: String) -> Error {
    Error::new(SqlState::IoError, "could not read a file").detail(cause.lines().next().unwrap_or_default().to_owned())
}

fn from_schema(error: &SchemaError) -> Error {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => match &field.relation {
            None => Error::new(SqlState::UndefinedColumn, format!("column \"{}\" does not exist", field.name)),
            Some(relation) => {
                let table = relation.table();
                let known = valid_fields.iter().filter_map(|field| field.relation.as_ref());
                if known.into_iter().any(|other| other.table() == table) {
                    Error::new(SqlState::UndefinedColumn, format!("column {table}.{} does not exist", field.name))
                } else {
                    Error::new(SqlState::UndefinedTable, format!("missing FROM-clause entry for table \"{table}\""))
                }
            }
        },
        SchemaError::AmbiguousReference { field } => {
            Error::new(SqlState::AmbiguousColumn, format!("column reference \"{}\" is ambiguous", field.name))
        }
        SchemaError::DuplicateQualifiedField { qualifier, .. } => {
            Error::new(SqlState::DuplicateAlias, format!("table name \"{}\" specified more than once", qualifier.table()))
        }
        SchemaError::DuplicateUnqualifiedField { name } => {
            Error::new(SqlState::DuplicateColumn, format!("column \"{name}\" specified more than once"))
        }
    }
}

fn from_plan(message: &str) -> Error {
    let message = message.trim_start_matches("Error during planning: ");
    if let Some(name) = quoted(message, "table '").or_else(|| quoted(message, "table function '")) {
        if message.starts_with("table function") {
            return Error::new(SqlState::UndefinedFunction, format!("function {name}() does not exist"));
        }
        return Error::new(SqlState::UndefinedTable, format!("relation \"{}\" does not exist", as_written(name)));
    }
    if let Some(name) = quoted(message, "Invalid function '") {
        let error = Error::new(SqlState::UndefinedFunction, format!("function {name} does not exist"));
        return error.hint("No function of that name is known.");
    }
    if message.contains("must appear in the GROUP BY clause") || message.contains("must be in GROUP BY") {
        return grouping(message);
    }
    let operator = ["Cannot coerce", "Cannot infer common argument type", "There isn't a common type to coerce"];
    if operator.iter().any(|start| message.contains(start)) {
        return Error::new(SqlState::UndefinedFunction, format!("operator does not exist: {}", types(message)))
            .hint(super::casts::NO_OPERATOR_HINT);
    }
    // What the catalog's functions say of arguments that they do not take, quoted by the library.
    if let Some((_, quoted)) = message.split_once("user-defined coercion failed with: External error: ") {
        let said = quoted.split_once(" does not exist").map_or(quoted, |(call, _)| call);
        return Error::new(SqlState::UndefinedFunction, format!("{said} does not exist")).hint(NO_FUNCTION_HINT);
    }
    let call = ["No function matches", "Failed to coerce arguments", "Function '", "does not support zero arguments"];
    if call.iter().any(|start| message.contains(start)) {
        return Error::new(SqlState::UndefinedFunction, sentence(message)).hint(NO_FUNCTION_HINT);
    }
    if message.contains("LIMIT must be >= 0") {
        return Error::new(SqlState::InvalidRowCountInLimitClause, "LIMIT must not be negative");
    }
    if message.contains("OFFSET must be >=0") {
        return Error::new(SqlState::InvalidRowCountInResultOffsetClause, "OFFSET must not be negative");
    }
    if message.contains("data length across values list") {
        return Error::new(SqlState::SyntaxError, "VALUES lists must all be the same length");
    }
    if message.contains("Placeholder type could not be resolved") || message.contains("Placeholder type for") {
        return Error::new(SqlState::IndeterminateDatatype, "could not determine data type of a parameter");
    }
    if message.contains("No value found for placeholder") {
        return Error::new(SqlState::UndefinedParameter, sentence(message));
    }
    if message.contains("Projections require unique expression names") {
        return Error::new(SqlState::DuplicateColumn, "two columns of the query have the same name")
            .hint("Give one of them another name with AS.");
    }
    if message.contains("WITH query name") && message.contains("specified more than once") {
        return Error::new(SqlState::DuplicateAlias, sentence(message));
    }
    if message.contains("type") && message.contains("mismatch") {
        return Error::new(SqlState::DatatypeMismatch, sentence(message));
    }
    Error::new(SqlState::SyntaxError, sentence(message))
}

fn grouping(message: &str) -> Error {
    let column = message.split('"').nth(1).unwrap_or("?");
    Error::new(
        SqlState::GroupingError,
        format!("column \"{column}\" must appear in the GROUP BY clause or be used in an aggregate function"),
    )
}

fn from_arrow(error: &ArrowError) -> Error {
    match error {
        ArrowError::ExternalError(source) => from_source(source.as_ref()),
        ArrowError::DivideByZero => Error::new(SqlState::DivisionByZero, "division by zero"),
        ArrowError::ArithmeticOverflow(_) => Error::new(SqlState::NumericValueOutOfRange, "value out of range"),
        ArrowError::CastError(message) | ArrowError::ParseError(message) | ArrowError::ComputeError(message) => {
            from_value(message)
        }
        ArrowError::InvalidArgumentError(message) => from_value(message),
        ArrowError::MemoryError(message) => Error::new(SqlState::OutOfMemory, "out of memory").detail(message),
        ArrowError::CsvError(message) => Error::new(SqlState::BadCopyFileFormat, "malformed CSV file").detail(message.clone()),
        ArrowError::IoError(message, _) => io(message.clone()),
        _ => Error::internal("the query could not be run"),
    }
}

/// What a kernel says of a value that does not fit.
fn from_value(message: &str) -> Error {
    let lower = message.to_ascii_lowercase();
    if lower.contains("divide by zero") || lower.contains("division by zero") {
        return Error::new(SqlState::DivisionByZero, "division by zero");
    }
    if let Some(value) = quoted(message, "Cannot cast string '") {
        let to = message.rsplit("to value of ").next().unwrap_or_default().trim_end_matches(" type");
        return Error::new(
            SqlState::InvalidTextRepresentation,
            format!("invalid input syntax for type {}: \"{value}\"", sql_name(to)),
        );
    }
    if let Some(value) = quoted(message, "Error parsing timestamp from '") {
        return Error::new(SqlState::InvalidDatetimeFormat, format!("invalid input syntax for type timestamp: \"{value}\""));
    }
    if let Some((array, _)) = message.split_once("Array overflow on abs") {
        let name = sql_name(array.rsplit(' ').next().unwrap_or(array));
        return Error::new(SqlState::NumericValueOutOfRange, format!("{name} out of range"));
    }
    if lower == "timestamp out of range" {
        return Error::new(SqlState::DatetimeFieldOverflow, lower);
    }
    let out_of_range = ["overflow", "out of range", "can't cast value", "too large", "too small", "fractional"];
    if out_of_range.iter().any(|word| lower.contains(word)) {
        return Error::new(SqlState::NumericValueOutOfRange, sentence(message));
    }
    Error::new(SqlState::DataException, sentence(message))
}

fn from_execution(message: &str) -> Error {
    if message.contains("more than one row") || message.contains("returned more than") {
        return Error::new(SqlState::CardinalityViolation, "more than one row returned by a subquery used as an expression");
    }
    from_value(message)
}

/// The text between `start` and the next quote.
fn quoted<'a>(message: &'a str, start: &str) -> Option<&'a str> {
    let rest = &message[message.find(start)? + start.len()..];
    rest.split('\'').next()
}

/// A resolved name without what the client did not write: the catalog, and the schema it is found in anyway.
fn as_written(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        [_, "public", table] | ["public", table] => (*table).to_owned(),
        [_, schema, table] => format!("{schema}.{table}"),
        _ => name.to_owned(),
    }
}

/// The types that an operator was tried on: the end of DataFusion's sentence, in SQL's names.
fn types(message: &str) -> String {
    let start = ["operation ", "expression "].iter().find_map(|word| message.find(word).map(|at| at + word.len()));
    let rest = &message[start.unwrap_or(0)..];
    let rest = rest.split(" to valid types").next().unwrap_or(rest);
    rest.split(' ').map(sql_name).collect::<Vec<_>>().join(" ")
}

/// SQL's name of an Arrow type.
fn sql_name(arrow: &str) -> &str {
    match arrow {
        "Boolean" => "boolean",
        "Int16" => "smallint",
        "Int32" => "integer",
        "Int64" => "bigint",
        "Float32" => "real",
        "Float64" => "double precision",
        "Utf8" | "LargeUtf8" | "Utf8View" => "text",
        "Binary" | "BinaryView" => "bytea",
        "Date32" => "date",
        other if other.starts_with("Decimal") => "numeric",
        other if other.starts_with("Timestamp") && other.contains("None") => "timestamp without time zone",
        other if other.starts_with("Timestamp") => "timestamp with time zone",
        other if other.starts_with("Interval") => "interval",
        other => other,
    }
}

/// DataFusion's sentence in PostgreSQL's manner: lower case, one line, no full stop.
fn sentence(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default().trim().trim_end_matches('.');
    let mut characters = line.chars();
    match (characters.next(), characters.next()) {
        // An abbreviation keeps its capitals.
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(line.chars().skip(1)).collect()
        }
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::Column;

    use super::*;

    fn check(error: DataFusionError, code: SqlState, message: &str) {
        let error = from_datafusion(error);
        assert_eq!((error.code(), error.message()), (code, message));
    }

    #[test]
    fn errors_read_as_postgresql_writes_them() {
        use SqlState::*;
        let plan = |message: &str| DataFusionError::Plan(message.into());
        check(plan("table 'db.public.x' not found"), UndefinedTable, "relation \"x\" does not exist");
        check(plan("table 'db.history.x' not found"), UndefinedTable, "relation \"history.x\" does not exist");
        let arrow = |error| DataFusionError::ArrowError(Box::new(error), None);
        check(arrow(ArrowError::DivideByZero), DivisionByZero, "division by zero");
        check(
            arrow(ArrowError::CastError("Cannot cast string 'x' to value of Int64 type".into())),
            InvalidTextRepresentation,
            "invalid input syntax for type bigint: \"x\"",
        );
        let missing = |column: Column| {
            let field = Box::new(column);
            let error = SchemaError::FieldNotFound { field, valid_fields: vec![Column::new(Some("t"), "a")] };
            DataFusionError::SchemaError(Box::new(error), Box::new(None))
        };
        check(missing(Column::from_name("x")), UndefinedColumn, "column \"x\" does not exist");
        check(missing(Column::new(Some("t"), "x")), UndefinedColumn, "column t.x does not exist");
        check(missing(Column::new(Some("u"), "x")), UndefinedTable, "missing FROM-clause entry for table \"u\"");
    }

    #[test]
    fn our_own_errors_come_out_unchanged() {
        let ours = || Error::new(SqlState::IoError, "gone").hint("Retry.");
        let wrapped = DataFusionError::External(Box::new(ours()));
        let wrapped = DataFusionError::Shared(std::sync::Arc::new(wrapped.context("while reading")));
        let error = from_datafusion(DataFusionError::from(ArrowError::from(wrapped)));
        assert_eq!((error.code(), error.message(), error.hint_text()), (SqlState::IoError, "gone", Some("Retry.")));
    }
}
