//! The time clauses: each is taken, or refused by name.
//!
//! A table with `AS OF` a constant becomes a [`SnapshotNode`], whose instant is known when the query runs. A table with
//! `AS OF` a column becomes a relation that only an as-of join may read; once the query is planned, [`join_nodes`] turns the
//! joins that have such a relation on their right into [`AsOfJoinNode`]s. What is left over is an error: DataFusion itself
//! would drop a clause that nobody took and answer with today's rows.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Extension, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SendableRecordBatchStream,
};
use datafusion::sql::sqlparser::ast::{self, TableFactor, TableVersion, Visit, Visitor};
use parking_lot::Mutex;

use super::StatementContext;
use super::as_of_join::join_node;
use super::errors::from_datafusion;
use super::instant::{instant, resolve};
use super::nodes::SnapshotNode;
use super::provider::{Instant, RelationProvider};
use crate::error::{Error, Result};
use crate::executor::DatasetReader;
use crate::parser::{Query, TimeClause};
use crate::registry::FeatureView;

/// The time clauses of one query while it is planned.
#[derive(Debug)]
pub(super) struct TimeClauses {
    context: Arc<StatementContext>,
    clauses: Vec<TimeClause>,
    /// The places of those that a relation or a join took.
    taken: Mutex<BTreeSet<usize>>,
}

impl TimeClauses {
    /// The clauses of `query`, each checked: what is not built yet is refused, and so is a clause on a `WITH` query.
    pub(super) fn of(context: &Arc<StatementContext>, query: &Query) -> Result<Self> {
        for clause in &query.clauses {
            refuse_unbuilt(clause)?;
        }
        let mut scopes = Scopes { query, frames: Vec::new(), error: None };
        let _ = query.body.visit(&mut scopes);
        match scopes.error {
            Some(error) => Err(error),
            None => {
                let taken = Mutex::new(BTreeSet::new());
                Ok(Self { context: Arc::clone(context), clauses: query.clauses.clone(), taken })
            }
        }
    }

    /// An error if any clause had no effect.
    pub(super) fn check_all_taken(&self) -> Result<()> {
        let taken = self.taken.lock();
        match (0..self.clauses.len()).find(|place| !taken.contains(place)) {
            None => Ok(()),
            Some(place) => Err(Error::unsupported("a time clause in this place").at(self.clauses[place].position)),
        }
    }

    fn plan_table(
        &self,
        place: usize,
        name: ast::ObjectName,
        alias: Option<ast::TableAlias>,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let clause = self.clauses.get(place).ok_or_else(|| Error::internal("a time clause without a place"))?;
        let TimeClause { as_of: Some(as_of), within: None, system_time: None, version: None, position } = clause else {
            return Err(Error::internal("a time clause that should have been refused"));
        };
        let reference = context.object_name_to_table_reference(name).map_err(from_datafusion)?;
        let source = context.context_provider().get_table_source(reference.clone()).map_err(from_datafusion)?;
        let view = source_as_provider(&source).ok().and_then(|provider| {
            let relation = provider.downcast_ref::<RelationProvider>()?;
            relation.as_view().map(|(view, _)| Arc::clone(view))
        });
        let Some(view) = view else {
            return Err(not_a_view(reference.table(), *position));
        };
        if has_column(as_of) {
            // Taken only when a join finds it.
            let relation = RelationProvider::view(&self.context, &view, Instant::OfLeftRow(place));
            let scan = LogicalPlanBuilder::scan(reference, provider_as_source(Arc::new(relation)), None);
            let plan = scan.and_then(LogicalPlanBuilder::build).map_err(from_datafusion)?;
            return Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))));
        }
        let schema = datafusion::common::DFSchema::empty();
        let expr = context.sql_to_expr(as_of.clone(), &schema).map_err(|error| from_datafusion(error).at(*position))?;
        let expr = instant(expr, &schema, &self.context.time_zone).map_err(|error| at(error, *position))?;
        let node = SnapshotNode::new(&self.context, view, reference, expr)?;
        self.taken.lock().insert(place);
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

impl RelationPlanner for TimeClauses {
    fn plan_relation(&self, relation: TableFactor, context: &mut dyn RelationPlannerContext) -> DfResult<RelationPlanning> {
        match relation {
            TableFactor::Table {
                name,
                alias,
                args: None,
                with_hints,
                version: Some(version),
                with_ordinality: false,
                partitions,
                json_path: None,
                sample: None,
                index_hints,
            } if with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty() => {
                let planned = place(&version).and_then(|place| self.plan_table(place, name, alias, context));
                planned.map_err(|error| DataFusionError::External(Box::new(error)))
            }
            TableFactor::Table { version: Some(version), .. } => {
                let position = place(&version).ok().and_then(|place| self.clauses.get(place)).map(|clause| clause.position);
                let error = Error::unsupported("a time clause on a function call");
                let error = if let Some(position) = position { error.at(position) } else { error };
                Err(DataFusionError::External(Box::new(error)))
            }
            other => Ok(RelationPlanning::Original(Box::new(other))),
        }
    }
}

/// The clause that a table's version stands for.
fn place(version: &TableVersion) -> Result<usize> {
    match version {
        TableVersion::VersionAsOf(ast::Expr::Value(ast::ValueWithSpan { value: ast::Value::Number(place, _), .. })) => {
            place.to_string().parse().map_err(|_| Error::internal(format!("time clause {place}")))
        }
        TableVersion::VersionAsOf(_)
        | TableVersion::ForSystemTimeAsOf(_)
        | TableVersion::TimestampAsOf(_)
        | TableVersion::Function(_)
        | TableVersion::Changes { .. } => Err(Error::unsupported(format!("the table version {version}"))),
    }
}

fn refuse_unbuilt(clause: &TimeClause) -> Result<()> {
    let TimeClause { as_of, within, system_time, version, position } = clause;
    let unbuilt = [
        (system_time.is_some(), "FOR SYSTEM_TIME AS OF"),
        (version.is_some(), "VERSION AS OF"),
        (within.is_some(), "WITHIN"),
        (as_of.is_none(), "a time clause without AS OF"),
    ];
    match unbuilt.iter().find(|(written, _)| *written) {
        None => Ok(()),
        Some((_, what)) => {
            let hint = "Only AS OF an instant, or AS OF a column in a join, is supported so far.";
            Err(Error::unsupported(what).hint(hint).at(*position))
        }
    }
}

fn not_a_view(name: &str, position: usize) -> Error {
    Error::unsupported(format!("AS OF on \"{name}\""))
        .detail(format!("\"{name}\" is not a feature view."))
        .hint("Only feature views keep their past values.")
        .at(position)
}

fn at(error: Error, position: usize) -> Error {
    if error.position().is_some() { error } else { error.at(position) }
}

/// Whether an expression reads a column.
fn has_column(expr: &ast::Expr) -> bool {
    ast::visit_expressions(expr, |expr| match expr {
        ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_) | ast::Expr::CompoundFieldAccess { .. } => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    })
    .is_break()
}

/// Which names stand for `WITH` queries, where. A relation planner is asked before those names are looked up, so a clause on
/// one would otherwise reach the table that it hides.
struct Scopes<'a> {
    query: &'a Query,
    frames: Vec<Frame>,
    error: Option<Error>,
}

/// The `WITH` names of one query.
struct Frame {
    names: Vec<String>,
    /// How many of them can be seen so far; all of them in the query's own body.
    visible: usize,
}

fn folded(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

impl Visitor for Scopes<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &ast::Query) -> ControlFlow<()> {
        let names: Vec<_> = query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| folded(&cte.alias.name)).collect();
        let recursive = query.with.as_ref().is_some_and(|with| with.recursive);
        let visible = if recursive { names.len() } else { 0 };
        self.frames.push(Frame { names, visible });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &ast::Query) -> ControlFlow<()> {
        self.frames.pop();
        // The first queries inside one with WITH are the WITH queries themselves: each is seen by those after it.
        if let Some(outer) = self.frames.last_mut() {
            outer.visible = outer.names.len().min(outer.visible + 1);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name, version: Some(version), .. } = factor else { return ControlFlow::Continue(()) };
        let [ast::ObjectNamePart::Identifier(ident)] = name.0.as_slice() else { return ControlFlow::Continue(()) };
        let name = folded(ident);
        let hidden = self.frames.iter().any(|frame| frame.names[..frame.visible].contains(&name));
        if !hidden {
            return ControlFlow::Continue(());
        }
        let position = place(version).ok().and_then(|place| self.query.clauses.get(place)).map(|clause| clause.position);
        let error =
            Error::unsupported(format!("AS OF on the WITH query \"{name}\"")).hint("Write AS OF at the feature view inside it.");
        self.error = Some(if let Some(position) = position { error.at(position) } else { error });
        ControlFlow::Break(())
    }
}

/// The feature view that `plan` reads at the instants of a left side, and the place of its clause: a bare relation, under
/// an alias or not.
fn as_of_relation(plan: &LogicalPlan) -> Option<(Arc<FeatureView>, usize)> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => as_of_relation(&alias.input),
        LogicalPlan::Projection(projection) => as_of_relation(&projection.input),
        LogicalPlan::TableScan(scan) => {
            let provider = source_as_provider(&scan.source).ok()?;
            match provider.downcast_ref::<RelationProvider>()?.as_view()? {
                (view, Instant::OfLeftRow(place)) => Some((Arc::clone(view), place)),
                (_, Instant::Present | Instant::At(_)) => None,
            }
        }
        _ => None,
    }
}

/// `plan` with its as-of joins made; an error where a relation with `AS OF` a column stands anywhere else.
pub(super) fn join_nodes(plan: LogicalPlan, clauses: &TimeClauses, state: &SessionState) -> Result<LogicalPlan> {
    if clauses.clauses.is_empty() {
        return Ok(plan);
    }
    let transformed = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Join(join) = node else { return Ok(Transformed::no(node)) };
        let Some((view, place)) = as_of_relation(&join.right) else {
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        };
        let clause = &clauses.clauses[place];
        let node = join_node(join, view, clause, state, &clauses.context)
            .map_err(|error| DataFusionError::External(Box::new(at(error, clause.position))))?;
        clauses.taken.lock().insert(place);
        Ok(Transformed::yes(LogicalPlan::Extension(Extension { node: Arc::new(node) })))
    });
    let plan = transformed.map_err(from_datafusion)?.data;
    refuse_unjoined(&plan, clauses)?;
    Ok(plan)
}

fn refuse_unjoined(plan: &LogicalPlan, clauses: &TimeClauses) -> Result<()> {
    let taken = clauses.taken.lock().clone();
    let mut left_over = None;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(_) = node
            && let Some((view, place)) = as_of_relation(node)
            && !taken.contains(&place)
        {
            left_over = Some((view, place));
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(from_datafusion)?;
    match left_over {
        None => Ok(()),
        Some((view, place)) => Err(Error::unsupported(format!("AS OF a column on \"{}\" in this place", view.name))
            .hint("Join the feature view to the relation that has the column: l LEFT JOIN v AS OF l.ts AS f ON f.key = l.key.")
            .at(clauses.clauses[place].position)),
    }
}

/// `plan` with the instants of its snapshots known: each becomes a scan of its view at that instant. Parameters are
/// already values.
pub(super) fn fix_instants(plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Extension(extension) = &node else { return Ok(Transformed::no(node)) };
        let Some(snapshot) = extension.node.as_any().downcast_ref::<SnapshotNode>() else {
            return Ok(Transformed::no(node));
        };
        let instant = resolve(snapshot.instant(), state).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let relation = RelationProvider::view(snapshot.context(), snapshot.view(), Instant::At(instant));
        let source = provider_as_source(Arc::new(relation));
        let scan = LogicalPlanBuilder::scan(snapshot.reference().clone(), source, None)?.build()?;
        Ok(Transformed::yes(scan))
    })
    .map(|plan| plan.data)
    .map_err(from_datafusion)
}

/// Stands for a view's history below an as-of join until the join is planned; it cannot run.
#[derive(Debug)]
pub(super) struct AsOfSourceExec {
    view: Arc<FeatureView>,
    reader: DatasetReader,
    projection: Vec<usize>,
    properties: Arc<PlanProperties>,
}

impl AsOfSourceExec {
    /// The columns of `view` at these places.
    pub(super) fn new(view: Arc<FeatureView>, reader: DatasetReader, projection: Vec<usize>) -> Result<Self> {
        let schema = view.schema().project(&projection).map_err(|error| from_datafusion(error.into()))?;
        let schema: SchemaRef = Arc::new(schema);
        let properties = Arc::new(PlanProperties::new(
            datafusion::physical_expr::EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        Ok(Self { view, reader, projection, properties })
    }

    /// The view, its history, and the columns read.
    pub(super) fn parts(&self) -> (&Arc<FeatureView>, &DatasetReader, &[usize]) {
        (&self.view, &self.reader, &self.projection)
    }
}

impl DisplayAs for AsOfSourceExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsOfSourceExec: view={}", self.view.name)
    }
}

impl ExecutionPlan for AsOfSourceExec {
    fn name(&self) -> &'static str {
        "AsOfSourceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _partition: usize, _context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let error = Error::internal(format!("feature view \"{}\" is read AS OF a column outside a join", self.view.name));
        Err(DataFusionError::External(Box::new(error)))
    }
}
