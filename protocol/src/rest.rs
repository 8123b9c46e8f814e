//! Quiet time.  A mesh at rest says "I am here" all night.  Time passes over such a stretch without a change but that the
//! clocks go on, so a simulator of months may leave it out: [`Mesh::rest`] says how long, [`Mesh::leap`] does it.
//!
//! The product never calls either.

use alloc::vec::Vec;

use crate::{io::Output, mesh::Mesh};

/// What was heard within so long before a leap is heard all through it, ms.  Longer than every period of a mesh at rest of
/// up to sixty nodes.
pub const REST_MS: u64 = 6_000;

/// The earliest of some moments that is still to come.
pub(crate) fn next(now: u64, moments: impl IntoIterator<Item = u64>) -> u64 {
    moments.into_iter().filter(|t| *t > now).min().unwrap_or(u64::MAX)
}

impl Mesh {
    /// For how long this node does nothing but say that it is there, if nobody says anything else, ms of awake time.
    /// None: something is under way, or it does not know who coordinates.
    pub fn rest(&self) -> Option<u64> {
        let busy = self.at_work() || self.tilted() || self.leaving || self.asleep() || self.store_bad || self.round.is_some();
        if busy || self.election_at.is_some() || self.wait_higher.is_some() || self.inventory_at.is_some() {
            return None;
        }
        let now = self.now;
        let mine = match &self.co {
            Some(c) => c.rest(self)?,
            None if self.leader_alive() => u64::MAX,
            None => return None,
        };
        let members = self.view.members.values().map(|m| m.penalty_until);
        let until = mine
            .min(self.handover_rest()?)
            .min(self.split_rest())
            .min(self.versions_rest())
            .min(self.relay_rest()?)
            .min(next(now, members));
        Some(until.saturating_sub(now))
    }

    /// Something waits for a disk, a peer or a slot.
    fn at_work(&self) -> bool {
        let here = !self.acks.is_empty() || !self.parked.is_empty() || !self.fetching.is_empty();
        here || self.unsettled_writes() || self.health.busy() || self.outbox.busy(self.now) || self.worker.busy() || self.asks.busy()
    }

    /// Lets `ms` of quiet time pass at once, [`Mesh::rest`] at most: who was heard of lately was heard of all the time.
    pub fn leap(&mut self, ms: u64, out: &mut Vec<Output>) {
        let lately = self.now.saturating_sub(REST_MS);
        let on = |t: &mut u64| {
            if *t >= lately {
                *t = t.saturating_add(ms);
            }
        };
        if let Some(l) = &mut self.leader {
            [&mut l.last_hb, &mut l.two_way, &mut l.acked_at].into_iter().for_each(on);
        }
        for m in self.view.members.values_mut() {
            [&mut m.heard_at, &mut m.advert_at].into_iter().for_each(on);
        }
        if let Some(c) = &mut self.co {
            c.heard.values_mut().for_each(on);
            on(&mut c.hb_at);
        }
        self.relay_leap(ms);
        self.leap_clock(ms, out);
    }
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn what_is_past_is_no_deadline() {
        assert_eq!(next(10, [3, 10, 12, 40]), 12);
        assert_eq!(next(10, [3]), u64::MAX);
    }
}
