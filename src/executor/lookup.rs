//! `OnlineLookupExec`: the newest rows of named entities in one view or several, from the online store.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{filter, take};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::error::Result as DfResult;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream};
use futures::{StreamExt, TryStreamExt};

use super::batches::{as_type, batch_of};
use super::entity_join::{EntityJoinExec, EntityJoinMember};
use super::snapshot::{SnapshotExec, SnapshotSpec};
use super::source::{DatasetReader, HeldRows, OnlineFallback, Stores, VersionPins};
use super::{cooperative_stream, external, kernel, one_stream};
use crate::error::Result;
use crate::lookup::{could_not_read, is_live};
use crate::offline::{Dataset, history_schema};
use crate::online::key::entity_keys;
use crate::online::{EntityKey, PackedRow, RowKey, RowLayout};
use crate::registry::{FeatureView, KeyColumn};
use crate::time::EventTime;

/// Distinct entity keys, one array a key column, in the view's order and types.
#[derive(Clone, Debug)]
pub struct KeySet {
    /// The key columns; none for a view without entities.
    pub columns: Vec<ArrayRef>,
    /// How many keys: one for a view without entities.
    pub len: usize,
}

impl KeySet {
    /// The keys that these columns of them make, each once.
    pub fn distinct_of(&self, view: &FeatureView, places: &[usize]) -> Result<Self> {
        let columns: Vec<ArrayRef> = places.iter().map(|place| Arc::clone(&self.columns[*place])).collect();
        if places.len() == self.columns.len() {
            return Ok(Self { columns, len: self.len });
        }
        if columns.is_empty() {
            return Ok(Self { columns, len: self.len.min(1) });
        }
        let mut seen = std::collections::HashSet::new();
        let keys = entity_keys(&view.keys, &columns)?;
        let first = keys.iter().zip(0_u32..).filter(|(key, _)| key.as_ref().is_some_and(|key| seen.insert(key)));
        let rows = UInt32Array::from_iter_values(first.map(|(_, row)| row));
        let columns = columns.iter().map(|column| take(column, &rows, None).map_err(kernel)).collect::<Result<_>>()?;
        Ok(Self { columns, len: rows.len() })
    }
}

/// A view that is read by the keys of entities.
#[derive(Clone, Debug)]
pub struct KeyedView {
    /// The view.
    pub view: Arc<FeatureView>,
    /// Which of the entities' keys are its own, in its order.
    pub places: Vec<usize>,
}

/// A column of the rows of entities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntityColumn {
    /// A key, by its place.
    Key(usize),
    /// A column of a view's row behind its keys; NULL where the entity has no row there.
    Of {
        /// The view, by its place.
        view: usize,
        /// The column, by its place among the view's.
        column: usize,
    },
}

/// What a lookup asks.
#[derive(Clone, Debug)]
pub struct LookupSpec {
    /// The views.
    pub views: Vec<KeyedView>,
    /// The parts of an entity's key.
    pub parts: Vec<KeyColumn>,
    /// The entities.
    pub keys: KeySet,
    /// The instant that "now" means.
    pub at: EventTime,
    /// The columns wanted.
    pub columns: Vec<EntityColumn>,
    /// Their names and types.
    pub schema: SchemaRef,
    /// Where to look.
    pub stores: Stores,
    /// What to do when the online store cannot be reached.
    pub fallback: OnlineFallback,
    /// The versions that a fallback would read.
    pub pins: Arc<VersionPins>,
}

/// Reads the named entities' newest rows of all views in one round trip, each at most once; an entity has a row where any of the
/// views has a live one. Rows past their TTL and retractions are dropped here, by [`is_live`].
#[derive(Debug)]
pub struct OnlineLookupExec {
    spec: Arc<LookupSpec>,
    layouts: Arc<Vec<RowLayout>>,
    /// What the store gave, where it was asked before.
    fetched: Option<Arc<Fetched>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl OnlineLookupExec {
    /// A lookup.
    pub fn new(spec: LookupSpec) -> Self {
        let layouts = Arc::new(spec.views.iter().map(|keyed| RowLayout::new(&keyed.view)).collect());
        let properties = one_stream(&spec.schema, EmissionType::Final);
        Self { spec: Arc::new(spec), layouts, fetched: None, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    /// The parts of an entity's key.
    pub(super) fn parts(&self) -> &[KeyColumn] {
        &self.spec.parts
    }

    /// What is read, as `EXPLAIN` says it.
    pub(super) fn reads(&self) -> String {
        let names: Vec<&str> = self.spec.views.iter().map(|keyed| keyed.view.name.as_str()).collect();
        match names.as_slice() {
            [view] => format!("view={view}"),
            views => format!("views=[{}]", views.join(", ")),
        }
    }

    /// The same lookup of these entities.
    pub(super) fn of(&self, keys: KeySet) -> Self {
        Self {
            spec: Arc::new(LookupSpec { keys, ..self.spec.as_ref().clone() }),
            layouts: Arc::clone(&self.layouts),
            fetched: None,
            properties: Arc::clone(&self.properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// The same lookups with the store's rows in them: all are asked for in one round trip. Where that fails and the session
    /// would rather read offline, the lookups as they are: each asks for itself, and does so.
    pub(super) async fn fetched_together(lookups: Vec<Self>) -> Result<Vec<Self>> {
        let Some(first) = lookups.first() else { return Ok(lookups) };
        let spec = Arc::clone(&first.spec);
        let requests = lookups.iter().map(|lookup| Request::of(&lookup.spec)).collect::<Result<Vec<_>>>()?;
        let keys: Vec<RowKey> = requests.iter().flat_map(|request| request.keys.iter().cloned()).collect();
        let mut rows = match get(&spec, &keys).await {
            Ok(rows) => rows.into_iter(),
            Err(error) if spec.fallback.reads_offline(&error) => return Ok(lookups),
            Err(error) => return Err(error),
        };
        let fetched = lookups.into_iter().zip(requests).map(|(lookup, request)| {
            let rows = rows.by_ref().take(request.keys.len()).collect();
            Self { fetched: Some(Arc::new(Fetched { request, rows })), ..lookup }
        });
        Ok(fetched.collect())
    }
}

impl DisplayAs for OnlineLookupExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnlineLookupExec: {}, keys={}", self.reads(), self.spec.keys.len)
    }
}

impl ExecutionPlan for OnlineLookupExec {
    fn name(&self) -> &'static str {
        "OnlineLookupExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let (spec, layouts, fetched) = (Arc::clone(&self.spec), Arc::clone(&self.layouts), self.fetched.clone());
        let keys = MetricBuilder::new(&self.metrics).counter("keys", partition);
        let hits = MetricBuilder::new(&self.metrics).counter("hits", partition);
        keys.add(spec.keys.len);
        let stream = futures::stream::once(async move {
            let answered = match &fetched {
                Some(fetched) => answer(&spec, &layouts, fetched),
                None => lookup(&spec, &layouts).await,
            };
            match answered {
                Ok(batch) => {
                    hits.add(batch.num_rows());
                    Ok(futures::stream::once(async { Ok(batch) }).boxed())
                }
                Err(error) if spec.fallback.reads_offline(&error) => {
                    tracing::debug!(error = %error, "reading offline");
                    let offline = offline(&spec).await.map_err(external)?;
                    Ok(offline.execute(0, context)?.boxed())
                }
                Err(error) => Err(external(error)),
            }
        })
        .try_flatten();
        Ok(cooperative_stream(Arc::clone(&self.spec.schema), stream))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The rows of the store that a lookup asks for: each key once, and for each view where the entities' rows are among them.
#[derive(Debug, Default)]
struct Request {
    keys: Vec<RowKey>,
    /// The view of each key.
    views: Vec<usize>,
    places: Vec<Vec<Option<usize>>>,
}

impl Request {
    fn of(spec: &LookupSpec) -> Result<Self> {
        let mut request = Self::default();
        for (number, KeyedView { view, places }) in spec.views.iter().enumerate() {
            let columns: Vec<ArrayRef> = places.iter().map(|place| Arc::clone(&spec.keys.columns[*place])).collect();
            let entities = match columns.is_empty() {
                true => vec![Some(EntityKey::global()); spec.keys.len],
                false => entity_keys(&view.keys, &columns)?,
            };
            // Entities that differ share a row of this view where some of their keys are not its own.
            let is_shared = places.len() < spec.keys.columns.len();
            let mut seen: HashMap<EntityKey, usize> = HashMap::new();
            let mut found = Vec::with_capacity(entities.len());
            for entity in entities {
                found.push(entity.map(|entity| {
                    let next = request.keys.len();
                    let place = if is_shared { *seen.entry(entity.clone()).or_insert(next) } else { next };
                    if place == next {
                        request.keys.push(RowKey { view: view.id, entity });
                        request.views.push(number);
                    }
                    place
                }));
            }
            request.places.push(found);
        }
        Ok(request)
    }
}

/// What a lookup asked for, and what it was given.
#[derive(Debug)]
struct Fetched {
    request: Request,
    rows: Vec<Option<PackedRow>>,
}

async fn lookup(spec: &LookupSpec, layouts: &[RowLayout]) -> Result<RecordBatch> {
    let request = Request::of(spec)?;
    let rows = get(spec, &request.keys).await?;
    answer(spec, layouts, &Fetched { request, rows })
}

async fn get(spec: &LookupSpec, keys: &[RowKey]) -> Result<Vec<Option<PackedRow>>> {
    spec.stores.online.get(keys, spec.at).await.map_err(|error| match spec.views.first() {
        Some(keyed) => could_not_read(&keyed.view, error),
        None => error,
    })
}

fn answer(spec: &LookupSpec, layouts: &[RowLayout], fetched: &Fetched) -> Result<RecordBatch> {
    let Fetched { request, rows: found } = fetched;
    let metrics = &spec.stores.metrics;
    metrics.lookups_planned.add(1);
    metrics.online_keys.add(request.keys.len() as u64);
    let live = |(row, view): (&Option<PackedRow>, &usize)| {
        row.as_ref().is_some_and(|row| is_live(&spec.views[*view].view, row, spec.at))
    };
    let live: Vec<bool> = found.iter().zip(&request.views).map(live).collect();
    metrics.online_hits.add(live.iter().filter(|live| **live).count() as u64);
    let row = |place: &Option<usize>| place.filter(|place| live[*place]).and_then(|place| found[place].as_ref());
    let rows: Vec<Vec<Option<&PackedRow>>> = request.places.iter().map(|places| places.iter().map(row).collect()).collect();
    assemble(spec, layouts, &rows)
}

/// The wanted columns of the entities that have a live row: keys as they were asked for, event times and features as they were
/// stored.
fn assemble(spec: &LookupSpec, layouts: &[RowLayout], rows: &[Vec<Option<&PackedRow>>]) -> Result<RecordBatch> {
    let is_there: Vec<bool> = (0..spec.keys.len).map(|entity| rows.iter().any(|rows| rows[entity].is_some())).collect();
    let count = is_there.iter().filter(|there| **there).count();
    let mut stored = Vec::with_capacity(rows.len());
    for (number, (rows, layout)) in rows.iter().zip(layouts).enumerate() {
        let shown: Vec<Option<&PackedRow>> =
            rows.iter().zip(&is_there).filter(|(_, there)| **there).map(|(row, _)| *row).collect();
        let first = spec.views[number].view.event_time_index() + 1;
        let features = spec.columns.iter().filter_map(|column| match column {
            EntityColumn::Of { view, column } if *view == number => column.checked_sub(first),
            _ => None,
        });
        let mut columns = layout.unpack(&shown, &features.collect::<Vec<_>>())?.into_iter();
        let event_times = columns.next().ok_or_else(|| crate::error::Error::internal("rows without event times"))?;
        stored.push((first, event_times, columns));
    }
    let is_there = BooleanArray::from(is_there);
    let mut columns = Vec::with_capacity(spec.columns.len());
    for (column, field) in spec.columns.iter().zip(spec.schema.fields()) {
        let array = match *column {
            EntityColumn::Key(place) => filter(&spec.keys.columns[place], &is_there).map_err(kernel)?,
            EntityColumn::Of { view, column } => {
                let (first, event_times, features) = &mut stored[view];
                let feature = if column < *first { None } else { features.next() };
                feature.unwrap_or_else(|| Arc::clone(event_times))
            }
        };
        columns.push(as_type(&array, field.data_type())?);
    }
    batch_of(&spec.schema, columns, count)
}

/// The same question to the offline store.
async fn offline(spec: &LookupSpec) -> Result<EntityJoinExec> {
    let mut members = Vec::with_capacity(spec.views.len());
    for (number, KeyedView { view, places }) in spec.views.iter().enumerate() {
        let dataset = Dataset::History(view.id);
        let reader = DatasetReader::open(dataset, history_schema(view), &spec.stores, &spec.pins, &HeldRows::new()).await?;
        let snapshot = SnapshotSpec {
            view: Arc::clone(view),
            reader,
            at: Some(spec.at),
            window: view.ttl,
            known_at: None,
            keys: Some(spec.keys.distinct_of(view, places)?),
            predicates: Vec::new(),
            projection: EntityJoinMember::projection(view, number, &spec.columns),
        };
        let plan = Arc::new(SnapshotExec::new(snapshot)?);
        members.push(EntityJoinMember { view: Arc::clone(view), plan, places: places.clone() });
    }
    let keys = (spec.parts.clone(), Some(spec.keys.clone()));
    Ok(EntityJoinExec::new(members, keys, spec.columns.clone(), Arc::clone(&spec.schema)))
}

/// The schema of these columns of a view.
pub(crate) fn projected(view: &FeatureView, projection: &[usize]) -> Result<SchemaRef> {
    let schema: Schema = view.schema().project(projection).map_err(kernel)?;
    Ok(Arc::new(schema))
}
