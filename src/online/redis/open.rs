//! One connection: how it is made, and what keeps a server from being used.

use std::fmt;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, ServerErrorKind, TlsCertificates,
};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

use super::address::{Place, Tls};

/// How many calls may wait to be sent on one connection.
const CALLS_QUEUED: usize = 1024;

/// How many bytes are gathered before they are sent.
const SEND_BYTES: usize = 64 << 10;

/// Why the server cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    Unreachable,
    Refused,
    Replica,
    Loading,
    NoPrimary,
    Silent,
    Untrusted,
    Expired,
    NoTls,
    NoCertificate,
    NoCluster,
    IsCluster,
    ClusterDown,
    Unsettled,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "It cannot be reached.",
            Self::Refused => "It refuses the user or the password.",
            Self::Replica => "It is a replica, which takes no writes.",
            Self::Loading => "It is loading its data.",
            Self::NoPrimary => "The sentinels know no primary of that name.",
            Self::Silent => "It did not answer in time.",
            Self::Untrusted => {
                "Its certificate is not trusted: it is by another authority (name the right one with ?ca=FILE), or for another name."
            }
            Self::Expired => "Its certificate has expired, or is not valid yet.",
            Self::NoTls => "It does not speak TLS there, or did not answer in time: without TLS its address begins with redis://.",
            Self::NoCertificate => "It wants another certificate of its clients, or one at all: name it with ?cert=FILE&key=FILE.",
            Self::NoCluster => "It is no cluster: give its address as redis://.",
            Self::IsCluster => "It is a node of a cluster: give its address as redis+cluster://.",
            Self::ClusterDown => "The cluster is down: slots of it are served by nobody.",
            Self::Unsettled => "Its nodes do not agree yet about which slots each serves.",
        })
    }
}

/// A connection, logged in; its driver joins the others, unless it is behind TLS: then the library drives it.
pub(super) async fn open(
    place: &Place,
    tls: Option<&Tls>,
    login: &RedisConnectionInfo,
    drivers: &mut JoinSet<()>,
) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(CALLS_QUEUED)
        .set_write_backpressure_boundary(SEND_BYTES);
    match (place, tls) {
        (Place::Socket(path), _) => {
            let stream = UnixStream::connect(path).await?;
            let (connection, driver) = MultiplexedConnection::new_with_config(login, stream, config).await?;
            drivers.spawn(driver);
            Ok(connection)
        }
        (Place::Host(host), None) => {
            let stream = TcpStream::connect(host.clone()).await?;
            // A lookup is one small message that must not wait for a second to travel with.
            stream.set_nodelay(true)?;
            let (connection, driver) = MultiplexedConnection::new_with_config(login, stream, config).await?;
            drivers.spawn(driver);
            Ok(connection)
        }
        (Place::Host((host, port)), Some(tls)) => {
            let address = ConnectionAddr::TcpTls { host: host.as_str().into(), port: *port, insecure: false, tls_params: None };
            let tcp = TcpSettings::default().set_nodelay(true);
            let info = address.into_connection_info()?.set_tcp_settings(tcp).set_redis_settings(login.clone());
            let client = Client::build_with_tls(info, certificates(tls).await?)?;
            client.get_multiplexed_async_connection_with_config(&config).await
        }
        (Place::Sentinels { .. } | Place::Cluster(_), _) => {
            Err((ErrorKind::InvalidClientConfig, "the server behind the address was not asked for").into())
        }
    }
}

async fn certificates(tls: &Tls) -> Result<TlsCertificates, RedisError> {
    let root_cert = match &tls.authorities {
        Some(file) => Some(tokio::fs::read(file).await?),
        None => None,
    };
    let client_tls = match &tls.certificate {
        Some((certificate, key)) => {
            Some(ClientTlsConfig { client_cert: tokio::fs::read(certificate).await?, client_key: tokio::fs::read(key).await? })
        }
        None => None,
    };
    Ok(TlsCertificates { client_tls, root_cert })
}

/// What keeps the server from taking reads and writes; one that does not let us ask is taken for a primary.
pub(super) async fn serves(connection: &mut MultiplexedConnection) -> Result<Option<Obstacle>, RedisError> {
    // A server that is still loading its data refuses this.
    match redis::cmd("PING").query_async::<String>(connection).await {
        Ok(_pong) => {}
        Err(error) if is_lost(&error) => return Err(error),
        Err(error) => return Ok(Some(obstacle(&error))),
    }
    match redis::cmd("ROLE").query_async::<Vec<redis::Value>>(connection).await {
        Ok(role) => {
            let role = role.first().and_then(|role| redis::from_redis_value_ref::<String>(role).ok());
            Ok(role.is_some_and(|role| role == "slave").then_some(Obstacle::Replica))
        }
        Err(error) if is_lost(&error) => Err(error),
        Err(error) if obstacle(&error) == Obstacle::Loading => Ok(Some(Obstacle::Loading)),
        Err(_not_allowed) => Ok(None),
    }
}

/// What the server says of itself.
#[derive(Default)]
pub(super) struct About {
    /// What it is (`7.0.15`, `valkey 8.0.1`).
    pub(super) version: Option<String>,
    /// Whether it is a node of a cluster.
    pub(super) in_cluster: bool,
    /// Whether rows with an expiry stay until then: it does not drop them, before all others, to save memory.
    pub(super) rows_may_expire: bool,
}

/// What the server is; a server set up so that it may drop rows is complained about.
pub(super) async fn about(connection: &mut MultiplexedConnection) -> Result<About, RedisError> {
    let info = match redis::cmd("INFO").query_async::<String>(connection).await {
        Ok(info) => info,
        Err(error) if is_lost(&error) => return Err(error),
        Err(_not_allowed) => return Ok(About::default()),
    };
    let policy = info_field(&info, "maxmemory_policy");
    if info_field(&info, "maxmemory").is_some_and(|bytes| bytes != "0")
        && let Some(policy) = policy.filter(|policy| policy.starts_with("allkeys"))
    {
        tracing::warn!(
            policy,
            "the online store may drop rows to save memory, which nobody notices: set maxmemory-policy noeviction"
        );
    }
    let rows_may_expire = policy.is_some_and(|policy| !policy.starts_with("volatile"));
    if !rows_may_expire {
        tracing::info!(policy, "rows past their TTL stay in the online store: they go where its maxmemory-policy is noeviction");
    }
    let valkey = info_field(&info, "valkey_version").map(|version| format!("valkey {version}"));
    let version = valkey.or_else(|| info_field(&info, "redis_version").map(str::to_owned));
    // Valkey has a name of its own for it.
    let mode = info_field(&info, "redis_mode").or_else(|| info_field(&info, "server_mode"));
    Ok(About { version, in_cluster: mode == Some("cluster"), rows_may_expire })
}

/// A line of what `INFO` says.
pub(super) fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

pub(super) fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
}

pub(super) fn obstacle(error: &RedisError) -> Obstacle {
    match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm) => Obstacle::Refused,
        ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown) => Obstacle::Loading,
        ErrorKind::Server(ServerErrorKind::ClusterDown) => Obstacle::ClusterDown,
        _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => Obstacle::Refused,
        ErrorKind::Io => tls_obstacle(&error.to_string()),
        _ => Obstacle::Unreachable,
    }
}

/// What the library for TLS says, which it says in words alone.
fn tls_obstacle(said: &str) -> Obstacle {
    if said.contains("certificate expired") || said.contains("not valid yet") {
        Obstacle::Expired
    } else if said.contains("invalid peer certificate") {
        Obstacle::Untrusted
    } else if said.contains("InvalidContentType") {
        Obstacle::NoTls
    } else if said.contains("CertificateRequired") || said.contains("fatal alert") {
        Obstacle::NoCertificate
    } else {
        Obstacle::Unreachable
    }
}
