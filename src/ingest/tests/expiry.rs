//! Rows whose lifetime is over leave the online store, or never come there, and no answer tells.

use super::*;

const SECOND: i64 = 1_000_000;
const TTL: i64 = 60 * SECOND;

fn view_with_ttl() -> Arc<FeatureView> {
    let mut view = FeatureView::clone(&plain_view());
    view.ttl = Some(Ttl::from_micros(TTL).unwrap());
    Arc::new(view)
}

/// As [`Gateway::over`], as if its clock ran by itself.
fn expiring(root: &tempfile::TempDir, store: Arc<dyn OnlineStore>, now: i64) -> Gateway {
    Gateway::with(root, OnlineViews::new(store).with_expiry(), now)
}

/// The rows of some keys that lookups at the clock's present are given, live or not.
async fn given(gateway: &Gateway, view: &Arc<FeatureView>, keys: &[(String, i64)]) -> Vec<Option<PackedRow>> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(keys.iter().map(|key| &key.0))),
        Arc::new(Int64Array::from_iter_values(keys.iter().map(|key| key.1))),
    ];
    let entities = entity_keys(&view.keys, &columns).unwrap();
    let keys: Vec<_> = entities.into_iter().map(|entity| RowKey { view: view.id, entity: entity.unwrap() }).collect();
    gateway.online.get(&keys, gateway.clock.now().as_event_time()).await.unwrap()
}

/// The newest `n` of each key that is not past the TTL.
async fn live(gateway: &Gateway, view: &Arc<FeatureView>, keys: &[(String, i64)]) -> Vec<Option<i64>> {
    let now = gateway.clock.now().as_event_time();
    let rows = given(gateway, view, keys).await;
    let live = |row: &&PackedRow| Ttl::is_live(view.ttl, row.version().event_time, now);
    let rows: Vec<Option<&PackedRow>> = rows.iter().map(|row| row.as_ref().filter(live)).collect();
    let columns = RowLayout::new(view).unpack(&rows, &[0]).unwrap();
    columns[1].as_primitive::<Int64Type>().iter().collect()
}

/// Random histories under a clock that leaps: rows come hours late, and in any order; after each step lookups give what a
/// straightforward reading of all rows gives, and an audit finds nothing wrong.
async fn agrees_with_brute_force(store: Arc<dyn OnlineStore>, fresh: impl Fn() -> Arc<dyn OnlineStore>, seed: u64) {
    let root = tempfile::tempdir().unwrap();
    let view = view_with_ttl();
    let mut now = 20_000 * SECOND;
    let gateway = expiring(&root, store, now);
    gateway.ingest.create(&Target::View(view.clone())).await.unwrap();
    let keys: Vec<(String, i64)> = (0..12).map(|number| (format!("k{}", number % 5), number)).collect();
    let mut written: Vec<(usize, i64, i64)> = Vec::new();
    let mut random = numbers(seed);
    for step in 0..40 {
        now += [1, 30, 61, 1800, 3700, 9000][random(6) as usize] * SECOND;
        gateway.clock.set(at(now)).unwrap();
        // From a moment ahead to long past the TTL and the hour after it.
        let ages = [-30, 0, 20, 60, 61, 1000, 3659, 3661, 5000, 9000];
        let rows: Vec<_> = (0..1 + random(6))
            .map(|place| {
                let event_time = now - ages[random(ages.len() as u64) as usize] * SECOND;
                (random(keys.len() as u64) as usize, event_time, step * 100 + place as i64)
            })
            .collect();
        let batch: Vec<_> = rows.iter().map(|(key, time, n)| (keys[*key].0.as_str(), keys[*key].1, *time, *n)).collect();
        assert!(gateway.write(&view, &batch).await.warnings.is_empty());
        written.extend(rows);
        let expected: Vec<Option<i64>> = (0..keys.len())
            .map(|key| {
                let live = |time: i64| time <= now && time >= now - TTL;
                let rows = written.iter().enumerate().filter(|(_, row)| row.0 == key && live(row.1));
                rows.max_by_key(|(place, row)| (row.1, *place)).map(|(_, row)| row.2)
            })
            .collect();
        assert_eq!(live(&gateway, &view, &keys).await, expected, "seed {seed} step {step}");
        let audit = gateway.ingest.audit(&view, &|_step| {}).await.unwrap();
        assert!(audit.agrees(), "seed {seed} step {step}: {audit:?}");
        if step % 10 == 9 {
            let started = expiring(&root, fresh(), now);
            started.ingest.catch_up(&registry(&view)).await.unwrap();
            assert_eq!(live(&started, &view, &keys).await, expected, "seed {seed} step {step}, started anew");
            gateway.ingest.rebuild_online(&view).await.unwrap();
            assert_eq!(live(&gateway, &view, &keys).await, expected, "seed {seed} step {step}, built anew");
        }
    }
}

#[tokio::test]
async fn memory_without_rows_past_their_lifetime_agrees_with_brute_force() {
    for seed in 0..4 {
        agrees_with_brute_force(Arc::new(MemoryStore::new()), || Arc::new(MemoryStore::new()), seed).await;
    }
}

#[tokio::test]
async fn redis_without_rows_past_their_lifetime_agrees_with_brute_force() {
    let server = RedisServer::start();
    let connect = |id: u128| RedisStore::connect(&server.url(), StoreId(Uuid::from_u128(id)), PATIENT).unwrap();
    for seed in 0..4 {
        let id = u128::from(seed);
        agrees_with_brute_force(Arc::new(connect(id)), || Arc::new(connect(id)), seed).await;
        agrees_with_brute_force(Arc::new(connect(100 + id)), || Arc::new(connect(Uuid::new_v4().as_u128())), 10 + seed).await;
    }
}

/// What is kept: a row for an hour after its TTL; under a clock that is set by hand for ever.
#[tokio::test]
async fn a_row_past_its_lifetime_is_not_kept_and_not_missed() {
    let view = view_with_ttl();
    let now = 20_000 * SECOND;
    let keys = ["live", "expired", "gone", "due"].map(|key| (key.to_owned(), 1));
    for (sets_the_clock, kept) in [(false, [true, true, false, false]), (true, [true, true, true, false])] {
        let root = tempfile::tempdir().unwrap();
        let store: Arc<dyn OnlineStore> = Arc::new(MemoryStore::new());
        let gateway = match sets_the_clock {
            true => Gateway::over(&root, store.clone(), now),
            false => expiring(&root, store.clone(), now),
        };
        gateway.ingest.create(&Target::View(view.clone())).await.unwrap();
        let due = now + 10 * SECOND;
        let rows = [
            ("live", 1, now, 1),
            ("expired", 1, now - TTL - 1, 2),
            ("gone", 1, now - TTL - 3600 * SECOND, 3),
            ("due", 1, due, 4),
        ];
        gateway.write(&view, &rows).await;
        let there = async || given(&gateway, &view, &keys).await.iter().map(Option::is_some).collect::<Vec<_>>();
        assert_eq!(there().await, kept);
        gateway.ingest.rebuild_online(&view).await.unwrap();
        assert_eq!(there().await, kept, "built anew");
        let audit = async || gateway.ingest.audit(&view, &|_step| {}).await.unwrap();
        assert_eq!(audit().await, Audit { built: true, entities: 1, ..Audit::default() });
        // A row that waited for its time too long is not brought any more.
        gateway.clock.set(at(due + TTL + 3600 * SECOND)).unwrap();
        assert_eq!(there().await[3], sets_the_clock);
        assert!(audit().await.agrees());
        // An older row in the place of one past its TTL is no difference, nor is none at all; one of a live row is.
        let applied = store.applied(view.id).await.unwrap().unwrap();
        for (now, expected) in [(now, Audit { missing: 1, ..Audit::default() }), (now + 2 * TTL, Audit::default())] {
            gateway.clock.set(at(now)).unwrap();
            put_online(&store, &view, Vec::new(), applied).await;
            let entities = expected.missing;
            assert_eq!(audit().await, Audit { built: true, entities, ..expected });
        }
    }
}
