//! I4: a task acknowledged with copies = c is on at least one intact disk while fewer than c of the
//! disks that held it when it was acknowledged are destroyed.

use std::collections::{BTreeMap, BTreeSet};

use clawmesh_protocol::ids::TaskId;

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// Acknowledged tasks: copies promised and who held them then.
#[derive(Default)]
pub(super) struct Durable {
    acked: BTreeMap<TaskId, (u32, BTreeSet<usize>)>,
}

impl Durable {
    fn look(&self, disks: &Disks) -> Result<(), String> {
        for (id, (c, held)) in &self.acked {
            let gone = held.iter().filter(|n| disks.now.get(**n).is_none_or(|d| d.destroyed)).count();
            if gone < *c as usize && !disks.is_over(id) && disks.holders(id).next().is_none() {
                return Err(format!("{id:?} was acknowledged with {c} copies, {gone} of these disks are gone, and no disk holds it"));
            }
        }
        Ok(())
    }
}

impl Check for Durable {
    fn name(&self) -> &'static str {
        "I4"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Acked(id, c) => {
                self.acked.entry(*id).or_insert_with(|| (*c, disks.ever.get(id).cloned().unwrap_or_default()));
                Ok(())
            }
            // A reborn disk is a destroyed one for what was acknowledged before.
            Fact::Boot { fresh: true, .. } => {
                for (_, held) in self.acked.values_mut() {
                    if held.remove(&e.node) {
                        held.insert(usize::MAX);
                    }
                }
                self.look(disks)
            }
            Fact::Destroyed | Fact::Down(_) | Fact::Quiet(_) => self.look(disks),
            Fact::Batch(p) if !p.dels.is_empty() || !p.outbox_dels.is_empty() => self.look(disks),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn an_acknowledged_task_that_no_disk_holds_is_caught() {
        let put = |r| batch(1, vec![r]);
        let r = || rec(task(1), epoch(1, 0), 1);
        let base = || vec![(0, put(r())), (0, Fact::Durable(1)), (1, put(r())), (1, Fact::Durable(1))];
        let mut good = base();
        good.extend([(0, Fact::Acked(task(1), 2)), (0, Fact::Destroyed)]);
        assert_eq!(judge(Durable::default(), good.clone()), None);
        good.push((1, Fact::Destroyed));
        assert_eq!(judge(Durable::default(), good), None, "both copies destroyed: nothing was promised");
        let bad = vec![(0, put(r())), (0, Fact::Durable(1)), (1, put(r())), (0, Fact::Acked(task(1), 2)), (0, Fact::Destroyed)];
        assert!(judge(Durable::default(), bad).is_some(), "the second copy was never durable");
        let never = vec![(0, Fact::Acked(task(1), 1)), (0, Fact::Down(0))];
        assert!(judge(Durable::default(), never).is_some());
    }
}
