//! What the demo asks the mesh to do: commands and the two sample skills, on real files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clawmesh_protocol::face::NewTask;

use crate::nursery::SKILLS_RUN_HERE;

/// Most files that tasks read; more would change nothing.
const FILES_MAX: usize = 200;
/// Directories below the root that are searched for files.
const DEPTH_MAX: usize = 4;
/// Bytes of a text that goes into a task: enough to travel as a blob, little enough for some hundred of them.
const TEXT_MAX: usize = 16 << 10;
/// Time limit of one attempt.  None of the work takes a second by itself.
const LIMIT_MS: u64 = 60_000;

/// What a task's output must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    /// Anything.
    Any,
    /// Exactly this.
    Exactly(String),
    /// JSON with this number of bytes in `bytes`.
    Bytes(u64),
}

/// One task to submit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// A word for the tables of the report.
    pub(super) kind: &'static str,
    /// The task.
    pub(super) task: NewTask,
    /// It writes its id and attempt into the tally each time it is executed.
    pub(super) counted: bool,
    /// What it must write on stdout.
    pub(super) expected: Expected,
}

/// The files that tasks work on, and the file in which they leave a line each time they are executed.
#[derive(Debug, Clone)]
pub(super) struct Material {
    files: Vec<PathBuf>,
    dir: PathBuf,
    tally: PathBuf,
    /// The files are this repository's own.
    pub(super) repository: bool,
}

impl Material {
    /// The repository that this program was built from when it is still there, else a few texts written into `dir`.
    ///
    /// # Errors
    /// Those of writing into `dir`.
    pub(super) fn gather(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let mut files = Vec::new();
        if let Some(root) = root.filter(|r| r.join("Cargo.toml").is_file()) {
            collect(root, 0, &mut files);
        }
        if let (Some(root), false) = (root, files.is_empty()) {
            files.sort();
            return Ok(Self { files, dir: root.to_owned(), tally: dir.join("executions.txt"), repository: true });
        }
        let texts = dir.join("texts");
        fs::create_dir_all(&texts)?;
        for i in 1..=20_usize {
            let file = texts.join(format!("text-{i}.md"));
            let lines: String = (0..i * 40).map(|n| format!("line {n} of text {i}: many nodes, one queue, no task lost\n")).collect();
            fs::write(&file, lines)?;
            files.push(file);
        }
        Ok(Self { files, dir: texts, tally: dir.join("executions.txt"), repository: false })
    }

    /// The file with one line `id attempt` for each execution of a counted task.
    pub(super) fn tally(&self) -> &Path {
        &self.tally
    }

    /// `n` tasks, always the same ones for the same files.
    pub(super) fn tasks(&self, n: usize) -> Vec<Item> {
        (0..n)
            .map(|i| {
                let mut item = if cfg!(unix) { self.on_unix(i) } else { echo(i) };
                // Sent again after a kill, the same work is not taken twice (O4).
                item.task.key = Some(format!("demo-{i}"));
                item.task.timeout_ms = Some(LIMIT_MS);
                item
            })
            .collect()
    }

    fn on_unix(&self, i: usize) -> Item {
        // Files go round independently of the kinds of work: 20 kinds in turn, 7 files further with each round.
        let file = self.files.get((i / 20 * 7 + i % 20) % self.files.len().max(1)).cloned().unwrap_or_default();
        let name = file.to_string_lossy().into_owned();
        match i % 20 {
            0 => command("uname -a", ["uname", "-a"]),
            1 => command("ls", ["ls", "-l", &self.dir.to_string_lossy()]),
            2 => command("wc", ["wc", "-l", &name]),
            3 => command("cksum", ["cksum", &name]),
            4 | 14 if SKILLS_RUN_HERE => word_count(&file).unwrap_or_else(|| echo(i)),
            5 | 15 if SKILLS_RUN_HERE => skill("file-digest", name.clone(), fs::metadata(&file).ok().map(|m| m.len())),
            6 | 16 => echo(i),
            // Half a second and more: these are running when a node is killed.
            7 | 10 | 17 => self.counted("sleep 0.6", "0.6"),
            8 | 11 | 13 | 18 => self.counted("sleep 0.3", "0.3"),
            _ => self.counted("sleep 0.05", "0.05"),
        }
    }

    /// Leaves a line in the tally, then sleeps.
    fn counted(&self, kind: &'static str, seconds: &str) -> Item {
        // One short append is one write: lines of tasks at once do not mix.
        let script = r#"echo "$CLAWMESH_TASK_ID $CLAWMESH_ATTEMPT" >> "$1" && sleep "$2""#;
        let mut item = command(kind, ["sh", "-c", script, "sh", &self.tally.to_string_lossy(), seconds]);
        item.counted = true;
        item
    }
}

fn command<const N: usize>(kind: &'static str, argv: [&str; N]) -> Item {
    let task = NewTask { argv: Some(argv.iter().map(|a| (*a).to_owned()).collect()), ..NewTask::default() };
    Item { kind, task, counted: false, expected: Expected::Any }
}

fn skill(name: &'static str, input: String, bytes: Option<u64>) -> Item {
    let task = NewTask { skill: Some(name.to_owned()), input: Some(input), ..NewTask::default() };
    Item { kind: name, task, counted: false, expected: bytes.map_or(Expected::Any, Expected::Bytes) }
}

/// The builtin: no process, an answer that can be checked.
pub(super) fn echo(i: usize) -> Item {
    let text = format!("hello {i}");
    let task = NewTask { skill: Some("echo".to_owned()), input: Some(text.clone()), ..NewTask::default() };
    Item { kind: "echo", task, counted: false, expected: Expected::Exactly(text) }
}

/// Counts the words of a file's first 16 KiB; none when it cannot be read.
fn word_count(file: &Path) -> Option<Item> {
    let text = fs::read(file).ok()?;
    let mut text = String::from_utf8_lossy(text.get(..TEXT_MAX).unwrap_or(&text)).into_owned();
    text.truncate(text.floor_char_boundary(TEXT_MAX));
    let bytes = text.len() as u64;
    Some(skill("word-count", text, Some(bytes)))
}

/// Text files of a source tree; directories that hold no sources are passed over.
fn collect(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if files.len() >= FILES_MAX || name.starts_with('.') || name == "target" || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            if depth < DEPTH_MAX {
                collect(&path, depth + 1, files);
            }
        } else if path.extension().is_some_and(|e| ["rs", "md", "toml", "sh", "txt"].iter().any(|x| e == *x)) {
            files.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_passes_the_checks_of_a_node_and_has_its_own_key() {
        let dir = tempfile::tempdir().unwrap();
        let material = Material::gather(dir.path()).unwrap();
        let items = material.tasks(100);
        let mut keys: Vec<_> = items.iter().filter_map(|i| i.task.key.clone()).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 100);
        for item in &items {
            assert_eq!(clawmesh_protocol::spec::split(&item.task).map(drop), Ok(()), "{item:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_share_of_the_tasks_counts_its_executions() {
        let dir = tempfile::tempdir().unwrap();
        let items = Material::gather(dir.path()).unwrap().tasks(100);
        assert!(items.iter().filter(|i| i.counted).count() >= 30);
        assert!(items.iter().any(|i| i.kind == "word-count") && items.iter().any(|i| i.kind == "file-digest"));
    }
}
