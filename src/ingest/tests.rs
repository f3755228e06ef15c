use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Int64Type, Schema};
use futures::TryStreamExt;
use uuid::Uuid;

use super::*;
use crate::error::SqlState;
use crate::offline::{Extent, LanceStore, Scan};
use crate::online::contract::{PATIENT, RedisServer};
use crate::online::key::entity_keys;
use crate::online::{EntityKey, MemoryStore, OnlineStore, PackedRow, Progress, RedisStore, RowKey, RowLayout};
use crate::registry::{Column, Feature, KeyColumn, StoreId, Table, TableSource};
use crate::time::{DatasetVersion, SetClock};
use crate::types::SqlType;

mod expiry;
mod streamed;

fn feature(name: &str, data_type: SqlType, check: Option<&str>) -> Feature {
    Feature { name: name.into(), data_type, comment: None, check: check.map(Into::into) }
}

/// A view with the key (a text, b bigint) and one feature, n bigint.
fn view(id: u32, features: Vec<Feature>) -> Arc<FeatureView> {
    let key = |name: &str, data_type| KeyColumn { name: name.into(), data_type };
    Arc::new(FeatureView {
        id: ObjectId(id),
        name: "v".into(),
        entities: vec!["e".into()],
        keys: vec![key("a", SqlType::Text), key("b", SqlType::BigInt)],
        event_time: "event_time".into(),
        features,
        ttl: None,
        online: true,
        comment: None,
        options: BTreeMap::new(),
        tags: Default::default(),
    })
}

fn plain_view() -> Arc<FeatureView> {
    view(16_384, vec![feature("n", SqlType::BigInt, None)])
}

fn registry(view: &Arc<FeatureView>) -> Registry {
    let mut registry = Registry::empty(StoreId(Uuid::nil()));
    registry.views.insert(view.name.clone(), view.clone());
    registry
}

fn at(micros: i64) -> CommitTime {
    CommitTime::from_micros(micros)
}

fn intake(now: CommitTime, time_zone: &str) -> Intake {
    Intake { now, time_zone: time_zone.into(), first_row: 0 }
}

/// A gateway's stores and write path over one root, with a clock that stands still.
struct Gateway {
    offline: SharedOfflineStore,
    online: Arc<OnlineViews>,
    clock: Arc<SetClock>,
    ingest: Arc<Ingest>,
}

impl Gateway {
    fn over(root: &tempfile::TempDir, store: Arc<dyn OnlineStore>, now: i64) -> Self {
        Self::with(root, OnlineViews::new(store), now)
    }

    fn with(root: &tempfile::TempDir, online: OnlineViews, now: i64) -> Self {
        let offline: SharedOfflineStore = Arc::new(LanceStore::new(root.path().to_str().unwrap()).unwrap());
        let online = Arc::new(online);
        let clock = Arc::new(SetClock::new(at(now)));
        let ingest = Arc::new(Ingest::new(offline.clone(), online.clone(), clock.clone()));
        Self { offline, online, clock, ingest }
    }

    fn valid(&self, view: &Arc<FeatureView>, rows: &[(&str, i64, i64, i64)]) -> ValidBatch {
        self.ingest.validate(&Target::View(view.clone()), &batch(rows), &intake(self.clock.now(), "UTC")).unwrap()
    }

    async fn write(&self, view: &Arc<FeatureView>, rows: &[(&str, i64, i64, i64)]) -> Written {
        self.ingest.write(vec![self.valid(view, rows)]).await.unwrap()
    }

    /// The newest `n` of each key, read online at the clock's present.
    async fn lookup(&self, view: &Arc<FeatureView>, keys: &[(String, i64)]) -> Vec<Option<i64>> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(keys.iter().map(|key| &key.0))),
            Arc::new(Int64Array::from_iter_values(keys.iter().map(|key| key.1))),
        ];
        let entities = entity_keys(&view.keys, &columns).unwrap();
        let keys: Vec<_> = entities.into_iter().map(|entity| RowKey { view: view.id, entity: entity.unwrap() }).collect();
        let now = self.clock.now().as_event_time();
        let rows = self.online.get(&keys, now).await.unwrap();
        let rows: Vec<Option<&PackedRow>> = rows.iter().map(Option::as_ref).collect();
        assert!(rows.iter().flatten().all(|row| row.version().event_time <= now));
        let columns = RowLayout::new(view).unpack(&rows, &[0]).unwrap();
        columns[1].as_primitive::<Int64Type>().iter().collect()
    }
}

/// Rows (a, b, event time, n).
fn batch(rows: &[(&str, i64, i64, i64)]) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("n", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.3)))),
        ("event_time", Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.2)).with_timezone("UTC"))),
        ("b", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)))),
        ("a", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0)))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

/// Random histories: ties, corrections, late rows, rows of the future, keys that look alike; after each step, and on a gateway
/// that has just started, lookups give what a straightforward reading of all rows gives.
async fn agrees_with_brute_force(store: Arc<dyn OnlineStore>, fresh: impl Fn() -> Arc<dyn OnlineStore>, seed: u64) {
    let root = tempfile::tempdir().unwrap();
    let view = plain_view();
    let gateway = Gateway::over(&root, store, 1000);
    gateway.ingest.create(&Target::View(view.clone())).await.unwrap();
    assert!(gateway.online.is_ready(view.id));
    let keys: Vec<(String, i64)> =
        ["ab", "a", "", "it's"].iter().flat_map(|a| [0, 1, -1].map(|b| ((*a).to_owned(), b))).collect();
    // Every row in the order it was written: later is later learned.
    let mut written: Vec<(usize, i64, i64)> = Vec::new();
    let mut random = numbers(seed);
    let mut now = 1000_i64;
    for step in 0..40 {
        now += random(30) as i64;
        gateway.clock.set(at(now)).unwrap();
        let rows: Vec<_> = (0..1 + random(6))
            .map(|place| (random(keys.len() as u64) as usize, now - 40 + random(60) as i64, step * 100 + place as i64))
            .collect();
        let batch: Vec<_> = rows.iter().map(|(key, time, n)| (keys[*key].0.as_str(), keys[*key].1, *time, *n)).collect();
        assert!(gateway.write(&view, &batch).await.warnings.is_empty());
        written.extend(rows);
        let expected: Vec<Option<i64>> = (0..keys.len())
            .map(|key| {
                let due = written.iter().enumerate().filter(|(_, row)| row.0 == key && row.1 <= now);
                due.max_by_key(|(place, row)| (row.1, *place)).map(|(_, row)| row.2)
            })
            .collect();
        assert_eq!(gateway.lookup(&view, &keys).await, expected, "seed {seed} step {step}");
        if step % 10 == 9 {
            let started = Gateway::over(&root, fresh(), now);
            started.ingest.catch_up(&registry(&view)).await.unwrap();
            assert!(started.online.is_ready(view.id));
            assert_eq!(started.lookup(&view, &keys).await, expected, "seed {seed} step {step}, started anew");
        }
    }
}

#[tokio::test]
async fn memory_agrees_with_brute_force() {
    for seed in 0..4 {
        agrees_with_brute_force(Arc::new(MemoryStore::new()), || Arc::new(MemoryStore::new()), seed).await;
    }
}

#[tokio::test]
async fn redis_agrees_with_brute_force() {
    let server = RedisServer::start();
    let connect = |id: u128| RedisStore::connect(&server.url(), StoreId(Uuid::from_u128(id)), PATIENT).unwrap();
    for seed in 0..4 {
        let id = u128::from(seed);
        // A gateway that starts beside the first finds its rows; one on a Redis of its own builds them.
        agrees_with_brute_force(Arc::new(connect(id)), || Arc::new(connect(id)), seed).await;
        agrees_with_brute_force(Arc::new(connect(100 + id)), || Arc::new(connect(Uuid::new_v4().as_u128())), 10 + seed).await;
    }
}

#[tokio::test]
async fn a_commit_that_never_came_online_is_replayed() {
    let root = tempfile::tempdir().unwrap();
    let view = plain_view();
    let store: Arc<dyn OnlineStore> = Arc::new(MemoryStore::new());
    let gateway = Gateway::over(&root, store.clone(), 1000);
    gateway.ingest.create(&Target::View(view.clone())).await.unwrap();
    gateway.write(&view, &[("x", 1, 900, 1)]).await;
    // A gateway dies between append and apply, with a row that is due and one that is not.
    let dead = gateway.valid(&view, &[("x", 1, 950, 2), ("y", 1, 2000, 3)]).stored(at(1001), 0).unwrap();
    gateway.offline.append(Dataset::History(view.id), dead, at(1001)).await.unwrap();
    // Another gateway's commit after the gap does not move the applied version over it.
    gateway.write(&view, &[("z", 1, 960, 4)]).await;
    assert_eq!(store.applied(view.id).await.unwrap(), Some(DatasetVersion(2)));
    let keys = [("x".to_owned(), 1), ("y".to_owned(), 1), ("z".to_owned(), 1)];
    assert_eq!(gateway.lookup(&view, &keys).await, [Some(1), None, Some(4)]);
    gateway.ingest.catch_up(&registry(&view)).await.unwrap();
    assert_eq!(store.applied(view.id).await.unwrap(), Some(DatasetVersion(4)));
    assert_eq!(gateway.lookup(&view, &keys).await, [Some(2), None, Some(4)]);
    gateway.clock.set(at(2000)).unwrap();
    assert_eq!(gateway.lookup(&view, &keys).await, [Some(2), Some(3), Some(4)]);
}

#[tokio::test]
async fn rows_that_fell_due_while_no_gateway_ran_are_applied_at_start() {
    let root = tempfile::tempdir().unwrap();
    let view = plain_view();
    let store: Arc<dyn OnlineStore> = Arc::new(MemoryStore::new());
    let gateway = Gateway::over(&root, store.clone(), 1000);
    gateway.ingest.create(&Target::View(view.clone())).await.unwrap();
    gateway.write(&view, &[("x", 1, 900, 1), ("x", 1, 1500, 2), ("x", 1, 3000, 3)]).await;
    drop(gateway);
    // The store outlived the gateway, as Redis does; the rows that waited did not.
    let started = Gateway::over(&root, store, 2000);
    started.ingest.catch_up(&registry(&view)).await.unwrap();
    let key = [("x".to_owned(), 1)];
    assert_eq!(started.lookup(&view, &key).await, [Some(2)]);
    started.clock.set(at(3000)).unwrap();
    assert_eq!(started.lookup(&view, &key).await, [Some(3)]);
}

#[tokio::test]
async fn a_clock_set_back_takes_rows_of_the_future_out_again() {
    let root = tempfile::tempdir().unwrap();
    let view = plain_view();
    let gateway = Gateway::over(&root, Arc::new(MemoryStore::new()), 1000);
    gateway.ingest.create(&Target::View(view.clone())).await.unwrap();
    gateway.write(&view, &[("x", 1, 900, 1), ("x", 1, 1500, 2)]).await;
    let key = [("x".to_owned(), 1)];
    gateway.clock.set(at(1600)).unwrap();
    gateway.ingest.catch_up(&registry(&view)).await.unwrap();
    assert_eq!(gateway.lookup(&view, &key).await, [Some(2)]);
    gateway.clock.set(at(1200)).unwrap();
    gateway.online.set_all_unready();
    assert!(!gateway.online.is_ready(view.id));
    gateway.ingest.catch_up(&registry(&view)).await.unwrap();
    assert!(gateway.online.is_ready(view.id));
    assert_eq!(gateway.lookup(&view, &key).await, [Some(1)]);
}

#[tokio::test]
async fn a_redis_that_went_away_costs_a_warning_and_is_caught_up() {
    let mut server = RedisServer::start();
    let root = tempfile::tempdir().unwrap();
    let view = plain_view();
    let store = Arc::new(RedisStore::connect(&server.url(), StoreId(Uuid::new_v4()), PATIENT).unwrap());
    let gateway = Gateway::over(&root, store, 1000);
    gateway.ingest.create(&Target::View(view.clone())).await.unwrap();
    gateway.write(&view, &[("x", 1, 900, 1)]).await;
    server.stop();
    let written = gateway.write(&view, &[("x", 1, 950, 2)]).await;
    assert_eq!((written.rows, written.warnings.len()), (1, 1));
    assert!(!gateway.online.is_ready(view.id));
    assert!(gateway.ingest.catch_up(&registry(&view)).await.is_err());
    server.start_again();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while gateway.ingest.catch_up(&registry(&view)).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "never caught up");
    }
    assert!(gateway.online.is_ready(view.id));
    assert_eq!(gateway.lookup(&view, &[("x".to_owned(), 1)]).await, [Some(2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_share_commits() {
    let root = tempfile::tempdir().unwrap();
    let view = plain_view();
    let gateway = Arc::new(Gateway::over(&root, Arc::new(MemoryStore::new()), 1000));
    gateway.ingest.create(&Target::View(view.clone())).await.unwrap();
    let writers: Vec<_> = (0..200_i64)
        .map(|writer| {
            let (gateway, view) = (gateway.clone(), view.clone());
            tokio::spawn(async move { gateway.write(&view, &[("x", writer, 900, writer)]).await })
        })
        .collect();
    for writer in writers {
        assert_eq!(writer.await.unwrap().rows, 1);
    }
    let latest = gateway.offline.latest(Dataset::History(view.id)).await.unwrap();
    assert!(latest.version.0 < 100, "{} commits for 200 writes", latest.version.0 - 1);
    assert_eq!(gateway.online.store().applied(view.id).await.unwrap(), Some(latest.version));
    let keys: Vec<_> = (0..200).map(|b| ("x".to_owned(), b)).collect();
    assert_eq!(gateway.lookup(&view, &keys).await, (0..200).map(Some).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_row_whose_writer_went_away_is_written_all_the_same() {
    let root = tempfile::tempdir().unwrap();
    let view = plain_view();
    let gateway = Gateway::over(&root, Arc::new(MemoryStore::new()), 1000);
    gateway.ingest.create(&Target::View(view.clone())).await.unwrap();
    {
        let write = gateway.ingest.write(vec![gateway.valid(&view, &[("x", 1, 900, 1)])]);
        let mut write = Box::pin(write);
        assert!(futures::poll!(write.as_mut()).is_pending());
    }
    // The next write waits for the committer that the first one started.
    gateway.write(&view, &[("x", 2, 900, 2)]).await;
    let keys = [("x".to_owned(), 1), ("x".to_owned(), 2)];
    assert_eq!(gateway.lookup(&view, &keys).await, [Some(1), Some(2)]);
}

#[tokio::test]
async fn tables_take_rows_as_they_are() {
    let root = tempfile::tempdir().unwrap();
    let gateway = Gateway::over(&root, Arc::new(MemoryStore::new()), 1000);
    let column = |name: &str, nullable| Column { name: name.into(), data_type: SqlType::BigInt, nullable, comment: None };
    let columns = vec![column("a", false), column("b", true)];
    let table = Table { id: ObjectId(16_400), name: "t".into(), columns, source: TableSource::Stored, comment: None };
    let target = Target::Table(Arc::new(table));
    gateway.ingest.create(&target).await.unwrap();
    let rows = |column: &str| RecordBatch::try_from_iter([(column, Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]).unwrap();
    let valid = gateway.ingest.validate(&target, &rows("a"), &intake(at(1000), "UTC")).unwrap();
    gateway.ingest.write(vec![valid.clone(), valid]).await.unwrap();
    let error = gateway.ingest.validate(&target, &rows("b"), &intake(at(1000), "UTC")).unwrap_err();
    assert_eq!(error.code(), SqlState::NotNullViolation);
    let dataset = Dataset::Table(ObjectId(16_400));
    let latest = gateway.offline.latest(dataset).await.unwrap();
    assert_eq!(latest.version, DatasetVersion(2));
    let scan = Scan { columns: vec!["a".into()], ..Scan::default() };
    let batches: Vec<_> = gateway.offline.scan(dataset, latest.version, scan).await.unwrap().try_collect().await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 4);
    gateway.ingest.remove(&target).await.unwrap();
    assert!(gateway.offline.latest(dataset).await.is_err());
}

/// Puts what is online of `view` into these rows, whole up to `through`.
async fn put_online(
    store: &Arc<dyn OnlineStore>,
    view: &FeatureView,
    rows: Vec<(EntityKey, PackedRow)>,
    through: DatasetVersion,
) {
    store.clear(view.id).await.unwrap();
    let epoch = store.connected().await.unwrap();
    let building = Progress::Building(store.begin_build(view.id).await.unwrap());
    store.upsert(view.id, &rows, None).await.unwrap();
    assert!(store.advance(view.id, &building, through, epoch).await.unwrap());
}

async fn audits_find_every_difference(store: Arc<dyn OnlineStore>) {
    let root = tempfile::tempdir().unwrap();
    let view = plain_view();
    let gateway = Gateway::over(&root, store.clone(), 1000);
    let audit = async || gateway.ingest.audit(&view, &|_step| {}).await.unwrap();
    gateway.ingest.create(&Target::View(view.clone())).await.unwrap();
    assert_eq!(audit().await, Audit { built: true, ..Audit::default() });
    gateway.write(&view, &[("a", 1, 900, 1), ("a", 1, 950, 2), ("b", 1, 900, 3), ("c", 1, 900, 4)]).await;
    // A late row, a correction, and rows whose time has not come: of a known entity, and of one that has no other.
    gateway.write(&view, &[("a", 1, 800, 5), ("b", 1, 900, 6), ("c", 1, 5_000_000, 7), ("d", 1, 5_000_000, 8)]).await;
    let agrees = Audit { built: true, entities: 3, ..Audit::default() };
    assert_eq!(audit().await, agrees);
    // Time passes; nobody has asked yet for the rows that fell due a moment ago, then they are overdue.
    gateway.clock.set(at(5_000_001)).unwrap();
    assert_eq!(audit().await, agrees);
    gateway.clock.set(at(9_000_000)).unwrap();
    assert_eq!(audit().await, Audit { entities: 4, missing: 1, older: 1, ..agrees });
    gateway.online.apply_due(gateway.clock.now().as_event_time()).await.unwrap();
    assert_eq!(audit().await, Audit { entities: 4, ..agrees });

    let history = Dataset::History(view.id);
    let latest = gateway.offline.latest(history).await.unwrap().version;
    let good = Audit { entities: 4, ..agrees };
    let rows = async || {
        let (mut rows, mut cursor) = (BTreeMap::new(), Some(0));
        while let Some(from) = cursor {
            let page = store.page(view.id, from).await.unwrap();
            rows.extend(page.rows);
            cursor = page.next;
        }
        rows.into_iter().collect::<Vec<_>>()
    };
    let right = rows().await;
    assert_eq!(right.len(), 4);
    // The first row, with a byte changed: of its event time (upwards, downwards), or of its feature.
    let changed = |at: usize, by: u8| {
        let mut bytes = right[0].1.as_bytes().to_vec();
        bytes[at] = bytes[at].wrapping_add(by);
        let mut rows = right.clone();
        rows[0].1 = PackedRow::from_bytes(bytes.into()).unwrap();
        rows
    };
    let unknown = {
        let mut rows = right.clone();
        rows.push((EntityKey::global(), right[0].1.clone()));
        rows
    };
    let last = right[0].1.as_bytes().len() - 1;
    for (rows, expected) in [
        (right.clone(), good),
        (right[1..].to_vec(), Audit { missing: 1, ..good }),
        (Vec::new(), Audit { missing: 4, ..good }),
        (changed(4, 1), Audit { newer: 1, ..good }),
        (changed(4, 255), Audit { older: 1, ..good }),
        (changed(last, 1), Audit { different: 1, ..good }),
        (unknown, Audit { unknown: 1, ..good }),
    ] {
        put_online(&store, &view, rows, latest).await;
        assert_eq!(audit().await, expected);
        assert_eq!(expected.agrees(), expected == good);
    }
    // What is not whole is not looked at; building it anew repairs all of it.
    store.clear(view.id).await.unwrap();
    assert_eq!(audit().await, Audit::default());
    put_online(&store, &view, changed(4, 1), DatasetVersion(latest.0 + 1)).await;
    assert_eq!(audit().await, Audit::default(), "the store is ahead of the history");
    gateway.ingest.rebuild_online(&view).await.unwrap();
    assert_eq!(audit().await, good);
    assert_eq!(rows().await, right);
    // A commit that is not applied yet is no difference: it is shown as lag.
    let late = gateway.valid(&view, &[("a", 1, 7_000_000, 9), ("e", 1, 7_000_000, 10)]).stored(at(9_000_001), 0).unwrap();
    gateway.offline.append(history, late, at(9_000_001)).await.unwrap();
    assert_eq!(audit().await, good);
}

#[tokio::test]
async fn audits_of_memory_find_every_difference() {
    audits_find_every_difference(Arc::new(MemoryStore::new())).await;
}

#[tokio::test]
async fn audits_of_redis_find_every_difference() {
    let server = RedisServer::start();
    audits_find_every_difference(Arc::new(RedisStore::connect(&server.url(), StoreId(Uuid::nil()), PATIENT).unwrap())).await;
}

/// Audits beside writers, who commit and apply in their own time, find nothing wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audits_beside_writers_find_nothing() {
    let root = tempfile::tempdir().unwrap();
    let view = plain_view();
    let gateway = Arc::new(Gateway::over(&root, Arc::new(MemoryStore::new()), 1_000_000));
    gateway.ingest.create(&Target::View(view.clone())).await.unwrap();
    let writers: Vec<_> = (0..4_i64)
        .map(|writer| {
            let (gateway, view) = (gateway.clone(), view.clone());
            tokio::spawn(async move {
                for n in 0..40 {
                    gateway.write(&view, &[("x", n % 5, n * 7 % 31, n), ("x", 100 * writer + n, n, n)]).await;
                }
            })
        })
        .collect();
    let mut audits = 0;
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) || audits < 3 {
        let audit = gateway.ingest.audit(&view, &|_step| {}).await.unwrap();
        assert!(audit.agrees(), "{audit:?}");
        audits += 1;
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

/// A store that lost its last writes, as a primary after a failover has: commits and rows that fell due are looked for again.
#[tokio::test]
async fn what_a_failover_lost_is_applied_again() {
    let mut server = RedisServer::start();
    let root = tempfile::tempdir().unwrap();
    let view = plain_view();
    let store: Arc<dyn OnlineStore> = Arc::new(RedisStore::connect(&server.url(), StoreId(Uuid::nil()), PATIENT).unwrap());
    let gateway = Gateway::over(&root, store.clone(), 1000);
    gateway.ingest.create(&Target::View(view.clone())).await.unwrap();
    gateway.write(&view, &[("x", 1, 900, 1), ("x", 1, 2000, 2), ("y", 1, 900, 3)]).await;
    server.cli(&["SAVE"]);
    // From here on, all that Redis is told is lost: a row that falls due, whose commit was applied before, and a commit.
    gateway.clock.set(at(2000)).unwrap();
    let keys = [("x".to_owned(), 1), ("y".to_owned(), 1)];
    assert_eq!(gateway.lookup(&view, &keys).await, [Some(2), Some(3)]);
    gateway.write(&view, &[("y", 1, 950, 4)]).await;
    assert_eq!(gateway.lookup(&view, &keys).await, [Some(2), Some(4)]);
    let before = store.epoch();
    server.stop();
    server.start_again();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while store.epoch().is_none() || store.epoch() == before {
        assert!(std::time::Instant::now() < deadline, "no new connection");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(!gateway.online.is_ready(view.id), "nothing is known of what is there now");
    assert_eq!(store.applied(view.id).await.unwrap(), Some(DatasetVersion(2)), "it went back");
    gateway.ingest.catch_up(&registry(&view)).await.unwrap();
    assert!(gateway.online.is_ready(view.id));
    assert_eq!(gateway.lookup(&view, &keys).await, [Some(2), Some(4)]);
}

/// Validates one column `x` of a view with the key (a, b), a feature x of type `to`, and a `CHECK` on it.
fn assign(to: SqlType, check: Option<&str>, field: Field, column: ArrayRef) -> Result<ArrayRef> {
    let root = tempfile::tempdir().unwrap();
    let gateway = Gateway::over(&root, Arc::new(MemoryStore::new()), 1000);
    let view = view(1, vec![feature("x", to, check)]);
    let keys: ArrayRef = Arc::new(StringArray::from_iter_values((0..column.len()).map(|row| row.to_string())));
    let fields = vec![SqlType::Text.field("a", true), SqlType::BigInt.field("b", true), field.with_name("x")];
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..column.len() as i64));
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![keys, numbers, column]).unwrap();
    let valid = gateway.ingest.validate(&Target::View(view), &rows, &intake(at(1000), "Europe/Berlin"))?;
    assert_eq!(valid.rows.column(2).as_primitive::<arrow::datatypes::TimestampMicrosecondType>().value(0), 1000);
    Ok(valid.rows.column(3).clone())
}

fn text(values: &[&str]) -> (Field, ArrayRef) {
    (SqlType::Text.field("x", true), Arc::new(StringArray::from(values.to_vec())))
}

#[test]
fn values_are_assigned_as_in_postgresql() {
    let doubles =
        |values: &[f64]| (SqlType::DoublePrecision.field("x", true), Arc::new(Float64Array::from(values.to_vec())) as ArrayRef);
    let check = |to: SqlType, (field, column): (Field, ArrayRef), expected: &[&str]| {
        let assigned = assign(to.clone(), None, field, column).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!(assigned.data_type(), &to.arrow());
        let shown: Vec<_> =
            (0..assigned.len()).map(|row| arrow::util::display::array_value_to_string(&assigned, row).unwrap()).collect();
        assert_eq!(shown, expected, "{to}");
    };
    check(SqlType::Integer, doubles(&[0.5, 1.5, -2.5, 2147483647.4]), &["0", "2", "-2", "2147483647"]);
    check(SqlType::Numeric { precision: 5, scale: 2 }, doubles(&[0.125, -0.125, 999.994]), &["0.13", "-0.13", "999.99"]);
    check(SqlType::Text, doubles(&[1.5]), &["1.5"]);
    check(SqlType::BigInt, text(&["42", " -7 "]), &["42", "-7"]);
    check(
        SqlType::TimestampTz,
        text(&["2013-07-01 12:00", "2013-01-01 12:00Z"]),
        &["2013-07-01T10:00:00Z", "2013-01-01T12:00:00Z"],
    );
    let local = TimestampMicrosecondArray::from(vec![1_372_680_000_000_000]);
    check(SqlType::TimestampTz, (SqlType::Timestamp.field("x", true), Arc::new(local.clone())), &["2013-07-01T10:00:00Z"]);
    let instant = (SqlType::TimestampTz.field("x", true), Arc::new(local.with_timezone("UTC")) as ArrayRef);
    check(SqlType::Timestamp, instant.clone(), &["2013-07-01T14:00:00"]);
    check(SqlType::Date, instant, &["2013-07-01"]);
    check(SqlType::Vector(3), text(&["{1,2,3}"]), &["[1.0, 2.0, 3.0]"]);
    check(SqlType::Uuid, text(&["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"]), &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]);
    let nothing = (
        Field::new("x", arrow::datatypes::DataType::Null, true),
        arrow::array::new_null_array(&arrow::datatypes::DataType::Null, 1),
    );
    check(SqlType::Date, nothing, &[""]);
}

#[test]
fn what_does_not_fit_is_refused_by_row_and_column() {
    let check =
        |to: SqlType, check: Option<&str>, (field, column): (Field, ArrayRef), code: SqlState, message: &str, detail: &str| {
            let error = assign(to, check, field, column).unwrap_err();
            assert_eq!((error.code(), error.message()), (code, message));
            assert_eq!(error.detail_text(), Some(detail), "{message}");
        };
    let integers = |values: &[i32]| (SqlType::Integer.field("x", true), Arc::new(Int32Array::from(values.to_vec())) as ArrayRef);
    let range = SqlState::NumericValueOutOfRange;
    check(SqlType::SmallInt, None, integers(&[1, 40_000]), range, "smallint out of range", "Row 2, column \"x\".");
    let wide = (SqlType::DoublePrecision.field("x", true), Arc::new(Float64Array::from(vec![1e300])) as ArrayRef);
    check(SqlType::BigInt, None, wide.clone(), range, "bigint out of range", "Row 1, column \"x\".");
    check(SqlType::Real, None, wide, range, "value out of range: overflow", "Row 1, column \"x\".");
    check(
        SqlType::Numeric { precision: 4, scale: 2 },
        None,
        integers(&[99, 100]),
        range,
        "numeric field overflow",
        "A field with precision 4, scale 2 must round to an absolute value less than 10^2.",
    );
    let bad = SqlState::InvalidTextRepresentation;
    check(SqlType::BigInt, None, text(&["1", "x"]), bad, "invalid input syntax for type bigint: \"x\"", "Row 2, column \"x\".");
    check(
        SqlType::Integer,
        Some("x > 0 AND b < 1"),
        integers(&[1, 1]),
        SqlState::CheckViolation,
        "new row for relation \"v\" violates check constraint \"v_x_check\"",
        "The failing row is row 2.",
    );
    let reals = Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0]));
    let list = ListArray::new(
        SqlType::DoublePrecision.field_ref("item", true),
        arrow::buffer::OffsetBuffer::from_lengths([1, 2]),
        reals,
        None,
    );
    let field = SqlType::Array(Box::new(SqlType::DoublePrecision)).field("x", true);
    let wrong = (field, Arc::new(list) as ArrayRef);
    check(SqlType::Vector(1), None, wrong, SqlState::DataException, "expected 1 elements, not 2", "Row 2, column \"x\".");
    let boolean = assign(SqlType::Boolean, None, integers(&[1]).0, integers(&[1]).1).unwrap_err();
    assert_eq!(boolean.message(), "column \"x\" is of type boolean but expression is of type integer");
    assert!(Ingest::check_conditions(&view(1, vec![feature("x", SqlType::Integer, Some("y > 0"))])).is_err());
    assert!(Ingest::check_conditions(&view(1, vec![feature("x", SqlType::Integer, Some("x + 1"))])).is_err());
}

#[test]
fn keys_and_event_times_are_there() {
    let root = tempfile::tempdir().unwrap();
    let gateway = Gateway::over(&root, Arc::new(MemoryStore::new()), 1000);
    let target = Target::View(plain_view());
    let check = |columns: Vec<(&str, ArrayRef)>, code: SqlState, message: &str| {
        let rows =
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap();
        let error = gateway.ingest.validate(&target, &rows, &intake(at(1000), "UTC")).unwrap_err();
        assert_eq!((error.code(), error.message()), (code, message));
    };
    let a = || ("a", Arc::new(StringArray::from(vec!["x"])) as ArrayRef);
    let b = || ("b", Arc::new(Int64Array::from(vec![1])) as ArrayRef);
    let time = |micros: Option<i64>| {
        ("event_time", Arc::new(TimestampMicrosecondArray::from(vec![micros]).with_timezone("UTC")) as ArrayRef)
    };
    let null = |column: &str| format!("null value in column \"{column}\" of relation \"v\" violates not-null constraint");
    check(vec![a()], SqlState::NotNullViolation, &null("b"));
    check(vec![a(), ("b", Arc::new(Int64Array::from(vec![None])))], SqlState::NotNullViolation, &null("b"));
    check(vec![a(), b(), time(None)], SqlState::NotNullViolation, &null("event_time"));
    let infinite = "an event time must be finite, and column \"event_time\" is an event time";
    check(vec![a(), b(), time(Some(i64::MAX))], SqlState::DatetimeFieldOverflow, infinite);
    check(vec![a(), b(), ("c", b().1)], SqlState::UndefinedColumn, "column \"c\" of relation \"v\" does not exist");
    check(vec![a(), b(), b()], SqlState::DuplicateColumn, "column \"b\" specified more than once");
}

#[tokio::test]
async fn catching_up_over_a_rewrite_misses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let view = plain_view();
    let registry = registry(&view);
    let store: Arc<dyn OnlineStore> = Arc::new(MemoryStore::new());
    let one = Gateway::over(&root, store.clone(), 100);
    one.ingest.create(&Target::View(view.clone())).await.unwrap();
    one.write(&view, &[("a", 1, 10, 1)]).await;
    one.ingest.catch_up(&registry).await.unwrap();
    // Another gateway, which has an online store of its own, writes and rewrites; a row of the future is among its rows.
    let other = Gateway::over(&root, Arc::new(MemoryStore::new()), 100);
    other.write(&view, &[("b", 1, 20, 2)]).await;
    other.write(&view, &[("a", 1, 150, 3)]).await;
    let order = ["a", "b", "event_time", "created_time", "__sequence"].map(str::to_owned);
    assert_eq!(other.offline.cluster(Dataset::History(view.id), &order, Extent::Whole).await.unwrap(), 3);
    let keys = [("a".to_owned(), 1), ("b".to_owned(), 1)];
    one.ingest.catch_up(&registry).await.unwrap();
    assert_eq!(one.lookup(&view, &keys).await, [Some(1), Some(2)]);
    one.clock.set(at(150)).unwrap();
    one.ingest.catch_up(&registry).await.unwrap();
    assert_eq!(one.lookup(&view, &keys).await, [Some(3), Some(2)]);
    assert_eq!(store.applied(view.id).await.unwrap(), Some(DatasetVersion(5)));
}
