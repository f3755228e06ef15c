//! What every online store keeps to, run on each of them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array};
use futures::FutureExt;
use futures::future::join_all;
use uuid::Uuid;

use self::redis_cluster::RedisCluster;
use super::key::entity_keys;
use super::*;
use crate::error::SqlState;
use crate::registry::{KeyColumn, StoreId, Ttl};
use crate::time::{CommitTime, EventTime};
use crate::types::SqlType;

#[allow(dead_code, reason = "the tests from outside use the rest of it")]
#[path = "../../tests/it/harness/redis_cluster.rs"]
mod redis_cluster;

pub(super) const VIEW: ObjectId = ObjectId(16_384);
pub(super) const OTHER: ObjectId = ObjectId(16_385);

/// A Redis of its own on a socket in a folder of its own, stopped when dropped.
pub(crate) struct RedisServer {
    child: Child,
    folder: tempfile::TempDir,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), &[])
    }

    /// One with these further arguments, and files of its own in `folder`.
    pub(super) fn start_in(folder: tempfile::TempDir, arguments: &[&str]) -> Self {
        let child = Self::run(folder.path(), arguments);
        Self { child, folder }
    }

    /// The folder of its files.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn run(folder: &Path, arguments: &[&str]) -> Child {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
        command.arg(folder.join("redis.sock")).arg("--dir").arg(folder).args(arguments).stdout(Stdio::null());
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

    /// Runs a command of `redis-cli`.
    pub(crate) fn cli(&self, command: &[&str]) {
        self.ask(command);
    }

    /// Runs a command of `redis-cli`; what it says.
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        let output =
            Command::new("redis-cli").arg("-s").arg(self.folder.path().join("redis.sock")).args(command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success() && !said.contains("ERR"), "{command:?}: {said}");
        said
    }

    /// Makes it hang, as a machine that swaps does: connections stay, answers do not come.
    pub(super) fn pause(&self) {
        self.signal("-STOP");
    }

    pub(super) fn go_on(&self) {
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
        self.child = Self::run(self.folder.path(), &[]);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(super) fn entity(id: i64) -> EntityKey {
    let keys = [KeyColumn { name: "k".into(), data_type: SqlType::BigInt }];
    let column: ArrayRef = Arc::new(Int64Array::from(vec![id]));
    entity_keys(&keys, &[column]).unwrap().remove(0).unwrap()
}

pub(super) fn key(view: ObjectId, id: i64) -> RowKey {
    RowKey { view, entity: entity(id) }
}

/// A row of this version that says `note`.
pub(super) fn row(event_time: i64, created_time: i64, sequence: i64, note: u8) -> PackedRow {
    let mut bytes = vec![1, 0, 0, 0];
    for number in [event_time, created_time, sequence] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.push(note);
    PackedRow::from_bytes(bytes.into()).unwrap()
}

/// Makes the view empty, and whole so.
pub(super) async fn empty(store: &Arc<dyn OnlineStore>, view: ObjectId) {
    store.clear(view).await.unwrap();
    build(store, view).await;
}

/// Says that what is there of the view is all there is, up to version 1.
pub(super) async fn build(store: &Arc<dyn OnlineStore>, view: ObjectId) {
    let epoch = store.connected().await.unwrap();
    let building = Progress::Building(store.begin_build(view).await.unwrap());
    assert!(store.advance(view, &building, DatasetVersion(1), epoch).await.unwrap());
}

pub(super) async fn try_get(store: &Arc<dyn OnlineStore>, keys: &[RowKey]) -> Result<Vec<Option<PackedRow>>> {
    store.get(keys, store.connected().await?).await
}

pub(super) async fn get(store: &Arc<dyn OnlineStore>, keys: &[RowKey]) -> Vec<Option<PackedRow>> {
    try_get(store, keys).await.unwrap()
}

/// All rows of the view, page by page, in order.
pub(super) async fn all_rows(store: &Arc<dyn OnlineStore>, view: ObjectId) -> Vec<(EntityKey, PackedRow)> {
    let (mut rows, mut cursor) = (Vec::new(), Some(0));
    while let Some(from) = cursor {
        let page = store.page(view, from).await.unwrap();
        rows.extend(page.rows);
        cursor = page.next;
    }
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    rows.dedup();
    rows
}

async fn contract(store: Arc<dyn OnlineStore>) {
    keeps_the_newest(&store).await;
    keeps_rows_for_their_lifetime(&store).await;
    keeps_views_apart(&store).await;
    moves_the_applied_version_only_without_a_gap(&store).await;
    gives_no_row_of_a_view_that_is_not_whole(&store).await;
    gives_every_row_page_by_page(&store).await;
    says_how_it_is(&store).await;
    races_end_with_the_newest(&store).await;
    gives_each_of_many_lookups_its_own(&store).await;
    takes_many_rows(&store).await;
    takes_any_bytes_for_a_key(&store).await;
    tells_wide_numbers_apart(&store).await;
}

async fn keeps_the_newest(store: &Arc<dyn OnlineStore>) {
    empty(store, VIEW).await;
    assert_eq!(get(store, &[]).await, []);
    assert_eq!(get(store, &[key(VIEW, 1), key(VIEW, 2)]).await, [None, None]);
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
            empty(store, VIEW).await;
            assert_eq!(store.upsert(VIEW, &[(entity(1), ascending[older].clone())], None).await.unwrap(), 1);
            let kept = store.upsert(VIEW, &[(entity(1), ascending[newer].clone())], None).await.unwrap();
            assert_eq!(kept, usize::from(newer > older), "{newer} over {older}");
            let expected = ascending[newer.max(older)].clone();
            assert_eq!(get(store, &[key(VIEW, 1)]).await, [Some(expected)], "{newer} over {older}");
        }
    }
}

/// Of rows whose lifetime is over nothing is promised; all others stay, whatever lifetimes come with the rows after them.
async fn keeps_rows_for_their_lifetime(store: &Arc<dyn OnlineStore>) {
    empty(store, VIEW).await;
    let now = 1_767_225_600_000_000;
    let lifetime = Some(Lifetime::new(Ttl::from_micros(1).unwrap(), EventTime::from_micros(now)));
    let rows =
        |from: i64, event_time: i64| (from..from + 5_000).map(|id| (entity(id), row(event_time, 1, 0, 7))).collect::<Vec<_>>();
    store.upsert(VIEW, &rows(0, i64::MIN), lifetime).await.unwrap();
    assert_eq!(store.upsert(VIEW, &rows(5_000, now), lifetime).await.unwrap(), 5_000);
    store.upsert(VIEW, &rows(10_000, i64::MIN), lifetime).await.unwrap();
    let kept: Vec<_> = (5_000..10_000).map(|id| key(VIEW, id)).collect();
    assert!(get(store, &kept).await.iter().all(Option::is_some));
    // The newest wins as ever.
    assert_eq!(store.upsert(VIEW, &[(entity(5_000), row(now + 1, 1, 0, 8))], lifetime).await.unwrap(), 1);
    assert_eq!(store.upsert(VIEW, &rows(5_000, now), lifetime).await.unwrap(), 0);
    assert_eq!(store.upsert(VIEW, &[(entity(5_000), row(i64::MAX, 1, 0, 9))], lifetime).await.unwrap(), 1);
    assert_eq!(get(store, &kept[..2]).await, [Some(row(i64::MAX, 1, 0, 9)), Some(row(now, 1, 0, 7))]);
    let there = || async { all_rows(store, VIEW).await.len() };
    let deadline = Instant::now() + Duration::from_secs(20);
    while there().await >= 10_000 {
        assert!(Instant::now() < deadline, "rows whose lifetime is over stay for ever");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn keeps_views_apart(store: &Arc<dyn OnlineStore>) {
    empty(store, VIEW).await;
    empty(store, OTHER).await;
    store.upsert(VIEW, &[(entity(1), row(1, 1, 1, 1)), (entity(2), row(2, 2, 2, 2))], None).await.unwrap();
    store.upsert(OTHER, &[(entity(1), row(3, 3, 3, 3))], None).await.unwrap();
    let keys = [key(OTHER, 1), key(VIEW, 2), key(VIEW, 1), key(OTHER, 2), key(VIEW, 2)];
    let (one, two, three) = (Some(row(1, 1, 1, 1)), Some(row(2, 2, 2, 2)), Some(row(3, 3, 3, 3)));
    assert_eq!(get(store, &keys).await, [three.clone(), two.clone(), one, None, two]);
    empty(store, VIEW).await;
    assert_eq!(get(store, &keys).await, [three, None, None, None, None]);
}

async fn moves_the_applied_version_only_without_a_gap(store: &Arc<dyn OnlineStore>) {
    store.clear(VIEW).await.unwrap();
    store.clear(OTHER).await.unwrap();
    let version = DatasetVersion;
    let epoch = store.connected().await.unwrap();
    assert_eq!(store.epoch(), Some(epoch));
    let through = |from: u64| Progress::Through(version(from));
    let advance = async |from: &Progress, to: u64| store.advance(VIEW, from, version(to), epoch).await.unwrap();
    assert_eq!(store.applied(VIEW).await.unwrap(), None);
    assert!(!advance(&through(1), 2).await, "nothing is built");
    // Two build at once: either ends it, and the later does not set it back.
    let building = store.begin_build(VIEW).await.unwrap();
    assert_eq!(store.begin_build(VIEW).await.unwrap(), building);
    assert_eq!(store.applied(VIEW).await.unwrap(), None);
    assert!(!advance(&through(1), 2).await, "what is being built is not moved on");
    let building = Progress::Building(building);
    assert!(advance(&building, 9).await);
    assert!(advance(&building, 8).await, "it is there already");
    assert_eq!(store.applied(VIEW).await.unwrap(), Some(version(9)));
    assert!(!advance(&building, 10).await, "that building has ended");
    assert!(!advance(&through(10), 11).await, "there is a gap");
    assert!(advance(&through(9), 10).await);
    assert!(advance(&through(9), 10).await, "another was faster");
    assert!(advance(&through(8), 12).await, "more was applied than was missing");
    assert!(advance(&through(3), 9).await, "it is further already");
    assert_eq!(store.applied(VIEW).await.unwrap(), Some(version(12)));
    assert!(advance(&through(12), u64::MAX).await);
    assert_eq!(store.applied(VIEW).await.unwrap(), Some(version(u64::MAX)));
    assert_eq!(store.applied(OTHER).await.unwrap(), None);
    // A building that was lost with the rows is not ended.
    store.clear(VIEW).await.unwrap();
    assert_eq!(store.applied(VIEW).await.unwrap(), None);
    let lost = Progress::Building(store.begin_build(VIEW).await.unwrap());
    store.clear(VIEW).await.unwrap();
    assert!(!advance(&lost, 1).await);
    store.begin_build(VIEW).await.unwrap();
    assert!(!advance(&lost, 1).await);
}

async fn gives_no_row_of_a_view_that_is_not_whole(store: &Arc<dyn OnlineStore>) {
    empty(store, VIEW).await;
    empty(store, OTHER).await;
    store.upsert(VIEW, &[(entity(1), row(1, 1, 1, 1))], None).await.unwrap();
    store.upsert(OTHER, &[(entity(1), row(2, 2, 2, 2))], None).await.unwrap();
    store.clear(OTHER).await.unwrap();
    store.upsert(OTHER, &[(entity(1), row(2, 2, 2, 2))], None).await.unwrap();
    for _nothing_built_then_building in 0..2 {
        for keys in [vec![key(OTHER, 1)], vec![key(VIEW, 1), key(OTHER, 2)], vec![key(OTHER, 1), key(VIEW, 1)]] {
            let error = try_get(store, &keys).await.unwrap_err();
            assert_eq!(error.code(), SqlState::ObjectNotInPrerequisiteState, "{keys:?}");
        }
        store.begin_build(OTHER).await.unwrap();
    }
    assert_eq!(get(store, &[key(VIEW, 1)]).await, [Some(row(1, 1, 1, 1))]);
    build(store, OTHER).await;
    assert_eq!(get(store, &[key(OTHER, 1), key(VIEW, 1)]).await, [Some(row(2, 2, 2, 2)), Some(row(1, 1, 1, 1))]);
}

async fn gives_every_row_page_by_page(store: &Arc<dyn OnlineStore>) {
    empty(store, VIEW).await;
    empty(store, OTHER).await;
    assert_eq!(all_rows(store, VIEW).await, []);
    let mut rows: Vec<_> = (0..3_000).map(|id| (entity(id), row(id, 1, 0, 7))).collect();
    store.upsert(VIEW, &rows, None).await.unwrap();
    store.upsert(OTHER, &rows[..10], None).await.unwrap();
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(all_rows(store, VIEW).await, rows);
    assert_eq!(all_rows(store, OTHER).await.len(), 10);
}

async fn says_how_it_is(store: &Arc<dyn OnlineStore>) {
    empty(store, VIEW).await;
    store.upsert(VIEW, &[(entity(1), row(1, 1, 1, 1))], None).await.unwrap();
    let status = store.status().await;
    assert!(status.connected && status.obstacle.is_none(), "{status:?}");
    assert!(status.keys > Some(0) && status.memory_bytes > Some(0), "{status:?}");
    assert_eq!(status.latency_p50.is_some(), status.kind == "redis", "{status:?}");
    assert!(status.latency_p50 <= status.latency_p99);
}

async fn races_end_with_the_newest(store: &Arc<dyn OnlineStore>) {
    empty(store, VIEW).await;
    let writers = (0..8_i64).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                let rows = [(entity(1), row(n * 7 % 50, writer, n, 0)), (entity(2), row(n, 0, writer, 0))];
                store.upsert(VIEW, &rows, None).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let rows = get(store, &[key(VIEW, 1), key(VIEW, 2)]).await;
    let version = |row: &Option<PackedRow>| row.as_ref().unwrap().version();
    assert_eq!(version(&rows[0]).event_time, EventTime::from_micros(49));
    assert_eq!(version(&rows[0]).created_time, CommitTime::from_micros(7));
    assert_eq!(version(&rows[1]).sequence, 7);
}

/// Lookups of one moment, of which some are given up, and some ask for a view that is not whole.
async fn gives_each_of_many_lookups_its_own(store: &Arc<dyn OnlineStore>) {
    empty(store, VIEW).await;
    empty(store, OTHER).await;
    let rows: Vec<_> = (0..100).map(|id| (entity(id), row(id, 1, 1, 1))).collect();
    store.upsert(VIEW, &rows, None).await.unwrap();
    store.upsert(OTHER, &rows[50..], None).await.unwrap();
    let epoch = store.connected().await.unwrap();
    let stored = |view: ObjectId, id: i64| (id < 100 && (view == VIEW || id >= 50)).then(|| row(id, 1, 1, 1));
    let check = async |is_whole: bool| {
        let lookups = (0..300_i64).map(|number| {
            let asked: Vec<_> =
                (0..1 + number % 40).map(|n| (if n % 3 == 2 { OTHER } else { VIEW }, (number * 7 + n) % 120)).collect();
            async move {
                let keys: Vec<_> = asked.iter().map(|(view, id)| key(*view, *id)).collect();
                if number % 5 == 4 {
                    let _given_up = store.get(&keys, epoch).now_or_never();
                    return;
                }
                let found = store.get(&keys, epoch).await;
                if is_whole || asked.len() < 3 {
                    let expected: Vec<_> = asked.iter().map(|(view, id)| stored(*view, *id)).collect();
                    assert_eq!(found.unwrap(), expected, "{number}");
                } else {
                    assert_eq!(found.unwrap_err().code(), SqlState::ObjectNotInPrerequisiteState, "{number}");
                }
            }
        });
        join_all(lookups).await;
    };
    check(true).await;
    store.clear(OTHER).await.unwrap();
    check(false).await;
}

async fn takes_many_rows(store: &Arc<dyn OnlineStore>) {
    empty(store, VIEW).await;
    let rows: Vec<_> = (0..10_000).map(|id| (entity(id), row(id, 0, 0, 0))).collect();
    assert_eq!(store.upsert(VIEW, &rows, None).await.unwrap(), 10_000);
    assert_eq!(store.upsert(VIEW, &rows, None).await.unwrap(), 0);
    let keys: Vec<_> = (0..10_000).rev().map(|id| key(VIEW, id)).collect();
    let found = get(store, &keys).await;
    assert!(found.iter().zip(rows.iter().rev()).all(|(found, (_, row))| found.as_ref() == Some(row)));
    empty(store, VIEW).await;
    assert!(get(store, &keys).await.iter().all(Option::is_none));
}

/// Keys made of what means something to Redis: hash tags, patterns, the end of a C string, line ends.
async fn takes_any_bytes_for_a_key(store: &Arc<dyn OnlineStore>) {
    empty(store, VIEW).await;
    empty(store, OTHER).await;
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
    assert_eq!(store.upsert(VIEW, &rows(1), None).await.unwrap(), keys.len());
    assert_eq!(store.upsert(OTHER, &rows(2), None).await.unwrap(), keys.len());
    let of = |view: ObjectId| -> Vec<RowKey> { keys.iter().map(|entity| RowKey { view, entity: entity.clone() }).collect() };
    let expected = |note: i64| rows(note).into_iter().map(|(_, row)| Some(row)).collect::<Vec<_>>();
    assert_eq!(get(store, &of(VIEW)).await, expected(1));
    // No key is mistaken for the applied version, and clearing one view, patterns and all, leaves the other.
    assert_eq!(store.applied(VIEW).await.unwrap(), Some(DatasetVersion(1)));
    empty(store, VIEW).await;
    assert!(get(store, &of(VIEW)).await.iter().all(Option::is_none));
    assert_eq!(get(store, &of(OTHER)).await, expected(2));
    empty(store, OTHER).await;
}

/// Each of the numbers that order rows, about the places where a double stops counting by ones and where halves carry.
async fn tells_wide_numbers_apart(store: &Arc<dyn OnlineStore>) {
    for edge in [0, 1 << 31, 1 << 32, 1 << 53, (1 << 53) + (1 << 32), 1 << 62, i64::MAX - 1] {
        for edge in [edge, -edge] {
            let ascending = [edge - 1, edge, edge + 1];
            let by_place: [fn(i64) -> PackedRow; 3] = [|n| row(n, 0, 0, 0), |n| row(0, n, 0, 0), |n| row(0, 0, n, 0)];
            for make in by_place {
                empty(store, VIEW).await;
                for number in ascending {
                    assert_eq!(store.upsert(VIEW, &[(entity(1), make(number))], None).await.unwrap(), 1, "{number} is newer");
                    assert_eq!(store.upsert(VIEW, &[(entity(1), make(number))], None).await.unwrap(), 0, "{number} is the same");
                    assert_eq!(
                        store.upsert(VIEW, &[(entity(1), make(number - 1))], None).await.unwrap(),
                        0,
                        "{number} - 1 is older"
                    );
                }
                assert_eq!(get(store, &[key(VIEW, 1)]).await, [Some(make(edge + 1))]);
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
    contract(connect(&server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_the_contract() {
    let cluster = RedisCluster::start(3);
    contract(connect_to(&cluster.url())).await;
}

/// Limits that only a call which never ends reaches, however busy the machine is.
pub(crate) const PATIENT: CallLimits = CallLimits { read: Duration::from_secs(5), write: Duration::from_secs(20) };

pub(super) fn connect(server: &RedisServer) -> Arc<dyn OnlineStore> {
    connect_to(&server.url())
}

pub(super) fn connect_to(url: &str) -> Arc<dyn OnlineStore> {
    Arc::new(RedisStore::connect(url, StoreId(Uuid::new_v4()), PATIENT).unwrap())
}
