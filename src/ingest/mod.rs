//! The one write path: validate, append to the offline store, upsert into the online store.
//!
//! A row is durable in the offline store before the online store hears of it. What goes wrong after that is repaired by
//! [`Ingest::catch_up`], which brings the online store up to the offline store commit by commit. Small writes that come at the
//! same time share a commit.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use futures::future::join_all;
use futures::{StreamExt, stream as streams};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::error::{Error, Result, SqlState};
use crate::executor::at_length;
use crate::offline::{BatchStream, Dataset, Extent, Retention, SharedOfflineStore, history_order, history_schema};
use crate::online::OnlineViews;
use crate::registry::{FeatureView, ObjectId, Registry, TableSource, Target, Ttl};
use crate::time::{Clock, CommitTime};

mod assign;
mod audit;
mod catch_up;
mod check;
mod commit;
mod newest;
mod number;
mod stream;
mod validate;

pub use audit::{Audit, AuditStep};
use check::Checks;
use commit::{BLOCKING_ROWS_MIN, Relation};
use stream::{Gathered, Intaker, gather, stage};
pub use validate::Intake;

/// Rows that may be written as they are: nobody checks again.
#[derive(Clone, Debug)]
pub struct ValidBatch {
    /// The relation they belong to.
    target: Target,
    /// Its columns as stored, without commit time and sequence.
    rows: RecordBatch,
}

impl ValidBatch {
    /// The relation the rows belong to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows as a commit at `created_time` stores them, sequences counting up from `first_sequence`.
    pub fn stored(&self, created_time: CommitTime, first_sequence: i64) -> Result<RecordBatch> {
        let view = match &self.target {
            Target::View(view) => view,
            Target::Table(_) => return Ok(self.rows.clone()),
        };
        let rows = self.rows.num_rows();
        let created = TimestampMicrosecondArray::from_value(created_time.micros(), rows).with_timezone("UTC");
        let sequences = Int64Array::from_iter_values((first_sequence..).take(rows));
        let mut columns: Vec<ArrayRef> = self.rows.columns().to_vec();
        columns.push(Arc::new(created));
        columns.push(Arc::new(sequences));
        columns.push(Arc::new(BooleanArray::from(vec![false; rows])));
        RecordBatch::try_new(history_schema(view), columns)
            .map_err(|source| Error::internal(format!("rows of \"{}\" do not fit its history", view.name)).caused_by(source))
    }
}

/// What a write did.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Rows written.
    pub rows: u64,
    /// What the client should know although the write succeeded.
    pub warnings: Vec<Error>,
}

/// The stores a write goes to, and the clock that stamps it.
#[derive(Clone, Debug)]
struct Stores {
    offline: SharedOfflineStore,
    online: Arc<OnlineViews>,
    clock: Arc<dyn Clock>,
}

/// The write path, shared by all sessions of a gateway.
pub struct Ingest {
    stores: Stores,
    relations: Mutex<HashMap<ObjectId, Arc<Relation>>>,
    checks: Mutex<HashMap<ObjectId, Arc<Checks>>>,
    /// Where writes of many rows run; `None` where their callers are.
    long_work: Option<Handle>,
    /// Held by the one catch-up under way; the present of the last one.
    caught_up: tokio::sync::Mutex<Option<CommitTime>>,
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingest").field("stores", &self.stores).finish_non_exhaustive()
    }
}

impl Ingest {
    /// A write path into these stores.
    pub fn new(offline: SharedOfflineStore, online: Arc<OnlineViews>, clock: Arc<dyn Clock>) -> Self {
        Self {
            stores: Stores { offline, online, clock },
            relations: Mutex::default(),
            checks: Mutex::default(),
            long_work: None,
            caught_up: tokio::sync::Mutex::default(),
        }
    }

    /// The same, with writes of many rows on another runtime than their callers'.
    pub fn with_long_work_on(self, runtime: Handle) -> Self {
        Self { long_work: Some(runtime), ..self }
    }

    /// Checks rows against the relation they are for: columns by name, types by assignment, keys and event times not NULL,
    /// `CHECK`s. All rows or none; the error names row and column. A missing event time is the present; other missing columns are
    /// NULL. Text is parsed as the column's type.
    pub fn validate(&self, target: &Target, rows: &RecordBatch, intake: &Intake) -> Result<ValidBatch> {
        let intaker = Intaker { target: target.clone(), checks: self.checks_of(target)? };
        if rows.num_rows() < BLOCKING_ROWS_MIN {
            return intaker.validate(rows, intake);
        }
        at_length(|| intaker.validate(rows, intake))
    }

    fn checks_of(&self, target: &Target) -> Result<Option<Arc<Checks>>> {
        match target {
            Target::View(view) => self.checks(view).map(Some),
            Target::Table(_) => Ok(None),
        }
    }

    fn checks(&self, view: &FeatureView) -> Result<Arc<Checks>> {
        let kept = self.checks.lock().get(&view.id).cloned();
        match kept {
            Some(checks) => Ok(checks),
            None => {
                let checks = Arc::new(Checks::new(view)?);
                self.checks.lock().insert(view.id, checks.clone());
                Ok(checks)
            }
        }
    }

    /// Whether the `CHECK` conditions of a view that is about to be made can be judged; the error says what is wrong with them.
    pub fn check_conditions(view: &FeatureView) -> Result<()> {
        Checks::new(view).map(drop)
    }

    /// Writes batches: durable when this returns, atomic per relation, visible to the next lookup.
    pub async fn write(&self, batches: Vec<ValidBatch>) -> Result<Written> {
        let rows: usize = batches.iter().map(ValidBatch::len).sum();
        let mut relations: BTreeMap<ObjectId, Vec<ValidBatch>> = BTreeMap::new();
        for batch in batches.into_iter().filter(|batch| !batch.is_empty()) {
            relations.entry(batch.target.id()).or_default().push(batch);
        }
        let writes = relations.into_values().map(|batches| self.relation(&batches[0].target).write(&self.stores, batches));
        let mut written = Written { rows: rows as u64, warnings: Vec::new() };
        for outcome in join_all(writes).await {
            written.warnings.extend(outcome?);
        }
        Ok(written)
    }

    /// Checks and writes rows as they come, as one commit of any size: durable when this returns, all rows or none, visible to the
    /// next lookup. Few rows share a commit with others; many are staged, in memory that does not grow with them.
    pub async fn write_stream(&self, target: &Target, rows: BatchStream, intake: Intake) -> Result<Written> {
        match gather(rows).await? {
            Gathered::All(rows) => self.write(vec![self.validate(target, &rows, &intake)?]).await,
            Gathered::Nothing => Ok(Written::default()),
            Gathered::More(come, coming) => {
                let intaker = Intaker { target: target.clone(), checks: self.checks_of(target)? };
                let rows = streams::iter(come.into_iter().map(Ok)).chain(coming).boxed();
                let (stores, relation) = (self.stores.clone(), self.relation(target));
                self.elsewhere(async move {
                    let (staged, rows) = stage(&stores, intaker, intake, rows).await?;
                    let warning = relation.write_staged(&stores, staged).await?;
                    Ok(Written { rows, warnings: warning.into_iter().collect() })
                })
                .await
            }
        }
    }

    /// Does long work on the runtime for it. Dropped, it stops.
    async fn elsewhere(&self, work: impl Future<Output = Result<Written>> + Send + 'static) -> Result<Written> {
        let Some(runtime) = &self.long_work else { return work.await };
        let mut started = JoinSet::new();
        started.spawn_on(work, runtime);
        let ended = started.join_next().await.unwrap_or_else(|| Ok(Err(Error::internal("no write was begun"))));
        ended.map_err(|source| Error::internal("a write broke off").caused_by(source))?
    }

    fn relation(&self, target: &Target) -> Arc<Relation> {
        self.relations.lock().entry(target.id()).or_insert_with(|| Relation::new(target)).clone()
    }

    /// Makes the stores ready for a relation that the registry has just got.
    pub async fn create(&self, target: &Target) -> Result<()> {
        let (dataset, schema) = match target {
            Target::View(view) => (Dataset::History(view.id), history_schema(view)),
            Target::Table(table) => (Dataset::Table(table.id), table.schema()),
        };
        self.stores.offline.create(dataset, schema).await?;
        if let Target::View(view) = target
            && view.online
        {
            // Where the online store cannot be reached, the next catch-up makes the view ready.
            let caught_up = catch_up::view(&self.stores, view, self.stores.clock.now().as_event_time()).await;
            if let Err(error) = caught_up {
                tracing::warn!(view = %view.name, %error, "online store not ready");
            }
        }
        Ok(())
    }

    /// Forgets a relation that the registry has just lost.
    pub async fn remove(&self, target: &Target) -> Result<()> {
        let id = target.id();
        self.relations.lock().remove(&id);
        self.checks.lock().remove(&id);
        let dataset = match target {
            Target::View(_) => Dataset::History(id),
            Target::Table(_) => Dataset::Table(id),
        };
        self.stores.offline.remove(dataset).await?;
        if matches!(target, Target::View(_))
            && let Err(error) = self.stores.online.forget(id).await
        {
            // The number is never used again: what stays in the store is dead weight, not a wrong answer.
            tracing::warn!(relation = target.name(), %error, "online rows left behind");
        }
        Ok(())
    }

    /// Rewrites the whole history of a view as one order by keys and times. Changes no answer, and holds nobody up.
    pub async fn optimize(&self, view: &FeatureView) -> Result<()> {
        let history = Dataset::History(view.id);
        self.stores.offline.cluster(history, &history_order(view), Extent::Whole).await.map(drop)
    }

    /// Forgets the online rows of a view and builds them anew. Its lookups read the offline store meanwhile, on every gateway.
    pub async fn rebuild_online(&self, view: &FeatureView) -> Result<()> {
        let _alone = self.caught_up.lock().await;
        self.stores.online.forget(view.id).await?;
        catch_up::view(&self.stores, view, self.stores.clock.now().as_event_time()).await
    }

    /// Compares the online rows of a view with its history, row by row; see [`Audit`]. Changes nothing.
    pub async fn audit(&self, view: &FeatureView, progress: &(dyn Fn(AuditStep) + Sync)) -> Result<Audit> {
        audit::view(&self.stores, view, progress).await
    }

    /// Keeps the files of every stored relation few, where small commits have made them many; one look each where they have not.
    /// A relation that cannot be maintained, because it has been dropped since, for one, does not keep the others from it: such
    /// relations are given, each with its error.
    pub async fn maintain(&self, registry: &Registry) -> Vec<(ObjectId, Error)> {
        let views = registry.views.values().map(|view| (view.id, Dataset::History(view.id), history_order(view)));
        let tables = registry.tables.values().filter(|table| table.source == TableSource::Stored);
        let mut failures = Vec::new();
        for (id, dataset, order) in views.chain(tables.map(|table| (table.id, Dataset::Table(table.id), Vec::new()))) {
            if let Err(error) = self.stores.offline.cluster(dataset, &order, Extent::Tail).await {
                failures.push((id, error));
            }
        }
        failures
    }

    /// Removes from the store what nobody can read any more, and older versions than `retention` keeps, where there is one: those
    /// that had a successor so long ago, and that no tag names. Answers for past system times stay: they do not come from older
    /// versions. A relation that cannot be tidied does not keep the others from it: such relations are given, each with its error.
    pub async fn tidy(&self, registry: &Registry, retention: Option<Ttl>) -> Vec<(ObjectId, Error)> {
        let now = self.stores.clock.now().as_event_time();
        let since = Ttl::oldest(retention, now).map(|since| CommitTime::from_micros(since.micros()));
        let views =
            registry.views.values().map(|view| (view.id, Dataset::History(view.id), view.tags.values().copied().collect()));
        let tables = registry.tables.values().filter(|table| table.source == TableSource::Stored);
        let mut failures = Vec::new();
        for (id, dataset, tagged) in views.chain(tables.map(|table| (table.id, Dataset::Table(table.id), Vec::new()))) {
            let retention = since.map(|since| Retention { since, tagged });
            if let Err(error) = self.stores.offline.tidy(dataset, retention.as_ref()).await {
                failures.push((id, error));
            }
        }
        failures
    }

    /// Brings the online store up to the offline store for every view of `registry`: builds what is missing, replays what was
    /// committed since, and keeps the rows whose time has not come. Called at start, and again and again while serving.
    /// A view that cannot be caught up does not keep the others from it; the first error is given.
    pub async fn catch_up(&self, registry: &Registry) -> Result<()> {
        let mut last = self.caught_up.lock().await;
        let now = self.stores.clock.now();
        // A clock set back would leave rows of the future in the online store, in the place of those that answer now.
        let set_back = last.is_some_and(|last| now < last);
        *last = Some(now);
        let mut first_error = None;
        for view in registry.views.values().filter(|view| view.online) {
            let caught_up = async {
                if set_back {
                    self.stores.online.forget(view.id).await?;
                }
                catch_up::view(&self.stores, view, now.as_event_time()).await
            };
            if let Err(error) = caught_up.await {
                // What is known of the rows stays true while the store cannot be asked.
                if error.code() != SqlState::IoError {
                    self.stores.online.set_unready(view.id);
                }
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
