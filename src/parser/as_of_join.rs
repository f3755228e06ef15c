//! `ASOF JOIN` in its two spellings.
//!
//! `l ASOF JOIN r MATCH_CONDITION (l.t >= r.t) ON …` is Snowflake's and known to sqlparser; `l ASOF [LEFT] JOIN r ON … AND
//! l.t >= r.t` is DuckDB's and is not. In the token stream both become the first, with a row for a match condition:
//! `MATCH_CONDITION ((n, condition, tolerance))`, where `n` is the join's number among the query's, and NULL stands for what
//! is not written. The planner takes the row apart; a join it does not take is one that no planner below it knows.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::cursor::{Cursor, Source, is_word};
use crate::error::{Error, Result, SqlState};

/// Whose words an `ASOF JOIN` uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// With `MATCH_CONDITION`.
    Snowflake,
    /// With the inequality among the conditions of `ON`.
    DuckDb,
}

/// What an `ASOF JOIN` says beside its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsOfJoin {
    /// Whose words it uses.
    pub spelling: Spelling,
    /// Whether left rows without a match stay.
    pub keeps_left: bool,
    /// The position of `ASOF` in the statement, in characters from 1.
    pub position: usize,
}

/// Rewrites the statement's `ASOF JOIN`s; gives them by number.
pub(super) fn extract(source: Source<'_>, tokens: Vec<TokenWithSpan>) -> Result<(Vec<TokenWithSpan>, Vec<AsOfJoin>)> {
    if !tokens.iter().any(|token| is_word(&token.token, "asof")) {
        return Ok((tokens, Vec::new()));
    }
    let mut tokens = tokens;
    let mut joins = Vec::new();
    // Tolerances stand behind their joins: they are taken out from the last join to the first, so that a join in the
    // condition of another is already done.
    for place in (0..tokens.len()).rev() {
        if let Some((words, keeps_left)) = head(&tokens[place..]) {
            let position = source.position(tokens[place].span.start);
            let spelling = rewrite(source, &mut tokens, place, words, joins.len())?;
            let keeps_left = keeps_left.unwrap_or(spelling == Spelling::Snowflake);
            joins.push(AsOfJoin { spelling, keeps_left, position });
        }
    }
    Ok((tokens, joins))
}

/// `ASOF [LEFT [OUTER] | INNER] JOIN`: how many words, and whether the left rows stay, where that is said.
fn head(tokens: &[TokenWithSpan]) -> Option<(usize, Option<bool>)> {
    let begins =
        |words: &[&str]| tokens.len() >= words.len() && words.iter().zip(tokens).all(|(word, token)| is_word(&token.token, word));
    [
        (&["asof", "join"] as &[&str], None),
        (&["asof", "left", "join"], Some(true)),
        (&["asof", "left", "outer", "join"], Some(true)),
        (&["asof", "inner", "join"], Some(false)),
    ]
    .into_iter()
    .find(|(words, _)| begins(words))
    .map(|(words, keeps)| (words.len(), keeps))
}

/// Rewrites the join that starts at `place` with a head of `words` words.
fn rewrite(source: Source<'_>, tokens: &mut Vec<TokenWithSpan>, place: usize, words: usize, number: usize) -> Result<Spelling> {
    let span = tokens[place].span;
    let token = |token: Token| TokenWithSpan::new(token, span);
    let keyword = |text: &str, keyword: Keyword| token(Token::Word(Word { value: text.into(), quote_style: None, keyword }));
    let position = source.position(span.start);
    let factor_end = next_of(tokens, place + words, &["match_condition", "on", "using"]).ok_or_else(|| {
        Error::new(SqlState::SyntaxError, "ASOF JOIN needs a condition")
            .hint("Write MATCH_CONDITION (l.ts >= r.ts) ON …, or ON … AND l.ts >= r.ts.")
            .at(position)
    })?;
    let spelling = if is_word(&tokens[factor_end].token, "match_condition") { Spelling::Snowflake } else { Spelling::DuckDb };
    let (condition, rest) = match spelling {
        Spelling::Snowflake => {
            let (first, last) = parenthesised(tokens, factor_end + 1)
                .ok_or_else(|| Cursor::new(source, tokens[factor_end + 1..].to_vec()).unexpected())?;
            (tokens[first..last].to_vec(), last + 1)
        }
        Spelling::DuckDb => (vec![keyword("NULL", Keyword::NULL)], factor_end),
    };
    let (tolerance_at, tolerance, tolerance_length) = tolerance(source, tokens, rest)?;
    let constrained = tokens.get(rest).is_some_and(|next| is_word(&next.token, "on") || is_word(&next.token, "using"));
    let mut written = vec![keyword("ASOF", Keyword::ASOF), keyword("JOIN", Keyword::JOIN)];
    written.extend_from_slice(&tokens[place + words..factor_end]);
    written.push(keyword("MATCH_CONDITION", Keyword::MATCH_CONDITION));
    written.extend([
        token(Token::LParen),
        token(Token::LParen),
        token(Token::Number(number.to_string(), false)),
        token(Token::Comma),
    ]);
    written.extend(condition);
    written.push(token(Token::Comma));
    written.extend(tolerance.unwrap_or_else(|| vec![keyword("NULL", Keyword::NULL)]));
    written.extend([token(Token::RParen), token(Token::RParen)]);
    if !constrained {
        written.extend([keyword("ON", Keyword::ON), keyword("TRUE", Keyword::TRUE)]);
    }
    written.extend_from_slice(&tokens[rest..tolerance_at]);
    tokens.splice(place..tolerance_at + tolerance_length, written);
    Ok(spelling)
}

/// `TOLERANCE expression` after a join's condition, which starts at `from`: where it stands, its expression, and its length;
/// the end of the join's words where there is none.
fn tolerance(source: Source<'_>, tokens: &[TokenWithSpan], from: usize) -> Result<(usize, Option<Vec<TokenWithSpan>>, usize)> {
    let mut place = from;
    let end = loop {
        match next_of(tokens, place, &["tolerance"]) {
            None => return Ok((from, None, 0)),
            Some(found) if opens_value(tokens.get(found + 1)) => break found,
            Some(found) => place = found + 1,
        }
    };
    let mut cursor = Cursor::new(source, tokens[end + 1..].to_vec());
    cursor.expression()?;
    let length = cursor.parser.index();
    Ok((end, Some(tokens[end + 1..end + 1 + length].to_vec()), length + 1))
}

/// Whether a token can begin the value of a tolerance; a column of that name is followed by something else.
fn opens_value(token: Option<&TokenWithSpan>) -> bool {
    match token.map(|token| &token.token) {
        Some(Token::Word(word)) => ["interval", "cast", "null"].iter().any(|opener| word.value.eq_ignore_ascii_case(opener)),
        Some(Token::SingleQuotedString(_) | Token::Placeholder(_) | Token::Number(..)) => true,
        _ => false,
    }
}

/// The first of `words` from `place` on that belongs to the same join: outside parentheses, before anything that ends it.
fn next_of(tokens: &[TokenWithSpan], place: usize, words: &[&str]) -> Option<usize> {
    const ENDS: [&str; 20] = [
        "asof",
        "join",
        "inner",
        "cross",
        "full",
        "right",
        "natural",
        "where",
        "group",
        "order",
        "having",
        "limit",
        "offset",
        "fetch",
        "union",
        "except",
        "intersect",
        "window",
        "returning",
        "left",
    ];
    let mut depth = 0_usize;
    for (number, TokenWithSpan { token, .. }) in tokens.iter().enumerate().skip(place) {
        match token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket if depth == 0 => return None,
            Token::RParen | Token::RBracket => depth -= 1,
            Token::Comma | Token::SemiColon if depth == 0 => return None,
            _ => {}
        }
        let is_column = number > 0 && tokens[number - 1].token == Token::Period;
        if depth > 0 || is_column {
            continue;
        }
        if words.iter().any(|word| is_word(token, word)) {
            return Some(number);
        }
        // `left(…)` and `right(…)` are functions.
        let is_call = tokens.get(number + 1).is_some_and(|next| next.token == Token::LParen);
        let may_be_function = is_word(token, "left") || is_word(token, "right");
        if ENDS.iter().any(|word| is_word(token, word)) && !(is_call && may_be_function) {
            return None;
        }
    }
    None
}

/// The tokens between the parenthesis at `place` and its partner.
fn parenthesised(tokens: &[TokenWithSpan], place: usize) -> Option<(usize, usize)> {
    if tokens.get(place)?.token != Token::LParen {
        return None;
    }
    let mut depth = 0_usize;
    for (number, token) in tokens.iter().enumerate().skip(place) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => {
                depth -= 1;
                if depth == 0 {
                    return Some((place + 1, number));
                }
            }
            _ => {}
        }
    }
    None
}
