//! An as-of join under way: the left side in parts that fit the memory, each with its answers.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::{and, concat, filter, not, nullif, prep_null_mask_filter};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::{Count, Gauge};
use futures::StreamExt;

use super::as_of_fetch::Answers;
use super::as_of_match::{Questions, SCRATCH_PER_LEFT_ROW, Search};
use super::as_of_relation::Relation;
use super::as_of_side::{AsOfKind, AsOfSide, AsOfSource, Reach};
use super::batches::{as_type, batch_of, own_bytes};
use super::scan_metrics::ScanMetrics;
use super::spine::Slots;
use super::{BATCH_ROWS, internal, kernel};
use crate::error::{Error, Result, SqlState};
use crate::offline::history_schema;
use crate::types::SqlType;

/// What `EXPLAIN ANALYZE` shows of a join.
#[derive(Debug)]
pub(super) struct RunMetrics {
    /// Rows of the right sides read to find the answers, each time they were read.
    pub(super) history_rows: Count,
    pub(super) matched_rows: Count,
    pub(super) output_rows: Count,
    /// What the scans of histories read and left out.
    pub(super) scans: Arc<ScanMetrics>,
    /// Parts in which the left side was answered; each reads the right sides once.
    pub(super) parts: Count,
    /// The most bytes reserved at one time.
    pub(super) memory_peak: Gauge,
}

/// A join under way.
pub(super) struct Run {
    sides: Arc<Vec<AsOfSide>>,
    schema: SchemaRef,
    metrics: RunMetrics,
    input: SendableRecordBatchStream,
    ended: bool,
    /// Inputs of the sides that are relations, until they are collected.
    inputs: Vec<Option<SendableRecordBatchStream>>,
    relations: Vec<Option<Relation>>,
    /// Left rows not yet answered.
    waiting: VecDeque<RecordBatch>,
    /// For the left rows and their answers.
    memory: MemoryReservation,
    /// How many left rows a part may have, once it showed how many fit.
    part_rows_max: usize,
    part: Option<Part>,
}

/// The left rows in the order that a side asks for.
struct Ordered {
    side: AsOfSide,
    /// Of its keys.
    types: Vec<DataType>,
    slots: Arc<Slots>,
}

impl Ordered {
    /// Whether another side asks for the same order. One whose rows know different things has slots of its own.
    fn serves(&self, side: &AsOfSide, types: &[DataType]) -> bool {
        let ours = &self.side;
        let alike = ours.keys == side.keys && ours.instant.eq(&side.instant) && self.types == types;
        alike && ours.known_at.is_none() && side.known_at.is_none() && same_order(ours.reach, side.reach)
    }
}

/// Whether slots in one reach's order serve another: how far it goes does not matter.
fn same_order(one: Reach, other: Reach) -> bool {
    one.direction == other.direction && one.bound == other.bound
}

/// Some left rows with each side's answers to them.
struct Part {
    spine: Vec<RecordBatch>,
    answers: Vec<Answers>,
    /// The pieces still to be given: a batch, where in it, and which row of the part that is.
    pieces: VecDeque<(usize, usize, usize)>,
}

impl Run {
    /// A join of `input` with the sides; `inputs` has one for each side that is a relation.
    pub(super) fn new(
        sides: Arc<Vec<AsOfSide>>,
        schema: SchemaRef,
        input: SendableRecordBatchStream,
        inputs: Vec<Option<SendableRecordBatchStream>>,
        memory: MemoryReservation,
        metrics: RunMetrics,
    ) -> Self {
        Self {
            sides,
            schema,
            metrics,
            input,
            ended: false,
            inputs,
            relations: Vec::new(),
            waiting: VecDeque::new(),
            memory,
            part_rows_max: usize::MAX,
            part: None,
        }
    }

    /// The next joined rows, in the left side's order; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.collect_relations().await?;
        loop {
            if let Some(part) = &mut self.part {
                if let Some((number, start, row)) = part.pieces.pop_front() {
                    let batch = &part.spine[number];
                    let piece = batch.slice(start, BATCH_ROWS.min(batch.num_rows() - start));
                    let joined = joined(&self.sides, &self.schema, &piece, &part.answers, row)?;
                    self.metrics.output_rows.add(joined.num_rows());
                    return Ok(Some(joined));
                }
                self.part = None;
            }
            self.fill().await?;
            if self.waiting.is_empty() {
                self.memory.free();
                return Ok(None);
            }
            self.part = Some(self.answer_part().await?);
        }
    }

    async fn collect_relations(&mut self) -> Result<()> {
        let sides = Arc::clone(&self.sides);
        for side in &sides[self.relations.len()..] {
            let input = self.inputs.get_mut(self.relations.len()).and_then(Option::take);
            let relation = match (&side.source, input) {
                (AsOfSource::Relation { keys, order, ties, .. }, Some(input)) => {
                    Some(Relation::collect(input, keys, *order, ties, self.memory.new_empty()).await?)
                }
                (AsOfSource::View { .. }, _) => None,
                (AsOfSource::Relation { .. }, None) => {
                    return Err(Error::internal("an as-of join's relation has no rows to read"));
                }
            };
            self.relations.push(relation);
        }
        Ok(())
    }

    /// Collects left rows, up to the end or as many as there is memory for.
    async fn fill(&mut self) -> Result<()> {
        self.memory.resize(self.waiting.iter().map(own_bytes).sum());
        let mut waiting: usize = self.waiting.iter().map(RecordBatch::num_rows).sum();
        while !self.ended && waiting < self.part_rows_max {
            let Some(batch) = self.input.next().await else {
                self.ended = true;
                break;
            };
            let batch = batch.map_err(internal)?;
            if batch.num_rows() == 0 {
                continue;
            }
            waiting += batch.num_rows();
            // Matching a row takes memory too, one side after the other.
            let bytes = own_bytes(&batch) + batch.num_rows() * SCRATCH_PER_LEFT_ROW;
            self.waiting.push_back(batch);
            if self.memory.try_grow(bytes).is_err() {
                break;
            }
        }
        self.note_peak(0);
        self.memory.resize(self.waiting.iter().map(own_bytes).sum());
        Ok(())
    }

    /// Answers the left rows that wait, or as many of them as there is memory for.
    async fn answer_part(&mut self) -> Result<Part> {
        let waiting: usize = self.waiting.iter().map(RecordBatch::num_rows).sum();
        let mut rows = waiting.min(self.part_rows_max);
        loop {
            let spine = first_rows(&self.waiting, rows);
            match self.find(&spine).await {
                Ok(answers) => {
                    self.leave_waiting(rows);
                    self.metrics.parts.add(1);
                    return Ok(Part { pieces: pieces(&spine), spine, answers });
                }
                Err(error) if error.code() == SqlState::OutOfMemory && rows > 1 => {
                    rows /= 2;
                    self.part_rows_max = rows;
                    self.memory.resize(self.waiting.iter().map(own_bytes).sum());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the first rows out of those that wait.
    fn leave_waiting(&mut self, mut rows: usize) {
        while let Some(batch) = self.waiting.pop_front() {
            if batch.num_rows() > rows {
                self.waiting.push_front(batch.slice(rows, batch.num_rows() - rows));
                return;
            }
            rows -= batch.num_rows();
        }
    }

    /// Finds each side's answers to these left rows.
    async fn find(&mut self, spine: &[RecordBatch]) -> Result<Vec<Answers>> {
        let sides = Arc::clone(&self.sides);
        let mut all = Vec::with_capacity(sides.len());
        let mut ordered: Option<Ordered> = None;
        for (number, side) in sides.iter().enumerate() {
            let (answers, read, bytes) = match &self.relations[number] {
                Some(relation) => {
                    let answers = self.find_in_relation(side, relation, spine)?;
                    // Its rows are accounted for already.
                    let bytes = answers.bytes();
                    (answers, relation.len(), bytes)
                }
                None => {
                    let (answers, read) = self.find_in_view(side, spine, &mut ordered).await?;
                    let bytes = answers.bytes() + answers.chunk_bytes();
                    (answers, read, bytes)
                }
            };
            self.memory.try_grow(bytes).map_err(internal)?;
            self.note_peak(0);
            self.metrics.history_rows.add(read);
            all.push(answers);
        }
        self.metrics.matched_rows.add(all.iter().map(Answers::matched_rows).sum());
        Ok(all)
    }

    fn find_in_relation(&self, side: &AsOfSide, relation: &Relation, spine: &[RecordBatch]) -> Result<Answers> {
        if side.known_at.is_some() {
            return Err(Error::internal("an as-of join with a relation asks what it knew"));
        }
        let keys = side.keys.iter().zip(relation.key_types());
        let keys = keys.map(|(expr, key)| evaluate(expr, spine, &key)).collect::<Result<Vec<_>>>()?;
        let instants = evaluate(&side.instant, spine, relation.time_type())?;
        let scratch = self.memory.new_empty();
        scratch.try_grow(instants.len() * SCRATCH_PER_LEFT_ROW).map_err(internal)?;
        self.note_peak(scratch.size());
        relation.find(&keys, &instants, side.reach, &side.columns)
    }

    /// Finds a view's answers. `ordered` is what an earlier view of the same part asked, and becomes what this one asks.
    async fn find_in_view(
        &mut self,
        side: &AsOfSide,
        spine: &[RecordBatch],
        ordered: &mut Option<Ordered>,
    ) -> Result<(Answers, usize)> {
        let AsOfSource::View { view, reader } = &side.source else {
            return Err(Error::internal("an as-of join's relation was not collected"));
        };
        let keys = side.keys.iter().zip(&view.keys);
        let keys = keys.map(|(expr, key)| evaluate(expr, spine, &key.data_type.arrow())).collect::<Result<Vec<_>>>()?;
        let instants = microseconds(&side.instant, spine)?;
        let known_at = side.known_at.as_ref().map(|known_at| microseconds(known_at, spine)).transpose()?;
        let names = history_schema(view);
        let columns: Vec<_> = side.columns.iter().map(|column| names.field(*column).name().clone()).collect();
        let scans: Arc<ScanMetrics> = Arc::clone(&self.metrics.scans);
        let (view, reader) = (Arc::clone(view), reader.watched_by(scans));
        let types = keys.iter().map(|key| key.data_type().clone()).collect::<Vec<_>>();
        let search = Search { view, reader, reach: side.reach, columns, scratch: self.memory.new_empty() };
        let slots = ordered.as_ref().filter(|ordered| ordered.serves(side, &types)).map(|ordered| Arc::clone(&ordered.slots));
        let questions = Questions { keys: &keys, instants: &instants, known_at: known_at.as_ref(), slots };
        let found = search.find(&questions).await?;
        self.note_peak(search.scratch.size());
        *ordered = Some(Ordered { side: side.clone(), types, slots: found.slots });
        Ok((found.answers, found.history_rows))
    }

    fn note_peak(&self, scratch: usize) {
        let relations: usize = self.relations.iter().flatten().map(Relation::bytes).sum();
        self.metrics.memory_peak.set_max(self.memory.size() + relations + scratch);
    }
}

/// The first rows of some batches.
fn first_rows(batches: &VecDeque<RecordBatch>, mut rows: usize) -> Vec<RecordBatch> {
    let mut first = Vec::new();
    for batch in batches {
        if rows == 0 {
            break;
        }
        let taken = rows.min(batch.num_rows());
        first.push(batch.slice(0, taken));
        rows -= taken;
    }
    first
}

/// The pieces in which a part is given.
fn pieces(spine: &[RecordBatch]) -> VecDeque<(usize, usize, usize)> {
    let mut pieces = VecDeque::new();
    let mut first = 0;
    for (number, batch) in spine.iter().enumerate() {
        for start in (0..batch.num_rows()).step_by(BATCH_ROWS) {
            pieces.push_back((number, start, first + start));
        }
        first += batch.num_rows();
    }
    pieces
}

/// Instants over left rows, in microseconds.
fn microseconds(expr: &Arc<dyn PhysicalExpr>, spine: &[RecordBatch]) -> Result<Int64Array> {
    let instants = evaluate(expr, spine, &SqlType::TimestampTz.arrow())?;
    Ok(instants.as_primitive::<TimestampMicrosecondType>().reinterpret_cast())
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

/// The left rows of `piece`, which start at row `first` of their part, with their answers.
fn joined(sides: &[AsOfSide], schema: &SchemaRef, piece: &RecordBatch, all: &[Answers], first: usize) -> Result<RecordBatch> {
    let mut columns = piece.columns().to_vec();
    let mut kept: Option<BooleanArray> = None;
    for (side, answers) in sides.iter().zip(all) {
        let (matched, mut answers) = answers.slice(&side.fields, first, piece.num_rows())?;
        let mut matched = BooleanArray::new(matched, None);
        if let Some(condition) = &side.condition {
            let holds = holds(condition, schema, columns.iter().chain(&answers).cloned().collect(), piece.num_rows())?;
            matched = and(&matched, &holds).map_err(kernel)?;
            let dropped = not(&matched).map_err(kernel)?;
            for answer in &mut answers {
                *answer = nullif(answer, &dropped).map_err(kernel)?;
            }
        }
        columns.extend(answers);
        if side.kind == AsOfKind::Inner {
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
    batch_of(schema, columns, rows)
}

/// For which rows the condition is true; neither false nor NULL. It is over the first columns of `schema`.
fn holds(condition: &Arc<dyn PhysicalExpr>, schema: &Schema, columns: Vec<ArrayRef>, rows: usize) -> Result<BooleanArray> {
    // Inner sides' fields may be NOT NULL although rows without a match are judged before they are dropped.
    let fields = schema.fields()[..columns.len()].iter();
    let fields: Vec<_> = fields.map(|field| Arc::new(field.as_ref().clone().with_nullable(true))).collect();
    let batch = batch_of(&Arc::new(Schema::new(fields)), columns, rows)?;
    let verdict = condition.evaluate(&batch).and_then(|value| value.into_array(rows)).map_err(internal)?;
    let verdict = verdict.as_boolean();
    Ok(if verdict.null_count() == 0 { verdict.clone() } else { prep_null_mask_filter(verdict) })
}
