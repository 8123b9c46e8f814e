//! A few nodes on a perfect network with perfect disks, for stories that are told from end to end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, reason = "a test; each file uses a part of it")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use clawmesh_protocol::{
    config::{Config, PROTO, Timing},
    face::{Command, NewTask, Reply},
    gate::Gate,
    ids::Peer,
    io::{Batch, Event, Exit, Input, Job, Output, Recovered, capture},
    mesh::Mesh,
    message::Message,
    record::End,
    relay::Relay,
    spec::{Data, Spec, split},
    time::Now,
};

pub struct Node {
    pub mesh: Mesh,
    gate: Gate,
}

/// What outlives a process.
#[derive(Default)]
pub struct Disk {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    side: Option<Vec<u8>>,
    pub boot: u64,
    /// Its store's number, once the first one was replaced.
    store: Option<u64>,
}

impl Disk {
    pub fn recovered(&self, n: u8) -> Recovered {
        let entries = self.entries.clone().into_iter().collect();
        let store = self.store.unwrap_or_else(|| u64::from(n));
        Recovered { entries, side: self.side.clone(), store, boot: self.boot, ..Recovered::default() }
    }
    pub fn commit(&mut self, b: &Batch) {
        self.entries.extend(b.puts.iter().cloned());
        for k in &b.dels {
            self.entries.remove(k);
        }
        if b.side.is_some() {
            self.side.clone_from(&b.side);
        }
    }
    /// The first entry of this kind holds what this version can't read; there is one now, if there was none.
    pub fn garble(&mut self, kind: u8) {
        let key = self.entries.keys().find(|k| k.first() == Some(&kind)).cloned().unwrap_or_else(|| vec![kind]);
        self.entries.insert(key, vec![0x78]);
    }
}

pub struct World {
    pub nodes: BTreeMap<Peer, Node>,
    pub disks: BTreeMap<Peer, Disk>,
    queue: VecDeque<(Peer, Input)>,
    pub replies: Vec<(Peer, u64, Reply)>,
    pub events: Vec<(u64, Peer, Event)>,
    /// All that every disk took, in order.
    pub batches: BTreeMap<Peer, Vec<Batch>>,
    /// All messages that left, encoded.
    pub sent: BTreeSet<Vec<u8>>,
    /// They hear nothing, although they are heard.
    pub deaf: BTreeSet<Peer>,
    /// Their disks confirm nothing.
    pub stuck: BTreeSet<Peer>,
    /// Between these nothing gets through.
    pub cut: BTreeSet<(Peer, Peer)>,
    pub timing: Timing,
    /// All envelopes that left their authors (E11).
    pub envelopes: Vec<Relay>,
    /// Nodes that speak another protocol than the product's.
    pub protos: BTreeMap<u8, u32>,
    /// Processes do not end by themselves.
    pub hold: bool,
    /// What was started while they were held.
    pub jobs: Vec<(Peer, Job)>,
    pub now: u64,
}

pub fn peer(n: u8) -> Peer {
    Peer([n; 32])
}

pub fn config(n: u8, timing: Timing, proto: u32) -> Config {
    Config {
        peer: peer(n),
        name: format!("n{n}"),
        prio: u32::from(n),
        can_lead: true,
        slots: 2,
        agent_slots: 1,
        commands: true,
        labels: vec![],
        lost_after_ms: 5_000,
        version: "test".into(),
        replicas: 3,
        copies: 2,
        proto,
        timing,
        tune: clawmesh_protocol::config::Tune::default(),
    }
}

impl World {
    pub fn new(n: u8) -> Self {
        Self::with(n, Timing::default())
    }
    pub fn with(n: u8, timing: Timing) -> Self {
        let mut w = World {
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            queue: VecDeque::new(),
            replies: vec![],
            events: vec![],
            batches: BTreeMap::new(),
            sent: BTreeSet::new(),
            deaf: BTreeSet::new(),
            stuck: BTreeSet::new(),
            cut: BTreeSet::new(),
            timing,
            envelopes: vec![],
            protos: BTreeMap::new(),
            hold: false,
            jobs: vec![],
            now: 1_000,
        };
        for i in 1..=n {
            w.boot(i);
        }
        w
    }
    /// Starts a node on its disk and links it with all others.
    pub fn boot(&mut self, n: u8) {
        let p = peer(n);
        let disk = self.disks.entry(p).or_default();
        disk.boot += 1;
        let recovered = disk.recovered(n);
        let mut out = vec![];
        let seed = u64::from(n) + 100 * disk.boot;
        let mesh = Mesh::new(config(n, self.timing, self.protos.get(&n).copied().unwrap_or(PROTO)), recovered, self.at(), seed, &mut out);
        let others: Vec<Peer> = self.nodes.keys().copied().collect();
        self.nodes.insert(p, Node { mesh, gate: Gate::default() });
        self.effects(p, out);
        for q in others {
            self.queue.push_back((p, Input::Up(q)));
            self.queue.push_back((q, Input::Up(p)));
        }
    }
    /// The node's store is replaced by a new one that holds what could be read (D3).
    pub fn replace_store(&mut self, n: u8, store: u64) {
        self.disks.entry(peer(n)).or_default().store = Some(store);
    }
    /// A command at a node, and its answer after this time.
    pub fn ask(&mut self, p: Peer, cmd: Command, ms: u64) -> Option<Reply> {
        let req = 1_000 + self.now;
        self.input(p, Input::Command(req, cmd));
        self.run(ms);
        self.replies.iter().find(|r| r.1 == req).map(|r| r.2.clone())
    }
    fn at(&self) -> Now {
        Now { ms: self.now, wall_ms: 1_700_000_000_000 + self.now }
    }
    pub fn input(&mut self, p: Peer, i: Input) {
        // What comes through a relay comes over its link.
        let i = match i {
            Input::Message(q, Message::Relay(r)) if r.to == p && !self.cut.contains(&(p, q)) => Input::Relayed(q, r),
            i => i,
        };
        if matches!(i, Input::Message(q, _) if self.cut.contains(&(p, q))) || matches!(i, Input::Gossip(q, _) if !self.reaches(q, p)) {
            return;
        }
        if self.deaf.contains(&p) && matches!(i, Input::Message(..) | Input::Gossip(..) | Input::Relayed(..)) {
            return;
        }
        let now = self.at();
        let Some(n) = self.nodes.get_mut(&p) else { return };
        let mut out = vec![];
        n.mesh.handle(now, i, &mut out);
        n.mesh.check_invariants().unwrap();
        self.effects(p, out);
    }
    fn effects(&mut self, p: Peer, out: Vec<Output>) {
        let mut ready = vec![];
        self.nodes.get_mut(&p).unwrap().gate.pass(out, &mut ready);
        for o in ready {
            match o {
                Output::Persist(_) if self.stuck.contains(&p) => {}
                Output::Persist(b) => {
                    self.disks.entry(p).or_default().commit(&b);
                    self.batches.entry(p).or_default().push(b.clone());
                    let mut more = vec![];
                    self.nodes.get_mut(&p).unwrap().gate.persisted(b.no, &mut more);
                    self.queue.push_back((p, Input::Persisted(b.no)));
                    self.effects_ready(p, more);
                }
                other => self.effects_ready(p, vec![other]),
            }
        }
    }
    fn effects_ready(&mut self, p: Peer, ready: Vec<Output>) {
        for o in ready {
            match o {
                Output::Event(e) => self.events.push((self.now, p, e)),
                Output::Send { to, msg, .. } => {
                    self.sent.insert(clawmesh_protocol::codec::encode(&msg));
                    self.queue.push_back((to, Input::Message(p, msg)));
                }
                Output::Relay { via, envelope, .. } => {
                    self.envelopes.push(envelope.clone());
                    self.queue.push_back((via, Input::Message(p, Message::Relay(envelope))));
                }
                Output::Publish { msg, .. } => {
                    for q in self.nodes.keys().copied().collect::<Vec<_>>() {
                        if q != p {
                            self.queue.push_back((q, Input::Gossip(p, msg.clone())));
                        }
                    }
                }
                Output::Start { job, .. } if self.hold => self.jobs.push((p, job)),
                Output::Start { job, .. } => {
                    let data = Data::Inline(clawmesh_protocol::codec::Blob(capture(b"hello\n".to_vec(), vec![], 0, 0)));
                    let exit = Exit { end: End::Done, code: Some(0), why: String::new(), data, ran_ms: 3 };
                    self.queue.push_back((p, Input::Exited(job.id, job.attempt, exit)));
                }
                Output::Reply { req, reply, .. } => self.replies.push((p, req, reply)),
                _ => {}
            }
        }
    }
    /// Gossip gets from one to the other, over others if need be.
    fn reaches(&self, from: Peer, to: Peer) -> bool {
        let (mut seen, mut front) = (BTreeSet::from([from]), vec![from]);
        while let Some(a) = front.pop() {
            for b in self.nodes.keys().copied().filter(|b| !self.cut.contains(&(*b, a))) {
                if seen.insert(b) {
                    front.push(b);
                }
            }
        }
        seen.contains(&to)
    }
    pub fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            let mut steps = 0;
            while let Some((p, i)) = self.queue.pop_front() {
                self.input(p, i);
                steps += 1;
                assert!(steps < 100_000, "the nodes talk without end");
            }
            self.now += 20;
            for p in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.input(p, Input::Tick);
            }
        }
    }
    pub fn kill(&mut self, p: Peer) {
        self.nodes.remove(&p);
        self.queue.retain(|(q, i)| *q != p && !matches!(i, Input::Message(f, _) | Input::Gossip(f, _) if *f == p));
        for q in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.queue.push_back((q, Input::Closed(p)));
            self.queue.push_back((q, Input::Down(p, true)));
        }
    }
    pub fn leader(&self) -> Peer {
        let mut leaders: Vec<Peer> = self.nodes.values().filter_map(|n| n.mesh.leader()).collect();
        leaders.dedup();
        assert_eq!(leaders.len(), 1, "all nodes name one leader: {leaders:?}");
        leaders[0]
    }
    /// Parts these nodes from all others, which learn only that they are out of reach.
    pub fn split(&mut self, side: &[u8]) {
        let all: Vec<Peer> = self.nodes.keys().copied().collect();
        let far = |p: &Peer| side.iter().any(|n| peer(*n) == *p);
        for a in &all {
            for b in all.iter().filter(|b| far(a) != far(b)) {
                self.cut.insert((*a, *b));
                self.queue.push_back((*a, Input::Closed(*b)));
                self.queue.push_back((*a, Input::Down(*b, false)));
            }
        }
    }
    /// A held process ends.
    pub fn end(&mut self, at: usize, end: End) {
        let (p, job) = self.jobs.remove(at);
        let data = Data::Inline(clawmesh_protocol::codec::Blob(capture(b"done\n".to_vec(), vec![], 0, 0)));
        self.input(p, Input::Exited(job.id, job.attempt, Exit { end, code: Some(0), why: String::new(), data, ran_ms: 9_000 }));
    }
    /// Parts two nodes; all others go on to reach both.
    pub fn part(&mut self, a: u8, b: u8) {
        for (a, b) in [(peer(a), peer(b)), (peer(b), peer(a))] {
            self.cut.insert((a, b));
            self.queue.push_back((a, Input::Closed(b)));
            self.queue.push_back((a, Input::Down(b, false)));
        }
    }
    /// Everybody reaches everybody again.
    pub fn heal(&mut self) {
        for (a, b) in std::mem::take(&mut self.cut) {
            self.queue.push_back((a, Input::Up(b)));
        }
    }
    /// How often anybody claimed.
    pub fn claims(&self) -> usize {
        self.events.iter().filter(|(.., e)| matches!(e, Event::Claimed(_))).count()
    }
    /// When something like this happened first at a node, ms since `from`.
    pub fn when(&self, from: u64, p: Peer, what: impl Fn(&Event) -> bool) -> Option<u64> {
        self.events.iter().find(|(t, q, e)| *t >= from && *q == p && what(e)).map(|(t, ..)| t - from)
    }
}

/// A task as a person asks for it.
pub fn task(new: &NewTask) -> Spec {
    let (need, work) = split(new).unwrap();
    Spec { need, payload: Data::Inline(clawmesh_protocol::codec::Blob(work)) }
}

pub fn prompt(text: &str, skill: Option<&str>) -> Spec {
    task(&NewTask { prompt: Some(text.into()), skill: skill.map(Into::into), ..NewTask::default() })
}

pub fn echo(input: &str) -> Spec {
    let (need, work) = split(&NewTask { skill: Some("echo".into()), input: Some(input.into()), ..NewTask::default() }).unwrap();
    Spec { need, payload: Data::Inline(clawmesh_protocol::codec::Blob(work)) }
}
