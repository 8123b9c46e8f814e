//! The readable trace: time, node, what came in, what went out.

use std::io::Write;

use clawmesh_protocol::io::{Input, Output};

use super::{START_MS, World};

/// Longest traced line, characters.
const LINE_MAX: usize = 400;

impl World {
    /// Writes a line of the trace; the line is only made when somebody reads it.
    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        let Some(t) = &mut self.trace else { return };
        let ms = self.now - START_MS;
        let text: String = line().chars().take(LINE_MAX).collect();
        let text = letters(&self.nodes.iter().map(|n| (n.cfg.peer, n.cfg.name.as_str())).collect::<Vec<_>>(), &text);
        // A closed pipe ends the trace, not the run.
        if writeln!(t, "{:>4}.{:03} {text}", ms / 1_000, ms % 1_000).is_err() {
            self.trace = None;
        }
    }

    /// Puts the nodes' letters where their keys are printed.
    pub(super) fn letters(&self, text: &str) -> String {
        letters(&self.nodes.iter().map(|n| (n.cfg.peer, n.cfg.name.as_str())).collect::<Vec<_>>(), text)
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
    let mut t = text.to_owned();
    for (peer, name) in names {
        t = t.replace(&format!("{peer:?}"), name);
    }
    t
}
