//! From keys to the bytes of live rows.

use std::sync::Arc;

use bytes::BytesMut;

use super::plan::{CellSource, CompiledLookup};
use crate::error::{Error, Result, SqlState};
use crate::metrics::Metrics;
use crate::online::key::split_part;
use crate::online::{EntityKey, OnlineViews, PackedRow, RowKey};
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

/// A lookup with its keys.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The lookup.
    pub lookup: Arc<CompiledLookup>,
    /// The entities, each once.
    pub entities: Vec<EntityKey>,
}

impl Ask {
    /// How many rows of the store it asks for.
    pub fn keys(&self) -> usize {
        self.entities.len() * self.lookup.views.len()
    }

    /// Adds its keys to those of others: for each entity the key of its row in each view.
    fn add_keys(&self, keys: &mut Vec<RowKey>) -> Result<()> {
        for entity in &self.entities {
            for view in &self.lookup.views {
                let key = match &view.parts {
                    None => entity.clone(),
                    Some(parts) => self.key_of(entity, parts)?,
                };
                keys.push(RowKey { view: view.view.id, entity: key });
            }
        }
        Ok(())
    }

    /// These parts of an entity's key, as a key of their own.
    fn key_of(&self, entity: &EntityKey, parts: &[usize]) -> Result<EntityKey> {
        let mut key = BytesMut::with_capacity(entity.as_bytes().len());
        for part in parts {
            key.extend_from_slice(&entity.as_bytes()[self.span(entity, *part)?.0]);
        }
        Ok(EntityKey::from_bytes(key.freeze()))
    }

    /// Where a part of the entity's key lies: with its length, if it has one, and without.
    fn span(&self, entity: &EntityKey, part: usize) -> Result<(std::ops::Range<usize>, std::ops::Range<usize>)> {
        let bytes = entity.as_bytes();
        let mut rest = bytes;
        for (place, key) in self.lookup.parts.iter().enumerate() {
            let start = bytes.len() - rest.len();
            let (value, behind) = split_part(&key.data_type, rest).ok_or_else(no_such_part)?;
            let end = bytes.len() - behind.len();
            if place == part {
                return Ok((start..end, end - value.len()..end));
            }
            rest = behind;
        }
        Err(no_such_part())
    }
}

fn no_such_part() -> Error {
    Error::internal("a lookup's key without one of its parts")
}

/// Asks the store for all rows of all lookups in one round trip: for each lookup, for each of its entities, a slot for each of
/// its views. `58030` where the store cannot be reached.
pub async fn look_up(online: &OnlineViews, metrics: &Metrics, asks: &[Ask], now: EventTime) -> Result<Vec<Option<PackedRow>>> {
    let mut keys = Vec::with_capacity(asks.iter().map(Ask::keys).sum());
    for ask in asks {
        ask.add_keys(&mut keys)?;
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

    /// How many entities were asked for.
    pub fn entities(&self) -> usize {
        self.ask.entities.len()
    }

    /// Reads the row of an entity into `row`; gives whether it is one of the answer's.
    pub fn read(&self, entity: usize, row: &mut LiveRow<'a>) -> bool {
        row.views.clear();
        row.entity = Some(&self.ask.entities[entity]);
        let views = &self.ask.lookup.views;
        let first = entity * views.len();
        for (view, found) in views.iter().zip(&self.rows[first..first + views.len()]) {
            let live = found.as_ref().filter(|found| is_live(&view.view, found, self.now));
            if live.is_none() && view.is_required {
                return false;
            }
            row.views.push(live);
        }
        row.views.iter().any(Option::is_some)
    }

    /// The packed bytes of a cell of the row; `None` for NULL. `XX001` where a stored row is not what it should be.
    pub fn cell(&self, row: &LiveRow<'a>, source: CellSource) -> Result<Option<&'a [u8]>> {
        let live = |view: usize| row.views.get(view).copied().flatten();
        Ok(match source {
            CellSource::Key { view: Some(view), .. } if live(view).is_none() => None,
            CellSource::Key { part, .. } => {
                let entity = row.entity.ok_or_else(no_such_part)?;
                entity.as_bytes().get(self.ask.span(entity, part)?.1)
            }
            CellSource::EventTime { view } => live(view).map(PackedRow::event_time_bytes),
            CellSource::Feature { view, place } => match live(view) {
                Some(stored) => self.ask.lookup.views[view].layout.value(stored, place)?,
                None => None,
            },
        })
    }
}

/// The rows of one entity in the views of a lookup. Kept from entity to entity, for its space.
#[derive(Debug, Default)]
pub struct LiveRow<'a> {
    entity: Option<&'a EntityKey>,
    views: Vec<Option<&'a PackedRow>>,
}

impl LiveRow<'_> {
    /// How many rows of the store it has.
    pub fn hits(&self) -> u64 {
        self.views.iter().flatten().count() as u64
    }
}
