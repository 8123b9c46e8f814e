//! A wall clock that jumps: an hour ahead, a day back.  libfaketime stands between the node and its clock; the suite
//! is ignored unless asked for, because that library is not everywhere.
#![cfg(target_os = "linux")]

use std::{fs, path::Path, time::Duration};

use clawmesh_tests::{Gate, LONG, Mesh, Task, batch_of, holds_for, json, wait_until};

/// Where Debian puts it.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

#[test]
#[ignore = "needs root: Debian's libfaketime installed"]
fn a_wall_clock_that_jumps_changes_nothing() {
    assert!(Path::new(LIBRARY).exists(), "{LIBRARY} is not here: install the package 'libfaketime'");
    let mut mesh = Mesh::of(2).args(["--lost-after", "5s"]).start();
    let offset = mesh.dir().join("offset");
    let jump = |to: &str| fs::write(&offset, format!("{to}\n")).expect("a file can be written");
    jump("+0");
    let file = offset.to_str().expect("a path in UTF-8").to_owned();
    mesh.add(|n| {
        n.env("LD_PRELOAD", LIBRARY)
            .env("FAKETIME_TIMESTAMP_FILE", &file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .args(["--priority", "200"])
    });
    // The node with the strange clock coordinates, so that its clock would matter most.
    mesh[0].stop();
    mesh[1].stop();
    wait_until(
        "it coordinates alone",
        LONG,
        || if mesh[2].status()?["role"] == "coordinator" { Ok(()) } else { Err("not yet".to_owned()) },
    );
    mesh.start_all();
    assert_eq!(mesh.coordinator().name(), "n2");
    let epoch = mesh[2].status().expect("a status")["epoch"].clone();

    let gate = Gate::new(mesh.dir(), "gate");
    let limited = Task::sh(&gate.wait()).with("timeout_ms", 600_000).with("total_timeout_ms", 600_000).with("queue_timeout_ms", 600_000);
    let running = mesh[0].submit(&batch_of(3, &limited));
    for id in &running {
        mesh[0].task_until(id, "running", LONG);
    }
    for to in ["+3600", "-86400", "+31536000", "+0"] {
        jump(to);
        let id = mesh[1].submit(&[Task::skill("echo", &json!(to)).with("total_timeout_ms", 60_000)]);
        mesh[0].all_complete(&id, LONG);
        holds_for("peace", Duration::from_secs(2), || {
            for node in mesh.nodes() {
                let status = node.status()?;
                if status["epoch"] != epoch {
                    return Err(format!("{} is in epoch {} after a jump to {to}", node.name(), status["epoch"]));
                }
            }
            Ok(())
        });
        for id in &running {
            assert_eq!(mesh[0].task(id).expect("a task")["state"], "running", "after a jump to {to}");
        }
    }
    // The clock did jump: a task submitted a year ahead says so.
    jump("+31536000");
    let ahead = mesh[2].submit(&[Task::skill("echo", &json!(1))]);
    let shown = mesh[2].all_complete(&ahead, LONG).remove(0);
    let real = mesh[0].task(&running[0]).expect("a task")["submitted_at"].as_u64().expect("a time");
    assert!(shown["submitted_at"].as_u64() > Some(real + 300 * 86_400_000), "libfaketime had no effect: {shown}");
    gate.open();
    mesh[1].all_complete(&running, LONG);
    // It is restarted while its clock is behind its own past.
    jump("-864000");
    mesh[2].stop();
    mesh[2].start();
    mesh.settled();
    let ids = mesh[2].submit(&batch_of(20, &Task::skill("echo", &json!("after"))));
    mesh[0].all_complete(&ids, LONG);
}
