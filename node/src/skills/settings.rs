//! OpenClaw's configuration, as far as it decides about skills. Of secrets only whether they are set is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::frontmatter::trim;
use super::{config, openclaw};

/// Longest SKILL.md that is read, whatever the configuration allows, bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Most skills or directories, whatever the configuration allows.
const LIMIT_MAX: usize = 10_000;

/// What the configuration says about skills.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `skills.entries`.
    pub(crate) entries: BTreeMap<String, Entry>,
    /// `skills.allowBundled`; None allows all.
    pub(crate) allow_bundled: Option<BTreeSet<String>>,
    /// `skills.load.extraDirs`, as written.
    pub(crate) extra_dirs: Vec<String>,
    /// `skills.load.allowSymlinkTargets`, as written.
    pub(crate) symlink_targets: Vec<String>,
    /// The default agent's workspace, as written.
    pub(crate) workspace: Option<String>,
    /// The default agent's name.
    pub(crate) agent: Option<String>,
    /// Names of the variables that the configuration itself sets.
    pub(crate) env: BTreeSet<String>,
    /// The whole of it with truth in place of every text and number.
    truth: Value,
    /// Skills taken from one folder (`skills.limits.maxSkillsLoadedPerSource`).
    pub(crate) skills_max: Option<usize>,
    /// Directories looked into in one directory (`skills.limits.maxCandidatesPerRoot`).
    pub(crate) children_max: Option<usize>,
    /// Longest SKILL.md, bytes (`skills.limits.maxSkillFileBytes`).
    pub(crate) file_bytes_max: Option<u64>,
    /// All files that it was made of.
    pub(crate) files: BTreeSet<PathBuf>,
    /// Why it could not be read, when it is there.
    pub(crate) problem: Option<String>,
}

/// Where a configuration comes from, beside its own file.
pub(crate) struct Sources<'a> {
    /// Folders from which it may include files, beside its own.
    pub(crate) roots: &'a [PathBuf],
    /// Files of variables; the first one that names a variable wins.
    pub(crate) dotenv: &'a [PathBuf],
    /// A variable of OpenClaw's process.
    pub(crate) var: &'a dyn Fn(&str) -> Option<String>,
}

/// `skills.entries.<key>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// False when `enabled` is false.
    pub(crate) enabled: bool,
    /// Names of the variables in `env` that are not blank.
    pub(crate) env: BTreeSet<String>,
    /// `apiKey` is there.
    pub(crate) has_key: bool,
}

impl Settings {
    /// Reads a configuration with what it includes and the variables of its `.env` file. One that is not there says nothing; one that
    /// cannot be read says so in `problem`.
    pub(crate) fn read(path: &Path, sources: &Sources<'_>) -> Settings {
        let mut files = BTreeSet::new();
        let mut own = BTreeMap::new();
        for path in sources.dotenv {
            files.insert(path.clone());
            // The first one that names it wins.
            for (name, value) in config::dotenv(path) {
                own.entry(name).or_insert(value);
            }
        }
        let read = config::load(path, sources.roots, &mut files).map(|mut config| {
            let inline = [config["env"]["vars"].clone(), config["env"].clone()];
            let inline = |name: &str| inline.iter().find_map(|v| v[name].as_str().map(str::to_owned));
            config::substitute(&mut config, &|name| (sources.var)(name).or_else(|| own.get(name).cloned()).or_else(|| inline(name)));
            Settings::of(&config)
        });
        let mut settings = read.unwrap_or_else(|problem| Settings { problem: Some(problem), ..Settings::default() });
        settings.env.extend(own.into_iter().filter(|(_, value)| !trim(value).is_empty()).map(|(name, _)| name));
        settings.files = files;
        settings
    }

    /// What a configuration says.
    pub(crate) fn of(config: &Value) -> Settings {
        let skills = &config["skills"];
        let entries = skills["entries"].as_object().into_iter().flatten();
        let texts = |value: &Value| -> Vec<String> {
            let list = value.as_array().into_iter().flatten().filter_map(Value::as_str);
            list.map(trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
        };
        let text = |value: &Value| value.as_str().map(trim).filter(|text| !text.is_empty()).map(str::to_owned);
        let agents = config["agents"]["list"].as_array();
        let default = agents.and_then(|list| list.iter().find(|agent| agent["default"] == Value::Bool(true)).or_else(|| list.first()));
        Settings {
            entries: entries.filter(|(_, entry)| entry.is_object()).map(|(key, entry)| (key.clone(), Entry::of(entry))).collect(),
            allow_bundled: Some(openclaw::strings(skills["allowBundled"].as_array().map(|_| &skills["allowBundled"])))
                .filter(|list| !list.is_empty())
                .map(|list| list.into_iter().collect()),
            extra_dirs: texts(&skills["load"]["extraDirs"]),
            symlink_targets: texts(&skills["load"]["allowSymlinkTargets"]),
            workspace: default.and_then(|agent| text(&agent["workspace"])).or_else(|| text(&config["agents"]["defaults"]["workspace"])),
            agent: default.and_then(|agent| text(&agent["id"])),
            env: names(&config["env"]["vars"]).chain(names(&config["env"])).collect(),
            truth: truth(config),
            skills_max: limit(config, "maxSkillsLoadedPerSource"),
            children_max: limit(config, "maxCandidatesPerRoot"),
            file_bytes_max: config["skills"]["limits"]["maxSkillFileBytes"].as_u64().map(|n| n.min(FILE_BYTES_MAX)),
            files: BTreeSet::new(),
            problem: None,
        }
    }

    /// Is the value at this path true? Only what is not set at all has a default.
    pub(crate) fn is_true(&self, path: &str) -> bool {
        let mut value = Some(&self.truth);
        for part in path.split('.').filter(|part| !part.is_empty()) {
            if matches!(part, "__proto__" | "prototype" | "constructor") {
                return false;
            }
            value = match value {
                Some(Value::Object(map)) => map.get(part),
                Some(Value::Array(list)) => part.parse::<usize>().ok().and_then(|at| list.get(at)),
                _ => None,
            };
        }
        match value {
            None => matches!(path, "browser.enabled" | "browser.evaluateEnabled"),
            Some(Value::Null | Value::Bool(false)) => false,
            Some(_) => true,
        }
    }
}

impl Entry {
    fn of(entry: &Value) -> Entry {
        let has_key = match &entry["apiKey"] {
            Value::String(text) => !trim(text).is_empty(),
            // A reference to a secret that is kept elsewhere.
            Value::Object(reference) => ["source", "id"].iter().all(|key| reference.get(*key).is_some_and(Value::is_string)),
            _ => false,
        };
        Entry { enabled: entry["enabled"] != Value::Bool(false), env: names(&entry["env"]).collect(), has_key }
    }
}

/// A limit of at least one.
fn limit(config: &Value, name: &str) -> Option<usize> {
    config["skills"]["limits"][name].as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).map(|n| n.min(LIMIT_MAX))
}

/// Keys whose value is a text that is not blank.
fn names(value: &Value) -> impl Iterator<Item = String> {
    let filled = |(_, value): &(&String, &Value)| value.as_str().is_some_and(|text| !trim(text).is_empty());
    value.as_object().into_iter().flatten().filter(filled).map(|(key, _)| key.clone())
}

fn truth(value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) => value.clone(),
        Value::Number(number) => Value::Bool(number.as_f64() != Some(0.0)),
        Value::String(text) => Value::Bool(!trim(text).is_empty()),
        Value::Array(list) => Value::Array(list.iter().map(truth).collect()),
        Value::Object(map) => Value::Object(map.iter().map(|(key, value)| (key.clone(), truth(value))).collect::<Map<_, _>>()),
    }
}
