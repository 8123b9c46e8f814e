//! Skills given away by one node and taken in by another: always asked for, never by themselves.

use std::{fs, path::Path};

use clawmesh_tests::{LONG, Mesh, Node, Value, json, wait_until};

fn skill(dir: &Path, name: &str, says: &str) -> String {
    fs::create_dir_all(dir.join("scripts")).expect("a folder");
    let text = format!(
        "---\nname: {name}\ndescription: says something\nmetadata:\n  clawmesh:\n    run: [sh, \"{{baseDir}}/scripts/say.sh\"]\n    input: none\n    output: text\n---\nText.\n"
    );
    fs::write(dir.join("SKILL.md"), text).expect("a file");
    fs::write(dir.join("scripts/say.sh"), format!("echo {says}\n")).expect("a file");
    dir.to_string_lossy().into_owned()
}

fn offered(node: &Node, name: &str, count: usize) -> Value {
    wait_until(&format!("{} hears of {count} offers of {name}", node.name()), LONG, || {
        let found = node.get(&format!("/api/v1/offers?name={name}"))?;
        if found.as_array().is_some_and(|a| a.len() == count) { Ok(found) } else { Err(found.to_string()) }
    })
}

/// What lies in the folder of skills, hidden things included.
fn folder(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.home().join("skills")).into_iter().flatten();
    let mut all: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    all.sort();
    all
}

fn runs_there(submitter: &Node, on: &str, name: &str, says: &str) {
    wait_until(&format!("{name} on {on} says {says}"), LONG, || {
        let said = submitter.cli(["submit", name, "--node", on, "--wait", "--wait-timeout", "20s"]);
        if said.code() == 0 && said.out().trim() == says { Ok(()) } else { Err(said.told()) }
    });
}

#[test]
fn a_skill_is_published_installed_run_updated_and_removed() {
    let mesh = Mesh::start(2);
    let [a, b] = [&mesh[0], &mesh[1]];
    let dir = mesh.dir().join("work/greet");
    let path = skill(&dir, "greet", "one");
    a.cli(["skills", "publish", &path]).ok().stdout_has(&["published greet@", "2 files"]);
    let offer = offered(b, "greet", 1);
    // Published is not installed: nobody runs it yet.
    assert!(folder(b).is_empty() && !b.cli(["skills"]).ok().out().contains("greet"));
    b.cli(["skills", "install", "greet", "--dry-run"]).ok().stderr_has(&["published by n0", "SKILL.md, scripts/say.sh", "runs a command"]);
    assert!(folder(b).is_empty());
    let installed = b.json(["skills", "install", "greet"]);
    assert_eq!(installed["hash"], offer[0]["hash"]);
    assert_eq!((&installed["publisher_name"], &installed["publisher"]), (&"n0".into(), &offer[0]["node"]));
    assert_eq!(folder(b), ["greet"]);
    runs_there(a, "n1", "greet", "one");
    // The registry knows it under the hash that was published: the note of its origin is no part of it.
    let listed = b.json(["skills"]);
    let hashes: Vec<&Value> = listed.as_array().expect("skills").iter().filter(|s| s["name"] == "greet").map(|s| &s["hash"]).collect();
    assert_eq!(hashes, [&offer[0]["hash"]]);
    b.cli(["skills", "origin"]).ok().stdout_has(&["greet", "n0", "as installed"]);

    // A new version: nothing changes by itself.
    skill(&dir, "greet", "two");
    a.cli(["skills", "publish", &path]).ok();
    b.cli(["skills", "update", "greet"]).ok().stdout_has(&["installed into"]);
    runs_there(a, "n1", "greet", "two");
    b.cli(["skills", "update"]).ok().stderr_has(&["it is the latest"]);

    // Changed by hand: not lost unless asked.
    fs::write(b.home().join("skills/greet/scripts/say.sh"), "echo mine\n").expect("a file");
    b.cli(["skills", "origin", "greet"]).ok().stdout_has(&["changed by hand"]);
    b.cli(["skills", "remove", "greet"]).exits(1).stderr_has(&["--force"]);
    b.cli(["skills", "install", "greet"]).exits(1).stderr_has(&["was changed"]);
    b.cli(["skills", "remove", "greet", "--force"]).ok();
    assert!(folder(b).is_empty());
    b.cli(["skills", "remove", "greet"]).exits(1);

    // One's own skill of the same name stays.
    skill(&b.home().join("skills/greet"), "greet", "own");
    b.cli(["skills", "install", "greet"]).exits(1).stderr_has(&["is yours"]);
    // Taken back, and gone for others; kept over restarts of the publisher until then.
    a.kill();
    a.start();
    mesh.settled();
    offered(b, "greet", 1);
    a.cli(["skills", "publish", "--withdraw", "greet"]).ok();
    offered(b, "greet", 0);
    b.cli(["skills", "install", "greet"]).exits(1).stderr_has(&["no node in reach has published"]);
}

#[test]
fn two_skills_of_one_name_are_told_apart() {
    let mesh = Mesh::start(3);
    for (node, says) in [(0, "one"), (1, "two")] {
        let path = skill(&mesh.dir().join(says), "greet", says);
        mesh[node].cli(["skills", "publish", &path]).ok();
    }
    let offers = offered(&mesh[2], "greet", 2);
    let said = mesh[2].cli(["skills", "install", "greet"]).exits(1).stderr_has(&["2 different skills", "from n0", "from n1"]);
    drop(said);
    assert!(folder(&mesh[2]).is_empty());
    let second = offers.as_array().expect("offers").iter().find(|o| o["node_name"] == "n1").expect("its offer").clone();
    let at = format!("greet@{}", &second["hash"].as_str().expect("a hash")[..10]);
    mesh[2].cli(["skills", "install", &at]).ok().stderr_has(&["published by n1"]);
    runs_there(&mesh[0], "n2", "greet", "two");
    mesh[2].cli(["skills", "install", "greet", "--from", "n0"]).ok().stderr_has(&["published by n0"]);
    runs_there(&mesh[0], "n2", "greet", "one");
    // The same content from two nodes is one skill.
    mesh[1].cli(["skills", "publish", &mesh.dir().join("one").to_string_lossy()]).ok();
    offered(&mesh[2], "greet", 2);
    mesh[2].cli(["skills", "install", "greet"]).ok();
    mesh[2].cli(["skills", "install", "nothing"]).exits(1).stderr_has(&["no node in reach"]);
}

/// An archive as a stranger might write it.
fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, kind, content) in entries {
        let mut head = tar::Header::new_gnu();
        head.set_entry_type(*kind);
        head.set_size(content.len() as u64);
        head.set_mode(0o644);
        head.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        if kind.is_symlink() {
            head.as_old_mut().linkname[..4].copy_from_slice(b"/etc");
        }
        head.set_cksum();
        tar.append(&head, *content).expect("memory takes it");
    }
    tar.into_inner().expect("memory takes it")
}

#[test]
fn a_hostile_publisher_gets_nothing_onto_the_disk() {
    use tar::EntryType as T;
    let mesh = Mesh::start(2);
    let [evil, victim] = [&mesh[0], &mesh[1]];
    let md = b"---\nname: evil\ndescription: x\n---\n";
    let many: Vec<(String, T, &[u8])> = (0..1_500).map(|n| (format!("f{n}"), T::Regular, &b""[..])).collect();
    let many: Vec<(&str, T, &[u8])> = many.iter().map(|(p, k, c)| (p.as_str(), *k, *c)).collect();
    let bombs: Vec<(&str, Vec<u8>)> = vec![
        ("climbs", archive(&[("SKILL.md", T::Regular, md), ("../../escaped", T::Regular, b"x")])),
        ("absolute", archive(&[("/tmp/clawmesh-escaped", T::Regular, b"x")])),
        ("link", archive(&[("SKILL.md", T::Regular, md), ("out", T::Symlink, b""), ("out/escaped", T::Regular, b"x")])),
        ("device", archive(&[("null", T::Char, b"")])),
        ("cases", archive(&[("a", T::Regular, b"x"), ("A", T::Regular, b"y")])),
        ("reserved", archive(&[("con.txt", T::Regular, b"x")])),
        ("many", archive(&many)),
        ("noise", vec![0x5a; 50_000]),
        ("empty", Vec::new()),
    ];
    for (name, bytes) in &bombs {
        let file = mesh.dir().join(name);
        fs::write(&file, bytes).expect("a file");
        let blob = evil.json(["blobs", "put", &file.to_string_lossy()]);
        let offer = json!({ "name": name, "hash": "ab".repeat(32), "blob": blob["hash"], "len": bytes.len(), "files": 1, "description": "",
                            "runs": false, "published_at": 1 });
        let answer = evil.api("POST", "/api/v1/offers", Some(&offer)).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        offered(victim, name, 1);
        let said = victim.cli(["skills", "install", name]).exits(1);
        println!("{name}: {}", said.err().lines().next().unwrap_or_default());
        assert!(folder(victim).is_empty(), "{name} left {:?}", folder(victim));
    }
    assert!(
        !mesh.dir().join("escaped").exists() && !victim.home().join("escaped").exists() && !Path::new("/tmp/clawmesh-escaped").exists()
    );
    // A good archive under a false hash, and a skill under another's name.
    let path = skill(&mesh.dir().join("good"), "good", "x");
    evil.cli(["skills", "publish", &path]).ok();
    let good = offered(victim, "good", 1)[0].clone();
    for (name, hash) in [("good", "cd".repeat(32)), ("famous", good["hash"].as_str().expect("a hash").to_owned())] {
        let mut lie = good.clone();
        (lie["name"], lie["hash"]) = (name.into(), hash.into());
        let fields = lie.as_object_mut().expect("an object");
        fields.remove("node");
        fields.remove("node_name");
        assert_eq!(evil.api("POST", "/api/v1/offers", Some(&lie)).expect("an answer").status, 200);
        wait_until("the lie is heard", LONG, || {
            let now = victim.get(&format!("/api/v1/offers?name={name}"))?;
            if now[0]["hash"] == lie["hash"] { Ok(()) } else { Err(now.to_string()) }
        });
        victim.cli(["skills", "install", name]).exits(1).stderr_has(&["not installed"]);
    }
    assert!(folder(victim).is_empty());
}
