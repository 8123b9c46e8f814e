//! I3 (quorum mode): who begins to serve holds every version that was stable before, or one that contains it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clawmesh_protocol::{
    ids::{Epoch, TaskId},
    io::Event,
    record::Rec,
};

use super::{
    Check,
    ledger::{Ledger, below_floor, on_node},
};
use crate::oracle::{Disks, Entry, Fact};

/// What was stable, per task and epoch.
#[derive(Default)]
pub(super) struct Successor {
    ledger: Ledger,
    stable: BTreeMap<TaskId, BTreeMap<Epoch, Arc<Rec>>>,
    serving: BTreeSet<usize>,
    /// Deleted by a coordinator: its time was over (G3).
    over: BTreeSet<TaskId>,
}

/// Why `has` does not contain what `was` stable.
fn lacks(has: Option<&Arc<Rec>>, was: &Rec) -> Option<String> {
    let Some(r) = has else { return Some("no record at all".into()) };
    if r.ver < was.ver {
        return Some(format!("version {:?}", r.ver));
    }
    if was.outcome.is_some() && r.outcome != was.outcome && (was.delivered || !r.delivered) {
        return Some(format!("another outcome, {:?}", r.outcome));
    }
    if (was.cancel && !r.cancel) || (was.delivered && !r.delivered) {
        return Some("no mark of the cancel or the delivery".into());
    }
    None
}

impl Check for Successor {
    fn name(&self) -> &'static str {
        "I3"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        for (_, r) in self.ledger.see(e, disks) {
            self.stable.entry(r.id).or_default().insert(r.ver.epoch, r);
        }
        match &e.fact {
            Fact::Probe { serving, .. } => {
                if serving.is_some() {
                    self.serving.insert(e.node);
                } else {
                    self.serving.remove(&e.node);
                }
            }
            Fact::Batch(p) if self.serving.contains(&e.node) => self.over.extend(&p.dels),
            Fact::Event(Event::Serving(epoch)) if self.ledger.by_majority(epoch) => {
                for (id, by_epoch) in self.stable.iter().filter(|(id, _)| !self.over.contains(id)) {
                    let Some((_, was)) = by_epoch.range(..*epoch).next_back() else { continue };
                    let has = on_node(disks, e.node, id);
                    if has.is_none() && was.outcome.is_some() && below_floor(disks, e.node, id) {
                        continue;
                    }
                    if let Some(why) = lacks(has, was) {
                        return Err(format!("begins to serve {epoch:?} and has {why} of {id:?}, of which {:?} was stable", was.ver));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn a_coordinator_that_begins_without_what_was_stable_is_caught() {
        let stable = |n, node| (node, Fact::Event(Event::Stable { epoch: voted(n, node), seq: 2, copies: 2, took_ms: 0 }));
        let serve = |n, node| (node, Fact::Event(Event::Serving(voted(n, node))));
        let first = || vec![(0, configured(1, voted(1, 0), 1, &[0, 1, 2])), (0, batch(2, vec![rec(task(1), voted(1, 0), 2)]))];
        let run = |second: Vec<Rec>, called_stable: bool| {
            let mut log = first();
            if called_stable {
                log.push(stable(1, 0));
            }
            log.push((1, batch(1, second)));
            log.extend([(1, configured(2, voted(2, 1), 1, &[0, 1, 2])), serve(2, 1)]);
            judge(Successor::default(), log)
        };
        assert_eq!(run(vec![rec(task(1), voted(1, 0), 2)], true), None);
        assert_eq!(run(vec![], false), None, "nothing was promised");
        assert!(run(vec![], true).is_some());
        assert!(run(vec![rec(task(1), voted(1, 0), 1)], true).is_some(), "an older version is not enough");

        let ended = |seq, end: bool| {
            let mut r = rec(task(1), voted(1, 0), 2);
            r.outcome = end.then(|| outcome(clawmesh_protocol::record::End::Done, 1));
            let floor = clawmesh_protocol::message::Floor { origin: task(1).origin, inc: 1, seq };
            let floor = crate::oracle::Parsed { no: 1, floors: vec![floor], ..Default::default() };
            let mut log = vec![(0, configured(1, voted(1, 0), 1, &[0, 1, 2])), (0, batch(2, vec![r])), stable(1, 0)];
            log.push((1, Fact::Batch(Arc::new(floor))));
            log.extend([(1, configured(2, voted(2, 1), 1, &[0, 1, 2])), serve(2, 1)]);
            judge(Successor::default(), log)
        };
        assert_eq!(ended(1, true), None, "its origin is done with it (G3)");
        assert!(ended(0, true).is_some() && ended(1, false).is_some());
    }
}
