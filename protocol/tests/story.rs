//! Three nodes on a perfect network with perfect disks: the way of a task, told once from end to end.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test; clippy only knows those inside #[test]")]

mod common;

use clawmesh_protocol::{
    face::{Command, Reply, State},
    io::Input,
};

use common::{World, echo, peer};

#[test]
fn a_task_runs_and_its_result_comes_back() {
    let mut w = World::new(3);
    w.run(3_000);
    assert_eq!(w.leader(), peer(3), "the best rank coordinates");
    w.input(peer(1), Input::Command(7, Command::Submit(vec![echo("a"), echo("b")])));
    w.run(1_000);
    let (_, _, Reply::Submitted(results)) = w.replies.iter().find(|r| r.1 == 7).unwrap().clone() else { panic!("not acknowledged") };
    let ids: Vec<_> = results.into_iter().map(|r| r.unwrap()).collect();
    assert!(ids.iter().all(|s| s.copies >= 2));
    w.input(peer(1), Input::Command(8, Command::Await(ids[0].task.unwrap())));
    w.run(100);
    let (_, _, Reply::Ended(end)) = w.replies.iter().find(|r| r.1 == 8).unwrap().clone() else { panic!("no end") };
    assert_eq!(end.state, State::Completed);
    w.run(2_000);
    let roots: Vec<u128> = w.nodes.values().map(|n| n.mesh.probe().root).collect();
    assert!(roots.windows(2).all(|r| r[0] == r[1]), "three replicas hold the same");
    assert!(w.nodes.values().all(|n| n.mesh.records().all(|r| r.delivered)));
}

#[test]
fn another_node_takes_over_when_the_coordinator_dies() {
    let mut w = World::new(3);
    w.run(3_000);
    w.input(peer(1), Input::Command(7, Command::Submit((0..50).map(|i| echo(&format!("{i}"))).collect())));
    w.kill(peer(3));
    w.run(5_000);
    assert_eq!(w.leader(), peer(2));
    assert_eq!(w.nodes[&peer(1)].mesh.probe().outbox_open, 0, "every task has its result");
    assert!(w.replies.iter().any(|r| r.1 == 7));
}
