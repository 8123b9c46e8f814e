//! Finds skill folders below the roots, within OpenClaw's limits and its rules for links.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::folder::SKILL_FILE;
use super::legacy;
use super::{Problem, Rejected, Root};

/// Names read of one directory, for each directory that may be looked into in it; as in OpenClaw.
const NAMES_EACH: usize = 10;
/// Fewest and most names read of one directory; as in OpenClaw.
const NAMES: std::ops::RangeInclusive<usize> = 1_000..=10_000;
/// Directories listed below one root, for each that may be looked into in one directory, so that a root set to `/` by mistake ends; as in
/// OpenClaw.
const LISTED_EACH: usize = 6;

/// Skill files looked at below one root, for each that may be taken from it: broken ones take no good one's place, as in OpenClaw, which
/// has no such bound.
const BROKEN_EACH: usize = 10;

/// A folder with a skill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    /// Which root it was found below, by number.
    pub(crate) root: usize,
}

/// What a walk below the roots found, in order of precedence.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) places: Vec<Place>,
    pub(crate) rejected: Vec<Rejected>,
}

/// All skill folders below the roots. A folder with a skill is not searched for further ones.
pub(crate) fn find(roots: &[Root]) -> Found {
    let mut found = Found::default();
    for (number, root) in roots.iter().enumerate() {
        let Ok(real) = root.path.canonicalize() else {
            continue;
        };
        let mut walk =
            Walk { root, real: &real, number, taken: 0, listed: 0, directories: BTreeSet::new(), full: false, found: &mut found };
        walk.enter(&root.path, root.depth);
        if walk.full {
            found.rejected.push(too_many(root));
        }
    }
    found
}

/// What is told of a root in which there is more than is taken.
pub(super) fn too_many(root: &Root) -> Rejected {
    let message = format!(
        "more than {} skills, {} folders in one folder or {} folders altogether; the rest is not looked at",
        root.skills_max,
        root.children_max,
        root.children_max * LISTED_EACH
    );
    Rejected { path: root.path.clone(), problem: Problem::new("TOO_MANY", message) }
}

struct Walk<'a> {
    root: &'a Root,
    /// The root without links.
    real: &'a Path,
    number: usize,
    taken: usize,
    listed: usize,
    /// Without links, so that a link to a parent does not send the walk in circles.
    directories: BTreeSet<PathBuf>,
    full: bool,
    found: &'a mut Found,
}

impl Walk<'_> {
    fn enter(&mut self, dir: &Path, depth: usize) {
        let Ok(real) = dir.canonicalize() else { return };
        if !self.directories.insert(real.clone()) {
            return;
        }
        let file = dir.join(SKILL_FILE);
        let has_skill = is_there(dir, &file);
        if has_skill || legacy::is_there(dir) {
            if self.taken >= self.root.skills_max.saturating_mul(BROKEN_EACH) {
                self.full = true;
                return;
            }
            self.taken += 1;
            let file = if has_skill { file } else { dir.join(legacy::FILE) };
            match self.check(&real, &file) {
                Ok(()) => self.found.places.push(Place { dir: dir.to_owned(), root: self.number }),
                Err(problem) => self.found.rejected.push(Rejected { path: file, problem }),
            }
            // OpenClaw does not know the older file and looks further.
            if has_skill {
                return;
            }
        }
        if depth == 0 || !self.may_enter(&real) {
            return;
        }
        if self.listed >= self.root.children_max * LISTED_EACH {
            self.full = true;
            return;
        }
        self.listed += 1;
        let (children, all) = children(dir, self.root.children_max);
        self.full |= !all;
        for child in children {
            let is_skills = self.root.path == dir && child.file_name().is_some_and(|name| name == "skills");
            self.enter(&child, if is_skills { Root::skills("").depth } else { depth - 1 });
        }
    }

    /// What a link leads to outside of the root is not ours to search, unless the root allows it.
    fn may_enter(&self, real: &Path) -> bool {
        !self.root.contained || real.starts_with(self.real) || self.root.targets.iter().any(|target| real.starts_with(target))
    }

    fn check(&self, real_dir: &Path, file: &Path) -> Result<(), Problem> {
        let real = file.canonicalize().map_err(|error| Problem::new("UNREADABLE", format!("cannot be read: {error}")))?;
        if !self.may_enter(real_dir) || !real.starts_with(real_dir) {
            let out_of = if real.starts_with(real_dir) { self.real } else { real_dir };
            return Err(Problem::new(
                "SYMLINK_ESCAPE",
                format!("a link leads out of {} to {}; copy the skill instead", out_of.display(), real.display()),
            ));
        }
        Ok(())
    }
}

/// Is the file there under exactly this name? On a file system that does not tell cases apart, `skill.md` would be found too.
pub(super) fn is_there(dir: &Path, file: &Path) -> bool {
    if fs::symlink_metadata(file).is_err() {
        return false;
    }
    if cfg!(any(target_os = "macos", windows)) {
        return fs::read_dir(dir)
            .is_ok_and(|entries| entries.flatten().any(|entry| Some(entry.file_name().as_os_str()) == file.file_name()));
    }
    true
}

/// The directories in `dir` in the order of their names, without hidden ones and `node_modules`; and whether that is all.
fn children(dir: &Path, children_max: usize) -> (Vec<PathBuf>, bool) {
    let Ok(entries) = fs::read_dir(dir) else {
        return (Vec::new(), true);
    };
    let names_max = (children_max * NAMES_EACH).clamp(*NAMES.start(), *NAMES.end());
    let mut names = 0;
    let mut children = Vec::new();
    for entry in entries.take(names_max + 1).flatten() {
        names += 1;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") || name == "node_modules" {
            continue;
        }
        // A plain file is told apart without another look at the disk.
        let may_be = entry.file_type().is_ok_and(|kind| kind.is_dir() || (kind.is_symlink() && entry.path().is_dir()));
        if may_be {
            children.push(entry.path());
        }
    }
    children.sort();
    let all = names <= names_max && children.len() <= children_max;
    let skills = children.iter().skip(children_max).find(|path| path.file_name().is_some_and(|name| name == "skills")).cloned();
    children.truncate(children_max);
    children.extend(skills);
    (children, all)
}
