//! Which lane of a peer is in use. Pure decisions: nothing here sends, waits or reads a clock.
//!
//! Both ends must come to the same choice without talking about it. Of two lanes between the same two processes, the one dialed by
//! the smaller id stays; of two in the same direction, its dialer decides. A connection that is not needed is closed by its dialer;
//! the other end holds it as a spare, so a lane is never given up for one that the other end has already lost. Another boot number
//! means another process: it takes over, and the old lane is watched for a clone.

use std::{collections::HashMap, time::Duration};

use libp2p::{PeerId, swarm::ConnectionId};
use tokio::time::Instant;

/// What the caller must do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Use this lane from now on. `reset` if the upper layer believes the peer is still up or only just closed.
    Use { conn: ConnectionId, reset: bool },
    /// Another process took over: watch this lane for signs of life.
    Retire(ConnectionId),
    /// This connection is not needed.
    Close(ConnectionId),
    /// No lane is left; the upper layer must hear `Closed`.
    Lost,
}

/// The lanes of all peers.
pub(super) struct Roster {
    local: PeerId,
    /// Bounded by the address book and the limit of connections.
    peers: HashMap<PeerId, Node>,
}

#[derive(Default)]
struct Node {
    phase: Phase,
    active: Option<Held>,
    /// At most the connections one peer may have.
    spares: Vec<Held>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// The upper layer believes it down, or never heard of it.
    #[default]
    Down,
    /// The upper layer believes it up.
    Up,
    /// The upper layer heard `Closed` and waits for `Down` or `Reset`.
    Closing,
}

#[derive(Clone, Copy)]
struct Held {
    conn: ConnectionId,
    we_dialed: bool,
    boot: u64,
    since: Instant,
    silent: bool,
}

impl Roster {
    pub(super) fn new(local: PeerId) -> Self {
        Self { local, peers: HashMap::new() }
    }

    /// The connection whose lane is in use.
    pub(super) fn active(&self, peer: &PeerId) -> Option<ConnectionId> {
        Some(self.peers.get(peer)?.active?.conn)
    }

    /// Lanes in use.
    pub(super) fn len(&self) -> usize {
        self.peers.values().filter(|n| n.active.is_some()).count()
    }

    /// How long the lane in use has been so.
    pub(super) fn age(&self, peer: &PeerId, now: Instant) -> Option<Duration> {
        Some(now.duration_since(self.peers.get(peer)?.active?.since))
    }

    /// A lane finished its hello.
    pub(super) fn ready(&mut self, peer: PeerId, conn: ConnectionId, we_dialed: bool, boot: u64, now: Instant) -> Vec<Act> {
        let we_are_smaller = self.local < peer;
        let node = self.peers.entry(peer).or_default();
        let new = Held { conn, we_dialed, boot, since: now, silent: false };
        let Some(old) = node.active else {
            return vec![node.take(new)];
        };
        if old.boot != boot {
            return vec![Act::Retire(old.conn), node.take(new)];
        }
        let preferred = |held: Held| held.we_dialed == we_are_smaller;
        let wins = (preferred(new) && !preferred(old)) || (we_dialed && old.silent);
        if wins {
            return vec![Act::Close(old.conn), node.take(new)];
        }
        if we_dialed {
            return vec![Act::Close(conn)];
        }
        node.spares.push(new);
        if old.silent { node.replace() } else { vec![] }
    }

    /// A lane is over.
    pub(super) fn ended(&mut self, peer: PeerId, conn: ConnectionId) -> Vec<Act> {
        let Some(node) = self.peers.get_mut(&peer) else {
            return vec![];
        };
        node.spares.retain(|s| s.conn != conn);
        if node.active.is_none_or(|a| a.conn != conn) {
            return vec![];
        }
        node.active = None;
        if !node.spares.is_empty() {
            return node.promote();
        }
        node.phase = Phase::Closing;
        vec![Act::Lost]
    }

    /// A lane went silent. `None` if that concerns nobody, else what to do beside telling.
    pub(super) fn silent(&mut self, peer: PeerId, conn: ConnectionId) -> Option<Vec<Act>> {
        let node = self.peers.get_mut(&peer)?;
        let active = node.active.as_mut().filter(|a| a.conn == conn)?;
        active.silent = true;
        Some(node.replace())
    }

    /// A lane talks again. False if that concerns nobody.
    pub(super) fn heard(&mut self, peer: PeerId, conn: ConnectionId) -> bool {
        let active = self.peers.get_mut(&peer).and_then(|n| n.active.as_mut()).filter(|a| a.conn == conn);
        active.map(|a| a.silent = false).is_some()
    }

    /// The dials after a loss failed. False if the peer is not closing (any more).
    pub(super) fn down(&mut self, peer: PeerId) -> bool {
        let closing = self.peers.get(&peer).is_some_and(|n| n.phase == Phase::Closing);
        if closing {
            self.peers.remove(&peer);
        }
        closing
    }

    /// Spares that their dialers should have closed long ago.
    pub(super) fn stale(&mut self, now: Instant) -> Vec<ConnectionId> {
        let mut stale = Vec::new();
        for node in self.peers.values_mut() {
            if node.active.is_some_and(|a| !a.silent) {
                stale.extend(node.spares.iter().filter(|s| now.duration_since(s.since) > SPARE_MAX).map(|s| s.conn));
                node.spares.retain(|s| now.duration_since(s.since) <= SPARE_MAX);
            }
        }
        stale
    }
}

impl Node {
    fn take(&mut self, held: Held) -> Act {
        let reset = self.phase != Phase::Down;
        self.phase = Phase::Up;
        self.active = Some(held);
        Act::Use { conn: held.conn, reset }
    }

    /// The newest spare, if there is one: it was proved alive last.
    fn promote(&mut self) -> Vec<Act> {
        self.spares.pop().map(|spare| self.take(spare)).into_iter().collect()
    }

    fn replace(&mut self) -> Vec<Act> {
        if self.spares.is_empty() {
            return vec![];
        }
        let close = self.active.take().map(|old| Act::Close(old.conn));
        close.into_iter().chain(self.promote()).collect()
    }
}

/// A dialer closes what it does not need within milliseconds; after this time it never will.
const SPARE_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn c(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    /// The smaller and the larger of two random ids.
    fn pair() -> (PeerId, PeerId) {
        let (a, b) = (PeerId::random(), PeerId::random());
        (a.min(b), a.max(b))
    }

    #[test]
    fn both_ends_of_simultaneous_dials_keep_the_connection_of_the_smaller_id() {
        let (small, large) = pair();
        let now = Instant::now();
        // Connection 1 was dialed by the smaller, 2 by the larger; each end sees them in either order.
        for order in [[1, 2], [2, 1]] {
            let mut at_small = Roster::new(small);
            let mut at_large = Roster::new(large);
            let mut closed = vec![];
            for n in order {
                for (roster, other, dialed) in [(&mut at_small, large, n == 1), (&mut at_large, small, n == 2)] {
                    let acts = roster.ready(other, c(n), dialed, 7, now);
                    closed.extend(acts.into_iter().filter_map(|a| if let Act::Close(c) = a { Some(c) } else { None }));
                }
            }
            assert_eq!(at_small.active(&large), Some(c(1)));
            assert_eq!(at_large.active(&small), Some(c(1)));
            assert!(!closed.is_empty() && closed.iter().all(|x| *x == c(2)), "{closed:?}");
        }
    }

    #[test]
    fn a_second_connection_in_the_same_direction_is_closed_by_its_dialer_only() {
        let (small, large) = pair();
        let now = Instant::now();
        let mut dialer = Roster::new(small);
        let mut listener = Roster::new(large);
        assert_eq!(dialer.ready(large, c(1), true, 7, now), [Act::Use { conn: c(1), reset: false }]);
        assert_eq!(dialer.ready(large, c(2), true, 7, now), [Act::Close(c(2))]);
        listener.ready(small, c(2), false, 7, now);
        assert_eq!(listener.ready(small, c(1), false, 7, now), []);
        assert_eq!(listener.ended(small, c(2)), [Act::Use { conn: c(1), reset: true }]);
    }

    #[test]
    fn a_lane_the_other_end_lost_gives_way_when_it_goes_silent() {
        let (small, large) = pair();
        let now = Instant::now();
        let mut roster = Roster::new(small);
        roster.ready(large, c(1), true, 7, now);
        assert_eq!(roster.ready(large, c(2), false, 7, now), []);
        assert_eq!(roster.silent(large, c(1)), Some(vec![Act::Close(c(1)), Act::Use { conn: c(2), reset: true }]));
        assert_eq!(roster.ended(large, c(1)), []);
    }

    #[test]
    fn another_boot_takes_over_at_once() {
        let (small, large) = pair();
        let now = Instant::now();
        let mut roster = Roster::new(small);
        roster.ready(large, c(1), true, 7, now);
        assert_eq!(roster.ready(large, c(2), false, 8, now), [Act::Retire(c(1)), Act::Use { conn: c(2), reset: true }]);
    }

    #[test]
    fn a_loss_ends_in_down_or_in_reset_and_never_in_both() {
        let (small, large) = pair();
        let now = Instant::now();
        let mut roster = Roster::new(small);
        roster.ready(large, c(1), true, 7, now);
        assert_eq!(roster.ended(large, c(1)), [Act::Lost]);
        assert_eq!(roster.ready(large, c(2), true, 7, now), [Act::Use { conn: c(2), reset: true }]);
        assert!(!roster.down(large));
        assert_eq!(roster.ended(large, c(2)), [Act::Lost]);
        assert!(roster.down(large) && !roster.down(large));
        assert_eq!(roster.ready(large, c(3), true, 7, now), [Act::Use { conn: c(3), reset: false }]);
    }

    #[test]
    fn forgotten_spares_are_closed() {
        let (small, large) = pair();
        let now = Instant::now();
        let mut roster = Roster::new(small);
        roster.ready(large, c(1), true, 7, now);
        roster.ready(large, c(2), false, 7, now);
        assert_eq!(roster.stale(now + SPARE_MAX), []);
        assert_eq!(roster.stale(now + SPARE_MAX * 2), [c(2)]);
        assert_eq!(roster.stale(now + SPARE_MAX * 2), []);
    }
}
