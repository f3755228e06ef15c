//! The relations that a query reads, as DataFusion sees them: one provider type for all of them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::StatementContext;
use super::as_of_source::AsOfSourceExec;
use super::keys::BoundKeys;
use super::moment::{At, Moment, refuse_future};
use super::route::{Facts, KeysBound, Route, Tense, route};
use crate::error::{Error, Result, SqlState};
use crate::executor::{
    DatasetReader, DatasetScanExec, EntityColumn, KeySet, KeyedView, LookupSpec, OnlineLookupExec, SnapshotExec, SnapshotSpec,
};
use crate::offline::{CREATED_TIME, Dataset, Predicate, history_schema};
use crate::online::ViewState;
use crate::registry::{FeatureView, KeyColumn, Table};
use crate::time::{DatasetVersion, EventTime};
use crate::types::SqlType;

/// What a provider gives.
#[derive(Clone, Debug)]
enum Relation {
    View(Arc<FeatureView>, Moment),
    History(Arc<FeatureView>),
    Stored(Arc<Table>),
}

/// A relation as one statement sees it.
pub(super) struct RelationProvider {
    context: Arc<StatementContext>,
    relation: Relation,
    /// Whether a join asks for the keys of its rows.
    asked: bool,
    schema: SchemaRef,
}

impl fmt::Debug for RelationProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelationProvider({:?})", self.relation)
    }
}

/// A feature view: one row per entity, as of now.
pub fn feature_view(context: &Arc<StatementContext>, view: &Arc<FeatureView>) -> Arc<dyn TableProvider> {
    Arc::new(RelationProvider::view(context, view, Moment::of_session(context, view)))
}

/// `history.v`: every row ever written, with its commit time in the last column. A retraction shows as a row whose features
/// are all NULL.
pub fn history(context: &Arc<StatementContext>, view: &Arc<FeatureView>) -> Arc<dyn TableProvider> {
    let mut fields = view.schema().fields().to_vec();
    fields.push(SqlType::TimestampTz.field_ref(CREATED_TIME, false));
    let schema = Arc::new(Schema::new(fields));
    Arc::new(RelationProvider {
        context: Arc::clone(context),
        relation: Relation::History(Arc::clone(view)),
        asked: false,
        schema,
    })
}

/// A table whose rows are in the store.
pub fn stored_table(context: &Arc<StatementContext>, table: &Arc<Table>) -> Arc<dyn TableProvider> {
    let relation = Relation::Stored(Arc::clone(table));
    Arc::new(RelationProvider { context: Arc::clone(context), relation, asked: false, schema: table.schema() })
}

impl RelationProvider {
    /// A view at a moment.
    pub(super) fn view(context: &Arc<StatementContext>, view: &Arc<FeatureView>, moment: Moment) -> Self {
        let relation = Relation::View(Arc::clone(view), moment);
        Self { context: Arc::clone(context), relation, asked: false, schema: view.schema() }
    }

    /// The feature view, and when it is read; `None` for other relations.
    pub(super) fn as_view(&self) -> Option<(&Arc<FeatureView>, Moment)> {
        match &self.relation {
            Relation::View(view, moment) => Some((view, *moment)),
            Relation::History(_) | Relation::Stored(_) => None,
        }
    }

    /// The same view, read by a join that asks for the keys of its rows.
    pub(super) fn asked(&self) -> Self {
        let (context, relation, schema) = (Arc::clone(&self.context), self.relation.clone(), Arc::clone(&self.schema));
        Self { context, relation, asked: true, schema }
    }

    /// Whether a join asks for the keys of its rows.
    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    /// Whether the online store answers for a view if all keys are bound; not for other relations.
    pub(super) fn is_online_by_key(&self) -> bool {
        match &self.relation {
            Relation::View(view, moment) => is_online_by_key(&self.context, view, *moment),
            Relation::History(_) | Relation::Stored(_) => false,
        }
    }

    /// The view whose whole history this is, and that history as only an as-of join may read it, with the same columns;
    /// `None` for other relations.
    pub(super) fn as_history(&self) -> Option<(Arc<FeatureView>, Self)> {
        match &self.relation {
            Relation::History(view) => {
                // A history has no TTL.
                let moment = Moment { at: At::OfMatch(None), window: None, known_at: None, version: None };
                let relation = Relation::View(Arc::clone(view), moment);
                let schema = Arc::clone(&self.schema);
                Some((Arc::clone(view), Self { context: Arc::clone(&self.context), relation, asked: false, schema }))
            }
            Relation::View(..) | Relation::Stored(_) => None,
        }
    }
}

impl TableProvider for RelationProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        let support = match &self.relation {
            // Its rows are chosen by the join, and no filter is to choose others.
            _ if self.asked => vec![TableProviderFilterPushDown::Unsupported; filters.len()],
            // A filter on a feature never goes below the choice of the row: it would revive an older one.
            Relation::View(view, Moment { at: At::Present | At::Instant(_) | At::Commit, .. }) => {
                key_support(&view.keys, filters, Exactness::IfWhole)?
            }
            Relation::View(_, Moment { at: At::OfLeftRow(_) | At::OfMatch(_), .. }) | Relation::Stored(_) => {
                vec![TableProviderFilterPushDown::Unsupported; filters.len()]
            }
            Relation::History(view) => {
                let mut support = key_support(&view.keys, filters, Exactness::Never)?;
                for (support, filter) in support.iter_mut().zip(filters) {
                    if event_time_bound(view, filter).is_some() {
                        *support = TableProviderFilterPushDown::Inexact;
                    }
                }
                support
            }
        };
        Ok(support)
    }

    /// Written out by hand: a future that borrows expressions takes the compiler seconds to prove `Send`.
    fn scan<'life0, 'life1, 'life2, 'life3, 'async_trait>(
        &'life0 self,
        _session: &'life1 dyn Session,
        projection: Option<&'life2 Vec<usize>>,
        filters: &'life3 [Expr],
        _limit: Option<usize>,
    ) -> Pin<Box<dyn Future<Output = DfResult<Arc<dyn ExecutionPlan>>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        'life3: 'async_trait,
        Self: 'async_trait,
    {
        let projection = projection.map_or_else(|| (0..self.schema.fields().len()).collect(), Clone::clone);
        let planned = Request::new(self, projection, filters);
        Box::pin(async move { plan_scan(planned?).await.map_err(|error| DataFusionError::External(Box::new(error))) })
    }
}

/// A scan to plan, free of expressions.
struct Request {
    context: Arc<StatementContext>,
    relation: Relation,
    asked: bool,
    projection: Vec<usize>,
    columns: Vec<String>,
    keys: Option<BoundKeys>,
    event_times: Vec<Predicate>,
}

impl Request {
    fn new(provider: &RelationProvider, projection: Vec<usize>, filters: &[Expr]) -> DfResult<Self> {
        let columns = projection.iter().map(|column| provider.schema.field(*column).name().clone()).collect();
        let mut event_times = Vec::new();
        let keys = match &provider.relation {
            Relation::View(view, _) | Relation::History(view) => {
                event_times.extend(filters.iter().filter_map(|filter| event_time_bound(view, filter)));
                let filters: Vec<&Expr> = filters.iter().collect();
                Some(BoundKeys::of(&view.keys, &filters).map_err(|error| DataFusionError::External(Box::new(error)))?)
            }
            Relation::Stored(_) => None,
        };
        let relation = provider.relation.clone();
        let (context, asked) = (Arc::clone(&provider.context), provider.asked);
        Ok(Self { context, relation, asked, projection, columns, keys, event_times })
    }
}

async fn plan_scan(request: Request) -> Result<Arc<dyn ExecutionPlan>> {
    let context = Arc::clone(&request.context);
    match request.relation.clone() {
        Relation::View(view, moment) => match moment.at {
            At::OfLeftRow(_) | At::OfMatch(_) => {
                told(&context, moment)?;
                let reader = open_history(&context, &view, moment.version).await?;
                Ok(Arc::new(AsOfSourceExec::new(view, reader, request.projection, moment.window)?))
            }
            At::Present if request.asked => {
                told(&context, moment)?;
                let keys = no_keys(&view.keys);
                lookup_view(&context, view, keys, &request.projection)
            }
            At::Present | At::Instant(_) | At::Commit => plan_view(request, view, moment).await,
        },
        Relation::History(view) => {
            let reader = open_history(&context, &view, None).await?;
            let mut predicates = request.event_times;
            if let Some(known_at) = context.system_time {
                refuse_future(known_at, context.now)?;
                let column = CREATED_TIME.to_owned();
                predicates.push(Predicate::EventTime { column, min: None, max: Some(known_at.as_event_time()) });
            }
            if let Some(bound) = &request.keys {
                predicates.extend(key_predicates(&view, &view.keys, bound)?);
            }
            let relation = format!("history.{}", view.name);
            Ok(Arc::new(DatasetScanExec::new(relation, reader, request.columns, predicates)?))
        }
        Relation::Stored(table) => {
            let dataset = Dataset::Table(table.id);
            let reader = DatasetReader::open(dataset, table.schema(), &context.stores, &context.pins, &context.held).await?;
            Ok(Arc::new(DatasetScanExec::new(table.name.clone(), reader, request.columns, Vec::new())?))
        }
    }
}

async fn plan_view(request: Request, view: Arc<FeatureView>, moment: Moment) -> Result<Arc<dyn ExecutionPlan>> {
    let context = &request.context;
    let bound = match &request.keys {
        Some(bound) if bound.is_whole() => Some(bound.key_set(&view.keys)?),
        _ => None,
    };
    let keys_bound = if bound.is_some() { KeysBound::All } else { KeysBound::NotAll };
    match (choose(context, &view, moment.tense(), keys_bound)?, bound) {
        (Route::Online, Some(keys)) => lookup_view(context, view, keys, &request.projection),
        (Route::Online | Route::Offline, keys) => {
            let predicates = match (&keys, &request.keys) {
                (None, Some(bound)) => key_predicates(&view, &view.keys, bound)?,
                _ => Vec::new(),
            };
            snapshot(context, view, moment, keys, predicates, request.projection).await
        }
    }
}

/// A view's rows at a moment that is not that of a left row.
pub(super) async fn snapshot(
    context: &StatementContext,
    view: Arc<FeatureView>,
    moment: Moment,
    keys: Option<KeySet>,
    predicates: Vec<Predicate>,
    projection: Vec<usize>,
) -> Result<Arc<dyn ExecutionPlan>> {
    told(context, moment)?;
    let at = match moment.at {
        At::Present => Some(context.now.as_event_time()),
        At::Instant(at) => at,
        At::Commit => Some(commit_time(context, &view, moment.version).await?),
        At::OfLeftRow(_) | At::OfMatch(_) => return Err(Error::internal("a snapshot at a left row's instant")),
    };
    let reader = open_history(context, &view, moment.version).await?;
    let (window, known_at) = (moment.window, moment.known_at);
    Ok(Arc::new(SnapshotExec::new(SnapshotSpec { view, reader, at, window, known_at, keys, predicates, projection })?))
}

/// Refuses to tell what will be known.
fn told(context: &StatementContext, moment: Moment) -> Result<()> {
    moment.known_at.map_or(Ok(()), |known_at| refuse_future(known_at, context.now))
}

/// Whether the online store answers for a view that is read now and whose keys are all bound. What the session insists on and
/// cannot have is told where the view is read.
pub(super) fn is_online_by_key(context: &StatementContext, view: &FeatureView, moment: Moment) -> bool {
    let is_present = moment == Moment { at: At::Present, window: view.ttl, known_at: None, version: None };
    is_present && matches!(choose(context, view, Tense::Present, KeysBound::All), Ok(Route::Online))
}

/// Where a view is read.
pub(super) fn choose(context: &StatementContext, view: &FeatureView, tense: Tense, keys: KeysBound) -> Result<Route> {
    route(&Facts {
        view: &view.name,
        setting: context.route,
        tense,
        keys,
        kept_online: view.online,
        // One that is away is asked all the same: the lookup fails at once, or falls back, as the session prefers.
        ready: context.stores.online.state(view.id) != ViewState::Rebuilding,
        rows_held: context.held.get(&view.id).is_some_and(|rows| rows.iter().any(|batch| batch.num_rows() > 0)),
        versions_pinned: context.pinned,
    })
}

/// The keys of a lookup that a join will name.
pub(super) fn no_keys(parts: &[KeyColumn]) -> KeySet {
    let columns = parts.iter().map(|part| arrow::array::new_empty_array(&part.data_type.arrow())).collect();
    KeySet { columns, len: 0 }
}

/// A lookup in one view.
fn lookup_view(
    context: &StatementContext,
    view: Arc<FeatureView>,
    keys: KeySet,
    projection: &[usize],
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = view.schema().project(projection).map_err(|error| Error::internal("no such column").caused_by(error))?;
    let own = view.keys.len();
    let column = |column: &usize| match *column {
        key if key < own => EntityColumn::Key(key),
        column => EntityColumn::Of { view: 0, column },
    };
    let columns = projection.iter().map(column).collect();
    let parts = view.keys.clone();
    let views = vec![KeyedView { view, places: (0..own).collect() }];
    Ok(lookup(context, views, (parts, keys), columns, Arc::new(schema)))
}

/// A lookup in these views, in the present.
pub(super) fn lookup(
    context: &StatementContext,
    views: Vec<KeyedView>,
    (parts, keys): (Vec<KeyColumn>, KeySet),
    columns: Vec<EntityColumn>,
    schema: SchemaRef,
) -> Arc<dyn ExecutionPlan> {
    Arc::new(OnlineLookupExec::new(LookupSpec {
        views,
        parts,
        keys,
        at: context.now.as_event_time(),
        columns,
        schema,
        stores: context.stores.clone(),
        fallback: context.online_fallback,
        pins: Arc::clone(&context.pins),
    }))
}

/// The history of a view, as the statement sees it or at a version that it names.
async fn open_history(context: &StatementContext, view: &FeatureView, version: Option<DatasetVersion>) -> Result<DatasetReader> {
    let dataset = Dataset::History(view.id);
    match version {
        None => DatasetReader::open(dataset, history_schema(view), &context.stores, &context.pins, &context.held).await,
        Some(version) => {
            commit_time(context, view, Some(version)).await?;
            Ok(DatasetReader::at_version(dataset, version, history_schema(view), &context.stores))
        }
    }
}

/// When a version of a view was committed. One that is not there is `22023`.
async fn commit_time(context: &StatementContext, view: &FeatureView, version: Option<DatasetVersion>) -> Result<EventTime> {
    let dataset = Dataset::History(view.id);
    let version = version.ok_or_else(|| Error::internal("a version's time without a version"))?;
    match context.stores.offline.commit_of(dataset, version).await? {
        Some(commit) => Ok(commit.created_time.as_event_time()),
        None => {
            let newest = context.stores.offline.latest(dataset).await?.version;
            if (DatasetVersion(1)..newest).contains(&version) {
                let earliest = context.stores.offline.earliest(dataset).await?;
                let message = format!("feature view \"{}\" no longer has version {version}", view.name);
                return Err(Error::new(SqlState::InvalidParameterValue, message)
                    .hint(format!("The earliest version that is kept is {earliest}.")));
            }
            Err(Error::new(SqlState::InvalidParameterValue, format!("feature view \"{}\" has no version {version}", view.name))
                .hint(format!("Its newest version is {newest}.")))
        }
    }
}

/// Conditions on single key columns of a view that follow from what the filters bind of `keys`.
pub(super) fn key_predicates(view: &FeatureView, keys: &[KeyColumn], bound: &BoundKeys) -> Result<Vec<Predicate>> {
    let columns = bound.columns(keys)?.into_iter().map(|(place, values)| (keys[place].name.clone(), values));
    let own = columns.filter(|(name, _)| view.keys.iter().any(|key| key.name == *name));
    Ok(own.map(|(name, values)| in_list(name, values)).collect())
}

fn in_list(column: String, values: ArrayRef) -> Predicate {
    Predicate::In { column, values }
}

/// Whether what was understood of a filter needs no second look.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Exactness {
    /// It needs none where the whole key is bound.
    IfWhole,
    /// It always does.
    Never,
}

/// What may be left to a scan that reads the rows of `keys`.
pub(super) fn key_support(
    keys: &[KeyColumn],
    filters: &[&Expr],
    exactness: Exactness,
) -> DfResult<Vec<TableProviderFilterPushDown>> {
    let bound = BoundKeys::of(keys, filters).map_err(|error| DataFusionError::External(Box::new(error)))?;
    let exact = exactness == Exactness::IfWhole && bound.is_whole();
    let support = |used: &bool| match (*used, exact) {
        (false, _) => TableProviderFilterPushDown::Unsupported,
        (true, true) => TableProviderFilterPushDown::Exact,
        (true, false) => TableProviderFilterPushDown::Inexact,
    };
    Ok(bound.used.iter().map(support).collect())
}

/// The range of event times that a filter leaves, where it says nothing else. Bounds are taken inclusive, because the
/// filter is judged again above.
fn event_time_bound(view: &FeatureView, filter: &Expr) -> Option<Predicate> {
    let column = view.event_time.clone();
    let instant = |expr: &Expr| match expr {
        Expr::Literal(ScalarValue::TimestampMicrosecond(Some(micros), Some(_)), _) => Some(EventTime::from_micros(*micros)),
        _ => None,
    };
    match filter {
        Expr::Between(between) if !between.negated && is_column(&between.expr, &column) => {
            let (min, max) = (Some(instant(&between.low)?), Some(instant(&between.high)?));
            Some(Predicate::EventTime { column, min, max })
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (at, op) = match (is_column(left, &column), is_column(right, &column)) {
                (true, _) => (instant(right)?, *op),
                (_, true) => (instant(left)?, op.swap()?),
                _ => return None,
            };
            let (min, max) = match op {
                Operator::Eq => (Some(at), Some(at)),
                Operator::Lt | Operator::LtEq => (None, Some(at)),
                Operator::Gt | Operator::GtEq => (Some(at), None),
                _ => return None,
            };
            Some(Predicate::EventTime { column, min, max })
        }
        _ => None,
    }
}

fn is_column(expr: &Expr, name: &str) -> bool {
    matches!(expr, Expr::Column(column) if column.name == name)
}
