//! I19: no ready task waits behind later ones of its kind that are not more urgent (S8).
//!
//! The protocol promises ten minutes between any two tasks.  Tasks that the same nodes can run are handed out strictly in
//! turn, so for these the checker allows ten seconds; only tasks that one coordinator admitted in one term are compared,
//! because those that come with a takeover bring the time they have waited along.  On the smaller side of a split what is
//! submitted there may be one that the other side has, too: such tasks wait longer, and go in the order of their ids (S7).

use std::collections::{BTreeMap, BTreeSet};

use clawmesh_protocol::{
    ids::TaskId,
    io::Event,
    spec::{Need, Strategy},
};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// How long a task may be overtaken, ms.
const PATIENCE_MS: u64 = 10_000;

/// Tasks that were admitted and never handed out, by coordinator.
#[derive(Default)]
pub(super) struct InTurn {
    needs: BTreeMap<TaskId, Need>,
    waiting: BTreeMap<usize, BTreeMap<TaskId, u64>>,
    /// Nodes that hold tasks back.
    holding: BTreeSet<usize>,
}

/// What decides which nodes can run it.
fn kind(n: &Need) -> String {
    let key = if n.strategy == Some(Strategy::Affinity) { n.key.as_str() } else { "" };
    format!("{:?} {} {} {} {:?} {:?} {:?} {key} {}", n.kind, n.skill, n.cpus, n.memory_mib, n.strategy, n.labels, n.pin, n.at_most_once)
}

impl InTurn {
    fn assigned(&mut self, e: &Entry, id: &TaskId, k: u32) -> Result<(), String> {
        let Some(waiting) = self.waiting.get_mut(&e.node) else { return Ok(()) };
        let (Some(since), 1) = (waiting.remove(id), k) else { return Ok(()) };
        let Some(mine) = self.needs.get(id) else { return Ok(()) };
        let overtaken = waiting.iter().filter(|(_, at)| **at + PATIENCE_MS <= e.at && **at < since).find(|(other, _)| {
            let other = self.needs.get(other);
            other.is_some_and(|n| n.priority.base() >= mine.priority.base() && kind(n) == kind(mine))
        });
        match overtaken {
            Some((other, at)) => Err(format!("{id:?} is handed out although {other:?} has waited for {} ms longer", since - at)),
            None => Ok(()),
        }
    }
}

impl Check for InTurn {
    fn name(&self) -> &'static str {
        "I19"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Batch(p) => {
                for (r, _) in &p.recs {
                    self.needs.entry(r.id).or_insert_with(|| r.need.clone());
                    // Another coordinator has decided or placed it, and its record has come.
                    let mut elsewhere = r.live.iter().any(|l| disks.node(l.attempt.epoch.peer) != Some(e.node));
                    // It was admitted in another term before: its record has come with its place in the queue.
                    elsewhere |= r.queued.epoch != r.ver.epoch || disks.node(r.queued.epoch.peer) != Some(e.node);
                    // Nobody waits for it any more; an attempt that has not left yet never will.
                    elsewhere |= r.cancel;
                    if let Some(w) = self.waiting.get_mut(&e.node).filter(|_| r.outcome.is_some() || elsewhere) {
                        w.remove(&r.id);
                    }
                }
            }
            // A new term.
            Fact::Boot { .. } | Fact::Event(Event::SteppedDown(..)) => {
                self.waiting.remove(&e.node);
                self.holding.remove(&e.node);
            }
            Fact::Event(Event::Serving(_)) => {
                self.waiting.remove(&e.node);
            }
            Fact::Event(Event::Member(_, "holds tasks back")) => {
                self.waiting.remove(&e.node);
                self.holding.insert(e.node);
            }
            Fact::Event(Event::Member(_, "holds nothing back any more")) => {
                self.holding.remove(&e.node);
            }
            Fact::Event(Event::Submitted(id)) if !self.holding.contains(&e.node) => {
                self.waiting.entry(e.node).or_default().insert(*id, e.at);
            }
            // An attempt may end before it could leave: its worker was gone before its record was stable.
            Fact::Event(Event::Decided(id, ..) | Event::AttemptEnded(id, ..)) => {
                self.waiting.entry(e.node).or_default().remove(id);
            }
            Fact::Event(Event::Assigned(id, a, ..)) => return self.assigned(e, id, a.k),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clawmesh_protocol::{
        ids::{Attempt, Peer},
        record::Live,
        spec::Priority,
    };

    use super::*;
    use crate::check::fixture::*;

    fn log(second: Priority, pinned: bool) -> Vec<(u64, Fact)> {
        let mut later = rec(task(2), epoch(1, 0), 2);
        later.need.priority = second;
        later.need.pin = pinned.then(|| peer(1));
        vec![
            (0, batch(1, vec![rec(task(1), epoch(1, 0), 1), later])),
            (0, Fact::Event(Event::Submitted(task(1)))),
            (9_000, Fact::Event(Event::Submitted(task(2)))),
            (11_000, Fact::Event(Event::Assigned(task(2), attempt(1, 1), Peer([1; 32]), 0))),
        ]
    }
    fn live(node: usize) -> Live {
        let attempt = Attempt { k: 1, epoch: epoch(1, node) };
        Live { attempt, worker: peer(1), wboot: 1, placed_at: 0, agent: false, ext: Default::default() }
    }
    fn run(log: Vec<(u64, Fact)>) -> bool {
        let (mut c, disks) = (InTurn::default(), Disks::new(vec![peer(0), peer(1)]));
        log.into_iter().any(|(at, fact)| c.see(&Entry { at, node: 0, fact }, &disks).is_err())
    }

    #[test]
    fn a_task_that_is_overtaken_by_a_later_one_of_its_kind_is_caught() {
        assert!(run(log(Priority::Normal, false)));
        assert!(run(log(Priority::Low, false)));
        assert!(!run(log(Priority::High, false)), "more urgent ones may");
        assert!(!run(log(Priority::Normal, true)), "and those that run elsewhere");
        let mut ended = log(Priority::Normal, false);
        ended.insert(3, (9_500, Fact::Event(Event::SteppedDown(epoch(1, 0), "x"))));
        assert!(!run(ended), "another term");
        let mut merged = rec(task(1), epoch(1, 0), 3);
        merged.live.push(live(0));
        let mut known = log(Priority::Normal, false);
        known.insert(3, (9_500, batch(3, vec![merged.clone()])));
        assert!(run(known.clone()), "its own attempt does not excuse it");
        merged.live = vec![live(1)];
        known[3] = (9_500, batch(3, vec![merged]));
        assert!(!run(known), "it runs elsewhere");
        let mut before = log(Priority::Normal, false);
        before.insert(3, (9_500, batch(3, vec![rec(task(2), epoch(1, 1), 3)])));
        assert!(!run(before), "another coordinator had it earlier");
        let mut split = log(Priority::Normal, false);
        split.insert(1, (0, Fact::Event(Event::Member(Peer([0; 32]), "holds tasks back"))));
        assert!(!run(split.clone()), "the smaller side of a split");
        split.insert(2, (0, Fact::Event(Event::Member(Peer([0; 32]), "holds nothing back any more"))));
        assert!(run(split));
    }
}
