//! The clauses that move a table's clock.
//!
//! `v AS OF t`, `v FOR SYSTEM_TIME AS OF t` and `v VERSION AS OF n` are not PostgreSQL's. They are taken out of the token
//! stream before sqlparser sees it: the table's name becomes a quoted name with a mark and the clause's number, and once the
//! tree is built the mark becomes the table's `version`. A mark that stands anywhere but at a table is an error, so that no
//! clause is ever lost.

use std::ops::ControlFlow;

use sqlparser::ast::{self, Ident, ObjectNamePart, TableFactor, TableVersion, VisitMut, VisitorMut};
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::cursor::{Cursor, Source, fold, is_word};
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
    refuse_unbuilt(source, &tokens)?;
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

/// The spellings of time travel that are understood but not built: refused by name wherever they stand.
fn refuse_unbuilt(source: Source<'_>, tokens: &[TokenWithSpan]) -> Result<()> {
    for (n, token) in tokens.iter().enumerate() {
        if let Token::Word(word) = &token.token
            && word.value.contains(MARK)
        {
            return Err(Error::new(SqlState::InvalidName, "a name cannot contain the character U+001F"));
        }
        let followed_by = |word: &str| tokens.get(n + 1).is_some_and(|next| is_word(&next.token, word));
        if is_word(&token.token, "asof") && (followed_by("join") || followed_by("left") || followed_by("inner")) {
            return Err(Error::unsupported("ASOF JOIN")
                .hint("Write LEFT JOIN v AS OF l.ts AS f ON f.key = l.key.")
                .at(source.position(token.span.start)));
        }
    }
    Ok(())
}

/// Turns the marks in a tree into table versions: `VERSION AS OF n`, where `n` is the clause's number. Fails unless each of
/// the `expected` clauses is found exactly once, at a table.
pub(super) fn attach<T: VisitMut>(tree: &mut T, clauses: &[TimeClause]) -> Result<()> {
    let mut attacher = Attacher { found: 0 };
    let flow = tree.visit(&mut attacher);
    if let ControlFlow::Break(error) = flow {
        return Err(error);
    }
    match clauses.get(attacher.found) {
        None => Ok(()),
        Some(lost) => Err(not_at_a_table(lost.position)),
    }
}

struct Attacher {
    found: usize,
}

impl VisitorMut for Attacher {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table { name, version, args, .. } = factor else { return ControlFlow::Continue(()) };
        let Some(ObjectNamePart::Identifier(ident)) = name.0.last_mut() else { return ControlFlow::Continue(()) };
        let Some((table, clause)) = split_mark(&ident.value) else { return ControlFlow::Continue(()) };
        if args.is_some() {
            return ControlFlow::Break(Error::unsupported("a time clause on a function"));
        }
        let number = ast::Value::Number(clause.to_owned(), false).with_empty_span();
        *ident = Ident { value: table, quote_style: Some('"'), span: ident.span };
        *version = Some(TableVersion::VersionAsOf(ast::Expr::Value(number)));
        self.found += 1;
        ControlFlow::Continue(())
    }
}

fn split_mark(name: &str) -> Option<(String, &str)> {
    name.split_once(MARK).map(|(table, clause)| (table.to_owned(), clause))
}
