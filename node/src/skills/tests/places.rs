//! OpenClaw's folders and configuration on a machine that is made up.

use super::*;
use std::collections::BTreeMap;

fn surroundings(home: &Home, vars: &[(&str, &str)]) -> Surroundings {
    Surroundings {
        vars: vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>(),
        home: home.path().to_owned(),
        path: home.path().join("bin").into_os_string(),
        process: false,
    }
}

/// A configuration by itself.
fn read(path: &Path) -> Settings {
    Settings::read(path, &Sources { roots: &[], dotenv: &[], var: &|_| None })
}

fn named(name: &str, text: &str) -> String {
    format!("---\nname: {name}\ndescription: {text}\n---\n")
}

fn scan_all(sources: &SkillSources) -> Scan {
    let (roots, settings) = sources.resolve();
    scan(&roots, &Host { settings, ..host() })
}

#[cfg(unix)]
#[test]
fn the_higher_folder_wins() {
    let home = Home::new();
    // From the lowest to the highest.
    let places = [
        ("more", "extra"),
        (".openclaw/plugin-skills", "plugin"),
        ("lib/openclaw/skills", "bundled"),
        (".openclaw/agents/main/agent/workshop-skills", "workshop"),
        (".openclaw/skills", "managed"),
        (".agents/skills", "personal"),
        (".openclaw/workspace/.agents/skills", "project"),
        (".openclaw/workspace/skills", "workspace"),
        ("node/skills", "own"),
    ];
    home.put(".openclaw/openclaw.json", "{skills: {load: {extraDirs: ['~/more'],},},} // JSON5");
    home.put("lib/openclaw/package.json", "{}").put("lib/openclaw/openclaw.mjs", "#!/bin/sh\n");
    fs::create_dir_all(home.path().join("bin")).unwrap();
    std::os::unix::fs::symlink("../lib/openclaw/openclaw.mjs", home.path().join("bin/openclaw")).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(home.path().join("lib/openclaw/openclaw.mjs"), fs::Permissions::from_mode(0o755)).unwrap();
    let sources = SkillSources { own: vec![Root::skills(home.path().join("node/skills"))], openclaw: Some(surroundings(&home, &[])) };
    for (n, (place, what)) in places.iter().enumerate() {
        home.put(&format!("{place}/same/SKILL.md"), &named("same", what));
        home.put(&format!("{place}/only-{what}/SKILL.md"), &named(&format!("only-{what}"), what));
        let scan = scan_all(&sources);
        assert_eq!(scan.skill("same").unwrap().description, *what);
        assert_eq!(scan.skills.len(), n + 2, "{:?}", scan.rejected);
        let doubles = scan.rejected.iter().filter(|rejected| rejected.problem.code == "DUPLICATE_NAME").count();
        assert_eq!(doubles, n, "each of the others is told");
    }
    let scan = scan_all(&sources);
    let told = &scan.rejected.first().unwrap().problem.message;
    assert!(told.contains("node/skills/same"), "the winner is named: {told}");
    assert_eq!(scan.skill("only-personal").unwrap().source.name, "agents-skills-personal");
    let alone = SkillSources { openclaw: None, ..sources };
    assert_eq!(scan_all(&alone).skills.len(), 2, "without OpenClaw, only the node's own");
}

#[test]
fn the_environment_moves_the_folders() {
    let home = Home::new();
    let path = |name: &str| home.path().join(name).to_string_lossy().into_owned();
    let roots = |vars: &[(&str, &str)]| -> Vec<String> {
        let found = surroundings(&home, vars);
        let roots = found.openclaw_roots(&found.settings());
        roots.iter().map(|root| root.path.strip_prefix(home.path()).unwrap_or(&root.path).to_string_lossy().into_owned()).collect()
    };
    let has = |roots: &[String], path: &str| roots.iter().any(|root| root == path);
    let plain = roots(&[]);
    assert_eq!(
        plain,
        [
            ".openclaw/workspace/skills",
            ".openclaw/workspace/.agents/skills",
            ".agents/skills",
            ".openclaw/skills",
            ".openclaw/agents/main/agent/workshop-skills",
            ".openclaw/plugin-skills"
        ]
    );
    let state = roots(&[("OPENCLAW_STATE_DIR", &path("state"))]);
    assert!(has(&state, "state/skills") && has(&state, "state/workspace/skills") && !has(&state, ".agents/skills"), "{state:?}");
    let same = roots(&[("OPENCLAW_STATE_DIR", "~/.openclaw")]);
    assert!(has(&same, ".agents/skills"), "{same:?}");
    let moved = roots(&[("OPENCLAW_HOME", &path("other"))]);
    assert!(has(&moved, "other/.openclaw/skills") && has(&moved, ".agents/skills"), "{moved:?}");
    let profile = roots(&[("OPENCLAW_PROFILE", "work")]);
    assert!(has(&profile, ".openclaw-work/skills") && has(&profile, ".openclaw-work/workspace/skills"), "{profile:?}");
    let workspace = roots(&[("OPENCLAW_WORKSPACE_DIR", &path("space"))]);
    assert!(has(&workspace, "space/skills"), "{workspace:?}");
    let bundled = roots(&[("OPENCLAW_BUNDLED_SKILLS_DIR", &path("given"))]);
    assert!(has(&bundled, "given"), "{bundled:?}");
    home.put("conf/oc.json", r#"{"agents": {"list": [{"id": "a"}, {"id": "b", "default": true, "workspace": "~/bee"}]}}"#);
    let config = roots(&[("OPENCLAW_CONFIG_PATH", &path("conf/oc.json"))]);
    assert!(
        has(&config, "conf/skills") && has(&config, "bee/skills") && has(&config, ".openclaw/agents/b/agent/workshop-skills"),
        "{config:?}"
    );
}

#[test]
fn the_configuration_opens_and_closes() {
    let home = Home::new();
    home.put(
        ".openclaw/openclaw.json",
        r#"{
            // What a person writes.
            skills: {
                allowBundled: ["allowed", "by-key"],
                entries: {
                    off: { enabled: false },
                    keyed: { apiKey: "a secret", env: { EXTRA: "another", BLANK: "  " } },
                    referenced: { apiKey: { source: "env", provider: "default", id: "X" } },
                },
            },
            channels: { chat: { token: "third", empty: " ", zero: 0, none: {} } },
            browser: { enabled: false },
            env: { vars: { FROM_CONFIG: "x" } },
        }"#,
    );
    let skill = |name: &str, metadata: &str| format!("---\nname: {name}\ndescription: x\nmetadata: {{\"openclaw\": {metadata}}}\n---\n");
    let all = [
        ("off", "{}"),
        ("keyed", r#"{"primaryEnv": "KEY", "requires": {"env": ["KEY", "EXTRA", "TOKEN"]}}"#),
        ("referenced", r#"{"primaryEnv": "KEY", "requires": {"env": ["KEY"]}}"#),
        ("not-keyed", r#"{"primaryEnv": "KEY", "requires": {"env": ["KEY"]}}"#),
        ("by-other-name", r#"{"skillKey": "keyed", "requires": {"env": ["EXTRA"]}}"#),
        ("blank", r#"{"skillKey": "keyed", "requires": {"env": ["BLANK"]}}"#),
        ("from-config", r#"{"requires": {"env": ["FROM_CONFIG"]}}"#),
        (
            "true-paths",
            r#"{"requires": {"config": ["channels.chat.token", "channels.chat.none", "channels..chat", "browser.evaluateEnabled"]}}"#,
        ),
        (
            "false-paths",
            r#"{"requires": {"config": ["channels.chat.empty", "channels.chat.zero", "browser.enabled", "no.such", "__proto__"]}}"#,
        ),
    ];
    for (name, metadata) in all {
        home.put(&format!("node/skills/{name}/SKILL.md"), &skill(name, metadata));
    }
    for (name, metadata) in [("allowed", "{}"), ("keyed-bundle", r#"{"skillKey": "by-key"}"#), ("not-allowed", "{}")] {
        home.put(&format!("bundled/{name}/SKILL.md"), &skill(name, metadata));
    }
    let vars = [("OPENCLAW_BUNDLED_SKILLS_DIR".to_owned(), home.path().join("bundled").to_string_lossy().into_owned())];
    let openclaw = Surroundings { vars: vars.into(), ..surroundings(&home, &[]) };
    let sources = SkillSources { own: vec![Root::skills(home.path().join("node/skills"))], openclaw: Some(openclaw) };
    let scan = scan_all(&sources);
    let is_eligible = |name: &str| scan.skill(name).unwrap_or_else(|| panic!("{name}: {:?}", scan.rejected)).eligible;
    for name in ["keyed", "referenced", "by-other-name", "from-config", "true-paths", "allowed", "keyed-bundle"] {
        assert!(is_eligible(name), "{name} misses {:?}", scan.skill(name).unwrap().missing);
    }
    for name in ["off", "not-keyed", "blank", "false-paths", "not-allowed"] {
        assert!(!is_eligible(name), "{name}");
    }
    assert_eq!(scan.skill("false-paths").unwrap().missing.config.len(), 5);
    assert!(scan.skill("off").unwrap().blocked.as_ref().unwrap().contains("skills.entries.off.enabled"));
    let kept = format!("{:?} {:?}", read(&home.path().join(".openclaw/openclaw.json")), scan);
    for secret in ["a secret", "another", "third"] {
        assert!(!kept.contains(secret), "no secret is kept in memory");
    }
}

#[test]
fn a_broken_configuration_is_told_and_passed_over() {
    let home = Home::new();
    for text in
        ["{", "[]", "", "{\"skills\": 7, \"agents\": [], \"env\": null}", "{skills: {entries: [1], load: {extraDirs: {}}}}", "\u{0}"]
    {
        home.put("openclaw.json", text);
        let settings = read(&home.path().join("openclaw.json"));
        assert_eq!(settings.problem.is_some(), ["{", "", "\u{0}"].contains(&text), "{text:?}");
        assert!(settings.is_true("browser.enabled") && !settings.is_true("skills.entries.x"));
    }
    home.put("openclaw.json", &format!("{{\"token\": \"very-secret\", {}", "[".repeat(500)));
    let problem = read(&home.path().join("openclaw.json")).problem.unwrap();
    assert!(!problem.contains("very-secret"), "{problem}");
    fs::create_dir(home.path().join("dir")).unwrap();
    assert!(read(&home.path().join("dir")).problem.is_some());
    let absent = home.path().join("absent");
    let mut nothing = Settings::default();
    nothing.files.insert(absent.clone());
    assert_eq!(read(&absent), nothing);
}

#[cfg(unix)]
#[test]
fn links_are_free_where_openclaw_leaves_them_free() {
    use std::os::unix::fs::symlink;
    let home = Home::new();
    home.put("elsewhere/a/SKILL.md", &named("a", "x"))
        .put("elsewhere/b/SKILL.md", &named("b", "x"))
        .put("far/c/SKILL.md", &named("c", "x"));
    home.put(".openclaw/openclaw.json", "{skills: {load: {allowSymlinkTargets: ['~/far']}}}");
    for dir in [".openclaw/skills", ".openclaw/workspace/skills"] {
        fs::create_dir_all(home.path().join(dir)).unwrap();
    }
    symlink(home.path().join("elsewhere/a"), home.path().join(".openclaw/skills/a")).unwrap();
    symlink(home.path().join("elsewhere/b"), home.path().join(".openclaw/workspace/skills/b")).unwrap();
    symlink(home.path().join("far/c"), home.path().join(".openclaw/workspace/skills/c")).unwrap();
    let scan = scan_all(&SkillSources { own: Vec::new(), openclaw: Some(surroundings(&home, &[])) });
    assert_eq!(scan.skills.iter().map(|skill| skill.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(scan.rejected.iter().map(|rejected| rejected.problem.code).collect::<Vec<_>>(), ["SYMLINK_ESCAPE"]);
}

#[cfg(unix)]
#[test]
fn a_program_and_a_setting_that_appear_are_noticed() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let demands = r#"{"openclaw": {"requires": {"config": ["a.b"]}}}"#;
    home.put("skills/s/SKILL.md", &format!("---\nname: s\ndescription: x\nmetadata: {demands}\n---\n"));
    let own = vec![Root::skills(home.path().join("skills"))];
    let mut library = Library::open(SkillSources { own, openclaw: Some(surroundings(&home, &[])) });
    assert!(!library.current().skill("s").unwrap().eligible);
    home.put(".openclaw/openclaw.json", "{a: {b: 1}}");
    assert!(library.rescan_if_changed().unwrap().skill("s").unwrap().eligible);
    assert!(library.rescan_if_changed().is_none());

    let bin = home.path().join("bin");
    home.put("bin/a-tool", "#!/bin/sh\n");
    assert!(!gate::is_on_path("a-tool", bin.as_os_str()), "it may not be run yet");
    fs::set_permissions(bin.join("a-tool"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(gate::is_on_path("a-tool", bin.as_os_str()));
}

#[test]
fn included_files_variables_and_limits_count_as_in_openclaw() {
    let home = Home::new();
    home.put(
        ".openclaw/openclaw.json",
        r#"{
            "$include": ["./parts/base.json5", "parts/over.json"],
            skills: { load: { extraDirs: ["${SKILLS_HOME}/c", "$${LITERAL}", "${NOT_SET}/d", "${lower}"] } },
            agents: { $include: "parts/agents.json" },
            env: { vars: { INLINE: "${SKILLS_HOME}/i", SKILLS_HOME: "not this one" } },
        }"#,
    );
    home.put(
        ".openclaw/parts/base.json5",
        "{skills: {load: {extraDirs: ['a']}, entries: {x: {enabled: false}, y: {env: {E: '1'}}}, limits: {maxSkillFileBytes: 300}}} // base",
    );
    // Relative to the file that includes it.
    home.put(
        ".openclaw/parts/over.json",
        r#"{"$include": "deep/limits.json", "skills": {"load": {"extraDirs": ["b"]}, "entries": {"x": {"enabled": true}}}}"#,
    );
    home.put(".openclaw/parts/deep/limits.json", r#"{"skills": {"limits": {"maxSkillsLoadedPerSource": 2, "maxCandidatesPerRoot": 5}}}"#);
    home.put(".openclaw/parts/agents.json", r#"{"defaults": {"workspace": "~/w"}}"#);
    home.put(".openclaw/.env", "# keys\nSKILLS_HOME=/from/env-file\nexport FROM_FILE='a value'\nEMPTY=\nnot a line\nBASE=below\n");
    home.put(".config/openclaw/gateway.env", "BASE=not this\nFROM_SERVICE=1\n");
    let found = surroundings(&home, &[]);
    let settings = found.settings();
    assert_eq!(settings.problem, None);
    assert_eq!(settings.extra_dirs, ["a", "b", "/from/env-file/c", "${LITERAL}", "${NOT_SET}/d", "${lower}"]);
    assert!(settings.entries["x"].enabled && settings.entries["y"].env.contains("E"));
    assert_eq!(settings.workspace.as_deref(), Some("~/w"));
    for set in ["SKILLS_HOME", "FROM_FILE", "BASE", "FROM_SERVICE", "INLINE"] {
        assert!(settings.env.contains(set), "{set}: {:?}", settings.env);
    }
    assert!(!settings.env.contains("EMPTY"));
    assert!(!format!("{settings:?}").contains("a value"), "no value is kept");
    assert_eq!((settings.skills_max, settings.children_max, settings.file_bytes_max), (Some(2), Some(5), Some(300)));
    assert_eq!(settings.files.len(), 7, "{:?}", settings.files);
    assert!(found.openclaw_roots(&settings).iter().all(|r| (r.skills_max, r.children_max, r.file_bytes_max) == (2, 5, 300)));
    // The variables of the process come first.
    let process = surroundings(&home, &[("SKILLS_HOME", "/from/process")]);
    assert_eq!(process.settings().extra_dirs[2], "/from/process/c");

    for n in 0..4 {
        let padding = "x".repeat(if n == 1 { 400 } else { 0 });
        home.put(&format!(".openclaw/skills/s{n}/SKILL.md"), &(named(&format!("s{n}"), "y") + &padding));
    }
    let scan = scan_all(&SkillSources { own: vec![], openclaw: Some(found) });
    let names: Vec<&str> = scan.skills.iter().map(|s| s.name.as_str()).collect();
    let codes: Vec<&str> = scan.rejected.iter().map(|r| r.problem.code).collect();
    assert_eq!((names, codes), (vec!["s0", "s2"], vec!["TOO_LARGE", "TOO_MANY"]));
}

#[test]
fn includes_that_lead_elsewhere_or_nowhere_are_told_and_bounded() {
    let home = Home::new();
    home.put("secret.json", r#"{"skills": {"entries": {"leaked": {"enabled": false}}}}"#);
    home.put(".openclaw/loop.json", r#"{"$include": "./openclaw.json"}"#);
    home.put(".openclaw/broken.json", "{very-secret");
    home.put(".openclaw/list.json", "[1]");
    for n in 0..12 {
        home.put(&format!(".openclaw/deep{n}.json"), &format!(r#"{{"$include": "deep{}.json"}}"#, n + 1));
    }
    let found = surroundings(&home, &[]);
    let cases = [
        (r#"{"$include": "../secret.json"}"#, "not in the configuration's folder"),
        (r#"{"$include": "/etc/hostname"}"#, "not in the configuration's folder"),
        (r#"{"$include": "loop.json"}"#, "in turn"),
        (r#"{"$include": "absent.json"}"#, "cannot be read"),
        (r#"{"$include": "broken.json"}"#, "neither JSON nor JSON5"),
        (r#"{"$include": "deep0.json"}"#, "one file too many"),
        (r#"{"$include": 7}"#, "no text"),
        (r#"{"$include": ["list.json", 7]}"#, "no text"),
        (r#"{"$include": "list.json", "a": 1}"#, "keys beside"),
    ];
    for (text, why) in cases {
        home.put(".openclaw/openclaw.json", text);
        let problem = found.settings().problem.unwrap_or_else(|| panic!("{text} was taken"));
        assert!(problem.contains(why) && !problem.contains("very-secret"), "{text}: {problem}");
    }
    // Another folder may be allowed.
    home.put(".openclaw/openclaw.json", r#"{"$include": "../secret.json"}"#);
    let root = home.path().to_string_lossy().into_owned();
    assert!(!surroundings(&home, &[("OPENCLAW_INCLUDE_ROOTS", &root)]).settings().entries["leaked"].enabled);
}

#[test]
fn a_change_of_an_included_file_is_seen() {
    let home = Home::new();
    home.put(".openclaw/openclaw.json", r#"{"$include": "more.json"}"#).put(".openclaw/more.json", "{}");
    home.put(".openclaw/skills/a/SKILL.md", &named("a", "x"));
    let mut library = Library::open(SkillSources { own: vec![], openclaw: Some(surroundings(&home, &[])) });
    assert!(library.current().skill("a").is_some_and(|s| s.eligible) && library.rescan_if_changed().is_none());
    home.put(".openclaw/more.json", r#"{"skills": {"entries": {"a": {"enabled": false}}}}"#);
    assert!(library.rescan_if_changed().is_some_and(|scan| scan.skill("a").is_some_and(|s| !s.eligible)));
}
