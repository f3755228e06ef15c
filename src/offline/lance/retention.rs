//! Dropping versions that nobody asks for any more.

use std::collections::BTreeSet;

use futures::FutureExt;
use lance::dataset::cleanup::CleanupPolicyBuilder;

use super::handles::{Handle, stated_time};
use super::{LanceStore, could_not, path};
use crate::error::Result;
use crate::offline::{Dataset, Extent, Retention};
use crate::time::DatasetVersion;

/// How many versions one round drops at most; the next round goes on.
const DROPPED_PER_ROUND: usize = 1000;

impl LanceStore {
    /// Drops the versions that `retention` gives up. Returns how many; none where a rewriter is at work.
    pub(super) async fn drop_versions(&self, dataset: Dataset, retention: &Retention) -> Result<usize> {
        let failed = |source: lance::Error| could_not("tidy up", dataset, source);
        let Some(_lock) = self.lock_for_rewrite(dataset, Extent::Tail).await? else { return Ok(0) };
        self.handles.latest(dataset).await?;
        let newest = self.handles.newest(dataset).await?;
        let versions = versions(&newest).await.map_err(failed)?;
        let mut old = BTreeSet::new();
        // A version was the newest until its successor came: that has to be long ago.
        for pair in versions.windows(2).take(DROPPED_PER_ROUND) {
            let superseded = self.handles.commit_of(dataset, DatasetVersion(pair[1])).await?;
            if superseded.is_none_or(|commit| commit.created_time >= retention.since) {
                break;
            }
            old.insert(pair[0]);
        }
        for tagged in &retention.tagged {
            old.remove(&tagged.0);
        }
        keep_stated_times(&newest, &versions, &mut old).await.map_err(failed)?;
        if old.is_empty() {
            return Ok(0);
        }
        let dropped: Vec<DatasetVersion> = old.iter().copied().map(DatasetVersion).collect();
        let policy = CleanupPolicyBuilder::default().versions(old.into_iter().collect()).map_err(failed)?;
        let policy = policy.error_if_tagged_old_versions(false).build();
        newest.cleanup_with_policy(policy).boxed().await.map_err(failed)?;
        self.forget_versions(dataset, &dropped);
        tracing::info!(dataset = path(dataset), versions = dropped.len(), "old versions dropped");
        Ok(dropped.len())
    }

    /// The earliest version from which on none is missing.
    pub(super) async fn earliest_version(&self, dataset: Dataset) -> Result<DatasetVersion> {
        self.handles.latest(dataset).await?;
        let newest = self.handles.newest(dataset).await?;
        let versions = versions(&newest).await.map_err(|source| could_not("read", dataset, source))?;
        let mut earliest = newest.version_id();
        for version in versions.into_iter().rev() {
            if version + 1 == earliest {
                earliest = version;
            }
        }
        Ok(DatasetVersion(earliest))
    }
}

/// The versions there are, up to the one of `newest`, ascending.
async fn versions(newest: &Handle) -> lance::Result<Vec<u64>> {
    let versions = newest.version_refs().boxed().await?.into_iter().map(|version| version.version);
    Ok(versions.filter(|version| *version <= newest.version_id()).collect())
}

/// Takes out of `old` the versions that say when a kept one was committed: one that only rearranged rows does not itself.
async fn keep_stated_times(newest: &Handle, versions: &[u64], old: &mut BTreeSet<u64>) -> lance::Result<()> {
    for pair in versions.windows(2).rev() {
        if old.contains(&pair[0]) && !old.contains(&pair[1]) && stated_time(newest, pair[1]).await?.is_none() {
            old.remove(&pair[0]);
        }
    }
    Ok(())
}
