//! Who coordinates: suspicion, the pre-claim round, the claim, and two coordinators that meet
//! (E1-E8; `Bye` of E9; hints of E11, whose relay is in `relay`).  Bully: the best reachable, eligible, synced node wins.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::{
    config::{BOOT_WAIT_MS, COUNCIL, HB_MS, POISON_STEP, T_ANSWER_MS, T_CLAIM_MS, T_PRE_MS, T_SUSPECT_MS, VOTED},
    ids::{Epoch, Peer},
    io::Event,
    mesh::Mesh,
    message::{Claim, Follow, Hb, HbAck, Join, Message, Pre, PreHigher, PreLeader, PreOk, Reject, Rival, Weight},
    mutant,
    rule::Rule,
    writes::{Coord, Phase},
};

/// A link to a leader that is known by gossip comes up within this time, if it does, ms.
const LINK_MS: u64 = 1_000;

/// The leader this node follows.
#[derive(Debug, Clone)]
pub(crate) struct Leader {
    pub(crate) epoch: Epoch,
    pub(crate) peer: Peer,
    /// Awake ms of its last sign of life.
    pub(crate) last_hb: u64,
    /// Awake ms when it last showed that it hears us.
    pub(crate) two_way: u64,
    /// Its link is silent or closed.
    pub(crate) lane_bad: bool,
    /// Its link is silent, and this late node waits so long before it minds (L2).
    pub(crate) silent_until: Option<u64>,
    pub(crate) beat: u64,
    pub(crate) acked_at: u64,
    pub(crate) hb: Option<Hb>,
    pub(crate) rival_at: u64,
    /// The number of our last `Follow`.
    pub(crate) join: u64,
}

/// A pre-claim round (E3).  Nothing of it is persisted.
#[derive(Debug)]
pub(crate) struct Round {
    no: u64,
    deadline: u64,
    /// Everybody asked, and the number they promised once they say `PreOk`.
    answers: BTreeMap<Peer, Option<u64>>,
    n: u64,
    lonely: bool,
    /// Who consents, with which store: in quorum mode a majority of the voters has to.
    oks: BTreeSet<(Peer, u64)>,
}

impl Mesh {
    // ---- suspicion (E1) ----

    fn in_council_or_replica(&self) -> bool {
        let except = self.leader.as_ref().map(|l| l.peer);
        let replica = self.leader.as_ref().and_then(|l| l.hb.as_ref()).is_some_and(|h| h.replicas.contains(&self.me));
        replica || self.view.in_council(self.rank(), except)
    }

    /// E1, without the link's own word.
    fn leader_fresh(&self) -> bool {
        let Some(l) = &self.leader else { return false };
        let heard = self.now.saturating_sub(l.last_hb) < self.t_suspect();
        let answered = self.now.saturating_sub(l.two_way) < 3 * self.t_suspect() || mutant::on(27);
        let left = self.view.get(&l.peer).is_some_and(crate::view::Member::away);
        heard && !left && (answered || !self.in_council_or_replica())
    }

    pub(crate) fn leader_alive(&self) -> bool {
        self.leader_fresh() && !self.leader.as_ref().is_some_and(|l| l.lane_bad)
    }

    /// The link to `p` is silent, closed or refused: if it leads, ask around at once (E1).
    pub(crate) fn suspect_link(&mut self, p: Peer) {
        if self.co.is_some() {
            return;
        }
        if let Some(l) = self.leader.as_mut().filter(|l| l.peer == p) {
            l.lane_bad = true;
            self.rule(Rule::E1);
            self.plan_election();
        } else {
            // One less to wait for.
            self.round_check();
        }
    }

    pub(crate) fn election_unlink(&mut self, p: Peer) {
        if let Some(l) = self.leader.as_mut().filter(|l| l.peer == p) {
            l.lane_bad = true;
            // The driver is dialling again; it says `Up` or `Down` within about a second.
            self.wake_at(self.now + 1_000);
        }
        if self.round.is_some() {
            self.round_check();
        }
    }

    pub(crate) fn link_up_election(&mut self, p: Peer) {
        if self.co.is_some() {
            let hb = self.heartbeat();
            self.send_durable(p, Message::Hb(hb));
            // E8: of two that serve the heavier goes on, so the heartbeat has to do; who looks for one follows it.
            if let Some(epoch) = self.co.as_ref().filter(|c| c.phase != Phase::Serving || self.by_majority()).map(|c| c.epoch) {
                let config = self.quorum.clone();
                self.send_durable(p, Message::Claim(Claim { epoch, config, ext: Default::default() }));
            }
            return;
        }
        if let Some(l) = self.leader.as_mut().filter(|l| l.peer == p) {
            // A new link to the leader: what was under way on the old one is lost, so join again.
            l.lane_bad = false;
            self.send_follow();
        }
        self.ask_too(p);
    }

    /// A peer that can be talked to (again) while a round is under way may know a leader, or be ours still: it is asked, too.
    pub(crate) fn ask_too(&mut self, p: Peer) {
        let (rank, n) = (self.rank(), self.side.promised.n);
        if let Some(r) = self.round.as_mut() {
            r.answers.entry(p).or_insert(None);
            let round = r.no;
            self.send(p, Message::Pre(Pre { rank, n, round, ext: Default::default() }));
        }
    }

    /// L1: the machine slept.  Nobody is suspected for what happened meanwhile.
    pub(crate) fn after_gap(&mut self) {
        let now = self.now;
        if let Some(l) = &mut self.leader {
            l.last_hb = now;
            l.two_way = now;
        }
        for m in self.view.members.values_mut() {
            m.heard_at = now;
        }
        self.round = None;
        self.wait_higher = None;
        self.election_at = None;
        self.handover_gap();
        self.relay_gap();
    }

    // ---- planning (E2) ----

    fn plan_election(&mut self) {
        if self.election_at.is_some() || self.round.is_some() || self.co.is_some() || self.wait_higher.is_some() {
            return;
        }
        let mine = self.rank();
        let except = self.leader.as_ref().map(|l| l.peer);
        let better = if mutant::on(28) { 0 } else { self.view.better(mine, except) as u64 };
        if better > 0 {
            self.rule(Rule::E2);
        }
        let delay = if (better as usize) < COUNCIL {
            150 * better + self.below(100)
        } else {
            1_500 + 150 * (better - COUNCIL as u64).min(30) + self.below(1_500)
        };
        self.election_at = Some(self.now + delay);
        self.wake_at(self.now + delay);
    }

    pub(crate) fn tick_election(&mut self) {
        if self.co.is_some() {
            return self.tick_claim();
        }
        self.tick_silent();
        if self.leader_alive() {
            // E3: a round belongs to its suspicion; the next one asks anew.
            self.round = None;
            (self.election_at, self.wait_higher, self.alone_since) = (None, None, None);
            self.wake_at(self.now + T_SUSPECT_MS / 4);
            return;
        }
        if let Some((p, until)) = self.wait_higher {
            if self.now < until {
                return self.wake_at(until);
            }
            // E5: it promised to be better and did nothing.
            self.rule(Rule::E5);
            self.wait_higher = None;
            let now = self.now;
            let m = self.view.entry(p);
            m.penalty_until = now + (30_000 << m.penalties.min(5)).min(960_000);
            m.penalties += 1;
        }
        if self.round.is_some() {
            return self.round_check();
        }
        if !self.may_stand() {
            return self.teach_voters();
        }
        self.plan_election();
        match self.election_at {
            Some(t) if self.now >= t => self.start_round(),
            Some(t) => self.wake_at(t),
            None => {}
        }
    }

    /// E2: eligible; or nobody has been for 30 s, then everyone but broken stores is, with an alarm.
    fn may_stand(&mut self) -> bool {
        if self.eligible() {
            self.no_candidate_since = None;
            return true;
        }
        if self.store_bad
            || self.leaving
            || self.asleep()
            || self.too_old()
            || self.tilted()
            || !self.may_lead_voters()
            || self.view.usable().any(|p| self.view.rank(&p).is_some())
        {
            self.no_candidate_since = None;
            return false;
        }
        let since = *self.no_candidate_since.get_or_insert(self.now);
        if self.now < since + 30_000 {
            return false;
        }
        self.event(Event::Alarm("nobody_eligible"));
        true
    }

    // ---- the pre-claim round (E3, E4) ----

    fn start_round(&mut self) {
        self.election_at = None;
        self.rule(Rule::E3);
        if mutant::on(26) {
            return self.claim(self.side.promised.n);
        }
        self.round_no += 1;
        let answers: BTreeMap<Peer, Option<u64>> = self.view.usable().map(|p| (p, None)).collect();
        let pre = Pre { rank: self.rank(), n: self.side.promised.n, round: self.round_no, ext: Default::default() };
        for p in answers.keys() {
            self.send(*p, Message::Pre(pre.clone()));
        }
        self.event(Event::Election { why: if self.leader.is_some() { "the coordinator is suspect" } else { "no coordinator is known" } });
        self.round = Some(Round {
            no: self.round_no,
            deadline: self.now + T_PRE_MS,
            answers,
            n: self.side.promised.n,
            lonely: false,
            oks: BTreeSet::new(),
        });
        self.round_check();
    }

    /// Ends the round when everyone who can answer has, or its time is over.
    fn round_check(&mut self) {
        if self.leader_alive() {
            self.round = None;
            return;
        }
        let Some(r) = &self.round else { return };
        let waiting = r.answers.iter().any(|(p, a)| a.is_none() && self.view.is_usable(p));
        let answered = r.answers.values().any(Option::is_some);
        if waiting && self.now < r.deadline {
            let t = r.deadline;
            return self.wake_at(t);
        }
        if self.may_yet_come() {
            // E4: who has just started can't know who is alive: two seconds for all it remembers.
            let until = self.born + BOOT_WAIT_MS;
            if let Some(r) = &mut self.round {
                r.deadline = r.deadline.max((self.now + 100).min(until));
            }
            return self.wake_at((self.now + 100).min(until));
        }
        if !answered && (self.seeded || !self.view.members.is_empty()) && self.view.linked().next().is_none() && !self.all_left() {
            // E4: nobody answered.  Two seconds more for somebody to turn up, then claim alone.
            let since = *self.alone_since.get_or_insert(self.now);
            if self.now < since + 2_000 {
                let now = self.now;
                if let Some(r) = &mut self.round {
                    r.lonely = true;
                    r.deadline = r.deadline.max(now + 100).min(since + 2_000);
                }
                return self.wake_at((self.now + 100).min(since + 2_000));
            }
        }
        let n = r.n;
        let consent = self.majority_of(&r.oks);
        if self.by_majority() {
            self.rule(Rule::C1);
        }
        self.round = None;
        self.alone_since = None;
        if !consent {
            // E4 in quorum mode: a claim without a majority would only raise numbers.
            let t = self.now + 500 + self.below(1_000);
            self.leader = None;
            self.election_at = Some(t);
            self.wake_at(t);
        } else if self.may_stand() {
            self.rule(Rule::E4);
            self.claim(n);
        }
    }

    /// This node has just started, and a member of its earlier life may turn up at any moment.
    fn may_yet_come(&self) -> bool {
        self.now < self.born + BOOT_WAIT_MS && self.view.members.values().any(|m| !m.linked && !m.refused && !m.away())
    }

    fn all_left(&self) -> bool {
        !self.view.members.is_empty() && self.view.members.values().all(crate::view::Member::away)
    }

    pub(crate) fn on_pre(&mut self, from: Peer, p: Pre) {
        let round = p.round;
        if self.tilted() || self.leaving || self.asleep() {
            return self.send(from, Message::PreOk(PreOk { round, n: self.side.promised.n, store: self.store, ext: Default::default() }));
        }
        if let Some(c) = self.co.as_ref().filter(|c| c.phase == Phase::Serving) {
            let epoch = c.epoch;
            self.send_durable(from, Message::PreLeader(PreLeader { round, epoch, peer: self.me, ext: Default::default() }));
            // It may have missed our heartbeats: let it follow now.
            let hb = self.heartbeat();
            return self.send_durable(from, Message::Hb(hb));
        }
        if let Some(l) = self.leader.as_ref().filter(|l| l.peer != from)
            && self.leader_alive()
            && self.now.saturating_sub(l.two_way) < 2_500
        {
            let (epoch, peer) = (l.epoch, l.peer);
            return self.send(from, Message::PreLeader(PreLeader { round, epoch, peer, ext: Default::default() }));
        }
        let mine = self.rank();
        let except = self.leader.as_ref().map(|l| l.peer);
        let better = mine > p.rank && self.eligible() && (self.view.in_council(mine, except) || mutant::on(28));
        if self.co.is_some() || better {
            self.send(from, Message::PreHigher(PreHigher { round, n: self.side.promised.n, ext: Default::default() }));
            // Who waits for a better one itself has asked already: if it asked again for each that asks it, one suspicion of all
            // would double with each of the council.
            let waits = self.wait_higher.is_some_and(|(_, until)| self.now < until);
            if self.co.is_none() && self.round.is_none() && !waits {
                self.wait_higher = None;
                self.start_round();
            }
            return;
        }
        self.send(from, Message::PreOk(PreOk { round, n: self.side.promised.n, store: self.store, ext: Default::default() }));
        if self.round.is_none() && p.rank > mine {
            // E2: a better one is at it.
            let t = self.now + T_PRE_MS + T_CLAIM_MS + 300;
            self.election_at = Some(self.election_at.unwrap_or(t).max(t));
        }
    }

    pub(crate) fn on_pre_ok(&mut self, from: Peer, p: PreOk) {
        let Some(r) = self.round.as_mut().filter(|r| r.no == p.round) else { return };
        if p.n > r.n && p.n - r.n <= POISON_STEP {
            r.n = p.n;
        }
        if let Some(a) = r.answers.get_mut(&from) {
            *a = Some(p.n);
            r.oks.insert((from, p.store));
        }
        self.round_check();
    }

    pub(crate) fn on_pre_higher(&mut self, from: Peer, p: PreHigher) {
        let Some(r) = self.round.as_mut().filter(|r| r.no == p.round) else { return };
        if self.view.get(&from).is_some_and(|m| m.penalty_until > self.now) {
            // E5: ignored, only by us.  It counts as an answer.
            if let Some(a) = r.answers.get_mut(&from) {
                *a = Some(p.n);
            }
            return self.round_check();
        }
        self.round = None;
        self.wait_higher = Some((from, self.now + T_ANSWER_MS));
        self.wake_at(self.now + T_ANSWER_MS);
    }

    pub(crate) fn on_pre_leader(&mut self, from: Peer, p: PreLeader) {
        if self.round.as_ref().is_none_or(|r| r.no != p.round) || p.peer == self.me {
            return;
        }
        if p.epoch < self.side.promised && !mutant::on(36) {
            // E11: never follow a hint to a lower epoch; that leader must reclaim above our promise.
            self.rule(Rule::E11);
            self.round = None;
            self.ask_join(p.peer);
            self.election_at = Some(self.now + 1_000);
            return;
        }
        self.round = None;
        // Ask again if it stays silent; do not claim against it.
        let wait = if from == p.peer { 300 } else { 600 };
        self.election_at = Some(self.now + wait + self.below(300));
        if let Some(t) = self.election_at {
            self.wake_at(t);
        }
        if from == p.peer || self.view.is_usable(&p.peer) {
            self.follow(p.epoch, p.peer);
        }
    }

    // ---- the claim (E6) ----

    pub(crate) fn claim(&mut self, n: u64) {
        let base = if self.by_majority() { VOTED } else { 0 };
        let again = mutant::on(6) && self.side.promised.peer == self.me && n <= self.side.promised.n;
        let epoch = Epoch { n: n.max(self.side.promised.n).max(base) + u64::from(!again), peer: self.me };
        self.promise(epoch);
        self.handover_gap();
        self.leader = None;
        self.election_at = None;
        self.wait_higher = None;
        let asked = self.view.usable().collect();
        self.event(Event::Claimed(epoch));
        let promise_no = self.last_no();
        self.co = Some(Coord::new(epoch, promise_no, self.now, asked, !self.view.members.is_empty()));
        self.synced = false;
        self.acks.clear();
        self.send_claims();
        self.wake_at(self.now + T_CLAIM_MS);
    }

    /// `Claim` to everyone linked, once the promise is durable.
    pub(crate) fn send_claims(&mut self) {
        let Some(epoch) = self.co.as_ref().map(|c| c.epoch) else { return };
        for p in self.view.linked().collect::<alloc::vec::Vec<_>>() {
            let config = self.quorum.clone();
            self.send_durable(p, Message::Claim(Claim { epoch, config, ext: Default::default() }));
        }
    }

    pub(crate) fn on_claim(&mut self, from: Peer, c: Claim) {
        if c.epoch.peer != from {
            return self.event(Event::Dropped("claim"));
        }
        let base = if c.config.is_some() { VOTED } else { 0 };
        if c.epoch.n > self.side.promised.n.max(base).saturating_add(POISON_STEP) && self.side.promised.n > 0 {
            return self.event(Event::Alarm("epoch_poison"));
        }
        if c.epoch < self.side.promised {
            self.rule(Rule::E6);
            return self.send_reject(from);
        }
        let majority = c.config.is_some();
        if let Some(q) = &c.config {
            self.adopt_config(q);
        }
        if !self.accepts(&from, majority) || (c.epoch.n >= VOTED && !majority) {
            return self.send_reject(from);
        }
        self.follow_as(c.epoch, from, majority);
    }

    pub(crate) fn on_reject(&mut self, from: Peer, r: Reject) {
        if let Some(q) = r.config.as_ref().filter(|_| !mutant::on(41)) {
            self.adopt_config(q);
        }
        let Some(c) = &self.co else { return };
        if r.epoch <= c.epoch || r.n > c.epoch.n.saturating_add(POISON_STEP) {
            return;
        }
        if c.phase == Phase::Serving {
            return self.on_join(from, r.n);
        }
        // E6: somebody has promised more.  Give up, ask again later from a higher number.
        self.rejects = (self.rejects + 1).min(4);
        let wait = (500 + self.below(1_500)) << (self.rejects - 1);
        self.step_down("a claim was rejected");
        self.election_at = Some(self.now + wait);
        self.wake_at(self.now + wait);
        // The next number must be above what was heard.
        self.round_floor(r.n);
    }

    fn round_floor(&mut self, n: u64) {
        // A promise to a number nobody claimed is allowed: it only makes the next claim higher.
        let e = Epoch { n, peer: Peer([0; 32]) };
        self.promise(e);
    }

    // ---- following (E7) ----

    /// Promise the epoch, stop any own role, answer with what we hold.
    pub(crate) fn follow(&mut self, epoch: Epoch, peer: Peer) {
        self.follow_as(epoch, peer, false);
    }

    /// See [`Mesh::follow`]; `majority` when the other is known to go by voters.
    fn follow_as(&mut self, epoch: Epoch, peer: Peer, majority: bool) {
        if (epoch < self.side.promised && !mutant::on(36)) || peer == self.me || !self.accepts(&peer, majority) {
            return;
        }
        if let Some(l) = self.leader.as_mut().filter(|l| l.epoch == epoch) {
            l.last_hb = self.now;
            self.send_follow();
            return;
        }
        self.promise(epoch);
        self.step_down("another node coordinates");
        self.round = None;
        self.election_at = None;
        self.wait_higher = None;
        self.alone_since = None;
        self.rejects = 0;
        let now = self.now;
        let linked = self.view.is_usable(&peer);
        self.leader = Some(Leader {
            epoch,
            peer,
            last_hb: now,
            two_way: now,
            lane_bad: !linked,
            silent_until: None,
            beat: 0,
            acked_at: now,
            hb: None,
            rival_at: 0,
            join: 0,
        });
        let m = self.view.entry(peer);
        (m.penalty_until, m.penalties) = (0, 0);
        self.synced = false;
        self.acks.clear();
        self.acked_upto = 0;
        self.event(Event::Following(epoch));
        self.send_follow();
        self.leader_changed();
    }

    /// `Follow`, when the promise and everything below it is durable.
    pub(crate) fn send_follow(&mut self) {
        let Some(l) = &mut self.leader else { return };
        let (to, epoch) = (l.peer, l.epoch);
        self.round_no += 1;
        l.join = self.round_no;
        self.synced = false;
        self.acks.clear();
        self.acked_upto = 0;
        let floors = self.floors.iter().take(crate::message::ITEMS_MAX);
        let floors = floors.map(|(o, (inc, seq))| crate::message::Floor { origin: *o, inc: *inc, seq: *seq }).collect();
        let f = Follow {
            epoch,
            store: self.store,
            boot: self.boot,
            root: self.table.root(),
            count: self.table.len() as u64,
            floors,
            settings: self.settings.clone(),
            config: self.quorum.clone(),
            join: self.round_no,
            ext: Default::default(),
        };
        let after = if mutant::on(2) { 0 } else { self.last_no() };
        self.send_after(to, Message::Follow(f), after);
        self.plan_inventory();
    }

    pub(crate) fn on_hb(&mut self, from: Peer, h: Hb) {
        if h.epoch.peer != from || h.replicas.len() > 64 || h.heard.len() > 64 {
            return self.event(Event::Dropped("heartbeat"));
        }
        self.hear_proto(h.proto);
        if self.asleep() {
            return;
        }
        if self.co.is_some() {
            return self.meet(from, h.epoch, h.weight, h.majority);
        }
        if !self.accepts(&from, h.majority) {
            return self.teach(from);
        }
        let known = self.leader.as_ref().map(|l| l.epoch);
        if known == Some(h.epoch) {
            return self.refresh(h);
        }
        if self.leader_alive() {
            // E7: not ours.  Tell our leader, at most twice a second.
            let now = self.now;
            let Some(l) = self.leader.as_mut() else { return };
            if h.epoch > l.epoch && h.epoch.peer == l.peer {
                return self.follow_as(h.epoch, from, h.majority);
            }
            if now >= l.rival_at + HB_MS {
                l.rival_at = now;
                let to = l.peer;
                self.rule(Rule::E7);
                self.send(to, Message::Rival(Rival { epoch: h.epoch, weight: h.weight, majority: h.majority, ext: Default::default() }));
            }
            return;
        }
        if h.epoch >= self.side.promised {
            self.follow_as(h.epoch, from, h.majority);
            if self.leader.as_ref().is_some_and(|l| l.epoch == h.epoch) {
                self.refresh(h);
            }
        } else if !self.link_on_its_way() {
            self.ask_join(from);
        }
    }

    /// It has just heard of its leader by gossip, and the link to it may come up at any moment: until then it knows too little
    /// to wish for another one.
    fn link_on_its_way(&self) -> bool {
        let new = self.leader.as_ref().is_some_and(|l| self.now < l.two_way + LINK_MS && !self.view.is_usable(&l.peer));
        new && self.leader_fresh()
    }

    fn refresh(&mut self, h: Hb) {
        let now = self.now;
        let me = self.me;
        let council = self.in_council_or_replica() || self.quorum.as_ref().is_some_and(|q| q.voter(&self.me).is_some());
        let boot = self.boot;
        let Some(l) = self.leader.as_mut() else { return };
        if h.beat <= l.beat && l.beat != 0 {
            return;
        }
        l.beat = h.beat;
        l.last_hb = now;
        if h.heard.contains(&me) {
            l.two_way = now;
        }
        let period = if council { 0 } else { 5_000 };
        let ack = now >= l.acked_at + period;
        if ack {
            l.acked_at = now;
        }
        let (to, epoch) = (l.peer, l.epoch);
        // A heartbeat that came by gossip says nothing about a dead link to its author.
        if self.view.is_usable(&to) {
            l.lane_bad = false;
        }
        let seated = h.replicas.contains(&me);
        l.hb = Some(h);
        if mutant::on(24) && !seated {
            self.drop_all();
        }
        self.election_at = None;
        self.wait_higher = None;
        if ack && self.view.is_usable(&to) {
            self.send(to, Message::HbAck(HbAck { epoch, boot, ext: Default::default() }));
        }
    }

    /// Ask a leader whose epoch is below our promise to reclaim above it (E8), at most twice a second.
    fn ask_join(&mut self, leader: Peer) {
        let last = self.joins_sent.get(&leader).copied();
        if last.is_some_and(|t| self.now < t + HB_MS) {
            return;
        }
        if self.joins_sent.len() > 64 {
            self.joins_sent.clear();
        }
        self.joins_sent.insert(leader, self.now);
        let n = self.side.promised.n;
        if self.by_majority() {
            // The same wish, and the voters, in case it does not know them.
            return self.send_reject(leader);
        }
        self.send(leader, Message::Join(Join { n, ext: Default::default() }));
    }

    // ---- two coordinators (E8) ----

    /// This node coordinates and hears of another coordinator.
    fn meet(&mut self, other: Peer, epoch: Epoch, weight: Weight, majority: bool) {
        let Some(c) = &self.co else { return };
        if other == self.me || epoch == c.epoch {
            return;
        }
        if !self.view.is_usable(&other) {
            return;
        }
        if self.by_majority() {
            // E8 in quorum mode: the higher epoch has the promise of a majority.
            return match majority {
                true if epoch > c.epoch => self.follow_as(epoch, other, true),
                true => {
                    let hb = self.heartbeat();
                    self.send_durable(other, Message::Hb(hb));
                }
                false => self.teach(other),
            };
        }
        let mine = self.weight();
        if !majority && if mutant::on(33) { c.epoch > epoch } else { mine > weight } {
            // It will ask us to take its side in.
            let hb = self.heartbeat();
            self.send_durable(other, Message::Hb(hb));
        } else {
            self.ask_join(other);
        }
    }

    pub(crate) fn on_rival(&mut self, _from: Peer, r: Rival) {
        self.meet(r.epoch.peer, r.epoch, r.weight, r.majority);
    }

    /// E8: take in somebody whose promise is above our epoch, by claiming above it ourselves.  The
    /// coordinator stays the same, so scheduling goes on; at most once per heartbeat.
    pub(crate) fn on_join(&mut self, from: Peer, n: u64) {
        let granted = self.granted();
        let Some(c) = &mut self.co else {
            if let Some(l) = self.leader.as_ref().filter(|_| self.leader_alive()) {
                let m = Message::NotCoordinator(crate::message::NotCoordinator {
                    epoch: l.epoch,
                    leader: Some(l.peer),
                    req: 0,
                    id: None,
                    ext: Default::default(),
                });
                self.send(from, m);
            }
            return;
        };
        if c.phase != Phase::Serving || granted {
            return;
        }
        if n < c.epoch.n {
            let epoch = c.epoch;
            let config = self.quorum.clone();
            return self.send_durable(from, Message::Claim(Claim { epoch, config, ext: Default::default() }));
        }
        if n > c.epoch.n.saturating_add(POISON_STEP) {
            return self.event(Event::Alarm("epoch_poison"));
        }
        if self.by_majority() {
            return self.claim_above(n);
        }
        let Some(c) = &self.co else { return };
        if self.now < c.reclaimed_at + HB_MS {
            return;
        }
        self.rule(Rule::E8);
        self.reclaim_above(n);
    }

    /// The same coordinator in a new epoch.
    pub(crate) fn reclaim_above(&mut self, n: u64) {
        let epoch = Epoch { n: n + 1, peer: self.me };
        self.promise(epoch);
        self.reclaim(epoch);
        self.event(Event::Claimed(epoch));
        self.send_claims();
    }

    /// Whom this node follows with contact in both directions now.
    pub(crate) fn two_way_leader(&self) -> Option<Peer> {
        let l = self.leader.as_ref()?;
        let both = self.leader_alive() && self.now.saturating_sub(l.two_way) < T_SUSPECT_MS && self.view.is_usable(&l.peer);
        both.then_some(l.peer)
    }

    /// What decides when two coordinators meet.
    pub(crate) fn weight(&self) -> Weight {
        let followers = self.co.as_ref().map_or(0, |c| c.followers.keys().filter(|p| self.view.is_usable(p)).count() + 1);
        let followers = u32::try_from(followers).unwrap_or(u32::MAX);
        // Who has just claimed again has lost nobody: they say so in a moment.
        let had = self.co.as_ref().filter(|c| !c.sure() || self.now < c.reclaimed_at + T_CLAIM_MS).map_or(0, |c| c.had);
        Weight { followers: followers.max(had), prio: self.cfg.prio, peer: self.me }
    }

    pub(crate) fn on_hb_ack(&mut self, from: Peer, a: HbAck) {
        let now = self.now;
        let Some(c) = &mut self.co else { return };
        if a.epoch == c.epoch {
            c.heard.insert(from, now);
            if c.heard.len() > 4_096 {
                c.heard.retain(|_, t| now.saturating_sub(*t) < 2 * T_SUSPECT_MS);
            }
        }
    }

    pub(crate) fn on_not_coordinator(&mut self, from: Peer, n: crate::message::NotCoordinator) {
        if self.co.is_none() && !self.leader_alive() && self.leader.as_ref().is_some_and(|l| l.peer == from) {
            // Its heartbeats have ended, and it says so itself.  As long as nobody else can be had (no majority, say),
            // everything that waits for a coordinator would be sent to it ten times a second.
            self.leader = None;
        }
        // E11: a hint, never followed to a lower epoch.
        if let Some(p) = n.leader.filter(|p| *p != self.me && (n.epoch >= self.side.promised || mutant::on(36)) && self.view.is_usable(p))
            && self.co.is_none()
            && !self.leader_alive()
        {
            self.rule(Rule::E11);
            self.follow(n.epoch, p);
        }
        self.not_coordinator_for(n.req, n.id);
    }
}
