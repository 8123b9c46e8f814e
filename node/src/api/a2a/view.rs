//! How a task of the mesh looks in A2A.

use std::time::{Duration, UNIX_EPOCH};

use clawmesh_protocol::face::{State, TaskView};
use serde_json::{Value, json};

use super::{
    super::types::{Captures, Outcome},
    message::USER,
    types::Version,
};

/// Bytes of a stream in one answer; the rest is had by the API or the command line.
const OUTPUT_MAX: usize = 256 << 10;
/// Characters of what an unlucky task wrote to its standard error, in its status.
const WHY_MAX: usize = 2_000;

/// A task with what it wrote.
pub(super) fn task(outcome: &Outcome, version: Version) -> Value {
    let t = &outcome.task;
    let context = t.user.strip_prefix(USER).map_or_else(|| t.id.to_string(), str::to_owned);
    let mut status = json!({ "state": word(t.state, version), "timestamp": time(t.ended_at.unwrap_or(t.submitted_at)) });
    let why = why(t, outcome.output.as_ref());
    if !why.is_empty() {
        let role = if version == Version::V1 { "ROLE_AGENT" } else { "agent" };
        let mut message = json!({
            "messageId": format!("{}-status", t.id), "contextId": context, "taskId": t.id.to_string(), "role": role,
            "parts": [part("text", json!(why), version)],
        });
        kind(&mut message, "message", version);
        status["message"] = message;
    }
    let artifacts: Vec<Value> = outcome.output.as_ref().and_then(|o| artifact(t, o, version)).into_iter().collect();
    let last = t.attempts.last();
    let mut task = json!({
        "id": t.id.to_string(), "contextId": context, "status": status, "artifacts": artifacts, "history": [],
        "metadata": { "node": last.map(|a| a.name.clone()), "exitCode": t.exit_code, "attempts": t.attempts.len(), "title": t.title },
    });
    kind(&mut task, "task", version);
    task
}

/// A task of which no more is known than that it was acknowledged.
pub(super) fn submitted(id: &str, context: Option<&str>, version: Version) -> Value {
    let mut task = json!({ "id": id, "contextId": context.unwrap_or(id), "status": { "state": word(State::Pending, version) } });
    kind(&mut task, "task", version);
    task
}

fn word(state: State, version: Version) -> &'static str {
    let (v1, v03) = match state {
        State::Pending | State::Scheduled => ("TASK_STATE_SUBMITTED", "submitted"),
        State::Running => ("TASK_STATE_WORKING", "working"),
        State::Completed => ("TASK_STATE_COMPLETED", "completed"),
        // A time limit that somebody set is one way to fail.
        State::Failed | State::Timeout => ("TASK_STATE_FAILED", "failed"),
        State::Cancelled => ("TASK_STATE_CANCELED", "canceled"),
    };
    if version == Version::V1 { v1 } else { v03 }
}

/// Why it is in its state, and for a failure the end of its standard error.
fn why(t: &TaskView, output: Option<&Captures>) -> String {
    if t.state == State::Completed {
        return String::new();
    }
    let mut why = t.reason.clone();
    if matches!(t.state, State::Failed | State::Timeout)
        && let Some(err) = output.map(|o| o.stderr.trim()).filter(|e| !e.is_empty())
    {
        let skip = err.chars().count().saturating_sub(WHY_MAX);
        let tail: String = err.chars().skip(skip).collect();
        if !why.contains(&tail) {
            why = if why.is_empty() { tail } else { format!("{why}\n{tail}") };
        }
    }
    why
}

/// Standard output: as data where it is a JSON object or list, else as text.
fn artifact(t: &TaskView, out: &Captures, version: Version) -> Option<Value> {
    if out.stdout.is_empty() && out.stdout_cut == 0 {
        return None;
    }
    let whole = out.stdout.len() <= OUTPUT_MAX && out.stdout_cut == 0;
    let parsed = whole.then(|| serde_json::from_str::<Value>(&out.stdout).ok()).flatten().filter(|v| v.is_object() || v.is_array());
    let content = match parsed {
        // 0.3 has objects only in this place.
        Some(data) if version == Version::V1 || data.is_object() => part("data", data, version),
        _ => {
            let end = (0..=out.stdout.len().min(OUTPUT_MAX)).rev().find(|i| out.stdout.is_char_boundary(*i)).unwrap_or(0);
            part("text", json!(out.stdout.get(..end).unwrap_or_default()), version)
        }
    };
    Some(json!({
        "artifactId": format!("{}-stdout", t.id), "name": "stdout", "parts": [content],
        "metadata": { "bytes": out.stdout.len(), "truncated": !whole },
    }))
}

fn part(name: &str, value: Value, version: Version) -> Value {
    let mut part = json!({ name: value });
    kind(&mut part, name, version);
    part
}

/// 0.3 says of each thing what it is.
fn kind(thing: &mut Value, name: &str, version: Version) {
    if version == Version::V03 {
        thing["kind"] = json!(name);
    }
}

fn time(ms: u64) -> String {
    // Beyond the year 9999 there is no such notation, and no such task.
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms.min(253_402_300_799_000))).to_string()
}
