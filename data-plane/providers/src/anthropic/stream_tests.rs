//! Streams, event by event.

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::fault::FaultKind;

fn sse(data: &Value) -> sse::Event {
    let name = data["type"].as_str().unwrap_or_default();
    sse::Event { raw: Bytes::from(format!("event: {name}\ndata: {data}       \n\n")) }
}

fn start() -> Value {
    let usage =
        json!({ "input_tokens": 12, "cache_read_input_tokens": 3, "output_tokens": 2, "service_tier": "standard" });
    json!({ "type": "message_start", "message": { "id": "msg_1", "model": "claude-x", "content": [], "usage": usage } })
}

fn block(at: u64, block: &Value) -> Value {
    json!({ "type": "content_block_start", "index": at, "content_block": block })
}

fn delta(at: u64, kind: &str, member: &str, value: &str) -> Value {
    json!({ "type": "content_block_delta", "index": at, "delta": { "type": kind, member: value } })
}

fn stop(at: u64) -> Value {
    json!({ "type": "content_block_stop", "index": at })
}

fn end(reason: &str) -> [Value; 2] {
    let usage = json!({ "output_tokens": 40 });
    [
        json!({ "type": "message_delta", "delta": { "stop_reason": reason }, "usage": usage }),
        json!({ "type": "message_stop" }),
    ]
}

/// What a decoder makes of events, in short.
fn decode(decoder: &mut MessageDecoder, events: &[Value]) -> Vec<String> {
    let mut out = Vec::new();
    for event in events {
        decoder.event(&sse(event), &mut out).unwrap();
    }
    out.iter().map(short).collect()
}

fn short(event: &Event) -> String {
    match event {
        Event::Start { id, model } => format!("start {id} {model}"),
        Event::Delta { delta, .. } => match delta {
            Delta::Text(text) => format!("text {text}"),
            Delta::Thinking(text) => format!("thinking {text}"),
            Delta::Signature(signature) => format!("signed {}", signature.value),
            Delta::RedactedThinking(signature) => format!("redacted {}", signature.value),
            Delta::ToolCall { index, id, name, .. } => format!("call {index} {id} {name}"),
            Delta::Arguments { index, fragment } => format!("arguments {index} {fragment}"),
            Delta::Refusal(text) => format!("refusal {text}"),
            other @ Delta::Logprobs(_) => panic!("{other:?}"),
        },
        Event::Finish { finish, .. } => format!("finish {finish:?}"),
        Event::Usage { usage, .. } => format!("usage {} {}", usage.input_total(), usage.output_total()),
    }
}

fn tool(id: &str, name: &str) -> Value {
    json!({ "type": "tool_use", "id": id, "name": name, "input": {} })
}

#[test]
fn why_a_model_refused_is_said_where_it_made_something() {
    for (made, expected) in [(3, vec!["refusal Not that.", "finish ContentFilter"]), (0, vec!["finish ContentFilter"])]
    {
        let details = json!({ "type": "refusal", "explanation": "Not that." });
        let events = [
            start(),
            json!({ "type": "message_delta", "delta": { "stop_reason": "refusal", "stop_details": details }, "usage": { "output_tokens": made } }),
            json!({ "type": "message_stop" }),
        ];
        let said = decode(&mut MessageDecoder::default(), &events);
        assert_eq!(said[1..=expected.len()], expected);
    }
}

#[test]
fn a_stream_is_read_block_by_block() {
    let mut events = vec![
        start(),
        json!({ "type": "ping" }),
        block(0, &json!({ "type": "thinking", "thinking": "", "signature": "" })),
        delta(0, "thinking_delta", "thinking", "hm"),
        json!({ "type": "ping" }),
        delta(0, "signature_delta", "signature", "sig"),
        stop(0),
        block(1, &json!({ "type": "redacted_thinking", "data": "xyz" })),
        stop(1),
        block(2, &json!({ "type": "text", "text": "a" })),
        delta(2, "text_delta", "text", "b"),
        delta(2, "text_delta", "text", ""),
        json!({ "type": "content_block_delta", "index": 2, "delta": { "type": "citations_delta", "citation": {} } }),
        stop(2),
        block(3, &tool("t1", "f")),
        delta(3, "input_json_delta", "partial_json", ""),
        delta(3, "input_json_delta", "partial_json", "{\"x\":"),
        delta(3, "input_json_delta", "partial_json", "1}"),
        stop(3),
        block(4, &tool("t2", "g")),
        delta(4, "input_json_delta", "partial_json", ""),
        stop(4),
        json!({ "type": "something_new", "index": "?" }),
    ];
    events.extend(end("tool_use"));
    let mut decoder = MessageDecoder::new(&Memo::default());
    let expected = [
        "start msg_1 claude-x",
        "thinking hm",
        "signed sig",
        "redacted xyz",
        "text a",
        "text b",
        "call 0 t1 f",
        "arguments 0 {\"x\":",
        "arguments 0 1}",
        "call 1 t2 g",
        "arguments 1 {}",
        "finish ToolCalls",
        "usage 15 40",
    ];
    assert_eq!(decode(&mut decoder, &events), expected);
    assert!(decoder.is_done());
    assert_eq!(decode(&mut decoder, &end("end_turn")), [""; 0], "nothing comes after the end");
}

#[test]
fn arguments_cut_off_in_the_middle_stay_as_they_are() {
    let mut events =
        vec![start(), block(0, &tool("t", "f")), delta(0, "input_json_delta", "partial_json", "{\"x\":\"y")];
    events.extend(end("max_tokens"));
    let out = decode(&mut MessageDecoder::new(&Memo::default()), &events);
    assert_eq!(out[1..], ["call 0 t f", "arguments 0 {\"x\":\"y", "finish Length", "usage 15 40"]);
}

#[test]
fn arguments_that_come_at_once_are_passed_on_once() {
    let whole = json!({ "type": "tool_use", "id": "t", "name": "f", "input": { "x": 1 } });
    let out = decode(&mut MessageDecoder::new(&Memo::default()), &[start(), block(0, &whole), stop(0)]);
    assert_eq!(out[1..], ["call 0 t f", "arguments 0 {\"x\":1}"]);
}

#[test]
fn the_call_that_stands_for_a_form_is_text() {
    let memo = Memo { json_tool: Some("give_answer".to_owned()), ..Memo::default() };
    let mut events = vec![
        start(),
        block(0, &tool("t", "give_answer")),
        delta(0, "input_json_delta", "partial_json", "{\"a\":"),
        delta(0, "input_json_delta", "partial_json", "1}"),
        stop(0),
        block(1, &tool("u", "give_answer")),
        delta(1, "input_json_delta", "partial_json", "{}"),
        stop(1),
    ];
    events.extend(end("tool_use"));
    let out = decode(&mut MessageDecoder::new(&memo), &events);
    assert_eq!(out[1..], ["text {\"a\":", "text 1}", "finish Stop", "usage 15 40"]);
    let words =
        [start(), block(0, &json!({ "type": "text", "text": "" })), delta(0, "text_delta", "text", "Sure:"), stop(0)];
    let mut besides = words.to_vec();
    besides.extend([block(1, &tool("t", "give_answer")), delta(1, "input_json_delta", "partial_json", "{}"), stop(1)]);
    besides.extend(end("tool_use"));
    assert_eq!(decode(&mut MessageDecoder::new(&memo), &besides)[1..3], ["text {}", "finish Stop"]);
    let mut alone = words.to_vec();
    alone.extend(end("end_turn"));
    assert_eq!(decode(&mut MessageDecoder::new(&memo), &alone)[1..3], ["text Sure:", "finish Stop"]);
    let mut empty = vec![start(), block(0, &tool("t", "give_answer")), stop(0)];
    empty.extend(end("tool_use"));
    assert_eq!(decode(&mut MessageDecoder::new(&memo), &empty)[1..3], ["text {}", "finish Stop"]);
}

#[test]
fn what_no_client_is_shown_was_made_all_the_same() {
    let mut decoder = MessageDecoder::default();
    decode(&mut decoder, &[start()]);
    assert!(!decoder.has_made_something());
    for made in [json!({ "type": "redacted_thinking", "data": "x" }), json!({ "type": "server_tool_use" }), json!({})] {
        let mut decoder = MessageDecoder::default();
        decode(&mut decoder, &[start(), block(0, &made)]);
        assert!(decoder.has_made_something(), "{made}");
    }
}

#[test]
fn an_error_ends_the_stream_wherever_it_comes() {
    let error = json!({ "type": "error", "error": { "type": "overloaded_error", "message": "Overloaded" } });
    for before in [vec![], vec![start()]] {
        let mut decoder = MessageDecoder::new(&Memo::default());
        decode(&mut decoder, &before);
        let fault = decoder.event(&sse(&error), &mut Vec::new()).unwrap_err();
        assert_eq!((fault.kind, fault.in_answer), (FaultKind::Overloaded, true));
    }
    let named = sse::Event { raw: Bytes::from_static(b"event: error\ndata: gone\n\n") };
    assert!(MessageDecoder::default().event(&named, &mut Vec::new()).is_err());
    let broken = sse::Event { raw: Bytes::from_static(b"data: {\"type\":\"content_block_delta\",\n\n") };
    let fault = MessageDecoder::default().event(&broken, &mut Vec::new()).unwrap_err();
    assert_eq!(fault.kind, FaultKind::ServerError);
    let comment = sse::Event { raw: Bytes::from_static(b": still there\n\n") };
    assert!(MessageDecoder::default().event(&comment, &mut Vec::new()).is_ok());
}

#[test]
fn a_stream_that_breaks_off_is_finished_only_if_it_said_why() {
    let text = [start(), block(0, &json!({ "type": "text", "text": "a" }))];
    let mut decoder = MessageDecoder::default();
    decode(&mut decoder, &text);
    let mut out = Vec::new();
    decoder.end(&mut out);
    assert!(out.is_empty() && !decoder.is_done());
    decode(&mut decoder, &end("end_turn")[..1]);
    decoder.end(&mut out);
    assert_eq!(out.iter().map(short).collect::<Vec<_>>(), ["finish Stop", "usage 15 40"]);
}

#[test]
fn the_input_is_known_from_the_start_unless_the_provider_runs_tools() {
    let mut decoder = MessageDecoder::default();
    assert_eq!(decoder.input_seen(), None);
    decode(&mut decoder, &[start()]);
    assert_eq!(decoder.input_seen().map(|usage| (usage.input_total(), usage.output_total())), Some((15, 0)));
    decode(
        &mut decoder,
        &[block(0, &json!({ "type": "server_tool_use", "id": "s", "name": "web_search", "input": {} }))],
    );
    assert_eq!(decoder.input_seen(), None);
}

#[test]
fn usage_that_contradicts_the_answer_is_unknown() {
    let last =
        json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" }, "usage": { "output_tokens": 0 } });
    let events = [start(), block(0, &json!({ "type": "text", "text": "a" })), last, json!({ "type": "message_stop" })];
    let out = decode(&mut MessageDecoder::default(), &events);
    assert_eq!(out.last().unwrap(), "finish Stop");
}
