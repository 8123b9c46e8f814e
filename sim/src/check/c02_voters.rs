//! C2: voters change through a joint set that a majority of both sets has, each epoch writes them again, and who begins
//! to serve has the promises of a majority of both sets and knows every set that was settled.

use std::collections::BTreeMap;
use std::sync::Arc;

use clawmesh_protocol::{
    config::VOTED,
    ids::{Epoch, Ver},
    io::Event,
    quorum::{MeshConfig, Mode, Voter},
};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// What each node has promised and which voters were settled.
#[derive(Default)]
pub(super) struct Voters {
    promised: BTreeMap<usize, Epoch>,
    /// The last configuration that each coordinator wrote.
    written: BTreeMap<usize, Arc<MeshConfig>>,
    /// The newest of each epoch that was called stable.
    settled: BTreeMap<Epoch, Ver>,
}

/// A majority of each set, whatever the configuration itself says of whom it asks.
fn majorities(q: &MeshConfig, yes: impl Fn(&Voter) -> bool) -> bool {
    let sets = [q.voters.as_slice(), q.pending.as_slice()];
    sets.iter().filter(|s| !s.is_empty()).all(|s| 2 * s.iter().filter(|v| yes(v)).count() > s.len())
}

/// A majority of each set has this one, or a newer one, on disk.
fn kept(q: &MeshConfig, disks: &Disks) -> bool {
    majorities(q, |v| {
        let d = disks.node(v.peer).and_then(|n| disks.now.get(n));
        // What a destroyed one had is not known any more.
        d.is_some_and(|d| d.destroyed || (d.store == v.store && d.config.as_ref().is_some_and(|c| c.ver >= q.ver)))
    })
}

impl Voters {
    fn written(&mut self, node: usize, new: &Arc<MeshConfig>, disks: &Disks) -> Result<(), String> {
        let old = self.written.insert(node, new.clone()).filter(|o| o.ver.epoch == new.ver.epoch);
        let Some(old) = old.filter(|o| o.mode == Mode::Quorum && new.voters != o.voters) else { return Ok(()) };
        if old.pending != new.voters {
            return Err(format!("{:?} replaces the voters without a joint set before it", new.ver));
        }
        if !kept(&old, disks) {
            return Err(format!("{:?} replaces the voters before the joint set {:?} is on majorities of both", new.ver, old.ver));
        }
        Ok(())
    }

    fn begins(&self, node: usize, epoch: Epoch, disks: &Disks) -> Result<(), String> {
        let Some(q) = disks.config(node) else { return Ok(()) };
        // What was settled in a higher epoch it need not know: it has slept since its voters consented, perhaps, and no majority
        // will take what it writes any more.
        if let Some((_, s)) = self.settled.range(..=epoch).next_back().filter(|(_, s)| q.ver < **s) {
            return Err(format!("begins to serve {epoch:?} by the voters of {:?}, after {s:?} was settled", q.ver));
        }
        let consents = |v: &Voter| {
            let n = disks.node(v.peer);
            n.and_then(|n| self.promised.get(&n)).is_some_and(|p| *p >= epoch)
                && n.and_then(|n| disks.now.get(n)).is_some_and(|d| d.destroyed || d.store == v.store)
        };
        // The epoch's first write says the voters again: what counts is what it claimed by.
        if q.mode == Mode::Quorum && !majorities(q, consents) {
            return Err(format!("begins to serve {epoch:?} without a majority of every set of voters of {:?}", q.ver));
        }
        Ok(())
    }
}

impl Check for Voters {
    fn name(&self) -> &'static str {
        "C2"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Probe { promised, .. } => {
                self.promised.insert(e.node, *promised);
                Ok(())
            }
            Fact::Batch(p) => match &p.config {
                Some(q) if q.ver.epoch.n >= VOTED && disks.node(q.ver.epoch.peer) == Some(e.node) => self.written(e.node, q, disks),
                _ => Ok(()),
            },
            Fact::Event(Event::Serving(x)) if x.n >= VOTED => self.begins(e.node, *x, disks),
            Fact::Event(Event::Stable { epoch, seq, .. }) if epoch.n >= VOTED => {
                let own = self.written.get(&e.node).filter(|q| q.ver.epoch == *epoch);
                match own {
                    None => Err(format!("write {seq} of {epoch:?} is stable, and the voters were not written in this epoch")),
                    Some(q) if q.ver.seq <= *seq => {
                        let newest = self.settled.entry(*epoch).or_insert(q.ver);
                        *newest = q.ver.max(*newest);
                        Ok(())
                    }
                    Some(_) => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::fixture::*;

    fn boots() -> Vec<(usize, Fact)> {
        (0..4).map(|n| (n, Fact::Boot { store: 1, boot: 1, fresh: true })).collect()
    }
    fn promise(n: usize, of: Epoch) -> (usize, Fact) {
        (n, Fact::Probe { promised: of, serving: None })
    }
    fn stable(of: Epoch, seq: u64) -> (usize, Fact) {
        (0, Fact::Event(Event::Stable { epoch: of, seq, copies: 2, took_ms: 0 }))
    }

    #[test]
    fn a_change_without_a_joint_set_or_before_it_is_kept_is_caught() {
        let x = voted(1, 0);
        let run = |joint: bool, on: &[usize]| {
            let mut log = boots();
            log.push((0, configured(1, x, 1, &[0, 1, 2])));
            if joint {
                log.extend(on.iter().map(|n| (*n, changing(2, x, 2, &[0, 1, 2], &[0, 2, 3]))));
                log.extend(on.iter().map(|n| (*n, Fact::Durable(2))));
            }
            log.push((0, configured(3, x, 3, &[0, 2, 3])));
            judge(Voters::default(), log)
        };
        assert_eq!(run(true, &[0, 2]), None);
        assert!(run(false, &[]).is_some());
        assert!(run(true, &[0, 1]).is_some(), "a majority of the old set only");
        assert!(run(true, &[0, 3]).is_some(), "a majority of the new set only");
        assert!(run(true, &[0]).is_some());
    }

    #[test]
    fn a_claim_by_half_of_the_voters_or_by_old_ones_is_caught() {
        let (x, y) = (voted(1, 0), voted(2, 1));
        let run = |promised: &[usize], knows: bool| {
            let mut log = boots();
            log.extend([(0, configured(1, x, 1, &[0, 1, 2])), (1, configured(1, x, 1, &[0, 1, 2]))]);
            log.push((0, changing(2, x, 2, &[0, 1, 2], &[1, 2, 3])));
            log.push(stable(x, 2));
            if knows {
                log.push((1, changing(2, x, 2, &[0, 1, 2], &[1, 2, 3])));
            }
            log.extend(promised.iter().map(|n| promise(*n, y)));
            log.push((1, Fact::Event(Event::Serving(y))));
            judge(Voters::default(), log)
        };
        assert_eq!(run(&[1, 2], true), None);
        assert!(run(&[0, 1], true).is_some(), "one of three pending ones");
        assert!(run(&[1, 2], false).is_some(), "it does not know what was settled");
    }

    #[test]
    fn who_was_overtaken_in_its_sleep_need_not_know_what_was_settled_since() {
        let (x, y, z) = (voted(1, 0), voted(2, 1), voted(3, 2));
        let mut log = boots();
        log.extend([(1, configured(1, x, 1, &[0, 1, 2])), (2, configured(1, x, 1, &[0, 1, 2]))]);
        log.extend([0, 1].map(|n| promise(n, y)));
        log.push((2, configured(2, z, 1, &[0, 1, 2])));
        log.push((2, Fact::Event(Event::Stable { epoch: z, seq: 1, copies: 2, took_ms: 0 })));
        log.push((1, Fact::Event(Event::Serving(y))));
        assert_eq!(judge(Voters::default(), log), None);
    }

    #[test]
    fn an_epoch_that_does_not_write_its_voters_is_caught() {
        let x = voted(1, 0);
        let mut log = boots();
        log.push((0, batch(1, vec![rec(task(1), x, 1)])));
        log.push(stable(x, 1));
        assert!(judge(Voters::default(), log).is_some());
    }
}
