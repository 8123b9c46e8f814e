//! Tables of skills.

use clawmesh_protocol::face::{InstanceView, Resolved, SkillView};

use super::{
    Failure, Mode, Output, Text, Tone,
    views::{clean_lines, span, stamp},
};

impl Output {
    /// The skills of the mesh.
    ///
    /// # Errors
    /// As for [`Output::raw`].
    pub(crate) fn skills(&self, skills: &[SkillView]) -> Result<(), Failure> {
        if self.mode() == Mode::Json {
            return self.json(skills);
        }
        let rows = skills
            .iter()
            .map(|s| {
                let nodes: Vec<&str> = s.nodes.iter().map(|n| n.1.as_str()).collect();
                vec![
                    Text::from(&s.name),
                    Text::from(&s.version),
                    Text::from(if s.runnable { "mesh" } else { "agent" }),
                    Text::from(nodes.join(", ")),
                    Text::new(s.hash.get(..8).unwrap_or(&s.hash), Tone::Dim),
                    Text::from(&s.description),
                ]
            })
            .collect();
        self.table(&["NAME", "VERSION", "RUN BY", "NODES", "HASH", "DESCRIPTION"], rows)
    }
}

/// The skill with its whole account.
pub(crate) fn skill_lines(s: &SkillView) -> String {
    let mut lines = vec![("skill", s.name.clone()), ("hash", s.hash.clone())];
    let wants = wants(s);
    let tags = s.tags.join(", ");
    for (key, value) in [
        ("version", &s.version),
        ("category", &s.category),
        ("description", &s.description),
        ("tags", &tags),
        ("depends on", &s.depends.join("; ")),
        ("wants", &wants),
    ] {
        if !value.is_empty() {
            lines.push((key, value.clone()));
        }
    }
    lines.push(("run by", if s.runnable { "the mesh".into() } else { "an agent".into() }));
    if s.runnable {
        let output = if s.json_output { "JSON" } else { "text" };
        let limit = if s.timeout_ms > 0 { format!(", at most {}", span(s.timeout_ms)) } else { String::new() };
        lines.push(("takes", format!("{}, gives {output}{limit}", s.input)));
    }
    lines.extend(s.instances.iter().map(|i| ("node", instance(i))));
    let text: String = lines.iter().map(|(k, v)| format!("{k:<12} {v}\n")).collect();
    clean_lines(&text)
}

fn wants(s: &SkillView) -> String {
    let r = &s.resources;
    let mut parts = Vec::new();
    if r.cpu > 0.0 {
        parts.push(format!("{} cores", r.cpu));
    }
    if r.memory_mib > 0 {
        parts.push(format!("{} MiB", r.memory_mib));
    }
    if r.gpu > 0.0 {
        parts.push(format!("{} GPUs", r.gpu));
    }
    parts.extend(r.custom.iter().map(|(name, n)| format!("{name} {n}")));
    parts.join(", ")
}

fn instance(i: &InstanceView) -> String {
    let mut text = format!("{} ({}), {}", i.name, i.node, i.state);
    match (i.success_rate, i.mean_ms, i.p95_ms, i.last_used) {
        (Some(rate), Some(mean), Some(p95), Some(last)) => text.push_str(&format!(
            "; {} runs, {:.0} % succeeded, mean {}, p95 {}, last {}",
            i.runs,
            rate * 100.0,
            span(mean),
            span(p95),
            stamp(last)
        )),
        _ => text.push_str("; not run yet"),
    }
    text
}

/// What skills need, for people.
pub(crate) fn needs_lines(r: &Resolved) -> String {
    let or_none = |names: &[String]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    let mut text = format!("needs        {}\nin order     {}\n", or_none(&r.direct), or_none(&r.all));
    for n in &r.needed {
        if let Some(why) = &n.missing {
            let range = n.range.as_ref().map_or_else(String::new, |r| format!(" {r}"));
            let by = if n.by.is_empty() { String::new() } else { format!(", which '{}' needs", n.by) };
            text.push_str(&format!("missing      {}{range}{by}: {why}\n", n.name));
        }
    }
    for c in &r.cycles {
        text.push_str(&format!("in a circle  {}\n", c.join(" -> ")));
    }
    if r.cut {
        text.push_str("note         there is more than this: ask about fewer skills\n");
    }
    clean_lines(&text)
}
