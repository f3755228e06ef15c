//! From a parsed query to running operators: the choice of store is made here and nowhere else.
//!
//! A [`StatementContext`] says what one statement sees: one registry, one `now()`, one version of each dataset, the rows its
//! own block keeps back. [`Planner::plan`] makes a logical plan of a query, [`Planner::run`] executes it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::CatalogProviderList;
use datafusion::logical_expr::{LogicalPlan, ScalarUDF};
use datafusion::scalar::ScalarValue;
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::offline::{BatchStream, Dataset, SharedOfflineStore};
use crate::parser::Query;
use crate::registry::{ObjectId, Registry};
use crate::time::{CommitTime, DatasetVersion};
use crate::types::SqlType;

/// `SET tidegate.route`: which store may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RouteSetting {
    /// The planner chooses.
    #[default]
    Auto,
    /// The online store, or an error where it cannot answer.
    Online,
    /// The offline store.
    Offline,
}

/// `SET tidegate.online_fallback`: what a lookup does when the online store cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnlineFallback {
    /// It fails, with a hint.
    #[default]
    Error,
    /// It reads the offline store: slower, same answer.
    Offline,
}

/// The rows that an open block keeps back, by relation, in the schema they will be stored in.
pub type HeldRows = HashMap<ObjectId, Vec<RecordBatch>>;

/// The dataset versions a statement (or a `REPEATABLE READ` block) reads, each resolved once.
#[derive(Debug, Default)]
pub struct VersionPins(Mutex<HashMap<Dataset, DatasetVersion>>);

impl VersionPins {
    /// The version pinned for `dataset`, if one was.
    pub fn get(&self, dataset: Dataset) -> Option<DatasetVersion> {
        self.0.lock().get(&dataset).copied()
    }

    /// Pins `version` unless another reader was faster; gives the version that holds.
    pub fn pin(&self, dataset: Dataset, version: DatasetVersion) -> DatasetVersion {
        *self.0.lock().entry(dataset).or_insert(version)
    }
}

/// The stores that queries read.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Every row ever written.
    pub offline: SharedOfflineStore,
    /// The newest row of each entity.
    pub online: Arc<crate::online::OnlineViews>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What one statement sees.
#[derive(Clone, Debug)]
pub struct StatementContext {
    /// The definitions.
    pub registry: Arc<Registry>,
    /// The one `now()` of the statement.
    pub now: CommitTime,
    /// The session's `TimeZone`: an IANA name or a fixed offset.
    pub time_zone: String,
    /// Which store may answer.
    pub route: RouteSetting,
    /// What to do when the online store cannot be reached.
    pub online_fallback: OnlineFallback,
    /// The rows the block keeps back.
    pub held: Arc<HeldRows>,
    /// Whether the block's versions are pinned (`REPEATABLE READ`): such a block reads offline.
    pub pinned: bool,
    /// The versions read.
    pub pins: Arc<VersionPins>,
    /// The stores.
    pub stores: Stores,
}

/// What SQL can name, beyond the language itself: made by the catalog for one statement.
#[derive(Clone, Debug)]
pub struct Surface {
    /// The relations.
    pub catalogs: Arc<dyn CatalogProviderList>,
    /// The functions that answer from the session or the registry.
    pub functions: Vec<Arc<ScalarUDF>>,
}

/// A query, planned.
#[derive(Clone, Debug)]
pub struct QueryPlan {
    /// The plan, with placeholders where the query has parameters.
    pub logical: LogicalPlan,
    /// The columns of its rows, with the metadata that tells their SQL types.
    pub schema: SchemaRef,
    /// The types of `$1`, `$2`, …; text where nothing tells.
    pub parameters: Vec<SqlType>,
}

/// Rows, as they come.
pub struct Rows {
    /// Their columns.
    pub schema: SchemaRef,
    /// The batches. Dropping the stream stops the work behind it.
    pub stream: BatchStream,
}

/// Limits of planning and execution.
#[derive(Clone, Debug)]
pub struct PlannerConfig {
    /// The most memory that operators may hold, in bytes.
    pub memory_bytes_max: usize,
    /// How many partitions an operator runs in.
    pub partitions: usize,
}

/// Plans and runs queries.
#[derive(Debug)]
pub struct Planner {}

impl Planner {
    /// A planner within the limits of `config`.
    pub fn new(_config: &PlannerConfig) -> Result<Self> {
        Ok(Self {})
    }

    /// Plans `query`; `parameters` are the types the client stated for `$1`, `$2`, ….
    pub async fn plan(
        &self,
        _context: &Arc<StatementContext>,
        _surface: &Surface,
        _query: &Query,
        _parameters: &[Option<SqlType>],
    ) -> Result<QueryPlan> {
        Err(Error::unsupported("planning"))
    }

    /// Runs a plan with these values for its parameters.
    pub async fn run(
        &self,
        _context: &Arc<StatementContext>,
        _surface: &Surface,
        _plan: &QueryPlan,
        _parameters: &[ScalarValue],
    ) -> Result<Rows> {
        Err(Error::unsupported("running"))
    }

    /// The plan as text, one line a row of column `QUERY PLAN`; with `analyze`, after running it.
    pub async fn explain(
        &self,
        _context: &Arc<StatementContext>,
        _surface: &Surface,
        _plan: &QueryPlan,
        _parameters: &[ScalarValue],
        _analyze: bool,
        _verbose: bool,
    ) -> Result<Rows> {
        Err(Error::unsupported("EXPLAIN"))
    }
}
