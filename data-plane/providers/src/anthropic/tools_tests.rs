//! Tools and forms of the answer as they are written for Anthropic.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::request::tests::{SONNET_4_5, body, field, hello, raw, sent, target, tool};
use super::super::request::write;
use crate::chat::request::{Format, Request, Tool, ToolChoice};
use crate::translate::{Memo, Wrapped};

#[test]
fn a_schema_that_the_api_cannot_hold_a_model_to_is_shown_to_it_and_that_is_told() {
    let recursive = raw(
        r##"{"type":"object","properties":{"first":{"$ref":"#/$defs/n"}},"required":["first"],"additionalProperties":false,"$defs":{"n":{
            "type":"object","properties":{"next":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"null"}]}},"required":["next"],"additionalProperties":false}}}"##,
    );
    let format =
        Format::JsonSchema { name: "x".into(), description: None, schema: Some(&recursive), strict: Some(true) };
    let call = write(&Request { format, ..hello() }, &target(SONNET_4_5)).unwrap();
    let body: Value = serde_json::from_slice(&call.body).unwrap();
    assert_eq!((body.get("output_config"), &body["tools"][0]["name"]), (None, &json!("give_answer")));
    assert_eq!(call.ignored.fields(), "response_format.json_schema.strict");
    let tools = vec![Tool { strict: Some(true), ..tool("a", Some(&recursive)) }];
    let call = write(&Request { tools, ..hello() }, &target(SONNET_4_5)).unwrap();
    let body: Value = serde_json::from_slice(&call.body).unwrap();
    assert_eq!((body["tools"][0].get("strict"), call.ignored.fields()), (None, "tools.function.strict".to_owned()));
}

#[test]
fn what_a_form_is_for_goes_with_its_schema() {
    let plain = raw(r#"{"type":"object","properties":{},"additionalProperties":false}"#);
    let named = raw(r#"{"description":"Mine.","type":"object","properties":{},"additionalProperties":false}"#);
    for (schema, expected, ignored) in
        [(&plain, "A city.", ""), (&named, "Mine.", "response_format.json_schema.description")]
    {
        let format = Format::JsonSchema {
            name: "x".into(),
            description: Some("A city.".into()),
            schema: Some(schema),
            strict: Some(true),
        };
        let call = write(&Request { format, ..hello() }, &target(SONNET_4_5)).unwrap();
        let body: Value = serde_json::from_slice(&call.body).unwrap();
        assert_eq!(body["output_config"]["format"]["schema"]["description"], expected);
        assert_eq!(call.ignored.fields(), ignored);
    }
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
    let strict = json!({ "name": "d", "input_schema": { "type": "object", "properties": {}, "additionalProperties": false }, "strict": true });
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
    let format = json!({ "format": { "type": "json_schema", "schema": { "description": "why", "type": "object", "additionalProperties": false } } });
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
    let mut around = exact["output_config"]["format"]["schema"].clone();
    assert_eq!(around.as_object_mut().unwrap().remove("description"), Some(json!("why")));
    assert_eq!((&around["type"], &around["properties"]["answer"]["type"]), (&json!("object"), &json!("array")));
    assert_eq!(memo, Memo { wrapped: Wrapped::Value, ..Memo::default() });
    let (loose, memo) = sent(&Request { format: schema_format(&list, false), ..hello() }, SONNET_4_5);
    assert_eq!(loose["tools"][0]["input_schema"], around);
    assert_eq!((memo.json_tool.as_deref(), memo.wrapped), (Some("give_answer"), Wrapped::Value));
    let forced = Request { tools: vec![tool("f", None)], tool_choice: Some(ToolChoice::Required), ..hello() };
    let (_, memo) = sent(&Request { format: schema_format(&list, false), ..forced }, SONNET_4_5);
    assert_eq!(memo, Memo::default(), "an answer that is a call has nothing around it");
    let itself = raw(r##"{"type":"array","items":{"$ref":"#"}}"##);
    let refused = write(&Request { format: schema_format(&itself, true), ..hello() }, &target(SONNET_4_5)).unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("response_format.json_schema.schema"));
}
