//! Prompts and the skills that only an agent can follow: where they run, which slots they take, and who may keep them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test; clippy only knows those inside #[test]")]

mod common;

use clawmesh_protocol::{
    face::{Answer, Command, ExplainView, NewTask, Query, Refusal, Reply, Submitted, TaskView},
    ids::Peer,
    io::Input,
    message::{Assign, Message, Refuse},
    record::End,
    skill::{Catalogue, SkillInfo},
    spec::{Kind, split},
};

use common::{World, peer, prompt, task};

/// Three nodes of which the first has an agent; nothing ends by itself.
fn world() -> World {
    let mut w = World::new(3);
    w.run(3_000);
    w.hold = true;
    w.input(peer(1), Input::Agent("openclaw".into()));
    w.run(3_000);
    w
}

fn catalogue(skills: &[(&str, bool)]) -> Catalogue {
    let one = |(name, runnable): &(&str, bool)| SkillInfo {
        name: (*name).into(),
        hash: format!("h-{name}-{runnable}"),
        version: String::new(),
        description: String::new(),
        category: String::new(),
        tags: vec![],
        runnable: *runnable,
        ..SkillInfo::default()
    };
    Catalogue { skills: skills.iter().map(one).collect(), ..Catalogue::empty() }
}

fn submit(w: &mut World, from: Peer, spec: clawmesh_protocol::spec::Spec) -> Submitted {
    match w.ask(from, Command::Submit(vec![spec]), 600) {
        Some(Reply::Submitted(mut r)) => r.remove(0).unwrap(),
        other => panic!("not acknowledged: {other:?}"),
    }
}

fn explain(w: &mut World, s: &Submitted) -> ExplainView {
    match w.ask(peer(2), Command::Query(Query::Explain(s.id.to_string())), 300) {
        Some(Reply::Answer(Answer::Explain(e))) => e,
        other => panic!("no answer: {other:?}"),
    }
}

fn show(w: &mut World, s: &Submitted) -> TaskView {
    match w.ask(peer(2), Command::Query(Query::Show(s.id.to_string())), 300) {
        Some(Reply::Answer(Answer::Task(t))) => *t,
        other => panic!("no answer: {other:?}"),
    }
}

fn why(e: &ExplainView, n: u8) -> &str {
    &e.nodes.iter().find(|v| v.node == peer(n)).unwrap().reason
}

#[test]
fn a_prompt_runs_where_an_agent_is_and_the_others_say_why_not() {
    let mut w = world();
    let first = submit(&mut w, peer(2), prompt("what is there?\nline two", None));
    let (at, job) = w.jobs.first().unwrap().clone();
    assert_eq!((at, job.agent, job.need.kind), (peer(1), true, Kind::Prompt));
    assert_eq!(job.need.title, "what is there? line two");
    let second = submit(&mut w, peer(3), prompt("and this?", None));
    let e = explain(&mut w, &second);
    assert!(why(&e, 1).contains("all 1 agent slots are taken"), "{e:?}");
    assert!(why(&e, 2).contains("the node has no agent"), "{e:?}");
    assert!(e.verdict.contains("waits for an agent slot"), "{}", e.verdict);
    w.end(0, End::Done);
    w.run(600);
    assert_eq!(show(&mut w, &first).state.word(), "completed");
    assert_eq!(w.jobs.len(), 1, "the second one begins when the first has ended");
    w.end(0, End::Done);
    w.run(600);
    assert_eq!(show(&mut w, &second).state.word(), "completed");
}

#[test]
fn agents_and_tasks_do_not_take_each_others_slots() {
    let mut w = world();
    let plain = |i: u32| task(&NewTask { argv: Some(vec![format!("p{i}")]), pin: Some(peer(1)), ..NewTask::default() });
    for i in 0..2 {
        submit(&mut w, peer(2), plain(i));
    }
    submit(&mut w, peer(2), prompt("a", None));
    assert_eq!(w.jobs.iter().filter(|(p, _)| *p == peer(1)).count(), 3, "two slots and an agent slot");
    let (third, other) = (submit(&mut w, peer(2), plain(3)), submit(&mut w, peer(2), prompt("b", None)));
    w.run(3_000);
    assert_eq!(w.jobs.len(), 3, "nobody is given more than there is room for");
    assert!(why(&explain(&mut w, &third), 1).contains("all 2 slots are taken"));
    let view = w.nodes[&peer(3)].mesh.status();
    let n1 = view.members.iter().find(|m| m.node == peer(1)).unwrap();
    assert_eq!((n1.running, n1.agent_running, n1.agent_slots, n1.agent.as_str()), (2, 1, 1, "openclaw"));
    let agent = w.jobs.iter().position(|(_, j)| j.agent).unwrap();
    w.end(agent, End::Failed);
    w.run(600);
    assert_eq!(w.jobs.iter().filter(|(_, j)| j.agent).count(), 1, "the other prompt has the agent slot now");
    assert_eq!(show(&mut w, &other).state.word(), "running");
    assert_eq!(show(&mut w, &third).state.word(), "pending", "no slot became free");
}

#[test]
fn a_skill_without_a_command_is_followed_by_an_agent_unless_another_node_runs_it_by_itself() {
    let mut w = world();
    w.input(peer(1), Input::Skills(catalogue(&[("pdf", false)])));
    w.input(peer(2), Input::Skills(catalogue(&[("pdf", false)])));
    w.run(3_000);
    let pdf = || task(&NewTask { skill: Some("pdf".into()), input: Some("{}".into()), ..NewTask::default() });
    let s = submit(&mut w, peer(3), pdf());
    let (at, job) = w.jobs.first().unwrap().clone();
    assert_eq!((at, job.agent, job.need.kind), (peer(1), true, Kind::Skill));
    assert!(why(&explain(&mut w, &s), 2).contains("only an agent can use it"));
    w.input(peer(3), Input::Skills(catalogue(&[("pdf", true)])));
    w.run(3_000);
    submit(&mut w, peer(2), pdf());
    let (at, job) = w.jobs.last().unwrap().clone();
    assert_eq!((at, job.agent), (peer(3), false), "no agent is needed any more");
    let pinned = submit(&mut w, peer(2), task(&NewTask { pin: Some(peer(1)), skill: Some("pdf".into()), ..NewTask::default() }));
    assert!(why(&explain(&mut w, &pinned), 1).contains("agent slots are taken"), "another node's command is none for it");
    let named = submit(&mut w, peer(2), prompt("use it", Some("pdf")));
    assert!(why(&explain(&mut w, &named), 1).contains("agent slots are taken"));
    assert!(why(&explain(&mut w, &named), 3).contains("has no agent"));
}

#[test]
fn a_skill_that_vanishes_while_its_task_waits_costs_nothing() {
    let mut w = world();
    w.input(peer(1), Input::Skills(catalogue(&[("pdf", false)])));
    w.run(3_000);
    submit(&mut w, peer(3), prompt("first", None));
    let s = submit(&mut w, peer(3), prompt("second", Some("pdf")));
    w.input(peer(1), Input::Skills(Catalogue::empty()));
    w.run(3_000);
    w.end(0, End::Done);
    w.run(3_000);
    assert!(w.jobs.is_empty());
    let t = show(&mut w, &s);
    assert_eq!((t.state.word(), t.attempts.len()), ("pending", 0));
    assert!(t.reason.contains("has an agent and the skill 'pdf'"), "{}", t.reason);
    assert!(why(&explain(&mut w, &s), 1).contains("does not have the skill 'pdf'"));
    w.input(peer(1), Input::Skills(catalogue(&[("pdf", false)])));
    w.run(3_000);
    assert_eq!(w.jobs.len(), 1, "it is back, and so the task runs");
}

#[test]
fn a_worker_turns_away_what_it_lost_while_the_attempt_waited_there() {
    let mut w = world();
    w.input(peer(1), Input::Skills(catalogue(&[("pdf", false)])));
    w.run(3_000);
    submit(&mut w, peer(3), prompt("takes the one agent slot", None));
    // As a coordinator does that does not know of the first one.
    let (_, first) = w.jobs.first().unwrap().clone();
    let (mut id, attempt) = (first.id, first.attempt);
    id.seq += 1_000;
    let named = prompt("waits", Some("pdf"));
    let (need, payload) = (named.need, named.payload);
    let a = Assign { epoch: attempt.epoch, id, attempt, wboot: 1, need, payload, holders: vec![], ext: Default::default() };
    w.input(peer(1), Input::Message(peer(3), Message::Assign(a)));
    w.input(peer(1), Input::Skills(Catalogue::empty()));
    w.run(600);
    let why = "the node no longer has the skill 'pdf'".into();
    let refuse = Message::Refuse(Refuse { id, attempt, why, ext: Default::default() });
    assert!(w.sent.contains(&clawmesh_protocol::codec::encode(&refuse)), "it says so without waiting for its turn");
}

#[test]
fn without_an_agent_any_more_a_prompt_waits() {
    let mut w = world();
    w.input(peer(1), Input::Agent(String::new()));
    w.run(3_000);
    let s = submit(&mut w, peer(3), prompt("anybody?", None));
    assert!(show(&mut w, &s).reason.contains("no reachable node has an agent"));
    w.input(peer(2), Input::Agent("another".into()));
    w.run(3_000);
    assert_eq!(w.jobs.first().unwrap().0, peer(2));
}

#[test]
fn prompts_are_taken_when_all_members_can_read_them() {
    let mut w = World::new(0);
    w.protos.insert(1, 1);
    (1..=3).for_each(|n| w.boot(n));
    w.run(3_000);
    w.hold = true;
    w.input(peer(2), Input::Agent("openclaw".into()));
    w.run(3_000);
    let said = w.ask(peer(2), Command::Submit(vec![prompt("hello", None)]), 600);
    let Some(Reply::Submitted(said)) = said else { panic!("no answer: {said:?}") };
    let Some(Err(Refusal::Invalid { message })) = said.first() else { panic!("taken: {said:?}") };
    assert!(message.contains("n1 runs an older version"), "{message}");
    assert!(w.jobs.is_empty());
    // It is updated and comes back.
    w.kill(peer(1));
    w.protos.clear();
    w.boot(1);
    w.run(3_000);
    submit(&mut w, peer(1), prompt("hello", None));
    assert_eq!(w.jobs.len(), 1);
}

#[test]
fn a_prompt_in_the_first_moments_of_a_mesh_waits_until_its_protocol_is_recorded() {
    for after in (0..4_000).step_by(100) {
        let mut w = World::new(3);
        w.run(after);
        w.input(peer(1), Input::Command(7, Command::Submit(vec![prompt("hello", None)])));
        w.run(6_000);
        match w.replies.iter().find(|r| r.1 == 7).unwrap() {
            (.., Reply::Submitted(r)) => assert!(r[0].is_ok(), "after {after} ms: {r:?}"),
            (.., Reply::Refused(Refusal::NoCoordinator { .. })) if after < 3_000 => {}
            (.., other) => panic!("after {after} ms: {other:?}"),
        }
    }
}

#[test]
fn a_node_that_cannot_read_a_record_does_not_count_as_its_holder() {
    let mut w = World::new(2);
    w.run(3_000);
    w.hold = true;
    w.input(peer(1), Input::Agent("openclaw".into()));
    w.run(3_000);
    assert_eq!(submit(&mut w, peer(2), prompt("hello", None)).copies, 2);
    // An older program than the mesh speaks by now.
    w.kill(peer(1));
    w.protos.insert(1, 1);
    w.boot(1);
    w.run(6_000);
    assert_eq!(w.leader(), peer(2));
    assert_eq!(submit(&mut w, peer(2), prompt("hello again", None)).copies, 1, "only one disk holds it");
}

#[test]
fn what_is_no_prompt_is_refused_with_a_reason() {
    let bad = |new: NewTask| split(&new).unwrap_err();
    let ask = || NewTask { prompt: Some("do it".into()), ..NewTask::default() };
    assert!(bad(NewTask { prompt: Some(" \n".into()), ..NewTask::default() }).contains("the prompt is empty"));
    assert!(bad(NewTask { argv: Some(vec!["ls".into()]), ..ask() }).contains("not both"));
    assert!(bad(NewTask { input: Some("x".into()), ..ask() }).contains("no input beside it"));
    assert!(bad(NewTask { skill: Some("echo".into()), ..ask() }).contains("builtin"));
    assert!(bad(NewTask { skill: Some("x".repeat(129)), ..ask() }).contains("1 to 128"));
    assert!(bad(NewTask { prompt: Some("y".repeat(9 << 20)), ..NewTask::default() }).contains("the cap is"));
    assert_eq!(split(&NewTask { prompt: Some("z".repeat(7 << 20)), ..NewTask::default() }).unwrap().0.title.len(), 80);
}
