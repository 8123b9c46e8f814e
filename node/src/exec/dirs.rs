//! The working directory of each attempt, `<root>/<task>.<attempt>`, and what earlier boots left behind.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

use super::JobKey;

/// Makes an empty directory for one attempt, readable by the node's user only. Replaces what an earlier boot left there.
pub(crate) fn create(root: &Path, key: &JobKey) -> Result<PathBuf> {
    if !is_plain(&key.task) {
        let reason = format!("task id {:?} cannot name a directory", key.task);
        return Err(Error::new(ErrorKind::InvalidInput, reason));
    }
    // One level only: a directory made and removed again costs some 60 us on ext4, a tenth of a short process.
    let dir = root.join(format!("{}.{}", key.task, key.attempt));
    match make(&dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_dir_all(&dir)?;
            make(&dir)?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(root)?;
            make(&dir)?;
        }
        other => other?,
    }
    Ok(dir)
}

/// Removes an attempt's directory. An empty one goes at once; one with content is left to a thread for blocking work,
/// so that a task which wrote a million files does not hold up the next one. What cannot be removed waits for [`sweep`].
pub(crate) fn remove(dir: PathBuf) {
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
    (1..=128).contains(&task.len())
        && task
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(task: &str, attempt: u32) -> JobKey {
        JobKey {
            task: task.to_owned(),
            attempt,
        }
    }

    #[tokio::test]
    async fn directories_come_empty_and_go() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("deep/work");
        let one = create(&root, &key("t1", 1)).unwrap();
        fs::write(one.join("left"), "x").unwrap();
        let again = create(&root, &key("t1", 1)).unwrap();
        assert_eq!(one, again);
        assert_eq!(fs::read_dir(&again).unwrap().count(), 0);
        let two = create(&root, &key("t1", 2)).unwrap();
        remove(two);
        assert!(again.exists());
        remove(again);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    }

    #[test]
    fn ids_that_would_leave_the_root_are_refused() {
        let home = tempfile::tempdir().unwrap();
        for task in [
            "",
            "..",
            "a/b",
            "a\\b",
            "a.b",
            "c:",
            "x\0",
            &"y".repeat(129),
        ] {
            let error = create(home.path(), &key(task, 1)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{task:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn sweep_removes_links_without_following_them() {
        let home = tempfile::tempdir().unwrap();
        let precious = home.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "keep").unwrap();
        let root = home.path().join("work");
        assert_eq!(sweep(&root).unwrap(), Swept::default());
        let dir = create(&root, &key("t1", 1)).unwrap();
        std::os::unix::fs::symlink(&precious, dir.join("link")).unwrap();
        std::os::unix::fs::symlink(&precious, root.join("link")).unwrap();
        assert_eq!(
            sweep(&root).unwrap(),
            Swept {
                removed: 2,
                failed: 0
            }
        );
        assert!(precious.join("file").exists());
    }
}
