//! What a process printed: kept up to a bound, readable while it grows.
//!
//! Each stream keeps its first three quarters and its last quarter of the bound; what lies between is counted and let go.
//! A reader holds a position, not a queue: a slow reader costs nothing and never slows the process,
//! it is told about a gap instead.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Largest piece handed to a reader at once, in bytes: big enough to be cheap, small enough for one frame of a lane.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// No attempt keeps more than this of one stream, in bytes, whatever its job asks for.
pub(crate) const OUTPUT_CAP_MAX: u64 = 64 * 1024 * 1024;

/// Which of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// The name people and JSON use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// One step of following an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes of one stream; `offset` counts from the first byte the process wrote there. Never empty, at most 64 KiB.
    Data { stream: Stream, offset: u64, bytes: Vec<u8> },
    /// `len` bytes starting at `offset` were written but are not kept any more.
    Gap { stream: Stream, offset: u64, len: u64 },
}

/// The final content of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Captured {
    /// What was kept: the beginning and, when `truncated` is not 0, the end directly behind it.
    pub(crate) bytes: Vec<u8>,
    /// Bytes let go between the beginning and the end.
    pub(crate) truncated: u64,
}

/// How many bytes of the beginning are kept under a bound of `cap` bytes: where the gap lies when something was let go.
pub(crate) fn head_bytes(cap: u64) -> u64 {
    let cap = cap.min(OUTPUT_CAP_MAX);
    cap - cap / 4
}

/// Both streams of one attempt. Holds at most twice the bound in memory, and only what was really written.
#[derive(Debug)]
pub(crate) struct Capture {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    stdout: Kept,
    stderr: Kept,
    ended: bool,
}

impl State {
    fn kept(&mut self, stream: Stream) -> &mut Kept {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

impl Capture {
    /// An empty capture which keeps at most `cap` bytes of each stream (at most [`OUTPUT_CAP_MAX`]).
    pub(crate) fn new(cap: u64) -> Arc<Capture> {
        let state = State { stdout: Kept::new(cap), stderr: Kept::new(cap), ended: false };
        Arc::new(Capture { state: Mutex::new(state), changed: watch::Sender::new(()) })
    }

    /// Adds what a process has just written.
    pub(crate) fn push(&self, stream: Stream, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.lock().kept(stream).push(data);
        self.changed.send_replace(());
    }

    /// No more will come: readers end once they have read what is kept.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.changed.send_replace(());
    }

    /// A copy of what is kept of one stream.
    pub(crate) fn content(&self, stream: Stream) -> Captured {
        self.lock().kept(stream).content()
    }

    /// The last non-blank line of standard error, at most `chars_max` characters: the likeliest reason of a failure.
    pub(crate) fn last_error_line(&self, chars_max: usize) -> Option<String> {
        let mut state = self.lock();
        let kept = state.kept(Stream::Stderr);
        let end = if kept.tail.is_empty() {
            let from = kept.head.len().saturating_sub(chars_max * 8);
            kept.head.get(from..).unwrap_or_default().to_vec()
        } else {
            let from = kept.tail.len().saturating_sub(chars_max * 8);
            kept.tail.iter().skip(from).copied().collect()
        };
        let text = String::from_utf8_lossy(&end);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
        Some(line.chars().filter(|c| !c.is_control()).take(chars_max).collect())
    }

    /// The first line of standard error, of those that are kept, for which `wanted` is true; at most `chars_max` characters.
    pub(crate) fn error_line(&self, chars_max: usize, wanted: fn(&str) -> bool) -> Option<String> {
        let kept = self.content(Stream::Stderr).bytes;
        let text = String::from_utf8_lossy(&kept);
        let line = text.lines().map(str::trim).find(|line| wanted(line))?;
        Some(line.chars().filter(|c| !c.is_control()).take(chars_max).collect())
    }

    /// A reader from the start of both streams. Any number of readers may follow one capture.
    pub(crate) fn tail(self: &Arc<Self>) -> Tail {
        let changed = self.changed.subscribe();
        Tail { capture: Arc::clone(self), changed, stdout_at: 0, stderr_at: 0, stderr_first: false }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every update leaves the state whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows one attempt's output until the attempt ends. The order is exact within a stream;
/// between the two streams it is the order in which they were seen.
#[derive(Debug)]
pub(crate) struct Tail {
    capture: Arc<Capture>,
    changed: watch::Receiver<()>,
    stdout_at: u64,
    stderr_at: u64,
    /// The streams take turns, so that a loud one does not hide the other.
    stderr_first: bool,
}

impl Tail {
    /// Starts at the given byte offsets instead of at the beginning, so that a reader whose connection broke can go on.
    #[cfg(test)]
    pub(crate) fn resume_at(mut self, stdout: u64, stderr: u64) -> Tail {
        self.stdout_at = stdout;
        self.stderr_at = stderr;
        self
    }

    /// The next piece, or `None` when the attempt has ended and everything kept was read. Safe to drop while it waits.
    pub(crate) async fn next(&mut self) -> Option<Piece> {
        loop {
            // Marked as seen before looking, so a write in between wakes the wait below.
            self.changed.borrow_and_update();
            let (piece, ended) = self.look();
            if piece.is_some() || ended {
                return piece;
            }
            // The sender lives in the capture, which this reader holds: it cannot be gone.
            self.changed.changed().await.ok()?;
        }
    }

    /// The same as a stream of pieces.
    #[cfg(test)]
    pub(crate) fn into_stream(self) -> impl futures::Stream<Item = Piece> + Send {
        futures::stream::unfold(self, |mut tail| async move {
            let piece = tail.next().await?;
            Some((piece, tail))
        })
    }

    fn look(&mut self) -> (Option<Piece>, bool) {
        let order = match self.stderr_first {
            true => [Stream::Stderr, Stream::Stdout],
            false => [Stream::Stdout, Stream::Stderr],
        };
        let mut state = self.capture.lock();
        for stream in order {
            let at = match stream {
                Stream::Stdout => &mut self.stdout_at,
                Stream::Stderr => &mut self.stderr_at,
            };
            if let Some(piece) = state.kept(stream).piece_at(stream, at) {
                self.stderr_first = stream == Stream::Stdout;
                return (Some(piece), state.ended);
            }
        }
        (None, state.ended)
    }
}

/// One stream: a beginning that only grows and an end that moves.
#[derive(Debug)]
struct Kept {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_max: usize,
    tail_max: usize,
    total: u64,
}

impl Kept {
    fn new(cap: u64) -> Kept {
        let cap = cap.min(OUTPUT_CAP_MAX);
        let head_max = usize::try_from(head_bytes(cap)).unwrap_or(usize::MAX);
        let tail_max = usize::try_from(cap / 4).unwrap_or(usize::MAX);
        Kept { head: Vec::new(), tail: VecDeque::new(), head_max, tail_max, total: 0 }
    }

    fn push(&mut self, data: &[u8]) {
        self.total += data.len() as u64;
        let room = self.head_max.saturating_sub(self.head.len());
        let (first, rest) = data.split_at(room.min(data.len()));
        self.head.extend_from_slice(first);
        // Of a piece longer than the end's bound only its own end can stay.
        let (_, rest) = rest.split_at(rest.len().saturating_sub(self.tail_max));
        let over = (self.tail.len() + rest.len()).saturating_sub(self.tail_max);
        self.tail.drain(..over);
        self.tail.extend(rest);
    }

    fn tail_start(&self) -> u64 {
        self.total - self.tail.len() as u64
    }

    fn content(&self) -> Captured {
        let mut bytes = Vec::with_capacity(self.head.len() + self.tail.len());
        bytes.extend_from_slice(&self.head);
        let (one, two) = self.tail.as_slices();
        bytes.extend_from_slice(one);
        bytes.extend_from_slice(two);
        let truncated = self.total - bytes.len() as u64;
        Captured { bytes, truncated }
    }

    /// The piece at `*at`, and moves `*at` behind it.
    fn piece_at(&self, stream: Stream, at: &mut u64) -> Option<Piece> {
        let offset = *at;
        if offset >= self.total {
            return None;
        }
        if let Some(rest) = usize::try_from(offset).ok().and_then(|from| self.head.get(from..)).filter(|r| !r.is_empty()) {
            let bytes: Vec<u8> = rest.iter().take(PIECE_BYTES_MAX).copied().collect();
            *at = offset + bytes.len() as u64;
            return Some(Piece::Data { stream, offset, bytes });
        }
        let start = self.tail_start();
        if offset < start {
            *at = start;
            return Some(Piece::Gap { stream, offset, len: start - offset });
        }
        let skip = usize::try_from(offset - start).unwrap_or(usize::MAX);
        let end = self.tail.len().min(skip.saturating_add(PIECE_BYTES_MAX));
        let bytes: Vec<u8> = self.tail.range(skip.min(end)..end).copied().collect();
        *at = offset + bytes.len() as u64;
        Some(Piece::Data { stream, offset, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    fn rebuilt(pieces: &[Piece], want: Stream) -> (Vec<u8>, u64) {
        let mut bytes = Vec::new();
        let mut gaps = 0;
        let mut at = 0;
        for piece in pieces {
            match piece {
                Piece::Data { stream, offset, bytes: data } if *stream == want => {
                    assert_eq!(*offset, at);
                    at += data.len() as u64;
                    bytes.extend_from_slice(data);
                }
                Piece::Gap { stream, offset, len } if *stream == want => {
                    assert_eq!(*offset, at);
                    at += len;
                    gaps += len;
                }
                _ => {}
            }
        }
        (bytes, gaps)
    }

    #[test]
    fn keeps_the_beginning_and_the_end_and_counts_what_is_between() {
        for step in [1, 3, 7, 64, 1000] {
            let all: Vec<u8> = (0..1000u32).map(|i| (i % 251) as u8).collect();
            let capture = Capture::new(100);
            for piece in all.chunks(step) {
                capture.push(Stream::Stdout, piece);
            }
            let got = capture.content(Stream::Stdout);
            assert_eq!(got.truncated, 900, "step {step}");
            assert_eq!(got.bytes[..75], all[..75]);
            assert_eq!(got.bytes[75..], all[975..]);
            assert_eq!(capture.content(Stream::Stderr), Captured::default());
        }
    }

    #[test]
    fn nothing_is_lost_below_the_bound() {
        let capture = Capture::new(100);
        capture.push(Stream::Stderr, &[7; 60]);
        capture.push(Stream::Stderr, &[8; 40]);
        let got = capture.content(Stream::Stderr);
        assert_eq!((got.bytes.len(), got.truncated), (100, 0));
        let none = Capture::new(0);
        none.push(Stream::Stdout, b"abc");
        assert_eq!(none.content(Stream::Stdout), Captured { bytes: vec![], truncated: 3 });
    }

    #[tokio::test]
    async fn many_readers_follow_from_the_start_and_end_together() {
        let capture = Capture::new(1 << 20);
        capture.push(Stream::Stdout, b"early ");
        let readers: Vec<_> = (0..5).map(|_| tokio::spawn(capture.tail().into_stream().collect::<Vec<Piece>>())).collect();
        capture.push(Stream::Stderr, b"oops");
        tokio::task::yield_now().await;
        capture.push(Stream::Stdout, b"late");
        capture.end();
        for reader in readers {
            let pieces = reader.await.unwrap();
            assert_eq!(rebuilt(&pieces, Stream::Stdout), (b"early late".to_vec(), 0));
            assert_eq!(rebuilt(&pieces, Stream::Stderr), (b"oops".to_vec(), 0));
        }
    }

    #[tokio::test]
    async fn a_late_reader_is_told_about_the_gap() {
        let capture = Capture::new(100);
        capture.push(Stream::Stdout, &[b'a'; 75]);
        capture.push(Stream::Stdout, &[b'b'; 500]);
        capture.push(Stream::Stdout, &[b'c'; 25]);
        capture.end();
        let pieces: Vec<Piece> = capture.tail().into_stream().collect().await;
        let (bytes, gap) = rebuilt(&pieces, Stream::Stdout);
        assert_eq!(gap, 500);
        assert_eq!(bytes, [[b'a'; 75].as_slice(), &[b'c'; 25]].concat());
        let rest: Vec<Piece> = capture.tail().resume_at(590, 0).into_stream().collect().await;
        assert_eq!(rest, [Piece::Data { stream: Stream::Stdout, offset: 590, bytes: vec![b'c'; 10] }]);
    }

    #[test]
    fn the_last_line_of_errors_is_found() {
        let capture = Capture::new(100);
        assert_eq!(capture.last_error_line(80), None);
        capture.push(Stream::Stderr, b"first\nNo such file: x\x1b[0m\n\n");
        assert_eq!(capture.last_error_line(80).as_deref(), Some("No such file: x[0m"));
        capture.push(Stream::Stderr, &[b'z'; 200]);
        assert_eq!(capture.last_error_line(5).as_deref(), Some("zzzzz"));
    }
}
