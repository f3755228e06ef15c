//! The newest row of each entity, found in the history by its keys and times alone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType, UInt64Type};
use futures::TryStreamExt;

use super::Stores;
use crate::error::{Error, Result};
use crate::offline::{CREATED_TIME, Dataset, ROW_ADDRESS, SEQUENCE, Scan, history_schema};
use crate::online::key::entity_keys;
use crate::online::{EntityKey, RowVersion};
use crate::registry::FeatureView;
use crate::time::{CommitTime, DatasetVersion, EventTime};

/// How many rows are read at their addresses at a time.
pub(super) const TAKE_ROWS: usize = 8192;

/// A row of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its place among the rows of its entity.
    pub(super) version: RowVersion,
    /// Where it is, in the version it was found in.
    pub(super) address: u64,
}

/// The newest of the rows that `counts`, of each entity, at one version of the view's history. Holds all entities' keys.
pub(super) async fn of_each(
    stores: &Stores,
    view: &FeatureView,
    version: DatasetVersion,
    counts: impl Fn(&RowVersion) -> bool,
) -> Result<HashMap<EntityKey, Found>> {
    let keys = view.keys.iter().map(|key| key.name.clone());
    let order = [view.event_time.clone(), CREATED_TIME.to_owned(), SEQUENCE.to_owned()];
    let scan = Scan { columns: keys.chain(order).collect(), row_address: true, ..Scan::default() };
    let mut batches = stores.offline.scan(Dataset::History(view.id), version, scan).await?;
    let mut newest: HashMap<EntityKey, Found> = HashMap::new();
    while let Some(batch) = batches.try_next().await? {
        for (entity, found) in rows_of(view, &batch)? {
            if !counts(&found.version) {
                continue;
            }
            match newest.entry(entity) {
                Entry::Occupied(mut kept) if kept.get().version < found.version => drop(kept.insert(found)),
                Entry::Occupied(_) => {}
                Entry::Vacant(slot) => drop(slot.insert(found)),
            }
        }
    }
    Ok(newest)
}

fn rows_of(view: &FeatureView, batch: &RecordBatch) -> Result<Vec<(EntityKey, Found)>> {
    let keys = view.keys.iter().map(|key| column(batch, &key.name).cloned()).collect::<Result<Vec<_>>>()?;
    let entities = match keys.is_empty() {
        true => vec![Some(EntityKey::global()); batch.num_rows()],
        false => entity_keys(&view.keys, &keys)?,
    };
    let version = versions(batch, &view.event_time)?;
    let addresses = column(batch, ROW_ADDRESS)?.as_primitive::<UInt64Type>();
    let found = |row: usize| Found { version: version(row), address: addresses.value(row) };
    Ok(entities.into_iter().enumerate().filter_map(|(row, entity)| Some((entity?, found(row)))).collect())
}

/// What orders the rows of a batch of history, by row.
pub(super) fn versions<'a>(batch: &'a RecordBatch, event_time: &str) -> Result<impl Fn(usize) -> RowVersion + 'a> {
    let event_times = column(batch, event_time)?.as_primitive::<TimestampMicrosecondType>();
    let created_times = column(batch, CREATED_TIME)?.as_primitive::<TimestampMicrosecondType>();
    let sequences = column(batch, SEQUENCE)?.as_primitive::<Int64Type>();
    Ok(|row| RowVersion {
        event_time: EventTime::from_micros(event_times.value(row)),
        created_time: CommitTime::from_micros(created_times.value(row)),
        sequence: sequences.value(row),
    })
}

/// The columns of the view's history.
pub(super) fn all_columns(view: &FeatureView) -> Vec<String> {
    history_schema(view).fields().iter().map(|field| field.name().clone()).collect()
}

/// The column of a scan's batch with this name.
pub(super) fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| Error::internal(format!("a scan gave no column \"{name}\"")))
}
