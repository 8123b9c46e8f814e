//! Late nodes suspect later (L2), and nodes that are too old for their mesh serve nothing (V3).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test; clippy only knows those inside #[test]")]

mod common;

use clawmesh_protocol::{
    config::{PROTO, Timing},
    face::{Command, Refusal, Reply},
    io::{Event, Input},
};

use common::{World, echo, peer};

/// How long after its leader's last word a follower begins an election, ms.
fn suspicion(late: bool) -> u64 {
    let mut w = World::new(3);
    w.run(3_000);
    assert_eq!(w.leader(), peer(3));
    if late {
        // Everybody's ticks come late, twice.
        for _ in 0..2 {
            w.run(3_000);
            w.now += 1_200;
        }
        w.run(1_000);
    }
    for n in [1, 2] {
        w.cut.insert((peer(n), peer(3)));
    }
    let from = w.now;
    w.run(20_000);
    w.when(from, peer(2), |e| matches!(e, Event::Election { .. })).unwrap()
}

#[test]
fn a_node_that_is_late_itself_suspects_later() {
    assert!((2_000..3_700).contains(&suspicion(false)), "{}", suspicion(false));
    assert!((8_000..9_700).contains(&suspicion(true)), "{}", suspicion(true));
}

/// Lets the nodes that speak more take over, one by one, and gives what the last one is told.
fn upgraded() -> World {
    let mut w = World::with(3, Timing { steady_ms: 3_600_000, absent_ms: 5_000, ..Timing::default() });
    w.run(4_000);
    for n in [1, 2, 3] {
        w.kill(peer(n));
        w.run(3_000);
        w.protos.insert(n, PROTO + 1);
        w.boot(n);
        w.run(6_000);
    }
    w
}

#[test]
fn the_protocol_rises_when_all_speak_it_and_never_falls() {
    let mut w = upgraded();
    // A node of the old version that nobody remembers, and one that goes back to it.
    w.boot(4);
    w.kill(peer(1));
    w.run(2_000);
    w.protos.remove(&1);
    w.boot(1);
    w.run(10_000);
    for old in [1, 4] {
        w.input(peer(old), Input::Command(50, Command::Submit(vec![echo("a")])));
        let (_, _, reply) = w.replies.pop().unwrap();
        assert!(matches!(&reply, Reply::Refused(Refusal::Invalid { message }) if message.contains("install")), "{reply:?}");
        assert!(!w.nodes[&peer(old)].mesh.probe().serving);
    }
    w.input(peer(2), Input::Command(51, Command::Submit((0..20).map(|i| echo(&format!("{i}"))).collect())));
    w.run(3_000);
    let by = |n| w.events.iter().filter(|(_, p, e)| *p == peer(n) && matches!(e, Event::Spawned(..))).count();
    assert_eq!(w.nodes[&peer(2)].mesh.probe().outbox_open, 0);
    assert_eq!((by(1), by(4)), (0, 0), "the old ones run nothing");
    // Alone with the old ones, nobody serves by old rules.
    w.kill(peer(2));
    w.kill(peer(3));
    w.run(120_000);
    assert!([1, 4].iter().all(|n| !w.nodes[&peer(*n)].mesh.probe().serving));
}
