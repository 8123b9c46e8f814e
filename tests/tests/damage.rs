//! Disks that lie and files that were changed while the node was away.

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use clawmesh_tests::{AGES, LONG, Mesh, Node, Task, Value, batch_of, json, wait_until};

/// The file of the database.
fn database(node: &Node) -> PathBuf {
    node.home().join("store/sled/db")
}

/// Turns over eight bytes in every `every` of a file, from its beginning to its end: what is live may lie anywhere in a
/// log that has been rewritten, and what is dead nobody misses.
fn scribble(path: &Path, every: u64) {
    let mut file = fs::File::options().read(true).write(true).open(path).expect("the file is there");
    let len = file.metadata().expect("it has a length").len();
    let mut at = every / 2;
    while at + 8 < len {
        let mut piece = [0; 8];
        file.seek(SeekFrom::Start(at)).expect("a file can be sought");
        file.read_exact(&mut piece).expect("a file can be read");
        file.seek(SeekFrom::Start(at)).expect("a file can be sought");
        file.write_all(&piece.map(|b| b ^ 0x5a)).expect("a file can be written");
        at += every;
    }
}

/// The node has told a person about it, on stdout or stderr.
fn told(node: &Node, words: &[&str]) {
    let said = format!("{}\n{}", node.stdout(), node.stderr()).to_lowercase();
    assert!(words.iter().any(|w| said.contains(w)), "none of {words:?} in what {} said:\n{said}", node.name());
}

fn with_history() -> (Mesh, Vec<String>) {
    let mesh = Mesh::of(3).args(["--slots", "4"]).start();
    let mut ids = Vec::new();
    for node in mesh.nodes() {
        ids.extend(node.submit(&batch_of(200, &Task::skill("echo", &json!("x".repeat(300))))));
    }
    mesh[0].all_complete(&ids, AGES);
    (mesh, ids)
}

/// The node has come back as a member that works, and every task is still known with its result.
fn works_again(mesh: &Mesh, node: &Node, ids: &[String]) {
    mesh.settled();
    let shown = wait_until("every task is known", LONG, || {
        let tasks = node.tasks("completed")?;
        let found = ids.iter().filter(|id| tasks.iter().any(|t| t["id"] == id.as_str())).count();
        if found == ids.len() { Ok(tasks) } else { Err(format!("{found} of {}", ids.len())) }
    });
    assert!(shown.iter().all(|t| t["attempts"].as_array().map(Vec::len) == Some(1)), "nothing ran again");
    let more = node.submit(&batch_of(20, &Task::skill("echo", &Value::from(1))));
    node.all_complete(&more, LONG);
    node.cli(["run", "--node", node.name(), "--", "echo", "here"]).ok().stdout_is("here\n");
}

#[test]
fn a_damaged_database_is_set_aside_told_and_filled_again() {
    let (mesh, ids) = with_history();
    let victim = &mesh[2];
    victim.stop();
    scribble(&database(victim), 4096);
    victim.start();
    told(victim, &["set aside", "damaged"]);
    let aside = fs::read_dir(victim.home().join("store")).expect("the store's directory");
    let names: Vec<String> = aside.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    assert!(names.iter().any(|n| n.starts_with("sled.damaged-")), "{names:?}");
    works_again(&mesh, victim, &ids);
}

#[test]
fn a_database_that_was_cut_off_is_noticed_and_filled_again() {
    let (mesh, ids) = with_history();
    let victim = mesh.coordinator();
    victim.kill();
    let path = database(victim);
    let len = fs::metadata(&path).expect("the file is there").len();
    fs::File::options().write(true).open(&path).and_then(|f| f.set_len(len / 3)).expect("a file can be cut");
    victim.start();
    told(victim, &["set aside", "damaged", "lost"]);
    works_again(&mesh, victim, &ids);
}

#[test]
fn a_database_that_is_gone_is_made_anew() {
    let (mesh, ids) = with_history();
    let victim = &mesh[1];
    victim.stop();
    fs::remove_dir_all(victim.home().join("store")).expect("a directory can be removed");
    victim.start();
    works_again(&mesh, victim, &ids);
}

#[test]
fn small_files_that_were_damaged_are_replaced_or_named() {
    let mesh = Mesh::start(2);
    let victim = &mesh[1];
    victim.stop();
    // What can be made anew is made anew.
    for name in ["api.token", "peers.json", "node.json"] {
        let path = victim.home().join(name);
        assert!(path.exists(), "{name} is in the home");
        fs::write(&path, b"\x00\xffnonsense").expect("a file can be written");
    }
    victim.start();
    victim.cli(["run", "--node", "n0", "--", "echo", "fine"]).ok().stdout_is("fine\n");
    // What cannot is named, and nothing is overwritten: the key says who the node is.
    for name in ["node.key", "mesh.ticket"] {
        victim.stop();
        let path = victim.home().join(name);
        let good = fs::read(&path).expect("the file is there");
        fs::write(&path, b"\x00\xffnonsense").expect("a file can be written");
        let up = victim.command(["up", "--api-port", "0", "--mesh-port", "0", "--no-mdns", "--loopback-only"]);
        up.run().exits(1).stderr_has(&[name]);
        assert_eq!(fs::read(&path).expect("the file is there"), b"\x00\xffnonsense");
        fs::write(&path, good).expect("a file can be written");
        victim.start();
    }
    mesh.settled();
}
