//! Skills of the whole mesh, asked about at any node: who has them, how they have run, what they need.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test; clippy only knows those inside #[test]")]
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "a figure is measured by a real clock")]

mod common;

use std::time::{Duration, Instant};

use clawmesh_protocol::{
    codec::{self, Blob},
    config::Timing,
    face::{Command, NewTask, Reply, Resolved, SkillQuery, SkillView},
    ids::Peer,
    io::{Input, Output, Recovered},
    mesh::Mesh,
    message::{Advert, CatalogueMsg, Gossip, Message},
    skill::{Catalogue, SkillInfo},
    spec::{Data, Spec, split},
    time::Now,
};

use common::{World, config, peer};

fn skill(name: &str, version: &str, depends: &[&str]) -> SkillInfo {
    SkillInfo {
        name: name.into(),
        hash: format!("hash of {name} {version}"),
        version: version.into(),
        runnable: true,
        depends: depends.iter().map(ToString::to_string).collect(),
        ..SkillInfo::default()
    }
}

fn offer(w: &mut World, n: u8, skills: Vec<SkillInfo>) {
    w.input(peer(n), Input::Skills(Catalogue { skills, ..Catalogue::empty() }));
    w.run(3_000);
}

fn found(w: &mut World, n: u8, name: &str) -> Vec<SkillView> {
    let q = SkillQuery { name: Some(name.into()), ..SkillQuery::default() };
    match w.ask(peer(n), Command::Skills(q), 20) {
        Some(Reply::Skills(total, page)) => {
            assert_eq!(total, page.len());
            page
        }
        other => panic!("{other:?}"),
    }
}

fn run(w: &mut World, n: u8, name: &str, times: usize) {
    let (need, work) = split(&NewTask { skill: Some(name.into()), ..NewTask::default() }).unwrap();
    let spec = Spec { need, payload: Data::Inline(Blob(work)) };
    let reply = w.ask(peer(n), Command::Submit(vec![spec; times]), 2_000);
    assert!(matches!(&reply, Some(Reply::Submitted(all)) if all.iter().all(Result::is_ok)), "{reply:?}");
}

#[test]
fn every_node_knows_who_has_a_skill_and_how_it_has_run() {
    let mut w = World::new(3);
    w.run(3_000);
    offer(&mut w, 2, vec![skill("count", "1.0.0", &[])]);
    assert!(found(&mut w, 1, "count")[0].instances.iter().all(|i| i.runs == 0 && i.success_rate.is_none()));
    run(&mut w, 1, "count", 5);
    w.run(30_000);
    for n in 1..=3 {
        let s = &found(&mut w, n, "count")[0];
        assert_eq!((s.version.as_str(), s.instances.len()), ("1.0.0", 1));
        let i = &s.instances[0];
        assert_eq!((i.node, i.name.as_str(), i.state.as_str()), (peer(2), "n2", "online"));
        assert_eq!((i.runs, i.success_rate, i.mean_ms, i.p95_ms), (5, Some(1.0), Some(3), Some(3)), "as seen by {n}");
        assert!(i.last_used > Some(1_700_000_000_000));
    }
}

#[test]
fn figures_survive_a_restart_and_begin_anew_with_a_changed_skill() {
    let mut w = World::new(2);
    w.run(3_000);
    offer(&mut w, 2, vec![skill("count", "1.0.0", &[])]);
    run(&mut w, 1, "count", 3);
    w.kill(peer(2));
    w.run(2_000);
    w.boot(2);
    w.run(3_000);
    offer(&mut w, 2, vec![skill("count", "1.0.0", &[])]);
    w.run(30_000);
    assert_eq!(found(&mut w, 1, "count")[0].instances[0].runs, 3);
    offer(&mut w, 2, vec![skill("count", "2.0.0", &[])]);
    let s = &found(&mut w, 1, "count")[0];
    assert_eq!((s.version.as_str(), s.instances[0].runs), ("2.0.0", 0));
    run(&mut w, 1, "count", 1);
    w.run(30_000);
    assert_eq!(found(&mut w, 1, "count")[0].instances[0].runs, 1);
}

#[test]
fn instances_vanish_with_their_node_and_come_back_with_it() {
    let mut w = World::new(3);
    w.run(3_000);
    let both = || vec![skill("count", "1.0.0", &[])];
    offer(&mut w, 2, both());
    offer(&mut w, 3, both());
    assert_eq!(found(&mut w, 1, "count")[0].instances.len(), 2);
    w.kill(peer(3));
    w.run(20_000);
    let s = found(&mut w, 1, "count");
    assert_eq!(s[0].instances.iter().map(|i| i.node).collect::<Vec<_>>(), [peer(2)]);
    w.kill(peer(2));
    w.run(20_000);
    assert_eq!(found(&mut w, 1, "count"), []);
    w.boot(2);
    w.run(3_000);
    offer(&mut w, 2, both());
    assert_eq!(found(&mut w, 1, "count")[0].instances.len(), 1);
}

#[test]
fn needs_are_resolved_over_all_nodes() {
    let mut w = World::new(3);
    w.run(3_000);
    offer(&mut w, 1, vec![skill("app", "1.0.0", &["lib >=1, <2", "gone"])]);
    offer(&mut w, 2, vec![skill("lib", "1.5.0", &["core"])]);
    offer(&mut w, 3, vec![skill("core", "0.1.0", &["app"]), skill("lib", "2.0.0", &[])]);
    match w.ask(peer(2), Command::Resolve(vec!["app".into()]), 20) {
        Some(Reply::Resolved(Resolved { direct, all, missing, cycles, .. })) => {
            assert_eq!(direct, ["gone", "lib"]);
            assert_eq!(all, ["core", "lib", "app"], "app is needed by core");
            assert_eq!(missing, ["gone"]);
            assert_eq!(cycles, [["app", "lib", "core", "app"]]);
        }
        other => panic!("{other:?}"),
    }
    let many = vec!["app".to_owned(); 101];
    assert!(matches!(w.ask(peer(2), Command::Resolve(many), 20), Some(Reply::Refused(_))));
}

#[test]
fn a_catalogue_too_large_for_a_message_is_cut_and_still_travels() {
    let mut w = World::new(2);
    w.run(3_000);
    let big =
        |i: usize| SkillInfo { tags: vec!["t".repeat(32); 16], depends: vec!["d".repeat(160); 16], ..skill(&format!("s{i:04}"), "1", &[]) };
    offer(&mut w, 2, (0..1_500).map(big).collect());
    let Some(Reply::Skills(total, _)) = w.ask(peer(1), Command::Skills(SkillQuery::default()), 20) else { panic!("no answer") };
    assert!(total > 150 && total < 400, "{total} skills of 3.2 kB each");
    assert!(w.sent.iter().all(|m| m.len() < 1 << 20));
}

/// A node that knows 200 others with 25 skills each, every fifth of them on five nodes.
fn crowd() -> Mesh {
    let mut out = vec![];
    let at = Now { ms: 1_000, wall_ms: 1_700_000_000_000 };
    let mut m = Mesh::new(
        config(1, Timing::default(), clawmesh_protocol::config::PROTO),
        Recovered { boot: 1, ..Recovered::default() },
        at,
        7,
        &mut out,
    );
    for n in 0..200u64 {
        let mut key = [0; 32];
        key[0] = 200;
        key[24..].copy_from_slice(&n.to_be_bytes());
        let p = Peer(key);
        let info = |i: u64| {
            let id = if i.is_multiple_of(5) { 1_000_000 + n / 5 * 25 + i } else { n * 25 + i };
            let words = ["video", "weather", "search", "python", "image", "report", "archive", "speech"];
            let word = words[id as usize % words.len()];
            SkillInfo {
                description: format!("Works on {word} number {id}, as a person would describe it in a line of usual length."),
                category: format!("category-{}", id % 6),
                tags: vec![word.into(), format!("tag-{}", id % 50)],
                ..skill(&format!("skill-{id}"), "1.2.3", &[])
            }
        };
        let c = Catalogue { skills: (0..25).map(info).collect(), ..Catalogue::empty() };
        let advert = Advert { peer: p, boot: 1, beat: 1, name: format!("m{n}"), skills: c.hash(), ..blank() };
        m.handle(at, Input::Up(p), &mut out);
        m.handle(at, Input::Gossip(p, Gossip::Advert(advert)), &mut out);
        m.handle(at, Input::Message(p, Message::Catalogue(CatalogueMsg { catalogue: c, ext: Default::default() })), &mut out);
    }
    m
}

/// An advert that says nothing, as it is decoded from an empty map with a peer.
fn blank() -> Advert {
    let mut map = vec![0xa2, 0x01, 0x58, 32];
    map.extend([0; 32]);
    map.extend([0x0d, 0x58, 32]);
    map.extend([0; 32]);
    codec::decode(&map).expect("all other fields may be missing")
}

#[test]
#[ignore = "a figure: cargo test --release -p clawmesh-protocol --test skills -- --ignored --nocapture"]
fn questions_about_five_thousand_skills_on_two_hundred_nodes() {
    let mut m = crowd();
    let text = |t: &str| SkillQuery { text: Some(t.into()), limit: Some(50), ..SkillQuery::default() };
    let kinds = [
        ("name", SkillQuery { name: Some("skill-1234".into()), ..SkillQuery::default() }),
        ("tag", SkillQuery { tags: vec!["tag-7".into()], limit: Some(50), ..SkillQuery::default() }),
        ("category", SkillQuery { category: Some("category-3".into()), limit: Some(50), ..SkillQuery::default() }),
        ("two words", text("weather usual")),
        ("a beginning", text("skill-12")),
        ("the first 50 of all", SkillQuery { limit: Some(50), ..SkillQuery::default() }),
    ];
    for (what, q) in kinds {
        let mut took: Vec<Duration> = Vec::new();
        let mut hits = 0;
        for req in 1..=201 {
            let mut out = vec![];
            let from = Instant::now();
            m.handle(Now { ms: 1_000, wall_ms: 1 }, Input::Command(req, Command::Skills(q.clone())), &mut out);
            took.push(from.elapsed());
            hits = out.iter().find_map(|o| if let Output::Reply { reply: Reply::Skills(n, _), .. } = o { Some(*n) } else { None }).unwrap();
        }
        took.sort();
        println!("{what}: {hits} found, median {:?}, slowest {:?}", took[100], took[200]);
        assert!(hits > 0);
    }
}
