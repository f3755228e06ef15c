//! Online rows as packed bytes.

use arrow::array::{ArrayRef, RecordBatch};
use bytes::Bytes;

use super::key::EntityKey;
use crate::error::{Error, Result};
use crate::registry::FeatureView;
use crate::time::{CommitTime, EventTime};

/// What orders the rows of one entity: the greatest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowVersion {
    /// When it became true.
    pub event_time: EventTime,
    /// When the store learned it.
    pub created_time: CommitTime,
    /// The order among rows equal in both.
    pub sequence: i64,
}

/// A row as the online store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedRow(Bytes);

impl PackedRow {
    /// The bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Its place among the rows of its entity.
    pub fn version(&self) -> RowVersion {
        RowVersion { event_time: EventTime::from_micros(0), created_time: CommitTime::from_micros(0), sequence: 0 }
    }

    /// Whether it says that the entity has no value.
    pub fn is_retraction(&self) -> bool {
        false
    }
}

/// How the rows of one view are packed.
#[derive(Clone, Debug)]
pub struct RowLayout {}

impl RowLayout {
    /// The layout of `view`'s rows.
    pub fn new(_view: &FeatureView) -> Self {
        Self {}
    }

    /// Packs rows of the view's history schema.
    pub fn pack(&self, _rows: &RecordBatch) -> Result<Vec<(EntityKey, PackedRow)>> {
        Err(Error::unsupported("packing"))
    }

    /// Unpacks event times and the features at these places (in the order of the view's features), one row a slot; NULLs
    /// where the slot is `None`. The first array is the event time.
    pub fn unpack(&self, _rows: &[Option<&PackedRow>], _features: &[usize]) -> Result<Vec<ArrayRef>> {
        Err(Error::unsupported("unpacking"))
    }
}
