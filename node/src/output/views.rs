//! Tables of tasks, nodes, skills and the mesh.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clawmesh_protocol::face::{ExplainView, MemberView, QueueView, QuorumView, State, TaskView, VoterView};

use super::{Failure, Mode, Output, Text, Tone};
use crate::api::types::{Ended, StatusReport};

impl Output {
    /// The node and its mesh.
    ///
    /// # Errors
    /// As for [`Output::raw`].
    pub(crate) fn status(&self, s: &StatusReport) -> Result<(), Failure> {
        match self.mode() {
            Mode::Json => return self.json(s),
            Mode::Quiet => return self.line(&s.view.role),
            Mode::Human => {}
        }
        let v = &s.view;
        let coordinator = match v.coordinator {
            Some(c) if c == v.node => "this node".to_owned(),
            Some(c) if v.coordinator_name.is_empty() => c.to_string(),
            Some(_) => v.coordinator_name.clone(),
            None => "nobody at the moment".to_owned(),
        };
        let mut text = format!(
            "mesh         {}\nnode         {} ({})\ncoordinator  {coordinator}, epoch {}\nrole         {}{}\n",
            s.mesh,
            v.name,
            v.node,
            v.epoch,
            v.role,
            if v.draining { ", draining: takes no new tasks" } else { "" },
        );
        if let Some(q) = &v.quorum {
            let warning = if q.warning.is_empty() { String::new() } else { format!(": {}", q.warning) };
            text.push_str(&format!("voters       {} of {} in reach{warning}\n", q.counting, q.voters.len().max(q.pending.len())));
        }
        text.push_str(&format!("queue        {}\n", queue(&v.queue)));
        text.push_str(&format!("strategy     {}\nAPI          http://{}\n", v.strategy, s.api));
        if !s.commands {
            text.push_str("commands     not run for others here: skills only\n");
        }
        if v.store_bad {
            text.push_str("store        the disk refuses writes: free some space on the disk of the home\n");
        }
        text.push('\n');
        self.raw(text.as_bytes())?;
        self.nodes(&v.members)
    }

    /// The members of the mesh.
    ///
    /// # Errors
    /// As for [`Output::raw`].
    pub(crate) fn nodes(&self, members: &[MemberView]) -> Result<(), Failure> {
        if self.mode() == Mode::Json {
            return self.json(members);
        }
        let rows = members
            .iter()
            .map(|m| {
                let tone = match m.state.as_str() {
                    "online" => Tone::Good,
                    "suspect" | "draining" | "asleep" => Tone::Warn,
                    _ => Tone::Bad,
                };
                let mut marks = Vec::new();
                if m.coordinator {
                    marks.push("coordinator");
                }
                if m.this {
                    marks.push("this node");
                }
                let through = m.via.map(|v| members.iter().find(|m| m.node == v).map_or_else(|| tail(&v.to_string()), |m| m.name.clone()));
                let through = through.map(|name| format!("through {name}"));
                marks.extend(through.as_deref());
                vec![
                    Text::from(&m.name),
                    Text::new(&m.state, tone),
                    Text::from(m.priority),
                    Text::from(format!("{}/{}", m.running, m.slots)),
                    match m.agent.as_str() {
                        "" => Text::new("none", Tone::Dim),
                        agent => Text::from(format!("{} {}/{}", clean(agent), m.agent_running, m.agent_slots)),
                    },
                    Text::from(format!("{}% of {}", m.facts.cpu_percent, m.facts.cpus)),
                    Text::from(format!("{}/{} MiB", m.facts.memory_free_mib, m.facts.memory_mib)),
                    Text::from(format!("{} {}", m.facts.platform, m.facts.arch)),
                    Text::from(m.skills.len()),
                    Text::new(tail(&m.node.to_string()), Tone::Dim),
                    Text::from(marks.join(", ")),
                ]
            })
            .collect();
        self.table(&["NAME", "STATE", "PRIORITY", "TASKS", "AGENT", "CPU", "FREE MEMORY", "PLATFORM", "SKILLS", "ID", ""], rows)
    }

    /// The voters of the mesh.
    ///
    /// # Errors
    /// As for [`Output::raw`].
    pub(crate) fn quorum(&self, q: &QuorumView) -> Result<(), Failure> {
        match self.mode() {
            Mode::Json => return self.json(q),
            Mode::Quiet => return q.voters.iter().try_for_each(|v| self.line(&v.name)),
            Mode::Human if q.voters.is_empty() && q.pending.is_empty() => {
                return self.line("open mode: there are no voters, any side of a split network serves");
            }
            Mode::Human => {}
        }
        self.line(&format!(
            "quorum mode: {} of {} voters can be reached from here, {} are needed\n",
            q.counting,
            q.voters.len().max(q.pending.len()),
            q.needed
        ))?;
        let of = |list: &[VoterView], v: &VoterView| list.iter().any(|o| o.node == v.node);
        let joining = q.pending.iter().filter(|v| !of(&q.voters, v));
        let rows = q
            .voters
            .iter()
            .chain(joining)
            .map(|v| {
                let (state, tone) = match (v.counts, v.replaced) {
                    (true, _) => ("counts", Tone::Good),
                    (_, true) => ("has a new store", Tone::Bad),
                    _ => ("not reachable", Tone::Bad),
                };
                let mut marks = Vec::new();
                if v.witness {
                    marks.push("witness");
                }
                if !of(&q.voters, v) {
                    marks.push("joining");
                } else if !q.pending.is_empty() && !of(&q.pending, v) {
                    marks.push("leaving");
                }
                vec![
                    Text::from(&v.name),
                    Text::new(state, tone),
                    Text::from(marks.join(", ")),
                    Text::new(tail(&v.node.to_string()), Tone::Dim),
                ]
            })
            .collect();
        self.table(&["VOTER", "STATE", "", "ID"], rows)
    }

    /// A list of tasks.
    ///
    /// # Errors
    /// As for [`Output::raw`].
    pub(crate) fn tasks(&self, tasks: &[TaskView]) -> Result<(), Failure> {
        if self.mode() == Mode::Json {
            return self.json(tasks);
        }
        let now = wall_ms();
        let rows = tasks
            .iter()
            .map(|t| {
                let last = t.attempts.last();
                let place = last.map_or("", |a| a.name.as_str());
                vec![
                    Text::from(t.id),
                    Text::new(t.state.word(), tone(t.state)),
                    Text::from(t.priority),
                    Text::from(place),
                    Text::from(t.exit_code.map_or_else(String::new, |c| c.to_string())),
                    Text::from(ago(now, t.submitted_at)),
                    Text::from(&t.title),
                    Text::new(&t.reason, Tone::Dim),
                ]
            })
            .collect();
        self.table(&["ID", "STATE", "PRIORITY", "NODE", "EXIT", "SUBMITTED", "TASK", "WHY"], rows)
    }

    /// One task with its attempts.
    ///
    /// # Errors
    /// As for [`Output::raw`].
    pub(crate) fn task(&self, t: &TaskView) -> Result<(), Failure> {
        match self.mode() {
            Mode::Json => return self.json(t),
            Mode::Quiet => return self.line(t.state.word()),
            Mode::Human => {}
        }
        let reason = if t.reason.is_empty() { String::new() } else { format!(": {}", t.reason) };
        let origin = if t.origin_name.is_empty() { t.origin.to_string() } else { t.origin_name.clone() };
        let mut text = format!(
            "task       {}\nwhat       {} ({})\nstate      {}{reason}\npriority   {}\nsubmitted  {} on {origin}\ncopies     {}\n",
            t.id,
            clean(&t.title),
            t.kind,
            t.state.word(),
            t.priority,
            stamp(t.submitted_at),
            t.copies,
        );
        if let Some(end) = t.ended_at {
            text.push_str(&format!("ended      {}\n", stamp(end)));
        }
        if t.cancel && !t.state.ended() {
            text.push_str("cancel     asked for\n");
        }
        if t.attempts_dropped > 0 {
            text.push_str(&format!("attempts   {} older ones are no longer listed\n", t.attempts_dropped));
        }
        self.raw(clean_lines(&text).as_bytes())?;
        if t.attempts.is_empty() {
            return Ok(());
        }
        self.raw(b"\n")?;
        let rows = t
            .attempts
            .iter()
            .map(|a| {
                let took = a.ended_at.map_or_else(String::new, |e| span(e.saturating_sub(a.started_at)));
                vec![
                    Text::from(a.number),
                    Text::from(if a.name.is_empty() { a.node.to_string() } else { a.name.clone() }),
                    Text::from(&a.state),
                    Text::from(a.exit_code.map_or_else(String::new, |c| c.to_string())),
                    Text::from(stamp(a.started_at)),
                    Text::from(took),
                    Text::from(&a.reason),
                ]
            })
            .collect();
        self.table(&["ATTEMPT", "NODE", "STATE", "EXIT", "STARTED", "TOOK", "WHY"], rows)
    }

    /// Why a task waits, or why it went where it went.
    ///
    /// # Errors
    /// As for [`Output::raw`].
    pub(crate) fn explain(&self, e: &ExplainView) -> Result<(), Failure> {
        match self.mode() {
            Mode::Json => return self.json(e),
            Mode::Quiet => return self.line(&e.verdict),
            Mode::Human => {}
        }
        let mut text = format!("{} is {}: {}\nstrategy: {}\n", e.id, e.state.word(), e.verdict, e.strategy);
        if let Some(ahead) = e.ahead {
            text.push_str(&format!("before it in the queue: {ahead}\n"));
        }
        if let Some(placed) = &e.placed {
            text.push_str(&format!("last placement: {placed}\n"));
        }
        self.raw(clean_lines(&text).as_bytes())?;
        if e.nodes.is_empty() {
            return Ok(());
        }
        self.raw(b"\n")?;
        let rows = e
            .nodes
            .iter()
            .map(|n| {
                vec![
                    Text::from(if n.name.is_empty() { n.node.to_string() } else { n.name.clone() }),
                    if n.fits { Text::new("yes", Tone::Good) } else { Text::new("no", Tone::Warn) },
                    Text::from(n.score.map_or_else(String::new, |s| s.to_string())),
                    Text::from(&n.reason),
                ]
            })
            .collect();
        self.table(&["NODE", "FITS", "SCORE", "WHY"], rows)
    }

    /// How tasks ended.
    ///
    /// # Errors
    /// As for [`Output::raw`].
    pub(crate) fn ended(&self, ends: &[Ended]) -> Result<(), Failure> {
        if self.mode() == Mode::Json {
            return self.json(ends);
        }
        if ends.is_empty() {
            return Ok(());
        }
        let rows = ends
            .iter()
            .map(|e| {
                vec![
                    Text::from(e.id),
                    Text::new(e.state.word(), tone(e.state)),
                    Text::from(e.exit_code.map_or_else(String::new, |c| c.to_string())),
                    Text::from(&e.reason),
                ]
            })
            .collect();
        self.table(&["ID", "STATE", "EXIT", "WHY"], rows)
    }
}

fn tone(state: State) -> Tone {
    match state {
        State::Completed => Tone::Good,
        State::Failed | State::Timeout => Tone::Bad,
        State::Cancelled => Tone::Warn,
        State::Pending | State::Scheduled | State::Running => Tone::Plain,
    }
}

fn queue(q: &QueueView) -> String {
    let waiting = q.critical + q.high + q.normal + q.low;
    let parked = if q.parked == 0 { String::new() } else { format!("; no live node can run {} of them", q.parked) };
    let held = if q.held == 0 { String::new() } else { format!("; {} held back: fewer than half of the mesh is in reach", q.held) };
    format!(
        "{waiting} waiting (critical {}, high {}, normal {}, low {}){parked}{held}, {} running, {} ended",
        q.critical, q.high, q.normal, q.low, q.running, q.ended
    )
}

/// The end of a node's id: all ids begin alike.  The whole one is in `--json`.
fn tail(id: &str) -> String {
    let start = id.char_indices().rev().nth(7).map_or(0, |(i, _)| i);
    format!("…{}", id.get(start..).unwrap_or(id))
}

/// Control characters in words that came from elsewhere must not reach a terminal.
pub(crate) fn clean(s: &str) -> String {
    s.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(super) fn clean_lines(s: &str) -> String {
    s.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// Now by the wall clock, ms since 1970.
fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// A wall-clock time in UTC to the second.
pub(crate) fn stamp(ms: u64) -> String {
    // Beyond the year 9999 there is no such text.
    if ms > 253_402_300_799_000 {
        return "?".to_owned();
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// A span in at most two units.
pub(super) fn span(ms: u64) -> String {
    if ms < 10_000 {
        return humantime::format_duration(Duration::from_millis(ms)).to_string();
    }
    let text = humantime::format_duration(Duration::from_secs(ms / 1_000)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// How long ago a moment was, ms since 1970, as people say it.
pub(crate) fn ago_now(then: u64) -> String {
    ago(wall_ms(), then)
}

fn ago(now: u64, then: u64) -> String {
    let s = now.saturating_sub(then) / 1_000;
    if s == 0 { "now".to_owned() } else { format!("{} ago", span(s * 1_000)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_and_never_panic() {
        assert_eq!(span(1_500), "1s 500ms");
        assert_eq!(span(3_725_000), "1h 2m");
        assert_eq!(ago(10_000, 10_400), "now");
        assert_eq!(ago(70_000, 8_000), "1m 2s ago");
        assert_eq!(stamp(u64::MAX), "?");
        assert_eq!(stamp(0), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn an_id_is_shortened_at_its_front() {
        assert_eq!(tail("12D3KooWabcdefgh"), "…abcdefgh");
        assert_eq!(tail("abc"), "…abc");
        assert_eq!(tail(""), "…");
    }

    #[test]
    fn control_characters_of_others_do_not_reach_the_terminal() {
        assert_eq!(clean("a\u{1b}[31mb\nc"), "a [31mb c");
        assert_eq!(clean_lines("a\u{7}\nb"), "a \nb");
    }
}
