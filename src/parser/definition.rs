//! The statements that define features, and what is not built of them yet.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::IntervalMonthDayNanoType;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::{RelationName, Statement, sql_type};
use crate::error::{Error, Result, SqlState};
use crate::registry::{Column, Feature, FileFormat, KeyColumn, ObjectKind, Ttl};
use crate::types::SqlType;
use crate::types::text::TextParser;

/// The name of the event time column where a view gives none.
const EVENT_TIME_DEFAULT: &str = "event_time";

/// `CREATE ENTITY name KEY (column type, …)`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateEntity {
    /// Its name.
    pub name: RelationName,
    /// Its join key.
    pub keys: Vec<KeyColumn>,
    /// What it is, in words.
    pub comment: Option<String>,
    /// Leave an entity of that name as it is.
    pub if_not_exists: bool,
}

/// `CREATE FEATURE VIEW name (features) ENTITY … EVENT TIME … TTL … COMMENT … WITH (…)`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateFeatureView {
    /// Its name.
    pub name: RelationName,
    /// Its features.
    pub features: Vec<Feature>,
    /// The entities it describes.
    pub entities: Vec<String>,
    /// The name of its event time column.
    pub event_time: String,
    /// How long a row lives.
    pub ttl: Option<Ttl>,
    /// Whether the online store keeps its rows.
    pub online: bool,
    /// What it is, in words.
    pub comment: Option<String>,
    /// Other options.
    pub options: BTreeMap<String, String>,
    /// Leave a relation of that name as it is.
    pub if_not_exists: bool,
}

/// The statement, if it is one of this file's.
pub(super) fn statement(cursor: &mut Cursor<'_>) -> Result<Option<Statement>> {
    refuse_unbuilt(cursor)?;
    let statement = if cursor.eat_words(&["create", "entity"]) {
        Statement::CreateEntity(create_entity(cursor)?)
    } else if cursor.eat_words(&["create", "feature", "view"]) {
        Statement::CreateFeatureView(create_feature_view(cursor)?)
    } else if cursor.eat_words(&["create", "external", "table"]) {
        create_external_table(cursor)?
    } else if cursor.eat_words(&["drop", "entity"]) {
        drop_objects(cursor, ObjectKind::Entity)?
    } else if cursor.eat_words(&["drop", "feature", "view"]) {
        drop_objects(cursor, ObjectKind::FeatureView)?
    } else if cursor.eat_words(&["create", "tag"]) {
        create_tag(cursor)?
    } else if cursor.eat_words(&["drop", "tag"]) {
        let if_exists = cursor.eat_words(&["if", "exists"]);
        let (tag, view) = tag_on_view(cursor)?;
        Statement::DropTag { tag, view, if_exists }
    } else if cursor.eat_words(&["optimize", "feature", "view"]) {
        Statement::Optimize(cursor.relation_name()?)
    } else if cursor.eat_words(&["refresh", "online"]) {
        Statement::RefreshOnline(cursor.relation_name()?)
    } else if cursor.eat_words(&["show", "feature", "views"]) {
        Statement::ShowFeatureViews
    } else if cursor.eat_words(&["drop", "feature", "service"]) {
        drop_objects(cursor, ObjectKind::FeatureService)?
    } else if cursor.eat_words(&["show", "feature", "services"]) {
        Statement::ShowFeatureServices
    } else if cursor.eat_words(&["show", "entities"]) {
        Statement::ShowEntities
    } else if cursor.eat("describe") || cursor.eat("desc") {
        Statement::Describe(cursor.relation_name()?)
    } else {
        return Ok(None);
    };
    cursor.end()?;
    Ok(Some(statement))
}

/// Statements of the design that this version does not have.
fn refuse_unbuilt(cursor: &Cursor<'_>) -> Result<()> {
    let unbuilt: [(&[&str], &str); 3] =
        [(&["alter", "feature"], "ALTER FEATURE VIEW"), (&["alter", "entity"], "ALTER ENTITY"), (&["refresh"], "REFRESH")];
    match unbuilt.iter().find(|(words, _)| cursor.at_words(words)) {
        Some(_) if cursor.at_words(&["refresh", "online"]) => Ok(()),
        Some((_, name)) => Err(Error::unsupported(*name).at(cursor.position())),
        None => Ok(()),
    }
}

pub(super) fn if_not_exists(cursor: &mut Cursor<'_>) -> bool {
    cursor.eat_words(&["if", "not", "exists"])
}

/// `[IF NOT EXISTS] name ON FEATURE VIEW view [VERSION n]`
fn create_tag(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = if_not_exists(cursor);
    let (tag, view) = tag_on_view(cursor)?;
    let version = if cursor.eat("version") { Some(cursor.parse(Parser::parse_literal_uint)?) } else { None };
    Ok(Statement::CreateTag { tag, view, version, if_not_exists })
}

/// A tag's name may be written as a name or as text, as `VERSION AS OF` wants it.
fn tag_on_view(cursor: &mut Cursor<'_>) -> Result<(String, RelationName)> {
    let tag = match cursor.string() {
        Ok(tag) => tag,
        Err(_) => cursor.identifier()?,
    };
    ["on", "feature", "view"].iter().try_for_each(|word| cursor.expect(word))?;
    Ok((tag, cursor.relation_name()?))
}

fn create_entity(cursor: &mut Cursor<'_>) -> Result<CreateEntity> {
    let if_not_exists = if_not_exists(cursor);
    let name = cursor.relation_name()?;
    cursor.expect("key")?;
    cursor.expect_token(&Token::LParen)?;
    let mut keys = Vec::new();
    loop {
        let name = cursor.identifier()?;
        keys.push(KeyColumn { name, data_type: sql_type(&cursor.parse(Parser::parse_data_type)?)? });
        if !cursor.eat_token(&Token::Comma) {
            break;
        }
    }
    cursor.expect_token(&Token::RParen)?;
    let comment = if cursor.eat("comment") { Some(cursor.string()?) } else { None };
    Ok(CreateEntity { name, keys, comment, if_not_exists })
}

fn create_feature_view(cursor: &mut Cursor<'_>) -> Result<CreateFeatureView> {
    let if_not_exists = if_not_exists(cursor);
    let mut view = CreateFeatureView {
        name: cursor.relation_name()?,
        features: Vec::new(),
        entities: Vec::new(),
        event_time: EVENT_TIME_DEFAULT.to_owned(),
        ttl: None,
        online: true,
        comment: None,
        options: BTreeMap::new(),
        if_not_exists,
    };
    if cursor.at_end() {
        return Err(cursor.unexpected());
    }
    if cursor.eat_token(&Token::LParen) && !cursor.eat_token(&Token::RParen) {
        loop {
            view.features.push(feature(cursor)?);
            if !cursor.eat_token(&Token::Comma) {
                break;
            }
        }
        cursor.expect_token(&Token::RParen)?;
    }
    while !cursor.at_end() {
        view_clause(cursor, &mut view)?;
    }
    Ok(view)
}

fn feature(cursor: &mut Cursor<'_>) -> Result<Feature> {
    let name = cursor.identifier()?;
    let data_type = sql_type(&cursor.parse(Parser::parse_data_type)?)?;
    let mut feature = Feature { name, data_type, comment: None, check: None };
    loop {
        if cursor.eat("comment") {
            feature.comment = Some(cursor.string()?);
        } else if cursor.eat("check") {
            cursor.expect_token(&Token::LParen)?;
            let condition = cursor.expression()?;
            cursor.expect_token(&Token::RParen)?;
            feature.check = Some(condition.to_string());
        } else if cursor.at_words(&["not", "null"]) || cursor.at("default") || cursor.at("primary") || cursor.at("unique") {
            return Err(Error::unsupported("a column constraint other than CHECK on a feature")
                .hint("A NULL feature is a value; keys and event time never are NULL.")
                .at(cursor.position()));
        } else {
            return Ok(feature);
        }
    }
}

/// One clause after the features; each may stand once, in any order.
fn view_clause(cursor: &mut Cursor<'_>, view: &mut CreateFeatureView) -> Result<()> {
    let twice = |cursor: &Cursor<'_>, what: &str| {
        Error::new(SqlState::SyntaxError, format!("{what} is given twice")).at(cursor.position())
    };
    if cursor.eat("entity") {
        if !view.entities.is_empty() {
            return Err(twice(cursor, "ENTITY"));
        }
        loop {
            view.entities.push(cursor.identifier()?);
            if !cursor.eat_token(&Token::Comma) {
                break;
            }
        }
    } else if cursor.eat_words(&["event", "time"]) {
        view.event_time = cursor.identifier()?;
    } else if cursor.eat("ttl") {
        if view.ttl.is_some() {
            return Err(twice(cursor, "TTL"));
        }
        view.ttl = Some(ttl(cursor)?);
    } else if cursor.eat("comment") {
        view.comment = Some(cursor.string()?);
    } else if cursor.eat("with") {
        options(cursor, view)?;
    } else if cursor.at_words(&["refresh", "every"]) || cursor.at("as") {
        return Err(Error::unsupported("a derived feature view (REFRESH EVERY … AS SELECT …)")
            .hint("Create the view with its features, then write to it with INSERT … SELECT.")
            .at(cursor.position()));
    } else {
        return Err(cursor.unexpected());
    }
    Ok(())
}

fn ttl(cursor: &mut Cursor<'_>) -> Result<Ttl> {
    let position = cursor.position();
    let _ = cursor.eat("interval");
    let mut text = cursor.string()?;
    for unit in ["second", "minute", "hour", "day", "month", "year"] {
        if cursor.eat(unit) {
            text = format!("{text} {unit}");
        }
    }
    fixed_length(&text).map_err(|error| error.at(position))
}

fn fixed_length(text: &str) -> Result<Ttl> {
    let mut parser = TextParser::new(&SqlType::Interval, "UTC")?;
    parser.append(Some(text))?;
    let array = parser.finish();
    let invalid = || Error::new(SqlState::InvalidDatetimeFormat, format!("invalid input syntax for type interval: \"{text}\""));
    let intervals = array.as_primitive_opt::<IntervalMonthDayNanoType>().ok_or_else(invalid)?;
    if intervals.len() != 1 || intervals.is_null(0) {
        return Err(invalid());
    }
    Ttl::from_interval(intervals.value(0))
}

fn options(cursor: &mut Cursor<'_>, view: &mut CreateFeatureView) -> Result<()> {
    cursor.expect_token(&Token::LParen)?;
    loop {
        let position = cursor.position();
        let name = cursor.identifier()?;
        let value = if cursor.eat_token(&Token::Eq) { option_value(cursor)? } else { "true".to_owned() };
        match name.as_str() {
            "online" => view.online = boolean(&value).ok_or_else(|| not_boolean(&name, &value).at(position))?,
            "owner" | "tags" => drop(view.options.insert(name, value)),
            other => {
                return Err(Error::new(SqlState::InvalidParameterValue, format!("unrecognized parameter \"{other}\""))
                    .hint("The options are online, owner and tags.")
                    .at(position));
            }
        }
        if !cursor.eat_token(&Token::Comma) {
            break;
        }
    }
    cursor.expect_token(&Token::RParen)
}

pub(super) fn option_value(cursor: &mut Cursor<'_>) -> Result<String> {
    if let Token::Number(number, _) = &cursor.parser.peek_token_ref().token {
        let number = number.clone();
        cursor.parser.next_token();
        return Ok(number);
    }
    cursor.string().or_else(|_| cursor.identifier())
}

fn boolean(value: &str) -> Option<bool> {
    match value.to_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Some(true),
        "false" | "off" | "no" | "0" => Some(false),
        _ => None,
    }
}

fn not_boolean(name: &str, value: &str) -> Error {
    Error::new(SqlState::InvalidParameterValue, format!("invalid value for boolean option \"{name}\": {value}"))
}

fn drop_objects(cursor: &mut Cursor<'_>, kind: ObjectKind) -> Result<Statement> {
    let if_exists = cursor.eat_words(&["if", "exists"]);
    let mut names = vec![cursor.relation_name()?];
    while cursor.eat_token(&Token::Comma) {
        names.push(cursor.relation_name()?);
    }
    if cursor.at("cascade") {
        return Err(Error::unsupported("DROP … CASCADE").hint("Drop what depends on it first.").at(cursor.position()));
    }
    let _ = cursor.eat("restrict");
    Ok(Statement::Drop { kind, names, if_exists })
}

/// `CREATE EXTERNAL TABLE name [(columns)] STORED AS format LOCATION 'where' [OPTIONS (…)]`
fn create_external_table(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = if_not_exists(cursor);
    let name = cursor.relation_name()?;
    let mut columns = Vec::new();
    if cursor.eat_token(&Token::LParen) {
        loop {
            let name = cursor.identifier()?;
            let data_type = sql_type(&cursor.parse(Parser::parse_data_type)?)?;
            let nullable = !cursor.eat_words(&["not", "null"]);
            columns.push(Column { name, data_type, nullable, comment: None });
            if !cursor.eat_token(&Token::Comma) {
                break;
            }
        }
        cursor.expect_token(&Token::RParen)?;
    }
    cursor.expect("stored")?;
    cursor.expect("as")?;
    let position = cursor.position();
    let format_name = cursor.identifier()?;
    let (mut header, mut delimiter) = (true, b',');
    let mut location = None;
    while !cursor.at_end() {
        if cursor.eat("location") {
            location = Some(cursor.string()?);
        } else if cursor.eat_words(&["with", "header", "row"]) {
            header = true;
        } else if cursor.eat("options") || cursor.eat("with") {
            csv_options(cursor, &mut header, &mut delimiter)?;
        } else {
            return Err(cursor.unexpected());
        }
    }
    let format = match format_name.as_str() {
        "parquet" => FileFormat::Parquet,
        "csv" => FileFormat::Csv { header, delimiter },
        other => {
            return Err(Error::unsupported(format!("STORED AS {}", other.to_uppercase()))
                .hint("The formats are PARQUET and CSV.")
                .at(position));
        }
    };
    let location = location.ok_or_else(|| cursor.unexpected().hint("Say where the files are: LOCATION 'path'."))?;
    Ok(Statement::CreateExternalTable { name, columns, format, location, if_not_exists })
}

fn csv_options(cursor: &mut Cursor<'_>, header: &mut bool, delimiter: &mut u8) -> Result<()> {
    cursor.expect_token(&Token::LParen)?;
    loop {
        let name = match cursor.string() {
            Ok(name) => name.to_lowercase(),
            Err(_) => cursor.identifier()?,
        };
        let name = name.trim_start_matches("format.").to_owned();
        let _ = cursor.eat_token(&Token::Eq);
        let value = option_value(cursor)?;
        match name.as_str() {
            "header" | "has_header" => *header = boolean(&value).ok_or_else(|| not_boolean(&name, &value))?,
            "delimiter" => match value.as_bytes() {
                [byte] => *delimiter = *byte,
                _ => return Err(Error::new(SqlState::InvalidParameterValue, "a delimiter must be a single one-byte character")),
            },
            other => {
                return Err(Error::new(SqlState::InvalidParameterValue, format!("unrecognized parameter \"{other}\""))
                    .hint("The options are header and delimiter."));
            }
        }
        if !cursor.eat_token(&Token::Comma) {
            break;
        }
    }
    cursor.expect_token(&Token::RParen)
}
