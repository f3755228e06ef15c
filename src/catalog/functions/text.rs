//! Functions over texts, names and arrays that PostgreSQL has and DataFusion has not.

use super::super::Scope;
use super::super::value::Value;
use super::{Definition, Nulls, argument, text_argument};
use crate::error::{Error, Result, SqlState};
use crate::types::SqlType;

/// The functions. `__text` is what the parser's rewriting compares an array literal with.
pub(super) const FUNCTIONS: &[Definition] = &[
    Definition { name: "quote_ident", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: quote_ident },
    Definition { name: "quote_literal", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: quote_literal },
    Definition { name: "quote_nullable", arity: 1..=1, returns: text, nulls: Nulls::Seen, eval: quote_nullable },
    Definition { name: "format", arity: 1..=100, returns: text, nulls: Nulls::Seen, eval: format_text },
    Definition { name: "pg_size_pretty", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: size_pretty },
    Definition { name: "array_upper", arity: 2..=2, returns: integer, nulls: Nulls::Strict, eval: array_upper },
    Definition { name: "array_lower", arity: 2..=2, returns: integer, nulls: Nulls::Strict, eval: array_lower },
    Definition { name: "oidvectortypes", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: vector_types },
    Definition { name: "parse_ident", arity: 1..=2, returns: texts, nulls: Nulls::Strict, eval: parse_ident },
    Definition { name: "like_escape", arity: 2..=2, returns: text, nulls: Nulls::Strict, eval: like_escape },
    Definition { name: "json_build_object", arity: 0..=100, returns: json, nulls: Nulls::Seen, eval: json_build_object },
    Definition { name: "__text", arity: 1..=1, returns: text, nulls: Nulls::Strict, eval: printed },
];

/// The words that PostgreSQL does not take as a bare column name.
const RESERVED: &str = "all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both \
    case cast char character check coalesce collate collation column concurrently constraint create cross current_catalog \
    current_date current_role current_schema current_time current_timestamp current_user dec decimal default deferrable desc \
    distinct do else end except exists extract false fetch float for foreign freeze from full grant greatest group grouping \
    having ilike in initially inner inout int integer intersect interval into is isnull join lateral leading least left like \
    limit localtime localtimestamp national natural nchar none normalize not notnull null nullif numeric offset on only or order \
    out outer overlaps overlay placing position precision primary real references returning right row select session_user \
    setof similar smallint some substring symmetric table tablesample then time timestamp to trailing treat trim true union \
    unique user using values varchar variadic verbose when where window with xmlattributes xmlconcat xmlelement xmlexists \
    xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable";

/// A name as SQL must write it: in quotes unless it is a plain lower-case word that is not reserved.
pub(super) fn quote_identifier(name: &str) -> String {
    let starts_plain = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if starts_plain && is_plain && !RESERVED.split_whitespace().any(|word| word == name) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// The parts of a name as SQL writes it, folded to lower case where unquoted; nothing where it is not a name.
pub(super) fn parse_name(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_part(quoted)?,
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                let (part, after) = rest.split_at(end);
                let part = part.trim();
                if part.is_empty() || part.contains(['"', ' ']) {
                    return None;
                }
                (part.to_lowercase(), after)
            }
        };
        parts.push(part);
        match after.trim_start().strip_prefix('.') {
            Some(more) => rest = more.trim_start(),
            None if after.trim().is_empty() => return Some(parts),
            None => return None,
        }
    }
}

/// A part after its opening quote, and what follows its closing one.
fn quoted_part(text: &str) -> Option<(String, &str)> {
    let mut part = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        part.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                part.push('"');
                rest = more;
            }
            None => return Some((part, rest)),
        }
    }
}

fn text() -> SqlType {
    SqlType::Text
}

fn texts() -> SqlType {
    SqlType::Array(Box::new(SqlType::Text))
}

fn json() -> SqlType {
    SqlType::Json
}

fn integer() -> SqlType {
    SqlType::Integer
}

fn quote_ident(_: &Scope, arguments: &[Value]) -> Result<Value> {
    Ok(argument(arguments, 0).print().map(|name| quote_identifier(&name)).into())
}

fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

fn quote_literal(_: &Scope, arguments: &[Value]) -> Result<Value> {
    Ok(argument(arguments, 0).print().map(|text| literal(&text)).into())
}

fn quote_nullable(_: &Scope, arguments: &[Value]) -> Result<Value> {
    Ok(argument(arguments, 0).print().map_or_else(|| "NULL".to_owned(), |text| literal(&text)).into())
}

/// `format(pattern, …)` with `%s`, `%I`, `%L` and `%%`; positions and widths are refused.
fn format_text(_: &Scope, arguments: &[Value]) -> Result<Value> {
    let Some(pattern) = argument(arguments, 0).text() else {
        return Ok(Value::Null);
    };
    let mut rest = arguments.iter().skip(1);
    let mut result = String::new();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            result.push(letter);
            continue;
        }
        let kind = letters.next();
        if kind == Some('%') {
            result.push('%');
            continue;
        }
        let too_few = || Error::new(SqlState::InvalidParameterValue, "too few arguments for format()");
        let value = rest.next().ok_or_else(too_few)?.print();
        match kind {
            Some('s') => result.push_str(&value.unwrap_or_default()),
            Some('L') => result.push_str(&value.map_or_else(|| "NULL".to_owned(), |text| literal(&text))),
            Some('I') => {
                let null = || Error::new(SqlState::NullValueNotAllowed, "null values cannot be formatted as an SQL identifier");
                result.push_str(&quote_identifier(&value.ok_or_else(null)?));
            }
            other => {
                let written = other.map(String::from).unwrap_or_default();
                return Err(Error::unsupported(format!("the format() specifier \"%{written}\"")).hint("Use %s, %I, %L or %%."));
            }
        }
    }
    Ok(result.into())
}

/// As PostgreSQL: the largest unit that leaves at least 10 of it, rounded to half up.
fn size_pretty(_: &Scope, arguments: &[Value]) -> Result<Value> {
    const LIMIT: i64 = 10 * 1024;
    let Some(mut size) = argument(arguments, 0).int() else {
        return Ok(Value::Null);
    };
    let units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    // The size is kept doubled after the first step, so that halves can be rounded.
    for (index, unit) in units.iter().enumerate() {
        let limit = if index == 0 { LIMIT } else { 2 * LIMIT - 1 };
        let is_last = index + 1 == units.len();
        if is_last || size.saturating_abs() < limit {
            let rounded = if index == 0 { size } else { (size + size.signum()) / 2 };
            return Ok(format!("{rounded} {unit}").into());
        }
        size /= if index == 0 { 512 } else { 1024 };
    }
    Ok(Value::Null)
}

fn array_length(arguments: &[Value]) -> Option<i64> {
    match (argument(arguments, 0), argument(arguments, 1).int()) {
        (Value::List(elements), Some(1)) if !elements.is_empty() => i64::try_from(elements.len()).ok(),
        _ => None,
    }
}

fn array_upper(_: &Scope, arguments: &[Value]) -> Result<Value> {
    Ok(array_length(arguments).into())
}

fn array_lower(_: &Scope, arguments: &[Value]) -> Result<Value> {
    Ok(array_length(arguments).map(|_| 1_i64).into())
}

fn vector_types(scope: &Scope, arguments: &[Value]) -> Result<Value> {
    let Value::List(oids) = argument(arguments, 0) else {
        return Ok(Value::Null);
    };
    let names: Vec<String> = oids.iter().filter_map(Value::oid).map(|oid| scope.shared.types.format(oid, None)).collect();
    Ok(names.join(", ").into())
}

fn parse_ident(_: &Scope, arguments: &[Value]) -> Result<Value> {
    let name = text_argument(arguments, 0);
    let parts = parse_name(name);
    let refused = || Error::new(SqlState::InvalidParameterValue, format!("string is not a valid identifier: \"{name}\""));
    parts.map(Value::from).ok_or_else(refused)
}

/// A pattern whose escape is another letter, with the backslash as its escape.
fn like_escape(_: &Scope, arguments: &[Value]) -> Result<Value> {
    let mut escapes = text_argument(arguments, 1).chars();
    let (escape, more) = (escapes.next(), escapes.next());
    if more.is_some() {
        return Err(Error::new(SqlState::InvalidParameterValue, "invalid escape string")
            .hint("Escape string must be empty or one character."));
    }
    let mut pattern = String::new();
    let mut letters = text_argument(arguments, 0).chars();
    while let Some(letter) = letters.next() {
        if Some(letter) == escape {
            let escaped = letters.next();
            let dangling = || Error::new(SqlState::InvalidParameterValue, "LIKE pattern must not end with escape character");
            pattern.push('\\');
            pattern.push(escaped.ok_or_else(dangling)?);
        } else if letter == '\\' {
            pattern.push_str("\\\\");
        } else {
            pattern.push(letter);
        }
    }
    Ok(pattern.into())
}

fn json_build_object(_: &Scope, arguments: &[Value]) -> Result<Value> {
    if !arguments.len().is_multiple_of(2) {
        return Err(Error::new(SqlState::InvalidParameterValue, "argument list must have even number of elements"));
    }
    let members = arguments.chunks_exact(2).map(|pair| {
        let null = || Error::new(SqlState::InvalidParameterValue, "null value not allowed for object key");
        let key = argument(pair, 0).print().ok_or_else(null)?;
        Ok(format!("{} : {}", serde_json::Value::from(key), json_of(argument(pair, 1))))
    });
    let members = members.collect::<Result<Vec<_>>>()?;
    Ok(format!("{{{}}}", members.join(", ")).into())
}

fn json_of(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(number) | Value::Instant(number) | Value::Length(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(elements) => elements.iter().map(json_of).collect(),
    }
}

fn printed(_: &Scope, arguments: &[Value]) -> Result<Value> {
    Ok(argument(arguments, 0).print().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_sql_needs_it() {
        for (name, quoted) in
            [("a_1", "a_1"), ("A", "\"A\""), ("user", "\"user\""), ("1a", "\"1a\""), ("a\"b", "\"a\"\"b\""), ("", "\"\"")]
        {
            assert_eq!(quote_identifier(name), quoted);
        }
    }

    #[test]
    fn names_are_read_as_sql_reads_them() {
        let cases: [(&str, Option<&[&str]>); 8] = [
            ("Abc", Some(&["abc"])),
            ("public.v", Some(&["public", "v"])),
            ("\"A.b\".\"c\"\"d\"", Some(&["A.b", "c\"d"])),
            (" a . b ", Some(&["a", "b"])),
            ("", None),
            ("a.", None),
            ("\"a", None),
            ("a b", None),
        ];
        for (text, parts) in cases {
            let parts = parts.map(|parts| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>());
            assert_eq!(parse_name(text), parts, "{text}");
        }
    }
}
