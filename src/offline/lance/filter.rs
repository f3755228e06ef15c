//! Predicates as Lance's filter expressions, and as what zones are judged by.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use lance::deps::datafusion::common::{Column, ScalarValue};
use lance::deps::datafusion::error::DataFusionError;
use lance::deps::datafusion::prelude::{Expr, lit};

use super::handles::Handle;
use super::stored::stored_name;
use super::zones::{Wanted, has_zones};
use super::{could_not, no_such_column};
use crate::error::Result;
use crate::offline::{Dataset, Predicate};
use crate::time::EventTime;

/// What one of a scan's predicates asks for.
#[derive(Debug)]
pub(super) struct Condition {
    /// True for the rows that match.
    pub(super) filter: Expr,
    /// What zones are judged by, with the number of Lance's field; `None` where they cannot be.
    pub(super) zoned: Option<(i32, Wanted)>,
}

/// The conditions on rows of this version, none where every row matches; `None` where no row can match.
pub(super) fn conditions(dataset: Dataset, handle: &Handle, predicates: &[Predicate]) -> Result<Option<Vec<Condition>>> {
    let schema = Schema::from(handle.schema());
    let mut conditions = Vec::new();
    for predicate in predicates {
        let (Predicate::In { column, .. } | Predicate::EventTime { column, .. }) = predicate;
        let stored = stored_name(column);
        let field = schema.field_with_name(&stored).map_err(|_missing| no_such_column(dataset, column))?;
        let asked = match predicate {
            Predicate::In { values, .. } => one_of(&stored, field.data_type(), values),
            Predicate::EventTime { min, max, .. } => between(&stored, field.data_type(), *min, *max),
        };
        match asked.map_err(|source| could_not("read", dataset, source))? {
            Asked::Nothing => return Ok(None),
            Asked::All => {}
            Asked::Some(filter, wanted) => {
                let field = handle.schema().field(&stored).map(|field| field.id);
                conditions.push(Condition { filter, zoned: field.zip(wanted) });
            }
        }
    }
    Ok(Some(conditions))
}

/// What one predicate asks for.
enum Asked {
    All,
    Nothing,
    Some(Expr, Option<Wanted>),
}

fn tested(column: &str) -> Expr {
    Expr::Column(Column::from_name(column))
}

fn one_of(column: &str, data_type: &DataType, values: &ArrayRef) -> std::result::Result<Asked, DataFusionError> {
    let values = if values.data_type() == data_type { Arc::clone(values) } else { cast(values, data_type)? };
    let literals = (0..values.len()).filter(|row| values.is_valid(*row));
    let literals = literals.map(|row| ScalarValue::try_from_array(&values, row).map(lit));
    let literals = literals.collect::<std::result::Result<Vec<Expr>, _>>()?;
    if literals.is_empty() {
        return Ok(Asked::Nothing);
    }
    Ok(Asked::Some(tested(column).in_list(literals, false), Wanted::one_of(&values)?))
}

fn between(
    column: &str,
    data_type: &DataType,
    min: Option<EventTime>,
    max: Option<EventTime>,
) -> std::result::Result<Asked, DataFusionError> {
    // Bounds that every number meets are left out: Lance would count the numbers between them, which is one more than it has
    // numbers for.
    let min = min.filter(|min| min.micros() != i64::MIN);
    let max = max.filter(|max| max.micros() != i64::MAX);
    let bound = |instant: EventTime| instant_of(instant, data_type);
    let filter = match (min, max) {
        (None, None) => return Ok(Asked::All),
        (Some(min), None) => tested(column).gt_eq(bound(min)?),
        (None, Some(max)) => tested(column).lt_eq(bound(max)?),
        (Some(min), Some(max)) => tested(column).gt_eq(bound(min)?).and(tested(column).lt_eq(bound(max)?)),
    };
    let micros = |instant: Option<EventTime>, unbounded| instant.map_or(unbounded, EventTime::micros);
    let wanted = has_zones(data_type).then(|| Wanted::Between(micros(min, i64::MIN), micros(max, i64::MAX)));
    Ok(Asked::Some(filter, wanted))
}

fn instant_of(instant: EventTime, data_type: &DataType) -> std::result::Result<Expr, ArrowError> {
    match data_type {
        DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, zone) => {
            Ok(lit(ScalarValue::TimestampMicrosecond(Some(instant.micros()), zone.clone())))
        }
        other => Err(ArrowError::CastError(format!("a column of type {other} has no instants"))),
    }
}
