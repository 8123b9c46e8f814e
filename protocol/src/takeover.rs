//! What a new coordinator learns before it serves, and how everyone who comes later joins (T1-T6).

use alloc::{
    collections::{BTreeSet, VecDeque},
    vec::Vec,
};

use crate::{
    codec::Blob,
    config::T_CLAIM_MS,
    ids::{Attempt, Epoch, Peer, TaskId},
    io::Event,
    mesh::Mesh,
    message::{BYTES_MAX, Floor, Follow, ITEMS_MAX, Inventory, Kill, Message, Pull, PullResp, Release, Settings},
    mutant,
    quorum::MeshConfig,
    record::{End, Rec, decode_rec, reconcile, same_content},
    rule::Rule,
    table::BUCKETS,
    writes::{Effect, Phase},
};

/// Most messages held back until their sender's records are here; more are dropped, and said again by
/// their senders.
const HELD_MAX: usize = 16_384;

/// Where a follower stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its records are being pulled (T1): nothing is written to it yet (T2).
    Pulling,
    /// Pulled; holds nothing that we lack.
    Plain,
    /// A replica that is being brought up to date.
    Catching,
    /// A replica that counts.
    Joined,
}

/// A node that promised this epoch.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) store: u64,
    pub(crate) boot: u64,
    pub(crate) join: u64,
    pub(crate) root: u128,
    pub(crate) count: u64,
    pub(crate) stage: Stage,
    /// Buckets still to pull.
    pull: VecDeque<u16>,
    /// The number of the last request.
    asked: u64,
    /// Its digests, when they were asked for.
    digests: Vec<u128>,
    pub(crate) progress_at: u64,
    // the stream to a replica
    pub(crate) queue: VecDeque<(u64, TaskId)>,
    pub(crate) dels: Vec<TaskId>,
    pub(crate) floors: Vec<Floor>,
    pub(crate) settings: Option<Settings>,
    /// The settings it was told although it is no replica.
    pub(crate) settings_told: (Epoch, u64),
    pub(crate) config: Option<MeshConfig>,
    pub(crate) sent_upto: u64,
    pub(crate) join_seq: u64,
    pub(crate) catching: bool,
    pub(crate) told_synced: bool,
    pub(crate) acked: u64,
    /// What is under way: the write it makes true, and bytes.
    pub(crate) windows: VecDeque<(u64, usize)>,
}

impl Follower {
    fn new(f: &Follow, now: u64) -> Self {
        Self {
            store: f.store,
            boot: f.boot,
            join: f.join,
            root: f.root,
            count: f.count,
            stage: Stage::Pulling,
            pull: VecDeque::new(),
            asked: 0,
            digests: Vec::new(),
            progress_at: now,
            queue: VecDeque::new(),
            dels: Vec::new(),
            floors: Vec::new(),
            settings: None,
            settings_told: (Epoch::ZERO, 0),
            config: None,
            sent_upto: 0,
            join_seq: 0,
            catching: false,
            told_synced: true,
            acked: 0,
            windows: VecDeque::new(),
        }
    }
    /// A record was put: it goes to who gets writes, and nobody deletes it for what was said before.
    pub(crate) fn push(&mut self, seq: u64, id: TaskId) {
        if !self.dels.is_empty() {
            self.dels.retain(|d| *d != id);
        }
        if self.streams() {
            self.queue.push_back((seq, id));
        }
    }
    /// Something is still to be sent to it, or to be acknowledged by it.
    pub(crate) fn has_more(&self) -> bool {
        self.streams() && !(self.queue.is_empty() && self.dels.is_empty() && self.floors.is_empty() && self.windows.is_empty())
    }
    /// It gets writes.
    pub(crate) fn streams(&self) -> bool {
        matches!(self.stage, Stage::Catching | Stage::Joined)
    }
    pub(crate) fn in_flight(&self) -> usize {
        self.windows.iter().map(|(_, n)| n).sum()
    }
    pub(crate) fn stop_stream(&mut self) {
        if self.streams() {
            self.stage = Stage::Plain;
            self.count = self.count.max(1);
            // What it said it holds is not true any more.
            self.root = 0;
            self.digests.clear();
            self.queue.clear();
            self.windows.clear();
        }
    }
}

impl Mesh {
    // ---- as claimant and coordinator ----

    pub(crate) fn tick_claim(&mut self) {
        let Some(c) = &mut self.co else { return };
        if let Phase::Claiming(until) = c.phase {
            c.asked.retain(|p| self.view.is_usable(p) && !c.followers.contains_key(p));
            if c.asked.is_empty() || self.now >= until {
                c.phase = Phase::Syncing;
            } else {
                self.wake_at(until);
            }
        }
        self.sync_check();
    }

    pub(crate) fn on_follow(&mut self, from: Peer, f: Follow) {
        let now = self.now;
        let Some(c) = &mut self.co else { return };
        if f.epoch != c.epoch || f.floors.len() > ITEMS_MAX {
            return self.event(Event::Dropped("follow"));
        }
        c.asked.remove(&from);
        c.heard.insert(from, now);
        if c.followers.get(&from).is_some_and(|o| (o.boot, o.join) >= (f.boot, f.join)) {
            return;
        }
        // What is under way to it may have crossed its word: only a pull tells what it holds.
        let crossed = c.followers.get(&from).is_some_and(Follower::streams);
        c.replicas.remove(&from);
        // It says again what it runs, and may be a later boot.
        c.held.retain(|(p, m)| *p != from || !matches!(m, Message::Inventory(_)));
        let equal = !crossed && (f.count == 0 || f.root == self.table.root());
        let mut follower = Follower::new(&f, now);
        if equal {
            follower.stage = Stage::Plain;
            if f.count > 0 {
                follower.digests = self.table.digests().to_vec();
            }
        }
        c.followers.insert(from, follower);
        for floor in f.floors {
            self.raise_floor(floor);
        }
        if let Some(s) = f.settings {
            self.adopt_settings(s);
        }
        if equal && f.count > 0 {
            self.rule(Rule::V2);
        }
        if self.quorum.as_ref().and_then(|q| q.voter(&from)).is_some_and(|v| v.store != f.store) {
            self.rule(Rule::C3);
        }
        if let Some(q) = f.config.filter(|_| !mutant::on(41)) {
            self.adopt_config(&q);
            if self.co.is_none() {
                return;
            }
        }
        if !equal {
            self.rule(Rule::T1);
            self.pull(from, Vec::new(), None);
        }
        self.tick_claim();
        if self.co.as_ref().is_some_and(|c| c.serving()) {
            self.follower_ready(from);
        }
    }

    /// A follower's records are all here: it may hold writes, and is owed its results.
    fn follower_ready(&mut self, p: Peer) {
        if self.co.as_ref().and_then(|c| c.followers.get(&p)).is_none_or(|f| f.stage == Stage::Pulling) {
            return;
        }
        self.choose_replicas();
        self.tell_config(p);
        self.deliver_to(p);
        self.capacity_changed();
        self.drain_held();
    }

    /// Asks for digests, or for the records of these buckets.
    fn pull(&mut self, from: Peer, buckets: Vec<u16>, after: Option<TaskId>) {
        let Some(c) = &mut self.co else { return };
        c.pulls += 1;
        let (epoch, number) = (c.epoch, c.pulls);
        if let Some(f) = c.followers.get_mut(&from) {
            f.asked = number;
        }
        self.send(from, Message::Pull(Pull { epoch, buckets, after, number, ext: Default::default() }));
    }

    pub(crate) fn on_pull(&mut self, from: Peer, p: Pull) {
        if p.epoch != self.side.promised || p.epoch.peer != from || p.buckets.len() > BUCKETS {
            return self.event(Event::Dropped("pull"));
        }
        let mut resp = PullResp {
            epoch: p.epoch,
            digests: Blob(Vec::new()),
            recs: Vec::new(),
            more: false,
            done: 0,
            last: None,
            number: p.number,
            ext: Default::default(),
        };
        if p.buckets.is_empty() {
            resp.digests = Blob(self.table.digests().iter().flat_map(|d| d.to_be_bytes()).collect());
            return self.send(from, Message::PullResp(resp));
        }
        let mut size = 0;
        let mut after = p.after;
        'buckets: for b in &p.buckets {
            let Some(ids) = self.table.bucket_members(usize::from(*b)) else { break };
            let skip = after.take();
            for id in ids.iter().filter(|id| skip.is_none_or(|s| **id > s)) {
                if size >= BYTES_MAX || resp.recs.len() >= ITEMS_MAX {
                    resp.more = true;
                    break 'buckets;
                }
                if let Some(bytes) = self.table.bytes(id) {
                    size += bytes.len();
                    resp.recs.push(Blob(bytes.into()));
                    resp.last = Some(*id);
                }
            }
            resp.done += 1;
            resp.last = None;
        }
        self.send(from, Message::PullResp(resp));
    }

    pub(crate) fn on_pull_resp(&mut self, from: Peer, r: PullResp) {
        let now = self.now;
        let Some(c) = &mut self.co else { return };
        let epoch = c.epoch;
        // Who follows twice is asked twice: only the answer to the last question says what is still to pull.
        let fits = |f: &&mut Follower| f.stage == Stage::Pulling && r.epoch == epoch && r.number == f.asked;
        let Some(f) = c.followers.get_mut(&from).filter(fits) else { return };
        f.progress_at = now;
        if !r.digests.0.is_empty() {
            if r.digests.0.len() != BUCKETS * 16 {
                return self.event(Event::Dropped("digests"));
            }
            f.digests = r.digests.0.chunks_exact(16).map(|c| c.iter().fold(0u128, |n, b| n << 8 | u128::from(*b))).collect();
            f.pull = f
                .digests
                .iter()
                .zip(self.table.digests())
                .enumerate()
                .filter(|(_, (a, b))| a != b && **a != 0)
                .map(|(i, _)| i as u16)
                .collect();
        } else {
            for _ in 0..r.done {
                f.pull.pop_front();
            }
        }
        let next = (!f.pull.is_empty()).then(|| f.pull.iter().take(ITEMS_MAX).copied().collect::<Vec<u16>>());
        for raw in r.recs {
            match decode_rec(&raw.0) {
                Ok(rec) => self.merge(from, rec, raw.0),
                Err(_) => self.event(Event::Alarm("bad_record")),
            }
        }
        if let Some(buckets) = next {
            let after = r.last;
            return self.pull(from, buckets, after);
        }
        if let Some(f) = self.co.as_mut().and_then(|c| c.followers.get_mut(&from)) {
            f.stage = Stage::Plain;
        }
        self.sync_check();
        if self.co.as_ref().is_some_and(|c| c.serving()) {
            self.follower_ready(from);
        }
    }

    /// T3, T4, T5: joins a pulled record with ours.
    fn merge(&mut self, from: Peer, theirs: Rec, bytes: Vec<u8>) {
        let id = theirs.id;
        let dead = !theirs.terminal() && self.below_told_floor(&id);
        if self.table.get(&id).is_none() && (dead || self.outlived(&theirs)) {
            // G3: deleted here, or about to be: taking it in again would go on for ever.  One without an outcome is dead by its
            // origin's word (T5), and how it ended was known before it was deleted (seed 2807).
            for l in theirs.live.iter().filter(|_| dead) {
                self.kill_ghost(l.worker, id, l.attempt);
            }
            if let Some(f) = self.co.as_mut().and_then(|c| c.followers.get_mut(&from)) {
                f.dels.push(id);
            }
            return;
        }
        if self.voted_epoch() {
            return self.merge_by_majority(theirs, bytes);
        }
        let blind = self.table.get(&id).is_some_and(|mine| mutant::on(15) && theirs.ver > mine.ver) || mutant::on(34);
        if blind {
            return self.store_raw(theirs, bytes);
        }
        let serving = self.co.as_ref().is_some_and(|c| c.serving());
        match self.table.get(&id) {
            None => {
                self.store_raw(theirs, bytes);
            }
            Some(mine) => {
                if mine.ver == theirs.ver {
                    if self.table.bytes(&id) != Some(bytes.as_slice()) {
                        self.event(Event::Alarm("equal_version_other_bytes"));
                    }
                    return;
                }
                let late = mutant::on(13) && serving && theirs.terminal() && theirs.delivered == mine.delivered;
                let joined = if late { theirs.clone() } else { reconcile(mine, &theirs) };
                self.fired.count(Rule::T3);
                if joined == *mine {
                    if theirs.ver > mine.ver {
                        // Ours wins with a lower version, which no holder of theirs would take (W3).
                        self.write(joined);
                    } else {
                        return;
                    }
                } else if joined == theirs {
                    let newer = theirs.ver > mine.ver;
                    if newer {
                        self.store_raw(theirs, bytes);
                    } else {
                        // Its content wins although its version is lower: only a new version carries it.
                        self.write(joined);
                    }
                } else if !same_content(&joined, mine) || joined.ver != mine.ver {
                    self.write(joined);
                }
            }
        }
        if serving {
            self.sched_refresh(&id);
            self.resume(&id);
        }
    }

    /// T5: deletes an old copy of a task that is over for everybody.
    pub(crate) fn bury(&mut self, id: &TaskId) {
        let live = self.table.get(id).map(|r| r.live.clone()).unwrap_or_default();
        for l in live {
            self.kill_ghost(l.worker, *id, l.attempt);
        }
        self.forget_everywhere(id);
    }

    /// T5: ends an attempt of a task that is over for everybody (G2) and of which no record is left.
    fn kill_ghost(&mut self, worker: Peer, id: TaskId, attempt: Attempt) {
        let Some(epoch) = self.co.as_ref().map(|c| c.epoch).filter(|_| self.reads(worker)) else { return };
        self.rule(Rule::T5);
        self.send(worker, Message::Kill(Kill { epoch, id, attempt, ext: Default::default() }));
    }

    /// A record that came with a late follower: what it owes to nodes that joined before is said now,
    /// because they have said their part already (T6).
    pub(crate) fn resume(&mut self, id: &TaskId) {
        let Some(rec) = self.table.get(id) else { return };
        if rec.terminal() {
            if !rec.delivered && !self.below_floor(id) {
                self.effect(id, Effect::Deliver(*id));
            }
            return;
        }
        let cancel = rec.cancel;
        for l in rec.live.clone() {
            if self.reads(l.worker) {
                let e = if cancel { Effect::Kill(*id, l.attempt, l.worker) } else { Effect::Assign(*id, l.attempt) };
                self.effect(id, e);
            }
        }
    }

    /// Serve when all that answered is pulled, and in quorum mode a majority of the voters (T2).
    pub(crate) fn sync_check(&mut self) {
        let Some(c) = &self.co else { return };
        if c.phase != Phase::Syncing || !c.sure() {
            return;
        }
        if !mutant::on(5) && c.followers.iter().any(|(p, f)| f.stage == Stage::Pulling && self.view.is_usable(p)) {
            return self.wake_at(self.now + T_CLAIM_MS);
        }
        if !self.majority_pulled() {
            // Who promised may still follow; `tick_majority` gives up when nobody does.
            return;
        }
        let epoch = c.epoch;
        if let Some(c) = &mut self.co {
            c.phase = Phase::Serving;
            c.merged.clear();
            c.reclaimed_at = self.now;
        }
        self.synced = true;
        self.rejects = 0;
        self.leadership_gained();
        self.event(Event::Serving(epoch));
        self.restamp_config();
        self.choose_replicas();
        self.look_at_split();
        self.sched_rebuild();
        self.leader_changed();
        let ready: Vec<Peer> =
            self.co.iter().flat_map(|c| &c.followers).filter(|(_, f)| f.stage != Stage::Pulling).map(|(p, _)| *p).collect();
        for p in core::iter::once(self.me).chain(ready) {
            self.deliver_to(p);
        }
        self.drain_held();
        self.end_attempts_of_the_gone();
        self.release();
        self.advert_soon();
    }

    /// Who said good-bye before this node began to serve runs nothing any more, and will say nothing.
    fn end_attempts_of_the_gone(&mut self) {
        let gone: Vec<(Peer, u64)> = self.view.members.iter().filter(|(_, m)| m.left()).filter_map(|(p, m)| Some((*p, m.bye?))).collect();
        for (p, boot) in gone {
            self.end_attempts_of(p, |wboot| wboot <= boot, End::Returned, "the node left in order");
        }
    }

    /// This node serves and has pulled all that `p` holds.
    pub(crate) fn reads(&self, p: Peer) -> bool {
        self.co.as_ref().is_some_and(|c| c.serving() && (p == self.me || c.followers.get(&p).is_some_and(|f| f.stage != Stage::Pulling)))
    }

    /// T2: what a node says about its tasks is only understood when its records are here: a result it has
    /// accepted, or an attempt it runs, may belong to a record that only it holds.  Keeps such messages
    /// back while this node does not serve yet, still pulls from the sender, or hands over; gives all others back.
    pub(crate) fn hold(&mut self, from: Peer, msg: Message) -> Option<Message> {
        let giving = self.giving();
        let Some(c) = &mut self.co else { return Some(msg) };
        let about_tasks = matches!(
            msg,
            Message::Submit(_)
                | Message::Offer(_)
                | Message::Delivered(_)
                | Message::Report(_)
                | Message::Refuse(_)
                | Message::Inventory(_)
                | Message::Cancel(_)
                | Message::Query(_)
                | Message::SetStrategy(_)
                | Message::ChangeSetting(_)
                | Message::Adopt(_)
                | Message::ChangeQuorum(_)
        );
        let pulling = c.followers.get(&from).is_some_and(|f| f.stage == Stage::Pulling);
        if !about_tasks || (c.serving() && !pulling && !giving) {
            return Some(msg);
        }
        if c.held.len() < HELD_MAX {
            c.held.push_back((from, msg));
            self.rule(Rule::T2);
        } else {
            self.event(Event::Dropped("held"));
        }
        None
    }

    /// Handles what was held back and can be understood now.
    pub(crate) fn drain_held(&mut self) {
        if self.giving() {
            return;
        }
        let held = match &mut self.co {
            Some(c) if c.serving() && !c.held.is_empty() => core::mem::take(&mut c.held),
            _ => return,
        };
        for (from, msg) in held {
            self.on_message(from, msg);
        }
    }

    /// Begins to write to a replica: first what it lacks, then everything new, in order.
    pub(crate) fn start_stream(&mut self, p: Peer) {
        let now = self.now;
        let settings = self.settings.clone();
        let config = self.quorum.clone();
        let floors = self.told_floors();
        let root = self.table.root();
        let Some(c) = &mut self.co else { return };
        // An empty write marks the point from which the replica counts: without it, the first
        // acknowledgement of a half-sent table could not be told from that of a whole one.
        c.seq += 1;
        let seq = c.seq;
        // It is a write like any other: as long as the rest has not acknowledged it, it is not stable.
        c.followers.values_mut().filter(|f| f.streams()).for_each(|f| f.told_synced = false);
        let Some(f) = c.followers.get_mut(&p) else { return };
        f.stage = Stage::Catching;
        f.progress_at = now;
        f.queue.clear();
        f.windows.clear();
        f.join_seq = seq;
        f.acked = 0;
        f.sent_upto = 0;
        f.catching = true;
        f.told_synced = false;
        f.settings = settings;
        f.config = config;
        f.floors = floors;
        if f.root != root || f.count == 0 {
            let empty = f.count == 0;
            for (b, mine) in self.table.digests().iter().enumerate() {
                let theirs = if empty { Some(0) } else { f.digests.get(b).copied() };
                if theirs == Some(*mine) {
                    continue;
                }
                if let Some(ids) = self.table.bucket_members(b) {
                    f.queue.extend(ids.iter().map(|id| (seq, *id)));
                }
            }
        }
        f.count = f.count.max(1);
    }

    pub(crate) fn coord_unlink(&mut self, p: Peer) {
        let Some(c) = &mut self.co else { return };
        c.asked.remove(&p);
        if c.followers.remove(&p).is_some() {
            c.replicas.remove(&p);
        }
        self.tick_claim();
        self.choose_replicas();
        self.release();
    }

    /// E9/L3: it left in order; what it had been given comes back at once, nothing is charged.
    pub(crate) fn coord_bye(&mut self, p: Peer, boot: u64) {
        if self.co.is_none() {
            return;
        }
        self.end_attempts_of(p, |wboot| wboot <= boot, End::Returned, "the node left in order");
        self.coord_unlink(p);
    }

    // ---- inventories (T6) ----

    pub(crate) fn on_inventory(&mut self, from: Peer, i: Inventory) {
        if i.running.len() > ITEMS_MAX {
            return self.event(Event::Dropped("inventory"));
        }
        let Some(c) = &mut self.co else { return };
        if i.epoch != c.epoch {
            return;
        }
        let list = c.sched.inventories.entry(from).or_default();
        list.extend(i.running);
        if !i.complete || !c.serving() {
            if i.complete {
                c.sched.inventory_done.insert(from, i.boot);
            }
            return;
        }
        self.settle_inventory(from, i.boot);
    }

    /// Compares what we think a worker runs with what it says.
    pub(crate) fn settle_inventory(&mut self, from: Peer, boot: u64) {
        let Some(c) = &mut self.co else { return };
        let known: BTreeSet<_> = c.sched.inventories.remove(&from).unwrap_or_default().into_iter().collect();
        let ours: Vec<_> = c.sched.placed.get(&from).into_iter().flatten().copied().collect();
        for (id, attempt) in ours {
            let Some(live) = self.table.get(&id).and_then(|r| r.live.iter().find(|l| l.attempt == attempt)) else { continue };
            let (wboot, cancel) = (live.wboot, self.table.get(&id).is_some_and(|r| r.cancel));
            let knows = known.contains(&(id, attempt));
            if wboot != boot && !knows {
                // Its log has no start; but a damaged log may have lost one (D3), and a task that must not
                // run twice is not worth the bet.
                let once = self.table.get(&id).is_some_and(|r| r.need.at_most_once);
                let (end, why) = if once {
                    (End::Crashed, "the node restarted: whether the attempt began is unknown")
                } else {
                    (End::Returned, "the node restarted before it began")
                };
                self.rule(Rule::T6);
                self.end_attempt(&id, attempt, end, None, why);
            } else if cancel {
                self.effect(&id, Effect::Kill(id, attempt, from));
            } else if wboot != boot || !knows {
                // The assignment, or the word that it never began, was lost with the old link or the old
                // coordinator: say it again, the worker answers with what it knows.
                self.rule(Rule::T6);
                self.effect(&id, Effect::Assign(id, attempt));
            }
        }
        for (id, attempt) in known {
            if self.table.get(&id).is_none() && self.below_floor(&id) {
                self.kill_ghost(from, id, attempt);
            }
        }
    }

    // ---- as a follower ----

    /// W5: enough others hold everything.
    pub(crate) fn on_release(&mut self, from: Peer, r: Release) {
        let follows = self.leader.as_ref().is_some_and(|l| l.epoch == r.epoch && l.peer == from);
        if !follows || self.co.is_some() || r.epoch != self.side.promised {
            return;
        }
        if r.join != 0 && self.leader.as_ref().is_some_and(|l| l.join != r.join) {
            // It crossed our last `Follow`, by which we may have become a replica again (network seed 216).
            return self.event(Event::Dropped("stale_release"));
        }
        self.drop_all();
        self.synced = false;
        self.advert_soon();
    }

    pub(crate) fn drop_all(&mut self) {
        let ids: Vec<TaskId> = self.table.iter().map(|r| r.id).collect();
        // The blobs at the end: whether a record still names one is looked for in what is left of the table.
        let mut blobs = BTreeSet::new();
        for id in ids {
            blobs.extend(self.remove(&id));
        }
        blobs.into_iter().for_each(|h| self.drop_blob(h));
    }
}
