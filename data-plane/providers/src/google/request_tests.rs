//! Requests as Google's API wants them, and what it has nothing for.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;
use crate::chat::request::{
    Content, Effort, Format, Logprobs, Maker, Part, Reasoning, RequestedTier, Role, Sampling, Signature, Source, Tool,
    ToolCall, ToolChoice, ToolResult, Turn,
};
use crate::translate::Wrapped;

fn sent_to(model: &str, request: &Request<'_>) -> Value {
    let target = Target { model, limit: None, model_limit: Some(65_536) };
    let call = Google.call(request, &target).unwrap();
    assert!(call.headers.is_empty());
    let mut body: Value = serde_json::from_slice(&call.body).unwrap();
    let config = body["generationConfig"].as_object_mut().unwrap();
    assert_eq!(config.remove("responseModalities"), Some(json!(["TEXT"])));
    if config.is_empty() {
        body.as_object_mut().unwrap().remove("generationConfig");
    }
    body
}

fn sent(request: &Request<'_>) -> Value {
    sent_to("gemini-2.5-flash", request)
}

fn refusal(request: &Request<'_>) -> String {
    let target = Target { model: "gemini-2.5-flash", limit: None, model_limit: None };
    let error = Google.call(request, &target).unwrap_err();
    assert!(error.field.as_ref().is_some_and(|field| error.message.starts_with(field)), "{error:?}");
    error.message
}

fn turn(role: Role, parts: Vec<Part<'static>>) -> Turn<'static> {
    Turn { role, name: None, parts, at: 0 }
}

fn talk(turns: Vec<Turn<'static>>) -> Request<'static> {
    Request { turns, ..Request::default() }
}

fn say(role: Role, text: &'static str) -> Turn<'static> {
    turn(role, vec![Part::text(text)])
}

fn call(id: &'static str, arguments: &'static str) -> Part<'static> {
    Part::new(Content::ToolCall(ToolCall { id: id.into(), name: "f".into(), arguments: arguments.into() }))
}

fn result(id: &'static str, parts: Vec<Part<'static>>, is_error: bool) -> Part<'static> {
    Part::new(Content::ToolResult(ToolResult { call_id: id.into(), name: None, parts, is_error }))
}

fn signed(mut part: Part<'static>, maker: Maker) -> Part<'static> {
    part.signature = Some(Signature { maker, value: "sig".into() });
    part
}

fn image(media_type: &'static str) -> Part<'static> {
    let source = Source::Data { media_type: media_type.into(), base64: "AAAA".into() };
    Part::new(Content::Image { source, detail: Some("low".into()) })
}

fn text(text: &str) -> Value {
    json!({ "text": text })
}

#[test]
fn instructions_that_come_later_keep_their_rank() {
    let later = turn(Role::System, vec![Part::text("Be brief."), Part::text("Be kind.")]);
    let body =
        sent(&talk(vec![say(Role::System, "Be exact."), say(Role::User, "Hi"), later, say(Role::Developer, "Now.")]));
    assert_eq!(body["systemInstruction"]["parts"], json!([{ "text": "Be exact." }]));
    let said = json!([{ "text": "Hi" }, { "text": "<system>Be brief." }, { "text": "Be kind.</system>" }, { "text": "<system>Now.</system>" }]);
    assert_eq!(body["contents"], json!([{ "role": "user", "parts": said }]));
}

#[test]
fn what_the_api_would_refuse_is_refused_by_the_clients_own_name_for_it() {
    let tools = |name: &'static str| {
        vec![Tool { name: name.into(), description: None, parameters: None, strict: None, cache: None }]
    };
    for name in ["3d", "-x", ""] {
        let refused = refusal(&Request { tools: tools(name), ..talk(vec![say(Role::User, "Hi")]) });
        assert!(refused.starts_with("tools[0].function.name"), "{refused}");
    }
    sent(&Request { tools: tools("_3d"), ..talk(vec![say(Role::User, "Hi")]) });
    assert!(refusal(&Request { stop: vec!["".into()], ..talk(vec![say(Role::User, "Hi")]) }).starts_with("stop"));
    assert!(refusal(&talk(vec![turn(Role::User, Vec::new())])).starts_with("messages"));
}

#[test]
fn a_seed_beyond_the_apis_own_is_left_out_and_that_is_told() {
    for (seed, is_sent) in
        [("2147483647", true), ("-2147483648", true), ("1099511627776", false), ("2147483648", false)]
    {
        let sampling = Sampling { seed: serde_json::from_str(seed).unwrap(), ..Sampling::default() };
        let request = Request { sampling, ..talk(vec![say(Role::User, "Hi")]) };
        let target = Target { model: "gemini-2.5-flash", limit: None, model_limit: None };
        let call = Google.call(&request, &target).unwrap();
        let body: Value = serde_json::from_slice(&call.body).unwrap();
        assert_eq!(body["generationConfig"].get("seed").is_some(), is_sent, "{seed}");
        assert_eq!(call.ignored.fields(), if is_sent { "" } else { "seed" });
    }
}

#[test]
fn what_a_form_is_for_goes_with_its_schema() {
    let schema = RawValue::from_string(r#"{"type":"object"}"#.to_owned()).unwrap();
    let form =
        |schema| Format::JsonSchema { name: "x".into(), description: Some("A city.".into()), schema, strict: None };
    let request = Request { format: form(Some(&*schema)), ..talk(vec![say(Role::User, "Hi")]) };
    let expected = json!({ "description": "A city.", "type": "object" });
    assert_eq!(sent(&request)["generationConfig"]["responseJsonSchema"], expected);
    let target = Target { model: "gemini-2.5-flash", limit: None, model_limit: None };
    let bare = Request { format: form(None), ..talk(vec![say(Role::User, "Hi")]) };
    assert_eq!(Google.call(&bare, &target).unwrap().ignored.fields(), "response_format.json_schema.description");
}

#[test]
fn the_path_tells_stream_from_answer() {
    let target = Target { model: "gemini-2.5-flash", limit: None, model_limit: None };
    let mut request = talk(vec![say(Role::User, "hi")]);
    assert_eq!(Google.call(&request, &target).unwrap().path, "/models/gemini-2.5-flash:generateContent");
    request.stream = true;
    let path = "/models/gemini-2.5-flash:streamGenerateContent?alt=sse";
    assert_eq!(Google.call(&request, &target).unwrap().path, path);
    assert!(Google.call(&request, &Target { model: "models/..", ..target }).is_err());
}

#[test]
fn leading_instructions_are_the_systems_and_turns_of_one_role_become_one() {
    let request = talk(vec![
        say(Role::System, "s"),
        say(Role::Developer, "d"),
        say(Role::User, "a"),
        say(Role::User, "b"),
        say(Role::Assistant, "c"),
        say(Role::System, "later"),
        say(Role::User, "e"),
    ]);
    let expected = json!({
        "systemInstruction": {"parts": [text("s"), text("d")]},
        "contents": [
            {"role": "user", "parts": [text("a"), text("b")]},
            {"role": "model", "parts": [text("c")]},
            {"role": "user", "parts": [text("<system>later</system>"), text("e")]},
        ],
    });
    assert_eq!(sent(&request), expected);
    let alone = sent(&talk(vec![say(Role::System, "s")]));
    assert_eq!(alone, json!({"contents": [{"role": "user", "parts": [text("s")]}]}));
    let drawn = talk(vec![turn(Role::System, vec![image("image/png")])]);
    assert!(refusal(&drawn).starts_with("messages[0]"));
}

#[test]
fn calls_and_results_are_objects_and_find_each_other_by_id() {
    let request = talk(vec![
        say(Role::User, "go"),
        turn(
            Role::Assistant,
            vec![
                Part::text(""),
                call("1", "{\"b\":1,\"a\":2}"),
                call("2", "{\"cut"),
                call("3", "{}"),
                call("4", "{}"),
                call("5", "{}"),
            ],
        ),
        turn(Role::User, vec![result("1", vec![Part::text(" {\"z\":1,\"y\":2} ")], false)]),
        turn(Role::User, vec![result("2", vec![Part::text("plain")], false)]),
        turn(Role::User, vec![result("3", vec![Part::text("broken")], true)]),
        turn(Role::User, vec![result("4", vec![Part::text("{\"why\":1}")], true)]),
        turn(Role::User, vec![result("5", vec![Part::text("[1]"), Part::text("two")], false)]),
        say(Role::User, "and?"),
    ]);
    let target = Target { model: "gemini-2.5-flash", limit: None, model_limit: None };
    let bytes = Google.call(&request, &target).unwrap().body;
    let written = std::str::from_utf8(&bytes).unwrap();
    assert!(
        written.contains(r#""args":{"b":1,"a":2}"#) && written.contains(r#""response":{"z":1,"y":2}"#),
        "{written}"
    );
    let body = sent(&request);
    let contents = body["contents"].as_array().unwrap();
    assert_eq!(contents.len(), 4, "results stand alone");
    let cut = json!({"functionCall": {"id": "2", "name": "f", "args": {"arguments": "{\"cut"}}});
    assert_eq!((contents[1]["parts"].as_array().unwrap().len(), &contents[1]["parts"][1]), (5, &cut));
    let responses: Vec<_> = contents[2]["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| {
            let response = &part["functionResponse"];
            assert_eq!(response["name"], "f");
            response["response"].clone()
        })
        .collect();
    let expected = [
        json!({"y": 2, "z": 1}),
        json!({"result": "plain"}),
        json!({"error": "broken"}),
        json!({"error": {"why": 1}}),
        json!({"result": "[1]\ntwo"}),
    ];
    assert_eq!(responses, expected);
    assert_eq!(contents[3], json!({"role": "user", "parts": [text("and?")]}));
    let orphan = talk(vec![turn(Role::User, vec![result("9", vec![], false)])]);
    assert!(refusal(&orphan).starts_with("messages[0].tool_call_id"));
}

#[test]
fn signatures_go_back_on_the_part_that_they_came_with_and_to_their_maker_only() {
    let thought = Part::new(Content::Thinking("hm".into()));
    let request = talk(vec![turn(
        Role::Assistant,
        vec![
            signed(thought.clone(), Maker::Google),
            signed(thought.clone(), Maker::Anthropic),
            thought,
            signed(Part::text(""), Maker::Google),
            signed(Part::text("b"), Maker::OpenAi),
            signed(call("1", "{}"), Maker::Google),
            call("2", "{}"),
        ],
    )]);
    let called = |id: &str| json!({"id": id, "name": "f", "args": {}});
    let expected = json!([
        {"text": "hm", "thought": true, "thoughtSignature": "sig"},
        {"text": "", "thoughtSignature": "sig"},
        {"text": "b"},
        {"functionCall": called("1"), "thoughtSignature": "sig"},
        {"functionCall": called("2")},
    ]);
    for model in ["gemini-2.5-flash", "gemini-3-flash-preview"] {
        assert_eq!(sent_to(model, &request)["contents"][0]["parts"], expected, "{model}");
    }
}

#[test]
fn calls_of_another_model_get_the_documented_stand_in_for_the_third_generation() {
    let request = talk(vec![
        turn(Role::Assistant, vec![Part::text("a"), call("1", "{}"), call("2", "{}")]),
        turn(Role::User, vec![result("1", vec![Part::text("x")], false), result("2", vec![Part::text("x")], false)]),
        turn(Role::Assistant, vec![signed(call("3", "{}"), Maker::Anthropic)]),
    ]);
    let signatures = |model: &str| -> Vec<Value> {
        let body = sent_to(model, &request);
        let parts = body["contents"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|content| content["parts"].as_array().unwrap().clone());
        parts.filter(|part| !part["functionCall"].is_null()).map(|part| part["thoughtSignature"].clone()).collect()
    };
    let stand_in = json!("skip_thought_signature_validator");
    assert_eq!(signatures("gemini-3.5-flash"), [stand_in.clone(), Value::Null, stand_in]);
    assert_eq!(signatures("gemini-2.5-pro"), [Value::Null, Value::Null, Value::Null]);
}

#[test]
fn media_of_results_go_inside_where_the_generation_takes_them_and_behind_otherwise() {
    let request = talk(vec![
        turn(Role::Assistant, vec![call("1", "{}"), call("2", "{}")]),
        turn(Role::User, vec![result("1", vec![image("image/png")], false)]),
        turn(Role::User, vec![result("2", vec![Part::text("ok"), image("image/tiff")], false)]),
        say(Role::User, "so?"),
    ]);
    let blob = |media_type: &str| json!({"inlineData": {"mimeType": media_type, "data": "AAAA"}});
    let second = json!({"functionResponse": {"id": "2", "name": "f", "response": {"result": "ok"}}});
    let earlier = json!([
        {"role": "user", "parts": [{"functionResponse": {"id": "1", "name": "f", "response": {}}}, second]},
        {"role": "user", "parts": [blob("image/png"), blob("image/tiff"), text("so?")]},
    ]);
    assert_eq!(sent(&request)["contents"].as_array().unwrap()[1..], earlier.as_array().unwrap()[..]);
    let third = json!([
        {"role": "user", "parts": [
            {"functionResponse": {"id": "1", "name": "f", "response": {}, "parts": [blob("image/png")]}}, second]},
        {"role": "user", "parts": [blob("image/tiff"), text("so?")]},
    ]);
    assert_eq!(
        sent_to("gemini-3-pro-preview", &request)["contents"].as_array().unwrap()[1..],
        third.as_array().unwrap()[..]
    );
}

#[test]
fn media_that_google_cannot_have_are_refused_by_their_turn() {
    let remote = Source::Url("http://h/a.png".into());
    let request = talk(vec![turn(Role::User, vec![Part::new(Content::Image { source: remote, detail: None })])]);
    assert!(refusal(&request).contains("data URL"));
    let block: Box<RawValue> = serde_json::from_str("{\"executableCode\":{}}").unwrap();
    let native = |maker| {
        let content = Content::Native { maker, block: Cow::Owned(block.clone()) };
        talk(vec![turn(Role::Assistant, vec![Part::new(content)])])
    };
    assert_eq!(sent(&native(Maker::Google))["contents"][0]["parts"], json!([{"executableCode": {}}]));
    assert!(refusal(&native(Maker::Anthropic)).starts_with("messages[0]"));
}

#[test]
fn functions_keep_their_schema_as_it_was_written() {
    let schema: Box<RawValue> = serde_json::from_str(r#"{"type":"object","properties":{"z":{},"a":{}}}"#).unwrap();
    let tools = |strict| {
        vec![
            Tool { name: "f".into(), description: Some("does".into()), parameters: Some(&schema), strict, cache: None },
            Tool { name: "g".into(), description: None, parameters: None, strict: None, cache: None },
        ]
    };
    let request = |strict, tool_choice| Request { tools: tools(strict), tool_choice, ..Request::default() };
    let target = Target { model: "gemini-2.5-flash", limit: None, model_limit: None };
    let plain = request(None, None);
    let bytes = Google.call(&plain, &target).unwrap().body;
    let declared = r#""tools":[{"functionDeclarations":[{"name":"f","description":"does","parametersJsonSchema":{"type":"object","properties":{"z":{},"a":{}}}},{"name":"g"}]}]"#;
    assert!(std::str::from_utf8(&bytes).unwrap().contains(declared));
    assert_eq!(sent(&plain)["toolConfig"], Value::Null);

    let names = || vec!["f".into(), "g".into()];
    for (model, strict, choice, expected) in [
        ("gemini-2.5-flash", None, ToolChoice::Auto, json!({"mode": "AUTO"})),
        ("gemini-2.5-flash", Some(true), ToolChoice::Auto, json!({"mode": "VALIDATED"})),
        ("gemini-2.0-flash", Some(true), ToolChoice::Auto, json!({"mode": "AUTO"})),
        ("gemini-2.5-flash", Some(true), ToolChoice::None, json!({"mode": "NONE"})),
        ("gemini-2.5-flash", None, ToolChoice::Required, json!({"mode": "ANY"})),
        (
            "gemini-2.5-flash",
            None,
            ToolChoice::Named("f".into()),
            json!({"mode": "ANY", "allowedFunctionNames": ["f"]}),
        ),
        (
            "gemini-2.5-flash",
            None,
            ToolChoice::Allowed { names: names(), required: true },
            json!({"mode": "ANY", "allowedFunctionNames": ["f", "g"]}),
        ),
        (
            "gemini-2.5-flash",
            None,
            ToolChoice::Allowed { names: names(), required: false },
            json!({"mode": "VALIDATED", "allowedFunctionNames": ["f", "g"]}),
        ),
    ] {
        let body = sent_to(model, &request(strict, Some(choice.clone())));
        assert_eq!(body["toolConfig"]["functionCallingConfig"], expected, "{model} {choice:?}");
    }
    let without =
        Request { tool_choice: Some(ToolChoice::Auto), parallel_tool_calls: Some(false), ..Request::default() };
    assert_eq!(sent(&without)["toolConfig"], Value::Null);
}

#[test]
fn every_setting_has_its_counterpart() {
    let number = |text: &str| serde_json::from_str::<serde_json::Number>(text).ok();
    let schema: Box<RawValue> = serde_json::from_str(r#"{"z":1,"a":2}"#).unwrap();
    let request = Request {
        format: Format::JsonSchema { name: "n".into(), description: None, schema: Some(&schema), strict: Some(true) },
        max_output_tokens: Some(100),
        stop: vec!["a".into(), "b".into()],
        sampling: Sampling {
            temperature: number("0.5"),
            top_p: number("1"),
            top_k: number("40"),
            frequency_penalty: number("-1"),
            presence_penalty: number("0.1"),
            seed: number("7"),
        },
        choices: 2,
        logprobs: Some(Logprobs { top: 3 }),
        reasoning: Some(Reasoning::Effort(Effort::Low)),
        user: Some("u".into()),
        tier: Some(RequestedTier::Flex),
        verbosity: Some("medium".into()),
        ..Request::default()
    };
    let expected = json!({
        "maxOutputTokens": 100, "temperature": 0.5, "topP": 1, "topK": 40, "presencePenalty": 0.1, "frequencyPenalty": -1, "seed": 7,
        "stopSequences": ["a", "b"], "candidateCount": 2, "responseLogprobs": true, "logprobs": 3,
        "responseMimeType": "application/json", "responseJsonSchema": {"a": 2, "z": 1},
        "thinkingConfig": {"includeThoughts": true, "thinkingBudget": 50},
    });
    let body = sent(&request);
    assert_eq!((&body["generationConfig"], &body["serviceTier"]), (&expected, &json!("flex")));
    assert_eq!(sent(&Request::default()), json!({"contents": []}));
    let object =
        Request { format: Format::JsonObject, choices: 1, logprobs: Some(Logprobs { top: 0 }), ..Request::default() };
    assert_eq!(
        sent(&object)["generationConfig"],
        json!({"responseMimeType": "application/json", "responseLogprobs": true})
    );
}

#[test]
fn the_smaller_limit_holds() {
    let request = Request { max_output_tokens: Some(100), ..Request::default() };
    for (limit, expected) in [(Some(50), 50), (Some(500), 100), (None, 100)] {
        let target = Target { model: "gemini-2.5-flash", limit, model_limit: None };
        let body: Value = serde_json::from_slice(&Google.call(&request, &target).unwrap().body).unwrap();
        assert_eq!(body["generationConfig"]["maxOutputTokens"], expected);
    }
}

#[test]
fn settings_without_a_counterpart_are_refused_by_name() {
    let stop = Request { stop: vec!["x".into(); 6], ..Request::default() };
    assert!(refusal(&stop).starts_with("stop: "));
    let tier = Request { tier: Some(RequestedTier::Other("scale".into())), ..Request::default() };
    assert!(refusal(&tier).starts_with("service_tier: "));
}

#[test]
fn wishes_without_a_counterpart_are_ignored_and_told() {
    let ignored = |model, request: &Request<'_>| {
        let target = Target { model, limit: None, model_limit: None };
        Google.call(request, &target).unwrap().ignored.fields()
    };
    let picture = |detail: &'static str| {
        let source = Source::Url("https://h/a.png".into());
        talk(vec![turn(Role::User, vec![Part::new(Content::Image { source, detail: Some(detail.into()) })])])
    };
    let named = talk(vec![Turn { name: Some("Ann".into()), ..say(Role::User, "hi") }]);
    let strict = || {
        let tool = Tool { name: "f".into(), description: None, parameters: None, strict: Some(true), cache: None };
        Request { tools: vec![tool], ..Request::default() }
    };
    let verbose = |verbosity: &'static str| Request { verbosity: Some(verbosity.into()), ..Request::default() };
    let thinking = |reasoning| Request { reasoning: Some(reasoning), ..Request::default() };
    let forced = Request { tool_choice: Some(ToolChoice::Required), ..strict() };
    for (model, request, expected) in [
        ("gemini-2.5-flash", verbose("low"), "verbosity"),
        ("gemini-2.5-flash", verbose("medium"), ""),
        ("gemini-2.5-flash", picture("high"), "messages.content.image_url.detail"),
        ("gemini-2.5-flash", picture("auto"), ""),
        ("gemini-2.5-flash", named, "messages.name"),
        ("gemini-2.5-flash", thinking(Reasoning::Off), ""),
        ("gemini-2.5-pro", thinking(Reasoning::Off), "reasoning_effort"),
        ("gemini-3-pro-preview", thinking(Reasoning::Budget(0)), "reasoning_effort"),
        ("gemini-2.5-pro", thinking(Reasoning::Effort(Effort::High)), ""),
        ("gemini-2.5-flash", strict(), ""),
        ("gemini-2.0-flash", strict(), "tools.function.strict"),
        ("gemini-2.0-flash", forced, ""),
    ] {
        assert_eq!(ignored(model, &request), expected, "{model} {request:?}");
    }
}

#[test]
fn one_call_at_a_time_is_seen_to_where_google_cannot_be_told() {
    for (asked, expected) in [(None, false), (Some(true), false), (Some(false), true)] {
        let request = Request { parallel_tool_calls: asked, ..Request::default() };
        let target = Target { model: "gemini-2.5-flash", limit: None, model_limit: None };
        assert_eq!(Google.call(&request, &target).unwrap().memo.one_call, expected);
    }
}

#[test]
fn a_form_beside_functions_is_a_function_for_models_that_take_only_one_of_both() {
    let schema: Box<RawValue> = serde_json::from_str(r#"{"type":"object","properties":{"a":{}}}"#).unwrap();
    let list: Box<RawValue> = serde_json::from_str(r#"{"type":"array"}"#).unwrap();
    let of = |schema| Format::JsonSchema { name: "n".into(), description: None, schema, strict: None };
    let asked = |model, format, tool_choice| {
        let tool = Tool { name: "give_answer".into(), description: None, parameters: None, strict: None, cache: None };
        let request = Request { tools: vec![tool], format, tool_choice, ..Request::default() };
        let target = Target { model, limit: None, model_limit: None };
        let call = Google.call(&request, &target).unwrap();
        let body: Value = serde_json::from_slice(&call.body).unwrap();
        let declared = body["tools"][0]["functionDeclarations"].as_array().unwrap().len();
        let form = body["generationConfig"].get("responseMimeType").is_some();
        let config = body["toolConfig"]["functionCallingConfig"].clone();
        let answer = body["tools"][0]["functionDeclarations"][1]["parametersJsonSchema"].clone();
        (call.memo.json_tool, call.memo.wrapped, (declared, form), config, answer)
    };
    let name = || Some("give_answer_".to_owned());
    let (json_tool, wrapped, seen, config, answer) = asked("gemini-2.5-flash", of(Some(&schema)), None);
    assert_eq!((json_tool, wrapped, seen), (name(), Wrapped::Not, (2, false)));
    assert_eq!((config, answer), (json!({"mode": "ANY"}), json!({"type": "object", "properties": {"a": {}}})));
    let (json_tool, wrapped, _, _, answer) = asked("gemini-2.5-pro", of(Some(&list)), Some(ToolChoice::Auto));
    assert_eq!((json_tool, wrapped), (name(), Wrapped::Value));
    assert_eq!(answer["properties"]["answer"], json!({"type": "array"}));
    for format in [Format::JsonObject, of(None)] {
        let (json_tool, wrapped, _, config, answer) = asked("gemini-2.0-flash", format, Some(ToolChoice::None));
        assert_eq!((json_tool, wrapped), (name(), Wrapped::Text));
        assert_eq!(config, json!({"mode": "ANY", "allowedFunctionNames": ["give_answer_"]}));
        assert_eq!(answer["properties"]["answer"]["type"], "string");
    }
    let allowed = ToolChoice::Allowed { names: vec!["give_answer".into()], required: false };
    let (.., config, _) = asked("gemini-2.5-pro", Format::JsonObject, Some(allowed));
    assert_eq!(config["allowedFunctionNames"], json!(["give_answer", "give_answer_"]));
    // Who forces a call wants no other answer.
    let (json_tool, _, seen, ..) = asked("gemini-2.5-pro", Format::JsonObject, Some(ToolChoice::Required));
    assert_eq!((json_tool, seen), (None, (1, false)));
    let (json_tool, _, seen, ..) = asked("gemini-3-pro-preview", Format::JsonObject, None);
    assert_eq!((json_tool, seen), (None, (1, true)));
}
