//! `AsOfJoinExec`: each left row with what views knew at that row's own instant.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::physical_expr::Distribution;
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream};

use super::as_of_run::{Run, RunMetrics};
use super::as_of_side::{AsOfKind, AsOfSide, AsOfSource, Bound, Direction};
use super::scan_metrics::ScanMetrics;
use super::{cooperative_stream, external, one_stream};

/// Joins every left row with the row of each side that answered at the left row's instant. Left rows keep their order. The
/// left side is collected, in as many parts as the memory asks for; history is streamed, in any order, at most twice a view
/// and part. Relations are collected.
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
        let count = |name: &'static str| MetricBuilder::new(&self.metrics).counter(name, partition);
        let metrics = RunMetrics {
            history_rows: count("history_rows"),
            matched_rows: count("matched_rows"),
            output_rows: MetricBuilder::new(&self.metrics).output_rows(partition),
            scans: ScanMetrics::new(&self.metrics, partition),
            parts: count("parts"),
            memory_peak: MetricBuilder::new(&self.metrics).gauge("memory_peak", partition),
        };
        let memory = MemoryConsumer::new("AsOfJoinExec").register(context.memory_pool());
        let spine = self.spine.execute(partition, Arc::clone(&context))?;
        let input = |side: &AsOfSide| side.plan().map(|plan| plan.execute(partition, Arc::clone(&context))).transpose();
        let inputs = self.sides.iter().map(input).collect::<DfResult<Vec<_>>>()?;
        let run = Run::new(Arc::clone(&self.sides), Arc::clone(&self.schema), spine, inputs, memory, metrics);
        let stream = futures::stream::try_unfold(run, |mut run| async move {
            let batch = run.next().await.map_err(external)?;
            Ok(batch.map(|batch| (batch, run)))
        });
        Ok(cooperative_stream(Arc::clone(&self.schema), stream))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
