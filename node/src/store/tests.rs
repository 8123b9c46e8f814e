//! The store as a whole: what is durable, what a damaged one does, and how it refuses.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;

use super::*;

mod damage;
mod power;
mod speed;

/// Longer than any honest commit takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An open store, what was found in it, and its completions.
struct Rig {
    store: Store,
    done: Receiver<Completion>,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    side: Option<Vec<u8>>,
    store_id: u64,
    boot: u64,
    report: OpenReport,
    faults: Faults,
}

impl Rig {
    fn open(dir: &Path) -> Rig {
        Rig::open_with(dir, |_| {}).unwrap()
    }

    /// In these tests the side and the high water mark are compared as plain bytes.
    fn open_with(dir: &Path, change: impl FnOnce(&mut Options)) -> Result<Rig, StoreError> {
        let (tell, done) = channel();
        let mut options = Options::new(Box::new(move |c| {
            let _ = tell.send(c);
        }));
        options.ballast_max_bytes = 0;
        change(&mut options);
        let faults = options.faults.clone();
        let found = Store::open(dir, options, |side, hw| hw.unwrap_or_default() >= side)?;
        Ok(Rig {
            store: found.store,
            done,
            entries: found.entries,
            side: found.side,
            store_id: found.store_id,
            boot: found.boot,
            report: found.report,
            faults,
        })
    }

    fn commit(&self, batch: Batch) {
        self.store.commit(batch).unwrap();
    }

    /// Waits until batch `no` is durable.
    fn wait(&self, no: u64) {
        loop {
            match self.done.recv_timeout(PATIENCE).unwrap() {
                Completion::Committed { upto, .. } if upto >= no => return,
                Completion::Committed { .. } => {}
                Completion::Failed { error } => panic!("{error}"),
            }
        }
    }

    /// Puts the records `range`, each group of `step` in a commit of its own.
    fn fill(&self, range: std::ops::Range<u64>, step: usize) {
        let no = range.start + 1;
        let all: Vec<u64> = range.collect();
        for (no, chunk) in (no..).zip(all.chunks(step)) {
            self.commit(Batch { no, puts: chunk.iter().map(|i| (key(*i), value(*i))).collect(), ..Batch::default() });
            self.wait(no);
        }
    }

    fn value(&self, key: &[u8]) -> Option<&[u8]> {
        let found = self.entries.iter().find(|(k, _)| k == key);
        found.map(|(_, v)| v.as_slice())
    }
}

fn put(no: u64, key: &str, value: &[u8]) -> Batch {
    Batch { no, puts: vec![(key.into(), value.to_vec())], ..Batch::default() }
}

fn side(no: u64, bytes: &[u8]) -> Batch {
    Batch { no, side: Some(bytes.to_vec()), ..Batch::default() }
}

/// Fills a store with `count` records of 200 bytes and closes it. Returns its id.
fn filled(dir: &Path, count: u64) -> u64 {
    let rig = Rig::open(dir);
    rig.fill(0..count, 500);
    let id = rig.store_id;
    rig.store.close().unwrap();
    id
}

fn key(i: u64) -> Vec<u8> {
    format!("task/{i:08}").into_bytes()
}

fn value(i: u64) -> Vec<u8> {
    let mut bytes = [0; 200];
    blake3::Hasher::new().update(&i.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.to_vec()
}

fn damaged_dirs(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut found: Vec<_> = all.filter(|p| p.to_string_lossy().contains("sled.damaged-")).collect();
    found.sort();
    found
}

fn flip(path: &Path, at: u64, mask: u8) {
    let mut content = fs::read(path).unwrap();
    content[at as usize] ^= mask;
    fs::write(path, content).unwrap();
}

#[test]
fn a_store_gives_back_what_was_committed_and_counts_its_starts() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    assert_eq!((rig.boot, rig.side.as_deref()), (1, None));
    assert_eq!(rig.report, OpenReport::default());
    rig.commit(put(1, "a", b"1"));
    rig.commit(put(2, "b", b""));
    rig.commit(Batch {
        no: 9,
        puts: vec![(b"c".to_vec(), vec![7; VALUE_LEN_MAX])],
        dels: vec![b"a".to_vec(), b"absent".to_vec()],
        side: None,
    });
    rig.wait(9);
    let id = rig.store_id;
    rig.store.close().unwrap();

    let rig = Rig::open(dir.path());
    assert_eq!((rig.store_id, rig.boot), (id, 2));
    assert_eq!(rig.entries, [(b"b".to_vec(), vec![]), (b"c".to_vec(), vec![7; VALUE_LEN_MAX])]);
    assert_eq!(rig.report, OpenReport::default());
}

#[test]
fn completions_rise_and_the_last_write_of_a_key_wins() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    for no in 1..=3000 {
        let mut batch = put(no, &format!("k{}", no % 7), &no.to_le_bytes());
        batch.side = (no % 10 == 0).then(|| no.to_le_bytes().to_vec());
        batch.puts.push((KEY_HW.to_vec(), vec![255; 8]));
        rig.commit(batch);
    }
    let (mut last, mut records) = (0, 0);
    while last < 3000 {
        match rig.done.recv_timeout(PATIENCE).unwrap() {
            Completion::Committed { upto, records: n, .. } => {
                assert!(upto > last, "{upto} after {last}");
                last = upto;
                records += n;
            }
            Completion::Failed { error } => panic!("{error}"),
        }
    }
    assert_eq!((last, records), (3000, 6000));
    rig.store.close().unwrap();
    let rig = Rig::open(dir.path());
    assert_eq!(rig.side, Some(3000_u64.to_le_bytes().to_vec()));
    for no in 2994..=3000_u64 {
        assert_eq!(rig.value(format!("k{}", no % 7).as_bytes()), Some(&no.to_le_bytes()[..]));
    }
}

#[test]
fn batches_out_of_order_or_above_a_cap_are_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    rig.commit(put(5, "good", b"x"));
    let again = rig.store.commit(put(5, "k", b"y"));
    assert!(matches!(again, Err(Refused::Order { no: 5, last: 5 })));
    let long_key = "k".repeat(KEY_LEN_MAX + 1);
    let wrong = [
        put(6, "k", &[0; VALUE_LEN_MAX + 1]),
        put(6, "", b"v"),
        put(6, "\0side", b"v"),
        put(6, &long_key, b"v"),
        side(6, &[0; SIDE_LEN_MAX + 1]),
        Batch { no: 6, puts: vec![(b"k".to_vec(), vec![0; 4000]); 1100], ..Batch::default() },
    ];
    for batch in wrong {
        let refused = rig.store.commit(batch);
        assert!(matches!(refused, Err(Refused::Size { .. })), "{refused:?}");
    }
    rig.commit(put(6, "also good", b"x"));
    rig.wait(6);
    rig.store.close().unwrap();
    assert_eq!(Rig::open(dir.path()).entries.len(), 2);
}

#[test]
fn a_full_queue_gives_the_batch_back() {
    let dir = tempfile::tempdir().unwrap();
    let (go, hold) = channel::<()>();
    let (tell, done) = channel();
    let mut options = Options::new(Box::new(move |c| {
        // The first completion waits for the test; so everything behind it piles up.
        let _ = hold.recv();
        let _ = tell.send(c);
    }));
    options.ballast_max_bytes = 0;
    let opened = Store::open(dir.path(), options, |_, _| true).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut no = 0;
    let returned = loop {
        no += 1;
        match opened.store.commit(put(no, "k", &no.to_le_bytes())) {
            Ok(()) => assert!(Instant::now() < deadline && no < 2 * QUEUE_BATCHES_MAX as u64),
            Err(Refused::Busy(batch)) => break batch,
            Err(e) => panic!("{e}"),
        }
    };
    assert_eq!(returned, put(no, "k", &no.to_le_bytes()));
    drop(go);
    let upto = |c| match c {
        Completion::Committed { upto, .. } => upto,
        Completion::Failed { error } => panic!("{error}"),
    };
    while upto(done.recv_timeout(PATIENCE).unwrap()) < no - 1 {}
    opened.store.commit(returned).unwrap();
    opened.store.close().unwrap();
    assert_eq!(Rig::open(dir.path()).value(b"k"), Some(&no.to_le_bytes()[..]));
}

#[test]
fn a_failed_fsync_latches_the_store_until_it_is_opened_again() {
    for (kind, full) in [(ErrorKind::Other, false), (ErrorKind::StorageFull, true)] {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::default();
        let metrics = StoreMetrics::new(&mut registry);
        let rig = Rig::open_with(dir.path(), |o| o.metrics = metrics).unwrap();
        rig.commit(put(1, "acked", b"1"));
        rig.wait(1);
        rig.faults.fail_sync_in(1, kind);
        rig.commit(put(2, "not acked", b"2"));
        let Completion::Failed { error } = rig.done.recv_timeout(PATIENCE).unwrap() else {
            panic!("a failed fsync was reported as durable");
        };
        assert_eq!(error.full, full, "{error}");
        let refused = rig.store.commit(put(3, "later", b"3"));
        assert!(matches!(refused, Err(Refused::Bad(e)) if e == error));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("store_bad 1\n"), "{text}");
        assert!(text.contains("store_records_written_total 1\n"), "{text}");
        assert_eq!(rig.store.close(), Err(error));

        let rig = Rig::open(dir.path());
        assert_eq!(rig.value(b"acked"), Some(&b"1"[..]));
        assert_eq!(rig.value(b"later"), None);
    }
}

#[test]
fn a_failed_fsync_of_the_side_file_is_never_reported_as_durable() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    rig.faults.fail_sync_in(2, ErrorKind::Other);
    rig.commit(side(1, b"p"));
    let done = rig.done.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(done, Completion::Failed { .. }), "{done:?}");
}

#[test]
fn a_side_alone_is_durable_without_touching_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    // Two fsyncs for the two copies of the side; a third, of the database, would fail.
    rig.faults.fail_sync_in(3, ErrorKind::Other);
    rig.commit(side(1, b""));
    rig.wait(1);
    rig.store.close().unwrap();
    assert_eq!(Rig::open(dir.path()).side.as_deref(), Some(&b""[..]));
}

#[test]
fn a_crash_between_the_database_and_the_side_file_keeps_both_in_step() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    rig.commit(side(1, b""));
    rig.wait(1);
    // The database's fsync succeeds, the side file's fails: the store stops right between.
    rig.faults.fail_sync_in(2, ErrorKind::Other);
    let mut batch = side(2, b"7");
    batch.puts = vec![(KEY_HW.to_vec(), b"7".to_vec())];
    rig.commit(batch);
    let done = rig.done.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(done, Completion::Failed { .. }), "{done:?}");
    // The write to the side file never reached the disk.
    let old = fs::read(dir.path().join("side")).unwrap();
    drop(rig);
    let mut rolled_back = old.clone();
    rolled_back.copy_within(4096.., 0);
    fs::write(dir.path().join("side"), rolled_back).unwrap();

    let rig = Rig::open(dir.path());
    assert_eq!(rig.side.as_deref(), Some(&b"7"[..]));
    assert!(!rig.report.quarantined, "{:?}", rig.report);
}

#[test]
fn a_torn_side_slot_is_renewed_from_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    rig.commit(side(1, b""));
    rig.wait(1);
    let id = rig.store_id;
    rig.store.close().unwrap();
    flip(&dir.path().join("side"), 30, 1);
    let rig = Rig::open(dir.path());
    assert_eq!((rig.store_id, rig.boot), (id, 2));
    assert_eq!(rig.side.as_deref(), Some(&b""[..]));
    assert_eq!(rig.report.notes.len(), 1);
    rig.store.close().unwrap();
    assert_eq!(Rig::open(dir.path()).report, OpenReport::default());
}

#[test]
fn without_a_readable_side_file_the_store_gets_a_new_id_and_keeps_its_records() {
    for lost in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let id = filled(dir.path(), 1200);
        let file = dir.path().join("side");
        if lost {
            fs::remove_file(&file).unwrap();
        } else {
            flip(&file, 30, 1);
            flip(&file, 4096 + 30, 1);
        }
        let rig = Rig::open(dir.path());
        assert_ne!(rig.store_id, id);
        assert!(rig.report.quarantined);
        assert_eq!(rig.report.moved_to.as_ref(), damaged_dirs(dir.path()).first());
        assert_eq!(rig.entries.len(), 1200);
        let (new, boot) = (rig.store_id, rig.boot);
        rig.store.close().unwrap();
        let rig = Rig::open(dir.path());
        assert_eq!((rig.store_id, rig.boot), (new, boot + 1));
        assert_eq!(rig.report, OpenReport::default());
        assert_eq!(rig.value(&key(77)), Some(&value(77)[..]));
    }
}

#[test]
fn a_database_behind_the_side_file_is_set_aside_until_a_new_mark_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    let id = rig.store_id;
    rig.commit(put(1, "meta/hw", b"5"));
    rig.commit(side(2, b"9"));
    rig.wait(2);
    rig.store.close().unwrap();

    let rig = Rig::open(dir.path());
    assert!(rig.report.quarantined, "{:?}", rig.report);
    assert_ne!(rig.store_id, id);
    // The promise is kept, the records too.
    assert_eq!(rig.side.as_deref(), Some(&b"9"[..]));
    assert_eq!(rig.value(KEY_HW), Some(&b"5"[..]));
    let new = rig.store_id;
    rig.store.close().unwrap();

    // A crash before the caller wrote a new mark must not quarantine again and again.
    let rig = Rig::open(dir.path());
    assert_eq!((rig.store_id, rig.report.quarantined), (new, false));
    rig.commit(side(1, b"8"));
    rig.wait(1);
    rig.store.close().unwrap();
    // But a new mark counts again.
    let rig = Rig::open(dir.path());
    assert!(rig.report.quarantined && rig.store_id != new);
}

#[test]
fn a_database_that_vanished_or_belongs_to_another_store_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let id = filled(dir.path(), 10);
    let away = dir.path().join("away");
    fs::rename(dir.path().join("sled"), &away).unwrap();
    let rig = Rig::open(dir.path());
    assert!(rig.report.quarantined && rig.store_id != id);
    assert_eq!(rig.entries, []);
    let second = rig.store_id;
    rig.store.close().unwrap();

    fs::remove_dir_all(dir.path().join("sled")).unwrap();
    fs::rename(&away, dir.path().join("sled")).unwrap();
    let rig = Rig::open(dir.path());
    assert!(rig.report.quarantined && rig.store_id != second);
    assert_eq!(rig.entries.len(), 10);
}

#[test]
fn a_first_start_cut_off_before_its_side_file_was_written_just_starts_again() {
    for side in [None, Some(&[0_u8; 0][..]), Some(&[0; 8192])] {
        let dir = tempfile::tempdir().unwrap();
        Rig::open(dir.path()).store.close().unwrap();
        let file = dir.path().join("side");
        fs::remove_file(&file).unwrap();
        if let Some(content) = side {
            fs::write(&file, content).unwrap();
        }
        let rig = Rig::open(dir.path());
        assert_eq!((rig.boot, rig.report.quarantined), (1, false));
        assert_eq!(rig.report.notes.len(), usize::from(side.is_some()));
    }
}

#[test]
fn a_snapshot_cut_off_by_a_crash_does_not_hinder_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let id = filled(dir.path(), 100);
    fs::write(dir.path().join("sled/snap.0000000000000BAD.generating"), b"").unwrap();
    let rig = Rig::open(dir.path());
    assert_eq!((rig.store_id, rig.entries.len()), (id, 100));
    assert_eq!(rig.report, OpenReport::default());
}

#[test]
fn a_damaged_snapshot_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let id = filled(dir.path(), 100);
    remove_snapshots(dir.path());
    fs::write(dir.path().join("sled/snap.0000000000000BAD"), [9; 300]).unwrap();
    let rig = Rig::open(dir.path());
    assert_eq!((rig.store_id, rig.entries.len()), (id, 100));
    assert!(!rig.report.quarantined, "{:?}", rig.report);
}

fn remove_snapshots(dir: &Path) {
    let names = fs::read_dir(dir.join("sled")).unwrap();
    for path in names.map(|e| e.unwrap().path()) {
        if path.to_string_lossy().contains("snap.") {
            fs::remove_file(path).unwrap();
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn only_three_damaged_databases_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let rig = Rig::open(dir.path());
        assert_eq!(rig.report.quarantined, round > 0);
        rig.commit(put(1, "k", b"v"));
        rig.wait(1);
        rig.store.close().unwrap();
        fs::remove_file(dir.path().join("side")).unwrap();
    }
    assert_eq!(damaged_dirs(dir.path()).len(), 3);
}

#[test]
fn a_database_that_outgrew_its_records_is_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let id = filled(dir.path(), 20_000);
    let rig = Rig::open(dir.path());
    rig.commit(Batch { no: 1, dels: (40..20_000).map(key).collect(), side: Some(b"".to_vec()), ..Batch::default() });
    rig.wait(1);
    rig.store.close().unwrap();
    let data = dir.path().join("sled/db");
    let before = fs::metadata(&data).unwrap().len();

    let rig = Rig::open_with(dir.path(), |o| o.rewrite_floor_bytes = 1 << 20).unwrap();
    assert!(rig.report.rewritten, "{before} bytes: {:?}", rig.report);
    assert_eq!((rig.store_id, rig.side.as_deref()), (id, Some(&b""[..])));
    assert_eq!(rig.entries.len(), 40);
    rig.store.close().unwrap();
    assert!(fs::metadata(&data).unwrap().len() < before);

    let rig = Rig::open(dir.path());
    assert_eq!((rig.store_id, rig.entries.len()), (id, 40));
    assert_eq!(rig.report, OpenReport::default());
}

#[test]
fn a_swap_cut_off_at_any_point_loses_nothing() {
    // What is left of `sled`, `sled.new` and `sled.old` after each step of a rewrite.
    let cases: [&[&str]; 4] = [&["sled", "sled.new"], &["sled.old"], &["sled.new", "sled.old"], &["sled", "sled.old"]];
    for left in cases {
        let dir = tempfile::tempdir().unwrap();
        let id = filled(dir.path(), 50);
        let whole = dir.path().join("whole");
        fs::rename(dir.path().join("sled"), &whole).unwrap();
        for name in left {
            let half_made = *name == "sled.new" && left.contains(&"sled");
            if half_made {
                fs::create_dir(dir.path().join(name)).unwrap();
            } else {
                copy_tree(&whole, &dir.path().join(name));
            }
        }
        let rig = Rig::open(dir.path());
        assert_eq!((rig.store_id, rig.entries.len()), (id, 50), "{left:?}");
        assert!(!rig.report.quarantined, "{left:?}");
        assert!(!dir.path().join("sled.new").exists() && !dir.path().join("sled.old").exists());
    }
}

#[test]
fn a_store_that_may_not_be_read_is_an_error_and_not_damage() {
    let dir = tempfile::tempdir().unwrap();
    let id = filled(dir.path(), 10);
    // The lock of sled stands for any refusal: permissions mean nothing to root.
    let holder = Rig::open(dir.path());
    let refused = Rig::open_with(dir.path(), |_| {}).err().unwrap();
    assert!(matches!(refused, StoreError::Io { .. }), "{refused}");
    assert_eq!(damaged_dirs(dir.path()), Vec::<PathBuf>::new());
    holder.store.close().unwrap();
    let rig = Rig::open(dir.path());
    assert_eq!((rig.store_id, rig.entries.len()), (id, 10));
}

#[test]
fn when_no_copy_can_be_made_the_damaged_database_still_gets_out_of_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let id = filled(dir.path(), 10);
    fs::remove_file(dir.path().join("side")).unwrap();
    // The first fsync is that of opening the old database, the second that of the copy.
    let refused = Rig::open_with(dir.path(), |o| o.faults.fail_sync_in(2, ErrorKind::StorageFull));
    assert!(matches!(refused.err(), Some(StoreError::Io { .. })));
    assert_eq!(damaged_dirs(dir.path()).len(), 0, "a full disk is no reason");
    let refused = Rig::open_with(dir.path(), |o| o.faults.fail_sync_in(2, ErrorKind::Other));
    let told = refused.err().unwrap().to_string();
    let aside = damaged_dirs(dir.path());
    assert!(aside.len() == 1 && told.contains(&aside[0].display().to_string()), "{told}");
    let rig = Rig::open(dir.path());
    assert_eq!(rig.entries, []);
    assert_ne!(rig.store_id, id);
}

#[test]
fn the_last_of_the_disk_is_left_alone_and_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let total = 1 << 30;
    let floor = total / 20;
    let disk = Faults::default();
    disk.claim_room(total / 2, total);
    let open = || {
        Rig::open_with(dir.path(), |o| {
            o.faults = disk.clone();
            o.ballast_max_bytes = 1 << 20;
        })
    };
    let rig = open().unwrap();
    rig.commit(put(1, "k", b"acked"));
    rig.wait(1);
    assert!(!rig.store.space().unwrap().low && dir.path().join("ballast").exists());

    // Low: the ballast goes, new work is for the caller to refuse, terminal writes still pass.
    disk.claim_room(floor - 1, total);
    rig.commit(put(2, "end", b"acked"));
    rig.wait(2);
    assert!(rig.store.space().unwrap().low && !dir.path().join("ballast").exists());

    // The reserve is not touched by records.
    disk.claim_room(floor / 4, total);
    rig.commit(put(3, "k", b"not acked"));
    let done = rig.done.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(&done, Completion::Failed { error } if error.full), "{done:?}");
    drop(rig);
    let refused = open().err().unwrap();
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");

    disk.claim_room(total / 2, total);
    let rig = open().unwrap();
    assert_eq!(rig.value(b"k"), Some(&b"acked"[..]));
    assert_eq!(rig.value(b"end"), Some(&b"acked"[..]));
    assert_eq!(rig.report, OpenReport::default());
}
