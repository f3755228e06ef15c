//! Files that no version names: of writes that were killed or failed, and caches of files that are gone.
//!
//! Whether a file is nobody's is judged by its age and by the marks of writes under way. A write that takes long marks itself
//! with a locked file; the lock ends with its process, however that ends.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures::FutureExt;

use super::handles::Handle;
use super::{LanceStore, could_not, path};
use crate::error::Result;
use crate::offline::{Dataset, Extent};
use crate::time::DatasetVersion;

/// How old a file has to be before it can be nobody's.
pub(super) const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// A write that takes longer than this marks itself. Much less than [`LEFTOVER_AGE`].
pub(super) const MARKED_AFTER: Duration = Duration::from_secs(60);

/// The folder of the marks.
const MARKS: &str = "_writing";

/// How many manifests one round reads to learn what they name; the next round goes on.
const VERSIONS_PER_ROUND: usize = 1000;

/// The files of a dataset that versions are known to name: a version's manifest never changes.
#[derive(Debug, Default)]
pub(super) struct Named {
    versions: HashSet<u64>,
    files: HashSet<String>,
}

impl Named {
    fn add(&mut self, version: &lance::Dataset) {
        if !self.versions.insert(version.version_id()) {
            return;
        }
        let files = version.fragments().iter().flat_map(|fragment| &fragment.files).map(|file| file.path.clone());
        self.files.extend(files);
        self.files.extend(version.manifest().transaction_file.clone());
    }
}

/// The mark of a write under way; the mark goes with it.
#[derive(Debug)]
pub(super) struct Mark {
    place: PathBuf,
    _lock: File,
}

impl Mark {
    /// Marks a write to the dataset in `folder`. Blocking work.
    pub(super) fn set(folder: &Path) -> io::Result<Self> {
        let marks = folder.join(MARKS);
        fs::create_dir_all(&marks)?;
        let place = marks.join(uuid::Uuid::new_v4().simple().to_string());
        let lock = File::options().create_new(true).append(true).open(&place)?;
        lock.try_lock().map_err(io::Error::from)?;
        Ok(Self { place, _lock: lock })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // One that stays is found unlocked, and then removed.
        drop(fs::remove_file(&self.place));
    }
}

impl LanceStore {
    /// Removes what no version names. Returns how many files it removed; none where a rewriter is at work.
    ///
    /// Costs a look at the dataset's folders; where old files are found that the newest version does not name, the manifests of
    /// older versions, each once as long as this process lives.
    pub(super) async fn remove_leftovers(&self, dataset: Dataset) -> Result<usize> {
        let failed = |source: io::Error| could_not("tidy up", dataset, source);
        let Some(_lock) = self.lock_for_rewrite(dataset, Extent::Tail).await? else { return Ok(0) };
        let (folder, age) = (self.folder(dataset), self.leftover_age);
        let found = tokio::task::spawn_blocking(move || Found::in_folder(&folder, age));
        let mut found = found.await.map_err(io::Error::other).and_then(|found| found).map_err(failed)?;
        // Files first, versions after: whatever is committed in between is too young to be among the files.
        self.handles.latest(dataset).await?;
        let newest = self.handles.newest(dataset).await?;
        let all_known = self.forget_named(dataset, &newest, &mut found.unnamed).await?;
        let mut nobodys: Vec<PathBuf> = found.orphans;
        if all_known {
            nobodys.append(&mut found.unnamed);
        }
        let count = nobodys.len();
        if count > 0 {
            tracing::info!(dataset = path(dataset), files = count, "files of unfinished writes removed");
            let removed = tokio::task::spawn_blocking(move || nobodys.iter().try_for_each(remove_if_there));
            removed.await.map_err(io::Error::other).and_then(|removed| removed).map_err(failed)?;
        }
        Ok(count)
    }

    /// Takes out of `files` those that a version names. `false` where there are versions that it did not get to.
    async fn forget_named(&self, dataset: Dataset, newest: &Handle, files: &mut Vec<PathBuf>) -> Result<bool> {
        let failed = |source: lance::Error| could_not("tidy up", dataset, source);
        let mut named = self.named.lock().remove(&dataset).unwrap_or_default();
        named.add(newest);
        retain_unnamed(files, &named);
        let mut versions = match files.is_empty() {
            true => Vec::new(),
            false => newest.version_refs().boxed().await.map_err(failed)?,
        };
        versions.retain(|version| !named.versions.contains(&version.version));
        let rounds = versions.len();
        for version in versions.iter().rev().take(VERSIONS_PER_ROUND) {
            if files.is_empty() {
                break;
            }
            named.add(&newest.checkout_version(version.version).boxed().await.map_err(failed)?);
            retain_unnamed(files, &named);
        }
        self.named.lock().insert(dataset, named);
        Ok(files.is_empty() || rounds <= VERSIONS_PER_ROUND)
    }

    /// Forgets what was known of versions that are no more.
    pub(super) fn forget_versions(&self, dataset: Dataset, versions: &[DatasetVersion]) {
        self.named.lock().remove(&dataset);
        self.handles.forget_versions(dataset, versions);
    }
}

fn file_name(place: &Path) -> &str {
    place.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

fn retain_unnamed(files: &mut Vec<PathBuf>, named: &Named) {
    files.retain(|file| !named.files.contains(file_name(file)));
}

fn remove_if_there(file: &PathBuf) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Old files of a dataset.
struct Found {
    /// Data and transaction files; some version may name them.
    unnamed: Vec<PathBuf>,
    /// Zones of data files that are not there, and marks that nobody holds.
    orphans: Vec<PathBuf>,
}

impl Found {
    fn in_folder(folder: &Path, age: Duration) -> io::Result<Self> {
        let mut orphans = Vec::new();
        // Ages are judged by the clock that stamps the files.
        let stamp = Mark::set(folder)?;
        let now = fs::metadata(&stamp.place)?.modified()?;
        let mut before = now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        for (mark, marked) in entries(&folder.join(MARKS))? {
            match File::options().append(true).open(&mark).map(|file| file.try_lock()) {
                Ok(Ok(())) => orphans.push(mark),
                Ok(Err(TryLockError::WouldBlock)) if mark != stamp.place => {
                    // What that write had written when it set the mark is not much older.
                    let began = marked.checked_sub(2 * MARKED_AFTER).unwrap_or(SystemTime::UNIX_EPOCH);
                    before = before.min(began);
                }
                _ => {}
            }
        }
        let old = |files: Vec<(PathBuf, SystemTime)>| files.into_iter().filter(|(_, at)| *at <= before).map(|(file, _)| file);
        let data = entries(&folder.join("data"))?;
        let stems: HashSet<_> = data.iter().filter_map(|(file, _)| file.file_stem().map(OsStr::to_owned)).collect();
        let zones = old(entries(&folder.join("_zones"))?);
        orphans.extend(zones.filter(|zones| {
            zones.extension() != Some(OsStr::new("zones")) || !zones.file_stem().is_some_and(|stem| stems.contains(stem))
        }));
        let unnamed = old(data).chain(old(entries(&folder.join("_transactions"))?)).collect();
        Ok(Self { unnamed, orphans })
    }
}

/// The files of a folder and when they were last written; none where there is no folder.
fn entries(folder: &Path) -> io::Result<Vec<(PathBuf, SystemTime)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        match entry.metadata().and_then(|metadata| Ok((metadata.is_file(), metadata.modified()?))) {
            Ok((true, modified)) => found.push((entry.path(), modified)),
            Ok((false, _)) => {}
            // Somebody was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
