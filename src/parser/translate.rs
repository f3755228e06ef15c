//! sqlparser's statements to ours. Whatever a statement says that Tidegate does not do is refused here, by name.

use sqlparser::ast::{
    self, ColumnOption, CommentObject, CopyLegacyCsvOption, CopyLegacyOption, CopyOption, CopySource, CopyTarget, ObjectType,
    SetExpr, TableObject,
};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::cursor::{Source, ident_name, is_word, relation_name};
use super::statement::Reader;
use super::{CommentTarget, Copy, CopyFormat, CopyOptions, Insert, RelationName, Statement, sql_type};
use crate::error::{Error, Result, SqlState};
use crate::registry::{Column, ObjectKind};

/// Parses the rest of the statement with sqlparser and translates it. `text` are its tokens as they stand in the source.
pub(super) fn statement(reader: &mut Reader<'_>, text: &[TokenWithSpan]) -> Result<Statement> {
    let position = reader.cursor.position();
    let unknown = reader.cursor.unexpected();
    let known =
        ["insert", "copy", "create", "drop", "comment", "update", "delete", "truncate", "merge", "alter", "grant", "revoke"];
    let later = ["declare", "fetch", "move", "close", "listen", "notify", "vacuum", "analyze", "lock", "call", "do", "cluster"];
    if let Some(word) = later.iter().find(|word| reader.cursor.at(word)) {
        return Err(Error::unsupported(word.to_uppercase()).at(position));
    }
    if !known.iter().any(|word| reader.cursor.at(word)) {
        return Err(unknown);
    }
    let tree = reader.cursor.parse(Parser::parse_statement)?;
    reader.cursor.end()?;
    match tree {
        ast::Statement::Insert(insert) => self::insert(reader, insert),
        ast::Statement::Copy { source, to, target, options, legacy_options, values: _ } => {
            copy(reader, source, to, &target, &options, &legacy_options)
        }
        ast::Statement::CreateTable(table) => create_table(&table),
        ast::Statement::CreateView(view) => create_view(reader, view, text),
        ast::Statement::Drop { object_type, if_exists, names, cascade, restrict: _, purge, temporary, table } => {
            if cascade || purge || temporary || table.is_some() {
                return Err(Error::unsupported("DROP … CASCADE").hint("Drop what depends on it first.").at(position));
            }
            let kind = match object_type {
                ObjectType::Table => ObjectKind::Table,
                ObjectType::View => ObjectKind::View,
                other => return Err(Error::unsupported(format!("DROP {other}")).at(position)),
            };
            Ok(Statement::Drop { kind, names: names.iter().map(relation_name).collect::<Result<_>>()?, if_exists })
        }
        ast::Statement::Comment { object_type, object_name, comment, if_exists: false } => {
            comment_on(object_type, &object_name, comment)
        }
        ast::Statement::Update { .. } => {
            Err(Error::unsupported("UPDATE").hint("Insert a newer row: the latest row of an entity is its value.").at(position))
        }
        ast::Statement::Delete(_) => Err(Error::unsupported("DELETE").at(position)),
        other => {
            let words: Vec<String> = other.to_string().split_whitespace().take(2).map(str::to_owned).collect();
            Err(Error::unsupported(words.join(" ")).at(position))
        }
    }
}

/// `TABLE name`: all of it.
pub(super) fn table(reader: &mut Reader<'_>) -> Result<Statement> {
    let name = reader.cursor.parse(|parser| parser.parse_object_name(false))?;
    reader.cursor.end()?;
    let body = Box::new(select_all(name));
    Ok(Statement::Query(reader.with_clauses(body)?))
}

/// A query of one row of these values.
pub(super) fn values_row(values: Vec<ast::Expr>) -> Box<ast::Query> {
    let values = ast::Values { explicit_row: false, value_keyword: false, rows: vec![ast::Parens::with_empty_span(values)] };
    Box::new(query_of(SetExpr::Values(values)))
}

/// `SELECT * FROM name`
fn select_all(name: ast::ObjectName) -> ast::Query {
    select_columns(name, &[])
}

/// A relation by its name, as it stands in `FROM`.
pub(super) fn named_relation(name: ast::ObjectName, alias: Option<ast::TableAlias>) -> ast::TableFactor {
    ast::TableFactor::Table {
        name,
        alias,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    }
}

/// `SELECT columns FROM name`, all of them where none are named.
fn select_columns(name: ast::ObjectName, columns: &[ast::Ident]) -> ast::Query {
    let projection = if columns.is_empty() {
        vec![ast::SelectItem::Wildcard(ast::WildcardAdditionalOptions::default())]
    } else {
        columns.iter().map(|column| ast::SelectItem::UnnamedExpr(ast::Expr::Identifier(column.clone()))).collect()
    };
    let relation = named_relation(name, None);
    query_of(SetExpr::Select(Box::new(select_from(projection, vec![ast::TableWithJoins { relation, joins: Vec::new() }]))))
}

/// `SELECT columns`, from nothing.
pub(super) fn select_values(projection: Vec<ast::SelectItem>) -> ast::Query {
    query_of(SetExpr::Select(Box::new(select_from(projection, Vec::new()))))
}

fn select_from(projection: Vec<ast::SelectItem>, from: Vec<ast::TableWithJoins>) -> ast::Select {
    ast::Select {
        select_token: ast::helpers::attached_token::AttachedToken::empty(),
        optimizer_hints: Vec::new(),
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: false,
        projection,
        exclude: None,
        into: None,
        from,
        lateral_views: Vec::new(),
        prewhere: None,
        selection: None,
        connect_by: Vec::new(),
        group_by: ast::GroupByExpr::Expressions(Vec::new(), Vec::new()),
        cluster_by: Vec::new(),
        distribute_by: Vec::new(),
        sort_by: Vec::new(),
        having: None,
        named_window: Vec::new(),
        qualify: None,
        window_before_qualify: false,
        value_table_mode: None,
        flavor: ast::SelectFlavor::Standard,
    }
}

fn query_of(body: SetExpr) -> ast::Query {
    ast::Query {
        with: None,
        body: Box::new(body),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: Vec::new(),
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: Vec::new(),
    }
}

fn insert(reader: &mut Reader<'_>, insert: ast::Insert) -> Result<Statement> {
    let TableObject::TableName(table) = &insert.table else {
        return Err(Error::unsupported("INSERT into anything but a table"));
    };
    if insert.on.is_some() {
        return Err(Error::unsupported("ON CONFLICT")
            .hint("Leave it out: a newer row takes the place of an older one by itself, and equal rows are harmless."));
    }
    if insert.returning.is_some() {
        return Err(Error::unsupported("INSERT … RETURNING"));
    }
    if insert.table_alias.is_some() || insert.overwrite || insert.partitioned.is_some() || !insert.assignments.is_empty() {
        return Err(Error::unsupported("this form of INSERT"));
    }
    let columns = insert.columns.iter().map(|column| relation_name(column).map(|name| name.name)).collect::<Result<_>>()?;
    let Some(source) = insert.source else {
        return Err(Error::unsupported("INSERT … DEFAULT VALUES").hint("Name the values."));
    };
    Ok(Statement::Insert(Insert { table: relation_name(table)?, columns, source: reader.with_clauses(source)? }))
}

fn copy(
    reader: &mut Reader<'_>,
    source: CopySource,
    to: bool,
    target: &CopyTarget,
    options: &[CopyOption],
    legacy: &[CopyLegacyOption],
) -> Result<Statement> {
    match (target, to) {
        (CopyTarget::Stdin, false) | (CopyTarget::Stdout, true) => {}
        (CopyTarget::Stdin | CopyTarget::Stdout, _) => {
            return Err(Error::new(SqlState::SyntaxError, "COPY goes FROM STDIN or TO STDOUT"));
        }
        (CopyTarget::File { .. } | CopyTarget::Program { .. }, _) => {
            return Err(Error::unsupported("COPY with a file of the server or a program")
                .hint("Use STDIN or STDOUT; psql's \\copy reads and writes your own files."));
        }
    }
    let options = copy_options(options, legacy)?;
    let copy = match (source, to) {
        (CopySource::Table { table_name, columns }, false) => {
            let columns = columns.iter().map(ident_name).collect();
            Copy::In { table: relation_name(&table_name)?, columns, options }
        }
        (CopySource::Table { table_name, columns }, true) => {
            let body = Box::new(select_columns(table_name, &columns));
            Copy::Out { source: reader.with_clauses(body)?, options }
        }
        (CopySource::Query(query), _) => Copy::Out { source: reader.with_clauses(query)?, options },
    };
    Ok(Statement::Copy(copy))
}

/// A statement's tokens, where a `COPY` has options of the old spelling with `QUOTE` and `ESCAPE` right after `CSV`: sqlparser
/// knows them only there, PostgreSQL takes the options in any order.
pub(super) fn quoting_after_csv(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let is = |place: usize, word: &str| tokens.get(place).is_some_and(|token| is_word(&token.token, word));
    if !is(0, "copy") {
        return tokens;
    }
    let Some(end) = (0..tokens.len()).rev().find(|place| is(*place, "stdin") || is(*place, "stdout")) else { return tokens };
    let (mut kept, mut quoting, mut csv) = (tokens[..=end].to_vec(), Vec::new(), None);
    let mut next = end + 1;
    while next < tokens.len() {
        if is(next, "quote") || is(next, "escape") {
            let length = if is(next + 1, "as") { 3 } else { 2 };
            let last = tokens.len().min(next + length);
            quoting.extend_from_slice(&tokens[next..last]);
            next = last;
            continue;
        }
        kept.push(tokens[next].clone());
        if is(next, "csv") {
            csv = Some(kept.len());
        }
        next += 1;
    }
    match csv {
        // In parentheses, options are of the new spelling.
        Some(csv) if !tokens[end..].iter().any(|token| token.token == Token::LParen) => {
            kept.splice(csv..csv, quoting);
            kept
        }
        _ => tokens,
    }
}

/// The options of a `COPY`, in either spelling, with the defaults of its format.
fn copy_options(options: &[CopyOption], legacy: &[CopyLegacyOption]) -> Result<CopyOptions> {
    let mut format = CopyFormat::Text;
    for option in options {
        if let CopyOption::Format(name) = option {
            format = match name.value.to_lowercase().as_str() {
                "text" => CopyFormat::Text,
                "csv" => CopyFormat::Csv,
                "binary" => CopyFormat::Binary,
                other => {
                    return Err(Error::new(SqlState::InvalidParameterValue, format!("COPY format \"{other}\" not recognized")));
                }
            };
        }
    }
    for option in legacy {
        match option {
            CopyLegacyOption::Csv(_) => format = CopyFormat::Csv,
            CopyLegacyOption::Binary => format = CopyFormat::Binary,
            _ => {}
        }
    }
    let mut result = CopyOptions {
        format,
        delimiter: if format == CopyFormat::Csv { b',' } else { b'\t' },
        null: if format == CopyFormat::Csv { String::new() } else { "\\N".to_owned() },
        header: false,
        quote: b'"',
        escape: b'"',
    };
    let mut escape = None;
    for option in options {
        match option {
            CopyOption::Format(_) => {}
            CopyOption::Delimiter(delimiter) => result.delimiter = one_byte("delimiter", *delimiter)?,
            CopyOption::Null(null) => result.null.clone_from(null),
            CopyOption::Header(header) => result.header = *header,
            CopyOption::Quote(quote) => result.quote = one_byte("quote", *quote)?,
            CopyOption::Escape(character) => escape = Some(one_byte("escape", *character)?),
            CopyOption::Encoding(name) if name.to_lowercase().replace('-', "") == "utf8" => {}
            CopyOption::Encoding(name) => return Err(Error::unsupported(format!("the encoding {name}")).hint("Send UTF8.")),
            CopyOption::Freeze(false) => {}
            other => return Err(Error::unsupported(format!("the COPY option {other}"))),
        }
    }
    for option in legacy {
        match option {
            CopyLegacyOption::Binary => {}
            CopyLegacyOption::Delimiter(delimiter) => result.delimiter = one_byte("delimiter", *delimiter)?,
            CopyLegacyOption::Null(null) => result.null.clone_from(null),
            CopyLegacyOption::Csv(options) => {
                for option in options {
                    match option {
                        CopyLegacyCsvOption::Header => result.header = true,
                        CopyLegacyCsvOption::Quote(quote) => result.quote = one_byte("quote", *quote)?,
                        CopyLegacyCsvOption::Escape(character) => escape = Some(one_byte("escape", *character)?),
                        other => return Err(Error::unsupported(format!("the COPY option {other}"))),
                    }
                }
            }
            CopyLegacyOption::Header => result.header = true,
            other => return Err(Error::unsupported(format!("the COPY option {other}"))),
        }
    }
    result.escape = escape.unwrap_or(result.quote);
    Ok(result)
}

fn one_byte(what: &str, character: char) -> Result<u8> {
    u8::try_from(character)
        .ok()
        .filter(u8::is_ascii)
        .ok_or_else(|| Error::new(SqlState::FeatureNotSupported, format!("COPY {what} must be a single one-byte character")))
}

fn create_table(table: &ast::CreateTable) -> Result<Statement> {
    if table.or_replace || table.temporary || table.external || table.like.is_some() || table.clone.is_some() {
        return Err(Error::unsupported("this form of CREATE TABLE"));
    }
    if table.inherits.is_some() || table.partition_by.is_some() || table.partition_of.is_some() {
        return Err(Error::unsupported("a table that inherits or is partitioned"));
    }
    if let Some(constraint) = table.constraints.first() {
        return Err(constraint_refused(&constraint.to_string()));
    }
    let name = relation_name(&table.name)?;
    let if_not_exists = table.if_not_exists;
    if table.query.is_some() {
        return Err(Error::unsupported("this form of CREATE TABLE AS"));
    }
    let columns = table.columns.iter().map(column).collect::<Result<_>>()?;
    Ok(Statement::CreateTable { name, columns, if_not_exists })
}

fn column(definition: &ast::ColumnDef) -> Result<Column> {
    let mut column =
        Column { name: ident_name(&definition.name), data_type: sql_type(&definition.data_type)?, nullable: true, comment: None };
    for option in &definition.options {
        match &option.option {
            ColumnOption::Null => {}
            ColumnOption::NotNull => column.nullable = false,
            other => return Err(constraint_refused(&other.to_string())),
        }
    }
    Ok(column)
}

fn constraint_refused(constraint: &str) -> Error {
    Error::unsupported(format!("the constraint {constraint} of a table"))
        .hint("Tables take NOT NULL; feature views have keys and CHECKs.")
}

fn create_view(reader: &mut Reader<'_>, view: ast::CreateView, text: &[TokenWithSpan]) -> Result<Statement> {
    if view.materialized || view.temporary || view.or_alter || view.secure || view.to.is_some() {
        return Err(Error::unsupported("a materialized or temporary view").hint("A feature view keeps what it is written."));
    }
    let definition = definition_text(reader.cursor.source, text)
        .ok_or_else(|| Error::new(SqlState::SyntaxError, "a view needs AS and a query"))?
        .to_owned();
    Ok(Statement::CreateView {
        name: relation_name(&view.name)?,
        columns: view.columns.iter().map(|column| ident_name(&column.name)).collect(),
        definition,
        query: reader.with_clauses(view.query)?,
        or_replace: view.or_replace,
        if_not_exists: view.if_not_exists,
    })
}

/// The text after the first `AS` that opens a query: `CREATE VIEW name [(columns)] AS query`.
pub(super) fn definition_text<'a>(source: Source<'a>, tokens: &[TokenWithSpan]) -> Option<&'a str> {
    let start = tokens.iter().position(|token| is_word(&token.token, "as"))? + 1;
    tokens.get(start)?;
    Some(source.text(&tokens[start..]))
}

fn comment_on(kind: CommentObject, name: &ast::ObjectName, comment: Option<String>) -> Result<Statement> {
    let target = match kind {
        CommentObject::Table => CommentTarget::Object(ObjectKind::Table, relation_name(name)?),
        CommentObject::View => CommentTarget::Object(ObjectKind::View, relation_name(name)?),
        CommentObject::Column => {
            let mut parts: Vec<String> = name.0.iter().filter_map(|part| part.as_ident().map(ident_name)).collect();
            let column = parts.pop();
            let relation = parts.pop();
            let (Some(column), Some(relation)) = (column, relation) else {
                return Err(Error::new(SqlState::SyntaxError, "column name must be qualified"));
            };
            CommentTarget::Column(RelationName { schema: parts.pop(), name: relation }, column)
        }
        other => return Err(Error::unsupported(format!("COMMENT ON {other}"))),
    };
    Ok(Statement::Comment { target, comment })
}
