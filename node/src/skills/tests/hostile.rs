//! Folders made to do harm: each gets a clear verdict, quickly, and its neighbours are found.

use super::*;

/// Under load of everything else; what it takes alone is a hundredth.
const QUICKLY: Duration = Duration::from_secs(30);

/// The skills that are found, and the codes of those that are not, in a scan and in a check.
fn both(home: &Home) -> (Vec<String>, Vec<&'static str>, Vec<Report>) {
    let started = std::time::Instant::now();
    let scan = home.scan();
    let reports = check(home.path(), &host(), true);
    // Nobody waits for a fingerprint either.
    let mut library = Library::open(sources(home));
    assert!(library.rescan_if_changed().is_none());
    assert!(started.elapsed() < QUICKLY, "{:?}", started.elapsed());
    assert!(scan.skill("good").is_some(), "the neighbour is lost: {:?}", scan.rejected);
    assert!(reports.iter().any(|report| report.name == "good" && report.eligible));
    (
        scan.skills.iter().map(|skill| skill.name.clone()).collect(),
        scan.rejected.iter().map(|rejected| rejected.problem.code).collect(),
        reports,
    )
}

fn neighbour() -> Home {
    let home = Home::new();
    home.put("a-good-one/SKILL.md", "---\nname: good\ndescription: x\n---\n");
    home
}

fn codes(reports: &[Report]) -> Vec<&str> {
    reports.iter().filter_map(|report| report.code.as_deref()).collect()
}

#[test]
fn a_hundred_thousand_files() {
    let home = neighbour();
    let full = home.path().join("b-full");
    home.put("b-full/SKILL.md", "---\nname: full\ndescription: x\n---\n");
    for n in 0..100_000 {
        fs::File::create(full.join(format!("{n}"))).unwrap();
    }
    let (names, rejected, reports) = both(&home);
    assert_eq!((names.len(), rejected.len(), reports.len()), (2, 0, 2));
    assert!(!home.scan().skill("full").unwrap().shareable, "it is too large to be shared");
    // In the root itself, they hide what is listed behind them, and that is told.
    fs::rename(&full, home.path().join("c")).unwrap();
    fs::rename(home.path().join("c/SKILL.md"), home.path().join("c/no-skill")).unwrap();
    fs::create_dir(home.path().join("c/deep")).unwrap();
    home.put("c/deep/SKILL.md", "---\nname: deep\ndescription: x\n---\n");
    let (_, rejected, reports) = both(&home);
    assert_eq!(rejected, ["TOO_MANY"]);
    assert_eq!(reports.len(), 2, "a check finds it all the same");
}

#[test]
fn thousands_of_folders() {
    let home = neighbour();
    for n in 0..2_500 {
        home.put(&format!("g{}/s{n}/SKILL.md", n / 250), &format!("---\nname: s{n}\ndescription: x\n---\n"));
    }
    let (names, rejected, reports) = both(&home);
    assert_eq!((names.len(), rejected), (300, vec!["TOO_MANY"]));
    assert_eq!(reports.len(), 2_501, "a check has no such limit");
}

#[cfg(unix)]
#[test]
fn links_in_circles() {
    use std::os::unix::fs::symlink;
    let home = neighbour();
    fs::create_dir_all(home.path().join("b/c")).unwrap();
    symlink(home.path(), home.path().join("b/c/up")).unwrap();
    symlink(".", home.path().join("b/self")).unwrap();
    symlink("y", home.path().join("x")).unwrap();
    symlink("x", home.path().join("y")).unwrap();
    fs::create_dir(home.path().join("d")).unwrap();
    symlink("SKILL.md", home.path().join("d/SKILL.md")).unwrap();
    symlink("/dev/zero", home.path().join("b/SKILL.md")).unwrap();
    let (names, rejected, reports) = both(&home);
    assert_eq!(names, ["good"]);
    assert_eq!(rejected, ["SYMLINK_ESCAPE", "UNREADABLE"]);
    assert_eq!(codes(&reports), ["SYMLINK_ESCAPE", "UNREADABLE"]);
}

#[cfg(unix)]
#[test]
fn pipes_and_sockets_instead_of_files() {
    let home = neighbour();
    for dir in ["b", "c", "d", "e"] {
        fs::create_dir(home.path().join(dir)).unwrap();
    }
    // Whoever opens the pipe waits for ever.
    rustix::fs::mkfifoat(rustix::fs::CWD, home.path().join("b/SKILL.md"), rustix::fs::Mode::RWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(home.path().join("c/SKILL.md")).unwrap();
    fs::create_dir(home.path().join("d/SKILL.md")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, home.path().join("e/skill.json"), rustix::fs::Mode::RWXU).unwrap();
    // A pipe beside a good file is not read for the hash either.
    rustix::fs::mkfifoat(rustix::fs::CWD, home.path().join("a-good-one/pipe"), rustix::fs::Mode::RWXU).unwrap();
    let (names, rejected, reports) = both(&home);
    assert_eq!(names, ["good"]);
    assert_eq!(rejected, ["NOT_A_FILE"; 4]);
    assert_eq!(codes(&reports), ["NOT_A_FILE"; 4]);
}

#[test]
fn ten_gigabytes() {
    let home = neighbour();
    home.put("b/SKILL.md", "---\nname: big\ndescription: x\n---\n")
        .put("c/SKILL.md", "---\nname: c\ndescription: x\n---\n")
        .put("c/model", "x");
    for file in ["b/SKILL.md", "c/model"] {
        fs::OpenOptions::new().write(true).open(home.path().join(file)).unwrap().set_len(10 << 30).unwrap();
    }
    let (names, rejected, reports) = both(&home);
    assert_eq!(names, ["c", "good"]);
    assert_eq!((rejected, codes(&reports)), (vec!["TOO_LARGE"], vec!["TOO_LARGE"]));
}

#[test]
fn names_that_collide() {
    let home = neighbour();
    for (dir, name) in [("b", "Case"), ("c", "case"), ("d", "good"), ("e", "case")] {
        home.put(&format!("{dir}/SKILL.md"), &format!("---\nname: {name}\ndescription: {dir}\n---\n"));
    }
    let (names, rejected, reports) = both(&home);
    assert_eq!((names, rejected), (vec!["Case".to_owned(), "case".into(), "good".into()], vec!["DUPLICATE_NAME"; 2]));
    assert_eq!(codes(&reports), Vec::<&str>::new(), "each file alone is right");
    let scan = home.scan();
    assert!(scan.skill("case").unwrap().notes.iter().any(|note| note.contains("\"Case\"")), "it is told");
}

#[cfg(target_os = "linux")]
#[test]
fn bytes_that_are_no_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let home = neighbour();
    let dir = home.path().join(OsStr::from_bytes(b"b\xff\xfe"));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("SKILL.md"), b"---\ndescription: x \xff\xc3 y\n---\n").unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"file\xff")), b"x").unwrap();
    home.put("c/SKILL.md", "").put("d/SKILL.md", "---\nname: \"a\\nb\"\ndescription: x\n---\n");
    fs::write(home.path().join("c/SKILL.md"), [0xff; 1000]).unwrap();
    let (names, rejected, reports) = both(&home);
    assert_eq!(names, ["b\u{fffd}\u{fffd}", "good"]);
    assert_eq!(home.scan().skill("b\u{fffd}\u{fffd}").unwrap().description, "x \u{fffd}\u{fffd} y");
    assert_eq!(rejected, ["NO_DESCRIPTION", "BAD_NAME"]);
    // OpenClaw would take the name; the mesh can't print it.
    assert_eq!(codes(&reports), ["NO_DESCRIPTION"]);
    assert!(reports.iter().any(|report| report.name == "a\nb" && !report.eligible && report.blocked.is_some()));
}

#[test]
fn a_tree_without_end() {
    let home = neighbour();
    let mut path = home.path().join("b");
    for _ in 0..100 {
        path = path.join("d");
    }
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("SKILL.md"), "---\nname: deep\ndescription: x\n---\n").unwrap();
    let (names, rejected, reports) = both(&home);
    assert_eq!((names, rejected), (vec!["good".to_owned()], vec![]));
    assert_eq!(codes(&reports), ["TOO_MANY"], "that it was not looked at whole is told");
}
