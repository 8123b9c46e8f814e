//! `skill.json`, the file of the system before this one: read leniently, because everybody wrote it in a form of their own.

use std::path::Path;

use serde_json::{Map, Value};

use super::folder;
use super::frontmatter::trim;
use super::openclaw::{json5, strings};
use super::walk;
use super::{Problem, Run};
use crate::exec::SkillInput;

/// Its name.
pub(super) const FILE: &str = "skill.json";

/// What was understood of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Legacy {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) version: Option<String>,
    pub(super) category: Option<String>,
    pub(super) tags: Vec<String>,
    /// Names with an optional range.
    pub(super) depends: Vec<String>,
    pub(super) run: Option<Run>,
}

pub(super) fn is_there(dir: &Path) -> bool {
    walk::is_there(dir, &dir.join(FILE))
}

/// Reads the file of a folder.
pub(super) fn read(dir: &Path) -> Result<Legacy, Problem> {
    let bytes = folder::read_file(&dir.join(FILE), folder::SKILL_FILE_BYTES_MAX)?;
    let text = String::from_utf8_lossy(&bytes);
    match json5(text.strip_prefix('\u{feff}').unwrap_or(&text)) {
        Some(Value::Object(map)) => Ok(understand(&map)),
        Some(_) => Err(Problem::new("BAD_SKILL_JSON", "skill.json is not an object")),
        None => Err(Problem::new("BAD_SKILL_JSON", "skill.json is no JSON")),
    }
}

fn understand(map: &Map<String, Value>) -> Legacy {
    let first = |keys: &[&str]| keys.iter().find_map(|key| text(map.get(*key)));
    let list = |keys: &[&str]| keys.iter().map(|key| strings(map.get(*key))).find(|list| !list.is_empty()).unwrap_or_default();
    Legacy {
        name: first(&["name", "id", "slug"]),
        description: first(&["description", "summary"]),
        version: first(&["version"]),
        category: first(&["category"]),
        tags: list(&["tags", "keywords"]),
        depends: depends(map.get("dependencies")),
        run: ["run", "command", "entry_point", "entryPoint", "entrypoint"].iter().find_map(|key| run(map.get(*key)?)),
    }
}

fn text(value: Option<&Value>) -> Option<String> {
    let text = match value? {
        Value::String(text) => trim(text).to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    Some(text).filter(|text| !text.is_empty())
}

/// A list of names, or names with ranges. Lists by kind (`{"python": […]}`) name packages, not skills, and are passed over.
fn depends(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::Object(map)) => {
            let ranged = |(name, range): (&String, &Value)| {
                let range = text(Some(range))?;
                Some(if range == "*" || range == "latest" { name.clone() } else { format!("{name} {range}") })
            };
            map.iter().filter_map(ranged).collect()
        }
        Some(Value::Array(list)) => {
            let entry = |entry: &Value| match entry {
                Value::Object(map) => text(map.get("name")).map(|name| match text(map.get("version")) {
                    Some(version) => format!("{name} {version}"),
                    None => name,
                }),
                other => text(Some(other)),
            };
            list.iter().filter_map(entry).collect()
        }
        other => strings(other),
    }
}

/// Only what needs no guessing: a list of words, or a script of the folder whose interpreter is told by its name.
/// A line for a shell is not taken.
fn run(value: &Value) -> Option<Run> {
    let argv = match value {
        Value::Array(words) => {
            let words: Option<Vec<String>> = words.iter().map(|word| word.as_str().map(str::to_owned)).collect();
            words.filter(|words| (1..=64).contains(&words.len()) && words.first().is_some_and(|first| !first.trim().is_empty()))?
        }
        Value::String(script) => {
            let script = trim(script);
            let is_inside =
                !script.is_empty() && !script.starts_with(['/', '\\', '-', '~']) && !script.contains("..") && !script.contains(':');
            let is_name = script.chars().all(|c| c.is_alphanumeric() || "._-/".contains(c));
            let interpreter = match script.rsplit_once('.').map(|(_, end)| end) {
                Some("py") => "python3",
                Some("sh") => "sh",
                Some("js" | "mjs" | "cjs") => "node",
                _ => return None,
            };
            (is_inside && is_name).then(|| vec![interpreter.to_owned(), format!("{{baseDir}}/{}", script.trim_start_matches("./"))])?
        }
        _ => return None,
    };
    Some(Run { argv, input: SkillInput::Json, json_output: false, timeout: None })
}
