//! One process per home: an advisory lock that dies with its holder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::fsx;

const LOCK_FILE: &str = "lock";

/// The right to use a home. Held as long as this value lives; the operating system releases it
/// when the process ends in any way, so there are no stale locks to clean up.
#[derive(Debug)]
pub(crate) struct HomeLock {
    _file: File,
}

/// Why a home could not be locked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another process has it. `pid` is `None` where the platform hides the content of a locked
    /// file (Windows) or the holder has not written it yet.
    #[error(
        "another clawmesh already runs on {home}{}; stop it, or give this one its own with --home DIR",
        .pid.map(|p| format!(" (process {p})")).unwrap_or_default()
    )]
    Held {
        /// The home that is in use.
        home: PathBuf,
        /// The process that holds it, when it can be told.
        pid: Option<u32>,
    },
    /// The lock file could not be made or locked.
    #[error("cannot lock {path}: {source}; check that the directory may be written and that its file system knows file locks")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl HomeLock {
    /// Takes the lock of `home`, creating the directory if need be. Never waits.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process (or another value in this one) has it.
    pub(crate) fn take(home: &Path) -> Result<HomeLock, LockError> {
        let path = home.join(LOCK_FILE);
        let failed = |source| LockError::Io { path: path.clone(), source };
        fsx::create_dir_durably(home).map_err(failed)?;
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { home: home.to_path_buf(), pid: holder(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        write_pid(&mut file).map_err(failed)?;
        Ok(HomeLock { _file: file })
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_on_one_home_is_refused_with_the_holder_named() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("new/home");
        let first = HomeLock::take(&home).unwrap();
        let refused = HomeLock::take(&home).unwrap_err();
        assert!(matches!(refused, LockError::Held { pid: Some(p), .. } if p == std::process::id()), "{refused}");
        assert!(refused.to_string().contains("--home"));
        drop(first);
        HomeLock::take(&home).unwrap();
    }
}
