//! Where a Redis is: its URL, read once.
//!
//! | URL | what is there |
//! |---|---|
//! | `redis://[user[:password]@]host[:6379][/database]` | one server, or a proxy that finds it |
//! | `redis+unix:///path[?db=…&user=…&pass=…]`, `unix://` | one server on this machine |
//! | `redis+sentinel://[user[:password]@]host[:26379],host…/service[/database]` | the primary that the sentinels name |
//!
//! `valkey` may stand for `redis`. User, password and path may be percent-encoded; a password alone is `redis://:password@host`.
//! The sentinels are asked without a password.

use std::fmt;
use std::path::PathBuf;

use redis::RedisConnectionInfo;

use crate::error::{Error, Result, SqlState};

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// A host and a port.
pub(super) type Host = (String, u16);

/// Where a server is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At this host.
    Host(Host),
    /// At this socket.
    Socket(PathBuf),
    /// Where these sentinels say that the primary of the service is.
    Sentinels {
        /// The sentinels.
        sentinels: Vec<Host>,
        /// The name they know the primary by.
        service: String,
    },
}

/// What a URL says. Shown without the password.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) place: Place,
    user: Option<String>,
    password: Option<String>,
    database: i64,
}

impl Address {
    /// Reads a URL; the error never repeats it, because of the password.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| malformed("It has no scheme."))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let scheme = scheme.to_lowercase().replace("valkey", "redis");
        match scheme.as_str() {
            "redis" => Self::hosts(rest, |mut hosts, path| match (hosts.pop(), hosts.is_empty(), path) {
                (Some(host), true, [] | [_]) => Ok((Place::Host(with_port(host, PORT)?), path.first().copied())),
                _ => Err(malformed("One host is expected, and at most a database number after it.")),
            }),
            "redis+sentinel" => Self::hosts(rest, |hosts, path| match path {
                [service, database @ ..] if !service.is_empty() && database.len() < 2 => {
                    let sentinels = hosts.into_iter().map(|host| with_port(host, SENTINEL_PORT)).collect::<Result<_>>()?;
                    Ok((Place::Sentinels { sentinels, service: decoded(service)? }, database.first().copied()))
                }
                _ => Err(malformed("The name of the service is expected after the sentinels.")),
            }),
            "redis+unix" | "unix" => Self::socket(rest, query),
            "rediss" => Err(Error::unsupported("an online store behind TLS")
                .hint("Give it as redis://host:port, through a tunnel (stunnel, a sidecar) where the network is not trusted.")),
            "redis+cluster" | "rediss+cluster" => Err(Error::unsupported("an online store in a Redis Cluster").hint(
                "Give one server as redis://host:port, or a failover group as redis+sentinel://host:port,host:port/service.",
            )),
            _ => Err(malformed("Its scheme is none that is known.")),
        }
    }

    /// `[user[:password]@]host[:port][,…][/part[/part]]`; `place` says what hosts and path mean, and which part is the database.
    fn hosts<'a>(rest: &'a str, place: impl Fn(Vec<&'a str>, &[&'a str]) -> Result<(Place, Option<&'a str>)>) -> Result<Self> {
        // A password may hold what is not encoded; a host holds no at sign.
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (login, rest),
            None => ("", rest),
        };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (place, number) = place(hosts.split(',').collect(), &path)?;
        let (user, password) = login.split_once(':').map_or((login, ""), |(user, password)| (user, password));
        let given = |text: &str| (!text.is_empty()).then(|| decoded(text)).transpose();
        Ok(Self { place, user: given(user)?, password: given(password)?, database: database(number)? })
    }

    fn socket(path: &str, query: &str) -> Result<Self> {
        if !path.starts_with('/') {
            return Err(malformed("The path of the socket is expected, from the root."));
        }
        let mut address =
            Self { place: Place::Socket(decoded(path)?.into()), user: None, password: None, database: database(None)? };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("db", number)) => address.database = database(Some(number))?,
                Some(("user", user)) => address.user = Some(decoded(user)?),
                Some(("pass", password)) => address.password = Some(decoded(password)?),
                _ => return Err(malformed("After the path, only db, user and pass are known.")),
            }
        }
        Ok(address)
    }

    /// How to log in, and to which database.
    pub(super) fn login(&self) -> RedisConnectionInfo {
        let mut login = RedisConnectionInfo::default().set_db(self.database).set_lib_name("tidegate", env!("CARGO_PKG_VERSION"));
        if let Some(user) = &self.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        login
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map_or(String::new(), |user| format!("{user}@"));
        match &self.place {
            Place::Host((host, port)) => write!(f, "redis://{user}{}:{port}/{}", bracketed(host), self.database),
            Place::Socket(path) => write!(f, "redis+unix://{}?db={}", path.display(), self.database),
            Place::Sentinels { sentinels, service } => {
                let hosts: Vec<_> = sentinels.iter().map(|(host, port)| format!("{}:{port}", bracketed(host))).collect();
                write!(f, "redis+sentinel://{user}{}/{service}/{}", hosts.join(","), self.database)
            }
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn malformed(detail: &str) -> Error {
    Error::new(SqlState::ConfigFileError, "the address of the online store is not one of a Redis").detail(detail).hint(
        "Give it as redis://user:password@host:port/database, redis+unix:///path or redis+sentinel://host:port,host:port/service.",
    )
}

fn database(number: Option<&str>) -> Result<i64> {
    let Some(number) = number else { return Ok(0) };
    let parsed = number.parse::<u16>().map_err(|_not_one| malformed("The database is a number."))?;
    Ok(i64::from(parsed))
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`; no host means this machine.
fn with_port(text: &str, default: u16) -> Result<Host> {
    let port_of = |port: &str| port.parse().map_err(|_not_one| malformed("A port is a number from 1 to 65535."));
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(|| malformed("A bracket is not closed."))?;
            (host, port.strip_prefix(':'))
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    Ok((decoded(host)?, port.map_or(Ok(default), port_of)?))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// Text without its percent-encoding.
fn decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| malformed("A percent sign begins two hexadecimal digits, or is written %25."))?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_not_text| malformed("What it encodes is not UTF-8."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, port: u16) -> Host {
        (name.to_owned(), port)
    }

    #[test]
    fn addresses_mean_places() {
        let check = |url: &str, place: Place, login: (Option<&str>, Option<&str>, i64), shown: &str| {
            let address = Address::parse(url).unwrap();
            assert_eq!(address.place, place, "{url}");
            assert_eq!((address.user.as_deref(), address.password.as_deref(), address.database), login, "{url}");
            assert_eq!(address.to_string(), shown);
        };
        let local = || Place::Host(host("127.0.0.1", 6379));
        check("redis://", local(), (None, None, 0), "redis://127.0.0.1:6379/0");
        check("valkey://127.0.0.1:6379/3", local(), (None, None, 3), "redis://127.0.0.1:6379/3");
        check("redis://:p%40ss@db:1", Place::Host(host("db", 1)), (None, Some("p@ss"), 0), "redis://db:1/0");
        check("redis://u:a@b:c@[::1]:7/", Place::Host(host("::1", 7)), (Some("u"), Some("a@b:c"), 0), "redis://u@[::1]:7/0");
        let socket = || Place::Socket("/run/a b.sock".into());
        check("redis+unix:///run/a%20b.sock", socket(), (None, None, 0), "redis+unix:///run/a b.sock?db=0");
        let query = "unix:///run/a%20b.sock?db=2&user=u&pass=%26";
        check(query, socket(), (Some("u"), Some("&"), 2), "redis+unix:///run/a b.sock?db=2");
        let sentinels = Place::Sentinels { sentinels: vec![host("a", 26379), host("b", 2)], service: "mine".into() };
        let shown = "redis+sentinel://u@a:26379,b:2/mine/1";
        check("redis+sentinel://u:secret@a,b:2/mine/1", sentinels, (Some("u"), Some("secret"), 1), shown);
    }

    #[test]
    fn addresses_that_mean_nothing_are_refused_without_repeating_them() {
        for (url, code) in [
            ("postgres://secret@localhost", SqlState::ConfigFileError),
            ("localhost:6379", SqlState::ConfigFileError),
            ("redis://secret@a,b", SqlState::ConfigFileError),
            ("redis://secret@a:port", SqlState::ConfigFileError),
            ("redis://secret@a/one", SqlState::ConfigFileError),
            ("redis://sec%ret@a", SqlState::ConfigFileError),
            ("redis+unix://secret.sock", SqlState::ConfigFileError),
            ("redis+sentinel://secret@a,b", SqlState::ConfigFileError),
            ("rediss://:secret@a", SqlState::FeatureNotSupported),
            ("redis+cluster://:secret@a", SqlState::FeatureNotSupported),
        ] {
            let error = Address::parse(url).unwrap_err();
            assert_eq!(error.code(), code, "{url}");
            assert!(error.hint_text().is_some(), "{url}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }
}
