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

#[derive(Debug, Clone, Copy)]
struct Waiting {
    class: Class,
    priority: Priority,
    queued: Queued,
    /// Awake ms from which it counts as waiting, minus what it waited before.
    since: i64,
}

/// The queue.  Holds at most the mesh's cap of open tasks.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    classes: BTreeMap<Class, BTreeMap<Priority, BTreeSet<(Queued, TaskId)>>>,
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
            self.classes.entry(class).or_default().entry(need.priority).or_default().insert((queued, id));
        }
    }

    /// Takes a task out; gives how long it has waited, ms.
    pub(crate) fn remove(&mut self, id: &TaskId, now: u64) -> Option<u64> {
        let w = self.tasks.remove(id)?;
        self.counts[w.priority as usize] -= 1;
        if let Some(c) = self.classes.get_mut(&w.class) {
            if let Some(q) = c.get_mut(&w.priority) {
                q.remove(&(w.queued, *id));
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
                .filter_map(|(queued, id)| self.tasks.get(id).map(|w| (effective(w, now), *queued, *id)))
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
        let ranked = heads.filter_map(|(queued, id)| self.tasks.get(id).map(|w| (effective(w, now), *queued, *id)));
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
