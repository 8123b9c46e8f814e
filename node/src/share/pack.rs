//! A folder as an archive, and back into memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::path::Path;

use clawmesh_protocol::files::{check_path, check_paths};

use super::{ORIGIN_FILE, Refused, refused};

/// Most bytes of a shared skill's files together.
const CONTENT_MAX: u64 = 1 << 20;
/// Most files of a shared skill.
const FILES_MAX: usize = 1_000;
/// Most directories looked into.
const DIRS_MAX: usize = 1_000;
/// Longest archive, bytes: the content, and for each file a head, a long name with its own head, and what fills up the last block.
pub(crate) const ARCHIVE_MAX: u64 = CONTENT_MAX + FILES_MAX as u64 * (4 * 512) + 1_024;
/// What running or editing a skill leaves behind.
const SKIPPED: [&str; 4] = [".git", "__pycache__", ".DS_Store", ORIGIN_FILE];

/// A skill's files by relative path.
pub(crate) type Packed = BTreeMap<String, Vec<u8>>;

/// Reads a folder.
///
/// # Errors
/// A sentence: a link, a device, a name that not every system takes, too many or too large files.
pub(crate) fn read_folder(dir: &Path) -> Result<Packed, Refused> {
    let mut files = Packed::new();
    let mut open = vec![(dir.to_owned(), String::new())];
    let (mut left, mut dirs) = (CONTENT_MAX, 0);
    while let Some((at, prefix)) = open.pop() {
        dirs += 1;
        if dirs > DIRS_MAX {
            return refused(format!("{} has more than {DIRS_MAX} directories", dir.display()));
        }
        let unreadable = |e: std::io::Error| Refused(format!("cannot read {}: {e}", at.display()));
        for entry in fs::read_dir(&at).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let Ok(name) = entry.file_name().into_string() else {
                return refused(format!("the name of {} is not UTF-8", entry.path().display()));
            };
            if SKIPPED.contains(&name.as_str()) {
                continue;
            }
            let path = format!("{prefix}{name}");
            let kind = entry.file_type().map_err(unreadable)?;
            if kind.is_dir() {
                check_path(&path).map_err(|why| Refused(format!("the path {path:?} {why}")))?;
                open.push((entry.path(), format!("{path}/")));
                continue;
            }
            if !kind.is_file() {
                let what = if kind.is_symlink() { "a link: put the file itself there" } else { "no regular file" };
                return refused(format!("{path:?} is {what}"));
            }
            if files.len() >= FILES_MAX {
                return refused(format!("{} has more than {FILES_MAX} files: share large data with 'clawmesh blobs put'", dir.display()));
            }
            let content = read_at_most(&entry.path(), left).map_err(unreadable)?;
            let Some(content) = content else {
                let cap = bytesize::ByteSize(CONTENT_MAX);
                return refused(format!("{} has more than {cap}: share large data with 'clawmesh blobs put'", dir.display()));
            };
            left = left.saturating_sub(content.len() as u64);
            files.insert(path, content);
        }
    }
    check_paths(files.keys().map(String::as_str)).map_err(Refused)?;
    Ok(files)
}

fn read_at_most(path: &Path, max: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    File::open(path)?.take(max + 1).read_to_end(&mut content)?;
    Ok((content.len() as u64 <= max).then_some(content))
}

/// The one archive of these files.
///
/// # Errors
/// A path that a tar cannot hold.
pub(crate) fn pack(files: &Packed) -> Result<Vec<u8>, Refused> {
    let failed = |e: std::io::Error| Refused(format!("cannot pack the folder: {e}"));
    let mut tar = tar::Builder::new(Vec::new());
    tar.mode(tar::HeaderMode::Deterministic);
    for (path, content) in files {
        let mut head = tar::Header::new_gnu();
        head.set_entry_type(tar::EntryType::Regular);
        head.set_size(content.len() as u64);
        head.set_mode(0o644);
        head.set_mtime(0);
        head.set_uid(0);
        head.set_gid(0);
        tar.append_data(&mut head, path, content.as_slice()).map_err(failed)?;
    }
    tar.into_inner().map_err(failed)
}

/// The files of an archive of a stranger, in memory: nothing is written anywhere.
///
/// # Errors
/// A sentence: anything but regular files with harmless names, within the caps, in the one form that [`pack`] writes.
pub(crate) fn unpack(archive: &[u8]) -> Result<Packed, Refused> {
    if archive.len() as u64 > ARCHIVE_MAX {
        return refused(format!("the archive has {} bytes, at most {ARCHIVE_MAX} are taken", archive.len()));
    }
    let broken = |e: std::io::Error| Refused(format!("the archive is damaged: {e}"));
    let mut files = Packed::new();
    let mut left = CONTENT_MAX;
    let mut tar = tar::Archive::new(Cursor::new(archive));
    for (number, entry) in tar.entries().map_err(broken)?.enumerate() {
        if number >= FILES_MAX {
            return refused(format!("the archive holds more than {FILES_MAX} files"));
        }
        let mut entry = entry.map_err(broken)?;
        let Ok(path) = String::from_utf8(entry.path_bytes().into_owned()) else {
            return refused("the archive holds a name that is not UTF-8");
        };
        let shown: String = path.chars().take(80).collect();
        if entry.header().entry_type() != tar::EntryType::Regular {
            return refused(format!("{shown:?} in the archive is no regular file: links, devices and the like are not taken"));
        }
        check_path(&path).map_err(|why| Refused(format!("the path {shown:?} in the archive {why}")))?;
        let mut content = Vec::new();
        (&mut entry).take(left + 1).read_to_end(&mut content).map_err(broken)?;
        let Some(rest) = left.checked_sub(content.len() as u64) else {
            return refused(format!("the archive holds more than {}", bytesize::ByteSize(CONTENT_MAX)));
        };
        left = rest;
        if files.insert(path, content).is_some() {
            return refused(format!("{shown:?} is in the archive twice"));
        }
    }
    check_paths(files.keys().map(String::as_str)).map_err(Refused)?;
    if files.contains_key(ORIGIN_FILE) {
        return refused(format!("the archive brings a {ORIGIN_FILE}: where a skill comes from is written by who installs it"));
    }
    if pack(&files)? != archive {
        return refused("the archive is not in the form that 'skills publish' writes, so another program might read it differently");
    }
    Ok(files)
}

/// The hash of a skill's content, the same as the node's own of a folder: see `skills::folder::content_hash`.
pub(crate) fn content_hash(files: &Packed) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, content) in files {
        for bytes in [name.as_bytes(), content] {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        }
    }
    hasher.finalize().to_hex().to_string()
}
