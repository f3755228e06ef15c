//! A pruned scan gives the rows of a full one that match.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Int16Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{Schema, SchemaRef, TimestampMicrosecondType};
use arrow::util::display::array_value_to_string;
use futures::TryStreamExt;
use proptest::prelude::*;

use super::*;
use crate::offline::{CREATED_TIME, Coverage, Predicate, RETRACTED, ScanWatch};
use crate::registry::ObjectId;
use crate::time::EventTime;
use crate::types::SqlType;

const HISTORY: Dataset = Dataset::History(ObjectId(16_384));

/// The types a key may have.
const KEY_TYPES: [SqlType; 9] = [
    SqlType::Boolean,
    SqlType::SmallInt,
    SqlType::Integer,
    SqlType::BigInt,
    SqlType::Text,
    SqlType::Bytea,
    SqlType::Uuid,
    SqlType::Date,
    SqlType::TimestampTz,
];

/// What the last scan covered.
#[derive(Debug, Default)]
struct Watched(parking_lot::Mutex<Coverage>);

impl ScanWatch for Watched {
    fn scans(&self, coverage: Coverage) {
        *self.0.lock() = coverage;
    }
}

fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// Keys that stand for these numbers, in the order of the numbers.
fn keys(data_type: &SqlType, numbers: &[Option<i64>]) -> ArrayRef {
    let numbers = || numbers.iter().copied();
    let narrow = |number: Option<i64>| number.map(|number| i32::try_from(number).unwrap());
    let text = |number: Option<i64>| number.map(|number| format!("{}{:08}", "a long beginning ".repeat(5), number + 1_000_000));
    match data_type {
        SqlType::Boolean => Arc::new(numbers().map(|number| number.map(|number| number % 2 == 1)).collect::<BooleanArray>()),
        SqlType::SmallInt => {
            Arc::new(numbers().map(|number| number.map(|number| i16::try_from(number % 30_000).unwrap())).collect::<Int16Array>())
        }
        SqlType::Integer => Arc::new(numbers().map(narrow).collect::<Int32Array>()),
        SqlType::BigInt => Arc::new(numbers().collect::<Int64Array>()),
        SqlType::Text => Arc::new(numbers().map(text).collect::<StringArray>()),
        SqlType::Uuid => {
            let uuid = |number: i64| uuid::Uuid::from_u128(u128::try_from(number + 1_000_000).unwrap() << 64).to_string();
            Arc::new(numbers().map(|number| number.map(uuid)).collect::<StringArray>())
        }
        SqlType::Bytea => {
            let bytes: Vec<Option<Vec<u8>>> = numbers().map(|number| number.map(|it| it.to_be_bytes().to_vec())).collect();
            Arc::new(bytes.iter().map(Option::as_deref).collect::<BinaryArray>())
        }
        SqlType::Date => Arc::new(numbers().map(narrow).collect::<Date32Array>()),
        _ => Arc::new(numbers().collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
    }
}

/// What one case stores and asks.
#[derive(Clone, Debug)]
struct Case {
    key_type: usize,
    seed: u64,
    fragments: usize,
    rows_each: usize,
    clustered: bool,
    keyed_in_order: bool,
    retractions: u64,
    asked: usize,
    window: (Option<i64>, Option<i64>),
    known_at: Option<i64>,
    sidecars: Sidecars,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sidecars {
    Kept,
    Removed,
    Torn,
}

fn case() -> impl Strategy<Value = Case> {
    let data = (0..KEY_TYPES.len(), any::<u64>(), 1..4_usize, 9_000..30_000_usize, any::<bool>(), any::<bool>(), 0..3_u64);
    let bound = || proptest::option::of(-10..1_010_i64);
    let sidecars = prop_oneof![Just(Sidecars::Kept), Just(Sidecars::Removed), Just(Sidecars::Torn)];
    (data, 0..40_usize, (bound(), bound()), bound(), sidecars).prop_map(|(data, asked, window, known_at, sidecars)| {
        let (key_type, seed, fragments, rows_each, clustered, keyed_in_order, retractions) = data;
        let seed = seed | 1;
        let case = Case {
            key_type,
            seed,
            fragments,
            rows_each,
            clustered,
            keyed_in_order,
            retractions,
            asked,
            window,
            known_at,
            sidecars,
        };
        Case { rows_each: if clustered { rows_each.max(70_000 / fragments) } else { rows_each }, ..case }
    })
}

impl Case {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![
            KEY_TYPES[self.key_type].field("k", true),
            SqlType::TimestampTz.field("t", true),
            SqlType::BigInt.field("n", false),
            SqlType::TimestampTz.field(CREATED_TIME, false),
            Field::new(RETRACTED, arrow::datatypes::DataType::Boolean, false),
        ]))
    }

    fn rows(&self, seed: &mut u64, fragment: usize) -> RecordBatch {
        let count = self.rows_each;
        let first = i64::try_from(fragment * count).unwrap();
        let number = |seed: &mut u64, row: i64| match self.keyed_in_order {
            true => (first + row) / 50,
            false => i64::try_from(next(seed) % 2_000).unwrap(),
        };
        let some = |seed: &mut u64, value: i64| (next(seed) % 50 != 0).then_some(value);
        let rows = 0..i64::try_from(count).unwrap();
        let mut numbers = Vec::with_capacity(count);
        for row in rows.clone() {
            let drawn = number(seed, row);
            numbers.push(some(seed, drawn));
        }
        let time = |seed: &mut u64| i64::try_from(next(seed) % 1_000).unwrap();
        let mut times = Vec::with_capacity(count);
        for _row in rows.clone() {
            let drawn = time(seed);
            times.push(some(seed, drawn));
        }
        let created: Vec<i64> =
            rows.clone().map(|row| if self.keyed_in_order { row * 1_000 / 30_000 } else { time(seed) }).collect();
        let retracted: Vec<bool> =
            rows.clone().map(|_| self.retractions > 0 && next(seed) % 5_000 < self.retractions - 1).collect();
        let columns: Vec<ArrayRef> = vec![
            keys(&KEY_TYPES[self.key_type], &numbers),
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
            Arc::new(Int64Array::from_iter_values(rows.map(|row| first + row))),
            Arc::new(TimestampMicrosecondArray::from(created).with_timezone("UTC")),
            Arc::new(BooleanArray::from(retracted)),
        ];
        RecordBatch::try_new(self.schema(), columns).unwrap()
    }

    fn predicates(&self, seed: &mut u64) -> Vec<Predicate> {
        let mut predicates = Vec::new();
        if self.asked > 0 {
            let numbers: Vec<Option<i64>> =
                (0..self.asked).map(|place| (place % 7 != 3).then(|| i64::try_from(next(seed) % 2_500).unwrap())).collect();
            predicates.push(Predicate::In { column: "k".into(), values: keys(&KEY_TYPES[self.key_type], &numbers) });
        }
        let time = |it: Option<i64>| it.map(EventTime::from_micros);
        predicates.push(Predicate::EventTime { column: "t".into(), min: time(self.window.0), max: time(self.window.1) });
        predicates.push(Predicate::EventTime { column: CREATED_TIME.into(), min: None, max: time(self.known_at) });
        predicates
    }

    async fn check(self) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_str().unwrap().to_owned();
        let store = LanceStore::with_durability(&root, Durability::Cached).unwrap();
        store.create(HISTORY, self.schema()).await.unwrap();
        let mut seed = self.seed;
        let mut version = DatasetVersion(1);
        for fragment in 0..self.fragments {
            let rows = self.rows(&mut seed, fragment);
            version = store.append(HISTORY, rows, CommitTime::from_micros(1)).await.unwrap().version;
        }
        if self.clustered {
            let order = ["k", "t", CREATED_TIME].map(str::to_owned);
            store.cluster(HISTORY, &order, crate::offline::Extent::Whole).await.unwrap();
            version = store.latest(HISTORY).await.unwrap().version;
        }
        spoil(&store.folder(HISTORY).join("_zones"), self.sidecars);
        let all = read(&store, version, Vec::new()).await.0;
        let predicates = self.predicates(&mut seed);
        let expected = expected(&all, &predicates);
        let restarted = LanceStore::new(&root).unwrap();
        for store in [&store, &restarted, &restarted] {
            let (found, coverage) = read(store, version, predicates.clone()).await;
            // Where no value is asked for, the store is not even looked at.
            let known = coverage.rows_read + coverage.rows_skipped;
            assert!(known == self.rows_each * self.fragments || known == 0 && expected.is_empty(), "{coverage:?}");
            assert_eq!(lines(found.as_ref()), expected);
        }
    }
}

fn spoil(folder: &std::path::Path, sidecars: Sidecars) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let file = entry.unwrap().path();
        match sidecars {
            Sidecars::Kept => {}
            Sidecars::Removed => std::fs::remove_file(file).unwrap(),
            Sidecars::Torn => {
                let bytes = std::fs::read(&file).unwrap();
                std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
            }
        }
    }
}

async fn read(store: &LanceStore, version: DatasetVersion, predicates: Vec<Predicate>) -> (Option<RecordBatch>, Coverage) {
    let watch = Arc::new(Watched::default());
    let columns = ["k", "t", "n", CREATED_TIME, RETRACTED].map(str::to_owned).to_vec();
    let scan = Scan { columns, predicates, row_address: true, watch: Some(watch.clone()), ..Scan::default() };
    let batches: Vec<RecordBatch> = store.scan(HISTORY, version, scan).await.unwrap().try_collect().await.unwrap();
    let rows = batches.first().map(|first| concat_batches(&first.schema(), &batches).unwrap());
    let coverage = *watch.0.lock();
    (rows, coverage)
}

/// The rows as text, in the order of their addresses.
fn lines(rows: Option<&RecordBatch>) -> Vec<String> {
    let Some(rows) = rows else { return Vec::new() };
    let line = |row| {
        let cells = rows.columns().iter().rev().map(|column| array_value_to_string(column, row).unwrap());
        format!("{:>20}", cells.collect::<Vec<_>>().join("|"))
    };
    let mut lines: Vec<String> = (0..rows.num_rows()).map(line).collect();
    lines.sort_unstable();
    lines
}

/// The rows that match, judged one by one.
fn expected(all: &Option<RecordBatch>, predicates: &[Predicate]) -> Vec<String> {
    let all = all.as_ref().unwrap();
    let matches = |row: usize| {
        predicates.iter().all(|predicate| match predicate {
            Predicate::In { column, values } => {
                let value = |array: &ArrayRef, row| array.is_valid(row).then(|| array_value_to_string(array, row).unwrap());
                let stored = value(all.column_by_name(column).unwrap(), row);
                stored.is_some_and(|stored| (0..values.len()).any(|row| value(values, row).as_ref() == Some(&stored)))
            }
            Predicate::EventTime { column, min, max } => {
                let times = all.column_by_name(column).unwrap().as_primitive::<TimestampMicrosecondType>();
                let inside = |time: i64| min.is_none_or(|min| min.micros() <= time) && max.is_none_or(|max| time <= max.micros());
                (min.is_none() && max.is_none()) || times.is_valid(row) && inside(times.value(row))
            }
        })
    };
    let rows: UInt32Array = (0..u32::try_from(all.num_rows()).unwrap()).filter(|row| matches(*row as usize)).collect();
    let columns = all.columns().iter().map(|column| take(column, &rows, None).unwrap()).collect();
    lines(Some(&RecordBatch::try_new(all.schema(), columns).unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_pruned_scan_gives_what_a_full_one_does(case in case()) {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(case.check());
    }
}

/// Rows of entities 0 to 1999, 50 each, as a log brings them: any entity at any time.
async fn log() -> (tempfile::TempDir, LanceStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = LanceStore::with_durability(folder.path().to_str().unwrap(), Durability::Cached).unwrap();
    let fields = vec![
        SqlType::BigInt.field("k", false),
        SqlType::TimestampTz.field("t", false),
        Field::new(RETRACTED, arrow::datatypes::DataType::Boolean, false),
    ];
    let schema = Arc::new(Schema::new(fields));
    store.create(HISTORY, schema.clone()).await.unwrap();
    for part in 0..2 {
        let rows = part * 50_000..(part + 1) * 50_000_i64;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(rows.clone().map(|row| row * 7_919 % 2_000))),
            Arc::new(TimestampMicrosecondArray::from_iter_values(rows.clone()).with_timezone("UTC")),
            Arc::new(BooleanArray::from(vec![false; 50_000])),
        ];
        store
            .append(HISTORY, RecordBatch::try_new(schema.clone(), columns).unwrap(), CommitTime::from_micros(part))
            .await
            .unwrap();
    }
    (folder, store)
}

async fn coverage(store: &LanceStore, predicate: Predicate) -> (usize, Coverage) {
    let watch = Arc::new(Watched::default());
    let columns = vec!["t".to_owned(), RETRACTED.to_owned()];
    let scan = Scan { columns, predicates: vec![predicate], watch: Some(watch.clone()), ..Scan::default() };
    let version = store.latest(HISTORY).await.unwrap().version;
    let batches: Vec<RecordBatch> = store.scan(HISTORY, version, scan).await.unwrap().try_collect().await.unwrap();
    let coverage = *watch.0.lock();
    (batches.iter().map(RecordBatch::num_rows).sum(), coverage)
}

#[tokio::test]
async fn few_keys_read_few_rows_once_they_lie_together() {
    let (_folder, store) = log().await;
    let two = || Predicate::In { column: "k".into(), values: Arc::new(Int64Array::from(vec![7, 1_234])) };
    let (found, before) = coverage(&store, two()).await;
    assert_eq!((found, before.rows_read, before.rows_skipped, before.fragments_pruned), (100, 100_000, 0, 0));
    store.cluster(HISTORY, &["k".into(), "t".into()], crate::offline::Extent::Whole).await.unwrap();
    let (found, after) = coverage(&store, two()).await;
    assert_eq!(found, 100);
    assert!(after.rows_read < 3_000, "{after:?}");
    assert_eq!(after.rows_read + after.rows_skipped, 100_000);
    let (found, absent) =
        coverage(&store, Predicate::In { column: "k".into(), values: Arc::new(Int64Array::from(vec![-1])) }).await;
    assert_eq!((found, absent.rows_read, absent.fragments_pruned), (0, 0, absent.fragments));
}

#[tokio::test]
async fn a_short_time_reads_little_of_a_log() {
    let (_folder, store) = log().await;
    let time = |micros| Some(EventTime::from_micros(micros));
    let (found, coverage) =
        coverage(&store, Predicate::EventTime { column: "t".into(), min: time(70_000), max: time(70_999) }).await;
    assert_eq!(found, 1_000);
    assert!(coverage.rows_read < 2_100, "{coverage:?}");
    assert_eq!((coverage.fragments, coverage.fragments_pruned), (2, 1));
}
