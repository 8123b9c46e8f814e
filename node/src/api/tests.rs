//! The routes over real TCP, with a node that is only a struct.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use clawmesh_protocol::{
    codec,
    face::{NewTask, State},
    ids::ShortId,
    spec::{Data, Kind, Strategy, Work},
};
use futures::{StreamExt, TryStreamExt};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    ApiMetrics, BindError, Serving, Token, announced, bind,
    fake::{Fake, HERE, THERE, echo},
    metrics::Refused,
    types::{Entry, Problem, WaitFor},
};
use crate::{
    client::{Client, ClientError, Filter, Submission},
    output::Failure,
};

struct Node {
    home: TempDir,
    fake: Arc<Fake>,
    metrics: ApiMetrics,
    serving: Serving,
    base: String,
    client: Client,
}

async fn node() -> Node {
    let home = tempfile::tempdir().unwrap();
    let bound = bind(0).await.unwrap();
    let addr = bound.addr();
    let fake = Fake::new(addr, home.path().to_owned());
    let metrics = ApiMetrics::default();
    let serving = bound.serve(home.path(), HERE, fake.clone(), metrics.clone()).unwrap();
    let client = Client::open(home.path()).unwrap();
    Node { home, fake, metrics, serving, base: format!("http://{addr}"), client }
}

impl Node {
    fn token(&self) -> String {
        Token::load(self.home.path()).unwrap().unwrap().secret().to_owned()
    }
    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        http().request(method, format!("{}{path}", self.base))
    }
    /// With the token.
    fn asked(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.request(method, path).bearer_auth(self.token())
    }
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn problem(request: reqwest::RequestBuilder) -> Problem {
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let status = response.status();
    let problem: Problem = response.json().await.unwrap();
    assert_eq!(problem.status, status.as_u16());
    problem
}

fn wait_for(ids: &[ShortId], timeout_ms: u64) -> WaitFor {
    WaitFor { ids: ids.iter().map(ToString::to_string).collect(), timeout_ms, min: ids.len(), output: true }
}

#[tokio::test]
async fn without_the_token_nothing_but_metrics_and_health_is_answered() {
    let n = node().await;
    assert_eq!(problem(n.request(Method::GET, "/api/v1/status")).await.status, 401);
    let wrong = n.token().replace(|c: char| c.is_ascii_lowercase(), "a");
    for header in ["Bearer ", &format!("Bearer {wrong}"), &n.token(), &format!("Basic {}", n.token()), &format!("Bearer {}x", n.token())] {
        let p = problem(n.request(Method::GET, "/api/v1/status").header("authorization", header)).await;
        assert_eq!((p.status, p.code.as_str()), (401, "unauthorized"), "{header}");
    }
    for path in ["/api/v1/invite", "/api/v1/nothing", "/", "/metrics/", "//metrics"] {
        assert_eq!(problem(n.request(Method::GET, path)).await.status, 401, "{path}");
    }
    assert_eq!(problem(n.request(Method::POST, "/api/v1/stop")).await.status, 401);
    assert!(!n.fake.stopped.load(Ordering::Relaxed));
    assert_eq!(n.metrics.refused(Refused::Token), 12);
    let open = n.request(Method::GET, "/metrics").send().await.unwrap();
    assert!(open.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    assert_eq!(open.text().await.unwrap(), "clawmesh_nodes 2\n# EOF\n");
    assert_eq!(n.request(Method::GET, "/healthz").send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(n.asked(Method::GET, "/api/v1/status").send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_page_of_another_site_is_refused_whatever_it_knows() {
    let n = node().await;
    for host in ["evil.example", "127.0.0.1.evil.example", "evil.example:8888", "localhost.", "127.0.0.1@evil.example", "[::2]", ""] {
        for path in ["/api/v1/status", "/metrics", "/healthz"] {
            let response = n.asked(Method::GET, path).header("host", host).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{host} {path}");
        }
    }
    assert_eq!(n.metrics.refused(Refused::Host), 21);
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]", "[::1]:8888"] {
        let response = n.asked(Method::GET, "/api/v1/status").header("host", host).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{host}");
    }
}

#[tokio::test]
async fn garbage_on_the_port_ends_its_connection_and_nothing_else() {
    let n = node().await;
    let addr = n.base.trim_start_matches("http://");
    for garbage in [&b"\x00\x01\x02\xff\xff\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[b'A'; 100_000]]
    {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        // The server may have closed already.
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "the connection stays open");
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    assert!(n.client.status().await.is_ok());
}

#[tokio::test]
async fn status_names_the_node_the_mesh_and_the_members() {
    let n = node().await;
    let v: Value = n.asked(Method::GET, "/api/v1/status").send().await.unwrap().json().await.unwrap();
    assert_eq!(v["node"], HERE.to_string());
    assert_eq!(v["name"], "alpha");
    assert_eq!(v["coordinator"], HERE.to_string());
    assert_eq!((&v["epoch"], &v["role"], &v["mesh"]), (&json!(3), &json!("coordinator"), &json!("testmesh")));
    assert_eq!(v["api"], n.base.trim_start_matches("http://"));
    assert_eq!(v["mesh_addresses"], json!(["/ip4/127.0.0.1/tcp/8889"]));
    assert_eq!(v["pid"], std::process::id());
    let members = v["members"].as_array().unwrap();
    assert_eq!(members.len(), 2);
    assert_eq!((&members[1]["node"], &members[1]["name"]), (&json!(THERE.to_string()), &json!("beta")));
    assert_eq!((&members[1]["state"], &members[1]["priority"]), (&json!("online"), &json!(100)));
    assert!(v["queue"]["normal"].is_u64());
    let report = n.client.status().await.unwrap();
    assert_eq!(report.view.members.len(), 2);
    assert_eq!(n.client.nodes().await.unwrap(), report.view.members);
    assert_eq!(n.client.skills().await.unwrap()[0].name, "count_words");
    assert_eq!(n.client.invite().await.unwrap(), "clawmesh-ticket");
}

#[tokio::test]
async fn a_field_nobody_knows_is_refused_by_name() {
    let n = node().await;
    let p = problem(n.asked(Method::POST, "/api/v1/tasks").body(r#"{"skill":"echo","retires":3}"#)).await;
    assert_eq!((p.status, p.code.as_str()), (400, "invalid"));
    assert!(p.detail.contains("retires") && p.detail.contains("retries") && p.detail.contains("line 1"), "{}", p.detail);
    let p = problem(n.asked(Method::POST, "/api/v1/tasks").body(r#"{"skill":"#)).await;
    assert!(p.status == 400 && p.detail.contains("EOF"), "{}", p.detail);
    let p = problem(n.asked(Method::POST, "/api/v1/tasks").body("[]")).await;
    assert!(p.status == 400 && p.detail.contains("no task"), "{}", p.detail);
    let p = problem(n.asked(Method::POST, "/api/v1/tasks").body(r#"{"skill":"echo","argv":["ls"]}"#)).await;
    assert!(p.status == 400 && p.detail.contains("not both"), "{}", p.detail);
    let p = problem(n.asked(Method::GET, "/api/v1/tasks?status=failed")).await;
    assert!(p.status == 400 && p.detail.contains("status"), "{}", p.detail);
    let p = problem(n.asked(Method::GET, "/api/v1/tasks?limit=501")).await;
    assert!(p.status == 400 && p.detail.contains("1 to 500"), "{}", p.detail);
    let p = problem(n.asked(Method::GET, "/api/v1/nowhere")).await;
    assert_eq!(p.status, 404);
    let p = problem(n.asked(Method::PUT, "/api/v1/tasks")).await;
    assert_eq!(p.status, 405);
    assert!(n.fake.ids().is_empty());
}

#[tokio::test]
async fn a_body_above_the_cap_is_refused_however_it_is_sent() {
    let n = node().await;
    let big = vec![b' '; super::routes::BODY_MAX + 1];
    let p = problem(n.asked(Method::POST, "/api/v1/tasks").body(big.clone())).await;
    assert_eq!((p.status, p.code.as_str()), (413, "too_large"));
    // Without a length that says so beforehand.
    let pieces = futures::stream::iter(big.chunks(1 << 20).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>());
    let p = problem(n.asked(Method::POST, "/api/v1/tasks").body(reqwest::Body::wrap_stream(pieces))).await;
    assert_eq!(p.status, 413);
    assert_eq!(n.metrics.refused(Refused::TooLarge), 2);
}

#[tokio::test]
async fn an_unknown_skill_is_refused_with_the_nearest_names() {
    let n = node().await;
    let p = problem(n.asked(Method::POST, "/api/v1/tasks").json(&json!({ "skill": "count_wrods" }))).await;
    assert_eq!((p.status, p.code.as_str(), p.next.as_str()), (404, "unknown_skill", "clawmesh skills"));
    assert_eq!(p.candidates, ["count_words"]);
    assert!(p.detail.contains("'count_wrods'") && p.detail.contains("nearest name is 'count_words'"), "{}", p.detail);
    let p = problem(n.asked(Method::POST, "/api/v1/tasks").json(&json!({ "skill": "zzz" }))).await;
    assert!(p.candidates.is_empty() && p.detail.contains("no name comes near"), "{}", p.detail);
    let f = Failure::from(ClientError::Refused(p));
    assert_eq!((f.exit, f.code.as_str()), (1, "unknown_skill"));
}

#[tokio::test]
async fn several_tasks_are_answered_one_by_one_in_order() {
    let n = node().await;
    let tasks = [
        echo(),
        NewTask { skill: Some("nope".into()), ..NewTask::default() },
        NewTask { retries: 101, ..echo() },
        NewTask { argv: Some(vec!["ls".into()]), input: Some("x".repeat(100_000)), ..NewTask::default() },
    ];
    let entries = n.client.submit_many(&tasks).await.unwrap();
    let codes: Vec<&str> = entries
        .iter()
        .map(|e| match e {
            Entry::Accepted(_) => "",
            Entry::Refused { error } => &error.code,
        })
        .collect();
    assert_eq!(codes, ["", "unknown_skill", "invalid", ""]);
    let Entry::Accepted(last) = &entries[3] else { panic!("refused") };
    let spec = n.fake.spec(last.id).unwrap();
    assert!(matches!(spec.payload, Data::Blob(_, len) if len > 100_000));
    assert_eq!((spec.need.kind, last.copies), (Kind::Command, 2));
    let many = vec![echo(); 10_001];
    let p = problem(n.asked(Method::POST, "/api/v1/tasks").json(&many)).await;
    assert!(p.status == 400 && p.detail.contains("10001"), "{}", p.detail);
    // The client cuts it into requests which the API takes.
    assert_eq!(n.client.submit_many(&many).await.unwrap().len(), 10_001);
}

#[tokio::test]
async fn a_pin_may_be_a_name_or_an_id() {
    let n = node().await;
    for pin in ["beta".to_owned(), THERE.to_string()] {
        let wanted = Submission { task: echo(), node: Some(pin) };
        let accepted = n.client.submit(&wanted).await.unwrap();
        assert_eq!(n.fake.spec(accepted.id).unwrap().need.pin, Some(THERE));
    }
    let batch: Value = n
        .asked(Method::POST, "/api/v1/tasks")
        .json(&json!([{ "skill": "echo", "pin": "alpha" }]))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let id: ShortId = serde_json::from_value(batch["tasks"][0]["id"].clone()).unwrap();
    assert_eq!(n.fake.spec(id).unwrap().need.pin, Some(HERE));
    let wrong = n.client.submit(&Submission { task: echo(), node: Some("bata".into()) }).await.unwrap_err();
    let ClientError::Refused(p) = wrong else { panic!("{wrong}") };
    assert_eq!((p.code.as_str(), p.candidates[0].as_str()), ("unknown_node", "beta"));
    // A named node does not hide another mistake.
    let p = problem(n.asked(Method::POST, "/api/v1/tasks").json(&json!({ "skill": "echo", "pin": "beta", "x": 1 }))).await;
    assert!(p.status == 400 && p.detail.contains("`x`"), "{}", p.detail);
}

#[tokio::test]
async fn waiting_ends_when_the_task_ends() {
    let n = node().await;
    let task = NewTask { argv: Some(vec!["sleep".into(), "9".into()]), ..NewTask::default() };
    let id = n.client.submit(&Submission { task, node: None }).await.unwrap().id;
    assert!(n.client.wait(&wait_for(&[id], 20)).await.unwrap().is_empty(), "it has not ended");
    let (fake, client) = (n.fake.clone(), n.client.clone());
    let waiting = tokio::spawn(async move { client.wait(&wait_for(&[id], 30_000)).await });
    let polled = async {
        while fake.awaits.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), polled).await.unwrap();
    fake.end(id, State::Failed, Some(3), b"out\xff", b"err");
    let ended = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap().unwrap();
    assert_eq!((ended.len(), ended[0].id, ended[0].state, ended[0].exit_code), (1, id, State::Failed, Some(3)));
    let out = ended[0].output.as_ref().unwrap();
    assert_eq!((out.stdout_bytes().as_ref(), out.stderr_bytes().as_ref()), (&b"out\xff"[..], &b"err"[..]));
    assert_eq!((out.stdout.as_str(), out.stderr_base64.as_ref()), ("out\u{fffd}", None));
}

#[tokio::test]
async fn tasks_of_other_nodes_and_prefixes_are_waited_for_by_asking_the_coordinator() {
    let n = node().await;
    n.fake.foreign.store(true, Ordering::Relaxed);
    let id = n.client.submit(&Submission { task: echo(), node: None }).await.unwrap().id;
    let planted = ShortId([9; 10]);
    n.fake.plant(planted);
    n.fake.end(planted, State::Completed, Some(0), b"far", b"");
    let prefix = planted.to_string()[..12].to_owned();
    let wanted = WaitFor { ids: vec![id.to_string(), prefix.clone()], timeout_ms: 20_000, min: 2, output: true };
    let mut ended = n.client.wait(&wanted).await.unwrap();
    ended.sort_by_key(|e| e.asked != prefix);
    assert_eq!((ended[0].id, ended[0].output.as_ref().unwrap().stdout.as_str()), (planted, "far"));
    assert_eq!((ended[1].id, ended[1].output.as_ref().unwrap().stdout.as_str()), (id, "hi"));
    let unknown = n.client.wait(&wait_for(&[ShortId([3; 10])], 20_000)).await.unwrap_err();
    assert!(matches!(&unknown, ClientError::Refused(p) if p.code == "not_found"), "{unknown}");
    for (wrong, why) in [(json!({ "ids": [] }), "0 ids"), (json!({ "ids": ["t"], "timeout_ms": 60_001 }), "60000")] {
        let p = problem(n.asked(Method::POST, "/api/v1/tasks/wait").json(&wrong)).await;
        assert!(p.status == 400 && p.detail.contains(why), "{}", p.detail);
    }
}

#[tokio::test]
async fn large_outputs_come_by_themselves_when_many_are_waited_for() {
    let n = node().await;
    let task = NewTask { argv: Some(vec!["big".into()]), ..NewTask::default() };
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(n.client.submit(&Submission { task: task.clone(), node: None }).await.unwrap().id);
    }
    let big = vec![b'x'; 50_000];
    for id in &ids {
        n.fake.end(*id, State::Completed, Some(0), &big, b"");
    }
    let both = n.client.wait(&wait_for(&ids, 20_000)).await.unwrap();
    assert!(both.len() == 2 && both.iter().all(|e| e.output.is_none() && e.output_elsewhere));
    let one = n.client.wait(&wait_for(&ids[..1], 20_000)).await.unwrap();
    assert_eq!(one[0].output.as_ref().unwrap().stdout.len(), 50_000);
    let result = n.client.result(&ids[1].to_string()).await.unwrap();
    assert_eq!(result.output.unwrap().stdout.len(), 50_000);
}

#[tokio::test]
async fn prefixes_are_accepted_and_ambiguous_ones_list_what_they_may_mean() {
    let n = node().await;
    let (a, b) = (ShortId([0xa0; 10]), ShortId([0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xff]));
    n.fake.plant(a);
    n.fake.plant(b);
    assert_eq!(n.client.task(&a.to_string()).await.unwrap().id, a);
    let common = a.to_string()[..6].to_owned();
    let ambiguous = n.client.task(&common).await.unwrap_err();
    let f = Failure::from(ambiguous);
    assert_eq!((f.exit, f.code.as_str()), (1, "ambiguous"));
    assert_eq!(f.candidates, [a.to_string(), b.to_string()]);
    assert!(f.what.contains(&common) && f.what.contains(&a.to_string()) && f.what.contains("type more"), "{}", f.what);
    assert_eq!(f.next, Some(format!("clawmesh tasks show {a}")));
    for wrong in ["nonsense!", "tzzz", "../status", "a/b", "?x=1"] {
        let e = n.client.task(wrong).await.unwrap_err();
        assert!(matches!(&e, ClientError::Refused(p) if p.code == "not_found" && p.detail.contains(wrong)), "{wrong}: {e}");
    }
}

#[tokio::test]
async fn lists_go_page_by_page() {
    let n = node().await;
    n.client.submit_many(&vec![echo(); 5]).await.unwrap();
    let first = n.client.tasks(&Filter { limit: Some(3), ..Filter::default() }).await.unwrap();
    assert_eq!((first.tasks.len(), first.more), (3, true));
    let before = Some(first.tasks[2].id.to_string());
    let second = n.client.tasks(&Filter { limit: Some(3), before, state: Some(State::Completed) }).await.unwrap();
    assert_eq!((second.tasks.len(), second.more), (2, false));
    let none = n.client.tasks(&Filter { state: Some(State::Timeout), ..Filter::default() }).await.unwrap();
    assert!(none.tasks.is_empty());
}

#[tokio::test]
async fn output_is_followed_frame_by_frame() {
    let n = node().await;
    let task = NewTask { argv: Some(vec!["talk".into()]), ..NewTask::default() };
    let id = n.client.submit(&Submission { task, node: None }).await.unwrap().id;
    let text = async |follow| -> Vec<(bool, Vec<u8>)> {
        let pieces = n.client.logs(&id.to_string(), follow).await.unwrap();
        pieces.map_ok(|p| (p.stderr, p.bytes.to_vec())).try_collect().await.unwrap()
    };
    assert_eq!(text(false).await, [(false, b"out".to_vec()), (true, b"err".to_vec())]);
    assert_eq!(text(true).await, [(false, b"out".to_vec()), (true, b"end".to_vec())]);
    // Once it has ended, what was kept is shown.
    n.fake.end(id, State::Completed, Some(0), b"kept", b"too");
    assert_eq!(text(true).await, [(false, b"kept".to_vec()), (true, b"too".to_vec())]);
    let mut none = std::pin::pin!(n.client.logs(&id.to_string(), false).await.unwrap());
    assert!(none.next().await.is_some());
}

#[tokio::test]
async fn settings_draining_cancel_explain_and_stop_reach_the_node() {
    let n = node().await;
    n.client.change_setting("strategy", Some("best_fit".into()), String::new()).await.unwrap();
    n.client.drain().await.unwrap();
    let view = n.client.status().await.unwrap().view;
    assert_eq!((view.strategy, view.draining), (Strategy::BestFit, true));
    n.client.resume().await.unwrap();
    assert!(!n.client.status().await.unwrap().view.draining);
    let p = problem(n.asked(Method::PUT, "/api/v1/settings/strategy").json(&json!({ "strategy": "best" }))).await;
    assert!(p.status == 400 && p.detail.contains("best_fit"), "{}", p.detail);
    let task = NewTask { argv: Some(vec!["sleep".into()]), ..NewTask::default() };
    let id = n.client.submit(&Submission { task, node: None }).await.unwrap().id;
    assert_eq!(n.client.explain(&id.to_string()).await.unwrap().verdict, "it runs on beta");
    assert_eq!(n.client.cancel(&id.to_string()).await.unwrap().state, State::Running);
    assert_eq!(n.client.task(&id.to_string()).await.unwrap().state, State::Cancelled);
    n.client.stop().await.unwrap();
    assert!(n.fake.stopped.load(Ordering::Relaxed));
    n.fake.gone.store(true, Ordering::Relaxed);
    let e = n.client.status().await.unwrap_err();
    assert_eq!(Failure::from(e).exit, 3);
}

#[tokio::test]
async fn the_environment_and_the_input_reach_the_worker_as_typed() {
    let n = node().await;
    let task = NewTask {
        skill: Some("count_words".into()),
        input: Some("{\"a\": \"ö\"}".into()),
        env: vec![("A".into(), "b=c".into())],
        ..NewTask::default()
    };
    let id = n.client.submit(&Submission { task, node: None }).await.unwrap().id;
    let Data::Inline(bytes) = n.fake.spec(id).unwrap().payload else { panic!("a blob") };
    let work: Work = codec::decode(&bytes.0).unwrap();
    assert_eq!((work.input.0.as_slice(), work.env), ("{\"a\": \"ö\"}".as_bytes(), vec![("A".to_owned(), "b=c".to_owned())]));
}

#[tokio::test]
async fn a_stop_ends_long_polls_at_once_and_removes_the_announcement() {
    let n = node().await;
    let task = NewTask { argv: Some(vec!["sleep".into()]), ..NewTask::default() };
    let id = n.client.submit(&Submission { task, node: None }).await.unwrap().id;
    let client = n.client.clone();
    let waiting = tokio::spawn(async move { client.wait(&wait_for(&[id], 60_000)).await });
    while n.fake.awaits.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    // A connection that never says anything must not hold the stop.
    let _silent = TcpStream::connect(n.base.trim_start_matches("http://")).await.unwrap();
    assert!(announced(n.home.path()).unwrap().is_some());
    tokio::time::timeout(Duration::from_secs(2), n.serving.shutdown()).await.unwrap();
    assert!(waiting.await.unwrap().unwrap().is_empty());
    assert!(announced(n.home.path()).unwrap().is_none());
    let e = n.client.status().await.unwrap_err();
    assert!(matches!(e, ClientError::NoNode { .. }), "{e}");
    let e = Client::open(n.home.path()).unwrap_err();
    let f = Failure::from(e);
    assert_eq!(f.exit, 3);
    assert_eq!(f.what, format!("no node is running on {}: start one with 'clawmesh up'", n.home.path().display()));
}

#[tokio::test]
async fn what_a_crash_left_behind_is_no_node() {
    let home = tempfile::tempdir().unwrap();
    let free = bind(0).await.unwrap().addr();
    Token::load_or_create(home.path()).unwrap();
    let stale = json!({ "addr": free, "pid": 1, "node": HERE });
    std::fs::write(home.path().join("api.json"), stale.to_string()).unwrap();
    let e = Client::open(home.path()).unwrap().status().await.unwrap_err();
    assert_eq!(e, ClientError::NoNode { home: home.path().to_owned() });
    // Another node has taken the port since: it does not know this home's token.
    let other = node().await;
    let file = json!({ "addr": other.base.trim_start_matches("http://"), "pid": 1, "node": HERE });
    std::fs::write(home.path().join("api.json"), file.to_string()).unwrap();
    let e = Client::open(home.path()).unwrap().status().await.unwrap_err();
    assert!(matches!(e, ClientError::Stranger { .. }), "{e}");
    std::fs::write(home.path().join("api.json"), "{").unwrap();
    let e = Client::open(home.path()).unwrap_err();
    assert!(matches!(e, ClientError::Unreadable { .. }), "{e}");
}

#[tokio::test]
async fn a_taken_port_is_a_clear_error() {
    let first = bind(0).await.unwrap();
    let port = first.addr().port();
    let e = bind(port).await.unwrap_err();
    assert!(matches!(e, BindError::Taken { port: p } if p == port));
    let text = e.to_string();
    assert!(text.contains(&port.to_string()) && text.contains("--api-port"), "{text}");
}

#[cfg(unix)]
#[tokio::test]
async fn token_and_announcement_are_for_their_owner_only_and_the_token_stays() {
    use std::os::unix::fs::PermissionsExt;
    let n = node().await;
    let mode = |name: &str| std::fs::metadata(n.home.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("api.token"), mode("api.json")), (0o600, 0o600));
    let token = n.token();
    assert_eq!(token.len(), 52);
    std::fs::set_permissions(n.home.path().join("api.token"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(Token::load_or_create(n.home.path()).unwrap().secret(), token);
    assert_eq!(mode("api.token"), 0o600);
    std::fs::write(n.home.path().join("api.token"), "short").unwrap();
    assert!(Token::load(n.home.path()).unwrap().is_none());
    assert_ne!(Token::load_or_create(n.home.path()).unwrap().secret(), token);
    assert!(!format!("{:?}", Token::load(n.home.path()).unwrap()).contains(&n.token()));
}

#[tokio::test]
async fn more_long_polls_than_the_bound_are_told_to_come_back() {
    let n = node().await;
    let task = NewTask { argv: Some(vec!["sleep".into()]), ..NewTask::default() };
    let id = n.client.submit(&Submission { task, node: None }).await.unwrap().id;
    let polls: Vec<_> = (0..128)
        .map(|_| {
            let client = n.client.clone();
            tokio::spawn(async move { client.wait(&wait_for(&[id], 60_000)).await })
        })
        .collect();
    while n.fake.awaits.load(Ordering::Relaxed) < 128 {
        tokio::task::yield_now().await;
    }
    let e = n.client.wait(&wait_for(&[id], 60_000)).await.unwrap_err();
    assert!(matches!(&e, ClientError::Refused(p) if p.code == "busy"), "{e}");
    assert!(n.client.status().await.is_ok(), "other requests are served");
    n.fake.end(id, State::Completed, Some(0), b"", b"");
    for poll in polls {
        assert_eq!(poll.await.unwrap().unwrap().len(), 1);
    }
}
