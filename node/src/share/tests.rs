#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use std::fs;
use std::path::Path;

use clawmesh_protocol::ids::{Hash, Peer};
use proptest::prelude::*;

use super::*;

const SKILL: &str = "---\nname: demo\ndescription: a demo\n---\nRead me.\n";

fn files(of: &[(&str, &str)]) -> Packed {
    of.iter().map(|(p, c)| ((*p).to_owned(), c.as_bytes().to_vec())).collect()
}

fn demo() -> Packed {
    files(&[("SKILL.md", SKILL), ("scripts/run.py", "print(1)\n"), ("références/日本.md", "x")])
}

fn origin(files: &Packed) -> Origin {
    Origin {
        name: "demo".into(),
        hash: content_hash(files),
        blob: Hash([3; 32]),
        publisher: Peer([7; 32]),
        publisher_name: "alpha".into(),
        installed_at: 5,
    }
}

/// A tar with one entry as a stranger might write it.
fn entry(path: &[u8], kind: tar::EntryType, content: &[u8]) -> Vec<u8> {
    let mut head = tar::Header::new_gnu();
    head.set_entry_type(kind);
    head.set_size(content.len() as u64);
    head.set_mode(0o644);
    head.as_old_mut().name[..path.len()].copy_from_slice(path);
    if kind.is_symlink() || kind.is_hard_link() {
        head.as_old_mut().linkname[..11].copy_from_slice(b"/etc/passwd");
    }
    head.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&head, content).unwrap();
    tar.into_inner().unwrap()
}

fn why(archive: &[u8]) -> String {
    unpack(archive).unwrap_err().0
}

fn entries(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> = fs::read_dir(dir).map_or(Vec::new(), |d| d.map(|e| e.unwrap().file_name().into_string().unwrap()).collect());
    all.sort();
    all
}

#[test]
fn one_content_has_one_archive_whatever_the_folder_is_like() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (dir, order) in [(&a, [0, 1, 2]), (&b, [2, 1, 0])] {
        let all: Vec<_> = demo().into_iter().collect();
        for i in order {
            let (path, content) = &all[i];
            fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
            fs::write(dir.path().join(path), content).unwrap();
        }
    }
    // What running, editing and installing leave behind does not count.
    fs::create_dir_all(b.path().join(".git")).unwrap();
    fs::write(b.path().join(".git/HEAD"), "ref").unwrap();
    fs::create_dir_all(b.path().join("scripts/__pycache__")).unwrap();
    fs::write(b.path().join("scripts/__pycache__/x.pyc"), "x").unwrap();
    fs::write(b.path().join(ORIGIN_FILE), "{}").unwrap();
    let (one, two) = (pack(&read_folder(a.path()).unwrap()).unwrap(), pack(&read_folder(b.path()).unwrap()).unwrap());
    assert_eq!(one, two);
    assert_eq!(unpack(&one).unwrap(), demo());
    let scan = crate::skills::scan(&[crate::skills::Root::skills(b.path())], &crate::skills::Host::current(Default::default()));
    assert_eq!(
        content_hash(&demo()),
        scan.skills[0].hash.to_hex().to_string(),
        "the registry and the archive must agree on what a skill is"
    );
}

#[test]
fn hostile_archives_are_refused() {
    use tar::EntryType as T;
    for path in [&b"../evil"[..], b"/etc/cron.d/evil", b"a/../../evil", b"a\\b", b"C:evil", b"nul", b"a//b", b"./a", b"x\x01"] {
        assert!(unpack(&entry(path, T::Regular, b"x")).is_err(), "{path:?}");
    }
    for kind in [T::Symlink, T::Link, T::Char, T::Block, T::Fifo, T::Directory, T::GNUSparse, T::Continuous] {
        assert!(unpack(&entry(b"a", kind, b"")).is_err(), "{kind:?}");
    }
    assert!(why(&entry(b"\xff\xfe", T::Regular, b"x")).contains("UTF-8"));
    assert!(why(&entry(b"a", T::Regular, b"x")).contains("not in the form"), "owner, mode and time are those of the one form");
    assert!(why(&pack(&files(&[(ORIGIN_FILE, "{}")])).unwrap()).contains(ORIGIN_FILE));
    for pair in [["a", "A"], ["a", "a/b"], ["straße/x", "STRASSE/x/y"]] {
        let got = unpack(&pack(&files(&[(pair[0], "1"), (pair[1], "2")])).unwrap());
        assert_eq!(got.is_err(), pair[0].len() == 1, "{pair:?}");
    }
    let twice = [&entry(b"a", T::Regular, b"x")[..512 * 2], &entry(b"a", T::Regular, b"y")].concat();
    assert!(why(&twice).contains("twice"));
    assert!(unpack(b"").is_err() && unpack(&[0; 5]).is_err() && unpack(&[7; 4096]).is_err());
    let whole = pack(&demo()).unwrap();
    assert!(unpack(&whole[..whole.len() - 700]).is_err());
    assert!(unpack(&[whole.clone(), whole].concat()).is_err(), "what lies behind the end is not ignored");
}

#[test]
fn a_hundred_thousand_files_and_a_gigabyte_are_refused_early() {
    let mut tar = tar::Builder::new(Vec::new());
    for n in 0..1_200 {
        let mut head = tar::Header::new_gnu();
        head.set_size(0);
        tar.append_data(&mut head, format!("f{n}"), &b""[..]).unwrap();
    }
    assert!(why(&tar.into_inner().unwrap()).contains("more than 1000 files"));
    // The head claims a gigabyte; nothing of that size is ever allocated.
    let mut claim = entry(b"a", tar::EntryType::Regular, b"x");
    let mut head = tar::Header::new_gnu();
    head.as_mut_bytes().copy_from_slice(&claim[..512]);
    head.set_size(1 << 30);
    head.set_cksum();
    claim[..512].copy_from_slice(head.as_bytes());
    assert!(unpack(&claim).is_err());
    assert!(why(&vec![0; usize::try_from(ARCHIVE_MAX).unwrap() + 1]).contains("at most"));
    let big = files(&[("a", &"x".repeat(600 << 10)), ("b", &"x".repeat(600 << 10))]);
    assert!(why(&pack(&big).unwrap()).contains("more than"));
}

#[cfg(unix)]
#[test]
fn folders_with_links_devices_or_too_much_are_not_packed() {
    let home = tempfile::tempdir().unwrap();
    let folder = |name: &str| {
        let dir = home.path().join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("SKILL.md"), SKILL).unwrap();
        dir
    };
    let linked = folder("linked");
    std::os::unix::fs::symlink("/etc/passwd", linked.join("pw")).unwrap();
    assert!(read_folder(&linked).unwrap_err().0.contains("a link"));
    let piped = folder("piped");
    let _socket = std::os::unix::net::UnixListener::bind(piped.join("s")).unwrap();
    assert!(read_folder(&piped).unwrap_err().0.contains("no regular file"));
    let many = folder("many");
    for n in 0..1_001 {
        fs::write(many.join(format!("{n}")), "").unwrap();
    }
    assert!(read_folder(&many).unwrap_err().0.contains("1000 files"));
    let large = folder("large");
    fs::write(large.join("model"), vec![0; 1 << 20]).unwrap();
    assert!(read_folder(&large).unwrap_err().0.contains("blobs put"));
    let odd = folder("odd");
    fs::write(odd.join("a:b"), "").unwrap();
    assert!(read_folder(&odd).unwrap_err().0.contains("':'"));
}

#[test]
fn installed_replaced_and_removed_whole() {
    let home = tempfile::tempdir().unwrap();
    let skills = home.path().join("skills");
    let first = demo();
    let dir = place(&skills, &first, &origin(&first), false).unwrap();
    assert_eq!(entries(&skills), ["demo"]);
    assert_eq!(read_folder(&dir).unwrap(), first);
    let mut second = demo();
    second.insert("new.txt".into(), b"2".to_vec());
    second.remove("scripts/run.py");
    place(&skills, &second, &origin(&second), false).unwrap();
    assert_eq!(read_folder(&dir).unwrap(), second);
    assert_eq!(entries(&skills), ["demo"]);
    let all = installed(&skills);
    assert_eq!((all.len(), all[0].changed, all[0].origin.publisher_name.as_str()), (1, false, "alpha"));

    fs::write(dir.join("SKILL.md"), "mine now").unwrap();
    assert!(installed(&skills)[0].changed);
    assert!(place(&skills, &first, &origin(&first), false).unwrap_err().0.contains("changed"));
    assert!(remove(&skills, "demo", false).unwrap_err().0.contains("--force"));
    place(&skills, &first, &origin(&first), true).unwrap();
    remove(&skills, "demo", false).unwrap();
    assert!(entries(&skills).is_empty());
    assert!(remove(&skills, "demo", false).is_err());
}

#[test]
fn what_the_user_has_made_is_never_touched() {
    let home = tempfile::tempdir().unwrap();
    let skills = home.path().join("skills");
    fs::create_dir_all(skills.join("demo")).unwrap();
    fs::write(skills.join("demo/SKILL.md"), SKILL).unwrap();
    let files = demo();
    assert!(place(&skills, &files, &origin(&files), true).unwrap_err().0.contains("yours"));
    assert!(remove(&skills, "demo", true).unwrap_err().0.contains("yours"));
    assert_eq!(fs::read_to_string(skills.join("demo/SKILL.md")).unwrap(), SKILL);
    for name in ["../demo", "a/b", ".hidden", "nul", "", "/abs"] {
        let bad = Origin { name: name.into(), ..origin(&files) };
        assert!(place(&skills, &files, &bad, true).is_err(), "{name:?}");
    }
    assert_eq!(entries(&skills), ["demo"]);
}

#[test]
fn a_replacement_that_a_crash_cut_short_is_ended_later() {
    let home = tempfile::tempdir().unwrap();
    let skills = home.path().join("skills");
    let files = demo();
    place(&skills, &files, &origin(&files), false).unwrap();
    // The old one was moved away, and then nothing more happened.
    fs::rename(skills.join("demo"), skills.join(".replaced-demo")).unwrap();
    assert!(matches!(state_of(&skills, "demo").unwrap(), Place::Ours(_)));
    assert_eq!(entries(&skills), ["demo"]);
}

#[test]
fn what_is_published_survives_and_is_bounded() {
    let home = tempfile::tempdir().unwrap();
    let offers = Offers::open(home.path());
    let offer = |name: &str| Offer {
        name: name.into(),
        hash: "ab".repeat(32),
        blob: Hash([1; 32]),
        len: 10,
        files: 1,
        description: String::new(),
        runs: false,
        published_at: 1,
    };
    for n in 0..OFFERS_MAX {
        offers.add(offer(&format!("s{n}"))).unwrap();
    }
    assert!(offers.add(offer("more")).is_err());
    assert!(offers.add(offer("s7")).unwrap().is_some());
    for bad in
        [Offer { name: "a\nb".into(), ..offer("x") }, Offer { hash: "..".into(), ..offer("x") }, Offer { len: 1 << 40, ..offer("x") }]
    {
        assert!(offers.add(bad).is_err());
    }
    assert_eq!(Offers::open(home.path()).list().len(), OFFERS_MAX);
    assert!(offers.withdraw("s7").unwrap().is_some() && offers.withdraw("s7").unwrap().is_none());
    fs::write(home.path().join("offers.json"), "{half").unwrap();
    assert!(Offers::open(home.path()).list().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_packed_is_unpacked(all in proptest::collection::btree_map("[a-zé]{1,12}(/[a-z0-9_.]{0,90}[a-z0-9]){0,3}", proptest::collection::vec(any::<u8>(), 0..2_000), 0..20)) {
        if clawmesh_protocol::files::check_paths(all.keys().map(String::as_str)).is_ok() {
            let archive = pack(&all).unwrap();
            prop_assert!(archive.len() as u64 <= ARCHIVE_MAX);
            prop_assert_eq!(unpack(&archive).unwrap(), all);
        }
    }

    /// No bytes make it panic, and whatever it accepts is exactly what it would have written.
    #[test]
    fn any_bytes_are_judged(start in 0usize..3_000, noise in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut archive = pack(&demo()).unwrap();
        let at = start % archive.len();
        let end = (at + noise.len()).min(archive.len());
        archive[at..end].copy_from_slice(&noise[..end - at]);
        if let Ok(files) = unpack(&archive) {
            prop_assert_eq!(pack(&files).unwrap(), archive);
        }
        let _ = unpack(&noise);
    }
}
