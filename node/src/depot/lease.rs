//! Blobs that tasks have as inputs.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Depot, modified};
use crate::store::BlobHash;

/// Keeps a blob here while a task has it as an input.
pub(crate) struct Lease {
    pub(super) depot: Depot,
    pub(super) hash: BlobHash,
    pub(super) path: PathBuf,
}

impl Lease {
    /// Where the content lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let entry = {
            let mut state = self.depot.state();
            if let Some(n) = state.leases.get_mut(&self.hash) {
                *n = n.saturating_sub(1);
                if *n == 0 {
                    state.leases.remove(&self.hash);
                }
            }
            state.entries.get(&self.hash).cloned()
        };
        // A task that got the file itself, by a hard link, may have written into it against its permissions.
        let Some(entry) = entry else { return };
        let same = fs::metadata(&self.path).is_ok_and(|m| m.len() == entry.len && modified(&m) == entry.modified);
        if !same {
            let _ = self.depot.damaged(self.hash);
        }
    }
}
