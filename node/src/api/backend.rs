//! The border between the HTTP API and the rest of the node: the whole node fits on this page.

use std::{io, net::SocketAddr, path::PathBuf};

use axum::body::Bytes;
use clawmesh_protocol::{
    face::{Command, DataView, Reply},
    ids::{Peer, ShortId},
    spec::Data,
};
use futures::{future::BoxFuture, stream::BoxStream};

use super::types::LocalSkill;

/// The node is stopping and answers no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node is stopping")]
pub(crate) struct Gone;

/// What this node is, beyond the core's own view of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeInfo {
    /// The mesh's name.
    pub(crate) mesh: String,
    /// Where the API listens.
    pub(crate) api: SocketAddr,
    /// Where the mesh port listens, as multiaddrs.
    pub(crate) mesh_addresses: Vec<String>,
    /// What another machine needs to join: holds the mesh key.
    pub(crate) ticket: String,
    /// The program's version.
    pub(crate) version: String,
    /// The node's home directory.
    pub(crate) home: PathBuf,
    /// The node runs commands (argv) for members.
    pub(crate) commands: bool,
}

/// A byte stream of output frames: one byte 1 (stdout) or 2 (stderr), the length as a big-endian u32, the bytes.
/// A piece of the stream may hold any part of a frame, or several.
pub(crate) type LogStream = BoxStream<'static, io::Result<Bytes>>;

/// What the API asks of its node.  Dropping a returned future gives the request up and must free what it holds
/// (a pending [`Command::Await`] is forgotten).
pub(crate) trait Backend: Send + Sync + 'static {
    /// One command for the core, one reply.
    fn call(&self, cmd: Command) -> BoxFuture<'_, Result<Reply, Gone>>;
    /// An encoded work of at most [`clawmesh_protocol::spec::PAYLOAD_MAX`] bytes as [`Data`]: in place when small,
    /// else as a blob that is durable when the future ends.  The error is a sentence.
    fn store_payload(&self, work: Vec<u8>) -> BoxFuture<'_, Result<Data, String>>;
    /// The bytes of `data`, fetched from `from` when they are a blob that is not here.  The error is a sentence.
    fn read_data(&self, data: DataView, from: Option<Peer>) -> BoxFuture<'_, Result<Vec<u8>, String>>;
    /// The output of an attempt on `worker` as far as it was written; with `follow`, until the attempt ends.
    fn logs(&self, worker: Peer, id: ShortId, attempt: u32, follow: bool) -> BoxFuture<'_, Result<LogStream, String>>;
    /// Who offers a skill, by the DHT alone: a hint, maybe stale, incomplete or empty.  Takes about two seconds at most.
    fn providers(&self, skill: String) -> BoxFuture<'_, Vec<Peer>>;
    /// Every skill file in this node's folders with its verdict, as last looked at.
    fn local_skills(&self) -> Vec<LocalSkill>;
    /// All figures in OpenMetrics text.
    fn metrics(&self) -> String;
    /// What this node is.
    fn info(&self) -> NodeInfo;
    /// Shared blobs and published skills; none in a node without a disk of its own, as in tests of the API.
    fn sharing(&self) -> Option<&dyn super::Sharing> {
        None
    }
    /// Notes of the mesh; none in a node without a disk of its own, as in tests of the API.
    fn memory(&self) -> Option<&dyn super::Memory> {
        None
    }
    /// Begins a clean shutdown and returns at once.
    fn stop(&self);
}
