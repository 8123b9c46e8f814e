//! Agents: prompts, skills that only an agent can follow, and the slots they take.
//!
//! A run of an agent takes minutes and much memory, a command often milliseconds: each kind waits for slots of its own, and
//! neither holds up the other.

use alloc::{format, string::String};

use crate::{
    config::PROTO_PROMPTS,
    face::Refusal,
    ids::Peer,
    mesh::Mesh,
    mutant,
    spec::{Kind, Need},
};

/// Longest name of an agent in an advert, bytes.
pub(crate) const AGENT_NAME_MAX: usize = 128;

/// Which slots a run waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// None: it ends at once.
    Free,
    /// One of the node's slots.
    Slot,
    /// One of its agent slots.
    Agent,
}

/// Runs that take a slot now, and how many there are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lanes {
    pub(crate) slots: u32,
    pub(crate) agent_slots: u32,
    pub(crate) busy: u32,
    pub(crate) agents: u32,
}

impl Lanes {
    pub(crate) fn full(&self, lane: Lane) -> bool {
        match lane {
            Lane::Free => false,
            Lane::Slot => self.busy >= self.slots,
            Lane::Agent => self.agents >= self.agent_slots,
        }
    }
    /// All slots of the other kind are taken: with one kind of slots this run would wait.
    pub(crate) fn passes_by(&self, lane: Lane) -> bool {
        match lane {
            Lane::Free => false,
            Lane::Slot => self.agents > 0 && self.full(Lane::Agent),
            Lane::Agent => self.busy > 0 && self.full(Lane::Slot),
        }
    }
    pub(crate) fn take(&mut self, lane: Lane) {
        match lane {
            Lane::Free => {}
            Lane::Slot => self.busy += 1,
            Lane::Agent => self.agents += 1,
        }
    }
    pub(crate) fn give_back(&mut self, lane: Lane) {
        match lane {
            Lane::Free => {}
            Lane::Slot => self.busy -= 1,
            Lane::Agent => self.agents -= 1,
        }
    }
}

/// So long after its start a node waits for word of those it knows, ms.
const UNKNOWN_MS: u64 = 10_000;

pub(crate) fn older(who: &str) -> Refusal {
    let message = format!("{who} runs an older version of clawmesh that cannot keep prompts: update it, or stop it for a day");
    Refusal::Invalid { message }
}

impl Mesh {
    /// Which slots it would take on this node.
    pub(crate) fn lane_here(&self, need: &Need) -> Lane {
        match need.kind {
            Kind::Builtin if need.skill != "sleep" => Lane::Free,
            Kind::Prompt => Lane::Agent,
            Kind::Skill if !self.worker.runnable.contains(&need.skill) => Lane::Agent,
            Kind::Builtin | Kind::Command | Kind::Skill => Lane::Slot,
        }
    }

    /// What this node lacks for it, as a sentence.  It may have had it a moment ago: folders and programs come and go.
    pub(crate) fn lacks(&self, need: &Need) -> Option<String> {
        if need.kind == Kind::Command && !self.cfg.commands {
            return Some("the node refuses commands (--no-commands)".into());
        }
        if self.lane_here(need) != Lane::Agent {
            return None;
        }
        let named = need.kind == Kind::Skill || !need.skill.is_empty();
        if named && !self.catalogue.skills.iter().any(|s| s.name == need.skill) {
            return Some(format!("the node no longer has the skill '{}'", need.skill));
        }
        if self.worker.agent.is_empty() || self.worker.agent_slots() == 0 {
            return Some("the node has no agent, or has none any more".into());
        }
        None
    }

    /// V3: why a prompt can't be given to the coordinator.  Who speaks an older protocol could not read its record, and would
    /// hold nothing of it while it says that it does; the coordinator itself could not even read the message.
    pub(crate) fn too_new(&self, need: &Need) -> Option<Refusal> {
        if need.kind != Kind::Prompt || self.active_proto() >= PROTO_PROMPTS {
            return None;
        }
        let leader = self.serving_leader();
        if leader == Some(self.me) {
            return None;
        }
        match leader.and_then(|l| self.takes_prompts(&l)) {
            Some(true) => None,
            Some(false) => Some(older("the coordinator")),
            None => {
                let message = "nobody coordinates the mesh here yet, so it is not known whether all of its nodes understand prompts";
                Some(Refusal::NoCoordinator { message: message.into() })
            }
        }
    }

    /// V3: whether this member can read prompts; none when it has not said so.
    pub(crate) fn takes_prompts(&self, p: &Peer) -> Option<bool> {
        if *p == self.me {
            return Some(self.cfg.proto >= PROTO_PROMPTS);
        }
        self.view.get(p).and_then(|m| m.advert.as_ref()).map(|a| a.proto_max >= PROTO_PROMPTS)
    }

    /// V3, as the coordinator: whether a prompt has to wait a moment, because nobody is known to be older and what all understand
    /// is only about to be recorded.
    ///
    /// # Errors
    /// Why it is not taken.
    pub(crate) fn prompts(&self, need: &Need) -> Result<bool, Refusal> {
        // Recorded, and not only heard: who holds the record of a prompt has to hold this as well.
        let recorded = self.settings.as_ref().is_some_and(|s| s.proto >= PROTO_PROMPTS);
        if need.kind != Kind::Prompt || recorded {
            return Ok(false);
        }
        if self.cfg.proto < PROTO_PROMPTS {
            return Err(older("the coordinator"));
        }
        match self.view.members.iter().find(|(_, m)| self.holds_back(m, PROTO_PROMPTS)) {
            Some((p, m)) if m.advert.is_some() || m.proto > 0 => Err(older(&self.name_of(p))),
            Some((p, _)) if self.now >= self.born + UNKNOWN_MS => {
                let name = self.name_of(p);
                let message = format!(
                    "{name} has not been heard of and may be of an older version that cannot keep prompts: start it, or forget it \
                     ('clawmesh nodes forget {name}') when it is gone for good"
                );
                Err(Refusal::Invalid { message })
            }
            _ => Ok(true),
        }
    }

    /// V3: it can read all that the mesh writes.  One that has not said what it speaks is believed to.
    pub(crate) fn reads_all(&self, p: &Peer) -> bool {
        let proto = self.view.get(p).map_or(0, |m| m.advert.as_ref().map_or(m.proto, |a| a.proto_max.max(1)));
        proto == 0 || proto >= self.active_proto() || mutant::on(45)
    }
}
