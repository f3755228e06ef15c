//! Writes that are too large to be held.

use futures::StreamExt;

use super::*;
use crate::offline::{CREATED_TIME, SEQUENCE};

/// Text that makes a row a kilobyte, so that few rows are many bytes.
const WIDE: usize = 1000;
const ROWS: usize = 45_000;
const BATCH: usize = 5000;
const ENTITIES: usize = 700;

fn wide_view() -> Arc<FeatureView> {
    view(16_384, vec![feature("n", SqlType::BigInt, Some("n >= 0")), feature("text", SqlType::Text, None)])
}

/// Row `number` of entity `number % ENTITIES`, true since `number`; the last rows of some entities are of the future.
fn wide_rows(first: usize, n: impl Fn(usize) -> i64) -> RecordBatch {
    let numbers = first..first + BATCH;
    let times = TimestampMicrosecondArray::from_iter_values(numbers.clone().map(|number| number as i64)).with_timezone("UTC");
    let columns: [(&str, ArrayRef); 5] = [
        ("a", Arc::new(StringArray::from_iter_values(numbers.clone().map(|number| format!("k{}", number % ENTITIES))))),
        ("b", Arc::new(Int64Array::from_iter_values(numbers.clone().map(|_| 1)))),
        ("event_time", Arc::new(times)),
        ("n", Arc::new(Int64Array::from_iter_values(numbers.clone().map(n)))),
        ("text", Arc::new(StringArray::from_iter_values(numbers.map(|_| "x".repeat(WIDE))))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn wide_stream(gateway: &Gateway, then: i64, n: fn(usize) -> i64) -> BatchStream {
    let clock = Arc::clone(&gateway.clock);
    let batches = futures::stream::iter((0..ROWS).step_by(BATCH)).map(move |first| {
        if first + BATCH == ROWS {
            clock.set(at(then)).unwrap();
        }
        Ok(wide_rows(first, n))
    });
    batches.boxed()
}

async fn stored(gateway: &Gateway, view: &FeatureView, column: &str) -> Vec<i64> {
    let history = Dataset::History(view.id);
    let version = gateway.offline.latest(history).await.unwrap().version;
    let scan = Scan { columns: vec![column.into()], ..Scan::default() };
    let batches: Vec<_> = gateway.offline.scan(history, version, scan).await.unwrap().try_collect().await.unwrap();
    let values = batches.iter().map(|batch| arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Int64).unwrap());
    values.flat_map(|values| values.as_primitive::<Int64Type>().values().to_vec()).collect()
}

async fn gateway_with(view: &Arc<FeatureView>, root: &tempfile::TempDir, now: i64) -> Gateway {
    let gateway = Gateway::over(root, Arc::new(MemoryStore::new()), now);
    gateway.ingest.create(&Target::View(view.clone())).await.unwrap();
    gateway
}

#[tokio::test]
async fn many_rows_are_one_commit_and_the_newest_are_online() {
    let (root, view) = (tempfile::tempdir().unwrap(), wide_view());
    let now = ROWS as i64 - 1000;
    let gateway = gateway_with(&view, &root, now).await;
    let before = gateway.offline.latest(Dataset::History(view.id)).await.unwrap().version;
    let target = Target::View(view.clone());
    let rows = wide_stream(&gateway, now, |number| number as i64);
    let written = gateway.ingest.write_stream(&target, rows, intake(at(now), "UTC")).await.unwrap();
    assert_eq!((written.rows, written.warnings.len()), (ROWS as u64, 0));
    let commit = gateway.offline.latest(Dataset::History(view.id)).await.unwrap();
    assert_eq!((commit.version.0, commit.created_time), (before.0 + 1, at(now)));

    let mut numbers = stored(&gateway, &view, "n").await;
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..ROWS as i64));
    let mut sequences = stored(&gateway, &view, SEQUENCE).await;
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), ROWS);

    let keys: Vec<_> = (0..ENTITIES).map(|entity| (format!("k{entity}"), 1)).collect();
    let newest_by = |now: usize| move |entity: usize| (0..=now).rev().find(|number| number % ENTITIES == entity);
    let expected: Vec<_> = (0..ENTITIES).map(newest_by(now as usize)).map(|number| number.map(|n| n as i64)).collect();
    assert_eq!(gateway.lookup(&view, &keys).await, expected);
    // Those of the future become visible when their time comes.
    gateway.clock.set(at(ROWS as i64)).unwrap();
    let expected: Vec<_> = (0..ENTITIES).map(newest_by(ROWS - 1)).map(|number| number.map(|n| n as i64)).collect();
    assert_eq!(gateway.lookup(&view, &keys).await, expected);
}

#[tokio::test]
async fn a_row_that_is_refused_late_leaves_nothing() {
    let (root, view) = (tempfile::tempdir().unwrap(), wide_view());
    let gateway = gateway_with(&view, &root, ROWS as i64).await;
    let rows = wide_stream(&gateway, ROWS as i64, |number| if number == ROWS - 3 { -1 } else { 1 });
    let written = gateway.ingest.write_stream(&Target::View(view.clone()), rows, intake(at(1), "UTC")).await;
    let error = written.unwrap_err();
    assert_eq!(error.code(), SqlState::CheckViolation);
    assert_eq!(error.detail_text(), Some(format!("The failing row is row {}.", ROWS - 2).as_str()));
    assert!(stored(&gateway, &view, "n").await.is_empty());
}

#[tokio::test]
async fn a_slow_write_gets_the_time_at_which_it_is_committed() {
    let (root, view) = (tempfile::tempdir().unwrap(), wide_view());
    let gateway = gateway_with(&view, &root, 1).await;
    let later = 1 + 5 * super::super::commit::COMMIT_LAG;
    let rows = wide_stream(&gateway, later, |number| number as i64);
    gateway.ingest.write_stream(&Target::View(view.clone()), rows, intake(at(1), "UTC")).await.unwrap();
    let commit = gateway.offline.latest(Dataset::History(view.id)).await.unwrap();
    assert_eq!(commit.created_time, at(later));
    assert!(stored(&gateway, &view, CREATED_TIME).await.iter().all(|created| *created == later));
    // The rows can be rewritten like any others.
    gateway.ingest.optimize(&view).await.unwrap();
    assert_eq!(stored(&gateway, &view, CREATED_TIME).await, vec![later; ROWS]);
    assert_eq!(gateway.lookup(&view, &[("k0".into(), 1)]).await, [Some((ROWS - 1 - (ROWS - 1) % ENTITIES) as i64)]);
}
