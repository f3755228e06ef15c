//! A relation, other than a view, as the right side of an as-of join.

use std::cmp::Ordering;
use std::fmt;

use arrow::array::{Array, ArrayRef, DynComparator, Int64Array, RecordBatch, make_comparator};
use arrow::compute::{SortOptions, cast, concat_batches};
use arrow::datatypes::{DataType, TimeUnit};

use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::StreamExt;

use super::as_of_fetch::{Answers, NO_PLACE};
use super::as_of_match::directed;
use super::as_of_side::{Direction, Reach};
use super::batches::own_bytes;
use super::candidates::{Candidates, NO_ROW, Offer};
use super::key_dictionary::NO_ENTITY;
use super::order::Order;
use super::spine::{Asked, Slots};
use super::{BATCH_ROWS, internal, kernel};
use crate::error::{Error, Result, SqlState};
use crate::registry::Ttl;

const MICROSECONDS_PER_DAY: i64 = 86_400_000_000;

/// A collected relation. Its rows are addressed by their number.
pub(crate) struct Relation {
    rows: RecordBatch,
    keys: Vec<ArrayRef>,
    order: Order,
    /// The column that stands for the event time, as numbers.
    times: Int64Array,
    time_type: DataType,
    /// What tells rows apart that are equal in key and time, column by column.
    columns: Vec<DynComparator>,
    memory: MemoryReservation,
}

impl fmt::Debug for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Relation({} rows)", self.rows.num_rows())
    }
}

/// The type in which values of `data_type` are compared: one for each kind of value.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Dictionary(_, values) => plain(values),
        other => other.clone(),
    }
}

fn as_plain(column: &ArrayRef) -> Result<ArrayRef> {
    cast(column, &plain(column.data_type())).map_err(kernel)
}

impl Relation {
    /// Collects a relation with these key columns, this column to order by, and these to decide first among ties.
    pub(crate) async fn collect(
        mut input: SendableRecordBatchStream,
        keys: &[usize],
        order: usize,
        ties: &[(usize, SortOptions)],
        memory: MemoryReservation,
    ) -> Result<Self> {
        let schema = input.schema();
        let mut batches = Vec::new();
        while let Some(batch) = input.next().await {
            let batch = batch.map_err(internal)?;
            // Once in pieces, and once as a whole.
            memory.try_grow(own_bytes(&batch) * 2).map_err(internal)?;
            batches.push(batch);
        }
        let rows = concat_batches(&schema, &batches).map_err(kernel)?;
        drop(batches);
        u32::try_from(rows.num_rows())
            .map_err(|_| Error::new(SqlState::ProgramLimitExceeded, "too many rows on the right side of an as-of join"))?;
        memory.try_resize(rows.get_array_memory_size() + rows.num_rows() * size_of::<i64>() * 2).map_err(internal)?;
        let keys = keys.iter().map(|key| as_plain(rows.column(*key))).collect::<Result<Vec<_>>>()?;
        let values = as_plain(rows.column(order))?;
        let order = Order::new(&values)?;
        let times = order.numbers(&values)?;
        let comparator = |(place, options): (usize, SortOptions)| {
            let column = rows.column(place);
            make_comparator(column, column, options).map_err(kernel)
        };
        let all = (0..rows.num_columns()).map(|place| (place, SortOptions::default()));
        let columns = ties.iter().copied().chain(all).map(comparator).collect::<Result<Vec<_>>>()?;
        Ok(Self { time_type: values.data_type().clone(), rows, keys, order, times, columns, memory })
    }

    /// The types of the keys.
    pub(crate) fn key_types(&self) -> Vec<DataType> {
        self.keys.iter().map(|key| key.data_type().clone()).collect()
    }

    /// The type of the column that stands for the event time.
    pub(crate) fn time_type(&self) -> &DataType {
        &self.time_type
    }

    /// Finds the answers to left rows with these keys and instants, in the relation's `columns`.
    pub(crate) fn find(&self, keys: &[ArrayRef], instants: &ArrayRef, reach: Reach, columns: &[usize]) -> Result<Answers> {
        let left_rows = instants.len();
        let instants = directed(reach.direction, &self.order.numbers(instants)?);
        let slots = Slots::new(&self.key_types(), &Asked { keys, times: &instants, known: None }, reach.bound)?;
        let mut candidates = Candidates::new(slots.len());
        for start in (0..self.rows.num_rows()).step_by(BATCH_ROWS) {
            let len = BATCH_ROWS.min(self.rows.num_rows() - start);
            let keys: Vec<ArrayRef> = self.keys.iter().map(|key| key.slice(start, len)).collect();
            for (row, entity) in (start..).zip(slots.find(&keys, len)?) {
                if entity == NO_ENTITY || self.times.is_null(row) {
                    continue;
                }
                let time = self.times.value(row);
                let time = if reach.direction == Direction::Forward { !time } else { time };
                let offer = Offer { version: (time, 0, 0), address: row as u64 };
                candidates.offer_with(&slots, entity, offer, |first, second| self.is_before(first, second));
            }
        }
        let mut places = vec![NO_PLACE; left_rows];
        for (slot, address) in candidates.choose(self.window(reach)?, &slots).into_iter().enumerate() {
            if address != NO_ROW {
                // Addresses are numbers of rows, of which there are no more than 32 bits count.
                places[slots.row(slot) as usize] = (0, address as u32);
            }
        }
        let rows = self.rows.project(columns).map_err(kernel)?;
        Ok(Answers::among(rows, places))
    }

    /// The window in the unit of the numbers.
    fn window(&self, reach: Reach) -> Result<Option<Ttl>> {
        let unit = match &self.time_type {
            // Days lie whole days apart.
            DataType::Date32 => MICROSECONDS_PER_DAY,
            DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000,
            DataType::Timestamp(TimeUnit::Second, _) => 1_000_000,
            _ => 1,
        };
        reach.window.map(|window| Ttl::from_micros(window.micros() / unit)).transpose()
    }

    /// Whether one row stands before another by their whole contents: so a tie has the same winner whatever order the rows
    /// came in.
    fn is_before(&self, first: u64, second: u64) -> bool {
        // Addresses are numbers of rows.
        let (first, second) = (first as usize, second as usize);
        let differs = self.columns.iter().map(|compare| compare(first, second)).find(|ordering| ordering.is_ne());
        differs == Some(Ordering::Less)
    }

    /// How many rows it has.
    pub(crate) fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// The bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.memory.size()
    }
}
