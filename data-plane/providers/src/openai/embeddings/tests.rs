//! Embeddings: what is accepted, bounded, passed on and written.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use keyforge_shared::usage::Usage;
use serde_json::{Value, json};

use super::*;
use crate::bound::{InputBound, embedding_bound};
use crate::embeddings::{Input, Response};
use crate::exchange::Stamp;
use crate::metering;
use crate::refusal::NotAnAnswer;

fn scanned(body: Value) -> EmbeddingsRequest {
    scan(body.to_string().as_bytes()).unwrap()
}

fn bound(provider: &str, body: Value, window: Option<u64>) -> u64 {
    match embedding_bound(&scanned(body), &metering::of(provider, "m"), window) {
        InputBound::Tokens(tokens) => tokens.total(),
        InputBound::Unboundable(field) => panic!("{field}"),
    }
}

#[test]
fn every_form_of_input_is_counted() {
    for (input, expected) in [
        (json!("héy"), (1, 4, 4, 0)),
        (json!(["ab", "cde"]), (2, 5, 0, 0)),
        (json!([1, 2, 3]), (1, 0, 0, 3)),
        (json!([[1, 2], [3]]), (2, 0, 0, 3)),
    ] {
        let found = scanned(json!({ "model": "m", "input": input }));
        assert_eq!((found.inputs, found.text_bytes, found.wide_bytes, found.tokens), expected, "{input}");
    }
    let found =
        scanned(json!({ "model": "m", "input": "x", "dimensions": 8, "encoding_format": "base64", "user": "u" }));
    assert_eq!((found.dimensions, found.encoding, found.extra), (Some(8), Encoding::Base64, None));
}

#[test]
fn what_is_no_input_is_refused_by_its_place() {
    for (input, path) in [
        (json!(""), "input"),
        (json!([]), "input"),
        (json!(["a", 1]), "input[1]"),
        (json!([1, "a"]), "input[1]"),
        (json!([[], [1]]), "input[0]"),
        (json!([{ "text": "a" }]), "input[0]"),
        (json!([1.5]), "input[0]"),
        (json!([-1]), "input[0]"),
        (json!({}), "input"),
        (Value::from(vec!["a"; 2049]), "input[2048]"),
    ] {
        let body = json!({ "model": "m", "input": input }).to_string();
        assert_eq!(scan(body.as_bytes()).unwrap_err().field.as_deref(), Some(path), "{path}");
    }
    for (body, path) in [
        (r#"{"input":"x"}"#, "model"),
        (r#"{"model":"m"}"#, "input"),
        (r#"{"model":"m","input":"x","model":"n"}"#, "model"),
        (r#"{"model":"m","input":"x","Input":"yy"}"#, "Input"),
        (r#"{"model":7,"input":"x"}"#, "model"),
    ] {
        assert_eq!(scan(body.as_bytes()).unwrap_err().field.as_deref(), Some(path), "{body}");
    }
    for garbage in [&b""[..], b"[]", b"{", b"\xff", b"{\"model\":\"m\",\"input\":\"x\"} x"] {
        assert!(scan(garbage).is_err());
    }
}

#[test]
fn only_the_models_name_is_changed_for_a_host_of_the_same_api() {
    let body = r#"{ "input" : "x", "model" : "a\u0062", "truncate": true }"#;
    let found = scan(body.as_bytes()).unwrap();
    assert_eq!((&*found.model, found.extra.as_deref()), ("ab", Some("truncate")));
    let rewritten = |to: &str| found.rewrite(Bytes::from(body), to).to_bytes();
    assert_eq!(rewritten("up"), r#"{ "input" : "x", "model" : "up", "truncate": true }"#);
    assert_eq!(rewritten("ab"), body);
    assert_eq!(read(body.as_bytes()).unwrap_err().field.as_deref(), Some("truncate"));
}

#[test]
fn i_3_no_input_has_more_tokens_than_its_bound() {
    let texts = json!({ "model": "m", "input": ["ab", "\u{fdfa}"] });
    assert_eq!(bound("openai", texts.clone(), None), 2 * 16 + 2 + 3);
    assert_eq!(bound("voyage", texts.clone(), None), 2 * 16 + 2 + 18);
    assert_eq!(bound("openai", texts, Some(5)), 10);
    assert_eq!(bound("openai", json!({ "model": "m", "input": [[1, 2], [3]] }), None), 2 * 16 + 3);
    let prompted = bound("voyage", json!({ "model": "m", "input": ["a", "b"], "prompt": "xyz" }), None);
    assert!(prompted >= 2 * (16 + 1 + 3));
}

#[test]
fn answers_of_the_hosts_are_metered() {
    let answer = |usage: &str| {
        format!(r#"{{"object":"list","data":[{{"embedding":[0.5],"index":0}}],"model":"e-2","usage":{usage}}}"#)
    };
    for (usage, input) in [
        (r#"{"prompt_tokens":8,"total_tokens":8}"#, Some(8)),
        (r#"{"total_tokens":12}"#, Some(12)),
        (r#"{"prompt_tokens":21,"total_tokens":21,"completion_tokens":0,"prompt_token_details":null}"#, Some(21)),
        (r#"{"prompt_tokens":0,"total_tokens":0}"#, None),
        ("null", None),
    ] {
        let read = read_answer(answer(usage).as_bytes(), 1).unwrap();
        assert_eq!(read.usage, input.map(|input| Usage { input, ..Usage::default() }), "{usage}");
        assert_eq!(read.model.as_deref(), Some("e-2"));
    }
    assert_eq!(read_answer(answer("null").as_bytes(), 2), Err(NotAnAnswer::NoEmbeddings));
    assert_eq!(read_answer(b"{}", 1), Err(NotAnAnswer::NoEmbeddings));
    assert_eq!(read_answer(b"<html>", 1), Err(NotAnAnswer::Malformed));
    assert!(matches!(read_answer(br#"{"error":{"message":"x"}}"#, 1), Err(NotAnAnswer::Refused(_))));
}

#[test]
fn answers_are_written_as_numbers_or_as_openais_libraries_ask() {
    let usage = Some(Usage { input: 3, ..Usage::default() });
    let answer = Response { vectors: vec![vec![0.1, -2.0], vec![1.0, 0.0]], usage, model: String::new() };
    let stamp = Stamp { model: "asked".to_owned(), ..Stamp::default() };
    let written = |encoding| serde_json::from_slice::<Value>(&write(&answer, encoding, &stamp)).unwrap();
    let numbers = written(Encoding::Float);
    let expected = json!({
        "object": "list", "model": "asked", "usage": { "prompt_tokens": 3, "total_tokens": 3 },
        "data": [{ "object": "embedding", "index": 0, "embedding": [0.1, -2.0] }, { "object": "embedding", "index": 1, "embedding": [1.0, 0.0] }],
    });
    assert_eq!(numbers, expected);
    let uncounted = Response { usage: None, ..answer.clone() };
    let stamp_of = |most_input| Stamp { most_input, ..stamp.clone() };
    for (most_input, tokens) in [(Some(9), 9), (None, 0)] {
        let written: Value =
            serde_json::from_slice(&write(&uncounted, Encoding::Float, &stamp_of(most_input))).unwrap();
        assert_eq!(written["usage"], json!({ "prompt_tokens": tokens, "total_tokens": tokens, "estimated": true }));
    }
    let encoded = written(Encoding::Base64)["data"][0]["embedding"].as_str().unwrap().to_owned();
    let bytes = STANDARD.decode(encoded).unwrap();
    let decoded: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
    assert_eq!(decoded, [0.1, -2.0]);
}

#[test]
fn the_hub_form_has_every_input() {
    let body =
        json!({ "model": "m", "input": ["a", "b\n"], "dimensions": 4, "encoding_format": "base64", "user": "u" })
            .to_string();
    let request = read(body.as_bytes()).unwrap();
    assert_eq!(request.inputs, [Input::Text("a".into()), Input::Text("b\n".into())]);
    assert_eq!((request.dimensions, request.user.as_deref()), (Some(4), Some("u")));
    let body = json!({ "model": "m", "input": [1, 2] }).to_string();
    assert_eq!(read(body.as_bytes()).unwrap().inputs, [Input::Tokens(vec![1, 2])]);
}
