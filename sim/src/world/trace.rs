//! The readable trace: time, node, what came in, what went out.

use std::collections::BTreeMap;
use std::io::Write;

use clawmesh_protocol::{
    ids::TaskId,
    io::{Input, Output},
};

use super::{START_MS, World};

/// Longest traced line, characters.
const LINE_MAX: usize = 400;

impl World {
    /// Writes a line of the trace; the line is only made when somebody reads it.
    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        let Some(t) = &mut self.trace else { return };
        let ms = self.now - START_MS;
        let text = self.nodes.iter().map(|n| (n.cfg.peer, n.cfg.name.as_str())).collect::<Vec<_>>();
        let text: String = letters(&text, &line()).chars().take(LINE_MAX).collect();
        // A closed pipe ends the trace, not the run.
        if writeln!(t, "{:>4}.{:03} {text}", ms / 1_000, ms % 1_000).is_err() {
            self.trace = None;
        }
    }

    /// Puts the nodes' letters where their keys are printed.
    pub(super) fn letters(&self, text: &str) -> String {
        letters(&self.nodes.iter().map(|n| (n.cfg.peer, n.cfg.name.as_str())).collect::<Vec<_>>(), text)
    }

    /// At a bad end: which records the live nodes disagree about.
    pub(super) fn say_differences(&mut self) {
        if self.trace.is_none() {
            return;
        }
        let mut seen: BTreeMap<TaskId, BTreeMap<String, String>> = BTreeMap::new();
        for n in self.nodes.iter() {
            for r in n.core.iter().flat_map(|c| c.mesh.records()) {
                let what = format!(
                    "{:?} cancel {} delivered {} outcome {:?} live {:?}",
                    r.ver,
                    r.cancel,
                    r.delivered,
                    r.outcome.as_ref().map(|o| o.end),
                    r.live.len()
                );
                seen.entry(r.id).or_default().entry(what).or_default().push_str(&n.cfg.name);
            }
        }
        for (id, versions) in seen.into_iter().filter(|(_, v)| v.len() > 1) {
            self.say(|| format!("DIFFER {id:?}: {versions:?}"));
        }
    }

    pub(super) fn say_input(&mut self, node: usize, input: &Input) {
        if self.trace.is_some() && !matches!(input, Input::Tick) {
            let name = self.nodes[node].cfg.name.clone();
            self.say(|| format!("{name} <- {}", short(format!("{input:?}"))));
        }
    }

    pub(super) fn say_output(&mut self, node: usize, output: &Output) {
        if self.trace.is_some() && !matches!(output, Output::WakeAt(_)) {
            let name = self.nodes[node].cfg.name.clone();
            let text = match output {
                Output::Persist(b) => format!("Persist #{}: {} puts, {} dels{}", b.no, b.puts.len(), b.dels.len(), side(b)),
                o => short(format!("{o:?}")),
            };
            self.say(|| format!("{name}    -> {text}"));
        }
    }
}

fn side(b: &clawmesh_protocol::io::Batch) -> &'static str {
    if b.side.is_some() { ", side" } else { "" }
}

/// Drops what only the codec cares for.
fn short(text: String) -> String {
    text.replace(", ext: Ext([])", "").replace("ext: Ext([])", "")
}

fn letters(names: &[(clawmesh_protocol::ids::Peer, &str)], text: &str) -> String {
    let mut t = shorten(text);
    for (peer, name) in names {
        t = t.replace(&format!("{peer:?}"), name);
    }
    t
}

/// Writes ids of tasks and attempts as people would: `A/7'1100`, `#2@5@B`; cuts byte strings.
fn shorten(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = ["TaskId {", "Attempt {", "Blob(["].iter().filter_map(|p| rest.find(p)).min() {
        let (head, tail) = rest.split_at(at);
        out.push_str(head);
        let field = |name: &str| {
            let from = tail.find(name)? + name.len();
            tail.get(from..)?.split([',', ' ', '}']).next()
        };
        let (word, used) = if tail.starts_with("TaskId {") {
            let end = tail.find("seq: ").and_then(|i| tail[i..].find('}').map(|j| i + j + 1));
            // An origin counts anew in each incarnation: the last digits of it tell two of them apart.
            let inc = field("inc: ").unwrap_or("?");
            let inc = &inc[inc.len().saturating_sub(4)..];
            (format!("{}/{}'{inc}", field("peer: ").unwrap_or("?"), field("seq: ").unwrap_or("?")), end)
        } else if tail.starts_with("Attempt {") {
            let end = tail.find('}').map(|i| i + 1);
            (format!("#{}@{}", field("k: ").unwrap_or("?"), field("epoch: ").unwrap_or("?")), end)
        } else {
            let end = tail.find("])").map(|i| i + 2);
            (format!("<{} bytes>", end.map_or(0, |e| tail[..e].matches(',').count() + 1)), end)
        };
        let Some(used) = used else { break };
        out.push_str(&word);
        rest = &tail[used..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::shorten;
    use crate::check::fixture::{attempt, task};

    #[test]
    fn ids_are_shortened() {
        let text = format!("x {:?} y {:?} z", task(7), attempt(2, 5));
        assert_eq!(shorten(&text), "x 010101/7'1 y #2@5@010101 z");
        assert_eq!(shorten("a Blob([1, 2, 3]) b"), "a <3 bytes> b");
    }
}
