//! The network: one connection per pair, ordered and lossless while it lasts, and gossip beside it.
//!
//! As on the real transport, a cut does not lose single messages: it stalls both directions; the ends say
//! `Silent` after a second and close after three, and whatever was on the way is lost with the connection.

use std::collections::VecDeque;
use std::sync::Arc;

use clawmesh_protocol::{
    codec,
    ids::Peer,
    io::Input,
    message::{Busy, Gossip, Message, Refuse},
    relay::Relay,
};

use super::{What, World, node::Ending, of_election, versions};
use crate::{oracle::Fact, plan::Fault};

/// Silence after which an end says so, ms; the heartbeat's phase adds up to [`PHASE_MS`].
const SILENT_MS: u64 = 1_000;
/// Further silence after which it closes, ms.
const CLOSE_MS: u64 = 2_000;
/// Period of the lane's heartbeat, ms.
const PHASE_MS: u64 = 250;

/// Of a thousand envelopes that a node passes on, so many are dropped, changed or repeated.
const HOSTILE: u64 = 9;

/// What the author's signature is in this world: nobody else can make it, since only [`World::effect`] calls this for an author.
pub(super) fn signature(r: &Relay) -> codec::Blob {
    codec::Blob(blake3::hash(&r.signed()).as_bytes().to_vec())
}

/// What travels on a connection.
pub(super) enum Packet {
    Msg(Arc<Message>),
    Close,
}

/// Two nodes and what is between them.  Side 0 is the lower node, side 1 the higher.
pub(super) struct Pair {
    ends: [usize; 2],
    conn: u64,
    /// The connection that each end believes to be open.
    open: [Option<u64>; 2],
    /// How many faults cut the way from this side.
    cut: [u16; 2],
    fifo: [u64; 2],
    /// What is under way from each side: when it is due, its connection, and what it is.  In order.
    wire: [VecDeque<(u64, u64, Packet)>; 2],
    watch: [Option<u64>; 2],
    silent: [bool; 2],
    told: [Option<bool>; 2],
    /// When the last notice to this end is due: notices keep their order.
    notice: [u64; 2],
    dialling: bool,
}

impl Pair {
    pub(super) fn all(nodes: usize) -> Vec<Self> {
        let ends = (0..nodes).flat_map(|hi| (0..hi).map(move |lo| [lo, hi]));
        ends.map(|ends| Self {
            ends,
            conn: 0,
            open: [None; 2],
            cut: [0; 2],
            fifo: [0; 2],
            wire: [VecDeque::new(), VecDeque::new()],
            watch: [None; 2],
            silent: [false; 2],
            told: [None; 2],
            notice: [0; 2],
            dialling: false,
        })
        .collect()
    }
    fn flows(&self) -> bool {
        self.cut == [0; 2]
    }
    /// Data can flow over it now.
    pub(super) fn usable(&self) -> bool {
        self.connected() && self.flows()
    }
    fn connected(&self) -> bool {
        self.open[0].is_some() && self.open[0] == self.open[1]
    }
}

/// Where the pair of two different nodes is, and which side the first one is.
pub(super) fn pair_of(a: usize, b: usize) -> (usize, usize) {
    let (lo, hi) = (a.min(b), a.max(b));
    (hi * hi.saturating_sub(1) / 2 + lo, usize::from(a > b))
}

impl World {
    fn delay(&mut self) -> u64 {
        let (lo, hi, tail, far) = self.plan.delay;
        let d = if self.calm { self.chance.net.range(lo, hi) } else { self.chance.net.tailed(lo, hi, tail, far) };
        if self.slow > 1 { (d + 1) * self.slow } else { d }
    }

    pub(super) fn send(&mut self, from: usize, to: Peer, msg: Message) {
        let Some(t) = self.node_of(to) else {
            return self.complain("core", from, format!("sends {} to nobody", msg.name()));
        };
        if t == from {
            return self.complain("core", from, format!("sends {} to itself", msg.name()));
        }
        if let Some(m) = &mut self.meter {
            m.bytes += codec::encode(&msg).len() as u64;
            if of_election(&msg) {
                *m.messages.entry(msg.name()).or_default() += 1;
            }
        }
        let msg = self.through_codec(from, msg);
        let (pair, side) = pair_of(from, t);
        let Some(msg) = self.hostile(from, pair, side, msg) else { return };
        match self.pairs[pair].open[side] {
            Some(conn) => self.enqueue(pair, side, conn, Packet::Msg(Arc::new(msg))),
            None => self.count("sent without a link"),
        }
    }

    /// A relay that can't be trusted: it may drop, change and repeat what it passes on.
    fn hostile(&mut self, from: usize, pair: usize, side: usize, msg: Message) -> Option<Message> {
        let Message::Relay(mut r) = msg else { return Some(msg) };
        if self.calm || r.from == self.nodes[from].cfg.peer || !self.chance.net.permille(HOSTILE) {
            return Some(Message::Relay(r));
        }
        match self.chance.net.below(3) {
            0 => return None,
            1 => {
                if let Some(b) = r.body.0.last_mut() {
                    *b ^= 1;
                }
            }
            _ => {
                let kept = self.kept.replace((pair, side, r.clone()));
                // The same twice, or an older one of the same way before it.
                let old = kept.filter(|(p, s, _)| (*p, *s) == (pair, side)).map_or_else(|| r.clone(), |(.., old)| old);
                if let Some(conn) = self.pairs[pair].open[side] {
                    self.enqueue(pair, side, conn, Packet::Msg(Arc::new(Message::Relay(old))));
                }
            }
        }
        self.count("relay: a hostile one");
        Some(Message::Relay(r))
    }

    /// A fraction of all messages is encoded, decoded and compared.
    fn through_codec(&mut self, from: usize, msg: Message) -> Message {
        if !self.chance.net.permille(self.plan.codec) {
            return msg;
        }
        let bytes = codec::encode(&msg);
        match codec::decode::<Message>(&bytes) {
            Ok(m) if m == msg && codec::encode(&m) == bytes => m,
            Ok(m) => {
                self.complain("core", from, format!("{} changes in the codec: {msg:?} became {m:?}", msg.name()));
                msg
            }
            Err(e) => {
                self.complain("core", from, format!("{} can't be decoded: {e}", msg.name()));
                msg
            }
        }
    }

    fn enqueue(&mut self, pair: usize, side: usize, conn: u64, packet: Packet) {
        let d = self.delay();
        let now = self.now;
        let p = &mut self.pairs[pair];
        p.fifo[side] = p.fifo[side].max(now + d);
        let at = p.fifo[side];
        p.wire[side].push_back((at, conn, packet));
        self.after(at - now, What::Packet { pair, side });
    }

    /// Hands over what is due, in the order in which it was sent, unless the way is cut.
    pub(super) fn arrive(&mut self, pair: usize, side: usize) {
        loop {
            let now = self.now;
            let p = &mut self.pairs[pair];
            if !p.flows() || self.nodes[p.ends[1 - side]].deaf || p.wire[side].front().is_none_or(|(at, ..)| *at > now) {
                return;
            }
            let Some((_, conn, packet)) = p.wire[side].pop_front() else { return };
            self.hand_over(pair, side, conn, packet);
        }
    }

    fn hand_over(&mut self, pair: usize, side: usize, conn: u64, packet: Packet) {
        let p = &mut self.pairs[pair];
        let other = 1 - side;
        let (node, from) = (p.ends[other], p.ends[side]);
        if self.nodes[node].core.is_none() {
            return;
        }
        let peer = self.nodes[from].cfg.peer;
        match packet {
            Packet::Msg(m) if p.open[other] == Some(conn) => {
                let m = Arc::try_unwrap(m).unwrap_or_else(|m| (*m).clone());
                // The driver's part of E11: nothing reaches the core that its author has not signed.
                let m = match m {
                    Message::Relay(r) if r.to == self.nodes[node].cfg.peer => {
                        if signature(&r) != r.sig {
                            return self.count("relay: a forged one");
                        }
                        let r = versions::envelope(self.nodes[node].cfg.proto, r);
                        return self.give(node, Input::Relayed(peer, r));
                    }
                    m => m,
                };
                let Some(m) = versions::message(self.nodes[node].cfg.proto, m) else {
                    return self.count("versions: a message that an older one could not read");
                };
                match self.bugged(node, &m) {
                    None => self.give(node, Input::Message(peer, m)),
                    Some(None) => {}
                    Some(Some(answer)) => self.enqueue(pair, other, conn, Packet::Msg(Arc::new(answer))),
                }
            }
            // An older connection's last words.
            Packet::Msg(_) => {}
            Packet::Close if p.open[other] == Some(conn) => {
                self.closed(pair, other);
                self.dial_in(pair, 1, 5);
            }
            Packet::Close => {}
        }
    }

    /// What a node is made to do with a message against its will: to answer this, or not to have heard it.
    fn bugged(&mut self, node: usize, m: &Message) -> Option<Option<Message>> {
        let (fault, until) = self.nodes[node].bug?;
        if self.now >= until {
            self.nodes[node].bug = None;
            return None;
        }
        let answer = match (fault, m) {
            (Fault::Busy, Message::Submit(s)) => {
                Some(Message::Busy(Busy { id: Some(s.id), retry_after_ms: 100, full: false, ext: Default::default() }))
            }
            (Fault::Refuse, Message::Assign(a)) => Some(Message::Refuse(Refuse {
                id: a.id,
                attempt: a.attempt,
                why: "it does not feel like it".into(),
                ext: Default::default(),
            })),
            (Fault::DropAck, Message::Ack(_)) => None,
            _ => return None,
        };
        self.count(&format!("buggify: {fault:?}"));
        Some(answer)
    }

    /// Tells an end something about its link, after all that it was told before.
    fn notify(&mut self, pair: usize, side: usize, delay: u64, input: Input) {
        let at = self.pairs[pair].notice[side].max(self.now + delay);
        self.pairs[pair].notice[side] = at;
        let node = self.pairs[pair].ends[side];
        let life = self.nodes[node].life;
        self.after(at - self.now, What::Give { node, life, input: Box::new(input) });
    }

    fn up(&mut self, pair: usize, side: usize, conn: u64, delay: u64) {
        let p = &mut self.pairs[pair];
        p.open[side] = Some(conn);
        p.watch[side] = None;
        p.silent[side] = false;
        p.told[side] = None;
        p.wire[side].clear();
        let (node, peer) = (p.ends[side], self.nodes[p.ends[1 - side]].cfg.peer);
        self.see(node, Fact::Link(peer, true));
        self.notify(pair, side, delay, Input::Up(peer));
        // What comes over the new connection comes after the news of it.
        let p = &mut self.pairs[pair];
        p.fifo[1 - side] = p.fifo[1 - side].max(p.notice[side] + 1);
    }

    fn closed(&mut self, pair: usize, side: usize) {
        let p = &mut self.pairs[pair];
        p.open[side] = None;
        p.watch[side] = None;
        p.silent[side] = false;
        p.wire[side].clear();
        let (node, peer) = (p.ends[side], self.nodes[p.ends[1 - side]].cfg.peer);
        self.see(node, Fact::Link(peer, false));
        self.notify(pair, side, 0, Input::Closed(peer));
    }

    fn dial_in(&mut self, pair: usize, lo: u64, hi: u64) {
        if !self.pairs[pair].dialling {
            self.pairs[pair].dialling = true;
            let d = self.chance.net.range(lo, hi);
            self.after(d, What::Dial { pair });
        }
    }

    /// Somebody who dials now gets through.
    pub(super) fn may_connect(&self, pair: usize) -> bool {
        let p = &self.pairs[pair];
        !p.connected() && p.flows() && p.ends.iter().all(|n| self.nodes[*n].core.is_some() && !self.nodes[*n].paused)
    }

    pub(super) fn dial(&mut self, pair: usize) {
        let p = &mut self.pairs[pair];
        p.dialling = false;
        if p.connected() {
            return;
        }
        let ends = p.ends;
        let flows = p.flows();
        let alive = ends.map(|n| self.nodes[n].core.is_some());
        let awake = ends.map(|n| !self.nodes[n].paused);
        if alive == [true; 2] && awake == [true; 2] && flows {
            return self.connect(pair);
        }
        for side in 0..2 {
            let refused = flows && !alive[1 - side] && !self.nodes[ends[1 - side]].dark;
            let p = &mut self.pairs[pair];
            if alive[side] && awake[side] && p.open[side].is_none() && p.told[side] != Some(refused) {
                p.told[side] = Some(refused);
                let peer = self.nodes[ends[1 - side]].cfg.peer;
                self.notify(pair, side, 0, Input::Down(peer, refused));
            }
        }
        if alive != [false; 2] {
            self.dial_in(pair, 100, 1_200);
        }
    }

    /// A new connection, in place of an older one if there is one.
    fn connect(&mut self, pair: usize) {
        let p = &mut self.pairs[pair];
        p.conn += 1;
        let conn = p.conn;
        let dialler = self.chance.net.below(2);
        let d = self.delay();
        self.up(pair, dialler, conn, 0);
        self.up(pair, 1 - dialler, conn, d);
        self.refresh(pair);
    }

    /// Both ends lose the connection at once; nothing in flight arrives.
    pub(super) fn reset(&mut self, pair: usize) {
        for side in 0..2 {
            if self.pairs[pair].open[side].is_some() && self.nodes[self.pairs[pair].ends[side]].core.is_some() {
                self.closed(pair, side);
            }
        }
        self.dial_in(pair, 1, 20);
    }

    /// A new connection takes the place of a healthy one without a close.
    pub(super) fn replace(&mut self, pair: usize) {
        let p = &self.pairs[pair];
        let ok = p.ends.iter().all(|n| self.nodes[*n].core.is_some() && !self.nodes[*n].paused);
        if ok && p.flows() && p.connected() {
            self.connect(pair);
        }
    }

    /// Cuts (or mends) the way from one side of a pair.
    pub(super) fn cut(&mut self, pair: usize, side: usize, on: bool) {
        let c = &mut self.pairs[pair].cut[side];
        *c = if on { *c + 1 } else { c.saturating_sub(1) };
        self.refresh(pair);
    }

    /// The number of pairs, and of cuts that are on.
    pub(super) fn mend_all(&mut self) {
        for pair in 0..self.pairs.len() {
            self.pairs[pair].cut = [0; 2];
            self.refresh(pair);
        }
    }

    /// Starts and stops the ends' watches after something changed, and lets go what was stalled.
    pub(super) fn refresh(&mut self, pair: usize) {
        for side in 0..2 {
            let p = &self.pairs[pair];
            let (me, other) = (p.ends[side], p.ends[1 - side]);
            let awake = self.nodes[me].core.is_some() && !self.nodes[me].paused;
            let deaf = !p.flows() || self.nodes[other].paused || self.nodes[other].core.is_none();
            if p.open[side].is_none() || !awake {
                self.pairs[pair].watch[side] = None;
            } else if deaf && p.watch[side].is_none() {
                self.order += 1;
                let token = self.order;
                self.pairs[pair].watch[side] = Some(token);
                let wait = SILENT_MS + self.chance.net.range(0, PHASE_MS);
                self.after(wait, What::Watch { pair, side, token, close: false });
            } else if !deaf {
                self.pairs[pair].watch[side] = None;
                if std::mem::take(&mut self.pairs[pair].silent[side]) {
                    let peer = self.nodes[other].cfg.peer;
                    self.see(me, Fact::Link(peer, true));
                    self.notify(pair, side, 0, Input::Heard(peer));
                }
            }
        }
        if self.pairs[pair].flows() {
            for side in 0..2 {
                if !self.pairs[pair].wire[side].is_empty() {
                    let d = self.chance.net.range(0, 20);
                    self.after(d, What::Packet { pair, side });
                }
            }
            if !self.pairs[pair].connected() {
                self.dial_in(pair, 1, 300);
            }
        }
    }

    pub(super) fn watched(&mut self, pair: usize, side: usize, token: u64, close: bool) {
        let p = &mut self.pairs[pair];
        if p.watch[side] != Some(token) {
            return;
        }
        let peer = self.nodes[p.ends[1 - side]].cfg.peer;
        if !close {
            p.silent[side] = true;
            let me = p.ends[side];
            self.see(me, Fact::Link(peer, false));
            self.notify(pair, side, 0, Input::Silent(peer));
            self.after(CLOSE_MS, What::Watch { pair, side, token, close: true });
            return;
        }
        let conn = p.open[side].unwrap_or(0);
        self.closed(pair, side);
        self.pairs[pair].told[side] = Some(false);
        self.notify(pair, side, 0, Input::Down(peer, false));
        if self.pairs[pair].flows() {
            self.enqueue(pair, side, conn, Packet::Close);
        }
        self.dial_in(pair, 100, 1_000);
    }

    /// All pairs of a node, with the node's side.
    pub(super) fn pairs_of(&self, node: usize) -> Vec<(usize, usize)> {
        (0..self.nodes.len()).filter(|n| *n != node).map(|n| pair_of(node, n)).collect()
    }

    /// A process is gone.  Its host ends the connections, unless it lost power too.
    pub(super) fn links_down(&mut self, node: usize, how: Ending) {
        for (pair, side) in self.pairs_of(node) {
            let p = &mut self.pairs[pair];
            p.watch[side] = None;
            p.silent[side] = false;
            p.told[side] = None;
            if how != Ending::Exit {
                p.wire[side].clear();
            }
            if let Some(conn) = p.open[side].take()
                && how != Ending::Power
                && p.flows()
            {
                self.enqueue(pair, side, conn, Packet::Close);
            }
            self.refresh(pair);
            self.dial_in(pair, 1, 5);
        }
    }

    /// A process has started.
    pub(super) fn links_start(&mut self, node: usize) {
        for (pair, side) in self.pairs_of(node) {
            self.pairs[pair].told[side] = None;
            self.pairs[pair].dialling = false;
            self.dial_in(pair, 1, 100);
        }
    }

    /// Floods a gossip message over the links that are up.
    pub(super) fn publish(&mut self, from: usize, gossip: Gossip) {
        let size = if self.meter.is_some() { codec::encode(&gossip).len() as u64 } else { 0 };
        let gossip = Arc::new(gossip);
        let author = self.nodes[from].cfg.peer;
        // Whom it has not reached yet: in a whole mesh the first hop reaches all.
        let mut rest: Vec<usize> = (0..self.nodes.len()).filter(|v| *v != from && self.nodes[*v].core.is_some()).collect();
        let mut front = VecDeque::from([(from, 0)]);
        while let Some((u, since)) = front.pop_front() {
            if rest.is_empty() {
                return;
            }
            let mut left = Vec::new();
            for v in std::mem::take(&mut rest) {
                let (pair, side) = pair_of(u, v);
                let p = &self.pairs[pair];
                let open = p.connected() && p.cut[side] == 0;
                if !open || (!self.calm && self.chance.net.permille(self.plan.gossip_loss)) {
                    left.push(v);
                    continue;
                }
                // Gossip rides on the connection: it never comes before the news of it.
                let up = (self.pairs[pair].notice[1 - side] + 1).saturating_sub(self.now);
                let at = (since + self.delay()).max(up);
                if let Some(m) = &mut self.meter {
                    m.bytes += size;
                }
                let life = self.nodes[v].life;
                if !self.calm && self.chance.net.permille(self.plan.gossip_twice) {
                    let again = at + self.chance.net.range(1, 2_000);
                    self.after(again, What::Gossip { node: v, life, from: author, gossip: gossip.clone() });
                }
                self.after(at, What::Gossip { node: v, life, from: author, gossip: gossip.clone() });
                if !self.nodes[v].paused {
                    front.push_back((v, at));
                }
            }
            rest = left;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_its_own_place_and_two_sides() {
        let all = Pair::all(7);
        for a in 0..7 {
            for b in (0..7).filter(|b| *b != a) {
                let (p, side) = pair_of(a, b);
                assert_eq!(all[p].ends[side], a);
                assert_eq!(all[p].ends[1 - side], b);
            }
        }
    }
}
