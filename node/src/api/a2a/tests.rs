use clawmesh_protocol::face::SkillView;
use serde_json::{Value, json};

use super::{message::work, types::SendParams};

fn skills() -> Vec<SkillView> {
    let skill = |name: &str, runnable: bool| SkillView {
        name: name.into(),
        hash: String::new(),
        version: String::new(),
        description: String::new(),
        category: String::new(),
        tags: Vec::new(),
        runnable,
        nodes: Vec::new(),
        ..SkillView::default()
    };
    vec![skill("word-count", true), skill("review", false)]
}

fn task(params: Value) -> Result<Value, i32> {
    let params: SendParams = serde_json::from_value(params).unwrap();
    work(&params, &skills()).map_err(|f| f.code)
}

fn text(text: &str) -> Value {
    json!({ "message": { "parts": [{ "text": text }] } })
}

#[test]
fn a_message_means_a_skill_by_its_metadata_or_by_its_first_word() {
    let by_metadata = json!({ "message": { "parts": [{ "data": { "a": 1 } }], "metadata": { "skillId": "word-count" } } });
    assert_eq!(task(by_metadata), Ok(json!({ "skill": "word-count", "input": "{\"a\":1}" })));
    let of_the_request = json!({ "message": { "parts": [{ "text": "to be" }] }, "metadata": { "skillId": "word-count" } });
    assert_eq!(task(of_the_request), Ok(json!({ "skill": "word-count", "input": "to be" })));
    assert_eq!(task(text("$word-count to be\nor not")), Ok(json!({ "skill": "word-count", "input": "to be\nor not" })));
    assert_eq!(task(text("$echo {}")), Ok(json!({ "skill": "echo", "input": "{}" })));
    assert_eq!(task(text("$review this")), Ok(json!({ "skill": "review", "prompt": "this" })), "an agent's skill is done by one");
}

#[test]
fn other_text_is_a_prompt() {
    assert_eq!(task(text("what is new?")), Ok(json!({ "prompt": "what is new?" })));
    assert_eq!(task(text("$5 is cheap")), Ok(json!({ "prompt": "$5 is cheap" })), "no skill has this name");
    let both = json!({ "message": { "parts": [{ "kind": "text", "text": "sum" }, { "kind": "data", "data": { "a": 1 } }] } });
    assert_eq!(task(both), Ok(json!({ "prompt": "sum\n{\"a\":1}" })));
}

#[test]
fn what_cannot_be_done_is_refused() {
    let unknown = json!({ "message": { "parts": [{ "text": "x" }], "metadata": { "skillId": "wrod-count" } } });
    assert_eq!(task(unknown), Err(-32602));
    assert_eq!(task(json!({ "message": { "parts": [] } })), Err(-32602));
    assert_eq!(task(text("  ")), Err(-32602));
    assert_eq!(task(json!({ "message": { "parts": [{ "data": 1 }] } })), Err(-32602), "data for whom?");
    for file in [json!({ "url": "http://x" }), json!({ "raw": "AA==" }), json!({ "kind": "file", "file": {} })] {
        assert_eq!(task(json!({ "message": { "parts": [file] } })), Err(-32005));
    }
    assert_eq!(task(json!({ "message": { "parts": vec![json!({ "text": "x" }); 65] } })), Err(-32602));
}

#[test]
fn waiting_is_the_default_in_both_versions() {
    let waits = |configuration: Value| {
        let params = json!({ "message": { "parts": [] }, "configuration": configuration });
        serde_json::from_value::<SendParams>(params).unwrap().waits()
    };
    assert!(waits(Value::Null) && waits(json!({})) && waits(json!({ "returnImmediately": false })) && waits(json!({ "blocking": true })));
    assert!(!waits(json!({ "returnImmediately": true })) && !waits(json!({ "blocking": false })));
}
