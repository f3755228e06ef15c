//! Functions that answer from the session: who asks, with which settings, of which server.

use super::super::pg_catalog::DATABASE;
use super::super::value::Value;
use super::super::{Scope, objects};
use super::{Definition, Nulls, argument, text_argument};
use crate::error::{Error, Result, SqlState};
use crate::types::SqlType;

/// The version of PostgreSQL that Tidegate says it is, where no setting says otherwise.
const SERVER_VERSION: &str = "15.0";

/// The functions.
pub(super) const FUNCTIONS: &[Definition] = &[
    Definition { name: "version", arity: 0..=0, returns: text, nulls: Nulls::Strict, eval: version },
    Definition { name: "current_database", arity: 0..=0, returns: name, nulls: Nulls::Strict, eval: database },
    Definition { name: "current_catalog", arity: 0..=0, returns: name, nulls: Nulls::Strict, eval: database },
    Definition { name: "current_schema", arity: 0..=0, returns: name, nulls: Nulls::Strict, eval: schema },
    Definition { name: "current_schemas", arity: 1..=1, returns: names, nulls: Nulls::Strict, eval: schemas },
    Definition { name: "current_user", arity: 0..=0, returns: name, nulls: Nulls::Strict, eval: user },
    Definition { name: "session_user", arity: 0..=0, returns: name, nulls: Nulls::Strict, eval: user },
    Definition { name: "current_role", arity: 0..=0, returns: name, nulls: Nulls::Strict, eval: user },
    Definition { name: "user", arity: 0..=0, returns: name, nulls: Nulls::Strict, eval: user },
    Definition { name: "pg_backend_pid", arity: 0..=0, returns: integer, nulls: Nulls::Strict, eval: backend_pid },
    Definition { name: "current_setting", arity: 1..=2, returns: text, nulls: Nulls::Strict, eval: setting },
    Definition { name: "set_config", arity: 3..=3, returns: text, nulls: Nulls::Seen, eval: set_config },
    Definition { name: "pg_advisory_unlock_all", arity: 0..=0, returns: text, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_is_in_recovery", arity: 0..=0, returns: boolean, nulls: Nulls::Strict, eval: no },
    Definition { name: "pg_postmaster_start_time", arity: 0..=0, returns: instant, nulls: Nulls::Strict, eval: started },
    Definition { name: "pg_conf_load_time", arity: 0..=0, returns: instant, nulls: Nulls::Strict, eval: started },
    Definition { name: "pg_my_temp_schema", arity: 0..=0, returns: oid, nulls: Nulls::Strict, eval: zero },
    Definition { name: "pg_is_other_temp_schema", arity: 1..=1, returns: boolean, nulls: Nulls::Strict, eval: no },
    Definition { name: "txid_current", arity: 0..=0, returns: bigint, nulls: Nulls::Strict, eval: version_number },
    Definition { name: "getdatabaseencoding", arity: 0..=0, returns: name, nulls: Nulls::Strict, eval: encoding },
    Definition { name: "pg_client_encoding", arity: 0..=0, returns: name, nulls: Nulls::Strict, eval: encoding },
    Definition { name: "pg_encoding_to_char", arity: 1..=1, returns: name, nulls: Nulls::Strict, eval: encoding_name },
    Definition { name: "pg_char_to_encoding", arity: 1..=1, returns: integer, nulls: Nulls::Strict, eval: encoding_number },
    Definition { name: "pg_get_userbyid", arity: 1..=1, returns: name, nulls: Nulls::Strict, eval: user_by_id },
    Definition { name: "pg_has_role", arity: 2..=3, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "has_table_privilege", arity: 2..=3, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "has_any_column_privilege", arity: 2..=3, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "has_column_privilege", arity: 3..=4, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "has_schema_privilege", arity: 2..=3, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "has_database_privilege", arity: 2..=3, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "has_function_privilege", arity: 2..=3, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "has_sequence_privilege", arity: 2..=3, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "has_type_privilege", arity: 2..=3, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "has_parameter_privilege", arity: 2..=3, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "shobj_description", arity: 2..=2, returns: text, nulls: Nulls::Strict, eval: shared_description },
];

fn text() -> SqlType {
    SqlType::Text
}

fn name() -> SqlType {
    SqlType::Name
}

fn names() -> SqlType {
    SqlType::Array(Box::new(SqlType::Name))
}

fn integer() -> SqlType {
    SqlType::Integer
}

fn bigint() -> SqlType {
    SqlType::BigInt
}

fn boolean() -> SqlType {
    SqlType::Boolean
}

fn oid() -> SqlType {
    SqlType::Oid
}

fn instant() -> SqlType {
    SqlType::TimestampTz
}

fn version(scope: &Scope, _: &[Value]) -> Result<Value> {
    let postgres = scope.session.settings.get("server_version").map_or(SERVER_VERSION, String::as_str);
    let (arch, bits) = (std::env::consts::ARCH, usize::BITS);
    let tidegate = env!("CARGO_PKG_VERSION");
    Ok(format!("PostgreSQL {postgres} (Tidegate {tidegate}) on {arch}-{}, {bits}-bit", std::env::consts::OS).into())
}

fn database(scope: &Scope, _: &[Value]) -> Result<Value> {
    Ok(scope.session.database.as_str().into())
}

fn schema(_: &Scope, _: &[Value]) -> Result<Value> {
    Ok("public".into())
}

fn schemas(_: &Scope, arguments: &[Value]) -> Result<Value> {
    let implicit = argument(arguments, 0).bool() == Some(true);
    Ok(if implicit { vec!["pg_catalog", "public"] } else { vec!["public"] }.into())
}

fn user(scope: &Scope, _: &[Value]) -> Result<Value> {
    Ok(scope.session.user.as_str().into())
}

fn backend_pid(scope: &Scope, _: &[Value]) -> Result<Value> {
    Ok(scope.session.backend_pid.into())
}

fn setting(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let wanted = text_argument(arguments, 0);
    match scope.session.settings.get(&wanted.to_lowercase()) {
        Some(value) => Ok(value.as_str().into()),
        None if argument(arguments, 1).bool() == Some(true) => Ok(Value::Null),
        None => Err(no_such_setting(wanted)),
    }
}

fn no_such_setting(name: &str) -> Error {
    Error::new(SqlState::UndefinedObject, format!("unrecognized configuration parameter \"{name}\""))
}

/// A call in the middle of a query, where nothing can be set; one that is a column of its own is not asked here. Clients that
/// try a setting which is not there go on without it, where the error says so.
fn set_config(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let name = text_argument(arguments, 0);
    let held = scope.session.settings.get(&name.to_lowercase());
    match held {
        Some(held) if argument(arguments, 1).text() == Some(held) => Ok(held.as_str().into()),
        None if !name.contains('.') => Err(no_such_setting(name)),
        _ => Err(Error::unsupported("set_config inside a larger query")
            .hint("Call it in a SELECT of its own, or use SET name = value, or SET LOCAL inside a transaction.")),
    }
}

/// There are no advisory locks to give up. PostgreSQL's `void` is an empty text to clients.
fn nothing(_: &Scope, _: &[Value]) -> Result<Value> {
    Ok("".into())
}

fn no(_: &Scope, _: &[Value]) -> Result<Value> {
    Ok(false.into())
}

fn yes(_: &Scope, _: &[Value]) -> Result<Value> {
    Ok(true.into())
}

fn zero(_: &Scope, _: &[Value]) -> Result<Value> {
    Ok(Value::Int(0))
}

fn started(scope: &Scope, _: &[Value]) -> Result<Value> {
    Ok(Value::Instant(scope.shared.started.micros()))
}

/// The nearest that Tidegate has to a transaction number: the version of its registry.
fn version_number(scope: &Scope, _: &[Value]) -> Result<Value> {
    Ok(Value::Int(i64::try_from(scope.snapshot.registry.version).unwrap_or(i64::MAX)))
}

fn encoding(_: &Scope, _: &[Value]) -> Result<Value> {
    Ok("UTF8".into())
}

fn encoding_name(_: &Scope, arguments: &[Value]) -> Result<Value> {
    Ok(match argument(arguments, 0).int() {
        Some(6) => "UTF8",
        Some(0) => "SQL_ASCII",
        _ => "",
    }
    .into())
}

fn encoding_number(_: &Scope, arguments: &[Value]) -> Result<Value> {
    Ok(match text_argument(arguments, 0).to_uppercase().as_str() {
        "UTF8" | "UTF-8" | "UNICODE" => Value::Int(6),
        "SQL_ASCII" => Value::Int(0),
        _ => Value::Int(-1),
    })
}

fn user_by_id(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    match argument(arguments, 0).oid() {
        Some(objects::OWNER) => user(scope, &[]),
        Some(other) => Ok(format!("unknown (OID={other})").into()),
        None => Ok(Value::Null),
    }
}

fn shared_description(_: &Scope, arguments: &[Value]) -> Result<Value> {
    let is_database = argument(arguments, 0).oid() == Some(DATABASE) && text_argument(arguments, 1) == "pg_database";
    Ok(if is_database { "a Tidegate feature store".into() } else { Value::Null })
}
