//! What the swarm says.

use std::{
    io,
    net::Ipv6Addr,
    sync::{Arc, PoisonError},
};

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    gossipsub, identify, mdns,
    metrics::Recorder,
    multiaddr::Protocol,
    swarm::{ConnectionId, DialError, ListenError, SwarmEvent},
};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    super::{
        NetEvent, Topic,
        book::{is_dialable, is_loopback, split_peer},
        bulk, gossip,
        identity::raw,
        lane, link,
        metrics::{Direction, DropReason},
        transport::{self, DialFailure},
    },
    BACKLOG_MAX, BehaviourEvent, Conn, LaneState, Loop,
};

impl Loop {
    pub(super) fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
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
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(error = %error, "a listener has trouble")
            }
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
        self.book.failed(conn, now);
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
            DialError::Transport(errors) => self.all_refused(&errors),
            error => {
                tracing::debug!(%error, "a dial failed");
                false
            }
        };
        let Some(peer) = peer.filter(|p| self.closing.contains_key(p)) else {
            return;
        };
        if refused {
            self.down(peer, true);
        } else {
            self.book.hasten(peer, now);
        }
    }

    fn all_refused(&mut self, errors: &[(Multiaddr, libp2p::TransportError<io::Error>)]) -> bool {
        let mut all = !errors.is_empty();
        for (addr, error) in errors {
            let failure = match error {
                libp2p::TransportError::Other(e) => transport::classify(e),
                libp2p::TransportError::MultiaddrNotSupported(_) => DialFailure::Unreachable,
            };
            all &= failure == DialFailure::Refused;
            if failure == DialFailure::Handshake {
                self.handshake_failed(addr);
            }
            tracing::debug!(%addr, %error, ?failure, "a dial failed");
        }
        all
    }

    fn handshake_failed(&mut self, addr: &Multiaddr) {
        self.shared.counters.handshake(Direction::Outbound);
        if self.bad_handshakes.len() >= BAD_HANDSHAKES_MAX {
            self.bad_handshakes.clear();
        }
        let times = self.bad_handshakes.entry(split_peer(addr.clone()).0).or_default();
        *times = times.saturating_add(1);
        if *times == WRONG_KEY_HINT_AFTER {
            tracing::warn!(%addr, "somebody answers there and no connection comes about, again and again: wrong network key?");
        }
    }

    fn on_listening(&mut self, addr: Multiaddr) {
        self.listen_on_ip6_too(&addr);
        if !is_dialable(&addr) {
            return;
        }
        if !is_loopback(&addr) {
            // Without external addresses provider records would not say where we are.
            self.swarm.add_external_address(addr.clone());
        }
        self.shared.addresses.write().unwrap_or_else(PoisonError::into_inner).push(addr.clone());
        self.tell(NetEvent::Listening { addr });
        if let Some(listening) = self.listening.take() {
            let _ = listening.send(Ok(()));
        }
    }

    /// On the port that IPv4 got, so that one number is enough for people.
    fn listen_on_ip6_too(&mut self, addr: &Multiaddr) {
        if !std::mem::take(&mut self.want_ip6) {
            return;
        }
        let port = addr.iter().find_map(|p| if let Protocol::Tcp(port) = p { Some(port) } else { None });
        let ip6 = Multiaddr::from(Ipv6Addr::UNSPECIFIED).with(Protocol::Tcp(port.unwrap_or_default()));
        match self.swarm.listen_on(ip6) {
            Ok(listener) => self.listeners.push(listener),
            Err(e) => tracing::debug!(error = %e, "no IPv6 here"),
        }
    }

    fn on_identified(&mut self, conn: ConnectionId, peer: PeerId, addrs: Vec<Multiaddr>, now: Instant) {
        let Some(conn) = self.conns.get(&conn) else {
            return;
        };
        let (raw, same_host) = (conn.raw, is_loopback(&conn.remote));
        // Another host's 127.0.0.1 would be ourselves.
        let addrs: Vec<_> = addrs.into_iter().map(|a| split_peer(a).0).filter(|a| same_host || !is_loopback(a)).collect();
        let Some((addrs, news)) = self.book.learned(peer, addrs, now) else {
            return;
        };
        for addr in &addrs {
            self.swarm.behaviour_mut().kad.add_address(&peer, addr.clone());
        }
        if news && self.out.len() < BACKLOG_MAX {
            self.tell(NetEvent::Learned { peer: raw, addrs });
        }
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { message, .. } => {
                let source = message.source.as_ref().and_then(raw);
                let (Some(source), Some(topic)) = (source, Topic::of(&message.topic)) else {
                    return;
                };
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
        let Some(raw) = self.conns.get(&conn).map(|c| c.raw) else {
            return;
        };
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

/// Failures in a row at one address, with somebody answering there.
const WRONG_KEY_HINT_AFTER: u32 = 3;
/// Addresses whose failures are counted; beyond, counting starts anew.
const BAD_HANDSHAKES_MAX: usize = 1024;
