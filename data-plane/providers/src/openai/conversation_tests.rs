//! Requests as clients write them, read into the hub form.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::chat::request::{
    CacheMark, Content, Effort, Format, Maker, Part, Reasoning, RequestedTier, Role, Signature, Source,
};

fn with(extra: Value) -> String {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string()
}

/// Reads a request of these messages and gives it to `check`.
fn messages(messages: Value, check: impl FnOnce(Request<'_>)) {
    check(read(json!({ "model": "m", "messages": messages }).to_string().as_bytes()).unwrap());
}

fn refused(body: &str) -> (String, String) {
    let error = read(body.as_bytes()).unwrap_err();
    (error.field.unwrap_or_default(), error.message)
}

fn refused_in_content(part: Value) -> String {
    refused(&with(json!({ "messages": [{ "role": "user", "content": [part] }] }))).0
}

fn text_of<'a>(part: &'a Part<'_>) -> &'a str {
    match &part.content {
        Content::Text(text) | Content::Thinking(text) | Content::Refusal(text) | Content::RedactedThinking(text) => {
            text
        }
        other => panic!("{other:?}"),
    }
}

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
fn media_are_read_by_address_and_in_place() {
    let content = json!([
        { "type": "image_url", "image_url": { "url": "https://x/y.png", "detail": "low" } },
        { "type": "image_url", "image_url": { "url": "data:image/png;base64,QUJD" } },
        { "type": "image_url", "image_url": "data:image/jpeg;charset=x;base64,QUJD" },
        { "type": "input_audio", "input_audio": { "data": "QUJD", "format": "mp3" } },
        { "type": "file", "file": { "file_data": "data:application/pdf;base64,QUJD", "filename": "a.pdf" } },
        { "type": "file", "file": { "file_data": "JVBERi0x" } },
        { "image_url": { "url": "HTTPS://x" } },
    ]);
    messages(json!([{ "role": "user", "content": content }]), |request| {
        let sources: Vec<String> = request.turns[0]
            .parts
            .iter()
            .map(|part| {
                let source = match &part.content {
                    Content::Image { source, .. } | Content::Audio { source } | Content::Document { source, .. } => {
                        source
                    }
                    other => panic!("{other:?}"),
                };
                match source {
                    Source::Url(url) => format!("url {url}"),
                    Source::Data { media_type, base64 } => format!("{media_type} {base64}"),
                }
            })
            .collect();
        let expected = [
            "url https://x/y.png",
            "image/png QUJD",
            "image/jpeg QUJD",
            "audio/mpeg QUJD",
            "application/pdf QUJD",
            "application/pdf JVBERi0x",
            "url HTTPS://x",
        ];
        assert_eq!(sources, expected);
    });
}

#[test]
fn parts_that_cannot_be_carried_are_refused_by_their_path() {
    for (part, path) in [
        (json!({ "type": "image_url", "image_url": { "url": "ftp://x" } }), "messages[0].content[0].image_url.url"),
        (
            json!({ "type": "image_url", "image_url": { "url": "data:image/png,x" } }),
            "messages[0].content[0].image_url.url",
        ),
        (
            json!({ "type": "image_url", "image_url": { "url": "data:;base64,x" } }),
            "messages[0].content[0].image_url.url",
        ),
        (json!({ "type": "image_url", "image_url": {} }), "messages[0].content[0].image_url.url"),
        (json!({ "type": "image_url" }), "messages[0].content[0].image_url"),
        (json!({ "type": "video_url", "video_url": { "url": "x" } }), "messages[0].content[0].type"),
        (json!({ "type": "file", "file": { "file_data": "QUJD" } }), "messages[0].content[0].file.file_data"),
        (json!({ "type": "file", "file": {} }), "messages[0].content[0].file.file_data"),
        (json!({ "type": "file", "file": { "file_id": "files/ab-1" } }), "messages[0].content[0].file.file_id"),
        (
            json!({ "type": "image_url", "image_url": { "url": "data:Audio/wav;base64,QUJD" } }),
            "messages[0].content[0].image_url.url",
        ),
        (json!({ "type": "image_url", "image_url": "data:video/mp4;base64,QUJD" }), "messages[0].content[0].image_url"),
        (
            json!({ "type": "image_url", "image_url": "data:image/p\"ng;base64,QUJD" }),
            "messages[0].content[0].image_url",
        ),
        (json!({ "type": "image_url", "image_url": "data:image;base64,QUJD" }), "messages[0].content[0].image_url"),
        (
            json!({ "type": "input_audio", "input_audio": { "data": "QUJD", "format": "../x" } }),
            "messages[0].content[0].input_audio.format",
        ),
        (
            json!({ "type": "text", "text": "x", "image_url": { "url": "https://x" } }),
            "messages[0].content[0].image_url",
        ),
        (
            json!({ "type": "image_url", "image_url": { "url": "https://x" }, "text": "x" }),
            "messages[0].content[0].text",
        ),
        (json!({ "type": "thinking", "thinking": "x", "data": "y" }), "messages[0].content[0].data"),
        (json!({ "type": "text", "text": 7 }), "messages[0].content[0].text"),
        (json!({ "type": "text", "text": "x", "colour": 1 }), "messages[0].content[0].colour"),
        (json!(null), "messages[0].content[0]"),
    ] {
        assert_eq!(refused_in_content(part.clone()), path, "{part}");
    }
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
fn what_there_is_to_choose_is_read() {
    for (choice, expected) in [
        (json!("auto"), ToolChoice::Auto),
        (json!("none"), ToolChoice::None),
        (json!("required"), ToolChoice::Required),
        (json!("any"), ToolChoice::Required),
        (json!({ "type": "function", "function": { "name": "f" } }), ToolChoice::Named("f".into())),
        (json!({ "type": "auto" }), ToolChoice::Auto),
        (
            json!({ "type": "allowed_tools", "allowed_tools": { "mode": "required", "tools": [{ "type": "function", "function": { "name": "f" } }] } }),
            ToolChoice::Allowed { names: vec!["f".into()], required: true },
        ),
    ] {
        let tools = json!([{ "type": "function", "function": { "name": "f" } }]);
        let body = with(json!({ "tool_choice": choice, "tools": tools }));
        assert_eq!(read(body.as_bytes()).unwrap().tool_choice, Some(expected), "{choice}");
    }
    let named = |name: &str| json!({ "type": "function", "function": { "name": name } });
    let allowed =
        json!({ "type": "allowed_tools", "allowed_tools": { "mode": "auto", "tools": [named("f"), named("g")] } });
    let f = json!([{ "type": "function", "function": { "name": "f" } }]);
    for (choice, tools) in [
        (json!("required"), json!([])),
        (json!("required"), json!(null)),
        (named("g"), f.clone()),
        (allowed, f.clone()),
    ] {
        assert_eq!(refused(&with(json!({ "tool_choice": choice, "tools": tools }))).0, "tool_choice", "{choice}");
    }
    let old = with(json!({ "function_call": { "name": "g" }, "functions": [{ "name": "f" }] }));
    assert_eq!(refused(&old).0, "function_call");
    let long = json!([{ "type": "function", "function": { "name": "f".repeat(65) } }]);
    assert_eq!(refused(&with(json!({ "tools": long }))).0, "tools[0].function.name");
    let many = Value::from(vec![f[0].clone(); 1025]);
    assert_eq!(refused(&with(json!({ "tools": many }))).0, "tools[1024]");
    for (choice, path) in [
        (json!("maybe"), "tool_choice"),
        (json!({ "type": "custom", "custom": { "name": "f" } }), "tool_choice.custom"),
        (json!({ "type": "function" }), "tool_choice.function"),
        (
            json!({ "type": "allowed_tools", "allowed_tools": { "mode": "auto", "tools": [] } }),
            "tool_choice.allowed_tools.tools",
        ),
    ] {
        assert_eq!(refused(&with(json!({ "tool_choice": choice }))).0, path, "{choice}");
    }
    for (tool, path) in [
        (json!({ "type": "custom", "custom": { "name": "f" } }), "tools[0].custom"),
        (json!({ "type": "web_search" }), "tools[0].type"),
        (json!({ "type": "function" }), "tools[0].function"),
        (json!({ "type": "function", "function": { "parameters": {} } }), "tools[0].function.name"),
        (json!({ "type": "function", "function": { "name": "f", "parameters": [] } }), "tools[0].function.parameters"),
    ] {
        assert_eq!(refused(&with(json!({ "tools": [tool] }))).0, path, "{tool}");
    }
}

#[test]
fn forms_of_the_answer_are_read() {
    let format = json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": { "type": "object" }, "strict": true } });
    let body = with(json!({ "response_format": format }));
    let Format::JsonSchema { name, schema, strict, .. } = read(body.as_bytes()).unwrap().format else { panic!() };
    assert_eq!((&*name, schema.unwrap().get(), strict), ("n", r#"{"type":"object"}"#, Some(true)));
    let body = with(json!({ "response_format": { "type": "json_object" } }));
    assert!(matches!(read(body.as_bytes()).unwrap().format, Format::JsonObject));
    for (format, path) in [
        (json!({ "type": "json_schema" }), "response_format.json_schema"),
        (json!({ "type": "grammar" }), "response_format.type"),
        (json!({}), "response_format.type"),
        (json!("text"), "response_format"),
    ] {
        assert_eq!(refused(&with(json!({ "response_format": format }))).0, path, "{format}");
    }
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

#[test]
fn all_lists_of_a_request_share_one_room() {
    let calls = Value::from(vec![json!({ "id": "a", "function": { "name": "f" } }); 40_000]);
    let details = Value::from(vec![json!({ "type": "reasoning.text", "text": "x" }); 40_000]);
    let stop = Value::from(vec!["x"; 40_000]);
    let message = json!({ "role": "assistant", "content": "x", "tool_calls": calls, "reasoning_details": details });
    assert!(read(with(json!({ "messages": [message] })).as_bytes()).is_ok());
    let (field, problem) = refused(&with(json!({ "messages": [message], "stop": stop })));
    assert!(field.starts_with("stop[") && problem.contains("100000"), "{field}: {problem}");
}

#[test]
fn more_parts_than_anybody_takes_are_refused() {
    let content = Value::from(vec!["x"; 100_001]);
    let (field, _) = refused(&with(json!({ "messages": [{ "role": "user", "content": content }] })));
    assert_eq!(field, "messages[0].content[100000]");
    // A name is repeated with each result of its call.
    let call = json!({ "id": "c", "function": { "name": "f".repeat(257) } });
    let (field, _) = refused(&with(json!({ "messages": [{ "role": "assistant", "tool_calls": [call] }] })));
    assert_eq!(field, "messages[0].tool_calls[0].function.name");
    let deep = format!(r#"{{"messages":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(read(deep.as_bytes()).is_err());
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
