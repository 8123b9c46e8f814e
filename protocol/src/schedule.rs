//! The coordinator's tasks: admission, placement, reports, verdicts, cancel (S1-S5, S8-S11).

use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    format,
    string::{String, ToString},
    vec::Vec,
};

use crate::{
    codec,
    config::{BACKOFF_MAX_MS, CRASHES_MAX, LOSSES_MAX},
    face::Refusal,
    ids::{Attempt, Origin, Peer, TaskId},
    io::Event,
    mesh::Mesh,
    message::{
        Assign, Busy, Cancel, CancelAck, Deliver, Delivered, Floor, ForgetNode, Kill, Message, Refuse, Report, ReportAck, SetStrategy,
        Settings, SettingsRefused, Settled, Submit, SubmitRefused,
    },
    mutant,
    placement::{Candidate, by_agent, choose, fits},
    queue::{Class, Queue},
    record::{End, Live, Outcome, Past, Queued, Rec, clip},
    rule::Rule,
    skill::Catalogue,
    spec::{Data, Kind, Need, OnLost, Spec, Strategy},
    view::Member,
    writes::Effect,
};

/// Store keys: one letter, then fixed-length parts.
pub(crate) enum Key {
    Task,
    Outbox,
    Run,
    Floor,
    Settings,
    /// The values and the log of the settings.
    Values,
    Config,
    Member(Peer),
    /// How often a skill has run here.
    Tally,
    Meta,
}

impl Key {
    pub(crate) fn parse(key: &[u8]) -> Option<Self> {
        let (first, rest) = key.split_first()?;
        Some(match first {
            b't' => Self::Task,
            b'o' => Self::Outbox,
            b'r' => Self::Run,
            b'f' => Self::Floor,
            b's' => Self::Settings,
            b'w' => Self::Values,
            b'q' => Self::Config,
            b'v' => Self::Member(Peer(rest.try_into().ok()?)),
            b'k' => Self::Tally,
            b'm' => Self::Meta,
            _ => return None,
        })
    }
    fn with(letter: u8, rest: &[u8]) -> Vec<u8> {
        let mut k = Vec::with_capacity(1 + rest.len());
        k.push(letter);
        k.extend_from_slice(rest);
        k
    }
    pub(crate) fn task(id: &TaskId) -> Vec<u8> {
        Self::with(b't', &id.key())
    }
    pub(crate) fn outbox(id: &TaskId) -> Vec<u8> {
        Self::with(b'o', &id.key())
    }
    pub(crate) fn run(id: &TaskId, a: &Attempt) -> Vec<u8> {
        let mut k = Self::with(b'r', &id.key());
        k.extend_from_slice(&a.k.to_be_bytes());
        k.extend_from_slice(&a.epoch.n.to_be_bytes());
        k.extend_from_slice(&a.epoch.peer.0);
        k
    }
    pub(crate) fn floor(o: &Origin) -> Vec<u8> {
        let mut k = Self::with(b'f', &o.peer.0);
        k.extend_from_slice(&o.store.to_be_bytes());
        k
    }
    pub(crate) fn settings() -> Vec<u8> {
        b"s".to_vec()
    }
    pub(crate) fn values() -> Vec<u8> {
        b"w".to_vec()
    }
    pub(crate) fn config() -> Vec<u8> {
        b"q".to_vec()
    }
    pub(crate) fn member(p: Peer) -> Vec<u8> {
        Self::with(b'v', &p.0)
    }
}

/// A class's run time decides how many of its tasks a worker gets ahead: so much work, ms.
const AHEAD_MS: u64 = 40;
/// At most so many per slot.
const AHEAD_MAX: u64 = 64;
/// Placements in one step; more follow in the next.
const PLACE_MAX: usize = 512;
/// Placement sentences remembered.
const NOTES_MAX: usize = 10_000;

/// What the coordinator derives from the table, and remembers of placement.
#[derive(Debug, Default)]
pub(crate) struct Sched {
    pub(crate) queue: Queue,
    /// Held back on the smaller side of a split (S7), and how long they had waited, ms.
    pub(crate) held: BTreeMap<TaskId, u64>,
    /// Live attempts by worker.
    pub(crate) placed: BTreeMap<Peer, BTreeSet<(TaskId, Attempt)>>,
    /// Those of them that take an agent slot.
    agents: BTreeMap<Peer, BTreeSet<(TaskId, Attempt)>>,
    /// In back-off until.
    resting: BTreeSet<(u64, TaskId)>,
    rest_of: BTreeMap<TaskId, u64>,
    /// Queue and total time limits.
    limits: BTreeSet<(u64, TaskId)>,
    undelivered: BTreeMap<Peer, BTreeSet<TaskId>>,
    keys: BTreeMap<String, TaskId>,
    notes: BTreeMap<TaskId, String>,
    note_order: VecDeque<TaskId>,
    turns: BTreeMap<Peer, u64>,
    turn: u64,
    run_ms: BTreeMap<String, u64>,
    /// Workers that handed short tasks back because longer ones took their slots, until one of those has ended:
    /// they get nothing ahead.
    jammed: BTreeSet<Peer>,
    seen_at: BTreeMap<TaskId, u64>,
    dirty: bool,
    stuck: BTreeSet<Class>,
    pub(crate) inventories: BTreeMap<Peer, Vec<(TaskId, Attempt)>>,
    pub(crate) inventory_done: BTreeMap<Peer, u64>,
    pub(crate) parked: u64,
}

impl Sched {
    pub(crate) fn check(&self, m: &Mesh, serving: bool) -> Result<(), String> {
        if !serving {
            return Ok(());
        }
        for id in self.queue.ids() {
            match m.table.get(id) {
                Some(r) if r.outcome.is_none() && r.live.is_empty() => {}
                _ => return Err(format!("{id}: queued, but ended, live or unknown")),
            }
        }
        Ok(())
    }
    /// When a back-off or a time limit is over, or a worker that is out of reach is lost (see `rest`).
    pub(crate) fn rest(&self, m: &Mesh, since: u64) -> u64 {
        let first = [&self.resting, &self.limits].into_iter().filter_map(|s| s.first().map(|(at, _)| *at));
        let away = self.placed.iter().filter(|(p, t)| **p != m.me && !t.is_empty() && !m.view.is_usable(p)).map(|(p, _)| p);
        let lost = away.map(|p| m.view.get(p).map_or(0, |v| v.heard_at).max(since) + m.cfg.lost_after_ms);
        crate::rest::next(m.now, first.chain(lost))
    }
    /// How many tasks of this class a worker with `slots` may have.
    fn room(&self, need: &Need, worker: Peer, slots: u32) -> u32 {
        let ahead = match self.run_ms.get(&class_name(need)).filter(|_| !self.jammed.contains(&worker)) {
            Some(ms) => (AHEAD_MS / (ms + 1)).min(AHEAD_MAX),
            None => 0,
        };
        u32::try_from(u64::from(slots) * (1 + ahead)).unwrap_or(u32::MAX)
    }
    /// An attempt takes its slot.
    fn set_down(&mut self, id: TaskId, l: &Live) {
        self.placed.entry(l.worker).or_default().insert((id, l.attempt));
        if l.agent {
            self.agents.entry(l.worker).or_default().insert((id, l.attempt));
        }
    }
    /// All attempts of a task leave their slots.
    fn lift(&mut self, id: &TaskId) {
        for set in self.placed.values_mut().chain(self.agents.values_mut()) {
            set.retain(|(t, _)| t != id);
        }
    }
    /// How many tasks a node has in its slots, and in its agent slots.
    fn load(&self, p: &Peer) -> (u32, u32) {
        let of = |sets: &BTreeMap<Peer, BTreeSet<_>>| u32::try_from(sets.get(p).map_or(0, BTreeSet::len)).unwrap_or(u32::MAX);
        let agents = of(&self.agents);
        (of(&self.placed).saturating_sub(agents), agents)
    }
    fn note(&mut self, id: TaskId, text: String) {
        if self.notes.insert(id, text).is_none() {
            self.note_order.push_back(id);
        }
        while self.note_order.len() > NOTES_MAX {
            if let Some(old) = self.note_order.pop_front() {
                self.notes.remove(&old);
            }
        }
    }
    pub(crate) fn note_of(&self, id: &TaskId) -> Option<&String> {
        self.notes.get(id)
    }
    /// Another, older task that has the key of this one (O4).
    pub(crate) fn first_of_key(&self, r: &Rec) -> Option<TaskId> {
        self.keys.get(&r.need.key).copied().filter(|id| *id != r.id)
    }
    pub(crate) fn rest_until(&self, id: &TaskId) -> Option<u64> {
        self.rest_of.get(id).copied()
    }
}

fn class_name(need: &Need) -> String {
    match need.kind {
        Kind::Command => format!("c {}", need.title.split(' ').next().unwrap_or_default()),
        Kind::Skill | Kind::Builtin => format!("s {}", need.skill),
        Kind::Prompt => format!("p {}", need.skill),
    }
}

impl Mesh {
    // ---- rebuilding (at takeover) ----

    /// Derives queue, placements and debts from the table.
    pub(crate) fn sched_rebuild(&mut self) {
        let old = self.co.as_mut().map(|c| core::mem::take(&mut c.sched)).unwrap_or_default();
        if let Some(c) = &mut self.co {
            c.sched.inventories = old.inventories;
            c.sched.inventory_done = old.inventory_done;
            c.sched.dirty = true;
        }
        let ids: Vec<TaskId> = self.table.iter().map(|r| r.id).collect();
        for id in ids {
            if let Some(r) = self.table.get(&id).filter(|r| mutant::on(30) && r.crashes > 0) {
                self.write(Rec { crashes: 0, ..r.clone() });
            }
            self.sched_refresh(&id);
        }
        let now = self.now;
        for m in self.view.members.values_mut() {
            // S4: silence under an earlier coordinator does not count.
            m.heard_at = now;
        }
        let done = self.co.as_mut().map(|c| core::mem::take(&mut c.sched.inventory_done)).unwrap_or_default();
        for (p, boot) in done {
            self.settle_inventory(p, boot);
        }
        let gone: Vec<(Peer, u64)> = self.view.members.iter().filter_map(|(p, m)| m.bye.map(|b| (*p, b))).collect();
        for (p, boot) in gone {
            self.end_attempts_of(p, |wboot| wboot <= boot, End::Returned, "the node left in order");
        }
    }

    /// Brings queue, placements and debts of one record up to date.
    pub(crate) fn sched_refresh(&mut self, id: &TaskId) {
        let now = self.now;
        let ghost = self.below_floor(id);
        let Some(c) = &mut self.co else { return };
        let Some(rec) = self.table.get(id) else { return };
        let s = &mut c.sched;
        let waited = s.queue.remove(id, now).or(s.held.remove(id));
        s.lift(id);
        if let Some(at) = s.rest_of.remove(id) {
            s.resting.remove(&(at, *id));
        }
        s.dirty = true;
        s.seen_at.entry(*id).or_insert(now);
        if !rec.need.key.is_empty() {
            // O4: after a split both sides may have accepted the key; the older one keeps it.
            let older = match s.keys.get(&rec.need.key).filter(|k| *k != id).and_then(|k| self.table.get(k)) {
                Some(other) => (rec.queued, rec.id) < (other.queued, other.id),
                None => true,
            };
            if older {
                s.keys.insert(rec.need.key.clone(), *id);
            }
        }
        if let Some(o) = &rec.outcome {
            s.seen_at.remove(id);
            if !rec.delivered && !ghost && o.end != End::Retired {
                s.undelivered.entry(id.origin.peer).or_default().insert(*id);
            } else if let Some(u) = s.undelivered.get_mut(&id.origin.peer) {
                u.remove(id);
            }
            return;
        }
        for l in &rec.live {
            s.set_down(*id, l);
        }
        if !rec.live.is_empty() && rec.need.total_timeout_ms > 0 {
            // It runs since an earlier coordinator's time: the limit counts from now on.
            let at = s.seen_at.get(id).copied().unwrap_or(now) + rec.need.total_timeout_ms;
            s.limits.insert((at, *id));
        }
        if ghost {
            // T5: dead by its origin's word.
            let old = rec.ver.epoch != c.epoch;
            self.rule(Rule::T5);
            if old && !self.is_forgotten(&id.origin) {
                // An old copy: how it ended was known elsewhere, and may be deleted there already (seed 209).  One of this node's own
                // waits until others may know of the floor.
                if self.below_told_floor(id) {
                    self.bury(id);
                }
                return;
            }
            return self.decide(id, End::Retired, None, None, None, "its origin has given it up", Data::EMPTY, 0);
        }
        if !rec.live.is_empty() {
            return;
        }
        if rec.cancel {
            return self.decide(id, End::Cancelled, None, None, None, "cancelled before it ran", Data::EMPTY, 0);
        }
        let waited = waited.unwrap_or(rec.waited_ms);
        let (need, queued) = (rec.need.clone(), rec.queued);
        self.enqueue(id, &need, queued, waited);
    }

    pub(crate) fn enqueue(&mut self, id: &TaskId, need: &Need, queued: Queued, waited: u64) {
        let now = self.now;
        let held = self.is_held(need, queued);
        let Some(c) = &mut self.co else { return };
        if held {
            c.sched.held.insert(*id, waited);
        } else {
            c.sched.queue.push(*id, need, queued, now, waited);
        }
        c.sched.dirty = true;
        let limit = |ms: u64| if ms == 0 { u64::MAX } else { now + ms.saturating_sub(waited) };
        let at = limit(need.queue_timeout_ms).min(limit(need.total_timeout_ms));
        if at != u64::MAX {
            c.sched.limits.insert((at, *id));
            self.wake_at(at);
        }
    }

    pub(crate) fn sched_forget(&mut self, id: &TaskId) {
        let now = self.now;
        let key = self.table.get(id).map(|r| r.need.key.clone()).unwrap_or_default();
        let Some(c) = &mut self.co else { return };
        c.sched.queue.remove(id, now);
        c.sched.held.remove(id);
        c.sched.seen_at.remove(id);
        c.sched.notes.remove(id);
        c.sched.lift(id);
        if c.sched.keys.get(&key) == Some(id) {
            c.sched.keys.remove(&key);
        }
        if let Some(u) = c.sched.undelivered.get_mut(&id.origin.peer) {
            u.remove(id);
        }
    }

    pub(crate) fn capacity_changed(&mut self) {
        if let Some(c) = &mut self.co {
            c.sched.dirty = true;
            c.sched.stuck.clear();
        }
    }

    // ---- admission (O1, O4, S9) ----

    pub(crate) fn on_submit(&mut self, from: Peer, s: Submit) {
        if self.co.as_ref().is_none_or(|c| !c.serving()) {
            return self.not_coordinator(from, 0, Some(s.id));
        }
        if s.id.origin.peer != from {
            return self.event(Event::Dropped("submit_for_another"));
        }
        let spec = Spec { need: s.need, payload: s.payload };
        if self.below_floor(&s.id) {
            self.rule(Rule::G2);
            let refusal = Refusal::Invalid { message: "the task's id is below its origin's floor: it had ended before".into() };
            return self.refuse_submit(from, s.id, refusal, !s.again);
        }
        if let Some(rec) = self.table.get(&s.id) {
            if rec.spec_hash != spec.hash() {
                let refusal = Refusal::Invalid { message: "another task has this id: the origin's store was restored from a copy".into() };
                return self.refuse_submit(from, s.id, refusal, !s.again);
            }
            self.rule(Rule::O1);
            return self.ack_submit(&s.id);
        }
        match self.prompts(&spec.need) {
            Ok(false) => {}
            Err(refusal) if !s.again => return self.refuse_submit(from, s.id, refusal, true),
            _ => {
                let m = Busy { id: Some(s.id), retry_after_ms: 200, full: false, ext: Default::default() };
                return self.send(from, Message::Busy(m));
            }
        }
        if let Some(refusal) = self.too_open(&spec) {
            return self.refuse_submit(from, s.id, refusal, !s.again);
        }
        if let Some(refusal) = self.reject(&spec).filter(|_| !s.again) {
            return self.refuse_submit(from, s.id, refusal, !s.again);
        }
        if self.full || self.table.open() >= self.cfg.tune.tasks_max {
            self.rule(Rule::D4);
            let m = Busy { id: Some(s.id), retry_after_ms: 1_000, full: true, ext: Default::default() };
            return self.send(from, Message::Busy(m));
        }
        if let Some(h) = spec.payload.blob().filter(|h| !self.blobs.contains(h)) {
            // W4: the payload first.
            self.rule(Rule::W4);
            let list = self.parked.entry(h).or_default();
            if list.len() < 1_024 {
                list.push((
                    from,
                    Message::Submit(Submit {
                        id: s.id,
                        need: spec.need,
                        payload: spec.payload,
                        submitted_at: s.submitted_at,
                        again: s.again,
                        ext: s.ext,
                    }),
                ));
            }
            return self.fetch(h, &[from]);
        }
        // After a split both may exist (O4): an acknowledged task is not lost for its key.
        if !spec.need.key.is_empty() && !s.again && self.join_by_key(from, &s.id, &spec) {
            return;
        }
        self.admit(s.id, spec, s.submitted_at, s.again);
    }

    /// `first` when the origin did not say the submit again: a later boot of it may have said so meanwhile.
    fn refuse_submit(&mut self, to: Peer, id: TaskId, refusal: Refusal, first: bool) {
        let m = SubmitRefused { id, refusal: codec::Blob(crate::query::to_cbor(&refusal)), first, ext: Default::default() };
        self.send(to, Message::SubmitRefused(m));
    }

    /// S6: in open mode each side of a split would start it.  That does not change: a mesh keeps its voters, and who follows it
    /// knows them, so nothing that was acknowledged is refused here.
    fn too_open(&self, spec: &Spec) -> Option<Refusal> {
        if !spec.need.at_most_once || spec.need.pin.is_some() || !self.open_rules() {
            return None;
        }
        let message = "an at-most-once task must be pinned to one node (--node NAME), or the mesh needs voters ('clawmesh quorum init'): \
                       in open mode only that node's own log can promise it";
        Some(Refusal::Invalid { message: message.into() })
    }

    /// What can be known to be wrong at once.
    fn reject(&self, spec: &Spec) -> Option<Refusal> {
        if let Some(p) = spec.need.pin.filter(|p| *p != self.me && self.view.get(p).is_none()) {
            return Some(Refusal::Invalid { message: format!("no node {p} is known: 'clawmesh nodes' lists them") });
        }
        let name = &spec.need.skill;
        if spec.need.kind != Kind::Skill && (spec.need.kind != Kind::Prompt || name.is_empty()) {
            return None;
        }
        let mine = self.catalogue.skills.iter().map(|s| &s.name);
        if self.view.incomplete() || mine.clone().any(|n| n == name) || self.view.ever().any(|n| n == name) {
            return None;
        }
        let known: BTreeSet<String> = mine.chain(self.view.ever()).cloned().collect();
        Some(Refusal::UnknownSkill { name: name.clone(), known: known.into_iter().take(1_000).collect() })
    }

    /// O4: the same key and task joins the one that is there.
    fn join_by_key(&mut self, from: Peer, id: &TaskId, spec: &Spec) -> bool {
        let Some(c) = &self.co else { return false };
        let Some(old) = c.sched.keys.get(&spec.need.key).copied() else { return false };
        let Some(rec) = self.table.get(&old) else { return false };
        if rec.spec_hash == spec.hash() {
            self.rule(Rule::O4);
            self.effect(&old, Effect::Joined(old, *id, from));
        } else {
            let message = format!("key '{}' is taken by another task, {old}: choose another key", spec.need.key);
            self.refuse_submit(from, *id, Refusal::Invalid { message }, true);
        }
        true
    }

    fn admit(&mut self, id: TaskId, spec: Spec, submitted_at: u64, again: bool) {
        let Some(c) = &self.co else { return };
        let new = Queued { epoch: c.epoch, seq: c.seq + 1 };
        let queued = if again { self.place_again(new) } else { new };
        let Some(c) = &mut self.co else { return };
        let now = self.now;
        c.sched.seen_at.insert(id, now);
        if !spec.need.key.is_empty() {
            c.sched.keys.insert(spec.need.key.clone(), id);
        }
        let rec = Rec::new(id, spec, queued, submitted_at);
        let need = rec.need.clone();
        self.event(Event::Submitted(id));
        self.write(rec);
        self.ack_submit(&id);
        self.enqueue(&id, &need, queued, 0);
    }

    // ---- placement ----

    /// Hands tasks to nodes while both are there.
    pub(crate) fn schedule(&mut self) {
        let quiet = self.tilted() || self.leaving || self.store_bad || self.giving();
        if quiet || self.co.as_ref().is_none_or(|c| !c.serving() || !c.sched.dirty) {
            return;
        }
        let mut placed = 0;
        loop {
            let Some(c) = &mut self.co else { return };
            let heads = c.sched.queue.heads(self.now);
            let mut progress = false;
            for (class, _) in heads {
                // One class at a time as long as its head stays the most urgent of those that fit.
                let Some(c) = &self.co else { return };
                if c.sched.stuck.contains(&class) {
                    continue;
                }
                let Some(id) = self.head_of(&class) else { continue };
                if self.place(&id) {
                    placed += 1;
                    progress = true;
                    if self.co.as_ref().is_some_and(|c| c.sched.queue.classes() > 1) {
                        break;
                    }
                } else if let Some(c) = &mut self.co {
                    c.sched.stuck.insert(class);
                }
            }
            if !progress {
                break;
            }
            if placed >= PLACE_MAX {
                self.wake_at(self.now + 1);
                return;
            }
        }
        self.count_parked();
        if let Some(c) = &mut self.co {
            c.sched.dirty = false;
            c.sched.stuck.clear();
        }
    }

    fn head_of(&self, class: &Class) -> Option<TaskId> {
        self.co.as_ref()?.sched.queue.head(class, self.now)
    }

    /// Every node as placement sees it, for one task.
    pub(crate) fn candidates<'a>(&'a self, rec: &Rec) -> Vec<Candidate<'a>> {
        let Some(c) = &self.co else { return Vec::new() };
        let last = rec.past.last();
        let avoid =
            |p: Peer| last.is_some_and(|l| l.worker == p && matches!(l.end, End::Failed | End::Timeout | End::Crashed | End::Returned));
        let skill = &rec.need.skill;
        let offers = |c: &Catalogue| !skill.is_empty() && c.skills.iter().any(|s| s.name == *skill);
        let may =
            |p: &Peer, labels: &[String]| rec.need.pin.is_none_or(|pin| pin == *p) && rec.need.labels.iter().all(|l| labels.contains(l));
        let runs = |p: &Peer, m: &Member| m.usable() && m.runnable.contains(skill) && m.advert.as_ref().is_some_and(|a| may(p, &a.labels));
        let runs_somewhere = rec.need.kind == Kind::Skill
            && ((self.worker.runnable.contains(skill) && may(&self.me, &self.cfg.labels))
                || self.view.members.iter().any(|(p, m)| runs(p, m)));
        let (load, agent_load) = c.sched.load(&self.me);
        let mine = Candidate {
            peer: self.me,
            name: &self.cfg.name,
            online: true,
            draining: self.draining || self.leaving || self.witness(&self.me),
            commands: self.cfg.commands,
            has_skill: self.worker.runnable.contains(skill),
            agent_skill: offers(&self.catalogue),
            labels: &self.cfg.labels,
            slots: self.cfg.slots,
            room: c.sched.room(&rec.need, self.me, self.cfg.slots),
            load,
            agent: &self.worker.agent,
            agent_slots: self.worker.agent_slots(),
            agent_load,
            runs_somewhere,
            facts: &self.facts,
            facts_age_ms: self.now - self.facts_at,
            boot: self.boot,
            avoid: avoid(self.me),
        };
        let others = self.view.members.iter().filter_map(|(p, m)| {
            let a = m.advert.as_ref()?;
            let (load, agent_load) = c.sched.load(p);
            Some(Candidate {
                peer: *p,
                name: &m.name,
                online: m.usable() && c.followers.contains_key(p),
                draining: a.draining || self.witness(p),
                commands: a.commands,
                has_skill: m.runnable.contains(skill),
                agent_skill: m.catalogue.as_ref().is_some_and(offers),
                labels: &a.labels,
                slots: a.slots,
                room: c.sched.room(&rec.need, *p, a.slots),
                load,
                agent: &a.agent,
                agent_slots: a.agent_slots,
                agent_load,
                runs_somewhere,
                facts: &m.facts,
                facts_age_ms: a.age_ms + self.now.saturating_sub(m.advert_at),
                boot: a.boot,
                avoid: avoid(*p),
            })
        });
        core::iter::once(mine).chain(others).collect()
    }

    pub(crate) fn strategy_for(&self, need: &Need) -> Strategy {
        need.strategy.or_else(|| self.settings.as_ref().map(|s| s.strategy)).unwrap_or_default()
    }

    /// Places the task, when a node fits: the record with its attempt is one write (S1).
    fn place(&mut self, id: &TaskId) -> bool {
        let Some(rec) = self.table.get(id) else { return false };
        let strategy = self.strategy_for(&rec.need);
        let random = strategy == Strategy::Random;
        let draw = if random { Some(self.below(u64::MAX)) } else { None };
        let Some(rec) = self.table.get(id) else { return false };
        let nodes = self.candidates(rec);
        let Some(c) = &self.co else { return false };
        let turns = &c.sched.turns;
        let chosen = choose(strategy, &rec.need, &nodes, |p| match draw {
            Some(d) => {
                u64::from_be_bytes([p.0[0], p.0[1], p.0[2], p.0[3], p.0[4], p.0[5], p.0[6], p.0[7]]).wrapping_mul(d | 1).rotate_left(17) ^ d
            }
            None => turns.get(p).copied().unwrap_or(0),
        });
        let Some((node, score)) = chosen else { return false };
        let (worker, wboot, agent) = (node.peer, node.boot, by_agent(&rec.need, node));
        let fitting = nodes.iter().filter(|n| fits(&rec.need, n).is_ok()).count();
        let note = format!("{} of {} nodes fitted; {} chose {} (score {score})", fitting, nodes.len(), strategy, node.name);
        let mut rec = rec.clone();
        let now = self.now;
        let wall = self.wall;
        let Some(c) = &mut self.co else { return false };
        let epoch = c.epoch;
        rec.waited_ms = c.sched.queue.remove(id, now).unwrap_or(rec.waited_ms);
        rec.issued += 1;
        let attempt = Attempt { k: rec.issued, epoch };
        let live = Live { attempt, worker, wboot, placed_at: wall, agent, ext: Default::default() };
        c.sched.set_down(*id, &live);
        rec.live.push(live);
        c.sched.turn += 1;
        let turn = c.sched.turn;
        c.sched.turns.insert(worker, turn);
        c.sched.note(*id, note);
        self.rule(Rule::S1);
        self.write(rec);
        self.effect(id, Effect::Assign(*id, attempt));
        true
    }

    /// Tasks that no live node could ever take are reported as parked (S8).
    fn count_parked(&mut self) {
        let Some(c) = &self.co else { return };
        let mut parked = 0;
        for (class, id) in c.sched.queue.heads(self.now).into_iter().take(256) {
            let Some(rec) = self.table.get(&id) else { continue };
            let any = self.candidates(rec).iter().any(|n| match fits(&rec.need, n) {
                Ok(()) => true,
                Err(no) => no.busy,
            });
            if !any {
                parked += c.sched.queue.class_len(&class);
            }
        }
        if let Some(c) = &mut self.co {
            c.sched.parked = parked;
        }
        if parked > 0 {
            self.rule(Rule::S8);
        }
    }

    // ---- effects leave ----

    pub(crate) fn emit(&mut self, e: Effect) {
        let Some(epoch) = self.co.as_ref().map(|c| c.epoch) else { return };
        match e {
            Effect::Assign(id, attempt) => {
                let Some(rec) = self.table.get(&id).filter(|r| !r.terminal() && !r.cancel) else { return };
                let Some(live) = rec.live.iter().find(|l| l.attempt == attempt) else { return };
                let (worker, wboot) = (live.worker, live.wboot);
                let mut holders = alloc::vec![self.me, id.origin.peer];
                holders.dedup();
                let m = Assign {
                    epoch,
                    id,
                    attempt,
                    wboot,
                    need: rec.need.clone(),
                    payload: rec.payload.clone(),
                    holders,
                    ext: Default::default(),
                };
                let waited = self.co.as_ref().and_then(|c| c.sched.seen_at.get(&id)).map_or(0, |t| self.now - t);
                self.event(Event::Assigned(id, attempt, worker, waited));
                self.send(worker, Message::Assign(m));
            }
            Effect::Kill(id, attempt, worker) => self.send(worker, Message::Kill(Kill { epoch, id, attempt, ext: Default::default() })),
            Effect::Deliver(id) if !self.reads(id.origin.peer) => {
                // It is told when its records are here: it may hold the proof of what it has accepted.
            }
            Effect::Deliver(id) => {
                let Some(outcome) = self.table.get(&id).and_then(|r| r.outcome.clone()) else { return };
                self.send(id.origin.peer, Message::Deliver(Deliver { epoch, id, outcome, ext: Default::default() }));
            }
            // A merge can have brought the attempt back; its worker reports again.
            Effect::ReportAck(id, attempt, _) if self.table.get(&id).is_some_and(|r| r.live.iter().any(|l| l.attempt == attempt)) => {}
            Effect::ReportAck(id, attempt, to) => self.send(to, Message::ReportAck(ReportAck { id, attempt, ext: Default::default() })),
            Effect::CancelAck(id, to, req) => {
                let state = self.table.get(&id).map_or("", |r| crate::query::state_of(r).word()).to_string();
                let m = CancelAck { req, id: Some(id.short()), state, refusal: codec::Blob(Vec::new()), ext: Default::default() };
                self.send(to, Message::CancelAck(m));
            }
            // Its origin came back meanwhile and insisted (O1): it stands for itself now.
            Effect::Joined(_, id, _) if self.table.get(&id).is_some() => {}
            Effect::Joined(old, id, to) => {
                let seq = self.table.get(&old).map(|r| r.ver.seq);
                let copies = self.co.as_ref().zip(seq).map_or(0, |(c, seq)| c.copies(seq));
                self.refuse_submit(to, id, Refusal::Joined { id: old.short(), copies }, true);
            }
            Effect::Settled(id, to) => self.send(to, Message::Settled(Settled { epoch, ids: alloc::vec![id], ext: Default::default() })),
            Effect::Answer(to, req, bytes) => {
                let m = crate::message::AnswerMsg { req, answer: codec::Blob(bytes), ext: Default::default() };
                self.send(to, Message::Answer(m));
            }
            Effect::SettingsAck(to, req) => {
                self.send(to, Message::SettingsAck(crate::message::SettingsAck { req, ext: Default::default() }))
            }
        }
    }

    // ---- reports (S2, S3, S11) ----

    pub(crate) fn on_refuse(&mut self, from: Peer, r: Refuse) {
        if self.co.as_ref().is_none_or(|c| !c.serving()) {
            return;
        }
        let Some(rec) = self.table.get(&r.id) else { return };
        let Some(live) = rec.live.iter().find(|l| l.attempt == r.attempt && l.worker == from) else { return };
        let boot = if from == self.me { self.boot } else { self.co.as_ref().and_then(|c| c.followers.get(&from)).map_or(0, |f| f.boot) };
        // A later boot can't vouch for what an earlier one has begun: its log may have been damaged (D3).
        let unsure = rec.need.at_most_once && live.wboot != boot;
        self.rule(Rule::S10);
        self.end_attempt(&r.id, r.attempt, if unsure { End::Crashed } else { End::Returned }, None, &r.why);
    }

    pub(crate) fn on_report(&mut self, from: Peer, r: Report) {
        if self.co.as_ref().is_none_or(|c| !c.serving()) {
            // The worker says it again when it follows the next coordinator.
            return;
        }
        let Some(rec) = self.table.get(&r.id) else {
            if self.below_floor(&r.id) {
                self.send(from, Message::ReportAck(ReportAck { id: r.id, attempt: r.attempt, ext: Default::default() }));
            }
            return;
        };
        if let Some(h) = r.outcome.data.blob().filter(|h| !self.blobs.contains(h)) {
            // S3, W4: the output first, or the result would hang on the worker's disk alone.
            let list = self.parked.entry(h).or_default();
            if list.len() < 1_024 {
                list.push((from, Message::Report(r)));
            }
            return self.fetch(h, &[from]);
        }
        let live = rec.live.iter().any(|l| l.attempt == r.attempt);
        if !live && !rec.past.iter().any(|p| p.attempt == r.attempt) && rec.outcome.as_ref().is_none_or(|o| o.attempt != Some(r.attempt)) {
            // Issued by a coordinator whose record has not reached us.  It has ended whatever that record
            // says of it, so it is noted as ended before it is acknowledged (T3: the past wins).
            let mut rec = rec.clone();
            self.event(Event::Dropped("report_of_unknown_attempt"));
            let o = &r.outcome;
            let (why, wall) = (clip(&o.why, 120), self.wall);
            rec.push_past(Past {
                attempt: r.attempt,
                worker: from,
                end: o.end,
                exit: o.exit,
                why,
                started_at: wall.saturating_sub(o.ran_ms),
                ended_at: wall,
                ext: Default::default(),
            });
            self.write(rec);
        }
        let Some(rec) = self.table.get(&r.id) else { return };
        if rec.terminal() && !mutant::on(9) {
            if live {
                let mut rec = rec.clone();
                rec.end_live(r.attempt, r.outcome.end, r.outcome.exit, &r.outcome.why, self.wall);
                self.write(rec);
                self.unplace(&r.id, r.attempt);
            }
            self.rule(Rule::S3);
            return self.effect(&r.id, Effect::ReportAck(r.id, r.attempt, from));
        }
        let o = r.outcome;
        let agent = rec.live.iter().any(|l| l.attempt == r.attempt && l.agent);
        if let Some(c) = self.co.as_mut().filter(|_| !agent) {
            if o.end == End::Returned {
                c.sched.jammed.insert(from)
            } else {
                c.sched.jammed.remove(&from)
            };
        }
        if o.end == End::Done {
            let key = class_name(&rec.need);
            if let Some(c) = &mut self.co {
                // A long run raises the estimate at once, short ones lower it slowly.
                let old = c.sched.run_ms.get(&key).copied().unwrap_or(o.ran_ms);
                if c.sched.run_ms.len() < 1_000 || c.sched.run_ms.contains_key(&key) {
                    c.sched.run_ms.insert(key, o.ran_ms.max(old * 9 / 10));
                }
            }
        }
        self.settle_report(from, r.id, r.attempt, o);
        if mutant::on(23) {
            return self.emit(Effect::ReportAck(r.id, r.attempt, from));
        }
        self.effect(&r.id, Effect::ReportAck(r.id, r.attempt, from));
    }

    fn settle_report(&mut self, from: Peer, id: TaskId, attempt: Attempt, o: Outcome) {
        let Some(rec) = self.table.get(&id) else { return };
        let live = rec.live.iter().any(|l| l.attempt == attempt);
        let cancel = rec.cancel;
        // Of what must not run twice every attempt that began decides, whoever issued it (S6).
        let counts = live || rec.need.at_most_once;
        let timed_out = rec.need.total_timeout_ms > 0 && self.age_of(&id) >= rec.need.total_timeout_ms;
        match o.end {
            End::Done => self.decide(&id, End::Done, Some(attempt), Some(from), o.exit, &o.why, o.data, o.ran_ms),
            _ if !counts => {}
            End::Cancelled if !live => {}
            End::Cancelled | End::Returned if cancel => {
                self.decide(&id, End::Cancelled, Some(attempt), Some(from), o.exit, "cancelled while it ran", o.data, o.ran_ms);
            }
            End::Cancelled if timed_out => {
                self.decide(&id, End::Timeout, Some(attempt), Some(from), o.exit, "the total time limit passed", o.data, o.ran_ms);
            }
            End::Failed | End::Timeout => {
                // A second attempt of what must not run twice would be its second start.
                let last = rec.failures >= rec.need.retries || cancel || rec.need.at_most_once;
                if last {
                    let end = if cancel { End::Cancelled } else { o.end };
                    self.decide(&id, end, Some(attempt), Some(from), o.exit, &o.why, o.data, o.ran_ms);
                } else {
                    self.end_attempt(&id, attempt, o.end, o.exit, &o.why);
                }
            }
            End::Returned if rec.need.at_most_once => {
                let why = "the worker left while it ran: whether it had finished is unknown";
                self.decide(&id, End::Failed, Some(attempt), Some(from), o.exit, why, o.data, o.ran_ms);
            }
            End::Crashed if !live => {
                let why = "the worker crashed: whether the task finished is unknown";
                self.decide(&id, End::Failed, Some(attempt), Some(from), o.exit, why, o.data, o.ran_ms);
            }
            end => self.end_attempt(&id, attempt, end, o.exit, &o.why),
        }
    }

    /// Records the one outcome; ends all attempts; owes it to the origin.
    #[expect(clippy::too_many_arguments, reason = "they are the fields of an outcome")]
    fn decide(
        &mut self,
        id: &TaskId,
        end: End,
        attempt: Option<Attempt>,
        worker: Option<Peer>,
        exit: Option<i32>,
        why: &str,
        data: Data,
        ran_ms: u64,
    ) {
        let Some(rec) = self.table.get(id).filter(|r| !r.terminal() || mutant::on(9)) else { return };
        let mut rec = rec.clone();
        let wall = self.wall;
        let others: Vec<Live> = rec.live.iter().filter(|l| Some(l.attempt) != attempt).cloned().collect();
        if let Some(a) = attempt {
            rec.end_live(a, end, exit, why, wall);
            if let Some(p) = rec.past.iter_mut().find(|p| p.attempt == a && p.end != end) {
                // A late success of an attempt that was given up.
                (p.end, p.exit, p.why) = (end, exit, clip(why, 120));
            }
            self.event(Event::AttemptEnded(*id, a, end));
        }
        rec.outcome =
            Some(Outcome { end, attempt, worker, exit, why: clip(why, 200), data, ended_at: wall, ran_ms, ext: Default::default() });
        self.write(rec);
        for l in others {
            self.effect(id, Effect::Kill(*id, l.attempt, l.worker));
        }
        let now = self.now;
        let Some(c) = &mut self.co else { return };
        let took = c.sched.seen_at.remove(id).map_or(0, |t| now - t);
        c.sched.queue.remove(id, now);
        c.sched.held.remove(id);
        if let Some(at) = c.sched.rest_of.remove(id) {
            c.sched.resting.remove(&(at, *id));
        }
        if let Some(a) = attempt {
            self.unplace(id, a);
        }
        self.event(Event::Decided(*id, end, took));
        if end == End::Retired {
            return;
        }
        if let Some(c) = &mut self.co {
            c.sched.undelivered.entry(id.origin.peer).or_default().insert(*id);
        }
        self.effect(id, Effect::Deliver(*id));
    }

    fn unplace(&mut self, id: &TaskId, attempt: Attempt) {
        if let Some(c) = &mut self.co {
            for sets in [&mut c.sched.placed, &mut c.sched.agents] {
                sets.retain(|_, s| {
                    s.remove(&(*id, attempt));
                    !s.is_empty()
                });
            }
            c.sched.dirty = true;
            c.sched.stuck.clear();
        }
    }

    /// Ends an attempt without an outcome; the task goes back to the queue, or is given up.
    pub(crate) fn end_attempt(&mut self, id: &TaskId, attempt: Attempt, end: End, exit: Option<i32>, why: &str) {
        let Some(rec) = self.table.get(id) else { return };
        let mut rec = rec.clone();
        if rec.terminal() {
            // It was to be stopped, and who ran it won't say that it has.
            if rec.end_live(attempt, end, exit, why, self.wall) {
                self.write(rec);
                self.unplace(id, attempt);
            }
            return;
        }
        let worker = rec.live.iter().find(|l| l.attempt == attempt).map(|l| l.worker);
        let returns = rec.past.iter().rev().take_while(|p| p.end == End::Returned).count() as u32;
        if !rec.end_live(attempt, end, exit, why, self.wall) {
            return;
        }
        self.event(Event::AttemptEnded(*id, attempt, end));
        self.unplace(id, attempt);
        let mut give_up: Option<(End, String)> = None;
        let mut delay = 0;
        let back_off = |first: u64, n: u32| first.saturating_mul(1 << n.saturating_sub(1).min(20)).min(BACKOFF_MAX_MS);
        match end {
            End::Failed | End::Timeout => {
                rec.failures += 1;
                self.rule(Rule::S11);
                delay = back_off(rec.need.backoff_ms, rec.failures);
            }
            End::Lost => {
                rec.losses += 1;
                self.rule(Rule::S4);
                delay = back_off(2_000, rec.losses).min(BACKOFF_MAX_MS) / 2;
                if rec.losses >= LOSSES_MAX {
                    give_up = Some((End::Failed, format!("lost {} times: its workers became unreachable", rec.losses)));
                } else if rec.need.at_most_once || rec.need.on_lost == OnLost::Fail {
                    give_up = Some((End::Failed, "the worker was lost: whether the task ran is unknown".into()));
                }
            }
            End::Crashed => {
                rec.crashes += 1;
                self.rule(Rule::S5);
                if rec.crashes >= CRASHES_MAX {
                    give_up = Some((End::Failed, format!("poisoned: {} workers crashed while they ran it", rec.crashes)));
                } else if rec.need.at_most_once {
                    give_up = Some((End::Failed, "the worker crashed: whether the task finished is unknown".into()));
                }
            }
            // Nodes would be asked as fast as they can say no, for instance to a task whose input is lost.
            End::Returned if returns > 0 => delay = back_off(500, returns),
            _ => {}
        }
        if rec.cancel && give_up.is_none() && rec.live.is_empty() {
            give_up = Some((End::Cancelled, "cancelled while it ran".into()));
        }
        let (need, queued, waited) = (rec.need.clone(), rec.queued, rec.waited_ms);
        let idle = rec.live.is_empty();
        self.write(rec);
        if let Some((end, why)) = give_up {
            return self.decide(id, end, None, worker, exit, &why, Data::EMPTY, 0);
        }
        if !idle {
            return;
        }
        if delay == 0 {
            return self.enqueue(id, &need, queued, waited);
        }
        let at = self.now + delay;
        if let Some(c) = &mut self.co {
            c.sched.resting.insert((at, *id));
            c.sched.rest_of.insert(*id, at);
        }
        self.wake_at(at);
    }

    pub(crate) fn end_attempts_of(&mut self, worker: Peer, boots: impl Fn(u64) -> bool, end: End, why: &str) {
        let Some(c) = self.co.as_ref().filter(|c| c.serving()) else { return };
        let list: Vec<_> = c.sched.placed.get(&worker).into_iter().flatten().copied().collect();
        for (id, attempt) in list {
            let Some(rec) = self.table.get(&id) else { continue };
            let boot = rec.live.iter().find(|l| l.attempt == attempt).map(|l| l.wboot);
            // Who left may have begun it.
            let end = if end == End::Returned && rec.need.at_most_once { End::Lost } else { end };
            if boot.is_some_and(&boots) {
                self.end_attempt(&id, attempt, end, None, why);
            }
        }
    }

    fn age_of(&self, id: &TaskId) -> u64 {
        let seen = self.co.as_ref().and_then(|c| c.sched.seen_at.get(id)).copied();
        seen.map_or(0, |t| self.now.saturating_sub(t))
    }

    // ---- time ----

    pub(crate) fn tick_schedule(&mut self) {
        if self.tilted() || self.giving() || self.co.as_ref().is_none_or(|c| !c.serving()) {
            return;
        }
        let now = self.now;
        // Back-off over.
        while let Some((at, id)) = self.co.as_ref().and_then(|c| c.sched.resting.first().copied()) {
            if at > now {
                self.wake_at(at);
                break;
            }
            if let Some(c) = &mut self.co {
                c.sched.resting.pop_first();
                c.sched.rest_of.remove(&id);
            }
            if let Some(r) = self.table.get(&id).filter(|r| !r.terminal() && r.live.is_empty()) {
                let (need, queued, waited) = (r.need.clone(), r.queued, r.waited_ms);
                self.enqueue(&id, &need, queued, waited);
            }
        }
        // Time limits of the queue and of the whole.
        while let Some((at, id)) = self.co.as_ref().and_then(|c| c.sched.limits.first().copied()) {
            if at > now {
                self.wake_at(at);
                break;
            }
            if let Some(c) = &mut self.co {
                c.sched.limits.pop_first();
            }
            self.limit_passed(&id);
        }
        self.find_lost();
    }

    fn limit_passed(&mut self, id: &TaskId) {
        let Some(rec) = self.table.get(id).filter(|r| !r.terminal()) else { return };
        let queued = self.co.as_ref().is_some_and(|c| c.sched.queue.contains(id) || c.sched.held.contains_key(id));
        if rec.live.is_empty() && (queued || self.co.as_ref().is_some_and(|c| c.sched.rest_of.contains_key(id))) {
            let limit = rec.need.queue_timeout_ms;
            let why = if limit > 0 {
                format!("it waited in the queue longer than {} s", limit.div_ceil(1_000))
            } else {
                "the total time limit passed".into()
            };
            return self.decide(id, End::Timeout, None, None, None, &why, Data::EMPTY, 0);
        }
        if rec.need.total_timeout_ms > 0 && self.age_of(id) >= rec.need.total_timeout_ms {
            for l in rec.live.clone() {
                self.effect(id, Effect::Kill(*id, l.attempt, l.worker));
            }
        } else if rec.need.total_timeout_ms > 0 {
            let at = self.now + rec.need.total_timeout_ms - self.age_of(id);
            if let Some(c) = &mut self.co {
                c.sched.limits.insert((at, *id));
            }
        }
    }

    /// S4: workers not heard of for `lost_after` of our awake time.
    fn find_lost(&mut self) {
        let after = self.cfg.lost_after_ms;
        let Some(c) = &self.co else { return };
        let mut lost = Vec::new();
        let mut next = u64::MAX;
        for p in c.sched.placed.keys().filter(|p| **p != self.me) {
            let (contact, heard) = self.view.get(p).map_or((false, c.since), |m| (m.usable(), m.heard_at.max(c.since)));
            if contact {
                continue;
            }
            if self.now >= heard + after {
                lost.push(*p);
            } else {
                next = next.min(heard + after);
            }
        }
        if next != u64::MAX {
            self.wake_at(next);
        }
        for p in lost {
            let why = format!("{} was not heard of for {} s", self.name_of(&p), after / 1_000);
            self.end_attempts_of(p, |_| true, End::Lost, &why);
        }
    }

    // ---- cancel ----

    pub(crate) fn on_cancel(&mut self, from: Peer, m: Cancel) {
        if self.co.as_ref().is_none_or(|c| !c.serving()) {
            return self.not_coordinator(from, m.req, None);
        }
        let id = match self.resolve(&m.id) {
            Ok(id) => id,
            Err(r) => {
                let refusal = codec::Blob(crate::query::to_cbor(&r));
                let ack = CancelAck { req: m.req, id: None, state: String::new(), refusal, ext: Default::default() };
                return self.send(from, Message::CancelAck(ack));
            }
        };
        let Some(rec) = self.table.get(&id) else { return };
        if !rec.terminal() && !rec.cancel {
            let mut rec = rec.clone();
            rec.cancel = true;
            let live = rec.live.clone();
            if live.is_empty() {
                self.write(rec);
                self.decide(&id, End::Cancelled, None, None, None, "cancelled before it ran", Data::EMPTY, 0);
            } else {
                self.write(rec);
                for l in live {
                    self.effect(&id, Effect::Kill(id, l.attempt, l.worker));
                }
            }
        }
        self.effect(&id, Effect::CancelAck(id, from, m.req));
    }

    // ---- delivery (O2, O3) ----

    /// Says again what an origin is owed.
    pub(crate) fn deliver_to(&mut self, origin: Peer) {
        let list: Vec<TaskId> = self.co.as_ref().and_then(|c| c.sched.undelivered.get(&origin)).into_iter().flatten().copied().collect();
        for id in list {
            if self.below_floor(&id) {
                // Its origin is done with it.
                if let Some(u) = self.co.as_mut().and_then(|c| c.sched.undelivered.get_mut(&origin)) {
                    u.remove(&id);
                }
                continue;
            }
            self.effect(&id, Effect::Deliver(id));
        }
    }

    pub(crate) fn on_delivered(&mut self, from: Peer, d: Delivered) {
        if self.co.as_ref().is_none_or(|c| !c.serving()) || d.id.origin.peer != from {
            return;
        }
        let Some(rec) = self.table.get(&d.id) else {
            let Some(c) = self.co.as_ref() else { return };
            let (epoch, queued) = (c.epoch, Queued { epoch: c.epoch, seq: c.seq + 1 });
            if self.below_floor(&d.id) {
                // Nothing is left of it, and its origin is done with it: it may forget.
                return self.send(from, Message::Settled(Settled { epoch, ids: alloc::vec![d.id], ext: Default::default() }));
            }
            // Not here does not mean nowhere: who holds the task beyond a cut may run it to another end.
            // So its origin's word has to be kept before it may forget it.
            self.write(Rec::tombstone(d.id, queued, d.outcome, self.wall));
            return self.effect(&d.id, Effect::Settled(d.id, from));
        };
        if !rec.delivered {
            let mut rec = rec.clone();
            rec.delivered = true;
            let known = rec.outcome.as_ref().is_some_and(|o| *o == d.outcome);
            let live = if known { Vec::new() } else { rec.live.clone() };
            if !known {
                // T3: what the origin has accepted is the outcome.
                rec.outcome = Some(d.outcome);
            }
            self.write(rec);
            for l in live {
                self.effect(&d.id, Effect::Kill(d.id, l.attempt, l.worker));
            }
            self.sched_refresh(&d.id);
        }
        self.effect(&d.id, Effect::Settled(d.id, from));
    }

    pub(crate) fn on_offer(&mut self, from: Peer, ids: Vec<TaskId>) {
        if self.co.as_ref().is_none_or(|c| !c.serving()) || ids.len() > crate::message::ITEMS_MAX {
            return;
        }
        let (known, want): (Vec<TaskId>, Vec<TaskId>) =
            ids.into_iter().filter(|id| id.origin.peer == from).partition(|id| self.table.get(id).is_some());
        if !want.is_empty() {
            self.send(from, Message::Want(crate::message::Want { ids: want, ext: Default::default() }));
        }
        for id in known {
            self.ack_submit(&id);
            if self.table.get(&id).is_some_and(|r| r.terminal() && !r.delivered) {
                self.effect(&id, Effect::Deliver(id));
            }
        }
    }

    // ---- settings ----

    pub(crate) fn on_set_strategy(&mut self, from: Peer, m: SetStrategy) {
        let new = self.new_settings().filter(|_| self.co.as_ref().is_some_and(|c| c.serving()));
        let Some(s) = new else {
            return self.not_coordinator(from, m.req, None);
        };
        self.settings = Some(Settings { strategy: m.strategy, ..s });
        self.settings_effect(Effect::SettingsAck(from, m.req));
        self.capacity_changed();
    }

    /// G4: a node that is gone for good.  Its ids are dead everywhere, its open tasks end as retired.
    pub(crate) fn on_forget_node(&mut self, from: Peer, m: ForgetNode) {
        if self.co.as_ref().is_none_or(|c| !c.serving()) {
            return self.not_coordinator(from, m.req, None);
        }
        let known = self.view.get(&m.peer);
        let mut origins: BTreeSet<Origin> = self.table.iter().map(|r| r.id.origin).chain(self.floors.keys().copied()).collect();
        origins.extend(known.and_then(|k| k.advert.as_ref()).map(|a| Origin { peer: m.peer, store: a.store }));
        origins.retain(|o| o.peer == m.peer);
        let why = if m.peer == self.me || known.is_some_and(|k| k.linked) {
            Some(format!("{} is reachable: stop it first ('clawmesh down' there)", self.name_of(&m.peer)))
        } else if known.is_none() && origins.is_empty() {
            Some(format!("no node {} is known: 'clawmesh nodes' lists them", m.peer))
        } else {
            None
        };
        if let Some(message) = why {
            let refusal = codec::Blob(crate::query::to_cbor(&Refusal::Invalid { message }));
            return self.send(from, Message::SettingsRefused(SettingsRefused { req: m.req, refusal, ext: Default::default() }));
        }
        self.rule(Rule::G4);
        self.end_attempts_of(m.peer, |_| true, End::Lost, "the node was forgotten");
        self.view.remove(&m.peer);
        self.delete(Key::member(m.peer));
        for origin in origins {
            self.raise_floor(Floor { origin, inc: u64::MAX, seq: u64::MAX });
        }
        let ids: Vec<TaskId> = self.table.iter().filter(|r| r.id.origin.peer == m.peer).map(|r| r.id).collect();
        for id in ids {
            self.sched_refresh(&id);
        }
        // Acknowledged when the floors are on enough disks: they ride on this write.
        self.settings_effect(Effect::SettingsAck(from, m.req));
    }

    /// Waiting by priority, then running, parked, ended: for heartbeats.
    pub(crate) fn queue_numbers(&self) -> Vec<u64> {
        let Some(c) = &self.co else { return Vec::new() };
        let mut n: Vec<u64> = c.sched.queue.counts().to_vec();
        n.push(c.sched.placed.values().map(|s| s.len() as u64).sum());
        n.push(c.sched.parked);
        n.push(self.table.ended_len() as u64);
        n.push(c.sched.held.len() as u64);
        n
    }
}
