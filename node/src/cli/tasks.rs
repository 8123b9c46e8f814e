//! `clawmesh tasks`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use clawmesh_protocol::face::{LIST_MAX, State, TaskView};
use futures::{StreamExt, pin_mut};
use tokio::time::Instant;

use super::{
    Context, blobs,
    run::{cut, timed_out, wait_all},
    spec::{limit, state},
};
use crate::{
    api::types::Outcome,
    client::{Client, Filter},
    output::{EXIT_REFUSED, Failure, Mode},
};

/// The group; without a word it lists.
#[derive(Debug, Subcommand)]
pub(super) enum Tasks {
    /// List tasks, newest first.
    Ls(Ls),
    /// Show a task with all its attempts.
    Show(Id),
    /// Print what the task wrote on stdout, exactly.
    Result {
        #[command(flatten)]
        id: Id,
        /// Write its output files into this directory as well.
        #[arg(long, value_name = "DIR")]
        save: Option<PathBuf>,
    },
    /// Print what the task has written so far, on stdout and stderr as it did.
    Logs {
        #[command(flatten)]
        id: Id,
        /// Go on until the attempt ends; waits for a task that has not started.
        #[arg(long, short)]
        follow: bool,
    },
    /// Ask for a task's end.
    Cancel {
        /// Ids, or the starts of them.
        #[arg(required = true, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
        ids: Vec<String>,
    },
    /// Say why a task waits, or why it went where it went.
    Explain(Id),
    /// Wait until all of the tasks have ended.
    Wait {
        /// Ids, or the starts of them.
        #[arg(required = true, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
        ids: Vec<String>,
        /// Wait no longer than this (exit code 4).
        #[arg(long, alias = "timeout", value_name = "DURATION", value_parser = limit)]
        wait_timeout: Option<Duration>,
    },
}

/// One task.
#[derive(Debug, Args)]
pub(super) struct Id {
    /// The id, or the start of it.
    #[arg(value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    id: String,
}

/// Which tasks to list.
#[derive(Debug, Default, Args)]
pub(super) struct Ls {
    /// Only tasks in this state.
    #[arg(long, value_name = "STATE", value_parser = state())]
    state: Option<State>,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// Continue below this task of an earlier list.
    #[arg(long, value_name = "ID")]
    before: Option<String>,
}

/// The group.
pub(super) async fn tasks(cx: &Context, what: Option<Tasks>) -> Result<(), Failure> {
    let client = cx.client()?;
    match what.unwrap_or(Tasks::Ls(Ls { limit: 50, ..Ls::default() })) {
        Tasks::Ls(ls) => list(cx, ls).await,
        Tasks::Show(Id { id }) => {
            let task = client.task(&id).await?;
            cx.output.task(&task)?;
            if !task.state.ended() {
                cx.output.hint(&format!("clawmesh tasks explain {}", task.id));
            } else if cx.output.mode() == Mode::Human {
                files(cx, &client, &id).await?;
            }
            Ok(())
        }
        Tasks::Result { id: Id { id }, save } => result(cx, &id, save.as_deref()).await,
        Tasks::Logs { id: Id { id }, follow } => logs(cx, &id, follow).await,
        Tasks::Cancel { ids } => cancel(cx, ids).await,
        Tasks::Explain(Id { id }) => {
            let view = client.explain(&id).await?;
            cx.output.explain(&view)
        }
        Tasks::Wait { ids, wait_timeout } => wait(cx, ids, wait_timeout).await,
    }
}

async fn list(cx: &Context, ls: Ls) -> Result<(), Failure> {
    let client = cx.client()?;
    let mut all: Vec<TaskView> = Vec::new();
    let mut before = ls.before;
    let more = loop {
        let left = ls.limit.saturating_sub(u32::try_from(all.len()).unwrap_or(u32::MAX));
        let filter = Filter { state: ls.state, limit: Some(left.clamp(1, LIST_MAX)), before: before.take() };
        let page = client.tasks(&filter).await?;
        all.extend(page.tasks);
        if !page.more || all.len() >= ls.limit as usize || all.is_empty() {
            break page.more;
        }
        before = all.last().map(|t| t.id.to_string());
    };
    cx.output.tasks(&all)?;
    match all.last() {
        None => cx.output.hint("clawmesh run -- uname -a"),
        Some(last) if more => cx.output.hint(&format!("clawmesh tasks ls --before {}", last.id)),
        Some(_) => {}
    }
    Ok(())
}

/// The output files of a task that has ended, when they can be told now.
async fn files(cx: &Context, client: &Client, id: &str) -> Result<(), Failure> {
    // What the task wrote may be on a node that is away: the rest has been shown.
    let Ok(Outcome { output: Some(out), .. }) = client.result(id).await else { return Ok(()) };
    if out.files.is_empty() {
        return Ok(());
    }
    cx.output.line("output files")?;
    for line in blobs::lines(&out.files) {
        cx.output.line(&format!("  {line}"))?;
    }
    cx.output.hint(&format!("clawmesh tasks result {id} --save DIR"));
    Ok(())
}

async fn result(cx: &Context, id: &str, save: Option<&Path>) -> Result<(), Failure> {
    let client = cx.client()?;
    let outcome = client.result(id).await?;
    let state = outcome.task.state;
    if !state.ended() {
        return Err(Failure::new(EXIT_REFUSED, "not_ended", format!("{} is {}: it has no result yet", outcome.task.id, state.word()))
            .next(format!("clawmesh tasks wait {}", outcome.task.id)));
    }
    if cx.output.mode() == Mode::Json {
        cx.output.json(&outcome)?;
    } else if let Some(out) = &outcome.output {
        cx.output.raw(&out.stdout_bytes())?;
        cut(cx, out);
    }
    if let Some(dir) = save {
        let files = outcome.output.as_ref().map(|o| o.files.as_slice()).unwrap_or_default();
        blobs::save_all(cx, &client, files, dir).await?;
    }
    match state {
        State::Completed => Ok(()),
        _ if cx.output.mode() == Mode::Json => Err(Failure::silent(EXIT_REFUSED)),
        _ => {
            let why = if outcome.task.reason.is_empty() { String::new() } else { format!(": {}", outcome.task.reason) };
            Err(Failure::new(EXIT_REFUSED, state.word(), format!("{} ended as {}{why}", outcome.task.id, state.word()))
                .next(format!("clawmesh tasks logs {}", outcome.task.id)))
        }
    }
}

async fn logs(cx: &Context, id: &str, follow: bool) -> Result<(), Failure> {
    let client = cx.client()?;
    let pieces = client.logs(id, follow).await?;
    pin_mut!(pieces);
    let mut all = (Vec::new(), Vec::new());
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        match (cx.output.mode(), piece.stderr) {
            (Mode::Json, false) => all.0.extend_from_slice(&piece.bytes),
            (Mode::Json, true) => all.1.extend_from_slice(&piece.bytes),
            (_, false) => cx.output.raw(&piece.bytes)?,
            (_, true) => cx.output.raw_err(&piece.bytes),
        }
    }
    if cx.output.mode() == Mode::Json {
        let (stdout, stderr) = (String::from_utf8_lossy(&all.0), String::from_utf8_lossy(&all.1));
        cx.output.json(&serde_json::json!({ "stdout": stdout, "stderr": stderr }))?;
    }
    Ok(())
}

async fn cancel(cx: &Context, ids: Vec<String>) -> Result<(), Failure> {
    let client = cx.client()?;
    let mut done = Vec::new();
    for id in ids {
        let cancelled = client.cancel(&id).await?;
        let text = match cancelled.state {
            s if s.ended() => format!("{} had already ended as {}", cancelled.id, s.word()),
            s => format!("{} was {}; its end is asked for", cancelled.id, s.word()),
        };
        cx.output.note(&text);
        done.push(cancelled);
    }
    if cx.output.mode() == Mode::Json { cx.output.json(&done) } else { Ok(()) }
}

async fn wait(cx: &Context, ids: Vec<String>, limit: Option<Duration>) -> Result<(), Failure> {
    let client = cx.client()?;
    let deadline = limit.map(|l| Instant::now() + l);
    let mut asked = ids.clone();
    asked.sort();
    asked.dedup();
    let ends = wait_all(cx, &client, asked.clone(), deadline, false).await?;
    cx.output.ended(&ends)?;
    let open: Vec<String> = asked.into_iter().filter(|id| !ends.iter().any(|e| &e.asked == id)).collect();
    if !open.is_empty() {
        return Err(timed_out(&open, limit));
    }
    match ends.iter().find(|e| e.state != State::Completed) {
        None => Ok(()),
        Some(bad) if cx.output.mode() == Mode::Human => {
            let n = ends.iter().filter(|e| e.state != State::Completed).count();
            let what = format!("{n} of {} tasks did not complete", ends.len());
            Err(Failure::new(EXIT_REFUSED, "task_failed", what).next(format!("clawmesh tasks show {}", bad.id)))
        }
        Some(_) => Err(Failure::silent(EXIT_REFUSED)),
    }
}
