//! The extension `io.modelcontextprotocol/tasks` (SEP-2663): a call that takes long is answered with a task, which the client
//! polls.  The mesh's own tasks stand behind it, with their own ids, so a handle outlives this process and the node.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clawmesh_protocol::face::{State, TaskView};
use rmcp::model::{CreateTaskResult, DetailedTask, GetTaskResult, Task, TaskPayload, TaskStatus};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    CALL_MAX,
    args::ResultOf,
    calls::{Complaint, Mesh},
    views::TaskReport,
};

/// Pause between two polls that the client is asked to make.
const POLL_MS: u64 = 1_000;
/// How long the mesh remembers tasks that have ended.
const TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// The handle of a task that was just acknowledged.
pub(super) fn created(report: &TaskReport) -> CreateTaskResult {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    CreateTaskResult::new(handle(&report.task, TaskStatus::Working, now, now, &report.next))
}

/// `tasks/get`: the state, and at the end what the tool would have answered.
///
/// # Errors
/// No such task, or no node.
pub(super) async fn get(mesh: &Mesh, id: &str) -> Result<GetTaskResult, Complaint> {
    let view = mesh.task(id, Instant::now() + CALL_MAX).await?;
    let payload = match view.state {
        State::Cancelled => TaskPayload::Cancelled,
        state if !state.ended() => TaskPayload::Working,
        _ => {
            let wanted = ResultOf { task: view.id.to_string(), offset: None, max_bytes: None, base64: false };
            let call = mesh.result(wanted).await?.as_call();
            match serde_json::to_value(call) {
                Ok(Value::Object(result)) => TaskPayload::Completed { result },
                _ => TaskPayload::Working,
            }
        }
    };
    Ok(GetTaskResult::new(DetailedTask::new(seed(&view), payload)))
}

fn seed(view: &TaskView) -> Task {
    let since = view.attempts.last().map_or(view.submitted_at, |a| a.started_at);
    let updated = view.ended_at.unwrap_or(since);
    let what = if view.reason.is_empty() { view.state.word() } else { &view.reason };
    handle(&view.id.to_string(), TaskStatus::Working, view.submitted_at, updated, what)
}

fn handle(id: &str, status: TaskStatus, created_ms: u64, updated_ms: u64, what: &str) -> Task {
    let time = |ms: u64| {
        // Beyond the year 9999 there is no such notation, and no such task.
        let at = UNIX_EPOCH + Duration::from_millis(ms.min(253_402_300_799_000));
        humantime::format_rfc3339_millis(at).to_string()
    };
    Task::new(id, status, time(created_ms), time(updated_ms))
        .with_status_message(what)
        .with_ttl_ms(u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX))
        .with_poll_interval_ms(POLL_MS)
}
