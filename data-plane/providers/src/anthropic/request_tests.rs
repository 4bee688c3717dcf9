//! Requests as they are written for Anthropic.

use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;
use crate::chat::request::{
    CacheMark, Content, Effort, Format, Logprobs, Maker, Part, Reasoning, Role, Signature, Source, Tool, ToolCall,
    ToolChoice, ToolResult, Turn,
};
use crate::translate::Wrapped;

const SONNET_4_5: &str = "claude-sonnet-4-5";

fn target(model: &str) -> Target<'_> {
    Target { model, limit: None, model_limit: Some(64_000) }
}

fn sent(request: &Request<'_>, model: &str) -> (Value, Memo) {
    let call = write(request, &target(model)).unwrap();
    (serde_json::from_slice(&call.body).unwrap(), call.memo)
}

fn body(request: &Request<'_>) -> Value {
    sent(request, SONNET_4_5).0
}

fn turn<'a>(role: Role, parts: Vec<Part<'a>>) -> Turn<'a> {
    Turn { role, name: None, parts, at: 7 }
}

fn say(role: Role, text: &str) -> Turn<'_> {
    turn(role, vec![Part::text(text)])
}

fn asking<'a>(turns: Vec<Turn<'a>>) -> Request<'a> {
    Request { turns, max_output_tokens: Some(100), ..Request::default() }
}

fn hello() -> Request<'static> {
    asking(vec![say(Role::User, "hi")])
}

fn call<'a>(id: &'a str, arguments: &'a str) -> Part<'a> {
    Part::new(Content::ToolCall(ToolCall { id: id.into(), name: "f".into(), arguments: arguments.into() }))
}

fn result<'a>(id: &'a str, parts: Vec<Part<'a>>) -> Part<'a> {
    Part::new(Content::ToolResult(ToolResult { call_id: id.into(), name: None, parts, is_error: false }))
}

fn thought<'a>(text: &'a str, maker: Maker) -> Part<'a> {
    let signature = Some(Signature { maker, value: "sig".into() });
    Part { signature, ..Part::new(Content::Thinking(text.into())) }
}

fn tool<'a>(name: &'a str, parameters: Option<&'a RawValue>) -> Tool<'a> {
    Tool { name: name.into(), description: Some("d".into()), parameters, strict: None, cache: None }
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn field(request: &Request<'_>) -> String {
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
fn tools_are_sent_with_schemas_that_the_api_takes() {
    let (full, bare, empty) =
        (raw(r#"{"type":"object","properties":{"b":{},"a":{}}}"#), raw(r#"{"properties":{}}"#), raw("{ }"));
    let tools = vec![
        tool("a", Some(&full)),
        tool("b", Some(&bare)),
        tool("c", Some(&empty)),
        Tool { strict: Some(true), description: None, ..tool("d", None) },
    ];
    let call = write(&Request { tools, ..hello() }, &target(SONNET_4_5)).unwrap();
    let text = std::str::from_utf8(&call.body).unwrap();
    assert!(text.contains(r#"{"b":{},"a":{}}"#), "the order of properties is the client's: {text}");
    let body: Value = serde_json::from_str(text).unwrap();
    assert_eq!(body["tools"][1]["input_schema"], json!({ "type": "object", "properties": {} }));
    assert_eq!(body["tools"][2]["input_schema"], json!({ "type": "object" }));
    let strict = json!({ "name": "d", "input_schema": { "type": "object", "properties": {} }, "strict": true });
    assert_eq!((&body["tools"][3], body.get("tool_choice")), (&strict, None));
    let list = raw("[]");
    assert_eq!(field(&Request { tools: vec![tool("a", Some(&list))], ..hello() }), "tools[0].function.parameters");
}

#[test]
fn each_choice_of_tools_has_its_word() {
    let chosen = |choice: Option<ToolChoice<'static>>, parallel: Option<bool>| {
        let tools = vec![tool("a", None), tool("b", None)];
        let body = body(&Request { tools, tool_choice: choice, parallel_tool_calls: parallel, ..hello() });
        (body["tool_choice"].clone(), body["tools"].as_array().unwrap().len())
    };
    let allowed = |required| Some(ToolChoice::Allowed { names: vec!["b".into()], required });
    for (choice, parallel, expected, count) in [
        (None, None, json!(null), 2),
        (None, Some(true), json!(null), 2),
        (None, Some(false), json!({ "type": "auto", "disable_parallel_tool_use": true }), 2),
        (Some(ToolChoice::Auto), None, json!({ "type": "auto" }), 2),
        (Some(ToolChoice::None), Some(false), json!({ "type": "none" }), 2),
        (Some(ToolChoice::Required), Some(false), json!({ "type": "any", "disable_parallel_tool_use": true }), 2),
        (Some(ToolChoice::Named("a".into())), None, json!({ "type": "tool", "name": "a" }), 2),
        (allowed(false), None, json!({ "type": "auto" }), 1),
        (allowed(true), None, json!({ "type": "any" }), 1),
    ] {
        assert_eq!(chosen(choice.clone(), parallel), (expected, count), "{choice:?}");
    }
    assert_eq!(body(&Request { tool_choice: Some(ToolChoice::Auto), ..hello() }).get("tool_choice"), None);
}

fn schema_format(schema: &RawValue, strict: bool) -> Format<'_> {
    Format::JsonSchema { name: "n".into(), description: Some("why".into()), schema: Some(schema), strict: Some(strict) }
}

#[test]
fn a_strict_schema_is_native_where_the_model_has_it() {
    let schema = raw(r#"{"type":"object","additionalProperties":false}"#);
    let request = Request { format: schema_format(&schema, true), ..hello() };
    let (body, memo) = sent(&request, SONNET_4_5);
    let format =
        json!({ "format": { "type": "json_schema", "schema": { "type": "object", "additionalProperties": false } } });
    assert_eq!((&body["output_config"], body.get("tools"), memo), (&format, None, Memo::default()));
    let (body, memo) = sent(&request, "claude-3-5-haiku-latest");
    assert_eq!((body.get("output_config"), memo.json_tool.as_deref()), (None, Some("give_answer")));
}

#[test]
fn a_strict_schema_that_the_api_would_refuse_is_a_call() {
    let schema =
        raw(r#"{"type":"object","properties":{"x":{"type":"integer","minimum":3}},"additionalProperties":false}"#);
    let (body, memo) = sent(&Request { format: schema_format(&schema, true), ..hello() }, SONNET_4_5);
    assert_eq!((body.get("output_config"), memo.json_tool.as_deref()), (None, Some("give_answer")));
    let tools = vec![Tool { strict: Some(true), ..tool("f", Some(&schema)) }];
    let (body, _) = sent(&Request { tools, ..hello() }, SONNET_4_5);
    assert_eq!((body["tools"][0].get("strict"), &body["tools"][0]["input_schema"]["type"]), (None, &json!("object")));
}

#[test]
fn any_other_form_is_a_call_that_must_come() {
    let schema = raw(r#"{"type":"object","properties":{"x":{"type":"integer","minimum":3}}}"#);
    let lax = Request { format: schema_format(&schema, false), ..hello() };
    let (sent_body, memo) = sent(&lax, SONNET_4_5);
    let input_schema: Value = serde_json::from_str(schema.get()).unwrap();
    let expected = json!({ "name": "give_answer", "description": "why", "input_schema": input_schema });
    assert_eq!(sent_body["tools"], json!([expected]));
    let forced = json!({ "type": "tool", "name": "give_answer", "disable_parallel_tool_use": true });
    assert_eq!((&sent_body["tool_choice"], memo.json_tool.as_deref()), (&forced, Some("give_answer")));

    let beside = |choice| Request {
        format: Format::JsonObject,
        tools: vec![tool("give_answer", None)],
        tool_choice: choice,
        ..hello()
    };
    let (sent_body, memo) = sent(&beside(None), SONNET_4_5);
    assert_eq!(
        (&sent_body["tool_choice"], memo.json_tool.as_deref()),
        (&json!({ "type": "any" }), Some("give_answer_"))
    );
    assert_eq!(sent_body["tools"][1]["input_schema"], json!({ "type": "object", "properties": {} }));
    let (sent_body, _) = sent(&beside(Some(ToolChoice::None)), SONNET_4_5);
    assert_eq!(sent_body["tool_choice"]["name"], "give_answer_");
    let (sent_body, memo) = sent(&beside(Some(ToolChoice::Required)), SONNET_4_5);
    assert_eq!((sent_body["tools"].as_array().unwrap().len(), memo), (1, Memo::default()));
}

#[test]
fn an_answer_that_is_no_object_gets_one_around_it() {
    let list = raw(r#"{"type":"array","items":{"type":"string"}}"#);
    let (exact, memo) = sent(&Request { format: schema_format(&list, true), ..hello() }, SONNET_4_5);
    let around = &exact["output_config"]["format"]["schema"];
    assert_eq!((&around["type"], &around["properties"]["answer"]["type"]), (&json!("object"), &json!("array")));
    assert_eq!(memo, Memo { wrapped: Wrapped::Value, ..Memo::default() });
    let (loose, memo) = sent(&Request { format: schema_format(&list, false), ..hello() }, SONNET_4_5);
    assert_eq!(&loose["tools"][0]["input_schema"], around);
    assert_eq!((memo.json_tool.as_deref(), memo.wrapped), (Some("give_answer"), Wrapped::Value));
    let forced = Request { tools: vec![tool("f", None)], tool_choice: Some(ToolChoice::Required), ..hello() };
    let (_, memo) = sent(&Request { format: schema_format(&list, false), ..forced }, SONNET_4_5);
    assert_eq!(memo, Memo::default(), "an answer that is a call has nothing around it");
    let itself = raw(r##"{"type":"array","items":{"$ref":"#"}}"##);
    let refused = write(&Request { format: schema_format(&itself, true), ..hello() }, &target(SONNET_4_5)).unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("response_format.json_schema.schema"));
}

fn thinking(model: &str, reasoning: Reasoning, change: impl FnOnce(&mut Request<'_>)) -> (Value, Value) {
    let mut request = Request { reasoning: Some(reasoning), max_output_tokens: Some(20_000), ..hello() };
    change(&mut request);
    let body = sent(&request, model).0;
    (body["thinking"].clone(), body["output_config"]["effort"].clone())
}

#[test]
fn each_model_is_made_to_think_in_its_own_words() {
    let enabled = |budget: u64| json!({ "type": "enabled", "budget_tokens": budget });
    let (adaptive, shown) = (json!({ "type": "adaptive" }), json!({ "type": "adaptive", "display": "summarized" }));
    let none = Value::Null;
    for (model, reasoning, expected, effort) in [
        ("claude-3-5-haiku-latest", Reasoning::Effort(Effort::High), none.clone(), none.clone()),
        (SONNET_4_5, Reasoning::Effort(Effort::Minimal), enabled(1024), none.clone()),
        (SONNET_4_5, Reasoning::Effort(Effort::Max), enabled(10_000), none.clone()),
        (SONNET_4_5, Reasoning::Budget(19_000), enabled(19_000), none.clone()),
        (SONNET_4_5, Reasoning::Budget(90_000), enabled(19_999), none.clone()),
        (SONNET_4_5, Reasoning::Budget(7), enabled(1024), none.clone()),
        (SONNET_4_5, Reasoning::Adaptive, enabled(8192), none.clone()),
        (SONNET_4_5, Reasoning::Off, none.clone(), none.clone()),
        ("claude-opus-4-6", Reasoning::Effort(Effort::ExtraHigh), adaptive.clone(), json!("max")),
        ("claude-opus-4-6", Reasoning::Budget(3000), enabled(3000), none.clone()),
        ("claude-opus-4-6", Reasoning::Adaptive, adaptive, none.clone()),
        ("claude-opus-4-8", Reasoning::Effort(Effort::ExtraHigh), shown.clone(), json!("xhigh")),
        ("claude-opus-4-8", Reasoning::Off, none.clone(), none.clone()),
        ("claude-sonnet-5", Reasoning::Budget(3000), shown.clone(), json!("medium")),
        ("claude-sonnet-5", Reasoning::Effort(Effort::Minimal), shown, json!("low")),
        ("claude-sonnet-5", Reasoning::Off, json!({ "type": "disabled" }), none),
    ] {
        assert_eq!(thinking(model, reasoning, |_| ()), (expected, effort), "{model} {reasoning:?}");
    }
}

#[test]
fn thinking_by_budget_gives_way_where_the_api_would_refuse_it() {
    let high = Reasoning::Effort(Effort::High);
    let forced = |request: &mut Request<'_>| {
        request.tools = vec![tool("f", None)];
        request.tool_choice = Some(ToolChoice::Required);
    };
    let unthought = |request: &mut Request<'_>| {
        request.turns.push(turn(Role::Assistant, vec![thought("hm", Maker::Google), call("t", "{}")]));
        request.turns.push(turn(Role::User, vec![result("t", vec![Part::text("r")])]));
    };
    for (model, is_on) in [(SONNET_4_5, false), ("claude-opus-4-6", true)] {
        assert_eq!(!thinking(model, high, forced).0.is_null(), is_on, "{model} forced");
        assert_eq!(!thinking(model, high, unthought).0.is_null(), is_on, "{model} without thoughts");
    }
    assert!(thinking(SONNET_4_5, high, |request| request.turns.push(say(Role::Assistant, "so"))).0.is_null());
    assert!(thinking(SONNET_4_5, high, |request| request.max_output_tokens = Some(1024)).0.is_null());
    let thoughtful = |request: &mut Request<'_>| {
        request.turns.push(turn(Role::Assistant, vec![thought("hm", Maker::Anthropic), call("t", "{}")]));
        request.turns.push(turn(Role::User, vec![result("t", vec![Part::text("r")])]));
    };
    assert_eq!(thinking(SONNET_4_5, high, thoughtful).0["budget_tokens"], 10_000);
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
