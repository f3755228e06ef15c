//! What the rows of a fragment can hold, zone by zone, and which of them a scan has to read.
//!
//! A zone is a run of rows of one fragment; of some columns its least and greatest value is known. Fragments never change, so
//! neither do their zones. What is not known is kept: a zone is left out only where no row of it can match.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use arrow::error::ArrowError;

/// Rows of one zone. Reading fewer costs as much: Lance decodes about a thousand values at a time.
pub(super) const ZONE_ROWS: usize = 512;

/// Bounds of texts and bytes are cut to about this many bytes.
const BOUND_BYTES_MAX: usize = 64;

/// What is known of one zone. Values that are NULL are not between its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Zone<T> {
    /// The least and the greatest value, or more; `None` where every value is NULL.
    pub(super) bounds: Option<(T, T)>,
    /// Whether a value is NULL.
    pub(super) nulls: bool,
}

impl<T> Default for Zone<T> {
    fn default() -> Self {
        Self { bounds: None, nulls: false }
    }
}

/// The zones of one column, and all of them as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Column<T> {
    pub(super) whole: Zone<T>,
    pub(super) zones: Vec<Zone<T>>,
}

/// The zones of a column, by how its values compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Zones {
    /// Booleans, integers, dates and instants, as integers of the same order.
    Numbers(Column<i64>),
    /// Texts and bytes, compared byte by byte.
    Bytes(Column<Vec<u8>>),
}

/// The zones of a fragment's columns, by the number of Lance's field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ZoneMap {
    pub(super) columns: HashMap<i32, Arc<Zones>>,
}

/// What the values of a column have to be for a row to match.
#[derive(Debug)]
pub(super) enum Wanted {
    /// One of these integers, which ascend.
    Numbers(Vec<i64>),
    /// One of these byte strings, which ascend.
    Bytes(Vec<Vec<u8>>),
    /// An integer between these, both included.
    Between(i64, i64),
}

/// How values of a type compare; `None` where zones cannot be made of them.
fn numbers(data_type: &DataType) -> Option<bool> {
    use DataType::{Binary, Boolean, Date32, Int8, Int16, Int32, Int64, LargeBinary, LargeUtf8, UInt8, UInt16, UInt32, Utf8};
    match data_type {
        Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | Date32 => Some(true),
        DataType::Timestamp(TimeUnit::Microsecond, _) => Some(true),
        Utf8 | LargeUtf8 | Binary | LargeBinary => Some(false),
        _ => None,
    }
}

/// Whether zones can be made of values of this type.
pub(super) fn has_zones(data_type: &DataType) -> bool {
    numbers(data_type).is_some()
}

/// Integers that compare as the values do.
fn as_numbers(values: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let narrow = if *values.data_type() == DataType::Date32 { cast(values, &DataType::Int32)? } else { Arc::clone(values) };
    cast(&narrow, &DataType::Int64)
}

impl Wanted {
    /// One of `values`, NULLs aside; `None` where their type has no zones.
    pub(super) fn one_of(values: &ArrayRef) -> Result<Option<Self>, ArrowError> {
        Ok(match numbers(values.data_type()) {
            Some(true) => {
                let values = as_numbers(values)?;
                let mut values: Vec<i64> = values.as_primitive::<Int64Type>().iter().flatten().collect();
                values.sort_unstable();
                Some(Wanted::Numbers(values))
            }
            Some(false) => {
                let values = cast(values, &DataType::LargeBinary)?;
                let mut values: Vec<Vec<u8>> = values.as_binary::<i64>().iter().flatten().map(<[u8]>::to_vec).collect();
                values.sort_unstable();
                Some(Wanted::Bytes(values))
            }
            None => None,
        })
    }
}

/// Whether one of `ascending` is between the bounds.
fn any_between<T: Ord>(ascending: &[T], least: &T, greatest: &T) -> bool {
    let first = ascending.partition_point(|value| value < least);
    ascending.get(first).is_some_and(|value| value <= greatest)
}

impl Wanted {
    fn number_between(&self, least: i64, greatest: i64) -> bool {
        match self {
            Wanted::Numbers(values) => any_between(values, &least, &greatest),
            Wanted::Between(min, max) => *min <= greatest && least <= *max,
            Wanted::Bytes(_) => true,
        }
    }
}

impl Zones {
    /// No zones yet, for values of a type that can have some.
    pub(super) fn of_type(data_type: &DataType) -> Option<Self> {
        Some(match numbers(data_type)? {
            true => Zones::Numbers(Column::default()),
            false => Zones::Bytes(Column::default()),
        })
    }

    /// Takes in the values of rows; `offsets` says which rows of the fragment they are.
    pub(super) fn add(&mut self, values: &ArrayRef, offsets: impl Iterator<Item = usize>) -> Result<(), ArrowError> {
        match self {
            Zones::Numbers(column) => {
                let values = as_numbers(values)?;
                let values = values.as_primitive::<Int64Type>();
                for (row, offset) in offsets.enumerate() {
                    let zone = column.zone(offset);
                    if values.is_null(row) {
                        zone.nulls = true;
                        continue;
                    }
                    let value = values.value(row);
                    match &mut zone.bounds {
                        Some((least, greatest)) => {
                            *least = (*least).min(value);
                            *greatest = (*greatest).max(value);
                        }
                        none => *none = Some((value, value)),
                    }
                }
            }
            Zones::Bytes(column) => {
                let values = cast(values, &DataType::LargeBinary)?;
                let values = values.as_binary::<i64>();
                for (row, offset) in offsets.enumerate() {
                    let zone = column.zone(offset);
                    if values.is_null(row) {
                        zone.nulls = true;
                        continue;
                    }
                    let value = values.value(row);
                    match &mut zone.bounds {
                        Some((least, _)) if value < least.as_slice() => *least = value.to_vec(),
                        Some((_, greatest)) if value > greatest.as_slice() => *greatest = value.to_vec(),
                        Some(_) => {}
                        none => *none = Some((value.to_vec(), value.to_vec())),
                    }
                }
            }
        }
        Ok(())
    }

    /// Shortens long bounds and sums up the zones, once all rows are taken in.
    pub(super) fn finish(&mut self) {
        match self {
            Zones::Numbers(column) => column.sum_up(),
            Zones::Bytes(column) => {
                for zone in &mut column.zones {
                    if let Some((least, greatest)) = &mut zone.bounds {
                        least.truncate(BOUND_BYTES_MAX);
                        shorten_upwards(greatest);
                    }
                }
                column.sum_up();
            }
        }
    }

    /// How many zones it has.
    pub(super) fn len(&self) -> usize {
        match self {
            Zones::Numbers(column) => column.zones.len(),
            Zones::Bytes(column) => column.zones.len(),
        }
    }

    /// About how many bytes of memory it takes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Zones::Numbers(column) => column.zones.len() * size_of::<Zone<i64>>(),
            Zones::Bytes(column) => {
                let bounds = column.zones.iter().filter_map(|zone| zone.bounds.as_ref());
                let bounds: usize = bounds.map(|(least, greatest)| least.capacity() + greatest.capacity()).sum();
                column.zones.len() * size_of::<Zone<Vec<u8>>>() + bounds
            }
        }
    }

    /// Whether the fragment, and each zone of it, can have a row whose value is wanted.
    fn judge(&self, wanted: &Wanted) -> Verdict {
        if self.all_wanted(wanted) {
            return Verdict::Unclear;
        }
        match (self, wanted) {
            (Zones::Numbers(column), wanted @ (Wanted::Numbers(_) | Wanted::Between(..))) => {
                column.judge(|(least, greatest)| wanted.number_between(*least, *greatest))
            }
            (Zones::Bytes(column), Wanted::Bytes(values)) => {
                column.judge(|(least, greatest)| any_between(values, least, greatest))
            }
            _ => Verdict::Unclear,
        }
    }

    /// Whether every value is known to be wanted.
    fn all_wanted(&self, wanted: &Wanted) -> bool {
        match (self, wanted) {
            (Zones::Numbers(Column { whole: Zone { bounds: Some((least, greatest)), nulls: false }, .. }), wanted) => {
                match wanted {
                    Wanted::Between(min, max) => min <= least && greatest <= max,
                    Wanted::Numbers(values) => least == greatest && values.binary_search(least).is_ok(),
                    Wanted::Bytes(_) => false,
                }
            }
            _ => false,
        }
    }

    /// The boolean that every row of these zones has, if there is one.
    fn only_boolean(&self, kept: &[Range<usize>]) -> Option<bool> {
        let Zones::Numbers(column) = self else { return None };
        let mut only = None;
        for zone in kept.iter().flat_map(|rows| &column.zones[zones_of(rows)]) {
            match (zone.nulls, zone.bounds, only) {
                (false, Some((least, greatest)), None) if least == greatest => only = Some(least),
                (false, Some((least, greatest)), Some(value)) if least == value && greatest == value => {}
                _ => return None,
            }
        }
        only.map(|value| value != 0)
    }
}

/// The zones in which these rows of a fragment are.
fn zones_of(rows: &Range<usize>) -> Range<usize> {
    rows.start / ZONE_ROWS..rows.end.div_ceil(ZONE_ROWS)
}

/// What zones say of a condition.
enum Verdict {
    /// No row can match.
    No,
    /// Any row may match.
    Unclear,
    /// Rows of some zones may.
    Zones(Vec<bool>),
}

impl<T: Ord + Clone> Column<T> {
    fn zone(&mut self, offset: usize) -> &mut Zone<T> {
        let number = offset / ZONE_ROWS;
        if number >= self.zones.len() {
            self.zones.resize_with(number + 1, Zone::default);
        }
        &mut self.zones[number]
    }

    /// Makes `whole` from the zones.
    pub(super) fn sum_up(&mut self) {
        let bounds = || self.zones.iter().filter_map(|zone| zone.bounds.as_ref());
        let least = bounds().map(|(least, _)| least).min();
        let greatest = bounds().map(|(_, greatest)| greatest).max();
        self.whole = Zone { bounds: least.cloned().zip(greatest.cloned()), nulls: self.zones.iter().any(|zone| zone.nulls) };
    }

    fn judge(&self, may_match: impl Fn(&(T, T)) -> bool) -> Verdict {
        if !self.whole.bounds.as_ref().is_some_and(&may_match) {
            return Verdict::No;
        }
        Verdict::Zones(self.zones.iter().map(|zone| zone.bounds.as_ref().is_some_and(&may_match)).collect())
    }
}

impl ZoneMap {
    /// About how many bytes of memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.columns.values().map(|zones| zones.bytes()).sum()
    }

    /// The runs of rows, of `rows` in all, in which a row can meet every one of the conditions on these fields.
    pub(super) fn matching<'a>(&self, rows: usize, wanted: impl IntoIterator<Item = &'a (i32, Wanted)>) -> Vec<Range<usize>> {
        let mut kept: Option<Vec<bool>> = None;
        for (field, wanted) in wanted {
            let Some(known) = self.known(*field, rows) else { continue };
            match known.judge(wanted) {
                Verdict::No => return Vec::new(),
                Verdict::Unclear => {}
                Verdict::Zones(judged) => match &mut kept {
                    Some(kept) => kept.iter_mut().zip(judged).for_each(|(kept, judged)| *kept &= judged),
                    None => kept = Some(judged),
                },
            }
        }
        let Some(kept) = kept else { return std::iter::once(0..rows).collect() };
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (number, _) in kept.iter().enumerate().filter(|(_, kept)| **kept) {
            let (start, end) = (number * ZONE_ROWS, rows.min((number + 1) * ZONE_ROWS));
            match runs.last_mut() {
                Some(run) if run.end == start => run.end = end,
                _ => runs.push(start..end),
            }
        }
        runs
    }

    /// Whether every one of the rows is known to meet a condition.
    pub(super) fn all_match(&self, rows: usize, (field, wanted): &(i32, Wanted)) -> bool {
        self.known(*field, rows).is_some_and(|known| known.all_wanted(wanted))
    }

    /// The boolean that every one of these rows has in a field, if there is one and it is known.
    pub(super) fn only_boolean(&self, field: i32, rows: usize, kept: &[Range<usize>]) -> Option<bool> {
        self.known(field, rows)?.only_boolean(kept)
    }

    /// A field's zones. Those that do not fit the fragment say nothing of it.
    fn known(&self, field: i32, rows: usize) -> Option<&Zones> {
        let zones = self.columns.get(&field)?;
        (zones.len() == rows.div_ceil(ZONE_ROWS)).then_some(zones)
    }
}

/// Cuts a long upper bound to one that is not below it, where there is a shorter one.
fn shorten_upwards(bound: &mut Vec<u8>) {
    if bound.len() <= BOUND_BYTES_MAX {
        return;
    }
    if let Some(last) = bound[..BOUND_BYTES_MAX].iter().rposition(|byte| *byte < u8::MAX) {
        bound.truncate(last + 1);
        bound[last] += 1;
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn a_bound_is_shortened_to_one_that_is_not_below_it() {
        for long in [vec![7; 100], [vec![7; 10], vec![255; 90]].concat(), vec![255; 100]] {
            let mut bound = long.clone();
            shorten_upwards(&mut bound);
            assert!(bound >= long, "{bound:?}");
        }
        let mut bound = [vec![7; 10], vec![255; 90]].concat();
        shorten_upwards(&mut bound);
        assert_eq!(bound, [vec![7; 9], vec![8]].concat());
    }

    #[test]
    fn runs_are_the_zones_in_which_a_row_can_match() {
        let mut zones = Zones::of_type(&DataType::Int64).unwrap();
        let rows = 5 * ZONE_ROWS - 100;
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..i64::try_from(rows).unwrap()));
        zones.add(&values, 0..rows).unwrap();
        zones.finish();
        let map = ZoneMap { columns: [(3, Arc::new(zones))].into() };
        let one_of = |values: Vec<i64>| (3, Wanted::one_of(&(Arc::new(Int64Array::from(values)) as ArrayRef)).unwrap().unwrap());
        let zone = i64::try_from(ZONE_ROWS).unwrap();
        let runs = |rows, wanted: &[_]| -> Vec<(usize, usize)> {
            map.matching(rows, wanted).into_iter().map(|run| (run.start, run.end)).collect()
        };
        assert_eq!(runs(rows, &[one_of(vec![zone, 1, -5])]), [(0, 2 * ZONE_ROWS)]);
        assert_eq!(runs(rows, &[one_of(vec![4 * zone])]), [(4 * ZONE_ROWS, rows)]);
        assert!(runs(rows, &[one_of(vec![-1, 1_000_000])]).is_empty());
        assert!(runs(rows, &[one_of(vec![1]), (3, Wanted::Between(zone, i64::MAX))]).is_empty());
        assert_eq!(runs(rows, &[(3, Wanted::Between(i64::MIN, i64::MAX))]), [(0, rows)]);
        assert_eq!(runs(rows, &[(4, Wanted::Between(0, 0))]), [(0, rows)], "an unknown column keeps all");
        assert_eq!(runs(rows + ZONE_ROWS, &[one_of(vec![-1])]), [(0, rows + ZONE_ROWS)], "a map of other rows keeps all");
    }

    #[test]
    fn texts_are_judged_by_their_beginnings() {
        let mut zones = Zones::of_type(&DataType::Utf8).unwrap();
        let long = "m".repeat(200);
        let values: ArrayRef = Arc::new(StringArray::from(vec![None, Some("b"), Some(long.as_str())]));
        zones.add(&values, 0..3).unwrap();
        zones.finish();
        let map = ZoneMap { columns: [(3, Arc::new(zones))].into() };
        let kept = |value: &str| {
            let wanted = Wanted::one_of(&(Arc::new(StringArray::from(vec![value])) as ArrayRef)).unwrap().unwrap();
            !map.matching(3, &[(3, wanted)]).is_empty()
        };
        assert!(kept("b") && kept(&long) && kept("c"));
        assert!(!kept("a") && !kept("n"));
    }
}
