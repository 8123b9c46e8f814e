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
    /// The agent there; empty = none.
    pub agent: &'a str,
    /// Agents at once.
    pub agent_slots: u32,
    /// Agents it runs.
    pub agent_load: u32,
    /// Some node can run this skill by itself, so that no agent has to follow it.
    pub runs_somewhere: bool,
    /// Its machine, and how old these figures are, ms.
    pub facts: &'a Facts,
    /// See `facts`.
    pub facts_age_ms: u64,
    /// Boot number.
    pub boot: u64,
    /// The task failed there last time: only when nobody else fits.
    pub avoid: bool,
}

/// The slots a task would take on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// At once.
    pub slots: u32,
    /// It may be given so many.
    pub room: u32,
    /// It has so many.
    pub load: u32,
    /// What these slots are called.
    pub name: &'static str,
}

impl Candidate<'_> {
    /// The slots this task would take here.
    pub fn lane(&self, need: &Need) -> Lane {
        if by_agent(need, self) {
            Lane { slots: self.agent_slots, room: self.agent_slots, load: self.agent_load, name: "agent slots" }
        } else {
            Lane { slots: self.slots, room: self.room, load: self.load, name: "slots" }
        }
    }
}

/// An agent would run this task on this node.
pub fn by_agent(need: &Need, c: &Candidate<'_>) -> bool {
    match need.kind {
        Kind::Prompt => true,
        Kind::Skill => c.agent_skill && !c.has_skill,
        Kind::Command | Kind::Builtin => false,
    }
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
        Kind::Skill if !c.has_skill && !c.agent_skill => return no(format!("the node does not have the skill '{}'", need.skill)),
        Kind::Prompt if !need.skill.is_empty() && !c.agent_skill => {
            return no(format!("the node does not have the skill '{}', which the prompt names", need.skill));
        }
        Kind::Skill if !c.has_skill && c.runs_somewhere => {
            let skill = &need.skill;
            return no(format!("the node has the skill '{skill}' for an agent only, and another node can run it by itself"));
        }
        Kind::Skill if !c.has_skill && c.agent.is_empty() => {
            let skill = &need.skill;
            return no(format!(
                "the node has the skill '{skill}', but without 'metadata.clawmesh.run' only an agent can use it, and it has none"
            ));
        }
        Kind::Prompt if c.agent.is_empty() => {
            return no("the node has no agent: OpenClaw is not installed there, or the node refuses agents (--no-agents)");
        }
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
    let lane = c.lane(need);
    if lane.slots == 0 {
        return no(format!("the node has no {}", lane.name));
    }
    if lane.load >= lane.room {
        return Err(No { why: format!("all {} {} are taken", lane.slots, lane.name), busy: true });
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

/// Inputs below this are fetched in no time: they steer nothing.  MiB.
const BIG_MIB: u64 = 16;

/// How much of the task's input files the node has, by the hints of the submit, MiB.
pub fn held_mib(need: &Need, node: Peer) -> u64 {
    need.holders.iter().find(|h| h.peer == node).map_or(0, |h| u64::from(h.mib))
}

/// How much it would have to fetch, MiB; 0 when nobody was named, because then it is the same for all.
fn missing_mib(need: &Need, node: Peer) -> u64 {
    let all = need.input_bytes >> 20;
    if all < BIG_MIB || need.holders.is_empty() { 0 } else { all.saturating_sub(held_mib(need, node)) }
}

/// Lower is better.  Where a task's big inputs lie counts for `least_tasks` and `best_fit`; the other strategies are a wish for
/// something else.
pub fn score(strategy: Strategy, need: &Need, c: &Candidate<'_>, turn: u64) -> u64 {
    let lane = c.lane(need);
    let missing = missing_mib(need, c.peer);
    let slots = u64::from(lane.slots.max(1));
    let load = u64::from(lane.load) * 1_000 / slots;
    match strategy {
        // Tasks per slot; of equals, the less busy machine, as far as its figures are fresh.
        // Inputs that it lacks count as up to nine tenths of a task per slot: an idle node still takes what would queue elsewhere.
        Strategy::LeastTasks => {
            load * 1_000 + (missing * 450).min(900_000) + if c.facts_age_ms < 15_000 { u64::from(c.facts.cpu_percent.min(100)) } else { 50 }
        }
        Strategy::RoundRobin => turn,
        // What stays free: slots first, then memory. Inputs that it lacks count as up to two slots.
        Strategy::BestFit => {
            let free = u64::from(lane.room.saturating_sub(lane.load));
            let spare = c.facts.memory_free_mib.saturating_sub(need.memory_mib);
            (missing * 10_000).min(20_000_000) + free * 10_000_000 + spare.min(9_999_999)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        face::NewTask,
        files::{Holder, hint},
        spec::split,
    };

    fn node<'a>(n: u8, load: u32, facts: &'a Facts) -> Candidate<'a> {
        Candidate {
            peer: Peer([n; 32]),
            name: "n",
            online: true,
            draining: false,
            commands: true,
            has_skill: false,
            agent_skill: false,
            labels: &[],
            slots: 4,
            room: 4,
            load,
            facts,
            facts_age_ms: 60_000,
            boot: 1,
            agent: "",
            agent_slots: 0,
            agent_load: 0,
            runs_somewhere: false,
            avoid: false,
        }
    }
    fn need(mib: u64, holders: &[(u8, u32)]) -> Need {
        let mut need = split(&NewTask { argv: Some(alloc::vec!["x".into()]), ..NewTask::default() }).expect("a task").0;
        hint(&mut need, holders.iter().map(|(n, mib)| Holder { peer: Peer([*n; 32]), mib: *mib }).collect(), mib << 20);
        need
    }
    fn chosen(strategy: Strategy, need: &Need, nodes: &[Candidate<'_>]) -> u8 {
        choose(strategy, need, nodes, |p| u64::from(p.0[0])).expect("one fits").0.peer.0[0]
    }

    #[test]
    fn big_inputs_draw_the_task_to_who_has_them() {
        let facts = Facts::default();
        let nodes = [node(1, 0, &facts), node(2, 1, &facts), node(3, 0, &facts)];
        for strategy in [Strategy::LeastTasks, Strategy::BestFit] {
            assert_eq!(chosen(strategy, &need(4_000, &[(2, 4_000)]), &nodes), 2, "{strategy}");
        }
        // Who has most of it goes before who has some.
        let even = [node(1, 1, &facts), node(2, 1, &facts), node(3, 1, &facts)];
        assert_eq!(chosen(Strategy::LeastTasks, &need(4_000, &[(2, 1_000), (3, 3_000)]), &even), 3);
    }

    #[test]
    fn small_inputs_or_none_named_steer_nothing() {
        let facts = Facts::default();
        let nodes = [node(1, 0, &facts), node(2, 1, &facts)];
        assert_eq!(chosen(Strategy::LeastTasks, &need(15, &[(2, 15)]), &nodes), 1);
        assert_eq!(chosen(Strategy::LeastTasks, &need(4_000, &[]), &nodes), 1);
        assert_eq!(chosen(Strategy::RoundRobin, &need(4_000, &[(2, 4_000)]), &nodes), 1);
    }

    #[test]
    fn a_holder_is_never_made_to_queue_while_another_is_idle() {
        let facts = Facts::default();
        let mut holder = node(2, 4, &facts);
        let wanted = need(500_000, &[(2, 500_000)]);
        assert_eq!(chosen(Strategy::LeastTasks, &wanted, &[node(1, 0, &facts), holder.clone()]), 1, "no slot is free there");
        // Room ahead for short tasks is no free slot: a task more per slot is always worse than a fetch.
        holder.room = 100;
        assert_eq!(chosen(Strategy::LeastTasks, &wanted, &[node(1, 0, &facts), holder]), 1);
    }
}
