//! Blobs and live output between nodes, on bulk streams.

use std::{io, sync::Arc, time::Duration};

use axum::body::Bytes;
use clawmesh_protocol::{
    ids::{Hash, Peer, ShortId},
    io::Source,
};
use futures::{StreamExt as _, stream::BoxStream};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::Semaphore,
};
use tokio_util::io::ReaderStream;

use crate::{
    exec::{Executor, JobKey, Piece, Stream},
    net::{BulkReader, BulkRequest, Net},
    store::{BlobHash, Store},
};

/// A transfer that makes no progress for so long is given up.
const STALL: Duration = Duration::from_secs(10);

/// What a node may ask for on a bulk stream.  The answer begins with a byte: 0 and the content, or 1
/// and a sentence.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// A blob by its name.
    Blob(Hash),
    /// An attempt's output so far; with `follow`, until it ends.
    Logs { id: ShortId, attempt: u32, follow: bool },
    /// The same of a node that the asker cannot reach and the asked one can (E11): one hop, so never another of these inside.
    Through { peer: Peer, ask: Box<Self> },
}

const OK: u8 = 0;
const NO: u8 = 1;
/// Longest sentence of a refusal, bytes.
const SENTENCE_MAX: u64 = 1_024;
/// Answers handed on for others at the same time.
const PASSING_MAX: usize = 8;
/// Longest answer handed on, bytes; as long as the longest output that is read at all.
const PASSED_MAX: u64 = 160 << 20;

/// Where questions of other nodes are answered.
#[derive(Clone)]
pub(crate) struct Desk {
    net: Arc<Net>,
    store: Arc<Store>,
    exec: Executor,
    passing: Arc<Semaphore>,
}

impl Desk {
    pub(crate) fn new(net: Arc<Net>, store: Arc<Store>, exec: Executor) -> Self {
        Self { net, store, exec, passing: Arc::new(Semaphore::new(PASSING_MAX)) }
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
            Ok(Ask::Through { peer, ask }) => self.pass_on(w, peer, &ask).await,
            Err(_) => refuse(w, "this version does not know the question").await,
        };
        if let Err(e) = done {
            tracing::debug!(peer = %Peer(r.peer), error = %e, "a bulk answer broke off");
        }
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
        let mut r: Box<dyn AsyncRead + Send + Unpin> = if matches!(ask, Ask::Blob(_)) { Box::new(Steady::new(r)) } else { Box::new(r) };
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

async fn refuse(w: &mut (impl AsyncWrite + Unpin), why: &str) -> io::Result<()> {
    w.write_all(&[NO]).await?;
    w.write_all(why.as_bytes()).await?;
    w.shutdown().await
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

async fn ask(net: &Net, from: Source, ask: Ask) -> Result<BulkReader, String> {
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
            let r = ask(net, *source, Ask::Blob(hash)).await?;
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
    let r = ask(net, worker, Ask::Logs { id, attempt, follow }).await?;
    Ok(ReaderStream::new(r).boxed())
}

/// A reader that fails when nothing comes for [`STALL`].
struct Steady<R> {
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
