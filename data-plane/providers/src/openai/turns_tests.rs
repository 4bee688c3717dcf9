//! Messages and the thoughts in them, read into the hub form.

use std::borrow::Cow;

use serde_json::json;

use super::super::conversation::read;
use super::super::conversation::tests::{messages, refused, text_of, with};
use crate::chat::request::{CacheMark, Content, Maker, Role, Signature, ToolChoice};

#[test]
fn every_role_becomes_a_turn_and_results_in_a_row_become_one() {
    let conversation = json!([
        { "role": "system", "content": "s" },
        { "role": "developer", "content": [{ "type": "text", "text": "d" }, "bare"] },
        { "role": "user", "name": "ann", "content": "u" },
        { "role": "assistant", "content": null, "refusal": null, "audio": null, "function_call": null, "annotations": [], "tool_calls": [
            { "id": "a", "type": "function", "index": 0, "function": { "name": "f", "arguments": "{\"x\":1}" } },
            { "id": "b", "type": "function", "function": { "name": "g", "arguments": "" } },
        ] },
        { "role": "tool", "tool_call_id": "a", "content": "1" },
        { "role": "tool", "tool_call_id": "b", "content": [{ "type": "text", "text": "2" }, { "type": "image_url", "image_url": { "url": "https://x/y" } }] },
        { "role": "user", "content": "" },
        { "role": "assistant", "content": "", "refusal": "no" },
    ]);
    messages(conversation, |request| {
        let shape: Vec<_> = request.turns.iter().map(|turn| (turn.role, turn.parts.len(), turn.at)).collect();
        let expected = [
            (Role::System, 1, 0),
            (Role::Developer, 2, 1),
            (Role::User, 1, 2),
            (Role::Assistant, 2, 3),
            (Role::User, 2, 4),
            (Role::User, 0, 6),
            (Role::Assistant, 1, 7),
        ];
        assert_eq!(shape, expected);
        assert_eq!(request.turns[2].name.as_deref(), Some("ann"));
        let Content::ToolCall(call) = &request.turns[3].parts[1].content else { panic!() };
        assert_eq!((&*call.id, &*call.name, &*call.arguments), ("b", "g", "{}"));
        let Content::ToolResult(result) = &request.turns[4].parts[1].content else { panic!() };
        assert_eq!((&*result.call_id, result.name.as_deref(), result.parts.len()), ("b", Some("g"), 2));
        assert!(matches!(&request.turns[6].parts[0].content, Content::Refusal(text) if text == "no"));
    });
}

#[test]
fn the_old_form_of_calls_gets_ids() {
    let conversation = json!([
        { "role": "user", "content": "u" },
        { "role": "assistant", "content": null, "function_call": { "name": "f", "arguments": "{}" } },
        { "role": "function", "name": "f", "content": "1" },
    ]);
    messages(conversation, |request| {
        let Content::ToolCall(call) = &request.turns[1].parts[0].content else { panic!() };
        let Content::ToolResult(result) = &request.turns[2].parts[0].content else { panic!() };
        assert_eq!((&call.id, result.name.as_deref()), (&result.call_id, Some("f")));
    });
    let body = with(json!({ "messages": [{ "role": "function", "name": "f", "content": "1" }] }));
    assert_eq!(refused(&body).0, "messages[0]");
    let body = with(json!({ "functions": [{ "name": "f", "parameters": {} }], "function_call": { "name": "f" } }));
    let request = read(body.as_bytes()).unwrap();
    assert_eq!((request.tools.len(), request.tool_choice), (1, Some(ToolChoice::Named("f".into()))));
}

#[test]
fn cache_marks_are_read_on_parts_messages_and_tools() {
    let conversation = json!([
        { "role": "system", "content": [{ "type": "text", "text": "a", "cache_control": { "type": "ephemeral", "ttl": "1h" } }] },
        { "role": "user", "content": ["a", "b"], "cache_control": { "type": "ephemeral" } },
        { "role": "tool", "tool_call_id": "x", "content": "r", "cache_control": { "type": "ephemeral", "ttl": "5m" } },
    ]);
    messages(conversation, |request| {
        let marks: Vec<_> = request.turns.iter().flat_map(|turn| turn.parts.iter().map(|part| part.cache)).collect();
        let five = Some(CacheMark::FiveMinutes);
        assert_eq!(marks, [Some(CacheMark::OneHour), None, five, five]);
    });
    let body = with(
        json!({ "messages": [{ "role": "user", "content": "x", "cache_control": { "type": "ephemeral", "ttl": "2d" } }] }),
    );
    assert_eq!(refused(&body).0, "messages[0].cache_control.ttl");
}

#[test]
fn thoughts_come_back_with_their_makers() {
    let signed = |maker, value: &'static str| Some(Signature { maker, value: Cow::Borrowed(value) });
    let assistant = json!({
        "role": "assistant", "content": "said", "reasoning_content": "ignored beside the details",
        "reasoning_details": [
            { "type": "reasoning.text", "text": "th", "index": 0, "format": "anthropic-claude-v1" },
            { "type": "reasoning.text", "text": "ought", "index": 0 },
            { "type": "reasoning.text", "signature": "s0", "index": 0 },
            { "type": "reasoning.encrypted", "data": "sealed", "format": "anthropic-claude-v1", "index": 1, "id": null },
            { "type": "reasoning.summary", "summary": "sum", "format": "openai-responses-v1" },
            { "type": "reasoning.encrypted", "data": "g", "format": "google-gemini-v1", "id": "call_1" },
            { "type": "reasoning.encrypted", "data": "t", "format": "google-gemini-v1", "id": "part-3" },
            { "type": "reasoning.encrypted", "data": "x", "format": "xai-responses-v1" },
            { "type": "reasoning.unheard", "what": 1 },
        ],
        "tool_calls": [{ "id": "call_1", "type": "function", "function": { "name": "f", "arguments": "{\"cut" } }],
    });
    messages(json!([assistant]), |request| {
        let parts = &request.turns[0].parts;
        let texts: Vec<_> = parts[..4].iter().map(text_of).collect();
        assert_eq!(texts, ["thought", "sealed", "sum", "said"]);
        let signatures: Vec<_> = parts.iter().map(|part| part.signature.clone()).collect();
        let expected = [
            signed(Maker::Anthropic, "s0"),
            signed(Maker::Anthropic, ""),
            None,
            signed(Maker::Google, "t"),
            signed(Maker::Google, "g"),
        ];
        assert_eq!(signatures, expected);
        assert!(matches!(&parts[4].content, Content::ToolCall(call) if call.arguments == "{\"cut"));
    });
    for (members, expected) in [
        (
            json!({ "thinking_blocks": [{ "type": "thinking", "thinking": "a", "signature": "s" }, { "type": "redacted_thinking", "data": "d" }] }),
            ["a", "d", "x"].as_slice(),
        ),
        (json!({ "reasoning": "a" }), &["a", "x"]),
        (
            json!({ "content": [{ "type": "thinking", "thinking": [{ "type": "text", "text": "a" }] }, { "type": "text", "text": "x" }] }),
            &["a", "x"],
        ),
    ] {
        let mut assistant = json!({ "role": "assistant", "content": "x" });
        assistant.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        messages(json!([assistant]), |request| {
            let texts: Vec<_> = request.turns[0].parts.iter().map(text_of).collect();
            assert_eq!(texts, expected);
        });
    }
    let call =
        json!({ "id": "c", "function": { "name": "f" }, "extra_content": { "google": { "thought_signature": "g" } } });
    messages(json!([{ "role": "assistant", "tool_calls": [call] }]), |request| {
        assert_eq!(request.turns[0].parts[0].signature, signed(Maker::Google, "g"));
    });
}

#[test]
fn as_many_signatures_as_calls_are_read_in_one_pass() {
    // If each were looked for among all, this would be nearly a thousand million comparisons.
    let ids = || (0..30_000).map(|id| format!("c{id}"));
    let details: Vec<_> = ids()
        .map(|id| json!({ "type": "reasoning.encrypted", "data": "g", "format": "google-gemini-v1", "id": id }))
        .collect();
    let calls: Vec<_> = ids().map(|id| json!({ "id": id, "function": { "name": "f" } })).collect();
    let assistant = json!({ "role": "assistant", "reasoning_details": details, "tool_calls": calls });
    messages(json!([assistant]), |request| {
        assert!(request.turns[0].parts.iter().all(|part| part.signature.is_some()));
    });
}

#[test]
fn what_only_the_assistant_says_is_refused_by_name_from_others() {
    for (member, value) in [
        ("refusal", json!("no")),
        ("function_call", json!({ "name": "f" })),
        ("reasoning", json!("hm")),
        ("reasoning_content", json!("hm")),
        ("reasoning_details", json!([{ "type": "reasoning.text", "text": "hm" }])),
        ("thinking_blocks", json!([{ "thinking": "hm" }])),
        ("tool_calls", json!([{ "id": "a", "function": { "name": "f" } }])),
    ] {
        for role in ["user", "system", "tool"] {
            let message = json!({ "role": role, "content": "x", "tool_call_id": "a", member: value });
            assert_eq!(refused(&with(json!({ "messages": [message] }))).0, format!("messages[0].{member}"), "{role}");
        }
        let message = json!({ "role": "assistant", "content": "x", member: value });
        assert!(read(with(json!({ "messages": [message] })).as_bytes()).is_ok(), "{member}");
    }
    let empty = json!({ "role": "user", "content": "x", "refusal": "", "reasoning_content": "", "tool_calls": [] });
    assert!(read(with(json!({ "messages": [empty] })).as_bytes()).is_ok());
}
