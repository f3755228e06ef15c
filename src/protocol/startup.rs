//! The time before a session: which protocol, who, and with which settings.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Failure;
use super::backend::{Backend, PROTOCOL_LATEST};
use super::frontend::Cursor;
use super::wire::Wire;
use crate::error::{Error, Result, SqlState};
use crate::session::Login;

const CANCEL_REQUEST: u32 = 1234 << 16 | 5678;
const SSL_REQUEST: u32 = 1234 << 16 | 5679;
const GSS_REQUEST: u32 = 1234 << 16 | 5680;

/// What a client opens a connection for.
#[derive(Debug)]
pub(super) enum Opening {
    /// To log in.
    LogIn {
        /// Who, without the process number.
        login: Login,
        /// The protocol version spoken from here on.
        version: u32,
    },
    /// To cancel what another connection runs.
    Cancel {
        /// That connection's process number.
        pid: i32,
        /// Its secret.
        key: Bytes,
    },
    /// For nothing that is understood: closed without a word, as PostgreSQL does, so that scanners and clients of other
    /// protocols cost nothing.
    Nothing,
}

/// Reads up to the startup packet. Encryption is refused, once each kind; what a client sends after asking for it is only ever
/// read as another packet in the clear.
pub(super) async fn open<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<Opening, Failure> {
    let (mut ssl_asked, mut gss_asked) = (false, false);
    loop {
        let Some(packet) = wire.next_startup().await? else { return Ok(Opening::Nothing) };
        let mut body = Cursor { rest: &packet };
        let code = body.u32()?;
        match code {
            SSL_REQUEST if !ssl_asked => ssl_asked = true,
            GSS_REQUEST if !gss_asked => gss_asked = true,
            CANCEL_REQUEST => {
                let Ok(pid) = body.i32() else { return Ok(Opening::Nothing) };
                return Ok(Opening::Cancel { pid, key: packet.slice_ref(body.rest) });
            }
            _ => return log_in(wire, code, body),
        }
        wire.outbox.extend_from_slice(b"N");
        wire.flush().await?;
    }
}

fn log_in<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>, version: u32, mut body: Cursor<'_>) -> Result<Opening, Failure> {
    let (major, minor) = (version >> 16, version & 0xffff);
    if major != 3 {
        let message = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2");
        return Err(Failure::Fatal(Error::new(SqlState::FeatureNotSupported, message)));
    }
    let mut parameters = Vec::new();
    while let name = body.text().map_err(Failure::Fatal)?
        && !name.is_empty()
    {
        parameters.push((name, body.text().map_err(Failure::Fatal)?));
    }
    if !body.rest.is_empty() {
        let message = "invalid startup packet layout: expected terminator as last byte";
        return Err(Failure::Fatal(Error::new(SqlState::ProtocolViolation, message)));
    }
    let (extensions, parameters): (Vec<_>, Vec<_>) = parameters.into_iter().partition(|(name, _)| name.starts_with("_pq_."));
    let spoken = version.min(PROTOCOL_LATEST);
    if spoken < version || !extensions.is_empty() {
        let unknown = extensions.into_iter().map(|(name, _)| name.to_owned()).collect();
        wire.outbox.negotiate_version(spoken, unknown)?;
    }
    let login = login_of(&parameters).map_err(Failure::Fatal)?;
    Ok(Opening::LogIn { login, version: spoken })
}

fn login_of(parameters: &[(&str, &str)]) -> Result<Login> {
    let mut login = Login::default();
    let mut options = "";
    for (name, value) in parameters {
        match *name {
            "user" => login.user = (*value).to_owned(),
            "database" => login.database = (*value).to_owned(),
            "options" => options = value,
            "replication" => match value.to_ascii_lowercase().as_str() {
                "false" | "off" | "no" | "0" => {}
                _ => return Err(Error::unsupported("a replication connection")),
            },
            name => login.settings.push((name.to_lowercase(), (*value).to_owned())),
        }
    }
    if login.user.is_empty() {
        let message = "no PostgreSQL user name specified in startup packet";
        return Err(Error::new(SqlState::InvalidAuthorizationSpecification, message));
    }
    if login.database.is_empty() {
        login.database.clone_from(&login.user);
    }
    // Settings of their own win over those among the options, as in PostgreSQL.
    let mut settings = parse_options(options)?;
    settings.append(&mut login.settings);
    login.settings = settings;
    Ok(login)
}

/// The settings in `options`: `-c name=value` and `--name=value`, spaces inside escaped by a backslash.
fn parse_options(options: &str) -> Result<Vec<(String, String)>> {
    let mut settings = Vec::new();
    let mut words = split_words(options).into_iter();
    while let Some(word) = words.next() {
        let invalid = || {
            let message = format!("invalid command-line argument for server process: {word}");
            Error::new(SqlState::SyntaxError, message).hint("Give settings as -c name=value.")
        };
        let assignment = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(assignment), _) => assignment.to_owned(),
            (None, Some("")) => words.next().ok_or_else(invalid)?,
            (None, Some(assignment)) => assignment.to_owned(),
            (None, None) => return Err(invalid()),
        };
        let Some((name, value)) = assignment.split_once('=') else {
            return Err(Error::new(SqlState::SyntaxError, format!("-c {assignment} requires a value")));
        };
        settings.push((name.to_lowercase().replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_name_settings() {
        let check = |options: &str, expected: &[(&str, &str)]| {
            let expected: Vec<_> = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(parse_options(options).unwrap(), expected, "{options}");
        };
        check("", &[]);
        check("-c statement_timeout=5s", &[("statement_timeout", "5s")]);
        check("-cTimeZone=UTC  --search-path=a", &[("timezone", "UTC"), ("search_path", "a")]);
        check(r"-c application_name=a\ b\\c", &[("application_name", r"a b\c")]);
        assert_eq!(parse_options("-d 5").unwrap_err().code(), SqlState::SyntaxError);
        assert_eq!(parse_options("-c").unwrap_err().code(), SqlState::SyntaxError);
        assert_eq!(parse_options("-c name").unwrap_err().code(), SqlState::SyntaxError);
    }
}
