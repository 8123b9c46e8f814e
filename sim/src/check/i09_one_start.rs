//! I9: an attempt is started at most once, and never on a worker that has durably seen its `Kill`.

use std::collections::{BTreeMap, BTreeSet};

use clawmesh_protocol::ids::{Attempt, TaskId};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// Starts and kills.
#[derive(Default)]
pub(super) struct OneStart {
    started: BTreeMap<(TaskId, Attempt), usize>,
    killed: BTreeMap<usize, BTreeMap<(TaskId, Attempt), u64>>,
    ended: BTreeSet<(TaskId, Attempt)>,
}

impl Check for OneStart {
    fn name(&self) -> &'static str {
        "I9"
    }
    fn see(&mut self, e: &Entry, _: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::KillSeen(id, a, batch) => {
                self.killed.entry(e.node).or_default().entry((*id, *a)).or_insert(*batch);
            }
            // A mark that was not durable is not remembered, and neither is the kill.
            Fact::Down(kept) => {
                if let Some(k) = self.killed.get_mut(&e.node) {
                    k.retain(|_, batch| *batch <= *kept);
                    // Batch numbers start anew at the next boot; what is kept is kept for good.
                    k.values_mut().for_each(|b| *b = 0);
                }
            }
            Fact::Destroyed => {
                self.killed.remove(&e.node);
            }
            Fact::Exited(id, a, _) => {
                self.ended.insert((*id, *a));
            }
            Fact::Started(id, a) => {
                let key = (*id, *a);
                if let Some(n) = self.started.insert(key, e.node) {
                    return Err(format!("{id:?} attempt {a:?} was started a second time (first on node {n})"));
                }
                if self.killed.get(&e.node).is_some_and(|k| k.contains_key(&key)) {
                    return Err(format!("{id:?} attempt {a:?} was started after its kill"));
                }
                if self.ended.contains(&key) {
                    return Err(format!("{id:?} attempt {a:?} was started after its end"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn a_second_start_and_a_start_after_a_kill_are_caught() {
        let s = |k| Fact::Started(task(1), attempt(k, 1));
        let kill = |k| Fact::KillSeen(task(1), attempt(k, 1), 3);
        assert_eq!(judge(OneStart::default(), vec![(0, s(1)), (1, s(2)), (0, kill(1))]), None);
        assert!(judge(OneStart::default(), vec![(0, s(1)), (1, s(1))]).is_some());
        assert!(judge(OneStart::default(), vec![(0, kill(2)), (0, s(2))]).is_some());
        assert!(judge(OneStart::default(), vec![(0, kill(2)), (0, Fact::Down(3)), (0, s(2))]).is_some());
        assert_eq!(judge(OneStart::default(), vec![(0, kill(2)), (0, Fact::Down(2)), (0, s(2))]), None);
    }
}
