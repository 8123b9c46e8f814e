//! The loop around the libp2p swarm. It moves events and makes no one wait: all that may block lives in the lanes' own tasks.

mod build;
mod events;
mod lanes;

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, connection_limits,
    core::transport::ListenerId,
    gossipsub, identify, mdns,
    metrics::Metrics,
    swarm::{
        ConnectionId, NetworkBehaviour, SwarmEvent,
        behaviour::toggle::Toggle,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use prometheus_client::registry::Registry;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use self::build::{build_swarm, listen_addr};
use super::{
    Addresses, BulkRequest, Lanes, NetConfig, NetError, NetEvent, Peer, Topic,
    book::{Book, Target},
    dht, discovery,
    identity::peer_id,
    lane::{self, OpenTx},
    link::{Common, LaneSender, Ready, Report},
    metrics::{Counters, DropReason, RefuseReason},
    roster::Roster,
};

/// Orders from the handle.
pub(super) enum Command {
    Publish(Topic, Bytes),
    Provide(Vec<u8>),
    StopProvide(Vec<u8>),
    Find(Vec<u8>, oneshot::Sender<Vec<Peer>>),
    Bulk(Peer, OpenTx),
    Dial(Multiaddr),
    /// How many connections there are or are about to be.
    #[cfg(test)]
    Connections(oneshot::Sender<usize>),
    Stop,
}

/// What handle and loop share.
pub(super) struct Shared {
    pub(super) lanes: Lanes,
    pub(super) addresses: Addresses,
    pub(super) counters: Counters,
    pub(super) events: mpsc::Sender<NetEvent>,
    pub(super) bulk: mpsc::Sender<BulkRequest>,
    pub(super) mute: Arc<AtomicBool>,
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    lane: lane::Behaviour,
    gossip: gossipsub::Behaviour,
    kad: dht::Behaviour,
    identify: identify::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

/// See the module's text.
pub(super) struct Loop {
    swarm: Swarm<Behaviour>,
    metrics: Metrics,
    shared: Shared,
    common: Common,
    commands: mpsc::Receiver<Command>,
    reports: mpsc::Receiver<Report>,
    /// Addresses from lookups and from the tailnet.
    found: mpsc::Receiver<discovery::Found>,
    found_tx: mpsc::Sender<discovery::Found>,
    /// Told once, when the first address is there or listening failed.
    listening: Option<oneshot::Sender<io::Result<()>>>,
    listeners: Vec<ListenerId>,
    want_ip6: bool,
    book: Book,
    roster: Roster,
    index: dht::Index,
    /// At most the limit of connections.
    conns: HashMap<ConnectionId, Conn>,
    /// Lanes after their hello; at most one per connection.
    ready: HashMap<ConnectionId, Ready>,
    /// When a lost peer counts as down, and whether it was refused meanwhile.
    closing: HashMap<PeerId, Instant>,
    /// Places for inbound bulk streams, of connected peers.
    bulk_places: HashMap<PeerId, Arc<Semaphore>>,
    /// Handshakes that failed in a row, by address; for a hint to people.
    bad_handshakes: HashMap<Multiaddr, u32>,
    out: VecDeque<Step>,
}

struct Conn {
    peer: PeerId,
    raw: Peer,
    we_dialed: bool,
    remote: Multiaddr,
    since: Instant,
    /// Our decision to close it is taken.
    doomed: bool,
    /// libp2p reported it closed; it stays here until its lane has ended, too.
    closed: bool,
    lane: LaneState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LaneState {
    None,
    Running,
    Ended,
}

impl Conn {
    /// It has or may yet get a lane.
    fn is_promising(&self) -> bool {
        !self.doomed && !self.closed && self.lane != LaneState::Ended
    }
}

/// What leaves the loop, in order.
enum Step {
    Tell(NetEvent),
    /// `Up` or `Reset`, and the lane that is meant.
    Begin {
        event: NetEvent,
        peer: Peer,
        sender: LaneSender,
        activate: oneshot::Sender<()>,
    },
}

impl Loop {
    /// Builds the swarm and starts to listen; must be called inside the network's runtime.
    ///
    /// # Errors
    /// A part refused its configuration, or listening failed at once.
    pub(super) fn build(
        config: NetConfig,
        shared: Shared,
        registry: &mut Registry,
        commands: mpsc::Receiver<Command>,
        listening: oneshot::Sender<io::Result<()>>,
    ) -> Result<Self, NetError> {
        let now = Instant::now();
        let keypair = config.identity.keypair();
        let local = keypair.public().to_peer_id();
        let mut swarm = build_swarm(&config, local, registry)?;
        let listener = swarm
            .listen_on(listen_addr(config.port, config.listen_loopback_only))
            .map_err(|e| NetError::Listen { port: config.port, source: io::Error::other(e.to_string()) })?;
        let mut book = Book::new(local);
        for (peer, addrs) in config.known {
            if let Some(id) = peer_id(&peer) {
                book.add_known(id, addrs, now);
            }
        }
        let (found_tx, found) = mpsc::channel(1);
        if let Some(command) = config.tailscale {
            let mut ports = vec![config.tailscale_port];
            ports.extend(Some(config.port).filter(|p| *p != 0 && *p != config.tailscale_port));
            let counters = shared.counters.clone();
            tokio::spawn(discovery::tailscale(command, ports, found_tx.clone(), counters));
        }
        let (reports_tx, reports) = mpsc::channel(REPORTS_MAX);
        let common = Common {
            boot: config.boot,
            events: shared.events.clone(),
            reports: reports_tx,
            counters: shared.counters.clone(),
            mute: shared.mute.clone(),
        };
        let mut this = Self {
            metrics: Metrics::new(registry),
            swarm,
            shared,
            common,
            commands,
            reports,
            found,
            found_tx,
            listening: Some(listening),
            listeners: vec![listener],
            want_ip6: !config.listen_loopback_only,
            book,
            roster: Roster::new(local),
            index: dht::Index::default(),
            conns: HashMap::new(),
            ready: HashMap::new(),
            closing: HashMap::new(),
            bulk_places: HashMap::new(),
            bad_handshakes: HashMap::new(),
            out: VecDeque::new(),
        };
        for addr in config.seeds {
            this.add_seed(addr, now);
        }
        Ok(this)
    }

    /// Runs until [`Command::Stop`], or until the handle is gone.
    pub(super) async fn run(mut self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let events = self.shared.events.clone();
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm(event),
                Some(report) = self.reports.recv() => self.on_report(report),
                command = self.commands.recv() => match command {
                    Some(Command::Stop) | None => break,
                    Some(command) => self.on_command(command),
                },
                permit = events.reserve(), if !self.out.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(step) = self.out.pop_front() {
                            deliver(step, permit, &self.shared.lanes);
                        }
                    }
                    // Nobody listens any more; the handle will stop us soon.
                    Err(_) => self.out.clear(),
                },
                Some((trust, addrs)) = self.found.recv() => {
                    for addr in addrs {
                        self.book.add_place(addr, trust, Instant::now());
                    }
                }
                _ = tick.tick() => self.on_tick(),
            }
            self.flush();
        }
        self.close().await;
    }

    /// Lets the lanes send what they hold, then closes all connections in good order.
    async fn close(mut self) {
        for listener in std::mem::take(&mut self.listeners) {
            self.swarm.remove_listener(listener);
        }
        for ready in self.ready.values() {
            ready.sender.finish();
        }
        let goodbye = async {
            while !self.conns.is_empty() {
                tokio::select! {
                    event = self.swarm.select_next_some() => {
                        if let SwarmEvent::ConnectionClosed { connection_id, .. } = event {
                            self.conns.remove(&connection_id);
                        }
                    }
                    Some(report) = self.reports.recv() => {
                        if let Report::Ended { conn, .. } = report {
                            self.swarm.close_connection(conn);
                        }
                    }
                }
            }
        };
        // Who has not taken our last words by then will see the connection break.
        let _ = timeout(GOODBYE, goodbye).await;
    }

    /// Hands over what can be handed over without waiting.
    fn flush(&mut self) {
        while !self.out.is_empty() {
            let Ok(permit) = self.shared.events.try_reserve() else {
                return;
            };
            let Some(step) = self.out.pop_front() else {
                return;
            };
            deliver(step, permit, &self.shared.lanes);
        }
    }

    fn tell(&mut self, event: NetEvent) {
        self.out.push_back(Step::Tell(event));
    }

    fn on_command(&mut self, command: Command) {
        let now = Instant::now();
        let nodes = self.roster.len() + 1;
        let behaviour = self.swarm.behaviour_mut();
        match command {
            Command::Publish(topic, bytes) => {
                match behaviour.gossip.publish(topic.ident(), bytes) {
                    // Alone, or nobody subscribed yet: the upper layer publishes again when somebody does.
                    Ok(_) | Err(gossipsub::PublishError::NoPeersSubscribedToTopic | gossipsub::PublishError::Duplicate) => {}
                    Err(e) => {
                        tracing::debug!(error = %e, "gossip was not published");
                        self.shared.counters.drop(DropReason::GossipPublish);
                    }
                }
            }
            Command::Provide(key) => self.index.provide(&mut behaviour.kad, key, now, nodes),
            Command::StopProvide(key) => self.index.stop_provide(&mut behaviour.kad, &key),
            Command::Find(key, answer) => self.index.find(&mut behaviour.kad, &key, answer),
            Command::Bulk(peer, tx) => {
                let target = peer_id(&peer).and_then(|id| Some((id, self.roster.active(&id)?)));
                // Without a lane the sender is dropped, which says so.
                if let Some((id, conn)) = target {
                    behaviour.lane.open_bulk(id, conn, tx);
                }
            }
            Command::Dial(addr) => {
                self.add_seed(addr, now);
                self.dial_due(now);
            }
            #[cfg(test)]
            Command::Connections(answer) => {
                let _ = answer.send(self.conns.len() + self.book.dialing());
            }
            Command::Stop => {}
        }
    }

    fn add_seed(&mut self, addr: Multiaddr, now: Instant) {
        if discovery::is_named(&addr) {
            // One task per name, from people and tickets: a handful.
            tokio::spawn(discovery::resolve(addr, self.found_tx.clone()));
        } else {
            self.book.dial_now(addr, now);
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        let nodes = self.roster.len() + 1;
        self.index.tick(&mut self.swarm.behaviour_mut().kad, now, nodes);
        for conn in self.roster.stale(now) {
            self.close_duplicate(conn);
        }
        let late: Vec<_> = self
            .conns
            .iter()
            .filter(|(_, c)| c.lane == LaneState::None && !c.closed && now - c.since > LANE_TIMEOUT)
            .map(|(id, _)| *id)
            .collect();
        for conn in late {
            self.shared.counters.refuse(RefuseReason::BadHello);
            self.doom(conn);
        }
        let over: Vec<_> = self.closing.iter().filter(|(_, deadline)| **deadline <= now).map(|(peer, _)| *peer).collect();
        for peer in over {
            self.down(peer, false);
        }
        self.dial_due(now);
    }

    fn dial_due(&mut self, now: Instant) {
        for target in self.book.due(now) {
            let opts = match &target {
                Target::Peer(peer, addrs) => DialOpts::peer_id(*peer)
                    .condition(PeerCondition::NotDialing)
                    .addresses(addrs.clone())
                    // Dialing from the listening port would fail when both sides dial at the same time.
                    .allocate_new_port()
                    .build(),
                Target::Place(addr) => {
                    if self.is_own(addr) {
                        self.book.is_self(addr);
                        continue;
                    }
                    DialOpts::unknown_peer_id().address(addr.clone()).allocate_new_port().build()
                }
            };
            let conn = opts.connection_id();
            match self.swarm.dial(opts) {
                Ok(()) => self.book.started(conn, &target),
                Err(e) => {
                    tracing::debug!(error = %e, "could not dial");
                    self.book.not_started(&target, now);
                }
            }
        }
    }

    fn is_own(&self, addr: &Multiaddr) -> bool {
        self.swarm.listeners().any(|own| own == addr)
    }
}

/// Lets one event out. A lane takes frames just before the upper layer hears of it, and delivers frames just after.
fn deliver(step: Step, permit: mpsc::Permit<'_, NetEvent>, lanes: &Lanes) {
    match step {
        Step::Tell(event) => permit.send(event),
        Step::Begin { event, peer, sender, activate } => {
            // If it ended meanwhile it takes no frames, and `Closed` is further back in the queue.
            if !activate.is_closed() {
                lanes.write().unwrap_or_else(PoisonError::into_inner).insert(peer, sender);
            }
            permit.send(event);
            let _ = activate.send(());
        }
    }
}

/// Re-dials, the index and time-outs are looked at this often.
const TICK: Duration = Duration::from_millis(50);
/// A member opens its lane at once; a connection without one is of no use.
const LANE_TIMEOUT: Duration = Duration::from_secs(4);
/// For the last frames on the way out.
const GOODBYE: Duration = Duration::from_millis(250);
/// Events held back while the upper layer is slow; above, gossip is dropped and new lanes are refused.
const BACKLOG_MAX: usize = 4096;
const REPORTS_MAX: usize = 1024;
