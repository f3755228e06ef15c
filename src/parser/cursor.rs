//! A place in a statement's tokens.
//!
//! Wraps sqlparser's parser so that our own statements can be read word by word and everything inside them (expressions,
//! types, queries) by sqlparser, and turns its errors into PostgreSQL's.

use sqlparser::ast::{Expr, ObjectName};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, Word};

use super::RelationName;
use crate::error::{Error, Result, SqlState};

/// How deep expressions and queries may be nested.
const NESTING_MAX: usize = 100;

pub(super) static DIALECT: PostgreSqlDialect = PostgreSqlDialect {};

/// The statement's text, for positions.
#[derive(Clone, Copy)]
pub(super) struct Source<'a>(pub(super) &'a str);

impl<'a> Source<'a> {
    /// The tokens, without white space and comments. All are said to be on the first line, so that a column, wherever it travels
    /// from here, is a place in the text: clients count characters, not lines.
    pub(super) fn tokens(self) -> Result<Vec<TokenWithSpan>> {
        let tokens = Tokenizer::new(&DIALECT, self.0).tokenize_with_location().map_err(|error| {
            let message =
                error.message.chars().next().map(|first| first.to_lowercase().to_string() + &error.message[first.len_utf8()..]);
            Error::new(SqlState::SyntaxError, message.unwrap_or_default()).at(self.position(error.location))
        })?;
        let starts: Vec<u64> = std::iter::once(0)
            .chain(self.0.split_inclusive('\n').scan(0, |characters, line| {
                *characters += line.chars().count() as u64;
                Some(*characters)
            }))
            .collect();
        let in_text = |location: Location| {
            let line = usize::try_from(location.line).unwrap_or(1).max(1);
            let before = starts.get(line - 1).or(starts.last()).copied().unwrap_or(0);
            Location::new(1, before + location.column)
        };
        let tokens = tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF));
        Ok(tokens
            .map(|token| TokenWithSpan { span: Span::new(in_text(token.span.start), in_text(token.span.end)), ..token })
            .collect())
    }

    /// The place of `location` in characters from 1.
    pub(super) fn position(self, location: Location) -> usize {
        let line = usize::try_from(location.line).unwrap_or(1).max(1);
        let column = usize::try_from(location.column).unwrap_or(1).max(1);
        let before: usize = self.0.split_inclusive('\n').take(line - 1).map(|line| line.chars().count()).sum();
        before + column
    }

    /// The text from `start` to its end or the end of `tokens`, whichever is first.
    pub(super) fn text(self, tokens: &[TokenWithSpan]) -> &'a str {
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { return "" };
        let start = self.offset(self.position(first.span.start));
        let end = self.offset(self.position(last.span.end));
        self.0.get(start..end).unwrap_or("").trim_end()
    }

    fn offset(self, position: usize) -> usize {
        self.0.char_indices().nth(position.saturating_sub(1)).map_or(self.0.len(), |(offset, _)| offset)
    }
}

/// A place in the tokens of one statement.
pub(super) struct Cursor<'a> {
    pub(super) parser: Parser<'a>,
    pub(super) source: Source<'a>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: Source<'a>, tokens: Vec<TokenWithSpan>) -> Self {
        let parser = Parser::new(&DIALECT).with_recursion_limit(NESTING_MAX).with_tokens_with_locations(tokens);
        Self { parser, source }
    }

    /// Whether the next token is this word, unquoted; does not move.
    pub(super) fn at(&self, word: &str) -> bool {
        is_word(&self.parser.peek_token_ref().token, word)
    }

    /// Whether the next tokens are these words, unquoted; does not move.
    pub(super) fn at_words(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(n, word)| is_word(&self.parser.peek_nth_token_ref(n).token, word))
    }

    /// Moves over the word if it is next.
    pub(super) fn eat(&mut self, word: &str) -> bool {
        let found = self.at(word);
        if found {
            self.parser.next_token();
        }
        found
    }

    /// Moves over the words if all of them are next, in order.
    pub(super) fn eat_words(&mut self, words: &[&str]) -> bool {
        let found = self.at_words(words);
        if found {
            words.iter().for_each(|_| drop(self.parser.next_token()));
        }
        found
    }

    /// Moves over the word or fails.
    pub(super) fn expect(&mut self, word: &str) -> Result<()> {
        if self.eat(word) { Ok(()) } else { Err(self.unexpected()) }
    }

    pub(super) fn eat_token(&mut self, token: &Token) -> bool {
        self.parser.consume_token(token)
    }

    pub(super) fn expect_token(&mut self, token: &Token) -> Result<()> {
        if self.eat_token(token) { Ok(()) } else { Err(self.unexpected()) }
    }

    pub(super) fn at_end(&self) -> bool {
        self.parser.peek_token_ref().token == Token::EOF
    }

    /// Fails unless the statement ends here.
    pub(super) fn end(&self) -> Result<()> {
        if self.at_end() { Ok(()) } else { Err(self.unexpected()) }
    }

    /// An identifier, folded to lower case unless quoted.
    pub(super) fn identifier(&mut self) -> Result<String> {
        match &self.parser.peek_token_ref().token {
            Token::Word(word) => {
                let name = fold(word);
                self.parser.next_token();
                Ok(name)
            }
            _ => Err(self.unexpected()),
        }
    }

    /// A name with at most a schema.
    pub(super) fn relation_name(&mut self) -> Result<RelationName> {
        let first = self.identifier()?;
        if !self.eat_token(&Token::Period) {
            return Ok(RelationName { schema: None, name: first });
        }
        let name = self.identifier()?;
        if self.eat_token(&Token::Period) {
            // A database name in front is accepted as PostgreSQL does; there is one database.
            return Ok(RelationName { schema: Some(name), name: self.identifier()? });
        }
        Ok(RelationName { schema: Some(first), name })
    }

    /// A text literal.
    pub(super) fn string(&mut self) -> Result<String> {
        let text = match &self.parser.peek_token_ref().token {
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) | Token::UnicodeStringLiteral(text) => {
                text.clone()
            }
            Token::DollarQuotedString(text) => text.value.clone(),
            _ => return Err(self.unexpected()),
        };
        self.parser.next_token();
        Ok(text)
    }

    /// Runs one of sqlparser's own productions.
    pub(super) fn parse<T>(&mut self, production: impl FnOnce(&mut Parser<'a>) -> Result<T, ParserError>) -> Result<T> {
        production(&mut self.parser).map_err(|error| syntax_error(self.source, &error))
    }

    pub(super) fn expression(&mut self) -> Result<Expr> {
        self.parse(Parser::parse_expr)
    }

    /// `syntax error at or near …`, pointing at the next token.
    pub(super) fn unexpected(&self) -> Error {
        let next = self.parser.peek_token_ref();
        match &next.token {
            Token::EOF => Error::new(SqlState::SyntaxError, "syntax error at end of input").at(self.source.0.chars().count() + 1),
            token => Error::new(SqlState::SyntaxError, format!("syntax error at or near \"{}\"", token_text(token)))
                .at(self.source.position(next.span.start)),
        }
    }

    /// The position of the next token, in characters from 1.
    pub(super) fn position(&self) -> usize {
        self.source.position(self.parser.peek_token_ref().span.start)
    }
}

/// Whether `token` is `word`, unquoted, in any case.
pub(super) fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(Word { value, quote_style: None, .. }) if value.eq_ignore_ascii_case(word))
}

/// The name a word stands for: folded unless quoted.
pub(super) fn fold(word: &Word) -> String {
    if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() }
}

fn token_text(token: &Token) -> String {
    match token {
        Token::Word(word) => word.value.clone(),
        Token::SingleQuotedString(text) => format!("'{text}'"),
        token => token.to_string(),
    }
}

/// sqlparser says `Expected: a, found: b at Line: 1, Column: 2`; PostgreSQL says `syntax error at or near "b"`.
pub(super) fn syntax_error(source: Source<'_>, error: &ParserError) -> Error {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.as_str(),
        ParserError::RecursionLimitExceeded => {
            return Error::new(SqlState::StatementTooComplex, "the statement is nested too deep")
                .detail(format!("At most {NESTING_MAX} levels are accepted."));
        }
    };
    let (what, location) = match text.rsplit_once(" at Line: ") {
        Some((what, place)) => (what, parse_place(place)),
        None => (text, None),
    };
    let Some((expected, found)) = what.split_once(", found: ") else {
        return with_place(Error::new(SqlState::SyntaxError, format!("syntax error: {what}")), source, location);
    };
    let error = match found {
        "EOF" => return Error::new(SqlState::SyntaxError, "syntax error at end of input").at(source.0.chars().count() + 1),
        found => Error::new(SqlState::SyntaxError, format!("syntax error at or near \"{found}\"")),
    };
    with_place(error.detail(format!("{expected}.")), source, location)
}

fn with_place(error: Error, source: Source<'_>, location: Option<Location>) -> Error {
    match location {
        Some(location) => error.at(source.position(location)),
        None => error,
    }
}

fn parse_place(place: &str) -> Option<Location> {
    let (line, column) = place.split_once(", Column: ")?;
    Some(Location { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? })
}

/// The relation an object name stands for.
pub(super) fn relation_name(name: &ObjectName) -> Result<RelationName> {
    let mut parts = Vec::new();
    for part in &name.0 {
        let ident = part.as_ident().ok_or_else(|| Error::new(SqlState::InvalidName, format!("\"{name}\" is not a name")))?;
        parts.push(ident_name(ident));
    }
    let last = parts.pop().ok_or_else(|| Error::new(SqlState::InvalidName, "a name is missing"))?;
    Ok(RelationName { schema: parts.pop(), name: last })
}

/// The name an identifier stands for: folded unless quoted.
pub(super) fn ident_name(ident: &sqlparser::ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}
