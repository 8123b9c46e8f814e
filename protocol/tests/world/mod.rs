//! A perfect network with perfect disks, for the tests beside it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, reason = "shared by tests, none of which uses all of it")]

use std::collections::{BTreeMap, VecDeque};

use clawmesh_protocol::{
    config::{Config, Timing},
    face::{Command, NewTask, Reply},
    gate::Gate,
    ids::Peer,
    io::{Batch, Exit, Input, Output, Recovered, capture},
    mesh::Mesh,
    record::End,
    spec::{Data, Spec, split},
    time::Now,
};

pub struct Node {
    pub mesh: Mesh,
    gate: Gate,
}

pub struct World {
    pub nodes: BTreeMap<Peer, Node>,
    queue: VecDeque<(Peer, Input)>,
    pub replies: Vec<(Peer, u64, Reply)>,
    now: u64,
    disks: BTreeMap<Peer, Recovered>,
}

pub fn peer(n: u8) -> Peer {
    Peer([n; 32])
}

pub fn config(n: u8) -> Config {
    Config {
        peer: peer(n),
        name: format!("n{n}"),
        prio: u32::from(n),
        can_lead: true,
        slots: 2,
        commands: true,
        labels: vec![],
        lost_after_ms: 5_000,
        version: "test".into(),
        replicas: 3,
        copies: 2,
        timing: Timing::default(),
    }
}

impl World {
    pub fn new(n: u8) -> Self {
        let mut w = World { nodes: BTreeMap::new(), queue: VecDeque::new(), replies: vec![], now: 1_000, disks: BTreeMap::new() };
        for i in 1..=n {
            w.disks.insert(peer(i), Recovered { store: u64::from(i), ..Recovered::default() });
            w.start(i);
        }
        w
    }
    /// Starts a node on its disk and links it with all others.
    pub fn start(&mut self, i: u8) {
        let p = peer(i);
        self.disks.get_mut(&p).unwrap().boot += 1;
        let rec = self.disks[&p].clone();
        let mut out = vec![];
        let mesh = Mesh::new(config(i), rec, self.at(), u64::from(i), &mut out);
        self.nodes.insert(p, Node { mesh, gate: Gate::default() });
        self.effects(p, out);
        for q in self.nodes.keys().copied().filter(|q| *q != p).collect::<Vec<_>>() {
            self.queue.push_back((p, Input::Up(q)));
            self.queue.push_back((q, Input::Up(p)));
        }
    }
    /// The node's store is replaced by a new one that holds what could be read (D3).
    pub fn replace_store(&mut self, i: u8, store: u64) {
        self.disks.get_mut(&peer(i)).unwrap().store = store;
    }
    fn commit(&mut self, p: Peer, b: &Batch) {
        let d = self.disks.get_mut(&p).unwrap();
        for (k, v) in &b.puts {
            d.entries.retain(|(q, _)| q != k);
            d.entries.push((k.clone(), v.clone()));
        }
        d.entries.retain(|(k, _)| !b.dels.contains(k));
        if b.side.is_some() {
            d.side.clone_from(&b.side);
        }
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
                Output::Persist(b) => {
                    self.commit(p, &b);
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
                Output::Send { to, msg, .. } => self.queue.push_back((to, Input::Message(p, msg))),
                Output::Publish { msg, .. } => {
                    for q in self.nodes.keys().copied().collect::<Vec<_>>() {
                        if q != p {
                            self.queue.push_back((q, Input::Gossip(p, msg.clone())));
                        }
                    }
                }
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
}

pub fn echo(input: &str) -> Spec {
    let (need, work) = split(&NewTask { skill: Some("echo".into()), input: Some(input.into()), ..NewTask::default() }).unwrap();
    Spec { need, payload: Data::Inline(clawmesh_protocol::codec::Blob(work)) }
}
