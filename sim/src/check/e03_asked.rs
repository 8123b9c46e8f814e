//! E3: nobody claims before it has asked those that it can reach.

use std::collections::{BTreeMap, BTreeSet};

use clawmesh_protocol::{ids::Peer, io::Event, message::Message};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// A round that began longer ago has long ended, ms: a few seconds by its own limits, and a slow machine stretches them.
const ROUND_MS: u64 = 20_000;

/// Who asked when, and whom it could ask.
#[derive(Default)]
pub(super) struct Asked {
    nodes: BTreeMap<usize, Node>,
    /// Who has said that it leaves.
    left: BTreeSet<usize>,
}

/// What is known of one node.
#[derive(Default)]
struct Node {
    /// Peers that its links reach.
    up: BTreeSet<Peer>,
    /// Of them, those that it has written to since: it knows of the link.
    written: BTreeSet<Peer>,
    asked_at: Option<u64>,
    /// It was told that it may claim.
    granted_at: Option<u64>,
    /// It claims or serves: a higher epoch goes on from there.
    leads: bool,
    ended_at: Option<u64>,
}

impl Check for Asked {
    fn name(&self) -> &'static str {
        "E3"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        let n = self.nodes.entry(e.node).or_default();
        match &e.fact {
            Fact::Boot { .. } => {
                *n = Node::default();
                self.left.remove(&e.node);
            }
            Fact::Link(p, up) => {
                n.written.remove(p);
                if *up {
                    n.up.insert(*p);
                } else {
                    n.up.remove(p);
                }
            }
            Fact::Sent(to, m) => {
                n.written.insert(*to);
                match &**m {
                    Message::Pre(_) => n.asked_at = Some(e.at),
                    Message::Bye(_) => {
                        self.left.insert(e.node);
                    }
                    Message::HandGrant(_) => {
                        if let Some(to) = disks.node(*to) {
                            self.nodes.entry(to).or_default().granted_at = Some(e.at);
                        }
                    }
                    _ => {}
                }
            }
            Fact::Event(Event::Member(_, "is awake")) => {
                self.left.remove(&e.node);
            }
            Fact::Event(Event::SteppedDown(..)) => (n.leads, n.ended_at) = (false, Some(e.at)),
            Fact::Event(Event::Claimed(epoch)) => {
                let again = std::mem::replace(&mut n.leads, true) || n.ended_at == Some(e.at);
                let lately = |t: Option<u64>| t.is_some_and(|t| e.at <= t + ROUND_MS);
                let other = n.up.intersection(&n.written).filter_map(|p| disks.node(*p)).find(|p| !self.left.contains(p));
                if let Some(other) = other.filter(|_| !again && !lately(n.asked_at) && !lately(n.granted_at)) {
                    return Err(format!("claims {epoch:?} without having asked anybody, although node {other} can be reached"));
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

    use clawmesh_protocol::message::{HandGrant, Join, Pre, Rank};

    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn a_claim_out_of_nothing_is_caught() {
        let said = |node: usize, to: usize, m: Message| (node, Fact::Sent(peer(to), Arc::new(m)));
        let grant = || Message::HandGrant(HandGrant { epoch: epoch(1, 0), root: 0, ext: Default::default() });
        let rank = Rank { synced: true, prio: 1, peer: peer(1) };
        let pre = || Message::Pre(Pre { rank, n: 0, round: 1, ext: Default::default() });
        let claim = |n: u64| (1, Fact::Event(Event::Claimed(epoch(n, 1))));
        let up = |on| (1, Fact::Link(peer(0), on));
        let talks = || said(1, 0, Message::Join(Join { n: 0, ext: Default::default() }));
        assert!(judge(Asked::default(), vec![up(true), talks(), claim(2)]).is_some());
        assert_eq!(judge(Asked::default(), vec![claim(2)]), None, "it can reach nobody");
        assert_eq!(judge(Asked::default(), vec![up(true), talks(), said(1, 0, pre()), claim(2), claim(3)]), None);
        assert_eq!(judge(Asked::default(), vec![up(true), talks(), said(0, 1, grant()), claim(2)]), None, "it was handed over");
        assert_eq!(judge(Asked::default(), vec![up(true), talks(), up(false), talks(), claim(2)]), None, "the link is silent");
    }
}
