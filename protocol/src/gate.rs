//! Holds back what depends on a write until the write is durable (D1).  `node` and `sim` both drive
//! the core through this gate, so neither decides anything.

use alloc::{collections::BTreeMap, vec::Vec};

use crate::{
    ids::{Attempt, Peer, TaskId},
    io::Output,
};

/// Relayed peers remembered, at least; see [`crate::relay::CHANNELS_MAX`].
const SESSIONS_MAX: usize = 2 * crate::relay::CHANNELS_MAX;

/// Outputs waiting for their batch.  Bounded by what the core has in flight.
#[derive(Debug, Default)]
pub struct Gate {
    durable: u64,
    waiting: BTreeMap<u64, Vec<Output>>,
    /// The session of each relayed peer, and the number of its last envelope (E11).  Bounded by the channels of a node.
    sessions: BTreeMap<Peer, (u64, u64)>,
}

impl Gate {
    /// Moves to `ready` what may happen now, keeps the rest.
    pub fn pass(&mut self, outputs: Vec<Output>, ready: &mut Vec<Output>) {
        for o in outputs {
            if let Output::Kill(id, attempt) = &o
                && self.withdraw(id, attempt)
            {
                continue;
            }
            match after(&o) {
                n if n <= self.durable => self.let_go(o, ready),
                n => self.waiting.entry(n).or_default().push(o),
            }
        }
    }

    /// All batches up to `no` are durable: what waited for them may happen.  Call it before the core
    /// is told, so that what it says next comes later.
    pub fn persisted(&mut self, no: u64, ready: &mut Vec<Output>) {
        self.durable = self.durable.max(no);
        while let Some(first) = self.waiting.first_entry() {
            if *first.key() > self.durable {
                break;
            }
            for o in first.remove() {
                self.let_go(o, ready);
            }
        }
    }

    /// Numbers what goes into a relayed channel (E11): only here its order is known, because what waits is overtaken.
    fn let_go(&mut self, mut o: Output, ready: &mut Vec<Output>) {
        if let Output::Relay { envelope: e, .. } = &mut o
            && e.n > 0
        {
            if self.sessions.len() > SESSIONS_MAX && !self.sessions.contains_key(&e.to) {
                // The lowest session belongs to the oldest channel.
                let oldest = self.sessions.iter().min_by_key(|(_, (s, _))| *s).map(|(p, _)| *p);
                oldest.and_then(|p| self.sessions.remove(&p));
            }
            let last = self.sessions.entry(e.to).or_insert((e.session, 0));
            if last.0 > e.session {
                // It waited for the disk while its channel was replaced.
                return;
            }
            if last.0 < e.session {
                *last = (e.session, 0);
            }
            last.1 += 1;
            e.n = last.1;
        }
        ready.push(o);
    }

    /// A run that still waits for its log line is not started at all when it is killed (S2): the core
    /// counts on it, and expects no exit of it.
    fn withdraw(&mut self, id: &TaskId, attempt: &Attempt) -> bool {
        for list in self.waiting.values_mut() {
            let at = list.iter().position(|o| matches!(o, Output::Start { job, .. } if job.id == *id && job.attempt == *attempt));
            if let Some(i) = at {
                list.remove(i);
                return true;
            }
        }
        false
    }

    /// How many outputs wait.
    pub fn len(&self) -> usize {
        self.waiting.values().map(Vec::len).sum()
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

fn after(o: &Output) -> u64 {
    match o {
        Output::Send { after, .. }
        | Output::Relay { after, .. }
        | Output::Publish { after, .. }
        | Output::Start { after, .. }
        | Output::Reply { after, .. } => *after,
        Output::Persist(_)
        | Output::Kill(..)
        | Output::Fetch(..)
        | Output::Dial(..)
        | Output::DropBlob(_)
        | Output::Event(_)
        | Output::WakeAt(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec::Blob, relay::Relay};

    fn relay(to: u8, session: u64, n: u64, after: u64) -> Output {
        let (from, to) = (Peer([0; 32]), Peer([to; 32]));
        let envelope = Relay { from, to, session, n, body: Blob(Vec::new()), sig: Blob(Vec::new()), ext: Default::default() };
        Output::Relay { via: Peer([9; 32]), envelope, after }
    }

    fn numbers(ready: &[Output]) -> Vec<(u64, u64)> {
        let one = |o: &Output| match o {
            Output::Relay { envelope: e, .. } => Some((e.session, e.n)),
            _ => None,
        };
        ready.iter().filter_map(one).collect()
    }

    #[test]
    fn relayed_messages_are_numbered_in_the_order_in_which_they_leave() {
        let mut g = Gate::default();
        let mut ready = Vec::new();
        g.pass(alloc::vec![relay(1, 5, 1, 0), relay(1, 5, 1, 7), relay(1, 5, 1, 0), relay(2, 6, 1, 0), relay(1, 9, 0, 0)], &mut ready);
        assert_eq!(numbers(&ready), [(5, 1), (5, 2), (6, 1), (9, 0)], "what waits has no number yet, a handshake never has");
        ready.clear();
        g.persisted(7, &mut ready);
        g.pass(alloc::vec![relay(1, 5, 1, 8)], &mut ready);
        g.pass(alloc::vec![relay(1, 9, 1, 0)], &mut ready);
        g.persisted(8, &mut ready);
        assert_eq!(numbers(&ready), [(5, 3), (9, 1)], "the last of the old session waited for too long");
    }
}
