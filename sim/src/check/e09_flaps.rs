//! E9: who has lost the coordination soon after it had won it asks for it later each time.

use std::collections::{BTreeMap, VecDeque};

use clawmesh_protocol::{config::Timing, ids::Peer, io::Event, message::Message};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// The wait doubles with each flap, to so many times at most.
const TIMES_MAX: u64 = 120;

/// Contact that is lost for less is not lost, ms.
const MOMENT_MS: u64 = 1_500;

/// What each node must remember of its terms.
pub(super) struct Flaps {
    timing: Timing,
    nodes: BTreeMap<usize, Node>,
}

/// Flaps that are certain, and whether a term is under way or was cut off.
type Mark = (u32, bool);

/// What is known of one node.
#[derive(Default)]
struct Node {
    now: Mark,
    /// The mark as it was in each batch that is not durable yet.
    batches: VecDeque<(u64, Mark)>,
    /// When the last one was handed over.
    batch_at: u64,
    disk: Mark,
    claimed_at: u64,
    /// It has served since its claim.
    served: bool,
    leads: bool,
    /// The epoch that it serves in is durable: only a term that is cut off then counts at once.
    sure: bool,
    granted: bool,
    /// Whom it follows, and since when at the earliest it has had contact with it.
    contact: Option<(Peer, u64)>,
    /// Whom it followed before, since when and until when.
    before: Option<(Peer, u64, u64)>,
    /// Since when the link to it has been down.
    cut_at: Option<u64>,
}

impl Flaps {
    pub(super) fn new(timing: Timing) -> Self {
        Self { timing, nodes: BTreeMap::new() }
    }
}

impl Node {
    /// A term that lasted forgets all flaps.
    fn settle(&mut self, at: u64, settled_ms: u64) {
        if self.leads && at >= self.claimed_at + settled_ms {
            self.now = (0, false);
            self.disk = (0, false);
            self.batches.iter_mut().for_each(|b| b.1 = (0, false));
        }
    }
    fn end_term(&mut self) {
        if std::mem::take(&mut self.now.1) && !self.granted && self.sure {
            self.now.0 += 1;
        }
        (self.leads, self.served, self.granted) = (false, false, false);
    }
}

impl Check for Flaps {
    fn name(&self) -> &'static str {
        "E9"
    }
    fn see(&mut self, e: &Entry, _: &Disks) -> Result<(), String> {
        let n = self.nodes.entry(e.node).or_default();
        // Clocks drift, and a heartbeat is half a second old: a little less is as good.
        n.settle(e.at + 1_000, self.timing.settled_ms);
        match &e.fact {
            Fact::Boot { fresh, .. } => {
                let disk = if *fresh { (0, false) } else { n.disk };
                let now = (disk.0 + u32::from(disk.1), false);
                *n = Node { now, disk, contact: None, ..Node::default() };
            }
            Fact::Batch(p) => {
                n.batches.push_back((p.no, n.now));
                n.batch_at = e.at;
            }
            Fact::Durable(upto) | Fact::Down(upto) => {
                while let Some((_, mark)) = n.batches.pop_front_if(|(no, _)| *no <= *upto) {
                    n.disk = mark;
                }
            }
            Fact::Event(Event::Claimed(_)) => {
                if !std::mem::replace(&mut n.leads, true) {
                    n.claimed_at = e.at;
                }
                (n.contact, n.sure) = (None, false);
            }
            Fact::Event(Event::Serving(_)) => {
                n.sure = true;
                n.now.1 |= !std::mem::replace(&mut n.served, true);
            }
            Fact::Event(Event::SteppedDown(..)) => {
                n.end_term();
                let (now, same) = (n.now, n.batch_at == e.at);
                // A step's batch is handed over before it is said what the step was.
                if let Some(b) = n.batches.back_mut().filter(|_| same) {
                    b.1 = now;
                }
            }
            Fact::Event(Event::Following(x)) if n.contact.is_none_or(|(p, _)| p != x.peer) => {
                // Who comes back in a moment was never away.
                let back = n.before.filter(|(p, _, until)| *p == x.peer && e.at < until + MOMENT_MS).map(|(_, since, _)| since);
                n.before = n.contact.map(|(p, since)| (p, since, e.at));
                (n.contact, n.cut_at) = (Some((x.peer, back.unwrap_or(e.at))), None);
            }
            Fact::Link(p, up) if n.contact.is_some_and(|(l, _)| l == *p) => {
                if !*up {
                    n.cut_at.get_or_insert(e.at);
                } else if n.cut_at.take().is_some_and(|t| e.at >= t + MOMENT_MS) {
                    n.contact = Some((*p, e.at));
                }
            }
            Fact::Sent(to, m) => match &**m {
                Message::HandGrant(_) => n.granted = true,
                Message::HandReq(_) => {
                    let steady = self.timing.steady_ms;
                    let wait = (steady << n.now.0.min(16)).min(steady.saturating_mul(TIMES_MAX));
                    let since = n.contact.filter(|(p, _)| p == to).map(|(_, t)| t);
                    if let Some(since) = since.filter(|t| e.at + 50 + wait / 1_000 < t + wait) {
                        let (k, had) = (n.now.0, e.at - since);
                        return Err(format!(
                            "asks for the coordination {had} ms after it found its coordinator; {k} flaps demand {wait} ms"
                        ));
                    }
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clawmesh_protocol::message::HandReq;

    use super::*;
    use crate::{check::fixture::*, oracle::Parsed};

    fn judged(flaps: usize, durable: bool, wait: u64) -> bool {
        let timing = Timing { steady_ms: 1_000, settled_ms: 60_000, ..Timing::default() };
        let disks = Disks::new((0..2).map(peer).collect());
        let mut c = Flaps::new(timing);
        let mut log = Vec::new();
        for k in 0..flaps as u64 {
            let at = k * 5_000;
            log.push((at, Fact::Boot { store: 1, boot: k + 1, fresh: k == 0 }));
            log.extend([(at, Fact::Event(Event::Claimed(epoch(k, 0)))), (at, Fact::Event(Event::Serving(epoch(k, 0))))]);
            log.push((at, Fact::Batch(Arc::new(Parsed { no: 1, ..Parsed::default() }))));
            log.push((at + 1_000, Fact::Down(u64::from(durable))));
        }
        let boot = flaps as u64 * 5_000;
        log.push((boot, Fact::Boot { store: 1, boot: 99, fresh: flaps == 0 }));
        log.push((boot, Fact::Event(Event::Following(epoch(50, 1)))));
        let ask = HandReq { epoch: epoch(50, 1), prio: 9, ext: Default::default() };
        log.push((boot + wait, Fact::Sent(peer(1), Arc::new(Message::HandReq(ask)))));
        log.into_iter().any(|(at, fact)| c.see(&Entry { at, node: 0, fact }, &disks).is_err())
    }

    #[test]
    fn contact_that_was_lost_counts_from_its_return() {
        let timing = Timing { steady_ms: 5_000, ..Timing::default() };
        let disks = Disks::new((0..2).map(peer).collect());
        let asks = |back: u64| {
            let mut c = Flaps::new(timing);
            let ask = HandReq { epoch: epoch(50, 1), prio: 9, ext: Default::default() };
            let log = vec![
                (0, Fact::Event(Event::Following(epoch(50, 1)))),
                (1_000, Fact::Link(peer(1), false)),
                (back, Fact::Link(peer(1), true)),
                (5_100, Fact::Sent(peer(1), Arc::new(Message::HandReq(ask)))),
            ];
            log.into_iter().any(|(at, fact)| c.see(&Entry { at, node: 0, fact }, &disks).is_err())
        };
        assert!(asks(3_000));
        assert!(!asks(1_100), "a connection that was replaced");
    }

    #[test]
    fn who_crashes_and_asks_at_once_is_caught() {
        assert!(!judged(0, true, 1_000));
        assert!(judged(0, true, 500));
        assert!(judged(2, true, 3_000), "two flaps make it four seconds");
        assert!(!judged(2, true, 4_000));
        assert!(!judged(2, false, 1_000), "what its disk lost it can't know");
    }
}
