//! One peer in between (E11): two members that cannot reach each other talk through a third one that both can reach.
//!
//! A *channel* is a link made of signed envelopes.  It promises what a link promises: in order, nothing twice, nothing lost
//! between `up` and `closed`; a gap closes it.  The rest of the core sees a member that is linked and asks no further.
//! Each end numbers its envelopes within a *session* of its own.  A handshake of three binds the two sessions to each other
//! (`Open`, `Accept` of that, `Confirm` of that), so that nothing recorded earlier can open a channel or be said in one, not
//! even to a node that has forgotten everything in a restart.
//!
//! The core knows no keys: the driver signs what leaves ([`Output::Relay`]) and hands in ([`crate::io::Input::Relayed`]) only
//! what its author has signed.  A relay passes on what came directly from its author to whom it has a direct link to, and
//! nothing else: one hop by construction, never two, never a circle.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};

use crate::{
    codec::{self, Blob},
    config::MEMBERS_MAX,
    ids::Peer,
    io::{Event, Output},
    mesh::Mesh,
    message::Message,
    mutant,
    rest::next,
    rule::Rule,
    wire_enum, wire_struct,
};

/// Largest body of an envelope, bytes: with the envelope around it, it stays within a frame of the link (1 MiB), and above the
/// largest message there is (a few times [`crate::message::BYTES_MAX`] never occurs).
pub const BODY_MAX: usize = 768 << 10;
/// Longest signature, bytes (ed25519 has 64).
pub const SIG_MAX: usize = 128;
/// Channels of one node, those being opened included; further ones are refused.
pub const CHANNELS_MAX: usize = 256;
/// A member must have been heard by others so long after its link was lost before a relay is sought, ms: the driver dials
/// again at once, and a direct link is better.
const GRACE_MS: u64 = 1_000;
/// Of two ends the one with the higher key waits so much longer, so that seldom both begin, ms.
const TURN_MS: u64 = 500;
/// An opening that nobody answers is tried through the next peer, ms.
const OPEN_MS: u64 = 2_000;
/// Who has not said anything for so long says that it is there, ms.
const KEEP_MS: u64 = 400;
/// Nothing heard for so long times the own lateness (L2) is silence, ms.
const SILENT_MS: u64 = 1_000;
/// Nothing heard for so long ends the channel, ms.
const DEAD_MS: u64 = 3_000;
/// A channel that lasted so long was no failure of its relay, ms.
const LASTED_MS: u64 = 10_000;
/// Peers tried one after the other before a pause.
const TRIES_MAX: usize = 8;
/// The first pause, ms; it doubles ...
const BACKOFF_MS: u64 = 10_000;
/// ... so many times at most (160 s).
const BACKOFF_STEPS: u32 = 4;
/// The other end says that it has a direct link, or no room: so long until it is asked again, ms.
const AGAIN_MS: u64 = 1_000;
/// Bytes passed on for one author per second, and at once: half of what one lane takes before it is closed (16 MiB), for the
/// relay's own messages share it.
const PASS_RATE: u64 = 8 << 20;

wire_struct! {
    /// A signed message that one peer may carry.
    pub struct Relay {
        /// Who wrote it.
        1 => from: Peer,
        /// Who is to read it.
        2 => to: Peer,
        /// Its author's session.
        3 => session: u64,
        /// 0 in the handshake and for `Close`; then counts from 1.
        4 => n: u64,
        /// An encoded [`Body`]; at most [`BODY_MAX`] bytes.
        5 => body: Blob,
        /// The author's signature of [`Relay::signed`], with what the driver puts in front of it.
        6 => sig: Blob,
    }
}

wire_struct! {
    /// A relay could not pass on an envelope of this session.
    pub struct NoRoute {
        /// Whom it was for.
        1 => to: Peer,
        /// Its author's session.
        2 => session: u64,
    }
}

wire_struct! {
    /// Which session of the other end is meant.
    pub struct Of {
        /// Its number; 0 where none is meant.
        1 => session: u64,
    }
}

wire_enum! {
    /// What an envelope holds.
    pub enum Body {
        /// I would like a channel.
        1 => Open(Of),
        /// Yes, to the `Open` of this session.
        2 => Accept(Of),
        /// The `Accept` of this session has arrived: the channel is up.
        3 => Confirm(Of),
        /// I am here.
        4 => Keep(Of),
        /// There is no channel with this session (any more).
        5 => Close(Of),
        /// A message as over a link.
        6 => Message(Message),
    }
}

impl Relay {
    /// What its author signs: the fields one after the other, all but the last of fixed length.
    pub fn signed(&self) -> Vec<u8> {
        let mut v = Vec::with_capacity(80 + self.body.0.len());
        v.extend_from_slice(&self.from.0);
        v.extend_from_slice(&self.to.0);
        v.extend_from_slice(&self.session.to_be_bytes());
        v.extend_from_slice(&self.n.to_be_bytes());
        v.extend_from_slice(&self.body.0);
        v
    }
    /// The message inside, for drivers that look at what they carry.
    pub fn message(&self) -> Option<Message> {
        match codec::decode(&self.body.0) {
            Ok(Body::Message(m)) => Some(m),
            _ => None,
        }
    }
    /// It says nothing but "I am here".
    pub fn is_keep(&self) -> bool {
        matches!(codec::decode(&self.body.0), Ok(Body::Keep(_)))
    }
    fn fits(&self) -> bool {
        self.body.0.len() <= BODY_MAX && self.sig.0.len() <= SIG_MAX
    }
}

/// A channel that is up.
#[derive(Debug)]
struct Channel {
    via: Peer,
    /// Our session.
    mine: u64,
    /// The other end's, and the number of its last envelope.
    theirs: u64,
    got: u64,
    /// Awake ms when it came up, when we said something last, when we heard something last.
    since: u64,
    sent_at: u64,
    heard_at: u64,
    silent: bool,
    /// Something could not be sent: it ends at the next tick.
    broken: bool,
}

/// Where an envelope stands in its session.
#[derive(Debug, PartialEq, Eq)]
enum Order {
    Next,
    Again,
    Gap,
}

impl Channel {
    fn order(&mut self, n: u64) -> Order {
        if n <= self.got && !mutant::on(44) {
            Order::Again
        } else if n > self.got + 1 {
            Order::Gap
        } else {
            self.got = n;
            Order::Next
        }
    }
}

/// A handshake under way: the one who asks has no `theirs` yet.
#[derive(Debug)]
struct Shaking {
    via: Peer,
    mine: u64,
    theirs: u64,
    until: u64,
}

/// What was tried in vain for a member.
#[derive(Debug, Default)]
struct Tries {
    vias: BTreeSet<Peer>,
    not_before: u64,
    pauses: u32,
}

/// What may be passed on for one author now.
#[derive(Debug)]
struct Allowance {
    bytes: u64,
    at: u64,
}

impl Allowance {
    fn take(&mut self, now: u64, n: u64) -> bool {
        let more = now.saturating_sub(self.at).saturating_mul(PASS_RATE) / 1_000;
        self.bytes = self.bytes.saturating_add(more).min(PASS_RATE);
        self.at = now;
        let ok = n <= self.bytes;
        if ok {
            self.bytes -= n;
        }
        ok
    }
}

/// All channels of a node, and what it passes on for others.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    up: BTreeMap<Peer, Channel>,
    /// We asked.
    opening: BTreeMap<Peer, Shaking>,
    /// We were asked, and said yes.
    answered: BTreeMap<Peer, Shaking>,
    tries: BTreeMap<Peer, Tries>,
    /// When somebody was told that it has no channel here; as many as there are direct links at most.
    told: BTreeMap<Peer, u64>,
    allowances: BTreeMap<Peer, Allowance>,
    sessions: u64,
}

impl Relays {
    fn full(&self) -> bool {
        self.up.len() + self.opening.len() + self.answered.len() >= CHANNELS_MAX
    }
    /// What was about to come up with this member is not needed any more.
    fn forget_shaking(&mut self, p: &Peer) {
        self.opening.remove(p);
        self.answered.remove(p);
    }
    fn next_at(&self, lateness: u64) -> Option<u64> {
        let up = self.up.values().map(|c| {
            let silent = if c.silent { c.heard_at + DEAD_MS.max(SILENT_MS * lateness) } else { c.heard_at + SILENT_MS * lateness };
            if c.broken { 0 } else { silent.min(c.sent_at + KEEP_MS) }
        });
        up.chain(self.opening.values().chain(self.answered.values()).map(|s| s.until)).min()
    }
}

impl Mesh {
    // ---- links, as the driver tells of them ----

    /// A direct link is up: it takes the place of a channel.
    pub(crate) fn direct_up(&mut self, p: Peer) {
        self.relay.forget_shaking(&p);
        self.relay.tries.remove(&p);
        for t in self.relay.tries.values_mut() {
            // It may carry, or carry again.
            t.vias.remove(&p);
            t.not_before = 0;
        }
        let channel = self.relay.up.remove(&p);
        let m = self.view.entry(p);
        (m.via, m.refused) = (None, false);
        if let Some(c) = channel {
            // The other end notices by its own link; until then it speaks into the void, as on any link that is replaced.
            self.note_relay("replaced", p, c.mine);
        }
        self.on_up(p);
    }

    pub(crate) fn direct_closed(&mut self, p: Peer) {
        if !self.is_relayed(&p) {
            self.unlink(p, "closed");
            self.via_lost(p);
        }
    }

    pub(crate) fn direct_down(&mut self, p: Peer, refused: bool) {
        if !self.is_relayed(&p) {
            self.on_down(p, refused);
            self.via_lost(p);
        }
    }

    /// Silence or a sign of life on a direct link; there is none while the member is reached through another.
    pub(crate) fn direct_heard(&mut self, p: Peer, heard: bool) {
        match (self.is_relayed(&p), heard) {
            (true, _) => {}
            (false, true) => self.on_heard(p),
            (false, false) => self.on_silent(p),
        }
    }

    pub(crate) fn is_relayed(&self, p: &Peer) -> bool {
        self.view.get(p).is_some_and(|m| m.via.is_some())
    }

    /// Through whom a member is reached, when not directly.
    pub(crate) fn via(&self, p: &Peer) -> Option<Peer> {
        self.view.get(p).and_then(|m| m.via)
    }

    /// The direct link to `v` is gone, and with it every channel through it.
    fn via_lost(&mut self, v: Peer) {
        self.relay.told.remove(&v);
        self.relay.allowances.remove(&v);
        if self.relay.up.is_empty() && self.relay.opening.is_empty() && self.relay.answered.is_empty() {
            return;
        }
        self.relay.answered.retain(|_, s| s.via != v);
        let up: Vec<Peer> = self.relay.up.iter().filter(|(_, c)| c.via == v).map(|(p, _)| *p).collect();
        let opening: Vec<Peer> = self.relay.opening.iter().filter(|(_, s)| s.via == v).map(|(p, _)| *p).collect();
        for p in up {
            self.channel_down(p, false, false);
        }
        for p in opening {
            self.open_failed(p);
        }
    }

    // ---- opening ----

    /// Others have just heard `p`: if this node has no link to it for a while, it tries to reach it through one of them.
    pub(crate) fn seek_relay(&mut self, p: Peer) {
        if p == self.me || self.leaving || self.asleep() || self.tilted() || self.relay.full() {
            return;
        }
        let now = self.now;
        let wait = GRACE_MS + if self.me > p { TURN_MS } else { 0 };
        let Some(m) = self.view.get(&p) else { return };
        let lost = m.lost_at.is_some_and(|t| now >= t + wait);
        if m.linked || m.away() || m.advert.is_none() || !lost {
            return;
        }
        let busy = self.relay.opening.contains_key(&p) || self.relay.answered.contains_key(&p);
        if busy || self.relay.tries.get(&p).is_some_and(|t| now < t.not_before) {
            return;
        }
        self.open_next(p);
    }

    /// Directly linked peers that may carry for `p`: the coordinator first, then by rank.
    fn next_via(&self, p: &Peer) -> Option<Peer> {
        let tried = self.relay.tries.get(p).map(|t| &t.vias);
        let may = |v: &Peer| v != p && self.view.get(v).is_some_and(|m| m.usable() && m.via.is_none());
        let leader = self.leader();
        let all = self.view.usable().filter(|v| may(v) && tried.is_none_or(|t| !t.contains(v)));
        all.max_by_key(|v| (Some(*v) == leader, self.view.rank(v), *v))
    }

    fn open_next(&mut self, p: Peer) {
        let tried = self.relay.tries.get(&p).map_or(0, |t| t.vias.len());
        if self.relay.tries.len() >= MEMBERS_MAX {
            self.relay.tries.clear();
        }
        let Some(via) = self.next_via(&p).filter(|_| tried < TRIES_MAX) else {
            let now = self.now;
            let t = self.relay.tries.entry(p).or_default();
            t.vias.clear();
            t.not_before = now + (BACKOFF_MS << t.pauses.min(BACKOFF_STEPS));
            t.pauses = t.pauses.saturating_add(1);
            return;
        };
        let mine = self.new_session();
        let until = self.now + OPEN_MS;
        self.relay.opening.insert(p, Shaking { via, mine, theirs: 0, until });
        self.wake_at(until);
        self.enclose(via, p, mine, Body::Open(of(0)), 0);
    }

    /// The present try came to nothing: the next one.
    fn open_failed(&mut self, p: Peer) {
        let Some(s) = self.relay.opening.remove(&p) else { return };
        self.relay.tries.entry(p).or_default().vias.insert(s.via);
        if self.view.get(&p).is_some_and(|m| !m.linked && !m.away()) {
            self.open_next(p);
        }
    }

    fn new_session(&mut self) -> u64 {
        self.relay.sessions += 1;
        self.boot.saturating_mul(1 << 32).saturating_add(self.relay.sessions)
    }

    fn channel_up(&mut self, p: Peer, via: Peer, mine: u64, theirs: u64) {
        self.relay.forget_shaking(&p);
        let now = self.now;
        let c = Channel { via, mine, theirs, got: 0, since: now, sent_at: now, heard_at: now, silent: false, broken: false };
        self.relay.up.insert(p, c);
        self.view.entry(p).via = Some(via);
        self.rule(Rule::E11);
        self.note_relay("opened", p, mine);
        self.wake_at(now + KEEP_MS);
        self.on_up(p);
    }

    /// Ends a channel; `tell` the other end, too.  `blame` the relay: it is not the next one.
    fn channel_down(&mut self, p: Peer, tell: bool, blame: bool) {
        let Some(c) = self.relay.up.remove(&p) else { return };
        self.note_relay("ended", p, c.mine);
        if tell {
            let session = self.new_session();
            self.enclose(c.via, p, session, Body::Close(of(c.theirs)), 0);
        }
        let lasted = self.now >= c.since + LASTED_MS;
        let t = self.relay.tries.entry(p).or_default();
        if lasted {
            *t = Tries::default();
        }
        if blame || !lasted {
            t.vias.insert(c.via);
        }
        self.unlink(p, "closed");
        self.view.entry(p).via = None;
        // Nothing is known of its host: whether it refuses is the business of direct dials.
        self.suspect_link(p);
        self.seek_relay(p);
    }

    // ---- sending ----

    /// Takes a message for a peer that is reached through another; gives it back when it is not.
    pub(crate) fn send_relayed(&mut self, to: Peer, msg: Message, after: u64) -> Option<Message> {
        let now = self.now;
        let Some(c) = self.relay.up.get_mut(&to) else { return Some(msg) };
        if c.broken {
            return None;
        }
        let body = codec::encode(&Body::Message(msg));
        if body.len() > BODY_MAX {
            c.broken = true;
            self.event(Event::Dropped("relay_too_large"));
            self.wake_at(now);
            return None;
        }
        if after <= self.durable {
            // What waits for the disk is no sign of life yet.
            c.sent_at = now;
        }
        let (via, mine) = (c.via, c.mine);
        self.note_relay("sent", to, mine);
        self.envelope(via, to, mine, 1, body, after);
        None
    }

    fn enclose(&mut self, via: Peer, to: Peer, session: u64, body: Body, n: u64) {
        self.envelope(via, to, session, n, codec::encode(&body), 0);
    }

    fn envelope(&mut self, via: Peer, to: Peer, session: u64, n: u64, body: Vec<u8>, after: u64) {
        let envelope = Relay { from: self.me, to, session, n, body: Blob(body), sig: Blob::default(), ext: Default::default() };
        self.output(Output::Relay { via, envelope, after });
    }

    fn note_relay(&mut self, what: &'static str, peer: Peer, session: u64) {
        self.event(Event::Relayed { what, peer, session, n: 0 });
    }

    // ---- as the one in between ----

    /// An envelope for somebody else, from a directly linked peer.
    pub(crate) fn on_relay(&mut self, from: Peer, r: Relay) {
        let (to, session) = (r.to, r.session);
        if r.from != from || to == from || to == self.me || !r.fits() {
            // To this node it comes by another door, once its signature is checked.
            self.note_relay("refused", from, session);
            return self.event(Event::Dropped("relay"));
        }
        let now = self.now;
        let size = r.body.0.len() as u64;
        let there = self.view.get(&to).is_some_and(|m| m.usable() && m.via.is_none());
        let a = self.relay.allowances.entry(from).or_insert(Allowance { bytes: PASS_RATE, at: now });
        if !there || !a.take(now, size) {
            self.note_relay("refused", from, session);
            return self.send(from, Message::NoRoute(NoRoute { to, session, ext: Default::default() }));
        }
        self.rule(Rule::E11);
        self.note_relay("passed", from, session);
        self.send(to, Message::Relay(r));
    }

    /// The peer that should carry cannot.
    pub(crate) fn on_no_route(&mut self, from: Peer, r: NoRoute) {
        let mine = |via: Peer, session: u64| via == from && session == r.session;
        if self.relay.opening.get(&r.to).is_some_and(|s| mine(s.via, s.mine)) {
            self.open_failed(r.to);
        } else if self.relay.up.get(&r.to).is_some_and(|c| mine(c.via, c.mine)) {
            self.channel_down(r.to, false, true);
        } else if self.relay.answered.get(&r.to).is_some_and(|s| mine(s.via, s.mine)) {
            self.relay.answered.remove(&r.to);
        }
    }

    // ---- as the one it is for ----

    /// An envelope to this node whose signature is its author's.
    pub(crate) fn on_relayed(&mut self, via: Peer, r: Relay) {
        let from = r.from;
        let direct = self.view.get(&via).is_some_and(|m| m.linked && m.via.is_none());
        if r.to != self.me || from == self.me || from == via || !direct || !r.fits() {
            return self.event(Event::Dropped("relay"));
        }
        let Ok(body) = codec::decode::<Body>(&r.body.0) else { return self.event(Event::Dropped("relay_malformed")) };
        match body {
            Body::Open(_) => self.on_open(via, r),
            Body::Accept(o) => self.on_accept(via, r, o.session),
            Body::Confirm(o) => {
                let fits = |s: &Shaking| s.mine == o.session && s.theirs == r.session && s.via == via;
                match self.relay.answered.get(&from).filter(|s| fits(s)).map(|s| s.mine) {
                    Some(mine) => self.channel_up(from, via, mine, r.session),
                    None => self.event(Event::Dropped("relay_stale")),
                }
            }
            Body::Close(o) => self.on_relay_close(from, o.session),
            Body::Keep(_) => self.in_turn(via, &r, None),
            Body::Message(Message::Relay(_) | Message::NoRoute(_)) => self.event(Event::Dropped("relay_nested")),
            Body::Message(m) => self.in_turn(via, &r, Some(m)),
            Body::Unknown(..) => self.in_turn(via, &r, None),
        }
    }

    fn on_open(&mut self, via: Peer, r: Relay) {
        let (from, now) = (r.from, self.now);
        let Some(m) = self.view.get(&from).filter(|m| m.advert.is_some() && !m.left()) else {
            // Only members gossip, and each signs: who was never heard is none, or has gone in order.
            return self.event(Event::Dropped("relay_stranger"));
        };
        let direct = m.linked && m.via.is_none();
        let old = self.relay.up.get(&from).is_some_and(|c| c.theirs >= r.session)
            || self.relay.answered.get(&from).is_some_and(|s| s.theirs >= r.session);
        if old {
            return self.event(Event::Dropped("relay_stale"));
        }
        if direct || self.relay.full() {
            let session = self.new_session();
            return self.enclose(via, from, session, Body::Close(of(r.session)), 0);
        }
        if self.relay.opening.contains_key(&from) {
            if self.me < from {
                // Both began: the channel of the lower key is the one.
                return;
            }
            self.relay.opening.remove(&from);
        }
        let mine = self.new_session();
        let until = now + OPEN_MS;
        self.relay.answered.insert(from, Shaking { via, mine, theirs: r.session, until });
        self.wake_at(until);
        self.enclose(via, from, mine, Body::Accept(of(r.session)), 0);
    }

    fn on_accept(&mut self, via: Peer, r: Relay, session: u64) {
        let from = r.from;
        let Some(mine) = self.relay.opening.get(&from).filter(|s| s.mine == session && s.via == via).map(|s| s.mine) else {
            return self.event(Event::Dropped("relay_stale"));
        };
        self.enclose(via, from, mine, Body::Confirm(of(r.session)), 0);
        self.channel_up(from, via, mine, r.session);
    }

    fn on_relay_close(&mut self, from: Peer, session: u64) {
        let again = self.now + AGAIN_MS;
        if self.relay.up.get(&from).is_some_and(|c| c.mine == session) {
            self.channel_down(from, false, false);
        } else if self.relay.opening.get(&from).is_some_and(|s| s.mine == session) {
            // It has a link to us, it says, or no room.
            self.relay.opening.remove(&from);
            self.relay.tries.entry(from).or_default().not_before = again;
        } else if self.relay.answered.get(&from).is_some_and(|s| s.mine == session) {
            self.relay.answered.remove(&from);
        }
    }

    /// What is said in a channel, in its order.
    fn in_turn(&mut self, via: Peer, r: &Relay, msg: Option<Message>) {
        let (from, now) = (r.from, self.now);
        let Some(c) = self.relay.up.get_mut(&from).filter(|c| c.theirs == r.session && c.via == via) else {
            return self.no_channel(via, r);
        };
        match c.order(r.n) {
            Order::Again => self.event(Event::Dropped("relay_again")),
            Order::Gap => {
                self.event(Event::Dropped("relay_gap"));
                self.channel_down(from, true, false);
            }
            Order::Next => {
                c.heard_at = now;
                let woke = core::mem::take(&mut c.silent);
                if woke {
                    self.on_heard(from);
                }
                if let Some(m) = msg {
                    self.event(Event::Relayed { what: "taken", peer: from, session: r.session, n: r.n });
                    self.on_message(from, m);
                }
            }
        }
    }

    /// Who speaks in a channel that is not there is told so, seldom: it has missed our restart, for instance.
    fn no_channel(&mut self, via: Peer, r: &Relay) {
        self.event(Event::Dropped("relay_stale"));
        let (from, now) = (r.from, self.now);
        let linked = self.view.get(&from).is_none_or(|m| m.linked && m.via.is_none());
        let shaking = self.relay.answered.get(&from).is_some_and(|s| s.theirs == r.session);
        if linked || shaking || self.relay.told.get(&from).is_some_and(|t| now < t + AGAIN_MS) {
            return;
        }
        if self.relay.told.len() >= CHANNELS_MAX {
            self.relay.told.clear();
        }
        self.relay.told.insert(from, now);
        let session = self.new_session();
        self.enclose(via, from, session, Body::Close(of(r.session)), 0);
    }

    // ---- time ----

    pub(crate) fn tick_relay(&mut self) {
        let late = self.lateness();
        let Some(at) = self.relay.next_at(late) else { return };
        let now = self.now;
        if now < at {
            return self.wake_at(at);
        }
        let mut keep = Vec::new();
        let mut quiet = Vec::new();
        let mut dead = Vec::new();
        for (p, c) in &mut self.relay.up {
            if c.broken || (c.silent && now >= c.heard_at + DEAD_MS.max(SILENT_MS * late)) {
                dead.push(*p);
                continue;
            }
            if !c.silent && now >= c.heard_at + SILENT_MS * late {
                c.silent = true;
                quiet.push(*p);
            }
            if now >= c.sent_at + KEEP_MS {
                c.sent_at = now;
                keep.push((*p, c.via, c.mine));
            }
        }
        for (p, via, mine) in keep {
            self.enclose(via, p, mine, Body::Keep(of(0)), 1);
        }
        for p in quiet {
            self.on_silent(p);
        }
        for p in dead {
            self.channel_down(p, true, true);
        }
        self.relay.answered.retain(|_, s| now < s.until);
        let over: Vec<Peer> = self.relay.opening.iter().filter(|(_, s)| now >= s.until).map(|(p, _)| *p).collect();
        for p in over {
            self.open_failed(p);
        }
        if let Some(at) = self.relay.next_at(late) {
            self.wake_at(at);
        }
    }

    /// L1: the machine slept; nobody is taken for silent because of that.
    pub(crate) fn relay_gap(&mut self) {
        let now = self.now;
        self.relay.up.values_mut().for_each(|c| c.heard_at = now);
    }

    /// When something but "I am here" is due (see `rest`); none: a channel is being opened or closed.
    pub(crate) fn relay_rest(&self) -> Option<u64> {
        let shaking = !self.relay.opening.is_empty() || !self.relay.answered.is_empty();
        if shaking || self.relay.up.values().any(|c| c.silent || c.broken) {
            return None;
        }
        Some(next(self.now, self.relay.tries.values().map(|t| t.not_before)))
    }

    /// A leap over quiet time, in which both ends went on to say that they are there.
    pub(crate) fn relay_leap(&mut self, ms: u64) {
        for c in self.relay.up.values_mut() {
            c.sent_at = c.sent_at.saturating_add(ms);
            c.heard_at = c.heard_at.saturating_add(ms);
        }
    }

    /// What must be true of channels between steps.
    pub(crate) fn check_relays(&self) -> Result<(), String> {
        for (p, c) in &self.relay.up {
            if self.view.get(p).is_none_or(|m| !m.linked || m.via != Some(c.via)) {
                return Err("a channel's member is linked through its relay".into());
            }
            if self.view.get(&c.via).is_none_or(|m| !m.linked || m.via.is_some()) {
                return Err("a relay is linked directly".into());
            }
        }
        Ok(())
    }
}

fn of(session: u64) -> Of {
    Of { session, ext: Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel() -> Channel {
        let via = Peer([7; 32]);
        Channel { via, mine: 1, theirs: 2, got: 0, since: 0, sent_at: 0, heard_at: 0, silent: false, broken: false }
    }

    #[test]
    fn envelopes_are_taken_once_and_in_order() {
        let mut c = channel();
        assert_eq!(c.order(0), Order::Again, "numbers begin with one");
        assert_eq!((c.order(1), c.order(2)), (Order::Next, Order::Next));
        assert_eq!((c.order(2), c.order(1)), (Order::Again, Order::Again));
        assert_eq!(c.order(4), Order::Gap);
        assert_eq!(c.order(3), Order::Next, "a gap takes nothing in");
        assert_eq!(c.order(u64::MAX), Order::Gap);
    }

    #[test]
    fn what_is_passed_on_for_one_author_is_bounded() {
        let mut a = Allowance { bytes: PASS_RATE, at: 5_000 };
        assert!(a.take(5_000, PASS_RATE - 10));
        assert!(!a.take(5_000, 11));
        assert!(a.take(5_000, 10));
        assert!(a.take(5_500, PASS_RATE / 2));
        assert!(!a.take(5_500, 1));
        assert!(a.take(u64::MAX, PASS_RATE), "it never saves up more than one second");
        assert!(!a.take(u64::MAX, 1));
    }

    #[test]
    fn a_signature_covers_every_field() {
        let e = |from: u8, to: u8, session: u64, n: u64, body: &[u8]| {
            let (from, to) = (Peer([from; 32]), Peer([to; 32]));
            Relay { from, to, session, n, body: Blob(body.into()), sig: Blob::default(), ext: Default::default() }.signed()
        };
        let all =
            [e(1, 2, 3, 4, b"x"), e(2, 2, 3, 4, b"x"), e(1, 1, 3, 4, b"x"), e(1, 2, 4, 4, b"x"), e(1, 2, 3, 5, b"x"), e(1, 2, 3, 4, b"y")];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn the_largest_envelope_fits_into_a_frame() {
        let p = Peer([255; 32]);
        let (body, sig) = (Blob(alloc::vec![1; BODY_MAX]), Blob(alloc::vec![2; SIG_MAX]));
        let r = Relay { from: p, to: p, session: u64::MAX, n: u64::MAX, body, sig, ext: Default::default() };
        assert!(r.fits() && codec::encode(&Message::Relay(r)).len() < 1 << 20);
    }

    #[test]
    fn the_next_moment_is_the_nearest() {
        let mut r = Relays::default();
        assert_eq!(r.next_at(1), None);
        r.up.insert(Peer([1; 32]), Channel { heard_at: 1_000, sent_at: 1_900, ..channel() });
        assert_eq!(r.next_at(1), Some(2_000));
        assert_eq!(r.next_at(4), Some(2_300), "a late node is more patient; it still says that it is here");
        r.opening.insert(Peer([2; 32]), Shaking { via: Peer([7; 32]), mine: 1, theirs: 0, until: 1_500 });
        assert_eq!(r.next_at(1), Some(1_500));
    }
}
