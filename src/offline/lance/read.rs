//! Reading rows: by scan, leaving out what zones show not to match, and by address.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use futures::{FutureExt, StreamExt, stream};
use lance::dataset::ProjectionRequest;
use lance::dataset::scanner::FragmentSlice;
use lance::deps::datafusion::prelude::Expr;
use lance::table::format::Fragment;

use super::filter::{Condition, conditions};
use super::handles::Handle;
use super::{IO_BUFFER_BYTES, LanceStore, batch_rows, could_not, given_schema, path, stored};
use crate::error::{Error, Result};
use crate::offline::{BatchStream, Coverage, Dataset, RETRACTED, ROW_ADDRESS, Scan};
use crate::time::DatasetVersion;

/// Datasets of fewer rows are read whole: that costs less than knowing what is in them.
const PRUNED_ROWS_MIN: usize = 1 << 15;

/// Fragments are read in runs only where at least one of so many rows is left out: reading them whole is faster for each row.
const ROWS_PER_SKIPPED_ROW: usize = 4;

/// So many rows are shared out among readers.
const SHARED_ROWS_MIN: usize = 1 << 17;

/// Fragments that one of Lance's scans reads.
#[derive(Debug, Default)]
struct Part {
    fragments: Vec<Fragment>,
    /// The runs of rows in which a row can match, for each fragment.
    runs: Vec<Vec<Range<usize>>>,
    /// Rows of the fragments, and how many of them are in no run.
    rows: usize,
    unmatched_rows: usize,
    known: Known,
    /// Whether the runs are a share of the fragments' rows.
    is_share: bool,
}

/// What is known of all rows of a fragment before they are read.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    /// The retraction mark of every row: the column is then not read.
    retracted: Option<bool>,
    /// The conditions, by their place, that every row meets: they are then not judged.
    met: Vec<usize>,
}

/// What a scan of a version reads, and what it leaves out.
#[derive(Debug, Default)]
struct Selection {
    parts: Vec<Part>,
    /// Fragments and rows of the version, read or not.
    fragments: usize,
    rows: usize,
}

impl LanceStore {
    /// The rows of one version that match, in up to `shares` streams.
    pub(super) async fn read_shares(
        &self,
        dataset: Dataset,
        version: DatasetVersion,
        scan: Scan,
        shares: usize,
    ) -> Result<Vec<BatchStream>> {
        let handle = self.handles.at(dataset, version).await?;
        let schema = given_schema(dataset, &handle, &scan.columns, scan.row_address)?;
        let Some(conditions) = conditions(dataset, &handle, &scan.predicates)? else {
            return Ok(Vec::new());
        };
        let selection = match scan.added_after {
            Some(before) => Selection::whole(self.added_fragments(dataset, &handle, before).await?),
            None => self.select(dataset, &handle, &conditions, &scan).await,
        };
        if let Some(watch) = &scan.watch {
            watch.scans(selection.coverage());
        }
        let reading = Reading { dataset, handle: &handle, schema: &schema, io_buffer_bytes: IO_BUFFER_BYTES / shares as u64 };
        let mut streams: Vec<Vec<BatchStream>> = (0..shares).map(|_| Vec::new()).collect();
        for part in selection.parts {
            let unmet = conditions.iter().enumerate().filter(|(place, _)| !scan.rough && !part.known.met.contains(place));
            let filter = unmet.map(|(_, condition)| condition.filter.clone()).reduce(Expr::and);
            for (share, part) in streams.iter_mut().zip(part.shares(shares)) {
                share.push(reading.start(part, filter.clone()).await?);
            }
        }
        let shares = streams.into_iter().filter(|streams| !streams.is_empty()).map(|mut streams| match streams.len() {
            1 => streams.remove(0),
            _ => stream::iter(streams).flatten().boxed(),
        });
        Ok(shares.collect())
    }

    /// The rows at these addresses, in their order.
    pub(super) async fn read_at(
        &self,
        dataset: Dataset,
        version: DatasetVersion,
        addresses: &[u64],
        columns: &[String],
    ) -> Result<RecordBatch> {
        let failed = |source: lance::Error| could_not("read", dataset, source);
        let handle = self.handles.at(dataset, version).await?;
        let schema = given_schema(dataset, &handle, columns, false)?;
        if addresses.is_empty() {
            return Ok(RecordBatch::new_empty(schema));
        }
        let names: Vec<_> = columns.iter().map(|name| stored::stored_name(name)).collect();
        let projected = handle.schema().project(&names).map_err(failed)?;
        let take = handle.take_builder(addresses, ProjectionRequest::from_schema(projected)).map_err(failed)?;
        let rows = take.execute().boxed().await.map_err(failed)?;
        if rows.num_rows() != addresses.len() {
            let missing = addresses.len() - rows.num_rows();
            return Err(Error::internal(format!("{missing} rows of dataset \"{}\" are not at their address", path(dataset))));
        }
        given_batch(&rows, &schema, None).map_err(|source| could_not("read", dataset, source))
    }

    /// What to read of a version: fragments, and runs of their rows, in which a row can match.
    async fn select(&self, dataset: Dataset, handle: &Handle, conditions: &[Condition], scan: &Scan) -> Selection {
        let fragments = handle.fragments().to_vec();
        let rows: Option<usize> = fragments.iter().map(|fragment| fragment.physical_rows).sum();
        let zoned = || conditions.iter().filter_map(|condition| condition.zoned.as_ref());
        let mut fields: Vec<i32> = zoned().map(|(field, _)| *field).collect();
        if fields.is_empty() || rows.is_none_or(|rows| rows < PRUNED_ROWS_MIN) {
            return Selection::whole(fragments);
        }
        let retracted = handle.schema().field(RETRACTED).map(|field| field.id);
        let retracted = retracted.filter(|_| scan.columns.iter().any(|column| column == RETRACTED));
        fields.extend(retracted);
        let maps = self.zones.maps(self.folder(dataset), handle, &fragments, &fields).await;
        let mut selection = Selection::default();
        for (fragment, map) in fragments.into_iter().zip(maps) {
            let rows = fragment.physical_rows.unwrap_or(0);
            let Some(map) = map else {
                selection.add(fragment, rows, std::iter::once(0..rows).collect(), Known::default());
                continue;
            };
            let runs = map.matching(rows, zoned());
            let is_met = |condition: &Condition| condition.zoned.as_ref().is_some_and(|zoned| map.all_match(rows, zoned));
            let met = (0..conditions.len()).filter(|place| is_met(&conditions[*place])).collect();
            let retracted = retracted.and_then(|field| map.only_boolean(field, rows, &runs));
            selection.add(fragment, rows, runs, Known { retracted, met });
        }
        selection
    }
}

impl Selection {
    /// All rows of these fragments.
    fn whole(fragments: Vec<Fragment>) -> Self {
        let mut selection = Selection::default();
        for fragment in fragments {
            let rows = fragment.physical_rows.unwrap_or(0);
            selection.add(fragment, rows, std::iter::once(0..rows).collect(), Known::default());
        }
        selection
    }

    fn add(&mut self, fragment: Fragment, rows: usize, runs: Vec<Range<usize>>, known: Known) {
        self.fragments += 1;
        self.rows += rows;
        if runs.is_empty() {
            return;
        }
        let part = match self.parts.iter().position(|part| part.known == known) {
            Some(part) => &mut self.parts[part],
            None => {
                self.parts.push(Part { known, ..Part::default() });
                let last = self.parts.len() - 1;
                &mut self.parts[last]
            }
        };
        part.add(fragment, rows, runs);
    }

    fn coverage(&self) -> Coverage {
        let fragments_read: usize = self.parts.iter().map(|part| part.fragments.len()).sum();
        let rows_read: usize = self.parts.iter().map(Part::rows_read).sum();
        Coverage {
            fragments: self.fragments,
            fragments_pruned: self.fragments - fragments_read,
            rows_read,
            rows_skipped: self.rows - rows_read,
        }
    }
}

impl Part {
    /// Whether only the runs are read, and not the fragments whole.
    fn reads_runs(&self) -> bool {
        self.is_share || self.unmatched_rows * ROWS_PER_SKIPPED_ROW >= self.rows && self.unmatched_rows > 0
    }

    /// The same rows in up to `count` parts: fragment by fragment, or where these are too few, each fragment cut.
    fn shares(self, count: usize) -> Vec<Part> {
        if count == 1 || self.rows < SHARED_ROWS_MIN {
            return vec![self];
        }
        let part = || Part { known: self.known.clone(), ..Part::default() };
        let mut shares: Vec<Part> = (0..count).map(|_| part()).collect();
        let mut rows_before = 0;
        for (fragment, runs) in self.fragments.iter().zip(&self.runs) {
            let rows = fragment.physical_rows.unwrap_or(0);
            if self.fragments.len() >= count {
                let share = (rows_before * count / self.rows.max(1)).min(count - 1);
                shares[share].add(fragment.clone(), rows, runs.clone());
            } else {
                for (number, share) in shares.iter_mut().enumerate() {
                    let (start, end) = (rows * number / count, rows * (number + 1) / count);
                    let cut = runs.iter().map(|run| run.start.max(start)..run.end.min(end));
                    share.add(fragment.clone(), end - start, cut.filter(|run| !run.is_empty()).collect());
                    share.is_share = true;
                }
            }
            rows_before += rows;
        }
        shares.retain(|share| !share.fragments.is_empty());
        shares
    }

    /// Adds the runs of a fragment of which so many rows are considered.
    fn add(&mut self, fragment: Fragment, rows: usize, runs: Vec<Range<usize>>) {
        if runs.is_empty() {
            return;
        }
        self.rows += rows;
        self.unmatched_rows += rows - runs.iter().map(Range::len).sum::<usize>();
        self.fragments.push(fragment);
        self.runs.push(runs);
    }

    fn rows_read(&self) -> usize {
        if self.reads_runs() { self.rows - self.unmatched_rows } else { self.rows }
    }

    fn slices(&self) -> Vec<FragmentSlice> {
        let slices = self.fragments.iter().zip(&self.runs).flat_map(|(fragment, runs)| {
            runs.iter().map(|run| FragmentSlice {
                fragment_id: u32::try_from(fragment.id).unwrap_or(u32::MAX),
                row_offset: run.start as u64,
                row_count: run.len() as u64,
            })
        });
        slices.collect()
    }
}

/// A scan under way, of one version.
#[derive(Clone, Copy)]
struct Reading<'a> {
    dataset: Dataset,
    handle: &'a Handle,
    /// The rows have its columns.
    schema: &'a SchemaRef,
    /// What each stream may read ahead.
    io_buffer_bytes: u64,
}

impl Reading<'_> {
    /// Starts to read some fragments.
    async fn start(&self, part: Part, filter: Option<Expr>) -> Result<BatchStream> {
        let Self { dataset, handle, schema, io_buffer_bytes } = *self;
        let failed = move |source: lance::Error| could_not("read", dataset, source);
        let mut scanner = handle.scan();
        let is_stored = |name: &str| name != ROW_ADDRESS && !(name == RETRACTED && part.known.retracted.is_some());
        let columns: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).filter(|name| is_stored(name)).collect();
        let columns: Vec<_> = columns.into_iter().map(stored::stored_name).collect();
        scanner.project(&columns).map_err(failed)?;
        if columns.is_empty() || schema.field_with_name(ROW_ADDRESS).is_ok() {
            scanner.with_row_address();
        }
        if let Some(filter) = filter {
            scanner.filter_expr(filter);
        }
        if part.reads_runs() {
            scanner.with_fragment_slices(&part.slices()).boxed().await.map_err(failed)?;
        } else {
            scanner.with_fragments(part.fragments);
        }
        scanner.batch_size(batch_rows(schema)).io_buffer_size(io_buffer_bytes).scan_in_order(false);
        let batches = scanner.try_into_stream().boxed().await.map_err(failed)?;
        let (schema, retracted) = (Arc::clone(schema), part.known.retracted);
        let given = batches.map(move |batch| {
            let batch = batch.map_err(failed)?;
            given_batch(&batch, &schema, retracted).map_err(|source| could_not("read", dataset, source))
        });
        Ok(given.boxed())
    }
}

/// The columns of `batch`, which are named as stored, as `schema` has them; the retraction marks are all `retracted` where
/// that is known.
pub(super) fn given_batch(
    batch: &RecordBatch,
    schema: &SchemaRef,
    retracted: Option<bool>,
) -> std::result::Result<RecordBatch, ArrowError> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        if let (RETRACTED, Some(retracted)) = (field.name().as_str(), retracted) {
            columns.push(Arc::new(BooleanArray::from(vec![retracted; batch.num_rows()])));
            continue;
        }
        let stored = if field.name() == ROW_ADDRESS { ROW_ADDRESS.into() } else { stored::stored_name(field.name()) };
        let place = batch.schema_ref().index_of(&stored)?;
        columns.push(stored::convert(batch.column(place), field)?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}
