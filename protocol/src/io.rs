//! The border of the core: everything that comes in, everything that goes out.

use alloc::{collections::BTreeSet, string::String, vec::Vec};

use crate::{
    face::{Command, Facts, Reply},
    ids::{Attempt, Epoch, Hash, Peer, TaskId, Ver},
    message::{Gossip, Message},
    record::{Captured, End},
    relay::Relay,
    skill::Catalogue,
    spec::{Data, Need},
};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A message over the link; links deliver in order.
    Message(Peer, Message),
    /// An envelope to this node that this peer has carried over its direct link (E11).  The driver has verified that its author
    /// has signed it; what is for others comes as [`Message::Relay`].
    Relayed(Peer, Relay),
    /// A gossip message by its author (which the driver has verified).
    Gossip(Peer, Gossip),
    /// A link is up.  Also after a link was replaced: nothing sent before counts as received.
    Up(Peer),
    /// The link closed; the driver is dialling again.
    Closed(Peer),
    /// The peer can't be reached; `refused` when its host answered that nobody listens.
    Down(Peer, bool),
    /// Nothing was heard on the link for a second.
    Silent(Peer),
    /// Something was heard again.
    Heard(Peer),
    /// All batches up to this number are durable.
    Persisted(u64),
    /// A write or fsync failed; nothing more will become durable (D4).
    StoreBad,
    /// The disk is nearly full (true), or has room again.
    Full(bool),
    /// The blob is durable here (true), or could not be had (false).
    Blob(Hash, bool),
    /// A local program asks; the answer carries the number.
    Command(u64, Command),
    /// A process of ours ended.
    Exited(TaskId, Attempt, Exit),
    /// What the machine is like now.
    Facts(Facts),
    /// What this node can do now.
    Skills(Catalogue),
    /// The agent that is here now, by its name; empty = none.
    Agent(String),
    /// Where this node's mesh port can be reached, as multiaddrs.
    Addresses(Vec<String>),
    /// What stands in the notes this node holds, in short; 0 = it shares none.
    Notes(u64),
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Done, Failed, Timeout, Cancelled (killed on demand) or Returned (killed by leaving, or never begun because what it
    /// needs has just gone from here).
    pub end: End,
    /// Exit code.
    pub code: Option<i32>,
    /// One sentence for people.
    pub why: String,
    /// An encoded [`Captured`], durable when it is a blob.
    pub data: Data,
    /// How long it ran, ms.
    pub ran_ms: u64,
}

/// Encodes what a process wrote.
pub fn capture(stdout: Vec<u8>, stderr: Vec<u8>, stdout_cut: u64, stderr_cut: u64) -> Vec<u8> {
    crate::codec::encode(&captured(stdout, stderr, stdout_cut, stderr_cut))
}

/// What a process wrote, to be added to.
pub fn captured(stdout: Vec<u8>, stderr: Vec<u8>, stdout_cut: u64, stderr_cut: u64) -> Captured {
    Captured {
        stdout: crate::codec::Blob(stdout),
        stderr: crate::codec::Blob(stderr),
        stdout_cut,
        stderr_cut,
        usage: None,
        files: Vec::new(),
        ext: Default::default(),
    }
}

/// One thing to do.  `after` is the number of the batch that must be durable first; 0 = at once.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Write this.  Numbers rise by one; batches are committed in order.
    Persist(Batch),
    /// Over the link, in order.
    Send {
        /// To whom.
        to: Peer,
        /// What.
        msg: Message,
        /// Not before.
        after: u64,
    },
    /// Through one peer (E11): the driver signs it for this node and sends it as [`Message::Relay`] over the direct link.
    Relay {
        /// Who carries it.
        via: Peer,
        /// What: not signed yet, and numbered by the [`crate::gate::Gate`] in the order in which it leaves.
        envelope: Relay,
        /// Not before.
        after: u64,
    },
    /// To everybody by gossip.
    Publish {
        /// What.
        msg: Gossip,
        /// Not before.
        after: u64,
    },
    /// Run this.
    Start {
        /// What.
        job: Job,
        /// Not before.
        after: u64,
    },
    /// End this run, its whole process group.  A run whose `Start` still waits in the [`crate::gate::Gate`]
    /// is dropped there instead; no exit is expected of it.
    Kill(TaskId, Attempt),
    /// Get this blob of so many bytes at most from one of these, in this order.
    Fetch(Hash, u64, Vec<Source>),
    /// Try to reach this member at these multiaddrs: others hear it, this node has no link to it.
    Dial(Peer, Vec<String>),
    /// Nobody needs this blob any more.
    DropBlob(Hash),
    /// The answer to a local program.
    Reply {
        /// The command's number.
        req: u64,
        /// The answer.
        reply: Reply,
        /// Not before.
        after: u64,
    },
    /// For logs, metrics, and checkers.
    Event(Event),
    /// Hand in a [`Input::Tick`] at this time ([`crate::time::Now::ms`]) at the latest.
    WakeAt(u64),
}

/// Who may have a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The holder.
    pub peer: Peer,
    /// It is reached through this one only (E11), which asks it in our place.
    pub via: Option<Peer>,
}

/// Keys and values for the store.  A value is at most 4 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// The batch's number.
    pub no: u64,
    /// To write.
    pub puts: Vec<(Vec<u8>, Vec<u8>)>,
    /// To delete.
    pub dels: Vec<Vec<u8>>,
    /// For the side file, when it changed; at most 1 KiB.
    pub side: Option<Vec<u8>>,
}

/// A run to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The task.
    pub id: TaskId,
    /// The attempt.
    pub attempt: Attempt,
    /// Placement's part of the spec.
    pub need: Need,
    /// An encoded [`crate::spec::Work`]; its blob is here.
    pub payload: Data,
    /// An agent runs it: a prompt, or a skill that the mesh cannot run by itself.
    pub agent: bool,
    /// `CLAWMESH_FENCE`: `<n>.<peer>.<k>`.
    pub fence: String,
}

/// What the store gave back at start.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// All intact entries.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// The side file's content.
    pub side: Option<Vec<u8>>,
    /// The store's random number.
    pub store: u64,
    /// Starts, this one included.
    pub boot: u64,
    /// The store was damaged and what could be read was imported into a new one (D3).
    pub quarantined: bool,
    /// Blobs that are here.
    pub blobs: BTreeSet<Hash>,
}

/// Something worth a log line, a counter or a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// This node asks whether a claim makes sense.
    Election {
        /// Why.
        why: &'static str,
    },
    /// This node claimed.
    Claimed(Epoch),
    /// This node serves: it may cause effects in this epoch.
    Serving(Epoch),
    /// This node no longer coordinates.
    SteppedDown(Epoch, &'static str),
    /// This node follows.
    Following(Epoch),
    /// This node goes by these voters now: the write that made them, and their number.
    Configured(Ver, u64),
    /// A replica counts for the writes of this epoch.
    Joined(Epoch, Peer),
    /// A replica that counted gives up its seat (W5), because it can't be reached or a better one has joined.
    Unseated(Epoch, Peer),
    /// A task became known to this coordinator.
    Submitted(TaskId),
    /// A write became stable: who has it, including this node.
    Stable {
        /// The coordinator's epoch.
        epoch: Epoch,
        /// Up to this write.
        seq: u64,
        /// Holders that were needed.
        copies: u32,
        /// How long the oldest of these writes took, ms.
        took_ms: u64,
    },
    /// An acknowledgement left for the origin.
    Acked(TaskId, u32),
    /// An attempt left for its worker.
    Assigned(TaskId, Attempt, Peer, u64),
    /// An attempt ended, by the coordinator's verdict.
    AttemptEnded(TaskId, Attempt, End),
    /// The coordinator recorded the outcome; ms since it first saw the task.
    Decided(TaskId, End, u64),
    /// The origin accepted an outcome; ms since the submit here, when it was in this boot.
    Accepted(TaskId, End, Option<u64>),
    /// A second, different outcome reached the origin and was not shown.
    SecondOutcome(TaskId),
    /// A worker spawns.
    Spawned(TaskId, Attempt),
    /// Something impossible or hostile was refused; the word is the counter's label.
    Alarm(&'static str),
    /// A message was dropped; the word is the counter's label.
    Dropped(&'static str),
    /// A relay was at work (E11): `opened`, `ended`, `replaced`
    /// (by a direct link), `sent`, `taken` by an end of a channel, `passed`, `refused` by who is in between.
    Relayed {
        /// Which.
        what: &'static str,
        /// The other end; for who is in between, the author.
        peer: Peer,
        /// Of what was taken or passed on the author's session, otherwise our own.
        session: u64,
        /// The number of what was taken, otherwise 0.
        n: u64,
    },
    /// The clock jumped by so many ms.
    Tilt(u64),
    /// A member's state changed.
    Member(Peer, &'static str),
    /// A member holds other notes than it last said: what stands in them, in short; 0 = it shares none any more.
    Notes(Peer, u64),
}
