//! What each tool does: questions to the node of this home, each with the deadline of its call.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use backon::{ConstantBuilder, Retryable};
use clawmesh_protocol::face::{MemberView, SkillView, State, TaskView};
use data_encoding::BASE32_NOPAD;
use futures::{StreamExt, pin_mut};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    CALL_MAX, WAIT_MAX,
    args::{EXCERPT_MAX, ListNodes, ListSkills, ResultOf, Status, Submit, Wait, id_of, wait_of},
    progress::Progress,
    views::{Excerpt, MeshReport, NodeList, NodeReport, Part, SkillList, SkillReport, StatusReport, TaskReport, Verdict, Waited},
};
use crate::{
    api::types::{Captures, WaitFor},
    client::{Client, ClientError},
    output::Failure,
};

/// One question to the node's long poll: short, so that a node that went away is noticed and progress can be told.
const POLL: Duration = Duration::from_secs(5);
/// The shortest of them.
const LOOK: Duration = Duration::from_millis(500);
/// Pause before a question is asked again, and how often: twelve seconds, enough for an election.
const AGAIN: Duration = Duration::from_millis(300);
const AGAIN_MAX: usize = 40;
/// Nodes and placement verdicts in one answer.
const NODES_MAX: usize = 100;
/// Bytes of the output of a running task that are looked at.
const LIVE_MAX: usize = 1 << 20;
/// Bytes of all outputs in one answer of `wait`, shared by its tasks.
const WAITED_MAX: usize = 64 << 10;

/// Why a call has no result, for a model: what happened, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    /// The kind in one word, stable for programs; those of the API.
    pub(super) code: String,
    /// What happened.
    pub(super) what: String,
    /// What to do next: a command for a person, or a call.
    pub(super) next: Option<String>,
    /// Ids or names that were perhaps meant; at most 10.
    pub(super) candidates: Vec<String>,
}

impl Complaint {
    /// The arguments are wrong.
    pub(super) fn invalid(what: impl Into<String>) -> Self {
        Self { code: "invalid".into(), what: what.into(), next: None, candidates: Vec::new() }
    }
    /// The call has lasted as long as it may.
    pub(super) fn late() -> Self {
        Self {
            code: "timeout".into(),
            what: "the mesh did not answer in time: perhaps its node hangs, or nobody coordinates".into(),
            next: Some("call 'status', and then the same again".into()),
            candidates: Vec::new(),
        }
    }
    fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl From<ClientError> for Complaint {
    fn from(e: ClientError) -> Self {
        let f = Failure::from(e);
        let next = match f.code.as_str() {
            "unknown_skill" => Some("call list_skills".to_owned()),
            "unknown_node" => Some("call list_nodes".to_owned()),
            _ => f.next.map(|cmd| format!("in a terminal on this machine: {cmd}")),
        };
        Self { code: f.code, what: f.what, next, candidates: f.candidates }
    }
}

/// The mesh as the tools see it: the node of one home.
#[derive(Debug, Clone)]
pub(super) struct Mesh {
    home: PathBuf,
}

impl Mesh {
    /// The node of this home, whether it runs or not.
    pub(super) fn of(home: &Path) -> Self {
        Self { home: home.to_owned() }
    }

    /// Asks until there is an answer that is worth telling, for twelve seconds at most and not beyond the deadline.
    /// A node that is not there is told at once.
    async fn ask<T, F>(&self, deadline: Instant, question: impl Fn(Client) -> F) -> Result<T, Complaint>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        // Opened each time: a node that was started again has another port.
        let once = || async { question(Client::open(&self.home)?).await };
        let pauses = ConstantBuilder::default().with_delay(AGAIN).with_max_times(AGAIN_MAX);
        let asked = once.retry(pauses).when(|e| e.unreachable() && !gone(e));
        match tokio::time::timeout_at(deadline, asked).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Complaint::late()),
        }
    }

    /// Puts a task into the mesh and perhaps waits for it.
    pub(super) async fn submit(&self, wanted: Submit, user: Option<String>, told: &Progress) -> Result<TaskReport, Complaint> {
        let start = Instant::now();
        let wait = wait_of(wanted.wait_seconds, Duration::ZERO)?;
        let key = wanted.key.clone().unwrap_or_else(|| format!("mcp-{}", BASE32_NOPAD.encode(&rand::random::<[u8; 10]>()).to_lowercase()));
        let body = wanted.body(&key, user)?;
        // The key makes it safe to ask again: a second arrival joins the first.
        let asked = self.ask(start + WAIT_MAX, |c| {
            let body = &body;
            async move { c.submit_json(body).await }
        });
        let accepted = asked.await.map_err(|c| match c.code.as_str() {
            "timeout" | "broken" | "no_coordinator" => c.next(format!(
                "the task may be in the mesh all the same: repeat the same call with key '{key}', which cannot make a second one"
            )),
            _ => c,
        })?;
        let id = accepted.id.to_string();
        let until = (start + wait).min(start + WAIT_MAX);
        let mut report = if until > Instant::now() { self.end_of(&id, start, until, told).await? } else { None }.unwrap_or_default();
        if !report.ended {
            report = TaskReport { task: id.clone(), state: "accepted".into(), next: still(&id), ..TaskReport::default() };
        }
        report.key = Some(key);
        report.copies = Some(accepted.copies);
        Ok(report)
    }

    async fn end_of(&self, id: &str, start: Instant, until: Instant, told: &Progress) -> Result<Option<TaskReport>, Complaint> {
        let ids = vec![id.to_owned()];
        match self.gather(&ids, 1, until, told).await {
            Ok(ended) if ended.is_empty() => Ok(None),
            Ok(_) => self.report(id, start + CALL_MAX, Part::default()).await.map(Some),
            // It is in the mesh, and that is what was asked for.
            Err(c) if c.code != "not_found" => Ok(None),
            Err(c) => Err(c),
        }
    }

    /// Waits for the ends of tasks.
    pub(super) async fn wait(&self, wanted: Wait, told: &Progress) -> Result<Waited, Complaint> {
        let start = Instant::now();
        let until = start + wait_of(wanted.wait_seconds, WAIT_MAX)?;
        let ids = wanted.ids()?;
        let min = if wanted.any { 1 } else { ids.len() };
        let done = self.gather(&ids, min, until, told).await?;
        let part = Part { max: (WAITED_MAX / done.len().max(1)).min(super::args::EXCERPT), ..Part::default() };
        let mut ended = Vec::with_capacity(done.len());
        for id in &done {
            ended.push(match self.report(id, start + CALL_MAX, part).await {
                Ok(report) => report,
                // Its end is known; the rest can be asked for by itself.
                Err(c) => {
                    let next = format!("what it wrote could not be fetched in time ({}): call 'result' with task '{id}'", c.what);
                    TaskReport { task: id.clone(), state: "ended".into(), ended: true, next, ..TaskReport::default() }
                }
            });
        }
        let still_running: Vec<String> = ids.into_iter().filter(|id| !done.contains(id)).collect();
        let next = match still_running.as_slice() {
            [] => String::new(),
            [one] => format!("{one} has not ended: call wait again"),
            several => format!("{} have not ended: call wait again", several.join(", ")),
        };
        Ok(Waited { ended, still_running, next })
    }

    /// Those of the tasks that have ended, when `min` have or the time is over.  A node that is started again meanwhile
    /// is waited for.
    async fn gather(&self, ids: &[String], min: usize, until: Instant, told: &Progress) -> Result<Vec<String>, Complaint> {
        let mut done: Vec<String> = Vec::new();
        let mut seen = false;
        loop {
            let open: Vec<String> = ids.iter().filter(|id| !done.contains(id)).cloned().collect();
            // What has ended already is found out in a moment, also by who does not want to wait.
            let left = until.saturating_duration_since(Instant::now()).clamp(LOOK, POLL);
            let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(0);
            let wanted = WaitFor { ids: open.clone(), timeout_ms, min: min.saturating_sub(done.len()).max(1), output: false };
            // Beyond the poll's own end, an answer takes a moment.
            let deadline = Instant::now() + left + Duration::from_secs(2);
            match self.ask(deadline, |c| poll(c, wanted.clone())).await {
                Ok(ends) => {
                    seen = true;
                    done.extend(ends.into_iter().map(|e| e.asked));
                }
                // An election, or a node on its way back: the tasks go on without it.
                Err(c) if matches!(c.code.as_str(), "timeout" | "broken" | "no_coordinator" | "busy" | "stopping") => {}
                Err(c) if c.code == "no_node" && seen && Instant::now() < until => tokio::time::sleep(AGAIN).await,
                Err(c) if c.code == "no_node" && seen => {
                    return Err(Complaint {
                        what: format!("{}; the tasks go on without it", c.what),
                        next: Some("in a terminal on this machine: clawmesh up; then call wait again".into()),
                        ..c
                    });
                }
                Err(c) => return Err(c),
            }
            if done.len() >= min || Instant::now() >= until {
                return Ok(done);
            }
            told.tell(&format!("{} of {} tasks have ended", done.len(), ids.len())).await;
        }
    }

    /// A task, and where it has ended what it wrote.
    async fn report(&self, id: &str, deadline: Instant, part: Part) -> Result<TaskReport, Complaint> {
        let outcome = self.ask(deadline, |c| {
            let id = id.to_owned();
            async move { c.result(&id).await }
        });
        let outcome = outcome.await?;
        let mut report = TaskReport::from(&outcome.task);
        if let Some(out) = &outcome.output {
            with_output(&mut report, out, part);
        }
        Ok(report)
    }

    /// A task with what it wrote, so far or in all.
    pub(super) async fn result(&self, wanted: ResultOf) -> Result<TaskReport, Complaint> {
        let deadline = Instant::now() + CALL_MAX;
        let max = wanted.max_bytes.unwrap_or(super::args::EXCERPT as u64);
        if max == 0 || max > EXCERPT_MAX as u64 {
            return Err(Complaint::invalid(format!("max_bytes is {max}, it must be 1 to {EXCERPT_MAX}; the rest comes with offset")));
        }
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let part = Part { offset: wanted.offset.map(size), max: size(max), base64: wanted.base64 };
        let id = id_of(&wanted.task)?;
        let mut report = self.report(&id, deadline, part).await?;
        if report.ended {
            return Ok(report);
        }
        if report.state == State::Running.word()
            && let Ok(out) = self.live(&id).await
        {
            with_output(&mut report, &out, part);
        }
        report.next = still(&report.task);
        Ok(report)
    }

    /// What a running task has written so far, at most 1 MiB of each stream.
    async fn live(&self, id: &str) -> Result<Captures, Complaint> {
        let read = async {
            let pieces = Client::open(&self.home)?.logs(id, false).await?;
            pin_mut!(pieces);
            let (mut out, mut err) = (Vec::new(), Vec::new());
            while let Some(piece) = pieces.next().await {
                let piece = piece?;
                let stream = if piece.stderr { &mut err } else { &mut out };
                let room = LIVE_MAX.saturating_sub(stream.len());
                stream.extend_from_slice(piece.bytes.get(..piece.bytes.len().min(room)).unwrap_or_default());
            }
            Ok::<_, ClientError>(Captures {
                stdout: String::from_utf8_lossy(&out).into_owned(),
                stderr: String::from_utf8_lossy(&err).into_owned(),
                ..Captures::default()
            })
        };
        match tokio::time::timeout(POLL, read).await {
            Ok(read) => Ok(read?),
            Err(_) => Err(Complaint::late()),
        }
    }

    /// A task with the reasons of its placement, or the mesh.
    pub(super) async fn status(&self, wanted: Status) -> Result<StatusReport, Complaint> {
        let deadline = Instant::now() + CALL_MAX;
        let Some(id) = wanted.task else {
            return Ok(StatusReport { task: None, mesh: Some(self.mesh(deadline).await?) });
        };
        let view = self.task(&id_of(&id)?, deadline).await?;
        let mut report = TaskReport::from(&view);
        if !report.ended {
            let explained = self.ask(deadline, |c| {
                let id = view.id.to_string();
                async move { c.explain(&id).await }
            });
            // It may have ended and be forgotten in between: what is known already is enough.
            if let Ok(e) = explained.await {
                report.reason = if e.verdict.is_empty() { report.reason } else { e.verdict };
                let verdict = |n: clawmesh_protocol::face::NodeVerdict| Verdict { node: n.name, fits: n.fits, reason: n.reason };
                report.placement = e.nodes.into_iter().take(NODES_MAX).map(verdict).collect();
            }
            report.next = format!("call wait with task '{}' until it has ended", report.task);
        }
        Ok(StatusReport { task: Some(report), mesh: None })
    }

    /// A task as the mesh sees it.
    pub(super) async fn task(&self, id: &str, deadline: Instant) -> Result<TaskView, Complaint> {
        let asked = self.ask(deadline, |c| {
            let id = id.to_owned();
            async move { c.task(&id).await }
        });
        asked.await
    }

    async fn mesh(&self, deadline: Instant) -> Result<MeshReport, Complaint> {
        let s = self.ask(deadline, |c| async move { c.status().await }).await?;
        let queue = &s.view.queue;
        Ok(MeshReport {
            nodes_online: s.view.members.iter().filter(|m| is_there(m)).count(),
            nodes: s.view.members.len(),
            waiting: queue.critical + queue.high + queue.normal + queue.low,
            parked: queue.parked,
            running: queue.running,
            mesh: s.mesh,
            node: s.view.name,
            coordinator: s.view.coordinator_name,
            version: s.version,
        })
    }

    /// Asks for a task's end.
    pub(super) async fn cancel(&self, id: &str) -> Result<TaskReport, Complaint> {
        let deadline = Instant::now() + CALL_MAX;
        let id = id_of(id)?;
        let asked = self.ask(deadline, |c| {
            let id = id.clone();
            async move { c.cancel(&id).await }
        });
        let cancelled = asked.await?;
        let mut report = TaskReport {
            task: cancelled.id.to_string(),
            state: cancelled.state.word().to_owned(),
            ended: cancelled.state.ended(),
            ..TaskReport::default()
        };
        if report.ended {
            report.reason = "it had ended before, so nothing was cancelled".into();
        } else {
            report.reason = "its end is asked for, and that is stored".into();
            report.next = format!("call wait with task '{}' to see it end", report.task);
        }
        Ok(report)
    }

    /// The members of the mesh.
    pub(super) async fn nodes(&self, wanted: ListNodes) -> Result<NodeList, Complaint> {
        let all = self.ask(Instant::now() + CALL_MAX, |c| async move { c.nodes().await }).await?;
        let wanted: Vec<&MemberView> = all.iter().filter(|m| !wanted.online_only || is_there(m)).collect();
        Ok(NodeList { total: wanted.len(), nodes: wanted.iter().take(NODES_MAX).map(|m| NodeReport::from(*m)).collect() })
    }

    /// The skills of the mesh.
    pub(super) async fn skills(&self, wanted: ListSkills) -> Result<SkillList, Complaint> {
        let limit = wanted.limit.unwrap_or(50);
        if limit == 0 || limit > 200 {
            return Err(Complaint::invalid(format!("limit is {limit}, it must be 1 to 200")));
        }
        let all = self.ask(Instant::now() + CALL_MAX, |c| async move { c.skills().await }).await?;
        let words: Vec<String> = wanted.query.iter().flat_map(|q| q.split_whitespace()).map(str::to_lowercase).collect();
        let fits = |s: &&SkillView| {
            let text = format!("{} {} {}", s.name, s.description, s.tags.join(" ")).to_lowercase();
            words.iter().all(|w| text.contains(w))
                && wanted.category.as_ref().is_none_or(|c| s.category.eq_ignore_ascii_case(c))
                && wanted.tag.as_ref().is_none_or(|t| s.tags.iter().any(|have| have.eq_ignore_ascii_case(t)))
        };
        let found: Vec<&SkillView> = all.iter().filter(fits).collect();
        let skills: Vec<SkillReport> = found.iter().skip(wanted.offset).take(limit).map(|s| SkillReport::from(*s)).collect();
        let end = wanted.offset.saturating_add(skills.len());
        Ok(SkillList { total: found.len(), next_offset: (end < found.len() && !skills.is_empty()).then_some(end), skills })
    }
}

/// Nobody listens: no use to ask again at once.
fn gone(e: &ClientError) -> bool {
    matches!(e, ClientError::NoNode { .. }) || matches!(e, ClientError::Refused(p) if p.code == "stopping")
}

async fn poll(client: Client, wanted: WaitFor) -> Result<Vec<crate::api::types::Ended>, ClientError> {
    client.wait(&wanted).await
}

fn is_there(m: &MemberView) -> bool {
    matches!(m.state.as_str(), "online" | "draining")
}

fn still(id: &str) -> String {
    format!("it has not ended: call wait with task '{id}'")
}

fn with_output(report: &mut TaskReport, out: &Captures, part: Part) {
    report.stdout = Some(Excerpt::of(&out.stdout_bytes(), out.stdout_cut, part));
    report.stderr = Some(Excerpt::of(&out.stderr_bytes(), out.stderr_cut, part)).filter(|e| e.bytes > 0 || e.lost > 0);
}

/// A complaint for programs, beside its text.
impl From<&Complaint> for Value {
    fn from(c: &Complaint) -> Self {
        json!({ "code": c.code, "message": c.what, "next": c.next, "candidates": c.candidates })
    }
}
