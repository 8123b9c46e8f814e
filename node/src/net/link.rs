//! One lane: hello, heartbeats, a reader with back-pressure and a writer that batches.
//!
//! Frames are a u32 length (big endian) and that many bytes. A frame of length zero is a heartbeat. The first frame of each side is
//! its hello. The lane counts as alive as long as any byte arrives, so a large frame on a slow line is no silence.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{AsyncReadExt, AsyncWriteExt, io::ReadHalf, io::WriteHalf};
use libp2p::{PeerId, Stream, swarm::ConnectionId};
use prometheus_client::metrics::counter::Counter;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::{
    codec::{Decoder, LengthDelimitedCodec},
    sync::CancellationToken,
};

use super::{
    FRAME_MAX, NetEvent, Peer,
    metrics::{Counters, Direction, DropReason, RefuseReason},
};

/// Tells the swarm loop what a lane went through. For one connection: `Ready` at most once, then any number of `Silent` and
/// `Heard`, `Ended` exactly once and after the last frame was handed over.
pub(super) enum Report {
    /// Both hellos were exchanged. The reader waits for `activate`.
    Ready { conn: ConnectionId, peer: PeerId, ready: Ready },
    /// Nothing was heard for [`SILENT_AFTER`].
    Silent { conn: ConnectionId, peer: PeerId },
    /// Something was heard again.
    Heard { conn: ConnectionId, peer: PeerId },
    /// A retired lane went on talking: two processes run with this id.
    Ghost { peer: PeerId },
    /// The lane is over.
    Ended { conn: ConnectionId, peer: PeerId, why: End },
}

/// A lane that may be put to use.
pub(super) struct Ready {
    /// The other side's boot number.
    pub(super) boot: u64,
    /// Where to put frames.
    pub(super) sender: LaneSender,
    /// Starts the reader; taken when the lane is put to use.
    pub(super) activate: Option<oneshot::Sender<()>>,
    /// Makes the reader discard everything and watch for a clone; it ends on its own.
    pub(super) retire: CancellationToken,
}

/// Why a lane ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The other side or the network closed it, or we did on purpose.
    Closed,
    /// Refused by us; counted by the caller.
    Refused(RefuseReason),
}

/// What all lanes of a node have in common.
#[derive(Clone)]
pub(super) struct Common {
    /// Our boot number.
    pub(super) boot: u64,
    /// Where frames go.
    pub(super) events: mpsc::Sender<NetEvent>,
    /// Where reports go; the swarm loop always drains it.
    pub(super) reports: mpsc::Sender<Report>,
    /// Figures.
    pub(super) counters: Counters,
    /// Tests stop all writers with it, as a hung process would.
    pub(super) mute: Arc<AtomicBool>,
}

/// The sending end of a lane; cheap to clone, never blocks.
#[derive(Clone)]
pub(super) struct LaneSender {
    tx: mpsc::Sender<Bytes>,
    queued_bytes: Arc<AtomicUsize>,
    overflow: Arc<AtomicBool>,
    /// Ends the lane at once.
    cancel: CancellationToken,
    /// Lets the writer empty its queue, then ends the lane.
    finish: CancellationToken,
}

impl LaneSender {
    /// Queues a frame. On a full queue the lane is closed: a gap in the order would be worse than a lost connection.
    pub(super) fn send(&self, bytes: Bytes) -> Result<(), DropReason> {
        let len = bytes.len();
        if len == 0 || len > FRAME_MAX {
            return Err(DropReason::TooLarge);
        }
        if self.cancel.is_cancelled() || self.finish.is_cancelled() {
            return Err(DropReason::NoLane);
        }
        let before = self.queued_bytes.fetch_add(len, Ordering::Relaxed);
        if before + len > QUEUE_BYTES_MAX {
            return Err(self.overflow());
        }
        match self.tx.try_send(bytes) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(self.overflow()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(DropReason::NoLane),
        }
    }

    /// Frames that still fit.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.tx.capacity()
    }

    /// Sends what an honest node never would.
    #[cfg(test)]
    pub(super) fn send_unchecked(&self, bytes: Bytes) {
        self.queued_bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        self.tx.try_send(bytes).unwrap();
    }

    /// Ends the lane at once.
    pub(super) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Sends what is queued, then ends the lane.
    pub(super) fn finish(&self) {
        self.finish.cancel();
    }

    fn overflow(&self) -> DropReason {
        self.overflow.store(true, Ordering::Relaxed);
        self.cancel.cancel();
        DropReason::QueueFull
    }
}

/// Runs a lane to its end; the last thing it does is the report `Ended`.
pub(super) async fn run(common: Common, peer: Peer, peer_id: PeerId, conn: ConnectionId, mut stream: Stream) {
    let why = match timeout(HELLO_TIMEOUT, exchange_hello(&mut stream, common.boot)).await {
        Ok(Ok(boot)) => Link { common: common.clone(), peer, peer_id, conn }.run(boot, stream).await,
        Ok(Err(why)) => why,
        Err(_) => End::Refused(RefuseReason::BadHello),
    };
    // Fails only when the loop is gone, and then nobody needs it.
    let _ = common.reports.send(Report::Ended { conn, peer: peer_id, why }).await;
}

struct Link {
    common: Common,
    peer: Peer,
    peer_id: PeerId,
    conn: ConnectionId,
}

impl Link {
    async fn run(self, boot: u64, stream: Stream) -> End {
        let (tx, rx) = mpsc::channel(QUEUE_FRAMES_MAX);
        let sender = LaneSender {
            tx,
            queued_bytes: Arc::default(),
            overflow: Arc::default(),
            cancel: CancellationToken::new(),
            finish: CancellationToken::new(),
        };
        let (activate, activated) = oneshot::channel();
        let retire = CancellationToken::new();
        let (read, write) = stream.split();
        let writer = Writer {
            stream: write,
            frames: rx,
            queued_bytes: sender.queued_bytes.clone(),
            finish: sender.finish.clone(),
            mute: self.common.mute.clone(),
            traffic: self.common.counters.traffic(Direction::Outbound),
        };
        let LaneSender { overflow, cancel, .. } = sender.clone();
        let ready = Ready { boot, sender, activate: Some(activate), retire: retire.clone() };
        let report = Report::Ready { conn: self.conn, peer: self.peer_id, ready };
        if self.common.reports.send(report).await.is_err() {
            return End::Closed;
        }
        let stop_writer = cancel.clone();
        let mut writer = tokio::spawn(async move { stop_writer.run_until_cancelled(writer.run()).await });
        let mut reader = Reader::new(&self, read);
        let end = {
            let reading = reader.run(activated);
            tokio::pin!(reading);
            tokio::select! {
                end = &mut reading => Some(end),
                () = cancel.cancelled() => Some(End::Closed),
                () = retire.cancelled() => None,
                // The writer stops first when the other side closes; what it sent before must still be read.
                _ = &mut writer => Some(timeout(LINGER, reading).await.unwrap_or(End::Closed)),
            }
        };
        let end = match end {
            Some(end) => end,
            None => reader.watch_for_ghost(&cancel).await,
        };
        cancel.cancel();
        if overflow.load(Ordering::Relaxed) { End::Refused(RefuseReason::Overflow) } else { end }
    }

    async fn report(&self, report: Report) {
        let _ = self.common.reports.send(report).await;
    }
}

struct Reader<'a> {
    link: &'a Link,
    stream: ReadHalf<Stream>,
    codec: LengthDelimitedCodec,
    buffer: BytesMut,
    scratch: Box<[u8]>,
    silent: bool,
    traffic: (Counter, Counter),
}

impl<'a> Reader<'a> {
    fn new(link: &'a Link, stream: ReadHalf<Stream>) -> Self {
        let traffic = link.common.counters.traffic(Direction::Inbound);
        let scratch = vec![0; SCRATCH_BYTES].into_boxed_slice();
        Self { link, stream, codec: codec(), buffer: BytesMut::new(), scratch, silent: false, traffic }
    }

    async fn run(&mut self, activated: oneshot::Receiver<()>) -> End {
        if activated.await.is_err() {
            return End::Closed;
        }
        loop {
            loop {
                match self.codec.decode(&mut self.buffer) {
                    Ok(Some(frame)) if frame.is_empty() => {}
                    Ok(Some(frame)) => {
                        if !self.deliver(frame.freeze()).await {
                            return End::Closed;
                        }
                    }
                    Ok(None) => break,
                    Err(_) => return End::Refused(RefuseReason::BadFrame),
                }
            }
            if let Err(end) = self.fill().await {
                return end;
            }
        }
    }

    /// Waits for room when the upper layer is slow. That time is not the peer's silence: the clock of [`Self::fill`] starts after it.
    async fn deliver(&mut self, bytes: Bytes) -> bool {
        let (frames, total) = &self.traffic;
        frames.inc();
        total.inc_by(bytes.len() as u64);
        self.link.common.events.send(NetEvent::Frame { peer: self.link.peer, bytes }).await.is_ok()
    }

    /// Reads some bytes, and reports silence.
    async fn fill(&mut self) -> Result<(), End> {
        let (peer, conn) = (self.link.peer_id, self.link.conn);
        let start = Instant::now();
        loop {
            let deadline = start + if self.silent { DEAD_AFTER } else { SILENT_AFTER };
            tokio::select! {
                biased;
                read = self.stream.read(&mut self.scratch) => {
                    let n = read.map_err(|_| End::Closed)?;
                    let bytes = self.scratch.get(..n).filter(|b| !b.is_empty()).ok_or(End::Closed)?;
                    self.buffer.extend_from_slice(bytes);
                    if std::mem::take(&mut self.silent) {
                        self.link.report(Report::Heard { conn, peer }).await;
                    }
                    return Ok(());
                }
                () = sleep_until(deadline) => {
                    if self.silent {
                        return Err(End::Refused(RefuseReason::Silent));
                    }
                    self.silent = true;
                    self.link.report(Report::Silent { conn, peer }).await;
                }
            }
        }
    }

    /// Another process took over this peer's id. If this lane goes on talking, both run at the same time.
    async fn watch_for_ghost(&mut self, cancel: &CancellationToken) -> End {
        let start = Instant::now();
        let mut told = false;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return End::Closed,
                () = sleep_until(start + GHOST_WATCH) => return End::Closed,
                read = self.stream.read(&mut self.scratch) => match read {
                    Ok(0) | Err(_) => return End::Closed,
                    // What was on its way when the new process said hello proves nothing.
                    Ok(_) if start.elapsed() < GHOST_GRACE || told => {}
                    Ok(_) => {
                        told = true;
                        self.link.report(Report::Ghost { peer: self.link.peer_id }).await;
                    }
                },
            }
        }
    }
}

struct Writer {
    stream: WriteHalf<Stream>,
    frames: mpsc::Receiver<Bytes>,
    queued_bytes: Arc<AtomicUsize>,
    finish: CancellationToken,
    mute: Arc<AtomicBool>,
    traffic: (Counter, Counter),
}

impl Writer {
    async fn run(mut self) -> io::Result<()> {
        let mut batch = BytesMut::with_capacity(SCRATCH_BYTES);
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let finish = self.finish.clone();
        loop {
            tokio::select! {
                biased;
                frame = self.frames.recv() => {
                    let Some(frame) = frame else { return self.stream.close().await };
                    // Others that are about to send get the chance to, so that one flush carries all.
                    tokio::task::yield_now().await;
                    self.fill(&mut batch, frame);
                }
                () = finish.cancelled() => {
                    self.frames.close();
                    continue;
                }
                _ = heartbeat.tick() => batch.put_u32(0),
            }
            while self.mute.load(Ordering::Relaxed) {
                // Only tests get here; what a hung process would have sent is sent when it wakes up.
                tokio::time::sleep(HEARTBEAT / 10).await;
            }
            self.stream.write_all(&batch).await?;
            self.stream.flush().await?;
            batch.clear();
            if batch.capacity() > BATCH_BYTES * 4 {
                batch = BytesMut::with_capacity(SCRATCH_BYTES);
            }
        }
    }

    fn fill(&mut self, batch: &mut BytesMut, first: Bytes) {
        let mut next = Some(first);
        while let Some(frame) = next {
            put_frame(batch, &frame);
            let (frames, total) = &self.traffic;
            frames.inc();
            total.inc_by(frame.len() as u64);
            self.queued_bytes.fetch_sub(frame.len(), Ordering::Relaxed);
            next = if batch.len() < BATCH_BYTES { self.frames.try_recv().ok() } else { None };
        }
    }
}

async fn exchange_hello(stream: &mut Stream, boot: u64) -> Result<u64, End> {
    let mut hello = BytesMut::new();
    let mut body = BytesMut::new();
    body.put_slice(HELLO_MAGIC);
    body.put_u32(PROTOCOL_VERSION);
    body.put_u64(boot);
    put_frame(&mut hello, &body);
    let io_end = |_: io::Error| End::Closed;
    stream.write_all(&hello).await.map_err(io_end)?;
    stream.flush().await.map_err(io_end)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.map_err(io_end)?;
    let length = u32::from_be_bytes(length) as usize;
    if !(HELLO_BYTES..=HELLO_BYTES_MAX).contains(&length) {
        return Err(End::Refused(RefuseReason::BadHello));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await.map_err(io_end)?;
    parse_hello(&frame)
}

/// A later version may append fields; what it must keep is the beginning.
fn parse_hello(mut frame: &[u8]) -> Result<u64, End> {
    let magic = frame.split_off(..HELLO_MAGIC.len()).unwrap_or_default();
    if magic != HELLO_MAGIC {
        return Err(End::Refused(RefuseReason::BadHello));
    }
    let bad = |_| End::Refused(RefuseReason::BadHello);
    if frame.try_get_u32().map_err(bad)? != PROTOCOL_VERSION {
        return Err(End::Refused(RefuseReason::ForeignVersion));
    }
    frame.try_get_u64().map_err(bad)
}

/// Never called with more than [`FRAME_MAX`] bytes, so the length fits.
fn put_frame(batch: &mut BytesMut, frame: &[u8]) {
    batch.put_u32(u32::try_from(frame.len()).unwrap_or(u32::MAX));
    batch.put_slice(frame);
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(FRAME_MAX).new_codec()
}

/// Raised when frames or their meaning change so that older nodes would misread them.
pub(super) const PROTOCOL_VERSION: u32 = 1;
const HELLO_MAGIC: &[u8; 4] = b"claw";
const HELLO_BYTES: usize = 16;
/// Room for fields of later versions.
const HELLO_BYTES_MAX: usize = 1024;
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Four chances to be heard before [`SILENT_AFTER`].
const HEARTBEAT: Duration = Duration::from_millis(250);
/// Silence that makes a peer suspect.
const SILENT_AFTER: Duration = Duration::from_secs(1);
/// Silence that ends the connection; TCP alone would need a quarter of an hour.
const DEAD_AFTER: Duration = Duration::from_secs(3);
/// Time to read what a closing peer sent before it closed.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes under way when a new process took over the id are no proof of a clone.
const GHOST_GRACE: Duration = Duration::from_millis(400);
/// A clone's heartbeat comes four times in a second.
const GHOST_WATCH: Duration = Duration::from_millis(1400);
/// Frames waiting for one peer.
const QUEUE_FRAMES_MAX: usize = 4096;
/// Bytes waiting for one peer.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// One write and one flush carry about this much.
const BATCH_BYTES: usize = 64 * 1024;
/// Read buffer of a lane; small, as there may be a thousand lanes.
const SCRATCH_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(version: u32) -> BytesMut {
        let mut frame = BytesMut::new();
        frame.put_slice(HELLO_MAGIC);
        frame.put_u32(version);
        frame.put_u64(42);
        frame
    }

    #[test]
    fn a_hello_is_understood_also_with_later_fields() {
        let mut frame = hello(PROTOCOL_VERSION);
        assert_eq!(parse_hello(&frame), Ok(42));
        frame.put_slice(b"more");
        assert_eq!(parse_hello(&frame), Ok(42));
    }

    #[test]
    fn foreign_versions_and_garbage_are_told_apart() {
        assert_eq!(parse_hello(&hello(PROTOCOL_VERSION + 1)), Err(End::Refused(RefuseReason::ForeignVersion)));
        assert_eq!(parse_hello(b"GET / HTTP/1.1\r\n"), Err(End::Refused(RefuseReason::BadHello)));
        assert_eq!(parse_hello(b"cl"), Err(End::Refused(RefuseReason::BadHello)));
        assert_eq!(parse_hello(&hello(PROTOCOL_VERSION)[..9]), Err(End::Refused(RefuseReason::BadHello)));
    }
}
