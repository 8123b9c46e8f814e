//! I5 (quorum mode): what is called stable is on the disks of a majority of the voters, with the stores they were named
//! with, of both sets while a change is under way; and nothing is acknowledged before.

use std::collections::BTreeMap;

use clawmesh_protocol::{
    ids::{Epoch, TaskId, Ver},
    message::Message,
    quorum::{MeshConfig, Voter},
};

use super::{Check, ledger::Ledger};
use crate::oracle::{Disks, Entry, Fact};

/// Compares each stable write with the voters' disks.
#[derive(Default)]
pub(super) struct Majority {
    ledger: Ledger,
    /// What was found on a majority, and in which epoch last: a disk can be lost after that.
    stable: BTreeMap<TaskId, Epoch>,
}

fn on_majority(q: &MeshConfig, id: &TaskId, ver: Ver, disks: &Disks) -> bool {
    q.majority(|v: &Voter| {
        let disk = disks.node(v.peer).and_then(|n| disks.now.get(n));
        // What a destroyed one had is not known any more.
        disk.is_some_and(|d| d.destroyed || (d.store == v.store && d.recs.get(id).is_some_and(|r| r.ver >= ver)))
    })
}

impl Check for Majority {
    fn name(&self) -> &'static str {
        "I5"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        for (seq, r) in self.ledger.see(e, disks) {
            let Some(w) = self.ledger.epochs.get(&r.ver.epoch) else { continue };
            // A change can have come into force since: its joint set was stable, which made this write so, too.
            if !w.in_force(seq).any(|q| on_majority(q, &r.id, r.ver, disks)) {
                return Err(format!("{:?} of {:?} is called stable without a majority of the voters' disks", r.ver, r.id));
            }
            self.stable.insert(r.id, r.ver.epoch);
        }
        if let Fact::Sent(_, m) = &e.fact
            && let Message::SubmitAck(a) = &**m
            && let Some(w) = self.ledger.epochs.get(&a.epoch)
            // In an epoch that had voters from the beginning.
            && w.configs.contains_key(&0)
            && self.stable.get(&a.id) != Some(&a.epoch)
            && !w.configs.values().any(|q| on_majority(q, &a.id, Ver { epoch: a.epoch, seq: 0 }, disks))
        {
            return Err(format!("{:?} is acknowledged before it is stable", a.id));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clawmesh_protocol::{io::Event, message::SubmitAck};

    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn a_minority_a_stranger_and_half_a_change_are_caught() {
        let run = |on: &[usize], stores: [u64; 4], joint: bool| {
            let mut log: Vec<(usize, Fact)> = (0..4).map(|n| (n, Fact::Boot { store: stores[n], boot: 1, fresh: true })).collect();
            log.push((0, configured(1, voted(1, 0), 1, &[0, 1, 2])));
            if joint {
                log.push((0, changing(2, voted(1, 0), 2, &[0, 1, 2], &[0, 2, 3])));
            }
            for n in on {
                log.push((*n, batch(3, vec![rec(task(1), voted(1, 0), 3)])));
                log.push((*n, Fact::Durable(3)));
            }
            if !on.contains(&0) {
                log.push((0, batch(3, vec![rec(task(1), voted(1, 0), 3)])));
            }
            log.push((0, Fact::Event(Event::Stable { epoch: voted(1, 0), seq: 3, copies: 2, took_ms: 0 })));
            judge(Majority::default(), log).is_some()
        };
        let stores = [1; 4];
        assert!(!run(&[0, 1], stores, false));
        assert!(!run(&[1, 2], stores, false));
        assert!(run(&[0], stores, false), "one of three");
        assert!(run(&[0, 3], stores, false), "one of three and a stranger");
        assert!(run(&[0, 1], [1, 7, 1, 1], false), "the store is another one (C3)");
        assert!(run(&[0, 1], stores, true), "a majority of the old set only");
        assert!(!run(&[0, 2], stores, true));
    }

    #[test]
    fn an_acknowledgement_needs_a_majority_once_and_a_deleted_record_none() {
        let start = || {
            vec![
                (0, configured(1, voted(1, 0), 1, &[0, 1, 2])),
                (0, Fact::Event(Event::Serving(voted(1, 0)))),
                (0, batch(2, vec![rec(task(1), voted(1, 0), 2)])),
            ]
        };
        let stores = || (0..4).map(|n| (n, Fact::Boot { store: 1, boot: 1, fresh: true }));
        let stable = || (0, Fact::Event(Event::Stable { epoch: voted(1, 0), seq: 2, copies: 2, took_ms: 0 }));
        let held = |n| [(n, batch(2, vec![rec(task(1), voted(1, 0), 2)])), (n, Fact::Durable(2))];
        let ack = || {
            let m = SubmitAck { id: task(1), copies: 2, epoch: voted(1, 0), ext: Default::default() };
            (0, Fact::Sent(peer(3), Arc::new(Message::SubmitAck(m))))
        };
        let run = |more: Vec<(usize, Fact)>| judge(Majority::default(), stores().chain(start()).chain(more).collect()).is_some();
        let both = || [(0, Fact::Durable(2))].into_iter().chain(held(1));
        assert!(!run(both().chain([stable(), ack()]).collect()));
        let lost = (1, Fact::Boot { store: 9, boot: 2, fresh: true });
        assert!(!run(both().chain([stable(), lost.clone(), ack()]).collect()), "it was stable before the disk was lost");
        assert!(run(both().chain([lost, ack()]).collect()));
        assert!(run(vec![ack()]));
        let deleted = |node| (node, Fact::Batch(Arc::new(crate::oracle::Parsed { no: 3, dels: vec![task(1)], ..Default::default() })));
        assert!(!run(vec![deleted(0), stable()]), "deleted by its coordinator (G3)");
        assert!(run(vec![deleted(1), stable()]));
    }
}
