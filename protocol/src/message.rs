#![allow(missing_docs, reason = "the fields are named after the rules that explain them")]
//! What nodes say to each other.  Rule numbers are those of this crate's README.

use alloc::{string::String, vec::Vec};

use crate::{
    codec::Blob,
    ids::{Attempt, Epoch, Hash, Origin, Peer, ShortId, TaskId},
    quorum::{Change, MeshConfig},
    record::Outcome,
    relay::{NoRoute, Relay},
    skill::{Catalogue, SkillRuns},
    spec::{Data, Need, Strategy},
    wire_enum, wire_struct, wire_tuple,
};

/// Most items (records, ids, attempts) in one message; more goes into the next message.
pub const ITEMS_MAX: usize = 512;
/// Most bytes of records in one message; keeps a frame well below the link's cap of 1 MiB.
pub const BYTES_MAX: usize = 256 << 10;

/// The order of candidates (bully): the greatest wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Holds the state of the last epoch it saw.
    pub synced: bool,
    /// Configured priority.
    pub prio: u32,
    /// Breaks ties.
    pub peer: Peer,
}
wire_tuple!(Rank { synced, prio, peer });

/// What decides between two coordinators that meet (E8): the greater stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight {
    /// Nodes that follow it, itself included.
    pub followers: u32,
    /// Configured priority.
    pub prio: u32,
    /// Breaks ties.
    pub peer: Peer,
}
wire_tuple!(Weight { followers, prio, peer });

wire_struct! {
    /// The coordinator's heartbeat (gossip).
    pub struct Hb {
        1 => epoch: Epoch,
        2 => weight: Weight,
        /// Who it has heard an `HbAck` from in the last three seconds; at most 64.
        3 => heard: Vec<Peer>,
        /// Highest stable write.
        4 => stable_seq: u64,
        /// Writes not yet stable.
        5 => pending: u64,
        /// Root digest of its table.
        6 => root: u128,
        /// Nodes that hold the state.
        7 => replicas: Vec<Peer>,
        /// Waiting by priority: critical, high, normal, low; then running, parked, ended.
        8 => queue: Vec<u64>,
        9 => strategy: Strategy,
        /// Rises with every heartbeat of this boot; tells new from re-flooded.
        10 => beat: u64,
        /// The protocol of the mesh (V3).
        11 => proto: u32,
        /// It serves by a majority of voters (quorum mode).
        20 => majority: bool,
    }
}

wire_struct! {
    /// What a node says of itself (gossip, and directly when a link comes up).
    pub struct Advert {
        1 => peer: Peer,
        2 => boot: u64,
        3 => store: u64,
        4 => name: String,
        5 => prio: u32,
        /// May coordinate now (E2).
        6 => eligible: bool,
        7 => synced: bool,
        /// Tasks it runs at once.
        8 => slots: u32,
        /// Tasks it runs in them.
        9 => running: u32,
        /// Takes no new tasks.
        10 => draining: bool,
        /// Accepts commands (argv) at all.
        11 => commands: bool,
        12 => labels: Vec<String>,
        /// Name of its catalogue.
        13 => skills: Hash,
        /// Its own floor (G1), when it has one.
        14 => floor: Option<Floor>,
        15 => host: String,
        16 => platform: String,
        17 => arch: String,
        18 => addresses: Vec<String>,
        19 => cpus: u32,
        20 => cpu_percent: u32,
        21 => memory_mib: u64,
        22 => memory_free_mib: u64,
        23 => disk_mib: u64,
        24 => disk_free_mib: u64,
        /// Age of these figures when sent, ms.
        25 => age_ms: u64,
        26 => version: String,
        27 => proto_min: u32,
        28 => proto_max: u32,
        /// Rises with every advert of this boot.
        29 => beat: u64,
        /// Where its mesh port can be reached, as multiaddrs; at most 8.
        30 => mesh: Vec<String>,
        /// The agent that runs prompts here (`openclaw`), at most 128 bytes; empty = none.
        40 => agent: String,
        /// Agents it runs at once, beside its slots.
        41 => agent_slots: u32,
        /// Agents it runs.
        42 => agent_running: u32,
        /// What stands in the notes it holds, in short (nodes with the same notes say the same); 0 = it shares none.
        50 => notes: u64,
    }
}

/// A point below which an origin needs nothing any more (G1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    /// Whose ids.
    pub origin: Origin,
    /// Incarnation and sequence, inclusive.
    pub inc: u64,
    /// See `inc`.
    pub seq: u64,
}
wire_tuple!(Floor { origin, inc, seq });

wire_struct! {
    /// A wish to know whether a claim makes sense (E3).  Persists nothing.
    pub struct Pre { 1 => rank: Rank, 2 => n: u64, /** Tells rounds apart. */ 3 => round: u64 }
}
wire_struct! {
    /// There is a leader: follow it.
    pub struct PreLeader { 1 => round: u64, 2 => epoch: Epoch, 3 => peer: Peer }
}
wire_struct! {
    /// I am better: wait for me.
    pub struct PreHigher { 1 => round: u64, 2 => n: u64 }
}
wire_struct! {
    /// No objection; my promise's number.
    pub struct PreOk { 1 => round: u64, 2 => n: u64, /** The store that consents: a voter is a node with its store. */ 20 => store: u64 }
}
wire_struct! {
    /// I coordinate in this epoch (E6).
    pub struct Claim { 1 => epoch: Epoch, /** The voters that the claimant means to satisfy. */ 20 => config: Option<MeshConfig> }
}
wire_struct! {
    /// No: my promise is higher, or there are voters that you don't know.
    pub struct Reject { 1 => n: u64, 2 => epoch: Epoch, 20 => config: Option<MeshConfig> }
}
wire_struct! {
    /// I promised your epoch (sent after it is durable), and this is what I hold.
    pub struct Follow {
        1 => epoch: Epoch,
        2 => store: u64,
        3 => boot: u64,
        4 => root: u128,
        5 => count: u64,
        6 => floors: Vec<Floor>,
        7 => settings: Option<Settings>,
        /// Tells a re-sent `Follow` of a re-joined follower from a late one.
        8 => join: u64,
        /// The newest voters it knows.
        20 => config: Option<MeshConfig>,
    }
}
wire_struct! {
    /// Mesh-wide settings: the highest `(epoch, seq)` wins.
    pub struct Settings {
        1 => epoch: Epoch, 2 => seq: u64, 3 => strategy: Strategy,
        /// Who the mesh is, for telling the smaller side of a split (S7): the first 8 bytes of each key, the best first.
        10 => members: Blob,
        /// The protocol that all members understand (V3); 0 = not recorded, the first.
        11 => proto: u32,
        /// Settings by name, in the order of their names; kept in a store entry of their own.
        12 => values: Vec<Setting>,
        /// The latest changes, the last one last; kept with the values.
        13 => log: Vec<SettingChange>,
    }
}
wire_struct! {
    /// A setting of the whole mesh.
    pub struct Setting { 1 => key: String, 2 => value: String }
}
wire_struct! {
    /// Who changed what.
    pub struct SettingChange {
        1 => key: String,
        /// The beginning of the new value.
        2 => value: String,
        /// It was removed.
        3 => gone: bool,
        /// The node on which it was said.
        4 => by: Peer,
        /// By whom, as that node said.
        5 => user: String,
        /// Wall clock of the coordinator, ms.
        6 => at: u64,
    }
}
wire_struct! {
    /// Change a setting by name; without a value, remove it.
    pub struct ChangeSetting { 1 => req: u64, 2 => key: String, 3 => value: Option<String>, 4 => user: String }
}
wire_struct! {
    /// The lighter of two coordinators asks the heavier to take its side in (E8).
    pub struct Join { 1 => n: u64 }
}
wire_struct! {
    /// A follower tells its leader of another one (E7).
    pub struct Rival { 1 => epoch: Epoch, 2 => weight: Weight, /** See [`Hb`]. */ 20 => majority: bool }
}
wire_struct! {
    /// I hear you.
    pub struct HbAck { 1 => epoch: Epoch, 2 => boot: u64 }
}
wire_struct! {
    /// Ask for all bucket digests (`buckets` empty), or for the records of these buckets (T1),
    /// in order of `(bucket, id)`, after `after`.
    pub struct Pull {
        1 => epoch: Epoch,
        2 => buckets: Vec<u16>,
        3 => after: Option<TaskId>,
        /// Which request this is; the answer repeats it.
        4 => number: u64,
    }
}
wire_struct! {
    /// The digests, or a page of records; `more` when `after` must continue.
    pub struct PullResp {
        1 => epoch: Epoch,
        /// 4,096 digests of 16 bytes, when they were asked for.
        2 => digests: Blob,
        3 => recs: Vec<Blob>,
        /// The last bucket that `recs` covers is not finished, or more buckets follow.
        4 => more: bool,
        /// How many of the asked buckets are done.
        5 => done: u32,
        6 => last: Option<TaskId>,
        /// The number of the request, so that an answer to an earlier one is not taken for it.
        7 => number: u64,
    }
}
wire_struct! {
    /// Records to hold (W3).  Applying all writes of this epoch up to this one makes `upto` true.
    pub struct Write {
        1 => epoch: Epoch,
        /// The follower has every write up to here once this one is durable; 0 = says nothing.
        2 => upto: u64,
        3 => recs: Vec<Blob>,
        /// Records to delete (G3).
        4 => dels: Vec<TaskId>,
        5 => floors: Vec<Floor>,
        6 => settings: Option<Settings>,
        /// The follower holds all that the coordinator holds once this is durable.
        7 => synced: bool,
        /// Blobs that these records name and nobody in reach has (W4): don't wait for them.
        8 => missing: Vec<Hash>,
        /// The voters, when they changed.
        20 => config: Option<MeshConfig>,
    }
}
wire_struct! {
    /// Durable here up to `upto`.
    pub struct Ack { 1 => epoch: Epoch, 2 => store: u64, 3 => boot: u64, 4 => upto: u64 }
}
wire_struct! {
    /// You need not hold the table any more: enough others do (W5).
    pub struct Release {
        1 => epoch: Epoch, 2 => root: u128,
        /// [`Follow::join`] of the follower as it is known here; 0 = not said.
        3 => join: u64,
    }
}
wire_struct! {
    /// A task for the queue (O1).
    pub struct Submit {
        1 => id: TaskId, 2 => need: Need, 3 => payload: Data, 4 => submitted_at: u64,
        /// It may have been acknowledged before: it must not be refused for what can change.
        5 => again: bool,
    }
}
wire_struct! {
    /// On `copies` disks.  `joined`: an older task with the same key stands for it (O4).
    pub struct SubmitAck { 1 => id: TaskId, 2 => copies: u32, 3 => epoch: Epoch }
}
wire_struct! {
    /// Not accepted, for good.  An encoded [`crate::face::Refusal`].
    pub struct SubmitRefused {
        1 => id: TaskId, 2 => refusal: Blob,
        /// It answers a submit that was not said [`Submit::again`].
        3 => first: bool,
    }
}
wire_struct! {
    /// Run this (S2).
    pub struct Assign {
        1 => epoch: Epoch, 2 => id: TaskId, 3 => attempt: Attempt, 4 => wboot: u64, 5 => need: Need, 6 => payload: Data,
        /// Who has the payload's blob.
        7 => holders: Vec<Peer>,
    }
}
wire_struct! {
    /// I will not run this; nothing is charged.
    pub struct Refuse { 1 => id: TaskId, 2 => attempt: Attempt, 3 => why: String }
}
wire_struct! {
    /// The attempt ended (S3).
    pub struct Report { 1 => id: TaskId, 2 => attempt: Attempt, 3 => outcome: Outcome }
}
wire_struct! {
    /// The report is settled: forget the attempt.  Not sent for a result that is not stable.
    pub struct ReportAck { 1 => id: TaskId, 2 => attempt: Attempt }
}
wire_struct! {
    /// End this attempt, even if it is not known yet (S2).
    pub struct Kill { 1 => epoch: Epoch, 2 => id: TaskId, 3 => attempt: Attempt }
}
wire_struct! {
    /// The attempts a worker knows (T6).  `complete` when it is the last part.
    pub struct Inventory { 1 => epoch: Epoch, 2 => boot: u64, 3 => running: Vec<(TaskId, Attempt)>, 4 => complete: bool }
}
wire_struct! {
    /// The result, for its origin (O2).
    pub struct Deliver { 1 => epoch: Epoch, 2 => id: TaskId, 3 => outcome: Outcome }
}
wire_struct! {
    /// The origin has accepted this outcome, durably (O3).
    pub struct Delivered { 1 => id: TaskId, 2 => outcome: Outcome }
}
wire_struct! {
    /// `delivered` is stable: the origin may forget these.
    pub struct Settled { 1 => epoch: Epoch, 2 => ids: Vec<TaskId> }
}
wire_struct! {
    /// Tasks of mine that have no result yet; tell me which you lack (O1).
    pub struct Offer { 1 => ids: Vec<TaskId> }
}
wire_struct! {
    /// Submit these again.
    pub struct Want { 1 => ids: Vec<TaskId> }
}
wire_struct! {
    /// A person's wish; the id may be a prefix.
    pub struct Cancel { 1 => req: u64, 2 => id: String }
}
wire_struct! {
    /// The wish is stable, or refused (an encoded [`crate::face::Refusal`]).
    pub struct CancelAck { 1 => req: u64, 2 => id: Option<ShortId>, 3 => state: String, 4 => refusal: Blob }
}
wire_struct! {
    /// An encoded [`crate::face::Query`].
    pub struct QueryMsg { 1 => req: u64, 2 => query: Blob }
}
wire_struct! {
    /// An encoded [`crate::face::Answer`].
    pub struct AnswerMsg { 1 => req: u64, 2 => answer: Blob }
}
wire_struct! {
    /// Choose the mesh's strategy.
    pub struct SetStrategy { 1 => req: u64, 2 => strategy: Strategy }
}
wire_struct! {
    /// Done, stable.
    pub struct SettingsAck { 1 => req: u64 }
}
wire_struct! {
    /// Name, add or remove voters (C2).
    pub struct ChangeQuorum {
        1 => req: u64, 2 => change: Change, 3 => nodes: Vec<Peer>,
        /// Of the new voters, those that only hold and vote (C4).
        4 => witnesses: Vec<Peer>,
    }
}
wire_struct! {
    /// The voters, for followers that are none.
    pub struct Configure { 1 => epoch: Epoch, 2 => config: MeshConfig }
}
wire_struct! {
    /// Forget a node that is gone for good (G4).
    pub struct ForgetNode { 1 => req: u64, 2 => peer: Peer }
}
wire_struct! {
    /// The setting was refused: an encoded [`crate::face::Refusal`].
    pub struct SettingsRefused { 1 => req: u64, 2 => refusal: Blob }
}
wire_struct! {
    /// I leave in order: nothing of mine runs any more (E9, L3).
    pub struct Bye {
        1 => boot: u64,
        2 => epoch: Epoch,
        /** Attempts that were ended by leaving. */
        3 => why: String,
        /** Its machine sleeps: it is the same boot that comes back, and what it runs goes on then (L3). */
        4 => asleep: bool,
        /** Number of its last advert: a later one says that it is awake. */
        5 => beat: u64,
    }
}
wire_struct! {
    /// Not now: ask again after this many ms (S9).  For a submit, `id` says which.
    pub struct Busy { 1 => id: Option<TaskId>, 2 => retry_after_ms: u64, 3 => full: bool }
}
wire_struct! {
    /// I do not coordinate; who may (E11: never followed to a lower epoch).
    pub struct NotCoordinator { 1 => epoch: Epoch, 2 => leader: Option<Peer>, 3 => req: u64, 4 => id: Option<TaskId> }
}
wire_struct! {
    /// Send me the catalogue with this hash.
    pub struct WantCatalogue { 1 => hash: Hash }
}
wire_struct! {
    /// A node's catalogue.
    pub struct CatalogueMsg { 1 => catalogue: Catalogue }
}
wire_struct! {
    /// My priority is higher than yours and I hold what you hold: let me coordinate (E9).
    pub struct HandReq { 1 => epoch: Epoch, 2 => prio: u32 }
}
wire_struct! {
    /// All I wrote is stable, and I begin nothing new: claim (E9).
    pub struct HandGrant { 1 => epoch: Epoch, 2 => root: u128 }
}
wire_struct! {
    /// Who is here is the mesh: hold nothing back (S7).
    pub struct Adopt { 1 => req: u64 }
}
wire_enum! {
    /// One message between two nodes.
    pub enum Message {
        1 => Advert(Advert),
        2 => HbAck(HbAck),
        3 => Pre(Pre),
        4 => PreLeader(PreLeader),
        5 => PreHigher(PreHigher),
        6 => PreOk(PreOk),
        7 => Claim(Claim),
        8 => Reject(Reject),
        9 => Follow(Follow),
        10 => Join(Join),
        11 => Rival(Rival),
        12 => Pull(Pull),
        13 => PullResp(PullResp),
        14 => Write(Write),
        15 => Ack(Ack),
        16 => Release(Release),
        17 => Submit(Submit),
        18 => SubmitAck(SubmitAck),
        19 => SubmitRefused(SubmitRefused),
        20 => Assign(Assign),
        21 => Refuse(Refuse),
        22 => Report(Report),
        23 => ReportAck(ReportAck),
        24 => Kill(Kill),
        25 => Inventory(Inventory),
        26 => Deliver(Deliver),
        27 => Delivered(Delivered),
        28 => Settled(Settled),
        29 => Offer(Offer),
        30 => Want(Want),
        31 => Cancel(Cancel),
        32 => CancelAck(CancelAck),
        33 => Query(QueryMsg),
        34 => Answer(AnswerMsg),
        35 => SetStrategy(SetStrategy),
        36 => SettingsAck(SettingsAck),
        37 => Bye(Bye),
        38 => Busy(Busy),
        39 => NotCoordinator(NotCoordinator),
        40 => WantCatalogue(WantCatalogue),
        41 => Catalogue(CatalogueMsg),
        42 => Hb(Hb),
        43 => ForgetNode(ForgetNode),
        44 => SettingsRefused(SettingsRefused),
        45 => HandReq(HandReq),
        46 => HandGrant(HandGrant),
        47 => Adopt(Adopt),
        48 => Settings(Settings),
        50 => Relay(Relay),
        51 => NoRoute(NoRoute),
        60 => ChangeQuorum(ChangeQuorum),
        61 => Configure(Configure),
        62 => ChangeSetting(ChangeSetting),
    }
}

wire_enum! {
    /// One gossip message.
    pub enum Gossip {
        1 => Hb(Hb),
        2 => Advert(Advert),
        3 => Runs(SkillRuns),
    }
}
