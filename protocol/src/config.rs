//! The constants of the protocol and the few settings a node brings (table in this crate's README).

use alloc::{string::String, vec::Vec};

use crate::ids::Peer;

/// The driver hands in a tick at least this often, ms.
pub const WAKE_MAX_MS: u64 = 500;
/// Period of the coordinator's heartbeat, ms.
pub const HB_MS: u64 = 500;
/// Silence of the heartbeat after which the coordinator is suspect, ms (E1).
pub const T_SUSPECT_MS: u64 = 3_000;
/// Upper bound of the wait for answers to `Pre`, ms (E4).
pub const T_PRE_MS: u64 = 400;
/// So long after its start a node waits for the members it remembers before it claims (E4).
pub const BOOT_WAIT_MS: u64 = 2_000;
/// Upper bound of the wait for answers to `Claim`, ms.
pub const T_CLAIM_MS: u64 = 800;
/// How long somebody who said `PreHigher` has to claim, ms (E5).
pub const T_ANSWER_MS: u64 = 2_000;
/// A pull that makes no progress for so long drops the follower; it re-joins (T2), ms.
pub const T_STALL_MS: u64 = 3_000;
/// How long fewer than d holders must last before their number is enough (W2), ms.
pub const T_FEWER_MS: u64 = 2_000;
/// Largest step of an epoch's number that is believed (E6).
pub const POISON_STEP: u64 = 1 << 20;
/// Epochs claimed by voters are numbered from here: above every epoch of open mode, so that what a majority has settled is
/// newer than whatever a side did that had not heard of the voters yet (C2).
pub const VOTED: u64 = 1 << 40;
/// Size of the council (E2).
pub const COUNCIL: usize = 8;
/// Quiet time after a gap of the clock, ms (L1).
pub const TILT_MS: u64 = 5_000;
/// Replicas, the coordinator included (W5).
pub const K: usize = 3;
/// Copies before an effect (W1), where the mesh has so many nodes.
pub const D: usize = 2;
/// How long a replica keeps its seat although a better one is there (W5), ms.
pub const STICKY_MS: u64 = 600_000;
/// Crashes after which a task is poison (S5).
pub const CRASHES_MAX: u32 = 3;
/// Losses after which a task is given up (S4).
pub const LOSSES_MAX: u32 = 10;
/// Longest back-off between attempts, ms.
pub const BACKOFF_MAX_MS: u64 = 300_000;
/// Unacknowledged submits of one origin on the way at once (S9).
pub const SUBMIT_WINDOW: usize = 2_048;
/// Most tasks the mesh holds that have not ended; more are refused as full.
pub const TASKS_MAX: usize = 1_000_000;
/// Ended tasks kept, when not yet older than [`RETAIN_MS`].
pub const RETAIN_COUNT: usize = 100_000;
/// How long ended tasks are kept, ms of the coordinator's awake time at least (7 days).
pub const RETAIN_MS: u64 = 7 * 86_400_000;
/// Unacknowledged bytes on the way to one replica.
pub const REPL_WINDOW: usize = 2 << 20;
/// Members remembered; of more, the longest silent are forgotten.
pub const MEMBERS_MAX: usize = 4_096;
/// Waiting local requests.
pub const REQUESTS_MAX: usize = 65_536;
/// How long a coordinator that hands over waits until all is stable (E9), ms.
pub const T_DRAIN_MS: u64 = 2_000;
/// How long it then waits for the other one's claim before it takes its place back, ms.
pub const T_GRANT_MS: u64 = 3_000;
/// This version's protocol number.
pub const PROTO: u32 = 2;
/// The protocol from which all members can read the record of a prompt (V3).
pub const PROTO_PROMPTS: u32 = 2;

/// Long times of the protocol.  The product uses the default; the simulator shrinks them, so that an hour's
/// events fit into a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Steady contact before a node of higher priority asks for the coordination (E9), ms; doubles with each flap.
    pub steady_ms: u64,
    /// A coordinator's shortest term before it hands over (E9), ms.
    pub tenure_ms: u64,
    /// A term that ends sooner is a flap; a longer one forgets all flaps (E9), ms.
    pub settled_ms: u64,
    /// Writes that wait so long without any becoming stable end a term (E10), ms ...
    pub stuck_ms: u64,
    /// ... and its node does not stand for so long, ms.
    pub barred_ms: u64,
    /// How long the smaller side of a split holds tasks back (S7), ms ...
    pub hold_ms: u64,
    /// ... and one of two halves, ms.
    pub hold_half_ms: u64,
    /// Who has been away for so long is no member in that count, ms.
    pub absent_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            steady_ms: 30_000,
            tenure_ms: 60_000,
            settled_ms: 600_000,
            stuck_ms: 10_000,
            barred_ms: 60_000,
            hold_ms: 600_000,
            hold_half_ms: 30_000,
            absent_ms: 60_000,
        }
    }
}

/// What a node brings to the mesh.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its key.
    pub peer: Peer,
    /// Its name, for people; at most 64 characters.
    pub name: String,
    /// Rank among candidates; the highest coordinates.
    pub prio: u32,
    /// May coordinate.
    pub can_lead: bool,
    /// Tasks run at once, 0 to 10,000.
    pub slots: u32,
    /// Agents run at once, beside the slots, 0 to 1,000; 0 = none, whatever is installed.
    pub agent_slots: u32,
    /// Runs commands (argv) for members.
    pub commands: bool,
    /// Labels.
    pub labels: Vec<String>,
    /// Silence after which a worker is lost (S4), ms of awake time.
    pub lost_after_ms: u64,
    /// The program's version, for people.
    pub version: String,
    /// Replicas (K) and copies (d): [`K`] and [`D`] in the product, varied by the simulator.
    pub replicas: usize,
    /// See `replicas`.
    pub copies: usize,
    /// Bounds that a test of minutes would never meet: [`Tune::default`] in the product, shrunk by the simulator.
    pub tune: Tune,
    /// The highest protocol this node understands: [`PROTO`] in the product, varied by tests (V3).
    pub proto: u32,
    /// Long times; the default in the product.
    pub timing: Timing,
}

/// Bounds of tables, windows and seats.  Smaller ones are met sooner; none of them may cost a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tune {
    /// [`SUBMIT_WINDOW`], at least 1.
    pub submit_window: usize,
    /// [`TASKS_MAX`], at least 1.
    pub tasks_max: usize,
    /// [`RETAIN_COUNT`].
    pub retain_count: usize,
    /// [`RETAIN_MS`], ms.
    pub retain_ms: u64,
    /// [`REPL_WINDOW`], bytes, at least 1.
    pub repl_window: usize,
    /// [`STICKY_MS`], ms.
    pub sticky_ms: u64,
}

impl Default for Tune {
    fn default() -> Self {
        Self {
            submit_window: SUBMIT_WINDOW,
            tasks_max: TASKS_MAX,
            retain_count: RETAIN_COUNT,
            retain_ms: RETAIN_MS,
            repl_window: REPL_WINDOW,
            sticky_ms: STICKY_MS,
        }
    }
}
