//! What tasks leave behind, so that starts can be counted and ends be held up.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// A file to which tasks append lines.  Short lines are appended whole, also by several processes at once.
#[derive(Debug, Clone)]
pub struct Log {
    path: PathBuf,
}

impl Log {
    /// A log in this directory.
    pub fn new(dir: &Path, name: &str) -> Self {
        Self { path: dir.join(name) }
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// A piece of shell that appends `<task id> <attempt>` and a word.
    pub fn append(&self, word: &str) -> String {
        format!("echo \"$CLAWMESH_TASK_ID $CLAWMESH_ATTEMPT {word}\" >> '{}'", self.path.display())
    }
    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.path).unwrap_or_default().lines().map(str::to_owned).collect()
    }
    /// How many lines each task has written.
    pub fn by_task(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in self.lines() {
            let task = line.split(' ').next().unwrap_or_default().to_owned();
            *counts.entry(task).or_insert(0) += 1;
        }
        counts
    }
}

/// Tasks wait at a gate until the test opens it, so that "is running" lasts exactly as long as the test wants.
/// Dropped, it opens.
#[derive(Debug)]
pub struct Gate {
    path: PathBuf,
}

impl Gate {
    /// A closed gate in this directory.
    pub fn new(dir: &Path, name: &str) -> Self {
        Self { path: dir.join(name) }
    }
    /// A piece of shell that waits until the gate is open.
    pub fn wait(&self) -> String {
        format!("while [ ! -e '{}' ]; do sleep 0.05; done", self.path.display())
    }
    /// Lets everybody through.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn open(&self) {
        fs::write(&self.path, "").expect("the gate's file can be written");
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // The directory may be gone already, and the waiting tasks with it.
        drop(fs::write(&self.path, ""));
    }
}
