//! Whether this machine has what a skill needs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use super::manifest::Manifest;

/// What the gate looks at, taken once per scan so that all skills are judged alike.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// `linux`, `darwin` or `win32`.
    pub(crate) platform: String,
    /// Where programs are looked for, in the form of the variable PATH.
    pub(crate) path: OsString,
    /// Names of environment variables that are set and not blank.
    pub(crate) env: BTreeSet<String>,
    /// Configuration paths that are true.
    pub(crate) config: BTreeSet<String>,
}

impl Host {
    /// This machine, as this process sees it. OpenClaw's own configuration is not read: only its defaults count as true.
    pub(crate) fn current() -> Host {
        let set = |(name, value): (OsString, OsString)| {
            let filled = !value.to_string_lossy().trim().is_empty();
            name.into_string().ok().filter(|_| filled)
        };
        Host {
            platform: crate::facts::platform().to_owned(),
            path: std::env::var_os("PATH").unwrap_or_default(),
            env: std::env::vars_os().filter_map(set).collect(),
            config: ["browser.enabled", "browser.evaluateEnabled"].map(str::to_owned).into(),
        }
    }
}

/// What is missing for a skill to be eligible here. Empty: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
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
    fn has(&mut self, bin: &str, host: &Host) -> bool {
        *self.0.entry(bin.to_owned()).or_insert_with(|| which::which_in(bin, Some(&host.path), Path::new("/")).is_ok())
    }
}

/// Judges one skill. `always` overrides everything but the platform.
pub(crate) fn judge(manifest: &Manifest, host: &Host, seen: &mut Seen) -> Missing {
    let mut missing = Missing::default();
    if !manifest.os.is_empty() && !manifest.os.contains(&host.platform) {
        missing.os.clone_from(&manifest.os);
    }
    if manifest.always {
        return missing;
    }
    let requires = &manifest.requires;
    let absent = |names: &[String], there: &BTreeSet<String>| names.iter().filter(|name| !there.contains(*name)).cloned().collect();
    missing.env = absent(&requires.env, &host.env);
    missing.config = absent(&requires.config, &host.config);
    missing.bins = requires.bins.iter().filter(|bin| !seen.has(bin, host)).cloned().collect();
    if !requires.any_bins.is_empty() && !requires.any_bins.iter().any(|bin| seen.has(bin, host)) {
        missing.any_bins.clone_from(&requires.any_bins);
    }
    missing
}

/// `macos` and `windows` are what people write; `darwin` and `win32` are what OpenClaw compares.
/// Says which names were changed.
pub(crate) fn normalise_os(names: &[String]) -> (Vec<String>, Vec<String>) {
    let mut notes = Vec::new();
    let mut normal = Vec::new();
    for name in names {
        let known = match name.to_ascii_lowercase().as_str() {
            "macos" | "mac" | "osx" => "darwin".to_owned(),
            "windows" | "win" => "win32".to_owned(),
            _ => name.clone(),
        };
        if known != *name {
            notes.push(format!("os {name:?} is read as {known:?}; OpenClaw itself compares with {known:?} only"));
        }
        normal.push(known);
    }
    (normal, notes)
}
