//! What Prometheus scrapes.

use std::collections::BTreeSet;

use clawmesh_tests::{LONG, Mesh, Task, batch_of, json, wait_until};

/// The figures of the list that operators were promised, by the names that dashboards use.
const PROMISED: [&str; 15] = [
    "clawmesh_nodes",
    "clawmesh_queue_depth",
    "clawmesh_tasks_total",
    "clawmesh_submit_to_start_seconds_bucket",
    "clawmesh_submit_to_result_seconds_bucket",
    "clawmesh_attempts_total",
    "clawmesh_elections_total",
    "clawmesh_epoch",
    "clawmesh_coordinator",
    "clawmesh_stable_seconds_bucket",
    "clawmesh_store_fsync_seconds_bucket",
    "clawmesh_net_dropped_total",
    "clawmesh_net_lanes",
    "clawmesh_api_requests_total",
    "libp2p_swarm_connections_established_total",
];

/// One sample of the text format, or why the line is none.
fn sample(line: &str) -> Result<(String, f64), String> {
    let (series, value) = line.rsplit_once(' ').ok_or("no value")?;
    let value: f64 = value.parse().map_err(|e| format!("{value}: {e}"))?;
    let name = series.split('{').next().unwrap_or_default();
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    if name.is_empty() || !name.chars().all(letters) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("the name {name:?}"));
    }
    if series.contains('{') != series.ends_with('}') {
        return Err("the labels".to_owned());
    }
    Ok((name.to_owned(), value))
}

#[test]
fn every_node_shows_the_promised_figures_as_open_metrics() {
    let mesh = Mesh::of(3).args(["--slots", "4"]).start();
    let mut ids = mesh[1].submit(&batch_of(30, &Task::skill("echo", &json!("x"))));
    ids.extend(mesh[2].submit(&batch_of(10, &Task::sh("true"))));
    mesh[0].all_complete(&ids, LONG);
    mesh[0].cli(["run", "--", "false"]).exits(1);

    let mut seen = BTreeSet::new();
    for node in mesh.nodes() {
        let answer = node.request("GET", "/metrics", &[], None).expect("an answer");
        assert!(answer.content_type.starts_with("application/openmetrics-text"), "{}", answer.content_type);
        assert!(answer.body.ends_with("# EOF\n"), "the text is whole");
        let mut series = BTreeSet::new();
        for line in answer.body.lines().filter(|l| !l.starts_with('#')) {
            let (name, _) = sample(line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
            let key = line.rsplit_once(' ').map(|(s, _)| s.to_owned()).expect("a value");
            assert!(series.insert(key), "twice: {line}");
            seen.insert(name);
        }
        assert!(series.len() < 3_000, "{} series on one node", series.len());
        for line in answer.body.lines().filter(|l| l.starts_with("# ") && *l != "# EOF") {
            assert!(["# HELP ", "# TYPE ", "# UNIT "].iter().any(|k| line.starts_with(k)), "{line}");
        }
        // The command shows the same thing.
        node.cli(["metrics"]).ok().stdout_has(&["clawmesh_epoch", "# eof"]);
    }
    let missing: Vec<_> = PROMISED.iter().filter(|p| !seen.contains(**p)).collect();
    assert!(missing.is_empty(), "no node shows {missing:?}; there are {seen:?}");
}

#[test]
fn the_figures_count_what_happened() {
    let mesh = Mesh::of(3).args(["--slots", "4"]).start();
    let ids = mesh[1].submit(&batch_of(50, &Task::skill("echo", &json!("x"))));
    mesh[1].all_complete(&ids, LONG);
    let failing = mesh[2].submit(&[Task::sh("exit 1").with("retries", 2).with("backoff_ms", 10)]);
    mesh[2].task_until(&failing[0], "failed", LONG);

    let lead = mesh.coordinator();
    let sum = |name: &str, with: &str| mesh.nodes().iter().map(|n| n.metric(name, with)).sum::<f64>();
    wait_until("the sums are right", LONG, || {
        let found = [
            ("50 tasks done", sum("clawmesh_tasks_total", "completed"), 50.0),
            ("1 task failed", sum("clawmesh_tasks_total", "failed"), 1.0),
            ("53 attempts", sum("clawmesh_attempts_total", ""), 53.0),
            ("53 started", sum("clawmesh_spawned_total", ""), 53.0),
            ("51 starts timed", sum("clawmesh_submit_to_start_seconds_count", ""), 51.0),
            ("51 results timed", sum("clawmesh_submit_to_result_seconds_count", ""), 51.0),
            ("one coordinator", sum("clawmesh_coordinator", ""), 1.0),
            ("it is the one that status names", lead.metric("clawmesh_coordinator", ""), 1.0),
            ("three nodes online, three times", sum("clawmesh_nodes", "online"), 9.0),
            ("an empty queue", sum("clawmesh_queue_depth", ""), 0.0),
            ("nothing impossible", sum("clawmesh_alarms_total", ""), 0.0),
            ("nothing malformed", sum("clawmesh_malformed_total", ""), 0.0),
        ];
        let wrong: Vec<String> = found.iter().filter(|(_, is, wanted)| is != wanted).map(|(what, is, _)| format!("{what}: {is}")).collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join(", ")) }
    });
    let epoch = lead.status().expect("a status")["epoch"].as_f64().expect("a number");
    assert!(mesh.nodes().iter().all(|n| (n.metric("clawmesh_epoch", "") - epoch).abs() < 0.5));
}
