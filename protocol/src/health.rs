//! A node that is itself late stretches its suspicion of others (L2): what looks like their silence may be its own.

use crate::{config::T_SUSPECT_MS, ids::Peer, io::Event, mesh::Mesh, rule::Rule};

/// Highest level: suspicions take so many times as long.
const LEVEL_MAX: u64 = 4;
/// A tick that comes so much later than asked for is late, ms.
const LATE_MS: u64 = 500;
/// An fsync that takes longer is slow, ms.
const SLOW_MS: u64 = 1_000;
/// A bad spell counts once in this time, ms.
const SPELL_MS: u64 = 2_000;
/// A level is given back after so long without another sign, ms.
const CLEAN_MS: u64 = 30_000;
/// Fewer peers than this fall silent by themselves.
const PEERS_MIN: usize = 3;

/// How late this node is.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Levels above the first.
    above: u64,
    /// When it last rose or fell, awake ms.
    since: u64,
    /// The oldest batch that is not durable, and when it was handed out.
    batch: Option<(u64, u64)>,
}

impl Health {
    fn sign(&mut self, now: u64) -> bool {
        let again = self.above > 0 && now < self.since + SPELL_MS;
        if !again {
            self.above = (self.above + 1).min(LEVEL_MAX - 1);
            self.since = now;
        }
        !again
    }

    fn rest(&mut self, now: u64) {
        if self.above > 0 && now >= self.since + CLEAN_MS {
            self.above -= 1;
            self.since = now;
        }
    }

    /// A batch was handed out.
    fn wrote(&mut self, no: u64, now: u64) {
        self.batch.get_or_insert((no, now));
    }

    /// Batches up to `no` of `last` are durable; how long the oldest took, ms.
    fn durable(&mut self, no: u64, last: u64, now: u64) -> u64 {
        let Some((_, at)) = self.batch.filter(|(n, _)| *n <= no) else { return 0 };
        self.batch = (last > no).then_some((last, now));
        now.saturating_sub(at)
    }

    /// It is late, or waits for its disk (see `rest`).
    pub(crate) fn busy(&self) -> bool {
        self.above > 0 || self.batch.is_some()
    }
}

impl Mesh {
    /// h: 1 for a healthy node, up to 4.
    pub(crate) fn lateness(&self) -> u64 {
        1 + self.health.above
    }

    /// T_suspect as this node applies it now, ms.
    pub(crate) fn t_suspect(&self) -> u64 {
        T_SUSPECT_MS * self.lateness()
    }

    /// Its disk has confirmed nothing for so long that it could promise nothing either.
    pub(crate) fn disk_is_stuck(&self) -> bool {
        self.health.batch.is_some_and(|(_, at)| self.now >= at + T_SUSPECT_MS)
    }

    fn late(&mut self) {
        if self.health.sign(self.now) {
            self.event(Event::Member(self.me, "late"));
            self.rule(Rule::L2);
        }
    }

    /// A tick was asked for at `asked`, awake ms, and comes now.
    pub(crate) fn health_tick(&mut self, asked: u64) {
        self.health.rest(self.now);
        if self.now > asked + LATE_MS {
            self.late();
        }
    }

    pub(crate) fn health_wrote(&mut self, no: u64) {
        self.health.wrote(no, self.now);
    }

    pub(crate) fn health_durable(&mut self, no: u64, last: u64) {
        if self.health.durable(no, last, self.now) > SLOW_MS {
            self.late();
        }
    }

    /// More than half of the peers fall silent at once: it is rather this node.
    pub(crate) fn health_silent(&mut self) {
        // Those behind one relay fall silent together, by no fault of ours.
        let linked = self.view.members.values().filter(|m| m.linked && m.via.is_none());
        let (all, silent) = linked.fold((0, 0), |(n, s), m| (n + 1, s + usize::from(m.silent)));
        if all >= PEERS_MIN && silent * 2 > all {
            self.late();
        }
    }

    /// The link to `p` has been silent for a second.  A late node waits longer before it suspects its leader for it.
    pub(crate) fn silent_leader(&mut self, p: Peer) {
        let extra = (self.lateness() - 1) * 1_000;
        let at = self.now + extra;
        match self.leader.as_mut().filter(|l| l.peer == p && extra > 0) {
            Some(l) => {
                l.silent_until = Some(at);
                self.wake_at(at);
            }
            None => self.suspect_link(p),
        }
    }

    /// The wait of [`Mesh::silent_leader`] is over.
    pub(crate) fn tick_silent(&mut self) {
        let Some((p, at)) = self.leader.as_ref().and_then(|l| l.silent_until.map(|t| (l.peer, t))) else { return };
        let silent = self.view.get(&p).is_some_and(|m| m.silent);
        if silent && self.now < at {
            return self.wake_at(at);
        }
        if let Some(l) = &mut self.leader {
            l.silent_until = None;
        }
        if silent {
            self.suspect_link(p);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_spells_raise_the_level_and_quiet_gives_it_back() {
        let mut h = Health::default();
        assert!(h.sign(10_000) && !h.sign(10_500) && h.sign(12_000));
        assert_eq!(h.above, 2);
        for i in 0..10 {
            h.sign(20_000 + i * SPELL_MS);
        }
        assert_eq!(h.above, LEVEL_MAX - 1);
        let mut now = 40_000;
        for left in [2, 1, 0, 0] {
            h.rest(now + CLEAN_MS - 1_000 - 2_000);
            now += CLEAN_MS;
            h.rest(now);
            assert_eq!(h.above, left);
        }
    }

    #[test]
    fn the_oldest_batch_is_timed() {
        let mut h = Health::default();
        h.wrote(1, 100);
        h.wrote(2, 900);
        assert_eq!(h.durable(1, 2, 1_000), 900);
        assert_eq!(h.batch, Some((2, 1_000)));
        assert_eq!(h.durable(2, 2, 1_500), 500);
        assert_eq!((h.batch, h.durable(2, 2, 9_000)), (None, 0));
    }
}
