//! Registry versions as numbered documents under one root.
//!
//! A document holds the whole state of one version and is created only if absent: that is the compare-and-swap which keeps two
//! gateways from losing each other's changes. Documents are never overwritten and never deleted.

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::change::Change;
use super::model::{Entity, FeatureService, FeatureView, Registry, SqlView, StoreId, Table};
use crate::error::{Error, Result, SqlState};

/// How often a change is tried on what a faster gateway left.
const COMMIT_ATTEMPTS_MAX: usize = 64;

/// The format of the documents written.
const FORMAT: u32 = 1;

/// The folder of the documents under the root.
const FOLDER: &str = "registry";

/// The digits of a version in a document's name: enough for every `u64`, so that names sort as versions do.
const VERSION_DIGITS: usize = 20;

/// The registry of one store, kept current.
#[derive(Debug)]
pub struct RegistryStore {
    documents: Arc<dyn ObjectStore>,
    current: ArcSwap<Registry>,
}

impl RegistryStore {
    /// As [`RegistryStore::open`], of a store that is there: an error (`58030`) where there is none.
    pub async fn open_existing(root: &str) -> Result<Self> {
        let folder = root.strip_prefix("file://").unwrap_or(root);
        if !FilePath::new(folder).is_dir() || newest_version(&open_root(root)?).await?.is_none() {
            return Err(Error::new(SqlState::IoError, format!("there is no store at {root}"))
                .hint("Name the folder that the gateway serves with --data."));
        }
        Self::open(root).await
    }

    /// Opens the registry under `root` (a local folder or a `file://` URL); a new store gets its first document.
    ///
    /// Fails with `0A000` for a root of another scheme, `58030` if the root cannot be read or written, `XX001` for a document
    /// that does not decode and `F0000` for one that a newer version wrote.
    pub async fn open(root: &str) -> Result<Self> {
        let documents = open_root(root)?;
        let registry = match newest_version(&documents).await? {
            Some(version) => read_document(&documents, version).await?,
            None => None,
        };
        let registry = match registry {
            Some(registry) => registry,
            None => create_first(&documents).await?,
        };
        Ok(Self { documents, current: ArcSwap::from_pointee(registry) })
    }

    /// The newest registry this gateway knows: no IO.
    pub fn current(&self) -> Arc<Registry> {
        self.current.load_full()
    }

    /// The version of [`RegistryStore::current`], for those who only ask whether it changed.
    pub fn version(&self) -> u64 {
        self.current.load().version
    }

    /// [`RegistryStore::commit_all`] of one change.
    pub async fn commit(&self, change: &Change) -> Result<Arc<Registry>> {
        self.commit_all(std::slice::from_ref(change)).await
    }

    /// Applies `changes` to the newest registry and writes the next document, which holds all of them; tries again if another
    /// gateway was faster, a bounded number of times (`40001` after that). Changes that ask for nothing write nothing.
    ///
    /// The new version is durable when this returns. Costs one read and one synced write without contention.
    pub async fn commit_all(&self, changes: &[Change]) -> Result<Arc<Registry>> {
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            self.refresh().await?;
            let current = self.current();
            let mut next = Registry::clone(&current);
            for change in changes {
                next = next.apply(change)?;
            }
            if next.version == current.version {
                return Ok(current);
            }
            next.version = current.version + 1;
            if create_document(&self.documents, &next).await? == Created::Here {
                let next = Arc::new(next);
                self.publish(&next);
                return Ok(next);
            }
        }
        Err(Error::new(
            SqlState::SerializationFailure,
            format!("could not change the registry: lost the race {COMMIT_ATTEMPTS_MAX} times"),
        )
        .hint("Other gateways were changing it at the same time. Retry the statement."))
    }

    /// Looks for documents that other gateways wrote; gives whether there were any. Costs one small read when there are none.
    pub async fn refresh(&self) -> Result<bool> {
        let mut moved = false;
        let mut version = self.current().version;
        while let Some(registry) = read_document(&self.documents, version + 1).await? {
            version = registry.version;
            self.publish(&Arc::new(registry));
            moved = true;
        }
        Ok(moved)
    }

    /// Makes `candidate` the current registry unless a newer one is: readers never see versions go backwards.
    fn publish(&self, candidate: &Arc<Registry>) {
        self.current.rcu(|current| if candidate.version > current.version { Arc::clone(candidate) } else { Arc::clone(current) });
    }
}

/// Who wrote a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Created {
    Here,
    Elsewhere,
}

/// A registry as it is written. The field order is the order in the document, and maps are sorted, so equal registries have
/// equal documents.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    version: u64,
    store: StoreId,
    next_id: u32,
    entities: BTreeMap<String, Entity>,
    feature_views: BTreeMap<String, FeatureView>,
    tables: BTreeMap<String, Table>,
    views: BTreeMap<String, SqlView>,
    // Left out where there are none, as in documents written before there were any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    feature_services: BTreeMap<String, FeatureService>,
}

/// The part of a document that every format has.
#[derive(Deserialize)]
struct Header {
    format: u32,
}

impl Document {
    fn of(registry: &Registry) -> Self {
        Self {
            format: FORMAT,
            version: registry.version,
            store: registry.store,
            next_id: registry.next_id,
            entities: plain(&registry.entities),
            feature_views: plain(&registry.views),
            tables: plain(&registry.tables),
            views: plain(&registry.sql_views),
            feature_services: plain(&registry.services),
        }
    }

    fn into_registry(self) -> Registry {
        let Document { format: _, version, store, next_id, entities, feature_views, tables, views, feature_services } = self;
        Registry {
            version,
            store,
            next_id,
            entities: shared(entities),
            views: shared(feature_views),
            tables: shared(tables),
            sql_views: shared(views),
            services: shared(feature_services),
        }
    }
}

fn plain<T: Clone>(objects: &BTreeMap<String, Arc<T>>) -> BTreeMap<String, T> {
    objects.iter().map(|(name, object)| (name.clone(), T::clone(object))).collect()
}

fn shared<T>(objects: BTreeMap<String, T>) -> BTreeMap<String, Arc<T>> {
    objects.into_iter().map(|(name, object)| (name, Arc::new(object))).collect()
}

fn open_root(root: &str) -> Result<Arc<dyn ObjectStore>> {
    let folder = match root.split_once("://") {
        None => root,
        Some(("file", path)) => path,
        Some((scheme, _)) => {
            return Err(Error::unsupported(format!("a store under \"{scheme}://\"")).hint("Name a local folder."));
        }
    };
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(SqlState::IoError, format!("could not open the store \"{root}\""))
            .detail(source.to_string())
            .hint("Name a folder that can be written.")
            .caused_by(source)
    };
    std::fs::create_dir_all(FilePath::new(folder)).map_err(|source| failed(source.into()))?;
    let store = LocalFileSystem::new_with_prefix(folder).map_err(|source| failed(source.into()))?;
    Ok(Arc::new(store.with_fsync(true)))
}

fn document_path(version: u64) -> Path {
    Path::from(format!("{FOLDER}/{version:0VERSION_DIGITS$}.json"))
}

/// The version in a document's name; `None` for other files, such as an upload that a crash left half done.
fn version_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    if digits.len() != VERSION_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

async fn newest_version(documents: &Arc<dyn ObjectStore>) -> Result<Option<u64>> {
    let folder = Path::from(FOLDER);
    let names = documents.list(Some(&folder)).map_ok(|entry| entry.location.filename().and_then(version_of));
    let versions: Vec<Option<u64>> = names.try_collect().await.map_err(|source| read_failed("the registry", source))?;
    Ok(versions.into_iter().flatten().max())
}

async fn read_document(documents: &Arc<dyn ObjectStore>, version: u64) -> Result<Option<Registry>> {
    let path = document_path(version);
    let bytes = match documents.get(&path).await {
        Ok(found) => found.bytes().await,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(source) => Err(source),
    };
    let bytes = bytes.map_err(|source| read_failed(&format!("registry document \"{path}\""), source))?;
    decode(&path, version, &bytes).map(Some)
}

fn decode(path: &Path, version: u64, bytes: &[u8]) -> Result<Registry> {
    let corrupt = |reason: String| {
        Error::new(SqlState::DataCorrupted, format!("registry document \"{path}\" is damaged"))
            .detail(reason)
            .hint("Restore the document from a copy of the store.")
    };
    let unreadable = |reason: String| {
        Error::new(SqlState::ConfigFileError, format!("registry document \"{path}\" cannot be read by this version"))
            .detail(reason)
            .hint("A newer version may have written it: run that version.")
    };
    let header: Header = serde_json::from_slice(bytes).map_err(|reason| corrupt(reason.to_string()))?;
    if header.format != FORMAT {
        return Err(unreadable(format!("It has format {}; this version reads format {FORMAT}.", header.format)));
    }
    let document: Document = serde_json::from_slice(bytes).map_err(|reason| unreadable(reason.to_string()))?;
    if document.version != version {
        return Err(corrupt(format!("It says that it is version {}.", document.version)));
    }
    Ok(document.into_registry())
}

async fn create_document(documents: &Arc<dyn ObjectStore>, registry: &Registry) -> Result<Created> {
    let path = document_path(registry.version);
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(SqlState::IoError, format!("could not write registry document \"{path}\""))
            .hint("Nothing was changed. Check that the store can be written, then retry.")
            .caused_by(source)
    };
    let mut text = serde_json::to_vec_pretty(&Document::of(registry)).map_err(|source| failed(source.into()))?;
    text.push(b'\n');
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match documents.put_opts(&path, PutPayload::from(text), options).await {
        Ok(_) => Ok(Created::Here),
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(Created::Elsewhere),
        Err(source) => Err(failed(source.into())),
    }
}

/// Writes the document of an empty registry, or reads the one that another gateway wrote at the same moment.
async fn create_first(documents: &Arc<dyn ObjectStore>) -> Result<Registry> {
    let registry = Registry::empty(StoreId(Uuid::new_v4()));
    match create_document(documents, &registry).await? {
        Created::Here => Ok(registry),
        Created::Elsewhere => read_document(documents, registry.version)
            .await?
            .ok_or_else(|| Error::new(SqlState::IoError, "the first registry document vanished while it was read")),
    }
}

fn read_failed(what: &str, source: object_store::Error) -> Error {
    Error::new(SqlState::IoError, format!("could not read {what}"))
        .hint("Check that the store can be reached, then retry.")
        .caused_by(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Feature, KeyColumn, Ttl};
    use crate::types::SqlType;

    fn entity(name: &str, if_not_exists: bool) -> Change {
        let keys = vec![KeyColumn { name: "id".into(), data_type: SqlType::BigInt }];
        Change::CreateEntity { name: name.into(), keys, comment: Some("a \"thing\"".into()), if_not_exists }
    }

    fn root(folder: &tempfile::TempDir) -> String {
        folder.path().join("store").to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_registry_is_the_same_after_it_was_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = RegistryStore::open(&root(&folder)).await.unwrap();
        store.commit(&entity("customer", false)).await.unwrap();
        let view = Change::CreateFeatureView {
            name: "spend".into(),
            entities: vec!["customer".into()],
            event_time: "event_time".into(),
            features: vec![Feature {
                name: "vector".into(),
                data_type: SqlType::Vector(3),
                comment: None,
                check: Some("vector IS NOT NULL".into()),
            }],
            ttl: Some(Ttl::from_micros(5).unwrap()),
            online: true,
            comment: None,
            options: [("owner".to_owned(), "growth".to_owned())].into(),
            if_not_exists: false,
        };
        let committed = store.commit(&view).await.unwrap();
        let reopened = RegistryStore::open(&root(&folder)).await.unwrap();
        assert_eq!(reopened.current(), committed);
        assert_eq!(reopened.current().version, 2);
    }

    #[tokio::test]
    async fn if_not_exists_makes_no_version() {
        let folder = tempfile::tempdir().unwrap();
        let store = RegistryStore::open(&root(&folder)).await.unwrap();
        store.commit(&entity("customer", false)).await.unwrap();
        assert_eq!(store.commit(&entity("customer", true)).await.unwrap().version, 1);
        assert_eq!(store.commit(&entity("customer", false)).await.unwrap_err().code(), SqlState::DuplicateObject);
        assert_eq!(RegistryStore::open(&root(&folder)).await.unwrap().current().version, 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn two_gateways_lose_no_change_to_a_race() {
        const CHANGES: usize = 50;
        let folder = tempfile::tempdir().unwrap();
        let root = root(&folder);
        let (left, right) = tokio::join!(RegistryStore::open(&root), RegistryStore::open(&root));
        let (left, right) = (Arc::new(left.unwrap()), Arc::new(right.unwrap()));
        assert_eq!(left.current().store, right.current().store);
        let race = |store: &Arc<RegistryStore>, side: &'static str| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                for number in 0..CHANGES {
                    store.commit(&entity(&format!("{side}{number}"), false)).await.unwrap();
                }
            })
        };
        let (a, b) = tokio::join!(race(&left, "left"), race(&right, "right"));
        a.unwrap();
        b.unwrap();
        left.refresh().await.unwrap();
        right.refresh().await.unwrap();
        assert_eq!(left.current(), right.current());
        assert_eq!(left.current().version, 2 * CHANGES as u64);
        assert_eq!(left.current().entities.len(), 2 * CHANGES);
        let mut ids: Vec<_> = left.current().entities.values().map(|entity| entity.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 2 * CHANGES);
    }

    #[tokio::test]
    async fn another_gateways_change_is_seen_by_refresh() {
        let folder = tempfile::tempdir().unwrap();
        let writer = RegistryStore::open(&root(&folder)).await.unwrap();
        let reader = RegistryStore::open(&root(&folder)).await.unwrap();
        assert!(!reader.refresh().await.unwrap());
        writer.commit(&entity("customer", false)).await.unwrap();
        writer.commit(&entity("item", false)).await.unwrap();
        assert!(reader.refresh().await.unwrap());
        assert_eq!(reader.current(), writer.current());
    }

    #[tokio::test]
    async fn a_document_that_does_not_decode_is_a_clear_error() {
        let newer = r#"{"format": 2, "shape": "unknown"}"#;
        let unknown_field = r#"{"format": 1, "version": 1, "colour": "red"}"#;
        for (text, code) in [
            ("{\"format\": 1, \"ver", SqlState::DataCorrupted),
            ("", SqlState::DataCorrupted),
            (newer, SqlState::ConfigFileError),
            (unknown_field, SqlState::ConfigFileError),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let store = RegistryStore::open(&root(&folder)).await.unwrap();
            std::fs::write(folder.path().join("store/registry/00000000000000000001.json"), text).unwrap();
            let refused = store.refresh().await.unwrap_err();
            assert_eq!(refused.code(), code, "{refused}");
            assert!(refused.message().contains("00000000000000000001.json"), "{refused}");
            assert_eq!(RegistryStore::open(&root(&folder)).await.unwrap_err().code(), code);
        }
    }

    #[tokio::test]
    async fn a_root_of_another_scheme_is_refused() {
        let refused = RegistryStore::open("s3://bucket/store").await.unwrap_err();
        assert_eq!(refused.code(), SqlState::FeatureNotSupported);
    }
}
