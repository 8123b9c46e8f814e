//! A blob on its way onto the disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{BLOBS_MAX, Depot, DepotError, Entry, Keep, LOOK_BYTES, NAME_MAX, io_error, modified, tree};
use crate::store::{BlobHash, create_dir_durably, sync_dir};

impl Depot {
    /// Says early whether a blob of this length would be taken.
    ///
    /// # Errors
    /// [`DepotError::TooLong`], [`DepotError::Full`], [`DepotError::Io`].
    pub(crate) fn admits(&self, len: u64) -> Result<(), DepotError> {
        match self.inner.limits.blob {
            max if len > max => Err(DepotError::TooLong { max }),
            _ => self.make_room(len.saturating_add(LOOK_BYTES)),
        }
    }

    /// Begins a new blob.
    ///
    /// # Errors
    /// [`DepotError::TooMany`], [`DepotError::Full`], [`DepotError::Io`].
    pub(crate) fn draft(&self) -> Result<Draft, DepotError> {
        if self.state().entries.len() >= BLOBS_MAX {
            return Err(DepotError::TooMany);
        }
        self.make_room(LOOK_BYTES)?;
        let path = self.tmp();
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(io_error("write"))?;
        Ok(Draft { depot: self.clone(), path, file, len: 0, looked: 0 })
    }

    /// Takes a file of this disk, which leaves its place. It must be a regular file.
    ///
    /// # Errors
    /// Any [`DepotError`]; the file is gone.
    pub(crate) fn take(&self, path: &Path, keep: &Keep) -> Result<(BlobHash, Entry), DepotError> {
        let to = self.tmp();
        fs::rename(path, &to).map_err(io_error("take"))?;
        let taken = || {
            let meta = fs::symlink_metadata(&to)?;
            if !meta.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
            }
            private(&to)?;
            Ok((File::options().read(true).write(true).open(&to)?, meta.len()))
        };
        let opened = taken().map_err(io_error("take"));
        if opened.is_err() {
            let _ = fs::remove_file(&to).or_else(|_| fs::remove_dir_all(&to));
        }
        let (file, len) = opened?;
        Draft { depot: self.clone(), path: to, file, len, looked: len }.finish(keep)
    }

    /// Puts bytes that are in memory.
    ///
    /// # Errors
    /// Any [`DepotError`].
    #[cfg(test)]
    pub(crate) fn put(&self, bytes: &[u8], keep: &Keep) -> Result<(BlobHash, Entry), DepotError> {
        let mut draft = self.draft()?;
        draft.write(bytes)?;
        draft.finish(keep)
    }

    /// Gives a whole, synced and verified file its name.
    pub(super) fn publish(&self, data: &Path, hashes: Option<&Path>, hash: BlobHash, len: u64, keep: &Keep) -> io::Result<Entry> {
        let place = self.path(hash, "");
        if let Some(fan) = place.parent()
            && !fan.exists()
        {
            create_dir_durably(fan)?;
        }
        if let Some(hashes) = hashes {
            fs::rename(hashes, self.path(hash, "tree"))?;
        }
        let mut perms = fs::metadata(data)?.permissions();
        perms.set_readonly(true);
        fs::set_permissions(data, perms)?;
        let entry = Entry {
            pinned: keep.pinned,
            name: keep.name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect(),
            result: keep.result,
            modified: modified(&fs::metadata(data)?),
            ..Entry::new(len)
        };
        self.write_meta(hash, &entry)?;
        super::unlock(&place);
        fs::rename(data, &place)?;
        if let Some(fan) = place.parent() {
            sync_dir(fan)?;
        }
        self.state().entries.insert(hash, entry.clone());
        self.inner.changed.notify_one();
        Ok(entry)
    }

    pub(super) fn write_meta(&self, hash: BlobHash, entry: &Entry) -> io::Result<()> {
        let tmp = self.tmp();
        let mut file = File::create(&tmp)?;
        file.write_all(&serde_json::to_vec(entry).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&tmp, self.path(hash, "json"))?;
        self.path(hash, "").parent().map_or(Ok(()), sync_dir)
    }
}

/// A blob being written; leaves nothing when dropped.
pub(crate) struct Draft {
    depot: Depot,
    path: PathBuf,
    file: File,
    len: u64,
    looked: u64,
}

impl Draft {
    /// Adds bytes.
    ///
    /// # Errors
    /// [`DepotError::TooLong`], [`DepotError::Full`], [`DepotError::Io`].
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), DepotError> {
        self.len += bytes.len() as u64;
        let max = self.depot.inner.limits.blob;
        if self.len > max {
            return Err(DepotError::TooLong { max });
        }
        self.file.write_all(bytes).map_err(io_error("write"))?;
        if self.len - self.looked >= LOOK_BYTES {
            self.looked = self.len;
            // To the disk as it comes, or the sync at the end holds everybody up.
            self.file.sync_data().map_err(io_error("write"))?;
            self.depot.make_room(LOOK_BYTES)?;
        }
        Ok(())
    }

    /// Hashes it, makes it durable, gives it its name.
    ///
    /// # Errors
    /// Any [`DepotError`].
    pub(crate) fn finish(self, keep: &Keep) -> Result<(BlobHash, Entry), DepotError> {
        use std::io::Seek;
        if self.len > self.depot.inner.limits.blob {
            return Err(DepotError::TooLong { max: self.depot.inner.limits.blob });
        }
        let hashes = TmpFile(self.path.with_extension("tree"));
        let mut board = match tree::hashes_len(self.len) {
            0 => None,
            _ => Some(File::options().read(true).write(true).create_new(true).open(&hashes.0).map_err(io_error("write"))?),
        };
        (&self.file).rewind().map_err(io_error("read"))?;
        let hash = tree::hash(&self.file, self.len, board.as_mut()).map_err(io_error("read"))?;
        // One that is here already is replaced all the same: it may have rotted, and this one is known to be right.
        let before = self.depot.entry(hash);
        if let Some(board) = &board {
            board.sync_all().map_err(io_error("write"))?;
        }
        self.file.sync_all().map_err(io_error("write"))?;
        let hashes = board.is_some().then_some(hashes.0.as_path());
        let keep = before.map_or_else(|| keep.clone(), |b| keep.and(&b));
        let entry = self.depot.publish(&self.path, hashes, hash, self.len, &keep).map_err(io_error("store"))?;
        Ok((hash, entry))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone already when it has its name; what cannot be removed goes at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removed when dropped; gone already when it was renamed.
struct TmpFile(PathBuf);

impl Drop for TmpFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Readable and writable by the node's user only, whatever the task had made of it.
#[cfg(unix)]
fn private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

/// Windows: a moved file keeps its access list, and loses only the read-only mark. Not tried on Windows.
#[cfg(not(unix))]
fn private(path: &Path) -> io::Result<()> {
    super::unlock(path);
    Ok(())
}
