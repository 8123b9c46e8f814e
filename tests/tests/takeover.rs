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
    Deaf,
}

impl Going {
    const ALL: [Self; 4] = [Self::Killed, Self::CutOff, Self::InOrder, Self::Deaf];
    fn name(self) -> &'static str {
        match self {
            Self::Killed => "SIGKILL",
            Self::CutOff => "silent partition",
            Self::InOrder => "clean stop",
            Self::Deaf => "deaf (SIGSTOP)",
        }
    }
    fn key(self) -> &'static str {
        match self {
            Self::Killed => "sigkill",
            Self::CutOff => "partition",
            Self::InOrder => "clean_stop",
            Self::Deaf => "deaf",
        }
    }
    fn strike(self, lan: &Lan, at: usize, node: &Node) {
        match self {
            Self::Killed => node.kill(),
            Self::CutOff => lan.unplug(at),
            Self::InOrder => drop(node.terminate()),
            Self::Deaf => node.pause(),
        }
    }
    fn mend(self, lan: &Lan, at: usize, node: &Node) {
        match self {
            Self::Killed | Self::InOrder => node.start(),
            Self::CutOff => lan.plug(at),
            Self::Deaf => node.resume(),
        }
    }
}

/// From the blow to the first acknowledgement by a new coordinator, through a node that is left.
fn outage(lan: &Lan, mesh: &Mesh, how: Going) -> Duration {
    let old = mesh.settled();
    let at = mesh.nodes().iter().position(|n| n.name() == old.name()).expect("it is one of them");
    let door = &mesh[(at + 1) % mesh.nodes().len()];
    let epoch = door.status().expect("a status")["epoch"].as_u64();
    let one = json!([{ "skill": "echo", "input": "1" }]);
    let blow = Instant::now();
    let took = thread::scope(|s| {
        // A clean stop takes its time, and most of it passes after the hand-over.
        s.spawn(|| how.strike(lan, at, old));
        loop {
            let answer = door.api_within(TAKEOVER_MAX, "POST", "/api/v1/tasks", Some(&one));
            let took = blow.elapsed();
            let acknowledged = answer.is_ok_and(|a| a.status == 200 && a.json()["tasks"][0]["id"].is_string());
            // The old one may have served a moment longer.
            if acknowledged && door.status().is_ok_and(|s| s["epoch"].as_u64() > epoch) {
                return took;
            }
            assert!(took < TAKEOVER_MAX, "{}: nobody took over; {:?}", how.name(), door.status());
            thread::sleep(Duration::from_millis(1));
        }
    });
    how.mend(lan, at, old);
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
        for how in Going::ALL {
            let mut took: Vec<f64> = (0..runs).map(|_| outage(&lan, &mesh, how).as_secs_f64()).collect();
            took.sort_by(f64::total_cmp);
            let (p50, p99) = (percentile(&took, 0.5), percentile(&took, 0.99));
            let longest = took.last().copied().unwrap_or(f64::NAN);
            println!("| {size} | {} | {runs} | {p50:.2} | {p99:.2} | {longest:.2} |", how.name());
            figures[how.key()] = json!({ "p50_s": p50, "p99_s": p99, "all_s": took });
        }
        println!("{figures}");
    }
}
