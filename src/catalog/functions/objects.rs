//! Functions that answer from the registry: names of object numbers, numbers of names, definitions, comments.

use super::super::Scope;
use super::super::objects::{Found, NAMESPACES, OWNER, Relation};
use super::super::value::Value;
use super::text::{parse_name, quote_identifier};
use super::{Definition, Nulls, argument, text_argument};
use crate::error::{Error, Result, SqlState};
use crate::types::SqlType;

/// The functions. Those that begin with `__` stand for casts; the parser's rewriting writes them, clients do not.
pub(super) const FUNCTIONS: &[Definition] = &[
    Definition { name: "pg_table_is_visible", arity: 1..=1, returns: boolean, nulls: Nulls::Strict, eval: table_is_visible },
    Definition { name: "pg_type_is_visible", arity: 1..=1, returns: boolean, nulls: Nulls::Strict, eval: type_is_visible },
    Definition {
        name: "pg_function_is_visible",
        arity: 1..=1,
        returns: boolean,
        nulls: Nulls::Strict,
        eval: function_is_visible,
    },
    Definition { name: "pg_collation_is_visible", arity: 1..=1, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "pg_operator_is_visible", arity: 1..=1, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "pg_opclass_is_visible", arity: 1..=1, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "pg_opfamily_is_visible", arity: 1..=1, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "pg_conversion_is_visible", arity: 1..=1, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "pg_statistics_obj_is_visible", arity: 1..=1, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "pg_ts_config_is_visible", arity: 1..=1, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "pg_ts_dict_is_visible", arity: 1..=1, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "pg_ts_parser_is_visible", arity: 1..=1, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "pg_ts_template_is_visible", arity: 1..=1, returns: boolean, nulls: Nulls::Strict, eval: yes },
    Definition { name: "format_type", arity: 2..=2, returns: text, nulls: Nulls::Seen, eval: format_type },
    Definition { name: "pg_get_expr", arity: 2..=3, returns: text, nulls: Nulls::Strict, eval: expression },
    Definition { name: "pg_get_constraintdef", arity: 1..=2, returns: text, nulls: Nulls::Strict, eval: constraint },
    Definition { name: "pg_get_indexdef", arity: 1..=3, returns: text, nulls: Nulls::Strict, eval: index },
    Definition { name: "pg_get_viewdef", arity: 1..=2, returns: text, nulls: Nulls::Strict, eval: view },
    Definition { name: "pg_get_ruledef", arity: 1..=2, returns: text, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_get_triggerdef", arity: 1..=2, returns: text, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_get_partkeydef", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_get_statisticsobjdef_columns", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_get_functiondef", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_get_function_result", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_get_function_arguments", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_get_function_identity_arguments", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_get_function_sqlbody", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_get_serial_sequence", arity: 2..=2, returns: text, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_tablespace_location", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: empty },
    Definition { name: "obj_description", arity: 1..=2, returns: text, nulls: Nulls::Strict, eval: description },
    Definition { name: "col_description", arity: 2..=2, returns: text, nulls: Nulls::Strict, eval: column_description },
    Definition { name: "pg_relation_size", arity: 1..=2, returns: bigint, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_total_relation_size", arity: 1..=1, returns: bigint, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_table_size", arity: 1..=1, returns: bigint, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_indexes_size", arity: 1..=1, returns: bigint, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_database_size", arity: 1..=1, returns: bigint, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_tablespace_size", arity: 1..=1, returns: bigint, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_stat_get_live_tuples", arity: 1..=1, returns: bigint, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_stat_get_dead_tuples", arity: 1..=1, returns: bigint, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_stat_get_numscans", arity: 1..=1, returns: bigint, nulls: Nulls::Strict, eval: nothing },
    Definition { name: "pg_relation_is_publishable", arity: 1..=1, returns: boolean, nulls: Nulls::Strict, eval: no },
    Definition { name: "pg_relation_is_updatable", arity: 2..=2, returns: integer, nulls: Nulls::Strict, eval: updatable },
    Definition { name: "pg_column_is_updatable", arity: 3..=3, returns: boolean, nulls: Nulls::Strict, eval: no },
    Definition { name: "to_regclass", arity: 1..=1, returns: oid, nulls: Nulls::Strict, eval: to_relation },
    Definition { name: "to_regtype", arity: 1..=1, returns: oid, nulls: Nulls::Strict, eval: to_type },
    Definition { name: "to_regnamespace", arity: 1..=1, returns: oid, nulls: Nulls::Strict, eval: to_namespace },
    Definition { name: "__regclass", arity: 1..=1, returns: oid, nulls: Nulls::Strict, eval: relation_number },
    Definition { name: "__regclass_text", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: relation_name },
    Definition { name: "__regtype", arity: 1..=1, returns: oid, nulls: Nulls::Strict, eval: type_number },
    Definition { name: "__regtype_text", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: type_name },
    Definition { name: "__regnamespace", arity: 1..=1, returns: oid, nulls: Nulls::Strict, eval: namespace_number },
    Definition { name: "__regnamespace_text", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: namespace_name },
    Definition { name: "__regproc", arity: 1..=1, returns: oid, nulls: Nulls::Strict, eval: function_number },
    Definition { name: "__regproc_text", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: function_name },
    Definition { name: "__regrole", arity: 1..=1, returns: oid, nulls: Nulls::Strict, eval: role_number },
    Definition { name: "__regrole_text", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: role_name },
];

fn text() -> SqlType {
    SqlType::Text
}

fn boolean() -> SqlType {
    SqlType::Boolean
}

fn integer() -> SqlType {
    SqlType::Integer
}

fn bigint() -> SqlType {
    SqlType::BigInt
}

fn oid() -> SqlType {
    SqlType::Oid
}

fn yes(_: &Scope, _: &[Value]) -> Result<Value> {
    Ok(true.into())
}

fn no(_: &Scope, _: &[Value]) -> Result<Value> {
    Ok(false.into())
}

/// What Tidegate does not have, or does not measure, is NULL: tools show a blank, never a wrong number.
fn nothing(_: &Scope, _: &[Value]) -> Result<Value> {
    Ok(Value::Null)
}

fn empty(_: &Scope, _: &[Value]) -> Result<Value> {
    Ok("".into())
}

fn table_is_visible(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let found = argument(arguments, 0).oid().and_then(|oid| scope.objects().find(oid));
    Ok(match found {
        Some(Found::Relation(relation) | Found::Index(relation, _)) => Value::Bool(relation.is_visible()),
        Some(Found::Key(..) | Found::Check(_)) | None => Value::Null,
    })
}

fn type_is_visible(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let oid = argument(arguments, 0).oid();
    Ok(oid.filter(|oid| scope.shared.types.format(*oid, None) != "???").map(|_| true).into())
}

fn function_is_visible(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let name = argument(arguments, 0).oid().and_then(|oid| scope.shared.types.function_name(oid));
    Ok(name.map(|_| true).into())
}

fn format_type(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let modifier = argument(arguments, 1).int().and_then(|modifier| i32::try_from(modifier).ok());
    Ok(argument(arguments, 0).oid().map(|oid| scope.shared.types.format(oid, modifier)).into())
}

/// Stored expressions are kept as their text.
fn expression(_: &Scope, arguments: &[Value]) -> Result<Value> {
    Ok(argument(arguments, 0).clone())
}

fn found<'a>(scope: &'a Scope, arguments: &[Value]) -> Option<Found<'a>> {
    scope.objects().find(argument(arguments, 0).oid()?)
}

fn column_list(relation: &Relation, count: usize) -> String {
    let names: Vec<String> = relation.columns.iter().take(count).map(|column| quote_identifier(&column.name)).collect();
    names.join(", ")
}

fn constraint(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    Ok(match found(scope, arguments) {
        Some(Found::Key(relation, key)) => format!("PRIMARY KEY ({})", column_list(relation, key.columns)).into(),
        Some(Found::Check(check)) => format!("CHECK (({}))", check.condition).into(),
        Some(Found::Relation(_) | Found::Index(..)) | None => Value::Null,
    })
}

fn index(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let Some(Found::Index(relation, key)) = found(scope, arguments) else {
        return Ok(Value::Null);
    };
    let column = argument(arguments, 1).int().unwrap_or(0);
    if column > 0 {
        let index = usize::try_from(column - 1).unwrap_or(usize::MAX);
        let column = relation.columns.iter().take(key.columns).nth(index);
        return Ok(column.map(|column| quote_identifier(&column.name)).unwrap_or_default().into());
    }
    let (name, table) = (quote_identifier(&key.name), quote_identifier(&relation.name));
    let columns = column_list(relation, key.columns);
    Ok(format!("CREATE UNIQUE INDEX {name} ON {}.{table} USING btree ({columns})", relation.schema).into())
}

fn view(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let relation = match argument(arguments, 0).oid() {
        Some(oid) => scope.objects().relation(oid),
        None => find_relation(scope, text_argument(arguments, 0)),
    };
    let definition = relation.and_then(|relation| relation.definition.as_ref());
    Ok(definition.map(|definition| format!(" {};", definition.trim().trim_end_matches(';'))).into())
}

fn description(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let Some(oid) = argument(arguments, 0).oid() else {
        return Ok(Value::Null);
    };
    let catalog = arguments.get(1).and_then(Value::text);
    let of = |name: &str| catalog.is_none_or(|catalog| catalog == name);
    if let Some(namespace) = NAMESPACES.iter().find(|namespace| namespace.oid == oid && of("pg_namespace")) {
        return Ok(namespace.comment.into());
    }
    let relation = scope.objects().relation(oid).filter(|_| of("pg_class"));
    Ok(relation.and_then(|relation| relation.comment.clone()).into())
}

fn column_description(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let relation = argument(arguments, 0).oid().and_then(|oid| scope.objects().relation(oid));
    let index = argument(arguments, 1).int().and_then(|number| usize::try_from(number - 1).ok());
    let column = relation.zip(index).and_then(|(relation, index)| relation.columns.get(index));
    Ok(column.and_then(|column| column.comment.clone()).into())
}

/// Rows can be added (bit 3) to what stores them; none can be changed in place.
fn updatable(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let relation = argument(arguments, 0).oid().and_then(|oid| scope.objects().relation(oid));
    let takes_rows = relation.is_some_and(|relation| relation.kind.letter() == "r" && relation.schema == "public");
    Ok(Value::Int(if takes_rows { 8 } else { 0 }))
}

/// The relation that a text names; nothing where it is not a name.
fn find_relation<'a>(scope: &'a Scope, name: &str) -> Option<&'a Relation> {
    let parts = parse_name(name)?;
    match parts.as_slice() {
        [name] => scope.objects().resolve(None, name),
        [schema, name] => scope.objects().resolve(Some(schema), name),
        [database, schema, name] if *database == scope.session.database => scope.objects().resolve(Some(schema), name),
        _ => None,
    }
}

/// A number, or the number a text names.
fn number_or(value: &Value, named: impl FnOnce(&str) -> Option<u32>) -> Option<u32> {
    match value.text() {
        Some("-") => Some(0),
        Some(text) => value.oid().or_else(|| named(text)),
        None => value.oid(),
    }
}

fn relation_of(scope: &Scope, value: &Value) -> Option<u32> {
    number_or(value, |name| {
        let index = || {
            let keys = scope.objects().iter().filter_map(|relation| relation.key.as_ref());
            keys.filter(|key| key.name == name).map(|key| key.index).next()
        };
        find_relation(scope, name).map(|relation| relation.oid).or_else(index)
    })
}

fn to_relation(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    Ok(relation_of(scope, argument(arguments, 0)).into())
}

fn to_type(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    Ok(number_or(argument(arguments, 0), |name| scope.shared.types.named(name)).into())
}

fn namespace_of(value: &Value) -> Option<u32> {
    let named = |name: &str| NAMESPACES.iter().find(|namespace| namespace.name == name).map(|namespace| namespace.oid);
    number_or(value, named)
}

fn to_namespace(_: &Scope, arguments: &[Value]) -> Result<Value> {
    Ok(namespace_of(argument(arguments, 0)).into())
}

/// The number, or the error of a cast that names what is not there.
fn known(number: Option<u32>, code: SqlState, kind: &str, arguments: &[Value]) -> Result<Value> {
    let missing = || {
        let name = argument(arguments, 0).print().unwrap_or_default();
        Error::new(code, format!("{kind} \"{name}\" does not exist"))
    };
    number.map(Value::from).ok_or_else(missing)
}

fn relation_number(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    known(relation_of(scope, argument(arguments, 0)), SqlState::UndefinedTable, "relation", arguments)
}

fn type_number(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let number = number_or(argument(arguments, 0), |name| scope.shared.types.named(name));
    known(number, SqlState::UndefinedObject, "type", arguments)
}

fn namespace_number(_: &Scope, arguments: &[Value]) -> Result<Value> {
    known(namespace_of(argument(arguments, 0)), SqlState::InvalidSchemaName, "schema", arguments)
}

fn function_number(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let number = number_or(argument(arguments, 0), |name| scope.shared.types.function_named(name));
    known(number, SqlState::UndefinedFunction, "function", arguments)
}

fn role_number(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let number = number_or(argument(arguments, 0), |name| (name == scope.session.user).then_some(OWNER));
    known(number, SqlState::UndefinedObject, "role", arguments)
}

/// The name that stands for a number, the number itself where nothing has it, `-` for none: what a `reg…` value prints as.
fn name_of(number: &Value, name: impl FnOnce(u32) -> Option<String>) -> Value {
    match number.oid() {
        Some(0) => "-".into(),
        Some(oid) => name(oid).unwrap_or_else(|| oid.to_string()).into(),
        None => Value::Null,
    }
}

fn relation_name(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let qualified = |relation: &Relation, name: &str| {
        let name = quote_identifier(name);
        if relation.is_visible() { name } else { format!("{}.{name}", relation.schema) }
    };
    let name = |oid| match scope.objects().find(oid) {
        Some(Found::Relation(relation)) => Some(qualified(relation, &relation.name)),
        Some(Found::Index(relation, key)) => Some(qualified(relation, &key.name)),
        Some(Found::Key(..) | Found::Check(_)) | None => None,
    };
    Ok(name_of(&relation_number(scope, arguments)?, name))
}

fn type_name(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let name = |oid| Some(scope.shared.types.format(oid, None)).filter(|name| name != "???");
    Ok(name_of(&type_number(scope, arguments)?, name))
}

fn namespace_name(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let name = |oid| NAMESPACES.iter().find(|namespace| namespace.oid == oid).map(|namespace| namespace.name.to_owned());
    Ok(name_of(&namespace_number(scope, arguments)?, name))
}

fn function_name(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let name = |oid| scope.shared.types.function_name(oid).map(str::to_owned);
    Ok(name_of(&function_number(scope, arguments)?, name))
}

fn role_name(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let name = |oid| (oid == OWNER).then(|| quote_identifier(&scope.session.user));
    Ok(name_of(&role_number(scope, arguments)?, name))
}
