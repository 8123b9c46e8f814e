//! The submitting node: ids, the outbox, and the one place that accepts a result (O1-O3, G1).

use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    vec::Vec,
};

use crate::{
    agents::older,
    codec::{self, Malformed},
    face::{Refusal, Reply, SUBMIT_MAX, State, Submitted, TaskEnd},
    ids::{Hash, Origin, Peer, TaskId},
    io::Event,
    mesh::Mesh,
    message::{Busy, Deliver, Delivered, Floor, ITEMS_MAX, Message, Offer, Settled, Submit, SubmitAck, SubmitRefused},
    mutant,
    record::{End, Outcome},
    rule::Rule,
    schedule::Key,
    spec::{Data, Kind, Need, Spec},
    wire_struct,
};

/// Results kept in memory for late waiters.
const RECENT_MAX: usize = 20_000;

wire_struct! {
    /// A task in the outbox: either still wanted (need and payload), or accepted (outcome).
    pub struct OutRec {
        /// The task.
        1 => id: TaskId,
        /// Until the result is accepted.
        2 => need: Option<Need>,
        /// See `need`.
        3 => payload: Data,
        /// Wall clock ms of the submit.
        4 => submitted_at: u64,
        /// The accepted result.
        5 => outcome: Option<Outcome>,
    }
}

#[derive(Debug)]
struct Out {
    rec: OutRec,
    /// Acknowledged by a coordinator, ever.
    acked: bool,
    /// Sent in this epoch and not answered.
    sent: bool,
    /// When it was sent last, it may have been acknowledged before.
    again: bool,
    copies: u32,
    /// Awake ms of the submit, when it was in this boot.
    since: Option<u64>,
}

#[derive(Debug)]
struct Batch {
    left: usize,
    results: Vec<Option<Result<Submitted, Refusal>>>,
}

/// What this node has submitted.  Bounded by the mesh's cap of open tasks.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    origin: Option<Origin>,
    inc: u64,
    seq: u64,
    tasks: BTreeMap<TaskId, Out>,
    /// Not yet sent in this epoch, in order.
    unsent: BTreeSet<TaskId>,
    in_flight: usize,
    open: usize,
    /// Not before this awake time (S9).
    pause_until: u64,
    batches: BTreeMap<u64, Batch>,
    batch_of: BTreeMap<TaskId, (u64, usize)>,
    waits: BTreeMap<TaskId, Vec<u64>>,
    recent: BTreeMap<TaskId, Outcome>,
    recent_order: VecDeque<TaskId>,
}

impl Outbox {
    pub(crate) fn start(&mut self, origin: Origin, inc: u64) {
        (self.origin, self.inc) = (Some(origin), inc);
    }
    pub(crate) fn load(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let rec: OutRec = codec::decode(bytes)?;
        let id = rec.id;
        if rec.outcome.is_none() {
            self.open += 1;
        }
        self.tasks.insert(id, Out { rec, acked: false, sent: false, again: false, copies: 0, since: None });
        Ok(())
    }
    /// Something is on its way to the coordinator, or waits for its turn (see `rest`).
    pub(crate) fn busy(&self, now: u64) -> bool {
        !self.unsent.is_empty() || self.in_flight > 0 || now < self.pause_until
    }
    /// Tasks without a result.
    pub(crate) fn open(&self) -> usize {
        self.open
    }
    pub(crate) fn names(&self, hash: Hash) -> bool {
        self.tasks.values().any(|t| t.rec.payload.blob() == Some(hash) || t.rec.outcome.as_ref().and_then(|o| o.data.blob()) == Some(hash))
    }
    fn next_id(&mut self) -> Option<TaskId> {
        self.seq += 1;
        Some(TaskId { origin: self.origin?, inc: self.inc, seq: self.seq })
    }
    fn recall(&mut self, id: TaskId, o: Outcome) {
        if self.recent.insert(id, o).is_none() {
            self.recent_order.push_back(id);
        }
        while self.recent_order.len() > RECENT_MAX {
            if let Some(old) = self.recent_order.pop_front() {
                self.recent.remove(&old);
            }
        }
    }
    /// The largest id below which nothing is owed to anybody (G1).
    fn floor(&self) -> Option<(u64, u64)> {
        let origin = self.origin?;
        let first = self.tasks.keys().find(|id| id.origin == origin);
        Some(match first {
            Some(id) => (id.inc, id.seq.saturating_sub(1)),
            None => (self.inc, self.seq),
        })
    }
    /// Drops the pending request `req` of any kind.
    pub(crate) fn forget_request(&mut self, req: u64) {
        self.batches.remove(&req);
        self.batch_of.retain(|_, (r, _)| *r != req);
        self.waits.retain(|_, w| {
            w.retain(|r| *r != req);
            !w.is_empty()
        });
    }
}

fn end_state(end: End) -> State {
    match end {
        End::Done => State::Completed,
        End::Cancelled | End::Retired => State::Cancelled,
        End::Timeout => State::Timeout,
        _ => State::Failed,
    }
}

fn task_end(id: &TaskId, o: &Outcome) -> TaskEnd {
    TaskEnd { id: id.short(), state: end_state(o.end), exit_code: o.exit, reason: o.why.clone(), data: (&o.data).into(), worker: o.worker }
}

impl Mesh {
    // ---- a local submit (O1) ----

    pub(crate) fn submit(&mut self, req: u64, specs: Vec<Spec>) {
        if specs.len() > SUBMIT_MAX || specs.is_empty() {
            let message = alloc::format!("{} tasks in one request: send 1 to {SUBMIT_MAX} at once", specs.len());
            return self.reply(req, Reply::Refused(Refusal::Invalid { message }));
        }
        if self.too_old() {
            let message = self.too_old_text();
            return self.reply(req, Reply::Refused(Refusal::Invalid { message }));
        }
        if let Some(refusal) = specs.iter().find_map(|s| self.too_new(&s.need)) {
            return self.reply(req, Reply::Refused(refusal));
        }
        if self.store_bad || self.full {
            let message = "the disk of this node is full or failing: free some space, or submit through another node".into();
            return self.reply(req, Reply::Refused(Refusal::Full { message }));
        }
        if self.outbox.tasks.len() + specs.len() > self.cfg.tune.tasks_max {
            let message = "too many tasks of this node have no result yet: wait for some to end".into();
            return self.reply(req, Reply::Refused(Refusal::Full { message }));
        }
        let n = specs.len();
        for (i, spec) in specs.into_iter().enumerate() {
            let Some(id) = self.outbox.next_id() else { return };
            let rec = OutRec {
                id,
                need: Some(spec.need),
                payload: spec.payload,
                submitted_at: self.wall,
                outcome: None,
                ext: Default::default(),
            };
            self.put(Key::outbox(&id), codec::encode(&rec));
            self.outbox.batch_of.insert(id, (req, i));
            self.outbox.tasks.insert(id, Out { rec, acked: false, sent: false, again: false, copies: 0, since: Some(self.now) });
            self.outbox.unsent.insert(id);
            self.outbox.open += 1;
        }
        self.outbox.batches.insert(req, Batch { left: n, results: alloc::vec![None; n] });
        self.pump_submits();
    }

    /// Sends what the window allows, once the outbox is durable.
    fn pump_submits(&mut self) {
        if self.now < self.outbox.pause_until {
            let t = self.outbox.pause_until;
            return self.wake_at(t);
        }
        let Some(to) = self.serving_leader() else { return };
        let prompts = self.takes_prompts(&to);
        let (mut later, mut back) = (Vec::new(), Vec::new());
        while self.outbox.in_flight < self.cfg.tune.submit_window {
            let Some(id) = self.outbox.unsent.pop_first() else { break };
            let Some(t) = self.outbox.tasks.get_mut(&id) else { continue };
            let Some(need) = t.rec.need.clone() else { continue };
            if need.kind == Kind::Prompt && prompts != Some(true) {
                // V3: the coordinator has changed since it was taken, and an older one could not even read it.  What may have been
                // acknowledged waits for one that can.
                let first = t.since.is_some() && !t.acked;
                if first && prompts == Some(false) {
                    back.push(id)
                } else {
                    later.push(id)
                }
                continue;
            }
            t.sent = true;
            t.again = t.acked || t.since.is_none();
            self.outbox.in_flight += 1;
            // What an earlier boot submitted may have been acknowledged there; nobody writes that down.
            let again = t.again;
            let m = Submit { id, need, payload: t.rec.payload.clone(), submitted_at: t.rec.submitted_at, again, ext: Default::default() };
            self.send_durable(to, Message::Submit(m));
        }
        if !self.outbox.unsent.is_empty() {
            self.rule(Rule::S9);
        }
        self.outbox.unsent.extend(later);
        if back.is_empty() {
            return;
        }
        self.rule(Rule::V3);
        for id in back {
            self.give_back(&id, older("the coordinator"));
        }
        self.raise_own_floor();
    }

    /// The leader, when messages reach it.
    pub(crate) fn serving_leader(&self) -> Option<Peer> {
        match &self.co {
            Some(c) => c.serving().then_some(self.me),
            None => self.leader.as_ref().map(|l| l.peer).filter(|p| self.view.get(p).is_some_and(|m| m.linked)),
        }
    }

    /// A new epoch, or a new link to the leader: what was under way may be lost (O1).
    pub(crate) fn reoffer(&mut self) {
        self.outbox.in_flight = 0;
        let Some(to) = self.serving_leader() else { return };
        let mut offers = Vec::new();
        let mut accepted = Vec::new();
        for (id, t) in &mut self.outbox.tasks {
            t.sent = false;
            if let Some(o) = &t.rec.outcome {
                accepted.push((*id, o.clone()));
            } else if t.acked {
                offers.push(*id);
            } else {
                self.outbox.unsent.insert(*id);
            }
        }
        // O3: the accepted ones first, so that they win.
        for (id, outcome) in accepted {
            self.rule(Rule::O3);
            self.send_durable(to, Message::Delivered(Delivered { id, outcome, ext: Default::default() }));
        }
        for ids in offers.chunks(ITEMS_MAX) {
            self.send_durable(to, Message::Offer(Offer { ids: ids.to_vec(), ext: Default::default() }));
        }
        self.pump_submits();
    }

    pub(crate) fn on_want(&mut self, from: Peer, ids: Vec<TaskId>) {
        if self.serving_leader() != Some(from) {
            return;
        }
        for id in ids {
            if self.outbox.tasks.get(&id).is_some_and(|t| t.rec.outcome.is_none() && !t.sent) {
                self.outbox.unsent.insert(id);
            }
        }
        self.pump_submits();
    }

    fn answered(&mut self, id: &TaskId) {
        if let Some(t) = self.outbox.tasks.get_mut(id).filter(|t| t.sent) {
            t.sent = false;
            self.outbox.in_flight = self.outbox.in_flight.saturating_sub(1);
        }
    }

    pub(crate) fn on_submit_ack(&mut self, _from: Peer, a: SubmitAck) {
        self.answered(&a.id);
        if let Some(t) = self.outbox.tasks.get_mut(&a.id) {
            t.acked = true;
            t.copies = t.copies.max(a.copies);
        }
        let ok = Submitted { id: a.id.short(), task: Some(a.id), copies: a.copies };
        self.submit_result(&a.id, Ok(ok));
        self.pump_submits();
    }

    pub(crate) fn on_submit_refused(&mut self, from: Peer, r: SubmitRefused) {
        if r.first && self.outbox.tasks.get(&r.id).is_some_and(|t| t.again) {
            // An answer to what an earlier boot said, or to what was said before another coordinator acknowledged it (seed 3175): it
            // is offered, and the answer to that is on its way.
            return self.rule(Rule::O1);
        }
        self.answered(&r.id);
        if self.serving_leader() != Some(from) {
            return;
        }
        if let Some(t) = self.outbox.tasks.get(&r.id).filter(|t| t.acked && !t.again) {
            // Another coordinator has acknowledged it meanwhile: it is offered as such.
            if t.rec.outcome.is_none() {
                self.outbox.unsent.insert(r.id);
            }
            return self.pump_submits();
        }
        let refusal =
            crate::query::from_cbor(&r.refusal.0).unwrap_or(Refusal::Invalid { message: "the coordinator refused the task".into() });
        self.give_back(&r.id, refusal);
        self.raise_own_floor();
        self.pump_submits();
    }

    /// A submit is not taken: whoever waits is told why, and the task is forgotten.
    fn give_back(&mut self, id: &TaskId, refusal: Refusal) {
        let message = match &refusal {
            Refusal::UnknownSkill { name, .. } => alloc::format!("no node of the mesh ever had the skill '{name}'"),
            Refusal::Invalid { message } | Refusal::Full { message } | Refusal::NoCoordinator { message } => message.clone(),
            _ => "refused".into(),
        };
        let waiting = self.outbox.batch_of.contains_key(id);
        let result = match refusal {
            Refusal::Joined { id, copies } => Ok(Submitted { id, task: None, copies }),
            refusal => Err(refusal),
        };
        self.submit_result(id, result);
        if let Some(t) = self.outbox.tasks.remove(id) {
            if t.rec.outcome.is_none() {
                self.outbox.open -= 1;
            }
            self.delete(Key::outbox(id));
            if !waiting || t.acked {
                // Nobody is there to hear it now: keep it for late waiters.
                let o = Outcome {
                    end: End::Failed,
                    attempt: None,
                    worker: None,
                    exit: None,
                    why: crate::record::clip(&message, 200),
                    data: Data::EMPTY,
                    ended_at: self.wall,
                    ran_ms: 0,
                    ext: Default::default(),
                };
                self.complete_waits(id, &o);
                self.outbox.recall(*id, o);
            }
        }
    }

    pub(crate) fn on_busy(&mut self, _from: Peer, b: Busy) {
        let Some(id) = b.id else { return };
        self.answered(&id);
        let full = b.full && self.outbox.tasks.get(&id).is_some_and(|t| !t.acked);
        if full && self.outbox.batch_of.contains_key(&id) {
            // The submitter is still there: tell it, and forget the task.
            let message = "the mesh holds as many tasks as it can, or the coordinator's disk is full: try again later".into();
            self.submit_result(&id, Err(Refusal::Full { message }));
            if self.outbox.tasks.remove(&id).is_some() {
                self.outbox.open -= 1;
                self.delete(Key::outbox(&id));
                self.raise_own_floor();
            }
            return;
        }
        self.rule(Rule::S9);
        self.outbox.unsent.insert(id);
        let wait = b.retry_after_ms.clamp(50, 10_000);
        self.outbox.pause_until = self.now + wait + self.below(wait / 4 + 1);
        let t = self.outbox.pause_until;
        self.wake_at(t);
    }

    fn submit_result(&mut self, id: &TaskId, r: Result<Submitted, Refusal>) {
        let Some((req, i)) = self.outbox.batch_of.remove(id) else { return };
        let Some(b) = self.outbox.batches.get_mut(&req) else { return };
        if let Some(slot) = b.results.get_mut(i)
            && slot.is_none()
        {
            *slot = Some(r);
            b.left -= 1;
        }
        if b.left == 0
            && let Some(b) = self.outbox.batches.remove(&req)
        {
            self.reply(req, Reply::Submitted(b.results.into_iter().flatten().collect()));
        }
    }

    // ---- results (O2) ----

    pub(crate) fn on_deliver(&mut self, from: Peer, d: Deliver) {
        // O2: only the coordinator of the epoch we promised to.
        if (d.epoch != self.side.promised || d.epoch.peer != from) && !mutant::on(18) {
            self.rule(Rule::O2);
            return self.event(Event::Dropped("stale_deliver"));
        }
        let id = d.id;
        if id.origin.peer != self.me {
            return self.event(Event::Dropped("deliver_for_another"));
        }
        let Some(t) = self.outbox.tasks.get_mut(&id) else {
            if let Some(outcome) = self.outbox.recent.get(&id).cloned() {
                // We were done with it before; the coordinator only lacks our word.
                self.send(from, Message::Delivered(Delivered { id, outcome, ext: Default::default() }));
            } else if self.below_floor(&id) {
                // So it is here, but what we accepted is forgotten, and it need not be this: our floor
                // says all that is true (O2).
                let advert = self.advert();
                self.send(from, Message::Advert(advert));
            } else {
                self.event(Event::Dropped("deliver_of_unknown"));
            }
            return;
        };
        if let Some(mine) = t.rec.outcome.clone().filter(|_| !mutant::on(19)) {
            self.rule(Rule::O2);
            if mine != d.outcome {
                self.event(Event::SecondOutcome(id));
            }
            return self.send_durable(from, Message::Delivered(Delivered { id, outcome: mine, ext: Default::default() }));
        }
        let outcome = d.outcome;
        t.rec.outcome = Some(outcome.clone());
        t.rec.need = None;
        t.rec.payload = Data::EMPTY;
        t.acked = true;
        let bytes = codec::encode(&t.rec);
        let took = t.since.map(|s| self.now - s);
        let copies = t.copies;
        self.outbox.open = self.outbox.open.saturating_sub(1);
        self.outbox.unsent.remove(&id);
        self.answered(&id);
        self.put(Key::outbox(&id), bytes);
        self.event(Event::Accepted(id, outcome.end, took));
        self.outbox.recall(id, outcome.clone());
        // A result can overtake the acknowledgement of a re-sent submit.  It is stable on the coordinator's disk at least,
        // and the task is in our outbox: two disks unless we coordinate.
        let here = match (&self.co, self.table.get(&id)) {
            (Some(c), Some(r)) if r.ver.epoch == c.epoch => c.copies(r.ver.seq).max(1),
            _ => 1,
        };
        let copies = copies.max(if from == self.me { here } else { 2 });
        self.submit_result(&id, Ok(Submitted { id: id.short(), task: Some(id), copies }));
        self.complete_waits(&id, &outcome);
        self.send_durable(from, Message::Delivered(Delivered { id, outcome, ext: Default::default() }));
    }

    fn complete_waits(&mut self, id: &TaskId, o: &Outcome) {
        for req in self.outbox.waits.remove(id).unwrap_or_default() {
            self.reply_durable(req, Reply::Ended(task_end(id, o)));
        }
    }

    pub(crate) fn on_settled(&mut self, from: Peer, s: Settled) {
        if s.epoch != self.side.promised || s.epoch.peer != from {
            return self.event(Event::Dropped("stale_settled"));
        }
        for id in s.ids {
            if self.outbox.tasks.get(&id).is_some_and(|t| t.rec.outcome.is_some()) {
                self.outbox.tasks.remove(&id);
                self.delete(Key::outbox(&id));
            }
        }
        self.raise_own_floor();
    }

    /// G1: persisted here first; others hear of it by advert and `Follow`.
    fn raise_own_floor(&mut self) {
        let (Some(origin), Some((inc, seq))) = (self.outbox.origin, self.outbox.floor()) else { return };
        // Not for every task: a floor that moves in steps costs a write in a hundred.
        let (old_inc, old_seq) = self.own_floor().unwrap_or((0, 0));
        let idle = self.outbox.tasks.is_empty();
        if inc > old_inc || seq >= old_seq + 64 || (idle && seq > old_seq && self.outbox.in_flight == 0) {
            self.raise_floor(Floor { origin, inc, seq });
        }
    }

    pub(crate) fn await_task(&mut self, req: u64, id: TaskId) {
        let known = self.outbox.recent.get(&id).or_else(|| self.outbox.tasks.get(&id).and_then(|t| t.rec.outcome.as_ref()));
        if let Some(o) = known {
            let end = task_end(&id, o);
            return self.reply_durable(req, Reply::Ended(end));
        }
        if self.outbox.tasks.contains_key(&id) {
            self.outbox.waits.entry(id).or_default().push(req);
        } else {
            self.reply(req, Reply::Refused(Refusal::NotFound { id: alloc::format!("{id}") }));
        }
    }

    pub(crate) fn link_up_origin(&mut self, p: Peer) {
        if self.serving_leader() == Some(p) {
            self.reoffer();
        }
        if self.co.as_ref().is_some_and(|c| c.serving()) {
            self.deliver_to(p);
        }
    }

    pub(crate) fn tick_origin(&mut self) {
        self.pump_submits();
    }

    /// A submit reached somebody who does not coordinate: say it again when we know who does.
    pub(crate) fn submit_bounced(&mut self, id: TaskId) {
        self.answered(&id);
        if self.outbox.tasks.get(&id).is_some_and(|t| t.rec.outcome.is_none()) {
            self.outbox.unsent.insert(id);
            self.outbox.pause_until = self.outbox.pause_until.max(self.now + 100);
            self.wake_at(self.now + 100);
        }
    }
}
