//! The working directory of each attempt, `<root>/<task>.<attempt>`, and what earlier boots left behind.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::JobKey;

/// Spare directories kept at most; more than any machine starts within the time it takes to end as many.
const SPARES_MAX: usize = 64;

/// An attempt's directory, below a root of attempts. Leaves its place when dropped, however the attempt ended.
#[derive(Debug)]
pub(crate) struct WorkDir {
    path: PathBuf,
    spares: Arc<Spares>,
    fate: Fate,
}

/// What becomes of a directory when its attempt is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Remove,
    /// It may serve again if it is empty: nobody of the attempt is left to write there.
    Reuse,
    Keep,
}

impl WorkDir {
    /// An empty directory for one attempt, readable by the node's user only. Replaces what an earlier boot left there.
    pub(crate) fn create(root: &Path, key: &JobKey, spares: &Arc<Spares>) -> Result<WorkDir> {
        if !is_plain(&key.task) || !(key.issue.is_empty() || is_plain(&key.issue)) {
            let reason = format!("task id {:?} cannot name a directory", key.task);
            return Err(Error::new(ErrorKind::InvalidInput, reason));
        }
        let issue = if key.issue.is_empty() { String::new() } else { format!(".{}", key.issue) };
        let path = root.join(format!("{}.{}{issue}", key.task, key.attempt));
        if !spares.place(root, &path) {
            make_fresh(root, &path)?;
        }
        Ok(WorkDir { path, spares: Arc::clone(spares), fate: Fate::Remove })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn set_fate(&mut self, fate: Fate) {
        self.fate = fate;
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        match self.fate {
            Fate::Keep => {}
            Fate::Reuse if self.spares.add(&path) => {}
            Fate::Reuse | Fate::Remove => remove(path),
        }
    }
}

/// Empty directories of ended attempts. Removing one takes ext4 some 65 us, a twentieth of a short process; renaming it 4 us.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    free: Mutex<Vec<PathBuf>>,
    count: AtomicU64,
}

impl Spares {
    /// Removes all of them; for the end of the program.
    pub(crate) fn clear(&self) {
        for spare in self.free().drain(..) {
            remove(spare);
        }
    }

    /// Takes `path` if it is as it was made: empty and of our permissions. False if not, and nothing has changed.
    fn add(&self, path: &Path) -> bool {
        let Some(root) = path.parent() else {
            return false;
        };
        if self.free().len() >= SPARES_MAX || !is_pristine(path) {
            return false;
        }
        // No attempt's directory begins with a dot.
        let spare = root.join(format!(".spare-{}", self.count.fetch_add(1, Ordering::Relaxed)));
        let moved = fs::rename(path, &spare).is_ok();
        if moved {
            self.free().push(spare);
        }
        moved
    }

    /// Moves a spare of this root to `path`. False if there is none or it does not fit there.
    fn place(&self, root: &Path, path: &Path) -> bool {
        let spare = {
            let mut free = self.free();
            let at = free.iter().rposition(|spare| spare.parent() == Some(root));
            at.map(|at| free.swap_remove(at))
        };
        let Some(spare) = spare else { return false };
        // Looked at again: a process that had left its group in silence may have written there since.
        let placed = is_pristine(&spare) && fs::rename(&spare, path).is_ok();
        if !placed {
            remove(spare);
        }
        placed
    }

    fn free(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        // A list of paths is whole after every step.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_fresh(root: &Path, dir: &Path) -> Result<()> {
    match make(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_dir_all(dir)?;
            make(dir)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(root)?;
            make(dir)
        }
        other => other,
    }
}

/// Removes a directory. An empty one goes at once; one with content is left to a thread for blocking work,
/// so that a task which wrote a million files does not hold up the next one. What cannot be removed waits for [`sweep`].
fn remove(dir: PathBuf) {
    match fs::remove_dir(&dir) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(_) => {
            // Without a runtime the program is about to end.
            let Ok(runtime) = tokio::runtime::Handle::try_current() else {
                return;
            };
            runtime.spawn_blocking(move || {
                if let Err(error) = fs::remove_dir_all(&dir) {
                    tracing::warn!(dir = %dir.display(), %error, "cannot remove the directory of an ended attempt; the next start tries again");
                }
            });
        }
    }
}

/// Removes everything below `root` and says how many entries went and how many would not.
/// Call it before the first attempt of a boot, from a thread that may block: whatever is there belongs to an earlier boot.
pub(crate) fn sweep(root: &Path) -> Result<Swept> {
    let mut swept = Swept::default();
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(swept),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        // The type of the entry itself: a link is removed, never followed.
        let result = match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
        match result {
            Ok(()) => swept.removed += 1,
            Err(error) => {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove what an earlier attempt left");
                swept.failed += 1;
            }
        }
    }
    Ok(swept)
}

/// What [`sweep`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    pub(crate) removed: usize,
    pub(crate) failed: usize,
}

/// Ids become parts of paths, so only what is the same on every file system is let through: at most 128 of `[A-Za-z0-9_-]`.
fn is_plain(task: &str) -> bool {
    (1..=128).contains(&task.len()) && task.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(unix)]
fn is_pristine(dir: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let is_ours = fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.permissions().mode() & 0o7777 == 0o700);
    is_ours && fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// Windows: directories are always made anew.
#[cfg(not(unix))]
fn is_pristine(_: &Path) -> bool {
    false
}

#[cfg(unix)]
fn make(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(dir)
}

/// Windows: a new directory inherits the access list of the node's home, which belongs to the user. Not tried on Windows.
#[cfg(not(unix))]
fn make(dir: &Path) -> Result<()> {
    fs::create_dir(dir)
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "helpers of tests")]
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn key(task: &str, attempt: u32) -> JobKey {
        JobKey { task: task.to_owned(), attempt, issue: String::new() }
    }

    fn names(root: &Path) -> Vec<String> {
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn directories_come_empty_and_go() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("deep/work");
        let spares = Arc::<Spares>::default();
        let mut crashed = WorkDir::create(&root, &key("t1", 1), &spares).unwrap();
        fs::write(crashed.path().join("left"), "x").unwrap();
        crashed.set_fate(Fate::Keep);
        drop(crashed);
        let again = WorkDir::create(&root, &key("t1", 1), &spares).unwrap();
        assert_eq!(again.path(), root.join("t1.1"));
        assert_eq!(fs::metadata(again.path()).unwrap().permissions().mode() & 0o7777, 0o700);
        assert!(names(again.path()).is_empty());
        drop(again);
        assert!(names(&root).is_empty());
    }

    #[tokio::test]
    async fn only_a_pristine_directory_serves_again() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("work");
        let spares = Arc::<Spares>::default();
        let reuse = |number: u32, spoil: &dyn Fn(&Path)| {
            let mut dir = WorkDir::create(&root, &key("t", number), &spares).unwrap();
            assert!(names(dir.path()).is_empty());
            assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o7777, 0o700);
            spoil(dir.path());
            dir.set_fate(Fate::Reuse);
        };
        reuse(1, &|_| {});
        assert_eq!(names(&root), [".spare-0"]);
        reuse(2, &|_| {});
        assert_eq!(names(&root), [".spare-1"]);
        // Spoilt while it waits.
        fs::write(root.join(".spare-1/late"), "x").unwrap();
        reuse(3, &|_| {});
        assert_eq!(spares.free().len(), 1);
        reuse(4, &|dir| fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap());
        assert_eq!(spares.free().len(), 0);
        reuse(5, &|dir| fs::write(dir.join("file"), "x").unwrap());
        assert_eq!(spares.free().len(), 0);
        reuse(6, &|dir| {
            fs::remove_dir(dir).unwrap();
            symlink("/", dir).unwrap();
        });
        assert_eq!(spares.free().len(), 0);
        reuse(7, &|dir| fs::remove_dir(dir).unwrap());
        assert_eq!(spares.free().len(), 0);
        reuse(8, &|_| {});
        // A place that is taken is made free as ever.
        fs::create_dir(root.join("t.9")).unwrap();
        fs::write(root.join("t.9/old"), "x").unwrap();
        reuse(9, &|_| {});
        spares.clear();
        assert!(spares.free().is_empty());
        assert!(!names(&root).iter().any(|name| name.starts_with(".spare-2")));
    }

    #[test]
    fn ids_that_would_leave_the_root_are_refused() {
        let home = tempfile::tempdir().unwrap();
        for task in ["", "..", "a/b", "a\\b", "a.b", "c:", "x\0", &"y".repeat(129)] {
            let error = WorkDir::create(home.path(), &key(task, 1), &Arc::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{task:?}");
        }
    }

    #[test]
    fn sweep_removes_links_without_following_them() {
        let home = tempfile::tempdir().unwrap();
        let precious = home.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "keep").unwrap();
        let root = home.path().join("work");
        assert_eq!(sweep(&root).unwrap(), Swept::default());
        let mut dir = WorkDir::create(&root, &key("t1", 1), &Arc::default()).unwrap();
        dir.set_fate(Fate::Keep);
        symlink(&precious, dir.path().join("link")).unwrap();
        symlink(&precious, root.join("link")).unwrap();
        assert_eq!(sweep(&root).unwrap(), Swept { removed: 2, failed: 0 });
        assert!(precious.join("file").exists());
    }
}
