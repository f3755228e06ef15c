//! The left side that names keys by its rows: `unnest` of arrays, or `VALUES`.

use datafusion::common::ScalarValue;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{Expr, LogicalPlan, Unnest, Values};

use super::simplified;
use crate::lookup::{LOOKUP_KEYS_MAX, LeftCell, LeftColumn, LeftPlan, LeftSource};
use crate::online::row::pack_column;
use crate::planner::casts::{read_parameter, same_or_wider};
use crate::types::SqlType;

/// The rows as the plan says them.
pub(super) struct LeftSide {
    columns: Vec<Column>,
}

struct Column {
    data_type: SqlType,
    values: ColumnValues,
}

/// What the values of a column are.
enum ColumnValues {
    /// The elements of an array.
    Elements(Expr),
    /// One expression each.
    Cells(Vec<Expr>),
}

impl LeftSide {
    /// The rows that a plan gives; `None` where they may be others, or of types that are not known.
    pub(super) fn of(plan: &LogicalPlan) -> Option<Self> {
        match plan {
            LogicalPlan::Unnest(unnest) => Self::of_unnest(unnest),
            LogicalPlan::Values(values) => Self::of_values(values),
            _ => None,
        }
    }

    fn of_unnest(unnest: &Unnest) -> Option<Self> {
        let LogicalPlan::Projection(arrays) = unnest.input.as_ref() else { return None };
        let LogicalPlan::EmptyRelation(nothing) = arrays.input.as_ref() else { return None };
        if !nothing.produce_one_row || !unnest.struct_type_columns.is_empty() || unnest.options.preserve_nulls {
            return None;
        }
        let column = |(output, from): (usize, &usize)| {
            let (_, list) = unnest.list_type_columns.iter().find(|(place, _)| place == from)?;
            let mut array = arrays.expr.get(*from)?;
            while let Expr::Alias(alias) = array {
                array = &alias.expr;
            }
            let data_type = SqlType::of_field(unnest.schema.fields().get(output)?)?;
            (list.depth == 1).then(|| Column { data_type, values: ColumnValues::Elements(array.clone()) })
        };
        let columns = unnest.dependency_indices.iter().enumerate().map(column).collect::<Option<_>>()?;
        Some(Self { columns })
    }

    fn of_values(values: &Values) -> Option<Self> {
        if values.values.len() > LOOKUP_KEYS_MAX {
            return None;
        }
        let column = |(place, field): (usize, &arrow::datatypes::FieldRef)| {
            let cells = values.values.iter().map(|row| row.get(place).cloned()).collect::<Option<_>>()?;
            Some(Column { data_type: SqlType::of_field(field)?, values: ColumnValues::Cells(cells) })
        };
        let columns = values.schema.fields().iter().enumerate().map(column).collect::<Option<_>>()?;
        Some(Self { columns })
    }

    /// How many columns it has.
    pub(super) fn width(&self) -> usize {
        self.columns.len()
    }

    /// The type of a column.
    pub(super) fn data_type(&self, column: usize) -> Option<&SqlType> {
        self.columns.get(column).map(|column| &column.data_type)
    }

    /// How its rows are made of parameters of these types, `service_key` being the columns that are the key of a service.
    pub(super) fn compiled(
        &self,
        parameters: &[SqlType],
        service_key: Vec<(usize, SqlType)>,
        state: &SessionState,
    ) -> Option<LeftPlan> {
        let column = |column: &Column| {
            let Column { data_type, values } = column;
            let source = match values {
                ColumnValues::Elements(array) => match parameter(array, parameters) {
                    Some((place, SqlType::Array(element))) if *element == *data_type => LeftSource::Elements(place),
                    _ => LeftSource::Cells(constants(array, data_type, state)?),
                },
                ColumnValues::Cells(cells) => {
                    let cell = |expr: &Expr| match parameter(expr, parameters) {
                        Some((place, sql_type)) => Some(LeftCell::Parameter(place, sql_type)),
                        None => constant(expr, data_type, state),
                    };
                    LeftSource::Cells(cells.iter().map(cell).collect::<Option<_>>()?)
                }
            };
            Some(LeftColumn { data_type: data_type.clone(), source })
        };
        self.columns.iter().map(column).collect::<Option<_>>().map(|columns| LeftPlan { columns, service_key })
    }
}

/// The parameter that an expression is, and its type, cast at most to types that keep its values.
fn parameter(expr: &Expr, parameters: &[SqlType]) -> Option<(usize, SqlType)> {
    match (read_parameter(expr), expr) {
        (Some((place, sql_type)), _) => (parameters.get(place) == Some(&sql_type)).then_some((place, sql_type)),
        (None, Expr::Alias(alias)) => parameter(&alias.expr, parameters),
        (None, Expr::Cast(Cast { expr, field })) => {
            let (place, sql_type) = parameter(expr, parameters)?;
            same_or_wider(&sql_type, &SqlType::of_field(field)?)?;
            Some((place, sql_type))
        }
        _ => None,
    }
}

/// The elements of an array that is written out.
fn constants(array: &Expr, data_type: &SqlType, state: &SessionState) -> Option<Vec<LeftCell>> {
    let Expr::Literal(ScalarValue::List(list), _) = simplified(array, &[], state)?.unalias() else { return None };
    let mut cells = Vec::new();
    if list.value_length(0) > 0 {
        let elements = list.value(0);
        if elements.data_type() != &data_type.arrow() || elements.len() > LOOKUP_KEYS_MAX {
            return None;
        }
        pack_column(data_type, &elements, |value| cells.push(LeftCell::Constant(value.map(|value| value.to_vec().into()))))
            .ok()?;
    }
    Some(cells)
}

/// A value that is written out.
fn constant(expr: &Expr, data_type: &SqlType, state: &SessionState) -> Option<LeftCell> {
    let Expr::Literal(value, _) = simplified(expr, &[], state)?.unalias() else { return None };
    if value.is_null() {
        return Some(LeftCell::Constant(None));
    }
    if value.data_type() != data_type.arrow() {
        return None;
    }
    let mut cell = None;
    pack_column(data_type, &value.to_array().ok()?, |value| cell = value.map(|value| value.to_vec().into())).ok()?;
    Some(LeftCell::Constant(cell))
}
