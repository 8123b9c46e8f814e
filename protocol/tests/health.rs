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

#[test]
fn what_the_mesh_speaks_is_remembered_by_who_only_heard_of_it() {
    let mut w = World::with(4, Timing { steady_ms: 3_600_000, absent_ms: 5_000, ..Timing::default() });
    w.run(4_000);
    for n in [1, 2, 3, 4] {
        w.kill(peer(n));
        w.run(3_000);
        w.protos.insert(n, PROTO + 1);
        w.boot(n);
        w.run(6_000);
    }
    // No replica, and taken back to the older version.
    let plain = (1..=4).find(|n| !w.nodes[&peer(*n)].mesh.probe().synced).unwrap();
    w.kill(peer(plain));
    w.protos.remove(&plain);
    for other in (1..=4).filter(|n| *n != plain) {
        w.kill(peer(other));
    }
    w.boot(plain);
    w.run(60_000);
    let p = w.nodes[&peer(plain)].mesh.probe();
    assert_eq!((p.proto, p.serving), (PROTO + 1, false), "alone, it must not lead by older rules");
}

#[test]
fn entries_that_a_newer_version_has_written_are_counted() {
    let mut w = World::new(1);
    w.run(3_000);
    assert!(w.ask(peer(1), Command::Submit(vec![echo("a")]), 500).is_some());
    assert_eq!(w.nodes[&peer(1)].mesh.unreadable(), 0);
    w.kill(peer(1));
    let disk = w.disks.get_mut(&peer(1)).unwrap();
    disk.garble(b't');
    disk.garble(b'?');
    w.boot(1);
    assert_eq!(w.nodes[&peer(1)].mesh.unreadable(), 1, "keys of an unknown kind are no records");
}

#[test]
fn the_smaller_side_of_a_split_names_no_voters() {
    use clawmesh_protocol::quorum::Change;
    let mut w = World::new(3);
    w.run(8_000);
    let alone = (1..=3).find(|n| peer(*n) != w.leader()).unwrap();
    w.split(&[alone]);
    w.run(15_000);
    assert!(w.nodes[&peer(alone)].mesh.probe().serving);
    let init = || Command::ChangeQuorum(Change::Init, vec![], vec![]);
    let said = w.ask(peer(alone), init(), 1_000);
    assert!(matches!(&said, Some(Reply::Refused(Refusal::Invalid { message })) if message.contains("mesh adopt")), "{said:?}");
    // Its people know better.
    assert!(w.ask(peer(alone), Command::Adopt, 1_000).is_some());
    assert_eq!(w.ask(peer(alone), init(), 3_000), Some(Reply::Ok));
}
