//! The demo's account: computed from what the mesh says of each task and from what the demo itself counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use clawmesh_protocol::{
    face::{State, TaskView},
    ids::ShortId,
};
use serde::Serialize;

use crate::output::{Failure, Output, Text, Tone};

/// A task that the mesh has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ack {
    /// Its id.
    pub(super) id: ShortId,
    /// A word for the table.
    pub(super) kind: &'static str,
    /// On how many disks it was when it was acknowledged; none when it was acknowledged to a node that was then killed,
    /// so that the answer never came and the mesh said so when it was sent again.
    pub(super) copies: Option<u32>,
    /// It leaves a line in the tally with each execution.
    pub(super) counted: bool,
}

/// Somebody's time as coordinator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Reign {
    /// Its name.
    pub(super) node: String,
    /// Its epoch.
    pub(super) epoch: u64,
    /// First seen, seconds from the first submit (below zero: before it).
    pub(super) from_s: f64,
    /// Last seen, seconds from the first submit.
    pub(super) until_s: f64,
}

/// One kill and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Kill {
    /// Who was killed.
    pub(super) node: String,
    /// It coordinated.
    pub(super) coordinator: bool,
    /// Seconds from the first submit.
    pub(super) at_s: f64,
    /// Wall clock ms, to compare with the tasks' own times.
    pub(super) at_ms: u64,
    /// From the kill until another node was first seen as the serving coordinator, ms.
    pub(super) takeover_ms: Option<u64>,
    /// Who that is.
    pub(super) successor: Option<String>,
    /// From the kill until a task submitted right after it was acknowledged, ms.
    pub(super) acknowledged_ms: Option<u64>,
    /// Attempts that it cut off, running or waiting for a slot of the node; filled in by [`Report::new`].
    pub(super) cut_off: usize,
}

/// What the demo itself counted, beside the tasks.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    /// Tasks the demo meant to submit.
    pub(super) submitted: usize,
    /// Tasks the mesh refused, each with its sentence.
    pub(super) refused: Vec<String>,
    /// Submits that a kill cut off and that were sent again.
    pub(super) sent_again: usize,
    /// Who coordinated when.
    pub(super) reigns: Vec<Reign>,
    /// The kills.
    pub(super) kills: Vec<Kill>,
    /// The tally's lines.
    pub(super) tally: String,
    /// Outputs that were compared with what they must be.
    pub(super) checked: usize,
    /// Those that were wrong, each with a sentence.
    pub(super) wrong: Vec<String>,
    /// From the first submit to the last outcome, seconds.
    pub(super) seconds: f64,
    /// The silence after which a node counts as lost, seconds.
    pub(super) lost_after_s: u64,
}

/// The account.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    /// Tasks the demo meant to submit.
    pub(super) submitted: usize,
    /// Of these, acknowledged by the mesh.
    pub(super) acknowledged: usize,
    /// Refused, with the reasons.
    pub(super) refused: Vec<String>,
    /// Ended well.
    pub(super) completed: usize,
    /// Ended otherwise: failed, cancelled or timed out; printed ids.
    pub(super) failed: Vec<String>,
    /// Acknowledged and without an outcome, or unknown to the mesh; printed ids.  Must be empty.
    pub(super) lost: Vec<String>,
    /// Tasks with more than one attempt, by the mesh's own records.  An upper bound: an attempt that was given to a worker and
    /// still waited there when the worker was killed looks the same as one that ran; one that was given back does not count.
    pub(super) executed_more_than_once: usize,
    /// How attempts other than the deciding ones ended, and how many.
    pub(super) other_attempts: BTreeMap<String, usize>,
    /// Tasks that left a line each time they were executed.
    pub(super) tallied: usize,
    /// Of these, executed more than once by their own lines.
    pub(super) tallied_more_than_once: usize,
    /// Of these, completed and yet without a line.  Must be 0.
    pub(super) tallied_never: usize,
    /// Tasks that other nodes had when a coordinator was killed, and that ended in their first attempt.
    pub(super) ran_on: usize,
    /// Submits that a kill cut off and that were sent again.
    pub(super) sent_again: usize,
    /// Tasks by the number of disks they were on when acknowledged.
    pub(super) copies: BTreeMap<u32, usize>,
    /// Outputs that were compared with what they must be.
    pub(super) checked: usize,
    /// Those that were wrong.
    pub(super) wrong: Vec<String>,
    /// Who coordinated when.
    pub(super) coordinators: Vec<Reign>,
    /// The kills.
    pub(super) kills: Vec<Kill>,
    /// Completed tasks by kind and node.
    pub(super) ran: BTreeMap<String, BTreeMap<String, usize>>,
    /// From the first submit to the last outcome, seconds.
    pub(super) seconds: f64,
    /// The silence after which a node counts as lost, seconds.
    pub(super) lost_after_s: u64,
}

impl Report {
    /// Puts the account together.
    pub(super) fn new(acks: &[Ack], views: &[TaskView], counted: Counted) -> Self {
        let by_id: HashMap<ShortId, &TaskView> = views.iter().map(|v| (v.id, v)).collect();
        let mut lines: HashMap<&str, usize> = HashMap::new();
        for id in counted.tally.lines().filter_map(|l| l.split_whitespace().next()) {
            *lines.entry(id).or_default() += 1;
        }
        let mut r = Self {
            submitted: counted.submitted,
            acknowledged: acks.len(),
            refused: counted.refused,
            completed: 0,
            failed: Vec::new(),
            lost: Vec::new(),
            executed_more_than_once: 0,
            other_attempts: BTreeMap::new(),
            tallied: 0,
            tallied_more_than_once: 0,
            tallied_never: 0,
            ran_on: 0,
            sent_again: counted.sent_again,
            copies: BTreeMap::new(),
            checked: counted.checked,
            wrong: counted.wrong,
            coordinators: counted.reigns,
            kills: counted.kills,
            ran: BTreeMap::new(),
            seconds: counted.seconds,
            lost_after_s: counted.lost_after_s,
        };
        for ack in acks {
            if let Some(copies) = ack.copies {
                *r.copies.entry(copies).or_default() += 1;
            }
            r.add(ack, by_id.get(&ack.id).copied(), lines.get(ack.id.to_string().as_str()).copied().unwrap_or(0));
        }
        r
    }

    fn add(&mut self, ack: &Ack, view: Option<&TaskView>, lines: usize) {
        let Some(v) = view.filter(|v| v.state.ended()) else {
            self.lost.push(ack.id.to_string());
            return;
        };
        let done = v.state == State::Completed;
        if done {
            self.completed += 1;
        } else {
            self.failed.push(ack.id.to_string());
        }
        if ack.counted {
            self.tallied += 1;
            self.tallied_more_than_once += usize::from(lines > 1);
            self.tallied_never += usize::from(done && lines == 0);
        }
        // One that a worker gave back was not started.
        let started = v.attempts.iter().filter(|a| a.state != "returned").count() + v.attempts_dropped as usize;
        self.executed_more_than_once += usize::from(started > 1);
        let deciding = v.attempts.iter().rfind(|a| a.state == v.state.word());
        for a in v.attempts.iter().filter(|a| Some(*a) != deciding) {
            *self.other_attempts.entry(a.state.clone()).or_default() += 1;
            let by = |k: &&mut Kill| {
                a.state != "returned" && k.node == a.name && a.started_at <= k.at_ms && a.ended_at.is_none_or(|e| e >= k.at_ms)
            };
            if let Some(k) = self.kills.iter_mut().find(by) {
                k.cut_off += 1;
            }
        }
        if let Some(a) = deciding.filter(|_| done) {
            *self.ran.entry(ack.kind.to_owned()).or_default().entry(a.name.clone()).or_default() += 1;
            let through = |k: &Kill| k.coordinator && a.started_at < k.at_ms && a.ended_at.is_some_and(|e| e > k.at_ms) && a.name != k.node;
            self.ran_on += usize::from(started == 1 && self.kills.iter().any(through));
        }
    }

    /// What went wrong, as a sentence; none when all is well.
    pub(super) fn trouble(&self) -> Option<String> {
        let mut wrong = Vec::new();
        let first = |ids: &[String]| ids.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        if !self.lost.is_empty() {
            wrong.push(format!("{} acknowledged tasks have no outcome ({})", self.lost.len(), first(&self.lost)));
        }
        if !self.failed.is_empty() {
            wrong.push(format!("{} tasks did not complete ({})", self.failed.len(), first(&self.failed)));
        }
        if self.acknowledged < self.submitted {
            let why = self.refused.first().map_or_else(|| "no answer came".to_owned(), Clone::clone);
            wrong.push(format!("{} tasks were not acknowledged ({why})", self.submitted - self.acknowledged));
        }
        if !self.wrong.is_empty() {
            wrong.push(format!("{} outputs are wrong ({})", self.wrong.len(), first(&self.wrong)));
        }
        if self.tallied_never > 0 {
            wrong.push(format!("{} tasks count as completed and were never executed", self.tallied_never));
        }
        if let Some(k) = self.kills.iter().find(|k| k.coordinator && k.takeover_ms.is_none()) {
            wrong.push(format!("nobody took over after {} was killed", k.node));
        }
        if wrong.is_empty() { None } else { Some(wrong.join("; ")) }
    }

    /// For people, on stdout; or as one JSON object.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn print(&self, output: &Output) -> Result<(), Failure> {
        output.value(self, |o| {
            o.line("")?;
            o.raw(self.figures().as_bytes())?;
            o.line("\nWho coordinated when (seconds from the first submit)")?;
            o.table(&["  NODE", "EPOCH", "FROM", "UNTIL"], self.coordinators.iter().map(reign_row).collect())?;
            o.line("\nWhere completed tasks ran")?;
            let (head, rows) = self.places();
            o.table(&head.iter().map(String::as_str).collect::<Vec<_>>(), rows)
        })
    }

    fn figures(&self) -> String {
        let copies = self.copies.iter().map(|(c, n)| format!("{n} on {c} {}", plural(*c as usize, "disk"))).collect::<Vec<_>>().join(", ");
        let mut text = format!(
            "submitted                {}\nacknowledged             {} ({copies})\ncompleted                {}\nfailed                   {}\nlost                     {}\n",
            self.submitted,
            self.acknowledged,
            self.completed,
            self.failed.len(),
            self.lost.len(),
        );
        let others = self.other_attempts.iter().map(|(how, n)| format!("{n} {how}")).collect::<Vec<_>>().join(", ");
        let others = if others.is_empty() { String::new() } else { format!(" (attempts that decided nothing: {others})") };
        text.push_str(&format!("executed more than once  at most {}{others}\n", self.executed_more_than_once));
        text.push_str(&format!(
            "  by their own lines     {} of {} tasks that wrote one at each start\n",
            self.tallied_more_than_once, self.tallied
        ));
        text.push_str(&format!("outputs checked          {}, wrong {}\n", self.checked, self.wrong.len()));
        if self.sent_again > 0 {
            text.push_str(&format!(
                "sent again               {} (a kill cut the submit off; their keys keep them single)\n",
                self.sent_again
            ));
        }
        text.push_str(&format!("time                     {:.1} s\n", self.seconds));
        for k in &self.kills {
            text.push_str(&self.kill_line(k));
        }
        text
    }

    fn kill_line(&self, k: &Kill) -> String {
        if !k.coordinator {
            return format!(
                "{:>6.1} s  SIGKILL to {}, a worker; {} attempts cut off, made again after {} s of silence (--lost-after; the default is 60 s)\n",
                k.at_s, k.node, k.cut_off, self.lost_after_s
            );
        }
        let ms = |v: Option<u64>| v.map_or_else(|| "never".to_owned(), |v| format!("{v} ms"));
        format!(
            "{:>6.1} s  SIGKILL to {}, the coordinator; takeover by {} after {}, next task acknowledged after {}; {} attempts cut off, {} on other nodes went on\n",
            k.at_s,
            k.node,
            k.successor.as_deref().unwrap_or("nobody"),
            ms(k.takeover_ms),
            ms(k.acknowledged_ms),
            k.cut_off,
            self.ran_on
        )
    }

    fn places(&self) -> (Vec<String>, Vec<Vec<Text>>) {
        let nodes: BTreeSet<&String> = self.ran.values().flat_map(BTreeMap::keys).collect();
        let head = std::iter::once("  KIND".to_owned()).chain(nodes.iter().map(|n| n.to_uppercase())).chain(["ALL".to_owned()]).collect();
        let row = |kind: &str, count: &dyn Fn(&str) -> usize, tone: Tone| -> Vec<Text> {
            let all: usize = nodes.iter().map(|n| count(n)).sum();
            let mut row = vec![Text::new(format!("  {kind}"), tone)];
            row.extend(nodes.iter().map(|n| Text::new(count(n), tone)));
            row.push(Text::new(all, tone));
            row
        };
        let mut rows: Vec<_> =
            self.ran.iter().map(|(kind, on)| row(kind, &|n: &str| on.get(n).copied().unwrap_or(0), Tone::Plain)).collect();
        rows.push(row("all", &|n: &str| self.ran.values().filter_map(|on| on.get(n)).sum(), Tone::Good));
        (head, rows)
    }
}

fn reign_row(r: &Reign) -> Vec<Text> {
    vec![
        Text::from(format!("  {}", r.node)),
        Text::from(r.epoch),
        Text::from(format!("{:.1}", r.from_s)),
        Text::from(format!("{:.1}", r.until_s)),
    ]
}

fn plural(n: usize, word: &str) -> String {
    if n == 1 { word.to_owned() } else { format!("{word}s") }
}
