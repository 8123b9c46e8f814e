//! The JSON shapes of the API that are not already in `clawmesh_protocol::face`.

use std::borrow::Cow;

use clawmesh_protocol::{
    face::{State, StatusView, TaskView},
    files::FileRef,
    ids::{Peer, ShortId},
    quorum::Change,
    record::{Captured, Usage},
};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

/// The contents of `<home>/api.json`: where the node of this home listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApiFile {
    /// Address and port.
    pub(crate) addr: std::net::SocketAddr,
    /// The node's process.
    pub(crate) pid: u32,
    /// The node's id.
    pub(crate) node: Peer,
}

/// A skill file in this node's folders with its verdict.
pub(crate) use crate::skills::Report as LocalSkill;

/// An error as `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// The kind of error in one word, stable for programs: `invalid`, `unknown_skill`, `not_found`, `ambiguous`,
    /// `full`, `no_coordinator`, `unauthorized`, `forbidden_host`, `too_large`, `busy`, `timeout`, `stopping`,
    /// `not_started`, `internal`.
    pub(crate) code: String,
    /// The HTTP status.
    pub(crate) status: u16,
    /// What happened, in a few words.
    pub(crate) title: Box<str>,
    /// What happened exactly and what the likely cause is.
    pub(crate) detail: String,
    /// What to type next; empty when nothing helps.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) next: String,
    /// Ids or names that were perhaps meant; at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) candidates: Vec<String>,
}

/// An acknowledged task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    /// Its printed id.
    pub(crate) id: ShortId,
    /// On how many disks it was when acknowledged.
    pub(crate) copies: u32,
}

/// One entry of the answer to a submit of several tasks, in the order of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Entry {
    /// The task is in the mesh.
    Accepted(Accepted),
    /// It is not, and why.
    Refused {
        /// Why.
        error: Problem,
    },
}

/// The answer to a submit of several tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch {
    /// One entry per task, in order.
    pub(crate) tasks: Vec<Entry>,
}

/// A page of tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    /// Newest first.
    pub(crate) tasks: Vec<TaskView>,
    /// There are others below: ask again with `before` = the last id.
    pub(crate) more: bool,
}

/// What a task wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Captures {
    /// Standard output; where it is not UTF-8, with replacement characters.
    pub(crate) stdout: String,
    /// Standard error; where it is not UTF-8, with replacement characters.
    pub(crate) stderr: String,
    /// The bytes of stdout, only when they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stdout_base64: Option<String>,
    /// The bytes of stderr, only when they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stderr_base64: Option<String>,
    /// Bytes of stdout that the worker's cap cut out.
    pub(crate) stdout_cut: u64,
    /// Bytes of stderr that the worker's cap cut out.
    pub(crate) stderr_cut: u64,
    /// What an agent's run took, when an agent answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<AgentUsage>,
    /// Files of the working directory that were kept as blobs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) files: Vec<FileRef>,
}

/// What an agent's run took, by its own word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentUsage {
    /// The agent.
    pub(crate) agent: String,
    /// Who serves the model; empty when the agent does not say.
    pub(crate) provider: String,
    /// The model; empty when the agent does not say.
    pub(crate) model: String,
    /// Tokens that the model read.
    pub(crate) input_tokens: u64,
    /// Tokens that it wrote.
    pub(crate) output_tokens: u64,
    /// All tokens.
    pub(crate) total_tokens: u64,
    /// Calls of tools.
    pub(crate) tool_calls: u64,
    /// Answers of the model.
    pub(crate) turns: u64,
}

impl From<Usage> for AgentUsage {
    fn from(u: Usage) -> Self {
        Self {
            agent: u.agent,
            provider: u.provider,
            model: u.model,
            input_tokens: u.input,
            output_tokens: u.output,
            total_tokens: u.total,
            tool_calls: u.tool_calls,
            turns: u.turns,
        }
    }
}

impl From<Captured> for Captures {
    fn from(c: Captured) -> Self {
        let (stdout, stdout_base64) = text(c.stdout.0);
        let (stderr, stderr_base64) = text(c.stderr.0);
        Self {
            stdout,
            stderr,
            stdout_base64,
            stderr_base64,
            stdout_cut: c.stdout_cut,
            stderr_cut: c.stderr_cut,
            usage: c.usage.map(Into::into),
            files: c.files,
        }
    }
}

impl Captures {
    /// Standard output exactly as the task wrote it.
    pub(crate) fn stdout_bytes(&self) -> Cow<'_, [u8]> {
        bytes(&self.stdout, self.stdout_base64.as_deref())
    }
    /// Standard error exactly as the task wrote it.
    pub(crate) fn stderr_bytes(&self) -> Cow<'_, [u8]> {
        bytes(&self.stderr, self.stderr_base64.as_deref())
    }
    /// Length of both in memory, bytes.
    pub(crate) fn len(&self) -> usize {
        let extra = |b: &Option<String>| b.as_ref().map_or(0, String::len);
        self.stdout.len() + self.stderr.len() + extra(&self.stdout_base64) + extra(&self.stderr_base64)
    }
}

fn text(raw: Vec<u8>) -> (String, Option<String>) {
    match String::from_utf8(raw) {
        Ok(s) => (s, None),
        Err(e) => (String::from_utf8_lossy(e.as_bytes()).into_owned(), Some(BASE64.encode(e.as_bytes()))),
    }
}

fn bytes<'a>(text: &'a str, exact: Option<&str>) -> Cow<'a, [u8]> {
    match exact.and_then(|b| BASE64.decode(b.as_bytes()).ok()) {
        Some(raw) => Cow::Owned(raw),
        None => Cow::Borrowed(text.as_bytes()),
    }
}

/// A task with what it wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The task.
    pub(crate) task: TaskView,
    /// What it wrote; none while it has not ended, or when nothing was kept.
    pub(crate) output: Option<Captures>,
    /// Where the deciding attempt ran, or where the present one runs.
    pub(crate) worker: Option<Peer>,
    /// That attempt's number.
    pub(crate) attempt: Option<u32>,
}

/// What `POST /tasks/wait` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitFor {
    /// Ids or unique prefixes, 1 to 10,000.
    pub(crate) ids: Vec<String>,
    /// Longest wait, ms; at most 60,000.
    #[serde(default = "wait_default_ms")]
    pub(crate) timeout_ms: u64,
    /// Answer when so many have ended; 1 when left out.
    #[serde(default = "one")]
    pub(crate) min: usize,
    /// Bring what the tasks wrote; true when left out.
    #[serde(default = "yes")]
    pub(crate) output: bool,
}

/// A long poll of half a minute passes every proxy.
fn wait_default_ms() -> u64 {
    30_000
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

/// What `POST /tasks/wait` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waited {
    /// Those of the asked tasks that have ended; empty when the time passed.
    pub(crate) ended: Vec<Ended>,
}

/// The end of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// The id or prefix as it was asked for.
    pub(crate) asked: String,
    /// Printed id.
    pub(crate) id: ShortId,
    /// Final state.
    pub(crate) state: State,
    /// The process's exit code.
    pub(crate) exit_code: Option<i32>,
    /// Why, as a sentence.
    pub(crate) reason: String,
    /// Where it ran.
    pub(crate) node: Option<Peer>,
    /// What it wrote.  None when it was not asked for, when there is none, or when the answer was full already:
    /// then `output_elsewhere` is true and `/tasks/ID/result` has it.
    pub(crate) output: Option<Captures>,
    /// The output exists and must be asked for by itself.
    #[serde(default)]
    pub(crate) output_elsewhere: bool,
}

/// This node's state and its view of the mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// The core's view.
    #[serde(flatten)]
    pub(crate) view: StatusView,
    /// The mesh's name.
    pub(crate) mesh: String,
    /// Where the API listens: address and port.
    pub(crate) api: String,
    /// Where the mesh port listens, as multiaddrs.
    pub(crate) mesh_addresses: Vec<String>,
    /// The node's process.
    pub(crate) pid: u32,
    /// The program's version.
    pub(crate) version: String,
    /// The node's home directory.
    pub(crate) home: String,
    /// The node runs commands for members.
    pub(crate) commands: bool,
}

/// The answer to a cancel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cancelled {
    /// Printed id.
    pub(crate) id: ShortId,
    /// The state the task was in when the wish was stored.
    pub(crate) state: State,
}

/// What lets another machine join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Invitation {
    /// Holds the mesh key: whoever has it is a member.
    pub(crate) ticket: String,
}

/// What `PUT /settings/{key}` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSetting {
    /// The new value.
    #[serde(alias = "strategy")]
    pub(crate) value: String,
    /// Who wants it, for the log; not checked.
    #[serde(default)]
    pub(crate) user: String,
}

/// Done, nothing to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Always true.
    pub(crate) ok: bool,
}

/// A change of the voters; nodes by name or id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuorumChange {
    /// `init`, `add` or `remove`.
    pub(crate) change: Change,
    /// The voters it is about.
    #[serde(default)]
    pub(crate) nodes: Vec<String>,
    /// Voters that hold the records and vote, but run no tasks and never coordinate.
    #[serde(default)]
    pub(crate) witnesses: Vec<String>,
}
