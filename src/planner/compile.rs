//! From a plan to a lookup of the short road, where the plan is nothing but one.
//!
//! What is compiled is the plan with its types coerced, before anything is moved in it: a scan of a view in the present tense, of
//! several that are joined on the keys of the first, or of a feature service's views, under a filter that binds every key by `=`,
//! `IN`, `= ANY` or `OR`s of them ([`BoundKeys`] judges that, as it does for the other road); or such views, or a service, joined
//! on whole keys to the rows of `unnest` or `VALUES`. Above that stand a projection and a row count. Columns that are expressions
//! are computed as the other road computes them (`computed`), and only those that somebody wants. Whatever else is in the plan
//! makes it one for the other road. Nothing that depends on the session gets into a compiled lookup, except what is part of its
//! [`Standpoint`], and nothing that depends on the time.

mod computed;
mod left;
mod relation;

use std::sync::Arc;

use arrow::datatypes::FieldRef;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, Limit, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use self::computed::Expressions;
use self::relation::{Found, Source};
use super::casts::read_parameter;
use super::keys::{BoundKeys, Operand};
use super::literals::names_the_present;
use super::{QueryPlan, StatementContext};
use crate::error::{Error, Result};
use crate::lookup::{
    Candidates, ColumnSource, CompiledLookup, Computed, KeyPlan, LookupColumn, PartSource, RowCount, RowRange, Slot, SlotValues,
    Standpoint, parts as key_parts,
};
use crate::registry::KeyColumn;
use crate::types::SqlType;

/// The lookup that `plan` is; `None` where it is more, less or something else. `state` is made only where it looks like one.
pub(super) fn compile(
    plan: &QueryPlan,
    context: &StatementContext,
    state: impl FnOnce() -> Result<SessionState>,
) -> Option<CompiledLookup> {
    let (range, below) = row_range(&plan.analyzed, &plan.parameters)?;
    let mut found = Found::default();
    let sources = found.relation(below)?;
    if found.sides.is_empty() || names_the_present(&plan.logical) {
        return None;
    }
    let state = state().ok()?;
    let candidates = candidates(&found, plan, &state)?;
    let (columns, computed) = columns(&found, &sources, plan, &state)?;
    let is_used = |parameter: usize| {
        let is_key = match &candidates {
            Candidates::Keys(keys) => keys.slots.iter().any(|slot| slot.parameter == parameter),
            Candidates::Left(left) => left.parameters().any(|other| other == parameter),
        };
        let is_computed = computed.iter().flat_map(|computed| &computed.parameters).any(|(other, _)| *other == parameter);
        is_key || is_computed || range.parameters().any(|other| other == parameter)
    };
    // A parameter that nothing is made of may be anything, also what is refused when it is computed with.
    if !(0..plan.parameters.len()).all(is_used) {
        return None;
    }
    let standpoint = Standpoint { registry_version: context.registry.version, time_zone: context.time_zone.as_str().into() };
    let (views, needs_row) = (found.views(), !found.keeps_all);
    Some(CompiledLookup { standpoint, parts: found.parts, candidates, views, needs_row, columns, computed, range })
}

/// The row counts on top of a plan, and what is below them.
fn row_range<'a>(plan: &'a LogicalPlan, parameters: &[SqlType]) -> Option<(RowRange, &'a LogicalPlan)> {
    let LogicalPlan::Limit(Limit { skip, fetch, input }) = plan else { return Some((RowRange::default(), plan)) };
    let count = |count: &Option<Box<Expr>>| count.as_ref().map_or(Some(None), |count| row_count(count, parameters));
    Some((RowRange { skip: count(skip)?, fetch: count(fetch)? }, input))
}

/// A number of rows; `Some(None)` for NULL, which is as if nothing were said.
fn row_count(count: &Expr, parameters: &[SqlType]) -> Option<Option<RowCount>> {
    let of_parameter = |place: usize| {
        let sql_type = parameters.get(place)?;
        let is_number = matches!(sql_type, SqlType::SmallInt | SqlType::Integer | SqlType::BigInt);
        is_number.then(|| Some(RowCount::Parameter(place, sql_type.clone())))
    };
    match count {
        Expr::Literal(ScalarValue::Int64(Some(rows)), _) => u64::try_from(*rows).ok().map(|rows| Some(RowCount::Literal(rows))),
        Expr::Literal(value, _) => value.is_null().then_some(None),
        Expr::Placeholder(placeholder) => of_parameter(placeholder.id.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)?),
        count => match (read_parameter(count), count) {
            (Some((place, sql_type)), _) if parameters.get(place) == Some(&sql_type) => of_parameter(place),
            (_, Expr::Cast(Cast { expr, .. })) => row_count(expr, parameters),
            // What a cast of a bare NULL became.
            (_, Expr::ScalarFunction(call)) if call.func.name() == "from_text" => row_count(call.args.first()?, parameters),
            _ => None,
        },
    }
}

/// What the rows of the answer are made for.
fn candidates(found: &Found, plan: &QueryPlan, state: &SessionState) -> Option<Candidates> {
    if let Some(left) = &found.left {
        return found
            .filters
            .is_empty()
            .then(|| left.compiled(&plan.parameters, found.service_key.clone(), state))
            .flatten()
            .map(Candidates::Left);
    }
    let filters = found.filters.iter().map(|filter| simplified(filter, &found.parts, state)).collect::<Option<Vec<_>>>()?;
    let filters: Vec<&Expr> = filters.iter().collect();
    let bound = BoundKeys::with_parameters(&found.parts, &filters, &plan.parameters).ok()?;
    if !bound.is_whole() || bound.used.contains(&false) {
        return None;
    }
    key_plan(&bound, &found.parts).map(Candidates::Keys)
}

/// The columns of the answer, and what is computed for them.
fn columns(
    found: &Found,
    sources: &[Option<Source>],
    plan: &QueryPlan,
    state: &SessionState,
) -> Option<(Vec<LookupColumn>, Option<Computed>)> {
    let mut expressions = Expressions::new(found, &plan.parameters);
    let mut column = |(source, field): (&Option<Source>, &FieldRef)| {
        let sql_type = SqlType::of_field(field)?;
        let source = match source.as_ref()? {
            Source::Stored(origin) => {
                let (cell, stored_type) = found.cell(*origin)?;
                (stored_type == sql_type).then_some(ColumnSource::Cell(cell))?
            }
            Source::Computed(expr) => ColumnSource::Computed(expressions.add(expr, field)?),
        };
        Some(LookupColumn { sql_type, source })
    };
    let columns = sources.iter().zip(plan.schema.fields()).map(&mut column).collect::<Option<Vec<_>>>()?;
    Some((columns, expressions.compiled(state)?))
}

/// A condition with its constants computed.
fn simplified(condition: &Expr, parts: &[KeyColumn], state: &SessionState) -> Option<Expr> {
    let fields = parts.iter().map(|key| key.data_type.field_ref(&key.name, false)).collect::<Vec<_>>();
    let schema = DFSchema::from_unqualified_fields(fields.into(), Default::default()).ok()?;
    simplified_over(condition, &Arc::new(schema), state)
}

/// An expression over the columns of `schema` with its constants computed.
fn simplified_over(expr: &Expr, schema: &Arc<DFSchema>, state: &SessionState) -> Option<Expr> {
    let options = Arc::clone(state.config_options());
    let context = SimplifyContext::builder().with_schema(Arc::clone(schema)).with_config_options(options).build();
    ExprSimplifier::new(context).simplify(expr.clone()).ok()
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
