//! I12: a coordinator issues no attempt while another one of the task is live by its own record.

use std::collections::BTreeSet;

use clawmesh_protocol::ids::{Attempt, TaskId};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// Attempts that were issued.
#[derive(Default)]
pub(super) struct OneLive {
    issued: BTreeSet<(TaskId, Attempt)>,
}

impl Check for OneLive {
    fn name(&self) -> &'static str {
        "I12"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        let Fact::Batch(p) = &e.fact else { return Ok(()) };
        for (r, _) in &p.recs {
            for l in &r.live {
                // The first record with an attempt is the one that issues it.  Two sides of a split may each have a live
                // one: a merge brings them together later.
                let new = disks.node(l.attempt.epoch.peer) == Some(e.node) && self.issued.insert((r.id, l.attempt));
                if let Some(other) = r.live.iter().find(|o| new && o.attempt != l.attempt) {
                    return Err(format!("{:?}: attempt {:?} is issued while {:?} is live", r.id, l.attempt, other.attempt));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clawmesh_protocol::record::Live;

    use super::*;
    use crate::check::fixture::*;

    fn live(no: u64, attempts: &[Attempt]) -> Fact {
        let mut r = rec(task(1), epoch(1, 0), no);
        r.live = attempts
            .iter()
            .map(|a| Live { attempt: *a, worker: peer(1), wboot: 1, placed_at: 0, agent: false, ext: Default::default() })
            .collect();
        batch(no, vec![r])
    }

    #[test]
    fn a_second_live_attempt_of_one_coordinator_is_caught() {
        let [a, b] = [attempt(1, 1), attempt(2, 1)];
        assert_eq!(judge(OneLive::default(), vec![(0, live(1, &[a])), (0, live(2, &[])), (0, live(3, &[b]))]), None);
        assert!(judge(OneLive::default(), vec![(0, live(1, &[a])), (0, live(2, &[a, b]))]).is_some());
        // Issued on two sides of a split, and merged.
        let far = Attempt { k: 1, epoch: epoch(2, 1) };
        assert_eq!(judge(OneLive::default(), vec![(0, live(1, &[a])), (1, live(1, &[far])), (0, live(2, &[a, far]))]), None);
    }
}
