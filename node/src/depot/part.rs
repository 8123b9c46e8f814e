//! The verified beginning of a blob that is being fetched. It outlives the line, the holder and this process.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::tree::{self, GROUP, ReceiveError};
use super::{Depot, DepotError, Entry, Keep, LOOK_BYTES, PART, io_error};
use crate::store::BlobHash;

/// Beginnings kept at most; the oldest goes.
const PARTS_MAX: usize = 64;
/// A beginning that nobody went on with for so long is removed.
const KEPT_FOR: Duration = Duration::from_secs(7 * 86_400);

/// What is written beside it.
#[derive(Serialize, Deserialize)]
struct Mark {
    len: u64,
    /// Up to here everything is verified and durable.
    done: u64,
}

/// A blob that is being fetched. One at a time for each hash, which its user sees to.
pub(crate) struct Part {
    depot: Depot,
    hash: BlobHash,
    base: PathBuf,
    data: File,
    hashes: Option<File>,
    len: u64,
    done: u64,
    resumed: u64,
}

impl Depot {
    /// How long the blob is by an earlier, unfinished transfer, if there was one.
    pub(crate) fn part_len(&self, hash: BlobHash) -> Option<u64> {
        read_mark(&base(&self.inner.dir.join(PART), hash)).map(|m| m.len)
    }

    /// Checks the proof of a length that a peer claims.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub(crate) fn check_len(hash: BlobHash, claimed: u64, from: impl Read) -> Result<(), ReceiveError> {
        tree::receive_len(hash, claimed, from)
    }

    /// Begins to fetch a blob of `len` bytes, or goes on where it broke off.
    ///
    /// # Errors
    /// [`DepotError::TooLong`], [`DepotError::Full`], [`DepotError::TooMany`], [`DepotError::Io`].
    pub(crate) fn part(&self, hash: BlobHash, len: u64) -> Result<Part, DepotError> {
        if len > self.inner.limits.blob {
            return Err(DepotError::TooLong { max: self.inner.limits.blob });
        }
        if self.state().entries.len() >= super::BLOBS_MAX {
            return Err(DepotError::TooMany);
        }
        let base = base(&self.inner.dir.join(PART), hash);
        let open = |ending: &str| File::options().read(true).write(true).create(true).truncate(false).open(base.with_extension(ending));
        let data = open("data").map_err(io_error("write"))?;
        let hashes = if tree::hashes_len(len) == 0 { None } else { Some(open("tree").map_err(io_error("write"))?) };
        let written = data.metadata().map_err(io_error("read"))?;
        let done = read_mark(&base).filter(|m| m.len == len).map_or(0, |m| m.done.min(written.len()) / GROUP * GROUP);
        self.make_room(len.saturating_sub(done).saturating_add(LOOK_BYTES))?;
        Ok(Part { depot: self.clone(), hash, base, data, hashes, len, done, resumed: done })
    }
}

impl Part {
    /// Bytes of the whole blob.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }
    /// Bytes that are here and verified.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }
    /// Bytes that were here when this transfer began.
    pub(crate) fn resumed(&self) -> u64 {
        self.resumed
    }
    /// The next part to ask for, at most `max` bytes; none when all is here.
    pub(crate) fn next(&self, max: u64) -> Option<Range<u64>> {
        (self.done < self.len).then(|| self.done..self.done.saturating_add(max / GROUP * GROUP).min(self.len))
    }

    /// Takes a part as [`Depot::send`] wrote it; `step` hears of each verified group how many bytes are here.
    ///
    /// # Errors
    /// [`ReceiveError`]; what was verified before stays. How far it is survives a kill from the end of each call on.
    pub(crate) fn receive(&mut self, part: &Range<u64>, from: impl Read, mut step: impl FnMut(u64)) -> Result<(), ReceiveError> {
        let mut done = self.done;
        let received = tree::receive((&mut self.data, self.hashes.as_mut()), self.hash, self.len, part, from, |at| {
            done = at;
            step(at);
        });
        if done > self.done {
            self.done = done;
            self.mark(done).map_err(ReceiveError::Disk)?;
        }
        received
    }

    /// Durable first, then said to be.
    fn mark(&self, done: u64) -> io::Result<()> {
        self.data.sync_data()?;
        if let Some(hashes) = &self.hashes {
            hashes.sync_data()?;
        }
        let mark = Mark { len: self.len, done };
        let tmp = self.base.with_extension("mark.new");
        fs::write(&tmp, serde_json::to_vec(&mark).map_err(io::Error::other)?)?;
        fs::rename(&tmp, self.base.with_extension("mark"))
    }

    /// Gives the whole blob its name.
    ///
    /// # Errors
    /// [`DepotError::Io`].
    pub(crate) fn finish(self, keep: &Keep) -> Result<Entry, DepotError> {
        self.data.set_len(self.len).map_err(io_error("store"))?;
        self.data.sync_all().map_err(io_error("store"))?;
        let hashes = self.base.with_extension("tree");
        if let Some(file) = &self.hashes {
            file.sync_all().map_err(io_error("store"))?;
        }
        let keep = self.depot.entry(self.hash).map_or_else(|| keep.clone(), |b| keep.and(&b));
        let hashes = self.hashes.is_some().then_some(hashes.as_path());
        let data = self.base.with_extension("data");
        let entry = self.depot.publish(&data, hashes, self.hash, self.len, &keep).map_err(io_error("store"))?;
        forget(&self.depot.inner.dir.join(PART), self.hash);
        Ok(entry)
    }
}

fn base(dir: &Path, hash: BlobHash) -> PathBuf {
    dir.join(hash.to_string())
}

fn read_mark(base: &Path) -> Option<Mark> {
    serde_json::from_slice(&fs::read(base.with_extension("mark")).ok()?).ok()
}

/// Removes the beginning of a blob; true when there was one.
pub(super) fn forget(dir: &Path, hash: BlobHash) -> bool {
    let base = base(dir, hash);
    let mut any = false;
    for ending in ["mark", "mark.new", "tree", "data"] {
        any |= fs::remove_file(base.with_extension(ending)).is_ok();
    }
    any
}

/// Removes beginnings that nobody goes on with.
pub(super) fn forget_old(dir: &Path) {
    let mut all: Vec<(SystemTime, BlobHash)> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            let path = e.path();
            let hash = blake3::Hash::from_hex(path.file_stem()?.to_str()?).ok()?;
            if path.extension()? != "data" {
                return None;
            }
            Some((e.metadata().ok()?.modified().ok()?, BlobHash(*hash.as_bytes())))
        })
        .collect();
    all.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    for (i, (time, hash)) in all.into_iter().enumerate() {
        if i >= PARTS_MAX || time.elapsed().is_ok_and(|age| age > KEPT_FOR) {
            forget(dir, hash);
        }
    }
}
