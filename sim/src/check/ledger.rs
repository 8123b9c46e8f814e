//! What the quorum checkers share: which voters were in force for each write, and what became stable under them.

use std::collections::BTreeMap;
use std::sync::Arc;

use clawmesh_protocol::{
    config::VOTED,
    ids::{Epoch, TaskId},
    io::Event,
    quorum::MeshConfig,
    record::Rec,
};

use crate::oracle::{Disks, Entry, Fact};

/// One epoch as its coordinator wrote it.
#[derive(Default)]
pub(super) struct Written {
    /// The voters, by the write that put them in force.
    pub(super) configs: BTreeMap<u64, Arc<MeshConfig>>,
    /// Records by write.
    pub(super) recs: BTreeMap<u64, Arc<Rec>>,
    /// The highest write that was called stable.
    pub(super) stable: u64,
}

impl Written {
    /// The voters in force at this write, and all that came after them in the epoch.
    pub(super) fn in_force(&self, seq: u64) -> impl Iterator<Item = &Arc<MeshConfig>> {
        let first = self.configs.range(..=seq).next_back().map_or(seq, |(s, _)| *s);
        self.configs.range(first..).map(|(_, q)| q)
    }
}

/// Follows the log.
#[derive(Default)]
pub(super) struct Ledger {
    /// Epochs that had voters.
    pub(super) epochs: BTreeMap<Epoch, Written>,
}

impl Ledger {
    /// Takes a line in; gives back the writes that it calls stable, of an epoch with voters.
    pub(super) fn see(&mut self, e: &Entry, disks: &Disks) -> Vec<(u64, Arc<Rec>)> {
        match &e.fact {
            Fact::Batch(p) => {
                let own = |x: Epoch| disks.node(x.peer) == Some(e.node);
                if let Some(q) = p.config.as_ref().filter(|q| own(q.ver.epoch) && voted(&q.ver.epoch)) {
                    self.epochs.entry(q.ver.epoch).or_default().configs.insert(q.ver.seq, q.clone());
                }
                // Deleted (G3): what was written of it before need not be anywhere any more, and has no effect any more.
                if !p.dels.is_empty() && !p.released {
                    for (_, w) in self.epochs.iter_mut().filter(|(x, _)| own(**x)) {
                        w.recs.retain(|_, r| !p.dels.contains(&r.id));
                    }
                }
                // What is joined while pulling is written before the epoch begins to serve.
                for (r, _) in p.recs.iter().filter(|(r, _)| own(r.ver.epoch) && voted(&r.ver.epoch)) {
                    self.epochs.entry(r.ver.epoch).or_default().recs.insert(r.ver.seq, r.clone());
                }
            }
            // The voters it begins with: its epoch's first write says them again, if it does as it should.
            Fact::Event(Event::Serving(x)) => {
                if let Some(q) = disks.config(e.node).filter(|_| voted(x)) {
                    self.epochs.entry(*x).or_default().configs.insert(0, q.clone());
                }
            }
            Fact::Event(Event::Stable { epoch, seq, .. }) => {
                let Some(w) = self.epochs.get_mut(epoch) else { return Vec::new() };
                let from = w.stable + 1;
                w.stable = w.stable.max(*seq);
                if from > *seq {
                    return Vec::new();
                }
                // What was written before there were voters is stable by the rule of open mode.
                let first = w.configs.keys().next().copied().unwrap_or(u64::MAX);
                return w.recs.range(from.max(first)..=(*seq).max(from.max(first))).map(|(s, r)| (*s, r.clone())).collect();
            }
            _ => {}
        }
        Vec::new()
    }

    /// The epoch had voters.
    pub(super) fn by_majority(&self, x: &Epoch) -> bool {
        self.epochs.contains_key(x)
    }
}

/// Before it, the first voters are still being settled by the rules of open mode.
fn voted(x: &Epoch) -> bool {
    x.n >= VOTED
}

/// The node knows that the task's origin is done with it: when it has ended, it may be deleted here, or not be taken in (G3).
pub(super) fn below_floor(disks: &Disks, node: usize, id: &TaskId) -> bool {
    let Some(d) = disks.now.get(node) else { return false };
    let new = d.pending.iter().flat_map(|p| &p.floors).filter(|f| f.origin == id.origin).map(|f| (f.inc, f.seq));
    new.chain(d.floors.get(&id.origin).copied()).any(|f| (id.inc, id.seq) <= f)
}

/// The newest record of a task on a node, on its disk or on the way there.
pub(super) fn on_node<'a>(disks: &'a Disks, node: usize, id: &TaskId) -> Option<&'a Arc<Rec>> {
    let d = disks.now.get(node)?;
    for p in d.pending.iter().rev() {
        if p.dels.contains(id) {
            return None;
        }
        if let Some((r, _)) = p.recs.iter().find(|(r, _)| r.id == *id) {
            return Some(r);
        }
    }
    d.recs.get(id)
}
