//! The coordinator's writes: a version per write, streams to the replicas, and effects that leave
//! only when their record is stable (W1-W6).

use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    string::String,
    vec::Vec,
};

use crate::{
    codec::Blob,
    config::{HB_MS, K, T_CLAIM_MS, T_FEWER_MS, T_STALL_MS, T_SUSPECT_MS},
    ids::{Attempt, Epoch, Hash, Peer, TaskId, Ver},
    io::{Event, Output, Source},
    mesh::Mesh,
    message::{Ack, BYTES_MAX, Floor, Hb, ITEMS_MAX, Message, Settings, Write},
    mutant,
    record::{Outcome, Rec},
    rule::Rule,
    schedule::{Key, Sched},
    takeover::{Follower, Stage},
};

/// Most blobs given up at once; beyond it, writes wait again.
const ABSENT_MAX: usize = 1_024;

/// Where a coordinator stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// `Claim` sent, collecting `Follow`s until then.
    Claiming(u64),
    /// Pulling what the followers hold (T1).
    Syncing,
    /// Causing effects.
    Serving,
}

/// What leaves when a record is stable (W1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    Assign(TaskId, Attempt),
    Kill(TaskId, Attempt, Peer),
    Deliver(TaskId),
    ReportAck(TaskId, Attempt, Peer),
    CancelAck(TaskId, Peer, u64),
    Settled(TaskId, Peer),
    /// The first task has the key and the spec of the second, a submit of this node: it stands for it (O4).
    Joined(TaskId, TaskId, Peer),
    Answer(Peer, u64, Vec<u8>),
    SettingsAck(Peer, u64),
}

/// What a coordinator knows beyond the table.  Gone when it is deposed (W6).
#[derive(Debug)]
pub(crate) struct Coord {
    pub(crate) epoch: Epoch,
    pub(crate) phase: Phase,
    /// The batch with our promise, until it is durable: before that the epoch could be claimed again
    /// after a crash, so nobody may see it (E6, I2).
    unsure: Option<u64>,
    pub(crate) since: u64,
    /// Claimed to, no answer yet.
    pub(crate) asked: BTreeSet<Peer>,
    pub(crate) followers: BTreeMap<Peer, Follower>,
    pub(crate) replicas: BTreeMap<Peer, u64>,
    pub(crate) seq: u64,
    pub(crate) stable: u64,
    own_acked: u64,
    sealed: VecDeque<(u64, u64)>,
    sealed_seq: u64,
    /// Writes whose blobs are not here yet keep our own copy from counting (W4).
    own_blobs: BTreeMap<u64, BTreeSet<Hash>>,
    /// Blobs of inherited records that are not here: whether they can be had at all decides what replicas wait for.
    raw_blobs: BTreeSet<Hash>,
    effects: BTreeMap<u64, Vec<Effect>>,
    submits: BTreeMap<u64, Vec<TaskId>>,
    pub(crate) written_at: VecDeque<(u64, u64)>,
    /// How many holders are enough now (W2): d, or what has been left of them for long enough.
    enough: usize,
    /// Fewer than that are joined: how many, and since when not fewer still.
    fewer: Option<(usize, u64)>,
    ever_second: bool,
    pub(crate) heard: BTreeMap<Peer, u64>,
    pub(crate) hb_at: u64,
    pub(crate) beat: u64,
    pub(crate) reclaimed_at: u64,
    /// The weight's followers before that.
    pub(crate) had: u32,
    /// Requests for records so far.
    pub(crate) pulls: u64,
    /// What followers say about their tasks before their records are here (T2).
    pub(crate) held: VecDeque<(Peer, Message)>,
    /// Quorum mode: records joined while pulling, and the newest version that went into each (T3).
    pub(crate) merged: BTreeMap<TaskId, Ver>,
    /// Who asked for the change of the voters that is under way.
    pub(crate) config_waiters: Vec<(Peer, u64)>,
    pub(crate) sched: Sched,
}

impl Coord {
    pub(crate) fn new(epoch: Epoch, promise_no: u64, now: u64, asked: BTreeSet<Peer>, ever_second: bool) -> Self {
        Self {
            epoch,
            phase: Phase::Claiming(now + T_CLAIM_MS),
            unsure: Some(promise_no),
            since: now,
            asked,
            followers: BTreeMap::new(),
            replicas: BTreeMap::new(),
            seq: 0,
            stable: 0,
            own_acked: 0,
            sealed: VecDeque::new(),
            sealed_seq: 0,
            own_blobs: BTreeMap::new(),
            raw_blobs: BTreeSet::new(),
            effects: BTreeMap::new(),
            submits: BTreeMap::new(),
            written_at: VecDeque::new(),
            enough: usize::MAX,
            fewer: None,
            ever_second,
            heard: BTreeMap::new(),
            hb_at: now,
            beat: 0,
            reclaimed_at: now,
            had: 0,
            pulls: 0,
            held: VecDeque::new(),
            merged: BTreeMap::new(),
            config_waiters: Vec::new(),
            sched: Sched::default(),
        }
    }

    pub(crate) fn serving(&self) -> bool {
        self.phase == Phase::Serving && self.sure()
    }

    /// The promise is durable.
    pub(crate) fn sure(&self) -> bool {
        self.unsure.is_none()
    }

    /// Our own copy counts up to here.
    pub(crate) fn own_upto(&self) -> u64 {
        match self.own_blobs.first_key_value() {
            Some((seq, _)) => self.own_acked.min(seq - 1),
            None => self.own_acked,
        }
    }

    /// Joined holders without ourselves.
    pub(crate) fn holders(&self) -> impl Iterator<Item = (&Peer, &Follower)> {
        self.followers.iter().filter(|(p, f)| f.stage == Stage::Joined && self.replicas.contains_key(p))
    }

    /// How many disks hold write `seq`.
    pub(crate) fn copies(&self, seq: u64) -> u32 {
        let others = self.holders().filter(|(_, f)| f.acked >= seq).count() as u32;
        others + u32::from(self.own_upto() >= seq)
    }

    /// Copies that an effect needs now (W1, W2).  Each loss of a holder has to last before fewer are
    /// enough: two that go one after the other are two losses.
    fn need(&mut self, d: usize, now: u64) -> usize {
        let holders = self.holders().count() + 1;
        self.ever_second |= holders >= 2;
        if holders >= self.enough.min(d) || !self.ever_second {
            (self.enough, self.fewer) = (holders.min(d), None);
            return self.enough;
        }
        let since = match self.fewer {
            Some((n, t)) if holders >= n => t,
            _ => now,
        };
        self.fewer = Some((holders, since));
        if now >= since + T_FEWER_MS {
            (self.enough, self.fewer) = (holders, None);
        }
        self.enough.min(d)
    }

    pub(crate) fn backlog(&self) -> usize {
        let waiting = self.effects.values().map(Vec::len).sum::<usize>() + self.submits.values().map(Vec::len).sum::<usize>();
        waiting + self.held.len()
    }

    /// When something is due here if nobody says anything (see `rest`); none: something is under way.
    pub(crate) fn rest(&self, m: &Mesh) -> Option<u64> {
        let streams = self.followers.values().any(|f| matches!(f.stage, Stage::Pulling | Stage::Catching) || f.has_more());
        let waits = self.stable < self.seq || !self.asked.is_empty() || self.fewer.is_some() || !self.config_waiters.is_empty();
        if !self.serving() || self.backlog() > 0 || streams || waits {
            return None;
        }
        let seats = self.replicas.values().map(|t| t + m.cfg.tune.sticky_ms);
        Some(self.sched.rest(m, self.since).min(crate::rest::next(m.now, seats)))
    }

    pub(crate) fn check(&self, m: &Mesh) -> Result<(), String> {
        if self.stable > self.seq || self.own_acked > self.seq {
            return Err("stable and acknowledged writes are written ones".into());
        }
        self.sched.check(m, self.serving())
    }
}

impl Mesh {
    // ---- writing ----

    /// Writes a record in this epoch; it becomes stable later.
    pub(crate) fn write(&mut self, mut rec: Rec) {
        let Some(c) = &mut self.co else { return };
        c.seq += 1;
        let seq = c.seq;
        rec.ver = Ver { epoch: c.epoch, seq };
        let missing: BTreeSet<Hash> = rec.blobs().filter(|h| !self.blobs.contains(h) && !self.absent.contains(h)).collect();
        if !missing.is_empty() {
            c.own_blobs.insert(seq, missing.clone());
        }
        c.written_at.push_back((seq, self.now));
        c.followers.values_mut().for_each(|f| f.push(seq, rec.id));
        self.top = self.top.max(rec.ver);
        let bytes = rec.encode_fit();
        let id = rec.id;
        self.put(Key::task(&id), bytes.clone());
        self.table.put(rec, bytes);
        for h in missing {
            self.fetch(h, &[id.origin.peer]);
        }
    }

    /// Stores a record of an earlier epoch as it is (T4: no effect may depend on it).
    pub(crate) fn store_raw(&mut self, rec: Rec, bytes: Vec<u8>) {
        self.top = self.top.max(rec.ver);
        let id = rec.id;
        self.put(Key::task(&id), bytes.clone());
        let missing: Vec<Hash> = rec.blobs().filter(|h| !self.blobs.contains(h) && !self.absent.contains(h)).collect();
        if let Some(c) = &mut self.co {
            if c.raw_blobs.len() < ABSENT_MAX {
                c.raw_blobs.extend(missing.iter().copied());
            }
            // Replicas get it too; the write counter does not move, so it makes nothing stable.
            let seq = c.seq;
            c.followers.values_mut().for_each(|f| f.push(seq, id));
        }
        self.table.put(rec, bytes);
        for h in missing {
            self.fetch(h, &[id.origin.peer]);
        }
    }

    /// Lets `effect` out when the record is stable in this epoch: at once, or later (W1).  An
    /// inherited record is written again first (T4).
    pub(crate) fn effect(&mut self, id: &TaskId, effect: Effect) {
        let Some(epoch) = self.co.as_ref().map(|c| c.epoch) else { return };
        let Some(rec) = self.table.get(id) else { return };
        if rec.ver.epoch != epoch && !mutant::on(10) {
            let rec = rec.clone();
            self.rule(Rule::T4);
            self.write(rec);
        }
        let Some(seq) = self.table.get(id).map(|r| r.ver.seq) else { return };
        let Some(c) = &mut self.co else { return };
        if seq <= c.stable {
            self.emit(effect);
        } else {
            let list = c.effects.entry(seq).or_default();
            if !list.contains(&effect) {
                list.push(effect);
                self.rule(Rule::W1);
            }
        }
    }

    /// `SubmitAck` when the record is on d disks, of which the origin's outbox may be one.
    pub(crate) fn ack_submit(&mut self, id: &TaskId) {
        let Some(epoch) = self.co.as_ref().map(|c| c.epoch) else { return };
        let Some(rec) = self.table.get(id) else { return };
        if rec.ver.epoch != epoch {
            let rec = rec.clone();
            self.write(rec);
        }
        let Some(seq) = self.table.get(id).map(|r| r.ver.seq) else { return };
        if let Some(c) = &mut self.co {
            c.submits.entry(seq).or_default().push(*id);
        }
        self.release();
    }

    /// Recomputes what is stable and lets effects out.
    pub(crate) fn release(&mut self) {
        let d = if mutant::on(4) { 1 } else { self.cfg.copies };
        let now = self.now;
        let Some(c) = &mut self.co else { return };
        let need = c.need(d, now);
        if !c.serving() {
            return;
        }
        let fewer = need < d && c.ever_second;
        if !self.by_majority() {
            self.release_submits(need);
        }
        let (open, most) = (self.open_rules(), if self.by_majority() { self.majority_upto() } else { u64::MAX });
        let Some(c) = &mut self.co else { return };
        let mut acked: Vec<u64> = c.holders().map(|(_, f)| f.acked).collect();
        acked.push(c.own_upto());
        acked.sort_unstable_by(|a, b| b.cmp(a));
        let by_count = if open { acked.get(need - 1).copied().unwrap_or(0) } else { u64::MAX };
        let stable = by_count.min(most).min(c.seq);
        if stable > c.stable {
            let need = if open { need } else { acked.iter().filter(|a| **a >= stable).count() };
            c.stable = stable;
            let epoch = c.epoch;
            let mut took_ms = 0;
            while let Some((_, at)) = c.written_at.pop_front_if(|(s, _)| *s <= stable) {
                took_ms = took_ms.max(now - at);
            }
            let later = c.effects.split_off(&(stable + 1));
            let ready = core::mem::replace(&mut c.effects, later);
            self.event(Event::Stable { epoch, seq: stable, copies: need as u32, took_ms });
            if fewer {
                self.rule(Rule::W2);
            }
            for e in ready.into_values().flatten() {
                match e.task() {
                    // The record may have been written again since: only its current version counts (W1).
                    Some(id) => self.effect(&id, e),
                    None => self.emit(e),
                }
            }
        }
        if self.by_majority() {
            // An outbox is no vote: here an acknowledgement is an effect like any other.
            self.release_submits(1);
        }
        let Some(c) = &self.co else { return };
        if let Some((_, t)) = c.fewer.filter(|_| c.stable < c.seq) {
            self.wake_at((t + T_FEWER_MS).max(now + 1));
        }
    }

    fn release_submits(&mut self, need: usize) {
        let by_majority = self.by_majority();
        loop {
            let Some(c) = &mut self.co else { return };
            let Some((&seq, ids)) = c.submits.first_key_value() else { return };
            let Some(id) = ids.last().copied() else {
                c.submits.remove(&seq);
                continue;
            };
            let origin = id.origin.peer;
            let mut copies = c.copies(seq);
            let counted = origin == self.me || c.holders().any(|(p, f)| *p == origin && f.acked >= seq);
            if !counted {
                copies += 1;
            }
            if (copies as usize) < need || c.copies(seq) == 0 || (by_majority && seq > c.stable) {
                return;
            }
            let epoch = c.epoch;
            if let Some(ids) = c.submits.get_mut(&seq) {
                ids.pop();
            }
            self.event(Event::Acked(id, copies));
            self.send(origin, Message::SubmitAck(crate::message::SubmitAck { id, copies, epoch, ext: Default::default() }));
        }
    }

    // ---- our own disk ----

    /// The end of a step: the writes so far are in batches up to `no`.
    pub(crate) fn coord_sealed(&mut self, no: u64) {
        if let Some(c) = &mut self.co
            && c.sealed_seq < c.seq
        {
            c.sealed_seq = c.seq;
            c.sealed.push_back((no, c.seq));
        }
    }

    pub(crate) fn coord_persisted(&mut self) {
        let durable = self.durable;
        let Some(c) = &mut self.co else { return };
        if c.unsure.is_some_and(|no| no <= durable) {
            c.unsure = None;
            // What it has won by its last claims counts until the new ones have been answered: they leave only now.
            c.reclaimed_at = self.now;
            let (epoch, again) = (c.epoch, c.phase == Phase::Serving);
            if again {
                self.event(Event::Serving(epoch));
                self.drain_held();
            } else {
                self.sync_check();
            }
        }
        let Some(c) = &mut self.co else { return };
        let mut moved = false;
        while let Some((_, seq)) = c.sealed.pop_front_if(|(no, _)| *no <= durable) {
            c.own_acked = seq;
            moved = true;
        }
        if moved {
            self.release();
        }
    }

    pub(crate) fn coord_blob(&mut self, hash: Hash) {
        let Some(c) = &mut self.co else { return };
        c.raw_blobs.remove(&hash);
        c.own_blobs.retain(|_, set| {
            set.remove(&hash);
            !set.is_empty()
        });
        self.release();
    }

    // ---- the replicas' streams ----

    /// Fills each stream's window.
    pub(crate) fn replicate(&mut self) {
        let window = self.cfg.tune.repl_window;
        let Some(c) = &mut self.co else { return };
        let (epoch, seq_now) = (c.epoch, c.seq);
        let mut sends = Vec::new();
        for (p, f) in c.followers.iter_mut().filter(|(_, f)| f.streams()) {
            while f.in_flight() < window && (!f.queue.is_empty() || !f.told_synced || !f.dels.is_empty()) {
                let mut recs: BTreeMap<TaskId, Blob> = BTreeMap::new();
                let mut missing: BTreeSet<Hash> = BTreeSet::new();
                let mut size = 0;
                while let Some((seq, id)) = f.queue.front().copied() {
                    if recs.len() >= ITEMS_MAX || size >= BYTES_MAX {
                        break;
                    }
                    f.queue.pop_front();
                    f.sent_upto = f.sent_upto.max(seq);
                    if recs.contains_key(&id) {
                        continue;
                    }
                    if let Some(b) = self.table.bytes(&id) {
                        size += b.len();
                        recs.insert(id, Blob(b.into()));
                        missing.extend(self.table.get(&id).into_iter().flat_map(Rec::blobs).filter(|h| self.absent.contains(h)));
                    }
                }
                let synced = f.queue.is_empty();
                if synced {
                    f.sent_upto = seq_now;
                }
                f.told_synced |= synced;
                let upto = if f.catching { if synced { f.sent_upto } else { 0 } } else { f.sent_upto };
                if synced {
                    f.catching = false;
                }
                f.windows.push_back((upto, size + 64));
                let later = f.dels.split_off(f.dels.len().min(ITEMS_MAX));
                let dels = core::mem::replace(&mut f.dels, later);
                let floors = core::mem::take(&mut f.floors);
                let (settings, config) = (f.settings.take(), f.config.take());
                let (recs, missing) = (recs.into_values().collect(), missing.into_iter().collect());
                let w = Write { epoch, upto, recs, dels, floors, settings, synced, missing, config, ext: Default::default() };
                sends.push((*p, w));
            }
        }
        for (p, w) in sends {
            self.send(p, Message::Write(w));
        }
    }

    pub(crate) fn on_ack(&mut self, from: Peer, a: Ack) {
        let now = self.now;
        let reads_all = self.reads_all(&from);
        let Some(c) = &mut self.co else { return };
        let Some(f) = c.followers.get_mut(&from) else { return };
        // W4: only an acknowledgement of this epoch, store and boot counts.
        if (a.epoch != c.epoch || a.store != f.store || a.boot != f.boot || a.upto > c.seq) && !mutant::on(7) {
            self.rule(Rule::W4);
            return self.event(Event::Dropped("ack"));
        }
        f.progress_at = now;
        while f.windows.pop_front_if(|(upto, _)| *upto <= a.upto).is_some() {}
        f.acked = f.acked.max(a.upto);
        let epoch = c.epoch;
        // V3: what it cannot read it does not hold, whatever it says.
        if reads_all && f.stage == Stage::Catching && f.told_synced && !f.catching && a.upto >= f.join_seq {
            f.stage = Stage::Joined;
            self.event(Event::Joined(epoch, from));
        }
        self.release();
    }

    // ---- as a replica ----

    pub(crate) fn on_write(&mut self, from: Peer, w: Write) {
        let current = |l: &&crate::election::Leader| l.epoch == w.epoch && l.peer == from && w.epoch == self.side.promised;
        let Some(l) = self.leader.as_ref().filter(|l| current(l) || mutant::on(11)) else {
            self.rule(Rule::W3);
            return self.event(Event::Dropped("write_of_another_epoch"));
        };
        let _ = l;
        let mut blobs = BTreeSet::new();
        let mut refused = false;
        for raw in w.recs {
            match crate::record::decode_rec(&raw.0) {
                Ok(rec) => {
                    blobs.extend(rec.blobs().filter(|h| !self.blobs.contains(h) && !w.missing.contains(h)));
                    refused |= !self.apply(rec, raw.0, from);
                }
                Err(_) => self.event(Event::Alarm("bad_record")),
            }
        }
        for f in w.floors {
            self.raise_floor(f);
        }
        for id in w.dels {
            // G3: its coordinator had an outcome.  Ours may be an older version without: below the floor it is dead (G2).
            if mutant::on(21) || self.below_floor(&id) {
                self.forget(&id);
            }
        }
        if let Some(s) = w.settings {
            self.adopt_settings(s);
        }
        if let Some(q) = &w.config {
            self.adopt_config(q);
        }
        if w.synced && !self.synced {
            self.synced = true;
            self.advert_soon();
        }
        if refused {
            // What is not here must not count as if it were: the coordinator pulls what it does not know, and joins it (T3).
            return self.send_follow();
        }
        self.acks.push_back(crate::mesh::PendingAck { upto: w.upto, blobs });
        self.send_acks();
    }

    /// W3: a newer version replaces an older one; equal versions are equal bytes; what is settled stays.
    /// False when the write would have taken back what is settled.
    fn apply(&mut self, rec: Rec, bytes: Vec<u8>, from: Peer) -> bool {
        let (rec, bytes) = if mutant::on(35) { rec.without_unknown() } else { (rec, bytes) };
        let id = rec.id;
        if let Some(mine) = self.table.get(&id) {
            if rec.ver == mine.ver && self.table.bytes(&id) != Some(bytes.as_slice()) {
                self.event(Event::Alarm("equal_version_other_bytes"));
                return true;
            }
            if rec.ver <= mine.ver {
                self.rule(Rule::W3);
                return true;
            }
            let regress =
                (mine.outcome.is_some() && rec.outcome.is_none()) || (mine.delivered && !rec.delivered) || (mine.cancel && !rec.cancel);
            if regress {
                self.event(Event::Alarm("regressing_write"));
                return false;
            }
        }
        for h in rec.blobs().filter(|h| !self.blobs.contains(h)).collect::<Vec<_>>() {
            let worker = rec.outcome.as_ref().and_then(|o| o.worker).unwrap_or(from);
            self.fetch(h, &[from, worker, id.origin.peer]);
        }
        self.top = self.top.max(rec.ver);
        self.put(Key::task(&id), bytes.clone());
        self.table.put(rec, bytes);
        true
    }

    /// Acknowledges, in order, every write whose blobs are here.
    pub(crate) fn send_acks(&mut self) {
        let mut upto = None;
        while let Some(a) = self.acks.front_mut() {
            a.blobs.retain(|h| !self.blobs.contains(h));
            if !a.blobs.is_empty() {
                break;
            }
            upto = Some(a.upto.max(upto.unwrap_or(0)));
            self.acks.pop_front();
        }
        let (Some(upto), Some(l), false) = (upto, &self.leader, self.store_bad) else { return };
        let (to, epoch) = (l.peer, l.epoch);
        self.acked_upto = self.acked_upto.max(upto);
        let ack = Ack { epoch, store: self.store, boot: self.boot, upto: self.acked_upto, ext: Default::default() };
        let after = if mutant::on(12) { 0 } else { self.last_no() };
        self.send_after(to, Message::Ack(ack), after);
    }

    /// Deletes a record and the blobs only it named.
    pub(crate) fn forget(&mut self, id: &TaskId) {
        for h in self.remove(id) {
            self.drop_blob(h);
        }
    }

    /// Drops a record; the blobs that it named are still here.
    pub(crate) fn remove(&mut self, id: &TaskId) -> Vec<Hash> {
        let Some(rec) = self.table.remove(id) else { return Vec::new() };
        self.delete(Key::task(id));
        rec.blobs().collect()
    }

    // ---- blobs (W4) ----

    /// Gets a blob from `first` or any other usable peer.
    pub(crate) fn fetch(&mut self, hash: Hash, first: &[Peer]) {
        if self.blobs.contains(&hash) || self.fetching.contains_key(&hash) || self.fetching.len() >= 4_096 {
            return;
        }
        self.fetching.insert(hash, self.now);
        let mut from: Vec<Peer> = Vec::new();
        let mut known = self.view.usable().collect::<Vec<_>>();
        if !known.is_empty() {
            // In a large mesh others are asked each time.
            let turn = self.below(known.len() as u64) as usize;
            known.rotate_left(turn);
        }
        for p in first.iter().copied().chain(known) {
            if p != self.me && !from.contains(&p) && from.len() < 8 {
                from.push(p);
            }
        }
        let from = from.into_iter().map(|peer| Source { peer, via: self.via(&peer) }).collect();
        self.output(Output::Fetch(hash, crate::spec::PAYLOAD_MAX.max(64 << 20), from));
    }

    pub(crate) fn on_blob(&mut self, hash: Hash, ok: bool) {
        self.fetching.remove(&hash);
        if !ok {
            self.event(Event::Dropped("blob"));
            self.give_up_blob(hash);
            return self.worker_blob(hash, false);
        }
        self.blobs.insert(hash);
        self.blob_is_back(hash);
        self.send_acks();
        self.coord_blob(hash);
        for (from, msg) in self.parked.remove(&hash).unwrap_or_default() {
            match msg {
                Message::Submit(s) => self.on_submit(from, s),
                Message::Report(r) => self.on_report(from, r),
                _ => {}
            }
        }
        self.worker_blob(hash, true);
    }

    /// Nobody in reach has a blob that an inherited record names.  Its record counts without it:
    /// otherwise one lost output would keep every later write from becoming stable.
    fn give_up_blob(&mut self, hash: Hash) {
        let waits = self.co.as_ref().is_some_and(|c| c.raw_blobs.contains(&hash) || c.own_blobs.values().any(|s| s.contains(&hash)));
        if waits && self.absent.len() < ABSENT_MAX {
            self.absent.insert(hash);
            self.event(Event::Alarm("blob_absent"));
            self.coord_blob(hash);
        }
    }

    /// A blob that was given up has come: its records are written again, so that the replicas get it.
    fn blob_is_back(&mut self, hash: Hash) {
        if !self.absent.remove(&hash) || self.co.is_none() {
            return;
        }
        let list: Vec<Rec> = self.table.iter().filter(|r| r.blobs().any(|h| h == hash)).cloned().collect();
        for rec in list {
            self.write(rec);
        }
    }

    /// Somebody new may have what was given up.
    pub(crate) fn ask_absent(&mut self, p: Peer) {
        for h in self.absent.clone() {
            self.fetch(h, &[p]);
        }
    }

    pub(crate) fn drop_blob(&mut self, hash: Hash) {
        if !self.blobs.contains(&hash) {
            // It may be arriving: what is written after this would be taken away behind our back.
            return;
        }
        // Two tasks may name one blob: same input, same output.  Looking through the table is rare work.
        if !self.table.iter().any(|r| r.blobs().any(|h| h == hash)) && !self.outbox.names(hash) && !self.worker.names(hash) {
            self.blobs.remove(&hash);
            self.output(Output::DropBlob(hash));
        }
    }

    /// Asks again for blobs that did not come within ten seconds.
    pub(crate) fn tick_blobs(&mut self) {
        let now = self.now;
        let stale: Vec<Hash> = self.fetching.iter().filter(|(_, t)| now >= **t + 10_000).map(|(h, _)| *h).collect();
        for h in &stale {
            self.fetching.remove(h);
        }
        let slow: Vec<Hash> = self.fetching.iter().filter(|(_, t)| now >= **t + T_FEWER_MS).map(|(h, _)| *h).collect();
        for h in slow {
            self.give_up_blob(h);
        }
        let wanted: BTreeSet<Hash> = self
            .acks
            .iter()
            .flat_map(|a| a.blobs.iter())
            .chain(self.co.iter().flat_map(|c| c.own_blobs.values().flatten().chain(&c.raw_blobs)))
            .chain(self.parked.keys())
            .filter(|h| !self.blobs.contains(h))
            .copied()
            .collect();
        for h in wanted {
            // Whoever sent what waits for it has it.
            let mut first: Vec<Peer> = self.parked.get(&h).into_iter().flatten().map(|(p, _)| *p).take(4).collect();
            first.extend(self.leader());
            self.fetch(h, &first);
        }
    }

    // ---- settings ----

    pub(crate) fn adopt_settings(&mut self, mut s: Settings) {
        // V3: it only rises, whichever settings are the newer ones.
        self.hear_proto(s.proto);
        s.proto = self.recorded_proto();
        let newer = self.settings.as_ref().is_none_or(|o| (s.epoch, s.seq) > (o.epoch, o.seq));
        if newer {
            self.keep_settings(&s);
            self.settings = Some(s);
        }
    }

    pub(crate) fn coord_floor(&mut self, f: Floor) {
        if let Some(c) = &mut self.co {
            for r in c.followers.values_mut().filter(|r| r.streams()) {
                if r.floors.len() < ITEMS_MAX {
                    r.floors.push(f);
                    r.told_synced = false;
                }
            }
        }
    }

    // ---- upkeep ----

    pub(crate) fn heartbeat(&mut self) -> Hb {
        let weight = self.weight();
        let strategy = self.settings.as_ref().map_or_else(Default::default, |s| s.strategy);
        let root = self.table.root();
        let queue = self.queue_numbers();
        let now = self.now;
        let mut hb = Hb {
            epoch: Epoch::ZERO,
            weight,
            heard: Vec::new(),
            stable_seq: 0,
            pending: 0,
            root,
            replicas: Vec::new(),
            queue,
            strategy,
            beat: 0,
            proto: self.active_proto(),
            majority: self.by_majority(),
            ext: Default::default(),
        };
        if let Some(c) = &mut self.co {
            c.beat += 1;
            hb.epoch = c.epoch;
            hb.beat = c.beat;
            hb.heard = c.heard.iter().filter(|(_, t)| now.saturating_sub(**t) < T_SUSPECT_MS).map(|(p, _)| *p).take(64).collect();
            hb.stable_seq = c.stable;
            hb.pending = c.seq - c.stable;
            hb.replicas = core::iter::once(self.me).chain(c.replicas.keys().copied()).take(64).collect();
        }
        hb
    }

    pub(crate) fn tick_coord(&mut self) {
        self.tick_blobs();
        let Some(c) = &self.co else { return };
        if self.now >= c.hb_at {
            let hb = self.heartbeat();
            let after = self.last_no();
            self.output(Output::Publish { msg: crate::message::Gossip::Hb(hb), after });
            if let Some(c) = &mut self.co {
                c.hb_at = self.now + HB_MS;
            }
        }
        if let Some(t) = self.co.as_ref().map(|c| c.hb_at) {
            self.wake_at(t);
        }
        self.tick_majority();
        self.drop_stalled();
        self.choose_replicas();
        self.release_followers();
        self.tick_split();
        self.retain();
        self.tick_schedule();
        self.release();
    }

    /// T2: a follower that makes no progress is dropped; it re-joins when it speaks again.
    fn drop_stalled(&mut self) {
        let now = self.now;
        let Some(c) = &mut self.co else { return };
        let stalled: Vec<Peer> = c
            .followers
            .iter()
            .filter(|(_, f)| (f.stage == Stage::Pulling || !f.windows.is_empty()) && now >= f.progress_at + T_STALL_MS)
            .map(|(p, _)| *p)
            .collect();
        let epoch = c.epoch;
        for p in stalled {
            if let Some(c) = &mut self.co {
                c.followers.remove(&p);
                c.replicas.remove(&p);
            }
            self.event(Event::Dropped("stalled_follower"));
            // Its next `Follow` starts afresh.
            let config = self.quorum.clone();
            self.send(p, Message::Claim(crate::message::Claim { epoch, config, ext: Default::default() }));
        }
        self.sync_check();
    }

    /// W5: the coordinator and the best K-1 followers, sticky; one more while one of them is replaced.
    pub(crate) fn choose_replicas(&mut self) {
        let now = self.now;
        let sticky = self.cfg.tune.sticky_ms;
        let want = self.cfg.replicas.clamp(1, K.max(self.cfg.replicas)) - 1;
        let voters = self.voters_to_write();
        let want = if self.open_rules() { want } else { 0 };
        let Some(c) = self.co.as_ref().filter(|c| c.serving()) else { return };
        let good = |p: &Peer| self.view.is_usable(p) && self.reads_all(p);
        let mut keep: BTreeMap<Peer, u64> =
            c.replicas.iter().filter(|(p, _)| c.followers.contains_key(p) && good(p)).map(|(p, t)| (*p, *t)).collect();
        let mut rest: Vec<_> = c
            .followers
            .iter()
            .filter(|(p, f)| !keep.contains_key(p) && f.stage != Stage::Pulling && good(p))
            .map(|(p, f)| (f.count > 0, self.view.prio(p), !self.is_relayed(p), *p))
            .collect();
        rest.sort_unstable();
        while keep.len() < want {
            let Some((.., p)) = rest.pop() else { break };
            keep.insert(p, now);
        }
        let weakest = keep.iter().filter(|(_, t)| now >= **t + sticky).map(|(q, _)| (self.view.prio(q), *q)).min();
        let joined = |q: &Peer| c.followers.get(q).is_some_and(|f| f.stage == Stage::Joined);
        match (weakest, rest.last().copied()) {
            // A clearly better one takes the seat of the weakest after ten minutes: it is given a seat of its own first...
            (Some((low, _)), Some((_, prio, _, p))) if keep.len() == want && low < prio => {
                keep.insert(p, now);
            }
            // ...and the weakest gives up its own when as many others as there should be hold everything.
            (Some((_, q)), _)
                if self.open_rules() && keep.len() > want && keep.keys().filter(|p| **p != q && joined(p)).count() >= want =>
            {
                keep.remove(&q);
            }
            _ => {}
        }
        // Quorum mode: the voters and nobody else; both while the first voters are being settled.
        if !self.open_rules() {
            keep.retain(|p, _| voters.contains(p));
        }
        for p in voters {
            keep.entry(p).or_insert(now);
        }
        let Some(c) = &mut self.co else { return };
        let new: Vec<Peer> = keep.keys().filter(|p| !c.replicas.contains_key(p)).copied().collect();
        let gone: Vec<Peer> = c.replicas.keys().filter(|p| !keep.contains_key(p)).copied().collect();
        c.replicas = keep;
        let epoch = c.epoch;
        for p in gone {
            let Some(f) = self.co.as_mut().and_then(|c| c.followers.get_mut(&p)) else { continue };
            let joined = f.stage == Stage::Joined;
            f.stop_stream();
            if joined {
                if !self.reads_all(&p) {
                    // V3: it may have joined before this node knew what the mesh speaks.
                    self.event(Event::Member(p, "too old"));
                }
                self.event(Event::Unseated(epoch, p));
            }
        }
        for p in new {
            self.start_stream(p);
        }
    }

    /// W5: a follower that is no replica may drop its copy once enough replicas have everything.
    fn release_followers(&mut self) {
        let k = self.cfg.replicas;
        let Some(c) = &self.co else { return };
        if !c.serving() || c.stable < c.seq {
            return;
        }
        let alive = c.followers.keys().filter(|p| self.view.is_usable(p)).count() + 1;
        let synced = c.holders().filter(|(_, f)| f.acked >= c.seq).count() + 1;
        if (self.open_rules() && synced < k.min(alive)) || c.own_upto() < c.seq {
            return;
        }
        // A voter that is not written to yet still votes with what it has.
        let votes = |p: &Peer, store: u64| self.quorum.as_ref().is_some_and(|q| q.votes(p, store));
        let epoch = c.epoch;
        let root = self.table.root();
        let free: Vec<(Peer, u64)> = c
            .followers
            .iter()
            .filter(|(p, f)| f.stage == Stage::Plain && f.count > 0 && !c.replicas.contains_key(p) && !votes(p, f.store))
            .map(|(p, f)| (*p, f.join))
            .collect();
        for (p, join) in free {
            if let Some(f) = self.co.as_mut().and_then(|c| c.followers.get_mut(&p)) {
                f.count = 0;
            }
            self.rule(Rule::W5);
            self.send(p, Message::Release(crate::message::Release { epoch, root, join, ext: Default::default() }));
        }
    }

    /// G3: it has ended, its origin is done with it, and it is too old or one too many.
    pub(crate) fn outlived(&self, rec: &Rec) -> bool {
        let many = self.table.ended_len() >= self.cfg.tune.retain_count;
        rec.outcome.as_ref().is_some_and(|o| many || self.expired(o)) && self.below_told_floor(&rec.id)
    }

    fn expired(&self, o: &Outcome) -> bool {
        let kept = if crate::mutant::on(21) { 5_000 } else { self.cfg.tune.retain_ms };
        o.ended_at.saturating_add(kept) < self.wall
    }

    /// G3: ended tasks below the floor go when there are too many, or they are too old.
    fn retain(&mut self) {
        let Some((epoch, stable)) = self.co.as_ref().filter(|c| c.serving()).map(|c| (c.epoch, c.stable)) else { return };
        let over = self.table.ended_len().saturating_sub(self.cfg.tune.retain_count);
        let mut gone = Vec::new();
        for (i, id) in self.table.ended().enumerate().take(ITEMS_MAX) {
            let Some(r) = self.table.get(id) else { continue };
            // What it has to say first, to who runs an attempt of it still, leaves when it is stable.
            let said = r.ver.epoch != epoch || r.ver.seq <= stable;
            let old = r.outcome.as_ref().is_some_and(|o| self.expired(o));
            if said && (i < over || old) && (self.below_told_floor(id) || mutant::on(21)) {
                gone.push(*id);
            }
        }
        for id in gone {
            self.rule(Rule::G3);
            self.forget_everywhere(&id);
        }
    }

    /// Deletes a record here and at all followers.
    pub(crate) fn forget_everywhere(&mut self, id: &TaskId) {
        self.sched_forget(id);
        self.forget(id);
        if let Some(c) = &mut self.co {
            // Also at who only may become a replica, or is being pulled although it says that it is empty: what it holds may have
            // been compared with ours before (seed 23229).
            for f in c.followers.values_mut().filter(|f| f.streams() || f.count > 0 || f.stage == Stage::Pulling) {
                f.dels.push(*id);
            }
        }
    }

    // ---- the end of an epoch ----

    /// E8: a new epoch of the same coordinator.  What was not stable is written again.
    pub(crate) fn reclaim(&mut self, epoch: Epoch) {
        let now = self.now;
        let promise_no = self.last_no();
        let had = self.weight().followers;
        let Some(c) = &mut self.co else { return };
        c.unsure = Some(promise_no);
        c.had = had;
        c.epoch = epoch;
        c.reclaimed_at = now;
        c.seq = 0;
        c.stable = 0;
        c.own_acked = 0;
        c.sealed.clear();
        c.sealed_seq = 0;
        c.own_blobs.clear();
        c.written_at.clear();
        if !mutant::on(7) {
            c.followers.clear();
            c.replicas.clear();
        }
        (c.enough, c.fewer) = (usize::MAX, None);
        c.heard.clear();
        let effects = core::mem::take(&mut c.effects);
        let submits = core::mem::take(&mut c.submits);
        for id in submits.into_values().flatten() {
            self.ack_submit(&id);
        }
        for e in effects.into_values().flatten() {
            match e.task() {
                Some(id) => self.effect(&id, e),
                None => self.settings_effect(e),
            }
        }
    }

    /// Lets `e` out when the settings of now are stable.
    pub(crate) fn settings_effect(&mut self, e: Effect) {
        self.settings_write();
        if let Some(c) = &mut self.co {
            c.effects.entry(c.seq).or_default().push(e);
        }
    }

    /// Settings ride on the next write: they are stable when it is.
    pub(crate) fn settings_write(&mut self) {
        let Some(c) = &mut self.co else { return };
        c.seq += 1;
        let seq = c.seq;
        c.written_at.push_back((seq, self.now));
        let s = self.settings.clone();
        for f in c.followers.values_mut().filter(|f| f.streams()) {
            f.settings.clone_from(&s);
            f.told_synced = false;
        }
        if let Some(s) = s {
            self.keep_settings(&s);
        }
    }

    /// W6: stop coordinating, drop what only a coordinator knows.
    pub(crate) fn step_down(&mut self, why: &'static str) {
        let given = self.end_giving();
        if let Some(c) = self.co.take() {
            if c.serving() {
                self.leadership_lost(given);
            }
            self.end_split();
            self.parked.clear();
            self.absent.clear();
            self.rule(Rule::W6);
            self.event(Event::SteppedDown(c.epoch, why));
        }
    }
}

impl Effect {
    pub(crate) fn task(&self) -> Option<TaskId> {
        match self {
            Self::Assign(id, _)
            | Self::Kill(id, ..)
            | Self::Deliver(id)
            | Self::ReportAck(id, ..)
            | Self::CancelAck(id, ..)
            | Self::Joined(id, ..)
            | Self::Settled(id, _) => Some(*id),
            Self::Answer(..) | Self::SettingsAck(..) => None,
        }
    }
}
