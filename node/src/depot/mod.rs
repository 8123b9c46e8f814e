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

mod draft;
mod error;
mod keep;
mod lease;
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

pub(crate) use self::error::DepotError;
pub(crate) use self::lease::Lease;
pub(crate) use self::part::Part;
pub(crate) use self::tree::{GROUP, ReceiveError, SendError};
use crate::store::{BlobHash, create_dir_durably, remove_tree};

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
}

fn modified(meta: &fs::Metadata) -> u128 {
    meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|d| u64::try_from(d.as_millis()).ok()).unwrap_or(0)
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
