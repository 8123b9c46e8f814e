//! Disks: ordered batches, an fsync that takes a while, a crash that keeps a prefix of what was not confirmed, and some
//! that lie about it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use clawmesh_protocol::{
    codec,
    ids::Ver,
    io::{Batch, Input},
    mesh::Side,
    mutant,
};

use super::{What, World};
use crate::oracle::{Fact, Parsed};

/// A disk with its queue of batches.
#[derive(Default)]
pub(super) struct Store {
    pub(super) entries: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) side: Option<Vec<u8>>,
    pub(super) queue: VecDeque<Batch>,
    pub(super) busy: bool,
    pub(super) bad: bool,
    pub(super) stalled_until: u64,
    pub(super) durable: u64,
    pub(super) fresh: bool,
    /// It confirms what is not durable: what stood there before the last batches, newest last.
    pub(super) lies: Option<VecDeque<Before>>,
}

/// What a batch has overwritten.
pub(super) struct Before {
    entries: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    side: Option<Option<Vec<u8>>>,
}

/// A lying disk has so many batches at most in its cache.
const CACHED_MAX: usize = 200;

impl Store {
    /// Loses the last batches of the database and of the side file, each so many.
    pub(super) fn lose(&mut self, batches: usize, sides: usize) {
        let Some(cache) = self.lies.as_mut() else { return };
        for (i, b) in std::mem::take(cache).into_iter().rev().enumerate() {
            for (k, v) in b.entries.into_iter().filter(|_| i < batches) {
                match v {
                    Some(v) => self.entries.insert(k, v),
                    None => self.entries.remove(&k),
                };
            }
            if let Some(side) = b.side.filter(|_| i < sides) {
                self.side = side;
            }
        }
    }

    fn remember(&mut self, b: &Batch) {
        let Some(cache) = self.lies.as_mut() else { return };
        let keys = b.puts.iter().map(|(k, _)| k).chain(&b.dels);
        let entries = keys.map(|k| (k.clone(), self.entries.get(k).cloned())).collect();
        cache.push_back(Before { entries, side: b.side.as_ref().map(|_| self.side.clone()) });
        if cache.len() > CACHED_MAX {
            cache.pop_front();
        }
    }

    /// D3, as the driver does it: the database is at least as new as the side file's mark.
    pub(super) fn new_enough(&self) -> bool {
        let Some(side) = self.side.as_deref() else { return self.entries.is_empty() };
        let Ok(side) = codec::decode::<Side>(side) else { return false };
        let mark = self.entries.get(b"meta/hw".as_slice()).and_then(|b| codec::decode::<Ver>(b).ok());
        mark.unwrap_or_default() >= side.hw
    }

    pub(super) fn commit(&mut self, upto: u64) {
        while self.queue.front().is_some_and(|b| b.no <= upto) {
            let Some(b) = self.queue.pop_front() else { break };
            self.remember(&b);
            self.entries.extend(b.puts);
            for k in &b.dels {
                self.entries.remove(k);
            }
            if b.side.is_some() {
                self.side = b.side;
            }
            self.durable = b.no;
        }
    }
}

impl World {
    pub(super) fn persist(&mut self, node: usize, b: Batch) {
        self.hash.update(&b.no.to_le_bytes());
        for (k, v) in &b.puts {
            self.hash.update(k);
            self.hash.update(v);
            if v.len() > 4_096 {
                self.complain("core", node, format!("a value of {} bytes is above 4 KiB (D2)", v.len()));
            }
        }
        let released = self.nodes[node].releasing;
        let parsed = Arc::new(Parsed { released, ..Parsed::of(&b, &mut self.known) });
        if let Some(q) = &parsed.config {
            self.note_voters(q);
        }
        self.see(node, Fact::Batch(parsed));
        self.nodes[node].disk.queue.push_back(b);
        self.flush(node);
    }

    /// The committer takes what is queued and syncs it.
    fn flush(&mut self, node: usize) {
        let d = &self.nodes[node].disk;
        if d.busy || d.bad {
            return;
        }
        let Some(upto) = d.queue.back().map(|b| b.no) else { return };
        let (lo, hi, tail, far) = self.plan.fsync;
        let took = if self.calm { self.chance.disk.range(lo, hi) } else { self.chance.disk.tailed(lo, hi, tail, far) };
        let n = &mut self.nodes[node];
        n.disk.busy = true;
        let wait = took.max(n.disk.stalled_until.saturating_sub(self.now));
        let life = n.life;
        if mutant::on(25) {
            self.after(0, What::Give { node, life, input: Box::new(Input::Persisted(upto)) });
        }
        self.after(wait, What::Fsync { node, life, upto });
    }

    pub(super) fn fsynced(&mut self, node: usize, life: u64, upto: u64) {
        let n = &mut self.nodes[node];
        if n.life != life || n.core.is_none() || n.disk.bad {
            return;
        }
        n.disk.busy = false;
        n.disk.commit(upto);
        self.see(node, Fact::Durable(upto));
        self.flush(node);
        self.give(node, Input::Persisted(upto));
    }

    pub(super) fn stall_disk(&mut self, node: usize, ms: u64) {
        self.nodes[node].disk.stalled_until = self.now + ms;
    }

    /// From now on nothing becomes durable.
    pub(super) fn break_disk(&mut self, node: usize) {
        self.nodes[node].disk.bad = true;
        self.give(node, Input::StoreBad);
    }
}
