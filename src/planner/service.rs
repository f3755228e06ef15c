//! Feature services: one virtual table over several feature views.
//!
//! A service is planned as a view is: where it is named, its query stands in its place. What differs is the relation below: a
//! [`ServiceScan`] that has the keys of all entities and, side by side, the columns of the members, and that can be read by key
//! in one round trip. An as-of join has a side for each member instead (`service_join`). The expressions are computed above, by
//! the same code each time.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, TableReference};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::{
    Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, TableScan, TableSource, TableType, Volatility,
};
use datafusion::physical_plan::ExecutionPlan;

use super::StatementContext;
use super::correlated::when;
use super::errors::from_datafusion;
use super::instant::contains_subquery;
use super::moment::{At, Moment};
use super::provider::RelationProvider;
use super::service_scan::{ServiceScan, column_name};
use crate::error::{Error, Result, SqlState};
use crate::registry::{FeatureService, FeatureView, ObjectId};

/// The feature views that the query of a service reads, by name. An error where it is not a query that a service can have:
/// members are feature views, what it selects depends on their rows alone.
pub fn service_members(plan: &LogicalPlan) -> Result<Vec<String>> {
    let (members, expressions) = parts(plan)?;
    for expression in &expressions {
        if contains_subquery(expression) {
            return Err(refused("a subquery"));
        }
        let varies = expression.exists(|expr| {
            Ok(matches!(expr, Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable))
        });
        if varies.map_err(from_datafusion)? {
            return Err(Error::unsupported("a function of the time or the session in a feature service").hint(
                "What a service selects depends on the rows of its feature views alone, so that it means the same at any time.",
            ));
        }
    }
    let mut names: Vec<String> = Vec::new();
    for member in members {
        if !names.contains(&member.view.name) {
            names.push(member.view.name.clone());
        }
    }
    Ok(names)
}

/// A feature service: a row for each entity, or combination of entities, that has a live row in any of its views, as of now.
/// `plan` is that of its query.
pub fn feature_service(
    context: &Arc<StatementContext>,
    definition: &Arc<FeatureService>,
    plan: &LogicalPlan,
) -> Result<Arc<dyn TableProvider>> {
    let (members, expressions) = parts(plan)?;
    if expressions.len() != definition.columns.len() {
        let message = format!("the query of feature service \"{}\" has other columns than the service", definition.name);
        return Err(Error::new(SqlState::InvalidTableDefinition, message).hint("Make the service again."));
    }
    let service = Service { context: Arc::clone(context), definition: Arc::clone(definition), members, expressions };
    let plan = service.rows().map_err(from_datafusion)?;
    Ok(Arc::new(ServiceTable { service, plan: Some(plan) }))
}

/// A feature view in a service, and when it is read.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// Its name in the query.
    pub(super) reference: TableReference,
    pub(super) view: Arc<FeatureView>,
    pub(super) moment: Moment,
}

impl Member {
    /// Where its keys stand among those of the service.
    pub(super) fn places(&self, definition: &FeatureService) -> Result<Vec<usize>> {
        let place = |name: &String| definition.keys.iter().position(|key| key.name == *name);
        let places = self.view.keys.iter().map(|key| place(&key.name)).collect::<Option<_>>();
        places.ok_or_else(|| Error::internal(format!("feature service \"{}\" lacks a key of a member", definition.name)))
    }
}

/// A feature service as one statement sees it.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) context: Arc<StatementContext>,
    pub(super) definition: Arc<FeatureService>,
    pub(super) members: Vec<Member>,
    /// What it selects, over the members' columns.
    pub(super) expressions: Vec<Expr>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({})", self.definition.name)
    }
}

impl Service {
    /// The service that a name stands for.
    pub(super) fn of_source(source: &Arc<dyn TableSource>) -> Option<Self> {
        let provider = source_as_provider(source).ok()?;
        Some(provider.downcast_ref::<ServiceTable>()?.service.clone())
    }

    /// The service that only an as-of join may read, under an alias or not, and the place of its clause.
    pub(super) fn of_left_row(plan: &LogicalPlan) -> Option<(Self, usize)> {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => Self::of_left_row(&alias.input),
            LogicalPlan::Projection(projection) => Self::of_left_row(&projection.input),
            LogicalPlan::TableScan(scan) => {
                let service = Self::of_source(&scan.source)?;
                match service.members.first()?.moment.at {
                    At::OfLeftRow(place) => Some((service, place)),
                    At::Present | At::Instant(_) | At::Commit | At::OfMatch(_) => None,
                }
            }
            _ => None,
        }
    }

    pub(super) fn id(&self) -> ObjectId {
        self.definition.id
    }

    pub(super) fn name(&self) -> &str {
        &self.definition.name
    }

    /// The columns a client sees.
    pub(super) fn schema(&self) -> SchemaRef {
        self.definition.schema()
    }

    /// The views it reads, in order.
    pub(super) fn views(&self) -> impl Iterator<Item = &Arc<FeatureView>> {
        self.members.iter().map(|member| &member.view)
    }

    /// The same with each member read at a moment of its own.
    pub(super) fn at(&self, mut moment: impl FnMut(usize, &FeatureView) -> Result<Moment>) -> Result<Self> {
        let mut service = self.clone();
        for (place, member) in service.members.iter_mut().enumerate() {
            member.moment = moment(place, &member.view)?;
        }
        Ok(service)
    }

    /// The relation, named `reference`, that only an as-of join may read.
    pub(super) fn marker(self, reference: TableReference) -> DfResult<LogicalPlan> {
        let table = ServiceTable { service: self, plan: None };
        TableScan::try_new(reference, provider_as_source(Arc::new(table)), None, Vec::new(), None).map(LogicalPlan::TableScan)
    }

    /// Its rows: what it selects, over a scan of its members.
    pub(super) fn rows(&self) -> DfResult<LogicalPlan> {
        let reference = TableReference::bare(self.name());
        let scan = ServiceScan::new(self).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let plan = LogicalPlanBuilder::scan(reference.clone(), provider_as_source(Arc::new(scan)), None)?;
        let column = |name: String| Expr::Column(Column::new(Some(reference.clone()), name));
        let keys: Vec<Expr> = self.definition.keys.iter().map(|key| column(key.name.clone())).collect();
        let of_member = |member: &Member, name: &str| {
            let there = |member: &Member| column(column_name(&member.reference, &member.view.event_time)).is_not_null();
            match self.definition.keys.iter().position(|key| key.name == name) {
                // Of a member that has no row the keys are NULL as all else is.
                Some(place) => when(there(member), keys[place].clone()),
                None => column(column_name(&member.reference, name)),
            }
        };
        let selected = self.selected(of_member)?;
        let schema = self.schema();
        let below = Arc::clone(plan.schema());
        let exprs = keys.iter().cloned().chain(selected).zip(schema.fields()).map(|(expr, field)| {
            let metadata = (!field.metadata().is_empty()).then(|| FieldMetadata::from(field.metadata()));
            Ok(expr.cast_to(field.data_type(), &below)?.alias_with_metadata(field.name(), metadata))
        });
        plan.project(exprs.collect::<DfResult<Vec<_>>>()?)?.build()
    }

    /// What it selects, where `of_member` tells what a column of a member is.
    pub(super) fn selected(&self, of_member: impl Fn(&Member, &str) -> Expr) -> DfResult<Vec<Expr>> {
        let replaced = |expr: Expr| {
            let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
            let member = self.members.iter().find(|member| column.relation.as_ref() == Some(&member.reference));
            let member = member.ok_or_else(|| DataFusionError::Internal(format!("a service without the view of {column}")))?;
            Ok(Transformed::yes(of_member(member, &column.name)))
        };
        self.expressions.iter().map(|expr| expr.clone().unalias().transform_up(replaced).map(|expr| expr.data)).collect()
    }
}

/// The members and the expressions of a service's query.
fn parts(plan: &LogicalPlan) -> Result<(Vec<Member>, Vec<Expr>)> {
    let LogicalPlan::Projection(projection) = plan else {
        return Err(refused("such a query"));
    };
    let mut members = Vec::new();
    collect(&projection.input, &mut members)?;
    Ok((members, projection.expr.clone()))
}

fn collect(plan: &LogicalPlan, members: &mut Vec<Member>) -> Result<()> {
    let (reference, scan) = match plan {
        LogicalPlan::Join(join) if join.on.is_empty() && join.filter.is_none() => {
            collect(&join.left, members)?;
            return collect(&join.right, members);
        }
        LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) => return Err(refused("an aggregate or window function")),
        LogicalPlan::Unnest(_) => return Err(refused("a function that gives several rows")),
        LogicalPlan::SubqueryAlias(alias) => (Some(alias.alias.clone()), alias.input.as_ref()),
        plan => (None, plan),
    };
    let LogicalPlan::TableScan(scan) = scan else { return Err(refused("a relation that is not a feature view")) };
    let reference = reference.unwrap_or_else(|| scan.table_name.clone());
    let provider = source_as_provider(&scan.source).map_err(from_datafusion)?;
    let found = provider.downcast_ref::<RelationProvider>().and_then(RelationProvider::as_view);
    let Some((view, moment)) = found else {
        return Err(refused(&format!("\"{}\", which is not a feature view,", scan.table_name)));
    };
    members.push(Member { reference, view: Arc::clone(view), moment });
    Ok(())
}

fn refused(what: &str) -> Error {
    Error::unsupported(format!("{what} in a feature service"))
        .hint("A feature service is SELECT expressions FROM view1 a, view2 b; its views are joined by entity key.")
}

/// What the name of a service stands for: its rows, or a mark of what an as-of join is to read.
#[derive(Debug)]
struct ServiceTable {
    service: Service,
    plan: Option<LogicalPlan>,
}

impl TableProvider for ServiceTable {
    fn schema(&self) -> SchemaRef {
        self.service.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        self.plan.as_ref().map(Cow::Borrowed)
    }

    /// Never asked: the rows stand in its place, or an as-of join does.
    fn scan<'life0, 'life1, 'life2, 'life3, 'async_trait>(
        &'life0 self,
        _session: &'life1 dyn Session,
        _projection: Option<&'life2 Vec<usize>>,
        _filters: &'life3 [Expr],
        _limit: Option<usize>,
    ) -> Pin<Box<dyn Future<Output = DfResult<Arc<dyn ExecutionPlan>>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        'life3: 'async_trait,
        Self: 'async_trait,
    {
        let message = format!("feature service \"{}\" is read as a table", self.service.name());
        Box::pin(std::future::ready(Err(DataFusionError::External(Box::new(Error::internal(message))))))
    }
}
