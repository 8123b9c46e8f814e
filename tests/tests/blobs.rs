//! Shared blobs: any file, put on one node and got on another, whatever happens in between.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use clawmesh_tests::{AGES, LONG, Mesh, Node, Value, wait_until};

/// Of tests that run by default.
const LARGE: usize = 64 << 20;

/// A file of noise that is never the same twice.
fn noise(dir: &Path, name: &str, len: usize) -> PathBuf {
    let path = dir.join(name);
    let mut file = fs::File::create(&path).expect("a file can be made");
    let mut random = fs::File::open("/dev/urandom").expect("noise").take(len as u64);
    std::io::copy(&mut random, &mut file).expect("noise is written");
    path
}

fn same(a: &Path, b: &Path) {
    let (a, b) = (fs::read(a).expect("a file"), fs::read(b).expect("a file"));
    assert!(a == b, "{} and {} bytes differ", a.len(), b.len());
}

fn put(node: &Node, file: &Path) -> String {
    let blob = node.json(["blobs", "put", &file.to_string_lossy()]);
    assert_eq!(blob["pinned"], true);
    blob["hash"].as_str().expect("a hash").to_owned()
}

fn get(node: &Node, hash: &str, to: &Path) {
    node.command(["blobs", "get", hash, "-o"]).arg(to).within(AGES).run().ok();
}

/// Where a blob's content lies in a home.
fn place(node: &Node, hash: &str) -> PathBuf {
    node.home().join("blobs").join(&hash[..2]).join(&hash[2..])
}

fn ls(node: &Node) -> Vec<Value> {
    node.json(["blobs", "ls"]).as_array().expect("a list").clone()
}

#[test]
fn what_is_put_on_one_node_is_got_on_any_other() {
    let mesh = Mesh::start(3);
    let file = noise(mesh.dir(), "model.bin", LARGE);
    let hash = put(&mesh[0], &file);
    let copy = mesh.dir().join("copy.bin");
    get(&mesh[2], &hash, &copy);
    same(&file, &copy);
    assert_eq!(mesh[2].metric("clawmesh_blob_received_bytes_total", ""), LARGE as f64);
    // From stdin, to stdout, by the beginning of the hash.
    let small = mesh[1].command(["-q", "blobs", "put", "-", "--name", "greeting"]).stdin("hello mesh").run().ok().out();
    mesh[1].cli(["blobs", "get", &small[..10]]).ok().stdout_is("hello mesh");
    mesh[0].cli(["blobs", "get", small.trim()]).ok().stdout_is("hello mesh");
    let list = mesh[1].cli(["blobs", "ls"]).ok().out();
    assert!(list.contains("greeting") && list.contains("yes") && list.contains(&small[..16]), "{list}");
    // What was only fetched is not pinned; and the index knows who holds it.
    assert_eq!(ls(&mesh[2])[0]["pinned"], false);
    let holders = wait_until("the index names both holders", LONG, || {
        let found = mesh[1].json(["blobs", "ls", &hash, "--mesh"]);
        if found.as_array().is_some_and(|a| a.len() >= 2) { Ok(found) } else { Err(found.to_string()) }
    });
    assert!(holders.to_string().contains(mesh[0].status().expect("a status")["node"].as_str().expect("an id")));
    // Nobody has it; nonsense; a directory.
    let nobody = "0".repeat(64);
    mesh[1].command(["blobs", "get", &nobody, "-o", "/dev/null"]).within(AGES).run().exits(1).stderr_has(&["no node that can be reached"]);
    mesh[1].cli(["blobs", "rm", "xyz"]).exits(2).stderr_has(&["is no hash"]);
    mesh[1].cli(["blobs", "put", "/tmp"]).exits(2).stderr_has(&["is a directory"]);
    mesh[1].cli(["blobs", "rm", small.trim()]).ok();
    assert!(ls(&mesh[1]).is_empty());
}

#[test]
fn a_broken_transfer_is_finished_from_another_holder_without_starting_over() {
    // Two holders that send slowly enough to be killed in the middle.
    let mesh = Mesh::of(3).node_args(0, ["--blob-rate", "8MiB"]).node_args(1, ["--blob-rate", "24MiB"]).start();
    let file = noise(mesh.dir(), "model.bin", LARGE);
    let hash = put(&mesh[0], &file);
    let copy = mesh.dir().join("copy.bin");
    let getting = mesh[2].command(["blobs", "get", &hash, "-o"]).arg(&copy).within(AGES).spawn();
    // One segment of 16 MiB is whole and marked, and the next one has begun.
    wait_until("a third is there", AGES, || match mesh[2].metric("clawmesh_blob_received_bytes_total", "") {
        n if n >= 20e6 => Ok(()),
        n => Err(n.to_string()),
    });
    mesh[0].kill();
    // The one who fetches is killed as well: what it had verified is on its disk.
    mesh[2].kill();
    assert_ne!(getting.end(AGES).code(), 0);
    let before = fs::metadata(mesh[2].home().join("blobs/part").join(format!("{hash}.data"))).expect("the beginning is kept").len();
    assert!(before >= 16 << 20, "{before}");
    mesh[2].start();
    // Another node has it now, from the same file.
    assert_eq!(put(&mesh[1], &file), hash);
    wait_until("the two see each other", LONG, || mesh.agreed(true).map(drop));
    get(&mesh[2], &hash, &copy);
    same(&file, &copy);
    let (received, resumed) =
        (mesh[2].metric("clawmesh_blob_received_bytes_total", ""), mesh[2].metric("clawmesh_blob_resumed_bytes_total", ""));
    println!("{resumed} bytes were kept of the first holder, {received} came from the second");
    assert!(resumed >= (16 << 20) as f64);
    assert_eq!(received + resumed, LARGE as f64, "nothing was fetched twice after the restart");
    assert_eq!(mesh[1].metric("clawmesh_blob_sent_bytes_total", "") as usize / (1 << 20), (LARGE - resumed as usize) >> 20);
}

#[test]
fn a_holder_whose_disk_rots_notices_it_and_another_one_serves() {
    let mesh = Mesh::start(3);
    let file = noise(mesh.dir(), "model.bin", 20 << 20);
    let hash = put(&mesh[0], &file);
    let rotten = place(&mesh[0], &hash);
    let mut bytes = fs::read(&rotten).expect("the content");
    bytes[17 << 20] ^= 1;
    fs::remove_file(&rotten).expect("the content can be replaced");
    fs::File::create(&rotten).and_then(|mut f| f.write_all(&bytes)).expect("the content can be replaced");
    let copy = mesh.dir().join("copy.bin");
    mesh[2].command(["blobs", "get", &hash, "-o"]).arg(&copy).within(AGES).run().exits(1);
    assert!(!copy.exists(), "half a file is never shown as a whole one");
    wait_until("the holder has noticed", LONG, || match mesh[0].metric("clawmesh_blobs_damaged", "") {
        1.0 => Ok(()),
        n => Err(n.to_string()),
    });
    assert!(ls(&mesh[0]).is_empty() && mesh[0].stderr().contains("damaged on the disk"));
    // Everything before the damage is kept.
    put(&mesh[1], &file);
    get(&mesh[2], &hash, &copy);
    same(&file, &copy);
    assert!(mesh[2].metric("clawmesh_blob_resumed_bytes_total", "") >= (16 << 20) as f64);
    // And the first one heals itself when it is asked.
    get(&mesh[0], &hash, &copy);
    same(&file, &copy);
}

#[test]
fn pinned_blobs_survive_kills_and_restarts_and_the_tidying_of_tasks() {
    let mesh = Mesh::start(2);
    let file = noise(mesh.dir(), "kept.bin", 1 << 20);
    let hash = put(&mesh[0], &file);
    // The same bytes go through the core as a task's input and result, which it lets go of by its own rules.
    for _ in 0..3 {
        mesh[0].cli(["submit", "echo", "--input-text", &"x".repeat(20_000), "--wait"]).ok();
    }
    mesh[0].kill();
    mesh[0].start();
    let listed = ls(&mesh[0]);
    assert_eq!(
        (listed.len(), &listed[0]["hash"], &listed[0]["pinned"], &listed[0]["name"]),
        (1, &hash.as_str().into(), &true.into(), &"kept.bin".into())
    );
    mesh[0].stop();
    mesh[0].start();
    mesh.settled();
    let copy = mesh.dir().join("copy.bin");
    get(&mesh[1], &hash, &copy);
    same(&file, &copy);
    mesh[0].cli(["blobs", "unpin", &hash[..8]]).ok();
    assert_eq!(ls(&mesh[0])[0]["pinned"], false);
    mesh[0].cli(["blobs", "pin", &hash[..8]]).ok();
    mesh[1].cli(["blobs", "pin", &hash]).ok();
    assert_eq!(ls(&mesh[1])[0]["pinned"], true);
}

#[test]
fn a_task_gets_its_input_file_on_another_node_and_its_output_file_comes_back() {
    let mesh = Mesh::start(3);
    let dir = mesh.dir().to_owned();
    fs::write(dir.join("words.txt"), "to be or not to be\n").expect("a file");
    let input = format!("data/words.txt={}", dir.join("words.txt").display());
    let big = noise(&dir, "big.bin", 24 << 20);
    let big_hash = put(&mesh[1], &big);
    let script = "set -e; test ! -w big.bin || test $(id -u) = 0; wc -w < data/words.txt | tr -d ' ' > count.txt; \
                  head -c 100000 big.bin > part.bin; mkdir -p img; echo a > img/a.png; ln -s /etc/passwd leak.txt; echo done";
    let out = mesh[0]
        .command([
            "--json",
            "run",
            "--node",
            "n2",
            "--in",
            &input,
            "--in",
            &format!("big.bin={big_hash}"),
            "--out",
            "*.txt",
            "--out",
            "part.bin",
        ])
        .args(["--out", "img/*", "--", "sh", "-c", script])
        .within(AGES)
        .run()
        .ok()
        .json();
    let id = out["id"].as_str().expect("an id").to_owned();
    let result = mesh[1].json(["tasks", "result", &id]);
    let mut names: Vec<&str> = result["output"]["files"].as_array().expect("files").iter().filter_map(|f| f["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["count.txt", "img/a.png", "part.bin"], "{result}");
    // Saved on a third node, which has to fetch them.
    let save = dir.join("results");
    mesh[1].cli(["tasks", "result", &id, "--save", &save.to_string_lossy()]).ok();
    assert_eq!(fs::read_to_string(save.join("count.txt")).expect("the output").trim(), "6");
    assert_eq!(fs::read(save.join("part.bin")).expect("the output"), &fs::read(&big).expect("the input")[..100_000]);
    mesh[1].cli(["tasks", "result", &id, "--save", &save.to_string_lossy()]).exits(1).stderr_has(&["is there already"]);
    mesh[0].cli(["tasks", "show", &id]).ok().stdout_has(&["output files", "count.txt"]);
    // Who has the big input is preferred, and explain says so.
    let ran = mesh[0].json(["run", "--detach", "--in", &format!("big.bin={big_hash}"), "--", "true"]);
    let ran = ran["id"].as_str().expect("an id").to_owned();
    mesh[0].all_complete(std::slice::from_ref(&ran), LONG);
    let said = mesh[0].cli(["tasks", "explain", &ran]).ok().stdout_has(&["holds 24 MiB of its inputs"]).out();
    assert!(!said.contains("completed on n0"), "the two that hold it go first: {said}");
    // Bad input is refused where it is typed, or fails with a sentence.
    mesh[0].cli(["run", "--in", &format!("../x={big_hash}"), "--", "true"]).exits(2).stderr_has(&["has the part '..'"]);
    mesh[0].cli(["run", "--in", "x=nosuchfile", "--", "true"]).exits(2).stderr_has(&["is no file here"]);
    mesh[0].cli(["run", "--out", "/etc/*", "--", "true"]).exits(2).stderr_has(&["is absolute"]);
    mesh[0].cli(["submit", "echo", "--out", "x"]).exits(2).stderr_has(&["no working directory"]);
    mesh[0].cli(["run", "--out", "missing.txt", "--", "true"]).ok();
}

#[test]
fn a_holder_that_stops_in_the_middle_is_left_for_the_next() {
    let mesh = Mesh::of(3).node_args(0, ["--blob-rate", "8MiB"]).start();
    let file = noise(mesh.dir(), "model.bin", LARGE);
    let hash = put(&mesh[0], &file);
    let copy = mesh.dir().join("copy.bin");
    let getting = mesh[2].command(["blobs", "get", &hash, "-o"]).arg(&copy).within(AGES).spawn();
    wait_until("some of it is there", AGES, || match mesh[2].metric("clawmesh_blob_received_bytes_total", "") {
        n if n >= 4e6 => Ok(()),
        n => Err(n.to_string()),
    });
    put(&mesh[1], &file);
    mesh[0].pause();
    let said = getting.end(AGES);
    mesh[0].resume();
    let said = said.ok();
    drop(said);
    same(&file, &copy);
    assert_eq!(mesh[2].metric("clawmesh_blob_received_bytes_total", ""), LARGE as f64, "nothing came twice");
    assert!(mesh[1].metric("clawmesh_blob_sent_bytes_total", "") > 1e6);
}

#[test]
fn a_task_whose_input_cannot_be_had_fails_with_a_sentence_and_can_be_cancelled() {
    let mesh = Mesh::of(3).node_args(2, ["--blob-rate", "1MiB"]).start();
    let file = noise(mesh.dir(), "model.bin", LARGE);
    let hash = put(&mesh[2], &file);
    let submit = || {
        let args = ["run", "--detach", "--node", "n1", "--in"];
        let out = mesh[0].command(["--json"]).args(args).args([&format!("m={hash}"), "--", "true"]).run().ok().json();
        out["id"].as_str().expect("an id").to_owned()
    };
    // It would take a minute to fetch: long enough to be cancelled in the middle.
    let id = submit();
    wait_until("the input is on its way", LONG, || match mesh[1].metric("clawmesh_blob_received_bytes_total", "") {
        n if n > 0.0 => Ok(()),
        n => Err(n.to_string()),
    });
    mesh[0].cli(["tasks", "cancel", &id]).ok();
    let ended = mesh[0].cli(["--json", "tasks", "wait", &id, "--wait-timeout", "60s"]);
    assert!(ended.out().contains("cancelled"), "{}", ended.told());
    // The only holder goes away in the middle.
    let id = submit();
    mesh[0].task_until(&id, "running", LONG);
    mesh[2].kill();
    mesh[0].command(["tasks", "wait", &id, "--wait-timeout", "120s"]).within(AGES).run().exits(1);
    mesh[0].cli(["tasks", "show", &id]).ok().stdout_has(&["the input file 'm' cannot be had"]);
    // Nobody in reach knows of it: refused at the submit.
    let nothing = format!("m={}", "1".repeat(64));
    mesh[0].command(["run", "--in", &nothing, "--", "true"]).within(AGES).run().exits(125).stderr_has(&["no node that can be reached"]);
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs root: network namespaces, nft"]
fn a_blob_comes_through_a_third_node() {
    let lan = clawmesh_tests::Lan::new(3, true);
    let mesh = Mesh::of(3).netns(lan.machines()).start();
    lan.cut([(0, 2), (2, 0)]);
    wait_until("n2 reaches n0 through n1", LONG, || {
        let members = mesh[2].get("/api/v1/nodes")?;
        let far = members.as_array().into_iter().flatten().find(|m| m["name"] == "n0").cloned().unwrap_or_default();
        if far["via"].is_null() { Err(far.to_string()) } else { Ok(()) }
    });
    let file = noise(mesh.dir(), "model.bin", LARGE);
    let hash = put(&mesh[0], &file);
    let copy = mesh.dir().join("copy.bin");
    get(&mesh[2], &hash, &copy);
    same(&file, &copy);
    assert!(ls(&mesh[1]).is_empty(), "the one in between keeps nothing");
}

#[test]
#[ignore = "needs 5 GiB of disk and minutes"]
fn a_gigabyte_goes_through_the_api_in_bounded_memory() {
    let mesh = Mesh::start(2);
    let file = noise(mesh.dir(), "model.bin", 1 << 30);
    let hash = put(&mesh[0], &file);
    let copy = mesh.dir().join("copy.bin");
    get(&mesh[1], &hash, &copy);
    same(&file, &copy);
    for node in mesh.nodes() {
        let status = fs::read_to_string(format!("/proc/{}/status", node.pid().expect("it runs"))).expect("its status");
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok()).expect("VmHWM");
        println!("{} used at most {} MiB", node.name(), peak >> 10);
        assert!(peak < 300 << 10, "{} used {peak} kB", node.name());
    }
}
