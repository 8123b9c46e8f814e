//! I6 (quorum mode): whatever is told of a task's outcome, to its origin, by it, or to whoever asks, is one and the same.
//!
//! This is the linearizability of a task's outcome, a register that is written once: a question that is not answered with the
//! end may be answered from before it (W1 promises nothing for these), so equal ends in any order are all there is to check.

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
    read: BTreeMap<TaskId, (u64, Option<i32>)>,
}

impl OneWord {
    /// Who asks sees the same end as everybody who asked before, and as the origin.
    fn read(&mut self, id: TaskId, end: (u64, Option<i32>)) -> Result<(), String> {
        if self.voted.get(&id) != Some(&true) {
            return Ok(());
        }
        let first = *self.read.entry(id).or_insert(end);
        let told = self.told.get(&id).map_or(first, |o| (o.ended_at, o.exit));
        if end == first && end == told {
            return Ok(());
        }
        Err(format!("{id:?} is shown to have ended at {} with {:?}, and before at {} with {:?}", end.0, end.1, told.0, told.1))
    }

    fn tell(&mut self, id: TaskId, o: &Outcome) -> Result<(), String> {
        if self.voted.get(&id) != Some(&true) {
            return Ok(());
        }
        match self.told.get(&id) {
            Some(first) if first != o => Err(format!("{id:?} was told to have ended as {first:?} and as {o:?}")),
            Some(_) => Ok(()),
            None => {
                self.told.insert(id, o.clone());
                self.read.get(&id).copied().map_or(Ok(()), |end| self.read(id, end))
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
            Fact::Read(id, at, exit) => self.read(*id, (*at, *exit)),
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

    #[test]
    fn an_end_that_another_user_reads_is_the_same() {
        let deliver = |o: Outcome| {
            let m = Deliver { epoch: voted(1, 0), id: task(1), outcome: o, ext: Default::default() };
            (0, Fact::Sent(peer(3), Arc::new(Message::Deliver(m))))
        };
        let o = outcome(End::Done, 1);
        let run = |seen: Vec<(usize, Fact)>| {
            let mut log = vec![(0, configured(1, voted(1, 0), 1, &[0, 1, 2])), (0, batch(2, vec![rec(task(1), voted(1, 0), 2)]))];
            log.extend(seen);
            judge(OneWord::default(), log)
        };
        let read = |node, at| (node, Fact::Read(task(1), at, o.exit));
        assert_eq!(run(vec![read(1, o.ended_at), deliver(o.clone()), read(2, o.ended_at)]), None);
        assert!(run(vec![read(1, 7), read(2, 8)]).is_some());
        assert!(run(vec![deliver(o.clone()), read(1, 7)]).is_some());
        assert!(run(vec![read(1, 7), deliver(o.clone())]).is_some());
    }
}
