//! I6 (quorum mode): whatever is told of a task's outcome, to its origin or by it, is one and the same.

use std::collections::BTreeMap;

use clawmesh_protocol::{ids::TaskId, message::Message, record::Outcome};

use super::{Check, ledger::Ledger};
use crate::oracle::{Disks, Entry, Fact};

/// What was told of tasks that were accepted by a mesh with voters.
#[derive(Default)]
pub(super) struct OneWord {
    ledger: Ledger,
    voted: BTreeMap<TaskId, bool>,
    told: BTreeMap<TaskId, Outcome>,
}

impl OneWord {
    fn tell(&mut self, id: TaskId, o: &Outcome) -> Result<(), String> {
        if self.voted.get(&id) != Some(&true) {
            return Ok(());
        }
        match self.told.get(&id) {
            Some(first) if first != o => Err(format!("{id:?} was told to have ended as {first:?} and as {o:?}")),
            Some(_) => Ok(()),
            None => {
                self.told.insert(id, o.clone());
                Ok(())
            }
        }
    }
}

impl Check for OneWord {
    fn name(&self) -> &'static str {
        "I6"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        self.ledger.see(e, disks);
        match &e.fact {
            Fact::Batch(p) => {
                for (r, _) in &p.recs {
                    // Accepted where there were voters, every time it was accepted.
                    let by_majority = self.ledger.by_majority(&r.queued.epoch);
                    self.voted.entry(r.id).and_modify(|v| *v &= by_majority).or_insert(by_majority);
                }
                Ok(())
            }
            Fact::Sent(_, m) => match &**m {
                Message::Deliver(d) => self.tell(d.id, &d.outcome),
                Message::Delivered(d) => self.tell(d.id, &d.outcome),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clawmesh_protocol::{message::Deliver, record::End};

    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn two_outcomes_under_voters_are_caught_and_in_open_mode_are_not() {
        let deliver = |epoch, node, o: Outcome| {
            let m = Deliver { epoch, id: task(1), outcome: o, ext: Default::default() };
            (node, Fact::Sent(peer(3), Arc::new(Message::Deliver(m))))
        };
        let run = |voters: bool, second: Outcome| {
            let of = |n, node| if voters { voted(n, node) } else { epoch(n, node) };
            let mut log = Vec::new();
            if voters {
                log.push((0, configured(1, of(1, 0), 1, &[0, 1, 2])));
            }
            log.push((0, batch(2, vec![rec(task(1), of(1, 0), 2)])));
            log.extend([deliver(of(1, 0), 0, outcome(End::Done, 1)), deliver(of(2, 1), 1, second)]);
            judge(OneWord::default(), log).is_some()
        };
        assert!(!run(true, outcome(End::Done, 1)));
        assert!(run(true, outcome(End::Failed, 2)));
        assert!(!run(false, outcome(End::Failed, 2)));
    }
}
