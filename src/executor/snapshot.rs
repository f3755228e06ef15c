//! `SnapshotExec`: the newest row of each entity at an instant, from the history.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream};
use futures::{Stream, StreamExt, TryStreamExt};

use super::batches::batch_of;
use super::key_dictionary::{KeyDictionary, NO_ENTITY};
use super::lookup::{KeySet, projected};
use super::scan_metrics::ScanMetrics;
use super::source::{DatasetReader, column};
use super::{BATCH_ROWS, cooperative_stream, external, internal, kernel, one_stream};
use crate::error::Result;
use crate::offline::{CREATED_TIME, Predicate, RETRACTED, SEQUENCE, Scan};
use crate::registry::{FeatureView, Ttl};
use crate::time::{CommitTime, EventTime};

/// Rows that are kept although no entity's newest, before they are thrown out.
const STALE_ROWS_MAX: usize = 1 << 18;

/// What a snapshot shows.
#[derive(Clone, Debug)]
pub struct SnapshotSpec {
    /// The view.
    pub view: Arc<FeatureView>,
    /// Its history.
    pub reader: DatasetReader,
    /// The instant; `None` is a NULL instant, at which there are no rows.
    pub at: Option<EventTime>,
    /// How long before the instant a row may have become true; `None` is no limit. The view's TTL, or less.
    pub window: Option<Ttl>,
    /// Only rows committed by then may answer; `None`, all.
    pub known_at: Option<CommitTime>,
    /// The entities; `None`, all of them.
    pub keys: Option<KeySet>,
    /// Conditions on keys that narrow what is read; what they leave is judged again above.
    pub predicates: Vec<Predicate>,
    /// The columns wanted, by place among the view's.
    pub projection: Vec<usize>,
}

impl SnapshotSpec {
    /// Conditions under which a row can be an answer.
    fn predicates(&self, at: EventTime) -> Vec<Predicate> {
        let mut predicates = self.predicates.clone();
        predicates.push(Predicate::EventTime {
            column: self.view.event_time.clone(),
            min: Ttl::oldest(self.window, at),
            max: Some(at),
        });
        if let Some(known_at) = self.known_at {
            let column = CREATED_TIME.to_owned();
            predicates.push(Predicate::EventTime { column, min: None, max: Some(known_at.as_event_time()) });
        }
        if let Some(keys) = &self.keys {
            for (key, values) in self.view.keys.iter().zip(&keys.columns) {
                predicates.push(Predicate::In { column: key.name.clone(), values: Arc::clone(values) });
            }
        }
        predicates
    }
}

/// Finds each entity's newest row at an instant: history is streamed once, in any order; what is kept is one row an entity.
/// A retraction is an entity's newest row without being shown.
#[derive(Debug)]
pub struct SnapshotExec {
    spec: Arc<SnapshotSpec>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl SnapshotExec {
    /// A snapshot.
    pub fn new(spec: SnapshotSpec) -> Result<Self> {
        let schema = projected(&spec.view, &spec.projection)?;
        let properties = one_stream(&schema, EmissionType::Final);
        Ok(Self { spec: Arc::new(spec), schema, properties, metrics: ExecutionPlanMetricsSet::new() })
    }

    /// The view.
    pub(super) fn view(&self) -> &Arc<FeatureView> {
        &self.spec.view
    }

    /// The same snapshot of these entities.
    pub(super) fn of(&self, keys: KeySet) -> Self {
        Self {
            spec: Arc::new(SnapshotSpec { keys: Some(keys), ..self.spec.as_ref().clone() }),
            schema: Arc::clone(&self.schema),
            properties: Arc::clone(&self.properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl DisplayAs for SnapshotExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotExec: view={}, as_of=", self.spec.view.name)?;
        match self.spec.at {
            Some(at) => write!(f, "{at}")?,
            None => f.write_str("NULL")?,
        }
        if let Some(known_at) = self.spec.known_at {
            write!(f, ", known_at={known_at}")?;
        }
        write!(f, ", version={}", self.spec.reader.version())?;
        if let Some(keys) = &self.spec.keys {
            write!(f, ", keys={}", keys.len)?;
        }
        Ok(())
    }
}

impl ExecutionPlan for SnapshotExec {
    fn name(&self) -> &'static str {
        "SnapshotExec"
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
        let watch = Watch {
            memory: MemoryConsumer::new("SnapshotExec").register(context.memory_pool()),
            history_rows: MetricBuilder::new(&self.metrics).counter("history_rows", partition),
            entities: MetricBuilder::new(&self.metrics).counter("entities", partition),
            scans: ScanMetrics::new(&self.metrics, partition),
        };
        let stream = snapshot_stream(Arc::clone(&self.spec), Some(watch));
        Ok(cooperative_stream(Arc::clone(&self.schema), stream))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// What is watched while a snapshot is made.
pub(crate) struct Watch {
    memory: MemoryReservation,
    history_rows: Count,
    entities: Count,
    scans: Arc<ScanMetrics>,
}

/// The rows of a snapshot, in batches.
pub(crate) fn snapshot_stream(
    spec: Arc<SnapshotSpec>,
    watch: Option<Watch>,
) -> impl Stream<Item = DfResult<RecordBatch>> + Send + 'static {
    let rows = async move {
        let batch = snapshot(&spec, watch.as_ref()).await.map_err(external)?;
        let starts = (0..batch.num_rows()).step_by(BATCH_ROWS);
        let batches: Vec<_> = starts.map(|start| Ok(batch.slice(start, BATCH_ROWS.min(batch.num_rows() - start)))).collect();
        // The reservation lives as long as the rows do.
        let batches = futures::stream::iter(batches).map(move |batch| {
            let _held_until_sent = &watch;
            batch
        });
        Ok::<_, DataFusionError>(batches)
    };
    futures::stream::once(rows).try_flatten()
}

async fn snapshot(spec: &SnapshotSpec, watch: Option<&Watch>) -> Result<RecordBatch> {
    let schema = projected(&spec.view, &spec.projection)?;
    let empty = || RecordBatch::new_empty(Arc::clone(&schema));
    let Some(at) = spec.at else { return Ok(empty()) };
    let mut newest = Newest::new(spec, Arc::clone(&schema))?;
    let scan = newest.scan(spec.predicates(at));
    let mut history = match watch {
        Some(watch) => {
            let scans: Arc<ScanMetrics> = Arc::clone(&watch.scans);
            spec.reader.watched_by(scans).scan(scan).await?
        }
        None => spec.reader.scan(scan).await?,
    };
    while let Some(batch) = history.next().await {
        let batch = batch?;
        spec.reader.metrics().history_rows.add(batch.num_rows() as u64);
        newest.add(&batch)?;
        if let Some(watch) = watch {
            watch.history_rows.add(batch.num_rows());
            watch.memory.try_resize(newest.bytes()).map_err(internal)?;
        }
    }
    let rows = newest.finish(at)?;
    if let Some(watch) = watch {
        watch.entities.add(rows.num_rows());
    }
    Ok(rows)
}

/// Where an entity's newest row is, and what made it the newest.
#[derive(Clone, Copy)]
struct Winner {
    version: (i64, i64, i64),
    retracted: bool,
    batch: u32,
    row: u32,
}

/// Each entity's newest row so far.
struct Newest<'a> {
    view: &'a FeatureView,
    window: Option<Ttl>,
    columns: Vec<String>,
    schema: SchemaRef,
    /// The entities that may answer: those named, or those met so far.
    entities: KeyDictionary,
    named: bool,
    winners: Vec<Option<Winner>>,
    batches: Vec<RecordBatch>,
    kept_rows: usize,
}

impl<'a> Newest<'a> {
    fn new(spec: &'a SnapshotSpec, schema: SchemaRef) -> Result<Self> {
        let view = &spec.view;
        let names = view.schema();
        let columns = spec.projection.iter().map(|column| names.field(*column).name().clone()).collect();
        let mut entities = KeyDictionary::new(&view.keys)?;
        if let Some(keys) = &spec.keys {
            entities.intern(&keys.columns, keys.len)?;
        }
        let named = spec.keys.is_some();
        Ok(Self {
            view,
            window: spec.window,
            columns,
            schema,
            entities,
            named,
            winners: Vec::new(),
            batches: Vec::new(),
            kept_rows: 0,
        })
    }

    /// The wanted columns, and those that decide, each once.
    fn scan(&self, predicates: Vec<Predicate>) -> Scan {
        let mut columns = self.columns.clone();
        let keys = self.view.keys.iter().map(|key| key.name.as_str());
        for name in keys.chain([self.view.event_time.as_str(), CREATED_TIME, SEQUENCE, RETRACTED]) {
            if !columns.iter().any(|column| column == name) {
                columns.push(name.to_owned());
            }
        }
        Scan { columns, predicates, ..Scan::default() }
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let keys = self.view.keys.iter().map(|key| column(batch, &key.name)).collect::<Result<Vec<ArrayRef>>>()?;
        let entities = match self.named {
            true => self.entities.find(&keys, batch.num_rows())?,
            false => self.entities.intern(&keys, batch.num_rows())?,
        };
        let versions = Versions::of(batch, &self.view.event_time)?;
        let retracted = column(batch, RETRACTED)?;
        let retracted = retracted.as_boolean();
        self.winners.resize(self.entities.len(), None);
        let number = u32::try_from(self.batches.len()).unwrap_or(u32::MAX);
        let is_retraction = |row: usize| retracted.is_valid(row) && retracted.value(row);
        let mut won = false;
        for (row, entity) in entities.iter().enumerate() {
            if *entity == NO_ENTITY {
                continue;
            }
            let version = versions.at(row);
            let slot = &mut self.winners[*entity as usize];
            if slot.as_ref().is_none_or(|winner| version > winner.version) {
                let row_number = u32::try_from(row).unwrap_or(u32::MAX);
                *slot = Some(Winner { version, retracted: is_retraction(row), batch: number, row: row_number });
                won = true;
            }
        }
        if won {
            let shown = (0..self.columns.len()).collect::<Vec<_>>();
            self.batches.push(batch.project(&shown).map_err(kernel)?);
            self.kept_rows += batch.num_rows();
            if self.kept_rows > 2 * self.winners.len() + STALE_ROWS_MAX {
                self.compact()?;
            }
        }
        Ok(())
    }

    /// Keeps the winners' rows and forgets the others.
    fn compact(&mut self) -> Result<()> {
        let mut places = Vec::with_capacity(self.winners.len());
        for winner in self.winners.iter_mut().flatten() {
            let place = (winner.batch as usize, winner.row as usize);
            winner.batch = 0;
            winner.row = u32::try_from(places.len()).unwrap_or(u32::MAX);
            places.push(place);
        }
        let rows = gather(&self.batches, &places, &self.schema)?;
        self.kept_rows = rows.num_rows();
        self.batches = vec![rows];
        Ok(())
    }

    fn bytes(&self) -> usize {
        let rows: usize = self.batches.iter().map(RecordBatch::get_array_memory_size).sum();
        rows + self.winners.capacity() * (size_of::<Option<Winner>>() + 48)
    }

    /// The rows shown at `at`: live ones that are no retractions.
    fn finish(self, at: EventTime) -> Result<RecordBatch> {
        let live =
            |winner: &&Winner| !winner.retracted && Ttl::is_live(self.window, EventTime::from_micros(winner.version.0), at);
        let winners = self.winners.iter().flatten().filter(live);
        let places: Vec<_> = winners.map(|winner| (winner.batch as usize, winner.row as usize)).collect();
        gather(&self.batches, &places, &self.schema)
    }
}

/// The rows at these places, under `schema`.
fn gather(batches: &[RecordBatch], places: &[(usize, usize)], schema: &SchemaRef) -> Result<RecordBatch> {
    if batches.is_empty() || places.is_empty() {
        return Ok(RecordBatch::new_empty(Arc::clone(schema)));
    }
    if schema.fields().is_empty() {
        return batch_of(schema, Vec::new(), places.len());
    }
    let batches: Vec<&RecordBatch> = batches.iter().collect();
    let rows = interleave_record_batch(&batches, places).map_err(kernel)?;
    super::conform(rows, schema)
}

/// The columns that order the rows of one entity.
pub(crate) struct Versions {
    event_times: arrow::array::TimestampMicrosecondArray,
    created_times: arrow::array::TimestampMicrosecondArray,
    sequences: arrow::array::Int64Array,
}

impl Versions {
    /// Those of a batch of history.
    pub(crate) fn of(batch: &RecordBatch, event_time: &str) -> Result<Self> {
        Ok(Self {
            event_times: column(batch, event_time)?.as_primitive::<TimestampMicrosecondType>().clone(),
            created_times: column(batch, CREATED_TIME)?.as_primitive::<TimestampMicrosecondType>().clone(),
            sequences: column(batch, SEQUENCE)?.as_primitive::<Int64Type>().clone(),
        })
    }

    /// What orders a row: event time, created time, sequence.
    pub(crate) fn at(&self, row: usize) -> (i64, i64, i64) {
        (self.event_times.value(row), self.created_times.value(row), self.sequences.value(row))
    }
}
