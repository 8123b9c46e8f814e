//! Wrong usage: each mistake is a clear sentence with the right exit code, before anything is asked of a mesh.

use std::path::Path;

use clawmesh_tests::{Cli, Mesh, Said};

/// A command in an empty home.
fn alone(args: &[&str]) -> Said {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    Cli::new(&dir.path().join("home"), None).args(args).run()
}

#[test]
fn no_node_running_is_exit_3_and_names_the_next_command() {
    let commands: &[&[&str]] = &[
        &["status"],
        &["nodes"],
        &["skills"],
        &["tasks"],
        &["tasks", "show", "tabc"],
        &["tasks", "logs", "tabc"],
        &["run", "--", "true"],
        &["run", "--detach", "--", "true"],
        &["submit", "echo"],
        &["metrics"],
        &["down"],
    ];
    for args in commands {
        alone(args).exits(3).stderr_has(&["no node is running", "clawmesh up"]);
        let said = alone(&[&["--json"], *args].concat()).exits(3);
        assert!(said.stdout.is_empty(), "{}", said.told());
        assert_eq!(said.error()["exit"], 3, "{}", said.told());
    }
}

#[test]
fn values_that_no_flag_knows_are_exit_2() {
    let mistakes: &[(&[&str], &str)] = &[
        (&["run", "--priority", "urgent", "--", "true"], "critical"),
        (&["run", "--strategy", "best", "--", "true"], "best_fit"),
        (&["run", "--retries", "-1", "--", "true"], "unexpected"),
        (&["run", "--retries", "101", "--", "true"], "100"),
        (&["run", "--timeout", "soon", "--", "true"], "90s"),
        (&["run", "--timeout", "0s", "--", "true"], "at least 1ms"),
        (&["run", "--timeout", "31days", "--", "true"], "30 days"),
        (&["run", "--env", "NOVALUE", "--", "true"], "name=value"),
        (&["run", "--memory", "much", "--", "true"], "512mib"),
        (&["run", "--on-lost", "shrug", "--", "true"], "requeue"),
        (&["run"], "CMD"),
        (&["run", "--"], "CMD"),
        (&["run", "--", ""], "empty"),
        (&["submit"], "SKILL"),
        (&["submit", "echo", "--input", "1", "--input-text", "1"], "cannot be used with"),
        (&["submit", "echo", "--wait-timeout", "1s"], "--wait"),
        (&["tasks", "ls", "--state", "sleeping"], "completed"),
        (&["tasks", "ls", "--limit", "0"], "limit"),
        (&["tasks", "show"], "ID"),
        (&["tasks", "show", ""], "value"),
        (&["up", "--api-port", "65536"], "65535"),
        (&["up", "--mesh-port", "http"], "invalid"),
        (&["up", "--slots", "10001"], "10000"),
        (&["up", "--lost-after", "10ms"], "1s"),
        (&["up", "--name", ""], "name"),
        (&["up", "--label", "two words"], "label"),
        (&["up", "--skills", "/nowhere/at/all"], "not a directory"),
        (&["config", "set", "--mesh", "strategy", "fair"], "least_tasks"),
        (&["frobnicate"], "unrecognized"),
        (&["--frobnicate", "status"], "unexpected"),
        (&["--home", "", "status"], "--home"),
    ];
    for (args, hint) in mistakes {
        let said = alone(args).exits(2).stderr_has(&[hint]);
        assert!(said.stdout.is_empty(), "{}", said.told());
    }
}

#[test]
fn input_that_is_no_json_or_too_large_is_exit_2() {
    let mesh = Mesh::of(0).build();
    let in_file = |name: &str, bytes: &[u8]| {
        let path = mesh.dir().join(name);
        std::fs::write(&path, bytes).expect("a file can be written");
        path
    };
    let submit = |file: &Path| Cli::new(mesh.dir(), None).args(["submit", "word-count", "--input-file"]).arg(file).run();
    submit(&in_file("half.json", b"{\"a\":")).exits(2).stderr_has(&["not valid JSON", "--input-text"]);
    submit(&in_file("latin1.json", b"\"caf\xe9\"")).exits(2).stderr_has(&["UTF-8"]);
    submit(&in_file("large.json", &vec![b'1'; 9 << 20])).exits(2).stderr_has(&["cap"]);
    submit(&mesh.dir().join("missing.json")).exits(2).stderr_has(&["cannot read", "missing.json"]);
    Cli::new(mesh.dir(), None).args(["submit", "word-count", "--input", "{oops}"]).run().exits(2).stderr_has(&["not valid JSON"]);
    let piped = Cli::new(mesh.dir(), None).args(["submit", "word-count", "--input-file", "-"]);
    piped.stdin(vec![b'1'; 9 << 20]).run().exits(2).stderr_has(&["cap"]);
}

#[test]
fn help_and_version_are_exit_0_on_stdout() {
    for args in [&["--help"][..], &["help"], &["up", "--help"], &["tasks", "show", "--help"], &["--version"], &["version"]] {
        let said = alone(args).ok();
        assert!(!said.stdout.is_empty() && said.stderr.is_empty(), "{}", said.told());
    }
    let version = alone(&["--json", "version"]).ok().json();
    alone(&["version"]).stdout_has(&[version["version"].as_str().expect("a version")]);
    for shell in ["bash", "zsh", "fish"] {
        alone(&["completions", shell]).ok().stdout_has(&["clawmesh"]);
    }
}

#[test]
fn a_home_that_cannot_be_made_is_refused_with_its_name() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file can be written");
    let up = Cli::new(&file.join("home"), None).args(["up", "--api-port", "0", "--mesh-port", "0", "--no-mdns", "--loopback-only"]);
    let said = up.run();
    assert!(said.code() > 0, "{}", said.told());
    said.stderr_has(&["file/home"]);
}
