//! No bytes make any entry point panic, and any body that is accepted is rewritten to exactly what was meant.

use std::hint::black_box;

use bytes::Bytes;
use http::HeaderMap;
use keyforge_providers::bound::input_bound;
use keyforge_providers::metering;
use keyforge_providers::openai::request::scan;
use keyforge_providers::openai::rewrite::{MaxTokensField, Rewrite, rewrite};
use keyforge_providers::openai::stream::{StreamMeter, Verdict};
use keyforge_providers::openai::{fault, response, usage};
use keyforge_providers::sse::{Event, Splitter};
use keyforge_shared::clock::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|quarters| Value::from(f64::from(quarters) / 4.0)),
        "\\PC{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "text",
            "image_url",
            "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA",
            "usage",
            "flex",
            "function",
            "input_audio",
            "mp3"
        ])
        .prop_map(Value::from),
    ];
    let key = prop_oneof![
        "\\PC{0,6}",
        prop::sample::select(vec![
            "type",
            "content",
            "url",
            "usage",
            "error",
            "choices",
            "delta",
            "role",
            "image_url",
            "input_audio",
            "data",
            "detail",
            "message"
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A body that is often a good request, and otherwise nearly one.
fn any_request() -> impl Strategy<Value = Value> {
    let options = prop_oneof![
        Just(json!(null)),
        Just(json!({})),
        Just(json!({"include_usage": true})),
        Just(json!({"include_usage": false, "include_obfuscation": false})),
        Just(json!({"include_usage": null})),
        Just(json!({"x": [1, {"include_usage": 3}]})),
    ];
    let limit = || prop_oneof![Just(json!(null)), (1u64..100_000).prop_map(Value::from)];
    let members = (
        prop::option::of("[a-z0-9\"\\\\é]{1,12}"),
        prop::option::weighted(0.9, prop::collection::vec(any_value(), 0..2)),
        prop::option::of(any::<bool>()),
        prop::option::of(options),
        prop::option::of(limit()),
        prop::option::of(limit()),
        prop::option::of(any_value()),
    );
    members.prop_map(|(model, content, stream, options, max_tokens, max_completion_tokens, other)| {
        let mut body = Map::new();
        let mut set = |name: &str, value: Option<Value>| value.map(|value| body.insert(name.to_owned(), value));
        set("model", Some(model.unwrap_or_else(|| "gpt".to_owned()).into()));
        set("messages", content.map(|content| json!([{"role": "user", "content": content}])));
        set("stream", stream.map(Value::from));
        set("stream_options", options);
        set("max_tokens", max_tokens);
        set("max_completion_tokens", max_completion_tokens);
        set("metadata", other);
        Value::Object(body)
    })
}

/// The edit that `rewrite` promises, made on the parsed body.
fn expected(mut body: Value, edit: Rewrite<'_>) -> Value {
    body["model"] = edit.upstream_model.into();
    if let Some(limit) = edit.max_output_tokens {
        let names = ["max_tokens", "max_completion_tokens"];
        let mut set: Vec<&str> = names.into_iter().filter(|name| body[*name].is_u64()).collect();
        match edit.max_tokens_field {
            MaxTokensField::Current if set.is_empty() => set.push("max_completion_tokens"),
            MaxTokensField::Current => {}
            MaxTokensField::Legacy => set.push("max_tokens"),
        }
        for name in set {
            body[name] = limit.into();
        }
    }
    if body["stream"] == true {
        body["stream_options"]["include_usage"] = true.into();
    }
    // Indexing has made nulls of what was absent.
    strip_absent(body)
}

/// Removes top-level nulls, so that absent and null compare equal.
fn strip_absent(mut body: Value) -> Value {
    if let Some(members) = body.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    body
}

/// Every entry point that takes bytes.
fn read_everything(bytes: &[u8]) {
    if let Ok(request) = scan(bytes) {
        for (provider, model) in
            [("openai", "gpt-4o"), ("openai", "gpt-4o-audio-preview"), ("openai", "gpt-5-mini"), ("x", "y")]
        {
            black_box(input_bound(&request, &metering::of(provider, model), Some(1000)));
            black_box(input_bound(&request, &metering::of(provider, model), None));
        }
        let edit =
            Rewrite { upstream_model: "m", max_output_tokens: Some(1), max_tokens_field: MaxTokensField::Legacy };
        // Not the body that was scanned: the result is of no use, but comes.
        black_box(rewrite(&request, Bytes::copy_from_slice(&bytes[..bytes.len() / 2]), edit));
    }
    black_box(response::read(bytes).is_ok());
    black_box(usage::read(&String::from_utf8_lossy(bytes)));
    for status in [200, 400, 401, 403, 429, 500] {
        black_box(fault::read(status, &HeaderMap::new(), bytes, Timestamp::from_millis(0)));
    }
    let mut splitter = Splitter::new(1000);
    splitter.feed(Bytes::copy_from_slice(bytes));
    let mut meter = StreamMeter::new(false);
    while let Some(Ok(event)) = splitter.next_event() {
        black_box(meter.on_event(&event));
    }
    if let Some(event) = splitter.finish() {
        black_box(meter.on_event(&event));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes: Vec<u8>) {
        read_everything(&bytes);
    }

    #[test]
    fn any_damage_to_json_is_survived(value in any_value(), at: prop::sample::Index, byte: u8, framed: bool) {
        let mut bytes = if framed { format!("data: {value}\n\n") } else { value.to_string() }.into_bytes();
        read_everything(&bytes);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        read_everything(&bytes);
    }

    #[test]
    fn an_accepted_request_is_rewritten_to_exactly_what_was_meant(
        body in any_request(),
        pretty: bool,
        limit in prop::option::of(1u64..1000),
        legacy: bool,
    ) {
        let text = if pretty { serde_json::to_string_pretty(&body).unwrap() } else { body.to_string() };
        let text = Bytes::from(text);
        let scanned = scan(&text);
        prop_assert_eq!(scanned.is_ok(), body["messages"].is_array(), "{:?}", scanned);
        let Ok(request) = scanned else { return Ok(()) };
        let max_tokens_field = if legacy { MaxTokensField::Legacy } else { MaxTokensField::Current };
        let edit = Rewrite { upstream_model: "up \"stream\"", max_output_tokens: limit, max_tokens_field };
        let pieces = rewrite(&request, text, edit);
        let bytes = pieces.to_bytes();
        prop_assert_eq!(pieces.len(), bytes.len());
        // What comes out has no key twice: it is accepted again, and means what was asked for.
        let again = scan(&bytes).unwrap();
        prop_assert_eq!(again.asks_for_usage() || !again.stream, true);
        let rewritten = strip_absent(serde_json::from_slice(&bytes).unwrap());
        prop_assert_eq!(rewritten, expected(body, edit));
    }

    #[test]
    fn a_trimmed_chunk_is_the_chunk_without_usage(members in prop::collection::vec(("[abu]|usage|choices", any_value()), 0..5), pretty: bool) {
        let chunk: Map<String, Value> = members.into_iter().collect();
        let text = if pretty { serde_json::to_string_pretty(&chunk).unwrap() } else { Value::from(chunk.clone()).to_string() };
        let raw: String = text.lines().map(|line| format!("data: {line}\n")).chain(["\n".to_owned()]).collect();
        let event = Event { raw: raw.into() };
        let mut meter = StreamMeter::new(false);
        let out = match meter.on_event(&event) {
            Verdict::Forward => event.raw,
            Verdict::ForwardTrimmed(pieces) => pieces.to_bytes(),
            Verdict::Drop => {
                let choices = chunk.get("choices").and_then(Value::as_array);
                prop_assert!(choices.is_none_or(Vec::is_empty) && !chunk["usage"].is_null());
                return Ok(());
            }
            Verdict::Done | Verdict::UpstreamError(_) => return Err(TestCaseError::fail("neither can be")),
        };
        let seen: Map<String, Value> = serde_json::from_slice(&Event { raw: out }.data()).unwrap();
        let mut expected = chunk;
        expected.remove("usage");
        prop_assert_eq!(seen, expected);
    }
}
