//! One attempt from its start to its end.

use std::future::pending;
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::pin::pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::agent::{ENVELOPE_MAX, ENVELOPE_READ_MAX};
use super::capture::{Capture, Stream};
use super::dirs::{Fate, Spares, WorkDir};
use super::exit::{self, Exit, Kind};
use super::files::{self, Files};
use super::group::{self, Group, Pipes};
use super::pipe::{Look, Output};
use super::{Job, Settings, SkillInput, Work, environment};

/// A request to end an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    /// A sentence for the person who asks why.
    pub(crate) reason: String,
    /// Time between the polite request and the end by force.
    pub(crate) grace: Duration,
}

/// How requests to stop arrive; the last one counts.
pub(crate) type StopSignal = watch::Receiver<Option<Stop>>;

/// After the group was ended by force, how long its pipes may still be read. Whoever holds them now has left the group.
const LAST_READ: Duration = Duration::from_millis(100);

/// From when on a process's output is read while it runs. It can write 64 KiB before that without being held up.
const READ_AFTER: Duration = Duration::from_millis(5);

/// How often a stopped group without pipes is asked whether anything of it is left; the system has no event for that.
const GROUP_POLL: Duration = Duration::from_millis(10);

/// Most attempts print little; the buffer grows to the size of a pipe for those which print a lot. In bytes.
const READ_BYTES_MIN: usize = 4 * 1024;
const READ_BYTES_MAX: usize = 64 * 1024;

/// Runs the job to its end. Never fails: whatever happens is in the exit.
/// What comes beside it is the attempt's directory, which goes when it is dropped: that takes the system longer than making it,
/// so it is left for after the report.
pub(crate) async fn run(
    job: Job,
    settings: &Settings,
    capture: &Capture,
    stop: StopSignal,
    spares: &Arc<Spares>,
) -> (Exit, Option<WorkDir>) {
    let started = Instant::now();
    let mut dir = None;
    let mut exit = match job.work {
        Work::Sleep { dur } => sleep(dur, job.timeout, stop, started).await,
        Work::Command { .. } | Work::Skill { .. } | Work::Agent(_) => {
            process(&job, settings, capture, stop, started, spares, &mut dir).await
        }
        Work::Echo { ref input } => {
            capture.push(Stream::Stdout, input);
            Exit::new(Kind::Done, Some(0), "completed")
        }
        Work::Fail { ref message, code } => {
            capture.push(Stream::Stderr, message.as_bytes());
            Exit::new(Kind::Failed, Some(code), format!("failed as asked: {message}"))
        }
    };
    capture.end();
    exit.take_output(capture);
    if let Work::Skill { json_output: true, .. } = job.work {
        exit.require_json();
    }
    exit.wall = started.elapsed();
    (exit, dir)
}

/// The builtin `sleep`: no process, only time.
async fn sleep(dur: Duration, timeout: Option<Duration>, stop: StopSignal, started: Instant) -> Exit {
    tokio::select! {
        () = until(started.checked_add(dur)) => Exit::new(Kind::Done, Some(0), "completed"),
        () = until(timeout.and_then(|timeout| started.checked_add(timeout))) => exit::timed_out(timeout),
        stop = stopped(stop) => Exit::new(Kind::Killed, None, stop.reason),
    }
}

/// What a command or a skill comes down to.
struct Plan<'a> {
    argv: Vec<String>,
    stdin: Option<&'a [u8]>,
}

fn plan(work: &Work) -> Plan<'_> {
    match work {
        Work::Command { argv } => Plan { argv: argv.clone(), stdin: None },
        Work::Skill { dir, run, input, stdin, .. } => {
            let base = dir.to_string_lossy();
            let argv = run.iter().map(|part| part.replace("{baseDir}", &base)).collect();
            let stdin = match input {
                SkillInput::Json | SkillInput::Text => Some(stdin.as_slice()),
                SkillInput::None => None,
            };
            Plan { argv, stdin }
        }
        Work::Agent(_) | Work::Echo { .. } | Work::Sleep { .. } | Work::Fail { .. } => Plan { argv: Vec::new(), stdin: None },
    }
}

async fn process(
    job: &Job,
    settings: &Settings,
    capture: &Capture,
    stop: StopSignal,
    started: Instant,
    spares: &Arc<Spares>,
    dir: &mut Option<WorkDir>,
) -> Exit {
    let dir = match WorkDir::create(&job.dir_root, &job.key, spares) {
        Ok(mut made) => {
            if settings.keep_dirs {
                made.set_fate(Fate::Keep);
            }
            dir.insert(made)
        }
        Err(error) => {
            let reason = format!("cannot make a working directory below {}: {error}", job.dir_root.display());
            return Exit::new(Kind::SpawnError, None, reason);
        }
    };
    if let Err(reason) = place(dir.path(), &job.files).await {
        return Exit::new(Kind::SpawnError, None, reason);
    }
    let agent = if let Work::Agent(run) = &job.work { Some(run) } else { None };
    let plan = match agent {
        None => plan(&job.work),
        Some(run) => match run.furnish(dir.path()).await {
            Ok(argv) => Plan { argv, stdin: run.stdin() },
            Err(reason) => return Exit::new(Kind::SpawnError, None, reason),
        },
    };
    let hidden = agent.filter(|run| run.envelope).map(|_| Capture::new(ENVELOPE_MAX));
    let sinks = match &hidden {
        Some(hidden) => Sinks { stdout: hidden, stdout_max: ENVELOPE_READ_MAX, stderr: capture },
        None => Sinks { stdout: capture, stdout_max: u64::MAX, stderr: capture },
    };
    let (group, pipes) = match spawn(job, settings, &plan, dir) {
        Ok(started) => started,
        Err(exit) => return *exit,
    };
    let deadline = job.timeout.and_then(|timeout| started.checked_add(timeout));
    let mut watcher = Watcher { group, settings, deadline, force: None, linger: None, lingered: false, left_behind: false, ended: None };
    let end = watcher.watch(pipes, plan.stdin, &sinks, stop).await;
    if !settings.keep_dirs && watcher.ended.is_none() && !watcher.lingered && !watcher.left_behind {
        dir.set_fate(Fate::Reuse);
    }
    let mut exit = match end {
        Ok(status) => match watcher.ended {
            Some(Ended::Timeout) => exit::timed_out(job.timeout).with_status(status),
            Some(Ended::Stopped(reason)) => Exit::new(Kind::Killed, None, reason).with_status(status),
            None => exit::from_status(status, capture),
        },
        Err(error) => Exit::new(Kind::Failed, None, format!("the system did not tell how the process ended: {error}")),
    };
    let mut kept = files::Kept::default();
    if exit.kind != Kind::Killed && !job.files.outs.is_empty() {
        let (path, files) = (dir.path().to_owned(), job.files.clone());
        let collected = tokio::task::spawn_blocking(move || files::collect(&path, &files)).await;
        kept = collected.unwrap_or_default();
    }
    if let Some(run) = agent {
        exit = run.judge(exit, hidden.as_deref(), capture);
    }
    exit.kept = kept;
    exit
}

async fn place(dir: &Path, files: &Files) -> Result<(), String> {
    if files.ins.is_empty() {
        return Ok(());
    }
    let (dir, ins) = (dir.to_owned(), files.ins.clone());
    // A copy of many gigabytes must not hold up the others.
    tokio::task::spawn_blocking(move || files::place(&dir, &ins)).await.unwrap_or_else(|e| Err(e.to_string()))
}

/// Where the output of a process goes.
struct Sinks<'a> {
    stdout: &'a Capture,
    /// Beyond so many bytes standard output is not read any more, and the process's next write there fails.
    stdout_max: u64,
    stderr: &'a Capture,
}

fn spawn(job: &Job, settings: &Settings, plan: &Plan<'_>, dir: &WorkDir) -> Result<(Group, Pipes), Box<Exit>> {
    if let Work::Skill { dir, .. } = &job.work
        && !dir.is_dir()
    {
        let reason = format!("the skill's folder {} is no longer there; it was removed after the task had come here", dir.display());
        return Err(Box::new(Exit::new(Kind::SpawnError, None, reason)));
    }
    let refuse = |error: Error| Box::new(exit::not_started(plan.argv.first(), &error));
    let env =
        environment::build(job, &settings.node_env, dir.path()).map_err(|reason| Box::new(Exit::new(Kind::SpawnError, None, reason)))?;
    let name = plan.argv.first().map(String::as_str).unwrap_or_default();
    let program = group::find_program(name, &env, dir.path()).map_err(refuse)?;
    let stdin = plan.stdin.is_some_and(|bytes| !bytes.is_empty());
    Group::spawn(&program, &plan.argv, &env, dir.path(), stdin).map_err(|error| {
        // The file is there, so a "not found" from the system is about the interpreter in its first line.
        let error = match error.kind() {
            ErrorKind::NotFound => Error::new(
                ErrorKind::NotFound,
                format!("{} exists, but the interpreter named in its first line does not", program.display()),
            ),
            _ => error,
        };
        refuse(error)
    })
}

/// Why we ended a process that would have gone on.
enum Ended {
    Timeout,
    Stopped(String),
}

/// Sees a group of processes to its end: reads what it prints, keeps its times, passes on requests to stop.
struct Watcher<'a> {
    group: Group,
    settings: &'a Settings,
    /// When the attempt has run long enough.
    deadline: Option<Instant>,
    /// When a polite request turns into force.
    force: Option<Instant>,
    /// The leader is gone; when to stop waiting for others who hold its pipes.
    linger: Option<Instant>,
    lingered: bool,
    /// Something of the group was still there after the leader's end.
    left_behind: bool,
    ended: Option<Ended>,
}

impl Watcher<'_> {
    /// Returns the leader's exit status once nothing of the group is left and its output is read as far as possible.
    async fn watch(&mut self, pipes: Pipes, input: Option<&[u8]>, sinks: &Sinks<'_>, mut stop: StopSignal) -> Result<ExitStatus, Error> {
        let Pipes { stdin, mut stdout, mut stderr } = pipes;
        let mut feeding = pin!(feed(stdin, input.unwrap_or_default()));
        let (mut fed, mut status) = (false, None);
        // A short process gets by without its pipes being waited for.
        let reading_starts = Instant::now() + READ_AFTER;
        let first = self.due().map_or(reading_starts, |due| due.min(reading_starts));
        while status.is_none() {
            tokio::select! {
                biased;
                result = self.group.wait() => status = Some(self.leader_ended(result?)),
                () = sleep_until(first) => break,
                () = &mut feeding, if !fed => fed = true,
            }
        }
        let take = |output: &mut Output, stream, to: &Capture| output.look(|bytes| to.push(stream, bytes)) == Look::End;
        let mut read = take(&mut stdout, Stream::Stdout, sinks.stdout) & take(&mut stderr, Stream::Stderr, sinks.stderr);
        let mut reading = pin!(async {
            tokio::join!(
                drain(stdout, Stream::Stdout, sinks.stdout, sinks.stdout_max),
                drain(stderr, Stream::Stderr, sinks.stderr, u64::MAX)
            )
        });
        while status.is_none() || !read {
            let due = self.due();
            tokio::select! {
                // In this order: an exit that is already there is never mistaken for a timeout.
                biased;
                result = self.group.wait(), if status.is_none() => status = Some(self.leader_ended(result?)),
                request = stopped_again(&mut stop) => self.stop(request, status.is_none()),
                () = until(due) => {
                    if self.on_due(status.is_none()) {
                        break;
                    }
                }
                _ = &mut reading, if !read => read = true,
                () = &mut feeding, if !fed => fed = true,
            }
        }
        self.end_leftovers().await;
        status.ok_or_else(|| Error::other("the process outlived its end by force"))
    }

    fn due(&self) -> Option<Instant> {
        [self.deadline, self.force, self.linger].into_iter().flatten().min()
    }

    fn leader_ended(&mut self, status: ExitStatus) -> ExitStatus {
        self.deadline = None;
        self.linger = Some(self.force.unwrap_or_else(|| Instant::now() + self.settings.pipe_grace));
        status
    }

    fn stop(&mut self, request: Stop, leader_lives: bool) {
        if leader_lives && self.ended.is_none() {
            self.ended = Some(Ended::Stopped(request.reason));
        }
        self.terminate(request.grace);
    }

    fn terminate(&mut self, grace: Duration) {
        let at = Instant::now() + grace;
        // A later request may shorten the time, never lengthen it.
        self.force = Some(self.force.map_or(at, |force| force.min(at)));
        if self.linger.is_some() {
            self.linger = self.force;
        }
        self.group.terminate();
    }

    /// Does what is due. True when reading shall end although someone still holds the pipes.
    fn on_due(&mut self, leader_lives: bool) -> bool {
        let now = Instant::now();
        let is_due = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        if is_due(self.deadline) {
            self.deadline = None;
            if self.ended.is_none() {
                self.ended = Some(Ended::Timeout);
            }
            self.terminate(self.settings.kill_grace);
        } else if is_due(self.force) {
            self.force = None;
            self.group.kill();
            if !leader_lives {
                self.lingered = true;
                self.linger = Some(now + LAST_READ);
            }
        } else if is_due(self.linger) {
            if self.lingered {
                tracing::debug!(pid = self.group.id(), "a process outside the group holds the output of an ended attempt");
                return true;
            }
            self.lingered = true;
            self.group.kill();
            self.linger = Some(now + LAST_READ);
        }
        false
    }

    /// The leader is gone and its pipes are closed. A group that was asked to end keeps its time; any other is ended now.
    async fn end_leftovers(&mut self) {
        while let Some(force) = self.force.filter(|_| self.group.is_alive()) {
            let now = Instant::now();
            if now >= force {
                break;
            }
            sleep_until(force.min(now + GROUP_POLL)).await;
        }
        self.left_behind = self.group.settle();
    }
}

/// Gives the process its input and closes it. A process that does not read all of it is not an error.
async fn feed(stdin: Option<ChildStdin>, input: &[u8]) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(input).await;
        let _ = stdin.shutdown().await;
    }
}

/// Reads one stream to its end, or until more than `max` bytes came, so that the process is never held up, whatever is kept of it.
async fn drain(output: Output, stream: Stream, capture: &Capture, max: u64) {
    let mut source = match output.into_async() {
        Ok(source) => source,
        Err(error) => {
            // Out of file descriptors, most likely. The process gets an error when it writes.
            tracing::warn!(%error, stream = stream.name(), "cannot read the output of an attempt");
            return;
        }
    };
    let mut buffer = Vec::with_capacity(READ_BYTES_MIN);
    // A read error means the same as the end: there is nothing more to get.
    let mut left = max;
    while let Ok(count @ 1..) = source.read_buf(&mut buffer).await {
        capture.push(stream, &buffer);
        buffer.clear();
        left = left.saturating_sub(count as u64);
        if left == 0 {
            return;
        }
        if count >= READ_BYTES_MIN && buffer.capacity() < READ_BYTES_MAX {
            buffer.reserve(READ_BYTES_MAX);
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

async fn stopped(mut signal: StopSignal) -> Stop {
    stopped_again(&mut signal).await
}

/// The next request to stop. Safe to drop while it waits.
async fn stopped_again(signal: &mut StopSignal) -> Stop {
    while signal.changed().await.is_ok() {
        if let Some(stop) = signal.borrow_and_update().clone() {
            return stop;
        }
    }
    pending().await
}
