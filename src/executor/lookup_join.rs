//! `LookupJoinExec`: a few rows joined to a feature view or a service, by its whole key, through the online store.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
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

/// Views that are joined to left rows.
#[derive(Clone, Debug)]
pub struct LookupJoin {
    /// Where an [`OnlineLookupExec`] that names no keys yet reads a view or several, or an [`EntityJoinExec`] that does so where the
    /// online store cannot answer.
    pub right: Arc<dyn ExecutionPlan>,
    /// The values of the entities' keys, over the left rows.
    pub values: Vec<Arc<dyn PhysicalExpr>>,
    /// For each of them, the column of `right` that it is to equal.
    pub keys: Vec<usize>,
    /// What becomes of left rows whose entity has no row.
    pub kind: LookupJoinKind,
}

/// Joins each left row with the rows that its entities have in the right inputs. Left rows are taken a batch at a time: their
/// entities, each once in each input, are one round trip for all inputs.
#[derive(Debug)]
pub struct LookupJoinExec {
    left: Arc<dyn ExecutionPlan>,
    joins: Arc<Vec<LookupJoin>>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl LookupJoinExec {
    /// A join whose rows have `schema`: the left columns, then those of each right input.
    pub fn new(left: Arc<dyn ExecutionPlan>, joins: Vec<LookupJoin>, schema: SchemaRef) -> Self {
        let properties = one_stream(&schema, EmissionType::Incremental);
        Self { left, joins: Arc::new(joins), schema, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    /// The left rows.
    pub fn left(&self) -> &Arc<dyn ExecutionPlan> {
        &self.left
    }

    /// What is joined to them.
    pub fn joins(&self) -> &[LookupJoin] {
        &self.joins
    }
}

impl DisplayAs for LookupJoinExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LookupJoinExec: ")?;
        for (place, LookupJoin { right, values, kind, .. }) in self.joins.iter().enumerate() {
            let reads = match asked_of(right) {
                Some(Asked::Online(lookup)) => lookup.reads(),
                Some(Asked::Offline(join)) => format!("{}, route=offline", join.reads()),
                None => "view=none".to_owned(),
            };
            let values = values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let separator = if place > 0 { "; " } else { "" };
            write!(f, "{separator}{reads}, keys=[{values}], kind={kind:?}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for LookupJoinExec {
    fn name(&self) -> &'static str {
        "LookupJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    /// The right inputs are run anew for each batch, with keys in them, and are nobody else's to change.
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
            joins: Arc::clone(&self.joins),
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
        let (joins, schema) = (Arc::clone(&self.joins), Arc::clone(&self.schema));
        let batches = gathered(left).and_then(move |batch| {
            let (joins, schema, context, counted) =
                (Arc::clone(&joins), Arc::clone(&schema), Arc::clone(&context), counted.clone());
            async move {
                let joined = joined(&joins, &batch, &schema, &context, &counted).await.map_err(external)?;
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

/// A batch of left rows with what is joined to them.
async fn joined(
    joins: &[LookupJoin],
    left: &RecordBatch,
    schema: &SchemaRef,
    context: &Arc<TaskContext>,
    counted: &Counted,
) -> Result<RecordBatch> {
    let named = joins.iter().map(|join| join.named(left)).collect::<Result<Vec<_>>>()?;
    let found = found(joins, &named, context).await?;
    let mut stays = vec![true; left.num_rows()];
    let mut matches = Vec::with_capacity(joins.len());
    for ((join, named), found) in joins.iter().zip(&named).zip(&found) {
        let matched = join.matched(named, found)?;
        counted.keys.add(named.keys.len);
        counted.hits.add(found.num_rows());
        if join.kind == LookupJoinKind::Inner {
            stays.iter_mut().zip(&matched).for_each(|(stays, matched)| *stays &= matched.is_some());
        }
        matches.push(matched);
    }
    let left = match stays.contains(&false) {
        true => filter_record_batch(left, &BooleanArray::from(stays.clone())).map_err(kernel)?,
        false => left.clone(),
    };
    let mut columns = left.columns().to_vec();
    for (matched, found) in matches.into_iter().zip(&found) {
        let kept = matched.into_iter().zip(&stays).filter(|(_, stays)| **stays).map(|(matched, _)| matched);
        let matched: UInt32Array = kept.collect();
        for column in found.columns() {
            columns.push(take(column, &matched, None).map_err(kernel)?);
        }
    }
    let columns = columns.iter().zip(schema.fields()).map(|(column, field)| as_type(column, field.data_type()));
    batch_of(schema, columns.collect::<Result<_>>()?, left.num_rows())
}

/// The entities that left rows name in a right input.
struct Named {
    /// Of each left row; `None` where a key is NULL.
    entities: Vec<Option<EntityKey>>,
    /// Each once.
    keys: KeySet,
}

/// The rows that each right input has of the entities that it is asked for. Where several ask the online store, they do so in
/// one round trip.
async fn found(joins: &[LookupJoin], named: &[Named], context: &Arc<TaskContext>) -> Result<Vec<RecordBatch>> {
    let asks = |join: &LookupJoin, named: &Named| match asked_of(&join.right) {
        Some(Asked::Online(lookup)) if named.keys.len > 0 => Some(lookup.of(named.keys.clone())),
        _ => None,
    };
    let lookups: Vec<_> = joins.iter().zip(named).filter_map(|(join, named)| asks(join, named)).collect();
    let mut fetched = match lookups.len() {
        0 | 1 => lookups.into_iter(),
        _ => OnlineLookupExec::fetched_together(lookups).await?.into_iter(),
    };
    let mut found = Vec::with_capacity(joins.len());
    for (join, named) in joins.iter().zip(named) {
        if named.keys.len == 0 {
            found.push(RecordBatch::new_empty(join.right.schema()));
            continue;
        }
        let mut of_keys = |plan: Arc<dyn ExecutionPlan>| {
            let of_keys: Option<Arc<dyn ExecutionPlan>> = match asked(&plan) {
                Some(Asked::Online(_)) => match fetched.next() {
                    Some(lookup) => Some(Arc::new(lookup)),
                    None => return Err(DataFusionError::Internal("a lookup that was not asked".into())),
                },
                Some(Asked::Offline(join)) => Some(Arc::new(join.of(&named.keys).map_err(external)?)),
                None => None,
            };
            Ok(of_keys.map_or_else(|| Transformed::no(plan), Transformed::yes))
        };
        let right = Arc::clone(&join.right).transform_up(&mut of_keys).map_err(internal)?.data;
        let schema = right.schema();
        let batches = collect(right, Arc::clone(context)).await.map_err(internal)?;
        found.push(concat_batches(&schema, &batches).map_err(kernel)?);
    }
    Ok(found)
}

impl LookupJoin {
    /// The entities that left rows name. None where the right input reads no view any more: it was found to give no rows.
    fn named(&self, left: &RecordBatch) -> Result<Named> {
        let rows = left.num_rows();
        let mut values = Vec::with_capacity(self.values.len());
        for value in &self.values {
            let value = value.evaluate(left).and_then(|value| value.into_array(rows)).map_err(internal)?;
            values.push(value);
        }
        let entities = match asked_of(&self.right) {
            Some(reads) => entity_keys(reads.parts(), &values)?,
            None => vec![None; rows],
        };
        let keys = distinct(&entities, &values)?;
        Ok(Named { entities, keys })
    }

    /// For each left row, the row that its entity has among those that were found.
    fn matched(&self, named: &Named, found: &RecordBatch) -> Result<Vec<Option<u32>>> {
        let Some(reads) = asked_of(&self.right) else { return Ok(vec![None; named.entities.len()]) };
        let columns: Vec<ArrayRef> = self.keys.iter().map(|column| Arc::clone(found.column(*column))).collect();
        let found = entity_keys(reads.parts(), &columns)?;
        let places: HashMap<&EntityKey, u32> =
            found.iter().zip(0..).filter_map(|(key, row)| Some((key.as_ref()?, row))).collect();
        Ok(named.entities.iter().map(|key| key.as_ref().and_then(|key| places.get(key).copied())).collect())
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
