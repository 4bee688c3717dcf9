//! Conversations as they are written for Anthropic.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::super::request::tests::{
    SONNET_4_5, asking, body, call, field, raw, result, say, sent, target, thought, turn,
};
use super::super::request::write;
use crate::chat::request::{Content, Maker, Part, Reasoning, Request, Role, Source, ToolResult, Turn};

#[test]
fn what_leads_is_the_system_prompt_and_what_follows_stays_in_its_place() {
    let turns = vec![
        say(Role::System, "one"),
        say(Role::Developer, "two"),
        say(Role::User, "hi"),
        say(Role::Assistant, "ho"),
        say(Role::User, "go"),
        say(Role::System, "now this"),
    ];
    let body = body(&asking(turns));
    assert_eq!(body["system"], json!([{ "type": "text", "text": "one" }, { "type": "text", "text": "two" }]));
    let last = json!([{ "type": "text", "text": "go" }, { "type": "text", "text": "<system>now this</system>" }]);
    assert_eq!((&body["messages"][2]["content"], body["messages"].as_array().unwrap().len()), (&last, 3));
}

#[test]
fn a_conversation_begins_with_the_user_and_no_text_is_empty() {
    let turns = vec![
        say(Role::Assistant, "first"),
        say(Role::User, " \n"),
        say(Role::Assistant, "second"),
        turn(Role::User, vec![Part::text(""), Part::text("hi")]),
        say(Role::User, "there"),
        say(Role::Assistant, "so: \n"),
    ];
    let text = |text: &str| json!({ "type": "text", "text": text });
    let expected = json!([
        { "role": "user", "content": [text("(The conversation begins with the assistant.)")] },
        { "role": "assistant", "content": [text("first"), text("second")] },
        { "role": "user", "content": [text("hi"), text("there")] },
        { "role": "assistant", "content": [text("so:")] },
    ]);
    assert_eq!(body(&asking(turns))["messages"], expected);
    let alone = body(&asking(vec![say(Role::System, "do")]));
    assert_eq!((&alone["messages"][0]["content"], alone.get("system")), (&json!([text("do")]), None));
    assert_eq!(field(&asking(vec![say(Role::User, " ")])), "messages");
    assert_eq!(field(&asking(vec![])), "messages");
    let named = Turn { name: Some("ann".into()), ..say(Role::User, "hi") };
    assert_eq!(body(&asking(vec![named]))["messages"][0]["content"], json!([text("ann:"), text("hi")]));
}

#[test]
fn calls_and_their_results_find_each_other() {
    let picture = Source::Data { media_type: "image/jpg".into(), base64: "AAAA".into() };
    let image = Part::new(Content::Image { source: picture, detail: None });
    let failed = ToolResult { call_id: "a.b:c".into(), name: None, parts: vec![], is_error: true };
    let turns = vec![
        say(Role::User, "hi"),
        turn(
            Role::Assistant,
            vec![Part::text("calling"), call("t1", " {\"x\": 1} "), call("a.b:c", "{\"y\":\"cut"), call("t3", "[1]")],
        ),
        turn(Role::User, vec![Part::text("and"), result("t1", vec![Part::text("r"), image])]),
        turn(Role::User, vec![Part::new(Content::ToolResult(failed)), result("t3", vec![Part::text("")])]),
    ];
    let body = body(&asking(turns));
    let calls = &body["messages"][1]["content"];
    assert_eq!(calls[1], json!({ "type": "tool_use", "id": "t1", "name": "f", "input": { "x": 1 } }));
    assert_eq!(calls[2]["input"], json!({ "unparsed_arguments": "{\"y\":\"cut" }));
    assert_eq!(calls[3]["input"], json!({ "unparsed_arguments": "[1]" }));
    let results = &body["messages"][2]["content"];
    let image = json!({ "type": "image", "source": { "type": "base64", "media_type": "image/jpeg", "data": "AAAA" } });
    let first =
        json!({ "type": "tool_result", "tool_use_id": "t1", "content": [{ "type": "text", "text": "r" }, image] });
    assert_eq!(results[0], first);
    assert_eq!((&results[1]["tool_use_id"], &results[1]["is_error"]), (&calls[2]["id"], &json!(true)));
    assert_eq!(results[2], json!({ "type": "tool_result", "tool_use_id": "t3", "content": [] }));
    assert_eq!(results[3], json!({ "type": "text", "text": "and" }), "results come first");
}

#[test]
fn media_go_as_the_api_takes_them() {
    let document = |media_type: &'static str, base64: &'static str| {
        let source = Source::Data { media_type: media_type.into(), base64: base64.into() };
        Part::new(Content::Document { source, name: Some("n".into()) })
    };
    let url = Part::new(Content::Image { source: Source::Url("https://x/y.png".into()), detail: None });
    let parts = vec![url, document("application/pdf", "JVBE"), document("text/plain; charset=utf-8", "aMOp")];
    let call = write(&asking(vec![turn(Role::User, parts)]), &target(SONNET_4_5)).unwrap();
    let body: Value = serde_json::from_slice(&call.body).unwrap();
    let expected = json!([
        { "type": "image", "source": { "type": "url", "url": "https://x/y.png" } },
        { "type": "document", "source": { "type": "base64", "media_type": "application/pdf", "data": "JVBE" }, "title": "n" },
        { "type": "document", "source": { "type": "text", "media_type": "text/plain", "data": "hé" }, "title": "n" },
    ]);
    assert_eq!(body["messages"][0]["content"], expected);
    for refused in [
        Part::new(Content::Audio { source: Source::Url("https://x".into()) }),
        document("application/zip", "AAAA"),
        document("text/plain", "////"),
    ] {
        assert_eq!(field(&asking(vec![turn(Role::User, vec![refused])])), "messages[7]");
    }
    let image = Part::new(Content::Image { source: Source::Url("https://x".into()), detail: None });
    assert_eq!(field(&asking(vec![say(Role::User, "x"), turn(Role::Assistant, vec![image])])), "messages[7]");
}

#[test]
fn thoughts_go_back_to_their_maker_alone_and_only_if_it_thinks() {
    let redacted = Part::new(Content::RedactedThinking("xyz".into()));
    let unsigned = Part::new(Content::Thinking("mine".into()));
    let parts = vec![
        Part::text("so"),
        call("t", "{}"),
        thought("hm", Maker::Anthropic),
        redacted,
        unsigned,
        thought("g", Maker::OpenAi),
    ];
    let turns = || {
        vec![say(Role::User, "hi"), turn(Role::Assistant, parts.clone()), turn(Role::User, vec![result("t", vec![])])]
    };
    let request =
        Request { reasoning: Some(Reasoning::Budget(2000)), max_output_tokens: Some(9000), ..asking(turns()) };
    let content = body(&request)["messages"][1]["content"].clone();
    let kinds: Vec<_> = content.as_array().unwrap().iter().map(|block| block["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["thinking", "redacted_thinking", "text", "tool_use"]);
    assert_eq!(content[0], json!({ "type": "thinking", "thinking": "hm", "signature": "sig" }));
    let silent = body(&asking(turns()))["messages"][1]["content"].clone();
    assert_eq!(silent.as_array().unwrap().len(), 2, "{silent}");
    let by_default = sent(&asking(turns()), "claude-opus-5").0;
    assert_eq!(by_default["messages"][1]["content"].as_array().unwrap().len(), 4);
}

#[test]
fn native_blocks_go_back_to_their_maker_as_they_are() {
    let block = raw(r#"{"type":"server_tool_use","id":"s","name":"web_search","input":{"b":1,"a":2}}"#);
    let native = |maker| Part::new(Content::Native { maker, block: Cow::Borrowed(&*block) });
    let turns =
        vec![say(Role::User, "hi"), turn(Role::Assistant, vec![native(Maker::Anthropic), native(Maker::Google)])];
    let call = write(&asking(turns), &target(SONNET_4_5)).unwrap();
    let text = std::str::from_utf8(&call.body).unwrap();
    assert!(text.contains(&format!("\"content\":[{}]", block.get())), "{text}");
}

#[test]
fn what_is_sent_as_a_picture_and_is_a_pdf_is_a_document_and_anything_else_is_refused() {
    let shown = |media_type: &'static str| {
        let source = Source::Data { media_type: media_type.into(), base64: "AAAA".into() };
        let request = asking(vec![turn(Role::User, vec![Part::new(Content::Image { source, detail: None })])]);
        write(&request, &target(SONNET_4_5)).map(|call| {
            let body: Value = serde_json::from_slice(&call.body).unwrap();
            body["messages"][0]["content"][0].clone()
        })
    };
    let document =
        json!({ "type": "document", "source": { "type": "base64", "media_type": "application/pdf", "data": "AAAA" } });
    assert_eq!(shown("Application/PDF").unwrap(), document);
    assert_eq!(shown("IMAGE/PNG").unwrap()["type"], "image");
    for other in ["text/plain", "application/zip", "image"] {
        assert_eq!(shown(other).unwrap_err().field.as_deref(), Some("messages[7]"), "{other}");
    }
}
