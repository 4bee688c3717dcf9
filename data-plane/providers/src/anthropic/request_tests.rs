//! Requests as they are written for Anthropic.

use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;
use crate::chat::request::{
    CacheMark, Content, Effort, Format, Logprobs, Maker, Part, Reasoning, Role, Signature, Tool, ToolCall, ToolChoice,
    ToolResult, Turn,
};

pub(in crate::anthropic) const SONNET_4_5: &str = "claude-sonnet-4-5";

pub(in crate::anthropic) fn target(model: &str) -> Target<'_> {
    Target { model, limit: None, model_limit: Some(64_000) }
}

pub(in crate::anthropic) fn sent(request: &Request<'_>, model: &str) -> (Value, Memo) {
    let call = write(request, &target(model)).unwrap();
    (serde_json::from_slice(&call.body).unwrap(), call.memo)
}

pub(in crate::anthropic) fn body(request: &Request<'_>) -> Value {
    sent(request, SONNET_4_5).0
}

pub(in crate::anthropic) fn turn<'a>(role: Role, parts: Vec<Part<'a>>) -> Turn<'a> {
    Turn { role, name: None, parts, at: 7 }
}

pub(in crate::anthropic) fn say(role: Role, text: &str) -> Turn<'_> {
    turn(role, vec![Part::text(text)])
}

pub(in crate::anthropic) fn asking<'a>(turns: Vec<Turn<'a>>) -> Request<'a> {
    Request { turns, max_output_tokens: Some(100), ..Request::default() }
}

pub(in crate::anthropic) fn hello() -> Request<'static> {
    asking(vec![say(Role::User, "hi")])
}

pub(in crate::anthropic) fn call<'a>(id: &'a str, arguments: &'a str) -> Part<'a> {
    Part::new(Content::ToolCall(ToolCall { id: id.into(), name: "f".into(), arguments: arguments.into() }))
}

pub(in crate::anthropic) fn result<'a>(id: &'a str, parts: Vec<Part<'a>>) -> Part<'a> {
    Part::new(Content::ToolResult(ToolResult { call_id: id.into(), name: None, parts, is_error: false }))
}

pub(in crate::anthropic) fn thought<'a>(text: &'a str, maker: Maker) -> Part<'a> {
    let signature = Some(Signature { maker, value: "sig".into() });
    Part { signature, ..Part::new(Content::Thinking(text.into())) }
}

pub(in crate::anthropic) fn tool<'a>(name: &'a str, parameters: Option<&'a RawValue>) -> Tool<'a> {
    Tool { name: name.into(), description: Some("d".into()), parameters, strict: None, cache: None }
}

pub(in crate::anthropic) fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

pub(in crate::anthropic) fn field(request: &Request<'_>) -> String {
    write(request, &target(SONNET_4_5)).unwrap_err().field.unwrap()
}

#[test]
fn a_plain_request_has_nothing_that_was_not_asked_for() {
    let call = write(&hello(), &target(SONNET_4_5)).unwrap();
    let expected = r#"{"model":"claude-sonnet-4-5","max_tokens":100,"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}]}"#;
    assert_eq!(call.body, expected);
    assert_eq!((&*call.path, call.memo), ("/messages", Memo::default()));
    let [(name, value)] = &call.headers[..] else { panic!("one header") };
    assert_eq!((name.as_str(), value.as_bytes()), ("anthropic-version", &b"2023-06-01"[..]));
}

#[test]
fn the_least_limit_holds_and_there_is_always_one() {
    for (admitted, asked, model, expected) in [
        (None, None, None, 4096),
        (None, None, Some(64_000), 64_000),
        (None, Some(100), Some(64_000), 100),
        (Some(50), Some(100), None, 50),
        (Some(900), Some(100), None, 100),
        (None, Some(99_999), Some(8192), 8192),
    ] {
        let request = Request { max_output_tokens: asked, ..hello() };
        let target = Target { model: SONNET_4_5, limit: admitted, model_limit: model };
        let body: Value = serde_json::from_slice(&write(&request, &target).unwrap().body).unwrap();
        assert_eq!(body["max_tokens"], expected);
    }
}

#[test]
fn sampling_is_sent_unless_it_is_the_default_or_the_model_or_thinking_forbids_it() {
    let number = |text: &str| Some(serde_json::from_str(text).unwrap());
    let sampled_by = |model, temperature: &str, top_p: &str, reasoning| {
        let sampling = Sampling {
            temperature: number(temperature),
            top_p: number(top_p),
            top_k: number("40"),
            seed: number("7"),
            ..Sampling::default()
        };
        let body = sent(&Request { sampling, reasoning, max_output_tokens: Some(5000), ..hello() }, model).0;
        [body["temperature"].clone(), body["top_p"].clone(), body["top_k"].clone()]
    };
    let nothing = Value::Null;
    assert_eq!(sampled_by("claude-3-7-sonnet-latest", "0.2", "0.9", None), [json!(0.2), json!(0.9), json!(40)]);
    for reasoning in [None, Some(Reasoning::Adaptive)] {
        assert_eq!(sampled_by("claude-sonnet-5", "0.2", "0.97", reasoning), [const { Value::Null }; 3]);
    }
    let sampled = |temperature, top_p, reasoning| sampled_by(SONNET_4_5, temperature, top_p, reasoning);
    assert_eq!(sampled("0.2", "0.9", None), [json!(0.2), nothing.clone(), json!(40)]);
    assert_eq!(sampled("1", "1.0", None), [nothing.clone(), nothing.clone(), json!(40)]);
    assert_eq!(sampled("1.7", "0", None), [nothing.clone(), json!(0), json!(40)]);
    let budget = Some(Reasoning::Budget(2000));
    assert_eq!(sampled("0.2", "0.9", budget), [nothing.clone(), nothing.clone(), nothing.clone()]);
    assert_eq!(sampled("0.2", "0.97", budget), [nothing.clone(), json!(0.97), nothing]);
}

#[test]
fn wishes_that_a_model_cannot_be_told_are_ignored_and_told() {
    let number = |text: &str| serde_json::from_str::<Number>(text).ok();
    let sampling = |temperature: &str, top_p: &str| Request {
        sampling: Sampling { temperature: number(temperature), top_p: number(top_p), ..Sampling::default() },
        ..hello()
    };
    let counted = Sampling { seed: number("7"), top_k: number("40"), ..Sampling::default() };
    let counted = || Request { sampling: counted.clone(), ..hello() };
    let thinking = |reasoning| Request { reasoning: Some(reasoning), ..hello() };
    let schema = RawValue::from_string(r#"{"type":"object","properties":{"a":{"type":"integer","minimum":0}}}"#.into());
    let schema = schema.unwrap();
    let strict = |is_form: bool| {
        let tool =
            Tool { name: "f".into(), description: None, parameters: Some(&schema), strict: Some(true), cache: None };
        let form =
            Format::JsonSchema { name: "n".into(), description: None, schema: Some(&schema), strict: Some(true) };
        if is_form { Request { format: form, ..hello() } } else { Request { tools: vec![tool], ..hello() } }
    };
    let effort = Reasoning::Effort(Effort::High);
    for (model, request, expected) in [
        (SONNET_4_5, counted(), "seed"),
        ("claude-sonnet-5", counted(), "seed, top_k"),
        ("claude-sonnet-5", sampling("0.2", "0.9"), "temperature, top_p"),
        ("claude-sonnet-5", sampling("1", "1.0"), ""),
        (SONNET_4_5, sampling("0.2", "0.9"), "top_p"),
        (SONNET_4_5, sampling("1.7", "1"), "temperature"),
        ("claude-3-7-sonnet-latest", sampling("0.2", "0.9"), ""),
        (SONNET_4_5, Request { verbosity: Some("high".into()), ..hello() }, "verbosity"),
        // A hundred tokens have no room for thought.
        (SONNET_4_5, thinking(effort), "reasoning_effort"),
        (SONNET_4_5, Request { max_output_tokens: Some(9000), ..thinking(effort) }, ""),
        ("claude-3-5-haiku-latest", Request { max_output_tokens: Some(9000), ..thinking(effort) }, "reasoning_effort"),
        ("claude-3-5-haiku-latest", thinking(Reasoning::Off), ""),
        ("claude-sonnet-5", thinking(effort), ""),
        (SONNET_4_5, strict(false), "tools.function.strict"),
        (SONNET_4_5, strict(true), "response_format.json_schema.strict"),
    ] {
        let call = write(&request, &target(model)).unwrap();
        assert_eq!(call.ignored.fields(), expected, "{model} {request:?}");
    }
    let forced = Request { tool_choice: Some(ToolChoice::Required), max_output_tokens: Some(9000), ..strict(false) };
    let forced = write(&Request { reasoning: Some(effort), ..forced }, &target(SONNET_4_5)).unwrap();
    assert_eq!(forced.ignored.fields(), "reasoning_effort, tools.function.strict");
}

#[test]
fn what_anthropic_has_nothing_for_is_refused_by_name() {
    let half: Number = serde_json::from_str("0.5").unwrap();
    for (expected, request) in [
        ("n", Request { choices: 2, ..hello() }),
        ("logprobs", Request { logprobs: Some(Logprobs { top: 0 }), ..hello() }),
        ("stop", Request { stop: vec!["x".into(), "\n\n".into()], ..hello() }),
        ("service_tier", Request { tier: Some(RequestedTier::Flex), ..hello() }),
        (
            "frequency_penalty",
            Request { sampling: Sampling { frequency_penalty: Some(half.clone()), ..Sampling::default() }, ..hello() },
        ),
        (
            "presence_penalty",
            Request { sampling: Sampling { presence_penalty: Some(half), ..Sampling::default() }, ..hello() },
        ),
    ] {
        assert_eq!(field(&request), expected);
    }
    let zero: Number = serde_json::from_str("0").unwrap();
    let sampling =
        Sampling { frequency_penalty: Some(zero.clone()), presence_penalty: Some(zero), ..Sampling::default() };
    assert!(write(&Request { sampling, choices: 1, ..hello() }, &target(SONNET_4_5)).is_ok());
}

#[test]
fn the_rest_has_its_place() {
    let request = Request {
        stop: vec!["END".into()],
        user: Some("u-1".into()),
        tier: Some(RequestedTier::Default),
        stream: true,
        ..hello()
    };
    let body = body(&request);
    assert_eq!((&body["stop_sequences"], &body["metadata"]), (&json!(["END"]), &json!({ "user_id": "u-1" })));
    assert_eq!((&body["service_tier"], &body["stream"]), (&json!("standard_only"), &json!(true)));
    let long = Request { user: Some("u".repeat(257).into()), ..hello() };
    assert_eq!(super::user(&long), None);
}

#[test]
fn the_last_four_cache_marks_are_kept() {
    let marked = |text: &'static str, cache| Part { cache: Some(cache), ..Part::text(text) };
    let inner = vec![marked("r", CacheMark::FiveMinutes)];
    let turns = vec![
        turn(Role::System, vec![marked("s", CacheMark::OneHour)]),
        turn(Role::User, vec![marked("u", CacheMark::FiveMinutes), marked("", CacheMark::FiveMinutes)]),
        turn(Role::Assistant, vec![call("t", "{}")]),
        turn(Role::User, vec![result("t", inner), marked("v", CacheMark::FiveMinutes)]),
    ];
    let tools = vec![Tool { cache: Some(CacheMark::OneHour), ..tool("f", None) }];
    let body = body(&Request { tools, ..asking(turns) });
    assert_eq!(body["tools"][0].get("cache_control"), None);
    assert_eq!(body["system"][0]["cache_control"], json!({ "type": "ephemeral", "ttl": "1h" }));
    let plain = json!({ "type": "ephemeral" });
    assert_eq!(body["messages"][0]["content"][0]["cache_control"], plain);
    assert_eq!(body["messages"][2]["content"][0]["content"][0]["cache_control"], plain);
    assert_eq!(body["messages"][2]["content"][1]["cache_control"], plain);
}

/// Turns of any kind, as careless clients write them.
fn any_turns() -> impl Strategy<Value = Vec<Turn<'static>>> {
    let text = prop_oneof![Just(String::new()), Just(" \n".to_owned()), "[a-z \\n]{0,6}", "\\PC{0,6}"];
    let id = "[a-z.:]{0,3}";
    let part = prop_oneof![
        4 => text.clone().prop_map(Part::text),
        1 => (id, "\\PC{0,6}|\\{\\}").prop_map(|(id, arguments)| {
            Part::new(Content::ToolCall(ToolCall { id: id.into(), name: "f".into(), arguments: arguments.into() }))
        }),
        1 => (text, any::<bool>()).prop_map(|(text, signed)| {
            let signature = signed.then(|| Signature { maker: Maker::Anthropic, value: "s".into() });
            Part { signature, ..Part::new(Content::Thinking(text.into())) }
        }),
    ];
    let results = (id, any::<bool>()).prop_map(|(id, is_error)| {
        Part::new(Content::ToolResult(ToolResult {
            call_id: id.into(),
            name: None,
            parts: vec![Part::text("r")],
            is_error,
        }))
    });
    let said = (0..3_usize, prop::collection::vec(part, 0..4)).prop_map(|(role, parts)| {
        let role = [Role::User, Role::Assistant, Role::Assistant][role];
        let parts =
            parts.into_iter().filter(|part| role == Role::Assistant || matches!(part.content, Content::Text(_)));
        turn(role, parts.collect())
    });
    let systems = "\\PC{0,6}".prop_map(|text| turn(Role::System, vec![Part::text(text)]));
    let answered = prop::collection::vec(results, 1..3).prop_map(|parts| turn(Role::User, parts));
    prop::collection::vec(prop_oneof![3 => said, 1 => systems, 1 => answered], 0..7)
}

proptest! {
    #[test]
    fn whatever_is_said_is_written_by_the_rules_of_the_api(turns in any_turns(), budget in prop::option::of(0..9000_u64)) {
        let request = Request { reasoning: budget.map(Reasoning::Budget), max_output_tokens: Some(4000), ..asking(turns) };
        let Ok(call) = write(&request, &target(SONNET_4_5)) else { return Ok(()) };
        let body: Value = serde_json::from_slice(&call.body).unwrap();
        let messages = body["messages"].as_array().unwrap();
        prop_assert_eq!(&messages[0]["role"], "user");
        for pair in messages.windows(2) {
            prop_assert_ne!(&pair[0]["role"], &pair[1]["role"]);
        }
        for message in messages {
            let content = message["content"].as_array().unwrap();
            prop_assert!(!content.is_empty());
            let mut may_be_result = true;
            for block in content {
                let is_result = block["type"] == "tool_result";
                prop_assert!(may_be_result || !is_result, "results come first");
                may_be_result &= is_result;
                prop_assert!(block["type"] != "text" || !block["text"].as_str().unwrap().trim().is_empty());
                prop_assert!(block["type"] != "tool_use" || block["input"].is_object());
            }
        }
        let last = messages.last().unwrap();
        if last["role"] == "assistant" {
            let text = last["content"].as_array().unwrap().last().unwrap()["text"].as_str().unwrap_or_default();
            prop_assert_eq!(text.trim_end(), text);
        }
        if !body["thinking"].is_null() {
            prop_assert!(body["thinking"]["budget_tokens"].as_u64().unwrap() < 4000);
        }
    }
}
