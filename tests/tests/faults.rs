//! Real faults on real processes: nodes on machines of their own (network namespaces), users who submit all the time,
//! and a network, machines, disks and clocks that misbehave.  Then everything heals, and the recorded history is judged:
//! no acknowledged task lost, one outcome per task, no attempt started twice, one coordinator, equal state.
//!
//! These need root, so they are ignored unless asked for: `cargo test -p clawmesh-tests -- --ignored faults`.
//! `CLAWMESH_FAULTS_SEED`, `CLAWMESH_FAULTS_SCALE`, `CLAWMESH_FAULTS_STOP_S` and `CLAWMESH_FAULTS_STORM_S` are explained in
//! the README of this package.
#![cfg(target_os = "linux")]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use clawmesh_tests::{Lan, Node, SlowLines, SmallDisk, Task, Trial, Value, setting};

/// Where Debian puts libfaketime.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// All lines between the two groups, both ways.
fn between(left: &[usize], right: &[usize]) -> Vec<(usize, usize)> {
    left.iter().flat_map(|a| right.iter().flat_map(|b| [(*a, *b), (*b, *a)])).collect()
}

/// The coordinator's place in the mesh, as far as the first node that knows says.
fn leader(nodes: &[Node]) -> usize {
    let views = nodes.iter().filter_map(|n| n.status().ok());
    let name = views.into_iter().find_map(|s| Some(s["coordinator_name"].as_str()?.to_owned()));
    nodes.iter().position(|n| name.as_deref() == Some(n.name())).unwrap_or(0)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn faults_full_partitions_heal_without_a_loss() {
    let trial = Trial::start(5, |m| m);
    trial.under_load(|| {
        trial.lasts(2);
        // The coordinator in the smaller half; then the halves the other way.
        for (left, right) in [([0, 1].as_slice(), [2, 3, 4].as_slice()), (&[3, 4, 2], &[0, 1]), (&[0], &[1, 2, 3, 4])] {
            trial.lan.cut(between(left, right));
            trial.lasts(7);
            trial.lan.heal();
            trial.lasts(4);
        }
    });
    assert!(trial.heals() >= 1, "the coordinator was cut off");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn faults_lines_that_carry_one_way_only_lose_nothing() {
    let trial = Trial::start(5, |m| m);
    trial.under_load(|| {
        trial.lasts(1);
        // The coordinator is heard and hears nobody; then the other way; then one follower is deaf to one other.
        let lead = leader(trial.mesh.nodes());
        trial.lan.cut((0..5).filter(|i| *i != lead).map(|i| (i, lead)));
        trial.lasts(7);
        trial.lan.heal();
        trial.lasts(3);
        let lead = leader(trial.mesh.nodes());
        trial.lan.cut((0..5).filter(|i| *i != lead).map(|i| (lead, i)));
        trial.lasts(7);
        trial.lan.cut([(3, 4)]);
        trial.lasts(4);
    });
    assert!(trial.heals() >= 1, "the coordinator heard nobody");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn faults_two_halves_with_one_node_in_common_lose_nothing() {
    let trial = Trial::start(5, |m| m);
    trial.under_load(|| {
        trial.lasts(1);
        // The one that both halves see is a follower first, then the one with the highest priority.
        trial.lan.cut(between(&[0, 1], &[3, 4]));
        trial.lasts(8);
        trial.lan.heal();
        trial.lasts(3);
        trial.lan.cut(between(&[1, 2], &[3, 4]));
        trial.lasts(8);
    });
    trial.heals();
}

#[test]
#[ignore = "needs root: network namespaces"]
fn faults_a_fifth_of_all_lines_cut_at_random_loses_nothing() {
    let trial = Trial::start(6, |m| m);
    let mut dice = trial.dice("lines");
    trial.under_load(|| {
        for _ in 0..5 {
            let pairs = (0..6).flat_map(|a| (0..6).map(move |b| (a, b))).filter(|(a, b)| a != b);
            let cut: Vec<_> = pairs.filter(|_| dice.percent(20)).collect();
            trial.lan.cut(cut);
            trial.lasts(4);
        }
    });
    trial.heals();
}

#[test]
#[ignore = "needs root: network namespaces"]
fn faults_lines_that_flap_lose_nothing() {
    let trial = Trial::start(5, |m| m);
    let mut dice = trial.dice("flaps");
    trial.under_load(|| {
        // The node with the highest priority comes and goes, as long as a suspicion takes and shorter.
        for _ in 0..8 * setting("CLAWMESH_FAULTS_SCALE", 1) {
            trial.lan.cut(between(&[0], &[1, 2, 3, 4]));
            std::thread::sleep(Duration::from_millis(dice.range(200, 2_500)));
            trial.lan.heal();
            std::thread::sleep(Duration::from_millis(dice.range(200, 1_500)));
        }
    });
    trial.heals();
}

#[test]
#[ignore = "needs root: network namespaces"]
fn faults_kill_9_of_any_node_loses_nothing() {
    let trial = Trial::start(5, |m| m);
    let mut dice = trial.dice("kills");
    trial.under_load(|| {
        for round in 0..6 * setting("CLAWMESH_FAULTS_SCALE", 1) {
            // Every second time the coordinator.
            let lead = leader(trial.mesh.nodes());
            let victim = &trial.mesh[if round % 2 == 0 { lead } else { dice.below(5) }];
            victim.kill();
            std::thread::sleep(Duration::from_millis(dice.range(0, 3_000)));
            victim.start();
            std::thread::sleep(Duration::from_millis(dice.range(0, 1_500)));
        }
        // All at once.
        trial.mesh.kill_all();
        trial.mesh.start_all();
        trial.serves(5);
    });
    assert!(trial.heals() >= 1, "coordinators were killed");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn faults_nodes_that_are_stopped_and_go_on_lose_nothing() {
    let longest = setting("CLAWMESH_FAULTS_STOP_S", 7);
    let trial = Trial::start(5, |m| m);
    let mut dice = trial.dice("stops");
    trial.under_load(|| {
        for round in 0..3 {
            let lead = leader(trial.mesh.nodes());
            let victim = &trial.mesh[if round % 2 == 0 { lead } else { dice.below(5) }];
            victim.pause();
            // The longest one first: above the time after which its work counts as lost.
            let ms = if round == 0 { longest * 1_000 } else { dice.range(300, longest * 1_000) };
            std::thread::sleep(Duration::from_millis(ms));
            victim.resume();
            trial.lasts(1);
        }
        // A storm of short ones, everywhere.
        for _ in 0..20 {
            let victim = &trial.mesh[dice.below(5)];
            victim.pause();
            std::thread::sleep(Duration::from_millis(dice.range(10, 300)));
            victim.resume();
        }
    });
    assert!(trial.heals() >= 1, "the coordinator was stopped");
}

#[test]
#[ignore = "needs root: network namespaces, mounts"]
fn faults_a_disk_that_is_full_stops_nobody_else_and_loses_nothing() {
    // The disk outlives the mesh.
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let disk = SmallDisk::mount(&dir.path().join("disk"), 64);
    let mut trial = Trial::start_on(Lan::new(5, true), 4, |m| m);
    let machine = trial.lan.machines()[4].clone();
    let home = disk.path().join("home");
    trial.mesh.add(|n| n.netns(&machine).port(8_889).home(&home).args(["--slots", "4", "--lost-after", "5s", "--priority", "200"]));
    trial.under_load(|| {
        trial.lasts(1);
        for left in [600, 0] {
            let hog = disk.fill(left);
            trial.lasts(6);
            // In its place others take work.
            trial.serves(10);
            fs::remove_file(hog).expect("a file can be removed");
            if !trial.mesh[4].runs() {
                // A store that failed ends its node; the next start recovers (D4).
                trial.mesh[4].kill();
                trial.mesh[4].start();
            }
            trial.lasts(2);
        }
    });
    trial.heals();
}

#[test]
#[ignore = "needs root: network namespaces, and Debian's libfaketime installed"]
fn faults_clocks_that_jump_lose_nothing() {
    assert!(Path::new(FAKETIME).exists(), "{FAKETIME} is not here: install the package 'libfaketime'");
    let mut trial = Trial::start_on(Lan::new(5, true), 3, |m| m);
    let offsets: Vec<_> = (3..5).map(|i| trial.mesh.dir().join(format!("offset{i}"))).collect();
    let jump = |i: usize, to: i64| fs::write(&offsets[i], format!("{to:+}\n")).expect("a file can be written");
    for (i, file) in offsets.iter().enumerate() {
        jump(i, 0);
        let (machine, file) = (trial.lan.machines()[3 + i].clone(), file.display().to_string());
        trial.mesh.add(|n| {
            n.netns(&machine)
                .port(8_889)
                .env("LD_PRELOAD", FAKETIME)
                .env("FAKETIME_TIMESTAMP_FILE", &file)
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                // One of the two coordinates as soon as it may.
                .args(["--slots", "4", "--lost-after", "5s", "--priority", if i == 0 { "200" } else { "1" }])
        });
    }
    let mut dice = trial.dice("jumps");
    trial.under_load(|| {
        for round in 0..4 * setting("CLAWMESH_FAULTS_SCALE", 1) {
            let hours = i64::try_from(dice.range(1, 20_000)).expect("a small number") * 3_600;
            jump(dice.below(2), if dice.percent(50) { hours } else { -hours });
            trial.lasts(2);
            if round % 2 == 1 {
                // It starts while its clock is far from its own past.
                trial.mesh[3].kill();
                trial.mesh[3].start();
            }
        }
    });
    trial.heals();
}

#[test]
#[ignore = "needs root: network namespaces"]
fn faults_long_lines_between_all_nodes_lose_nothing() {
    let lan = Lan::new(6, true);
    let lines = SlowLines::new(&lan, 5, 5, 8_889);
    lines.delay_all(Duration::from_millis(40));
    let trial = Trial::start_on(lan, 5, |m| m);
    let before = trial.mesh[0].status().expect("a status")["epoch"].clone();
    trial.under_load(|| {
        // As between continents; nobody is taken for dead.
        lines.delay_all(Duration::from_millis(120));
        trial.lasts(8);
        let asked = Instant::now();
        let far = (leader(trial.mesh.nodes()) + 1) % 5;
        trial.mesh[far].submit(&[Task::skill("echo", &Value::from(1))]);
        assert!(asked.elapsed() > Duration::from_millis(240), "an acknowledgement in {:?} did not come over a long line", asked.elapsed());
        let now = trial.mesh[0].status().expect("a status")["epoch"].clone();
        assert_eq!(now, before, "a round trip of 240 ms is no reason for an election");
        // One way becomes so slow that it is as good as cut, for a while.
        lines.delay(0, 1, Duration::from_secs(4));
        lines.delay(2, 0, Duration::from_secs(2));
        trial.lasts(5);
        lines.delay_all(Duration::from_millis(10));
        trial.mesh[leader(trial.mesh.nodes())].kill();
        trial.serves(10);
    });
    assert!(trial.heals() >= 1, "a coordinator was killed");
    drop(lines);
}

#[test]
#[ignore = "needs root: network namespaces"]
fn faults_of_all_kinds_in_a_storm_on_seven_nodes_lose_nothing() {
    let storm = Duration::from_secs(setting("CLAWMESH_FAULTS_STORM_S", 25));
    let trial = Trial::start(7, |m| m);
    let mut dice = trial.dice("storm");
    let mut faults = 0_u32;
    let began = Instant::now();
    trial.under_load(|| {
        while began.elapsed() < storm {
            faults += 1;
            let one = dice.below(7);
            match dice.below(6) {
                0 => {
                    let (left, right): (Vec<usize>, Vec<usize>) = (0..7).partition(|_| dice.percent(50));
                    trial.lan.cut(between(&left, &right));
                }
                1 => {
                    let pairs = (0..7).flat_map(|a| (0..7).map(move |b| (a, b))).filter(|(a, b)| a != b);
                    let cut: Vec<_> = pairs.filter(|_| dice.percent(20)).collect();
                    trial.lan.cut(cut);
                }
                2 => trial.lan.heal(),
                3 => {
                    trial.mesh[one].kill();
                    std::thread::sleep(Duration::from_millis(dice.range(0, 2_000)));
                    trial.mesh[one].spawn();
                }
                4 => {
                    trial.mesh[one].pause();
                    std::thread::sleep(Duration::from_millis(dice.range(100, 4_000)));
                    trial.mesh[one].resume();
                }
                _ => {
                    let lead = leader(trial.mesh.nodes());
                    trial.mesh[lead].kill();
                    std::thread::sleep(Duration::from_millis(dice.range(0, 2_000)));
                    trial.mesh[lead].spawn();
                }
            }
            std::thread::sleep(Duration::from_millis(dice.range(300, 3_000)));
        }
        println!("{faults} faults in {:.0} s", began.elapsed().as_secs_f64());
    });
    assert!(trial.heals() >= 1, "coordinators were killed");
}
