//! Prompts for agents, with a small program that speaks OpenClaw's envelope; `openclaw.rs` does it with the real one.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clawmesh_tests::{Cli, Gate, LONG, Mesh, Node, Value, holds_for, process_runs, repository, wait_until};

/// The stand-in for OpenClaw.
fn fake() -> PathBuf {
    repository().join("tests/fixtures/openclaw.sh")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Three nodes of which only the last has an agent.
fn mesh_with(args: &[&str]) -> Mesh {
    let fake = fake();
    let own = ["--agent-path", text(&fake)].into_iter().chain(args.iter().copied());
    let mesh = Mesh::of(3).args(["--slots", "2"]).node_args(2, own).start();
    agent_is(&mesh[1], "n2", "openclaw");
    mesh
}

/// Waits until the node sees that agent on the other one.
fn agent_is(asked: &Node, node: &str, agent: &str) {
    wait_until(&format!("{} sees '{agent}' on {node}", asked.name()), LONG, || {
        let all = asked.get("/api/v1/nodes")?;
        let one = all.as_array().and_then(|a| a.iter().find(|m| m["name"] == node).cloned()).ok_or("it is not listed")?;
        if one["agent"] == agent { Ok(()) } else { Err(one["agent"].to_string()) }
    });
}

/// Submits a prompt and does not wait.
fn asked(node: &Node, args: &[&str]) -> String {
    node.command(["ask", "--id-only"]).args(args).run().ok().out().trim().to_owned()
}

fn verdict(node: &Node, id: &str, on: &str) -> String {
    let e = node.json(["tasks", "explain", id]);
    let all = e["nodes"].as_array().cloned().unwrap_or_default();
    let one = all.iter().find(|n| n["name"] == on).cloned().unwrap_or_default();
    one["reason"].as_str().unwrap_or_default().to_owned()
}

/// Waits until a placement verdict says this.
fn says(node: &Node, id: &str, on: &str, wanted: &str) {
    wait_until(&format!("explain says of {on}: {wanted}"), LONG, || {
        let said = verdict(node, id, on);
        if said.contains(wanted) { Ok(()) } else { Err(said) }
    });
}

fn agent_skill(dir: &Path, name: &str) {
    let dir = dir.join(name);
    fs::create_dir_all(&dir).expect("a folder can be made");
    let body = format!("---\nname: {name}\ndescription: knows a word\n---\n\nthe secret word is mango\n");
    fs::write(dir.join("SKILL.md"), body).expect("a file can be written");
}

#[test]
fn a_prompt_is_answered_by_the_one_node_that_has_an_agent() {
    let mesh = mesh_with(&[]);
    mesh[1].cli(["ask", "SAY: hello from afar"]).ok().stdout_is("hello from afar\n");
    let task = mesh[0].tasks("completed").expect("a list").remove(0);
    let id = task["id"].as_str().expect("an id");
    assert_eq!((&task["kind"], &task["title"]), (&"prompt".into(), &"SAY: hello from afar".into()), "{task}");
    assert_eq!(task["attempts"][0]["name"], "n2", "{task}");
    mesh[0].cli(["tasks", "show", id]).ok().stdout_has(&["answered by openclaw with fake/fake-1: 11 tokens in, 7 out, 1 call of a tool"]);
    let usage = &mesh[1].json(["tasks", "result", id])["output"]["usage"];
    assert_eq!((&usage["total_tokens"], &usage["tool_calls"], &usage["model"]), (&18.into(), &1.into(), &"fake-1".into()), "{usage}");
    // The agent's notes are in the log; its envelope is nowhere.
    let log = mesh[0].cli(["tasks", "logs", id]).ok();
    assert!(log.err().contains("a note on the way") && !log.out().contains("payloads"), "{}", log.told());

    let end = mesh[1].json(["ask", "SAY: as JSON", "--wait"]);
    assert_eq!((&end["state"], &end["output"]["stdout"]), (&"completed".into(), &"as JSON".into()), "{end}");
    mesh[0].command(["ask", "-"]).stdin("SAY: typed\n").run().ok().stdout_is("typed\n");
    let long = format!("SIZE:\n{}", "x".repeat(3 << 20));
    mesh[0].command(["ask", "-"]).stdin(long.clone()).run().ok().stdout_is(&format!("{}\n", long.len()));
    let later = asked(&mesh[2], &["SAY: later"]);
    mesh[1].cli(["tasks", "wait", &later]).ok();
    mesh[1].cli(["tasks", "result", &later]).ok().stdout_has(&["later"]);

    mesh[1].cli(["ask", " "]).exits(2).stderr_has(&["the prompt is empty"]);
    mesh[1].command(["ask", "-"]).stdin("y".repeat(9 << 20)).run().exits(2).stderr_has(&["cap"]);
    mesh[1].command(["ask", "-"]).stdin(vec![0xff, 0xfe]).run().exits(2).stderr_has(&["not UTF-8"]);
    // What a node says of itself is up to some seconds old.
    wait_until("the slot is seen to be free", LONG, || {
        let said = mesh[1].cli(["nodes"]).ok();
        if ["AGENT", "openclaw 0/1", "none"].iter().all(|w| said.out().contains(w)) { Ok(()) } else { Err(said.told()) }
    });
}

#[test]
fn an_agent_gets_its_own_variables_and_none_of_another_agent() {
    let fake = fake();
    let config = repository().join("Cargo.toml");
    let args = ["--agent-path", text(&fake), "--agent-env", "FAKE_KEY", "--openclaw-config", text(&config)];
    let mesh = Mesh::of(1).node_args(0, args);
    let mesh = mesh.node_env(0, "FAKE_KEY", "k").node_env(0, "FAKE_SECRET", "s").node_env(0, "OPENCLAW_SHELL", "exec").start();
    agent_is(&mesh[0], "n0", "openclaw");
    let said = mesh[0].cli(["ask", "ENV:", "--timeout", "1500ms", "--env", "OPENCLAW_SHELL=exec"]).ok();
    said.stdout_is(&format!("shell=none key=k secret=none limit=2 config={}\n", config.display()));
    let said = mesh[0].cli(["ask", "ENV:"]).ok();
    assert!(said.out().contains("limit=600 "), "OpenClaw's own default: {}", said.told());
}

#[test]
fn failures_of_agents_are_told_apart() {
    let mesh = mesh_with(&[]);
    for (prompt, code, why) in [
        ("FAIL: HTTP 500", 1, "the agent failed: HTTP 500 (exception)"),
        ("TIMEOUT:", 124, "the agent ran into its timeout of 10m"),
        ("OLDNODE:", 1, "needs a newer Node.js than the one it finds on this node: openclaw: Node 20.20.2"),
        ("PLAIN: hello", 1, "the agent's standard output is no envelope"),
        ("EXIT: 0", 1, "the agent wrote no envelope to its standard output; it ended with exit code 0"),
        ("EXIT: 9", 1, "the agent wrote no envelope to its standard output; it exited with code 9"),
    ] {
        mesh[1].cli(["ask", prompt]).exits(code).stderr_has(&[why]).stdout_is("");
    }
    let states = |s: &str| mesh[0].tasks(s).expect("a list").len();
    assert_eq!((states("failed"), states("timeout")), (5, 1));
    // The retry policy is that of any task.
    let end = mesh[1].command(["--json", "ask", "FAIL: again", "--retries", "1", "--backoff", "50ms"]).run().exits(1).json();
    let task = mesh[0].task(end["id"].as_str().expect("an id")).expect("the task");
    assert_eq!(task["attempts"].as_array().map(Vec::len), Some(2), "{task}");
}

#[test]
fn an_agent_that_writes_a_gigabyte_costs_little_and_says_so() {
    let mesh = mesh_with(&[]);
    mesh[1].cli(["ask", "NOISE: 1000000000"]).exits(1).stdout_is("").stderr_has(&["wrote more than 4.0 MiB", "there is no answer"]);
    peak_is_small(&mesh[2]);
    let plain = ["--agent-arg", "sh", "--agent-arg", "-c", "--agent-arg", "cat >&2; head -c 1000000000 /dev/zero"];
    let other = Mesh::of(1).node_args(0, plain).start();
    agent_is(&other[0], "n0", "sh");
    let end = other[0].json(["ask", "make noise"]);
    assert_eq!(end["reason"], "answered by sh with 1000000000 bytes, of which 1048576 are kept");
    assert_eq!(end["output"]["stdout_cut"], 1_000_000_000 - 1_048_576);
    assert_eq!(end["output"]["stderr"], "make noise", "the prompt came on stdin");
    peak_is_small(&other[0]);
}

/// The node has never held more than a fraction of what the agent wrote.
#[track_caller]
fn peak_is_small(node: &Node) {
    let pid = node.pid().expect("it runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process has a status");
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    assert!(peak.is_some_and(|kib| kib < 400 << 10), "the highest use of memory: {peak:?} KiB");
}

#[test]
fn a_skill_without_a_command_is_followed_by_an_agent() {
    let skills = tempfile::tempdir().expect("a directory");
    agent_skill(skills.path(), "fruit");
    let mesh = mesh_with(&["--skills", text(skills.path())]);
    // Also where the skill is, but no agent.
    let lone = mesh[1].home().join("skills");
    agent_skill(&lone, "fruit");
    wait_until("both nodes offer the skill", LONG, || {
        let all = mesh[0].get("/api/v1/skills")?;
        let nodes = all[0]["nodes"].as_array().map_or(0, Vec::len);
        if nodes == 2 { Ok(()) } else { Err(all.to_string()) }
    });
    let said = mesh[1].cli(["ask", "SKILL: fruit", "--skill", "fruit"]).ok();
    said.stdout_is("$fruit mango\n");
    let task = mesh[1].tasks("").expect("a list").remove(0);
    assert_eq!((&task["kind"], &task["skill"]), (&"prompt".into(), &"fruit".into()));
    let input = "SKILL: fruit";
    let end = mesh[0].json(["submit", "fruit", "--input-text", input, "--wait"]);
    assert_eq!((&end["state"], &end["output"]["stdout"]), (&"completed".into(), &"$fruit mango".into()), "{end}");
    let id = end["id"].as_str().expect("an id");
    says(&mesh[0], id, "n1", "only an agent can use it, and it has none");
    mesh[0].cli(["ask", "x", "--skill", "vegetable"]).exits(1).stderr_has(&["vegetable"]);
    mesh[0].cli(["ask", "x", "--skill", "echo"]).exits(2).stderr_has(&["builtin"]);
}

#[test]
fn a_skill_that_vanishes_while_its_task_waits_costs_the_task_nothing() {
    let skills = tempfile::tempdir().expect("a directory");
    agent_skill(skills.path(), "fruit");
    let mesh = mesh_with(&["--skills", text(skills.path())]);
    let gate = Gate::new(mesh.dir(), "gate");
    let first = asked(&mesh[1], &[&format!("GATE: {}\nSAY: first", text(&mesh.dir().join("gate")))]);
    mesh[1].task_until(&first, "running", LONG);
    let second = asked(&mesh[1], &["SKILL: fruit", "--skill", "fruit"]);
    says(&mesh[0], &second, "n2", "all 1 agent slots are taken");
    fs::remove_dir_all(skills.path().join("fruit")).expect("the folder can be removed");
    says(&mesh[0], &second, "n2", "does not have the skill 'fruit'");
    gate.open();
    mesh[1].task_until(&first, "completed", LONG);
    let task = mesh[0].task(&second).expect("the task");
    assert_eq!((&task["state"], task["attempts"].as_array().map(Vec::len)), (&"pending".into(), Some(0)), "{task}");
    assert!(task["reason"].as_str().is_some_and(|r| r.contains("has an agent and the skill 'fruit'")), "{task}");
    agent_skill(skills.path(), "fruit");
    mesh[1].task_until(&second, "completed", LONG);
}

#[test]
fn agents_have_slots_of_their_own_and_a_cancelled_one_ends_with_its_children() {
    let mesh = mesh_with(&[]);
    let gate = mesh.dir().join("never");
    let waits = format!("GATE: {}\nSAY: x", text(&gate));
    let first = mesh[1].command(["ask", &waits]).spawn();
    let running = wait_until("the first prompt runs", LONG, || {
        let tasks = mesh[1].tasks("running")?;
        tasks.first().and_then(|t| t["id"].as_str()).map(str::to_owned).ok_or_else(|| "nothing runs".to_owned())
    });
    let second = asked(&mesh[0], &["SAY: second"]);
    says(&mesh[1], &second, "n2", "all 1 agent slots are taken");
    says(&mesh[1], &second, "n1", "the node has no agent");
    wait_until("Prometheus sees the slots", LONG, || {
        let seen = |node: &Node| (node.metric("clawmesh_slots", "agent"), node.metric("clawmesh_slots_taken", "agent"));
        let all = (seen(&mesh[1]), seen(&mesh[2]), mesh[2].metric("clawmesh_slots", "task"));
        if all == ((0.0, 0.0), (1.0, 1.0), 2.0) { Ok(()) } else { Err(format!("{all:?}")) }
    });
    // Commands are not held up by agents, nor the other way round.
    mesh[0].cli(["run", "--node", "n2", "--", "echo", "hi"]).ok().stdout_is("hi\n");
    let children = children_of(mesh[2].pid().expect("it runs"));
    assert!(!children.is_empty());
    mesh[0].cli(["tasks", "cancel", &running]).ok();
    let said = first.end(LONG).exits(130);
    assert!(said.err().contains("was cancelled"), "{}", said.told());
    wait_until("no process of it is left", LONG, || {
        let left: Vec<_> = children.iter().filter(|p| process_runs(**p)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    mesh[0].task_until(&second, "completed", LONG);
}

fn children_of(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process has tasks");
    let of = |t: fs::DirEntry| fs::read_to_string(t.path().join("children")).unwrap_or_default();
    tasks.flatten().map(of).flat_map(|c| c.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<u32>>()).collect()
}

#[test]
fn who_refuses_commands_refuses_agents_too_unless_told_otherwise() {
    let fake = fake();
    let path = ["--agent-path", text(&fake)];
    let with = |more: &[&str]| path.iter().copied().chain(more.iter().copied()).map(str::to_owned).collect::<Vec<_>>();
    let mesh = Mesh::of(3)
        .node_args(0, with(&["--no-commands"]))
        .node_args(1, with(&["--no-commands", "--agents"]))
        .node_args(2, with(&["--no-agents"]))
        .start();
    agent_is(&mesh[0], "n1", "openclaw");
    for node in ["n0", "n2"] {
        agent_is(&mesh[1], node, "");
    }
    mesh[0].cli(["ask", "SAY: only there"]).ok().stdout_is("only there\n");
    let pinned = asked(&mesh[0], &["SAY: not here", "--node", "n0"]);
    says(&mesh[1], &pinned, "n0", "refuses agents (--no-agents)");
    let bare = Cli::bare(mesh.dir());
    bare.args(["up", "--agents", "--no-agents"]).run().exits(2).stderr_has(&["cannot be used with"]);
    let bare = Cli::bare(mesh.dir());
    bare.args(["up", "--openclaw-config", "/no/such/file"]).run().exits(2).stderr_has(&["is not a file"]);
}

#[test]
fn an_agent_that_appears_or_goes_changes_what_the_mesh_offers() {
    let bin = tempfile::tempdir().expect("a directory");
    let path = format!("{}:{}", text(bin.path()), std::env::var("PATH").unwrap_or_default());
    let mesh =
        Mesh::of(2).args(["--agent-arg", "clawmesh-test-agent", "--agent-arg", "--file={prompt_file}"]).node_env(1, "PATH", &path).start();
    let said = mesh[0].cli(["ask", "anybody?", "--wait-timeout", "1s"]).exits(4);
    assert!(said.err().contains("no reachable node has an agent now"), "{}", said.told());
    let id = asked(&mesh[0], &["who are you?"]);
    says(&mesh[0], &id, "n1", "the node has no agent");
    let program = bin.path().join("clawmesh-test-agent");
    let body = "#!/bin/sh\n[ -z \"$(cat)\" ] || exit 3\nprintf 'I read: '; cat \"${1#--file=}\"\n";
    fs::write(&program, body).expect("a file can be written");
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it can be made executable");
    mesh[0].task_until(&id, "completed", LONG);
    let end = mesh[0].json(["tasks", "result", &id]);
    assert_eq!(end["output"]["stdout"], "I read: who are you?", "{end}");
    assert_eq!(end["task"]["reason"], "answered by clawmesh-test-agent");
    fs::remove_file(&program).expect("it can be removed");
    agent_is(&mesh[0], "n1", "");
    let id = asked(&mesh[0], &["and now?"]);
    holds_for("the prompt waits", Duration::from_secs(1), || {
        let task = mesh[0].task(&id)?;
        if task["state"] == "pending" { Ok(()) } else { Err(task.to_string()) }
    });
}

#[test]
fn a_worker_that_dies_during_a_prompt_does_what_the_task_says() {
    let mesh = mesh_with(&[]);
    let gate = Gate::new(mesh.dir(), "gate");
    let waits = format!("GATE: {}\nSAY: at last", text(&mesh.dir().join("gate")));
    let again = asked(&mesh[1], &[&waits]);
    mesh[1].task_until(&again, "running", LONG);
    mesh[2].kill();
    clawmesh_tests::end_strays(mesh.dir());
    mesh[2].start();
    gate.open();
    let task = mesh[1].task_until(&again, "completed", LONG);
    let ends: Vec<&str> = task["attempts"].as_array().into_iter().flatten().filter_map(|a| a["state"].as_str()).collect();
    assert_eq!((ends.len(), ends.last()), (2, Some(&"completed")), "{task}");

    let once = Gate::new(mesh.dir(), "once");
    let waits = format!("GATE: {}\nSAY: never", text(&mesh.dir().join("once")));
    let given_up = asked(&mesh[1], &[&waits, "--node", "n2", "--at-most-once"]);
    mesh[1].task_until(&given_up, "running", LONG);
    mesh[2].kill();
    clawmesh_tests::end_strays(mesh.dir());
    mesh[2].start();
    let task: Value = mesh[1].task_until(&given_up, "failed", LONG);
    assert!(task["reason"].as_str().is_some_and(|r| r.contains("unknown")), "{task}");
    once.open();
}
