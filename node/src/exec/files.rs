//! Input files in an attempt's working directory before its start, and output files out of it after its end.

use std::any::Any;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clawmesh_protocol::files::{KEPT_MAX, check_path};

/// Entries of a working directory looked at for outputs at most, and how deep.
const LOOKED_MAX: usize = 100_000;
const DEPTH_MAX: usize = 32;
/// Below this a copy costs nothing worth a shared file. Bytes.
const COPY_BELOW: u64 = 4 << 20;

/// The files of an attempt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    /// What lies there before the start.
    pub(crate) ins: Vec<InFile>,
    /// Names or patterns of what is kept after the end.
    pub(crate) outs: Vec<String>,
    /// Where it is put until somebody takes it: on the same disk, made here when needed. The one who takes it removes it.
    pub(crate) stage: PathBuf,
}

/// One input.
#[derive(Clone, Debug)]
pub(crate) struct InFile {
    /// Relative path with `/`.
    pub(crate) name: String,
    /// Where the content lies.
    pub(crate) path: PathBuf,
    /// Keeps it there.
    #[expect(dead_code, reason = "it only has to live as long as the job")]
    pub(crate) hold: Hold,
}

/// Something that is kept until the attempt is over.
#[derive(Clone)]
pub(crate) struct Hold(#[expect(dead_code, reason = "it is only dropped")] pub(crate) Arc<dyn Any + Send + Sync>);

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}

/// What was kept of a working directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Relative name, and where the file lies now.
    pub(crate) files: Vec<(String, PathBuf)>,
    /// What a person should know, as sentences.
    pub(crate) notes: Vec<String>,
}

/// Puts the inputs into an empty directory.
///
/// # Errors
/// A sentence that names the file.
pub(super) fn place(dir: &Path, ins: &[InFile]) -> Result<(), String> {
    ins.iter().try_for_each(|file| {
        let failed = |e: &dyn fmt::Display| format!("cannot put the input file '{}' into the working directory: {e}", file.name);
        check_path(&file.name).map_err(|why| failed(&why))?;
        let to = file.name.split('/').fold(dir.to_owned(), |at, part| at.join(part));
        let made = to.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| bring(&file.path, &to)).map_err(|e| failed(&e))
    })
}

/// A copy that shares the blocks where the file system can, the file itself where it is large, else a copy; never writable.
fn bring(from: &Path, to: &Path) -> io::Result<()> {
    let len = fs::metadata(from)?.len();
    if !reflink(from, to) {
        // A task that writes into it in spite of its permissions is found out at its end.
        let linked = len >= COPY_BELOW && fs::hard_link(from, to).is_ok();
        if linked {
            return Ok(());
        }
        fs::copy(from, to)?;
    }
    let mut perms = fs::metadata(to)?.permissions();
    perms.set_readonly(true);
    fs::set_permissions(to, perms)
}

/// True when the copy is there; else nothing is.
#[cfg(target_os = "linux")]
fn reflink(from: &Path, to: &Path) -> bool {
    let cloned = || -> io::Result<()> {
        let (from, to) = (File::open(from)?, File::create_new(to)?);
        Ok(rustix::fs::ioctl_ficlone(to, from)?)
    };
    let done = cloned().is_ok();
    if !done {
        let _ = fs::remove_file(to);
    }
    done
}

/// macOS: `fs::copy` shares the blocks by itself on APFS. Windows: a copy. Neither was tried.
#[cfg(not(target_os = "linux"))]
fn reflink(_: &Path, _: &Path) -> bool {
    false
}

/// Takes the outputs out of a directory: regular files only, links are never followed.
pub(super) fn collect(dir: &Path, files: &Files) -> Kept {
    let mut kept = Kept::default();
    if files.outs.is_empty() {
        return kept;
    }
    let options = glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };
    let patterns: Vec<(&String, Option<glob::Pattern>)> = files.outs.iter().map(|o| (o, glob::Pattern::new(o).ok())).collect();
    let fits = |name: &str| patterns.iter().any(|(plain, p)| *plain == name || p.as_ref().is_some_and(|p| p.matches_with(name, options)));
    let is_input = |name: &str| files.ins.iter().any(|i| i.name == name);
    let (all, more) = walk(dir);
    if more {
        kept.notes.push(format!("more than {LOOKED_MAX} files are in the working directory; outputs among the rest were not looked for"));
    }
    let wanted: Vec<String> = all.into_iter().filter(|name| fits(name) && !is_input(name)).collect();
    if wanted.len() > KEPT_MAX {
        kept.notes.push(format!("{} files match the output names, the first {KEPT_MAX} are kept", wanted.len()));
    }
    for plain in files.outs.iter().filter(|o| !o.contains(['*', '?', '['])) {
        if !wanted.contains(plain) {
            kept.notes.push(format!("the output file '{plain}' was not there"));
        }
    }
    for (number, name) in wanted.into_iter().take(KEPT_MAX).enumerate() {
        if let Err(why) = check_path(&name) {
            kept.notes.push(format!("an output file could not be kept: its name {why}"));
            continue;
        }
        let from = name.split('/').fold(dir.to_owned(), |at, part| at.join(part));
        let to = files.stage.join(number.to_string());
        match fs::create_dir_all(&files.stage).and_then(|()| fs::rename(&from, &to)) {
            Ok(()) => kept.files.push((name, to)),
            Err(e) => kept.notes.push(format!("the output file '{name}' could not be kept: {e}")),
        }
    }
    kept
}

/// Regular files below a directory, sorted, and whether there are more.
fn walk(dir: &Path) -> (Vec<String>, bool) {
    let mut found = Vec::new();
    let mut looked = 0;
    let mut open = vec![(dir.to_owned(), String::new(), 0)];
    while let Some((at, prefix, depth)) = open.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            looked += 1;
            if looked > LOOKED_MAX {
                found.sort();
                return (found, true);
            }
            // A name that is no text names no output; the type is that of the entry, not of what a link leads to.
            let (Ok(name), Ok(kind)) = (entry.file_name().into_string(), entry.file_type()) else { continue };
            if kind.is_dir() && depth < DEPTH_MAX {
                open.push((entry.path(), format!("{prefix}{name}/"), depth + 1));
            } else if kind.is_file() {
                found.push(format!("{prefix}{name}"));
            }
        }
    }
    found.sort();
    (found, false)
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "helpers of tests")]
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn input(dir: &Path, name: &str, len: usize) -> InFile {
        let path = dir.join(format!("blob-{len}"));
        fs::write(&path, vec![7; len]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        InFile { name: name.into(), path, hold: Hold(Arc::new(())) }
    }

    #[test]
    fn inputs_are_there_and_not_writable() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("work");
        fs::create_dir(&dir).unwrap();
        let ins = [input(home.path(), "a.bin", 10), input(home.path(), "data/b.bin", 5 << 20)];
        place(&dir, &ins).unwrap();
        for (name, len) in [("a.bin", 10), ("data/b.bin", 5 << 20)] {
            let meta = fs::symlink_metadata(dir.join(name)).unwrap();
            assert!(meta.is_file() && meta.len() == len && meta.permissions().readonly());
        }
    }

    #[test]
    fn no_input_leaves_the_directory() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("work");
        fs::create_dir(&dir).unwrap();
        for name in ["../out", "/tmp/out", "a/../../out", "nul", ""] {
            assert!(place(&dir, &[input(home.path(), name, 3)]).is_err(), "{name:?}");
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        assert!(!home.path().join("out").exists());
    }

    #[test]
    fn outputs_are_taken_by_name_and_pattern_and_links_are_left() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("work");
        fs::create_dir_all(dir.join("sub/deep")).unwrap();
        for name in ["result.txt", "other.txt", "sub/a.png", "sub/deep/b.png", "in.txt", ".hidden.txt"] {
            fs::write(dir.join(name), name).unwrap();
        }
        fs::write(home.path().join("secret.txt"), "secret").unwrap();
        symlink(home.path().join("secret.txt"), dir.join("leak.txt")).unwrap();
        symlink(home.path(), dir.join("dir.txt")).unwrap();
        let ins = vec![input(home.path(), "in.txt", 1)];
        let outs = ["*.txt", "sub/*.png", "missing.bin"].map(str::to_owned).to_vec();
        let kept = collect(&dir, &Files { ins, outs, stage: home.path().join("stage") });
        let names: Vec<&str> = kept.files.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, [".hidden.txt", "other.txt", "result.txt", "sub/a.png"]);
        assert_eq!(kept.notes, ["the output file 'missing.bin' was not there"]);
        assert_eq!(fs::read_to_string(&kept.files[3].1).unwrap(), "sub/a.png");
        assert!(fs::read_to_string(home.path().join("secret.txt")).unwrap() == "secret");
        let all = collect(&dir, &Files { outs: vec!["**/*.png".into()], stage: home.path().join("stage2"), ..Files::default() });
        assert_eq!(all.files.len(), 1);
    }

    #[test]
    fn too_many_outputs_are_cut_and_told() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("work");
        fs::create_dir(&dir).unwrap();
        for n in 0..100 {
            fs::write(dir.join(format!("{n:03}")), "x").unwrap();
        }
        let kept = collect(&dir, &Files { outs: vec!["*".into()], stage: home.path().join("stage"), ..Files::default() });
        assert_eq!((kept.files.len(), kept.notes.len()), (KEPT_MAX, 1));
    }
}
