//! How long nobody takes work when the coordinator goes: real processes, each on a machine of its own.
//!
//! `cargo test --release -p clawmesh-tests -- --ignored --nocapture takeover` prints a table and a line of JSON per size;
//! `CLAWMESH_TAKEOVER_RUNS` and `CLAWMESH_TAKEOVER_NODES` are explained in the README of this package.
#![cfg(target_os = "linux")]

use std::{
    env, thread,
    time::{Duration, Instant},
};

use clawmesh_tests::{LONG, Lan, Mesh, Node, json, setting, wait_until};

/// Longer than any honest takeover.
const TAKEOVER_MAX: Duration = Duration::from_secs(30);

/// How a coordinator goes.
#[derive(Debug, Clone, Copy)]
enum Going {
    Killed,
    CutOff,
    InOrder,
    /// The process stands still.
    Stopped,
    /// What it says arrives, and nothing arrives at it.
    Deaf,
}

impl Going {
    const ALL: [Self; 5] = [Self::Killed, Self::CutOff, Self::InOrder, Self::Stopped, Self::Deaf];
    fn name(self) -> &'static str {
        match self {
            Self::Killed => "SIGKILL",
            Self::CutOff => "silent partition",
            Self::InOrder => "clean stop",
            Self::Stopped => "SIGSTOP",
            Self::Deaf => "nothing reaches it (deaf)",
        }
    }
    fn key(self) -> &'static str {
        match self {
            Self::Killed => "sigkill",
            Self::CutOff => "partition",
            Self::InOrder => "clean_stop",
            Self::Stopped => "sigstop",
            Self::Deaf => "deaf",
        }
    }
    fn strike(self, lan: &Lan, at: usize, node: &Node) {
        match self {
            Self::Killed => node.kill(),
            Self::CutOff => lan.unplug(at),
            Self::InOrder => drop(node.terminate()),
            Self::Stopped => node.pause(),
            Self::Deaf => lan.cut((0..lan.machines().len()).filter(|m| *m != at).map(|m| (m, at))),
        }
    }
    fn mend(self, lan: &Lan, at: usize, node: &Node) {
        match self {
            Self::Killed | Self::InOrder => node.start(),
            Self::CutOff => lan.plug(at),
            Self::Stopped => node.resume(),
            Self::Deaf => lan.heal(),
        }
    }
}

/// From the blow to the first acknowledgement by a new coordinator, through a node that is left.
fn outage(lan: &Lan, mesh: &Mesh, how: Going) -> Duration {
    let old = mesh.settled();
    let at = mesh.nodes().iter().position(|n| n.name() == old.name()).expect("it is one of them");
    let door = &mesh[(at + 1) % mesh.nodes().len()];
    let epoch = door.status().expect("a status")["epoch"].as_u64();
    let blow = Instant::now();
    let took = thread::scope(|s| {
        // A clean stop takes its time, and most of it passes after the hand-over.  The old one may serve for a moment longer.
        s.spawn(|| how.strike(lan, at, old));
        acknowledged(door, blow, epoch)
    });
    how.mend(lan, at, old);
    wait_until("all are members again", LONG, || mesh.agreed(true).map(|_| ()));
    took
}

/// Asks through `door` until a task is acknowledged by a coordinator of another epoch than this one.
fn acknowledged(door: &Node, from: Instant, not_in: Option<u64>) -> Duration {
    let one = json!([{ "skill": "echo", "input": "1" }]);
    loop {
        let answer = door.api_within(TAKEOVER_MAX, "POST", "/api/v1/tasks", Some(&one));
        let took = from.elapsed();
        let ok = answer.is_ok_and(|a| a.status == 200 && a.json()["tasks"][0]["id"].is_string());
        if ok && (not_in.is_none() || door.status().is_ok_and(|s| s["epoch"].as_u64() != not_in)) {
            return took;
        }
        assert!(took < TAKEOVER_MAX, "nobody takes work; {:?}", door.status());
        thread::sleep(Duration::from_millis(1));
    }
}

/// The best node, `n0`, goes and comes, three seconds each: the longest time in which a node that stays got no task
/// acknowledged.  In the first run it coordinates when it begins; then it is waited for longer and longer (E9).
fn flapping(lan: &Lan, mesh: &Mesh, flaps: u64) -> Duration {
    let (at, door) = (0, &mesh[1]);
    let over = std::sync::atomic::AtomicBool::new(false);
    let longest = thread::scope(|s| {
        let user = s.spawn(|| {
            let mut longest = Duration::ZERO;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                longest = longest.max(acknowledged(door, Instant::now(), None));
                thread::sleep(Duration::from_millis(20));
            }
            longest
        });
        for _ in 0..flaps {
            lan.unplug(at);
            thread::sleep(Duration::from_secs(3));
            lan.plug(at);
            thread::sleep(Duration::from_secs(3));
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        user.join().expect("the user")
    });
    wait_until("all are members again", LONG, || mesh.agreed(true).map(|_| ()));
    longest
}

/// A coordinator that was cut off comes back while another one serves: until all agree on one, and until a task that the one
/// who comes back is given is acknowledged.
fn heal(lan: &Lan, mesh: &Mesh) -> Duration {
    let old = mesh.settled();
    let at = mesh.nodes().iter().position(|n| n.name() == old.name()).expect("it is one of them");
    let door = &mesh[(at + 1) % mesh.nodes().len()];
    let epoch = door.status().expect("a status")["epoch"].as_u64();
    lan.unplug(at);
    acknowledged(door, Instant::now(), epoch);
    // Long enough for all connections to be given up.
    thread::sleep(Duration::from_secs(6));
    lan.plug(at);
    let mended = Instant::now();
    wait_until("all agree again", LONG, || mesh.agreed(false).map(|_| ()));
    acknowledged(old, mended, None);
    let took = mended.elapsed();
    wait_until("all are members again", LONG, || mesh.agreed(true).map(|_| ()));
    took
}

/// The smallest that `share` of all are not above.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn takeover_figures_of_real_processes() {
    let runs = setting("CLAWMESH_TAKEOVER_RUNS", 2);
    let sizes = env::var("CLAWMESH_TAKEOVER_NODES").unwrap_or_else(|_| "3".to_owned());
    println!("| nodes | the coordinator goes by | runs | p50 s | p99 s | longest s |\n| --- | --- | --- | --- | --- | --- |");
    for size in sizes.split(',').map(|n| n.parse::<u8>().expect("CLAWMESH_TAKEOVER_NODES is a list of numbers")) {
        let lan = Lan::new(size, true);
        // Equal priorities: nobody takes over for any other reason.
        let mesh = Mesh::of(size.into()).netns(lan.machines()).args(["--priority", "100"]).alone().start();
        let mut figures = json!({ "nodes": size, "runs": runs });
        let mut told = |what: &str, key: &str, took: Vec<Duration>| {
            let mut took: Vec<f64> = took.iter().map(Duration::as_secs_f64).collect();
            took.sort_by(f64::total_cmp);
            let (p50, p99) = (percentile(&took, 0.5), percentile(&took, 0.99));
            let longest = took.last().copied().unwrap_or(f64::NAN);
            println!("| {size} | {what} | {} | {p50:.2} | {p99:.2} | {longest:.2} |", took.len());
            figures[key] = json!({ "p50_s": p50, "p99_s": p99, "all_s": took });
        };
        for how in Going::ALL {
            told(how.name(), how.key(), (0..runs).map(|_| outage(&lan, &mesh, how)).collect());
        }
        told("comes back after a partition (heal)", "heal", (0..runs).map(|_| heal(&lan, &mesh)).collect());
        let flaps = runs.div_ceil(4);
        drop(mesh);
        let mesh =
            Mesh::of(size.into()).netns(lan.machines()).args(["--priority", "100"]).node_args(0, ["--priority", "200"]).alone().start();
        told("the best node flaps, four times each", "flapping", (0..flaps).map(|_| flapping(&lan, &mesh, 4)).collect());
        println!("{figures}");
    }
}
