//! The composition: one node's whole state, and the only entry to it.
//!
//! Call [`Mesh::handle`] with everything that happens, and do what it gives back, through a
//! [`crate::gate::Gate`].  The mechanisms live in their own files as further `impl Mesh` blocks:
//! `election`, `writes`, `takeover`, `schedule`, `origin`, `worker`, `query`.

use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    string::String,
    vec::Vec,
};

use rand_core::{Rng as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::{
    agents::AGENT_NAME_MAX,
    codec,
    config::{Config, TILT_MS, WAKE_MAX_MS},
    election::{Leader, Round},
    face::Facts,
    handover::Handover,
    health::Health,
    hold::Split,
    ids::{Epoch, Hash, Origin, Peer, TaskId, Ver},
    io::{Batch, Event, Input, Output, Recovered},
    message::{Advert, Floor, Gossip, Message, Rank, Settings},
    mutant,
    origin::Outbox,
    query::Asks,
    record::Rec,
    relay::Relays,
    rule::{Fired, Rule},
    schedule::Key,
    skill::Catalogue,
    table::Table,
    time::{AwakeClock, Now},
    view::{Remembered, View},
    wire_struct,
    worker::Worker,
    writes::Coord,
};

/// Floors of this node's own that are on their way to its disk; of more, the last two count as one.
const RISING_MAX: usize = 64;

wire_struct! {
    /// What must survive in the side file, apart from store and boot numbers.
    pub struct Side {
        /// The highest epoch promised; never falls (I1).
        1 => promised: Epoch,
        /// The highest version acknowledged, at most a second old (D3).
        2 => hw: Ver,
        /// The last incarnation used in task ids.
        3 => inc: u64,
        /// Terms as coordinator that ended soon, one after the other (E9).
        4 => flaps: u32,
        /// It coordinates, and not yet for long: if this is what the next start finds, that was a flap, too.
        5 => unsettled: bool,
    }
}

/// A short look inside, for checkers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// The durable or about-to-be-durable promise.
    pub promised: Epoch,
    /// The epoch this node serves or follows.
    pub epoch: Option<Epoch>,
    /// Its leader, itself included.
    pub leader: Option<Peer>,
    /// It may cause effects.
    pub serving: bool,
    /// Highest stable write of its own epoch; 0 when it does not coordinate.
    pub stable_seq: u64,
    /// Root digest.
    pub root: u128,
    /// Records.
    pub count: usize,
    /// Tasks submitted here without a result.
    pub outbox_open: usize,
    /// Attempts known to the worker that have not ended.
    pub running: usize,
    /// It is a synced replica of this epoch, or the coordinator.
    pub synced: bool,
    /// The protocol that the mesh speaks, as far as this node knows (V3).
    pub proto: u32,
}

/// One node of the mesh.
#[derive(Debug)]
pub struct Mesh {
    pub(crate) cfg: Config,
    pub(crate) me: Peer,
    pub(crate) store: u64,
    pub(crate) boot: u64,
    pub(crate) rng: Xoshiro256PlusPlus,

    clock: AwakeClock,
    /// Awake ms.
    pub(crate) now: u64,
    /// Reading minus awake ms.
    skipped: u64,
    pub(crate) wall: u64,
    pub(crate) tilt_until: u64,
    /// Awake ms of the next tick asked for.
    wake: u64,
    told_wake: u64,

    out: Vec<Output>,
    puts: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    side_dirty: bool,
    next_no: u64,
    pub(crate) durable: u64,
    /// Messages to itself, by the batch they wait for.
    own: BTreeMap<u64, VecDeque<Message>>,

    pub(crate) side: Side,
    hw_at: u64,
    pub(crate) top: Ver,
    tops: VecDeque<(u64, Ver)>,
    durable_top: Ver,
    pub(crate) store_bad: bool,
    pub(crate) full: bool,
    pub(crate) leaving: bool,
    pub(crate) left: Option<u64>,
    /// It has said that its machine sleeps, and comes back by itself then (L3).
    pub(crate) asleep_until: Option<u64>,
    pub(crate) leave_req: Option<u64>,

    pub(crate) view: View,
    pub(crate) relay: Relays,
    pub(crate) facts: Facts,
    pub(crate) facts_at: u64,
    pub(crate) catalogue: Catalogue,
    /// What stands in this node's notes, in short; 0 = it shares none.
    notes: u64,
    pub(crate) draining: bool,
    /// Where the mesh port can be reached.
    addresses: Vec<String>,
    /// This node was told of others, although it knows none yet: it does not claim at once (E4).
    pub(crate) seeded: bool,
    /// Awake ms when this life began.
    pub(crate) born: u64,
    advert_at: u64,
    /// Number of the last advert.
    pub(crate) advert_beat: u64,

    pub(crate) leader: Option<Leader>,
    pub(crate) round: Option<Round>,
    pub(crate) round_no: u64,
    pub(crate) election_at: Option<u64>,
    pub(crate) wait_higher: Option<(Peer, u64)>,
    pub(crate) rejects: u32,
    pub(crate) alone_since: Option<u64>,
    pub(crate) no_candidate_since: Option<u64>,
    pub(crate) joins_sent: BTreeMap<Peer, u64>,
    /// This node holds everything its leader holds, as of a write of the current epoch.
    pub(crate) synced: bool,
    pub(crate) acks: VecDeque<PendingAck>,
    pub(crate) acked_upto: u64,
    pub(crate) inventory_at: Option<u64>,
    pub(crate) handover: Handover,
    pub(crate) split: Split,
    pub(crate) health: Health,
    /// The protocol of the mesh by its coordinators' heartbeats (V3).
    pub(crate) heard_proto: u32,
    /// Entries of the store that this version cannot read (V3).
    pub(crate) unreadable: usize,

    pub(crate) table: Table,
    pub(crate) floors: BTreeMap<Origin, (u64, u64)>,
    /// This node's own floor, as far as it is durable: all that others may hear of it (G1).
    floor_told: (u64, u64),
    /// What it was raised to since, by the batch that says so; at most [`RISING_MAX`].
    floor_rising: VecDeque<(u64, (u64, u64))>,
    pub(crate) settings: Option<Settings>,
    /// How often this node's skills have run.
    pub(crate) runs: crate::runs::Runs,
    /// The newest voters this node knows; none in open mode.
    pub(crate) quorum: Option<crate::quorum::MeshConfig>,
    pub(crate) blobs: BTreeSet<Hash>,
    pub(crate) fetching: BTreeMap<Hash, u64>,
    /// Named by records of ours, and had by nobody in reach.
    pub(crate) absent: BTreeSet<Hash>,
    pub(crate) parked: BTreeMap<Hash, Vec<(Peer, Message)>>,

    pub(crate) co: Option<Coord>,
    pub(crate) outbox: Outbox,
    pub(crate) worker: Worker,
    pub(crate) asks: Asks,
    pub(crate) fired: Fired,
}

/// An `Ack` that waits for blobs (W4).
#[derive(Debug)]
pub(crate) struct PendingAck {
    pub(crate) upto: u64,
    pub(crate) blobs: BTreeSet<Hash>,
}

impl Mesh {
    /// A node from what its store gave back.  `seed` feeds all its randomness.
    pub fn new(cfg: Config, recovered: Recovered, now: Now, seed: u64, out: &mut Vec<Output>) -> Self {
        let side = recovered.side.as_deref().and_then(|b| codec::decode::<Side>(b).ok()).unwrap_or(Side {
            promised: Epoch::ZERO,
            hw: Ver::default(),
            inc: 0,
            flaps: 0,
            unsettled: false,
            ext: Default::default(),
        });
        let mut clock = AwakeClock::default();
        let (awake, _) = clock.advance(now.ms);
        let (slots, agent_slots) = (cfg.slots, cfg.agent_slots);
        let me = cfg.peer;
        let mut m = Self {
            me,
            store: recovered.store,
            boot: recovered.boot,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            clock,
            now: awake,
            skipped: 0,
            wall: now.wall_ms,
            tilt_until: 0,
            wake: awake,
            told_wake: 0,
            out: Vec::new(),
            puts: BTreeMap::new(),
            side_dirty: false,
            next_no: 1,
            durable: 0,
            own: BTreeMap::new(),
            side,
            hw_at: 0,
            top: Ver::default(),
            tops: VecDeque::new(),
            durable_top: Ver::default(),
            store_bad: false,
            full: false,
            leaving: false,
            left: None,
            asleep_until: None,
            leave_req: None,
            view: View::default(),
            relay: Relays::default(),
            facts: Facts::default(),
            facts_at: awake,
            catalogue: Catalogue::empty(),
            notes: 0,
            draining: false,
            addresses: Vec::new(),
            seeded: false,
            born: awake,
            advert_at: 0,
            advert_beat: 0,
            leader: None,
            round: None,
            round_no: 0,
            election_at: None,
            wait_higher: None,
            rejects: 0,
            alone_since: None,
            no_candidate_since: None,
            joins_sent: BTreeMap::new(),
            synced: false,
            acks: VecDeque::new(),
            acked_upto: 0,
            inventory_at: None,
            handover: Handover::default(),
            split: Split::default(),
            health: Health::default(),
            heard_proto: 0,
            unreadable: 0,
            table: Table::new(),
            floors: BTreeMap::new(),
            floor_told: (0, 0),
            floor_rising: VecDeque::new(),
            settings: None,
            runs: crate::runs::Runs::default(),
            quorum: None,
            blobs: recovered.blobs,
            fetching: BTreeMap::new(),
            absent: BTreeSet::new(),
            parked: BTreeMap::new(),
            co: None,
            outbox: Outbox::default(),
            worker: Worker::new(slots, agent_slots),
            asks: Asks::default(),
            fired: Fired::default(),
            cfg,
        };
        let quarantined = recovered.quarantined;
        m.load(recovered.entries, quarantined);
        m.floor_told = m.own_floor().unwrap_or_default();
        m.side.inc = m.side.inc.saturating_add(1).max(m.own_floor().map_or(0, |f| f.0) + 1).max(now.wall_ms);
        m.side_dirty = true;
        m.leadership_lost(false);
        if quarantined {
            // The new store holds what could be read: the mark must not claim more (D3).
            m.side.hw = m.top;
            m.rule(Rule::D3);
        }
        m.synced = m.table.len() > 0;
        m.outbox.start(Origin { peer: m.me, store: m.store }, m.side.inc);
        m.advert_at = m.now;
        m.finish(out);
        m
    }

    fn load(&mut self, entries: Vec<(Vec<u8>, Vec<u8>)>, quarantined: bool) {
        for (key, value) in entries {
            let ok = match Key::parse(&key) {
                Some(Key::Task) => crate::record::decode_rec(&value).map(|r| self.load_rec(r, value, quarantined)).is_ok(),
                Some(Key::Floor) => codec::decode::<Floor>(&value).map(|f| self.floors.insert(f.origin, (f.inc, f.seq))).is_ok(),
                Some(Key::Settings) => codec::decode::<Settings>(&value).map(|s| self.load_settings(s)).is_ok(),
                Some(Key::Values) => codec::decode::<Settings>(&value).map(|s| self.load_values(s)).is_ok(),
                Some(Key::Config) => codec::decode::<crate::quorum::MeshConfig>(&value).map(|q| self.quorum = Some(q)).is_ok(),
                Some(Key::Member(p)) => codec::decode::<Remembered>(&value)
                    .map(|r| {
                        let m = self.view.entry(p);
                        m.name = r.name;
                        m.proto = r.proto;
                        m.ever = r.skills.into_iter().collect();
                    })
                    .is_ok(),
                Some(Key::Outbox) => self.outbox.load(&value).is_ok(),
                Some(Key::Run) => self.load_run(&value, quarantined).is_ok(),
                Some(Key::Tally) => self.runs.load(&value).is_ok(),
                // The mark may be above every record that is left: deleted ones counted too.
                Some(Key::Meta) => codec::decode::<Ver>(&value).map(|v| self.top = self.top.max(v)).is_ok(),
                None => {
                    self.event(Event::Alarm("unknown_entry"));
                    continue;
                }
            };
            if !ok {
                self.unreadable += 1;
                self.event(Event::Alarm("unreadable_entry"));
            }
        }
    }

    fn load_rec(&mut self, rec: Rec, bytes: Vec<u8>, _quarantined: bool) {
        self.top = self.top.max(rec.ver);
        self.table.put(rec, bytes);
    }

    /// Takes one input and appends what to do.  Never panics on foreign input; never blocks.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        self.advance(now);
        match input {
            Input::Tick => {}
            Input::Message(from, msg) => self.on_message(from, msg),
            Input::Relayed(via, envelope) => self.on_relayed(via, envelope),
            Input::Gossip(from, msg) => self.on_gossip(from, msg),
            Input::Up(p) => self.direct_up(p),
            Input::Closed(p) => self.direct_closed(p),
            Input::Down(p, refused) => self.direct_down(p, refused),
            Input::Silent(p) => self.direct_heard(p, false),
            Input::Heard(p) => self.direct_heard(p, true),
            Input::Persisted(no) => self.on_persisted(no),
            Input::StoreBad => self.on_store_bad(),
            Input::Full(full) => self.full = full,
            Input::Blob(hash, ok) => self.on_blob(hash, ok),
            Input::Command(req, cmd) => self.on_command(req, cmd),
            Input::Exited(id, attempt, exit) => self.on_exited(id, attempt, exit),
            Input::Facts(f) => {
                self.facts = f;
                self.facts_at = self.now;
            }
            Input::Skills(c) => self.on_skills(c),
            Input::Agent(name) => self.on_agent(name),
            Input::Notes(what) => self.on_notes(what),
            Input::Addresses(a) => {
                self.addresses = a.into_iter().filter(|a| a.len() <= 128).take(8).collect();
                self.advert_soon();
            }
        }
        self.drain_own();
        if self.now >= self.wake {
            let asked = self.wake;
            self.health_tick(asked);
            self.wake = self.now + WAKE_MAX_MS;
            self.on_tick();
            self.drain_own();
        }
        self.finish(out);
    }

    fn advance(&mut self, now: Now) {
        let (awake, cut) = self.clock.advance(now.ms);
        self.now = awake;
        self.skipped += cut;
        self.wall = now.wall_ms;
        if cut > 0 {
            // L1: asleep or stopped.  Every deadline has moved by the gap already, because they are in
            // awake time; what remains is to distrust our own view of the others for a while.
            self.tilt_until = self.now + TILT_MS;
            self.event(Event::Tilt(cut));
            self.rule(Rule::L1);
            self.after_gap();
            self.wake_up();
        }
    }

    pub(crate) fn tilted(&self) -> bool {
        self.now < self.tilt_until
    }

    fn on_tick(&mut self) {
        self.tick_suspend();
        self.tick_election();
        self.tick_coord();
        self.tick_handover();
        self.tick_worker();
        self.tick_origin();
        self.tick_asks();
        self.tick_relay();
        if self.asleep() {
            // An advert would say that it is awake.
            return;
        }
        if self.now >= self.advert_at {
            self.publish_advert();
        }
        self.wake_at(self.advert_at);
        self.tell_runs();
    }

    pub(crate) fn on_message(&mut self, from: Peer, msg: Message) {
        if from != self.me {
            let m = self.view.entry(from);
            m.heard_at = self.now;
        }
        let Some(msg) = self.hold(from, msg) else { return };
        match msg {
            Message::Advert(a) => self.on_advert(from, a),
            Message::Hb(h) => self.on_hb(from, h),
            Message::HbAck(a) => self.on_hb_ack(from, a),
            Message::Pre(p) => self.on_pre(from, p),
            Message::PreLeader(p) => self.on_pre_leader(from, p),
            Message::PreHigher(p) => self.on_pre_higher(from, p),
            Message::PreOk(p) => self.on_pre_ok(from, p),
            Message::Claim(c) => self.on_claim(from, c),
            Message::Reject(r) => self.on_reject(from, r),
            Message::Follow(f) => self.on_follow(from, f),
            Message::Join(j) => self.on_join(from, j.n),
            Message::Rival(r) => self.on_rival(from, r),
            Message::Pull(p) => self.on_pull(from, p),
            Message::PullResp(p) => self.on_pull_resp(from, p),
            Message::Write(w) => self.on_write(from, w),
            Message::Ack(a) => self.on_ack(from, a),
            Message::Release(r) => self.on_release(from, r),
            Message::Submit(s) => self.on_submit(from, s),
            Message::SubmitAck(a) => self.on_submit_ack(from, a),
            Message::SubmitRefused(r) => self.on_submit_refused(from, r),
            Message::Assign(a) => self.on_assign(from, a),
            Message::Refuse(r) => self.on_refuse(from, r),
            Message::Report(r) => self.on_report(from, r),
            Message::ReportAck(a) => self.on_report_ack(from, a),
            Message::Kill(k) => self.on_kill(from, k),
            Message::Inventory(i) => self.on_inventory(from, i),
            Message::Deliver(d) => self.on_deliver(from, d),
            Message::Delivered(d) => self.on_delivered(from, d),
            Message::Settled(s) => self.on_settled(from, s),
            Message::Offer(o) => self.on_offer(from, o.ids),
            Message::Want(w) => self.on_want(from, w.ids),
            Message::Cancel(c) => self.on_cancel(from, c),
            Message::CancelAck(c) => self.on_cancel_ack(from, c),
            Message::Query(q) => self.on_query(from, q),
            Message::Answer(a) => self.on_answer(from, a),
            Message::SetStrategy(s) => self.on_set_strategy(from, s),
            Message::ChangeSetting(c) => self.on_change_setting(from, c),
            Message::ForgetNode(f) => self.on_forget_node(from, f),
            Message::SettingsRefused(r) => self.on_settings_refused(r),
            Message::Settings(s) => self.on_settings(from, s),
            Message::Adopt(a) => self.on_adopt(from, a),
            Message::HandReq(r) => self.on_hand_req(from, r),
            Message::HandGrant(g) => self.on_hand_grant(from, g),
            Message::SettingsAck(a) => self.on_settings_ack(a.req),
            Message::ChangeQuorum(m) => self.on_change_quorum(from, m),
            Message::Configure(m) => self.on_configure(from, m),
            Message::Bye(b) => self.on_bye(from, b),
            Message::Busy(b) => self.on_busy(from, b),
            Message::NotCoordinator(n) => self.on_not_coordinator(from, n),
            Message::WantCatalogue(w) => self.on_want_catalogue(from, w.hash),
            Message::Catalogue(c) => self.on_catalogue(from, c.catalogue),
            Message::Relay(r) => self.on_relay(from, r),
            Message::NoRoute(n) => self.on_no_route(from, n),
            Message::Unknown(..) => self.event(Event::Dropped("unknown_message")),
        }
    }

    fn on_gossip(&mut self, from: Peer, msg: Gossip) {
        if from == self.me {
            return;
        }
        match msg {
            Gossip::Hb(h) => self.on_hb(from, h),
            Gossip::Advert(a) => self.on_advert(from, a),
            Gossip::Runs(r) => self.on_runs(from, r),
            Gossip::Unknown(..) => self.event(Event::Dropped("unknown_gossip")),
        }
        self.seek_relay(from);
    }

    // ---- links ----

    pub(crate) fn on_up(&mut self, p: Peer) {
        let now = self.now;
        let m = self.view.entry(p);
        if !m.linked {
            // Who left has come back, although its advert is still on its way: an election has to ask it (E3).
            m.bye = None;
        }
        (m.linked, m.silent, m.heard_at) = (true, false, now);
        (m.asked, m.asleep) = (None, None);
        self.event(Event::Member(p, "up"));
        let advert = self.advert();
        self.send(p, Message::Advert(advert));
        self.link_up_election(p);
        self.link_up_origin(p);
        self.ask_absent(p);
    }

    pub(crate) fn unlink(&mut self, p: Peer, how: &'static str) {
        let now = self.now;
        let m = self.view.entry(p);
        if m.linked {
            m.lost_at = m.lost_at.filter(|_| m.via.is_some()).or(Some(now));
            (m.linked, m.silent) = (false, false);
            self.event(Event::Member(p, how));
        }
        self.coord_unlink(p);
        self.election_unlink(p);
    }

    pub(crate) fn on_down(&mut self, p: Peer, refused: bool) {
        self.view.entry(p).refused = refused;
        self.unlink(p, "down");
        self.suspect_link(p);
    }

    pub(crate) fn on_silent(&mut self, p: Peer) {
        let m = self.view.entry(p);
        if m.linked && !m.silent {
            m.silent = true;
            self.event(Event::Member(p, "silent"));
            self.health_silent();
            self.silent_leader(p);
        }
    }

    pub(crate) fn on_heard(&mut self, p: Peer) {
        let now = self.now;
        let m = self.view.entry(p);
        m.heard_at = now;
        if m.silent {
            m.silent = false;
            self.event(Event::Member(p, "heard"));
            self.ask_too(p);
        }
    }

    fn on_bye(&mut self, from: Peer, b: crate::message::Bye) {
        let m = self.view.entry(from);
        if b.asleep {
            // Its attempts are left alone as those of any silent worker (S4): it may be back in a minute.
            m.asleep = Some((b.boot, b.beat));
            self.event(Event::Member(from, "asleep"));
            self.rule(Rule::L3);
            self.coord_unlink(from);
            return self.suspect_link(from);
        }
        m.bye = Some(b.boot);
        self.event(Event::Member(from, "bye"));
        self.rule(Rule::L3);
        if self.leader.as_ref().is_some_and(|l| l.peer == from) {
            self.rule(Rule::E9);
        }
        self.coord_bye(from, b.boot);
        self.suspect_link(from);
    }

    // ---- adverts and skills ----

    /// Period of member adverts, ms: clamp(N/10 s, 2 s, 30 s).
    pub(crate) fn advert_period(&self) -> u64 {
        (self.view.members.len() as u64 * 100).clamp(2_000, 30_000)
    }

    pub(crate) fn advert(&mut self) -> Advert {
        self.advert_beat += 1;
        let (running, agent_running) = self.worker.running_in();
        let f = &self.facts;
        Advert {
            peer: self.me,
            boot: self.boot,
            store: self.store,
            name: self.cfg.name.clone(),
            prio: self.cfg.prio,
            eligible: self.eligible(),
            synced: self.rank().synced,
            slots: self.cfg.slots,
            running,
            draining: self.draining || self.leaving || self.too_old(),
            commands: self.cfg.commands,
            labels: self.cfg.labels.clone(),
            skills: self.catalogue.hash(),
            floor: Some(self.floor_told).filter(|f| *f > (0, 0)).map(|(inc, seq)| Floor { origin: self.own_origin(), inc, seq }),
            host: f.host.clone(),
            platform: f.platform.clone(),
            arch: f.arch.clone(),
            addresses: f.addresses.iter().take(16).cloned().collect(),
            cpus: f.cpus,
            cpu_percent: f.cpu_percent,
            memory_mib: f.memory_mib,
            memory_free_mib: f.memory_free_mib,
            disk_mib: f.disk_mib,
            disk_free_mib: f.disk_free_mib,
            age_ms: self.now - self.facts_at,
            version: self.cfg.version.clone(),
            proto_min: 1,
            proto_max: self.cfg.proto,
            beat: self.advert_beat,
            mesh: self.addresses.clone(),
            agent: self.worker.agent.clone(),
            agent_slots: self.worker.agent_slots(),
            agent_running,
            notes: self.notes,
            ext: Default::default(),
        }
    }

    /// Gossips the advert now and plans the next.
    pub(crate) fn publish_advert(&mut self) {
        let period = self.advert_period();
        self.advert_at = self.now + period * 8 / 10 + self.below(period * 4 / 10);
        let a = self.advert();
        let after = 0;
        self.out.push(Output::Publish { msg: Gossip::Advert(a), after });
    }

    /// The next tick publishes the advert: something in it changed.
    pub(crate) fn advert_soon(&mut self) {
        self.advert_at = self.advert_at.min(self.now + 100);
        self.wake_at(self.advert_at);
    }

    fn on_advert(&mut self, from: Peer, a: Advert) {
        if a.peer != from
            || a.name.len() > 256
            || a.agent.len() > AGENT_NAME_MAX
            || a.labels.len() > 64
            || a.addresses.len() > 16
            || a.mesh.len() > 8
        {
            return self.event(Event::Dropped("advert"));
        }
        let now = self.now;
        let m = self.view.entry(from);
        if m.advert.as_ref().is_some_and(|old| (old.boot, old.beat) >= (a.boot, a.beat)) {
            return;
        }
        if m.bye.is_some_and(|b| b < a.boot) {
            m.bye = None;
        }
        if m.asleep.is_some_and(|last| last < (a.boot, a.beat)) {
            m.asleep = None;
        }
        let hash = a.skills;
        m.lost_at.get_or_insert(now);
        let dial = ((!m.linked || m.via.is_some()) && !a.mesh.is_empty() && now >= m.dialled_at + 5_000).then(|| a.mesh.clone());
        if dial.is_some() {
            m.dialled_at = now;
        }
        let renamed = m.name != a.name || m.proto != a.proto_max;
        m.proto = a.proto_max;
        m.name.clone_from(&a.name);
        (m.advert_at, m.heard_at) = (now, now);
        let floor = a.floor;
        let noted = (m.advert.as_ref().map_or(0, |old| old.notes) != a.notes).then_some(a.notes);
        m.facts = crate::view::facts(&a);
        m.advert = Some(a);
        let have = m.catalogue_hash;
        let ask = m.linked && have != Some(hash) && m.asked != Some(hash);
        if ask {
            m.asked = Some(hash);
        }
        if let Some(addrs) = dial {
            self.output(Output::Dial(from, addrs));
        }
        if renamed {
            self.remember(from);
        }
        if let Some(what) = noted {
            self.event(Event::Notes(from, what));
        }
        if ask {
            self.send(from, Message::WantCatalogue(crate::message::WantCatalogue { hash, ext: Default::default() }));
        }
        if let Some(f) = floor.filter(|f| f.origin.peer == from) {
            self.raise_floor(f);
        }
        self.capacity_changed();
    }

    fn on_want_catalogue(&mut self, from: Peer, _hash: Hash) {
        let catalogue = self.catalogue.clone();
        self.send(from, Message::Catalogue(crate::message::CatalogueMsg { catalogue, ext: Default::default() }));
    }

    fn on_catalogue(&mut self, from: Peer, c: Catalogue) {
        if c.skills.len() > crate::skill::SKILLS_MAX {
            return self.event(Event::Dropped("catalogue"));
        }
        let m = self.view.entry(from);
        m.runnable = c.skills.iter().filter(|s| s.runnable).map(|s| s.name.clone()).collect();
        let before = m.ever.len();
        for s in c.skills.iter().take(100) {
            if m.ever.len() < 100 {
                m.ever.insert(s.name.clone());
            }
        }
        let grew = m.ever.len() != before;
        m.asked = None;
        m.catalogue_hash = Some(c.hash());
        self.view.registry.offer(from, &c);
        self.view.entry(from).catalogue = Some(c);
        if grew {
            self.remember(from);
        }
        self.capacity_changed();
    }

    fn on_skills(&mut self, mut c: Catalogue) {
        c.fit();
        if c.hash() != self.catalogue.hash() {
            self.worker.runnable = c.skills.iter().filter(|s| s.runnable).map(|s| s.name.clone()).collect();
            self.view.registry.offer(self.me, &c);
            self.catalogue = c;
            self.advert_soon();
            self.capacity_changed();
        }
    }

    fn on_agent(&mut self, name: String) {
        let name: String = name.chars().filter(|c| !c.is_control()).take(AGENT_NAME_MAX / 4).collect();
        if name != self.worker.agent {
            self.worker.agent = name;
            self.advert_soon();
            self.capacity_changed();
        }
    }

    fn on_notes(&mut self, what: u64) {
        if what != self.notes {
            self.notes = what;
            self.advert_soon();
        }
    }

    fn remember(&mut self, p: Peer) {
        let Some(m) = self.view.get(&p) else { return };
        let r = Remembered { name: m.name.clone(), skills: m.ever.iter().cloned().collect(), proto: m.proto, ext: Default::default() };
        self.put(Key::member(p), codec::encode(&r));
    }

    // ---- time and randomness ----

    /// A tick is needed at this awake time.
    pub(crate) fn wake_at(&mut self, t: u64) {
        self.wake = self.wake.min(t.max(self.now + 1));
    }

    /// Uniform in `0..n`; 0 when `n` is 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.rng.next_u64() % n }
    }

    // ---- effects ----

    pub(crate) fn event(&mut self, e: Event) {
        self.out.push(Output::Event(e));
    }

    /// A rule has decided something.
    pub(crate) fn rule(&mut self, r: Rule) {
        self.fired.count(r);
    }

    /// How often each rule fired in this life.
    pub fn fired(&self) -> &Fired {
        &self.fired
    }

    pub(crate) fn output(&mut self, o: Output) {
        self.out.push(o);
    }

    /// Sends at once.
    pub(crate) fn send(&mut self, to: Peer, msg: Message) {
        self.send_after(to, msg, 0);
    }

    /// Sends when everything written so far, in this step too, is durable (D1).
    pub(crate) fn send_durable(&mut self, to: Peer, msg: Message) {
        let after = self.last_no();
        self.send_after(to, msg, after);
    }

    pub(crate) fn send_after(&mut self, to: Peer, msg: Message, after: u64) {
        if to == self.me {
            self.own.entry(after).or_default().push_back(msg);
        } else if let Some(msg) = self.send_relayed(to, msg, after) {
            self.out.push(Output::Send { to, msg, after });
        }
    }

    /// The number of the last batch, the one being collected included.
    pub(crate) fn last_no(&self) -> u64 {
        if self.puts.is_empty() && !self.side_dirty { self.next_no - 1 } else { self.next_no }
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.puts.insert(key, Some(value));
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.puts.insert(key, None);
    }

    /// The side file changed: it goes out with this step's batch.
    pub(crate) fn side_dirty(&mut self) {
        self.side_dirty = true;
    }

    /// Persists a new promise (I1: only upwards).
    pub(crate) fn promise(&mut self, e: Epoch) {
        if e > self.side.promised {
            self.side.promised = e;
            self.side_dirty |= !mutant::on(1);
        }
    }

    fn on_persisted(&mut self, no: u64) {
        self.durable = self.durable.max(no);
        self.health_durable(no, self.next_no - 1);
        while self.tops.front().is_some_and(|(n, _)| *n <= no) {
            if let Some((_, top)) = self.tops.pop_front() {
                self.durable_top = self.durable_top.max(top);
            }
        }
        self.tell_floor(no);
        self.coord_persisted();
    }

    /// Handles messages to itself whose batch is durable.  Bounded: each round only handles what was
    /// there when it began, a few rounds at most; the rest waits for the next input.
    fn drain_own(&mut self) {
        for _ in 0..8 {
            let mut ready = VecDeque::new();
            while let Some(first) = self.own.first_entry() {
                if *first.key() > self.durable {
                    break;
                }
                ready.append(&mut first.remove());
            }
            if ready.is_empty() {
                break;
            }
            let me = self.me;
            for msg in ready {
                self.on_message(me, msg);
            }
        }
        if self.own.first_key_value().is_some_and(|(no, _)| *no <= self.durable) {
            self.wake_at(self.now);
        }
    }

    fn on_store_bad(&mut self) {
        if !self.store_bad {
            self.store_bad = true;
            self.rule(Rule::D4);
            self.event(Event::Alarm("store_bad"));
            self.step_down("the store refuses writes");
        }
    }

    /// Ends a step: places what can be placed, fills the replicas' windows, seals the batch.
    fn finish(&mut self, out: &mut Vec<Output>) {
        self.step_config();
        self.grant();
        self.schedule();
        self.drain_own();
        self.replicate();
        let no = self.last_no();
        self.coord_sealed(no);
        if !self.puts.is_empty() || self.side_dirty {
            self.seal();
        }
        if no <= self.durable {
            // Nothing of this step needs the disk.
            self.coord_persisted();
            self.drain_own();
        }
        let raw = self.wake + self.skipped;
        if raw != self.told_wake {
            self.told_wake = raw;
            self.out.push(Output::WakeAt(raw));
        }
        out.append(&mut self.out);
    }

    fn seal(&mut self) {
        let no = self.next_no;
        self.next_no += 1;
        self.health_wrote(no);
        let mut batch = Batch { no, ..Batch::default() };
        if self.puts.keys().any(|k| k.first() == Some(&b't')) {
            // The high-water mark: in every batch with records, and at most once a second in the side
            // file, so that a store that lost its tail is noticed at the next start (D3).
            self.puts.insert(b"meta/hw".to_vec(), Some(codec::encode(&self.top)));
            self.tops.push_back((no, self.top));
        }
        if self.durable_top > self.side.hw && self.now >= self.hw_at + 1_000 {
            self.side.hw = self.durable_top;
            self.hw_at = self.now;
            self.side_dirty = true;
        }
        for (key, value) in core::mem::take(&mut self.puts) {
            match value {
                Some(v) => batch.puts.push((key, v)),
                None => batch.dels.push(key),
            }
        }
        if self.side_dirty {
            self.side_dirty = false;
            batch.side = Some(codec::encode(&self.side));
        }
        // Before everything else of this step: what depends on it waits behind it.
        self.out.insert(0, Output::Persist(batch));
    }

    // ---- small questions ----

    /// This node's rank.
    pub(crate) fn rank(&self) -> Rank {
        let synced = self.co.as_ref().is_some_and(Coord::serving) || self.synced;
        Rank { synced, prio: self.cfg.prio, peer: self.me }
    }

    /// May this node coordinate now (E2)?
    pub(crate) fn eligible(&self) -> bool {
        self.cfg.can_lead
            && !self.store_bad
            && !self.leaving
            && !self.asleep()
            && !self.tilted()
            && self.may_lead_voters()
            && !self.barred()
            && !self.too_old()
            && !self.disk_is_stuck()
    }

    pub(crate) fn own_floor(&self) -> Option<(u64, u64)> {
        self.floors.get(&self.own_origin()).copied()
    }
    fn own_origin(&self) -> Origin {
        Origin { peer: self.me, store: self.store }
    }

    /// As [`Mesh::below_floor`], by what others may know, too: an own floor is durable first (G1, seed 1462).
    pub(crate) fn below_told_floor(&self, id: &TaskId) -> bool {
        self.below_floor(id) && (id.origin != self.own_origin() || id.place() <= self.floor_told)
    }

    /// All floors that others may know; at most [`ITEMS_MAX`](crate::message::ITEMS_MAX).
    pub(crate) fn told_floors(&self) -> Vec<Floor> {
        let own = self.own_origin();
        let told = |o: &Origin, f: (u64, u64)| if *o == own { self.floor_told } else { f };
        let all = self.floors.iter().map(|(o, f)| (*o, told(o, *f))).filter(|(_, f)| *f > (0, 0));
        all.take(crate::message::ITEMS_MAX).map(|(origin, (inc, seq))| Floor { origin, inc, seq }).collect()
    }

    /// What this node has said of its own floor is on its disk up to this batch: now it may be told.
    fn tell_floor(&mut self, no: u64) {
        let mut told = None;
        while let Some((_, f)) = self.floor_rising.pop_front_if(|(n, _)| *n <= no) {
            told = Some(f);
        }
        let Some((inc, seq)) = told else { return };
        let old = core::mem::replace(&mut self.floor_told, (inc, seq));
        let f = Floor { origin: self.own_origin(), inc, seq };
        self.coord_floor(f);
        self.retire(f, old);
    }

    /// Is the id at or below its origin's floor (G2)?
    pub(crate) fn below_floor(&self, id: &TaskId) -> bool {
        self.floors.get(&id.origin).is_some_and(|f| id.place() <= *f)
    }

    /// This origin was forgotten (G4).
    pub(crate) fn is_forgotten(&self, origin: &Origin) -> bool {
        self.floors.get(origin).is_some_and(|f| f.0 == u64::MAX)
    }

    /// Merges a floor by max, durably.
    pub(crate) fn raise_floor(&mut self, f: Floor) {
        let old = self.floors.get(&f.origin).copied();
        if old.is_none_or(|o| (f.inc, f.seq) > o) {
            self.floors.insert(f.origin, (f.inc, f.seq));
            self.put(Key::floor(&f.origin), codec::encode(&f));
            if f.origin.peer == self.me {
                self.rule(Rule::G1);
            }
            if f.origin == self.own_origin() {
                if self.floor_rising.len() >= RISING_MAX {
                    self.floor_rising.pop_back();
                }
                self.floor_rising.push_back((self.next_no, (f.inc, f.seq)));
            } else {
                self.coord_floor(f);
            }
            self.retire(f, old.unwrap_or_default());
            if f.inc == u64::MAX {
                self.forgotten(f.origin);
            }
        }
    }

    /// T5: what a risen floor passes by is dead, also when it was placed already: its worker would not even answer.
    fn retire(&mut self, f: Floor, old: (u64, u64)) {
        if self.co.as_ref().is_none_or(|c| !c.serving()) || old >= (f.inc, f.seq) {
            return;
        }
        for id in self.table.open_of(f.origin, old, (f.inc, f.seq)) {
            self.sched_refresh(&id);
        }
    }

    /// G4: the highest floor there is means that the node was forgotten.
    fn forgotten(&mut self, origin: Origin) {
        self.rule(Rule::G4);
        if origin == (Origin { peer: self.me, store: self.store }) {
            // The driver stops the node: with this store it can submit nothing any more.
            return self.event(Event::Alarm("forgotten"));
        }
        if origin.peer != self.me && self.view.get(&origin.peer).is_some_and(|m| !m.linked) {
            self.view.remove(&origin.peer);
            self.delete(Key::member(origin.peer));
        }
    }

    /// A node's name for people.
    pub(crate) fn name_of(&self, p: &Peer) -> String {
        if *p == self.me { self.cfg.name.clone() } else { self.view.name(p) }
    }

    /// This node.
    pub fn me(&self) -> Peer {
        self.me
    }

    /// A member known from an earlier life: somebody to wait for before claiming alone (E4).
    pub fn remember_peer(&mut self, p: Peer) {
        if p != self.me {
            self.view.entry(p);
        }
    }

    /// This node was given addresses of others: it waits for them before it claims alone (E4).
    pub fn expect_others(&mut self) {
        self.seeded = true;
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<Peer> {
        match &self.co {
            Some(_) => Some(self.me),
            None => self.leader.as_ref().map(|l| l.peer),
        }
    }

    /// The state for checkers.
    pub fn probe(&self) -> Probe {
        Probe {
            promised: self.side.promised,
            epoch: self.co.as_ref().map(|c| c.epoch).or(self.leader.as_ref().map(|l| l.epoch)),
            leader: self.leader(),
            serving: self.co.as_ref().is_some_and(Coord::serving),
            stable_seq: self.co.as_ref().map_or(0, |c| c.stable),
            root: self.table.root(),
            count: self.table.len(),
            outbox_open: self.outbox.open(),
            running: self.worker.running(),
            synced: self.rank().synced,
            proto: self.active_proto(),
        }
    }

    /// One record.
    pub fn record(&self, id: &TaskId) -> Option<&Rec> {
        self.table.get(id)
    }
    /// All records, by id.
    pub fn records(&self) -> impl Iterator<Item = &Rec> {
        self.table.iter()
    }
    /// A record's bytes.
    pub fn record_bytes(&self, id: &TaskId) -> Option<&[u8]> {
        self.table.bytes(id)
    }

    /// How many messages and effects this node keeps back: a mesh at rest has none to speak of.
    pub fn backlog(&self) -> usize {
        self.acks.len() + self.own.values().map(VecDeque::len).sum::<usize>() + self.co.as_ref().map_or(0, Coord::backlog)
    }

    /// What was written is not durable yet, or a message to itself waits.
    pub(crate) fn unsettled_writes(&self) -> bool {
        !self.puts.is_empty() || self.side_dirty || self.durable + 1 < self.next_no || !self.own.is_empty()
    }

    /// The clock's part of a leap over quiet time.
    pub(crate) fn leap_clock(&mut self, ms: u64, out: &mut Vec<Output>) {
        self.clock.leap(ms);
        self.now = self.now.saturating_add(ms);
        self.wake = self.wake.saturating_add(ms);
        self.advert_at = self.advert_at.saturating_add(ms);
        self.told_wake = self.wake + self.skipped;
        out.push(Output::WakeAt(self.told_wake));
    }

    /// What must be true between steps.
    ///
    /// # Errors
    /// The first broken sentence.
    pub fn check_invariants(&self) -> Result<(), String> {
        if let Some(c) = &self.co {
            if c.epoch.peer != self.me || c.epoch > self.side.promised {
                return Err("a coordinator's epoch is its own and promised".into());
            }
            c.check(self)?;
        }
        if self.leader.as_ref().is_some_and(|l| l.epoch < self.side.promised) {
            return Err("a follower's epoch is the one it promised".into());
        }
        self.check_relays()?;
        self.worker.check()
    }
    /// The slow half of [`Mesh::check_invariants`]: recomputes the table's digests.
    ///
    /// # Errors
    /// The first broken sentence.
    pub fn check_table(&self) -> Result<(), String> {
        self.table.check()
    }
}
