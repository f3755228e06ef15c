//! A lookup with the values of its parameters: what is asked of the store.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::Int64Type;
use bytes::Bytes;

use super::keys::{Slot, SlotValues};
use super::left::{LeftPlan, LeftRows, append_packed};
use super::plan::{Candidates, CompiledLookup, LookupView, RowCount};
use crate::error::{Error, Result};
use crate::online::key::split_part;
use crate::online::{EntityKey, RowKey};
use crate::registry::KeyColumn;
use crate::types::SqlType;

/// Where the values of a statement's parameters are.
pub trait Given {
    /// Adds the values that a parameter gives a slot, and ends the slot. Fails where they are none of their type.
    fn add_slot(&mut self, slot: &Slot, values: &mut SlotValues) -> Result<()>;

    /// The value of a parameter, counted from 0, as an array of one in the Arrow form of its type. Fails where it is none.
    fn value(&mut self, parameter: usize, data_type: &SqlType) -> Result<ArrayRef>;
}

/// The values of a statement that has no parameters.
#[derive(Clone, Copy, Debug)]
pub struct NothingGiven;

impl Given for NothingGiven {
    fn add_slot(&mut self, slot: &Slot, _values: &mut SlotValues) -> Result<()> {
        Err(not_given(slot.parameter))
    }

    fn value(&mut self, parameter: usize, _data_type: &SqlType) -> Result<ArrayRef> {
        Err(not_given(parameter))
    }
}

fn not_given(parameter: usize) -> Error {
    Error::internal(format!("a lookup without its parameter ${}", parameter + 1))
}

/// A lookup with the values of its parameters.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The lookup.
    pub lookup: Arc<CompiledLookup>,
    /// The entities, each once; none where candidates are the rows of a left side.
    pub(super) entities: Vec<EntityKey>,
    pub(super) left: Option<Box<LeftRows>>,
    /// The rows of the store, where it is not simply one of each view for each entity.
    pub(super) shared: Option<Box<SharedKeys>>,
    pub(super) skip: u64,
    pub(super) fetch: u64,
    /// The values of the parameters that something is computed from.
    pub(super) parameters: Vec<ArrayRef>,
}

impl Ask {
    /// The lookup with these values; `None` where they are such that the planner is to see them: they name more entities than a
    /// lookup may, or an impossible number of rows. Fails where a value is none of its type. `values` is space that is used again.
    pub fn of(lookup: &Arc<CompiledLookup>, given: &mut impl Given, values: &mut SlotValues) -> Result<Option<Self>> {
        let Some(skip) = row_count(given, lookup.range.skip.as_ref(), 0)? else { return Ok(None) };
        let Some(fetch) = row_count(given, lookup.range.fetch.as_ref(), u64::MAX)? else { return Ok(None) };
        let parameters = match &lookup.computed {
            None => Vec::new(),
            Some(computed) => {
                let parameters = computed.parameters.iter();
                parameters.map(|(parameter, data_type)| given.value(*parameter, data_type)).collect::<Result<_>>()?
            }
        };
        let mut ask =
            Self { lookup: Arc::clone(lookup), entities: Vec::new(), left: None, shared: None, skip, fetch, parameters };
        match &lookup.candidates {
            Candidates::Keys(keys) => {
                values.clear();
                for slot in &keys.slots {
                    given.add_slot(slot, values)?;
                }
                let Some(entities) = keys.entities(values) else { return Ok(None) };
                ask.entities = entities;
                if lookup.views.iter().any(|view| view.parts.is_some()) {
                    ask.shared = Some(Box::new(ask.keys_of_entities()?));
                }
            }
            Candidates::Left(plan) => {
                let Some(rows) = plan.rows(given)? else { return Ok(None) };
                ask.shared = Some(Box::new(ask.keys_of_left(plan, &rows)?));
                ask.left = Some(Box::new(rows));
            }
        }
        Ok(Some(ask))
    }

    /// How many rows of the store it asks for.
    pub fn keys(&self) -> usize {
        match &self.shared {
            None => self.entities.len() * self.lookup.views.len(),
            Some(shared) => shared.keys.len(),
        }
    }

    /// How many rows it passes over, if any.
    pub fn offset(&self) -> Option<u64> {
        (self.skip > 0).then_some(self.skip)
    }

    /// How many rows it wants, if not all.
    pub fn limit(&self) -> Option<u64> {
        (self.fetch < u64::MAX).then_some(self.fetch)
    }

    /// How many entities, or rows of a left side, it has.
    pub fn candidates(&self) -> usize {
        self.left.as_ref().map_or(self.entities.len(), |left| left.len())
    }

    /// Adds its keys to those of others.
    pub(super) fn add_keys(&self, keys: &mut Vec<RowKey>) {
        if let Some(shared) = &self.shared {
            keys.extend_from_slice(&shared.keys);
            return;
        }
        for entity in &self.entities {
            let of_view = |view: &LookupView| RowKey { view: view.view.id, entity: entity.clone() };
            keys.extend(self.lookup.views.iter().map(of_view));
        }
    }

    /// The keys of the views of which some have only a part of the entities' keys.
    fn keys_of_entities(&self) -> Result<SharedKeys> {
        SharedKeys::of(&self.lookup.views, self.entities.len(), |entity, view, key| {
            let bytes = self.entities[entity].as_bytes();
            match &view.parts {
                None => key.extend_from_slice(bytes),
                Some(parts) => {
                    for part in parts {
                        key.extend_from_slice(&bytes[span_of(&self.lookup.parts, bytes, *part)?.0]);
                    }
                }
            }
            Ok(true)
        })
    }

    /// The keys that the rows of a left side name. One that has a NULL, or a value that no key can have, names none.
    fn keys_of_left(&self, plan: &LeftPlan, rows: &LeftRows) -> Result<SharedKeys> {
        let append = |key: &mut Vec<u8>, part: &SqlType, row: usize, column: usize| {
            let value = rows.value(row, column);
            value.is_some_and(|value| append_packed(key, part, &plan.columns[column].data_type, value))
        };
        let mut key_of_service = Vec::new();
        let has_key = |row: usize| {
            key_of_service.clear();
            plan.service_key.iter().all(|(column, part)| append(&mut key_of_service, part, row, *column))
        };
        let has_key: Vec<bool> = (0..rows.len()).map(has_key).collect();
        SharedKeys::of(&self.lookup.views, rows.len(), |row, view, key| {
            let columns = view.parts.as_deref().unwrap_or_default();
            let mut parts = view.view.keys.iter().zip(columns);
            Ok(has_key[row] && parts.all(|(part, column)| append(key, &part.data_type, row, *column)))
        })
    }
}

/// A number of rows, which is `all` where nothing is said; `None` where it is negative.
fn row_count(given: &mut impl Given, count: Option<&RowCount>, all: u64) -> Result<Option<u64>> {
    let value = match count {
        None => return Ok(Some(all)),
        Some(RowCount::Literal(rows)) => return Ok(Some(*rows)),
        Some(RowCount::Parameter(parameter, data_type)) => given.value(*parameter, data_type)?,
    };
    let value = cast(&value, &SqlType::BigInt.arrow())
        .map_err(|source| Error::internal("a number of rows that is none").caused_by(source))?;
    let number = value.as_primitive::<Int64Type>();
    Ok(if number.is_null(0) { Some(all) } else { u64::try_from(number.value(0)).ok() })
}

/// Where a part of a key lies: with its length, if it has one, and without.
pub(super) fn span_of(parts: &[KeyColumn], key: &[u8], part: usize) -> Result<(Range<usize>, Range<usize>)> {
    let mut rest = key;
    for (place, column) in parts.iter().enumerate() {
        let start = key.len() - rest.len();
        let (value, behind) = split_part(&column.data_type, rest).ok_or_else(no_such_part)?;
        let end = key.len() - behind.len();
        if place == part {
            return Ok((start..end, end - value.len()..end));
        }
        rest = behind;
    }
    Err(no_such_part())
}

pub(super) fn no_such_part() -> Error {
    Error::internal("a lookup's key without one of its parts")
}

/// The place of a key that is none.
const NO_KEY: u32 = u32::MAX;

/// Rows of the store that candidates share: those of each view, each once.
#[derive(Clone, Debug)]
pub(super) struct SharedKeys {
    pub(super) keys: Vec<RowKey>,
    /// For each view, where its keys end.
    ends: Vec<usize>,
    /// For each candidate, for each view, the place of its key, or [`NO_KEY`].
    places: Vec<u32>,
}

impl SharedKeys {
    /// The keys of so many candidates. `append` adds the key of a candidate in a view, and gives whether it has one.
    fn of(
        views: &[LookupView],
        candidates: usize,
        mut append: impl FnMut(usize, &LookupView, &mut Vec<u8>) -> Result<bool>,
    ) -> Result<Self> {
        let mut shared =
            Self { keys: Vec::new(), ends: Vec::with_capacity(views.len()), places: vec![NO_KEY; candidates * views.len()] };
        for (number, view) in views.iter().enumerate() {
            let (mut bytes, mut spans) = (Vec::new(), Vec::with_capacity(candidates));
            for candidate in 0..candidates {
                let start = bytes.len();
                let has_key = append(candidate, view, &mut bytes)?;
                spans.push(has_key.then_some(start..bytes.len()));
            }
            let bytes = Bytes::from(bytes);
            let mut seen: HashMap<&[u8], u32> = HashMap::new();
            for (candidate, span) in spans.into_iter().enumerate() {
                let Some(span) = span else { continue };
                let next = u32::try_from(shared.keys.len()).map_err(|_| Error::internal("a lookup of too many keys"))?;
                // One candidate has nobody to share with.
                let place = if candidates > 1 { *seen.entry(&bytes[span.clone()]).or_insert(next) } else { next };
                if place == next {
                    let entity = EntityKey::from_bytes(bytes.slice(span));
                    shared.keys.push(RowKey { view: view.view.id, entity });
                }
                shared.places[candidate * views.len() + number] = place;
            }
            shared.ends.push(shared.keys.len());
        }
        Ok(shared)
    }

    /// The place among the keys of a candidate's row in a view.
    pub(super) fn place(&self, candidate: usize, view: usize) -> Option<usize> {
        let place = self.places[candidate * self.ends.len() + view];
        (place != NO_KEY).then_some(place as usize)
    }

    /// For each view, the places of its keys.
    pub(super) fn of_views(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| start..*end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::{KeyPlan, LeftColumn, LeftSource, LookupColumn, PartSource, RowRange, Standpoint};
    use crate::online::RowLayout;
    use crate::registry::{FeatureView, ObjectId};

    fn key(name: &str, data_type: SqlType) -> KeyColumn {
        KeyColumn { name: name.into(), data_type }
    }

    fn view(id: u32, keys: Vec<KeyColumn>, parts: Option<Vec<usize>>) -> LookupView {
        let view = Arc::new(FeatureView {
            id: ObjectId(id),
            name: format!("v{id}"),
            entities: Vec::new(),
            keys,
            event_time: "event_time".into(),
            features: Vec::new(),
            ttl: None,
            online: true,
            comment: None,
            options: Default::default(),
            tags: Default::default(),
        });
        LookupView { layout: RowLayout::new(&view), view, parts, is_required: false }
    }

    fn lookup(parts: Vec<KeyColumn>, candidates: Candidates, views: Vec<LookupView>) -> Arc<CompiledLookup> {
        let columns: Vec<LookupColumn> = Vec::new();
        let standpoint = Standpoint { registry_version: 1, time_zone: "UTC".into() };
        let range = RowRange::default();
        Arc::new(CompiledLookup { standpoint, parts, candidates, views, needs_row: true, columns, computed: None, range })
    }

    /// Arrays of `bigint`, one a parameter.
    struct Arrays<'a>(&'a [&'a [Option<i64>]]);

    impl Given for Arrays<'_> {
        fn add_slot(&mut self, slot: &Slot, values: &mut SlotValues) -> Result<()> {
            self.0[slot.parameter].iter().flatten().for_each(|number| values.add_integer(&slot.part_type, *number));
            values.end_slot();
            Ok(())
        }

        fn value(&mut self, parameter: usize, _data_type: &SqlType) -> Result<ArrayRef> {
            let numbers = self.0[parameter].to_vec();
            Ok(Arc::new(arrow::array::ListArray::from_iter_primitive::<Int64Type, _, _>([Some(numbers)])))
        }
    }

    fn ask(lookup: &Arc<CompiledLookup>, arrays: &[&[Option<i64>]]) -> Ask {
        Ask::of(lookup, &mut Arrays(arrays), &mut SlotValues::default()).unwrap().unwrap()
    }

    /// The keys that are asked for, as the view's number and the numbers of the key.
    fn keys(ask: &Ask) -> Vec<(u32, Vec<u8>)> {
        let mut keys = Vec::new();
        ask.add_keys(&mut keys);
        assert_eq!(keys.len(), ask.keys());
        keys.into_iter().map(|key| (key.view.0, key.entity.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_view_is_asked_once_for_entities_that_share_its_row() {
        let small = || key("a", SqlType::SmallInt);
        let parts = vec![small(), key("b", SqlType::SmallInt)];
        let slot = |parameter| Slot { parameter, parameter_type: SqlType::BigInt, part_type: SqlType::SmallInt };
        let plan = KeyPlan { slots: vec![slot(0), slot(1)], alternatives: vec![vec![PartSource::Slot(0), PartSource::Slot(1)]] };
        let views =
            vec![view(1, vec![small()], Some(vec![0])), view(2, parts.clone(), None), view(3, vec![small()], Some(vec![1]))];
        let lookup = lookup(parts, Candidates::Keys(plan), views);
        let ask = ask(&lookup, &[&[Some(1), Some(2)], &[Some(3), Some(4)]]);
        assert_eq!(ask.candidates(), 4);
        let whole = [[1, 0, 3, 0], [1, 0, 4, 0], [2, 0, 3, 0], [2, 0, 4, 0]].map(|key| (2, key.to_vec()));
        let expected = [[(1, vec![1, 0]), (1, vec![2, 0])].to_vec(), whole.to_vec(), [(3, vec![3, 0]), (3, vec![4, 0])].to_vec()];
        assert_eq!(keys(&ask), expected.concat());
        let shared = ask.shared.as_ref().unwrap();
        let places: Vec<Vec<usize>> =
            (0..4).map(|entity| (0..3).map(|view| shared.place(entity, view).unwrap()).collect()).collect();
        assert_eq!(places, [[0, 2, 6], [0, 3, 7], [1, 4, 6], [1, 5, 7]]);
    }

    #[test]
    fn left_rows_ask_for_each_key_once_and_none_for_what_is_no_key() {
        let column = |parameter| LeftColumn { data_type: SqlType::BigInt, source: LeftSource::Elements(parameter) };
        let plan = LeftPlan { columns: vec![column(0), column(1)], service_key: Vec::new() };
        let views = vec![
            view(1, vec![key("a", SqlType::SmallInt)], Some(vec![0])),
            view(2, vec![key("b", SqlType::BigInt)], Some(vec![1])),
        ];
        let lookup = lookup(Vec::new(), Candidates::Left(plan), views);
        let ask = ask(&lookup, &[&[Some(7), None, Some(7), Some(40_000)], &[Some(1), Some(2)]]);
        assert_eq!(ask.candidates(), 4);
        assert_eq!(keys(&ask), [(1, vec![7, 0]), (2, vec![1, 0, 0, 0, 0, 0, 0, 0]), (2, vec![2, 0, 0, 0, 0, 0, 0, 0])]);
        let shared = ask.shared.as_ref().unwrap();
        let places: Vec<[Option<usize>; 2]> = (0..4).map(|row| [shared.place(row, 0), shared.place(row, 1)]).collect();
        assert_eq!(places, [[Some(0), Some(1)], [None, Some(2)], [Some(0), None], [None, None]]);
        let left = ask.left.as_ref().unwrap();
        assert_eq!(left.value(3, 0), Some(&40_000_i64.to_le_bytes()[..]));
        assert_eq!((left.value(1, 0), left.value(3, 1)), (None, None));
    }
}
