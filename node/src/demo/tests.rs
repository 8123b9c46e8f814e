use clawmesh_protocol::{
    face::{AttemptView, State, TaskView},
    ids::{Peer, ShortId},
    spec::{Kind, Priority},
};

use super::{
    report::{Ack, Counted, Kill, Report},
    verdict,
    work::Expected,
};

fn id(n: u8) -> ShortId {
    ShortId([n; 10])
}

fn ack(n: u8) -> Ack {
    Ack { id: id(n), kind: "sleep", copies: Some(2), counted: true }
}

fn attempt(number: u32, name: &str, state: &str, from: u64, to: Option<u64>) -> AttemptView {
    AttemptView {
        number,
        epoch: 1,
        node: Peer([1; 32]),
        name: name.into(),
        state: state.into(),
        started_at: from,
        ended_at: to,
        exit_code: None,
        reason: String::new(),
    }
}

fn task(n: u8, state: State, attempts: Vec<AttemptView>) -> TaskView {
    TaskView {
        id: id(n),
        state,
        reason: String::new(),
        title: String::new(),
        kind: Kind::Command,
        skill: String::new(),
        priority: Priority::Normal,
        strategy: None,
        origin: Peer([1; 32]),
        origin_name: String::new(),
        user: String::new(),
        submitted_at: 0,
        ended_at: None,
        exit_code: None,
        retries: 0,
        attempts,
        attempts_dropped: 0,
        cancel: false,
        delivered: false,
        copies: 2,
        duplicate_of: None,
    }
}

fn kill(node: &str, coordinator: bool, at_ms: u64) -> Kill {
    Kill {
        node: node.into(),
        coordinator,
        at_s: 1.0,
        at_ms,
        takeover_ms: coordinator.then_some(700),
        successor: None,
        acknowledged_ms: None,
        cut_off: 0,
    }
}

fn counted(submitted: usize, tally: String) -> Counted {
    Counted { submitted, tally, kills: vec![kill("alpha", true, 100), kill("gamma", false, 200)], ..Counted::default() }
}

#[test]
fn a_good_run_has_no_trouble_and_says_where_tasks_ran() {
    let views = [
        task(1, State::Completed, vec![attempt(1, "beta", "completed", 50, Some(150))]),
        task(2, State::Completed, vec![attempt(1, "alpha", "crashed", 90, Some(120)), attempt(2, "beta", "completed", 121, Some(130))]),
        task(3, State::Completed, vec![attempt(1, "gamma", "lost", 190, Some(900)), attempt(2, "alpha", "completed", 901, Some(950))]),
    ];
    let tally = format!("{} 1\n{} 1\n{} 2\n{} 2\n", id(1), id(2), id(2), id(3));
    let r = Report::new(&[ack(1), ack(2), ack(3)], &views, counted(3, tally));
    assert_eq!(r.trouble(), None);
    assert_eq!((r.completed, r.executed_more_than_once, r.ran_on), (3, 2, 1));
    assert_eq!((r.tallied, r.tallied_more_than_once, r.tallied_never), (3, 1, 0));
    assert_eq!(r.other_attempts.iter().map(|(k, v)| (k.as_str(), *v)).collect::<Vec<_>>(), [("crashed", 1), ("lost", 1)]);
    assert_eq!(r.kills.iter().map(|k| k.cut_off).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(r.copies.get(&2), Some(&3));
    assert_eq!(r.ran["sleep"], [("alpha".to_owned(), 1), ("beta".to_owned(), 2)].into());
}

#[test]
fn an_acknowledged_task_that_is_unknown_or_has_no_outcome_is_lost() {
    let r = Report::new(&[ack(1), ack(2)], &[task(1, State::Running, Vec::new())], counted(2, String::new()));
    assert_eq!(r.lost.len(), 2);
    assert!(r.trouble().unwrap().contains("2 acknowledged tasks have no outcome"));
}

#[test]
fn what_failed_was_never_executed_or_not_acknowledged_is_trouble() {
    let failed = Report::new(&[ack(1)], &[task(1, State::Failed, Vec::new())], counted(1, String::new()));
    assert!(failed.trouble().unwrap().contains("1 tasks did not complete"));
    let done = vec![attempt(1, "beta", "completed", 1, Some(2))];
    let never = Report::new(&[ack(1)], &[task(1, State::Completed, done.clone())], counted(1, String::new()));
    assert!(never.trouble().unwrap().contains("never executed"));
    let fewer = Report::new(&[ack(1)], &[task(1, State::Completed, done)], counted(2, format!("{} 1", id(1))));
    assert!(fewer.trouble().unwrap().contains("1 tasks were not acknowledged"));
}

#[test]
fn nobody_taking_over_is_trouble() {
    let mut c = counted(0, String::new());
    c.kills[0].takeover_ms = None;
    assert!(Report::new(&[], &[], c).trouble().unwrap().contains("nobody took over after alpha"));
}

#[test]
fn outputs_are_compared_with_what_they_must_be() {
    assert_eq!(verdict(&Expected::Exactly("a".into()), "a"), None);
    assert!(verdict(&Expected::Exactly("a".into()), "b").is_some());
    assert_eq!(verdict(&Expected::Bytes(9), r#"{"sha256":"x","bytes":9}"#), None);
    assert!(verdict(&Expected::Bytes(9), "{}").is_some());
}
