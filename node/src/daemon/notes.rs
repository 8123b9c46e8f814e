//! Notes between nodes: each says in its advert what stands in its own, and whoever reads something else there asks for the difference.
//!
//! In a quiet mesh nobody asks anybody. A note that is new somewhere changes what that node says; the others fetch it there and say
//! the same then, so that a node which was away gets it from any of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use clawmesh_protocol::{
    ids::Peer,
    io::{Input, Source},
};
use futures::{StreamExt as _, future::BoxFuture, stream};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use super::{
    bulk::{self, Ask},
    figures::NoteFigures,
    transfer::Fetcher,
};
use crate::{
    api::{Memory, SyncView},
    memory::{Head, MemoryError, Note, Notebook},
    net::Net,
};

/// Nodes asked at the same time.
const ASKED_AT_ONCE: usize = 4;
/// Answers with notes of one author that are fetched in a row: all that a book holds, and some.
const ANSWERS_MAX: usize = 16;
/// Authors taken from one node's list; a node keeps no more.
const HEADS_MAX: usize = 256;
/// Members whose word is kept.
const HEARD_MAX: usize = 4_096;
/// Longest wait for one answer.
const ANSWER_WAIT: Duration = Duration::from_secs(15);
/// How long a `sync` waits for all.
const SYNC_WAIT: Duration = Duration::from_secs(45);

/// Pause after a round that has changed something.
const ROUND: Duration = Duration::from_millis(100);

fn again() -> ExponentialBackoff {
    let b = ExponentialBuilder::new().with_min_delay(Duration::from_secs(1)).with_max_delay(Duration::from_secs(60)).without_max_times();
    b.with_jitter().build()
}

/// What a member has said of its notes, and what came of asking.
struct Heard {
    /// What stands in them; 0 = it shares none.
    says: u64,
    /// What stood in theirs and in ours when it was last asked with success: nothing new comes of asking again.
    done: Option<(u64, u64)>,
    /// After a failure.
    wait: Option<(ExponentialBackoff, Instant)>,
}

/// This node's part in the memory of the mesh. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(crate) struct Notes {
    inner: Arc<Inner>,
}

struct Inner {
    me: Peer,
    book: Option<Notebook>,
    net: Arc<Net>,
    fetcher: Fetcher,
    figures: NoteFigures,
    heard: Mutex<HashMap<Peer, Heard>>,
    news: Notify,
}

impl Notes {
    /// `book`: none when this node shares no notes.
    pub(crate) fn new(me: Peer, book: Option<Notebook>, net: Arc<Net>, fetcher: Fetcher, figures: NoteFigures) -> Self {
        Self { inner: Arc::new(Inner { me, book, net, fetcher, figures, heard: Mutex::default(), news: Notify::new() }) }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Peer, Heard>> {
        self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member has said what stands in its notes.
    pub(crate) fn heard(&self, peer: Peer, says: u64) {
        if self.inner.book.is_none() || peer == self.inner.me {
            return;
        }
        let mut table = self.table();
        if says == 0 {
            table.remove(&peer);
        } else if table.len() < HEARD_MAX || table.contains_key(&peer) {
            table.entry(peer).or_insert(Heard { says, done: None, wait: None }).says = says;
            self.inner.news.notify_one();
        }
    }

    /// Keeps the notes and the pages as they should be, as long as it is polled.
    pub(crate) async fn watch(self, inputs: mpsc::Sender<Input>) {
        let Some(book) = self.inner.book.clone() else { return };
        let mut first = true;
        loop {
            self.render(&book, first).await;
            first = false;
            let mine = self.digest(&book).await;
            if inputs.send(Input::Notes(mine)).await.is_err() {
                return;
            }
            // Whoever writes without end costs a bounded number of rounds.
            tokio::time::sleep(ROUND).await;
            loop {
                let due = self.due(mine);
                if !due.is_empty() {
                    let fresh: usize = self.pull_all(&book, due).await.into_iter().flatten().sum();
                    if fresh > 0 {
                        break;
                    }
                }
                let next = self.next_try(mine);
                tokio::select! {
                    () = self.inner.news.notified() => {
                        if self.digest(&book).await != mine {
                            break;
                        }
                    }
                    () = tokio::time::sleep_until(next) => {}
                }
            }
        }
    }

    /// Whom to ask now: who says something else than stands here.
    fn due(&self, mine: u64) -> Vec<Peer> {
        let now = Instant::now();
        let wanted = |h: &Heard| h.says != mine && h.done != Some((h.says, mine)) && h.wait.as_ref().is_none_or(|(_, at)| *at <= now);
        self.table().iter().filter(|(_, h)| wanted(h)).map(|(p, _)| *p).collect()
    }

    /// When somebody may be asked again; in an hour when nobody has to be.
    fn next_try(&self, mine: u64) -> Instant {
        let table = self.table();
        let waits = table.values().filter(|h| h.says != mine && h.done != Some((h.says, mine))).filter_map(|h| h.wait.as_ref());
        waits.map(|(_, at)| *at).min().unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600))
    }

    async fn digest(&self, book: &Notebook) -> u64 {
        let book = book.clone();
        let looked = tokio::task::spawn_blocking(move || (book.digest(), book.size()));
        let (digest, (notes, bytes)) = looked.await.unwrap_or((1, (0, 0)));
        self.inner.figures.held(notes, bytes);
        digest
    }

    async fn render(&self, book: &Notebook, all: bool) -> SyncView {
        let book = book.clone();
        let mut view = SyncView::default();
        match tokio::task::spawn_blocking(move || book.render(all)).await {
            Ok(Ok(written)) => {
                for left in &written.left {
                    tracing::warn!("a page of notes could not be written: {left}");
                }
                (view.files, view.left) = (written.files, written.left);
            }
            Ok(Err(e)) => view.left.push(e.to_string()),
            Err(e) => view.left.push(e.to_string()),
        }
        view
    }

    /// How many new notes came from each, or none where it failed.
    async fn pull_all(&self, book: &Notebook, peers: Vec<Peer>) -> Vec<Option<usize>> {
        stream::iter(peers).map(|p| self.pull_from(book, p)).buffer_unordered(ASKED_AT_ONCE).collect().await
    }

    async fn pull_from(&self, book: &Notebook, peer: Peer) -> Option<usize> {
        let said = self.table().get(&peer).map(|h| h.says);
        let pulled = self.pull(book, peer).await;
        let mine = self.digest(book).await;
        let mut table = self.table();
        let known = table.get_mut(&peer);
        match pulled {
            Ok(fresh) => {
                if let (Some(h), Some(said)) = (known, said) {
                    (h.done, h.wait) = (Some((said, mine)), None);
                }
                Some(fresh)
            }
            Err(why) => {
                tracing::debug!(%peer, why, "a node did not tell its notes");
                if let Some(h) = known {
                    let mut steps = h.wait.take().map_or_else(again, |(steps, _)| steps);
                    let pause = steps.next().unwrap_or(Duration::from_secs(60));
                    h.wait = Some((steps, Instant::now() + pause));
                }
                None
            }
        }
    }

    /// Fetches from one node what it has and this one does not.
    async fn pull(&self, book: &Notebook, peer: Peer) -> Result<usize, String> {
        let source = self.inner.fetcher.way(peer).await;
        let mut theirs: Vec<Head> = self.ask(source, Ask::Heads).await?;
        theirs.truncate(HEADS_MAX);
        let mut fresh = 0;
        for head in theirs {
            // First what is newer than ours; if that was not all, something older is missing, and everything is looked at.
            for from_start in [false, true] {
                let Some(mut after) = self.missing(book, head, from_start).await else { break };
                for _ in 0..ANSWERS_MAX {
                    let notes: Vec<Note> = self.ask(source, Ask::Notes { author: head.author, after }).await?;
                    let Some(last) = notes.last().map(|n| n.id) else { break };
                    if last <= after || notes.iter().any(|n| n.author != head.author) {
                        return Err("its notes are in no order".to_owned());
                    }
                    after = last;
                    let keeper = book.clone();
                    let taken = tokio::task::spawn_blocking(move || keeper.take(&notes)).await.map_err(|e| e.to_string())?;
                    let taken = taken.map_err(|e: MemoryError| e.to_string())?;
                    self.inner.figures.taken(&taken);
                    if !taken.refused.is_empty() {
                        tracing::warn!(%peer, refused = ?taken.refused, "a node sent notes that are none");
                    }
                    fresh += taken.fresh;
                }
            }
        }
        Ok(fresh)
    }

    /// From which number on another node's notes of an author are wanted; none when they are the same as here.
    async fn missing(&self, book: &Notebook, head: Head, from_start: bool) -> Option<u64> {
        let keeper = book.clone();
        let mine = tokio::task::spawn_blocking(move || keeper.head(head.author)).await.unwrap_or_default();
        match mine {
            Some(m) if m.digest == head.digest => None,
            Some(m) if !from_start => Some(m.last),
            _ => Some(0),
        }
    }

    async fn ask<T: DeserializeOwned>(&self, source: Source, ask: Ask) -> Result<T, String> {
        let asked = bulk::ask_cbor(&self.inner.net, source, ask, bulk::NOTES_BYTES_MAX);
        tokio::time::timeout(ANSWER_WAIT, asked).await.map_err(|_| "it takes too long".to_owned())?
    }
}

impl Memory for Notes {
    fn book(&self) -> Option<Notebook> {
        self.inner.book.clone()
    }

    fn changed(&self) {
        self.inner.news.notify_one();
    }

    fn sync(&self) -> BoxFuture<'_, SyncView> {
        Box::pin(async move {
            let Some(book) = self.inner.book.clone() else { return SyncView::default() };
            let peers: Vec<Peer> = self.table().keys().copied().collect();
            let asked = peers.len();
            let got = tokio::time::timeout(SYNC_WAIT, self.pull_all(&book, peers)).await.unwrap_or_default();
            let mut view = self.render(&book, true).await;
            (view.asked, view.answered) = (asked, got.iter().flatten().count());
            view.received = got.into_iter().flatten().sum();
            self.inner.news.notify_one();
            view
        })
    }
}
