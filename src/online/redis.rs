//! The online store in Redis.
//!
//! | key | value |
//! |---|---|
//! | `<store>:<view>:{<entity>}` | a packed row |
//! | `<store>:<view>:applied` | the applied version, in decimal digits |
//!
//! `<store>` is the store's id in base64url, 22 letters, and `<view>` the view's number, so that two stores share a Redis without
//! meeting and a view made anew finds nothing of the one before. The braces make an entity's rows of all views neighbours in a
//! cluster. The connection is made by the first call and made again after it broke.
//!
//! A Redis that hangs, or answers slowly, costs a lookup [`READ_TIMEOUT`] and a write [`WRITE_TIMEOUT`], never more: who waits is
//! told, and the rows are in the offline store either way. What is cut off here may still be done there, before the next call on
//! the same connection; every call is therefore harmless when it is made again.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{ErrorKind, IntoConnectionInfo, RedisError, Script, ServerErrorKind};

use super::{EntityKey, OnlineStore, PackedRow, READ_TIMEOUT, RowKey};
use crate::error::{Error, Result, SqlState};
use crate::registry::{ObjectId, StoreId};
use crate::time::DatasetVersion;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one round trip of a write may take, connecting included, and a script that Redis has forgotten sent again. A write has
/// one for every [`SCRIPT_ROWS`] times [`PIPELINE_CALLS`] rows, and stops at the first that fails.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the other machine may leave what was sent unacknowledged before the connection counts as broken and is made again: a
/// Redis that hangs still acknowledges, a machine that is gone does not.
#[cfg(target_os = "linux")]
const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many keys one `MGET` names: Redis answers nobody else meanwhile, for less than a millisecond.
const MGET_KEYS: usize = 512;

/// How many rows one call of the script compares: Redis answers nobody else meanwhile, for about a millisecond.
const SCRIPT_ROWS: usize = 256;

/// How many calls of the script travel together.
const PIPELINE_CALLS: usize = 16;

/// How many keys one step of a `SCAN` looks at.
const SCAN_COUNT: usize = 1000;

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

/// Sets the key to ARGV[2] if it is ARGV[1], where the empty text stands for a key that is not there; gives whether it did.
const ADVANCE: &str = r"
local current = redis.call('GET', KEYS[1]) or ''
if current ~= ARGV[1] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
";

/// The rows of one store, in a Redis that others may use too.
pub struct RedisStore {
    connection: ConnectionManager,
    /// The letters that all keys start with.
    store: String,
    upsert: Script,
    advance: Script,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore").field("store", &self.store).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// The rows of `store` in the Redis at `url` (`redis://host:port`, `redis+unix:///path`). Does no IO, so that a gateway
    /// starts while Redis is away; must be called within a tokio runtime, whose tasks drive the connection.
    pub fn connect(url: &str, store: StoreId) -> Result<Self> {
        let unusable = |source: RedisError| {
            Error::new(SqlState::ConfigFileError, "the address of the online store is not one of a Redis")
                .hint("Give it as redis://host:port or redis+unix:///path.")
                .caused_by(source)
        };
        // A lookup is one small message that must not wait for a second to travel with.
        let settings = TcpSettings::default().set_nodelay(true);
        #[cfg(target_os = "linux")]
        let settings = settings.set_user_timeout(SILENCE_TIMEOUT);
        let info = url.into_connection_info().map_err(unusable)?.set_tcp_settings(settings);
        let client = redis::Client::open(info).map_err(unusable)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(WRITE_TIMEOUT))
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_millis(200))
            .set_pipeline_buffer_size(1024)
            .set_write_backpressure_boundary(64 << 10);
        let connection = client.get_connection_manager_lazy(config).map_err(unusable)?;
        Ok(Self { connection, store: letters(store), upsert: Script::new(UPSERT), advance: Script::new(ADVANCE) })
    }

    fn row_key(&self, view: ObjectId, entity: &EntityKey) -> Vec<u8> {
        let mut key = format!("{}:{view}:{{", self.store).into_bytes();
        key.extend_from_slice(entity.as_bytes());
        key.push(b'}');
        key
    }

    fn applied_key(&self, view: ObjectId) -> String {
        format!("{}:{view}:applied", self.store)
    }

    /// One round trip of calls of the upsert script, which Redis is given again where it has forgotten it.
    async fn upsert_calls(&self, calls: &redis::Pipeline) -> std::result::Result<Vec<usize>, RedisError> {
        let mut connection = self.connection.clone();
        match calls.query_async(&mut connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.upsert.load_async(&mut connection).await?;
                calls.query_async(&mut connection).await
            }
            counts => counts,
        }
    }

    /// Each step has the limit of a write; there are as many as Redis has keys, by [`SCAN_COUNT`].
    async fn clear_keys(&self, view: ObjectId) -> std::result::Result<(), Failure> {
        // First the applied version: from here on nobody takes the rows for whole.
        self.unlink(redis::cmd("UNLINK").arg(self.applied_key(view))).await?;
        let pattern = format!("{}:{view}:*", self.store);
        let mut cursor: u64 = 0;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_COUNT);
            let mut connection = self.connection.clone();
            let (next, keys): (u64, Vec<Vec<u8>>) = limited(WRITE_TIMEOUT, scan.query_async(&mut connection)).await?;
            if !keys.is_empty() {
                self.unlink(redis::cmd("UNLINK").arg(keys)).await?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    async fn unlink(&self, call: &redis::Cmd) -> std::result::Result<(), Failure> {
        limited(WRITE_TIMEOUT, call.query_async::<usize>(&mut self.connection.clone())).await.map(drop)
    }
}

#[async_trait]
impl OnlineStore for RedisStore {
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<PackedRow>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        // All travel together: Redis serves others between them.
        let mut calls = redis::pipe();
        for keys in keys.chunks(MGET_KEYS) {
            let call = calls.cmd("MGET");
            for key in keys {
                call.arg(self.row_key(key.view, &key.entity));
            }
        }
        let mut connection = self.connection.clone();
        let rows: Vec<Vec<Option<Vec<u8>>>> =
            limited(READ_TIMEOUT, calls.query_async(&mut connection)).await.map_err(could_not_read)?;
        rows.into_iter().flatten().map(|row| row.map(|row| PackedRow::from_bytes(Bytes::from(row))).transpose()).collect()
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
            let counts = limited(WRITE_TIMEOUT, self.upsert_calls(&calls)).await.map_err(could_not_write)?;
            kept += counts.iter().sum::<usize>();
        }
        Ok(kept)
    }

    async fn applied(&self, view: ObjectId) -> Result<Option<DatasetVersion>> {
        let mut connection = self.connection.clone();
        let mut get = redis::cmd("GET");
        let get = get.arg(self.applied_key(view)).query_async::<Option<u64>>(&mut connection);
        Ok(limited(READ_TIMEOUT, get).await.map_err(could_not_read)?.map(DatasetVersion))
    }

    async fn advance(&self, view: ObjectId, from: Option<DatasetVersion>, to: DatasetVersion) -> Result<bool> {
        let mut connection = self.connection.clone();
        let from = from.map_or(String::new(), |from| from.to_string());
        let mut call = self.advance.key(self.applied_key(view));
        let call = call.arg(from).arg(to.to_string());
        limited(WRITE_TIMEOUT, call.invoke_async(&mut connection)).await.map_err(could_not_write)
    }

    async fn clear(&self, view: ObjectId) -> Result<()> {
        self.clear_keys(view).await.map_err(could_not_write)
    }
}

/// Why a call brought nothing.
enum Failure {
    /// Redis, or the way there.
    Redis(RedisError),
    /// It took too long.
    Late,
}

async fn limited<T>(limit: Duration, call: impl Future<Output = std::result::Result<T, RedisError>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, call).await {
        Ok(Err(error)) if error.is_timeout() => Err(Failure::Late),
        Ok(answer) => answer.map_err(Failure::Redis),
        Err(_late) => Err(Failure::Late),
    }
}

fn could_not_read(failure: Failure) -> Error {
    report("could not read from the online store", failure).hint("Retry, or SET tidegate.online_fallback = offline.")
}

fn could_not_write(failure: Failure) -> Error {
    report("could not write to the online store", failure)
}

fn report(message: &str, failure: Failure) -> Error {
    let error = Error::new(SqlState::IoError, message);
    match failure {
        Failure::Redis(source) => error.caused_by(source),
        Failure::Late => error.detail("It did not answer in time.").caused_by("the call took too long"),
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
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_store_has_these_letters() {
        let id = uuid::Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        assert_eq!(letters(StoreId(id)), "ABEiM0RVZneImaq7zN3u_w");
        assert_eq!(letters(StoreId(uuid::Uuid::nil())), "A".repeat(22));
    }
}
