//! Small file system steps that the standard library leaves to the platform.

use std::io;
use std::path::Path;

/// Makes the entries of a directory durable (created, renamed and removed names).
///
/// On Windows a directory cannot be opened for that and NTFS journals names by itself, so there
/// it does nothing; that has not been tried against a power cut.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        // An empty path is what `Path::parent` says of a bare relative name.
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        std::fs::File::open(dir)?.sync_all()
    }
    #[cfg(not(unix))]
    {
        let _ = dir;
        Ok(())
    }
}

/// Creates a directory with its parents and makes each new name durable: without this a power cut
/// soon after the first start can leave no directory at all, however often its files were synced.
pub(crate) fn create_dir_durably(dir: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut at = dir;
    while !at.as_os_str().is_empty() && !at.exists() {
        missing.push(at);
        match at.parent() {
            Some(parent) => at = parent,
            None => break,
        }
    }
    std::fs::create_dir_all(dir)?;
    for made in missing.iter().rev() {
        if let Some(parent) = made.parent() {
            sync_dir(parent)?;
        }
    }
    sync_dir(dir)
}

/// Removes a directory tree if it is there.
pub(crate) fn remove_tree(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
