//! Skill folders on disk: finding them, and the hash of their content.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::{Problem, Rejected, Root};

/// The one name of the file; OpenClaw compares exactly.
const SKILL_FILE: &str = "SKILL.md";
/// A larger file is rejected, in bytes; as in OpenClaw.
pub(crate) const SKILL_FILE_BYTES_MAX: u64 = 256_000;
/// Skills looked at below one root; as in OpenClaw.
const CANDIDATES_MAX: usize = 300;
/// Directories looked into below one root, so that a root set to `/` by mistake ends.
const DIRECTORIES_MAX: usize = 5_000;
/// Content that goes into a folder's hash, in bytes. Of two thousand published skills none is larger.
const HASHED_BYTES_MAX: u64 = 1024 * 1024;
/// Files that go into a folder's hash; the largest published skill has 94.
const HASHED_FILES_MAX: usize = 1_000;

/// What a walk below the roots found, in order of precedence.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) rejected: Vec<Rejected>,
}

/// All skill folders below the roots. A folder with a skill is not searched for further ones.
pub(crate) fn find(roots: &[Root]) -> Found {
    let mut found = Found::default();
    for root in roots {
        let Ok(real) = root.path.canonicalize() else {
            continue;
        };
        let mut walk = Walk { root: &real, candidates: 0, directories: BTreeSet::new(), full: false, found: &mut found };
        walk.enter(&root.path, root.depth);
        if walk.full {
            let message = format!("more than {CANDIDATES_MAX} skills or {DIRECTORIES_MAX} directories; the rest is not looked at");
            found.rejected.push(Rejected { path: root.path.clone(), problem: Problem::new("TOO_MANY", message) });
        }
    }
    found
}

struct Walk<'a> {
    /// Without links.
    root: &'a Path,
    candidates: usize,
    /// Without links, so that a link to a parent does not send the walk in circles.
    directories: BTreeSet<PathBuf>,
    full: bool,
    found: &'a mut Found,
}

impl Walk<'_> {
    fn enter(&mut self, dir: &Path, depth: usize) {
        let Ok(real) = dir.canonicalize() else { return };
        if self.full || !self.directories.insert(real.clone()) {
            return;
        }
        if self.candidates >= CANDIDATES_MAX || self.directories.len() > DIRECTORIES_MAX {
            self.full = true;
            return;
        }
        let file = dir.join(SKILL_FILE);
        if fs::symlink_metadata(&file).is_ok() && has_exact_name(dir) {
            self.candidates += 1;
            match self.check(&real, &file) {
                Ok(()) => self.found.folders.push(dir.to_owned()),
                Err(problem) => self.found.rejected.push(Rejected { path: file, problem }),
            }
            return;
        }
        if depth == 0 {
            return;
        }
        // A directory outside the root is only looked at for being named; its content is not ours to search.
        if !real.starts_with(self.root) {
            return;
        }
        for child in children(dir) {
            self.enter(&child, depth - 1);
        }
    }

    fn check(&self, real_dir: &Path, file: &Path) -> Result<(), Problem> {
        let real = file.canonicalize().map_err(|error| Problem::new("UNREADABLE", format!("cannot be read: {error}")))?;
        if !real.starts_with(self.root) || !real_dir.starts_with(self.root) {
            return Err(Problem::new(
                "SYMLINK_ESCAPE",
                format!("a link leads out of {} to {}; copy the skill instead", self.root.display(), real.display()),
            ));
        }
        let meta = fs::metadata(&real).map_err(|error| Problem::new("UNREADABLE", format!("cannot be read: {error}")))?;
        if !meta.is_file() {
            return Err(Problem::new("NOT_A_FILE", "SKILL.md is not a regular file"));
        }
        if meta.len() > SKILL_FILE_BYTES_MAX {
            return Err(Problem::new("TOO_LARGE", format!("SKILL.md has {} bytes; at most {SKILL_FILE_BYTES_MAX} are read", meta.len())));
        }
        Ok(())
    }
}

/// On a file system that does not tell cases apart, `skill.md` would be found too.
fn has_exact_name(dir: &Path) -> bool {
    if cfg!(any(target_os = "macos", windows)) {
        return fs::read_dir(dir).is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name() == SKILL_FILE));
    }
    true
}

/// The directories in `dir` in the order of their names, without hidden ones and `node_modules`.
fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut children: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            !name.as_encoded_bytes().starts_with(b".") && name != "node_modules"
        })
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .take(DIRECTORIES_MAX)
        .collect();
    children.sort();
    children
}

/// Reads a skill's file. Bytes that are not UTF-8 are replaced, as OpenClaw does.
pub(crate) fn read(folder: &Path) -> Result<String, Problem> {
    let unreadable = |error: std::io::Error| Problem::new("UNREADABLE", format!("cannot be read: {error}"));
    let mut bytes = Vec::new();
    let file = File::open(folder.join(SKILL_FILE)).map_err(unreadable)?;
    // The size was checked before, but the file may have grown since.
    file.take(SKILL_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > SKILL_FILE_BYTES_MAX {
        return Err(Problem::new("TOO_LARGE", format!("SKILL.md has more than {SKILL_FILE_BYTES_MAX} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A folder's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentHash {
    pub(crate) hash: blake3::Hash,
    /// The whole content went into the hash. If not (more than 1 MiB or 1000 files), the rest went in by name and size,
    /// and the folder cannot be shared.
    pub(crate) whole: bool,
}

/// BLAKE3 over the folder's files in the order of their paths, each as length and bytes of path and content.
/// Links are taken by their target and never followed; what running a skill leaves behind (`__pycache__`) does not count.
pub(crate) fn content_hash(folder: &Path) -> ContentHash {
    let (files, complete) = files(folder);
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    let (mut left, mut whole) = (HASHED_BYTES_MAX, complete);
    for (name, meta) in &files {
        add(name.as_bytes());
        let path = folder.join(name);
        let content = match fs::read_link(&path) {
            Ok(target) => Some(target.to_string_lossy().into_owned().into_bytes()),
            Err(_) if meta.is_file() && meta.len() <= left => read_at_most(&path, left),
            Err(_) => None,
        };
        match content {
            Some(content) => {
                left = left.saturating_sub(content.len() as u64);
                add(&content);
            }
            None => {
                whole = false;
                add(&meta.len().to_le_bytes());
            }
        }
    }
    ContentHash { hash: hasher.finalize(), whole }
}

fn read_at_most(path: &Path, max: u64) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path).ok()?.take(max + 1).read_to_end(&mut content).ok()?;
    (content.len() as u64 <= max).then_some(content)
}

/// Everything in a folder that is not a directory, by relative path with `/`, and whether that is all.
fn files(folder: &Path) -> (BTreeMap<String, Metadata>, bool) {
    let mut files = BTreeMap::new();
    let mut open = vec![(folder.to_owned(), String::new())];
    let mut complete = true;
    while let Some((dir, prefix)) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            complete = false;
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if matches!(name.as_str(), ".git" | "__pycache__" | ".DS_Store" | crate::share::ORIGIN_FILE) {
                continue;
            }
            if files.len() + open.len() >= HASHED_FILES_MAX {
                return (files, false);
            }
            let Ok(meta) = entry.metadata() else { continue };
            match meta.is_dir() {
                true => open.push((entry.path(), format!("{prefix}{name}/"))),
                false => drop(files.insert(format!("{prefix}{name}"), meta)),
            }
        }
    }
    (files, complete)
}

/// A number that changes when anything a scan would read may have changed: names, sizes and times of the roots' directories
/// and of all files in skill folders, and of the directories of PATH, where a missing program may have appeared.
/// Reads no file; some milliseconds for hundreds of skills.
pub(crate) fn fingerprint(roots: &[Root], path: &std::ffi::OsStr) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut add = |path: &Path, meta: &Metadata| {
        let time = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        hasher.update(path.as_os_str().as_encoded_bytes()).update(&time.as_nanos().to_le_bytes()).update(&meta.len().to_le_bytes());
    };
    for dir in std::env::split_paths(path) {
        if let Ok(meta) = fs::metadata(&dir) {
            add(&dir, &meta);
        }
    }
    let found = find(roots);
    let rejected = found.rejected.iter().map(|rejected| &rejected.path);
    for path in roots.iter().map(|root| &root.path).chain(rejected) {
        if let Ok(meta) = fs::metadata(path) {
            add(path, &meta);
        }
    }
    for folder in &found.folders {
        for (name, meta) in files(folder).0 {
            add(&folder.join(name), &meta);
        }
    }
    hasher.finalize()
}
