//! Three nodes on a perfect network with perfect disks: the way of a task, told once from end to end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test; clippy only knows those inside #[test]")]

use std::collections::{BTreeMap, VecDeque};

use clawmesh_protocol::{
    config::{Config, Tune},
    face::{Command, NewTask, Reply, State},
    gate::Gate,
    ids::Peer,
    io::{Exit, Input, Output, Recovered, capture},
    mesh::Mesh,
    record::End,
    spec::{Data, Spec, split},
    time::Now,
};

struct Node {
    mesh: Mesh,
    gate: Gate,
}

struct World {
    nodes: BTreeMap<Peer, Node>,
    queue: VecDeque<(Peer, Input)>,
    replies: Vec<(Peer, u64, Reply)>,
    now: u64,
}

fn peer(n: u8) -> Peer {
    Peer([n; 32])
}

fn config(n: u8) -> Config {
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
        tune: Tune::default(),
    }
}

impl World {
    fn new(n: u8) -> Self {
        let mut w = World { nodes: BTreeMap::new(), queue: VecDeque::new(), replies: vec![], now: 1_000 };
        for i in 1..=n {
            let mut out = vec![];
            let rec = Recovered { store: u64::from(i), boot: 1, ..Recovered::default() };
            let mesh = Mesh::new(config(i), rec, w.at(), u64::from(i), &mut out);
            w.nodes.insert(peer(i), Node { mesh, gate: Gate::default() });
            w.effects(peer(i), out);
        }
        for a in 1..=n {
            for b in 1..=n {
                if a != b {
                    w.queue.push_back((peer(a), Input::Up(peer(b))));
                }
            }
        }
        w
    }
    fn at(&self) -> Now {
        Now { ms: self.now, wall_ms: 1_700_000_000_000 + self.now }
    }
    fn input(&mut self, p: Peer, i: Input) {
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
    fn run(&mut self, ms: u64) {
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
    fn kill(&mut self, p: Peer) {
        self.nodes.remove(&p);
        self.queue.retain(|(q, i)| *q != p && !matches!(i, Input::Message(f, _) | Input::Gossip(f, _) if *f == p));
        for q in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.queue.push_back((q, Input::Closed(p)));
            self.queue.push_back((q, Input::Down(p, true)));
        }
    }
    fn leader(&self) -> Peer {
        let mut leaders: Vec<Peer> = self.nodes.values().filter_map(|n| n.mesh.leader()).collect();
        leaders.dedup();
        assert_eq!(leaders.len(), 1, "all nodes name one leader: {leaders:?}");
        leaders[0]
    }
}

fn echo(input: &str) -> Spec {
    let (need, work) = split(&NewTask { skill: Some("echo".into()), input: Some(input.into()), ..NewTask::default() }).unwrap();
    Spec { need, payload: Data::Inline(clawmesh_protocol::codec::Blob(work)) }
}

#[test]
fn a_task_runs_and_its_result_comes_back() {
    let mut w = World::new(3);
    w.run(3_000);
    assert_eq!(w.leader(), peer(3), "the best rank coordinates");
    w.input(peer(1), Input::Command(7, Command::Submit(vec![echo("a"), echo("b")])));
    w.run(1_000);
    let (_, _, Reply::Submitted(results)) = w.replies.iter().find(|r| r.1 == 7).unwrap().clone() else { panic!("not acknowledged") };
    let ids: Vec<_> = results.into_iter().map(|r| r.unwrap()).collect();
    assert!(ids.iter().all(|s| s.copies >= 2));
    w.input(peer(1), Input::Command(8, Command::Await(ids[0].task.unwrap())));
    w.run(100);
    let (_, _, Reply::Ended(end)) = w.replies.iter().find(|r| r.1 == 8).unwrap().clone() else { panic!("no end") };
    assert_eq!(end.state, State::Completed);
    w.run(2_000);
    let roots: Vec<u128> = w.nodes.values().map(|n| n.mesh.probe().root).collect();
    assert!(roots.windows(2).all(|r| r[0] == r[1]), "three replicas hold the same");
    assert!(w.nodes.values().all(|n| n.mesh.records().all(|r| r.delivered)));
}

#[test]
fn another_node_takes_over_when_the_coordinator_dies() {
    let mut w = World::new(3);
    w.run(3_000);
    w.input(peer(1), Input::Command(7, Command::Submit((0..50).map(|i| echo(&format!("{i}"))).collect())));
    w.kill(peer(3));
    w.run(5_000);
    assert_eq!(w.leader(), peer(2));
    assert_eq!(w.nodes[&peer(1)].mesh.probe().outbox_open, 0, "every task has its result");
    assert!(w.replies.iter().any(|r| r.1 == 7));
}
