//! Any node answers for the skills of the whole mesh.

use std::{fs, path::Path};

use clawmesh_tests::{LONG, Mesh, Node, Value, json, wait_until};

/// A skill that repeats its input, with these lines in its `metadata.clawmesh`.
fn plant(dir: &Path, name: &str, version: &str, more: &str) {
    let folder = dir.join(name);
    fs::create_dir_all(&folder).expect("a directory can be made");
    let text = format!(
        "---\nname: {name}\ndescription: Repeats what it is given, as {name}.\nmetadata:\n  clawmesh:\n    run: [cat]\n    input: text\n    version: {version}\n{more}---\n# {name}\n"
    );
    fs::write(folder.join("SKILL.md"), text).expect("a file can be written");
}

/// `app` on n0 needs `lib`, of which n1 and n2 have two versions, and `lib` needs what nobody has.
fn mesh_with_skills() -> (tempfile::TempDir, Mesh) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let at = |n: usize| dir.path().join(n.to_string());
    plant(&at(0), "app", "1.0.0", "    category: system\n    tags: [Desk, tool]\n    depends: ['lib >=1, <2']\n");
    plant(&at(1), "lib", "1.4.0", "    category: data_processing\n    tags: [tool]\n    depends: [gone, app]\n");
    plant(&at(2), "lib", "2.0.0", "    resources: {cpu: 0.5, memory: 64MiB}\n    timeout: 7s\n");
    let mut mesh = Mesh::of(3);
    for n in 0..3 {
        mesh = mesh.node_args(n, ["--skills", at(n).to_str().expect("a path in UTF-8")]);
    }
    let mesh = mesh.start();
    for node in mesh.nodes() {
        wait_until("every node knows three skills", LONG, || {
            let all = node.get("/api/v1/skills")?;
            if all.as_array().map(Vec::len) == Some(3) { Ok(()) } else { Err(all.to_string()) }
        });
    }
    (dir, mesh)
}

fn found(node: &Node, args: &[&str]) -> Vec<String> {
    let all = node.json(["skills", "find"].iter().chain(args));
    let one = |s: &Value| format!("{}@{}", s["name"].as_str().unwrap_or_default(), s["version"].as_str().unwrap_or_default());
    all.as_array().into_iter().flatten().map(one).collect()
}

#[test]
fn skills_are_found_by_words_tag_and_category_on_every_node() {
    let (_dir, mesh) = mesh_with_skills();
    for node in mesh.nodes() {
        assert_eq!(found(node, &["repeats", "app"]), ["app@1.0.0"]);
        assert_eq!(found(node, &["--tag", "tool"]), ["app@1.0.0", "lib@1.4.0"]);
        assert_eq!(found(node, &["--tag", "TOOL", "--category", "Data_Processing"]), ["lib@1.4.0"]);
        assert_eq!(found(node, &["--name", "li"]), Vec::<String>::new());
        assert_eq!(found(node, &["li"]).len(), 2, "the beginning of a word is enough");
        node.cli(["skills", "find", "zebra"]).ok().stderr_has(&["no node"]);
        node.cli(["skills", "find"]).exits(2);
        let dht = node.json(["skills", "find", "--dht", "app"]);
        assert_eq!(dht.as_array().map(Vec::len), Some(1), "{dht}");
    }
    let shown = mesh[0].json(["skills", "show", "lib"]);
    let second = shown.as_array().into_iter().flatten().find(|s| s["version"] == "2.0.0").cloned().expect("the second version");
    assert_eq!((&second["resources"]["cpu"], &second["resources"]["memory_mib"]), (&json!(0.5), &json!(64)), "{second}");
    assert_eq!((&second["timeout_ms"], &second["input"], &second["instances"][0]["name"]), (&json!(7000), &json!("text"), &json!("n2")));
    mesh[0]
        .cli(["skills", "show", "lib"])
        .ok()
        .stdout_has(&["0.5 cores", "64 MiB", "at most 7s", "not run yet"])
        .stderr_has(&["2 different"]);
    let bad = mesh[0].api("GET", "/api/v1/skills?tags=x", None).expect("an answer");
    assert_eq!(bad.status, 400, "{}", bad.body);
}

#[test]
fn needs_are_resolved_with_what_is_missing_and_circles_as_paths() {
    let (_dir, mesh) = mesh_with_skills();
    let r = mesh[2].json(["skills", "resolve", "app"]);
    assert_eq!((&r["direct"], &r["missing"]), (&json!(["lib"]), &json!(["gone"])), "{r}");
    assert_eq!((&r["all"], &r["cycles"]), (&json!(["lib", "app"]), &json!([["app", "lib", "app"]])), "{r}");
    mesh[2].cli(["skills", "resolve", "app"]).ok().stdout_has(&["gone, which 'lib' needs", "app -> lib -> app"]);
    assert_eq!(mesh[1].json(["skills", "resolve", "nobody"])["missing"], json!(["nobody"]));
    // The version that would do goes with its node.
    mesh[1].stop();
    wait_until("the first version is gone", LONG, || {
        let r = mesh[2].get("/api/v1/skills/resolve?name=app")?;
        if r["missing"] == json!(["lib"]) { Ok(()) } else { Err(r.to_string()) }
    });
    mesh[0].cli(["skills", "resolve", "app"]).ok().stdout_has(&["lib >=1, <2, which 'app' needs: only 2.0.0 is offered"]);
}

#[test]
fn how_a_skill_has_run_is_known_everywhere_and_survives_its_node() {
    let (_dir, mesh) = mesh_with_skills();
    for _ in 0..4 {
        mesh[1].cli(["submit", "app", "--input-text", "hello", "--wait"]).ok().stdout_is("hello");
    }
    let figures = |runs: u64| {
        for node in mesh.nodes() {
            wait_until(&format!("{} knows of {runs} runs", node.name()), LONG, || {
                let s = node.get("/api/v1/skills?name=app")?;
                let i = &s[0]["instances"][0];
                if i["runs"] == runs && i["success_rate"] == 1.0 && i["last_used"].is_u64() && i["p95_ms"].is_u64() {
                    Ok(())
                } else {
                    Err(s.to_string())
                }
            });
        }
    };
    figures(4);
    mesh[0].kill();
    for node in [&mesh[1], &mesh[2]] {
        wait_until("its only instance has vanished", LONG, || {
            let s = node.get("/api/v1/skills?name=app")?;
            if s == json!([]) { Ok(()) } else { Err(s.to_string()) }
        });
    }
    mesh[0].start();
    mesh.settled();
    mesh[2].cli(["submit", "app", "--input-text", "again", "--wait"]).ok().stdout_is("again");
    figures(5);
}
