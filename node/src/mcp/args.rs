//! What the tools take, as JSON schemas and checked values.

use std::{collections::BTreeMap, time::Duration};

use clawmesh_protocol::spec::{OnLost, Priority, Strategy};
use rmcp::schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{WAIT_MAX, calls::Complaint};

/// Tasks in one `wait`.
const WAIT_TASKS_MAX: usize = 50;
/// Bytes of each stream in one answer, when nothing else is asked for.
pub(super) const EXCERPT: usize = 16 << 10;
/// Bytes of each stream in one answer, at most.
pub(super) const EXCERPT_MAX: usize = 256 << 10;

/// `submit`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct Submit {
    /// A command: program and arguments, each a text of its own. No shell reads it; for pipes give ["sh", "-c", "…"].
    pub(super) command: Option<Vec<String>>,
    /// A skill of the mesh by its name (list_skills). With `prompt`, the skill that the agent shall use.
    pub(super) skill: Option<String>,
    /// The skill's input as JSON, most often an object. Not a text with JSON in it.
    pub(super) input: Option<Value>,
    /// The skill's input as plain text, for skills that take text.
    pub(super) input_text: Option<String>,
    /// A request in words for an agent on another machine of the mesh.
    pub(super) prompt: Option<String>,
    /// Run on this node (its name or id, see list_nodes) or nowhere. Without it, the mesh chooses.
    pub(super) node: Option<String>,
    /// Labels that the node must have.
    pub(super) labels: Vec<String>,
    /// Environment variables of the process.
    pub(super) env: BTreeMap<String, String>,
    /// Urgency: critical, high, normal (when left out) or low.
    pub(super) priority: Option<String>,
    /// How to choose the node: least_tasks, round_robin, best_fit, random or affinity; the mesh's own when left out.
    pub(super) strategy: Option<String>,
    /// Further attempts when it fails, 0 to 100.
    #[schemars(range(min = 0, max = 100))]
    pub(super) retries: u32,
    /// Time limit of one attempt in seconds.
    pub(super) timeout_seconds: Option<f64>,
    /// Longest wait in the queue in seconds: after it, the task ends as 'timeout' without having run.
    pub(super) queue_timeout_seconds: Option<f64>,
    /// What happens when its node is lost in the middle: requeue (when left out) or fail.
    pub(super) on_lost: Option<String>,
    /// Idempotency key: the same call with the same key joins the task that is there instead of making a second one.
    /// Give one whenever you might have to repeat the call. When left out, the answer names one.
    pub(super) key: Option<String>,
    /// Wait so many seconds for the end, 0 (when left out) to 45. The task goes on after that.
    #[schemars(range(min = 0, max = 45))]
    pub(super) wait_seconds: Option<f64>,
}

/// `run_skill`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct RunSkill {
    /// The skill's name (list_skills).
    pub(super) skill: String,
    /// Its input as JSON, most often an object. Not a text with JSON in it.
    #[serde(default)]
    pub(super) input: Option<Value>,
    /// Its input as plain text, for skills that take text.
    #[serde(default)]
    pub(super) input_text: Option<String>,
    /// Run on this node (its name or id) or nowhere.
    #[serde(default)]
    pub(super) node: Option<String>,
    /// Time limit in seconds.
    #[serde(default)]
    pub(super) timeout_seconds: Option<f64>,
    /// Idempotency key: the same call with the same key joins the task that is there.
    #[serde(default)]
    pub(super) key: Option<String>,
    /// Wait so many seconds for the end, 0 to 45; 20 when left out. The task goes on after that.
    #[serde(default)]
    #[schemars(range(min = 0, max = 45))]
    pub(super) wait_seconds: Option<f64>,
}

/// `wait`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct Wait {
    /// The task's id, or a unique start of it.
    pub(super) task: Option<String>,
    /// Several tasks instead, at most 50.
    pub(super) tasks: Vec<String>,
    /// Answer when the first of them has ended, not when all have.
    pub(super) any: bool,
    /// Longest wait in seconds, 0 to 45; 45 when left out.
    #[schemars(range(min = 0, max = 45))]
    pub(super) wait_seconds: Option<f64>,
}

/// `status`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct Status {
    /// A task's id, or a unique start of it. Left out: the state of the mesh.
    pub(super) task: Option<String>,
}

/// `result`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct ResultOf {
    /// The task's id, or a unique start of it.
    pub(super) task: String,
    /// Show the output from this byte on. Left out: all of a short output, the beginning and the end of a long one.
    #[serde(default)]
    pub(super) offset: Option<u64>,
    /// Most bytes of each stream, 1 to 262144; 16384 when left out.
    #[serde(default)]
    #[schemars(range(min = 1, max = 262_144))]
    pub(super) max_bytes: Option<u64>,
    /// The bytes in base64 instead of text, for output that is no text.
    #[serde(default)]
    pub(super) base64: bool,
}

/// `cancel`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct Cancel {
    /// The task's id, or a unique start of it.
    pub(super) task: String,
}

/// `list_nodes`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct ListNodes {
    /// Only nodes that are there now.
    pub(super) online_only: bool,
}

/// `list_skills`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct ListSkills {
    /// Words that must all be in the name, the description or the tags, in any case of letters.
    pub(super) query: Option<String>,
    /// Only skills of this category.
    pub(super) category: Option<String>,
    /// Only skills with this tag.
    pub(super) tag: Option<String>,
    /// Skip so many.
    pub(super) offset: usize,
    /// At most so many, 1 to 200; 50 when left out.
    #[schemars(range(min = 1, max = 200))]
    pub(super) limit: Option<usize>,
}

impl From<RunSkill> for Submit {
    fn from(r: RunSkill) -> Self {
        Self {
            skill: Some(r.skill),
            input: r.input,
            input_text: r.input_text,
            node: r.node,
            timeout_seconds: r.timeout_seconds,
            key: r.key,
            wait_seconds: Some(r.wait_seconds.unwrap_or(20.0)),
            ..Self::default()
        }
    }
}

impl Submit {
    /// The body of the API's submit.  What only the API can judge (names, limits, prompts) is left to it.
    ///
    /// # Errors
    /// The arguments contradict each other.
    pub(super) fn body(&self, key: &str, user: Option<String>) -> Result<Value, Complaint> {
        let kinds = [self.command.is_some(), self.skill.is_some() && self.prompt.is_none(), self.prompt.is_some()];
        match kinds.iter().filter(|k| **k).count() {
            1 => {}
            0 => return Err(Complaint::invalid("nothing to do was given: give command, skill or prompt")),
            _ => return Err(Complaint::invalid("give one of command, skill and prompt; only a prompt may name a skill, too")),
        }
        if self.command.is_some() && (self.input.is_some() || self.input_text.is_some()) {
            return Err(Complaint::invalid("a command takes no input: put it into its arguments, or submit a skill"));
        }
        let input = match (&self.input, &self.input_text) {
            (Some(_), Some(_)) => return Err(Complaint::invalid("give input or input_text, not both")),
            (Some(json), None) => Some(json.to_string()),
            (None, text) => text.clone(),
        };
        let mut body = Map::new();
        let mut put = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
        put("argv", json!(self.command));
        put("skill", json!(self.skill));
        put("input", json!(input));
        if let Some(prompt) = &self.prompt {
            put("prompt", json!(prompt));
        }
        put("pin", json!(self.node));
        put("labels", json!(self.labels));
        put("env", json!(self.env.iter().collect::<Vec<_>>()));
        put("priority", json!(word::<Priority>("priority", self.priority.as_deref())?));
        put("strategy", json!(word::<Strategy>("strategy", self.strategy.as_deref())?));
        put("on_lost", json!(word::<OnLost>("on_lost", self.on_lost.as_deref())?));
        put("retries", json!(self.retries));
        put("timeout_ms", json!(limit_ms("timeout_seconds", self.timeout_seconds)?));
        put("queue_timeout_ms", json!(limit_ms("queue_timeout_seconds", self.queue_timeout_seconds)?));
        put("key", json!(key));
        put("user", json!(user));
        Ok(Value::Object(body))
    }
}

/// An id as it was given, without the space around it.
///
/// # Errors
/// There is nothing else.
pub(super) fn id_of(given: &str) -> Result<String, Complaint> {
    match given.trim() {
        "" => Err(Complaint::invalid("no task was named: give its id as 'task'")),
        id => Ok(id.to_owned()),
    }
}

impl Wait {
    /// The ids, each once.
    ///
    /// # Errors
    /// There are none, or too many.
    pub(super) fn ids(&self) -> Result<Vec<String>, Complaint> {
        let mut ids: Vec<String> = self.task.iter().chain(&self.tasks).map(|id| id_of(id)).collect::<Result<_, _>>()?;
        ids.sort();
        ids.dedup();
        match ids.len() {
            0 => Err(Complaint::invalid("no task was named: give its id as 'task'")),
            n if n > WAIT_TASKS_MAX => {
                Err(Complaint::invalid(format!("{n} tasks were named, at most {WAIT_TASKS_MAX} are waited for at once")))
            }
            _ => Ok(ids),
        }
    }
}

/// A wait of 0 to 45 s.
///
/// # Errors
/// It is outside.
pub(super) fn wait_of(given: Option<f64>, default: Duration) -> Result<Duration, Complaint> {
    match given {
        None => Ok(default),
        Some(s) if s.is_finite() && (0.0..=WAIT_MAX.as_secs_f64()).contains(&s) => Ok(Duration::from_secs_f64(s)),
        Some(s) => Err(Complaint::invalid(format!(
            "wait_seconds is {s}, it must be 0 to {}: the task goes on, and 'wait' can be called again",
            WAIT_MAX.as_secs()
        ))),
    }
}

fn limit_ms(name: &str, seconds: Option<f64>) -> Result<Option<u64>, Complaint> {
    match seconds {
        None => Ok(None),
        // 30 days, as the mesh has it.
        Some(s) if s.is_finite() && (0.001..=2_592_000.0).contains(&s) => Ok(u64::try_from(Duration::from_secs_f64(s).as_millis()).ok()),
        Some(s) => Err(Complaint::invalid(format!("{name} is {s}, it must be 0.001 to 2592000 (30 days); leave it out for no limit"))),
    }
}

fn word<T: std::str::FromStr<Err = String>>(name: &str, given: Option<&str>) -> Result<Option<T>, Complaint> {
    given.map(str::parse).transpose().map_err(|e: String| Complaint::invalid(format!("{name}: {e}")))
}
