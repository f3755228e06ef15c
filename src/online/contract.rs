//! What every online store keeps to, run on each of them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array};
use uuid::Uuid;

use super::key::entity_keys;
use super::*;
use crate::error::SqlState;
use crate::registry::{KeyColumn, StoreId};
use crate::time::{CommitTime, EventTime};
use crate::types::SqlType;

const VIEW: ObjectId = ObjectId(16_384);
const OTHER: ObjectId = ObjectId(16_385);

/// A Redis of its own on a socket in a folder of its own, stopped when dropped.
pub(crate) struct RedisServer {
    child: Child,
    folder: tempfile::TempDir,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Self::run(folder.path());
        Self { child, folder }
    }

    fn run(folder: &Path) -> Child {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
        command.arg(folder.join("redis.sock")).arg("--dir").arg(folder).stdout(Stdio::null());
        let child = command.spawn().expect("redis-server is not installed: apt-get install redis-server");
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(folder.join("redis.sock")).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("redis.sock").display())
    }

    pub(crate) fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Makes it hang, as a machine that swaps does: connections stay, answers do not come.
    fn pause(&self) {
        self.signal("-STOP");
    }

    fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        // The shell's own `kill`: the program is not on every machine.
        let kill = format!("kill {signal} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Starts it again, empty.
    pub(crate) fn start_again(&mut self) {
        std::fs::remove_file(self.folder.path().join("redis.sock")).ok();
        self.child = Self::run(self.folder.path());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn entity(id: i64) -> EntityKey {
    let keys = [KeyColumn { name: "k".into(), data_type: SqlType::BigInt }];
    let column: ArrayRef = Arc::new(Int64Array::from(vec![id]));
    entity_keys(&keys, &[column]).unwrap().remove(0).unwrap()
}

fn key(view: ObjectId, id: i64) -> RowKey {
    RowKey { view, entity: entity(id) }
}

/// A row of this version that says `note`.
fn row(event_time: i64, created_time: i64, sequence: i64, note: u8) -> PackedRow {
    let mut bytes = vec![1, 0, 0, 0];
    for number in [event_time, created_time, sequence] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.push(note);
    PackedRow::from_bytes(bytes.into()).unwrap()
}

async fn contract(store: Arc<dyn OnlineStore>) {
    keeps_the_newest(&store).await;
    keeps_views_apart(&store).await;
    moves_the_applied_version_only_from_where_it_is(&store).await;
    races_end_with_the_newest(&store).await;
    takes_many_rows(&store).await;
    takes_any_bytes_for_a_key(&store).await;
    tells_wide_numbers_apart(&store).await;
}

async fn keeps_the_newest(store: &Arc<dyn OnlineStore>) {
    store.clear(VIEW).await.unwrap();
    assert_eq!(store.get(&[]).await.unwrap(), []);
    assert_eq!(store.get(&[key(VIEW, 1), key(VIEW, 2)]).await.unwrap(), [None, None]);
    // In ascending order; neighbours differ by what a double cannot tell apart, or by sign, or in a lower number only.
    let wide = 1_i64 << 60;
    let ascending = [
        row(i64::MIN, i64::MAX, i64::MAX, 0),
        row(-wide - 1, 0, 0, 1),
        row(-wide, 0, 0, 2),
        row(-1, 5, 0, 3),
        row(0, 4, 0, 4),
        row(wide, 0, 0, 5),
        row(wide + 1, 0, 0, 6),
        row(wide + 1, wide, 9, 7),
        row(wide + 1, wide + 1, wide, 8),
        row(wide + 1, wide + 1, wide + 1, 9),
        row(i64::MAX, i64::MIN, i64::MIN, 10),
    ];
    for newer in 0..ascending.len() {
        for older in 0..ascending.len() {
            store.clear(VIEW).await.unwrap();
            assert_eq!(store.upsert(VIEW, &[(entity(1), ascending[older].clone())]).await.unwrap(), 1);
            let kept = store.upsert(VIEW, &[(entity(1), ascending[newer].clone())]).await.unwrap();
            assert_eq!(kept, usize::from(newer > older), "{newer} over {older}");
            let expected = ascending[newer.max(older)].clone();
            assert_eq!(store.get(&[key(VIEW, 1)]).await.unwrap(), [Some(expected)], "{newer} over {older}");
        }
    }
}

async fn keeps_views_apart(store: &Arc<dyn OnlineStore>) {
    store.clear(VIEW).await.unwrap();
    store.clear(OTHER).await.unwrap();
    store.upsert(VIEW, &[(entity(1), row(1, 1, 1, 1)), (entity(2), row(2, 2, 2, 2))]).await.unwrap();
    store.upsert(OTHER, &[(entity(1), row(3, 3, 3, 3))]).await.unwrap();
    let keys = [key(OTHER, 1), key(VIEW, 2), key(VIEW, 1), key(OTHER, 2), key(VIEW, 2)];
    let (one, two, three) = (Some(row(1, 1, 1, 1)), Some(row(2, 2, 2, 2)), Some(row(3, 3, 3, 3)));
    assert_eq!(store.get(&keys).await.unwrap(), [three.clone(), two.clone(), one, None, two]);
    store.clear(VIEW).await.unwrap();
    assert_eq!(store.get(&keys).await.unwrap(), [three, None, None, None, None]);
}

async fn moves_the_applied_version_only_from_where_it_is(store: &Arc<dyn OnlineStore>) {
    store.clear(VIEW).await.unwrap();
    let version = DatasetVersion;
    assert_eq!(store.applied(VIEW).await.unwrap(), None);
    assert!(!store.advance(VIEW, Some(version(1)), version(2)).await.unwrap());
    assert!(store.advance(VIEW, None, version(1)).await.unwrap());
    assert!(!store.advance(VIEW, None, version(2)).await.unwrap());
    assert!(store.advance(VIEW, Some(version(1)), version(u64::MAX)).await.unwrap());
    assert_eq!(store.applied(VIEW).await.unwrap(), Some(version(u64::MAX)));
    assert_eq!(store.applied(OTHER).await.unwrap(), None);
    store.clear(VIEW).await.unwrap();
    assert_eq!(store.applied(VIEW).await.unwrap(), None);
}

async fn races_end_with_the_newest(store: &Arc<dyn OnlineStore>) {
    store.clear(VIEW).await.unwrap();
    let writers = (0..8_i64).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                let rows = [(entity(1), row(n * 7 % 50, writer, n, 0)), (entity(2), row(n, 0, writer, 0))];
                store.upsert(VIEW, &rows).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let rows = store.get(&[key(VIEW, 1), key(VIEW, 2)]).await.unwrap();
    let version = |row: &Option<PackedRow>| row.as_ref().unwrap().version();
    assert_eq!(version(&rows[0]).event_time, EventTime::from_micros(49));
    assert_eq!(version(&rows[0]).created_time, CommitTime::from_micros(7));
    assert_eq!(version(&rows[1]).sequence, 7);
}

async fn takes_many_rows(store: &Arc<dyn OnlineStore>) {
    store.clear(VIEW).await.unwrap();
    let rows: Vec<_> = (0..10_000).map(|id| (entity(id), row(id, 0, 0, 0))).collect();
    assert_eq!(store.upsert(VIEW, &rows).await.unwrap(), 10_000);
    assert_eq!(store.upsert(VIEW, &rows).await.unwrap(), 0);
    let keys: Vec<_> = (0..10_000).rev().map(|id| key(VIEW, id)).collect();
    let found = store.get(&keys).await.unwrap();
    assert!(found.iter().zip(rows.iter().rev()).all(|(found, (_, row))| found.as_ref() == Some(row)));
    store.clear(VIEW).await.unwrap();
    assert!(store.get(&keys).await.unwrap().iter().all(Option::is_none));
}

/// Keys made of what means something to Redis: hash tags, patterns, the end of a C string, line ends.
async fn takes_any_bytes_for_a_key(store: &Arc<dyn OnlineStore>) {
    store.clear(VIEW).await.unwrap();
    store.clear(OTHER).await.unwrap();
    let parts =
        ["", "{", "}", "{}", "}{", "*", "?", "[", "[a-z]", "]", "\\", "\0", "a\0", "a\0b", "\r\n", ":", ":applied", "{a}:1"];
    let names: Vec<(&str, &str)> = parts.iter().flat_map(|first| parts.iter().map(move |second| (*first, *second))).collect();
    let text = |name: &str| KeyColumn { name: name.into(), data_type: SqlType::Text };
    let column = |pick: fn(&(&'static str, &'static str)) -> &'static str| -> ArrayRef {
        Arc::new(arrow::array::StringArray::from_iter_values(names.iter().map(pick)))
    };
    let keys = entity_keys(&[text("a"), text("b")], &[column(|pair| pair.0), column(|pair| pair.1)]).unwrap();
    let keys: Vec<EntityKey> = keys.into_iter().flatten().chain([EntityKey::global()]).collect();
    assert_eq!(keys.len(), names.len() + 1);
    let rows = |note: i64| -> Vec<(EntityKey, PackedRow)> {
        (0_i64..).zip(&keys).map(|(number, key)| (key.clone(), row(number, note, 0, 0))).collect()
    };
    assert_eq!(store.upsert(VIEW, &rows(1)).await.unwrap(), keys.len());
    assert_eq!(store.upsert(OTHER, &rows(2)).await.unwrap(), keys.len());
    let of = |view: ObjectId| -> Vec<RowKey> { keys.iter().map(|entity| RowKey { view, entity: entity.clone() }).collect() };
    let expected = |note: i64| rows(note).into_iter().map(|(_, row)| Some(row)).collect::<Vec<_>>();
    assert_eq!(store.get(&of(VIEW)).await.unwrap(), expected(1));
    // No key is mistaken for the applied version, and clearing one view, patterns and all, leaves the other.
    assert_eq!(store.applied(VIEW).await.unwrap(), None);
    store.clear(VIEW).await.unwrap();
    assert!(store.get(&of(VIEW)).await.unwrap().iter().all(Option::is_none));
    assert_eq!(store.get(&of(OTHER)).await.unwrap(), expected(2));
    store.clear(OTHER).await.unwrap();
}

/// Each of the numbers that order rows, about the places where a double stops counting by ones and where halves carry.
async fn tells_wide_numbers_apart(store: &Arc<dyn OnlineStore>) {
    for edge in [0, 1 << 31, 1 << 32, 1 << 53, (1 << 53) + (1 << 32), 1 << 62, i64::MAX - 1] {
        for edge in [edge, -edge] {
            let ascending = [edge - 1, edge, edge + 1];
            let by_place: [fn(i64) -> PackedRow; 3] = [|n| row(n, 0, 0, 0), |n| row(0, n, 0, 0), |n| row(0, 0, n, 0)];
            for make in by_place {
                store.clear(VIEW).await.unwrap();
                for number in ascending {
                    assert_eq!(store.upsert(VIEW, &[(entity(1), make(number))]).await.unwrap(), 1, "{number} is newer");
                    assert_eq!(store.upsert(VIEW, &[(entity(1), make(number))]).await.unwrap(), 0, "{number} is the same");
                    assert_eq!(store.upsert(VIEW, &[(entity(1), make(number - 1))]).await.unwrap(), 0, "{number} - 1 is older");
                }
                assert_eq!(store.get(&[key(VIEW, 1)]).await.unwrap(), [Some(make(edge + 1))]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_the_contract() {
    contract(Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_keeps_the_contract() {
    let server = RedisServer::start();
    contract(Arc::new(RedisStore::connect(&server.url(), StoreId(Uuid::new_v4())).unwrap())).await;
}

#[tokio::test]
async fn two_stores_on_one_redis_share_nothing() {
    let server = RedisServer::start();
    let connect = || RedisStore::connect(&server.url(), StoreId(Uuid::new_v4())).unwrap();
    let (one, other) = (connect(), connect());
    one.upsert(VIEW, &[(entity(1), row(1, 1, 1, 1))]).await.unwrap();
    one.advance(VIEW, None, DatasetVersion(1)).await.unwrap();
    assert_eq!(other.get(&[key(VIEW, 1)]).await.unwrap(), [None]);
    assert_eq!(other.applied(VIEW).await.unwrap(), None);
    other.clear(VIEW).await.unwrap();
    assert!(one.get(&[key(VIEW, 1)]).await.unwrap()[0].is_some());
}

#[tokio::test]
async fn a_redis_that_is_away_is_an_error_until_it_is_back() {
    let mut server = RedisServer::start();
    server.stop();
    let store = RedisStore::connect(&server.url(), StoreId(Uuid::new_v4())).unwrap();
    let error = store.get(&[key(VIEW, 1)]).await.unwrap_err();
    assert_eq!(error.code(), SqlState::IoError);
    assert_eq!(error.hint_text(), Some("Retry, or SET tidegate.online_fallback = offline."));
    assert!(store.upsert(VIEW, &[(entity(1), row(1, 1, 1, 1))]).await.is_err());
    for _ in 0..2 {
        server.start_again();
        let deadline = Instant::now() + Duration::from_secs(20);
        while store.upsert(VIEW, &[(entity(1), row(1, 1, 1, 1))]).await.is_err() {
            assert!(Instant::now() < deadline, "the connection does not come back");
        }
        assert_eq!(store.get(&[key(VIEW, 1)]).await.unwrap(), [Some(row(1, 1, 1, 1))]);
        server.stop();
        assert!(store.get(&[key(VIEW, 1)]).await.is_err());
    }
}

/// A call without a limit would never end here.
#[tokio::test]
async fn no_call_outlives_a_redis_that_hangs() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url(), StoreId(Uuid::new_v4())).unwrap();
    let rows = [(entity(1), row(1, 1, 1, 1))];
    store.upsert(VIEW, &rows).await.unwrap();
    server.pause();
    let newer = [(entity(1), row(2, 2, 2, 2))];
    let failures = [
        store.get(&[key(VIEW, 1)]).await.unwrap_err(),
        store.applied(VIEW).await.unwrap_err(),
        store.upsert(VIEW, &newer).await.unwrap_err(),
        store.advance(VIEW, None, DatasetVersion(1)).await.unwrap_err(),
        store.clear(OTHER).await.unwrap_err(),
    ];
    for failure in failures {
        assert_eq!((failure.code(), failure.detail_text()), (SqlState::IoError, Some("It did not answer in time.")));
    }
    // One made while it hangs does not wait for the greeting either.
    let late = RedisStore::connect(&server.url(), StoreId(Uuid::new_v4())).unwrap();
    assert_eq!(late.get(&[key(VIEW, 1)]).await.unwrap_err().code(), SqlState::IoError);
    server.go_on();
    // What was cut off may have been done since: the newest row wins all the same.
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.upsert(VIEW, &newer).await.is_err() {
        assert!(Instant::now() < deadline, "the connection does not come back");
    }
    assert_eq!(store.upsert(VIEW, &rows).await.unwrap(), 0);
    assert_eq!(store.get(&[key(VIEW, 1)]).await.unwrap(), [Some(row(2, 2, 2, 2))]);
}

#[test]
fn an_address_that_is_none_is_refused() {
    let error = RedisStore::connect("postgres://localhost", StoreId(Uuid::nil())).unwrap_err();
    assert_eq!(error.code(), SqlState::ConfigFileError);
}
