//! Settings of the whole mesh by name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test; clippy only knows those inside #[test]")]

mod common;

use clawmesh_protocol::face::{Command, Refusal, Reply, SettingsView};

use common::{World, peer};

fn change(w: &mut World, n: u8, key: &str, value: Option<&str>) -> Result<(), String> {
    match w.ask(peer(n), Command::ChangeSetting(key.into(), value.map(Into::into), "ann".into()), 500) {
        Some(Reply::Ok) => Ok(()),
        Some(Reply::Refused(Refusal::Invalid { message })) => Err(message),
        other => panic!("{other:?}"),
    }
}

fn shown(w: &mut World, n: u8) -> SettingsView {
    match w.ask(peer(n), Command::Settings, 20) {
        Some(Reply::Settings(s)) => s,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_setting_is_known_everywhere_survives_its_coordinator_and_a_restart_of_all() {
    let mut w = World::new(5);
    w.run(3_000);
    change(&mut w, 1, "lab.model-url", Some("http://gpu:8000")).unwrap();
    change(&mut w, 2, "strategy", Some("best_fit")).unwrap();
    w.run(10_000);
    for n in 1..=5 {
        let s = shown(&mut w, n);
        assert_eq!((s.values["lab.model-url"].as_str(), s.values["strategy"].as_str()), ("http://gpu:8000", "best_fit"), "node {n}");
        let log: Vec<_> = s.log.iter().map(|c| (c.key.as_str(), c.name.as_str(), c.user.as_str())).collect();
        assert_eq!(log, [("lab.model-url", "n1", "ann"), ("strategy", "n2", "ann")], "node {n}");
    }
    w.kill(w.leader());
    w.run(5_000);
    change(&mut w, 1, "lab.model-url", None).unwrap();
    for n in 1..=4 {
        w.kill(peer(n));
    }
    for n in 1..=4 {
        w.boot(n);
    }
    w.run(5_000);
    let s = shown(&mut w, 1);
    assert!(!s.values.contains_key("lab.model-url") && s.values["strategy"] == "best_fit", "{s:?}");
    assert!(s.log.last().is_some_and(|c| c.value.is_none() && c.name == "n1"), "{s:?}");
}

#[test]
fn what_is_not_possible_is_refused_with_what_would_be() {
    let mut w = World::new(2);
    w.run(3_000);
    let said = |w: &mut World, key: &str, value: Option<&str>| change(w, 1, key, value).unwrap_err();
    assert!(said(&mut w, "stratgy", Some("random")).contains("'strategy'"));
    assert!(said(&mut w, "strategy", Some("best")).contains("best_fit"));
    assert!(said(&mut w, "lab.x", None).contains("not set"));
    assert!(said(&mut w, "lab.x", Some(&"x".repeat(1_025))).contains("1024"));
    change(&mut w, 1, "lab.a", Some(&"x".repeat(1_000))).unwrap();
    change(&mut w, 1, "lab.b", Some(&"x".repeat(1_000))).unwrap();
    assert!(said(&mut w, "lab.c", Some(&"x".repeat(100))).contains("unset"));
    for i in 0..30 {
        change(&mut w, 1, "lab.a", Some(&format!("{i}"))).unwrap();
    }
    let s = shown(&mut w, 2);
    assert_eq!((s.log.len(), s.values["lab.a"].as_str()), (12, "29"));
    let largest = w.batches.values().flatten().flat_map(|b| &b.puts).map(|(_, v)| v.len()).max();
    assert!(largest < Some(4_096), "{largest:?}");
}
