//! Recorded answers of Anthropic must be read as what they are, whole or streamed, and come back to their maker unchanged.

use std::collections::BTreeMap;
use std::hint::black_box;

use bytes::Bytes;
use http::HeaderMap;
use keyforge_providers::anthropic::{Anthropic, fault, headroom};
use keyforge_providers::chat::event::{Delta, Event as ChatEvent};
use keyforge_providers::chat::request::{Content, Maker};
use keyforge_providers::chat::response::Finish;
use keyforge_providers::exchange::{self, Destination, Stamp};
use keyforge_providers::fault::{Fault, FaultKind};
use keyforge_providers::openai::request;
use keyforge_providers::openai::rewrite::MaxTokensField;
use keyforge_providers::sse::Splitter;
use keyforge_providers::translate::{Memo, Target, Translator};
use keyforge_providers::verdict::Verdict;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::provider::Api;
use keyforge_shared::usage::{ServiceTier, Usage};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::anthropic_requests::list;
use crate::recorded::{Exchange, exchanges};

pub fn messages() -> Vec<Exchange> {
    exchanges("anthropic", "messages")
}

/// An answer, in what a client sees of it and is billed for. Pieces of one kind are joined.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    id: String,
    model: String,
    text: String,
    /// Name, id and arguments; these parsed if they are JSON.
    calls: Vec<(String, String, Result<Value, String>)>,
    thinking: String,
    signatures: Vec<String>,
    redacted: Vec<String>,
    finish: Option<Finish>,
    usage: Option<Usage>,
    tier: Option<ServiceTier>,
}

impl Seen {
    fn call(&mut self, name: &str, id: &str, arguments: &str) {
        let arguments = serde_json::from_str(arguments).map_err(|_| arguments.to_owned());
        self.calls.push((name.to_owned(), id.to_owned(), arguments));
    }

    fn whole(body: &str) -> Self {
        let memo = Memo::default();
        let answer = Anthropic.answer(body.as_bytes(), &memo).unwrap();
        let [choice] = &answer.choices[..] else { panic!("one choice") };
        let mut seen = Self {
            id: answer.id,
            model: answer.model,
            usage: answer.usage,
            tier: answer.tier,
            finish: Some(choice.finish.clone()),
            ..Self::default()
        };
        for part in &choice.parts {
            let signature = part.signature.as_ref().map(|signature| signature.value.to_string());
            match &part.content {
                Content::Text(text) => seen.text.push_str(text),
                Content::ToolCall(call) => seen.call(&call.name, &call.id, &call.arguments),
                Content::Thinking(text) => {
                    seen.thinking.push_str(text);
                    seen.signatures.extend(signature);
                }
                Content::RedactedThinking(data) => seen.redacted.push(data.to_string()),
                Content::Native { maker: Maker::Anthropic, block } => assert!(block.get().contains("\"type\"")),
                other => panic!("{other:?}"),
            }
        }
        seen
    }

    /// A stream that comes in pieces of `size` bytes.
    fn streamed(stream: &str, size: usize) -> Result<Self, Box<Fault>> {
        let mut decoder = Anthropic.stream(&Memo::default());
        let (mut splitter, mut out) = (Splitter::new(1 << 20), Vec::new());
        for piece in stream.as_bytes().chunks(size) {
            splitter.feed(Bytes::copy_from_slice(piece));
            while let Some(event) = splitter.next_event() {
                decoder.event(&event.unwrap(), &mut out)?;
            }
        }
        if let Some(event) = splitter.finish() {
            decoder.event(&event, &mut out)?;
        }
        assert!(decoder.is_done());
        let (mut seen, mut calls) = (Self::default(), Vec::<(String, String, String)>::new());
        for event in out {
            match event {
                ChatEvent::Start { id, model } => (seen.id, seen.model) = (id, model),
                ChatEvent::Finish { choice: 0, finish } => assert_eq!(seen.finish.replace(finish), None),
                ChatEvent::Usage { usage, tier, .. } => (seen.usage, seen.tier) = (Some(usage), tier),
                ChatEvent::Delta { choice: 0, delta } => match delta {
                    Delta::Text(text) => seen.text.push_str(&text),
                    Delta::Thinking(text) => seen.thinking.push_str(&text),
                    Delta::Signature(signature) => seen.signatures.push(signature.value.into_owned()),
                    Delta::RedactedThinking(signature) => seen.redacted.push(signature.value.into_owned()),
                    Delta::ToolCall { index, id, name, .. } => {
                        assert_eq!(index as usize, calls.len(), "indexes have no gaps");
                        calls.push((name, id, String::new()));
                    }
                    Delta::Arguments { index, fragment } => calls[index as usize].2.push_str(&fragment),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        }
        calls.iter().for_each(|(name, id, arguments)| seen.call(name, id, arguments));
        Ok(seen)
    }

    /// What a recorded answer says, read by the meaning of its members alone.
    fn recorded(answer: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut seen = Self { id: text(&answer["id"]), model: text(&answer["model"]), ..Self::default() };
        for block in answer["content"].as_array().unwrap() {
            match block["type"].as_str().unwrap() {
                "text" => seen.text.push_str(block["text"].as_str().unwrap()),
                "tool_use" => seen.calls.push((text(&block["name"]), text(&block["id"]), Ok(block["input"].clone()))),
                "thinking" => {
                    seen.thinking.push_str(&text(&block["thinking"]));
                    seen.signatures
                        .extend(block["signature"].as_str().filter(|value| !value.is_empty()).map(str::to_owned));
                }
                "redacted_thinking" => seen.redacted.push(text(&block["data"])),
                _ => {}
            }
        }
        seen.finish = Some(match answer["stop_reason"].as_str().unwrap() {
            "end_turn" | "stop_sequence" => Finish::Stop,
            "tool_use" => Finish::ToolCalls,
            "max_tokens" => Finish::Length,
            other => panic!("{other}"),
        });
        seen.usage = Some(recorded_usage(&answer["usage"]));
        let tier = answer["usage"]["service_tier"].as_str();
        seen.tier = tier.map(|tier| if tier == "standard" { ServiceTier::Standard } else { panic!("{tier}") });
        seen
    }
}

pub fn recorded_usage(usage: &Value) -> Usage {
    let count = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let written = count("/cache_creation_input_tokens");
    let hour = count("/cache_creation/ephemeral_1h_input_tokens");
    let thinking = count("/output_tokens_details/thinking_tokens");
    Usage {
        input: count("/input_tokens"),
        cache_read: count("/cache_read_input_tokens"),
        cache_write_5m: written - hour,
        cache_write_1h: hour,
        output: count("/output_tokens") - thinking,
        reasoning: thinking,
        ..Usage::default()
    }
}

/// The answer that a stream amounts to, put together from its events read line by line. `None`: it is an error.
pub fn assembled(stream: &str) -> Option<Value> {
    let events = stream.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data:")?).ok());
    let (mut answer, mut inputs) = (Value::Null, BTreeMap::<usize, String>::new());
    for event in events {
        let at = event["index"].as_u64().unwrap_or(0) as usize;
        match event["type"].as_str().unwrap() {
            "message_start" => answer = event["message"].clone(),
            "content_block_start" => answer["content"].as_array_mut().unwrap().push(event["content_block"].clone()),
            "content_block_delta" => {
                let (delta, block) = (&event["delta"], &mut answer["content"][at]);
                for name in ["text", "thinking", "signature"] {
                    if let Some(more) = delta[name].as_str() {
                        block[name] = Value::from(block[name].as_str().unwrap_or_default().to_owned() + more);
                    }
                }
                if let Some(more) = delta["partial_json"].as_str() {
                    inputs.entry(at).or_default().push_str(more);
                }
            }
            "message_delta" => {
                answer["stop_reason"] = event["delta"]["stop_reason"].clone();
                for (name, value) in event["usage"].as_object().unwrap() {
                    answer["usage"][name] = value.clone();
                }
            }
            "error" => return None,
            _ => {}
        }
    }
    for (at, input) in inputs.iter().filter(|(_, input)| !input.is_empty()) {
        answer["content"][at]["input"] = serde_json::from_str(input).unwrap_or_else(|_| Value::from(input.as_str()));
    }
    Some(answer)
}

#[test]
fn every_recorded_answer_is_read_as_what_it_is() {
    let mut count = 0;
    for exchange in messages().into_iter().filter(|exchange| exchange.is_success() && !exchange.is_stream()) {
        let answer: Value = serde_json::from_str(&exchange.response).unwrap();
        assert_eq!(Seen::whole(&exchange.response), Seen::recorded(&answer), "{}", exchange.name);
        count += 1;
    }
    println!("{count} answers");
}

#[test]
fn every_recorded_stream_is_read_as_what_it_is_wherever_it_is_cut() {
    let (mut count, mut errors) = (0, 0);
    for exchange in messages().into_iter().filter(Exchange::is_stream) {
        let Some(answer) = assembled(&exchange.response) else {
            let fault = Seen::streamed(&exchange.response, 7).unwrap_err();
            assert_eq!((fault.kind, fault.in_answer), (FaultKind::Overloaded, true), "{}", exchange.name);
            errors += 1;
            continue;
        };
        let mut expected = Seen::recorded(&answer);
        // Arguments that were cut off are no JSON.
        for (_, _, arguments) in &mut expected.calls {
            if let Ok(Value::String(cut)) = arguments {
                *arguments = Err(std::mem::take(cut));
            }
        }
        for size in [1, 2, 3, 5, 7, 11, 64, 1000, usize::MAX] {
            let seen = Seen::streamed(&exchange.response, size).unwrap();
            assert_eq!(seen, expected, "{} in pieces of {size}", exchange.name);
        }
        if expected.calls.iter().all(|(_, _, arguments)| arguments.is_ok()) {
            assert_eq!(Seen::whole(&answer.to_string()), expected, "{} as a whole", exchange.name);
        }
        count += 1;
    }
    println!("{count} streams, {errors} of nothing but an error");
}

#[test]
fn the_input_that_a_stream_gives_first_is_its_last_unless_the_provider_ran_tools() {
    let mut count = 0;
    for exchange in messages().into_iter().filter(Exchange::is_stream) {
        let Some(answer) = assembled(&exchange.response) else { continue };
        let mut decoder = Anthropic.stream(&Memo::default());
        let mut splitter = Splitter::new(1 << 20);
        splitter.feed(Bytes::from(exchange.response));
        let mut first = None;
        while let Some(Ok(event)) = splitter.next_event() {
            decoder.event(&event, &mut Vec::new()).unwrap();
            first = first.or(decoder.input_seen());
        }
        let usage = Usage { output: 0, reasoning: 0, ..recorded_usage(&answer["usage"]) };
        if decoder.input_seen().is_some() {
            assert_eq!((first, decoder.input_seen()), (Some(usage), Some(usage)), "{}", exchange.name);
            count += 1;
        }
    }
    println!("{count} streams without tools of the provider's");
}

#[test]
fn recorded_failures_say_whose_fault_they_are() {
    for exchange in messages().into_iter().filter(|exchange| !exchange.is_success()) {
        let fault =
            fault::read(exchange.status, &exchange.headers, exchange.response.as_bytes(), Timestamp::from_millis(0));
        let expected = match exchange.status {
            400 => FaultKind::ClientError,
            404 => FaultKind::NoModel,
            401 => FaultKind::Dead,
            429 if exchange.name.contains("should-not-retry") => FaultKind::ClientError,
            429 => FaultKind::Throttled,
            503 | 529 => FaultKind::Overloaded,
            other => panic!("{other}"),
        };
        assert_eq!(fault.kind, expected, "{}: {fault:?}", exchange.name);
        assert_eq!(fault.retry_after.is_some(), exchange.headers.contains_key("retry-after"), "{}", exchange.name);
        for unwanted in ["x-api-key", "upstream connect", "request_id"] {
            assert!(!fault.message.contains(unwanted), "{}: {fault:?}", exchange.name);
        }
    }
}

#[test]
fn recorded_limits_are_read() {
    let limited = |exchange: &Exchange| exchange.headers.contains_key("anthropic-ratelimit-requests-limit");
    for exchange in messages().into_iter().filter(limited) {
        let windows = headroom::read(&exchange.headers, Timestamp::from_millis(0));
        let limits = exchange.headers.keys().filter(|name| name.as_str().ends_with("-limit")).count();
        assert_eq!(windows.len(), limits, "{}: {windows:?}", exchange.name);
    }
}

/// The body that goes to Anthropic for a chat completions request, and how its answer is read.
fn exchanged(chat: &Value) -> (Value, exchange::Exchange) {
    let body = Bytes::from(chat.to_string());
    let request = request::scan(&body).unwrap();
    let destination = Destination {
        api: Api::Anthropic,
        target: Target { model: "claude-sonnet-5", limit: Some(9000), model_limit: Some(128_000) },
        limit_field: MaxTokensField::Current,
        usage_option: true,
    };
    let (outgoing, exchange) = exchange::chat(&request, body, &destination, Stamp::default()).unwrap();
    (serde_json::from_slice(&outgoing.body.to_bytes()).unwrap(), exchange)
}

#[test]
fn every_recorded_answer_that_a_client_sends_back_reaches_its_maker_unchanged() {
    let hello = json!({ "role": "user", "content": "hi" });
    let mut count = 0;
    for recorded in messages().into_iter().filter(|exchange| exchange.is_success() && !exchange.is_stream()) {
        let answer: Value = serde_json::from_str(&recorded.response).unwrap();
        let (_, exchange) = exchanged(&json!({ "model": "m", "messages": [hello] }));
        let given = exchange.answer(Bytes::from(recorded.response)).unwrap();
        assert_eq!(given.usage, Some(recorded_usage(&answer["usage"])), "{}", recorded.name);
        let completion: Value = serde_json::from_slice(&given.body).unwrap();
        let (again, _) =
            exchanged(&json!({ "model": "m", "messages": [hello, completion["choices"][0]["message"], hello] }));
        let mut sent = json!({ "content": [], "stop_reason": answer["stop_reason"], "usage": answer["usage"] });
        if let Some(assistant) = list(&again["messages"]).iter().find(|message| message["role"] == "assistant") {
            sent["content"] = assistant["content"].clone();
        }
        let (mut sent, mut expected) = (Seen::recorded(&sent), Seen::recorded(&answer));
        for seen in [&mut sent, &mut expected] {
            (seen.id, seen.model) = (String::new(), String::new());
            // A text of white space alone is not sent back.
            seen.text = seen.text.trim().to_owned();
        }
        assert_eq!(sent, expected, "{}", recorded.name);
        count += 1;
    }
    println!("{count} answers sent back");
}

#[test]
fn every_recorded_stream_becomes_chunks_that_say_the_same() {
    let mut count = 0;
    for recorded in messages().into_iter().filter(Exchange::is_stream) {
        let Some(answer) = assembled(&recorded.response) else { continue };
        let chat = json!({ "model": "m", "stream": true, "stream_options": { "include_usage": true }, "messages": [{ "role": "user", "content": "hi" }] });
        let (sent, exchange) = exchanged(&chat);
        assert_eq!(sent["stream"], true);
        let mut reader = exchange.stream();
        let mut splitter = Splitter::new(1 << 20);
        splitter.feed(Bytes::from(recorded.response));
        let mut out = Vec::new();
        while let Some(Ok(event)) = splitter.next_event() {
            match reader.on_event(&event) {
                Verdict::Replace(bytes) | Verdict::DoneWith(bytes) => out.extend_from_slice(&bytes),
                Verdict::Drop => {}
                other => panic!("{}: {other:?}", recorded.name),
            }
        }
        assert!(reader.done() && reader.finished(), "{}", recorded.name);
        assert_eq!(reader.usage(), Some(recorded_usage(&answer["usage"])), "{}", recorded.name);
        let (mut seen, expected) = (Seen::default(), Seen::recorded(&answer));
        let mut calls = Vec::<(String, String, String)>::new();
        let out = String::from_utf8(out).unwrap();
        assert!(out.ends_with("data: [DONE]\n\n"));
        for chunk in out.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok()) {
            let delta = &chunk["choices"][0]["delta"];
            seen.text.push_str(delta["content"].as_str().unwrap_or_default());
            for call in list(&delta["tool_calls"]) {
                if let Some(id) = call["id"].as_str() {
                    calls.push((call["function"]["name"].as_str().unwrap().to_owned(), id.to_owned(), String::new()));
                }
                let at = call["index"].as_u64().unwrap() as usize;
                calls[at].2.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
            }
        }
        calls.iter().for_each(|(name, id, arguments)| seen.call(name, id, arguments));
        assert_eq!(seen.text, expected.text, "{}", recorded.name);
        assert_eq!(seen.calls.len(), expected.calls.len(), "{}", recorded.name);
        for ((name, _, arguments), (expected_name, _, expected_arguments)) in seen.calls.iter().zip(&expected.calls) {
            assert_eq!(name, expected_name, "{}", recorded.name);
            assert!(arguments == expected_arguments || arguments.is_err(), "{}", recorded.name);
        }
        count += 1;
    }
    println!("{count} streams as chunks");
}

/// Every entry point that takes bytes.
fn read_everything(bytes: &[u8], stream: &str) {
    for memo in [Memo::default(), Memo { json_tool: Some("f".to_owned()), ..Memo::default() }] {
        black_box(Anthropic.answer(bytes, &memo).is_ok());
        let mut decoder = Anthropic.stream(&memo);
        let (mut splitter, mut out) = (Splitter::new(1 << 16), Vec::new());
        splitter.feed(Bytes::copy_from_slice(stream.as_bytes()));
        while let Some(Ok(event)) = splitter.next_event() {
            if decoder.event(&event, &mut out).is_err() {
                break;
            }
        }
        decoder.end(&mut out);
        black_box((decoder.is_done(), decoder.input_seen(), out.len()));
    }
    for status in [200, 400, 404, 429, 529] {
        black_box(fault::read(status, &HeaderMap::new(), bytes, Timestamp::from_millis(i64::MAX)));
    }
}

fn any_event() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec![
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "ping",
        "error",
        "x",
    ]);
    let inner = prop::sample::select(vec![
        json!({ "type": "text", "text": "a" }),
        json!({ "type": "tool_use", "id": "t", "name": "f", "input": {} }),
        json!({ "type": "tool_use", "name": 7 }),
        json!({ "type": "text_delta", "text": "b" }),
        json!({ "type": "input_json_delta", "partial_json": "{" }),
        json!({ "type": "signature_delta", "signature": "s" }),
        json!({ "stop_reason": "end_turn" }),
        json!({ "usage": { "input_tokens": 3, "output_tokens": 1 } }),
        json!({ "input_tokens": -3 }),
        json!([]),
        Value::Null,
    ]);
    (kind, inner.clone(), inner, 0..3_u64).prop_map(|(kind, one, other, at)| {
        json!({ "type": kind, "index": at, "message": one, "content_block": one, "delta": other, "usage": other })
    })
}

proptest! {
    #[test]
    fn any_bytes_of_anthropics_are_survived(bytes: Vec<u8>, text: String) {
        read_everything(&bytes, &text);
    }

    #[test]
    fn any_events_in_any_order_are_survived(events in prop::collection::vec(any_event(), 0..12), at: prop::sample::Index, byte: char) {
        let mut stream: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        read_everything(events.first().unwrap_or(&Value::Null).to_string().as_bytes(), &stream);
        if let Some((at, _)) = stream.char_indices().nth(at.index(stream.len() + 1)) {
            stream.insert(at, byte);
        }
        read_everything(stream.as_bytes(), &stream);
    }
}
