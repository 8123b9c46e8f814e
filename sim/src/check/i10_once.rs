//! I10: a task that must not run twice starts at most once, in total.

use std::collections::{BTreeMap, BTreeSet};

use clawmesh_protocol::ids::{Attempt, TaskId};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// Starts of such tasks.
#[derive(Default)]
pub(super) struct Once {
    once: BTreeSet<TaskId>,
    started: BTreeMap<TaskId, (usize, Attempt)>,
}

impl Check for Once {
    fn name(&self) -> &'static str {
        "I10"
    }
    fn see(&mut self, e: &Entry, _: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Batch(p) => self.once.extend(p.recs.iter().filter(|(r, _)| r.need.at_most_once).map(|(r, _)| r.id)),
            Fact::Started(id, a) if self.once.contains(id) => {
                if let Some((node, first)) = self.started.insert(*id, (e.node, *a)) {
                    return Err(format!("{id:?} must not run twice: {first:?} started on node {node}, and now {a:?}"));
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
    fn a_second_start_is_caught() {
        let run = |once: bool, second: bool| {
            let mut r = rec(task(1), epoch(1, 0), 1);
            r.need.at_most_once = once;
            let mut log = vec![(0, batch(1, vec![r])), (1, Fact::Started(task(1), attempt(1, 1)))];
            if second {
                log.push((2, Fact::Started(task(1), attempt(2, 2))));
            }
            judge(Once::default(), log).is_some()
        };
        assert_eq!([run(true, false), run(true, true), run(false, true)], [false, true, false]);
    }
}
