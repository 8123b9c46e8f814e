//! Routes of the mesh's notes.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use clawmesh_protocol::ids::Peer;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{
    routes::{App, blocking, query_of, resolve_node},
    types::Problem,
};
use crate::memory::{BookInfo, MemoryError, Note, Notebook, Wanted};

/// Notes in one answer unless the question says otherwise.
const LIMIT: usize = 50;

/// What the API asks of the node about notes.
pub(crate) trait Memory: Send + Sync + 'static {
    /// The notes; none when this node shares none.
    fn book(&self) -> Option<Notebook>;
    /// A note was written here: the others are told.
    fn changed(&self);
    /// Asks every member that shares notes, and brings all pages up to date. Takes 45 s at most.
    fn sync(&self) -> BoxFuture<'_, SyncView>;
}

/// A note, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NoteView {
    /// The node that it was written on.
    pub(crate) node: Peer,
    /// What that node was called then.
    pub(crate) node_name: String,
    /// Who wrote it, as they said; may be empty.
    pub(crate) user: String,
    /// When, by that node's clock, ms since 1970.
    pub(crate) at: u64,
    /// What it says: untrusted, unless it is one's own.
    pub(crate) text: String,
}

impl From<Note> for NoteView {
    fn from(n: Note) -> Self {
        Self { node: n.author, node_name: n.node, user: n.user, at: n.at, text: n.text }
    }
}

/// What `POST /memory/notes` takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewNote {
    /// Markdown, 1 byte to 8 KiB.
    pub(crate) text: String,
    /// Who writes it; not checked.
    #[serde(default)]
    pub(crate) user: String,
}

/// What came of a sync.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SyncView {
    /// Members that share notes.
    pub(crate) asked: usize,
    /// Of these, those that answered.
    pub(crate) answered: usize,
    /// Notes that were not here.
    pub(crate) received: usize,
    /// Files written or removed.
    pub(crate) files: usize,
    /// Files that were in the way and stay as they are, with the reason.
    pub(crate) left: Vec<String>,
}

/// `GET /memory`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemoryView {
    /// Where the pages lie.
    pub(crate) folder: PathBuf,
    /// Everybody's notes.
    pub(crate) books: Vec<BookInfo>,
}

impl From<MemoryError> for Problem {
    fn from(e: MemoryError) -> Self {
        match &e {
            MemoryError::Unfit(_) => Self::invalid(e.to_string()),
            MemoryError::DayFull => Self::new(StatusCode::TOO_MANY_REQUESTS, "day_full", "the day is full", e.to_string()),
            MemoryError::NoRoom => Self::new(StatusCode::INSUFFICIENT_STORAGE, "full", "no room", e.to_string()),
            MemoryError::Io { .. } => Self::internal(e.to_string()),
        }
    }
}

impl App {
    fn memory(&self) -> Result<(&dyn Memory, Notebook), Problem> {
        let off = || {
            let detail = "this node shares no notes with the mesh: it was not asked to";
            Problem::new(StatusCode::CONFLICT, "memory_off", "no shared memory", detail).next("clawmesh up --memory [DIR]")
        };
        let memory = self.backend().memory().ok_or_else(off)?;
        Ok((memory, memory.book().ok_or_else(off)?))
    }
}

pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<MemoryView>, Problem> {
    let (_, book) = app.memory()?;
    let folder = book.pages_dir();
    Ok(Json(MemoryView { folder, books: blocking(move || book.books()).await? }))
}

/// Query string of a search.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Search {
    /// Words that all have to be in it.
    #[serde(default)]
    q: String,
    /// A node's name or id.
    node: Option<String>,
    /// `YYYY-MM-DD` (UTC).
    day: Option<String>,
    limit: Option<usize>,
}

/// The author with this name or id: also one that is no member any more.
async fn author(app: &App, book: &Notebook, typed: String) -> Result<Peer, Problem> {
    let keeper = book.clone();
    let books = blocking(move || keeper.books()).await?;
    let named: Vec<Peer> = books.iter().filter(|b| b.node_name == typed).map(|b| b.node).collect();
    match named.as_slice() {
        [one] => Ok(*one),
        _ => resolve_node(&typed, &app.view().await?.members),
    }
}

pub(super) async fn notes(
    State(app): State<Arc<App>>,
    query: Result<Query<Search>, QueryRejection>,
) -> Result<Json<Vec<NoteView>>, Problem> {
    let q = query_of(query)?;
    let (_, book) = app.memory()?;
    let author = match q.node {
        Some(typed) => Some(author(&app, &book, typed).await?),
        None => None,
    };
    let words = q.q.split_whitespace().map(str::to_owned).collect();
    let wanted = Wanted { author, day: q.day, words, limit: q.limit.unwrap_or(LIMIT) };
    let found = blocking(move || book.find(&wanted)).await?;
    Ok(Json(found.into_iter().map(Into::into).collect()))
}

pub(super) async fn write(State(app): State<Arc<App>>, body: Body) -> Result<Response, Problem> {
    let new: NewNote = app.json(body).await?;
    let (memory, book) = app.memory()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|d| u64::try_from(d.as_millis()).ok()).unwrap_or(0);
    let note = blocking(move || book.write(&new.text, &new.user, now)).await?;
    memory.changed();
    Ok((StatusCode::CREATED, Json(NoteView::from(note))).into_response())
}

pub(super) async fn sync(State(app): State<Arc<App>>) -> Result<Json<SyncView>, Problem> {
    let (memory, _) = app.memory()?;
    Ok(Json(memory.sync().await))
}
