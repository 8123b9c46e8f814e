//! A real Prometheus scrapes three nodes with the configuration a user would write.  Ignored unless asked for: it needs
//! the program `prometheus`.
#![cfg(target_os = "linux")]

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    process::{Child, Command, Stdio},
};

use clawmesh_tests::{LONG, Mesh, Task, Value, batch_of, get_json, json, wait_until};

/// Dropped, it is killed.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
#[ignore = "needs root: Debian's prometheus installed"]
fn a_real_prometheus_scrapes_three_nodes() {
    let mesh = Mesh::of(3).args(["--slots", "4"]).start();
    let ids = mesh[1].submit(&batch_of(40, &Task::skill("echo", &json!("x"))));
    mesh[1].all_complete(&ids, LONG);

    let targets: Vec<String> = mesh.nodes().iter().map(|n| format!("'{}'", n.api_addr().expect("an address"))).collect();
    let config = format!(
        "global: {{ scrape_interval: 500ms, scrape_timeout: 400ms }}\nscrape_configs:\n- job_name: clawmesh\n  static_configs:\n  - targets: [{}]\n",
        targets.join(", ")
    );
    let file = mesh.dir().join("prometheus.yml");
    fs::write(&file, config).expect("a file can be written");
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a port is free").port();
    let log = File::create(mesh.dir().join("prometheus.log")).expect("a file can be made");
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", mesh.dir().join("tsdb").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the package 'prometheus' is installed");
    let _prometheus = Prometheus(child);
    let query = |q: &str| -> Result<f64, String> {
        let answer: Value = get_json(([127, 0, 0, 1], port).into(), &format!("/api/v1/query?query={q}"))?;
        let value = answer["data"]["result"][0]["value"][1].as_str().and_then(|v| v.parse().ok());
        value.ok_or_else(|| format!("{q}: {answer}"))
    };
    let expect = |q: &str, wanted: f64| {
        wait_until(&format!("{q} is {wanted}"), LONG, || {
            let now = query(q)?;
            if (now - wanted).abs() < 1e-9 { Ok(()) } else { Err(format!("{q} is {now}")) }
        });
    };
    expect("sum(up)", 3.0);
    expect("sum(clawmesh_coordinator)", 1.0);
    expect("sum(clawmesh_tasks_total)", 40.0);
    expect("sum(clawmesh_submit_to_result_seconds_count)", 40.0);
    expect("min(clawmesh_nodes%7Bkind=%22online%22%7D)", 3.0);
    expect("count(count(clawmesh_epoch)by(instance))", 3.0);
    // The types are known to it, so that dashboards can tell counters from gauges.
    let metadata = get_json(([127, 0, 0, 1], port).into(), "/api/v1/metadata").expect("an answer");
    assert_eq!(metadata["data"]["clawmesh_submit_to_start_seconds"][0]["type"], "histogram", "{metadata}");
    assert_eq!(metadata["data"]["clawmesh_epoch"][0]["type"], "gauge");
    // A node that dies is seen.
    mesh[2].kill();
    expect("sum(up)", 2.0);
}
