//! The connections to one Redis, made and kept by a task of their own.
//!
//! A caller never waits for a server that is known to be away: the task tries to reach it again, after pauses that grow to
//! [`PAUSE_MAX`], and calls fail at once until it has. Only what is being connected to for the first time, or again after a
//! connection broke, is waited for, within the caller's own limit.
//!
//! There are two connections, so that a lookup does not stand behind a write of many rows. Both are given up together, and each
//! pair is an [`Epoch`] of its own: the server behind the next pair may lack what the one before it was told, and whoever builds
//! on that must look again. The task also asks the server for a sign of life, since one that hangs keeps its connections, and the
//! sentinels, where there are any, whether their primary is still this one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, ServerErrorKind};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::address::{Address, Host, Place};
use crate::online::Epoch;

/// How long connections may take to be made, all questions to the server and to the sentinels included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one sentinel may take to answer.
const SENTINEL_TIMEOUT: Duration = Duration::from_millis(300);

/// How often the server is asked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_millis(250);

/// How long it may take to give one before its connections are given up.
const PING_TIMEOUT: Duration = Duration::from_millis(750);

/// How many signs of life go by between two questions to the sentinels.
const PINGS_PER_SENTINEL_LOOK: u32 = 4;

/// The pause after the first attempt that failed; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// The longest pause: how long a server that is back may go unnoticed, half as much again at worst.
const PAUSE_MAX: Duration = Duration::from_millis(500);

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
        })
    }
}

/// Why a call brought nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no connection.
    Away(Obstacle),
    /// The server, or the way there.
    Redis(RedisError),
    /// It took too long.
    Late,
    /// The connection is no longer the one that the call was for.
    OtherEpoch,
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        if error.is_timeout() { Self::Late } else { Self::Redis(error) }
    }
}

/// A pair of connections.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) epoch: Epoch,
    /// For lookups and other short questions.
    pub(super) lookups: MultiplexedConnection,
    /// For writes.
    pub(super) writes: MultiplexedConnection,
    /// What the server says it is (`7.0.15`, `valkey 8.0.1`); `None` where it does not say.
    pub(super) version: Option<String>,
    /// Where the primary was found, where sentinels were asked.
    primary: Option<Host>,
}

#[derive(Clone, Debug)]
enum State {
    Connecting,
    Up(Arc<Session>),
    Away(Obstacle),
}

/// The connections to one Redis. They are closed when this is dropped.
#[derive(Debug)]
pub(super) struct Link {
    state: watch::Receiver<State>,
    /// The number of the pair that is up; 0 where none is.
    epoch: Arc<AtomicU64>,
    keeper: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Link {
    /// Begins to connect; must be called within a tokio runtime.
    pub(super) fn new(address: Address) -> Self {
        let (sender, state) = watch::channel(State::Connecting);
        let epoch = Arc::new(AtomicU64::new(0));
        let keeper = Keeper { address, state: sender, epoch: Arc::clone(&epoch), epochs: 0, asked_first: 0 };
        Self { state, epoch, keeper: tokio::spawn(keeper.run()).abort_handle() }
    }

    /// The epoch of the connections that are up. No IO.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        match self.epoch.load(Ordering::Acquire) {
            0 => None,
            number => Some(Epoch(number)),
        }
    }

    /// The connections, waiting for them only while they are being made.
    pub(super) async fn session(&self) -> Result<Arc<Session>, Failure> {
        let mut state = self.state.clone();
        loop {
            match &*state.borrow_and_update() {
                State::Up(session) => return Ok(Arc::clone(session)),
                State::Away(obstacle) => return Err(Failure::Away(*obstacle)),
                State::Connecting => {}
            }
            if state.changed().await.is_err() {
                return Err(Failure::Away(Obstacle::Unreachable));
            }
        }
    }
}

/// The task that makes connections and watches over them.
struct Keeper {
    address: Address,
    state: watch::Sender<State>,
    epoch: Arc<AtomicU64>,
    /// How many pairs of connections there have been.
    epochs: u64,
    /// Which sentinel is asked first.
    asked_first: usize,
}

impl Keeper {
    async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        let mut told = None;
        loop {
            let (session, drivers) = match tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await {
                Ok(Ok(connected)) => connected,
                Ok(Err((obstacle, cause))) => {
                    self.is_away(&mut told, obstacle, cause).await;
                    rest(&mut pause).await;
                    continue;
                }
                Err(_late) => {
                    self.is_away(&mut told, Obstacle::Silent, None).await;
                    rest(&mut pause).await;
                    continue;
                }
            };
            told = None;
            tracing::info!(address = %self.address, version = session.version, "connected to the online store");
            let session = Arc::new(session);
            self.state.send_replace(State::Up(Arc::clone(&session)));
            self.epoch.store(session.epoch.0, Ordering::Release);
            let lasted = tokio::time::Instant::now();
            let reason = self.watch_over(&session, drivers).await;
            self.epoch.store(0, Ordering::Release);
            self.state.send_replace(State::Connecting);
            tracing::warn!(address = %self.address, reason, "the connection to the online store broke");
            // One that breaks again and again is not hammered.
            if lasted.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            } else {
                rest(&mut pause).await;
            }
        }
    }

    async fn is_away(&self, told: &mut Option<Obstacle>, obstacle: Obstacle, cause: Option<RedisError>) {
        if told.replace(obstacle) != Some(obstacle) {
            let cause = cause.map(|cause| cause.to_string());
            tracing::warn!(address = %self.address, %obstacle, cause, "the online store is away; trying again until it is back");
        }
        self.state.send_replace(State::Away(obstacle));
    }

    /// Both connections, and the tasks that drive them.
    async fn connect(&mut self) -> Result<(Session, JoinSet<()>), (Obstacle, Option<RedisError>)> {
        let primary = self.ask_sentinels().await;
        // Should it not be one, the next attempt asks another sentinel first.
        self.asked_first = self.asked_first.wrapping_add(1);
        let place = match (&self.address.place, primary.clone()) {
            (Place::Sentinels { .. }, None) => return Err((Obstacle::NoPrimary, None)),
            (_, Some(primary)) => Place::Host(primary),
            (place, None) => place.clone(),
        };
        let login = self.address.login();
        let mut drivers = JoinSet::new();
        let failed = |error: RedisError| (obstacle(&error), Some(error));
        let mut lookups = open(&place, &login, &mut drivers).await.map_err(failed)?;
        let writes = open(&place, &login, &mut drivers).await.map_err(failed)?;
        if let Some(obstacle) = serves(&mut lookups).await.map_err(failed)? {
            return Err((obstacle, None));
        }
        let version = about(&mut lookups).await.map_err(failed)?;
        self.epochs += 1;
        Ok((Session { epoch: Epoch(self.epochs), lookups, writes, version, primary }, drivers))
    }

    /// Where the first sentinel that answers says that the primary is; `None` also where there are no sentinels.
    async fn ask_sentinels(&self) -> Option<Host> {
        let Place::Sentinels { sentinels, service } = &self.address.place else { return None };
        let first = self.asked_first % sentinels.len().max(1);
        for sentinel in sentinels[first..].iter().chain(&sentinels[..first]) {
            match tokio::time::timeout(SENTINEL_TIMEOUT, ask_sentinel(sentinel, service)).await {
                Ok(Ok(Some(primary))) => return Some(primary),
                Ok(Ok(None)) => tracing::debug!(sentinel = %sentinel.0, service, "the sentinel knows no such service"),
                Ok(Err(error)) => tracing::debug!(sentinel = %sentinel.0, %error, "the sentinel does not say"),
                Err(_late) => tracing::debug!(sentinel = %sentinel.0, "the sentinel does not answer"),
            }
        }
        None
    }

    /// Returns, with the reason, when the connections are no longer good.
    async fn watch_over(&self, session: &Session, mut drivers: JoinSet<()>) -> &'static str {
        let mut signs = tokio::time::interval(PING_INTERVAL);
        signs.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut connection = session.lookups.clone();
        for sign in 0_u32.. {
            tokio::select! {
                _ended = drivers.join_next() => return "it was closed",
                _ = signs.tick() => {}
            }
            match tokio::time::timeout(PING_TIMEOUT, serves(&mut connection)).await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(Obstacle::Replica))) => return "the server has become a replica",
                Ok(_) => return "the server does not serve",
                Err(_late) => return "the server does not answer",
            }
            if sign % PINGS_PER_SENTINEL_LOOK == 0
                && let Some(primary) = self.ask_sentinels().await
                && session.primary.as_ref() != Some(&primary)
            {
                return "the sentinels name another primary";
            }
        }
        "it was watched for years"
    }
}

/// What a sentinel says of the place of a service's primary.
async fn ask_sentinel(sentinel: &Host, service: &str) -> Result<Option<Host>, RedisError> {
    let mut drivers = JoinSet::new();
    let mut connection = open(&Place::Host(sentinel.clone()), &RedisConnectionInfo::default(), &mut drivers).await?;
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("get-master-addr-by-name").arg(service).query_async(&mut connection).await
}

/// Waits, and makes the next pause longer. A part of it is chance: gateways that lost one server do not return as one.
async fn rest(pause: &mut Duration) {
    let chance = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    tokio::time::sleep(*pause / 2 + *pause * chance / 256).await;
    *pause = (*pause * 2).min(PAUSE_MAX);
}

/// A connection, logged in; its driver joins the others.
async fn open(
    place: &Place,
    login: &RedisConnectionInfo,
    drivers: &mut JoinSet<()>,
) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_pipeline_buffer_size(CALLS_QUEUED)
        .set_write_backpressure_boundary(SEND_BYTES);
    match place {
        Place::Socket(path) => {
            let stream = UnixStream::connect(path).await?;
            let (connection, driver) = MultiplexedConnection::new_with_config(login, stream, config).await?;
            drivers.spawn(driver);
            Ok(connection)
        }
        Place::Host(host) => {
            let stream = TcpStream::connect(host.clone()).await?;
            // A lookup is one small message that must not wait for a second to travel with.
            stream.set_nodelay(true)?;
            let (connection, driver) = MultiplexedConnection::new_with_config(login, stream, config).await?;
            drivers.spawn(driver);
            Ok(connection)
        }
        Place::Sentinels { .. } => Err((ErrorKind::InvalidClientConfig, "the sentinels' primary was not asked for").into()),
    }
}

/// What keeps the server from taking reads and writes; one that does not let us ask is taken for a primary.
async fn serves(connection: &mut MultiplexedConnection) -> Result<Option<Obstacle>, RedisError> {
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

/// What the server is; a server set up so that it may drop rows is complained about.
async fn about(connection: &mut MultiplexedConnection) -> Result<Option<String>, RedisError> {
    let info = match redis::cmd("INFO").query_async::<String>(connection).await {
        Ok(info) => info,
        Err(error) if is_lost(&error) => return Err(error),
        Err(_not_allowed) => return Ok(None),
    };
    if info_field(&info, "maxmemory").is_some_and(|bytes| bytes != "0")
        && let Some(policy) = info_field(&info, "maxmemory_policy").filter(|policy| policy.starts_with("allkeys"))
    {
        tracing::warn!(
            policy,
            "the online store may drop rows to save memory, which nobody notices: set maxmemory-policy noeviction"
        );
    }
    let valkey = info_field(&info, "valkey_version").map(|version| format!("valkey {version}"));
    Ok(valkey.or_else(|| info_field(&info, "redis_version").map(str::to_owned)))
}

/// A line of what `INFO` says.
pub(super) fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
}

fn obstacle(error: &RedisError) -> Obstacle {
    match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm) => Obstacle::Refused,
        ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown) => Obstacle::Loading,
        _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => Obstacle::Refused,
        _ => Obstacle::Unreachable,
    }
}
