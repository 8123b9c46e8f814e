//! sled behind one small struct. No other file of the project names sled.
//!
//! What this wraps away: sled's `flush` does not sync on Linux (only `sync_file_range`), its
//! background flusher only logs a failed fsync, and its open panics on some damage. So every
//! commit here is `apply_batch`, `flush` and then `sync_all` on a handle of our own, which was
//! opened at the start and therefore also sees an error that another handle's fsync met first.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Faults;
use super::format::{self, Content, Decoded, KEY_STORE, Mark, Print};
use super::fsx;

/// Name of the file in the database directory that holds everything.
pub(super) const DATA_FILE: &str = "db";

/// The background flusher also does sled's garbage collection, so it stays on.
const FLUSH_EVERY_MS: u64 = 200;

/// One open database with one tree, and the batch being put together for it.
pub(super) struct Engine {
    db: sled::Db,
    /// Our own handle of the data file, for the real fsync.
    data: File,
    batch: sled::Batch,
    /// What the open batch does to each key: the new record's print, or none when it goes.
    changes: HashMap<Vec<u8>, Option<Print>>,
    /// What the database holds without the open batch.
    content: Content,
    scratch: Vec<u8>,
    faults: Faults,
}

/// Why an engine could not be opened, or failed while reading.
#[derive(Debug)]
pub(super) enum OpenFailure {
    /// The content is damaged (or sled says so by panicking): open again without its snapshot,
    /// or set it aside.
    Damaged(String),
    /// The operating system refused; the content may be perfectly good and must not be touched.
    Refused(io::Error),
}

/// One record met by [`Engine::scan`].
pub(super) enum Scanned<'a> {
    Intact(&'a [u8], &'a [u8]),
    /// A record with a wrong checksum, or a page that sled itself could not read.
    Damaged,
    TooNew(u8),
}

impl Engine {
    /// Opens or creates the database in `dir`. New names are durable when this returns.
    pub(super) fn open(dir: &Path, cache: u64, faults: Faults) -> Result<Engine, OpenFailure> {
        let opened = quietly(|| sled::Config::new().path(dir).cache_capacity(cache).flush_every_ms(Some(FLUSH_EVERY_MS)).open());
        let db = match opened {
            Ok(Ok(db)) => db,
            Ok(Err(e)) => return Err(classify(e)),
            Err(panic) => return Err(OpenFailure::Damaged(panic)),
        };
        let data = File::open(dir.join(DATA_FILE)).map_err(OpenFailure::Refused)?;
        sync_all(&data, &faults).map_err(OpenFailure::Refused)?;
        fsx::sync_dir(dir).map_err(OpenFailure::Refused)?;
        if let Some(parent) = dir.parent() {
            fsx::sync_dir(parent).map_err(OpenFailure::Refused)?;
        }
        // D2: a value that needs a blob file of sled's own would be neither synced nor removed.
        let blobs = std::fs::read_dir(dir.join("blobs"));
        let stray = blobs.is_ok_and(|mut names| names.next().is_some());
        debug_assert!(!stray, "D2: sled has written a blob file");
        if stray {
            tracing::error!("BUG: sled has written blob files in {}", dir.display());
        }
        Ok(Engine {
            db,
            data,
            batch: sled::Batch::default(),
            changes: HashMap::new(),
            content: Content::default(),
            scratch: Vec::with_capacity(format::ENCODED_LEN_MAX),
            faults,
        })
    }

    /// What the database holds, as counted by [`Engine::scan`] and changed by each commit since.
    pub(super) fn content(&self) -> Content {
        self.content
    }

    /// Says what the database holds, where that is known without a scan.
    pub(super) fn know(&mut self, content: Content) {
        self.content = content;
    }

    /// Adds a write to the open batch. A later one of the same key wins.
    pub(super) fn put(&mut self, key: &[u8], payload: &[u8]) {
        format::encode_into(&mut self.scratch, key, payload);
        debug_assert!(self.scratch.len() <= format::ENCODED_LEN_MAX, "D2");
        self.batch.insert(key, self.scratch.as_slice());
        self.changes.insert(key.to_vec(), Some(Print::of(key, &self.scratch)));
    }

    /// Adds a removal to the open batch.
    pub(super) fn del(&mut self, key: &[u8]) {
        self.batch.remove(key);
        self.changes.insert(key.to_vec(), None);
    }

    /// Makes the open batch durable, all of it or nothing, with a mark that names the store, the number of its commits and
    /// its content. After an error or a panic the engine must not be written to again: a failed fsync cannot be
    /// repeated. Returns the time that the fsync alone took.
    pub(super) fn commit(&mut self, store_id: u64, commits: u64) -> io::Result<Duration> {
        for (key, print) in std::mem::take(&mut self.changes) {
            // The same page that the batch is about to change.
            if let Some(old) = self.db.get(&key).map_err(into_io)? {
                self.content.remove(Print::of(&key, &old));
            }
            if let Some(print) = print {
                self.content.add(print);
            }
        }
        let mark = Mark { store_id, commits, content: Some(self.content) };
        format::encode_into(&mut self.scratch, KEY_STORE, &mark.encode());
        let mut batch = std::mem::take(&mut self.batch);
        batch.insert(KEY_STORE, self.scratch.as_slice());
        self.db.apply_batch(batch).map_err(into_io)?;
        self.db.flush().map_err(into_io)?;
        let started = Instant::now();
        sync_all(&self.data, &self.faults)?;
        Ok(started.elapsed())
    }

    /// Shows every record to `each`, in key order as long as nothing is damaged. Where sled
    /// cannot read on, the rest is read from the other end.
    pub(super) fn scan(&mut self, mut each: impl FnMut(Scanned<'_>)) -> Result<(), OpenFailure> {
        let mut content = Content::default();
        let mut see = |key: &[u8], stored: &[u8], each: &mut _| {
            if key != KEY_STORE {
                content.add(Print::of(key, stored));
            }
            show(key, stored, each);
        };
        let done = quietly(|| {
            let mut last: Option<sled::IVec> = None;
            for item in self.db.iter() {
                match item {
                    Ok((key, stored)) => {
                        see(&key, &stored, &mut each);
                        last = Some(key);
                    }
                    Err(_) => {
                        each(Scanned::Damaged);
                        self.scan_back(last.as_deref(), |key, stored| see(key, stored, &mut each));
                        return;
                    }
                }
            }
        });
        self.content = content;
        done.map_err(OpenFailure::Damaged)
    }

    fn scan_back(&self, down_to: Option<&[u8]>, mut see: impl FnMut(&[u8], &[u8])) {
        for item in self.db.iter().rev() {
            match item {
                Ok((key, _)) if down_to.is_some_and(|d| key.as_ref() <= d) => return,
                Ok((key, stored)) => see(&key, &stored),
                // The same gap from its other side, or a second one: what lies between is lost.
                Err(_) => return,
            }
        }
    }
}

fn show(key: &[u8], stored: &[u8], each: &mut impl FnMut(Scanned<'_>)) {
    each(match format::decode(key, stored) {
        Decoded::Intact(payload) => Scanned::Intact(key, payload),
        Decoded::Damaged => Scanned::Damaged,
        Decoded::TooNew(schema) => Scanned::TooNew(schema),
    });
}

/// The true fsync (rule D1).
///
/// Unix: `sync_all` on our handle (`F_FULLFSYNC` on macOS, by the standard library). Elsewhere
/// `flush` of sled is already a `sync_all` of its own handle, and a handle opened for reading
/// cannot be synced on Windows; not tried against a power cut there.
fn sync_all(data: &File, faults: &Faults) -> io::Result<()> {
    faults.before_sync()?;
    if cfg!(unix) { data.sync_all() } else { Ok(()) }
}

fn into_io(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(e) => e,
        other => io::Error::other(other),
    }
}

/// Damage or refusal? A wrong "damage" sets a good database aside and costs the node its store
/// id; a wrong "refusal" keeps a node with a broken database from ever starting again.
fn classify(error: sled::Error) -> OpenFailure {
    let sled::Error::Io(e) = error else {
        return OpenFailure::Damaged(error.to_string());
    };
    let damaged = match e.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => true,
        // sled wraps a held file lock and its own checks of the content alike in `Other`.
        io::ErrorKind::Other => !is_locked(&e),
        _ => is_bad_disk(&e),
    };
    if damaged { OpenFailure::Damaged(e.to_string()) } else { OpenFailure::Refused(e) }
}

/// Another opening, of this process or another one, has the database.
pub(super) fn is_locked(e: &io::Error) -> bool {
    e.to_string().contains("could not acquire lock")
}

/// A sector or the file system's own structure cannot be read: no later try will do better.
fn is_bad_disk(e: &io::Error) -> bool {
    #[cfg(unix)]
    {
        e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
    }
    #[cfg(not(unix))]
    {
        let _ = e;
        false
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}
/// How many [`quietly`] calls are under way: sled reads its log on threads of its own, and their
/// panics are part of ours.
static QUIET_CALLS: AtomicUsize = AtomicUsize::new(0);
static HOOK: Once = Once::new();

/// Like [`caught`], and the panics of sled's own threads are not printed either while `f` runs.
fn quietly<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    QUIET_CALLS.fetch_add(1, Ordering::SeqCst);
    let result = caught(f);
    QUIET_CALLS.fetch_sub(1, Ordering::SeqCst);
    result
}

/// Runs `f`; a panic in it becomes its message, and nothing is printed. Panics elsewhere are
/// printed as ever.
pub(super) fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let in_sled = || info.location().is_some_and(|l| l.file().contains("sled"));
            if QUIET.get() {
                SAID.set(Some(info.to_string()));
            } else if QUIET_CALLS.load(Ordering::SeqCst) == 0 || !in_sled() {
                before(info);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    QUIET.set(outer);
    result.map_err(|payload| SAID.take().unwrap_or_else(|| panic_text(payload.as_ref())))
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("panic without a message").to_owned()
}
