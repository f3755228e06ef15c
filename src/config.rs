//! The settings of a gateway: named, with defaults and limits. Read by `main` and [`gateway`](crate::gateway) only.
//!
//! A flag, a `TIDEGATE_*` variable and a line of the configuration file mean the same setting; the first of them that is
//! given holds, in that order. An unknown one is an error.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use crate::error::{Error, Result, SqlState};

/// The settings as they are given: each may be absent.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    /// The address to listen on; port 0 takes a free one [default: 127.0.0.1:6432]
    #[arg(long, env = "TIDEGATE_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// The folder that holds the store [default: tidegate-data]
    #[arg(long, env = "TIDEGATE_DATA", value_name = "DIR")]
    pub data: Option<String>,
    /// The Redis that keeps the online rows (redis://user:password@host:port/database, redis+unix:///path,
    /// redis+sentinel://host:port,host:port/service, redis+cluster://host:port,host:port; with rediss for redis behind TLS, and
    /// ?ca=FILE&cert=FILE&key=FILE where the machine's own certificates are not enough); without it they are kept in memory
    #[arg(long, env = "TIDEGATE_REDIS", value_name = "URL", hide_env_values = true)]
    pub redis: Option<String>,
    /// How long a lookup waits for Redis, in milliseconds [default: 100]
    #[arg(long, env = "TIDEGATE_REDIS_READ_MS", value_name = "N")]
    pub redis_read_ms: Option<usize>,
    /// How long a write waits for each answer of Redis, in milliseconds [default: 2000]
    #[arg(long, env = "TIDEGATE_REDIS_WRITE_MS", value_name = "N")]
    pub redis_write_ms: Option<usize>,
    /// Let the clock stand at this instant until ALTER SYSTEM SET tidegate.clock moves it
    #[arg(long, env = "TIDEGATE_CLOCK", value_name = "INSTANT")]
    pub clock: Option<String>,
    /// Whether a commit waits for the local disk [default: on]
    #[arg(long, env = "TIDEGATE_FSYNC", value_name = "on|off")]
    pub fsync: Option<Switch>,
    /// The most connections at once [default: 1000]
    #[arg(long, env = "TIDEGATE_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<usize>,
    /// The threads that serve connections and lookups; a connection stays on one of them [default: one less than there are
    /// processors]
    #[arg(long, env = "TIDEGATE_CONNECTION_THREADS", value_name = "N")]
    pub connection_threads: Option<usize>,
    /// The most memory that queries may hold, in MiB [default: 4096]
    #[arg(long, env = "TIDEGATE_MEMORY_MIB", value_name = "N")]
    pub memory_mib: Option<usize>,
    /// The most that a block or a COPY may hold until it is written, in MiB; what a query gives is written as it comes [default: 2048]
    #[arg(long, env = "TIDEGATE_WRITE_MIB", value_name = "N")]
    pub write_mib: Option<usize>,
    /// How long a version of a view stays after a newer one came, as an interval: '30 days'. Versions that a tag names stay
    /// longer. Answers AS OF and FOR SYSTEM_TIME AS OF do not depend on it, VERSION AS OF does [default: every version stays]
    #[arg(long, env = "TIDEGATE_RETENTION", value_name = "INTERVAL")]
    pub retention: Option<String>,
    /// The longest message of a client, in MiB [default: 16]
    #[arg(long, env = "TIDEGATE_MESSAGE_MIB", value_name = "N")]
    pub message_mib: Option<usize>,
}

/// On or off, as PostgreSQL spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// The variables that mean settings, besides `TIDEGATE_CONFIG` and `TIDEGATE_LOG`.
const VARIABLES: [&str; 15] = [
    "TIDEGATE_LISTEN",
    "TIDEGATE_DATA",
    "TIDEGATE_REDIS",
    "TIDEGATE_REDIS_READ_MS",
    "TIDEGATE_REDIS_WRITE_MS",
    "TIDEGATE_CLOCK",
    "TIDEGATE_FSYNC",
    "TIDEGATE_MAX_CONNECTIONS",
    "TIDEGATE_CONNECTION_THREADS",
    "TIDEGATE_MEMORY_MIB",
    "TIDEGATE_WRITE_MIB",
    "TIDEGATE_RETENTION",
    "TIDEGATE_MESSAGE_MIB",
    "TIDEGATE_CONFIG",
    "TIDEGATE_LOG",
];

/// The settings that hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The address to listen on.
    pub listen: String,
    /// The root of the store.
    pub data: String,
    /// The URL of Redis; `None` keeps online rows in memory.
    pub redis: Option<String>,
    /// How long a lookup waits for Redis.
    pub redis_read: Duration,
    /// How long a write waits for each answer of Redis.
    pub redis_write: Duration,
    /// Where a clock that stands still stands; `None` is the machine's clock.
    pub clock: Option<String>,
    /// Whether a commit waits for the local disk.
    pub fsync: bool,
    /// The most connections at once.
    pub connections_max: usize,
    /// The threads that serve connections; `None` leaves it to the gateway.
    pub connection_threads: Option<usize>,
    /// The most memory that queries may hold, in bytes.
    pub memory_bytes_max: usize,
    /// The most bytes that one statement or block may write.
    pub write_bytes_max: usize,
    /// How long a version stays after a newer one came, as an interval; `None`, every version does.
    pub retention: Option<String>,
    /// The longest message of a client, in bytes.
    pub message_bytes_max: usize,
}

impl Given {
    /// These settings, with those of `file` where they are absent, and defaults where both are.
    pub fn resolve(self, file: Option<&Path>) -> Result<Config> {
        let file = match file {
            Some(path) => read(path)?,
            None => Given::default(),
        };
        Ok(Config {
            listen: self.listen.or(file.listen).unwrap_or_else(|| "127.0.0.1:6432".to_owned()),
            data: self.data.or(file.data).unwrap_or_else(|| "tidegate-data".to_owned()),
            redis: self.redis.or(file.redis),
            redis_read: milliseconds("redis_read_ms", self.redis_read_ms.or(file.redis_read_ms), 100)?,
            redis_write: milliseconds("redis_write_ms", self.redis_write_ms.or(file.redis_write_ms), 2000)?,
            clock: self.clock.or(file.clock),
            fsync: self.fsync.or(file.fsync).unwrap_or(Switch::On) == Switch::On,
            connections_max: at_least_one("max_connections", self.max_connections.or(file.max_connections), 1000)?,
            connection_threads: match self.connection_threads.or(file.connection_threads) {
                Some(threads) => Some(at_least_one("connection_threads", Some(threads), 1)?),
                None => None,
            },
            memory_bytes_max: at_least_one("memory_mib", self.memory_mib.or(file.memory_mib), 4096)? << 20,
            write_bytes_max: at_least_one("write_mib", self.write_mib.or(file.write_mib), 2048)? << 20,
            retention: self.retention.or(file.retention),
            message_bytes_max: at_least_one("message_mib", self.message_mib.or(file.message_mib), 16)? << 20,
        })
    }
}

fn at_least_one(name: &str, given: Option<usize>, default: usize) -> Result<usize> {
    match given {
        Some(0) => Err(Error::new(SqlState::ConfigFileError, format!("{name} must be at least 1"))),
        Some(value) if value > usize::MAX >> 20 => Err(Error::new(SqlState::ConfigFileError, format!("{name} is too large"))),
        Some(value) => Ok(value),
        None => Ok(default),
    }
}

fn milliseconds(name: &str, given: Option<usize>, default: usize) -> Result<Duration> {
    Ok(Duration::from_millis(at_least_one(name, given, default)? as u64))
}

fn read(path: &Path) -> Result<Given> {
    let text = std::fs::read_to_string(path).map_err(|source| {
        Error::new(SqlState::ConfigFileError, format!("could not read the configuration file {}", path.display()))
            .caused_by(source)
    })?;
    toml::from_str(&text).map_err(|source| {
        Error::new(SqlState::ConfigFileError, format!("the configuration file {} does not hold", path.display()))
            .detail(source.to_string().trim_end().to_owned())
    })
}

/// Fails on a `TIDEGATE_*` variable among `names` that means nothing: most likely a setting misspelt.
pub fn refuse_unknown_variables(names: impl Iterator<Item = String>) -> Result<()> {
    for name in names {
        if name.starts_with("TIDEGATE_") && !VARIABLES.contains(&name.as_str()) {
            return Err(Error::new(SqlState::ConfigFileError, format!("the variable {name} means no setting"))
                .hint(format!("The settings are {}.", VARIABLES.join(", "))));
        }
    }
    Ok(())
}

/// Where the configuration file is.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigFile {
    /// A TOML file of settings, named as the flags are, with underscores
    #[arg(long, env = "TIDEGATE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_hold_over_the_file_and_the_file_over_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tidegate.toml");
        std::fs::write(&file, "listen = '127.0.0.1:1'\nfsync = 'off'\nmemory_mib = 7\n").unwrap();
        let given = Given { listen: Some("127.0.0.1:2".into()), ..Given::default() };
        let config = given.resolve(Some(&file)).unwrap();
        assert_eq!((config.listen.as_str(), config.fsync, config.memory_bytes_max), ("127.0.0.1:2", false, 7 << 20));
        assert_eq!(config.data, "tidegate-data");
    }

    #[test]
    fn unknown_settings_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tidegate.toml");
        std::fs::write(&file, "lisen = '127.0.0.1:1'").unwrap();
        assert!(Given::default().resolve(Some(&file)).is_err());
        assert!(refuse_unknown_variables(["TIDEGATE_LISTEN".to_owned(), "PATH".to_owned()].into_iter()).is_ok());
        assert!(refuse_unknown_variables(["TIDEGATE_LISEN".to_owned()].into_iter()).is_err());
        assert!(Given { max_connections: Some(0), ..Given::default() }.resolve(None).is_err());
    }
}
