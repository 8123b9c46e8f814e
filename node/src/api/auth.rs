//! Who may talk to this node: the token in its home, the file that names its port, and the `Host` check.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use axum::http::{HeaderMap, Uri, header, uri::Authority};
use data_encoding::BASE32_NOPAD;
use subtle::ConstantTimeEq;

use super::types::ApiFile;

/// The file with the token, in the home.
const TOKEN_FILE: &str = "api.token";
/// The file with address, process and node, in the home.
const API_FILE: &str = "api.json";
/// Characters of a token: 32 bytes in base32 without padding.
const TOKEN_LEN: usize = 52;

/// The secret of one home: whoever can read the home may use the node.
#[derive(Clone)]
pub(crate) struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Reads the home's token, or makes one of 32 random bytes (file mode 0600).  A damaged file is replaced.
    ///
    /// # Errors
    /// The home is not there or cannot be written; nothing is changed.
    pub(crate) fn load_or_create(home: &Path) -> io::Result<Self> {
        match Self::load(home) {
            Ok(Some(token)) => {
                restrict(&home.join(TOKEN_FILE))?;
                return Ok(token);
            }
            Ok(None) => tracing::warn!("the file {TOKEN_FILE} in the home is damaged: a new token replaces it"),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let token = Self(BASE32_NOPAD.encode(&rand::random::<[u8; 32]>()).to_lowercase());
        write_private(&home.join(TOKEN_FILE), token.0.as_bytes())?;
        Ok(token)
    }
    /// Reads the home's token; none when the file does not hold one.
    ///
    /// # Errors
    /// Those of reading the file.
    pub(crate) fn load(home: &Path) -> io::Result<Option<Self>> {
        let text = fs::read(home.join(TOKEN_FILE))?;
        let text = String::from_utf8(text).unwrap_or_default();
        let text = text.trim();
        let ok = text.len() == TOKEN_LEN && text.bytes().all(|c| c.is_ascii_lowercase() || (b'2'..=b'7').contains(&c));
        Ok(ok.then(|| Self(text.to_owned())))
    }
    /// The characters, for the `Authorization` header.
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
    /// True when the request carries this token; takes the same time wherever the first difference is.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).map(|v| v.as_bytes()).unwrap_or_default();
        let Some((scheme, given)) = given.split_at_checked(7) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(given.ct_eq(self.0.as_bytes()))
    }
}

/// True when the request names this machine's loopback.  A page of a web site that made its name point to 127.0.0.1
/// (DNS rebinding) sends its own name here.
pub(crate) fn local_host(uri: &Uri, headers: &HeaderMap) -> bool {
    let header = headers.get(header::HOST).and_then(|h| h.to_str().ok()).and_then(|h| h.parse::<Authority>().ok());
    let names_us =
        |a: &Authority| !a.as_str().contains('@') && matches!(a.host().to_ascii_lowercase().as_str(), "127.0.0.1" | "localhost" | "[::1]");
    header.as_ref().is_some_and(names_us) && uri.authority().is_none_or(names_us)
}

/// The file in a home that says where its node listens; removed when dropped, unless another node has written it since.
#[derive(Debug)]
pub(super) struct Announcement {
    path: PathBuf,
    pid: u32,
}

impl Announcement {
    /// Writes the file (mode 0600), replacing one that a crash has left.
    ///
    /// # Errors
    /// Those of writing the file.
    pub(super) fn write(home: &Path, file: &ApiFile) -> io::Result<Self> {
        let path = home.join(API_FILE);
        write_private(&path, serde_json::to_string(file)?.as_bytes())?;
        Ok(Self { path, pid: file.pid })
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let ours = fs::read(&self.path).ok().and_then(|b| serde_json::from_slice::<ApiFile>(&b).ok()).is_some_and(|f| f.pid == self.pid);
        if ours && let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!(error = %e, "cannot remove {}", self.path.display());
        }
    }
}

/// Where the node of this home says it listens; none when no node has said so.
///
/// # Errors
/// Those of reading the file, and `InvalidData` when it does not hold what it should.
pub(crate) fn announced(home: &Path) -> io::Result<Option<ApiFile>> {
    match fs::read(home.join(API_FILE)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes a file which only its owner can read, whole or not at all (`tempfile` makes it 0600 on Unix; on Windows it
/// has the rights of the home, which is in the user's profile: not tried there).
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = tempfile::Builder::new().prefix(".api").tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Takes away the rights that somebody's `chmod` or copy has given to others.
#[cfg(unix)]
fn restrict(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

#[cfg(not(unix))]
fn restrict(_: &Path) -> io::Result<()> {
    Ok(())
}
