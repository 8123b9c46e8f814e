//! Who this node is on the mesh: an ed25519 key in a file that only its owner may read.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use libp2p::{PeerId, identity};

use super::Peer;

/// The key pair of a node. Its public half is the node's id.
#[derive(Clone)]
pub(crate) struct Identity {
    keypair: identity::Keypair,
    peer: Peer,
}

/// Why the key file could not be used. Nothing on disk was changed, unless a new key was being written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// Reading or writing failed.
    #[error("cannot {action} the key file {path}: {source}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner may read the key.
    #[error("the key file {path} may be read by other users (mode {mode:o}); only its owner may: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else than a key.
    #[error(
        "the key file {path} is damaged or of another program; restore it from a copy, or move it away and the node starts with a new id"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl Identity {
    /// Reads the key at `path`, or makes a new one there (mode 0600, written through a temporary file in the same directory).
    ///
    /// # Errors
    /// The file cannot be read or written, others may read it, or it holds no ed25519 key.
    pub(crate) fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        let io_error = |action| move |source| IdentityError::Io { action, path: path.to_owned(), source };
        match fs::read(path) {
            Ok(bytes) => {
                refuse_exposed(path)?;
                let damaged = || IdentityError::Damaged { path: path.to_owned() };
                let keypair = identity::Keypair::from_protobuf_encoding(&bytes).map_err(|_| damaged())?;
                Self::from_keypair(keypair).ok_or_else(damaged)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let identity = Self::generate();
                let bytes = identity.keypair.to_protobuf_encoding().map_err(io::Error::other).map_err(io_error("write"))?;
                write_private(path, &bytes).map_err(io_error("write"))?;
                Ok(identity)
            }
            Err(e) => Err(io_error("read")(e)),
        }
    }

    /// A new random key that is kept nowhere.
    pub(crate) fn generate() -> Self {
        let pair = identity::ed25519::Keypair::generate();
        let peer = pair.public().to_bytes();
        Self { keypair: pair.into(), peer }
    }

    /// The id of this node: its public key.
    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    /// A signature of this node; none only if the key cannot sign, which ed25519 keys always can.
    pub(crate) fn sign(&self, text: &[u8]) -> Option<Vec<u8>> {
        self.keypair.sign(text).ok()
    }

    pub(super) fn keypair(&self) -> &identity::Keypair {
        &self.keypair
    }

    fn from_keypair(keypair: identity::Keypair) -> Option<Self> {
        let peer = keypair.public().try_into_ed25519().ok()?.to_bytes();
        Some(Self { keypair, peer })
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.keypair.public().to_peer_id())
    }
}

/// The libp2p id of a node; `None` if these 32 bytes are no ed25519 public key.
pub(crate) fn peer_id(peer: &Peer) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(peer).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

/// The public key inside a libp2p id; `None` if it is only a hash (keys other than ed25519).
pub(crate) fn raw(id: &PeerId) -> Option<Peer> {
    let hash = id.as_ref();
    // Code 0 is the identity "hash": the protobuf form of the key itself, which ed25519 keys are short enough for.
    if hash.code() != 0 {
        return None;
    }
    let key = identity::PublicKey::try_decode_protobuf(hash.digest()).ok()?;
    Some(key.try_into_ed25519().ok()?.to_bytes())
}

/// Did this node sign the text?  Its id is its public key, so nobody else has to be asked.
pub(crate) fn signed_by(peer: &Peer, text: &[u8], signature: &[u8]) -> bool {
    identity::ed25519::PublicKey::try_from_bytes(peer).is_ok_and(|key| key.verify(text, signature))
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    // tempfile makes files of mode 0600 on unix, and refuses to overwrite a key that another process wrote meanwhile.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|e| e.error)?;
    sync_dir(dir)
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// Directories cannot be opened like files on Windows; the rename is left to the file system. Not tried.
#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn refuse_exposed(path: &Path) -> Result<(), IdentityError> {
    use std::os::unix::fs::PermissionsExt;
    let meta = fs::metadata(path).map_err(|source| IdentityError::Io { action: "read", path: path.to_owned(), source })?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Windows has no mode bits; the home directory's access list protects the file. Not tried.
#[cfg(not(unix))]
fn refuse_exposed(_: &Path) -> Result<(), IdentityError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub").join("key");
        let first = Identity::load_or_create(&path).unwrap();
        let again = Identity::load_or_create(&path).unwrap();
        assert_eq!(first.peer(), again.peer());
        assert_eq!(raw(&peer_id(&first.peer()).unwrap()), Some(first.peer()));
        assert_eq!(peer_id(&first.peer()).unwrap(), first.keypair().public().to_peer_id());
    }

    #[cfg(unix)]
    #[test]
    fn an_exposed_key_is_refused_with_the_fix() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        Identity::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_damaged_key_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        Identity::load_or_create(&path).unwrap();
        fs::write(&path, b"not a key").unwrap();
        assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::Damaged { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"not a key");
    }
}
