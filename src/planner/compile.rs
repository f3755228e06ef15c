//! From a plan to a lookup of the short road, where the plan is nothing but one.
//!
//! What is compiled is the plan with its types coerced, before anything is moved in it: a scan of a view in the present tense, of
//! several that are joined on the keys of the first, or of a feature service's views, under a filter that binds every key by `=`,
//! `IN`, `= ANY` or `OR`s of them ([`BoundKeys`] judges that, as it does for the other road), under a projection of columns, under
//! a row count. Whatever else is in the plan makes it one for the other road, and so does wanting what a service computes. Nothing
//! that depends on the session gets into a compiled lookup, except what is part of its [`Standpoint`]: functions are refused, but
//! for those that casts of literals became.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType, NullEquality, ScalarValue};
use datafusion::datasource::source_as_provider;
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, FetchType, Join, LogicalPlan, Operator, SkipType, TableScan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use super::keys::{BoundKeys, Operand};
use super::moment::{At, Moment};
use super::provider::RelationProvider;
use super::service_scan::ServiceScan;
use super::{QueryPlan, StatementContext};
use crate::error::{Error, Result};
use crate::executor::EntityColumn;
use crate::lookup::{
    CellSource, CompiledLookup, KeyPlan, LookupColumn, LookupView, PartSource, Slot, SlotValues, Standpoint, parts as key_parts,
};
use crate::online::RowLayout;
use crate::registry::{FeatureView, KeyColumn};

use crate::types::SqlType;

/// A column of a view, by the view's place among those found; or, without a view, a part of the entity's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin {
    view: Option<usize>,
    column: usize,
}

/// Where columns come from; `None` for what a service computes, which may stand there as long as nobody wants it.
type Origins = Vec<Option<Origin>>;

/// A view found in the plan.
struct Side {
    view: Arc<FeatureView>,
    /// For each of its keys, the part of the entity's key that it equals.
    parts: Vec<usize>,
    is_required: bool,
}

/// What was found in the plan so far.
#[derive(Default)]
struct Found {
    sides: Vec<Side>,
    /// The parts of the entity's key: the keys of the first view, or of the service.
    parts: Vec<KeyColumn>,
    /// Whether the views are those of a service.
    is_service: bool,
    /// Conditions on the parts, under their names.
    filters: Vec<Expr>,
}

/// The lookup that `plan` is; `None` where it is more, less or something else. `state` is made only where it looks like one.
pub(super) fn compile(
    plan: &QueryPlan,
    context: &StatementContext,
    state: impl FnOnce() -> Result<SessionState>,
) -> Option<CompiledLookup> {
    let (limit, below) = row_count(&plan.analyzed)?;
    let mut found = Found::default();
    let origins = found.relation(below)?;
    let columns = origins.iter().zip(plan.schema.fields()).map(|(origin, field)| {
        let column = found.column((*origin)?)?;
        (SqlType::of_field(field)? == column.sql_type).then_some(column)
    });
    let columns = columns.collect::<Option<Vec<_>>>()?;
    let state = state().ok()?;
    let filters = found.filters.iter().map(|filter| simplified(filter, &found.parts, &state)).collect::<Option<Vec<_>>>()?;
    let filters: Vec<&Expr> = filters.iter().collect();
    let bound = BoundKeys::with_parameters(&found.parts, &filters, &plan.parameters).ok()?;
    if !bound.is_whole() || bound.used.contains(&false) {
        return None;
    }
    let keys = key_plan(&bound, &found.parts)?;
    // A parameter that no key is made of may be anything, also what is refused when it is computed with.
    let is_used = |parameter: usize| keys.slots.iter().any(|slot| slot.parameter == parameter);
    if !(0..plan.parameters.len()).all(is_used) {
        return None;
    }
    let standpoint = Standpoint { registry_version: context.registry.version, time_zone: context.time_zone.as_str().into() };
    let parts = found.parts;
    let views = found.sides.into_iter().map(|side| side.compiled(parts.len())).collect();
    Some(CompiledLookup { standpoint, parts, keys, views, columns, limit })
}

/// The row count on top of a plan, and what is below it.
fn row_count(plan: &LogicalPlan) -> Option<(Option<u64>, &LogicalPlan)> {
    let LogicalPlan::Limit(limit) = plan else { return Some((None, plan)) };
    match (limit.get_skip_type().ok()?, limit.get_fetch_type().ok()?) {
        (SkipType::Literal(0), FetchType::Literal(fetch)) => {
            let fetch = fetch.map(u64::try_from).transpose().ok()?;
            Some((fetch, &limit.input))
        }
        _ => None,
    }
}

impl Found {
    /// Where the columns of a node come from.
    fn relation(&mut self, plan: &LogicalPlan) -> Option<Origins> {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => self.relation(&alias.input),
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::Projection(projection) => {
                let below = self.relation(&projection.input)?;
                let schema = projection.input.schema();
                let is_service = self.is_service && matches!(projection.input.as_ref(), LogicalPlan::TableScan(_));
                let column = |expr| match origin(expr, schema, &below) {
                    None if is_service => Some(None),
                    found => found.map(Some),
                };
                projection.expr.iter().map(column).collect()
            }
            LogicalPlan::Filter(filter) => {
                let below = self.relation(&filter.input)?;
                let condition = self.over_keys(&filter.predicate, filter.input.schema(), &below)?;
                self.filters.push(condition);
                Some(below)
            }
            LogicalPlan::Join(join) => self.join(join),
            _ => None,
        }
    }

    fn scan(&mut self, scan: &TableScan) -> Option<Origins> {
        if !scan.filters.is_empty() || scan.fetch.is_some() {
            return None;
        }
        let provider = source_as_provider(&scan.source).ok()?;
        let columns: Vec<Option<Origin>> = if let Some(service) = provider.downcast_ref::<ServiceScan>() {
            self.service(service)?
        } else {
            let (view, moment) = provider.downcast_ref::<RelationProvider>()?.as_view()?;
            let place = self.sides.len();
            if place == 0 {
                self.parts.clone_from(&view.keys);
            }
            self.side(view, moment, (0..view.keys.len()).collect(), true)?;
            (0..view.schema().fields().len()).map(|column| Some(Origin { view: Some(place), column })).collect()
        };
        match &scan.projection {
            Some(projection) => projection.iter().map(|place| columns.get(*place).copied()).collect(),
            None => Some(columns),
        }
    }

    /// A view that can be asked online.
    fn side(&mut self, view: &Arc<FeatureView>, moment: Moment, parts: Vec<usize>, is_required: bool) -> Option<()> {
        let is_present = moment == Moment { at: At::Present, window: view.ttl, known_at: None, version: None };
        self.sides.push(Side { view: Arc::clone(view), parts, is_required });
        (is_present && view.online).then_some(())
    }

    /// The views of a service, of which any may lack a row.
    fn service(&mut self, service: &ServiceScan) -> Option<Origins> {
        if !self.sides.is_empty() {
            return None;
        }
        self.is_service = true;
        self.parts.clone_from(&service.definition().keys);
        for (member, places) in service.members() {
            self.side(&member.view, member.moment, places.clone(), false)?;
        }
        let origin = |column: &EntityColumn| match *column {
            EntityColumn::Key(column) => Origin { view: None, column },
            EntityColumn::Of { view, column } => Origin { view: Some(view), column },
        };
        Some(service.columns().iter().map(|column| Some(origin(column))).collect())
    }

    /// A view joined to those before it, each of its keys with one of theirs.
    fn join(&mut self, join: &Join) -> Option<Origins> {
        let is_required = match join.join_type {
            JoinType::Inner => true,
            JoinType::Left => false,
            _ => return None,
        };
        if join.null_equality != NullEquality::NullEqualsNothing || join.null_aware {
            return None;
        }
        let left = self.relation(&join.left)?;
        let (sides, filters) = (self.sides.len(), self.filters.len());
        let right = self.relation(&join.right)?;
        // On the right stands one view, whole. That a service has a row is not told by a view alone.
        if self.sides.len() != sides + 1 || self.filters.len() != filters || self.is_service {
            return None;
        }
        let both: Origins = left.iter().chain(&right).copied().collect();
        let mut equalities: Vec<(Origin, Origin)> = Vec::new();
        for (first, second) in &join.on {
            equalities.push((origin(first, join.left.schema(), &left)?, origin(second, join.right.schema(), &right)?));
        }
        for condition in join.filter.iter().flat_map(split_conjunction) {
            let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = condition else { return None };
            equalities.push((origin(left, &join.schema, &both)?, origin(right, &join.schema, &both)?));
        }
        let mut equal_to: Vec<Option<usize>> = vec![None; self.sides[sides].view.keys.len()];
        for (first, second) in equalities {
            let (theirs, own) = match (first.view == Some(sides), second.view == Some(sides)) {
                (false, true) => (first, second),
                (true, false) => (second, first),
                _ => return None,
            };
            let part = self.part(theirs)?;
            let is_same_type = self.parts[part].data_type == self.sides[sides].view.keys.get(own.column)?.data_type;
            let slot = equal_to.get_mut(own.column)?;
            if !is_same_type || slot.is_some_and(|other| other != part) {
                return None;
            }
            *slot = Some(part);
        }
        let side = &mut self.sides[sides];
        side.parts = equal_to.into_iter().collect::<Option<_>>()?;
        side.is_required = is_required;
        Some(both)
    }

    /// The part of the entity's key that a column is in every row; `None` for other columns, and those that may be NULL.
    fn part(&self, origin: Origin) -> Option<usize> {
        match origin.view {
            None => Some(origin.column),
            Some(view) => self.sides.get(view).filter(|side| side.is_required)?.parts.get(origin.column).copied(),
        }
    }

    /// A condition on keys, in the names of the parts. Whatever else is in it is refused.
    fn over_keys(&self, condition: &Expr, schema: &DFSchema, below: &[Option<Origin>]) -> Option<Expr> {
        let mut is_known = true;
        let named = condition.clone().transform_down(|expr| {
            Ok(match &expr {
                Expr::Column(_) => match origin(&expr, schema, below).and_then(|origin| self.part(origin)) {
                    Some(part) => {
                        let name = &self.parts[part].name;
                        Transformed::new(Expr::Column(Column::from_name(name)), true, TreeNodeRecursion::Jump)
                    }
                    None => {
                        is_known = false;
                        Transformed::new(expr, false, TreeNodeRecursion::Stop)
                    }
                },
                _ if is_plain(&expr) => Transformed::no(expr),
                _ => {
                    is_known = false;
                    Transformed::new(expr, false, TreeNodeRecursion::Stop)
                }
            })
        });
        named.ok().map(|named| named.data).filter(|_| is_known)
    }

    fn column(&self, origin: Origin) -> Option<LookupColumn> {
        let Origin { view, column } = origin;
        let (sql_type, source) = match view {
            None => (self.parts.get(column)?.data_type.clone(), CellSource::Key { view: None, part: column }),
            Some(view) => {
                let side = self.sides.get(view)?;
                let keys = side.view.keys.len();
                match column.checked_sub(keys + 1) {
                    Some(place) => (side.view.features.get(place)?.data_type.clone(), CellSource::Feature { view, place }),
                    None if column == keys => (SqlType::TimestampTz, CellSource::EventTime { view }),
                    None => {
                        let source = CellSource::Key { view: Some(view), part: side.parts[column] };
                        (side.view.keys[column].data_type.clone(), source)
                    }
                }
            }
        };
        let is_nested =
            matches!(&sql_type, SqlType::Array(element) if matches!(**element, SqlType::Array(_) | SqlType::Vector(_)));
        (!is_nested).then_some(LookupColumn { sql_type, source })
    }
}

impl Side {
    fn compiled(self, parts: usize) -> LookupView {
        let is_same = self.parts.iter().copied().eq(0..parts);
        LookupView {
            layout: RowLayout::new(&self.view),
            view: self.view,
            parts: (!is_same).then_some(self.parts),
            is_required: self.is_required,
        }
    }
}

/// The column that an expression is, under whatever name.
fn origin(expr: &Expr, schema: &DFSchema, below: &[Option<Origin>]) -> Option<Origin> {
    match expr {
        Expr::Alias(alias) => origin(&alias.expr, schema, below),
        Expr::Column(column) => below.get(schema.maybe_index_of_column(column)?).copied().flatten(),
        _ => None,
    }
}

/// What a condition on keys is made of. Of functions, only what casts and arrays of literals became: others may answer from the
/// session.
fn is_plain(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(..) | Expr::Placeholder(_) | Expr::Cast(_) | Expr::InList(_) | Expr::Not(_) => true,
        Expr::BinaryExpr(BinaryExpr { op, .. }) => matches!(op, Operator::Eq | Operator::And | Operator::Or),
        Expr::ScalarFunction(call) => matches!(call.func.name(), "from_text" | "array_has" | "make_array"),
        _ => false,
    }
}

/// A condition with its constants computed.
fn simplified(condition: &Expr, parts: &[KeyColumn], state: &SessionState) -> Option<Expr> {
    let fields = parts.iter().map(|key| key.data_type.field_ref(&key.name, false)).collect::<Vec<_>>();
    let schema = DFSchema::from_unqualified_fields(fields.into(), Default::default()).ok()?;
    let context =
        SimplifyContext::builder().with_schema(Arc::new(schema)).with_config_options(Arc::clone(state.config_options())).build();
    ExprSimplifier::new(context).simplify(condition.clone()).ok()
}

fn key_plan(bound: &BoundKeys, parts: &[KeyColumn]) -> Option<KeyPlan> {
    let mut plan = KeyPlan { slots: Vec::new(), alternatives: Vec::new() };
    for alternative in bound.alternatives() {
        let mut sources = Vec::with_capacity(parts.len());
        for (operand, key) in alternative.zip(parts) {
            sources.push(match operand {
                Operand::Value(value) => {
                    let part = key_parts(&key.data_type, &value.to_array().ok()?).ok()?.pop()??;
                    PartSource::Constant(part.as_bytes().to_vec().into())
                }
                Operand::Parameter(slot) => PartSource::Slot(place_of(&mut plan.slots, slot)),
            });
        }
        plan.alternatives.push(sources);
    }
    Some(plan)
}

/// The place of a slot among the others, where it is put if it is not among them.
fn place_of(slots: &mut Vec<Slot>, slot: &Slot) -> usize {
    slots.iter().position(|other| other == slot).unwrap_or_else(|| {
        slots.push(slot.clone());
        slots.len() - 1
    })
}

/// The values that a parameter gives a slot.
pub fn slot_values(slot: &Slot, value: &ScalarValue, values: &mut SlotValues) -> Result<()> {
    if !value.is_null() {
        let no_array = |source| Error::internal("a parameter that is no value").caused_by(source);
        let column = match value {
            ScalarValue::List(list) => Arc::clone(list.values()),
            value => value.to_array().map_err(no_array)?,
        };
        values.add_column(&slot.part_type, &column)?;
    }
    values.end_slot();
    Ok(())
}
