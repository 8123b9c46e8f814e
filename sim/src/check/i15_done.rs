//! I15 (at quiescence): every acknowledged task with a capable live worker has an outcome, and its origin,
//! if it lives, has accepted it.

use std::collections::BTreeSet;

use clawmesh_protocol::{ids::TaskId, io::Event, message::Message};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// Tasks whose origin accepted a result.  A crash can swallow the event, then the table's word counts.
#[derive(Default)]
pub(super) struct Done {
    accepted: BTreeSet<TaskId>,
}

impl Check for Done {
    fn name(&self) -> &'static str {
        "I15"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Event(Event::Accepted(id, ..)) => {
                self.accepted.insert(*id);
            }
            Fact::Sent(_, m) => {
                if let Message::Delivered(d) = &**m {
                    self.accepted.insert(d.id);
                }
            }
            Fact::Quiet(q) => {
                if let Some(r) = q.unanswered.first() {
                    return Err(format!("{} requests were never answered, the first is {r}", q.unanswered.len()));
                }
                for d in &q.due {
                    if disks.holders(&d.id).next().is_none() {
                        // Lost with its disks; whether that was allowed is I4's business.
                        continue;
                    }
                    let rec = q.table.get(&d.id);
                    if rec.is_none() && disks.is_over(&d.id) {
                        // It has ended and been delivered, and was deleted since (G3).
                        continue;
                    }
                    let decided = rec.is_some_and(|r| r.outcome.is_some());
                    if d.able && !decided {
                        return Err(format!("{:?} has no outcome: {rec:?}", d.id));
                    }
                    let Some(origin) = d.origin.filter(|_| d.able) else { continue };
                    if !self.accepted.contains(&d.id) && !rec.is_some_and(|r| r.delivered) {
                        return Err(format!("{:?} ended, but its origin has not accepted it", d.id));
                    }
                    if disks.now.get(origin).is_some_and(|x| x.outbox.contains(&d.id)) {
                        return Err(format!("{:?} was accepted by its origin, but nobody has told it that it is settled", d.id));
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

    use clawmesh_protocol::record::End;

    use super::*;
    use crate::{
        check::fixture::*,
        oracle::{Due, Parsed, Quiet},
    };

    #[test]
    fn a_task_without_an_end_and_an_undelivered_one_are_caught() {
        let put = || vec![(0, batch(1, vec![rec(task(1), epoch(1, 0), 1)])), (0, Fact::Durable(1))];
        let quiet = |done: bool, able: bool, delivered: bool| {
            let mut r = rec(task(1), epoch(1, 0), 1);
            r.outcome = done.then(|| outcome(End::Done, 1));
            r.delivered = done && delivered;
            let mut q = Quiet { due: vec![Due { id: task(1), able, origin: Some(0) }], ..Quiet::default() };
            q.table.insert(task(1), Arc::new(r));
            (0, Fact::Quiet(Arc::new(q)))
        };
        let accepted = || (0, Fact::Event(Event::Accepted(task(1), End::Done, None)));
        let run = |more: Vec<(usize, Fact)>| judge(Done::default(), put().into_iter().chain(more).collect());
        assert_eq!(run(vec![accepted(), quiet(true, true, true)]), None);
        assert_eq!(run(vec![quiet(false, false, false)]), None);
        assert!(run(vec![quiet(true, true, false)]).is_some());
        let kept = Fact::Batch(Arc::new(Parsed { no: 2, outbox: vec![task(1)], ..Parsed::default() }));
        assert!(run(vec![(0, kept), (0, Fact::Durable(2)), accepted(), quiet(true, true, true)]).is_some());
        assert!(run(vec![accepted(), quiet(false, true, false)]).is_some());
    }
}
