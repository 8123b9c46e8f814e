//! What OpenClaw 2026.9.6 itself says about a hundred small files (`openclaw.json` beside this file), and texts nobody has thought of.

use super::*;
use serde_json::Value;

#[test]
fn verdicts_agree_with_openclaw_on_a_hundred_cases() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("openclaw.json")).unwrap();
    assert_eq!(cases.len(), 100);
    let home = Home::new();
    let mut wrong = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        home.put(&format!("{n:03}/the-folder/SKILL.md"), case["text"].as_str().unwrap());
    }
    let reports = check(home.path(), &host(), false);
    assert_eq!(reports.len(), 100);
    for (case, report) in cases.iter().zip(&reports) {
        let ours = serde_json::to_value(report).unwrap();
        for key in ["verdict", "code", "name", "description", "requires", "always"] {
            if case.get(key).is_some_and(|theirs| *theirs != ours[key]) {
                wrong.push(format!("{}: {key} is {}, OpenClaw's is {}", case["case"], ours[key], case[key]));
            }
        }
        // Ours says `darwin` where the author wrote `macos`.
        let theirs: Vec<String> = openclaw::strings(case.get("os"));
        let (theirs, notes) = gate::normalise_os(&theirs);
        if (&theirs, &notes) != (&report.os, &report.notes) {
            wrong.push(format!("{}: os is {:?} with {:?}, not {theirs:?}", case["case"], report.os, report.notes));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Pieces that mean something to YAML, in any order.
fn soup() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let pieces = [
        "a",
        "description",
        ": ",
        ":",
        "\n",
        "\n  ",
        "\n    ",
        "\n\t",
        " ",
        "\t",
        "- ",
        "? ",
        "#",
        " # ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "\"",
        "'",
        "\\",
        "|",
        ">",
        "|+2\n",
        ">-\n",
        "&a ",
        "*a",
        "!!str ",
        "!x ",
        "%TAG",
        "---",
        "...",
        "\n...\n",
        "1.0",
        "~",
        "true",
        "0x1F",
        "@",
        "`",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "é",
        "😀",
        "\\u12",
        "\\ud83d",
        "\0",
        "<<: *a\n",
        "\ndescription: a: b\n",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..60).prop_map(|pieces| pieces.concat())
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_soup_is_read_or_refused(soup in soup()) {
        let read = frontmatter::parse(&format!("---\n{soup}\n---\n"));
        if let Err(refused) = read {
            proptest::prop_assert!(!refused.problem.code.is_empty());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let _ = frontmatter::parse(&String::from_utf8_lossy(&bytes));
        let _ = frontmatter::parse(&format!("---\n{}\n---\n", String::from_utf8_lossy(&bytes)));
    }

    #[test]
    fn any_json_text_is_a_manifest_or_none(text in "[\\[\\]{}\"':,a-z0-9 \\\\/*-]{0,60}") {
        let fields = frontmatter::Fields::from([("metadata".to_owned(), text)]);
        let _ = openclaw::from_metadata(&openclaw::metadata(&fields));
    }
}

/// The largest files that are read at all, made of what costs most.
#[test]
fn the_worst_front_matter_costs_little() {
    let size = 250_000;
    let many = |piece: &str| piece.repeat(size / piece.len());
    let keys: String = (0..20_000).map(|n| format!("key{n}: v\n")).collect();
    let texts = [
        many("["),
        many("{a: "),
        many("- "),
        many("? "),
        many("a: &a\n"),
        many(" #\n"),
        many("#\n"),
        many("\"\\\\\" "),
        many("'"),
        many("\"a\n"),
        many(": "),
        many("a, "),
        format!("x: [{}]", many("a, ")),
        format!("x: {{{}}}", many("a: b, ")),
        format!("x: &a [{}]\ny: [{}]", many("b, "), "*a, ".repeat(90)),
        format!("description: {}", many("a: ")),
        format!("description: \"{}", many("\n")),
        format!("x: |\n{}", many("\n ")),
        keys,
    ];
    for text in texts {
        let started = std::time::Instant::now();
        let _ = frontmatter::parse(&format!("---\ndescription: x\n{text}\n---\n"));
        let took = started.elapsed();
        // Two seconds are a hundred times what it takes; a square of the size would be minutes.
        assert!(took < Duration::from_secs(20), "{:?} took {took:?}", text.chars().take(30).collect::<String>());
    }
}
