//! The append-only log of what truly happened, and what follows from it about the disks.
//!
//! The oracle sees the world from outside: batches that became durable, messages that left, processes
//! that started.  It never asks the core what it believes, except for [`Fact::Probe`] and the final state.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use clawmesh_protocol::{
    ids::{Attempt, Epoch, Hash, Origin, Peer, TaskId},
    io::{Batch, Event},
    message::{Floor, Message},
    quorum::MeshConfig,
    record::{End, Rec},
};

use crate::layout::{self, Item};

/// One line of the log.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Virtual ms.
    pub at: u64,
    /// Where.
    pub node: usize,
    /// What.
    pub fact: Fact,
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Fact {
    /// A process started on this store.
    Boot {
        /// The store's number.
        store: u64,
        /// The start's number.
        boot: u64,
        /// The store is new and empty.
        fresh: bool,
    },
    /// The process ended; batches up to this one are on disk, later ones never were.
    Down(u64),
    /// The disk is gone.
    Destroyed,
    /// The core handed a batch to its disk.
    Batch(Arc<Parsed>),
    /// Batches up to this one are on disk.
    Durable(u64),
    /// The core's view, when it changed.
    Probe {
        /// Highest epoch promised.
        promised: Epoch,
        /// It says it serves.
        serving: Option<Epoch>,
    },
    /// A message left (its batch was durable).
    Sent(Peer, Arc<Message>),
    /// A `Kill` was handled; its mark is in this batch at the latest.
    KillSeen(TaskId, Attempt, u64),
    /// A process was spawned.
    Started(TaskId, Attempt),
    /// A process ended, with this verdict.
    Exited(TaskId, Attempt, End),
    /// The core's own account.
    Event(Event),
    /// A local program was told that its task is safe on so many disks.
    Acked(TaskId, u32),
    /// A local program was told the task's end.
    Ended(TaskId, String),
    /// Somebody who asked about a task was shown its end: when it ended, wall clock ms, and the exit code.
    Read(TaskId, u64, Option<i32>),
    /// The process stands still (SIGSTOP, suspend), or goes on.
    Paused(bool),
    /// What is sent to this node waits from now on, although its links are up; or it hears again.
    Deaf(bool),
    /// The link between this node and that one went up or down, as this node was told.
    Link(Peer, bool),
    /// After healing, when nothing moves any more or time is up.
    Quiet(Arc<Quiet>),
}

/// A batch, read.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    /// The batch's number.
    pub no: u64,
    /// Records put: content and the hash of the bytes.
    pub recs: Vec<(Arc<Rec>, Hash)>,
    /// Records deleted.
    pub dels: Vec<TaskId>,
    /// Floors the node has learnt.
    pub floors: Vec<Floor>,
    /// Tasks put into the origin's outbox.
    pub outbox: Vec<TaskId>,
    /// Tasks dropped from it.
    pub outbox_dels: Vec<TaskId>,
    /// The node was told that enough others hold everything (W5): what it deletes is not gone.
    pub released: bool,
    /// The voters, when they were written.
    pub config: Option<Arc<MeshConfig>>,
    /// The recorded membership, when it was written: the first eight bytes of each key (S7).
    pub members: Option<BTreeSet<u64>>,
}

/// Records that were read lately, by the hash of their bytes: every replica writes the same.
pub type Known = HashMap<Hash, (Arc<Rec>, Hash)>;
/// So many are kept.
const KNOWN_MAX: usize = 20_000;

impl Parsed {
    /// Reads a batch.
    pub fn of(b: &Batch, known: &mut Known) -> Self {
        let mut p = Self { no: b.no, ..Self::default() };
        if known.len() > KNOWN_MAX {
            known.clear();
        }
        let puts = b.puts.iter().map(|(k, v)| (k, Some(v)));
        for (k, v) in puts.chain(b.dels.iter().map(|k| (k, None))) {
            let read = v.filter(|_| k.first() == Some(&b't')).map(|v| Hash::of(v));
            if let Some(old) = read.and_then(|h| known.get(&h)).filter(|(r, _)| k.get(1..) == Some(&r.id.key()[..])) {
                p.recs.push(old.clone());
                continue;
            }
            match layout::item(k, v.map(Vec::as_slice)) {
                Item::Rec(r) => {
                    let bytes = clawmesh_protocol::codec::encode(&*r);
                    let new = (Arc::new(*r), Hash::of(&bytes));
                    if let Some(h) = read {
                        known.insert(h, new.clone());
                    }
                    p.recs.push(new);
                }
                Item::RecGone(id) => p.dels.push(id),
                Item::Floor(f) => p.floors.push(f),
                Item::Outbox(id) => p.outbox.push(id),
                Item::OutboxGone(id) => p.outbox_dels.push(id),
                Item::Config(q) => p.config = Some(Arc::new(*q)),
                Item::Members(m) => p.members = Some(m),
                Item::Other => {}
            }
        }
        p
    }
}

/// The state after healing.
#[derive(Debug, Clone, Default)]
pub struct Quiet {
    /// K of this world.
    pub replicas: usize,
    /// Live nodes and what they say.
    pub nodes: Vec<NodeEnd>,
    /// The table of the node that serves, when exactly one does.
    pub table: BTreeMap<TaskId, Arc<Rec>>,
    /// Acknowledged tasks that must have reached their end.
    pub due: Vec<Due>,
    /// Too many voters' disks are gone: nobody may serve any more.
    pub helpless: bool,
    /// Requests to live nodes that nobody has answered, for people.
    pub unanswered: Vec<String>,
}

/// A live node at the end.
#[derive(Debug, Clone)]
pub struct NodeEnd {
    /// Which.
    pub node: usize,
    /// The epoch it serves or follows.
    pub epoch: Option<Epoch>,
    /// Its coordinator.
    pub leader: Option<Peer>,
    /// It serves.
    pub serving: bool,
    /// Digest of its table.
    pub root: u128,
    /// Records it holds.
    pub count: usize,
    /// Tasks of its own without an accepted result.
    pub outbox_open: usize,
    /// Messages and effects that it keeps back.
    pub backlog: usize,
}

/// A task that an origin was told is safe.
#[derive(Debug, Clone)]
pub struct Due {
    /// Which.
    pub id: TaskId,
    /// A live node can run it.
    pub able: bool,
    /// Its origin's node, when it lives with the store that submitted it.
    pub origin: Option<usize>,
}

/// One disk, as it truly is.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// The store's number.
    pub store: u64,
    /// Durable records.
    pub recs: BTreeMap<TaskId, Arc<Rec>>,
    /// Durable outbox.
    pub outbox: BTreeSet<TaskId>,
    /// Durable floors.
    pub floors: BTreeMap<Origin, (u64, u64)>,
    /// Durable voters.
    pub config: Option<Arc<MeshConfig>>,
    /// Handed over, not durable.
    pub pending: VecDeque<Arc<Parsed>>,
    /// It can't come back.
    pub destroyed: bool,
}

impl Disk {
    /// Makes batches up to this one durable; the tasks that were put, and those that were deleted.
    fn commit(&mut self, upto: u64) -> (Vec<TaskId>, Vec<TaskId>) {
        let (mut touched, mut gone) = (Vec::new(), Vec::new());
        while self.pending.front().is_some_and(|p| p.no <= upto) {
            let Some(p) = self.pending.pop_front() else { break };
            for (r, _) in &p.recs {
                self.recs.insert(r.id, r.clone());
                touched.push(r.id);
            }
            for id in &p.dels {
                self.recs.remove(id);
            }
            self.floors.extend(p.floors.iter().map(|f| (f.origin, (f.inc, f.seq))));
            if !p.released {
                gone.extend(p.dels.iter().copied());
            }
            for id in &p.outbox {
                self.outbox.insert(*id);
                touched.push(*id);
            }
            for id in &p.outbox_dels {
                self.outbox.remove(id);
            }
            if p.config.is_some() {
                self.config.clone_from(&p.config);
            }
        }
        (touched, gone)
    }
    /// It durably holds the task, in the table or in the outbox.
    pub fn holds(&self, id: &TaskId) -> bool {
        self.recs.contains_key(id) || self.outbox.contains(id)
    }
}

/// All disks, kept in step with the log.
#[derive(Debug, Clone, Default)]
pub struct Disks {
    /// By node.
    pub now: Vec<Disk>,
    /// The nodes' keys.
    pub peers: Vec<Peer>,
    /// Which nodes' disks ever held a task durably.
    pub ever: BTreeMap<TaskId, BTreeSet<usize>>,
    /// Tasks of which a disk ever durably said that their origin has its result, or has given them up: they may be
    /// deleted (G3).
    pub over: BTreeSet<TaskId>,
    /// Those of them that a disk has deleted.
    pub deleted: BTreeSet<TaskId>,
    /// Origins that were forgotten (G4): their tasks are dead.
    pub forgotten: BTreeSet<Origin>,
}

impl Disks {
    /// Empty disks of these nodes.
    pub fn new(peers: Vec<Peer>) -> Self {
        Self {
            now: vec![Disk::default(); peers.len()],
            peers,
            ever: BTreeMap::new(),
            over: BTreeSet::new(),
            deleted: BTreeSet::new(),
            forgotten: BTreeSet::new(),
        }
    }
    /// Which node has this key.
    pub fn node(&self, peer: Peer) -> Option<usize> {
        self.peers.iter().position(|p| *p == peer)
    }
    /// The voters that a node goes by: the last that it has written.
    pub fn config(&self, node: usize) -> Option<&Arc<MeshConfig>> {
        let d = self.now.get(node)?;
        d.pending.iter().rev().find_map(|p| p.config.as_ref()).or(d.config.as_ref())
    }
    /// Takes one line of the log in.
    pub fn see(&mut self, e: &Entry) {
        let Some(d) = self.now.get_mut(e.node) else { return };
        match &e.fact {
            Fact::Boot { store, fresh, .. } => {
                if *fresh {
                    *d = Disk::default();
                }
                d.store = *store;
                d.pending.clear();
            }
            Fact::Batch(p) => {
                d.pending.push_back(p.clone());
                self.forgotten.extend(p.floors.iter().filter(|f| f.inc == u64::MAX).map(|f| f.origin));
            }
            Fact::Durable(upto) | Fact::Down(upto) => {
                let (touched, gone) = d.commit(*upto);
                if matches!(e.fact, Fact::Down(_)) {
                    d.pending.clear();
                }
                for id in touched {
                    if d.recs.get(&id).is_some_and(|r| r.outcome.as_ref().is_some_and(|o| r.delivered || o.end == End::Retired)) {
                        self.over.insert(id);
                    }
                    self.ever.entry(id).or_default().insert(e.node);
                }
                self.deleted.extend(gone.into_iter().filter(|id| self.over.contains(id)));
            }
            Fact::Destroyed => {
                *d = Disk { destroyed: true, ..Disk::default() };
            }
            _ => {}
        }
    }
    /// Nothing is promised of it any more: it was delivered, or its origin is gone for good.
    pub fn is_over(&self, id: &TaskId) -> bool {
        self.over.contains(id) || self.forgotten.contains(&id.origin)
    }
    /// Nodes whose intact disks hold the task.
    pub fn holders<'a>(&'a self, id: &'a TaskId) -> impl Iterator<Item = usize> + 'a {
        self.now.iter().enumerate().filter(move |(_, d)| d.holds(id)).map(|(n, _)| n)
    }
}
