//! What a plan reads: the views, the keys that join them, and where its columns come from.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType, NullEquality};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::utils::{disjunction, split_conjunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Join, LogicalPlan, Operator, TableScan};

use super::left::LeftSide;
use crate::executor::EntityColumn;
use crate::lookup::{CellSource, LookupView};
use crate::online::RowLayout;
use crate::planner::casts::same_or_wider;
use crate::planner::correlated::when;
use crate::planner::moment::{At, Moment};
use crate::planner::provider::RelationProvider;
use crate::planner::service_scan::ServiceScan;
use crate::registry::{FeatureView, KeyColumn};
use crate::types::SqlType;

/// What opens the names that inputs of expressions have.
const INPUT: char = '\u{1f}';

/// Where a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A part of the entity's key.
    Part(usize),
    /// A column of a view, by the view's place among those found.
    View { view: usize, column: usize },
    /// A column of the left side.
    Left(usize),
}

/// What a column of the plan is.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// It is there.
    Stored(Origin),
    /// It is computed, of inputs: columns named by [`Found::input`].
    Computed(Expr),
}

/// What the columns of a node are; `None` for what cannot be told, which may stand there as long as nobody wants it.
pub(super) type Sources = Vec<Option<Source>>;

/// A view found in the plan.
pub(super) struct Side {
    pub(super) view: Arc<FeatureView>,
    /// For each of its keys, the part of the entity's key that it equals; or, beside a left side, that side's column.
    parts: Vec<usize>,
    is_required: bool,
}

/// What was found in the plan so far.
#[derive(Default)]
pub(super) struct Found {
    pub(super) sides: Vec<Side>,
    /// The parts of the entity's key: the keys of the first view, or of the service.
    pub(super) parts: Vec<KeyColumn>,
    /// The side that names keys by its rows, if there is one.
    pub(super) left: Option<LeftSide>,
    /// Whether the views are those of a service.
    is_service: bool,
    /// Whether left rows stay that have no row in any view.
    pub(super) keeps_all: bool,
    /// The columns of the left side that are the key of a service joined to it, and the types of its parts.
    pub(super) service_key: Vec<(usize, SqlType)>,
    /// Conditions on the parts, under their names.
    pub(super) filters: Vec<Expr>,
    /// What expressions take.
    pub(super) inputs: Vec<Origin>,
}

impl Found {
    /// What the columns of a node are.
    pub(super) fn relation(&mut self, plan: &LogicalPlan) -> Option<Sources> {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => self.relation(&alias.input),
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::Projection(projection) => {
                let below = self.relation(&projection.input)?;
                let schema = projection.input.schema();
                Some(projection.expr.iter().map(|expr| self.source(expr, schema, &below)).collect())
            }
            LogicalPlan::Filter(filter) => {
                let below = self.relation(&filter.input)?;
                let condition = self.over_keys(&filter.predicate, filter.input.schema(), &below)?;
                self.filters.push(condition);
                Some(below)
            }
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Unnest(_) | LogicalPlan::Values(_) => {
                if self.left.is_some() || !self.sides.is_empty() {
                    return None;
                }
                let left = LeftSide::of(plan)?;
                let columns = (0..left.width()).map(|column| Some(Source::Stored(Origin::Left(column)))).collect();
                self.left = Some(left);
                self.keeps_all = true;
                Some(columns)
            }
            _ => None,
        }
    }

    fn scan(&mut self, scan: &TableScan) -> Option<Sources> {
        if !scan.filters.is_empty() || scan.fetch.is_some() {
            return None;
        }
        let provider = source_as_provider(&scan.source).ok()?;
        let columns: Vec<Origin> = if let Some(service) = provider.downcast_ref::<ServiceScan>() {
            self.service(service)?
        } else {
            let (view, moment) = provider.downcast_ref::<RelationProvider>()?.as_view()?;
            let place = self.sides.len();
            if place == 0 {
                self.parts.clone_from(&view.keys);
            }
            self.side(view, moment, (0..view.keys.len()).collect(), true)?;
            (0..view.schema().fields().len()).map(|column| Origin::View { view: place, column }).collect()
        };
        let stored = |origin: Origin| Some(Source::Stored(origin));
        match &scan.projection {
            Some(projection) => projection.iter().map(|place| columns.get(*place).copied().map(stored)).collect(),
            None => Some(columns.into_iter().map(stored).collect()),
        }
    }

    /// A view that can be asked online.
    fn side(&mut self, view: &Arc<FeatureView>, moment: Moment, parts: Vec<usize>, is_required: bool) -> Option<()> {
        let is_present = moment == Moment { at: At::Present, window: view.ttl, known_at: None, version: None };
        self.sides.push(Side { view: Arc::clone(view), parts, is_required });
        (is_present && view.online).then_some(())
    }

    /// The views of a service, of which any may lack a row.
    fn service(&mut self, service: &ServiceScan) -> Option<Vec<Origin>> {
        if !self.sides.is_empty() {
            return None;
        }
        self.is_service = true;
        self.parts.clone_from(&service.definition().keys);
        for (member, places) in service.members() {
            self.side(&member.view, member.moment, places.clone(), false)?;
        }
        let origin = |column: &EntityColumn| match *column {
            EntityColumn::Key(part) => Origin::Part(part),
            EntityColumn::Of { view, column } => Origin::View { view, column },
        };
        Some(service.columns().iter().map(origin).collect())
    }

    /// A view joined to those before it, each of its keys with one of theirs; or a view, or a service, to a left side.
    fn join(&mut self, join: &Join) -> Option<Sources> {
        let is_required = match join.join_type {
            JoinType::Inner => true,
            JoinType::Left => false,
            _ => return None,
        };
        if join.null_equality != NullEquality::NullEqualsNothing || join.null_aware {
            return None;
        }
        let mut both = self.relation(&join.left)?;
        // That a service has a row is not told by a view alone.
        if self.is_service {
            return None;
        }
        let (sides, filters, width) = (self.sides.len(), self.filters.len(), both.len());
        both.extend(self.relation(&join.right)?);
        // On the right stands one view, whole, or the first to stand there is a service.
        if self.filters.len() != filters || !(self.sides.len() == sides + 1 || self.is_service) {
            return None;
        }
        let keys = self.keys_of_right(join, &both, (sides, width))?;
        if self.is_service {
            for side in &mut self.sides {
                side.parts = side.parts.iter().map(|part| keys[*part]).collect();
            }
            self.service_key = keys.iter().copied().zip(self.parts.iter().map(|part| part.data_type.clone())).collect();
        } else {
            let side = &mut self.sides[sides];
            side.parts = keys.clone();
            side.is_required = is_required;
        }
        if is_required && self.is_service {
            self.keeps_all = false;
        }
        for source in &mut both[width..] {
            *source = match source.take() {
                Some(source) => self.beside_left(source, &keys, (sides, is_required)),
                None => None,
            };
        }
        Some(both)
    }

    /// What each key of the right side of a join equals: a part of the entity's key, or a column of the left side.
    fn keys_of_right(&self, join: &Join, both: &Sources, (sides, width): (usize, usize)) -> Option<Vec<usize>> {
        let mut equalities: Vec<(Origin, Origin)> = Vec::new();
        let (left, right) = both.split_at(width);
        for (first, second) in &join.on {
            equalities
                .push((self.compared(first, join.left.schema(), left)?, self.compared(second, join.right.schema(), right)?));
        }
        for condition in join.filter.iter().flat_map(split_conjunction) {
            let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = condition else { return None };
            equalities.push((self.compared(left, &join.schema, both)?, self.compared(right, &join.schema, both)?));
        }
        let own_keys = if self.is_service { &self.parts } else { &self.sides.get(sides)?.view.keys };
        let own_key = |origin: Origin| match origin {
            Origin::Part(part) if self.is_service => Some(part),
            Origin::View { view, column } if view == sides && !self.is_service => Some(column),
            Origin::Part(_) | Origin::View { .. } | Origin::Left(_) => None,
        };
        let mut equal_to: Vec<Option<usize>> = vec![None; own_keys.len()];
        for (first, second) in equalities {
            let (theirs, own) = match (own_key(first), own_key(second)) {
                (None, Some(own)) => (first, own),
                (Some(own), None) => (second, own),
                _ => return None,
            };
            let key = self.key(theirs)?;
            let own_type = &own_keys.get(own)?.data_type;
            let slot = equal_to.get_mut(own)?;
            if !self.is_comparable(key, own_type)? || slot.is_some_and(|other| other != key) {
                return None;
            }
            *slot = Some(key);
        }
        equal_to.into_iter().collect()
    }

    /// The column that a side of an equality is, cast at most to a type that keeps its values apart.
    fn compared(&self, expr: &Expr, schema: &DFSchema, below: &[Option<Source>]) -> Option<Origin> {
        match expr {
            Expr::Cast(Cast { expr, field }) => {
                let origin = self.compared(expr, schema, below)?;
                // Which of the integers it is compared as makes no difference.
                same_or_wider(&self.cell(origin)?.1, &SqlType::of_field(field)?)?;
                Some(origin)
            }
            expr => origin(expr, schema, below),
        }
    }

    /// The key that a column is in every row: a part of the entity's, or a column of the left side; `None` for other columns, and
    /// those that may be NULL while the key is not.
    fn key(&self, origin: Origin) -> Option<usize> {
        match origin {
            Origin::Part(part) => self.left.is_none().then_some(part),
            Origin::Left(column) => Some(column),
            Origin::View { view, column } => self.sides.get(view).filter(|side| side.is_required)?.parts.get(column).copied(),
        }
    }

    /// Whether a key can be had from another, by its bytes alone.
    fn is_comparable(&self, key: usize, own: &SqlType) -> Option<bool> {
        let is_integer = |sql_type: &SqlType| matches!(sql_type, SqlType::SmallInt | SqlType::Integer | SqlType::BigInt);
        Some(match &self.left {
            None => self.parts.get(key)?.data_type == *own,
            Some(left) => {
                let theirs = left.data_type(key)?;
                theirs == own || (is_integer(theirs) && is_integer(own))
            }
        })
    }

    /// What a column of the right side of a join is in its rows: NULL, in a left join, where that side has no row.
    fn beside_left(&mut self, source: Source, keys: &[usize], (sides, is_required): (usize, bool)) -> Option<Source> {
        let source = match source {
            Source::Stored(Origin::Part(part)) => self.part_on_left(part, *keys.get(part)?)?,
            source => source,
        };
        let computed = match source {
            Source::Stored(origin) if is_required || !matches!(origin, Origin::Left(_)) => return Some(Source::Stored(origin)),
            Source::Computed(expr) if is_required => return Some(Source::Computed(expr)),
            Source::Stored(origin) => self.input(origin),
            Source::Computed(expr) => expr,
        };
        let event_times = (sides..self.sides.len()).map(|view| (view, self.sides[view].view.keys.len())).collect::<Vec<_>>();
        let there = event_times.into_iter().map(|(view, column)| self.input(Origin::View { view, column }).is_not_null());
        Some(Source::Computed(when(disjunction(there)?, computed)))
    }

    /// A key of a service as it stands on the left, in the key's own type: a row that is there has one that fits.
    fn part_on_left(&mut self, part: usize, column: usize) -> Option<Source> {
        let own = self.parts.get(part)?.data_type.clone();
        if *self.left.as_ref()?.data_type(column)? == own {
            return Some(Source::Stored(Origin::Left(column)));
        }
        let value = Box::new(self.input(Origin::Left(column)));
        Some(Source::Computed(Expr::Cast(Cast::new(value, own.arrow()))))
    }

    /// The part of the entity's key that a column is in every row.
    fn part(&self, source: &Source) -> Option<usize> {
        match source {
            Source::Stored(origin) if self.left.is_none() => self.key(*origin),
            Source::Stored(_) | Source::Computed(_) => None,
        }
    }

    /// A condition on keys, in the names of the parts. Whatever else is in it is refused.
    fn over_keys(&self, condition: &Expr, schema: &DFSchema, below: &[Option<Source>]) -> Option<Expr> {
        let mut is_known = true;
        let named = condition.clone().transform_down(|expr| {
            Ok(match &expr {
                Expr::Column(column) => match source_of(column, schema, below).and_then(|source| self.part(source)) {
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

    /// What an expression over the columns below is.
    fn source(&mut self, expr: &Expr, schema: &DFSchema, below: &[Option<Source>]) -> Option<Source> {
        match expr {
            Expr::Alias(alias) => self.source(&alias.expr, schema, below),
            Expr::Column(column) => source_of(column, schema, below).cloned(),
            expr => {
                let mut is_known = true;
                let over_inputs = expr.clone().transform_up(|expr| {
                    let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
                    Ok(match source_of(column, schema, below) {
                        Some(Source::Stored(origin)) => Transformed::yes(self.input(*origin)),
                        Some(Source::Computed(expr)) => Transformed::yes(expr.clone()),
                        None => {
                            is_known = false;
                            Transformed::new(expr, false, TreeNodeRecursion::Stop)
                        }
                    })
                });
                over_inputs.ok().filter(|_| is_known).map(|over_inputs| Source::Computed(over_inputs.data))
            }
        }
    }

    /// A column as an input of expressions.
    fn input(&mut self, origin: Origin) -> Expr {
        let place = self.inputs.iter().position(|other| *other == origin).unwrap_or_else(|| {
            self.inputs.push(origin);
            self.inputs.len() - 1
        });
        Expr::Column(Column::from_name(self.input_name(place)))
    }

    /// What the input at this place is called.
    pub(super) fn input_name(&self, place: usize) -> String {
        format!("{INPUT}{place}")
    }

    /// The place of the input that a column of an expression is.
    pub(super) fn input_place(&self, column: &Column) -> Option<usize> {
        let place = column.name.strip_prefix(INPUT)?.parse().ok()?;
        (place < self.inputs.len()).then_some(place)
    }

    /// Where the values of a column are, and their type.
    pub(super) fn cell(&self, origin: Origin) -> Option<(CellSource, SqlType)> {
        let (source, sql_type) = match origin {
            Origin::Part(part) => (CellSource::Key { view: None, part }, self.parts.get(part)?.data_type.clone()),
            Origin::Left(column) => (CellSource::Left { column }, self.left.as_ref()?.data_type(column)?.clone()),
            Origin::View { view, column } => {
                let side = self.sides.get(view)?;
                let keys = side.view.keys.len();
                match column.checked_sub(keys + 1) {
                    Some(place) => (CellSource::Feature { view, place }, side.view.features.get(place)?.data_type.clone()),
                    None if column == keys => (CellSource::EventTime { view }, SqlType::TimestampTz),
                    None => {
                        let source = match self.left {
                            None => CellSource::Key { view: Some(view), part: side.parts[column] },
                            Some(_) => CellSource::OwnKey { view, key: column },
                        };
                        (source, side.view.keys[column].data_type.clone())
                    }
                }
            }
        };
        let is_nested =
            matches!(&sql_type, SqlType::Array(element) if matches!(**element, SqlType::Array(_) | SqlType::Vector(_)));
        (!is_nested).then_some((source, sql_type))
    }

    /// The views, as a lookup reads them.
    pub(super) fn views(&self) -> Vec<LookupView> {
        let view = |side: &Side| {
            let is_same = self.left.is_none() && side.parts.iter().copied().eq(0..self.parts.len());
            LookupView {
                layout: RowLayout::new(&side.view),
                view: Arc::clone(&side.view),
                parts: (!is_same).then(|| side.parts.clone()),
                is_required: side.is_required,
            }
        };
        self.sides.iter().map(view).collect()
    }
}

fn source_of<'a>(column: &Column, schema: &DFSchema, below: &'a [Option<Source>]) -> Option<&'a Source> {
    below.get(schema.maybe_index_of_column(column)?)?.as_ref()
}

/// The column that an expression is, under whatever name.
fn origin(expr: &Expr, schema: &DFSchema, below: &[Option<Source>]) -> Option<Origin> {
    match expr {
        Expr::Alias(alias) => origin(&alias.expr, schema, below),
        Expr::Column(column) => match source_of(column, schema, below)? {
            Source::Stored(origin) => Some(*origin),
            Source::Computed(_) => None,
        },
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
