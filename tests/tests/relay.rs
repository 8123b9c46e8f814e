//! Nodes that cannot reach each other work through a third one (E11): on machines of their own (network namespaces), where a
//! switch drops everything between two of them, both ways.  These tests need root, so they are ignored unless asked for:
//! `cargo test -p clawmesh-tests --test relay -- --ignored`.
#![cfg(target_os = "linux")]

use std::time::Instant;

use clawmesh_tests::{LONG, Lan, Mesh, Node, Task, Value, json, wait_until};

/// Well above what travels within a message (1.5 KiB), and above one chunk of a stream.
const LARGE: usize = 300_000;

/// Waits until a node says that it reaches the other one through the third.
fn through(node: &Node, other: &str, relay: &str) {
    wait_until(&format!("{} reaches {other} through {relay}", node.name()), LONG, || {
        let members = node.get("/api/v1/nodes")?;
        let find = |name: &str| members.as_array().into_iter().flatten().find(|m| m["name"] == name).cloned().unwrap_or_default();
        let (m, via) = (find(other), find(relay));
        if m["via"] == via["node"] && m["state"] == "online" { Ok(()) } else { Err(m.to_string()) }
    });
}

/// A task with a large input and an equally large result runs on `worker`, and its submitter gets the result.
fn large_task(submitter: &Node, worker: &str) {
    let word = format!("{}-{worker}", submitter.name());
    let input = format!("{word} {}", "x".repeat(LARGE));
    let start = Instant::now();
    let id = submitter.submit(&[Task::skill("echo", &json!(input)).with("pin", worker)]).remove(0);
    submitter.all_complete(std::slice::from_ref(&id), LONG);
    let out = submitter.cli(["tasks", "result", &id]).ok().out();
    assert!(out.contains(&input), "{} bytes of {} came back", out.len(), input.len());
    println!("{LARGE} bytes from {} to {worker} and back in {:.2} s", submitter.name(), start.elapsed().as_secs_f64());
}

fn epoch(node: &Node) -> Value {
    node.status().expect("a status")["epoch"].clone()
}

#[test]
#[ignore = "needs root: network namespaces, nft"]
fn two_nodes_that_cannot_reach_each_other_work_through_the_third() {
    let lan = Lan::new(3, true);
    let mesh = Mesh::of(3).netns(lan.machines()).args(["--slots", "2"]).start();
    let [a, b, c] = [&mesh[0], &mesh[1], &mesh[2]];
    assert_eq!(mesh.coordinator().name(), "n0");
    let before = epoch(b);
    let cut = Instant::now();
    lan.cut([(0, 2), (2, 0)]);
    through(c, "n0", "n1");
    through(a, "n2", "n1");
    println!("both ends use the relay {:.2} s after the cut", cut.elapsed().as_secs_f64());
    // The coordinator is at one end: a follower behind the relay submits to it, runs for it, and replicates.
    large_task(c, "n0");
    large_task(a, "n2");
    large_task(b, "n2");
    assert_eq!(epoch(b), before, "nobody claims because of that");
    assert!(b.metric("clawmesh_relayed_total", "kind=\"passed\"") > 0.0 && a.metric("clawmesh_relayed_total", "kind=\"taken\"") > 0.0);
    assert_eq!(a.metric("clawmesh_relayed_total", "kind=\"forged\"") + c.metric("clawmesh_relayed_total", "kind=\"forged\""), 0.0);
    c.cli(["nodes"]).ok().stdout_has(&["through n1"]);
    // Live output of a command that runs behind the relay.
    let id = c.submit(&[Task::sh("echo early; sleep 3; echo late").with("pin", "n0")]).remove(0);
    c.task_until(&id, "running", LONG);
    c.cli(["tasks", "logs", "--follow", &id]).ok().stdout_has(&["early", "late"]);
    // The line is back: so is the direct link.
    lan.heal();
    wait_until("the direct link is back", LONG, || {
        let members = c.get("/api/v1/nodes")?;
        let left = members.as_array().into_iter().flatten().filter(|m| !m["via"].is_null()).count();
        if left == 0 { Ok(()) } else { Err(members.to_string()) }
    });
    large_task(c, "n0");
    assert_eq!(epoch(b), before);
}

#[test]
#[ignore = "needs root: network namespaces, nft"]
fn the_coordinator_carries_for_its_followers_and_another_takes_its_place() {
    let lan = Lan::new(4, true);
    let mesh = Mesh::of(4).netns(lan.machines()).args(["--slots", "2"]).start();
    assert_eq!(mesh.coordinator().name(), "n0");
    lan.cut([(2, 3), (3, 2)]);
    through(&mesh[2], "n3", "n0");
    large_task(&mesh[2], "n3");
    let dead = Instant::now();
    mesh[0].kill();
    through(&mesh[2], "n3", "n1");
    through(&mesh[3], "n2", "n1");
    // Not always n1, which has the highest priority of those left: two of the three have a seat among the replicas, by the order in which
    // they came up, and who holds the records comes first (E2).
    println!("a relay was found {:.2} s after the coordinator's death", dead.elapsed().as_secs_f64());
    wait_until("another one coordinates", LONG, || {
        let told: Vec<Value> =
            mesh.nodes()[1..].iter().map(|n| n.status().map(|s| s["coordinator_name"].clone())).collect::<Result<_, _>>()?;
        let one = told.iter().all(|t| *t == told[0]) && ["n1", "n2", "n3"].iter().any(|n| told[0] == *n);
        if one { Ok(()) } else { Err(format!("{told:?}")) }
    });
    println!("{} coordinates {:.2} s after it", mesh.coordinator().name(), dead.elapsed().as_secs_f64());
    large_task(&mesh[3], "n2");
    large_task(&mesh[2], "n3");
}

/// What a node finds out by the distributed index alone.
fn index_says(node: &Node, skill: &str) -> Vec<String> {
    let found = node.json(["skills", "find", "--dht", skill]);
    found.as_array().into_iter().flatten().filter_map(|p| Some(p.as_str()?.to_owned())).collect()
}

#[test]
#[ignore = "needs root: network namespaces, nft"]
fn who_reaches_one_peer_only_finds_every_skill_and_note_through_it() {
    let lan = Lan::new(4, false);
    let skills = tempfile::tempdir().expect("a temporary directory");
    let folder = skills.path().join("far");
    std::fs::create_dir(&folder).expect("a folder");
    let text = "---\nname: far-skill\ndescription: repeats its input\nmetadata:\n  clawmesh:\n    run: [cat]\n    input: text\n    output: text\n---\nText.\n";
    std::fs::write(folder.join("SKILL.md"), text).expect("a file");
    let dir = skills.path().to_str().expect("a path in UTF-8");
    let mesh =
        Mesh::of(3).netns(lan.machines().get(..3).expect("machines")).node_args(2, ["--skills", dir]).node_args(0, ["--memory"]).start();
    let [a, b, c] = [&mesh[0], &mesh[1], &mesh[2]];
    let holder = c.status().expect("a status")["node"].as_str().expect("an id").to_owned();
    wait_until("the index knows it", LONG, || {
        let found = index_says(a, "far-skill");
        if found == [holder.as_str()] { Ok(()) } else { Err(format!("{found:?}")) }
    });
    // From its first moment on, the new node reaches n1 and nobody else.
    lan.cut([(3, 0), (0, 3), (3, 2), (2, 3)]);
    let late = mesh.another("late").netns(&lan.machines()[3]).join(&b.ticket()).args(["--memory"]).start();
    let begin = Instant::now();
    wait_until("the index says who has the skill", LONG, || {
        let found = index_says(&late, "far-skill");
        if found == [holder.as_str()] { Ok(()) } else { Err(format!("{found:?}")) }
    });
    println!("found in the index {:.2} s after the start", begin.elapsed().as_secs_f64());
    let lanes = late.get("/api/v1/nodes").expect("a list");
    let direct: Vec<&Value> = lanes
        .as_array()
        .into_iter()
        .flatten()
        .filter(|m| m["state"] == "online" && m["via"].is_null() && m["this"] == false)
        .map(|m| &m["name"])
        .collect();
    assert_eq!(direct, [&Value::from("n1")], "it reaches one node by itself: {lanes}");
    // And it can be used: the catalogue came, and the task goes through the one in between.
    wait_until("the catalogue has come", LONG, || {
        let all = late.get("/api/v1/skills?name=far-skill")?;
        if all[0]["name"] == "far-skill" { Ok(()) } else { Err(all.to_string()) }
    });
    late.cli(["submit", "far-skill", "--input-text", "from far away", "--wait", "--wait-timeout", "40s"]).ok().stdout_is("from far away");
    // Notes, too, also when the one in between shares none.
    a.cli(["memory", "note", "written beyond the wall"]).ok();
    wait_until("the note has come", LONG, || {
        let found = late.json(["memory", "search", "wall"]);
        if found[0]["node_name"] == "n0" { Ok(()) } else { Err(found.to_string()) }
    });
    b.cli(["memory", "ls"]).exits(1);
}
