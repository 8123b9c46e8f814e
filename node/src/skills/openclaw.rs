//! OpenClaw's own block in the `metadata` of a front matter: what it requires, where it runs, how to install what is missing.

use serde_json::{Map, Value};

use super::frontmatter::{Fields, trim};
use super::yaml;

/// The JSON5 reader calls itself for each level and has no limit of its own; serde_json stops at this depth too.
const NESTING_MAX: usize = 128;

/// What OpenClaw's manifest block requires.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Requires {
    pub(crate) bins: Vec<String>,
    pub(crate) any_bins: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) config: Vec<String>,
}

/// What `metadata.openclaw` (or, in older skills, `metadata.clawdbot`) demands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// False when neither block is there: nothing is demanded then.
    pub(crate) present: bool,
    pub(crate) always: bool,
    pub(crate) os: Vec<String>,
    pub(crate) requires: Requires,
    /// The name under which the configuration knows the skill, when it is another one.
    pub(crate) skill_key: Option<String>,
    /// The variable that `skills.entries.<key>.apiKey` stands for.
    pub(crate) primary_env: Option<String>,
    pub(crate) emoji: Option<String>,
    pub(crate) homepage: Option<String>,
    pub(crate) install: Vec<Install>,
}

/// A way to install what a skill needs. Shown, never run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Install {
    /// `brew`, `node`, `go`, `uv` or `download`; no other kind is read.
    pub(crate) kind: String,
    pub(crate) label: Option<String>,
    /// The programs it brings.
    pub(crate) bins: Vec<String>,
    /// Platforms it is for; empty for all.
    pub(crate) os: Vec<String>,
    pub(crate) formula: Option<String>,
    pub(crate) package: Option<String>,
    pub(crate) module: Option<String>,
    pub(crate) url: Option<String>,
}

/// The `metadata` field as an object: JSON, else JSON5. Anything else counts as absent, as in OpenClaw.
pub(crate) fn metadata(fields: &Fields) -> Map<String, Value> {
    match fields.get("metadata").and_then(|text| json5(text)) {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// JSON, else JSON5; None for what is neither, or too deep.
pub(crate) fn json5(text: &str) -> Option<Value> {
    match serde_json::from_str(text) {
        Err(_) if nesting(text) <= NESTING_MAX => json5::from_str(text).ok(),
        json => json.ok(),
    }
}

/// How deep brackets open; those within texts count too, which only errs to the safe side.
fn nesting(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut deepest = 0;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The first of the known blocks that is a structure. Other names (`moltbot`, `clawdis`) are not read, as in OpenClaw.
pub(crate) fn from_metadata(metadata: &Map<String, Value>) -> Manifest {
    let block =
        ["openclaw", "clawdbot"].into_iter().filter_map(|key| metadata.get(key)).find(|value| value.is_object() || value.is_array());
    let Some(block) = block else {
        return Manifest::default();
    };
    let requires = block.get("requires");
    let list = |key: &str| strings(requires.and_then(|requires| requires.get(key)));
    let text = |key: &str| block.get(key).and_then(Value::as_str).map(str::to_owned);
    Manifest {
        present: true,
        always: block.get("always") == Some(&Value::Bool(true)),
        os: strings(block.get("os")),
        requires: Requires { bins: list("bins"), any_bins: list("anyBins"), env: list("env"), config: list("config") },
        skill_key: text("skillKey").filter(|key| !key.is_empty()),
        primary_env: text("primaryEnv"),
        emoji: text("emoji"),
        homepage: text("homepage"),
        install: block.get("install").and_then(Value::as_array).into_iter().flatten().filter_map(install).collect(),
    }
}

/// A list, or one text with commas. Blank entries are passed over; what is no text is printed as JavaScript prints it.
pub(crate) fn strings(value: Option<&Value>) -> Vec<String> {
    let tidy = |text: &str| Some(trim(text).to_owned()).filter(|text| !text.is_empty());
    match value {
        Some(Value::String(text)) => text.split(',').filter_map(tidy).collect(),
        Some(Value::Array(list)) => list.iter().filter_map(|entry| tidy(&printed(entry))).collect(),
        _ => Vec::new(),
    }
}

/// `String(value)` in JavaScript.
fn printed(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), yaml::number_text),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let entries: Vec<String> = list.iter().map(|entry| if entry.is_null() { String::new() } else { printed(entry) }).collect();
            entries.join(",")
        }
        Value::Object(_) => "[object Object]".to_owned(),
    }
}

/// An entry of `install`, when it is one that OpenClaw would offer.
fn install(entry: &Value) -> Option<Install> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    let tidy = |key: &str| text(key).map(trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let label = text("label").filter(|text| !text.is_empty()).map(str::to_owned);
    let kind = text("kind").or_else(|| text("type")).map(trim).unwrap_or_default().to_lowercase();
    let formula = tidy("formula").filter(|text| is_formula(text)).or_else(|| tidy("cask").filter(|text| is_formula(text)));
    let package = tidy("package").filter(|text| match kind.as_str() {
        "node" => is_npm(text),
        "uv" => is_plain(text, "._-[]=<>!~+,"),
        _ => false,
    });
    let module = tidy("module").filter(|text| is_go(text));
    let url = tidy("url").and_then(|text| download(&text));
    let has_one = match kind.as_str() {
        "brew" => formula.is_some(),
        "node" | "uv" => package.is_some(),
        "go" => module.is_some(),
        "download" => url.is_some() && is_sha256(entry.get("sha256")),
        _ => false,
    };
    let (bins, os) = (strings(entry.get("bins")), strings(entry.get("os")));
    has_one.then_some(Install { kind, label, bins, os, formula, package, module, url })
}

/// Starts with a letter or digit, goes on with those and the given characters.
fn is_plain(text: &str, more: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

fn is_formula(text: &str) -> bool {
    is_plain(text, "@+._/-") && !text.contains("..")
}

fn is_go(text: &str) -> bool {
    let is_part = |part: &str| is_plain(part, "._~+-/");
    match text.split_once('@') {
        Some((module, version)) => is_part(module) && is_part(version),
        None => is_part(text),
    }
}

/// A name of npm's registry, with an exact version or a tag at most.
fn is_npm(text: &str) -> bool {
    let (name, selector) = match text.rsplit_once('@') {
        Some((name, selector)) if !name.is_empty() => (name, Some(selector)),
        _ => (text, None),
    };
    let is_part = |part: &str| {
        let is_lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(is_lower) && part.chars().all(|c| is_lower(c) || "-._~".contains(c))
    };
    let is_name = match name.strip_prefix('@') {
        Some(scoped) => scoped.split_once('/').is_some_and(|(scope, name)| is_part(scope) && is_part(name)),
        None => is_part(name),
    };
    let is_exact = |selector: &str| is_plain(selector.trim_start_matches(['v', '=']), ".-+") && selector.contains('.');
    is_name && selector.is_none_or(|selector| is_plain(selector, "._-") || is_exact(selector))
}

fn download(text: &str) -> Option<String> {
    let url = reqwest::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    (!text.contains(char::is_whitespace)).then(|| url.to_string())
}

/// Not there, or 64 hexadecimal digits.
fn is_sha256(value: Option<&Value>) -> bool {
    match value {
        None => true,
        Some(Value::String(text)) => trim(text).len() == 64 && trim(text).bytes().all(|b| b.is_ascii_hexdigit()),
        Some(_) => false,
    }
}
