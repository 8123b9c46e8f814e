//! Start in order, roll back what was started when a step fails, stop in under two seconds.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use clawmesh_tests::{Cli, Gate, LONG, Mesh, SHORT, Said, Task, batch_of, end_strays, process_runs, wait_until};

/// A bound on the stop that people see.
const STOP_MAX: Duration = Duration::from_secs(2);

/// `up` on this home, which must end by itself.
fn up(home: &Path, args: &[&str]) -> Said {
    let fixed = ["up", "--no-mdns", "--loopback-only", "--no-openclaw-skills"];
    Cli::new(home, None).args(fixed).args(args).within(SHORT).run()
}

/// A port that somebody listens on.
fn taken() -> (TcpListener, String) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let port = listener.local_addr().expect("it has an address").port().to_string();
    (listener, port)
}

/// A port that is free now.
fn free() -> String {
    taken().1
}

/// Nothing of a failed start is left: no announcement, no lock, both ports free; and a right start works on this home.
fn nothing_left(mesh: &Mesh, home: &Path, ports: &[&str]) {
    assert!(!home.join("api.json").exists(), "the announcement is left behind");
    for port in ports {
        let port: u16 = port.parse().expect("a port");
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap_or_else(|e| panic!("port {port} is not free again: {e}"));
    }
    let node = mesh.another("again").home(home).start();
    node.cli(["run", "--", "echo", "works"]).ok().stdout_is("works\n");
    node.stop();
}

#[test]
fn a_taken_api_port_is_told_and_nothing_is_left_behind() {
    let mesh = Mesh::of(0).build();
    let home = mesh.dir().join("home");
    let ((_listener, port), mesh_port) = (taken(), free());
    let said = up(&home, &["--api-port", &port, "--mesh-port", &mesh_port]).exits(1);
    said.stderr_has(&[&port, "in use", "--api-port"]);
    nothing_left(&mesh, &home, &[&mesh_port]);
}

#[test]
fn a_taken_mesh_port_is_told_and_nothing_is_left_behind() {
    let mesh = Mesh::of(0).build();
    let home = mesh.dir().join("home");
    let ((_listener, port), api_port) = (taken(), free());
    let said = up(&home, &["--api-port", &api_port, "--mesh-port", &port]).exits(1);
    said.stderr_has(&[&port, "taken", "--mesh-port"]);
    nothing_left(&mesh, &home, &[&api_port]);
}

#[test]
fn a_store_that_cannot_be_opened_is_told_and_nothing_is_left_behind() {
    let mesh = Mesh::of(0).build();
    let home = mesh.dir().join("home");
    fs::create_dir_all(&home).expect("a directory can be made");
    fs::write(home.join("store"), "a file where the store's directory should be").expect("a file can be written");
    let (api_port, mesh_port) = (free(), free());
    let said = up(&home, &["--api-port", &api_port, "--mesh-port", &mesh_port]).exits(1);
    said.stderr_has(&["store"]);
    fs::remove_file(home.join("store")).expect("a file can be removed");
    nothing_left(&mesh, &home, &[&api_port, &mesh_port]);
}

#[test]
fn an_announcement_that_cannot_be_written_is_told_and_nothing_is_left_behind() {
    let mesh = Mesh::of(0).build();
    let home = mesh.dir().join("home");
    // The last step of the start fails: everything else has been started by then.
    fs::create_dir_all(home.join("api.json/in-the-way")).expect("a directory can be made");
    let (api_port, mesh_port) = (free(), free());
    let said = up(&home, &["--api-port", &api_port, "--mesh-port", &mesh_port]).exits(1);
    said.stderr_has(&["home"]);
    fs::remove_dir_all(home.join("api.json")).expect("a directory can be removed");
    nothing_left(&mesh, &home, &[&api_port, &mesh_port]);
}

#[test]
fn what_is_no_ticket_is_refused_and_nothing_is_left_behind() {
    let mesh = Mesh::of(0).build();
    let home = mesh.dir().join("home");
    for wrong in ["hello", "clawmesh1", "", "00000000000000000000000000000000000000000000"] {
        let said = up(&home, &["--api-port", "0", "--mesh-port", "0", "--join", wrong]);
        assert!([1, 2].contains(&said.code()), "{}", said.told());
        said.stderr_has(&["ticket"]);
        assert!(!home.join("api.json").exists());
    }
    let node = mesh.another("again").home(&home).start();
    assert_eq!(node.status().expect("a status")["members"].as_array().map(Vec::len), Some(1), "a new mesh of its own");
}

#[test]
fn a_ticket_of_another_mesh_is_refused_by_a_home_that_has_one() {
    let mesh = Mesh::of(2).build();
    mesh[0].start();
    mesh[1].start();
    let ticket = mesh[0].ticket();
    mesh[1].stop();
    let said = up(mesh[1].home(), &["--api-port", "0", "--mesh-port", "0", "--join", &ticket]).exits(1);
    said.stderr_has(&["another mesh", "--home"]);
    // Its own mesh is as it was.
    mesh[1].start();
    assert_ne!(mesh[1].ticket(), ticket);
}

#[test]
fn a_second_up_on_one_home_is_refused_and_the_first_does_not_notice() {
    let mesh = Mesh::start(1);
    let before = fs::read(mesh[0].home().join("api.json")).expect("the announcement");
    let said = up(mesh[0].home(), &["--api-port", "0", "--mesh-port", "0"]).exits(1);
    let pid = mesh[0].pid().expect("it runs").to_string();
    said.stderr_has(&["already runs", &pid, "--home"]);
    assert_eq!(fs::read(mesh[0].home().join("api.json")).expect("the announcement"), before);
    mesh[0].cli(["run", "--", "echo", "undisturbed"]).ok().stdout_is("undisturbed\n");
}

#[test]
fn a_second_node_on_one_host_needs_only_its_own_home() {
    let mesh = Mesh::of(2).start();
    let ports: Vec<_> = mesh.nodes().iter().map(|n| n.api_addr().expect("an address")).collect();
    assert_ne!(ports[0], ports[1]);
    for node in mesh.nodes() {
        let listed = node.json(["status"])["mesh_addresses"].to_string();
        assert!(listed.contains("/tcp/"), "{listed}");
        assert_eq!(node.json(["status"])["api"], node.api_addr().expect("an address").to_string());
    }
}

#[test]
fn what_is_secret_is_readable_by_its_owner_alone() {
    let mesh = Mesh::start(1);
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(mesh[0].home()), 0o700);
    let token = mesh[0].token().expect("a token");
    let ticket = mesh[0].ticket();
    let mut seen = Vec::new();
    for entry in fs::read_dir(mesh[0].home()).expect("a directory").flatten() {
        let path = entry.path();
        let Ok(bytes) = fs::read(&path) else { continue };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let name = entry.file_name().to_string_lossy().into_owned();
        if text.contains(&token) || name.contains("key") || name.contains("ticket") {
            assert_eq!(mode(&path), 0o600, "{name}");
            seen.push(name);
        }
    }
    assert!(seen.len() >= 3, "token, node key and mesh key: {seen:?}");
    // The secret is not in any log.
    for told in [mesh[0].stderr(), mesh[0].stdout()] {
        assert!(!told.contains(&token), "the token was printed");
    }
    assert!(!mesh[0].stderr().contains(&ticket), "the ticket was logged");
}

#[test]
fn a_stop_under_load_takes_less_than_two_seconds_and_leaves_no_process() {
    let mesh = Mesh::of(1).args(["--slots", "8"]).alone().start();
    let pids = mesh.dir().join("pids");
    let stubborn = format!("trap '' TERM; echo $$ >> '{}'; while :; do sleep 0.1; done", pids.display());
    mesh[0].submit(&batch_of(8, &Task::sh(&stubborn)));
    let running = wait_until("eight tasks run", LONG, || {
        let pids: Vec<u32> = fs::read_to_string(&pids).unwrap_or_default().lines().filter_map(|l| l.parse().ok()).collect();
        if pids.len() == 8 { Ok(pids) } else { Err(format!("{pids:?}")) }
    });
    let queued = mesh[0].submit(&batch_of(2_000, &Task::sh("true")));
    let waiting = mesh[0].command(["tasks", "wait", &queued[1_999]]).spawn();
    let address = mesh[0].api_addr().expect("an address");
    let took = mesh[0].stop();
    println!("the stop took {took:?}");
    assert!(took < STOP_MAX, "the stop took {took:?}");
    assert!(!mesh[0].home().join("api.json").exists(), "the announcement is left behind");
    TcpListener::bind(address).expect("the API's port is free again");
    TcpListener::bind(mesh[0].mesh_addr()).expect("the mesh port is free again");
    let left: Vec<_> = running.iter().filter(|p| process_runs(**p)).collect();
    assert!(left.is_empty(), "the node left {left:?} running");
    drop(waiting);
    // And everything acknowledged is there at the next start.
    mesh[0].start();
    mesh[0].settled_alone();
    wait_until("the queue is there again", LONG, || {
        let open = mesh[0].tasks("completed")?.len()
            + mesh[0].tasks("pending")?.len()
            + mesh[0].tasks("running")?.len()
            + mesh[0].tasks("scheduled")?.len();
        if open >= 2_000 { Ok(()) } else { Err(format!("{open} of 2,008")) }
    });
    end_strays(mesh.dir());
}

#[test]
fn sigterm_is_a_clean_stop() {
    let mesh = Mesh::of(2).alone().start();
    let took = mesh[0].terminate();
    assert!(took < STOP_MAX, "the stop took {took:?}");
    assert_eq!(mesh.coordinator().name(), "n1");
}

#[test]
fn a_stop_during_the_start_is_a_stop() {
    let mesh = Mesh::of(1).build();
    for pause_ms in [0, 20, 60, 120, 250, 500] {
        mesh[0].spawn();
        let start = Instant::now();
        wait_until(
            "a moment of the start has come",
            SHORT,
            || if start.elapsed().as_millis() >= pause_ms { Ok(()) } else { Err("not yet") },
        );
        if pause_ms == 0 {
            mesh[0].kill();
        } else {
            // Before it can catch signals it dies of it, which is as good.
            mesh[0].end_by_term();
        }
    }
    mesh[0].start();
    mesh[0].cli(["run", "--", "echo", "fine"]).ok().stdout_is("fine\n");
}

#[test]
fn a_node_keeps_its_identity_name_and_mesh_over_restarts() {
    let mesh = Mesh::of(1).start();
    let (before, ticket) = (mesh[0].status().expect("a status"), mesh[0].ticket());
    for clean in [true, false] {
        if clean {
            mesh[0].stop();
            // The ticket can be had while no node runs.
            assert_eq!(mesh[0].ticket().split(':').next(), ticket.split(':').next());
        } else {
            mesh[0].kill();
        }
        mesh[0].cli(["status"]).exits(3).stderr_has(&["no node is running"]);
        mesh[0].start();
        let after = mesh[0].status().expect("a status");
        assert_eq!((&after["node"], &after["name"], &after["mesh"]), (&before["node"], &before["name"], &before["mesh"]));
    }
    // A node of a new mesh by the same name is another one.
    assert_eq!(mesh[0].status().expect("a status")["members"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_command_that_waits_survives_the_restart_of_its_node() {
    let mesh = Mesh::of(2).node_args(0, ["--slots", "0"]).start();
    let gate = Gate::new(mesh.dir(), "gate");
    let script = format!("{}; echo done", gate.wait());
    let waiting = mesh[0].command(["run", "--", "sh", "-c", &script]).spawn();
    wait_until("the task runs", LONG, || {
        let running = mesh[1].tasks("running")?;
        if running.len() == 1 { Ok(()) } else { Err(format!("{running:?}")) }
    });
    mesh[0].kill();
    mesh[0].start();
    mesh.settled();
    gate.open();
    waiting.end(LONG).ok().stdout_is("done\n");
}
