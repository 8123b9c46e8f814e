//! Power cuts: the disk of a real node is copied at a random moment right after an acknowledgement, as the cut would
//! leave it; the copy is mounted, and a node opens it.  Every acknowledged task is there, and the promise has not fallen,
//! or the node says that it has set a damaged database aside.
//!
//! Needs root, loop devices and `mkfs.ext4`: `cargo test -p clawmesh-tests -- --ignored powercut`.  The numbers of cuts
//! are set by `CLAWMESH_POWERCUT_NODE` and `CLAWMESH_POWERCUT_STORE`; see the README of this package.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clawmesh_tests::{LONG, Mesh, Mounted, Node, PowerCutDisk, Task, Value, json, repository, setting, wait_until};

/// Set, a line of JSON is appended to this file for each cut, and a later run goes on after those that are there.
const LOG: &str = "CLAWMESH_POWERCUT_LOG";
/// Size of the node's disk, MiB: its ballast is 64.
const DISK_MIB: u64 = 192;

/// What users of the node were told before the cut.
#[derive(Debug, Default)]
struct Known {
    /// Acknowledged tasks, and what they wrote if that was told.
    tasks: BTreeMap<String, Option<String>>,
}

/// Lines of the log that are of this kind: how many cuts were made in earlier runs.
fn made(kind: &str) -> u64 {
    let Ok(path) = env::var(LOG) else { return 0 };
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).filter(|v| v["kind"] == kind);
    lines.count() as u64
}

fn note(line: &Value) {
    println!("{line}");
    let Ok(path) = env::var(LOG) else { return };
    let open = fs::File::options().create(true).append(true).open(path);
    open.and_then(|mut f| writeln!(f, "{line}")).expect("the log of power cuts can be written");
}

/// Submits without a pause, in groups of all sizes, and asks for ends; until it is over.
fn user(node: &Node, known: &Mutex<Known>, over: &AtomicBool) {
    let mut dice = rand_u64();
    let mut open: Vec<String> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        dice = next(dice);
        let size = [1, 1, 2, 3, 7, 40][(dice >> 33) as usize % 6];
        let tasks: Vec<Value> = (0..size)
            .map(|i| match (i + size) % 8 {
                0 => json!({ "argv": ["sh", "-c", "echo done"] }),
                // Some never run: what is acknowledged is kept however long it waits.
                1 => json!({ "skill": "echo", "input": "\"x\"", "labels": ["nowhere"] }),
                _ => json!({ "skill": "echo", "input": format!("\"{}\"", "y".repeat((dice >> 40) as usize % 600)) }),
            })
            .collect();
        let Ok(answer) = node.api_within(LONG, "POST", "/api/v1/tasks", Some(&Value::Array(tasks))) else { continue };
        if answer.status != 200 {
            continue;
        }
        let answer = answer.json();
        let ids = answer["tasks"].as_array().into_iter().flatten().filter_map(|e| Some(e["id"].as_str()?.to_owned()));
        for id in ids {
            known.lock().expect("nobody panicked").tasks.insert(id.clone(), None);
            open.push(id);
        }
        let some: Vec<&String> = open.iter().take(500).collect();
        let body = json!({ "ids": some, "min": 1, "timeout_ms": 20, "output": true });
        let Ok(answer) = node.api_within(LONG, "POST", "/api/v1/tasks/wait", Some(&body)) else { continue };
        if answer.status != 200 {
            continue;
        }
        for end in answer.json()["ended"].as_array().into_iter().flatten() {
            if let (Some(id), Some(out)) = (end["asked"].as_str(), end["output"]["stdout"].as_str()) {
                known.lock().expect("nobody panicked").tasks.insert(id.to_owned(), Some(out.to_owned()));
                open.retain(|o| o != id);
            }
        }
    }
}

/// The seed of a run that need not be the same twice: the moment of the cut is drawn by the machine's load anyway.
fn rand_u64() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64)
}

fn next(x: u64) -> u64 {
    x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

/// One cut: what was known at that moment, and the highest epoch that the node had shown.
fn cut(mesh: &Mesh, dir: &Path, copy: &Path) -> (Known, u64) {
    let disk = PowerCutDisk::new(dir, DISK_MIB);
    let node = mesh.another("first").home(&disk.path().join("home")).args(["--slots", "2"]).build();
    node.start();
    node.settled_alone();
    let known = Mutex::new(Known::default());
    let over = AtomicBool::new(false);
    let at_cut = thread::scope(|s| {
        s.spawn(|| user(&node, &known, &over));
        s.spawn(|| user(&node, &known, &over));
        let acked = || known.lock().expect("nobody panicked").tasks.len();
        // The moment of the cut is what is drawn here: nothing can be awaited.
        thread::sleep(Duration::from_millis(next(rand_u64()) % 2_000 + 100));
        let before = acked();
        wait_until("one more is acknowledged", LONG, || if acked() > before { Ok(()) } else { Err(before) });
        let epoch = node.status().expect("a status")["epoch"].as_u64().expect("a number");
        let told = Known { tasks: known.lock().expect("nobody panicked").tasks.clone() };
        disk.cut(copy);
        over.store(true, Ordering::Relaxed);
        (told, epoch)
    });
    node.kill();
    at_cut
}

/// Tasks of which the node now says another end than before the cut.
fn changed(node: &Node, known: &Known) -> Vec<String> {
    let told: BTreeMap<&str, &str> = known.tasks.iter().filter_map(|(id, out)| Some((id.as_str(), out.as_deref()?))).collect();
    let ids: Vec<&str> = told.keys().copied().collect();
    let mut changed = Vec::new();
    for some in ids.chunks(500) {
        let body = json!({ "ids": some, "min": some.len(), "timeout_ms": 10_000, "output": true });
        let answer = node.api("POST", "/api/v1/tasks/wait", Some(&body)).expect("an answer").json();
        let now: BTreeMap<&str, &Value> =
            answer["ended"].as_array().into_iter().flatten().filter_map(|e| Some((e["asked"].as_str()?, e))).collect();
        for id in some {
            let is = now.get(id).map(|e| (e["state"].as_str().unwrap_or_default(), e["output"]["stdout"].as_str().unwrap_or_default()));
            if is != Some(("completed", told[id])) {
                changed.push(format!("{id} had ended with {:?}, and now it is {is:?}", told[id]));
            }
        }
    }
    changed
}

/// Opens the copy with a node and compares; returns the line for the log.
fn opened(mesh: &Mesh, dir: &Path, copy: &Path, no: u64, known: &Known, epoch: u64) -> Value {
    let disk = Mounted::new(copy, &dir.join("after"));
    let home = disk.path().join("home");
    let node = mesh.another("after").home(&home).args(["--slots", "2"]).build();
    let start = Instant::now();
    node.start();
    node.settled_alone();
    let took = start.elapsed();
    let names = fs::read_dir(home.join("store")).expect("the store is there").flatten().map(|e| e.file_name());
    let aside = names.filter(|n| n.to_string_lossy().starts_with("sled.damaged-")).count();
    let status = node.status().expect("a status");
    // It claims above all it has promised (E6): a promise that had fallen would show here.
    let now = status["epoch"].as_u64().expect("a number");
    let fallen = now <= epoch;
    let found: BTreeMap<String, Value> =
        node.tasks("").expect("a list").into_iter().filter_map(|t| Some((t["id"].as_str()?.to_owned(), t))).collect();
    let lost: Vec<&String> = known.tasks.keys().filter(|id| !found.contains_key(*id)).collect();
    let changed = changed(&node, known);
    let line = json!({
        "kind": "node", "cut": no, "acknowledged": known.tasks.len(), "told": known.tasks.values().flatten().count(),
        "lost": lost.len(), "changed": changed.len(), "set_aside": aside, "promise_fell": fallen,
        "start_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    });
    note(&line);
    assert!(!fallen, "epoch {now} after {epoch}: {line}");
    let accounted = aside > 0 && node.stderr().contains("set aside");
    assert!(lost.is_empty() && changed.is_empty() || accounted, "{lost:?} {changed:?}: {line}\n{}", node.told());
    // And it works.
    let id = node.submit(&[Task::skill("echo", &json!("on")).with("priority", "critical")]);
    node.all_complete(&id, LONG);
    node.kill();
    line
}

#[test]
#[ignore = "needs root: loop devices, ext4"]
fn powercut_of_a_node_keeps_what_it_acknowledged() {
    let cuts = setting("CLAWMESH_POWERCUT_NODE", 3);
    let mut sums = [0; 3];
    for no in made("node")..cuts {
        let mesh = Mesh::of(0).build();
        let copy = mesh.dir().join("copy.img");
        let (known, epoch) = cut(&mesh, mesh.dir(), &copy);
        let line = opened(&mesh, mesh.dir(), &copy, no, &known, epoch);
        for (sum, key) in sums.iter_mut().zip(["acknowledged", "lost", "set_aside"]) {
            *sum += line[key].as_u64().unwrap_or(0);
        }
    }
    println!("{cuts} cuts: {} acknowledged tasks, {} lost, {} databases set aside", sums[0], sums[1], sums[2]);
}

#[test]
#[ignore = "needs root: loop devices, ext4"]
fn powercut_of_a_store_keeps_what_it_acknowledged() {
    // The store is no program of its own; its half of this rig lives beside it.
    let first = made("store");
    let cuts = setting("CLAWMESH_POWERCUT_STORE", 50).saturating_sub(first);
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository()).args(["test", "--quiet", "--locked", "--package", "clawmesh", "--bin", "clawmesh"]);
    let program = env::current_exe().expect("the test knows its own executable");
    let profile = program.ancestors().nth(2).and_then(Path::file_name).and_then(|n| n.to_str()).expect("a profile has a name");
    let target = program.ancestors().nth(3).expect("a profile lies in a target directory");
    cargo.arg("--target-dir").arg(target).arg("--profile").arg(if profile == "debug" { "test" } else { profile });
    cargo.args(["--", "--ignored", "--nocapture", "--exact", "store::tests::power::powercuts_lose_nothing_acknowledged"]);
    cargo.env("CLAWMESH_POWERCUT_STORE", cuts.to_string()).env("CLAWMESH_POWERCUT_FIRST", first.to_string());
    let mut child = cargo.stdout(Stdio::piped()).spawn().expect("cargo can be started");
    let mut said = 0;
    for line in BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(of_a_cut) => {
                note(&of_a_cut);
                said += 1;
            }
            Err(_) => println!("{line}"),
        }
    }
    let status = child.wait().expect("cargo ends");
    assert!(status.success(), "a store has lost something: see above");
    assert_eq!(said, cuts, "every cut has said what came of it");
}
