//! The node's skills, looked at again when something changed.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::gate::{self, Host, Seen};
use super::roots::{Root, Surroundings};
use super::settings::Settings;
use super::{Scan, Skill, folder, scan_with, walk};

/// Files whose times are looked at in one round; beyond them only each skill's own file.
const FILES_MAX: usize = 20_000;

/// Where the node's skills come from.
#[derive(Clone, Debug)]
pub(crate) struct SkillSources {
    /// The node's own folders, the one of highest precedence first.
    pub(crate) own: Vec<Root>,
    /// What OpenClaw's folders and configuration are found by; None leaves OpenClaw out.
    pub(crate) openclaw: Option<Surroundings>,
}

impl SkillSources {
    /// All folders with the configuration that goes with them: the node's own first, then OpenClaw's.
    pub(crate) fn resolve(&self) -> (Vec<Root>, Settings) {
        let mut roots = self.own.clone();
        let Some(openclaw) = &self.openclaw else { return (roots, Settings::default()) };
        let settings = openclaw.settings();
        roots.extend(openclaw.openclaw_roots(&settings));
        (roots, settings)
    }
}

/// The node's skills, looked at again when something changed.
#[derive(Debug)]
pub(crate) struct Library {
    sources: SkillSources,
    scan: Scan,
    /// Programs that the skills asked for, and which of them were there.
    programs: BTreeMap<String, bool>,
    fingerprint: blake3::Hash,
}

impl Library {
    /// Scans all sources.
    pub(crate) fn open(sources: SkillSources) -> Library {
        let mut library =
            Library { sources, scan: Scan::default(), programs: BTreeMap::new(), fingerprint: blake3::Hash::from_bytes([0; 32]) };
        library.rescan_if_changed();
        library
    }

    /// The latest scan.
    pub(crate) fn current(&self) -> &Scan {
        &self.scan
    }

    /// Scans again if a name, size or time of anything relevant is not as it was. The new scan if it differs from the last one.
    /// Cheap enough for every second; blocks on the file system.
    pub(crate) fn rescan_if_changed(&mut self) -> Option<&Scan> {
        let (roots, settings) = self.sources.resolve();
        let host = Host::current(settings);
        let fingerprint = fingerprint(&roots, &host);
        let is_same = |(bin, was): (&String, &bool)| gate::is_on_path(bin, &host.path) == *was;
        if fingerprint == self.fingerprint && self.programs.iter().all(is_same) {
            return None;
        }
        // Taken before the scan: a change during it is seen the next time.
        self.fingerprint = fingerprint;
        if let Some(problem) = &host.settings.problem {
            tracing::warn!("OpenClaw's configuration is passed over: {problem}");
        }
        let mut seen = Seen::default();
        let scan = scan_with(&roots, &host, &mut seen);
        self.programs = seen.answers().clone();
        if scan == self.scan {
            return None;
        }
        tell_news(&scan, &self.scan);
        self.scan = scan;
        Some(&self.scan)
    }
}

/// Logs what is not usable now and was not told before.
fn tell_news(scan: &Scan, before: &Scan) {
    for rejected in scan.rejected.iter().filter(|rejected| !before.rejected.contains(rejected)) {
        let problem = &rejected.problem;
        tracing::warn!(path = %rejected.path.display(), code = problem.code, "a skill is not usable: {}", problem.message);
    }
    let was_told =
        |skill: &Skill| before.skill(&skill.name).is_some_and(|old| old.missing == skill.missing && old.blocked == skill.blocked);
    for skill in scan.skills.iter().filter(|skill| !skill.eligible && !was_told(skill)) {
        let why: Vec<String> = skill.blocked.iter().cloned().chain(skill.missing.phrases()).collect();
        tracing::info!(skill = %skill.name, "a skill can't be used on this machine: {}", why.join("; "));
    }
}

/// A number that changes when anything a scan would read may have changed: names, sizes and times of the roots' directories,
/// of all files in skill folders, and of OpenClaw's configuration. Reads no file; some milliseconds for hundreds of skills.
fn fingerprint(roots: &[Root], host: &Host) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(host.path.as_encoded_bytes());
    let mut add = |path: &Path, meta: &Metadata| {
        let time = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        hasher.update(path.as_os_str().as_encoded_bytes()).update(&time.as_nanos().to_le_bytes()).update(&meta.len().to_le_bytes());
    };
    let found = walk::find(roots);
    let rejected = found.rejected.iter().map(|rejected| &rejected.path);
    let paths: Vec<&PathBuf> = roots.iter().map(|root| &root.path).chain(rejected).chain(&host.settings.files).collect();
    for path in paths {
        if let Ok(meta) = fs::metadata(path) {
            add(path, &meta);
        }
    }
    let mut left = FILES_MAX;
    for place in &found.places {
        let files = if left > 0 { folder::files(&place.dir).0 } else { BTreeMap::new() };
        left = left.saturating_sub(files.len());
        if let Ok(meta) = fs::metadata(place.dir.join(folder::SKILL_FILE)) {
            add(&place.dir, &meta);
        }
        for (name, meta) in files {
            add(&place.dir.join(name), &meta);
        }
    }
    hasher.finalize()
}
