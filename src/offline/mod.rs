//! The offline store: every row ever written, as immutable versions of Lance datasets.
//!
//! One dataset a feature view (its history) and one a stored table. A dataset grows by commits; a commit is durable when
//! [`OfflineStore::append`] returns. Readers name the version they read, so a statement sees one version whatever is written
//! meanwhile. This room knows nothing of SQL, of "latest row per entity" or of the online store.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::error::Result;
use crate::registry::ObjectId;
use crate::time::{CommitTime, DatasetVersion, EventTime};

mod history;
mod lance;

pub use self::lance::{Durability, LanceStore, Staged};
pub use history::{CREATED_TIME, RETRACTED, SEQUENCE, history_order, history_schema};

/// A stream of batches that ends at the first error.
pub type BatchStream = BoxStream<'static, Result<RecordBatch>>;

/// What a dataset holds, and thereby where it lies under the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dataset {
    /// `views/<id>/history.lance`: the history of a feature view.
    History(ObjectId),
    /// `tables/<id>.lance`: the rows of a stored table.
    Table(ObjectId),
}

/// A condition that a scan applies to the rows it reads. What a scan cannot express is not pushed down to it.
#[derive(Clone, Debug)]
pub enum Predicate {
    /// The column equals one of the values; NULL never does.
    In {
        /// The column's name.
        column: String,
        /// The values, of the column's Arrow type.
        values: ArrayRef,
    },
    /// `min <= event time <= max`, each bound where it is given.
    EventTime {
        /// The event time column's name.
        column: String,
        /// The earliest event time.
        min: Option<EventTime>,
        /// The latest event time.
        max: Option<EventTime>,
    },
}

/// What to read of one version. Predicates are joined by AND.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// The columns, by name, in the order they are wanted.
    pub columns: Vec<String>,
    /// The conditions; every row given meets all of them, unless it is a rough scan.
    pub predicates: Vec<Predicate>,
    /// Whether rows that do not meet the conditions may be given too: then they only say what need not be read.
    pub rough: bool,
    /// Only the rows that commits after this version added. Not together with `row_address`: after a rewrite they may come from
    /// files that the version read no longer names.
    pub added_after: Option<DatasetVersion>,
    /// Add the column [`ROW_ADDRESS`], which [`OfflineStore::take`] understands for the same version.
    pub row_address: bool,
    /// Who is told what the scan reads and what it leaves out.
    pub watch: Option<Arc<dyn ScanWatch>>,
}

/// How much of a version a scan reads. Rows are counted as they lie in the files, before predicates are judged row by row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// The fragments there are.
    pub fragments: usize,
    /// Those in which no row can match, which are not read.
    pub fragments_pruned: usize,
    /// The rows read.
    pub rows_read: usize,
    /// The rows not read, because none of their neighbours can match.
    pub rows_skipped: usize,
}

/// Is told of scans.
pub trait ScanWatch: Send + Sync + fmt::Debug {
    /// A scan starts that covers so much.
    fn scans(&self, coverage: Coverage);
}

/// The name of the column in which a scan gives row addresses (UInt64), last of its columns.
pub const ROW_ADDRESS: &str = "_rowaddr";

/// How much of a dataset a rewrite covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The newest small fragments, once there are dozens of them: keeps live fragments well below a hundred. Costs one look at
    /// the dataset where there are few; leaves the work to another rewriter where one is at it.
    Tail,
    /// Every fragment there is at the start: one order over all rows. Costs a read, a sort and a write of everything; waits for
    /// another rewriter.
    Whole,
}

/// What a commit made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The version that holds the rows.
    pub version: DatasetVersion,
    /// The commit time its rows carry.
    pub created_time: CommitTime,
}

/// The full history of each dataset, as immutable versions.
#[async_trait]
pub trait OfflineStore: Send + Sync + fmt::Debug {
    /// Makes an empty dataset; one that is there already, of the same schema, is left as it is.
    async fn create(&self, dataset: Dataset, schema: SchemaRef) -> Result<()>;

    /// Writes `rows` as files that no version names yet, durable when this returns. For a history, `created_time` and `sequence`
    /// are already among the columns. Holds a few batches at a time; the first error of `rows` is given back as it is, and what
    /// was written until then is nobody's.
    async fn stage(&self, dataset: Dataset, rows: BatchStream, created_time: CommitTime) -> Result<Staged>;

    /// Gives the staged rows of a history another commit time. Costs the write of that one column.
    async fn restamp(&self, dataset: Dataset, staged: Staged, created_time: CommitTime) -> Result<Staged>;

    /// Makes staged rows a commit, durable when this returns. All rows or none.
    async fn commit(&self, dataset: Dataset, staged: Staged) -> Result<Commit>;

    /// Stages and commits rows that are at hand.
    async fn append(&self, dataset: Dataset, rows: RecordBatch, created_time: CommitTime) -> Result<Commit> {
        let rows = futures::stream::once(async { Ok(rows) }).boxed();
        let staged = self.stage(dataset, rows, created_time).await?;
        self.commit(dataset, staged).await
    }

    /// The newest commit of the dataset; of an empty one, the version that made it and the commit time 0.
    async fn latest(&self, dataset: Dataset) -> Result<Commit>;

    /// The commit that made a version; `None` where there is no such version: it is not written yet, or is gone.
    async fn commit_of(&self, dataset: Dataset, version: DatasetVersion) -> Result<Option<Commit>>;

    /// The rows of one version that match, in no promised order. Costs what it reads: only the columns asked for.
    async fn scan(&self, dataset: Dataset, version: DatasetVersion, scan: Scan) -> Result<BatchStream>;

    /// The rows of [`OfflineStore::scan`] in up to `shares` streams, each row in one of them: what reading costs the processor can
    /// then be spent by as many at the same time.
    async fn scan_shares(
        &self,
        dataset: Dataset,
        version: DatasetVersion,
        scan: Scan,
        shares: usize,
    ) -> Result<Vec<BatchStream>> {
        let _one_is_enough = shares;
        Ok(vec![self.scan(dataset, version, scan).await?])
    }

    /// The rows at these addresses, in their order: for few rows of many.
    async fn take(&self, dataset: Dataset, version: DatasetVersion, addresses: &[u64], columns: &[String])
    -> Result<RecordBatch>;

    /// Replaces fragments by fewer that hold the same rows, sorted by the columns `order` (none: in the order they are in), as one
    /// new version with the commit time of the one before. Returns how many fragments it replaced; 0 where nothing is left to
    /// do. Changes no answer and holds up neither readers nor writers; one rewriter at a time works on a dataset. Sorts in 256 MiB
    /// of memory and spills the rest to temporary files. Fails, having changed nothing, with a serialization failure where others
    /// kept changing the same fragments.
    async fn cluster(&self, dataset: Dataset, order: &[String], extent: Extent) -> Result<usize>;

    /// Deletes the dataset and its versions. Nothing there: nothing to do.
    async fn remove(&self, dataset: Dataset) -> Result<()>;
}

/// A shared offline store.
pub type SharedOfflineStore = Arc<dyn OfflineStore>;
