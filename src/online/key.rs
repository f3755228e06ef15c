//! Entity keys as bytes.

use arrow::array::ArrayRef;
use bytes::Bytes;

use crate::error::{Error, Result};
use crate::registry::{KeyColumn, ObjectId};

/// The key of one entity: its key columns in one unambiguous encoding, in which equal keys are equal bytes and no two
/// composite keys collide.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityKey(Bytes);

impl EntityKey {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The key of one row: an entity of a view.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// The view.
    pub view: ObjectId,
    /// The entity.
    pub entity: EntityKey,
}

/// Encodes keys column-wise: one slot per row of `columns`, `None` where a part is NULL. `columns` are in the order and of
/// the Arrow types of `keys`.
pub fn entity_keys(_keys: &[KeyColumn], _columns: &[ArrayRef]) -> Result<Vec<Option<EntityKey>>> {
    Err(Error::unsupported("keys"))
}
