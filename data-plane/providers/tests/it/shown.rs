//! What a translation shows the model is never more than the bound of its text: every string of the translated body, and every key that the
//! client may have chosen, counted as if each byte were a token.

use bytes::Bytes;
use keyforge_providers::bound::{InputBound, input_bound};
use keyforge_providers::exchange::{self, Destination, Stamp};
use keyforge_providers::metering;
use keyforge_providers::openai::request::scan;
use keyforge_providers::openai::rewrite::MaxTokensField;
use keyforge_providers::translate::Target;
use keyforge_shared::provider::Api;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const TARGETS: [(Api, &str, &str); 5] = [
    (Api::Anthropic, "anthropic", "claude-3-7-sonnet-latest"),
    (Api::Anthropic, "anthropic", "claude-sonnet-5"),
    (Api::Google, "google", "gemini-2.0-flash"),
    (Api::Google, "google", "gemini-2.5-pro"),
    (Api::Google, "google", "gemini-3-pro-preview"),
];

/// Members of the translated body that the model is shown something of.
const SHOWN: [&str; 8] =
    ["system", "messages", "tools", "output_config", "systemInstruction", "contents", "generationConfig", "toolConfig"];

/// Members whose values are marks of the protocol, or what only the provider reads.
const MARKS: [&str; 15] = [
    "type",
    "role",
    "mode",
    "effort",
    "cache_control",
    "signature",
    "thoughtSignature",
    "responseMimeType",
    "responseModalities",
    "thinkingConfig",
    "stopSequences",
    "allowedFunctionNames",
    "tool_use_id",
    "id",
    "temperature",
];

/// Below these, keys are the client's.
const FREE: [&str; 6] = ["input", "input_schema", "schema", "parametersJsonSchema", "args", "response"];

/// Bytes of the strings, and of the keys that are the client's.
fn shown(value: &Value, is_free: bool) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(|value| shown(value, is_free)).sum(),
        Value::Object(members) => members
            .iter()
            .filter(|(name, _)| is_free || !MARKS.contains(&name.as_str()))
            .map(|(name, value)| {
                let below = is_free || FREE.contains(&name.as_str()) || name == "responseJsonSchema";
                shown(value, below) + if is_free { name.len() } else { 0 }
            })
            .sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "\\PC{0,16}", 1 => Just(String::new()), 1 => "[ \n\t\"\\\\]{0,8}", 1 => Just("{\"a\":[1,\"b\"]}".to_owned())]
}

fn content() -> impl Strategy<Value = Value> {
    let mark = prop::option::weighted(0.2, Just(json!({ "type": "ephemeral" })));
    let part = (text(), mark).prop_map(|(text, mark)| json!({ "type": "text", "text": text, "cache_control": mark }));
    prop_oneof![text().prop_map(Value::from), prop::collection::vec(part, 0..4).prop_map(Value::from)]
}

fn function() -> impl Strategy<Value = String> {
    prop_oneof![Just("f".to_owned()), Just("give_answer".to_owned()), Just("n".repeat(64)), "[a-z_]{1,12}"]
}

/// A message of any role; the results are of calls that an assistant's message has made.
fn message() -> impl Strategy<Value = Vec<Value>> {
    let name = prop::option::of("[a-z]{1,9}");
    let spoken = (prop::sample::select(vec!["system", "developer", "user", "assistant"]), content(), name)
        .prop_map(|(role, content, name)| vec![json!({ "role": role, "content": content, "name": name })]);
    let thought = prop_oneof![
        text().prop_map(|text| json!([{ "type": "reasoning.text", "text": text, "signature": "s", "format": "anthropic-claude-v1" }])),
        text().prop_map(|text| json!([{ "type": "reasoning.text", "text": text, "signature": "s", "format": "google-gemini-v1" }])),
        text().prop_map(|data| json!([{ "type": "reasoning.encrypted", "data": data }])),
        Just(json!(null)),
    ];
    let result = prop::collection::vec(content(), 0..4);
    let called = (function(), text(), result, thought, "[a-zA-Z0-9]{1,8}", text()).prop_map(
        |(function, arguments, results, thought, id, said)| {
            let call =
                json!({ "id": id, "type": "function", "function": { "name": function, "arguments": arguments } });
            let mut messages = vec![
                json!({ "role": "assistant", "content": said, "tool_calls": [call], "reasoning_details": thought }),
            ];
            let result = |content| json!({ "role": "tool", "tool_call_id": id, "content": content });
            messages.extend(results.into_iter().map(result));
            messages
        },
    );
    prop_oneof![spoken, called]
}

fn schema() -> impl Strategy<Value = Value> {
    let none = prop_oneof![Just(json!(null)), Just(json!({}))];
    let some = (text(), text()).prop_map(|(name, description)| {
        json!({ "type": "object", "properties": { name: { "type": "string", "description": description } }, "additionalProperties": false })
    });
    prop_oneof![none, some]
}

fn body() -> impl Strategy<Value = Value> {
    let tool = (function(), text(), schema(), prop::option::of(any::<bool>())).prop_map(
        |(name, description, parameters, strict)| {
            json!({ "type": "function", "function": {
                "name": name, "description": description, "parameters": parameters, "strict": strict } })
        },
    );
    let format = prop_oneof![
        Just(json!(null)),
        Just(json!({ "type": "json_object" })),
        (schema(), text(), any::<bool>()).prop_map(|(schema, description, strict)| {
            let schema = if schema.is_null() { json!({ "type": "object" }) } else { schema };
            json!({ "type": "json_schema", "json_schema": {
                "name": "n", "description": description, "schema": schema, "strict": strict } })
        }),
    ];
    let effort = prop::option::of(prop::sample::select(vec!["none", "low", "high"]));
    let choice = prop::option::of(prop::sample::select(vec!["auto", "none"]));
    // Said many times over, so that what is once in every bound hides nothing.
    let times = prop_oneof![Just(1_usize), Just(20)];
    (prop::collection::vec(message(), 1..6), times, prop::collection::vec(tool, 0..3), format, effort, choice).prop_map(
        |(messages, times, tools, format, effort, choice)| {
            let mut body = Map::new();
            body.insert("model".to_owned(), "m".into());
            body.insert("messages".to_owned(), vec![messages.concat(); times].concat().into());
            body.insert("tools".to_owned(), tools.into());
            body.insert("response_format".to_owned(), format);
            body.insert("reasoning_effort".to_owned(), effort.into());
            body.insert("tool_choice".to_owned(), choice.into());
            Value::from(body)
        },
    )
}

/// How many bytes a translation shows, how many it may show, and what it is; `None` if it was refused.
fn shown_and_bound(body: &Value, (api, provider, model): (Api, &str, &str)) -> Option<(usize, u64, Value)> {
    let bytes = Bytes::from(body.to_string());
    let request = scan(&bytes).ok()?;
    let target = Target { model, limit: None, model_limit: None };
    let destination = Destination { api, target, limit_field: MaxTokensField::Current, usage_option: true };
    let (sent, _) = exchange::chat(&request, bytes, &destination, Stamp::default()).ok()?;
    let sent: Value = serde_json::from_slice(&sent.body.to_bytes()).unwrap();
    let InputBound::Tokens(bound) = input_bound(&request, &metering::of(provider, model), None) else { return None };
    let shown = SHOWN.iter().map(|name| shown(&sent[*name], false)).sum();
    Some((shown, bound.text, sent))
}

proptest! {
    #[test]
    fn i_3_no_translation_shows_more_than_the_bound_of_its_text(body in body()) {
        for target in TARGETS {
            if let Some((shown, bound, sent)) = shown_and_bound(&body, target) {
                prop_assert!(shown as u64 <= bound, "{target:?}: {shown} > {bound}: {sent}");
            }
        }
    }
}

/// What a provider wants repeated or written around each of many small things.
#[test]
fn i_3_many_of_the_smallest_messages_show_no_more_than_their_bound() {
    const MANY: usize = 2_000;
    let name = "n".repeat(64);
    let call =
        json!({ "role": "assistant", "tool_calls": [{ "id": "c", "function": { "name": name, "arguments": "{}" } }] });
    let result = json!({ "role": "tool", "tool_call_id": "c", "content": "1" });
    let results = [vec![call.clone()], vec![result.clone(); MANY]].concat();
    let pairs: Vec<_> = (0..MANY).flat_map(|_| [call.clone(), result.clone()]).collect();
    let turns: Vec<_> = (0..MANY)
        .flat_map(|_| [json!({ "role": "user", "content": "u" }), json!({ "role": "system", "content": "s" })])
        .collect();
    let named = vec![json!({ "role": "user", "name": "x", "content": "u" }); MANY];
    let parts = json!([{ "role": "user", "content": vec![json!({ "type": "text", "text": "u" }); MANY] }]);
    let later = json!([
        { "role": "user", "content": "u" },
        { "role": "system", "content": vec![json!({ "type": "text", "text": "s" }); MANY] },
    ]);
    for messages in [results.into(), pairs.into(), turns.into(), named.into(), parts, later] {
        let body: Value = json!({ "model": "m", "messages": messages });
        for target in TARGETS {
            let (shown, bound, _) = shown_and_bound(&body, target).unwrap();
            assert!(shown as u64 <= bound, "{target:?}: {shown} > {bound}");
        }
    }
}
