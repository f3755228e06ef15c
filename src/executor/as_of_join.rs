//! `AsOfJoinExec`: each left row with what views knew at that row's own instant.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{and, concat, filter, is_not_null, nullif, prep_null_mask_filter, take};
use arrow::datatypes::{Field, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_expr::{Distribution, PhysicalExpr};
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream};
use futures::{StreamExt, TryStreamExt};

use super::as_of_match::{Matches, find_matches};
use super::as_of_side::{AsOfKind, AsOfSide, AsOfSource, Bound, Direction};
use super::batches::{as_type, batch_of};
use super::spine::Slots;
use super::{BATCH_ROWS, cooperative_stream, external, internal, kernel, one_stream};
use crate::error::Result;
use crate::types::SqlType;

/// Joins every left row with the row of each view that answered at the left row's instant. Left rows keep their order. The
/// left side is collected; history is streamed, in any order, at most twice a view.
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
        let join = Join {
            sides: Arc::clone(&self.sides),
            schema: Arc::clone(&self.schema),
            memory: MemoryConsumer::new("AsOfJoinExec").register(context.memory_pool()),
            history_rows: MetricBuilder::new(&self.metrics).counter("history_rows", partition),
            matched_rows: MetricBuilder::new(&self.metrics).counter("matched_rows", partition),
            output_rows: MetricBuilder::new(&self.metrics).output_rows(partition),
        };
        let spine = self.spine.execute(partition, context)?;
        let rows = async move { join.prepare(spine).await.map_err(external).map(Prepared::batches) };
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
    history_rows: Count,
    matched_rows: Count,
    output_rows: Count,
}

/// The left side, and each view's answers to it.
struct Prepared {
    join: Join,
    spine: Vec<RecordBatch>,
    matches: Vec<Matches>,
}

impl Join {
    /// Collects the left side and finds the answers.
    async fn prepare(self, mut input: SendableRecordBatchStream) -> Result<Prepared> {
        let mut spine = Vec::new();
        while let Some(batch) = input.next().await {
            let batch = batch.map_err(internal)?;
            if batch.num_rows() > 0 {
                self.memory.try_grow(batch.get_array_memory_size()).map_err(internal)?;
                spine.push(batch);
            }
        }
        let mut matches = Vec::with_capacity(self.sides.len());
        for view in self.sides.iter() {
            matches.push(self.find(view, &spine).await?);
        }
        Ok(Prepared { join: self, spine, matches })
    }

    async fn find(&self, side: &AsOfSide, spine: &[RecordBatch]) -> Result<Matches> {
        let AsOfSource::View { view, reader } = &side.source else {
            return Err(crate::error::Error::unsupported("ASOF JOIN with this relation"));
        };
        if side.known_at.is_some() || side.reach.direction != Direction::Backward || side.reach.bound != Bound::Inclusive {
            return Err(crate::error::Error::unsupported("this form of as-of join"));
        }
        let keys = side.keys.iter().zip(&view.keys);
        let keys = keys.map(|(expr, key)| evaluate(expr, spine, &key.data_type)).collect::<Result<Vec<_>>>()?;
        let instants = evaluate(&side.instant, spine, &SqlType::TimestampTz)?;
        let slots = Slots::new(&view.keys, &keys, instants.as_primitive::<TimestampMicrosecondType>())?;
        drop(keys);
        // Slots, and a candidate of 32 bytes for each.
        let scratch = slots.bytes() + slots.len() * 32;
        self.memory.try_grow(scratch).map_err(internal)?;
        let names = view.schema();
        let columns: Vec<_> = side.columns.iter().map(|column| names.field(*column).name().clone()).collect();
        let matches = find_matches(view, side.reach.window, reader, &slots, instants.len(), &columns).await?;
        self.memory.shrink(scratch);
        self.memory.try_grow(matches.rows.get_array_memory_size() + instants.len() * 4).map_err(internal)?;
        self.history_rows.add(matches.history_rows);
        self.matched_rows.add(matches.places.len() - matches.places.null_count());
        Ok(matches)
    }
}

/// The values of `expr` for all left rows, as one array.
fn evaluate(expr: &Arc<dyn PhysicalExpr>, spine: &[RecordBatch], data_type: &SqlType) -> Result<ArrayRef> {
    let data_type = data_type.arrow();
    let mut parts = Vec::with_capacity(spine.len());
    for batch in spine {
        let values = expr.evaluate(batch).and_then(|value| value.into_array(batch.num_rows())).map_err(internal)?;
        parts.push(as_type(&values, &data_type)?);
    }
    if parts.is_empty() {
        return Ok(arrow::array::new_empty_array(&data_type));
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
