//! After a split, the smaller side holds back the tasks it shares with the larger one for a while (S7).  It limits
//! duplicates and is no rule of safety: a result is accepted once whatever was held (O2).

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use crate::{
    codec::Blob,
    ids::{Peer, TaskId},
    io::Event,
    mesh::Mesh,
    message::{Adopt, Message, Settings},
    record::Queued,
    rule::Rule,
    spec::{Need, OnSplit},
    writes::Effect,
};

/// Most members that the recorded membership names.  Of a larger mesh these are a sample: keys are random.
const NAMED_MAX: usize = 450;
/// Pause between two looks at the membership, ms.
const LOOK_MS: u64 = 1_000;
/// Pause between two times at which followers that are no replicas are told of changed settings, ms.
const TELL_MS: u64 = 5_000;

/// What a coordinator knows of a split.  Gone with its role.
#[derive(Debug, Default)]
pub(crate) struct Split {
    hold: Option<Hold>,
    /// Recorded members that are not here: since when, awake ms.
    absent: BTreeMap<u64, u64>,
    look_at: u64,
    tell_at: u64,
}

/// Tasks are held back.
#[derive(Debug, Clone, Copy)]
struct Hold {
    since: u64,
    /// Those that came before.
    before: Queued,
    /// The time for it is over; who asked never to run on the smaller side still waits.
    over: bool,
}

/// The part of a key that names a member in the recorded membership.
fn mark(p: &Peer) -> u64 {
    p.0.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b))
}

fn marks(s: &Settings) -> impl Iterator<Item = u64> + '_ {
    s.members.0.chunks_exact(8).map(|c| c.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
}

impl Mesh {
    /// The mesh-wide settings, changed in this epoch; not yet written.
    pub(crate) fn new_settings(&self) -> Option<Settings> {
        let c = self.co.as_ref()?;
        let (epoch, seq) = (c.epoch, c.seq + 1);
        let (old, proto) = (self.settings.clone(), self.recorded_proto());
        Some(match old {
            Some(s) => Settings { epoch, seq, proto, ..s },
            None => Settings { epoch, seq, proto, ..Settings::none() },
        })
    }

    /// How long tasks are held when this node coordinates now: fewer members are in reach than may be alive
    /// elsewhere, or as many and the best of them all is not here.
    fn split(&self) -> Option<u64> {
        if self.by_majority() || crate::mutant::on(31) {
            // The smaller side serves nobody.
            return None;
        }
        let known: BTreeMap<u64, _> = self.view.members.iter().map(|(p, m)| (mark(p), m)).collect();
        let me = mark(&self.me);
        let (mut here, mut elsewhere, mut best_here) = (0, 0, None);
        for id in self.settings.iter().flat_map(marks) {
            let reached = id == me || known.get(&id).is_some_and(|m| m.usable());
            if !reached && known.get(&id).is_some_and(|m| m.away() || (m.refused && !m.linked)) {
                // It runs nowhere: its host says so, or it said so itself.
                continue;
            }
            best_here.get_or_insert(reached);
            if reached {
                here += 1
            } else {
                elsewhere += 1
            };
        }
        if elsewhere > here {
            Some(self.cfg.timing.hold_ms)
        } else {
            (elsewhere == here && best_here == Some(false)).then_some(self.cfg.timing.hold_half_ms)
        }
    }

    /// At least as many members may be alive elsewhere, and this side is not the one that would go on (S7).
    pub(crate) fn smaller_side(&self) -> bool {
        self.split().is_some()
    }

    /// Looks at who is here: begins and ends a hold, and keeps the recorded membership.
    pub(crate) fn look_at_split(&mut self) {
        if self.tilted() || self.co.is_none() {
            return;
        }
        match (self.split(), self.split.hold) {
            (Some(limit), None) => {
                let Some(c) = &self.co else { return };
                let before = Queued { epoch: c.epoch, seq: c.seq + 1 };
                self.split.hold = Some(Hold { since: self.now, before, over: false });
                self.event(Event::Member(self.me, "holds tasks back"));
                self.rule(Rule::S7);
                self.wake_at(self.now + limit);
                self.hold_queued();
            }
            (Some(limit), Some(h)) if !h.over && self.now >= h.since + limit => {
                self.split.hold = Some(Hold { over: true, ..h });
                self.let_held_go();
            }
            (Some(limit), Some(h)) if !h.over => self.wake_at(h.since + limit),
            (Some(_), Some(_)) => {}
            (None, hold) => {
                if hold.is_some() {
                    self.end_hold();
                }
            }
        }
    }

    pub(crate) fn tick_split(&mut self) {
        if self.now < self.split.look_at || self.co.as_ref().is_none_or(|c| !c.serving()) {
            return;
        }
        self.split.look_at = self.now + LOOK_MS;
        self.look_at_split();
        if self.split.hold.is_none() && !self.tilted() {
            self.record_members(self.cfg.timing.absent_ms);
            self.tick_versions();
        }
        if self.now >= self.split.tell_at {
            self.split.tell_at = self.now + TELL_MS;
            self.tell_settings();
        }
    }

    /// Replicas get the settings with their writes; the others may coordinate one day, too.
    fn tell_settings(&mut self) {
        let (Some(c), Some(s)) = (&mut self.co, &self.settings) else { return };
        let now = (s.epoch, s.seq);
        let lack = c.followers.iter_mut().filter(|(_, f)| !f.streams() && f.settings_told != now);
        let to: Vec<Peer> = lack
            .map(|(p, f)| {
                f.settings_told = now;
                *p
            })
            .collect();
        let s = s.clone();
        for p in to {
            self.send(p, Message::Settings(s.clone()));
        }
    }

    pub(crate) fn on_settings(&mut self, from: Peer, s: Settings) {
        if self.leader.as_ref().is_some_and(|l| l.peer == from) {
            self.adopt_settings(s);
        }
    }

    /// The place in the queue of a task that is submitted once more: the other side may have it already.
    pub(crate) fn place_again(&self, new: Queued) -> Queued {
        match self.split.hold {
            Some(h) => Queued { seq: h.before.seq.saturating_sub(1), ..h.before },
            _ => new,
        }
    }

    /// Only a coordinator that holds nothing back says who the mesh is: without who left, without who has been
    /// away for a minute, with who has come.
    fn record_members(&mut self, absent_ms: u64) -> bool {
        let now = self.now;
        let Some(c) = &self.co else { return false };
        let mut here: BTreeSet<Peer> = c.followers.keys().filter(|p| self.view.is_usable(p)).copied().collect();
        here.insert(self.me);
        let present: BTreeSet<u64> = here.iter().map(mark).collect();
        let old: Vec<u64> = self.settings.iter().flat_map(marks).collect();
        let left: BTreeSet<u64> = self.view.members.iter().filter(|(_, m)| m.left()).map(|(p, _)| mark(p)).collect();
        let absent: BTreeMap<u64, u64> = old
            .iter()
            .filter(|id| !present.contains(id) && !left.contains(id))
            .map(|id| (*id, self.split.absent.get(id).copied().unwrap_or(now)))
            .collect();
        let keep: BTreeSet<u64> = absent.iter().filter(|(_, since)| now < **since + absent_ms).map(|(id, _)| *id).collect();
        self.split.absent = absent;
        let chosen: BTreeSet<u64> = present.union(&keep).copied().take(NAMED_MAX).collect();
        // The best first: it decides between two halves.
        let prio: BTreeMap<u64, (u32, Peer)> = here
            .iter()
            .chain(self.view.members.keys())
            .map(|p| (mark(p), (if *p == self.me { self.cfg.prio } else { self.view.prio(p) }, *p)))
            .collect();
        let mut order: Vec<u64> = chosen.into_iter().collect();
        order.sort_by_key(|id| core::cmp::Reverse(prio.get(id).copied()));
        if order == old {
            return false;
        }
        let Some(mut s) = self.new_settings() else { return false };
        s.members = Blob(order.iter().flat_map(|id| id.to_be_bytes()).collect());
        self.settings = Some(s);
        self.settings_write();
        true
    }

    /// `clawmesh mesh adopt`: who is here is the mesh.
    pub(crate) fn on_adopt(&mut self, from: Peer, m: Adopt) {
        if self.co.as_ref().is_none_or(|c| !c.serving()) {
            return self.not_coordinator(from, m.req, None);
        }
        self.record_members(0);
        self.end_hold();
        self.settings_effect(Effect::SettingsAck(from, m.req));
    }

    /// This task waits for the end of a split.
    pub(crate) fn is_held(&self, need: &Need, queued: Queued) -> bool {
        let wish = need.on_split.unwrap_or_default();
        self.split.hold.is_some_and(|h| wish != OnSplit::Run && queued < h.before && (!h.over || wish == OnSplit::Never))
    }

    fn hold_queued(&mut self) {
        let now = self.now;
        let Some(c) = &self.co else { return };
        let of = |id: &TaskId| self.table.get(id).is_some_and(|r| self.is_held(&r.need, r.queued));
        let ids: Vec<TaskId> = c.sched.queue.ids().filter(|id| of(id)).copied().collect();
        let Some(c) = &mut self.co else { return };
        for id in ids {
            if let Some(waited) = c.sched.queue.remove(&id, now) {
                c.sched.held.insert(id, waited);
            }
        }
    }

    fn end_hold(&mut self) {
        if self.split.hold.take().is_some() {
            self.event(Event::Member(self.me, "holds nothing back any more"));
            self.let_held_go();
        }
    }

    /// Queues what need not wait any longer.
    fn let_held_go(&mut self) {
        let held = self.co.as_mut().map(|c| core::mem::take(&mut c.sched.held)).unwrap_or_default();
        for (id, waited) in held {
            if let Some(r) = self.table.get(&id).filter(|r| !r.terminal() && r.live.is_empty()) {
                let (need, queued) = (r.need.clone(), r.queued);
                self.enqueue(&id, &need, queued, waited);
            }
        }
        self.capacity_changed();
    }

    /// When something is due here if nobody says anything (see `rest`).
    pub(crate) fn split_rest(&self) -> u64 {
        let t = &self.cfg.timing;
        let hold = self.split.hold.filter(|h| !h.over).into_iter().flat_map(|h| [h.since + t.hold_ms, h.since + t.hold_half_ms]);
        let absent = self.split.absent.values().map(|since| since + t.absent_ms);
        crate::rest::next(self.now, hold.chain(absent))
    }

    /// The role has ended.
    pub(crate) fn end_split(&mut self) {
        self.split = Split::default();
    }
}
