//! Where a Redis is: its URL, read once.
//!
//! | URL | what is there |
//! |---|---|
//! | `redis://[user[:password]@]host[:6379][/database]` | one server, or a proxy that finds it |
//! | `redis+unix:///path[?db=…&user=…&pass=…]`, `unix://` | one server on this machine |
//! | `redis+sentinel://[user[:password]@]host[:26379],host…/service[/database]` | the primary that the sentinels name |
//! | `redis+cluster://[user[:password]@]host[:6379],host…` | the cluster that these nodes know |
//!
//! `valkey` may stand for `redis`. User, password and path may be percent-encoded; a password alone is `redis://:password@host`.
//! The sentinels are asked without a password.
//!
//! `rediss` for `redis` puts every connection, those to sentinels included, behind TLS. The server's certificate must be for the name
//! by which it is reached, and by an authority that this machine trusts, or one of `?ca=FILE`; `cert=FILE&key=FILE` are shown to
//! a server that asks for a certificate. Files are PEM, read at each connection, so that they may be renewed.

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
    /// In the cluster that these nodes know.
    Cluster(Vec<Host>),
}

/// How connections are protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tls {
    /// The authorities that are trusted; `None`: those that this machine trusts.
    pub(super) authorities: Option<PathBuf>,
    /// The certificate to show, and its key.
    pub(super) certificate: Option<(PathBuf, PathBuf)>,
}

/// What a URL says. Shown without the password.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) place: Place,
    /// `None`: they are not.
    pub(super) tls: Option<Tls>,
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
        let (kind, behind_tls) = match scheme.strip_prefix("rediss") {
            Some(rest) => (format!("redis{rest}"), true),
            None => (scheme, false),
        };
        let mut address = match kind.as_str() {
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
            "redis+cluster" => Self::hosts(rest, |hosts, path| match path {
                [] | ["0"] => {
                    Ok((Place::Cluster(hosts.into_iter().map(|host| with_port(host, PORT)).collect::<Result<_>>()?), None))
                }
                _ => Err(malformed("A cluster has no databases but 0.")),
            }),
            "redis+unix" | "unix" if !behind_tls => return Self::socket(rest, query),
            _ => Err(malformed("Its scheme is none that is known.")),
        }?;
        address.tls = match (behind_tls, query) {
            (true, query) => Some(tls(query)?),
            (false, "") => None,
            (false, _) => return Err(malformed("What stands after the question mark is known behind rediss:// alone.")),
        };
        Ok(address)
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
        Ok(Self { place, tls: None, user: given(user)?, password: given(password)?, database: database(number)? })
    }

    fn socket(path: &str, query: &str) -> Result<Self> {
        if !path.starts_with('/') {
            return Err(malformed("The path of the socket is expected, from the root."));
        }
        let mut address = Self {
            place: Place::Socket(decoded(path)?.into()),
            tls: None,
            user: None,
            password: None,
            database: database(None)?,
        };
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
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        match &self.place {
            Place::Host(host) => write!(f, "{scheme}://{user}{}/{}", shown(host), self.database),
            Place::Socket(path) => write!(f, "redis+unix://{}?db={}", path.display(), self.database),
            Place::Sentinels { sentinels, service } => {
                write!(f, "{scheme}+sentinel://{user}{}/{service}/{}", all_shown(sentinels), self.database)
            }
            Place::Cluster(nodes) => write!(f, "{scheme}+cluster://{user}{}", all_shown(nodes)),
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
        "Give it as redis://user:password@host:port/database, redis+unix:///path, redis+sentinel://host:port,host:port/service or \
         redis+cluster://host:port,host:port; with rediss for redis behind TLS.",
    )
}

/// `ca=FILE&cert=FILE&key=FILE`, each of which may be absent. Files that cannot be read are told here, not at some later connection.
fn tls(query: &str) -> Result<Tls> {
    let (mut authorities, mut certificate, mut key) = (None, None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (place, file) = match pair.split_once('=') {
            Some(("ca", file)) => (&mut authorities, file),
            Some(("cert", file)) => (&mut certificate, file),
            Some(("key", file)) => (&mut key, file),
            _ => return Err(malformed("Behind TLS, only ca, cert and key are known after the question mark.")),
        };
        let file = PathBuf::from(decoded(file)?);
        std::fs::File::open(&file).map_err(|source| {
            let message = format!("could not read {}, which the address of the online store names", file.display());
            Error::new(SqlState::ConfigFileError, message).hint("Give the path of a PEM file.").caused_by(source)
        })?;
        *place = Some(file);
    }
    let certificate = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err(malformed("A certificate and its key belong together: cert=FILE&key=FILE.")),
    };
    Ok(Tls { authorities, certificate })
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

/// A host and its port, as a URL has them.
pub(super) fn shown((host, port): &Host) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn all_shown(hosts: &[Host]) -> String {
    hosts.iter().map(shown).collect::<Vec<_>>().join(",")
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
        let cluster = Place::Cluster(vec![host("a", 6379), host("::1", 2)]);
        check("valkey+cluster://:secret@a,[::1]:2", cluster.clone(), (None, Some("secret"), 0), "redis+cluster://a:6379,[::1]:2");
        check("rediss+cluster://a,[::1]:2/", cluster, (None, None, 0), "rediss+cluster://a:6379,[::1]:2");
        check("rediss://db:1", Place::Host(host("db", 1)), (None, None, 0), "rediss://db:1/0");
    }

    #[test]
    fn behind_tls_files_may_be_named() {
        assert_eq!(Address::parse("redis://a").unwrap().tls, None);
        assert_eq!(Address::parse("rediss+sentinel://a/mine").unwrap().tls, Some(Tls::default()));
        let null = || PathBuf::from("/dev/null");
        let tls = Address::parse("valkeys://a?ca=/dev/null&cert=%2Fdev/null&key=/dev/null").unwrap().tls;
        assert_eq!(tls, Some(Tls { authorities: Some(null()), certificate: Some((null(), null())) }));
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
            ("redis://:secret@a?ca=x", SqlState::ConfigFileError),
            ("rediss://:secret@a?ca=/nowhere", SqlState::ConfigFileError),
            ("rediss://:secret@a?cert=/dev/null", SqlState::ConfigFileError),
            ("rediss://:secret@a?what=/dev/null", SqlState::ConfigFileError),
            ("rediss+unix:///secret", SqlState::ConfigFileError),
            ("redis+cluster://:secret@a/1", SqlState::ConfigFileError),
        ] {
            let error = Address::parse(url).unwrap_err();
            assert_eq!(error.code(), code, "{url}");
            assert!(error.hint_text().is_some(), "{url}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }
}
