//! Our own block in the `metadata` of a front matter: how a skill runs without an agent, and what it needs.

use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::openclaw::strings;
use super::{Problem, Resources, Run};
use crate::exec::SkillInput;

/// The words of a command line; nobody needs more.
const RUN_WORDS_MAX: usize = 64;
/// The longest timeout a skill may declare.
const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// What `metadata.clawmesh` declares.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Declared {
    pub(crate) run: Option<Run>,
    pub(crate) version: Option<String>,
    pub(crate) category: Option<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) depends: Vec<String>,
    pub(crate) resources: Resources,
}

/// Reads our own block. Unlike the foreign one it is strict: a skill that would run otherwise than its author thinks is refused.
pub(crate) fn declared(metadata: &Map<String, Value>) -> Result<Declared, Problem> {
    let block = match metadata.get("clawmesh") {
        None | Some(Value::Null) => return Ok(Declared::default()),
        Some(Value::Object(block)) => block,
        Some(other) => return Err(wrong("", "a mapping", other)),
    };
    let words = |key: &str| match block.get(key) {
        None | Some(Value::Null | Value::String(_) | Value::Array(_)) => Ok(strings(block.get(key))),
        Some(other) => Err(wrong(key, "a list of texts", other)),
    };
    Ok(Declared {
        run: run(block)?,
        version: text(block, "version")?,
        category: text(block, "category")?,
        tags: words("tags")?,
        depends: words("depends")?,
        resources: resources(block.get("resources"))?,
    })
}

fn run(block: &Map<String, Value>) -> Result<Option<Run>, Problem> {
    let argv = match block.get("run") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list
            .iter()
            .map(as_text)
            .collect::<Option<Vec<String>>>()
            .filter(|argv| (1..=RUN_WORDS_MAX).contains(&argv.len()) && argv.first().is_some_and(|program| !program.trim().is_empty())),
        Some(_) => None,
    };
    let Some(argv) = argv else {
        let message = format!(
            "metadata.clawmesh.run must be a list of 1 to {RUN_WORDS_MAX} words, for example [sh, \"{{baseDir}}/scripts/run.sh\"]; it is not a shell line"
        );
        return Err(Problem::new("CLAWMESH_METADATA", message));
    };
    let input = match text(block, "input")?.as_deref() {
        None | Some("json") => SkillInput::Json,
        Some("text") => SkillInput::Text,
        Some("none") => SkillInput::None,
        Some(other) => return Err(wrong("input", "json, text or none", &other.into())),
    };
    let json_output = match text(block, "output")?.as_deref() {
        None | Some("text") => false,
        Some("json") => true,
        Some(other) => return Err(wrong("output", "json or text", &other.into())),
    };
    let timeout = match text(block, "timeout")? {
        None => None,
        Some(given) => match humantime::parse_duration(&given) {
            Ok(timeout) if !timeout.is_zero() && timeout <= TIMEOUT_MAX => Some(timeout),
            _ => {
                return Err(wrong("timeout", "a duration from 1ms to 30days, for example 60s", &given.into()));
            }
        },
    };
    Ok(Some(Run { argv, input, json_output, timeout }))
}

fn resources(value: Option<&Value>) -> Result<Resources, Problem> {
    let block = match value {
        None | Some(Value::Null) => return Ok(Resources::default()),
        Some(Value::Object(block)) => block,
        Some(other) => return Err(wrong("resources", "a mapping", other)),
    };
    let mut resources = Resources::default();
    for (key, value) in block {
        let amount = value.as_f64().filter(|amount| (0.0..=1e9).contains(amount));
        match (key.as_str(), amount) {
            ("cpu", Some(cpu)) => resources.cpu_milli = (cpu * 1000.0).round() as u64,
            ("gpu", Some(gpu)) => resources.gpu_milli = (gpu * 1000.0).round() as u64,
            ("memory", _) => {
                let size = as_text(value).and_then(|text| bytesize::ByteSize::from_str(&text).ok());
                resources.memory_bytes = size.ok_or_else(|| wrong("resources.memory", "a size, for example 256MiB", value))?.as_u64();
            }
            ("cpu" | "gpu", None) => {
                return Err(wrong(&format!("resources.{key}"), "a number", value));
            }
            (custom, Some(amount)) => {
                resources.custom.insert(custom.to_owned(), (amount * 1000.0).round() as u64);
            }
            (custom, None) => return Err(wrong(&format!("resources.{custom}"), "a number", value)),
        }
    }
    Ok(resources)
}

fn text(block: &Map<String, Value>, key: &str) -> Result<Option<String>, Problem> {
    match block.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => as_text(value).map(Some).ok_or_else(|| wrong(key, "a text", value)),
    }
}

/// YAML reads `version: 1.2` as a number; the author meant the text.
fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn wrong(key: &str, wanted: &str, found: &Value) -> Problem {
    let dot = if key.is_empty() { "" } else { "." };
    let mut found = found.to_string();
    if let Some((cut, _)) = found.char_indices().nth(60) {
        found.truncate(cut);
        found.push('…');
    }
    Problem::new("CLAWMESH_METADATA", format!("metadata.clawmesh{dot}{key} must be {wanted}, not {found}"))
}
