//! Quorum mode on a perfect network: voters, majorities, changes (C1-C4, E10, S6).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test; clippy only knows those inside #[test]")]

mod common;

use clawmesh_protocol::{
    face::{Command, NewTask, Refusal, Reply, Submitted},
    ids::Peer,
    quorum::{Change, Mode},
    spec::{Data, Spec, split},
};
use common::{World, echo, peer};

fn init(voters: u8, of: u8) -> World {
    let mut w = World::new(of);
    w.run(3_000);
    let nodes: Vec<Peer> = (1..=voters).map(peer).collect();
    change(&mut w, 1, Change::Init, &nodes, &[]).unwrap();
    w
}

fn change(w: &mut World, at: u8, c: Change, nodes: &[Peer], witnesses: &[Peer]) -> Result<(), Refusal> {
    match w.ask(peer(at), Command::ChangeQuorum(c, nodes.to_vec(), witnesses.to_vec()), 6_000) {
        Some(Reply::Ok) => Ok(()),
        Some(Reply::Refused(r)) => Err(r),
        other => panic!("{other:?}"),
    }
}

fn submit(w: &mut World, at: u8, spec: Spec) -> Option<Result<Submitted, Refusal>> {
    match w.ask(peer(at), Command::Submit(vec![spec]), 1_000) {
        Some(Reply::Submitted(r)) => r.into_iter().next(),
        _ => None,
    }
}

fn voters(w: &World, at: u8) -> Vec<Peer> {
    let q = w.nodes[&peer(at)].mesh.quorum_view().unwrap();
    assert!(q.pending.is_empty() && q.mode == Mode::Quorum, "{q:?}");
    q.voters.iter().map(|v| v.node).collect()
}

#[test]
fn voters_are_named_and_everybody_knows_them() {
    let w = init(3, 5);
    for n in 1..=5 {
        assert_eq!(voters(&w, n), [peer(1), peer(2), peer(3)]);
    }
    // The best rank of all is no voter: it gave the mesh to one.
    assert_eq!(w.leader(), peer(3));
}

#[test]
fn a_minority_serves_nothing_and_says_so_and_the_rest_goes_on() {
    let mut w = init(3, 3);
    assert!(submit(&mut w, 1, echo("a")).unwrap().unwrap().copies >= 2);
    w.kill(peer(3));
    w.run(5_000);
    assert_eq!(w.leader(), peer(2));
    assert!(submit(&mut w, 1, echo("b")).unwrap().unwrap().copies >= 2);
    w.kill(peer(2));
    w.run(15_000);
    let left = &w.nodes[&peer(1)].mesh;
    assert!(!left.probe().serving && left.leader().is_none());
    let q = left.quorum_view().unwrap();
    assert!(!q.majority && q.warning.contains("1 of 3"), "{q:?}");
    assert!(submit(&mut w, 1, echo("c")).is_none(), "one of three acknowledges nothing");
    let Some(Reply::Refused(Refusal::NoCoordinator { message })) = w.ask(peer(1), Command::Cancel("ta".into()), 12_000) else { panic!() };
    assert!(message.contains("1 of 3 voters"), "{message}");
    w.boot(3);
    w.run(8_000);
    assert_eq!(w.nodes[&peer(1)].mesh.probe().outbox_open, 0, "what waited has its result");
    assert_eq!(w.nodes[&w.leader()].mesh.records().count(), 3);
}

#[test]
fn voters_are_added_and_removed_one_change_at_a_time() {
    let mut w = init(1, 4);
    assert_eq!(w.leader(), peer(1));
    assert!(w.nodes[&peer(1)].mesh.quorum_view().unwrap().warning.contains("one voter"));
    change(&mut w, 2, Change::Add, &[peer(2)], &[]).unwrap();
    change(&mut w, 4, Change::Add, &[peer(4)], &[]).unwrap();
    change(&mut w, 4, Change::Add, &[peer(4)], &[]).unwrap();
    assert_eq!(voters(&w, 3), [peer(1), peer(2), peer(4)]);
    submit(&mut w, 3, echo("a")).unwrap().unwrap();
    change(&mut w, 3, Change::Remove, &[peer(1)], &[]).unwrap();
    w.run(5_000);
    assert_eq!(voters(&w, 1), [peer(2), peer(4)]);
    assert_eq!(w.leader(), peer(4), "a coordinator that has no vote any more goes");
    assert!(change(&mut w, 3, Change::Remove, &[peer(1)], &[]).is_err());
    assert!(change(&mut w, 3, Change::Init, &[peer(1)], &[]).is_err());
    assert!(change(&mut w, 3, Change::Remove, &[peer(2), peer(4)], &[]).is_err());
    submit(&mut w, 1, echo("b")).unwrap().unwrap();
}

#[test]
fn a_voter_with_a_new_store_does_not_count_until_it_is_named_again() {
    let mut w = init(3, 3);
    submit(&mut w, 1, echo("a")).unwrap().unwrap();
    w.kill(peer(1));
    w.replace_store(1, 99);
    w.boot(1);
    w.run(3_000);
    assert!(w.nodes[&peer(3)].mesh.quorum_view().unwrap().voters[0].replaced);
    w.kill(peer(2));
    w.run(8_000);
    assert!(!w.nodes[&peer(3)].mesh.probe().serving, "one voter and a stranger are no majority");
    w.boot(2);
    w.run(5_000);
    change(&mut w, 1, Change::Add, &[peer(1)], &[]).unwrap();
    w.kill(peer(2));
    w.run(5_000);
    submit(&mut w, 1, echo("b")).unwrap().unwrap();
}

#[test]
fn a_witness_votes_and_holds_but_neither_runs_nor_coordinates() {
    let mut w = World::new(3);
    w.run(3_000);
    change(&mut w, 1, Change::Init, &[peer(1), peer(2)], &[peer(3)]).unwrap();
    w.run(5_000);
    assert_eq!(w.leader(), peer(2), "the witness had the best rank");
    for i in 0..8 {
        submit(&mut w, 1, echo(&format!("{i}"))).unwrap().unwrap();
    }
    assert!(w.nodes[&peer(2)].mesh.records().all(|r| r.outcome.as_ref().is_some_and(|o| o.worker != Some(peer(3)))));
    w.kill(peer(2));
    w.run(5_000);
    assert_eq!(w.leader(), peer(1));
    submit(&mut w, 1, echo("more")).unwrap().unwrap();
    assert_eq!(w.nodes[&peer(3)].mesh.records().count(), 9);
}

#[test]
fn only_voters_can_promise_an_unpinned_task_at_most_one_start() {
    let once = || {
        let new = NewTask { skill: Some("echo".into()), input: Some("x".into()), at_most_once: true, ..NewTask::default() };
        let (need, work) = split(&new).unwrap();
        Spec { need, payload: Data::Inline(clawmesh_protocol::codec::Blob(work)) }
    };
    let mut w = World::new(3);
    w.run(3_000);
    assert!(matches!(submit(&mut w, 1, once()), Some(Err(Refusal::Invalid { message })) if message.contains("pinned")));
    change(&mut w, 1, Change::Init, &[], &[]).unwrap();
    assert_eq!(voters(&w, 1).len(), 3, "three are the default");
    submit(&mut w, 1, once()).unwrap().unwrap();
}
