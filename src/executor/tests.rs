//! Snapshots and as-of joins against a brute-force oracle, over random histories.

mod as_of;
mod ordered;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{Int64Type, Schema};
use async_trait::async_trait;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::error::Result;
use crate::offline::{BatchStream, Commit, Dataset, Extent, OfflineStore, Predicate, ROW_ADDRESS, Scan, Staged, history_schema};
use crate::online::{MemoryStore, OnlineViews};
use crate::registry::{Feature, FeatureView, KeyColumn, ObjectId, Ttl};
use crate::time::{CommitTime, DatasetVersion, EventTime};
use crate::types::SqlType;

/// An offline store of fixed rows, which it hands out in small batches.
#[derive(Debug, Default)]
struct FixedRows(Mutex<HashMap<Dataset, RecordBatch>>);

impl FixedRows {
    fn rows(&self, dataset: Dataset) -> RecordBatch {
        self.0.lock()[&dataset].clone()
    }
}

#[async_trait]
impl OfflineStore for FixedRows {
    async fn create(&self, _dataset: Dataset, _schema: SchemaRef) -> Result<()> {
        Ok(())
    }

    async fn stage(&self, _dataset: Dataset, _rows: BatchStream, _created_time: CommitTime) -> Result<Staged> {
        Err(Error::internal("fixed rows are appended whole"))
    }

    async fn restamp(&self, _dataset: Dataset, staged: Staged, _created_time: CommitTime) -> Result<Staged> {
        Ok(staged)
    }

    async fn commit(&self, _dataset: Dataset, _staged: Staged) -> Result<Commit> {
        Err(Error::internal("fixed rows are appended whole"))
    }

    async fn append(&self, dataset: Dataset, rows: RecordBatch, created_time: CommitTime) -> Result<Commit> {
        self.0.lock().insert(dataset, rows);
        Ok(Commit { version: DatasetVersion(1), created_time })
    }

    async fn latest(&self, _dataset: Dataset) -> Result<Commit> {
        Ok(Commit { version: DatasetVersion(1), created_time: CommitTime::from_micros(0) })
    }

    async fn commit_of(&self, _dataset: Dataset, version: DatasetVersion) -> Result<Option<Commit>> {
        Ok(Some(Commit { version, created_time: CommitTime::from_micros(0) }))
    }

    async fn cluster(&self, _dataset: Dataset, _order: &[String], _extent: Extent) -> Result<usize> {
        Ok(0)
    }

    async fn scan(&self, dataset: Dataset, _version: DatasetVersion, scan: Scan) -> Result<BatchStream> {
        let rows = self.rows(dataset);
        let mut kept = BooleanArray::from(vec![true; rows.num_rows()]);
        for predicate in &scan.predicates {
            let Predicate::EventTime { column, min, max } = predicate else { continue };
            let times = rows.column_by_name(column).unwrap().as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
            let inside = |time: i64| min.is_none_or(|min| min.micros() <= time) && max.is_none_or(|max| time <= max.micros());
            let mask: BooleanArray = times.iter().map(|time| time.map(inside)).collect();
            kept = arrow::compute::and(&kept, &mask).unwrap();
        }
        let names = rows.schema();
        let mut columns: Vec<ArrayRef> = scan.columns.iter().map(|name| rows.column_by_name(name).unwrap().clone()).collect();
        let mut fields: Vec<_> = scan.columns.iter().map(|name| names.field_with_name(name).unwrap().clone()).collect();
        columns.push(Arc::new(UInt64Array::from_iter_values(0..rows.num_rows() as u64)));
        fields.push(arrow::datatypes::Field::new(ROW_ADDRESS, arrow::datatypes::DataType::UInt64, true));
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let mut batch = filter_record_batch(&batch, &kept).unwrap();
        if !scan.row_address {
            let shown: Vec<_> = (0..scan.columns.len()).collect();
            batch = batch.project(&shown).unwrap();
        }
        let starts: Vec<_> = (0..batch.num_rows()).step_by(3).collect();
        // Backwards, because no order is promised.
        let pieces: Vec<_> =
            starts.into_iter().rev().map(|start| Ok(batch.slice(start, 3.min(batch.num_rows() - start)))).collect();
        Ok(futures::stream::iter(pieces).boxed())
    }

    async fn take(
        &self,
        dataset: Dataset,
        _version: DatasetVersion,
        addresses: &[u64],
        columns: &[String],
    ) -> Result<RecordBatch> {
        let rows = self.rows(dataset);
        let places: Vec<_> = columns.iter().map(|name| rows.schema().index_of(name).unwrap()).collect();
        let rows = rows.project(&places).unwrap();
        Ok(take_record_batch(&rows, &UInt64Array::from(addresses.to_vec())).unwrap())
    }

    async fn remove(&self, _dataset: Dataset) -> Result<()> {
        Ok(())
    }
}

/// A row of history.
#[derive(Clone, Debug)]
struct Row {
    key: (&'static str, &'static str),
    event_time: i64,
    created_time: i64,
    sequence: i64,
    retracted: bool,
    value: Option<i64>,
}

const KEYS: [(&str, &str); 4] = [("ab", "c"), ("a", "bc"), ("", "abc"), ("x", "y")];

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row =
        (0..4_usize, 0..30_i64, prop_oneof![0..4_i64, 0..35_i64], prop::bool::weighted(0.1), prop::option::of(any::<i64>()));
    prop::collection::vec(row, 0..40).prop_map(|rows| {
        let row = |(sequence, (key, event_time, created_time, retracted, value)): (usize, _)| Row {
            key: KEYS[key],
            event_time,
            created_time,
            sequence: sequence as i64,
            retracted,
            value: if retracted { None } else { value },
        };
        rows.into_iter().enumerate().map(row).collect()
    })
}

/// The rule, word for word.
fn answer<'a>(history: &'a [Row], key: (&str, &str), at: i64, ttl: Option<i64>) -> Option<&'a Row> {
    let candidates =
        history.iter().filter(|row| row.key == key && row.event_time <= at && ttl.is_none_or(|ttl| row.event_time >= at - ttl));
    candidates.max_by_key(|row| (row.event_time, row.created_time, row.sequence)).filter(|row| !row.retracted)
}

fn view(ttl: Option<i64>) -> Arc<FeatureView> {
    let key = |name: &str| KeyColumn { name: name.into(), data_type: SqlType::Text };
    Arc::new(FeatureView {
        id: ObjectId(20_000),
        name: "v".into(),
        entities: vec!["e".into()],
        keys: vec![key("k1"), key("k2")],
        event_time: "event_time".into(),
        features: vec![Feature { name: "value".into(), data_type: SqlType::BigInt, comment: None, check: None }],
        ttl: ttl.map(|ttl| Ttl::from_micros(ttl).unwrap()),
        online: true,
        comment: None,
        options: Default::default(),
        tags: Default::default(),
    })
}

fn instants(values: Vec<Option<i64>>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
}

fn history(view: &FeatureView, rows: &[Row]) -> RecordBatch {
    let texts =
        |of: fn(&Row) -> &'static str| -> ArrayRef { Arc::new(rows.iter().map(|row| Some(of(row))).collect::<StringArray>()) };
    let columns = vec![
        texts(|row| row.key.0),
        texts(|row| row.key.1),
        instants(rows.iter().map(|row| Some(row.event_time)).collect()),
        Arc::new(rows.iter().map(|row| row.value).collect::<Int64Array>()),
        instants(rows.iter().map(|row| Some(row.created_time)).collect()),
        Arc::new(rows.iter().map(|row| Some(row.sequence)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| Some(row.retracted)).collect::<BooleanArray>()),
    ];
    RecordBatch::try_new(history_schema(view), columns).unwrap()
}

/// A reader of `stored`, with `held` kept back.
async fn reader(view: &FeatureView, stored: &[Row], held: &[Row]) -> DatasetReader {
    let dataset = Dataset::History(view.id);
    let offline = FixedRows::default();
    offline.0.lock().insert(dataset, history(view, stored));
    let stores = Stores {
        offline: Arc::new(offline),
        online: Arc::new(OnlineViews::new(Arc::new(MemoryStore::new()))),
        metrics: Arc::default(),
    };
    let held = HeldRows::from([(view.id, held.chunks(2).map(|rows| history(view, rows)).collect())]);
    DatasetReader::open(dataset, history_schema(view), &stores, &VersionPins::default(), &held).await.unwrap()
}

async fn run(plan: Arc<dyn ExecutionPlan>) -> RecordBatch {
    let schema = plan.schema();
    let batches = collect(plan, SessionContext::new().task_ctx()).await.unwrap();
    concat_batches(&schema, &batches).unwrap()
}

async fn check_snapshot(stored: &[Row], held: &[Row], ttl: Option<i64>, at: i64) {
    let view = view(ttl);
    let spec = SnapshotSpec {
        reader: reader(&view, stored, held).await,
        window: view.ttl,
        known_at: None,
        view,
        at: Some(EventTime::from_micros(at)),
        keys: None,
        predicates: Vec::new(),
        projection: vec![0, 1, 3],
    };
    let shown = run(Arc::new(SnapshotExec::new(spec).unwrap())).await;
    let all: Vec<Row> = stored.iter().chain(held).cloned().collect();
    let mut expected: Vec<_> = KEYS
        .iter()
        .filter_map(|key| answer(&all, *key, at, ttl).map(|row| (key.0.to_owned(), key.1.to_owned(), row.value)))
        .collect();
    let values = shown.column(2).as_primitive::<Int64Type>();
    let text = |column: usize, row: usize| shown.column(column).as_string::<i32>().value(row).to_owned();
    let mut found: Vec<_> =
        (0..shown.num_rows()).map(|row| (text(0, row), text(1, row), values.iter().nth(row).unwrap())).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "as of {at}, ttl {ttl:?}");
}

/// How many random cases a test runs: `default`, or `TIDEGATE_CASES`.
fn cases(default: u32) -> u32 {
    std::env::var("TIDEGATE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(300)))]

    #[test]
    fn snapshots_agree_with_the_rule(
        stored in rows(),
        held in rows(),
        ttl in prop::option::of(0..12_i64),
        at in -2..33_i64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Rows kept back come later than all that is stored.
        let held: Vec<Row> = held
            .into_iter()
            .take(5)
            .map(|row| Row { created_time: row.created_time + 100, sequence: row.sequence + 100, ..row })
            .collect();
        runtime.block_on(check_snapshot(&stored, &held, ttl, at));
    }
}
