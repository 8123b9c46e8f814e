//! What a new user types, from the first `up` on.

use std::io::Read;

use clawmesh_tests::{AGES, Gate, LONG, Log, Mesh, SHORT, Task, Value, json, repository, wait_until};

/// A mesh of three whose last node alone has the sample skills.
fn with_skills() -> Mesh {
    let skills = repository().join("deploy/skills");
    Mesh::of(3).args(["--slots", "4"]).node_args(2, ["--skills", skills.to_str().expect("a path in UTF-8")]).start()
}

#[test]
fn up_prints_a_ticket_and_the_ticket_lets_another_node_join() {
    let mut mesh = Mesh::of(1).start();
    let ticket = mesh[0].ticket();
    assert!(!ticket.contains(char::is_whitespace) && ticket.len() > 20, "the ticket alone on stdout: {ticket:?}");
    wait_until("up shows the ticket", SHORT, || {
        let told = mesh[0].stdout();
        if told.contains(&ticket) { Ok(()) } else { Err(told) }
    });
    assert!(mesh[0].stdout().contains("up --join"), "up says what to type next: {}", mesh[0].stdout());
    assert_eq!(mesh[0].json(["invite"])["ticket"], ticket.as_str());

    mesh.add(|n| n);
    for node in mesh.nodes() {
        let said = node.cli(["run", "--", "uname", "-s"]).ok();
        said.stdout_is("Linux\n");
    }
}

#[test]
fn status_has_the_fields_that_other_programs_rely_on() {
    let mesh = Mesh::start(3);
    for node in mesh.nodes() {
        let status = node.json(["status"]);
        for field in ["node", "name", "coordinator", "epoch", "role", "api", "mesh_addresses", "members", "queue"] {
            assert!(!status[field].is_null(), "status --json has no {field}: {status}");
        }
        assert_eq!(status["name"], node.name());
        assert!(status["api"].as_str().is_some_and(|a| a.starts_with("127.0.0.1:")), "{status}");
        assert!(status["epoch"].as_u64().is_some_and(|e| e >= 1), "{status}");
        let members = status["members"].as_array().expect("members");
        assert_eq!(members.len(), 3, "{status}");
        for member in members {
            assert_eq!(member["state"], "online", "{member}");
            assert!(member["node"].is_string() && member["name"].is_string() && member["priority"].is_u64(), "{member}");
        }
        let names: Vec<&str> = members.iter().filter_map(|m| m["name"].as_str()).collect();
        node.cli(["status"]).ok().stdout_has(&names);
        node.cli(["nodes"]).ok().stdout_has(&names);
    }
    let roles: Vec<Value> = mesh.nodes().iter().map(|n| n.json(["status"])["role"].clone()).collect();
    assert_eq!(roles.iter().filter(|r| *r == "coordinator").count(), 1, "{roles:?}");
}

#[test]
fn nodes_tell_about_their_machines() {
    let mesh = Mesh::of(2).args(["--label", "blue"]).node_args(0, ["--slots", "3"]).start();
    let ask = || -> Result<(), String> {
        let nodes = mesh[1].get("/api/v1/nodes")?;
        let first = nodes.as_array().and_then(|a| a.iter().find(|m| m["name"] == "n0").cloned()).ok_or("n0 is not listed")?;
        let facts = &first["facts"];
        let told = facts["platform"] == std::env::consts::OS
            && facts["arch"] == std::env::consts::ARCH
            && facts["host"].as_str().is_some_and(|h| !h.is_empty())
            && ["cpus", "memory_mib", "memory_free_mib", "disk_mib", "disk_free_mib"].iter().all(|f| facts[f].as_u64() > Some(0))
            && first["slots"] == 3
            && first["labels"] == json!(["blue"])
            && first["age_ms"].as_u64() < Some(60_000);
        if told { Ok(()) } else { Err(first.to_string()) }
    };
    wait_until("another node knows the facts of n0", LONG, ask);
}

#[test]
fn run_behaves_as_if_the_command_ran_here() {
    let mesh = Mesh::start(3);
    mesh[1].cli(["run", "--", "sh", "-c", "echo out; echo err >&2"]).ok().stdout_is("out\n").stderr_has(&["err"]);
    mesh[2].cli(["run", "--", "sh", "-c", "echo half; exit 42"]).exits(42).stdout_is("half\n");
    mesh[0].cli(["run", "--", "printf", "no newline"]).ok().stdout_is("no newline");
    // Arguments are never read by a shell.
    mesh[1].cli(["run", "--", "printf", "%s|", "a b", "$HOME", "*"]).ok().stdout_is("a b|$HOME|*|");
    // Bytes that are no text come back as they are.
    let said = mesh[2].cli(["run", "--", "printf", "\\377\\000x"]).ok();
    assert_eq!(said.stdout, b"\xff\0x");
    // A large output passes the size of a record and of a frame.
    let said = mesh[1].cli(["run", "--", "head", "-c", "700000", "/dev/zero"]).ok();
    assert_eq!(said.stdout.len(), 700_000);
    // A signal is told as a shell tells it.
    mesh[0].cli(["run", "--", "sh", "-c", "kill -TERM $$"]).exits(143);
    // A program that is not there is the task's failure, not the mesh's.
    mesh[0].cli(["run", "--", "no-such-program-anywhere"]).exits(127);
    mesh[1].cli(["run", "--env", "COLOUR=green", "--", "sh", "-c", "echo $COLOUR"]).ok().stdout_is("green\n");
}

#[test]
fn a_task_runs_in_its_own_directory_with_the_fencing_variables() {
    let mesh = Mesh::start(2);
    let said = mesh[1].cli(["run", "--", "sh", "-c", "pwd; echo $CLAWMESH_TASK_ID $CLAWMESH_ATTEMPT $CLAWMESH_FENCE; env"]).ok();
    let out = said.out();
    let mut lines = out.lines();
    let dir = lines.next().unwrap_or_default();
    assert!(dir.starts_with(mesh.dir().to_str().expect("a path in UTF-8")), "the directory lies in a node's home: {dir}");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    assert!(matches!(words.as_slice(), [id, "1", fence] if id.starts_with('t') && id.len() == 17 && fence.contains('.')), "{words:?}");
    assert!(!out.contains("CLAWMESH_HOME"), "the node's own settings stay with it: {out}");
    let gone = std::path::Path::new(dir);
    wait_until("the directory is taken away after the task", SHORT, || if gone.exists() { Err(dir) } else { Ok(()) });
}

#[test]
fn ids_have_a_shape_and_any_unique_prefix_will_do() {
    let mesh = Mesh::start(2);
    let id = mesh[1].cli(["run", "--id-only", "--", "echo", "hi"]).ok().out().trim().to_owned();
    assert!(id.starts_with('t') && id.len() == 17, "{id}");
    let rest = &id[1..];
    assert!(rest.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()), "{id}");
    mesh[0].cli(["tasks", "wait", &id]).ok();
    for prefix in [&id[..8], &id[..12], &id] {
        mesh[0].cli(["tasks", "result", prefix]).ok().stdout_is("hi\n");
        assert_eq!(mesh[1].json(["tasks", "show", prefix])["id"], id.as_str());
    }
    // Of 40 ids, two begin with the same of 32 characters.
    let many = mesh[0].submit(&clawmesh_tests::batch_of(40, &Task::skill("echo", &json!(1))));
    mesh[0].all_complete(&many, LONG);
    let prefix = (0..many.len()).find_map(|i| many[..i].iter().any(|m| m[..2] == many[i][..2]).then(|| many[i][..2].to_owned()));
    let prefix = prefix.expect("40 ids share a first character");
    let error = mesh[1].cli(["--json", "tasks", "show", &prefix]).exits(1).error();
    assert_eq!(error["code"], "ambiguous", "{error}");
    let candidates = error["candidates"].as_array().expect("candidates");
    assert!(candidates.len() >= 2 && candidates.iter().all(|c| c.as_str().is_some_and(|c| c.starts_with(&prefix))), "{error}");
    mesh[1].cli(["tasks", "show", &prefix]).exits(1).stderr_has(&[candidates[0].as_str().expect("an id"), "type more"]);
    for unknown in ["tzzzzzzzzzzzzzzzz", "not-an-id"] {
        mesh[1].cli(["tasks", "show", unknown]).exits(1).stderr_has(&[unknown, "no task"]);
        mesh[1].cli(["tasks", "cancel", unknown]).exits(1);
        mesh[1].cli(["tasks", "result", unknown]).exits(1);
        mesh[1].cli(["tasks", "logs", unknown]).exits(1);
        mesh[1].cli(["tasks", "explain", unknown]).exits(1);
        mesh[1].cli(["tasks", "wait", unknown]).exits(1);
    }
}

#[test]
fn a_task_is_shown_with_its_attempts_from_every_node() {
    let mesh = Mesh::start(3);
    mesh[1].cli(["run", "--", "sh", "-c", "exit 3"]).exits(3);
    let all = mesh[0].json(["tasks", "ls"]);
    let task = all.as_array().or(all["tasks"].as_array()).and_then(|a| a.first()).cloned().expect("one task is listed");
    let id = task["id"].as_str().expect("an id").to_owned();
    for node in mesh.nodes() {
        let shown = node.json(["tasks", "show", &id]);
        assert_eq!(shown["state"], "failed", "{shown}");
        let attempts = shown["attempts"].as_array().expect("attempts");
        assert_eq!(attempts.len(), 1, "{shown}");
        let only = &attempts[0];
        assert_eq!((&only["number"], &only["exit_code"]), (&json!(1), &json!(3)), "{shown}");
        assert!(only["node"].is_string() && only["reason"].is_string(), "{shown}");
        assert!(only["ended_at"].as_u64() >= only["started_at"].as_u64() && only["started_at"].as_u64() > Some(0), "{shown}");
        node.cli(["tasks", "result", &id]).exits(1);
        node.cli(["tasks", "explain", &id]).ok();
        node.cli(["--quiet", "tasks", "ls", "--state", "failed"]).ok().stdout_is(&format!("{id}\n"));
        node.cli(["--quiet", "tasks", "ls", "--state", "completed"]).ok().stdout_is("");
    }
}

#[test]
fn output_of_a_running_task_is_followed_from_another_node() {
    let mesh = Mesh::of(3).node_args(0, ["--slots", "0"]).node_args(2, ["--slots", "0"]).start();
    let gate = Gate::new(mesh.dir(), "gate");
    let script = format!("echo first; echo oops >&2; {}; echo last", gate.wait());
    let id = mesh[0].cli(["run", "--id-only", "--", "sh", "-c", &script]).ok().out().trim().to_owned();
    let mut following = mesh[2].command(["tasks", "logs", "--follow", &id]).spawn();
    let mut stdout = following.stdout();
    let mut first = [0; 6];
    stdout.read_exact(&mut first).expect("the output comes while the task runs");
    assert_eq!(&first, b"first\n");
    assert_eq!(mesh[1].task(&id).expect("the task is shown")["state"], "running");
    gate.open();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("the output ends with the task");
    assert_eq!(rest, "last\n");
    following.end(SHORT).ok().stderr_has(&["oops"]);
    mesh[2].cli(["tasks", "logs", &id]).ok().stdout_is("first\nlast\n").stderr_has(&["oops"]);
    mesh[2].cli(["tasks", "result", &id]).ok().stdout_is("first\nlast\n");
}

#[test]
fn builtins_are_skills_of_reserved_names() {
    let mesh = Mesh::start(2);
    mesh[1].cli(["submit", "echo", "--input", "{\"a\":1}", "--wait"]).ok().stdout_has(&["{\"a\":1}"]);
    let said = mesh[1].cli(["submit", "fail", "--wait"]).exits(1);
    assert!(!said.stderr.is_empty(), "{}", said.told());
    let id = mesh[0].cli(["submit", "sleep", "--input", "3600", "--id-only"]).ok().out().trim().to_owned();
    mesh[1].task_until(&id, "running", LONG);
    mesh[1].cli(["tasks", "wait", &id, "--timeout", "200ms"]).exits(4).stderr_has(&["not ended"]);
    mesh[1].cli(["tasks", "result", &id]).exits(1).stderr_has(&["no result yet"]);
    mesh[1].cli(["tasks", "cancel", &id]).ok();
    mesh[0].task_until(&id, "cancelled", LONG);
    mesh[0].cli(["tasks", "wait", &id]).exits(1);
}

#[test]
fn skills_are_listed_and_run_from_any_node() {
    let mesh = with_skills();
    let listed = wait_until("the first node knows the skills of the last", LONG, || {
        let skills = mesh[0].get("/api/v1/skills")?;
        let names: Vec<String> = skills.as_array().into_iter().flatten().filter_map(|s| Some(s["name"].as_str()?.to_owned())).collect();
        if names.iter().any(|n| n == "word-count") { Ok(names) } else { Err(format!("{names:?}")) }
    });
    assert!(listed.iter().any(|n| n == "file-digest"), "{listed:?}");
    mesh[1].cli(["skills"]).ok().stdout_has(&["word-count", "file-digest"]);
    mesh[1].cli(["skills", "show", "word-count"]).ok().stdout_has(&["word-count", "n2"]);
    mesh[1].cli(["skills", "show", "wrod-count"]).exits(1).stderr_has(&["word-count"]);

    let said = mesh[0].cli(["submit", "word-count", "--input-text", "to be or not to be\n", "--wait"]).ok();
    let counted = said.json();
    assert_eq!((&counted["words"], &counted["lines"]), (&json!(6), &json!(1)), "{counted}");
    let shown = mesh[1].json(["tasks", "ls"]);
    let task = shown.as_array().or(shown["tasks"].as_array()).and_then(|a| a.first()).cloned().expect("one task");
    assert_eq!(task["attempts"][0]["name"], "n2", "only this node has the skill: {task}");
    mesh[1].cli(["tasks", "explain", task["id"].as_str().expect("an id")]).ok().stdout_has(&["n2"]);
}

#[test]
fn a_skill_that_no_node_ever_had_is_refused_with_the_nearest_names() {
    let mesh = with_skills();
    wait_until("the first node knows the skills of the last", LONG, || {
        let skills = mesh[0].get("/api/v1/skills")?;
        if skills.to_string().contains("word-count") { Ok(()) } else { Err(skills.to_string()) }
    });
    for node in mesh.nodes() {
        let said = node.cli(["--json", "submit", "wrod-count", "--input", "{}"]).exits(1);
        let error = said.error();
        assert_eq!(error["code"], "unknown_skill", "{error}");
        assert_eq!(error["candidates"][0], "word-count", "{error}");
        node.cli(["submit", "wrod-count", "--input", "{}", "--wait"]).exits(1).stderr_has(&["'wrod-count'", "'word-count'"]);
    }
    assert!(mesh[0].tasks("").expect("a list").is_empty(), "a refused task leaves nothing behind");
}

#[test]
fn a_known_skill_without_a_live_holder_waits_and_says_why() {
    let mesh = with_skills();
    mesh[0].cli(["submit", "word-count", "--input-text", "one", "--wait"]).ok();
    mesh[2].stop();
    let id = mesh[1].cli(["submit", "word-count", "--input-text", "one two", "--id-only"]).ok().out().trim().to_owned();
    let waiting = mesh[0].task_that(&id, "the task waits and says why", LONG, |t| {
        t["state"] == "pending" && t["reason"].as_str().is_some_and(|r| r.contains("word-count") || r.contains("no ") || r.contains("node"))
    });
    assert!(waiting["attempts"].as_array().is_some_and(Vec::is_empty), "{waiting}");
    mesh[1].cli(["tasks", "explain", &id]).ok().stdout_has(&["word-count"]);
    // Its queue timeout ends another one.
    let late = ["submit", "word-count", "--input-text", "x", "--queue-timeout", "1s", "--wait"];
    mesh[1].cli(late).exits(1).stderr_has(&["time limit"]);
    mesh[2].start();
    let done = mesh[0].all_complete(std::slice::from_ref(&id), LONG);
    assert_eq!(done[0]["attempts"][0]["name"], "n2", "{}", done[0]);
}

#[test]
fn the_five_strategies_are_chosen_for_the_mesh_and_for_a_task() {
    let mesh = Mesh::of(3).args(["--slots", "4"]).start();
    for strategy in ["round_robin", "least_tasks", "best_fit", "random", "affinity"] {
        mesh[1].cli(["config", "set", "--mesh", "strategy", strategy]).ok();
        wait_until(&format!("all nodes know the strategy {strategy}"), LONG, || {
            for node in mesh.nodes() {
                let now = node.status()?["strategy"].clone();
                if now != strategy {
                    return Err(format!("{} has {now}", node.name()));
                }
            }
            Ok(())
        });
        mesh[2].cli(["config", "get", "--mesh", "strategy"]).ok().stdout_is(&format!("{strategy}\n"));
        let id = mesh[0].cli(["run", "--id-only", "--strategy", strategy, "--", "true"]).ok().out().trim().to_owned();
        mesh[0].cli(["tasks", "wait", &id]).ok();
        assert_eq!(mesh[1].json(["tasks", "explain", &id])["strategy"], strategy);
        assert_eq!(mesh[1].json(["tasks", "show", &id])["strategy"], strategy);
    }
    // In turn means every node; by affinity means one node.
    let on = |strategy: &str| {
        let task = Task::sh("true").with("strategy", strategy).with("key", Value::Null);
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..6 {
            let ids = mesh[0].submit(std::slice::from_ref(&task));
            let done = mesh[0].all_complete(&ids, LONG);
            names.insert(done[0]["attempts"][0]["name"].to_string());
        }
        names.len()
    };
    assert_eq!(on("round_robin"), 3, "six tasks in turn on three nodes");
    assert_eq!(on("affinity"), 1, "the same command by affinity");
}

#[test]
fn a_full_mesh_says_what_a_task_waits_for_and_urgent_ones_go_first() {
    let mesh = Mesh::of(2).args(["--slots", "1"]).start();
    let gate = Gate::new(mesh.dir(), "gate");
    let log = Log::new(mesh.dir(), "log");
    let holding = mesh[0].submit(&clawmesh_tests::batch_of(2, &Task::sh(&gate.wait())));
    for id in &holding {
        mesh[1].task_until(id, "running", LONG);
    }
    let ordered: Vec<String> = ["low", "normal", "high", "critical"]
        .iter()
        .flat_map(|p| mesh[1].submit(&[Task::sh(&log.append(p)).with("priority", *p).with("pin", "n0")]))
        .collect();
    let explained = mesh[1].json(["tasks", "explain", &ordered[0]]);
    assert_eq!(explained["state"], "pending", "{explained}");
    let slots = explained["nodes"].as_array().into_iter().flatten().any(|n| n["reason"].as_str().is_some_and(|r| r.contains("slots")));
    assert!(slots, "{explained}");
    wait_until("the queue is shown by priority", LONG, || {
        let queue = mesh[1].status()?["queue"].clone();
        let all = ["critical", "high", "normal", "low"].iter().all(|p| queue[p] == 1) && queue["running"] == 2;
        if all { Ok(()) } else { Err(queue.to_string()) }
    });
    gate.open();
    mesh[0].all_complete(&ordered, LONG);
    let order: Vec<String> = log.lines().iter().filter_map(|l| l.rsplit(' ').next().map(str::to_owned)).collect();
    assert_eq!(order, ["critical", "high", "normal", "low"]);
}

#[test]
fn a_node_that_refuses_commands_gets_none_and_says_so() {
    let mesh = Mesh::of(2).node_args(1, ["--no-commands"]).start();
    let ids = mesh[1].submit(&clawmesh_tests::batch_of(12, &Task::sh("true")));
    let done = mesh[1].all_complete(&ids, LONG);
    assert!(done.iter().all(|t| t["attempts"][0]["name"] == "n0"), "{done:?}");
    let said = mesh[0].cli(["run", "--node", "n1", "--queue-timeout", "1s", "--", "true"]).exits(124);
    said.stderr_has(&["time limit"]);
    let id = mesh[0].cli(["run", "--id-only", "--node", "n1", "--", "true"]).ok().out().trim().to_owned();
    mesh[0].task_that(&id, "the task waits and says why", LONG, |t| t["reason"].as_str().is_some_and(|r| !r.is_empty()));
    mesh[0].cli(["tasks", "explain", &id]).ok().stdout_has(&["--no-commands"]);
    mesh[0].cli(["run", "--node", "n7", "--", "true"]).stderr_has(&["n7"]);
    // Builtins are no commands.
    mesh[0].cli(["submit", "echo", "--input", "1", "--node", "n1", "--wait"]).ok();
}

#[test]
fn labels_and_pins_choose_the_node() {
    let mesh = Mesh::of(3).node_args(1, ["--label", "gpu"]).start();
    let place = |args: &[&str]| {
        let id = mesh[0].cli(args).ok().out().trim().to_owned();
        mesh[0].cli(["tasks", "wait", &id]).ok();
        mesh[0].json(["tasks", "show", &id])["attempts"][0]["name"].as_str().expect("a name").to_owned()
    };
    for _ in 0..3 {
        assert_eq!(place(&["run", "--id-only", "--label", "gpu", "--", "true"]), "n1");
        assert_eq!(place(&["run", "--id-only", "--node", "n2", "--", "true"]), "n2");
    }
    let late = ["run", "--label", "quantum", "--queue-timeout", "1s", "--", "true"];
    mesh[2].cli(late).exits(124);
}

#[test]
fn a_key_joins_the_task_that_is_there() {
    let mesh = Mesh::start(2);
    let log = Log::new(mesh.dir(), "log");
    let task = Task::sh(&log.append("ran")).with("key", "monday");
    let first = mesh[0].submit(std::slice::from_ref(&task));
    let second = mesh[1].submit(&[task]);
    assert_eq!(first, second);
    mesh[1].all_complete(&first, LONG);
    assert_eq!(log.lines().len(), 1);
    let other = mesh[1].cli(["run", "--key", "monday", "--id-only", "--", "echo", "something else"]);
    assert_ne!(other.code(), 0, "the same key with another task is an error: {}", other.told());
}

#[test]
fn draining_takes_a_node_out_and_resume_brings_it_back() {
    let mesh = Mesh::of(2).args(["--slots", "2"]).start();
    mesh[1].cli(["nodes", "drain"]).ok();
    let state = |wanted: &str| {
        wait_until(&format!("n1 is {wanted}"), LONG, || {
            let nodes = mesh[0].get("/api/v1/nodes")?;
            let own = nodes.as_array().and_then(|a| a.iter().find(|m| m["name"] == "n1").cloned()).ok_or("n1 is not listed")?;
            if own["state"] == wanted { Ok(()) } else { Err(own["state"].to_string()) }
        });
    };
    state("draining");
    let ids = mesh[1].submit(&clawmesh_tests::batch_of(8, &Task::sh("true")));
    let done = mesh[1].all_complete(&ids, LONG);
    assert!(done.iter().all(|t| t["attempts"][0]["name"] == "n0"), "{done:?}");
    mesh[1].cli(["nodes", "resume"]).ok();
    state("online");
    mesh[0].cli(["run", "--node", "n1", "--", "true"]).ok();
}

#[test]
fn many_tasks_in_one_request_all_complete_on_all_nodes() {
    let mesh = Mesh::of(3).args(["--slots", "4"]).start();
    let tasks: Vec<Task> = (0..2_000).map(|i| Task::skill("echo", &json!(i))).collect();
    let ids = mesh[1].submit(&tasks);
    let done = mesh[2].all_complete(&ids, AGES);
    for name in ["n0", "n1", "n2"] {
        assert!(done.iter().any(|t| t["attempts"][0]["name"] == name), "{name} ran none of 2,000");
    }
    assert!(done.iter().all(|t| t["attempts"].as_array().map(Vec::len) == Some(1)), "one attempt each");
    mesh[0].cli(["tasks", "result", &ids[1_234]]).ok().stdout_has(&["1234"]);
    assert!(mesh[2].status().expect("a status")["queue"]["ended"].as_u64() >= Some(2_000));
}
