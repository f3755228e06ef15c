//! The physical operators, named as `EXPLAIN` prints them.
//!
//! Each operator knows one way to read: [`OnlineLookupExec`] asks the online store by key,
//! [`LookupJoinExec`] does so for the rows of its left side, [`SnapshotExec`] finds the newest
//! row of each entity at an instant, [`EntityJoinExec`] puts those of several views side by side, [`AsOfJoinExec`] finds them
//! for every row of its left side at that row's own instant, and [`DatasetScanExec`] reads stored rows as they are. None of
//! them decides which one runs: that is the planner's part.

mod as_of_fetch;
mod as_of_join;
mod as_of_match;
mod as_of_relation;
mod as_of_run;
mod as_of_side;
mod batches;
mod candidates;
mod computed;
mod entity_join;
mod key_dictionary;
mod latest;
mod lookup;
mod lookup_join;
mod order;
mod runtime;
mod scan;
mod scan_metrics;
mod snapshot;
mod source;
mod spine;
mod workers;

pub use as_of_join::AsOfJoinExec;
pub use as_of_side::{AsOfKind, AsOfSide, AsOfSource, Bound, Direction, Reach};
pub use batches::{conform, own_bytes};
pub use computed::ComputedColumns;
pub use entity_join::{EntityJoinExec, EntityJoinMember};
pub use lookup::{EntityColumn, KeySet, KeyedView, LookupSpec, OnlineLookupExec};
pub use lookup_join::{LookupJoin, LookupJoinExec, LookupJoinKind};
pub use runtime::{QueryRuntime, at_length, await_at_length};
pub use scan::DatasetScanExec;
pub use snapshot::{SnapshotExec, SnapshotSpec};
pub use source::{DatasetReader, HeldRows, OnlineFallback, Stores, VersionPins};

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{Partitioning, PlanProperties};
use futures::{Stream, StreamExt};

use crate::error::{Error, SqlState};

/// Rows in a batch that an operator gives.
pub(crate) const BATCH_ROWS: usize = 8192;

/// The properties of an operator that gives one bounded, unordered stream.
fn one_stream(schema: &SchemaRef, emission: EmissionType) -> Arc<PlanProperties> {
    let equivalence = EquivalenceProperties::new(Arc::clone(schema));
    let properties = PlanProperties::new(equivalence, Partitioning::UnknownPartitioning(1), emission, Boundedness::Bounded);
    Arc::new(properties.with_scheduling_type(SchedulingType::Cooperative))
}

/// The batches of an operator, given in turns: after some of them other tasks of the runtime come first, and after each of them
/// other threads.
fn cooperative_stream<S>(schema: SchemaRef, batches: S) -> SendableRecordBatchStream
where
    S: Stream<Item = datafusion::error::Result<RecordBatch>> + Send + 'static,
{
    let batches = batches.inspect(|_batch| runtime::give_way());
    Box::pin(cooperative(RecordBatchStreamAdapter::new(schema, batches.boxed())))
}

/// Our error on its way through DataFusion.
fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// DataFusion's error on its way through our own code.
fn internal(error: DataFusionError) -> Error {
    match error {
        DataFusionError::External(source) => match source.downcast::<Error>() {
            Ok(error) => *error,
            Err(source) => Error::internal(source.to_string()).caused_by(source),
        },
        DataFusionError::ResourcesExhausted(message) => Error::new(SqlState::OutOfMemory, "out of memory").detail(message),
        other => Error::internal("an operator failed").caused_by(other),
    }
}

/// An Arrow kernel's error; kernels are called on arrays whose types were checked, so it is a defect.
fn kernel(error: arrow::error::ArrowError) -> Error {
    Error::internal(format!("a kernel failed: {error}")).caused_by(error)
}

#[cfg(test)]
mod tests;
