//! The engine: one configured DataFusion, and the way of a statement through it.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use chrono::{DateTime, Utc};
use datafusion::common::ParamValues;
use datafusion::config::Dialect;
use datafusion::execution::SessionState;
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::ScalarUDF;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::optimizer::{Analyzer, Optimizer};
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use datafusion::scalar::ScalarValue;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use futures::{StreamExt, TryStreamExt};

use super::arithmetic::CheckedIntegers;
use super::as_of::{TimeClauses, fix_instants, join_nodes};
use super::as_of_join::FilterBelowAsOfJoin;
use super::casts::{ComparedLiterals, TextCasts};
use super::compile::{compile, slot_values};
use super::errors::from_datafusion;
use super::literals::{StatementTime, TextLiterals};
use super::lookup_join::JoinByLookup;
use super::now::Now;
use super::parameters::Parameters;
use super::physical::OurQueryPlanner;
use super::types::Types;
use super::using::{Columns, expand_stars, has_merged_star};
use super::{PlannerConfig, QueryPlan, Rows, StatementContext, Surface};
use crate::error::{Error, Result, SqlState};
use crate::executor::{OnlineLookupExec, QueryRuntime, conform};
use crate::lookup::{Ask, Candidates, CompiledLookup, Given, Slot, SlotValues};
use crate::offline::BatchStream;
use crate::parser::Query;
use crate::parser::postgres::{display_name, refuse_unsupported, rewrite};
use crate::types::SqlType;

/// How many operators a "memory is full" error names.
const CONSUMERS_NAMED: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN;

/// The column of `EXPLAIN`'s rows.
const EXPLAIN_COLUMN: &str = "QUERY PLAN";

/// Plans and runs queries.
///
/// What is the same for all statements is built once. A statement gets a copy of it with its own catalog, functions, time
/// zone and `now()`.
#[derive(Debug)]
pub struct Planner {
    base: SessionState,
    runtime: QueryRuntime,
}

impl Planner {
    /// A planner within the limits of `config`, with a runtime of its own for scans and joins.
    pub fn new(config: &PlannerConfig) -> Result<Self> {
        let partitions = config.partitions.max(1);
        let mut session = SessionConfig::new().with_target_partitions(partitions).with_information_schema(false);
        let options = session.options_mut();
        options.catalog.create_default_catalog_and_schema = false;
        options.sql_parser.dialect = Dialect::PostgreSQL;
        options.sql_parser.enable_ident_normalization = true;
        options.sql_parser.collect_spans = true;
        options.sql_parser.map_string_types_to_utf8view = false;
        options.sql_parser.support_varchar_with_length = true;
        options.execution.parquet.schema_force_view_types = false;
        let pool = TrackConsumersPool::new(FairSpillPool::new(config.memory_bytes_max), CONSUMERS_NAMED);
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).build_arc().map_err(from_datafusion)?;
        let mut optimizer = Optimizer::new();
        // Next to the rule that moves filters down, which stops at our node.
        let place = optimizer.rules.iter().position(|rule| rule.name() == "push_down_filter");
        let place = place.map_or(optimizer.rules.len(), |place| place + 1);
        optimizer.rules.insert(place, Arc::new(FilterBelowAsOfJoin));
        // Last, when filters stand where they belong and joins say what they join on.
        optimizer.rules.push(Arc::new(JoinByLookup));
        let mut analyzer = Analyzer::new();
        // Before types are coerced: a literal that is compared takes the other side's type.
        analyzer.rules.insert(0, Arc::new(ComparedLiterals));
        let base = SessionStateBuilder::new()
            .with_config(session)
            .with_runtime_env(runtime)
            .with_default_features()
            .with_optimizer_rules(optimizer.rules)
            .with_analyzer_rules(analyzer.rules)
            .with_analyzer_rule(Arc::new(TextLiterals))
            .with_analyzer_rule(Arc::new(TextCasts))
            .with_analyzer_rule(Arc::new(CheckedIntegers))
            .with_query_planner(Arc::new(OurQueryPlanner::new()))
            .build();
        Ok(Self { base, runtime: QueryRuntime::new(partitions)? })
    }

    /// The runtime of scans and joins, for other work that must not delay lookups.
    pub fn runtime(&self) -> &QueryRuntime {
        &self.runtime
    }

    /// Plans `query`; `parameters` are the types the client stated for `$1`, `$2`, …. Reads no rows.
    pub async fn plan(
        &self,
        context: &Arc<StatementContext>,
        surface: &Surface,
        query: &Query,
        parameters: &[Option<SqlType>],
    ) -> Result<QueryPlan> {
        let mut query = query.clone();
        refuse_unsupported(&query.body)?;
        if has_merged_star(&query.body) {
            let columns = self.columns(context, surface, &query).await?;
            expand_stars(&mut query.body, &columns)?;
        }
        rewrite(&mut query.body)?;
        let mut known = Parameters::of(&mut query, parameters)?;
        if !known.all_known() {
            // A query that cannot be planned with parameters of unknown type may be plannable once they are text; if it is
            // not, that attempt tells the better error.
            if let Ok(plan) = self.logical(context, surface, known.for_inference(&query)?).await {
                known.learn(&plan)?;
            }
            known.settle();
        }
        let logical = self.logical(context, surface, known.apply(&query)?).await?;
        let analyzed = self.analyzed(context, surface, &logical)?;
        let schema = output_schema(&analyzed);
        Ok(QueryPlan { logical, analyzed, schema, parameters: known.into_types() })
    }

    /// The lookup of the short road that a plan is; `None` where it is none. Costs microseconds where it is something else.
    pub fn compile(&self, context: &StatementContext, surface: &Surface, plan: &QueryPlan) -> Option<CompiledLookup> {
        compile(plan, context, || self.state(context, surface, None))
    }

    /// The columns of the tables that a query names, by the name it uses.
    async fn columns(&self, context: &StatementContext, surface: &Surface, query: &Query) -> Result<Columns> {
        let state = self.state(context, surface, None)?;
        let statement = Statement::Statement(Box::new(ast::Statement::Query(query.body.clone())));
        let mut columns = Columns::new();
        for reference in state.resolve_table_references(&statement).map_err(from_datafusion)? {
            let Ok(schema) = state.schema_for_ref(reference.clone()) else { continue };
            if let Some(table) = schema.table(reference.table()).await.map_err(from_datafusion)? {
                let names = table.schema().fields().iter().map(|field| field.name().clone()).collect();
                columns.insert(reference.to_string(), names);
            }
        }
        Ok(columns)
    }

    /// The plan of a query whose parameters are cast or left open.
    async fn logical(&self, context: &Arc<StatementContext>, surface: &Surface, mut query: Query) -> Result<LogicalPlan> {
        let clauses = Arc::new(TimeClauses::of(context, &mut query)?);
        let state = self.state(context, surface, Some(&clauses))?;
        let statement = Statement::Statement(Box::new(ast::Statement::Query(query.body)));
        let plan = Box::pin(state.statement_to_plan(statement)).await.map_err(from_datafusion)?;
        let plan = join_nodes(plan, &clauses, &state)?;
        clauses.check_all_taken()?;
        Ok(plan)
    }

    /// The plan with its types coerced, which finds what does not fit together before anything runs.
    fn analyzed(&self, context: &Arc<StatementContext>, surface: &Surface, plan: &LogicalPlan) -> Result<LogicalPlan> {
        let state = self.state(context, surface, None)?;
        let options = state.config_options();
        state.analyzer().execute_and_check(plan.clone(), options, |_, _| {}).map_err(from_datafusion)
    }

    /// Runs a plan with these values for its parameters. Plans that only look up keys run where this is called; all others
    /// on the runtime for queries.
    pub async fn run(
        &self,
        context: &Arc<StatementContext>,
        surface: &Surface,
        plan: &QueryPlan,
        parameters: &[ScalarValue],
    ) -> Result<Rows> {
        let state = self.state(context, surface, None)?;
        let physical = physical(&state, plan, parameters).await?;
        let schema = Arc::clone(&plan.schema);
        let here = only_lookups(&physical);
        let task = state.task_ctx();
        let rows = async move { execute_stream(physical, task).map_err(from_datafusion) };
        let stream = futures::stream::once(rows).map_ok(|rows| rows.map_err(from_datafusion)).try_flatten();
        let target = Arc::clone(&schema);
        let stream = stream.and_then(move |batch| std::future::ready(conform(batch, &target))).boxed();
        let stream = if here { stream } else { self.runtime.stream(stream) };
        Ok(Rows { schema, stream })
    }

    /// The plan as text, one line a row of column `QUERY PLAN`; with `analyze`, after running it.
    pub async fn explain(
        &self,
        context: &Arc<StatementContext>,
        surface: &Surface,
        plan: &QueryPlan,
        parameters: &[ScalarValue],
        analyze: bool,
        verbose: bool,
    ) -> Result<Rows> {
        let state = self.state(context, surface, None)?;
        let physical = physical(&state, plan, parameters).await?;
        let text = if analyze {
            let (task, running) = (state.task_ctx(), Arc::clone(&physical));
            let rows = async move { execute_stream(running, task).map_err(from_datafusion) };
            let stream = futures::stream::once(rows).map_ok(|rows| rows.map_err(from_datafusion)).try_flatten().boxed();
            let mut stream = self.runtime.stream(stream);
            while let Some(batch) = stream.next().await {
                batch?;
            }
            DisplayableExecutionPlan::with_metrics(physical.as_ref()).indent(verbose).to_string()
        } else {
            DisplayableExecutionPlan::new(physical.as_ref()).indent(verbose).to_string()
        };
        explained(&text)
    }

    /// DataFusion as one statement sees it.
    fn state(&self, context: &StatementContext, surface: &Surface, clauses: Option<&Arc<TimeClauses>>) -> Result<SessionState> {
        let now = DateTime::<Utc>::from_timestamp_micros(context.now.micros())
            .ok_or_else(|| Error::new(SqlState::DatetimeFieldOverflow, "the clock is out of range"))?;
        let mut config = self.base.config().clone();
        let options = config.options_mut();
        options.execution.time_zone = Some(context.time_zone.clone());
        options.extensions.insert(StatementTime(context.now.micros()));
        if let Some(catalog) = surface.catalogs.catalog_names().into_iter().next() {
            options.catalog.default_catalog = catalog;
        }
        options.catalog.default_schema = "public".to_owned();
        let mut builder = SessionStateBuilder::new_from_existing(self.base.clone())
            .with_config(config)
            .with_catalog_list(Arc::clone(&surface.catalogs))
            .with_type_planner(Arc::new(Types::new(&context.time_zone)))
            .with_execution_props(ExecutionProps::new().with_query_execution_start_time(now));
        let functions = builder.scalar_functions().get_or_insert_with(Vec::new);
        functions.push(Arc::new(ScalarUDF::from(Now::new())));
        functions.extend(surface.functions.iter().cloned());
        if let Some(clauses) = clauses {
            let planners = builder.relation_planners().get_or_insert_with(Vec::new);
            planners.insert(0, Arc::clone(clauses) as _);
        }
        Ok(builder.build())
    }
}

/// The operators of a plan, with the parameters' values in it.
async fn physical(state: &SessionState, plan: &QueryPlan, parameters: &[ScalarValue]) -> Result<Arc<dyn ExecutionPlan>> {
    let mut logical = plan.logical.clone();
    if !parameters.is_empty() {
        let values = ParamValues::from(parameters.to_vec());
        logical = logical.replace_params_with_values(&values).map_err(from_datafusion)?;
    }
    let logical = fix_instants(logical, state)?;
    let optimized = state.optimize(&logical).map_err(from_datafusion)?;
    Box::pin(state.query_planner().create_physical_plan(&optimized, state)).await.map_err(from_datafusion)
}

/// Whether nothing below reads anything but the online store and constants.
fn only_lookups(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let children = plan.children();
    if children.is_empty() {
        return plan.is::<OnlineLookupExec>() || matches!(plan.name(), "PlaceholderRowExec" | "EmptyExec");
    }
    children.into_iter().all(only_lookups)
}

/// The columns of a query's rows, under the names a client sees.
fn output_schema(plan: &LogicalPlan) -> SchemaRef {
    let shown = |field: &FieldRef| field.as_ref().clone().with_name(display_name(field.name())).with_nullable(true);
    Arc::new(Schema::new(plan.schema().fields().iter().map(shown).collect::<Vec<_>>()))
}

/// A lookup that takes the short road, as text, with the parameters' values; `None` where they are such that it is left to the
/// planner.
pub fn explain_lookup(lookup: &Arc<CompiledLookup>, parameters: &[ScalarValue]) -> Result<Option<Rows>> {
    let Some(ask) = Ask::of(lookup, &mut GivenAsScalars(parameters), &mut SlotValues::default())? else { return Ok(None) };
    let views: Vec<&str> = lookup.view_names().collect();
    let views = match views.as_slice() {
        [view] => format!("view={view}"),
        views => format!("views=[{}]", views.join(", ")),
    };
    let asked = match &lookup.candidates {
        Candidates::Keys(_) => format!("keys={}", ask.candidates()),
        Candidates::Left(_) => format!("rows={}, keys={}", ask.candidates(), ask.keys()),
    };
    let count = |name: &str, count: Option<u64>| count.map(|count| format!(", {name}={count}")).unwrap_or_default();
    let (limit, offset) = (count("limit", ask.limit()), count("offset", ask.offset()));
    explained(&format!("OnlineLookupExec: {views}, {asked}{limit}{offset}, road=short")).map(Some)
}

/// The values of parameters as the engine has them.
struct GivenAsScalars<'a>(&'a [ScalarValue]);

impl GivenAsScalars<'_> {
    fn scalar(&self, parameter: usize) -> Result<&ScalarValue> {
        self.0.get(parameter).ok_or_else(|| Error::internal("a lookup without one of its parameters"))
    }
}

impl Given for GivenAsScalars<'_> {
    fn add_slot(&mut self, slot: &Slot, values: &mut SlotValues) -> Result<()> {
        slot_values(slot, self.scalar(slot.parameter)?, values)
    }

    fn value(&mut self, parameter: usize, _data_type: &SqlType) -> Result<ArrayRef> {
        self.scalar(parameter)?.to_array().map_err(from_datafusion)
    }
}

fn explained(text: &str) -> Result<Rows> {
    let schema: SchemaRef = Arc::new(Schema::new(vec![SqlType::Text.field(EXPLAIN_COLUMN, true)]));
    let lines: ArrayRef = Arc::new(StringArray::from(text.lines().collect::<Vec<_>>()));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![lines]).map_err(|error| from_datafusion(error.into()))?;
    let stream: BatchStream = futures::stream::once(std::future::ready(Ok(batch))).boxed();
    Ok(Rows { schema, stream })
}
