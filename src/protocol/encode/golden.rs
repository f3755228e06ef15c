//! Values in and out, compared with what PostgreSQL itself made of them (`tests/golden/values.tsv`).

use std::sync::Arc;

use arrow::array::ArrayRef;
use bytes::BytesMut;

use super::{TextStyle, write_packed};
use crate::error::Result;
use crate::protocol::Format;
use crate::protocol::decode::BinaryParser;
use crate::types::SqlType;
use crate::types::cells::Cells;
use crate::types::text::{TextParser, Zone};

fn sql_type(name: &str) -> SqlType {
    if let Some(element) = name.strip_suffix("[]") {
        return SqlType::Array(Box::new(sql_type(element)));
    }
    let numeric = |precision, scale| SqlType::Numeric { precision, scale };
    match name {
        "boolean" => SqlType::Boolean,
        "smallint" => SqlType::SmallInt,
        "integer" => SqlType::Integer,
        "bigint" => SqlType::BigInt,
        "oid" => SqlType::Oid,
        "real" => SqlType::Real,
        "double precision" => SqlType::DoublePrecision,
        "numeric(10,2)" => numeric(10, 2),
        "numeric(38,10)" => numeric(38, 10),
        "numeric(5,0)" => numeric(5, 0),
        "text" => SqlType::Text,
        "bytea" => SqlType::Bytea,
        "date" => SqlType::Date,
        "time" => SqlType::Time,
        "timestamp" => SqlType::Timestamp,
        "timestamptz" => SqlType::TimestampTz,
        "interval" => SqlType::Interval,
        "uuid" => SqlType::Uuid,
        "json" => SqlType::Json,
        other => panic!("no such type in the table: {other}"),
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\\\", "\0").replace("\\t", "\t").replace("\\n", "\n").replace('\0', "\\")
}

/// The text and the binary form of a value that was packed for the online store.
fn packed(sql_type: &SqlType, zone: Zone, column: ArrayRef) -> (Vec<u8>, Vec<u8>) {
    let (layout, rows) = crate::online::row::one_feature(sql_type, column);
    let value = layout.value(&rows[0], 0).unwrap().unwrap();
    let write = |format| {
        let mut out = BytesMut::new();
        write_packed(sql_type, value, format, TextStyle { zone }, &mut out).unwrap();
        out.to_vec()
    };
    (write(Format::Text), write(Format::Binary))
}

/// The value's text and its binary form in hex, once by way of text, and once more by way of that binary form.
fn round_trip(sql_type: &SqlType, zone: Zone, input: &str) -> Result<[String; 3]> {
    let write = |array| -> Result<(String, BytesMut)> {
        let cells = Cells::new(&array, sql_type)?;
        let (mut text, mut binary) = (BytesMut::new(), BytesMut::new());
        cells.write_text(0, zone, &mut text);
        cells.write_binary(0, &mut binary)?;
        Ok((String::from_utf8(text.to_vec()).unwrap(), binary))
    };
    let mut parser = TextParser::in_zone(sql_type, zone);
    parser.append(Some(input))?;
    let column = parser.finish();
    let (text, binary) = write(Arc::clone(&column))?;
    assert_eq!(packed(sql_type, zone, column), (text.clone().into_bytes(), binary.to_vec()), "{sql_type}, packed: {input}");
    let mut parser = BinaryParser::new(sql_type);
    parser.append(Some(&binary)).unwrap();
    let (again, _) = write(parser.finish())?;
    Ok([text, binary.iter().map(|byte| format!("{byte:02x}")).collect(), again])
}

/// Where this server differs from PostgreSQL, and why.
fn differs(name: &str, input: &str) -> Option<&'static str> {
    match (name, input) {
        ("timestamp" | "timestamptz", "294276-12-31 23:59:59") => Some("beyond microseconds from 1970 in 64 bits"),
        ("numeric(10,2)", "NaN") => Some("decimals of 128 bits have no NaN"),
        ("integer[]", "[0:1]={1,2}") => Some("Arrow's lists have no bounds"),
        ("interval", "1 hour 1 hour" | "1 day ago 2" | "P1") => Some("oddities: units that repeat, words after the end"),
        _ => None,
    }
}

#[test]
fn values_are_what_postgresql_makes_of_them() {
    let mut wrong = Vec::new();
    for line in include_str!("../../../tests/golden/values.tsv").lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [zone, name, input, first, second] = fields.as_slice() else { panic!("{line}") };
        let (input, first, second) = (unescape(input), unescape(first), unescape(second));
        if differs(name, &input).is_some() {
            continue;
        }
        let expected = match first.strip_prefix('!') {
            Some(code) => format!("{code} {second}"),
            None => format!("{first} {second} {first}"),
        };
        let found = match round_trip(&sql_type(name), Zone::parse(zone).unwrap(), &input) {
            Ok(found) => found.join(" "),
            Err(error) => format!("{} {}", error.code().code(), error.message()),
        };
        if found != expected {
            wrong.push(format!("{zone} {name} {input:?}\n  expected {expected}\n  found    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
