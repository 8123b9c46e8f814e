//! The table of routes, the door every request passes, and the small answers.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Request, State, rejection::QueryRejection},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use clawmesh_protocol::{
    face::{Answer, Command, MemberView, Query, QuorumView, Reply, StatusView},
    ids::Peer,
    quorum::Change,
};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    a2a,
    auth::{self, Token},
    backend::Backend,
    blobs, memory,
    metrics::{ApiMetrics, Refused},
    problem::nearest,
    settings, skills, tasks,
    types::{Done, Invitation, LocalSkill, Problem, QuorumChange, StatusReport},
    wait,
};

/// Largest body of a request, bytes: 10,000 small tasks, or one with the largest input.
pub(super) const BODY_MAX: usize = 16 << 20;
/// Requests at once; above it, `busy`.
const REQUESTS_MAX: usize = 384;
/// Bodies being read at once, which bounds the memory that they hold to 256 MiB.
const BODIES_MAX: usize = 16;
/// A body that does not arrive within this time is given up.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for an answer of the core.  Queries go to the coordinator; an election takes a few seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// What all handlers share.
pub(super) struct App {
    backend: Arc<dyn Backend>,
    token: Token,
    metrics: ApiMetrics,
    requests: Semaphore,
    bodies: Semaphore,
    /// Set when the node stops: long polls end.
    pub(super) stop: CancellationToken,
    /// Tasks submitted here, and the bound on long polls.
    pub(super) waits: wait::Waits,
}

impl App {
    pub(super) fn new(backend: Arc<dyn Backend>, token: Token, metrics: ApiMetrics, stop: CancellationToken) -> Self {
        Self {
            backend,
            token,
            metrics,
            requests: Semaphore::new(REQUESTS_MAX),
            bodies: Semaphore::new(BODIES_MAX),
            stop,
            waits: wait::Waits::default(),
        }
    }
    pub(super) fn metrics(&self) -> &ApiMetrics {
        &self.metrics
    }
    pub(super) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }
    /// One command; a refusal is a problem.
    pub(super) async fn call(&self, cmd: Command) -> Result<Reply, Problem> {
        self.call_within(cmd, ANSWER_TIMEOUT).await
    }
    /// One command with its own time limit.
    pub(super) async fn call_within(&self, cmd: Command, limit: Duration) -> Result<Reply, Problem> {
        match tokio::time::timeout(limit, self.backend.call(cmd)).await {
            Ok(Ok(Reply::Refused(r))) => Err(r.into()),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(gone)) => Err(gone.into()),
            Err(_) => Err(Problem::late(format!(
                "the mesh did not answer within {}: perhaps nobody coordinates at the moment",
                humantime::format_duration(limit)
            ))),
        }
    }
    /// One question for the coordinator; a refusal is a problem.
    pub(super) async fn query(&self, query: Query) -> Result<Answer, Problem> {
        match self.call(Command::Query(query)).await? {
            Reply::Answer(Answer::Refused(r)) => Err(r.into()),
            Reply::Answer(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }
    /// The node's view of the mesh.
    pub(super) async fn view(&self) -> Result<StatusView, Problem> {
        match self.call(Command::Status).await? {
            Reply::Status(view) => Ok(*view),
            other => Err(unexpected(&other)),
        }
    }
    /// The body as bytes, within size, time and memory bounds.
    pub(super) async fn body(&self, body: Body) -> Result<Bytes, Problem> {
        let read = async {
            let _permit = self.bodies.acquire().await;
            axum::body::to_bytes(body, BODY_MAX).await
        };
        match tokio::time::timeout(BODY_TIMEOUT, read).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(e)) => Err(self.bad_body(&e.into_inner().to_string())),
            Err(_) => Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "timeout",
                "the body did not arrive",
                format!("the body of a request must arrive within {}", humantime::format_duration(BODY_TIMEOUT)),
            )),
        }
    }
    fn bad_body(&self, why: &str) -> Problem {
        if why.contains("length limit") {
            self.metrics.refuse(Refused::TooLarge);
            return too_large();
        }
        Problem::invalid(format!("the body could not be read: {why}"))
    }
    /// The body as JSON.
    pub(super) async fn json<T: DeserializeOwned>(&self, body: Body) -> Result<T, Problem> {
        let bytes = self.body(body).await?;
        serde_json::from_slice(&bytes).map_err(|e| Problem::invalid(format!("the JSON of the body is not what is asked for: {e}")))
    }
}

fn too_large() -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        "the body is too large",
        format!("a request has at most {BODY_MAX} bytes: submit fewer tasks at once, or put large data where the worker can read it"),
    )
}

/// A reply of another kind than the command's: a mistake in this program.
pub(super) fn unexpected(reply: &Reply) -> Problem {
    let kind = match reply {
        Reply::Submitted(_) => "submitted",
        Reply::Cancelled(..) => "cancelled",
        Reply::Answer(_) => "answer",
        Reply::Ended(_) => "ended",
        Reply::Status(_) => "status",
        Reply::Skills(..) => "skills",
        Reply::Resolved(_) => "resolved",
        Reply::Settings(_) => "settings",
        Reply::Ok => "ok",
        Reply::Refused(_) => "refused",
    };
    Problem::internal(format!("BUG: the core answered with '{kind}', which does not fit the request"))
}

/// What waits for the disk, away from the threads that serve.
pub(super) async fn blocking<T, E>(run: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Problem>
where
    T: Send + 'static,
    E: Into<Problem> + Send + 'static,
{
    match tokio::task::spawn_blocking(run).await {
        Ok(done) => done.map_err(Into::into),
        Err(e) => Err(Problem::internal(format!("BUG: {e}"))),
    }
}

/// A query string as its type, with a readable error.
pub(super) fn query_of<T>(query: Result<axum::extract::Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|axum::extract::Query(q)| q).map_err(|e| Problem::invalid(e.body_text()))
}

/// All routes behind the door.
pub(super) fn router(app: Arc<App>) -> Router {
    let tasks = Router::new()
        .route("/tasks", get(tasks::list).post(tasks::submit))
        .route("/tasks/wait", post(wait::wait))
        .route("/tasks/{id}", get(tasks::show).delete(tasks::cancel))
        .route("/tasks/{id}/result", get(tasks::result))
        .route("/tasks/{id}/logs", get(tasks::logs))
        .route("/tasks/{id}/explain", get(tasks::explain));
    let node = Router::new()
        .route("/status", get(status))
        .route("/nodes", get(nodes))
        .route("/skills", get(skills::list))
        .route("/skills/local", get(local_skills))
        .route("/skills/resolve", get(skills::resolve))
        .route("/skills/{name}/providers", get(skills::providers))
        .route("/invite", get(invite))
        .route("/stop", post(stop))
        .route("/nodes/{node}", delete(forget))
        .route("/drain", post(drain))
        .route("/resume", post(resume))
        .route("/adopt", post(adopt))
        .route("/settings", get(settings::all))
        .route("/settings/{key}", put(settings::set).delete(settings::unset))
        .route("/quorum", get(quorum).post(change_quorum));
    let shared = Router::new()
        .route("/blobs", get(blobs::list).post(blobs::put))
        .route("/blobs/{hash}", get(blobs::get).delete(blobs::remove))
        .route("/blobs/{hash}/info", get(blobs::info))
        .route("/blobs/{hash}/fetch", post(blobs::fetch))
        .route("/blobs/{hash}/holders", get(blobs::holders))
        .route("/blobs/{hash}/pin", put(blobs::pin).delete(blobs::unpin))
        .route("/offers", get(blobs::offers).post(blobs::publish))
        .route("/offers/{name}", delete(blobs::withdraw))
        .route("/memory", get(memory::list))
        .route("/memory/notes", get(memory::notes).post(memory::write))
        .route("/memory/sync", post(memory::sync));
    Router::new()
        .nest("/api/v1", tasks.merge(node).merge(shared))
        .route("/.well-known/agent-card.json", get(a2a::card))
        .route("/.well-known/agent.json", get(a2a::card))
        .route("/a2a/v1", post(a2a::rpc))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(app.clone(), door))
        .with_state(app)
}

/// Host, token, bound: in this order, so that a stranger learns nothing and costs nothing.
async fn door(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if !auth::local_host(request.uri(), request.headers()) {
        app.metrics.refuse(Refused::Host);
        return Problem::foreign_host("node").into_response();
    }
    let open = matches!(request.uri().path(), "/metrics" | "/healthz" | "/.well-known/agent-card.json" | "/.well-known/agent.json");
    if !open && !app.token.admits(request.headers()) {
        app.metrics.refuse(Refused::Token);
        return ([(header::WWW_AUTHENTICATE, "Bearer")], Problem::no_token()).into_response();
    }
    let Ok(_permit) = app.requests.try_acquire() else {
        app.metrics.refuse(Refused::Busy);
        return Problem::busy(format!("this node serves {REQUESTS_MAX} requests at once: try again in a moment")).into_response();
    };
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    // The content of a blob goes to the disk as it comes, and has a limit of its own.
    let streams = request.uri().path() == "/api/v1/blobs";
    if declared.is_some_and(|n| n > BODY_MAX) && !streams {
        app.metrics.refuse(Refused::TooLarge);
        return too_large().into_response();
    }
    if !open {
        app.metrics.request();
    }
    next.run(request).await
}

async fn nothing_here(request: Request) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "not_found",
        "no such path",
        format!("'{}' is not a path of this API: its paths begin with /api/v1", request.uri().path()),
    )
}

async fn wrong_method(request: Request) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "wrong method",
        format!("'{}' does not take {}", request.uri().path(), request.method()),
    )
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.backend.metrics()).into_response()
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn status(State(app): State<Arc<App>>) -> Result<Json<StatusReport>, Problem> {
    let view = app.view().await?;
    let info = app.backend.info();
    Ok(Json(StatusReport {
        view,
        mesh: info.mesh,
        api: info.api.to_string(),
        mesh_addresses: info.mesh_addresses,
        pid: std::process::id(),
        version: info.version,
        home: info.home.display().to_string(),
        commands: info.commands,
    }))
}

async fn nodes(State(app): State<Arc<App>>) -> Result<Json<Vec<MemberView>>, Problem> {
    Ok(Json(app.view().await?.members))
}

async fn local_skills(State(app): State<Arc<App>>) -> Json<Vec<LocalSkill>> {
    Json(app.backend.local_skills())
}

async fn invite(State(app): State<Arc<App>>) -> Json<Invitation> {
    Json(Invitation { ticket: app.backend.info().ticket })
}

async fn stop(State(app): State<Arc<App>>) -> Json<Done> {
    app.backend.stop();
    Json(Done { ok: true })
}

async fn drain(State(app): State<Arc<App>>) -> Result<Json<Done>, Problem> {
    done(&app, Command::Drain(true)).await
}

async fn forget(State(app): State<Arc<App>>, Path(node): Path<String>) -> Result<Json<Done>, Problem> {
    let peer = resolve_node(&node, &app.view().await?.members)?;
    done(&app, Command::ForgetNode(peer)).await
}

async fn resume(State(app): State<Arc<App>>) -> Result<Json<Done>, Problem> {
    done(&app, Command::Drain(false)).await
}

async fn adopt(State(app): State<Arc<App>>) -> Result<Json<Done>, Problem> {
    done(&app, Command::Adopt).await
}

async fn quorum(State(app): State<Arc<App>>) -> Result<Json<QuorumView>, Problem> {
    // In open mode no number of nodes is too small to serve.
    Ok(Json(app.view().await?.quorum.unwrap_or(QuorumView { majority: true, ..QuorumView::default() })))
}

async fn change_quorum(State(app): State<Arc<App>>, body: Body) -> Result<Json<QuorumView>, Problem> {
    let asked: QuorumChange = app.json(body).await?;
    let view = app.view().await?;
    // A voter need not be a member any more: one that was forgotten can still be removed by its name.
    let voters = view.quorum.iter().flat_map(|q| &q.voters);
    let resolve = |names: &[String]| -> Result<Vec<Peer>, Problem> {
        let known = |n: &String| match voters.clone().find(|v| v.name == *n) {
            Some(v) if asked.change == Change::Remove => Ok(v.node),
            _ => resolve_node(n, &view.members),
        };
        names.iter().map(known).collect()
    };
    let cmd = Command::ChangeQuorum(asked.change, resolve(&asked.nodes)?, resolve(&asked.witnesses)?);
    done(&app, cmd).await.map(drop)?;
    quorum(State(app)).await
}

async fn done(app: &App, cmd: Command) -> Result<Json<Done>, Problem> {
    match app.call(cmd).await? {
        Reply::Ok => Ok(Json(Done { ok: true })),
        other => Err(unexpected(&other)),
    }
}

/// The member with this id or name.
pub(super) fn resolve_node(typed: &str, members: &[MemberView]) -> Result<Peer, Problem> {
    if let Ok(peer) = typed.parse::<Peer>() {
        return Ok(peer);
    }
    let of_name: Vec<&MemberView> = members.iter().filter(|m| m.name == typed).collect();
    match of_name.as_slice() {
        [one] => Ok(one.node),
        [] => {
            let candidates = nearest(typed, members.iter().map(|m| m.name.as_str()));
            let hint = candidates.first().map_or(String::new(), |c| format!("; the nearest name is '{c}'"));
            let mut p = Problem::new(
                StatusCode::BAD_REQUEST,
                "unknown_node",
                "no such node",
                format!("no member of the mesh is called '{typed}'{hint}"),
            )
            .next("clawmesh nodes");
            p.candidates = candidates;
            Err(p)
        }
        several => {
            let mut p = Problem::new(
                StatusCode::BAD_REQUEST,
                "unknown_node",
                "several nodes have this name",
                format!("{} members are called '{typed}': name the node by its id", several.len()),
            )
            .next("clawmesh nodes");
            p.candidates = several.iter().take(10).map(|m| m.node.to_string()).collect();
            Err(p)
        }
    }
}
