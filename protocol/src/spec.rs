//! What a task asks for: the part that placement reads ([`Need`]) and the part only the worker
//! reads ([`Work`]), which may live in a blob.

use alloc::{format, string::String, vec::Vec};

use crate::{
    codec::{Blob, Dec, Enc, Ext, Malformed, Wire},
    face::NewTask,
    files::{FILES_MAX, FileRef, Holder, OUTS_MAX, check_path, check_paths},
    ids::{Hash, Peer},
    wire_choice, wire_struct,
};

wire_choice! {
    /// How urgent a task is (S8).
    #[derive(Default)]
    pub enum Priority {
        /// 9
        0 => Critical = "critical",
        /// 6
        1 => High = "high",
        /// 3
        #[default]
        2 => Normal = "normal",
        /// 0
        3 => Low = "low",
    }
}

impl Priority {
    /// The base of the queue key: a minute of waiting adds one, ten at most (S8).
    pub fn base(self) -> u64 {
        match self {
            Self::Critical => 9,
            Self::High => 6,
            Self::Normal => 3,
            Self::Low => 0,
        }
    }
}

wire_choice! {
    /// How the coordinator chooses among the nodes that can run a task.
    #[derive(Default)]
    pub enum Strategy {
        /// The node with the fewest tasks per slot.
        #[default]
        0 => LeastTasks = "least_tasks",
        /// Each capable node in turn.
        1 => RoundRobin = "round_robin",
        /// The node whose free resources fit most tightly, so that big room stays for big tasks.
        2 => BestFit = "best_fit",
        /// Any capable node, evenly.
        3 => Random = "random",
        /// The same node for the same skill and key, while it has room (rendezvous hashing).
        4 => Affinity = "affinity",
    }
}

wire_choice! {
    /// What kind of work it is.
    pub enum Kind {
        /// An argv.
        0 => Command = "command",
        /// A skill by name, input on stdin.
        1 => Skill = "skill",
        /// `echo`, `sleep`, `fail`.
        2 => Builtin = "builtin",
        /// A text for an agent, perhaps with a skill to use.  A node that speaks protocol 1 cannot read the record of one:
        /// prompts are taken when all members understand them (V3).
        3 => Prompt = "prompt",
    }
}

wire_choice! {
    /// What happens to a running attempt whose worker is lost (S4).
    #[derive(Default)]
    pub enum OnLost {
        /// Run the task again elsewhere.
        #[default]
        0 => Requeue = "requeue",
        /// Give the task up as failed with an unknown outcome.
        1 => Fail = "fail",
    }
}

wire_choice! {
    /// What happens on the smaller side of a split to a task that the other side knows, too (S7).
    #[derive(Default)]
    pub enum OnSplit {
        /// It runs: twice, if the other side runs it as well.
        0 => Run = "run",
        /// It waits ten minutes for the split to heal, or half a minute in one of two halves.
        #[default]
        1 => Wait = "wait",
        /// It waits until the split heals, or a person adopts this side as the mesh.
        2 => Never = "never",
    }
}

/// The reserved skill names that every node runs itself.
pub const BUILTINS: [&str; 3] = ["echo", "sleep", "fail"];

/// Longest encoded [`Need`], bytes.
pub const NEED_MAX: usize = 768;
/// Longest payload or outcome inside a record, bytes; larger ones are blobs (D2).
pub const INLINE_MAX: usize = 1024;
/// Longest payload of a task at all, bytes.
pub const PAYLOAD_MAX: u64 = 8 << 20;
/// Most retries a task may ask for.
pub const RETRIES_MAX: u32 = 100;
/// Longest time limit, ms (30 days).
pub const TIMEOUT_MAX_MS: u64 = 30 * 86_400_000;

wire_struct! {
    /// What placement and the queue read.  At most [`NEED_MAX`] bytes encoded.
    pub struct Need {
        /// Kind of work.
        1 => kind: Kind,
        /// The skill or builtin, or the skill that a prompt names; empty for a command and for any other prompt.
        2 => skill: String,
        /// One line for lists (`uname -a`); at most 80 characters.
        3 => title: String,
        /// Urgency.
        4 => priority: Priority,
        /// Overrides the mesh's strategy.
        5 => strategy: Option<Strategy>,
        /// Run there or nowhere.
        6 => pin: Option<Peer>,
        /// Labels a node must have.
        7 => labels: Vec<String>,
        /// Attempts after the first, 0 to [`RETRIES_MAX`] (S11).
        8 => retries: u32,
        /// First back-off between attempts, ms; doubles, at most five minutes.
        9 => backoff_ms: u64,
        /// Time limit of one attempt, ms; 0 = none.
        10 => run_timeout_ms: u64,
        /// Longest wait in the queue, ms; 0 = none.
        11 => queue_timeout_ms: u64,
        /// Time limit from submit to outcome, ms; 0 = none.
        12 => total_timeout_ms: u64,
        /// What a lost worker means.
        13 => on_lost: OnLost,
        /// Never start twice; needs `pin` in open mode (S6).
        14 => at_most_once: bool,
        /// Idempotency key (O4); empty = none.
        15 => key: String,
        /// Cores the task wants, 0 = one slot is all it asks.
        16 => cpus: u32,
        /// Memory the task wants, MiB.
        17 => memory_mib: u64,
        /// Who submitted it, for people.
        18 => user: String,
        /// What happens to it on the smaller side of a split (S7); none = wait.
        20 => on_split: Option<OnSplit>,
        /// Who had how much of its input files when it was submitted: at most [`crate::files::HOLDERS_MAX`].
        30 => holders: Vec<Holder>,
        /// All of its input files together, bytes.
        31 => input_bytes: u64,
    }
}

wire_struct! {
    /// What the worker reads.
    pub struct Work {
        /// Program and arguments of a command.
        1 => argv: Vec<String>,
        /// Environment on top of the worker's own short list.
        2 => env: Vec<(String, String)>,
        /// Input of a skill or builtin, or the text of a prompt.
        3 => input: Blob,
        /// Files that lie in the working directory before the start, at most [`FILES_MAX`].
        30 => files: Vec<FileRef>,
        /// Names or patterns of files there that are kept as blobs after the end, at most [`OUTS_MAX`].
        31 => outs: Vec<String>,
    }
}

/// A byte string in place, or the name of the blob that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// At most [`INLINE_MAX`] bytes.
    Inline(Blob),
    /// A content-addressed file: name and length in bytes.
    Blob(Hash, u64),
}

impl Data {
    /// No bytes.
    pub const EMPTY: Self = Self::Inline(Blob(Vec::new()));
    /// The blob's name, when it is one.
    pub fn blob(&self) -> Option<Hash> {
        match self {
            Self::Inline(_) => None,
            Self::Blob(h, _) => Some(*h),
        }
    }
    /// The hash of the content.
    pub fn hash(&self) -> Hash {
        match self {
            Self::Inline(b) => Hash::of(&b.0),
            Self::Blob(h, _) => *h,
        }
    }
}

impl Wire for Data {
    fn put(&self, e: &mut Enc<'_>) {
        match self {
            Self::Inline(b) => {
                e.array(1);
                b.put(e);
            }
            Self::Blob(h, len) => {
                e.array(2);
                h.put(e);
                e.uint(*len);
            }
        }
    }
    fn take(d: &mut Dec<'_>) -> Result<Self, Malformed> {
        match d.array()? {
            1 => {
                let b = Blob::take(d)?;
                if b.0.len() > INLINE_MAX { Err(Malformed::Range) } else { Ok(Self::Inline(b)) }
            }
            2 => Ok(Self::Blob(Hash::take(d)?, d.uint()?)),
            _ => Err(Malformed::Range),
        }
    }
    fn absent(&self) -> bool {
        matches!(self, Self::Inline(b) if b.0.is_empty())
    }
    fn missing() -> Result<Self, Malformed> {
        Ok(Self::EMPTY)
    }
}

/// A task as its origin gives it away: need, payload, and the hash of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Read by the coordinator.
    pub need: Need,
    /// An encoded [`Work`].
    pub payload: Data,
}

impl Spec {
    /// Names need and payload by content: the same id with another hash is an error (O1). Who holds the inputs now is a hint and no
    /// part of it: the same task submitted again is the same.
    pub fn hash(&self) -> Hash {
        let mut bytes = if self.need.holders.is_empty() {
            crate::codec::encode(&self.need)
        } else {
            crate::codec::encode(&Need { holders: Vec::new(), ..self.need.clone() })
        };
        bytes.extend_from_slice(&self.payload.hash().0);
        Hash::of(&bytes)
    }
}

/// Checks what a person asked for and splits it into need and encoded work.
///
/// # Errors
/// A sentence that names the field, its bound, and what to do.
pub fn split(new: &NewTask) -> Result<(Need, Vec<u8>), String> {
    let kind = kind_of(new)?;
    check_files(kind, &new.files, &new.outs)?;
    bounded("retries", u64::from(new.retries), u64::from(RETRIES_MAX))?;
    for (name, v) in [
        ("timeout", new.timeout_ms),
        ("queue-timeout", new.queue_timeout_ms),
        ("total-timeout", new.total_timeout_ms),
        ("backoff", new.backoff_ms),
    ] {
        bounded(name, v.unwrap_or(0), TIMEOUT_MAX_MS)?;
    }
    let title = match (&new.argv, &new.prompt) {
        (Some(argv), _) => argv.join(" "),
        // Lists show one line; a prompt may have megabytes.
        (None, Some(prompt)) => prompt.trim_start().chars().take(80).collect(),
        (None, None) => new.skill.clone().unwrap_or_default(),
    };
    let need = Need {
        kind,
        skill: new.skill.clone().unwrap_or_default(),
        title: title.chars().map(|c| if c.is_control() { ' ' } else { c }).take(80).collect(),
        priority: new.priority.unwrap_or_default(),
        strategy: new.strategy,
        pin: new.pin,
        labels: new.labels.clone(),
        retries: new.retries,
        backoff_ms: new.backoff_ms.unwrap_or(1_000),
        run_timeout_ms: new.timeout_ms.unwrap_or(0),
        queue_timeout_ms: new.queue_timeout_ms.unwrap_or(0),
        total_timeout_ms: new.total_timeout_ms.unwrap_or(0),
        on_lost: new.on_lost.unwrap_or_default(),
        at_most_once: new.at_most_once,
        key: new.key.clone().unwrap_or_default(),
        cpus: new.cpus.unwrap_or(0),
        memory_mib: new.memory_mib.unwrap_or(0),
        user: new.user.clone().unwrap_or_default(),
        on_split: new.on_split,
        holders: Vec::new(),
        input_bytes: new.files.iter().fold(0, |sum, f| sum.saturating_add(f.len)),
        ext: Ext::default(),
    };
    if crate::codec::encode(&need).len() > NEED_MAX {
        return Err(format!("skill name, labels, key and user together are above {NEED_MAX} bytes: shorten them"));
    }
    let work = Work {
        argv: new.argv.clone().unwrap_or_default(),
        env: new.env.clone(),
        input: Blob(new.prompt.as_ref().or(new.input.as_ref()).cloned().unwrap_or_default().into_bytes()),
        files: new.files.clone(),
        outs: new.outs.clone(),
        ext: Ext::default(),
    };
    let work = crate::codec::encode(&work);
    if work.len() as u64 > PAYLOAD_MAX {
        return Err(format!(
            "the task's input is {} bytes, the cap is {PAYLOAD_MAX}: put large data where the worker can read it",
            work.len()
        ));
    }
    Ok((need, work))
}

/// What kind of work it is.
fn kind_of(new: &NewTask) -> Result<Kind, String> {
    let long = |s: &String| s.is_empty() || s.len() > 128;
    match (&new.argv, &new.skill, &new.prompt) {
        (Some(argv), None, None) if argv.first().is_none_or(String::is_empty) => {
            Err("the command is empty: give a program and its arguments, as in 'clawmesh run -- uname -a'".into())
        }
        (Some(_), None, None) => Ok(Kind::Command),
        (None, Some(s), None) if BUILTINS.contains(&s.as_str()) => Ok(Kind::Builtin),
        (None, Some(s), _) if long(s) => Err("a skill's name has 1 to 128 characters: 'clawmesh skills' lists them".into()),
        (None, Some(_), None) => Ok(Kind::Skill),
        (None, _, Some(text)) if text.trim().is_empty() => {
            Err("the prompt is empty: say what the agent shall do, as in 'clawmesh ask \"what is in /etc/os-release?\"'".into())
        }
        (None, Some(s), Some(_)) if BUILTINS.contains(&s.as_str()) => {
            Err(format!("'{s}' is a builtin of the mesh and no skill that an agent could use: leave it out"))
        }
        (None, _, Some(_)) if new.input.is_some() => Err("a prompt has no input beside it: put all of it into the prompt".into()),
        (None, _, Some(_)) => Ok(Kind::Prompt),
        (Some(_), _, Some(_)) => Err("a task is either a command (argv) or a prompt, not both".into()),
        _ => Err("a task names either a command (argv) or a skill, not both and not neither".into()),
    }
}

fn check_files(kind: Kind, files: &[FileRef], outs: &[String]) -> Result<(), String> {
    if kind == Kind::Builtin && !(files.is_empty() && outs.is_empty()) {
        return Err("the builtins have no working directory: only commands and skills take --in and --out".into());
    }
    bounded("the number of input files", files.len() as u64, FILES_MAX as u64)?;
    bounded("the number of output names", outs.len() as u64, OUTS_MAX as u64)?;
    check_paths(files.iter().map(|f| f.name.as_str())).map_err(|why| format!("input files: {why}"))?;
    for out in outs {
        // The signs of a pattern are no part of a name.
        let plain: String = out.chars().map(|c| if matches!(c, '*' | '?') { '_' } else { c }).collect();
        check_path(&plain).map_err(|why| format!("the output name {out:?} {why}"))?;
    }
    Ok(())
}

fn bounded(name: &str, v: u64, max: u64) -> Result<(), String> {
    if v <= max { Ok(()) } else { Err(format!("{name} is {v}, at most {max} is allowed")) }
}
