//! Processes die: `kill -9` of the coordinator, of a worker, of everything; and nodes come and go in order.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use clawmesh_tests::{AGES, Gate, LONG, Log, Mesh, Node, Task, Value, batch_of, wait_until};

fn attempts(task: &Value) -> &[Value] {
    task["attempts"].as_array().map_or(&[], Vec::as_slice)
}

fn completed(task: &Value) -> usize {
    attempts(task).iter().filter(|a| a["state"] == "completed" || a["exit_code"] == 0).count()
}

/// Waits until so many tasks run, as the log of their starts says.
fn started(log: &Log, n: usize) {
    wait_until(&format!("{n} tasks have started"), AGES, || {
        let now = log.lines().len();
        if now >= n { Ok(()) } else { Err(format!("{now} have")) }
    });
}

/// A new coordinator, which is not `old`.
fn successor<'a>(mesh: &'a Mesh, old: &str) -> &'a Node {
    let new = mesh.coordinator();
    assert_ne!(new.name(), old);
    new
}

#[test]
fn the_coordinator_dies_with_500_tasks_queued_and_20_running() {
    let mesh = Mesh::of(3).args(["--slots", "10"]).node_args(0, ["--slots", "0"]).alone().start();
    assert_eq!(mesh.coordinator().name(), "n0");
    let (long, short) = (Log::new(mesh.dir(), "long"), Log::new(mesh.dir(), "short"));
    let gate = Gate::new(mesh.dir(), "gate");
    let running = mesh[1].submit(&batch_of(20, &Task::sh(&format!("{}; {}", long.append("start"), gate.wait()))));
    started(&long, 20);
    // Half of them through the node that will die: their origin does not come back.
    let quick = Task::sh(&short.append("start"));
    let mut queued = mesh[1].submit(&batch_of(250, &quick));
    queued.extend(mesh[0].submit(&batch_of(250, &quick)));
    assert_eq!(short.lines().len(), 0, "all slots are taken");

    let died = Instant::now();
    mesh[0].kill();
    let new = successor(&mesh, "n0");
    println!("{} serves {:.2} s after the kill", new.name(), died.elapsed().as_secs_f64());
    // Those that run are known to the new coordinator as running.
    wait_until("the new coordinator knows the 20 that run", LONG, || {
        let now = mesh[2].tasks("running")?;
        if now.len() == 20 { Ok(()) } else { Err(format!("{} run", now.len())) }
    });
    gate.open();
    let all: Vec<String> = running.iter().chain(&queued).cloned().collect();
    let shown = mesh[2].all_complete(&all, AGES);
    for task in &shown {
        assert_eq!(completed(task), 1, "one outcome each: {task}");
    }
    // Nobody was started twice: the workers were alive all the time.
    for (log, ids) in [(&long, &running), (&short, &queued)] {
        let starts = log.by_task();
        assert!(
            starts.values().all(|n| *n == 1),
            "started more than once: {:?}",
            starts.iter().filter(|(_, n)| **n != 1).collect::<Vec<_>>()
        );
        assert_eq!(starts.keys().collect::<BTreeSet<_>>(), ids.iter().collect::<BTreeSet<_>>());
    }
    // The old coordinator comes back as one of them and knows the results of what was submitted through it.
    mesh[0].start();
    mesh.settled();
    mesh[0].all_complete(&all, AGES);
    let ended = mesh.coordinator().metric("clawmesh_tasks_ended_total", "");
    println!("the coordinator has counted {ended} ends");
}

#[test]
fn a_worker_dies_and_its_tasks_run_elsewhere() {
    let mesh = Mesh::of(3).args(["--lost-after", "3s", "--slots", "4"]).node_args(0, ["--slots", "0"]).start();
    let log = Log::new(mesh.dir(), "log");
    let gate = Gate::new(mesh.dir(), "gate");
    let ids = mesh[0].submit(&batch_of(4, &Task::sh(&format!("{}; {}", log.append("start"), gate.wait()))));
    started(&log, 4);
    let shown: Vec<Value> = ids.iter().map(|id| mesh[0].task(id).expect("a task")).collect();
    let on = |name: &str| shown.iter().filter(|t| attempts(t)[0]["name"] == name).count();
    let (victim, heir) = if on("n1") > 0 { ("n1", "n2") } else { ("n2", "n1") };
    let lost = on(victim);
    mesh.nodes().iter().filter(|n| n.name() == victim).for_each(Node::kill);
    started(&log, 4 + lost);
    gate.open();
    let done = mesh[0].all_complete(&ids, LONG);
    for task in &done {
        let tries = attempts(task);
        let was_lost = tries.len() == 2 && tries[0]["name"] == victim && tries[1]["name"] == heir && tries[0]["ended_at"].is_u64();
        let was_not = tries.len() == 1 && tries[0]["name"] == heir;
        assert!(was_lost || was_not, "{task}");
    }
    assert_eq!(done.iter().filter(|t| attempts(t).len() == 2).count(), lost, "only the lost ones run again");
    wait_until("the dead node is offline", LONG, || {
        let status = mesh[0].status()?;
        let dead = status["members"].as_array().and_then(|a| a.iter().find(|m| m["name"] == victim).cloned()).ok_or("it is not listed")?;
        if dead["state"] == "offline" { Ok(()) } else { Err(dead["state"].to_string()) }
    });
}

#[test]
fn all_nodes_die_at_once_and_nothing_acknowledged_is_lost() {
    let mesh = Mesh::of(3).args(["--slots", "2"]).alone().start();
    let log = Log::new(mesh.dir(), "log");
    let gate = Gate::new(mesh.dir(), "gate");
    let before = mesh[2].submit(&batch_of(20, &Task::skill("echo", &Value::from("kept"))));
    mesh[2].all_complete(&before, LONG);
    let mut ids = mesh[1].submit(&batch_of(6, &Task::sh(&format!("{}; {}", log.append("start"), gate.wait()))));
    started(&log, 6);
    for node in mesh.nodes() {
        ids.extend(node.submit(&batch_of(100, &Task::sh(&log.append("start")))));
    }
    mesh.kill_all();
    gate.open();
    mesh.start_all();
    let shown = mesh[0].all_complete(&ids, AGES);
    for task in &shown {
        assert_eq!(completed(task), 1, "one outcome each: {task}");
    }
    // Those that never ran before the end were started once.
    let starts = log.by_task();
    for id in ids.iter().skip(6) {
        assert_eq!(starts.get(id), Some(&1), "{id}");
    }
    // What was finished before is still known, with its result.
    for id in &before {
        mesh[1].task_until(id, "completed", LONG);
    }
    mesh[1].cli(["tasks", "result", &before[7]]).ok().stdout_has(&["kept"]);
}

#[test]
fn the_same_three_nodes_die_one_after_the_other_under_load() {
    let mesh = Mesh::of(3).args(["--slots", "3", "--lost-after", "3s"]).alone().start();
    let log = Log::new(mesh.dir(), "log");
    let mut ids = Vec::new();
    for round in 0..3 {
        let through = &mesh[(round + 1) % 3];
        ids.extend(through.submit(&batch_of(60, &Task::sh(&format!("{}; sleep 0.05", log.append("start"))))));
        started(&log, 10 * (round + 1));
        let victim = mesh.coordinator().name().to_owned();
        let victim = mesh.by_id(&victim);
        victim.kill();
        successor(&mesh, victim.name());
        victim.start();
        mesh.settled();
    }
    let shown = mesh[0].all_complete(&ids, AGES);
    for task in &shown {
        assert_eq!(completed(task), 1, "one outcome each: {task}");
    }
}

#[test]
fn a_submit_during_the_takeover_is_kept_and_done() {
    let mesh = Mesh::start(3);
    mesh.coordinator().kill();
    // Nobody coordinates at this moment; the command waits, and works.
    mesh[1].cli(["run", "--", "echo", "patience"]).ok().stdout_is("patience\n");
}

#[test]
fn somebody_who_waits_gets_the_result_although_the_coordinator_dies() {
    let mesh = Mesh::of(3).node_args(0, ["--slots", "0"]).start();
    let gate = Gate::new(mesh.dir(), "gate");
    let log = Log::new(mesh.dir(), "log");
    let waiting = mesh[1].command(["run", "--", "sh", "-c", &format!("{}; {}; echo done", log.append("start"), gate.wait())]).spawn();
    started(&log, 1);
    mesh[0].kill();
    successor(&mesh, "n0");
    gate.open();
    waiting.end(LONG).ok().stdout_is("done\n");
    assert_eq!(log.lines().len(), 1);
}

#[test]
fn a_worker_is_stopped_for_a_while_and_its_result_is_accepted_once() {
    let mesh = Mesh::of(3).args(["--lost-after", "2s", "--slots", "1"]).node_args(0, ["--slots", "0"]).start();
    let log = Log::new(mesh.dir(), "log");
    let gate = Gate::new(mesh.dir(), "gate");
    let id = mesh[0].submit(&[Task::sh(&format!("{}; {}", log.append("start"), gate.wait()))]).remove(0);
    started(&log, 1);
    let name = mesh[0].task_until(&id, "running", LONG)["attempts"][0]["name"].as_str().expect("a name").to_owned();
    let asleep = mesh.by_id(&name);
    asleep.pause();
    // It counts as lost, and the task starts elsewhere.
    started(&log, 2);
    asleep.resume();
    gate.open();
    let done = mesh[0].all_complete(std::slice::from_ref(&id), LONG).remove(0);
    mesh.settled();
    let again = mesh[0].task(&id).expect("a task");
    assert_eq!(again["state"], "completed");
    assert!(completed(&again) >= 1, "{done} {again}");
}

#[test]
fn a_coordinator_that_is_stopped_is_replaced_and_follows_when_it_wakes() {
    let mesh = Mesh::of(3).args(["--slots", "4"]).start();
    let old = mesh.coordinator();
    old.pause();
    let others: Vec<&Node> = mesh.nodes().iter().filter(|n| n.name() != old.name()).collect();
    let new = wait_until("the others have another coordinator", LONG, || {
        let views: Vec<Value> = others.iter().map(|n| n.status()).collect::<Result<_, _>>()?;
        let leader = others.iter().zip(&views).find(|(_, v)| v["role"] == "coordinator").map(|(n, _)| *n);
        let one = views.iter().all(|v| v["coordinator"] == views[0]["coordinator"]);
        leader.filter(|_| one).ok_or_else(|| format!("{views:?}"))
    });
    let ids = new.submit(&batch_of(40, &Task::skill("echo", &Value::from(1))));
    new.all_complete(&ids, LONG);
    old.resume();
    mesh.settled();
    let ids = old.submit(&batch_of(40, &Task::skill("echo", &Value::from(2))));
    mesh[1].all_complete(&ids, LONG);
}

#[test]
fn a_node_that_joins_late_takes_its_share() {
    let mut mesh = Mesh::of(2).args(["--slots", "1"]).start();
    let gate = Gate::new(mesh.dir(), "gate");
    let log = Log::new(mesh.dir(), "log");
    let held = mesh[0].submit(&batch_of(2, &Task::sh(&gate.wait())));
    let queued = mesh[0].submit(&batch_of(30, &Task::sh(&log.append("start"))));
    for id in &held {
        mesh[1].task_until(id, "running", LONG);
    }
    mesh.add(|n| n.args(["--slots", "2"]));
    // The others are full: whatever runs now runs on the newcomer.
    let done = mesh[2].all_complete(&queued, LONG);
    assert!(done.iter().all(|t| attempts(t).len() == 1 && attempts(t)[0]["name"] == "n2"), "{done:?}");
    mesh[2].cli(["run", "--", "echo", "at home"]).ok().stdout_is("at home\n");
    gate.open();
    mesh[2].all_complete(&held, LONG);
}

#[test]
fn a_clean_stop_of_the_coordinator_hands_over_at_once() {
    let mesh = Mesh::of(3).alone().start();
    let old = mesh.coordinator();
    let queued = mesh[1].submit(&batch_of(50, &Task::skill("echo", &Value::from(1))));
    let start = Instant::now();
    let took = old.stop();
    assert!(took < Duration::from_secs(2), "the stop took {took:?}");
    let new = successor(&mesh, old.name());
    let gap = start.elapsed();
    println!("stopped in {took:?}, {} serves {gap:?} after the command", new.name());
    assert!(gap < Duration::from_secs(4), "the hand-over took {gap:?}");
    new.all_complete(&queued, LONG);
    // It said good-bye: nobody waits for it as for a lost one.
    let status = new.status().expect("a status");
    let gone = status["members"].as_array().and_then(|a| a.iter().find(|m| m["name"] == old.name()).cloned());
    assert!(gone.is_none_or(|m| m["state"] == "offline"), "{status}");
}

#[test]
fn a_clean_stop_of_a_worker_hands_its_tasks_back_at_once() {
    let mesh = Mesh::of(3).args(["--slots", "2"]).node_args(0, ["--slots", "0"]).start();
    let log = Log::new(mesh.dir(), "log");
    let gate = Gate::new(mesh.dir(), "gate");
    let ids =
        mesh[0].submit(&batch_of(2, &Task::sh(&format!("{}; {}", log.append("start"), gate.wait())).with("labels", Value::Array(vec![]))));
    started(&log, 2);
    let on: BTreeSet<String> =
        ids.iter().map(|id| mesh[0].task(id).expect("a task")["attempts"][0]["name"].as_str().expect("a name").to_owned()).collect();
    let leaving = mesh.by_id(on.first().expect("a worker"));
    // Long before the 60 s after which a silent node counts as lost.
    let start = Instant::now();
    leaving.stop();
    started(&log, 3);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    gate.open();
    mesh[0].all_complete(&ids, LONG);
}
