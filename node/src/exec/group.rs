//! One process and everything it starts: a process group on Unix, a job object on Windows.
//!
//! Only what the `posix_spawn` path of the standard library can do is used here (no `pre_exec`, user or group change):
//! a plain fork of a node with a gigabyte of memory is some forty times slower. For the same reason the program
//! is looked up before the spawn: with an own PATH and a bare name the library would fall back to fork.
//! A process that starts a session of its own leaves the group; it is not reached by the signals of this module.

use std::ffi::OsString;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use process_wrap::tokio::{ChildWrapper, CommandWrap, KillOnDrop};
use tokio::process::{ChildStdin, Command};

use super::pipe::{self, Output};

/// A started process, leader of its own group. Dropping it ends the group at once.
#[derive(Debug)]
pub(crate) struct Group {
    child: Box<dyn ChildWrapper>,
    id: Option<u32>,
    settled: bool,
}

/// The ends of a started process's pipes that are ours.
pub(crate) struct Pipes {
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

impl Group {
    /// Starts `program` in `dir` with exactly the environment `env`. Takes as long as the system needs to load the program
    /// (about half a millisecond) and blocks the calling thread for that time.
    pub(crate) fn spawn(program: &Path, argv: &[String], env: &[(OsString, OsString)], dir: &Path, stdin: bool) -> Result<(Group, Pipes)> {
        let (stdout, stdout_theirs) = pipe::pair()?;
        let (stderr, stderr_theirs) = pipe::pair()?;
        let mut command = Command::new(program);
        show_name(&mut command, argv);
        command
            .args(argv.iter().skip(1))
            .env_clear()
            .envs(env.iter().map(|(name, value)| (name, value)))
            .current_dir(dir)
            .stdin(if stdin { Stdio::piped() } else { Stdio::null() })
            .stdout(stdout_theirs)
            .stderr(stderr_theirs);
        let mut wrap = CommandWrap::from(command);
        wrap.wrap(KillOnDrop);
        #[cfg(unix)]
        wrap.wrap(process_wrap::tokio::ProcessGroup::leader());
        #[cfg(windows)]
        wrap.wrap(process_wrap::tokio::JobObject);
        let mut child = wrap.spawn()?;
        let id = child.id();
        #[cfg_attr(unix, expect(unused_mut, reason = "only Windows connects the pipes afterwards"))]
        let mut pipes = Pipes { stdin: child.stdin().take(), stdout, stderr };
        #[cfg(not(unix))]
        {
            pipes.stdout.attach(child.stdout().take());
            pipes.stderr.attach(child.stderr().take());
        }
        // The process's ends of the pipes close here with the command; otherwise their end would never be seen.
        drop(wrap);
        Ok((Group { child, id, settled: false }, pipes))
    }

    /// The process id of the leader, also after its end.
    pub(crate) fn id(&self) -> Option<u32> {
        self.id
    }

    /// Waits for the leader alone (its children may live on). Safe to drop while it waits and to call again.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus> {
        // The group's own wait would also wait for orphans when the node is process 1 of a container.
        self.child.inner_mut().wait().await
    }

    /// Asks every process of the group to end. On Windows there is no such request; the group is ended at once.
    pub(crate) fn terminate(&mut self) {
        #[cfg(unix)]
        let result = self.child.signal(rustix::process::Signal::TERM.as_raw());
        #[cfg(not(unix))]
        let result = self.child.start_kill();
        // An error means that nobody is left to ask.
        let _ = result;
    }

    /// Ends every process of the group. False when there was none left.
    pub(crate) fn kill(&mut self) -> bool {
        self.child.start_kill().is_ok()
    }

    /// Ends what the leader left behind; false when there was nothing. After this the group's number is not used again by this value.
    ///
    /// The number could belong to a new group only if the system had gone through all process ids since the leader was
    /// reaped; callers come here within a second of that.
    pub(crate) fn settle(&mut self) -> bool {
        self.settled = true;
        self.kill()
    }

    /// Whether any process of the group is left, dead ones that nobody has reaped included.
    #[cfg(unix)]
    pub(crate) fn is_alive(&self) -> bool {
        let pid = self.id.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        pid.is_some_and(|pid| rustix::process::test_kill_process_group(pid).is_ok())
    }

    /// On Windows the job was already ended by [`Group::terminate`].
    #[cfg(not(unix))]
    pub(crate) fn is_alive(&self) -> bool {
        false
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.settled {
            self.kill();
        }
    }
}

/// Programs such as busybox look at the name they were called by.
#[cfg(unix)]
fn show_name(command: &mut Command, argv: &[String]) {
    if let Some(name) = argv.first() {
        command.arg0(name);
    }
}

#[cfg(not(unix))]
fn show_name(_: &mut Command, _: &[String]) {}

/// Finds the program of an argv: a bare name on the attempt's PATH, a relative path below the attempt's directory.
/// Fails with `NotFound` or `PermissionDenied` and a sentence that names what was looked for and where.
pub(crate) fn find_program(name: &str, env: &[(OsString, OsString)], dir: &Path) -> Result<PathBuf> {
    if name.is_empty() || name.contains('\0') {
        return Err(Error::new(
            ErrorKind::NotFound,
            "the command is empty or holds a NUL byte; give a program, for example: clawmesh run -- uname -a",
        ));
    }
    let path = env.iter().find(|(key, _)| is_path_name(key)).map(|(_, value)| value.clone()).unwrap_or_default();
    if let Ok(found) = which::which_in(name, Some(&path), dir) {
        return Ok(found);
    }
    let has_folder = name.contains('/') || (cfg!(windows) && name.contains('\\'));
    if has_folder {
        let whole = dir.join(name);
        return Err(match std::fs::metadata(&whole) {
            Ok(meta) if meta.is_dir() => Error::new(ErrorKind::PermissionDenied, format!("{name:?} is a directory, not a program")),
            Ok(_) => not_executable(&whole),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Error::new(ErrorKind::PermissionDenied, format!("the node's user may not look at {name:?}"))
            }
            Err(_) => Error::new(
                ErrorKind::NotFound,
                format!("there is no program {name:?} on this node; relative paths start in the attempt's own empty directory"),
            ),
        });
    }
    let blocked = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    Err(match blocked {
        Some(file) => not_executable(&file),
        None => Error::new(
            ErrorKind::NotFound,
            format!(
                "there is no program {name:?} on this node; its PATH is {:?}. Install it there, give a full path, or choose another node",
                path.to_string_lossy()
            ),
        ),
    })
}

fn not_executable(file: &Path) -> Error {
    let reason = format!(
        "{:?} exists but is not executable for the node's user; try chmod +x, or call its interpreter with the file as argument",
        file.display().to_string()
    );
    Error::new(ErrorKind::PermissionDenied, reason)
}

fn is_path_name(key: &std::ffi::OsStr) -> bool {
    if cfg!(windows) { key.eq_ignore_ascii_case("PATH") } else { key == "PATH" }
}
