use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Float64Array, Int32Array, Int64Array, StringArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Int64Type, Schema, UInt64Type};
use futures::{StreamExt, TryStreamExt, stream};

use super::*;
use crate::offline::{CREATED_TIME, Extent, Predicate};
use crate::registry::ObjectId;
use crate::time::EventTime;
use crate::types::SqlType;

const HISTORY: Dataset = Dataset::History(ObjectId(16_384));

fn at(micros: i64) -> CommitTime {
    CommitTime::from_micros(micros)
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![SqlType::BigInt.field("k", false), SqlType::Text.field("text", true)]))
}

fn rows(keys: std::ops::Range<i64>) -> RecordBatch {
    let texts = keys.clone().map(|key| (key % 3 != 0).then(|| format!("it's {key}")));
    let texts: ArrayRef = Arc::new(StringArray::from_iter(texts));
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(keys)), texts]).unwrap()
}

async fn store() -> (tempfile::TempDir, LanceStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = LanceStore::new(folder.path().join("a root").to_str().unwrap()).unwrap();
    store.create(HISTORY, schema()).await.unwrap();
    (folder, store)
}

async fn read(store: &LanceStore, dataset: Dataset, version: DatasetVersion, scan: Scan) -> Vec<RecordBatch> {
    store.scan(dataset, version, scan).await.unwrap().try_collect().await.unwrap()
}

async fn keys(store: &LanceStore, version: DatasetVersion, scan: Scan) -> Vec<i64> {
    let batches = read(store, HISTORY, version, Scan { columns: vec!["k".into()], ..scan }).await;
    let mut keys: Vec<i64> =
        batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn each_commit_is_a_version_that_stays() {
    let (_folder, store) = store().await;
    let empty = store.latest(HISTORY).await.unwrap();
    assert_eq!(empty.created_time, at(0));
    assert!(keys(&store, empty.version, Scan::default()).await.is_empty());
    let first = store.append(HISTORY, rows(0..3), at(10)).await.unwrap();
    let second = store.append(HISTORY, rows(3..5), at(20)).await.unwrap();
    assert_eq!(first, Commit { version: DatasetVersion(empty.version.0 + 1), created_time: at(10) });
    assert_eq!(second, Commit { version: DatasetVersion(empty.version.0 + 2), created_time: at(20) });
    assert_eq!(store.latest(HISTORY).await.unwrap(), second);
    assert_eq!(keys(&store, second.version, Scan::default()).await, [0, 1, 2, 3, 4]);
    assert_eq!(keys(&store, first.version, Scan::default()).await, [0, 1, 2]);
    let added = Scan { added_after: Some(first.version), ..Scan::default() };
    assert_eq!(keys(&store, second.version, added).await, [3, 4]);
    let added = Scan { added_after: Some(second.version), ..Scan::default() };
    assert!(keys(&store, second.version, added).await.is_empty());
}

#[tokio::test]
async fn commits_of_others_are_seen_and_commit_times_survive_a_restart() {
    let (folder, one) = store().await;
    let other = LanceStore::new(folder.path().join("a root").to_str().unwrap()).unwrap();
    other.create(HISTORY, schema()).await.unwrap();
    other.append(HISTORY, rows(0..3), at(10)).await.unwrap();
    assert_eq!(one.latest(HISTORY).await.unwrap(), Commit { version: DatasetVersion(2), created_time: at(10) });
    one.append(HISTORY, rows(3..5), at(20)).await.unwrap();
    let third = other.append(HISTORY, rows(5..6), at(30)).await.unwrap();
    assert_eq!(one.latest(HISTORY).await.unwrap(), third);
    let restarted = LanceStore::new(folder.path().join("a root").to_str().unwrap()).unwrap();
    assert_eq!(restarted.latest(HISTORY).await.unwrap(), third);
    assert_eq!(keys(&restarted, third.version, Scan::default()).await, [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn rows_are_taken_in_the_order_of_their_addresses() {
    let (_folder, store) = store().await;
    store.append(HISTORY, rows(0..100), at(10)).await.unwrap();
    let commit = store.append(HISTORY, rows(100..200), at(20)).await.unwrap();
    let scan = Scan { columns: vec!["k".into()], row_address: true, ..Scan::default() };
    let batches = read(&store, HISTORY, commit.version, scan).await;
    let all = concat_batches(&batches[0].schema(), &batches).unwrap();
    assert_eq!(all.schema().field(1).name(), ROW_ADDRESS);
    let pairs: Vec<(i64, u64)> = all
        .column(0)
        .as_primitive::<Int64Type>()
        .values()
        .iter()
        .copied()
        .zip(all.column(1).as_primitive::<UInt64Type>().values().iter().copied())
        .collect();
    let wanted: Vec<(i64, u64)> = [150, 3, 3, 199, 0].iter().map(|key| *pairs.iter().find(|(k, _)| k == key).unwrap()).collect();
    let addresses: Vec<u64> = wanted.iter().map(|(_, address)| *address).collect();
    let taken = store.take(HISTORY, commit.version, &addresses, &["text".into(), "k".into()]).await.unwrap();
    assert_eq!(taken.column(1).as_primitive::<Int64Type>().values(), &[150, 3, 3, 199, 0]);
    assert!(taken.column(0).is_null(0));
    assert_eq!(taken.column(0).as_string::<i32>().value(3), "it's 199");
}

#[tokio::test]
async fn a_count_needs_no_column() {
    let (_folder, store) = store().await;
    let commit = store.append(HISTORY, rows(0..100), at(10)).await.unwrap();
    let batches = read(&store, HISTORY, commit.version, Scan::default()).await;
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 100);
    assert_eq!(batches[0].num_columns(), 0);
}

/// Appends `values` as a column named `name` and asks for each value in turn, and for all.
async fn check_filter(store: &LanceStore, id: u32, name: &str, data_type: SqlType, values: ArrayRef) {
    let dataset = Dataset::Table(ObjectId(id));
    let schema = Arc::new(Schema::new(vec![data_type.field(name, true)]));
    store.create(dataset, schema.clone()).await.unwrap();
    let nothing = new_null_array(values.data_type(), 1);
    let stored = arrow::compute::concat(&[values.as_ref(), nothing.as_ref()]).unwrap();
    let commit = store.append(dataset, RecordBatch::try_new(schema.clone(), vec![stored]).unwrap(), at(1)).await.unwrap();
    let find = |values: ArrayRef| {
        let predicates = vec![Predicate::In { column: name.into(), values }];
        let scan = Scan { columns: vec![name.into()], predicates, ..Scan::default() };
        async move {
            let batches = read(store, dataset, commit.version, scan).await;
            batches.iter().map(RecordBatch::num_rows).sum::<usize>()
        }
    };
    for row in 0..values.len() {
        assert_eq!(find(values.slice(row, 1)).await, 1, "row {row} of {data_type} in {name}");
    }
    assert_eq!(find(values.clone()).await, values.len(), "{data_type} in {name}");
    assert_eq!(find(nothing).await, 0);
    assert_eq!(find(values.slice(0, 0)).await, 0);
    let back = read(store, dataset, commit.version, Scan { columns: vec![name.into()], ..Scan::default() }).await;
    assert_eq!(back[0].schema(), schema);
}

#[tokio::test]
async fn keys_of_every_type_and_strange_names_can_be_asked_for() {
    let (_folder, store) = store().await;
    let texts = StringArray::from(vec!["plain", "it's", "\"double\"", "back\\slash", "", "a`b", "é", "x'; DROP TABLE t; --"]);
    let bytes = BinaryArray::from(vec![b"".as_slice(), b"\0", b"'\"\\", b"\xff\xfe"]);
    let uuids = StringArray::from(vec!["00112233-4455-6677-8899-aabbccddeeff", "ffffffff-4455-6677-8899-aabbccddeeff"]);
    let instants =
        TimestampMicrosecondArray::from(vec![0, -1, 1_700_000_000_000_001, -62_135_596_800_000_000, 253_402_300_800_000_000]);
    check_filter(&store, 1, "k", SqlType::Boolean, Arc::new(BooleanArray::from(vec![true, false]))).await;
    check_filter(&store, 2, "k.k", SqlType::Integer, Arc::new(Int32Array::from(vec![0, -1, i32::MIN, i32::MAX]))).await;
    check_filter(&store, 3, "a`b", SqlType::BigInt, Arc::new(Int64Array::from(vec![0, -1, i64::MIN, i64::MAX]))).await;
    check_filter(&store, 4, "with space", SqlType::Text, Arc::new(texts)).await;
    check_filter(&store, 5, "\"K\"", SqlType::Bytea, Arc::new(bytes)).await;
    check_filter(&store, 6, "_rowid", SqlType::Uuid, Arc::new(uuids)).await;
    check_filter(&store, 7, "select", SqlType::Date, Arc::new(Date32Array::from(vec![0, -1, 20_000, 3_000_000]))).await;
    check_filter(&store, 8, "100%", SqlType::Timestamp, Arc::new(instants.clone())).await;
    check_filter(&store, 9, "é", SqlType::TimestampTz, Arc::new(instants.with_timezone("UTC"))).await;
}

#[tokio::test]
async fn event_times_are_bounded_on_both_ends() {
    let (_folder, store) = store().await;
    let dataset = Dataset::Table(ObjectId(1));
    let schema = Arc::new(Schema::new(vec![SqlType::TimestampTz.field("t", false)]));
    store.create(dataset, schema.clone()).await.unwrap();
    let instants = TimestampMicrosecondArray::from(vec![-5, 0, 5, 10]).with_timezone("UTC");
    let commit = store.append(dataset, RecordBatch::try_new(schema, vec![Arc::new(instants)]).unwrap(), at(1)).await.unwrap();
    for (min, max, expected) in
        [(None, None, 4), (Some(0), None, 3), (None, Some(0), 2), (Some(-5), Some(5), 3), (Some(6), Some(9), 0)]
    {
        let time = EventTime::from_micros;
        let predicate = Predicate::EventTime { column: "t".into(), min: min.map(time), max: max.map(time) };
        let scan = Scan { columns: vec!["t".into()], predicates: vec![predicate], ..Scan::default() };
        let batches = read(&store, dataset, commit.version, scan).await;
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), expected, "{min:?} {max:?}");
    }
}

#[tokio::test]
async fn every_type_is_stored() {
    let (_folder, store) = store().await;
    let scalars = [
        SqlType::Boolean,
        SqlType::SmallInt,
        SqlType::Integer,
        SqlType::BigInt,
        SqlType::Real,
        SqlType::DoublePrecision,
        SqlType::Numeric { precision: 38, scale: 10 },
        SqlType::Text,
        SqlType::Bytea,
        SqlType::Date,
        SqlType::Time,
        SqlType::Timestamp,
        SqlType::TimestampTz,
        SqlType::Interval,
        SqlType::Uuid,
        SqlType::Json,
    ];
    let mut types = scalars.to_vec();
    types.extend(scalars.into_iter().map(|element| SqlType::Array(Box::new(element))));
    types.push(SqlType::Vector(3));
    let fields: Vec<_> = types.iter().enumerate().map(|(place, data_type)| data_type.field(format!("c{place}"), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let dataset = Dataset::Table(ObjectId(1));
    store.create(dataset, schema.clone()).await.unwrap();
    let nulls = schema.fields().iter().map(|field| new_null_array(field.data_type(), 2)).collect();
    let nulls = RecordBatch::try_new(schema.clone(), nulls).unwrap();
    let commit = store.append(dataset, nulls.clone(), at(1)).await.unwrap();
    let columns = schema.fields().iter().map(|field| field.name().clone()).collect();
    let back = read(&store, dataset, commit.version, Scan { columns, ..Scan::default() }).await;
    assert_eq!(back[0].schema(), schema);
    for (place, data_type) in types.iter().enumerate() {
        assert_eq!(back[0].column(place).null_count(), 2, "{data_type}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_an_error_that_names_it() {
    let (folder, store) = store().await;
    let missing = Dataset::History(ObjectId(99));
    let error = store.latest(missing).await.unwrap_err();
    assert_eq!(error.code(), SqlState::IoError);
    assert_eq!(error.message(), "dataset \"views/99/history.lance\" is not in the store");
    let error = store.append(missing, rows(0..1), at(1)).await.unwrap_err();
    assert_eq!(error.code(), SqlState::IoError);
    let error = store.scan(HISTORY, DatasetVersion(77), Scan::default()).await.err().unwrap();
    assert_eq!(error.message(), "could not read version 77 of dataset \"views/16384/history.lance\"");
    let scan = Scan { columns: vec!["nope".into()], ..Scan::default() };
    assert_eq!(store.scan(HISTORY, DatasetVersion(1), scan).await.err().unwrap().code(), SqlState::UndefinedColumn);
    store.append(HISTORY, rows(0..1), at(1)).await.unwrap();
    store.remove(HISTORY).await.unwrap();
    store.remove(HISTORY).await.unwrap();
    assert!(!folder.path().join("a root/views/16384").exists());
    assert_eq!(store.latest(HISTORY).await.unwrap_err().code(), SqlState::IoError);
}

#[tokio::test]
async fn a_dataset_is_made_once_and_keeps_its_columns() {
    let (_folder, store) = store().await;
    store.append(HISTORY, rows(0..3), at(10)).await.unwrap();
    store.create(HISTORY, schema()).await.unwrap();
    assert_eq!(store.latest(HISTORY).await.unwrap().created_time, at(10));
    let other = Arc::new(Schema::new(vec![Field::new("x", DataType::Float64, true)]));
    assert!(store.create(HISTORY, other.clone()).await.is_err());
    let wrong = RecordBatch::try_new(other, vec![Arc::new(Float64Array::from(vec![1.0]))]).unwrap();
    assert!(store.append(HISTORY, wrong, at(20)).await.is_err());
}

#[tokio::test]
async fn two_gateways_append_side_by_side() {
    let (folder, one) = store().await;
    let other = LanceStore::new(folder.path().join("a root").to_str().unwrap()).unwrap();
    let writes = |store: Arc<LanceStore>, from: i64| async move {
        for n in 0..10 {
            store.append(HISTORY, rows(from + n..from + n + 1), at(n)).await.unwrap();
        }
    };
    let (one, other) = (Arc::new(one), Arc::new(other));
    tokio::join!(writes(one.clone(), 0), writes(other.clone(), 100));
    let latest = one.latest(HISTORY).await.unwrap();
    assert_eq!(latest.version, DatasetVersion(21));
    assert_eq!(keys(&one, latest.version, Scan::default()).await.len(), 20);
}

#[tokio::test]
async fn a_rewrite_keeps_rows_commit_times_and_older_versions() {
    let (folder, store) = store().await;
    let mut commits = vec![store.latest(HISTORY).await.unwrap()];
    for n in 0..6 {
        commits.push(store.append(HISTORY, rows(10 * (5 - n)..10 * (5 - n) + 10), at(100 + n)).await.unwrap());
    }
    assert_eq!(store.cluster(HISTORY, &["k".into()], Extent::Whole).await.unwrap(), 6);
    let rewritten = store.latest(HISTORY).await.unwrap();
    assert_eq!(rewritten, Commit { version: DatasetVersion(8), created_time: at(105) });
    let batches = read(&store, HISTORY, rewritten.version, Scan { columns: vec!["k".into()], ..Scan::default() }).await;
    let stored: Vec<i64> = batches.iter().flat_map(|it| it.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    assert_eq!(stored, (0..60).collect::<Vec<_>>());
    assert_eq!(store.cluster(HISTORY, &["k".into()], Extent::Whole).await.unwrap(), 0);
    let appended = store.append(HISTORY, rows(60..61), at(110)).await.unwrap();
    assert_eq!(appended.version, DatasetVersion(9));
    let restarted = LanceStore::new(folder.path().join("a root").to_str().unwrap()).unwrap();
    for store in [&store, &restarted] {
        for (place, commit) in commits.iter().enumerate() {
            assert_eq!(store.commit_of(HISTORY, commit.version).await.unwrap(), Some(*commit));
            assert_eq!(keys(store, commit.version, Scan::default()).await.len(), 10 * place);
        }
        assert_eq!(store.commit_of(HISTORY, rewritten.version).await.unwrap(), Some(rewritten));
        assert_eq!(store.latest(HISTORY).await.unwrap(), appended);
    }
}

#[tokio::test]
async fn rows_added_since_a_version_are_the_same_after_rewrites() {
    let (_folder, store) = store().await;
    // The rows that each version has beyond the one before it.
    let mut added: Vec<Vec<i64>> = vec![Vec::new(), Vec::new()];
    for n in 0..20_i64 {
        store.append(HISTORY, rows(n..n + 1), at(n)).await.unwrap();
        added.push(vec![n]);
        if n % 3 == 2 && store.cluster(HISTORY, &["k".into()], Extent::Whole).await.unwrap() > 0 {
            added.push(Vec::new());
        }
    }
    let last = store.latest(HISTORY).await.unwrap().version;
    assert_eq!(usize::try_from(last.0).unwrap() + 1, added.len());
    for from in 1..added.len() {
        for to in from..added.len() {
            let scan = Scan { added_after: Some(DatasetVersion(from as u64)), ..Scan::default() };
            let expected: Vec<i64> = added[from + 1..=to].concat();
            assert_eq!(keys(&store, DatasetVersion(to as u64), scan).await, expected, "from {from} to {to}");
        }
    }
}

#[tokio::test]
async fn writers_and_a_rewriter_lose_nothing_to_each_other() {
    let (folder, one) = store().await;
    let other = LanceStore::new(folder.path().join("a root").to_str().unwrap()).unwrap();
    let writer = async {
        for n in 0..40 {
            one.append(HISTORY, rows(n..n + 1), at(n)).await.unwrap();
        }
    };
    let rewriter = async {
        for _ in 0..15 {
            other.cluster(HISTORY, &["k".into()], Extent::Whole).await.unwrap();
        }
    };
    tokio::join!(writer, rewriter);
    other.cluster(HISTORY, &["k".into()], Extent::Whole).await.unwrap();
    let latest = one.latest(HISTORY).await.unwrap();
    assert_eq!(latest.created_time, at(39));
    assert_eq!(keys(&one, latest.version, Scan::default()).await, (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_tail_is_rewritten_once_it_is_long_and_fragments_stay_few() {
    let (_folder, store) = store().await;
    for n in 0..300 {
        store.append(HISTORY, rows(n..n + 1), at(n)).await.unwrap();
        store.cluster(HISTORY, &["k".into()], Extent::Tail).await.unwrap();
        let fragments = store.handles.newest(HISTORY).await.unwrap().fragments().len();
        assert!(fragments < 100, "{fragments} fragments after {n} commits");
    }
    let latest = store.latest(HISTORY).await.unwrap();
    assert!(latest.version.0 < 310, "{latest:?}");
    assert_eq!(latest.created_time, at(299));
    assert_eq!(keys(&store, latest.version, Scan::default()).await, (0..300).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_rewriter_waits_for_another_and_is_not_needed_after_it() {
    let (folder, one) = store().await;
    let other = LanceStore::new(folder.path().join("a root").to_str().unwrap()).unwrap();
    for n in 0..60 {
        one.append(HISTORY, rows(n..n + 1), at(n)).await.unwrap();
    }
    let order = ["k".to_owned()];
    let lock = std::fs::File::options().create(true).append(true).open(one.folder(HISTORY).join("_rewrite.lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(one.cluster(HISTORY, &order, Extent::Tail).await.unwrap(), 0);
    drop(lock);
    let (first, second) =
        tokio::join!(one.cluster(HISTORY, &order, Extent::Whole), other.cluster(HISTORY, &order, Extent::Whole));
    let mut replaced = [first.unwrap(), second.unwrap()];
    replaced.sort_unstable();
    assert_eq!(replaced, [0, 60]);
    assert_eq!(keys(&one, one.latest(HISTORY).await.unwrap().version, Scan::default()).await, (0..60).collect::<Vec<_>>());
}

#[tokio::test]
async fn staged_rows_can_be_given_another_commit_time_more_than_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = LanceStore::new(folder.path().to_str().unwrap()).unwrap();
    let columns = vec![SqlType::BigInt.field("k", false), SqlType::TimestampTz.field(CREATED_TIME, false)];
    let schema = Arc::new(Schema::new(columns));
    store.create(HISTORY, schema.clone()).await.unwrap();
    let created = TimestampMicrosecondArray::from_value(10, 3).with_timezone("UTC");
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1, 2, 3])), Arc::new(created)];
    let rows = RecordBatch::try_new(schema, columns).unwrap();
    let mut staged = store.stage(HISTORY, stream::once(async { Ok(rows) }).boxed(), at(10)).await.unwrap();
    let before = store.latest(HISTORY).await.unwrap();
    for micros in [20, 30] {
        staged = store.restamp(HISTORY, staged, at(micros)).await.unwrap();
        assert_eq!(staged.created_time(), at(micros));
    }
    assert_eq!(store.latest(HISTORY).await.unwrap(), before);
    let commit = store.commit(HISTORY, staged).await.unwrap();
    assert_eq!(commit, Commit { version: DatasetVersion(before.version.0 + 1), created_time: at(30) });
    let scan = Scan { columns: vec![CREATED_TIME.into(), "k".into()], ..Scan::default() };
    let batches = read(&store, HISTORY, commit.version, scan).await;
    let created = batches[0].column(0).as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
    assert_eq!(created.values(), &[30, 30, 30]);
    assert_eq!(keys(&store, commit.version, Scan::default()).await, [1, 2, 3]);
    assert_eq!(LanceStore::new(folder.path().to_str().unwrap()).unwrap().latest(HISTORY).await.unwrap(), commit);
}
