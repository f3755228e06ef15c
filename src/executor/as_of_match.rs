//! For each left row of an as-of join, the row of a view's history that answers it.
//!
//! The columns that decide are streamed, in any order: the event time, and where that does not tell rows apart, their versions.
//! The features of the rows that answer are read last, and only those.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType, UInt64Type};
use datafusion::execution::memory_pool::MemoryReservation;

use super::as_of_fetch::{Answered, Answers, Fetch, HELD};
use super::as_of_side::{Direction, Reach};
use super::candidates::{Candidates, NO_ROW, Offer};
use super::key_dictionary::NO_ENTITY;
use super::latest::Latest;
use super::runtime::give_way;
use super::snapshot::Versions;
use super::source::{DatasetReader, column};
use super::spine::{Asked, Slots};
use super::workers::{SharedBatches, on_all_workers, workers};
use super::{internal, kernel};
use crate::error::{Error, Result};
use crate::offline::{CREATED_TIME, Predicate, ROW_ADDRESS, SEQUENCE, Scan};
use crate::registry::{FeatureView, Ttl};
use crate::time::EventTime;

/// So many rows of equal entity and event time have their versions read by address; where there are more, all versions are read.
const RIVALS_MAX: usize = 10_000;

/// Only the history of the left rows' entities is read where they are no more than this.
const FEW_ENTITIES_MAX: usize = 10_000;

/// What the left rows ask a view, one value a row.
pub(crate) struct Questions<'a> {
    /// The keys, column by column.
    pub(crate) keys: &'a [ArrayRef],
    /// The instants, in microseconds.
    pub(crate) instants: &'a Int64Array,
    /// The knowledge instants, in microseconds.
    pub(crate) known_at: Option<&'a Int64Array>,
    /// The slots of another search that asked the same, with the same reach.
    pub(crate) slots: Option<Arc<Slots>>,
}

/// What a search found.
pub(crate) struct Found {
    pub(crate) answers: Answers,
    /// How many history rows were read for it.
    pub(crate) history_rows: usize,
    /// The slots, for another search that asks the same.
    pub(crate) slots: Arc<Slots>,
}

/// Instants as numbers that grow in the direction in which answers are looked for.
pub(crate) fn directed(direction: Direction, times: &Int64Array) -> Int64Array {
    match direction {
        Direction::Backward => times.clone(),
        // The complement turns the order round, keeps distances, and cannot overflow.
        Direction::Forward => times.unary(|time| !time),
    }
}

/// A search for the answers of a view's history.
pub(crate) struct Search {
    pub(crate) view: Arc<FeatureView>,
    pub(crate) reader: DatasetReader,
    pub(crate) reach: Reach,
    /// The columns given, by name.
    pub(crate) columns: Vec<String>,
    /// For what is kept only while searching.
    pub(crate) scratch: MemoryReservation,
}

impl Search {
    /// Finds the answers to these questions.
    pub(crate) async fn find(&self, questions: &Questions<'_>) -> Result<Found> {
        let left_rows = questions.instants.len();
        let times = directed(self.reach.direction, questions.instants);
        // Where all rows know the same, the scan leaves out what they do not know.
        let known_by_all = questions.known_at.and_then(only_value);
        let known = if known_by_all.is_some() { None } else { questions.known_at };
        let unknowing = questions.known_at.filter(|_| known_by_all.is_some()).and_then(Array::nulls);
        let times = match unknowing {
            Some(nulls) => {
                let nulls = arrow::buffer::NullBuffer::union(times.nulls(), Some(nulls));
                Int64Array::new(times.values().clone(), nulls)
            }
            None => times,
        };
        let types: Vec<DataType> = self.view.keys.iter().map(|key| key.data_type.arrow()).collect();
        let asked = Asked { keys: questions.keys, times: &times, known };
        self.scratch.try_resize(left_rows * SCRATCH_PER_LEFT_ROW).map_err(internal)?;
        let slots = match &questions.slots {
            Some(slots) => Arc::clone(slots),
            None => Arc::new(Slots::new(&types, &asked, self.reach.bound)?),
        };
        let Some((least, greatest)) = slots.bounds() else {
            return Ok(Found { answers: Answers::none(left_rows, self.columns.len()), history_rows: 0, slots });
        };
        let mut predicates = vec![self.event_times(least, greatest)];
        let latest = known_by_all.or_else(|| known.and_then(|known| known.iter().flatten().max()));
        if let Some(latest) = latest {
            let max = Some(EventTime::from_micros(latest));
            predicates.push(Predicate::EventTime { column: CREATED_TIME.to_owned(), min: None, max });
        }
        predicates.extend(self.few_keys(questions, &slots)?);
        let by_time =
            if latest.is_none() && !self.reader.holds_rows() { self.match_by_time(&slots, &predicates).await? } else { None };
        let (chosen, history_rows) = match by_time {
            Some(found) => found,
            None => self.match_by_version(&slots, &predicates).await?,
        };
        // The left rows in the order of the addresses of what answers them.
        let answered = (0..).zip(chosen).filter(|(_, address)| *address != NO_ROW);
        let mut answered: Vec<Answered> = answered.map(|(slot, address)| (address, slots.row(slot))).collect();
        answered.sort_unstable();
        let fetch = Fetch {
            reader: &self.reader,
            memory: &self.scratch,
            columns: &self.columns,
            left_rows,
            history_rows,
            predicates: &predicates,
        };
        Ok(Found { answers: fetch.answers(answered).await?, history_rows, slots })
    }

    /// Offers the whole history to the slots by event time alone; gives the address of each slot's answer, and how many rows were
    /// read. `None` where too many rows share their event time with another one of their entity.
    async fn match_by_time(&self, slots: &Arc<Slots>, predicates: &[Predicate]) -> Result<Option<(Vec<u64>, usize)>> {
        let keys = self.view.keys.iter().map(|key| key.name.clone());
        let columns = keys.chain([self.view.event_time.clone()]).collect();
        let scan = Scan { columns, predicates: predicates.to_vec(), rough: true, row_address: true, ..Scan::default() };
        let parts = self.offer_all(slots, scan, Latest::new, Latest::bytes, offer_times).await?;
        let (mut latest, mut history_rows) = (None::<Latest>, 0);
        for (part, rows) in parts {
            history_rows += rows;
            match &mut latest {
                Some(latest) => latest.unite(part),
                None => latest = Some(part),
            }
        }
        let Some(mut latest) = latest else { return Err(Error::internal("a scan had no worker")) };
        let undecided = latest.undecided();
        if latest.has_too_many() || undecided.len() > RIVALS_MAX {
            return Ok(None);
        }
        if !undecided.is_empty() {
            let versions = self.reader.take(&undecided, &[CREATED_TIME.to_owned(), SEQUENCE.to_owned()]).await?;
            let created = versions.column(0).as_primitive::<TimestampMicrosecondType>().values();
            let sequences = versions.column(1).as_primitive::<Int64Type>().values();
            let versions = created.iter().copied().zip(sequences.iter().copied());
            latest.decide(&undecided.into_iter().zip(versions).collect());
        }
        Ok(Some((latest.choose(self.reach.window, slots), history_rows)))
    }

    /// Offers the whole history to the slots by the versions of its rows; gives the address of each slot's answer, and how many
    /// stored rows were read.
    async fn match_by_version(&self, slots: &Arc<Slots>, predicates: &[Predicate]) -> Result<(Vec<u64>, usize)> {
        let columns = deciding_columns(&self.view);
        let mut scan = Scan { columns, predicates: predicates.to_vec(), row_address: true, ..Scan::default() };
        let parts = self.offer_all(slots, scan.clone(), Candidates::new, Candidates::bytes, offer).await?;
        let (mut candidates, mut history_rows) = (None::<Candidates>, 0);
        for (part, rows) in parts {
            history_rows += rows;
            match &mut candidates {
                Some(candidates) => candidates.unite(part),
                None => candidates = Some(part),
            }
        }
        let mut candidates = candidates.unwrap_or_else(|| Candidates::new(slots.len()));
        self.scratch.try_resize(slots.bytes() + candidates.bytes()).map_err(internal)?;
        scan.row_address = false;
        let mut first = 0;
        for batch in self.reader.held_rows(&scan)? {
            offer(&self.view, self.reach, &mut candidates, slots, &addressed(&batch, first)?)?;
            first += batch.num_rows();
        }
        Ok((candidates.choose(self.reach.window, slots), history_rows))
    }

    /// Has all workers offer the batches of a scan, each to candidates of its own; gives these, and how many rows each read.
    async fn offer_all<C: Send + 'static>(
        &self,
        slots: &Arc<Slots>,
        scan: Scan,
        new: fn(usize) -> C,
        bytes: fn(&C) -> usize,
        offer: fn(&FeatureView, Reach, &mut C, &Slots, &RecordBatch) -> Result<()>,
    ) -> Result<Vec<(C, usize)>> {
        self.scratch.try_resize(slots.bytes()).map_err(internal)?;
        let history = SharedBatches::new(self.reader.scan_shares(scan, workers()).await?);
        let parts = on_all_workers(|worker| {
            let (history, slots, view) = (history.clone(), Arc::clone(slots), Arc::clone(&self.view));
            let (reach, memory) = (self.reach, self.scratch.new_empty());
            async move {
                let mut candidates = new(slots.len());
                let mut rows = 0;
                memory.try_resize(bytes(&candidates)).map_err(internal)?;
                while let Some(batch) = history.next(worker).await {
                    let batch = batch?;
                    rows += batch.num_rows();
                    offer(&view, reach, &mut candidates, &slots, &batch)?;
                    memory.try_resize(bytes(&candidates)).map_err(internal)?;
                }
                Ok((candidates, rows))
            }
        });
        let parts = parts.await?;
        self.reader.metrics().history_rows.add(parts.iter().map(|(_, rows)| *rows as u64).sum());
        Ok(parts)
    }

    /// The left rows' entities, where they are few: the history of others is then left out, as far as it lies apart. One
    /// column of the key is enough for that.
    fn few_keys(&self, questions: &Questions<'_>, slots: &Slots) -> Result<Option<Predicate>> {
        let (Some(key), Some(values)) = (self.view.keys.first(), questions.keys.first()) else { return Ok(None) };
        let of_each = slots.ranges().filter(|(start, end)| start < end).map(|(start, _)| slots.row(start));
        let rows: UInt32Array = of_each.take(FEW_ENTITIES_MAX + 1).collect::<Vec<_>>().into();
        if rows.len() > FEW_ENTITIES_MAX {
            return Ok(None);
        }
        let values = take(values, &rows, None).map_err(kernel)?;
        Ok(Some(Predicate::In { column: key.name.clone(), values }))
    }

    /// Between which event times an answer can lie, for slots between these.
    fn event_times(&self, least: i64, greatest: i64) -> Predicate {
        let oldest = Ttl::oldest(self.reach.window, EventTime::from_micros(least));
        let column = self.view.event_time.clone();
        match self.reach.direction {
            Direction::Backward => Predicate::EventTime { column, min: oldest, max: Some(EventTime::from_micros(greatest)) },
            Direction::Forward => {
                let max = oldest.map(|oldest| EventTime::from_micros(!oldest.micros()));
                Predicate::EventTime { column, min: Some(EventTime::from_micros(!greatest)), max }
            }
        }
    }
}

/// Offers a batch of history by its event times.
fn offer_times(view: &FeatureView, reach: Reach, latest: &mut Latest, slots: &Slots, history: &RecordBatch) -> Result<()> {
    let keys = view.keys.iter().map(|key| column(history, &key.name)).collect::<Result<Vec<ArrayRef>>>()?;
    let mut entities = slots.find(&keys, history.num_rows())?;
    give_way();
    let times = column(history, &view.event_time)?;
    let times = times.as_primitive::<TimestampMicrosecondType>().values();
    let addresses = column(history, ROW_ADDRESS)?;
    let addresses = addresses.as_primitive::<UInt64Type>().values();
    match reach.direction {
        Direction::Backward => latest.offer(slots, &entities, times, addresses),
        Direction::Forward => {
            // In the direction of the search, times that ascend descend.
            entities.reverse();
            let times: Vec<i64> = times.iter().rev().map(|time| !time).collect();
            let addresses: Vec<u64> = addresses.iter().rev().copied().collect();
            latest.offer(slots, &entities, &times, &addresses);
        }
    }
    Ok(())
}

/// Offers a batch of history by its versions.
fn offer(view: &FeatureView, reach: Reach, candidates: &mut Candidates, slots: &Slots, history: &RecordBatch) -> Result<()> {
    let keys = view.keys.iter().map(|key| column(history, &key.name)).collect::<Result<Vec<ArrayRef>>>()?;
    let entities = slots.find(&keys, history.num_rows())?;
    let versions = Versions::of(history, &view.event_time)?;
    let addresses = column(history, ROW_ADDRESS)?;
    let addresses = addresses.as_primitive::<UInt64Type>();
    for (row, entity) in entities.iter().enumerate() {
        if *entity == NO_ENTITY {
            continue;
        }
        let mut version = versions.at(row);
        if reach.direction == Direction::Forward {
            version.0 = !version.0;
        }
        candidates.offer(slots, *entity, Offer { version, address: addresses.value(row) });
    }
    Ok(())
}

/// Bytes kept for a left row while it is matched: its entity, its slot and sorting that, its
/// candidate on two workers, and its answer.
pub(crate) const SCRATCH_PER_LEFT_ROW: usize = 4 + 28 + 64 + 32;

/// The one value of an array that has no other; NULLs aside.
fn only_value(values: &Int64Array) -> Option<i64> {
    let mut known = values.iter().flatten();
    let first = known.next()?;
    known.all(|value| value == first).then_some(first)
}

/// The columns that decide which row answers.
fn deciding_columns(view: &FeatureView) -> Vec<String> {
    let keys = view.keys.iter().map(|key| key.name.clone());
    keys.chain([view.event_time.clone(), CREATED_TIME.to_owned(), SEQUENCE.to_owned()]).collect()
}

/// Rows kept back with their addresses, counted from `first`.
fn addressed(batch: &RecordBatch, first: usize) -> Result<RecordBatch> {
    let addresses = (0..batch.num_rows()).map(|row| HELD | (first + row) as u64);
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(UInt64Array::from_iter_values(addresses)));
    let mut fields = batch.schema_ref().fields().to_vec();
    fields.push(Arc::new(Field::new(ROW_ADDRESS, DataType::UInt64, true)));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(kernel)
}
