//! What nobody can read is removed; what somebody can is not.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use futures::{StreamExt, TryStreamExt, stream};

use super::super::*;
use crate::offline::Extent;
use crate::registry::ObjectId;
use crate::types::SqlType;

const HISTORY: Dataset = Dataset::History(ObjectId(16_384));

/// Where a child process that is to be killed finds the store.
const CHILD_ROOT: &str = "TIDY_TEST_ROOT";

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![SqlType::BigInt.field("k", false)]))
}

fn rows(keys: std::ops::Range<i64>) -> RecordBatch {
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(keys))]).unwrap()
}

fn at(micros: i64) -> CommitTime {
    CommitTime::from_micros(micros)
}

async fn store(root: &Path, leftover_age: Duration) -> LanceStore {
    let store = LanceStore::with_durability(root.to_str().unwrap(), Durability::Cached).unwrap();
    let store = store.with_leftover_age(leftover_age);
    store.create(HISTORY, schema()).await.unwrap();
    store
}

async fn keys(store: &LanceStore, version: u64) -> Vec<i64> {
    let scan = Scan { columns: vec!["k".into()], ..Scan::default() };
    let batches: Vec<_> = store.scan(HISTORY, DatasetVersion(version), scan).await.unwrap().try_collect().await.unwrap();
    let keys = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
    let mut keys: Vec<i64> = batches.iter().flat_map(keys).collect();
    keys.sort_unstable();
    keys
}

fn files(store: &LanceStore, folder: &str) -> usize {
    std::fs::read_dir(store.folder(HISTORY).join(folder)).map_or(0, Iterator::count)
}

/// Does nothing by itself: [`a_killed_writer_leaves_nothing_behind`] starts it in a process of its own, and kills that.
#[tokio::test]
async fn a_writer_that_never_ends() {
    let Ok(root) = std::env::var(CHILD_ROOT) else { return };
    let store = store(Path::new(&root), Duration::ZERO).await;
    let folder = store.folder(HISTORY).join("data");
    let mut next = 0;
    let batches = stream::repeat_with(move || {
        next += 100_000;
        // A file was begun, and will never be named.
        if std::fs::read_dir(&folder).is_ok_and(|files| files.count() > 3) {
            println!("written");
        }
        Ok(rows(next..next + 100_000))
    });
    store.stage(HISTORY, batches.boxed(), at(99)).await.unwrap();
}

#[tokio::test]
async fn a_killed_writer_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), Duration::ZERO).await;
    for n in 0..3 {
        store.append(HISTORY, rows(n..n + 1), at(n)).await.unwrap();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "offline::lance::tests::tidying::a_writer_that_never_ends"])
        .env(CHILD_ROOT, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    assert!(output.lines().any(|line| line.unwrap().contains("written")), "the writer ended by itself");
    child.kill().unwrap();
    child.wait().unwrap();
    let leftovers = files(&store, "data") - 3;
    assert!(leftovers > 0);
    let patient = LanceStore::new(folder.path().to_str().unwrap()).unwrap();
    assert_eq!(patient.tidy(HISTORY, None).await.unwrap(), 0, "files younger than an hour may be somebody's");
    assert_eq!(store.tidy(HISTORY, None).await.unwrap(), leftovers);
    assert_eq!((files(&store, "data"), files(&store, "_writing")), (3, 0));
    for version in 1..=4 {
        assert_eq!(keys(&patient, version).await, (0..i64::try_from(version).unwrap() - 1).collect::<Vec<_>>());
    }
    assert_eq!(store.tidy(HISTORY, None).await.unwrap(), 0);
}

#[tokio::test]
async fn a_write_under_way_keeps_its_files_however_old() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), Duration::ZERO).await;
    // Set before the write: as if that had taken long and marked itself.
    let mark = leftovers::Mark::set(&store.folder(HISTORY)).unwrap();
    let one = stream::once(async { Ok(rows(0..10)) }).boxed();
    let staged = store.stage(HISTORY, one, at(1)).await.unwrap();
    assert_eq!(store.tidy(HISTORY, None).await.unwrap(), 0);
    let committed = store.commit(HISTORY, staged).await.unwrap();
    drop(mark);
    assert_eq!(store.tidy(HISTORY, None).await.unwrap(), 0);
    assert_eq!(keys(&store, committed.version.0).await, (0..10).collect::<Vec<_>>());
    let nobodys = stream::once(async { Ok(rows(0..10)) }).boxed();
    drop(store.stage(HISTORY, nobodys, at(2)).await.unwrap());
    assert_eq!(store.tidy(HISTORY, None).await.unwrap(), 1);
}

#[tokio::test]
async fn zones_of_files_that_are_gone_go_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), Duration::ZERO).await;
    store.append(HISTORY, rows(0..100_000), at(1)).await.unwrap();
    store.append(HISTORY, rows(0..100_000), at(2)).await.unwrap();
    store.cluster(HISTORY, &["k".into()], Extent::Whole).await.unwrap();
    assert_eq!(files(&store, "_zones"), 1);
    std::fs::write(store.folder(HISTORY).join("_zones/nobody.zones"), b"?").unwrap();
    assert_eq!(store.tidy(HISTORY, None).await.unwrap(), 1);
    assert_eq!(files(&store, "_zones"), 1);
}

#[tokio::test]
async fn versions_are_dropped_but_for_the_newest_and_those_tagged() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), Duration::from_secs(3600)).await;
    let other = LanceStore::new(folder.path().to_str().unwrap()).unwrap();
    for n in 1..=6 {
        store.append(HISTORY, rows(n..n + 1), at(10 * n)).await.unwrap();
    }
    // Version 8 rearranges the rows of versions 2 to 7 and has their last commit time.
    store.cluster(HISTORY, &["k".into()], Extent::Whole).await.unwrap();
    other.append(HISTORY, rows(7..8), at(70)).await.unwrap();
    assert_eq!(keys(&other, 4).await, [1, 2, 3]);
    let tidy = async |since, tagged: &[u64]| {
        let tagged = tagged.iter().copied().map(DatasetVersion).collect();
        store.tidy(HISTORY, Some(&Retention { since: at(since), tagged })).await.unwrap()
    };
    assert_eq!(tidy(10, &[]).await, 0, "version 1 was the newest until 10");
    assert_eq!(tidy(31, &[2]).await, 2);
    assert_eq!(store.earliest(HISTORY).await.unwrap(), DatasetVersion(4));
    let there = async |store: &LanceStore| {
        let mut there = Vec::new();
        for version in 1..=9 {
            there.extend(store.commit_of(HISTORY, DatasetVersion(version)).await.unwrap().map(|commit| commit.version.0));
        }
        there
    };
    assert_eq!(there(&store).await, [2, 4, 5, 6, 7, 8, 9]);
    assert_eq!(tidy(1_000, &[2, 8]).await, 3);
    for store in [&store, &other, &LanceStore::new(folder.path().to_str().unwrap()).unwrap()] {
        // Version 7 says when version 8 was committed.
        assert_eq!(there(store).await, [2, 7, 8, 9]);
        assert_eq!(store.commit_of(HISTORY, DatasetVersion(8)).await.unwrap().unwrap().created_time, at(60));
        assert_eq!(keys(store, 2).await, [1]);
        assert_eq!(keys(store, 8).await, (1..=6).collect::<Vec<_>>());
        assert_eq!(keys(store, 9).await, (1..=7).collect::<Vec<_>>());
    }
    assert_eq!(tidy(1_000, &[]).await, 3);
    assert_eq!(there(&store).await, [9]);
    assert_eq!(store.append(HISTORY, rows(8..9), at(80)).await.unwrap().version, DatasetVersion(10));
    assert_eq!(keys(&store, 10).await, (1..=8).collect::<Vec<_>>());
}
