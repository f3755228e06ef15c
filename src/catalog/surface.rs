//! The relations of one statement, as DataFusion asks for them.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef};
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, MemTable, SchemaProvider, TableProvider};
use datafusion::common::DFSchema;
use datafusion::common::metadata::FieldMetadata;
use datafusion::datasource::ViewTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};

use super::definition::SystemRelation;
use super::objects::NAMESPACES;
use super::rows::schema_of;
use super::{Scope, functions, live};
use crate::error::{Error, Result, SqlState};
use crate::parser::{self, Query};
use crate::planner::{self, Surface};
use crate::registry::{FeatureService, FeatureView, SqlView, Table, TableSource};

/// How deep views may stand on views.
const VIEW_DEPTH_MAX: usize = 32;

/// The catalog names that always mean this store, beside the name of the session's database.
const CATALOG_NAMES: [&str; 2] = ["tidegate", "datafusion"];

/// The surface of a statement, or of a view that stands `depth` views deep in one.
pub(super) fn surface(scope: &Arc<Scope>, depth: usize) -> Surface {
    let database = Database { scope: Arc::clone(scope), depth };
    Surface { catalogs: Arc::new(Databases(Arc::new(database))), functions: functions::all(scope) }
}

/// The one database, under its names.
struct Databases(Arc<Database>);

impl fmt::Debug for Databases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Databases")
    }
}

impl CatalogProviderList for Databases {
    fn register_catalog(&self, _name: String, _catalog: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![self.0.scope.session.database.to_string()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        let is_ours = name == self.0.scope.session.database || CATALOG_NAMES.contains(&name);
        is_ours.then(|| Arc::clone(&self.0) as Arc<dyn CatalogProvider>)
    }
}

struct Database {
    scope: Arc<Scope>,
    depth: usize,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Database")
    }
}

impl CatalogProvider for Database {
    fn schema_names(&self) -> Vec<String> {
        NAMESPACES.iter().map(|namespace| namespace.name.to_owned()).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let namespace = NAMESPACES.iter().find(|namespace| namespace.name == name)?;
        Some(Arc::new(Schema { name: namespace.name, scope: Arc::clone(&self.scope), depth: self.depth }))
    }
}

/// One schema of the database.
struct Schema {
    name: &'static str,
    scope: Arc<Scope>,
    depth: usize,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({})", self.name)
    }
}

/// What a name in a schema means.
enum Meaning<'a> {
    FeatureView(&'a Arc<FeatureView>),
    History(&'a Arc<FeatureView>),
    Table(&'a Arc<Table>),
    View(&'a Arc<SqlView>),
    Service(&'a Arc<FeatureService>),
    System(&'static str, &'a SystemRelation),
}

impl Schema {
    fn meaning(&self, name: &str) -> Option<Meaning<'_>> {
        let registry = &self.scope.snapshot.registry;
        let system = &self.scope.shared.system;
        match self.name {
            // A bare name is looked for in `public`, then in `pg_catalog`.
            "public" => None
                .or_else(|| registry.views.get(name).map(Meaning::FeatureView))
                .or_else(|| registry.tables.get(name).map(Meaning::Table))
                .or_else(|| registry.sql_views.get(name).map(Meaning::View))
                .or_else(|| registry.services.get(name).map(Meaning::Service))
                .or_else(|| system.get("pg_catalog", name).map(|relation| Meaning::System("pg_catalog", relation))),
            "history" => registry.views.get(name).map(Meaning::History),
            schema => system.get(schema, name).map(|relation| Meaning::System(schema, relation)),
        }
    }

    async fn provider(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(meaning) = self.meaning(name) else {
            return Ok(None);
        };
        let context = &self.scope.context;
        Ok(Some(match meaning {
            Meaning::FeatureView(view) => planner::feature_view(context, view),
            Meaning::History(view) => planner::history(context, view),
            Meaning::Table(table) => match &table.source {
                TableSource::Stored => planner::stored_table(context, table),
                TableSource::External { .. } => planner::external_table(context, table).await?,
            },
            Meaning::View(view) => self.view(view).await?,
            Meaning::Service(service) => {
                let plan = self.plan(&service.name, &parser::parse_query(&service.definition)?).await?;
                planner::feature_service(context, service, &plan)?
            }
            Meaning::System(schema, relation) => self.system(schema, name, relation).await?,
        }))
    }

    async fn view(&self, view: &SqlView) -> Result<Arc<dyn TableProvider>> {
        let plan = self.plan(&view.name, &parser::parse_query(&view.definition)?).await?;
        let columns: Vec<FieldRef> =
            view.columns.iter().map(|column| column.data_type.field_ref(&column.name, column.nullable)).collect();
        Ok(Arc::new(ViewTable::new(conform(&view.name, plan, &columns)?, Some(view.definition.clone()))))
    }

    async fn system(&self, schema: &str, name: &str, relation: &SystemRelation) -> Result<Arc<dyn TableProvider>> {
        if let Some(provider) = live::provider(&self.scope, schema, name, relation) {
            return Ok(provider);
        }
        let schema_of_rows = schema_of(relation);
        let Some(query) = &relation.query else {
            let batch = self.scope.system_rows(schema, name, relation)?;
            let table = MemTable::try_new(schema_of_rows, vec![vec![batch]])
                .map_err(|source| Error::internal(format!("could not read \"{name}\"")).caused_by(source))?;
            return Ok(Arc::new(table));
        };
        let plan = self.plan(name, &Query { body: query.clone(), clauses: Vec::new(), joins: Vec::new() }).await?;
        let columns: Vec<FieldRef> = schema_of_rows.fields().iter().map(Arc::clone).collect();
        Ok(Arc::new(ViewTable::new(conform(name, plan, &columns)?, None)))
    }

    async fn plan(&self, name: &str, query: &Query) -> Result<LogicalPlan> {
        let depth = self.depth + 1;
        if depth > VIEW_DEPTH_MAX {
            return Err(Error::new(SqlState::StatementTooComplex, format!("view \"{name}\" stands on too many views"))
                .detail(format!("At most {VIEW_DEPTH_MAX} views may stand on each other.")));
        }
        let surface = surface(&self.scope, depth);
        let planned = self.scope.shared.planner.plan(&self.scope.context, &surface, query, &[]).await?;
        Ok(planned.logical)
    }
}

#[async_trait]
impl SchemaProvider for Schema {
    fn table_names(&self) -> Vec<String> {
        let registry = &self.scope.snapshot.registry;
        match self.name {
            "public" => {
                let names = registry.views.keys().chain(registry.tables.keys()).chain(registry.sql_views.keys());
                names.chain(registry.services.keys()).cloned().collect()
            }
            "history" => registry.views.keys().cloned().collect(),
            schema => self.scope.shared.system.names(schema).cloned().collect(),
        }
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        self.provider(name).await.map_err(|error| DataFusionError::External(Box::new(error)))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.meaning(name).is_some()
    }
}

/// The plan of a view, given the names and types that the view's columns have.
fn conform(view: &str, plan: LogicalPlan, columns: &[FieldRef]) -> Result<LogicalPlan> {
    let schema = Arc::clone(plan.schema());
    if schema.fields().len() != columns.len() {
        return Err(Error::new(
            SqlState::InvalidTableDefinition,
            format!("the query of view \"{view}\" has other columns than the view"),
        )
        .detail(format!("It has {}; the view was made with {}.", schema.fields().len(), columns.len()))
        .hint("Make the view again."));
    }
    let failed = |source: DataFusionError| {
        Error::new(SqlState::InvalidTableDefinition, format!("the query of view \"{view}\" no longer fits its columns"))
            .detail(source.to_string())
            .hint("Make the view again.")
    };
    let fits = |(index, column): (usize, &FieldRef)| {
        let field = schema.field(index);
        field.name() == column.name() && field.data_type() == column.data_type() && field.metadata() == column.metadata()
    };
    if columns.iter().enumerate().all(fits) {
        return Ok(plan);
    }
    let expressions = columns.iter().enumerate().map(|(index, column)| conform_column(&schema, index, column));
    let expressions = expressions.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    LogicalPlanBuilder::from(plan).project(expressions).and_then(LogicalPlanBuilder::build).map_err(failed)
}

fn conform_column(schema: &DFSchema, index: usize, column: &Field) -> Result<Expr, DataFusionError> {
    let expression = Expr::Column(schema.columns().swap_remove(index)).cast_to(column.data_type(), schema)?;
    let metadata = (!column.metadata().is_empty()).then(|| FieldMetadata::from(column.metadata()));
    Ok(expression.alias_with_metadata(column.name(), metadata))
}
