//! As-of joins: every direction, bound, window, knowledge and kind, over views and relations of every ordered type.

use std::sync::LazyLock;

use arrow::array::Array;
use arrow::datatypes::SchemaRef;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{binary, col, lit};
use datafusion::prelude::SessionConfig;

use super::ordered::{ORDERED, Ordered};
use super::*;

/// A left row.
#[derive(Clone, Debug)]
struct Label {
    key: Option<usize>,
    instant: Option<i64>,
    known_at: Option<i64>,
}

/// What the sides are joined by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    Texts,
    Integer,
    Nothing,
}

/// What rows have to be known.
#[derive(Clone, Copy, Debug)]
enum Known {
    Any,
    By(i64),
    ByLabel,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    View(Known),
    Relation(Ordered),
}

/// A join, but for its rows.
#[derive(Clone, Copy, Debug)]
struct Question {
    direction: Direction,
    bound: Bound,
    window: Option<i64>,
    source: Source,
    keys: Keys,
    kind: AsOfKind,
    /// Whether chosen rows without a value are refused by a further condition.
    condition: bool,
    memory: Option<usize>,
}

fn labels() -> impl Strategy<Value = Vec<Label>> {
    let label = (
        prop::option::weighted(0.9, 0..4_usize),
        prop::option::weighted(0.9, -2..33_i64),
        prop::option::weighted(0.9, -1..110_i64),
    );
    prop::collection::vec(
        label.prop_map(|(key, instant, known_at)| Label { key, instant, known_at: known_at.map(|at| at / 2) }),
        0..30,
    )
}

fn questions() -> impl Strategy<Value = Question> {
    let known = prop_oneof![Just(Known::Any), (-1..40_i64).prop_map(Known::By), Just(Known::ByLabel)];
    let source = prop_oneof![known.prop_map(Source::View), prop::sample::select(&ORDERED[..]).prop_map(Source::Relation)];
    let direction = prop_oneof![Just(Direction::Backward), Just(Direction::Forward)];
    let bound = prop_oneof![Just(Bound::Inclusive), Just(Bound::Strict)];
    let keys = prop_oneof![Just(Keys::Texts), Just(Keys::Integer), Just(Keys::Nothing)];
    let kind = prop_oneof![Just(AsOfKind::Left), Just(AsOfKind::Inner)];
    let window = prop::option::of(0..12_i64);
    let memory = prop::option::weighted(0.2, 8_000..20_000_usize);
    (direction, bound, window, source, keys, kind, prop::bool::weighted(0.2), memory).prop_map(
        |(direction, bound, window, source, keys, kind, condition, memory)| {
            let has_window = match source {
                Source::View(_) => true,
                Source::Relation(order) => matches!(order, Ordered::Date | Ordered::Timestamp | Ordered::TimestampTz),
            };
            // A relation is not collected in parts.
            let memory = memory.filter(|_| matches!(source, Source::View(_)));
            Question { direction, bound, window: window.filter(|_| has_window), source, keys, kind, condition, memory }
        },
    )
}

/// The key column types, and the columns of these keys.
fn key_columns(keys: Keys, places: &[Option<usize>]) -> Vec<(SqlType, ArrayRef)> {
    let text = |of: fn(&(&'static str, &'static str)) -> &'static str| -> (SqlType, ArrayRef) {
        let texts = places.iter().map(|place| place.map(|place| of(&KEYS[place]))).collect::<StringArray>();
        (SqlType::Text, Arc::new(texts))
    };
    match keys {
        Keys::Texts => vec![text(|key| key.0), text(|key| key.1)],
        Keys::Integer => {
            let number = |place: usize| if place == 3 { i64::MIN } else { place as i64 * 3 };
            vec![(SqlType::BigInt, Arc::new(places.iter().map(|place| place.map(number)).collect::<Int64Array>()))]
        }
        Keys::Nothing => Vec::new(),
    }
}

/// The rule: a loop.
fn chosen<'a>(rows: &'a [Row], label: &Label, question: &Question) -> Option<&'a Row> {
    let order = match question.source {
        Source::View(_) => Ordered::TimestampTz,
        Source::Relation(order) => order,
    };
    let at = order.rank(label.instant?);
    if question.keys != Keys::Nothing {
        label.key?;
    }
    let known_at = match question.source {
        Source::View(Known::By(at)) => Some(at),
        Source::View(Known::ByLabel) => Some(label.known_at?),
        Source::View(Known::Any) | Source::Relation(_) => None,
    };
    let can_answer = |row: &&Row| {
        let distance = match question.direction {
            Direction::Backward => at - order.rank(row.event_time),
            Direction::Forward => order.rank(row.event_time) - at,
        };
        let nearest = i64::from(question.bound == Bound::Strict);
        (question.keys == Keys::Nothing || label.key.map(|key| KEYS[key]) == Some(row.key))
            && distance >= nearest
            && question.window.is_none_or(|window| distance <= window)
            && known_at.is_none_or(|known_at| row.created_time <= known_at)
    };
    let found = rows.iter().filter(can_answer).max_by_key(|row| {
        let time = order.rank(row.event_time);
        let time = if question.direction == Direction::Forward { -time } else { time };
        match question.source {
            Source::View(_) => (time, row.created_time, row.sequence, "", "", 0, None),
            // Ties of a relation: the greatest whole row.
            Source::Relation(_) => (time, 0, 0, row.key.0, row.key.1, order.apart(row.event_time), row.value),
        }
    });
    found.filter(|row| !row.retracted)
}

/// The left side of a question.
fn spine(labels: &[Label], question: &Question) -> (Arc<dyn ExecutionPlan>, SchemaRef) {
    let keys = key_columns(question.keys, &labels.iter().map(|label| label.key).collect::<Vec<_>>());
    let order = match question.source {
        Source::View(_) => Ordered::TimestampTz,
        Source::Relation(order) => order,
    };
    let mut fields: Vec<_> = keys.iter().enumerate().map(|(number, key)| key.0.field(format!("k{number}"), true)).collect();
    let mut columns: Vec<ArrayRef> = keys.into_iter().map(|key| key.1).collect();
    fields.push(order.sql_type().field("t", true));
    columns.push(order.values(&labels.iter().map(|label| label.instant).collect::<Vec<_>>(), true));
    fields.push(SqlType::TimestampTz.field("known_at", true));
    columns.push(instants(labels.iter().map(|label| label.known_at).collect()));
    fields.push(SqlType::BigInt.field("n", true));
    columns.push(Arc::new(Int64Array::from_iter_values(0..labels.len() as i64)));
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let pieces = (0..labels.len()).step_by(7).map(|start| batch.slice(start, 7.min(labels.len() - start))).collect();
    (MemorySourceConfig::try_new_exec(&[pieces], Arc::clone(&schema), None).unwrap(), schema)
}

/// The view of a question, and its history.
async fn view_source(stored: &[Row], held: &[Row], keys: Keys) -> AsOfSource {
    let types = key_columns(keys, &[]).into_iter().enumerate();
    let keyed = types.map(|(number, (data_type, _))| KeyColumn { name: format!("k{number}"), data_type }).collect();
    let view = Arc::new(FeatureView { keys: keyed, ..view(None).as_ref().clone() });
    let rows = |rows: &[Row]| {
        let all = history(&super::view(None), rows);
        let mut columns: Vec<ArrayRef> = key_columns(keys, &places(rows)).into_iter().map(|key| key.1).collect();
        columns.extend(all.columns()[2..].iter().cloned());
        RecordBatch::try_new(history_schema(&view), columns).unwrap()
    };
    let offline = FixedRows::default();
    offline.0.lock().insert(Dataset::History(view.id), rows(stored));
    let online = Arc::new(OnlineViews::new(Arc::new(MemoryStore::new())));
    let stores = Stores { offline: Arc::new(offline), online, metrics: Arc::default() };
    let held = HeldRows::from([(view.id, held.chunks(2).map(rows).collect())]);
    let (dataset, schema) = (Dataset::History(view.id), history_schema(&view));
    let reader = DatasetReader::open(dataset, schema, &stores, &VersionPins::default(), &held).await.unwrap();
    AsOfSource::View { view, reader }
}

fn places(rows: &[Row]) -> Vec<Option<usize>> {
    rows.iter().map(|row| KEYS.iter().position(|key| *key == row.key)).collect()
}

/// The relation of a question: key columns, then both texts of the key, the order and the value.
fn relation_source(rows: &[Row], order: Ordered, keys: Keys) -> AsOfSource {
    let keyed = key_columns(keys, &places(rows));
    let texts = key_columns(Keys::Texts, &places(rows));
    let count = keyed.len();
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (number, (data_type, column)) in keyed.into_iter().chain(texts).enumerate() {
        fields.push(data_type.field(format!("c{number}"), true));
        columns.push(column);
    }
    fields.push(order.sql_type().field("order", true));
    // A row retracted in a history stands for one without an order value here.
    let times: Vec<_> = rows.iter().map(|row| (!row.retracted).then_some(row.event_time)).collect();
    columns.push(order.values(&times, false));
    fields.push(SqlType::BigInt.field("value", true));
    columns.push(Arc::new(rows.iter().map(|row| row.value).collect::<Int64Array>()));
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let pieces = (0..rows.len()).step_by(5).map(|start| batch.slice(start, 5.min(rows.len() - start))).collect();
    let plan = MemorySourceConfig::try_new_exec(&[pieces], schema, None).unwrap();
    AsOfSource::Relation { plan, keys: (0..count).collect(), order: count + 2, ties: Vec::new() }
}

/// What a join gave: the number of the left row, and the value and order of its answer as text.
type Given = Vec<(i64, Option<String>, Option<i64>)>;

async fn check_join(stored: &[Row], held: &[Row], labels: &[Label], question: &Question) {
    let (spine, schema) = spine(labels, question);
    let width = schema.fields().len();
    let all: Vec<Row> = match question.source {
        Source::View(_) => stored.iter().chain(held).cloned().collect(),
        Source::Relation(_) => stored.iter().chain(held).filter(|row| !row.retracted).cloned().collect(),
    };
    let (source, columns, order) = match question.source {
        Source::View(_) => {
            let source = view_source(stored, held, question.keys).await;
            let keys = key_columns(question.keys, &[]).len();
            (source, vec![keys, keys + 1], Ordered::TimestampTz)
        }
        Source::Relation(order) => {
            let rows: Vec<Row> = stored.iter().chain(held).cloned().collect();
            let source = relation_source(&rows, order, question.keys);
            let AsOfSource::Relation { order: place, .. } = &source else { unreachable!() };
            let columns = vec![*place, *place + 1];
            (source, columns, order)
        }
    };
    let window = match (question.source, question.window) {
        (Source::Relation(Ordered::Date), Some(window)) => Some(window * 86_400_000_000 + 17),
        (_, window) => window,
    };
    let known_at: Option<Arc<dyn PhysicalExpr>> = match question.source {
        Source::View(Known::By(at)) => {
            let instant = datafusion::scalar::ScalarValue::TimestampMicrosecond(Some(at), Some("UTC".into()));
            Some(lit(instant))
        }
        Source::View(Known::ByLabel) => Some(col("known_at", &schema).unwrap()),
        Source::View(Known::Any) | Source::Relation(_) => None,
    };
    let fields = vec![order.sql_type().field_ref("order", true), SqlType::BigInt.field_ref("value", true)];
    let mut whole = schema.fields().to_vec();
    whole.extend(fields.iter().cloned());
    let whole = Schema::new(whole);
    let condition = question.condition.then(|| {
        let value = Arc::new(datafusion::physical_expr::expressions::Column::new("value", width + 1));
        binary(value, datafusion::logical_expr::Operator::GtEq, lit(0_i64), &whole).unwrap()
    });
    let key_exprs = (0..key_columns(question.keys, &[]).len()).map(|number| col(&format!("k{number}"), &schema).unwrap());
    let side = AsOfSide {
        source,
        keys: key_exprs.collect(),
        instant: col("t", &schema).unwrap(),
        known_at,
        reach: Reach {
            direction: question.direction,
            bound: question.bound,
            window: window.map(|window| Ttl::from_micros(window).unwrap()),
        },
        columns,
        fields,
        condition,
        kind: question.kind,
    };
    let join = Arc::new(AsOfJoinExec::new(spine, vec![side]));
    let shown = run_within(join, question.memory).await;
    let mut expected: Given = Vec::new();
    let texts = |times: &[Option<i64>]| -> Vec<Option<String>> {
        let values = order.values(times, false);
        let options = arrow::util::display::FormatOptions::default();
        let formatter = arrow::util::display::ArrayFormatter::try_new(values.as_ref(), &options).unwrap();
        (0..values.len()).map(|row| values.is_valid(row).then(|| formatter.value(row).to_string())).collect()
    };
    for (number, label) in labels.iter().enumerate() {
        let row = chosen(&all, label, question).filter(|row| !question.condition || row.value.is_some_and(|value| value >= 0));
        if row.is_some() || question.kind == AsOfKind::Left {
            let text = texts(&[row.map(|row| row.event_time)]).remove(0);
            expected.push((number as i64, text, row.and_then(|row| row.value)));
        }
    }
    let numbers = shown.column(width - 1).as_primitive::<Int64Type>().values();
    let options = arrow::util::display::FormatOptions::default();
    let orders = shown.column(width);
    let formatter = arrow::util::display::ArrayFormatter::try_new(orders.as_ref(), &options).unwrap();
    let values = shown.column(width + 1).as_primitive::<Int64Type>();
    let given = |(row, number): (usize, &i64)| {
        let text = orders.is_valid(row).then(|| formatter.value(row).to_string());
        (*number, text, values.is_valid(row).then(|| values.value(row)))
    };
    let found: Given = numbers.iter().enumerate().map(given).collect();
    assert_eq!(found, expected, "{question:?}");
}

async fn run_within(plan: Arc<dyn ExecutionPlan>, memory: Option<usize>) -> RecordBatch {
    let schema = plan.schema();
    let batches = collect(plan, context(memory).task_ctx()).await.unwrap();
    concat_batches(&schema, &batches).unwrap()
}

fn context(memory: Option<usize>) -> SessionContext {
    let mut runtime = RuntimeEnvBuilder::new();
    if let Some(bytes) = memory {
        runtime = runtime.with_memory_pool(Arc::new(GreedyMemoryPool::new(bytes)));
    }
    SessionContext::new_with_config_rt(SessionConfig::new(), runtime.build_arc().unwrap())
}

/// Of several threads, so that several workers match.
static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(3_000)))]

    #[test]
    fn joins_agree_with_the_rule(stored in rows(), held in rows(), labels in labels(), question in questions()) {
        // Rows kept back come later than all that is stored; some of them soon enough for labels to know them.
        let later = |row: Row| Row { created_time: row.created_time + 35, sequence: row.sequence + 100, ..row };
        let held: Vec<Row> = held.into_iter().take(5).map(later).collect();
        RUNTIME.block_on(check_join(&stored, &held, &labels, &question));
    }
}

/// A row of the only key there is in tests without keys.
fn row(event_time: i64, created_time: i64, value: i64) -> Row {
    Row { key: KEYS[0], event_time, created_time, sequence: value, retracted: false, value: Some(value) }
}

fn label(instant: i64) -> Label {
    Label { key: Some(0), instant: Some(instant), known_at: Some(instant) }
}

const PLAIN: Question = Question {
    direction: Direction::Backward,
    bound: Bound::Inclusive,
    window: None,
    source: Source::View(Known::Any),
    keys: Keys::Nothing,
    kind: AsOfKind::Left,
    condition: false,
    memory: None,
};

#[tokio::test]
async fn the_ends_of_time_are_instants_like_others() {
    let rows = [row(i64::MIN, 0, 1), row(i64::MAX, 0, 2), row(0, 0, 3)];
    for (direction, bound) in [
        (Direction::Backward, Bound::Inclusive),
        (Direction::Backward, Bound::Strict),
        (Direction::Forward, Bound::Inclusive),
        (Direction::Forward, Bound::Strict),
    ] {
        let source = view_source(&rows, &[], Keys::Nothing).await;
        let labels: Vec<_> = [i64::MIN, -1, i64::MAX].into_iter().map(label).collect();
        let (spine, schema) = spine(&labels, &PLAIN);
        let side = AsOfSide {
            source,
            keys: Vec::new(),
            instant: col("t", &schema).unwrap(),
            known_at: None,
            reach: Reach { direction, bound, window: Some(Ttl::from_micros(i64::MAX).unwrap()) },
            columns: vec![1],
            fields: vec![SqlType::BigInt.field_ref("value", true)],
            condition: None,
            kind: AsOfKind::Left,
        };
        let shown = run_within(Arc::new(AsOfJoinExec::new(spine, vec![side])), None).await;
        let found: Vec<_> = shown.column(3).as_primitive::<Int64Type>().iter().collect();
        let expected = match (direction, bound) {
            (Direction::Backward, Bound::Inclusive) => [Some(1), Some(1), Some(2)],
            // From the last instant, a window as long as there is reaches back to the epoch.
            (Direction::Backward, Bound::Strict) => [None, Some(1), Some(3)],
            (Direction::Forward, Bound::Inclusive) => [Some(1), Some(3), Some(2)],
            (Direction::Forward, Bound::Strict) => [None, Some(3), None],
        };
        assert_eq!(found, expected, "{direction:?} {bound:?}");
    }
}

/// A view without keys as a right side that gives its value.
async fn plain_side(rows: &[Row], schema: &SchemaRef) -> AsOfSide {
    AsOfSide {
        source: view_source(rows, &[], Keys::Nothing).await,
        keys: Vec::new(),
        instant: col("t", schema).unwrap(),
        known_at: None,
        reach: Reach::default(),
        columns: vec![1],
        fields: vec![SqlType::BigInt.field_ref("value", true)],
        condition: None,
        kind: AsOfKind::Left,
    }
}

#[tokio::test]
async fn a_left_side_larger_than_the_memory_is_answered_in_parts() {
    let rows: Vec<Row> = (0..200).map(|number| row(number, number, number)).collect();
    let labels: Vec<_> = (0..500).map(|number| label((number * 37) % 211)).collect();
    let (spine, schema) = spine(&labels, &PLAIN);
    let side = plain_side(&rows, &schema).await;
    let join = Arc::new(AsOfJoinExec::new(spine, vec![side]));
    let plan: Arc<dyn ExecutionPlan> = Arc::clone(&join) as _;
    let shown = run_within(plan, Some(16_000)).await;
    let metrics = join.metrics().unwrap();
    let parts = metrics.sum_by_name("parts").unwrap().as_usize();
    assert!(parts > 2, "{parts} parts");
    assert_eq!(metrics.sum_by_name("history_rows").unwrap().as_usize(), parts * rows.len());
    assert!(metrics.sum_by_name("memory_peak").unwrap().as_usize() <= 16_000);
    let found: Vec<_> = shown.column(3).as_primitive::<Int64Type>().iter().collect();
    let expected: Vec<_> = labels.iter().map(|label| label.instant.map(|at| at.min(199))).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_row_that_does_not_fit_is_an_error() {
    let (spine, schema) = spine(&[label(1)], &PLAIN);
    let side = plain_side(&[row(0, 0, 1)], &schema).await;
    let error = collect(Arc::new(AsOfJoinExec::new(spine, vec![side])), context(Some(10)).task_ctx()).await.unwrap_err();
    assert_eq!(internal(error).code(), crate::error::SqlState::OutOfMemory);
}

#[tokio::test]
async fn many_left_rows_are_given_in_arrays_of_their_own() {
    let rows: Vec<Row> = (0..200).map(|number| row(number, number, number)).collect();
    let labels: Vec<_> = (0..30_000).map(|number| label((number * 37) % 211)).collect();
    let (pieces, schema) = spine(&labels, &PLAIN);
    let whole = run_within(Arc::clone(&pieces), None).await;
    let whole = MemorySourceConfig::try_new_exec(&[vec![whole]], Arc::clone(&schema), None).unwrap();
    let expected: Vec<_> = labels.iter().map(|label| label.instant.map(|at| at.min(199))).collect();
    for spine in [pieces as Arc<dyn ExecutionPlan>, whole] {
        let left_batches = collect(Arc::clone(&spine), context(None).task_ctx()).await.unwrap().len();
        let join = AsOfJoinExec::new(spine, vec![plain_side(&rows, &schema).await]);
        let batches = collect(Arc::new(join), context(None).task_ctx()).await.unwrap();
        let values = |batch: &RecordBatch| batch.column(3).as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
        assert_eq!(batches.iter().flat_map(values).collect::<Vec<_>>(), expected);
        if left_batches == 1 {
            // Whoever adds up what batches take must not count the whole column for each of them.
            let taken: usize = batches.iter().map(|batch| batch.column(3).get_array_memory_size()).sum();
            assert!(taken < 2 * labels.len() * size_of::<i64>(), "{taken} bytes");
        }
    }
}
