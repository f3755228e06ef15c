//! The columns of the rows that answer, read straight to where the left rows want them.
//!
//! Values of a fixed width go from the batches that are read to their place in the answer's column. Others are picked out of
//! the batches and put together when the answer is given.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, RecordBatch, UInt32Array, make_array, new_null_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};
use arrow::compute::{concat, concat_batches, interleave, take_record_batch};
use arrow::datatypes::{ArrowNativeType, DataType, Field, SchemaRef, UInt64Type};
use datafusion::execution::memory_pool::MemoryReservation;

use super::batches::{as_type, project_schema};
use super::runtime::give_way;
use super::source::{DatasetReader, column};
use super::workers::{SharedBatches, on_all_workers, workers};
use super::{internal, kernel};
use crate::error::{Error, Result};
use crate::offline::{Predicate, RETRACTED, ROW_ADDRESS, Scan};

/// Up to this many rows are fetched by address; more are picked out of a scan (measured: notes on Lance's `take`).
const TAKE_ROWS_MAX: usize = 10_000;

/// Fetching by address pays only where the rows are a small part of what was read.
const ROWS_PER_TAKEN_ROW: usize = 20;

/// The rows of a chunk of a column: as many as most left sides come in at a time.
const CHUNK_ROWS: usize = super::BATCH_ROWS;

/// Marks the address of a row that the block keeps back: its place among those rows. Stored rows never have this bit.
pub(crate) const HELD: u64 = 1 << 63;

/// A chunk of [`Answers`], and a row of it.
pub(crate) type Place = (u32, u32);

/// The place of a left row without an answer.
pub(crate) const NO_PLACE: Place = (u32::MAX, u32::MAX);

/// A left row, after the address of the row that answers it.
pub(crate) type Answered = (u64, u32);

/// The answers to all left rows.
#[derive(Debug)]
pub(crate) struct Answers {
    /// Which left rows have one.
    matched: BooleanBuffer,
    columns: Vec<AnswerColumn>,
    /// Rows among which those that answer are, with the columns that are put together from them.
    chunks: Vec<RecordBatch>,
    /// For each left row the chunk and the row in it.
    places: Vec<Place>,
}

#[derive(Debug)]
enum AnswerColumn {
    /// One value a left row, in chunks of [`CHUNK_ROWS`]. Each chunk is an array of its own: slices of a large one would count as
    /// the large one, each of them, wherever memory is counted.
    Whole(Vec<ArrayRef>),
    /// This column of the chunks.
    Picked(usize),
}

impl Answers {
    /// No answer to any of so many left rows, in so many columns.
    pub(crate) fn none(left_rows: usize, columns: usize) -> Self {
        Self {
            matched: BooleanBuffer::new_unset(left_rows),
            columns: (0..columns).map(AnswerColumn::Picked).collect(),
            chunks: Vec::new(),
            places: vec![NO_PLACE; left_rows],
        }
    }

    /// The answers at these places among `rows`; the chunk is 0.
    pub(crate) fn among(rows: RecordBatch, places: Vec<Place>) -> Self {
        let matched = places.iter().map(|place| *place != NO_PLACE).collect();
        let columns = (0..rows.num_columns()).map(AnswerColumn::Picked).collect();
        Self { matched, columns, chunks: vec![rows], places }
    }

    /// Which of `len` left rows from `first` on have an answer, and its columns: NULLs where there is none.
    pub(crate) fn slice(&self, fields: &[Arc<Field>], first: usize, len: usize) -> Result<(BooleanBuffer, Vec<ArrayRef>)> {
        let matched = self.matched.slice(first, len);
        let mut places = Vec::new();
        if self.columns.iter().any(|column| matches!(column, AnswerColumn::Picked(_))) && !self.chunks.is_empty() {
            // The chunks follow a row of NULLs, which answers the rows without an answer.
            let place = |place: &Place| if *place == NO_PLACE { (0, 0) } else { (place.0 as usize + 1, place.1 as usize) };
            places = self.places[first..first + len].iter().map(place).collect();
        }
        let column = |(column, field): (&AnswerColumn, &Arc<Field>)| match column {
            AnswerColumn::Whole(chunks) => as_type(&rows_of(chunks, first, len)?, field.data_type()),
            AnswerColumn::Picked(number) => {
                let Some(chunk) = self.chunks.first() else { return Ok(new_null_array(field.data_type(), len)) };
                let nulls = new_null_array(chunk.column(*number).data_type(), 1);
                let chunks = self.chunks.iter().map(|chunk| chunk.column(*number));
                let chunks: Vec<&dyn Array> = std::iter::once(&nulls).chain(chunks).map(AsRef::as_ref).collect();
                as_type(&interleave(&chunks, &places).map_err(kernel)?, field.data_type())
            }
        };
        let columns = self.columns.iter().zip(fields).map(column).collect::<Result<Vec<_>>>()?;
        Ok((matched, columns))
    }

    /// How many left rows have one.
    pub(crate) fn matched_rows(&self) -> usize {
        self.matched.count_set_bits()
    }

    /// The bytes they take beside the rows that they are among.
    pub(crate) fn bytes(&self) -> usize {
        let whole = self.columns.iter().map(|column| match column {
            AnswerColumn::Whole(chunks) => chunks.iter().map(|chunk| chunk.get_array_memory_size()).sum(),
            AnswerColumn::Picked(_) => 0,
        });
        whole.sum::<usize>() + self.places.len() * size_of::<Place>() + self.matched.len() / 8
    }

    /// The bytes of the rows that they are among.
    pub(crate) fn chunk_bytes(&self) -> usize {
        self.chunks.iter().map(RecordBatch::get_array_memory_size).sum()
    }
}

/// These rows of a column in chunks. Free where they are a chunk, or lie in one.
fn rows_of(chunks: &[ArrayRef], first: usize, len: usize) -> Result<ArrayRef> {
    let mut parts = Vec::new();
    let (mut at, end) = (first, first + len);
    while at < end {
        let (chunk, row) = (&chunks[at / CHUNK_ROWS], at % CHUNK_ROWS);
        let taken = (chunk.len() - row).min(end - at);
        parts.push(chunk.slice(row, taken));
        at += taken;
    }
    match &parts[..] {
        [part] => Ok(Arc::clone(part)),
        parts => concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>()).map_err(kernel),
    }
}

/// What is fetched.
pub(crate) struct Fetch<'a> {
    pub(crate) reader: &'a DatasetReader,
    /// For what is kept only while fetching, and what is fetched.
    pub(crate) memory: &'a MemoryReservation,
    /// The columns, by name.
    pub(crate) columns: &'a [String],
    pub(crate) left_rows: usize,
    /// How many rows were read to find those that answer.
    pub(crate) history_rows: usize,
    /// What all of them meet. Rows kept back are addressed by their place among those that meet it.
    pub(crate) predicates: &'a [Predicate],
}

impl Fetch<'_> {
    /// Reads the rows that answer, given in the order of their addresses. One that is a retraction answers nothing.
    pub(crate) async fn answers(self, answered: Vec<Answered>) -> Result<Answers> {
        if answered.is_empty() {
            return Ok(Answers::none(self.left_rows, self.columns.len()));
        }
        let schema = project_schema(self.reader.schema(), self.columns, false)?;
        let layout = Layout::new(&schema, self.left_rows);
        self.memory.try_grow(layout.row_bytes() * self.left_rows).map_err(internal)?;
        let stored = answered.partition_point(|(address, _)| address & HELD == 0);
        let target = Arc::new(Target { answered, layout });
        let mut picked = Picked::default();
        let columns: Vec<String> = self.columns.iter().cloned().chain([RETRACTED.to_owned()]).collect();
        let predicates = self.predicates.to_vec();
        let scan = Scan { columns, predicates, rough: true, row_address: true, ..Scan::default() };
        if stored <= TAKE_ROWS_MAX && stored.saturating_mul(ROWS_PER_TAKEN_ROW) < self.history_rows {
            let mut addresses: Vec<u64> = target.answered[..stored].iter().map(|(address, _)| *address).collect();
            addresses.dedup();
            if !addresses.is_empty() {
                let rows = self.reader.take(&addresses, &scan.columns).await?;
                target.pick(&rows, &addresses, &mut picked)?;
            }
        } else {
            picked = self.pick_from_scan(&target, scan.clone()).await?;
        }
        if stored < target.answered.len() {
            let schema = project_schema(self.reader.schema(), &scan.columns, false)?;
            let rows = concat_batches(&schema, &self.reader.held_rows(&Scan { row_address: false, ..scan })?).map_err(kernel)?;
            let addresses: Vec<u64> = (0..rows.num_rows() as u64).map(|row| HELD | row).collect();
            target.pick(&rows, &addresses, &mut picked)?;
        }
        let target = Arc::into_inner(target).ok_or_else(|| Error::internal("a worker still holds what was fetched"))?;
        target.into_answers(&schema, picked, self.left_rows)
    }

    async fn pick_from_scan(&self, target: &Arc<Target>, scan: Scan) -> Result<Picked> {
        let history = SharedBatches::new(self.reader.scan_shares(scan, workers()).await?);
        let picked = on_all_workers(|worker| {
            let (history, target, memory) = (history.clone(), Arc::clone(target), self.memory.new_empty());
            async move {
                let mut picked = Picked::default();
                while let Some(batch) = history.next(worker).await {
                    let batch = batch?;
                    let addresses = column(&batch, ROW_ADDRESS)?;
                    target.pick(&batch, addresses.as_primitive::<UInt64Type>().values(), &mut picked)?;
                    memory.try_resize(picked.bytes()).map_err(internal)?;
                }
                // The reservation lives as long as what it is for is not accounted for by the caller.
                Ok((picked, memory))
            }
        });
        let (parts, _memory): (Vec<_>, Vec<_>) = picked.await?.into_iter().unzip();
        Ok(parts.into_iter().fold(Picked::default(), Picked::united))
    }
}

/// Which of the columns are written in place, and where.
struct Layout {
    /// By number of the column, where its values have a fixed width.
    whole: Vec<(usize, Cells)>,
    /// The others.
    picked: Vec<usize>,
}

/// The values of a column, one a left row, by their width and in chunks; workers write different rows at the same time.
enum Cells {
    One(Vec<Vec<AtomicU8>>),
    Two(Vec<Vec<AtomicU16>>),
    Four(Vec<Vec<AtomicU32>>),
    Eight(Vec<Vec<AtomicU64>>),
}

impl Cells {
    fn new(data_type: &DataType, rows: usize) -> Option<Self> {
        fn zeros<T: Default>(rows: usize) -> Vec<Vec<T>> {
            let chunk = |first: usize| std::iter::repeat_with(T::default).take(CHUNK_ROWS.min(rows - first)).collect();
            (0..rows).step_by(CHUNK_ROWS).map(chunk).collect()
        }
        Some(match data_type.primitive_width()? {
            1 => Cells::One(zeros(rows)),
            2 => Cells::Two(zeros(rows)),
            4 => Cells::Four(zeros(rows)),
            8 => Cells::Eight(zeros(rows)),
            _ => return None,
        })
    }

    fn width(&self) -> usize {
        match self {
            Cells::One(_) => 1,
            Cells::Two(_) => 2,
            Cells::Four(_) => 4,
            Cells::Eight(_) => 8,
        }
    }

    /// Copies values of these rows to these left rows.
    fn put(&self, values: &ArrayData, pairs: &[(u32, u32)]) {
        macro_rules! copy {
            ($chunks:expr, $type:ty) => {{
                let values = values_of::<$type>(values);
                for (row, left_row) in pairs {
                    let left_row = *left_row as usize;
                    $chunks[left_row / CHUNK_ROWS][left_row % CHUNK_ROWS].store(values[*row as usize], Ordering::Relaxed);
                }
            }};
        }
        match self {
            Cells::One(chunks) => copy!(chunks, u8),
            Cells::Two(chunks) => copy!(chunks, u16),
            Cells::Four(chunks) => copy!(chunks, u32),
            Cells::Eight(chunks) => copy!(chunks, u64),
        }
    }

    /// The buffers of the chunks.
    fn into_buffers(self) -> Vec<Buffer> {
        macro_rules! buffers {
            ($chunks:expr, $atomic:ty) => {
                $chunks
                    .into_iter()
                    .map(|chunk| Buffer::from_vec(chunk.into_iter().map(<$atomic>::into_inner).collect::<Vec<_>>()))
                    .collect()
            };
        }
        match self {
            Cells::One(chunks) => buffers!(chunks, AtomicU8),
            Cells::Two(chunks) => buffers!(chunks, AtomicU16),
            Cells::Four(chunks) => buffers!(chunks, AtomicU32),
            Cells::Eight(chunks) => buffers!(chunks, AtomicU64),
        }
    }
}

/// The values of an array of this width, whatever they mean.
fn values_of<T: ArrowNativeType>(values: &ArrayData) -> ScalarBuffer<T> {
    ScalarBuffer::new(values.buffers()[0].clone(), values.offset(), values.len())
}

impl Layout {
    fn new(schema: &SchemaRef, left_rows: usize) -> Self {
        let mut layout = Self { whole: Vec::new(), picked: Vec::new() };
        for (number, field) in schema.fields().iter().enumerate() {
            match Cells::new(field.data_type(), left_rows) {
                Some(cells) => layout.whole.push((number, cells)),
                None => layout.picked.push(number),
            }
        }
        layout
    }

    fn row_bytes(&self) -> usize {
        self.whole.iter().map(|(_, cells)| cells.width()).sum()
    }
}

/// What a worker found, beside the values it wrote in place.
#[derive(Default)]
struct Picked {
    /// How many left rows have been answered.
    found: usize,
    /// Left rows whose answer is a retraction.
    retracted: Vec<u32>,
    /// The left rows whose value is NULL, for each column that is written in place.
    nulls: Vec<Vec<u32>>,
    chunks: Vec<RecordBatch>,
    /// The left rows, and their places in the chunks.
    places: Vec<(u32, Place)>,
}

impl Picked {
    fn bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(RecordBatch::get_array_memory_size).sum();
        let nulls: usize = self.nulls.iter().map(|rows| rows.capacity() * 4).sum();
        let lists = nulls + self.places.capacity() * size_of::<(u32, Place)>();
        chunks + lists + self.retracted.capacity() * 4
    }

    fn united(mut self, other: Picked) -> Picked {
        let before = self.chunks.len() as u32;
        self.found += other.found;
        self.retracted.extend(other.retracted);
        self.nulls.resize(self.nulls.len().max(other.nulls.len()), Vec::new());
        for (nulls, others) in self.nulls.iter_mut().zip(other.nulls) {
            nulls.extend(others);
        }
        self.chunks.extend(other.chunks);
        self.places.extend(other.places.into_iter().map(|(left_row, (chunk, row))| (left_row, (chunk + before, row))));
        self
    }
}

/// The left rows that wait for their answers, and where these go.
struct Target {
    /// By address.
    answered: Vec<Answered>,
    layout: Layout,
}

impl Target {
    /// Takes what answers out of `batch`, whose last columns are the mark of retractions and perhaps the address.
    fn pick(&self, batch: &RecordBatch, addresses: &[u64], picked: &mut Picked) -> Result<()> {
        let mut pairs = self.pairs(addresses);
        picked.found += pairs.len();
        let retracted = column(batch, RETRACTED)?;
        let retracted = retracted.as_boolean();
        if retracted.true_count() > 0 {
            pairs.retain(|(row, left_row)| {
                let is_retraction = retracted.is_valid(*row as usize) && retracted.value(*row as usize);
                if is_retraction {
                    picked.retracted.push(*left_row);
                }
                !is_retraction
            });
        }
        if pairs.is_empty() {
            return Ok(());
        }
        picked.nulls.resize(self.layout.whole.len(), Vec::new());
        for ((number, cells), null) in self.layout.whole.iter().zip(&mut picked.nulls) {
            give_way();
            let values = batch.column(*number);
            cells.put(&values.to_data(), &pairs);
            if let Some(nulls) = values.nulls().filter(|nulls| nulls.null_count() > 0) {
                let nulls = pairs.iter().filter(|(row, _)| nulls.is_null(*row as usize));
                null.extend(nulls.map(|(_, left_row)| *left_row));
            }
        }
        if !self.layout.picked.is_empty() {
            let chunk = u32::try_from(picked.chunks.len()).map_err(|_| Error::internal("more batches than 32 bits count"))?;
            let mut rows: Vec<u32> = Vec::new();
            for (row, left_row) in &pairs {
                if rows.last() != Some(row) {
                    rows.push(*row);
                }
                picked.places.push((*left_row, (chunk, rows.len() as u32 - 1)));
            }
            let columns = batch.project(&self.layout.picked).map_err(kernel)?;
            picked.chunks.push(take_record_batch(&columns, &UInt32Array::from(rows)).map_err(kernel)?);
        }
        Ok(())
    }

    /// The rows at these addresses that answer, each with a left row.
    fn pairs(&self, addresses: &[u64]) -> Vec<(u32, u32)> {
        let mut pairs = Vec::new();
        // Addresses mostly ascend within a batch, so the place among those wanted is found by walking, not by searching.
        let (mut cursor, mut previous) = (0, u64::MAX);
        for (row, address) in (0_u32..).zip(addresses) {
            if *address < previous {
                cursor = self.answered.partition_point(|(wanted, _)| wanted < address);
            }
            previous = *address;
            while self.answered.get(cursor).is_some_and(|(wanted, _)| wanted < address) {
                cursor += 1;
            }
            let same = self.answered[cursor..].iter().take_while(|(wanted, _)| wanted == address);
            pairs.extend(same.map(|(_, left_row)| (row, *left_row)));
        }
        pairs
    }

    fn into_answers(self, schema: &SchemaRef, picked: Picked, left_rows: usize) -> Result<Answers> {
        if picked.found != self.answered.len() {
            return Err(Error::internal("a matched history row is not in the version that it was found in"));
        }
        let mut matched = vec![false; left_rows];
        for (_, left_row) in &self.answered {
            matched[*left_row as usize] = true;
        }
        for left_row in &picked.retracted {
            matched[*left_row as usize] = false;
        }
        let all_matched = BooleanBuffer::from(matched.as_slice());
        let mut columns: Vec<Option<AnswerColumn>> = schema.fields().iter().map(|_| None).collect();
        let null_rows = picked.nulls.iter().map(Vec::as_slice).chain(std::iter::repeat(&[][..]));
        for ((number, cells), null_rows) in self.layout.whole.into_iter().zip(null_rows) {
            let mut valid = None;
            for left_row in null_rows {
                valid.get_or_insert_with(|| matched.clone())[*left_row as usize] = false;
            }
            let valid = valid.as_ref().unwrap_or(&matched);
            let data_type = schema.field(number).data_type();
            let chunk = |(buffer, valid): (Buffer, &[bool])| {
                let nulls = NullBuffer::from(valid);
                let values = ArrayData::builder(data_type.clone())
                    .len(valid.len())
                    .add_buffer(buffer)
                    .nulls(Some(nulls).filter(|nulls| nulls.null_count() > 0))
                    .build();
                values.map(make_array).map_err(kernel)
            };
            let chunks = cells.into_buffers().into_iter().zip(valid.chunks(CHUNK_ROWS)).map(chunk);
            columns[number] = Some(AnswerColumn::Whole(chunks.collect::<Result<_>>()?));
        }
        for (place, number) in self.layout.picked.iter().enumerate() {
            columns[*number] = Some(AnswerColumn::Picked(place));
        }
        let mut places = Vec::new();
        if !self.layout.picked.is_empty() {
            places.resize(left_rows, NO_PLACE);
            for (left_row, place) in picked.places {
                places[left_row as usize] = place;
            }
        }
        Ok(Answers { matched: all_matched, columns: columns.into_iter().flatten().collect(), chunks: picked.chunks, places })
    }
}
