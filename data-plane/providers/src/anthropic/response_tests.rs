//! Whole answers, block by block.

use keyforge_shared::usage::Usage;
use serde_json::{Value, json};

use super::*;
use crate::chat::response::Finish;
use crate::fault::FaultKind;

fn message(content: &Value, stop_reason: &str) -> String {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929", "content": content,
        "stop_reason": stop_reason, "stop_sequence": null, "usage": { "input_tokens": 5, "output_tokens": 9, "service_tier": "standard" }
    })
    .to_string()
}

fn memo() -> Memo {
    Memo { json_tool: Some("give_answer".to_owned()), ..Memo::default() }
}

/// What an answer says, in short.
fn read_short(body: &str, memo: &Memo) -> (Vec<String>, Finish) {
    let answer = read(body.as_bytes(), memo).unwrap();
    let [choice] = &answer.choices[..] else { panic!("one choice") };
    let short = |part: &Part<'_>| {
        let signature = part.signature.as_ref().map_or("", |signature| &signature.value);
        match &part.content {
            Content::Text(text) => format!("text {text}"),
            Content::ToolCall(call) => format!("call {} {} {}", call.id, call.name, call.arguments),
            Content::Thinking(text) => format!("thinking {text} {signature}"),
            Content::RedactedThinking(data) => format!("redacted {data} {signature}"),
            Content::Native { block, .. } => format!("native {}", block.get()),
            Content::Refusal(text) => format!("refusal {text}"),
            other => panic!("{other:?}"),
        }
    };
    (choice.parts.iter().map(short).collect(), choice.finish.clone())
}

#[test]
fn why_a_model_refused_is_said() {
    let body = message(&json!([]), "refusal").replace(
        r#""stop_sequence":null"#,
        r#""stop_sequence":null,"stop_details":{"type":"refusal","category":"cyber","explanation":"Not that."}"#,
    );
    assert_eq!(read_short(&body, &Memo::default()), (vec!["refusal Not that.".to_owned()], Finish::ContentFilter));
    let silent = message(&json!([]), "refusal");
    assert_eq!(read_short(&silent, &Memo::default()), (Vec::new(), Finish::ContentFilter));
}

#[test]
fn a_block_that_cannot_be_read_is_not_left_out_of_the_answer() {
    for block in [
        r#"{"type":"text","text":"ok \ud83d"}"#,
        r#"{"type":"thinking","thinking":"\udc00","signature":"s"}"#,
        r#"{"type":"tool_use","id":"t","name":"\ud83d","input":{}}"#,
        r#"{"type":"text","text":7}"#,
    ] {
        let body = message(&json!([]), "end_turn").replace("[]", &format!("[{block}]"));
        assert_eq!(read(body.as_bytes(), &Memo::default()).err(), Some(NotAnAnswer::Malformed), "{block}");
    }
    let unknown = message(&json!([{ "type": "later", "text": 7 }]), "end_turn");
    assert!(read(unknown.as_bytes(), &Memo::default()).is_ok());
}

#[test]
fn every_block_is_read_in_order() {
    let body = message(
        &json!([
            { "type": "thinking", "thinking": "hm", "signature": "s1" },
            { "type": "thinking", "thinking": "", "signature": "s2" },
            { "type": "redacted_thinking", "data": "xyz" },
            { "type": "text", "text": "a\n\u{e9}", "citations": null },
            { "type": "text", "text": "" },
            { "type": "tool_use", "id": "toolu_1", "name": "f", "input": { "x": [1] }, "caller": { "type": "direct" } },
            { "type": "tool_use", "id": "toolu_2", "name": "g", "input": {} },
            { "type": "web_search_tool_result", "tool_use_id": "s", "content": [] },
            7,
        ]),
        "tool_use",
    );
    let (parts, finish) = read_short(&body, &Memo::default());
    assert_eq!(
        parts,
        [
            "thinking hm s1",
            "thinking  s2",
            "redacted xyz xyz",
            "text a\né",
            r#"call toolu_1 f {"x":[1]}"#,
            "call toolu_2 g {}",
            r#"native {"content":[],"tool_use_id":"s","type":"web_search_tool_result"}"#,
            "native 7",
        ]
    );
    assert_eq!(finish, Finish::ToolCalls);
    let answer = read(body.as_bytes(), &Memo::default()).unwrap();
    assert_eq!((answer.id.as_str(), answer.model.as_str()), ("msg_1", "claude-sonnet-4-5-20250929"));
    assert_eq!(answer.usage, Some(Usage { input: 5, output: 9, ..Usage::default() }));
}

#[test]
fn stop_reasons_have_their_meaning() {
    for (reason, expected) in [
        ("end_turn", Finish::Stop),
        ("stop_sequence", Finish::Stop),
        ("max_tokens", Finish::Length),
        ("model_context_window_exceeded", Finish::Length),
        ("refusal", Finish::ContentFilter),
        ("pause_turn", Finish::Other("pause_turn".to_owned())),
    ] {
        let (parts, finish) = read_short(&message(&json!([]), reason), &Memo::default());
        assert_eq!((parts.len(), finish), (0, expected), "{reason}");
    }
}

#[test]
fn the_call_that_stands_for_a_form_is_the_text() {
    let answer = json!({ "type": "tool_use", "id": "t", "name": "give_answer", "input": { "a": 1 } });
    let (parts, finish) = read_short(&message(&json!([answer]), "tool_use"), &memo());
    assert_eq!((parts.as_slice(), finish), (&[r#"text {"a":1}"#.to_owned()][..], Finish::Stop));
    let (parts, _) = read_short(&message(&json!([answer, answer]), "tool_use"), &memo());
    assert_eq!(parts.len(), 1);
    let words = json!({ "type": "text", "text": "Sure:" });
    let (parts, _) = read_short(&message(&json!([words, answer]), "tool_use"), &memo());
    assert_eq!(parts, [r#"text {"a":1}"#], "words besides are no part of the form");
    let (parts, _) = read_short(&message(&json!([words]), "end_turn"), &memo());
    assert_eq!(parts, ["text Sure:"], "without the call they are the answer");
    let call = json!({ "type": "tool_use", "id": "u", "name": "f", "input": {} });
    let (parts, finish) = read_short(&message(&json!([call]), "tool_use"), &memo());
    assert_eq!((parts.as_slice(), finish), (&["call u f {}".to_owned()][..], Finish::ToolCalls));
}

#[test]
fn what_is_no_answer_is_told_apart() {
    let refused = read(br#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, &memo());
    let Err(NotAnAnswer::Refused(fault)) = refused else { panic!("{refused:?}") };
    assert_eq!((fault.kind, fault.in_answer), (FaultKind::Overloaded, true));
    for (body, expected) in [
        ("", NotAnAnswer::Malformed),
        ("[]", NotAnAnswer::Malformed),
        ("<html>", NotAnAnswer::Malformed),
        (r#"{"content":[]"#, NotAnAnswer::Malformed),
        ("{}", NotAnAnswer::NoChoices),
        (r#"{"content":"x"}"#, NotAnAnswer::NoChoices),
    ] {
        assert_eq!(read(body.as_bytes(), &memo()).unwrap_err(), expected, "{body}");
    }
}

#[test]
fn an_answer_that_says_little_is_still_an_answer() {
    let answer = read(
        br#"{"id":7,"content":[{"type":"text","text":"x"}],"usage":{"input_tokens":4,"output_tokens":0}}"#,
        &memo(),
    );
    let answer = answer.unwrap();
    assert_eq!((answer.id.as_str(), answer.model.as_str(), answer.usage), ("", "", None));
    assert_eq!(answer.choices[0].finish, Finish::Stop);
}
