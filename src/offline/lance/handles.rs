//! Open dataset handles.
//!
//! Opening a dataset reads its newest manifest, and a manifest grows with the fragments: handles are kept. Whether a kept
//! handle is still the newest is one look for the manifest that would follow it.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use lance::dataset::builder::DatasetBuilder;
use lance::io::{ObjectStoreParams, WrappingObjectStore};
use lance::session::Session;
use parking_lot::Mutex;

use super::near::{self, ReadNear};
use super::{could_not, path};
use crate::error::{Error, Result, SqlState};
use crate::offline::{Commit, Dataset};
use crate::time::{CommitTime, DatasetVersion};

/// One version of a dataset, open.
pub(super) type Handle = Arc<lance::Dataset>;

/// Under this name a commit's transaction carries its commit time.
pub(super) const CREATED_TIME_PROPERTY: &str = "tidegate.created_time";

/// The most bytes of index data kept.
const INDEX_CACHE_BYTES: usize = 256 << 20;

/// The most bytes of manifests and file footers kept.
const METADATA_CACHE_BYTES: usize = 256 << 20;

/// How many handles on versions that are no longer the newest are kept.
const OLDER_HANDLES_MAX: usize = 64;

/// How many handles for reading small pieces are kept.
const NEAR_HANDLES_MAX: usize = 16;

/// The open handles of one store.
#[derive(Debug)]
pub(super) struct Handles {
    root: PathBuf,
    session: Arc<Session>,
    newest: Mutex<HashMap<Dataset, Newest>>,
    /// Least recently used first.
    older: Mutex<VecDeque<(Dataset, Handle)>>,
    /// Handles that read many small pieces fast; the last used last.
    near: Mutex<VecDeque<(Dataset, Handle)>>,
    read_near: Arc<ReadNear>,
}

#[derive(Clone, Debug)]
struct Newest {
    handle: Handle,
    created_time: CommitTime,
}

/// Why a dataset could not be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// There is none.
    Missing(lance::Error),
    /// There is one, or may be one, and it cannot be read.
    Failed(lance::Error),
}

impl OpenError {
    pub(super) fn report(self, what: &str, dataset: Dataset) -> Error {
        match self {
            OpenError::Missing(source) => {
                Error::new(SqlState::IoError, format!("dataset \"{}\" is not in the store", path(dataset))).caused_by(source)
            }
            OpenError::Failed(source) => could_not(what, dataset, source),
        }
    }
}

impl Handles {
    pub(super) fn new(root: PathBuf) -> Self {
        let session = Session::new(INDEX_CACHE_BYTES, METADATA_CACHE_BYTES, Arc::default());
        Self {
            root,
            session: Arc::new(session),
            newest: Mutex::default(),
            older: Mutex::default(),
            near: Mutex::default(),
            read_near: Arc::default(),
        }
    }

    pub(super) fn session(&self) -> Arc<Session> {
        self.session.clone()
    }

    pub(super) fn uri(&self, dataset: Dataset) -> String {
        self.root.join(path(dataset)).to_string_lossy().into_owned()
    }

    /// Opens the newest version, whatever is kept.
    pub(super) async fn open(&self, dataset: Dataset) -> Result<Handle, OpenError> {
        let builder = DatasetBuilder::from_uri(self.uri(dataset)).with_session(self.session.clone());
        match builder.load().boxed().await {
            Ok(handle) => Ok(Arc::new(handle)),
            Err(error @ (lance::Error::DatasetNotFound { .. } | lance::Error::NotFound { .. })) => Err(OpenError::Missing(error)),
            Err(error) => Err(OpenError::Failed(error)),
        }
    }

    /// A handle on a version that is, or was a moment ago, the newest.
    pub(super) async fn newest(&self, dataset: Dataset) -> Result<Handle> {
        let kept = self.newest.lock().get(&dataset).map(|newest| newest.handle.clone());
        match kept {
            Some(handle) => Ok(handle),
            None => {
                self.latest(dataset).await?;
                let kept = self.newest.lock().get(&dataset).map(|newest| newest.handle.clone());
                kept.ok_or_else(|| OpenError::Missing(lance::Error::not_found(path(dataset))).report("open", dataset))
            }
        }
    }

    /// The newest commit, whoever made it.
    pub(super) async fn latest(&self, dataset: Dataset) -> Result<Commit> {
        let kept = self.newest.lock().get(&dataset).cloned();
        let newest = match kept {
            Some(kept) => {
                let successor = kept.handle.has_successor_version().boxed().await;
                if !successor.map_err(|source| could_not("read", dataset, source))? {
                    return Ok(commit(&kept));
                }
                let mut handle = kept.handle.as_ref().clone();
                handle.checkout_latest().boxed().await.map_err(|source| could_not("read", dataset, source))?;
                let created_time = created_time(dataset, &handle, Some(&kept)).await?;
                Newest { handle: Arc::new(handle), created_time }
            }
            None => {
                let handle = self.open(dataset).await.map_err(|error| error.report("read", dataset))?;
                let created_time = created_time(dataset, &handle, None).await?;
                Newest { handle, created_time }
            }
        };
        let commit = commit(&newest);
        self.keep_newest(dataset, newest.handle, newest.created_time);
        Ok(commit)
    }

    /// A handle on one version.
    pub(super) async fn at(&self, dataset: Dataset, version: DatasetVersion) -> Result<Handle> {
        if let Some(handle) = self.kept(dataset, version) {
            return Ok(handle);
        }
        let newest = self.newest(dataset).await?;
        let handle = newest.checkout_version(version.0).boxed().await.map_err(|source| {
            let message = format!("could not read version {version} of dataset \"{}\"", path(dataset));
            Error::new(SqlState::IoError, message).caused_by(source)
        })?;
        let handle = Arc::new(handle);
        let mut older = self.older.lock();
        older.push_back((dataset, handle.clone()));
        if older.len() > OLDER_HANDLES_MAX {
            older.pop_front();
        }
        Ok(handle)
    }

    /// A handle on one version for reading many small pieces of it. Costs the reading of its manifest the first time.
    pub(super) async fn near(&self, dataset: Dataset, version: DatasetVersion) -> lance::Result<Handle> {
        let kept = self.near.lock().iter().find(|(of, handle)| *of == dataset && handle.version_id() == version.0).cloned();
        if let Some((_, handle)) = kept {
            return Ok(handle);
        }
        let uri = url_of(&self.root.join(path(dataset)));
        let wrapper: Arc<dyn WrappingObjectStore> = self.read_near.clone();
        let parameters = ObjectStoreParams { object_store_wrapper: Some(wrapper), ..ObjectStoreParams::default() };
        let builder = DatasetBuilder::from_uri(uri).with_store_params(parameters).with_session(self.session.clone());
        let handle = Arc::new(builder.with_version(version.0).load().boxed().await?);
        let mut near = self.near.lock();
        near.push_back((dataset, handle.clone()));
        if near.len() > NEAR_HANDLES_MAX {
            near.pop_front();
        }
        Ok(handle)
    }

    /// The commit that made a version, or for one that only rearranged rows the newest before it; `None` where there is no
    /// such version. Costs one look at the store, and the reading of that version's manifest the first time.
    pub(super) async fn commit_of(&self, dataset: Dataset, version: DatasetVersion) -> Result<Option<Commit>> {
        let newest = self.latest(dataset).await?;
        if version == newest.version {
            return Ok(Some(newest));
        }
        if version.0 == 0 || version > newest.version {
            return Ok(None);
        }
        let handle = match self.kept(dataset, version) {
            // Another gateway may have dropped it.
            Some(handle) if self.is_there(dataset, &handle) => handle,
            _ => {
                let found = self.newest(dataset).await?.checkout_version(version.0).boxed().await;
                match found {
                    Ok(handle) => Arc::new(handle),
                    Err(lance::Error::DatasetNotFound { .. } | lance::Error::NotFound { .. }) => return Ok(None),
                    Err(source) => return Err(could_not("read", dataset, source)),
                }
            }
        };
        Ok(Some(Commit { version, created_time: created_time(dataset, &handle, None).await? }))
    }

    fn kept(&self, dataset: Dataset, version: DatasetVersion) -> Option<Handle> {
        if let Some(newest) = self.newest.lock().get(&dataset)
            && newest.handle.version_id() == version.0
        {
            return Some(newest.handle.clone());
        }
        let mut older = self.older.lock();
        let place = older.iter().position(|(of, handle)| *of == dataset && handle.version_id() == version.0)?;
        let found = older.remove(place)?;
        let handle = found.1.clone();
        older.push_back(found);
        Some(handle)
    }

    /// Keeps a handle unless a newer one is kept.
    pub(super) fn keep_newest(&self, dataset: Dataset, handle: Handle, created_time: CommitTime) {
        let mut newest = self.newest.lock();
        if newest.get(&dataset).is_none_or(|kept| kept.handle.version_id() <= handle.version_id()) {
            newest.insert(dataset, Newest { handle, created_time });
        }
    }

    /// Whether the manifest of a handle's version is still there.
    fn is_there(&self, dataset: Dataset, handle: &Handle) -> bool {
        let name = handle.manifest_location().path.filename().map(str::to_owned);
        name.is_none_or(|name| self.root.join(path(dataset)).join("_versions").join(name).exists())
    }

    /// Forgets the handles of versions that are no more.
    pub(super) fn forget_versions(&self, dataset: Dataset, versions: &[DatasetVersion]) {
        let is_gone = |of: Dataset, handle: &Handle| of == dataset && versions.contains(&DatasetVersion(handle.version_id()));
        self.older.lock().retain(|(of, handle)| !is_gone(*of, handle));
        self.near.lock().retain(|(of, handle)| !is_gone(*of, handle));
    }

    pub(super) fn forget(&self, dataset: Dataset) {
        self.newest.lock().remove(&dataset);
        self.older.lock().retain(|(of, _)| *of != dataset);
        self.near.lock().retain(|(of, _)| *of != dataset);
    }
}

/// The URL of a local folder, whose bytes that mean something in a URL are escaped.
fn url_of(folder: &Path) -> String {
    let mut url = format!("{}://", near::SCHEME);
    for byte in folder.to_string_lossy().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => url.push(char::from(byte)),
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    url
}

fn commit(newest: &Newest) -> Commit {
    Commit { version: DatasetVersion(newest.handle.version_id()), created_time: newest.created_time }
}

/// The commit time of the version `handle` stands at: that of the newest commit, at or before it, that states one. A commit
/// that only rearranges rows states none.
async fn created_time(dataset: Dataset, handle: &lance::Dataset, known: Option<&Newest>) -> Result<CommitTime> {
    let oldest = known.map_or(0, |known| known.handle.version_id());
    for version in (oldest + 1..=handle.version_id()).rev() {
        let stated = stated_time(handle, version).await;
        if let Some(stated) = stated.map_err(|source| could_not("read", dataset, source))? {
            return Ok(stated);
        }
    }
    Ok(known.map_or(CommitTime::from_micros(0), |known| known.created_time))
}

/// The commit time that a version states; one that made the dataset or only rearranged rows states none.
pub(super) async fn stated_time(handle: &lance::Dataset, version: u64) -> lance::Result<Option<CommitTime>> {
    let read = handle.read_version_transaction(version).boxed().await?;
    let properties = read.transaction.and_then(|transaction| transaction.transaction_properties);
    let stated = properties.and_then(|properties| properties.get(CREATED_TIME_PROPERTY)?.parse().ok());
    Ok(stated.map(CommitTime::from_micros))
}
