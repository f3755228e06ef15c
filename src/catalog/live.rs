//! System relations whose rows are looked up when they are read: how the stores are at this moment.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::max;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;

use super::Scope;
use super::definition::SystemRelation;
use super::rows::{Rows, schema_of};
use super::value::Value;
use crate::error::{Error, Result, SqlState};
use crate::offline::{Dataset, Scan};
use crate::online::ViewState;
use crate::planner::StatementContext;
use crate::registry::FeatureView;
use crate::time::DatasetVersion;

/// A relation of `tidegate` that is looked up when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    OnlineStore,
    Freshness,
}

/// The provider of a relation that is looked up when it is read; `None` for all others.
pub(super) fn provider(
    scope: &Arc<Scope>,
    schema: &str,
    name: &str,
    relation: &SystemRelation,
) -> Option<Arc<dyn TableProvider>> {
    let kind = match (schema, name) {
        ("tidegate", "online_store") => Kind::OnlineStore,
        ("tidegate", "freshness") => Kind::Freshness,
        _ => return None,
    };
    Some(Arc::new(LiveTable { scope: Arc::clone(scope), kind, relation: relation.clone(), schema: schema_of(relation) }))
}

struct LiveTable {
    scope: Arc<Scope>,
    kind: Kind,
    relation: SystemRelation,
    schema: SchemaRef,
}

impl fmt::Debug for LiveTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveTable({:?})", self.kind)
    }
}

impl TableProvider for LiveTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    /// Written out by hand: a future that borrows expressions takes the compiler seconds to prove `Send`.
    fn scan<'life0, 'life1, 'life2, 'life3, 'async_trait>(
        &'life0 self,
        session: &'life1 dyn Session,
        projection: Option<&'life2 Vec<usize>>,
        _filters: &'life3 [Expr],
        limit: Option<usize>,
    ) -> Pin<Box<dyn Future<Output = DfResult<Arc<dyn ExecutionPlan>>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        'life3: 'async_trait,
        Self: 'async_trait,
    {
        let wanted: Vec<String> = match projection {
            Some(columns) => columns.iter().map(|column| self.schema.field(*column).name().clone()).collect(),
            None => self.schema.fields().iter().map(|field| field.name().clone()).collect(),
        };
        Box::pin(async move {
            let batch = self.rows(&wanted).await.map_err(|error| DataFusionError::External(Box::new(error)))?;
            MemTable::try_new(Arc::clone(&self.schema), vec![vec![batch]])?.scan(session, projection, &[], limit).await
        })
    }
}

impl LiveTable {
    async fn rows(&self, wanted: &[String]) -> Result<RecordBatch> {
        let mut rows = Rows::new(&self.relation);
        match self.kind {
            Kind::OnlineStore => online_store(&mut rows, &self.scope.context).await?,
            Kind::Freshness => {
                let reads =
                    Reads { history: wants(wanted, &["newest_event_time", "rows"]), online: wants(wanted, &["keys", "expired"]) };
                for view in self.scope.snapshot.registry.views.values() {
                    freshness(&mut rows, &self.scope.context, view, reads).await?;
                }
            }
        }
        rows.finish()
    }
}

fn wants(wanted: &[String], columns: &[&str]) -> bool {
    wanted.iter().any(|name| columns.contains(&name.as_str()))
}

async fn online_store(rows: &mut Rows<'_>, context: &StatementContext) -> Result<()> {
    let status = context.stores.online.store().status().await;
    let metrics = &context.stores.metrics;
    let count = |number: Option<u64>| Value::from(number.and_then(|number| i64::try_from(number).ok()));
    let milliseconds = |time: Option<Duration>| time.map_or(Value::Null, |time| Value::Float(time.as_secs_f64() * 1e3));
    rows.add([
        ("kind", status.kind.into()),
        ("address", status.address.into()),
        ("version", status.version.into()),
        ("connected", status.connected.into()),
        ("obstacle", status.obstacle.into()),
        ("memory_bytes", count(status.memory_bytes)),
        ("keys", count(status.keys)),
        ("latency_p50_ms", milliseconds(status.latency_p50)),
        ("latency_p99_ms", milliseconds(status.latency_p99)),
        ("lookups_short", count(Some(metrics.lookups_short.get()))),
        ("lookups_planned", count(Some(metrics.lookups_planned.get()))),
    ])
}

/// What has to be read for the columns that are wanted.
#[derive(Clone, Copy)]
struct Reads {
    history: bool,
    online: bool,
}

async fn freshness(rows: &mut Rows<'_>, context: &StatementContext, view: &FeatureView, reads: Reads) -> Result<()> {
    let (offline, online) = (&context.stores.offline, &context.stores.online);
    let history = Dataset::History(view.id);
    // In this order: what was applied is never ahead of what was committed.
    let applied = if view.online { present(online.store().applied(view.id).await)?.flatten() } else { None };
    let newest = offline.latest(history).await?;
    let mut cells = vec![
        ("feature_view", Value::from(view.name.as_str())),
        ("online", view.online.into()),
        ("newest_version", version(newest.version)),
    ];
    // The commit that made the view learned nothing.
    if newest.created_time.micros() > 0 {
        cells.push(("newest_commit", Value::Instant(newest.created_time.micros())));
    }
    if view.online {
        let state = match online.state(view.id) {
            ViewState::Ready => "ready",
            ViewState::Rebuilding => "rebuilding",
            ViewState::Away => "away",
        };
        cells.push(("state", state.into()));
    }
    if let Some(applied) = applied {
        cells.push(("applied_version", version(applied)));
        cells.push(("lag_commits", Value::from(i64::try_from(newest.version.0.saturating_sub(applied.0)).ok())));
        let missing = match applied < newest.version {
            true => offline.commit_of(history, DatasetVersion(applied.0 + 1)).await?.or(Some(newest)),
            false => None,
        };
        let lag = missing.map_or(0, |missing| (context.now.micros() - missing.created_time.micros()).max(0));
        cells.push(("lag_seconds", Value::Float(lag as f64 / 1e6)));
    }
    if reads.history {
        let (count, newest_event_time) = history_extent(context, view, newest.version).await?;
        cells.push(("rows", count.into()));
        cells.push(("newest_event_time", newest_event_time.map_or(Value::Null, Value::Instant)));
    }
    if reads.online
        && applied.is_some()
        && let Some(census) = present(online.census(view, context.now.as_event_time()).await)?
    {
        cells.push(("keys", Value::from(i64::try_from(census.keys).ok())));
        cells.push(("expired", Value::from(i64::try_from(census.expired).ok())));
    }
    rows.extend(cells)
}

fn version(version: DatasetVersion) -> Value {
    Value::from(i64::try_from(version.0).ok())
}

/// What the online store says; nothing where it cannot be asked, which is no reason not to show the rest.
fn present<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Err(error) if error.code() == SqlState::IoError => Ok(None),
        answer => answer.map(Some),
    }
}

/// How many rows a version of the history has, and the newest event time among them.
async fn history_extent(context: &StatementContext, view: &FeatureView, version: DatasetVersion) -> Result<(i64, Option<i64>)> {
    let scan = Scan { columns: vec![view.event_time.clone()], ..Scan::default() };
    let mut batches = context.stores.offline.scan(Dataset::History(view.id), version, scan).await?;
    let (mut count, mut newest) = (0, None);
    while let Some(batch) = batches.try_next().await? {
        count += i64::try_from(batch.num_rows()).map_err(|_too_many| Error::internal("too many rows in one batch"))?;
        newest = newest.max(max(batch.column(0).as_primitive::<TimestampMicrosecondType>()));
    }
    Ok((count, newest))
}
