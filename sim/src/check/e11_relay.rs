//! E11: what came through a relay was written by its author for its reader, and is taken once, in order, without a gap.

use std::collections::BTreeMap;

use clawmesh_protocol::{ids::Peer, io::Event, message::Message};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// Envelopes on their way, and how far each reader has come.
#[derive(Default)]
pub(super) struct Carried {
    /// The last number that an author has sent to a reader in a session; they rise by one.
    sent: BTreeMap<(usize, Peer, u64), u64>,
    /// What its reader has taken last, of which author's session.
    taken: BTreeMap<(usize, Peer), (u64, u64)>,
}

impl Check for Carried {
    fn name(&self) -> &'static str {
        "E11"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Boot { .. } => self.taken.retain(|(reader, _), _| *reader != e.node),
            Fact::Sent(_, m) => {
                let Message::Relay(r) = &**m else { return Ok(()) };
                if disks.node(r.from) == Some(e.node) && r.n > 0 {
                    let last = self.sent.insert((e.node, r.to, r.session), r.n).unwrap_or(0);
                    if r.n != last + 1 {
                        return Err(format!("sends message {} of session {} after {last}", r.n, r.session));
                    }
                }
            }
            Fact::Event(Event::Relayed { what: "taken", peer, session, n }) => {
                let Some(author) = disks.node(*peer) else { return Err("takes a message of nobody".into()) };
                let known = disks.peers.get(e.node).and_then(|me| self.sent.get(&(author, *me, *session)));
                if known.is_none_or(|last| n > last) {
                    return Err(format!("takes message {n} of session {session}, which node {author} has never sent"));
                }
                let last = self.taken.insert((e.node, *peer), (*session, *n));
                if last.is_some_and(|(s, l)| s == *session && *n <= l) {
                    return Err(format!("takes message {n} of session {session} of node {author} after message {:?}", last.map(|l| l.1)));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clawmesh_protocol::{codec::Blob, relay::Relay};

    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn what_nobody_sent_and_what_is_taken_twice_is_caught() {
        let sent = |n: u64| {
            let (from, to) = (peer(0), peer(1));
            let r = Relay { from, to, session: 9, n, body: Blob(vec![]), sig: Blob(vec![]), ext: Default::default() };
            (0, Fact::Sent(peer(2), Arc::new(Message::Relay(r))))
        };
        let taken = |node: usize, n: u64| (node, Fact::Event(Event::Relayed { what: "taken", peer: peer(0), session: 9, n }));
        assert_eq!(judge(Carried::default(), vec![sent(1), sent(2), taken(1, 1), taken(1, 2)]), None);
        assert!(judge(Carried::default(), vec![sent(1), taken(1, 1), taken(1, 1)]).is_some(), "twice");
        assert!(judge(Carried::default(), vec![sent(1), sent(2), taken(1, 2), taken(1, 1)]).is_some(), "out of order");
        assert!(judge(Carried::default(), vec![taken(1, 1)]).is_some(), "forged");
        assert!(judge(Carried::default(), vec![sent(1), sent(3)]).is_some(), "a gap of its author");
        assert!(judge(Carried::default(), vec![sent(1), taken(2, 1)]).is_some(), "not its reader");
    }
}
