//! What operators read from: the stores, the versions a statement stands at, and the rows its block keeps back.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, Scalar};
use arrow::compute::kernels::cmp;
use arrow::compute::{and, filter_record_batch};
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use parking_lot::Mutex;

use super::batches::{conform, project_schema};
use super::kernel;
use super::key_dictionary::{KeyDictionary, NO_ENTITY};
use crate::error::{Error, Result, SqlState};
use crate::metrics::Metrics;
use crate::offline::{BatchStream, Dataset, Predicate, Scan, ScanWatch, SharedOfflineStore};
use crate::online::OnlineViews;
use crate::registry::ObjectId;
use crate::time::DatasetVersion;
use crate::types::SqlType;

/// `SET tidegate.online_fallback`: what a lookup does when the online store cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnlineFallback {
    /// It fails, with a hint.
    #[default]
    Error,
    /// It reads the offline store: slower, same answer.
    Offline,
}

impl OnlineFallback {
    /// Whether the offline store answers in place of this error: always where the online rows are not all there, and where the
    /// session prefers that when the store could not be asked.
    pub fn reads_offline(self, error: &Error) -> bool {
        match error.code() {
            SqlState::ObjectNotInPrerequisiteState => true,
            SqlState::IoError => self == OnlineFallback::Offline,
            _ => false,
        }
    }
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
    pub online: Arc<OnlineViews>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// One version of one dataset, united with the rows that the statement's block keeps back.
#[derive(Clone)]
pub struct DatasetReader {
    dataset: Dataset,
    version: DatasetVersion,
    /// The stored columns, with the types that readers expect.
    schema: SchemaRef,
    stores: Stores,
    held: Vec<RecordBatch>,
    watch: Option<Arc<dyn ScanWatch>>,
}

impl fmt::Debug for DatasetReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatasetReader({:?} at {})", self.dataset, self.version)
    }
}

impl DatasetReader {
    /// A reader of the version that `pins` holds, or of the newest, which it then pins. Costs one look at the store.
    pub async fn open(dataset: Dataset, schema: SchemaRef, stores: &Stores, pins: &VersionPins, held: &HeldRows) -> Result<Self> {
        let version = match pins.get(dataset) {
            Some(version) => version,
            None => pins.pin(dataset, stores.offline.latest(dataset).await?.version),
        };
        let (Dataset::History(id) | Dataset::Table(id)) = dataset;
        let held =
            held.get(&id).map_or_else(Vec::new, |batches| batches.iter().filter(|batch| batch.num_rows() > 0).cloned().collect());
        Ok(Self { dataset, version, schema, stores: stores.clone(), held, watch: None })
    }

    /// A reader of a version that a query names, without the rows that its block keeps back. Does no IO.
    pub fn at_version(dataset: Dataset, version: DatasetVersion, schema: SchemaRef, stores: &Stores) -> Self {
        Self { dataset, version, schema, stores: stores.clone(), held: Vec::new(), watch: None }
    }

    /// The same reader, whose scans `watch` is told of.
    pub(crate) fn watched_by(&self, watch: Arc<dyn ScanWatch>) -> Self {
        Self { watch: Some(watch), ..self.clone() }
    }

    /// The version read.
    pub fn version(&self) -> DatasetVersion {
        self.version
    }

    /// The stored columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.stores.metrics
    }

    /// The stored rows that match, in no order, without those kept back. The columns are those of the scan, typed as
    /// [`DatasetReader::schema`] says, then the row address where it is asked for.
    pub async fn scan_stored(&self, scan: Scan) -> Result<BatchStream> {
        let shares = self.scan_shares(scan, 1).await?;
        Ok(futures::stream::iter(shares).flatten().boxed())
    }

    /// The same in up to so many streams, which can be read at the same time.
    pub async fn scan_shares(&self, scan: Scan, shares: usize) -> Result<Vec<BatchStream>> {
        let target = project_schema(&self.schema, &scan.columns, scan.row_address)?;
        let scan = Scan { watch: self.watch.clone(), ..scan };
        let streams = self.stores.offline.scan_shares(self.dataset, self.version, scan, shares).await?;
        let conformed = |stream: BatchStream| {
            let target = Arc::clone(&target);
            stream.map(move |batch| batch.and_then(|batch| conform(batch, &target))).boxed()
        };
        Ok(streams.into_iter().map(conformed).collect())
    }

    /// Whether the statement's block keeps rows back.
    pub fn holds_rows(&self) -> bool {
        !self.held.is_empty()
    }

    /// The rows kept back that match the scan's conditions; no row addresses.
    pub fn held_rows(&self, scan: &Scan) -> Result<Vec<RecordBatch>> {
        let target = project_schema(&self.schema, &scan.columns, false)?;
        let mut found = Vec::new();
        for batch in &self.held {
            let batch = matching(batch, &scan.predicates)?;
            let columns = scan.columns.iter().map(|name| column(&batch, name)).collect::<Result<Vec<_>>>()?;
            if batch.num_rows() > 0 {
                found.push(super::batches::batch_of(&target, columns, batch.num_rows())?);
            }
        }
        Ok(found)
    }

    /// Stored rows and those kept back that match, in no order.
    pub async fn scan(&self, scan: Scan) -> Result<BatchStream> {
        let held = self.held_rows(&scan)?;
        let stored = self.scan_stored(scan).await?;
        Ok(stored.chain(futures::stream::iter(held.into_iter().map(Ok))).boxed())
    }

    /// The stored rows at these addresses, in their order.
    pub async fn take(&self, addresses: &[u64], columns: &[String]) -> Result<RecordBatch> {
        let target = project_schema(&self.schema, columns, false)?;
        conform(self.stores.offline.take(self.dataset, self.version, addresses, columns).await?, &target)
    }
}

/// The column of `batch` with this name.
pub(crate) fn column(batch: &RecordBatch, name: &str) -> Result<ArrayRef> {
    batch.column_by_name(name).cloned().ok_or_else(|| Error::internal(format!("stored rows have no column \"{name}\"")))
}

/// The rows of `batch` that meet every condition.
fn matching(batch: &RecordBatch, predicates: &[Predicate]) -> Result<RecordBatch> {
    let mut kept: Option<BooleanArray> = None;
    for predicate in predicates {
        let mask = evaluate(batch, predicate)?;
        kept = Some(match kept {
            Some(kept) => and(&kept, &mask).map_err(kernel)?,
            None => mask,
        });
    }
    match kept {
        Some(kept) => filter_record_batch(batch, &kept).map_err(kernel),
        None => Ok(batch.clone()),
    }
}

fn evaluate(batch: &RecordBatch, predicate: &Predicate) -> Result<BooleanArray> {
    match predicate {
        Predicate::In { column: name, values } => {
            let tested = column(batch, name)?;
            let values = super::batches::as_type(values, tested.data_type())?;
            let mut wanted = KeyDictionary::of_types(std::slice::from_ref(tested.data_type()))?;
            let count = values.len();
            wanted.intern(&[values], count)?;
            Ok(wanted.find(&[tested], batch.num_rows())?.into_iter().map(|number| Some(number != NO_ENTITY)).collect())
        }
        Predicate::EventTime { column: name, min, max } => {
            let tested = column(batch, name)?;
            let bound = |instant: crate::time::EventTime| {
                let values: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![instant.micros()]));
                arrow::compute::cast(&values, &SqlType::TimestampTz.arrow()).map(Scalar::new).map_err(kernel)
            };
            let mut kept = BooleanArray::from(vec![true; batch.num_rows()]);
            if let Some(min) = min {
                kept = and(&kept, &cmp::gt_eq(&tested, &bound(*min)?).map_err(kernel)?).map_err(kernel)?;
            }
            if let Some(max) = max {
                kept = and(&kept, &cmp::lt_eq(&tested, &bound(*max)?).map_err(kernel)?).map_err(kernel)?;
            }
            Ok(kept)
        }
    }
}
