//! The one thread that writes.
//!
//! It takes whatever is queued, merges it into one atomic batch, makes that durable and reports
//! it; it never waits for more (rule D1). Under load the queue fills while a commit runs, and so
//! the groups grow by themselves up to the caps below.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::engine::{Engine, caught};
use super::format::{KEY_LEN_MAX, KEY_SIDE, RESERVED_PREFIX, VALUE_LEN_MAX};
use super::metrics::StoreMetrics;
use super::side::{SIDE_LEN_MAX, SideFile};
use super::space::SpaceGuard;

/// Most batches that wait at a time; the next is refused as [`Refused::Busy`].
pub(crate) const QUEUE_BATCHES_MAX: usize = 4096;
/// Most bytes (keys and values) that wait at a time.
pub(crate) const QUEUE_BYTES_MAX: u64 = 64 << 20;
/// Most bytes of one batch: it is written as one atomic unit.
pub(crate) const BATCH_BYTES_MAX: u64 = 4 << 20;
/// A commit takes no further batches once it has this many ...
const GROUP_BATCHES_MAX: usize = 256;
/// ... or this many bytes, so that the first caller's wait stays in milliseconds.
const GROUP_BYTES_MAX: u64 = 1 << 20;

/// How old the side file's count of commits may become: what a crash may cost the check of the
/// database at the next start.
const WITNESS_AGE_MAX: Duration = Duration::from_secs(1);
/// How old the knowledge of the free space may be. Asking costs a microsecond on unix and
/// milliseconds elsewhere.
const ROOM_AGE_MAX: Duration = if cfg!(unix) { Duration::ZERO } else { WITNESS_AGE_MAX };

/// A set of changes that becomes durable as a whole: after a crash all of it is there or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The caller's number, strictly rising from batch to batch; gaps are fine.
    pub(crate) no: u64,
    /// Keys of 1 to 512 bytes not starting with a zero byte, values up to [`VALUE_LEN_MAX`].
    pub(crate) puts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys to remove, after the puts. Removing an absent key is no error.
    pub(crate) dels: Vec<Vec<u8>>,
    /// New side bytes, at most 1 KiB. `None` leaves them as they are.
    pub(crate) side: Option<Vec<u8>>,
}

impl Batch {
    fn bytes(&self) -> u64 {
        let puts: usize = self.puts.iter().map(|(k, v)| k.len() + v.len()).sum();
        let dels: usize = self.dels.iter().map(Vec::len).sum();
        (puts + dels + self.side.as_ref().map_or(0, Vec::len)) as u64
    }
}

/// What the committer reports, from its own thread, in order.
#[derive(Clone, Debug)]
pub(crate) enum Completion {
    /// Every batch with a number up to `upto` is durable.
    Committed {
        /// The highest number of the group.
        upto: u64,
        /// From taking the first batch of the group to the end of its fsync.
        took: Duration,
        /// Puts and removals of the group.
        records: u64,
    },
    /// Nothing after the last `Committed` may be relied on. Said once; the store is latched.
    Failed {
        /// Why.
        error: StoreBad,
    },
}

/// The store failed for good (rule D4): stop acknowledging, hand over, exit, and start again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store failed and takes no more writes: {why}; {}", if *.full {
    "the disk is full: make room, then start the node again"
} else {
    "look at the disk and the kernel log, then start the node again; it will check its data"
})]
pub(crate) struct StoreBad {
    /// What went wrong, as the system said it.
    pub(crate) why: String,
    /// The disk (or quota) is full, rather than broken.
    pub(crate) full: bool,
}

/// Why a batch was not queued. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The store has failed.
    #[error(transparent)]
    Bad(#[from] StoreBad),
    /// 4096 batches or 64 MiB wait already. The batch comes back: queue it again after the next
    /// completion, before any later one.
    #[error("{QUEUE_BATCHES_MAX} batches or {QUEUE_BYTES_MAX} bytes wait for the disk already")]
    Busy(Batch),
    /// BUG of the caller: a key, value, side or batch above its cap, or a reserved key.
    #[error("BUG: {what} of {len} bytes is outside 1..={max}")]
    Size {
        /// Which part.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The cap in bytes.
        max: usize,
    },
    /// BUG of the caller: the number did not rise.
    #[error("BUG: batch {no} was queued after batch {last}")]
    Order {
        /// The batch's number.
        no: u64,
        /// The last number queued.
        last: u64,
    },
}

/// Called on the committer's thread with every completion; must not block.
pub(crate) type OnDone = Box<dyn FnMut(Completion) + Send>;

/// The handle of the committer's thread.
pub(super) struct Committer {
    queue: Mutex<Option<Queue>>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Queue {
    jobs: SyncSender<Batch>,
    last: Option<u64>,
}

#[derive(Default)]
struct Shared {
    bad: OnceLock<StoreBad>,
    queued_bytes: AtomicU64,
}

impl Committer {
    /// Starts the thread, which owns `engine` and `side` until it ends. `commits` is how many
    /// the database holds.
    pub(super) fn start(
        engine: Engine,
        side: SideFile,
        commits: u64,
        space: Arc<SpaceGuard>,
        metrics: StoreMetrics,
        on_done: OnDone,
    ) -> std::io::Result<Committer> {
        let (jobs, taken) = sync_channel(QUEUE_BATCHES_MAX);
        let shared = Arc::new(Shared::default());
        let worker =
            Worker { engine, side, commits, witnessed: Instant::now(), space, room_seen: None, metrics, on_done, shared: shared.clone() };
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || worker.run(&taken))?;
        Ok(Committer { queue: Mutex::new(Some(Queue { jobs, last: None })), shared, thread: Mutex::new(Some(thread)) })
    }

    /// Queues a batch; never blocks.
    pub(super) fn commit(&self, batch: Batch) -> Result<(), Refused> {
        if let Some(bad) = self.shared.bad.get() {
            return Err(bad.clone().into());
        }
        check_sizes(&batch)?;
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = queue.as_mut() else {
            return Err(self.bad().into());
        };
        if let Some(last) = queue.last.filter(|last| *last >= batch.no) {
            return Err(Refused::Order { no: batch.no, last });
        }
        let (no, bytes) = (batch.no, batch.bytes());
        let waiting = self.shared.queued_bytes.fetch_add(bytes, Ordering::SeqCst);
        let refused = if waiting > 0 && waiting + bytes > QUEUE_BYTES_MAX {
            Refused::Busy(batch)
        } else {
            match queue.jobs.try_send(batch) {
                Ok(()) => {
                    queue.last = Some(no);
                    return Ok(());
                }
                Err(TrySendError::Full(batch)) => Refused::Busy(batch),
                Err(TrySendError::Disconnected(_)) => self.bad().into(),
            }
        };
        self.shared.queued_bytes.fetch_sub(bytes, Ordering::SeqCst);
        Err(refused)
    }

    /// The reason for which the store was latched, if it was.
    pub(super) fn failure(&self) -> Option<StoreBad> {
        self.shared.bad.get().cloned()
    }

    /// Commits what is queued and ends the thread.
    pub(super) fn stop(&self) -> Result<(), StoreBad> {
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            self.shared.bad.get_or_init(|| StoreBad { why: "BUG: the store thread panicked".into(), full: false });
        }
        self.failure().map_or(Ok(()), Err)
    }

    fn bad(&self) -> StoreBad {
        self.failure().unwrap_or_else(|| StoreBad { why: "it was closed".into(), full: false })
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        // Whoever wants to know the outcome calls `close`; here the latch has logged it already.
        let _ = self.stop();
    }
}

/// What one group of batches added up to.
struct Group {
    upto: u64,
    batches: usize,
    bytes: u64,
    records: u64,
    side: Option<Vec<u8>>,
}

struct Worker {
    engine: Engine,
    side: SideFile,
    /// Commits that the database holds durably.
    commits: u64,
    /// When the side file last learnt that number.
    witnessed: Instant,
    space: Arc<SpaceGuard>,
    /// When the free space was last found sufficient.
    room_seen: Option<Instant>,
    metrics: StoreMetrics,
    on_done: OnDone,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(mut self, jobs: &Receiver<Batch>) {
        let error = match caught(|| self.commit_all(jobs)) {
            Ok(Ok(())) => return,
            Ok(Err(e)) => StoreBad { full: is_full(&e), why: e.to_string() },
            Err(panic) => StoreBad { why: panic, full: false },
        };
        tracing::error!("{error}");
        self.metrics.bad.set(1);
        let error = self.shared.bad.get_or_init(|| error).clone();
        (self.on_done)(Completion::Failed { error });
        // sled syncs once more when it is dropped, and panics if that fails as well.
        let _ = caught(|| drop(self));
    }

    /// Until the queue is closed and empty, or something fails.
    fn commit_all(&mut self, jobs: &Receiver<Batch>) -> std::io::Result<()> {
        loop {
            let first = if self.commits == self.side.state().commits {
                jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                jobs.recv_timeout(WITNESS_AGE_MAX.saturating_sub(self.witnessed.elapsed()))
            };
            match first {
                Ok(first) => {
                    let started = Instant::now();
                    let (upto, records) = self.commit_group(first, jobs)?;
                    let took = started.elapsed();
                    (self.on_done)(Completion::Committed { upto, took, records });
                    if self.witnessed.elapsed() >= WITNESS_AGE_MAX {
                        self.witness(None)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.witness(None)?,
                Err(RecvTimeoutError::Disconnected) => return self.witness(None),
            }
        }
    }

    /// Tells the side file how many commits the database holds, and the new side bytes if any.
    /// This is what later tells a database that lost its end from a whole one, since sled does
    /// not: it opens a torn log without a word.
    fn witness(&mut self, side: Option<Vec<u8>>) -> std::io::Result<()> {
        let commits = self.commits;
        if side.is_some() || commits != self.side.state().commits {
            self.side.change(|s| {
                s.commits = commits;
                if side.is_some() {
                    s.bytes = side;
                    s.hw_waived = false;
                }
            })?;
            self.metrics.side_writes.inc();
        }
        self.witnessed = Instant::now();
        Ok(())
    }

    fn commit_group(&mut self, first: Batch, jobs: &Receiver<Batch>) -> std::io::Result<(u64, u64)> {
        let mut group = Group { upto: first.no, batches: 0, bytes: 0, records: 0, side: None };
        self.add(&mut group, first);
        while group.batches < GROUP_BATCHES_MAX && group.bytes < GROUP_BYTES_MAX {
            match jobs.try_recv() {
                Ok(next) => self.add(&mut group, next),
                Err(_) => break,
            }
        }
        self.write(group)
    }

    fn add(&mut self, group: &mut Group, batch: Batch) {
        let bytes = batch.bytes();
        group.upto = batch.no;
        group.batches += 1;
        group.bytes += bytes;
        group.records += (batch.puts.len() + batch.dels.len()) as u64;
        for (key, value) in &batch.puts {
            self.engine.put(key, value);
        }
        for key in &batch.dels {
            self.engine.del(key);
        }
        if batch.side.is_some() {
            group.side = batch.side;
        }
        self.shared.queued_bytes.fetch_sub(bytes, Ordering::SeqCst);
    }

    /// Asked before each commit, so that the database itself never meets the end of the disk.
    fn check_room(&mut self, bytes: u64) -> std::io::Result<()> {
        if self.room_seen.is_some_and(|seen| seen.elapsed() < ROOM_AGE_MAX) {
            return Ok(());
        }
        if self.space.check()?.usable() < bytes {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.room_seen = Some(Instant::now());
        Ok(())
    }

    /// Writes a group: the database first, then the side file.
    ///
    /// The side bytes also go into the database, in the same atomic batch. So whatever a crash
    /// leaves, the newer of the two copies fits the records: never a record without the promise
    /// queued before it, never a high water mark above the records. A group without records
    /// skips the database.
    fn write(&mut self, group: Group) -> std::io::Result<(u64, u64)> {
        let mut records = 0;
        if group.records > 0 {
            self.check_room(group.bytes)?;
            if let Some(side) = &group.side {
                let counter = self.side.state().counter.saturating_add(1);
                let copy = [&counter.to_le_bytes(), side.as_slice()].concat();
                self.engine.put(KEY_SIDE, &copy);
            }
            let commits = self.commits.saturating_add(1);
            let fsync = self.engine.commit(self.side.state().store_id, commits)?;
            self.commits = commits;
            records = group.records;
            self.metrics.committed(group.batches, records, fsync);
        }
        if group.side.is_some() {
            self.witness(group.side)?;
        }
        Ok((group.upto, records))
    }
}

fn is_full(e: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(e.kind(), StorageFull | QuotaExceeded) || e.to_string().contains("os error 28")
}

fn check_sizes(batch: &Batch) -> Result<(), Refused> {
    let within = |what, len, max| {
        if (1..=max).contains(&len) { Ok(()) } else { Err(Refused::Size { what, len, max }) }
    };
    let keys = batch.puts.iter().map(|(k, _)| k).chain(&batch.dels);
    for key in keys {
        within("a key", key.len(), KEY_LEN_MAX)?;
        if key.first() == Some(&RESERVED_PREFIX) {
            return Err(Refused::Size { what: "a key with a zero byte in front", len: key.len(), max: 0 });
        }
    }
    for (_, value) in &batch.puts {
        within("a value", value.len().max(1), VALUE_LEN_MAX)?;
    }
    if let Some(side) = &batch.side {
        within("the side", side.len().max(1), SIDE_LEN_MAX)?;
    }
    let bytes = batch.bytes();
    if bytes > BATCH_BYTES_MAX {
        return Err(Refused::Size { what: "a batch", len: bytes as usize, max: BATCH_BYTES_MAX as usize });
    }
    Ok(())
}
