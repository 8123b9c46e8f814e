//! What the tools answer: structured content with a schema, and the same as text for models.

use clawmesh_protocol::{
    face::{MemberView, SkillView, TaskView},
    ids::Peer,
};
use data_encoding::BASE64;
use rmcp::schemars::JsonSchema;
use serde::Serialize;

use super::args::EXCERPT;

/// Characters of a description in a list.
const DESCRIPTION_MAX: usize = 300;
/// Names in a list inside an answer (a node's skills, a skill's nodes).
const NAMES_MAX: usize = 50;

/// A task, and perhaps what it wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct TaskReport {
    /// The task's id.
    pub(super) task: String,
    /// pending, scheduled, running, completed, failed, cancelled or timeout; accepted right after a submit.
    pub(super) state: String,
    /// Nothing more will happen to it.
    pub(super) ended: bool,
    /// Why it is in this state; empty when there is nothing to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) reason: String,
    /// The command, or the skill's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) title: String,
    /// The process's exit code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exit_code: Option<i32>,
    /// The name of the node on which it ran last, or runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<String>,
    /// How often it was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) attempts: Option<usize>,
    /// The idempotency key to repeat this submit with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    /// On how many disks the task was when the mesh acknowledged it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) copies: Option<u32>,
    /// What placement says to each node; only from 'status'.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) placement: Vec<Verdict>,
    /// Standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stdout: Option<Excerpt>,
    /// Standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stderr: Option<Excerpt>,
    /// What to do next; empty when nothing is left to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) next: String,
}

/// A piece of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct Excerpt {
    /// The text, or base64 when that was asked for.
    pub(super) text: String,
    /// Bytes that the mesh kept of the stream.
    pub(super) bytes: usize,
    /// Some of them are not in `text`; `result` with offset and max_bytes shows any part.
    pub(super) truncated: bool,
    /// Bytes that the worker did not keep, because there were too many.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) lost: u64,
    /// It is not UTF-8: `text` has replacement characters. `result` with base64 shows the bytes.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) binary: bool,
    /// Where the next piece begins; only when a part was asked for and there is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_offset: Option<usize>,
}

/// What placement says to one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct Verdict {
    /// Its name.
    pub(super) node: String,
    /// It could run the task now.
    pub(super) fits: bool,
    /// Why, or why not.
    pub(super) reason: String,
}

/// The answer of `wait`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct Waited {
    /// Those that have ended, with what they wrote.
    pub(super) ended: Vec<TaskReport>,
    /// Ids of those that have not.
    pub(super) still_running: Vec<String>,
    /// What to do next; empty when all have ended.
    pub(super) next: String,
}

/// The state of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct MeshReport {
    /// The mesh's name.
    pub(super) mesh: String,
    /// The name of the node that answers.
    pub(super) node: String,
    /// Who coordinates; empty while nobody does.
    pub(super) coordinator: String,
    /// Nodes that are there now.
    pub(super) nodes_online: usize,
    /// All members.
    pub(super) nodes: usize,
    /// Tasks that wait.
    pub(super) waiting: u64,
    /// Of these: no node that is there can run them.
    pub(super) parked: u64,
    /// Tasks that run.
    pub(super) running: u64,
    /// The program's version.
    pub(super) version: String,
}

/// The answer of `status`: one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct StatusReport {
    /// The task that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) task: Option<TaskReport>,
    /// The mesh, when no task was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mesh: Option<MeshReport>,
}

/// The answer of `list_nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct NodeList {
    /// The nodes.
    pub(super) nodes: Vec<NodeReport>,
    /// How many there are; the list holds at most 100.
    pub(super) total: usize,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct NodeReport {
    /// Its name.
    pub(super) name: String,
    /// Its id.
    pub(super) id: String,
    /// online, suspect, draining, asleep or offline.
    pub(super) state: String,
    /// It coordinates.
    pub(super) coordinator: bool,
    /// It is the one that answers.
    pub(super) this: bool,
    /// Tasks it runs at once.
    pub(super) slots: u32,
    /// Tasks it runs now.
    pub(super) running: u32,
    /// linux, darwin or win32.
    pub(super) platform: String,
    /// x86_64, aarch64, …
    pub(super) arch: String,
    /// Logical cores.
    pub(super) cpus: u32,
    /// Busy share of them, percent.
    pub(super) cpu_percent: u32,
    /// Memory available, MiB.
    pub(super) memory_free_mib: u64,
    /// Labels that tasks can ask for.
    pub(super) labels: Vec<String>,
    /// Names of its skills, the first 50.
    pub(super) skills: Vec<String>,
}

/// The answer of `list_skills`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct SkillList {
    /// The skills.
    pub(super) skills: Vec<SkillReport>,
    /// How many fit the question.
    pub(super) total: usize,
    /// The offset of the next page, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_offset: Option<usize>,
}

/// A skill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct SkillReport {
    /// Its name.
    pub(super) name: String,
    /// What it does.
    pub(super) description: String,
    /// Its version, or empty.
    pub(super) version: String,
    /// Its category, or empty.
    pub(super) category: String,
    /// Tags.
    pub(super) tags: Vec<String>,
    /// run_skill runs it without an agent; other skills need a prompt.
    pub(super) runnable: bool,
    /// Names of the nodes that offer it and are there now.
    pub(super) nodes: Vec<String>,
    /// The beginning of its content's hash: two skills with one name differ here.
    pub(super) hash: String,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_false(b: &bool) -> bool {
    !*b
}

impl From<&TaskView> for TaskReport {
    fn from(t: &TaskView) -> Self {
        let last = t.attempts.last();
        Self {
            task: t.id.to_string(),
            state: t.state.word().to_owned(),
            ended: t.state.ended(),
            reason: t.reason.clone(),
            title: t.title.chars().take(DESCRIPTION_MAX).collect(),
            exit_code: t.exit_code,
            node: last.map(|a| if a.name.is_empty() { a.node.to_string() } else { a.name.clone() }),
            attempts: Some(t.attempts.len() + t.attempts_dropped as usize),
            ..Self::default()
        }
    }
}

/// Which part of a stream to show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// From this byte on; none: the beginning and the end.
    pub(super) offset: Option<usize>,
    /// At most so many bytes.
    pub(super) max: usize,
    /// As base64.
    pub(super) base64: bool,
}

impl Default for Part {
    fn default() -> Self {
        Self { offset: None, max: EXCERPT, base64: false }
    }
}

impl Excerpt {
    /// The wanted part of a stream of which the worker has dropped `lost` bytes.
    pub(super) fn of(all: &[u8], lost: u64, part: Part) -> Self {
        let mut shown = Self { bytes: all.len(), lost, binary: std::str::from_utf8(all).is_err(), ..Self::default() };
        let show = |piece: &[u8]| {
            if part.base64 { BASE64.encode(piece) } else { String::from_utf8_lossy(piece).into_owned() }
        };
        if let Some(offset) = part.offset {
            let from = offset.min(all.len());
            let to = char_end(all, from.saturating_add(part.max).min(all.len()), from + 1);
            shown.text = show(all.get(from..to).unwrap_or_default());
            shown.truncated = from > 0 || to < all.len();
            shown.next_offset = (to < all.len()).then_some(to);
        } else if all.len() <= part.max {
            shown.text = show(all);
        } else if part.base64 {
            shown.text = show(all.get(..part.max).unwrap_or_default());
            shown.truncated = true;
            shown.next_offset = Some(part.max);
        } else {
            let head = char_end(all, part.max.div_ceil(2), 1);
            let tail = char_end(all, all.len() - part.max / 2, head);
            let left_out = tail - head;
            shown.text = format!(
                "{}\n… {left_out} bytes left out here: 'result' with offset {head} shows them …\n{}",
                show(all.get(..head).unwrap_or_default()),
                show(all.get(tail..).unwrap_or_default())
            );
            shown.truncated = true;
        }
        shown
    }
}

/// The end of a piece, moved back to the beginning of a character, but not below `least`.
fn char_end(all: &[u8], at: usize, least: usize) -> usize {
    let continues = |i: usize| all.get(i).is_some_and(|b| b & 0xc0 == 0x80);
    // A character has at most four bytes; bytes that are no text are cut anywhere.
    (0..4).map(|back| at.saturating_sub(back)).find(|i| *i >= least && !continues(*i)).unwrap_or(at)
}

impl From<&MemberView> for NodeReport {
    fn from(m: &MemberView) -> Self {
        Self {
            name: m.name.clone(),
            id: m.node.to_string(),
            state: m.state.clone(),
            coordinator: m.coordinator,
            this: m.this,
            slots: m.slots,
            running: m.running,
            platform: m.facts.platform.clone(),
            arch: m.facts.arch.clone(),
            cpus: m.facts.cpus,
            cpu_percent: m.facts.cpu_percent,
            memory_free_mib: m.facts.memory_free_mib,
            labels: m.labels.clone(),
            skills: m.skills.iter().take(NAMES_MAX).cloned().collect(),
        }
    }
}

impl From<&SkillView> for SkillReport {
    fn from(s: &SkillView) -> Self {
        let online = s.nodes.iter().filter(|(.., online)| *online);
        let name = |(id, name, _): &(Peer, String, bool)| if name.is_empty() { id.to_string() } else { name.clone() };
        Self {
            name: s.name.clone(),
            description: s.description.chars().take(DESCRIPTION_MAX).collect(),
            version: s.version.clone(),
            category: s.category.clone(),
            tags: s.tags.clone(),
            runnable: s.runnable,
            nodes: online.take(NAMES_MAX).map(name).collect(),
            hash: s.hash.chars().take(12).collect(),
        }
    }
}
