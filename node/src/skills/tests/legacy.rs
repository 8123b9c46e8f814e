//! Folders of the system before this one.

use super::*;

fn legacy(json: &str) -> Result<Skill, String> {
    let home = Home::new();
    home.put("dir-name/skill.json", json).put("dir-name/main.py", "");
    the_one(&home)
}

#[test]
fn a_skill_json_is_a_skill() {
    let skill = legacy(
        r#"{
            "name": "analysis", "version": "1.2.0", "description": "Analyses data.", "category": "data_processing",
            "tags": ["data", "csv"], "dependencies": {"python-execution": ">=1.0.0", "files": "*"}, "entry_point": "main.py",
            "parameters": {"path": {"type": "string"}}, "author": {"name": "somebody"}
        }"#,
    )
    .unwrap();
    assert_eq!((skill.name.as_str(), skill.description.as_str()), ("analysis", "Analyses data."));
    assert_eq!((skill.version.as_deref(), skill.category.as_deref()), (Some("1.2.0"), Some("data_processing")));
    assert_eq!((skill.tags.len(), skill.depends.join(", ")), (2, "files, python-execution >=1.0.0".to_owned()));
    let run = skill.run.unwrap();
    assert_eq!((run.argv.join(" "), run.input), ("python3 {baseDir}/main.py".to_owned(), SkillInput::Json));
    assert!(skill.eligible && skill.shareable);
}

#[test]
fn only_what_is_clear_becomes_a_command() {
    let run = |value: &str| legacy(&format!(r#"{{"description": "x", "run": {value}}}"#)).unwrap().run.map(|run| run.argv.join("|"));
    assert_eq!(run(r#"["node", "index.js"]"#).as_deref(), Some("node|index.js"));
    assert_eq!(run(r#""./scripts/run.sh""#).as_deref(), Some("sh|{baseDir}/scripts/run.sh"));
    for unclear in [
        r#""python3 main.py --all""#,
        r#""/bin/sh.sh""#,
        r#""../x.py""#,
        r#""main:handler""#,
        r#""main""#,
        "[]",
        "[1]",
        "7",
        "{}",
        r#""-x.py""#,
    ] {
        assert_eq!(run(unclear), None, "{unclear}");
    }
}

#[test]
fn any_form_is_read_as_far_as_it_goes() {
    assert_eq!(legacy(r#"{"description": "x"}"#).unwrap().name, "dir-name");
    let odd = legacy(
        r#"{"name": 7, "summary": "x", "version": 2, "tags": "a, b", "dependencies": ["a", {"name": "b", "version": "^1"}, 3, null]}"#,
    )
    .unwrap();
    assert_eq!((odd.name.as_str(), odd.version.as_deref(), odd.depends.join(",")), ("7", Some("2"), "a,b ^1,3".to_owned()));
    let kinds = legacy(r#"{"description": "x", "dependencies": {"python": ["numpy"], "npm": {}}}"#).unwrap();
    assert!(kinds.depends.is_empty(), "packages are no skills");
    assert_eq!(legacy("{}").unwrap_err(), "NO_DESCRIPTION");
    for bad in ["", "[]", "{", "7"] {
        assert_eq!(legacy(bad).unwrap_err(), "BAD_SKILL_JSON", "{bad:?}");
    }
}

#[test]
fn a_skill_md_beside_it_wins() {
    let home = Home::new();
    home.put("s/SKILL.md", "---\nname: new\ndescription: from the new file\nversion: 2.0.0\n---\n");
    home.put(
        "s/skill.json",
        r#"{"name": "old", "description": "y", "version": "1.0.0", "category": "system", "tags": ["t"], "run": ["sh"]}"#,
    );
    let scan = home.scan();
    let skill = scan.skill("new").unwrap();
    assert_eq!((skill.description.as_str(), skill.version.as_deref()), ("from the new file", Some("2.0.0")));
    assert_eq!((skill.category.as_deref(), skill.tags.join(",")), (Some("system"), "t".to_owned()));
    assert!(skill.run.is_none(), "what runs is told by the new file alone");
    home.put("s/skill.json", "{ broken");
    assert!(home.scan().skill("new").is_some(), "a broken old file does no harm");
    // OpenClaw does not know the old file: what lies below is found as there.
    home.put("t/skill.json", r#"{"name": "outer", "description": "y"}"#).put("t/inner/SKILL.md", "---\nname: inner\ndescription: x\n---\n");
    let names: Vec<String> = home.scan().skills.into_iter().map(|skill| skill.name).collect();
    assert_eq!(names, ["inner", "new", "outer"]);
    let listed = |with_json| check(home.path(), &host(), with_json).len();
    assert_eq!((listed(false), listed(true)), (2, 3));
}
