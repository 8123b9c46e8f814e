//! `clawmesh run` and `clawmesh submit`: put a task into the mesh, and perhaps wait for it.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use backon::{ConstantBuilder, Retryable};
use clap::Args;
use clawmesh_protocol::{
    face::State,
    files::FileRef,
    ids::{Hash, ShortId},
    spec::{BUILTINS, PAYLOAD_MAX},
};
use tokio::time::Instant;

use super::{
    Context, blobs,
    spec::{TaskFlags, limit},
};
use crate::{
    api::types::{Captures, Ended, WaitFor},
    client::{Client, ClientError, Submission},
    output::{EXIT_REFUSED, EXIT_WAIT, Failure, Mode},
};

/// What timeout(1) ends with.
const EXIT_TIMEOUT: u8 = 124;
/// What `docker run` ends with when not the command but the machinery failed.
const EXIT_MESH: u8 = 125;
/// What a shell shows after Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;
/// Longest single poll.  The server takes a minute; a shorter one notices a dead connection sooner.
const POLL: Duration = Duration::from_secs(25);
/// How long a node that went away while somebody waits may take to come back.
const RETURN_PAUSE: Duration = Duration::from_millis(300);
/// Looks for a node that went away: 15 s in all.
const RETURN_LOOKS: usize = 50;

/// `run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    task: TaskFlags,
    /// Do not wait: print the task's id.
    #[arg(long, short)]
    detach: bool,
    /// Do not wait: print the task's id and nothing else.
    #[arg(long)]
    id_only: bool,
    /// Wait no longer than this for the end (exit code 4); the task goes on.
    #[arg(long, value_name = "DURATION", value_parser = limit, conflicts_with_all = ["detach", "id_only"])]
    wait_timeout: Option<Duration>,
    /// Program and arguments; never read by a shell.
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// `submit`.
#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    /// The skill, or one of the builtins echo, sleep and fail.
    skill: String,
    /// The input as JSON.
    #[arg(long, value_name = "JSON", group = "from", allow_hyphen_values = true)]
    input: Option<String>,
    /// A file with the input as JSON; '-' reads stdin.
    #[arg(long, value_name = "FILE", group = "from")]
    input_file: Option<PathBuf>,
    /// The input as plain text, for skills that take text.
    #[arg(long, value_name = "TEXT", group = "from", allow_hyphen_values = true)]
    input_text: Option<String>,
    /// Wait for the end and print what the task wrote.
    #[arg(long)]
    wait: bool,
    /// Print the task's id and nothing else.
    #[arg(long)]
    id_only: bool,
    /// Wait no longer than this for the end (exit code 4); the task goes on.
    #[arg(long, value_name = "DURATION", value_parser = limit, requires = "wait")]
    wait_timeout: Option<Duration>,
    #[command(flatten)]
    task: TaskFlags,
}

impl RunArgs {
    /// The task.
    pub(super) fn into_submission(self) -> Submission {
        let mut wanted = self.task.submission();
        wanted.task.argv = Some(self.command);
        wanted
    }
}

/// Runs a command somewhere as if it ran here.
pub(super) async fn run(cx: &Context, args: RunArgs) -> Result<(), Failure> {
    let (detach, id_only, wait_timeout) = (args.detach || args.id_only, args.id_only, args.wait_timeout);
    let ins = args.task.ins.clone();
    let mut wanted = args.into_submission();
    check(&wanted, &ins)?;
    let client = cx.client()?;
    blobs::inputs(cx, &client, &ins, &mut wanted.task).await?;
    let accepted = match client.submit(&wanted).await {
        Ok(accepted) => accepted,
        Err(e) if detach => return Err(e.into()),
        Err(e) => return Err(mesh_failed(e.into())),
    };
    if detach {
        return detached(cx, &accepted, id_only);
    }
    let end = wait_for_one(cx, &client, accepted.id, wait_timeout).await.map_err(mesh_failed)?;
    let code = exit_code(&end);
    report(cx, &client, &end).await.map_err(mesh_failed)?;
    if code == 0 {
        return Ok(());
    }
    let own = end.state == State::Failed && code != EXIT_MESH;
    Err(if own || cx.output.mode() == Mode::Json { Failure::silent(code) } else { how_it_ended(&end, code) })
}

/// Submits a skill or builtin.
pub(super) async fn submit(cx: &Context, args: SubmitArgs) -> Result<(), Failure> {
    let ins = args.task.ins.clone();
    let mut wanted = args.task.submission();
    let builtin = BUILTINS.contains(&args.skill.as_str());
    wanted.task.input = input(args.input, args.input_file.as_deref(), args.input_text, builtin)?;
    wanted.task.skill = Some(args.skill);
    check(&wanted, &ins)?;
    let client = cx.client()?;
    blobs::inputs(cx, &client, &ins, &mut wanted.task).await?;
    let accepted = client.submit(&wanted).await?;
    if !args.wait {
        return detached(cx, &accepted, args.id_only);
    }
    if args.id_only {
        cx.output.line(&accepted.id.to_string())?;
    }
    let end = wait_for_one(cx, &client, accepted.id, args.wait_timeout).await?;
    if !args.id_only {
        report(cx, &client, &end).await?;
    }
    match end.state {
        State::Completed => Ok(()),
        _ if cx.output.mode() == Mode::Json => Err(Failure::silent(EXIT_REFUSED)),
        _ => Err(how_it_ended(&end, EXIT_REFUSED)),
    }
}

/// The same check that the node makes, so that a wrong flag is an error of usage before anything is asked for.
pub(super) fn check(wanted: &Submission, ins: &[(String, String)]) -> Result<(), Failure> {
    let mut task = wanted.task.clone();
    if wanted.node.is_some() {
        // Any node will do here: the API resolves the name.
        task.pin = Some(clawmesh_protocol::ids::Peer([0; 32]));
    }
    // What their blobs are is found out later; their names can be wrong now.
    task.files = ins.iter().map(|(name, _)| FileRef::new(name.clone(), Hash::default(), 0)).collect();
    clawmesh_protocol::spec::split(&task).map(drop).map_err(Failure::usage)
}

pub(super) fn detached(cx: &Context, accepted: &crate::api::types::Accepted, id_only: bool) -> Result<(), Failure> {
    let id = accepted.id.to_string();
    if id_only {
        return cx.output.line(&id);
    }
    cx.output.value(accepted, |o| o.line(&id))?;
    cx.output.hint(&format!("clawmesh tasks result {id} (after 'clawmesh tasks wait {id}')"));
    Ok(())
}

/// The input as text, checked.
pub(super) fn input(json: Option<String>, file: Option<&Path>, text: Option<String>, builtin: bool) -> Result<Option<String>, Failure> {
    let (source, input) = match (json, file, text) {
        (Some(json), _, _) => ("--input".to_owned(), json),
        (None, Some(file), _) => (file.display().to_string(), read_input(file)?),
        (None, None, Some(text)) => return within_cap(text).map(Some),
        (None, None, None) => return Ok(None),
    };
    let input = within_cap(input)?;
    if !builtin && let Err(e) = serde_json::from_str::<serde::de::IgnoredAny>(&input) {
        return Err(Failure::usage(format!(
            "the input ({source}) is not valid JSON: {e}; for a skill that takes plain text give it with --input-text"
        )));
    }
    Ok(Some(input))
}

fn within_cap(input: String) -> Result<String, Failure> {
    if input.len() as u64 > PAYLOAD_MAX {
        let cap = bytesize::ByteSize::b(PAYLOAD_MAX);
        let what =
            format!("the input has {} bytes, the cap is {cap}: put large data where the node can read it, and give its place", input.len());
        return Err(Failure::usage(what));
    }
    Ok(input)
}

fn read_input(file: &Path) -> Result<String, Failure> {
    let unreadable = |e: std::io::Error| Failure::usage(format!("cannot read the input from {}: {e}", file.display()));
    let mut bytes = Vec::new();
    // One byte above the cap is enough to know that it is too long.
    if file == Path::new("-") {
        std::io::stdin().lock().take(PAYLOAD_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    } else {
        std::fs::File::open(file).map_err(unreadable)?.take(PAYLOAD_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    }
    if bytes.len() as u64 > PAYLOAD_MAX {
        let cap = bytesize::ByteSize::b(PAYLOAD_MAX);
        let what = format!(
            "the input in {} is above the cap of {cap}: put large data where the node can read it, and give its place",
            file.display()
        );
        return Err(Failure::usage(what));
    }
    String::from_utf8(bytes).map_err(|e| Failure::usage(format!("the input in {} is not UTF-8 text: {e}", file.display())))
}

/// Waits for the end of one task.  Ctrl-C asks for its end, and a second one leaves.
pub(super) async fn wait_for_one(cx: &Context, client: &Client, id: ShortId, limit: Option<Duration>) -> Result<Ended, Failure> {
    let deadline = limit.map(|l| Instant::now() + l);
    let waiting = wait_all(cx, client, vec![id.to_string()], deadline, true);
    tokio::pin!(waiting);
    let ended = tokio::select! {
        ended = &mut waiting => ended?,
        pressed = tokio::signal::ctrl_c() => {
            if let Err(e) = pressed {
                tracing::debug!(error = %e, "no Ctrl-C on this system");
            }
            cx.output.note(&format!("cancelling {id}; press Ctrl-C again to leave at once"));
            let cancelled = async {
                client.cancel(&id.to_string()).await?;
                waiting.await
            };
            tokio::select! {
                ended = cancelled => ended?,
                _ = tokio::signal::ctrl_c() => return Err(Failure::silent(EXIT_INTERRUPTED)),
            }
        }
    };
    ended.into_iter().next().ok_or_else(|| timed_out(&[id.to_string()], limit))
}

/// Waits until all of the tasks have ended; fewer are returned when the deadline passed.
pub(super) async fn wait_all(
    cx: &Context,
    client: &Client,
    ids: Vec<String>,
    deadline: Option<Instant>,
    output: bool,
) -> Result<Vec<Ended>, Failure> {
    let mut client = client.clone();
    let mut open = ids;
    let mut ends = Vec::new();
    while !open.is_empty() {
        let left = deadline.map_or(POLL, |d| d.saturating_duration_since(Instant::now()).min(POLL));
        if left.is_zero() {
            break;
        }
        let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        let ids: Vec<String> = open.iter().take(10_000).cloned().collect();
        let wanted = WaitFor { min: ids.len(), ids, timeout_ms, output };
        let some = match client.wait(&wanted).await {
            Ok(some) => some,
            Err(e) if e.unreachable() => {
                client = returned(cx, e).await?;
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        open.retain(|id| !some.iter().any(|e| &e.asked == id));
        ends.extend(some);
    }
    Ok(ends)
}

/// The node went away while somebody waits: it may be restarting, and its tasks go on without it.
async fn returned(cx: &Context, first: ClientError) -> Result<Client, Failure> {
    cx.output.note("the node does not answer; waiting for it to come back (the task goes on)");
    let look = || async {
        let client = Client::open(&cx.home)?;
        client.status().await.map(|_| client)
    };
    let pauses = ConstantBuilder::default().with_delay(RETURN_PAUSE).with_max_times(RETURN_LOOKS);
    look.retry(pauses).when(ClientError::unreachable).await.map_err(|_| {
        let mut f = Failure::from(first);
        f.what.push_str("; the task goes on, and any node of the mesh can show it");
        f
    })
}

/// Prints what the task wrote on this program's own stdout and stderr.
async fn report(cx: &Context, client: &Client, end: &Ended) -> Result<(), Failure> {
    if let Some(out) = fetched(cx, client, end).await? {
        cx.output.raw_err(&out.stderr_bytes());
        cx.output.raw(&out.stdout_bytes())?;
        cut(cx, &out);
    }
    Ok(())
}

/// Prints an agent's answer. What it noted on the way is in its log, which few want to see with each answer.
pub(super) async fn report_answer(cx: &Context, client: &Client, end: &Ended) -> Result<(), Failure> {
    let Some(out) = fetched(cx, client, end).await? else { return Ok(()) };
    let text = out.stdout_bytes();
    cx.output.raw(&text)?;
    if !text.is_empty() && !text.ends_with(b"\n") {
        cx.output.raw(b"\n")?;
    }
    if out.stdout_cut > 0 {
        cut(cx, &Captures { stderr_cut: 0, ..out });
    }
    Ok(())
}

/// What the task wrote, from where it is kept; with `--json` it is printed here, with all that is known of the end.
async fn fetched(cx: &Context, client: &Client, end: &Ended) -> Result<Option<Captures>, Failure> {
    let mut end = end.clone();
    if end.output_elsewhere {
        end.output = client.result(&end.id.to_string()).await?.output;
        end.output_elsewhere = false;
    }
    if cx.output.mode() == Mode::Json {
        return cx.output.json(&end).map(|()| None);
    }
    Ok(end.output)
}

/// Says when the worker's cap has cut something out.
pub(super) fn cut(cx: &Context, out: &Captures) {
    for (name, n) in [("stdout", out.stdout_cut), ("stderr", out.stderr_cut)] {
        if n > 0 {
            cx.output.note(&format!("clawmesh: {n} bytes of {name} were above the cap and are not kept"));
        }
    }
    for line in blobs::lines(&out.files) {
        cx.output.note(&format!("clawmesh: kept {line}"));
    }
}

/// The exit code that `run` ends with.
pub(super) fn exit_code(end: &Ended) -> u8 {
    match (end.state, end.exit_code) {
        (State::Completed, code) => code.map_or(0, low_byte),
        (State::Timeout, _) => EXIT_TIMEOUT,
        (State::Failed, Some(code)) if code != 0 => low_byte(code),
        (State::Failed | State::Pending | State::Scheduled | State::Running, _) => EXIT_MESH,
        (State::Cancelled, _) => EXIT_INTERRUPTED,
    }
}

/// What a parent process would see; a code that is not 0 never becomes 0.
fn low_byte(code: i32) -> u8 {
    match (code, u8::try_from(code & 0xff).unwrap_or(1)) {
        (0, _) => 0,
        (_, 0) => 1,
        (_, low) => low,
    }
}

pub(super) fn how_it_ended(end: &Ended, exit: u8) -> Failure {
    let why = if end.reason.is_empty() { String::new() } else { format!(": {}", end.reason) };
    let what = match end.state {
        State::Timeout => format!("{} ran into its time limit{why}", end.id),
        State::Cancelled => format!("{} was cancelled{why}", end.id),
        _ => format!("{} failed{why}", end.id),
    };
    Failure::new(exit, end.state.word(), what).next(format!("clawmesh tasks show {}", end.id))
}

/// The mesh itself failed, not the command; wrong usage and "no node" keep their own codes.
fn mesh_failed(mut f: Failure) -> Failure {
    if f.exit == EXIT_REFUSED {
        f.exit = EXIT_MESH;
    }
    f
}

/// Nobody waits any longer.
pub(super) fn timed_out(open: &[String], limit: Option<Duration>) -> Failure {
    let first = open.first().cloned().unwrap_or_default();
    let limit = limit.map_or_else(String::new, |l| format!(" within {}", humantime::format_duration(l)));
    let who = if open.len() == 1 { format!("{first} has") } else { format!("{} tasks have", open.len()) };
    Failure::new(EXIT_WAIT, "timed_out", format!("{who} not ended{limit}; nothing was cancelled"))
        .next(format!("clawmesh tasks explain {first}"))
}
