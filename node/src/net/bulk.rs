//! Large answers (blobs, live logs) on streams of their own, so that they do not delay the lane.
//!
//! A request is a u32 length and that many bytes. The answer is a row of chunks, each a u32 length and its bytes, closed by a chunk
//! of length zero: a stream that ends without it was cut, and the reader says so instead of showing half a file as a whole one.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{AsyncRead as _, AsyncReadExt, AsyncWrite as _, AsyncWriteExt};
use libp2p::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::timeout,
};

use super::Peer;

/// A question of another node, to be answered through `responder`.
#[derive(Debug)]
pub(crate) struct BulkRequest {
    /// Who asks.
    pub(crate) peer: Peer,
    /// What it asks, at most [`REQUEST_MAX`] bytes, unchecked.
    pub(crate) request: Bytes,
    /// Takes the answer. Call `shutdown` when it is complete; dropped without it, the asker sees an error.
    pub(crate) responder: BulkWriter,
}

/// Why a bulk request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BulkError {
    /// No lane to this peer is up.
    #[error("the node is not connected")]
    NotConnected,
    /// The request is above [`REQUEST_MAX`].
    #[error("the request has {0} bytes, at most {REQUEST_MAX} are allowed")]
    TooLarge(usize),
    /// The stream could not be opened or broke before the request was sent.
    #[error("the node could not be asked: {0}")]
    Failed(String),
}

/// The answer to a bulk request. Ends with `UnexpectedEof` if the other side or the line broke off.
#[derive(Debug)]
pub(crate) struct BulkReader {
    stream: Stream,
    header: [u8; 4],
    header_read: usize,
    chunk_left: usize,
    complete: bool,
}

impl AsyncRead for BulkReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.chunk_left == 0 {
            if this.complete || out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let rest = this.header.get_mut(this.header_read..).unwrap_or_default();
            match ready!(Pin::new(&mut this.stream).poll_read(cx, rest))? {
                0 => return Poll::Ready(Err(cut())),
                n => this.header_read += n,
            }
            if this.header_read == this.header.len() {
                this.header_read = 0;
                this.chunk_left = u32::from_be_bytes(this.header) as usize;
                this.complete = this.chunk_left == 0;
            }
        }
        let want = this.chunk_left.min(out.remaining());
        let space = out.initialize_unfilled_to(want);
        let n = ready!(Pin::new(&mut this.stream).poll_read(cx, space))?;
        if n == 0 && want > 0 {
            return Poll::Ready(Err(cut()));
        }
        out.advance(n);
        this.chunk_left -= n;
        Poll::Ready(Ok(()))
    }
}

/// Takes the answer to a bulk request; holds one of the peer's places until dropped.
#[derive(Debug)]
pub(crate) struct BulkWriter {
    stream: Stream,
    pending: BytesMut,
    finished: bool,
    _place: OwnedSemaphorePermit,
}

impl BulkWriter {
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.pending))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.pending.advance(n),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BulkWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_pending(cx))?;
        let chunk = data.get(..data.len().min(CHUNK_BYTES)).unwrap_or_default();
        if !chunk.is_empty() {
            this.pending.put_u32(u32::try_from(chunk.len()).unwrap_or(u32::MAX));
            this.pending.put_slice(chunk);
            // Started at once, so that a slow source's bytes travel; what does not fit waits for the next call.
            if let Poll::Ready(result) = this.poll_pending(cx) {
                result?;
            }
        }
        Poll::Ready(Ok(chunk.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_pending(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.finished, true) {
            this.pending.put_u32(0);
        }
        ready!(this.poll_pending(cx))?;
        Pin::new(&mut this.stream).poll_close(cx)
    }
}

/// Sends the request on a fresh stream.
pub(super) async fn ask(mut stream: Stream, request: &[u8]) -> Result<BulkReader, BulkError> {
    let length = u32::try_from(request.len()).map_err(|_| BulkError::TooLarge(request.len()))?;
    let mut frame = BytesMut::with_capacity(4 + request.len());
    frame.put_u32(length);
    frame.put_slice(request);
    let sent = async {
        stream.write_all(&frame).await?;
        stream.flush().await
    };
    match timeout(REQUEST_TIMEOUT, sent).await {
        Ok(Ok(())) => Ok(BulkReader { stream, header: [0; 4], header_read: 0, chunk_left: 0, complete: false }),
        Ok(Err(e)) => Err(BulkError::Failed(e.to_string())),
        Err(_) => Err(BulkError::Failed("it did not take the request in time".into())),
    }
}

/// Reads the request from a stream that another node opened; `None` if it is malformed, too large or too slow.
pub(super) async fn accept(peer: Peer, mut stream: Stream, place: OwnedSemaphorePermit) -> Option<BulkRequest> {
    let request = timeout(REQUEST_TIMEOUT, read_request(&mut stream)).await.ok()?.ok()?;
    let responder = BulkWriter { stream, pending: BytesMut::new(), finished: false, _place: place };
    Some(BulkRequest { peer, request, responder })
}

async fn read_request(stream: &mut Stream) -> io::Result<Bytes> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > REQUEST_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut request = vec![0; length];
    stream.read_exact(&mut request).await?;
    Ok(request.into())
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut off: the other node or the line to it broke")
}

/// Largest request, in bytes.
pub(crate) const REQUEST_MAX: usize = 64 * 1024;
/// Inbound streams of one peer at the same time.
pub(super) const STREAMS_PER_PEER_MAX: usize = 16;
/// Requests that wait for the upper layer, of all peers together.
pub(super) const WAITING_MAX: usize = 64;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Larger chunks measured no faster.
const CHUNK_BYTES: usize = 64 * 1024;
