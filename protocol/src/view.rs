//! Who is there: members, their links, their adverts, their skills.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::{String, ToString},
    vec::Vec,
};

use crate::{
    config::{COUNCIL, MEMBERS_MAX},
    face::{Facts, MemberView},
    ids::{Hash, Peer},
    message::{Advert, Rank},
    registry::Registry,
    skill::{Catalogue, SkillRun},
    wire_struct,
};

wire_struct! {
    /// What is remembered of a member across restarts.
    pub struct Remembered {
        /// Its name.
        1 => name: String,
        /// Names of skills its catalogues ever held; at most 100.
        2 => skills: Vec<String>,
        /// The highest protocol it understood when it last said so (V3); 0 = not known.
        3 => proto: u32,
    }
}

/// One member.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) advert: Option<Advert>,
    /// What the advert says of its machine.
    pub(crate) facts: Facts,
    /// Awake ms when the advert came.
    pub(crate) advert_at: u64,
    /// A link is up, or a channel through another peer.
    pub(crate) linked: bool,
    /// Through whom, when there is no direct link (E11).
    pub(crate) via: Option<Peer>,
    /// Awake ms when its direct link was lost, or it was heard of without one.
    pub(crate) lost_at: Option<u64>,
    /// The link is up but silent.
    pub(crate) silent: bool,
    /// Awake ms when anything was heard of it.
    pub(crate) heard_at: u64,
    /// Its host answered the last dial that nobody listens.
    pub(crate) refused: bool,
    /// It said `Bye` in this boot.
    pub(crate) bye: Option<u64>,
    /// It said that its machine sleeps: boot, and number of its last advert.
    pub(crate) asleep: Option<(u64, u64)>,
    pub(crate) catalogue: Option<Catalogue>,
    /// The name of what came as its catalogue.
    pub(crate) catalogue_hash: Option<Hash>,
    /// Its runnable skills, for placement.
    pub(crate) runnable: BTreeSet<String>,
    /// Hash of the catalogue it was asked for.
    pub(crate) asked: Option<Hash>,
    /// Names that any of its catalogues held.
    pub(crate) ever: BTreeSet<String>,
    /// Its `PreHigher` is ignored until then (E5).
    pub(crate) penalty_until: u64,
    pub(crate) penalties: u32,
    /// Awake ms when the driver was asked to dial it.
    pub(crate) dialled_at: u64,
    /// What is remembered of its protocol (V3).
    pub(crate) proto: u32,
}

impl Member {
    pub(crate) fn boot(&self) -> u64 {
        self.advert.as_ref().map_or(0, |a| a.boot)
    }
    /// It left in order and has not come back.
    pub(crate) fn left(&self) -> bool {
        self.bye.is_some_and(|b| b >= self.boot())
    }
    /// It coordinates and answers nobody now, by its own word.
    pub(crate) fn away(&self) -> bool {
        self.left() || self.asleep.is_some()
    }
    pub(crate) fn usable(&self) -> bool {
        self.linked && !self.silent && !self.away()
    }
    pub(crate) fn state(&self, now: u64, period: u64) -> &'static str {
        let fresh = self.advert.is_some() && now.saturating_sub(self.advert_at) < 3 * period;
        if self.left() {
            "offline"
        } else if self.asleep.is_some() {
            "asleep"
        } else if !self.linked && !fresh {
            "offline"
        } else if !self.linked || self.silent {
            "suspect"
        } else if self.advert.as_ref().is_some_and(|a| a.draining) {
            "draining"
        } else {
            "online"
        }
    }
}

/// All members but this node.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) members: BTreeMap<Peer, Member>,
    /// All skills, this node's included.
    pub(crate) registry: Registry,
    /// How the members' skills have run: boot, and by name.
    pub(crate) runs: BTreeMap<Peer, (u64, BTreeMap<String, SkillRun>)>,
}

impl View {
    pub(crate) fn get(&self, p: &Peer) -> Option<&Member> {
        self.members.get(p)
    }
    /// The member, made when new.  At the bound the longest silent unlinked one is forgotten.
    pub(crate) fn entry(&mut self, p: Peer) -> &mut Member {
        if self.members.len() >= MEMBERS_MAX && !self.members.contains_key(&p) {
            let oldest = self.members.iter().filter(|(_, m)| !m.linked).min_by_key(|(_, m)| m.heard_at).map(|(p, _)| *p);
            if let Some(o) = oldest {
                self.remove(&o);
            }
        }
        self.members.entry(p).or_default()
    }
    /// Forgets a member and all that came from it.
    pub(crate) fn remove(&mut self, p: &Peer) {
        self.members.remove(p);
        self.registry.withdraw(p);
        self.runs.remove(p);
    }
    /// Peers that can be talked to now.
    pub(crate) fn usable(&self) -> impl Iterator<Item = Peer> + '_ {
        self.members.iter().filter(|(_, m)| m.usable()).map(|(p, _)| *p)
    }
    pub(crate) fn is_usable(&self, p: &Peer) -> bool {
        self.members.get(p).is_some_and(Member::usable)
    }
    pub(crate) fn linked(&self) -> impl Iterator<Item = Peer> + '_ {
        self.members.iter().filter(|(_, m)| m.linked).map(|(p, _)| *p)
    }
    pub(crate) fn name(&self, p: &Peer) -> String {
        match self.members.get(p) {
            Some(m) if !m.name.is_empty() => m.name.clone(),
            _ => p.to_string().chars().rev().take(6).collect::<Vec<_>>().into_iter().rev().collect(),
        }
    }
    /// The priority of a member by its last advert; 0 when none has come.
    pub(crate) fn prio(&self, p: &Peer) -> u32 {
        self.members.get(p).and_then(|m| m.advert.as_ref()).map_or(0, |a| a.prio)
    }
    /// The rank of a member by its last advert; none when it must not lead.
    pub(crate) fn rank(&self, p: &Peer) -> Option<Rank> {
        let a = self.members.get(p)?.advert.as_ref()?;
        a.eligible.then_some(Rank { synced: a.synced, prio: a.prio, peer: *p })
    }
    /// How many usable members are better than `mine`, without `except`.
    pub(crate) fn better(&self, mine: Rank, except: Option<Peer>) -> usize {
        self.usable().filter(|p| Some(*p) != except).filter_map(|p| self.rank(&p)).filter(|r| *r > mine).count()
    }
    pub(crate) fn in_council(&self, mine: Rank, except: Option<Peer>) -> bool {
        self.better(mine, except) < COUNCIL
    }
    /// Names of all skills that any catalogue of the mesh ever held.
    pub(crate) fn ever(&self) -> impl Iterator<Item = &String> {
        self.members.values().flat_map(|m| m.ever.iter())
    }
    /// Some usable member's catalogue has not arrived yet.
    pub(crate) fn incomplete(&self) -> bool {
        self.members.values().any(|m| m.usable() && m.advert.as_ref().is_none_or(|a| m.catalogue_hash != Some(a.skills)))
    }
}

/// What a member's advert says of its machine.
pub(crate) fn facts(a: &Advert) -> Facts {
    Facts {
        host: a.host.clone(),
        platform: a.platform.clone(),
        arch: a.arch.clone(),
        addresses: a.addresses.clone(),
        cpus: a.cpus,
        cpu_percent: a.cpu_percent,
        memory_mib: a.memory_mib,
        memory_free_mib: a.memory_free_mib,
        disk_mib: a.disk_mib,
        disk_free_mib: a.disk_free_mib,
    }
}

/// A member for people.
pub(crate) fn member_view(p: Peer, m: &Member, name: String, now: u64, period: u64) -> MemberView {
    let a = m.advert.as_ref();
    MemberView {
        node: p,
        name,
        state: m.state(now, period).into(),
        priority: a.map_or(0, |a| a.prio),
        coordinator: false,
        this: false,
        boot: m.boot(),
        slots: a.map_or(0, |a| a.slots),
        running: a.map_or(0, |a| a.running),
        agent: a.map(|a| a.agent.clone()).unwrap_or_default(),
        agent_slots: a.map_or(0, |a| a.agent_slots),
        agent_running: a.map_or(0, |a| a.agent_running),
        skills: m.catalogue.as_ref().map(|c| c.skills.iter().map(|s| s.name.clone()).collect()).unwrap_or_default(),
        labels: a.map(|a| a.labels.clone()).unwrap_or_default(),
        facts: m.facts.clone(),
        age_ms: a.map_or(0, |a| a.age_ms + now.saturating_sub(m.advert_at)),
        version: a.map(|a| a.version.clone()).unwrap_or_default(),
        via: m.via,
    }
}
