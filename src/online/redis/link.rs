//! The connections to one Redis, or to all primaries of a cluster, made and kept by a task of their own.
//!
//! A caller never waits for a server that is known to be away: the task tries to reach it again, after pauses that grow to
//! [`PAUSE_MAX`], and calls fail at once until it has. Only what is being connected to for the first time, or again after a
//! connection broke, is waited for, within the caller's own limit.
//!
//! There are two connections to a server, so that a lookup does not stand behind a write of many rows. All are given up together,
//! and each time that all are there is an [`Epoch`] of its own: the server behind the next may lack what the one before it was told,
//! and whoever builds on that must look again. The task also asks each server for a sign of life, since one that hangs keeps its
//! connections; the sentinels, where there are any, whether their primary is still this one; and the nodes of a cluster whether
//! each still serves the same slots.
//!
//! A cluster is connected to where all of its primaries tell the same slots. That one of them breaks ends the epoch for all: rows
//! of a view lie on each, so none of its lookups could be sure otherwise, and a cluster that lacks a primary serves nothing itself.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{select_all, try_join_all};
use redis::aio::MultiplexedConnection;
use redis::{RedisConnectionInfo, RedisError, Value};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::address::{Address, Host, Place, Tls, shown};
use super::gather::Gatherer;
use super::open::{About, Obstacle, about, info_field, is_lost, obstacle, open, serves};
use super::slots::SlotMap;
use crate::online::Epoch;

/// How long connections may take to be made, all questions to the server and to the sentinels included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one sentinel, or one node asked for the others, may take to answer.
const SENTINEL_TIMEOUT: Duration = Duration::from_millis(300);

/// How often sentinels are asked for their primary, and the nodes of a cluster for their slots.
const PLACE_INTERVAL: Duration = Duration::from_secs(1);

/// How often the server is asked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_millis(250);

/// How long it may take to give one before its connections are given up.
const PING_TIMEOUT: Duration = Duration::from_millis(750);

/// The pause after the first attempt that failed; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// The longest pause: how long a server that is back may go unnoticed, half as much again at worst.
const PAUSE_MAX: Duration = Duration::from_millis(500);

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

impl Failure {
    /// Whether a node of a cluster says that a slot is, or is about to be, with another.
    pub(super) fn is_moved(&self) -> bool {
        use redis::{ErrorKind, ServerErrorKind};
        let moved = [ServerErrorKind::Moved, ServerErrorKind::Ask, ServerErrorKind::TryAgain];
        matches!(self, Self::Redis(error) if moved.iter().any(|moved| error.kind() == ErrorKind::Server(*moved)))
    }
}

/// A pair of connections to one server.
#[derive(Debug)]
pub(super) struct Node {
    /// For lookups and other short questions.
    pub(super) lookups: MultiplexedConnection,
    /// What small lookups travel by, on the same connection.
    pub(super) gatherer: Arc<Gatherer>,
    /// For writes.
    pub(super) writes: MultiplexedConnection,
    /// What the keys of its applied versions end with.
    pub(super) mark: String,
}

/// All connections of an epoch.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) epoch: Epoch,
    /// The one server; in a cluster the primaries, in the order of the slot map.
    pub(super) nodes: Vec<Node>,
    /// Whose the slots are; `None` where there is one server.
    pub(super) slots: Option<SlotMap>,
    /// What the first server says it is (`7.0.15`, `valkey 8.0.1`); `None` where it does not say.
    pub(super) version: Option<String>,
    /// Whether rows may be given a time to go: no server of these would drop such rows early.
    pub(super) rows_may_expire: bool,
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
    /// Wakes the keeper to ask a cluster for its slots.
    doubts: Arc<Notify>,
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
        let doubts = Arc::new(Notify::new());
        let keeper = Keeper {
            address,
            state: sender,
            epoch: Arc::clone(&epoch),
            doubts: Arc::clone(&doubts),
            epochs: 0,
            asked_first: 0,
            known: Vec::new(),
        };
        Self { state, epoch, doubts, keeper: tokio::spawn(keeper.run()).abort_handle() }
    }

    /// The epoch of the connections that are up. No IO.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        match self.epoch.load(Ordering::Acquire) {
            0 => None,
            number => Some(Epoch(number)),
        }
    }

    /// Says that the slots may no longer be as they were.
    pub(super) fn look_again(&self) {
        self.doubts.notify_one();
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
    doubts: Arc<Notify>,
    /// How many epochs there have been.
    epochs: u64,
    /// Which sentinel, or node of a cluster, is asked first.
    asked_first: usize,
    /// The primaries of the cluster when it was last connected to: it may have moved away from those that the address names.
    known: Vec<Host>,
}

/// Why there is no connection, and what was said.
type NotConnected = (Obstacle, Option<RedisError>);

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
                    self.is_away(&mut told, self.silence(), None).await;
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

    /// What it means that no answer comes: a server that speaks no TLS waits for the rest of what it takes for a command.
    fn silence(&self) -> Obstacle {
        if self.address.tls.is_some() { Obstacle::NoTls } else { Obstacle::Silent }
    }

    async fn is_away(&self, told: &mut Option<Obstacle>, obstacle: Obstacle, cause: Option<RedisError>) {
        if told.replace(obstacle) != Some(obstacle) {
            let cause = cause.map(|cause| cause.to_string());
            tracing::warn!(address = %self.address, %obstacle, cause, "the online store is away; trying again until it is back");
        }
        self.state.send_replace(State::Away(obstacle));
    }

    /// All connections, and the tasks that drive those of each server.
    async fn connect(&mut self) -> Result<(Session, Vec<JoinSet<()>>), NotConnected> {
        // Should this attempt fail, the next asks another first.
        self.asked_first = self.asked_first.wrapping_add(1);
        let (mut primary, mut slots) = (None, None);
        let places = match &self.address.place {
            Place::Sentinels { .. } => {
                primary = Some(self.ask_sentinels().await?);
                primary.iter().cloned().map(Place::Host).collect()
            }
            Place::Cluster(seeds) => {
                let map = slots.insert(self.ask_cluster(seeds).await?);
                map.primaries().cloned().map(Place::Host).collect()
            }
            Place::Host(_) | Place::Socket(_) => vec![self.address.place.clone()],
        };
        let marks = slots.as_ref().map_or_else(|| vec![String::new()], SlotMap::marks);
        let connected = places.iter().zip(marks).map(|(place, mark)| self.connect_to(place, mark, slots.as_ref()));
        let (mut nodes, mut drivers, mut version, mut rows_may_expire) = (Vec::new(), Vec::new(), None, true);
        for (node, driven, about) in try_join_all(connected).await? {
            version = version.or(about.version);
            rows_may_expire &= about.rows_may_expire;
            nodes.push(node);
            drivers.push(driven);
        }
        if let Some(map) = &slots {
            self.known = map.primaries().cloned().collect();
        }
        self.epochs += 1;
        Ok((Session { epoch: Epoch(self.epochs), nodes, slots, version, rows_may_expire, primary }, drivers))
    }

    /// Both connections to one server, which must see the slots of its cluster as the others do.
    async fn connect_to(
        &self,
        place: &Place,
        mark: String,
        slots: Option<&SlotMap>,
    ) -> Result<(Node, JoinSet<()>, About), NotConnected> {
        let (login, tls) = (self.address.login(), self.address.tls.as_ref());
        let mut drivers = JoinSet::new();
        let failed = |error: RedisError| (obstacle(&error), Some(error));
        let mut lookups = open(place, tls, &login, &mut drivers).await.map_err(failed)?;
        let writes = open(place, tls, &login, &mut drivers).await.map_err(failed)?;
        if let Some(obstacle) = serves(&mut lookups).await.map_err(failed)? {
            return Err((obstacle, None));
        }
        let about = about(&mut lookups).await.map_err(failed)?;
        match (slots, place) {
            (Some(slots), Place::Host(host)) => {
                let info: Option<String> = redis::cmd("CLUSTER").arg("INFO").query_async(&mut lookups).await.ok();
                if info.is_some_and(|info| info_field(&info, "cluster_state").is_some_and(|state| state != "ok")) {
                    return Err((Obstacle::ClusterDown, None));
                }
                if slots_seen_by(&mut lookups, host).await.map_err(failed)?.as_ref() != Some(slots) {
                    return Err((Obstacle::Unsettled, None));
                }
            }
            _ if about.in_cluster => return Err((Obstacle::IsCluster, None)),
            _ => {}
        }
        let gatherer = Arc::new(Gatherer::new(lookups.clone()));
        Ok((Node { lookups, gatherer, writes, mark }, drivers, about))
    }

    /// The slots as the first node that answers tells them.
    async fn ask_cluster(&self, seeds: &[Host]) -> Result<SlotMap, NotConnected> {
        let mut why = (Obstacle::Unreachable, None);
        for host in self.in_turn(&[&self.known, seeds].concat()) {
            let ask = async {
                let mut drivers = JoinSet::new();
                let place = Place::Host(host.clone());
                let mut node = open(&place, self.address.tls.as_ref(), &self.address.login(), &mut drivers).await?;
                slots_seen_by(&mut node, &host).await
            };
            let found = match tokio::time::timeout(SENTINEL_TIMEOUT, ask).await {
                Ok(Ok(Some(map))) => return Ok(map),
                Ok(Ok(None)) => (Obstacle::ClusterDown, None),
                Ok(Err(error)) if error.to_string().contains("cluster support disabled") => (Obstacle::NoCluster, Some(error)),
                Ok(Err(error)) => (obstacle(&error), Some(error)),
                Err(_late) => (self.silence(), None),
            };
            tracing::debug!(node = %shown(&host), obstacle = %found.0, "the node does not tell its cluster's slots");
            // What a node says is worth more than that another cannot be reached.
            if why.0 == Obstacle::Unreachable {
                why = found;
            }
        }
        Err(why)
    }

    /// All of these, beginning with another one at each attempt.
    fn in_turn(&self, hosts: &[Host]) -> Vec<Host> {
        let mut hosts = hosts.to_vec();
        let first = self.asked_first % hosts.len().max(1);
        hosts.rotate_left(first);
        hosts
    }

    /// Where the first sentinel that knows it says that the primary is.
    async fn ask_sentinels(&self) -> Result<Host, NotConnected> {
        let Place::Sentinels { sentinels, service } = &self.address.place else { return Err((Obstacle::NoPrimary, None)) };
        let mut why = (Obstacle::Unreachable, None);
        for sentinel in self.in_turn(sentinels) {
            let ask = ask_sentinel(&sentinel, service, self.address.tls.as_ref());
            let found = match tokio::time::timeout(SENTINEL_TIMEOUT, ask).await {
                Ok(Ok(Some(primary))) => return Ok(primary),
                Ok(Ok(None)) => (Obstacle::NoPrimary, None),
                Ok(Err(error)) => (obstacle(&error), Some(error)),
                Err(_late) => (self.silence(), None),
            };
            tracing::debug!(sentinel = %shown(&sentinel), service, obstacle = %found.0, "the sentinel does not name a primary");
            if why.0 == Obstacle::Unreachable {
                why = found;
            }
        }
        Err(why)
    }

    /// Returns, with the reason, when the connections are no longer good.
    async fn watch_over(&self, session: &Session, drivers: Vec<JoinSet<()>>) -> &'static str {
        let nodes = session.nodes.iter().zip(drivers).map(|(node, drivers)| Box::pin(watch_node(node, drivers)));
        tokio::select! {
            (reason, _, _) = select_all(nodes) => reason,
            reason = self.watch_place(session) => reason,
        }
    }

    /// Returns, with the reason, when the primaries are elsewhere, or serve other slots.
    async fn watch_place(&self, session: &Session) -> &'static str {
        let mut looks = tokio::time::interval(PLACE_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = self.doubts.notified() => {}
            }
            match (&self.address.place, &session.slots) {
                (Place::Sentinels { .. }, _) => {
                    let primary = self.ask_sentinels().await.ok();
                    if primary.is_some() && session.primary != primary {
                        return "the sentinels name another primary";
                    }
                }
                (Place::Cluster(_), Some(map)) => {
                    for (node, host) in session.nodes.iter().zip(map.primaries()) {
                        let mut node = node.lookups.clone();
                        // One that does not answer is watched by its signs of life.
                        let seen = tokio::time::timeout(SENTINEL_TIMEOUT, slots_seen_by(&mut node, host)).await;
                        if seen.is_ok_and(|seen| seen.is_ok_and(|seen| seen.as_ref() != Some(map))) {
                            return "the cluster serves its slots otherwise";
                        }
                    }
                }
                _ => return pending().await,
            }
        }
    }
}

/// Returns, with the reason, when the connections to a server are no longer good.
async fn watch_node(node: &Node, mut drivers: JoinSet<()>) -> &'static str {
    let mut signs = tokio::time::interval(PING_INTERVAL);
    signs.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut lookups, mut writes) = (node.lookups.clone(), node.writes.clone());
    loop {
        tokio::select! {
            Some(_ended) = drivers.join_next() => return "it was closed",
            _ = signs.tick() => {}
        }
        match tokio::time::timeout(PING_TIMEOUT, serves(&mut lookups)).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(Obstacle::Replica))) => return "the server has become a replica",
            Ok(_) => return "the server does not serve",
            Err(_late) => return "the server does not answer",
        }
        // Connections that the library drives are closed without a word. One that is busy is none that was closed.
        if drivers.is_empty() {
            let ping = redis::cmd("PING");
            let sign = tokio::time::timeout(PING_TIMEOUT, ping.query_async::<Value>(&mut writes)).await;
            if sign.is_ok_and(|sign| sign.is_err_and(|error| is_lost(&error))) {
                return "it was closed";
            }
        }
    }
}

/// The slots of a cluster as this node, found at `host`, sees them; `None` where some are nobody's.
async fn slots_seen_by(node: &mut MultiplexedConnection, host: &Host) -> Result<Option<SlotMap>, RedisError> {
    let answer: Vec<Value> = redis::cmd("CLUSTER").arg("SLOTS").query_async(node).await?;
    Ok(SlotMap::of_answer(&answer, host))
}

/// What a sentinel says of the place of a service's primary.
async fn ask_sentinel(sentinel: &Host, service: &str, tls: Option<&Tls>) -> Result<Option<Host>, RedisError> {
    let mut drivers = JoinSet::new();
    let mut connection = open(&Place::Host(sentinel.clone()), tls, &RedisConnectionInfo::default(), &mut drivers).await?;
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("get-master-addr-by-name").arg(service).query_async(&mut connection).await
}

/// Waits, and makes the next pause longer. A part of it is chance: gateways that lost one server do not return as one.
async fn rest(pause: &mut Duration) {
    let chance = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    tokio::time::sleep(*pause / 2 + *pause * chance / 256).await;
    *pause = (*pause * 2).min(PAUSE_MAX);
}
