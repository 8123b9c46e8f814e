//! A client of the API of the node in a home: what the CLI, the demo and the bench speak.

mod blobs;
mod memory;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::body::Bytes;
use clawmesh_protocol::{
    face::{ExplainView, MemberView, NewTask, QuorumView, Resolved, SettingsView, SkillQuery, SkillView, State, TaskView},
    ids::Peer,
};
use futures::{Stream, StreamExt, TryStreamExt};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::{codec::LengthDelimitedCodec, io::StreamReader};

use crate::{
    api::{
        Token, announced,
        types::{
            Accepted, ApiFile, Batch, Cancelled, Done, Ended, Entry, Invitation, NewSetting, Outcome, Page, Problem, QuorumChange,
            StatusReport, WaitFor, Waited,
        },
    },
    output::{EXIT_NO_NODE, EXIT_REFUSED, EXIT_USAGE, EXIT_WAIT, Failure},
};

/// Longest wait for a connection to a port of this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// An idle connection is dropped after this time, before the server does it (10 s): a request must not meet the closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an answer: above the server's longest (a submit, a long poll).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);
/// Most tasks in one submit of this client: their JSON stays far below the server's cap when inputs are small.
const CHUNK: usize = 5_000;
/// Bytes of inputs in one submit of this client.
const CHUNK_BYTES: usize = 6 << 20;
/// Largest frame of output that is believed, bytes.
const FRAME_MAX: usize = 8 << 20;

/// Why a request had no answer, or not the wanted one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens for this home.
    #[error("no node is running on {}: start one with 'clawmesh up'", .home.display())]
    NoNode {
        /// The home.
        home: PathBuf,
    },
    /// Somebody listens on the port of this home, but does not know its token.
    #[error("the node at {addr} does not know the token of {}: another node has taken the port, or the token was replaced under a running node", .home.display())]
    Stranger {
        /// Where it listens.
        addr: String,
        /// The home.
        home: PathBuf,
    },
    /// The home's files cannot be read.
    #[error("cannot read the files of the node in {}: {why}", .home.display())]
    Unreadable {
        /// The home.
        home: PathBuf,
        /// What the system says.
        why: String,
    },
    /// The node said no.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// The connection broke, or the answer did not come in time.
    #[error("the node did not answer: {why}")]
    Broken {
        /// What happened.
        why: String,
    },
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Self {
        let what = e.to_string();
        match e {
            ClientError::NoNode { .. } => Self::new(EXIT_NO_NODE, "no_node", what).next("clawmesh up"),
            ClientError::Stranger { .. } => Self::new(EXIT_NO_NODE, "stranger", what).next("clawmesh up --api-port 0"),
            ClientError::Unreadable { .. } => Self::new(EXIT_NO_NODE, "unreadable", what),
            ClientError::Broken { .. } => Self::new(EXIT_NO_NODE, "broken", what).next("clawmesh status"),
            ClientError::Refused(p) => {
                let exit = match p.code.as_str() {
                    "invalid" => EXIT_USAGE,
                    "timeout" => EXIT_WAIT,
                    "stopping" => EXIT_NO_NODE,
                    _ => EXIT_REFUSED,
                };
                let mut f = Self::new(exit, &p.code, what);
                f.next = Some(p.next).filter(|n| !n.is_empty());
                f.candidates = p.candidates;
                f
            }
        }
    }
}

impl ClientError {
    /// The node is perhaps being restarted: asking again makes sense.
    pub(crate) fn unreachable(&self) -> bool {
        match self {
            Self::NoNode { .. } | Self::Broken { .. } => true,
            Self::Refused(p) => matches!(p.code.as_str(), "stopping" | "busy" | "no_coordinator"),
            Self::Stranger { .. } | Self::Unreadable { .. } => false,
        }
    }
}

/// A task to submit, perhaps to a node named by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Submission {
    /// The task.
    pub(crate) task: NewTask,
    /// Name or id of the node it must run on; overrides `task.pin`.
    pub(crate) node: Option<String>,
}

/// A piece of a task's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// It is of stderr, not of stdout.
    pub(crate) stderr: bool,
    /// The bytes.
    pub(crate) bytes: Bytes,
}

/// Which tasks to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Filter {
    /// Only these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<State>,
    /// At most so many, 1 to 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<u32>,
    /// Continue below this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<String>,
}

/// A connection to the node of one home.  Cheap to clone; all methods may be used at the same time.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    home: PathBuf,
    file: ApiFile,
    token: Token,
}

impl Client {
    /// Finds the node of a home by its `api.json` and token.  Nothing is sent yet: a node that a crash has ended is
    /// noticed by the first request.
    ///
    /// # Errors
    /// [`ClientError::NoNode`] and [`ClientError::Unreadable`].
    pub(crate) fn open(home: &Path) -> Result<Self, ClientError> {
        let unreadable = |e: &dyn std::fmt::Display| ClientError::Unreadable { home: home.to_owned(), why: e.to_string() };
        let no_node = || ClientError::NoNode { home: home.to_owned() };
        let file = match announced(home) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(no_node()),
            Err(e) => return Err(unreadable(&e)),
        };
        let token = match Token::load(home) {
            Ok(Some(token)) => token,
            Ok(None) => return Err(unreadable(&"its api.token is damaged; stop the node and start it again")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(no_node()),
            Err(e) => return Err(unreadable(&e)),
        };
        let http = reqwest::Client::builder()
            // A proxy for the web has no business between this program and its own machine.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true)
            .build()
            .map_err(|e| ClientError::Broken { why: e.to_string() })?;
        Ok(Self { http, home: home.to_owned(), file, token })
    }
    /// What `api.json` says.
    pub(crate) fn file(&self) -> &ApiFile {
        &self.file
    }
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.file.addr)).bearer_auth(self.token.secret())
    }
    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = match request.send().await {
            Ok(response) => response,
            Err(e) if e.is_connect() => return Err(ClientError::NoNode { home: self.home.clone() }),
            Err(e) => return Err(ClientError::Broken { why: chain(&e) }),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let stranger = || ClientError::Stranger { addr: self.file.addr.to_string(), home: self.home.clone() };
        if status == StatusCode::UNAUTHORIZED {
            return Err(stranger());
        }
        let bytes = response.bytes().await.map_err(|e| ClientError::Broken { why: chain(&e) })?;
        // Another program on this port answers with something else.
        Err(serde_json::from_slice::<Problem>(&bytes).map_or_else(|_| stranger(), ClientError::Refused))
    }
    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request.timeout(ANSWER_TIMEOUT)).await?;
        let bytes = response.bytes().await.map_err(|e| ClientError::Broken { why: chain(&e) })?;
        serde_json::from_slice(&bytes).map_err(|e| ClientError::Broken { why: format!("its answer is not what this version expects: {e}") })
    }
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.answer(self.request(Method::GET, &format!("/api/v1{path}"))).await
    }
    async fn of_task<T: DeserializeOwned>(&self, method: Method, id: &str, what: &str) -> Result<T, ClientError> {
        self.answer(self.request(method, &task_path(id, what))).await
    }
    async fn post(&self, path: &str) -> Result<(), ClientError> {
        self.answer::<Done>(self.request(Method::POST, &format!("/api/v1{path}"))).await.map(drop)
    }

    /// Submits one task; answers when it is acknowledged.
    ///
    /// # Errors
    /// Any [`ClientError`]; after `Broken` the task may be in the mesh all the same.
    pub(crate) async fn submit(&self, wanted: &Submission) -> Result<Accepted, ClientError> {
        let mut body = serde_json::to_value(&wanted.task).map_err(|e| ClientError::Broken { why: e.to_string() })?;
        if let (Some(node), Some(fields)) = (&wanted.node, body.as_object_mut()) {
            fields.insert("pin".into(), node.as_str().into());
        }
        self.answer(self.request(Method::POST, "/api/v1/tasks").json(&body)).await
    }
    /// Submits one task given as the API's JSON, whatever fields it has; answers when it is acknowledged.
    ///
    /// # Errors
    /// Any [`ClientError`]; after `Broken` the task may be in the mesh all the same.
    pub(crate) async fn submit_json(&self, task: &serde_json::Value) -> Result<Accepted, ClientError> {
        self.answer(self.request(Method::POST, "/api/v1/tasks").json(task)).await
    }
    /// Submits any number of tasks, in as few requests as the API allows; one entry per task in order.
    ///
    /// # Errors
    /// Any [`ClientError`]; some of the tasks may be in the mesh all the same.
    pub(crate) async fn submit_many(&self, tasks: &[NewTask]) -> Result<Vec<Entry>, ClientError> {
        let mut entries = Vec::with_capacity(tasks.len());
        let mut rest = tasks;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |t: &&NewTask| {
                bytes += t.input.as_ref().map_or(0, String::len) + t.argv.iter().flatten().map(String::len).sum::<usize>();
                bytes <= CHUNK_BYTES
            };
            let n = rest.iter().take(CHUNK).take_while(fits).count().max(1);
            let (now, later) = rest.split_at(n);
            let batch: Batch = self.answer(self.request(Method::POST, "/api/v1/tasks").json(now)).await?;
            entries.extend(batch.tasks);
            rest = later;
        }
        Ok(entries)
    }
    /// A page of tasks, newest first.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn tasks(&self, filter: &Filter) -> Result<Page, ClientError> {
        let query: Vec<String> = [
            filter.state.map(|s| format!("state={}", s.word())),
            filter.limit.map(|l| format!("limit={l}")),
            filter.before.as_ref().map(|b| format!("before={}", escape(b))),
        ]
        .into_iter()
        .flatten()
        .collect();
        self.get(&format!("/tasks?{}", query.join("&"))).await
    }
    /// One task by id or unique prefix.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn task(&self, id: &str) -> Result<TaskView, ClientError> {
        self.of_task(Method::GET, id, "").await
    }
    /// A task with what it wrote.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn result(&self, id: &str) -> Result<Outcome, ClientError> {
        self.of_task(Method::GET, id, "/result").await
    }
    /// Why it waits, or why it went where it went.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn explain(&self, id: &str) -> Result<ExplainView, ClientError> {
        self.of_task(Method::GET, id, "/explain").await
    }
    /// Asks for a task's end.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn cancel(&self, id: &str) -> Result<Cancelled, ClientError> {
        self.of_task(Method::DELETE, id, "").await
    }
    /// One long poll: those of the tasks that have ended, empty when the time has passed.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn wait(&self, wanted: &WaitFor) -> Result<Vec<Ended>, ClientError> {
        let waited: Waited = self.answer(self.request(Method::POST, "/api/v1/tasks/wait").json(wanted)).await?;
        Ok(waited.ended)
    }
    /// The output of a task as it comes; with `follow` until the attempt ends.
    ///
    /// # Errors
    /// Any [`ClientError`]; an item is an error when the stream breaks.
    pub(crate) async fn logs(&self, id: &str, follow: bool) -> Result<impl Stream<Item = Result<Piece, ClientError>> + use<>, ClientError> {
        let path = format!("{}?follow={follow}", task_path(id, "/logs"));
        let response = self.send(self.request(Method::GET, &path)).await?;
        let reader = StreamReader::new(response.bytes_stream().map_err(io::Error::other));
        // Kind and length stay in front of the bytes, so that the kind can be read.
        let frames = LengthDelimitedCodec::builder()
            .length_field_offset(1)
            .length_field_length(4)
            .length_adjustment(5)
            .num_skip(0)
            .max_frame_length(FRAME_MAX)
            .new_read(reader);
        Ok(frames.map(|frame| {
            let mut bytes = frame.map_err(|e| ClientError::Broken { why: format!("the output broke off: {}", chain(&e)) })?.freeze();
            if bytes.len() < 5 {
                return Err(ClientError::Broken { why: "a frame of output is malformed".into() });
            }
            let stderr = bytes.first() == Some(&2);
            Ok(Piece { stderr, bytes: bytes.split_off(5) })
        }))
    }
    /// The node and its view of the mesh.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn status(&self) -> Result<StatusReport, ClientError> {
        self.get("/status").await
    }
    /// The members of the mesh.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn nodes(&self) -> Result<Vec<MemberView>, ClientError> {
        self.get("/nodes").await
    }
    /// The skills of the mesh.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn skills(&self) -> Result<Vec<SkillView>, ClientError> {
        self.get("/skills").await
    }
    /// The skills of the mesh that a question asks for.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn find_skills(&self, q: &SkillQuery) -> Result<Vec<SkillView>, ClientError> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in [("name", &q.name), ("category", &q.category), ("q", &q.text)] {
            if let Some(v) = value {
                query.append_pair(name, v);
            }
        }
        for t in &q.tags {
            query.append_pair("tag", t);
        }
        self.get(&format!("/skills?{}", query.finish())).await
    }
    /// What skills need of others.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn resolve_skills(&self, names: &[String]) -> Result<Resolved, ClientError> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for n in names {
            query.append_pair("name", n);
        }
        self.get(&format!("/skills/resolve?{}", query.finish())).await
    }
    /// Every skill file in this node's folders with its verdict.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn local_skills(&self) -> Result<Vec<crate::api::types::LocalSkill>, ClientError> {
        self.get("/skills/local").await
    }
    /// Who offers a skill, by the DHT alone.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn providers(&self, skill: &str) -> Result<Vec<Peer>, ClientError> {
        self.get(&format!("/skills/{}/providers", escape(skill))).await
    }
    /// The ticket that lets another machine join.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn invite(&self) -> Result<String, ClientError> {
        Ok(self.get::<Invitation>("/invite").await?.ticket)
    }
    /// Begins a clean shutdown.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn stop(&self) -> Result<(), ClientError> {
        self.post("/stop").await
    }
    /// The node takes no new tasks.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn forget(&self, node: &str) -> Result<(), ClientError> {
        let _: Done = self.answer(self.request(Method::DELETE, &format!("/api/v1/nodes/{}", escape(node)))).await?;
        Ok(())
    }
    /// The node takes no new tasks.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn drain(&self) -> Result<(), ClientError> {
        self.post("/drain").await
    }
    /// The node takes tasks again.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn resume(&self) -> Result<(), ClientError> {
        self.post("/resume").await
    }
    /// The voters of the mesh.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn quorum(&self) -> Result<QuorumView, ClientError> {
        self.get("/quorum").await
    }
    /// Names, adds or removes voters; answers when the change is stable.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn change_quorum(&self, change: &QuorumChange) -> Result<QuorumView, ClientError> {
        self.answer(self.request(Method::POST, "/api/v1/quorum").json(change)).await
    }
    /// Who is in reach is the mesh: nothing is held back any more.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn adopt(&self) -> Result<(), ClientError> {
        self.post("/adopt").await
    }
    /// The settings of the whole mesh.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn settings(&self) -> Result<SettingsView, ClientError> {
        self.get("/settings").await
    }
    /// Changes a setting of the whole mesh; without a value, removes it.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn change_setting(&self, key: &str, value: Option<String>, user: String) -> Result<(), ClientError> {
        let path = format!("/api/v1/settings/{}", escape(key));
        let request = match value {
            Some(value) => self.request(Method::PUT, &path).json(&NewSetting { value, user }),
            None => self.request(Method::DELETE, &path),
        };
        self.answer::<Done>(request).await.map(drop)
    }
    /// All figures of the node in OpenMetrics text.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn metrics(&self) -> Result<String, ClientError> {
        let response = self.send(self.request(Method::GET, "/metrics").timeout(ANSWER_TIMEOUT)).await?;
        response.text().await.map_err(|e| ClientError::Broken { why: chain(&e) })
    }
}

fn task_path(id: &str, what: &str) -> String {
    format!("/api/v1/tasks/{}{what}", escape(id))
}

/// What a person typed, safe inside a URL: whatever cannot be part of an id goes as percent escapes, so that the server
/// says what is wrong with it.
fn escape(typed: &str) -> String {
    typed.bytes().map(|c| if c.is_ascii_alphanumeric() { char::from(c).to_string() } else { format!("%{c:02X}") }).collect()
}

/// An error with its causes: reqwest says only "error sending request" by itself.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        text.push_str(&format!(": {c}"));
        cause = c.source();
    }
    text
}
