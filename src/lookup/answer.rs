//! From keys to the bytes of live rows.

use std::ops::Range;

use arrow::array::ArrayRef;

use super::ask::{Ask, no_such_part, span_of};
use super::plan::{CellSource, CompiledLookup, LookupView};
use crate::error::{Error, Result, SqlState};
use crate::metrics::Metrics;
use crate::online::row::column_reader;
use crate::online::{OnlineViews, PackedRow};
use crate::registry::{FeatureView, Ttl};
use crate::time::EventTime;

/// Whether a row that the online store gave for `at` answers. A row that was written, or fell due, a moment after the
/// statement's present stands in the place of the one before.
pub fn is_live(view: &FeatureView, row: &PackedRow, at: EventTime) -> bool {
    let event_time = row.version().event_time;
    Ttl::is_live(view.ttl, event_time, at.max(event_time)) && !row.is_retraction()
}

/// The store's error, with the view it was asked about.
pub fn could_not_read(view: &FeatureView, error: Error) -> Error {
    if error.code() != SqlState::IoError {
        return error;
    }
    let named = Error::new(SqlState::IoError, format!("could not read feature view \"{}\" from the online store", view.name));
    let named = match error.detail_text() {
        Some(detail) => named.detail(detail),
        None => named,
    };
    named.hint("Retry, or SET tidegate.online_fallback = offline.").caused_by(error)
}

/// Asks the store for all rows of all lookups in one round trip: for each lookup a slot for each of its keys ([`Ask::keys`]). `58030` where the store cannot be reached.
pub async fn look_up(online: &OnlineViews, metrics: &Metrics, asks: &[Ask], now: EventTime) -> Result<Vec<Option<PackedRow>>> {
    let mut keys = Vec::with_capacity(asks.iter().map(Ask::keys).sum());
    for ask in asks {
        ask.add_keys(&mut keys);
    }
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let found = online.get(&keys, now).await.map_err(|error| match asks.first().and_then(|ask| ask.lookup.views.first()) {
        Some(view) => could_not_read(&view.view, error),
        None => error,
    })?;
    metrics.online_keys.add(keys.len() as u64);
    Ok(found)
}

/// The rows that the store gave for a lookup.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    ask: &'a Ask,
    rows: &'a [Option<PackedRow>],
    now: EventTime,
}

impl<'a> Found<'a> {
    /// The rows of `ask`, as [`look_up`] gave them for it at `now`.
    pub fn new(ask: &'a Ask, rows: &'a [Option<PackedRow>], now: EventTime) -> Self {
        Self { ask, rows, now }
    }

    /// The lookup.
    pub fn lookup(&self) -> &'a CompiledLookup {
        &self.ask.lookup
    }

    /// The rows of the answer.
    pub fn answer(&self) -> Answer<'a> {
        Answer { found: *self, next: 0, skip: self.ask.skip, fetch: self.ask.fetch, row: LiveRow::default() }
    }

    /// What the lookup computes, a column for each expression, of the rows of the answer. Fails where a row is not what it should
    /// be, or a value cannot be computed: the planner's way of doing so tells the error.
    pub fn compute(&self) -> Result<Vec<ArrayRef>> {
        let Some(computed) = &self.ask.lookup.computed else { return Ok(Vec::new()) };
        let most = self.ask.candidates();
        let readers = computed.inputs.iter().map(|(_, data_type)| column_reader(data_type, most));
        let mut readers = readers.collect::<Result<Vec<_>>>()?;
        let (mut answer, mut rows) = (self.answer(), 0);
        while let Some(row) = answer.advance() {
            for (reader, (source, _)) in readers.iter_mut().zip(&computed.inputs) {
                reader.append(self.cell(row, *source)?)?;
            }
            rows += 1;
        }
        let inputs = readers.iter_mut().map(|reader| reader.finish()).collect::<Result<_>>()?;
        computed.expressions.columns(inputs, rows, &self.ask.parameters)
    }

    /// How many rows of the store live, where the rows of the answer share them; `None` where each has its own.
    pub fn shared_hits(&self) -> Option<u64> {
        let shared = self.ask.shared.as_ref()?;
        let of_view = |(view, keys): (&LookupView, Range<usize>)| {
            self.rows[keys].iter().flatten().filter(|row| is_live(&view.view, row, self.now)).count() as u64
        };
        Some(self.ask.lookup.views.iter().zip(shared.of_views()).map(of_view).sum())
    }

    /// Reads the row of a candidate into `row`; gives whether it is one of the answer's.
    fn read(&self, candidate: usize, row: &mut LiveRow<'a>) -> bool {
        row.views.clear();
        row.candidate = candidate;
        let lookup = &self.ask.lookup;
        let mut is_row = !lookup.needs_row;
        for (number, view) in lookup.views.iter().enumerate() {
            let stored = match &self.ask.shared {
                None => self.rows[candidate * lookup.views.len() + number].as_ref(),
                Some(shared) => shared.place(candidate, number).and_then(|place| self.rows[place].as_ref()),
            };
            let live = stored.filter(|stored| is_live(&view.view, stored, self.now));
            if live.is_none() && view.is_required {
                return false;
            }
            is_row |= live.is_some();
            row.views.push(live);
        }
        is_row
    }

    /// The packed bytes of a cell of the row; `None` for NULL. `XX001` where a stored row is not what it should be.
    pub fn cell(&self, row: &LiveRow<'a>, source: CellSource) -> Result<Option<&'a [u8]>> {
        let live = |view: usize| row.views.get(view).copied().flatten();
        let lookup = &self.ask.lookup;
        Ok(match source {
            CellSource::Key { view: Some(view), .. } | CellSource::OwnKey { view, .. } if live(view).is_none() => None,
            CellSource::Key { part, .. } => {
                let entity = self.ask.entities.get(row.candidate).ok_or_else(no_such_part)?.as_bytes();
                entity.get(span_of(&lookup.parts, entity, part)?.1)
            }
            CellSource::OwnKey { view, key } => {
                let shared = self.ask.shared.as_ref().ok_or_else(no_such_part)?;
                let place = shared.place(row.candidate, view).ok_or_else(no_such_part)?;
                let entity = shared.keys[place].entity.as_bytes();
                entity.get(span_of(&lookup.views[view].view.keys, entity, key)?.1)
            }
            CellSource::Left { column } => self.ask.left.as_ref().and_then(|left| left.value(row.candidate, column)),
            CellSource::EventTime { view } => live(view).map(PackedRow::event_time_bytes),
            CellSource::Feature { view, place } => match live(view) {
                Some(stored) => lookup.views[view].layout.value(stored, place)?,
                None => None,
            },
        })
    }
}

/// The rows of an answer, one after the other.
#[derive(Debug)]
pub struct Answer<'a> {
    found: Found<'a>,
    next: usize,
    skip: u64,
    fetch: u64,
    row: LiveRow<'a>,
}

impl<'a> Answer<'a> {
    /// The next row, if there is one.
    pub fn advance(&mut self) -> Option<&LiveRow<'a>> {
        while self.fetch > 0 && self.next < self.found.ask.candidates() {
            self.next += 1;
            if !self.found.read(self.next - 1, &mut self.row) {
                continue;
            }
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            self.fetch -= 1;
            return Some(&self.row);
        }
        None
    }
}

/// The rows of one candidate in the views of a lookup. Kept from candidate to candidate, for its space.
#[derive(Debug, Default)]
pub struct LiveRow<'a> {
    candidate: usize,
    views: Vec<Option<&'a PackedRow>>,
}

impl LiveRow<'_> {
    /// How many rows of the store it has.
    pub fn hits(&self) -> u64 {
        self.views.iter().flatten().count() as u64
    }
}
