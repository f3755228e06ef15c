//! Snapshots and as-of joins against a brute-force oracle, over random histories.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{Int64Type, Schema};
use async_trait::async_trait;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::error::Result;
use crate::offline::{BatchStream, Commit, Dataset, Extent, OfflineStore, Predicate, ROW_ADDRESS, Scan, history_schema};
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

    async fn cluster(&self, _dataset: Dataset, _order: &[String], _extent: Extent) -> Result<usize> {
        Ok(0)
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

/// A left row.
#[derive(Clone, Debug)]
struct Label {
    key: (Option<&'static str>, &'static str),
    instant: Option<i64>,
    known: Option<i64>,
}

const KEYS: [(&str, &str); 4] = [("ab", "c"), ("a", "bc"), ("", "abc"), ("x", "y")];

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (0..4_usize, 0..30_i64, 0..4_i64, prop::bool::weighted(0.1), prop::option::of(any::<i64>()));
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

fn labels() -> impl Strategy<Value = Vec<Label>> {
    let known = prop::option::weighted(0.9, prop_oneof![-1..5_i64, Just(99), 98..105_i64]);
    let label = (0..5_usize, prop::option::weighted(0.9, -2..33_i64), known);
    prop::collection::vec(label, 0..30).prop_map(|labels| {
        let label = |(key, instant, known): (usize, _, _)| {
            let key = KEYS.get(key).map_or((None, "c"), |key| (Some(key.0), key.1));
            Label { key, instant, known }
        };
        labels.into_iter().map(label).collect()
    })
}

/// The rule, word for word.
fn answer<'a>(history: &'a [Row], key: (&str, &str), at: i64, ttl: Option<i64>) -> Option<&'a Row> {
    let question = Asked { reach: reach(Direction::Backward, Bound::Inclusive, ttl), known: Known::All };
    question.answer(history, key, at, None)
}

/// What left rows know.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    All,
    Until(i64),
    OfRow,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    reach: Reach,
    known: Known,
}

fn reach(direction: Direction, bound: Bound, ttl: Option<i64>) -> Reach {
    Reach { direction, bound, window: ttl.map(|ttl| Ttl::from_micros(ttl).unwrap()) }
}

impl Asked {
    /// Whether a row at `event_time` may answer at `at`.
    fn reaches(&self, event_time: i64, at: i64) -> bool {
        let distance = match self.reach.direction {
            Direction::Backward => at - event_time,
            Direction::Forward => event_time - at,
        };
        let first = if self.reach.bound == Bound::Strict { 1 } else { 0 };
        distance >= first && self.reach.window.is_none_or(|window| distance <= window.micros())
    }

    fn answer<'a>(&self, history: &'a [Row], key: (&str, &str), at: i64, known: Option<i64>) -> Option<&'a Row> {
        let known = match self.known {
            Known::All => i64::MAX,
            Known::Until(known) => known,
            Known::OfRow => known?,
        };
        let candidates =
            history.iter().filter(|row| row.key == key && self.reaches(row.event_time, at) && row.created_time <= known);
        let near = |row: &&Row| match self.reach.direction {
            Direction::Backward => row.event_time,
            Direction::Forward => -row.event_time,
        };
        candidates.max_by_key(|row| (near(row), row.created_time, row.sequence)).filter(|row| !row.retracted)
    }

    /// The rule for a relation: among equals the greatest value, NULL the least.
    fn answer_of_relation<'a>(&self, rows: &'a [Row], key: (&str, &str), at: i64) -> Option<&'a Row> {
        let candidates = rows.iter().filter(|row| row.key == key && self.reaches(row.event_time, at));
        let near = |row: &&Row| match self.reach.direction {
            Direction::Backward => row.event_time,
            Direction::Forward => -row.event_time,
        };
        candidates.max_by_key(|row| (near(row), row.value))
    }
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

fn spine_schema(instants: SqlType) -> SchemaRef {
    Arc::new(Schema::new(vec![
        SqlType::Text.field("a", true),
        SqlType::Text.field("b", true),
        instants.field("t", true),
        SqlType::BigInt.field("n", true),
        SqlType::TimestampTz.field("known", true),
    ]))
}

/// The labels as a plan of several batches, with these instants.
fn spine(labels: &[Label], schema: &SchemaRef, times: ArrayRef) -> Arc<dyn ExecutionPlan> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(labels.iter().map(|label| label.key.0).collect::<StringArray>()),
        Arc::new(labels.iter().map(|label| Some(label.key.1)).collect::<StringArray>()),
        times,
        Arc::new(Int64Array::from_iter_values(0..labels.len() as i64)),
        instants(labels.iter().map(|label| label.known).collect()),
    ];
    let batch = RecordBatch::try_new(Arc::clone(schema), columns).unwrap();
    let pieces = (0..labels.len()).step_by(7).map(|start| batch.slice(start, 7.min(labels.len() - start))).collect();
    MemorySourceConfig::try_new_exec(&[pieces], Arc::clone(schema), None).unwrap()
}

/// A joined row: the label's number, and the event time and value of its answer.
type Joined = (i64, Option<(i64, Option<i64>)>);

/// What the joined rows should be.
fn expected<'a>(labels: &[Label], kind: AsOfKind, answer: impl Fn(&Label, (&str, &str), i64) -> Option<&'a Row>) -> Vec<Joined> {
    let mut expected = Vec::new();
    for (number, label) in labels.iter().enumerate() {
        let row = match (label.key.0, label.instant) {
            (Some(key), Some(at)) => answer(label, (key, label.key.1), at),
            _ => None,
        };
        if row.is_some() || kind == AsOfKind::Left {
            expected.push((number as i64, row.map(|row| (row.event_time, row.value))));
        }
    }
    expected
}

async fn check_join(stored: &[Row], held: &[Row], labels: &[Label], asked: Asked, kind: AsOfKind) {
    let view = view(asked.reach.window.map(Ttl::micros));
    let schema = spine_schema(SqlType::TimestampTz);
    let spine = spine(labels, &schema, instants(labels.iter().map(|label| label.instant).collect()));
    let known_at: Option<Arc<dyn datafusion::physical_expr::PhysicalExpr>> = match asked.known {
        Known::All => None,
        Known::Until(known) => {
            let known = datafusion::scalar::ScalarValue::TimestampMicrosecond(Some(known), Some("UTC".into()));
            Some(datafusion::physical_expr::expressions::lit(known))
        }
        Known::OfRow => Some(col("known", &schema).unwrap()),
    };
    let joined = AsOfSide {
        reach: asked.reach,
        source: AsOfSource::View { reader: reader(&view, stored, held).await, view },
        keys: vec![col("a", &schema).unwrap(), col("b", &schema).unwrap()],
        instant: col("t", &schema).unwrap(),
        known_at,
        columns: vec![2, 3],
        fields: vec![SqlType::TimestampTz.field_ref("event_time", true), SqlType::BigInt.field_ref("value", true)],
        condition: None,
        kind,
    };
    let shown = run(Arc::new(AsOfJoinExec::new(spine, vec![joined]))).await;
    let all: Vec<Row> = stored.iter().chain(held).cloned().collect();
    let expected = expected(labels, kind, |label, key, at| asked.answer(&all, key, at, label.known));
    let times = shown.column(5).as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
    let numbers = shown.column(3).as_primitive::<Int64Type>().values();
    let values = shown.column(6).as_primitive::<Int64Type>();
    let found: Vec<_> =
        numbers.iter().zip(times).zip(values).map(|((number, time), value)| (*number, time.map(|time| (time, value)))).collect();
    assert_eq!(found, expected, "{asked:?}");
}

/// The types that instants of relations are tried in.
fn ordered(values: Vec<Option<i64>>, data_type: &SqlType) -> ArrayRef {
    let numbers: ArrayRef = Arc::new(Int64Array::from(values.clone()));
    match data_type {
        SqlType::Text => {
            Arc::new(values.iter().map(|value| value.map(|value| format!("{:05}", value + 100))).collect::<StringArray>())
        }
        SqlType::DoublePrecision => {
            let halves = values.into_iter().map(|value| value.map(|value| value as f64 / 2.0));
            Arc::new(halves.collect::<arrow::array::Float64Array>())
        }
        data_type => arrow::compute::cast(&numbers, &data_type.arrow()).unwrap(),
    }
}

async fn check_relation(rows: &[Row], labels: &[Label], asked: Asked, kind: AsOfKind, instants: SqlType) {
    let schema = spine_schema(instants.clone());
    let spine = spine(labels, &schema, ordered(labels.iter().map(|label| label.instant).collect(), &instants));
    let relation_schema: SchemaRef = Arc::new(Schema::new(vec![
        SqlType::Text.field("k1", true),
        SqlType::BigInt.field("value", true),
        instants.field("t", true),
        SqlType::Text.field("k2", true),
        SqlType::BigInt.field("at", true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.key.0)).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.value).collect::<Int64Array>()),
        ordered(rows.iter().map(|row| Some(row.event_time)).collect(), &instants),
        Arc::new(rows.iter().map(|row| Some(row.key.1)).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| Some(row.event_time)).collect::<Int64Array>()),
    ];
    let batch = RecordBatch::try_new(Arc::clone(&relation_schema), columns).unwrap();
    let plan = MemorySourceConfig::try_new_exec(&[vec![batch]], relation_schema, None).unwrap();
    let joined = AsOfSide {
        reach: asked.reach,
        source: AsOfSource::Relation { plan, keys: vec![0, 3], order: 2, ties: Vec::new() },
        keys: vec![col("a", &schema).unwrap(), col("b", &schema).unwrap()],
        instant: col("t", &schema).unwrap(),
        known_at: None,
        columns: vec![4, 1],
        fields: vec![SqlType::BigInt.field_ref("at", true), SqlType::BigInt.field_ref("value", true)],
        condition: None,
        kind,
    };
    let shown = run(Arc::new(AsOfJoinExec::new(spine, vec![joined]))).await;
    let expected = expected(labels, kind, |_, key, at| asked.answer_of_relation(rows, key, at));
    let numbers = shown.column(3).as_primitive::<Int64Type>().values();
    let (times, values) = (shown.column(5).as_primitive::<Int64Type>(), shown.column(6).as_primitive::<Int64Type>());
    let found: Vec<_> =
        numbers.iter().zip(times).zip(values).map(|((number, time), value)| (*number, time.map(|time| (time, value)))).collect();
    assert_eq!(found, expected, "{asked:?} over {instants}");
}

/// How many random cases are tried: some in every run, many where the environment asks for them.
fn cases() -> u32 {
    std::env::var("TIDEGATE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn snapshots_and_joins_agree_with_the_rule(
        stored in rows(),
        held in rows(),
        labels in labels(),
        ttl in prop::option::of(0..12_i64),
        at in -2..33_i64,
        known in -1..105_i64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Rows kept back come later than all that is stored.
        let held: Vec<Row> = held
            .into_iter()
            .take(5)
            .map(|row| Row { created_time: row.created_time + 100, sequence: row.sequence + 100, ..row })
            .collect();
        runtime.block_on(async {
            check_snapshot(&stored, &held, ttl, at).await;
            for (direction, bound) in [
                (Direction::Backward, Bound::Inclusive),
                (Direction::Backward, Bound::Strict),
                (Direction::Forward, Bound::Inclusive),
                (Direction::Forward, Bound::Strict),
            ] {
                let reach = reach(direction, bound, ttl);
                for (known, kind) in
                    [(Known::All, AsOfKind::Left), (Known::Until(known), AsOfKind::Inner), (Known::OfRow, AsOfKind::Left)]
                {
                    check_join(&stored, &held, &labels, Asked { reach, known }, kind).await;
                }
                check_relation(&stored, &labels, Asked { reach, known: Known::All }, AsOfKind::Left, SqlType::Timestamp).await;
                let unlimited = Asked { reach: Reach { window: None, ..reach }, known: Known::All };
                for instants in [SqlType::Integer, SqlType::Text, SqlType::DoublePrecision, SqlType::Numeric { precision: 10, scale: 2 }] {
                    check_relation(&stored, &labels, unlimited, AsOfKind::Inner, instants).await;
                }
            }
        });
    }
}

#[tokio::test]
async fn a_left_side_beyond_the_memory_limit_is_joined_in_parts() {
    let row = |event_time| Row {
        key: KEYS[0],
        event_time,
        created_time: 0,
        sequence: event_time,
        retracted: false,
        value: Some(event_time),
    };
    let stored: Vec<Row> = (0..30).map(|time| row(time * 3)).collect();
    let labels: Vec<Label> =
        (0..80).rev().map(|time| Label { key: (Some(KEYS[0].0), KEYS[0].1), instant: Some(time), known: None }).collect();
    let view = view(None);
    let schema = spine_schema(SqlType::TimestampTz);
    let spine = spine(&labels, &schema, instants(labels.iter().map(|label| label.instant).collect()));
    let joined = AsOfSide {
        reach: Reach::default(),
        source: AsOfSource::View { reader: reader(&view, &stored, &[]).await, view },
        keys: vec![col("a", &schema).unwrap(), col("b", &schema).unwrap()],
        instant: col("t", &schema).unwrap(),
        known_at: None,
        columns: vec![3],
        fields: vec![SqlType::BigInt.field_ref("value", true)],
        condition: None,
        kind: AsOfKind::Left,
    };
    let join = Arc::new(AsOfJoinExec::new(spine, vec![joined]));
    let run_within = async |bytes: usize| {
        let runtime =
            datafusion::execution::runtime_env::RuntimeEnvBuilder::new().with_memory_limit(bytes, 1.0).build_arc().unwrap();
        let context = SessionContext::new_with_config_rt(datafusion::prelude::SessionConfig::new(), runtime);
        collect(Arc::clone(&join) as Arc<dyn ExecutionPlan>, context.task_ctx()).await
    };
    let batches = run_within(24 << 10).await.unwrap();
    let shown = concat_batches(&join.schema(), &batches).unwrap();
    let expected: Vec<_> = labels.iter().map(|label| label.instant.map(|time| time / 3 * 3)).collect();
    assert_eq!(shown.column(5).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), expected);
    let parts = join.metrics().unwrap().sum_by_name("parts").unwrap().as_usize();
    assert!(parts > 1, "{parts} parts");
    assert!(run_within(100).await.unwrap_err().to_string().contains("out of memory"));
}
