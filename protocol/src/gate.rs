//! Holds back what depends on a write until the write is durable (D1).  `node` and `sim` both drive
//! the core through this gate, so neither decides anything.

use alloc::{collections::BTreeMap, vec::Vec};

use crate::{
    ids::{Attempt, TaskId},
    io::Output,
};

/// Outputs waiting for their batch.  Bounded by what the core has in flight.
#[derive(Debug, Default)]
pub struct Gate {
    durable: u64,
    waiting: BTreeMap<u64, Vec<Output>>,
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
                n if n <= self.durable => ready.push(o),
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
            ready.append(&mut first.remove());
        }
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
        Output::Send { after, .. } | Output::Publish { after, .. } | Output::Start { after, .. } | Output::Reply { after, .. } => *after,
        Output::Persist(_)
        | Output::Kill(..)
        | Output::Fetch(..)
        | Output::Dial(..)
        | Output::DropBlob(_)
        | Output::Event(_)
        | Output::WakeAt(_) => 0,
    }
}
