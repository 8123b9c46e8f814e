//! I5: an effect of a coordinator is seen only after the version that justifies it is stable in its epoch
//! (W1), and *stable* is what the disks say, not what the coordinator believes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clawmesh_protocol::{
    ids::{Epoch, Peer, TaskId},
    io::Event,
    message::{Message, SubmitAck},
    record::Rec,
};

use super::Check;
use crate::oracle::{Disk, Disks, Entry, Fact};

/// How long fewer than d holders must last before fewer copies are enough (W2), less the links' own
/// delay: the oracle sees a link's end later than the coordinator may.
const FEWER_MS: u64 = 2_500;

/// What each epoch wrote and how far it is stable.
pub(super) struct StableFirst {
    copies: usize,
    written: BTreeMap<Epoch, Writes>,
    joined: BTreeMap<Epoch, BTreeMap<usize, u64>>,
    links: BTreeMap<(usize, Peer), u64>,
    /// Writes of each node in batches that are not durable yet: batch, epoch, number.
    unsure: BTreeMap<usize, Vec<(u64, Epoch, u64)>>,
    /// Tasks that their origin is done with.
    over: BTreeSet<TaskId>,
    /// Epochs with voters: a majority of these counts there, see `i05_majority`.
    voted: BTreeSet<Epoch>,
}

#[derive(Default)]
struct Writes {
    stable: u64,
    by_seq: BTreeMap<u64, Arc<Rec>>,
    by_id: BTreeMap<TaskId, Vec<u64>>,
}

impl StableFirst {
    /// For a mesh with this d.
    pub(super) fn new(copies: usize) -> Self {
        Self {
            copies,
            written: BTreeMap::new(),
            joined: BTreeMap::new(),
            links: BTreeMap::new(),
            unsure: BTreeMap::new(),
            over: BTreeSet::new(),
            voted: BTreeSet::new(),
        }
    }

    fn wrote(&mut self, node: usize, no: u64, rec: &Arc<Rec>, disks: &Disks) -> Result<(), String> {
        if disks.node(rec.ver.epoch.peer) == Some(node) {
            let w = self.written.entry(rec.ver.epoch).or_default();
            if w.by_seq.insert(rec.ver.seq, rec.clone()).is_none() {
                if rec.ver.seq <= w.stable {
                    return Err(format!("{:?} is written as {:?}, which was called stable before", rec.id, rec.ver));
                }
                w.by_id.entry(rec.id).or_default().push(rec.ver.seq);
                self.unsure.entry(node).or_default().push((no, rec.ver.epoch, rec.ver.seq));
            }
        }
        Ok(())
    }

    /// A batch that was lost with its process was never seen; nor was its epoch, when the promise is lost with it: then it
    /// is claimed again, and its numbers are used again.
    fn lost(&mut self, node: usize, upto: u64) {
        for (_, epoch, seq) in self.unsure.remove(&node).into_iter().flatten().filter(|(no, ..)| *no > upto) {
            let Some(w) = self.written.get_mut(&epoch).filter(|w| seq > w.stable) else { continue };
            if let Some(rec) = w.by_seq.remove(&seq) {
                w.by_id.entry(rec.id).or_default().retain(|s| *s != seq);
            }
        }
    }

    fn stable(&mut self, e: &Entry, epoch: Epoch, seq: u64, copies: u32, disks: &Disks) -> Result<(), String> {
        self.enough(e, epoch, copies, disks)?;
        let w = self.written.entry(epoch).or_default();
        for (s, rec) in w.by_seq.range(w.stable + 1..=seq.max(w.stable)) {
            let has = |d: &&Disk| d.recs.get(&rec.id).is_some_and(|r| r.ver >= rec.ver) || d.outbox.contains(&rec.id);
            let destroyed = disks.now.iter().filter(|d| d.destroyed).count();
            let n = disks.now.iter().filter(has).count();
            if n + destroyed < copies as usize && !disks.is_over(&rec.id) {
                return Err(format!("write {s} of {epoch:?} ({:?}) is called stable on {copies} disks, {n} have it", rec.id));
            }
        }
        w.stable = w.stable.max(seq);
        Ok(())
    }

    /// Fewer than d copies are enough only while fewer than d holders are joined (W2).
    fn enough(&self, e: &Entry, epoch: Epoch, copies: u32, disks: &Disks) -> Result<(), String> {
        if copies as usize >= self.copies || self.voted.contains(&epoch) {
            return Ok(());
        }
        let long_up = |n: &usize, since: u64| {
            let up = disks.peers.get(*n).and_then(|p| self.links.get(&(e.node, *p)));
            // Who joined over an older link has to join again.
            up.is_some_and(|t| *t <= since && since + FEWER_MS < e.at)
        };
        let joined = self.joined.get(&epoch).map_or(0, |j| j.iter().filter(|(n, t)| **n != e.node && long_up(n, **t)).count());
        if joined + 1 > copies as usize {
            return Err(format!("{copies} copies were called enough in {epoch:?} while {} holders were joined", joined + 1));
        }
        Ok(())
    }

    fn any(&self, epoch: Epoch, id: &TaskId, fits: impl Fn(&Rec) -> bool) -> bool {
        self.written.get(&epoch).is_some_and(|w| {
            let seqs = w.by_id.get(id).into_iter().flatten();
            seqs.filter(|s| **s <= w.stable).any(|s| w.by_seq.get(s).is_some_and(|r| fits(r)))
        })
    }

    /// A submit is safe on d disks, of which the origin's outbox may be one (W1).
    fn submit_ack(&self, e: &Entry, a: &SubmitAck, disks: &Disks) -> Result<(), String> {
        self.enough(e, a.epoch, a.copies, disks)?;
        let in_table = |d: &&Disk| d.destroyed || d.recs.get(&a.id).is_some_and(|r| r.ver.epoch >= a.epoch);
        let written = disks.now.iter().filter(in_table).count();
        let outbox = disks.now.iter().filter(|d| !in_table(d) && d.outbox.contains(&a.id)).count();
        if self.over.contains(&a.id) {
            // The origin had its result before this answer to an old question of it left.
            return Ok(());
        }
        if written == 0 || written + outbox < a.copies as usize {
            return Err(format!("{:?} is acknowledged with {} copies; {written} tables and {outbox} outboxes have it", a.id, a.copies));
        }
        Ok(())
    }

    fn effect(&self, m: &Message, serving: Option<Epoch>, held: impl Fn(&TaskId) -> bool) -> Result<(), String> {
        let mine = serving.unwrap_or_default();
        let (ok, what) = match m {
            Message::Assign(a) => (self.any(a.epoch, &a.id, |r| r.live.iter().any(|l| l.attempt == a.attempt)), a.id),
            // Nothing is left of the record, and the attempt is one of a task that is over (T5).
            Message::Kill(k) if !held(&k.id) => return Ok(()),
            // A total time limit passes without a write.
            Message::Kill(k) => {
                let why = |r: &Rec| r.cancel || r.outcome.is_some() || r.need.total_timeout_ms > 0;
                (self.any(k.epoch, &k.id, |r| why(r) || r.live.iter().all(|l| l.attempt != k.attempt)), k.id)
            }
            Message::Deliver(d) => (self.any(d.epoch, &d.id, |r| r.outcome.as_ref() == Some(&d.outcome)), d.id),
            // Nothing is left of a record that its origin or worker still asks for: nothing can be lost.
            Message::ReportAck(r) if !held(&r.id) => return Ok(()),
            Message::ReportAck(r) => (self.any(mine, &r.id, |x| x.live.iter().all(|l| l.attempt != r.attempt)), r.id),
            Message::Settled(s) => match s.ids.iter().find(|id| held(id) && !self.any(s.epoch, id, |r| r.delivered)) {
                Some(id) => (false, *id),
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        if ok {
            return Ok(());
        }
        let known: Vec<String> =
            self.written.iter().filter_map(|(x, w)| w.by_id.get(&what).map(|s| format!("{x:?} {s:?} stable {}", w.stable))).collect();
        Err(format!("{} of {what:?} left before a version that justifies it was stable; written: {}", m.name(), known.join(", ")))
    }
}

impl Check for StableFirst {
    fn name(&self) -> &'static str {
        "I5"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        match &e.fact {
            Fact::Batch(p) => {
                self.over.extend(&p.outbox_dels);
                self.voted.extend(p.config.as_ref().map(|q| q.ver.epoch));
                return p.recs.iter().try_for_each(|(r, _)| self.wrote(e.node, p.no, r, disks));
            }
            Fact::Durable(upto) => {
                if let Some(list) = self.unsure.get_mut(&e.node) {
                    list.retain(|(no, ..)| no > upto);
                }
            }
            Fact::Down(upto) => self.lost(e.node, *upto),
            Fact::Link(p, true) => {
                self.links.insert((e.node, *p), e.at);
            }
            Fact::Link(p, false) => {
                self.links.remove(&(e.node, *p));
            }
            Fact::Boot { .. } => self.links.retain(|(n, _), _| *n != e.node),
            Fact::Event(Event::Joined(epoch, p)) => {
                if let Some(n) = disks.node(*p) {
                    self.joined.entry(*epoch).or_default().insert(n, e.at);
                }
            }
            // Who is no replica any more does not count, if enough others do: otherwise it should have kept its seat (W5).
            Fact::Event(Event::Unseated(epoch, p)) => {
                let (Some(j), Some(n)) = (self.joined.get_mut(epoch), disks.node(*p)) else { return Ok(()) };
                if j.keys().filter(|x| **x != n && **x != e.node).count() + 1 >= self.copies {
                    j.remove(&n);
                }
            }
            // Who says that it sleeps holds what it holds, and answers nobody; who is too old for the mesh drops what it can't read.
            Fact::Event(Event::Member(p, "asleep" | "too old")) => {
                if let Some(n) = disks.node(*p) {
                    let me = disks.peers.get(e.node).copied();
                    self.joined.iter_mut().filter(|(x, _)| Some(x.peer) == me).for_each(|(_, j)| {
                        j.remove(&n);
                    });
                }
            }
            // A replica that stalls, or joins again, does not count until it has caught up.
            Fact::Event(Event::Dropped("stalled_follower")) => {
                let me = disks.peers.get(e.node).copied();
                self.joined.iter_mut().filter(|(x, _)| Some(x.peer) == me).for_each(|(_, j)| j.clear());
            }
            Fact::Event(Event::Stable { epoch, seq, copies, .. }) => return self.stable(e, *epoch, *seq, *copies, disks),
            Fact::Sent(_, m) => {
                if let Message::SubmitAck(a) = &**m {
                    return self.submit_ack(e, a, disks);
                }
                if let Message::Follow(f) = &**m {
                    self.joined.entry(f.epoch).or_default().remove(&e.node);
                }
                let me = disks.peers.get(e.node).copied();
                let mine = self.written.keys().rev().find(|x| Some(x.peer) == me).copied();
                // What it has deleted is gone for it, although not from the disk yet.
                let gone = |d: &Disk, id: &TaskId| d.pending.iter().any(|p| p.dels.contains(id));
                let held = |id: &TaskId| disks.now.get(e.node).is_some_and(|d| d.recs.contains_key(id) && !gone(d, id));
                return self.effect(m, mine, held);
            }
            Fact::Started(id, a) if !self.written.keys().any(|x| self.any(*x, id, |r| r.live.iter().any(|l| l.attempt == *a))) => {
                return Err(format!("{id:?} attempt {a:?} started before it was stable"));
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

    fn stable(copies: u32) -> (usize, Fact) {
        (0, Fact::Event(Event::Stable { epoch: epoch(1, 0), seq: 1, copies, took_ms: 0 }))
    }

    fn ack() -> (usize, Fact) {
        let m = SubmitAck { id: task(1), copies: 2, epoch: epoch(1, 0), ext: Default::default() };
        (0, Fact::Sent(peer(1), Arc::new(Message::SubmitAck(m))))
    }

    #[test]
    fn an_effect_before_stability_and_a_false_stability_are_caught() {
        let put = |n| (n, batch(1, vec![rec(task(1), epoch(1, 0), 1)]));
        let on_disk = |n| (n, Fact::Durable(1));
        let good = vec![put(0), on_disk(0), put(1), on_disk(1), stable(2), ack()];
        assert_eq!(judge(StableFirst::new(2), good), None);
        let deliver = |stable_first: bool| {
            let mut r = rec(task(1), epoch(1, 0), 1);
            r.outcome = Some(outcome(clawmesh_protocol::record::End::Done, 1));
            let m = clawmesh_protocol::message::Deliver {
                epoch: epoch(1, 0),
                id: task(1),
                outcome: r.outcome.clone().unwrap(),
                ext: Default::default(),
            };
            let sent = (0, Fact::Sent(peer(1), Arc::new(Message::Deliver(m))));
            let mut log = vec![(0, batch(1, vec![r.clone()])), on_disk(0), (1, batch(1, vec![r])), on_disk(1)];
            if stable_first {
                log.push(stable(2));
            }
            log.push(sent);
            judge(StableFirst::new(2), log)
        };
        assert_eq!(deliver(true), None);
        assert!(deliver(false).is_some());
        let thin = vec![put(0), on_disk(0), put(1), ack()];
        assert!(judge(StableFirst::new(2), thin).is_some());
        assert!(judge(StableFirst::new(2), vec![stable(2), put(0)]).is_some());
        let false_stable = vec![put(0), on_disk(0), put(1), stable(2)];
        assert!(judge(StableFirst::new(2), false_stable).is_some());
    }

    #[test]
    fn one_copy_is_not_enough_while_a_second_holder_is_joined() {
        let log = |joined: bool| {
            let mut c = StableFirst::new(2);
            let disks = Disks::new((0..2).map(peer).collect());
            c.links.insert((0, peer(1)), 0);
            if joined {
                c.joined.insert(epoch(1, 0), BTreeMap::from([(1, 0)]));
            }
            let e = Entry { at: 10_000, node: 0, fact: stable(1).1 };
            c.see(&e, &disks).is_err()
        };
        assert_eq!([false, true].map(log), [false, true]);
    }
}
