//! Two members that cannot reach each other talk through a third one (E11).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test; clippy only knows those inside #[test]")]

mod common;

use clawmesh_protocol::{
    codec,
    face::{Command, Reply, StatusView},
    ids::Peer,
    io::{Event, Input, Output},
    message::Message,
    record::End,
    relay::{Body, Relay},
    spec::Spec,
    time::Now,
};

use common::{World, echo, peer};

fn pinned(input: &str, to: u8) -> Spec {
    let mut s = echo(input);
    s.need.pin = Some(peer(to));
    s
}

fn status(w: &mut World, p: Peer) -> StatusView {
    w.input(p, Input::Command(99, Command::Status));
    let Some((_, _, Reply::Status(s))) = w.replies.pop() else { panic!("no status") };
    *s
}

fn via(w: &mut World, at: u8, to: u8) -> Option<Peer> {
    status(w, peer(at)).members.iter().find(|m| m.node == peer(to)).and_then(|m| m.via)
}

/// Runs a task of `at` on `on`, to its end.
fn works(w: &mut World, at: u8, on: u8, req: u64) {
    w.input(peer(at), Input::Command(req, Command::Submit(vec![pinned("x", on)])));
    let from = w.now;
    w.run(3_000);
    let done = w.events.iter().any(|(t, p, e)| *t >= from && *p == peer(at) && matches!(e, Event::Accepted(_, End::Done, _)));
    assert!(done, "a task of {at} on {on}: {:?}", w.events.iter().filter(|(t, ..)| *t >= from).collect::<Vec<_>>());
}

fn counted(w: &World, p: Peer, word: &str) -> usize {
    let dropped = |e: &Event| matches!(e, Event::Dropped(k) if *k == word);
    w.events.iter().filter(|(_, q, e)| *q == p && (dropped(e) || matches!(e, Event::Relayed { what, .. } if *what == word))).count()
}

#[test]
fn a_follower_that_cannot_reach_its_coordinator_works_through_another() {
    let mut w = World::new(3);
    w.run(4_000);
    assert_eq!(w.leader(), peer(3));
    let claims = w.claims();
    w.part(1, 3);
    w.run(6_000);
    assert_eq!(w.leader(), peer(3), "it is followed through 2");
    assert_eq!((via(&mut w, 1, 3), via(&mut w, 3, 1), via(&mut w, 1, 2)), (Some(peer(2)), Some(peer(2)), None));
    assert_eq!(w.claims(), claims, "nobody had to claim for that");
    // The coordinator is the far end: as a worker, and as who submits.
    works(&mut w, 1, 3, 7);
    works(&mut w, 3, 1, 8);
    works(&mut w, 2, 1, 9);
    assert!(counted(&w, peer(2), "passed") > 0 && counted(&w, peer(1), "taken") > 0);
    // As long as nothing happens nothing but signs of life is said.
    let before = counted(&w, peer(1), "closed");
    w.run(60_000);
    assert_eq!((w.leader(), w.claims(), counted(&w, peer(1), "closed")), (peer(3), claims, before));
    w.heal();
    w.run(3_000);
    assert_eq!((via(&mut w, 1, 3), via(&mut w, 3, 1)), (None, None), "the direct link takes its place");
    let passed = counted(&w, peer(2), "passed");
    works(&mut w, 1, 3, 10);
    assert_eq!(counted(&w, peer(2), "passed"), passed);
    assert_eq!(w.claims(), claims);
}

#[test]
fn two_workers_that_cannot_reach_each_other_do_not_disturb_anybody() {
    let mut w = World::new(4);
    w.run(4_000);
    let claims = w.claims();
    w.part(1, 2);
    w.run(8_000);
    assert_eq!(via(&mut w, 1, 2), Some(peer(4)), "the coordinator carries");
    works(&mut w, 1, 2, 7);
    assert_eq!(w.claims(), claims);
}

#[test]
fn another_relay_takes_over_and_without_any_the_peer_is_gone() {
    let mut w = World::new(4);
    w.run(4_000);
    assert_eq!(w.leader(), peer(4));
    w.part(1, 4);
    w.run(6_000);
    assert_eq!(via(&mut w, 1, 4), Some(peer(3)), "the better of two");
    w.kill(peer(3));
    w.run(2_000);
    assert_eq!(via(&mut w, 1, 4), Some(peer(2)));
    works(&mut w, 1, 4, 7);
    w.kill(peer(2));
    w.run(1_000);
    let s = status(&mut w, peer(1));
    let four = s.members.iter().find(|m| m.node == peer(4)).unwrap();
    assert!(four.via.is_none() && four.state != "online", "{}", four.state);
    w.run(20_000);
    assert_eq!(w.nodes[&peer(1)].mesh.leader(), Some(peer(1)), "in open mode each goes on alone");
}

#[test]
fn a_relay_that_falls_silent_is_left_for_another() {
    let mut w = World::new(4);
    w.run(4_000);
    w.part(1, 4);
    w.run(6_000);
    assert_eq!(via(&mut w, 1, 4), Some(peer(3)));
    // It takes everything and passes on nothing.
    w.deaf.insert(peer(3));
    w.run(8_000);
    assert_eq!((via(&mut w, 1, 4), via(&mut w, 4, 1)), (Some(peer(2)), Some(peer(2))));
    // What it has not heard is lost to it, so it does not come back.
    w.kill(peer(3));
    w.run(6_000);
    assert_eq!(w.leader(), peer(4));
    works(&mut w, 1, 4, 7);
}

#[test]
fn who_restarts_behind_a_relay_comes_back_through_it() {
    let mut w = World::new(3);
    w.run(4_000);
    w.part(1, 3);
    w.run(6_000);
    w.kill(peer(1));
    w.boot(1);
    // It cannot have links that are cut.
    w.part(1, 3);
    w.run(8_000);
    assert_eq!((via(&mut w, 1, 3), via(&mut w, 3, 1)), (Some(peer(2)), Some(peer(2))));
    works(&mut w, 1, 3, 7);
}

#[test]
fn what_was_recorded_opens_nothing_and_is_taken_once() {
    let mut w = World::new(3);
    w.run(4_000);
    w.part(1, 3);
    w.run(6_000);
    works(&mut w, 1, 3, 7);
    let recorded: Vec<Relay> = w.envelopes.iter().filter(|r| r.to == peer(3)).cloned().collect();
    let (taken, events) = (counted(&w, peer(3), "taken"), w.events.len());
    for r in &recorded {
        w.input(peer(3), Input::Relayed(peer(2), r.clone()));
    }
    assert_eq!(counted(&w, peer(3), "taken"), taken);
    assert!(
        w.events[events..].iter().all(|(.., e)| matches!(e, Event::Dropped("relay_again" | "relay_stale"))),
        "{:?}",
        &w.events[events..]
    );
    assert_eq!(via(&mut w, 3, 1), Some(peer(2)), "the channel goes on");
    // After a restart of the reader it has forgotten all sessions, and the record is worth nothing all the same.
    w.kill(peer(3));
    w.boot(3);
    w.part(1, 3);
    w.run(100);
    let taken = counted(&w, peer(3), "taken");
    for r in recorded {
        w.input(peer(3), Input::Relayed(peer(2), r));
    }
    assert_eq!((counted(&w, peer(3), "taken"), via(&mut w, 3, 1)), (taken, None));
    w.run(8_000);
    assert_eq!(via(&mut w, 3, 1), Some(peer(2)), "a real one comes up");
}

#[test]
fn a_gap_ends_the_channel_and_a_new_one_follows() {
    let mut w = World::new(4);
    w.run(4_000);
    w.part(1, 4);
    w.run(6_000);
    let mut last = w.envelopes.iter().rfind(|r| r.to == peer(4) && r.from == peer(1) && r.n > 0).unwrap().clone();
    last.n += 5;
    w.input(peer(4), Input::Relayed(peer(3), last));
    assert_eq!(counted(&w, peer(4), "relay_gap"), 1);
    w.run(5_000);
    assert!(via(&mut w, 4, 1).is_some() && w.nodes[&peer(1)].mesh.leader() == Some(peer(4)));
    works(&mut w, 1, 4, 7);
}

#[test]
fn a_link_to_the_only_relay_that_is_replaced_costs_a_moment() {
    let mut w = World::new(3);
    w.run(4_000);
    w.part(1, 3);
    w.run(6_000);
    assert_eq!(via(&mut w, 1, 3), Some(peer(2)));
    let claims = w.claims();
    for _ in 0..3 {
        w.input(peer(1), Input::Closed(peer(2)));
        w.input(peer(1), Input::Up(peer(2)));
        w.input(peer(2), Input::Up(peer(1)));
        w.run(3_000);
        assert_eq!((via(&mut w, 1, 3), via(&mut w, 3, 1)), (Some(peer(2)), Some(peer(2))));
    }
    works(&mut w, 1, 3, 7);
    assert_eq!(w.claims(), claims);
}

#[test]
fn only_what_comes_from_its_author_for_a_neighbour_is_passed_on() {
    let mut w = World::new(4);
    w.run(4_000);
    w.part(1, 4);
    w.run(6_000);
    let good = w.envelopes.iter().rfind(|r| r.to == peer(4) && r.from == peer(1)).unwrap().clone();
    let try_it = |w: &mut World, at: u8, from: u8, r: Relay| {
        let mut out = vec![];
        let now = Now { ms: w.now, wall_ms: 1_700_000_000_000 + w.now };
        w.nodes.get_mut(&peer(at)).unwrap().mesh.handle(now, Input::Message(peer(from), Message::Relay(r)), &mut out);
        let sent = |o: &Output| match o {
            Output::Send { to, msg: Message::Relay(_), .. } => Some(Ok(*to)),
            Output::Send { to, msg: Message::NoRoute(_), .. } => Some(Err(*to)),
            _ => None,
        };
        out.iter().find_map(sent)
    };
    assert_eq!(try_it(&mut w, 2, 1, good.clone()), Some(Ok(peer(4))));
    assert_eq!(try_it(&mut w, 2, 3, good.clone()), None, "not from its author: that would be a second hop");
    assert_eq!(try_it(&mut w, 4, 1, good.clone()), None, "nobody has checked the signature of this");
    w.part(2, 4);
    w.run(10_000);
    assert_eq!(via(&mut w, 2, 4), Some(peer(3)), "the only one that reaches it");
    assert_eq!(try_it(&mut w, 2, 1, good), Some(Err(peer(1))), "not to whom it reaches through another only");
}

#[test]
fn strangers_and_nested_envelopes_are_refused() {
    let mut w = World::new(3);
    w.run(4_000);
    let of = clawmesh_protocol::relay::Of { session: 0, ext: Default::default() };
    let envelope = |from: u8, body: &Body| Relay {
        from: peer(from),
        to: peer(3),
        session: 1 << 40,
        n: 0,
        body: codec::Blob(codec::encode(body)),
        sig: codec::Blob(vec![]),
        ext: Default::default(),
    };
    w.input(peer(3), Input::Relayed(peer(2), envelope(77, &Body::Open(of))));
    assert_eq!(counted(&w, peer(3), "relay_stranger"), 1, "nobody has ever heard of it");
    let inner = envelope(1, &Body::Message(Message::Unknown(9_999, codec::Blob(vec![0]))));
    w.input(peer(3), Input::Relayed(peer(2), envelope(1, &Body::Message(Message::Relay(inner)))));
    assert_eq!(counted(&w, peer(3), "relay_nested"), 1);
    let mut bad = envelope(1, &Body::Message(Message::Unknown(9_999, codec::Blob(vec![0]))));
    bad.body.0.truncate(3);
    w.input(peer(3), Input::Relayed(peer(2), bad));
    assert_eq!(counted(&w, peer(3), "relay_malformed"), 1);
}
