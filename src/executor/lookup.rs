//! `OnlineLookupExec`: the newest rows of named entities, from the online store.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::error::Result as DfResult;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream};
use futures::{StreamExt, TryStreamExt};

use super::batches::{as_type, batch_of};
use super::snapshot::{SnapshotSpec, snapshot_stream};
use super::source::{DatasetReader, HeldRows, OnlineFallback, Stores, VersionPins};
use super::{cooperative_stream, external, internal, kernel, one_stream};
use crate::error::Result;
use crate::lookup::{could_not_read, is_live};
use crate::offline::{BatchStream, Dataset, history_schema};
use crate::online::key::entity_keys;
use crate::online::{EntityKey, PackedRow, RowKey, RowLayout};
use crate::registry::FeatureView;
use crate::time::EventTime;

/// Distinct entity keys, one array a key column, in the view's order and types.
#[derive(Clone, Debug)]
pub struct KeySet {
    /// The key columns; none for a view without entities.
    pub columns: Vec<ArrayRef>,
    /// How many keys: one for a view without entities.
    pub len: usize,
}

/// What a lookup asks.
#[derive(Clone, Debug)]
pub struct LookupSpec {
    /// The view.
    pub view: Arc<FeatureView>,
    /// The entities.
    pub keys: KeySet,
    /// The instant that "now" means.
    pub at: EventTime,
    /// The columns wanted, by place among the view's.
    pub projection: Vec<usize>,
    /// Where to look.
    pub stores: Stores,
    /// What to do when the online store cannot be reached.
    pub fallback: OnlineFallback,
    /// The versions that a fallback would read.
    pub pins: Arc<VersionPins>,
}

/// Reads the named entities' newest rows in one round trip, each at most once. Rows past their TTL and retractions are
/// dropped here, by [`is_live`].
#[derive(Debug)]
pub struct OnlineLookupExec {
    spec: Arc<LookupSpec>,
    layout: Arc<RowLayout>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl OnlineLookupExec {
    /// A lookup.
    pub fn new(spec: LookupSpec) -> Result<Self> {
        let schema = Arc::new(spec.view.schema().project(&spec.projection).map_err(kernel)?);
        let layout = Arc::new(RowLayout::new(&spec.view));
        let properties = one_stream(&schema, EmissionType::Final);
        Ok(Self { spec: Arc::new(spec), layout, schema, properties, metrics: ExecutionPlanMetricsSet::new() })
    }

    /// The view.
    pub(super) fn view(&self) -> &Arc<FeatureView> {
        &self.spec.view
    }

    /// The same lookup of these entities.
    pub(super) fn of(&self, keys: KeySet) -> Self {
        Self {
            spec: Arc::new(LookupSpec { keys, ..self.spec.as_ref().clone() }),
            layout: Arc::clone(&self.layout),
            schema: Arc::clone(&self.schema),
            properties: Arc::clone(&self.properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl DisplayAs for OnlineLookupExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnlineLookupExec: view={}, keys={}", self.spec.view.name, self.spec.keys.len)
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

    fn execute(&self, partition: usize, _context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let (spec, layout, schema) = (Arc::clone(&self.spec), Arc::clone(&self.layout), Arc::clone(&self.schema));
        let keys = MetricBuilder::new(&self.metrics).counter("keys", partition);
        let hits = MetricBuilder::new(&self.metrics).counter("hits", partition);
        keys.add(spec.keys.len);
        let target = Arc::clone(&schema);
        let stream = futures::stream::once(async move {
            match lookup(&spec, &layout, &target).await {
                Ok(batch) => {
                    hits.add(batch.num_rows());
                    Ok(futures::stream::once(async { Ok(batch) }).boxed())
                }
                Err(error) if spec.fallback.reads_offline(&error) => {
                    tracing::debug!(view = %spec.view.name, error = %error, "reading offline");
                    from_offline(&spec).await
                }
                Err(error) => Err(error),
            }
        })
        .try_flatten()
        .map_err(external);
        Ok(cooperative_stream(schema, stream))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

async fn lookup(spec: &LookupSpec, layout: &RowLayout, schema: &SchemaRef) -> Result<RecordBatch> {
    let view = &spec.view;
    let entities = match view.keys.is_empty() {
        true => vec![Some(EntityKey::global()); spec.keys.len],
        false => entity_keys(&view.keys, &spec.keys.columns)?,
    };
    let mut places = Vec::with_capacity(entities.len());
    let mut keys = Vec::with_capacity(entities.len());
    for (place, entity) in entities.into_iter().enumerate() {
        if let Some(entity) = entity {
            places.push(place);
            keys.push(RowKey { view: view.id, entity });
        }
    }
    let found = spec.stores.online.get(&keys, spec.at).await.map_err(|error| could_not_read(view, error))?;
    spec.stores.metrics.lookups_planned.add(1);
    spec.stores.metrics.online_keys.add(keys.len() as u64);
    let mut live = vec![false; spec.keys.len];
    let mut rows: Vec<Option<&PackedRow>> = Vec::with_capacity(found.len());
    for (place, row) in places.into_iter().zip(&found) {
        if let Some(row) = row.as_ref().filter(|row| is_live(view, row, spec.at)) {
            live[place] = true;
            rows.push(Some(row));
        }
    }
    spec.stores.metrics.online_hits.add(rows.len() as u64);
    assemble(spec, layout, schema, &BooleanArray::from(live), &rows)
}

/// The wanted columns of the live rows: keys as they were asked for, event time and features as they were stored.
fn assemble(
    spec: &LookupSpec,
    layout: &RowLayout,
    schema: &SchemaRef,
    live: &BooleanArray,
    rows: &[Option<&PackedRow>],
) -> Result<RecordBatch> {
    let event_time = spec.view.event_time_index();
    let features: Vec<usize> = spec.projection.iter().filter_map(|column| column.checked_sub(event_time + 1)).collect();
    let stored = layout.unpack(rows, &features)?;
    let mut next_feature = 1;
    let mut columns = Vec::with_capacity(spec.projection.len());
    for (column, field) in spec.projection.iter().zip(schema.fields()) {
        let array = if *column < event_time {
            filter(&spec.keys.columns[*column], live).map_err(kernel)?
        } else if *column == event_time {
            Arc::clone(&stored[0])
        } else {
            next_feature += 1;
            Arc::clone(&stored[next_feature - 1])
        };
        columns.push(as_type(&array, field.data_type())?);
    }
    batch_of(schema, columns, rows.len())
}

/// The same question to the offline store.
async fn from_offline(spec: &LookupSpec) -> Result<BatchStream> {
    let dataset = Dataset::History(spec.view.id);
    let schema = history_schema(&spec.view);
    let reader = DatasetReader::open(dataset, schema, &spec.stores, &spec.pins, &HeldRows::new()).await?;
    let snapshot = SnapshotSpec {
        view: Arc::clone(&spec.view),
        reader,
        at: Some(spec.at),
        window: spec.view.ttl,
        known_at: None,
        keys: Some(spec.keys.clone()),
        predicates: Vec::new(),
        projection: spec.projection.clone(),
    };
    Ok(snapshot_stream(Arc::new(snapshot), None).map_err(internal).boxed())
}

/// The schema of these columns of a view.
pub(crate) fn projected(view: &FeatureView, projection: &[usize]) -> Result<SchemaRef> {
    let schema: Schema = view.schema().project(projection).map_err(kernel)?;
    Ok(Arc::new(schema))
}
