//! Quorum mode: named voters, one change at a time through a joint majority, and the promise that
//! whoever begins to serve holds everything that was stable before (C1-C4, I3).
//!
//! The configuration is one small replicated entry.  Every epoch writes it again before anything else
//! (T4), so the newest version is the one that counts; it travels in `Claim`, `Follow`, `Reject` and
//! `Write`, and to everybody else in `Configure`.

use alloc::{collections::BTreeSet, format, string::String, vec::Vec};

use crate::{
    codec,
    config::{HB_MS, T_SUSPECT_MS, VOTED},
    face::{QuorumView, Refusal, VoterView},
    ids::{Epoch, Peer, TaskId, Ver},
    io::Event,
    mesh::Mesh,
    message::{ChangeQuorum, Configure, Message, Reject, SettingsRefused},
    mutant,
    record::{End, Rec, reconcile, same_content},
    rule::Rule,
    schedule::Key,
    takeover::Stage,
    wire_choice, wire_struct, wire_tuple,
    writes::{Effect, Phase},
};

/// Most voters: more make every write slower and nothing safer.
pub const VOTERS_MAX: usize = 9;
/// How often voters without a coordinator are told who they are, ms.
const TEACH_MS: u64 = 2_000;
/// Most callers that wait for one change.
const WAITERS_MAX: usize = 64;

/// Who votes: a node and the store it was named with (C1).  Another store is another voter (C3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Voter {
    /// The node.
    pub peer: Peer,
    /// Its store's random number.
    pub store: u64,
    /// It holds and votes, but runs no tasks and never coordinates (C4).
    pub witness: bool,
}
wire_tuple!(Voter { peer, store, witness });

wire_choice! {
    /// Who may serve.
    #[derive(Default)]
    pub enum Mode {
        /// Any side of a split.
        #[default]
        0 => Open = "open",
        /// The side with a majority of the voters.
        1 => Quorum = "quorum",
    }
}

wire_choice! {
    /// What is asked of the voters.
    pub enum Change {
        /// Begin quorum mode with these voters.
        0 => Init = "init",
        /// One more voter, or one that lost its store and is named again.
        1 => Add = "add",
        /// One voter less.
        2 => Remove = "remove",
    }
}

wire_struct! {
    /// The configuration of the mesh.
    pub struct MeshConfig {
        /// The write that made it: the newest counts.
        1 => ver: Ver,
        /// Rises with every change of the content.
        2 => number: u64,
        /// The mode; `open` only while a first set of voters is pending.
        3 => mode: Mode,
        /// The voters; at most [`VOTERS_MAX`].
        4 => voters: Vec<Voter>,
        /// The voters that are to replace them; until then majorities of both are needed.  Empty = no change under way.
        5 => pending: Vec<Voter>,
    }
}

impl MeshConfig {
    /// The groups of which a majority is needed, each.
    pub fn groups(&self) -> impl Iterator<Item = &[Voter]> {
        let both = self.mode == Mode::Quorum && !self.pending.is_empty();
        let now = (self.mode == Mode::Quorum && !(both && mutant::on(40))).then_some(self.voters.as_slice());
        let next = (!(self.pending.is_empty() || both && mutant::on(39))).then_some(self.pending.as_slice());
        now.into_iter().chain(next)
    }
    /// True when `yes` holds for a majority of every group.
    pub fn majority(&self, mut yes: impl FnMut(&Voter) -> bool) -> bool {
        self.groups().all(|g| g.iter().filter(|v| yes(v)).count() > g.len() / 2)
    }
    /// As [`MeshConfig::majority`], blind to the pending voters: the broken rule of mutant 43.
    fn old_majority(&self, yes: impl FnMut(&Voter) -> bool) -> bool {
        self.mode == Mode::Quorum && Self { pending: Vec::new(), ..self.clone() }.majority(yes)
    }
    /// The voter with this key, whatever its store.
    pub fn voter(&self, peer: &Peer) -> Option<&Voter> {
        self.groups().flatten().find(|v| v.peer == *peer)
    }
    /// This node with this store has a vote.
    pub fn votes(&self, peer: &Peer, store: u64) -> bool {
        self.groups().flatten().any(|v| v.peer == *peer && v.store == store)
    }
    fn well_formed(&self) -> bool {
        self.voters.len() <= VOTERS_MAX && self.pending.len() <= VOTERS_MAX && self.groups().next().is_some()
    }
}

/// The highest write that a majority of the group has: `has` gives each voter's.
fn majority_has(group: &[Voter], has: impl Fn(&Voter) -> u64) -> u64 {
    let mut upto: Vec<u64> = group.iter().map(has).collect();
    upto.sort_unstable_by(|a, b| b.cmp(a));
    upto.get(if mutant::on(14) { (group.len() / 2).min(1) } else { group.len() / 2 }).copied().unwrap_or(0)
}

impl Mesh {
    // ---- small questions ----

    /// The mesh has voters, or is about to: majorities decide.
    pub(crate) fn by_majority(&self) -> bool {
        self.quorum.is_some()
    }

    /// The rules of open mode hold, too: before the first voters are settled they hold beside the majority.
    pub(crate) fn open_rules(&self) -> bool {
        self.quorum.as_ref().is_none_or(|q| q.mode == Mode::Open)
    }

    /// This node coordinates in an epoch that voters have consented to.
    pub(crate) fn voted_epoch(&self) -> bool {
        self.co.as_ref().is_some_and(|c| c.epoch.n >= VOTED)
    }

    /// This node may coordinate as far as the voters go: in quorum mode only a voter with the store it was named with
    /// and no witness.  Who has promised to voters that it does not know yet can't be one.
    pub(crate) fn may_lead_voters(&self) -> bool {
        let known = |q: &MeshConfig| q.groups().flatten().any(|v| v.peer == self.me && v.store == self.store && !v.witness);
        self.quorum.as_ref().map_or(self.side.promised.n < VOTED, known)
    }

    /// A node with these voters follows nobody else: `majority` is what the other says of itself.
    pub(crate) fn accepts(&self, leader: &Peer, majority: bool) -> bool {
        majority || self.quorum.as_ref().is_none_or(|q| q.voter(leader).is_some())
    }

    /// The node is a witness: it runs no tasks (C4).
    pub(crate) fn witness(&self, p: &Peer) -> bool {
        self.quorum.as_ref().and_then(|q| q.voter(p)).is_some_and(|v| v.witness)
    }

    /// A majority of the voters is in this set of (node, store), this node counted.
    pub(crate) fn majority_of(&self, yes: &BTreeSet<(Peer, u64)>) -> bool {
        let me = (self.me, self.store);
        if let Some(q) = self.quorum.as_ref().filter(|_| mutant::on(8)) {
            return yes.len() + 1 > q.voters.len() / 2;
        }
        let has = |v: &Voter| (v.peer, v.store) == me || yes.contains(&(v.peer, v.store));
        self.quorum.as_ref().is_none_or(|q| q.majority(has) || mutant::on(43) && q.old_majority(has))
    }

    /// Enough voters have followed with the store they are named by, and are pulled (T2).
    pub(crate) fn majority_pulled(&self) -> bool {
        let (Some(q), Some(c)) = (&self.quorum, &self.co) else { return true };
        if mutant::on(8) {
            return c.followers.values().filter(|f| f.stage != Stage::Pulling).count() + 1 > q.voters.len() / 2;
        }
        let pulled = |v: &Voter| c.followers.get(&v.peer).is_some_and(|f| f.store == v.store && f.stage != Stage::Pulling);
        let has = |v: &Voter| (v.peer == self.me && v.store == self.store) || pulled(v);
        mutant::on(5) || q.majority(has) || mutant::on(43) && q.old_majority(has)
    }

    /// The highest write of this epoch that a majority of every group has.
    pub(crate) fn majority_upto(&self) -> u64 {
        let (Some(q), Some(c)) = (&self.quorum, &self.co) else { return 0 };
        let own = c.own_upto();
        if mutant::on(8) {
            let mut all: Vec<u64> = c.holders().map(|(_, f)| f.acked).chain([own]).collect();
            all.sort_unstable_by(|a, b| b.cmp(a));
            return all.get(q.voters.len() / 2).copied().unwrap_or(0);
        }
        let has = |v: &Voter| match v.peer == self.me {
            true if v.store == self.store => own,
            true => 0,
            false => c.holders().find(|(p, f)| **p == v.peer && f.store == v.store).map_or(0, |(_, f)| f.acked),
        };
        q.groups().map(|g| majority_has(g, has)).min().unwrap_or(0)
    }

    /// Every voter that follows holds everything (W5 in quorum mode).
    pub(crate) fn voters_to_write(&self) -> Vec<Peer> {
        let (Some(q), Some(c)) = (&self.quorum, &self.co) else { return Vec::new() };
        let streams = |v: &&Voter| {
            c.followers.get(&v.peer).is_some_and(|f| f.store == v.store && f.stage != Stage::Pulling) && self.view.is_usable(&v.peer)
        };
        let list: BTreeSet<Peer> = q.groups().flatten().filter(streams).map(|v| v.peer).collect();
        list.into_iter().collect()
    }

    // ---- learning of a configuration ----

    /// Takes over a newer configuration.
    pub(crate) fn adopt_config(&mut self, q: &MeshConfig) {
        if !q.well_formed() {
            return self.event(Event::Dropped("configuration"));
        }
        if self.quorum.as_ref().is_some_and(|mine| mine.ver >= q.ver) {
            return;
        }
        let led = self.may_lead_voters();
        self.keep_config(q.clone());
        let deposed = match &self.co {
            // What it serves was allowed by another one: it has to claim again, and satisfy this one.
            Some(c) if c.phase == Phase::Serving || c.epoch.n < VOTED => Some("there is a newer configuration"),
            Some(_) if !self.may_lead_voters() => Some("this node has no vote"),
            _ => None,
        };
        if let Some(why) = deposed {
            self.step_down(why);
            self.election_at = Some(self.now + self.below(300));
        }
        if led != self.may_lead_voters() {
            self.advert_soon();
        }
    }

    fn keep_config(&mut self, q: MeshConfig) {
        self.put(Key::config(), codec::encode(&q));
        self.event(Event::Configured(q.ver, q.number));
        self.quorum = Some(q);
    }

    pub(crate) fn on_configure(&mut self, from: Peer, m: Configure) {
        if self.leader.as_ref().is_some_and(|l| l.peer == from && l.epoch == m.epoch) {
            self.adopt_config(&m.config);
        }
    }

    /// Tells somebody who claims, or serves, in ignorance of the voters (at most twice a second).
    pub(crate) fn teach(&mut self, other: Peer) {
        if self.joins_sent.get(&other).is_some_and(|t| self.now < t + HB_MS) || self.quorum.is_none() {
            return;
        }
        if self.joins_sent.len() > 64 {
            self.joins_sent.clear();
        }
        self.joins_sent.insert(other, self.now);
        self.send_reject(other);
    }

    /// A voter that may not stand, and knows no coordinator, tells the other voters in reach who they are, every
    /// [`TEACH_MS`]: the only one left that may stand may have been named a moment before the coordinator that named it died, and
    /// not know of it (seed 5524).
    pub(crate) fn teach_voters(&mut self) {
        let Some(q) = self.quorum.as_ref().filter(|q| q.votes(&self.me, self.store)) else { return };
        let told = |p: &Peer| self.joins_sent.get(p).is_some_and(|t| self.now < t + TEACH_MS);
        let linked = |p: &Peer| self.view.get(p).is_some_and(|m| m.linked);
        let others: BTreeSet<Peer> = q.groups().flatten().map(|v| v.peer).filter(|p| *p != self.me && linked(p) && !told(p)).collect();
        others.into_iter().for_each(|p| self.teach(p));
        self.wake_at(self.now + TEACH_MS);
    }

    /// `Reject` with what the other must know: a higher promise, and the voters.
    pub(crate) fn send_reject(&mut self, to: Peer) {
        let (n, epoch, config) = (self.side.promised.n, self.side.promised, self.quorum.clone());
        self.send(to, Message::Reject(Reject { n, epoch, config, ext: Default::default() }));
    }

    // ---- as coordinator ----

    /// C2: writes the configuration in this epoch.  `change` makes the new content.
    fn write_config(&mut self, change: impl FnOnce(&mut MeshConfig)) {
        let Some(mut q) = self.quorum.clone() else { return };
        change(&mut q);
        let now = self.now;
        let Some(c) = &mut self.co else { return };
        c.seq += 1;
        q.ver = Ver { epoch: c.epoch, seq: c.seq };
        c.written_at.push_back((c.seq, now));
        for f in c.followers.values_mut().filter(|f| f.streams()) {
            f.config = Some(q.clone());
            f.told_synced = false;
        }
        let epoch = c.epoch;
        // Who was a replica in open mode may be none a moment later.
        let others: Vec<Peer> = c.followers.iter().filter(|(p, f)| !f.streams() || q.voter(p).is_none()).map(|(p, _)| *p).collect();
        self.keep_config(q.clone());
        for p in others {
            self.send_durable(p, Message::Configure(Configure { epoch, config: q.clone(), ext: Default::default() }));
        }
        self.choose_replicas();
    }

    /// The first write of every epoch that has voters: until then their set is an inherited one (T4, C2).
    pub(crate) fn restamp_config(&mut self) {
        if mutant::on(42) {
            return;
        }
        self.write_config(|_| {});
    }

    /// A follower that is no voter hears of the configuration, too: alone, it must not take itself for a mesh.
    pub(crate) fn tell_config(&mut self, p: Peer) {
        let (Some(q), Some(epoch)) = (self.quorum.clone(), self.co.as_ref().map(|c| c.epoch)) else { return };
        self.send_durable(p, Message::Configure(Configure { epoch, config: q, ext: Default::default() }));
    }

    /// The configuration is of this epoch and stable.
    fn config_stable(&self) -> bool {
        let (Some(q), Some(c)) = (&self.quorum, &self.co) else { return false };
        c.serving() && (q.ver.epoch == c.epoch && q.ver.seq <= c.stable || mutant::on(42) && q.ver.epoch != c.epoch)
    }

    /// Brings a change further: the joint set is stable, so the new one may stand alone; the new one is stable, so who
    /// asked hears of it, and a coordinator that it left out goes.
    pub(crate) fn step_config(&mut self) {
        let hasty = mutant::on(38) && self.co.as_ref().is_some_and(|c| c.serving());
        if !self.config_stable() && !hasty {
            return;
        }
        let Some(q) = &self.quorum else { return };
        if !self.voted_epoch() {
            // The first voters agree: from here on epochs are theirs.
            return self.claim_above(0);
        }
        if !q.pending.is_empty() {
            return self.write_config(|q| {
                q.voters = core::mem::take(&mut q.pending);
                q.mode = Mode::Quorum;
                q.number += 1;
            });
        }
        let waiters = self.co.as_mut().map(|c| core::mem::take(&mut c.config_waiters)).unwrap_or_default();
        for (to, req) in waiters {
            self.emit(Effect::SettingsAck(to, req));
        }
        if !self.may_lead_voters() {
            self.step_down("this node has no vote any more");
        }
    }

    /// E10: a coordinator that a majority has not answered for twice the time of a suspicion serves nobody.
    pub(crate) fn tick_majority(&mut self) {
        let Some(q) = &self.quorum else { return };
        let Some(c) = &self.co else { return };
        let now = self.now;
        let limit = 2 * T_SUSPECT_MS;
        let heard = |v: &Voter| {
            let same = c.followers.get(&v.peer).is_none_or(|f| f.store == v.store);
            (v.peer == self.me && v.store == self.store) || (same && c.heard.get(&v.peer).is_some_and(|t| now.saturating_sub(*t) < limit))
        };
        if now >= c.since + limit && !q.majority(heard) {
            self.rule(Rule::E10);
            self.step_down("no majority of the voters answers");
            self.election_at = None;
        }
    }

    /// E8 in quorum mode: there is a higher promise than this epoch.  What was stable under it is known to its majority
    /// only, so this coordinator stops, and claims and pulls like anybody.
    pub(crate) fn claim_above(&mut self, n: u64) {
        let Some(c) = &self.co else { return };
        if self.now < c.since + HB_MS {
            return;
        }
        let n = n.max(c.epoch.n);
        self.step_down("a higher epoch was promised");
        if self.eligible() {
            self.claim(n);
        } else {
            self.election_at = None;
        }
    }

    /// T3 in quorum mode.  A version that was stable is part of every newer one, so of two records the newer knows all
    /// that ever had an effect: an attempt that only the older has was never assigned.  While records are still being
    /// pulled, what was joined counts as the newest version that went into it and not as the new one it was written as:
    /// a third node may have a newer one.
    pub(crate) fn merge_by_majority(&mut self, theirs: Rec, bytes: Vec<u8>) {
        let id = theirs.id;
        let Some(stored) = self.table.get(&id).cloned() else {
            self.store_raw(theirs, bytes);
            return self.merged(&id);
        };
        if stored.ver == theirs.ver {
            if self.table.bytes(&id) != Some(bytes.as_slice()) {
                self.event(Event::Alarm("equal_version_other_bytes"));
            }
            return;
        }
        let base = self.co.as_ref().and_then(|c| c.merged.get(&id)).copied();
        let mut mine = stored.clone();
        mine.ver = base.unwrap_or(stored.ver);
        let (newer, older) = if mine.ver >= theirs.ver { (&mine, &theirs) } else { (&theirs, &mine) };
        let mut joined = reconcile(newer, older);
        // Sides of open mode may each have an attempt that runs.
        let voted = newer.ver.epoch.n >= VOTED && older.ver.epoch.n >= VOTED;
        let ghosts: Vec<_> =
            joined.live.iter().filter(|_| voted).map(|l| l.attempt).filter(|a| newer.live.iter().all(|l| l.attempt != *a)).collect();
        for a in ghosts {
            joined.end_live(a, End::Returned, None, "it was never assigned: its coordinator had no majority", self.wall);
        }
        let top = newer.ver;
        if same_content(&joined, &theirs) && theirs.ver > stored.ver {
            self.store_raw(theirs, bytes);
        } else if !same_content(&joined, &stored) || (base.is_none() && theirs.ver > stored.ver) {
            // With its old version no holder of the other would take it (W3).
            self.write(joined);
            self.note_merged(id, top);
        } else if base.is_some() {
            self.note_merged(id, top);
            return;
        } else {
            return;
        }
        self.merged(&id);
    }

    fn note_merged(&mut self, id: TaskId, top: Ver) {
        if let Some(c) = self.co.as_mut().filter(|c| !c.serving()) {
            c.merged.insert(id, top);
        }
    }

    fn merged(&mut self, id: &TaskId) {
        if self.co.as_ref().is_some_and(|c| c.serving()) {
            self.sched_refresh(id);
            self.resume(id);
        }
    }

    // ---- changes (C2-C4) ----

    pub(crate) fn on_change_quorum(&mut self, from: Peer, m: ChangeQuorum) {
        if self.co.as_ref().is_none_or(|c| !c.serving()) {
            return self.not_coordinator(from, m.req, None);
        }
        match self.plan_change(&m) {
            Err(refusal) => {
                let refusal = codec::Blob(crate::query::to_cbor(&refusal));
                self.send(from, Message::SettingsRefused(SettingsRefused { req: m.req, refusal, ext: Default::default() }));
            }
            Ok(next) => {
                if let Some(c) = self.co.as_mut().filter(|c| c.config_waiters.len() < WAITERS_MAX) {
                    c.config_waiters.push((from, m.req));
                }
                if let Some(next) = next {
                    self.begin_change(next);
                }
            }
        }
    }

    fn begin_change(&mut self, next: Vec<Voter>) {
        self.rule(Rule::C2);
        if next.len() < 3 || next.iter().any(|v| v.witness) {
            self.rule(Rule::C4);
        }
        if self.quorum.is_none() {
            let ver = Ver { epoch: Epoch::ZERO, seq: 0 };
            let first = MeshConfig { ver, number: 0, mode: Mode::Open, voters: Vec::new(), pending: Vec::new(), ext: Default::default() };
            self.quorum = Some(first);
        }
        self.write_config(|q| {
            if mutant::on(37) {
                (q.voters, q.mode) = (next, Mode::Quorum);
            } else {
                q.pending = next;
            }
            q.number += 1;
        });
    }

    /// The voters as they are to be; none when they are so, or about to be.
    fn plan_change(&self, m: &ChangeQuorum) -> Result<Option<Vec<Voter>>, Refusal> {
        let invalid = |message: String| Err(Refusal::Invalid { message });
        let now = self.quorum.as_ref();
        let target = match (m.change, now) {
            (Change::Init, _) => self.first_voters(&m.nodes, &m.witnesses)?,
            (_, None) => return invalid("the mesh has no voters yet: 'clawmesh quorum init' names the first".into()),
            (change, Some(q)) => {
                let mut set = if q.pending.is_empty() { q.voters.clone() } else { q.pending.clone() };
                for p in m.nodes.iter().chain(&m.witnesses) {
                    if change == Change::Add {
                        let v = self.voter_of(p, m.witnesses.contains(p))?;
                        set.retain(|o| o.peer != *p);
                        set.push(v);
                    } else if now.is_some_and(|q| q.voter(p).is_none()) {
                        return invalid(format!("{} is no voter: 'clawmesh quorum status' lists them", self.name_of(p)));
                    } else {
                        set.retain(|o| o.peer != *p);
                    }
                }
                set.sort_unstable();
                set
            }
        };
        if let Some(q) = now {
            let settled = if q.pending.is_empty() { &q.voters } else { &q.pending };
            if *settled == target {
                return Ok(None);
            }
            if m.change == Change::Init {
                return invalid("the mesh has voters already: change them with 'clawmesh quorum add' and 'remove'".into());
            }
            if !q.pending.is_empty() || !self.config_stable() {
                return invalid("another change of the voters is under way: try again in a moment".into());
            }
        } else if self.smaller_side() {
            // S7, C2: the other side may name voters of its own, and two sets that were both settled never become one without
            // loss (seed 21068).
            return invalid(
                "more members of the mesh may be alive elsewhere, and may name voters of their own: try again when they are \
                 connected, or run 'clawmesh mesh adopt' when those in reach are all that is left"
                    .into(),
            );
        }
        self.check_target(&target)?;
        Ok(Some(target))
    }

    /// A set of voters that could decide something at once.
    fn check_target(&self, target: &[Voter]) -> Result<(), Refusal> {
        let invalid = |message: String| Err(Refusal::Invalid { message });
        if target.len() > VOTERS_MAX {
            return invalid(format!("{} voters, at most {VOTERS_MAX} are allowed: three or five are the usual numbers", target.len()));
        }
        if target.iter().all(|v| v.witness) {
            return invalid("a voter that is no witness must be left: witnesses never coordinate".into());
        }
        let Some(c) = &self.co else { return Ok(()) };
        let there =
            |v: &Voter| (v.peer == self.me && v.store == self.store) || c.followers.get(&v.peer).is_some_and(|f| f.store == v.store);
        if !target.iter().any(|v| !v.witness && there(v)) {
            return invalid("a voter that is no witness must be reachable: witnesses never coordinate, so nobody would".into());
        }
        let both = self.quorum.as_ref().map(|q| q.voters.as_slice()).into_iter().chain([target]);
        for g in both {
            let n = g.iter().filter(|v| there(v)).count();
            if n <= g.len() / 2 && !g.is_empty() {
                return invalid(format!(
                    "only {n} of {} voters can be reached, and {} are needed for the change: start the others first",
                    g.len(),
                    g.len() / 2 + 1
                ));
            }
        }
        Ok(())
    }

    /// The node as a voter, with the store it has now (C3).
    fn voter_of(&self, p: &Peer, witness: bool) -> Result<Voter, Refusal> {
        let followed = self.co.as_ref().and_then(|c| c.followers.get(p)).map(|f| f.store);
        let store = if *p == self.me { Some(self.store) } else { followed };
        match store {
            Some(store) => Ok(Voter { peer: *p, store, witness }),
            None => Err(Refusal::Invalid {
                message: format!("{} can't be reached by the coordinator: a new voter must be online", self.name_of(p)),
            }),
        }
    }

    /// The voters that were named; by default this node and its best followers, three in all when there are so many.
    fn first_voters(&self, nodes: &[Peer], witnesses: &[Peer]) -> Result<Vec<Voter>, Refusal> {
        let mut list: Vec<Peer> = nodes.iter().chain(witnesses).copied().collect();
        if nodes.is_empty() {
            let mut others: Vec<_> = self
                .co
                .iter()
                .flat_map(|c| c.followers.keys().map(|p| (c.replicas.contains_key(p), self.view.rank(p), *p)))
                .filter(|(_, r, p)| r.is_some() && self.view.is_usable(p) && !witnesses.contains(p))
                .collect();
            others.sort_unstable();
            list.push(self.me);
            list.extend(others.iter().rev().map(|(.., p)| *p).take(3usize.saturating_sub(list.len())));
        }
        let list: BTreeSet<Peer> = list.into_iter().collect();
        let mut set = list.iter().map(|p| self.voter_of(p, witnesses.contains(p))).collect::<Result<Vec<_>, _>>()?;
        set.sort_unstable();
        Ok(set)
    }

    // ---- for people ----

    /// The voters as this node sees them; none in open mode.
    pub fn quorum_view(&self) -> Option<QuorumView> {
        let q = self.quorum.as_ref()?;
        let store_of = |p: &Peer| match (*p == self.me, &self.co) {
            (true, _) => Some(self.store),
            (false, Some(c)) if c.followers.contains_key(p) => c.followers.get(p).map(|f| f.store),
            _ => self.view.get(p).and_then(|m| m.advert.as_ref()).map(|a| a.store),
        };
        let view = |v: &Voter| {
            let here = v.peer == self.me || self.view.is_usable(&v.peer);
            VoterView {
                node: v.peer,
                name: self.name_of(&v.peer),
                witness: v.witness,
                reachable: here,
                counts: here && store_of(&v.peer) == Some(v.store),
                replaced: store_of(&v.peer).is_some_and(|s| s != v.store),
            }
        };
        let voters: Vec<VoterView> = q.voters.iter().map(view).collect();
        let pending: Vec<VoterView> = q.pending.iter().map(view).collect();
        let counting = voters.iter().filter(|v| v.counts).count();
        let majority = q.majority(|v| view(v).counts);
        Some(QuorumView {
            mode: q.mode,
            needed: q.groups().next().map_or(0, |g| g.len() / 2 + 1) as u32,
            counting: counting as u32,
            majority,
            number: q.number,
            warning: self.quorum_warning(q, &voters, majority),
            voters,
            pending,
        })
    }

    fn quorum_warning(&self, q: &MeshConfig, voters: &[VoterView], majority: bool) -> String {
        let n = voters.len();
        let counting = voters.iter().filter(|v| v.counts).count();
        if !majority {
            return format!("only {counting} of {n} voters can be reached from here, {} are needed: this side serves nothing", n / 2 + 1);
        }
        if let Some(v) = voters.iter().find(|v| v.replaced) {
            return format!("{} has a new store and does not count: name it again with 'clawmesh quorum add {}'", v.name, v.name);
        }
        match n {
            _ if !q.pending.is_empty() => "a change of the voters is under way".into(),
            1 => "one voter: when it is down, nothing is served; add two more".into(),
            2 => "two voters: when either is down, nothing is served; add a third, a witness is enough".into(),
            _ => String::new(),
        }
    }
}
