//! Array literals: `{1,NULL,"a b"}`.

use super::TextSink;
use crate::error::{Error, Result, SqlState};

/// Splits an array literal of one dimension into its elements; `None` is NULL.
///
/// Bounds before the braces (`[0:1]={…}`) are read past, as Arrow lists have none; several dimensions are refused by name.
pub fn split(text: &str) -> Result<Vec<Option<String>>> {
    let malformed = |why: &str| {
        Error::new(SqlState::InvalidTextRepresentation, format!("malformed array literal: \"{text}\"")).detail(why.to_owned())
    };
    let trimmed = text.trim_ascii();
    let body = match trimmed.strip_prefix('[') {
        Some(_) => trimmed.split_once('=').map(|(_, body)| body.trim_ascii_start()),
        None => Some(trimmed),
    };
    let Some(body) = body.and_then(|body| body.strip_prefix('{')) else {
        return Err(malformed("Array value must start with \"{\" or dimension information."));
    };
    let mut elements = Vec::new();
    let mut rest = body.trim_ascii_start();
    if let Some(after) = rest.strip_prefix('}') {
        return if after.is_empty() { Ok(elements) } else { Err(malformed("Junk after closing right brace.")) };
    }
    loop {
        rest = rest.trim_ascii_start();
        if rest.starts_with('{') {
            return Err(Error::unsupported("an array of several dimensions"));
        }
        let (element, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (element, after) = quoted_element(quoted).ok_or_else(|| malformed("Unexpected end of input."))?;
                (Some(element), after)
            }
            None => bare_element(rest).ok_or_else(|| malformed("Unexpected end of input."))?,
        };
        elements.push(element);
        rest = after.trim_ascii_start();
        match rest.as_bytes().first() {
            Some(b',') => rest = &rest[1..],
            Some(b'}') if rest.len() == 1 => return Ok(elements),
            Some(b'}') => return Err(malformed("Junk after closing right brace.")),
            Some(_) => return Err(malformed("Unexpected array element.")),
            None => return Err(malformed("Unexpected end of input.")),
        }
        if matches!(rest.trim_ascii_start().as_bytes().first(), Some(b'}' | b',')) {
            return Err(malformed(&format!("Unexpected \"{}\" character.", &rest.trim_ascii_start()[..1])));
        }
    }
}

fn quoted_element(text: &str) -> Option<(String, &str)> {
    let mut element = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((element, &text[at + 1..])),
            '\\' => element.push(chars.next()?.1),
            c => element.push(c),
        }
    }
    None
}

fn bare_element(text: &str) -> Option<(Option<String>, &str)> {
    let mut element = String::new();
    let mut escaped = false;
    let mut chars = text.char_indices();
    // Spaces at the end are not part of the element, unless escaped.
    let mut kept = 0;
    while let Some((at, c)) = chars.next() {
        match c {
            ',' | '}' | '{' | '"' => {
                element.truncate(kept);
                let null = !escaped && element.eq_ignore_ascii_case("null");
                return Some(((!null).then_some(element), &text[at..]));
            }
            '\\' => {
                escaped = true;
                element.push(chars.next()?.1);
                kept = element.len();
            }
            c => {
                element.push(c);
                if !c.is_ascii_whitespace() {
                    kept = element.len();
                }
            }
        }
    }
    None
}

/// Writes one element of an array, in quotes where it would be misread without them.
pub fn write_element(out: &mut impl TextSink, element: &str) {
    let bare = !element.is_empty()
        && !element.eq_ignore_ascii_case("null")
        && !element
            .bytes()
            .any(|byte| matches!(byte, b'"' | b'\\' | b'{' | b'}' | b',') || byte.is_ascii_whitespace() || byte == 0x0b);
    if bare {
        out.put(element);
        return;
    }
    out.put("\"");
    let mut start = 0;
    for (at, byte) in element.bytes().enumerate() {
        if matches!(byte, b'"' | b'\\') {
            out.put(&element[start..at]);
            out.put("\\");
            start = at;
        }
    }
    out.put(&element[start..]);
    out.put("\"");
}
