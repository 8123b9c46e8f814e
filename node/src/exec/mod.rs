//! Runs the work of tasks: commands, deterministic skills, agents and the builtins.
//!
//! `mod.rs` holds what the rest of the node sees. `attempt` sees one attempt to its end, `group` is the only file that starts
//! and signals processes, `pipe` reads from them, `capture` keeps output, `environment` and `dirs` prepare, `exit` puts the end into words, `agent` is what agents
//! are given and what their answers mean,
//! `orphans` ends what a crashed boot left running.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub(crate) mod agent;
mod attempt;
pub(crate) mod capture;
mod dirs;
mod environment;
mod exit;
mod files;
mod group;
mod orphans;
mod pipe;
#[cfg(all(test, unix))]
mod tests;

use attempt::Stop;
use capture::Capture;
pub(crate) use capture::{Piece, Stream, Tail};
pub(crate) use dirs::Swept;
pub(crate) use exit::{Exit, Kind};
pub(crate) use files::{Files, Hold, InFile, Kept};

/// Bytes kept of each output stream of an attempt unless its job says otherwise.
pub(crate) const OUTPUT_CAP_DEFAULT: u64 = 1024 * 1024;

/// Which attempt: opaque to this module, except that the task's id must be able to name a directory
/// (at most 128 of `[A-Za-z0-9_-]`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct JobKey {
    pub(crate) task: String,
    pub(crate) attempt: u32,
    /// Who issued it: after a split, two coordinators may issue the same number to one worker, and both attempts run.
    /// Names a directory, too; empty where nobody else could have.
    pub(crate) issue: String,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.task, self.attempt)
    }
}

/// One attempt to run.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) key: JobKey,
    pub(crate) work: Work,
    /// From the start of the attempt. None: as long as it takes.
    pub(crate) timeout: Option<Duration>,
    /// Handed to the process as `CLAWMESH_FENCE`, so that what it writes elsewhere can be told from an older attempt's.
    pub(crate) fence: String,
    /// Added to the process's environment, at most 1000. Cannot replace the mesh's own variables.
    pub(crate) env: Vec<(String, String)>,
    /// The attempt works in `<dir_root>/<task>.<attempt>`. Absolute.
    pub(crate) dir_root: PathBuf,
    /// Bytes kept of each output stream, at most 64 MiB; usually [`OUTPUT_CAP_DEFAULT`].
    pub(crate) output_cap: u64,
    /// Files in its working directory, before and after; only for work with a process.
    pub(crate) files: Files,
}

/// What to run.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A program and its arguments, never a shell line. Standard input is empty.
    Command { argv: Vec<String> },
    /// A deterministic skill: its argv, in which `{baseDir}` stands for the skill's folder.
    Skill {
        dir: PathBuf,
        run: Vec<String>,
        input: SkillInput,
        stdin: Vec<u8>,
        /// Standard output must be one JSON value, else the attempt has failed.
        json_output: bool,
    },
    /// An agent that is asked something.
    Agent(Box<agent::AgentRun>),
    /// Returns its input as standard output. No process.
    Echo { input: Vec<u8> },
    /// Takes its time. No process.
    Sleep { dur: Duration },
    /// Fails with this message on standard error. No process.
    Fail { message: String, code: i32 },
}

impl Work {
    /// A few words for a list: the program, the skill's folder name or the builtin.
    pub(crate) fn label(&self) -> String {
        match self {
            Work::Command { argv } => argv.first().cloned().unwrap_or_default(),
            Work::Skill { dir, .. } => dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            Work::Agent(run) => run.name.clone(),
            Work::Echo { .. } => "echo".to_owned(),
            Work::Sleep { .. } => "sleep".to_owned(),
            Work::Fail { .. } => "fail".to_owned(),
        }
    }
}

/// How a skill takes its input on standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum SkillInput {
    #[default]
    Json,
    Text,
    /// Nothing: standard input is empty.
    None,
}

/// The executor's settings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Between TERM and KILL when a timeout or a cancel ends an attempt. 0 to a minute; too short and programs cannot tidy up.
    pub(crate) kill_grace: Duration,
    /// After the process's own end, how long its children may keep its output open before they are ended. 0.1 to 5 s.
    pub(crate) pipe_grace: Duration,
    /// Leaves the working directories of ended attempts in place, to look at; the next start removes them.
    pub(crate) keep_dirs: bool,
    /// Variables every attempt gets from the node; [`Settings::default`] reads them from this process.
    pub(crate) node_env: Vec<(OsString, OsString)>,
    /// At most this many attempts at once, a backstop far above the number of slots.
    pub(crate) running_max: usize,
    /// Ends that wait for the daemon; beyond this many, attempts wait with their slot.
    pub(crate) exits_max: usize,
}

impl Settings {
    /// The defaults, with further names of variables to pass on from the node's environment.
    pub(crate) fn passing(extra: &[String]) -> Settings {
        Settings {
            kill_grace: Duration::from_secs(1),
            pipe_grace: Duration::from_millis(500),
            keep_dirs: false,
            node_env: environment::passed_from_node(extra),
            running_max: 4096,
            exits_max: 1024,
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::passing(&[])
    }
}

/// Why an attempt was not started. Nothing has changed in any of the cases.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("attempt {0} is already running here")]
    Duplicate(JobKey),
    #[error("{0} attempts are running here, which is the limit")]
    Full(usize),
    #[error("this node is stopping and starts nothing new")]
    Closed,
}

/// An attempt that has not ended yet.
#[derive(Clone, Debug)]
pub(crate) struct RunningJob {
    pub(crate) key: JobKey,
    pub(crate) label: String,
    pub(crate) age: Duration,
}

/// Starts attempts and reports their ends. Cheap to clone; all clones are the same executor.
#[derive(Clone, Debug)]
pub(crate) struct Executor {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    handle: Handle,
    exits: mpsc::Sender<(JobKey, Exit)>,
    table: Mutex<Table>,
    spares: Arc<dirs::Spares>,
    /// How many attempts still run something; [`Executor::kill_all`] waits for 0.
    alive: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Table {
    running: HashMap<JobKey, Running>,
    closed: bool,
}

#[derive(Debug)]
struct Running {
    stop: watch::Sender<Option<Stop>>,
    capture: Arc<Capture>,
    label: String,
    since: Instant,
}

impl Executor {
    /// An executor whose attempts live on the runtime of `handle`, and the channel on which it reports each end exactly once.
    pub(crate) fn new(settings: Settings, handle: Handle) -> (Executor, mpsc::Receiver<(JobKey, Exit)>) {
        let (exits, receiver) = mpsc::channel(settings.exits_max.max(1));
        let shared = Shared { settings, handle, exits, table: Mutex::default(), spares: Arc::default(), alive: watch::Sender::new(0) };
        (Executor { shared: Arc::new(shared) }, receiver)
    }

    /// Ends processes and removes directories which an earlier boot of this node left below `dir_root`.
    /// Blocks for as long as that takes; call it once, before the first attempt, while no other node uses `dir_root`.
    pub(crate) fn clean_up(dir_root: &Path) -> std::io::Result<Swept> {
        let ended = orphans::end(dir_root);
        if ended > 0 {
            tracing::warn!(ended, "ended processes which an earlier run of this node had left");
        }
        dirs::sweep(dir_root)
    }

    /// Starts an attempt and returns at once. Its end arrives on the channel, perhaps before this returns.
    pub(crate) fn start(&self, job: Job) -> Result<(), Refused> {
        let capture = Capture::new(job.output_cap);
        let (stop, stop_signal) = watch::channel(None);
        let running = Running { stop, capture: Arc::clone(&capture), label: job.work.label(), since: Instant::now() };
        let key = job.key.clone();
        self.shared.insert(key.clone(), running)?;
        let guard = Guard { shared: Arc::clone(&self.shared), key, alive: true, reported: false };
        self.shared.handle.spawn(async move {
            let (exit, dir) = attempt::run(job, &guard.shared.settings, &capture, stop_signal, &guard.shared.spares).await;
            guard.report(exit).await;
            drop(dir);
        });
        Ok(())
    }

    /// Asks an attempt to end: TERM to its whole group, KILL after the grace. False if it is not running here.
    /// `reason` becomes the reason of its exit, unless it has just ended by itself.
    pub(crate) fn kill(&self, key: &JobKey, reason: &str) -> bool {
        let grace = self.shared.settings.kill_grace;
        let table = self.shared.table();
        let running = table.running.get(key);
        if let Some(running) = running {
            running.stop.send_replace(Some(Stop { reason: reason.to_owned(), grace }));
        }
        running.is_some()
    }

    /// Ends everything and starts nothing new. Returns when all processes are gone, at most half a second after `grace`,
    /// with the number of attempts that would not end.
    pub(crate) async fn kill_all(&self, grace: Duration) -> usize {
        {
            let mut table = self.shared.table();
            table.closed = true;
            for running in table.running.values() {
                running.stop.send_replace(Some(Stop { reason: "this node was stopped".to_owned(), grace }));
            }
        }
        let mut alive = self.shared.alive.subscribe();
        let slack = Duration::from_millis(500);
        let left = match tokio::time::timeout(grace.saturating_add(slack), alive.wait_for(|alive| *alive == 0)).await {
            Ok(_) => 0,
            Err(_) => *self.shared.alive.borrow(),
        };
        self.shared.spares.clear();
        left
    }

    /// Follows an attempt's output from its beginning. None if it is not running here; then its exit has all there is.
    /// A key without `issue` means the latest of that number.
    pub(crate) fn tail(&self, key: &JobKey) -> Option<Tail> {
        let table = self.shared.table();
        let named = |k: &JobKey| key.issue.is_empty() && k.task == key.task && k.attempt == key.attempt;
        let latest = || table.running.iter().filter(|(k, _)| named(k)).max_by_key(|(_, r)| r.since).map(|(_, r)| r);
        table.running.get(key).or_else(latest).map(|running| running.capture.tail())
    }

    /// The attempts that have not been reported as ended, in no particular order.
    pub(crate) fn running(&self) -> Vec<RunningJob> {
        let table = self.shared.table();
        let job = |(key, running): (&JobKey, &Running)| RunningJob {
            key: key.clone(),
            label: running.label.clone(),
            age: running.since.elapsed(),
        };
        table.running.iter().map(job).collect()
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change of the table is a single insertion or removal, so it is whole even after a panic elsewhere.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, key: JobKey, running: Running) -> Result<(), Refused> {
        let mut table = self.table();
        if table.closed {
            return Err(Refused::Closed);
        }
        if table.running.contains_key(&key) {
            return Err(Refused::Duplicate(key));
        }
        if table.running.len() >= self.settings.running_max {
            return Err(Refused::Full(self.settings.running_max));
        }
        table.running.insert(key, running);
        // Under the table's lock, so that `kill_all` never sees a started attempt as not alive.
        self.alive.send_modify(|alive| *alive += 1);
        Ok(())
    }
}

/// Makes sure that an attempt is taken off the books and reported once, even if its task is dropped or panics.
struct Guard {
    shared: Arc<Shared>,
    key: JobKey,
    alive: bool,
    reported: bool,
}

impl Guard {
    async fn report(mut self, exit: Exit) {
        self.not_alive();
        // Room first, then off the books: an attempt is always either running or reported.
        if let Ok(permit) = self.shared.exits.clone().reserve_owned().await {
            self.shared.table().running.remove(&self.key);
            permit.send((self.key.clone(), exit));
        }
        self.reported = true;
    }

    fn not_alive(&mut self) {
        if std::mem::take(&mut self.alive) {
            self.shared.alive.send_modify(|alive| *alive = alive.saturating_sub(1));
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.not_alive();
        let running = self.shared.table().running.remove(&self.key);
        if let Some(running) = running.filter(|_| !self.reported) {
            running.capture.end();
            let exit = Exit::new(
                Kind::Failed,
                None,
                "BUG: the attempt was dropped before its end; if the node was not stopping, please report this",
            );
            let _ = self.shared.exits.try_send((self.key.clone(), exit));
        }
    }
}
