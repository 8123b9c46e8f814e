//! The worker: slots, its own short queue, and the run log that makes sure an attempt starts at most
//! once (S2, S3, S5).

use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    format,
    string::{String, ToString},
    vec::Vec,
};

use crate::{
    agents::{Lane, Lanes},
    codec::{self, Malformed},
    ids::{Attempt, Hash, Peer, TaskId},
    io::{Event, Exit, Job, Output},
    mesh::Mesh,
    message::{Assign, ITEMS_MAX, Inventory, Kill, Message, Refuse, Report, ReportAck},
    mutant,
    record::{End, Outcome, clip},
    rule::Rule,
    schedule::Key,
    spec::{Data, Need},
    wire_struct,
};

/// Attempts whose end is settled, remembered against late duplicates.
const SETTLED_MAX: usize = 20_000;
/// Attempts known at once; more are refused.
const RUNS_MAX: usize = 20_000;
/// Ended attempts of at-most-once tasks kept until their origin is done with them; beyond it no such task is begun.
const KEPT_MAX: usize = 20_000;

wire_struct! {
    /// A line of the run log.  Neither `dead` nor an outcome means: started.
    pub struct RunRec {
        /// The task.
        1 => id: TaskId,
        /// The attempt.
        2 => attempt: Attempt,
        /// The boot that started it.
        3 => boot: u64,
        /// Killed before it was known here: never start it.
        4 => dead: bool,
        /// How it ended.
        5 => outcome: Option<Outcome>,
        /// The task must not run twice.
        6 => once: bool,
        /// The end is settled; the line stays because the task must not run twice (S6).
        7 => settled: bool,
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Its payload is on the way.
    Fetching,
    /// Waits for a slot.
    Queued,
    /// Started; `true` when it is being killed.
    Running(bool),
    Finished,
    /// A coordinator has the end of it.  Kept because the task must not run twice, and another one may not know (S6).
    Kept,
    Dead,
}

#[derive(Debug, Clone)]
struct Run {
    state: State,
    need: Option<Need>,
    payload: Data,
    outcome: Option<Outcome>,
    /// The batch with its log line: the driver starts it when that is durable.
    start_no: u64,
    /// When it began to wait for a slot, ms.
    queued_at: u64,
    /// The task must not run twice.
    once: bool,
    /// Which slots it waits for or takes.
    lane: Lane,
}

/// How long an attempt waits here for a slot, ms.  A node is given some short tasks ahead of its slots; behind one
/// that turns out long they would wait for its end although others are free.
const PATIENCE_MS: u64 = 1_000;

/// What this node runs.
#[derive(Debug)]
pub(crate) struct Worker {
    runs: BTreeMap<(TaskId, Attempt), Run>,
    queue: VecDeque<(TaskId, Attempt)>,
    lanes: Lanes,
    /// The agent that is here; empty = none.
    pub(crate) agent: String,
    /// Runs that are only kept.
    kept: usize,
    /// Skills it can run.
    pub(crate) runnable: BTreeSet<String>,
    settled: BTreeSet<(TaskId, Attempt)>,
    settled_order: VecDeque<(TaskId, Attempt)>,
    report_at: u64,
    marks_at: u64,
}

/// A line of the log of an attempt that began.
fn line(id: TaskId, attempt: Attempt, boot: u64, outcome: Option<Outcome>, once: bool) -> RunRec {
    RunRec { id, attempt, boot, dead: false, outcome, once, settled: false, ext: Default::default() }
}

impl Run {
    /// One that is dead, or at least over.
    fn over(now: u64) -> Self {
        Self {
            state: State::Dead,
            need: None,
            payload: Data::EMPTY,
            outcome: None,
            start_no: 0,
            queued_at: now,
            once: false,
            lane: Lane::Free,
        }
    }
}

impl Worker {
    pub(crate) fn new(slots: u32, agent_slots: u32) -> Self {
        Self {
            runs: BTreeMap::new(),
            queue: VecDeque::new(),
            lanes: Lanes { slots, agent_slots, ..Lanes::default() },
            agent: String::new(),
            kept: 0,
            runnable: BTreeSet::new(),
            settled: BTreeSet::new(),
            settled_order: VecDeque::new(),
            report_at: 0,
            marks_at: 0,
        }
    }
    /// Attempts that have not ended.
    pub(crate) fn running(&self) -> usize {
        self.runs.values().filter(|r| matches!(r.state, State::Fetching | State::Queued | State::Running(_))).count()
    }
    /// Attempts that have not ended: of the slots, and of the agent slots.
    pub(crate) fn running_in(&self) -> (u32, u32) {
        let open = self.runs.values().filter(|r| matches!(r.state, State::Fetching | State::Queued | State::Running(_)));
        open.fold((0, 0), |(plain, agents), r| if r.lane == Lane::Agent { (plain, agents + 1) } else { (plain + 1, agents) })
    }
    /// Agents it may run at once; 0 while none is here.
    pub(crate) fn agent_slots(&self) -> u32 {
        if self.agent.is_empty() { 0 } else { self.lanes.agent_slots }
    }
    /// Something waits for its payload, a slot, or its acknowledgement (see `rest`).  What runs ends by itself.
    pub(crate) fn busy(&self) -> bool {
        self.runs.values().any(|r| matches!(r.state, State::Fetching | State::Queued | State::Running(true) | State::Finished))
    }
    pub(crate) fn names(&self, hash: Hash) -> bool {
        self.runs.values().any(|r| r.payload.blob() == Some(hash) || r.outcome.as_ref().and_then(|o| o.data.blob()) == Some(hash))
    }
    fn settle(&mut self, key: (TaskId, Attempt)) {
        if self.settled.insert(key) {
            self.settled_order.push_back(key);
        }
        while self.settled_order.len() > SETTLED_MAX {
            if let Some(old) = self.settled_order.pop_front() {
                self.settled.remove(&old);
            }
        }
    }
    pub(crate) fn check(&self) -> Result<(), String> {
        for (lane, counted) in [(Lane::Slot, self.lanes.busy), (Lane::Agent, self.lanes.agents)] {
            let busy = self.runs.values().filter(|r| matches!(r.state, State::Running(_)) && r.lane == lane).count();
            if busy != counted as usize {
                return Err(format!("{busy} runs take a slot ({lane:?}), {counted} are counted"));
            }
        }
        let kept = self.runs.values().filter(|r| r.state == State::Kept).count();
        if kept != self.kept {
            return Err(format!("{kept} runs are kept, {} are counted", self.kept));
        }
        Ok(())
    }
}

impl Mesh {
    pub(crate) fn load_run(&mut self, bytes: &[u8], quarantined: bool) -> Result<(), Malformed> {
        let r: RunRec = codec::decode(bytes)?;
        let key = (r.id, r.attempt);
        let (state, outcome) = if r.dead {
            (State::Dead, None)
        } else if let Some(o) = r.outcome {
            (if r.settled { State::Kept } else { State::Finished }, Some(o))
        } else {
            // S5: started, and we are a later boot.
            let why = if quarantined { "the node's store was damaged while it ran" } else { "the node restarted while it ran" };
            let o = self.outcome_of(r.attempt, End::Crashed, None, why, Data::EMPTY, 0);
            (State::Finished, Some(o))
        };
        self.worker.kept += usize::from(state == State::Kept);
        let run = Run { state, outcome, once: r.once, ..Run::over(self.now) };
        self.worker.runs.insert(key, run);
        Ok(())
    }

    fn outcome_of(&self, attempt: Attempt, end: End, exit: Option<i32>, why: &str, data: Data, ran_ms: u64) -> Outcome {
        Outcome {
            end,
            attempt: Some(attempt),
            worker: Some(self.me),
            exit,
            why: clip(why, 200),
            data,
            ended_at: self.wall,
            ran_ms,
            ext: Default::default(),
        }
    }

    // ---- assignments (S2) ----

    pub(crate) fn on_assign(&mut self, from: Peer, a: Assign) {
        if a.epoch.peer != from || a.epoch < self.side.promised {
            return self.event(Event::Dropped("stale_assign"));
        }
        if a.epoch > self.side.promised {
            // As good as a claim; its assignment comes again once we have followed.
            return self.follow(a.epoch, from);
        }
        let key = (a.id, a.attempt);
        if let Some(run) = self.worker.runs.get(&key) {
            let state = run.state.clone();
            self.rule(Rule::S2);
            if state == State::Dead {
                self.report_dead(from, a.id, a.attempt);
            } else if matches!(state, State::Finished | State::Kept) {
                self.report(from, &key);
            }
            return;
        }
        if self.below_floor(&a.id) {
            self.rule(Rule::G2);
            return self.event(Event::Dropped("settled_assign"));
        }
        if self.worker.settled.contains(&key) {
            // Another coordinator has its result, and this one can't know it: all we can say is that it
            // must not wait for us.
            let why = "its result was settled with another coordinator, and is not known here";
            let outcome = self.outcome_of(a.attempt, End::Lost, None, why, Data::EMPTY, 0);
            return self.send(from, Message::Report(Report { id: a.id, attempt: a.attempt, outcome, ext: Default::default() }));
        }
        if a.need.at_most_once && self.began(from, &a) {
            return;
        }
        if let Some(why) = self.unfit(&a) {
            return self.send(from, Message::Refuse(Refuse { id: a.id, attempt: a.attempt, why, ext: Default::default() }));
        }
        let missing = a.payload.blob().filter(|h| !self.blobs.contains(h));
        let state = if missing.is_some() { State::Fetching } else { State::Queued };
        let once = a.need.at_most_once;
        let lane = self.lane_here(&a.need);
        let run = Run { state, need: Some(a.need), payload: a.payload, outcome: None, start_no: 0, queued_at: self.now, once, lane };
        self.worker.runs.insert(key, run);
        match missing {
            Some(h) => self.fetch(h, &a.holders),
            None => {
                self.worker.queue.push_back(key);
                self.pump_runs();
            }
        }
    }

    /// S6: answers for another attempt of a task that must not run twice and has begun here.  The coordinator that assigns it
    /// again does not know: it is told how that one ended, which decides the task there, too.
    fn began(&mut self, from: Peer, a: &Assign) -> bool {
        let all = (a.id, Attempt { k: 0, epoch: crate::ids::Epoch::ZERO })..;
        let mut runs = self.worker.runs.range(all).take_while(|((id, _), _)| *id == a.id);
        let Some(((_, first), run)) = runs.find(|(_, r)| r.state != State::Dead) else { return false };
        self.fired.count(Rule::S6);
        if !matches!(run.state, State::Finished | State::Kept) {
            let why = "an attempt of this at-most-once task has already started here".into();
            self.send(from, Message::Refuse(Refuse { id: a.id, attempt: a.attempt, why, ext: Default::default() }));
            return true;
        }
        let (attempt, Some(mut outcome)) = (*first, run.outcome.clone()) else { return true };
        if outcome.end == End::Cancelled {
            // Whoever stopped it is not who asks, and may not have decided the task.
            (outcome.end, outcome.why) = (End::Failed, "its one attempt was stopped".into());
        }
        self.send_durable(from, Message::Report(Report { id: a.id, attempt, outcome, ext: Default::default() }));
        true
    }

    /// Why this node will not run it; nothing is charged (S10).
    fn unfit(&self, a: &Assign) -> Option<String> {
        if a.wboot != self.boot {
            return Some("the node restarted before it began".into());
        }
        if self.too_old() {
            return Some(self.too_old_text());
        }
        if self.leaving || self.draining {
            return Some("the node takes no new tasks".into());
        }
        if self.worker.runs.len() - self.worker.kept >= RUNS_MAX {
            return Some("the node has too many unreported attempts".into());
        }
        if let Some(why) = self.lacks(&a.need) {
            return Some(why);
        }
        if a.need.at_most_once && self.worker.kept >= KEPT_MAX {
            return Some(
                "the node remembers as many at-most-once tasks as it can: their origins have older tasks that have not ended".into(),
            );
        }
        None
    }

    pub(crate) fn worker_blob(&mut self, hash: Hash, ok: bool) {
        let now = self.now;
        let waiting: Vec<(TaskId, Attempt)> = self
            .worker
            .runs
            .iter()
            .filter(|(_, r)| r.state == State::Fetching && r.payload.blob() == Some(hash))
            .map(|(k, _)| *k)
            .collect();
        for key in waiting {
            if ok {
                if let Some(r) = self.worker.runs.get_mut(&key) {
                    (r.state, r.queued_at) = (State::Queued, now);
                }
                self.worker.queue.push_back(key);
            } else {
                self.turn_away(&key, "the node could not get the task's input".to_string());
            }
        }
        self.pump_runs();
    }

    /// Starts what has a slot: the log first, then the process.
    fn pump_runs(&mut self) {
        if self.leaving || self.store_bad {
            return;
        }
        let mut kept = VecDeque::new();
        while let Some(key) = self.worker.queue.pop_front() {
            let lanes = self.worker.lanes;
            let Some(r) = self.worker.runs.get(&key).filter(|r| r.state == State::Queued) else { continue };
            let (Some(need), lane) = (r.need.clone(), r.lane) else { continue };
            if let Some(why) = self.lacks(&need) {
                // It was here when the task came.  Elsewhere, or when it is back, the task runs.
                self.turn_away(&key, why);
                continue;
            }
            if lanes.full(lane) {
                kept.push_back(key);
                continue;
            }
            if lanes.passes_by(lane) {
                self.rule(Rule::S12);
            }
            let Some(r) = self.worker.runs.get_mut(&key) else { continue };
            r.state = State::Running(false);
            let payload = r.payload.clone();
            self.worker.lanes.take(lane);
            let (id, attempt) = key;
            let log = line(id, attempt, self.boot, None, need.at_most_once);
            self.put(Key::run(&id, &attempt), codec::encode(&log));
            if need.at_most_once {
                self.rule(Rule::S6);
            }
            let fence = format!("{}.{}.{}", attempt.epoch.n, attempt.epoch.peer, attempt.k);
            self.event(Event::Spawned(id, attempt));
            let after = self.last_no();
            if let Some(r) = self.worker.runs.get_mut(&key) {
                r.start_no = after;
            }
            let agent = lane == Lane::Agent;
            self.output(Output::Start { job: Job { id, attempt, need, payload, agent, fence }, after });
        }
        self.worker.queue = kept;
    }

    /// Says that an attempt, which has not begun, can't run here; nothing is charged.
    fn turn_away(&mut self, key: &(TaskId, Attempt), why: String) {
        self.worker.runs.remove(key);
        if let Some(to) = self.serving_leader() {
            self.send(to, Message::Refuse(Refuse { id: key.0, attempt: key.1, why, ext: Default::default() }));
        }
    }

    /// Hands back what has waited too long for a slot.  It never began; the report goes the way of all reports, so
    /// that it is repeated until it is settled.
    fn hand_back(&mut self) {
        let lanes = self.worker.lanes;
        if !(lanes.full(Lane::Slot) || lanes.full(Lane::Agent)) || self.leaving || self.store_bad {
            return;
        }
        let Some(to) = self.serving_leader() else { return };
        let late = |r: &Run| {
            // A pinned one can run nowhere else.
            r.state == State::Queued
                && self.now.saturating_sub(r.queued_at) >= PATIENCE_MS
                && lanes.full(r.lane)
                && r.need.as_ref().is_some_and(|n| n.pin.is_none() && !n.at_most_once)
        };
        let keys: Vec<(TaskId, Attempt)> = self.worker.runs.iter().filter(|(_, r)| late(r)).map(|(k, _)| *k).take(ITEMS_MAX).collect();
        for key in keys {
            let (id, attempt) = key;
            let outcome = self.outcome_of(attempt, End::Returned, None, "longer tasks took all slots of the node", Data::EMPTY, 0);
            let log = line(id, attempt, self.boot, Some(outcome.clone()), false);
            self.put(Key::run(&id, &attempt), codec::encode(&log));
            if let Some(r) = self.worker.runs.get_mut(&key) {
                (r.state, r.need, r.payload, r.outcome) = (State::Finished, None, Data::EMPTY, Some(outcome));
            }
            self.worker.queue.retain(|k| *k != key);
            self.report(to, &key);
        }
    }

    pub(crate) fn on_kill(&mut self, from: Peer, k: Kill) {
        if k.epoch.peer != from || k.epoch < self.side.promised {
            return self.event(Event::Dropped("stale_kill"));
        }
        let key = (k.id, k.attempt);
        match self.worker.runs.get(&key).map(|r| r.state.clone()) {
            Some(State::Running(true)) => {}
            Some(State::Running(false)) if self.withdraw(&key) => self.mark_dead(from, k.id, k.attempt),
            Some(State::Running(false)) => {
                if let Some(r) = self.worker.runs.get_mut(&key) {
                    r.state = State::Running(true);
                }
                self.output(Output::Kill(k.id, k.attempt));
            }
            Some(State::Fetching | State::Queued) => {
                self.worker.runs.remove(&key);
                self.mark_dead(from, k.id, k.attempt);
            }
            Some(State::Finished | State::Kept) => self.report(from, &key),
            Some(State::Dead) => self.report_dead(from, k.id, k.attempt),
            // It is over here and never starts again: who asks may still count it as running.
            None if self.worker.settled.contains(&key) || self.below_floor(&k.id) => self.report_dead(from, k.id, k.attempt),
            // Kill overtook Assign: the mark makes sure it never starts (S2).
            None if mutant::on(20) => {}
            None => {
                self.rule(Rule::S2);
                self.mark_dead(from, k.id, k.attempt);
            }
        }
    }

    /// Takes a run back whose log line is not durable yet, so that the driver has not started it: a
    /// `Kill` that went out now would come before the start and end nothing.  Returns false when it runs.
    fn withdraw(&mut self, key: &(TaskId, Attempt)) -> bool {
        let Some(r) = self.worker.runs.get(key).filter(|r| r.start_no > self.durable) else { return false };
        self.worker.lanes.give_back(r.lane);
        self.worker.runs.remove(key);
        self.output(Output::Kill(key.0, key.1));
        true
    }

    fn mark_dead(&mut self, from: Peer, id: TaskId, attempt: Attempt) {
        let log = RunRec { dead: true, ..line(id, attempt, self.boot, None, false) };
        self.put(Key::run(&id, &attempt), codec::encode(&log));
        self.worker.runs.insert((id, attempt), Run::over(self.now));
        self.report_dead(from, id, attempt);
    }

    fn report_dead(&mut self, to: Peer, id: TaskId, attempt: Attempt) {
        let outcome = self.outcome_of(attempt, End::Cancelled, None, "stopped before it began", Data::EMPTY, 0);
        self.send_durable(to, Message::Report(Report { id, attempt, outcome, ext: Default::default() }));
    }

    // ---- ends (S3) ----

    pub(crate) fn on_exited(&mut self, id: TaskId, attempt: Attempt, exit: Exit) {
        let key = (id, attempt);
        let outcome = self.outcome_of(attempt, exit.end, exit.code, &exit.why, exit.data, exit.ran_ms);
        let Some(r) = self.worker.runs.get_mut(&key).filter(|r| matches!(r.state, State::Running(_))) else {
            return self.event(Event::Dropped("exit_of_unknown_run"));
        };
        self.worker.lanes.give_back(r.lane);
        r.state = State::Finished;
        let need = r.need.take();
        r.payload = Data::EMPTY;
        r.outcome = Some(outcome.clone());
        let log = line(id, attempt, self.boot, Some(outcome), r.once);
        self.put(Key::run(&id, &attempt), codec::encode(&log));
        if let Some(need) = need {
            self.count_run(&need, exit.end, exit.ran_ms);
        }
        if let Some(to) = self.serving_leader() {
            self.report(to, &key);
        }
        self.pump_runs();
        self.leave_check();
    }

    fn report(&mut self, to: Peer, key: &(TaskId, Attempt)) {
        let Some(outcome) = self.worker.runs.get(key).and_then(|r| r.outcome.clone()) else { return };
        self.send_durable(to, Message::Report(Report { id: key.0, attempt: key.1, outcome, ext: Default::default() }));
    }

    pub(crate) fn on_report_ack(&mut self, from: Peer, a: ReportAck) {
        let key = (a.id, a.attempt);
        if self.serving_leader() != Some(from) {
            return;
        }
        let ghost = self.below_floor(&a.id);
        let Some(r) = self.worker.runs.get_mut(&key) else { return };
        if r.state == State::Finished && r.once && !ghost {
            // Another coordinator may not know of it (S6): it stays until the origin is done with the task.
            r.state = State::Kept;
            let log = RunRec { settled: true, ..line(a.id, a.attempt, self.boot, r.outcome.clone(), true) };
            self.worker.kept += 1;
            self.put(Key::run(&a.id, &a.attempt), codec::encode(&log));
        } else if matches!(r.state, State::Finished | State::Dead) {
            self.worker.runs.remove(&key);
            self.worker.settle(key);
            self.delete(Key::run(&a.id, &a.attempt));
        }
        self.leave_check();
    }

    // ---- a new coordinator (T6) ----

    /// Inventories are spread over min(5 s, 5 ms x N), so that a takeover is no stampede.
    pub(crate) fn plan_inventory(&mut self) {
        let n = self.view.members.len() as u64;
        let spread = if n < 20 { 0 } else { (5 * n).min(5_000) };
        self.inventory_at = Some(self.now + self.below(spread + 1));
        if spread == 0 {
            self.send_inventory();
        } else if let Some(t) = self.inventory_at {
            self.wake_at(t);
        }
    }

    fn send_inventory(&mut self) {
        self.inventory_at = None;
        let (to, epoch) = match (&self.co, &self.leader) {
            (Some(c), _) => (self.me, c.epoch),
            (None, Some(l)) => (l.peer, l.epoch),
            (None, None) => return,
        };
        let ended: Vec<(TaskId, Attempt)> = self.worker.runs.iter().filter(|(_, r)| r.state == State::Finished).map(|(k, _)| *k).collect();
        for key in ended {
            self.report(to, &key);
        }
        // One that is over is asked for again: the report of it may have been lost with the coordinator that had it.
        let known = self.worker.runs.iter().filter(|(_, r)| !matches!(r.state, State::Kept | State::Dead));
        let running: Vec<(TaskId, Attempt)> = known.map(|(k, _)| *k).collect();
        let mut parts: Vec<&[(TaskId, Attempt)]> = running.chunks(ITEMS_MAX).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let last = parts.len() - 1;
        let parts: Vec<(bool, Vec<(TaskId, Attempt)>)> = parts.into_iter().enumerate().map(|(i, p)| (i == last, p.to_vec())).collect();
        for (complete, running) in parts {
            let m = Inventory { epoch, boot: self.boot, running, complete, ext: Default::default() };
            self.send_durable(to, Message::Inventory(m));
        }
    }

    /// This node follows a new leader, or has become it: what is under way is said again.
    pub(crate) fn leader_changed(&mut self) {
        if self.co.is_some() {
            self.send_inventory();
        }
        self.reoffer();
        self.resend_asks();
    }

    pub(crate) fn tick_worker(&mut self) {
        if let Some(t) = self.inventory_at {
            if self.now >= t { self.send_inventory() } else { self.wake_at(t) }
        }
        // Reports that nobody has acknowledged: a link can drop them together with the leader.
        if self.now >= self.worker.report_at {
            self.worker.report_at = self.now + 5_000;
            if let Some(to) = self.serving_leader() {
                let ended: Vec<(TaskId, Attempt)> =
                    self.worker.runs.iter().filter(|(_, r)| r.state == State::Finished).map(|(k, _)| *k).take(ITEMS_MAX).collect();
                for key in ended {
                    self.report(to, &key);
                }
            }
        }
        self.drop_marks();
        self.pump_runs();
        self.hand_back();
    }

    /// What stops a start is needed until the origin's floor has passed the task (G2).
    fn drop_marks(&mut self) {
        if self.now < self.worker.marks_at {
            return;
        }
        self.worker.marks_at = self.now + 1_000;
        let marks = self.worker.runs.iter().filter(|(k, r)| matches!(r.state, State::Dead | State::Kept) && self.below_floor(&k.0));
        let gone: Vec<(TaskId, Attempt)> = marks.map(|(k, _)| *k).take(ITEMS_MAX).collect();
        for key in gone {
            if self.worker.runs.remove(&key).is_some_and(|r| r.state == State::Kept) {
                self.worker.kept -= 1;
            }
            self.delete(Key::run(&key.0, &key.1));
        }
    }

    // ---- leaving (E9, L3) ----

    /// A clean stop: end what runs, hand it back, say `Bye`.  The driver bounds the time.
    pub(crate) fn leave(&mut self, req: u64) {
        if self.leaving {
            return;
        }
        self.leaving = true;
        self.leave_req = Some(req);
        self.left = Some(self.now + 900);
        self.wake_at(self.now + 900);
        let queued: Vec<(TaskId, Attempt)> =
            self.worker.runs.iter().filter(|(_, r)| matches!(r.state, State::Fetching | State::Queued)).map(|(k, _)| *k).collect();
        for key in queued {
            let run = self.worker.runs.remove(&key);
            if let (Some(to), true) = (self.serving_leader(), run.and_then(|r| r.need).is_some_and(|n| n.at_most_once)) {
                // Only now can it be said that it never began.
                let why = "the node leaves".to_string();
                self.send(to, Message::Refuse(Refuse { id: key.0, attempt: key.1, why, ext: Default::default() }));
            }
        }
        self.worker.queue.clear();
        let running: Vec<(TaskId, Attempt)> =
            self.worker.runs.iter().filter(|(_, r)| matches!(r.state, State::Running(_))).map(|(k, _)| *k).collect();
        for (id, attempt) in running {
            if self.withdraw(&(id, attempt)) {
                self.delete(Key::run(&id, &attempt));
            } else {
                self.output(Output::Kill(id, attempt));
            }
        }
        self.leave_check();
    }

    /// Says `Bye` when nothing runs and every report is settled, or the time for it is over.
    pub(crate) fn leave_check(&mut self) {
        let (true, Some(until)) = (self.leaving, self.left) else { return };
        let waiting = self.worker.runs.values().any(|r| matches!(r.state, State::Running(_) | State::Finished));
        let somebody = self.serving_leader().is_some();
        if waiting && somebody && self.now < until {
            return;
        }
        let running = self.worker.runs.values().any(|r| matches!(r.state, State::Running(_)));
        if running && self.now < until {
            return;
        }
        self.left = None;
        let boot = self.boot;
        let epoch = self.side.promised;
        self.step_down("this node leaves");
        self.leader = None;
        for p in self.view.linked().collect::<Vec<_>>() {
            self.send_durable(
                p,
                Message::Bye(crate::message::Bye { boot, epoch, why: "stop".into(), asleep: false, beat: 0, ext: Default::default() }),
            );
        }
        if let Some(req) = self.leave_req.take() {
            self.reply_durable(req, crate::face::Reply::Ok);
        }
    }
}
