//! I6, from the coordinator's side (S3): within one epoch a recorded outcome is not replaced by another one,
//! unless the origin has said that it accepted that one.

use std::collections::{BTreeMap, BTreeSet};

use clawmesh_protocol::{
    config::VOTED,
    ids::{Epoch, TaskId},
    io::Event,
    record::Outcome,
};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// The outcome that each task's coordinator wrote last, and in which epoch.
#[derive(Default)]
pub(super) struct FirstReport {
    last: BTreeMap<TaskId, (Epoch, Outcome)>,
    /// Epochs that have begun to serve.  Before that the claimant of one with voters still hears of newer records.
    served: BTreeSet<Epoch>,
}

impl Check for FirstReport {
    fn name(&self) -> &'static str {
        "I6"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        if let Fact::Event(Event::Serving(x)) = &e.fact {
            self.served.insert(*x);
        }
        let Fact::Batch(p) = &e.fact else { return Ok(()) };
        for (r, _) in &p.recs {
            let epoch = r.ver.epoch;
            let Some(o) = r.outcome.as_ref().filter(|_| disks.node(epoch.peer) == Some(e.node)) else { continue };
            match self.last.insert(r.id, (epoch, o.clone())) {
                Some((before, old))
                    if before == epoch && old != *o && !r.delivered && (epoch.n < VOTED || self.served.contains(&epoch)) =>
                {
                    return Err(format!("the outcome of {:?} went from {old:?} to {o:?} within {epoch:?}", r.id));
                }
                _ => {}
            }
        }
        // Deleted (G3), and met again with a node that came late: nobody knows any more how it had ended.
        for id in &p.dels {
            if self.last.get(id).is_some_and(|(epoch, _)| disks.node(epoch.peer) == Some(e.node)) {
                self.last.remove(id);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clawmesh_protocol::record::End;

    use super::*;
    use crate::{check::fixture::*, oracle::Parsed};

    #[test]
    fn an_outcome_that_a_later_report_replaced_is_caught() {
        let ended = |n, seq, k, delivered| {
            let mut r = rec(task(1), epoch(n, 0), seq);
            (r.outcome, r.delivered) = (Some(outcome(End::Done, k)), delivered);
            (0, batch(seq, vec![r]))
        };
        assert_eq!(judge(FirstReport::default(), vec![ended(1, 1, 1, false), ended(1, 2, 1, true)]), None);
        assert_eq!(judge(FirstReport::default(), vec![ended(1, 1, 1, false), ended(1, 2, 2, true)]), None, "its origin's word");
        assert_eq!(judge(FirstReport::default(), vec![ended(1, 1, 1, false), ended(2, 1, 2, false)]), None, "another epoch knew more");
        assert!(judge(FirstReport::default(), vec![ended(1, 1, 1, false), ended(1, 2, 2, false)]).is_some());
        let deleted = |node| (node, Fact::Batch(Arc::new(Parsed { no: 3, dels: vec![task(1)], ..Parsed::default() })));
        assert_eq!(judge(FirstReport::default(), vec![ended(1, 1, 1, false), deleted(0), ended(1, 2, 2, false)]), None, "forgotten");
        assert!(judge(FirstReport::default(), vec![ended(1, 1, 1, false), deleted(1), ended(1, 2, 2, false)]).is_some());
        let serves = (0, Fact::Event(Event::Serving(voted(1, 0))));
        let by_voters = |seq, k| {
            let mut r = rec(task(1), voted(1, 0), seq);
            r.outcome = Some(outcome(End::Done, k));
            (0, batch(seq, vec![r]))
        };
        assert_eq!(judge(FirstReport::default(), vec![by_voters(1, 1), by_voters(2, 2), serves.clone()]), None, "it still pulls");
        assert!(judge(FirstReport::default(), vec![by_voters(1, 1), serves, by_voters(2, 2)]).is_some());
    }
}
