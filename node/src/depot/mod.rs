//! Files that people and tasks share, named by the BLAKE3 of their content, each with the hashes that prove any part of it.
//!
//! Apart from the payloads of `store/blobs.rs`, which belong to the core and go when no record names them: what is here goes only by
//! `rm`, or, when nobody has pinned it, when the cache is full or it was not used for a week.
//!
//! ```text
//! <home>/blobs/ab/cdef…        the content, read-only; under its name only when whole and durable
//! <home>/blobs/ab/cdef….tree   the hashes between (tree.rs); none for blobs of one group
//! <home>/blobs/ab/cdef….json   who wants it kept, its name, when
//! <home>/blobs/tmp/            being written; emptied at the start
//! <home>/blobs/part/           verified beginnings of what is being fetched (part.rs)
//! ```

mod part;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub(crate) use self::part::Part;
pub(crate) use self::tree::{GROUP, ReceiveError, SendError};
use crate::store::{BlobHash, create_dir_durably, remove_tree, sync_dir};

/// Most blobs of one node.
pub(crate) const BLOBS_MAX: usize = 100_000;
/// A blob that nobody has pinned goes when it was not used for so long.
pub(crate) const CACHED_FOR: Duration = Duration::from_secs(7 * 86_400);
/// Longest name given to a blob, characters.
const NAME_MAX: usize = 200;
/// Bytes written between two looks at the free space, and to the disk at a time.
const LOOK_BYTES: u64 = 16 << 20;
/// Fewest digits of a hash that a person may type.
const PREFIX_MIN: usize = 4;
const TMP: &str = "tmp";
const PART: &str = "part";

/// How much the depot may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Longest blob, bytes; 64 GiB unless set.
    pub(crate) blob: u64,
    /// All blobs together that nobody has pinned, bytes; 16 GiB unless set.
    pub(crate) cache: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { blob: 64 << 30, cache: 16 << 30 }
    }
}

/// Says how many bytes may be written before the free space that the store needs is touched.
pub(crate) type Room = Arc<dyn Fn() -> io::Result<u64> + Send + Sync>;

/// Why something could not be done. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DepotError {
    /// There is no such blob here.
    #[error("the blob {0} is not on this node")]
    Missing(BlobHash),
    /// No blob here begins so.
    #[error("no blob on this node begins with '{0}'")]
    Unknown(String),
    /// Not a hash, nor the beginning of one.
    #[error("'{0}' is no hash: it has {PREFIX_MIN} to 64 digits of 0-9 and a-f")]
    NoHash(String),
    /// Several blobs begin so.
    #[error("several blobs begin with '{prefix}': type more digits")]
    Ambiguous {
        /// As typed.
        prefix: String,
        /// At most ten of them.
        all: Vec<BlobHash>,
    },
    /// What lies on the disk is not what the name says; it was removed.
    #[error("the blob {0} was damaged on the disk and has been removed; 'blobs get' fetches it again when another node has it")]
    Damaged(BlobHash),
    /// Longer than this node takes.
    #[error("the blob is longer than {}, the most that this node takes ('clawmesh up --blob-max')", bytesize::ByteSize(*max))]
    TooLong {
        /// Bytes.
        max: u64,
    },
    /// It would touch the free space that the store needs.
    #[error("the disk has no room for it: {} more can be written before the node's reserve is touched; free some space, or 'clawmesh blobs rm'", bytesize::ByteSize(*left))]
    Full {
        /// Bytes.
        left: u64,
    },
    /// More blobs than one node keeps.
    #[error("{BLOBS_MAX} blobs are here, which is the limit: remove some with 'clawmesh blobs rm'")]
    TooMany,
    /// A task that runs here has it as an input.
    #[error("the blob {0} is an input of a task that runs here: try again when it has ended")]
    InUse(BlobHash),
    /// The system.
    #[error("cannot {doing} the blob: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn io_error(doing: &'static str) -> impl Fn(io::Error) -> DepotError {
    move |source| DepotError::Io { doing, source }
}

/// What is known of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Bytes.
    pub(crate) len: u64,
    /// Kept until `rm` or `unpin`.
    pub(crate) pinned: bool,
    /// What the one who put it called it; may be empty.
    #[serde(default)]
    pub(crate) name: String,
    /// When it came here, ms since 1970.
    pub(crate) put_at: u64,
    /// When it was last sent, read or handed to a task, ms since 1970; as far as the last start knows.
    pub(crate) used_at: u64,
    /// The file of a task's result: leaves the cache after everything that can be had elsewhere.
    #[serde(default)]
    pub(crate) result: bool,
    /// When the content was last written, by the file system: another time means that somebody wrote into it.
    #[serde(default)]
    modified: u128,
}

impl Entry {
    fn new(len: u64) -> Entry {
        let now = now_ms();
        Entry { len, pinned: false, name: String::new(), put_at: now, used_at: now, result: false, modified: 0 }
    }
}

/// How a blob that comes in is to be kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keep {
    /// Until `rm` or `unpin`.
    pub(crate) pinned: bool,
    /// What to call it; cut to 200 characters.
    pub(crate) name: String,
    /// It is the file of a task's result.
    pub(crate) result: bool,
}

impl Keep {
    /// The same for a blob that is here already: it is kept never less than before.
    fn and(&self, before: &Entry) -> Keep {
        let name = if self.name.is_empty() { before.name.clone() } else { self.name.clone() };
        Keep { pinned: self.pinned || before.pinned, name, result: self.result || before.result }
    }
}

/// The directory of blobs. Cloning is cheap and shares it. All functions block.
#[derive(Clone)]
pub(crate) struct Depot {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    limits: Limits,
    room: Room,
    next_tmp: AtomicU64,
    state: Mutex<State>,
    damaged: AtomicU64,
    changed: Arc<tokio::sync::Notify>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<BlobHash, Entry>,
    /// Inputs of running tasks.
    leases: HashMap<BlobHash, usize>,
}

impl Depot {
    /// Opens or creates the directory and forgets what a crash left half-written; beginnings of transfers stay.
    pub(crate) fn open(dir: &Path, limits: Limits, room: Room) -> io::Result<Depot> {
        remove_tree(&dir.join(TMP))?;
        create_dir_durably(&dir.join(TMP))?;
        create_dir_durably(&dir.join(PART))?;
        let depot = Depot {
            inner: Arc::new(Inner {
                dir: dir.to_path_buf(),
                limits,
                room,
                next_tmp: AtomicU64::new(0),
                state: Mutex::default(),
                damaged: AtomicU64::new(0),
                changed: Arc::default(),
            }),
        };
        let entries = depot.read_all();
        depot.state().entries = entries;
        part::forget_old(&depot.inner.dir.join(PART));
        Ok(depot)
    }

    /// Blobs found damaged since the start.
    pub(crate) fn damaged_count(&self) -> u64 {
        self.inner.damaged.load(Ordering::Relaxed)
    }

    /// Woken when a blob came or went; for one listener.
    pub(crate) fn changed(&self) -> Arc<tokio::sync::Notify> {
        self.inner.changed.clone()
    }

    fn read_all(&self) -> BTreeMap<BlobHash, Entry> {
        let mut all = BTreeMap::new();
        let fans = fs::read_dir(&self.inner.dir).into_iter().flatten().flatten().filter(|f| f.file_name().len() == 2);
        for file in fans.flat_map(|fan| fs::read_dir(fan.path()).into_iter().flatten().flatten()) {
            let path = file.path();
            let fan = path.parent().and_then(Path::file_name).and_then(|f| f.to_str()).unwrap_or_default().to_owned();
            let name = file.file_name().to_str().unwrap_or_default().to_owned();
            let stem = name.split('.').next().unwrap_or_default();
            let Ok(hash) = blake3::Hash::from_hex(format!("{fan}{stem}")) else { continue };
            let hash = BlobHash(*hash.as_bytes());
            if name.contains('.') {
                // What belongs to a content that a crash kept from its name, or took with a removal.
                if !self.path(hash, "").exists() {
                    let _ = fs::remove_file(&path);
                }
                continue;
            }
            let Ok(meta) = file.metadata() else { continue };
            let known = fs::read(self.path(hash, "json")).ok().and_then(|b| serde_json::from_slice::<Entry>(&b).ok());
            let mut entry = known.unwrap_or_else(|| Entry { modified: modified(&meta), ..Entry::new(meta.len()) });
            entry.len = meta.len();
            if all.len() < BLOBS_MAX {
                all.insert(hash, entry);
            }
        }
        all
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change leaves the maps whole.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, hash: BlobHash, ending: &str) -> PathBuf {
        let hex = hash.to_string();
        let (fan, rest) = hex.split_at(2);
        let dot = if ending.is_empty() { "" } else { "." };
        self.inner.dir.join(fan).join(format!("{rest}{dot}{ending}"))
    }

    fn tmp(&self) -> PathBuf {
        self.inner.dir.join(TMP).join(self.inner.next_tmp.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// A fresh directory on the same disk, for files that [`Depot::take`] takes; its owner removes it.
    pub(crate) fn staging(&self) -> PathBuf {
        self.tmp()
    }

    /// Refuses what would touch the reserve, after making room among what nobody has pinned.
    fn make_room(&self, bytes: u64) -> Result<(), DepotError> {
        let left = || (self.inner.room)().map_err(io_error("find room for"));
        let lacks = bytes.saturating_sub(left()?);
        if lacks > 0 {
            self.evict(lacks);
        }
        let left = left()?;
        if bytes > left { Err(DepotError::Full { left }) } else { Ok(()) }
    }

    // ---- writing ----

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
    fn publish(&self, data: &Path, hashes: Option<&Path>, hash: BlobHash, len: u64, keep: &Keep) -> io::Result<Entry> {
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
        fs::rename(data, &place)?;
        if let Some(fan) = place.parent() {
            sync_dir(fan)?;
        }
        self.state().entries.insert(hash, entry.clone());
        self.inner.changed.notify_one();
        Ok(entry)
    }

    fn write_meta(&self, hash: BlobHash, entry: &Entry) -> io::Result<()> {
        let tmp = self.tmp();
        let mut file = File::create(&tmp)?;
        file.write_all(&serde_json::to_vec(entry).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&tmp, self.path(hash, "json"))?;
        self.path(hash, "").parent().map_or(Ok(()), sync_dir)
    }

    // ---- reading ----

    /// What is known of a blob that is here.
    pub(crate) fn entry(&self, hash: BlobHash) -> Option<Entry> {
        self.state().entries.get(&hash).cloned()
    }

    /// All blobs, by hash.
    pub(crate) fn list(&self) -> Vec<(BlobHash, Entry)> {
        self.state().entries.iter().map(|(h, e)| (*h, e.clone())).collect()
    }

    /// The blob that a person means: a hash, or the unique beginning of one that is here. A whole hash need not be here.
    ///
    /// # Errors
    /// [`DepotError::NoHash`], [`DepotError::Unknown`], [`DepotError::Ambiguous`].
    pub(crate) fn resolve(&self, typed: &str) -> Result<BlobHash, DepotError> {
        let low = typed.trim().to_ascii_lowercase();
        if let Ok(whole) = blake3::Hash::from_hex(&low) {
            return Ok(BlobHash(*whole.as_bytes()));
        }
        if !(PREFIX_MIN..64).contains(&low.len()) || !low.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(DepotError::NoHash(typed.chars().take(80).collect()));
        }
        let state = self.state();
        let mut found = state.entries.keys().copied().filter(|h| h.to_string().starts_with(&low));
        match (found.next(), found.next()) {
            (None, _) => Err(DepotError::Unknown(low)),
            (Some(one), None) => Ok(one),
            (Some(one), Some(two)) => {
                let all = [one, two].into_iter().chain(found).take(10).collect();
                Err(DepotError::Ambiguous { prefix: low, all })
            }
        }
    }

    fn used(&self, hash: BlobHash) -> Option<Entry> {
        let mut state = self.state();
        let entry = state.entries.get_mut(&hash)?;
        // Told to the disk at the next change only: being a few days wrong does no harm.
        entry.used_at = now_ms();
        Some(entry.clone())
    }

    /// The content for reading from its beginning, unchecked, and its length; whoever reads it to the end checks it and calls
    /// [`Depot::damaged`].
    ///
    /// # Errors
    /// [`DepotError::Missing`], [`DepotError::Io`].
    pub(crate) fn content(&self, hash: BlobHash) -> Result<(File, u64), DepotError> {
        let entry = self.used(hash).ok_or(DepotError::Missing(hash))?;
        match File::open(self.path(hash, "")) {
            Ok(file) => Ok((file, entry.len)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(self.damaged(hash)),
            Err(e) => Err(io_error("open")(e)),
        }
    }

    /// Writes a part of a blob with its proof; an empty part is the proof of the length. What is damaged here is noticed, and removed.
    ///
    /// # Errors
    /// [`DepotError::Missing`], [`DepotError::Damaged`], [`DepotError::Io`] of disk or `to`.
    pub(crate) fn send(&self, hash: BlobHash, part: &Range<u64>, to: impl Write) -> Result<(), DepotError> {
        let (data, len) = self.content(hash)?;
        let hashes = match tree::hashes_len(len) {
            0 => None,
            _ => match File::open(self.path(hash, "tree")) {
                Ok(file) => Some(file),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(self.damaged(hash)),
                Err(e) => return Err(io_error("open")(e)),
            },
        };
        match tree::send(&data, hashes.as_ref(), hash, len, part, to) {
            Ok(()) => Ok(()),
            Err(SendError::Damaged) => Err(self.damaged(hash)),
            Err(SendError::Io(e)) => Err(io_error("send")(e)),
        }
    }

    /// Removes a blob that was found to be damaged, also a pinned one: what is left of it is of no use to anybody.
    pub(crate) fn damaged(&self, hash: BlobHash) -> DepotError {
        self.inner.damaged.fetch_add(1, Ordering::Relaxed);
        let was = self.forget(hash);
        let name = was.map(|e| e.name).unwrap_or_default();
        tracing::error!(blob = %hash, name, "a blob was damaged on the disk and has been removed; it is fetched again when it is asked for and another node has it");
        DepotError::Damaged(hash)
    }

    /// A path to the content for an input of a task, and the promise that it stays while the lease lives.
    ///
    /// # Errors
    /// [`DepotError::Missing`].
    pub(crate) fn lease(&self, hash: BlobHash) -> Result<Lease, DepotError> {
        let mut state = self.state();
        if !state.entries.contains_key(&hash) {
            return Err(DepotError::Missing(hash));
        }
        *state.leases.entry(hash).or_default() += 1;
        Ok(Lease { depot: self.clone(), hash, path: self.path(hash, "") })
    }

    // ---- keeping ----

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

    fn forget(&self, hash: BlobHash) -> Option<Entry> {
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
    fn evict(&self, bytes: u64) -> usize {
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

/// Keeps a blob here while a task has it as an input.
pub(crate) struct Lease {
    depot: Depot,
    hash: BlobHash,
    path: PathBuf,
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

fn modified(meta: &fs::Metadata) -> u128 {
    meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|d| u64::try_from(d.as_millis()).ok()).unwrap_or(0)
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
    unlock(path);
    Ok(())
}

/// Windows does not remove files that are read-only. Not tried on Windows.
#[cfg(not(unix))]
#[expect(clippy::permissions_set_readonly_false, reason = "the access list of the home decides on Windows")]
fn unlock(path: &Path) {
    if let Ok(meta) = fs::metadata(path) {
        let mut perms = meta.permissions();
        perms.set_readonly(false);
        let _ = fs::set_permissions(path, perms);
    }
}

#[cfg(unix)]
fn unlock(_: &Path) {}
