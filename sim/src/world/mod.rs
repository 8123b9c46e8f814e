//! The virtual world: N nodes that run the shipped core, their network, disks, processes and users, in
//! virtual time, from one seed.

mod disk;
mod faults;
mod load;
mod measure;
mod net;
mod node;
mod rest;
mod trace;
mod versions;
mod voters;
mod work;

pub(crate) use measure::of_election;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

use clawmesh_protocol::{
    config::PROTO,
    ids::{Attempt, Hash, Peer, TaskId, Ver},
    io::{Input, Source},
    message::Gossip,
    quorum::MeshConfig,
    spec::{OnSplit, Work},
};

use crate::{
    check,
    core::Mesh,
    oracle::{Disks, Due, Entry, Fact, Known, NodeEnd, Quiet},
    plan::{Fixed, Plan, Strike},
    rng::Dice,
};

/// Virtual time at which every world starts, ms.
const START_MS: u64 = 1_000;
/// Wall clock at virtual 0.
const WALL_MS: u64 = 1_700_000_000_000;
/// Steps in a run before it counts as a livelock: no run of this size needs a tenth of it.
const STEPS_MAX: u64 = 6_000_000;
/// A mesh that still ends tasks is not at rest: it gets so much more time after each, ms ...
const PROGRESS_MS: u64 = 60_000;
/// ... but not for ever.
const OVERTIME_MS: u64 = 1_800_000;
/// A store that is older than its side file's mark was put aside at the start (D3).
const FOUND_OLDER: &str = "lying: a store was found older than its mark (D3)";
/// With one of these, what a lying disk did is not silent.
const ALARMS: [&str; 4] =
    [FOUND_OLDER, "alarm: equal_version_other_bytes", "alarm: regressing_write", "sometimes: a second outcome was suppressed"];
/// How often the end condition is looked at, ms.
const LOOK_MS: u64 = 500;

/// Something that happens later.
enum What {
    Tick { node: usize, life: u64, at: u64 },
    Give { node: usize, life: u64, input: Box<Input> },
    Packet { pair: usize, side: usize },
    Watch { pair: usize, side: usize, token: u64, close: bool },
    Dial { pair: usize },
    Gossip { node: usize, life: u64, from: Peer, gossip: Arc<Gossip> },
    Fsync { node: usize, life: u64, upto: u64 },
    Exit { node: usize, life: u64, id: TaskId, attempt: Attempt, killed: bool },
    Fetched { node: usize, life: u64, hash: Hash, len: u64, from: Vec<Source> },
    Boot { node: usize },
    Crash { node: usize, life: u64, power: bool },
    Fault(Strike),
    Undo(faults::Undo),
    Command,
    Operate,
    Look,
    Nap,
}

/// Counts what is said, when somebody asks.
#[derive(Default)]
pub(super) struct Meter {
    /// Messages of elections, by name.
    pub(super) messages: BTreeMap<&'static str, u64>,
    /// Encoded bytes of everything, once per receiver.
    pub(super) bytes: u64,
}

/// The streams of chance, one per concern.
struct Chance {
    net: Dice,
    disk: Dice,
    fault: Dice,
    load: Dice,
    work: Dice,
    core: Dice,
    voters: Dice,
    agents: Dice,
    versions: Dice,
}

/// What a run found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What was violated and how; none when all is well.
    pub violation: Option<Violation>,
    /// Hash of everything that happened, in order (I18).
    pub hash: String,
    /// Virtual ms that passed.
    pub virtual_ms: u64,
    /// Of these, quiet ones that were passed over.
    pub skipped_ms: u64,
    /// Inputs handed to cores.
    pub steps: u64,
    /// Faults injected.
    pub faults: u64,
    /// Tasks acknowledged.
    pub acked: u64,
    /// How the accepted tasks ended, by the users' word, and who coordinates in the end.
    pub ends: BTreeMap<String, u64>,
    /// How often each thing was seen.
    pub seen: BTreeMap<String, u64>,
}

/// A broken promise.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// The invariant: `I1` to `I20`, or `core`, `panic`, `livelock`.
    pub rule: String,
    /// Virtual ms.
    pub at: u64,
    /// The node's letter.
    pub node: String,
    /// What happened.
    pub why: String,
}

/// One world.
pub(crate) struct World {
    seed: u64,
    plan: Plan,
    now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), What>,
    chance: Chance,
    nodes: Vec<node::Node>,
    pairs: Vec<net::Pair>,
    disks: Disks,
    checks: Vec<Box<dyn check::Check>>,
    violation: Option<Violation>,
    /// A wrong answer among disks that lie, which is allowed when somebody noticed.
    suspicion: Option<Violation>,
    known: Known,
    hash: blake3::Hasher,
    trace: Option<Box<dyn Write + Send>>,
    seen: BTreeMap<String, u64>,
    steps: u64,
    faults: u64,
    slow: u64,
    storm_ends: u64,
    calm: bool,
    done: bool,
    looks: u32,
    /// When the last task ended.
    progress: u64,
    /// When something happened last that a mesh at rest does not do.
    stirred: u64,
    skipped: u64,
    /// How long the fault lasts that strikes now, when its plan says so, ms.
    lasts: Option<u64>,
    destroyed: usize,
    load: load::Load,
    works: BTreeMap<Hash, Work>,
    /// What a hostile relay has kept: pair, side, envelope.
    kept: Option<(usize, usize, clawmesh_protocol::relay::Relay)>,
    meter: Option<Meter>,
    /// Sets of voters that some disk has, oldest first.
    sets: Vec<Arc<MeshConfig>>,
}

impl World {
    /// The world of a seed; `trace` gets a line for everything that happens.
    pub(crate) fn new(seed: u64, fixed: &Fixed, trace: Option<Box<dyn Write + Send>>) -> Self {
        let plan = Plan::draw(seed, fixed);
        let mut chance = Chance {
            net: Dice::split(seed, "net"),
            disk: Dice::split(seed, "disk"),
            fault: Dice::split(seed, "fault"),
            load: Dice::split(seed, "load"),
            work: Dice::split(seed, "work"),
            core: Dice::split(seed, "core"),
            voters: Dice::split(seed, "voters"),
            agents: Dice::split(seed, "agents"),
            versions: Dice::split(seed, "which version"),
        };
        let mut nodes: Vec<node::Node> = (0..plan.nodes).map(|n| node::Node::new(n, &plan, &mut chance.core)).collect();
        if plan.mixed {
            nodes.iter_mut().filter(|_| chance.versions.percent(60)).for_each(|n| n.installed = PROTO - 1);
        }
        let peers: Vec<Peer> = nodes.iter().map(|n| n.cfg.peer).collect();
        let pairs = net::Pair::all(plan.nodes);
        let mut w = Self {
            seed,
            now: START_MS,
            order: 0,
            queue: BTreeMap::new(),
            chance,
            nodes,
            pairs,
            disks: Disks::new(peers),
            checks: if plan.lying { check::among_liars() } else { check::all(plan.copies, plan.timing) },
            violation: None,
            suspicion: None,
            known: Known::new(),
            hash: blake3::Hasher::new(),
            trace,
            seen: BTreeMap::new(),
            steps: 0,
            faults: 0,
            slow: 1,
            storm_ends: START_MS + plan.storm_ms,
            calm: false,
            done: false,
            looks: 0,
            progress: 0,
            stirred: 0,
            skipped: 0,
            lasts: None,
            destroyed: 0,
            load: load::Load::default(),
            works: BTreeMap::new(),
            kept: None,
            meter: None,
            sets: Vec::new(),
            plan,
        };
        if w.plan.lying {
            let mut d = Dice::split(seed, "liars");
            w.nodes.iter_mut().for_each(|n| {
                if d.percent(50) {
                    n.lie();
                }
            });
        }
        w.open();
        w
    }

    fn open(&mut self) {
        let line = self.plan.line();
        self.say(|| line);
        for n in 0..self.nodes.len() {
            let late = n > 0 && self.chance.fault.percent(self.plan.late);
            let delay = if late { self.chance.fault.range(1_000, self.plan.storm_ms) } else { self.chance.fault.range(0, 200) };
            self.after(delay, What::Boot { node: n });
        }
        for s in self.plan.strikes.clone() {
            self.after(s.at, What::Fault(s));
        }
        if self.plan.leaps {
            self.after(0, What::Nap);
        }
        for at in self.plan.deeds.clone() {
            self.after(at, What::Command);
        }
        if self.plan.tasks > 0 && self.plan.deeds.is_empty() {
            self.after(200, What::Command);
        }
        if let Some(every) = self.plan.voters_every_ms {
            let first = self.chance.voters.range(500, every.min(6_000));
            self.after(first, What::Operate);
        }
        self.after(self.plan.storm_ms, What::Look);
    }

    /// Runs to the end and reports.
    pub(crate) fn run(mut self) -> Report {
        while !self.done && self.violation.is_none() {
            let Some(((at, _), what)) = self.queue.pop_first() else { break };
            self.now = self.now.max(at);
            self.happen(what);
            let most = STEPS_MAX * (1 + self.plan.days) * (1 + self.nodes.len() as u64 / 50);
            if self.steps > most {
                self.complain("livelock", 0, format!("{most} steps were not enough"));
            }
        }
        for node in 0..self.nodes.len() {
            self.count_rules(node);
        }
        self.judge_liars();
        let ends = self.ends();
        let counts: Vec<u8> = self.seen.iter().flat_map(|(k, v)| k.bytes().chain(v.to_le_bytes())).collect();
        self.hash.update(&counts);
        Report {
            seed: self.seed,
            violation: self.violation,
            hash: self.hash.finalize().to_hex()[..16].to_owned(),
            virtual_ms: self.now - START_MS,
            skipped_ms: self.skipped,
            steps: self.steps,
            faults: self.faults,
            acked: self.load.acked() as u64,
            ends,
            seen: self.seen,
        }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Tick { node, life, at } => self.tick(node, life, at),
            What::Give { node, life, input } => self.give_if(node, life, *input),
            What::Packet { pair, side } => self.arrive(pair, side),
            What::Watch { pair, side, token, close } => self.watched(pair, side, token, close),
            What::Dial { pair } => self.dial(pair),
            // Gossip does not wait.
            What::Gossip { node, .. } if self.nodes[node].deaf => {}
            What::Gossip { node, life, from, gossip } => self.give_if(node, life, Input::Gossip(from, (*gossip).clone())),
            What::Fsync { node, life, upto } => self.fsynced(node, life, upto),
            What::Exit { node, life, id, attempt, killed } => self.exited(node, life, id, attempt, killed),
            What::Fetched { node, life, hash, len, from } => self.fetched(node, life, hash, len, &from),
            What::Boot { node } => self.boot(node),
            What::Crash { node, life, power } => {
                if self.nodes[node].life == life && self.nodes[node].core.is_some() {
                    self.crash(node, power);
                    self.come_back(node, 100, 8_000);
                }
            }
            What::Fault(s) => self.strike(&s),
            What::Undo(u) => self.undo(u),
            What::Command => self.command(),
            What::Operate => self.operate(),
            What::Look => self.look(),
            What::Nap => self.nap(),
        }
    }

    fn after(&mut self, delay: u64, what: What) {
        self.order += 1;
        self.queue.insert((self.now + delay, self.order), what);
    }

    fn see(&mut self, node: usize, fact: Fact) {
        let e = Entry { at: self.now, node, fact };
        self.disks.see(&e);
        if self.violation.is_some() {
            return;
        }
        let mut found = None;
        for c in &mut self.checks {
            if let Err(why) = c.see(&e, &self.disks) {
                found = Some((c.name(), why));
                break;
            }
        }
        if let Some((rule, why)) = found {
            self.complain(rule, node, why);
        }
    }

    fn complain(&mut self, rule: &str, node: usize, why: String) {
        let letter = self.nodes.get(node).map_or_else(String::new, |n| n.cfg.name.clone());
        let why = self.letters(&why);
        self.say(|| format!("VIOLATION {rule} at {letter}: {why}"));
        let v = Violation { rule: rule.to_owned(), at: self.now - START_MS, node: letter, why };
        // Who lost a majority of its voters' stores has to wait for its operator (C3).
        let forgiven = rule == "I6" || (rule == "I14" && self.plan.voters_every_ms.is_some());
        if self.plan.lying && (forgiven || rule == "I8") {
            self.count(&format!("lying: {rule} is broken"));
            if forgiven {
                self.suspicion.get_or_insert(v);
            }
        } else {
            self.violation.get_or_insert(v);
        }
    }

    /// Among disks that lie a wrong answer is forgiven, a silent one is not.
    fn judge_liars(&mut self) {
        if self.plan.lying && self.suspicion.is_none() {
            self.compare_bytes();
        }
        let noticed = ALARMS.iter().any(|a| self.seen.contains_key(*a));
        if let Some(v) = self.suspicion.take().filter(|_| !noticed && self.violation.is_none()) {
            self.violation = Some(Violation { rule: format!("silent {}", v.rule), ..v });
        }
    }

    fn count(&mut self, what: &str) {
        self.count_many(what, 1);
    }

    fn count_many(&mut self, what: &str, n: u64) {
        match self.seen.get_mut(what) {
            Some(old) => *old += n,
            None => {
                self.seen.insert(what.to_owned(), n);
            }
        }
    }

    /// Takes down which rules fired in the life of a node that ends.
    fn count_rules(&mut self, node: usize) {
        let Some(c) = &self.nodes[node].core else { return };
        let fired: Vec<_> = c.mesh.fired().iter().filter(|(_, n)| *n > 0).collect();
        for (rule, n) in fired {
            self.count_many(&format!("rule: {rule:?}"), n);
        }
    }

    /// Ends the storm when its time is over, and the run when the mesh is at rest or time is up.
    fn look(&mut self) {
        if !self.calm {
            self.heal();
        }
        self.recompute_digests();
        self.finish_upgrade();
        let q = self.quiet();
        let e = Entry { at: self.now, node: 0, fact: Fact::Quiet(Arc::new(q)) };
        let helpless = matches!(&e.fact, Fact::Quiet(q) if q.helpless);
        let back = self.nodes.iter().all(|n| n.core.is_some() || n.gone);
        let rest = back && self.checks.iter_mut().all(|c| c.see(&e, &self.disks).is_ok());
        self.looks = if rest { self.looks + 1 } else { 0 };
        if self.looks >= self.plan.looks {
            self.done = true;
            self.unknown_kept();
            self.count(if helpless { "end: too many voters were lost" } else { "end: at rest" });
        } else if self.now > (self.storm_ends + self.plan.peace_ms).max((self.progress + PROGRESS_MS).min(self.storm_ends + OVERTIME_MS)) {
            self.done = true;
            self.say_differences();
            self.see(0, e.fact);
        } else {
            self.after(LOOK_MS, What::Look);
        }
    }

    /// I8 where disks lie: versions may have been written twice, but two contents are not left in the end.
    fn compare_bytes(&mut self) {
        let mut first: BTreeMap<(TaskId, Ver), &[u8]> = BTreeMap::new();
        let mut differ = None;
        for (n, c) in self.nodes.iter().enumerate().filter_map(|(n, x)| x.core.as_ref().map(|c| (n, c))) {
            for r in c.mesh.records() {
                let Some(bytes) = c.mesh.record_bytes(&r.id) else { continue };
                if *first.entry((r.id, r.ver)).or_insert(bytes) != bytes {
                    differ = Some((n, r.id, r.ver));
                }
            }
        }
        if let Some((n, id, ver)) = differ {
            let (why, node) = (self.letters(&format!("{id:?} at {ver:?} has two contents in the end")), self.nodes[n].cfg.name.clone());
            self.suspicion = Some(Violation { rule: "I8".into(), at: self.now - START_MS, node, why });
        }
    }

    /// How the tasks ended by the table of who coordinates, and who that is.
    fn ends(&self) -> BTreeMap<String, u64> {
        let mut ends = BTreeMap::new();
        for n in self.serving() {
            *ends.entry(format!("coordinator {}", self.nodes[n].cfg.name)).or_default() += 1;
            for r in self.nodes[n].core.iter().flat_map(|c| c.mesh.records()) {
                let end = r.outcome.as_ref().map_or("open", |o| o.end.word());
                *ends.entry(end.to_owned()).or_default() += 1;
            }
        }
        ends
    }

    /// The core's slow self-check, at the end only.
    fn recompute_digests(&mut self) {
        for n in self.alive() {
            if let Some(Err(why)) = self.nodes[n].core.as_ref().map(|c| c.mesh.check_table()) {
                self.complain("core", n, why);
            }
        }
    }

    fn quiet(&self) -> Quiet {
        let live: Vec<(usize, &Mesh)> = self.nodes.iter().enumerate().filter_map(|(i, n)| n.core.as_ref().map(|c| (i, &c.mesh))).collect();
        let mut q = Quiet { replicas: self.plan.replicas, ..Quiet::default() };
        let mut table = None;
        for (node, mesh) in &live {
            let p = mesh.probe();
            if p.serving {
                table = Some(*mesh);
            }
            q.nodes.push(NodeEnd {
                node: *node,
                epoch: p.epoch,
                leader: p.leader,
                serving: p.serving,
                root: p.root,
                count: p.count,
                outbox_open: p.outbox_open,
                backlog: mesh.backlog(),
            });
        }
        q.helpless = self.no_majority_left();
        if let Some(v) = table.and_then(Mesh::quorum_view) {
            q.replicas = self.full_tables(&v);
        }
        if let Some(m) = table {
            q.table = m.records().map(|r| (r.id, Arc::new(r.clone()))).collect();
        }
        if !q.helpless {
            q.due = self.load.tasks.iter().map(|(id, t)| self.due(*id, t)).collect();
        }
        // Where nobody may serve, requests wait until their people give up.
        q.unanswered = if q.helpless { Vec::new() } else { self.unanswered() };
        q
    }

    fn due(&self, id: TaskId, t: &load::Task) -> Due {
        let lives = |n: &usize| self.nodes.get(*n).is_some_and(|n| n.core.is_some() && n.store == id.origin.store);
        Due {
            id,
            able: !self.held_for_good(t)
                && self.has_input(t)
                && self.nodes.iter().enumerate().any(|(i, n)| n.core.is_some() && n.able(&t.need) && !self.is_witness(i))
                || t.need.queue_timeout_ms + t.need.total_timeout_ms > 0,
            origin: self.disks.node(id.origin.peer).filter(lives),
        }
    }

    /// It never runs on the smaller side of a split (S7), and the rest of the mesh may have burnt down.
    fn held_for_good(&self, t: &load::Task) -> bool {
        t.need.on_split == Some(OnSplit::Never) && self.nodes.iter().any(|n| n.gone)
    }

    /// The task's input is on some disk that is left; a loss that was allowed leaves nothing to run.
    fn has_input(&self, t: &load::Task) -> bool {
        t.input.is_none_or(|h| self.nodes.iter().any(|n| !n.gone && n.blobs.contains(&h)))
    }

    /// Peers that can be named, as node numbers.
    fn node_of(&self, peer: Peer) -> Option<usize> {
        self.disks.node(peer)
    }

    /// Nodes whose process runs.
    fn alive(&self) -> Vec<usize> {
        self.nodes.iter().enumerate().filter(|(_, n)| n.core.is_some()).map(|(i, _)| i).collect()
    }

    /// Nodes that serve now, by their own word.
    fn serving(&self) -> BTreeSet<usize> {
        self.nodes.iter().enumerate().filter(|(_, n)| n.core.as_ref().is_some_and(|c| c.probe.serving)).map(|(i, _)| i).collect()
    }
}
