//! Failures of single tasks: retries, time limits, cancels, processes and their children, never twice.

use std::{fs, path::Path, time::Duration};

use clawmesh_tests::{Gate, LONG, Log, Mesh, Task, Value, holds_for, json, process_runs, wait_until};

fn attempts(task: &Value) -> &[Value] {
    task["attempts"].as_array().map_or(&[], Vec::as_slice)
}

/// A shell that starts a grandchild in the background, writes its process id, and waits for it.
fn family(pids: &Path) -> String {
    format!("sh -c 'sleep 3600 & echo $! >> {0}; wait' & echo $! >> {0}; wait", pids.display())
}

/// The process ids that `family` has written.
fn pids(path: &Path) -> Vec<u32> {
    wait_until("the grandchild runs", LONG, || {
        let pids: Vec<u32> = fs::read_to_string(path).unwrap_or_default().lines().filter_map(|l| l.parse().ok()).collect();
        if pids.len() == 2 { Ok(pids) } else { Err(format!("{pids:?}")) }
    })
}

fn all_gone(pids: &[u32]) {
    wait_until("no process of the task is left", LONG, || {
        let left: Vec<_> = pids.iter().filter(|p| process_runs(**p)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} run")) }
    });
}

#[test]
fn a_failing_task_is_tried_again_on_another_node_first_and_every_attempt_stays_visible() {
    let mesh = Mesh::start(3);
    let said = mesh[1].cli(["run", "--retries", "2", "--backoff", "300ms", "--", "sh", "-c", "echo try $CLAWMESH_ATTEMPT; exit 7"]);
    said.exits(7).stdout_is("try 3\n");
    let task = mesh[0].tasks("failed").expect("a list").remove(0);
    let tries = attempts(&task);
    assert_eq!(tries.len(), 3, "{task}");
    for (i, attempt) in tries.iter().enumerate() {
        assert_eq!((&attempt["number"], &attempt["exit_code"]), (&json!(i + 1), &json!(7)), "{task}");
        assert!(attempt["ended_at"].is_u64(), "{task}");
    }
    assert_ne!(tries[0]["node"], tries[1]["node"], "another node first: {task}");
    // The pause doubles: 0.3 s, then 0.6 s.  Clocks of one machine, shown in ms.
    let pause = |i: usize| tries[i + 1]["started_at"].as_u64().zip(tries[i]["ended_at"].as_u64()).map(|(b, a)| b.saturating_sub(a));
    assert!(pause(0) >= Some(250) && pause(1) >= Some(550), "{:?} {:?} {task}", pause(0), pause(1));
}

#[test]
fn a_task_that_succeeds_at_the_third_attempt_has_completed() {
    let mesh = Mesh::start(2);
    let said = mesh[0].cli(["run", "--retries", "5", "--backoff", "50ms", "--", "sh", "-c", "test $CLAWMESH_ATTEMPT = 3 && echo done"]);
    said.ok().stdout_is("done\n");
    let task = mesh[1].tasks("completed").expect("a list").remove(0);
    let codes: Vec<_> = attempts(&task).iter().map(|a| a["exit_code"].as_i64()).collect();
    assert_eq!(codes, [Some(1), Some(1), Some(0)], "{task}");
}

#[test]
fn a_time_limit_reaches_the_grandchildren() {
    let mesh = Mesh::start(2);
    let file = mesh.dir().join("pids");
    let said = mesh[1].cli(["run", "--timeout", "1s", "--", "sh", "-c", &family(&file)]).exits(124);
    said.stderr_has(&["time limit"]);
    all_gone(&pids(&file));
    let task = mesh[0].tasks("timeout").expect("a list").remove(0);
    assert_eq!(attempts(&task).len(), 1, "{task}");
}

#[test]
fn a_cancel_reaches_the_grandchildren() {
    let mesh = Mesh::start(2);
    let file = mesh.dir().join("pids");
    let id = mesh[0].cli(["run", "--id-only", "--retries", "3", "--", "sh", "-c", &family(&file)]).ok().out().trim().to_owned();
    let pids = pids(&file);
    mesh[1].cli(["tasks", "cancel", &id]).ok();
    let task = mesh[0].task_until(&id, "cancelled", LONG);
    assert_eq!(attempts(&task).len(), 1, "a cancelled task is not tried again: {task}");
    all_gone(&pids);
    mesh[1].cli(["tasks", "cancel", &id]).ok().stderr_has(&["already ended"]);
}

#[test]
fn a_process_that_ignores_the_polite_signal_is_killed_all_the_same() {
    let mesh = Mesh::start(1);
    let file = mesh.dir().join("pids");
    let script = format!("trap '' TERM; echo $$ >> {0}; echo $$ >> {0}; while :; do sleep 0.1; done", file.display());
    let id = mesh[0].cli(["run", "--id-only", "--", "sh", "-c", &script]).ok().out().trim().to_owned();
    let pids = pids(&file);
    mesh[0].cli(["tasks", "cancel", &id]).ok();
    all_gone(&pids);
    mesh[0].task_until(&id, "cancelled", LONG);
}

#[test]
fn a_queued_task_can_be_cancelled_and_never_starts() {
    let mesh = Mesh::of(2).args(["--slots", "1"]).start();
    let gate = Gate::new(mesh.dir(), "gate");
    let log = Log::new(mesh.dir(), "log");
    let holding = mesh[0].submit(&clawmesh_tests::batch_of(2, &Task::sh(&gate.wait())));
    let waiting = mesh[1].submit(&[Task::sh(&log.append("ran"))]).remove(0);
    mesh[0].task_until(&waiting, "pending", LONG);
    mesh[0].cli(["tasks", "cancel", &waiting]).ok();
    mesh[1].task_until(&waiting, "cancelled", LONG);
    gate.open();
    mesh[0].all_complete(&holding, LONG);
    // Whatever is submitted later has run: the cancelled one had its chance.
    mesh[0].cli(["run", "--", "true"]).ok();
    assert!(log.lines().is_empty(), "{:?}", log.lines());
}

#[test]
fn waiting_no_longer_than_asked_leaves_the_task_alone() {
    let mesh = Mesh::start(1);
    let gate = Gate::new(mesh.dir(), "gate");
    mesh[0].cli(["run", "--wait-timeout", "500ms", "--", "sh", "-c", &gate.wait()]).exits(4).stderr_has(&["nothing was cancelled"]);
    let id = mesh[0].tasks("running").expect("a list")[0]["id"].as_str().expect("an id").to_owned();
    gate.open();
    mesh[0].all_complete(&[id], LONG);
}

#[test]
fn the_time_in_the_queue_and_the_time_in_all_end_a_task() {
    let mesh = Mesh::of(1).args(["--slots", "1"]).start();
    let gate = Gate::new(mesh.dir(), "gate");
    mesh[0].submit(&[Task::sh(&gate.wait())]);
    mesh[0].cli(["run", "--queue-timeout", "1s", "--", "true"]).exits(124);
    mesh[0].cli(["run", "--total-timeout", "1s", "--", "true"]).exits(124);
    let ended = mesh[0].tasks("timeout").expect("a list");
    assert_eq!(ended.len(), 2, "{ended:?}");
    assert!(ended.iter().all(|t| attempts(t).is_empty() && t["reason"].as_str().is_some_and(|r| !r.is_empty())), "{ended:?}");
}

#[test]
fn a_task_that_must_not_run_twice_is_given_up_when_its_node_dies() {
    let mesh = Mesh::of(2).args(["--lost-after", "3s"]).start();
    let gate = Gate::new(mesh.dir(), "gate");
    let log = Log::new(mesh.dir(), "log");
    let script = format!("{}; {}", log.append("started"), gate.wait());
    let args = ["run", "--id-only", "--at-most-once", "--node", "n1", "--retries", "3", "--", "sh", "-c", &script];
    let id = mesh[0].cli(args).ok().out().trim().to_owned();
    mesh[0].task_until(&id, "running", LONG);
    wait_until("the task has started", LONG, || if log.lines().len() == 1 { Ok(()) } else { Err("it has not") });
    mesh[1].kill();
    mesh[1].start();
    let task = mesh[0].task_until(&id, "failed", LONG);
    assert!(task["reason"].as_str().is_some_and(|r| !r.is_empty()), "{task}");
    gate.open();
    holds_for(
        "one start in all",
        Duration::from_secs(2),
        || if log.lines().len() == 1 { Ok(()) } else { Err(format!("{:?}", log.lines())) },
    );
}

#[test]
fn a_task_that_kills_its_node_again_and_again_is_given_up() {
    let mesh = Mesh::of(2).node_args(0, ["--slots", "0"]).start();
    let pid = mesh.dir().join("pid");
    let log = Log::new(mesh.dir(), "log");
    let script = format!("{}; kill -9 $(cat '{}'); sleep 3600", log.append("started"), pid.display());
    fs::write(&pid, mesh[1].pid().expect("it runs").to_string()).expect("a file can be written");
    let id = mesh[0].submit(&[Task::sh(&script)]).remove(0);
    for round in 1..=3 {
        // The node dies of the task each time it starts it.
        let dead = mesh[1].ended(LONG);
        assert!(!dead.success(), "{dead}");
        assert_eq!(log.lines().len(), round, "one start for each boot");
        mesh[1].spawn();
        fs::write(&pid, mesh[1].pid().expect("it runs").to_string()).expect("a file can be written");
        if round == 3 {
            mesh[1].ready();
        }
    }
    let task = mesh[0].task_until(&id, "failed", LONG);
    assert_eq!(attempts(&task).len(), 3, "{task}");
    assert!(mesh[1].runs());
    mesh[0].cli(["run", "--", "echo", "still here"]).ok().stdout_is("still here\n");
}
