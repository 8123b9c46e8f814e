//! The address book: whom to dial, where, and when again.
//!
//! Known peers (they were members once) are dialed for ever, with growing pauses. Strangers, who may belong to another mesh, get
//! three tries and then one every ten minutes. Addresses without a peer id ("places": seeds, the tailnet) are kept apart.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol, swarm::ConnectionId};
use rand::RngExt;
use tokio::time::Instant;

/// What to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A peer at any of its addresses.
    Peer(PeerId, Vec<Multiaddr>),
    /// Whoever is at this address.
    Place(Multiaddr),
}

/// How much we believe in an address without a peer id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Somebody gave it to us: tried for ever.
    Seed,
    /// It was guessed: three tries, then rarely.
    Guess,
}

/// See the module's text.
pub(super) struct Book {
    local: PeerId,
    /// At most [`PEERS_MAX`].
    peers: HashMap<PeerId, Entry>,
    /// At most [`PEERS_MAX`].
    places: HashMap<Multiaddr, Place>,
    /// Dials under way; bounded by the two above.
    dials: HashMap<ConnectionId, Dialing>,
    /// Addresses that turned out to be our own, at most [`PEERS_MAX`].
    own: Vec<Multiaddr>,
}

enum Dialing {
    Peer(PeerId),
    Place(Multiaddr),
}

struct Entry {
    /// Best first, at most [`ADDRS_MAX`].
    addrs: VecDeque<Multiaddr>,
    known: bool,
    connected: bool,
    dialing: bool,
    /// The upper layer was told its addresses.
    told: bool,
    /// Tried first and alone after a connection was lost: the answer "refused" of the address that worked means the process is gone.
    primary: Vec<Multiaddr>,
    /// Set by a lane that ended soon after it was up: the next such end costs a pause.
    flapping: Option<ExponentialBackoff>,
    schedule: Schedule,
}

struct Place {
    trust: Trust,
    dialing: bool,
    /// Who was found there last.
    peer: Option<PeerId>,
    schedule: Schedule,
}

struct Schedule {
    next: Instant,
    failures: u32,
    backoff: ExponentialBackoff,
}

impl Schedule {
    fn at(next: Instant) -> Self {
        Self { next, failures: 0, backoff: backoff() }
    }

    /// After a failure; `patient` ones have no limit.
    fn failed(&mut self, now: Instant, patient: bool) {
        self.failures = self.failures.saturating_add(1);
        let pause = self.backoff.next().unwrap_or(PAUSE_MAX).min(PAUSE_MAX);
        self.next = now + if patient || self.failures < STRANGER_TRIES { pause } else { STRANGER_PAUSE };
    }
}

impl Book {
    pub(super) fn new(local: PeerId) -> Self {
        Self { local, peers: HashMap::new(), places: HashMap::new(), dials: HashMap::new(), own: Vec::new() }
    }

    /// Adds a member from an earlier life, dialed until it answers.
    pub(super) fn add_known(&mut self, peer: PeerId, addrs: impl IntoIterator<Item = Multiaddr>, now: Instant) {
        if let Some(entry) = self.entry(peer, now) {
            entry.known = true;
            for addr in addrs {
                entry.add(addr);
            }
        }
    }

    /// Somebody saw this peer at this address (mDNS); it may be of another mesh.
    pub(super) fn discovered(&mut self, peer: PeerId, addr: Multiaddr, now: Instant) {
        let grace = self.grace(peer);
        let Some(entry) = self.entry(peer, now) else {
            return;
        };
        if entry.add(addr) && !entry.connected {
            // A new address deserves new tries, and at once: the peer has just told that it is there.
            entry.schedule = Schedule::at((now + grace).min(entry.schedule.next));
        }
    }

    /// A member told its addresses. Returns all of them, and whether the upper layer has not heard of them yet.
    pub(super) fn learned(&mut self, peer: PeerId, addrs: Vec<Multiaddr>, now: Instant) -> Option<(Vec<Multiaddr>, bool)> {
        let entry = self.entry(peer, now)?;
        let mut news = !std::mem::replace(&mut entry.told, true);
        for addr in addrs.into_iter().take(ADDRS_MAX) {
            news |= entry.add(addr);
        }
        Some((entry.addrs.iter().cloned().collect(), news))
    }

    /// An address without a peer id, or with one.
    pub(super) fn add_place(&mut self, addr: Multiaddr, trust: Trust, now: Instant) {
        let (addr, peer) = split_peer(addr);
        match peer {
            Some(peer) => self.add_known(peer, [addr], now),
            None if self.places.len() < PEERS_MAX && !self.own.contains(&addr) => {
                let place = Place { trust, dialing: false, peer: None, schedule: Schedule::at(now) };
                self.places.entry(addr).or_insert(place);
            }
            None => {}
        }
    }

    /// Asked for by a person: dialed now, whatever happened before.
    pub(super) fn dial_now(&mut self, addr: Multiaddr, now: Instant) {
        self.add_place(addr.clone(), Trust::Seed, now);
        let (addr, peer) = split_peer(addr);
        if let Some(entry) = peer.and_then(|peer| self.peers.get_mut(&peer)) {
            entry.schedule = Schedule::at(now);
        }
        if let Some(place) = self.places.get_mut(&addr) {
            place.schedule = Schedule::at(now);
        }
    }

    /// What is to be dialed now. Each target is taken as being dialed until [`Self::failed`] or [`Self::connected`].
    pub(super) fn due(&mut self, now: Instant) -> Vec<Target> {
        let mut due = Vec::new();
        for (peer, entry) in &mut self.peers {
            if entry.connected || entry.dialing || entry.schedule.next > now || entry.addrs.is_empty() {
                continue;
            }
            entry.dialing = true;
            let primary = std::mem::take(&mut entry.primary);
            let addrs = if primary.is_empty() { entry.addrs.iter().cloned().collect() } else { primary };
            due.push(Target::Peer(*peer, addrs));
        }
        for (addr, place) in &mut self.places {
            if place.dialing || place.schedule.next > now {
                continue;
            }
            let occupied = self.peers.iter().any(|(id, e)| e.connected && (place.peer == Some(*id) || e.addrs.contains(addr)));
            if occupied {
                place.schedule.next = now + PAUSE_MAX;
            } else {
                place.dialing = true;
                due.push(Target::Place(addr.clone()));
            }
        }
        due
    }

    /// A dial is under way.
    pub(super) fn started(&mut self, conn: ConnectionId, target: &Target) {
        let dialing = match target {
            Target::Peer(peer, _) => Dialing::Peer(*peer),
            Target::Place(addr) => Dialing::Place(addr.clone()),
        };
        self.dials.insert(conn, dialing);
    }

    /// A dial could not even begin.
    pub(super) fn not_started(&mut self, target: &Target, now: Instant) {
        match target {
            Target::Peer(peer, _) => self.peer_failed(*peer, now),
            Target::Place(addr) => self.place_failed(addr, now),
        }
    }

    /// Dials under way.
    #[cfg(test)]
    pub(super) fn dialing(&self) -> usize {
        self.dials.len()
    }

    /// A dial failed.
    pub(super) fn failed(&mut self, conn: ConnectionId, now: Instant) {
        match self.dials.remove(&conn) {
            Some(Dialing::Peer(peer)) => self.peer_failed(peer, now),
            Some(Dialing::Place(addr)) => self.place_failed(&addr, now),
            None => {}
        }
    }

    /// A connection is there; `dialed` is the address if we dialed it.
    pub(super) fn connected(&mut self, conn: ConnectionId, peer: PeerId, dialed: Option<Multiaddr>, now: Instant) {
        match self.dials.remove(&conn) {
            Some(Dialing::Peer(peer)) => {
                if let Some(entry) = self.peers.get_mut(&peer) {
                    entry.dialing = false;
                }
            }
            Some(Dialing::Place(addr)) => {
                if let Some(place) = self.places.get_mut(&addr) {
                    place.dialing = false;
                    place.peer = Some(peer);
                    place.schedule = Schedule::at(now + PAUSE_MAX);
                }
            }
            None => {}
        }
        if let Some(entry) = self.entry(peer, now) {
            entry.known = true;
            entry.connected = true;
            if let Some(addr) = dialed {
                entry.prefer(split_peer(addr).0);
            }
        }
    }

    /// A lane is up: what went wrong before is forgotten.
    pub(super) fn up(&mut self, peer: PeerId, now: Instant) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.schedule = Schedule::at(now);
        }
    }

    /// The last connection is gone. If it was up for a while (`settled`) or this is the first time, the peer is dialed again at
    /// once, and first where it was (`remote`: the other end of that connection). Returns false if there is no address to try.
    pub(super) fn lost(&mut self, peer: PeerId, remote: Option<&Multiaddr>, settled: bool, now: Instant) -> bool {
        let Some(entry) = self.peers.get_mut(&peer) else {
            return false;
        };
        entry.connected = false;
        entry.primary = match remote {
            Some(remote) if entry.addrs.contains(remote) => vec![remote.clone()],
            Some(remote) => entry.addrs.iter().filter(|a| host(a) == host(remote)).cloned().collect(),
            None => Vec::new(),
        };
        let pause = entry.flapping.as_mut().filter(|_| !settled).and_then(Iterator::next).unwrap_or_default();
        entry.schedule.next = now + pause.min(PAUSE_MAX);
        if settled {
            entry.flapping = None;
        } else {
            entry.flapping.get_or_insert_with(backoff);
        }
        !entry.addrs.is_empty()
    }

    /// The next dial of this peer comes soon, not after the pause.
    pub(super) fn hasten(&mut self, peer: PeerId, now: Instant) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.schedule.next = entry.schedule.next.min(now + RETRY_SOON);
        }
    }

    /// This address is our own: never again.
    pub(super) fn is_self(&mut self, addr: &Multiaddr) {
        let (addr, _) = split_peer(addr.clone());
        self.places.remove(&addr);
        for entry in self.peers.values_mut() {
            entry.addrs.retain(|a| *a != addr);
        }
        if self.own.len() < PEERS_MAX && !self.own.contains(&addr) {
            self.own.push(addr);
        }
    }

    /// Somebody else lives at this address of a peer.
    pub(super) fn moved(&mut self, peer: PeerId, addr: &Multiaddr) {
        let (addr, _) = split_peer(addr.clone());
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.addrs.retain(|a| *a != addr);
        }
    }

    fn entry(&mut self, peer: PeerId, now: Instant) -> Option<&mut Entry> {
        if peer == self.local {
            return None;
        }
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            // Strangers make room; known members do not.
            let stranger = self.peers.iter().find(|(_, e)| !e.known && !e.dialing).map(|(id, _)| *id)?;
            self.peers.remove(&stranger);
        }
        let grace = self.grace(peer);
        Some(self.peers.entry(peer).or_insert_with(|| Entry {
            addrs: VecDeque::new(),
            known: false,
            connected: false,
            dialing: false,
            told: false,
            primary: Vec::new(),
            flapping: None,
            schedule: Schedule::at(now + grace),
        }))
    }

    /// The smaller id dials at once; the larger gives it time, so that two connections are rare.
    fn grace(&self, peer: PeerId) -> Duration {
        if self.local < peer { Duration::ZERO } else { rand::rng().random_range(GRACE_MIN..GRACE_MAX) }
    }

    fn peer_failed(&mut self, peer: PeerId, now: Instant) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.dialing = false;
            entry.schedule.failed(now, entry.known);
        }
    }

    fn place_failed(&mut self, addr: &Multiaddr, now: Instant) {
        if let Some(place) = self.places.get_mut(addr) {
            place.dialing = false;
            place.schedule.failed(now, place.trust == Trust::Seed);
        }
    }
}

impl Entry {
    /// Returns whether it is new.
    fn add(&mut self, addr: Multiaddr) -> bool {
        let (addr, _) = split_peer(addr);
        if self.addrs.contains(&addr) || !is_dialable(&addr) {
            return false;
        }
        self.addrs.push_front(addr);
        self.addrs.truncate(ADDRS_MAX);
        true
    }

    fn prefer(&mut self, addr: Multiaddr) {
        self.addrs.retain(|a| *a != addr);
        self.addrs.push_front(addr);
        self.addrs.truncate(ADDRS_MAX);
    }
}

/// Takes a `/p2p/…` off the end.
pub(super) fn split_peer(mut addr: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    match addr.pop() {
        Some(Protocol::P2p(peer)) => (addr, Some(peer)),
        Some(other) => (addr.with(other), None),
        None => (addr, None),
    }
}

/// Whether the address is of this very host.
pub(super) fn is_loopback(addr: &Multiaddr) -> bool {
    match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// `/ip…/…/tcp/…` with a real address and port; nothing else is ever dialed.
pub(super) fn is_dialable(addr: &Multiaddr) -> bool {
    let mut parts = addr.iter();
    let host = match parts.next() {
        Some(Protocol::Ip4(ip)) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        // Link-local addresses need a zone, which a multiaddr from elsewhere cannot have.
        Some(Protocol::Ip6(ip)) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local(),
        _ => false,
    };
    host && matches!(parts.next(), Some(Protocol::Tcp(port)) if port != 0) && parts.next().is_none()
}

fn host(addr: &Multiaddr) -> Option<Protocol<'_>> {
    addr.iter().next()
}

fn backoff() -> ExponentialBackoff {
    // Jitter adds up to as much again, so the longest pause is PAUSE_MAX.
    ExponentialBuilder::default().with_min_delay(PAUSE_MIN).with_max_delay(PAUSE_MAX / 2).with_jitter().without_max_times().build()
}

/// Peers (and places) the book holds.
const PEERS_MAX: usize = 4096;
/// Addresses of one peer: several interfaces of two families, and some of former days.
const ADDRS_MAX: usize = 16;
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
const RETRY_SOON: Duration = Duration::from_millis(50);
const GRACE_MIN: Duration = Duration::from_secs(1);
const GRACE_MAX: Duration = Duration::from_secs(2);
const STRANGER_TRIES: u32 = 3;
const STRANGER_PAUSE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    /// Fails every dial of the book for `span` and returns how many there were.
    fn dials_within(book: &mut Book, start: Instant, span: Duration) -> usize {
        let mut dials = 0;
        let mut now = start;
        while now < start + span {
            for target in book.due(now) {
                dials += 1;
                book.not_started(&target, now);
            }
            now += Duration::from_millis(50);
        }
        dials
    }

    #[test]
    fn known_peers_are_dialed_for_ever_and_strangers_three_times() {
        let now = Instant::now();
        let mut known = Book::new(PeerId::random());
        known.add_known(PeerId::random(), [addr(1)], now);
        let many = dials_within(&mut known, now, Duration::from_secs(500));
        assert!((100..300).contains(&many), "{many}");
        let mut strange = Book::new(PeerId::random());
        strange.discovered(PeerId::random(), addr(1), now);
        strange.add_place(addr(2), Trust::Guess, now);
        assert_eq!(dials_within(&mut strange, now, Duration::from_secs(500)), 6);
        assert_eq!(dials_within(&mut strange, now + Duration::from_secs(500), Duration::from_secs(600)), 2);
    }

    #[test]
    fn the_larger_id_waits() {
        let now = Instant::now();
        let (a, b) = (PeerId::random(), PeerId::random());
        let (small, large) = (a.min(b), a.max(b));
        let mut book = Book::new(small);
        book.add_known(large, [addr(1)], now);
        assert_eq!(book.due(now).len(), 1);
        let mut book = Book::new(large);
        book.add_known(small, [addr(1)], now);
        assert_eq!(book.due(now + Duration::from_millis(900)), []);
        assert_eq!(book.due(now + Duration::from_secs(2)).len(), 1);
    }

    #[test]
    fn a_lost_peer_is_dialed_at_once_where_it_worked() {
        let now = Instant::now();
        let peer = PeerId::random();
        let mut book = Book::new(PeerId::random());
        book.add_known(peer, [addr(1), addr(2)], now);
        book.connected(ConnectionId::new_unchecked(1), peer, Some(addr(1)), now);
        assert_eq!(book.due(now + Duration::from_secs(9)), []);
        assert!(book.lost(peer, Some(&addr(1)), true, now));
        assert_eq!(book.due(now), [Target::Peer(peer, vec![addr(1)])]);
    }

    #[test]
    fn useless_addresses_and_ourselves_are_not_kept() {
        let now = Instant::now();
        let local = PeerId::random();
        let mut book = Book::new(local);
        book.add_known(local, [addr(1)], now);
        for text in ["/ip4/0.0.0.0/tcp/1", "/ip4/10.0.0.1/tcp/0", "/ip4/10.0.0.1/udp/5", "/ip6/fe80::1/tcp/1", "/dns4/x/tcp/1"] {
            book.add_known(PeerId::random(), [text.parse().unwrap()], now);
        }
        assert_eq!(book.due(now + Duration::from_secs(9)), []);
    }

    #[test]
    fn the_book_is_bounded_and_members_stay() {
        let now = Instant::now();
        let member = PeerId::random();
        let mut book = Book::new(PeerId::random());
        book.add_known(member, [addr(1)], now);
        for _ in 0..PEERS_MAX + 10 {
            book.discovered(PeerId::random(), addr(2), now);
        }
        assert_eq!(book.peers.len(), PEERS_MAX);
        assert!(book.peers.contains_key(&member));
    }
}
