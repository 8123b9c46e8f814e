//! Agent2Agent (A2A) 1.0, so that agents of any make can submit with nothing installed: a card with one A2A skill per skill of
//! the mesh, and JSON-RPC at `/a2a/v1` with `SendMessage`, `GetTask`, `CancelTask` and the names that 0.3 has for them.
//!
//! A message becomes a task of the mesh, and the ids are the mesh's own, so nothing is kept here: which conversation a task
//! belongs to stands in its `user` field, and a message that arrives twice joins its task by an idempotency key.
//! `types` is what travels, `message` which task a message means, `view` how a task looks.

mod card;
mod message;
#[cfg(test)]
mod tests;
mod types;
mod view;

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use clawmesh_protocol::face::State as TaskState;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(super) use self::card::card;
use self::types::{Fault, Rpc, SendParams, TaskParams, Version};
use super::{
    routes::App,
    tasks,
    types::{Accepted, Outcome, Problem, WaitFor},
    wait,
};

/// Largest request, bytes: OpenClaw's own bound.
const BODY_MAX: usize = 1 << 20;
/// How long `SendMessage` waits for the end unless it is told not to; below the patience of common HTTP clients (30 s and more).
const WAIT: Duration = Duration::from_secs(25);
/// Largest answer of another handler that is read, bytes.
const ANSWER_MAX: usize = 64 << 10;

/// `POST /a2a/v1`.  Faults are answers of JSON-RPC, with status 200.
pub(super) async fn rpc(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    let (id, answer) = match read(&app, body).await {
        Ok(rpc) => {
            let id = rpc.id.clone().filter(|id| id.is_string() || id.is_number()).unwrap_or(Value::Null);
            (id, serve(&app, &headers, rpc).await)
        }
        Err(fault) => (Value::Null, Err(fault)),
    };
    let said = match answer {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(fault) => json!({ "jsonrpc": "2.0", "id": id, "error": fault }),
    };
    (StatusCode::OK, Json(said)).into_response()
}

async fn read(app: &App, body: Body) -> Result<Rpc, Fault> {
    let bytes = app.body(body).await?;
    if bytes.len() > BODY_MAX {
        return Err(Fault::invalid_request(format!(
            "a request has at most {BODY_MAX} bytes: submit large inputs by the API or the command line"
        )));
    }
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| Fault::new(-32700, format!("the body is not JSON: {e}")))?;
    if value.is_array() {
        return Err(Fault::invalid_request("batches are not taken: send one request at a time"));
    }
    let rpc: Rpc = serde_json::from_value(value).map_err(|e| Fault::invalid_request(format!("this is no JSON-RPC request: {e}")))?;
    if rpc.jsonrpc == "2.0" { Ok(rpc) } else { Err(Fault::invalid_request("'jsonrpc' must be \"2.0\"")) }
}

async fn serve(app: &Arc<App>, headers: &HeaderMap, rpc: Rpc) -> Result<Value, Fault> {
    let asked = headers.get("a2a-version").and_then(|v| v.to_str().ok()).map(str::trim).unwrap_or_default();
    if !asked.is_empty() && !["1.0", "0.3"].iter().any(|v| asked == *v || asked.starts_with(&format!("{v}."))) {
        return Err(Fault::new(-32009, format!("version '{asked}' of A2A is not spoken here; 1.0 and 0.3 are")));
    }
    match rpc.method.as_str() {
        "SendMessage" => send(app, params(rpc.params)?, Version::V1).await,
        "message/send" => send(app, params(rpc.params)?, Version::V03).await,
        "GetTask" => get(app, params(rpc.params)?, Version::V1).await,
        "tasks/get" => get(app, params(rpc.params)?, Version::V03).await,
        "CancelTask" => cancel(app, params(rpc.params)?, Version::V1).await,
        "tasks/cancel" => cancel(app, params(rpc.params)?, Version::V03).await,
        known if types::UNSUPPORTED.contains(&known) => {
            Err(Fault::new(-32004, format!("{known} is not offered; SendMessage, GetTask and CancelTask are")))
        }
        other => Err(Fault::new(-32601, format!("there is no method '{other}'; there are SendMessage, GetTask and CancelTask"))),
    }
}

fn params<T: DeserializeOwned>(given: Value) -> Result<T, Fault> {
    serde_json::from_value(given).map_err(|e| Fault::invalid(format!("the params are not those of this method: {e}")))
}

async fn send(app: &Arc<App>, params: SendParams, version: Version) -> Result<Value, Fault> {
    let wanted = message::task_of(app, &params).await?;
    let accepted: Accepted = answer_of(tasks::submit(State(app.clone()), Body::from(wanted.to_string())).await?).await?;
    let id = accepted.id.to_string();
    if params.waits() {
        let wanted = WaitFor { ids: vec![id.clone()], timeout_ms: u64::try_from(WAIT.as_millis()).unwrap_or(0), min: 1, output: false };
        let body = serde_json::to_vec(&wanted).map_err(|e| Fault::internal(e.to_string()))?;
        // Whether it has ended is seen below; that nobody could wait just now is no reason to lose its id.
        if let Err(p) = wait::wait(State(app.clone()), Body::from(body)).await {
            tracing::debug!(task = id, why = p.detail, "no wait for a task of A2A");
        }
    }
    let task = match tasks::result(State(app.clone()), Path(id.clone())).await {
        Ok(Json(outcome)) => view::task(&outcome, version),
        // Acknowledged, and the coordinator has changed since: it is there, and its state can be asked for.
        Err(_) => view::submitted(&id, params.context(), version),
    };
    Ok(match version {
        Version::V1 => json!({ "task": task }),
        Version::V03 => task,
    })
}

async fn get(app: &Arc<App>, params: TaskParams, version: Version) -> Result<Value, Fault> {
    Ok(view::task(&outcome(app, params.id).await?, version))
}

async fn cancel(app: &Arc<App>, params: TaskParams, version: Version) -> Result<Value, Fault> {
    let before = outcome(app, params.id).await?;
    let id = before.task.id.to_string();
    let Json(cancelled) = tasks::cancel(State(app.clone()), Path(id.clone())).await?;
    if cancelled.state.ended() && cancelled.state != TaskState::Cancelled {
        return Err(Fault::new(-32002, format!("{id} has already ended as {}", cancelled.state.word())));
    }
    Ok(view::task(&outcome(app, id).await.unwrap_or(before), version))
}

/// A task with its output, by its whole id: a prefix is for people.
async fn outcome(app: &Arc<App>, id: String) -> Result<Outcome, Fault> {
    if serde_json::from_value::<clawmesh_protocol::ids::ShortId>(Value::String(id.clone())).is_err() {
        return Err(Fault::not_found(&id));
    }
    let Json(outcome) = tasks::result(State(app.clone()), Path(id)).await?;
    Ok(outcome)
}

/// The answer of the API's own handler.
async fn answer_of<T: DeserializeOwned>(response: Response) -> Result<T, Fault> {
    let bytes = axum::body::to_bytes(response.into_body(), ANSWER_MAX).await.map_err(|e| Fault::internal(e.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|e| Fault::internal(format!("BUG: the API's own answer is not readable: {e}")))
}

impl From<Problem> for Fault {
    fn from(p: Problem) -> Self {
        let code = match p.code.as_str() {
            "not_found" | "ambiguous" => -32001,
            "invalid" | "unknown_skill" | "unknown_node" => -32602,
            "too_large" => -32600,
            _ => -32603,
        };
        let mut fault = Self::new(code, p.detail.clone());
        // Google's error details, which A2A 1.0 names for this place.
        fault.data = Some(json!([{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": p.code.to_uppercase(),
            "domain": "clawmesh",
            "metadata": { "next": p.next, "candidates": p.candidates.join(", ") },
        }]));
        fault
    }
}
