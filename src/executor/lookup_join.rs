//! `LookupJoinExec`: a few rows joined to a feature view or a service, by its whole key, through the online store.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take};
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, PlanProperties, SendableRecordBatchStream, collect,
};
use futures::TryStreamExt;

use super::batches::{as_type, batch_of};
use super::entity_join::EntityJoinExec;
use super::lookup::{KeySet, OnlineLookupExec};
use super::{BATCH_ROWS, cooperative_stream, external, internal, kernel, one_stream};
use crate::error::Result;
use crate::online::EntityKey;
use crate::online::key::entity_keys;
use crate::registry::KeyColumn;

/// What becomes of left rows whose entity has no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd)]
pub enum LookupJoinKind {
    /// They stay, with NULLs.
    Left,
    /// They drop out.
    Inner,
}

/// Joins each left row with the row that its entity has in the right input, where an [`OnlineLookupExec`] that names no keys yet
/// reads a view or several, or an [`EntityJoinExec`] that does so where the online store cannot answer. Left rows are taken a batch
/// at a time: their entities, each once, are one round trip.
#[derive(Debug)]
pub struct LookupJoinExec {
    left: Arc<dyn ExecutionPlan>,
    join: Arc<Join>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// What the join does with a batch.
#[derive(Debug)]
struct Join {
    right: Arc<dyn ExecutionPlan>,
    /// The values of the entities' keys, over the left input.
    values: Vec<Arc<dyn PhysicalExpr>>,
    /// The columns of the right input that are the keys.
    keys: Vec<usize>,
    kind: LookupJoinKind,
}

impl LookupJoinExec {
    /// A join whose rows have `schema`: the left columns, then the right ones. For each part of a key there is a value over the
    /// left input and a column of the right.
    pub fn new(
        left: Arc<dyn ExecutionPlan>,
        right: Arc<dyn ExecutionPlan>,
        values: Vec<Arc<dyn PhysicalExpr>>,
        keys: Vec<usize>,
        kind: LookupJoinKind,
        schema: SchemaRef,
    ) -> Self {
        let properties = one_stream(&schema, EmissionType::Incremental);
        let join = Arc::new(Join { right, values, keys, kind });
        Self { left, join, schema, properties, metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl DisplayAs for LookupJoinExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Join { right, values, kind, .. } = self.join.as_ref();
        let reads = match asked_of(right) {
            Some(Asked::Online(lookup)) => lookup.reads(),
            Some(Asked::Offline(join)) => format!("{}, route=offline", join.reads()),
            None => "view=none".to_owned(),
        };
        let values = values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "LookupJoinExec: {reads}, keys=[{values}], kind={kind:?}")
    }
}

impl ExecutionPlan for LookupJoinExec {
    fn name(&self) -> &'static str {
        "LookupJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    /// The right input is run anew for each batch, with keys in it, and is nobody else's to change.
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.left]
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        let left = children.pop().ok_or_else(|| DataFusionError::Internal("a lookup join has a left input".into()))?;
        Ok(Arc::new(Self {
            left,
            join: Arc::clone(&self.join),
            schema: Arc::clone(&self.schema),
            properties: Arc::clone(&self.properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let left = self.left.execute(partition, Arc::clone(&context))?;
        let counted = Counted {
            keys: MetricBuilder::new(&self.metrics).counter("keys", partition),
            hits: MetricBuilder::new(&self.metrics).counter("hits", partition),
            output_rows: MetricBuilder::new(&self.metrics).output_rows(partition),
        };
        let (join, schema) = (Arc::clone(&self.join), Arc::clone(&self.schema));
        let batches = gathered(left).and_then(move |batch| {
            let (join, schema, context, counted) =
                (Arc::clone(&join), Arc::clone(&schema), Arc::clone(&context), counted.clone());
            async move {
                let joined = join.batch(&batch, &schema, &context, &counted).await.map_err(external)?;
                counted.output_rows.add(joined.num_rows());
                Ok(joined)
            }
        });
        Ok(cooperative_stream(Arc::clone(&self.schema), batches))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// What is counted.
#[derive(Clone)]
struct Counted {
    keys: Count,
    hits: Count,
    output_rows: Count,
}

/// The rows of small batches put together, so that they are one round trip; at most so many that one of ours has them.
fn gathered(stream: SendableRecordBatchStream) -> impl futures::Stream<Item = DfResult<RecordBatch>> + Send {
    let schema = stream.schema();
    futures::stream::try_unfold((stream, None::<RecordBatch>), move |(mut stream, mut held)| {
        let schema = Arc::clone(&schema);
        async move {
            let (mut batches, mut rows) = (Vec::new(), 0);
            loop {
                let batch = match held.take() {
                    Some(batch) => Some(batch),
                    None => stream.try_next().await?,
                };
                match batch {
                    Some(batch) if rows > 0 && rows + batch.num_rows() > BATCH_ROWS => {
                        held = Some(batch);
                        break;
                    }
                    Some(batch) => {
                        rows += batch.num_rows();
                        batches.push(batch);
                    }
                    None => break,
                }
            }
            if batches.is_empty() {
                return Ok(None);
            }
            let batch = concat_batches(&schema, &batches).map_err(DataFusionError::from)?;
            Ok(Some((batch, (stream, held))))
        }
    })
}

impl Join {
    async fn batch(
        &self,
        left: &RecordBatch,
        schema: &SchemaRef,
        context: &Arc<TaskContext>,
        counted: &Counted,
    ) -> Result<RecordBatch> {
        let rows = left.num_rows();
        let mut values = Vec::with_capacity(self.values.len());
        for value in &self.values {
            let value = value.evaluate(left).and_then(|value| value.into_array(rows)).map_err(internal)?;
            values.push(value);
        }
        let mut matches = vec![None; rows];
        let mut right = RecordBatch::new_empty(self.right.schema());
        // A plan that reads no view any more was found to give no rows.
        if let Some(reads) = asked_of(&self.right) {
            let parts = reads.parts();
            let asked = entity_keys(parts, &values)?;
            let keys = distinct(&asked, &values)?;
            counted.keys.add(keys.len);
            if keys.len > 0 {
                right = self.found(keys, context).await?;
                let columns: Vec<ArrayRef> = self.keys.iter().map(|column| Arc::clone(right.column(*column))).collect();
                let found = entity_keys(parts, &columns)?;
                let places: HashMap<&EntityKey, u32> =
                    found.iter().zip(0..).filter_map(|(key, row)| Some((key.as_ref()?, row))).collect();
                for (matched, key) in matches.iter_mut().zip(&asked) {
                    *matched = key.as_ref().and_then(|key| places.get(key).copied());
                }
                counted.hits.add(places.len());
            }
        }
        self.joined(left, &right, matches, schema)
    }

    /// The rows of the right input, of these entities.
    async fn found(&self, keys: KeySet, context: &Arc<TaskContext>) -> Result<RecordBatch> {
        let right = Arc::clone(&self.right).transform_up(|plan| {
            let of_keys: Option<Arc<dyn ExecutionPlan>> = match asked(&plan) {
                Some(Asked::Online(lookup)) => Some(Arc::new(lookup.of(keys.clone()))),
                Some(Asked::Offline(join)) => Some(Arc::new(join.of(&keys).map_err(external)?)),
                None => None,
            };
            Ok(match of_keys {
                Some(of_keys) => Transformed::yes(of_keys),
                None => Transformed::no(plan),
            })
        });
        let right = right.map_err(internal)?.data;
        let schema = right.schema();
        let batches = collect(right, Arc::clone(context)).await.map_err(internal)?;
        concat_batches(&schema, &batches).map_err(kernel)
    }

    /// Left rows with the right rows at these places.
    fn joined(
        &self,
        left: &RecordBatch,
        right: &RecordBatch,
        matches: Vec<Option<u32>>,
        schema: &SchemaRef,
    ) -> Result<RecordBatch> {
        let matches = UInt32Array::from(matches);
        let (left, matches) = match self.kind {
            LookupJoinKind::Left => (left.clone(), matches),
            LookupJoinKind::Inner => {
                let has_match = BooleanArray::from_iter((0..matches.len()).map(|row| Some(matches.is_valid(row))));
                let left = filter_record_batch(left, &has_match).map_err(kernel)?;
                (left, UInt32Array::from_iter_values(matches.iter().flatten()))
            }
        };
        let right = right.columns().iter().map(|column| take(column, &matches, None).map_err(kernel));
        let columns = left.columns().iter().map(|column| Ok(Arc::clone(column))).chain(right);
        let columns = columns.zip(schema.fields()).map(|(column, field)| as_type(&column?, field.data_type()));
        batch_of(schema, columns.collect::<Result<_>>()?, left.num_rows())
    }
}

/// What a right input is asked of.
enum Asked<'a> {
    Online(&'a OnlineLookupExec),
    /// The same from the history, where the online store cannot answer.
    Offline(&'a EntityJoinExec),
}

impl<'a> Asked<'a> {
    fn parts(&self) -> &'a [KeyColumn] {
        match self {
            Asked::Online(lookup) => lookup.parts(),
            Asked::Offline(join) => join.parts(),
        }
    }
}

fn asked(plan: &Arc<dyn ExecutionPlan>) -> Option<Asked<'_>> {
    let online = plan.downcast_ref::<OnlineLookupExec>().map(Asked::Online);
    online.or_else(|| plan.downcast_ref::<EntityJoinExec>().map(Asked::Offline))
}

/// What stands at the bottom of a right input.
fn asked_of(plan: &Arc<dyn ExecutionPlan>) -> Option<Asked<'_>> {
    asked(plan).or_else(|| plan.children().into_iter().find_map(asked_of))
}

/// Each entity once, with the values of its keys; without those of which a part is NULL.
fn distinct(asked: &[Option<EntityKey>], values: &[ArrayRef]) -> Result<KeySet> {
    let mut seen = std::collections::HashSet::with_capacity(asked.len());
    let first = asked.iter().zip(0_u32..).filter(|(key, _)| key.as_ref().is_some_and(|key| seen.insert(key)));
    let rows = UInt32Array::from_iter_values(first.map(|(_, row)| row));
    let columns = values.iter().map(|values| take(values, &rows, None).map_err(kernel)).collect::<Result<_>>()?;
    Ok(KeySet { columns, len: rows.len() })
}
