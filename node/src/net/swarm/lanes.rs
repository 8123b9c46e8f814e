//! What the lanes say, and what follows from it: which lane is used, who is lost, who is dialed again.

use std::{sync::PoisonError, time::Duration};

use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};
use tokio::time::Instant;

use super::{
    super::{
        NetEvent, Peer,
        identity::raw,
        link::{self, End, Ready, Report},
        metrics::RefuseReason,
        roster::Act,
    },
    BACKLOG_MAX, LaneState, Loop, Step,
};

impl Loop {
    pub(super) fn on_report(&mut self, report: Report) {
        let now = Instant::now();
        match report {
            Report::Ready { conn, peer, ready } => self.on_ready(conn, peer, ready, now),
            Report::Silent { conn, peer } => {
                if self.out.len() >= BACKLOG_MAX {
                    // Nobody takes events; `Closed` comes once per lane, `Silent` could come for ever.
                    self.doom(conn);
                    return;
                }
                let Some(acts) = self.roster.silent(peer, conn) else {
                    return;
                };
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
        let Some(held) = self.conns.get(&conn) else {
            return;
        };
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
        let Some(held) = self.conns.get_mut(&conn) else {
            return;
        };
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
    pub(super) fn on_closed(&mut self, peer: PeerId, conn: ConnectionId, now: Instant) {
        let Some(held) = self.conns.get_mut(&conn) else {
            return;
        };
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
        let event = if reset { NetEvent::Reset { peer: raw } } else { NetEvent::Up { peer: raw } };
        if !reset {
            self.index.hasten(now);
        }
        if let Some(ready) = self.ready.get_mut(&conn)
            && let Some(activate) = ready.activate.take()
        {
            let sender = ready.sender.clone();
            self.out.push_back(Step::Begin { event, peer: raw, sender, activate });
        }
    }

    pub(super) fn down(&mut self, peer: PeerId, refused: bool) {
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

    pub(super) fn close_duplicate(&mut self, conn: ConnectionId) {
        self.shared.counters.refuse(RefuseReason::Duplicate);
        self.doom(conn);
    }

    /// Closes a connection, and its lane at once.
    pub(super) fn doom(&mut self, conn: ConnectionId) {
        if let Some(ready) = self.ready.get(&conn) {
            ready.sender.cancel();
        }
        if let Some(held) = self.conns.get_mut(&conn) {
            held.doomed = true;
        }
        self.swarm.close_connection(conn);
    }
}

/// A lost peer that could not be reached again by then is down.
const DOWN_AFTER: Duration = Duration::from_secs(1);
/// A lane that lived so long was no accident: after its loss the peer is dialed at once.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
