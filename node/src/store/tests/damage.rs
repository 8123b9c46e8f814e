//! What a damaged database file becomes at the next start.

use super::*;

#[test]
fn a_damaged_database_never_becomes_a_wrong_one() {
    damage_study(48);
}

#[test]
#[ignore = "the same with two thousand cases, minutes long"]
fn a_database_damaged_in_two_thousand_ways_is_always_noticed() {
    damage_study(2000);
}

/// Flipped bits, zeroed pages and cut ends at places all over the file, with and without a
/// snapshot. Each must end in the whole content or in a quarantine, and the start after that
/// must be an ordinary one.
fn damage_study(cases: u64) {
    const RECORDS: u64 = 2000;
    let source = tempfile::tempdir().unwrap();
    // Three starts, so that there is a snapshot of the first two thirds.
    for third in 0..3 {
        let rig = Rig::open(source.path());
        rig.fill(third * RECORDS / 3..(third + 1) * RECORDS / 3, 20);
        rig.store.close().unwrap();
    }
    let rig = Rig::open(source.path());
    let id = rig.store_id;
    rig.store.close().unwrap();
    let (mut unharmed, mut saved) = (0, 0);
    for case in 0..cases {
        let dir = tempfile::tempdir().unwrap();
        copy_tree(source.path(), dir.path());
        let data = dir.path().join("sled/db");
        let mut content = fs::read(&data).unwrap();
        let at = (case * content.len() as u64 / cases + 61 * case) as usize % content.len();
        match case % 3 {
            0 => content[at] ^= 0x40,
            1 => content[at & !4095..].iter_mut().take(4096).for_each(|b| *b = 0),
            _ => content.truncate(at),
        }
        fs::write(&data, content).unwrap();
        if case % 2 == 0 {
            remove_snapshots(dir.path());
        }
        let rig = Rig::open(dir.path());
        for (k, v) in &rig.entries {
            let i: u64 = std::str::from_utf8(&k[5..]).unwrap().parse().unwrap();
            assert_eq!(*v, value(i), "case {case}, byte {at}");
        }
        let count = rig.entries.len();
        if rig.report.quarantined {
            assert_ne!(rig.store_id, id);
            assert!(rig.report.moved_to.is_some() && !rig.report.notes.is_empty());
            saved += count;
        } else {
            unharmed += 1;
            assert_eq!((rig.store_id, count as u64), (id, RECORDS), "case {case}, byte {at}");
        }
        rig.store.close().unwrap();
        let rig = Rig::open(dir.path());
        assert_eq!((rig.entries.len(), rig.report), (count, OpenReport::default()));
    }
    println!("{unharmed} of {cases} cases hit nothing that mattered; the others kept {saved} records");
    assert!(unharmed < cases, "no damage was ever noticed");
}
