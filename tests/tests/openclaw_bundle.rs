//! The bundle in `deploy/openclaw` in a real OpenClaw: installed by its own command, and used by an agent of it.  And OpenClaw's
//! own A2A channel, which needs no bundle.
//!
//! The model is scripted (`tests/openclaw/model.py`); everything else is real.  Needs a directory with Node 24 and OpenClaw from
//! npm, which `CLAWMESH_OPENCLAW_DIR` names; tests/README.md says how to make one.
#![cfg(unix)]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use clawmesh_tests::{LONG, Mesh, Value, binary, json, repository, wait_until};

/// Names the directory.
const DIR: &str = "CLAWMESH_OPENCLAW_DIR";
/// Longest time of one command of OpenClaw on a busy machine with two cores.
const LIMIT: Duration = Duration::from_secs(180);

/// An OpenClaw with a home of its own, in which `clawmesh` is on the path and finds the node.
struct OpenClaw {
    home: PathBuf,
    path: String,
}

impl OpenClaw {
    fn new(dir: &Path, node: &Path) -> Self {
        let installed = std::env::var_os(DIR).map(PathBuf::from).unwrap_or_else(|| {
            panic!("{DIR} must name a directory with OpenClaw, made by: npm install node@24, and then npm install openclaw@2026.9.6 with node_modules/.bin first on the path")
        });
        let bin = installed.join("node_modules/.bin");
        assert!(bin.join("openclaw").exists(), "{DIR} names {}, where no OpenClaw is installed", installed.display());
        let home = dir.join("openclaw-home");
        let ours = dir.join("bin");
        fs::create_dir_all(&home).expect("a directory can be made");
        fs::create_dir_all(&ours).expect("a directory can be made");
        symlink(node, home.join(".clawmesh")).expect("a link can be made");
        symlink(binary(), ours.join("clawmesh")).expect("a link can be made");
        let rest = std::env::var("PATH").unwrap_or_default();
        Self { home, path: format!("{}:{}:{rest}", ours.display(), bin.display()) }
    }
    fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new("openclaw");
        command.env_clear().env("HOME", &self.home).env("PATH", &self.path).env("NO_COLOR", "1").args(args).current_dir(&self.home);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("openclaw can be started");
        let out = ended(child, args);
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "openclaw {args:?}: {}\n{stdout}\n{stderr}", out.status);
        stdout.into_owned()
    }
    /// A turn of an agent with this request; returns its answer.
    fn agent(&self, config: &Path, request: &str) -> String {
        let (work, message) = (self.home.join("work"), self.home.join("message"));
        fs::create_dir_all(&work).expect("a directory can be made");
        fs::write(&message, request).expect("a file can be written");
        let [config, work, message] = [config, &work, &message].map(|p| p.to_str().expect("a path in UTF-8"));
        let said = self.run(&["agent", "exec", "--config", config, "--cwd", work, "--json", "--timeout", "120", "--message-file", message]);
        let envelope: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        assert_eq!(envelope["status"], "ok", "{envelope}");
        envelope["final"].as_str().expect("a text").to_owned()
    }
}

fn ended(mut child: Child, what: &[&str]) -> Output {
    fn reader(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
        thread::spawn(move || {
            let mut all = Vec::new();
            // What came before an error is what there is.
            drop(pipe.read_to_end(&mut all));
            all
        })
    }
    let begin = Instant::now();
    let (out, err) = (reader(child.stdout.take().expect("a pipe")), reader(child.stderr.take().expect("a pipe")));
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Output { status, stdout: out.join().expect("it is read"), stderr: err.join().expect("it is read") };
        }
        if begin.elapsed() > LIMIT {
            drop(child.kill());
            panic!("openclaw {what:?} had not ended after {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The scripted model.  Dropped, it is killed.
struct Model {
    child: Child,
    config: PathBuf,
}

impl Model {
    fn start(dir: &Path) -> Self {
        let script = repository().join("tests/openclaw/model.py");
        let mut child =
            Command::new("python3").arg(script).arg(dir.join("model.jsonl")).stdout(Stdio::piped()).spawn().expect("python3 is here");
        let mut ready = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut ready).expect("it says its port");
        let port: u16 = ready.trim().strip_prefix("ready ").and_then(|p| p.parse().ok()).expect("a port");
        let config = dir.join("openclaw.json");
        let model = json!({ "id": "scripted", "name": "scripted", "reasoning": false, "input": ["text"], "contextWindow": 32_000, "maxTokens": 1_024,
            "cost": { "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0 } });
        let provider =
            json!({ "baseUrl": format!("http://127.0.0.1:{port}/v1"), "apiKey": "unused", "api": "openai-completions", "models": [model] });
        let all = json!({ "models": { "providers": { "scripted": provider } }, "agents": { "defaults": { "model": { "primary": "scripted/scripted" } } } });
        fs::write(&config, all.to_string()).expect("a file can be written");
        Self { child, config }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
#[ignore = "needs npm: a real OpenClaw"]
fn an_agent_of_a_real_openclaw_submits_through_the_bundle() {
    let skills = repository().join("deploy/skills");
    let mesh = Mesh::of(3).node_args(2, ["--skills", skills.to_str().expect("a path in UTF-8")]).start();
    let openclaw = OpenClaw::new(mesh.dir(), mesh[0].home());
    let bundle = repository().join("deploy/openclaw");

    openclaw.run(&["plugins", "install", "--force", "--accept-capabilities", bundle.to_str().expect("a path in UTF-8")]);
    assert!(openclaw.run(&["plugins", "list"]).contains("clawmesh"));
    let inspected = openclaw.run(&["plugins", "inspect", "clawmesh"]);
    assert!(inspected.contains("Agent Plugins") && inspected.contains("mcpServers") && inspected.contains("enabled"), "{inspected}");
    let listed: Value = serde_json::from_str(&openclaw.run(&["skills", "list", "--json"])).expect("JSON");
    let ours = listed["skills"].as_array().and_then(|all| all.iter().find(|s| s["name"] == "clawmesh").cloned());
    assert_eq!(ours.as_ref().map(|s| &s["eligible"]), Some(&json!(true)), "{ours:?}");

    // With many tools OpenClaw shows a model three of its own, by which it finds and calls the others.
    let model = Model::start(mesh.dir());
    let script = "echo from-$((40+2)); hostname >/dev/null";
    let submit = json!({ "id": "clawmesh__submit", "args": { "command": ["sh", "-c", script], "node": "n1" } });
    let by_id = |tool: &str| json!({ "id": tool, "args": { "task": "@ID" } });
    let request =
        format!("TOOL: tool_call {submit}\nTOOL: tool_call {}\nTOOL: tool_call {}\n", by_id("clawmesh__wait"), by_id("clawmesh__result"));
    let answer = openclaw.agent(&model.config, &request);
    assert!(answer.starts_with("RESULT: ") && answer.contains("from-42") && answer.contains("completed"), "{answer}");
    let ran = mesh[2].tasks("completed").expect("a list");
    assert_eq!((ran.len(), &ran[0]["attempts"][0]["name"]), (1, &json!("n1")), "{ran:?}");
    assert!(ran[0]["user"].as_str().is_some_and(|u| u.ends_with("(mcp)")), "the task says who submitted it: {}", ran[0]);

    let skill = json!({ "id": "clawmesh__run_skill", "args": { "skill": "word-count", "input_text": "to be or not to be" } });
    let answer = openclaw.agent(&model.config, &format!("TOOL: tool_call {skill}\n"));
    assert!(answer.contains("completed") && answer.contains("words"), "{answer}");
    // Found by what it does, as a model would.
    let answer = openclaw.agent(&model.config, "TOOL: tool_search {\"query\": \"run a skill on the mesh\"}\n");
    assert!(answer.contains("clawmesh__run_skill"), "{answer}");
}

#[test]
#[ignore = "needs npm: a real OpenClaw"]
fn the_a2a_channel_of_a_real_openclaw_submits_a_task() {
    let skills = repository().join("deploy/skills");
    let mesh = Mesh::of(2).node_args(1, ["--skills", skills.to_str().expect("a path in UTF-8")]).start();
    wait_until("the first node knows the skills of the other", LONG, || {
        let skills = mesh[0].get("/api/v1/skills")?;
        if skills.to_string().contains("word-count") { Ok(()) } else { Err(skills.to_string()) }
    });
    let openclaw = OpenClaw::new(mesh.dir(), mesh[0].home());
    let (addr, token) = (mesh[0].api_addr().expect("an address"), mesh[0].token().expect("a token"));
    let peer = json!({ "token": "for the other way, which is not used", "url": format!("http://{addr}/a2a/v1"), "outboundToken": token });
    let config = json!({ "gateway": { "mode": "local" }, "channels": { "a2a": { "enabled": true, "peers": { "clawmesh": peer } } } });
    fs::create_dir_all(openclaw.home.join(".openclaw")).expect("a directory can be made");
    fs::write(openclaw.home.join(".openclaw/openclaw.json"), config.to_string()).expect("a file can be written");

    let said = openclaw.run(&[
        "message",
        "send",
        "--channel",
        "a2a",
        "--target",
        "a2a:clawmesh",
        "--message",
        "$word-count to be or not to be",
        "--json",
    ]);
    let done = wait_until("the task has completed", LONG, || {
        let mut done = mesh[1].tasks("completed")?;
        done.pop().ok_or_else(|| format!("no task; OpenClaw said {said}"))
    });
    assert_eq!((&done["skill"], &done["user"]), (&json!("word-count"), &json!("a2a:ctx-oc-clawmesh")), "{done}");
    // OpenClaw keeps the task's id as that of its message.
    assert!(said.contains(done["id"].as_str().expect("an id")), "{said}");
}

#[test]
#[ignore = "needs npm: a real OpenClaw"]
fn the_memory_of_a_real_openclaw_finds_notes_of_the_mesh_and_distrusts_them() {
    let shared = tempfile::tempdir().expect("a temporary directory");
    let workspace = shared.path().join("workspace");
    fs::create_dir(&workspace).expect("a directory can be made");
    let dir = workspace.to_str().expect("a path in UTF-8");
    let mesh = Mesh::of(2).node_args(0, ["--memory"]).node_args(1, ["--memory", dir]).start();
    mesh[1].cli(["memory", "note", "the zanzibar server has the quokka model"]).ok();
    // One node keeps them in its home, the other one in the agent's workspace.
    let pages = [mesh[0].home().join("memory/mesh/n1"), workspace.join("memory/mesh/n1")];
    for page in &pages {
        wait_until(&format!("a page in {}", page.display()), LONG, || match fs::read_dir(page).map(Iterator::count) {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let openclaw = OpenClaw::new(shared.path(), mesh[0].home());
    let settings = openclaw.home.join(".openclaw");
    fs::create_dir_all(&settings).expect("a directory can be made");
    let config = json!({
        "agents": { "defaults": { "workspace": workspace } },
        "memory": { "search": { "provider": "none", "extraPaths": [mesh[0].home().join("memory/mesh")] } },
    });
    fs::write(settings.join("openclaw.json"), config.to_string()).expect("a file can be written");
    openclaw.run(&["memory", "index", "--force"]);
    let said = openclaw.run(&["memory", "search", "quokka zanzibar", "--json"]);
    let found: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
    let classes: Vec<(bool, &Value)> = found["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|r| {
            assert!(r["snippet"].as_str().is_some_and(|s| s.contains("> the zanzibar server") && s.contains("Untrusted text")), "{r}");
            (r["path"].as_str().is_some_and(|p| p.starts_with("memory/mesh/n1/")), &r["provenance"]["originClass"])
        })
        .collect();
    // OpenClaw itself takes what lies in its workspace for its own agent's words, so the node's home is where they go unless asked.
    assert!(classes.len() == 2 && classes.contains(&(false, &json!("untrusted"))) && classes.contains(&(true, &json!("agent"))), "{said}");
}
