//! The zones of one data file as a small file beside the data: only a cache.
//!
//! A file that is missing, torn or of another form is as good as none: the zones are then made anew from the data.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::zones::{Column, ZONE_ROWS, Zone, ZoneMap, Zones};

/// The folder of a dataset's zones.
const FOLDER: &str = "_zones";

/// What such a file begins with; the last character counts the forms there were.
const MAGIC: &[u8; 8] = b"TGZONES1";

const NUMBERS: u8 = 0;
const BYTES: u8 = 1;

const HAS_BOUNDS: u8 = 1;
const HAS_NULLS: u8 = 2;

/// Where the zones of a data file are kept; `file` is its path among the dataset's data files.
pub(super) fn place(dataset: &Path, file: &str) -> PathBuf {
    let stem = Path::new(file).file_stem().unwrap_or_default();
    dataset.join(FOLDER).join(stem).with_extension("zones")
}

/// Reads zones. Blocking work.
pub(super) fn read(place: &Path) -> Option<ZoneMap> {
    decode(&fs::read(place).ok()?)
}

/// Writes zones: whole, or not at all for whoever looks. Blocking work. Not synced: what a power cut tears is not read.
pub(super) fn write(place: &Path, map: &ZoneMap) -> io::Result<()> {
    let folder = place.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let unfinished = place.with_extension(format!("{}.tmp", uuid::Uuid::new_v4().simple()));
    let written = fs::write(&unfinished, encode(map)).and_then(|()| fs::rename(&unfinished, place));
    if written.is_err() {
        // What is left of it is removed with the dataset's other leftovers.
        drop(fs::remove_file(&unfinished));
    }
    written
}

fn encode(map: &ZoneMap) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    put_length(&mut bytes, ZONE_ROWS);
    put_length(&mut bytes, map.columns.len());
    for (field, zones) in &map.columns {
        bytes.extend(field.to_le_bytes());
        match zones.as_ref() {
            Zones::Numbers(column) => {
                bytes.push(NUMBERS);
                put_zones(&mut bytes, column, |bytes, number| bytes.extend(number.to_le_bytes()));
            }
            Zones::Bytes(column) => {
                bytes.push(BYTES);
                put_zones(&mut bytes, column, |bytes, bound| {
                    put_length(bytes, bound.len());
                    bytes.extend(bound);
                });
            }
        }
    }
    let checksum = checksum(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

fn put_length(bytes: &mut Vec<u8>, length: usize) {
    bytes.extend((length as u64).to_le_bytes());
}

fn put_zones<T>(bytes: &mut Vec<u8>, column: &Column<T>, put: impl Fn(&mut Vec<u8>, &T)) {
    put_length(bytes, column.zones.len());
    for zone in &column.zones {
        let bounds = if zone.bounds.is_some() { HAS_BOUNDS } else { 0 };
        bytes.push(bounds | if zone.nulls { HAS_NULLS } else { 0 });
        if let Some((least, greatest)) = &zone.bounds {
            put(bytes, least);
            put(bytes, greatest);
        }
    }
}

fn decode(bytes: &[u8]) -> Option<ZoneMap> {
    let (content, stated) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
    let mut rest = content.strip_prefix(MAGIC)?;
    if checksum(content).to_le_bytes() != *stated || length(&mut rest)? != ZONE_ROWS {
        return None;
    }
    let mut map = ZoneMap::default();
    for _ in 0..length(&mut rest)? {
        let field = i32::from_le_bytes(*take(&mut rest)?);
        let zones = match take::<1>(&mut rest)? {
            [NUMBERS] => Zones::Numbers(column(&mut rest, |rest| take(rest).map(|number| i64::from_le_bytes(*number)))?),
            [BYTES] => Zones::Bytes(column(&mut rest, |rest| {
                let length = length(rest)?;
                let (bound, after) = rest.split_at_checked(length)?;
                *rest = after;
                Some(bound.to_vec())
            })?),
            _ => return None,
        };
        map.columns.insert(field, Arc::new(zones));
    }
    rest.is_empty().then_some(map)
}

fn column<T: Ord + Clone>(rest: &mut &[u8], bound: impl Fn(&mut &[u8]) -> Option<T>) -> Option<Column<T>> {
    let mut column = Column { whole: Zone { bounds: None, nulls: false }, zones: Vec::new() };
    for _ in 0..length(rest)? {
        let [flags] = *take::<1>(rest)?;
        let bounds = match flags & HAS_BOUNDS {
            0 => None,
            _ => Some((bound(rest)?, bound(rest)?)),
        };
        column.zones.push(Zone { bounds, nulls: flags & HAS_NULLS != 0 });
    }
    column.sum_up();
    Some(column)
}

fn length(rest: &mut &[u8]) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*take(rest)?)).ok()
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(taken)
}

/// FNV-1a over words: tells a torn file from a whole one, and nothing more.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |hash, word| {
        let mut padded = [0; 8];
        padded[..word.len()].copy_from_slice(word);
        (hash ^ u64::from_le_bytes(padded)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> ZoneMap {
        let zone = |bounds: Option<(i64, i64)>, nulls| Zone { bounds, nulls };
        let mut numbers = Column { zones: vec![zone(Some((i64::MIN, 7)), true), zone(None, true)], ..Column::default() };
        numbers.sum_up();
        let mut texts =
            Column { zones: vec![Zone { bounds: Some((Vec::new(), b"zoo".to_vec())), nulls: false }], ..Column::default() };
        texts.sum_up();
        ZoneMap { columns: [(0, Arc::new(Zones::Numbers(numbers))), (9, Arc::new(Zones::Bytes(texts)))].into() }
    }

    #[test]
    fn zones_come_back_and_torn_ones_are_none() {
        let whole = encode(&map());
        assert_eq!(decode(&whole), Some(map()));
        for length in 0..whole.len() {
            assert_eq!(decode(&whole[..length]), None, "cut to {length} bytes");
        }
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 0x10;
            assert_eq!(decode(&changed), None, "byte {place} changed");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path(), "abc.lance");
        assert_eq!(read(&place), None);
        write(&place, &map()).unwrap();
        assert_eq!(read(&place), Some(map()));
        assert_eq!(fs::read_dir(place.parent().unwrap()).unwrap().count(), 1);
    }
}
