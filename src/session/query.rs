//! Statements that read: queries, `EXPLAIN`, `COPY … TO`, and prepared statements of SQL.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::scalar::ScalarValue;
use futures::TryStreamExt;

use super::answers::{DESCRIBE, SHOW_ALL, text_columns};
use super::write::{event_time_among, placeholder_types};
use super::{Answer, Prepared, Session};
use crate::error::{Error, Result, SqlState};
use crate::executor::await_at_length;
use crate::lookup::CompiledLookup;
use crate::parser::{Copy, Query, SetConfig, Statement, parse_query, with_defaults};
use crate::planner::{QueryPlan, Rows, StatementContext, Surface, explain_lookup, typed_literals};
use crate::types::SqlType;
use crate::types::text::TextParser;

/// What `SHOW FEATURE VIEWS` reads.
pub(super) const SHOW_FEATURE_VIEWS: &str =
    "SELECT name, entities, keys, event_time, ttl, online, features, comment FROM tidegate.feature_views ORDER BY name";

/// What `SHOW FEATURE SERVICES` reads.
pub(super) const SHOW_FEATURE_SERVICES: &str =
    "SELECT name, feature_views, entities, keys, columns, comment FROM tidegate.feature_services ORDER BY name";

/// What `SHOW ENTITIES` reads.
pub(super) const SHOW_ENTITIES: &str = "SELECT name, keys, key_types, comment FROM tidegate.entities ORDER BY name";

/// What planning tells of a statement.
pub(super) struct Shape {
    parameters: Vec<SqlType>,
    columns: Option<SchemaRef>,
    lookup: Option<Arc<CompiledLookup>>,
}

impl Shape {
    pub(super) fn of(self, statement: Arc<Statement>) -> Prepared {
        let Self { parameters, columns, lookup } = self;
        Prepared { statement, parameters, columns, lookup }
    }
}

impl Session {
    /// The types of a statement's parameters, the columns of its rows, and whether it is a lookup.
    pub(super) async fn shape(&self, statement: &Statement, types: &[Option<SqlType>]) -> Result<Shape> {
        let (parameters, columns) = match statement {
            Statement::Query(query) => {
                let (context, surface) = self.context();
                let planner = &self.services.planner;
                let plan = self.plan_within(&context, &surface, query, types).await?;
                let lookup = self.standpoint().and_then(|_| planner.compile(&context, &surface, &plan)).map(Arc::new);
                return Ok(Shape { parameters: plan.parameters, columns: Some(plan.schema), lookup });
            }
            Statement::SetConfig(SetConfig { query, .. }) => {
                let plan = self.plan(query, types).await?;
                (plan.parameters, Some(plan.schema))
            }
            Statement::Explain { query, .. } => (self.plan(query, types).await?.parameters, Some(text_columns(&["QUERY PLAN"]))),
            Statement::Insert(insert) => {
                let target = self.target(&insert.table)?;
                let columns = super::write::named_columns(&target, &insert.columns)?;
                let types = placeholder_types(&insert.source, &columns, types);
                let source = typed_literals(with_defaults(&insert.source, event_time_among(&target, &columns)), &columns)?;
                (self.plan(&source, &types).await?.parameters, None)
            }
            Statement::Show(name) => (Vec::new(), Some(self.show_columns(name)?)),
            Statement::ShowAll => (Vec::new(), Some(text_columns(SHOW_ALL))),
            Statement::Describe(_) => (Vec::new(), Some(text_columns(DESCRIBE))),
            Statement::ShowFeatureViews => (Vec::new(), Some(self.plan(&parse_query(SHOW_FEATURE_VIEWS)?, &[]).await?.schema)),
            Statement::ShowFeatureServices => {
                (Vec::new(), Some(self.plan(&parse_query(SHOW_FEATURE_SERVICES)?, &[]).await?.schema))
            }
            Statement::ShowEntities => (Vec::new(), Some(self.plan(&parse_query(SHOW_ENTITIES)?, &[]).await?.schema)),
            Statement::Execute { name, .. } => (Vec::new(), self.prepared_statement(name)?.columns.clone()),
            Statement::CreateTableAs { query, .. } => (self.plan(query, types).await?.parameters, None),
            Statement::Copy(_)
            | Statement::Begin(_)
            | Statement::Commit
            | Statement::Rollback
            | Statement::Set { .. }
            | Statement::SetTransaction(_)
            | Statement::Reset(_)
            | Statement::Discard
            | Statement::NothingThere(_)
            | Statement::Prepare { .. }
            | Statement::Deallocate(_)
            | Statement::SetClock(_)
            | Statement::CreateEntity(_)
            | Statement::CreateFeatureView(_)
            | Statement::CreateTable { .. }
            | Statement::CreateExternalTable { .. }
            | Statement::CreateView { .. }
            | Statement::CreateFeatureService(_)
            | Statement::Drop { .. }
            | Statement::Optimize(_)
            | Statement::RefreshOnline(_)
            | Statement::CreateTag { .. }
            | Statement::DropTag { .. }
            | Statement::Comment { .. }
            | Statement::Empty => (Vec::new(), None),
        };
        Ok(Shape { parameters, columns, lookup: None })
    }

    pub(super) async fn plan(&self, query: &Query, types: &[Option<SqlType>]) -> Result<QueryPlan> {
        let (context, surface) = self.context();
        self.plan_within(&context, &surface, query, types).await
    }

    /// Plans a query, which takes milliseconds: other connections do not wait for it.
    async fn plan_within(
        &self,
        context: &Arc<StatementContext>,
        surface: &Surface,
        query: &Query,
        types: &[Option<SqlType>],
    ) -> Result<QueryPlan> {
        await_at_length(Box::pin(self.services.planner.plan(context, surface, query, types))).await
    }

    /// Plans and runs a query within one context.
    pub(super) async fn rows(&self, query: &Query, types: &[SqlType], parameters: &[ScalarValue]) -> Result<Rows> {
        let (context, surface) = self.context();
        let types: Vec<_> = types.iter().cloned().map(Some).collect();
        let planner = &self.services.planner;
        let plan = self.plan_within(&context, &surface, query, &types).await?;
        Box::pin(planner.run(&context, &surface, &plan, parameters)).await
    }

    pub(super) async fn query(
        &self,
        query: &Query,
        types: &[SqlType],
        parameters: &[ScalarValue],
        verb: &'static str,
    ) -> Result<Answer> {
        let Rows { schema, stream } = self.rows(query, types, parameters).await?;
        Ok(Answer::Rows { schema, stream, verb, counted: verb == "SELECT" })
    }

    /// A query of our own over the system views, for `SHOW`.
    pub(super) async fn system_query(&self, sql: &str) -> Result<Answer> {
        self.query(&parse_query(sql)?, &[], &[], "SHOW").await
    }

    pub(super) async fn explain(
        &self,
        query: &Query,
        types: &[SqlType],
        parameters: &[ScalarValue],
        analyze: bool,
        verbose: bool,
    ) -> Result<Answer> {
        let (context, surface) = self.context();
        let types: Vec<_> = types.iter().cloned().map(Some).collect();
        let planner = &self.services.planner;
        let plan = self.plan_within(&context, &surface, query, &types).await?;
        // What is analyzed is run, and only the planner's operators count what they do.
        if !analyze
            && let Some(lookup) = planner.compile(&context, &surface, &plan).filter(|lookup| self.takes_short_road(lookup))
            && let Some(Rows { schema, stream }) = explain_lookup(&Arc::new(lookup), parameters)?
        {
            return Ok(Answer::Rows { schema, stream, verb: "EXPLAIN", counted: false });
        }
        let Rows { schema, stream } = Box::pin(planner.explain(&context, &surface, &plan, parameters, analyze, verbose)).await?;
        Ok(Answer::Rows { schema, stream, verb: "EXPLAIN", counted: false })
    }

    pub(super) async fn copy(&mut self, copy: &Copy) -> Result<Answer> {
        match copy {
            Copy::Out { source, options } => {
                let Rows { schema, stream } = self.rows(source, &[], &[]).await?;
                Ok(Answer::CopyOut { schema, stream, options: options.clone() })
            }
            Copy::In { table, columns, options } => self.start_copy_in(table, columns, options),
        }
    }

    pub(super) fn prepared_statement(&self, name: &str) -> Result<&Prepared> {
        self.prepared
            .get(name)
            .ok_or_else(|| Error::new(SqlState::InvalidSqlStatementName, format!("prepared statement \"{name}\" does not exist")))
    }

    pub(super) async fn sql_prepare(&mut self, name: &str, types: &[SqlType], statement: &Statement) -> Result<Answer> {
        if self.prepared.contains_key(name) {
            return Err(Error::new(
                SqlState::DuplicatePreparedStatement,
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        let limit = self.services.limits.prepared_max;
        if self.prepared.len() >= limit {
            return Err(Error::new(SqlState::ConfigurationLimitExceeded, format!("more than {limit} prepared statements"))
                .hint("DEALLOCATE those that are not needed."));
        }
        let preparable = matches!(
            statement,
            Statement::Query(_)
                | Statement::SetConfig(_)
                | Statement::Insert(_)
                | Statement::Explain { .. }
                | Statement::CreateTableAs { .. }
        );
        if !preparable {
            return Err(Error::unsupported("PREPARE of anything but a query or INSERT"));
        }
        let types: Vec<_> = types.iter().cloned().map(Some).collect();
        let prepared = self.shape(statement, &types).await?.of(Arc::new(statement.clone()));
        self.prepared.insert(name.to_owned(), prepared);
        Ok(Answer::Done("PREPARE".into()))
    }

    pub(super) async fn sql_execute(&mut self, name: &str, arguments: Option<&Query>) -> Result<Answer> {
        let prepared = self.prepared_statement(name)?.clone();
        let values = match arguments {
            Some(query) => self.argument_values(query).await?,
            None => Vec::new(),
        };
        if values.len() != prepared.parameters.len() {
            let (expected, got) = (prepared.parameters.len(), values.len());
            return Err(Error::new(
                SqlState::SyntaxError,
                format!("wrong number of parameters for prepared statement \"{name}\""),
            )
            .detail(format!("Expected {expected} parameters but got {got}.")));
        }
        let zone = self.settings.time_zone();
        let values = values.iter().zip(&prepared.parameters);
        let parameters = values.map(|(value, data_type)| argument(value, data_type, zone)).collect::<Result<Vec<_>>>()?;
        Box::pin(self.dispatch(&prepared, &parameters)).await
    }

    /// The values of `EXECUTE name (…)`.
    async fn argument_values(&self, query: &Query) -> Result<Vec<ScalarValue>> {
        let rows = self.rows(query, &[], &[]).await?;
        let batches: Vec<RecordBatch> = rows.stream.try_collect().await?;
        let row = batches.iter().find(|batch| batch.num_rows() > 0);
        let row = row.ok_or_else(|| Error::internal("EXECUTE got no arguments"))?;
        let value = |column: &arrow::array::ArrayRef| {
            ScalarValue::try_from_array(column, 0).map_err(|source| Error::internal("EXECUTE got no value").caused_by(source))
        };
        row.columns().iter().map(value).collect()
    }

    pub(super) fn deallocate(&mut self, name: Option<&str>) -> Result<Answer> {
        match name {
            None => {
                self.prepared.clear();
                Ok(Answer::Done("DEALLOCATE ALL".into()))
            }
            Some(name) => {
                self.prepared_statement(name)?;
                self.prepared.remove(name);
                Ok(Answer::Done("DEALLOCATE".into()))
            }
        }
    }
}

/// An argument as the parameter's type has it: text is parsed, everything else cast.
fn argument(value: &ScalarValue, data_type: &SqlType, time_zone: &str) -> Result<ScalarValue> {
    let mismatch = || Error::new(SqlState::DatatypeMismatch, format!("an argument cannot be coerced to type {data_type}"));
    let array = value.to_array().map_err(|source| mismatch().caused_by(source))?;
    let array = match array.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let text = cast(&array, &DataType::Utf8).map_err(|source| mismatch().caused_by(source))?;
            let mut parser = TextParser::new(data_type, time_zone)?;
            let text = arrow::array::AsArray::as_string::<i32>(&text);
            parser.append(text.is_valid(0).then(|| text.value(0)))?;
            parser.finish()
        }
        _ => cast(&array, &data_type.arrow()).map_err(|source| mismatch().caused_by(source))?,
    };
    ScalarValue::try_from_array(&array, 0).map_err(|source| mismatch().caused_by(source))
}
