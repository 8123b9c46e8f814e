//! A skill of somebody else in the node's folder of skills, with a note where it came from.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clawmesh_protocol::{
    files::check_path,
    ids::{Hash, Peer},
};
use serde::{Deserialize, Serialize};

use super::pack::{Packed, content_hash, read_folder};
use super::{ORIGIN_FILE, Refused, refused};

/// Where an installed skill came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The skill's name.
    pub(crate) name: String,
    /// The hash of its content.
    pub(crate) hash: String,
    /// The blob it came in.
    pub(crate) blob: Hash,
    /// The node that published it.
    pub(crate) publisher: Peer,
    /// That node's name at the time.
    pub(crate) publisher_name: String,
    /// Ms since 1970.
    pub(crate) installed_at: u64,
}

/// An installed skill as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Installed {
    /// Where it came from.
    #[serde(flatten)]
    pub(crate) origin: Origin,
    /// Its folder.
    pub(crate) dir: PathBuf,
    /// Its content is not what was installed any more.
    pub(crate) changed: bool,
}

/// What lies at the place of a skill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing.
    Free,
    /// A skill that was installed from the mesh.
    Ours(Box<Installed>),
    /// Something of the user's own.
    Foreign,
}

/// The folder of a skill of this name.
///
/// # Errors
/// The name cannot be a folder on every system.
fn folder(skills: &Path, name: &str) -> Result<PathBuf, Refused> {
    if name.contains('/') || name.starts_with('.') {
        return refused(format!("a skill called {name:?} cannot have a folder of that name"));
    }
    check_path(name).map_err(|why| Refused(format!("a skill called {name:?} cannot have a folder of that name: it {why}")))?;
    Ok(skills.join(name))
}

/// The note in a folder, if there is a readable one.
pub(crate) fn origin_of(dir: &Path) -> Option<Origin> {
    let path = dir.join(ORIGIN_FILE);
    let is_file = fs::symlink_metadata(&path).is_ok_and(|m| m.is_file() && m.len() < 64 << 10);
    serde_json::from_slice(&fs::read(path).ok().filter(|_| is_file)?).ok()
}

/// What lies at the place of a skill of this name.
///
/// # Errors
/// The name cannot be a folder.
pub(crate) fn state_of(skills: &Path, name: &str) -> Result<Place, Refused> {
    let dir = folder(skills, name)?;
    recover(skills, name);
    if fs::symlink_metadata(&dir).is_err() {
        return Ok(Place::Free);
    }
    Ok(look(&dir).map_or(Place::Foreign, |i| Place::Ours(Box::new(i))))
}

fn look(dir: &Path) -> Option<Installed> {
    if !fs::symlink_metadata(dir).is_ok_and(|m| m.is_dir()) {
        return None;
    }
    let origin = origin_of(dir)?;
    let changed = read_folder(dir).map_or(true, |files| content_hash(&files) != origin.hash);
    Some(Installed { origin, dir: dir.to_owned(), changed })
}

/// All skills that were installed from the mesh, by name.
pub(crate) fn installed(skills: &Path) -> Vec<Installed> {
    let mut all: Vec<Installed> = fs::read_dir(skills)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| !e.file_name().as_encoded_bytes().starts_with(b"."))
        .filter_map(|e| look(&e.path()))
        .collect();
    all.sort_by(|a, b| a.origin.name.cmp(&b.origin.name));
    all
}

/// Puts a skill into its place, whole or not at all. What lies there goes only if it was installed from the mesh and is as it was,
/// or `force` says that changes may be lost.
///
/// # Errors
/// A sentence; what was there before is there still, and nothing else.
pub(crate) fn place(skills: &Path, files: &Packed, origin: &Origin, force: bool) -> Result<PathBuf, Refused> {
    let dir = folder(skills, &origin.name)?;
    match state_of(skills, &origin.name)? {
        Place::Foreign => {
            return refused(format!(
                "{} is there and was not installed from the mesh: it is yours, and stays; move it away first",
                dir.display()
            ));
        }
        Place::Ours(old) if old.changed && !force => {
            return refused(format!("{} was changed after it was installed: 'skills update --force' loses the changes", dir.display()));
        }
        Place::Ours(_) | Place::Free => {}
    }
    let failed = |e: io::Error| Refused(format!("cannot write the skill into {}: {e}", dir.display()));
    fs::create_dir_all(skills).map_err(failed)?;
    let tmp = tempfile::Builder::new().prefix(".incoming-").tempdir_in(skills).map_err(failed)?;
    write(tmp.path(), files, origin).map_err(failed)?;
    let old = parked(skills, &origin.name);
    if dir.exists() {
        fs::rename(&dir, &old).map_err(failed)?;
    }
    let moved = fs::rename(tmp.path(), &dir);
    if moved.is_err() {
        recover(skills, &origin.name);
    }
    moved.map_err(failed)?;
    // The temporary directory has its final name now, so there is nothing left to remove.
    let _ = tmp.keep();
    recover(skills, &origin.name);
    Ok(dir)
}

/// Where an old version waits while the new one takes its place.
fn parked(skills: &Path, name: &str) -> PathBuf {
    skills.join(format!(".replaced-{name}"))
}

/// Ends a replacement: the old version goes when the new one is there, and comes back when it is not.
fn recover(skills: &Path, name: &str) {
    let (old, dir) = (parked(skills, name), skills.join(name));
    if fs::symlink_metadata(&old).is_err() {
        return;
    }
    let done = if fs::symlink_metadata(&dir).is_ok() { fs::remove_dir_all(&old) } else { fs::rename(&old, &dir) };
    if let Err(e) = done {
        tracing::warn!(path = %old.display(), error = %e, "the old version of a skill could not be tidied up");
    }
}

fn write(dir: &Path, files: &Packed, origin: &Origin) -> io::Result<()> {
    for (name, content) in files {
        let path = name.split('/').fold(dir.to_owned(), |at, part| at.join(part));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // A second name for one file, on a file system that folds more than we know of, is an error here.
        create(&path, content)?;
    }
    let note = serde_json::to_vec_pretty(origin).map_err(io::Error::other)?;
    create(&dir.join(ORIGIN_FILE), &note)
}

fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Removes a skill that was installed from the mesh.
///
/// # Errors
/// It is not there, is the user's own, or was changed and `force` is not given.
pub(crate) fn remove(skills: &Path, name: &str, force: bool) -> Result<Installed, Refused> {
    match state_of(skills, name)? {
        Place::Free => refused(format!("there is no skill {name:?} in {}", skills.display())),
        Place::Foreign => {
            refused(format!("{} was not installed from the mesh: it is yours; remove it by hand", skills.join(name).display()))
        }
        Place::Ours(i) if i.changed && !force => {
            refused(format!("{} was changed after it was installed: 'skills remove --force' loses the changes", i.dir.display()))
        }
        Place::Ours(i) => {
            // Out of sight first, so that nobody finds half of it.
            let gone = parked(skills, name);
            let failed = |e: io::Error| Refused(format!("cannot remove {}: {e}", i.dir.display()));
            fs::rename(&i.dir, &gone).map_err(failed)?;
            fs::remove_dir_all(&gone).map_err(failed)?;
            Ok(*i)
        }
    }
}
