//! The online store: the newest row of each entity, read by key.
//!
//! It is a cache of the offline store and can always be rebuilt from it. Redis and embedded memory implement the same
//! [`OnlineStore`] and pass the same contract suite. Stores compare the versions of packed rows and do not look further;
//! [`row`] writes and reads what is inside. Nothing in this room judges expiry: that is
//! [`Ttl::is_live`](crate::registry::Ttl::is_live), called where rows are served.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::registry::ObjectId;
use crate::time::DatasetVersion;

#[cfg(test)]
pub(crate) mod contract;
pub mod key;
mod memory;
mod redis;
pub mod row;
mod views;

pub use self::redis::RedisStore;
pub use key::{EntityKey, RowKey};
pub use memory::MemoryStore;
pub use row::{PackedRow, RowLayout, RowVersion};
pub use views::{OnlineViews, ReadinessMark};

/// How long a lookup waits for the store: beyond it, it fails or reads the offline store.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// The newest row of each entity of each view.
///
/// No call waits for ever: a store that does not answer in time is an error (`58030`).
#[async_trait]
pub trait OnlineStore: Send + Sync + fmt::Debug {
    /// One slot per key, in the order of `keys`, of any views, in one round trip. Expired rows and retractions are given as
    /// they are: the reader judges them.
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<PackedRow>>>;

    /// Keeps each row that is newer than the one stored, by [`RowVersion`], in one atomic step a row, so that replays and
    /// races are harmless. Visible to the next [`OnlineStore::get`] once it returns. Gives the number of rows kept.
    async fn upsert(&self, view: ObjectId, rows: &[(EntityKey, PackedRow)]) -> Result<usize>;

    /// The newest commit up to which every commit of the view has been applied; `None` where the view's rows were never
    /// built, or were lost.
    async fn applied(&self, view: ObjectId) -> Result<Option<DatasetVersion>>;

    /// Moves the applied version from `from` to `to`, atomically, if it is `from`. Gives whether it moved: if not, there is
    /// a gap that somebody must close first, or another gateway was faster.
    async fn advance(&self, view: ObjectId, from: Option<DatasetVersion>, to: DatasetVersion) -> Result<bool>;

    /// Forgets every row of the view and its applied version.
    async fn clear(&self, view: ObjectId) -> Result<()>;
}
