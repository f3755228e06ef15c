//! From a parsed query to running operators: the choice of store is made here and nowhere else.
//!
//! A [`StatementContext`] says what one statement sees: one registry, one `now()`, one version of each dataset, the rows its
//! own block keeps back. [`Planner::plan`] makes a logical plan of a query, [`Planner::run`] executes it.
//!
//! On the way a query's time clauses are taken or refused (`as_of`), as-of joins in PostgreSQL's own spellings are recognised
//! (`choice`; `lateral`, `scalar` and `first_row` find them), its parameters get their types (`parameters`), its text
//! literals are read as PostgreSQL reads them (`literals`), its integers do not wrap around (`arithmetic`); what is left is DataFusion's. Where a feature view is read,
//! `keys` tells which entities the filters name and `route` decides which store answers.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::CatalogProviderList;
use datafusion::logical_expr::{LogicalPlan, ScalarUDF};

use crate::offline::BatchStream;
use crate::registry::Registry;
use crate::time::{CommitTime, EventTime};
use crate::types::SqlType;

mod arithmetic;
mod as_of;
mod as_of_join;
mod as_of_source;
mod casts;
mod choice;
mod compile;
mod correlated;
mod engine;
mod errors;
mod external;
mod first_row;
mod instant;
mod keys;
mod lateral;
mod literals;
mod lookup_join;
mod match_condition;
mod moment;
mod nodes;
mod now;
mod parameters;
mod physical;
mod provider;
mod route;
mod scalar;
mod service;
mod service_join;
mod service_scan;
mod types;
mod using;

#[cfg(test)]
mod tests;

pub use crate::executor::{HeldRows, OnlineFallback, Stores, VersionPins};
pub use compile::slot_values;
pub use engine::{Planner, explain_lookup};
pub(crate) use errors::NO_FUNCTION_HINT;
pub use external::{external_table, infer_external_schema};
pub use provider::{feature_view, history, stored_table};
pub use service::{feature_service, service_members};
pub use types::typed_literals;

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

/// What one statement sees.
#[derive(Clone, Debug)]
pub struct StatementContext {
    /// The definitions.
    pub registry: Arc<Registry>,
    /// The one `now()` of the statement.
    pub now: CommitTime,
    /// `SET tidegate.as_of`: the instant that views without a clause are read at.
    pub as_of: Option<EventTime>,
    /// `SET tidegate.system_time`: what views without a clause of their own know.
    pub system_time: Option<CommitTime>,
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
    /// The same with its types coerced and nothing moved.
    pub analyzed: LogicalPlan,
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
