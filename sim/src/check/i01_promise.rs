//! I1: a promise that was shown to anybody never decreases on a (peer, store), across crashes; and nobody follows an
//! epoch below its promise (E6, E11).

use std::collections::BTreeMap;

use clawmesh_protocol::{ids::Epoch, io::Event, message::Message};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// The highest promise that left each node, and the highest of this boot.
#[derive(Default)]
pub(super) struct Promise {
    shown: BTreeMap<(usize, u64), Epoch>,
    boot: BTreeMap<usize, Epoch>,
}

impl Check for Promise {
    fn name(&self) -> &'static str {
        "I1"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        let store = disks.now.get(e.node).map_or(0, |d| d.store);
        match &e.fact {
            Fact::Boot { .. } => {
                self.boot.remove(&e.node);
            }
            Fact::Sent(_, m) => {
                let epoch = match &**m {
                    Message::Follow(f) => f.epoch,
                    Message::Ack(a) => a.epoch,
                    Message::Claim(c) => c.epoch,
                    _ => return Ok(()),
                };
                let s = self.shown.entry((e.node, store)).or_default();
                *s = (*s).max(epoch);
            }
            Fact::Probe { promised, .. } => {
                let low = self.boot.entry(e.node).or_default();
                if *promised < *low {
                    return Err(format!("the promise fell from {low:?} to {promised:?} within one boot"));
                }
                *low = *promised;
                let shown = self.shown.get(&(e.node, store)).copied().unwrap_or_default();
                if *promised < shown {
                    return Err(format!("the promise is {promised:?} but {shown:?} was shown from this store"));
                }
            }
            Fact::Event(Event::Following(epoch)) => {
                let low = self.boot.get(&e.node).copied().unwrap_or_default();
                if *epoch < low {
                    return Err(format!("follows {epoch:?}, although it has promised {low:?}"));
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

    use clawmesh_protocol::message::Claim;

    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn a_promise_that_a_restart_forgot_is_caught() {
        let claim = Fact::Sent(peer(1), Arc::new(Message::Claim(Claim { epoch: epoch(5, 0), config: None, ext: Default::default() })));
        let boot = |boot| Fact::Boot { store: 9, boot, fresh: false };
        let probe = |n| Fact::Probe { promised: epoch(n, 0), serving: None };
        let good = vec![(0, boot(1)), (0, probe(5)), (0, claim.clone()), (0, boot(2)), (0, probe(5))];
        assert_eq!(judge(Promise::default(), good), None);
        let bad = vec![(0, boot(1)), (0, probe(5)), (0, claim), (0, boot(2)), (0, probe(4))];
        assert!(judge(Promise::default(), bad).is_some());
        // A promise that nobody saw may be lost with the batch that held it.
        assert_eq!(judge(Promise::default(), vec![(0, boot(1)), (0, probe(5)), (0, boot(2)), (0, probe(4))]), None);
        assert!(judge(Promise::default(), vec![(0, boot(1)), (0, probe(5)), (0, probe(4))]).is_some());
        let follow = |n| Fact::Event(Event::Following(epoch(n, 1)));
        assert_eq!(judge(Promise::default(), vec![(0, boot(1)), (0, probe(5)), (0, follow(5))]), None);
        assert!(judge(Promise::default(), vec![(0, boot(1)), (0, probe(5)), (0, follow(4))]).is_some());
    }
}
