//! L1: time in which a coordinator's machine slept or its process stood still is no silence of its workers.  Who has
//! just gone on distrusts its own view for five seconds, and declares nobody lost (S4).

use std::collections::{BTreeMap, BTreeSet};

use clawmesh_protocol::{
    ids::{Attempt, TaskId},
    record::End,
};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// A stop as long as this is noticed by everybody, ms.
const STOP_MS: u64 = 3_000;
/// So long after it nobody is declared lost, ms; the core waits for longer.
const QUIET_MS: u64 = 4_000;

/// Who stood still until when.
#[derive(Default)]
pub(super) struct Awake {
    stopped: BTreeMap<usize, u64>,
    resumed: BTreeMap<usize, u64>,
    lost: BTreeSet<(TaskId, Attempt)>,
}

impl Check for Awake {
    fn name(&self) -> &'static str {
        "L1"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Paused(true) => {
                self.stopped.insert(e.node, e.at);
            }
            Fact::Paused(false) => {
                let since = self.stopped.remove(&e.node).unwrap_or(e.at);
                if e.at >= since + STOP_MS {
                    self.resumed.insert(e.node, e.at);
                }
            }
            Fact::Boot { .. } => {
                self.stopped.remove(&e.node);
                self.resumed.remove(&e.node);
            }
            Fact::Batch(p) => {
                for (r, _) in p.recs.iter().filter(|(r, _)| disks.node(r.ver.epoch.peer) == Some(e.node)) {
                    // Others say of an attempt that it is lost, too; silence is the coordinator's own verdict.
                    for past in r.past.iter().filter(|p| p.end == End::Lost && p.why.contains("was not heard of")) {
                        let new = self.lost.insert((r.id, past.attempt));
                        if new && self.resumed.get(&e.node).is_some_and(|t| e.at < t + QUIET_MS) {
                            return Err(format!("{:?} attempt {:?} is called lost right after a stop: {}", r.id, past.attempt, past.why));
                        }
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
    use clawmesh_protocol::record::Live;

    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn a_worker_that_is_lost_because_the_coordinator_slept_is_caught() {
        let log = |slept: u64, after: u64| {
            let mut r = rec(task(1), epoch(1, 0), 1);
            r.live = vec![Live { attempt: attempt(1, 1), worker: peer(1), wboot: 1, placed_at: 0, agent: false, ext: Default::default() }];
            r.end_live(attempt(1, 1), End::Lost, None, "B was not heard of for 9 s", 0);
            let facts = [(0, Fact::Paused(true)), (slept, Fact::Paused(false)), (slept + after, batch(1, vec![r]))];
            let disks = Disks::new((0..2).map(peer).collect());
            let mut c = Awake::default();
            facts.into_iter().any(|(at, fact)| c.see(&Entry { at, node: 0, fact }, &disks).is_err())
        };
        assert!(log(10_000, 100));
        assert!(!log(10_000, 6_000), "it has had time to hear of it");
        assert!(!log(500, 100), "nobody notices so short a stop");
    }
}
