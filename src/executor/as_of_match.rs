//! For each left row of an as-of join, the row of a view's history that answers it.
//!
//! The columns that decide are streamed, in any order; the features of the rows that won are read last, and only those.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{concat_batches, take, take_record_batch};
use arrow::datatypes::{DataType, UInt64Type};
use datafusion::execution::memory_pool::MemoryReservation;

use super::as_of_side::{Direction, Reach};
use super::candidates::{Candidates, NO_ROW, Offer, RETRACTION};
use super::key_dictionary::NO_ENTITY;
use super::snapshot::Versions;
use super::source::{DatasetReader, column};
use super::spine::{Asked, Slots};
use super::workers::{SharedBatches, on_all_workers};
use super::{internal, kernel};
use crate::error::{Error, Result};
use crate::offline::{CREATED_TIME, Predicate, RETRACTED, ROW_ADDRESS, SEQUENCE, Scan};
use crate::registry::{FeatureView, Ttl};
use crate::time::EventTime;

/// Up to this many winners are fetched by address; more are picked out of a scan (measured: notes on Lance's `take`).
const TAKE_ROWS_MAX: usize = 10_000;

/// Fetching by address pays only where winners are a small part of what was read.
const ROWS_PER_TAKEN_ROW: usize = 20;

/// Only the history of the left rows' entities is read where they are no more than this.
const FEW_ENTITIES_MAX: usize = 10_000;

/// Marks the address of a row that the block keeps back: its place among those rows. Stored rows never have this bit.
const HELD: u64 = 1 << 63;

/// The answers to all left rows.
#[derive(Debug)]
pub(crate) struct Matches {
    /// Rows among which those that won are, with the columns asked for.
    pub(crate) chunks: Vec<RecordBatch>,
    /// For each left row the chunk and the row in it, or [`NO_PLACE`].
    pub(crate) places: Vec<Place>,
    /// History rows read to find them.
    pub(crate) history_rows: usize,
}

/// A chunk of [`Matches`], and a row of it.
pub(crate) type Place = (u32, u32);

/// Where the answer of a left row without one is.
pub(crate) const NO_PLACE: Place = (u32::MAX, u32::MAX);

/// What the left rows ask a view, one value a row.
pub(crate) struct Questions<'a> {
    /// The keys, column by column.
    pub(crate) keys: &'a [ArrayRef],
    /// The instants, in microseconds.
    pub(crate) instants: &'a Int64Array,
    /// The knowledge instants, in microseconds.
    pub(crate) known_at: Option<&'a Int64Array>,
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
    pub(crate) async fn find(&self, questions: &Questions<'_>) -> Result<Matches> {
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
        let slots = Slots::new(&types, &asked, self.reach.bound)?;
        let Some((least, greatest)) = slots.bounds() else {
            return Ok(Matches { chunks: Vec::new(), places: vec![NO_PLACE; left_rows], history_rows: 0 });
        };
        let mut predicates = vec![self.event_times(least, greatest)];
        let latest = known_by_all.or_else(|| known.and_then(|known| known.iter().flatten().max()));
        if let Some(latest) = latest {
            let max = Some(EventTime::from_micros(latest));
            predicates.push(Predicate::EventTime { column: CREATED_TIME.to_owned(), min: None, max });
        }
        predicates.extend(self.few_keys(questions, &slots)?);
        let mut scan = Scan { columns: deciding_columns(&self.view), predicates, row_address: true, ..Scan::default() };
        let slots = Arc::new(slots);
        let (candidates, history_rows) = self.match_history(&slots, &mut scan).await?;
        let chosen = candidates.choose(self.reach.window, &slots);
        // The winners in the order of their addresses, each with the left rows that it answers.
        let mut answered: Vec<(u64, usize)> = (0..).zip(chosen).map(|(slot, address)| (address, slots.row(slot))).collect();
        drop(slots);
        answered.retain(|(address, _)| *address != NO_ROW);
        answered.sort_unstable();
        let mut winners: Vec<u64> = answered.iter().map(|(address, _)| *address).collect();
        winners.dedup();
        scan.columns.clone_from(&self.columns);
        let fetched = fetch(&self.reader, &self.scratch, scan, Arc::new(winners), history_rows).await?;
        let mut places = vec![NO_PLACE; left_rows];
        let mut winner = 0;
        for (number, (address, row)) in answered.iter().enumerate() {
            if number > 0 && answered[number - 1].0 != *address {
                winner += 1;
            }
            places[*row] = fetched.places[winner];
        }
        Ok(Matches { chunks: fetched.chunks, places, history_rows })
    }

    /// Offers the whole history to the slots; gives the candidates, and how many stored rows were read.
    async fn match_history(&self, slots: &Arc<Slots>, scan: &mut Scan) -> Result<(Candidates, usize)> {
        self.scratch.try_resize(slots.bytes()).map_err(internal)?;
        let history = SharedBatches::new(self.reader.scan_stored(scan.clone()).await?);
        let parts = on_all_workers(|| {
            let (history, slots, view) = (history.clone(), Arc::clone(slots), Arc::clone(&self.view));
            let (reach, memory) = (self.reach, self.scratch.new_empty());
            async move {
                let mut candidates = Candidates::new(slots.len());
                let mut rows = 0;
                memory.try_resize(candidates.bytes()).map_err(internal)?;
                while let Some(batch) = history.next().await {
                    let batch = batch?;
                    rows += batch.num_rows();
                    offer(&view, reach, &mut candidates, &slots, &batch)?;
                    memory.try_resize(candidates.bytes()).map_err(internal)?;
                }
                Ok((candidates, rows))
            }
        });
        let mut candidates: Option<Candidates> = None;
        let mut history_rows = 0;
        for (part, rows) in parts.await? {
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
        for batch in self.reader.held_rows(scan)? {
            offer(&self.view, self.reach, &mut candidates, slots, &addressed(&batch, first)?)?;
            first += batch.num_rows();
        }
        self.reader.metrics().history_rows.add(history_rows as u64);
        Ok((candidates, history_rows))
    }

    /// The left rows' entities, where they are few: the history of others is then left out, as far as it lies apart. One
    /// column of the key is enough for that.
    fn few_keys(&self, questions: &Questions<'_>, slots: &Slots) -> Result<Option<Predicate>> {
        let (Some(key), Some(values)) = (self.view.keys.first(), questions.keys.first()) else { return Ok(None) };
        let of_each = slots.ranges().filter(|(start, end)| start < end).map(|(start, _)| slots.row(start) as u64);
        let rows: UInt64Array = of_each.take(FEW_ENTITIES_MAX + 1).collect::<Vec<_>>().into();
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

/// Offers a batch of history.
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
        let address = if versions.is_retraction(row) { RETRACTION } else { addresses.value(row) };
        candidates.offer(slots, *entity, Offer { version, address });
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
    keys.chain([view.event_time.clone(), CREATED_TIME.to_owned(), SEQUENCE.to_owned(), RETRACTED.to_owned()]).collect()
}

/// Rows kept back with their addresses, counted from `first`.
fn addressed(batch: &RecordBatch, first: usize) -> Result<RecordBatch> {
    let addresses = (0..batch.num_rows()).map(|row| HELD | (first + row) as u64);
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(UInt64Array::from_iter_values(addresses)));
    let mut fields = batch.schema_ref().fields().to_vec();
    fields.push(Arc::new(arrow::datatypes::Field::new(ROW_ADDRESS, arrow::datatypes::DataType::UInt64, true)));
    RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).map_err(kernel)
}

/// Winning rows, and where each winner is among them.
struct Fetched {
    chunks: Vec<RecordBatch>,
    places: Vec<Place>,
}

/// Reads the wanted columns of the winners, whose addresses ascend; those of rows kept back stand last.
async fn fetch(
    reader: &DatasetReader,
    memory: &MemoryReservation,
    scan: Scan,
    winners: Arc<Vec<u64>>,
    history_rows: usize,
) -> Result<Fetched> {
    if scan.columns.is_empty() {
        return Ok(Fetched { chunks: Vec::new(), places: vec![(0, 0); winners.len()] });
    }
    let stored = winners.partition_point(|address| address & HELD == 0);
    let mut fetched = Fetched { chunks: Vec::new(), places: vec![NO_PLACE; winners.len()] };
    let few = stored <= TAKE_ROWS_MAX && stored.saturating_mul(ROWS_PER_TAKEN_ROW) < history_rows;
    if few && stored > 0 {
        fetched.chunks.push(reader.take(&winners[..stored], &scan.columns).await?);
        for (row, place) in (0..).zip(fetched.places.iter_mut().take(stored)) {
            *place = (0, row);
        }
    } else if stored > 0 {
        let with_addresses = Scan { row_address: true, ..scan.clone() };
        pick(reader, memory, with_addresses, &winners, &mut fetched).await?;
    }
    if stored < winners.len() {
        let schema = super::batches::project_schema(reader.schema(), &scan.columns, false)?;
        let chunk = chunk_number(fetched.chunks.len())?;
        fetched.chunks.push(concat_batches(&schema, &reader.held_rows(&scan)?).map_err(kernel)?);
        for (address, place) in winners.iter().zip(&mut fetched.places).skip(stored) {
            *place = (chunk, chunk_number((address & !HELD) as usize)?);
        }
    }
    if fetched.places.contains(&NO_PLACE) {
        return Err(Error::internal("a matched history row is not in the version that it was found in"));
    }
    Ok(fetched)
}

/// Picks the winners' rows out of a scan.
async fn pick(
    reader: &DatasetReader,
    memory: &MemoryReservation,
    scan: Scan,
    winners: &Arc<Vec<u64>>,
    fetched: &mut Fetched,
) -> Result<()> {
    let history = SharedBatches::new(reader.scan_stored(scan).await?);
    let picked = on_all_workers(|| {
        let (history, winners, memory) = (history.clone(), Arc::clone(winners), memory.new_empty());
        async move {
            let mut picked = Vec::new();
            while let Some(batch) = history.next().await {
                let (chunk, places) = pick_from(&batch?, &winners)?;
                if chunk.num_rows() > 0 {
                    memory.try_grow(chunk.get_array_memory_size() + places.len() * size_of::<usize>()).map_err(internal)?;
                    picked.push((chunk, places));
                }
            }
            // The reservation lives as long as what it is for is not accounted for by the caller.
            Ok((picked, memory))
        }
    });
    for (picked, _memory) in picked.await? {
        for (chunk, places) in picked {
            let number = chunk_number(fetched.chunks.len())?;
            for (row, winner) in (0..).zip(places) {
                fetched.places[winner] = (number, row);
            }
            fetched.chunks.push(chunk);
        }
    }
    Ok(())
}

/// The winners' rows of a batch whose last column is the address, and which winners they are.
fn pick_from(batch: &RecordBatch, winners: &[u64]) -> Result<(RecordBatch, Vec<usize>)> {
    let addresses = column(batch, ROW_ADDRESS)?;
    let (mut rows, mut found) = (Vec::new(), Vec::new());
    // Addresses mostly ascend within a batch, so the place among the winners is found by walking, not by searching.
    let mut cursor = 0;
    let mut previous = u64::MAX;
    for (row, address) in (0_u32..).zip(addresses.as_primitive::<UInt64Type>().values()) {
        if *address < previous {
            cursor = winners.partition_point(|winner| winner < address);
        }
        previous = *address;
        while winners.get(cursor).is_some_and(|winner| winner < address) {
            cursor += 1;
        }
        if winners.get(cursor) == Some(address) {
            found.push(cursor);
            rows.push(row);
        }
    }
    let features: Vec<usize> = (0..batch.num_columns() - 1).collect();
    let features = batch.project(&features).map_err(kernel)?;
    Ok((take_record_batch(&features, &UInt32Array::from(rows)).map_err(kernel)?, found))
}

fn chunk_number(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::internal("more matched rows than 32 bits count"))
}
