//! `CREATE FEATURE SERVICE`, and what the query of a service cannot have.

use std::collections::BTreeMap;

use sqlparser::ast;
use sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::definition::{if_not_exists, option_value};
use super::statement::Reader;
use super::{Query, RelationName, Statement};
use crate::error::{Error, Result, SqlState};

/// `CREATE FEATURE SERVICE name COMMENT … WITH (…) AS query`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateFeatureService {
    /// Its name.
    pub name: RelationName,
    /// Its query, as text.
    pub definition: String,
    /// Its query: one `SELECT` of expressions over a list of relations, and nothing else.
    pub query: Query,
    /// What it is, in words.
    pub comment: Option<String>,
    /// Other options.
    pub options: BTreeMap<String, String>,
    /// Leave a relation of that name as it is.
    pub if_not_exists: bool,
}

/// `[IF NOT EXISTS] name [COMMENT '…'] [WITH (…)] AS query`; `definition` is the text of the query.
pub(super) fn create_feature_service(reader: &mut Reader<'_>, definition: Option<&str>) -> Result<Statement> {
    let cursor = &mut reader.cursor;
    let if_not_exists = if_not_exists(cursor);
    let name = cursor.relation_name()?;
    let (mut comment, mut options) = (None, BTreeMap::new());
    while !cursor.eat("as") {
        if cursor.eat("comment") {
            comment = Some(cursor.string()?);
        } else if cursor.eat("with") {
            service_options(cursor, &mut options)?;
        } else {
            return Err(cursor.unexpected());
        }
    }
    let definition = definition.ok_or_else(|| cursor.unexpected())?.to_owned();
    let query = reader.query()?;
    only_columns(&query)?;
    Ok(Statement::CreateFeatureService(CreateFeatureService { name, definition, query, comment, options, if_not_exists }))
}

fn service_options(cursor: &mut Cursor<'_>, options: &mut BTreeMap<String, String>) -> Result<()> {
    cursor.expect_token(&Token::LParen)?;
    loop {
        let position = cursor.position();
        let name = cursor.identifier()?;
        let value = if cursor.eat_token(&Token::Eq) { option_value(cursor)? } else { "true".to_owned() };
        if !matches!(name.as_str(), "owner" | "tags") {
            return Err(Error::new(SqlState::InvalidParameterValue, format!("unrecognized parameter \"{name}\""))
                .hint("The options are owner and tags.")
                .at(position));
        }
        options.insert(name, value);
        if !cursor.eat_token(&Token::Comma) {
            break;
        }
    }
    cursor.expect_token(&Token::RParen)
}

/// Refuses by name what the query of a service cannot have: it selects expressions from feature views, a row in, a row out.
fn only_columns(query: &Query) -> Result<()> {
    let refused = |what: &str| {
        Err(Error::unsupported(format!("{what} in a feature service"))
            .hint("A feature service is SELECT expressions FROM view1 a, view2 b; its views are joined by entity key."))
    };
    if !query.clauses.is_empty() {
        return refused("a time clause");
    }
    let ast::Query { with, body, order_by, limit_clause, fetch, locks, .. } = query.body.as_ref();
    let ast::SetExpr::Select(select) = body.as_ref() else { return refused("anything but one SELECT") };
    let is_grouped =
        !matches!(&select.group_by, ast::GroupByExpr::Expressions(by, modifiers) if by.is_empty() && modifiers.is_empty());
    let clauses = [
        (with.is_some(), "WITH"),
        (order_by.is_some(), "ORDER BY"),
        (limit_clause.is_some() || fetch.is_some(), "LIMIT"),
        (!locks.is_empty(), "FOR UPDATE"),
        (select.distinct.is_some(), "DISTINCT"),
        (select.selection.is_some(), "WHERE"),
        (is_grouped, "GROUP BY"),
        (select.having.is_some(), "HAVING"),
        (!select.named_window.is_empty(), "WINDOW"),
        (select.from.is_empty(), "a SELECT without FROM"),
        (select.from.iter().any(|from| !from.joins.is_empty()), "JOIN"),
    ];
    if let Some((_, what)) = clauses.iter().find(|(there, _)| *there) {
        return refused(what);
    }
    let is_table = |from: &ast::TableWithJoins| matches!(&from.relation, ast::TableFactor::Table { args: None, .. });
    if !select.from.iter().all(is_table) {
        return refused("anything but a feature view in FROM");
    }
    let is_star = |item: &ast::SelectItem| matches!(item, ast::SelectItem::Wildcard(_) | ast::SelectItem::QualifiedWildcard(..));
    if select.projection.iter().any(is_star) {
        return refused("*");
    }
    Ok(())
}
