//! I16: when the faults have stopped and the mesh has had a moment to find itself, at most two more epochs and
//! one handover follow: coordination comes to rest.

use std::collections::BTreeMap;

use clawmesh_protocol::{ids::Peer, io::Event, message::Message};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// How long the mesh may take to find itself after the last fault, ms: a heal takes four seconds, and who was
/// asleep trusts nobody for five.
const SETTLE_MS: u64 = 10_000;
/// Epochs after that.
const EPOCHS_MAX: u32 = 2;
/// Handovers after that.
const HANDOVERS_MAX: u32 = 1;

/// Claims since the faults stopped.
#[derive(Default)]
pub(super) struct Churn {
    /// When the last fault was: the end of the storm, or a process that ended or began after it.
    calm: Option<u64>,
    /// Grants under way, by successor.
    granted: BTreeMap<Peer, u64>,
    epochs: u32,
    handovers: u32,
}

impl Check for Churn {
    fn name(&self) -> &'static str {
        "I16"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Quiet(_) if self.calm.is_none() => self.calm = Some(e.at),
            Fact::Boot { .. } | Fact::Down(_) if self.calm.is_some() => {
                self.calm = Some(e.at);
                (self.epochs, self.handovers) = (0, 0);
            }
            Fact::Sent(to, m) if matches!(**m, Message::HandGrant(_)) => {
                self.granted.insert(*to, e.at);
            }
            Fact::Event(Event::Claimed(epoch)) => {
                let planned = disks.peers.get(e.node).is_some_and(|p| self.granted.remove(p).is_some());
                if self.calm.is_none_or(|t| e.at < t + SETTLE_MS) {
                    return Ok(());
                }
                let count = if planned { &mut self.handovers } else { &mut self.epochs };
                *count += 1;
                if self.epochs > EPOCHS_MAX || self.handovers > HANDOVERS_MAX {
                    let (n, h) = (self.epochs, self.handovers);
                    return Err(format!("{epoch:?} is claimed: {n} epochs and {h} handovers since the faults stopped"));
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

    use clawmesh_protocol::message::HandGrant;

    use super::*;
    use crate::{check::fixture::*, oracle::Quiet};

    /// Runs a log with times.
    fn judge_at(log: Vec<(u64, usize, Fact)>) -> Option<String> {
        let disks = Disks::new((0..4).map(peer).collect());
        let mut c = Churn::default();
        log.into_iter().find_map(|(at, node, fact)| c.see(&Entry { at, node, fact }, &disks).err())
    }
    fn claim(at: u64, n: u64, node: usize) -> (u64, usize, Fact) {
        (at, node, Fact::Event(Event::Claimed(epoch(n, node))))
    }
    fn grant(at: u64, to: usize) -> (u64, usize, Fact) {
        let m = HandGrant { epoch: epoch(1, 0), root: 0, ext: Default::default() };
        (at, 0, Fact::Sent(peer(to), Arc::new(Message::HandGrant(m))))
    }

    #[test]
    fn a_third_epoch_and_a_second_handover_in_peace_are_caught() {
        let quiet = || (1_000, 0, Fact::Quiet(Arc::new(Quiet::default())));
        let mut log = vec![claim(1, 1, 0), quiet(), claim(2_000, 2, 1), claim(12_000, 3, 0), claim(13_000, 4, 1)];
        assert_eq!(judge_at(log.clone()), None);
        log.push(claim(14_000, 5, 2));
        assert!(judge_at(log.clone()).is_some());
        // A death is a fault: what follows it starts anew.
        log.insert(5, (13_500, 2, Fact::Down(0)));
        assert_eq!(judge_at(log), None);
        let mut log = vec![quiet(), grant(12_000, 1), claim(12_010, 3, 1)];
        assert_eq!(judge_at(log.clone()), None);
        log.extend([grant(20_000, 2), claim(20_010, 4, 2)]);
        assert!(judge_at(log).is_some());
    }
}
