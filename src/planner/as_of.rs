//! The time clauses: each is taken, or refused by name.
//!
//! A table whose clause holds constants becomes a [`SnapshotNode`], whose moment is known when the query runs. A table whose
//! clause names a column becomes a relation that only an as-of join may read, and so does a view directly right of an
//! `ASOF JOIN`; once the query is planned, [`join_nodes`] turns the joins that have such a relation on their right into
//! [`AsOfJoinNode`]s. What is left over is an error: DataFusion itself would drop a clause that nobody took and answer with
//! today's rows.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Extension, LogicalPlan, LogicalPlanBuilder, SubqueryAlias};
use datafusion::sql::sqlparser::ast::{self, TableFactor, TableVersion, Visit, Visitor};
use parking_lot::Mutex;

use super::StatementContext;
use super::as_of_join::as_of_join;
use super::errors::from_datafusion;
use super::first_row::first_rows;
use super::instant::instant;
use super::lateral::lateral_join;
use super::match_condition::{MatchClause, match_clauses, match_join, match_number};
use super::moment::{At, ClauseTimes, Moment, interval};
use super::nodes::{AsOfJoinNode, MatchNode, SnapshotNode, SnapshotOf};
use super::provider::RelationProvider;
use super::scalar::scalar_subqueries;
use super::service::Service;
use super::service_join::service_join;
use crate::error::{Error, Result, SqlState};
use crate::parser::{Query, TimeClause};
use crate::registry::FeatureView;
use crate::time::DatasetVersion;

/// The time clauses and `ASOF JOIN`s of one query while it is planned.
#[derive(Debug)]
pub(super) struct TimeClauses {
    context: Arc<StatementContext>,
    clauses: Vec<TimeClause>,
    matches: Vec<MatchClause>,
    /// The places of those clauses that a relation or a join took.
    taken: Mutex<BTreeSet<usize>>,
}

impl TimeClauses {
    /// The clauses of `query`, and its `ASOF JOIN`s, which become joins that DataFusion plans. A clause on a `WITH` query is
    /// refused.
    pub(super) fn of(context: &Arc<StatementContext>, query: &mut Query) -> Result<Self> {
        let mut scopes = Scopes { query, frames: Vec::new(), error: None };
        let _ = query.body.visit(&mut scopes);
        if let Some(error) = scopes.error {
            return Err(error);
        }
        let matches = match_clauses(query)?;
        Ok(Self { context: Arc::clone(context), clauses: query.clauses.clone(), matches, taken: Mutex::new(BTreeSet::new()) })
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
        let position = clause.position;
        let reference = context.object_name_to_table_reference(name).map_err(from_datafusion)?;
        let source = context.context_provider().get_table_source(reference.clone()).map_err(from_datafusion)?;
        let view = source_as_provider(&source).ok().and_then(|provider| {
            let relation = provider.downcast_ref::<RelationProvider>()?;
            relation.as_view().map(|(view, _)| Arc::clone(view))
        });
        let of = match view {
            Some(view) => SnapshotOf::View(view),
            None => match Service::of_source(&source) {
                Some(service) => SnapshotOf::Service(service),
                None => return Err(not_a_view(reference.table(), position)),
            },
        };
        let versions = match &of {
            SnapshotOf::View(view) => vec![version(clause, view)?],
            SnapshotOf::Service(service) => service_versions(clause, service)?,
        };
        if [&clause.as_of, &clause.system_time].into_iter().flatten().any(has_column) {
            // Taken only when a join finds it.
            let moment = |number: usize, view: &FeatureView| {
                let version = versions.get(number).copied().flatten();
                Ok(Moment { at: At::OfLeftRow(place), window: view.ttl, known_at: None, version })
            };
            let plan = match &of {
                SnapshotOf::View(view) => {
                    let relation = RelationProvider::view(&self.context, view, moment(0, view)?);
                    let scan = LogicalPlanBuilder::scan(reference, provider_as_source(Arc::new(relation)), None);
                    scan.and_then(LogicalPlanBuilder::build)
                }
                SnapshotOf::Service(service) => service.at(moment)?.marker(reference),
            };
            let plan = plan.map_err(from_datafusion)?;
            return Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))));
        }
        let schema = datafusion::common::DFSchema::empty();
        let mut expr = |written: &ast::Expr| {
            context.sql_to_expr(written.clone(), &schema).map_err(|error| at(from_datafusion(error), position))
        };
        let mut when = |written: &Option<ast::Expr>| {
            let expr = written.as_ref().map(&mut expr).transpose()?;
            expr.map(|expr| instant(expr, &schema, &self.context.time_zone)).transpose().map_err(|error| at(error, position))
        };
        let (as_of, system_time) = (when(&clause.as_of)?, when(&clause.system_time)?);
        let within = clause.within.as_ref().map(expr).transpose()?;
        let within = within.map(|within| interval(within, "WITHIN")).transpose().map_err(|error| at(error, position))?;
        if as_of.is_none() && system_time.is_none() && clause.version.is_none() {
            return Err(
                Error::new(SqlState::SyntaxError, "features_at needs an instant, a system time or a version").at(position)
            );
        }
        let times = ClauseTimes { as_of, within, system_time };
        let node = SnapshotNode::new(&self.context, of, reference, times, versions)?;
        self.taken.lock().insert(place);
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }

    /// The right side of the `ASOF JOIN` with this number: a bare view stands for its history.
    fn plan_match(&self, number: usize, relation: TableFactor, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
        let mut relation = relation;
        let mut clause = None;
        if let TableFactor::Table { version: written @ Some(_), .. } = &mut relation {
            let place = written.as_ref().map(place).transpose()?.unwrap_or_default();
            // With an instant of its own the view is one row an entity, as everywhere.
            if self.clauses.get(place).is_some_and(|clause| clause.as_of.is_none()) {
                *written = None;
                clause = Some(place);
            }
        }
        if let TableFactor::Table { name, .. } = &relation {
            self.refuse_service(name, number, context)?;
        }
        let plan = context.plan(relation).map_err(from_datafusion)?;
        let input = match self.as_history(&plan, clause)? {
            Some(history) => history,
            None => match clause.and_then(|place| self.clauses.get(place)) {
                Some(clause) => return Err(not_a_view("the right side of ASOF JOIN", clause.position)),
                None => plan,
            },
        };
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(MatchNode::new(number, input)) }))
    }

    /// A service has no history that could stand in its place, and its rows of now are not what an `ASOF JOIN` asks for.
    fn refuse_service(&self, name: &ast::ObjectName, number: usize, context: &dyn RelationPlannerContext) -> Result<()> {
        let Ok(reference) = context.object_name_to_table_reference(name.clone()) else { return Ok(()) };
        let Ok(source) = context.context_provider().get_table_source(reference) else { return Ok(()) };
        match Service::of_source(&source) {
            Some(service) => Err(Error::unsupported(format!("ASOF JOIN with feature service \"{}\"", service.name()))
                .hint("Write LEFT JOIN … AS OF l.ts AS f ON f.key = l.key.")
                .at(self.matches[number].position)),
            None => Ok(()),
        }
    }

    /// The history of the view that `plan` is, under an alias or not; `None` for other relations.
    fn as_history(&self, plan: &LogicalPlan, clause: Option<usize>) -> Result<Option<LogicalPlan>> {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => match self.as_history(&alias.input, clause)? {
                Some(history) => {
                    let alias = SubqueryAlias::try_new(Arc::new(history), alias.alias.clone()).map_err(from_datafusion)?;
                    Ok(Some(LogicalPlan::SubqueryAlias(alias)))
                }
                None => Ok(None),
            },
            LogicalPlan::TableScan(scan) => {
                let Some((view, _)) = scanned_view(plan) else { return Ok(None) };
                let version = match clause.and_then(|place| self.clauses.get(place)) {
                    Some(clause) => version(clause, &view)?,
                    None => None,
                };
                let moment = Moment { at: At::OfMatch(clause), window: view.ttl, known_at: None, version };
                let relation = RelationProvider::view(&self.context, &view, moment);
                let scan = LogicalPlanBuilder::scan(scan.table_name.clone(), provider_as_source(Arc::new(relation)), None);
                scan.and_then(LogicalPlanBuilder::build).map(Some).map_err(from_datafusion)
            }
            _ => Ok(None),
        }
    }

    /// The `AS OF` join, or the `ASOF JOIN`, that a join is, and PostgreSQL's own spellings of them; `None` for all else.
    fn joined(&self, node: &LogicalPlan, state: &SessionState) -> Result<Option<LogicalPlan>> {
        let LogicalPlan::Join(join) = node else {
            let first = first_rows(node, state, &self.context)?;
            let joined = scalar_subqueries(first.as_ref().unwrap_or(node), state, &self.context)?;
            return Ok(joined.or(first));
        };
        if let LogicalPlan::Extension(extension) = join.right.as_ref()
            && let Some(right) = extension.node.as_any().downcast_ref::<MatchNode>()
        {
            let matched = &self.matches[right.number];
            let history = as_of_relation(&right.input);
            let clause = match &history {
                Some((_, Moment { at: At::OfMatch(place), .. })) => *place,
                _ => None,
            };
            let view = history.map(|(view, _)| view);
            let written = clause.map(|place| &self.clauses[place]);
            let joined = match_join(join, &right.input, view, matched, written, state, &self.context)
                .map_err(|error| at(error, matched.position))?;
            self.taken.lock().extend(clause);
            return Ok(Some(LogicalPlan::Extension(Extension { node: Arc::new(joined) })));
        }
        if let Some((service, place)) = Service::of_left_row(&join.right) {
            let clause = &self.clauses[place];
            let joined = service_join(join, &service, (place, clause), state, &self.context)
                .map_err(|error| at(error, clause.position))?;
            self.taken.lock().insert(place);
            return Ok(Some(joined));
        }
        let Some((view, Moment { at: At::OfLeftRow(place), .. })) = as_of_relation(&join.right) else {
            return lateral_join(join, state, &self.context);
        };
        let clause = &self.clauses[place];
        let joined = as_of_join(join, &view, clause, state, &self.context).map_err(|error| at(error, clause.position))?;
        self.taken.lock().insert(place);
        Ok(Some(LogicalPlan::Extension(Extension { node: Arc::new(joined) })))
    }
}

impl RelationPlanner for TimeClauses {
    fn plan_relation(&self, relation: TableFactor, context: &mut dyn RelationPlannerContext) -> DfResult<RelationPlanning> {
        if let Some(number) = match_number(&relation)
            && let TableFactor::NestedJoin { table_with_joins, .. } = relation
        {
            let planned = self.plan_match(number, table_with_joins.relation, context).map_err(external)?;
            return Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(planned, None))));
        }
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
                place(&version).and_then(|place| self.plan_table(place, name, alias, context)).map_err(external)
            }
            TableFactor::Table { version: Some(version), .. } => {
                let position = place(&version).ok().and_then(|place| self.clauses.get(place)).map(|clause| clause.position);
                let error = Error::unsupported("a time clause on a function call");
                Err(external(if let Some(position) = position { error.at(position) } else { error }))
            }
            other => Ok(RelationPlanning::Original(Box::new(other))),
        }
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
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

/// The version that a clause names: a number, or a tag of the view.
fn version(clause: &TimeClause, view: &FeatureView) -> Result<Option<DatasetVersion>> {
    let Some(written) = &clause.version else { return Ok(None) };
    let wrong = || {
        Error::new(SqlState::InvalidParameterValue, format!("VERSION AS OF takes a number or a tag, not {written}"))
            .hint("Write VERSION AS OF 42 or VERSION AS OF 'release-12'.")
            .at(clause.position)
    };
    let ast::Expr::Value(value) = written else { return Err(wrong()) };
    match &value.value {
        ast::Value::Number(number, _) => {
            number.to_string().parse().map(|number| Some(DatasetVersion(number))).map_err(|_| wrong())
        }
        ast::Value::SingleQuotedString(tag) => match view.tags.get(tag) {
            Some(version) => Ok(Some(*version)),
            None => Err(Error::new(
                SqlState::UndefinedObject,
                format!("tag \"{tag}\" of feature view \"{}\" does not exist", view.name),
            )
            .hint("CREATE TAG … ON FEATURE VIEW … makes one; tidegate.tags lists them.")
            .at(clause.position)),
        },
        _ => Err(wrong()),
    }
}

/// The version that a clause names for each view of a service: a tag that all of them have.
fn service_versions(clause: &TimeClause, service: &Service) -> Result<Vec<Option<DatasetVersion>>> {
    if let Some(ast::Expr::Value(value)) = &clause.version
        && matches!(value.value, ast::Value::Number(..))
    {
        return Err(Error::unsupported(format!("VERSION AS OF a number on feature service \"{}\"", service.name()))
            .hint("Each of its feature views has versions of its own: name a tag that all of them have.")
            .at(clause.position));
    }
    service.views().map(|view| version(clause, view)).collect()
}

fn not_a_view(name: &str, position: usize) -> Error {
    Error::unsupported(format!("a time clause on \"{name}\""))
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
        let error = Error::unsupported(format!("a time clause on the WITH query \"{name}\""))
            .hint("Write it at the feature view inside it.");
        self.error = Some(if let Some(position) = position { error.at(position) } else { error });
        ControlFlow::Break(())
    }
}

/// The feature view that a scan reads, and when.
fn scanned_view(plan: &LogicalPlan) -> Option<(Arc<FeatureView>, Moment)> {
    let LogicalPlan::TableScan(scan) = plan else { return None };
    let provider = source_as_provider(&scan.source).ok()?;
    let (view, moment) = provider.downcast_ref::<RelationProvider>()?.as_view()?;
    Some((Arc::clone(view), moment))
}

/// The feature view that only an as-of join may read: a bare relation, under an alias or not.
fn as_of_relation(plan: &LogicalPlan) -> Option<(Arc<FeatureView>, Moment)> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => as_of_relation(&alias.input),
        LogicalPlan::Projection(projection) => as_of_relation(&projection.input),
        plan => scanned_view(plan).filter(|(_, moment)| matches!(moment.at, At::OfLeftRow(_) | At::OfMatch(_))),
    }
}

/// `plan` with its as-of joins made; an error where a relation that only they may read stands anywhere else.
pub(super) fn join_nodes(plan: LogicalPlan, clauses: &TimeClauses, state: &SessionState) -> Result<LogicalPlan> {
    let transformed = plan.transform_up_with_subqueries(|node| match clauses.joined(&node, state).map_err(external)? {
        Some(joined) => Ok(Transformed::yes(joined)),
        None => Ok(Transformed::no(node)),
    });
    let plan = transformed.map_err(from_datafusion)?.data;
    refuse_unjoined(&plan, clauses)?;
    Ok(plan)
}

fn refuse_unjoined(plan: &LogicalPlan, clauses: &TimeClauses) -> Result<()> {
    let mut left_over = None;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Extension(extension) = node {
            let node = extension.node.as_any();
            if let Some(join) = node.downcast_ref::<AsOfJoinNode>() {
                // Its right side is in its place.
                refuse_unjoined(&join.left, clauses).map_err(external)?;
                return Ok(TreeNodeRecursion::Jump);
            }
            if let Some(right) = node.downcast_ref::<MatchNode>() {
                left_over = Some(Error::unsupported("ASOF JOIN in this place").at(clauses.matches[right.number].position));
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        let of_view = match scanned_view(node) {
            Some((view, Moment { at: At::OfLeftRow(place), .. })) => Some((view.name.clone(), place)),
            _ => None,
        };
        let of_service = matches!(node, LogicalPlan::TableScan(_)).then(|| Service::of_left_row(node)).flatten();
        if let Some((name, place)) = of_view.or_else(|| of_service.map(|(service, place)| (service.name().to_owned(), place))) {
            let hint =
                "Join the feature view to the relation that has the column: l LEFT JOIN v AS OF l.ts AS f ON f.key = l.key.";
            let error = Error::unsupported(format!("AS OF a column on \"{name}\" in this place")).hint(hint);
            left_over = Some(error.at(clauses.clauses[place].position));
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(from_datafusion)?;
    left_over.map_or(Ok(()), Err)
}

/// `plan` with the moments of its snapshots known: each becomes a scan of its view at that moment. Parameters are already
/// values.
pub(super) fn fix_instants(plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Extension(extension) = &node else { return Ok(Transformed::no(node)) };
        let Some(snapshot) = extension.node.as_any().downcast_ref::<SnapshotNode>() else {
            return Ok(Transformed::no(node));
        };
        snapshot.plan(state).map(Transformed::yes).map_err(external)
    })
    .map(|plan| plan.data)
    .map_err(from_datafusion)
}
