//! A disk that fills up: new work is refused with a clear word, nothing is lost, and room brings everything back.
//! These tests mount a small file system, which needs root, so they are ignored unless asked for.
#![cfg(target_os = "linux")]

use std::fs;

use clawmesh_tests::{Gate, LONG, Mesh, Node, SmallDisk, Task, batch_of, json, wait_until};

/// Submits one task; the code of the refusal when it is refused.
fn submit(node: &Node) -> Result<String, String> {
    let one = json!([{ "skill": "echo", "input": "1" }]);
    let answer = node.api("POST", "/api/v1/tasks", Some(&one))?.json();
    match answer["tasks"][0]["id"].as_str() {
        Some(id) => Ok(id.to_owned()),
        // Refused as a whole, or this one task of the request.
        None => Err([&answer["code"], &answer["tasks"][0]["error"]["code"]]
            .iter()
            .find_map(|code| code.as_str())
            .map_or_else(|| answer.to_string(), str::to_owned)),
    }
}

fn until_full(node: &Node) {
    wait_until("a submit is refused as full", LONG, || match submit(node) {
        Err(code) if code == "full" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
#[ignore = "needs root: mounts a small file system"]
fn a_full_disk_refuses_new_work_finishes_the_old_and_recovers() {
    let mesh = Mesh::of(0).build();
    let disk = SmallDisk::mount(&mesh.dir().join("disk"), 64);
    let node = mesh.another("small").home(&disk.path().join("home")).args(["--slots", "2"]).start();
    let gate = Gate::new(mesh.dir(), "gate");
    let running = node.submit(&batch_of(2, &Task::sh(&format!("{}; echo done", gate.wait()))));
    let queued = node.submit(&batch_of(50, &Task::skill("echo", &json!("kept"))));
    for id in &running {
        node.task_until(id, "running", LONG);
    }
    let hog = disk.fill(1_024);
    until_full(&node);
    let said = node.cli(["run", "--", "true"]);
    assert!([1, 125].contains(&said.code()), "{}", said.told());
    said.stderr_has(&["full"]);
    node.cli(["submit", "echo", "--input", "1"]).exits(1).stderr_has(&["full"]);
    // The ends of what was acknowledged still find room.
    gate.open();
    let all: Vec<String> = running.iter().chain(&queued).cloned().collect();
    node.all_complete(&all, LONG);
    // Room comes back, and with it new work.
    fs::remove_file(hog).expect("a file can be removed");
    wait_until("new work is taken again", LONG, || submit(&node));
    // Nothing was lost meanwhile, also not on the disk.
    node.kill();
    node.start();
    node.settled_alone();
    for id in &all {
        node.task_until(id, "completed", LONG);
    }
}

#[test]
#[ignore = "needs root: mounts a small file system"]
fn a_disk_that_is_full_to_the_last_byte_loses_nothing() {
    let mesh = Mesh::of(0).build();
    let disk = SmallDisk::mount(&mesh.dir().join("disk"), 64);
    let node = mesh.another("small").home(&disk.path().join("home")).args(["--slots", "2"]).start();
    let kept = node.submit(&batch_of(50, &Task::skill("echo", &json!("kept"))));
    node.all_complete(&kept, LONG);
    let hog = disk.fill(0);
    until_full_or_down(&node);
    fs::remove_file(hog).expect("a file can be removed");
    if !node.runs() {
        // A store that failed ends its node; the next start recovers (D4).
        node.ended(LONG);
        node.start();
    }
    node.settled_alone();
    for id in &kept {
        node.task_until(id, "completed", LONG);
    }
    wait_until("new work is taken again", LONG, || submit(&node));
}

fn until_full_or_down(node: &Node) {
    wait_until("a submit is refused as full, or the node has ended", LONG, || match submit(node) {
        _ if !node.runs() => Ok(()),
        Err(code) if code == "full" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
#[ignore = "needs root: mounts a small file system"]
fn one_full_disk_of_three_stops_nobody_else() {
    // A store that failed ends its node (D4): what it was about to run is run elsewhere once it counts as lost.
    let mut mesh = Mesh::of(2).args(["--lost-after", "5s"]).start();
    let disk = SmallDisk::mount(&mesh.dir().join("disk"), 64);
    mesh.add(|n| n.home(&disk.path().join("home")));
    let hog = disk.fill(512);
    let ids = mesh[0].submit(&batch_of(300, &Task::skill("echo", &json!("elsewhere"))));
    mesh[0].all_complete(&ids, LONG);
    let more = mesh[1].submit(&batch_of(100, &Task::sh("true")));
    mesh[1].all_complete(&more, LONG);
    fs::remove_file(hog).expect("a file can be removed");
    if !mesh[2].runs() {
        mesh[2].ended(LONG);
        mesh[2].start();
    }
    mesh.settled();
    wait_until("the third takes work again", LONG, || submit(&mesh[2]));
    mesh[2].all_complete(&ids, LONG);
    mesh[2].kill();
}
