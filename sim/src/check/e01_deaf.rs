//! E1: a coordinator that hears nobody is left by its followers, although it is heard.

use std::collections::{BTreeMap, BTreeSet};

use clawmesh_protocol::{ids::Peer, io::Event, message::Message};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// Three times the suspicion, an election, and as much again, ms.
const LEFT_MS: u64 = 25_000;
/// So many are not all unable to lead.
const ENOUGH: usize = 3;

/// Who hears nothing, and who follows it all the same.
#[derive(Default)]
pub(super) struct Deaf {
    since: BTreeMap<usize, u64>,
    follow: BTreeMap<usize, BTreeSet<usize>>,
    /// A link came or went, a process stood still or ended: all starts anew.
    unrest: u64,
}

impl Check for Deaf {
    fn name(&self) -> &'static str {
        "E1"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Deaf(true) => {
                self.since.entry(e.node).or_insert(e.at);
            }
            Fact::Deaf(false) => {
                self.since.remove(&e.node);
                self.follow.remove(&e.node);
            }
            Fact::Boot { .. } | Fact::Down(_) | Fact::Paused(_) | Fact::Link(..) | Fact::Event(Event::Serving(_)) => {
                self.unrest = e.at;
                self.follow.clear();
            }
            Fact::Sent(to, m) if matches!(**m, Message::HbAck(_)) => {
                let to: &Peer = to;
                let Some((node, since)) = disks.node(*to).and_then(|n| self.since.get(&n).map(|t| (n, *t))) else { return Ok(()) };
                if e.at < since.max(self.unrest) + LEFT_MS {
                    return Ok(());
                }
                let all = self.follow.entry(node).or_default();
                all.insert(e.node);
                if all.len() >= ENOUGH {
                    return Err(format!("{} nodes still follow node {node}, which has heard nobody since {since} ms", all.len()));
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

    use clawmesh_protocol::message::HbAck;

    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn a_deaf_coordinator_that_keeps_its_followers_is_caught() {
        let disks = Disks::new((0..4).map(peer).collect());
        let run = |deaf: bool, moved: bool, at: u64| {
            let mut c = Deaf::default();
            let ack = || Fact::Sent(peer(0), Arc::new(Message::HbAck(HbAck { epoch: epoch(1, 0), boot: 1, ext: Default::default() })));
            let mut log = vec![(0, 0, Fact::Deaf(deaf))];
            if moved {
                log.push((12_000, 1, Fact::Event(Event::Serving(epoch(2, 1)))));
            }
            log.extend((1..4).map(|n| (at, n, ack())));
            log.into_iter().any(|(at, node, fact)| c.see(&Entry { at, node, fact }, &disks).is_err())
        };
        assert!(run(true, false, 30_000));
        assert!(!run(false, false, 30_000));
        assert!(!run(true, false, 20_000));
        assert!(!run(true, true, 30_000), "another one has just begun");
    }
}
