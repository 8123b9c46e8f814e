//! What this node can do: skill folders with a `SKILL.md`, read and gated as OpenClaw does.
//!
//! `roots` knows where to look, `walk` finds the folders, `frontmatter` reads the file (with `yaml`), `openclaw` the requirements in it and
//! `manifest` our own declaration, `gate` compares them with this machine and OpenClaw's `settings`, which `config` has read. [`scan`] does all of it and never
//! fails as a whole: a broken skill is listed with its reason and its neighbours are not touched. `library` does it again when something
//! changed; `check` tells what became of every single file, for a person.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::exec::SkillInput;

mod check;
mod config;
mod folder;
mod frontmatter;
mod gate;
mod legacy;
mod library;
mod manifest;
mod openclaw;
mod read;
mod roots;
mod settings;
#[cfg(test)]
mod tests;
mod walk;
mod yaml;

pub(crate) use check::{Report, Verdict, check, local};
pub(crate) use gate::{Host, Missing};
pub(crate) use library::{Library, SkillSources};
pub(crate) use openclaw::{Install, Requires};
pub(crate) use roots::{Root, Surroundings};

/// Names that the mesh itself answers to.
pub(crate) const RESERVED_NAMES: [&str; 3] = ["echo", "sleep", "fail"];
/// Names travel in adverts and DHT keys; no published skill has a longer one. In bytes.
const NAME_BYTES_MAX: usize = 128;

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
    /// The name under which OpenClaw's configuration knows it.
    pub(crate) key: String,
    /// The variable that the configuration's `apiKey` stands for.
    pub(crate) primary_env: Option<String>,
    pub(crate) emoji: Option<String>,
    pub(crate) homepage: Option<String>,
    /// Ways to install what is missing, as its author declares them. Shown, never run.
    pub(crate) install: Vec<Install>,
    /// Where it was found.
    pub(crate) source: Source,
    /// Nothing is missing here, and nothing speaks against it.
    pub(crate) eligible: bool,
    pub(crate) missing: Missing,
    /// Commands that would install what is missing on this machine, the best first.
    pub(crate) hints: Vec<String>,
    /// Why the configuration keeps it from being used.
    pub(crate) blocked: Option<String>,
    /// Why the mesh can't take it although OpenClaw would: its name.
    pub(crate) refused: Option<Problem>,
    /// Remarks for its author that change nothing.
    pub(crate) notes: Vec<String>,
}

/// Where a skill was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Source {
    /// `clawmesh-home`, `clawmesh-extra`, or as OpenClaw calls its folders: `openclaw-workspace`, `agents-skills-project`,
    /// `agents-skills-personal`, `openclaw-managed`, `openclaw-workshop`, `openclaw-bundled`, `openclaw-plugin`, `openclaw-extra`.
    pub(crate) name: &'static str,
    /// The folder that was searched.
    pub(crate) root: PathBuf,
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
    scan_with(roots, host, &mut gate::Seen::default())
}

fn scan_with(roots: &[Root], host: &Host, seen: &mut gate::Seen) -> Scan {
    let found = walk::find(roots);
    let mut scan = Scan { skills: Vec::new(), rejected: found.rejected };
    let mut taken: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut cases: BTreeMap<String, String> = BTreeMap::new();
    let mut loaded: BTreeMap<usize, usize> = BTreeMap::new();
    for place in found.places {
        let Some(root) = roots.get(place.root) else { continue };
        let loaded = loaded.entry(place.root).or_default();
        if *loaded >= root.skills_max {
            let told = walk::too_many(root);
            if !scan.rejected.contains(&told) {
                scan.rejected.push(told);
            }
            continue;
        }
        let skill = read::skill(&place.dir, root, host, seen).map_err(|refused| refused.problem).and_then(|mut skill| {
            *loaded += 1;
            if let Some(problem) = skill.refused.take() {
                return Err(problem);
            }
            match taken.get(&skill.name) {
                None => Ok(skill),
                Some(first) => Err(Problem::new(
                    "DUPLICATE_NAME",
                    format!("a skill named {:?} was already found in {}, which comes first", skill.name, first.display()),
                )),
            }
        });
        match skill {
            Ok(mut skill) => {
                if let Some(other) = cases.insert(skill.name.to_lowercase(), skill.name.clone()) {
                    skill.notes.push(format!("its name differs from that of the skill {other:?} by upper and lower case only"));
                }
                read::add_content(&mut skill);
                taken.insert(skill.name.clone(), place.dir);
                scan.skills.push(skill);
            }
            Err(problem) => scan.rejected.push(Rejected { path: read::file_of(&place.dir), problem }),
        }
    }
    scan.skills.sort_by(|a, b| a.name.cmp(&b.name));
    scan
}
