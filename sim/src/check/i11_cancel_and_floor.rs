//! I11: no attempt is assigned, be it for the first time or again, after a cancel that is stable in the epoch of who assigns it
//! or was on its own disk when it claimed, nor for a task at or below a floor that it knows.

use std::collections::{BTreeMap, BTreeSet};

use clawmesh_protocol::{
    ids::{Epoch, Origin, TaskId},
    io::Event,
};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// What each epoch and each node must know.
#[derive(Default)]
pub(super) struct CancelAndFloor {
    /// Cancels written in an epoch, by write.
    written: BTreeMap<Epoch, BTreeMap<u64, TaskId>>,
    cancelled: BTreeMap<Epoch, BTreeSet<TaskId>>,
    /// The epoch that each node claimed last.
    epochs: BTreeMap<usize, Epoch>,
    /// Floors by node, with the batch that holds each; 0 = durable.
    floors: BTreeMap<(usize, Origin), (u64, (u64, u64))>,
}

impl CancelAndFloor {
    fn assigned(&self, node: usize, id: &TaskId) -> Result<(), String> {
        let epoch = self.epochs.get(&node).copied().unwrap_or(Epoch::ZERO);
        if self.cancelled.get(&epoch).is_some_and(|c| c.contains(id)) {
            return Err(format!("{id:?} is assigned in {epoch:?}, which knows that it is cancelled"));
        }
        match self.floors.get(&(node, id.origin)) {
            Some((_, floor)) if id.place() <= *floor => Err(format!("{id:?} is assigned, but its origin's floor is {floor:?}")),
            _ => Ok(()),
        }
    }
}

impl Check for CancelAndFloor {
    fn name(&self) -> &'static str {
        "I11"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Batch(p) => {
                for (r, _) in p.recs.iter().filter(|(r, _)| r.cancel && disks.node(r.ver.epoch.peer) == Some(e.node)) {
                    self.written.entry(r.ver.epoch).or_default().insert(r.ver.seq, r.id);
                }
                for f in &p.floors {
                    let known = self.floors.entry((e.node, f.origin)).or_default();
                    *known = (*known).max((p.no, (f.inc, f.seq)));
                }
            }
            Fact::Down(kept) => self.floors.retain(|(n, _), (no, _)| {
                let stays = *n != e.node || *no <= *kept;
                if *n == e.node {
                    *no = 0;
                }
                stays
            }),
            Fact::Boot { fresh: true, .. } => self.floors.retain(|(n, _), _| *n != e.node),
            Fact::Event(Event::Claimed(epoch)) => {
                let mine = disks.now.get(e.node).into_iter().flat_map(|d| d.recs.values());
                self.epochs.insert(e.node, *epoch);
                self.cancelled.insert(*epoch, mine.filter(|r| r.cancel).map(|r| r.id).collect());
            }
            Fact::Event(Event::Stable { epoch, seq, .. }) => {
                if let Some(w) = self.written.get_mut(epoch) {
                    let later = w.split_off(&(seq + 1));
                    let stable = std::mem::replace(w, later);
                    self.cancelled.entry(*epoch).or_default().extend(stable.into_values());
                }
            }
            Fact::Event(Event::Assigned(id, ..)) => return self.assigned(e.node, id),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clawmesh_protocol::message::Floor;

    use super::*;
    use crate::{check::fixture::*, oracle::Parsed};

    fn cancel(n: u64) -> Fact {
        let mut r = rec(task(1), epoch(n, 0), 3);
        r.cancel = true;
        batch(1, vec![r])
    }
    fn assign(n: u64) -> Fact {
        Fact::Event(Event::Assigned(task(1), attempt(1, n), peer(1), 0))
    }
    fn claim(n: u64, node: usize) -> Fact {
        Fact::Event(Event::Claimed(epoch(n, node)))
    }
    fn stable(seq: u64) -> Fact {
        Fact::Event(Event::Stable { epoch: epoch(1, 0), seq, copies: 2, took_ms: 0 })
    }

    #[test]
    fn an_attempt_after_a_stable_cancel_is_caught() {
        let log = |seq| vec![(0, claim(1, 0)), (0, cancel(1)), (0, stable(seq)), (0, assign(1))];
        assert_eq!(judge(CancelAndFloor::default(), log(2)), None);
        assert!(judge(CancelAndFloor::default(), log(3)).is_some());
        // The next epoch of a node that holds the cancel knows it, too.
        let next = |upto, attempt| vec![(0, cancel(1)), (0, Fact::Durable(upto)), (0, claim(2, 0)), (0, assign(attempt))];
        assert_eq!(judge(CancelAndFloor::default(), next(0, 2)), None);
        assert!(judge(CancelAndFloor::default(), next(1, 2)).is_some());
        assert!(judge(CancelAndFloor::default(), next(1, 1)).is_some(), "also an attempt of before");
        // Another one may not have heard of it.
        let other = vec![(0, claim(1, 0)), (0, cancel(1)), (0, stable(3)), (1, claim(2, 1)), (1, assign(1))];
        assert_eq!(judge(CancelAndFloor::default(), other), None);
    }

    #[test]
    fn an_attempt_below_a_known_floor_is_caught() {
        let floor = |seq| {
            let f = Floor { origin: task(1).origin, inc: 1, seq };
            Fact::Batch(Arc::new(Parsed { no: 1, floors: vec![f], ..Parsed::default() }))
        };
        assert_eq!(judge(CancelAndFloor::default(), vec![(0, floor(0)), (0, assign(1))]), None);
        assert!(judge(CancelAndFloor::default(), vec![(0, floor(1)), (0, assign(1))]).is_some());
        assert_eq!(judge(CancelAndFloor::default(), vec![(1, floor(1)), (0, assign(1))]), None);
        assert_eq!(judge(CancelAndFloor::default(), vec![(0, floor(1)), (0, Fact::Down(0)), (0, assign(1))]), None);
    }
}
