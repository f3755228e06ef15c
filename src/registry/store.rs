//! Registry versions as numbered documents under one root.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::change::Change;
use super::model::Registry;
use crate::error::{Error, Result};

/// The registry of one store, kept current.
#[derive(Debug)]
pub struct RegistryStore {
    current: ArcSwap<Registry>,
}

impl RegistryStore {
    /// Opens the registry under `root` (a local folder or URL); a new store gets its first document.
    pub async fn open(_root: &str) -> Result<Self> {
        Err(Error::unsupported("registry"))
    }

    /// The newest registry this gateway knows: no IO.
    pub fn current(&self) -> Arc<Registry> {
        self.current.load_full()
    }

    /// Applies `change` to the newest registry and writes the next document; tries again if another gateway was faster,
    /// a bounded number of times (`40001` after that).
    pub async fn commit(&self, _change: &Change) -> Result<Arc<Registry>> {
        Err(Error::unsupported("registry"))
    }

    /// Looks for documents that other gateways wrote; gives whether there were any.
    pub async fn refresh(&self) -> Result<bool> {
        Ok(false)
    }
}
