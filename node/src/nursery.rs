//! Three nodes on this machine, each a process of this very program with its own home: for the demo and the bench.
//!
//! The nodes never outlive a [`Nursery`] unless [`Nursery::keep`] says so: each process is owned by a guard that kills it
//! when it is dropped, on an error and on a panic too.  Only a SIGKILL of this program itself leaves them behind.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::{ConstantBuilder, Retryable};
use futures::future::join_all;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    api::types::StatusReport,
    client::{Client, ClientError},
    output::Failure,
};

/// The nodes' names.
pub(crate) const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
/// The directory beside the homes.
const WORK: &str = "work";
/// Pause between two questions to a node that is starting or stopping.
const PAUSE: Duration = Duration::from_millis(25);
/// A node that does not answer after this time did not start.  It takes well under a second on an idle machine.
const START_MAX: Duration = Duration::from_secs(20);
/// Nodes that do not see each other after this time will not.
const JOIN_MAX: Duration = Duration::from_secs(30);
/// A node that has not ended in order after this time is killed.
const STOP_MAX: Duration = Duration::from_secs(5);
/// Longest wait for one answer about a node's state; a frozen node must not hold up the looks at the others.
pub(crate) const LOOK_MAX: Duration = Duration::from_secs(1);
/// Lines of a node's log in an error message.
const LOG_LINES: usize = 5;

/// A sample skill, part of this program: the demo works where no repository is.
struct Sample {
    name: &'static str,
    files: [(&'static str, &'static str); 2],
}

const SAMPLES: [Sample; 2] = [
    Sample {
        name: "word-count",
        files: [
            ("SKILL.md", include_str!("../../deploy/skills/word-count/SKILL.md")),
            ("scripts/count.sh", include_str!("../../deploy/skills/word-count/scripts/count.sh")),
        ],
    },
    Sample {
        name: "file-digest",
        files: [
            ("SKILL.md", include_str!("../../deploy/skills/file-digest/SKILL.md")),
            ("scripts/digest.sh", include_str!("../../deploy/skills/file-digest/scripts/digest.sh")),
        ],
    },
];

/// The sample skills run where there is a POSIX shell; elsewhere they would be listed as not eligible.
pub(crate) const SKILLS_RUN_HERE: bool = cfg!(unix);

/// How the nodes are started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    /// Where the homes go; none = a temporary directory.
    pub(crate) dir: Option<PathBuf>,
    /// Silence after which a node counts as lost; none = the daemon's default.
    pub(crate) lost_after: Option<Duration>,
    /// Tasks at once on each node; none = the number of cores.
    pub(crate) slots: Option<u32>,
    /// Give the nodes the two sample skills.
    pub(crate) skills: bool,
}

/// A process that is killed and collected when its owner goes.
#[derive(Debug)]
struct Guarded(Option<Child>);

impl Guarded {
    fn kill(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        // Both fail only for a process that has ended and was collected.
        if let Err(e) = child.kill().and_then(|()| child.wait()) {
            tracing::debug!(error = %e, "a node had ended already");
        }
    }
    /// How it ended, if it has.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.0.as_mut().and_then(|c| c.try_wait().ok().flatten())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its home.
    pub(crate) home: PathBuf,
    /// Where its log goes.
    pub(crate) log: PathBuf,
    process: Guarded,
}

/// The clients of the nodes that are up, by the nodes' order; shared with whoever talks to them while nodes are killed.
#[derive(Debug, Clone)]
pub(crate) struct Doors(Arc<Mutex<[Option<Client>; 3]>>);

impl Doors {
    /// The client of a node that is up.
    pub(crate) fn client(&self, node: usize) -> Option<Client> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned().flatten()
    }
    /// The first node that is up, beginning with `first` and going around.
    pub(crate) fn any(&self, first: usize) -> Option<(usize, Client)> {
        (0..NAMES.len()).map(|i| (first + i) % NAMES.len()).find_map(|i| self.client(i).map(|c| (i, c)))
    }
    /// Indices of the nodes that are up.
    pub(crate) fn up(&self) -> Vec<usize> {
        (0..NAMES.len()).filter(|i| self.client(*i).is_some()).collect()
    }
    /// What each node that is up says of the mesh; who does not answer within [`LOOK_MAX`] is left out.
    pub(crate) async fn look(&self) -> Vec<(usize, StatusReport)> {
        let asked = self.up().into_iter().filter_map(|i| self.client(i).map(|c| (i, c)));
        let answers = asked.map(|(i, c)| async move { tokio::time::timeout(LOOK_MAX, c.status()).await.ok()?.ok().map(|s| (i, s)) });
        join_all(answers).await.into_iter().flatten().collect()
    }
    fn set(&self, node: usize, client: Option<Client>) {
        if let Some(slot) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(node) {
            *slot = client;
        }
    }
}

/// Three nodes on this machine.
#[derive(Debug)]
pub(crate) struct Nursery {
    nodes: Vec<Node>,
    doors: Doors,
    program: PathBuf,
    plan: Plan,
    place: Place,
}

/// Where the homes are.
#[derive(Debug)]
enum Place {
    Temporary(TempDir),
    Given(PathBuf),
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(t) => t.path(),
            Self::Given(p) => p,
        }
    }
}

impl Nursery {
    /// Starts a mesh of three nodes, and answers when all three see all three and agree who coordinates.
    ///
    /// # Errors
    /// A sentence with the end of the failing node's log.  Nothing keeps running; the homes stay, so that their logs can
    /// be read.
    pub(crate) async fn start(plan: Plan) -> Result<Self, Failure> {
        let mut nursery = Self::prepare(plan)?;
        match nursery.start_all().await {
            Ok(()) => Ok(nursery),
            Err(e) => Err(nursery.failed(e)),
        }
    }

    fn prepare(plan: Plan) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|e| Failure::refused(format!("cannot find this program's own file: {e}")))?;
        let place = match &plan.dir {
            None => tempfile::Builder::new()
                .prefix("clawmesh-")
                .tempdir()
                .map(Place::Temporary)
                .map_err(|e| Failure::refused(format!("cannot make a temporary directory: {e}")).next("give a place with --dir DIR"))?,
            Some(dir) => given(dir)?,
        };
        let nodes = NAMES
            .iter()
            .map(|name| {
                let home = place.path().join(name);
                Node { name, log: home.join("node.log"), home, process: Guarded(None) }
            })
            .collect::<Vec<_>>();
        for node in &nodes {
            let made = fs::create_dir_all(&node.home).and_then(|()| if plan.skills { plant(&node.home) } else { Ok(()) });
            made.map_err(|e| Failure::refused(format!("cannot write the node's home {}: {e}", node.home.display())))?;
        }
        Ok(Self { nodes, doors: Doors(Arc::default()), program, plan, place })
    }

    async fn start_all(&mut self) -> Result<(), Failure> {
        self.spawn(0, None)?;
        self.answers(0).await?;
        let first = self.doors.client(0).ok_or_else(|| self.silent(0, "is gone"))?;
        let ticket = first.invite().await?;
        for node in 1..self.nodes.len() {
            self.spawn(node, Some(&ticket))?;
        }
        for node in 1..self.nodes.len() {
            self.answers(node).await?;
        }
        self.whole().await
    }

    fn spawn(&mut self, index: usize, ticket: Option<&str>) -> Result<(), Failure> {
        let plan = &self.plan;
        let Some(node) = self.nodes.get_mut(index) else { return Err(Failure::refused(format!("BUG: there is no node {index}"))) };
        let cannot = |e: io::Error| Failure::refused(format!("cannot start the node {}: {e}", node.name));
        let log = OpenOptions::new().create(true).append(true).open(&node.log).map_err(cannot)?;
        let mut command = Command::new(&self.program);
        command
            .env_remove("CLAWMESH_HOME")
            .arg("--home")
            .arg(&node.home)
            // The mesh port is for this machine only: three nodes that run commands for whoever holds the key.
            .args(["up", "--api-port", "0", "--mesh-port", "0", "--loopback-only", "--no-openclaw-skills", "--name", node.name]);
        if let Some(after) = plan.lost_after {
            command.arg("--lost-after").arg(humantime::format_duration(after).to_string().replace(' ', ""));
        }
        if let Some(slots) = plan.slots {
            command.arg("--slots").arg(slots.to_string());
        }
        if plan.skills {
            command.arg("--skills").arg(node.home.join("skills"));
        }
        if let Some(ticket) = ticket {
            command.arg("--join").arg(ticket);
        }
        command.stdin(Stdio::null()).stderr(log.try_clone().map_err(cannot)?).stdout(log);
        apart(&mut command);
        node.process = Guarded(Some(command.spawn().map_err(cannot)?));
        Ok(())
    }

    /// Waits until a node answers, and opens its door.
    async fn answers(&mut self, index: usize) -> Result<(), Failure> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let Some(node) = self.nodes.get_mut(index) else { return Err(Failure::refused(format!("BUG: there is no node {index}"))) };
            if let Some(status) = node.process.ended() {
                node.process.0 = None;
                return Err(self.silent(index, &format!("ended at its start ({status})")));
            }
            // A home that was killed still has the api.json of its last life: only an answer counts.
            if let Ok(client) = Client::open(&node.home)
                && let Ok(Ok(status)) = tokio::time::timeout(LOOK_MAX, client.status()).await
                && status.view.name == node.name
            {
                self.doors.set(index, Some(client));
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.silent(index, &format!("does not answer after {}", humantime::format_duration(START_MAX))));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until every node that is up sees all three online, they agree who coordinates, and the skills are known.
    ///
    /// # Errors
    /// What is still missing after 30 s.
    pub(crate) async fn whole(&self) -> Result<(), Failure> {
        let look = || async {
            let views = self.doors.look().await;
            let skills = match self.doors.any(0) {
                Some((_, client)) if self.plan.skills && SKILLS_RUN_HERE => client.skills().await.unwrap_or_default(),
                _ => Vec::new(),
            };
            let shown = |name: &str| skills.iter().any(|s| s.name == name && s.nodes.len() == NAMES.len());
            let wanted = self.plan.skills && SKILLS_RUN_HERE;
            match missing(&views) {
                Some(what) => Err(what),
                None => match SAMPLES.iter().find(|s| wanted && !shown(s.name)) {
                    Some(s) => Err(format!("not every node shows the skill {}", s.name)),
                    None => Ok(()),
                },
            }
        };
        let pauses = ConstantBuilder::default().with_delay(PAUSE).without_max_times();
        let mut last = String::new();
        let waiting = look.retry(pauses).notify(|what: &String, _| last.clone_from(what));
        match tokio::time::timeout(JOIN_MAX, waiting).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(what)) => Err(Failure::refused(what)),
            Err(_) => {
                Err(Failure::refused(format!("the three nodes are not one mesh after {}: {last}", humantime::format_duration(JOIN_MAX))))
            }
        }
    }

    fn silent(&self, index: usize, how: &str) -> Failure {
        let (name, log) = self.nodes.get(index).map_or(("?", PathBuf::new()), |n| (n.name, n.log.clone()));
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.iter().skip(lines.len().saturating_sub(LOG_LINES)).copied().collect::<Vec<_>>().join("\n  ");
        Failure::refused(format!("the node {name} {how}; the end of its log:\n  {last}"))
    }

    /// The nodes in order.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    /// The clients of the nodes that are up.
    pub(crate) fn doors(&self) -> &Doors {
        &self.doors
    }
    /// A directory beside the homes for files of the demo; goes with them.  Perhaps not there yet.
    pub(crate) fn work(&self) -> PathBuf {
        self.place.path().join(WORK)
    }
    /// The program that the nodes run.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Kills a node at once (SIGKILL) and says when.
    pub(crate) fn kill(&mut self, index: usize) -> Instant {
        self.doors.set(index, None);
        let at = Instant::now();
        if let Some(node) = self.nodes.get_mut(index) {
            node.process.kill();
        }
        at
    }

    /// Starts a killed node again on its home, and waits until it answers.
    ///
    /// # Errors
    /// It does not start; the others are untouched.
    pub(crate) async fn restart(&mut self, index: usize) -> Result<(), Failure> {
        self.spawn(index, None)?;
        self.answers(index).await
    }

    /// Stops all nodes in order and removes what they wrote.
    pub(crate) async fn stop(mut self) {
        let orderly = self.doors.up().into_iter().filter_map(|i| self.doors.client(i)).map(|c| async move { c.stop().await });
        for e in join_all(orderly).await.into_iter().filter_map(Result::err) {
            tracing::debug!(error = %e, "a node did not take the order to stop");
        }
        let deadline = Instant::now() + STOP_MAX;
        while self.nodes.iter_mut().any(|n| n.process.0.is_some() && n.process.ended().is_none()) && Instant::now() < deadline {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Lets the nodes live on without this program, with their files.
    pub(crate) fn keep(mut self) -> PathBuf {
        for node in &mut self.nodes {
            // A dropped child goes on running.
            drop(node.process.0.take());
        }
        self.keep_files()
    }

    /// Ends the nodes, leaves their files, and adds to the failure where the logs are.
    pub(crate) fn failed(mut self, mut failure: Failure) -> Failure {
        self.nodes.iter_mut().for_each(|n| n.process.kill());
        let logs = self.nodes.iter().filter(|n| n.log.exists()).map(|n| format!("\n  {}", n.log.display())).collect::<String>();
        self.keep_files();
        failure.what.push_str(&format!("\nthe nodes are stopped; their logs stay for you to read:{logs}"));
        failure
    }

    fn keep_files(mut self) -> PathBuf {
        let place = std::mem::replace(&mut self.place, Place::Given(PathBuf::new()));
        match place {
            Place::Temporary(t) => t.keep(),
            Place::Given(p) => p,
        }
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(|n| n.process.kill());
        // A temporary directory goes by itself; of a directory that the user named, only what was put there.
        if let Place::Given(dir) = &self.place
            && !dir.as_os_str().is_empty()
        {
            for name in NAMES.iter().chain([&WORK]) {
                if let Err(e) = fs::remove_dir_all(dir.join(name)) {
                    tracing::debug!(dir = %dir.join(name).display(), error = %e, "not removed");
                }
            }
        }
    }
}

/// A directory that the user named; it must not hold homes of an earlier run.
fn given(dir: &Path) -> Result<Place, Failure> {
    let dir = std::path::absolute(dir).map_err(|e| Failure::usage(format!("cannot use {}: {e}", dir.display())))?;
    if let Some(old) = NAMES.iter().map(|n| dir.join(n)).find(|h| h.exists()) {
        return Err(Failure::refused(format!("{} is there already, perhaps of an earlier run", old.display()))
            .next(format!("choose another --dir, or stop that node ('clawmesh --home {} down') and remove it", old.display())));
    }
    fs::create_dir_all(&dir).map_err(|e| Failure::refused(format!("cannot make the directory {}: {e}", dir.display())))?;
    Ok(Place::Given(dir))
}

/// Writes the sample skills into a home.
fn plant(home: &Path) -> io::Result<()> {
    for sample in &SAMPLES {
        for (path, text) in sample.files {
            let file = home.join("skills").join(sample.name).join(path);
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            io::Write::write_all(&mut File::create(file)?, text.as_bytes())?;
        }
    }
    Ok(())
}

/// What keeps the nodes that answer from being one mesh of three; none when they are.
fn missing(views: &[(usize, StatusReport)]) -> Option<String> {
    if views.len() < NAMES.len() {
        return Some(format!("{} of {} nodes answer", views.len(), NAMES.len()));
    }
    for (_, s) in views {
        let online = s.view.members.iter().filter(|m| m.state == "online").count();
        if online < NAMES.len() {
            return Some(format!("{} sees {online} of {} nodes online", s.view.name, NAMES.len()));
        }
    }
    let leader = views.iter().find(|(_, s)| s.view.role == "coordinator").map(|(_, s)| s.view.node);
    match leader {
        None => Some("nobody coordinates yet".into()),
        Some(l) => views
            .iter()
            .find(|(_, s)| s.view.coordinator != Some(l) || s.view.role == "electing")
            .map(|(_, s)| format!("{} does not follow the coordinator yet", s.view.name)),
    }
}

/// The node gets no Ctrl-C of the terminal: its owner decides when it ends.
#[cfg(unix)]
fn apart(command: &mut Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

/// The node gets no Ctrl-C of the console (CREATE_NEW_PROCESS_GROUP).  Compiled for Windows only; not tried there.
#[cfg(windows)]
fn apart(command: &mut Command) {
    std::os::windows::process::CommandExt::creation_flags(command, 0x0000_0200);
}

/// Ends when the user or the system wants this program to end: Ctrl-C, and on Unix TERM and HUP.
pub(crate) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let mut signals: Vec<_> = kinds.into_iter().filter_map(|k| signal(k).ok()).collect();
        if signals.is_empty() {
            return std::future::pending().await;
        }
        futures::future::select_all(signals.iter_mut().map(|s| Box::pin(s.recv()))).await;
    }
    #[cfg(not(unix))]
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// Submitting again elsewhere makes sense.
pub(crate) fn worth_another_try(e: &ClientError) -> bool {
    e.unreachable() || matches!(e, ClientError::Stranger { .. }) || matches!(e, ClientError::Refused(p) if p.code == "timeout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_skills_are_those_of_the_repository() {
        let dir = tempfile::tempdir().unwrap();
        plant(dir.path()).unwrap();
        for name in ["word-count", "file-digest"] {
            let text = fs::read_to_string(dir.path().join("skills").join(name).join("SKILL.md")).unwrap();
            assert!(text.contains(&format!("name: {name}")));
            assert_eq!(fs::read_dir(dir.path().join("skills").join(name).join("scripts")).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_directory_with_an_old_home_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(given(dir.path()).is_ok());
        fs::create_dir(dir.path().join("beta")).unwrap();
        let failure = given(dir.path()).unwrap_err();
        assert!(failure.what.contains("beta"), "{}", failure.what);
        assert!(failure.next.unwrap().contains("--dir"));
    }

    #[cfg(unix)]
    #[test]
    fn a_guarded_process_dies_with_its_guard() {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let guard = Guarded(Some(child));
        assert!(rustix::process::test_kill_process(pid).is_ok());
        drop(guard);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }
}
