//! What a node keeps in its home beside the store: the mesh it belongs to, its own name and rank,
//! and where members were last seen.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clawmesh_protocol::ids::Peer;
use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};

use super::agent::OwnAgent;
use crate::net::Ticket;

/// Members whose addresses are kept.
const PEERS_MAX: usize = 512;

/// Why the home cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HomeError {
    /// The system refuses.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} can't be read: {why}; it was changed by hand or by another program")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// A node's memory of members: id and addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownPeer {
    /// Who.
    pub(crate) peer: Peer,
    /// Where it was.
    pub(crate) addrs: Vec<String>,
}

/// What a node remembers of its own flags, so that the next `up` needs none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Own {
    /// Its name.
    pub(crate) name: Option<String>,
    /// Its rank.
    pub(crate) priority: Option<u32>,
    /// The folder below which the mesh's notes are kept as `memory/mesh`; none = this node shares no notes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<PathBuf>,
    /// Another agent than OpenClaw, written there by a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<OwnAgent>,
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    move |source| HomeError::Io { doing, path: path.to_owned(), source }
}

/// Creates the home with its subfolders, for this user only.
pub(crate) fn prepare(home: &Path) -> Result<(), HomeError> {
    for dir in [home.to_owned(), home.join("skills"), home.join("work")] {
        fs::create_dir_all(&dir).map_err(failed("create", &dir))?;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(home, fs::Permissions::from_mode(0o700)).map_err(failed("protect", home))?;
    }
    Ok(())
}

fn mesh_file(home: &Path) -> PathBuf {
    home.join("mesh.ticket")
}

/// The mesh this home belongs to; none when it belongs to none yet.
pub(crate) fn mesh(home: &Path) -> Result<Option<Ticket>, HomeError> {
    let path = mesh_file(home);
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse::<Ticket>().map(Some).map_err(|e| HomeError::Damaged { path, why: e.to_string() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", &path)(e)),
    }
}

/// Keeps the mesh's name and key, readable by this user only.
pub(crate) fn set_mesh(home: &Path, ticket: &Ticket) -> Result<(), HomeError> {
    write_private(&mesh_file(home), format!("{ticket}\n").as_bytes())
}

/// Replaces a file at once: a reader sees the old content or the new, and only this user reads it.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    use std::io::Write;
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    // A named temporary file is made with mode 0600.
    let mut tmp = tempfile::NamedTempFile::new_in(dir).map_err(failed("write in", dir))?;
    tmp.write_all(bytes).and_then(|()| tmp.as_file().sync_all()).map_err(failed("write", path))?;
    tmp.persist(path).map(drop).map_err(|e| failed("replace", path)(e.error))
}

/// Members known from earlier; an unreadable file only costs time.
pub(crate) fn peers(home: &Path) -> Vec<KnownPeer> {
    let path = home.join("peers.json");
    let Ok(bytes) = fs::read(&path) else { return Vec::new() };
    match serde_json::from_slice::<Vec<KnownPeer>>(&bytes) {
        Ok(list) => list.into_iter().take(PEERS_MAX).collect(),
        Err(e) => {
            tracing::warn!(path = %path.display(), error = %e, "the list of known peers can't be read and is made anew");
            Vec::new()
        }
    }
}

/// Keeps at most 512 members' addresses.
pub(crate) fn set_peers(home: &Path, peers: &[KnownPeer]) -> Result<(), HomeError> {
    let list = peers.get(..peers.len().min(PEERS_MAX)).unwrap_or(peers);
    let bytes = serde_json::to_vec_pretty(list).unwrap_or_default();
    write_private(&home.join("peers.json"), &bytes)
}

/// The node's remembered flags.
pub(crate) fn own(home: &Path) -> Result<Own, HomeError> {
    let path = home.join("node.json");
    match fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(own) => Ok(own),
            Err(e) => {
                // A power cut must not keep the node down, and what a person wrote must not be lost: it is kept beside.
                let aside = home.join("node.json.damaged");
                fs::rename(&path, &aside).map_err(failed("set aside", &path))?;
                tracing::warn!(
                    "{} can't be read ({e}): it is kept as {}, and this node starts without it",
                    path.display(),
                    aside.display()
                );
                Ok(Own::default())
            }
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Own::default()),
        Err(e) => Err(failed("read", &path)(e)),
    }
}

/// Keeps the node's flags for the next start.
pub(crate) fn set_own(home: &Path, own: &Own) -> Result<(), HomeError> {
    write_private(&home.join("node.json"), &serde_json::to_vec_pretty(own).unwrap_or_default())
}

/// Known peers in the form the network takes.
pub(crate) fn for_net(known: &[KnownPeer]) -> Vec<(crate::net::Peer, Vec<Multiaddr>)> {
    known.iter().map(|k| (k.peer.0, k.addrs.iter().filter_map(|a| a.parse().ok()).collect())).collect()
}
