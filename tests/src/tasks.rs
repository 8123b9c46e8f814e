//! What tests ask again and again about tasks.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Node, wait_until};

/// A task as the API takes it, built up from a command or a skill.
#[derive(Debug, Clone)]
pub struct Task(Value);

impl Task {
    /// A piece of shell.
    pub fn sh(script: &str) -> Self {
        Self(json!({ "argv": ["sh", "-c", script] }))
    }
    /// A skill or builtin.
    pub fn skill(name: &str, input: &Value) -> Self {
        Self(json!({ "skill": name, "input": input.to_string() }))
    }
    /// Sets a field of the API.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.0[field] = value.into();
        self
    }
    /// The body of a submit.
    pub(crate) fn list(tasks: &[Self]) -> Value {
        Value::Array(tasks.iter().map(|t| t.0.clone()).collect())
    }
}

/// So many times the same task.
pub fn batch_of(n: usize, task: &Task) -> Vec<Task> {
    vec![task.clone(); n]
}

impl Node {
    /// Submits tasks in one request; all must be acknowledged.  Returns their ids.
    ///
    /// # Panics
    /// When one is refused.
    #[track_caller]
    pub fn submit(&self, tasks: &[Task]) -> Vec<String> {
        let answer =
            self.api("POST", "/api/v1/tasks", Some(&Task::list(tasks))).unwrap_or_else(|e| panic!("submit through {}: {e}", self.name()));
        assert_eq!(answer.status, 200, "submit through {}: {}", self.name(), answer.body);
        let entries = answer.json();
        let entries = entries["tasks"].as_array().expect("a list of entries");
        let id = |e: &Value| e["id"].as_str().unwrap_or_else(|| panic!("{} refused a task: {e}", self.name())).to_owned();
        let ids: Vec<String> = entries.iter().map(id).collect();
        assert_eq!(ids.len(), tasks.len(), "one entry for each task");
        ids
    }
    /// A task as the mesh sees it.
    ///
    /// # Errors
    /// No answer.
    pub fn task(&self, id: &str) -> Result<Value, String> {
        self.get(&format!("/api/v1/tasks/{id}"))
    }
    /// All tasks in this state (any, when empty), over all pages.
    ///
    /// # Errors
    /// No answer.
    pub fn tasks(&self, state: &str) -> Result<Vec<Value>, String> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let mut path = "/api/v1/tasks?limit=500".to_owned();
            if !state.is_empty() {
                path.push_str(&format!("&state={state}"));
            }
            if let Some(last) = all.last().and_then(|t| t["id"].as_str()) {
                path.push_str(&format!("&before={last}"));
            }
            let page = self.get(&path)?;
            let tasks = page["tasks"].as_array().cloned().unwrap_or_default();
            let done = tasks.is_empty() || page["more"] != true;
            all.extend(tasks);
            if done {
                return Ok(all);
            }
        }
    }
    /// Waits until the task is in this state; returns it.
    ///
    /// # Panics
    /// When it does not come there in time.
    #[track_caller]
    pub fn task_until(&self, id: &str, state: &str, limit: Duration) -> Value {
        self.task_that(id, &format!("{id} is {state}"), limit, |t| t["state"] == state)
    }
    /// Waits until a task is as wanted; returns it.
    ///
    /// # Panics
    /// When it does not come there in time.
    #[track_caller]
    pub fn task_that(&self, id: &str, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, limit, || {
            let task = self.task(id)?;
            if wanted(&task) { Ok(task) } else { Err(format!("it is {task}")) }
        })
    }
    /// Waits until all of the tasks have completed; returns them as the mesh shows them.
    ///
    /// # Panics
    /// When one ends in another way, or not in time.
    #[track_caller]
    pub fn all_complete(&self, ids: &[String], limit: Duration) -> Vec<Value> {
        let mut open: Vec<String> = ids.to_vec();
        let start = Instant::now();
        let mut seen = String::new();
        while !open.is_empty() {
            if start.elapsed() > limit {
                let why = self.get(&format!("/api/v1/tasks/{}/explain", open[0])).map_or_else(|e| e, |v| v.to_string());
                panic!("{} of {} tasks have not ended; {seen}\nthe first: {:?}\n{why}", open.len(), ids.len(), self.task(&open[0]));
            }
            let some: Vec<&String> = open.iter().take(1_000).collect();
            let body = json!({ "ids": some, "min": some.len(), "timeout_ms": 1_000, "output": false });
            match self.api("POST", "/api/v1/tasks/wait", Some(&body)) {
                Ok(answer) if answer.status == 200 => {
                    let answer = answer.json();
                    for end in answer["ended"].as_array().into_iter().flatten() {
                        assert_eq!(end["state"], "completed", "{end}");
                        open.retain(|id| end["asked"] != id.as_str());
                    }
                }
                // An election may be going on.
                Ok(answer) => seen = answer.body,
                Err(e) => seen = e,
            }
        }
        let mut shown = wait_until("the mesh lists its tasks", limit, || self.tasks(""));
        shown.retain(|t| t["id"].as_str().is_some_and(|id| ids.iter().any(|i| i == id)));
        assert_eq!(shown.len(), ids.len(), "tasks that have completed are listed");
        shown
    }
}
