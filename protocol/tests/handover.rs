//! Coordinators that give their place to others: planned takeovers and their damping (E9), no progress (E10),
//! and coordinators that are heard but hear nothing (E1).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test; clippy only knows those inside #[test]")]

mod common;

use clawmesh_protocol::{config::Timing, face::Command, io::Event, io::Input};

use common::{World, echo, peer};

/// Three nodes of priorities 1 to 3, of which the best has died and come back.
fn best_came_back(timing: Timing) -> World {
    let mut w = World::with(3, timing);
    w.run(3_000);
    assert_eq!(w.leader(), peer(3));
    w.kill(peer(3));
    w.run(3_000);
    assert_eq!(w.leader(), peer(2));
    w.boot(3);
    w.run(1_000);
    assert_eq!(w.leader(), peer(2), "who comes back does not take over at once");
    w
}

#[test]
fn the_best_takes_over_after_steady_contact_and_stays() {
    let mut w = best_came_back(Timing::default());
    let claims = w.claims();
    w.run(55_000);
    assert_eq!(w.leader(), peer(2), "the incumbent keeps its place for a minute");
    w.run(10_000);
    assert_eq!(w.leader(), peer(3));
    assert_eq!(w.claims(), claims + 1, "one epoch for one handover");
    w.input(peer(1), Input::Command(7, Command::Submit(vec![echo("a")])));
    w.run(700_000);
    assert_eq!((w.leader(), w.claims()), (peer(3), claims + 1), "and it stays");
    assert!(w.replies.iter().any(|r| r.1 == 7));
}

#[test]
fn a_best_node_that_dies_again_and_again_is_waited_for_longer_each_time() {
    let timing = Timing { steady_ms: 1_000, tenure_ms: 2_000, ..Timing::default() };
    let mut w = World::with(3, timing);
    w.run(3_000);
    let mut waits = vec![];
    for _ in 0..6 {
        assert_eq!(w.leader(), peer(3));
        w.kill(peer(3));
        w.run(5_000);
        w.boot(3);
        w.run(500);
        let from = w.now;
        while w.leader() != peer(3) {
            w.run(200);
            assert!(w.now < from + 200_000, "it is never let back");
        }
        waits.push(w.now - from);
    }
    assert!(waits.windows(2).skip(1).all(|v| v[1] > v[0] * 3 / 2), "{waits:?}");
    // A long term forgives.
    w.run(timing.settled_ms + 10_000);
    w.kill(peer(3));
    w.run(5_000);
    w.boot(3);
    w.run(6_000);
    assert_eq!(w.leader(), peer(3));
}

#[test]
fn a_successor_that_does_not_come_loses_its_grant() {
    let mut w = best_came_back(Timing { steady_ms: 1_000, tenure_ms: 5_000, ..Timing::default() });
    // It asks, and then its disk confirms nothing: its claim can't leave.
    w.stuck.insert(peer(3));
    let from = w.now;
    w.run(20_000);
    assert!(w.when(from, peer(3), |e| matches!(e, Event::Claimed(_))).is_some(), "it was granted");
    assert!(w.when(from, peer(2), |e| matches!(e, Event::Claimed(_))).is_some(), "and the incumbent claimed again");
    w.input(peer(1), Input::Command(7, Command::Submit(vec![echo("a")])));
    w.run(2_000);
    assert!(w.replies.iter().any(|r| r.1 == 7), "work goes on");
}

#[test]
fn a_coordinator_that_hears_nothing_is_replaced() {
    let mut w = World::new(5);
    w.run(3_000);
    assert_eq!(w.leader(), peer(5));
    let from = w.now;
    w.deaf.insert(peer(5));
    w.run(15_000);
    for n in 1..=4 {
        assert_eq!(w.nodes[&peer(n)].mesh.leader(), Some(peer(4)));
    }
    assert!(w.when(from, peer(4), |e| matches!(e, Event::Serving(_))).is_some_and(|t| t <= 15_000));
}

#[test]
fn a_coordinator_whose_writes_make_no_progress_steps_down_and_waits() {
    let mut w = World::new(2);
    w.run(3_000);
    assert_eq!(w.leader(), peer(2));
    let from = w.now;
    // Both copies are needed: one disk that confirms nothing stops every write, and then nobody can tell it so.
    w.stuck.insert(peer(2));
    w.input(peer(1), Input::Command(7, Command::Submit(vec![echo("a")])));
    w.run(100);
    w.deaf.insert(peer(2));
    w.run(30_000);
    assert!(w.when(from, peer(2), |e| matches!(e, Event::SteppedDown(..))).is_some_and(|t| (10_000..12_000).contains(&t)));
    assert_eq!(w.when(from, peer(2), |e| matches!(e, Event::Claimed(_))), None, "it does not stand again so soon");
    assert!(w.when(from, peer(1), |e| matches!(e, Event::Serving(_))).is_some_and(|t| t < 6_000), "its heartbeats wait behind its disk");
    assert!(w.replies.iter().any(|r| r.1 == 7), "the other one goes on");
    assert_eq!(w.nodes[&peer(1)].mesh.leader(), Some(peer(1)));
}
