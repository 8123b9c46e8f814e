#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use std::io::Read;

use proptest::prelude::*;

use super::*;

fn depot_of(limits: Limits, free: u64) -> (tempfile::TempDir, Depot) {
    let dir = tempfile::tempdir().unwrap();
    let depot = Depot::open(&dir.path().join("blobs"), limits, Arc::new(move || Ok(free))).unwrap();
    (dir, depot)
}

fn depot() -> (tempfile::TempDir, Depot) {
    depot_of(Limits::default(), 1 << 40)
}

fn again(dir: &tempfile::TempDir) -> Depot {
    Depot::open(&dir.path().join("blobs"), Limits::default(), Arc::new(|| Ok(1 << 40))).unwrap()
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn read(depot: &Depot, hash: BlobHash) -> Vec<u8> {
    let mut all = Vec::new();
    depot.content(hash).unwrap().0.read_to_end(&mut all).unwrap();
    all
}

fn sent(depot: &Depot, hash: BlobHash, part: Range<u64>) -> Vec<u8> {
    let mut wire = Vec::new();
    depot.send(hash, &part, &mut wire).unwrap();
    wire
}

fn pinned(name: &str) -> Keep {
    Keep { pinned: true, name: name.into(), result: false }
}

/// Overwrites one byte of a blob's file, as a failing disk would.
fn rot(depot: &Depot, hash: BlobHash, ending: &str, at: usize) {
    let path = depot.path(hash, ending);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
}

#[test]
fn what_was_put_is_there_after_a_restart_with_its_name_and_pin() {
    let (dir, depot) = depot();
    for len in [0, 1, 1024, 65_536, 65_537, 1 << 20, 3_000_001] {
        let bytes = noise(len, 1);
        let (hash, entry) = depot.put(&bytes, &pinned("model")).unwrap();
        assert_eq!(hash, BlobHash::of(&bytes), "the name is the plain BLAKE3, whatever the length");
        assert_eq!((entry.len, entry.pinned, entry.name.as_str()), (len as u64, true, "model"));
        let later = again(&dir);
        assert_eq!(read(&later, hash), bytes);
        assert!(later.entry(hash).unwrap().pinned);
        assert_eq!(later.resolve(&hash.to_string()[..12]).unwrap(), hash);
    }
    assert_eq!(fs::read_dir(dir.path().join("blobs/tmp")).unwrap().count(), 0);
    assert_eq!(again(&dir).list().len(), 7);
}

#[test]
fn a_draft_that_is_dropped_leaves_nothing() {
    let (dir, depot) = depot();
    let mut draft = depot.draft().unwrap();
    draft.write(b"half").unwrap();
    drop(draft);
    assert_eq!(fs::read_dir(dir.path().join("blobs/tmp")).unwrap().count(), 0);
    assert!(depot.list().is_empty());
}

#[test]
fn too_long_and_too_full_are_told_apart() {
    let (_dir, small) = depot_of(Limits { blob: 1000, cache: 1 << 30 }, 1 << 40);
    assert!(matches!(small.put(&noise(1001, 1), &Keep::default()), Err(DepotError::TooLong { max: 1000 })));
    assert!(matches!(small.part(BlobHash([1; 32]), 1001), Err(DepotError::TooLong { .. })));
    let (_dir, full) = depot_of(Limits::default(), 1 << 20);
    assert!(matches!(full.put(b"x", &Keep::default()), Err(DepotError::Full { left: 1_048_576 })));
    assert!(matches!(full.part(BlobHash([1; 32]), 1 << 30), Err(DepotError::Full { .. })));
}

#[test]
fn prefixes_name_a_blob_when_they_are_unique() {
    let (_dir, depot) = depot();
    let hashes: Vec<BlobHash> = (0..40).map(|i| depot.put(&noise(10, i), &Keep::default()).unwrap().0).collect();
    assert!(matches!(depot.resolve("xyz!"), Err(DepotError::NoHash(_))));
    assert!(matches!(depot.resolve("ab"), Err(DepotError::NoHash(_))));
    let absent = "0".repeat(12);
    assert!(matches!(depot.resolve(&absent), Err(DepotError::Unknown(_))));
    for h in &hashes {
        assert_eq!(depot.resolve(&h.to_string()[..16].to_uppercase()).unwrap(), *h);
    }
    depot.state().entries.insert(BlobHash([0xab; 32]), Entry::new(1));
    let mut near = [0xab; 32];
    near[31] = 0;
    depot.state().entries.insert(BlobHash(near), Entry::new(1));
    assert!(matches!(depot.resolve("abab"), Err(DepotError::Ambiguous { all, .. }) if all.len() == 2));
}

#[test]
fn a_transfer_goes_on_where_it_broke_off_also_after_a_restart() {
    let (_a, from) = depot();
    let (dir, to) = depot();
    let bytes = noise(40 << 20, 7);
    let (hash, _) = from.put(&bytes, &Keep::default()).unwrap();
    let len = bytes.len() as u64;
    Depot::check_len(hash, len, sent(&from, hash, 0..0).as_slice()).unwrap();
    let mut part = to.part(hash, len).unwrap();
    let first = part.next(16 << 20).unwrap();
    assert_eq!(first, 0..16 << 20);
    part.receive(&first, sent(&from, hash, first.clone()).as_slice(), |_| {}).unwrap();
    // The line breaks in the middle of the second part.
    let second = part.next(16 << 20).unwrap();
    let wire = sent(&from, hash, second.clone());
    let cut = part.receive(&second, &wire[..wire.len() / 2], |_| {}).unwrap_err();
    assert!(matches!(cut, ReceiveError::Line(_)), "{cut}");
    let done = part.done();
    assert!(done > 20 << 20, "{done}");
    drop(part);

    let later = again(&dir);
    assert_eq!(later.part_len(hash), Some(len));
    let mut part = later.part(hash, len).unwrap();
    assert_eq!((part.done(), part.resumed()), (done, done));
    while let Some(next) = part.next(16 << 20) {
        part.receive(&next, sent(&from, hash, next.clone()).as_slice(), |_| {}).unwrap();
    }
    part.finish(&pinned("x")).unwrap();
    assert_eq!(read(&later, hash), bytes);
    // It can be handed on: the hashes came with it.
    assert_eq!(sent(&later, hash, 64 << 10..8 << 20), sent(&from, hash, 64 << 10..8 << 20));
    assert_eq!(later.part_len(hash), None);
}

#[test]
fn a_lie_is_noticed_at_the_first_bad_group_and_what_was_right_stays() {
    let (_a, from) = depot();
    let (_b, to) = depot();
    let bytes = noise(4 << 20, 9);
    let (hash, _) = from.put(&bytes, &Keep::default()).unwrap();
    let len = bytes.len() as u64;
    let mut wire = sent(&from, hash, 0..len);
    let at = wire.len() / 2;
    wire[at] ^= 1;
    let mut part = to.part(hash, len).unwrap();
    let lie = part.receive(&(0..len), wire.as_slice(), |_| {}).unwrap_err();
    let ReceiveError::Lie { at } = lie else { panic!("{lie}") };
    assert!(at.abs_diff(len / 2) <= 2 * GROUP, "noticed at {at}");
    assert_eq!(part.done(), at);
    let rest = part.next(1 << 30).unwrap();
    part.receive(&rest, sent(&from, hash, rest.clone()).as_slice(), |_| {}).unwrap();
    part.finish(&Keep::default()).unwrap();
    assert_eq!(read(&to, hash), bytes);
}

#[test]
fn a_false_length_does_not_pass() {
    let (_a, from) = depot();
    let bytes = noise(1_000_000, 3);
    let (hash, _) = from.put(&bytes, &Keep::default()).unwrap();
    let proof = sent(&from, hash, 0..0);
    Depot::check_len(hash, 1_000_000, proof.as_slice()).unwrap();
    for claimed in [0, 1, 999_999, 1_000_001, 2_000_000, 1 << 40, u64::MAX] {
        assert!(Depot::check_len(hash, claimed, proof.as_slice()).is_err(), "{claimed}");
    }
    let (empty, _) = from.put(b"", &Keep::default()).unwrap();
    Depot::check_len(empty, 0, sent(&from, empty, 0..0).as_slice()).unwrap();
    assert!(Depot::check_len(hash, 0, [].as_slice()).is_err());
}

#[test]
fn the_holder_of_a_damaged_blob_notices_it_when_it_sends() {
    for ending in ["", "tree"] {
        let (dir, depot) = depot();
        let bytes = noise(1 << 20, 5);
        let (hash, _) = depot.put(&bytes, &pinned("x")).unwrap();
        rot(&depot, hash, ending, if ending.is_empty() { 700_000 } else { 100 });
        let done = depot.send(hash, &(0..bytes.len() as u64), io::sink());
        assert!(matches!(done, Err(DepotError::Damaged(h)) if h == hash), "{ending:?}");
        assert_eq!((depot.entry(hash), depot.damaged_count()), (None, 1));
        assert_eq!(again(&dir).list(), []);
    }
}

#[test]
fn to_put_it_again_heals_what_has_rotted_and_keeps_the_pin() {
    let (_dir, depot) = depot();
    let bytes = noise(300_000, 5);
    let (hash, _) = depot.put(&bytes, &pinned("x")).unwrap();
    rot(&depot, hash, "", 1_000);
    let (_, entry) = depot.put(&bytes, &Keep::default()).unwrap();
    assert_eq!((entry.pinned, entry.name.as_str()), (true, "x"));
    assert_eq!(read(&depot, hash), bytes);
    sent(&depot, hash, 0..300_000);
}

#[test]
fn a_task_that_writes_into_its_input_costs_the_blob_not_the_truth() {
    let (_dir, depot) = depot();
    let (hash, _) = depot.put(&noise(100_000, 5), &pinned("x")).unwrap();
    let lease = depot.lease(hash).unwrap();
    assert!(matches!(depot.remove(hash), Err(DepotError::InUse(_))));
    drop(lease);
    assert!(depot.entry(hash).is_some());
    let lease = depot.lease(hash).unwrap();
    rot(&depot, hash, "", 17);
    drop(lease);
    assert_eq!(depot.entry(hash), None);
}

#[test]
fn the_cache_is_bounded_and_takes_only_what_nobody_has_pinned() {
    let (_dir, depot) = depot_of(Limits { blob: 1 << 30, cache: 250_000 }, 1 << 40);
    let kept = depot.put(&noise(100_000, 1), &pinned("kept")).unwrap().0;
    let result = depot.put(&noise(100_000, 2), &Keep { result: true, ..Keep::default() }).unwrap().0;
    let old = depot.put(&noise(100_000, 3), &Keep::default()).unwrap().0;
    let fresh = depot.put(&noise(100_000, 4), &Keep::default()).unwrap().0;
    depot.state().entries.get_mut(&old).unwrap().used_at -= 1_000;
    assert_eq!(depot.sweep(), 1);
    assert_eq!([kept, result, old, fresh].map(|h| depot.entry(h).is_some()), [true, true, false, true]);
    depot.state().entries.get_mut(&fresh).unwrap().used_at -= 8 * 86_400_000;
    depot.state().entries.get_mut(&kept).unwrap().used_at -= 80 * 86_400_000;
    assert_eq!(depot.sweep(), 1);
    assert_eq!(depot.sizes(), (200_000, 100_000));
    depot.pin(kept, false).unwrap();
    assert_eq!(depot.sweep(), 0, "to be unpinned is to be used");
    assert!(depot.remove(kept).unwrap() && !depot.remove(kept).unwrap());
}

#[test]
fn files_are_taken_and_links_are_not() {
    let (dir, depot) = depot();
    let file = dir.path().join("out.bin");
    fs::write(&file, noise(200_000, 1)).unwrap();
    let (hash, entry) = depot.take(&file, &pinned("out.bin")).unwrap();
    assert!(!file.exists() && entry.len == 200_000 && read(&depot, hash) == noise(200_000, 1));
    #[cfg(unix)]
    {
        let precious = dir.path().join("precious");
        fs::write(&precious, "secret").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&precious, &link).unwrap();
        assert!(depot.take(&link, &Keep::default()).is_err());
        assert_eq!(fs::read(&precious).unwrap(), b"secret");
    }
    assert_eq!(fs::read_dir(dir.path().join("blobs/tmp")).unwrap().count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever comes over the line: no panic, and nothing wrong is ever taken for right.
    #[test]
    fn garbage_never_becomes_a_blob(len in 0u64..400_000, wire in proptest::collection::vec(any::<u8>(), 0..2_000), flip in any::<usize>()) {
        let (_a, from) = depot();
        let (_b, to) = depot();
        let bytes = noise(usize::try_from(len).unwrap(), 1);
        let (hash, _) = from.put(&bytes, &Keep::default()).unwrap();
        let mut part = to.part(hash, len).unwrap();
        if let Some(next) = part.next(1 << 30) {
            let garbage = part.receive(&next, wire.as_slice(), |_| {});
            prop_assert!(garbage.is_err());
            prop_assert_eq!(part.done(), 0);
            let mut right = sent(&from, hash, next.clone());
            let at = flip % right.len();
            right[at] ^= 0x40;
            let flipped = part.receive(&next, right.as_slice(), |_| {});
            prop_assert!(flipped.is_err());
            let rest = part.next(1 << 30).unwrap();
            part.receive(&rest, sent(&from, hash, rest.clone()).as_slice(), |_| {}).unwrap();
        }
        part.finish(&Keep::default()).unwrap();
        prop_assert_eq!(read(&to, hash), bytes);
        let _ = Depot::check_len(hash, flip as u64, wire.as_slice());
    }
}
