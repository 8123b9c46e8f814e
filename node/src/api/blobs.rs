//! Routes of shared blobs and published skills. Contents stream in both directions and are never held in memory.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use clawmesh_protocol::{
    face::NewTask,
    files::Holder,
    ids::{Hash, Peer},
};
use futures::{StreamExt, future::BoxFuture, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    routes::{App, blocking, query_of, resolve_node},
    types::{Done, Problem},
};
use crate::{
    daemon::Progress,
    depot::{Depot, DepotError, Entry, Keep},
    share::{Offer, Offers},
    store::BlobHash,
};

/// What the API asks of the node about blobs and published skills.
pub(crate) trait Sharing: Send + Sync + 'static {
    /// The blobs of this node.
    fn depot(&self) -> Depot;
    /// Sees to it that a blob is here; the fetch goes on while the receiver lives.
    fn fetch(&self, hash: BlobHash, keep: Keep) -> watch::Receiver<Progress>;
    /// Who holds it by the index, this node included: a hint. Takes about two seconds at most.
    fn providers(&self, hash: BlobHash) -> BoxFuture<'_, Vec<Peer>>;
    /// Its length, proven by somebody who has it.
    fn len_of(&self, hash: BlobHash) -> BoxFuture<'_, Option<u64>>;
    /// Who holds how much of these blobs, with their lengths in bytes. Takes about two seconds at most.
    fn holders(&self, files: Vec<(BlobHash, u64)>) -> BoxFuture<'_, Vec<Holder>>;
    /// The skills that this node has published.
    fn own_offers(&self) -> Offers;
    /// The skills that members have published: of this name or all, by this node or all.
    fn offers(&self, name: Option<String>, from: Option<Peer>) -> BoxFuture<'_, Vec<(Peer, Offer)>>;
}

/// A body that brings nothing for so long is given up.
const BODY_STALL: Duration = Duration::from_secs(60);
/// Longest look for the length of a task's input that is not on this node.
const LEN_WAIT: Duration = Duration::from_secs(5);
/// Bytes read from the disk at a time.
const PIECE: usize = 256 << 10;

/// A blob, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobView {
    /// Its name: 64 hexadecimal digits.
    pub(crate) hash: Hash,
    /// Bytes.
    pub(crate) len: u64,
    /// Kept until it is removed or unpinned.
    pub(crate) pinned: bool,
    /// What it was called when it was put; may be empty.
    pub(crate) name: String,
    /// When it came to this node, ms since 1970.
    pub(crate) put_at: u64,
    /// When it was last used here, ms since 1970.
    pub(crate) used_at: u64,
}

impl BlobView {
    fn new(hash: BlobHash, e: Entry) -> Self {
        Self { hash: Hash(hash.0), len: e.len, pinned: e.pinned, name: e.name, put_at: e.put_at, used_at: e.used_at }
    }
}

/// A line of the answer to a fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FetchLine {
    /// Somebody who has it is looked for, or others are fetched first.
    Looking,
    /// Bytes here and in all.
    Running(u64, u64),
    /// It is here.
    Done(BlobView),
    /// It is not, and why.
    Failed(String),
}

/// A published skill and who published it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OfferView {
    /// The publisher.
    pub(crate) node: Peer,
    /// Its name; empty while it is unknown.
    pub(crate) node_name: String,
    /// The skill.
    #[serde(flatten)]
    pub(crate) offer: Offer,
}

impl From<DepotError> for Problem {
    fn from(e: DepotError) -> Self {
        let (status, code, title) = match &e {
            DepotError::Missing(_) | DepotError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown_blob", "no such blob"),
            DepotError::NoHash(_) => (StatusCode::BAD_REQUEST, "invalid", "no hash"),
            DepotError::Ambiguous { .. } => (StatusCode::CONFLICT, "ambiguous", "several blobs"),
            DepotError::Damaged(_) => (StatusCode::INTERNAL_SERVER_ERROR, "damaged", "the blob is damaged"),
            DepotError::TooLong { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the blob is too long"),
            DepotError::Full { .. } | DepotError::TooMany => (StatusCode::INSUFFICIENT_STORAGE, "full", "no room"),
            DepotError::InUse(_) => (StatusCode::CONFLICT, "in_use", "the blob is in use"),
            DepotError::Io { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "the disk refuses"),
        };
        let mut p = Problem::new(status, code, title, e.to_string());
        if let DepotError::Ambiguous { all, .. } = &e {
            p.candidates = all.iter().map(ToString::to_string).collect();
        }
        match code {
            "unknown_blob" | "ambiguous" | "full" => p.next("clawmesh blobs ls"),
            _ => p,
        }
    }
}

impl App {
    fn sharing(&self) -> Result<&dyn Sharing, Problem> {
        self.backend().sharing().ok_or_else(|| Problem::internal("this node shares no blobs"))
    }
}

/// Query string of a put.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutQuery {
    #[serde(default)]
    name: String,
    /// False: only into the cache.
    #[serde(default = "yes")]
    pin: bool,
    /// How long it will be, when that is known: too much is refused before it is sent.
    #[serde(default)]
    len: u64,
}

fn yes() -> bool {
    true
}

/// `POST /blobs`: the body is the content, of any length up to the node's limit.
pub(super) async fn put(
    State(app): State<Arc<App>>,
    query: Result<Query<PutQuery>, QueryRejection>,
    body: Body,
) -> Result<Response, Problem> {
    let q = query_of(query)?;
    let depot = app.sharing()?.depot();
    let asked = depot.clone();
    blocking(move || asked.admits(q.len)).await?;
    let (pieces, mut ready) = tokio::sync::mpsc::channel::<axum::body::Bytes>(4);
    let (whole, is_whole) = tokio::sync::oneshot::channel::<()>();
    let keep = Keep { pinned: q.pin, name: q.name, result: false };
    let writer = tokio::task::spawn_blocking(move || {
        let mut draft = depot.draft()?;
        while let Some(piece) = ready.blocking_recv() {
            draft.write(&piece)?;
        }
        if is_whole.blocking_recv().is_err() {
            // Dropped with the draft; nobody waits for this answer.
            return Err(DepotError::Io { doing: "receive", source: io::ErrorKind::UnexpectedEof.into() });
        }
        draft.finish(&keep)
    });
    let mut stream = body.into_data_stream();
    loop {
        let next = tokio::time::timeout(BODY_STALL, stream.next()).await;
        let piece = match next {
            Ok(None) => break,
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(e))) => return Err(Problem::invalid(format!("the body broke off: {e}"))),
            Err(_) => return Err(Problem::invalid(format!("no piece of the body came for {}", humantime::format_duration(BODY_STALL)))),
        };
        if pieces.send(piece).await.is_err() {
            break; // the writer failed; its error is below
        }
    }
    drop(pieces);
    let _ = whole.send(());
    match writer.await {
        Ok(done) => {
            let (hash, entry) = done?;
            Ok((StatusCode::CREATED, Json(BlobView::new(hash, entry))).into_response())
        }
        Err(e) => Err(Problem::internal(format!("BUG: {e}"))),
    }
}

/// `GET /blobs`.
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Vec<BlobView>>, Problem> {
    let depot = app.sharing()?.depot();
    Ok(Json(depot.list().into_iter().map(|(h, e)| BlobView::new(h, e)).collect()))
}

/// `GET /blobs/{hash}`: the content; only of a blob that is here. What is damaged breaks off at its end.
pub(super) async fn get(State(app): State<Arc<App>>, Path(typed): Path<String>) -> Result<Response, Problem> {
    let depot = app.sharing()?.depot();
    let hash = depot.resolve(&typed)?;
    let opened = depot.clone();
    let (file, len) = blocking(move || opened.content(hash)).await?;
    let state = (tokio::fs::File::from_std(file), blake3::Hasher::new(), false);
    let body = stream::try_unfold(state, move |(mut file, mut hasher, done)| {
        let depot = depot.clone();
        async move {
            use tokio::io::AsyncReadExt as _;
            if done {
                return Ok(None);
            }
            let mut piece = Vec::with_capacity(PIECE);
            (&mut file).take(PIECE as u64).read_buf(&mut piece).await?;
            if !piece.is_empty() {
                hasher.update(&piece);
                return Ok(Some((axum::body::Bytes::from(piece), (file, hasher, false))));
            }
            if BlobHash(hasher.finalize().into()) == hash {
                return Ok(None);
            }
            // An error instead of the end: nobody takes it for whole.
            let e = tokio::task::spawn_blocking(move || depot.damaged(hash)).await.map_err(io::Error::other)?;
            Err(io::Error::other(e))
        }
    });
    // No length in the head: a client that has read so many bytes would not wait for the error behind them.
    let heads = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::HeaderName::from_static("x-blob-length"), len.to_string()),
    ];
    Ok((heads, Body::from_stream(body)).into_response())
}

/// `GET /blobs/{hash}/info`.
pub(super) async fn info(State(app): State<Arc<App>>, Path(typed): Path<String>) -> Result<Json<BlobView>, Problem> {
    let depot = app.sharing()?.depot();
    let hash = depot.resolve(&typed)?;
    let entry = depot.entry(hash).ok_or(DepotError::Missing(hash))?;
    Ok(Json(BlobView::new(hash, entry)))
}

/// `POST /blobs/{hash}/fetch`: lines of JSON while it comes, the last one says how it ended. A client that goes away ends the fetch; what
/// came is kept.
pub(super) async fn fetch(State(app): State<Arc<App>>, Path(typed): Path<String>) -> Result<Response, Problem> {
    let sharing = app.sharing()?;
    let hash = sharing.depot().resolve(&typed)?;
    let rx = sharing.fetch(hash, Keep::default());
    let lines = stream::unfold(Some(rx), move |rx| async move {
        let mut rx = rx?;
        let (line, more) = {
            let now = rx.borrow_and_update().clone();
            match now {
                Progress::Looking => (FetchLine::Looking, true),
                Progress::Running { done, len } => (FetchLine::Running(done, len), true),
                Progress::Done(e) => (FetchLine::Done(BlobView::new(hash, e)), false),
                Progress::Failed(why) => (FetchLine::Failed(why), false),
            }
        };
        let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
        bytes.push(b'\n');
        if more {
            // Often enough for a bar, seldom enough to cost nothing; also shows that the client is there.
            let _ = tokio::time::timeout(Duration::from_secs(1), rx.changed()).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some((Ok::<_, io::Error>(axum::body::Bytes::from(bytes)), more.then_some(rx)))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// `GET /blobs/{hash}/holders`.
pub(super) async fn holders(State(app): State<Arc<App>>, Path(typed): Path<String>) -> Result<Json<Vec<Peer>>, Problem> {
    let sharing = app.sharing()?;
    let hash = sharing.depot().resolve(&typed)?;
    Ok(Json(sharing.providers(hash).await))
}

/// `DELETE /blobs/{hash}`.
pub(super) async fn remove(State(app): State<Arc<App>>, Path(typed): Path<String>) -> Result<Json<Done>, Problem> {
    let depot = app.sharing()?.depot();
    let hash = depot.resolve(&typed)?;
    match blocking(move || depot.remove(hash)).await? {
        true => Ok(Json(Done { ok: true })),
        false => Err(DepotError::Missing(hash).into()),
    }
}

/// `PUT /blobs/{hash}/pin`.
pub(super) async fn pin(State(app): State<Arc<App>>, Path(typed): Path<String>) -> Result<Json<BlobView>, Problem> {
    set_pin(&app, &typed, true).await
}

/// `DELETE /blobs/{hash}/pin`.
pub(super) async fn unpin(State(app): State<Arc<App>>, Path(typed): Path<String>) -> Result<Json<BlobView>, Problem> {
    set_pin(&app, &typed, false).await
}

async fn set_pin(app: &App, typed: &str, pinned: bool) -> Result<Json<BlobView>, Problem> {
    let depot = app.sharing()?.depot();
    let hash = depot.resolve(typed)?;
    let entry = blocking(move || depot.pin(hash, pinned)).await?;
    Ok(Json(BlobView::new(hash, entry)))
}

/// Query string of the offers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OffersQuery {
    name: Option<String>,
    from: Option<String>,
}

/// `GET /offers`: what members have published.
pub(super) async fn offers(
    State(app): State<Arc<App>>,
    query: Result<Query<OffersQuery>, QueryRejection>,
) -> Result<Json<Vec<OfferView>>, Problem> {
    let q = query_of(query)?;
    let members = app.view().await?.members;
    let from = q.from.map(|n| resolve_node(&n, &members)).transpose()?;
    let found = app.sharing()?.offers(q.name, from).await;
    let name = |p: Peer| members.iter().find(|m| m.node == p).map(|m| m.name.clone()).unwrap_or_default();
    Ok(Json(found.into_iter().map(|(node, offer)| OfferView { node, node_name: name(node), offer }).collect()))
}

/// `POST /offers`: publishes a skill whose archive is on this node already.
pub(super) async fn publish(State(app): State<Arc<App>>, body: Body) -> Result<Json<Done>, Problem> {
    let offer: Offer = app.json(body).await?;
    let sharing = app.sharing()?;
    let (depot, offers) = (sharing.depot(), sharing.own_offers());
    let blob = BlobHash(offer.blob.0);
    let old = blocking(move || {
        depot.entry(blob).ok_or(DepotError::Missing(blob))?;
        let old = offers.add(offer).map_err(|source| DepotError::Io { doing: "publish", source })?;
        if let Some(old) = old.as_ref().filter(|o| o.blob.0 != blob.0) {
            // The version before this one may go with the cache.
            let _ = depot.pin(BlobHash(old.blob.0), false);
        }
        depot.changed().notify_one();
        Ok::<_, DepotError>(old)
    })
    .await?;
    drop(old);
    Ok(Json(Done { ok: true }))
}

/// `DELETE /offers/{name}`: takes a published skill back.
pub(super) async fn withdraw(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<Done>, Problem> {
    let sharing = app.sharing()?;
    let (depot, offers) = (sharing.depot(), sharing.own_offers());
    let unknown =
        Problem::new(StatusCode::NOT_FOUND, "not_found", "not published", format!("this node has not published a skill '{name}'"));
    let gone = blocking(move || {
        let gone = offers.withdraw(&name).map_err(|source| DepotError::Io { doing: "withdraw", source })?;
        if let Some(o) = &gone {
            let _ = depot.pin(BlobHash(o.blob.0), false);
        }
        depot.changed().notify_one();
        Ok::<_, DepotError>(gone)
    })
    .await?;
    gone.map(|_| Json(Done { ok: true })).ok_or(unknown)
}

/// Completes the input files of a task with their lengths, and says who holds how much of them.
pub(super) async fn inputs(app: &App, task: &mut NewTask) -> Result<Vec<Holder>, Problem> {
    if task.files.is_empty() {
        return Ok(Vec::new());
    }
    let sharing = app.sharing()?;
    let depot = sharing.depot();
    let mut all = Vec::with_capacity(task.files.len());
    for file in &mut task.files {
        let hash = BlobHash(file.blob.0);
        let len = match depot.entry(hash) {
            Some(e) => Some(e.len),
            None => tokio::time::timeout(LEN_WAIT, sharing.len_of(hash)).await.ok().flatten(),
        };
        let Some(len) = len else {
            let what = format!("no node that can be reached now has the blob {hash}, the input '{}'", file.name);
            return Err(Problem::new(StatusCode::BAD_REQUEST, "unknown_blob", "no such blob", what).next("clawmesh blobs put FILE"));
        };
        file.len = len;
        all.push((hash, len));
    }
    Ok(sharing.holders(all).await)
}
