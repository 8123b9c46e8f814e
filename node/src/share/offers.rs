//! The skills that this node has published: a short list, told to who asks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use clawmesh_protocol::ids::Hash;
use serde::{Deserialize, Serialize};

use crate::store::sync_dir;

/// Most skills one node publishes, and most that are believed of another.
pub(crate) const OFFERS_MAX: usize = 256;
/// Longest name of a skill, bytes.
const NAME_MAX: usize = 128;

/// A published skill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    /// The skill's name.
    pub(crate) name: String,
    /// The hash of its content, 64 hexadecimal digits.
    pub(crate) hash: String,
    /// The blob of its archive.
    pub(crate) blob: Hash,
    /// The archive's length, bytes.
    pub(crate) len: u64,
    /// Its files.
    pub(crate) files: u32,
    /// What it says of itself; at most 200 characters.
    pub(crate) description: String,
    /// It names a command that the mesh runs.
    pub(crate) runs: bool,
    /// Ms since 1970.
    pub(crate) published_at: u64,
}

impl Offer {
    /// Within all bounds, so that what a stranger says can be printed and looked for.
    pub(crate) fn is_sane(&self) -> bool {
        let plain = |s: &str, max: usize| s.len() <= max && !s.chars().any(char::is_control);
        !self.name.is_empty()
            && plain(&self.name, NAME_MAX)
            && plain(&self.description, 800)
            && self.hash.len() == 64
            && self.hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            && self.len <= super::ARCHIVE_MAX
    }
}

/// This node's list, kept in a file of the home. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Offers {
    path: Arc<PathBuf>,
    all: Arc<Mutex<Vec<Offer>>>,
}

impl Offers {
    /// Reads the list. One that cannot be read is begun anew, with a warning.
    pub(crate) fn open(home: &Path) -> Offers {
        let path = home.join("offers.json");
        let all = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Vec<Offer>>(&bytes).unwrap_or_else(|e| {
                tracing::warn!(path = %path.display(), error = %e, "the list of published skills is damaged and begun anew: publish them again");
                Vec::new()
            }),
            Err(_) => Vec::new(),
        };
        let all = all.into_iter().filter(Offer::is_sane).take(OFFERS_MAX).collect();
        Offers { path: Arc::new(path), all: Arc::new(Mutex::new(all)) }
    }

    /// All of them, by name.
    pub(crate) fn list(&self) -> Vec<Offer> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds one; an older one of the same name is replaced and returned.
    ///
    /// # Errors
    /// Too many, or out of bounds, or the file cannot be written: nothing has changed.
    pub(crate) fn add(&self, offer: Offer) -> io::Result<Option<Offer>> {
        if !offer.is_sane() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the skill's name, description or size is out of bounds"));
        }
        self.change(|all| {
            let old = all.iter().position(|o| o.name == offer.name).map(|at| all.remove(at));
            if all.len() >= OFFERS_MAX {
                return Err(io::Error::other(format!("{OFFERS_MAX} skills are published here, which is the limit")));
            }
            let at = all.partition_point(|o| o.name < offer.name);
            all.insert(at, offer);
            Ok(old)
        })
    }

    /// Takes one back.
    ///
    /// # Errors
    /// The file cannot be written: nothing has changed.
    pub(crate) fn withdraw(&self, name: &str) -> io::Result<Option<Offer>> {
        self.change(|all| Ok(all.iter().position(|o| o.name == name).map(|at| all.remove(at))))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Offer>) -> io::Result<T>) -> io::Result<T> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = all.clone();
        let done = change(&mut next)?;
        let tmp = self.path.with_extension("json.new");
        fs::write(&tmp, serde_json::to_vec_pretty(&next).map_err(io::Error::other)?)?;
        fs::File::open(&tmp)?.sync_all()?;
        fs::rename(&tmp, &*self.path)?;
        self.path.parent().map_or(Ok(()), sync_dir)?;
        *all = next;
        Ok(done)
    }
}
