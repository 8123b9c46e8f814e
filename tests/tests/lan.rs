//! Machines made of network namespaces: discovery, partitions, the heal.  These tests need root, so they are ignored
//! unless asked for: `cargo test -p clawmesh-tests -- --ignored`.
#![cfg(target_os = "linux")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use clawmesh_tests::{AGES, Gate, LONG, Lan, Log, Mesh, Node, Task, Value, batch_of, json, wait_until};

fn completed(task: &Value) -> usize {
    task["attempts"].as_array().into_iter().flatten().filter(|a| a["exit_code"] == 0).count()
}

/// Starts the node, and returns a ticket whose addresses lead nowhere any more: what is left of it is the mesh's key.
fn stale_ticket(node: &Node) -> String {
    node.use_port(7_001);
    node.start();
    let ticket = node.ticket();
    node.stop();
    node.use_port(8_889);
    node.start();
    ticket
}

/// Waits until these nodes, by themselves, agree on one coordinator among them.
fn agree<'a>(what: &str, nodes: &[&'a Node], limit: Duration) -> &'a Node {
    wait_until(what, limit, || {
        let views: Vec<Value> = nodes.iter().map(|n| n.status()).collect::<Result<_, _>>()?;
        let same = views.iter().all(|v| v["coordinator"] == views[0]["coordinator"] && v["epoch"] == views[0]["epoch"]);
        let leader = nodes.iter().zip(&views).find(|(_, v)| v["role"] == "coordinator" && v["node"] == v["coordinator"]);
        match leader {
            Some((node, _)) if same => Ok(*node),
            _ => {
                let told: Vec<String> =
                    views.iter().map(|v| format!("{} is {} in {} of {}", v["name"], v["role"], v["epoch"], v["coordinator"])).collect();
                Err(told.join("; "))
            }
        }
    })
}

#[test]
#[ignore = "needs root: network namespaces"]
fn nodes_of_one_mesh_find_each_other_by_mdns_alone() {
    let lan = Lan::new(3, true);
    let mesh = Mesh::of(1).netns(lan.machines()).build();
    let stale = stale_ticket(&mesh[0]);
    let newcomers: Vec<Node> = [1, 2].map(|i| mesh.another(&format!("m{i}")).netns(&lan.machines()[i]).join(&stale).build()).into();
    let start = Instant::now();
    newcomers.iter().for_each(Node::spawn);
    newcomers.iter().for_each(Node::ready);
    let all: Vec<&Node> = newcomers.iter().chain([&mesh[0]]).collect();
    wait_until("all three are members", LONG, || {
        for node in &all {
            let status = node.status()?;
            let online = status["members"].as_array().into_iter().flatten().filter(|m| m["state"] == "online").count();
            if online != 3 {
                return Err(format!("{} sees {online}", node.name()));
            }
        }
        Ok(())
    });
    println!("three nodes found each other in {:.2} s, start included", start.elapsed().as_secs_f64());
    agree("one coordinates", &all, LONG);
    newcomers[1].cli(["run", "--node", "n0", "--", "echo", "found"]).ok().stdout_is("found\n");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn two_meshes_on_one_lan_leave_each_other_alone() {
    let lan = Lan::new(2, true);
    let mesh = Mesh::of(2).netns(lan.machines()).build();
    mesh[0].start();
    mesh[1].start();
    // They hear each other's mDNS; a connection between them ends at the first bytes.
    let heard = |n: &Node| {
        n.metric("libp2p_swarm_connections_incoming_error_total", "") + n.metric("libp2p_swarm_outgoing_connection_error_total", "")
    };
    wait_until("they have met", LONG, || {
        let n = heard(&mesh[0]) + heard(&mesh[1]);
        if n > 0.0 { Ok(()) } else { Err(n) }
    });
    for node in mesh.nodes() {
        assert_eq!(node.status().expect("a status")["members"].as_array().map(Vec::len), Some(1));
        node.cli(["run", "--", "true"]).ok();
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_partition_heals_to_one_coordinator_and_nothing_acknowledged_is_lost() {
    let lan = Lan::new(3, true);
    let mesh = Mesh::of(3).netns(lan.machines()).args(["--slots", "4", "--lost-after", "20s"]).start();
    let log = Log::new(mesh.dir(), "log");
    let gate = Gate::new(mesh.dir(), "gate");
    let before = mesh[1].submit(&batch_of(12, &Task::sh(&format!("{}; {}", log.append("long"), gate.wait()))));
    wait_until("all slots work", LONG, || if log.lines().len() == 12 { Ok(()) } else { Err(log.lines().len()) });
    let queued = mesh[2].submit(&batch_of(100, &Task::sh(&log.append("short"))));
    let old = mesh.coordinator();
    assert_eq!(old.name(), "n0");

    // The coordinator alone on one side; nothing closes, packets vanish.
    let cut = Instant::now();
    lan.unplug(0);
    let majority = [&mesh[1], &mesh[2]];
    let new = wait_until("the two others have a coordinator of their own", LONG, || {
        let views: Vec<Value> = majority.iter().map(|n| n.status()).collect::<Result<_, _>>()?;
        let found = majority.iter().zip(&views).find(|(_, v)| v["role"] == "coordinator");
        found.map(|(n, _)| *n).filter(|_| views[0]["coordinator"] == views[1]["coordinator"]).ok_or_else(|| format!("{views:?}"))
    });
    println!("{} serves {:.2} s after the cut", new.name(), cut.elapsed().as_secs_f64());
    // Both sides take work: in open mode any side may serve, and says how many copies there are.
    let right = mesh[2].submit(&batch_of(50, &Task::skill("echo", &json!("right"))));
    let answer = wait_until("the lone node takes work again", LONG, || {
        let one = json!([{ "skill": "echo", "input": "\"left\"" }]);
        let answer = mesh[0].api("POST", "/api/v1/tasks", Some(&one))?.json();
        if answer["tasks"][0]["id"].is_string() { Ok(answer["tasks"][0].clone()) } else { Err(answer.to_string()) }
    });
    assert_eq!(answer["copies"], 1, "alone there is one copy, and it is said: {answer}");
    let mut left = mesh[0].submit(&batch_of(50, &Task::skill("echo", &json!("left"))));
    left.push(answer["id"].as_str().expect("an id").to_owned());
    gate.open();

    let healed = Instant::now();
    lan.plug(0);
    let one = agree("one coordinates after the heal", &mesh.nodes().iter().collect::<Vec<_>>(), LONG);
    println!("{} coordinates all {:.2} s after the heal", one.name(), healed.elapsed().as_secs_f64());
    mesh.settled();
    let all: Vec<String> = [&before, &queued, &right, &left].into_iter().flatten().cloned().collect();
    for node in mesh.nodes() {
        let shown = node.all_complete(&all, AGES);
        assert!(shown.iter().all(|t| completed(t) >= 1), "{shown:?}");
    }
    // At least once, and the record says how often: every start is an attempt that is shown.
    let starts = log.by_task();
    for task in mesh[1].tasks("completed").expect("a list") {
        let id = task["id"].as_str().expect("an id");
        let attempts = task["attempts"].as_array().map_or(0, Vec::len);
        let started = starts.get(id).copied().unwrap_or(attempts);
        assert!(started <= attempts, "{id} was started {started} times, {attempts} attempts are shown: {task}");
    }
    // No rival is left, and the epoch stands still.
    let epoch = one.status().expect("a status")["epoch"].clone();
    clawmesh_tests::holds_for("the peace", Duration::from_secs(8), || {
        for node in mesh.nodes() {
            let status = node.status()?;
            if status["epoch"] != epoch {
                return Err(format!("{} is in epoch {}", node.name(), status["epoch"]));
            }
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_worker_that_is_cut_off_keeps_its_result_until_the_heal() {
    let lan = Lan::new(3, true);
    let mesh =
        Mesh::of(3).netns(lan.machines()).args(["--slots", "1"]).node_args(0, ["--slots", "0"]).node_args(1, ["--slots", "0"]).start();
    let gate = Gate::new(mesh.dir(), "gate");
    let log = Log::new(mesh.dir(), "log");
    let id = mesh[0].submit(&[Task::sh(&format!("{}; {}; echo late", log.append("start"), gate.wait()))]).remove(0);
    mesh[0].task_until(&id, "running", LONG);
    lan.unplug(2);
    wait_until("the mesh misses it", LONG, || {
        let status = mesh[0].status()?;
        let state = status["members"].as_array().into_iter().flatten().find(|m| m["name"] == "n2").map(|m| m["state"].clone());
        if state.as_ref().is_some_and(|s| s != "online") { Ok(()) } else { Err(format!("{state:?}")) }
    });
    gate.open();
    wait_until("the task has ended over there", LONG, || {
        let nodes = mesh[2].get("/api/v1/nodes")?;
        let own = nodes.as_array().into_iter().flatten().find(|m| m["this"] == true).map(|m| m["running"].clone());
        if own.as_ref().is_some_and(|n| n == 0) { Ok(()) } else { Err(format!("{own:?}")) }
    });
    // Far fewer than the 60 s after which it would count as lost.
    lan.plug(2);
    mesh[0].all_complete(std::slice::from_ref(&id), LONG);
    mesh[1].cli(["tasks", "result", &id]).ok().stdout_is("late\n");
    assert_eq!(log.lines().len(), 1, "it ran once");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_coordinator_killed_behind_a_network_is_replaced() {
    let lan = Lan::new(3, true);
    let mesh = Mesh::of(3).netns(lan.machines()).start();
    let old = mesh.coordinator();
    let start = Instant::now();
    old.kill();
    let new = mesh.coordinator();
    println!("{} serves {:.2} s after the kill", new.name(), start.elapsed().as_secs_f64());
    assert_ne!(new.name(), old.name());
    new.cli(["run", "--", "echo", "on"]).ok().stdout_is("on\n");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn on_a_network_without_multicast_the_tailscale_client_names_the_peers() {
    let lan = Lan::new(3, false);
    let mesh = Mesh::of(1).build();
    // Stands in for `tailscale status --json`: what the real one prints, with the machines of this network.
    let client = mesh.dir().join("tailscale");
    let peer =
        |i: u8| format!("\"nodekey:{i}\":{{\"HostName\":\"m{i}\",\"OS\":\"linux\",\"Online\":true,\"TailscaleIPs\":[\"10.77.0.{i}\"]}}");
    let peers: Vec<String> = (1..=3).map(peer).collect();
    let json = format!("{{\"BackendState\":\"Running\",\"Peer\":{{{}}}}}", peers.join(","));
    let asked = mesh.dir().join("asked");
    fs::write(&client, format!("#!/bin/sh\necho \"$@\" >> '{}'\necho '{json}'\n", asked.display())).expect("a file can be written");
    fs::set_permissions(&client, fs::Permissions::from_mode(0o755)).expect("a file can be made executable");

    let client = client.to_str().expect("a path in UTF-8").to_owned();
    let machine = |i: usize| mesh.another(&format!("m{}", i + 1)).netns(&lan.machines()[i]).args(["--tailscale-command", &client]);
    let first = machine(0).build();
    let stale = stale_ticket(&first);
    let nodes: Vec<Node> = [1, 2].map(|i| machine(i).join(&stale).build()).into();
    nodes.iter().for_each(|n| n.use_port(8_889));
    nodes.iter().for_each(Node::spawn);
    nodes.iter().for_each(Node::ready);
    let all: Vec<&Node> = nodes.iter().chain([&first]).collect();
    wait_until("all three are members", LONG, || {
        for node in &all {
            let online = node.status()?["members"].as_array().into_iter().flatten().filter(|m| m["state"] == "online").count();
            if online != 3 {
                return Err(format!("{} sees {online}", node.name()));
            }
        }
        Ok(())
    });
    let asked = fs::read_to_string(&asked).expect("the client was asked");
    assert!(asked.lines().all(|l| l == "status --json"), "{asked}");
    agree("one coordinates", &all, LONG);
    nodes[1].cli(["run", "--", "echo", "tailnet"]).ok().stdout_is("tailnet\n");
}
