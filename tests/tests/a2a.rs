//! Agent2Agent: a real mesh behind an agent card, as an agent of any make meets it.

use std::time::Duration;

use clawmesh_tests::{LONG, Mesh, Node, Value, json, raw_exchange, repository, wait_until};

fn mesh() -> Mesh {
    let skills = repository().join("deploy/skills");
    let mesh = Mesh::of(2).node_args(1, ["--skills", skills.to_str().expect("a path in UTF-8")]).start();
    wait_until("the first node knows the skills of the other", LONG, || {
        let skills = mesh[0].get("/api/v1/skills")?;
        if skills.to_string().contains("word-count") { Ok(()) } else { Err(skills.to_string()) }
    });
    mesh
}

fn rpc(node: &Node, method: &str, params: Value) -> Value {
    let asked = json!({ "jsonrpc": "2.0", "id": method, "method": method, "params": params });
    let answer = node.api("POST", "/a2a/v1", Some(&asked)).expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!(method)), "{answer}");
    answer
}

fn good(node: &Node, method: &str, params: Value) -> Value {
    let answer = rpc(node, method, params);
    assert!(answer["result"].is_object(), "{answer}");
    answer["result"].clone()
}

fn code(node: &Node, method: &str, params: Value) -> i64 {
    let answer = rpc(node, method, params);
    assert!(answer["error"]["message"].as_str().is_some_and(|m| m.len() > 10), "{answer}");
    answer["error"]["code"].as_i64().expect("a code")
}

#[test]
fn the_card_names_every_skill_of_the_mesh_and_needs_no_token() {
    let mesh = mesh();
    let card = mesh[0].request("GET", "/.well-known/agent-card.json", &[], None).expect("an answer");
    assert_eq!(card.status, 200, "{card:?}");
    let card = card.json();
    let at = &card["supportedInterfaces"][0];
    assert_eq!((&at["protocolBinding"], &at["protocolVersion"]), (&json!("JSONRPC"), &json!("1.0")), "{card}");
    assert_eq!(at["url"], format!("http://{}/a2a/v1", mesh[0].status().expect("a status")["api"].as_str().expect("an address")));
    let skills = card["skills"].as_array().expect("skills");
    for name in ["word-count", "file-digest", "data-summary"] {
        let one = skills.iter().find(|s| s["id"] == name).unwrap_or_else(|| panic!("{name} is not on the card: {card}"));
        assert!(one["description"].is_string() && one["tags"].as_array().is_some_and(|t| !t.is_empty()), "{one}");
    }
    assert_eq!(mesh[0].request("GET", "/.well-known/agent.json", &[], None).expect("an answer").json(), card);
    // Everything else needs the token, and a page of another site gets neither.
    assert_eq!(mesh[0].request("POST", "/a2a/v1", &[], Some(b"{}")).expect("an answer").status, 401);
    let asked = b"GET /.well-known/agent-card.json HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    let said = raw_exchange(mesh[0].api_addr().expect("an address"), asked, Duration::from_secs(20)).expect("an answer");
    assert!(said.starts_with(b"HTTP/1.1 403"), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn a_message_runs_a_skill_and_brings_its_output() {
    let mesh = mesh();
    let message = |id: &str| {
        json!({ "message": { "messageId": id, "contextId": "ctx.1", "role": "ROLE_USER", "parts": [{ "text": "to be or not to be" }],
        "metadata": { "skillId": "word-count" } } })
    };
    let task = good(&mesh[0], "SendMessage", message("m1"))["task"].clone();
    assert_eq!((&task["status"]["state"], &task["contextId"]), (&json!("TASK_STATE_COMPLETED"), &json!("ctx.1")), "{task}");
    assert_eq!(task["artifacts"][0]["parts"][0]["data"]["words"], 6, "{task}");
    assert!(task["status"]["timestamp"].as_str().is_some_and(|t| t.ends_with('Z')), "{task}");
    let id = task["id"].as_str().expect("an id");
    // It is a task of the mesh: every node knows it, and the conversation it belongs to.
    let same = good(&mesh[1], "GetTask", json!({ "id": id, "historyLength": 3 }));
    assert_eq!((&same["id"], &same["contextId"], &same["artifacts"]), (&task["id"], &task["contextId"], &task["artifacts"]), "{same}");
    // The same message twice is one task; another one is another.
    assert_eq!(good(&mesh[0], "SendMessage", message("m1"))["task"]["id"], id);
    assert_ne!(good(&mesh[0], "SendMessage", message("m2"))["task"]["id"], id);

    let spoken =
        good(&mesh[0], "SendMessage", json!({ "message": { "role": "ROLE_USER", "parts": [{ "text": "$echo {\"a\": 1}" }] } }))["task"]
            .clone();
    assert_eq!(spoken["artifacts"][0]["parts"][0]["data"], json!({ "a": 1 }), "{spoken}");
    let data = json!({ "message": { "role": "ROLE_USER", "parts": [{ "data": { "algorithm": "k_means", "rows": "none" } }] }, "metadata": { "skillId": "file-digest" } });
    let failed = good(&mesh[0], "SendMessage", data)["task"].clone();
    assert_eq!(failed["status"]["state"], "TASK_STATE_FAILED", "{failed}");
    assert!(failed["status"]["message"]["parts"][0]["text"].as_str().is_some_and(|t| t.contains("not absolute")), "{failed}");
}

#[test]
fn long_work_is_polled_and_cancelled() {
    let mesh = mesh();
    let send = |input: &str| {
        json!({ "message": { "messageId": input, "role": "ROLE_USER", "parts": [{ "text": input }], "metadata": { "skillId": "sleep", "node": "n1" } },
        "configuration": { "returnImmediately": true } })
    };
    let task = good(&mesh[0], "SendMessage", send("3600"))["task"].clone();
    assert!(["TASK_STATE_SUBMITTED", "TASK_STATE_WORKING"].iter().any(|s| task["status"]["state"] == *s), "{task}");
    let id = task["id"].clone();
    let until = |wanted: &str| {
        wait_until(&format!("the task is {wanted}"), LONG, || {
            let now = good(&mesh[1], "GetTask", json!({ "id": id }));
            if now["status"]["state"] == wanted { Ok(now) } else { Err(now.to_string()) }
        })
    };
    until("TASK_STATE_WORKING");
    good(&mesh[1], "CancelTask", json!({ "id": id }));
    until("TASK_STATE_CANCELED");
    let short = good(&mesh[0], "SendMessage", send("0"))["task"]["id"].clone();
    wait_until("the short task is done", LONG, || {
        let now = good(&mesh[0], "GetTask", json!({ "id": short }));
        if now["status"]["state"] == "TASK_STATE_COMPLETED" { Ok(()) } else { Err(now.to_string()) }
    });
    assert_eq!(code(&mesh[0], "CancelTask", json!({ "id": short })), -32002);
}

#[test]
fn clients_of_0_3_are_understood_and_answered_in_their_words() {
    let mesh = mesh();
    let message = json!({ "message": { "kind": "message", "messageId": "m", "role": "user", "parts": [{ "kind": "text", "text": "a b c" }] },
        "metadata": { "skillId": "word-count" }, "configuration": { "blocking": true } });
    let task = good(&mesh[0], "message/send", message);
    assert_eq!((&task["kind"], &task["status"]["state"]), (&json!("task"), &json!("completed")), "{task}");
    assert_eq!(
        (&task["artifacts"][0]["parts"][0]["kind"], &task["artifacts"][0]["parts"][0]["data"]["words"]),
        (&json!("data"), &json!(3)),
        "{task}"
    );
    assert_eq!(good(&mesh[0], "tasks/get", json!({ "id": task["id"] }))["status"]["state"], "completed");
}

#[test]
fn mistakes_are_answered_by_the_protocols_own_codes() {
    let mesh = mesh();
    let node = &mesh[0];
    let text = |t: &str| json!({ "message": { "role": "ROLE_USER", "parts": [{ "text": t }] } });
    for (method, params, wanted) in [
        ("Dance", json!({}), -32601),
        ("SendStreamingMessage", text("x"), -32004),
        ("SendMessage", json!({}), -32602),
        ("SendMessage", json!(null), -32602),
        ("SendMessage", json!({ "message": { "parts": [] } }), -32602),
        ("SendMessage", json!({ "message": { "parts": [{ "url": "http://x" }] } }), -32005),
        ("SendMessage", json!({ "message": { "parts": [{ "text": "x" }], "role": "ROLE_AGENT" } }), -32602),
        (
            "SendMessage",
            json!({ "message": { "parts": [{ "text": "x" }], "contextId": "a b" }, "metadata": { "skillId": "echo" } }),
            -32602,
        ),
        ("SendMessage", json!({ "message": { "parts": [{ "text": "x" }], "taskId": "t1" } }), -32004),
        ("SendMessage", json!({ "message": { "parts": [{ "text": "x" }], "metadata": { "skillId": "wrod-count" } } }), -32602),
        ("GetTask", json!({ "id": "tzzzzzzzzzzzzzzzz" }), -32001),
        ("GetTask", json!({ "id": "t" }), -32001),
        ("GetTask", json!({}), -32602),
        ("CancelTask", json!({ "id": "../x" }), -32001),
    ] {
        assert_eq!(code(node, method, params.clone()), wanted, "{method} {params}");
    }
    let token = format!("Bearer {}", node.token().expect("a token"));
    let raw = |body: &[u8], version: &str| {
        let headers = [("authorization", token.as_str()), ("a2a-version", version)];
        node.request("POST", "/a2a/v1", &headers, Some(body)).expect("an answer").json()["error"]["code"].clone()
    };
    assert_eq!(raw(b"{ no json", "1.0"), -32700);
    assert_eq!(raw(b"\xff\xfe", "1.0"), -32700);
    assert_eq!(raw(b"[]", "1.0"), -32600);
    assert_eq!(raw(b"{\"jsonrpc\":\"1.0\",\"method\":\"GetTask\"}", "1.0"), -32600);
    assert_eq!(raw(&vec![b' '; 2 << 20], "1.0"), -32600);
    let fine = json!({ "jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": { "id": "x" } }).to_string();
    assert_eq!(raw(fine.as_bytes(), "1.0"), -32001);
    assert_eq!(raw(fine.as_bytes(), "2.0"), -32009);
    assert!(node.tasks("").expect("a list").is_empty(), "nothing of it became a task");
}
