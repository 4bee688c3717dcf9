//! Requests as clients write them, read into the hub form.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::chat::request::{CacheMark, Content, Effort, Part, Reasoning, RequestedTier};

pub(in crate::openai) fn with(extra: Value) -> String {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string()
}

/// Reads a request of these messages and gives it to `check`.
pub(in crate::openai) fn messages(messages: Value, check: impl FnOnce(Request<'_>)) {
    check(read(json!({ "model": "m", "messages": messages }).to_string().as_bytes()).unwrap());
}

pub(in crate::openai) fn refused(body: &str) -> (String, String) {
    let error = read(body.as_bytes()).unwrap_err();
    (error.field.unwrap_or_default(), error.message)
}

pub(in crate::openai) fn refused_in_content(part: Value) -> String {
    refused(&with(json!({ "messages": [{ "role": "user", "content": [part] }] }))).0
}

pub(in crate::openai) fn text_of<'a>(part: &'a Part<'_>) -> &'a str {
    match &part.content {
        Content::Text(text) | Content::Thinking(text) | Content::Refusal(text) | Content::RedactedThinking(text) => {
            text
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn texts_without_escapes_are_borrowed_and_schemas_keep_their_letters() {
    let schema = r#"{ "z": 1.50, "a": {} }"#;
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":"plain"}},{{"role":"user","content":"t\"wo"}}],
        "tools":[{{"type":"function","function":{{"name":"f","parameters":{schema},"strict":true}},"cache_control":{{"type":"ephemeral"}}}}]}}"#
    );
    let request = read(body.as_bytes()).unwrap();
    let content = |index: usize| &request.turns[index].parts[0].content;
    assert!(matches!(content(0), Content::Text(Cow::Borrowed("plain"))));
    assert!(matches!(content(1), Content::Text(Cow::Owned(text)) if text == "t\"wo"));
    let tool = &request.tools[0];
    assert_eq!(tool.parameters.map(|schema| schema.get()), Some(schema));
    assert_eq!((tool.strict, tool.cache), (Some(true), Some(CacheMark::FiveMinutes)));
}

#[test]
fn limits_sampling_and_the_rest_are_read() {
    let body = with(json!({
        "max_tokens": 9, "max_completion_tokens": 7, "stop": ["a", "b"], "temperature": 0.5, "top_p": 1, "top_k": 3, "seed": -4,
        "frequency_penalty": 0.1, "presence_penalty": -2, "n": 2, "logprobs": true, "top_logprobs": 5, "parallel_tool_calls": false,
        "user": "u", "safety_identifier": "s", "service_tier": "flex", "verbosity": "low", "stream": true,
        "stream_options": { "include_usage": true }
    }));
    let request = read(body.as_bytes()).unwrap();
    assert_eq!((request.max_output_tokens, request.stop.len(), request.choices), (Some(7), 2, 2));
    let sampling = &request.sampling;
    let numbers = [&sampling.temperature, &sampling.top_p, &sampling.top_k, &sampling.seed]
        .map(|number| number.as_ref().unwrap().to_string());
    assert_eq!(numbers, ["0.5", "1", "3", "-4"]);
    assert_eq!(request.logprobs, Some(Logprobs { top: 5 }));
    assert_eq!((request.parallel_tool_calls, request.user.as_deref()), (Some(false), Some("s")));
    assert_eq!(
        (request.tier, request.verbosity.as_deref(), request.stream),
        (Some(RequestedTier::Flex), Some("low"), true)
    );
    let body = with(json!({ "stop": "x" }));
    assert_eq!(read(body.as_bytes()).unwrap().stop, ["x"]);
    assert_eq!(refused(&with(json!({ "top_logprobs": 3 }))).0, "top_logprobs");
    assert_eq!(refused(&with(json!({ "temperature": "hot" }))).0, "temperature");
}

#[test]
fn how_much_to_think_is_read_in_every_way() {
    let effort = |effort| Some(Reasoning::Effort(effort));
    for (fields, expected) in [
        (json!({ "reasoning_effort": "xhigh" }), effort(Effort::ExtraHigh)),
        (json!({ "reasoning_effort": "none" }), Some(Reasoning::Off)),
        (json!({ "reasoning": { "effort": "max", "summary": "auto" } }), effort(Effort::Max)),
        (json!({ "reasoning": { "max_tokens": 2000, "exclude": false } }), Some(Reasoning::Budget(2000))),
        (json!({ "reasoning": { "enabled": true } }), Some(Reasoning::Adaptive)),
        (json!({ "reasoning": { "enabled": false } }), Some(Reasoning::Off)),
        (json!({ "reasoning": {} }), None),
        (json!({ "thinking": { "type": "enabled", "budget_tokens": 1024 } }), Some(Reasoning::Budget(1024))),
        (json!({ "thinking": { "type": "enabled" } }), Some(Reasoning::Adaptive)),
        (json!({ "thinking": { "type": "adaptive" }, "reasoning_effort": "low" }), effort(Effort::Low)),
        (json!({ "thinking": { "type": "disabled" } }), Some(Reasoning::Off)),
        (
            json!({ "extra_body": { "google": { "thinking_config": { "thinking_budget": -1, "include_thoughts": true } } } }),
            Some(Reasoning::Adaptive),
        ),
        (json!({ "google": { "thinking_config": { "thinking_level": "high" } } }), effort(Effort::High)),
        (json!({ "google": { "thinking_config": { "include_thoughts": true } } }), Some(Reasoning::Adaptive)),
        (json!({ "google": { "thinking_config": { "include_thoughts": false } } }), None),
        (
            json!({ "google": { "thinking_config": { "include_thoughts": true, "thinking_budget": 0 } } }),
            Some(Reasoning::Off),
        ),
        (json!({ "reasoning": { "enabled": true, "effort": "low" } }), effort(Effort::Low)),
        (json!({ "reasoning_effort": null }), None),
    ] {
        assert_eq!(read(with(fields.clone()).as_bytes()).unwrap().reasoning, expected, "{fields}");
    }
    for (fields, path) in [
        (json!({ "reasoning_effort": "much" }), "reasoning_effort"),
        (json!({ "reasoning_effort": "low", "thinking": { "type": "disabled" } }), "thinking"),
        (json!({ "thinking": { "type": "enabled" }, "reasoning_effort": "none" }), "thinking"),
        (json!({ "reasoning": { "effort": "low", "max_tokens": 9 } }), "reasoning.max_tokens"),
        (json!({ "reasoning": { "effort": "low", "enabled": false } }), "reasoning.enabled"),
        (json!({ "thinking": { "budget_tokens": 9, "type": "disabled" } }), "thinking.type"),
        (
            json!({ "google": { "thinking_config": { "thinking_budget": 9, "thinking_level": "low" } } }),
            "google.thinking_config.thinking_level",
        ),
        (json!({ "reasoning": { "exclude": true } }), "reasoning.exclude"),
        (json!({ "thinking": { "type": "enabled", "budget_tokens": -5 } }), "thinking.budget_tokens"),
        (json!({ "extra_body": { "google": { "cached_content": "x" } } }), "extra_body.google.cached_content"),
    ] {
        assert_eq!(refused(&with(fields.clone())).0, path, "{fields}");
    }
}

#[test]
fn what_no_provider_has_is_refused_by_name_and_what_changes_nothing_is_left_out() {
    for (name, value) in [
        ("metadata", json!({ "a": 1 })),
        ("store", json!(true)),
        ("prompt_cache_key", json!("k")),
        ("modalities", json!(["text"])),
        ("logit_bias", json!({})),
        ("repetition_penalty", json!(1.0)),
        ("foo", json!(null)),
        ("prediction", json!({ "type": "content", "content": "x" })),
    ] {
        assert!(read(with(json!({ name: value })).as_bytes()).is_ok(), "{name}");
    }
    for (name, value) in [
        ("foo", json!(1)),
        ("logit_bias", json!({ "1": 2 })),
        ("modalities", json!(["text", "audio"])),
        ("audio", json!({})),
        ("web_search_options", json!({})),
        ("repetition_penalty", json!(1.2)),
        ("models", json!(["x"])),
    ] {
        let (field, message) = refused(&with(json!({ name: value })));
        assert_eq!((&*field, message), (name, format!("`{name}` cannot be carried to this provider")));
    }
    for (message, path) in [
        (json!({ "role": "user", "content": "x", "weight": 1 }), "messages[0].weight"),
        (json!({ "role": "critic", "content": "x" }), "messages[0].role"),
        (json!({ "content": "x" }), "messages[0].role"),
        (json!({ "role": "tool", "content": "x" }), "messages[0].tool_call_id"),
        (json!({ "role": "assistant", "audio": { "id": "a" } }), "messages[0].audio"),
        (
            json!({ "role": "assistant", "tool_calls": [{ "id": "a", "type": "custom", "custom": {} }] }),
            "messages[0].tool_calls[0].custom",
        ),
        (
            json!({ "role": "assistant", "tool_calls": [{ "function": { "name": "f" } }] }),
            "messages[0].tool_calls[0].id",
        ),
        (json!("x"), "messages[0]"),
    ] {
        assert_eq!(refused(&with(json!({ "messages": [message] }))).0, path, "{message}");
    }
}

proptest! {
    #[test]
    fn any_bytes_and_any_damage_are_survived(bytes: Vec<u8>, at: prop::sample::Index, byte: u8) {
        drop(read(&bytes));
        let body = with(json!({
            "tools": [{ "type": "function", "function": { "name": "f", "parameters": { "a": [1.5e3] } } }],
            "messages": [{ "role": "assistant", "content": [{ "type": "text", "text": "é\n" }], "reasoning_details": [{ "type": "reasoning.text", "index": 0 }] }],
        }));
        let mut damaged = body.into_bytes();
        let at = at.index(damaged.len());
        damaged[at] = byte;
        drop(read(&damaged));
    }
}
