//! Where a task goes: a chain of filters, each with a sentence for a person, then a strategy that
//! chooses among the nodes that passed.  Pure: a function of what is handed in.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use crate::{
    face::Facts,
    ids::{Hash, Peer},
    spec::{Kind, Need, Strategy},
};

/// A node as placement sees it.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// The node.
    pub peer: Peer,
    /// Its name.
    pub name: &'a str,
    /// A link is up and not silent.
    pub online: bool,
    /// Takes no new tasks.
    pub draining: bool,
    /// Runs commands.
    pub commands: bool,
    /// It can run this skill by itself.
    pub has_skill: bool,
    /// It offers the skill, but only for an agent.
    pub agent_skill: bool,
    /// Labels.
    pub labels: &'a [String],
    /// Tasks at once.
    pub slots: u32,
    /// Tasks it may be given for this class: slots, and for very short tasks some ahead.
    pub room: u32,
    /// Tasks it has.
    pub load: u32,
    /// Its machine, and how old these figures are, ms.
    pub facts: &'a Facts,
    /// See `facts`.
    pub facts_age_ms: u64,
    /// Boot number.
    pub boot: u64,
    /// The task failed there last time: only when nobody else fits.
    pub avoid: bool,
}

/// Why a node can't take a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct No {
    /// One sentence.
    pub why: String,
    /// The same node may fit in a moment: it is only busy.
    pub busy: bool,
}

fn no(why: impl ToString) -> Result<(), No> {
    Err(No { why: why.to_string(), busy: false })
}

/// The chain of filters.  `Ok` when the node could take the task now.
///
/// # Errors
/// The first filter that says no, as a sentence.
pub fn fits(need: &Need, c: &Candidate<'_>) -> Result<(), No> {
    if need.pin.is_some_and(|p| p != c.peer) {
        return no("the task is pinned to another node");
    }
    if !c.online {
        return no("the node is not reachable");
    }
    if c.draining {
        return no("the node takes no new tasks");
    }
    match need.kind {
        Kind::Command if !c.commands => return no("the node refuses commands (--no-commands)"),
        Kind::Skill if c.agent_skill && !c.has_skill => {
            return no(format!("the node has the skill '{}', but without 'metadata.clawmesh.run' only an agent can use it", need.skill));
        }
        Kind::Skill if !c.has_skill => return no(format!("the node does not have the skill '{}'", need.skill)),
        _ => {}
    }
    if let Some(l) = need.labels.iter().find(|l| !c.labels.contains(l)) {
        return no(format!("the node lacks the label '{l}'"));
    }
    if need.cpus > c.facts.cpus && c.facts.cpus > 0 {
        return no(format!("the task wants {} cores, the node has {}", need.cpus, c.facts.cpus));
    }
    if need.memory_mib > c.facts.memory_mib && c.facts.memory_mib > 0 {
        return no(format!("the task wants {} MiB of memory, the node has {}", need.memory_mib, c.facts.memory_mib));
    }
    if c.slots == 0 {
        return no("the node has no slots");
    }
    if c.load >= c.room {
        return Err(No { why: format!("all {} slots are taken", c.slots), busy: true });
    }
    if need.memory_mib > c.facts.memory_free_mib && c.facts.memory_mib > 0 {
        let why = format!(
            "the task wants {} MiB of memory, {} were free {} s ago",
            need.memory_mib,
            c.facts.memory_free_mib,
            c.facts_age_ms / 1_000
        );
        return Err(No { why, busy: true });
    }
    Ok(())
}

/// Lower is better.
pub fn score(strategy: Strategy, need: &Need, c: &Candidate<'_>, turn: u64) -> u64 {
    let slots = u64::from(c.slots.max(1));
    let load = u64::from(c.load) * 1_000 / slots;
    match strategy {
        // Tasks per slot; of equals, the less busy machine, as far as its figures are fresh.
        Strategy::LeastTasks => load * 1_000 + if c.facts_age_ms < 15_000 { u64::from(c.facts.cpu_percent.min(100)) } else { 50 },
        Strategy::RoundRobin => turn,
        // What stays free: slots first, then memory.
        Strategy::BestFit => {
            let free = u64::from(c.room.saturating_sub(c.load));
            let spare = c.facts.memory_free_mib.saturating_sub(need.memory_mib);
            free * 10_000_000 + spare.min(9_999_999)
        }
        Strategy::Random => turn,
        // Rendezvous hashing (Thaler and Ravishankar 1998): stable while nodes come and go.
        Strategy::Affinity => {
            let mut b = Vec::with_capacity(128);
            b.extend_from_slice(if need.key.is_empty() { need.skill.as_bytes() } else { need.key.as_bytes() });
            b.push(0);
            if need.skill.is_empty() && need.key.is_empty() {
                b.extend_from_slice(need.title.as_bytes());
            }
            b.extend_from_slice(&c.peer.0);
            let h = Hash::of(&b).0;
            u64::from_be_bytes([0, h[1], h[2], h[3], h[4], h[5], h[6], h[7]])
        }
    }
}

/// Chooses a node.  `turn` gives a node's turn for round-robin (lower = longer ago) and a random
/// number for `random`.  A node to avoid is taken when there is no other.
pub fn choose<'a, 'b>(
    strategy: Strategy,
    need: &Need,
    nodes: &'b [Candidate<'a>],
    mut turn: impl FnMut(&Peer) -> u64,
) -> Option<(&'b Candidate<'a>, u64)> {
    nodes
        .iter()
        .filter(|c| fits(need, c).is_ok())
        .map(|c| (c, score(strategy, need, c, turn(&c.peer))))
        .min_by_key(|(c, s)| (c.avoid, *s, c.peer))
}
