//! The answers as a model reads them.

use serde::Serialize;

use super::views::{NodeList, NodeReport, SkillList, SkillReport, StatusReport, TaskReport, Waited};

/// An answer as a model reads it.
pub(super) trait Told: Serialize {
    /// A few lines, complete without the structured content.
    fn text(&self) -> String;
}

impl Told for TaskReport {
    fn text(&self) -> String {
        let mut text = format!("task {}: {}", self.task, self.state);
        if let Some(node) = &self.node {
            text.push_str(&format!(" on {node}"));
        }
        if let Some(code) = self.exit_code {
            text.push_str(&format!(", exit code {code}"));
        }
        if !self.reason.is_empty() {
            text.push_str(&format!(" ({})", self.reason));
        }
        for v in &self.placement {
            text.push_str(&format!("\n- {}: {}", v.node, v.reason));
        }
        for (name, out) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            let Some(out) = out.as_ref().filter(|o| o.bytes > 0 || o.lost > 0) else { continue };
            text.push_str(&format!("\n--- {name}, {} bytes", out.bytes));
            if out.lost > 0 {
                text.push_str(&format!(", {} more were not kept", out.lost));
            }
            if out.binary {
                text.push_str(", not UTF-8 text");
            }
            if let Some(next) = out.next_offset {
                text.push_str(&format!(", goes on at offset {next}"));
            }
            text.push_str(&format!(" ---\n{}", out.text));
        }
        if let Some(key) = self.key.as_ref().filter(|_| !self.ended) {
            text.push_str(&format!("\nidempotency key: {key}"));
        }
        if !self.next.is_empty() {
            text.push_str(&format!("\n{}", self.next));
        }
        text
    }
}

impl Told for Waited {
    fn text(&self) -> String {
        let mut parts: Vec<String> = self.ended.iter().map(Told::text).collect();
        parts.extend(Some(self.next.clone()).filter(|n| !n.is_empty()));
        parts.join("\n\n")
    }
}

impl Told for StatusReport {
    fn text(&self) -> String {
        match (&self.task, &self.mesh) {
            (Some(task), _) => task.text(),
            (None, Some(m)) => format!(
                "mesh '{}', this is node '{}' (clawmesh {}); {}\n{} of {} nodes are online; {} tasks run, {} wait, {} of them for a node that is not there",
                m.mesh,
                m.node,
                m.version,
                if m.coordinator.is_empty() {
                    "nobody coordinates at the moment".to_owned()
                } else {
                    format!("'{}' coordinates", m.coordinator)
                },
                m.nodes_online,
                m.nodes,
                m.running,
                m.waiting,
                m.parked
            ),
            (None, None) => String::new(),
        }
    }
}

impl Told for NodeList {
    fn text(&self) -> String {
        let line = |n: &NodeReport| {
            let mut line = format!(
                "- {}: {}, {} of {} slots busy, {} {}, {} cores at {} %, {} MiB free",
                n.name, n.state, n.running, n.slots, n.platform, n.arch, n.cpus, n.cpu_percent, n.memory_free_mib
            );
            if n.coordinator {
                line.push_str(", coordinates");
            }
            for (what, names) in [("labels", &n.labels), ("skills", &n.skills)] {
                if !names.is_empty() {
                    line.push_str(&format!("; {what}: {}", names.join(", ")));
                }
            }
            line
        };
        let lines: Vec<String> = self.nodes.iter().map(line).collect();
        format!("{} nodes\n{}", self.total, lines.join("\n"))
    }
}

impl Told for SkillList {
    fn text(&self) -> String {
        if self.total == 0 {
            return "no skill fits; call list_skills without arguments for all".to_owned();
        }
        let line = |s: &SkillReport| {
            let how = if s.runnable { "run_skill" } else { "needs an agent: submit with a prompt" };
            let nodes = if s.nodes.is_empty() { "on no node that is there now".to_owned() } else { format!("on {}", s.nodes.join(", ")) };
            format!("- {} ({how}; {nodes}): {}", s.name, s.description)
        };
        let mut text = format!("{} skills\n{}", self.total, self.skills.iter().map(line).collect::<Vec<_>>().join("\n"));
        if let Some(next) = self.next_offset {
            text.push_str(&format!("\nthere are more: call list_skills with offset {next}"));
        }
        text
    }
}
