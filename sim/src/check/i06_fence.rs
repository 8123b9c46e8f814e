//! I6, from the origin's side (O2): what an origin accepts was delivered in the epoch that it has promised.

use std::collections::{BTreeMap, BTreeSet};

use clawmesh_protocol::{
    ids::{Epoch, TaskId},
    io::Event,
    message::Message,
};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// Deliveries that left, and what each node has promised.
#[derive(Default)]
pub(super) struct Fence {
    delivered: BTreeMap<TaskId, BTreeSet<Epoch>>,
    promised: BTreeMap<usize, Epoch>,
}

impl Check for Fence {
    fn name(&self) -> &'static str {
        "I6"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Probe { promised, .. } => {
                self.promised.insert(e.node, *promised);
            }
            Fact::Sent(_, m) => {
                if let Message::Deliver(d) = &**m {
                    self.delivered.entry(d.id).or_default().insert(d.epoch);
                }
            }
            Fact::Event(Event::Accepted(id, end, _)) => {
                let promised = self.promised.get(&e.node).copied().unwrap_or_default();
                // What a coordinator tells itself is no message.
                let own = disks.node(promised.peer) == Some(e.node);
                if !own && !self.delivered.get(id).is_some_and(|epochs| epochs.contains(&promised)) {
                    let from = self.delivered.get(id);
                    return Err(format!("{id:?} is accepted as {end} by a node that promised {promised:?}; delivered in {from:?}"));
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

    use clawmesh_protocol::{message::Deliver, record::End};

    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn a_result_of_a_deposed_coordinator_is_caught() {
        let outcome = outcome(End::Done, 1);
        let deliver = Message::Deliver(Deliver { epoch: epoch(1, 1), id: task(1), outcome, ext: Default::default() });
        let log = |n, node| {
            let promised = Fact::Probe { promised: epoch(n, node), serving: None };
            let accepted = Fact::Event(Event::Accepted(task(1), End::Done, None));
            vec![(1, Fact::Sent(peer(0), Arc::new(deliver.clone()))), (0, promised), (0, accepted)]
        };
        assert_eq!(judge(Fence::default(), log(1, 1)), None);
        assert_eq!(judge(Fence::default(), log(2, 0)), None, "it coordinates itself");
        assert!(judge(Fence::default(), log(2, 2)).is_some());
    }
}
