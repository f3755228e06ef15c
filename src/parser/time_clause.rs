//! The clauses that move a table's clock.
//!
//! `v AS OF t`, `v FOR SYSTEM_TIME AS OF t` and `v VERSION AS OF n` are not PostgreSQL's. They are taken out of the token
//! stream before sqlparser sees it: the table's name becomes a quoted name with a mark and the clause's number, and once the
//! tree is built the mark becomes the table's `version`. A mark that stands anywhere but at a table is an error, so that no
//! clause is ever lost.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, Ident, ObjectNamePart, TableFactor, TableVersion, VisitMut, VisitorMut,
};
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::cursor::{Cursor, Source, fold, is_word};
use super::translate::named_relation;
use crate::error::{Error, Result, SqlState};

/// The character that sets a clause's number off from the table's name. No name may contain it.
const MARK: char = '\u{1f}';

/// The time clauses of one table, as written.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeClause {
    /// `AS OF t`: the instant whose values are asked for.
    pub as_of: Option<ast::Expr>,
    /// `WITHIN interval`: a window tighter than the view's TTL.
    pub within: Option<ast::Expr>,
    /// `FOR SYSTEM_TIME AS OF t`: only what the store knew by then.
    pub system_time: Option<ast::Expr>,
    /// `VERSION AS OF v`: a dataset version or tag.
    pub version: Option<ast::Expr>,
    /// The position of its first word in the statement, in characters from 1.
    pub position: usize,
}

/// The words that open a clause.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Head {
    AsOf,
    SystemTime,
    Version,
}

impl Head {
    /// The head that `tokens` begin with, and how many tokens it has.
    fn of(tokens: &[TokenWithSpan]) -> Option<(Head, usize)> {
        let begins = |words: &[&str]| {
            tokens.len() >= words.len() && words.iter().zip(tokens).all(|(word, token)| is_word(&token.token, word))
        };
        if begins(&["for", "system_time", "as", "of"]) {
            Some((Head::SystemTime, 4))
        } else if begins(&["version", "as", "of"]) {
            Some((Head::Version, 3))
        } else if begins(&["as", "of"]) {
            Some((Head::AsOf, 2))
        } else {
            None
        }
    }
}

/// Takes the clauses out of a statement's tokens and marks the tables they stood at.
pub(super) fn extract(source: Source<'_>, tokens: Vec<TokenWithSpan>) -> Result<(Vec<TokenWithSpan>, Vec<TimeClause>)> {
    refuse_marks(&tokens)?;
    if !tokens.iter().any(|token| is_word(&token.token, "of")) {
        return Ok((tokens, Vec::new()));
    }
    let mut kept: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut clauses = Vec::new();
    let mut next = 0;
    while next < tokens.len() {
        if Head::of(&tokens[next..]).is_none() {
            kept.push(tokens[next].clone());
            next += 1;
            continue;
        }
        let position = source.position(tokens[next].span.start);
        let table = kept.last_mut().ok_or_else(|| not_at_a_table(position))?;
        let (clause, length) = chain(source, &tokens[next..], position)?;
        mark(table, clauses.len(), position)?;
        clauses.push(clause);
        next += length;
    }
    Ok((kept, clauses))
}

/// Reads the clauses that follow each other at one table; gives them and the number of tokens they took.
fn chain(source: Source<'_>, tokens: &[TokenWithSpan], position: usize) -> Result<(TimeClause, usize)> {
    let mut clause = TimeClause { as_of: None, within: None, system_time: None, version: None, position };
    let mut next = 0;
    while let Some((head, words)) = Head::of(&tokens[next..]) {
        let at = source.position(tokens[next].span.start);
        next += words;
        let mut cursor = Cursor::new(source, tokens[next..].to_vec());
        let expression = cursor.expression()?;
        let slot = match head {
            Head::AsOf => &mut clause.as_of,
            Head::SystemTime => &mut clause.system_time,
            Head::Version => &mut clause.version,
        };
        if slot.replace(expression).is_some() {
            return Err(Error::new(SqlState::SyntaxError, "a time clause stands twice at one table").at(at));
        }
        if head == Head::AsOf && cursor.eat("within") {
            clause.within = Some(cursor.expression()?);
        }
        next += cursor.parser.index();
    }
    Ok((clause, next))
}

fn mark(table: &mut TokenWithSpan, clause: usize, position: usize) -> Result<()> {
    match &table.token {
        Token::Word(word) if word.quote_style.is_some() || !is_reserved(word) => {
            let value = format!("{}{MARK}{clause}", fold(word));
            table.token = Token::Word(Word { value, quote_style: Some('"'), keyword: Keyword::NoKeyword });
            Ok(())
        }
        Token::RParen => Err(Error::unsupported("a time clause on a subquery or function")
            .hint("Put it at the feature view inside.")
            .at(position)),
        _ => Err(not_at_a_table(position)),
    }
}

fn is_reserved(word: &Word) -> bool {
    matches!(word.keyword, Keyword::FROM | Keyword::JOIN | Keyword::SELECT | Keyword::WHERE | Keyword::ON | Keyword::INTO)
}

fn not_at_a_table(position: usize) -> Error {
    Error::new(SqlState::SyntaxError, "a time clause may only stand at a table")
        .hint("An alias spelled \"of\" needs quotes.")
        .at(position)
}

/// Our mark is nobody else's to write.
fn refuse_marks(tokens: &[TokenWithSpan]) -> Result<()> {
    let marked = |token: &TokenWithSpan| matches!(&token.token, Token::Word(word) if word.value.contains(MARK));
    if tokens.iter().any(marked) {
        return Err(Error::new(SqlState::InvalidName, "a name cannot contain the character U+001F"));
    }
    Ok(())
}

/// Turns the marks in a tree into table versions: `VERSION AS OF n`, where `n` is the clause's number, and calls of
/// `features_at` into the views they name, with clauses of their own. Fails unless each of the clauses that were taken from
/// the tokens is found at a table.
pub(super) fn attach<T: VisitMut>(tree: &mut T, clauses: &mut Vec<TimeClause>) -> Result<()> {
    let mut attacher = Attacher { found: 0, called: Vec::new(), first: clauses.len() };
    let flow = tree.visit(&mut attacher);
    if let ControlFlow::Break(error) = flow {
        return Err(error);
    }
    let Attacher { found, called, .. } = attacher;
    match clauses.get(found) {
        None => {
            clauses.extend(called);
            Ok(())
        }
        Some(lost) => Err(not_at_a_table(lost.position)),
    }
}

struct Attacher {
    found: usize,
    /// The clauses of `features_at` calls.
    called: Vec<TimeClause>,
    /// The number of the first of those.
    first: usize,
}

impl VisitorMut for Attacher {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        match features_at(factor) {
            Ok(None) => {}
            Ok(Some((view, clause))) => {
                *factor = view;
                if let TableFactor::Table { version, .. } = factor {
                    *version = Some(numbered((self.first + self.called.len()).to_string()));
                }
                self.called.push(clause);
                return ControlFlow::Continue(());
            }
            Err(error) => return ControlFlow::Break(error),
        }
        let TableFactor::Table { name, version, args, .. } = factor else { return ControlFlow::Continue(()) };
        let Some(ObjectNamePart::Identifier(ident)) = name.0.last_mut() else { return ControlFlow::Continue(()) };
        let Some((table, clause)) = split_mark(&ident.value) else { return ControlFlow::Continue(()) };
        if args.is_some() {
            return ControlFlow::Break(Error::unsupported("a time clause on a function"));
        }
        *version = Some(numbered(clause.to_owned()));
        *ident = Ident { value: table, quote_style: Some('"'), span: ident.span };
        self.found += 1;
        ControlFlow::Continue(())
    }
}

fn numbered(clause: String) -> TableVersion {
    TableVersion::VersionAsOf(ast::Expr::Value(ast::Value::Number(clause, false).with_empty_span()))
}

/// The view and the clause that a call of `features_at(view, as_of, within, system_time, version)` stands for; the arguments
/// after the first may be named. `None` for anything else.
fn features_at(factor: &TableFactor) -> Result<Option<(TableFactor, TimeClause)>> {
    const PARAMETERS: [&str; 4] = ["as_of", "within", "system_time", "version"];
    let (name, args, alias) = match factor {
        TableFactor::Table { name, args: Some(arguments), alias, .. } => (name, &arguments.args, alias),
        TableFactor::Function { name, args, alias, .. } => (name, args, alias),
        _ => return Ok(None),
    };
    let [ObjectNamePart::Identifier(called)] = name.0.as_slice() else { return Ok(None) };
    if called.quote_style.is_some() || !called.value.eq_ignore_ascii_case("features_at") {
        return Ok(None);
    }
    let wrong = |what: &str| {
        Error::new(SqlState::UndefinedFunction, format!("features_at {what}"))
            .hint("Call features_at('view', as_of => …, within => …, system_time => …, version => …).")
    };
    let mut values: [Option<ast::Expr>; 4] = Default::default();
    let mut view = None;
    for (place, argument) in args.iter().enumerate() {
        let (slot, value) = match argument {
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. }
            | FunctionArg::ExprNamed { name: ast::Expr::Identifier(name), arg: FunctionArgExpr::Expr(value), .. } => {
                let known = PARAMETERS.iter().position(|parameter| name.value.eq_ignore_ascii_case(parameter));
                (known.ok_or_else(|| wrong(&format!("has no parameter \"{}\"", name.value)))?, value)
            }
            FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) if place == 0 => {
                view = text(value);
                continue;
            }
            FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) if place <= PARAMETERS.len() => (place - 1, value),
            _ => return Err(wrong("takes a view and at most four instants and lengths")),
        };
        if values[slot].replace(value.clone()).is_some() {
            return Err(wrong(&format!("is given \"{}\" twice", PARAMETERS[slot])));
        }
    }
    let view = view.ok_or_else(|| wrong("needs the name of a feature view, as text"))?;
    let [as_of, within, system_time, version] = values;
    let position = usize::try_from(called.span.start.column).unwrap_or(1).max(1);
    let parts = view.split('.').map(|part| ObjectNamePart::Identifier(Ident::new(part)));
    let alias = alias
        .clone()
        .or_else(|| Some(ast::TableAlias { explicit: true, name: Ident::new("features_at"), columns: Vec::new(), at: None }));
    let view = named_relation(ast::ObjectName(parts.collect()), alias);
    Ok(Some((view, TimeClause { as_of, within, system_time, version, position })))
}

fn text(expr: &ast::Expr) -> Option<String> {
    match expr {
        ast::Expr::Value(ast::ValueWithSpan { value: ast::Value::SingleQuotedString(text), .. }) => Some(text.clone()),
        _ => None,
    }
}

fn split_mark(name: &str) -> Option<(String, &str)> {
    name.split_once(MARK).map(|(table, clause)| (table.to_owned(), clause))
}
