//! Quorum mode in the virtual world: an operator who names voters and changes them, and the rule that keeps enough of
//! them alive for the peace to come.

use clawmesh_protocol::{
    face::{Command, QuorumView, Reply},
    ids::Peer,
    quorum::{Change, MeshConfig, Voter},
};

use super::{What, World, load::Ask};

/// Voters that the operator does not go beyond.
const SOME: usize = 5;
/// Sets of voters that may still matter: the newest ones.
const SETS: usize = 4;

impl World {
    /// The operator does one thing, and the next is on the way.
    pub(super) fn operate(&mut self) {
        let Some(every) = self.plan.voters_every_ms.filter(|_| !self.calm) else { return };
        let wait = self.chance.voters.range(every / 4, every * 2);
        self.after(wait, What::Operate);
        let alive = self.alive();
        let Some(at) = self.chance.voters.pick(&alive) else { return };
        let set = self.voter_sets().first().map(|q| if q.pending.is_empty() { q.voters.clone() } else { q.pending.clone() });
        let command = match set {
            None => self.first_voters(&alive),
            Some(set) => self.other_voters(&set),
        };
        self.count("operator: asks for voters");
        self.ask(at, Ask::Voters, command);
    }

    /// Who may be named: an operator of laptops mostly takes machines that are always on.
    fn electorate(&mut self, nodes: Vec<usize>) -> Vec<usize> {
        let servers = self.plan.servers;
        if servers == 0 || self.chance.voters.percent(15) {
            return nodes;
        }
        nodes.into_iter().filter(|n| *n < servers).collect()
    }

    fn first_voters(&mut self, alive: &[usize]) -> Command {
        let alive = self.electorate(alive.to_vec());
        if alive.is_empty() {
            return Command::Status;
        }
        let d = &mut self.chance.voters;
        if d.percent(if self.plan.servers > 0 { 4 } else { 25 }) {
            return Command::ChangeQuorum(Change::Init, Vec::new(), Vec::new());
        }
        let most = alive.len().min(SOME);
        let want = if d.percent(60) { most.min(3) } else { d.range(1, most as u64) as usize };
        let mut left = alive;
        let mut nodes: Vec<Peer> = Vec::new();
        while nodes.len() < want && !left.is_empty() {
            let i = d.below(left.len());
            nodes.push(self.nodes[left.swap_remove(i)].cfg.peer);
        }
        let witness = nodes.len() > 1 && self.chance.voters.percent(20);
        let witnesses = if witness { nodes.pop().into_iter().collect() } else { Vec::new() };
        Command::ChangeQuorum(Change::Init, nodes, witnesses)
    }

    fn other_voters(&mut self, set: &[Voter]) -> Command {
        // Who lost its store is named again first, as the status asks for (C3).
        let replaced = set.iter().find(|v| {
            self.node_of(v.peer).and_then(|n| self.nodes.get(n)).is_some_and(|n| !n.gone && n.core.is_some() && n.store != v.store)
        });
        if let Some(v) = replaced.filter(|_| self.chance.voters.percent(60)) {
            let (nodes, witnesses) = if v.witness { (vec![], vec![v.peer]) } else { (vec![v.peer], vec![]) };
            return Command::ChangeQuorum(Change::Add, nodes, witnesses);
        }
        let grow = set.len() < 2 || (set.len() < SOME && self.chance.voters.percent(50));
        let all: Vec<Peer> = if grow {
            let nodes = self.electorate((0..self.nodes.len()).collect());
            nodes.into_iter().map(|n| self.nodes[n].cfg.peer).collect()
        } else {
            set.iter().map(|v| v.peer).collect()
        };
        let Some(who) = self.chance.voters.pick(&all) else { return Command::Status };
        if !grow {
            return Command::ChangeQuorum(Change::Remove, vec![who], vec![]);
        }
        match self.chance.voters.percent(15) {
            true => Command::ChangeQuorum(Change::Add, vec![], vec![who]),
            false => Command::ChangeQuorum(Change::Add, vec![who], vec![]),
        }
    }

    pub(super) fn voters_answered(&mut self, reply: &Reply) {
        match reply {
            Reply::Ok => self.count("operator: voters changed"),
            Reply::Refused(r) => self.refused(r),
            _ => {}
        }
    }

    /// The sets of voters that any disk ever got, newest first.
    fn voter_sets(&self) -> Vec<&MeshConfig> {
        self.sets.iter().rev().map(|q| &**q).collect()
    }

    /// Notes a set of voters that a node has written; the latest few by version are kept.
    pub(super) fn note_voters(&mut self, q: &std::sync::Arc<MeshConfig>) {
        let same = |o: &MeshConfig| o.voters == q.voters && o.pending == q.pending && o.mode == q.mode;
        if let Some(old) = self.sets.iter_mut().find(|o| same(o)) {
            if q.ver > old.ver {
                *old = q.clone();
            }
        } else {
            self.sets.push(q.clone());
        }
        self.sets.sort_by_key(|q| q.ver);
        let extra = self.sets.len().saturating_sub(SETS);
        self.sets.drain(..extra);
        if !q.pending.is_empty() {
            self.count("sometimes: a change of voters was under way");
        }
    }

    /// May this node's store be lost for good?  Majorities have to remain, with somebody who can coordinate.
    pub(super) fn may_lose(&self, node: usize) -> bool {
        let intact =
            |v: &Voter| self.node_of(v.peer).is_some_and(|n| n != node && self.nodes.get(n).is_some_and(|x| !x.gone && x.store == v.store));
        self.sets.iter().all(|q| q.majority(intact) && q.groups().all(|g| g.iter().any(|v| intact(v) && !v.witness)))
    }

    /// A set of voters was named, or left, just before the disks that it needs were lost: nobody may ever serve again, and
    /// people have to make a new mesh.  [`World::may_lose`] sees to it that this comes of a race only.
    pub(super) fn no_majority_left(&self) -> bool {
        let intact = |v: &Voter| self.node_of(v.peer).is_some_and(|n| self.nodes.get(n).is_some_and(|x| !x.gone && x.store == v.store));
        let able = |q: &MeshConfig| q.majority(intact) && q.groups().all(|g| g.iter().any(|v| intact(v) && !v.witness));
        !self.sets.iter().all(|q| able(q))
    }

    /// It is a witness by the newest voters: it runs nothing.
    pub(super) fn is_witness(&self, node: usize) -> bool {
        let peer = self.nodes.get(node).map(|n| n.cfg.peer);
        self.sets.last().is_some_and(|q| q.groups().flatten().any(|v| Some(v.peer) == peer && v.witness))
    }

    /// How many live nodes must have the same table in the end.
    pub(super) fn full_tables(&self, q: &QuorumView) -> usize {
        q.voters.iter().filter(|v| v.counts).count()
    }
}
