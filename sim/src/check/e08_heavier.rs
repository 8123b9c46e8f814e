//! E8 (open mode): when two coordinators meet, the one with fewer followers gives way.

use std::collections::BTreeMap;

use clawmesh_protocol::{config::VOTED, ids::Peer, io::Event, message::Message};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// Coordinators are compared when both have served for so long, ms.
const SERVED_MS: u64 = 2_000;
/// A follower counts for the heavier one after so long, ms: whatever is on its way has arrived.
const STEADY_MS: u64 = 5_000;
/// What changes in the last moment belongs to the meeting itself, ms.
const MEETING_MS: u64 = 1_000;

/// Who follows whom, and who reaches whom.
#[derive(Default)]
pub(super) struct Heavier {
    /// By node: whom it followed, from when to when.
    followed: BTreeMap<usize, Vec<(Peer, u64, u64)>>,
    /// Since when a node has served in one go.
    serving: BTreeMap<usize, u64>,
    /// The link of a node to a peer: since when it has been up.
    links: BTreeMap<(usize, Peer), u64>,
    /// Who stood still lately.
    stopped: BTreeMap<usize, u64>,
    /// Who has let followers go lately, because what they hold did not come: they follow it, and weigh nothing.
    stalled: BTreeMap<usize, u64>,
    /// Who was deposed by another one, when, and since when it had served.
    deposed: Option<(usize, u64, u64)>,
    granted: BTreeMap<usize, u64>,
}

impl Heavier {
    /// Ends what a node was.
    fn end(&mut self, node: usize, at: u64) {
        if let Some(last) = self.followed.get_mut(&node).and_then(|f| f.last_mut()) {
            last.2 = last.2.min(at);
        }
    }

    /// Nodes that surely followed `node` when the meeting began.
    fn surely(&self, node: usize, at: u64, disks: &Disks) -> usize {
        let Some(me) = disks.peers.get(node).copied() else { return 0 };
        let (from, to) = (at.saturating_sub(STEADY_MS), at.saturating_sub(MEETING_MS));
        let up = |n: usize, p: Option<&Peer>| p.and_then(|p| self.links.get(&(n, *p))).is_some_and(|t| *t <= from);
        let still = |n: usize| self.stopped.get(&n).is_none_or(|t| *t < from);
        let steady = |f: &&(Peer, u64, u64)| f.0 == me && f.1 <= from && f.2 >= to;
        let ok = |x: &usize| up(*x, Some(&me)) && up(node, disks.peers.get(*x)) && still(*x);
        self.followed.iter().filter(|(x, f)| f.iter().any(|f| steady(&f)) && ok(x)).count()
    }

    /// Nodes that may have followed `peer` until then, without those that it has just won from `loser`.
    fn perhaps(&self, peer: Peer, loser: Option<Peer>, at: u64) -> usize {
        let (from, to) = (at.saturating_sub(2 * STEADY_MS), at.saturating_sub(MEETING_MS));
        let won = |f: &[(Peer, u64, u64)]| f.iter().any(|f| Some(f.0) == loser && f.2 >= to);
        self.followed.values().filter(|f| f.iter().any(|f| f.0 == peer && f.2 >= from) && !won(f)).count()
    }
}

impl Check for Heavier {
    fn name(&self) -> &'static str {
        "E8"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Boot { .. } | Fact::Down(_) => {
                self.end(e.node, e.at);
                self.serving.remove(&e.node);
                self.links.retain(|(n, _), _| *n != e.node);
            }
            Fact::Paused(_) => {
                self.stopped.insert(e.node, e.at);
            }
            Fact::Event(Event::Dropped("stalled_follower")) => {
                self.stalled.insert(e.node, e.at);
            }
            Fact::Link(p, up) => {
                if *up {
                    self.links.entry((e.node, *p)).or_insert(e.at);
                } else {
                    self.links.remove(&(e.node, *p));
                }
            }
            Fact::Sent(_, m) if matches!(**m, Message::HandGrant(_)) => {
                self.granted.insert(e.node, e.at);
            }
            Fact::Event(Event::Serving(_)) => {
                self.end(e.node, e.at);
                self.serving.entry(e.node).or_insert(e.at);
            }
            Fact::Event(Event::SteppedDown(_, why)) => {
                let since = self.serving.remove(&e.node);
                self.deposed = since.filter(|_| *why == "another node coordinates").map(|t| (e.node, e.at, t));
            }
            Fact::Event(Event::Following(epoch)) => {
                self.end(e.node, e.at);
                let mine = self.followed.entry(e.node).or_default();
                mine.push((epoch.peer, e.at, u64::MAX));
                mine.drain(..mine.len().saturating_sub(16));
                let Some((node, at, since)) = self.deposed.take() else { return Ok(()) };
                let other = disks.node(epoch.peer).and_then(|n| self.serving.get(&n));
                let both = other.is_some_and(|t| *t + SERVED_MS <= e.at) && since + SERVED_MS <= e.at;
                let lately = |t: Option<&u64>| t.is_some_and(|t| e.at < t + 2 * STEADY_MS);
                let odd = lately(self.stopped.get(&e.node))
                    || lately(self.stalled.get(&e.node))
                    || lately(self.granted.get(&e.node))
                    || epoch.n >= VOTED;
                if (node, at) != (e.node, e.at) || !both || odd || disks.config(e.node).is_some() {
                    return Ok(());
                }
                let (mine, theirs) = (self.surely(e.node, e.at, disks), self.perhaps(epoch.peer, disks.peers.get(e.node).copied(), e.at));
                if mine > theirs {
                    return Err(format!("a coordinator with {mine} followers gives way to {epoch:?} with {theirs}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::fixture::*;

    /// Two coordinators, A with B and C, and D alone; then one follows the other.
    fn meeting(loser: usize, winner: usize) -> Option<String> {
        let disks = Disks::new((0..4).map(peer).collect());
        let mut c = Heavier::default();
        let mut log = vec![(0, 0, Fact::Event(Event::Serving(epoch(1, 0)))), (0, 3, Fact::Event(Event::Serving(epoch(9, 3))))];
        for x in [1, 2] {
            log.extend([(1, x, Fact::Link(peer(0), true)), (1, 0, Fact::Link(peer(x), true))]);
            log.push((2, x, Fact::Event(Event::Following(epoch(1, 0)))));
        }
        log.push((20_000, loser, Fact::Event(Event::SteppedDown(epoch(1, loser), "another node coordinates"))));
        log.push((20_000, loser, Fact::Event(Event::Following(epoch(10, winner)))));
        log.into_iter().find_map(|(at, node, fact)| c.see(&Entry { at, node, fact }, &disks).err())
    }

    #[test]
    fn a_coordinator_that_follows_a_lighter_one_is_caught() {
        assert!(meeting(0, 3).is_some());
        assert_eq!(meeting(3, 0), None);
    }
}
