//! Durable storage: records in a database, payloads in files, promises in a side file.
//!
//! Everything here is bytes; what the keys and values mean is the caller's business.
//! `committer` is the only thread that writes records, `engine` the only file that names sled,
//! `recover` is what happens between a start and the first record (rule D3), `side` the few bytes
//! that outlive the database, `blobs` the payloads, `space` the guard against a full disk.
//!
//! ```text
//! <dir>/side        store id, boot number, the caller's promise         (side.rs)
//! <dir>/sled/       the database                                        (engine.rs)
//! <dir>/sled.new/   a copy being made; only complete once `sled` is gone (recover.rs)
//! <dir>/sled.old/   the database that a finished copy replaced
//! <dir>/sled.damaged-<unix seconds>-<n>/   set aside, at most three
//! <dir>/blobs/      payloads by their BLAKE3                            (blobs.rs)
//! <dir>/ballast     room to be given back when the disk is full         (space.rs)
//! ```

mod blobs;
mod committer;
mod engine;
mod faults;
mod format;
mod fsx;
mod lock;
mod metrics;
mod recover;
mod side;
mod space;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use blobs::{BlobHash, Blobs};
#[cfg(test)]
use committer::QUEUE_BATCHES_MAX;
pub(crate) use committer::{Batch, Completion, OnDone, Refused, StoreBad};
use faults::Faults;
#[cfg(test)]
use format::{KEY_LEN_MAX, VALUE_LEN_MAX};
pub(crate) use fsx::{create_dir_durably, remove_tree, sync_dir};
pub(crate) use lock::{HomeLock, LockError};
pub(crate) use metrics::StoreMetrics;
#[cfg(test)]
use side::SIDE_LEN_MAX;
pub(crate) use space::Space;

/// The key under which the caller keeps its high water mark, in every batch that raises it: the
/// one record that is compared with the side file at the start (rule D3).
pub(crate) const KEY_HW: &[u8] = b"meta/hw";

/// How to open a store.
pub(crate) struct Options {
    /// Bytes of page cache. 64 MiB is plenty: the caller keeps its records in memory anyway.
    pub(crate) cache_bytes: u64,
    /// A database file longer than this, and than twenty times its live records, is rewritten
    /// at the start. Bytes; 256 MB by default.
    pub(crate) rewrite_floor_bytes: u64,
    /// Cap of the ballast in bytes, 64 MiB by default; 0 keeps none.
    pub(crate) ballast_max_bytes: u64,
    /// Starts are counted from here when no side file says how many there were; 0 by default.
    /// Others take a start with a number that they know for an old one, so a node whose key is
    /// older than its store gives a number above all it can have had: the seconds since 1970.
    pub(crate) boot_floor: u64,
    /// Where completions go. Called on the committer's thread; must not block.
    pub(crate) on_done: OnDone,
    /// Figures to keep.
    pub(crate) metrics: StoreMetrics,
    /// Failures on demand; nothing outside tests.
    pub(crate) faults: Faults,
}

impl Options {
    /// The usual settings, with figures that nobody scrapes.
    pub(crate) fn new(on_done: OnDone) -> Options {
        Options {
            cache_bytes: 64 << 20,
            rewrite_floor_bytes: 256_000_000,
            ballast_max_bytes: 64 << 20,
            boot_floor: 0,
            on_done,
            metrics: StoreMetrics::default(),
            faults: Faults::default(),
        }
    }
}

/// An open store and what was found in it.
pub(crate) struct Opened {
    /// The store itself.
    pub(crate) store: Store,
    /// Every intact record as (key, value), in key order unless the database was damaged.
    pub(crate) entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// The newest durable side bytes; `None` if none were ever written or both copies are lost.
    pub(crate) side: Option<Vec<u8>>,
    /// Random; a new one with every new database, so a new one also after a quarantine.
    pub(crate) store_id: u64,
    /// Number of this start of the store, from 1, rising by one.
    pub(crate) boot: u64,
    /// What was found and repaired on the way.
    pub(crate) report: OpenReport,
}

/// What opening did beyond reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenReport {
    /// The store was damaged: it was set aside, `entries` are what could be read of it, and the
    /// store id is new. The first batch should carry a side whose high water mark fits `entries`.
    pub(crate) quarantined: bool,
    /// Where the damaged database went, if there was one.
    pub(crate) moved_to: Option<PathBuf>,
    /// Records or pages known to be unreadable. There may be more: a torn log loses silently.
    pub(crate) unreadable: u64,
    /// The database had outgrown its content and was rewritten.
    pub(crate) rewritten: bool,
    /// Sentences for people, in order.
    pub(crate) notes: Vec<String>,
}

/// Why a store could not be opened. The data on disk is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The operating system refused something.
    #[error("cannot {doing} {path}: {source}; check owner, permissions and free space of the store directory")]
    Io {
        /// What was being done, as a verb.
        doing: &'static str,
        /// To which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is too little free space even to open the store safely.
    #[error(
        "the disk of {path} is full: {} are free and the start needs {}; make room, then start the node again, nothing is lost",
        bytesize::ByteSize(*.free),
        bytesize::ByteSize(*.need)
    )]
    Full {
        /// The store directory.
        path: PathBuf,
        /// Free bytes.
        free: u64,
        /// Free bytes needed.
        need: u64,
    },
    /// A newer program wrote this store.
    #[error(
        "this store was written by a newer clawmesh (data version {found}, this program knows up to {known}); update the program, the data has not been touched"
    )]
    TooNew {
        /// The version found.
        found: u16,
        /// The newest version this program knows.
        known: u16,
    },
    /// Even a new database could not be made.
    #[error("cannot make a database in {path}: {why}; start the node again, and check the disk if that does not help")]
    Engine {
        /// The database directory.
        path: PathBuf,
        /// What the engine said.
        why: String,
    },
}

/// A running store. Give it to several threads in an `Arc`.
pub(crate) struct Store {
    committer: committer::Committer,
    blobs: Blobs,
    space: Arc<space::SpaceGuard>,
}

impl Store {
    /// Opens or creates the store in `dir`, repairing what can be repaired (rule D3). Blocks for
    /// up to seconds (a million records take about 1.5 s). Take the [`HomeLock`] first.
    ///
    /// `hw_check(side, hw)` compares the side bytes with the value of [`KEY_HW`] (`None` if the
    /// key is absent) and says `true` when the database is at least as new as the side file.
    ///
    /// # Errors
    /// [`StoreError`] when the system refuses or the data is of a newer program. Damage is no
    /// error: it is repaired or set aside, and told in [`Opened::report`].
    pub(crate) fn open(dir: &Path, options: Options, hw_check: impl Fn(&[u8], Option<&[u8]>) -> bool) -> Result<Opened, StoreError> {
        let io = |doing| move |source| StoreError::Io { doing, path: dir.to_path_buf(), source };
        fsx::create_dir_durably(dir).map_err(io("create"))?;
        // First of all, because on a full disk the ballast is what the repairs are written in.
        let space = Arc::new(space::SpaceGuard::new(dir, options.ballast_max_bytes, options.faults.clone()));
        let found = recover::recover(dir, &options, &space, &hw_check)?;
        let blobs = Blobs::open(&dir.join("blobs")).map_err(io("open the blobs in"))?;
        let state = found.side.state().clone();
        let committer =
            committer::Committer::start(found.engine, found.side, found.commits, space.clone(), options.metrics, options.on_done)
                .map_err(io("start the thread for"))?;
        Ok(Opened {
            store: Store { committer, blobs, space },
            entries: found.entries,
            side: state.bytes,
            store_id: state.store_id,
            boot: state.boot,
            report: found.report,
        })
    }

    /// Queues a batch; never blocks. It is durable once a completion names its number.
    ///
    /// # Errors
    /// [`Refused`]; nothing of the batch was or will be written then.
    pub(crate) fn commit(&self, batch: Batch) -> Result<(), Refused> {
        self.committer.commit(batch)
    }

    /// The payload files.
    pub(crate) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Looks at the free space, and releases or takes the ballast. Blocks for some microseconds;
    /// ask about once a second.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub(crate) fn space(&self) -> io::Result<Space> {
        self.space.check()
    }

    /// Says how many bytes other parts of the node may write: down to twice the floor, so that they never make the disk low.
    pub(crate) fn room(&self) -> impl Fn() -> io::Result<u64> + Send + Sync + use<> {
        let space = self.space.clone();
        move || space.check().map(|s| s.free.saturating_sub(2 * s.floor))
    }

    /// Commits what is queued and closes everything. Blocks until that is done, as does dropping
    /// the store without it.
    ///
    /// # Errors
    /// [`StoreBad`] when the store had failed before or while it closed.
    pub(crate) fn close(self) -> Result<(), StoreBad> {
        self.committer.stop()
    }
}
