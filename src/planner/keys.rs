//! Which entities a query's filters name.

use std::collections::BTreeMap;

use arrow::array::ArrayRef;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use crate::error::{Error, Result, SqlState};
use crate::executor::KeySet;
use crate::registry::KeyColumn;

/// The most entities one lookup may name.
pub const LOOKUP_KEYS_MAX: usize = 10_000;

/// Values for some of the key columns, by their place.
type Binding = BTreeMap<usize, ScalarValue>;

/// What a list of filters, joined by AND, says of the entity keys.
#[derive(Debug)]
pub(super) struct BoundKeys {
    /// For each filter, whether it speaks of keys alone and is wholly expressed in `bindings`.
    pub(super) used: Vec<bool>,
    /// The alternatives; none: no entity can match.
    bindings: Vec<Binding>,
    keys: usize,
}

impl BoundKeys {
    /// What `filters` say of the key columns `keys`. A filter that says anything else is left alone.
    pub(super) fn of(keys: &[KeyColumn], filters: &[&Expr]) -> Result<Self> {
        let mut bindings = vec![Binding::new()];
        let mut used = Vec::with_capacity(filters.len());
        for filter in filters {
            let found = alternatives(keys, filter)?;
            used.push(found.is_some());
            if let Some(found) = found {
                bindings = both(&bindings, &found)?;
            }
        }
        Ok(Self { used, bindings, keys: keys.len() })
    }

    /// Whether every alternative binds every key.
    pub(super) fn is_whole(&self) -> bool {
        self.bindings.iter().all(|binding| binding.len() == self.keys)
    }

    /// The entities, each once; meaningful where [`BoundKeys::is_whole`].
    pub(super) fn key_set(&self, keys: &[KeyColumn]) -> Result<KeySet> {
        let distinct = distinct(&self.bindings);
        let columns = (0..keys.len()).map(|place| column(keys, place, &distinct)).collect::<Result<_>>()?;
        Ok(KeySet { columns, len: distinct.len() })
    }

    /// For each key column that every alternative binds, the values it may have.
    pub(super) fn columns(&self, keys: &[KeyColumn]) -> Result<Vec<(usize, ArrayRef)>> {
        let bound = (0..keys.len()).filter(|place| self.bindings.iter().all(|binding| binding.contains_key(place)));
        bound.map(|place| Ok((place, column(keys, place, &distinct_at(&self.bindings, place))?))).collect()
    }
}

fn column(keys: &[KeyColumn], place: usize, bindings: &[&Binding]) -> Result<ArrayRef> {
    let values: Vec<ScalarValue> = bindings.iter().filter_map(|binding| binding.get(&place).cloned()).collect();
    if values.is_empty() {
        return Ok(arrow::array::new_empty_array(&keys[place].data_type.arrow()));
    }
    ScalarValue::iter_to_array(values).map_err(super::errors::from_datafusion)
}

fn distinct(bindings: &[Binding]) -> Vec<&Binding> {
    let mut seen = std::collections::HashSet::new();
    bindings.iter().filter(|binding| seen.insert(binding.values().collect::<Vec<_>>())).collect()
}

fn distinct_at(bindings: &[Binding], place: usize) -> Vec<&Binding> {
    let mut seen = std::collections::HashSet::new();
    bindings.iter().filter(|binding| seen.insert(binding.get(&place))).collect()
}

/// The alternatives that `filter` leaves, or `None` where it is not about keys alone.
fn alternatives(keys: &[KeyColumn], filter: &Expr) -> Result<Option<Vec<Binding>>> {
    Ok(match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => equality(keys, left, right),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            match (alternatives(keys, left)?, alternatives(keys, right)?) {
                (Some(left), Some(right)) => Some(both(&left, &right)?),
                _ => None,
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            match (alternatives(keys, left)?, alternatives(keys, right)?) {
                (Some(mut left), Some(right)) => {
                    left.extend(right);
                    limited(left.len())?;
                    Some(left)
                }
                _ => None,
            }
        }
        Expr::InList(list) if !list.negated => {
            limited(list.list.len())?;
            let mut found = Vec::with_capacity(list.list.len());
            for item in &list.list {
                match equality(keys, &list.expr, item) {
                    Some(item) => found.extend(item),
                    None => return Ok(None),
                }
            }
            Some(found)
        }
        Expr::Literal(ScalarValue::Boolean(Some(true)), _) => Some(vec![Binding::new()]),
        Expr::Literal(ScalarValue::Boolean(_), _) => Some(Vec::new()),
        // A boolean key standing alone, or negated.
        Expr::Column(_) => boolean(keys, filter, true),
        Expr::Not(inner) => boolean(keys, inner, false),
        _ => None,
    })
}

/// `key = literal`, in either order; nothing equals NULL.
fn equality(keys: &[KeyColumn], left: &Expr, right: &Expr) -> Option<Vec<Binding>> {
    let (place, value) = match (key_place(keys, left), right, key_place(keys, right), left) {
        (Some(place), Expr::Literal(value, _), _, _) | (_, _, Some(place), Expr::Literal(value, _)) => (place, value),
        _ => return None,
    };
    if value.is_null() {
        return Some(Vec::new());
    }
    let data_type = keys[place].data_type.arrow();
    let value = if value.data_type() == data_type {
        value.clone()
    } else if value.data_type().is_floating() {
        return None;
    } else {
        // Only a cast that loses nothing may stand for the comparison that was written.
        let cast = value.cast_to(&data_type).ok()?;
        (cast.cast_to(&value.data_type()).ok().as_ref() == Some(value)).then_some(cast)?
    };
    Some(vec![Binding::from([(place, value)])])
}

fn boolean(keys: &[KeyColumn], expr: &Expr, value: bool) -> Option<Vec<Binding>> {
    let place = key_place(keys, expr)?;
    let is_boolean = keys[place].data_type == crate::types::SqlType::Boolean;
    is_boolean.then(|| vec![Binding::from([(place, ScalarValue::Boolean(Some(value)))])])
}

fn key_place(keys: &[KeyColumn], expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Column(column) => keys.iter().position(|key| key.name == column.name),
        _ => None,
    }
}

/// What both lists allow; contradictions drop out.
fn both(left: &[Binding], right: &[Binding]) -> Result<Vec<Binding>> {
    let mut found = Vec::new();
    for first in left {
        for second in right {
            let agrees = second.iter().all(|(place, value)| first.get(place).is_none_or(|other| other == value));
            if agrees {
                let mut binding = first.clone();
                binding.extend(second.iter().map(|(place, value)| (*place, value.clone())));
                found.push(binding);
            }
        }
        limited(found.len())?;
    }
    Ok(found)
}

fn limited(keys: usize) -> Result<()> {
    if keys <= LOOKUP_KEYS_MAX {
        return Ok(());
    }
    Err(Error::new(SqlState::ProgramLimitExceeded, format!("a lookup may name at most {LOOKUP_KEYS_MAX} entities"))
        .hint("Put the keys into a table and join it, or send several lookups."))
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};

    use super::*;
    use crate::types::SqlType;

    fn keys() -> Vec<KeyColumn> {
        ["a", "b"].map(|name| KeyColumn { name: name.into(), data_type: SqlType::BigInt }).to_vec()
    }

    /// The keys that the filters bind, as (a, b), or `None` where they do not bind both.
    fn bound(filters: &[Expr]) -> Option<Vec<(i64, i64)>> {
        let filters: Vec<&Expr> = filters.iter().collect();
        let bound = BoundKeys::of(&keys(), &filters).unwrap();
        bound.is_whole().then(|| {
            let set = bound.key_set(&keys()).unwrap();
            let value = |column: usize, row: usize| match ScalarValue::try_from_array(&set.columns[column], row).unwrap() {
                ScalarValue::Int64(Some(value)) => value,
                other => panic!("{other}"),
            };
            (0..set.len).map(|row| (value(0, row), value(1, row))).collect()
        })
    }

    fn pair(a: i64, b: i64) -> Expr {
        col("a").eq(lit(a)).and(col("b").eq(lit(b)))
    }

    #[test]
    fn filters_that_name_whole_keys() {
        let null = lit(ScalarValue::Int64(None));
        assert_eq!(bound(&[col("a").eq(lit(1_i64)), lit(2_i64).eq(col("b"))]), Some(vec![(1, 2)]));
        assert_eq!(bound(&[pair(1, 2).or(pair(3, 4)).or(pair(1, 2))]), Some(vec![(1, 2), (3, 4)]));
        let list = col("a").in_list(vec![lit(1_i64), lit(1_i64), null.clone(), lit(5_i64)], false);
        assert_eq!(bound(&[list, col("b").eq(lit(2_i64))]), Some(vec![(1, 2), (5, 2)]));
        assert_eq!(bound(&[pair(1, 2), col("a").eq(lit(9_i64))]), Some(vec![]));
        assert_eq!(bound(&[pair(1, 2), col("a").eq(null)]), Some(vec![]));
        assert_eq!(bound(&[pair(1, 2), lit(false)]), Some(vec![]));
    }

    #[test]
    fn filters_that_do_not() {
        assert_eq!(bound(&[col("a").eq(lit(1_i64))]), None);
        assert_eq!(bound(&[col("a").eq(lit(1_i64)), col("b").gt(lit(2_i64))]), None);
        assert_eq!(bound(&[pair(1, 2).or(col("a").eq(lit(1_i64)))]), None);
        assert_eq!(bound(&[col("a").in_list(vec![lit(1_i64)], true), col("b").eq(lit(2_i64))]), None);
    }

    #[test]
    fn literals_of_other_types_count_only_without_loss() {
        let numeric = |unscaled| lit(ScalarValue::Decimal128(Some(unscaled), 3, 1));
        assert_eq!(bound(&[col("a").eq(lit(1_i32)), col("b").eq(numeric(20))]), Some(vec![(1, 2)]));
        assert_eq!(bound(&[col("a").eq(lit(1_i32)), col("b").eq(numeric(25))]), None);
        assert_eq!(bound(&[col("a").eq(lit(1_i32)), col("b").eq(lit(2.0))]), None);
    }

    #[test]
    fn too_many_keys_are_an_error() {
        let list = (0..=LOOKUP_KEYS_MAX as i64).map(lit).collect();
        let error = BoundKeys::of(&keys(), &[&col("a").in_list(list, false)]).unwrap_err();
        assert_eq!(error.code(), SqlState::ProgramLimitExceeded);
    }
}
