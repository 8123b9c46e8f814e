//! A coordinator that gives its place to another one: the planned takeover by a node of higher configured
//! priority and its damping (E9), and stepping down when nothing moves any more (E10).

use crate::{
    config::{T_DRAIN_MS, T_GRANT_MS},
    ids::{Epoch, Peer},
    io::Event,
    mesh::Mesh,
    message::{HandGrant, HandReq, Message},
    rest::next,
    rule::Rule,
    view::Member,
};

/// A follower asks its coordinator at most this often, ms.
const ASK_MS: u64 = 5_000;
/// The time of steady contact doubles with each flap, to this many times at most (1 h in the product).
const STEADY_MAX: u64 = 120;
/// Flaps that are counted.
const FLAPS_MAX: u32 = 16;

/// What this node knows of a change of coordinators that nobody is forced to.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// As a follower: whom it has been in steady contact with, and since when, awake ms.
    steady: Option<(Peer, u64)>,
    /// As a follower: when it last asked.
    asked_at: Option<u64>,
    /// As a coordinator: to whom it gives.
    giving: Option<Giving>,
    /// As a coordinator: nobody gets it before, because the last one did not take it.
    not_before: u64,
    /// As a coordinator: its epoch, the last stable write, and since when writes have waited behind it.
    stuck: Option<(Epoch, u64, u64)>,
    /// Stepped down because nothing moved (E10): does not stand before.
    barred_until: u64,
}

/// A handover under way.
#[derive(Debug, Clone, Copy)]
struct Giving {
    to: Peer,
    until: u64,
    /// All is stable and it was told so.
    granted: bool,
}

impl Mesh {
    /// This node hands over: it begins nothing new.
    pub(crate) fn giving(&self) -> bool {
        self.handover.giving.is_some()
    }

    /// E10: it has just shown that it can't coordinate.
    pub(crate) fn barred(&self) -> bool {
        self.now < self.handover.barred_until
    }

    pub(crate) fn tick_handover(&mut self) {
        if self.co.is_some() {
            self.handover.steady = None;
            self.tick_settled();
            self.tick_giving();
            self.tick_stuck();
        } else {
            self.tick_wish();
        }
    }

    /// L1: what was steady or stuck before the machine slept says nothing.
    pub(crate) fn handover_gap(&mut self) {
        (self.handover.steady, self.handover.stuck) = (None, None);
    }

    /// When something is due here if nobody says anything (see `rest`); none: something is under way.
    pub(crate) fn handover_rest(&self) -> Option<u64> {
        let (h, now, t) = (&self.handover, self.now, &self.cfg.timing);
        if h.giving.is_some() || h.stuck.is_some() || h.asked_at.is_some_and(|at| now < at + ASK_MS) {
            return None;
        }
        let steady = h.steady.map_or(0, |(_, since)| since + self.steady_wait());
        let term = self.co.as_ref().map_or([0; 2], |c| [c.since + t.tenure_ms, c.since + t.settled_ms]);
        Some(next(now, [steady, h.not_before, h.barred_until].into_iter().chain(term)))
    }

    /// It has let another one claim: who asks to be taken in has heard of that claim, and waits for it.
    pub(crate) fn granted(&self) -> bool {
        self.handover.giving.is_some_and(|g| g.granted)
    }

    /// How long contact has to be steady before it asks; it doubles with each flap.
    fn steady_wait(&self) -> u64 {
        let flaps = if crate::mutant::on(32) { 0 } else { self.side.flaps.min(FLAPS_MAX) };
        let steady_ms = self.cfg.timing.steady_ms;
        (steady_ms << flaps).min(steady_ms.saturating_mul(STEADY_MAX))
    }

    // ---- the follower that is better ----

    fn tick_wish(&mut self) {
        let now = self.now;
        let wait = self.steady_wait();
        // A mesh that is only reached through another node is better led by one that others reach (E11).
        let contact = self.two_way_leader().filter(|p| self.eligible() && !self.is_relayed(p));
        let Some(peer) = contact else {
            (self.handover.steady, self.handover.asked_at) = (None, None);
            return;
        };
        let since = match self.handover.steady {
            Some((p, since)) if p == peer => since,
            _ => now,
        };
        self.handover.steady = Some((peer, since));
        let Some((epoch, hb)) = self.leader.as_ref().and_then(|l| l.hb.as_ref().map(|h| (l.epoch, h))) else { return };
        // Only the best asks: otherwise a second handover follows the first.
        let best = self.view.usable().filter_map(|p| self.view.rank(&p)).all(|r| r.prio <= self.cfg.prio);
        let better = best && self.cfg.prio > hb.weight.prio && (self.synced || hb.root == self.table.root());
        let asked = self.handover.asked_at.is_some_and(|t| now < t + ASK_MS);
        if better && !asked && now >= since + wait {
            self.handover.asked_at = Some(now);
            self.send(peer, Message::HandReq(HandReq { epoch, prio: self.cfg.prio, ext: Default::default() }));
        }
    }

    pub(crate) fn on_hand_grant(&mut self, from: Peer, g: HandGrant) {
        let follows = self.leader.as_ref().is_some_and(|l| l.peer == from && l.epoch == g.epoch);
        let asked = self.handover.asked_at.is_some_and(|t| self.now < t + ASK_MS);
        if self.co.is_some() || !follows || !asked || g.epoch != self.side.promised || !self.eligible() {
            return self.event(Event::Dropped("grant"));
        }
        // Who had its turn and did not get through waits as long again.
        (self.handover.asked_at, self.handover.steady) = (None, None);
        self.event(Event::Election { why: "the coordinator hands over" });
        self.round = None;
        self.claim(g.epoch.n);
    }

    // ---- the coordinator that gives ----

    pub(crate) fn on_hand_req(&mut self, from: Peer, r: HandReq) {
        let now = self.now;
        let Some(c) = self.co.as_ref().filter(|c| c.serving() && c.epoch == r.epoch) else { return };
        let settled = now >= c.since + self.cfg.timing.tenure_ms && now >= self.handover.not_before;
        let known = c.followers.contains_key(&from) && self.view.is_usable(&from) && !self.is_relayed(&from);
        if !settled || !known || r.prio <= self.cfg.prio || self.tilted() || self.giving() {
            return;
        }
        self.event(Event::Member(from, "takes over"));
        self.rule(Rule::E9);
        self.handover.giving = Some(Giving { to: from, until: now + T_DRAIN_MS, granted: false });
        self.wake_at(now + T_DRAIN_MS);
    }

    /// Everything is stable: the other one may claim.
    pub(crate) fn grant(&mut self) {
        let now = self.now;
        let Some(g) = self.handover.giving.as_mut().filter(|g| !g.granted) else { return };
        let Some(c) = self.co.as_ref().filter(|c| c.serving() && c.stable == c.seq) else { return };
        (g.granted, g.until) = (true, now + T_GRANT_MS);
        let (to, epoch, root) = (g.to, c.epoch, self.table.root());
        self.send(to, Message::HandGrant(HandGrant { epoch, root, ext: Default::default() }));
        self.wake_at(now + T_GRANT_MS);
    }

    fn tick_giving(&mut self) {
        let Some(g) = self.handover.giving else { return };
        let gone = !g.granted && !self.view.is_usable(&g.to);
        if self.now < g.until && !gone {
            return self.wake_at(g.until);
        }
        self.handover.giving = None;
        self.handover.not_before = self.now + self.cfg.timing.tenure_ms;
        self.event(Event::Member(g.to, "did not take over"));
        if g.granted {
            // It may have promised to itself, and others to it: only a higher epoch is surely ours.
            match self.by_majority() {
                true => self.claim_above(self.side.promised.n),
                false => self.reclaim_above(self.side.promised.n),
            }
        }
        self.capacity_changed();
        self.drain_held();
    }

    /// A handover ends with the coordinator's role; true when it was what ended it.
    pub(crate) fn end_giving(&mut self) -> bool {
        self.handover.stuck = None;
        self.handover.giving.take().is_some_and(|g| g.granted)
    }

    // ---- damping ----

    /// It serves: if it ends within ten minutes, that is a flap.  Durable, so that a crash counts, too.
    pub(crate) fn leadership_gained(&mut self) {
        if !self.side.unsettled {
            self.side.unsettled = true;
            self.side_dirty();
        }
    }

    /// It serves no longer; `given` when it handed over.
    pub(crate) fn leadership_lost(&mut self, given: bool) {
        if core::mem::take(&mut self.side.unsettled) {
            self.side.flaps = if given { self.side.flaps } else { (self.side.flaps + 1).min(FLAPS_MAX) };
            self.side_dirty();
        }
    }

    fn tick_settled(&mut self) {
        let settled_ms = self.cfg.timing.settled_ms;
        let long = self.co.as_ref().is_some_and(|c| c.serving() && self.now >= c.since + settled_ms);
        if long && self.side.unsettled {
            (self.side.unsettled, self.side.flaps) = (false, 0);
            self.side_dirty();
        }
    }

    // ---- no progress (E10) ----

    fn tick_stuck(&mut self) {
        let Some(c) = self.co.as_ref().filter(|c| c.serving() && c.stable < c.seq) else {
            self.handover.stuck = None;
            return;
        };
        let now = self.now;
        let since = match self.handover.stuck {
            Some((e, stable, since)) if e == c.epoch && stable == c.stable => since,
            _ => now,
        };
        self.handover.stuck = Some((c.epoch, c.stable, since));
        let limit = since + self.cfg.timing.stuck_ms;
        if now < limit {
            return self.wake_at(limit);
        }
        // Alone it would only stop itself.
        let other = self.view.members.iter().any(|(p, m): (&Peer, &Member)| m.usable() && self.view.rank(p).is_some());
        if !other || self.tilted() {
            return;
        }
        self.handover.barred_until = now + self.cfg.timing.barred_ms;
        self.event(Event::Alarm("no_progress"));
        self.rule(Rule::E10);
        self.step_down("its writes make no progress");
        self.advert_soon();
    }
}
