//! Figures of a quiet world.

use clawmesh_protocol::message::Message;

use super::World;
use crate::takeover::{End, Sample};

/// A mesh that just came up is left alone for so long, ms.
const SETTLE_MS: u64 = 15_000;
/// Traffic at rest is counted for so long, ms.
const REST_MS: u64 = 5_000;
/// Most time that a takeover gets, ms.
const LIMIT_MS: u64 = 60_000;

/// Messages of an election and of joining the new coordinator, by name.
pub(crate) fn of_election(m: &Message) -> bool {
    matches!(
        m,
        Message::Pre(_)
            | Message::PreLeader(_)
            | Message::PreHigher(_)
            | Message::PreOk(_)
            | Message::Claim(_)
            | Message::Reject(_)
            | Message::Follow(_)
            | Message::Join(_)
            | Message::Rival(_)
    )
}

impl World {
    /// Lets the mesh settle, ends its coordinator, and waits for the next one.
    pub(crate) fn takeover(mut self, end: End) -> Option<Sample> {
        // As in the product, where every node may.
        self.nodes.iter_mut().for_each(|n| n.cfg.can_lead = true);
        self.meter = Some(super::Meter::default());
        let settled = self.run_until(self.now + LIMIT_MS, |w| w.leading().is_some() && w.alive().len() == w.nodes.len());
        if !settled {
            return None;
        }
        let from = self.now + SETTLE_MS;
        self.run_until(from, |_| false);
        self.meter = Some(super::Meter::default());
        self.run_until(from + REST_MS, |_| false);
        let bytes = self.meter.take().map_or(0, |m| m.bytes);
        let idle_bytes = bytes as f64 * 1e3 / (REST_MS * self.nodes.len() as u64) as f64;
        let old = self.leading()?;
        self.meter = Some(super::Meter::default());
        let gone_at = self.now;
        match end {
            End::Kill => self.crash(old, false),
            End::Silent => self.crash(old, true),
            End::Leave => self.ask_to_leave(old),
        }
        // It stays away.
        self.nodes[old].gone = true;
        self.run_until(gone_at + LIMIT_MS, |w| w.leading().is_some_and(|n| n != old));
        let ms = self.now - gone_at;
        let next = self.leading().filter(|n| *n != old)?;
        // The last ones follow a little later; what they say belongs to the election.
        let last = self.now + SETTLE_MS;
        let leader = Some(self.nodes[next].cfg.peer);
        self.run_until(last, |w| w.nodes.iter().filter_map(|n| n.core.as_ref()).all(|c| c.probe.leader == leader));
        Some(Sample { ms, messages: self.meter.take()?.messages, idle_bytes })
    }

    /// The one node that serves.
    fn leading(&self) -> Option<usize> {
        let s = self.serving();
        s.first().copied().filter(|_| s.len() == 1)
    }

    /// Goes on until a moment, or until something is true; says whether it is.
    fn run_until(&mut self, until: u64, done: impl Fn(&Self) -> bool) -> bool {
        // Looked at once per virtual millisecond: it may look at every node.
        let mut looked = None;
        while self.violation.is_none() {
            let next = self.queue.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
            if looked != Some(next) && done(self) {
                return true;
            }
            looked = Some(next);
            if next > until {
                self.now = self.now.max(until);
                return false;
            }
            let Some(((at, _), what)) = self.queue.pop_first() else { return false };
            self.now = self.now.max(at);
            self.happen(what);
        }
        false
    }
}
