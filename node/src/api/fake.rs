//! A node that is only this struct: tasks end when the test says so.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::body::Bytes;
use clawmesh_protocol::{
    codec::{self, Blob},
    face::{
        Answer, AttemptView, Command, DataView, ExplainView, Facts, MemberView, Query, QueueView, Refusal, Reply, Resolved, ResultView,
        SettingsView, SkillView, State, StatusView, Submitted, TaskEnd, TaskView,
    },
    ids::{Hash, Origin, Peer, ShortId, TaskId, short_prefix},
    io::capture,
    spec::{Data, INLINE_MAX, Spec, Strategy, Work},
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use tokio::sync::watch;

use crate::api::{Backend, Gone, LogStream, NodeInfo};

/// The node itself.
pub(crate) const HERE: Peer = Peer([1; 32]);
/// The other member, called `beta`.
pub(crate) const THERE: Peer = Peer([2; 32]);

/// What a fake task is.
#[derive(Clone)]
pub(crate) struct FakeTask {
    pub(crate) spec: Spec,
    pub(crate) state: State,
    pub(crate) exit: Option<i32>,
    pub(crate) data: DataView,
}

#[derive(Default)]
struct World {
    tasks: BTreeMap<ShortId, FakeTask>,
    blobs: BTreeMap<Hash, Vec<u8>>,
    seq: u64,
    strategy: Strategy,
    draining: bool,
}

/// The fake.
pub(crate) struct Fake {
    world: Mutex<World>,
    changed: watch::Sender<u64>,
    addr: SocketAddr,
    home: PathBuf,
    /// Answers to [`Command::Await`] refuse, as for tasks of another node.
    pub(crate) foreign: AtomicBool,
    /// How often `Await` was asked.
    pub(crate) awaits: AtomicUsize,
    /// Set by `stop`.
    pub(crate) stopped: AtomicBool,
    /// Nothing is answered.
    pub(crate) gone: AtomicBool,
}

impl Fake {
    pub(crate) fn new(addr: SocketAddr, home: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            world: Mutex::default(),
            changed: watch::Sender::new(0),
            addr,
            home,
            foreign: AtomicBool::new(false),
            awaits: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        })
    }
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The task's work and need, as the worker would see them.
    pub(crate) fn spec(&self, id: ShortId) -> Option<Spec> {
        self.world().tasks.get(&id).map(|t| t.spec.clone())
    }
    /// Ids in order.
    pub(crate) fn ids(&self) -> Vec<ShortId> {
        self.world().tasks.keys().copied().collect()
    }
    /// Puts a task of a made-up id into the world, running.
    pub(crate) fn plant(&self, id: ShortId) {
        let spec =
            Spec { need: clawmesh_protocol::spec::split(&echo()).map(|s| s.0).unwrap_or_else(|e| panic!("{e}")), payload: Data::EMPTY };
        let task = FakeTask { spec, state: State::Running, exit: None, data: DataView::Inline(Vec::new()) };
        self.world().tasks.insert(id, task);
    }
    /// Ends a task.
    pub(crate) fn end(&self, id: ShortId, state: State, exit: Option<i32>, stdout: &[u8], stderr: &[u8]) {
        let bytes = capture(stdout.to_vec(), stderr.to_vec(), 0, 0);
        let mut world = self.world();
        let data = if bytes.len() <= INLINE_MAX {
            DataView::Inline(bytes)
        } else {
            let hash = Hash::of(&bytes);
            let len = bytes.len() as u64;
            world.blobs.insert(hash, bytes);
            DataView::Blob(hash, len)
        };
        if let Some(t) = world.tasks.get_mut(&id) {
            (t.state, t.exit, t.data) = (state, exit, data);
        }
        drop(world);
        self.changed.send_modify(|n| *n += 1);
    }
    /// Waits until so many tasks were submitted.
    pub(crate) async fn submitted(&self, n: usize) {
        let mut changed = self.changed.subscribe();
        while self.world().tasks.len() < n {
            changed.changed().await.unwrap_or_else(|e| panic!("{e}"));
        }
    }

    fn submit(&self, spec: Spec) -> Result<Submitted, Refusal> {
        if spec.need.kind == clawmesh_protocol::spec::Kind::Skill && spec.need.skill != "count_words" {
            let known = vec!["count_words".into(), "checksum".into()];
            return Err(Refusal::UnknownSkill { name: spec.need.skill, known });
        }
        let work = match &spec.payload {
            Data::Inline(b) => b.0.clone(),
            Data::Blob(h, _) => self.world().blobs.get(h).cloned().unwrap_or_default(),
        };
        let work: Work = codec::decode(&work).map_err(|_| Refusal::Invalid { message: "bad payload".into() })?;
        let mut world = self.world();
        world.seq += 1;
        let id = TaskId { origin: Origin { peer: HERE, store: 7 }, inc: 1, seq: world.seq };
        let task = FakeTask { spec: spec.clone(), state: State::Running, exit: None, data: DataView::Inline(Vec::new()) };
        world.tasks.insert(id.short(), task);
        drop(world);
        self.changed.send_modify(|n| *n += 1);
        // `echo` and `out CODE STDOUT STDERR` end at once.
        let Blob(input) = &work.input;
        if spec.need.skill == "echo" {
            self.end(id.short(), State::Completed, Some(0), input, b"");
        } else if let [out, code, stdout, stderr] = work.argv.as_slice()
            && out == "out"
        {
            let code = code.parse().unwrap_or(1);
            let state = if code == 0 { State::Completed } else { State::Failed };
            self.end(id.short(), state, Some(code), stdout.as_bytes(), stderr.as_bytes());
        }
        Ok(Submitted { id: id.short(), task: Some(id), copies: 2 })
    }
    fn find(&self, typed: &str) -> Result<(ShortId, FakeTask), Refusal> {
        let not_found = || Refusal::NotFound { id: typed.to_owned() };
        let prefix = short_prefix(typed).ok_or_else(not_found)?;
        let world = self.world();
        let mut hits = world.tasks.iter().filter(|(id, _)| id.to_string()[1..].starts_with(&prefix));
        match (hits.next(), hits.next()) {
            (None, _) => Err(not_found()),
            (Some((id, t)), None) => Ok((*id, t.clone())),
            (Some((a, _)), Some((b, _))) => Err(Refusal::Ambiguous { id: typed.to_owned(), candidates: vec![*a, *b] }),
        }
    }
    fn query(&self, q: Query) -> Answer {
        let found = |id: &str, then: &dyn Fn(ShortId, FakeTask) -> Answer| match self.find(id) {
            Ok((id, t)) => then(id, t),
            Err(r) => Answer::Refused(r),
        };
        match q {
            Query::Tasks { state, limit, before } => {
                let world = self.world();
                let mut all: Vec<TaskView> = world
                    .tasks
                    .iter()
                    .rev()
                    .filter(|(id, t)| state.is_none_or(|s| s == t.state) && before.is_none_or(|b| **id < b))
                    .map(|(id, t)| view(*id, t))
                    .collect();
                let more = all.len() > limit as usize;
                all.truncate(limit as usize);
                Answer::Tasks { tasks: all, more }
            }
            Query::Show(id) => found(&id, &|id, t| Answer::Task(Box::new(view(id, &t)))),
            Query::Result(id) => found(&id, &|id, t| {
                let data = t.state.ended().then(|| t.data.clone());
                Answer::Result(ResultView { task: Box::new(view(id, &t)), data, worker: Some(THERE), attempt: Some(1) })
            }),
            Query::Explain(id) => found(&id, &|id, t| {
                Answer::Explain(ExplainView {
                    id,
                    state: t.state,
                    verdict: "it runs on beta".into(),
                    strategy: Strategy::LeastTasks,
                    ahead: None,
                    nodes: Vec::new(),
                    placed: None,
                })
            }),
        }
    }
    async fn ended(&self, id: TaskId) -> Reply {
        self.awaits.fetch_add(1, Ordering::Relaxed);
        if self.foreign.load(Ordering::Relaxed) {
            return Reply::Refused(Refusal::NotFound { id: id.to_string() });
        }
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(t) = self.world().tasks.get(&id.short())
                && t.state.ended()
            {
                return Reply::Ended(TaskEnd {
                    id: id.short(),
                    state: t.state,
                    exit_code: t.exit,
                    reason: String::new(),
                    data: t.data.clone(),
                    worker: Some(THERE),
                });
            }
            if changed.changed().await.is_err() {
                return Reply::Refused(Refusal::NotFound { id: id.to_string() });
            }
        }
    }
    fn status(&self) -> StatusView {
        let world = self.world();
        StatusView {
            node: HERE,
            name: "alpha".into(),
            coordinator: Some(HERE),
            coordinator_name: "alpha".into(),
            epoch: 3,
            role: "coordinator".into(),
            members: vec![member(HERE, "alpha", true), member(THERE, "beta", false)],
            queue: QueueView { running: world.tasks.len() as u64, ..QueueView::default() },
            strategy: world.strategy,
            replicas: vec![HERE, THERE],
            records: 0,
            digest: "0".repeat(32),
            outbox: 0,
            draining: world.draining,
            store_bad: false,
            quorum: None,
        }
    }
}

impl Backend for Fake {
    fn call(&self, cmd: Command) -> BoxFuture<'_, Result<Reply, Gone>> {
        async move {
            if self.gone.load(Ordering::Relaxed) {
                return Err(Gone);
            }
            Ok(match cmd {
                Command::Submit(specs) => Reply::Submitted(specs.into_iter().map(|s| self.submit(s)).collect()),
                Command::Cancel(id) => match self.find(&id) {
                    Ok((id, t)) => {
                        self.end(id, State::Cancelled, None, b"", b"");
                        Reply::Cancelled(id, t.state)
                    }
                    Err(r) => Reply::Refused(r),
                },
                Command::Query(q) => Reply::Answer(self.query(q)),
                Command::Await(id) => self.ended(id).await,
                Command::Status => Reply::Status(Box::new(self.status())),
                Command::Skills(_) => Reply::Skills(1, vec![skill()]),
                Command::Resolve(names) => Reply::Resolved(Resolved { missing: names, ..Resolved::default() }),
                Command::ChangeSetting(key, value, _) => match (&*key, value.unwrap_or_default().parse()) {
                    ("strategy", Ok(s)) => {
                        self.world().strategy = s;
                        Reply::Ok
                    }
                    _ => Reply::Refused(Refusal::Invalid { message: format!("no such value of {key}: one of them is best_fit") }),
                },
                Command::Settings => Reply::Settings(SettingsView::default()),
                Command::SetStrategy(_) => Reply::Ok,
                Command::Drain(d) => {
                    self.world().draining = d;
                    Reply::Ok
                }
                Command::Forget(_)
                | Command::ForgetNode(_)
                | Command::Adopt
                | Command::ChangeQuorum(..)
                | Command::Leave
                | Command::Suspend
                | Command::Resume => Reply::Ok,
            })
        }
        .boxed()
    }
    fn store_payload(&self, work: Vec<u8>) -> BoxFuture<'_, Result<Data, String>> {
        let data = if work.len() <= INLINE_MAX {
            Data::Inline(Blob(work))
        } else {
            let (hash, len) = (Hash::of(&work), work.len() as u64);
            self.world().blobs.insert(hash, work);
            Data::Blob(hash, len)
        };
        async move { Ok(data) }.boxed()
    }
    fn read_data(&self, data: DataView, from: Option<Peer>) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        let bytes = match data {
            DataView::Inline(b) => Ok(b),
            DataView::Blob(h, _) if from == Some(THERE) => {
                self.world().blobs.get(&h).cloned().ok_or_else(|| "it has no such blob".to_owned())
            }
            DataView::Blob(..) => Err("nobody was named".to_owned()),
        };
        async move { bytes }.boxed()
    }
    fn logs(&self, worker: Peer, _: ShortId, attempt: u32, follow: bool) -> BoxFuture<'_, Result<LogStream, String>> {
        async move {
            if worker != THERE || attempt != 1 {
                return Err("wrong worker".into());
            }
            let mut bytes = vec![1, 0, 0, 0, 3];
            bytes.extend_from_slice(b"out");
            bytes.extend_from_slice(&[2, 0, 0, 0, 3]);
            bytes.extend_from_slice(if follow { b"end" } else { b"err" });
            // Pieces that do not fall on the borders of frames.
            let pieces: Vec<_> = bytes.chunks(4).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
            Ok(stream::iter(pieces).boxed())
        }
        .boxed()
    }
    fn providers(&self, skill: String) -> BoxFuture<'_, Vec<Peer>> {
        async move { if skill == "count_words" { vec![THERE] } else { Vec::new() } }.boxed()
    }
    fn local_skills(&self) -> Vec<super::types::LocalSkill> {
        Vec::new()
    }
    fn metrics(&self) -> String {
        "clawmesh_nodes 2\n# EOF\n".into()
    }
    fn info(&self) -> NodeInfo {
        NodeInfo {
            mesh: "testmesh".into(),
            api: self.addr,
            mesh_addresses: vec!["/ip4/127.0.0.1/tcp/8889".into()],
            ticket: "clawmesh-ticket".into(),
            version: "0.1.0".into(),
            home: self.home.clone(),
            commands: true,
        }
    }
    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// A task for `echo`.
pub(crate) fn echo() -> clawmesh_protocol::face::NewTask {
    clawmesh_protocol::face::NewTask { skill: Some("echo".into()), input: Some("hi".into()), ..Default::default() }
}

fn skill() -> SkillView {
    SkillView {
        name: "count_words".into(),
        hash: "ab".repeat(32),
        version: "1.0.0".into(),
        description: "Counts words".into(),
        runnable: true,
        nodes: vec![(THERE, "beta".into(), true)],
        ..SkillView::default()
    }
}

fn member(node: Peer, name: &str, this: bool) -> MemberView {
    MemberView {
        node,
        name: name.into(),
        state: "online".into(),
        priority: 100,
        coordinator: this,
        this,
        boot: 1,
        slots: 2,
        running: 0,
        agent: String::new(),
        agent_slots: 0,
        agent_running: 0,
        skills: vec!["count_words".into()],
        labels: Vec::new(),
        facts: Facts::default(),
        age_ms: 10,
        version: "0.1.0".into(),
        via: None,
    }
}

fn view(id: ShortId, t: &FakeTask) -> TaskView {
    TaskView {
        id,
        state: t.state,
        reason: String::new(),
        title: t.spec.need.title.clone(),
        kind: t.spec.need.kind,
        skill: t.spec.need.skill.clone(),
        priority: t.spec.need.priority,
        strategy: t.spec.need.strategy,
        origin: HERE,
        origin_name: "alpha".into(),
        user: t.spec.need.user.clone(),
        submitted_at: 1_700_000_000_000,
        ended_at: t.state.ended().then_some(1_700_000_001_000),
        exit_code: t.exit,
        retries: t.spec.need.retries,
        attempts: vec![AttemptView {
            number: 1,
            epoch: 3,
            node: THERE,
            name: "beta".into(),
            state: t.state.word().into(),
            started_at: 1_700_000_000_500,
            ended_at: t.state.ended().then_some(1_700_000_001_000),
            exit_code: t.exit,
            reason: String::new(),
        }],
        attempts_dropped: 0,
        cancel: false,
        delivered: t.state.ended(),
        copies: 2,
        duplicate_of: None,
    }
}
