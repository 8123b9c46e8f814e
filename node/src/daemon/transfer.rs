//! Fetches blobs from other nodes: from whoever has them, checked as they come, from where it broke off.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io::{self, Read},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ConstantBuilder};
use clawmesh_protocol::{
    face::{Command, Reply},
    ids::{Hash, Peer},
    io::Source,
};
use futures::{StreamExt as _, stream};
use tokio::{
    io::AsyncReadExt as _,
    sync::{Semaphore, mpsc, oneshot, watch},
};
use tokio_util::{io::SyncIoBridge, sync::CancellationToken};

use super::{
    bulk::{self, Ask},
    driver::Call,
    figures::BlobFigures,
};
use crate::{
    depot::{Depot, Entry, GROUP, Keep, Part, ReceiveError},
    net::Net,
    store::BlobHash,
};

/// Blobs fetched at the same time; others wait their turn.
const FETCHES_MAX: usize = 4;
/// Fetches that run or wait; above it, `busy`.
const WAITING_MAX: usize = 256;
/// Asked for at a time: bounds what a kill, or a node in between, can cost.
pub(super) const SEGMENT: u64 = 16 << 20;
/// A holder must bring a group of 64 KiB within this time, however steadily it trickles.
const GROUP_TIME: Duration = Duration::from_secs(30);
/// Rounds without any progress after which a blob counts as being nowhere, and the pause between them.
const ROUNDS: ConstantBuilder = ConstantBuilder::new().with_delay(Duration::from_secs(1)).with_max_times(3);
/// Peers remembered for having sent something else than what was asked for.
const LIARS_MAX: usize = 4_096;
/// Nodes asked at a time when only the length is wanted.
const ASKED_AT_ONCE: usize = 8;

/// The key of a blob in the index.
pub(crate) fn blob_key(hash: BlobHash) -> Vec<u8> {
    format!("blob/{hash}").into_bytes()
}

/// How far a fetch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It waits for its turn, or for somebody who has it.
    Looking,
    /// Bytes that are here and right, and bytes in all.
    Running {
        /// Here.
        done: u64,
        /// In all.
        len: u64,
    },
    /// It is here, whole.
    Done(Entry),
    /// A sentence.
    Failed(String),
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(crate) struct Fetcher {
    inner: Arc<Inner>,
}

struct Inner {
    me: Peer,
    net: Arc<Net>,
    depot: Depot,
    calls: mpsc::Sender<Call>,
    figures: BlobFigures,
    stop: CancellationToken,
    slots: Semaphore,
    under_way: Mutex<HashMap<BlobHash, watch::Receiver<Progress>>>,
    liars: Mutex<VecDeque<(BlobHash, Peer)>>,
}

/// Why one holder did not do.
enum Trouble {
    /// The next holder may.
    There(String),
    /// No holder will: it is this node's disk, or a limit.
    Here(String),
}

impl Fetcher {
    /// `stop` ends all fetches; what they have brought is kept.
    pub(crate) fn new(
        me: Peer,
        net: Arc<Net>,
        depot: Depot,
        calls: mpsc::Sender<Call>,
        figures: BlobFigures,
        stop: CancellationToken,
    ) -> Self {
        let inner = Inner {
            me,
            net,
            depot,
            calls,
            figures,
            stop,
            slots: Semaphore::new(FETCHES_MAX),
            under_way: Mutex::default(),
            liars: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// How to reach a member: directly, or through the one that the core reaches it through (E11).
    pub(crate) async fn way(&self, peer: Peer) -> Source {
        if self.inner.net.lanes().contains(&peer.0) {
            return Source { peer, via: None };
        }
        let (reply, answer) = oneshot::channel();
        let asked = self.inner.calls.send(Call { cmd: Command::Status, reply }).await;
        let via = match asked.is_ok().then_some(answer) {
            Some(answer) => match answer.await {
                Ok(Reply::Status(s)) => s.members.iter().find(|m| m.node == peer).and_then(|m| m.via),
                _ => None,
            },
            None => None,
        };
        Source { peer, via }
    }

    /// Who says in the index that it has the blob: a hint. At most two seconds.
    pub(crate) async fn providers(&self, hash: BlobHash) -> Vec<Peer> {
        self.inner.net.find_providers(blob_key(hash)).await.into_iter().map(Peer).collect()
    }

    /// Sees to it that the blob is here, and kept so. The fetch goes on while somebody holds the receiver; what was fetched when
    /// nobody does any more is kept for the next one.
    pub(crate) fn start(&self, hash: BlobHash, keep: Keep, hints: Vec<Peer>) -> watch::Receiver<Progress> {
        if let Some(entry) = self.inner.depot.entry(hash) {
            return watch::Sender::new(Progress::Done(entry)).subscribe();
        }
        let mut under_way = self.inner.under_way();
        if let Some(rx) = under_way.get(&hash).filter(|rx| rx.has_changed().is_ok()) {
            return rx.clone();
        }
        if under_way.len() >= WAITING_MAX {
            return watch::Sender::new(Progress::Failed("too many blobs are being fetched here: try again in a moment".into())).subscribe();
        }
        let (tx, rx) = watch::channel(Progress::Looking);
        under_way.insert(hash, rx.clone());
        let me = self.clone();
        tokio::spawn(async move {
            let (end, listed) = tokio::select! {
                end = me.run(hash, &keep, &hints, &tx) => (end, true),
                () = me.inner.stop.cancelled() => (Err("this node stops".into()), true),
                () = me.alone(hash, &tx) => (Err("nobody waited for it any more".into()), false),
            };
            let failed = end.is_err();
            tx.send_replace(end.map_or_else(Progress::Failed, Progress::Done));
            me.inner.figures.ended(failed);
            if listed {
                me.inner.under_way().remove(&hash);
            }
        });
        rx
    }

    /// The same, to its end.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) async fn get(&self, hash: BlobHash, keep: Keep, hints: Vec<Peer>) -> Result<Entry, String> {
        let mut rx = self.start(hash, keep, hints);
        let end = rx.wait_for(|p| matches!(p, Progress::Done(_) | Progress::Failed(_))).await;
        match end.as_deref() {
            Ok(Progress::Done(entry)) => Ok(entry.clone()),
            Ok(Progress::Failed(why)) => Err(why.clone()),
            _ => Err("this node stops".into()),
        }
    }

    /// How long a blob is, by the proof of anybody who has it; none when nobody in reach has.
    pub(crate) async fn len_of(&self, hash: BlobHash) -> Option<u64> {
        if let Some(entry) = self.inner.depot.entry(hash) {
            return Some(entry.len);
        }
        let sources = self.sources(hash, &[]).await;
        let proofs = stream::iter(sources).map(|s| async move { self.proven_len(hash, s).await.ok() }).buffer_unordered(ASKED_AT_ONCE);
        std::pin::pin!(proofs.filter_map(std::future::ready)).next().await
    }

    /// Ends, and takes the fetch from the table, once only the table waits for it.
    async fn alone(&self, hash: BlobHash, tx: &watch::Sender<Progress>) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // Under the lock, so that nobody joins what is about to end.
            let mut under_way = self.inner.under_way();
            if tx.receiver_count() <= 1 {
                under_way.remove(&hash);
                return;
            }
        }
    }

    async fn run(&self, hash: BlobHash, keep: &Keep, hints: &[Peer], tx: &watch::Sender<Progress>) -> Result<Entry, String> {
        let _turn = self.inner.slots.acquire().await.map_err(|e| e.to_string())?;
        let mut part = None;
        let mut pauses = ROUNDS.build();
        let mut why = String::new();
        loop {
            let before = part.as_ref().map_or(0, Part::done);
            let some =
                stream::iter(hints).filter(|p| std::future::ready(**p != self.inner.me)).then(|p| self.way(*p)).collect::<Vec<_>>().await;
            for all in [false, true] {
                let sources = if all { self.sources(hash, hints).await } else { some.clone() };
                for source in sources {
                    match self.try_holder(hash, source, &mut part, tx).await {
                        Ok(()) => return self.finish(part, keep).await,
                        Err(Trouble::Here(why)) => return Err(why),
                        Err(Trouble::There(said)) => {
                            tracing::debug!(peer = %source.peer, blob = %hash, why = said, "a blob could not be had there");
                            why = said;
                        }
                    }
                }
            }
            if part.as_ref().map_or(0, Part::done) > before {
                pauses = ROUNDS.build();
            }
            let Some(pause) = pauses.next() else { break };
            tokio::time::sleep(pause).await;
        }
        let last = if why.is_empty() { String::new() } else { format!(" (the last one asked: {why})") };
        Err(match part {
            Some(p) => format!("{} of {} bytes are here, and no node that can be reached now has the rest{last}", p.done(), p.len()),
            None => format!("no node that can be reached now has the blob {hash}{last}"),
        })
    }

    async fn finish(&self, part: Option<Part>, keep: &Keep) -> Result<Entry, String> {
        let Some(part) = part else { return Err("BUG: a fetch ended without its content".into()) };
        let keep = keep.clone();
        match tokio::task::spawn_blocking(move || part.finish(&keep)).await {
            Ok(done) => done.map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Everybody who may have it: those the index names first, then whoever is connected, then who is reached through others.
    async fn sources(&self, hash: BlobHash, tried: &[Peer]) -> Vec<Source> {
        let mut seen: BTreeSet<Peer> = tried.iter().copied().chain([self.inner.me]).collect();
        let named = self.providers(hash).await;
        let lanes = self.inner.net.lanes().into_iter().map(Peer);
        let mut sources = Vec::new();
        for peer in named.into_iter().chain(lanes) {
            if seen.insert(peer) {
                sources.push(self.way(peer).await);
            }
        }
        let (reply, answer) = oneshot::channel();
        if self.inner.calls.send(Call { cmd: Command::Status, reply }).await.is_ok()
            && let Ok(Reply::Status(s)) = answer.await
        {
            sources
                .extend(s.members.iter().filter(|m| m.via.is_some() && seen.insert(m.node)).map(|m| Source { peer: m.node, via: m.via }));
        }
        sources
    }

    /// Fetches what is missing from one holder.
    async fn try_holder(
        &self,
        hash: BlobHash,
        source: Source,
        part: &mut Option<Part>,
        tx: &watch::Sender<Progress>,
    ) -> Result<(), Trouble> {
        if self.inner.liars().contains(&(hash, source.peer)) {
            return Err(Trouble::There("it has sent something else before".into()));
        }
        if part.is_none() {
            *part = Some(self.begin(hash, source).await?);
        }
        loop {
            let Some(mine) = part.take() else { return Err(Trouble::Here("BUG: a fetch lost its content".into())) };
            tx.send_replace(Progress::Running { done: mine.done(), len: mine.len() });
            let (back, got) = self.segment(hash, source, mine, tx).await;
            *part = back;
            if got? {
                return Ok(());
            }
        }
    }

    async fn begin(&self, hash: BlobHash, source: Source) -> Result<Part, Trouble> {
        let depot = self.inner.depot.clone();
        let known = tokio::task::spawn_blocking(move || depot.part_len(hash)).await.ok().flatten();
        let len = match known {
            Some(len) => len,
            None => self.proven_len(hash, source).await?,
        };
        let depot = self.inner.depot.clone();
        match tokio::task::spawn_blocking(move || depot.part(hash, len)).await {
            Ok(Ok(part)) => {
                self.inner.figures.resumed.inc_by(part.resumed());
                Ok(part)
            }
            Ok(Err(e)) => Err(Trouble::Here(e.to_string())),
            Err(e) => Err(Trouble::Here(e.to_string())),
        }
    }

    async fn ask(&self, hash: BlobHash, source: Source, from: u64, to: u64) -> Result<(u64, bulk::Answer), Trouble> {
        let there = |e: String| Trouble::There(e);
        let mut r = bulk::ask(&self.inner.net, source, Ask::Slice { hash: Hash(hash.0), from, to }).await.map_err(there)?;
        let len = r.read_u64().await.map_err(|e| {
            self.broke(&e);
            Trouble::There(e.to_string())
        })?;
        Ok((len, r))
    }

    fn broke(&self, e: &io::Error) {
        if e.kind() == io::ErrorKind::TimedOut {
            self.inner.figures.stalls.inc();
        }
    }

    /// The length that a holder can prove.
    async fn proven_len(&self, hash: BlobHash, source: Source) -> Result<u64, Trouble> {
        let (len, r) = self.ask(hash, source, 0, 0).await?;
        let bridge = SyncIoBridge::new(r);
        let checked = tokio::task::spawn_blocking(move || Depot::check_len(hash, len, Patient::new(bridge))).await;
        match checked {
            Ok(Ok(())) => Ok(len),
            Ok(Err(e)) => Err(self.judge(hash, source, e)),
            Err(e) => Err(Trouble::Here(e.to_string())),
        }
    }

    fn judge(&self, hash: BlobHash, source: Source, e: ReceiveError) -> Trouble {
        match e {
            ReceiveError::Lie { .. } => {
                self.inner.figures.lies.inc();
                tracing::warn!(peer = %source.peer, blob = %hash, "{e}; it is not asked for this blob again");
                let mut liars = self.inner.liars();
                if liars.len() >= LIARS_MAX {
                    liars.pop_front();
                }
                liars.push_back((hash, source.peer));
                Trouble::There(e.to_string())
            }
            ReceiveError::Disk(_) => Trouble::Here(e.to_string()),
            ReceiveError::Line(ref io) => {
                self.broke(io);
                Trouble::There(format!("the line broke: {e}"))
            }
        }
    }

    /// Fetches the next segment; true when the blob is whole.
    async fn segment(
        &self,
        hash: BlobHash,
        source: Source,
        mut part: Part,
        tx: &watch::Sender<Progress>,
    ) -> (Option<Part>, Result<bool, Trouble>) {
        let Some(range) = part.next(SEGMENT) else { return (Some(part), Ok(true)) };
        let (len, r) = match self.ask(hash, source, range.start, range.end).await {
            Ok(answer) => answer,
            Err(e) => return (Some(part), Err(e)),
        };
        if len != part.len() {
            return (Some(part), Err(self.judge(hash, source, ReceiveError::Lie { at: 0 })));
        }
        let (bridge, tx) = (SyncIoBridge::new(r), tx.clone());
        let received = self.inner.figures.received.clone();
        let run = tokio::task::spawn_blocking(move || {
            let mut before = part.done();
            let mut patient = Patient::new(bridge);
            let clock = patient.clock.clone();
            let got = part.receive(&range, &mut patient, |done| {
                received.inc_by(done - before);
                before = done;
                *clock.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                tx.send_replace(Progress::Running { done, len });
            });
            (part, got)
        });
        match run.await {
            Ok((part, Ok(()))) => {
                let whole = part.next(SEGMENT).is_none();
                (Some(part), Ok(whole))
            }
            Ok((part, Err(e))) => (Some(part), Err(self.judge(hash, source, e))),
            Err(e) => (None, Err(Trouble::Here(e.to_string()))),
        }
    }
}

impl Inner {
    fn under_way(&self) -> MutexGuard<'_, HashMap<BlobHash, watch::Receiver<Progress>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn liars(&self) -> MutexGuard<'_, VecDeque<(BlobHash, Peer)>> {
        self.liars.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader that fails when no whole group came for [`GROUP_TIME`], and never hands out more than a group at once.
struct Patient<R> {
    inner: R,
    clock: Arc<Mutex<Instant>>,
}

impl<R> Patient<R> {
    fn new(inner: R) -> Self {
        Self { inner, clock: Arc::new(Mutex::new(Instant::now())) }
    }
}

impl<R: Read> Read for Patient<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let since = *self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if since.elapsed() > GROUP_TIME {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let most = buf.len().min(usize::try_from(GROUP).unwrap_or(usize::MAX));
        self.inner.read(buf.get_mut(..most).unwrap_or_default())
    }
}
