//! Expressions of a lookup, made ready once: what the other road would compute, over the cells of packed rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, new_empty_array, new_null_array};
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{Cast, TryCast};
use datafusion::logical_expr::{Expr, ExprSchemable, Volatility};
use datafusion::physical_expr::create_physical_expr;

use super::relation::Found;
use super::simplified_over;
use crate::executor::ComputedColumns;
use crate::lookup::{Compute, Computed};
use crate::planner::casts::read_parameter;
use crate::types::SqlType;

/// Functions that fail, if they do, only when they are computed, and so on both roads alike, whether an argument is a constant or
/// not. Others may look at a constant while they are planned.
const WITH_PARAMETERS: &[&str] = &[
    "abs",
    "ceil",
    "checked_add",
    "checked_divide",
    "checked_multiply",
    "checked_negate",
    "checked_subtract",
    "coalesce",
    "concat",
    "floor",
    "from_text",
    "greatest",
    "least",
    "lower",
    "nullif",
    "round",
    "to_text",
    "upper",
];

/// The expressions of some columns: each is computed once an answer.
pub(super) struct Expressions<'a> {
    found: &'a Found,
    parameter_types: &'a [SqlType],
    /// The inputs that are taken, by their place among those found.
    inputs: Vec<usize>,
    /// The parameters that are taken.
    parameters: Vec<usize>,
    expressions: Vec<(Expr, DataType)>,
}

impl<'a> Expressions<'a> {
    /// None so far; parameters have these types.
    pub(super) fn new(found: &'a Found, parameter_types: &'a [SqlType]) -> Self {
        Self { found, parameter_types, inputs: Vec::new(), parameters: Vec::new(), expressions: Vec::new() }
    }

    /// Adds an expression that is given in the type of `field`; gives its place. `None` where it takes what cannot be told.
    pub(super) fn add(&mut self, expr: &Expr, field: &FieldRef) -> Option<usize> {
        let mut is_known = true;
        let over_parameters = expr.clone().transform_down(|expr| {
            if let Some((place, sql_type)) = read_parameter(&expr) {
                is_known &= self.parameter_types.get(place) == Some(&sql_type);
                take(&mut self.parameters, place);
                return Ok(Transformed::yes(Expr::Column(Column::from_name(parameter_name(place)))));
            }
            if let Expr::Column(column) = &expr {
                match self.found.input_place(column) {
                    Some(place) => take(&mut self.inputs, place),
                    None => is_known &= parameter_place(column).is_some(),
                }
            }
            Ok(Transformed::no(expr))
        });
        let expr = over_parameters.ok().filter(|_| is_known)?.data;
        self.expressions.push((expr, field.data_type().clone()));
        Some(self.expressions.len() - 1)
    }

    /// What is computed, ready to run; `Some(None)` where that is nothing.
    pub(super) fn compiled(self, state: &SessionState) -> Option<Option<Computed>> {
        if self.expressions.is_empty() {
            return Some(None);
        }
        let (mut inputs, mut fields) = (Vec::new(), Vec::new());
        for place in &self.inputs {
            let (source, sql_type) = self.found.cell(*self.found.inputs.get(*place)?)?;
            let name = self.found.input_name(*place);
            fields.push(sql_type.field_ref(name, true));
            inputs.push((source, sql_type));
        }
        let columns = Arc::new(Schema::new(fields.clone()));
        let parameters: Vec<(usize, SqlType)> =
            self.parameters.iter().map(|place| (*place, self.parameter_types[*place].clone())).collect();
        fields.extend(parameters.iter().map(|(place, sql_type)| sql_type.field_ref(parameter_name(*place), true)));
        let schema = Arc::new(DFSchema::from_unqualified_fields(fields.into(), Default::default()).ok()?);
        let mut physical = Vec::with_capacity(self.expressions.len());
        for (expr, data_type) in &self.expressions {
            if !is_certain(expr, &schema) {
                return None;
            }
            let expr = simplified_over(expr, &schema, state)?;
            physical.push((create_physical_expr(&expr, &schema, state.execution_props()).ok()?, data_type.clone()));
        }
        let expressions = ComputedColumns::new(columns, physical);
        // What cannot even be computed of nothing would be computed twice each time.
        let nothing: Vec<ArrayRef> = inputs.iter().map(|(_, sql_type)| new_empty_array(&sql_type.arrow())).collect();
        let nulls: Vec<ArrayRef> = parameters.iter().map(|(_, sql_type)| new_null_array(&sql_type.arrow(), 1)).collect();
        expressions.columns(nothing, 0, &nulls).ok()?;
        Some(Some(Computed { inputs, parameters, expressions: Arc::new(expressions) }))
    }
}

fn take(taken: &mut Vec<usize>, place: usize) {
    if !taken.contains(&place) {
        taken.push(place);
    }
}

fn parameter_name(place: usize) -> String {
    format!("${}", place + 1)
}

fn parameter_place(column: &Column) -> Option<usize> {
    column.name.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)
}

/// Whether an expression gives the same on both roads, whatever its parameters turn out to be. On the other road they are
/// constants before anything is planned, and some of what is wrong with a constant is told even if no row needs it.
fn is_certain(expr: &Expr, schema: &DFSchema) -> bool {
    let is_known = match expr {
        Expr::Column(_) | Expr::Literal(..) | Expr::Alias(_) | Expr::BinaryExpr(_) | Expr::Not(_) | Expr::Negative(_) => true,
        Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::IsTrue(_) | Expr::IsFalse(_) | Expr::IsUnknown(_) => true,
        Expr::IsNotTrue(_) | Expr::IsNotFalse(_) | Expr::IsNotUnknown(_) => true,
        Expr::Between(_) | Expr::Case(_) | Expr::InList(_) => true,
        Expr::Like(like) | Expr::SimilarTo(like) => !reads_parameter(&like.pattern),
        Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
            !reads_parameter(expr) || reads_input(expr) || keeps_values(expr, field.data_type(), schema)
        }
        Expr::ScalarFunction(call) => {
            let is_constant = |argument: &Expr| reads_parameter(argument) && !reads_input(argument);
            call.func.signature().volatility == Volatility::Immutable
                && (!call.args.iter().any(is_constant) || WITH_PARAMETERS.contains(&call.func.name()))
        }
        _ => false,
    };
    let mut parts = true;
    let looked = expr.apply_children(|part| {
        parts &= is_certain(part, schema);
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    is_known && parts && looked.is_ok()
}

/// Whether no value of an expression fails to be cast to a type.
fn keeps_values(expr: &Expr, to: &DataType, schema: &DFSchema) -> bool {
    use DataType::{Float32, Float64, Int16, Int32, Int64, Utf8};
    let Ok(from) = expr.get_type(schema) else { return false };
    from == *to
        || matches!(
            (from, to),
            (Int16, Int32 | Int64 | Float32 | Float64 | Utf8)
                | (Int32, Int64 | Float32 | Float64 | Utf8)
                | (Int64, Float32 | Float64 | Utf8)
                | (Float32, Float64)
        )
}

fn reads_parameter(expr: &Expr) -> bool {
    expr.column_refs().into_iter().any(|column| parameter_place(column).is_some())
}

fn reads_input(expr: &Expr) -> bool {
    expr.column_refs().into_iter().any(|column| parameter_place(column).is_none())
}
