//! Processes: signals, and those that a killed node has left behind.

use std::{fs, path::Path};

use rustix::process::{Pid, Signal, kill_process};

/// True while the process runs; one that has ended and was not yet collected by its parent has ended.
pub fn process_runs(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // `<pid> (<name>) <state> …`, where the name may hold anything.
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Sends a signal; a process that is gone already is no error.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        kill_process(pid, signal).ok();
    }
}

/// Kills what attempts below `dir` have left running: a killed node cannot end its children.  They carry the directory
/// of their attempt in their environment, and `dir` is the test's own.
pub fn end_strays(dir: &Path) {
    let Some(below) = dir.to_str().map(|d| format!("CLAWMESH_DIR={d}/")) else { return };
    let Ok(processes) = fs::read_dir("/proc") else { return };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|b| *b == 0).any(|v| v.starts_with(below.as_bytes())) {
            signal(pid, Signal::KILL);
        }
    }
}
