//! A mesh on machines of its own, under load, while faults strike; then everything heals, and the history is judged.

use std::{
    collections::BTreeSet,
    env,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clawmesh_sim::rng::Dice;
use serde_json::{Value, json};

use crate::{
    AGES, Lan, Log, Mesh, MeshBuilder, Node, Task,
    history::{Aftermath, Ended, History, Start, Told, complaints, converged},
    wait_until,
};

/// Set, the faults are drawn as in the run that printed this number.  The processes themselves are never the same twice.
const SEED: &str = "CLAWMESH_FAULTS_SEED";
/// How many times longer than in CI the faults last.
const SCALE: &str = "CLAWMESH_FAULTS_SCALE";
/// The mesh port of every machine.
pub(crate) const PORT: u16 = 8_889;
/// Longest wait for the acknowledgement of a submit: a node that is stopped answers nobody.
const SUBMIT_MAX: Duration = Duration::from_secs(10);
/// Pause of a user between two submits: a handful of processes per second and node is load enough for two cores.
const PAUSE_MS: (u64, u64) = (120, 360);
/// Most tasks whose end a user asks for at once.
const ASK_MAX: usize = 200;

/// A number from the environment.
///
/// # Panics
/// When it is there and is none.
pub fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = env::var(name) else { return default };
    text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}"))
}

/// A mesh under load on machines of its own.  Dropped, everything is removed.
#[derive(Debug)]
pub struct Trial {
    /// The mesh: killed before its network goes.
    pub mesh: Mesh,
    /// The network, with one machine more than nodes; it is the last one.
    pub lan: Lan,
    starts: Log,
    history: Mutex<History>,
    seed: u64,
    began: Instant,
    epoch: u64,
}

impl Trial {
    /// So many nodes; `how` completes the mesh.
    ///
    /// # Panics
    /// When they do not come up.
    #[track_caller]
    pub fn start(nodes: u8, how: impl FnOnce(MeshBuilder) -> MeshBuilder) -> Self {
        Self::start_on(Lan::new(nodes + 1, true), nodes, how)
    }
    /// The same, on this network, which has a machine for each node at least.
    ///
    /// # Panics
    /// When they do not come up.
    #[track_caller]
    pub fn start_on(lan: Lan, nodes: u8, how: impl FnOnce(MeshBuilder) -> MeshBuilder) -> Self {
        let began = Instant::now();
        let drawn = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.subsec_micros().into());
        let seed = setting(SEED, drawn);
        let name = thread::current().name().unwrap_or("a trial").to_owned();
        println!("{name}: {SEED}={seed}");
        let mesh = Mesh::of(usize::from(nodes)).netns(lan.machines()).port(PORT).args(["--slots", "4", "--lost-after", "5s"]).alone();
        let mesh = how(mesh).start();
        let starts = Log::new(mesh.dir(), "starts");
        println!("{name}: {nodes} nodes agree after {:.1} s", began.elapsed().as_secs_f64());
        let epoch = highest(&mesh.nodes().iter().filter_map(|n| n.status().ok()).collect::<Vec<_>>());
        Self { mesh, lan, starts, history: Mutex::default(), seed, began, epoch }
    }
    /// Random numbers for one concern.
    pub fn dice(&self, concern: &str) -> Dice {
        Dice::split(self.seed, concern)
    }
    /// How long a fault lasts that lasts so long in CI.
    pub fn span(&self, seconds: u64) -> Duration {
        Duration::from_secs(seconds * setting(SCALE, 1))
    }
    /// Lets so much time pass: what a fault does in it is the point of the trial.
    pub fn lasts(&self, seconds: u64) {
        thread::sleep(self.span(seconds));
    }
    /// One user per node submits tasks and asks for their ends, all the time while `faults` runs.
    pub fn under_load(&self, faults: impl FnOnce()) {
        let over = AtomicBool::new(false);
        thread::scope(|s| {
            for (i, node) in self.mesh.nodes().iter().enumerate() {
                let over = &over;
                s.spawn(move || self.user(i, node, over));
            }
            // Also when the faults end in a panic.
            let _end = Flag(&over);
            faults();
        });
    }
    /// The lines are mended, everybody wakes up or is started again, nobody asks for anything new: the mesh comes to rest,
    /// every acknowledged task to its end, and all promises were kept.  Returns by how much the epoch has risen since the
    /// start: a trial whose faults have never led to an election may have had none.
    ///
    /// # Panics
    /// When they were not.
    #[track_caller]
    pub fn heals(self) -> u64 {
        let healing = Instant::now();
        self.lan.heal();
        self.mesh.nodes().iter().for_each(Node::resume);
        self.mesh.start_all();
        let agreed = healing.elapsed();
        self.ends();
        let ended = healing.elapsed();
        let nodes = wait_until("the mesh comes to rest", AGES, || self.rest());
        let tasks = wait_until("the mesh lists its tasks", AGES, || self.mesh[0].tasks(""));
        let tasks = tasks.into_iter().filter_map(|t| Some((t["id"].as_str()?.to_owned(), t))).collect();
        let starts: Vec<Start> = self.starts.lines().iter().map(|l| Start::of(l)).collect();
        let history = self.history().clone();
        let risen = highest(&nodes).saturating_sub(self.epoch);
        let wrong = complaints(&history, &starts, &Aftermath { nodes, tasks });
        let first: Vec<&String> = wrong.iter().take(10).collect();
        assert!(wrong.is_empty(), "{} promises were broken: {first:#?}\nthe faults were those of {SEED}={}", wrong.len(), self.seed);
        assert!(history.acked.len() > 20, "the trial has hardly seen any task: {history:?}");
        let again = starts.len() - starts.iter().map(|s| &s.id).collect::<BTreeSet<_>>().len();
        println!(
            "{:.1} s: {} tasks acknowledged, {} refused, {} not answered, {} started again; {} epochs; healed in {:.1} s, all ended after {:.1} s",
            self.began.elapsed().as_secs_f64(),
            history.acked.len(),
            history.refused,
            history.unanswered,
            again,
            risen,
            agreed.as_secs_f64(),
            ended.as_secs_f64(),
        );
        risen
    }
    /// Tasks acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.history().acked.len()
    }
    /// Waits until `more` tasks have been acknowledged from now on: somebody serves.
    ///
    /// # Panics
    /// When they are not.
    #[track_caller]
    pub fn serves(&self, more: usize) {
        let before = self.acknowledged();
        wait_until("tasks are acknowledged", AGES, || {
            let now = self.acknowledged();
            if now >= before + more { Ok(()) } else { Err(format!("{} of {more}", now - before)) }
        });
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn user(&self, i: usize, node: &Node, over: &AtomicBool) {
        let mut dice = self.dice(node.name());
        // It notes its start before anything else, and its result says which attempt it was.
        let log = self.starts.path().display();
        let task = Task::sh(&format!("echo \"$CLAWMESH_TASK_ID $CLAWMESH_FENCE\" >> '{log}'; sleep 0.05; echo \"$CLAWMESH_FENCE\""));
        let mut open: Vec<String> = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let n = dice.range(1, 3);
            match submit(node, &vec![task.clone(); n as usize]) {
                Ok((ids, refused)) => {
                    let mut h = self.history();
                    h.refused += refused;
                    h.acked.extend(ids.iter().map(|id| (id.clone(), i)));
                    open.extend(ids);
                }
                Err(_) => self.history().unanswered += n,
            }
            let ended = self.ask(i, node, &open, Duration::from_millis(50), false).unwrap_or_default();
            open.retain(|id| !ended.contains(id));
            // A user's pace, not a wait for anything.
            thread::sleep(Duration::from_millis(dice.range(PAUSE_MS.0, PAUSE_MS.1)));
        }
    }
    /// Asks the node how these tasks ended, and notes what it says; returns those that have.
    fn ask(&self, i: usize, node: &Node, ids: &[String], patience: Duration, healed: bool) -> Result<BTreeSet<String>, String> {
        let some: Vec<&String> = ids.iter().take(ASK_MAX).collect();
        if some.is_empty() {
            return Ok(BTreeSet::new());
        }
        let ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let body = json!({ "ids": some, "min": 1, "timeout_ms": ms, "output": true });
        let answer = node.api_within(patience + SUBMIT_MAX, "POST", "/api/v1/tasks/wait", Some(&body))?;
        if answer.status != 200 {
            return Err(answer.body);
        }
        let mut done = BTreeSet::new();
        for end in answer.json()["ended"].as_array().into_iter().flatten() {
            let Some(stdout) = end["output"]["stdout"].as_str() else {
                // The output is on its way, or the answer was full: the next question brings it.
                continue;
            };
            let id = end["asked"].as_str().unwrap_or_default().to_owned();
            let state = end["state"].as_str().unwrap_or_default().to_owned();
            let end = Ended { state, exit: end["exit_code"].as_i64(), stdout: stdout.to_owned() };
            self.history().told.push(Told { by: i, id: id.clone(), end, healed });
            done.insert(id);
        }
        Ok(done)
    }
    /// After the heal: asks the origin of each task, and one other node, how it ended.
    fn ends(&self) {
        let acked = self.history().acked.clone();
        let nodes = self.mesh.nodes();
        for (i, node) in nodes.iter().enumerate() {
            let asked = |through: usize| through == i || (through + 1) % nodes.len() == i;
            let mut open: Vec<String> = acked.iter().filter(|(_, t)| asked(**t)).map(|(id, _)| id.clone()).collect();
            // Some hundred answers per second: after a long storm there are tens of thousands of tasks.
            let limit = AGES + Duration::from_millis(20 * open.len() as u64);
            wait_until(&format!("{} knows how all tasks ended", node.name()), limit, || {
                let ended = self.ask(i, node, &open, Duration::from_secs(1), true)?;
                open.retain(|id| !ended.contains(id));
                match open.first() {
                    None => Ok(()),
                    Some(id) => {
                        Err(format!("{} are open, the first is {:?}", open.len(), node.get(&format!("/api/v1/tasks/{id}/explain"))))
                    }
                }
            });
        }
    }
    /// The nodes' states, when they are at rest.
    fn rest(&self) -> Result<Vec<Value>, String> {
        let nodes: Vec<Value> = self.mesh.nodes().iter().map(Node::status).collect::<Result<_, _>>()?;
        converged(&nodes)?;
        match nodes.iter().find(|s| s["outbox"] != 0) {
            Some(s) => Err(format!("{} has {} tasks without a result in its outbox", s["name"], s["outbox"])),
            None => Ok(nodes),
        }
    }
}

fn highest(nodes: &[Value]) -> u64 {
    nodes.iter().filter_map(|s| s["epoch"].as_u64()).max().unwrap_or(0)
}

/// Ids of those that were acknowledged, and how many were refused.
fn submit(node: &Node, tasks: &[Task]) -> Result<(Vec<String>, u64), String> {
    let answer = node.api_within(SUBMIT_MAX, "POST", "/api/v1/tasks", Some(&Task::list(tasks)))?;
    if answer.status != 200 {
        return Err(answer.body);
    }
    let answer = answer.json();
    let entries = answer["tasks"].as_array().cloned().unwrap_or_default();
    let ids: Vec<String> = entries.iter().filter_map(|e| Some(e["id"].as_str()?.to_owned())).collect();
    let refused = (entries.len() - ids.len()) as u64;
    Ok((ids, refused))
}

/// Set when dropped.
struct Flag<'a>(&'a AtomicBool);

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
