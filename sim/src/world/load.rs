//! The users: they submit, cancel, ask, wait, and change their minds, through any node.

use std::collections::BTreeMap;

use clawmesh_protocol::{
    codec::{self, Ext},
    config::PROTO_PROMPTS,
    face::{Answer, Command, NewTask, Query, Refusal, Reply, TaskView},
    ids::{Hash, Peer, TaskId},
    io::Input,
    spec::{Data, INLINE_MAX, Kind, Need, OnLost, OnSplit, Priority, Spec, Strategy, split},
};

use super::{START_MS, What, World, node::SKILLS};
use crate::{diurnal, oracle::Fact, rng::Dice};

/// A field that this version does not know.
const NEW_FIELD: u64 = 900;

/// What the users know.
#[derive(Default)]
pub(super) struct Load {
    /// Acknowledged tasks.
    pub(super) tasks: BTreeMap<TaskId, Task>,
    asked: BTreeMap<u64, (usize, Ask)>,
    next: u64,
    submitted: usize,
    old: Vec<Spec>,
}

/// An acknowledged task.
pub(super) struct Task {
    pub(super) need: Need,
    /// The blob that holds its input.
    pub(super) input: Option<Hash>,
}

/// A request without its answer.
pub(super) enum Ask {
    Submit(Vec<Spec>),
    Await(TaskId),
    Leave,
    Cancel,
    Voters,
    Other,
}

/// Among laptops, some tasks take minutes or an hour.
fn long(d: &mut Dice, ms: u64, may: bool) -> u64 {
    match d.range(0, 99) {
        0..80 => ms,
        _ if !may => ms,
        80..95 => d.range(8_000, 300_000),
        _ => d.range(300_000, 3_600_000),
    }
}

impl Load {
    pub(super) fn acked(&self) -> usize {
        self.tasks.len()
    }
}

impl World {
    /// One user does one thing, and the next is on the way.
    pub(super) fn command(&mut self) {
        if self.calm {
            return;
        }
        if self.plan.deeds.is_empty() {
            let wait = self.chance.load.range(1, self.plan.command_every_ms * 2);
            self.after(wait, What::Command);
        }
        let alive = self.alive();
        let Some(node) = self.chance.load.pick(&alive) else { return };
        match self.chance.load.range(0, 99) {
            0..60 => self.submit(node),
            60..72 => self.cancel(node),
            72..88 => {
                let q = self.question();
                self.ask(node, Ask::Other, Command::Query(q));
            }
            88..91 => self.ask(node, Ask::Other, Command::Status),
            91..93 => self.ask(node, Ask::Other, Command::Skills(Default::default())),
            93 => {
                let s = self.chance.load.pick(Strategy::ALL).unwrap_or_default();
                self.ask(node, Ask::Other, Command::SetStrategy(s));
            }
            94 => self.ask(node, Ask::Other, Command::Adopt),
            95 => self.forget_gone(node),
            96..98 => {
                let on = self.chance.load.percent(40);
                self.ask(node, Ask::Other, Command::Drain(on));
            }
            _ => self.forget(node),
        }
    }

    pub(super) fn ask(&mut self, node: usize, ask: Ask, command: Command) {
        self.load.next += 1;
        let req = self.load.next;
        self.load.asked.insert(req, (node, ask));
        self.give(node, Input::Command(req, command));
    }

    fn submit(&mut self, node: usize) {
        let left = self.plan.tasks.saturating_sub(self.load.submitted);
        let n = (self.chance.load.range(1, self.plan.batch as u64) as usize).min(left);
        if n == 0 {
            return;
        }
        let specs: Vec<Spec> = (0..n).filter_map(|_| self.spec(node)).collect();
        self.load.submitted += specs.len();
        self.ask(node, Ask::Submit(specs.clone()), Command::Submit(specs));
    }

    fn spec(&mut self, node: usize) -> Option<Spec> {
        if self.chance.load.percent(4)
            && let Some(i) = self.load.old.len().checked_sub(1)
        {
            let i = self.chance.load.below(i + 1);
            let again = self.load.old.get(i).cloned().filter(|s| s.need.kind != Kind::Prompt || self.speaks_prompts(node));
            if let Some(h) = again.as_ref().and_then(|s| s.payload.blob()) {
                self.nodes[node].blobs.insert(h);
            }
            return again;
        }
        let new = self.wish(node);
        let (mut need, work) = split(&new).ok()?;
        if self.chance.load.permille(self.plan.newer) {
            // A field of a later version: number 900, the text "new".
            need.ext = Ext(vec![(NEW_FIELD, b"\x63new".to_vec())]);
        }
        let payload = if work.len() > INLINE_MAX {
            // What would make the record too large is stored beside it.
            self.count("rule: D2");
            let h = Hash::of(&work);
            self.nodes[node].blobs.insert(h);
            if let Ok(w) = codec::decode(&work) {
                self.works.insert(h, w);
            }
            Data::Blob(h, work.len() as u64)
        } else {
            Data::Inline(codec::Blob(work))
        };
        let spec = Spec { need, payload };
        if !spec.need.key.is_empty() || self.chance.load.percent(10) {
            self.load.old.push(spec.clone());
        }
        Some(spec)
    }

    /// What a person might ask for.
    fn wish(&mut self, at: usize) -> NewTask {
        let d = &mut self.chance.load;
        let mode = match d.range(0, 99) {
            0..70 => "ok",
            70..80 => "fail",
            80..90 => "flaky",
            90..96 => "hang",
            _ => "bomb",
        };
        let ms = d.tailed(0, 400, 80, 8_000);
        let ms = if self.plan.days > 0 { long(d, ms, self.now < START_MS + diurnal::evening(self.plan.days)) } else { ms };
        let mode = if self.plan.plain && mode != "fail" { "ok" } else { mode };
        let words = format!("sim {mode} {ms} 1");
        let mut t = NewTask { retries: if d.percent(50) { 0 } else { d.range(1, 4) as u32 }, ..NewTask::default() };
        match d.range(0, 9) {
            0..6 => t.argv = Some(words.split(' ').map(str::to_owned).collect()),
            6..9 => {
                t.skill = d.pick(&SKILLS).map(str::to_owned);
                t.input = Some(words);
            }
            _ => {
                t.skill = Some("echo".into());
                t.input = Some(words);
            }
        }
        t.backoff_ms = Some(d.range(50, 1_500));
        t.priority = d.pick(Priority::ALL);
        t.timeout_ms = (mode == "hang" || d.percent(20)).then(|| d.range(300, 5_000));
        t.queue_timeout_ms = d.percent(6).then(|| d.range(500, 20_000));
        t.total_timeout_ms = d.percent(6).then(|| d.range(1_000, 40_000));
        t.strategy = if d.percent(20) { d.pick(Strategy::ALL) } else { None };
        t.labels = if d.percent(5) { vec!["gpu".into()] } else { Vec::new() };
        t.on_lost = d.percent(10).then_some(OnLost::Fail);
        t.on_split = if d.percent(30) { d.pick(OnSplit::ALL) } else { None };
        t.key = d.percent(5).then(|| format!("key{}", d.range(0, 4)));
        if self.plan.plain {
            (t.timeout_ms, t.queue_timeout_ms, t.total_timeout_ms, t.on_lost) = (None, None, None, None);
        }
        if self.speaks_prompts(at) && self.chance.agents.percent(15) {
            // Drawn by itself, so that the other tasks are what they are without agents.
            t.prompt = t.argv.take().map(|w| w.join(" ")).or(t.input.take());
            t.skill = t.skill.filter(|s| SKILLS.contains(&s.as_str()));
            self.count("prompts asked");
        }
        let d = &mut self.chance.load;
        let node = d.below(self.nodes.len());
        t.pin = d.percent(10).then(|| self.nodes[node].cfg.peer);
        t.at_most_once = t.pin.is_some() && d.percent(50);
        if self.plan.voters_every_ms.is_some() && self.chance.voters.percent(10) {
            t.at_most_once = true;
        }
        let d = &mut self.chance.load;
        if d.percent(8) {
            t.env = vec![("PAD".into(), "y".repeat(d.range(900, 6_000) as usize))];
        }
        t
    }

    /// Users of an older version can't ask for prompts.
    fn speaks_prompts(&self, node: usize) -> bool {
        self.nodes[node].cfg.proto >= PROTO_PROMPTS
    }

    fn some_task(&mut self) -> Option<TaskId> {
        let i = self.chance.load.below(self.load.tasks.len());
        self.load.tasks.keys().nth(i).copied()
    }

    fn cancel(&mut self, node: usize) {
        if self.plan.plain {
            // What it still meets depends on milliseconds.
            return;
        }
        let Some(id) = self.some_task() else { return };
        let mut text = id.short().to_string();
        if self.chance.load.percent(20) {
            text.truncate(self.chance.load.range(1, 10) as usize);
        }
        self.ask(node, Ask::Cancel, Command::Cancel(text));
    }

    fn question(&mut self) -> Query {
        let id = self.some_task().map_or_else(|| "taaaa".to_owned(), |t| t.short().to_string());
        match self.chance.load.range(0, 3) {
            0 => Query::Tasks { state: None, limit: 20, before: None },
            1 => Query::Show(id),
            2 => Query::Explain(id),
            _ => Query::Result(id),
        }
    }

    fn forget(&mut self, node: usize) {
        let mine = self.load.asked.iter().filter(|(_, (n, a))| *n == node && !matches!(a, Ask::Leave)).map(|(r, _)| *r);
        let mine: Vec<u64> = mine.collect();
        if let Some(r) = self.chance.load.pick(&mine) {
            self.load.asked.remove(&r);
            // Has no answer.
            self.load.next += 1;
            let req = self.load.next;
            self.give(node, Input::Command(req, Command::Forget(r)));
        }
    }

    /// V1: what this version does not understand is still there at the end.
    pub(super) fn unknown_kept(&mut self) {
        let mut kept = 0;
        let mut lost = None;
        for r in self.nodes.iter().filter_map(|n| n.core.as_ref()).flat_map(|c| c.mesh.records()) {
            let Some(t) = self.load.tasks.get(&r.id) else { continue };
            if t.need.ext != r.need.ext && r.spec_hash != Hash::default() {
                lost = Some(r.id);
            } else if !t.need.ext.0.is_empty() {
                kept += 1;
            }
        }
        if let Some(id) = lost {
            self.complain("V1", 0, format!("{id:?} has lost a field that this version does not know"));
        }
        if kept > 0 {
            self.count_many("rule: V1", kept);
        }
    }

    /// A machine that is gone for good is forgotten by an operator (G4).
    pub(super) fn forget_gone(&mut self, node: usize) {
        let gone: Vec<Peer> = self.nodes.iter().filter(|n| n.gone).map(|n| n.cfg.peer).collect();
        if let Some(p) = self.chance.load.pick(&gone) {
            self.ask(node, Ask::Other, Command::ForgetNode(p));
        }
    }

    pub(super) fn ask_to_leave(&mut self, node: usize) {
        self.nodes[node].leaving = true;
        self.ask(node, Ask::Leave, Command::Leave);
    }

    pub(super) fn ask_to_sleep(&mut self, node: usize) {
        self.ask(node, Ask::Other, Command::Suspend);
    }

    /// The programs that asked a dead process have lost their answers.
    pub(super) fn forget_users(&mut self, node: usize) {
        self.load.asked.retain(|_, (n, _)| *n != node);
    }

    /// In peace, nobody stays drained.
    pub(super) fn undrain(&mut self, node: usize) {
        self.ask(node, Ask::Other, Command::Drain(false));
    }

    pub(super) fn unanswered(&self) -> Vec<String> {
        let open = self.load.asked.iter().filter_map(|(r, (n, a))| {
            let what = match a {
                Ask::Submit(s) => format!("submit of {} tasks", s.len()),
                Ask::Cancel => "cancel".into(),
                Ask::Leave | Ask::Await(_) => return None,
                Ask::Voters => "change of voters".into(),
                Ask::Other => "question".into(),
            };
            Some(format!("#{r} {what} at {}", self.nodes[*n].cfg.name))
        });
        open.collect()
    }

    pub(super) fn reply(&mut self, node: usize, req: u64, reply: Reply) {
        let Some((at, ask)) = self.load.asked.remove(&req) else {
            return self.count("reply to a forgotten request");
        };
        if at != node {
            return self.complain("core", node, format!("answers request {req}, which node {at} was asked"));
        }
        match (ask, reply) {
            (Ask::Submit(specs), Reply::Submitted(items)) => self.submit_answered(node, &specs, items),
            (Ask::Submit(_), Reply::Refused(r)) => self.refused(&r),
            (Ask::Submit(_), r) => self.complain("core", node, format!("answers a submit with {r:?}")),
            (Ask::Await(id), Reply::Ended(end)) => {
                self.count("results told");
                if end.id != id.short() {
                    self.complain("core", node, format!("tells the end of {} to who waits for {id}", end.id));
                }
                self.see(node, Fact::Ended(id, format!("{:?} {:?} {:?}", end.state, end.exit_code, end.data)));
            }
            (Ask::Await(_), r) => self.count(if matches!(r, Reply::Refused(_)) { "await refused" } else { "await answered oddly" }),
            (Ask::Leave, r) if Self::is_leave_done(&r) => self.left(node),
            (Ask::Leave, r) => self.complain("core", node, format!("answers a leave with {r:?}")),
            (Ask::Voters, r) => self.voters_answered(&r),
            (Ask::Cancel, Reply::Cancelled(..)) => self.count("cancels confirmed"),
            (Ask::Cancel | Ask::Other, Reply::Refused(r)) => self.refused(&r),
            (Ask::Cancel | Ask::Other, Reply::Answer(Answer::Task(v))) => self.shown(node, &v),
            (Ask::Cancel | Ask::Other, Reply::Answer(Answer::Result(v))) => self.shown(node, &v.task),
            (Ask::Cancel | Ask::Other, _) => self.count("questions answered"),
        }
    }

    /// What a user reads of a task that has ended.
    fn shown(&mut self, node: usize, v: &TaskView) {
        self.count("questions answered");
        let id = self.load.tasks.keys().find(|id| id.short() == v.id).copied();
        if let (Some(id), Some(at)) = (id, v.ended_at) {
            self.count("sometimes: a user read how a task ended");
            self.see(node, Fact::Read(id, at, v.exit_code));
        }
    }

    pub(super) fn refused(&mut self, r: &Refusal) {
        let word = match r {
            Refusal::Invalid { .. } => "refused: invalid",
            Refusal::UnknownSkill { .. } => "refused: unknown skill",
            Refusal::NotFound { .. } => "refused: not found",
            Refusal::Ambiguous { .. } => "refused: ambiguous",
            Refusal::Full { .. } => "refused: full",
            Refusal::NoCoordinator { .. } => "refused: no coordinator",
            // Only nodes say it to each other.
            Refusal::Joined { .. } => return self.complain("core", 0, "a local program is told Joined".into()),
        };
        self.count(word);
    }

    fn submit_answered(&mut self, node: usize, specs: &[Spec], items: Vec<Result<clawmesh_protocol::face::Submitted, Refusal>>) {
        if items.len() != specs.len() {
            return self.complain("core", node, format!("answers {} tasks with {} entries", specs.len(), items.len()));
        }
        for (spec, item) in specs.iter().zip(items) {
            match item {
                Ok(s) => {
                    let Some(id) = s.task else {
                        // An older task with the same key stands for it (O4).
                        if !spec.need.key.is_empty() {
                            self.count("joined by its key");
                            continue;
                        }
                        return self.complain("core", node, "acknowledges a task without its id".into());
                    };
                    self.see(node, Fact::Acked(id, s.copies));
                    self.load.tasks.entry(id).or_insert_with(|| Task { need: spec.need.clone(), input: spec.payload.blob() });
                    // Who joined another node's task by key can't wait for it here.
                    if self.chance.load.percent(60) && self.node_of(id.origin.peer) == Some(node) {
                        self.load.next += 1;
                        let req = self.load.next;
                        self.load.asked.insert(req, (node, Ask::Await(id)));
                        let life = self.nodes[node].life;
                        let input = Box::new(Input::Command(req, Command::Await(id)));
                        self.after(0, What::Give { node, life, input });
                    }
                }
                Err(r) => self.refused(&r),
            }
        }
    }
}
