//! Laws that hold for all values: how two records become one (T3), floors (G1), the codec (V1), and every prefix of
//! what a disk was given (D1).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test; clippy only knows those inside #[test]")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use ciborium::Value;
use clawmesh_protocol::{
    codec::{self, Blob, Malformed, Wire},
    config::Timing,
    face::Command,
    gate::Gate,
    ids::{Attempt, Epoch, Hash, Origin, Peer, TaskId, Ver},
    io::{Batch, Event, Input, Output, Recovered},
    mesh::Mesh,
    message::{Advert, Floor, Gossip, Message},
    quorum::MeshConfig,
    record::{End, Live, Outcome, PAST_MAX, Past, Queued, Rec, decode_rec, reconcile},
    spec::Data,
    time::Now,
};
use proptest::{collection::vec, prelude::*, sample::Index};

use common::{Disk, World, config, echo, peer};

// ---- records ----

fn epoch() -> impl Strategy<Value = Epoch> {
    (1_u64..4, 1_u8..4).prop_map(|(n, p)| Epoch { n, peer: peer(p) })
}

/// Attempts by number; who ran it and how it ended follow from the number, as they do in a mesh.
fn attempt(k: u32) -> Attempt {
    Attempt { k, epoch: Epoch { n: u64::from(k) / 2 + 1, peer: peer(1) } }
}

fn live(k: u32) -> Live {
    Live { attempt: attempt(k), worker: peer(k as u8 % 3), wboot: 1, placed_at: 0, agent: false, ext: Default::default() }
}

fn past(k: u32) -> Past {
    let (end, why) = (if k.is_multiple_of(2) { End::Failed } else { End::Lost }, String::new());
    let (started_at, ended_at) = (u64::from(k), u64::from(k) + 1);
    Past { attempt: attempt(k), worker: peer(k as u8 % 3), end, exit: None, why, started_at, ended_at, ext: Default::default() }
}

fn outcome(k: u32) -> Outcome {
    Outcome {
        end: End::Done,
        attempt: Some(attempt(k)),
        worker: None,
        exit: Some(0),
        why: String::new(),
        data: Data::Inline(Blob(vec![k as u8])),
        ended_at: u64::from(k),
        ran_ms: 1,
        ext: Default::default(),
    }
}

prop_compose! {
    /// One version of one task, as some coordinator may have written it: what was tried is live or over, never both.
    fn record()(
        ver in (epoch(), 1_u64..5),
        tried in vec(0_u8..3, 8),
        end in proptest::option::of(0_u32..8),
        (cancel, delivered) in any::<(bool, bool)>(),
        counts in any::<[u8; 5]>(),
        queued in (epoch(), 1_u64..5),
    ) -> Rec {
        let spec = echo("x");
        let mut r = Rec::tombstone(TASK, Queued { epoch: queued.0, seq: queued.1 }, outcome(0), 0);
        (r.spec_hash, r.need, r.payload) = (Hash([1; 32]), spec.need, spec.payload);
        r.ver = Ver { epoch: ver.0, seq: ver.1 };
        r.outcome = end.map(outcome);
        (r.cancel, r.delivered) = (cancel, delivered && end.is_some());
        for (k, how) in (0..).zip(tried) {
            match how {
                1 if end != Some(k) => r.live.push(live(k)),
                2 => r.push_past(past(k)),
                _ => {}
            }
        }
        let [issued, crashes, losses, failures, waited] = counts.map(u32::from);
        (r.issued, r.crashes, r.losses, r.failures, r.waited_ms) = (issued, crashes, losses, failures, waited.into());
        r
    }
}

const TASK: TaskId = TaskId { origin: Origin { peer: Peer([9; 32]), store: 1 }, inc: 1, seq: 1 };

/// What must not depend on the order of joining.
fn content(r: &Rec) -> impl PartialEq + std::fmt::Debug + use<> {
    let what = (r.ver, r.outcome.clone(), r.delivered, r.cancel, r.queued);
    (what, r.waited_ms, [r.issued, r.crashes, r.losses, r.failures], r.past.clone())
}

/// Everything that is known to have been tried.
fn tried(r: &Rec) -> BTreeSet<Attempt> {
    let decided = r.outcome.as_ref().and_then(|o| o.attempt);
    r.live.iter().map(|l| l.attempt).chain(r.past.iter().map(|p| p.attempt)).chain(decided).collect()
}

/// Equal versions are equal bytes (I8): two records that share one are no pair that can meet.
fn apart(all: &[&Rec]) -> bool {
    all.iter().map(|r| r.ver).collect::<BTreeSet<_>>().len() == all.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn joining_is_commutative_and_idempotent(a in record(), b in record()) {
        prop_assume!(apart(&[&a, &b]));
        prop_assert_eq!(reconcile(&a, &b), reconcile(&b, &a));
        prop_assert_eq!(reconcile(&a, &a), a.clone());
        let ab = reconcile(&a, &b);
        prop_assert_eq!(reconcile(&ab, &ab), ab.clone());
        // What is already in makes no difference.
        prop_assert_eq!(content(&reconcile(&ab, &a)), content(&ab));
        prop_assert_eq!(content(&reconcile(&ab, &b)), content(&ab));
    }

    #[test]
    fn joining_is_associative_on_content(a in record(), b in record(), c in record()) {
        prop_assume!(apart(&[&a, &b, &c]));
        let left = reconcile(&reconcile(&a, &b), &c);
        let right = reconcile(&a, &reconcile(&b, &c));
        prop_assert_eq!(content(&left), content(&right));
    }

    #[test]
    fn joining_loses_nothing(a in record(), b in record()) {
        prop_assume!(apart(&[&a, &b]));
        let r = reconcile(&a, &b);
        prop_assert_eq!(r.outcome.is_some(), a.outcome.is_some() || b.outcome.is_some());
        prop_assert_eq!(r.delivered, a.delivered || b.delivered);
        prop_assert_eq!(r.cancel, a.cancel || b.cancel);
        for of in [&a, &b] {
            // An accepted result wins over one that was not.
            prop_assert!(!of.delivered || a.delivered == b.delivered || r.outcome == of.outcome);
            prop_assert!(r.issued >= of.issued && r.crashes >= of.crashes && r.losses >= of.losses && r.failures >= of.failures);
            let over: Vec<Attempt> = of.past.iter().map(|p| p.attempt).collect();
            prop_assert!(over.iter().all(|x| r.past.iter().any(|p| p.attempt == *x)), "an ended attempt is gone");
            prop_assert!(of.live.iter().all(|l| tried(&r).contains(&l.attempt)), "an attempt that may run is gone");
            prop_assert!(over.iter().all(|x| r.live.iter().all(|l| l.attempt != *x)), "an ended attempt lives again");
        }
        prop_assert!(r.outcome.as_ref().is_none_or(|o| r.live.iter().all(|l| Some(l.attempt) != o.attempt)));
    }

    #[test]
    fn a_record_keeps_within_its_bounds(a in record(), ks in vec(0_u32..100, 0..60), why in "\\PC{0,400}") {
        let mut r = a;
        for k in ks {
            let before = u64::try_from(r.past.len()).unwrap() + u64::from(r.past_dropped);
            let known = r.past.iter().any(|p| p.attempt == attempt(k));
            let mut p = past(k);
            p.why.clone_from(&why);
            r.push_past(p);
            let after = u64::try_from(r.past.len()).unwrap() + u64::from(r.past_dropped);
            prop_assert_eq!(after, before + u64::from(!known), "each is listed or counted");
            prop_assert!(r.past.len() <= PAST_MAX);
            prop_assert!(r.past.is_sorted_by(|a, b| a.attempt < b.attempt));
        }
        let bytes = r.encode_fit();
        prop_assert_eq!(decode_rec(&bytes), Ok(r.clone()));
        prop_assert!(bytes.len() <= clawmesh_protocol::record::RECORD_MAX || r.past.len() <= 1);
    }
}

// ---- the codec ----

/// A mesh's whole life in a minute: elections, a takeover, submits, cancels, voters, a restart.
fn story() -> World {
    let mut w = World::new(3);
    w.run(3_000);
    w.input(peer(1), Input::Command(1, Command::Submit((0..20).map(|i| echo(&"z".repeat(i * 30))).collect())));
    w.run(500);
    w.kill(peer(3));
    w.input(peer(2), Input::Command(2, Command::Submit((0..20).map(|i| echo(&format!("{i}"))).collect())));
    w.run(8_000);
    w.boot(3);
    w.run(60_000);
    w
}

struct Story {
    batches: BTreeMap<Peer, Vec<Batch>>,
    sent: Vec<Vec<u8>>,
    events: Vec<(u64, Peer, Event)>,
}

static STORY: LazyLock<Story> = LazyLock::new(|| {
    let w = story();
    Story { batches: w.batches, sent: w.sent.into_iter().collect(), events: w.events }
});

/// Adds a field that no version knows to every struct in the value; returns how many.
fn newer(v: &mut Value, key: u64, field: &Value) -> usize {
    match v {
        Value::Map(m) => {
            let inner: usize = m.iter_mut().map(|(_, v)| newer(v, key, field)).sum();
            m.push((Value::Integer(key.into()), field.clone()));
            inner + 1
        }
        Value::Array(a) => a.iter_mut().map(|v| newer(v, key, field)).sum(),
        _ => 0,
    }
}

fn cbor(v: &Value) -> Vec<u8> {
    let mut bytes = vec![];
    ciborium::into_writer(v, &mut bytes).unwrap();
    bytes
}

fn field() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<u64>().prop_map(|n| Value::Integer(n.into())),
        vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        "\\PC{0,20}".prop_map(Value::Text),
    ];
    leaf.prop_recursive(3, 16, 4, |v| {
        prop_oneof![
            vec(v.clone(), 0..4).prop_map(Value::Array),
            vec((any::<u64>().prop_map(|n| Value::Integer(n.into())), v), 0..4).prop_map(Value::Map),
        ]
    })
}

fn again<T: Wire>(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    codec::decode::<T>(bytes).map(|v| codec::encode(&v))
}

/// Whatever comes in is a value or an error, and what was read is written and read as the same.
fn settles<T: Wire + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(v) = codec::decode::<T>(bytes) {
        assert_eq!(codec::decode::<T>(&codec::encode(&v)).as_ref(), Ok(&v));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_a_newer_version_says_is_kept_to_the_byte(at in any::<Index>(), key in 1_000_u64..u64::MAX, field in field()) {
        let plain = at.get(&STORY.sent);
        prop_assert_eq!(again::<Message>(plain), Ok(plain.clone()));
        let mut v: Value = ciborium::from_reader(plain.as_slice()).unwrap();
        prop_assert!(newer(&mut v, key, &field) > 0);
        let bytes = cbor(&v);
        prop_assert_eq!(again::<Message>(&bytes), Ok(bytes.clone()));
    }

    #[test]
    fn a_kind_of_message_that_is_not_known_is_kept(tag in 1_000_u64..u64::MAX, body in field()) {
        let bytes = cbor(&Value::Array(vec![Value::Integer(tag.into()), body]));
        prop_assert_eq!(again::<Message>(&bytes), Ok(bytes.clone()));
        prop_assert_eq!(again::<Gossip>(&bytes), Ok(bytes.clone()));
    }

    #[test]
    fn records_keep_what_they_do_not_know(r in record(), key in 1_000_u64..u64::MAX, field in field()) {
        let mut v: Value = ciborium::from_reader(codec::encode(&r).as_slice()).unwrap();
        newer(&mut v, key, &field);
        let bytes = cbor(&v);
        prop_assume!(bytes.len() <= 4_096);
        let read = decode_rec(&bytes).unwrap();
        prop_assert_eq!(codec::encode(&read), bytes);
        // Also through a join with a record that has none of it.
        let mut other = r;
        other.ver.epoch.n += 1;
        let joined = codec::encode(&reconcile(&read, &other));
        prop_assert!(decode_rec(&joined).is_ok());
    }

    #[test]
    fn damaged_messages_are_refused_or_read(at in any::<Index>(), flips in vec((any::<Index>(), any::<u8>()), 1..6), cut in any::<Index>()) {
        let mut bytes = at.get(&STORY.sent).clone();
        for (i, b) in flips {
            *i.get_mut(&mut bytes) = b;
        }
        settles::<Message>(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        settles::<Message>(&bytes);
        settles::<Gossip>(&bytes);
        settles::<Rec>(&bytes);
        settles::<MeshConfig>(&bytes);
    }

    #[test]
    fn noise_is_refused_or_read(bytes in vec(any::<u8>(), 0..300)) {
        settles::<Message>(&bytes);
        settles::<Gossip>(&bytes);
        settles::<Rec>(&bytes);
        settles::<MeshConfig>(&bytes);
    }
}

// ---- floors ----

/// What a fresh node writes down of another one's floor when it hears these, in this order.
fn floors_kept(advert: &Advert, heard: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut out = vec![];
    let recovered = Recovered { store: 1, boot: 1, ..Recovered::default() };
    let mut mesh = Mesh::new(config(1, Timing::default(), advert.proto_max), recovered, Now { ms: 0, wall_ms: 0 }, 1, &mut out);
    let mut gate = Gate::default();
    let origin = Origin { peer: advert.peer, store: advert.store };
    for (beat, (inc, seq)) in (1..).zip(heard) {
        let a = Advert { beat: advert.beat + beat, floor: Some(Floor { origin, inc: *inc, seq: *seq }), ..advert.clone() };
        mesh.handle(Now { ms: beat, wall_ms: beat }, Input::Gossip(advert.peer, Gossip::Advert(a)), &mut out);
    }
    let mut ready = vec![];
    gate.pass(out, &mut ready);
    let puts = ready.into_iter().filter_map(|o| if let Output::Persist(b) = o { Some(b.puts) } else { None }).flatten();
    let floors = puts.filter(|(k, _)| k.first() == Some(&b'f')).map(|(_, v)| codec::decode::<Floor>(&v).unwrap());
    floors.filter(|f| f.origin == origin).map(|f| (f.inc, f.seq)).collect()
}

fn an_advert() -> Advert {
    let mut out = vec![];
    let mut mesh = Mesh::new(
        config(2, Timing::default(), 1),
        Recovered { store: 2, boot: 1, ..Recovered::default() },
        Now { ms: 0, wall_ms: 0 },
        1,
        &mut out,
    );
    mesh.handle(Now { ms: 60_000, wall_ms: 60_000 }, Input::Tick, &mut out);
    let adverts = out.into_iter().find_map(|o| if let Output::Publish { msg: Gossip::Advert(a), .. } = o { Some(a) } else { None });
    adverts.expect("a node says who it is")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_floor_is_the_highest_that_was_heard_and_never_falls(heard in vec((1_u64..5, 0_u64..6), 1..12)) {
        let kept = floors_kept(&an_advert(), &heard);
        prop_assert!(kept.is_sorted_by(|a, b| a < b), "{:?}", kept);
        prop_assert_eq!(kept.last(), heard.iter().max());
    }
}

// ---- prefixes ----

/// A node on what its disk held after the first `upto` batches.
fn recovered(p: Peer, upto: usize) -> Mesh {
    let mut disk = Disk::default();
    STORY.batches[&p][..upto].iter().for_each(|b| disk.commit(b));
    let mut out = vec![];
    Mesh::new(config(p.0[0], Timing::default(), 1), disk.recovered(p.0[0]), Now { ms: 0, wall_ms: 0 }, 7, &mut out)
}

#[test]
fn every_prefix_of_what_a_disk_was_given_is_a_state_to_start_from() {
    // All versions of all records that anybody wrote.
    let mut written: BTreeMap<(TaskId, Ver), Vec<u8>> = BTreeMap::new();
    for (k, v) in STORY.batches.values().flatten().flat_map(|b| &b.puts).filter(|(k, _)| k.first() == Some(&b't')) {
        let r = decode_rec(v).unwrap();
        assert_eq!(&k[1..], r.id.key());
        let old = written.insert((r.id, r.ver), v.clone());
        assert!(old.is_none_or(|o| o == *v), "equal versions, equal bytes (I8)");
    }
    let takeovers = STORY.events.iter().filter(|(.., e)| matches!(e, Event::Serving(_))).count();
    assert!(takeovers >= 2 && written.len() > 100, "the story tells something: {takeovers} terms, {} versions", written.len());
    for (p, batches) in &STORY.batches {
        let mut before: Option<(Epoch, BTreeMap<TaskId, Rec>)> = None;
        for upto in 0..=batches.len() {
            let mesh = recovered(*p, upto);
            mesh.check_invariants().unwrap();
            mesh.check_table().unwrap();
            let promised = mesh.probe().promised;
            let now: BTreeMap<TaskId, Rec> = mesh.records().map(|r| (r.id, r.clone())).collect();
            if let Some((old, recs)) = before {
                assert!(promised >= old, "the promise falls from {old:?} to {promised:?} at batch {upto} (I1)");
                for (id, r) in &recs {
                    let new = now.get(id).unwrap_or_else(|| panic!("{id:?} is gone after batch {upto}"));
                    assert!(new.ver >= r.ver, "{id:?} goes back to {:?}", new.ver);
                    assert!((new.outcome.is_some() || r.outcome.is_none()) && new.delivered >= r.delivered && new.cancel >= r.cancel);
                }
            }
            for r in now.values() {
                assert_eq!(mesh.record_bytes(&r.id), written.get(&(r.id, r.ver)).map(Vec::as_slice));
            }
            before = Some((promised, now));
        }
    }
}

#[test]
fn a_replica_that_lost_the_end_of_the_stream_gets_it_back() {
    // The power goes at one replica after each of some batches; the others go on, and it comes back.
    let all = STORY.batches[&peer(2)].len();
    for upto in (0..all).step_by((all / 12).max(1)) {
        let mut w = story();
        w.kill(peer(2));
        let mut disk = Disk::default();
        w.batches[&peer(2)][..upto].iter().for_each(|b| disk.commit(b));
        disk.boot = 9;
        w.disks.insert(peer(2), disk);
        w.boot(2);
        w.run(10_000);
        let roots: BTreeSet<u128> = w.nodes.values().map(|n| n.mesh.probe().root).collect();
        assert_eq!(roots.len(), 1, "after {upto} of {all} batches");
        assert_eq!(w.nodes[&peer(2)].mesh.probe().count, w.nodes[&peer(1)].mesh.probe().count);
        assert!(w.nodes.values().all(|n| n.mesh.probe().outbox_open == 0));
    }
}
