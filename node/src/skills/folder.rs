//! A skill's folder on disk: reading its file, and the hash of its content.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::path::Path;

use super::Problem;

/// The one name of the file; OpenClaw compares exactly.
pub(super) const SKILL_FILE: &str = "SKILL.md";
/// A larger file is rejected, in bytes; as in OpenClaw.
pub(crate) const SKILL_FILE_BYTES_MAX: u64 = 256_000;
/// Content that goes into a folder's hash, in bytes. Of two thousand published skills none is larger.
const HASHED_BYTES_MAX: u64 = 1024 * 1024;
/// Files that go into a folder's hash; the largest published skill has 94.
const HASHED_FILES_MAX: usize = 1_000;

/// Reads a skill's file. Bytes that are not UTF-8 are replaced, as OpenClaw does.
pub(crate) fn read(folder: &Path, bytes_max: u64) -> Result<String, Problem> {
    read_file(&folder.join(SKILL_FILE), bytes_max).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads a regular file of at most so many bytes. Anything else, a pipe above all, is not even opened.
pub(super) fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Problem> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unreadable = |error: std::io::Error| Problem::new("UNREADABLE", format!("{name} cannot be read: {error}"));
    let meta = fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Problem::new("NOT_A_FILE", format!("{name} is not a regular file")));
    }
    let too_large = |size: String| Problem::new("TOO_LARGE", format!("{name} has {size} bytes; at most {bytes_max} are read"));
    if meta.len() > bytes_max {
        return Err(too_large(meta.len().to_string()));
    }
    let mut bytes = Vec::new();
    // The file may have grown since.
    File::open(path).map_err(unreadable)?.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > bytes_max {
        return Err(too_large("more".to_owned()));
    }
    Ok(bytes)
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
pub(super) fn files(folder: &Path) -> (BTreeMap<String, Metadata>, bool) {
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
