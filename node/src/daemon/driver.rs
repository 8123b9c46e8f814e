//! The one loop that drives the core: everything that happens goes in, everything it says is done.
//! It decides nothing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clawmesh_protocol::{
    codec,
    face::{Command, Reply},
    gate::Gate,
    ids::{Attempt, Hash, Peer, TaskId},
    io::{Event, Input, Output, Source},
    mesh::Mesh,
    message::{Gossip, Message},
    relay::Relay,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{agent::Agents, bulk, clock, figures::Figures, notes::Notes, run, seal::Seal, sharing::Shared};
use crate::{
    exec::{Executor, Exit, JobKey},
    net::{Net, NetEvent, Topic},
    store::{self, Completion, Store},
};

/// Inputs that may wait from helpers of the driver (blobs, exits, skills, facts).
pub(crate) const INPUTS_MAX: usize = 4_096;
/// Commands of the API that may wait.
pub(crate) const CALLS_MAX: usize = 4_096;
/// Inputs handled before the runtime gets its turn.
const BURST: usize = 256;

/// A command and where its answer goes.
pub(crate) struct Call {
    pub(crate) cmd: Command,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// What the loop listens to.
pub(crate) struct Sources {
    pub(crate) net: mpsc::Receiver<NetEvent>,
    pub(crate) commits: mpsc::UnboundedReceiver<Completion>,
    pub(crate) exits: mpsc::Receiver<(JobKey, Exit)>,
    pub(crate) calls: mpsc::Receiver<Call>,
    /// Pending calls whose caller is gone, by number.
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) learned: mpsc::Sender<(Peer, Vec<String>)>,
}

/// What the loop acts on.
pub(crate) struct Hands {
    pub(crate) net: Arc<Net>,
    pub(crate) store: Arc<Store>,
    pub(crate) exec: Executor,
    pub(crate) shelf: run::Shelf,
    pub(crate) agents: Agents,
    pub(crate) work_dir: PathBuf,
    pub(crate) figures: Figures,
    pub(crate) seal: Seal,
    pub(crate) shared: Shared,
    pub(crate) notes: Notes,
    pub(crate) preparing: Arc<Preparing>,
    pub(crate) inputs: mpsc::Sender<Input>,
}

/// Attempts whose inputs are being fetched.
#[derive(Default)]
pub(crate) struct Preparing {
    open: Mutex<HashMap<JobKey, CancellationToken>>,
    leaving: AtomicBool,
}

impl Preparing {
    fn open(&self) -> MutexGuard<'_, HashMap<JobKey, CancellationToken>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        self.open().values().for_each(CancellationToken::cancel);
    }
}

/// The core, its gate, and what is under way.
pub(crate) struct Driver {
    mesh: Mesh,
    gate: Gate,
    hands: Hands,
    calls: HashMap<u64, oneshot::Sender<Reply>>,
    next_call: u64,
    jobs: BTreeMap<JobKey, (TaskId, Attempt)>,
    backlog: VecDeque<store::Batch>,
    wake: Option<u64>,
    leaving: bool,
    failed: Option<String>,
}

/// Why the loop ended.
pub(crate) enum End {
    /// `Command::Leave` was carried out.
    Left,
    /// The store failed (D4): the node must restart.
    Failed(String),
    /// Another process runs with this node's key.
    Cloned,
}

impl Driver {
    pub(crate) fn new(mesh: Mesh, hands: Hands, first: Vec<Output>) -> Self {
        let mut d = Self {
            mesh,
            gate: Gate::default(),
            hands,
            calls: HashMap::new(),
            next_call: 1,
            jobs: BTreeMap::new(),
            backlog: VecDeque::new(),
            wake: None,
            leaving: false,
            failed: None,
        };
        d.act(first);
        let addrs = super::reachable(&d.hands.net).iter().map(ToString::to_string).collect();
        d.feed(Input::Addresses(addrs));
        d
    }

    /// Runs until the node leaves or fails.
    pub(crate) async fn run(&mut self, src: &mut Sources) -> End {
        let mut figures_at = tokio::time::interval(Duration::from_millis(500));
        figures_at.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sweep = 0u32;
        loop {
            if let Some(why) = self.failed.take() {
                return End::Failed(why);
            }
            let wake = self.until_wake();
            tokio::select! {
                biased;
                Some(c) = src.commits.recv() => {
                    self.committed(c);
                    for _ in 0..BURST {
                        let Ok(c) = src.commits.try_recv() else { break };
                        self.committed(c);
                    }
                }
                Some((key, exit)) = src.exits.recv() => self.exited(key, exit),
                Some(input) = src.inputs.recv() => self.feed(input),
                Some(e) = src.net.recv() => {
                    let mut next = Some(e);
                    for _ in 0..BURST {
                        let Some(e) = next else { break };
                        if self.is_me(&e) {
                            return End::Cloned;
                        }
                        self.net_event(e, &src.learned);
                        next = src.net.try_recv().ok();
                    }
                    if let Some(e) = next {
                        self.net_event(e, &src.learned);
                    }
                }
                Some(call) = src.calls.recv() => {
                    let leave = matches!(call.cmd, Command::Leave);
                    self.call(call);
                    if leave {
                        self.leaving = true;
                        // Everything is told to end at once, so that the ends are known before we go.
                        self.hands.preparing.leave();
                        let exec = self.hands.exec.clone();
                        tokio::spawn(async move { exec.kill_all(Duration::from_millis(300)).await });
                    }
                }
                () = tokio::time::sleep(wake) => self.feed(Input::Tick),
                _ = figures_at.tick() => {
                    self.hands.figures.status(&self.mesh.status());
                    sweep += 1;
                    if sweep.is_multiple_of(4) {
                        self.forget_gone_callers();
                    }
                }
                else => return End::Left,
            }
            if self.leaving && self.calls.is_empty() && self.gate.is_empty() {
                return End::Left;
            }
        }
    }

    fn is_me(&self, e: &NetEvent) -> bool {
        matches!(e, NetEvent::Clone { peer } if Peer(*peer) == self.mesh.me())
    }

    fn until_wake(&self) -> Duration {
        let now = clock::now().ms;
        Duration::from_millis(self.wake.map_or(500, |w| w.saturating_sub(now)).min(500))
    }

    fn feed(&mut self, input: Input) {
        let mut out = Vec::new();
        self.mesh.handle(clock::now(), input, &mut out);
        #[cfg(debug_assertions)]
        if let Err(e) = self.mesh.check_invariants() {
            tracing::error!(broken = %e, "BUG: an invariant of the core is broken");
            self.failed = Some(format!("BUG: {e}"));
        }
        self.act(out);
    }

    fn act(&mut self, out: Vec<Output>) {
        let mut ready = Vec::new();
        self.gate.pass(out, &mut ready);
        for o in ready {
            self.do_one(o);
        }
    }

    fn do_one(&mut self, o: Output) {
        match o {
            Output::Persist(b) => self.commit(store::Batch { no: b.no, puts: b.puts, dels: b.dels, side: b.side }),
            Output::Send { to, msg, .. } => {
                // A lane that is down drops it: the core says again what matters when the lane is up.
                let _ = self.hands.net.send(&to.0, codec::encode(&msg).into());
            }
            Output::Relay { via, mut envelope, .. } => {
                if self.hands.seal.sign(&mut envelope) {
                    // As for any other message: a lane that is down drops it.
                    let _ = self.hands.net.send(&via.0, codec::encode(&Message::Relay(envelope)).into());
                }
            }
            Output::Publish { msg, .. } => {
                let topic = match &msg {
                    Gossip::Hb(_) => Topic::Heartbeat,
                    _ => Topic::Advert,
                };
                self.hands.net.publish(topic, codec::encode(&msg).into());
            }
            Output::Start { job, .. } => self.start(job),
            Output::Kill(id, attempt) => {
                let reason = if self.leaving { "this node stops" } else { "it was cancelled" };
                let key = run::key(&id, &attempt);
                if let Some(token) = self.hands.preparing.open().get(&key) {
                    token.cancel();
                }
                self.hands.exec.kill(&key, reason);
            }
            Output::Fetch(hash, max, from) => self.fetch(hash, max, from),
            Output::Dial(peer, addrs) => self.dial(peer, addrs),
            Output::DropBlob(hash) => {
                let store = self.hands.store.clone();
                tokio::task::spawn_blocking(move || {
                    if let Err(e) = store.blobs().remove(store::BlobHash(hash.0)) {
                        tracing::debug!(error = %e, "a blob could not be removed");
                    }
                });
            }
            Output::Reply { req, reply, .. } => {
                if let Some(tx) = self.calls.remove(&req) {
                    // The caller may have gone.
                    let _ = tx.send(reply);
                }
            }
            Output::Event(e) => {
                if e == Event::Alarm("forgotten") {
                    self.failed = Some(
                        "the mesh has forgotten this node ('nodes forget'): delete the folder 'store' in its home to let it return as a new one".into(),
                    );
                }
                if let Event::Notes(peer, what) = &e {
                    self.hands.notes.heard(*peer, *what);
                }
                self.hands.figures.event(&e);
            }
            Output::WakeAt(ms) => self.wake = Some(ms),
        }
    }

    // ---- the store ----

    fn commit(&mut self, batch: store::Batch) {
        self.backlog.push_back(batch);
        self.push_backlog();
    }

    /// In order: a batch that the store has no room for waits for the next completion.
    fn push_backlog(&mut self) {
        while let Some(batch) = self.backlog.pop_front() {
            match self.hands.store.commit(batch) {
                Ok(()) => {}
                Err(store::Refused::Busy(batch)) => {
                    self.backlog.push_front(batch);
                    return;
                }
                Err(e) => return self.store_failed(e.to_string()),
            }
        }
    }

    fn committed(&mut self, c: Completion) {
        match c {
            Completion::Committed { upto, took, records } => {
                tracing::trace!(upto, ?took, records, "durable");
                let mut ready = Vec::new();
                self.gate.persisted(upto, &mut ready);
                for o in ready {
                    self.do_one(o);
                }
                self.feed(Input::Persisted(upto));
                self.push_backlog();
            }
            Completion::Failed { error } => self.store_failed(error.to_string()),
        }
    }

    fn store_failed(&mut self, why: String) {
        if self.failed.is_none() {
            self.failed = Some(why);
            self.feed(Input::StoreBad);
        }
    }

    // ---- the network ----

    fn net_event(&mut self, e: NetEvent, learned: &mpsc::Sender<(Peer, Vec<String>)>) {
        match e {
            NetEvent::Up { peer } => self.feed(Input::Up(Peer(peer))),
            NetEvent::Reset { peer } => {
                self.feed(Input::Closed(Peer(peer)));
                self.feed(Input::Up(Peer(peer)));
            }
            NetEvent::Closed { peer } => self.feed(Input::Closed(Peer(peer))),
            NetEvent::Down { peer, refused } => self.feed(Input::Down(Peer(peer), refused)),
            NetEvent::Silent { peer } => self.feed(Input::Silent(Peer(peer))),
            NetEvent::Heard { peer } => self.feed(Input::Heard(Peer(peer))),
            NetEvent::Frame { peer, bytes } => match codec::decode::<Message>(&bytes) {
                Ok(Message::Relay(r)) if r.to == self.mesh.me() => self.relayed(Peer(peer), r),
                Ok(m) => self.feed(Input::Message(Peer(peer), m)),
                Err(e) => self.malformed(peer, &e),
            },
            NetEvent::Gossip { source, bytes, .. } => match codec::decode::<Gossip>(&bytes) {
                Ok(m) => self.feed(Input::Gossip(Peer(source), m)),
                Err(e) => self.malformed(source, &e),
            },
            NetEvent::Learned { peer, addrs } => {
                // Only a convenience for the next start: a full channel may lose it.
                let _ = learned.try_send((Peer(peer), addrs.iter().map(ToString::to_string).collect()));
            }
            NetEvent::Clone { peer } => {
                tracing::error!(peer = %Peer(peer), "two processes run with one node's key: a home directory was copied; stop one, delete its 'node.key', and start it again");
            }
            NetEvent::Subscribed { .. } => self.feed(Input::Tick),
            NetEvent::Listening { .. } | NetEvent::Unlistening { .. } => {
                let addrs = super::reachable(&self.hands.net).iter().map(ToString::to_string).collect();
                self.feed(Input::Addresses(addrs));
            }
        }
    }

    /// Nothing that its author has not signed reaches the core.
    fn relayed(&mut self, via: Peer, r: Relay) {
        if self.hands.seal.is_whole(&r) {
            return self.feed(Input::Relayed(via, r));
        }
        self.hands.figures.forged();
        tracing::warn!(%via, author = %r.from, "an envelope without its author's signature was dropped");
    }

    fn malformed(&self, peer: [u8; 32], e: &codec::Malformed) {
        self.hands.figures.malformed();
        tracing::debug!(peer = %Peer(peer), error = %e, "a malformed message was dropped");
    }

    fn dial(&self, peer: Peer, addrs: Vec<String>) {
        let Some(id) = crate::net::peer_id(&peer.0) else { return };
        let net = self.hands.net.clone();
        let addrs: Vec<libp2p::Multiaddr> = addrs.iter().filter_map(|a| a.parse::<libp2p::Multiaddr>().ok()?.with_p2p(id).ok()).collect();
        tokio::spawn(async move {
            for a in addrs {
                net.dial(a).await;
            }
        });
    }

    fn fetch(&self, hash: Hash, max: u64, from: Vec<Source>) {
        let (net, store, inputs) = (self.hands.net.clone(), self.hands.store.clone(), self.hands.inputs.clone());
        tokio::spawn(async move {
            let ok = bulk::fetch(&net, &store, hash, max, &from).await;
            // The driver is gone when the node stops.
            let _ = inputs.send(Input::Blob(hash, ok)).await;
        });
    }

    // ---- work ----

    fn start(&mut self, job: clawmesh_protocol::io::Job) {
        let key = run::key(&job.id, &job.attempt);
        self.jobs.insert(key.clone(), (job.id, job.attempt));
        let token = CancellationToken::new();
        self.hands.preparing.open().insert(key.clone(), token.clone());
        let (shared, preparing) = (self.hands.shared.clone(), self.hands.preparing.clone());
        let (store, shelf, exec) = (self.hands.store.clone(), self.hands.shelf.clone(), self.hands.exec.clone());
        let (inputs, dir, agents) = (self.hands.inputs.clone(), self.hands.work_dir.clone(), self.hands.agents.clone());
        tokio::spawn(async move {
            let prepared = token.run_until_cancelled(run::prepare(&job, &store, &shelf, &agents, &shared, dir)).await;
            let started = match prepared {
                Some(Ok(j)) => exec.start(j).map_err(|e| run::not_started(&e.to_string())),
                Some(Err(e)) => Err(e.into_exit(job.need.at_most_once)),
                None => Err(run::given_up(preparing.leaving.load(Ordering::Relaxed))),
            };
            preparing.open().remove(&key);
            match started {
                Ok(()) if token.is_cancelled() => {
                    exec.kill(&key, "it was cancelled");
                }
                Ok(()) => {}
                Err(exit) => {
                    let _ = inputs.send(Input::Exited(job.id, job.attempt, exit)).await;
                }
            }
        });
    }

    fn exited(&mut self, key: JobKey, exit: Exit) {
        let Some((id, attempt)) = self.jobs.remove(&key) else { return };
        let (store, inputs, leaving) = (self.hands.store.clone(), self.hands.inputs.clone(), self.leaving);
        let depot = self.hands.shared.depot.clone();
        tokio::spawn(async move {
            let exit = run::ended(exit, &id, leaving, &store, &depot).await;
            if let Some(h) = exit.data.blob() {
                let _ = inputs.send(Input::Blob(h, true)).await;
            }
            let _ = inputs.send(Input::Exited(id, attempt, exit)).await;
        });
    }

    // ---- local programs ----

    fn call(&mut self, call: Call) {
        let req = self.next_call;
        self.next_call += 1;
        self.calls.insert(req, call.reply);
        self.feed(Input::Command(req, call.cmd));
    }

    /// A caller that hung up needs no answer: the core may forget the question.
    fn forget_gone_callers(&mut self) {
        let gone: Vec<u64> = self.calls.iter().filter(|(_, tx)| tx.is_closed()).map(|(r, _)| *r).collect();
        for req in gone {
            self.calls.remove(&req);
            self.feed(Input::Command(0, Command::Forget(req)));
        }
    }
}
