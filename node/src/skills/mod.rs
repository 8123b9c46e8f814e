//! What this node can do: skill folders with a `SKILL.md`, read and gated as OpenClaw does.
//!
//! `folder` finds folders and hashes them, `frontmatter` reads the file, `manifest` the requirements and our own declaration,
//! `gate` compares them with this machine. [`scan`] does all of it and never fails as a whole:
//! a broken skill is listed with its reason and its neighbours are not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::exec::SkillInput;

mod folder;
mod frontmatter;
mod gate;
mod manifest;
#[cfg(test)]
mod tests;

pub(crate) use gate::{Host, Missing};

/// Names that the mesh itself answers to.
pub(crate) const RESERVED_NAMES: [&str; 3] = ["echo", "sleep", "fail"];
/// Names travel in adverts and DHT keys; no published skill has a longer one. In bytes.
const NAME_BYTES_MAX: usize = 128;

/// A place where skills are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    /// How many levels of directories below `path` are searched.
    pub(crate) depth: usize,
}

impl Root {
    /// A folder named for skills, searched six levels deep as OpenClaw does.
    pub(crate) fn skills(path: impl Into<PathBuf>) -> Root {
        Root { path: path.into(), depth: 6 }
    }

    /// Any other folder given by the configuration, searched two levels deep as OpenClaw does.
    pub(crate) fn extra(path: impl Into<PathBuf>) -> Root {
        let path = path.into();
        let depth = if path.file_name().is_some_and(|name| name == "skills") { 6 } else { 2 };
        Root { path, depth }
    }
}

/// One readable skill.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Skill {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) version: Option<String>,
    pub(crate) category: Option<String>,
    pub(crate) tags: Vec<String>,
    /// Names with an optional semver range each, as written.
    pub(crate) depends: Vec<String>,
    pub(crate) resources: Resources,
    /// The folder.
    pub(crate) dir: PathBuf,
    /// BLAKE3 of the folder's content: together with the name, the skill's identity.
    pub(crate) hash: blake3::Hash,
    /// False when the folder is too large to share (1 MiB, 1000 files) and its hash covers the rest by name and size.
    pub(crate) shareable: bool,
    /// How the mesh runs it without an agent; None for a skill that only an agent can follow.
    pub(crate) run: Option<Run>,
    pub(crate) requires: Requires,
    /// Platforms it is made for as `linux`, `darwin`, `win32`; empty for all.
    pub(crate) os: Vec<String>,
    pub(crate) always: bool,
    /// Nothing is missing here.
    pub(crate) eligible: bool,
    pub(crate) missing: Missing,
    /// Remarks for its author that change nothing.
    pub(crate) notes: Vec<String>,
}

/// The command of a deterministic skill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// 1 to 64 words; `{baseDir}` stands for the skill's folder.
    pub(crate) argv: Vec<String>,
    pub(crate) input: SkillInput,
    pub(crate) json_output: bool,
    /// The author's limit for one run; a task's own timeout takes precedence.
    pub(crate) timeout: Option<Duration>,
}

/// What OpenClaw's manifest block requires.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Requires {
    pub(crate) bins: Vec<String>,
    pub(crate) any_bins: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) config: Vec<String>,
}

/// What one run needs. Thousandths for amounts that may be fractions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) cpu_milli: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) gpu_milli: u64,
    pub(crate) custom: BTreeMap<String, u64>,
}

/// Why a skill is not usable at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Stable, for programs: `UNTERMINATED_FRONTMATTER`, `NO_DESCRIPTION`, `TOO_LARGE`, `SYMLINK_ESCAPE`, …
    pub(crate) code: &'static str,
    /// A sentence for a person.
    pub(crate) message: String,
}

impl Problem {
    fn new(code: &'static str, message: impl Into<String>) -> Problem {
        Problem { code, message: message.into() }
    }
}

/// A skill that was found and not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejected {
    /// Its `SKILL.md`, or the root when the root is the problem.
    pub(crate) path: PathBuf,
    pub(crate) problem: Problem,
}

/// The outcome of looking at all roots. At most 300 skills per root.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scan {
    /// In the order of their names, each name once; eligible or not.
    pub(crate) skills: Vec<Skill>,
    pub(crate) rejected: Vec<Rejected>,
}

impl Scan {
    /// The skill of this exact name.
    pub(crate) fn skill(&self, name: &str) -> Option<&Skill> {
        let at = self.skills.binary_search_by(|skill| skill.name.as_str().cmp(name)).ok()?;
        self.skills.get(at)
    }
}

/// Reads every skill below the roots. Of two skills with one name, the one in the earlier root is taken.
/// Blocks on the file system; a few milliseconds for a hundred skills.
pub(crate) fn scan(roots: &[Root], host: &Host) -> Scan {
    let found = folder::find(roots);
    let mut scan = Scan { skills: Vec::new(), rejected: found.rejected };
    let mut seen = gate::Seen::default();
    let mut taken: BTreeMap<String, PathBuf> = BTreeMap::new();
    for dir in found.folders {
        let skill = read(&dir, host, &mut seen).and_then(|skill| match taken.get(&skill.name) {
            None => Ok(skill),
            Some(first) => Err(Problem::new(
                "DUPLICATE_NAME",
                format!("a skill named {:?} was already found in {}, which comes first", skill.name, first.display()),
            )),
        });
        match skill {
            Ok(skill) => {
                taken.insert(skill.name.clone(), dir);
                scan.skills.push(skill);
            }
            Err(problem) => scan.rejected.push(Rejected { path: dir.join("SKILL.md"), problem }),
        }
    }
    scan.skills.sort_by(|a, b| a.name.cmp(&b.name));
    scan
}

/// Reads one skill folder.
fn read(dir: &Path, host: &Host, seen: &mut gate::Seen) -> Result<Skill, Problem> {
    let mut fields = frontmatter::parse(&folder::read(dir)?)?;
    let fallback = || dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = fields.remove("name").filter(|name| !name.is_empty()).unwrap_or_else(fallback);
    let description = fields.remove("description").filter(|text| !text.is_empty());
    let description = description.ok_or_else(|| Problem::new("NO_DESCRIPTION", "description is required"))?;
    check_name(&name)?;
    let metadata = manifest::metadata(&fields);
    let mut demands = manifest::manifest(&metadata);
    let declared = manifest::declared(&metadata)?;
    let (os, notes) = gate::normalise_os(&demands.os);
    demands.os = os;
    let missing = gate::judge(&demands, host, seen);
    let content = folder::content_hash(dir);
    let mut field = |key: &str| fields.remove(key).filter(|text| !text.is_empty());
    let tags = if declared.tags.is_empty() { field("tags").map(|text| tag_list(&text)).unwrap_or_default() } else { declared.tags };
    Ok(Skill {
        version: declared.version.or_else(|| field("version")),
        category: declared.category.or_else(|| field("category")),
        name,
        description,
        tags: tags.into_iter().collect::<BTreeSet<_>>().into_iter().collect(),
        depends: declared.depends,
        resources: declared.resources,
        dir: dir.to_owned(),
        hash: content.hash,
        shareable: content.whole,
        run: declared.run,
        requires: demands.requires,
        os: demands.os,
        always: demands.always,
        eligible: missing.is_empty(),
        missing,
        notes,
    })
}

/// OpenClaw takes any name; the mesh needs one that it can print, advertise and tell from its own.
fn check_name(name: &str) -> Result<(), Problem> {
    if RESERVED_NAMES.contains(&name) {
        return Err(Problem::new("RESERVED_NAME", format!("the name {name:?} belongs to a builtin of the mesh; choose another")));
    }
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Problem::new("BAD_NAME", format!("a name must have 1 to {NAME_BYTES_MAX} bytes and no control characters")));
    }
    Ok(())
}

/// Tags at the top of a front matter, where publishing sites put them: a list, or texts with commas.
fn tag_list(text: &str) -> Vec<String> {
    let value = serde_json::from_str(text).unwrap_or_else(|_| serde_json::Value::String(text.to_owned()));
    manifest::strings(Some(&value))
}

/// The node's skills, looked at again when something changed.
#[derive(Debug)]
pub(crate) struct Library {
    roots: Vec<Root>,
    scan: Scan,
    fingerprint: blake3::Hash,
}

impl Library {
    /// Scans the roots, the one of highest precedence first.
    pub(crate) fn open(roots: Vec<Root>) -> Library {
        let host = Host::current();
        let fingerprint = folder::fingerprint(&roots, &host.path);
        Library { scan: scan(&roots, &host), roots, fingerprint }
    }

    /// The latest scan.
    pub(crate) fn current(&self) -> &Scan {
        &self.scan
    }

    /// Scans again if a name, size or time of anything relevant is not as it was. The new scan if it differs from the last one.
    /// Cheap enough for every second; blocks on the file system.
    pub(crate) fn rescan_if_changed(&mut self) -> Option<&Scan> {
        let host = Host::current();
        let fingerprint = folder::fingerprint(&self.roots, &host.path);
        if fingerprint == self.fingerprint {
            return None;
        }
        // Taken before the scan: a change during it is seen the next time.
        self.fingerprint = fingerprint;
        let scan = scan(&self.roots, &host);
        if scan == self.scan {
            return None;
        }
        self.scan = scan;
        Some(&self.scan)
    }
}
