//! What is typed, and what it ends with.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{CommandFactory, Parser};
use clawmesh_protocol::{
    face::State,
    ids::{Peer, ShortId},
    spec::{Priority, Strategy},
};

use super::{Cli, Command, Context, UpArgs, home, run, tasks};
use crate::{
    api::{
        ApiMetrics, Serving, bind,
        fake::{Fake, HERE},
        types::{Ended, Problem},
    },
    client::{ClientError, Submission},
    output::{Failure, Mode, Output},
};

fn parse(line: &str) -> Cli {
    Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"))
}

/// The message of a wrong line; its exit code is 2.
fn wrong(line: &str) -> String {
    let e = Cli::try_parse_from(line.split(' ')).map(|c| panic!("{line}: {c:?}")).unwrap_err();
    assert_eq!(e.exit_code(), 2, "{line}");
    e.to_string()
}

fn up(line: &str) -> Result<UpArgs, Failure> {
    match parse(line).command {
        Command::Up(flags) => flags.into_args(PathBuf::from("/h")),
        other => panic!("{other:?}"),
    }
}

fn ended(state: State, exit_code: Option<i32>) -> Ended {
    Ended {
        asked: "t".into(),
        id: ShortId([0; 10]),
        state,
        exit_code,
        reason: String::new(),
        node: Some(Peer([2; 32])),
        output: None,
        output_elsewhere: false,
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn global_flags_stand_before_or_after_the_command() {
    for line in ["clawmesh --home /x --json status", "clawmesh status --json --home /x"] {
        let cli = parse(line);
        assert!(cli.global.json && !cli.global.quiet);
        assert_eq!(cli.global.home, Some(PathBuf::from("/x")));
    }
}

#[test]
fn voters_are_named_by_words() {
    for line in [
        "clawmesh quorum",
        "clawmesh quorum status --json",
        "clawmesh quorum init",
        "clawmesh quorum init alpha beta --witness gamma",
        "clawmesh quorum add beta --witness",
        "clawmesh quorum remove beta",
    ] {
        assert!(matches!(parse(line).command, Command::Quorum { .. }), "{line}");
    }
    assert!(wrong("clawmesh quorum add").contains("<NODE>"));
    assert!(wrong("clawmesh quorum remove beta --witness").contains("unexpected"));
}

#[test]
fn what_follows_the_command_of_a_run_belongs_to_it() {
    let argv = |line: &str| match parse(line).command {
        Command::Run(args) => args.into_submission().task.argv.unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(argv("clawmesh run -- uname -a"), ["uname", "-a"]);
    assert_eq!(argv("clawmesh run uname --json -a"), ["uname", "--json", "-a"]);
    assert_eq!(argv("clawmesh run --retries 2 -- sh -c exit -- x"), ["sh", "-c", "exit", "--", "x"]);
    assert_eq!(argv("clawmesh run -- --odd"), ["--odd"]);
    assert!(wrong("clawmesh run --retires 2 -- ls").contains("--retries"));
    assert!(wrong("clawmesh run").contains("<CMD>"));
}

#[test]
fn task_flags_become_the_task() {
    let line = "clawmesh run --retries 3 --backoff 500ms --timeout 2m --queue-timeout 1h --total-timeout 1day --priority high \
                --strategy best_fit --node beta --label gpu --label big --key k --env A=b=c --env E= --at-most-once --on-lost fail \
                --cpus 2 --memory 1GiB -- ls";
    let line: Vec<&str> = line.split_whitespace().collect();
    let Command::Run(args) = parse(&line.join(" ")).command else { panic!() };
    let Submission { task: t, node } = args.into_submission();
    assert_eq!(node.as_deref(), Some("beta"));
    assert_eq!((t.retries, t.backoff_ms, t.timeout_ms), (3, Some(500), Some(120_000)));
    assert_eq!((t.queue_timeout_ms, t.total_timeout_ms), (Some(3_600_000), Some(86_400_000)));
    assert_eq!((t.priority, t.strategy), (Some(Priority::High), Some(Strategy::BestFit)));
    assert_eq!((t.labels, t.key.as_deref()), (vec!["gpu".to_owned(), "big".to_owned()], Some("k")));
    assert_eq!(t.env, [("A".to_owned(), "b=c".to_owned()), ("E".to_owned(), String::new())]);
    assert!(t.at_most_once && t.on_lost == Some(clawmesh_protocol::spec::OnLost::Fail));
    assert_eq!((t.cpus, t.memory_mib), (Some(2), Some(1_024)));
}

#[test]
fn a_prompt_is_one_text_with_the_flags_of_any_task() {
    let asked = |line: &str| match parse(line).command {
        Command::Ask(args) => args.into_submission().unwrap(),
        other => panic!("{other:?}"),
    };
    let Submission { task: t, node } = asked("clawmesh ask hello --skill pdf --json --retries 1 --node beta --wait");
    assert_eq!((t.prompt.as_deref(), t.skill.as_deref(), t.input, t.argv), (Some("hello"), Some("pdf"), None, None));
    assert_eq!((t.retries, node.as_deref()), (1, Some("beta")));
    assert_eq!(asked("clawmesh ask -- --odd").task.prompt.as_deref(), Some("--odd"));
    assert!(wrong("clawmesh ask").contains("<TEXT>"));
    assert!(wrong("clawmesh ask two words").contains("unexpected"));
    assert!(wrong("clawmesh ask x --wait --detach").contains("cannot be used with"));
    assert!(wrong("clawmesh ask x --id-only --wait-timeout 5s").contains("cannot be used with"));
}

#[test]
fn agents_are_offered_with_commands_or_when_that_is_said() {
    let agent = |line: &str| up(line).unwrap().agent;
    for (line, offered, slots) in [
        ("clawmesh up", true, 1),
        ("clawmesh up --no-agents", false, 1),
        ("clawmesh up --no-commands", false, 1),
        ("clawmesh up --no-commands --agents --agent-slots 3", true, 3),
        ("clawmesh up --slots 0", true, 0),
        ("clawmesh up --slots 0 --agent-slots 2", true, 2),
    ] {
        let a = agent(line);
        assert_eq!((a.offered, a.slots), (offered, slots), "{line}");
    }
    let other = agent("clawmesh up --agent-arg helper --agent-arg -p --agent-env KEY --agent-env OTHER");
    assert_eq!((other.argv, other.env), (vec!["helper".to_owned(), "-p".to_owned()], vec!["KEY".to_owned(), "OTHER".to_owned()]));
    assert_eq!(agent("clawmesh up --agent-path my-claw").path, Some(PathBuf::from("my-claw")), "a bare name is looked for on PATH");
    assert!(agent("clawmesh up --agent-path bin/claw").path.unwrap().is_absolute());
    assert!(wrong("clawmesh up --agent-path x --agent-arg y").contains("cannot be used with"));
    assert!(wrong("clawmesh up --agent-env A=b").contains("name of a variable only"));
    assert!(wrong("clawmesh up --agent-slots 1001").contains("1000"));
    assert!(up("clawmesh up --openclaw-config /no/such/file").unwrap_err().what.contains("is not a file"));
}

#[test]
fn wrong_values_are_refused_with_the_right_ones() {
    assert!(wrong("clawmesh run --priority urgent -- ls").contains("critical, high, normal, low"));
    assert!(wrong("clawmesh run --strategy fast -- ls").contains("least_tasks"));
    assert!(wrong("clawmesh run --timeout 5 -- ls").contains("90s"));
    assert!(wrong("clawmesh run --timeout 31days -- ls").contains("30 days"));
    assert!(wrong("clawmesh run --retries 101 -- ls").contains("0..=100"));
    assert!(wrong("clawmesh run --env A -- ls").contains("NAME=VALUE"));
    assert!(wrong("clawmesh run --memory lots -- ls").contains("512MiB"));
    assert!(wrong("clawmesh run --detach --wait-timeout 1s -- ls").contains("cannot be used with"));
    assert!(wrong("clawmesh submit x --wait-timeout 1s").contains("--wait"));
    assert!(wrong("clawmesh submit x --input 1 --input-file f").contains("cannot be used with"));
    assert!(wrong("clawmesh tasks ls --state done").contains("completed"));
    assert!(wrong("clawmesh tasks ls --limit 0").contains("1.."));
    assert!(wrong("clawmesh tasks wait").contains("<ID>"));
    assert!(wrong("clawmesh config set strategy random").contains("--mesh"));
    assert!(wrong("clawmesh config set --mesh stratgy random").contains("strategy"));
    assert!(wrong("clawmesh up --slots many").contains("invalid digit"));
    assert!(wrong("clawmesh up --api-port 70000").contains("0..=65535"));
    assert!(wrong("clawmesh up --lost-after 100ms").contains("1s to 1day"));
    assert!(wrong("clawmesh up --join T --new-mesh n").contains("cannot be used with"));
    assert!(wrong("clawmesh completions tcsh").contains("bash"));
}

#[test]
fn up_has_the_defaults_that_other_programs_rely_on() {
    let a = up("clawmesh up").unwrap();
    assert_eq!((a.api_port, a.mesh_port, a.lost_after), (8888, 8889, Duration::from_secs(60)));
    assert!(a.commands && a.mdns && !a.loopback_only && a.slots.is_none() && a.priority.is_none() && a.name.is_none());
    let a = up("clawmesh up --api-port 0 --mesh-port 0 --join T --name n --slots 0 --priority 7 --lost-after 3s --no-commands --no-mdns \
                --label a --label b --peer h:1 --peer /ip4/1.2.3.4/tcp/5 --loopback-only"
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .as_str())
    .unwrap();
    assert_eq!((a.api_port, a.mesh_port, a.slots, a.priority), (0, 0, Some(0), Some(7)));
    assert!(!a.commands && !a.mdns && a.loopback_only);
    assert_eq!((a.labels.len(), a.peers.len(), a.lost_after), (2, 2, Duration::from_secs(3)));
    let e = up("clawmesh up --skills /no/such/dir").unwrap_err();
    assert!(e.exit == 2 && e.what.contains("/no/such/dir"));
}

#[test]
fn run_ends_as_the_task_did() {
    for (state, code, exit) in [
        (State::Completed, Some(0), 0),
        (State::Completed, None, 0),
        (State::Failed, Some(3), 3),
        (State::Failed, Some(137), 137),
        (State::Failed, Some(127), 127),
        (State::Failed, Some(-1), 255),
        (State::Failed, Some(256), 1),
        (State::Failed, Some(0), 125),
        (State::Failed, None, 125),
        (State::Timeout, None, 124),
        (State::Timeout, Some(143), 124),
        (State::Cancelled, None, 130),
    ] {
        assert_eq!(run::exit_code(&ended(state, code)), exit, "{state:?} {code:?}");
    }
}

#[test]
fn every_error_has_its_exit_code() {
    let refused = |code: &str| {
        let p = Problem { code: code.into(), status: 400, title: "".into(), detail: "why".into(), next: "do".into(), candidates: vec![] };
        let f = Failure::from(ClientError::Refused(p));
        assert_eq!((f.what.as_str(), f.next.as_deref()), ("why", Some("do")));
        f.exit
    };
    for (code, exit) in [("not_found", 1), ("ambiguous", 1), ("unknown_skill", 1), ("full", 1), ("no_coordinator", 1)] {
        assert_eq!(refused(code), exit, "{code}");
    }
    assert_eq!((refused("invalid"), refused("stopping"), refused("timeout")), (2, 3, 4));
    assert_eq!(Failure::from(ClientError::Broken { why: "x".into() }).exit, 3);
    let f = run::timed_out(&["tabc".into()], Some(Duration::from_secs(2)));
    assert_eq!((f.exit, f.what.as_str()), (4, "tabc has not ended within 2s; nothing was cancelled"));
    assert_eq!(f.next.as_deref(), Some("clawmesh tasks explain tabc"));
    let pipe = Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
    assert_eq!((pipe.exit, pipe.what.as_str()), (0, ""));
    let full = Failure::from(std::io::Error::from(std::io::ErrorKind::StorageFull));
    assert_eq!(full.exit, 1);
}

#[test]
fn inputs_are_checked_before_anything_is_sent() {
    let json = |s: &str| run::input(Some(s.into()), None, None, false);
    assert_eq!(json("{\"a\": 1}").unwrap().as_deref(), Some("{\"a\": 1}"));
    let e = json("{\"a\": }").unwrap_err();
    assert!(e.exit == 2 && e.what.contains("line 1 column 7") && e.what.contains("--input-text"), "{e}");
    assert_eq!(run::input(Some("5s".into()), None, None, true).unwrap().as_deref(), Some("5s"));
    assert_eq!(run::input(None, None, Some("plain".into()), false).unwrap().as_deref(), Some("plain"));
    assert_eq!(run::input(None, None, None, false).unwrap(), None);
    let big = "1".repeat((8 << 20) + 1);
    let e = run::input(None, None, Some(big.clone()), false).unwrap_err();
    assert!(e.exit == 2 && e.what.contains("8388609 bytes") && e.what.contains("8.0 MiB"), "{e}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("in.json");
    let of_file = || run::input(None, Some(&file), None, false);
    assert!(of_file().unwrap_err().what.contains("cannot read"));
    std::fs::write(&file, "[1,\n2,]").unwrap();
    assert!(of_file().unwrap_err().what.contains("line 2"));
    std::fs::write(&file, b"\"\xff\"").unwrap();
    assert!(of_file().unwrap_err().what.contains("UTF-8"));
    std::fs::write(&file, &big).unwrap();
    assert!(of_file().unwrap_err().what.contains("above the cap"));
    std::fs::write(&file, "[1, 2]\n").unwrap();
    assert_eq!(of_file().unwrap().as_deref(), Some("[1, 2]\n"));
}

#[test]
fn a_home_is_an_absolute_path() {
    assert_eq!(home(Some("/a/b".into())).unwrap(), PathBuf::from("/a/b"));
    assert!(home(Some("rel".into())).unwrap().is_absolute());
    assert_eq!(home(Some("".into())).unwrap_err().exit, 2);
    assert!(home(None).unwrap().ends_with(".clawmesh"));
}

#[test]
fn lists_without_a_word_are_lists() {
    for line in ["clawmesh tasks", "clawmesh nodes", "clawmesh skills"] {
        assert!(matches!(
            parse(line).command,
            Command::Tasks { what: None } | Command::Nodes { what: None } | Command::Skills { what: None }
        ));
    }
    let Command::Tasks { what: Some(tasks::Tasks::Logs { follow, .. }) } = parse("clawmesh tasks logs -f tabc").command else { panic!() };
    assert!(follow);
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in <clap_complete::Shell as clap::ValueEnum>::value_variants() {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Cli::command(), "clawmesh", &mut script);
        assert!(String::from_utf8(script).unwrap().contains("explain"), "{shell}");
    }
    assert_eq!(Output::new(Mode::Quiet).mode(), Mode::Quiet);
}

/// A node that is only a struct, served on this home.
async fn serve(cx: &Context, fake: Option<Arc<Fake>>) -> (Arc<Fake>, Serving) {
    let bound = bind(0).await.unwrap();
    let fake = fake.unwrap_or_else(|| Fake::new(bound.addr(), cx.home.clone()));
    let serving = bound.serve(&cx.home, HERE, fake.clone(), ApiMetrics::default()).unwrap();
    (fake, serving)
}

fn context(home: &tempfile::TempDir) -> Context {
    Context { home: home.path().to_owned(), output: Output::new(Mode::Quiet) }
}

/// The exit code of a line.
async fn exit(cx: &Context, line: &str) -> u8 {
    let done = super::asynchronous(parse(line).command, cx).await;
    done.map_or_else(|f| f.exit, |()| 0)
}

#[tokio::test]
async fn commands_end_as_scripts_expect() {
    let dir = tempfile::tempdir().unwrap();
    let cx = context(&dir);
    assert_eq!(exit(&cx, "clawmesh run -- ls").await, 3);
    assert_eq!(exit(&cx, "clawmesh tasks ls").await, 3);
    let (fake, _serving) = serve(&cx, None).await;
    // `out CODE STDOUT STDERR` ends at once; nothing is printed here.
    assert_eq!(exit(&cx, "clawmesh run -- out 0  ").await, 0);
    assert_eq!(exit(&cx, "clawmesh run -- out 7  ").await, 7);
    assert_eq!(exit(&cx, "clawmesh run --node nobody -- out 0  ").await, 125);
    assert_eq!(exit(&cx, "clawmesh run --detach --node nobody -- out 0  ").await, 1);
    assert_eq!(exit(&cx, "clawmesh run --wait-timeout 50ms -- hang").await, 4);
    assert_eq!(exit(&cx, "clawmesh submit count_wrods --input {}").await, 1);
    assert_eq!(exit(&cx, "clawmesh submit count_words --input {").await, 2);
    assert_eq!(exit(&cx, "clawmesh submit count_words --input {} --wait --wait-timeout 50ms").await, 4);
    let hanging = fake.ids().into_iter().find(|id| fake.spec(*id).is_some_and(|s| s.need.title == "hang")).unwrap();
    assert_eq!(exit(&cx, &format!("clawmesh tasks wait {hanging} --wait-timeout 50ms")).await, 4);
    assert_eq!(exit(&cx, &format!("clawmesh tasks result {hanging}")).await, 1);
    assert_eq!(exit(&cx, &format!("clawmesh tasks cancel {hanging}")).await, 0);
    assert_eq!(exit(&cx, "clawmesh tasks cancel tzzzzzzzz").await, 1);
    assert_eq!(exit(&cx, "clawmesh config set --mesh strategy affinity").await, 0);
}

#[tokio::test]
async fn a_run_ends_with_125_when_the_mesh_gives_the_task_up() {
    let dir = tempfile::tempdir().unwrap();
    let cx = context(&dir);
    let (fake, _serving) = serve(&cx, None).await;
    let end = async {
        fake.submitted(1).await;
        fake.end(fake.ids()[0], State::Failed, None, b"", b"");
    };
    let (code, ()) = tokio::join!(exit(&cx, "clawmesh run -- hang"), end);
    assert_eq!(code, 125);
}

#[tokio::test]
async fn waiting_outlives_a_restart_of_the_node_on_another_port() {
    let dir = tempfile::tempdir().unwrap();
    let cx = context(&dir);
    let (fake, first) = serve(&cx, None).await;
    let restart = async {
        fake.submitted(1).await;
        first.shutdown().await;
        let (_, second) = serve(&cx, Some(fake.clone())).await;
        fake.end(fake.ids()[0], State::Failed, Some(9), b"", b"");
        second
    };
    let (code, second) =
        tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(exit(&cx, "clawmesh run -- hang"), restart) }).await.unwrap();
    assert_eq!(code, 9);
    second.shutdown().await;
    assert_eq!(exit(&cx, "clawmesh status").await, 3);
}
