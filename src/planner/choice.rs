//! The choice of one row that is an as-of join: of the rows of a relation that go with a left row, the one nearest to an
//! instant of that row.
//!
//! PostgreSQL's own spellings all say it as conditions and an order: [`lateral`](super::lateral) and
//! [`scalar`](super::scalar) inside a subquery, [`first_row`](super::first_row) over a join. What they say becomes the question
//! of an as-of join here, or nothing.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{BinaryExpr, Cast, Sort};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, Operator};

use super::StatementContext;
use super::as_of_join::{Keyed, bind_keys, known_at};
use super::errors::from_datafusion;
use super::instant::{contains_subquery, instant};
use super::literals;
use super::match_condition::{Inequality, Sides, comparable, inequality_between, key_pair, sides};
use super::nodes::{Asked, AskedOf};
use super::provider::RelationProvider;
use crate::error::Result;
use crate::executor::{AsOfKind, Bound, Direction};
use crate::registry::FeatureView;
use crate::types::SqlType;

/// The row of `base` that `sorts` put first, among those for which all conditions hold. Columns of the left side are plain
/// columns in the conditions; `sorts` are over `base` alone.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) base: LogicalPlan,
    pub(super) conditions: Vec<Expr>,
    pub(super) sorts: Vec<Sort>,
}

/// The conditions of a choice, told apart.
#[derive(Default)]
struct Told {
    equalities: Vec<(Expr, (Expr, Expr))>,
    inequalities: Vec<Inequality>,
    of_left: Vec<Expr>,
    of_right: Vec<Expr>,
}

impl Choice {
    /// What an as-of join asks its right side, and that right side: it has the columns of `base`. `None` where the choice is
    /// another one.
    pub(super) fn as_of(
        &self,
        left: &DFSchema,
        kind: AsOfKind,
        state: &SessionState,
        context: &Arc<StatementContext>,
    ) -> Result<Option<(LogicalPlan, Asked)>> {
        let right = self.base.schema();
        let Some(told) = self.told(left) else { return Ok(None) };
        let Some((first, ties)) = self.sorts.split_first() else { return Ok(None) };
        if self.sorts.iter().any(|sort| reads_outside(&sort.expr)) {
            return Ok(None);
        }
        let history = ViewHistory::of(&self.base)?;
        let is_created = |expr: &Expr| history.as_ref().is_some_and(|history| history.is_created_time(expr));
        let (known, inequalities): (Vec<_>, Vec<_>) =
            told.inequalities.into_iter().partition(|inequality| is_created(&inequality.right) && !is_created(&first.expr));
        let Some((inequality, within)) = nearest(first, inequalities) else { return Ok(None) };
        let asked = |keys, instant, known_at, right| Asked {
            keys,
            instant,
            known_at,
            within: within.clone(),
            right,
            condition: conjunction(told.of_left.clone()),
            direction: inequality.direction,
            bound: inequality.bound,
            kind,
        };
        let conditions = || told.equalities.iter().map(|(condition, _)| condition.clone()).collect();
        // As an as-of join reads a view: by event time, the last correction first.
        if let Some(history) = &history
            && history.is_event_time(&inequality.right)
            && matches!(ties, [] | [_])
            && ties.iter().all(|tie| is_created(&tie.expr) && !tie.asc)
            && told.of_right.is_empty()
            && let Some(own_keys) = history.keys()
            && let Ok((keys, rest)) = bind_keys(&Keyed::from(history.view.as_ref()), left, &own_keys, conditions())
            && rest.is_empty()
            && let Some(at) = as_instant(&inequality.left, left, context)?
            && let Some(known_at) = knowledge(&known, left, state, context)?
        {
            return Ok(Some((history.plan.clone(), asked(keys, at, known_at, None))));
        }
        if !known.is_empty() {
            return Ok(None);
        }
        let pairs = told
            .equalities
            .into_iter()
            .map(|(_, (of_left, of_right))| comparable((of_left, left), (of_right, right), "=", &context.time_zone));
        let (keys, right_keys): (Vec<_>, Vec<_>) = pairs.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let (at, order) = comparable(
            (inequality.left.clone(), left),
            (inequality.right.clone(), right),
            inequality.operator,
            &context.time_zone,
        )?;
        let right_side = AskedOf { keys: right_keys, order, ties: ties.to_vec() };
        let base = match conjunction(told.of_right.clone()) {
            None => self.base.clone(),
            Some(filter) => LogicalPlan::Filter(Filter::try_new(filter, Arc::new(self.base.clone())).map_err(from_datafusion)?),
        };
        Ok(Some((base, asked(keys, at, None, Some(right_side)))))
    }

    /// The conditions by what they compare; `None` where one compares the sides in another way, or reads what neither has.
    fn told(&self, left: &DFSchema) -> Option<Told> {
        let right = self.base.schema();
        let mut told = Told::default();
        for condition in self.conditions.iter().cloned().flat_map(pieces) {
            let of_either = |column: &&datafusion::common::Column| {
                left.maybe_index_of_column(column).is_some() != right.maybe_index_of_column(column).is_some()
            };
            if reads_outside(&condition) || !condition.column_refs().iter().all(of_either) {
                return None;
            }
            match sides(&condition, left, right) {
                Sides::Left | Sides::Neither => told.of_left.push(condition),
                Sides::Right => told.of_right.push(condition),
                Sides::Both => match (key_pair(&condition, left, right), inequality_between(&condition, left, right)) {
                    (Some(pair), _) => told.equalities.push((condition, pair)),
                    (None, Some(inequality)) => told.inequalities.push(inequality),
                    (None, None) => return None,
                },
            }
        }
        Some(told)
    }
}

/// What `created_time <= l.x` says the answer may know; `None` where it cannot be said to an as-of join.
#[expect(clippy::option_option, reason = "to know everything is an answer too")]
fn knowledge(
    stated: &[Inequality],
    left: &DFSchema,
    state: &SessionState,
    context: &Arc<StatementContext>,
) -> Result<Option<Option<Expr>>> {
    let session = known_at(None, left, state, context)?;
    match stated {
        [] => Ok(Some(session)),
        [one] if session.is_none() && one.direction == Direction::Backward && one.bound == Bound::Inclusive => {
            Ok(as_instant(&one.left, left, context)?.map(Some))
        }
        _ => Ok(None),
    }
}

/// A condition in pieces that must all hold; `BETWEEN` is two.
pub(super) fn pieces(condition: Expr) -> Vec<Expr> {
    let compare =
        |left: &Expr, op, right: &Expr| Expr::BinaryExpr(BinaryExpr::new(Box::new(left.clone()), op, Box::new(right.clone())));
    let parts = split_conjunction_owned(condition).into_iter();
    let parts = parts.flat_map(|part| match part {
        Expr::Between(between) if !between.negated => {
            vec![compare(&between.expr, Operator::GtEq, &between.low), compare(&between.expr, Operator::LtEq, &between.high)]
        }
        part => vec![part],
    });
    parts.filter(|part| !matches!(part, Expr::Literal(ScalarValue::Boolean(Some(true)), _))).collect()
}

/// Whether an expression's value is not its row's alone.
pub(super) fn reads_outside(expr: &Expr) -> bool {
    contains_subquery(expr) || expr.is_volatile()
}

/// An expression of the left side as an instant; `None` where it is none.
fn as_instant(expr: &Expr, left: &DFSchema, context: &StatementContext) -> Result<Option<Expr>> {
    match expr.get_type(left).map_err(from_datafusion)? {
        DataType::Timestamp(..) | DataType::Date32 => instant(expr.clone(), left, &context.time_zone).map(Some),
        _ => Ok(None),
    }
}

/// The inequality that the first sort key goes with, and the window that a second one leaves: `r.t >= l.t - interval`.
fn nearest(first: &Sort, inequalities: Vec<Inequality>) -> Option<(Inequality, Option<Expr>)> {
    let direction = if first.asc { Direction::Forward } else { Direction::Backward };
    let (mut main, mut other): (Vec<_>, Vec<_>) =
        inequalities.into_iter().partition(|inequality| inequality.direction == direction && inequality.right == first.expr);
    let main = match (main.pop(), main.is_empty()) {
        (Some(main), true) => main,
        _ => return None,
    };
    let away = if first.asc { Operator::Plus } else { Operator::Minus };
    match (other.pop(), other.is_empty()) {
        (None, _) => Some((main, None)),
        (Some(limit), true) => {
            // Both ends count, as they do in a window.
            let inclusive = limit.right == first.expr && limit.bound == Bound::Inclusive;
            let Expr::BinaryExpr(BinaryExpr { left, op, right }) = &limit.left else { return None };
            let is_window = inclusive && *op == away && **left == main.left && is_fixed_length(right);
            is_window.then(|| (main, Some(right.as_ref().clone())))
        }
        (Some(_), false) => None,
    }
}

/// Whether an expression is an interval that a window may have.
fn is_fixed_length(expr: &Expr) -> bool {
    let interval = match expr {
        Expr::Literal(value, _) => Ok(value.clone()),
        Expr::Cast(Cast { expr, field }) if matches!(field.data_type(), DataType::Interval(_)) => match expr.as_ref() {
            Expr::Literal(ScalarValue::Utf8(Some(text)), _) => {
                literals::read(text, &SqlType::Interval, &SqlType::Interval.arrow(), "UTC")
            }
            _ => return false,
        },
        _ => return false,
    };
    matches!(interval, Ok(ScalarValue::IntervalMonthDayNano(Some(interval)))
        if interval.months == 0 && interval.days >= 0 && interval.nanoseconds >= 0)
}

/// The history of a feature view under a choice of its columns, as an as-of join reads it.
struct ViewHistory {
    view: Arc<FeatureView>,
    plan: LogicalPlan,
    /// For each of its columns the place among those of `history.v`.
    places: Vec<usize>,
}

impl ViewHistory {
    /// What stands at `place` among the columns of `history.v`.
    fn is_at(&self, expr: &Expr, place: usize) -> bool {
        let Expr::Column(column) = expr else { return false };
        self.plan.schema().maybe_index_of_column(column).is_some_and(|own| self.places[own] == place)
    }

    fn is_event_time(&self, expr: &Expr) -> bool {
        self.is_at(expr, self.view.event_time_index())
    }

    fn is_created_time(&self, expr: &Expr) -> bool {
        // Behind the view's own columns.
        self.is_at(expr, self.view.schema().fields().len())
    }

    /// The entity's keys in their order; `None` where one is not among the columns.
    fn keys(&self) -> Option<DFSchema> {
        let own = |key| self.places.iter().position(|place| *place == key);
        let keys = (0..self.view.keys.len()).map(own).collect::<Option<Vec<_>>>()?;
        let schema = self.plan.schema();
        let fields = keys.into_iter().map(|own| {
            let (relation, field) = schema.qualified_field(own);
            (relation.cloned(), Arc::clone(field))
        });
        DFSchema::new_with_metadata(fields.collect(), HashMap::new()).ok()
    }

    /// `plan` as such a history; `None` where it is another relation.
    fn of(plan: &LogicalPlan) -> Result<Option<Self>> {
        let below = match plan {
            LogicalPlan::SubqueryAlias(alias) => Self::of(&alias.input)?,
            LogicalPlan::Projection(projection) => Self::of(&projection.input)?,
            LogicalPlan::TableScan(scan) => {
                let provider = source_as_provider(&scan.source).ok();
                let history = provider.as_ref().and_then(|provider| provider.downcast_ref::<RelationProvider>()?.as_history());
                let Some((view, relation)) = history else { return Ok(None) };
                let scan = LogicalPlanBuilder::scan(scan.table_name.clone(), provider_as_source(Arc::new(relation)), None);
                let plan = scan.and_then(LogicalPlanBuilder::build).map_err(from_datafusion)?;
                let places = (0..plan.schema().fields().len()).collect();
                return Ok(Some(Self { view, plan, places }));
            }
            _ => None,
        };
        let Some(Self { view, plan: input, mut places }) = below else { return Ok(None) };
        if let LogicalPlan::Projection(projection) = plan {
            let place = |expr: &Expr| match expr.clone().unalias() {
                Expr::Column(column) => input.schema().maybe_index_of_column(&column).map(|below| places[below]),
                _ => None,
            };
            let Some(own) = projection.expr.iter().map(place).collect() else { return Ok(None) };
            places = own;
        }
        let plan = plan.with_new_exprs(plan.expressions(), vec![input]).map_err(from_datafusion)?;
        Ok(Some(Self { view, plan, places }))
    }
}
