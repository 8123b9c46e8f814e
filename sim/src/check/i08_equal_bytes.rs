//! I8: equal (id, version) means equal bytes, on every disk and in every message.

use std::collections::{BTreeMap, HashSet};

use clawmesh_protocol::{
    ids::{Hash, TaskId, Ver},
    message::Message,
    record::decode_rec,
};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// The bytes of each version.
#[derive(Default)]
pub(super) struct EqualBytes {
    bytes: BTreeMap<(TaskId, Ver), Hash>,
    /// Bytes that were read lately and are as they should be.
    known: HashSet<Hash>,
}

/// So many are kept.
const KNOWN_MAX: usize = 20_000;

impl EqualBytes {
    fn meet(&mut self, id: TaskId, ver: Ver, h: Hash) -> Result<(), String> {
        match self.bytes.insert((id, ver), h) {
            Some(o) if o != h => Err(format!("{id:?} at {ver:?} has two contents")),
            _ => Ok(()),
        }
    }
}

impl Check for EqualBytes {
    fn name(&self) -> &'static str {
        "I8"
    }
    fn see(&mut self, e: &Entry, _: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Batch(p) => p.recs.iter().try_for_each(|(r, h)| self.meet(r.id, r.ver, *h)),
            Fact::Sent(_, m) => {
                let recs = match &**m {
                    Message::Write(w) => &w.recs,
                    Message::PullResp(p) => &p.recs,
                    _ => return Ok(()),
                };
                if self.known.len() > KNOWN_MAX {
                    self.known.clear();
                }
                recs.iter().map(|b| (b, Hash::of(&b.0))).try_for_each(|(b, h)| {
                    if self.known.contains(&h) {
                        return Ok(());
                    }
                    match decode_rec(&b.0) {
                        Ok(r) => {
                            self.known.insert(h);
                            self.meet(r.id, r.ver, h)
                        }
                        Err(why) => Err(format!("a record in a {} can't be read: {why}", m.name())),
                    }
                })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn one_version_with_two_contents_is_caught() {
        let a = rec(task(1), epoch(1, 0), 1);
        let mut b = a.clone();
        b.waited_ms = 5;
        assert_eq!(judge(EqualBytes::default(), vec![(0, batch(1, vec![a.clone()])), (1, batch(1, vec![a.clone()]))]), None);
        assert!(judge(EqualBytes::default(), vec![(0, batch(1, vec![a])), (1, batch(1, vec![b]))]).is_some());
    }
}
