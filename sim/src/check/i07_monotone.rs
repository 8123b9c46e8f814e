//! I7: on one disk, an outcome never becomes none, and `delivered`, `cancel` and the counters of attempts, crashes
//! and losses never fall (T3, S5).

use clawmesh_protocol::record::Rec;

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// Compares each record with the one it replaces.
#[derive(Default)]
pub(super) struct Monotone {
    /// What a node has handed to its disk, durable or not.
    last: std::collections::BTreeMap<(usize, clawmesh_protocol::ids::TaskId), Marks>,
}

/// What only rises: (outcome, delivered, cancel), (issued, crashes, losses).
type Marks = ((bool, bool, bool), (u32, u32, u32));

fn marks(r: &Rec) -> Marks {
    ((r.outcome.is_some(), r.delivered, r.cancel), (r.issued, r.crashes, r.losses))
}

impl Check for Monotone {
    fn name(&self) -> &'static str {
        "I7"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Boot { .. } => {
                // What was not durable is gone, with whatever it said.
                self.last.retain(|(n, _), _| *n != e.node);
                if let Some(d) = disks.now.get(e.node) {
                    let kept = d.recs.iter().map(|(id, r)| ((e.node, *id), marks(r)));
                    self.last.extend(kept);
                }
            }
            Fact::Batch(p) => {
                for id in &p.dels {
                    self.last.remove(&(e.node, *id));
                }
                for (r, _) in &p.recs {
                    let new = marks(r);
                    let old = self.last.insert((e.node, r.id), new).unwrap_or_default();
                    let fell = [(old.0.0, new.0.0), (old.0.1, new.0.1), (old.0.2, new.0.2)].iter().any(|(a, b)| a > b);
                    let fewer = [(old.1.0, new.1.0), (old.1.1, new.1.1), (old.1.2, new.1.2)].iter().any(|(a, b)| a > b);
                    // Deleted elsewhere (G3), and met again as it was before: how often it was tried is not known there any more.
                    let fewer = fewer && !disks.deleted.contains(&r.id);
                    if fell || fewer {
                        let what = "(outcome, delivered, cancel), (issued, crashes, losses)";
                        return Err(format!("{:?} at {:?}: {what} went from {old:?} to {new:?}", r.id, r.ver));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{check::fixture::*, oracle::Parsed};

    #[test]
    fn a_cancel_that_disappears_is_caught() {
        let mut r = rec(task(1), epoch(1, 0), 1);
        r.cancel = true;
        let plain = rec(task(1), epoch(1, 0), 2);
        assert_eq!(judge(Monotone::default(), vec![(0, batch(1, vec![plain.clone()])), (0, batch(2, vec![r.clone()]))]), None);
        assert!(judge(Monotone::default(), vec![(0, batch(1, vec![r.clone()])), (0, batch(2, vec![plain.clone()]))]).is_some());
        let mut crashed = plain.clone();
        crashed.crashes = 2;
        assert!(judge(Monotone::default(), vec![(0, batch(1, vec![crashed])), (0, batch(2, vec![plain.clone()]))]).is_some());
        // Who has deleted it and meets an older version again can't know better.
        let older = || vec![rec(task(1), epoch(1, 0), 2)];
        let mut over = rec(task(1), epoch(1, 0), 1);
        over.outcome = Some(outcome(clawmesh_protocol::record::End::Retired, 1));
        over.crashes = 2;
        let ended = |mut list: Vec<Rec>| {
            list.iter_mut().for_each(|r| r.outcome.clone_from(&over.outcome));
            batch(2, list)
        };
        let gone = Fact::Batch(Arc::new(Parsed { no: 2, dels: vec![task(1)], ..Parsed::default() }));
        let deleted = vec![(1, batch(1, vec![over.clone()])), (1, gone), (1, Fact::Durable(2))];
        let log = [vec![(0, batch(1, vec![over.clone()]))], deleted, vec![(0, ended(older()))]].concat();
        assert_eq!(judge(Monotone::default(), log), None);
        assert!(judge(Monotone::default(), vec![(0, batch(1, vec![over.clone()])), (0, ended(older()))]).is_some());
        // On another disk it says nothing.
        assert_eq!(judge(Monotone::default(), vec![(0, batch(1, vec![r])), (1, batch(1, vec![plain]))]), None);
    }
}
