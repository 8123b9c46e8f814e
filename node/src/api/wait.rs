//! `POST /tasks/wait`: a long poll for the end of tasks.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Json, body::Body, extract::State};
use clawmesh_protocol::{
    face::{Answer, Command, DataView, Query, Reply, State as TaskState},
    ids::{Peer, ShortId, TaskId},
};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    routes::App,
    tasks::{output, passing, result_view},
    types::{Captures, Ended, Problem, WaitFor, Waited},
};

/// Tasks submitted here whose whole id is remembered; older ones are asked for at the coordinator instead.
const REMEMBERED_MAX: usize = 100_000;
/// Long polls at once.
const POLLS_MAX: usize = 128;
/// Most ids in one long poll.
const IDS_MAX: usize = 10_000;
/// Longest long poll.
const TIMEOUT_MAX_MS: u64 = 60_000;
/// Pause between two questions to the coordinator about a task submitted elsewhere.
const LOOK: Duration = Duration::from_millis(200);
/// Questions of one long poll on the way at once.
const LOOKS_MAX: usize = 16;
/// Output in one answer, bytes; what does not fit is asked for by itself.
const OUTPUT_MAX: usize = 8 << 20;

/// The whole ids of tasks submitted through this node, and the bound on long polls.
pub(super) struct Waits {
    known: Mutex<Known>,
    polls: Semaphore,
}

#[derive(Default)]
struct Known {
    ids: HashMap<ShortId, TaskId>,
    /// Oldest first.
    order: VecDeque<ShortId>,
}

impl Default for Waits {
    fn default() -> Self {
        Self { known: Mutex::default(), polls: Semaphore::new(POLLS_MAX) }
    }
}

impl Waits {
    /// Keeps the whole id of a task submitted here.
    pub(super) fn remember(&self, short: ShortId, id: TaskId) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.ids.insert(short, id).is_none() {
            known.order.push_back(short);
        }
        if known.order.len() > REMEMBERED_MAX
            && let Some(oldest) = known.order.pop_front()
        {
            known.ids.remove(&oldest);
        }
    }
    fn whole(&self, typed: &str) -> Option<TaskId> {
        // Exactly the printed form; anything shorter is a prefix that the coordinator must look up.
        let short: ShortId = serde_json::from_value(serde_json::Value::String(typed.to_owned())).ok()?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).ids.get(&short).copied()
    }
}

/// The end of a task before its output is read.
struct End {
    asked: String,
    id: ShortId,
    state: TaskState,
    exit_code: Option<i32>,
    reason: String,
    worker: Option<Peer>,
    data: Option<DataView>,
}

/// The handler.
pub(super) async fn wait(State(app): State<Arc<App>>, body: Body) -> Result<Json<Waited>, Problem> {
    let wanted: WaitFor = app.json(body).await?;
    if wanted.ids.is_empty() || wanted.ids.len() > IDS_MAX {
        return Err(Problem::invalid(format!("{} ids were given, 1 to {IDS_MAX} are taken", wanted.ids.len())));
    }
    if wanted.timeout_ms > TIMEOUT_MAX_MS {
        return Err(Problem::invalid(format!(
            "timeout_ms is {}, at most {TIMEOUT_MAX_MS} is taken: ask again when it has passed",
            wanted.timeout_ms
        )));
    }
    let Ok(_permit) = app.waits.polls.try_acquire() else {
        return Err(Problem::busy(format!("{POLLS_MAX} long polls wait already: give several ids in one")));
    };
    let ends = gather(&app, &wanted).await?;
    let mut room = OUTPUT_MAX;
    let mut ended = Vec::with_capacity(ends.len());
    // Blobs may have to be fetched from another node: one that is asked for several tasks does not wait for that.
    let fetch = wanted.ids.len() == 1;
    for end in ends {
        ended.push(with_output(&app, end, wanted.output, fetch, &mut room).await);
    }
    Ok(Json(Waited { ended }))
}

/// Waits until enough of the tasks have ended, the time has passed, or the node stops.
async fn gather(app: &App, wanted: &WaitFor) -> Result<Vec<End>, Problem> {
    let deadline = Instant::now() + Duration::from_millis(wanted.timeout_ms);
    let min = wanted.min.clamp(1, wanted.ids.len());
    let looks = Semaphore::new(LOOKS_MAX);
    let mut waiting: FuturesUnordered<_> = wanted.ids.iter().map(|id| end_of(app, id, &looks)).collect();
    let mut ends = Vec::new();
    while ends.len() < min {
        tokio::select! {
            biased;
            next = waiting.next() => match next {
                Some(end) => ends.push(end?),
                None => break,
            },
            () = tokio::time::sleep_until(deadline) => break,
            () = app.stop.cancelled() => break,
        }
    }
    // What else is there already costs nobody a second question.
    while let Some(Some(end)) = waiting.next().now_or_never() {
        ends.push(end?);
    }
    Ok(ends)
}

async fn end_of(app: &App, asked: &str, looks: &Semaphore) -> Result<End, Problem> {
    if let Some(id) = app.waits.whole(asked) {
        match app.backend().call(Command::Await(id)).await {
            Ok(Reply::Ended(end)) => {
                return Ok(End {
                    asked: asked.to_owned(),
                    id: end.id,
                    state: end.state,
                    exit_code: end.exit_code,
                    reason: end.reason,
                    worker: end.worker,
                    data: Some(end.data),
                });
            }
            Err(gone) => return Err(gone.into()),
            // Its result was taken long ago, or too many wait: the coordinator knows.
            Ok(_) => {}
        }
    }
    loop {
        match look(app, asked, looks).await {
            Ok(Some(end)) => return Ok(end),
            Ok(None) => {}
            Err(p) if passing(&p) => {}
            Err(p) => return Err(p),
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn look(app: &App, asked: &str, looks: &Semaphore) -> Result<Option<End>, Problem> {
    let _permit = looks.acquire().await;
    match app.query(Query::Show(asked.to_owned())).await? {
        Answer::Task(task) if task.state.ended() => {}
        _ => return Ok(None),
    }
    let view = result_view(app, asked).await?;
    Ok(Some(End {
        asked: asked.to_owned(),
        id: view.task.id,
        state: view.task.state,
        exit_code: view.task.exit_code,
        reason: view.task.reason,
        worker: view.worker,
        data: view.data,
    }))
}

async fn with_output(app: &App, end: End, wanted: bool, fetch: bool, room: &mut usize) -> Ended {
    let mut elsewhere = false;
    let out = match end.data {
        Some(DataView::Blob(..)) if wanted && !fetch => {
            elsewhere = true;
            None
        }
        Some(data) if wanted => match output(app, data, end.worker).await {
            Ok(Some(c)) if c.len() > *room => {
                elsewhere = true;
                None
            }
            Ok(c) => {
                *room -= c.as_ref().map_or(0, Captures::len);
                c
            }
            // Asked for by itself, the reason is told.
            Err(_) => {
                elsewhere = true;
                None
            }
        },
        _ => None,
    };
    Ended {
        asked: end.asked,
        id: end.id,
        state: end.state,
        exit_code: end.exit_code,
        reason: end.reason,
        node: end.worker,
        output: out,
        output_elsewhere: elsewhere,
    }
}
