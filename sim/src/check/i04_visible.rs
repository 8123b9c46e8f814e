//! I4 (quorum mode): an acknowledged task is visible at everybody who begins to serve later.

use std::collections::{BTreeMap, BTreeSet};

use clawmesh_protocol::{
    ids::{Epoch, TaskId},
    io::Event,
    message::Message,
};

use super::{
    Check,
    ledger::{Ledger, below_floor, on_node},
};
use crate::oracle::{Disks, Entry, Fact};

/// Tasks that a coordinator with voters has acknowledged.
#[derive(Default)]
pub(super) struct Visible {
    ledger: Ledger,
    acked: BTreeMap<TaskId, Epoch>,
    serving: BTreeSet<usize>,
    over: BTreeSet<TaskId>,
}

impl Check for Visible {
    fn name(&self) -> &'static str {
        "I4"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        self.ledger.see(e, disks);
        match &e.fact {
            Fact::Probe { serving, .. } => {
                if serving.is_some() {
                    self.serving.insert(e.node);
                } else {
                    self.serving.remove(&e.node);
                }
            }
            Fact::Batch(p) if self.serving.contains(&e.node) => self.over.extend(&p.dels),
            Fact::Sent(_, m) => {
                if let Message::SubmitAck(a) = &**m
                    && self.ledger.epochs.get(&a.epoch).is_some_and(|w| w.stable > 0)
                {
                    self.acked.entry(a.id).or_insert(a.epoch);
                }
            }
            Fact::Event(Event::Serving(epoch)) if self.ledger.by_majority(epoch) => {
                for (id, _) in self.acked.iter().filter(|(id, x)| *x < epoch && !self.over.contains(id)) {
                    if on_node(disks, e.node, id).is_none() && !below_floor(disks, e.node, id) {
                        return Err(format!("begins to serve {epoch:?} without {id:?}, which was acknowledged before"));
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

    use clawmesh_protocol::message::SubmitAck;

    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn an_acknowledged_task_that_the_next_coordinator_lacks_is_caught() {
        let run = |has: bool| {
            let ack = SubmitAck { id: task(1), copies: 2, epoch: voted(1, 0), ext: Default::default() };
            let mut log = vec![
                (0, configured(1, voted(1, 0), 1, &[0, 1, 2])),
                (0, Fact::Event(Event::Stable { epoch: voted(1, 0), seq: 2, copies: 2, took_ms: 0 })),
                (0, Fact::Sent(peer(3), Arc::new(Message::SubmitAck(ack)))),
            ];
            if has {
                log.push((1, batch(1, vec![rec(task(1), voted(1, 0), 2)])));
            }
            log.push((1, configured(2, voted(2, 1), 1, &[0, 1, 2])));
            log.push((1, Fact::Event(Event::Serving(voted(2, 1)))));
            judge(Visible::default(), log)
        };
        assert_eq!(run(true), None);
        assert!(run(false).is_some());
    }
}
