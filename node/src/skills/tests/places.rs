//! OpenClaw's folders and configuration on a machine that is made up.

use super::*;
use std::collections::BTreeMap;

fn surroundings(home: &Home, vars: &[(&str, &str)]) -> Surroundings {
    Surroundings {
        vars: vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>(),
        home: home.path().to_owned(),
        path: home.path().join("bin").into_os_string(),
    }
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
        let roots = found.openclaw_roots(&Settings::read(&found.config()));
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
    let kept = format!("{:?} {:?}", Settings::read(&home.path().join(".openclaw/openclaw.json")), scan);
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
        let settings = Settings::read(&home.path().join("openclaw.json"));
        assert_eq!(settings.problem.is_some(), ["{", "", "\u{0}"].contains(&text), "{text:?}");
        assert!(settings.is_true("browser.enabled") && !settings.is_true("skills.entries.x"));
    }
    home.put("openclaw.json", &format!("{{\"token\": \"very-secret\", {}", "[".repeat(500)));
    let problem = Settings::read(&home.path().join("openclaw.json")).problem.unwrap();
    assert!(!problem.contains("very-secret"), "{problem}");
    fs::create_dir(home.path().join("dir")).unwrap();
    assert!(Settings::read(&home.path().join("dir")).problem.is_some());
    assert_eq!(Settings::read(&home.path().join("absent")), Settings::default());
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
