//! One command line, and what it said.

use std::{
    ffi::OsStr,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Longest time one command may take, unless the test says otherwise.
const LIMIT: Duration = Duration::from_secs(120);

/// A command line to be run.
#[derive(Debug)]
pub struct Cli {
    command: Command,
    stdin: Vec<u8>,
    limit: Duration,
}

impl Cli {
    /// `clawmesh --home HOME ARGS…` with the environment of a new user; in the network namespace `netns` when given.
    pub fn new(home: &Path, netns: Option<&str>) -> Self {
        let mut command = program(netns);
        command.env("CLAWMESH_HOME", home);
        Self { command, stdin: Vec::new(), limit: LIMIT }
    }
    /// `clawmesh` without any home named.
    pub fn bare(user_home: &Path) -> Self {
        let mut command = program(None);
        command.env("HOME", user_home).env_remove("CLAWMESH_HOME");
        Self { command, stdin: Vec::new(), limit: LIMIT }
    }
    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }
    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }
    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }
    /// What the command reads from stdin.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }
    /// Longest time it may take.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
    /// Starts it and leaves it running; stdin is empty, stdout and stderr are pipes.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(mut self) -> Running {
        let shown = shown(&self.command);
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running { child: self.command.spawn().expect("the program can be started"), shown }
    }
    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started, or takes longer than it may.
    #[track_caller]
    pub fn run(mut self) -> Said {
        let shown = shown(&self.command);
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = self.command.spawn().expect("the program can be started");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        let input = std::mem::take(&mut self.stdin);
        // A command that does not read its input may close it: that is its right.
        thread::spawn(move || drop(stdin.write_all(&input)));
        let (out, err) = (reader(child.stdout.take()), reader(child.stderr.take()));
        let status = end_within(&mut child, self.limit, &shown);
        let (stdout, stderr) = (out.join().expect("stdout is read"), err.join().expect("stderr is read"));
        Said { shown, status, stdout, stderr, took: start.elapsed() }
    }
}

/// A command that is still running.  Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    shown: String,
}

impl Running {
    /// Its stdout, to be read as it comes; only once.
    ///
    /// # Panics
    /// When it was taken before.
    pub fn stdout(&mut self) -> impl Read + use<> {
        self.child.stdout.take().expect("stdout is taken once")
    }
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn end(mut self, limit: Duration) -> Said {
        let start = Instant::now();
        let (out, err) = (reader(self.child.stdout.take()), reader(self.child.stderr.take()));
        let status = end_within(&mut self.child, limit, &self.shown);
        let (stdout, stderr) = (out.join().expect("stdout is read"), err.join().expect("stderr is read"));
        Said { shown: self.shown.clone(), status, stdout, stderr, took: start.elapsed() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    shown: String,
    status: ExitStatus,
    /// What it wrote on stdout.
    pub stdout: Vec<u8>,
    /// What it wrote on stderr.
    pub stderr: Vec<u8>,
    /// From start to end.
    pub took: Duration,
}

impl Said {
    /// Its exit code; -1 when a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
    /// stdout as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
    /// stderr as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
    /// It ended with exit code 0.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }
    /// It ended with this exit code.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "exit code\n{}", self.told());
        self
    }
    /// Its stdout is exactly this.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn stdout_is(self, text: &str) -> Self {
        assert_eq!(self.out(), text, "stdout\n{}", self.told());
        self
    }
    /// Its stdout holds all of these.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn stdout_has(self, texts: &[&str]) -> Self {
        has("stdout", &self.out(), texts, &self);
        self
    }
    /// Its stderr holds all of these, in any case of letters.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn stderr_has(self, texts: &[&str]) -> Self {
        has("stderr", &self.err(), texts, &self);
        self
    }
    /// Its stdout as one JSON value.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("stdout is not one JSON value: {e}\n{}", self.told()))
    }
    /// The error that a command with `--json` tells on stderr.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn error(&self) -> Value {
        let value: Value =
            serde_json::from_slice(&self.stderr).unwrap_or_else(|e| panic!("stderr is not one JSON value: {e}\n{}", self.told()));
        value["error"].clone()
    }
    /// Everything, for a failure's message.
    pub fn told(&self) -> String {
        format!("$ {}\n{}\n--- stdout\n{}\n--- stderr\n{}", self.shown, self.status, clip(&self.out()), clip(&self.err()))
    }
}

#[track_caller]
fn has(stream: &str, said: &str, texts: &[&str], whole: &Said) {
    // Sentences are wrapped at the width of the terminal: any white space is one space.
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    for text in texts {
        assert!(said.contains(&text.to_lowercase()), "{stream} does not say {text:?}\n{}", whole.told());
    }
}

fn clip(text: &str) -> String {
    const MOST: usize = 4_000;
    if text.len() <= MOST { text.to_owned() } else { text.chars().take(MOST).chain("…".chars()).collect() }
}

/// The program with the environment of a new user: nothing of the tester's own settings, skills or proxies.
pub(crate) fn program(netns: Option<&str>) -> Command {
    let mut command = match netns {
        None => Command::new(crate::binary()),
        Some(name) => {
            let mut ip = Command::new("ip");
            ip.args(["netns", "exec", name]).arg(crate::binary());
            ip
        }
    };
    command.env_clear();
    for name in ["PATH", "LANG", "TMPDIR", "USER", "SystemRoot"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("RUST_BACKTRACE", "1").current_dir(std::env::temp_dir());
    command
}

/// A file with the home of the pretended user beside the node's own home.
pub(crate) fn user_home(home: &Path) -> PathBuf {
    home.with_extension("user")
}

fn shown(command: &Command) -> String {
    let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy().chars().take(200).collect::<String>()).collect();
    format!("clawmesh {}", args.join(" "))
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is what there is.
            drop(pipe.read_to_end(&mut all));
        }
        all
    })
}

#[track_caller]
fn end_within(child: &mut Child, limit: Duration, shown: &str) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        if start.elapsed() > limit {
            drop(child.kill());
            drop(child.wait());
            panic!("`{shown}` had not ended after {:.0} s", limit.as_secs_f64());
        }
        thread::sleep(Duration::from_millis(5));
    }
}
