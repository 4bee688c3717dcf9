//! Tools, the choice of them and the form of the answer, read into the hub form.

use serde_json::{Value, json};

use super::super::conversation::read;
use super::super::conversation::tests::{refused, with};
use crate::chat::request::{Format, ToolChoice};

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
