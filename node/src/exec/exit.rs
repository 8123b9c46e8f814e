//! How an attempt ended, in words and numbers.

use std::io::{Error, ErrorKind};
use std::process::ExitStatus;
use std::time::Duration;

use super::agent::Usage;
use super::capture::{Capture, Captured, Stream};

/// The exit code a shell gives for a program that is not there.
const CODE_NOT_FOUND: i32 = 127;
/// The exit code a shell gives for a program that cannot be executed.
const CODE_NOT_EXECUTABLE: i32 = 126;
/// The exit code of `timeout(1)` when the time is over.
const CODE_TIMEOUT: i32 = 124;
/// How much of the last line of standard error goes into a reason, in characters.
const ERROR_LINE_CHARS: usize = 200;

/// The kinds of ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Exit code 0.
    Done,
    /// Another exit code, a signal that did not come from this node, or an output that is not what was promised.
    Failed,
    /// It ran longer than its timeout and was ended.
    Timeout,
    /// It was ended on request: a cancel, or the node stops.
    Killed,
    /// It never ran: no such program, no permission, no resources.
    SpawnError,
}

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) kind: Kind,
    /// The process's own exit code; 127 and 126 when it could not be started, as a shell says. None after a signal.
    pub(crate) code: Option<i32>,
    /// The signal which ended the process (a shell shows it as code 128 + signal). Never set on Windows.
    pub(crate) signal: Option<i32>,
    /// A sentence for a person.
    pub(crate) reason: String,
    /// What was kept of standard output; see [`super::capture::head_bytes`] for where the gap is, if there is one.
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// Bytes of standard output that were not kept.
    pub(crate) stdout_truncated: u64,
    pub(crate) stderr_truncated: u64,
    /// What an agent's run took.
    pub(crate) usage: Option<Usage>,
    /// From the start of the attempt to its end, its preparation included.
    pub(crate) wall: Duration,
    /// Output files, taken out of the working directory.
    pub(crate) kept: super::Kept,
}

impl Exit {
    pub(crate) fn new(kind: Kind, code: Option<i32>, reason: impl Into<String>) -> Exit {
        Exit {
            kind,
            code,
            signal: None,
            reason: reason.into(),
            stdout: Vec::new(),
            stderr: Vec::new(),
            stdout_truncated: 0,
            stderr_truncated: 0,
            usage: None,
            wall: Duration::ZERO,
            kept: super::Kept::default(),
        }
    }

    /// The one number a shell would show, 0 only for [`Kind::Done`]: the exit code, 128 + signal, 124 after a timeout, else 1.
    pub(crate) fn shell_code(&self) -> i32 {
        match (self.kind, self.code, self.signal) {
            (Kind::Done, ..) => 0,
            (Kind::Timeout, ..) => CODE_TIMEOUT,
            (_, Some(code), _) if code != 0 => code,
            (_, _, Some(signal)) => 128 + signal,
            _ => 1,
        }
    }

    /// Adds how the process really ended, after it was asked to.
    pub(super) fn with_status(mut self, status: ExitStatus) -> Exit {
        self.code = status.code();
        self.signal = signal_of(status);
        self
    }

    pub(super) fn take_output(&mut self, capture: &Capture) {
        let Captured { bytes, truncated } = capture.content(Stream::Stdout);
        (self.stdout, self.stdout_truncated) = (bytes, truncated);
        let Captured { bytes, truncated } = capture.content(Stream::Stderr);
        (self.stderr, self.stderr_truncated) = (bytes, truncated);
    }

    /// A skill that promises JSON and prints something else has failed, whatever its exit code says.
    pub(super) fn require_json(&mut self) {
        if self.kind != Kind::Done {
            return;
        }
        let wrong = match serde_json::from_slice::<serde::de::IgnoredAny>(&self.stdout) {
            _ if self.stdout_truncated > 0 => format!("{} bytes of it were beyond the output limit", self.stdout_truncated),
            Err(error) => error.to_string(),
            Ok(_) => return,
        };
        self.kind = Kind::Failed;
        self.reason = format!("the skill declares `output: json` but its standard output is not one JSON value: {wrong}");
    }
}

pub(super) fn timed_out(timeout: Option<Duration>) -> Exit {
    let timeout = humantime::format_duration(timeout.unwrap_or_default());
    Exit::new(Kind::Timeout, None, format!("ran longer than its timeout of {timeout} and was ended; a larger --timeout gives it more time"))
}

/// The end of a process nobody asked to end.
pub(super) fn from_status(status: ExitStatus, capture: &Capture) -> Exit {
    if status.success() {
        return Exit::new(Kind::Done, Some(0), "completed");
    }
    let mut reason = match (status.code(), signal_of(status)) {
        (Some(code @ 129..=159), _) if cfg!(unix) => {
            format!("exited with code {code}, which a shell gives when its command is ended by {}", signal_name(code - 128))
        }
        (Some(code), _) => format!("exited with code {code}"),
        // The kernel's own reason for a KILL that no one sent is nearly always memory.
        (None, Some(9)) => "ended by SIGKILL from outside this node; often the system was out of memory".to_owned(),
        (None, Some(signal)) => format!("ended by {}", signal_name(signal)),
        (None, None) => format!("ended abnormally: {status}"),
    };
    if let Some(line) = capture.last_error_line(ERROR_LINE_CHARS) {
        reason.push_str("; its last line of errors: ");
        reason.push_str(&line);
    }
    Exit::new(Kind::Failed, None, reason).with_status(status)
}

/// A process that could not be started. `error` already names the program where that is of use.
pub(super) fn not_started(program: Option<&String>, error: &Error) -> Exit {
    let name = program.map(String::as_str).unwrap_or_default();
    let (code, reason) = match error.kind() {
        ErrorKind::NotFound => (Some(CODE_NOT_FOUND), error.to_string()),
        ErrorKind::PermissionDenied if error.raw_os_error().is_none() => (Some(CODE_NOT_EXECUTABLE), error.to_string()),
        ErrorKind::PermissionDenied => (Some(CODE_NOT_EXECUTABLE), format!("the node's user may not execute {name:?}")),
        ErrorKind::ArgumentListTooLong => (
            Some(CODE_NOT_EXECUTABLE),
            format!("the arguments and variables of {name:?} are longer than this system allows; pass large data as input or as a file"),
        ),
        ErrorKind::ExecutableFileBusy => (Some(CODE_NOT_EXECUTABLE), format!("{name:?} is being written at this moment; try again")),
        _ if is_exec_format(error) => (
            Some(CODE_NOT_EXECUTABLE),
            format!("{name:?} is no program for this machine: built for another architecture, or a script without #! in its first line"),
        ),
        _ => (None, format!("cannot start {name:?}: {error}; the node may be out of processes, file descriptors or memory")),
    };
    Exit::new(Kind::SpawnError, code, reason)
}

#[cfg(unix)]
fn is_exec_format(error: &Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error())
}

/// ERROR_BAD_EXE_FORMAT. Not tried on Windows.
#[cfg(not(unix))]
fn is_exec_format(error: &Error) -> bool {
    error.raw_os_error() == Some(193)
}

#[cfg(unix)]
fn signal_of(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal_of(_: ExitStatus) -> Option<i32> {
    None
}

/// The names of the signals that processes die of in practice; their numbers are the same on Linux and macOS except SIGBUS.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 if cfg!(target_os = "linux") => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        other => return format!("signal {other}"),
    };
    format!("{name} (signal {signal})")
}
