//! I13: what is deleted was at or below its origin's floor, and floors only rise, by their origin, which owes nothing below (G1).

use std::collections::BTreeMap;

use clawmesh_protocol::ids::{Origin, TaskId};

use super::Check;
use crate::oracle::{Disks, Entry, Fact, Parsed};

/// The floor of a node that is forgotten (G4), which somebody else sets.
const FORGOTTEN: (u64, u64) = (u64::MAX, u64::MAX);

/// Floors, as written by their origins and as believed by each node.
#[derive(Default)]
pub(super) struct Deleted {
    own: BTreeMap<Origin, (u64, u64)>,
    known: BTreeMap<usize, BTreeMap<Origin, (u64, u64)>>,
}

/// What a node's outbox holds when all that it was given so far is on its disk.
fn owed(disks: &Disks, node: usize, origin: Origin) -> impl Iterator<Item = &TaskId> {
    let disk = disks.now.get(node);
    let pending = move || disk.into_iter().flat_map(|d| d.pending.iter());
    let put = disk.into_iter().flat_map(|d| &d.outbox).chain(pending().flat_map(|p| &p.outbox));
    put.filter(move |id| id.origin == origin && !pending().any(|p| p.outbox_dels.contains(id)))
}

impl Deleted {
    fn floors(&mut self, node: usize, p: &Parsed, disks: &Disks) -> Result<(), String> {
        for f in &p.floors {
            let now = (f.inc, f.seq);
            let old = self.known.entry(node).or_default().insert(f.origin, now).unwrap_or_default();
            if now < old {
                return Err(format!("the floor of {:?} falls from {old:?} to {now:?}", f.origin));
            }
            let own = self.own.entry(f.origin).or_default();
            if disks.node(f.origin.peer) == Some(node) {
                *own = now.max(*own);
                if let Some(id) = owed(disks, node, f.origin).find(|id| id.place() <= now && now != FORGOTTEN) {
                    return Err(format!("{:?} raises its floor to {now:?}, and {id:?} is still in its outbox", f.origin));
                }
            } else if now > *own && now != FORGOTTEN {
                return Err(format!("the floor of {:?} is {now:?} here, its origin never said more than {own:?}", f.origin));
            }
        }
        Ok(())
    }

    /// What has no outcome there is dead (G2), so the floor decides alone.
    fn delete(&self, node: usize, id: &TaskId) -> Result<(), String> {
        let floor = self.known.get(&node).and_then(|k| k.get(&id.origin)).copied().unwrap_or_default();
        if id.place() > floor { Err(format!("{id:?} is deleted above its origin's floor {floor:?}")) } else { Ok(()) }
    }
}

impl Check for Deleted {
    fn name(&self) -> &'static str {
        "I13"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Batch(p) => {
                self.floors(e.node, p, disks)?;
                if p.released {
                    return Ok(());
                }
                p.dels.iter().try_for_each(|id| self.delete(e.node, id))
            }
            // What was not durable may be forgotten and said again; nobody heard the origin's own word before it was.
            Fact::Boot { .. } => {
                let floors = disks.now.get(e.node).map(|d| d.floors.clone()).unwrap_or_default();
                self.known.insert(e.node, floors);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clawmesh_protocol::{message::Floor, record::End};

    use super::*;
    use crate::check::fixture::*;

    fn floor(seq: u64) -> Floor {
        Floor { origin: task(1).origin, inc: 1, seq }
    }
    fn floors(no: u64, list: Vec<Floor>) -> Fact {
        Fact::Batch(Arc::new(Parsed { no, floors: list, ..Parsed::default() }))
    }
    fn delete(no: u64, released: bool) -> Fact {
        Fact::Batch(Arc::new(Parsed { no, dels: vec![task(1)], released, ..Parsed::default() }))
    }
    fn run(log: Vec<(usize, Fact)>) -> Option<String> {
        judge(Deleted::default(), log)
    }

    #[test]
    fn a_floor_that_falls_and_one_that_its_origin_never_set_are_caught() {
        assert_eq!(run(vec![(0, floors(1, vec![floor(3)])), (1, floors(1, vec![floor(3)])), (0, floors(2, vec![floor(5)]))]), None);
        assert!(run(vec![(0, floors(1, vec![floor(3)])), (0, floors(2, vec![floor(2)]))]).is_some());
        assert!(run(vec![(0, floors(1, vec![floor(3)])), (1, floors(1, vec![floor(4)]))]).is_some());
    }

    #[test]
    fn a_floor_above_what_its_origin_still_owes_is_caught() {
        let kept = |no, id, gone: bool| {
            let list = vec![task(id)];
            let (outbox, outbox_dels) = if gone { (vec![], list) } else { (list, vec![]) };
            (0, Fact::Batch(Arc::new(Parsed { no, outbox, outbox_dels, ..Parsed::default() })))
        };
        let raised = || (0, floors(9, vec![floor(3)]));
        let boot = || (0, Fact::Boot { store: 1, boot: 1, fresh: true });
        assert!(run(vec![boot(), kept(1, 2, false), raised()]).is_some());
        assert!(run(vec![boot(), kept(1, 2, false), (0, Fact::Durable(1)), raised()]).is_some());
        assert_eq!(run(vec![boot(), kept(1, 2, false), kept(2, 2, true), raised()]), None);
        assert_eq!(run(vec![boot(), kept(1, 4, false), raised()]), None);
    }

    #[test]
    fn deleting_what_has_not_ended_or_is_above_the_floor_is_caught() {
        let ended = || {
            let mut r = rec(task(1), epoch(1, 0), 1);
            r.outcome = Some(outcome(End::Done, 1));
            r
        };
        let low = || (0, floors(1, vec![floor(1)]));
        assert_eq!(run(vec![low(), (0, batch(2, vec![ended()])), (0, delete(3, false))]), None);
        assert!(run(vec![(0, batch(1, vec![ended()])), (0, delete(2, false))]).is_some(), "above the floor");
        let open = || (0, batch(2, vec![rec(task(1), epoch(1, 0), 1)]));
        assert!(run(vec![open(), (0, delete(3, false))]).is_some(), "without an outcome");
        assert_eq!(run(vec![low(), open(), (0, delete(3, false))]), None, "dead since its origin gave it up (T5)");
        assert_eq!(run(vec![low(), open(), (0, delete(3, true))]), None, "released: others have it");
    }
}
