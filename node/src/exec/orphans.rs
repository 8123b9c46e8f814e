//! Processes which a killed boot of this node left running.
//!
//! A node that dies by `kill -9` cannot end its children. They carry `CLAWMESH_DIR`, the directory of their attempt,
//! in their environment, also those which left their process group; the next start finds them by it.
//! Works where a user may read the environment of his own processes: Linux and macOS. On Windows the job object has
//! already ended them with the node.

use std::ffi::OsString;
use std::path::Path;

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};

/// Kills every process whose attempt's directory lies below `root`. Returns how many.
pub(super) fn end(root: &Path) -> usize {
    if !root.exists() {
        return 0;
    }
    let Ok(mut system) = System::new() else {
        return 0;
    };
    let what = ProcessRefreshKind::nothing().with_environ(UpdateKind::Always).without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
    let mine = |process: &&sysinfo::Process| process.environ().iter().any(|variable| is_below(variable, root));
    system.processes().values().filter(mine).filter(|process| process.kill()).count()
}

fn is_below(variable: &OsString, root: &Path) -> bool {
    let prefix = super::environment::DIR.as_bytes();
    let value = variable.as_encoded_bytes().strip_prefix(prefix).and_then(|rest| rest.strip_prefix(b"="));
    // Compared as text: where this value is not UTF-8, the process is left alone.
    value.and_then(|value| std::str::from_utf8(value).ok()).is_some_and(|value| Path::new(value).starts_with(root))
}
