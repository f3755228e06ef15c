//! `EntityJoinExec`: the rows that entities have in several views, side by side.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat, concat_batches, take};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_expr::Distribution;
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream};
use futures::TryStreamExt;

use super::batches::{as_type, batch_of, own_bytes};
use super::key_dictionary::{KeyDictionary, NO_ENTITY};
use super::lookup::{EntityColumn, KeySet};
use super::snapshot::SnapshotExec;
use super::{BATCH_ROWS, cooperative_stream, external, kernel, one_stream};
use crate::error::{Error, Result};
use crate::registry::{FeatureView, KeyColumn};

/// The rows of a view, at most one an entity.
#[derive(Clone, Debug)]
pub struct EntityJoinMember {
    /// The rows: the view's keys, then what is wanted of it.
    pub plan: Arc<dyn ExecutionPlan>,
    /// Which of the entities' keys are the view's, in its order.
    pub places: Vec<usize>,
}

impl EntityJoinMember {
    /// The columns, by their place among those of `view`, that the rows of the member with this number have.
    pub fn projection(view: &FeatureView, number: usize, columns: &[EntityColumn]) -> Vec<usize> {
        let wanted = columns.iter().filter_map(|column| match column {
            EntityColumn::Of { view, column } if *view == number => Some(*column),
            _ => None,
        });
        (0..view.keys.len()).chain(wanted).collect()
    }
}

/// Puts the rows of one entity side by side: an outer join on the keys that each view has. With named entities those that have a
/// row in any of the views; without, every entity that has one, which takes views of the same keys. All rows are collected.
#[derive(Debug)]
pub struct EntityJoinExec {
    members: Vec<EntityJoinMember>,
    join: Arc<Join>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// What is joined how.
#[derive(Debug)]
struct Join {
    /// For each member, which of the entities' keys are its own.
    places: Vec<Vec<usize>>,
    /// The parts of an entity's key.
    parts: Vec<KeyColumn>,
    keys: Option<KeySet>,
    columns: Vec<EntityColumn>,
}

/// Which rows make a row: keys, and for each member its row, if it has one.
struct Matched {
    keys: Vec<ArrayRef>,
    rows: Vec<UInt32Array>,
    len: usize,
}

impl EntityJoinExec {
    /// A join of the rows of entities whose keys have these parts; its rows have these columns, named and typed by `schema`.
    pub fn new(
        members: Vec<EntityJoinMember>,
        (parts, keys): (Vec<KeyColumn>, Option<KeySet>),
        columns: Vec<EntityColumn>,
        schema: SchemaRef,
    ) -> Self {
        let properties = one_stream(&schema, EmissionType::Final);
        let places = members.iter().map(|member| member.places.clone()).collect();
        let join = Arc::new(Join { places, parts, keys, columns });
        Self { members, join, schema, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    /// The parts of an entity's key.
    pub(super) fn parts(&self) -> &[KeyColumn] {
        &self.join.parts
    }

    /// The same join of these entities; its members are snapshots.
    pub(super) fn of(&self, keys: &KeySet) -> Result<Self> {
        let of_keys = |member: &EntityJoinMember| {
            let snapshot = member.plan.downcast_ref::<SnapshotExec>();
            let snapshot = snapshot.ok_or_else(|| Error::internal("an entity's rows that are no snapshot"))?;
            let plan = Arc::new(snapshot.of(keys.distinct_of(snapshot.view(), &member.places)?));
            Ok(EntityJoinMember { plan, places: member.places.clone() })
        };
        let members = self.members.iter().map(of_keys).collect::<Result<_>>()?;
        let Join { parts, columns, .. } = self.join.as_ref();
        Ok(Self::new(members, (parts.clone(), Some(keys.clone())), columns.clone(), Arc::clone(&self.schema)))
    }
}

impl DisplayAs for EntityJoinExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntityJoinExec: views={}", self.members.len())?;
        match &self.join.keys {
            Some(keys) => write!(f, ", keys={}", keys.len),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for EntityJoinExec {
    fn name(&self) -> &'static str {
        "EntityJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.members.iter().map(|member| &member.plan).collect()
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition; self.members.len()]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        if children.len() != self.members.len() {
            return Err(DataFusionError::Internal("an entity join lacks a child".into()));
        }
        let places = self.join.places.iter().cloned();
        let members = children.into_iter().zip(places).map(|(plan, places)| EntityJoinMember { plan, places }).collect();
        let Join { parts, keys, columns, .. } = self.join.as_ref();
        let keys = (parts.clone(), keys.clone());
        Ok(Arc::new(Self::new(members, keys, columns.clone(), Arc::clone(&self.schema))))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let memory = MemoryConsumer::new("EntityJoinExec").register(context.memory_pool());
        let output_rows = MetricBuilder::new(&self.metrics).output_rows(partition);
        let inputs = self.members.iter().map(|member| member.plan.execute(0, Arc::clone(&context)));
        let inputs = inputs.collect::<DfResult<Vec<_>>>()?;
        let (join, schema) = (Arc::clone(&self.join), Arc::clone(&self.schema));
        let batches = async move {
            let collected = inputs.into_iter().map(|input| collected(input, &memory));
            let members = futures::future::try_join_all(collected).await?;
            let matched = join.matched(&members).map_err(external)?;
            let starts = (0..matched.len).step_by(BATCH_ROWS);
            let batches = futures::stream::iter(starts.map(Ok)).and_then(move |start| {
                // The reservation lives as long as the rows do.
                let _held_until_sent = &memory;
                let batch = join.rows(&members, &matched, start, &schema).map_err(external);
                if let Ok(batch) = &batch {
                    output_rows.add(batch.num_rows());
                }
                std::future::ready(batch)
            });
            Ok::<_, DataFusionError>(batches)
        };
        Ok(cooperative_stream(Arc::clone(&self.schema), futures::stream::once(batches).try_flatten()))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// All rows of an input, as one batch.
async fn collected(mut input: SendableRecordBatchStream, memory: &MemoryReservation) -> DfResult<RecordBatch> {
    let mut batches = Vec::new();
    while let Some(batch) = input.try_next().await? {
        memory.try_grow(own_bytes(&batch))?;
        batches.push(batch);
    }
    Ok(concat_batches(&input.schema(), &batches)?)
}

impl Join {
    fn matched(&self, members: &[RecordBatch]) -> Result<Matched> {
        match &self.keys {
            Some(keys) => self.of_named(keys, members),
            None => self.of_all(members),
        }
    }

    /// The named entities that have a row.
    fn of_named(&self, keys: &KeySet, members: &[RecordBatch]) -> Result<Matched> {
        let mut rows: Vec<Vec<Option<u32>>> = Vec::with_capacity(members.len());
        for (member, places) in members.iter().zip(&self.places) {
            let types: Vec<DataType> = places.iter().map(|place| keys.columns[*place].data_type().clone()).collect();
            let own = (0..places.len()).zip(&types).map(|(column, data_type)| as_type(member.column(column), data_type));
            let own = own.collect::<Result<Vec<_>>>()?;
            let mut entities = KeyDictionary::of_types(&types)?;
            // An entity has one row, so that its number is that of the row.
            if member.num_rows() > 0 {
                entities.intern(&own, member.num_rows())?;
            }
            let asked: Vec<ArrayRef> = places.iter().map(|place| Arc::clone(&keys.columns[*place])).collect();
            let found = entities.find(&asked, keys.len)?;
            rows.push(found.into_iter().map(|row| (row != NO_ENTITY).then_some(row)).collect());
        }
        let there = (0..keys.len).filter(|entity| rows.iter().any(|rows| rows[*entity].is_some()));
        let there: Vec<u32> = there.map(|entity| u32::try_from(entity).unwrap_or(u32::MAX)).collect();
        let shown = UInt32Array::from(there.clone());
        let keys = keys.columns.iter().map(|column| take(column, &shown, None).map_err(kernel)).collect::<Result<_>>()?;
        let rows = rows.iter().map(|rows| there.iter().map(|entity| rows[*entity as usize]).collect()).collect();
        Ok(Matched { keys, rows, len: there.len() })
    }

    /// Every entity that has a row; the members have the same keys.
    fn of_all(&self, members: &[RecordBatch]) -> Result<Matched> {
        let first = members.first().zip(self.places.first()).filter(|(_, places)| !places.is_empty());
        let Some((first, first_places)) = first else {
            return Ok(Matched { keys: Vec::new(), rows: Vec::new(), len: 0 });
        };
        // The columns of a member in the order of the entities' keys.
        let in_order = |member: &RecordBatch, places: &[usize]| {
            let mut columns = vec![Arc::clone(member.column(0)); places.len()];
            for (column, place) in places.iter().enumerate() {
                columns[*place] = Arc::clone(member.column(column));
            }
            columns
        };
        let types: Vec<DataType> = in_order(first, first_places).iter().map(|key| key.data_type().clone()).collect();
        let mut entities = KeyDictionary::of_types(&types)?;
        let mut rows: Vec<Vec<Option<u32>>> = Vec::with_capacity(members.len());
        let mut keys: Vec<Vec<ArrayRef>> = vec![Vec::new(); types.len()];
        for (member, places) in members.iter().zip(&self.places) {
            let columns = in_order(member, places);
            let known = u32::try_from(entities.len()).unwrap_or(u32::MAX);
            let numbers = entities.intern(&columns, member.num_rows())?;
            let mut found = vec![None; entities.len()];
            for (number, row) in numbers.iter().zip(0_u32..) {
                found[*number as usize] = Some(row);
            }
            rows.push(found);
            let new = numbers.iter().zip(0_u32..).filter(|(number, _)| **number >= known).map(|(_, row)| row);
            let new = UInt32Array::from_iter_values(new);
            for (keys, column) in keys.iter_mut().zip(&columns) {
                keys.push(take(column, &new, None).map_err(kernel)?);
            }
        }
        let len = entities.len();
        let whole = |parts: Vec<ArrayRef>| concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>()).map_err(kernel);
        let keys = keys.into_iter().map(whole).collect::<Result<_>>()?;
        let padded = |rows: Vec<Option<u32>>| rows.into_iter().chain(std::iter::repeat(None)).take(len).collect();
        Ok(Matched { keys, rows: rows.into_iter().map(padded).collect(), len })
    }

    /// A batch of the rows from `start` on.
    fn rows(&self, members: &[RecordBatch], matched: &Matched, start: usize, schema: &SchemaRef) -> Result<RecordBatch> {
        let len = BATCH_ROWS.min(matched.len - start);
        let rows: Vec<UInt32Array> = matched.rows.iter().map(|rows| rows.slice(start, len)).collect();
        // Behind a member's keys stand its columns, in the order in which they are wanted.
        let mut next: Vec<usize> = self.places.iter().map(Vec::len).collect();
        let mut columns = Vec::with_capacity(self.columns.len());
        for (column, field) in self.columns.iter().zip(schema.fields()) {
            let array = match *column {
                EntityColumn::Key(place) => matched.keys[place].slice(start, len),
                EntityColumn::Of { view, .. } => {
                    next[view] += 1;
                    take(members[view].column(next[view] - 1), &rows[view], None).map_err(kernel)?
                }
            };
            columns.push(as_type(&array, field.data_type())?);
        }
        batch_of(schema, columns, len)
    }
}
