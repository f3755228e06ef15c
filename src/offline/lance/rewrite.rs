//! Rewriting fragments: the same rows in fewer files, sorted where an order is asked for.
//!
//! A rewrite is a version of its own that replaces some fragments by others with the same rows. Appends go on beside it, older
//! versions keep their files, and it states no commit time: that of the version before it holds.

use std::collections::HashSet;
use std::sync::Arc;

use futures::FutureExt;
use lance::dataset::scanner::ColumnOrdering;
use lance::dataset::transaction::{Operation, RewriteGroup, Transaction};
use lance::dataset::{CommitBuilder, InsertBuilder, WriteMode, WriteParams};
use lance::deps::datafusion::physical_plan::SendableRecordBatchStream;
use lance::table::format::Fragment;

use super::handles::Handle;
use super::{BATCH_ROWS_MAX, Durability, IO_BUFFER_BYTES, LanceStore, could_not, durable, stored};
use crate::error::Result;
use crate::offline::Dataset;
use crate::time::DatasetVersion;

/// The most bytes of files that one rewrite reads: its rows are sorted in memory.
const REWRITE_BYTES_MAX: u64 = 256 << 20;

impl LanceStore {
    /// Replaces the fragments that are smaller than a full file, as many as one rewrite may hold, by files with the same rows,
    /// sorted by the columns `order`. Returns how many fragments it replaced; 0 where there is nothing to gain.
    pub(super) async fn rewrite_small(&self, dataset: Dataset, order: &[String]) -> Result<usize> {
        self.handles.latest(dataset).await?;
        let handle = self.handles.newest(dataset).await?;
        let group = small_fragments(handle.fragments());
        if group.len() < 2 {
            return Ok(0);
        }
        let count = group.len();
        let failed = |source| could_not("rewrite", dataset, source);
        let mut scanner = handle.scan();
        scanner.with_fragments(group.clone()).batch_size(BATCH_ROWS_MAX / 8).io_buffer_size(IO_BUFFER_BYTES);
        if order.is_empty() {
            scanner.scan_in_order(true);
        } else {
            let columns = order.iter().map(|name| ColumnOrdering::asc_nulls_first(stored::stored_name(name).into_owned()));
            scanner.order_by(Some(columns.collect())).map_err(failed)?;
        }
        let rows = scanner.try_into_stream().boxed().await.map_err(failed)?;
        let parameters = WriteParams { mode: WriteMode::Append, skip_auto_cleanup: true, ..WriteParams::default() };
        let insert = InsertBuilder::new(handle.clone()).with_params(&parameters);
        let rows = SendableRecordBatchStream::from(rows);
        let written = insert.execute_uncommitted_stream(rows).boxed().await.map_err(failed)?;
        let Operation::Append { fragments: new_fragments } = written.operation else {
            return Ok(0);
        };
        self.sync_files(dataset, &new_fragments).await?;
        let groups = vec![RewriteGroup { old_fragments: group, new_fragments }];
        let operation = Operation::Rewrite { groups, rewritten_indices: Vec::new(), frag_reuse_index: None };
        let transaction = Transaction::new(handle.version_id(), operation, None);
        let commit = CommitBuilder::new(handle).with_skip_auto_cleanup(true);
        let committed = Arc::new(commit.execute(transaction).boxed().await.map_err(failed)?);
        self.sync_commit(dataset, &committed).await?;
        // The next look at the dataset finds this version, and the commit time that holds in it.
        Ok(count)
    }

    /// Makes data files durable before a version can name them.
    pub(super) async fn sync_files(&self, dataset: Dataset, fragments: &[Fragment]) -> Result<()> {
        if self.durability == Durability::Cached {
            return Ok(());
        }
        let folder = self.folder(dataset).join("data");
        let files = fragments.iter().flat_map(|fragment| &fragment.files).map(|file| folder.join(&file.path)).collect();
        durable::sync(files).await.map_err(|source| could_not("sync", dataset, source))
    }

    /// The fragments that hold exactly the rows which commits after `before` added, up to the version of `handle`.
    ///
    /// Where a rewrite mixed older rows with newer ones, these are the fragments as they were committed: their files stay as
    /// long as the versions do. That costs a look at each version in between.
    pub(super) async fn added_fragments(
        &self,
        dataset: Dataset,
        handle: &Handle,
        before: DatasetVersion,
    ) -> Result<Vec<Fragment>> {
        let older = self.handles.at(dataset, before).await?;
        let known: HashSet<u64> = older.fragments().iter().map(|fragment| fragment.id).collect();
        let present: HashSet<u64> = handle.fragments().iter().map(|fragment| fragment.id).collect();
        if known.is_subset(&present) {
            return Ok(handle.fragments().iter().filter(|fragment| !known.contains(&fragment.id)).cloned().collect());
        }
        let mut added = Vec::new();
        let mut previous = known;
        for version in before.0 + 1..=handle.version_id() {
            let at = self.handles.at(dataset, DatasetVersion(version)).await?;
            let read = at.read_transaction().boxed().await.map_err(|source| could_not("read", dataset, source))?;
            let rewrites = read.is_some_and(|transaction| matches!(transaction.operation, Operation::Rewrite { .. }));
            if !rewrites {
                added.extend(at.fragments().iter().filter(|fragment| !previous.contains(&fragment.id)).cloned());
            }
            previous = at.fragments().iter().map(|fragment| fragment.id).collect();
        }
        Ok(added)
    }
}

/// Neighbouring fragments, the oldest first, that are not full and whose files fit one rewrite. A fragment of unknown size is
/// left alone.
fn small_fragments(fragments: &[Fragment]) -> Vec<Fragment> {
    let full = WriteParams::default().max_rows_per_file;
    let bytes = |fragment: &Fragment| -> Option<u64> {
        fragment.files.iter().map(|file| file.file_size_bytes.get().map(|size| size.get())).sum()
    };
    let mut group = Vec::new();
    let mut total = 0;
    for fragment in fragments {
        let fits = fragment.physical_rows.is_some_and(|rows| rows < full)
            && bytes(fragment).is_some_and(|bytes| total + bytes <= REWRITE_BYTES_MAX);
        match (fits, group.len()) {
            (true, _) => {
                total += bytes(fragment).unwrap_or(0);
                group.push(fragment.clone());
            }
            (false, 0 | 1) => {
                group.clear();
                total = 0;
            }
            (false, _) => break,
        }
    }
    group
}
