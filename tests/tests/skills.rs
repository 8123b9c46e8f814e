//! Skills as folders on one node, seen from another one.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use clawmesh_tests::{Cli, Mesh, Node, Value, json, wait_until};

/// What is promised is two seconds; the rest is for a machine that is busy with other tests.
const NOTICED: Duration = Duration::from_secs(2 + 10);

fn put(dir: &Path, name: &str, front: &str) {
    let folder = dir.join(name);
    fs::create_dir_all(&folder).expect("a folder can be made");
    // In one step, as editors do: a half-written file would be one change more.
    let file = folder.join("SKILL.md");
    fs::write(file.with_extension("new"), format!("---\n{front}\n---\nBody.\n")).expect("a file can be written");
    fs::rename(file.with_extension("new"), file).expect("a file can be put in place");
}

/// The skill as a node lists it for the whole mesh.
fn listed(node: &Node, name: &str) -> Option<Value> {
    let all = node.json(["skills", "ls"]);
    all.as_array().expect("an array").iter().find(|skill| skill["name"] == name).cloned()
}

#[track_caller]
fn soon<T>(what: &str, ask: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    let found = wait_until(what, NOTICED, ask);
    println!("{what}: {:.2} s", started.elapsed().as_secs_f64());
    found
}

#[test]
fn what_appears_changes_or_vanishes_in_a_folder_is_seen_by_the_other_nodes() {
    let mesh = Mesh::start(3);
    let skills = mesh[2].home().join("skills");
    let there = |name: &'static str| {
        let mesh = &mesh;
        move || listed(&mesh[0], name).ok_or_else(|| mesh[0].json(["skills", "ls"]).to_string())
    };
    put(&skills, "first", "name: first\ndescription: \"One\"");
    let first = soon("a folder that appears is listed elsewhere", there("first"));
    assert_eq!(first["description"], "One");

    // What is broken changes nothing for what is not.
    put(&skills, "broken", "name: broken\nnothing: [");
    put(&skills, "second", "name: second\ndescription: Use for: this\nmetadata: {\"openclaw\": {\"requires\": {\"bins\": [\"sh\"]}}}");
    soon("a folder beside a broken one is listed elsewhere", there("second"));
    put(
        &skills,
        "elsewhere",
        "name: elsewhere\ndescription: x\nmetadata: {\"openclaw\": {\"requires\": {\"bins\": [\"no-such-program-here\"]}}}",
    );

    put(&skills, "first", "name: first\ndescription: \"Two\"");
    let edited = soon("an edit is seen elsewhere", || match there("first")() {
        Ok(skill) if skill["hash"] != first["hash"] => Ok(skill),
        Ok(skill) => Err(skill.to_string()),
        Err(seen) => Err(seen),
    });
    assert_eq!(edited["description"], "Two");

    fs::remove_dir_all(skills.join("first")).expect("a folder can be removed");
    soon("a folder that vanishes is gone elsewhere", || listed(&mesh[0], "first").map_or(Ok(()), |skill| Err(skill.to_string())));
    assert!(listed(&mesh[0], "second").is_some() && listed(&mesh[0], "broken").is_none() && listed(&mesh[0], "elsewhere").is_none());

    // The node itself tells of all of them.
    let all = mesh[2].json(["skills", "ls", "--all"]);
    let of = |name: &str| all.as_array().expect("an array").iter().find(|skill| skill["name"] == name).cloned().unwrap_or_default();
    assert_eq!((&of("second")["verdict"], &of("second")["eligible"]), (&json!("ok"), &json!(true)), "{all}");
    assert_eq!((&of("broken")["verdict"], &of("broken")["code"]), (&json!("rejected"), &json!("BAD_INDENT")), "{all}");
    assert_eq!(of("elsewhere")["missing"]["bins"], json!(["no-such-program-here"]), "{all}");
    mesh[2].cli(["skills", "ls", "--all"]).ok().stdout_has(&["BAD_INDENT", "program no-such-program-here is not on PATH", "3 found"]);
    assert_eq!(mesh[0].json(["skills", "ls", "--all"]), json!([]), "the others have nothing of their own");
}

#[test]
fn a_program_that_is_installed_makes_its_skill_appear() {
    let bin = tempfile::tempdir().expect("a directory can be made");
    let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").expect("a PATH"));
    let mesh = Mesh::of(2).node_env(1, "PATH", &path).start();
    let front = "name: needy\ndescription: x\nmetadata: {\"openclaw\": {\"requires\": {\"bins\": [\"a-new-program\"]}}}";
    put(&mesh[1].home().join("skills"), "needy", front);
    soon("the node itself has found it", || match mesh[1].json(["skills", "ls", "--all"]) {
        all if all[0]["name"] == "needy" => Ok(()),
        all => Err(all.to_string()),
    });
    assert!(listed(&mesh[0], "needy").is_none());
    let program = bin.path().join("a-new-program");
    fs::write(&program, "#!/bin/sh\n").expect("a file can be written");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it may be run");
    }
    soon("it is listed elsewhere", || listed(&mesh[0], "needy").ok_or("not yet".to_owned()));
    fs::remove_file(&program).expect("a file can be removed");
    soon("it is gone elsewhere", || listed(&mesh[0], "needy").map_or(Ok(()), |skill| Err(skill.to_string())));
}

#[test]
fn the_skills_of_an_openclaw_are_taken_unless_it_is_left_out() {
    let mut mesh = Mesh::start(1);
    let user = mesh.add(|node| node.openclaw_skills()).user_home();
    put(&user.join(".openclaw/workspace/skills"), "writing", "name: writing\ndescription: x");
    put(&mesh[0].user_home().join(".openclaw/workspace/skills"), "hidden", "name: hidden\ndescription: x");
    soon("a skill in OpenClaw's workspace is listed elsewhere", || listed(&mesh[0], "writing").ok_or("not yet".to_owned()));
    fs::write(user.join(".openclaw/openclaw.json"), "{skills: {entries: {writing: {enabled: false}}}}").expect("a file can be written");
    soon("switched off there, it is gone", || listed(&mesh[0], "writing").map_or(Ok(()), |skill| Err(skill.to_string())));
    mesh[1].cli(["skills", "ls", "--all"]).ok().stdout_has(&["writing", "not usable here", "skills.entries.writing.enabled"]);
    assert!(listed(&mesh[1], "hidden").is_none(), "the first node was told to leave OpenClaw alone");
}

#[test]
fn a_check_needs_no_node_and_tells_of_every_file() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let skills = dir.path().join("skills");
    put(
        &skills,
        "good",
        "name: good\ndescription: Use for: this\nmetadata:\n  openclaw: {os: [macos, linux], requires: {bins: [sh], env: [NOT_SET_HERE]}}",
    );
    put(&skills, "good/nested/inside", "description: x");
    put(&skills, ".hidden", "name: hidden\ndescription: x");
    put(&skills, "bad", "name: bad\nnothing: [");
    fs::write(skills.join("README.md"), "no skill").expect("a file can be written");
    let check = || Cli::bare(dir.path()).args(["skills", "check"]).arg(&skills);
    let all = check().arg("--json").run().ok().json();
    let names: Vec<&str> = all.as_array().expect("an array").iter().filter_map(|skill| skill["name"].as_str()).collect();
    assert_eq!(names, ["hidden", "bad", "good", "inside"], "each file, in the order of the paths: {all}");
    let good = &all[2];
    assert_eq!(good["path"], skills.join("good/SKILL.md").to_str().expect("a path in UTF-8"));
    for (field, value) in [
        ("verdict", json!("ok")),
        ("code", Value::Null),
        ("description", json!("Use for: this")),
        ("requires", json!({"bins": ["sh"], "anyBins": [], "env": ["NOT_SET_HERE"], "config": []})),
        ("os", json!(["darwin", "linux"])),
        ("eligible", json!(false)),
        ("missing", json!({"bins": [], "anyBins": [], "env": ["NOT_SET_HERE"], "config": [], "os": []})),
    ] {
        assert_eq!(good[field], value, "{field} of {good}");
    }
    assert_eq!((&all[1]["verdict"], &all[1]["code"]), (&json!("rejected"), &json!("BAD_INDENT")));
    // A skill's own folder may be named as well.
    let one = Cli::bare(dir.path()).args(["--json", "skills", "check"]).arg(skills.join("bad")).run().ok().json();
    assert_eq!(one.as_array().map(Vec::len), Some(1));
    check().run().ok().stdout_has(&["good", "not usable here", "NOT_SET_HERE is not set", "read as \"darwin\"", "BAD_INDENT", "4 found"]);
    check().arg("--strict").run().exits(1);
    let absent = Cli::bare(dir.path()).args(["skills", "check"]).arg(dir.path().join("absent")).run().exits(2);
    assert!(absent.err().contains("absent"), "{}", absent.told());
    // Without a directory: where `up` would look.
    put(&dir.path().join(".clawmesh/skills"), "mine", "name: mine\ndescription: x");
    put(&dir.path().join(".openclaw/skills"), "managed", "name: managed\ndescription: x");
    let own = |args: &[&str]| Cli::bare(dir.path()).args(["skills", "check", "--json"]).args(args).run().ok().json();
    let has = |all: &Value, name: &str| all.as_array().expect("an array").iter().any(|skill| skill["name"] == name);
    let (with, without) = (own(&[]), own(&["--no-openclaw-skills"]));
    assert!(has(&with, "mine") && has(&with, "managed"), "{with}");
    assert!(has(&without, "mine") && !has(&without, "managed"), "{without}");
}
