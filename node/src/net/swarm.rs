//! The loop around the libp2p swarm. It moves events and makes no one wait: all that may block lives in the lanes' own tasks.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{Ipv4Addr, Ipv6Addr},
    num::NonZeroUsize,
    sync::{Arc, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, connection_limits,
    core::{ConnectedPoint, transport::ListenerId},
    gossipsub, identify, mdns,
    metrics::{Metrics, Recorder},
    multiaddr::Protocol,
    swarm::{
        ConnectionId, DialError, ListenError, NetworkBehaviour, SwarmEvent,
        behaviour::toggle::Toggle,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use prometheus_client::registry::Registry;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    Addresses, BulkRequest, Lanes, NetConfig, NetError, NetEvent, Peer, Topic,
    book::{Book, Target, Trust, is_loopback, split_peer},
    bulk, dht, discovery, gossip,
    identity::{peer_id, raw},
    lane::{self, OpenTx},
    link::{self, Common, End, LaneSender, Ready, Report},
    metrics::{Counters, Direction, DropReason, RefuseReason},
    roster::{Act, Roster},
    ticket, transport,
    transport::DialFailure,
};

/// Orders from the handle.
pub(super) enum Command {
    Publish(Topic, Bytes),
    Provide(Vec<u8>),
    StopProvide(Vec<u8>),
    Find(Vec<u8>, oneshot::Sender<Vec<Peer>>),
    Bulk(Peer, OpenTx),
    Dial(Multiaddr),
    /// How many connections there are.
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
    tailnet: mpsc::Receiver<Vec<Multiaddr>>,
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
    /// Puts a lane to use, after `Up` or `Reset` was taken.
    Start { peer: Peer, sender: LaneSender, activate: oneshot::Sender<()> },
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
        let listener = swarm.listen_on(listen_addr(config.port, config.listen_loopback_only)).map_err(|e| NetError::Listen {
            port: config.port,
            source: io::Error::other(e.to_string()),
        })?;
        let mut book = Book::new(local);
        for (peer, addrs) in config.known {
            if let Some(id) = peer_id(&peer) {
                book.add_known(id, addrs, now);
            }
        }
        for addr in config.seeds {
            book.add_place(addr, Trust::Seed, now);
        }
        let (found, tailnet) = mpsc::channel(1);
        if let Some(command) = config.tailscale {
            let mut ports = vec![config.tailscale_port];
            ports.extend(Some(config.port).filter(|p| *p != 0 && *p != config.tailscale_port));
            tokio::spawn(discovery::tailscale(command, ports, found, shared.counters.clone()));
        }
        let (reports_tx, reports) = mpsc::channel(REPORTS_MAX);
        let common = Common {
            boot: config.boot,
            events: shared.events.clone(),
            reports: reports_tx,
            counters: shared.counters.clone(),
            mute: shared.mute.clone(),
        };
        Ok(Self {
            metrics: Metrics::new(registry),
            swarm,
            shared,
            common,
            commands,
            reports,
            tailnet,
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
            out: VecDeque::new(),
        })
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
                        if let Some(event) = next_event(&mut self.out, &self.shared.lanes) {
                            permit.send(event);
                        }
                    }
                    // Nobody listens any more; the handle will stop us soon.
                    Err(_) => self.out.clear(),
                },
                Some(addrs) = self.tailnet.recv() => {
                    for addr in addrs {
                        self.book.add_place(addr, Trust::Guess, Instant::now());
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
            let Ok(permit) = self.shared.events.try_reserve() else { return };
            match next_event(&mut self.out, &self.shared.lanes) {
                Some(event) => permit.send(event),
                None => return,
            }
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
            Command::Publish(topic, bytes) => match behaviour.gossip.publish(topic.ident(), bytes) {
                // Alone, or nobody subscribed yet: the upper layer publishes again when somebody does.
                Ok(_) | Err(gossipsub::PublishError::NoPeersSubscribedToTopic | gossipsub::PublishError::Duplicate) => {}
                Err(e) => {
                    tracing::debug!(error = %e, "gossip was not published");
                    self.shared.counters.drop(DropReason::GossipPublish);
                }
            },
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
                self.book.dial_now(addr, now);
                self.dial_due(now);
            }
            #[cfg(test)]
            Command::Connections(answer) => {
                let _ = answer.send(self.conns.len());
            }
            Command::Stop => {}
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        let nodes = self.roster.len() + 1;
        self.index.tick(&mut self.swarm.behaviour_mut().kad, now, nodes);
        for conn in self.roster.stale(now) {
            self.close_duplicate(conn);
        }
        let late: Vec<_> = self.conns.iter().filter(|(_, c)| c.lane == LaneState::None && !c.closed && now - c.since > LANE_TIMEOUT).map(|(id, _)| *id).collect();
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

// What the swarm says.
impl Loop {
    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        self.metrics.record(&event);
        let now = Instant::now();
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event, now),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint, now);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.on_closed(peer_id, connection_id, now);
                if num_established == 0 {
                    self.bulk_places.remove(&peer_id);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, error, now);
            }
            SwarmEvent::IncomingConnectionError { error, send_back_addr, .. } => {
                if matches!(error, ListenError::Transport(_)) {
                    self.shared.counters.handshake(Direction::Inbound);
                }
                tracing::debug!(from = %send_back_addr, error = %error, "an inbound connection failed");
            }
            SwarmEvent::NewListenAddr { address, .. } => self.on_listening(address),
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.swarm.remove_external_address(&address);
                self.shared.addresses.write().unwrap_or_else(PoisonError::into_inner).retain(|a| *a != address);
                self.tell(NetEvent::Unlistening { addr: address });
            }
            SwarmEvent::ListenerClosed { reason: Err(e), .. } => {
                tracing::error!(error = %e, "a listener failed; other nodes cannot connect to this one any more");
                if let Some(listening) = self.listening.take() {
                    let _ = listening.send(Err(e));
                }
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(error = %error, "a listener has trouble"),
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent, now: Instant) {
        match event {
            BehaviourEvent::Lane(lane::Event::Stream { peer, conn, protocol, stream }) => {
                if protocol == lane::BULK {
                    self.on_bulk(peer, conn, stream);
                } else if let Some(held) = self.conns.get_mut(&conn).filter(|c| c.lane == LaneState::None) {
                    held.lane = LaneState::Running;
                    tokio::spawn(link::run(self.common.clone(), held.raw, peer, conn, stream));
                }
            }
            BehaviourEvent::Lane(lane::Event::Failed { conn, error }) => {
                tracing::debug!(error, "a lane could not be opened");
                self.doom(conn);
            }
            BehaviourEvent::Gossip(event) => {
                self.metrics.record(&event);
                self.on_gossip(event);
            }
            BehaviourEvent::Kad(event) => {
                self.metrics.record(&event);
                self.index.on_event(event, now);
            }
            BehaviourEvent::Identify(event) => {
                self.metrics.record(&event);
                if let identify::Event::Received { connection_id, peer_id, info } = event {
                    self.on_identified(connection_id, peer_id, info.listen_addrs, now);
                }
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(seen)) => {
                for (peer, addr) in seen {
                    self.book.discovered(peer, addr, now);
                }
                self.dial_due(now);
            }
            BehaviourEvent::Mdns(mdns::Event::Expired(_)) => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, conn: ConnectionId, endpoint: &ConnectedPoint, now: Instant) {
        let Some(raw) = raw(&peer) else {
            tracing::debug!(%peer, "a member with a key that is not ed25519 was refused");
            self.swarm.close_connection(conn);
            return;
        };
        let (we_dialed, remote) = match endpoint {
            ConnectedPoint::Dialer { address, .. } => (true, split_peer(address.clone()).0),
            ConnectedPoint::Listener { send_back_addr, .. } => (false, send_back_addr.clone()),
        };
        self.book.connected(conn, peer, we_dialed.then(|| remote.clone()), now);
        let redundant = we_dialed && self.conns.values().any(|c| c.peer == peer && c.we_dialed && c.is_promising());
        let held = Conn { peer, raw, we_dialed, remote, since: now, doomed: false, closed: false, lane: LaneState::None };
        self.conns.insert(conn, held);
        if redundant {
            self.close_duplicate(conn);
        } else if we_dialed {
            self.swarm.behaviour_mut().lane.open_lane(peer, conn);
        }
    }

    fn on_dial_failed(&mut self, conn: ConnectionId, peer: Option<PeerId>, error: DialError, now: Instant) {
        let failures = self.book.failed(conn, now);
        let refused = match error {
            DialError::LocalPeerId { address } => {
                self.book.is_self(&address);
                false
            }
            DialError::WrongPeerId { address, .. } => {
                if let Some(peer) = peer {
                    self.book.moved(peer, &address);
                }
                true
            }
            DialError::Transport(errors) => self.all_refused(&errors, failures),
            error => {
                tracing::debug!(%error, "a dial failed");
                false
            }
        };
        let Some(peer) = peer.filter(|p| self.closing.contains_key(p)) else { return };
        if refused {
            self.down(peer, true);
        } else {
            self.book.hasten(peer, now);
        }
    }

    fn all_refused(&self, errors: &[(Multiaddr, libp2p::TransportError<io::Error>)], failures: u32) -> bool {
        let mut all = !errors.is_empty();
        for (addr, error) in errors {
            let failure = match error {
                libp2p::TransportError::Other(e) => transport::classify(e),
                libp2p::TransportError::MultiaddrNotSupported(_) => DialFailure::Unreachable,
            };
            all &= failure == DialFailure::Refused;
            if failure == DialFailure::Handshake {
                self.shared.counters.handshake(Direction::Outbound);
                if failures == WRONG_KEY_HINT_AFTER {
                    tracing::warn!(%addr, "somebody answers there and no connection comes about, again and again: wrong network key?");
                }
            }
            tracing::debug!(%addr, %error, ?failure, "a dial failed");
        }
        all
    }

    fn on_listening(&mut self, addr: Multiaddr) {
        if !is_loopback(&addr) {
            // Without external addresses provider records would not say where we are.
            self.swarm.add_external_address(addr.clone());
        }
        if std::mem::take(&mut self.want_ip6) {
            let port = addr.iter().find_map(|p| if let Protocol::Tcp(port) = p { Some(port) } else { None });
            let ip6 = Multiaddr::from(Ipv6Addr::UNSPECIFIED).with(Protocol::Tcp(port.unwrap_or_default()));
            match self.swarm.listen_on(ip6) {
                Ok(listener) => self.listeners.push(listener),
                Err(e) => tracing::debug!(error = %e, "no IPv6 here"),
            }
        }
        self.shared.addresses.write().unwrap_or_else(PoisonError::into_inner).push(addr.clone());
        self.tell(NetEvent::Listening { addr });
        if let Some(listening) = self.listening.take() {
            let _ = listening.send(Ok(()));
        }
    }

    fn on_identified(&mut self, conn: ConnectionId, peer: PeerId, addrs: Vec<Multiaddr>, now: Instant) {
        let Some(conn) = self.conns.get(&conn) else { return };
        let (raw, same_host) = (conn.raw, is_loopback(&conn.remote));
        // Another host's 127.0.0.1 would be ourselves.
        let addrs: Vec<_> = addrs.into_iter().map(|a| split_peer(a).0).filter(|a| same_host || !is_loopback(a)).collect();
        let Some(addrs) = self.book.learned(peer, addrs, now) else { return };
        for addr in &addrs {
            self.swarm.behaviour_mut().kad.add_address(&peer, addr.clone());
        }
        self.tell(NetEvent::Learned { peer: raw, addrs });
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { message, .. } => {
                let source = message.source.as_ref().and_then(raw);
                let (Some(source), Some(topic)) = (source, Topic::of(&message.topic)) else { return };
                if message.data.len() > gossip::GOSSIP_MAX {
                    self.shared.counters.drop(DropReason::GossipTooLarge);
                } else if self.out.len() >= BACKLOG_MAX {
                    self.shared.counters.drop(DropReason::GossipBacklog);
                } else {
                    self.tell(NetEvent::Gossip { source, topic, bytes: message.data.into() });
                }
            }
            gossipsub::Event::Subscribed { peer_id, topic } => {
                if let (Some(peer), Some(topic)) = (raw(&peer_id), Topic::of(&topic))
                    && self.out.len() < BACKLOG_MAX
                {
                    self.tell(NetEvent::Subscribed { peer, topic });
                }
            }
            _ => {}
        }
    }

    fn on_bulk(&mut self, peer: PeerId, conn: ConnectionId, stream: libp2p::Stream) {
        let Some(raw) = self.conns.get(&conn).map(|c| c.raw) else { return };
        let places = self.bulk_places.entry(peer).or_insert_with(|| Arc::new(Semaphore::new(bulk::STREAMS_PER_PEER_MAX)));
        let counters = self.shared.counters.clone();
        let Ok(place) = places.clone().try_acquire_owned() else {
            counters.drop(DropReason::Bulk);
            return;
        };
        let handler = self.shared.bulk.clone();
        tokio::spawn(async move {
            match bulk::accept(raw, stream, place).await {
                // Nobody takes requests: dropping it tells the asker.
                Some(request) => drop(handler.send(request).await),
                None => counters.drop(DropReason::Bulk),
            }
        });
    }
}

// What the lanes say, and what follows from it.
impl Loop {
    fn on_report(&mut self, report: Report) {
        let now = Instant::now();
        match report {
            Report::Ready { conn, peer, ready } => self.on_ready(conn, peer, ready, now),
            Report::Silent { conn, peer } => {
                let Some(acts) = self.roster.silent(peer, conn) else { return };
                if let Some(raw) = raw(&peer) {
                    self.tell(NetEvent::Silent { peer: raw });
                }
                self.act(peer, acts, now);
            }
            Report::Heard { conn, peer } => {
                if let Some(raw) = raw(&peer).filter(|_| self.roster.heard(peer, conn)) {
                    self.tell(NetEvent::Heard { peer: raw });
                }
            }
            Report::Ghost { peer } => {
                self.shared.counters.clones.inc();
                tracing::warn!(%peer, "two nodes run with this id: was a home directory copied? each node needs its own");
                if let Some(peer) = raw(&peer) {
                    self.tell(NetEvent::Clone { peer });
                }
            }
            Report::Ended { conn, peer, why } => self.on_ended(conn, peer, why, now),
        }
    }

    fn on_ready(&mut self, conn: ConnectionId, peer: PeerId, ready: Ready, now: Instant) {
        let Some(held) = self.conns.get(&conn) else { return };
        if self.out.len() >= BACKLOG_MAX {
            // The upper layer is stuck; it will be dialed again.
            self.shared.counters.refuse(RefuseReason::Overflow);
            ready.sender.cancel();
            return;
        }
        let (we_dialed, boot) = (held.we_dialed, ready.boot);
        self.ready.insert(conn, ready);
        let acts = self.roster.ready(peer, conn, we_dialed, boot, now);
        self.act(peer, acts, now);
    }

    fn on_ended(&mut self, conn: ConnectionId, peer: PeerId, why: End, now: Instant) {
        if let End::Refused(reason) = why {
            self.shared.counters.refuse(reason);
            match reason {
                RefuseReason::ForeignVersion => tracing::warn!(
                    %peer,
                    ours = link::PROTOCOL_VERSION,
                    "a member speaks another version of the mesh protocol; it was not let in: update the older of the two"
                ),
                _ => tracing::info!(%peer, ?reason, "a lane was closed"),
            }
        }
        self.ready.remove(&conn);
        let Some(held) = self.conns.get_mut(&conn) else { return };
        held.lane = LaneState::Ended;
        let remote = held.remote.clone();
        if held.closed {
            self.conns.remove(&conn);
        } else {
            self.doom(conn);
        }
        let age = self.roster.age(&peer, now).filter(|_| self.roster.active(&peer) == Some(conn));
        let acts = self.roster.ended(peer, conn);
        let lost = acts.contains(&Act::Lost);
        self.act(peer, acts, now);
        match age {
            Some(age) if lost => self.redial(peer, Some(&remote), age > SETTLED_AFTER, now),
            // It never got as far as being used: pause before the next try.
            _ => self.redial(peer, None, false, now),
        }
    }

    /// A connection is gone. If it had a lane, that lane's task reads what is left and then reports its end.
    fn on_closed(&mut self, peer: PeerId, conn: ConnectionId, now: Instant) {
        let Some(held) = self.conns.get_mut(&conn) else { return };
        held.closed = true;
        if held.lane == LaneState::Running {
            return;
        }
        let fresh = held.lane == LaneState::None;
        self.conns.remove(&conn);
        if fresh {
            self.redial(peer, None, false, now);
        }
    }

    /// Dials a peer again if nothing of it is left. `remote` is where its last lane led.
    fn redial(&mut self, peer: PeerId, remote: Option<&Multiaddr>, settled: bool, now: Instant) {
        if self.roster.active(&peer).is_some() || self.conns.values().any(|c| c.peer == peer && c.is_promising()) {
            return;
        }
        if !self.book.lost(peer, remote, settled, now) {
            self.down(peer, false);
        }
        self.dial_due(now);
    }

    fn act(&mut self, peer: PeerId, acts: Vec<Act>, now: Instant) {
        let Some(raw) = raw(&peer) else { return };
        for act in acts {
            match act {
                Act::Use { conn, reset } => self.put_to_use(peer, raw, conn, reset, now),
                Act::Retire(conn) => {
                    if let Some(ready) = self.ready.get(&conn) {
                        ready.retire.cancel();
                    }
                    if let Some(held) = self.conns.get_mut(&conn) {
                        held.doomed = true;
                    }
                }
                Act::Close(conn) => self.close_duplicate(conn),
                Act::Lost => {
                    self.forget_lane(&raw);
                    self.closing.insert(peer, now + DOWN_AFTER);
                    self.tell(NetEvent::Closed { peer: raw });
                }
            }
        }
        self.shared.counters.lanes.set(i64::try_from(self.roster.len()).unwrap_or(i64::MAX));
    }

    fn put_to_use(&mut self, peer: PeerId, raw: Peer, conn: ConnectionId, reset: bool, now: Instant) {
        self.closing.remove(&peer);
        self.book.up(peer, now);
        // Nothing more goes to the old lane, and nothing to the new one before the upper layer could know of it.
        self.forget_lane(&raw);
        self.tell(if reset { NetEvent::Reset { peer: raw } } else { NetEvent::Up { peer: raw } });
        if !reset {
            self.index.hasten(now);
        }
        if let Some(ready) = self.ready.get_mut(&conn)
            && let Some(activate) = ready.activate.take()
        {
            let sender = ready.sender.clone();
            self.out.push_back(Step::Start { peer: raw, sender, activate });
        }
    }

    fn down(&mut self, peer: PeerId, refused: bool) {
        self.closing.remove(&peer);
        if !self.roster.down(peer) {
            return;
        }
        // The table shall hold nobody that queries would have to wait for.
        self.swarm.behaviour_mut().kad.remove_peer(&peer);
        if let Some(peer) = raw(&peer) {
            self.tell(NetEvent::Down { peer, refused });
        }
    }

    fn forget_lane(&mut self, peer: &Peer) {
        self.shared.lanes.write().unwrap_or_else(PoisonError::into_inner).remove(peer);
    }

    fn close_duplicate(&mut self, conn: ConnectionId) {
        self.shared.counters.refuse(RefuseReason::Duplicate);
        self.doom(conn);
    }

    /// Closes a connection, and its lane at once.
    fn doom(&mut self, conn: ConnectionId) {
        if let Some(ready) = self.ready.get(&conn) {
            ready.sender.cancel();
        }
        if let Some(held) = self.conns.get_mut(&conn) {
            held.doomed = true;
        }
        self.swarm.close_connection(conn);
    }
}

/// The next event that leaves; lanes whose turn comes before it are started.
fn next_event(out: &mut VecDeque<Step>, lanes: &Lanes) -> Option<NetEvent> {
    loop {
        match out.pop_front()? {
            Step::Tell(event) => return Some(event),
            Step::Start { peer, sender, activate } => {
                // If the lane ended meanwhile it takes no frames, and `Closed` is further back in this queue.
                if activate.send(()).is_ok() {
                    lanes.write().unwrap_or_else(PoisonError::into_inner).insert(peer, sender);
                }
            }
        }
    }
}

fn build_swarm(config: &NetConfig, local: PeerId, registry: &mut Registry) -> Result<Swarm<Behaviour>, NetError> {
    let keypair = config.identity.keypair();
    let setup = |what: &str, e: String| NetError::Setup(format!("{what}: {e}"));
    let mesh_id = ticket::mesh_id(&config.key, &config.mesh_name);
    let transport = transport::build(keypair, config.key, mesh_id).map_err(|e| setup("noise", e.to_string()))?;
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_INCOMING_MAX))
        .with_max_established(Some(ESTABLISHED_MAX))
        // Not one: then each side may close the other's of two simultaneous dials, and none is left.
        .with_max_established_per_peer(Some(4));
    let identify = identify::Config::new("/mesh/id/1.0.0".into(), keypair.public())
        .with_agent_version(concat!("clawmesh/", env!("CARGO_PKG_VERSION")).into())
        .with_push_listen_addr_updates(true)
        .with_cache_size(0);
    let nodes = config.known.len() + 1;
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        lane: lane::Behaviour::default(),
        gossip: gossip::behaviour(keypair, nodes <= SMALL_MESH, registry)?,
        kad: dht::behaviour(local, nodes),
        identify: identify::Behaviour::new(identify),
        mdns: discovery::mdns(config.mdns, local),
    };
    let swarm_config = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(Duration::from_secs(86_400))
        .with_max_negotiating_inbound_streams(1024)
        .with_notify_handler_buffer_size(NonZeroUsize::new(256).unwrap_or(NonZeroUsize::MIN))
        .with_per_connection_event_buffer_size(256);
    Ok(Swarm::new(transport, behaviour, local, swarm_config))
}

fn listen_addr(port: u16, loopback_only: bool) -> Multiaddr {
    let host = if loopback_only { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    Multiaddr::from(host).with(Protocol::Tcp(port))
}

/// Re-dials, the index and time-outs are looked at this often.
const TICK: Duration = Duration::from_millis(50);
/// A member opens its lane at once; a connection without one is of no use.
const LANE_TIMEOUT: Duration = Duration::from_secs(4);
/// A lost peer that could not be reached again by then is down.
const DOWN_AFTER: Duration = Duration::from_secs(1);
/// A lane that lived so long was no accident: after its loss the peer is dialed at once.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// For the last frames on the way out.
const GOODBYE: Duration = Duration::from_millis(250);
/// Events held back while the upper layer is slow; above, gossip is dropped and new lanes are refused.
const BACKLOG_MAX: usize = 4096;
const REPORTS_MAX: usize = 1024;
/// Handshakes under way; each is over after three seconds.
const PENDING_INCOMING_MAX: u32 = 256;
const ESTABLISHED_MAX: u32 = 4096;
/// Up to here every message goes to everybody directly.
const SMALL_MESH: usize = 20;
const WRONG_KEY_HINT_AFTER: u32 = 3;
