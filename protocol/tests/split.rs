//! The smaller side of a split holds tasks back (S7).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test; clippy only knows those inside #[test]")]

mod common;

use clawmesh_protocol::{
    config::Timing,
    face::{Command, Reply, StatusView},
    ids::Peer,
    io::{Event, Input},
    spec::{OnSplit, Spec},
};

use common::{World, echo, peer};

const SHORT: Timing = Timing { steady_ms: 3_600_000, hold_ms: 20_000, hold_half_ms: 10_000, absent_ms: 8_000, ..LONG };
const LONG: Timing = Timing {
    steady_ms: 30_000,
    tenure_ms: 60_000,
    settled_ms: 600_000,
    stuck_ms: 10_000,
    barred_ms: 60_000,
    hold_ms: 600_000,
    hold_half_ms: 30_000,
    absent_ms: 60_000,
};

fn wish(name: &str, on_split: Option<OnSplit>) -> Spec {
    let mut s = echo(name);
    s.need.on_split = on_split;
    s
}

/// `n` nodes with three tasks that nobody was allowed to run yet.
fn waiting(n: u8) -> World {
    let mut w = World::with(n, SHORT);
    w.run(4_000);
    for i in 1..=n {
        w.input(peer(i), Input::Command(1, Command::Drain(true)));
    }
    w.run(200);
    let specs = vec![wish("a", Some(OnSplit::Run)), wish("b", None), wish("c", Some(OnSplit::Never))];
    w.input(peer(1), Input::Command(7, Command::Submit(specs)));
    w.run(2_000);
    assert_eq!(decided(&w), 0);
    w
}

fn resume(w: &mut World, nodes: &[u8]) {
    for n in nodes {
        w.input(peer(*n), Input::Command(2, Command::Drain(false)));
    }
}

fn decided(w: &World) -> usize {
    w.events.iter().filter(|(.., e)| matches!(e, Event::Decided(..))).count()
}

fn status(w: &mut World, p: Peer) -> StatusView {
    w.input(p, Input::Command(99, Command::Status));
    let Some((_, _, Reply::Status(s))) = w.replies.pop() else { panic!("no status") };
    *s
}

#[test]
fn the_smaller_side_runs_what_is_new_and_holds_what_both_know() {
    let mut w = waiting(5);
    w.split(&[1, 2]);
    resume(&mut w, &[1, 2]);
    w.run(10_000);
    assert_eq!(w.nodes[&peer(1)].mesh.leader(), Some(peer(2)));
    assert_eq!(decided(&w), 1, "only who asked for it");
    assert_eq!(status(&mut w, peer(1)).queue.held, 2);
    w.input(peer(1), Input::Command(8, Command::Submit(vec![echo("new")])));
    w.run(1_000);
    assert_eq!(decided(&w), 2, "new tasks run at once");
    w.run(15_000);
    assert_eq!(decided(&w), 3, "the time of waiting is over");
    w.run(60_000);
    assert_eq!(decided(&w), 3, "never is never");
    w.input(peer(1), Input::Command(9, Command::Adopt));
    w.run(1_000);
    assert!(w.replies.iter().any(|r| r.1 == 9 && r.2 == Reply::Ok));
    assert_eq!(decided(&w), 4, "a person said that the others are gone");
    assert_eq!(status(&mut w, peer(1)).queue.held, 0);
}

#[test]
fn the_larger_side_holds_nothing_and_a_heal_ends_the_wait() {
    let mut w = waiting(5);
    w.split(&[1, 2]);
    w.run(8_000);
    assert_eq!(status(&mut w, peer(2)).queue.held, 2, "{:?}", w.nodes[&peer(2)].mesh.leader());
    w.heal();
    w.run(4_000);
    resume(&mut w, &[1, 2, 3, 4, 5]);
    w.run(2_000);
    assert_eq!(decided(&w), 3);
    let mut w = waiting(5);
    w.split(&[1, 2]);
    resume(&mut w, &[3, 4, 5]);
    w.run(5_000);
    assert_eq!(decided(&w), 3, "three of five go on");
}

#[test]
fn the_smaller_side_joins_the_larger_one_although_its_epoch_is_higher() {
    let mut w = World::with(5, SHORT);
    w.run(4_000);
    assert_eq!(w.leader(), peer(5));
    w.split(&[1, 2]);
    w.run(8_000);
    assert_eq!(w.nodes[&peer(1)].mesh.leader(), Some(peer(2)), "it has claimed above the epoch of the others");
    w.heal();
    w.run(4_000);
    assert_eq!(w.leader(), peer(5));
    let ended = w.events.iter().any(|(_, p, e)| *p == peer(5) && matches!(e, Event::SteppedDown(..)));
    assert!(!ended, "the coordinator of the larger side goes on without a break (E8)");
}

#[test]
fn of_two_halves_the_one_with_the_best_goes_on() {
    for (runs, waits) in [(2, 1), (1, 2)] {
        let mut w = waiting(2);
        w.split(&[1]);
        resume(&mut w, &[runs]);
        w.run(6_000);
        assert_eq!(decided(&w), if runs == 2 { 3 } else { 1 }, "at {runs} while {waits} is away");
        w.run(10_000);
        assert_eq!(decided(&w), if runs == 2 { 3 } else { 2 });
    }
}

#[test]
fn nodes_whose_hosts_say_that_they_are_gone_are_no_other_side() {
    let mut w = waiting(3);
    w.kill(peer(3));
    w.kill(peer(2));
    resume(&mut w, &[1]);
    w.run(8_000);
    assert_eq!(decided(&w), 3);
}

#[test]
fn who_has_been_away_for_long_does_not_count() {
    let mut w = waiting(5);
    w.split(&[1]);
    w.run(12_000);
    w.split(&[2]);
    w.run(12_000);
    // Three are left, and know it: two of them are the larger part.
    w.split(&[3]);
    resume(&mut w, &[4, 5]);
    w.run(6_000);
    assert_eq!(decided(&w), 3);
}
