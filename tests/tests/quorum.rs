//! Voters: a majority serves, a minority says that it does not, and nothing is lost on the way back.

use clawmesh_tests::{AGES, Gate, LONG, Mesh, Node, Task, Value, wait_until};

fn quorum(node: &Node) -> Result<Value, String> {
    node.get("/api/v1/quorum")
}

fn names(view: &Value) -> Vec<&str> {
    view["voters"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str()).collect()
}

#[test]
fn a_minority_of_one_serves_nothing_and_says_so_and_comes_back() {
    let mesh = Mesh::of(3).start();
    mesh.settled();
    mesh[1].cli(["quorum"]).ok().stdout_has(&["open mode"]);
    // Nobody can promise it yet on a node of the mesh's choice.
    mesh[1].cli(["run", "--at-most-once", "--", "true"]).exits(2).stderr_has(&["--node", "quorum init"]);
    mesh[1].cli(["quorum", "init", "n0", "n1", "n2"]).ok().stdout_has(&["3 of 3 voters", "n0", "n1", "n2"]);
    for node in mesh.nodes() {
        wait_until("everybody knows the voters", LONG, || {
            let view = quorum(node)?;
            if names(&view) == ["n0", "n1", "n2"] || names(&view).len() == 3 { Ok(()) } else { Err(view.to_string()) }
        });
    }
    mesh[2].cli(["run", "--at-most-once", "--", "echo", "once"]).ok().stdout_is("once\n");
    let gate = Gate::new(mesh.dir(), "gate");
    let waiting = mesh[0].submit(&[Task::sh(&gate.wait())]).remove(0);

    // The coordinator dies: two of three go on.
    let first = mesh.coordinator().name().to_owned();
    let left: Vec<&Node> = mesh.nodes().iter().filter(|n| n.name() != first).collect();
    mesh.nodes().iter().filter(|n| n.name() == first).for_each(Node::kill);
    left[0].cli(["run", "--", "echo", "two"]).ok().stdout_is("two\n");

    // One of three is a minority.
    left[0].kill();
    let alone = left[1];
    wait_until("the last one sees that it is alone", LONG, || {
        let view = quorum(alone)?;
        let status = alone.status()?;
        if view["majority"] == false && status["coordinator"].is_null() { Ok(()) } else { Err(format!("{view} {status}")) }
    });
    alone.cli(["quorum", "status"]).ok().stdout_has(&["1 of 3 voters", "not reachable"]).stderr_has(&["serves nothing"]);
    alone.cli(["status"]).ok().stdout_has(&["1 of 3 in reach", "nobody at the moment"]);
    let said = alone.cli(["--json", "tasks", "ls"]);
    assert_ne!(said.code(), 0);
    let error = said.error();
    assert!(error.to_string().contains("1 of 3 voters") && error.to_string().contains("no_coordinator"), "{error}");

    // It comes back with what it had.
    gate.open();
    mesh.start_all();
    mesh.settled();
    mesh[0].all_complete(&[waiting], AGES);
    alone.cli(["run", "--", "echo", "three"]).ok().stdout_is("three\n");
    mesh[0].cli(["quorum", "remove", "n2"]).ok().stderr_has(&["two voters"]);
    mesh[0].cli(["quorum", "add", "n2", "--witness"]).ok().stdout_has(&["witness"]);
    mesh[0].cli(["quorum", "add", "nobody"]).exits(1).stderr_has(&["nobody"]);
}
