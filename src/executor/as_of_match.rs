//! For each left row of an as-of join, the row of a view's history that answers it.
//!
//! History streams in any order. A history row that became true at `e` can answer every left row of its entity from `e` on,
//! so it is offered to the first slot whose instant is not before `e`, where the greatest by (event time, commit time,
//! sequence) stays; a running maximum over each entity's slots then brings every slot its answer. Nothing is sorted but the
//! left side. The features of the rows that won are read last, and only those.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::UInt64Type;
use futures::StreamExt;

use super::as_of_side::{Bound, Direction, Reach};
use super::key_dictionary::NO_ENTITY;
use super::snapshot::Versions;
use super::source::{DatasetReader, column};
use super::spine::Slots;
use super::{conform, kernel};
use crate::error::{Error, Result};
use crate::offline::{CREATED_TIME, Predicate, RETRACTED, ROW_ADDRESS, SEQUENCE, Scan};
use crate::registry::{FeatureView, Ttl};
use crate::time::EventTime;

/// Up to this many winners are fetched by address; more are picked out of a scan (measured: notes on Lance's `take`).
const TAKE_ROWS_MAX: usize = 10_000;

/// Fetching by address pays only where winners are a small part of what was read.
const ROWS_PER_TAKEN_ROW: usize = 20;

/// Marks the address of a row that the block keeps back: its place among those rows. Stored rows never have this bit.
const HELD: u64 = 1 << 63;

/// The address of no row.
const NO_ROW: u64 = u64::MAX;

/// The address that stands for a retraction: it wins like a row and gives nothing.
const RETRACTION: u64 = u64::MAX - 1;

/// The answers to all left rows.
#[derive(Debug)]
pub(crate) struct Matches {
    /// The rows that won, each once, with the columns asked for.
    pub(crate) rows: RecordBatch,
    /// For each left row its place in `rows`, or NULL.
    pub(crate) places: UInt32Array,
    /// History rows read to find them.
    pub(crate) history_rows: usize,
}

/// What an as-of join asks a view, with the left rows in slots. Instants are mirrored where the answer lies ahead
/// ([`Mirror`]), so that it always is the greatest row at or before the instant.
pub(crate) struct Question<'a> {
    pub(crate) view: &'a FeatureView,
    pub(crate) reader: &'a DatasetReader,
    pub(crate) slots: &'a Slots,
    pub(crate) reach: Reach,
    pub(crate) known: Knowledge,
    /// How many left rows there are, with and without slots.
    pub(crate) left_rows: usize,
}

/// What the left rows know.
#[derive(Debug)]
pub(crate) enum Knowledge {
    /// Everything that is committed.
    All,
    /// What was committed by one time.
    Until(i64),
    /// What was committed by a time of each slot's own.
    OfSlot(Vec<i64>),
}

/// Turns time around for answers that lie ahead: `!t` falls as `t` rises, without overflow.
#[derive(Clone, Copy)]
pub(crate) struct Mirror(i64);

impl Mirror {
    pub(crate) fn of(direction: Direction) -> Self {
        Self(match direction {
            Direction::Backward => 0,
            Direction::Forward => -1,
        })
    }

    /// An instant as it is compared, or back.
    pub(crate) fn turn(self, instant: i64) -> i64 {
        instant ^ self.0
    }
}

/// Finds the answers in the view's history, with these of its columns.
pub(crate) async fn find_matches(question: &Question<'_>, columns: &[String]) -> Result<Matches> {
    let Question { view, reader, slots, .. } = question;
    let Some(predicates) = question.window() else {
        let schema = super::batches::project_schema(reader.schema(), columns, false)?;
        let places = UInt32Array::new_null(question.left_rows);
        return Ok(Matches { rows: RecordBatch::new_empty(schema), places, history_rows: 0 });
    };
    let mut candidates = match question.known {
        Knowledge::All | Knowledge::Until(_) => Candidates::Greatest(Greatest::new(slots.len())),
        Knowledge::OfSlot(_) => Candidates::Every(Every::new(slots.entities())),
    };
    let mut history_rows = 0;
    let mut scan = Scan { columns: deciding_columns(view), predicates, added_after: None, row_address: true };
    let mut history = reader.scan_stored(scan.clone()).await?;
    while let Some(batch) = history.next().await {
        let batch = batch?;
        history_rows += batch.num_rows();
        candidates.offer(question, &batch)?;
    }
    scan.row_address = false;
    let mut held = Vec::new();
    for batch in reader.held_rows(&scan)? {
        let first = held.iter().map(RecordBatch::num_rows).sum();
        candidates.offer(question, &addressed(&batch, first)?)?;
        held.push(batch);
    }
    reader.metrics().history_rows.add(history_rows as u64);
    let chosen = candidates.choose(question);
    let mut winners = chosen.clone();
    winners.retain(|address| *address != NO_ROW);
    winners.sort_unstable();
    winners.dedup();
    scan.columns = columns.to_vec();
    let fetched = fetch(reader, scan, &winners, history_rows).await?;
    let mut places = vec![None; question.left_rows];
    for (slot, address) in chosen.iter().enumerate() {
        if let Ok(winner) = winners.binary_search(address) {
            places[slots.row(slot)] = Some(fetched.places[winner]);
        }
    }
    Ok(Matches { rows: fetched.rows, places: UInt32Array::from(places), history_rows })
}

impl Question<'_> {
    /// Between which times an answer can lie; `None` where no left row can have one.
    fn window(&self) -> Option<Vec<Predicate>> {
        let (earliest, latest) = self.slots.bounds()?;
        let mirror = Mirror::of(self.reach.direction);
        let oldest = Ttl::oldest(self.reach.window, EventTime::from_micros(earliest));
        let (far, near) = (oldest.map(|oldest| mirror.turn(oldest.micros())), Some(mirror.turn(latest)));
        let (min, max) = match self.reach.direction {
            Direction::Backward => (far, near),
            Direction::Forward => (near, far),
        };
        let column = self.view.event_time.clone();
        let time = EventTime::from_micros;
        let mut predicates = vec![Predicate::EventTime { column, min: min.map(time), max: max.map(time) }];
        let known = match &self.known {
            Knowledge::All => None,
            Knowledge::Until(known) => Some(*known),
            Knowledge::OfSlot(known) => known.iter().max().copied(),
        };
        if let Some(known) = known {
            predicates.push(Predicate::EventTime { column: CREATED_TIME.to_owned(), min: None, max: Some(time(known)) });
        }
        Some(predicates)
    }

    /// Whether a row of this (mirrored) event time is near enough to a slot's instant.
    fn reaches(&self, slot: usize, event_time: i64) -> bool {
        Ttl::is_live(self.reach.window, EventTime::from_micros(event_time), EventTime::from_micros(self.slots.time(slot)))
    }
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

/// The rows that may answer.
enum Candidates {
    Greatest(Greatest),
    Every(Every),
}

impl Candidates {
    fn offer(&mut self, question: &Question<'_>, history: &RecordBatch) -> Result<()> {
        let keys = question.view.keys.iter().map(|key| column(history, &key.name)).collect::<Result<Vec<ArrayRef>>>()?;
        let entities = question.slots.find(&keys, history.num_rows())?;
        let versions = Versions::of(history, &question.view.event_time)?;
        let addresses = column(history, ROW_ADDRESS)?;
        let addresses = addresses.as_primitive::<UInt64Type>();
        let mirror = Mirror::of(question.reach.direction);
        for (row, entity) in entities.iter().enumerate() {
            if *entity == NO_ENTITY {
                continue;
            }
            let (event_time, created_time, sequence) = versions.at(row);
            let version = (mirror.turn(event_time), created_time, sequence);
            let address = if versions.is_retraction(row) { RETRACTION } else { addresses.value(row) };
            match self {
                Candidates::Greatest(greatest) => greatest.offer(question, *entity, version, address),
                Candidates::Every(every) => every.rows[*entity as usize].push((version, address)),
            }
        }
        Ok(())
    }

    /// The address of each slot's answer, or [`NO_ROW`].
    fn choose(self, question: &Question<'_>) -> Vec<u64> {
        match self {
            Candidates::Greatest(greatest) => greatest.choose(question),
            Candidates::Every(every) => every.choose(question),
        }
    }
}

/// What orders a row: event time (mirrored where the answer lies ahead), commit time, sequence.
type Version = (i64, i64, i64);

/// The greatest row offered to each slot so far.
struct Greatest {
    versions: Vec<Version>,
    addresses: Vec<u64>,
}

impl Greatest {
    fn new(slots: usize) -> Self {
        Self { versions: vec![(i64::MIN, i64::MIN, i64::MIN); slots], addresses: vec![NO_ROW; slots] }
    }

    fn offer(&mut self, question: &Question<'_>, entity: u32, version: Version, address: u64) {
        let Some(slot) = question.slots.first_answered(entity, version.0, question.reach.bound) else { return };
        if self.addresses[slot] == NO_ROW || version > self.versions[slot] {
            self.versions[slot] = version;
            self.addresses[slot] = address;
        }
    }

    fn choose(mut self, question: &Question<'_>) -> Vec<u64> {
        for (start, end) in question.slots.ranges() {
            for slot in start + 1..end {
                let earlier = slot - 1;
                let keeps = self.addresses[slot] != NO_ROW && self.versions[slot] > self.versions[earlier];
                if !keeps && self.addresses[earlier] != NO_ROW {
                    self.versions[slot] = self.versions[earlier];
                    self.addresses[slot] = self.addresses[earlier];
                }
            }
        }
        let answers = self.addresses.iter().zip(&self.versions).enumerate();
        let answer = |(slot, (address, version)): (usize, (&u64, &Version))| match *address {
            NO_ROW | RETRACTION => NO_ROW,
            address if question.reaches(slot, version.0) => address,
            _ => NO_ROW,
        };
        answers.map(answer).collect()
    }
}

/// Every row of each entity, for slots that know different things: a later instant may know less than an earlier one, so
/// that a running maximum would not do. Each slot walks back from its instant to the first row that it knew, which is as
/// many steps as there were corrections.
struct Every {
    rows: Vec<Vec<(Version, u64)>>,
}

impl Every {
    fn new(entities: usize) -> Self {
        Self { rows: vec![Vec::new(); entities] }
    }

    fn choose(mut self, question: &Question<'_>) -> Vec<u64> {
        let mut chosen = vec![NO_ROW; question.slots.len()];
        let Knowledge::OfSlot(known) = &question.known else { return chosen };
        for (rows, (start, end)) in self.rows.iter_mut().zip(question.slots.ranges()) {
            rows.sort_unstable();
            for slot in start..end {
                let time = question.slots.time(slot);
                let reached = rows.partition_point(|((event_time, ..), _)| match question.reach.bound {
                    Bound::Inclusive => *event_time <= time,
                    Bound::Strict => *event_time < time,
                });
                let near = rows[..reached].iter().rev().take_while(|((event_time, ..), _)| question.reaches(slot, *event_time));
                let answer = near.into_iter().find(|((_, created_time, _), _)| *created_time <= known[slot]);
                if let Some((_, address)) = answer.filter(|(_, address)| *address != RETRACTION) {
                    chosen[slot] = *address;
                }
            }
        }
        chosen
    }
}

/// Winning rows, and where each winner is among them.
struct Fetched {
    rows: RecordBatch,
    places: Vec<u32>,
}

/// Reads the wanted columns of the winners: `addresses` ascend, those of rows kept back stand last.
async fn fetch(reader: &DatasetReader, scan: Scan, addresses: &[u64], history_rows: usize) -> Result<Fetched> {
    let schema = super::batches::project_schema(reader.schema(), &scan.columns, false)?;
    let stored = &addresses[..addresses.partition_point(|address| address & HELD == 0)];
    let kept_back = &addresses[stored.len()..];
    if scan.columns.is_empty() {
        return Ok(Fetched { rows: RecordBatch::new_empty(schema), places: vec![0; addresses.len()] });
    }
    let mut places = vec![u32::MAX; addresses.len()];
    let mut chunks = Vec::new();
    let few = stored.len() <= TAKE_ROWS_MAX && stored.len().saturating_mul(ROWS_PER_TAKEN_ROW) < history_rows;
    if few && !stored.is_empty() {
        chunks.push(reader.take(stored, &scan.columns).await?);
        for (place, winner) in (0_u32..).zip(places.iter_mut().take(stored.len())) {
            *winner = place;
        }
    } else if !stored.is_empty() {
        let with_addresses = Scan { row_address: true, ..scan.clone() };
        pick(reader, with_addresses, stored, &mut places, &mut chunks).await?;
    }
    if !kept_back.is_empty() {
        let first: usize = chunks.iter().map(RecordBatch::num_rows).sum();
        let held = reader.held_rows(&scan)?;
        let held = concat_batches(&schema, &held).map_err(kernel)?;
        let rows = kept_back.iter().map(|address| address & !HELD);
        chunks.push(take_record_batch(&held, &UInt64Array::from_iter_values(rows)).map_err(kernel)?);
        for (offset, winner) in places[stored.len()..].iter_mut().enumerate() {
            *winner = place_number(first + offset)?;
        }
    }
    if places.contains(&u32::MAX) {
        return Err(Error::internal("a matched history row is not in the version that it was found in"));
    }
    let chunks = chunks.into_iter().map(|chunk| conform(chunk, &schema)).collect::<Result<Vec<_>>>()?;
    Ok(Fetched { rows: concat_batches(&schema, &chunks).map_err(kernel)?, places })
}

/// Picks the winners' rows out of a scan.
async fn pick(
    reader: &DatasetReader,
    scan: Scan,
    winners: &[u64],
    places: &mut [u32],
    chunks: &mut Vec<RecordBatch>,
) -> Result<()> {
    let mut found = 0;
    let mut history = reader.scan_stored(scan).await?;
    while let Some(batch) = history.next().await {
        let batch = batch?;
        let addresses = column(&batch, ROW_ADDRESS)?;
        let addresses = addresses.as_primitive::<UInt64Type>();
        let mut rows = Vec::new();
        // Addresses mostly ascend within a batch, so the place among the winners is found by walking, not by searching.
        let mut cursor = 0;
        let mut previous = u64::MAX;
        for row in 0..addresses.len() {
            let address = addresses.value(row);
            if address < previous {
                cursor = winners.partition_point(|winner| *winner < address);
            }
            previous = address;
            while winners.get(cursor).is_some_and(|winner| *winner < address) {
                cursor += 1;
            }
            if winners.get(cursor) == Some(&address) {
                places[cursor] = place_number(found + rows.len())?;
                rows.push(row as u64);
            }
        }
        if !rows.is_empty() {
            found += rows.len();
            let features: Vec<usize> = (0..batch.num_columns() - 1).collect();
            let batch = batch.project(&features).map_err(kernel)?;
            chunks.push(take_record_batch(&batch, &UInt64Array::from(rows)).map_err(kernel)?);
        }
    }
    Ok(())
}

fn place_number(place: usize) -> Result<u32> {
    u32::try_from(place).map_err(|_| Error::internal("more matched rows than 32 bits count"))
}
