//! Which variables a process gets: a short list of the node's own, then the job's, then those the mesh sets.

use std::ffi::OsString;
use std::path::Path;

use super::agent::is_marker;
use super::{Job, Work};

/// Copied from the node's environment when set there. Everything else stays behind: a node's environment holds tokens,
/// and an agent's marker such as `OPENCLAW_SHELL` makes a program believe that it runs inside that agent.
#[cfg(not(windows))]
const PASSED: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR"];
#[cfg(windows)]
const PASSED: &[&str] = &[
    "PATH",
    "PATHEXT",
    "HOME",
    "USER",
    "LANG",
    "TZ",
    "TEMP",
    "TMP",
    "SystemRoot",
    "SystemDrive",
    "windir",
    "ComSpec",
    "USERNAME",
    "USERPROFILE",
    "APPDATA",
    "LOCALAPPDATA",
    "ProgramData",
    "ProgramFiles",
    "NUMBER_OF_PROCESSORS",
    "PROCESSOR_ARCHITECTURE",
];

/// Passed too, by prefix: the categories of the locale.
const PASSED_PREFIX: &str = "LC_";

/// Set by the mesh and by nobody else.
pub(crate) const TASK_ID: &str = "CLAWMESH_TASK_ID";
pub(crate) const ATTEMPT: &str = "CLAWMESH_ATTEMPT";
pub(crate) const FENCE: &str = "CLAWMESH_FENCE";
/// The attempt's own directory. A node that starts again finds by it what its earlier boot left running.
pub(crate) const DIR: &str = "CLAWMESH_DIR";
const RESERVED: [&str; 4] = [TASK_ID, ATTEMPT, FENCE, DIR];

/// A job may set at most this many variables.
const VARIABLES_MAX: usize = 1000;

/// The complete environment of an attempt, in ascending order of names, each name once.
/// The job's variables win over the node's; those of the mesh win over all. An agent gets those of its own configuration
/// besides, and none that would make it believe that it runs inside another one.
/// Fails with a sentence when a name or a value cannot exist in an environment.
pub(crate) fn build(job: &Job, node: &[(OsString, OsString)], dir: &Path) -> Result<Vec<(OsString, OsString)>, String> {
    if job.env.len() > VARIABLES_MAX {
        return Err(format!("{} environment variables are too many: at most {VARIABLES_MAX} are allowed", job.env.len()));
    }
    let mut all: std::collections::BTreeMap<OsString, OsString> = node.iter().cloned().collect();
    let agent = if let Work::Agent(run) = &job.work { Some(run) } else { None };
    all.extend(agent.iter().flat_map(|run| run.env.iter().cloned()));
    for (name, value) in &job.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(format!(
                "environment variable {name:?} is not possible: a name must not be empty or hold '=' and neither part may hold a NUL byte"
            ));
        }
        let marker = agent.is_some() && is_marker(name);
        if !marker && !RESERVED.iter().any(|reserved| same_name(reserved, name)) {
            all.insert(name.into(), value.into());
        }
    }
    all.insert(TASK_ID.into(), job.key.task.clone().into());
    all.insert(ATTEMPT.into(), job.key.attempt.to_string().into());
    all.insert(FENCE.into(), job.fence.clone().into());
    all.insert(DIR.into(), dir.into());
    Ok(all.into_iter().collect())
}

/// The node's own variables which every attempt may see, read once at start. `extra` names more of them, from the configuration.
pub(crate) fn passed_from_node(extra: &[String]) -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(|name| is_passed(name, extra))).collect()
}

fn is_passed(name: &str, extra: &[String]) -> bool {
    name.starts_with(PASSED_PREFIX) || PASSED.iter().any(|p| same_name(p, name)) || extra.iter().any(|p| same_name(p, name))
}

/// Windows does not tell `Path` from `PATH`.
fn same_name(a: &str, b: &str) -> bool {
    if cfg!(windows) { a.eq_ignore_ascii_case(b) } else { a == b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_list_and_the_configured_extras_pass() {
        let extra = vec!["CUDA_HOME".to_owned()];
        for name in ["PATH", "HOME", "LC_ALL", "LC_CTYPE", "CUDA_HOME", "TZ"] {
            assert!(is_passed(name, &extra), "{name}");
        }
        for name in ["OPENCLAW_SHELL", "AWS_SECRET_ACCESS_KEY", "LD_PRELOAD", "PATHX", "CLAWMESH_HOME", "CUDA_PATH"] {
            assert!(!is_passed(name, &extra), "{name}");
        }
    }
}
