//! What people and programs ask the mesh, and what it answers: plain serde types.
//! The API shows them as JSON; between nodes a [`Query`] and its [`Answer`] travel as CBOR text maps.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{
    files::FileRef,
    ids::{Hash, Peer, ShortId, TaskId},
    quorum::{Change, Mode},
    spec::{Data, Kind, OnLost, OnSplit, Priority, Spec, Strategy},
};

/// A task as a person asks for it: exactly one of `argv`, `skill` and `prompt`, or `prompt` and `skill` together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewTask {
    /// Program and arguments, never a shell string.
    pub argv: Option<Vec<String>>,
    /// A skill's name, or one of the builtins `echo`, `sleep`, `fail`.  With `prompt`: the skill that the agent shall use.
    pub skill: Option<String>,
    /// What an agent is asked to do.
    pub prompt: Option<String>,
    /// The skill's input, put on its stdin as it is (JSON for a skill that takes JSON).
    pub input: Option<String>,
    /// Environment of the process, on top of the worker's short list.
    pub env: Vec<(String, String)>,
    /// Urgency; normal when left out.
    pub priority: Option<Priority>,
    /// Overrides the mesh's strategy.
    pub strategy: Option<Strategy>,
    /// Run on this node or nowhere.
    pub pin: Option<Peer>,
    /// Labels the node must have.
    pub labels: Vec<String>,
    /// Attempts after the first, 0 to 100.
    pub retries: u32,
    /// First back-off between attempts, ms (1 s when left out); doubles up to five minutes.
    pub backoff_ms: Option<u64>,
    /// Time limit of one attempt, ms.
    pub timeout_ms: Option<u64>,
    /// Longest wait in the queue, ms.
    pub queue_timeout_ms: Option<u64>,
    /// Time limit from submit to result, ms.
    pub total_timeout_ms: Option<u64>,
    /// What a lost worker means: run again (default) or fail.
    pub on_lost: Option<OnLost>,
    /// What happens on the smaller side of a split: run, wait (default) or never.
    pub on_split: Option<OnSplit>,
    /// Never start twice; needs `pin`, or a mesh with voters.
    pub at_most_once: bool,
    /// Idempotency key: the same key and task joins the one that is there.
    pub key: Option<String>,
    /// Cores wanted.
    pub cpus: Option<u32>,
    /// Memory wanted, MiB.
    pub memory_mib: Option<u64>,
    /// Who submits it, for people.
    pub user: Option<String>,
    /// Blobs that lie as files in the working directory; a `len` that is left out is found by the node.
    pub files: Vec<FileRef>,
    /// Names or patterns (`*`, `?`, `**`) of files in the working directory that are kept as blobs.
    pub outs: Vec<String>,
}

/// What a local program asks of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Put tasks into the mesh.  Answered by [`Reply::Submitted`] when each is acknowledged or refused.
    /// At most [`SUBMIT_MAX`] at once.
    Submit(Vec<Spec>),
    /// Ask for a task's end.  Answered when the wish is stable, or with an error.
    Cancel(String),
    /// Answered by the coordinator, through any node.
    Query(Query),
    /// Tell me when the task has its result here; only for tasks submitted through this node.
    /// Answered by [`Reply::Ended`]; the caller gives up by [`Command::Forget`].
    Await(TaskId),
    /// Stop waiting: drops the pending request with this number.
    Forget(u64),
    /// The node's own view of itself and the mesh; answered at once.
    Status,
    /// The skills of the whole mesh as this node knows them; answered at once.
    Skills(SkillQuery),
    /// What these skills need of other skills; answered at once.  At most [`RESOLVE_MAX`] names.
    Resolve(Vec<String>),
    /// Choose the strategy of the whole mesh.
    SetStrategy(Strategy),
    /// Change a setting of the whole mesh: name, new value (none removes it), and who wants it.  Answered when it is stable.
    ChangeSetting(String, Option<String>, String),
    /// The settings of the whole mesh as this node knows them; answered at once.
    Settings,
    /// Take no new tasks here (true), or take them again (false).
    Drain(bool),
    /// Forget a node that is gone for good (G4): what it submitted is dead, and it can only return with a new
    /// store.  Refused while it is reachable.
    ForgetNode(Peer),
    /// Who is in reach is the mesh: what a split holds back on this side runs (S7).
    Adopt,
    /// Name, add or remove voters (C2): what, which nodes, and which of them as witnesses.  Answered when the change is
    /// stable.
    ChangeQuorum(Change, Vec<Peer>, Vec<Peer>),
    /// Leave in order: running work is handed back, `Bye` is said.  Answered when done.
    Leave,
    /// The machine is about to sleep (L3).  Answered when the others have been told, within milliseconds.
    Suspend,
    /// The machine is awake again, or the sleep was called off.
    Resume,
}

/// Most names in one [`Command::Resolve`].
pub const RESOLVE_MAX: usize = 100;

/// Most tasks in one [`Command::Submit`].
pub const SUBMIT_MAX: usize = 10_000;

/// The answer to a [`Command`].
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// One entry per task, in order.
    Submitted(Vec<Result<Submitted, Refusal>>),
    /// The cancel is stable; the state the task was in.
    Cancelled(ShortId, State),
    /// A query's answer.
    Answer(Answer),
    /// The awaited task has ended.
    Ended(TaskEnd),
    /// The node's view.
    Status(alloc::boxed::Box<StatusView>),
    /// The mesh's skills: how many the question found, and the page that was asked for.
    Skills(usize, Vec<SkillView>),
    /// What skills need.
    Resolved(Resolved),
    /// The mesh's settings.
    Settings(SettingsView),
    /// Done.
    Ok,
    /// Not done, and why.
    Refused(Refusal),
}

/// An acknowledged task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// Its printed id.
    pub id: ShortId,
    /// Its whole id, for [`Command::Await`].
    #[serde(skip)]
    pub task: Option<TaskId>,
    /// On how many disks it was when acknowledged.
    pub copies: u32,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum Refusal {
    /// The request itself is wrong.
    Invalid {
        /// What and how to mend it.
        message: String,
    },
    /// No catalogue of the mesh ever held this skill.
    UnknownSkill {
        /// As asked.
        name: String,
        /// Names that exist; at most 1,000.
        known: Vec<String>,
    },
    /// No task has this id or prefix.
    NotFound {
        /// As asked.
        id: String,
    },
    /// Several tasks have this prefix.
    Ambiguous {
        /// As asked.
        id: String,
        /// Some of them; at most 10.
        candidates: Vec<ShortId>,
    },
    /// Between nodes only: an older task with the same key and content stands for this one, and its submitter gets
    /// [`Submitted`] with the older one's id (O4).
    Joined {
        /// The older task.
        id: ShortId,
        /// On how many disks it is.
        copies: u32,
    },
    /// A disk is full, or a bound of the mesh is reached; nothing was lost.
    Full {
        /// Which bound.
        message: String,
    },
    /// Nobody coordinates at the moment.
    NoCoordinator {
        /// What this node is doing about it.
        message: String,
    },
}

/// A question for the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Tasks, newest first.
    Tasks {
        /// Only these.
        state: Option<State>,
        /// At most this many, 1 to [`LIST_MAX`].
        limit: u32,
        /// Continue below this task of the last page.
        before: Option<ShortId>,
    },
    /// One task by id or unique prefix.
    Show(String),
    /// Why it waits, or why it went where it went.
    Explain(String),
    /// Its result.
    Result(String),
}

/// Most tasks in one page of a list.
pub const LIST_MAX: u32 = 500;

/// What the coordinator says to a [`Query`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// A page of tasks; `more` when there are others below.
    Tasks {
        /// Newest first.
        tasks: Vec<TaskView>,
        /// There is a next page.
        more: bool,
    },
    /// One task.
    Task(alloc::boxed::Box<TaskView>),
    /// Reasons.
    Explain(ExplainView),
    /// A result.
    Result(ResultView),
    /// No.
    Refused(Refusal),
}

/// A task's state as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// In the queue.
    Pending,
    /// Placed, not yet reported as started.
    Scheduled,
    /// A worker has it.
    Running,
    /// Succeeded.
    Completed,
    /// Failed.
    Failed,
    /// Ended by a person.
    Cancelled,
    /// A time limit passed.
    Timeout,
}

impl State {
    /// All states in order.
    pub const ALL: [Self; 7] =
        [Self::Pending, Self::Scheduled, Self::Running, Self::Completed, Self::Failed, Self::Cancelled, Self::Timeout];
    /// The word people type and read.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
        }
    }
    /// Nothing more will happen.
    pub fn ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Timeout)
    }
}

/// A task for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// Printed id.
    pub id: ShortId,
    /// State.
    pub state: State,
    /// Why it is in this state, as a sentence; empty when there is nothing to say.
    pub reason: String,
    /// One line: the command, or the skill's name.
    pub title: String,
    /// Kind of work.
    pub kind: Kind,
    /// Skill or builtin; empty for commands.
    pub skill: String,
    /// Urgency.
    pub priority: Priority,
    /// Strategy asked for, when one was.
    pub strategy: Option<Strategy>,
    /// The submitting node.
    pub origin: Peer,
    /// Its name, when known.
    pub origin_name: String,
    /// Who submitted it.
    pub user: String,
    /// Wall clock ms.
    pub submitted_at: u64,
    /// Wall clock ms; none while it has not ended.
    pub ended_at: Option<u64>,
    /// The last attempt's exit code.
    pub exit_code: Option<i32>,
    /// Attempts after the first that were allowed.
    pub retries: u32,
    /// All attempts, oldest first.
    pub attempts: Vec<AttemptView>,
    /// Older attempts that are no longer listed.
    pub attempts_dropped: u32,
    /// A person asked for its end.
    pub cancel: bool,
    /// Its origin has accepted the result.
    pub delivered: bool,
    /// On how many disks the current version is.
    pub copies: u32,
    /// An older task with the same key (O4): both were accepted on two sides of a split.
    pub duplicate_of: Option<ShortId>,
}

/// One attempt for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptView {
    /// From 1.
    pub number: u32,
    /// The epoch that issued it.
    pub epoch: u64,
    /// Where.
    pub node: Peer,
    /// The node's name, when known.
    pub name: String,
    /// `running`, or how it ended.
    pub state: String,
    /// Wall clock ms of placement.
    pub started_at: u64,
    /// Wall clock ms of the end.
    pub ended_at: Option<u64>,
    /// The process's exit code.
    pub exit_code: Option<i32>,
    /// Why it ended, as a sentence.
    pub reason: String,
}

/// Why a task waits, or why it is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainView {
    /// Printed id.
    pub id: ShortId,
    /// State.
    pub state: State,
    /// The answer in one sentence.
    pub verdict: String,
    /// The strategy that applies.
    pub strategy: Strategy,
    /// How many tasks stand before it in the queue; none when it does not queue.
    pub ahead: Option<u64>,
    /// What each node says to it.
    pub nodes: Vec<NodeVerdict>,
    /// What the coordinator remembers of the last placement.
    pub placed: Option<String>,
}

/// What placement says about one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeVerdict {
    /// The node.
    pub node: Peer,
    /// Its name.
    pub name: String,
    /// It could run the task now.
    pub fits: bool,
    /// Lower is better; only among nodes that fit.
    pub score: Option<u64>,
    /// One sentence.
    pub reason: String,
}

/// A result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultView {
    /// The task.
    pub task: alloc::boxed::Box<TaskView>,
    /// An encoded [`crate::record::Captured`], in place or as a blob; none while the task has not ended.
    pub data: Option<DataView>,
    /// Where the attempt runs or ran: who to ask for its output and its blob.
    pub worker: Option<Peer>,
    /// The deciding or running attempt's number.
    pub attempt: Option<u32>,
}

/// [`Data`] for serde.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataView {
    /// The bytes.
    Inline(Vec<u8>),
    /// Name and length of the blob.
    Blob(Hash, u64),
}

impl From<&Data> for DataView {
    fn from(d: &Data) -> Self {
        match d {
            Data::Inline(b) => Self::Inline(b.0.clone()),
            Data::Blob(h, n) => Self::Blob(*h, *n),
        }
    }
}

/// The end of an awaited task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEnd {
    /// Printed id.
    pub id: ShortId,
    /// Final state.
    pub state: State,
    /// The process's exit code.
    pub exit_code: Option<i32>,
    /// Why, as a sentence.
    pub reason: String,
    /// What it wrote.
    pub data: DataView,
    /// Where it ran.
    pub worker: Option<Peer>,
}

/// The node's view of itself and of the mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// This node.
    pub node: Peer,
    /// Its name.
    pub name: String,
    /// Who coordinates, as far as this node knows.
    pub coordinator: Option<Peer>,
    /// The coordinator's name.
    pub coordinator_name: String,
    /// The epoch's number; 0 before the first.
    pub epoch: u64,
    /// `coordinator`, `follower` or `electing`.
    pub role: String,
    /// All members ever seen and not forgotten, this node included.
    pub members: Vec<MemberView>,
    /// The coordinator's queue, as of its last heartbeat.
    pub queue: QueueView,
    /// The mesh's strategy.
    pub strategy: Strategy,
    /// Nodes that hold the state.
    pub replicas: Vec<Peer>,
    /// Records this node holds.
    pub records: u64,
    /// A digest of these records, 32 hexadecimal digits: nodes that show the same one hold the same.
    #[serde(default)]
    pub digest: String,
    /// Tasks submitted here that have no result yet.
    pub outbox: u64,
    /// This node takes no new tasks.
    pub draining: bool,
    /// The disk refuses writes; the node is about to restart its store.
    pub store_bad: bool,
    /// The voters, when the mesh has some.
    #[serde(default)]
    pub quorum: Option<QuorumView>,
}

/// The voters, as one node sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumView {
    /// `open` only while the first voters are being settled.
    pub mode: Mode,
    /// The voters.
    pub voters: Vec<VoterView>,
    /// The voters that are about to replace them; empty when no change is under way.
    pub pending: Vec<VoterView>,
    /// How many voters it takes to serve.
    pub needed: u32,
    /// How many can be reached from here and count.
    pub counting: u32,
    /// These are enough, of the pending ones too.
    pub majority: bool,
    /// Rises with every change.
    pub number: u64,
    /// What a person should know or do; empty when all is well.
    pub warning: String,
}

/// One voter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterView {
    /// The node.
    pub node: Peer,
    /// Its name.
    pub name: String,
    /// It holds and votes, but runs no tasks and never coordinates.
    pub witness: bool,
    /// This node can talk to it.
    pub reachable: bool,
    /// Reachable, with the store it was named with.
    pub counts: bool,
    /// It has another store than the one it was named with, and does not count.
    pub replaced: bool,
}

/// A member for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    /// The node.
    pub node: Peer,
    /// Its name.
    pub name: String,
    /// `online`, `suspect`, `draining` or `offline`.
    pub state: String,
    /// Rank among candidates for coordinator.
    pub priority: u32,
    /// It is the coordinator.
    pub coordinator: bool,
    /// It is the node that answers.
    pub this: bool,
    /// Starts counted by the node itself.
    pub boot: u64,
    /// Tasks it runs at once.
    pub slots: u32,
    /// Tasks it runs in these slots, by its own last word.
    pub running: u32,
    /// The agent that runs prompts there (`openclaw`); empty when there is none.
    #[serde(default)]
    pub agent: String,
    /// Agents it runs at once, beside its slots.
    #[serde(default)]
    pub agent_slots: u32,
    /// Agents it runs, by its own last word.
    #[serde(default)]
    pub agent_running: u32,
    /// Names of its skills.
    pub skills: Vec<String>,
    /// Labels.
    pub labels: Vec<String>,
    /// What the node says of its machine.
    pub facts: Facts,
    /// Age of these figures, ms.
    pub age_ms: u64,
    /// The version of its program.
    pub version: String,
    /// The node that answers reaches it through this one only (E11).
    #[serde(default)]
    pub via: Option<Peer>,
}

/// What a node says of its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Host name.
    pub host: String,
    /// `linux`, `darwin` or `win32`.
    pub platform: String,
    /// `x86_64`, `aarch64`, …
    pub arch: String,
    /// IP addresses, the tailnet's included; at most 16.
    pub addresses: Vec<String>,
    /// Logical cores.
    pub cpus: u32,
    /// Busy share of all cores, percent.
    pub cpu_percent: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Memory available, MiB.
    pub memory_free_mib: u64,
    /// The disk that holds the home, MiB.
    pub disk_mib: u64,
    /// Free on that disk, MiB.
    pub disk_free_mib: u64,
}

/// The coordinator's queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueView {
    /// Waiting, by priority.
    pub critical: u64,
    /// Waiting, by priority.
    pub high: u64,
    /// Waiting, by priority.
    pub normal: u64,
    /// Waiting, by priority.
    pub low: u64,
    /// Placed or running.
    pub running: u64,
    /// Of the waiting ones: no live node can run them.
    pub parked: u64,
    /// Held back, because this is the smaller side of a split (S7).
    pub held: u64,
    /// Ended and still remembered.
    pub ended: u64,
}

/// The settings of the whole mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsView {
    /// By name; `strategy` is always there.
    pub values: BTreeMap<String, String>,
    /// The latest changes, the last one last.
    pub log: Vec<SettingChangeView>,
}

/// Who changed a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingChangeView {
    /// Which.
    pub key: String,
    /// The beginning of the new value; none: it was removed.
    pub value: Option<String>,
    /// The node on which it was said.
    pub node: Peer,
    /// Its name.
    pub name: String,
    /// By whom, as that node said.
    pub user: String,
    /// Wall clock of the coordinator, ms.
    pub at: u64,
}

/// Which skills are wanted: those for which everything holds that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SkillQuery {
    /// Exactly this name.
    pub name: Option<String>,
    /// All of these tags, in any case.
    pub tags: Vec<String>,
    /// This category, in any case.
    pub category: Option<String>,
    /// All of these words, or words that begin so, in name, tags, category or description.
    pub text: Option<String>,
    /// At most so many, 10,000 at most; none = as many as there are.
    pub limit: Option<usize>,
    /// So many are passed over.
    pub offset: usize,
}

/// Most skills in one answer.
const SKILLS_LISTED_MAX: usize = 10_000;

impl SkillQuery {
    /// The size of the page.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(SKILLS_LISTED_MAX).min(SKILLS_LISTED_MAX)
    }
}

/// A skill of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SkillView {
    /// Its name.
    pub name: String,
    /// Hash of the folder: two different skills of one name differ here.
    pub hash: String,
    /// Version from its front matter, or empty.
    pub version: String,
    /// One line.
    pub description: String,
    /// Category, or empty.
    pub category: String,
    /// Tags.
    pub tags: Vec<String>,
    /// The mesh can run it by itself (`metadata.clawmesh.run`).
    pub runnable: bool,
    /// What it takes: `json`, `text` or `none`; empty for a skill that only an agent can follow.
    pub input: String,
    /// It promises one JSON value.
    pub json_output: bool,
    /// The author's time limit, ms; 0 = none.
    pub timeout_ms: u64,
    /// Other skills that it needs, as written.
    pub depends: Vec<String>,
    /// What a run wants.
    pub resources: ResourcesView,
    /// Nodes that offer it: id, name, and whether the node is online.  The same as in `instances`.
    pub nodes: Vec<(Peer, String, bool)>,
    /// Each node that offers it and is not offline.
    pub instances: Vec<InstanceView>,
}

/// What a run of a skill wants.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesView {
    /// Cores; 0 = not said.
    pub cpu: f64,
    /// MiB; 0 = not said.
    pub memory_mib: u64,
    /// GPUs.
    pub gpu: f64,
    /// Anything else, by name.
    pub custom: BTreeMap<String, f64>,
}

/// A skill on one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceView {
    /// The node.
    pub node: Peer,
    /// Its name.
    pub name: String,
    /// The node's state, as in [`MemberView::state`].
    pub state: String,
    /// Attempts that ended there, by the node's own word of the last minute or so.
    pub runs: u64,
    /// Of these, the ones that succeeded.
    pub succeeded: u64,
    /// 0 to 1; none before the first run.
    pub success_rate: Option<f64>,
    /// Mean run time, ms.
    pub mean_ms: Option<u64>,
    /// 95 of 100 of the latest runs took no longer, ms, to within a fifth.
    pub p95_ms: Option<u64>,
    /// Wall clock ms of the last end.
    pub last_used: Option<u64>,
}

/// What some skills need of others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resolved {
    /// What they name themselves.
    pub direct: Vec<String>,
    /// All that is needed and there, each behind what it needs itself.
    pub all: Vec<String>,
    /// Names that no node that is here offers, or not in a version that fits.
    pub missing: Vec<String>,
    /// Circles, each as its path: the last name is the first.
    pub cycles: Vec<Vec<String>>,
    /// Every single need.
    pub needed: Vec<Needed>,
    /// There was more than is looked at in one question (10,000 needs).
    pub cut: bool,
}

/// One need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Needed {
    /// The skill that needs; empty for a name in the question.
    pub by: String,
    /// The skill that is needed.
    pub name: String,
    /// Which versions would do.
    pub range: Option<String>,
    /// The version that serves; none when it has none, or is missing.
    pub version: Option<String>,
    /// Why it is missing.
    pub missing: Option<String>,
}
