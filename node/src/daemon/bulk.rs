//! Blobs and live output between nodes, on bulk streams.

use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::body::Bytes;
use clawmesh_protocol::{
    ids::{Hash, Peer, ShortId},
    io::Source,
};
use futures::{StreamExt as _, stream::BoxStream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::io::ReaderStream;

use super::{figures::BlobFigures, sharing::Shared};
use crate::{
    depot::{Depot, DepotError, GROUP},
    exec::{Executor, JobKey, Piece, Stream},
    memory::{MemoryError, Notebook},
    net::{BulkReader, BulkRequest, Net},
    share::Offers,
    store::{BlobHash, Store},
};

/// A transfer that makes no progress for so long is given up.
const STALL: Duration = Duration::from_secs(10);

/// What a node may ask for on a bulk stream.  The answer begins with a byte: 0 and the content, or 1
/// and a sentence.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// A blob by its name.
    Blob(Hash),
    /// An attempt's output so far; with `follow`, until it ends.
    Logs { id: ShortId, attempt: u32, follow: bool },
    /// A part of a shared blob with its proof, from one byte up to another, both at whole groups or at the end: eight bytes with the
    /// length of the blob (big-endian), then what `depot` sends. From 0 to 0: the proof of the length.
    Slice { hash: Hash, from: u64, to: u64 },
    /// The skills that the node has published, of this name or all: CBOR.
    Offers(Option<String>),
    /// What the node says of the notes that it keeps, by author: CBOR.
    Heads,
    /// Notes of one author after this number, oldest first, as many as one answer holds: CBOR.
    Notes { author: Peer, after: u64 },
    /// The same of a node that the asker cannot reach and the asked one can (E11): one hop, so never another of these inside.
    Through { peer: Peer, ask: Box<Self> },
}

const OK: u8 = 0;
const NO: u8 = 1;
/// Longest sentence of a refusal, bytes.
const SENTENCE_MAX: u64 = 1_024;
/// Parts of shared blobs sent at the same time; who asks for one more is told to ask elsewhere.
const SENDING_MAX: usize = 8;
/// Longest part that is sent for one question, bytes.
const SLICE_MAX: u64 = 64 << 20;
/// Longest list of published skills, bytes.
pub(super) const OFFERS_BYTES_MAX: u64 = 1 << 20;
/// Answers handed on for others at the same time.
const PASSING_MAX: usize = 8;
/// Longest answer about notes, bytes: a mebibyte of them, and what CBOR adds.
pub(super) const NOTES_BYTES_MAX: u64 = 2 << 20;
/// Longest answer handed on, bytes; as long as the longest output that is read at all.
const PASSED_MAX: u64 = 160 << 20;

/// Where questions of other nodes are answered.
#[derive(Clone)]
pub(crate) struct Desk {
    net: Arc<Net>,
    store: Arc<Store>,
    exec: Executor,
    depot: Depot,
    offers: Offers,
    notes: Option<Notebook>,
    figures: BlobFigures,
    passing: Arc<Semaphore>,
    sending: Arc<Semaphore>,
    pace: Arc<Pace>,
}

impl Desk {
    /// `rate`: how fast shared blobs leave, bytes per second; 0 = as fast as they can.
    pub(crate) fn new(store: Arc<Store>, exec: Executor, shared: &Shared, notes: Option<Notebook>, rate: u64) -> Self {
        let places = |n| Arc::new(Semaphore::new(n));
        let pace = Arc::new(Pace { rate, free: Mutex::new(Instant::now()) });
        let Shared { net, depot, offers, figures, .. } = shared.clone();
        Self { net, store, exec, depot, offers, notes, figures, passing: places(PASSING_MAX), sending: places(SENDING_MAX), pace }
    }

    /// Answers one question of another node.
    pub(crate) async fn serve(self, mut r: BulkRequest) {
        let w = &mut r.responder;
        let done = match ciborium::from_reader::<Ask, _>(r.request.as_ref()) {
            Ok(Ask::Blob(hash)) => send_blob(w, hash, &self.store).await,
            Ok(Ask::Logs { id, attempt, follow }) => send_logs(w, &key(id, attempt), follow, &self.exec).await,
            Ok(Ask::Through { ask, .. }) if matches!(*ask, Ask::Through { .. }) => refuse(w, "one node in between is enough").await,
            Ok(Ask::Through { ask, .. }) if matches!(&*ask, Ask::Blob(h) if self.store.blobs().has(BlobHash(h.0))) => match *ask {
                Ask::Blob(hash) => send_blob(w, hash, &self.store).await,
                _ => Ok(()),
            },
            Ok(Ask::Through { ask, .. }) if matches!(&*ask, Ask::Slice { hash, .. } if self.depot.entry(BlobHash(hash.0)).is_some()) => {
                match *ask {
                    Ask::Slice { hash, from, to } => self.send_slice(w, BlobHash(hash.0), from..to).await,
                    _ => Ok(()),
                }
            }
            Ok(Ask::Slice { hash, from, to }) => self.send_slice(w, BlobHash(hash.0), from..to).await,
            Ok(Ask::Offers(name)) => self.send_offers(w, name.as_deref()).await,
            Ok(Ask::Heads) => self.send_notes(w, |book| Ok(book.heads())).await,
            Ok(Ask::Notes { author, after }) => self.send_notes(w, move |book| book.since(author, after)).await,
            Ok(Ask::Through { peer, ask }) => self.pass_on(w, peer, &ask).await,
            Err(_) => refuse(w, "this version does not know the question").await,
        };
        if let Err(e) = done {
            tracing::debug!(peer = %Peer(r.peer), error = %e, "a bulk answer broke off");
        }
    }

    /// Sends a part of a shared blob, checking it on the way. What is found damaged breaks off, so that nobody takes it for whole.
    async fn send_slice(&self, w: &mut (impl AsyncWrite + Unpin), hash: BlobHash, part: Range<u64>) -> io::Result<()> {
        let Some(entry) = self.depot.entry(hash) else { return refuse(w, "the blob is not here").await };
        let whole = |at: u64| at.is_multiple_of(GROUP) || at == entry.len;
        if part.start > part.end || part.end > entry.len || !whole(part.start) || !whole(part.end) || part.end - part.start > SLICE_MAX {
            return refuse(w, "the blob has no such part").await;
        }
        let Ok(place) = self.sending.clone().try_acquire_owned() else { return refuse(w, "too many blobs are sent at the moment").await };
        let (pieces, mut ready) = mpsc::channel::<Vec<u8>>(4);
        let depot = self.depot.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let _place = place;
            let mut out = io::BufWriter::with_capacity(64 << 10, Pieces(pieces));
            depot.send(hash, &part, &mut out)?;
            io::Write::flush(&mut out).map_err(|source| DepotError::Io { doing: "send", source })
        });
        let mut head = vec![OK];
        head.extend_from_slice(&entry.len.to_be_bytes());
        w.write_all(&head).await?;
        while let Some(piece) = ready.recv().await {
            self.pace.wait(piece.len() as u64).await;
            // A reader that stalls must not hold the place for ever.
            tokio::time::timeout(STALL, w.write_all(&piece)).await.map_err(|_| io::ErrorKind::TimedOut)??;
            self.figures.sent.inc_by(piece.len() as u64);
        }
        match reading.await {
            Ok(Ok(())) => w.shutdown().await,
            Ok(Err(e)) => Err(io::Error::other(e)),
            Err(e) => Err(io::Error::other(e)),
        }
    }

    async fn send_offers(&self, w: &mut (impl AsyncWrite + Unpin), name: Option<&str>) -> io::Result<()> {
        let all: Vec<_> = self.offers.list().into_iter().filter(|o| name.is_none_or(|n| n == o.name)).collect();
        send_cbor(w, &all).await
    }

    async fn send_notes<T: Serialize + Send + 'static>(
        &self,
        w: &mut (impl AsyncWrite + Unpin),
        read: impl FnOnce(&Notebook) -> Result<T, MemoryError> + Send + 'static,
    ) -> io::Result<()> {
        let Some(book) = self.notes.clone() else { return refuse(w, "this node shares no notes").await };
        let read = tokio::task::spawn_blocking(move || read(&book)).await.map_err(io::Error::other)?;
        let Ok(found) = read else { return refuse(w, "the notes cannot be read here").await };
        send_cbor(w, &found).await
    }

    /// Asks in the place of a node that cannot, and hands on the answer as it comes.  The asker checks what it gets.
    async fn pass_on(&self, w: &mut (impl AsyncWrite + Unpin), peer: Peer, ask: &Ask) -> io::Result<()> {
        if !self.net.lanes().contains(&peer.0) {
            return refuse(w, "that node cannot be reached from here either").await;
        }
        let Ok(_place) = self.passing.try_acquire() else { return refuse(w, "too many answers are handed on at the moment").await };
        let mut request = Vec::new();
        ciborium::into_writer(ask, &mut request).map_err(io::Error::other)?;
        let asked = tokio::time::timeout(STALL, self.net.bulk_request(peer.0, request.into())).await;
        let Ok(Ok(r)) = asked else { return refuse(w, "that node does not answer").await };
        // Live output may pause for long; a blob may not.
        let mut r: Box<dyn AsyncRead + Send + Unpin> =
            if matches!(ask, Ask::Blob(_) | Ask::Slice { .. }) { Box::new(Steady::new(r)) } else { Box::new(r) };
        let mut buf = vec![0; 64 << 10];
        let mut left = PASSED_MAX;
        loop {
            // An answer that breaks off here breaks off there: it is not closed in order.
            let n = r.read(&mut buf).await?;
            if n == 0 {
                return w.shutdown().await;
            }
            left = left.checked_sub(n as u64).ok_or(io::ErrorKind::FileTooLarge)?;
            let piece = buf.get(..n).unwrap_or_default();
            let sent = async {
                w.write_all(piece).await?;
                w.flush().await
            };
            tokio::time::timeout(STALL, sent).await.map_err(|_| io::ErrorKind::TimedOut)??;
        }
    }
}

fn key(id: ShortId, attempt: u32) -> JobKey {
    JobKey { task: id.to_string(), attempt, issue: String::new() }
}

/// An answer that is one value; a reader that stalls does not hold the stream for ever.
async fn send_cbor(w: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> io::Result<()> {
    let mut answer = vec![OK];
    ciborium::into_writer(value, &mut answer).map_err(io::Error::other)?;
    tokio::time::timeout(STALL, w.write_all(&answer)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    w.shutdown().await
}

async fn refuse(w: &mut (impl AsyncWrite + Unpin), why: &str) -> io::Result<()> {
    w.write_all(&[NO]).await?;
    w.write_all(why.as_bytes()).await?;
    w.shutdown().await
}

/// How fast all shared blobs together leave this node.
struct Pace {
    /// Bytes per second; 0 = as fast as they can.
    rate: u64,
    free: Mutex<Instant>,
}

impl Pace {
    async fn wait(&self, bytes: u64) {
        if self.rate == 0 {
            return;
        }
        let due = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let due = (*free).max(Instant::now());
            *free = due + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
            due
        };
        tokio::time::sleep_until(due).await;
    }
}

/// The end of a channel as something to write to, from a thread that may block.
struct Pieces(mpsc::Sender<Vec<u8>>);

impl io::Write for Pieces {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(piece.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(piece.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn send_blob(w: &mut (impl AsyncWrite + Unpin), hash: Hash, store: &Store) -> io::Result<()> {
    let Ok((file, _)) = store.blobs().open_blob(BlobHash(hash.0)) else {
        return refuse(w, "the blob is not here").await;
    };
    w.write_all(&[OK]).await?;
    let mut file = tokio::fs::File::from_std(file);
    let mut buf = vec![0; 64 << 10];
    loop {
        let n = file.read(&mut buf).await?;
        if n == 0 {
            break;
        }
        // A reader that stalls must not hold the place for ever.
        tokio::time::timeout(STALL, w.write_all(buf.get(..n).unwrap_or_default())).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
    w.shutdown().await
}

/// Output frames: a byte 1 (stdout) or 2 (stderr), the length as a big-endian u32, the bytes.
fn frame(piece: Piece) -> Vec<u8> {
    let (kind, bytes) = match piece {
        Piece::Data { stream: Stream::Stdout, bytes, .. } => (1, bytes),
        Piece::Data { stream: Stream::Stderr, bytes, .. } => (2, bytes),
        Piece::Gap { stream, len, .. } => {
            let kind = if stream == Stream::Stdout { 1 } else { 2 };
            (kind, format!("\n[… {len} bytes cut out …]\n").into_bytes())
        }
    };
    let mut f = Vec::with_capacity(5 + bytes.len());
    f.push(kind);
    f.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    f.extend_from_slice(&bytes);
    f
}

async fn send_logs(w: &mut (impl AsyncWrite + Unpin), key: &JobKey, follow: bool, exec: &Executor) -> io::Result<()> {
    let Some(mut tail) = exec.tail(key) else {
        return refuse(w, "the attempt does not run here").await;
    };
    w.write_all(&[OK]).await?;
    w.flush().await?;
    loop {
        let piece =
            if follow { tail.next().await } else { tokio::time::timeout(Duration::from_millis(20), tail.next()).await.unwrap_or(None) };
        let Some(piece) = piece else { break };
        w.write_all(&frame(piece)).await?;
        w.flush().await?;
    }
    w.shutdown().await
}

/// An attempt's output on this node, as frames.
pub(crate) fn local_logs(exec: &Executor, id: ShortId, attempt: u32, follow: bool) -> Option<BoxStream<'static, io::Result<Bytes>>> {
    let tail = exec.tail(&key(id, attempt))?;
    let stream = futures::stream::unfold(tail, move |mut tail| async move {
        let piece =
            if follow { tail.next().await } else { tokio::time::timeout(Duration::from_millis(20), tail.next()).await.unwrap_or(None) }?;
        Some((Ok(Bytes::from(frame(piece))), tail))
    });
    Some(stream.boxed())
}

/// An answer that must not pause.
pub(super) type Answer = Steady<BulkReader>;

/// Asks a node something whose answer must come without a pause.
///
/// # Errors
/// A sentence.
pub(super) async fn ask(net: &Net, from: Source, ask: Ask) -> Result<Answer, String> {
    open(net, from, ask).await.map(Steady::new)
}

/// Asks a node something whose answer is one value of at most `max` bytes of CBOR.
///
/// # Errors
/// A sentence.
pub(super) async fn ask_cbor<T: DeserializeOwned>(net: &Net, from: Source, question: Ask, max: u64) -> Result<T, String> {
    let mut bytes = Vec::new();
    ask(net, from, question).await?.take(max).read_to_end(&mut bytes).await.map_err(|e| e.to_string())?;
    ciborium::from_reader(bytes.as_slice()).map_err(|e| e.to_string())
}

async fn open(net: &Net, from: Source, ask: Ask) -> Result<BulkReader, String> {
    let (peer, ask) = match from.via {
        Some(via) => (via, Ask::Through { peer: from.peer, ask: Box::new(ask) }),
        None => (from.peer, ask),
    };
    let mut request = Vec::new();
    ciborium::into_writer(&ask, &mut request).map_err(|e| e.to_string())?;
    let wait = tokio::time::timeout(STALL, async {
        let mut r = net.bulk_request(peer.0, request.into()).await.map_err(|e| e.to_string())?;
        let head = r.read_u8().await.map_err(|e| e.to_string())?;
        Ok::<_, String>((head, r))
    });
    let (head, mut r) = wait.await.map_err(|_| "the node does not answer".to_owned())??;
    if head == OK {
        return Ok(r);
    }
    let mut why = String::new();
    let _ = (&mut r).take(SENTENCE_MAX).read_to_string(&mut why).await;
    Err(why)
}

/// Gets a blob from the first of these peers that has it; true when it is durable here.
pub(crate) async fn fetch(net: &Net, store: &Store, hash: Hash, max: u64, from: &[Source]) -> bool {
    if store.blobs().has(BlobHash(hash.0)) {
        return true;
    }
    for source in from {
        let got = async {
            let r = open(net, *source, Ask::Blob(hash)).await?;
            store.blobs().put_stream(Steady::new(r), max, Some(BlobHash(hash.0))).await.map_err(|e| e.to_string())
        };
        match got.await {
            Ok(_) => return true,
            Err(e) => tracing::debug!(peer = %source.peer, blob = %hash, error = %e, "a blob could not be had there"),
        }
    }
    false
}

/// The live output of an attempt on another node, as frames.
pub(crate) async fn remote_logs(
    net: &Net,
    worker: Source,
    id: ShortId,
    attempt: u32,
    follow: bool,
) -> Result<BoxStream<'static, io::Result<Bytes>>, String> {
    let r = open(net, worker, Ask::Logs { id, attempt, follow }).await?;
    Ok(ReaderStream::new(r).boxed())
}

/// A reader that fails when nothing comes for [`STALL`].
pub(super) struct Steady<R> {
    inner: R,
    timer: std::pin::Pin<Box<tokio::time::Sleep>>,
}

impl<R> Steady<R> {
    fn new(inner: R) -> Self {
        Self { inner, timer: Box::pin(tokio::time::sleep(STALL)) }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Steady<R> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        use std::{future::Future, task::Poll};
        match std::pin::Pin::new(&mut self.inner).poll_read(cx, buf) {
            Poll::Ready(r) => {
                self.timer.as_mut().reset(tokio::time::Instant::now() + STALL);
                Poll::Ready(r)
            }
            Poll::Pending if self.timer.as_mut().poll(cx).is_ready() => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}
