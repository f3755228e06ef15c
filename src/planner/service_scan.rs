//! The members of a feature service side by side: one relation that is read by key, or whole where they describe one entity.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::TableReference;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::StatementContext;
use super::keys::BoundKeys;
use super::provider::{Exactness, choose, is_online_by_key, key_predicates, key_support, lookup, no_keys, snapshot};
use super::route::{KeysBound, Route};
use super::service::{Member, Service};
use crate::error::{Error, Result};
use crate::executor::{EntityColumn, EntityJoinExec, EntityJoinMember, KeySet, KeyedView};
use crate::offline::Predicate;
use crate::registry::FeatureService;

/// The name that a column of a member has here.
pub(super) fn column_name(member: &TableReference, column: &str) -> String {
    format!("{}.{column}", member.table())
}

/// The relation below a service's expressions: the keys of its entities, then the columns of each member behind its keys, under
/// the member's name. It has a row where any member has one.
#[derive(Clone)]
pub(super) struct ServiceScan {
    context: Arc<StatementContext>,
    definition: Arc<FeatureService>,
    members: Vec<Member>,
    /// For each member, where its keys stand among those of the service.
    places: Vec<Vec<usize>>,
    columns: Vec<EntityColumn>,
    schema: SchemaRef,
    /// Whether a join asks for the keys of its rows.
    asked: bool,
}

impl fmt::Debug for ServiceScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceScan({})", self.definition.name)
    }
}

impl ServiceScan {
    pub(super) fn new(service: &Service) -> Result<Self> {
        let definition = &service.definition;
        let keys = definition.keys.iter().enumerate();
        let keys = keys.map(|(place, key)| (EntityColumn::Key(place), key.data_type.field(&key.name, false)));
        let mut columns: Vec<(EntityColumn, Field)> = keys.collect();
        for (view, member) in service.members.iter().enumerate() {
            let schema = member.view.schema();
            let own = schema.fields().iter().enumerate().skip(member.view.event_time_index());
            columns.extend(own.map(|(column, field)| {
                let name = column_name(&member.reference, field.name());
                (EntityColumn::Of { view, column }, field.as_ref().clone().with_name(name).with_nullable(true))
            }));
        }
        let (columns, fields): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        Ok(Self {
            context: Arc::clone(&service.context),
            definition: Arc::clone(definition),
            members: service.members.clone(),
            places: service.members.iter().map(|member| member.places(definition)).collect::<Result<_>>()?,
            columns,
            schema: Arc::new(Schema::new(fields)),
            asked: false,
        })
    }

    /// The service.
    pub(super) fn definition(&self) -> &Arc<FeatureService> {
        &self.definition
    }

    /// Its members, and for each where its keys stand among those of the service.
    pub(super) fn members(&self) -> impl Iterator<Item = (&Member, &Vec<usize>)> {
        self.members.iter().zip(&self.places)
    }

    /// Its columns.
    pub(super) fn columns(&self) -> &[EntityColumn] {
        &self.columns
    }

    /// The same, read by a join that asks for the keys of its rows.
    pub(super) fn asked(&self) -> Self {
        Self { asked: true, ..self.clone() }
    }

    /// Whether a join asks for the keys of its rows.
    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    /// Whether a join does better to ask for keys: where the online store answers, and where nothing else can be asked.
    pub(super) fn is_best_asked(&self) -> bool {
        let is_online = |member: &Member| is_online_by_key(&self.context, &member.view, member.moment);
        !self.is_of_one_entity() || self.members.iter().all(is_online)
    }

    /// Whether every member describes the same entities, so that their rows can be joined without naming any.
    fn is_of_one_entity(&self) -> bool {
        self.places.iter().all(|places| places.len() == self.definition.keys.len())
    }

    fn unbound(&self, bound: &BoundKeys) -> Result<Error> {
        let keys = &self.definition.keys;
        let there: Vec<usize> = bound.columns(keys)?.into_iter().map(|(place, _)| place).collect();
        let missing = keys.iter().enumerate().filter(|(place, _)| !there.contains(place));
        let mut missing: Vec<&str> = missing.map(|(_, key)| key.name.as_str()).collect();
        if missing.is_empty() {
            missing = keys.iter().map(|key| key.name.as_str()).collect();
        }
        let name = &self.definition.name;
        Ok(Error::unsupported(format!("reading feature service \"{name}\" without naming its entities"))
            .detail("Its feature views describe different entities, whose combinations have no end.")
            .hint(format!("Bind {} by =, IN or = ANY, or join the service AS OF a column.", missing.join(", "))))
    }
}

/// A scan to plan, free of expressions.
struct Request {
    scan: ServiceScan,
    keys: Option<KeySet>,
    /// For each member, conditions on its keys.
    predicates: Vec<Vec<Predicate>>,
    columns: Vec<EntityColumn>,
    schema: SchemaRef,
}

impl Request {
    fn new(scan: &ServiceScan, projection: Option<&Vec<usize>>, filters: &[Expr]) -> Result<Self> {
        let filters: Vec<&Expr> = filters.iter().collect();
        let keys = &scan.definition.keys;
        let bound = BoundKeys::of(keys, &filters)?;
        let (named, predicates) = if scan.asked {
            (Some(no_keys(keys)), vec![Vec::new(); scan.members.len()])
        } else if bound.is_whole() {
            (Some(bound.key_set(keys)?), vec![Vec::new(); scan.members.len()])
        } else if scan.is_of_one_entity() {
            let of_member = |member: &Member| key_predicates(&member.view, keys, &bound);
            (None, scan.members.iter().map(of_member).collect::<Result<_>>()?)
        } else {
            return Err(scan.unbound(&bound)?);
        };
        let projection = projection.map_or_else(|| (0..scan.columns.len()).collect(), Clone::clone);
        let schema = scan.schema.project(&projection);
        let schema = schema.map_err(|error| Error::internal("no such column").caused_by(error))?;
        let columns = projection.into_iter().map(|column| scan.columns[column]).collect();
        Ok(Self { scan: scan.clone(), keys: named, predicates, columns, schema: Arc::new(schema) })
    }

    /// One lookup in all members, or else each member's rows from its history: a read of several views is of one kind.
    async fn plan(self) -> Result<Arc<dyn ExecutionPlan>> {
        let ServiceScan { context, members, places, .. } = &self.scan;
        let keys_bound = if self.keys.is_some() { KeysBound::All } else { KeysBound::NotAll };
        let routes = members.iter().map(|member| choose(context, &member.view, member.moment.tense(), keys_bound));
        let routes = routes.collect::<Result<Vec<_>>>()?;
        if let Some(keys) = &self.keys
            && routes.iter().all(|route| *route == Route::Online)
        {
            let views = members.iter().zip(places);
            let views = views.map(|(member, places)| KeyedView { view: Arc::clone(&member.view), places: places.clone() });
            let keys = (self.scan.definition.keys.clone(), keys.clone());
            return Ok(lookup(context, views.collect(), keys, self.columns, self.schema));
        }
        let mut joined = Vec::with_capacity(members.len());
        for ((number, (member, places)), predicates) in members.iter().zip(places).enumerate().zip(self.predicates) {
            let view = &member.view;
            let keys = self.keys.as_ref().map(|keys| keys.distinct_of(view, places)).transpose()?;
            let projection = EntityJoinMember::projection(view, number, &self.columns);
            let plan = snapshot(context, Arc::clone(view), member.moment, keys, predicates, projection).await?;
            joined.push(EntityJoinMember { plan, places: places.clone() });
        }
        let keys = (self.scan.definition.keys.clone(), self.keys);
        Ok(Arc::new(EntityJoinExec::new(joined, keys, self.columns, self.schema)))
    }
}

impl TableProvider for ServiceScan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        if self.asked {
            // Its rows are chosen by the join, and no filter is to choose others.
            return Ok(vec![TableProviderFilterPushDown::Unsupported; filters.len()]);
        }
        key_support(&self.definition.keys, filters, Exactness::IfWhole)
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
        let external = |error: Error| DataFusionError::External(Box::new(error));
        let planned = Request::new(self, projection, filters);
        Box::pin(async move { planned.map_err(external)?.plan().await.map_err(external) })
    }
}
