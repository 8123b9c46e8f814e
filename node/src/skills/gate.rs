//! Whether this machine has what a skill needs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use super::openclaw::{Install, Manifest};
use super::settings::Settings;

/// What the gate looks at, taken once per scan so that all skills are judged alike.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// `linux`, `darwin` or `win32`.
    pub(crate) platform: String,
    /// Where programs are looked for, in the form of the variable PATH.
    pub(crate) path: OsString,
    /// Names of environment variables that are set and not blank.
    pub(crate) env: BTreeSet<String>,
    /// OpenClaw's configuration.
    pub(crate) settings: Settings,
}

impl Host {
    /// This machine, as this process sees it.
    pub(crate) fn current(settings: Settings) -> Host {
        let set = |(name, value): (OsString, OsString)| {
            let filled = !value.to_string_lossy().trim().is_empty();
            name.into_string().ok().filter(|_| filled)
        };
        Host {
            platform: crate::facts::platform().to_owned(),
            path: std::env::var_os("PATH").unwrap_or_default(),
            env: std::env::vars_os().filter_map(set).collect(),
            settings,
        }
    }
}

/// What is missing for a skill to be eligible here. Empty: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Missing {
    pub(crate) bins: Vec<String>,
    /// One of these would do.
    pub(crate) any_bins: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) config: Vec<String>,
    /// The platforms the skill is made for, when this one is not among them.
    pub(crate) os: Vec<String>,
}

impl Missing {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Missing::default()
    }

    /// One short phrase for each thing missing.
    pub(crate) fn phrases(&self) -> Vec<String> {
        let mut phrases: Vec<String> = Vec::new();
        if !self.os.is_empty() {
            phrases.push(format!("runs only on {}", self.os.join(", ")));
        }
        phrases.extend(self.bins.iter().map(|bin| format!("program {bin} is not on PATH")));
        if !self.any_bins.is_empty() {
            phrases.push(format!("none of the programs {} is on PATH", self.any_bins.join(", ")));
        }
        phrases.extend(self.env.iter().map(|name| format!("environment variable {name} is not set for the node")));
        phrases.extend(self.config.iter().map(|path| format!("configuration {path} is not on")));
        phrases
    }
}

/// Programs already looked for in a scan; many skills want the same few.
#[derive(Debug, Default)]
pub(crate) struct Seen(BTreeMap<String, bool>);

impl Seen {
    pub(super) fn has(&mut self, bin: &str, host: &Host) -> bool {
        *self.0.entry(bin.to_owned()).or_insert_with(|| is_on_path(bin, &host.path))
    }

    /// All that was looked for, and what was there.
    pub(super) fn answers(&self) -> &BTreeMap<String, bool> {
        &self.0
    }
}

/// Is there such a program? One with a path in its name is looked for below each directory, as OpenClaw does.
pub(super) fn is_on_path(bin: &str, path: &std::ffi::OsStr) -> bool {
    if bin.contains(['/', '\\']) {
        return std::env::split_paths(path).any(|dir| which::which_in(dir.join(bin), None::<&str>, Path::new("/")).is_ok());
    }
    which::which_in(bin, Some(path), Path::new("/")).is_ok()
}

/// Judges one skill. `always` overrides everything but the platform.
pub(crate) fn judge(manifest: &Manifest, key: &str, host: &Host, seen: &mut Seen) -> Missing {
    let mut missing = Missing::default();
    if !manifest.os.is_empty() && !manifest.os.contains(&host.platform) {
        missing.os.clone_from(&manifest.os);
    }
    if manifest.always {
        return missing;
    }
    let requires = &manifest.requires;
    let entry = host.settings.entries.get(key);
    let is_set = |name: &String| {
        let by_entry =
            entry.is_some_and(|entry| entry.env.contains(name) || (entry.has_key && manifest.primary_env.as_ref() == Some(name)));
        by_entry || host.env.contains(name) || host.settings.env.contains(name)
    };
    missing.env = requires.env.iter().filter(|name| !is_set(name)).cloned().collect();
    missing.config = requires.config.iter().filter(|path| !host.settings.is_true(path)).cloned().collect();
    missing.bins = requires.bins.iter().filter(|bin| !seen.has(bin, host)).cloned().collect();
    if !requires.any_bins.is_empty() && !requires.any_bins.iter().any(|bin| seen.has(bin, host)) {
        missing.any_bins.clone_from(&requires.any_bins);
    }
    missing
}

/// Why the configuration keeps a skill from being used.
pub(crate) fn blocked(name: &str, key: &str, is_bundled: bool, settings: &Settings) -> Option<String> {
    if settings.entries.get(key).is_some_and(|entry| !entry.enabled) {
        return Some(format!("switched off by skills.entries.{key}.enabled in OpenClaw's configuration"));
    }
    let allowed = settings.allow_bundled.as_ref().filter(|_| is_bundled)?;
    let is_allowed = allowed.contains(key) || allowed.contains(name);
    (!is_allowed).then(|| "not in skills.allowBundled of OpenClaw's configuration".to_owned())
}

/// `macos` and `windows` are what people write; `darwin` and `win32` are what OpenClaw compares.
/// Says which names were changed.
pub(crate) fn normalise_os(names: &[String]) -> (Vec<String>, Vec<String>) {
    let mut notes = Vec::new();
    let mut normal = Vec::new();
    for name in names {
        let known = platform(name);
        if known != *name {
            notes.push(format!("os {name:?} is read as {known:?}; OpenClaw itself compares with {known:?} only"));
        }
        normal.push(known);
    }
    (normal, notes)
}

fn platform(name: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "macos" | "mac" | "osx" => "darwin".to_owned(),
        "windows" | "win" => "win32".to_owned(),
        _ => name.to_owned(),
    }
}

/// Commands that would install what is missing, for a person to type; those that suit this machine first.
pub(crate) fn install_hints(install: &[Install], missing: &Missing, host: &Host, seen: &mut Seen) -> Vec<String> {
    let wanted: Vec<&String> = missing.bins.iter().chain(&missing.any_bins).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let order: [&str; 5] =
        if host.platform == "darwin" { ["brew", "uv", "node", "go", "download"] } else { ["uv", "node", "go", "brew", "download"] };
    let mut hints = Vec::new();
    for entry in install {
        let suits = entry.os.is_empty() || entry.os.iter().any(|os| platform(os) == host.platform);
        let helps = entry.bins.is_empty() || entry.bins.iter().any(|bin| wanted.contains(&bin));
        let Some((tool, hint)) = command(entry).filter(|_| suits && helps) else { continue };
        // What needs no tool needs a person who knows where to put it.
        let is_here = tool.is_some_and(|tool| seen.has(tool, host));
        let rank = order.iter().position(|kind| *kind == entry.kind).unwrap_or(order.len());
        hints.push((!is_here, rank, hint));
    }
    hints.sort();
    hints.dedup();
    hints.into_iter().map(|(_, _, hint)| hint).collect()
}

/// The tool that a command needs, and the command.
fn command(entry: &Install) -> Option<(Option<&'static str>, String)> {
    Some(match entry.kind.as_str() {
        "brew" => (Some("brew"), format!("brew install {}", entry.formula.as_ref()?)),
        "node" => (Some("npm"), format!("npm install -g {}", entry.package.as_ref()?)),
        "uv" => (Some("uv"), format!("uv tool install {}", shell_word(entry.package.as_ref()?))),
        "go" => {
            let module = entry.module.as_ref()?;
            (Some("go"), format!("go install {module}{}", if module.contains('@') { "" } else { "@latest" }))
        }
        "download" => {
            let label = entry.label.as_ref().map(|label| format!(" ({})", label.replace(char::is_control, " "))).unwrap_or_default();
            (None, format!("download {}{label}", entry.url.as_ref()?))
        }
        _ => return None,
    })
}

/// `package>=1` would write a file called `=1` if it were typed as it is. No name that is read here holds a quote.
fn shell_word(text: &str) -> String {
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "@+._/-~".contains(c));
    if is_plain { text.to_owned() } else { format!("'{text}'") }
}
