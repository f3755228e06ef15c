//! `AsOfJoinExec`: each left row with what views knew at that row's own instant.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute::{and, concat, concat_batches, filter, is_not_null, nullif, prep_null_mask_filter, take};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_expr::{Distribution, PhysicalExpr};
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream};
use futures::{StreamExt, TryStreamExt};

use super::as_of_match::{Knowledge, Matches, Mirror, Question, find_matches};
use super::as_of_relation::{comparable_numbers, find_in_relation, mirrored};
use super::as_of_side::{AsOfKind, AsOfSide, AsOfSource, Bound, Direction};
use super::batches::{as_type, batch_of};
use super::key_dictionary::KeyDictionary;
use super::source::DatasetReader;
use super::spine::Slots;
use super::{BATCH_ROWS, cooperative_stream, external, internal, kernel, one_stream};
use crate::error::{Error, Result};
use crate::registry::FeatureView;
use crate::types::SqlType;

/// The bytes that one left row takes for each right side while its answer is sought: an entity, a slot, a candidate, a place.
const SIDE_ROW_BYTES: usize = 120;

/// About how many bytes a left row's answer takes for each column.
const COLUMN_ROW_BYTES: usize = 16;

/// Joins every left row with the row of each right side that answers it. Left rows keep their order. The left side is
/// collected, in parts where it does not fit the memory limit; for each part a view's history is streamed, in any order, at
/// most twice; other relations are collected once.
#[derive(Debug)]
pub struct AsOfJoinExec {
    spine: Arc<dyn ExecutionPlan>,
    sides: Arc<Vec<AsOfSide>>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl AsOfJoinExec {
    /// A join of `spine` with `views`, one after the other.
    pub fn new(spine: Arc<dyn ExecutionPlan>, sides: Vec<AsOfSide>) -> Self {
        let mut fields: Vec<Arc<Field>> = spine.schema().fields().to_vec();
        fields.extend(sides.iter().flat_map(|view| view.fields.iter().cloned()));
        let schema = Arc::new(Schema::new(fields));
        let properties = one_stream(&schema, EmissionType::Final);
        Self { spine, sides: Arc::new(sides), schema, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    /// The left side.
    pub fn spine(&self) -> &Arc<dyn ExecutionPlan> {
        &self.spine
    }

    /// The right sides.
    pub fn sides(&self) -> &[AsOfSide] {
        &self.sides
    }
}

impl DisplayAs for AsOfJoinExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, item: &dyn Fn(&AsOfSide) -> String| {
            f.write_str(&self.sides.iter().map(item).collect::<Vec<_>>().join(", "))
        };
        f.write_str("AsOfJoinExec: views=[")?;
        list(f, &|side| side.name().to_owned())?;
        f.write_str("], versions=[")?;
        list(f, &|side| match &side.source {
            AsOfSource::View { reader, .. } => reader.version().to_string(),
            AsOfSource::Relation { .. } => "-".to_owned(),
        })?;
        f.write_str("], kind=[")?;
        list(f, &|view| match view.kind {
            AsOfKind::Left => "left".to_owned(),
            AsOfKind::Inner => "inner".to_owned(),
        })?;
        f.write_str("], as_of=[")?;
        list(f, &|view| view.instant.to_string())?;
        f.write_str("]")?;
        for (number, side) in self.sides.iter().enumerate() {
            // What a plain AS OF has stays unsaid.
            if let Some(window) = side.reach.window {
                write!(f, ", window[{number}]={}us", window.micros())?;
            }
            if side.reach.direction == Direction::Forward {
                write!(f, ", direction[{number}]=forward")?;
            }
            if side.reach.bound == Bound::Strict {
                write!(f, ", bound[{number}]=strict")?;
            }
            if let Some(known_at) = &side.known_at {
                write!(f, ", known_at[{number}]={known_at}")?;
            }
        }
        for view in self.sides.iter() {
            if let Some(condition) = &view.condition {
                write!(f, ", condition={condition}")?;
            }
        }
        Ok(())
    }
}

impl ExecutionPlan for AsOfJoinExec {
    fn name(&self) -> &'static str {
        "AsOfJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        std::iter::once(&self.spine).chain(self.sides.iter().filter_map(AsOfSide::plan)).collect()
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition; self.children().len()]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        let missing = || DataFusionError::Internal("an as-of join lacks a child".into());
        let mut children = children.into_iter();
        let spine = children.next().ok_or_else(missing)?;
        let mut sides = self.sides.to_vec();
        for side in &mut sides {
            if let AsOfSource::Relation { plan, .. } = &mut side.source {
                *plan = children.next().ok_or_else(missing)?;
            }
        }
        Ok(Arc::new(Self::new(spine, sides)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let spine = self.spine.execute(partition, Arc::clone(&context))?;
        let relation = |side: &AsOfSide| side.plan().map(|plan| plan.execute(partition, Arc::clone(&context))).transpose();
        let relations = self.sides.iter().map(relation).collect::<DfResult<Vec<_>>>()?;
        let counter = |name| MetricBuilder::new(&self.metrics).counter(name, partition);
        let join = Join {
            sides: Arc::clone(&self.sides),
            schema: Arc::clone(&self.schema),
            memory: MemoryConsumer::new("AsOfJoinExec").register(context.memory_pool()),
            parts: counter("parts"),
            history_rows: counter("history_rows"),
            matched_rows: counter("matched_rows"),
            output_rows: MetricBuilder::new(&self.metrics).output_rows(partition),
        };
        let rows = async move {
            let relations = join.collect_relations(relations).await.map_err(external)?;
            let spine = Spine { input: spine, next: None };
            let parts = futures::stream::try_unfold((spine, Arc::new(join), Arc::new(relations)), next_part);
            Ok::<_, DataFusionError>(parts.try_flatten())
        };
        let stream = futures::stream::once(rows).try_flatten();
        Ok(cooperative_stream(Arc::clone(&self.schema), stream))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// A join under way.
struct Join {
    sides: Arc<Vec<AsOfSide>>,
    schema: SchemaRef,
    memory: MemoryReservation,
    parts: Count,
    history_rows: Count,
    matched_rows: Count,
    output_rows: Count,
}

/// The left side, of which as much is collected at once as the memory limit allows.
struct Spine {
    input: SendableRecordBatchStream,
    /// A batch that did not fit into the part before.
    next: Option<RecordBatch>,
}

/// A part of the left side, and each right side's answers to it.
struct Prepared {
    join: Arc<Join>,
    spine: Vec<RecordBatch>,
    matches: Vec<Matches>,
    /// Given back when the part's last batch is sent.
    _memory: MemoryReservation,
}

type Parts = (Spine, Arc<Join>, Arc<Vec<Option<RecordBatch>>>);

/// The joined rows of the next part.
async fn next_part(
    (mut spine, join, relations): Parts,
) -> DfResult<Option<(impl futures::Stream<Item = DfResult<RecordBatch>> + Send + 'static, Parts)>> {
    let (batches, memory) = spine.part(&join).await.map_err(external)?;
    if batches.is_empty() {
        return Ok(None);
    }
    join.parts.add(1);
    let mut matches = Vec::with_capacity(join.sides.len());
    for (side, relation) in join.sides.iter().zip(relations.iter()) {
        let found = match (&side.source, relation) {
            (AsOfSource::View { view, reader }, _) => join.find_in_view(side, view, reader, &batches).await,
            (AsOfSource::Relation { keys, order, .. }, Some(rows)) => find_in_rows(side, keys, *order, rows, &batches),
            (AsOfSource::Relation { .. }, None) => Err(Error::internal("an as-of join's relation was not collected")),
        };
        let found = found.map_err(external)?;
        join.history_rows.add(found.history_rows);
        join.matched_rows.add(found.places.len() - found.places.null_count());
        matches.push(found);
    }
    let prepared = Prepared { join: Arc::clone(&join), spine: batches, matches, _memory: memory };
    Ok(Some((prepared.batches(), (spine, join, relations))))
}

impl Spine {
    /// Collects rows until the memory limit; none at the end. The reservation covers the rows and what finding their answers
    /// takes. A single batch that does not fit is an error.
    async fn part(&mut self, join: &Join) -> Result<(Vec<RecordBatch>, MemoryReservation)> {
        let memory = join.memory.new_empty();
        let mut batches = Vec::new();
        loop {
            let batch = match self.next.take() {
                Some(batch) => batch,
                None => match self.input.next().await {
                    Some(batch) => batch.map_err(internal)?,
                    None => return Ok((batches, memory)),
                },
            };
            if batch.num_rows() == 0 {
                continue;
            }
            let per_row: usize = join.sides.iter().map(|side| SIDE_ROW_BYTES + side.columns.len() * COLUMN_ROW_BYTES).sum();
            let bytes = batch.get_array_memory_size() + batch.num_rows() * per_row;
            match memory.try_grow(bytes) {
                Ok(()) => batches.push(batch),
                Err(_) if !batches.is_empty() => {
                    self.next = Some(batch);
                    return Ok((batches, memory));
                }
                Err(error) => return Err(internal(error)),
            }
        }
    }
}

impl Join {
    /// The relations among the right sides, each as one batch.
    async fn collect_relations(&self, relations: Vec<Option<SendableRecordBatchStream>>) -> Result<Vec<Option<RecordBatch>>> {
        let mut collected = Vec::with_capacity(relations.len());
        for relation in relations {
            let Some(mut relation) = relation else {
                collected.push(None);
                continue;
            };
            let mut batches = Vec::new();
            while let Some(batch) = relation.next().await {
                let batch = batch.map_err(internal)?;
                self.memory.try_grow(batch.get_array_memory_size()).map_err(internal)?;
                batches.push(batch);
            }
            collected.push(Some(concat_batches(&relation.schema(), &batches).map_err(kernel)?));
        }
        Ok(collected)
    }

    async fn find_in_view(
        &self,
        side: &AsOfSide,
        view: &FeatureView,
        reader: &DatasetReader,
        spine: &[RecordBatch],
    ) -> Result<Matches> {
        let keys = side.keys.iter().zip(&view.keys);
        let keys = keys.map(|(expr, key)| evaluate(expr, spine, &key.data_type.arrow())).collect::<Result<Vec<_>>>()?;
        let instant_type = SqlType::TimestampTz.arrow();
        let instants = micros(&evaluate(&side.instant, spine, &instant_type)?);
        let left_rows = instants.len();
        let known = side.known_at.as_ref().map(|known| Ok::<_, Error>(micros(&evaluate(known, spine, &instant_type)?)));
        let known = known.transpose()?;
        // A left row that knows nothing has no answer.
        let instants = match &known {
            Some(known) => Int64Array::new(instants.values().clone(), NullBuffer::union(instants.nulls(), known.nulls())),
            None => instants,
        };
        let instants = mirrored(instants, Mirror::of(side.reach.direction));
        let slots = Slots::new(KeyDictionary::new(&view.keys)?, &keys, &instants)?;
        drop(keys);
        let known = match known {
            None => Knowledge::All,
            Some(known) => {
                let of_slots: Vec<i64> = (0..slots.len()).map(|slot| known.value(slots.row(slot))).collect();
                match of_slots.first() {
                    Some(first) if of_slots.iter().all(|known| known == first) => Knowledge::Until(*first),
                    _ => Knowledge::OfSlot(of_slots),
                }
            }
        };
        let names = view.schema();
        let columns: Vec<_> = side.columns.iter().map(|column| names.field(*column).name().clone()).collect();
        find_matches(&Question { view, reader, slots: &slots, reach: side.reach, known, left_rows }, &columns).await
    }
}

fn find_in_rows(side: &AsOfSide, keys: &[usize], order: usize, rows: &RecordBatch, spine: &[RecordBatch]) -> Result<Matches> {
    let key_columns: Vec<ArrayRef> = keys.iter().map(|place| Arc::clone(rows.column(*place))).collect();
    let key_types: Vec<_> = key_columns.iter().map(|column| column.data_type().clone()).collect();
    let left_keys = side.keys.iter().zip(&key_types);
    let left_keys = left_keys.map(|(expr, data_type)| evaluate(expr, spine, data_type)).collect::<Result<Vec<_>>>()?;
    let order = rows.column(order);
    let instants = evaluate(&side.instant, spine, order.data_type())?;
    let mirror = Mirror::of(side.reach.direction);
    let (instants, order) = comparable_numbers(&instants, order)?;
    let (instants, order) = (mirrored(instants, mirror), mirrored(order, mirror));
    let slots = Slots::new(KeyDictionary::of_types(&key_types)?, &left_keys, &instants)?;
    find_in_relation(&slots, side.reach, instants.len(), rows, &key_columns, &order, &side.columns)
}

fn micros(instants: &ArrayRef) -> Int64Array {
    instants.as_primitive::<TimestampMicrosecondType>().reinterpret_cast::<Int64Type>()
}

/// The values of `expr` for all left rows, as one array.
fn evaluate(expr: &Arc<dyn PhysicalExpr>, spine: &[RecordBatch], data_type: &DataType) -> Result<ArrayRef> {
    let mut parts = Vec::with_capacity(spine.len());
    for batch in spine {
        let values = expr.evaluate(batch).and_then(|value| value.into_array(batch.num_rows())).map_err(internal)?;
        parts.push(as_type(&values, data_type)?);
    }
    if parts.is_empty() {
        return Ok(arrow::array::new_empty_array(data_type));
    }
    let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
    concat(&parts).map_err(kernel)
}

impl Prepared {
    /// The joined rows, in the left side's order.
    fn batches(self) -> impl futures::Stream<Item = DfResult<RecordBatch>> + Send + 'static {
        let mut pieces = Vec::new();
        let mut first = 0;
        for (number, batch) in self.spine.iter().enumerate() {
            for start in (0..batch.num_rows()).step_by(BATCH_ROWS) {
                pieces.push((number, start, first + start));
            }
            first += batch.num_rows();
        }
        futures::stream::iter(pieces).map(move |(number, start, row)| {
            let batch = &self.spine[number];
            let piece = batch.slice(start, BATCH_ROWS.min(batch.num_rows() - start));
            self.joined(&piece, row).map_err(external)
        })
    }

    /// The left rows of `piece`, which start at row `first` of the whole left side, with their answers.
    fn joined(&self, piece: &RecordBatch, first: usize) -> Result<RecordBatch> {
        let mut columns = piece.columns().to_vec();
        let mut kept: Option<BooleanArray> = None;
        for (view, matches) in self.join.sides.iter().zip(&self.matches) {
            let places = matches.places.slice(first, piece.num_rows());
            let mut matched = is_not_null(&places).map_err(kernel)?;
            let mut answers = answers(view, matches, &places)?;
            if let Some(condition) = &view.condition {
                let holds = self.holds(condition, &columns, &answers, piece.num_rows())?;
                matched = and(&matched, &holds).map_err(kernel)?;
                let dropped = arrow::compute::not(&matched).map_err(kernel)?;
                for answer in &mut answers {
                    *answer = nullif(answer, &dropped).map_err(kernel)?;
                }
            }
            columns.extend(answers);
            if view.kind == AsOfKind::Inner {
                kept = Some(match kept {
                    Some(kept) => and(&kept, &matched).map_err(kernel)?,
                    None => matched,
                });
            }
        }
        let mut rows = piece.num_rows();
        if let Some(kept) = kept {
            rows = kept.true_count();
            for column in &mut columns {
                *column = filter(column, &kept).map_err(kernel)?;
            }
        }
        self.join.output_rows.add(rows);
        batch_of(&self.join.schema, columns, rows)
    }

    /// For which rows the condition is true; neither false nor NULL.
    fn holds(
        &self,
        condition: &Arc<dyn PhysicalExpr>,
        before: &[ArrayRef],
        answers: &[ArrayRef],
        rows: usize,
    ) -> Result<BooleanArray> {
        let columns: Vec<ArrayRef> = before.iter().chain(answers).cloned().collect();
        let fields = self.join.schema.fields()[..columns.len()].iter();
        // Inner views' fields may be NOT NULL although rows without a match are judged before they are dropped.
        let fields: Vec<_> = fields.map(|field| Arc::new(field.as_ref().clone().with_nullable(true))).collect();
        let batch = batch_of(&Arc::new(Schema::new(fields)), columns, rows)?;
        let verdict = condition.evaluate(&batch).and_then(|value| value.into_array(rows)).map_err(internal)?;
        let verdict = verdict.as_boolean();
        Ok(if verdict.null_count() == 0 { verdict.clone() } else { prep_null_mask_filter(verdict) })
    }
}

/// A view's columns for these rows: NULLs where there is no answer.
fn answers(view: &AsOfSide, matches: &Matches, places: &UInt32Array) -> Result<Vec<ArrayRef>> {
    let column = |(column, field): (&ArrayRef, &Arc<Field>)| {
        if matches.rows.num_rows() == 0 {
            return Ok(arrow::array::new_null_array(field.data_type(), places.len()));
        }
        as_type(&take(column, places, None).map_err(kernel)?, field.data_type())
    };
    matches.rows.columns().iter().zip(&view.fields).map(column).collect()
}
