//! Machines that say that they are about to sleep (L3).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test; clippy only knows those inside #[test]")]

mod common;

use clawmesh_protocol::{
    face::{Command, Reply, StatusView},
    ids::Peer,
    io::Event,
};

use common::{World, echo, peer};

fn state(w: &mut World, of: Peer, at: Peer) -> String {
    let Some(Reply::Status(s)) = w.ask(at, Command::Status, 10) else { panic!("no status") };
    let StatusView { members, .. } = *s;
    members.into_iter().find(|m| m.node == of).expect("a member").state
}

fn leads(w: &World, at: u8) -> Option<Peer> {
    w.nodes[&peer(at)].mesh.leader()
}

#[test]
fn who_is_about_to_sleep_hands_over_at_once_and_comes_back_with_its_first_advert() {
    let mut w = World::new(3);
    w.run(3_000);
    assert_eq!(w.leader(), peer(3));
    let from = w.now;
    assert_eq!(w.ask(peer(3), Command::Suspend, 50), Some(Reply::Ok));
    w.run(950);
    let took = w.when(from, peer(2), |e| matches!(e, Event::Serving(_))).expect("another coordinator");
    assert!(took < 500, "{took} ms: nobody waits for a suspicion");
    assert_eq!((leads(&w, 1), leads(&w, 2)), (Some(peer(2)), Some(peer(2))));
    assert_eq!(state(&mut w, peer(3), peer(1)), "asleep");
    // What is submitted meanwhile runs elsewhere.
    let Some(Reply::Submitted(r)) = w.ask(peer(1), Command::Submit(vec![echo("a")]), 500) else { panic!("no answer") };
    assert!(r[0].is_ok());
    assert_eq!(w.ask(peer(3), Command::Resume, 1_000), Some(Reply::Ok));
    assert_eq!(state(&mut w, peer(3), peer(1)), "online");
    assert_eq!(w.leader(), peer(2), "and the one that took over stays");
}

#[test]
fn a_sleep_that_was_called_off_ends_by_itself() {
    let mut w = World::new(3);
    w.run(3_000);
    w.ask(peer(1), Command::Suspend, 50);
    w.run(5_000);
    assert_eq!((leads(&w, 1), state(&mut w, peer(1), peer(2)).as_str()), (None, "asleep"));
    w.run(12_000);
    assert_eq!((w.leader(), state(&mut w, peer(1), peer(2)).as_str()), (peer(3), "online"));
}

#[test]
fn after_a_gap_in_time_a_sleeper_is_awake() {
    let mut w = World::new(3);
    w.run(3_000);
    w.ask(peer(1), Command::Suspend, 50);
    w.now += 60_000;
    w.run(1_500);
    assert_eq!(state(&mut w, peer(1), peer(2)), "online");
}

#[test]
fn alone_it_sleeps_and_serves_again() {
    let mut w = World::new(1);
    w.run(6_000);
    assert_eq!(w.ask(peer(1), Command::Suspend, 50), Some(Reply::Ok));
    assert_eq!(leads(&w, 1), None);
    w.ask(peer(1), Command::Resume, 6_000);
    assert_eq!(w.leader(), peer(1));
}
