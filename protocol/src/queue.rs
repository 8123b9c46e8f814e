//! The priority queue (S8): tasks with the same requirements form a class; within a class and a
//! priority they go in order of their place; between classes the head with the highest effective
//! priority goes first, so that a class nobody can run never blocks the others.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use crate::{
    ids::{Hash, TaskId},
    record::Queued,
    spec::{Need, Priority},
};

/// Waiting adds one to the priority per minute, ten at most (S8).
const AGE_STEP_MS: u64 = 60_000;
const AGE_MAX: u64 = 10;

/// Tasks that the same nodes can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class(Hash);

impl Class {
    pub(crate) fn of(need: &Need) -> Self {
        let mut b = Vec::with_capacity(128);
        let mut e = crate::codec::Enc::new(&mut b);
        e.uint(need.kind as u64);
        e.text(&need.skill);
        e.uint(u64::from(need.cpus));
        e.uint(need.memory_mib);
        e.uint(need.strategy.map_or(9, |s| s as u64));
        e.text(if need.strategy == Some(crate::spec::Strategy::Affinity) { &need.key } else { "" });
        for l in &need.labels {
            e.text(l);
        }
        if let Some(p) = need.pin {
            e.bytes(&p.0);
        }
        Self(Hash::of(&b))
    }
}

/// Where a task stands among those of its class and priority: by the minute from which it counts as waiting, then by
/// place.  By place alone, one that comes back (a retry) would hide those behind it that have waited for longer: tasks of
/// a lower priority would go before these.  A minute is less than what lies between two priorities.
type Turn = (i64, Queued);

#[derive(Debug, Clone, Copy)]
struct Waiting {
    class: Class,
    priority: Priority,
    queued: Queued,
    /// Awake ms from which it counts as waiting, minus what it waited before.
    since: i64,
}

impl Waiting {
    fn turn(&self) -> Turn {
        (self.since.div_euclid(AGE_STEP_MS as i64), self.queued)
    }
}

/// The queue.  Holds at most the mesh's cap of open tasks.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    classes: BTreeMap<Class, BTreeMap<Priority, BTreeSet<(Turn, TaskId)>>>,
    tasks: BTreeMap<TaskId, Waiting>,
    counts: [u64; 4],
}

impl Queue {
    pub(crate) fn push(&mut self, id: TaskId, need: &Need, queued: Queued, now: u64, waited_ms: u64) {
        let class = Class::of(need);
        let since = i64::try_from(now).unwrap_or(i64::MAX) - i64::try_from(waited_ms).unwrap_or(0);
        let w = Waiting { class, priority: need.priority, queued, since };
        if self.tasks.insert(id, w).is_none() {
            self.counts[need.priority as usize] += 1;
            self.classes.entry(class).or_default().entry(need.priority).or_default().insert((w.turn(), id));
        }
    }

    /// Takes a task out; gives how long it has waited, ms.
    pub(crate) fn remove(&mut self, id: &TaskId, now: u64) -> Option<u64> {
        let w = self.tasks.remove(id)?;
        self.counts[w.priority as usize] -= 1;
        if let Some(c) = self.classes.get_mut(&w.class) {
            if let Some(q) = c.get_mut(&w.priority) {
                q.remove(&(w.turn(), *id));
                if q.is_empty() {
                    c.remove(&w.priority);
                }
            }
            if c.is_empty() {
                self.classes.remove(&w.class);
            }
        }
        Some(waited(now, w.since))
    }

    pub(crate) fn contains(&self, id: &TaskId) -> bool {
        self.tasks.contains_key(id)
    }
    pub(crate) fn ids(&self) -> impl Iterator<Item = &TaskId> {
        self.tasks.keys()
    }
    /// Waiting by priority.
    pub(crate) fn counts(&self) -> [u64; 4] {
        self.counts
    }
    /// The best task of each class, the most urgent first.
    pub(crate) fn heads(&self, now: u64) -> Vec<(Class, TaskId)> {
        let mut heads: Vec<(u64, Queued, Class, TaskId)> = Vec::with_capacity(self.classes.len());
        for (class, by_prio) in &self.classes {
            let best = by_prio
                .values()
                .filter_map(|q| q.first())
                .filter_map(|(_, id)| self.tasks.get(id).map(|w| (effective(w, now), w.queued, *id)))
                .max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
            if let Some((e, queued, id)) = best {
                heads.push((e, queued, *class, id));
            }
        }
        heads.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        heads.into_iter().map(|(_, _, c, id)| (c, id)).collect()
    }
    /// The best task of one class.
    pub(crate) fn head(&self, class: &Class, now: u64) -> Option<TaskId> {
        let heads = self.classes.get(class)?.values().filter_map(|q| q.first());
        let ranked = heads.filter_map(|(_, id)| self.tasks.get(id).map(|w| (effective(w, now), w.queued, *id)));
        ranked.max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1))).map(|(_, _, id)| id)
    }
    /// How many tasks stand before this one.
    pub(crate) fn ahead(&self, id: &TaskId, now: u64) -> Option<u64> {
        let w = self.tasks.get(id)?;
        let mine = (effective(w, now), w.queued);
        let before = |v: &Waiting| {
            let e = effective(v, now);
            e > mine.0 || (e == mine.0 && v.queued < mine.1)
        };
        Some(self.tasks.values().filter(|v| before(v)).count() as u64)
    }
    /// Number of tasks in a class.
    pub(crate) fn class_len(&self, class: &Class) -> u64 {
        self.classes.get(class).map_or(0, |c| c.values().map(|q| q.len() as u64).sum())
    }
    pub(crate) fn classes(&self) -> usize {
        self.classes.len()
    }
}

fn waited(now: u64, since: i64) -> u64 {
    u64::try_from(i64::try_from(now).unwrap_or(i64::MAX) - since).unwrap_or(0)
}

/// Base priority plus a step per minute waited (S8).
fn effective(w: &Waiting, now: u64) -> u64 {
    w.priority.base() + (waited(now, w.since) / AGE_STEP_MS).min(AGE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        face::NewTask,
        ids::{Epoch, Origin, Peer},
        spec::split,
    };

    fn id(seq: u64) -> TaskId {
        TaskId { origin: Origin { peer: Peer([1; 32]), store: 1 }, inc: 1, seq }
    }
    fn need(priority: Priority) -> Need {
        let task = NewTask { skill: Some("echo".into()), priority: Some(priority), ..NewTask::default() };
        split(&task).expect("a task").0
    }
    fn place(seq: u64) -> Queued {
        Queued { epoch: Epoch::ZERO, seq }
    }

    #[test]
    fn a_retry_does_not_hide_who_has_waited_for_longer_behind_it() {
        let mut q = Queue::default();
        // Admitted first, it ran for nine minutes and is to be tried again.
        q.push(id(1), &need(Priority::High), place(1), 540_000, 0);
        q.push(id(2), &need(Priority::High), place(2), 0, 0);
        q.push(id(3), &need(Priority::Normal), place(3), 5_000, 0);
        let order = core::iter::from_fn(|| {
            let (_, id) = *q.heads(550_000).first()?;
            q.remove(&id, 550_000).map(|_| id.seq)
        });
        assert_eq!(order.collect::<Vec<_>>(), [2, 3, 1]);
    }

    #[test]
    fn tasks_that_came_in_the_same_minute_go_in_order_of_their_place() {
        let mut q = Queue::default();
        q.push(id(1), &need(Priority::Normal), place(2), 100, 0);
        q.push(id(2), &need(Priority::Normal), place(1), 200, 0);
        assert_eq!(q.heads(300).first().map(|(_, id)| id.seq), Some(2));
        assert_eq!((q.counts(), q.classes()), ([0, 0, 2, 0], 1));
    }
}
