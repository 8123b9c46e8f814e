//! Skill folders as people write them.

use super::settings::{Settings, Sources};
use super::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

mod golden;
mod hostile;
mod legacy;
mod places;
mod samples;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn roots(&self) -> Vec<Root> {
        vec![Root::skills(self.path())]
    }

    fn put(&self, path: &str, text: &str) -> &Home {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn scan(&self) -> Scan {
        scan(&self.roots(), &host())
    }
}

fn host() -> Host {
    Host {
        platform: "linux".into(),
        path: std::env::var_os("PATH").unwrap(),
        env: ["TOKEN".to_owned()].into(),
        settings: Settings::default(),
    }
}

fn skill(front: &str) -> Result<Skill, String> {
    let home = Home::new();
    home.put("dir-name/SKILL.md", &format!("---\n{front}\n---\nbody\n"));
    the_one(&home)
}

/// The only skill below a home, or why it was not taken.
fn the_one(home: &Home) -> Result<Skill, String> {
    let mut scan = home.scan();
    match (scan.skills.pop(), scan.rejected.pop()) {
        (Some(skill), None) => Ok(skill),
        (None, Some(rejected)) => Err(rejected.problem.code.to_owned()),
        other => panic!("neither one skill nor one rejection: {other:?}"),
    }
}

#[test]
fn our_own_declaration_is_read() {
    let skill = skill(
        "name: count
description: Counts.
metadata:
  openclaw: { requires: { bins: [sh] }, os: [macos, linux, windows] }
  clawmesh:
    run: [sh, \"{baseDir}/scripts/count.sh\", 3]
    input: text
    output: json
    version: 1.2.0
    category: data_processing
    tags: [text, count, text]
    depends: [\"python >=1.0\"]
    resources: { cpu: 1.5, memory: 256MiB, gpu: 0, tokens: 2 }
    timeout: 60s",
    )
    .unwrap();
    let run = skill.run.unwrap();
    assert_eq!(run.argv, ["sh", "{baseDir}/scripts/count.sh", "3"]);
    assert_eq!((run.input, run.json_output, run.timeout), (SkillInput::Text, true, Some(Duration::from_secs(60))));
    assert_eq!((skill.version.as_deref(), skill.category.as_deref()), (Some("1.2.0"), Some("data_processing")));
    assert_eq!(skill.tags, ["count", "text"]);
    assert_eq!(skill.depends, ["python >=1.0"]);
    assert_eq!((skill.resources.cpu_milli, skill.resources.memory_bytes, skill.resources.custom["tokens"]), (1500, 256 << 20, 2000));
    assert_eq!(skill.os, ["darwin", "linux", "win32"]);
    assert_eq!(skill.notes.len(), 2);
    assert!(skill.eligible && skill.shareable);
}

#[test]
fn a_declaration_that_cannot_be_meant_is_refused() {
    for wrong in [
        "run: sh -c true",
        "run: []",
        "run: [\"\"]",
        "run: [[a]]",
        "{ run: [sh], input: yaml }",
        "{ run: [sh], output: xml }",
        "{ run: [sh], timeout: soon }",
        "{ run: [sh], timeout: 0s }",
        "{ run: [sh], resources: { memory: lots } }",
        "{ run: [sh], resources: { cpu: -1 } }",
        "{ version: [1] }",
        "7",
    ] {
        let front = match wrong.starts_with("run") {
            true => format!("description: x\nmetadata:\n  clawmesh:\n    {wrong}"),
            false => format!("description: x\nmetadata:\n  clawmesh: {wrong}"),
        };
        assert_eq!(skill(&front).unwrap_err(), "CLAWMESH_METADATA", "{wrong}");
    }
}

#[test]
fn front_matter_is_read_as_openclaw_reads_it() {
    let of = |front: &str| skill(front).map(|skill| (skill.name, skill.description));
    let ok = |name: &str, description: &str| Ok((name.to_owned(), description.to_owned()));
    assert_eq!(of("description: plain"), ok("dir-name", "plain"));
    assert_eq!(of("name: ''\ndescription: plain"), ok("dir-name", "plain"));
    assert_eq!(of("name: a\ndescription: Use for: this and: that"), ok("a", "Use for: this and: that"));
    assert_eq!(of("name: a\ndescription: \"closed\" too early"), ok("a", "\"closed\" too early"));
    assert_eq!(of("name: a\ndescription: [tag] text\nversion: 2.0"), ok("a", "[tag] text"));
    assert_eq!(of("name: a\nsummary: one: two\ndescription: x"), ok("a", "x"));
    assert_eq!(of("name: 1.0\ndescription: yes"), ok("1", "yes"));
    assert_eq!(of("name: a\ndescription: >\n  folded\n  text"), ok("a", "folded text"));
    assert_eq!(of("name: a\ndescription: true"), ok("a", "true"));
    assert_eq!(of("name: a\ndescription: {a: b}"), ok("a", "{a: b}"));
    assert_eq!(of("name: a"), Err("NO_DESCRIPTION".into()));
    assert_eq!(of("name: a\ndescription:"), Err("NO_DESCRIPTION".into()));
    assert_eq!(of("name: one: two\ndescription: x").map(|_| ()), Err("BLOCK_AS_IMPLICIT_KEY".into()));
    assert_eq!(of("description: x\nname: a\nname: b").map(|_| ()), Err("DUPLICATE_KEY".into()));
    assert_eq!(of("- a\n- b"), Err("INVALID_ROOT".into()));
    assert_eq!(of("name: echo\ndescription: x"), Err("RESERVED_NAME".into()));
    assert_eq!(of(&format!("name: {}\ndescription: x", "n".repeat(129))), Err("BAD_NAME".into()));
}

#[test]
fn line_ends_marks_and_delimiters_are_forgiven_as_there() {
    let parse =
        |text: &str| frontmatter::parse(text).map(|fields| fields.get("description").cloned()).map_err(|refused| refused.problem.code);
    let x = Ok(Some("x".to_owned()));
    assert_eq!(parse("\u{feff}---\r\ndescription: x\r\n---\r\nbody"), x);
    assert_eq!(parse("---\rdescription: x\r---"), x);
    assert_eq!(parse("---  \ndescription: x\n--- \t\n---\n"), x);
    assert_eq!(parse("---\n---\n"), Ok(None));
    assert_eq!(parse("# no front matter\n---\ndescription: x\n---\n"), Ok(None));
    assert_eq!(parse(" ---\ndescription: x\n---\n"), Ok(None));
    assert_eq!(parse("----\ndescription: x\n---\n"), Ok(None));
    assert_eq!(parse(""), Ok(None));
    assert_eq!(parse("---"), Ok(None));
    assert_eq!(parse("---\ndescription: x\n----\n"), Err("UNTERMINATED_FRONTMATTER"));
    assert_eq!(parse("---\ndescription: x\n"), Err("UNTERMINATED_FRONTMATTER"));
}

#[test]
fn hostile_front_matter_is_refused_quickly() {
    let bomb = (1..9).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]".to_owned(), |text, n| {
        let list = vec![format!("*a{}", n - 1); 10].join(",");
        format!("{text}\na{n}: &a{n} [{list}]")
    });
    assert!(skill(&format!("description: x\n{bomb}")).is_err());
    let deep = "[".repeat(50_000);
    assert!(skill(&format!("description: x\ndeep: {deep}")).is_err());
    assert!(skill(&format!("description: x\nmetadata: '{}'", "[".repeat(100_000))).unwrap().run.is_none());
}

#[test]
fn the_gate_names_what_is_missing() {
    let missing = |metadata: &str| skill(&format!("description: x\nmetadata: {metadata}")).unwrap().missing;
    assert!(missing(r#"{"openclaw": {"requires": {"bins": ["sh"], "env": ["TOKEN"], "config": ["browser.enabled"]}}}"#).is_empty());
    assert!(missing(r#"{openclaw: {requires: {anyBins: ['no-such-a', 'sh'],},},}"#).is_empty());
    let gate = missing(
        r#"{"clawdbot": {"os": "macos, windows", "requires": {"bins": "sh, no-such-a", "anyBins": ["no-such-b"], "env": ["NOT_SET"], "config": ["x.y"]}}}"#,
    );
    assert_eq!(gate.os, ["darwin", "win32"]);
    assert_eq!(
        (gate.bins.as_slice(), gate.any_bins.as_slice()),
        (["no-such-a".to_owned()].as_slice(), ["no-such-b".to_owned()].as_slice())
    );
    assert_eq!((gate.env.as_slice(), gate.config.as_slice()), (["NOT_SET".to_owned()].as_slice(), ["x.y".to_owned()].as_slice()));
    assert_eq!(gate.phrases().len(), 5);
    // `always` opens everything but the platform.
    assert!(missing(r#"{"openclaw": {"always": true, "requires": {"bins": ["no-such-a"]}}}"#).is_empty());
    assert_eq!(missing(r#"{"openclaw": {"always": true, "os": ["win32"]}}"#).os, ["win32"]);
    // Only the two known blocks are read, the newer one first.
    assert!(missing(r#"{"moltbot": {"requires": {"bins": ["no-such-a"]}}}"#).is_empty());
    assert!(missing(r#"{"openclaw": {}, "clawdbot": {"os": ["win32"]}}"#).is_empty());
    assert!(missing("not json at all").is_empty());
}

#[test]
fn a_broken_skill_leaves_its_neighbours_alone() {
    let home = Home::new();
    home.put("a/SKILL.md", "---\nname: good\ndescription: x\n---\n")
        .put("b/SKILL.md", "---\nname: broken\n")
        .put("c/deep/er/SKILL.md", "---\nname: deep\ndescription: x\n---\n")
        .put("d/SKILL.md", "---\nname: good\ndescription: the second of that name\n---\n")
        .put("e/skill.md", "---\nname: lower\ndescription: x\n---\n")
        .put(".hidden/SKILL.md", "---\nname: hidden\ndescription: x\n---\n")
        .put("node_modules/f/SKILL.md", "---\nname: module\ndescription: x\n---\n")
        .put("a/nested/SKILL.md", "---\nname: nested\ndescription: x\n---\n")
        .put("big/SKILL.md", &format!("---\nname: big\ndescription: x\n---\n{}", "x".repeat(256_000)));
    fs::create_dir_all(home.path().join("odd/SKILL.md")).unwrap();
    let scan = home.scan();
    let names: Vec<&str> = scan.skills.iter().map(|skill| skill.name.as_str()).collect();
    assert_eq!(names, ["deep", "good"]);
    assert_eq!(scan.skill("good").unwrap().description, "x");
    assert!(scan.skill("broken").is_none());
    let codes: BTreeSet<&str> = scan.rejected.iter().map(|rejected| rejected.problem.code).collect();
    assert_eq!(codes, BTreeSet::from(["UNTERMINATED_FRONTMATTER", "DUPLICATE_NAME", "TOO_LARGE", "NOT_A_FILE"]));
}

#[cfg(unix)]
#[test]
fn links_may_not_lead_out_of_the_root() {
    use std::os::unix::fs::symlink;
    let home = Home::new();
    let outside = Home::new();
    outside.put("s/SKILL.md", "---\nname: outside\ndescription: x\n---\n");
    home.put("real/SKILL.md", "---\nname: real\ndescription: x\n---\n").put("file/other", "x");
    symlink(outside.path().join("s"), home.path().join("linked-folder")).unwrap();
    symlink(outside.path().join("s/SKILL.md"), home.path().join("file/SKILL.md")).unwrap();
    symlink(outside.path(), home.path().join("linked-parent")).unwrap();
    symlink(home.path(), home.path().join("circle")).unwrap();
    symlink("nowhere", home.path().join("dangling")).unwrap();
    let scan = home.scan();
    assert_eq!(scan.skills.iter().map(|skill| skill.name.as_str()).collect::<Vec<_>>(), ["real"]);
    let codes: Vec<&str> = scan.rejected.iter().map(|rejected| rejected.problem.code).collect();
    assert_eq!(codes, ["SYMLINK_ESCAPE", "SYMLINK_ESCAPE"]);
    let codes: Vec<String> = check(home.path(), &host(), true).into_iter().filter_map(|report| report.code).collect();
    assert_eq!(codes, ["SYMLINK_ESCAPE", "SYMLINK_ESCAPE"]);
}

#[test]
fn the_number_of_skills_is_bounded() {
    let home = Home::new();
    for n in 0..320 {
        home.put(&format!("s{n}/SKILL.md"), &format!("---\nname: s{n:03}\ndescription: x\n---\n"));
    }
    let scan = home.scan();
    assert_eq!(scan.skills.len(), 300);
    assert_eq!(scan.rejected.iter().map(|rejected| rejected.problem.code).collect::<Vec<_>>(), ["TOO_MANY"]);
}

#[test]
fn the_hash_is_the_content_and_nothing_else() {
    let make = |extra: &[(&str, &str)]| {
        let home = Home::new();
        home.put("s/SKILL.md", "---\nname: s\ndescription: x\n---\n").put("s/scripts/run.sh", "echo");
        for (path, text) in extra {
            home.put(path, text);
        }
        home.scan().skills.pop().unwrap()
    };
    let plain = make(&[]);
    assert_eq!(plain.hash, make(&[]).hash);
    assert_eq!(plain.hash, make(&[("s/scripts/__pycache__/run.pyc", "x"), ("s/.git/HEAD", "x")]).hash);
    let mut others = vec![
        plain.hash,
        make(&[("s/scripts/run.sh", "echo ")]).hash,
        make(&[("s/scripts/run2.sh", "echo")]).hash,
        make(&[("s/scriptsrun.sh", "echo")]).hash,
        make(&[("s/a", "bc")]).hash,
        make(&[("s/ab", "c")]).hash,
    ];
    others.sort_by_key(|hash| *hash.as_bytes());
    others.dedup();
    assert_eq!(others.len(), 6);
    let large = make(&[("s/model.bin", &"x".repeat(1_100_000))]);
    assert!(!large.shareable && plain.shareable);
    assert_ne!(large.hash, make(&[("s/model.bin", &"x".repeat(1_100_001))]).hash);
}

#[test]
fn a_change_is_noticed_and_only_a_change() {
    let home = Home::new();
    home.put("a/SKILL.md", "---\nname: a\ndescription: x\n---\n");
    let mut library = Library::open(sources(&home));
    assert_eq!(library.current().skills.len(), 1);
    assert!(library.rescan_if_changed().is_none());
    home.put("b/SKILL.md", "---\nname: b\ndescription: x\n---\n");
    assert_eq!(library.rescan_if_changed().unwrap().skills.len(), 2);
    let before = library.current().skill("b").unwrap().hash;
    home.put("b/scripts/deep/run.sh", "echo");
    assert_ne!(library.rescan_if_changed().unwrap().skill("b").unwrap().hash, before);
    home.put("b/SKILL.md", "---\nname: b\n---\n");
    let scan = library.rescan_if_changed().unwrap();
    assert_eq!((scan.skills.len(), scan.rejected.len()), (1, 1));
    fs::remove_dir_all(home.path().join("b")).unwrap();
    assert_eq!(library.rescan_if_changed().unwrap(), &home_scan(&home));
    assert!(library.rescan_if_changed().is_none());
    let absent = SkillSources { own: vec![Root::extra(home.path().join("absent"))], openclaw: None };
    assert!(Library::open(absent).current().skills.is_empty());
}

fn home_scan(home: &Home) -> Scan {
    scan(&home.roots(), &Host::current(Settings::default()))
}

fn sources(home: &Home) -> SkillSources {
    SkillSources { own: home.roots(), openclaw: None }
}

#[test]
fn a_hint_suits_the_machine() {
    let install = r#"[{"kind": "brew", "formula": "jq", "bins": ["no-such-a"]}, {"kind": "uv", "package": "a>=1", "bins": ["no-such-a"]},
        {"kind": "go", "module": "example.org/b", "bins": ["no-such-b"]}, {"kind": "apt", "package": "c"}, {"kind": "node", "package": "--evil"},
        {"kind": "brew", "formula": "../x"}, {"kind": "download", "url": "file:///etc/passwd"},
        {"kind": "download", "url": "https://example.org/d", "os": ["macos"]}, {"kind": "node", "package": "@s/e@1.0.0", "os": ["linux"]}]"#.replace(char::is_control, " ");
    let with = |bins: &str| {
        skill(&format!("description: x\nmetadata: {{\"openclaw\": {{\"requires\": {{\"bins\": {bins}}}, \"install\": {install}}}}}"))
            .unwrap()
    };
    let missing = with(r#"["sh", "no-such-a"]"#);
    assert_eq!(missing.install.len(), 5, "what is no safe word is dropped");
    let mut hints = missing.hints.clone();
    hints.sort();
    assert_eq!(hints, ["brew install jq", "npm install -g @s/e@1.0.0", "uv tool install 'a>=1'"]);
    assert!(with(r#"["sh"]"#).hints.is_empty(), "nothing is missing");
    let mac = Host { platform: "darwin".into(), path: "".into(), ..host() };
    let hints = gate::install_hints(&missing.install, &missing.missing, &mac, &mut gate::Seen::default());
    assert_eq!(hints, ["brew install jq", "uv tool install 'a>=1'", "download https://example.org/d"]);
}

/// `cargo test -p clawmesh cost_of_looking -- --ignored --nocapture`
#[ignore = "a measurement"]
#[test]
fn cost_of_looking_at_three_hundred_skills() {
    let home = Home::new();
    for n in 0..300 {
        home.put(&format!("s{n}/SKILL.md"), &format!("---\nname: s{n}\ndescription: x\n---\n{}", "text\n".repeat(1000)));
        for file in ["scripts/run.sh", "scripts/lib.sh", "references/api.md", "_meta.json"] {
            home.put(&format!("s{n}/{file}"), &"x".repeat(5000));
        }
    }
    let started = std::time::Instant::now();
    let mut library = Library::open(sources(&home));
    let opened = started.elapsed();
    let started = std::time::Instant::now();
    for _ in 0..20 {
        assert!(library.rescan_if_changed().is_none());
    }
    println!("open {opened:?}, nothing changed {:?}", started.elapsed() / 20);
    assert_eq!(library.current().skills.len(), 300);
}
