//! S7 (open mode): the smaller side of a split begins none of the tasks that the larger one has, too, for a while.

use std::collections::{BTreeMap, BTreeSet};

use clawmesh_protocol::{
    config::VOTED,
    ids::{Attempt, Epoch, Peer, TaskId},
    io::Event,
    message::Message,
    spec::OnSplit,
};

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// Tasks are held for this long at least in every world, ms; what comes later says nothing.
const HELD_MS: u64 = 4_500;

/// Who reaches whom, and since when the coordinators serve.
#[derive(Default)]
pub(super) struct Held {
    /// Members as each node last wrote them.
    members: BTreeMap<usize, BTreeSet<u64>>,
    /// Links of a node that fell silent while both ends ran.
    lost: BTreeMap<usize, BTreeSet<usize>>,
    running: BTreeSet<usize>,
    /// Who has said that it sleeps: it is on no side.
    asleep: BTreeSet<usize>,
    /// Who is a coordinator: a new epoch of the same one begins nothing.
    terms: BTreeSet<usize>,
    /// Who began to serve on the smaller side: since when, and the epoch it began with.
    serving: BTreeMap<usize, (u64, Epoch)>,
    issued: BTreeSet<(TaskId, Attempt)>,
}

/// The part of a key that names a member.
fn mark(p: &Peer) -> u64 {
    p.0.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b))
}

impl Held {
    /// It knows of more members beyond a cut than may be on its side.
    fn smaller(&self, node: usize, disks: &Disks) -> bool {
        let Some(members) = self.members.get(&node) else { return false };
        let far = self.lost.get(&node).into_iter().flatten().filter(|n| disks.peers.get(**n).is_some_and(|p| members.contains(&mark(p))));
        2 * far.count() > members.len()
    }
}

impl Check for Held {
    fn name(&self) -> &'static str {
        "S7"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Boot { .. } => {
                self.running.insert(e.node);
                self.asleep.remove(&e.node);
            }
            Fact::Down(_) => {
                self.running.remove(&e.node);
                self.terms.remove(&e.node);
                self.serving.remove(&e.node);
                self.lost.remove(&e.node);
                self.lost.values_mut().for_each(|l| {
                    l.remove(&e.node);
                });
            }
            Fact::Link(p, up) => {
                let Some(other) = disks.node(*p) else { return Ok(()) };
                let lost = self.lost.entry(e.node).or_default();
                if *up {
                    lost.remove(&other);
                } else if self.running.contains(&other) && !self.asleep.contains(&other) {
                    lost.insert(other);
                }
            }
            // Who says that it leaves is no member any more.
            Fact::Sent(_, m) if matches!(**m, Message::Bye(_)) => {
                if matches!(&**m, Message::Bye(b) if b.asleep) {
                    self.asleep.insert(e.node);
                }
                self.lost.values_mut().for_each(|l| {
                    l.remove(&e.node);
                });
            }
            Fact::Event(Event::Member(_, "is awake")) => {
                self.asleep.remove(&e.node);
            }
            // Who has just woken up trusts nobody's absence.
            Fact::Paused(_) => {
                self.serving.remove(&e.node);
            }
            Fact::Event(Event::Serving(x)) if self.terms.insert(e.node) && x.n < VOTED && self.smaller(e.node, disks) => {
                self.serving.insert(e.node, (e.at, *x));
            }
            Fact::Event(Event::SteppedDown(..)) => {
                self.terms.remove(&e.node);
                self.serving.remove(&e.node);
            }
            Fact::Batch(p) => {
                if let Some(m) = &p.members {
                    self.members.insert(e.node, m.clone());
                }
                let Some((since, first)) = self.serving.get(&e.node).copied() else { return Ok(()) };
                if e.at > since + HELD_MS || !self.smaller(e.node, disks) || disks.config(e.node).is_some() {
                    self.serving.remove(&e.node);
                    return Ok(());
                }
                for (r, _) in &p.recs {
                    let new = r.live.iter().find(|l| disks.node(l.attempt.epoch.peer) == Some(e.node) && l.attempt.epoch >= first);
                    // An attempt of a task of its own stays what it was when the other side turns out to have the task, too.
                    let new = new.filter(|l| self.issued.insert((r.id, l.attempt)));
                    if let Some(l) = new.filter(|_| r.queued.epoch < first && r.need.on_split != Some(OnSplit::Run)) {
                        return Err(format!("{:?} is begun again as {:?} on the smaller side of a split", r.id, l.attempt));
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
    use std::sync::Arc;

    use clawmesh_protocol::record::Live;

    use super::*;
    use crate::{check::fixture::*, oracle::Parsed};

    fn begun(lost: &[usize], queued: Epoch) -> bool {
        let boot = |n| (n, Fact::Boot { store: 1, boot: 1, fresh: true });
        let mut log: Vec<(usize, Fact)> = (0..4).map(boot).collect();
        let members = Some((0..4).map(|n| mark(&peer(n))).collect());
        log.push((0, Fact::Batch(Arc::new(Parsed { no: 1, members, ..Parsed::default() }))));
        log.extend(lost.iter().map(|n| (0, Fact::Link(peer(*n), false))));
        log.push((0, Fact::Event(Event::Serving(epoch(5, 0)))));
        let mut r = rec(task(1), epoch(5, 0), 2);
        r.queued.epoch = queued;
        r.live = vec![Live {
            attempt: Attempt { k: 2, epoch: epoch(5, 0) },
            worker: peer(0),
            wboot: 1,
            placed_at: 0,
            agent: false,
            ext: Default::default(),
        }];
        log.push((0, batch(2, vec![r])));
        judge(Held::default(), log).is_some()
    }

    #[test]
    fn an_inherited_task_that_the_smaller_side_begins_is_caught() {
        assert!(begun(&[1, 2, 3], epoch(4, 1)));
        assert!(!begun(&[1, 2], epoch(4, 1)), "half of them are here");
        assert!(!begun(&[1, 2, 3], epoch(5, 0)), "it came after the split");
    }
}
