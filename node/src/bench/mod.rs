//! `clawmesh bench`: what this mesh does per second, and how long one task takes.

mod figures;

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use clawmesh_protocol::face::{NewTask, State};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use self::figures::{Figures, ms, percentile, rate};
use crate::{
    api::types::{Entry, WaitFor},
    cli::BenchArgs,
    client::{Client, ClientError, Submission},
    nursery::{Nursery, Plan, interrupted, worth_another_try},
    output::{Failure, Mode, Output},
};

/// Tasks in one submit of the throughput.
const BATCH: usize = 1_000;
/// Submits on the way at once.
const BATCHES: usize = 4;
/// No-op tasks before anything is measured.
const WARM_UP: usize = 1_000;
/// Single round trips before they are measured.
const WARM_UP_SINGLES: usize = 10;
/// Process tasks before they are measured, and starts of the plain loop.
const WARM_UP_PROCESSES: usize = 20;
/// One long poll.
const POLL_MS: u64 = 25_000;
/// Results that do not come for this long will not.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Silence after which a node of an own mesh counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// Pause before a submit is tried again while nobody coordinates.
const PAUSE: Duration = Duration::from_millis(5);
/// Longest wait for a new coordinator.
const TAKEOVER_MAX: Duration = Duration::from_secs(30);
/// What a shell shows after Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// Measures.
///
/// # Errors
/// A sentence when a task fails or the mesh does not answer; 130 when it was interrupted.  Nodes started for it do not
/// outlive it.
pub(crate) async fn run(args: BenchArgs, home: &Path, output: Output) -> Result<(), Failure> {
    tokio::select! {
        done = perform(&args, home, &output) => done,
        () = interrupted() => Err(Failure::new(EXIT_INTERRUPTED, "interrupted", "interrupted; nodes started for the bench are stopped")),
    }
}

async fn perform(args: &BenchArgs, home: &Path, output: &Output) -> Result<(), Failure> {
    if !args.own
        && let Some(client) = running(home).await?
    {
        output.note(&format!("measuring the mesh of the node in {}", home.display()));
        return measure(&client, args, output).await?.print(output);
    }
    output.note("starting a mesh of three nodes on this machine for the bench");
    let mut nursery = Nursery::start(Plan { lost_after: Some(LOST_AFTER), ..Plan::default() }).await?;
    match measure_own(&mut nursery, args, output).await {
        Ok(figures) => {
            nursery.stop().await;
            figures.print(output)
        }
        Err(e) => Err(nursery.failed(e)),
    }
}

/// The node of the home, when one answers.
async fn running(home: &Path) -> Result<Option<Client>, Failure> {
    let client = match Client::open(home) {
        Ok(client) => client,
        Err(ClientError::NoNode { .. }) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    match client.status().await {
        Ok(_) => Ok(Some(client)),
        Err(ClientError::NoNode { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

async fn measure_own(nursery: &mut Nursery, args: &BenchArgs, output: &Output) -> Result<Figures, Failure> {
    // A node that does not coordinate: the way of most tasks in a mesh.
    let follower = nursery.doors().look().await.into_iter().find(|(_, s)| s.view.role == "follower").map_or(0, |(i, _)| i);
    let client = nursery.doors().client(follower).ok_or_else(|| Failure::refused("a node of the bench is gone"))?;
    let mut figures = measure(&client, args, output).await?;
    let bar = bar(output, "takeovers", args.takeovers as usize);
    for _ in 0..args.takeovers {
        figures.takeover_ms.push(takeover(nursery).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    figures.takeover_p50_ms = Some(percentile(&figures.takeover_ms, 0.5)).filter(|_| args.takeovers > 0);
    Ok(figures)
}

/// Everything but takeovers, through one node.
async fn measure(client: &Client, args: &BenchArgs, output: &Output) -> Result<Figures, Failure> {
    let program =
        which::which("true").map_err(|e| Failure::refused(format!("there is no program 'true' on this machine to start: {e}")))?;
    let view = client.status().await?.view;
    let nodes = view.members.iter().filter(|m| m.state == "online").count();
    let (tasks, singles, processes) = (args.tasks as usize, args.singles as usize, args.processes as usize);

    bulk(client, &no_op(), WARM_UP, &ProgressBar::hidden()).await?;
    let bar_ = bar(output, "no-op tasks", tasks);
    let (took, copies) = bulk(client, &no_op(), tasks, &bar_).await?;
    bar_.finish_and_clear();
    let throughput_per_s = rate(tasks, took);

    let bar_ = bar(output, "round trips", singles);
    let trips = round_trips(client, singles, &bar_).await?;
    bar_.finish_and_clear();

    // The loop before and after the mesh: a machine that gets slower or faster meanwhile does not favour one of them.
    plain_loop(&program, WARM_UP_PROCESSES).await?;
    let before = plain_loop(&program, processes).await?;
    let one = process();
    bulk(client, &one, WARM_UP_PROCESSES, &ProgressBar::hidden()).await?;
    let bar_ = bar(output, "process tasks", processes);
    let (took, copies_too) = bulk(client, &one, processes, &bar_).await?;
    bar_.finish_and_clear();
    let after = plain_loop(&program, processes).await?;
    let (process_per_s, process_baseline_per_s) = (rate(processes, took), rate(2 * processes, before + after));
    Ok(Figures {
        throughput_per_s,
        roundtrip_p50_ms: percentile(&trips, 0.5),
        roundtrip_p99_ms: percentile(&trips, 0.99),
        process_per_s,
        process_baseline_per_s,
        process_ratio: process_per_s / process_baseline_per_s,
        copies: copies.min(copies_too),
        nodes,
        tasks,
        singles,
        processes,
        takeover_ms: Vec::new(),
        takeover_p50_ms: None,
    })
}

fn no_op() -> NewTask {
    NewTask { skill: Some("echo".into()), input: Some("\"x\"".into()), ..NewTask::default() }
}

fn process() -> NewTask {
    NewTask { argv: Some(vec!["true".into()]), ..NewTask::default() }
}

/// Submits `n` of the task, several batches at once, and waits for every result: the time it took, and the fewest copies.
async fn bulk(client: &Client, task: &NewTask, n: usize, bar: &ProgressBar) -> Result<(Duration, u32), Failure> {
    let batch = vec![task.clone(); BATCH];
    let sizes = (0..n.div_ceil(BATCH)).map(|i| BATCH.min(n - i * BATCH));
    let began = Instant::now();
    let copies = stream::iter(sizes)
        .map(|size| one_batch(client, batch.get(..size).unwrap_or(&batch), bar))
        .buffer_unordered(BATCHES)
        .try_fold(u32::MAX, |least, copies| std::future::ready(Ok(least.min(copies))))
        .await?;
    Ok((began.elapsed(), copies))
}

async fn one_batch(client: &Client, tasks: &[NewTask], bar: &ProgressBar) -> Result<u32, Failure> {
    let mut open = Vec::with_capacity(tasks.len());
    let mut copies = u32::MAX;
    for entry in client.submit_many(tasks).await? {
        match entry {
            Entry::Accepted(a) => {
                copies = copies.min(a.copies);
                open.push(a.id.to_string());
            }
            Entry::Refused { error } => return Err(ClientError::Refused(error).into()),
        }
    }
    let mut moved = Instant::now();
    while !open.is_empty() {
        let wanted = WaitFor { min: open.len(), ids: open.clone(), timeout_ms: POLL_MS, output: false };
        let ended = client.wait(&wanted).await?;
        if let Some(bad) = ended.iter().find(|e| e.state != State::Completed) {
            return Err(Failure::refused(format!("the task {} ended as {}: {}", bad.id, bad.state.word(), bad.reason)));
        }
        if !ended.is_empty() {
            moved = Instant::now();
        } else if moved.elapsed() > STALL_MAX {
            let id = open.first().cloned().unwrap_or_default();
            return Err(Failure::refused(format!("{} tasks have no result after {} s", open.len(), STALL_MAX.as_secs()))
                .next(format!("clawmesh tasks explain {id}")));
        }
        bar.inc(ended.len() as u64);
        let done: std::collections::HashSet<String> = ended.into_iter().map(|e| e.asked).collect();
        open.retain(|id| !done.contains(id));
    }
    Ok(copies)
}

/// Single tasks one after the other: the time of each from submit to result, ms.
async fn round_trips(client: &Client, n: usize, bar: &ProgressBar) -> Result<Vec<f64>, Failure> {
    let wanted = Submission { task: no_op(), node: None };
    let mut times = Vec::with_capacity(n);
    for i in 0..n + WARM_UP_SINGLES {
        let began = Instant::now();
        let id = client.submit(&wanted).await?.id.to_string();
        let ended = client.wait(&WaitFor { ids: vec![id.clone()], timeout_ms: POLL_MS, min: 1, output: true }).await?;
        let took = began.elapsed();
        match ended.first() {
            Some(e) if e.state == State::Completed => {}
            Some(e) => return Err(Failure::refused(format!("the task {id} ended as {}: {}", e.state.word(), e.reason))),
            None => return Err(Failure::refused(format!("the task {id} has no result after {} s", POLL_MS / 1_000))),
        }
        if i >= WARM_UP_SINGLES {
            times.push(ms(took));
            bar.inc(1);
        }
    }
    Ok(times)
}

/// Starts the program `n` times, one after the other, each waited for.
async fn plain_loop(program: &Path, n: usize) -> Result<Duration, Failure> {
    let program: PathBuf = program.to_owned();
    let work = move || {
        let began = Instant::now();
        for _ in 0..n {
            let status = Command::new(&program).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            match status {
                Ok(s) if s.success() => {}
                Ok(s) => return Err(Failure::refused(format!("{} ended with {s}", program.display()))),
                Err(e) => return Err(Failure::refused(format!("cannot start {}: {e}", program.display()))),
            }
        }
        Ok(began.elapsed())
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| Failure::refused(format!("the plain loop did not end: {e}")))?
}

/// Kills the coordinator and measures how long no task is acknowledged; then all three nodes are up again.
async fn takeover(nursery: &mut Nursery) -> Result<f64, Failure> {
    let looks = nursery.doors().look().await;
    let Some((old, _)) = looks.iter().find(|(_, s)| s.view.role == "coordinator") else {
        return Err(Failure::refused("nobody coordinates, though all three nodes agreed on somebody"));
    };
    let old = *old;
    let at = nursery.kill(old);
    let wanted = Submission { task: no_op(), node: None };
    let acknowledged = async {
        loop {
            let Some((_, client)) = nursery.doors().any(old + 1) else { return Err(Failure::refused("all nodes are gone")) };
            match client.submit(&wanted).await {
                Ok(_) => return Ok(at.elapsed()),
                Err(e) if worth_another_try(&e) => tokio::time::sleep(PAUSE).await,
                Err(e) => return Err(e.into()),
            }
        }
    };
    let took = tokio::time::timeout(TAKEOVER_MAX, acknowledged)
        .await
        .map_err(|_| Failure::refused(format!("nobody took over within {} s", TAKEOVER_MAX.as_secs())))??;
    nursery.restart(old).await?;
    nursery.whole().await?;
    Ok(ms(took))
}

/// A bar on a terminal; nothing elsewhere.
fn bar(output: &Output, what: &'static str, n: usize) -> ProgressBar {
    if n == 0 {
        return ProgressBar::hidden();
    }
    if output.mode() != Mode::Human || !std::io::stderr().is_terminal() {
        output.note(&format!("measuring: {what}, {n}"));
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix:14} {wide_bar:.cyan/dim} {pos:>7}/{len} {per_sec}");
    // The template is a constant of this file; a wrong one would show the default bar.
    ProgressBar::new(n as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_prefix(what)
}
