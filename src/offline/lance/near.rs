//! Reading many small pieces of local files.
//!
//! Lance hands each read of a local file to a thread for blocking work, which costs several times what the read does where the
//! system has the bytes in memory. Through this store they are read in place. Where they turn out to come from the disk, the
//! next ones go to such threads after all, so that many are under way at once and no worker is held up.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures::stream::{self, BoxStream, StreamExt};
use lance::io::WrappingObjectStore;
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Extensions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

/// The scheme of a dataset whose local files Lance reads through an [`ObjectStore`].
pub(super) const SCHEME: &str = "file-object-store";

/// The most bytes read in place at a time.
const BYTES_IN_PLACE_MAX: u64 = 256 << 10;

/// A read that takes longer came from the disk.
const FROM_MEMORY_WITHIN: Duration = Duration::from_micros(200);

/// How many reads after one from the disk are handed to threads.
const READS_ELSEWHERE: usize = 64;

/// How many files are kept open.
const FILES_MAX: usize = 256;

/// Makes Lance read through [`NearFiles`].
#[derive(Debug, Default)]
pub(super) struct ReadNear;

impl WrappingObjectStore for ReadNear {
    fn wrap(&self, _store_prefix: &str, original: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(NearFiles { inner: original, files: Mutex::default(), elsewhere: AtomicUsize::new(0) })
    }

    fn wrap_paginated(&self, _prefix: &str, original: Arc<dyn PaginatedListStore>) -> Option<Arc<dyn PaginatedListStore>> {
        Some(original)
    }
}

/// An open file and what is known of it.
#[derive(Clone, Debug)]
struct OpenFile {
    file: Arc<File>,
    meta: ObjectMeta,
}

/// Local files, of which pieces are read in the calling thread.
#[derive(Debug)]
struct NearFiles {
    inner: Arc<dyn ObjectStore>,
    files: Mutex<HashMap<Path, OpenFile>>,
    /// How many of the next reads are handed to threads.
    elsewhere: AtomicUsize,
}

impl NearFiles {
    /// The file, open; `None` where it cannot be opened, which the store inside then says better.
    fn open(&self, location: &Path) -> Option<OpenFile> {
        if let Some(open) = self.files.lock().get(location) {
            return Some(open.clone());
        }
        let file = File::open(format!("/{location}")).ok()?;
        let known = file.metadata().ok()?;
        let last_modified = DateTime::from(known.modified().ok()?);
        let meta = ObjectMeta { location: location.clone(), last_modified, size: known.len(), e_tag: None, version: None };
        let open = OpenFile { file: Arc::new(file), meta };
        let mut files = self.files.lock();
        if files.len() >= FILES_MAX {
            files.clear();
        }
        files.insert(location.clone(), open.clone());
        Some(open)
    }

    async fn read(&self, file: Arc<File>, start: u64, length: usize) -> std::io::Result<Bytes> {
        let read = move || {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, start)?;
            Ok(Bytes::from(bytes))
        };
        let one_less = |left: usize| left.checked_sub(1);
        if self.elsewhere.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            return tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other)?;
        }
        let started = Instant::now();
        let bytes = read();
        if started.elapsed() > FROM_MEMORY_WITHIN {
            self.elsewhere.store(READS_ELSEWHERE, Ordering::Relaxed);
        }
        bytes
    }
}

impl fmt::Display for NearFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NearFiles({})", self.inner)
    }
}

/// The range asked for, where only one is and nothing else.
fn only_range(options: &GetOptions) -> Option<std::ops::Range<u64>> {
    match options {
        GetOptions {
            if_match: None,
            if_none_match: None,
            if_modified_since: None,
            if_unmodified_since: None,
            range: Some(GetRange::Bounded(range)),
            version: None,
            head: false,
            ..
        } if range.end.saturating_sub(range.start) <= BYTES_IN_PLACE_MAX => Some(range.clone()),
        _ => None,
    }
}

#[async_trait]
impl ObjectStore for NearFiles {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let near = only_range(&options).and_then(|range| Some((self.open(location)?, range)));
        let Some((OpenFile { file, meta }, range)) = near.filter(|(open, range)| range.end <= open.meta.size) else {
            return self.inner.get_opts(location, options).await;
        };
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        let failed = |source: std::io::Error| object_store::Error::Generic { store: "NearFiles", source: Box::new(source) };
        let bytes = self.read(file, range.start, length).await.map_err(failed)?;
        let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::default(), extensions: Extensions::default() })
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
