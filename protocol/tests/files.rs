//! Files of tasks, as the rest of the protocol sees them.

use clawmesh_protocol::{
    codec::{decode, encode},
    face::NewTask,
    files::{FILES_MAX, FileRef, Holder, OUTS_MAX, hint},
    ids::{Hash, Peer},
    spec::{Data, Spec, Work, split},
};

fn task(files: usize, outs: usize) -> NewTask {
    NewTask {
        argv: Some(vec!["true".into()]),
        files: (0..files).map(|n| FileRef::new(format!("in/{n}"), Hash([1; 32]), 1 << 30)).collect(),
        outs: (0..outs).map(|n| format!("out/{n}-*.txt")).collect(),
        ..NewTask::default()
    }
}

#[test]
fn who_holds_the_inputs_is_no_part_of_what_a_task_is() {
    let (need, work) = split(&task(2, 1)).expect("a task");
    assert_eq!(need.input_bytes, 2 << 30);
    let payload = Data::Blob(Hash::of(&work), work.len() as u64);
    let plain = Spec { need: need.clone(), payload: payload.clone() };
    let mut hinted = need;
    hint(&mut hinted, vec![Holder { peer: Peer([9; 32]), mib: 2_048 }], 2 << 30);
    let hinted = Spec { need: hinted, payload };
    assert_ne!(plain.need, hinted.need);
    // The same task submitted again with the same key joins the first, although a node has come by its inputs meanwhile.
    assert_eq!(plain.hash(), hinted.hash());
}

#[test]
fn the_most_files_that_are_allowed_survive_the_wire_and_one_more_does_not() {
    let (need, work) = split(&task(FILES_MAX, OUTS_MAX)).expect("a task");
    let back: Work = decode(&work).expect("what was encoded");
    assert_eq!((back.files.len(), back.outs.len()), (FILES_MAX, OUTS_MAX));
    assert_eq!(back.files, task(FILES_MAX, 0).files);
    assert_eq!(decode::<clawmesh_protocol::spec::Need>(&encode(&need)).expect("what was encoded"), need);
    assert!(split(&task(FILES_MAX + 1, 0)).is_err() && split(&task(0, OUTS_MAX + 1)).is_err());
}

#[test]
fn names_that_lead_out_are_refused_at_the_submit() {
    for name in ["../x", "/x", "a/../../x", "nul", "", "a\\b"] {
        let bad = NewTask { files: vec![FileRef::new(name, Hash([1; 32]), 1)], ..task(0, 0) };
        assert!(split(&bad).is_err(), "{name:?}");
    }
    for out in ["../*", "/etc/*", "*/../..", ""] {
        assert!(split(&NewTask { outs: vec![out.into()], ..task(0, 0) }).is_err(), "{out:?}");
    }
    let twice = NewTask { files: ["a", "A"].map(|n| FileRef::new(n, Hash([1; 32]), 1)).to_vec(), ..task(0, 0) };
    assert!(split(&twice).expect_err("two files at one place").contains("twice"));
    let builtin = NewTask { argv: None, skill: Some("echo".into()), ..task(1, 0) };
    assert!(split(&builtin).expect_err("no directory").contains("no working directory"));
}
