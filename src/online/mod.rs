//! The online store: the newest row of each entity, read by key.
//!
//! It is a cache of the offline store and can always be rebuilt from it. Redis and embedded memory implement the same
//! [`OnlineStore`] and pass the same contract suite. Stores compare the versions of packed rows and do not look further;
//! [`row`] writes and reads what is inside. Nothing in this room judges expiry: that is
//! [`Ttl::is_live`](crate::registry::Ttl::is_live), called where rows are served.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{Error, Result, SqlState};
use crate::registry::ObjectId;
use crate::time::DatasetVersion;

#[cfg(test)]
pub(crate) mod contract;
pub mod key;
mod lifetime;
mod memory;
mod redis;
pub mod row;
mod views;

pub use self::redis::{CallLimits, RedisStore};
pub use key::{EntityKey, RowKey};
pub use lifetime::Lifetime;
pub use memory::MemoryStore;
pub use row::{PackedRow, RowLayout, RowVersion};
pub use views::{Census, OnlineViews, ReadinessMark, ViewState};

/// A stretch of time through which a store kept all it was given, as far as can be told from here. It ends when the
/// connection breaks: what answers afterwards may be another server, or the same one with less in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub(crate) u64);

/// From where the applied version is moved on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All commits up to this one have been applied.
    Through(DatasetVersion),
    /// The rows are being built since [`OnlineStore::begin_build`] gave this.
    Building(BuildId),
}

/// A building of a view's rows that began once and ends once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildId(String);

/// Some of a view's rows.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The rows.
    pub rows: Vec<(EntityKey, PackedRow)>,
    /// Where the next page begins; `None` where this was the last.
    pub next: Option<u64>,
}

/// How a store is, for people.
#[derive(Clone, Debug, Default)]
pub struct StoreStatus {
    /// `memory` or `redis`.
    pub kind: &'static str,
    /// Where it is, without the password; `None` where that is this process.
    pub address: Option<String>,
    /// What the server says it is.
    pub version: Option<String>,
    /// Whether it can be asked now.
    pub connected: bool,
    /// Why not.
    pub obstacle: Option<String>,
    /// The memory it uses, with all else that it keeps, in bytes.
    pub memory_bytes: Option<u64>,
    /// The keys in its database, with all else that is there.
    pub keys: Option<u64>,
    /// The median of the last calls' times; `None` before the first.
    pub latency_p50: Option<Duration>,
    /// The time that 99 of 100 of the last calls took at most.
    pub latency_p99: Option<Duration>,
}

/// The newest row of each entity of each view.
///
/// No call waits for ever: a store that does not answer in time is an error (`58030`), and one that is known to be away fails
/// at once.
///
/// A view's rows are whole where it has an applied version: then every commit up to that version has been applied and nothing
/// went missing since but rows whose [`Lifetime`] was over. A store that loses rows loses that mark with them, or goes back to an older one.
#[async_trait]
pub trait OnlineStore: Send + Sync + fmt::Debug {
    /// The present epoch; `None` while the store is away. No IO.
    fn epoch(&self) -> Option<Epoch>;

    /// The present epoch, waiting for a connection that is being made.
    async fn connected(&self) -> Result<Epoch>;

    /// One slot per key, in the order of `keys`, of any views, in one round trip. Expired rows and retractions are given as
    /// they are: the reader judges them. Fails with `55000` where `epoch` is over, or the rows of one of the views are not whole:
    /// a row that is missing here would then mean nothing.
    async fn get(&self, keys: &[RowKey], epoch: Epoch) -> Result<Vec<Option<PackedRow>>>;

    /// Keeps each row that is newer than the one stored, by [`RowVersion`], in one atomic step a row, so that replays and
    /// races are harmless. Visible to the next [`OnlineStore::get`] once it returns. Gives the number of rows kept.
    ///
    /// A store may drop rows whose `lifetime` is over; without one a row stays until a newer one takes its place.
    async fn upsert(&self, view: ObjectId, rows: &[(EntityKey, PackedRow)], lifetime: Option<Lifetime>) -> Result<usize>;

    /// The newest commit up to which every commit of the view has been applied; `None` where the view's rows were never
    /// built, are being built, or were lost.
    async fn applied(&self, view: ObjectId) -> Result<Option<DatasetVersion>>;

    /// Says that the view's rows are going to be built. Joins a building under way, whoever began it: each builds all of it,
    /// and the first that is done ends it. Where rows go missing meanwhile, the building is lost with them.
    async fn begin_build(&self, view: ObjectId) -> Result<BuildId>;

    /// Moves the applied version on to `to`, atomically, if it is `from`, or between `from` and `to`, and `epoch` is not over: an
    /// upsert of an epoch before may be lost. Gives whether it is `to`, or later, now: if not, there is a gap that somebody must
    /// close first, or rows went missing.
    async fn advance(&self, view: ObjectId, from: &Progress, to: DatasetVersion, epoch: Epoch) -> Result<bool>;

    /// Forgets every row of the view, and first its applied version.
    async fn clear(&self, view: ObjectId) -> Result<()>;

    /// Rows of the view from `cursor` on, 0 at first. A row that is there all the while is given at least once, one that is
    /// written meanwhile may be. Costs a look at as many keys as the store holds, of whatever view.
    async fn page(&self, view: ObjectId, cursor: u64) -> Result<Page>;

    /// How the store is. Asks it, and says so where it does not answer.
    async fn status(&self) -> StoreStatus;
}

/// The error of a lookup whose answer the rows in the store cannot give.
fn not_whole() -> Error {
    Error::new(SqlState::ObjectNotInPrerequisiteState, "the online rows are being rebuilt")
}
