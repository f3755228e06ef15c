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
//!   that commit, unless its event time has not come. Without this key the rows are worth nothing.
//!
//! All else is free: a reader needs `GET` and `MGET` alone. Writers must use the scripts below, which compare first.
//!
//! A Redis that is away is noticed by [`link`], and calls then fail at once. One that hangs, or answers slowly, costs a lookup
//! [`CallLimits::read`] and a write [`CallLimits::write`], never more: who waits is told, and the rows are in the offline store either
//! way. What is cut off here may still be done there, before the next call on the same connection; every call is therefore
//! harmless when it is made again. Rows that go missing take the applied version with them, or set it back, or break the
//! connection; a lookup reads it in the same step as its rows, so that none is taken for missing that was lost.

mod address;
mod link;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, Script, ServerErrorKind};

use super::{BuildId, EntityKey, Epoch, OnlineStore, PackedRow, Page, Progress, RowKey, StoreStatus, not_whole};
use crate::error::{Error, Result, SqlState};
use crate::metrics::Durations;
use crate::registry::{ObjectId, StoreId};
use crate::time::DatasetVersion;
use address::Address;
use link::{Failure, Link, Session, info_field};

/// How many keys one `MGET` names: Redis answers nobody else meanwhile, for less than a millisecond.
const MGET_KEYS: usize = 512;

/// How many rows one call of the script compares: Redis answers nobody else meanwhile, for about a millisecond.
const SCRIPT_ROWS: usize = 256;

/// How many calls of the script travel together.
const PIPELINE_CALLS: usize = 16;

/// How many keys one step of a `SCAN` looks at.
const SCAN_COUNT: usize = 1000;

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

/// Keeps each row of ARGV under its key if it is newer than the row there; gives how many it kept.
///
/// Lua's numbers are doubles and not exact beyond 2^53, so the three 64-bit numbers that order rows are compared by halves,
/// the upper ones signed.
const UPSERT: &str = r"
local kept = 0
for i, key in ipairs(KEYS) do
    local old = redis.call('GETRANGE', key, 4, 27)
    local newer = #old < 24
    if not newer then
        local a = {struct.unpack('<I4i4I4i4I4i4', ARGV[i], 5)}
        local b = {struct.unpack('<I4i4I4i4I4i4', old)}
        for _, half in ipairs({2, 1, 4, 3, 6, 5}) do
            if a[half] ~= b[half] then
                newer = a[half] > b[half]
                break
            end
        end
    end
    if newer then
        redis.call('SET', key, ARGV[i])
        kept = kept + 1
    end
end
return kept
";

/// Sets the applied version to ARGV[2] if it is ARGV[1], or a version between the two; gives whether it is that far now.
///
/// Versions are decimal digits without leading zeros: they may be wider than Lua's numbers, and are compared as text.
const ADVANCE: &str = r"
local function reaches(a, b)
    return #a > #b or (#a == #b and a >= b)
end
local current = redis.call('GET', KEYS[1])
if not current then
    return 0
end
local versions = string.sub(current, 1, 1) ~= 'b' and string.sub(ARGV[1], 1, 1) ~= 'b'
if string.sub(current, 1, 1) ~= 'b' and reaches(current, ARGV[2]) then
    return 1
end
if current == ARGV[1] or (versions and reaches(current, ARGV[1])) then
    redis.call('SET', KEYS[1], ARGV[2])
    return 1
end
return 0
";

/// Marks a building, unless one is marked already; gives the mark that holds.
const BEGIN_BUILD: &str = r"
local current = redis.call('GET', KEYS[1])
if current and string.sub(current, 1, 1) == 'b' then
    return current
end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
";

/// The rows of one store, in a Redis that others may use too.
pub struct RedisStore {
    link: Link,
    limits: CallLimits,
    /// Without the password.
    address: String,
    /// The letters that all keys start with.
    store: String,
    upsert: Script,
    advance: Script,
    begin_build: Script,
    latency: Durations,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore").field("address", &self.address).field("store", &self.store).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// The rows of `store` in the Redis at `url`: `redis://`, `redis+unix://` or `redis+sentinel://`, as [`address`] says. Waits
    /// for nothing, so that a gateway starts while Redis is away; must be called within a tokio runtime, whose tasks drive the
    /// connections.
    pub fn connect(url: &str, store: StoreId, limits: CallLimits) -> Result<Self> {
        let address = Address::parse(url)?;
        Ok(Self {
            limits,
            address: address.to_string(),
            link: Link::new(address),
            store: letters(store),
            upsert: Script::new(UPSERT),
            advance: Script::new(ADVANCE),
            begin_build: Script::new(BEGIN_BUILD),
            latency: Durations::default(),
        })
    }

    fn row_prefix(&self, view: ObjectId) -> String {
        format!("{}:{view}:{{", self.store)
    }

    fn row_key(&self, view: ObjectId, entity: &EntityKey) -> Vec<u8> {
        let mut key = self.row_prefix(view).into_bytes();
        key.extend_from_slice(entity.as_bytes());
        key.push(b'}');
        key
    }

    fn applied_key(&self, view: ObjectId) -> String {
        format!("{}:{view}:applied", self.store)
    }

    /// What `call` brings within `limit`, the wait for a connection included.
    async fn within<T, F>(&self, limit: Duration, call: impl FnOnce(Arc<Session>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let started = tokio::time::Instant::now();
        let outcome = tokio::time::timeout(limit, async { call(self.link.session().await?).await }).await;
        match outcome {
            Ok(Err(Failure::Away(obstacle))) => Err(Failure::Away(obstacle)),
            outcome => {
                self.latency.record(started.elapsed());
                outcome.unwrap_or(Err(Failure::Late))
            }
        }
    }

    /// As [`RedisStore::within`], a write.
    async fn write<T, F>(&self, call: impl FnOnce(MultiplexedConnection) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.within(self.limits.write, |session| call(session.writes.clone())).await.map_err(could_not_write)
    }

    async fn unlink(&self, call: &redis::Cmd) -> Result<()> {
        self.write(async |mut connection| Ok(call.query_async::<usize>(&mut connection).await?)).await.map(drop)
    }

    /// One step of looking at all keys: those of the view's rows among them, and where the next step begins.
    async fn scan(&self, view: ObjectId, cursor: u64) -> Result<(Vec<Vec<u8>>, Option<u64>)> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{}*", self.row_prefix(view))).arg("COUNT").arg(SCAN_COUNT);
        let call = async |session: Arc<Session>| Ok(scan.query_async(&mut session.writes.clone()).await?);
        let (next, keys): (u64, _) = self.within(self.limits.write, call).await.map_err(could_not_read)?;
        Ok((keys, (next != 0).then_some(next)))
    }

    /// The `MGET`s of a lookup. The applied versions of its views come last: rows that go missing before they are read are
    /// noticed by them.
    fn lookup(&self, keys: &[RowKey], views: &[ObjectId]) -> redis::Pipeline {
        let mut calls = redis::pipe();
        let mut named = 0;
        for chunk in keys.chunks(MGET_KEYS) {
            let call = calls.cmd("MGET");
            for key in chunk {
                call.arg(self.row_key(key.view, &key.entity));
            }
            named += chunk.len();
            if named == keys.len() {
                for view in views {
                    call.arg(self.applied_key(*view));
                }
            }
        }
        calls
    }
}

/// The views that keys are of, each once.
fn views_of(keys: &[RowKey]) -> Vec<ObjectId> {
    let mut views: Vec<ObjectId> = Vec::new();
    for key in keys {
        if views.last() != Some(&key.view) && !views.contains(&key.view) {
            views.push(key.view);
        }
    }
    views
}

/// A script's call, sent again with its text where Redis has forgotten it.
async fn calls_of_script<T: redis::FromRedisValue>(
    mut connection: MultiplexedConnection,
    script: &Script,
    calls: &redis::Pipeline,
) -> Result<T, Failure> {
    match calls.query_async(&mut connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            script.load_async(&mut connection).await?;
            Ok(calls.query_async(&mut connection).await?)
        }
        answer => Ok(answer?),
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
        let views = views_of(keys);
        // All travel together: Redis serves others between them.
        let calls = self.lookup(keys, &views);
        let limit = self.limits.read.saturating_mul(u32::try_from(keys.len().div_ceil(MGET_KEYS)).unwrap_or(u32::MAX));
        let call = async |session: Arc<Session>| {
            if session.epoch != epoch {
                return Err(Failure::OtherEpoch);
            }
            Ok(calls.query_async(&mut session.lookups.clone()).await?)
        };
        let mut values: Vec<Vec<Option<Vec<u8>>>> = self.within(limit, call).await.map_err(could_not_read)?;
        let last = values.last_mut().map_or_else(Vec::new, |last| last.split_off(last.len().saturating_sub(views.len())));
        if last.len() != views.len() || !last.iter().all(|applied| applied.as_deref().is_some_and(is_version)) {
            return Err(not_whole());
        }
        values.into_iter().flatten().map(|row| row.map(|row| PackedRow::from_bytes(Bytes::from(row))).transpose()).collect()
    }

    async fn upsert(&self, view: ObjectId, rows: &[(EntityKey, PackedRow)]) -> Result<usize> {
        let mut kept = 0;
        for rows in rows.chunks(SCRIPT_ROWS * PIPELINE_CALLS) {
            let mut calls = redis::pipe();
            for rows in rows.chunks(SCRIPT_ROWS) {
                let call = calls.cmd("EVALSHA").arg(self.upsert.get_hash()).arg(rows.len());
                for (entity, _) in rows {
                    call.arg(self.row_key(view, entity));
                }
                for (_, row) in rows {
                    call.arg(row.as_bytes().as_ref());
                }
            }
            let counts: Vec<usize> =
                self.write(async |connection| calls_of_script(connection, &self.upsert, &calls).await).await?;
            kept += counts.iter().sum::<usize>();
        }
        Ok(kept)
    }

    async fn applied(&self, view: ObjectId) -> Result<Option<DatasetVersion>> {
        let mut get = redis::cmd("GET");
        get.arg(self.applied_key(view));
        let call = async |session: Arc<Session>| Ok(get.query_async(&mut session.lookups.clone()).await?);
        let applied: Option<String> = self.within(self.limits.read, call).await.map_err(could_not_read)?;
        Ok(applied.and_then(|applied| applied.parse().ok()).map(DatasetVersion))
    }

    async fn begin_build(&self, view: ObjectId) -> Result<BuildId> {
        let mut calls = redis::pipe();
        let mark = format!("{BUILDING}{}", uuid::Uuid::new_v4());
        calls.cmd("EVALSHA").arg(self.begin_build.get_hash()).arg(1).arg(self.applied_key(view)).arg(mark);
        let (mark,) = self.write(async |connection| calls_of_script(connection, &self.begin_build, &calls).await).await?;
        Ok(BuildId(mark))
    }

    async fn advance(&self, view: ObjectId, from: &Progress, to: DatasetVersion, epoch: Epoch) -> Result<bool> {
        let from = match from {
            Progress::Through(version) => version.to_string(),
            Progress::Building(BuildId(mark)) => mark.clone(),
        };
        let mut calls = redis::pipe();
        calls.cmd("EVALSHA").arg(self.advance.get_hash()).arg(1).arg(self.applied_key(view)).arg(from).arg(to.to_string());
        let call = async |session: Arc<Session>| {
            if session.epoch != epoch {
                return Err(Failure::OtherEpoch);
            }
            calls_of_script::<(bool,)>(session.writes.clone(), &self.advance, &calls).await
        };
        match self.within(self.limits.write, call).await {
            Ok((moved,)) => Ok(moved),
            Err(Failure::OtherEpoch) => Ok(false),
            Err(failure) => Err(could_not_write(failure)),
        }
    }

    async fn clear(&self, view: ObjectId) -> Result<()> {
        // First the applied version: from here on nobody takes the rows for whole.
        self.unlink(redis::cmd("UNLINK").arg(self.applied_key(view))).await?;
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            let (keys, next) = self.scan(view, from).await?;
            if !keys.is_empty() {
                self.unlink(redis::cmd("UNLINK").arg(keys)).await?;
            }
            cursor = next;
        }
        Ok(())
    }

    async fn page(&self, view: ObjectId, cursor: u64) -> Result<Page> {
        let (keys, next) = self.scan(view, cursor).await?;
        if keys.is_empty() {
            return Ok(Page { rows: Vec::new(), next });
        }
        let mut mget = redis::cmd("MGET");
        mget.arg(&keys);
        let call = async |session: Arc<Session>| Ok(mget.query_async(&mut session.writes.clone()).await?);
        let rows: Vec<Option<Vec<u8>>> = self.within(self.limits.write, call).await.map_err(could_not_read)?;
        let prefix = self.row_prefix(view).len();
        let mut page = Page { rows: Vec::with_capacity(keys.len()), next };
        for (key, row) in keys.into_iter().zip(rows) {
            let Some(row) = row else { continue };
            let entity = key.get(prefix..key.len().saturating_sub(1)).unwrap_or_default();
            page.rows.push((EntityKey::from_bytes(Bytes::copy_from_slice(entity)), PackedRow::from_bytes(Bytes::from(row))?));
        }
        Ok(page)
    }

    async fn status(&self) -> StoreStatus {
        let mut questions = redis::pipe();
        questions.cmd("INFO").arg("memory").cmd("DBSIZE");
        let call = async |session: Arc<Session>| {
            // Who may not ask this of the server can use it all the same.
            let answer = questions.query_async::<(String, u64)>(&mut session.lookups.clone()).await;
            match answer {
                Err(error) if error.is_io_error() => Err(Failure::from(error)),
                answer => Ok((session.version.clone(), answer.ok())),
            }
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
            Ok((version, answer)) => {
                let memory_bytes =
                    answer.as_ref().and_then(|(info, _)| info_field(info, "used_memory").and_then(|bytes| bytes.parse().ok()));
                StoreStatus { version, connected: true, memory_bytes, keys: answer.map(|(_, keys)| keys), ..status }
            }
            Err(failure) => StoreStatus { obstacle: Some(detail_of(&failure)), ..status },
        }
    }
}

/// Whether the value of an applied version is one.
fn is_version(applied: &[u8]) -> bool {
    applied.first().is_some_and(u8::is_ascii_digit)
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
