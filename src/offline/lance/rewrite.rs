//! Rewriting fragments: the same rows in fewer files, sorted where an order is asked for.
//!
//! A rewrite is a version of its own that replaces some fragments by others with the same rows. Appends go on beside it, older
//! versions keep their files, and it states no commit time: that of the version before it holds.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use lance::dataset::scanner::ColumnOrdering;
use lance::dataset::transaction::{Operation, RewriteGroup, Transaction};
use lance::dataset::{CommitBuilder, InsertBuilder, WriteMode, WriteParams};
use lance::deps::datafusion::execution::TaskContext;
use lance::deps::datafusion::execution::config::SessionConfig;
use lance::deps::datafusion::execution::memory_pool::GreedyMemoryPool;
use lance::deps::datafusion::execution::runtime_env::RuntimeEnvBuilder;
use lance::deps::datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use lance::table::format::Fragment;

use super::handles::Handle;
use super::{Durability, IO_BUFFER_BYTES, LanceStore, could_not, durable, path, stored};
use crate::error::{Error, Result, SqlState};
use crate::offline::{Dataset, Extent, RETRACTED};
use crate::time::DatasetVersion;

/// The most memory that the sort of one rewrite takes; what does not fit is spilled to temporary files.
const SORT_BYTES_MAX: usize = 256 << 20;

/// The rows of one batch of a sort: small, because a merge holds some of each run.
const SORT_BATCH_ROWS: usize = 8192;

/// How many fragments gather before those of a tail are rewritten.
const TAIL_FRAGMENTS_MIN: usize = 48;

/// How often a rewrite of everything starts again that another preempted.
const ATTEMPTS_MAX: usize = 5;

/// How long a rewriter that has to wait for another one sleeps between two looks.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// A rewrite that covered every fragment says so here, in its transaction: the order it left behind and the version it read.
/// Only where its own version is the next one did no append come between.
const ORDER_PROPERTY: &str = "tidegate.order";

impl LanceStore {
    /// Rewrites what `extent` asks for. Returns how many fragments were replaced.
    pub(super) async fn rewrite(&self, dataset: Dataset, order: &[String], extent: Extent) -> Result<usize> {
        if extent == Extent::Tail {
            // Cheap where there is nothing to do, which is nearly always.
            self.handles.latest(dataset).await?;
            if tail(self.handles.newest(dataset).await?.fragments()).is_empty() {
                return Ok(0);
            }
        }
        let Some(_lock) = self.lock_for_rewrite(dataset, extent).await? else { return Ok(0) };
        for _attempt in 1..ATTEMPTS_MAX {
            match self.rewrite_once(dataset, order, extent).await {
                Err(error) if error.code() == SqlState::SerializationFailure => {
                    tracing::debug!(dataset = path(dataset), %error, "rewrite preempted");
                }
                outcome => return outcome,
            }
        }
        self.rewrite_once(dataset, order, extent).await
    }

    /// The right to rewrite a dataset, held until the file is closed: one rewriter at a time among all gateways, so that none
    /// works in vain. A tail is left to whoever holds it; a rewrite of everything waits. A killed gateway's lock is free at once.
    async fn lock_for_rewrite(&self, dataset: Dataset, extent: Extent) -> Result<Option<File>> {
        let name = self.folder(dataset).join("_rewrite.lock");
        loop {
            let name = name.clone();
            let taken = tokio::task::spawn_blocking(move || {
                let file = File::options().create(true).append(true).open(name)?;
                match file.try_lock() {
                    Ok(()) => Ok(Some(file)),
                    Err(TryLockError::WouldBlock) => Ok(None),
                    Err(TryLockError::Error(source)) => Err(source),
                }
            });
            let taken = taken.await.map_err(std::io::Error::other).and_then(|taken| taken);
            match (taken.map_err(|source| could_not("rewrite", dataset, source))?, extent) {
                (Some(file), _) => return Ok(Some(file)),
                (None, Extent::Tail) => return Ok(None),
                (None, Extent::Whole) => tokio::time::sleep(LOCK_INTERVAL).await,
            }
        }
    }

    async fn rewrite_once(&self, dataset: Dataset, order: &[String], extent: Extent) -> Result<usize> {
        let failed = |source| could_not("rewrite", dataset, source);
        self.handles.latest(dataset).await?;
        let handle = self.handles.newest(dataset).await?;
        let whole = |read: u64| format!("{}@{read}", order.join(","));
        let group = match extent {
            Extent::Tail => tail(handle.fragments()).to_vec(),
            Extent::Whole => {
                let read = handle.read_transaction().boxed().await.map_err(failed)?;
                let properties = read.and_then(|transaction| transaction.transaction_properties);
                if properties.is_some_and(|properties| properties.get(ORDER_PROPERTY) == Some(&whole(handle.version_id() - 1))) {
                    return Ok(0);
                }
                handle.fragments().to_vec()
            }
        };
        if group.is_empty() {
            return Ok(0);
        }
        let count = group.len();
        let rows = sorted_rows(&handle, &group, order).await.map_err(failed)?;
        let parameters = WriteParams { mode: WriteMode::Append, skip_auto_cleanup: true, ..WriteParams::default() };
        let insert = InsertBuilder::new(handle.clone()).with_params(&parameters);
        let written = insert.execute_uncommitted_stream(rows).boxed().await.map_err(failed)?;
        let Operation::Append { fragments: new_fragments } = written.operation else {
            return Err(Error::internal("a rewrite wrote something else than rows"));
        };
        same_count(dataset, &group, &new_fragments)?;
        self.sync_files(dataset, &new_fragments).await?;
        let files: HashSet<String> =
            new_fragments.iter().flat_map(|fragment| &fragment.files).map(|it| it.path.clone()).collect();
        let groups = vec![RewriteGroup { old_fragments: group, new_fragments }];
        let operation = Operation::Rewrite { groups, rewritten_indices: Vec::new(), frag_reuse_index: None };
        let mut transaction = Transaction::new(handle.version_id(), operation, None);
        if extent == Extent::Whole {
            transaction.transaction_properties = Some(Arc::new([(ORDER_PROPERTY.to_owned(), whole(handle.version_id()))].into()));
        }
        let commit = CommitBuilder::new(handle).with_skip_auto_cleanup(true);
        let committed = Arc::new(commit.execute(transaction).boxed().await.map_err(failed)?);
        self.sync_commit(dataset, &committed).await?;
        tracing::info!(dataset = path(dataset), version = committed.version_id(), fragments = count, "fragments rewritten");
        self.make_zones(dataset, &committed, order, &files).await;
        // The next look at the dataset finds this version, and the commit time that holds in it.
        Ok(count)
    }

    /// Makes the zones of the fragments in these files, so that the first scan of them finds some.
    async fn make_zones(&self, dataset: Dataset, handle: &Handle, order: &[String], files: &HashSet<String>) {
        let is_new = |fragment: &&Fragment| fragment.files.iter().any(|file| files.contains(&file.path));
        let fragments: Vec<Fragment> = handle.fragments().iter().filter(is_new).cloned().collect();
        let columns = order.iter().map(String::as_str).chain([RETRACTED]);
        let fields = columns.filter_map(|name| Some(handle.schema().field(&stored::stored_name(name))?.id));
        let fields: Vec<i32> = fields.collect();
        self.zones.maps(self.folder(dataset), handle, &fragments, &fields).await;
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

/// The rows of `fragments` in the order of these columns, or as they lie where none are named.
async fn sorted_rows(handle: &Handle, fragments: &[Fragment], order: &[String]) -> lance::Result<SendableRecordBatchStream> {
    let mut scanner = handle.scan();
    scanner.with_fragments(fragments.to_vec()).batch_size(SORT_BATCH_ROWS).io_buffer_size(IO_BUFFER_BYTES);
    if order.is_empty() {
        scanner.scan_in_order(true);
    } else {
        let columns = order.iter().map(|name| ColumnOrdering::asc_nulls_first(stored::stored_name(name).into_owned()));
        scanner.order_by(Some(columns.collect()))?;
    }
    let plan = scanner.create_plan().boxed().await?;
    let pool = Arc::new(GreedyMemoryPool::new(SORT_BYTES_MAX));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc()?;
    let settings = SessionConfig::new().with_batch_size(SORT_BATCH_ROWS);
    let context = TaskContext::default().with_session_config(settings).with_runtime(runtime);
    Ok(execute_stream(plan, Arc::new(context))?)
}

/// Fails unless the new files hold as many rows as the old ones: a rewrite that lost a row must never be committed.
fn same_count(dataset: Dataset, old: &[Fragment], new: &[Fragment]) -> Result<()> {
    let rows = |fragments: &[Fragment]| fragments.iter().map(Fragment::num_rows).sum::<Option<usize>>();
    if rows(old) == rows(new) {
        return Ok(());
    }
    Err(Error::internal(format!("a rewrite of dataset \"{}\" would have changed its rows", path(dataset))))
}

/// The newest fragments, where there are many that can become one: each at most twice as large as all after it, so that a row
/// is rewritten a number of times that grows with the logarithm of the rows. Where sizes mix so that too many are left, all that
/// follow the last full one. Empty where there is nothing to gain.
fn tail(fragments: &[Fragment]) -> &[Fragment] {
    let full = WriteParams::default().max_rows_per_file;
    let sizes = || fragments.iter().rev().map(Fragment::num_rows);
    let not_full = sizes().take_while(|rows| rows.is_some_and(|rows| rows < full)).count();
    let mut newer = 0;
    let alike = sizes().take(not_full).flatten().take_while(|rows| {
        let fits = newer == 0 || *rows <= 2 * newer;
        newer += rows;
        fits
    });
    let alike = alike.count();
    let count = match () {
        () if alike >= TAIL_FRAGMENTS_MIN => alike,
        () if not_full >= 2 * TAIL_FRAGMENTS_MIN => not_full,
        () => 0,
    };
    &fragments[fragments.len() - count..]
}
