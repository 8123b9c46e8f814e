//! `clawmesh demo`: three nodes on this machine, some hundred real tasks, two nodes killed, and a true account of it.

mod progress;
mod pump;
mod report;
#[cfg(test)]
mod tests;
mod watch;
mod work;

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clawmesh_protocol::face::TaskView;
use futures::{StreamExt, stream};
use tokio::time::Instant;

use self::{
    progress::Progress,
    pump::Pump,
    report::{Ack, Counted, Kill, Report},
    watch::{Seen, Watch},
    work::{Expected, Item, Material},
};
use crate::{
    cli::DemoArgs,
    client::{Client, ClientError, Filter},
    nursery::{Doors, NAMES, Nursery, Plan, interrupted},
    output::{Failure, Mode, Output},
};

/// Silence after which a node counts as lost: a demo cannot wait for the default of a minute.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// Tasks at once on each node: some must be running when a node is killed, on a machine of any size.
const SLOTS: u32 = 4;
/// Longest wait for somebody to take over.
const TAKEOVER_MAX: Duration = Duration::from_secs(30);
/// How long the mesh has, after its own count says that all is done, until each task shows its outcome.
const SETTLE_MAX: Duration = Duration::from_secs(20);
/// Pause between two looks at the tasks.
const LOOK: Duration = Duration::from_millis(200);
/// Tasks in one page of the list.
const PAGE: u32 = 500;
/// Outputs that are compared with what they must be.
const CHECKS_MAX: usize = 60;
/// Outputs fetched at once.
const CHECKS_AT_ONCE: usize = 8;
/// What a shell shows after Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// Runs the demo.
///
/// # Errors
/// Exit code 1 with a sentence when anything was lost, failed or wrong, or when the mesh did not start; 130 when it was
/// interrupted.  No node is left running then.
pub(crate) async fn run(args: DemoArgs, output: Output) -> Result<(), Failure> {
    tokio::select! {
        done = perform(&args, &output) => done,
        () = interrupted() => Err(Failure::new(EXIT_INTERRUPTED, "interrupted", "interrupted; the three nodes are stopped and their files removed")),
    }
}

async fn perform(args: &DemoArgs, output: &Output) -> Result<(), Failure> {
    output.note("starting three nodes on this machine, each a process with its own home and ports");
    let plan = Plan { dir: args.dir.clone(), lost_after: Some(LOST_AFTER), slots: Some(SLOTS), skills: true };
    let began = Instant::now();
    let mut nursery = Nursery::start(plan).await?;
    output.note(&format!("they found each other and agreed who coordinates: {} ms", began.elapsed().as_millis()));
    let report = match story(&mut nursery, args.tasks as usize, output).await {
        Ok(report) => report,
        Err(e) => return Err(nursery.failed(e)),
    };
    report.print(output)?;
    if let Some(trouble) = report.trouble() {
        return Err(nursery.failed(Failure::refused(trouble)));
    }
    if args.keep {
        return keep(nursery, output).await;
    }
    nursery.stop().await;
    output.note("all is well; the nodes are stopped and their files removed");
    output.hint("clawmesh up (a node of your own), or clawmesh demo --keep (leaves this mesh up)");
    Ok(())
}

/// Submits, kills, waits, and counts.
async fn story(nursery: &mut Nursery, tasks: usize, output: &Output) -> Result<Report, Failure> {
    let material = Material::gather(&nursery.work()).map_err(|e| Failure::refused(format!("cannot write files for the tasks: {e}")))?;
    let mut items = material.tasks(tasks);
    // Submitted right after the coordinator's death, to see when the mesh takes tasks again.
    let probe = items
        .pop()
        .map(|last| Item { task: clawmesh_protocol::face::NewTask { key: last.task.key, ..work::echo(tasks).task }, ..work::echo(tasks) });
    let files = if material.repository { "files of this repository" } else { "texts written for it" };
    output.note(&format!("submitting {tasks} tasks (commands, two skills, an echo) on {files} through all three nodes"));
    let doors = nursery.doors().clone();
    let progress = Progress::new(output.clone(), tasks as u64);
    let watch = Watch::default();
    let pump = Pump::new(doors.clone(), items);
    let start = Instant::now();
    let kills = {
        let lanes = async {
            tokio::try_join!(pump.lane(0, &watch), pump.lane(1, &watch), pump.lane(2, &watch))?;
            Ok::<(), Failure>(())
        };
        let script = script(nursery, &pump, &watch, &progress, Stage { tasks, start, probe });
        tokio::select! {
            e = watch.run(&doors, tasks, &progress) => return Err(e),
            both = async { tokio::try_join!(lanes, script) } => both?.1,
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    let (taken, refused, sent_again) = pump.account();
    let acks: Vec<Ack> = taken.iter().map(|(a, _)| a.clone()).collect();
    let views = outcomes(&doors, &acks).await?;
    progress.update(tasks as u64, views.iter().filter(|v| v.state.ended()).count() as u64, tasks as u64, "done");
    progress.finish();
    let (checked, wrong) = check(&doors, &taken).await;
    let counted = Counted {
        submitted: tasks,
        refused,
        sent_again,
        reigns: watch.reigns(start),
        kills,
        tally: std::fs::read_to_string(material.tally()).unwrap_or_default(),
        checked,
        wrong,
        seconds,
        lost_after_s: LOST_AFTER.as_secs(),
    };
    Ok(Report::new(&acks, &views, counted))
}

/// What the script needs to know.
struct Stage {
    tasks: usize,
    start: Instant,
    probe: Option<Item>,
}

/// The two kills, and the wait for the end.
async fn script(nursery: &mut Nursery, pump: &Pump, watch: &Watch, progress: &Progress, stage: Stage) -> Result<Vec<Kill>, Failure> {
    let Stage { tasks, start, probe } = stage;
    watch.until("a third of the tasks", |d| d.ended >= tasks / 3 && d.reigns > 0).await?;
    let Some(old) = watch.reign() else { return Err(Failure::refused("BUG: a reign was seen and is gone")) };
    progress.say(&format!("SIGKILL to {}, which coordinates", old.node));
    watch.closely(true);
    let (at_ms, at) = (wall_ms(), nursery.kill(old.index));
    let probing = async {
        let Some(probe) = probe else { return Ok(at) };
        pump.submit(vec![probe], old.index + 1, watch).await.map(|()| Instant::now())
    };
    let taking = tokio::time::timeout(TAKEOVER_MAX, successor(watch, &old));
    let (acknowledged, taken) = tokio::join!(probing, taking);
    watch.closely(false);
    let new = taken.ok().transpose()?;
    let acknowledged = acknowledged?;
    let first = Kill {
        node: old.node.clone(),
        coordinator: true,
        at_s: at.duration_since(start).as_secs_f64(),
        at_ms,
        takeover_ms: new.as_ref().map(|n| millis(n.from.duration_since(at))),
        successor: new.as_ref().map(|n| n.node.clone()),
        acknowledged_ms: Some(millis(acknowledged.duration_since(at))),
        cut_off: 0,
    };
    let Some(new) = new else { return Ok(vec![first]) };
    progress.say(&format!(
        "{} coordinates after {} ms; starting {} again on its home",
        new.node,
        millis(new.from.duration_since(at)),
        old.node
    ));
    nursery.restart(old.index).await?;
    nursery.whole().await?;
    progress.say(&format!("{} is back", old.node));
    watch.until("two thirds of the tasks", |d| d.ended >= tasks * 2 / 3).await?;
    let second = kill_worker(nursery, watch, progress, &old, start);
    watch.until("all tasks", |d| d.answered >= tasks && d.ended >= tasks).await?;
    Ok(vec![first, second])
}

/// Waits until another reign than `old` has begun.
async fn successor(watch: &Watch, old: &Seen) -> Result<Seen, Failure> {
    let newer = |s: &Seen| s.epoch > old.epoch && s.index != old.index;
    watch.until("a new coordinator", |_| watch.reign().is_some_and(|s| newer(&s))).await?;
    watch.reign().ok_or_else(|| Failure::refused("BUG: a reign was seen and is gone"))
}

/// Kills a node that does not coordinate; rather one that was not killed before.
fn kill_worker(nursery: &mut Nursery, watch: &Watch, progress: &Progress, before: &Seen, start: Instant) -> Kill {
    let leader = watch.reign().map(|s| s.index);
    let worker = (0..NAMES.len()).filter(|i| Some(*i) != leader).min_by_key(|i| *i == before.index).unwrap_or_default();
    let node = nursery.nodes().get(worker).map_or("?", |n| n.name).to_owned();
    progress.say(&format!("SIGKILL to {node}, a worker; its tasks run elsewhere after {} s", LOST_AFTER.as_secs()));
    let (at_ms, at) = (wall_ms(), nursery.kill(worker));
    Kill {
        node,
        coordinator: false,
        at_s: at.duration_since(start).as_secs_f64(),
        at_ms,
        takeover_ms: None,
        successor: None,
        acknowledged_ms: None,
        cut_off: 0,
    }
}

/// What the mesh says of all tasks, through a node that lives, once each of ours has its outcome, or when time is up.
async fn outcomes(doors: &Doors, acks: &[Ack]) -> Result<Vec<TaskView>, Failure> {
    let deadline = Instant::now() + SETTLE_MAX;
    loop {
        let late = Instant::now() > deadline;
        let Some((_, client)) = doors.any(0) else { return Err(Failure::refused("all nodes are gone")) };
        match all_tasks(&client).await {
            Ok(views) => {
                let ended: std::collections::HashSet<_> = views.iter().filter(|v| v.state.ended()).map(|v| v.id).collect();
                if late || acks.iter().all(|a| ended.contains(&a.id)) {
                    return Ok(views);
                }
            }
            Err(e) if late => return Err(e.into()),
            Err(e) => tracing::debug!(error = %e, "the tasks cannot be listed at the moment"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// All pages of the list.
async fn all_tasks(client: &Client) -> Result<Vec<TaskView>, ClientError> {
    let mut filter = Filter { limit: Some(PAGE), ..Filter::default() };
    let mut all = Vec::new();
    loop {
        let page = client.tasks(&filter).await?;
        filter.before = page.tasks.last().map(|t| t.id.to_string());
        let more = page.more && !page.tasks.is_empty();
        all.extend(page.tasks);
        if !more {
            return Ok(all);
        }
    }
}

/// Compares outputs with what they must be: how many were compared, and what was wrong.
async fn check(doors: &Doors, taken: &[(Ack, Item)]) -> (usize, Vec<String>) {
    let Some((_, client)) = doors.any(0) else { return (0, Vec::new()) };
    let some = taken.iter().filter(|(_, item)| item.expected != Expected::Any).take(CHECKS_MAX);
    let verdicts: Vec<Option<String>> = stream::iter(some)
        .map(|(ack, item)| {
            let client = client.clone();
            async move {
                match client.result(&ack.id.to_string()).await {
                    Ok(outcome) => verdict(&item.expected, &outcome.output.map(|o| o.stdout).unwrap_or_default()),
                    Err(e) => Some(format!("the output cannot be had: {e}")),
                }
                .map(|why| format!("{}: {why}", ack.id))
            }
        })
        .buffered(CHECKS_AT_ONCE)
        .collect()
        .await;
    (verdicts.len(), verdicts.into_iter().flatten().collect())
}

/// What is wrong with an output; none when it is right.
fn verdict(expected: &Expected, stdout: &str) -> Option<String> {
    match expected {
        Expected::Any => None,
        Expected::Exactly(text) => (stdout != text).then(|| format!("'{stdout}' instead of '{text}'")),
        Expected::Bytes(bytes) => {
            let json: Option<serde_json::Value> = serde_json::from_str(stdout).ok();
            let said = json.and_then(|v| v.get("bytes").and_then(serde_json::Value::as_u64));
            (said != Some(*bytes)).then(|| format!("{said:?} bytes instead of {bytes}"))
        }
    }
}

/// Leaves a mesh of three and says what to type.
async fn keep(mut nursery: Nursery, output: &Output) -> Result<(), Failure> {
    let up = nursery.doors().up();
    for index in (0..NAMES.len()).filter(|i| !up.contains(i)) {
        if let Err(e) = nursery.restart(index).await {
            return Err(nursery.failed(e));
        }
    }
    if let Err(e) = nursery.whole().await {
        return Err(nursery.failed(e));
    }
    let program = nursery.program().to_owned();
    let dir = nursery.keep();
    let line = |node: &str, rest: &str| command_line(&program, &dir.join(node), rest);
    output.note("\nthe mesh is up; each node knows the whole of it:");
    let [a, b, c] = NAMES;
    for text in [
        line(a, "status"),
        line(b, "run -- uname -a"),
        line(c, "tasks ls"),
        line(a, "submit word-count --input-text 'to be or not to be' --wait"),
    ] {
        output.note(&format!("  {text}"));
    }
    output.note("stop it with:");
    for node in NAMES {
        output.note(&format!("  {}", line(node, "down")));
    }
    output.note(&format!("its files stay in {}", dir.display()));
    if output.mode() == Mode::Quiet {
        output.line(&dir.display().to_string())?;
    }
    Ok(())
}

fn command_line(program: &Path, home: &Path, rest: &str) -> String {
    let quoted = |p: &Path| {
        let text = p.display().to_string();
        if text.contains(char::is_whitespace) { format!("'{text}'") } else { text }
    };
    format!("{} --home {} {rest}", quoted(program), quoted(home))
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}
