//! The statements that steer a session: settings and blocks.

use sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::{Isolation, SetScope, Statement, TransactionMode};
use crate::error::{Error, Result, SqlState};

/// The statement, if it is one of this file's.
pub(super) fn statement(cursor: &mut Cursor<'_>) -> Result<Option<Statement>> {
    let statement = if cursor.eat("set") {
        set(cursor)?
    } else if cursor.at("show") {
        match show(cursor)? {
            Some(statement) => statement,
            None => return Ok(None),
        }
    } else if cursor.eat("reset") {
        reset(cursor)?
    } else if cursor.eat_words(&["alter", "system"]) {
        alter_system(cursor)?
    } else if cursor.eat("begin") {
        let _ = cursor.eat("work") || cursor.eat("transaction");
        Statement::Begin(transaction_mode(cursor)?)
    } else if cursor.eat_words(&["start", "transaction"]) {
        Statement::Begin(transaction_mode(cursor)?)
    } else if cursor.eat("commit") || cursor.eat("end") {
        end_of_block(cursor)?;
        Statement::Commit
    } else if cursor.eat("rollback") || cursor.eat("abort") {
        end_of_block(cursor)?;
        if cursor.at("to") {
            return Err(savepoints());
        }
        Statement::Rollback
    } else if cursor.at("savepoint") || cursor.at("release") {
        return Err(savepoints());
    } else if cursor.eat("discard") {
        discard(cursor)?
    } else if cursor.eat_words(&["close", "all"]) {
        Statement::NothingThere("CLOSE CURSOR ALL")
    } else if cursor.eat("unlisten") {
        if !cursor.eat_token(&Token::Mul) {
            cursor.identifier()?;
        }
        Statement::NothingThere("UNLISTEN")
    } else if cursor.eat("deallocate") {
        let _ = cursor.eat("prepare");
        if cursor.eat("all") { Statement::Deallocate(None) } else { Statement::Deallocate(Some(cursor.identifier()?)) }
    } else {
        return Ok(None);
    };
    cursor.end()?;
    Ok(Some(statement))
}

fn discard(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if cursor.eat("all") {
        return Ok(Statement::Discard);
    }
    let parts =
        [("plans", "DISCARD PLANS"), ("sequences", "DISCARD SEQUENCES"), ("temp", "DISCARD TEMP"), ("temporary", "DISCARD TEMP")];
    let part = parts.into_iter().find(|(word, _)| cursor.eat(word));
    part.map(|(_, tag)| Statement::NothingThere(tag)).ok_or_else(|| cursor.unexpected())
}

fn savepoints() -> Error {
    Error::unsupported("SAVEPOINT").hint("Commit or roll back the whole block.")
}

fn end_of_block(cursor: &mut Cursor<'_>) -> Result<()> {
    let _ = cursor.eat("work") || cursor.eat("transaction");
    if cursor.eat("and") {
        let no = cursor.eat("no");
        cursor.expect("chain")?;
        if !no {
            return Err(Error::unsupported("AND CHAIN"));
        }
    }
    if cursor.at("prepared") {
        return Err(Error::unsupported("two-phase commit"));
    }
    Ok(())
}

fn set(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if cursor.eat("transaction") {
        return Ok(Statement::SetTransaction(transaction_mode(cursor)?));
    }
    if cursor.eat_words(&["session", "characteristics", "as", "transaction"]) {
        return Ok(Statement::SetTransaction(transaction_mode(cursor)?));
    }
    if cursor.eat_words(&["session", "authorization", "default"]) {
        return Ok(Statement::NothingThere("SET"));
    }
    let scope = if cursor.eat("local") {
        SetScope::Local
    } else {
        let _ = cursor.eat("session");
        SetScope::Session
    };
    if cursor.eat_words(&["time", "zone"]) {
        let value = if cursor.eat("local") { None } else { setting_value(cursor)? };
        return Ok(Statement::Set { name: "timezone".into(), value, scope });
    }
    if cursor.eat("names") {
        let value = if cursor.at_end() { None } else { setting_value(cursor)? };
        return Ok(Statement::Set { name: "client_encoding".into(), value, scope });
    }
    let name = setting_name(cursor)?;
    if !cursor.eat("to") {
        cursor.expect_token(&Token::Eq)?;
    }
    let value = setting_value(cursor)?;
    Ok(Statement::Set { name, value, scope })
}

/// A setting's name: words joined by dots, in lower case.
fn setting_name(cursor: &mut Cursor<'_>) -> Result<String> {
    let mut name = cursor.identifier()?.to_lowercase();
    while cursor.eat_token(&Token::Period) {
        name.push('.');
        name.push_str(&cursor.identifier()?.to_lowercase());
    }
    Ok(name)
}

/// A setting's value as text: literals, words and numbers, several joined by `, `. `None` is `DEFAULT`.
fn setting_value(cursor: &mut Cursor<'_>) -> Result<Option<String>> {
    if cursor.eat("default") {
        return Ok(None);
    }
    let mut values = vec![single_value(cursor)?];
    while cursor.eat_token(&Token::Comma) {
        values.push(single_value(cursor)?);
    }
    Ok(Some(values.join(", ")))
}

fn single_value(cursor: &mut Cursor<'_>) -> Result<String> {
    let sign = if cursor.eat_token(&Token::Minus) { "-" } else { "" };
    if let Token::Number(number, _) = &cursor.parser.peek_token_ref().token {
        let number = format!("{sign}{number}");
        cursor.parser.next_token();
        return Ok(number);
    }
    // `INTERVAL '1 hour'` and `TIMESTAMP '…'` are accepted for the value in their quotes.
    let _ = cursor.eat("interval") || cursor.eat("timestamp") || cursor.eat("timestamptz");
    cursor.string().or_else(|_| cursor.identifier())
}

fn show(cursor: &mut Cursor<'_>) -> Result<Option<Statement>> {
    if cursor.at_words(&["show", "feature"]) || cursor.at_words(&["show", "entities"]) {
        return Ok(None);
    }
    cursor.expect("show")?;
    if cursor.eat("all") {
        return Ok(Some(Statement::ShowAll));
    }
    if cursor.eat_words(&["transaction", "isolation", "level"]) {
        return Ok(Some(Statement::Show("transaction_isolation".into())));
    }
    if cursor.eat_words(&["time", "zone"]) {
        return Ok(Some(Statement::Show("timezone".into())));
    }
    setting_name(cursor).map(|name| Some(Statement::Show(name)))
}

fn reset(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if cursor.eat("all") {
        return Ok(Statement::Reset(None));
    }
    if cursor.eat_words(&["time", "zone"]) {
        return Ok(Statement::Reset(Some("timezone".into())));
    }
    setting_name(cursor).map(|name| Statement::Reset(Some(name)))
}

fn alter_system(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect("set")?;
    let name = setting_name(cursor)?;
    if name != "tidegate.clock" {
        return Err(Error::unsupported(format!("ALTER SYSTEM SET {name}"))
            .hint("Settings of the server are given when it starts; only tidegate.clock can be moved."));
    }
    if !cursor.eat("to") {
        cursor.expect_token(&Token::Eq)?;
    }
    let value = setting_value(cursor)?;
    let value = value.ok_or_else(|| Error::new(SqlState::InvalidParameterValue, "tidegate.clock has no default"))?;
    Ok(Statement::SetClock(value))
}

fn transaction_mode(cursor: &mut Cursor<'_>) -> Result<TransactionMode> {
    let mut mode = TransactionMode { isolation: None, read_only: None };
    while !cursor.at_end() {
        if cursor.eat_words(&["isolation", "level"]) {
            mode.isolation = Some(isolation(cursor)?);
        } else if cursor.eat_words(&["read", "only"]) {
            mode.read_only = Some(true);
        } else if cursor.eat_words(&["read", "write"]) {
            mode.read_only = Some(false);
        } else if !cursor.eat("deferrable") && !cursor.eat_words(&["not", "deferrable"]) {
            return Err(cursor.unexpected());
        }
        let _ = cursor.eat_token(&Token::Comma);
    }
    Ok(mode)
}

fn isolation(cursor: &mut Cursor<'_>) -> Result<Isolation> {
    if cursor.eat_words(&["read", "committed"]) || cursor.eat_words(&["read", "uncommitted"]) {
        Ok(Isolation::ReadCommitted)
    } else if cursor.eat_words(&["repeatable", "read"]) || cursor.eat("serializable") {
        Ok(Isolation::RepeatableRead)
    } else {
        Err(cursor.unexpected())
    }
}
