//! One node: its process with the core in it, its disk, and what crosses the border between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use clawmesh_protocol::{
    config::{BACKOFF_MAX_MS, Config, PROTO_PROMPTS, WAKE_MAX_MS},
    face::{Facts, Reply},
    gate::Gate,
    ids::{Attempt, Hash, Peer, TaskId},
    io::{Event, Input, Output, Recovered},
    message::Message,
    record::End,
    skill::{Catalogue, SkillInfo},
    spec::{Kind, Need},
    time::Now,
};

use super::{WALL_MS, What, World, disk::Store, net, versions};
use crate::{
    core::{Mesh, Probe},
    oracle::Fact,
    plan::{Fault, Plan},
    rng::Dice,
};

/// A wall clock jumps within this from the right time, ms.
pub(super) const JUMP_MS: u64 = 3_600_000;
/// A clock that is right, in parts per million.
const DRIFT_ZERO: u64 = 1_000_000;
/// The core's own checks run after every so many steps.
const CHECK_EVERY: u64 = 16;
/// Skills that exist in the world; each node offers some.
pub(super) const SKILLS: [&str; 4] = ["alpha", "beta", "gamma", "delta"];

/// A machine with a disk, and perhaps a running process.
pub(super) struct Node {
    pub(super) cfg: Config,
    pub(super) skills: Catalogue,
    /// Counts processes: what was meant for an earlier one is dropped.
    pub(super) life: u64,
    pub(super) core: Option<Core>,
    pub(super) paused: bool,
    /// What is sent to it waits.
    pub(super) deaf: bool,
    inbox: VecDeque<Input>,
    /// Down without a word (power); a dial gets no answer.
    pub(super) dark: bool,
    /// Its disk is destroyed and it won't return.
    pub(super) gone: bool,
    pub(super) store: u64,
    boot: u64,
    pub(super) disk: Store,
    pub(super) blobs: BTreeSet<Hash>,
    pub(super) procs: BTreeMap<(TaskId, Attempt), (End, u64)>,
    pub(super) leaving: bool,
    /// Effects until it dies.
    pub(super) fuse: Option<u64>,
    /// Deaths soon after a start that are still to come.
    pub(super) loops: u32,
    /// It handles a `Release`.
    pub(super) releasing: bool,
    /// It handles everything late until then, ms.
    pub(super) slow_until: u64,
    /// Its wall clock, ms before or after [`WALL_MS`].
    pub(super) skew: u64,
    /// Its clocks' error, parts per million; above and below [`DRIFT_ZERO`].
    drift: u64,
    booting: bool,
    /// How long it stays away after its next end, ms.
    pub(super) away: Option<u64>,
    /// Whom it reaches through another (E11).
    relayed: BTreeSet<Peer>,
    /// What it is made to do against its will, until then, ms.
    pub(super) bug: Option<(Fault, u64)>,
    /// The protocol of the version that its next process is of (V3).
    pub(super) installed: u32,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// In order: what it has sent is on its way.
    Exit,
    /// Killed: its host resets the connections.
    Kill,
    /// With its machine: nobody is told.
    Power,
}

/// A running process.
pub(super) struct Core {
    pub(super) mesh: Mesh,
    gate: Gate,
    zero: u64,
    /// When the core wants to be woken.
    wake: Option<u64>,
    /// When it will be.
    pub(super) tick: Option<u64>,
    last_batch: u64,
    pub(super) probe: Probe,
}

fn agent_slots(proto: u32) -> u32 {
    u32::from(proto >= PROTO_PROMPTS)
}

fn letter(n: usize) -> String {
    let c = char::from(b'A' + (n % 26) as u8);
    if n < 26 { c.to_string() } else { format!("{c}{}", n / 26) }
}

impl Node {
    pub(super) fn new(n: usize, plan: &Plan, dice: &mut Dice) -> Self {
        let mut key = [0; 32];
        key.chunks_mut(8).for_each(|c| c.copy_from_slice(&dice.bits().to_le_bytes()));
        let skills = SKILLS.iter().filter(|_| dice.percent(60)).map(|s| SkillInfo {
            name: (*s).to_owned(),
            hash: format!("h-{s}"),
            runnable: true,
            ..SkillInfo::default()
        });
        let mut skills = Catalogue { skills: skills.collect(), ..Catalogue::empty() };
        skills.skills.sort_by(|a, b| a.name.cmp(&b.name));
        let cfg = Config {
            peer: Peer(key),
            name: letter(n),
            prio: if dice.percent(50) { 100 } else { dice.range(1, 5) as u32 * 50 },
            can_lead: n == 0 || !dice.percent(8),
            slots: dice.range(1, 6) as u32,
            agent_slots: agent_slots(plan.proto),
            commands: n == 0 || !dice.percent(10),
            labels: if dice.percent(30) { vec!["gpu".into()] } else { Vec::new() },
            lost_after_ms: plan.lost_after_ms,
            version: "sim".into(),
            replicas: plan.replicas,
            copies: plan.copies,
            tune: plan.tune,
            proto: plan.proto,
            timing: plan.timing,
        };
        Self {
            cfg,
            skills,
            life: 0,
            core: None,
            paused: false,
            deaf: false,
            inbox: VecDeque::new(),
            dark: false,
            gone: false,
            store: dice.bits(),
            boot: 0,
            disk: Store { fresh: true, ..Store::default() },
            blobs: BTreeSet::new(),
            procs: BTreeMap::new(),
            leaving: false,
            fuse: None,
            loops: 0,
            releasing: false,
            slow_until: 0,
            drift: DRIFT_ZERO + dice.range(0, 2 * plan.drift_ppm) - plan.drift_ppm,
            skew: dice.range(0, plan.skew_ms),
            booting: false,
            away: None,
            relayed: BTreeSet::new(),
            bug: None,
            installed: plan.proto,
        }
    }

    /// Its disk lies from now on.
    pub(super) fn lie(&mut self) {
        self.disk.lies = Some(VecDeque::new());
    }

    /// A boot that is far off is brought forward.
    pub(super) fn booting_now(&mut self) {
        self.booting = false;
    }

    /// What its clock says at this time of the world, and the other way round.
    pub(super) fn local(&self, ms: u64) -> u64 {
        (u128::from(ms) * u128::from(self.drift) / u128::from(DRIFT_ZERO)) as u64
    }
    pub(super) fn world(&self, ms: u64) -> u64 {
        (u128::from(ms) * u128::from(DRIFT_ZERO)).div_ceil(u128::from(self.drift)) as u64
    }

    /// It could run this task if it had room.
    pub(super) fn able(&self, need: &Need) -> bool {
        let kind = match need.kind {
            Kind::Command => self.cfg.commands,
            Kind::Skill => self.skills.skills.iter().any(|s| s.name == need.skill),
            Kind::Builtin => true,
            Kind::Prompt => self.cfg.agent_slots > 0 && (need.skill.is_empty() || self.skills.skills.iter().any(|s| s.name == need.skill)),
        };
        kind && need.pin.is_none_or(|p| p == self.cfg.peer) && need.labels.iter().all(|l| self.cfg.labels.contains(l))
    }
}

impl World {
    pub(super) fn now_at(&self, node: usize) -> Now {
        let n = &self.nodes[node];
        let zero = n.core.as_ref().map_or(0, |c| c.zero);
        Now { ms: n.local(self.now) - zero, wall_ms: WALL_MS + n.local(self.now) + n.skew }
    }

    /// Starts a node's process on what its disk holds.
    pub(super) fn boot(&mut self, node: usize) {
        let may_lose = self.may_lose(node);
        let n = &mut self.nodes[node];
        n.booting = false;
        if n.core.is_some() || n.gone {
            return;
        }
        n.life += 1;
        n.boot += 1;
        n.dark = false;
        n.leaving = false;
        (n.cfg.proto, n.cfg.agent_slots) = (n.installed, agent_slots(n.installed));
        n.disk.busy = false;
        n.disk.bad = false;
        n.disk.durable = 0;
        let fresh = std::mem::take(&mut n.disk.fresh);
        let older = !fresh && n.disk.lies.is_some() && !n.disk.new_enough();
        let quarantined = older || (!fresh && self.plan.quarantine && self.chance.disk.percent(10) && may_lose);
        if quarantined {
            n.store = self.chance.disk.bits();
        }
        let recovered = Recovered {
            entries: n.disk.entries.iter().map(|(k, v)| (k.clone(), versions::entry(n.installed, k, v))).collect(),
            side: n.disk.side.clone(),
            store: n.store,
            boot: n.boot,
            quarantined,
            blobs: n.blobs.clone(),
        };
        let (store, boot) = (n.store, n.boot);
        // The zero of a boot's clock is arbitrary.
        let zero = self.chance.core.range(0, super::START_MS / 2);
        let seed = self.chance.core.bits();
        let now = Now { ms: n.local(self.now) - zero, wall_ms: WALL_MS + n.local(self.now) + n.skew };
        let mut out = Vec::new();
        let mesh = Mesh::new(n.cfg.clone(), recovered, now, seed, &mut out);
        if mesh.unreadable() > 0 {
            // As the driver: it does not go on with a store that a newer version has written.
            return self.refuse_to_start(node, fresh);
        }
        // Differs from any real one, so that the first look is reported.
        let probe = Probe { count: usize::MAX, epoch: Some(Default::default()), ..mesh.probe() };
        n.core = Some(Core { mesh, gate: Gate::default(), zero, wake: None, tick: None, last_batch: 0, probe });
        let name = n.cfg.name.clone();
        self.say(|| format!("{name} BOOT {boot}{}", if quarantined { " (quarantined)" } else { "" }));
        if older {
            self.count(super::FOUND_OLDER);
        }
        self.see(node, Fact::Boot { store, boot, fresh });
        self.progress = self.progress.max(self.now);
        self.number(node, &out);
        self.look_inside(node);
        self.pass(node, out);
        let skills = self.nodes[node].skills.clone();
        self.give(node, Input::Skills(skills));
        if self.nodes[node].cfg.agent_slots > 0 {
            self.give(node, Input::Agent("sim".into()));
        }
        let facts =
            Facts { host: self.nodes[node].cfg.name.clone(), cpus: 8, memory_mib: 16_000, memory_free_mib: 8_000, ..Facts::default() };
        self.give(node, Input::Facts(facts));
        self.links_start(node);
        if self.nodes[node].loops > 0 && !self.calm {
            self.nodes[node].loops -= 1;
            let (wait, life) = (self.chance.fault.range(20, 1_500), self.nodes[node].life);
            self.after(wait, What::Crash { node, life, power: false });
        }
    }

    /// The process ends at once.
    pub(super) fn crash(&mut self, node: usize, power: bool) {
        self.end_process(node, if power { Ending::Power } else { Ending::Kill });
    }

    /// The process ends.  Of what its disk had not confirmed, a prefix is there.
    fn end_process(&mut self, node: usize, how: Ending) {
        let power = how == Ending::Power;
        self.count_rules(node);
        let n = &mut self.nodes[node];
        if n.core.take().is_none() {
            return;
        }
        let kept = if n.disk.bad { 0 } else { self.chance.disk.below(n.disk.queue.len() + 1) };
        let upto = kept.checked_sub(1).and_then(|i| n.disk.queue.get(i)).map_or(n.disk.durable, |b| b.no);
        n.disk.commit(upto);
        n.disk.queue.clear();
        if let Some(cached) = n.disk.lies.as_ref().map(VecDeque::len).filter(|_| power) {
            let lost = self.chance.disk.below(cached + 1);
            let sides = if self.chance.disk.percent(50) { lost } else { self.chance.disk.below(cached + 1) };
            n.disk.lose(lost, sides);
            self.count("lying: a disk lost what it had confirmed");
            self.say(|| format!("LOST {lost} confirmed batches, {sides} of the side file"));
        }
        let n = &mut self.nodes[node];
        n.life += 1;
        n.inbox.clear();
        n.relayed.clear();
        n.procs.clear();
        n.paused = false;
        n.deaf = false;
        n.fuse = None;
        n.dark = power;
        let name = n.cfg.name.clone();
        self.say(|| format!("{name} CRASH{} (disk holds #{upto})", if power { " (power)" } else { "" }));
        self.see(node, Fact::Deaf(false));
        self.see(node, Fact::Down(upto));
        self.forget_users(node);
        self.links_down(node, how);
    }

    pub(super) fn come_back(&mut self, node: usize, lo: u64, hi: u64) {
        let n = &mut self.nodes[node];
        if !n.booting && !n.gone {
            n.booting = true;
            let away = n.away.take();
            let drawn = self.chance.fault.range(lo, hi);
            let d = away.unwrap_or(drawn);
            self.after(d, What::Boot { node });
        }
    }

    /// The machine burns down.  It does not come back: a new machine has a new key.
    pub(super) fn destroy(&mut self, node: usize) {
        self.crash(node, true);
        self.nodes[node].gone = true;
        let name = self.nodes[node].cfg.name.clone();
        self.say(|| format!("{name} DESTROYED"));
        self.see(node, Fact::Destroyed);
    }

    pub(super) fn stop_process(&mut self, node: usize, on: bool) {
        if self.nodes[node].core.is_none() || self.nodes[node].paused == on {
            return;
        }
        self.nodes[node].paused = on;
        let name = self.nodes[node].cfg.name.clone();
        self.say(|| format!("{name} {}", if on { "STOPPED" } else { "CONTINUES" }));
        self.see(node, Fact::Paused(on));
        if !on {
            let inbox = std::mem::take(&mut self.nodes[node].inbox);
            let life = self.nodes[node].life;
            for input in inbox {
                self.give_if(node, life, input);
            }
            if let Some(c) = &mut self.nodes[node].core {
                // The timer went off meanwhile.
                c.tick = None;
            }
            self.keep_awake(node);
        }
        for (pair, _) in self.pairs_of(node) {
            self.refresh(pair);
        }
    }

    /// Nothing more comes in, or it all comes at once.
    pub(super) fn deafen(&mut self, node: usize, on: bool) {
        if self.nodes[node].core.is_none() || self.nodes[node].deaf == on {
            return;
        }
        self.nodes[node].deaf = on;
        let name = self.nodes[node].cfg.name.clone();
        self.say(|| format!("{name} {}", if on { "HEARS NOTHING" } else { "HEARS AGAIN" }));
        self.see(node, Fact::Deaf(on));
        if !on {
            for (pair, side) in self.pairs_of(node) {
                self.arrive(pair, 1 - side);
            }
        }
    }

    pub(super) fn give_if(&mut self, node: usize, life: u64, input: Input) {
        if self.nodes[node].life == life {
            self.give(node, input);
        }
    }

    /// Hands an input to a node's core, or keeps it for a stopped process.
    pub(super) fn give(&mut self, node: usize, input: Input) {
        let n = &mut self.nodes[node];
        if n.core.is_none() {
            return;
        }
        if n.paused {
            n.inbox.push_back(input);
            return;
        }
        self.step(node, input);
        let slow = self.nodes[node].slow_until > self.now;
        if !self.calm && (slow || self.plan.busy > 0) && self.chance.net.permille(if slow { 300 } else { self.plan.busy }) {
            self.stop_process(node, true);
            let (d, life) = (self.chance.net.range(1, if slow { 60 } else { 400 }), self.nodes[node].life);
            self.after(d, What::Undo(super::faults::Undo::Resume(node, life)));
        }
    }

    fn step(&mut self, node: usize, input: Input) {
        self.steps += 1;
        if !super::rest::at_rest(&input) {
            self.stirred = self.now;
        }
        self.say_input(node, &input);
        self.digest_input(node, &input);
        let now = self.now_at(node);
        if let Input::Persisted(no) = &input {
            let mut ready = Vec::new();
            if let Some(c) = &mut self.nodes[node].core {
                c.gate.persisted(*no, &mut ready);
            }
            self.apply(node, ready);
        }
        let carried = match &input {
            Input::Relayed(_, r) => r.message(),
            _ => None,
        };
        let relayed = carried.is_some();
        let told = match &input {
            Input::Message(_, m) => Some(m),
            _ => carried.as_ref(),
        };
        let kill = match told {
            Some(Message::Kill(k)) => Some((k.id, k.attempt)),
            _ => None,
        };
        let submit = relayed && matches!(told, Some(Message::Submit(_)));
        self.nodes[node].releasing = matches!(told, Some(Message::Release(_)));
        let Some(c) = &mut self.nodes[node].core else { return };
        let mut out = Vec::new();
        c.mesh.handle(now, input, &mut out);
        let broken = if self.steps.is_multiple_of(CHECK_EVERY) { c.mesh.check_invariants().err() } else { None };
        if let Some(why) = broken {
            self.complain("core", node, why);
        }
        self.number(node, &out);
        // One that comes from a deposed coordinator is refused, and counts for nothing.
        let taken = !relayed || out.iter().any(|o| matches!(o, Output::Event(Event::Relayed { what: "taken", .. })));
        if submit && taken {
            self.count("sometimes: a submit came through a relay");
        }
        let kill = kill.filter(|_| taken && !out.contains(&Output::Event(Event::Dropped("stale_kill"))));
        if let (Some((id, a)), Some(c)) = (kill, &self.nodes[node].core) {
            let no = c.last_batch;
            self.see(node, Fact::KillSeen(id, a, no));
        }
        self.look_inside(node);
        self.pass(node, out);
    }

    /// Batches are numbered without gaps.
    fn number(&mut self, node: usize, out: &[Output]) {
        for o in out {
            let (Output::Persist(b), Some(c)) = (o, &mut self.nodes[node].core) else { continue };
            let last = std::mem::replace(&mut c.last_batch, b.no);
            if b.no != last + 1 {
                self.complain("core", node, format!("batch {} follows batch {last}", b.no));
            }
        }
    }

    /// Reports the core's view when it changed.
    fn look_inside(&mut self, node: usize) {
        let Some(c) = &mut self.nodes[node].core else { return };
        let p = c.mesh.probe();
        if p == c.probe {
            return;
        }
        let changed = p.promised != c.probe.promised || p.serving != c.probe.serving || p.epoch != c.probe.epoch;
        c.probe = p;
        if changed {
            let serving = p.epoch.filter(|_| p.serving);
            self.see(node, Fact::Probe { promised: p.promised, serving });
            if self.serving().len() > 1 {
                self.count("sometimes: two coordinators at once");
            }
        }
    }

    fn pass(&mut self, node: usize, out: Vec<Output>) {
        let mut ready = Vec::new();
        let mut held = 0;
        if let Some(c) = &mut self.nodes[node].core {
            let before = c.gate.len();
            c.gate.pass(out, &mut ready);
            held = c.gate.len().saturating_sub(before);
        }
        if held > 0 {
            self.count_many("rule: D1", held as u64);
        }
        self.apply(node, ready);
        self.keep_awake(node);
    }

    fn apply(&mut self, node: usize, outputs: Vec<Output>) {
        let life = self.nodes[node].life;
        for o in outputs {
            if self.nodes[node].life != life || self.nodes[node].core.is_none() {
                return;
            }
            if let Some(f) = &mut self.nodes[node].fuse {
                *f = f.saturating_sub(1);
                if *f == 0 {
                    let power = self.chance.fault.percent(30);
                    self.crash(node, power);
                    return self.come_back(node, 50, 6_000);
                }
            }
            self.say_output(node, &o);
            self.effect(node, o);
        }
    }

    pub(super) fn effect(&mut self, node: usize, output: Output) {
        if super::rest::stirs(&output) {
            self.stirred = self.now;
        }
        match output {
            Output::Persist(b) => self.persist(node, b),
            Output::Send { to, msg, .. } => {
                self.hash.update(msg.name().as_bytes());
                self.note_sent(node, &msg);
                self.see(node, Fact::Sent(to, Arc::new(msg.clone())));
                self.send(node, to, msg);
            }
            Output::Relay { via, mut envelope, .. } => {
                envelope.sig = net::signature(&envelope);
                if let Some(inner) = envelope.message() {
                    self.hash.update(inner.name().as_bytes());
                    self.note_sent(node, &inner);
                    self.see(node, Fact::Sent(envelope.to, Arc::new(inner)));
                }
                let msg = Message::Relay(envelope);
                self.see(node, Fact::Sent(via, Arc::new(msg.clone())));
                self.send(node, via, msg);
            }
            Output::Publish { msg, .. } => self.publish(node, msg),
            Output::Start { job, .. } => self.start(node, job),
            Output::Kill(id, a) => self.kill(node, id, a),
            Output::Fetch(h, len, from) => self.fetch(node, h, len, from),
            // The world dials by itself: every pair of nodes has a link while none is cut.
            Output::Dial(..) => {}
            Output::DropBlob(h) => {
                self.nodes[node].blobs.remove(&h);
            }
            Output::Reply { req, reply, .. } => self.reply(node, req, reply),
            Output::Event(e) => {
                self.note_event(node, &e);
                self.note_relayed(node, &e);
                self.see(node, Fact::Event(e));
            }
            Output::WakeAt(ms) => {
                let zero = self.nodes[node].core.as_ref().map_or(0, |c| c.zero);
                let at = self.nodes[node].world(ms.saturating_add(zero));
                if let Some(c) = &mut self.nodes[node].core {
                    c.wake = Some(at);
                }
            }
        }
    }

    /// The driver sleeps until the time the core asked for last, and at most [`WAKE_MAX_MS`].
    pub(super) fn keep_awake(&mut self, node: usize) {
        let (now, life) = (self.now, self.nodes[node].life);
        let Some(c) = &mut self.nodes[node].core else { return };
        let at = c.wake.unwrap_or(u64::MAX).clamp(now + 1, now + WAKE_MAX_MS);
        if c.tick != Some(at) {
            c.tick = Some(at);
            self.after(at - now, What::Tick { node, life, at });
        }
    }

    pub(super) fn tick(&mut self, node: usize, life: u64, at: u64) {
        let n = &mut self.nodes[node];
        let Some(c) = &mut n.core else { return };
        if n.life == life && c.tick == Some(at) && !n.paused {
            c.tick = None;
            self.give(node, Input::Tick);
        }
    }

    /// Everything that comes in counts for the run's hash (I18).
    fn digest_input(&mut self, node: usize, input: &Input) {
        let kind = match input {
            Input::Tick => "tick",
            Input::Message(_, m) => m.name(),
            Input::Relayed(..) => "relayed",
            Input::Gossip(_, g) => g.name(),
            Input::Up(_) => "up",
            Input::Closed(_) => "closed",
            Input::Down(..) => "down",
            Input::Silent(_) => "silent",
            Input::Heard(_) => "heard",
            Input::Persisted(_) => "persisted",
            Input::StoreBad => "bad",
            Input::Full(_) => "full",
            Input::Blob(..) => "blob",
            Input::Command(..) => "command",
            Input::Exited(..) => "exited",
            Input::Facts(_) => "facts",
            Input::Skills(_) => "skills",
            Input::Agent(_) => "agent",
            Input::Addresses(_) => "addresses",
            Input::Notes(_) => "notes",
        };
        let head = [self.now, node as u64, self.steps];
        head.iter().for_each(|v| {
            self.hash.update(&v.to_le_bytes());
        });
        self.hash.update(kind.as_bytes());
    }

    fn note_sent(&mut self, node: usize, msg: &Message) {
        self.count(&format!("sent: {}", msg.name()));
        match msg {
            Message::PullResp(p) if !p.recs.is_empty() => self.count("sometimes: records were pulled at a takeover or join"),
            Message::Kill(_) => self.count("sometimes: a running attempt was killed"),
            Message::Claim(_) if self.nodes[node].core.as_ref().is_some_and(|c| c.probe.stable_seq > 0) => {
                self.count("sometimes: a claim by a node that had served");
            }
            _ => {}
        }
    }

    fn note_event(&mut self, _node: usize, e: &Event) {
        match e {
            Event::Decided(..) | Event::Accepted(..) | Event::Serving(_) => self.progress = self.progress.max(self.now),
            // What waits goes on when the hold is over (S7).
            Event::Member(_, "holds tasks back") => self.progress = self.progress.max(self.now + self.plan.timing.hold_ms),
            // The next attempt may be that far off.
            Event::AttemptEnded(_, _, End::Lost) => self.progress = self.now + BACKOFF_MAX_MS / 2,
            _ => {}
        }
        let line = match e {
            Event::Election { why } => format!("election: {why}"),
            Event::Claimed(_) => "event: claimed".into(),
            Event::Serving(_) => "event: serving".into(),
            Event::SteppedDown(_, why) => format!("stepped down: {why}"),
            Event::Following(_) => "event: following".into(),
            Event::Configured(_, n) => format!("voters: change {}", n.min(&9)),
            Event::Unseated(..) => "event: unseated".into(),
            Event::Joined(..) => "event: joined".into(),
            Event::Submitted(_) => "event: submitted".into(),
            Event::Stable { copies, .. } => format!("stable with {copies} copies"),
            Event::Acked(..) => "event: acked".into(),
            Event::Assigned(_, a, ..) if a.k > 1 => "sometimes: a second or later attempt".into(),
            Event::Assigned(..) => "event: assigned".into(),
            Event::AttemptEnded(_, _, end) => format!("attempt ended: {end}"),
            Event::Decided(_, end, _) => format!("decided: {end}"),
            Event::Accepted(_, end, _) => format!("accepted: {end}"),
            Event::SecondOutcome(_) => "sometimes: a second outcome was suppressed".into(),
            Event::Spawned(..) => "event: spawned".into(),
            Event::Alarm(w) => format!("alarm: {w}"),
            Event::Dropped(w) => format!("dropped: {w}"),
            Event::Relayed { what, .. } => format!("relay: {what}"),
            Event::Tilt(_) => "event: tilt".into(),
            Event::Member(_, w) => format!("member: {w}"),
            Event::Notes(..) => "event: notes".into(),
        };
        self.count(&line);
    }

    /// Who is reached through another counts as linked for the checkers.
    fn note_relayed(&mut self, node: usize, e: &Event) {
        let (peer, up) = match e {
            Event::Relayed { what: "opened", peer, .. } => {
                self.nodes[node].relayed.insert(*peer);
                (*peer, true)
            }
            Event::Relayed { what: "ended", peer, .. } => {
                self.nodes[node].relayed.remove(peer);
                (*peer, false)
            }
            Event::Relayed { what: "replaced", peer, .. } => {
                self.nodes[node].relayed.remove(peer);
                return;
            }
            Event::Member(peer, word @ ("silent" | "heard")) if self.nodes[node].relayed.contains(peer) => (*peer, *word == "heard"),
            _ => return,
        };
        self.see(node, Fact::Link(peer, up));
    }

    /// An ordered stop after `Leave`.
    pub(super) fn left(&mut self, node: usize) {
        self.count("sometimes: a node left in order");
        self.end_process(node, Ending::Exit);
        self.come_back(node, 1_000, 15_000);
    }

    pub(super) fn link_open(&self, a: usize, b: usize) -> bool {
        a != b && self.pairs.get(net::pair_of(a, b).0).is_some_and(net::Pair::usable)
    }

    pub(super) fn is_leave_done(reply: &Reply) -> bool {
        matches!(reply, Reply::Ok)
    }
}
