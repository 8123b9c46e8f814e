use serde_json::{Value, json};

use super::{
    args::{Submit, Wait, wait_of},
    tools,
    views::{Excerpt, Part},
};

fn part(offset: Option<usize>, max: usize) -> Part {
    Part { offset, max, base64: false }
}

#[test]
fn every_tool_has_schemas_descriptions_and_hints() {
    let all = tools::all();
    let names: Vec<&str> = all.iter().map(|t| t.name.as_ref()).collect();
    assert_eq!(names, ["submit", "wait", "status", "result", "cancel", "list_nodes", "list_skills", "run_skill"]);
    for tool in &all {
        let input = tool.schema_as_json_value();
        assert_eq!(input["type"], "object", "{}: {input}", tool.name);
        assert_eq!(input["additionalProperties"], false, "{}: {input}", tool.name);
        let properties = input["properties"].as_object().unwrap();
        assert!(!properties.is_empty(), "{}", tool.name);
        for (name, p) in properties {
            assert!(p["description"].as_str().is_some_and(|d| d.len() > 10), "{}.{name}: {p}", tool.name);
        }
        let text = input.to_string();
        assert!(!text.contains("null") && !text.contains("uint"), "{}: {text}", tool.name);
        assert!(tool.output_schema.as_ref().is_some_and(|s| s["type"] == "object"), "{}", tool.name);
        let hints = tool.annotations.as_ref().unwrap();
        assert!(
            [hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint].iter().all(Option::is_some),
            "{}",
            tool.name
        );
    }
}

#[test]
fn a_short_stream_is_shown_whole_and_a_long_one_by_its_ends() {
    let whole = Excerpt::of(b"abc", 0, part(None, 3));
    assert_eq!((whole.text.as_str(), whole.truncated, whole.bytes), ("abc", false, 3));
    let ends = Excerpt::of(b"0123456789", 7, part(None, 4));
    assert!(ends.text.starts_with("01\n") && ends.text.ends_with("\n89") && ends.text.contains("6 bytes"), "{}", ends.text);
    assert_eq!((ends.truncated, ends.bytes, ends.lost), (true, 10, 7));
}

#[test]
fn a_part_is_shown_from_its_offset_and_never_splits_a_character() {
    let text = "aüöä";
    let mut offset = 0;
    let mut seen = String::new();
    loop {
        let piece = Excerpt::of(text.as_bytes(), 0, part(Some(offset), 2));
        seen.push_str(&piece.text);
        match piece.next_offset {
            Some(next) => offset = next,
            None => break,
        }
    }
    assert_eq!(seen, text);
    let beyond = Excerpt::of(b"abc", 0, part(Some(99), 5));
    assert_eq!((beyond.text.as_str(), beyond.next_offset), ("", None));
    // One byte of a character of two has to be shown at last, or a reader never gets on.
    assert!(Excerpt::of("ü".as_bytes(), 0, part(Some(0), 1)).next_offset.is_some_and(|n| n > 0));
}

proptest::proptest! {
    /// Whoever reads on from `next_offset` reads everything once, whatever the bytes and however small the parts.
    #[test]
    fn parts_in_a_row_are_the_whole(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300), max in 1_usize..50) {
        let (mut at, mut all) = (0, Vec::new());
        loop {
            let piece = Excerpt::of(&bytes, 0, Part { offset: Some(at), max, base64: true });
            all.extend(data_encoding::BASE64.decode(piece.text.as_bytes()).unwrap());
            match piece.next_offset {
                Some(next) => {
                    proptest::prop_assert!(next > at && next <= at + max);
                    at = next;
                }
                None => break,
            }
        }
        proptest::prop_assert_eq!(all, bytes);
    }

    /// No part of a text has a character cut in two, when the parts are at least as long as a character.
    #[test]
    fn parts_of_a_text_are_texts(text in ".{0,80}", max in 4_usize..20) {
        let (mut at, mut all) = (Some(0), String::new());
        while let Some(offset) = at {
            let piece = Excerpt::of(text.as_bytes(), 0, part(Some(offset), max));
            all.push_str(&piece.text);
            at = piece.next_offset;
        }
        proptest::prop_assert_eq!(&all, &text);
        // Each end is half of what may be shown.
        let ends = Excerpt::of(text.as_bytes(), 0, part(None, 2 * max));
        proptest::prop_assert!(!ends.text.contains('\u{fffd}') || text.contains('\u{fffd}'), "{}", ends.text);
    }
}

#[test]
fn an_address_of_the_network_is_refused() {
    for good in ["8887", "127.0.0.1:0", "[::1]:5"] {
        assert!(super::loopback(good).is_ok(), "{good}");
    }
    for bad in ["0.0.0.0:1", "192.168.1.1:80", "[::]:1", "localhost", "70000", ""] {
        assert!(super::loopback(bad).is_err(), "{bad}");
    }
}

#[test]
fn bytes_that_are_no_text_are_said_to_be_none() {
    let shown = Excerpt::of(b"\xff\xfe", 0, part(None, 9));
    assert!(shown.binary);
    let exact = Excerpt::of(b"\xff\xfe", 0, Part { offset: None, max: 9, base64: true });
    assert_eq!(exact.text, "//4=");
}

#[test]
fn a_submit_names_one_thing_to_do() {
    let body = |args: Value| serde_json::from_value::<Submit>(args).unwrap().body("k", None);
    for wrong in [
        json!({}),
        json!({"command": ["a"], "skill": "b"}),
        json!({"command": ["a"], "prompt": "b"}),
        json!({"skill": "s", "input": 1, "input_text": "x"}),
    ] {
        assert_eq!(body(wrong.clone()).unwrap_err().code, "invalid", "{wrong}");
    }
    let skill = body(json!({"skill": "s", "input": {"a": 1}, "timeout_seconds": 1.5, "priority": "high"})).unwrap();
    assert_eq!((&skill["input"], &skill["timeout_ms"], &skill["priority"]), (&json!("{\"a\":1}"), &json!(1500), &json!("high")));
    assert!(skill.get("prompt").is_none(), "a node that knows no prompts must not be asked about one");
    let prompt = body(json!({"prompt": "hello", "skill": "s"})).unwrap();
    assert_eq!((&prompt["prompt"], &prompt["skill"]), (&json!("hello"), &json!("s")));
    for (name, value) in [("priority", json!("soon")), ("timeout_seconds", json!(-1)), ("timeout_seconds", json!(1e300))] {
        let mut args = json!({"skill": "s"});
        args[name] = value;
        assert!(body(args).unwrap_err().what.contains(name));
    }
}

#[test]
fn waits_are_bounded() {
    for wrong in [-1.0, 45.1, f64::NAN, f64::INFINITY] {
        assert!(wait_of(Some(wrong), super::WAIT_MAX).is_err(), "{wrong}");
    }
    assert!(super::WAIT_MAX < super::CALL_MAX && super::CALL_MAX.as_secs() < 50);
    let many = Wait { tasks: (0..51).map(|i| i.to_string()).collect(), ..Wait::default() };
    assert!(many.ids().is_err() && Wait::default().ids().is_err());
    let twice = Wait { task: Some("a".into()), tasks: vec![" a ".into()], ..Wait::default() };
    assert_eq!(twice.ids().unwrap(), ["a"]);
}
