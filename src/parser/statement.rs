//! From text to statements.

use sqlparser::ast;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{IsOptional, Parser};
use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::cursor::{Cursor, Source, ident_name, relation_name};
use super::{
    CommentTarget, Query, SetConfig, Statement, as_of_join, definition, service, set_config, settings, time_clause, translate,
};
use crate::error::{Error, Result, SqlState};
use crate::registry::ObjectKind;

/// The statements in `sql`, in order; none where it holds only white space and comments.
///
/// Errors are PostgreSQL's: `42601` with the position, `0A000` for what is understood and refused.
pub fn parse(sql: &str) -> Result<Vec<Statement>> {
    let source = Source(sql);
    let tokens = source.tokens()?;
    tokens
        .split(|token| token.token == Token::SemiColon)
        .filter(|tokens| !tokens.is_empty())
        .map(|tokens| statement(source, tokens.to_vec()))
        .collect()
}

/// The one query in `sql`: the definition of a view.
pub fn parse_query(sql: &str) -> Result<Query> {
    let mut statements = parse(sql)?;
    match (statements.pop(), statements.is_empty()) {
        (Some(Statement::Query(query) | Statement::SetConfig(SetConfig { query, .. })), true) => Ok(query),
        _ => Err(Error::new(SqlState::SyntaxError, "a single query is expected")),
    }
}

/// What the productions of one statement share: the place in its tokens, and its time clauses.
pub(super) struct Reader<'a> {
    pub(super) cursor: Cursor<'a>,
    pub(super) clauses: Vec<super::TimeClause>,
    pub(super) joins: Vec<super::AsOfJoin>,
}

impl Reader<'_> {
    /// The rest of the statement as a query.
    pub(super) fn query(&mut self) -> Result<Query> {
        let body = self.cursor.parse(Parser::parse_query)?;
        self.cursor.end()?;
        self.with_clauses(body)
    }

    /// A query with the statement's time clauses put back at its tables.
    pub(super) fn with_clauses(&mut self, mut body: Box<ast::Query>) -> Result<Query> {
        time_clause::attach(&mut body, &mut self.clauses)?;
        Ok(Query { body, clauses: std::mem::take(&mut self.clauses), joins: std::mem::take(&mut self.joins) })
    }

    /// Fails if a time clause stands in a statement that has no place for one.
    fn finish(&self) -> Result<()> {
        match (self.clauses.first(), self.joins.first()) {
            (None, None) => Ok(()),
            (Some(lost), _) => Err(Error::unsupported("a time clause in this statement").at(lost.position)),
            (_, Some(lost)) => Err(Error::unsupported("ASOF JOIN in this statement").at(lost.position)),
        }
    }
}

fn statement(source: Source<'_>, tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    let text_tokens = tokens.clone();
    let tokens = translate::quoting_after_csv(tokens);
    let (tokens, clauses) = time_clause::extract(source, tokens)?;
    let (tokens, joins) = as_of_join::extract(source, tokens)?;
    let mut reader = Reader { cursor: Cursor::new(source, tokens), clauses, joins };
    let statement = one(&mut reader, &text_tokens)?;
    reader.finish()?;
    Ok(statement)
}

fn one(reader: &mut Reader<'_>, text: &[TokenWithSpan]) -> Result<Statement> {
    if let Some(statement) = settings::statement(&mut reader.cursor)? {
        return Ok(statement);
    }
    if let Some(statement) = definition::statement(&mut reader.cursor)? {
        return Ok(statement);
    }
    if reader.cursor.eat_words(&["create", "feature", "service"]) {
        let definition = translate::definition_text(reader.cursor.source, text);
        return service::create_feature_service(reader, definition);
    }
    let cursor = &mut reader.cursor;
    if cursor.eat("explain") {
        return explain(reader);
    }
    if cursor.at_words(&["comment", "on"]) && (cursor_names_ours(cursor)) {
        return comment(cursor);
    }
    if cursor.at("prepare") {
        return prepare(reader, text);
    }
    if cursor.eat("execute") {
        return execute(reader);
    }
    if cursor.eat("table") {
        return translate::table(reader);
    }
    if let Some(statement) = create_table_as(reader)? {
        return Ok(statement);
    }
    let cursor = &reader.cursor;
    if ["select", "with", "values"].iter().any(|word| cursor.at(word)) || cursor.parser.peek_token_ref().token == Token::LParen {
        return reader.query().map(set_config::statement);
    }
    translate::statement(reader, text)
}

fn explain(reader: &mut Reader<'_>) -> Result<Statement> {
    let cursor = &mut reader.cursor;
    let (mut analyze, mut verbose) = (false, false);
    if cursor.eat_token(&Token::LParen) {
        loop {
            let option = cursor.identifier()?;
            let on = explain_option(cursor, &option)?;
            match option.as_str() {
                "analyze" => analyze = on,
                "verbose" => verbose = on,
                "costs" | "buffers" | "timing" | "summary" | "settings" | "wal" | "format" => {}
                other => {
                    return Err(Error::new(SqlState::SyntaxError, format!("unrecognized EXPLAIN option \"{other}\"")));
                }
            }
            if !cursor.eat_token(&Token::Comma) {
                break;
            }
        }
        cursor.expect_token(&Token::RParen)?;
    } else {
        analyze = cursor.eat("analyze");
        verbose = cursor.eat("verbose");
    }
    match one(reader, &[])? {
        Statement::Query(query) | Statement::SetConfig(SetConfig { query, .. }) => {
            Ok(Statement::Explain { analyze, verbose, query })
        }
        Statement::Insert(insert) if !analyze => Ok(Statement::Explain { analyze, verbose, query: insert.source }),
        _ => Err(Error::unsupported("EXPLAIN of anything but a query").hint("EXPLAIN takes SELECT, VALUES, WITH or INSERT.")),
    }
}

/// The value of an option in `EXPLAIN (option value, …)`: on where none is given.
fn explain_option(cursor: &mut Cursor<'_>, option: &str) -> Result<bool> {
    if option == "format" {
        let format = cursor.identifier()?;
        if format != "text" {
            return Err(Error::unsupported(format!("EXPLAIN in the format {format}")).hint("Leave FORMAT out, or say TEXT."));
        }
        return Ok(true);
    }
    let on = ["true", "on"].iter().any(|word| cursor.eat(word));
    let off = !on && ["false", "off"].iter().any(|word| cursor.eat(word));
    Ok(!off)
}

/// Whether `COMMENT ON` speaks of one of our kinds of object.
fn cursor_names_ours(cursor: &Cursor<'_>) -> bool {
    cursor.at_words(&["comment", "on", "entity"])
        || cursor.at_words(&["comment", "on", "feature", "view"])
        || cursor.at_words(&["comment", "on", "feature", "service"])
}

fn comment(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect("comment")?;
    cursor.expect("on")?;
    let kind = if cursor.eat("entity") {
        ObjectKind::Entity
    } else if cursor.eat_words(&["feature", "service"]) {
        ObjectKind::FeatureService
    } else {
        cursor.expect("feature")?;
        cursor.expect("view")?;
        ObjectKind::FeatureView
    };
    let name = cursor.relation_name()?;
    cursor.expect("is")?;
    let comment = if cursor.eat("null") { None } else { Some(cursor.string()?) };
    cursor.end()?;
    Ok(Statement::Comment { target: CommentTarget::Object(kind, name), comment })
}

/// `CREATE TABLE name (columns) AS query WITH NO DATA`, read here because sqlparser wants types in the list and knows no `WITH`.
fn create_table_as(reader: &mut Reader<'_>) -> Result<Option<Statement>> {
    let head = reader.cursor.parser.maybe_parse(|parser| {
        parser.expect_keywords(&[Keyword::CREATE, Keyword::TABLE])?;
        let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
        let name = parser.parse_object_name(false)?;
        let columns = parser.parse_parenthesized_column_list(IsOptional::Optional, false)?;
        parser.expect_keyword(Keyword::AS)?;
        Ok((if_not_exists, name, columns))
    });
    let Ok(Some((if_not_exists, name, columns))) = head else { return Ok(None) };
    let body = reader.cursor.parse(Parser::parse_query)?;
    let with_data = !reader.cursor.eat_words(&["with", "no", "data"]);
    if with_data {
        reader.cursor.eat_words(&["with", "data"]);
    }
    reader.cursor.end()?;
    let columns = columns.iter().map(ident_name).collect();
    let query = reader.with_clauses(body)?;
    Ok(Some(Statement::CreateTableAs { name: relation_name(&name)?, columns, query, if_not_exists, with_data }))
}

fn prepare(reader: &mut Reader<'_>, text: &[TokenWithSpan]) -> Result<Statement> {
    let cursor = &mut reader.cursor;
    cursor.expect("prepare")?;
    let name = cursor.identifier()?;
    let mut types = Vec::new();
    if cursor.eat_token(&Token::LParen) {
        loop {
            types.push(super::sql_type(&cursor.parse(Parser::parse_data_type)?)?);
            if !cursor.eat_token(&Token::Comma) {
                break;
            }
        }
        cursor.expect_token(&Token::RParen)?;
    }
    cursor.expect("as")?;
    let statement = Box::new(one(reader, text)?);
    Ok(Statement::Prepare { name, types, statement })
}

fn execute(reader: &mut Reader<'_>) -> Result<Statement> {
    let cursor = &mut reader.cursor;
    let name = cursor.identifier()?;
    if cursor.at_end() {
        return Ok(Statement::Execute { name, arguments: None });
    }
    cursor.expect_token(&Token::LParen)?;
    if cursor.eat_token(&Token::RParen) {
        cursor.end()?;
        return Ok(Statement::Execute { name, arguments: None });
    }
    let arguments = cursor.parse(|parser| parser.parse_comma_separated(Parser::parse_expr))?;
    cursor.expect_token(&Token::RParen)?;
    cursor.end()?;
    let row = translate::values_row(arguments);
    Ok(Statement::Execute { name, arguments: Some(reader.with_clauses(row)?) })
}
