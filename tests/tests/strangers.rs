//! Who does not belong here: garbage on every port, silent clients, wrong keys, other sites, no token.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use clawmesh_tests::{LONG, Mesh, Node, SHORT, holds_for, json, raw_exchange, wait_until};

/// How long a port may take to say something to nonsense.
const PATIENCE: Duration = Duration::from_millis(700);

/// Nonsense of several kinds: nothing, noise of several lengths, other protocols.
fn nonsense() -> Vec<Vec<u8>> {
    // A fixed sequence that looks random: xorshift, so that a failure can be repeated.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = |n: usize| {
        let byte = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(byte).take(n).collect::<Vec<u8>>()
    };
    vec![
        Vec::new(),
        vec![0],
        vec![0xff; 3],
        noise(24),
        noise(1_000),
        noise(200_000),
        vec![0; 100_000],
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        b"\x13/multistream/1.0.0\n\x07/noise\n".to_vec(),
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
        b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\nX: \x00\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        [b"GET /".to_vec(), vec![b'a'; 100_000], b" HTTP/1.1\r\n\r\n".to_vec()].concat(),
    ]
}

fn works(node: &Node) {
    node.cli(["run", "--", "echo", "works"]).ok().stdout_is("works\n");
}

#[test]
fn garbage_on_the_mesh_port_is_counted_and_nothing_else_happens() {
    let mesh = Mesh::start(2);
    let epoch = mesh[0].status().expect("a status")["epoch"].clone();
    let refused = || mesh[0].metric("libp2p_swarm_connections_incoming_error_total", "");
    let before = refused();
    for bytes in nonsense() {
        // Whoever sends nothing is left waiting; the others are thrown out.
        let answer = raw_exchange(mesh[0].mesh_addr(), &bytes, PATIENCE).expect("the port is open");
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains("clawmesh"), "a stranger learns nothing: {text}");
    }
    wait_until("the strangers are counted", LONG, || {
        let n = refused() - before;
        if n >= 5.0 { Ok(()) } else { Err(format!("{n} counted:\n{}", mesh[0].metrics())) }
    });
    works(&mesh[1]);
    let status = mesh[1].status().expect("a status");
    assert_eq!(status["epoch"], epoch, "no election for that: {status}");
    assert_eq!(status["members"].as_array().map(Vec::len), Some(2), "{status}");
}

#[test]
fn hundreds_of_silent_clients_keep_nobody_out() {
    let mesh = Mesh::start(2);
    let epoch = mesh[0].status().expect("a status")["epoch"].clone();
    let connect = |addr: SocketAddr, n: usize| -> Vec<TcpStream> {
        (0..n).filter_map(|_| TcpStream::connect_timeout(&addr, Duration::from_secs(5)).ok()).collect()
    };
    let on_mesh = connect(mesh[0].mesh_addr(), 200);
    let on_api = connect(mesh[0].api_addr().expect("an address"), 200);
    assert_eq!((on_mesh.len(), on_api.len()), (200, 200));
    works(&mesh[0]);
    works(&mesh[1]);
    // A node that joins gets in although strangers sit at the door.
    let late = mesh.another("late").join(&mesh[0].ticket()).start();
    wait_until("the late node is a member", LONG, || {
        let members = late.status()?["members"].as_array().map_or(0, Vec::len);
        if members == 3 { Ok(()) } else { Err(format!("{members} members")) }
    });
    works(&late);
    // The API's are shown out after ten seconds.
    for mut stream in on_api {
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a stream takes a time limit");
        let mut left = Vec::new();
        stream.read_to_end(&mut left).expect("the server closes the connection");
    }
    assert_eq!(mesh[1].status().expect("a status")["epoch"], epoch);
}

#[test]
fn garbage_on_the_api_is_refused_and_nothing_else_happens() {
    let mesh = Mesh::start(1);
    let addr = mesh[0].api_addr().expect("an address");
    for bytes in nonsense() {
        let answer = raw_exchange(addr, &bytes, PATIENCE).expect("the port is open");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{:?} was answered with {text}", String::from_utf8_lossy(&bytes));
    }
    works(&mesh[0]);
}

#[test]
fn only_this_machines_names_are_served() {
    let mesh = Mesh::start(1);
    let addr = mesh[0].api_addr().expect("an address");
    let token = mesh[0].token().expect("a token");
    let ask = |host: &str, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
        let answer = raw_exchange(addr, request.as_bytes(), SHORT).expect("the port is open");
        String::from_utf8_lossy(&answer).into_owned()
    };
    for host in ["127.0.0.1", "localhost", "LOCALHOST:1", "[::1]", &addr.to_string()] {
        assert!(ask(host, "/api/v1/status").starts_with("HTTP/1.1 200"), "{host}");
    }
    let strangers = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example@127.0.0.1", "", "10.0.0.1"];
    for host in strangers {
        for path in ["/api/v1/status", "/metrics", "/healthz"] {
            let answer = ask(host, path);
            assert!(answer.starts_with("HTTP/1.1 403") || answer.starts_with("HTTP/1.1 400"), "{host}: {answer}");
            assert!(!answer.contains(mesh[0].name()), "{host}: {answer}");
        }
    }
    assert!(mesh[0].metric("clawmesh_api_refused_total", "host") >= 5.0, "they are counted: {}", mesh[0].metrics());
}

#[test]
fn nothing_but_metrics_and_health_is_open_without_the_token() {
    let mesh = Mesh::start(1);
    let routes = [
        ("GET", "/api/v1/status"),
        ("GET", "/api/v1/nodes"),
        ("GET", "/api/v1/skills"),
        ("GET", "/api/v1/invite"),
        ("GET", "/api/v1/tasks"),
        ("POST", "/api/v1/tasks"),
        ("POST", "/api/v1/tasks/wait"),
        ("GET", "/api/v1/tasks/tabc"),
        ("DELETE", "/api/v1/tasks/tabc"),
        ("GET", "/api/v1/tasks/tabc/logs"),
        ("POST", "/api/v1/stop"),
        ("POST", "/api/v1/drain"),
        ("PUT", "/api/v1/settings/strategy"),
        ("GET", "/"),
        ("GET", "/nothing/here"),
    ];
    let token = mesh[0].token().expect("a token");
    let wrong = format!("Bearer {}", "a".repeat(token.len()));
    let cut = format!("Bearer {}", &token[..token.len() - 1]);
    let basic = format!("Basic {token}");
    for (method, path) in routes {
        for header in [None, Some(wrong.as_str()), Some(cut.as_str()), Some(basic.as_str()), Some("Bearer "), Some(token.as_str())] {
            let headers: Vec<_> = header.iter().map(|h| ("authorization", *h)).collect();
            let answer = mesh[0].request(method, path, &headers, None).expect("an answer");
            assert_eq!(answer.status, 401, "{method} {path} with {header:?}: {answer:?}");
            assert!(answer.content_type.starts_with("application/problem+json"), "{answer:?}");
        }
    }
    assert_eq!(mesh[0].request("GET", "/healthz", &[], None).expect("an answer").body, "ok\n");
    assert!(mesh[0].metrics().contains("clawmesh_"));
    assert!(!mesh[0].metrics().contains(&token));
    assert!(mesh[0].metric("clawmesh_api_refused_total", "token") >= 15.0);
    assert!(mesh[0].runs(), "nobody stopped it");
}

#[test]
fn bodies_that_are_too_large_or_no_tasks_are_refused() {
    let mesh = Mesh::start(1);
    let token = mesh[0].token().expect("a token");
    let addr = mesh[0].api_addr().expect("an address");
    let head = |rest: &str| {
        format!("POST /api/v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n{rest}\r\n")
    };
    // Announced as too large: refused before a byte of it is read.
    let answer = raw_exchange(addr, head("Content-Length: 17000000\r\n").as_bytes(), SHORT).expect("the port is open");
    assert!(answer.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer));
    // Not announced: refused when it has become too large.
    let mut stream = TcpStream::connect(addr).expect("the port is open");
    stream.set_read_timeout(Some(SHORT)).expect("a stream takes a time limit");
    stream.write_all(head("Transfer-Encoding: chunked\r\n").as_bytes()).expect("the head is taken");
    let chunk = vec![b' '; 1 << 20];
    let mut sent = 0;
    while sent < 40 << 20 {
        let mut framed = format!("{:x}\r\n", chunk.len()).into_bytes();
        framed.extend_from_slice(&chunk);
        framed.extend_from_slice(b"\r\n");
        if stream.write_all(&framed).is_err() {
            break;
        }
        sent += chunk.len();
    }
    let mut answer = Vec::new();
    // A reset after the answer is as good as a close.
    stream.read_to_end(&mut answer).ok();
    assert!(sent < 40 << 20 || answer.starts_with(b"HTTP/1.1 413"), "{sent} bytes were taken: {}", String::from_utf8_lossy(&answer));

    let bad = [
        "",
        "{",
        "[{]",
        "null",
        "42",
        "{}",
        "{\"argv\":[]}",
        "{\"argv\":[\"true\"],\"skill\":\"echo\"}",
        "{\"argv\":\"uname -a\"}",
        "{\"argv\":[\"true\"],\"colour\":\"green\"}",
        "{\"argv\":[\"true\"],\"retries\":101}",
        "{\"argv\":[\"true\"],\"retries\":-1}",
        "{\"argv\":[\"true\"],\"timeout_ms\":99999999999}",
        "{\"argv\":[\"true\"],\"priority\":\"urgent\"}",
        "{\"argv\":[\"true\"],\"at_most_once\":true}",
        "{\"argv\":[\"true\"],\"pin\":\"no-such-node\"}",
        "\u{feff}{\"argv\":[\"true\"]}",
    ];
    let bearer = format!("Bearer {token}");
    for body in bad {
        let answer = mesh[0].request("POST", "/api/v1/tasks", &[("authorization", &bearer)], Some(body.as_bytes())).expect("an answer");
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        let problem = answer.json();
        assert!(problem["detail"].as_str().is_some_and(|d| !d.is_empty()) && problem["status"] == 400, "{body}: {problem}");
    }
    // In a batch each task has its own answer, and the good ones are taken.
    let batch = json!([{ "argv": ["true"] }, { "argv": [] }, { "skill": "echo", "input": "1" }]);
    let answer = mesh[0].api("POST", "/api/v1/tasks", Some(&batch)).expect("an answer");
    let entries = answer.json();
    assert!(
        entries["tasks"][0]["id"].is_string() && entries["tasks"][1]["error"].is_object() && entries["tasks"][2]["id"].is_string(),
        "{entries}"
    );
    let mut deep = String::new();
    (0..100_000).for_each(|_| write!(deep, "[").expect("a String takes it"));
    let answer = mesh[0].request("POST", "/api/v1/tasks", &[("authorization", &bearer)], Some(deep.as_bytes())).expect("an answer");
    assert_eq!(answer.status, 400, "{answer:?}");
    works(&mesh[0]);
}

#[test]
fn a_node_with_another_key_stays_outside() {
    let mesh = Mesh::start(2);
    let epoch = mesh[0].status().expect("a status")["epoch"].clone();
    let peer = mesh[0].mesh_addr().to_string();
    // A mesh of its own, told to dial ours.
    let stranger = mesh.another("stranger").args(["--peer", &peer]).start();
    let refused = |node: &Node| node.metric("libp2p_swarm_connections_incoming_error_total", "");
    wait_until("the stranger has been refused", LONG, || {
        let n = refused(&mesh[0]);
        if n >= 1.0 { Ok(()) } else { Err(format!("{n} refused")) }
    });
    holds_for("the stranger is nobody's member", Duration::from_secs(2), || {
        for node in mesh.nodes().iter().chain([&stranger]) {
            let members = node.status()?["members"].as_array().map_or(0, Vec::len);
            let wanted = if node.name() == "stranger" { 1 } else { 2 };
            if members != wanted {
                return Err(format!("{} has {members} members", node.name()));
            }
        }
        Ok(())
    });
    works(&stranger);
    works(&mesh[1]);
    assert_eq!(mesh[0].status().expect("a status")["epoch"], epoch);
}

#[test]
fn the_token_of_another_home_opens_nothing() {
    let mesh = Mesh::start(2);
    let foreign = format!("Bearer {}", mesh[1].token().expect("a token"));
    let answer = mesh[0].request("GET", "/api/v1/status", &[("authorization", &foreign)], None).expect("an answer");
    assert_eq!(answer.status, 401);
    // The CLI of a home whose port was taken by another node says so.
    mesh[1].kill();
    std::fs::copy(mesh[0].home().join("api.json"), mesh[1].home().join("api.json")).expect("a file can be copied");
    mesh[1].cli(["status"]).exits(3).stderr_has(&["does not know the token"]);
}
