//! Which entities a query's filters name: by values, or by parameters whose values are not known yet.

use std::collections::BTreeMap;

use arrow::array::ArrayRef;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::casts::{read_parameter, same_or_wider};
use crate::error::{Error, Result, SqlState};
use crate::executor::KeySet;
use crate::lookup::{LOOKUP_KEYS_MAX, Slot};
use crate::registry::KeyColumn;
use crate::types::SqlType;

/// What a key column equals.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operand {
    /// A value of the key's type.
    Value(ScalarValue),
    /// A parameter, or any element of one that is an array.
    Parameter(Slot),
}

/// What some of the key columns equal, by their place.
type Binding = BTreeMap<usize, Operand>;

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
        Self::with_parameters(keys, filters, &[])
    }

    /// The same, where the filters may compare keys with parameters of these types.
    pub(super) fn with_parameters(keys: &[KeyColumn], filters: &[&Expr], parameters: &[SqlType]) -> Result<Self> {
        let terms = Terms { keys, parameters };
        let mut bindings = vec![Binding::new()];
        let mut used = Vec::with_capacity(filters.len());
        for filter in filters {
            let found = match terms.alternatives(filter)? {
                Some(found) => both(&bindings, &found)?,
                None => None,
            };
            used.push(found.is_some());
            bindings = found.unwrap_or(bindings);
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

    /// The ways to make keys, each with an operand for every key; meaningful where [`BoundKeys::is_whole`].
    pub(super) fn alternatives(&self) -> impl Iterator<Item = impl Iterator<Item = &Operand>> {
        distinct(&self.bindings).into_iter().map(|binding| binding.values())
    }

    /// For each key column that every alternative binds, the values it may have.
    pub(super) fn columns(&self, keys: &[KeyColumn]) -> Result<Vec<(usize, ArrayRef)>> {
        let bound = (0..keys.len()).filter(|place| self.bindings.iter().all(|binding| binding.contains_key(place)));
        bound.map(|place| Ok((place, column(keys, place, &distinct_at(&self.bindings, place))?))).collect()
    }
}

fn column(keys: &[KeyColumn], place: usize, bindings: &[&Binding]) -> Result<ArrayRef> {
    let value = |binding: &&Binding| match binding.get(&place) {
        Some(Operand::Value(value)) => Ok(value.clone()),
        Some(Operand::Parameter(_)) | None => Err(Error::internal("a key without a value")),
    };
    let values = bindings.iter().map(value).collect::<Result<Vec<_>>>()?;
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

/// What filters are made of: key columns, and parameters of known types.
struct Terms<'a> {
    keys: &'a [KeyColumn],
    parameters: &'a [SqlType],
}

impl Terms<'_> {
    /// The alternatives that `filter` leaves, or `None` where it is not about keys alone.
    fn alternatives(&self, filter: &Expr) -> Result<Option<Vec<Binding>>> {
        Ok(match filter {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => self.equality(left, right),
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
                match (self.alternatives(left)?, self.alternatives(right)?) {
                    (Some(left), Some(right)) => both(&left, &right)?,
                    _ => None,
                }
            }
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
                match (self.alternatives(left)?, self.alternatives(right)?) {
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
                    match self.equality(&list.expr, item) {
                        Some(item) => found.extend(item),
                        None => return Ok(None),
                    }
                }
                Some(found)
            }
            // `key = ANY($1)`.
            Expr::ScalarFunction(call) if call.func.name() == "array_has" => match call.args.as_slice() {
                [elements, key] => self.parameter(key, elements),
                _ => None,
            },
            Expr::Literal(ScalarValue::Boolean(Some(true)), _) => Some(vec![Binding::new()]),
            Expr::Literal(ScalarValue::Boolean(_), _) => Some(Vec::new()),
            // A boolean key standing alone, or negated.
            Expr::Column(_) => self.boolean(filter, true),
            Expr::Not(inner) => self.boolean(inner, false),
            _ => None,
        })
    }

    /// `key = value` or `key = $1`, in either order; nothing equals NULL.
    fn equality(&self, left: &Expr, right: &Expr) -> Option<Vec<Binding>> {
        let (place, value) = match (self.literal_key(left), right, self.literal_key(right), left) {
            (Some(place), Expr::Literal(value, _), _, _) | (_, _, Some(place), Expr::Literal(value, _)) => (place, value),
            _ => {
                let is_one = |found: &Vec<Binding>| !found.iter().flat_map(Binding::values).any(is_array);
                return self.parameter(left, right).or_else(|| self.parameter(right, left)).filter(is_one);
            }
        };
        if value.is_null() {
            return Some(Vec::new());
        }
        let data_type = self.keys[place].data_type.arrow();
        let value = if value.data_type() == data_type {
            value.clone()
        } else if value.data_type().is_floating() {
            return None;
        } else {
            // Only a cast that loses nothing may stand for the comparison that was written.
            let cast = value.cast_to(&data_type).ok()?;
            (cast.cast_to(&value.data_type()).ok().as_ref() == Some(value)).then_some(cast)?
        };
        Some(vec![Binding::from([(place, Operand::Value(value))])])
    }

    /// A key and the parameter that it is compared with, where the comparison is one of values of the key's type, or of whole
    /// numbers.
    fn parameter(&self, key: &Expr, parameter: &Expr) -> Option<Vec<Binding>> {
        let (place, _) = self.typed_key(key)?;
        let (parameter, parameter_type) = self.typed_parameter(parameter)?;
        let part_type = self.keys[place].data_type.clone();
        let element = match &parameter_type {
            SqlType::Array(element) => element.as_ref(),
            other => other,
        };
        let is_comparable = *element == part_type || (is_integer(element) && is_integer(&part_type));
        let slot = Slot { parameter, parameter_type, part_type };
        is_comparable.then(|| vec![Binding::from([(place, Operand::Parameter(slot))])])
    }

    /// A key column, as it is or cast to a type in which its values differ as they do in its own.
    fn typed_key(&self, expr: &Expr) -> Option<(usize, SqlType)> {
        match expr {
            Expr::Cast(cast) => {
                let (place, from) = self.typed_key(&cast.expr)?;
                Some((place, same_or_wider(&from, &SqlType::of_field(&cast.field)?)?))
            }
            expr => self.key_place(expr).map(|place| (place, self.keys[place].data_type.clone())),
        }
    }

    /// A key column that is compared with a literal, as it is or cast to a type in which a literal says the same.
    fn literal_key(&self, expr: &Expr) -> Option<usize> {
        let (place, sql_type) = self.typed_key(expr)?;
        (sql_type == self.keys[place].data_type || is_integer(&sql_type)).then_some(place)
    }

    /// A parameter, cast to the type it has and from there at most to a wider one; gives the type it has.
    fn typed_parameter(&self, expr: &Expr) -> Option<(usize, SqlType)> {
        if let Some((place, sql_type)) = read_parameter(expr) {
            return (self.parameters.get(place) == Some(&sql_type)).then_some((place, sql_type));
        }
        let Expr::Cast(cast) = expr else { return None };
        let (place, from) = self.typed_parameter(&cast.expr)?;
        same_or_wider(&from, &SqlType::of_field(&cast.field)?)?;
        Some((place, from))
    }

    fn boolean(&self, expr: &Expr, value: bool) -> Option<Vec<Binding>> {
        let place = self.key_place(expr)?;
        let is_boolean = self.keys[place].data_type == SqlType::Boolean;
        is_boolean.then(|| vec![Binding::from([(place, Operand::Value(ScalarValue::Boolean(Some(value))))])])
    }

    fn key_place(&self, expr: &Expr) -> Option<usize> {
        match expr {
            Expr::Column(column) => self.keys.iter().position(|key| key.name == column.name),
            _ => None,
        }
    }
}

fn is_array(operand: &Operand) -> bool {
    matches!(operand, Operand::Parameter(slot) if matches!(slot.parameter_type, SqlType::Array(_)))
}

fn is_integer(sql_type: &SqlType) -> bool {
    matches!(sql_type, SqlType::SmallInt | SqlType::Integer | SqlType::BigInt)
}

/// What both lists allow; contradictions drop out. `None` where it takes the values of parameters to tell.
fn both(left: &[Binding], right: &[Binding]) -> Result<Option<Vec<Binding>>> {
    let mut found = Vec::new();
    for first in left {
        for second in right {
            let differing = |(place, operand): &(&usize, &Operand)| first.get(place).is_some_and(|other| other != *operand);
            let mut differing = second.iter().filter(differing).peekable();
            if differing.peek().is_none() {
                let mut binding = first.clone();
                binding.extend(second.iter().map(|(place, operand)| (*place, operand.clone())));
                found.push(binding);
                continue;
            }
            let is_value = |operand: &Operand| matches!(operand, Operand::Value(_));
            if !differing.any(|(place, operand)| is_value(operand) && first.get(place).is_some_and(is_value)) {
                return Ok(None);
            }
        }
        limited(found.len())?;
    }
    Ok(Some(found))
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
