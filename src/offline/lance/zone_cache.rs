//! Zones at hand: kept in memory, read from beside the data, or made from it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Schema, UInt64Type};
use futures::{FutureExt, TryStreamExt};
use lance::table::format::Fragment;
use parking_lot::Mutex;

use super::handles::Handle;
use super::zones::{ZoneMap, Zones, has_zones};
use super::{IO_BUFFER_BYTES, ROW_ADDRESS, sidecar};

/// Fragments of fewer rows are read whole: that costs less than knowing what is in them.
const MAPPED_ROWS_MIN: usize = 8192;

/// The zones of fragments of fewer rows are not written beside the data: they are soon made, and soon rewritten.
const SIDECAR_ROWS_MIN: usize = 1 << 16;

/// The most bytes of zones kept; those used longest ago go first. A column of a billion rows of integers takes 80 MiB.
const KEPT_BYTES_MAX: usize = 256 << 20;

/// The zones of one store's fragments.
#[derive(Debug, Default)]
pub(super) struct ZoneCache {
    kept: Mutex<Kept>,
    /// Held while zones are made, so that they are made once.
    making: tokio::sync::Mutex<()>,
}

/// By the name of the data file, which no other file ever has.
#[derive(Debug, Default)]
struct Kept {
    maps: HashMap<String, (Arc<ZoneMap>, u64)>,
    bytes: usize,
    uses: u64,
}

impl Kept {
    fn get(&mut self, file: &str) -> Option<Arc<ZoneMap>> {
        self.uses += 1;
        let (map, used) = self.maps.get_mut(file)?;
        *used = self.uses;
        Some(Arc::clone(map))
    }

    /// Keeps what is known of a file beside what was known of it.
    fn add(&mut self, file: &str, map: ZoneMap) -> Arc<ZoneMap> {
        self.uses += 1;
        let mut united = map;
        if let Some((known, _)) = self.maps.remove(file) {
            self.bytes -= known.bytes();
            for (field, zones) in &known.columns {
                united.columns.entry(*field).or_insert_with(|| Arc::clone(zones));
            }
        }
        self.bytes += united.bytes();
        let united = Arc::new(united);
        self.maps.insert(file.to_owned(), (Arc::clone(&united), self.uses));
        while self.bytes > KEPT_BYTES_MAX {
            let oldest = self.maps.iter().min_by_key(|(_, (_, used))| *used).map(|(file, _)| file.clone());
            let Some((forgotten, _)) = oldest.and_then(|file| self.maps.remove(&file)) else { break };
            self.bytes -= forgotten.bytes();
        }
        united
    }
}

/// The file by which the zones of a fragment are known, if they can be: its last, because what a fragment holds changes only
/// by one more.
fn mapped_file(fragment: &Fragment) -> Option<&str> {
    let file = fragment.files.last()?;
    let is_large = fragment.physical_rows.is_some_and(|rows| rows >= MAPPED_ROWS_MIN);
    (is_large && fragment.overlays.is_empty()).then_some(&file.path)
}

impl ZoneCache {
    /// The zones of these fields, for each fragment; `None` where they are not known. `folder` is that of the dataset.
    ///
    /// Costs a look into memory where they were asked for before, a small file each, or one scan of the fields for all fragments
    /// of which there is no such file. Zones that cannot be read or made are left unknown.
    pub(super) async fn maps(
        &self,
        folder: PathBuf,
        handle: &Handle,
        fragments: &[Fragment],
        fields: &[i32],
    ) -> Vec<Option<Arc<ZoneMap>>> {
        if !self.missing(fragments, fields).is_empty() {
            let _alone = self.making.lock().await;
            let missing = self.missing(fragments, fields);
            self.read_sidecars(folder.clone(), &missing).await;
            let missing = self.missing(&missing, fields);
            if let Err(error) = self.make(folder, handle, missing, fields).await {
                tracing::warn!(%error, "zones could not be made");
            }
        }
        let mut kept = self.kept.lock();
        fragments.iter().map(|fragment| kept.get(mapped_file(fragment)?)).collect()
    }

    /// The fragments of which zones of some field could be known and are not at hand.
    fn missing(&self, fragments: &[Fragment], fields: &[i32]) -> Vec<Fragment> {
        let mut kept = self.kept.lock();
        let mut is_missing = |fragment: &&Fragment| {
            let Some(file) = mapped_file(fragment) else { return false };
            let known = kept.get(file);
            fields.iter().any(|field| !known.as_ref().is_some_and(|known| known.columns.contains_key(field)))
        };
        fragments.iter().filter(|fragment| is_missing(fragment)).cloned().collect()
    }

    async fn read_sidecars(&self, folder: PathBuf, fragments: &[Fragment]) {
        let large = fragments.iter().filter(|fragment| fragment.physical_rows.is_some_and(|rows| rows >= SIDECAR_ROWS_MIN));
        let files: Vec<String> = large.filter_map(mapped_file).map(str::to_owned).collect();
        let read = tokio::task::spawn_blocking(move || {
            let read = |file: String| sidecar::read(&sidecar::place(&folder, &file)).map(|map| (file, map));
            files.into_iter().filter_map(read).collect::<Vec<_>>()
        });
        let read = read.await.unwrap_or_default();
        let mut kept = self.kept.lock();
        for (file, map) in read {
            kept.add(&file, map);
        }
    }

    /// Makes zones of these fields from one scan of them, and writes those of large fragments beside the data.
    async fn make(&self, folder: PathBuf, handle: &Handle, mut fragments: Vec<Fragment>, fields: &[i32]) -> lance::Result<()> {
        // Rows deleted later are there in older versions: zones made without them would hide them.
        fragments.retain(|fragment| fragment.deletion_file.is_none());
        let schema = Schema::from(handle.schema());
        let columns: Vec<(i32, &str)> = fields
            .iter()
            .filter_map(|field| Some((*field, handle.schema().field_by_id(*field)?.name.as_str())))
            .filter(|(_, name)| schema.field_with_name(name).is_ok_and(|field| has_zones(field.data_type())))
            .collect();
        if fragments.is_empty() || columns.is_empty() {
            return Ok(());
        }
        let mut scanner = handle.scan();
        let names: Vec<&str> = columns.iter().map(|(_, name)| *name).collect();
        scanner.project(&names)?.with_row_address().with_fragments(fragments.clone());
        scanner.io_buffer_size(IO_BUFFER_BYTES).scan_in_order(false);
        let mut batches = scanner.try_into_stream().boxed().await?;
        let mut made: HashMap<u64, HashMap<i32, Zones>> = HashMap::new();
        while let Some(batch) = batches.try_next().await? {
            let Some(addresses) = batch.column_by_name(ROW_ADDRESS) else { continue };
            let addresses = addresses.as_primitive::<UInt64Type>().values();
            let mut start = 0;
            for run in addresses.chunk_by(|one, next| one >> 32 == next >> 32) {
                let of_fragment = made.entry(run[0] >> 32).or_default();
                for (field, name) in &columns {
                    let Some(values) = batch.column_by_name(name).map(|values| values.slice(start, run.len())) else { continue };
                    let zones = match of_fragment.entry(*field) {
                        std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                        std::collections::hash_map::Entry::Vacant(place) => match Zones::of_type(values.data_type()) {
                            Some(zones) => place.insert(zones),
                            None => continue,
                        },
                    };
                    zones.add(&values, run.iter().map(|address| row_of(*address)))?;
                }
                start += run.len();
            }
        }
        self.keep_made(folder, &fragments, made).await;
        Ok(())
    }

    async fn keep_made(&self, folder: PathBuf, fragments: &[Fragment], mut made: HashMap<u64, HashMap<i32, Zones>>) {
        let mut written = Vec::new();
        {
            let mut kept = self.kept.lock();
            for fragment in fragments {
                let (Some(file), Some(columns)) = (mapped_file(fragment), made.remove(&fragment.id)) else { continue };
                let finished = columns.into_iter().map(|(field, mut zones)| {
                    zones.finish();
                    (field, Arc::new(zones))
                });
                let map = kept.add(file, ZoneMap { columns: finished.collect() });
                if fragment.physical_rows.is_some_and(|rows| rows >= SIDECAR_ROWS_MIN) {
                    written.push((sidecar::place(&folder, file), map));
                }
            }
        }
        let writing = tokio::task::spawn_blocking(move || {
            for (place, map) in written {
                if let Err(error) = sidecar::write(&place, &map) {
                    tracing::debug!(%error, "zones are kept in memory only");
                }
            }
        });
        drop(writing.await);
    }
}

/// The row of its fragment that an address names.
fn row_of(address: u64) -> usize {
    usize::try_from(address & u64::from(u32::MAX)).unwrap_or(usize::MAX)
}
