//! Routes of tasks: submit, list, show, result, logs, explain, cancel.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use clawmesh_protocol::{
    codec,
    face::{
        Answer, Command, DataView, ExplainView, NewTask, Query as Ask, Refusal, Reply, ResultView, SUBMIT_MAX, State as TaskState,
        Submitted, TaskView,
    },
    files::hint,
    ids::{Peer, ShortId},
    record::Captured,
    spec::{Spec, split},
};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::Value;

use super::{
    backend::LogStream,
    routes::{App, query_of, resolve_node, unexpected},
    types::{Accepted, Batch, Cancelled, Captures, Entry, Outcome, Page, Problem},
};

/// Payload writes under way at once for one request.
const STORES_MAX: usize = 32;
/// Longest wait for the acknowledgement of a submit: durable copies, perhaps after an election.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for a result's bytes from the node that ran it.
const DATA_TIMEOUT: Duration = Duration::from_secs(30);
/// Tasks of a page when `limit` is left out.
const PAGE: u32 = 50;
/// Pause between two looks at a task that has not started, for somebody who follows its output.
const LOOK: Duration = Duration::from_millis(200);
/// Looks for an attempt's output that is nowhere: 4 s in all, within the patience of every client.
const LOOKS_MAX: u32 = 20;
/// The code of that problem.
const UNAVAILABLE: &str = "output_unavailable";
/// Largest frame of output made here, bytes.
const FRAME_MAX: usize = 64 << 10;

/// One task, or several.
enum Wanted {
    One(Box<NewTask>),
    Many(Vec<NewTask>),
}

/// `POST /tasks`: one task or an array of at most 10,000.
pub(super) async fn submit(State(app): State<Arc<App>>, body: Body) -> Result<Response, Problem> {
    let body = app.body(body).await?;
    match parse(&app, &body).await? {
        Wanted::One(task) => {
            drop(body);
            match submit_all(&app, vec![*task]).await?.into_iter().next() {
                Some(Ok(done)) => Ok((StatusCode::CREATED, Json(done)).into_response()),
                Some(Err(problem)) => Err(problem),
                None => Err(Problem::internal("BUG: one task was submitted and no answer came")),
            }
        }
        Wanted::Many(tasks) => {
            drop(body);
            let entries = submit_all(&app, tasks).await?;
            let tasks = entries.into_iter().map(|e| e.map_or_else(|error| Entry::Refused { error }, Entry::Accepted)).collect();
            Ok(Json(Batch { tasks }).into_response())
        }
    }
}

/// Reads the body; where that fails because a node is named by its name, reads it again with the names resolved.
async fn parse(app: &App, body: &[u8]) -> Result<Wanted, Problem> {
    let many = body.iter().find(|c| !c.is_ascii_whitespace()) == Some(&b'[');
    let direct =
        if many { serde_json::from_slice(body).map(Wanted::Many) } else { serde_json::from_slice(body).map(|t| Wanted::One(Box::new(t))) };
    let wanted = match direct {
        Ok(wanted) => wanted,
        Err(e) => by_name(app, body, &e).await?,
    };
    match &wanted {
        Wanted::Many(tasks) if tasks.is_empty() => Err(Problem::invalid("the array holds no task")),
        Wanted::Many(tasks) if tasks.len() > SUBMIT_MAX => {
            Err(Problem::invalid(format!("the array holds {} tasks, at most {SUBMIT_MAX} are taken at once", tasks.len())))
        }
        _ => Ok(wanted),
    }
}

async fn by_name(app: &App, body: &[u8], direct: &serde_json::Error) -> Result<Wanted, Problem> {
    let wrong = |e: &dyn std::fmt::Display| Problem::invalid(format!("the JSON is not a task: {e}"));
    let mut value: Value = serde_json::from_slice(body).map_err(|_| wrong(direct))?;
    let named = |t: &Value| t.get("pin").and_then(Value::as_str).is_some_and(|p| p.parse::<Peer>().is_err());
    let any = value.as_array().map_or_else(|| named(&value), |a| a.iter().any(named));
    if !any {
        return Err(wrong(direct));
    }
    let members = app.view().await?.members;
    let fix = |t: &mut Value| -> Result<NewTask, Problem> {
        if let Some(pin) = t.get_mut("pin")
            && let Some(name) = pin.as_str()
        {
            *pin = Value::String(resolve_node(name, &members)?.to_string());
        }
        serde_json::from_value(t.take()).map_err(|e| wrong(&e))
    };
    match value.as_array_mut() {
        Some(all) => all.iter_mut().map(fix).collect::<Result<_, _>>().map(Wanted::Many),
        None => fix(&mut value).map(|t| Wanted::One(Box::new(t))),
    }
}

/// Splits, stores the payloads, submits; one answer per task in order.
async fn submit_all(app: &App, tasks: Vec<NewTask>) -> Result<Vec<Result<Accepted, Problem>>, Problem> {
    let prepared: Vec<Result<Spec, Problem>> = stream::iter(tasks).map(|t| prepare(app, t)).buffered(STORES_MAX).collect().await;
    let mut specs = Vec::with_capacity(prepared.len());
    let mut answers: Vec<Option<Problem>> = Vec::with_capacity(prepared.len());
    for p in prepared {
        match p {
            Ok(spec) => {
                specs.push(spec);
                answers.push(None);
            }
            Err(problem) => answers.push(Some(problem)),
        }
    }
    let mut replies = if specs.is_empty() { Vec::new() } else { acknowledged(app, specs).await? }.into_iter();
    Ok(answers
        .into_iter()
        .map(|refused| match refused {
            Some(problem) => Err(problem),
            None => match replies.next() {
                Some(Ok(s)) => {
                    if let Some(task) = s.task {
                        app.waits.remember(s.id, task);
                    }
                    Ok(Accepted { id: s.id, copies: s.copies })
                }
                Some(Err(refusal)) => Err(refusal.into()),
                None => Err(Problem::internal("BUG: the core answered for fewer tasks than were submitted")),
            },
        })
        .collect())
}

async fn prepare(app: &App, mut task: NewTask) -> Result<Spec, Problem> {
    let holders = super::blobs::inputs(app, &mut task).await?;
    let (mut need, work) = split(&task).map_err(Problem::invalid)?;
    drop(task);
    if !holders.is_empty() {
        let bytes = need.input_bytes;
        hint(&mut need, holders, bytes);
    }
    match app.backend().store_payload(work).await {
        Ok(payload) => Ok(Spec { need, payload }),
        Err(e) => Err(Refusal::Full { message: format!("the task's input could not be stored: {e}") }.into()),
    }
}

async fn acknowledged(app: &App, specs: Vec<Spec>) -> Result<Vec<Result<Submitted, Refusal>>, Problem> {
    match app.call_within(Command::Submit(specs), SUBMIT_TIMEOUT).await {
        Ok(Reply::Submitted(replies)) => Ok(replies),
        Ok(other) => Err(unexpected(&other)),
        Err(mut p) if p.code == "timeout" => {
            p.detail.push_str(". The task may still be accepted later: look before you submit it again, or give it a key (--key)");
            Err(p.next("clawmesh tasks ls"))
        }
        Err(p) => Err(p),
    }
}

/// Query string of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    state: Option<TaskState>,
    limit: Option<u32>,
    before: Option<ShortId>,
}

/// `GET /tasks`.
pub(super) async fn list(State(app): State<Arc<App>>, query: Result<Query<ListQuery>, QueryRejection>) -> Result<Json<Page>, Problem> {
    let q = query_of(query)?;
    let limit = q.limit.unwrap_or(PAGE);
    let max = clawmesh_protocol::face::LIST_MAX;
    if limit == 0 || limit > max {
        return Err(Problem::invalid(format!("limit is {limit}, it must be 1 to {max}")));
    }
    match app.query(Ask::Tasks { state: q.state, limit, before: q.before }).await? {
        Answer::Tasks { tasks, more } => Ok(Json(Page { tasks, more })),
        other => Err(odd(&other)),
    }
}

/// `GET /tasks/{id}`.
pub(super) async fn show(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<TaskView>, Problem> {
    match app.query(Ask::Show(id)).await? {
        Answer::Task(task) => Ok(Json(*task)),
        other => Err(odd(&other)),
    }
}

/// `GET /tasks/{id}/explain`.
pub(super) async fn explain(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<ExplainView>, Problem> {
    match app.query(Ask::Explain(id)).await? {
        Answer::Explain(view) => Ok(Json(view)),
        other => Err(odd(&other)),
    }
}

/// `GET /tasks/{id}/result`.
pub(super) async fn result(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Outcome>, Problem> {
    let view = result_view(&app, &id).await?;
    let output = match view.data {
        Some(data) if view.task.state.ended() => output(&app, data, view.worker).await?,
        _ => None,
    };
    Ok(Json(Outcome { task: *view.task, output, worker: view.worker, attempt: view.attempt }))
}

/// `DELETE /tasks/{id}`.
pub(super) async fn cancel(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Cancelled>, Problem> {
    match app.call(Command::Cancel(id)).await? {
        Reply::Cancelled(id, state) => Ok(Json(Cancelled { id, state })),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn result_view(app: &App, id: &str) -> Result<ResultView, Problem> {
    match app.query(Ask::Result(id.to_owned())).await? {
        Answer::Result(view) => Ok(view),
        other => Err(odd(&other)),
    }
}

/// What a task wrote, as text; none when nothing was kept.
pub(super) async fn output(app: &App, data: DataView, from: Option<Peer>) -> Result<Option<Captures>, Problem> {
    Ok(captured(app, data, from).await?.map(Captures::from))
}

async fn captured(app: &App, data: DataView, from: Option<Peer>) -> Result<Option<Captured>, Problem> {
    let unavailable = |why: String| {
        Problem::new(
            StatusCode::BAD_GATEWAY,
            "output_unavailable",
            "the output cannot be fetched",
            format!("the node that holds the task's output did not give it: {why}"),
        )
        .next("clawmesh nodes")
    };
    let bytes = match data {
        DataView::Inline(bytes) => bytes,
        blob @ DataView::Blob(..) => match tokio::time::timeout(DATA_TIMEOUT, app.backend().read_data(blob, from)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(why)) => return Err(unavailable(why)),
            Err(_) => return Err(unavailable(format!("no answer within {}", humantime::format_duration(DATA_TIMEOUT)))),
        },
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    codec::decode::<Captured>(&bytes).map(Some).map_err(|_| Problem::internal("the stored output of the task is damaged"))
}

/// Query string of the logs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogsQuery {
    #[serde(default)]
    follow: bool,
}

/// `GET /tasks/{id}/logs`: frames of one byte (1 stdout, 2 stderr), a big-endian u32 length, and the bytes.  With
/// `follow`, a task that has not started is waited for, and the stream ends with the attempt.
pub(super) async fn logs(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let follow = query_of(query)?.follow;
    let view = result_view(&app, &id).await?;
    let waiting = !view.task.state.ended() && (view.worker.is_none() || view.attempt.is_none());
    if waiting && !follow {
        let state = view.task.state.word();
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "not_started",
            "nothing written yet",
            format!("the task is {state} and has not started, so there is no output yet"),
        )
        .next(format!("clawmesh tasks explain {}", view.task.id)));
    }
    let body = if waiting {
        // The head of the answer goes out now; the stream itself waits for the start.
        let opening = async move {
            let view = started(&app, view).await?;
            open(&app, view, true).await
        };
        let opening = async move { opening.await.map_err(|p: Problem| io::Error::other(p.detail)) };
        Body::from_stream(stream::once(opening).try_flatten())
    } else {
        Body::from_stream(open(&app, view, follow).await?)
    };
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

/// Waits until the task has started or ended.
async fn started(app: &App, first: ResultView) -> Result<ResultView, Problem> {
    let id = first.task.id.to_string();
    let mut view = first;
    while !view.task.state.ended() && (view.worker.is_none() || view.attempt.is_none()) {
        tokio::select! {
            () = app.stop.cancelled() => return Err(super::Gone.into()),
            () = tokio::time::sleep(LOOK) => {}
        }
        match result_view(app, &id).await {
            Ok(next) => view = next,
            Err(p) if passing(&p) => {}
            Err(p) => return Err(p),
        }
    }
    Ok(view)
}

/// The mesh cannot say it now and will be able to in a moment.
pub(super) fn passing(p: &Problem) -> bool {
    matches!(p.code.as_str(), "no_coordinator" | "timeout")
}

/// The output of the attempt.  One that is on its way to its worker, or whose end is on its way from there, is in
/// neither place for a moment: it is looked for again.
async fn open(app: &App, mut view: ResultView, follow: bool) -> Result<LogStream, Problem> {
    let id = view.task.id.to_string();
    for _ in 0..LOOKS_MAX {
        match open_now(app, view.clone(), follow).await {
            Err(p) if p.code == UNAVAILABLE => {}
            done => return done,
        }
        tokio::select! {
            () = app.stop.cancelled() => return Err(super::Gone.into()),
            () = tokio::time::sleep(LOOK) => {}
        }
        view = result_view(app, &id).await?;
        if follow {
            view = started(app, view).await?;
        }
    }
    open_now(app, view, follow).await
}

/// From its worker, or, once the task has ended, what was kept of it.
async fn open_now(app: &App, view: ResultView, follow: bool) -> Result<LogStream, Problem> {
    if view.task.state.ended() {
        let kept = match view.data {
            Some(data) => captured(app, data, view.worker).await?,
            None => None,
        };
        let frames = kept.map_or_else(Vec::new, |c| {
            let mut frames = frames(1, &c.stdout.0);
            frames.extend(frames_of_stderr(&c));
            frames
        });
        return Ok(stream::iter(frames.into_iter().map(Ok)).boxed());
    }
    let (Some(worker), Some(attempt)) = (view.worker, view.attempt) else {
        return Ok(stream::empty().boxed());
    };
    app.backend().logs(worker, view.task.id, attempt, follow).await.map_err(|why| {
        Problem::new(
            StatusCode::BAD_GATEWAY,
            UNAVAILABLE,
            "the output cannot be followed",
            format!("the worker did not give the output: {why}"),
        )
        .next(format!("clawmesh tasks show {}", view.task.id))
    })
}

fn frames_of_stderr(c: &Captured) -> Vec<Bytes> {
    frames(2, &c.stderr.0)
}

fn frames(stream: u8, bytes: &[u8]) -> Vec<Bytes> {
    bytes
        .chunks(FRAME_MAX)
        .map(|chunk| {
            let mut frame = Vec::with_capacity(chunk.len() + 5);
            frame.push(stream);
            // A chunk has at most FRAME_MAX bytes.
            frame.extend_from_slice(&(chunk.len() as u32).to_be_bytes());
            frame.extend_from_slice(chunk);
            Bytes::from(frame)
        })
        .collect()
}

fn odd(answer: &Answer) -> Problem {
    let kind = match answer {
        Answer::Tasks { .. } => "tasks",
        Answer::Task(_) => "task",
        Answer::Explain(_) => "explain",
        Answer::Result(_) => "result",
        Answer::Refused(_) => "refused",
    };
    Problem::internal(format!("the coordinator answered with '{kind}', which does not fit the question: perhaps another version"))
}
