//! `clawmesh mcp`: what an agent sees of a real mesh, by stdin and stdout and by HTTP.

use std::{
    io::{BufRead, BufReader},
    time::{Duration, Instant},
};

use clawmesh_tests::{Cli, Gate, LONG, Mcp, Mesh, SHORT, Value, json, raw_exchange, repository, wait_until};

const LATEST: &str = "2025-11-25";
const TOOLS: [&str; 8] = ["submit", "wait", "status", "result", "cancel", "list_nodes", "list_skills", "run_skill"];

/// Three nodes; only the last has the sample skills.
fn mesh() -> Mesh {
    let skills = repository().join("deploy/skills");
    let mesh = Mesh::of(3).args(["--slots", "4"]).node_args(2, ["--skills", skills.to_str().expect("a path in UTF-8")]).start();
    wait_until("the first node knows the skills of the last", LONG, || {
        let skills = mesh[0].get("/api/v1/skills")?;
        if skills.to_string().contains("word-count") { Ok(()) } else { Err(skills.to_string()) }
    });
    mesh
}

fn names(tools: &Value) -> Vec<String> {
    tools["tools"].as_array().expect("tools").iter().map(|t| t["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn an_agent_works_with_the_mesh_by_tools() {
    let mesh = mesh();
    let (mut mcp, hello) = Mcp::hello(mesh[0].home(), LATEST);
    assert_eq!(hello["serverInfo"]["name"], "clawmesh", "{hello}");
    assert!(hello["instructions"].as_str().is_some_and(|i| i.contains("wait")), "{hello}");
    let tools = mcp.ask("tools/list", json!({}))["result"].clone();
    assert_eq!(names(&tools), TOOLS);
    let tool = |name: &str| tools["tools"].as_array().and_then(|all| all.iter().find(|t| t["name"] == name).cloned()).expect("a tool");
    assert_eq!(
        (&tool("wait")["annotations"]["readOnlyHint"], &tool("submit")["annotations"]["readOnlyHint"]),
        (&json!(true), &json!(false))
    );

    let nodes = mcp.good("list_nodes", json!({ "online_only": true }));
    assert_eq!(nodes["total"], 3, "{nodes}");
    let skills = mcp.good("list_skills", json!({ "query": "WORD frequent" }));
    assert_eq!(
        (&skills["total"], &skills["skills"][0]["name"], &skills["skills"][0]["nodes"]),
        (&json!(1), &json!("word-count"), &json!(["n2"]))
    );
    let status = mcp.good("status", json!({}));
    assert_eq!((&status["mesh"]["node"], &status["mesh"]["nodes_online"]), (&json!("n0"), &json!(3)), "{status}");

    let done = mcp.good("submit", json!({ "command": ["sh", "-c", "echo out; echo err >&2; exit 3"], "node": "n1", "wait_seconds": 40 }));
    assert_eq!((&done["state"], &done["exit_code"], &done["node"]), (&json!("failed"), &json!(3), &json!("n1")), "{done}");
    assert_eq!((&done["stdout"]["text"], &done["stderr"]["text"]), (&json!("out\n"), &json!("err\n")), "{done}");

    let counted = mcp.good("run_skill", json!({ "skill": "word-count", "input_text": "to be or not to be" }));
    assert_eq!((&counted["state"], &counted["node"]), (&json!("completed"), &json!("n2")), "{counted}");
    let words: Value = serde_json::from_str(counted["stdout"]["text"].as_str().expect("a text")).expect("JSON");
    assert_eq!(words["words"], 6, "{words}");
    let echoed = mcp.good("run_skill", json!({ "skill": "echo", "input": { "a": [1, null] } }));
    assert_eq!(echoed["stdout"]["text"], "{\"a\":[1,null]}", "{echoed}");
    drop(mcp.good("result", json!({ "task": echoed["task"] })));
    assert!(mcp.close(SHORT).success());
}

#[test]
fn an_agent_asks_an_agent_on_another_machine() {
    let stand_in = repository().join("tests/fixtures/openclaw.sh");
    let agent = ["--agent-path", stand_in.to_str().expect("a path in UTF-8")];
    let mesh = Mesh::of(2).node_args(1, agent).start();
    wait_until("the first node knows the agent of the other", LONG, || {
        let all = mesh[0].get("/api/v1/nodes")?;
        if all.to_string().contains("\"agent\":\"openclaw\"") { Ok(()) } else { Err(all.to_string()) }
    });
    let (mut mcp, _) = Mcp::hello(mesh[0].home(), LATEST);
    let answered = mcp.good("submit", json!({ "prompt": "SAY: hello from afar", "wait_seconds": 40 }));
    assert_eq!((&answered["state"], &answered["node"]), (&json!("completed"), &json!("n1")), "{answered}");
    assert_eq!(answered["stdout"]["text"], "hello from afar", "{answered}");
    let failed = mcp.good("submit", json!({ "prompt": "FAIL: the model is not there", "wait_seconds": 40 }));
    assert_eq!(failed["state"], "failed", "{failed}");
    let unknown = mcp.bad("submit", json!({ "prompt": "SAY: x", "skill": "nobody-has-it" }));
    assert!(unknown.contains("nobody-has-it"), "{unknown}");
}

#[test]
fn long_work_goes_by_its_id() {
    let mesh = mesh();
    let (mut mcp, _) = Mcp::hello(mesh[1].home(), LATEST);
    let gate = Gate::new(mesh.dir(), "gate");
    let script = format!("echo begun; {}; echo done", gate.wait());
    let task = json!({ "command": ["sh", "-c", script], "node": "n2", "key": "monday" });
    let begun = mcp.good("submit", task.clone());
    let id = begun["task"].as_str().expect("an id").to_owned();
    assert!(begun["ended"] == false && begun["next"].as_str().is_some_and(|n| n.contains("wait")), "{begun}");
    assert_eq!(mcp.good("submit", task)["task"], id.as_str(), "the same key joins the task that is there");

    let waited = mcp.good("wait", json!({ "task": id, "wait_seconds": 0.5 }));
    assert_eq!((&waited["still_running"], &waited["ended"]), (&json!([id]), &json!([])), "{waited}");
    assert!(waited["next"].as_str().is_some_and(|n| n.contains("call wait again")), "{waited}");
    // What it wrote so far is there before its end.
    wait_until("the running task's output is shown", LONG, || {
        let so_far = mcp.good("result", json!({ "task": id }));
        if so_far["state"] == "running" && so_far["stdout"]["text"] == "begun\n" { Ok(()) } else { Err(so_far.to_string()) }
    });
    let status = mcp.good("status", json!({ "task": id }));
    assert_eq!((&status["task"]["state"], &status["task"]["node"]), (&json!("running"), &json!("n2")), "{status}");

    // Others are answered while somebody waits, and the one who waits hears that it is alive.
    let params = json!({ "name": "wait", "arguments": { "task": id }, "_meta": { "progressToken": "p" } });
    let waiting = mcp.begin("tools/call", params);
    let other = mcp.good("submit", json!({ "skill": "sleep", "input": 3600 }));
    let cancelled = mcp.good("cancel", json!({ "task": other["task"] }));
    assert_eq!(cancelled["task"], other["task"]);
    wait_until("progress is told", LONG, || {
        let told = mcp.message();
        if told["method"] == "notifications/progress" && told["params"]["progressToken"] == "p" { Ok(()) } else { Err(told.to_string()) }
    });
    gate.open();
    let waited = mcp.answer(waiting)["result"]["structuredContent"].clone();
    assert_eq!(
        (&waited["ended"][0]["state"], &waited["ended"][0]["stdout"]["text"]),
        (&json!("completed"), &json!("begun\ndone\n")),
        "{waited}"
    );
    let both = mcp.good("wait", json!({ "tasks": [id, other["task"]] }));
    assert_eq!(both["ended"].as_array().map(Vec::len), Some(2), "{both}");
    assert!(both.to_string().contains("cancelled"), "{both}");
}

#[test]
fn clients_of_every_version_are_served() {
    let mesh = Mesh::start(1);
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", LATEST] {
        let (mut mcp, hello) = Mcp::hello(mesh[0].home(), version);
        assert_eq!(hello["protocolVersion"], version, "{hello}");
        assert_eq!(names(&mcp.ask("tools/list", json!({}))["result"]), TOOLS, "{version}");
        let done = mcp.good("run_skill", json!({ "skill": "echo", "input": version }));
        assert_eq!(done["stdout"]["text"], format!("\"{version}\""));
    }
    let (_, old) = Mcp::hello(mesh[0].home(), "1999-01-01");
    assert_eq!(old["protocolVersion"], LATEST, "an unknown version is answered with one that is spoken: {old}");
    let mut modern = Mcp::modern(mesh[0].home(), json!({}));
    let found = modern.ask("server/discover", json!({}))["result"].clone();
    assert!(found["supportedVersions"].as_array().is_some_and(|v| v.contains(&json!("2026-07-28"))), "{found}");
    assert_eq!(names(&modern.ask("tools/list", json!({}))["result"]), TOOLS);
    let done = modern.call("run_skill", json!({ "skill": "echo", "input": 1 }));
    assert_eq!((&done["structuredContent"]["state"], &done["resultType"]), (&json!("completed"), &json!("complete")), "{done}");
}

#[test]
fn mistakes_are_told_with_the_next_step() {
    let mesh = mesh();
    let (mut mcp, _) = Mcp::hello(mesh[0].home(), LATEST);
    for (tool, arguments, words) in [
        ("submit", json!({}), "give command, skill or prompt"),
        ("submit", json!({ "command": "ls -l" }), "invalid type: string"),
        ("submit", json!({ "command": ["true"], "when": "now" }), "unknown field `when`"),
        ("submit", json!({ "command": [] }), "invalid"),
        ("submit", json!({ "command": ["true"], "node": "nowhere" }), "nowhere"),
        ("submit", json!({ "command": ["true"], "priority": "soon" }), "priority"),
        ("submit", json!({ "command": ["true"], "wait_seconds": 600 }), "0 to 45"),
        ("run_skill", json!({ "skill": "wrod-count", "input_text": "x" }), "perhaps meant: word-count"),
        ("run_skill", json!({ "input": 1 }), "missing field `skill`"),
        ("wait", json!({}), "no task was named"),
        ("wait", json!({ "task": "tzzzzzzzzzzzzzzzz" }), "no task has the id"),
        ("status", json!({ "task": "tzzzzzzzzzzzzzzzz" }), "clawmesh tasks ls"),
        ("result", json!({ "task": "../../etc" }), "no task"),
        ("result", json!({ "task": "t", "max_bytes": 0 }), "max_bytes"),
        ("result", json!({ "task": 7 }), "invalid type"),
        ("cancel", json!({ "task": " " }), "no task was named"),
        ("list_skills", json!({ "limit": 0 }), "1 to 200"),
    ] {
        let told = mcp.bad(tool, arguments.clone());
        assert!(told.contains(words), "{tool} {arguments}: {told}");
    }
    let unknown = mcp.ask("tools/call", json!({ "name": "format_disk", "arguments": {} }));
    assert!(unknown["error"]["message"].as_str().is_some_and(|m| m.contains("format_disk") && m.contains("submit")), "{unknown}");
    let unknown = mcp.ask("no/such/method", json!({}));
    assert_eq!(unknown["error"]["code"], -32601, "{unknown}");
}

#[test]
fn frames_that_are_no_messages_do_no_harm() {
    let mesh = Mesh::start(1);
    // Before the acquaintance, too.
    let mut first = Mcp::start(mesh[0].home());
    first.raw(b"\xff\xfe{{{\n\n[]\n");
    let early = first.ask("tools/list", json!({}));
    assert!(early["error"].is_object() || early["id"].is_null(), "{early}");

    let (mut mcp, _) = Mcp::hello(mesh[0].home(), LATEST);
    let deep = format!("{}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let long = format!("{{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"ping\",\"params\":{{\"x\":\"{}\"}}}}\n", "x".repeat(17 << 20));
    for frame in [b"not json\n".as_slice(), b"\0\x01\xff\n", b"\r\n", deep.as_bytes(), long.as_bytes(), b"{\"jsonrpc\":\"1.0\"}\n", b"42\n"]
    {
        mcp.raw(frame);
    }
    for odd in [json!({ "name": 5 }), json!({ "name": "submit", "arguments": [1] }), json!(null), json!([])] {
        mcp.send(&json!({ "jsonrpc": "2.0", "id": 1000, "method": "tools/call", "params": odd }));
    }
    mcp.send(&json!({ "jsonrpc": "2.0", "id": 1001, "method": "ping" }));
    // Whatever is said to the garbage, the answer to the question behind it comes.
    wait_until("the ping behind the garbage is answered", LONG, || {
        let message = mcp.message();
        assert!(message["error"].is_object() || message["id"] == 1001 || message["id"] == 1000, "{message}");
        if message["id"] == 1001 { Ok(()) } else { Err(message.to_string()) }
    });
    assert!(mcp.close(SHORT).success());
}

#[test]
fn without_a_node_the_tools_say_what_to_type() {
    let mut mesh = Mesh::of(2).start();
    let nowhere = mesh.dir().join("nobody");
    let (mut mcp, _) = Mcp::hello(&nowhere, LATEST);
    assert_eq!(names(&mcp.ask("tools/list", json!({}))["result"]), TOOLS);
    for (tool, arguments) in [
        ("submit", json!({ "command": ["true"] })),
        ("wait", json!({ "task": "t1" })),
        ("status", json!({})),
        ("result", json!({ "task": "t1" })),
        ("cancel", json!({ "task": "t1" })),
        ("list_nodes", json!({})),
        ("list_skills", json!({})),
        ("run_skill", json!({ "skill": "echo" })),
    ] {
        let begin = Instant::now();
        let told = mcp.bad(tool, arguments);
        assert!(told.contains("no node is running") && told.contains("clawmesh up"), "{tool}: {told}");
        assert!(begin.elapsed() < SHORT, "{tool} says so at once");
    }

    // The node dies and comes back while somebody waits; the task runs elsewhere all the time.
    let (mut mcp, _) = Mcp::hello(mesh[1].home(), LATEST);
    let gate = Gate::new(mesh.dir(), "gate");
    let task = json!({ "command": ["sh", "-c", format!("{}; echo survived", gate.wait())], "node": "n0" });
    let id = mcp.good("submit", task)["task"].as_str().expect("an id").to_owned();
    mesh[1].task_until(&id, "running", LONG);
    let waiting = mcp.begin("tools/call", json!({ "name": "wait", "arguments": { "task": id } }));
    mcp.good("list_nodes", json!({}));
    mesh[1].kill();
    let told = mcp.bad("status", json!({ "task": id }));
    assert!(told.contains("clawmesh up"), "{told}");
    mesh[1].start();
    gate.open();
    let waited = mcp.answer(waiting)["result"]["structuredContent"].clone();
    assert_eq!(waited["ended"][0]["stdout"]["text"], "survived\n", "{waited}");
    mesh.add(|n| n);
}

#[test]
fn a_takeover_in_the_middle_costs_an_agent_no_task() {
    let mesh = Mesh::start(3);
    let (mut mcp, _) = Mcp::hello(mesh[2].home(), LATEST);
    let task = |n: usize| json!({ "command": ["echo", format!("task {n}")], "key": format!("n{n}"), "wait_seconds": 45 });
    mcp.good("submit", task(0));
    let coordinator = mesh.coordinator().name().to_owned();
    let waiting: Vec<u64> = (1..9)
        .map(|n| {
            if n == 4 {
                mesh.by_id(&coordinator).kill();
            }
            mcp.begin("tools/call", json!({ "name": "submit", "arguments": task(n) }))
        })
        .collect();
    for (n, id) in waiting.into_iter().enumerate().map(|(i, id)| (i + 1, id)) {
        let mut answer = mcp.answer(id)["result"].clone();
        if answer["isError"] == true {
            // What an agent is told to do then.
            assert!(answer["content"][0]["text"].as_str().is_some_and(|t| t.contains(&format!("with key 'n{n}'"))), "{answer}");
            answer = mcp.call("submit", task(n));
        }
        let id = answer["structuredContent"]["task"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        // A task that was given to the dead node is run again when that counts as lost, a minute later.
        if answer["structuredContent"]["ended"] == true {
            assert_eq!(answer["structuredContent"]["stdout"]["text"], format!("task {n}\n"), "{answer}");
        } else {
            drop(mcp.good("status", json!({ "task": id })));
        }
    }
    let all = mesh[2].tasks("").expect("a list");
    assert_eq!(all.len(), 9, "each key made one task: {all:?}");
}

#[test]
fn a_node_that_does_not_answer_holds_no_call_up() {
    let mesh = Mesh::start(1);
    let (mut mcp, _) = Mcp::hello(mesh[0].home(), LATEST);
    let id = mcp.good("submit", json!({ "skill": "sleep", "input": 3600 }))["task"].clone();
    mesh[0].pause();
    let begin = Instant::now();
    let calls = [
        ("status", json!({})),
        ("result", json!({ "task": id })),
        ("list_skills", json!({})),
        ("wait", json!({ "task": id })),
        ("submit", json!({ "command": ["true"], "key": "again" })),
    ];
    let asked: Vec<u64> =
        calls.iter().map(|(tool, arguments)| mcp.begin("tools/call", json!({ "name": tool, "arguments": arguments }))).collect();
    let answers: Vec<Value> = asked.into_iter().map(|id| mcp.answer(id)["result"].clone()).collect();
    assert!(begin.elapsed() < Duration::from_secs(50), "{:?}", begin.elapsed());
    mesh[0].resume();
    for ((tool, _), answer) in calls.iter().zip(&answers) {
        let text = answer["content"][0]["text"].as_str().expect("a text");
        let next = match *tool {
            "wait" => "call wait again",
            "submit" => "with key 'again'",
            _ => "call 'status'",
        };
        assert!(text.contains(next), "{tool}: {text}");
    }
}

#[test]
fn calls_at_once_are_bounded() {
    let mesh = Mesh::start(1);
    let (mut mcp, _) = Mcp::hello(mesh[0].home(), LATEST);
    let id = mcp.good("submit", json!({ "skill": "sleep", "input": 3600 }))["task"].clone();
    let wait = json!({ "name": "wait", "arguments": { "task": id, "wait_seconds": 3 } });
    let asked: Vec<u64> = (0..80).map(|_| mcp.begin("tools/call", wait.clone())).collect();
    let answers: Vec<Value> = asked.into_iter().map(|id| mcp.answer(id)["result"].clone()).collect();
    let busy = answers.iter().filter(|a| a["_meta"]["dev.clawmesh/error"]["code"] == "busy").count();
    assert!((1..=16).contains(&busy), "{busy} of 80 were told that too many calls are under way");
    assert!(answers.iter().filter(|a| a["isError"] != true).all(|a| a["structuredContent"]["still_running"] == json!([id])));
}

#[test]
fn huge_output_comes_in_parts() {
    let mesh = Mesh::of(2).start();
    let (mut mcp, _) = Mcp::hello(mesh[0].home(), LATEST);
    let script = "i=0; while [ $i -lt 60000 ]; do echo \"line $i äöü\"; i=$((i+1)); done";
    let done = mcp.call("submit", json!({ "command": ["sh", "-c", script], "node": "n1", "wait_seconds": 45 }));
    let answered = done.to_string().len();
    assert!(answered < 100_000, "{answered} bytes in one answer");
    let report = &done["structuredContent"];
    let (kept, lost) = (report["stdout"]["bytes"].as_u64().unwrap_or(0), report["stdout"]["lost"].as_u64().unwrap_or(0));
    assert!(report["stdout"]["truncated"] == true && kept > 500_000 && lost > 0, "{kept} kept, {lost} lost");
    let text = report["stdout"]["text"].as_str().expect("a text");
    assert!(text.starts_with("line 0 äöü\n") && text.contains("'result' with offset") && text.ends_with("line 59999 äöü\n"));

    // Part by part it is what the command line shows.
    let id = report["task"].as_str().expect("an id").to_owned();
    let (mut all, mut offset) = (String::new(), Some(json!(0)));
    while let Some(at) = offset {
        let part = mcp.good("result", json!({ "task": id, "offset": at, "max_bytes": 262_144 }))["stdout"].clone();
        all.push_str(part["text"].as_str().expect("a text"));
        offset = part.get("next_offset").cloned();
    }
    assert_eq!(all, mesh[0].cli(["tasks", "result", &id]).ok().out());
    let bytes = mcp.good("submit", json!({ "command": ["printf", "\\377\\000"], "wait_seconds": 40 }));
    assert_eq!(bytes["stdout"]["binary"], true, "{bytes}");
    let exact = mcp.good("result", json!({ "task": bytes["task"], "base64": true }));
    assert_eq!(exact["stdout"]["text"], "/wA=", "{exact}");
}

#[test]
fn a_client_that_knows_tasks_polls_a_call_as_one() {
    let mesh = Mesh::of(2).start();
    let tasks = json!({ "extensions": { "io.modelcontextprotocol/tasks": {} } });
    let mut mcp = Mcp::modern(mesh[0].home(), tasks.clone());
    let gate = Gate::new(mesh.dir(), "gate");
    let call = json!({ "command": ["sh", "-c", format!("{}; echo polled", gate.wait())] });
    let handle = mcp.call("submit", call);
    assert_eq!((&handle["resultType"], &handle["status"]), (&json!("task"), &json!("working")), "{handle}");
    let id = handle["taskId"].as_str().expect("an id").to_owned();
    assert!(
        id.starts_with('t') && handle["pollIntervalMs"].is_u64() && handle["createdAt"].as_str().is_some_and(|t| t.ends_with('Z')),
        "{handle}"
    );
    // It is the mesh's own task: another program, through another node, polls it as well.
    let mut other = Mcp::modern(mesh[1].home(), tasks);
    assert_eq!(other.ask("tasks/get", json!({ "taskId": id }))["result"]["status"], "working");
    gate.open();
    let done = wait_until("the task is completed", LONG, || {
        let now = other.ask("tasks/get", json!({ "taskId": id }))["result"].clone();
        if now["status"] == "completed" { Ok(now) } else { Err(now.to_string()) }
    });
    assert_eq!(done["result"]["structuredContent"]["stdout"]["text"], "polled\n", "{done}");

    let handle = mcp.call("run_skill", json!({ "skill": "sleep", "input": 3600, "wait_seconds": 0 }));
    let id = handle["taskId"].clone();
    let gone = mcp.ask("tasks/cancel", json!({ "taskId": id }));
    assert!(gone["result"].is_object(), "{gone}");
    wait_until("the task is cancelled", LONG, || {
        let now = mcp.ask("tasks/get", json!({ "taskId": id }))["result"].clone();
        if now["status"] == "cancelled" { Ok(()) } else { Err(now.to_string()) }
    });
    assert_eq!(mcp.ask("tasks/get", json!({ "taskId": "tzzzzzzzzzzzzzzzz" }))["error"]["code"], -32602);
    // What ends in time needs no task, and who does not know tasks gets none.
    assert_eq!(mcp.call("run_skill", json!({ "skill": "echo", "input": 1 }))["resultType"], "complete");
    let mut plain = Mcp::modern(mesh[0].home(), json!({}));
    assert_eq!(plain.call("submit", json!({ "skill": "sleep", "input": 1 }))["resultType"], "complete");
    assert!(plain.ask("tasks/get", json!({ "taskId": id }))["error"].is_object());
}

#[test]
fn the_same_by_http_for_who_has_the_token() {
    let mesh = Mesh::start(1);
    Cli::new(mesh[0].home(), None)
        .args(["mcp", "--http", "0.0.0.0:0"])
        .run()
        .exits(2)
        .stderr_has(&["not an address of this machine alone"]);
    Cli::new(&mesh.dir().join("nobody"), None).args(["mcp", "--http", "0"]).run().exits(3).stderr_has(&["clawmesh up"]);

    let mut serving = Cli::new(mesh[0].home(), None).args(["--quiet", "mcp", "--http", "127.0.0.1:0"]).spawn();
    let mut url = String::new();
    BufReader::new(serving.stdout()).read_line(&mut url).expect("it says where it listens");
    let addr: std::net::SocketAddr =
        url.trim().strip_prefix("http://").and_then(|u| u.strip_suffix("/mcp")).expect("a URL").parse().expect("an address");
    let token = mesh[0].token().expect("a token");
    let exchange = |headers: &str, body: &str| -> String {
        let request = format!(
            "POST /mcp HTTP/1.1\r\n{headers}Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        String::from_utf8_lossy(&raw_exchange(addr, request.as_bytes(), Duration::from_secs(30)).expect("an answer")).into_owned()
    };
    let ours = format!("Host: {addr}\r\nAuthorization: Bearer {token}\r\n");
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {} }).to_string();
    for (headers, status) in [
        (format!("Host: {addr}\r\n"), "401"),
        (format!("Host: {addr}\r\nAuthorization: Bearer wrong\r\n"), "401"),
        (format!("Host: evil.example\r\nAuthorization: Bearer {token}\r\n"), "403"),
        (format!("{ours}Origin: http://evil.example\r\n"), "403"),
    ] {
        let answer = exchange(&headers, &list);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && !answer.contains("run_skill"), "{headers}: {answer}");
    }
    let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": { "protocolVersion": LATEST, "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
    let answer = exchange(&ours, &hello.to_string());
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"clawmesh\""), "{answer}");
    let answer = exchange(&format!("{ours}MCP-Protocol-Version: {LATEST}\r\n"), &list);
    assert!(TOOLS.iter().all(|t| answer.contains(&format!("\"{t}\""))), "{answer}");
    let call = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "run_skill", "arguments": { "skill": "echo", "input": { "by": "http" } } } });
    let answer = exchange(&format!("{ours}MCP-Protocol-Version: {LATEST}\r\n"), &call.to_string());
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("completed") && answer.contains("by"), "{answer}");
    let answer = exchange(&ours, "{ no json");
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}
