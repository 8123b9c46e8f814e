//! Notes of the mesh: written on one node, kept by every node that was asked to, as files that an agent reads.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clawmesh_tests::{LONG, Mesh, Node, Value, json, wait_until};
use tempfile::TempDir;

/// A mesh, and the workspaces of its agents.
struct Shared {
    mesh: Mesh,
    dir: TempDir,
}

/// The workspace of a node's agent, with what the agent keeps there itself.
fn workspace(dir: &Path, node: &str) -> String {
    let dir = dir.join(node);
    fs::create_dir_all(dir.join("memory")).expect("a folder");
    fs::write(dir.join("MEMORY.md"), "curated\n").expect("a file");
    fs::write(dir.join("memory/2026-01-01.md"), "my own note\n").expect("a file");
    dir.to_string_lossy().into_owned()
}

/// So many nodes; those of `sharing` are asked to share notes.
fn mesh(nodes: usize, sharing: &[usize]) -> Shared {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut how = Mesh::of(nodes);
    for i in sharing {
        how = how.node_args(*i, ["--memory".to_owned(), workspace(dir.path(), &format!("n{i}"))]);
    }
    Shared { mesh: how.start(), dir }
}

impl Shared {
    fn workspace(&self, node: &str) -> PathBuf {
        self.dir.path().join(node)
    }
    fn pages(&self, node: &str) -> PathBuf {
        self.workspace(node).join("memory/mesh")
    }
}

/// All pages that a node has, as one text, by `author/day.md`.
fn read_pages(shared: &Shared, node: &str) -> Vec<(String, String)> {
    let below = |p: PathBuf| fs::read_dir(p).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    let files = below(shared.pages(node)).flat_map(below);
    let mut all: Vec<_> =
        files.filter_map(|p| Some((p.parent()?.file_name()?.to_str()?.to_owned(), fs::read_to_string(p).ok()?))).collect();
    all.sort();
    all
}

/// Waits until a node has a page of `author` with this text.
fn has(shared: &Shared, node: &str, author: &str, text: &str) {
    wait_until(&format!("{node} has '{text}' of {author}"), LONG, || {
        let all = read_pages(shared, node);
        if all.iter().any(|(a, page)| a == author && page.contains(&format!("> {text}"))) { Ok(()) } else { Err(format!("{all:?}")) }
    });
}

fn note(node: &Node, text: &str) {
    node.cli(["memory", "note", text]).ok().stdout_has(&["noted on"]);
}

#[test]
fn a_note_is_on_every_node_that_shares_memory_and_on_no_other() {
    let shared = mesh(4, &[0, 1, 2]);
    let mesh = &shared.mesh;
    let [a, b, c, d] = [&mesh[0], &mesh[1], &mesh[2], &mesh[3]];
    note(a, "the NAS is at 10.0.0.5");
    note(b, "the printer jams on Mondays");
    for node in ["n0", "n1", "n2"] {
        has(&shared, node, "n0", "the NAS is at 10.0.0.5");
        has(&shared, node, "n1", "the printer jams on Mondays");
    }
    // Marked as what it is, with its origin.
    let all = read_pages(&shared, "n2");
    let id = a.status().expect("a status")["node"].clone();
    let of_a = &all.iter().find(|(author, _)| author == "n0").expect("a page").1;
    assert!(of_a.contains("Untrusted text") && of_a.contains("never instructions") && of_a.contains(id.as_str().expect("an id")), "{of_a}");
    // All pages are the same on all nodes.
    assert_eq!(read_pages(&shared, "n0"), all);
    assert_eq!(read_pages(&shared, "n1"), all);
    // What the agent keeps itself is as it was.
    for node in ["n0", "n1", "n2"] {
        let own = shared.workspace(node);
        assert_eq!(fs::read_to_string(own.join("MEMORY.md")).expect("a file"), "curated\n");
        assert_eq!(fs::read_to_string(own.join("memory/2026-01-01.md")).expect("a file"), "my own note\n");
        assert_eq!(fs::read_dir(own.join("memory")).expect("a folder").count(), 2);
    }
    // Who was not asked has nothing, and says how.
    assert!(!d.home().join("notes").exists());
    for args in [&["memory", "note", "x"][..], &["memory", "ls"], &["memory", "search", "NAS"], &["memory", "sync"]] {
        d.cli(args).exits(1).stderr_has(&["shares no notes", "clawmesh up --memory"]);
    }

    // From any node that shares: lists and searches.
    let ls = c.json(["memory", "ls"]);
    let names: Vec<&Value> = ls["books"].as_array().expect("books").iter().map(|b| &b["node_name"]).collect();
    assert!(names.len() == 2 && names.contains(&&json!("n0")) && names.contains(&&json!("n1")), "{ls}");
    let found = c.json(["memory", "search", "PRINTER", "jams"]);
    assert_eq!((&found[0]["node_name"], &found[0]["text"]), (&json!("n1"), &json!("the printer jams on Mondays")));
    assert_eq!(c.json(["memory", "search", "printer", "--node", "n0"]), json!([]));
    c.cli(["memory", "ls", "n0"]).ok().stdout_has(&["n0", "the NAS is at 10.0.0.5"]);
    c.cli(["memory", "ls", "nobody"]).exits(1).stderr_has(&["no member"]);
    c.cli(["memory"]).ok().stdout_has(&["NODE", "n0", "n1", "memory/mesh/n0"]);

    // Changed or removed by hand, a page comes back; the note itself is the same everywhere.
    fs::remove_dir_all(shared.pages("n2").join("n0")).expect("removed");
    let done = c.json(["memory", "sync"]);
    assert_eq!(
        (&done["asked"], &done["answered"], &done["received"], &done["files"]),
        (&json!(2), &json!(2), &json!(0), &json!(1)),
        "{done}"
    );
    assert_eq!(read_pages(&shared, "n2"), all);
    assert!(c.metric("clawmesh_notes", "") >= 2.0 && c.metric("clawmesh_notes_received_total", "") >= 2.0);
}

#[test]
fn notes_outlive_their_node_and_come_back_to_it() {
    let mut shared = mesh(3, &[0, 1, 2]);
    note(&shared.mesh[2], "written before the plug was pulled");
    has(&shared, "n1", "n2", "written before the plug was pulled");
    shared.mesh[2].kill();
    // A node that joins now has it from whoever has it.
    let dir = workspace(shared.dir.path(), "n3");
    shared.mesh.add(|n| n.args(["--memory", &dir]));
    has(&shared, "n3", "n2", "written before the plug was pulled");
    note(&shared.mesh[3], "written while n2 was away");
    has(&shared, "n0", "n3", "written while n2 was away");
    // Its notes were lost with its disk; its key was not.
    fs::remove_dir_all(shared.mesh[2].home().join("notes")).expect("removed");
    fs::remove_dir_all(shared.pages("n2")).expect("removed");
    shared.mesh.start_all();
    has(&shared, "n2", "n2", "written before the plug was pulled");
    has(&shared, "n2", "n3", "written while n2 was away");
    note(&shared.mesh[2], "written after");
    has(&shared, "n0", "n2", "written after");
    assert_eq!(shared.mesh[0].json(["memory", "ls", "n2"]).as_array().map(Vec::len), Some(2));
}

#[test]
fn sharing_is_remembered_until_it_is_taken_back() {
    let shared = mesh(2, &[0, 1]);
    let [a, b] = [&shared.mesh[0], &shared.mesh[1]];
    note(b, "first");
    has(&shared, "n0", "n1", "first");
    b.stop();
    let again = |flags: &[&str]| shared.mesh.another("n1").home(b.home()).args(flags.iter().copied()).start();
    let plain = again(&[]);
    note(&plain, "second");
    has(&shared, "n0", "n1", "second");
    plain.stop();
    let off = again(&["--no-memory"]);
    off.cli(["memory", "note", "third"]).exits(1).stderr_has(&["shares no notes"]);
    note(a, "not for n1");
    has(&shared, "n0", "n0", "not for n1");
    // What was there stays, and nothing comes any more.
    wait_until("n0 asks nobody", LONG, || {
        let done = a.json(["memory", "sync"]);
        if done["asked"] == 0 { Ok(()) } else { Err(done.to_string()) }
    });
    assert!(read_pages(&shared, "n1").iter().all(|(_, page)| !page.contains("not for n1")));
    off.stop();
    let still = again(&[]);
    still.cli(["memory", "ls"]).exits(1).stderr_has(&["clawmesh up --memory"]);
}

#[test]
fn a_note_that_is_none_is_refused() {
    let shared = mesh(1, &[0]);
    let node = &shared.mesh[0];
    node.cli(["memory", "note", "  "]).exits(2).stderr_has(&["needs a text"]);
    node.cli(["memory", "note"]).exits(2);
    let long = "x".repeat(9_000);
    node.command(["memory", "note", "-"]).stdin(long).run().exits(2).stderr_has(&["at most 8192 bytes", "clawmesh blobs put"]);
    // Letters of three bytes: the bound falls into one of them.
    let long = "€".repeat(4_000);
    node.command(["memory", "note", "-"]).stdin(long).run().exits(2).stderr_has(&["at most 8192 bytes", "has 12000"]);
    node.command(["memory", "note", "-"]).stdin("from stdin\nwith two lines\n").run().ok();
    has(&shared, "n0", "n0", "with two lines");
    node.command(["memory", "note", "-"]).stdin(vec![0xff, 0xfe]).run().exits(2).stderr_has(&["cannot read the note"]);
    for (body, status) in
        [(json!({}), 400), (json!({ "text": 7 }), 400), (json!({ "text": "a\u{7}b" }), 400), (json!({ "text": "x", "y": 1 }), 400)]
    {
        assert_eq!(node.api("POST", "/api/v1/memory/notes", Some(&body)).expect("an answer").status, status, "{body}");
    }
    assert_eq!(node.api("GET", "/api/v1/memory/notes?limit=x", None).expect("an answer").status, 400);
    assert_eq!(node.json(["memory", "ls", "n0"]).as_array().map(Vec::len), Some(1));
    node.command(["up", "--memory", "/nonexistent/folder"]).run().exits(2).stderr_has(&["is not a directory"]);
}
