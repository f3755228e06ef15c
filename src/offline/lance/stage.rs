//! Writing in two steps: files first, then the version that names them.

use std::sync::Arc;

use arrow::array::{RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance::dataset::fragment::FileFragment;
use lance::dataset::transaction::{Operation, Transaction};
use lance::dataset::{CommitBuilder, InsertBuilder, WriteMode, WriteParams};
use lance::deps::datafusion::error::DataFusionError;
use lance::deps::datafusion::physical_plan::SendableRecordBatchStream;
use lance::deps::datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use lance::table::format::Fragment;
use parking_lot::Mutex;

use super::handles::{CREATED_TIME_PROPERTY, Handle};
use super::{LanceStore, could_not, stored};
use crate::error::{Error, Result};
use crate::offline::{BatchStream, CREATED_TIME, Commit, Dataset};
use crate::time::{CommitTime, DatasetVersion};

/// How many fragments get another commit time at once.
const RESTAMPED_AT_ONCE: usize = 4;

/// The rows of one batch of a column that has the same value everywhere.
const COLUMN_BATCH_ROWS: usize = 1 << 17;

/// What Lance puts in the place of a field whose column of a file is out of date.
const OBSOLETE_FIELD: i32 = -2;

/// Rows in files that no version names yet.
#[derive(Debug)]
pub struct Staged {
    transaction: Transaction,
    created_time: CommitTime,
}

impl Staged {
    /// The commit time that the rows carry.
    pub fn created_time(&self) -> CommitTime {
        self.created_time
    }
}

impl LanceStore {
    pub(super) async fn stage_files(&self, dataset: Dataset, rows: BatchStream, created_time: CommitTime) -> Result<Staged> {
        let handle = self.handles.newest(dataset).await?;
        // Properties have to be given here: CommitBuilder takes them, and in Lance 14.0.2 forgets them.
        let parameters = WriteParams {
            mode: WriteMode::Append,
            skip_auto_cleanup: true,
            transaction_properties: Some(Arc::new(properties(created_time).into())),
            ..WriteParams::default()
        };
        let insert = InsertBuilder::new(handle.clone()).with_params(&parameters);
        let broken = Arc::new(Mutex::new(None));
        let source = as_source(&handle, rows, Arc::clone(&broken));
        // Lance's futures run to tens of kilobytes: on the heap they cannot overflow a worker's stack.
        let written = insert.execute_uncommitted_stream(source).boxed().await;
        let transaction = match (written, broken.lock().take()) {
            (_, Some(error)) => return Err(error),
            (Err(source), None) => return Err(could_not("write", dataset, source)),
            (Ok(transaction), None) => transaction,
        };
        if let Operation::Append { fragments } = &transaction.operation {
            self.sync_files(dataset, fragments).await?;
        }
        Ok(Staged { transaction, created_time })
    }

    pub(super) async fn restamp_files(&self, dataset: Dataset, staged: Staged, created_time: CommitTime) -> Result<Staged> {
        let handle = self.handles.newest(dataset).await?;
        let Staged { mut transaction, .. } = staged;
        let Operation::Append { fragments } = &mut transaction.operation else {
            return Err(Error::internal("staged rows are no append"));
        };
        let stamped = stream::iter(std::mem::take(fragments)).map(|fragment| stamped(&handle, fragment, created_time));
        let stamped = stamped.buffered(RESTAMPED_AT_ONCE).try_collect::<Vec<_>>().boxed().await;
        *fragments = stamped.map_err(|source| could_not("write", dataset, source))?;
        self.sync_files(dataset, fragments).await?;
        transaction.transaction_properties = Some(Arc::new(properties(created_time).into()));
        Ok(Staged { transaction, created_time })
    }

    pub(super) async fn commit_files(&self, dataset: Dataset, staged: Staged) -> Result<Commit> {
        let Staged { transaction, created_time } = staged;
        let handle = self.handles.newest(dataset).await?;
        let commit = CommitBuilder::new(handle).with_skip_auto_cleanup(true);
        let committed = commit.execute(transaction).boxed().await.map_err(|source| could_not("write", dataset, source))?;
        let committed = Arc::new(committed);
        self.sync_commit(dataset, &committed).await?;
        let version = DatasetVersion(committed.version_id());
        self.handles.keep_newest(dataset, committed, created_time);
        Ok(Commit { version, created_time })
    }
}

fn properties(created_time: CommitTime) -> [(String, String); 1] {
    [(CREATED_TIME_PROPERTY.to_owned(), created_time.micros().to_string())]
}

/// Rows as Lance takes them. The error that ends them is put in `broken`, because Lance would wrap it.
fn as_source(handle: &Handle, rows: BatchStream, broken: Arc<Mutex<Option<Error>>>) -> SendableRecordBatchStream {
    let failed = move |error: Error| {
        *broken.lock() = Some(error);
        DataFusionError::Execution("the rows to write ended with an error".into())
    };
    let rows = rows.map(move |batch| {
        let stored = |batch: RecordBatch| {
            stored::to_stored(&batch).map_err(|source| Error::internal("rows have no stored form").caused_by(source))
        };
        batch.and_then(stored).map_err(&failed)
    });
    Box::pin(RecordBatchStreamAdapter::new(Arc::new(Schema::from(handle.schema())), rows))
}

/// The fragment with another commit time: a file of its own for that column, whose column in the first file is dropped.
async fn stamped(handle: &Handle, mut fragment: Fragment, created_time: CommitTime) -> lance::Result<Fragment> {
    let name = stored::stored_name(CREATED_TIME);
    let column = handle.schema().project(&[&name])?;
    let field = column.fields.first().map(|field| (field.id, Field::from(field)));
    let (field_id, field) = field.ok_or_else(|| lance::Error::invalid_input("the dataset has no commit times"))?;
    let rows = fragment.physical_rows.unwrap_or(0);
    let schema = Arc::new(Schema::new(vec![field]));
    let batches = (0..rows).step_by(COLUMN_BATCH_ROWS).map(move |first| {
        let values = TimestampMicrosecondArray::from_value(created_time.micros(), COLUMN_BATCH_ROWS.min(rows - first));
        Ok(RecordBatch::try_new(schema.clone(), vec![Arc::new(values.with_timezone("UTC"))])?)
    });
    let file = FileFragment::new(handle.clone(), fragment.clone()).write_columns(stream::iter(batches), &column).await?.1;
    for before in &mut fragment.files {
        let fields = before.fields.iter().map(|id| if *id == field_id { OBSOLETE_FIELD } else { *id });
        before.fields = fields.collect();
    }
    // A file of which nothing is left was that of an earlier stamp.
    fragment.files.retain(|file| file.fields.iter().any(|id| *id != OBSOLETE_FIELD));
    fragment.files.push(file);
    Ok(fragment)
}
