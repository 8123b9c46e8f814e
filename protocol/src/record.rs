//! One task as the mesh stores it, and how two versions of it become one (T3).

use alloc::{string::String, vec::Vec};

use crate::{
    codec::{Ext, Wire},
    ids::{Attempt, Epoch, Hash, Peer, TaskId, Ver},
    mutant,
    spec::{Data, Kind, Need, OnLost, Priority, Spec},
    wire_choice, wire_struct, wire_tuple,
};

/// Largest encoded record, bytes (D2).
pub const RECORD_MAX: usize = 4_000;
/// Most ended attempts kept in a record; of more, the first and the latest stay.
pub const PAST_MAX: usize = 16;

/// The place in the queue: epoch and counter of the record's first write.  Never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queued {
    /// Epoch of the first write.
    pub epoch: Epoch,
    /// Its write counter.
    pub seq: u64,
}
wire_tuple!(Queued { epoch, seq });

wire_struct! {
    /// An attempt that may be running.
    pub struct Live {
        /// Which.
        1 => attempt: Attempt,
        /// Where.
        2 => worker: Peer,
        /// The worker's boot number when it was placed.
        3 => wboot: u64,
        /// Wall clock ms when it was placed, for people.
        4 => placed_at: u64,
        /// It takes an agent slot, not one of the others.
        40 => agent: bool,
    }
}

wire_choice! {
    /// How an attempt, or the whole task, ended.
    pub enum End {
        /// The work succeeded.
        0 => Done = "completed",
        /// It ran and failed, or could not be started.
        1 => Failed = "failed",
        /// A person cancelled it.
        2 => Cancelled = "cancelled",
        /// A time limit passed.
        3 => Timeout = "timeout",
        /// The worker was not heard of for `lost_after` (S4).
        4 => Lost = "lost",
        /// The worker restarted in the middle (S5).
        5 => Crashed = "crashed",
        /// The worker left in order, or refused; nothing is charged.
        6 => Returned = "returned",
        /// A ghost below its origin's floor (T5).
        7 => Retired = "retired",
    }
}

wire_struct! {
    /// An attempt that ended.
    pub struct Past {
        /// Which.
        1 => attempt: Attempt,
        /// Where.
        2 => worker: Peer,
        /// How.
        3 => end: End,
        /// The process's exit code, when it had one.
        4 => exit: Option<i32>,
        /// One sentence; at most 120 characters.
        5 => why: String,
        /// Wall clock ms of placement, for people.
        6 => started_at: u64,
        /// Wall clock ms of the end, for people.
        7 => ended_at: u64,
    }
}

wire_struct! {
    /// The one accepted result.
    pub struct Outcome {
        /// How the task ended.
        1 => end: End,
        /// The deciding attempt; none when no attempt decided it (cancelled or timed out in the queue).
        2 => attempt: Option<Attempt>,
        /// Where it ran.
        3 => worker: Option<Peer>,
        /// The process's exit code.
        4 => exit: Option<i32>,
        /// One sentence; at most 200 characters.
        5 => why: String,
        /// An encoded [`Captured`].
        6 => data: Data,
        /// Wall clock ms, for people.
        7 => ended_at: u64,
        /// How long the process ran, ms: steers how many short tasks a worker is given ahead.
        8 => ran_ms: u64,
    }
}

wire_struct! {
    /// What an agent's run took, by the agent's own word.  Its texts have at most [`USAGE_TEXT_MAX`] characters each.
    pub struct Usage {
        /// The agent (`openclaw`).
        1 => agent: String,
        /// Who serves the model.
        2 => provider: String,
        /// The model.
        3 => model: String,
        /// Tokens that the model read.
        4 => input: u64,
        /// Tokens that it wrote.
        5 => output: u64,
        /// All tokens, those from caches included.
        6 => total: u64,
        /// Calls of tools.
        7 => tool_calls: u64,
        /// Answers of the model.
        8 => turns: u64,
    }
}

/// Longest text in a [`Usage`], characters.
pub const USAGE_TEXT_MAX: usize = 64;

wire_struct! {
    /// What a task wrote.
    pub struct Captured {
        /// Standard output, capped by the worker.
        1 => stdout: crate::codec::Blob,
        /// Standard error, capped by the worker.
        2 => stderr: crate::codec::Blob,
        /// Bytes of stdout that the cap cut out.
        3 => stdout_cut: u64,
        /// Bytes of stderr that the cap cut out.
        4 => stderr_cut: u64,
        /// Files of the working directory that were kept, at most [`crate::files::KEPT_MAX`].
        30 => files: Vec<crate::files::FileRef>,
        /// What the agent's run took, when an agent ran and said so.
        40 => usage: Option<Usage>,
    }
}

wire_struct! {
    /// A task.  At most [`RECORD_MAX`] bytes encoded, by construction.
    pub struct Rec {
        /// Its name.
        1 => id: TaskId,
        /// The version of these bytes.
        2 => ver: Ver,
        /// Hash of need and payload.
        3 => spec_hash: Hash,
        /// What placement reads.
        4 => need: Need,
        /// What the worker reads.
        5 => payload: Data,
        /// Its place in the queue.
        6 => queued: Queued,
        /// Milliseconds it waited under earlier coordinators.
        7 => waited_ms: u64,
        /// Number of attempts issued.
        8 => issued: u32,
        /// Attempts that may be running.
        9 => live: Vec<Live>,
        /// Attempts that ended, oldest first.
        10 => past: Vec<Past>,
        /// Ended attempts no longer listed.
        11 => past_dropped: u32,
        /// Attempts that ended with their worker's crash (S5).
        12 => crashes: u32,
        /// Attempts whose worker was lost (S4).
        13 => losses: u32,
        /// Attempts that failed by themselves (S11).
        14 => failures: u32,
        /// A person asked for its end.
        15 => cancel: bool,
        /// The result.
        16 => outcome: Option<Outcome>,
        /// The origin has accepted the result.
        17 => delivered: bool,
        /// Wall clock ms of the submit, for people.
        18 => submitted_at: u64,
    }
}

/// [`Rec::spec_hash`] of a tombstone.
const NO_SPEC: Hash = Hash([0; 32]);

impl Rec {
    /// A task as it is admitted: no attempt yet, and no version before it is written.
    pub fn new(id: TaskId, spec: Spec, queued: Queued, submitted_at: u64) -> Self {
        Self {
            id,
            ver: Ver::default(),
            spec_hash: spec.hash(),
            need: spec.need,
            payload: spec.payload,
            queued,
            waited_ms: 0,
            issued: 0,
            live: Vec::new(),
            past: Vec::new(),
            past_dropped: 0,
            crashes: 0,
            losses: 0,
            failures: 0,
            cancel: false,
            outcome: None,
            delivered: false,
            submitted_at,
            ext: Ext::default(),
        }
    }
    /// What stands for a task of which only its origin's word is left: the outcome it has accepted (O2).
    /// Where the task itself turns up again, [`reconcile`] gives it back what it was.
    pub fn tombstone(id: TaskId, queued: Queued, outcome: Outcome, wall_ms: u64) -> Self {
        let need = Need {
            kind: Kind::Builtin,
            skill: String::new(),
            title: "(its record was lost)".into(),
            priority: Priority::default(),
            strategy: None,
            pin: None,
            labels: Vec::new(),
            retries: 0,
            backoff_ms: 0,
            run_timeout_ms: 0,
            queue_timeout_ms: 0,
            total_timeout_ms: 0,
            on_lost: OnLost::default(),
            at_most_once: false,
            key: String::new(),
            cpus: 0,
            memory_mib: 0,
            user: String::new(),
            on_split: None,
            holders: Vec::new(),
            input_bytes: 0,
            ext: Ext::default(),
        };
        let mut rec = Self::new(id, Spec { need, payload: Data::EMPTY }, queued, wall_ms);
        (rec.spec_hash, rec.outcome, rec.delivered) = (NO_SPEC, Some(outcome), true);
        rec
    }
    /// True when nothing more will happen to the task.
    pub fn terminal(&self) -> bool {
        self.outcome.is_some()
    }
    /// The blobs it names (W4).
    pub fn blobs(&self) -> impl Iterator<Item = Hash> + '_ {
        self.payload.blob().into_iter().chain(self.outcome.as_ref().and_then(|o| o.data.blob()))
    }
    /// Moves a live attempt to the past.  Returns false when it is not live.
    pub fn end_live(&mut self, attempt: Attempt, end: End, exit: Option<i32>, why: &str, wall_ms: u64) -> bool {
        let Some(i) = self.live.iter().position(|l| l.attempt == attempt) else {
            return false;
        };
        let l = self.live.remove(i);
        self.push_past(Past {
            attempt,
            worker: l.worker,
            end,
            exit,
            why: clip(why, 120),
            started_at: l.placed_at,
            ended_at: wall_ms,
            ext: Ext::default(),
        });
        true
    }
    /// Adds an ended attempt, in order of attempts, within [`PAST_MAX`].
    pub fn push_past(&mut self, p: Past) {
        if self.past.iter().any(|q| q.attempt == p.attempt) {
            return;
        }
        let at = self.past.partition_point(|q| q.attempt < p.attempt);
        self.past.insert(at, p);
        while self.past.len() > PAST_MAX {
            self.past.remove(1);
            self.past_dropped += 1;
        }
    }
    /// The record as a program would store it that does not keep what it does not know: the broken rule of mutant 35.
    pub(crate) fn without_unknown(mut self) -> (Self, Vec<u8>) {
        self.ext = Ext::default();
        self.need.ext = Ext::default();
        let bytes = crate::codec::encode(&self);
        (self, bytes)
    }
    /// Encodes the record, dropping old attempts until it fits [`RECORD_MAX`].
    pub fn encode_fit(&mut self) -> Vec<u8> {
        loop {
            let bytes = crate::codec::encode(self);
            if bytes.len() <= RECORD_MAX || self.past.len() <= 1 {
                return bytes;
            }
            self.past.remove(if self.past.len() > 2 { 1 } else { 0 });
            self.past_dropped += 1;
        }
    }
}

/// The first `max` characters.
pub fn clip(s: &str, max: usize) -> String {
    s.chars().take(max).collect()
}

/// Which of two contents wins: `(delivered, outcome is some, ver)` (T3).
fn weight(r: &Rec) -> (bool, bool, Ver) {
    (r.delivered && !mutant::on(17), r.outcome.is_some() && !mutant::on(16), r.ver)
}

/// The content of `a` wins over that of `b` (T3).
fn wins(a: &Rec, b: &Rec) -> bool {
    let tie = a.outcome.is_some() && b.outcome.is_some() && a.delivered == b.delivered;
    (weight(a) >= weight(b)) != (tie && mutant::on(3) && a.ver != b.ver)
}

/// Joins two versions of one task (T3).  The result carries the winner's version; when it differs in
/// content from both, the caller must give it a new version (I8).
///
/// Laws (property-tested): commutative, associative and idempotent on content; never loses an outcome,
/// a `delivered`, a `cancel`, or an attempt.
pub fn reconcile(a: &Rec, b: &Rec) -> Rec {
    let (win, lose) = if wins(a, b) { (a, b) } else { (b, a) };
    let mut r = win.clone();
    for p in &lose.past {
        r.push_past(p.clone());
    }
    r.past_dropped = a.past_dropped.max(b.past_dropped).max(r.past_dropped);
    for l in &lose.live {
        if !r.live.iter().any(|m| m.attempt == l.attempt) {
            r.live.push(l.clone());
        }
    }
    let past = &r.past;
    let decided = r.outcome.as_ref().and_then(|o| o.attempt);
    r.live.retain(|l| !past.iter().any(|p| p.attempt == l.attempt) && Some(l.attempt) != decided);
    r.live.sort_by_key(|l| l.attempt);
    if r.spec_hash == NO_SPEC {
        (r.spec_hash, r.need, r.payload, r.submitted_at) = (lose.spec_hash, lose.need.clone(), lose.payload.clone(), lose.submitted_at);
    }
    r.queued = a.queued.min(b.queued);
    r.waited_ms = a.waited_ms.max(b.waited_ms);
    r.issued = a.issued.max(b.issued);
    r.crashes = a.crashes.max(b.crashes);
    r.losses = a.losses.max(b.losses);
    r.failures = a.failures.max(b.failures);
    r.cancel = if mutant::on(22) { r.cancel } else { a.cancel || b.cancel };
    r
}

/// True when two records differ in nothing but their version.
pub fn same_content(a: &Rec, b: &Rec) -> bool {
    let mut c = b.clone();
    c.ver = a.ver;
    *a == c
}

/// Decodes a record, refusing one whose bytes are above the cap.
///
/// # Errors
/// [`crate::codec::Malformed`]; nothing is changed.
pub fn decode_rec(bytes: &[u8]) -> Result<Rec, crate::codec::Malformed> {
    if bytes.len() > 4_096 {
        return Err(crate::codec::Malformed::Range);
    }
    let mut d = crate::codec::Dec::new(bytes);
    let r = Rec::take(&mut d)?;
    d.end()?;
    Ok(r)
}
