//! A mesh of three nodes, of which one has the real OpenClaw; its model is a server with fixed rules, so no network is needed.
//!
//! `CLAWMESH_OPENCLAW_DIR` names a directory with OpenClaw and the Node.js that it wants, made by
//! `npm install --prefix DIR node@24` and then `npm install --prefix DIR openclaw@2026.9.6` with `DIR/node_modules/.bin` first on
//! PATH.  The model server is `scripted_llm.py` in `../shared/openclaw`, beside this repository.
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use clawmesh_tests::{LONG, Mesh, Node, Said, Value, end_strays, repository, wait_until};

/// OpenClaw alone takes up to a minute on a busy machine, and some failures of a model make it try for longer.
const PATIENCE: Duration = Duration::from_secs(400);

/// Where OpenClaw is installed.
fn openclaw() -> PathBuf {
    let dir = std::env::var_os("CLAWMESH_OPENCLAW_DIR").map(PathBuf::from);
    let dir = dir.expect("CLAWMESH_OPENCLAW_DIR names no directory: the head of tests/tests/openclaw.rs says how one is made");
    let bin = dir.join("node_modules/.bin");
    assert!(bin.join("openclaw").exists(), "there is no OpenClaw in {}: install it as tests/tests/openclaw.rs says", bin.display());
    bin
}

/// The model.  Dropped, it is killed.
struct Model {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Model {
    fn start(dir: &Path) -> Self {
        let script = repository().join("../shared/openclaw/scripted_llm.py");
        assert!(script.is_file(), "the scripted model server is not here: {} does not exist", script.display());
        let log = dir.join("model.jsonl");
        let mut child = Command::new("python3")
            .arg(&script)
            .arg("0")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 is installed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is a pipe")).read_line(&mut line).expect("the model server says where it is");
        let port = line.trim().strip_prefix("ready ").and_then(|p| p.parse().ok());
        Self { port: port.unwrap_or_else(|| panic!("the model server says {line:?}")), child, log }
    }
    /// OpenClaw's configuration with this model.
    fn config(&self, dir: &Path) -> PathBuf {
        let template = repository().join("../shared/openclaw/openclaw.json.template");
        let template = fs::read_to_string(&template).unwrap_or_else(|e| panic!("{}: {e}", template.display()));
        let file = dir.join("openclaw.json");
        fs::write(&file, template.replace("@PORT@", &self.port.to_string())).expect("a file can be written");
        file
    }
    /// All that was asked of it, one JSON object a line.
    fn asked(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
    /// Waits until somebody has asked it this.
    fn asked_for(&self, text: &str) {
        wait_until(&format!("the model is asked {text:?}"), PATIENCE, || if self.asked().contains(text) { Ok(()) } else { Err("not yet") });
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Three nodes; OpenClaw is on the PATH of the last one only.
struct Rig {
    mesh: Mesh,
    model: Model,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn start() -> Self {
        let bin = openclaw();
        let dir = tempfile::tempdir().expect("a directory");
        let model = Model::start(dir.path());
        let skill = dir.path().join("skills/fruit");
        fs::create_dir_all(&skill).expect("a folder can be made");
        let body = "---\nname: fruit\ndescription: Knows what the ripe-word-of-the-day is.\n---\n\nThe ripe word is durian.\n";
        fs::write(skill.join("SKILL.md"), body).expect("a file can be written");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let (config, skills) = (model.config(dir.path()), dir.path().join("skills"));
        let text = |p: &Path| p.to_str().expect("a path in UTF-8").to_owned();
        let args = ["--openclaw-config".to_owned(), text(&config), "--skills".to_owned(), text(&skills)];
        let mesh = Mesh::of(3)
            .args(["--slots", "2"])
            .node_args(0, ["--no-agents"])
            .node_args(1, ["--no-agents"])
            .node_args(2, args)
            .node_env(2, "PATH", &path)
            .start();
        wait_until("the mesh sees OpenClaw on n2", LONG, || {
            let all = mesh[1].get("/api/v1/nodes")?;
            let n2 = all.as_array().and_then(|a| a.iter().find(|m| m["name"] == "n2").cloned()).ok_or("no n2")?;
            if n2["agent"] == "openclaw" && n2["skills"][0] == "fruit" { Ok(()) } else { Err(n2.to_string()) }
        });
        Self { mesh, model, _dir: dir }
    }
    /// Asks through the node that coordinates, which has no OpenClaw.
    fn ask(&self, args: &[&str]) -> Said {
        self.mesh[1].command(["ask"]).args(args).within(PATIENCE).run()
    }
    /// The same without waiting.
    fn asked(&self, args: &[&str]) -> String {
        self.mesh[0].command(["ask", "--id-only"]).args(args).run().ok().out().trim().to_owned()
    }
}

fn newest(node: &Node) -> Value {
    node.tasks("").expect("a list").remove(0)
}

#[test]
#[ignore = "needs npm: a real OpenClaw"]
fn a_real_openclaw_answers_for_a_mesh_of_three() {
    let rig = Rig::start();
    let (mesh, model) = (&rig.mesh, &rig.model);

    // A prompt calls a tool on the one node that has OpenClaw, and the answer comes back.
    rig.ask(&["RUN: echo mesh-$((40+2)) > out.txt; cat out.txt"]).ok().stdout_is("RESULT: mesh-42\n");
    let task = newest(&mesh[0]);
    assert_eq!((&task["attempts"][0]["name"], &task["kind"]), (&"n2".into(), &"prompt".into()), "{task}");
    let id = task["id"].as_str().expect("an id");
    mesh[1].cli(["tasks", "show", id]).ok().stdout_has(&["answered by openclaw with scripted/scripted", "1 call of a tool"]);
    let usage = mesh[1].json(["tasks", "result", id])["output"]["usage"].clone();
    assert!(usage["total_tokens"].as_u64() > Some(0) && usage["tool_calls"] == 1, "{usage}");

    // The named skill is put before the model, and its file is where it says.
    rig.ask(&["RUN: cat skills/fruit/SKILL.md", "--skill", "fruit"]).ok().stdout_has(&["The ripe word is durian."]);
    let asked = model.asked();
    for text in ["$fruit", "ripe-word-of-the-day", "The ripe word is durian."] {
        assert!(asked.contains(text), "the model never saw {text:?}");
    }
    rig.mesh[0].command(["submit", "fruit", "--input", "{\"n\": 7}", "--wait"]).within(PATIENCE).run().ok().stdout_has(&[
        "ECHO:",
        "$fruit",
        "{\"n\": 7}",
    ]);

    // The model fails, the time is over, a person cancels: three different ends.
    rig.ask(&["FAIL: 500"]).exits(1).stderr_has(&["the agent failed:", "HTTP 500"]);
    assert_eq!(newest(&mesh[0])["state"], "failed");
    rig.ask(&["SLEEP: 120\nfor ever", "--timeout", "3s"]).exits(124).stderr_has(&["the agent ran into its timeout of 3s"]);
    assert_eq!(newest(&mesh[0])["state"], "timeout");

    let waits = rig.asked(&["SLEEP: 300\ncancel-me-please"]);
    model.asked_for("cancel-me-please");
    // One agent at a time, and commands go on meanwhile.
    let second = rig.asked(&["the second one"]);
    let explained = mesh[1].json(["tasks", "explain", &second]);
    assert!(explained.to_string().contains("all 1 agent slots are taken"), "{explained}");
    mesh[1].cli(["run", "--node", "n2", "--", "echo", "hi"]).ok().stdout_is("hi\n");
    mesh[1].cli(["tasks", "cancel", &waits]).ok();
    let task = mesh[0].task_until(&waits, "cancelled", LONG);
    assert_eq!(task["attempts"][0]["state"], "cancelled", "{task}");
    mesh[0].task_until(&second, "completed", PATIENCE);
    mesh[0].cli(["tasks", "result", &second]).ok().stdout_has(&["ECHO:", "the second one"]);
}

#[test]
#[ignore = "needs npm: a real OpenClaw"]
fn a_prompt_for_openclaw_survives_the_death_of_its_worker() {
    let rig = Rig::start();
    let mark = rig.mesh.dir().join("mark");
    let script = format!("RUN: test -e {0} || {{ touch {0}; sleep 600; }}; echo survived", mark.display());
    let id = rig.asked(&[&script]);
    wait_until("OpenClaw's tool runs", PATIENCE, || if mark.exists() { Ok(()) } else { Err("not yet") });
    rig.mesh[2].kill();
    end_strays(rig.mesh.dir());
    rig.mesh[2].start();
    let task = rig.mesh[0].task_until(&id, "completed", PATIENCE);
    assert_eq!(task["attempts"].as_array().map(Vec::len), Some(2), "{task}");
    assert_eq!(task["attempts"][0]["state"], "crashed", "{task}");
    rig.mesh[1].cli(["tasks", "result", &id]).ok().stdout_has(&["RESULT: survived"]);
}
