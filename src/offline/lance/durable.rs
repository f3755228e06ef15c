//! Making the files of a commit durable on a local disk.
//!
//! Lance writes and renames but does not sync. A commit is safe against a power cut if its data files are synced before its
//! manifest can be seen, and its manifest and the folders after: then whatever manifest survives names whole files.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Syncs these files, then the folders they are in. Blocking work, done on a thread for it.
pub(super) async fn sync(files: Vec<PathBuf>) -> io::Result<()> {
    let done = tokio::task::spawn_blocking(move || {
        let mut folders: Vec<&Path> = Vec::new();
        for file in &files {
            File::open(file)?.sync_all()?;
            if let Some(folder) = file.parent()
                && !folders.contains(&folder)
            {
                folders.push(folder);
            }
        }
        folders.iter().try_for_each(|folder| File::open(folder)?.sync_all())
    });
    done.await.map_err(io::Error::other)?
}

/// Syncs the folders from `leaf` up to `root`, both included: for a dataset that has just been made.
pub(super) async fn sync_folders(root: PathBuf, leaf: PathBuf) -> io::Result<()> {
    let done = tokio::task::spawn_blocking(move || {
        let folders = leaf.ancestors().take_while(|folder| folder.starts_with(&root));
        for folder in folders {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    });
    done.await.map_err(io::Error::other)?
}
