//! Real skills: OpenClaw's verdicts on forty of them, and those that come with the program.

use super::*;
use serde_json::Value;

/// Forty real files with what OpenClaw 2026.9.6 itself said about them. They are third-party text and not part of this repository.
#[test]
fn verdicts_agree_with_openclaw_on_the_samples() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/skills-sample");
    let samples = std::env::var_os("CLAWMESH_SKILL_SAMPLES").map_or(samples, PathBuf::from);
    if !samples.is_dir() {
        println!("SKIPPED: {} is not there; set CLAWMESH_SKILL_SAMPLES to the folder with the samples", samples.display());
        return;
    }
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(&samples).unwrap() {
        let dir = entry.unwrap().path();
        let Ok(expected) = fs::read(dir.join("expected.json")) else {
            continue;
        };
        count += 1;
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        for difference in differences(&dir, &expected) {
            wrong.push(format!("{}: {difference}", dir.display()));
        }
    }
    assert!(count >= 40, "only {count} samples");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn differences(dir: &Path, expected: &Value) -> Vec<String> {
    let text = |key: &str| expected[key].as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| -> Vec<String> {
        value.as_array().map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect()).unwrap_or_default()
    };
    let mut differences = Vec::new();
    let mut compare = |what: &str, ours: String, theirs: String| {
        if ours != theirs {
            differences.push(format!("{what}: ours {ours}, OpenClaw's {theirs}"));
        }
    };
    let verdict = text("verdict");
    let parsed =
        folder::read(dir, folder::SKILL_FILE_BYTES_MAX).and_then(|text| frontmatter::parse(&text).map_err(|refused| refused.problem));
    let ours = match &parsed {
        Err(problem) => format!("reject:{}", problem.code),
        Ok(fields) if fields.get("description").is_none_or(String::is_empty) => "reject:NO_DESCRIPTION".to_owned(),
        Ok(_) => "ok".to_owned(),
    };
    compare("verdict", ours, verdict.clone());
    let Ok(fields) = parsed else {
        return differences;
    };
    if verdict != "ok" {
        return differences;
    }
    let mut keys: Vec<String> = fields.keys().cloned().collect();
    let mut wanted = list(&expected["keys"]);
    keys.sort();
    wanted.sort();
    compare("keys", format!("{keys:?}"), format!("{wanted:?}"));
    compare("name", fields.get("name").cloned().unwrap_or_default(), text("name"));
    compare("description", fields["description"].clone(), text("description"));
    let manifest = openclaw::from_metadata(&openclaw::metadata(&fields));
    compare("hasManifest", manifest.present.to_string(), expected["hasManifest"].to_string());
    compare("always", manifest.always.to_string(), expected["always"].to_string());
    compare("os", format!("{:?}", manifest.os), format!("{:?}", list(&expected["os"])));
    let requires = &expected["requires"];
    let theirs = ["bins", "anyBins", "env", "config"].map(|key| list(&requires[key]));
    let ours = [&manifest.requires.bins, &manifest.requires.any_bins, &manifest.requires.env, &manifest.requires.config];
    compare("requires", format!("{ours:?}"), format!("{:?}", theirs.each_ref()));
    differences
}

/// Runs one of the skills that come with the program, as a worker would.
#[cfg(unix)]
async fn run_sample(name: &str, input: &[u8]) -> crate::exec::Exit {
    use crate::exec::{Executor, Job, JobKey, OUTPUT_CAP_DEFAULT, Settings, Work};
    let scan =
        scan(&[Root::skills(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/skills"))], &Host::current(super::Settings::default()));
    assert_eq!(scan.rejected, []);
    let skill = scan.skill(name).unwrap();
    assert!(skill.eligible && skill.shareable, "{name} misses {:?}", skill.missing.phrases());
    let run = skill.run.clone().unwrap();
    let home = tempfile::tempdir().unwrap();
    let (executor, mut exits) = Executor::new(Settings::default(), tokio::runtime::Handle::current());
    let work = Work::Skill { dir: skill.dir.clone(), run: run.argv, input: run.input, stdin: input.to_vec(), json_output: run.json_output };
    let key = JobKey { task: "sample".to_owned(), attempt: 1, issue: String::new() };
    let dir_root = home.path().join("work");
    executor
        .start(Job {
            key,
            work,
            timeout: run.timeout,
            fence: "1".into(),
            env: vec![],
            dir_root: dir_root.clone(),
            output_cap: OUTPUT_CAP_DEFAULT,
            files: crate::exec::Files::default(),
        })
        .unwrap();
    let (_, exit) = tokio::time::timeout(Duration::from_secs(30), exits.recv()).await.unwrap().unwrap();
    let removed = async {
        while fs::read_dir(&dir_root).unwrap().any(|entry| !entry.unwrap().file_name().to_string_lossy().starts_with('.')) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), removed).await.expect("the removal of the directory");
    exit
}

#[cfg(unix)]
#[tokio::test]
async fn word_count_counts() {
    let text = "To be, or not to be:\nthat is the question. \"Übung\" 'x' $HOME \\ %s\n";
    let exit = run_sample("word-count", text.as_bytes()).await;
    assert_eq!(exit.kind, crate::exec::Kind::Done, "{}", exit.reason);
    let answer: Value = serde_json::from_slice(&exit.stdout).unwrap();
    assert_eq!((&answer["lines"], &answer["words"], &answer["bytes"]), (&2.into(), &15.into(), &text.len().into()));
    assert_eq!(answer["top"].as_array().unwrap().len(), 10);
    assert_eq!(answer["top"][0], serde_json::json!({"word": "be", "count": 2}));
    assert_eq!(answer["top"][1], serde_json::json!({"word": "to", "count": 2}));

    let empty = run_sample("word-count", b"").await;
    assert_eq!(empty.stdout, b"{\"lines\":0,\"words\":0,\"bytes\":0,\"top\":[]}\n");
    // Nothing but separators, and bytes that are no text.
    for odd in [b"... \n---\n".as_slice(), b"\xff\xfe\0\x01 a"] {
        assert_eq!(run_sample("word-count", odd).await.kind, crate::exec::Kind::Done);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn file_digest_digests_and_refuses() {
    let home = Home::new();
    home.put("-n it's \\ \"odd\"", "abc");
    let path = home.path().join("-n it's \\ \"odd\"");
    let exit = run_sample("file-digest", path.to_string_lossy().as_bytes()).await;
    assert_eq!(exit.kind, crate::exec::Kind::Done, "{}", exit.reason);
    let answer: Value = serde_json::from_slice(&exit.stdout).unwrap();
    assert_eq!(answer["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(answer["bytes"], 3);

    for (input, words) in [("relative", "not absolute"), ("", "empty"), ("/no/such/file", "no file"), ("/", "not a regular file")] {
        let exit = run_sample("file-digest", input.as_bytes()).await;
        assert_eq!((exit.kind, exit.code), (crate::exec::Kind::Failed, Some(2)));
        assert!(exit.reason.contains(words), "{}", exit.reason);
    }
}
