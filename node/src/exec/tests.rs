//! Real processes, as a worker runs them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use super::capture::{Piece, Stream};
use super::*;
use futures::StreamExt;

mod rate;

/// Far above what any of these tests needs on a loaded machine; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    executor: Executor,
    exits: mpsc::Receiver<(JobKey, Exit)>,
    home: tempfile::TempDir,
    next: u32,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(Settings::default())
    }

    fn with(settings: Settings) -> Rig {
        let (executor, exits) = Executor::new(settings, Handle::current());
        Rig { executor, exits, home: tempfile::tempdir().unwrap(), next: 0 }
    }

    fn root(&self) -> PathBuf {
        self.home.path().join("work")
    }

    fn job(&mut self, work: Work) -> Job {
        self.next += 1;
        Job {
            key: JobKey { task: format!("task{}", self.next), attempt: 1, issue: String::new() },
            work,
            timeout: None,
            fence: "7.3".to_owned(),
            env: Vec::new(),
            dir_root: self.root(),
            output_cap: OUTPUT_CAP_DEFAULT,
            files: Files::default(),
        }
    }

    fn sh(&mut self, script: &str) -> Job {
        let script = script.replace("{home}", &self.home.path().to_string_lossy());
        self.job(command(&["sh", "-c", &script]))
    }

    fn start(&mut self, job: Job) -> JobKey {
        let key = job.key.clone();
        self.executor.start(job).unwrap();
        key
    }

    async fn exit(&mut self) -> (JobKey, Exit) {
        tokio::time::timeout(PATIENCE, self.exits.recv()).await.expect("no attempt ended in time").unwrap()
    }

    async fn run(&mut self, job: Job) -> Exit {
        let key = self.start(job);
        let (ended, exit) = self.exit().await;
        assert_eq!(ended, key);
        exit
    }

    /// The number a script wrote into a file of the home, once it is there.
    async fn number(&self, file: &str) -> i32 {
        let path = self.home.path().join(file);
        until("a number in the file", || std::fs::read_to_string(&path).ok()?.strip_suffix('\n')?.parse().ok()).await
    }
}

fn command(argv: &[&str]) -> Work {
    Work::Command { argv: argv.iter().map(|part| (*part).to_owned()).collect() }
}

/// Asks again and again until there is an answer.
async fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// A process that nobody has reaped yet is gone as well.
#[cfg(target_os = "linux")]
fn is_gone(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

#[cfg(not(target_os = "linux"))]
fn is_gone(pid: i32) -> bool {
    rustix::process::test_kill_process(rustix::process::Pid::from_raw(pid).unwrap()).is_err()
}

async fn gone(pid: i32) {
    until("the end of a process", || is_gone(pid).then_some(())).await;
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_command_gives_its_output_code_and_leaves_nothing() {
    let mut rig = Rig::new();
    let job = rig.sh("echo out; echo err >&2; pwd > {home}/where; echo data > file");
    let exit = rig.run(job).await;
    assert_eq!((exit.kind, exit.code, exit.signal), (Kind::Done, Some(0), None));
    assert_eq!((text(&exit.stdout), text(&exit.stderr)), ("out\n", "err\n"));
    assert_eq!(exit.shell_code(), 0);
    assert!(exit.wall > Duration::ZERO);
    let place = std::fs::read_to_string(rig.home.path().join("where")).unwrap();
    assert!(place.trim_end().ends_with("work/task1.1"), "{place}");
    let root = rig.root();
    until("the removal of the directory", || (std::fs::read_dir(&root).unwrap().count() == 0).then_some(())).await;
    assert!(rig.executor.running().is_empty());
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_apart() {
    let mut rig = Rig::new();
    let job = rig.sh("echo 'config missing' >&2; exit 3");
    let exit = rig.run(job).await;
    assert_eq!((exit.kind, exit.code, exit.signal, exit.shell_code()), (Kind::Failed, Some(3), None, 3));
    assert!(exit.reason.contains("code 3") && exit.reason.contains("config missing"), "{}", exit.reason);

    let job = rig.sh("kill -SEGV $$");
    let exit = rig.run(job).await;
    assert_eq!((exit.kind, exit.code, exit.signal, exit.shell_code()), (Kind::Failed, None, Some(11), 139));
    assert!(exit.reason.contains("SIGSEGV"), "{}", exit.reason);

    let job = rig.sh("kill -KILL $$");
    let exit = rig.run(job).await;
    assert_eq!((exit.kind, exit.signal, exit.shell_code()), (Kind::Failed, Some(9), 137));
    assert!(exit.reason.contains("memory"), "{}", exit.reason);

    let job = rig.sh("exit 137");
    let exit = rig.run(job).await;
    assert_eq!((exit.code, exit.signal), (Some(137), None));
    assert!(exit.reason.contains("SIGKILL"), "{}", exit.reason);
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let mut rig = Rig::new();
    let plain = rig.home.path().join("plain");
    std::fs::write(&plain, "#!/bin/sh\n").unwrap();
    let orphan = rig.home.path().join("orphan");
    std::fs::write(&orphan, "#!/no/such/interpreter\n").unwrap();
    let alien = rig.home.path().join("alien");
    std::fs::write(&alien, "\x7fELF nonsense").unwrap();
    use std::os::unix::fs::PermissionsExt;
    for file in [&orphan, &alien] {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let cases = [
        ("clawmesh-no-such-program", Some(127), "PATH"),
        ("./here", Some(127), "relative"),
        ("", Some(127), "empty"),
        (plain.to_str().unwrap(), Some(126), "not executable"),
        (rig.home.path().to_str().unwrap(), Some(126), "directory"),
        (orphan.to_str().unwrap(), Some(127), "interpreter"),
        (alien.to_str().unwrap(), Some(126), "no program for this machine"),
    ]
    .map(|(program, code, words)| (program.to_owned(), code, words));
    for (program, code, words) in cases {
        let job = rig.job(command(&[&program, "argument"]));
        let exit = rig.run(job).await;
        assert_eq!((exit.kind, exit.code), (Kind::SpawnError, code), "{program}: {}", exit.reason);
        assert!(exit.reason.contains(words), "{program}: {}", exit.reason);
    }
    let long = "x".repeat(3 << 20);
    let job = rig.job(command(&["true", &long]));
    let exit = rig.run(job).await;
    assert_eq!((exit.kind, exit.code), (Kind::SpawnError, Some(126)));
    assert!(exit.reason.contains("longer than"), "{}", exit.reason);

    let mut job = rig.job(skill(&["true"], SkillInput::None, b"", false));
    if let Work::Skill { dir, .. } = &mut job.work {
        *dir = rig.home.path().join("uninstalled");
    }
    let exit = rig.run(job).await;
    assert_eq!((exit.kind, exit.code), (Kind::SpawnError, None));
    assert!(exit.reason.contains("uninstalled"), "{}", exit.reason);

    let job = rig.job(Work::Command { argv: Vec::new() });
    assert_eq!(rig.run(job).await.kind, Kind::SpawnError);
}

#[tokio::test]
async fn the_environment_is_a_short_list() {
    let mut settings = Settings::default();
    settings.node_env.push(("CLAWMESH_TASK_ID".into(), "of the node".into()));
    let mut rig = Rig::with(settings);
    let mut job = rig.job(command(&["env"]));
    job.env = vec![("MINE".into(), "a=b c".into()), ("HOME".into(), "/elsewhere".into()), ("CLAWMESH_FENCE".into(), "forged".into())];
    let exit = rig.run(job).await;
    let vars: HashMap<&str, &str> = text(&exit.stdout).lines().filter_map(|line| line.split_once('=')).collect();
    assert_eq!(vars["CLAWMESH_TASK_ID"], "task1");
    assert_eq!(vars["CLAWMESH_ATTEMPT"], "1");
    assert_eq!(vars["CLAWMESH_FENCE"], "7.3");
    assert_eq!((vars["MINE"], vars["HOME"]), ("a=b c", "/elsewhere"));
    assert!(vars.contains_key("PATH"));
    let known = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "MINE", "CLAWMESH_TASK_ID"];
    let known = [known.as_slice(), &["CLAWMESH_ATTEMPT", "CLAWMESH_FENCE", "CLAWMESH_DIR"]].concat();
    let stranger = vars.keys().find(|name| !known.contains(name) && !name.starts_with("LC_"));
    assert_eq!(stranger, None);

    for name in ["", "A=B", "A\0"] {
        let mut job = rig.job(command(&["env"]));
        job.env = vec![(name.to_owned(), "x".to_owned())];
        let exit = rig.run(job).await;
        assert_eq!(exit.kind, Kind::SpawnError);
        assert!(exit.reason.contains("environment variable"), "{}", exit.reason);
    }
}

fn skill(run: &[&str], input: SkillInput, stdin: &[u8], json_output: bool) -> Work {
    let run = run.iter().map(|part| (*part).to_owned()).collect();
    Work::Skill { dir: "/tmp".into(), run, input, stdin: stdin.to_vec(), json_output }
}

#[tokio::test]
async fn a_skill_reads_its_input_and_keeps_its_promise() {
    let mut rig = Rig::new();
    let input = "x".repeat(300_000);
    let job = rig.job(skill(&["cat"], SkillInput::Text, input.as_bytes(), false));
    assert_eq!(text(&rig.run(job).await.stdout), input);

    let job = rig.job(skill(&["echo", "{baseDir}/scripts/run"], SkillInput::None, b"ignored", false));
    assert_eq!(text(&rig.run(job).await.stdout), "/tmp/scripts/run\n");

    let job = rig.job(skill(&["cat"], SkillInput::None, b"not given", false));
    assert_eq!(text(&rig.run(job).await.stdout), "");

    let job = rig.job(skill(&["cat"], SkillInput::Json, br#"{"a": [1]}"#, true));
    assert_eq!(rig.run(job).await.kind, Kind::Done);

    let job = rig.job(skill(&["echo", "no json"], SkillInput::Json, b"{}", true));
    let exit = rig.run(job).await;
    assert_eq!((exit.kind, exit.code), (Kind::Failed, Some(0)));
    assert_ne!(exit.shell_code(), 0);
    assert!(exit.reason.contains("output: json"), "{}", exit.reason);

    // A program that does not read its input is no error, even if the input is larger than a pipe.
    let job = rig.job(skill(&["true"], SkillInput::Text, input.as_bytes(), false));
    assert_eq!(rig.run(job).await.kind, Kind::Done);
}

#[tokio::test]
async fn the_builtins_need_no_process() {
    let mut rig = Rig::new();
    let job = rig.job(Work::Echo { input: b"hello".to_vec() });
    let exit = rig.run(job).await;
    assert_eq!((exit.kind, exit.code, text(&exit.stdout)), (Kind::Done, Some(0), "hello"));

    let job = rig.job(Work::Fail { message: "on purpose".into(), code: 4 });
    let exit = rig.run(job).await;
    assert_eq!((exit.kind, exit.shell_code(), text(&exit.stderr)), (Kind::Failed, 4, "on purpose"));
    assert!(exit.reason.contains("on purpose"));

    let job = rig.job(Work::Sleep { dur: Duration::from_millis(20) });
    let exit = rig.run(job).await;
    assert_eq!(exit.kind, Kind::Done);
    assert!(exit.wall >= Duration::from_millis(20));

    let mut job = rig.job(Work::Sleep { dur: Duration::MAX });
    job.timeout = Some(Duration::from_millis(20));
    assert_eq!(rig.run(job).await.kind, Kind::Timeout);

    let job = rig.job(Work::Sleep { dur: Duration::MAX });
    let key = rig.start(job);
    assert!(rig.executor.kill(&key, "not wanted any more"));
    let (_, exit) = rig.exit().await;
    assert_eq!((exit.kind, exit.reason.as_str()), (Kind::Killed, "not wanted any more"));
    assert!(!rig.root().exists());
}

#[tokio::test]
async fn a_timeout_reaches_the_grandchildren() {
    let mut rig = Rig::new();
    // The grandchild does not listen to TERM and holds the output open.
    let mut job = rig.sh("sh -c 'trap \"\" TERM; echo $$ > {home}/pid; while :; do sleep 1; done' & wait");
    job.timeout = Some(Duration::from_millis(300));
    let key = rig.start(job);
    let pid = rig.number("pid").await;
    let (ended, exit) = rig.exit().await;
    assert_eq!((ended, exit.kind, exit.shell_code()), (key, Kind::Timeout, 124));
    assert!(exit.reason.contains("300ms"), "{}", exit.reason);
    assert!(exit.wall < Duration::from_secs(20));
    gone(pid).await;
}

#[tokio::test]
async fn cancel_lets_a_program_tidy_up_and_ends_those_who_do_not_listen() {
    let mut rig = Rig::new();
    let job = rig.sh("trap 'echo tidy; exit 5' TERM; echo $$ > {home}/one; while :; do sleep 0.01; done");
    let key = rig.start(job);
    let pid = rig.number("one").await;
    assert!(rig.executor.kill(&key, "cancelled by ada"));
    let (_, exit) = rig.exit().await;
    assert_eq!((exit.kind, exit.code, exit.reason.as_str()), (Kind::Killed, Some(5), "cancelled by ada"));
    assert_eq!(text(&exit.stdout), "tidy\n");
    gone(pid).await;

    let job = rig.sh("trap '' TERM; echo $$ > {home}/two; while :; do sleep 1; done");
    let key = rig.start(job);
    let pid = rig.number("two").await;
    assert!(rig.executor.kill(&key, "cancelled"));
    let (_, exit) = rig.exit().await;
    assert_eq!((exit.kind, exit.signal), (Kind::Killed, Some(9)));
    assert!(exit.wall >= rig.executor.shared.settings.kill_grace);
    gone(pid).await;
    assert!(!rig.executor.kill(&key, "again"));
}

#[tokio::test]
async fn an_orphan_of_a_stopped_attempt_has_its_grace_too() {
    let mut rig = Rig::new();
    // The leader goes at once; its child needs a moment to write its farewell, and has closed its output.
    let job = rig.sh(
        "sh -c 'trap \"sleep 0.05; echo bye > {home}/bye; exit\" TERM; echo $$ > {home}/pid; while :; do sleep 0.01; done' >/dev/null 2>&1 & wait",
    );
    let key = rig.start(job);
    let pid = rig.number("pid").await;
    assert!(rig.executor.kill(&key, "cancelled"));
    rig.exit().await;
    assert_eq!(std::fs::read_to_string(rig.home.path().join("bye")).unwrap(), "bye\n");
    gone(pid).await;
}

#[tokio::test]
async fn children_left_behind_do_not_hold_up_the_attempt() {
    let mut rig = Rig::new();
    let job = rig.sh("sleep 600 & echo $! > {home}/child; echo done");
    let exit = rig.run(job).await;
    assert_eq!((exit.kind, text(&exit.stdout)), (Kind::Done, "done\n"));
    assert!(exit.wall < Duration::from_secs(20));
    gone(rig.number("child").await).await;

    // Without the output in hand, it is ended at once.
    let job = rig.sh("sleep 600 >/dev/null 2>&1 & echo $! > {home}/quiet");
    let exit = rig.run(job).await;
    assert_eq!(exit.kind, Kind::Done);
    gone(rig.number("quiet").await).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_daemon_in_its_own_session_does_not_hold_up_the_attempt_and_is_found_at_the_next_start() {
    let mut rig = Rig::new();
    let job =
        rig.sh("setsid sh -c 'echo $$ > {home}/daemon; exec sleep 600' & until [ -s {home}/daemon ]; do sleep 0.01; done; echo started");
    let exit = rig.run(job).await;
    assert_eq!((exit.kind, text(&exit.stdout)), (Kind::Done, "started\n"));
    let daemon = rig.number("daemon").await;
    assert!(!is_gone(daemon));
    let elsewhere = tempfile::tempdir().unwrap();
    Executor::clean_up(elsewhere.path()).unwrap();
    assert!(!is_gone(daemon), "another node's clean-up must leave it alone");
    std::fs::create_dir_all(rig.root().join("stale/1")).unwrap();
    Executor::clean_up(&rig.root()).unwrap();
    gone(daemon).await;
    assert_eq!(std::fs::read_dir(rig.root()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_hundred_megabytes_of_output_cost_two() {
    let mut rig = Rig::new();
    let mut job = rig.sh("echo first; head -c 100000000 /dev/zero; echo last; echo quiet >&2");
    job.output_cap = 1000;
    let exit = rig.run(job).await;
    assert_eq!(exit.kind, Kind::Done);
    assert_eq!(exit.stdout.len(), 1000);
    assert_eq!(exit.stdout_truncated, 100_000_000 + 6 + 5 - 1000);
    assert!(exit.stdout.starts_with(b"first\n\0") && exit.stdout.ends_with(b"\0last\n"));
    assert_eq!((text(&exit.stderr), exit.stderr_truncated), ("quiet\n", 0));
}

#[tokio::test]
async fn output_is_followed_while_it_grows() {
    let mut rig = Rig::new();
    let job = rig.sh("echo one; echo two >&2; until [ -e {home}/go ]; do sleep 0.01; done; echo three");
    let key = rig.start(job);
    let mut tail = rig.executor.tail(&key).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.push(tokio::time::timeout(PATIENCE, tail.next()).await.unwrap().unwrap());
    }
    seen.sort_by_key(|piece| matches!(piece, Piece::Data { stream: Stream::Stderr, .. }));
    assert_eq!(seen[0], Piece::Data { stream: Stream::Stdout, offset: 0, bytes: b"one\n".to_vec() });
    assert_eq!(seen[1], Piece::Data { stream: Stream::Stderr, offset: 0, bytes: b"two\n".to_vec() });
    assert_eq!(rig.executor.running().len(), 1);
    let late = tokio::spawn(rig.executor.tail(&key).unwrap().into_stream().collect::<Vec<_>>());
    std::fs::write(rig.home.path().join("go"), "").unwrap();
    let (_, exit) = rig.exit().await;
    assert_eq!(tail.next().await, Some(Piece::Data { stream: Stream::Stdout, offset: 4, bytes: b"three\n".to_vec() }));
    assert_eq!(tail.next().await, None);
    let late: Vec<u8> = late
        .await
        .unwrap()
        .into_iter()
        .filter_map(|piece| match piece {
            Piece::Data { stream: Stream::Stdout, bytes, .. } => Some(bytes),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(late, exit.stdout);
    assert!(rig.executor.tail(&key).is_none());
}

#[tokio::test]
async fn two_attempts_work_side_by_side_in_their_own_directories() {
    let mut rig = Rig::new();
    let script = "echo $CLAWMESH_ATTEMPT > mine; touch {home}/ready$CLAWMESH_ATTEMPT; until [ -e {home}/ready1 ] && [ -e {home}/ready2 ]; do sleep 0.01; done; cat mine";
    let one = rig.sh(script);
    let mut two = one.clone();
    two.key.attempt = 2;
    let (one, two) = (rig.start(one), rig.start(two));
    let mut exits = HashMap::from([rig.exit().await, rig.exit().await]);
    assert_eq!(text(&exits.remove(&one).unwrap().stdout), "1\n");
    assert_eq!(text(&exits.remove(&two).unwrap().stdout), "2\n");
}

#[tokio::test]
async fn the_same_attempt_is_not_started_twice_and_the_limit_holds() {
    let mut rig = Rig::with(Settings { running_max: 2, ..Settings::default() });
    let job = rig.job(Work::Sleep { dur: Duration::MAX });
    let key = rig.start(job.clone());
    assert_eq!(rig.executor.start(job), Err(Refused::Duplicate(key)));
    let job = rig.job(Work::Sleep { dur: Duration::MAX });
    rig.start(job);
    let job = rig.job(Work::Echo { input: Vec::new() });
    assert_eq!(rig.executor.start(job), Err(Refused::Full(2)));
}

#[tokio::test]
async fn the_same_number_from_two_coordinators_is_two_attempts() {
    let mut rig = Rig::new();
    let mut job = rig.sh("pwd; sleep 600");
    let first = rig.start(job.clone());
    job.key.issue = "6-Qx".to_owned();
    let second = rig.start(job);
    let any = JobKey { issue: String::new(), ..second.clone() };
    assert!(rig.executor.tail(&any).is_some() && rig.executor.tail(&second).is_some());
    assert!(rig.executor.kill(&first, "enough") && rig.executor.kill(&second, "enough"));
    let (a, b) = (rig.exit().await, rig.exit().await);
    assert_eq!([a.0, b.0].into_iter().collect::<std::collections::BTreeSet<_>>(), [first, second].into());
}

#[tokio::test]
async fn kill_all_is_bounded_and_final() {
    let mut rig = Rig::new();
    for number in 0..4 {
        let job = rig.sh(&format!("trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > {{home}}/pid{number}; while :; do sleep 1; done' & wait; while :; do sleep 1; done"));
        rig.start(job);
    }
    let job = rig.job(Work::Sleep { dur: Duration::MAX });
    rig.start(job);
    let mut pids = Vec::new();
    for number in 0..4 {
        pids.push(rig.number(&format!("pid{number}")).await);
    }
    let started = Instant::now();
    assert_eq!(rig.executor.kill_all(Duration::from_millis(200)).await, 0);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let job = rig.job(Work::Echo { input: Vec::new() });
    assert_eq!(rig.executor.start(job), Err(Refused::Closed));
    for _ in 0..5 {
        assert_eq!(rig.exit().await.1.kind, Kind::Killed);
    }
    for pid in pids {
        gone(pid).await;
    }
    assert!(rig.executor.running().is_empty());
}

#[tokio::test]
async fn ends_wait_for_a_slow_daemon_and_none_is_lost() {
    let mut rig = Rig::with(Settings { exits_max: 1, ..Settings::default() });
    for _ in 0..10 {
        let job = rig.job(Work::Echo { input: Vec::new() });
        rig.start(job);
    }
    until("all attempts to be over", || (*rig.executor.shared.alive.borrow() == 0).then_some(())).await;
    let mut ended = std::collections::BTreeSet::new();
    for _ in 0..10 {
        ended.insert(rig.exit().await.0);
    }
    assert_eq!(ended.len(), 10);
}
