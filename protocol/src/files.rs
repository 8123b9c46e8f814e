//! Files that go with a task, and the names that files of others may have: pure checks, used before anything touches a disk.

use alloc::{
    collections::BTreeSet,
    format,
    string::{String, ToString},
    vec::Vec,
};

use serde::{Deserialize, Serialize};

use crate::{
    ids::{Hash, Peer},
    spec::{NEED_MAX, Need},
    wire_tuple,
};

/// Most input files of a task.
pub const FILES_MAX: usize = 64;
/// Most names or patterns of output files of a task.
pub const OUTS_MAX: usize = 16;
/// Most output files kept of one attempt, whatever its patterns match.
pub const KEPT_MAX: usize = 64;
/// Most nodes named to placement as holders of a task's inputs.
pub const HOLDERS_MAX: usize = 4;
/// Longest relative path of a file, bytes.
pub const PATH_MAX: usize = 240;
/// Longest part of a path, bytes.
const PART_MAX: usize = 128;

/// A blob that lies as a file in the working directory of an attempt: an input before its start, an output after its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Relative path with `/`; see [`check_path`].
    pub name: String,
    /// The blob's name.
    pub blob: Hash,
    /// Its length, bytes; 0 where a person has not said it.
    #[serde(default)]
    pub len: u64,
}
wire_tuple!(FileRef { name, blob, len });

impl FileRef {
    /// A file by its name, its blob, and its length in bytes.
    pub fn new(name: impl Into<String>, blob: Hash, len: u64) -> Self {
        Self { name: name.into(), blob, len }
    }
}

/// A node that had inputs of a task when it was submitted: a hint, never a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The node.
    pub peer: Peer,
    /// How much of the inputs it had, MiB, rounded down.
    pub mib: u32,
}
wire_tuple!(Holder { peer, mib });

/// Writes the hints into a need, the largest first, as many as fit below [`NEED_MAX`].
pub fn hint(need: &mut Need, mut holders: Vec<Holder>, input_bytes: u64) {
    holders.sort_by_key(|h| (core::cmp::Reverse(h.mib), h.peer));
    holders.dedup_by_key(|h| h.peer);
    holders.retain(|h| h.mib > 0);
    holders.truncate(HOLDERS_MAX);
    (need.input_bytes, need.holders) = (input_bytes, holders);
    while crate::codec::encode(need).len() > NEED_MAX && need.holders.pop().is_some() {}
    if crate::codec::encode(need).len() > NEED_MAX {
        need.input_bytes = 0;
    }
}

/// True when a file of this name can be made below a directory on Linux, macOS and Windows and lies nowhere else.
///
/// # Errors
/// What is wrong with it, as the end of a sentence that begins with the name.
pub fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() || path.len() > PATH_MAX {
        return Err(format!("must have 1 to {PATH_MAX} bytes"));
    }
    if path.starts_with('/') {
        return Err("is absolute".into());
    }
    path.split('/').try_for_each(check_part)
}

fn check_part(part: &str) -> Result<(), String> {
    if part.is_empty() {
        return Err("has an empty part".into());
    }
    if part == "." || part == ".." {
        return Err(format!("has the part '{part}'"));
    }
    if part.len() > PART_MAX {
        return Err(format!("has a part above {PART_MAX} bytes"));
    }
    if let Some(c) = part.chars().find(|c| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')) {
        return Err(format!("has the character {c:?}, which not every system takes in a file name"));
    }
    if part.ends_with(['.', ' ']) {
        return Err("has a part that ends with a dot or a space, which Windows cuts off".into());
    }
    let stem = part.split('.').next().unwrap_or(part).trim_end().to_ascii_uppercase();
    if is_device(&stem) {
        return Err(format!("has the part '{part}', which is a device on Windows"));
    }
    Ok(())
}

/// The names that Windows keeps for itself, with any ending.
fn is_device(stem: &str) -> bool {
    if matches!(stem, "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") {
        return true;
    }
    let numbered = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT"));
    numbered.is_some_and(|n| n.chars().count() == 1 && n.chars().all(|c| c.is_ascii_digit() || matches!(c, '¹' | '²' | '³')))
}

/// True when all of these files can lie below one directory, also where cases are not told apart.
///
/// # Errors
/// A sentence that names the path.
pub fn check_paths<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    let mut files: BTreeSet<String> = BTreeSet::new();
    let mut dirs: BTreeSet<String> = BTreeSet::new();
    for path in paths {
        check_path(path).map_err(|why| format!("the path {} {why}", shown(path)))?;
        let folded = path.to_lowercase();
        let parents = folded.match_indices('/').filter_map(|(i, _)| folded.get(..i)).map(ToString::to_string);
        dirs.extend(parents);
        if !files.insert(folded) {
            return Err(format!("the path {} is there twice, or differs only in upper and lower case", shown(path)));
        }
    }
    match files.intersection(&dirs).next() {
        Some(both) => Err(format!("the path {} is a file and a directory", shown(both))),
        None => Ok(()),
    }
}

/// A path of a stranger, safe to print.
fn shown(path: &str) -> String {
    let short: String = path.chars().take(80).collect();
    format!("{short:?}")
}

/// A size as people read it: `1.2 GiB`, `300 MiB`.
pub fn mib_shown(mib: u64) -> String {
    if mib < 1024 { format!("{mib} MiB") } else { format!("{}.{} GiB", mib / 1024, mib % 1024 * 10 / 1024) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{face::NewTask, spec::split};

    #[test]
    fn paths_that_lead_out_or_mean_something_else_somewhere_are_refused() {
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../b",
            "a/./b",
            "a//b",
            "a/",
            "./a",
            "a\\b",
            "C:x",
            "c:/x",
            "a\0b",
            "a\nb",
            "x:stream",
            "nul",
            "NUL.txt",
            "aux",
            "com1.log",
            "Lpt9",
            "COM¹",
            "conin$",
            "a/prn/b",
            "dot.",
            "space ",
            "what?",
            "a*",
            "\u{7f}",
        ] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
        assert!(check_path(&"x".repeat(129)).is_err());
        assert!(check_path(&"x/".repeat(130)).is_err());
        for good in ["a", "a/b/c.txt", ".hidden", "naïve/日本.md", "com10", "console", "nullable.rs", "a b", "..a", "a..b", "-x"] {
            assert_eq!(check_path(good), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn two_files_never_want_one_place() {
        assert!(check_paths(["a", "b/c", "b/d"]).is_ok());
        assert!(check_paths(["README", "readme"]).is_err());
        assert!(check_paths(["a", "A/b"]).is_err());
        assert!(check_paths(["a/b", "a"]).is_err());
        assert!(check_paths(["ä", "Ä"]).is_err());
    }

    #[test]
    fn hints_never_push_a_need_above_its_bound() {
        let holders = |n: u8| (0..n).map(|i| Holder { peer: Peer([i; 32]), mib: u32::from(i) * 1_000 }).collect::<Vec<_>>();
        let task = NewTask { skill: Some("echo".into()), ..NewTask::default() };
        let mut need = split(&task).expect("a task").0;
        hint(&mut need, holders(9), 5 << 30);
        assert_eq!(need.holders.iter().map(|h| h.mib).collect::<Vec<_>>(), [8_000, 7_000, 6_000, 5_000]);
        let full = NewTask { key: Some("k".repeat(700)), ..task };
        let mut need = split(&full).expect("a task").0;
        hint(&mut need, holders(9), 5 << 30);
        assert!(crate::codec::encode(&need).len() <= NEED_MAX);
        assert!(need.holders.len() < HOLDERS_MAX);
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!([mib_shown(0), mib_shown(1023), mib_shown(1229), mib_shown(10240)], ["0 MiB", "1023 MiB", "1.2 GiB", "10.0 GiB"]);
    }
}
