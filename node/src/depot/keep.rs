//! What stays and what goes.

use std::fs;
use std::io;

use super::{CACHED_FOR, Depot, DepotError, Entry, PART, io_error, now_ms, part, unlock};
use crate::store::BlobHash;

impl Depot {
    /// Pins or unpins a blob.
    ///
    /// # Errors
    /// [`DepotError::Missing`], [`DepotError::Io`].
    pub(crate) fn pin(&self, hash: BlobHash, pinned: bool) -> Result<Entry, DepotError> {
        let mut entry = self.used(hash).ok_or(DepotError::Missing(hash))?;
        entry.pinned = pinned;
        self.write_meta(hash, &entry).map_err(io_error("keep"))?;
        self.state().entries.insert(hash, entry.clone());
        Ok(entry)
    }

    /// Removes a blob, and the beginning of one that was being fetched. False when there was neither.
    ///
    /// # Errors
    /// [`DepotError::InUse`].
    pub(crate) fn remove(&self, hash: BlobHash) -> Result<bool, DepotError> {
        if self.state().leases.contains_key(&hash) {
            return Err(DepotError::InUse(hash));
        }
        let part = part::forget(&self.inner.dir.join(PART), hash);
        Ok(self.forget(hash).is_some() || part)
    }

    pub(super) fn forget(&self, hash: BlobHash) -> Option<Entry> {
        let was = self.state().entries.remove(&hash);
        self.inner.changed.notify_one();
        // The content last: files without a content are removed at the next start.
        for ending in ["json", "tree", ""] {
            let path = self.path(hash, ending);
            unlock(&path);
            if let Err(e) = fs::remove_file(&path)
                && e.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), error = %e, "a blob's file cannot be removed");
            }
        }
        was
    }

    /// Lets go of what nobody has pinned and nobody used for a week, and of the oldest of it when the cache is above its bound.
    pub(crate) fn sweep(&self) -> usize {
        let too_old = now_ms().saturating_sub(u64::try_from(CACHED_FOR.as_millis()).unwrap_or(u64::MAX));
        let cached: Vec<(BlobHash, Entry)> = self.list().into_iter().filter(|(_, e)| !e.pinned).collect();
        let mut gone = 0;
        for (hash, _) in cached.iter().filter(|(_, e)| e.used_at < too_old) {
            gone += usize::from(self.remove(*hash).unwrap_or(false));
        }
        let total: u64 = cached.iter().filter(|(_, e)| e.used_at >= too_old).map(|(_, e)| e.len).sum();
        part::forget_old(&self.inner.dir.join(PART));
        gone + self.evict(total.saturating_sub(self.inner.limits.cache))
    }

    /// Removes at least so many bytes of what nobody has pinned, as far as there are any: results last, the longest unused first.
    pub(super) fn evict(&self, bytes: u64) -> usize {
        let mut cached: Vec<(BlobHash, Entry)> = self.list().into_iter().filter(|(_, e)| !e.pinned).collect();
        cached.sort_by_key(|(_, e)| (e.result, e.used_at));
        let (mut left, mut gone) = (bytes, 0);
        for (hash, entry) in cached {
            if left == 0 {
                break;
            }
            if self.remove(hash).unwrap_or(false) {
                left = left.saturating_sub(entry.len);
                gone += 1;
            }
        }
        gone
    }

    /// Bytes of everything, and of what is pinned.
    pub(crate) fn sizes(&self) -> (u64, u64) {
        let state = self.state();
        let sum = |pinned: bool| state.entries.values().filter(|e| e.pinned == pinned).map(|e| e.len).sum::<u64>();
        let pinned = sum(true);
        (pinned + sum(false), pinned)
    }
}
