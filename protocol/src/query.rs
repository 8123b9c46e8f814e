//! People's questions: local commands, questions to the coordinator and its answers.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec::Blob,
    config::REQUESTS_MAX,
    face::{
        Answer, AttemptView, Command, ExplainView, LIST_MAX, NodeVerdict, Query, QueueView, Refusal, Reply, ResultView, State, StatusView,
        TaskView,
    },
    ids::{Peer, TaskId, short_prefix},
    io::Output,
    mesh::Mesh,
    message::{
        Adopt, AnswerMsg, Cancel, CancelAck, ChangeQuorum, ChangeSetting, ForgetNode, Message, NotCoordinator, QueryMsg, SetStrategy,
        SettingsRefused,
    },
    placement::{by_agent, fits, score},
    record::{End, Rec},
    spec::{Kind, Strategy},
    view::member_view,
    writes::Effect,
};

/// How long a question to the coordinator may take, over several coordinators, ms.
const ASK_MS: u64 = 10_000;

/// A question under way.
#[derive(Debug)]
struct Ask {
    msg: Message,
    until: u64,
    sent_to: Option<Peer>,
    again_at: u64,
}

/// Questions under way, at most [`REQUESTS_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Asks {
    map: BTreeMap<u64, Ask>,
}

impl Asks {
    /// A question is under way (see `rest`).
    pub(crate) fn busy(&self) -> bool {
        !self.map.is_empty()
    }
}

pub(crate) fn to_cbor<T: Serialize>(v: &T) -> Vec<u8> {
    let mut b = Vec::new();
    // Writing to memory cannot fail, and our own types have no map keys that CBOR lacks.
    let _ = ciborium::into_writer(v, &mut b);
    b
}

pub(crate) fn from_cbor<T: DeserializeOwned>(b: &[u8]) -> Option<T> {
    ciborium::from_reader(b).ok()
}

/// The state people see.
pub(crate) fn state_of(r: &Rec) -> State {
    match &r.outcome {
        Some(o) => match o.end {
            End::Done => State::Completed,
            End::Cancelled | End::Retired => State::Cancelled,
            End::Timeout => State::Timeout,
            _ => State::Failed,
        },
        None if r.live.is_empty() => State::Pending,
        None => State::Running,
    }
}

impl Mesh {
    pub(crate) fn reply(&mut self, req: u64, reply: Reply) {
        self.output(Output::Reply { req, reply, after: 0 });
    }
    pub(crate) fn reply_durable(&mut self, req: u64, reply: Reply) {
        let after = self.last_no();
        self.output(Output::Reply { req, reply, after });
    }

    pub(crate) fn on_command(&mut self, req: u64, cmd: Command) {
        if self.leaving && !matches!(cmd, Command::Status | Command::Leave | Command::Suspend | Command::Forget(_)) {
            let message = "this node is stopping: use another node".into();
            return self.reply(req, Reply::Refused(Refusal::NoCoordinator { message }));
        }
        match cmd {
            Command::Submit(specs) => self.submit(req, specs),
            Command::Cancel(id) => self.ask(req, Message::Cancel(Cancel { req, id, ext: Default::default() })),
            Command::Query(q) => {
                let query = Blob(to_cbor(&q));
                self.ask(req, Message::Query(QueryMsg { req, query, ext: Default::default() }));
            }
            Command::Await(id) => self.await_task(req, id),
            Command::Forget(r) => {
                self.outbox.forget_request(r);
                self.asks.map.remove(&r);
            }
            Command::Status => {
                let s = self.status();
                self.reply(req, Reply::Status(alloc::boxed::Box::new(s)));
            }
            Command::Skills(q) => {
                let (total, page) = self.skills(&q);
                self.reply(req, Reply::Skills(total, page));
            }
            Command::Resolve(names) => {
                let r = self.resolve_skills(&names);
                self.reply(req, r);
            }
            Command::SetStrategy(strategy) => self.ask(req, Message::SetStrategy(SetStrategy { req, strategy, ext: Default::default() })),
            Command::ChangeSetting(key, value, user) => {
                self.ask(req, Message::ChangeSetting(ChangeSetting { req, key, value, user, ext: Default::default() }));
            }
            Command::Settings => {
                let s = self.settings_view();
                self.reply(req, Reply::Settings(s));
            }
            Command::ForgetNode(peer) => self.ask(req, Message::ForgetNode(ForgetNode { req, peer, ext: Default::default() })),
            Command::ChangeQuorum(change, nodes, witnesses) => {
                let m = ChangeQuorum { req, change, nodes, witnesses, ext: Default::default() };
                self.ask(req, Message::ChangeQuorum(m));
            }
            Command::Drain(on) => {
                self.draining = on;
                self.publish_advert();
                self.capacity_changed();
                self.reply(req, Reply::Ok);
            }
            Command::Adopt => self.ask(req, Message::Adopt(Adopt { req, ext: Default::default() })),
            Command::Leave => self.leave(req),
            Command::Suspend => self.suspend(req),
            Command::Resume => {
                self.wake_up();
                self.reply(req, Reply::Ok);
            }
        }
    }

    // ---- questions to the coordinator, whoever it is (W6) ----

    fn ask(&mut self, req: u64, msg: Message) {
        if self.asks.map.len() >= REQUESTS_MAX {
            let message = "too many questions are under way".into();
            return self.reply(req, Reply::Refused(Refusal::Full { message }));
        }
        let until = self.now + ASK_MS;
        self.asks.map.insert(req, Ask { msg, until, sent_to: None, again_at: self.now });
        self.wake_at(until);
        self.pump_asks();
    }

    fn pump_asks(&mut self) {
        let Some(to) = self.serving_leader() else { return };
        let now = self.now;
        let ready: Vec<(u64, Message)> =
            self.asks.map.iter().filter(|(_, a)| a.sent_to.is_none() && a.again_at <= now).map(|(r, a)| (*r, a.msg.clone())).collect();
        for (req, msg) in ready {
            if let Some(a) = self.asks.map.get_mut(&req) {
                a.sent_to = Some(to);
            }
            self.send(to, msg);
        }
    }

    pub(crate) fn resend_asks(&mut self) {
        for a in self.asks.map.values_mut() {
            a.sent_to = None;
        }
        self.pump_asks();
    }

    pub(crate) fn tick_asks(&mut self) {
        let now = self.now;
        let late: Vec<u64> = self.asks.map.iter().filter(|(_, a)| now >= a.until).map(|(r, _)| *r).collect();
        for req in late {
            self.asks.map.remove(&req);
            let minority = self.quorum_view().filter(|q| !q.majority).map(|q| q.warning);
            let message = match minority {
                Some(why) => format!("nobody coordinates the mesh here: {why}; see 'clawmesh quorum status'"),
                None => "nobody coordinates the mesh at the moment: the nodes are electing, or this one is cut off; see 'clawmesh status'"
                    .into(),
            };
            self.reply(req, Reply::Refused(Refusal::NoCoordinator { message }));
        }
        let next = self.asks.map.values().map(|a| if a.sent_to.is_none() { a.again_at.max(now + 50) } else { a.until }).min();
        if let Some(t) = next {
            self.wake_at(t);
        }
        self.pump_asks();
    }

    pub(crate) fn not_coordinator(&mut self, to: Peer, req: u64, id: Option<TaskId>) {
        let leader = self.leader().filter(|l| *l != self.me);
        let epoch = self.leader.as_ref().map_or(self.side.promised, |l| l.epoch);
        self.send(to, Message::NotCoordinator(NotCoordinator { epoch, leader, req, id, ext: Default::default() }));
    }

    pub(crate) fn not_coordinator_for(&mut self, req: u64, id: Option<TaskId>) {
        if let Some(id) = id {
            self.submit_bounced(id);
        }
        let now = self.now;
        if let Some(a) = self.asks.map.get_mut(&req) {
            a.sent_to = None;
            a.again_at = now + 100;
            self.wake_at(now + 100);
        }
    }

    pub(crate) fn on_cancel_ack(&mut self, _from: Peer, c: CancelAck) {
        if self.asks.map.remove(&c.req).is_none() {
            return;
        }
        let refusal: Option<Refusal> = if c.refusal.0.is_empty() { None } else { from_cbor(&c.refusal.0) };
        let state = State::ALL.into_iter().find(|s| s.word() == c.state);
        match (c.id, state, refusal) {
            (Some(id), Some(state), None) => self.reply(c.req, Reply::Cancelled(id, state)),
            (_, _, Some(r)) => self.reply(c.req, Reply::Refused(r)),
            _ => self.reply(
                c.req,
                Reply::Refused(Refusal::Invalid { message: "the coordinator's answer can't be read: is it of another version?".into() }),
            ),
        }
    }

    pub(crate) fn on_answer(&mut self, _from: Peer, a: AnswerMsg) {
        if self.asks.map.remove(&a.req).is_none() {
            return;
        }
        match from_cbor::<Answer>(&a.answer.0) {
            Some(answer) => self.reply(a.req, Reply::Answer(answer)),
            None => self.reply(
                a.req,
                Reply::Refused(Refusal::Invalid { message: "the coordinator's answer can't be read: is it of another version?".into() }),
            ),
        }
    }

    pub(crate) fn on_settings_ack(&mut self, req: u64) {
        if self.asks.map.remove(&req).is_some() {
            self.reply(req, Reply::Ok);
        }
    }

    pub(crate) fn on_settings_refused(&mut self, r: SettingsRefused) {
        if self.asks.map.remove(&r.req).is_some() {
            let unread = || Refusal::Invalid { message: "the coordinator refused it".into() };
            self.reply(r.req, Reply::Refused(from_cbor(&r.refusal.0).unwrap_or_else(unread)));
        }
    }

    // ---- as coordinator ----

    pub(crate) fn on_query(&mut self, from: Peer, m: QueryMsg) {
        if self.co.as_ref().is_none_or(|c| !c.serving()) {
            return self.not_coordinator(from, m.req, None);
        }
        let Some(q) = from_cbor::<Query>(&m.query.0) else {
            let a = Answer::Refused(Refusal::Invalid {
                message: "the coordinator does not know this kind of question: is it of another version?".into(),
            });
            return self.answer(from, m.req, &a, None);
        };
        let (answer, about) = match self.answer_to(q) {
            Ok(v) => v,
            Err(r) => (Answer::Refused(r), None),
        };
        self.answer(from, m.req, &answer, about);
    }

    /// Answers; what is said of an ended task leaves when it is stable (W1).
    fn answer(&mut self, to: Peer, req: u64, a: &Answer, about: Option<TaskId>) {
        let bytes = to_cbor(a);
        match about {
            Some(id) => self.effect(&id, Effect::Answer(to, req, bytes)),
            None => self.emit(Effect::Answer(to, req, bytes)),
        }
    }

    /// The task that a person means.
    pub(crate) fn resolve(&self, typed: &str) -> Result<TaskId, Refusal> {
        let not_found = || Refusal::NotFound { id: typed.into() };
        let digits = short_prefix(typed).ok_or_else(not_found)?;
        let found = self.table.by_prefix(&digits, 11);
        match found.as_slice() {
            [] => Err(not_found()),
            [one] => Ok(*one),
            many => Err(Refusal::Ambiguous { id: typed.into(), candidates: many.iter().take(10).map(TaskId::short).collect() }),
        }
    }

    fn answer_to(&self, q: Query) -> Result<(Answer, Option<TaskId>), Refusal> {
        match q {
            Query::Tasks { state, limit, before } => {
                let start = before.and_then(|s| self.table.by_short(s)).and_then(|id| self.table.get(&id)).map(|r| (r.queued, r.id));
                let limit = limit.clamp(1, LIST_MAX) as usize;
                let mut all = self.table.newest(start).filter(|r| state.is_none_or(|s| state_of(r) == s));
                let tasks: Vec<TaskView> = all.by_ref().take(limit).map(|r| self.task_view(r)).collect();
                let more = all.next().is_some();
                Ok((Answer::Tasks { tasks, more }, None))
            }
            Query::Show(id) => {
                let id = self.resolve(&id)?;
                let r = self.table.get(&id).ok_or(Refusal::NotFound { id: id.to_string() })?;
                Ok((Answer::Task(alloc::boxed::Box::new(self.task_view(r))), r.terminal().then_some(id)))
            }
            Query::Explain(id) => {
                let id = self.resolve(&id)?;
                let r = self.table.get(&id).ok_or(Refusal::NotFound { id: id.to_string() })?;
                Ok((Answer::Explain(self.explain(r)), None))
            }
            Query::Result(id) => {
                let id = self.resolve(&id)?;
                let r = self.table.get(&id).ok_or(Refusal::NotFound { id: id.to_string() })?;
                let o = r.outcome.as_ref();
                let live = r.live.last();
                let last = r.past.last();
                let view = ResultView {
                    task: alloc::boxed::Box::new(self.task_view(r)),
                    data: o.map(|o| (&o.data).into()),
                    worker: o.and_then(|o| o.worker).or(live.map(|l| l.worker)).or(last.map(|p| p.worker)),
                    attempt: o.and_then(|o| o.attempt).or(live.map(|l| l.attempt)).or(last.map(|p| p.attempt)).map(|a| a.k),
                };
                Ok((Answer::Result(view), r.terminal().then_some(id)))
            }
        }
    }

    fn task_view(&self, r: &Rec) -> TaskView {
        let mut attempts: Vec<AttemptView> = r
            .past
            .iter()
            .map(|p| AttemptView {
                number: p.attempt.k,
                epoch: p.attempt.epoch.number(),
                node: p.worker,
                name: self.name_of(&p.worker),
                state: p.end.word().into(),
                started_at: p.started_at,
                ended_at: Some(p.ended_at),
                exit_code: p.exit,
                reason: p.why.clone(),
            })
            .chain(r.live.iter().map(|l| AttemptView {
                number: l.attempt.k,
                epoch: l.attempt.epoch.number(),
                node: l.worker,
                name: self.name_of(&l.worker),
                state: "running".into(),
                started_at: l.placed_at,
                ended_at: None,
                exit_code: None,
                reason: String::new(),
            }))
            .collect();
        attempts.sort_by_key(|a| (a.number, a.epoch));
        let copies = self.co.as_ref().filter(|c| c.epoch == r.ver.epoch).map_or(0, |c| c.copies(r.ver.seq));
        TaskView {
            id: r.id.short(),
            state: state_of(r),
            reason: match &r.outcome {
                Some(o) => o.why.clone(),
                None if r.live.is_empty() => self.why_waiting(r),
                None if r.cancel => "being cancelled".into(),
                None => String::new(),
            },
            title: r.need.title.clone(),
            kind: r.need.kind,
            skill: r.need.skill.clone(),
            priority: r.need.priority,
            strategy: r.need.strategy,
            origin: r.id.origin.peer,
            origin_name: self.name_of(&r.id.origin.peer),
            user: r.need.user.clone(),
            submitted_at: r.submitted_at,
            ended_at: r.outcome.as_ref().map(|o| o.ended_at),
            exit_code: r.outcome.as_ref().and_then(|o| o.exit),
            retries: r.need.retries,
            attempts,
            attempts_dropped: r.past_dropped,
            cancel: r.cancel,
            delivered: r.delivered,
            copies: copies.max(1),
            duplicate_of: self.co.as_ref().and_then(|c| c.sched.first_of_key(r)).map(|id| id.short()),
        }
    }

    /// One sentence on a waiting task.
    fn why_waiting(&self, r: &Rec) -> String {
        let Some(c) = &self.co else { return String::new() };
        if let Some(t) = c.sched.rest_until(&r.id) {
            return format!("waits {} s before the next attempt", t.saturating_sub(self.now).div_ceil(1_000));
        }
        if c.sched.held.contains_key(&r.id) {
            return "is held back: fewer than half of the mesh is in reach, and the others may run it; 'clawmesh mesh adopt' ends the wait"
                .into();
        }
        let nodes = self.candidates(r);
        let busy = nodes.iter().filter(|n| fits(&r.need, n).is_err_and(|e| e.busy)).count();
        if nodes.iter().any(|n| fits(&r.need, n).is_ok()) {
            return "is about to be placed".into();
        }
        if busy > 0 {
            let slot = if nodes.iter().any(|n| by_agent(&r.need, n)) { "an agent slot" } else { "a slot" };
            return format!("waits for {slot}: {busy} of {} nodes could run it and are busy", nodes.len());
        }
        match (r.need.pin, r.need.skill.as_str()) {
            (Some(p), _) => format!("waits for the node {} it is pinned to", self.name_of(&p)),
            (None, "") if r.need.kind == Kind::Prompt => "no reachable node has an agent for it now: see 'clawmesh tasks explain'".into(),
            (None, "") => "no node of the mesh can run it now: see 'clawmesh tasks explain'".into(),
            (None, skill) if r.need.kind == Kind::Prompt => {
                format!("no reachable node has an agent and the skill '{skill}' now: see 'clawmesh tasks explain'")
            }
            (None, skill) => format!("no reachable node can run the skill '{skill}' now: see 'clawmesh tasks explain'"),
        }
    }

    fn explain(&self, r: &Rec) -> ExplainView {
        let strategy = self.strategy_for(&r.need);
        // Whose turn it is changes with every placement: a number now would say nothing.
        let scored = !matches!(strategy, Strategy::RoundRobin | Strategy::Random);
        let nodes = self
            .candidates(r)
            .iter()
            .map(|n| {
                let verdict = fits(&r.need, n);
                NodeVerdict {
                    node: n.peer,
                    name: n.name.into(),
                    fits: verdict.is_ok(),
                    score: (verdict.is_ok() && scored).then(|| score(strategy, &r.need, n, 0)),
                    reason: match verdict {
                        Ok(()) if n.avoid => "could take it, but an attempt has failed there: another node goes first".into(),
                        Ok(()) => {
                            let lane = n.lane(&r.need);
                            format!("could take it: {} of {} {} taken{}", lane.load, lane.slots, lane.name, holds(&r.need, n.peer))
                        }
                        Err(no) => no.why,
                    },
                }
            })
            .collect();
        let c = self.co.as_ref();
        let verdict = match (&r.outcome, r.live.last()) {
            (Some(o), _) => match o.worker {
                Some(w) => format!("{} on {}: {}", o.end, self.name_of(&w), if o.why.is_empty() { "it ended by itself" } else { &o.why }),
                None => format!("{}: {}", o.end, o.why),
            },
            (None, Some(l)) => format!("attempt {} runs on {}", l.attempt.k, self.name_of(&l.worker)),
            (None, None) => self.why_waiting(r),
        };
        ExplainView {
            id: r.id.short(),
            state: state_of(r),
            verdict,
            strategy,
            ahead: c.and_then(|c| c.sched.queue.ahead(&r.id, self.now)),
            nodes,
            placed: c.and_then(|c| c.sched.note_of(&r.id)).cloned(),
        }
    }

    // ---- this node's own view ----

    /// What this node knows of itself and of the mesh.
    pub fn status(&self) -> StatusView {
        let period = self.advert_period();
        let leader = self.leader();
        let epoch = self.probe().epoch.map_or(0, |e| e.number());
        let mut mine = member_view(self.me, &crate::view::Member::default(), self.cfg.name.clone(), self.now, period);
        mine.state = if self.draining || self.leaving { "draining" } else { "online" }.into();
        mine.priority = self.cfg.prio;
        mine.this = true;
        mine.boot = self.boot;
        mine.slots = self.cfg.slots;
        (mine.running, mine.agent_running) = self.worker.running_in();
        (mine.agent, mine.agent_slots) = (self.worker.agent.clone(), self.worker.agent_slots());
        mine.skills = self.catalogue.skills.iter().map(|s| s.name.clone()).collect();
        mine.labels.clone_from(&self.cfg.labels);
        mine.facts = self.facts.clone();
        mine.age_ms = self.now - self.facts_at;
        mine.version.clone_from(&self.cfg.version);
        let mut members = alloc::vec![mine];
        members.extend(self.view.members.iter().map(|(p, m)| member_view(*p, m, self.name_of(p), self.now, period)));
        for m in &mut members {
            m.coordinator = Some(m.node) == leader;
        }
        let numbers = match &self.co {
            Some(_) => self.queue_numbers(),
            None => self.leader.as_ref().and_then(|l| l.hb.as_ref()).map(|h| h.queue.clone()).unwrap_or_default(),
        };
        let n = |i: usize| numbers.get(i).copied().unwrap_or(0);
        let replicas = match &self.co {
            Some(c) => core::iter::once(self.me).chain(c.replicas.keys().copied()).collect(),
            None => self.leader.as_ref().and_then(|l| l.hb.as_ref()).map(|h| h.replicas.clone()).unwrap_or_default(),
        };
        let strategy = match (&self.co, self.leader.as_ref().and_then(|l| l.hb.as_ref())) {
            (None, Some(h)) => h.strategy,
            _ => self.settings.as_ref().map(|s| s.strategy).unwrap_or_default(),
        };
        StatusView {
            node: self.me,
            name: self.cfg.name.clone(),
            coordinator: leader,
            coordinator_name: leader.map(|l| self.name_of(&l)).unwrap_or_default(),
            epoch,
            role: match (&self.co, &self.leader) {
                (Some(c), _) if c.serving() => "coordinator",
                (None, Some(_)) => "follower",
                _ => "electing",
            }
            .into(),
            members,
            queue: QueueView { critical: n(0), high: n(1), normal: n(2), low: n(3), running: n(4), parked: n(5), ended: n(6), held: n(7) },
            strategy,
            replicas,
            records: self.table.len() as u64,
            digest: format!("{:032x}", self.table.root()),
            outbox: self.outbox.open() as u64,
            draining: self.draining,
            store_bad: self.store_bad,
            quorum: self.quorum_view(),
        }
    }
}

/// What a node has of the task's inputs, as the end of a sentence.
fn holds(need: &crate::spec::Need, node: Peer) -> String {
    match crate::placement::held_mib(need, node) {
        0 => String::new(),
        mib => format!("; holds {} of its inputs", crate::files::mib_shown(mib)),
    }
}
