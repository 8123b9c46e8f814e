//! What happened to tasks in a trial, as its users and its tasks saw it, and the judgement on it.
//!
//! Nothing here asks a node what it believes, except in the end, when the faults have stopped.  Two of the simulator's
//! own checkers look at what can be seen from outside: I9 at the starts, I14 at the final state.  The others need to see
//! disks and messages; what users can see of their promises is checked here instead.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use clawmesh_protocol::{
    config::K,
    ids::{Attempt, Epoch, Origin, Peer, TaskId},
};
use clawmesh_sim::{
    check,
    oracle::{Disks, Entry, Fact, NodeEnd, Quiet},
};
use serde_json::Value;

/// The end of a task as somebody was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The final state's word.
    pub(crate) state: String,
    /// The process's exit code.
    pub(crate) exit: Option<i64>,
    /// What it wrote: the fence of the attempt that decided.
    pub(crate) stdout: String,
}

/// Who was told the end of a task, and when.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    /// The node that said so, by its place in the mesh.
    pub(crate) by: usize,
    /// The task.
    pub(crate) id: String,
    /// What it said.
    pub(crate) end: Ended,
    /// After the faults had stopped and the nodes agreed.
    pub(crate) healed: bool,
}

/// What users did and were told.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// Acknowledged tasks: through which node.
    pub(crate) acked: BTreeMap<String, usize>,
    /// Ends, in the order in which they were told.
    pub(crate) told: Vec<Told>,
    /// Tasks that were refused with a word.
    pub(crate) refused: u64,
    /// Tasks whose submit was not answered: they may be in the mesh or not.
    pub(crate) unanswered: u64,
}

/// What was found when the faults had stopped.
#[derive(Debug, Clone, Default)]
pub(crate) struct Aftermath {
    /// The status of each node.
    pub(crate) nodes: Vec<Value>,
    /// All tasks of the mesh by id.
    pub(crate) tasks: BTreeMap<String, Value>,
}

/// One start of a process, as the process itself noted it: the task, and the fence of its attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Start {
    /// The task.
    pub(crate) id: String,
    /// `CLAWMESH_FENCE`: epoch, coordinator and number.
    pub(crate) fence: String,
}

impl Start {
    /// Reads a line `<id> <fence>`.
    ///
    /// # Panics
    /// When it is none.
    pub(crate) fn of(line: &str) -> Self {
        let (id, fence) = line.split_once(' ').unwrap_or_else(|| panic!("a line of the log of starts: {line:?}"));
        assert!(attempt(fence).is_some(), "a fence in the log of starts: {line:?}");
        Self { id: id.to_owned(), fence: fence.to_owned() }
    }
}

/// A fence is `<epoch>.<coordinator>.<number>`.
fn attempt(fence: &str) -> Option<Attempt> {
    let mut parts = fence.split('.');
    let (n, peer, k) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Attempt { k: k.parse().ok()?, epoch: Epoch { n: n.parse().ok()?, peer: peer.parse().ok()? } })
}

/// Everything that is wrong; empty when all promises were kept.
pub(crate) fn complaints(history: &History, starts: &[Start], after: &Aftermath) -> Vec<String> {
    let mut all = Vec::new();
    kept(history, after, &mut all);
    one_outcome(history, &mut all);
    accounted(history, starts, after, &mut all);
    all.extend(by_the_simulator(starts, after));
    all
}

/// No acknowledged task is lost (I4), and each comes to its end (I15).
fn kept(history: &History, after: &Aftermath, all: &mut Vec<String>) {
    for (id, through) in &history.acked {
        match after.tasks.get(id) {
            None => all.push(format!("I4: {id}, acknowledged through node {through}, is lost")),
            Some(t) if t["state"] != "completed" => {
                all.push(format!("I15: {id}, acknowledged through node {through}, has not completed: {t}"))
            }
            Some(_) => {}
        }
    }
}

/// The origin says one outcome for ever, and after the heal everybody says the same (I6).
fn one_outcome(history: &History, all: &mut Vec<String>) {
    let mut settled: BTreeMap<&str, &Told> = BTreeMap::new();
    for told in &history.told {
        let by_origin = history.acked.get(&told.id) == Some(&told.by);
        // During a split, what a node that is not the origin says is the word of its side only.
        if !by_origin && !told.healed {
            continue;
        }
        let first = settled.entry(&told.id).or_insert(told);
        if first.end != told.end {
            all.push(format!(
                "I6: {} ended as {:?}, said node {}, and as {:?}, said node {}{}",
                told.id,
                first.end,
                first.by,
                told.end,
                told.by,
                if told.healed { " after the heal" } else { "" }
            ));
        }
    }
    for id in history.acked.keys().filter(|id| !settled.contains_key(id.as_str())) {
        all.push(format!("I15: nobody was told how {id} ended"));
    }
}

/// Each start is an attempt that the record shows, and the attempt that decided did start.
fn accounted(history: &History, starts: &[Start], after: &Aftermath, all: &mut Vec<String>) {
    let mut by_task: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for s in starts {
        by_task.entry(&s.id).or_default().insert(&s.fence);
    }
    for id in history.acked.keys() {
        let Some(task) = after.tasks.get(id) else { continue };
        let shown: BTreeSet<(u64, u64)> = (task["attempts"].as_array().into_iter().flatten())
            .filter_map(|a| Some((a["epoch"].as_u64()?, a["number"].as_u64()?)))
            .collect();
        let dropped = task["attempts_dropped"].as_u64().unwrap_or(0) > 0;
        for fence in by_task.get(id.as_str()).into_iter().flatten() {
            let Some(a) = attempt(fence) else { continue };
            if !dropped && !shown.contains(&(a.epoch.n, u64::from(a.k))) {
                all.push(format!("{id} was started as {fence}, and its record does not show that attempt: {task}"));
            }
        }
    }
    for told in history.told.iter().filter(|t| t.end.state == "completed") {
        let fence = told.end.stdout.trim();
        if !by_task.get(told.id.as_str()).is_some_and(|f| f.contains(fence)) {
            all.push(format!("{} has the result of {fence:?}, which has not noted its start", told.id));
        }
    }
}

/// I9 over the starts and I14 over the final state, by the checkers of the simulator.
fn by_the_simulator(starts: &[Start], after: &Aftermath) -> Vec<String> {
    let mut numbers = BTreeMap::new();
    let mut log: Vec<Fact> = Vec::new();
    for s in starts {
        // The printed id is all that a process knows of its task; a number stands for it.
        let next = numbers.len() as u64;
        let seq = *numbers.entry(s.id.as_str()).or_insert(next);
        let id = TaskId { origin: Origin { peer: Peer([0; 32]), store: 0 }, inc: 0, seq };
        let Some(a) = attempt(&s.fence) else { continue };
        log.push(Fact::Started(id, a));
    }
    log.push(Fact::Quiet(Arc::new(quiet(&after.nodes))));
    let mut checkers: Vec<_> = check::all(K, Default::default()).into_iter().filter(|c| ["I9", "I14"].contains(&c.name())).collect();
    assert_eq!(checkers.len(), 2, "the simulator has these checkers");
    let disks = Disks::new(after.nodes.iter().filter_map(|s| peer(&s["node"])).collect());
    let mut all = Vec::new();
    for (at, fact) in log.into_iter().enumerate() {
        let entry = Entry { at: at as u64, node: 0, fact };
        for c in &mut checkers {
            if let Err(why) = c.see(&entry, &disks) {
                all.push(format!("{}: {why}", c.name()));
            }
        }
    }
    all
}

/// Why the nodes are not at rest yet, by the simulator's I14: one coordinates, all follow it, and enough hold its table.
///
/// # Errors
/// What differs.
pub(crate) fn converged(nodes: &[Value]) -> Result<(), String> {
    let after = Aftermath { nodes: nodes.to_vec(), ..Aftermath::default() };
    by_the_simulator(&[], &after).into_iter().next().map_or(Ok(()), Err)
}

fn peer(v: &Value) -> Option<Peer> {
    v.as_str()?.parse().ok()
}

fn quiet(nodes: &[Value]) -> Quiet {
    let end = |(node, s): (usize, &Value)| {
        let leader = peer(&s["coordinator"]);
        let n = s["epoch"].as_u64().unwrap_or(0);
        NodeEnd {
            node,
            // An epoch's claimant is its coordinator.
            epoch: leader.map(|peer| Epoch { n, peer }),
            leader,
            serving: s["role"] == "coordinator",
            root: s["digest"].as_str().and_then(|d| u128::from_str_radix(d, 16).ok()).unwrap_or_default(),
            count: s["records"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or_default(),
            outbox_open: s["outbox"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or_default(),
            // A node does not tell, and none of the checkers asked here wants it.
            backlog: 0,
        }
    };
    Quiet { replicas: K, nodes: nodes.iter().enumerate().map(end).collect(), ..Quiet::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(i: u8) -> String {
        Peer([i; 32]).to_string()
    }
    fn fence(n: u64, k: u32) -> String {
        format!("{n}.{}.{k}", node(1))
    }
    fn start(id: &str, n: u64, k: u32) -> Start {
        Start::of(&format!("{id} {}", fence(n, k)))
    }
    fn told(by: usize, n: u64, healed: bool) -> Told {
        Told { by, id: "ta".into(), end: Ended { state: "completed".into(), exit: Some(0), stdout: format!("{}\n", fence(n, 1)) }, healed }
    }
    fn status(i: u8, role: &str, n: u64, digest: &str) -> Value {
        json!({ "node": node(i), "coordinator": node(1), "epoch": n, "role": role, "records": 1, "outbox": 0, "digest": digest })
    }
    /// A task that was acknowledged, started once, and ended.
    fn good() -> (History, Vec<Start>, Aftermath) {
        let history =
            History { acked: [("ta".to_owned(), 0)].into(), told: vec![told(0, 3, false), told(1, 3, true)], ..History::default() };
        let task = json!({ "state": "completed", "attempts": [{ "epoch": 3, "number": 1 }], "attempts_dropped": 0 });
        let nodes = vec![status(1, "coordinator", 3, "ab"), status(2, "follower", 3, "ab")];
        (history, vec![start("ta", 3, 1)], Aftermath { nodes, tasks: [("ta".to_owned(), task)].into() })
    }
    #[track_caller]
    fn refused(history: &History, starts: &[Start], after: &Aftermath, word: &str) {
        let all = complaints(history, starts, after);
        assert!(all.iter().any(|c| c.contains(word)), "no {word:?} in {all:?}");
    }

    #[test]
    fn a_good_history_is_accepted_and_each_broken_promise_is_named() {
        let (h, s, a) = good();
        assert_eq!(complaints(&h, &s, &a), Vec::<String>::new());

        let mut lost = a.clone();
        lost.tasks.clear();
        refused(&h, &s, &lost, "I4");

        let mut waits = a.clone();
        waits.tasks.insert("ta".into(), json!({ "state": "pending", "attempts": [] }));
        refused(&h, &s, &waits, "I15");

        let mut changed = h.clone();
        changed.told.push(told(0, 4, false));
        refused(&changed, &[s[0].clone(), start("ta", 4, 1)], &a, "I6");

        let mut silent = h.clone();
        silent.told.clear();
        refused(&silent, &s, &a, "nobody was told");

        refused(&h, &[s[0].clone(), s[0].clone()], &a, "I9");
        refused(&h, &[s[0].clone(), start("ta", 5, 2)], &a, "does not show");
        refused(&h, &[], &a, "not noted its start");
    }

    #[test]
    fn a_side_of_a_split_may_differ_until_the_heal() {
        let (mut h, mut s, mut a) = good();
        h.told.insert(0, told(1, 4, false));
        s.push(start("ta", 4, 1));
        a.tasks
            .insert("ta".into(), json!({ "state": "completed", "attempts": [{ "epoch": 3, "number": 1 }, { "epoch": 4, "number": 1 }] }));
        assert_eq!(complaints(&h, &s, &a), Vec::<String>::new());
        h.told.push(told(1, 4, true));
        refused(&h, &s, &a, "I6");
    }

    #[test]
    fn two_coordinators_and_unequal_tables_are_no_rest() {
        let (_, _, a) = good();
        assert_eq!(converged(&a.nodes), Ok(()));
        let mut two = a.nodes.clone();
        two[1] = status(2, "coordinator", 3, "ab");
        assert!(converged(&two).is_err());
        let mut behind = a.nodes.clone();
        behind[1] = status(2, "follower", 2, "ab");
        assert!(converged(&behind).is_err());
        let mut differs = a.nodes;
        differs[1] = status(2, "follower", 3, "ac");
        assert!(converged(&differs).is_err());
    }
}
