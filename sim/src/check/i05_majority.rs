//! I5 (quorum mode): what is called stable is on the disks of a majority of the voters, with the stores they were named
//! with, of both sets while a change is under way; and nothing is acknowledged before.

use clawmesh_protocol::{
    ids::{TaskId, Ver},
    message::Message,
    quorum::{MeshConfig, Voter},
};

use super::{Check, ledger::Ledger};
use crate::oracle::{Disks, Entry, Fact};

/// Compares each stable write with the voters' disks.
#[derive(Default)]
pub(super) struct Majority {
    ledger: Ledger,
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
        }
        if let Fact::Sent(_, m) = &e.fact
            && let Message::SubmitAck(a) = &**m
            && let Some(w) = self.ledger.epochs.get(&a.epoch)
            // In an epoch that had voters from the beginning.
            && w.configs.contains_key(&0)
            && !w.configs.values().any(|q| on_majority(q, &a.id, Ver { epoch: a.epoch, seq: 0 }, disks))
        {
            return Err(format!("{:?} is acknowledged before it is stable", a.id));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clawmesh_protocol::io::Event;

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
}
