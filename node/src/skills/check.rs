//! What became of every single skill file, for a person or a program that asks.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::folder::SKILL_FILE;
use super::frontmatter::Refused;
use super::gate::{Host, Missing, Seen};
use super::{Problem, Requires, Root, Scan, Skill, read, walk};

/// Directories looked into; a tree of a hundred thousand skills is checked whole.
const DIRECTORIES_MAX: usize = 200_000;
/// Names read in all of them.
const NAMES_MAX: usize = 2_000_000;
/// Levels of directories.
const DEPTH_MAX: usize = 64;

/// Does OpenClaw take the file as a skill?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Yes.
    Ok,
    /// No, and `code` says why.
    Rejected,
}

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// The file.
    pub(crate) path: PathBuf,
    pub(crate) verdict: Verdict,
    /// Why it is rejected, in one stable word.
    pub(crate) code: Option<String>,
    /// The name in its front matter, else its folder's.
    pub(crate) name: String,
    /// Empty when it has none.
    pub(crate) description: String,
    pub(crate) requires: Requires,
    /// Platforms it is made for as `linux`, `darwin`, `win32`; empty for all.
    pub(crate) os: Vec<String>,
    /// It can be used on this machine.
    pub(crate) eligible: bool,
    pub(crate) missing: Missing,
    /// Why it is rejected, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    /// Why it is not used although nothing is missing: OpenClaw's configuration, or a name that the mesh can't take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) blocked: Option<String>,
    /// Commands that would install what is missing, the best for this machine first. Nothing of this is ever run by itself.
    #[serde(default)]
    pub(crate) install: Vec<String>,
    /// Remarks for its author.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
    /// What kind of place it was found in.
    pub(crate) source: String,
    /// It says that nothing but the platform matters.
    #[serde(default)]
    pub(crate) always: bool,
    /// The variable that OpenClaw's configuration can set as the skill's `apiKey`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) primary_env: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) homepage: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) emoji: Option<String>,
}

impl Report {
    fn of(path: PathBuf, root: &Root, skill: Result<Skill, Box<Refused>>) -> Report {
        match skill {
            Ok(skill) => Report::taken(path, skill),
            Err(refused) => {
                let field = |key: &str| refused.fields.get(key).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
                let name = field("name").unwrap_or_else(|| folder_name(&path));
                let description = field("description").unwrap_or_default();
                Report { name, description, ..Report::rejected(path, root.source, &refused.problem) }
            }
        }
    }

    fn taken(path: PathBuf, skill: Skill) -> Report {
        Report {
            path,
            verdict: Verdict::Ok,
            code: None,
            name: skill.name,
            description: skill.description,
            requires: skill.requires,
            os: skill.os,
            eligible: skill.eligible,
            missing: skill.missing,
            message: None,
            blocked: skill.blocked.or(skill.refused.map(|problem| problem.message)),
            install: skill.hints,
            notes: skill.notes,
            source: skill.source.name.to_owned(),
            always: skill.always,
            primary_env: skill.primary_env,
            homepage: skill.homepage,
            emoji: skill.emoji,
        }
    }

    fn rejected(path: PathBuf, source: &str, problem: &Problem) -> Report {
        Report {
            name: folder_name(&path),
            path,
            verdict: Verdict::Rejected,
            code: Some(problem.code.to_owned()),
            description: String::new(),
            requires: Requires::default(),
            os: Vec::new(),
            eligible: false,
            missing: Missing::default(),
            message: Some(problem.message.clone()),
            blocked: None,
            install: Vec::new(),
            notes: Vec::new(),
            source: source.to_owned(),
            always: false,
            primary_env: None,
            homepage: None,
            emoji: None,
        }
    }
}

fn folder_name(file: &Path) -> String {
    file.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Looks at every `SKILL.md` below a directory, hidden folders and skills within skills too, in the order of their paths.
/// Folders that have only a `skill.json` are looked at `with_json`, and always when it is the directory itself.
/// Links to directories are not followed. Bounded: 200,000 directories, 64 levels; what is beyond is told in a last entry.
pub(crate) fn check(dir: &Path, host: &Host, with_json: bool) -> Vec<Report> {
    let root = Root::extra(dir);
    let mut seen = Seen::default();
    let mut reports = Vec::new();
    let mut open = vec![(dir.to_owned(), 0_usize)];
    let (mut directories, mut names, mut full) = (0, 0, false);
    while let Some((dir, depth)) = open.pop() {
        directories += 1;
        if directories > DIRECTORIES_MAX || names > NAMES_MAX || depth > DEPTH_MAX {
            full = true;
            continue;
        }
        if let Some(file) = skill_file(&dir, with_json || depth == 0) {
            reports.push(examine(file, &dir, &root, host, &mut seen));
        }
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            names += 1;
            if names > NAMES_MAX {
                break;
            }
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && entry.file_name() != ".git" {
                open.push((entry.path(), depth + 1));
            } else if kind.is_symlink() {
                reports.extend(behind_link(&entry.path(), &root));
            }
        }
    }
    reports.sort_by(|a, b| a.path.cmp(&b.path));
    if full {
        let message =
            format!("more than {DIRECTORIES_MAX} directories, {NAMES_MAX} names or {DEPTH_MAX} levels; the rest was not looked at");
        reports.push(Report::rejected(root.path.clone(), root.source, &Problem::new("TOO_MANY", message)));
    }
    reports
}

fn skill_file(dir: &Path, with_json: bool) -> Option<PathBuf> {
    let file = read::file_of(dir);
    let wanted = with_json || file.file_name().is_some_and(|name| name == SKILL_FILE);
    (wanted && fs::symlink_metadata(&file).is_ok()).then_some(file)
}

fn examine(file: PathBuf, dir: &Path, root: &Root, host: &Host, seen: &mut Seen) -> Report {
    let inside = match (file.canonicalize(), dir.canonicalize()) {
        (Ok(real), Ok(real_dir)) => real.starts_with(real_dir),
        // What cannot be resolved is told by the reading.
        _ => true,
    };
    if !inside {
        let problem = Problem::new("SYMLINK_ESCAPE", "it is a link that leads out of its folder; copy the file instead");
        return Report::rejected(file, root.source, &problem);
    }
    Report::of(file, root, read::skill(dir, root, host, seen))
}

/// A linked folder with a skill: inside of the tree it is listed at its own place, outside it is out of bounds.
fn behind_link(link: &Path, root: &Root) -> Option<Report> {
    let file = link.join(SKILL_FILE);
    if !walk::is_there(link, &file) {
        return None;
    }
    let (real, top) = (link.canonicalize().ok()?, root.path.canonicalize().ok()?);
    if real.starts_with(&top) {
        return None;
    }
    let problem =
        Problem::new("SYMLINK_ESCAPE", format!("its folder is a link that leads out of {}; copy it instead", root.path.display()));
    Some(Report::rejected(file, root.source, &problem))
}

/// What a scan of the node's own folders made of each file, usable or not.
pub(crate) fn local(scan: &Scan) -> Vec<Report> {
    let taken = scan.skills.iter().map(|skill| Report::taken(read::file_of(&skill.dir), skill.clone()));
    let rejected = scan.rejected.iter().map(|rejected| Report::rejected(rejected.path.clone(), "", &rejected.problem));
    let mut reports: Vec<Report> = taken.chain(rejected).collect();
    reports.sort_by(|a, b| a.path.cmp(&b.path));
    reports
}
