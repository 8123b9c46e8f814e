//! Submits the tasks through all nodes in turn, also while nodes are being killed.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use clawmesh_protocol::{face::NewTask, ids::ShortId};
use tokio::time::Instant;

use super::{report::Ack, watch::Watch, work::Item};
use crate::{
    api::types::{Entry, Problem},
    nursery::{Doors, worth_another_try},
    output::Failure,
};

/// Tasks in one submit.
const CHUNK: usize = 5;
/// Acknowledged tasks without an outcome beyond which nothing more is submitted: the submits shall last as long as the demo.
const OPEN_MAX: usize = 120;
/// Pause before a cut-off submit is sent again elsewhere.
const PAUSE: Duration = Duration::from_millis(50);
/// A submit that no node has acknowledged for this long is given up.
const GIVE_UP: Duration = Duration::from_secs(60);

/// The tasks on their way into the mesh.
#[derive(Debug)]
pub(super) struct Pump {
    doors: Doors,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Item>,
    taken: Vec<(Ack, Item)>,
    refused: Vec<String>,
    sent_again: usize,
}

/// What became of one task of a submit.
enum Fate {
    /// In the mesh.
    Taken(ShortId, Option<u32>),
    /// Worth another try.
    Later,
    /// No, and why.
    Refused(String),
}

impl Pump {
    pub(super) fn new(doors: Doors, items: Vec<Item>) -> Self {
        Self { doors, state: Mutex::new(State { waiting: items.into(), ..State::default() }) }
    }
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// What the mesh has taken, what it refused, and how many submits were sent again.
    pub(super) fn account(&self) -> (Vec<(Ack, Item)>, Vec<String>, usize) {
        let s = self.state();
        (s.taken.clone(), s.refused.clone(), s.sent_again)
    }
    /// Submits until nothing is left, beginning each round at node `lane`.
    ///
    /// # Errors
    /// No node takes a task for a minute, or all are gone.
    pub(super) async fn lane(&self, lane: usize, watch: &Watch) -> Result<(), Failure> {
        loop {
            watch.until("tasks to end", |d| d.answered < d.ended + OPEN_MAX).await?;
            let chunk: Vec<Item> = {
                let mut s = self.state();
                let n = CHUNK.min(s.waiting.len());
                s.waiting.drain(..n).collect()
            };
            if chunk.is_empty() {
                return Ok(());
            }
            self.submit(chunk, lane, watch).await?;
        }
    }
    /// Submits some tasks until each of them is acknowledged or refused.
    ///
    /// # Errors
    /// As for [`Self::lane`].
    pub(super) async fn submit(&self, chunk: Vec<Item>, first: usize, watch: &Watch) -> Result<(), Failure> {
        let deadline = Instant::now() + GIVE_UP;
        let mut chunk = chunk;
        let mut node = first;
        loop {
            let Some((index, client)) = self.doors.any(node) else { return Err(Failure::refused("all nodes are gone")) };
            let tasks: Vec<NewTask> = chunk.iter().map(|i| i.task.clone()).collect();
            let n = chunk.len();
            let why = match client.submit_many(&tasks).await {
                Ok(entries) => {
                    let fates = chunk.into_iter().zip(entries).map(|(item, entry)| (fate(entry), item));
                    chunk = self.settle(fates.collect());
                    watch.answered(n - chunk.len());
                    "the mesh is busy".to_owned()
                }
                Err(e) if worth_another_try(&e) => e.to_string(),
                Err(e) => return Err(e.into()),
            };
            if chunk.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failure::refused(format!("no node acknowledged a task within {}: {why}", humantime::format_duration(GIVE_UP))));
            }
            self.state().sent_again += chunk.len();
            node = index + 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
    /// Books what the mesh said; the tasks worth another try.
    fn settle(&self, fates: Vec<(Fate, Item)>) -> Vec<Item> {
        let mut again = Vec::new();
        let mut s = self.state();
        for (fate, item) in fates {
            match fate {
                Fate::Taken(id, copies) => s.taken.push((Ack { id, kind: item.kind, copies, counted: item.counted }, item)),
                Fate::Later => again.push(item),
                Fate::Refused(why) => s.refused.push(why),
            }
        }
        again
    }
}

fn fate(entry: Entry) -> Fate {
    match entry {
        Entry::Accepted(a) => Fate::Taken(a.id, Some(a.copies)),
        Entry::Refused { error } => match joined(&error) {
            Some(id) => Fate::Taken(id, None),
            None if matches!(error.code.as_str(), "busy" | "no_coordinator" | "stopping" | "timeout") => Fate::Later,
            None => Fate::Refused(error.detail),
        },
    }
}

/// The id under which the mesh has this very task already: it was acknowledged to a node that was killed before it could
/// pass the acknowledgement on.  The id is in the sentence only.
fn joined(problem: &Problem) -> Option<ShortId> {
    if !problem.detail.contains("is taken by the same task") {
        return None;
    }
    let words = problem.detail.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|w| w.len() == 17 && w.starts_with('t')).find_map(|w| serde_json::from_value(w.into()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(detail: &str) -> Problem {
        Problem {
            code: "invalid".into(),
            status: 400,
            title: "".into(),
            detail: detail.into(),
            next: String::new(),
            candidates: Vec::new(),
        }
    }

    #[test]
    fn a_task_that_is_there_already_is_taken_under_its_first_id() {
        let id = ShortId([7; 10]);
        let text = format!("key 'demo-1' is taken by the same task {id}: wait for that one with 'clawmesh tasks wait {id}'");
        assert_eq!(joined(&problem(&text)), Some(id));
        let other = format!("key 'demo-1' is taken by another task, {id}: choose another key");
        assert_eq!(joined(&problem(&other)), None);
    }
}
