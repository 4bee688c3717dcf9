//! No bytes make any entry point panic, and any body that is accepted is rewritten to exactly what was meant.

use std::ffi::OsStr;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::OnceLock;

use bytes::Bytes;
use keyforge_providers::openai::request::scan;
use keyforge_providers::openai::rewrite::{MaxTokensField, Rewrite, rewrite};
use keyforge_providers::openai::stream::StreamMeter;
use keyforge_providers::openai::{conversation, embeddings, usage};
use keyforge_providers::sse::Event;
use keyforge_providers::verdict::Verdict;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::entry_points;

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
    if !edit.usage_option {
        if body["stream_options"].is_object() {
            body["stream_options"] = json!({});
        }
    } else if body["stream"] == true {
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

/// Every entry point that takes bytes, and what lies behind them.
fn read_everything(bytes: &[u8]) {
    entry_points::request(bytes);
    entry_points::answer(bytes);
    entry_points::stream(bytes);
    entry_points::fault(bytes);
    if let Ok(request) = scan(bytes) {
        let edit = Rewrite {
            upstream_model: "m",
            max_output_tokens: Some(1),
            max_tokens_field: MaxTokensField::Legacy,
            usage_option: true,
        };
        // Not the body that was scanned: the result is of no use, but comes.
        black_box(rewrite(&request, Bytes::copy_from_slice(&bytes[..bytes.len() / 2]), edit));
    }
    black_box(conversation::read(bytes).is_ok());
    black_box(embeddings::read(bytes).is_ok());
    black_box(usage::read(&String::from_utf8_lossy(bytes)));
}

/// What somebody wrote, and the entry point that it is for.
#[derive(Clone, Debug)]
struct Written {
    read: fn(&[u8]),
    bytes: Vec<u8>,
}

/// What the golden cases and the seeds of the fuzz targets begin with.
fn written() -> &'static [Written] {
    static WRITTEN: OnceLock<Vec<Written>> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut written = Vec::new();
        let mut directories = vec![crate_root.join("tests/it/golden"), crate_root.join("fuzz/seeds/fault")];
        while let Some(directory) = directories.pop() {
            for path in fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
                let read: fn(&[u8]) = match path.file_name().and_then(OsStr::to_str) {
                    _ if path.is_dir() => {
                        directories.push(path);
                        continue;
                    }
                    Some("client.json") => entry_points::request,
                    Some("answer.json") => entry_points::answer,
                    Some("stream.sse") => entry_points::stream,
                    _ if directory.ends_with("fault") => entry_points::fault,
                    _ => continue,
                };
                written.push(Written { read, bytes: fs::read(path).unwrap() });
            }
        }
        assert!(written.len() > 60);
        written
    })
}

/// Bodies in which one thing could be repeated, or looked for, with each of many others.
#[test]
fn many_of_everything_that_belongs_together_stay_bounded() {
    const MANY: usize = 3000;
    let function = "f".repeat(64);
    let call = |id: usize| json!({ "id": format!("c{id}"), "function": { "name": function, "arguments": "{}" } });
    let signature = |id: usize| json!({ "type": "reasoning.encrypted", "data": "g", "format": "google-gemini-v1", "id": format!("c{id}") });
    let texts = vec![json!({ "type": "text", "text": "a" }); MANY];
    let calls: Vec<_> = (0..MANY).map(call).collect();
    let assistant = json!({
        "role": "assistant", "content": texts, "tool_calls": calls,
        "reasoning_details": (MANY / 2..MANY).map(signature).collect::<Vec<_>>(),
    });
    let one_call = json!({ "role": "assistant", "tool_calls": [call(0)] });
    let result = json!({ "role": "tool", "tool_call_id": "c0", "content": "" });
    let tool = |id: usize| json!({ "type": "function", "function": { "name": format!("f{id}"), "strict": true } });
    let tools: Vec<_> = (0..1000).map(tool).collect();
    let names: Vec<_> = (0..1000).rev().map(|id| json!({ "name": format!("f{id}") })).collect();
    let results = [vec![one_call], vec![result; MANY]].concat();
    for body in [
        json!({ "model": "m", "messages": [assistant] }),
        json!({ "model": "m", "messages": results }),
        json!({
            "model": "m", "messages": [{ "role": "user", "content": "a" }], "tools": tools,
            "tool_choice": { "type": "allowed_tools", "allowed_tools": { "mode": "required", "tools": names } },
        }),
    ] {
        entry_points::request(body.to_string().as_bytes());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes: Vec<u8>) {
        read_everything(&bytes);
    }

    #[test]
    fn any_damage_to_what_clients_and_providers_write_is_survived(
        which: prop::sample::Index,
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0..4_usize, prop::sample::select(b"\"{}[],:0-\\\n\0\xff".to_vec())), 0..4),
    ) {
        let Written { read, mut bytes } = which.get(written()).clone();
        for (at, removed, byte) in damage {
            let at = at.index(bytes.len());
            let end = (at + removed).min(bytes.len());
            bytes.splice(at..end, [byte]);
        }
        read(&bytes);
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
        usage_option: bool,
    ) {
        let text = if pretty { serde_json::to_string_pretty(&body).unwrap() } else { body.to_string() };
        let text = Bytes::from(text);
        let scanned = scan(&text);
        prop_assert_eq!(scanned.is_ok(), body["messages"].is_array(), "{:?}", scanned);
        let Ok(request) = scanned else { return Ok(()) };
        let max_tokens_field = if legacy { MaxTokensField::Legacy } else { MaxTokensField::Current };
        let edit = Rewrite { upstream_model: "up \"stream\"", max_output_tokens: limit, max_tokens_field, usage_option };
        let pieces = rewrite(&request, text, edit);
        let bytes = pieces.to_bytes();
        prop_assert_eq!(pieces.len(), bytes.len());
        // What comes out has no key twice: it is accepted again, and means what was asked for.
        let again = scan(&bytes).unwrap();
        prop_assert_eq!(again.asks_for_usage(), usage_option && (again.stream || request.asks_for_usage()));
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
            Verdict::Done | Verdict::DoneWith(_) | Verdict::Replace(_) | Verdict::UpstreamError(_) => return Err(TestCaseError::fail("none of these can be")),
        };
        let seen: Map<String, Value> = serde_json::from_slice(&Event { raw: out }.data()).unwrap();
        let mut expected = chunk;
        expected.remove("usage");
        prop_assert_eq!(seen, expected);
    }
}
