//! Questions about the skills of the mesh, answered by any node from what it knows.

use alloc::{format, string::String, vec::Vec};

use crate::{
    depends::{self, Offer},
    face::{InstanceView, RESOLVE_MAX, Refusal, Reply, ResourcesView, SkillQuery, SkillView},
    ids::Peer,
    mesh::Mesh,
    registry::Entry,
    skill::SkillRun,
};

fn thousandths(n: u64) -> f64 {
    n as f64 / 1_000.0
}

impl Mesh {
    /// It is this node, or a member that is not offline.
    fn is_here(&self, p: &Peer) -> bool {
        *p == self.me || self.view.get(p).is_some_and(|m| m.state(self.now, self.advert_period()) != "offline")
    }

    /// The skills that a question asks for: how many, and one page.  Instances on nodes that are offline are not shown, and
    /// a skill without another one is not found.
    pub(crate) fn skills(&self, q: &SkillQuery) -> (usize, Vec<SkillView>) {
        // Once for each node and not for each skill: those who are away are few.
        let away = self.view.registry.nodes().filter(|p| !self.is_here(p)).copied().collect();
        let (total, page) = self.view.registry.find(q, &away);
        (total, page.into_iter().map(|e| self.skill_view(e)).collect())
    }

    fn skill_view(&self, e: &Entry) -> SkillView {
        let s = &e.info;
        let here = e.at.iter().filter(|p| self.is_here(p));
        let instances: Vec<InstanceView> = here.map(|p| self.instance(p, &s.name, &s.hash)).collect();
        SkillView {
            name: s.name.clone(),
            hash: s.hash.clone(),
            version: s.version.clone(),
            description: s.description.clone(),
            category: s.category.clone(),
            tags: s.tags.clone(),
            runnable: s.runnable,
            input: s.input.clone(),
            json_output: s.json_output,
            timeout_ms: s.timeout_ms,
            depends: s.depends.clone(),
            resources: ResourcesView {
                cpu: thousandths(s.cpu_milli),
                memory_mib: s.memory_mib,
                gpu: thousandths(s.gpu_milli),
                custom: s.custom.iter().map(|(k, n)| (k.clone(), thousandths(*n))).collect(),
            },
            nodes: instances.iter().map(|i| (i.node, i.name.clone(), true)).collect(),
            instances,
        }
    }

    fn instance(&self, p: &Peer, name: &str, hash: &str) -> InstanceView {
        let state = match self.view.get(p) {
            Some(m) => m.state(self.now, self.advert_period()),
            None if self.draining => "draining",
            None => "online",
        };
        let run = self.runs_of(p, name, hash).cloned().unwrap_or_default();
        let SkillRun { runs, succeeded, mean_ms, p95_ms, last, .. } = run;
        let ran = runs > 0;
        InstanceView {
            node: *p,
            name: self.name_of(p),
            state: state.into(),
            runs,
            succeeded,
            success_rate: ran.then(|| succeeded as f64 / runs as f64),
            mean_ms: ran.then_some(mean_ms),
            p95_ms: ran.then_some(p95_ms),
            last_used: ran.then_some(last),
        }
    }

    /// What these skills need of others that are here.
    pub(crate) fn resolve_skills(&self, names: &[String]) -> Reply {
        if names.len() > RESOLVE_MAX {
            let message = format!("{} names are too many for one question: ask for {RESOLVE_MAX} at most", names.len());
            return Reply::Refused(Refusal::Invalid { message });
        }
        let offers = |name: &str| {
            let all = self.view.registry.named(name).filter(|e| e.at.iter().any(|p| self.is_here(p)));
            all.map(|e| Offer { version: &e.info.version, depends: &e.info.depends }).collect()
        };
        Reply::Resolved(depends::resolve(names, offers))
    }
}
