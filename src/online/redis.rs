//! The online store in Redis, or in what speaks as Redis does (Valkey, KeyDB).
//!
//! What lies there, so that others can read it:
//!
//! | key | value |
//! |---|---|
//! | `<store>:<view>:{<entity>}` | a row, packed as [`row`](super::row) says byte by byte |
//! | `<store>:<view>:applied` | how far the view's rows are whole: a version, or `building <id>` while they are not |
//!
//! - `<store>` is the store's id (`store` in the newest document under `registry/`, a uuid) as its 16 bytes in base64url without
//!   padding: 22 letters. Two stores share a Redis without meeting.
//! - `<view>` is the view's object number (`id` there) in decimal digits: a view made anew finds nothing of the one before.
//! - `<entity>` is the bytes of the entity's key, as [`key`](super::key) says, as they are. The braces make an entity's rows of all
//!   views neighbours in a cluster.
//! - A version is that of the view's history dataset, in decimal digits: the row of every entity is there and the newest up to
//!   that commit, unless its event time has not come, or it is past the view's TTL. Without this key the rows are worth nothing.
//! - A row of a view with a TTL has an expiry in Redis, an hour after its event time and the TTL, counted from the present of the gateway
//!   that writes it; it is not written at all where that has passed. This keeps memory small and decides nothing: readers judge the
//!   TTL, and whoever does not find a row past it has the same answer. A newer row brings its own expiry; the keys of applied versions
//!   have none. Rows have none either under a clock that is set by hand, and where Redis is set up to drop keys with one to save
//!   memory (`maxmemory-policy volatile-…`), or does not let us ask whether it is, since it would drop rows that live.
//! - Should Redis' clock jump ahead by more than that hour, rows that live are dropped, and nobody notices: `REFRESH ONLINE` brings
//!   them back. What it is set to otherwise is of no matter. Who raises the TTL of a view must build its rows anew.
//!
//! In a cluster each primary keeps an applied version of its own for its rows, under `<store>:<view>:applied:<slots>:{<number>}`:
//! `<slots>` stands for the slots that it serves (FNV-1a, 64 bits, of the first and last slot of each of its ranges, in order and
//! joined where they touch, as 16-bit little endian, in 16 hexadecimal digits), `<number>` is the least one whose slot is among them.
//! A view's rows are whole up to the least of these versions, and not where one is missing.
//!
//! - The version lies with the rows that it speaks for and is written after them, on one server: what that server replicates keeps this
//!   order, so a replica that is promoted without the last rows is without the last versions too, and the commits are replayed.
//! - Where the slots are served otherwise, the keys are others, and missing: the view is built anew, while lookups read the offline
//!   store. Rows are never moved from node to node by us. Versions under the keys of slots served before are removed then, so that
//!   they do not speak again once the slots are served as before.
//! - A slot that is on its way to another node is answered for by neither. Lookups of its keys that have gone read the offline store;
//!   what is written there is durable, and online once the slot has arrived. Should the migration be given up half way, `REFRESH
//!   ONLINE` brings back what went.
//! - A primary that the others have given up, and that can still be reached from here, is believed until it notices, which takes it
//!   `cluster-node-timeout`, or until the slots are next asked for, once a second.
//! - One loss is not noticed: a node that held no slots takes over all of another's by migration, and before its replica has the rows
//!   it fails over to it. The slots are served as before, so the version that moved with them still speaks. `REFRESH ONLINE` after
//!   such a move, or `tidegate audit`, makes sure.
//!
//! All else is free: a reader needs `GET` and `MGET` alone. Writers must use the scripts below, which compare first. What a gateway
//! asks for, so that a user may be given nothing else (`+name` in `ACL SETUSER`, on the keys `~<store>:*`):
//!
//! | rights | for |
//! |---|---|
//! | `ping` | signs of life |
//! | `get`, `mget`, `getrange`, `set`, `evalsha`, `script\|load` | lookups and writes; the scripts' own commands among them |
//! | `scan`, `unlink` | views that are dropped, built anew or audited |
//! | `role`, `info`, `dbsize` | that it is no replica, that it drops no rows, what `tidegate.online_store` shows; it does without these |
//! | `cluster\|slots`, `cluster\|info` | in a cluster |
//! | `select` | in a database other than 0 |
//!
//! Small lookups of a thread's connections that come at the same moment are one call of one server, as [`gather`] says.
//!
//! A Redis that is away is noticed by [`link`], and calls then fail at once. One that hangs, or answers slowly, costs a lookup
//! [`CallLimits::read`] and a write [`CallLimits::write`], never more: who waits is told, and the rows are in the offline store either
//! way. What is cut off here may still be done there, before the next call on the same connection; every call is therefore
//! harmless when it is made again. Rows that go missing take the applied version with them, or set it back, or break the
//! connection; a lookup reads it in the same step as its rows, so that none is taken for missing that was lost.

mod address;
mod calls;
mod gather;
mod link;
mod open;
mod scripts;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use redis::{ErrorKind, Script, ServerErrorKind};

use super::{BuildId, EntityKey, Epoch, Lifetime, OnlineStore, PackedRow, Page, Progress, RowKey, StoreStatus, not_whole};
use crate::error::{Error, Result, SqlState};
use crate::metrics::Durations;
use crate::registry::{ObjectId, StoreId};
use crate::time::DatasetVersion;
use address::Address;
use calls::{Keys, MGET_KEYS, Rows, WRITE_ROWS, calls_of_script, rows_of, upserts};
use link::{Failure, Link, Node, Session};
use open::{Obstacle, info_field};
use scripts::{ADVANCE, BEGIN_BUILD, UPSERT};

/// How many keys one step of a `SCAN` looks at.
const SCAN_COUNT: usize = 1000;

/// Where in the cursor of a page the number of the node stands, above the node's own cursor.
const NODE_SHIFT: u32 = 52;

/// How long a call waits that came while a slot was on its way to another node.
const MOVING_PAUSE: Duration = Duration::from_millis(20);

/// How the value of a view's applied version begins while its rows are being built.
const BUILDING: &str = "building ";

/// How long calls may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// A lookup of up to 512 keys; one of more has as much again for each further 512.
    pub read: Duration,
    /// One round trip of a write, and a script that Redis has forgotten sent again. A write of many rows has one for every 4096,
    /// and stops at the first that fails.
    pub write: Duration,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self { read: Duration::from_millis(100), write: Duration::from_secs(2) }
    }
}

/// The rows of one store, in a Redis that others may use too.
pub struct RedisStore {
    link: Link,
    limits: CallLimits,
    /// Without the password.
    address: String,
    keys: Keys,
    upsert: Script,
    advance: Script,
    begin_build: Script,
    latency: Durations,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore").field("address", &self.address).field("store", &self.keys.store).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// The rows of `store` in the Redis at `url`: `redis://`, `redis+unix://`, `redis+sentinel://` or `redis+cluster://`, with `rediss`
    /// behind TLS. Waits for nothing, so that a gateway starts while Redis is away; must be called within a tokio runtime, whose tasks
    /// drive the connections.
    pub fn connect(url: &str, store: StoreId, limits: CallLimits) -> Result<Self> {
        let address = Address::parse(url)?;
        Ok(Self {
            limits,
            address: address.to_string(),
            link: Link::new(address),
            keys: Keys { store: letters(store) },
            upsert: Script::new(UPSERT),
            advance: Script::new(ADVANCE),
            begin_build: Script::new(BEGIN_BUILD),
            latency: Durations::default(),
        })
    }

    /// What `call` brings within `limit`, the wait for a connection included, and for slots that are on their way to another node.
    async fn within<T, F>(&self, limit: Duration, call: impl Fn(Arc<Session>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let started = tokio::time::Instant::now();
        let settled = async {
            loop {
                match call(self.link.session().await?).await {
                    Err(failure) if failure.is_moved() => {
                        self.link.look_again();
                        tokio::time::sleep(MOVING_PAUSE).await;
                    }
                    outcome => return outcome,
                }
            }
        };
        let outcome = tokio::time::timeout(limit, settled).await;
        match outcome {
            Ok(Err(Failure::Away(obstacle))) => Err(Failure::Away(obstacle)),
            outcome => {
                self.latency.record(started.elapsed());
                outcome.unwrap_or(Err(Failure::Late))
            }
        }
    }

    /// What a script gives for the view's applied version on each node, with the arguments that are for that node.
    async fn on_marks<T>(
        &self,
        session: &Session,
        view: ObjectId,
        script: &Script,
        arguments: &[Vec<String>],
    ) -> Result<Vec<T>, Failure>
    where
        T: redis::FromRedisValue,
    {
        let call = async |(node, arguments): (&Node, &Vec<String>)| {
            let mut calls = redis::pipe();
            let key = self.keys.applied(view, &node.mark);
            calls.cmd("EVALSHA").arg(script.get_hash()).arg(1).arg(key).arg(arguments);
            let (answer,) = calls_of_script(node.writes.clone(), script, &calls).await?;
            Ok(answer)
        };
        try_join_all(session.nodes.iter().zip(arguments).map(call)).await
    }

    /// Removes keys of one node, each by a call of its own, as a cluster wants it.
    async fn unlink<K: redis::ToRedisArgs>(node: &Node, keys: impl IntoIterator<Item = K>) -> Result<(), Failure> {
        let mut calls = redis::pipe();
        for key in keys {
            calls.cmd("UNLINK").arg(key).ignore();
        }
        Ok(calls.query_async(&mut node.writes.clone()).await?)
    }

    /// One step of looking at all keys of a node: those that match among them, and where the next step begins.
    async fn scan(&self, node: &Node, pattern: &str, cursor: u64) -> Result<(Vec<Vec<u8>>, Option<u64>), Failure> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT);
        let (next, keys): (u64, _) = scan.query_async(&mut node.writes.clone()).await?;
        Ok((keys, (next != 0).then_some(next)))
    }

    /// Removes all keys that match but `kept` from every node that is there now. Each step has the time of a write.
    async fn remove(&self, pattern: &str, kept: &[String]) -> Result<()> {
        let nodes = self.within(self.limits.write, async |session| Ok(session.nodes.len())).await.map_err(could_not_write)?;
        for place in 0..nodes {
            let mut cursor = Some(0);
            while let Some(from) = cursor {
                let step = async |session: Arc<Session>| {
                    // The nodes of another epoch hold nothing that counts of this one.
                    let Some(node) = session.nodes.get(place) else { return Ok(None) };
                    let (keys, next) = self.scan(node, pattern, from).await?;
                    let kept = |key: &Vec<u8>| kept.iter().any(|kept| kept.as_bytes() == key);
                    let gone: Vec<_> = keys.into_iter().filter(|key| !kept(key)).collect();
                    if !gone.is_empty() {
                        Self::unlink(node, gone).await?;
                    }
                    Ok(next)
                };
                cursor = self.within(self.limits.write, step).await.map_err(could_not_write)?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl OnlineStore for RedisStore {
    fn epoch(&self) -> Option<Epoch> {
        self.link.epoch()
    }

    async fn connected(&self) -> Result<Epoch> {
        let call = async |session: Arc<Session>| Ok(session.epoch);
        self.within(self.limits.read, call).await.map_err(could_not_read)
    }

    async fn get(&self, keys: &[RowKey], epoch: Epoch) -> Result<Vec<Option<PackedRow>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let limit = self.limits.read.saturating_mul(u32::try_from(keys.len().div_ceil(MGET_KEYS)).unwrap_or(u32::MAX));
        let call = async |session: Arc<Session>| {
            if session.epoch != epoch {
                return Err(Failure::OtherEpoch);
            }
            match rows_of(&session, &self.keys, keys).await {
                // A row that has gone to another node is in the offline store too.
                Err(failure) if failure.is_moved() => {
                    self.link.look_again();
                    Err(Failure::OtherEpoch)
                }
                answer => answer,
            }
        };
        let rows = self.within(limit, call).await.map_err(could_not_read)?;
        rows.into_iter().map(|row| row.map(|row| PackedRow::from_bytes(Bytes::from(row))).transpose()).collect()
    }

    async fn upsert(&self, view: ObjectId, rows: &[(EntityKey, PackedRow)], lifetime: Option<Lifetime>) -> Result<usize> {
        let mut kept = 0;
        for rows in rows.chunks(WRITE_ROWS) {
            let call = async |session: Arc<Session>| {
                let lifetime = lifetime.filter(|_| session.rows_may_expire);
                let calls = upserts(&session, &self.keys, &self.upsert, Rows { view, rows, lifetime });
                let send = async |(node, calls): (&Node, redis::Pipeline)| {
                    if calls.is_empty() {
                        return Ok(0);
                    }
                    let counts: Vec<usize> = calls_of_script(node.writes.clone(), &self.upsert, &calls).await?;
                    Ok::<_, Failure>(counts.into_iter().sum::<usize>())
                };
                try_join_all(session.nodes.iter().zip(calls).map(send)).await
            };
            kept += self.within(self.limits.write, call).await.map_err(could_not_write)?.into_iter().sum::<usize>();
        }
        Ok(kept)
    }

    async fn applied(&self, view: ObjectId) -> Result<Option<DatasetVersion>> {
        let call = async |session: Arc<Session>| {
            let get = async |node: &Node| {
                let mut get = redis::cmd("GET");
                get.arg(self.keys.applied(view, &node.mark));
                Ok::<Option<String>, Failure>(get.query_async(&mut node.lookups.clone()).await?)
            };
            try_join_all(session.nodes.iter().map(get)).await
        };
        let applied = self.within(self.limits.read, call).await.map_err(could_not_read)?;
        let versions: Option<Vec<u64>> = applied.into_iter().map(|applied| applied?.parse().ok()).collect();
        Ok(versions.and_then(|versions| versions.into_iter().min()).map(DatasetVersion))
    }

    async fn begin_build(&self, view: ObjectId) -> Result<BuildId> {
        let call = async |session: Arc<Session>| {
            let kept: Vec<_> = session.nodes.iter().map(|node| self.keys.applied(view, &node.mark)).collect();
            Ok((session.slots.is_some(), kept))
        };
        let (in_cluster, kept) = self.within(self.limits.write, call).await.map_err(could_not_write)?;
        if in_cluster {
            self.remove(&self.keys.all_applied(view), &kept).await?;
        }
        let call = async |session: Arc<Session>| {
            let mark = || format!("{BUILDING}{}", uuid::Uuid::new_v4());
            let marks: Vec<_> = session.nodes.iter().map(|_| vec![mark()]).collect();
            self.on_marks::<String>(&session, view, &self.begin_build, &marks).await
        };
        let marks = self.within(self.limits.write, call).await.map_err(could_not_write)?;
        Ok(BuildId(marks.join("\n")))
    }

    async fn advance(&self, view: ObjectId, from: &Progress, to: DatasetVersion, epoch: Epoch) -> Result<bool> {
        let call = async |session: Arc<Session>| {
            if session.epoch != epoch {
                return Err(Failure::OtherEpoch);
            }
            let from: Vec<String> = match from {
                Progress::Through(version) => vec![version.to_string(); session.nodes.len()],
                Progress::Building(BuildId(marks)) => marks.lines().map(str::to_owned).collect(),
            };
            if from.len() != session.nodes.len() {
                return Err(Failure::OtherEpoch);
            }
            let arguments: Vec<_> = from.into_iter().map(|from| vec![from, to.to_string()]).collect();
            self.on_marks::<bool>(&session, view, &self.advance, &arguments).await
        };
        match self.within(self.limits.write, call).await {
            Ok(moved) => Ok(moved.into_iter().all(|moved| moved)),
            Err(Failure::OtherEpoch) => Ok(false),
            Err(failure) => Err(could_not_write(failure)),
        }
    }

    async fn clear(&self, view: ObjectId) -> Result<()> {
        // First the applied versions: from here on nobody takes the rows for whole.
        let call = async |session: Arc<Session>| {
            let unlink = |node| Self::unlink(node, [self.keys.applied(view, &node.mark)]);
            try_join_all(session.nodes.iter().map(unlink)).await
        };
        self.within(self.limits.write, call).await.map_err(could_not_write)?;
        self.remove(&self.keys.all_rows(view), &[]).await
    }

    async fn page(&self, view: ObjectId, cursor: u64) -> Result<Page> {
        let (place, from) = (cursor >> NODE_SHIFT, cursor & ((1 << NODE_SHIFT) - 1));
        let pattern = self.keys.all_rows(view);
        let call = async |session: Arc<Session>| {
            let node = usize::try_from(place).ok().and_then(|place| session.nodes.get(place));
            // Where there are fewer nodes than there were, rows went missing from this look, as its end finds.
            let Some(node) = node else { return Ok((Vec::new(), Vec::new(), None)) };
            let (keys, next) = self.scan(node, &pattern, from).await?;
            let more = usize::try_from(place + 1).is_ok_and(|place| place < session.nodes.len());
            let next = next.map(|next| place << NODE_SHIFT | next).or(more.then_some((place + 1) << NODE_SHIFT));
            let mut calls = redis::pipe();
            for key in &keys {
                calls.cmd("GET").arg(key);
            }
            let rows: Vec<Option<Vec<u8>>> = match keys.is_empty() {
                true => Vec::new(),
                false => calls.query_async(&mut node.writes.clone()).await?,
            };
            Ok((keys, rows, next))
        };
        let (keys, rows, next) = self.within(self.limits.write, call).await.map_err(could_not_read)?;
        let mut page = Page { rows: Vec::with_capacity(keys.len()), next };
        for (key, row) in keys.into_iter().zip(rows) {
            let Some(row) = row else { continue };
            page.rows.push((self.keys.entity(view, &key), PackedRow::from_bytes(Bytes::from(row))?));
        }
        Ok(page)
    }

    async fn status(&self) -> StoreStatus {
        let mut questions = redis::pipe();
        questions.cmd("INFO").arg("memory").cmd("DBSIZE");
        let call = async |session: Arc<Session>| {
            // Who may not ask this of the server can use it all the same.
            let ask = async |node: &Node| match questions.query_async::<(String, u64)>(&mut node.lookups.clone()).await {
                Err(error) if error.is_io_error() => Err(Failure::from(error)),
                answer => Ok(answer.ok()),
            };
            Ok((session.version.clone(), try_join_all(session.nodes.iter().map(ask)).await?))
        };
        let answer = self.within(self.limits.read, call).await;
        let (latency_p50, latency_p99) = self.latency.quantiles();
        let status = StoreStatus {
            kind: "redis",
            address: Some(self.address.clone()),
            latency_p50,
            latency_p99,
            ..StoreStatus::default()
        };
        match answer {
            Ok((version, answers)) => {
                // Of a cluster, all of it, or nothing.
                let answers: Vec<(String, u64)> = answers.into_iter().collect::<Option<_>>().unwrap_or_default();
                let memory = |info: &str| info_field(info, "used_memory").and_then(|bytes| bytes.parse::<u64>().ok());
                let memory_bytes = answers.iter().map(|(info, _)| memory(info)).sum::<Option<u64>>();
                let keys = answers.iter().map(|(_, keys)| keys).sum();
                let known = !answers.is_empty();
                let (memory_bytes, keys) = (memory_bytes.filter(|_| known), known.then_some(keys));
                StoreStatus { version, connected: true, memory_bytes, keys, ..status }
            }
            Err(failure) => StoreStatus { obstacle: Some(detail_of(&failure)), ..status },
        }
    }
}

fn could_not_read(failure: Failure) -> Error {
    if matches!(failure, Failure::OtherEpoch) {
        return not_whole();
    }
    report("could not read from the online store", failure).hint("Retry, or SET tidegate.online_fallback = offline.")
}

fn could_not_write(failure: Failure) -> Error {
    report("could not write to the online store", failure)
}

fn report(message: &str, failure: Failure) -> Error {
    let error = Error::new(SqlState::IoError, message).detail(detail_of(&failure));
    match failure {
        Failure::Redis(source) => error.caused_by(source),
        Failure::Late | Failure::Away(_) | Failure::OtherEpoch => error,
    }
}

/// What a client may know of a failure: neither where the server is nor what it says.
fn detail_of(failure: &Failure) -> String {
    match failure {
        Failure::Away(obstacle) => obstacle.to_string(),
        Failure::Late => "It did not answer in time.".to_owned(),
        Failure::OtherEpoch => "The connection broke.".to_owned(),
        Failure::Redis(error) if error.is_io_error() => "The connection broke.".to_owned(),
        Failure::Redis(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ClusterDown) => {
            Obstacle::ClusterDown.to_string()
        }
        Failure::Redis(error) if error.code() == Some("OOM") => "It is full.".to_owned(),
        Failure::Redis(_) => "It refused the command.".to_owned(),
    }
}

/// The id in base64url without padding.
fn letters(store: StoreId) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = store.0.as_u128();
    // 21 groups of six bits from the top, and the last two bits with four zeros.
    let groups = (0..22_u32).map(|group| if group < 21 { bits >> (122 - 6 * group) } else { bits << 4 } & 63);
    groups.map(|group| char::from(ALPHABET[usize::try_from(group).unwrap_or(0)])).collect()
}

#[cfg(test)]
mod tests;
