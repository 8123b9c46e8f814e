//! How long it takes, and how many bytes, to take over a long queue.
//!
//! No world is needed for that: a few cores on ideal disks, links of a given delay and bandwidth, and a clock.  What the
//! cores themselves need is measured in time of the processor, the rest is virtual.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use clawmesh_protocol::{
    codec::{self, Blob},
    config::{Config, PROTO, Timing, Tune},
    face::NewTask,
    gate::Gate,
    ids::{Epoch, Origin, Peer, TaskId, Ver},
    io::{Event, Input, Output, Recovered},
    mesh::Mesh,
    message::{Gossip, Message},
    record::{Queued, Rec},
    spec::{Data, split},
    time::Now,
};
use serde::Serialize;

/// Delay of a link, ms.
const DELAY_MS: u64 = 1;
/// What a link carries in a millisecond: 1 Gbit/s.
const BYTES_PER_MS: u64 = 125_000;
/// A tick at least so often, ms.
const TICK_MS: u64 = 100;
/// Nobody takes longer than this, ms.
const LIMIT_MS: u64 = 600_000;

/// When something began, by the time that this thread has had a processor: others may be at work on the machine.
struct Busy {
    wall: Instant,
    cpu_ns: Option<u128>,
}

impl Busy {
    fn now() -> Self {
        Self { wall: Instant::now(), cpu_ns: cpu_ns() }
    }
    /// µs since then; by the clock on the wall where the system does not tell.
    fn elapsed_us(&self) -> u128 {
        match (self.cpu_ns, cpu_ns()) {
            (Some(then), Some(now)) => now.saturating_sub(then) / 1_000,
            _ => self.wall.elapsed().as_micros(),
        }
    }
}

/// Linux: what this thread has run so far, ns; as of the last tick of the kernel.
fn cpu_ns() -> Option<u128> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// One takeover of a long queue.
#[derive(Debug, Clone, Serialize)]
pub struct Takeover {
    /// `warm`: the new coordinator is a replica; `cold`: it holds nothing and pulls all.
    pub from: &'static str,
    /// Virtual ms from the old coordinator's end until the new one serves: waits and transfers, the cores taking no time.
    pub network_ms: u64,
    /// Processor ms that the new coordinator's core needed in that time.
    pub core_ms: u64,
    /// The longest single step of it, processor ms: so long the node hears nobody.
    pub longest_step_ms: u64,
    /// Bytes that all nodes sent to each other in that time.
    pub bytes: u64,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Scale {
    /// Nodes.
    pub nodes: usize,
    /// Queued tasks.
    pub tasks: usize,
    /// Bytes of one record.
    pub record_bytes: usize,
    /// Processor ms until a node has read its store.
    pub load_ms: u64,
    /// The takeovers.
    pub takeovers: Vec<Takeover>,
}

struct Node {
    mesh: Mesh,
    gate: Gate,
    /// Real time spent in the core, and the longest step; µs.
    busy: (u128, u128),
    serving: bool,
}

enum Packet {
    Msg(Message),
    Gossip(Gossip),
}

struct Cores {
    now: u64,
    nodes: Vec<Option<Node>>,
    wire: BTreeMap<(u64, u64), (usize, usize, Packet)>,
    order: u64,
    /// When the way from one node to another is free again.
    free: BTreeMap<(usize, usize), u64>,
    bytes: u64,
    /// Somebody has claimed.
    claimed: bool,
}

fn peer(n: usize) -> Peer {
    let mut key = [7; 32];
    key[0] = 255 - (n % 256) as u8;
    key[1] = (n / 256) as u8;
    Peer(key)
}

fn config(n: usize) -> Config {
    Config {
        peer: peer(n),
        name: format!("n{n}"),
        // The first one leads, then the second.
        prio: 1_000 - n.min(900) as u32,
        can_lead: true,
        // Nobody runs anything: the queue stays as it is.
        slots: 0,
        agent_slots: 0,
        commands: true,
        labels: Vec::new(),
        lost_after_ms: 60_000,
        version: "sim".into(),
        replicas: 3,
        copies: 2,
        tune: Tune::default(),
        proto: PROTO,
        timing: Timing::default(),
    }
}

/// Keys and values of a store.
type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// The store of a node with so many queued tasks; the bytes of one record.
fn store(tasks: usize) -> (Entries, usize) {
    let new = NewTask { argv: Some(vec!["true".into(), "with".into(), "some".into(), "arguments".into()]), ..NewTask::default() };
    let Ok((need, work)) = split(&new) else { return (Vec::new(), 0) };
    let spec = clawmesh_protocol::spec::Spec { need, payload: Data::Inline(Blob(work)) };
    let epoch = Epoch { n: 1, peer: peer(0) };
    // Of a submitter that is not there any more.
    let origin = Origin { peer: Peer([9; 32]), store: 5 };
    let (mut size, mut entries) = (0, Vec::with_capacity(tasks));
    for seq in 1..=tasks as u64 {
        let id = TaskId { origin, inc: 1, seq };
        let rec = Rec { ver: Ver { epoch, seq }, ..Rec::new(id, spec.clone(), Queued { epoch, seq }, 0) };
        let bytes = codec::encode(&rec);
        size = bytes.len();
        entries.push(([&[b't'][..], &id.key()].concat(), bytes));
    }
    (entries, size)
}

impl Cores {
    fn start(nodes: usize, holders: &[usize], tasks: usize, may_not_lead: Option<usize>) -> (Self, usize, u64) {
        let mut c =
            Self { now: 1_000, nodes: Vec::new(), wire: BTreeMap::new(), order: 0, free: BTreeMap::new(), bytes: 0, claimed: false };
        let (mut size, mut load_ms) = (0, 0);
        for n in 0..nodes {
            let (entries, bytes) = if holders.contains(&n) { store(tasks) } else { (Vec::new(), 0) };
            size = size.max(bytes);
            let recovered = Recovered { entries, store: n as u64 + 1, boot: 1, ..Recovered::default() };
            let mut out = Vec::new();
            let start = Busy::now();
            let mesh = Mesh::new(Config { can_lead: may_not_lead != Some(n), ..config(n) }, recovered, c.clock(), n as u64, &mut out);
            load_ms = load_ms.max((start.elapsed_us() / 1_000) as u64);
            c.nodes.push(Some(Node { mesh, gate: Gate::default(), busy: (0, 0), serving: false }));
            c.perform(n, out);
        }
        for (a, b) in (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b))).filter(|(a, b)| a != b) {
            c.give(a, Input::Up(peer(b)));
        }
        (c, size, load_ms)
    }

    fn clock(&self) -> Now {
        Now { ms: self.now, wall_ms: 1_700_000_000_000 + self.now }
    }

    fn give(&mut self, n: usize, input: Input) {
        let now = self.clock();
        let Some(node) = self.nodes.get_mut(n).and_then(Option::as_mut) else { return };
        let mut out = Vec::new();
        let start = Busy::now();
        node.mesh.handle(now, input, &mut out);
        let took = start.elapsed_us();
        node.busy = (node.busy.0 + took, node.busy.1.max(took));
        self.perform(n, out);
    }

    /// Disks are ideal: a batch is durable at once.
    fn perform(&mut self, n: usize, out: Vec<Output>) {
        let mut durable = VecDeque::new();
        let mut ready = Vec::new();
        if let Some(node) = self.nodes.get_mut(n).and_then(Option::as_mut) {
            node.gate.pass(out, &mut ready);
        }
        for o in ready {
            match o {
                Output::Persist(b) => durable.push_back(b.no),
                Output::Send { to, msg, .. } => {
                    let size = codec::encode(&msg).len() as u64;
                    if let Some(t) = (0..self.nodes.len()).find(|t| peer(*t) == to) {
                        self.send(n, t, size, Packet::Msg(msg));
                    }
                }
                Output::Publish { msg, .. } => {
                    let size = codec::encode(&msg).len() as u64;
                    for t in (0..self.nodes.len()).filter(|t| *t != n) {
                        self.send(n, t, size, Packet::Gossip(msg.clone()));
                    }
                }
                Output::Event(Event::Serving(_)) => self.note(n, true),
                Output::Event(Event::Claimed(_)) if !self.claimed => {
                    self.claimed = true;
                    self.reset();
                }
                Output::Event(Event::SteppedDown(..)) => self.note(n, false),
                _ => {}
            }
        }
        for no in durable {
            let mut ready = Vec::new();
            if let Some(node) = self.nodes.get_mut(n).and_then(Option::as_mut) {
                node.gate.persisted(no, &mut ready);
            }
            self.perform(n, ready);
            self.give(n, Input::Persisted(no));
        }
    }

    fn note(&mut self, n: usize, serving: bool) {
        if let Some(node) = self.nodes.get_mut(n).and_then(Option::as_mut) {
            node.serving = serving;
        }
    }

    fn send(&mut self, from: usize, to: usize, size: u64, p: Packet) {
        if self.nodes.get(to).is_none_or(Option::is_none) {
            return;
        }
        self.bytes += size;
        let free = self.free.entry((from, to)).or_default();
        *free = (*free).max(self.now) + size / BYTES_PER_MS;
        self.order += 1;
        self.wire.insert((*free + DELAY_MS, self.order), (from, to, p));
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        let limit = self.now + LIMIT_MS;
        let mut tick = self.now;
        while self.now < limit {
            if done(self) {
                return true;
            }
            let due = self.wire.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
            if due <= tick {
                let Some(((at, _), (from, to, p))) = self.wire.pop_first() else { continue };
                self.now = self.now.max(at);
                let input = match p {
                    Packet::Msg(m) => Input::Message(peer(from), m),
                    Packet::Gossip(g) => Input::Gossip(peer(from), g),
                };
                self.give(to, input);
            } else {
                self.now = self.now.max(tick);
                tick += TICK_MS;
                (0..self.nodes.len()).for_each(|n| self.give(n, Input::Tick));
            }
        }
        false
    }

    fn serves(&self) -> Option<usize> {
        self.nodes.iter().position(|n| n.as_ref().is_some_and(|n| n.serving))
    }

    /// The coordinator's process is killed; the next one serves.
    fn kill(&mut self, old: usize, from: &'static str) -> Result<Takeover, String> {
        let start = self.now;
        self.nodes[old] = None;
        self.reset();
        for n in 0..self.nodes.len() {
            self.give(n, Input::Closed(peer(old)));
            self.give(n, Input::Down(peer(old), true));
        }
        self.timed(from, start)
    }

    fn reset(&mut self) {
        self.bytes = 0;
        self.nodes.iter_mut().flatten().for_each(|n| n.busy = (0, 0));
    }

    /// Waits until somebody serves.
    fn timed(&mut self, from: &'static str, start: u64) -> Result<Takeover, String> {
        if !self.until(|c| c.serves().is_some()) {
            return Err(format!("nobody took over in {} virtual s", LIMIT_MS / 1_000));
        }
        let busy = self.serves().and_then(|n| self.nodes[n].as_ref()).map_or((0, 0), |n| n.busy);
        let ms = |us: u128| (us / 1_000) as u64;
        Ok(Takeover { from, network_ms: self.now - start, core_ms: ms(busy.0), longest_step_ms: ms(busy.1), bytes: self.bytes })
    }
}

/// Takes over `tasks` queued tasks in a mesh of `nodes` nodes (3 at least), warm and cold; `tell` hears what goes on.
///
/// # Errors
/// A sentence, when the mesh does not get there.
pub fn measure(nodes: usize, tasks: usize, tell: &dyn Fn(&str)) -> Result<Scale, String> {
    let nodes = nodes.max(3);
    tell("filling the stores of three replicas");
    let (mut c, record_bytes, load_ms) = Cores::start(nodes, &[0, 1, 2], tasks, None);
    tell("the first coordinator");
    if !c.until(|c| c.serves() == Some(0) && c.now > 5_000) {
        return Err("the first node does not come to serve".into());
    }
    tell("a replica takes over");
    let warm = c.kill(0, "warm")?;
    drop(c);
    tell("filling the store of one node that may not lead");
    let (mut c, ..) = Cores::start(nodes, &[nodes - 1], tasks, Some(nodes - 1));
    tell("a node that holds nothing takes over");
    if !c.until(|c| c.claimed) {
        return Err("nobody claims".into());
    }
    let cold = c.timed("cold", c.now)?;
    Ok(Scale { nodes, tasks, record_bytes, load_ms, takeovers: vec![warm, cold] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cold_takeover_moves_every_record_and_a_warm_one_none() {
        let s = measure(3, 2_000, &|_| ()).expect("it measures");
        let [warm, cold] = &s.takeovers[..] else { panic!("two takeovers") };
        let all = (s.record_bytes * s.tasks) as u64;
        assert!(warm.bytes < all / 10, "{s:?}");
        assert!(cold.bytes > all && cold.bytes < all * 3, "{s:?}");
        assert!(warm.network_ms < 5_000 && cold.network_ms < 60_000, "{s:?}");
    }
}
