//! Recorded answers and failures of Google's own API must be read as what they are.

use std::fmt::Write as _;

use bytes::Bytes;
use keyforge_providers::chat::event::{Delta, Event};
use keyforge_providers::chat::request::{Content, Maker, Signature};
use keyforge_providers::chat::response::Finish;
use keyforge_providers::fault::FaultKind;
use keyforge_providers::google::{Google, fault};
use keyforge_providers::sse::Splitter;
use keyforge_providers::translate::{Memo, Translator};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::usage::Usage;
use serde_json::Value;

use crate::recorded::{Exchange, exchanges};

pub fn generations() -> Vec<Exchange> {
    let of = |provider, endpoint| exchanges(provider, endpoint);
    let mut all = of("google", "generateContent");
    all.extend(of("google", "streamGenerateContent"));
    all.extend(of("vertex", "generateContent"));
    all.extend(of("vertex", "streamGenerateContent"));
    assert!(all.is_empty() || all.len() > 100, "the recordings are incomplete: {}", all.len());
    all
}

/// What an answer says, flattened: texts and thoughts joined, calls, signatures in order, and counts.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    text: String,
    thoughts: String,
    calls: Vec<(String, Value)>,
    signatures: Vec<String>,
    finish: String,
    /// Input, cached input, output, and of it reasoning.
    pub usage: Option<(u64, u64, u64, u64)>,
}

/// The chunks of a body, read independently of the code under test.
pub fn chunks(body: &str) -> Vec<Value> {
    match serde_json::from_str(body) {
        Ok(Value::Array(chunks)) => chunks,
        Ok(whole) => vec![whole],
        Err(_) => body.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok()).collect(),
    }
}

/// What is recorded, by the meaning of the members.
pub fn recorded(chunks: &[Value]) -> Told {
    let mut told = Told::default();
    let is_blocked = chunks.iter().any(|chunk| !chunk["promptFeedback"]["blockReason"].is_null());
    let mut reason = if is_blocked { "SAFETY".into() } else { Value::Null };
    for chunk in chunks {
        let candidates = chunk["candidates"].as_array().cloned().unwrap_or_default();
        assert!(candidates.len() <= 1, "one candidate in every recording");
        for candidate in candidates {
            for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
                if let Some(signature) = part["thoughtSignature"].as_str() {
                    // Tools that Google runs are passed on whole, with what they hold.
                    if part["text"].is_string() || part["functionCall"].is_object() {
                        told.signatures.push(signature.to_owned());
                    }
                }
                let text = part["text"].as_str().unwrap_or_default();
                if part["thought"] == true { &mut told.thoughts } else { &mut told.text }.push_str(text);
                if let Some(name) = part["functionCall"]["name"].as_str() {
                    told.calls.push((name.to_owned(), part["functionCall"]["args"].clone()));
                }
            }
            if !candidate["finishReason"].is_null() {
                reason = candidate["finishReason"].clone();
            }
        }
    }
    told.finish = match reason.as_str().map_or_else(|| reason.to_string(), str::to_owned).as_str() {
        "STOP" | "1" | "UNEXPECTED_TOOL_CALL" if !told.calls.is_empty() => "ToolCalls".to_owned(),
        "STOP" | "1" => "Stop".to_owned(),
        "MAX_TOKENS" | "2" => "Length".to_owned(),
        "SAFETY" | "MODEL_ARMOR" => "ContentFilter".to_owned(),
        "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "IMAGE_SAFETY" => "ContentFilter".to_owned(),
        other => format!("Other({other:?})"),
    };
    let usage = chunks.iter().rev().map(|chunk| &chunk["usageMetadata"]).find(|usage| usage.is_object());
    let count = |name: &str| usage.map_or(0, |usage| usage[name].as_u64().unwrap_or(0));
    let input = count("promptTokenCount") + count("toolUsePromptTokenCount");
    let reasoning = count("thoughtsTokenCount");
    let has_audio = usage.is_some_and(|usage| usage["promptTokensDetails"].to_string().contains("AUDIO"));
    if count("promptTokenCount") > 0 {
        // Cached sound counts as sound.
        let cached_sound: u64 = usage.unwrap()["cacheTokensDetails"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|detail| has_audio && detail["modality"] == "AUDIO")
            .map(|detail| detail["tokenCount"].as_u64().unwrap())
            .sum();
        let cached = count("cachedContentTokenCount") - cached_sound;
        let output = (count("candidatesTokenCount") + reasoning).max(count("totalTokenCount").saturating_sub(input));
        told.usage = Some((input, cached, output, reasoning));
    }
    told
}

fn counts(usage: Usage) -> (u64, u64, u64, u64) {
    (usage.input_total(), usage.cache_read, usage.output_total(), usage.reasoning)
}

fn finish(finish: &Finish) -> String {
    format!("{finish:?}")
}

fn noted(signature: &Signature<'_>) -> String {
    assert_eq!(signature.maker, Maker::Google);
    signature.value.to_string()
}

/// What is read of a whole answer.
fn answered(name: &str, body: &str) -> Told {
    let answer = Google.answer(body.as_bytes(), &Memo::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let [choice] = answer.choices.as_slice() else { panic!("{name}: one choice") };
    let mut told = Told { finish: finish(&choice.finish), usage: answer.usage.map(counts), ..Told::default() };
    let mut ids = Vec::new();
    for part in &choice.parts {
        match &part.content {
            Content::Text(text) => told.text.push_str(text),
            Content::Thinking(text) => told.thoughts.push_str(text),
            Content::ToolCall(call) => {
                told.calls.push((call.name.to_string(), serde_json::from_str(&call.arguments).unwrap()));
                ids.push(call.id.to_string());
            }
            Content::Native { block, .. } => {
                assert!(block.get().contains("xecut") || block.get().contains("tool"), "{name}")
            }
            Content::Image { .. } | Content::Audio { .. } => {}
            other => panic!("{name}: {other:?}"),
        }
        told.signatures.extend(part.signature.as_ref().map(noted));
    }
    unique(name, ids);
    told
}

fn unique(name: &str, mut ids: Vec<String>) {
    let count = ids.len();
    assert!(ids.iter().all(|id| !id.is_empty() && id.len() <= 40), "{name}: {ids:?}");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "{name}");
}

/// The events of a stream whose bytes come in pieces of `size`.
fn followed(body: &str, size: usize) -> Vec<Event> {
    let (mut splitter, mut decoder) = (Splitter::new(1 << 20), Google.stream(&Memo::default()));
    let mut out = Vec::new();
    for piece in body.as_bytes().chunks(size) {
        splitter.feed(Bytes::copy_from_slice(piece));
        while let Some(event) = splitter.next_event() {
            decoder.event(&event.unwrap(), &mut out).unwrap();
        }
    }
    if let Some(event) = splitter.finish() {
        decoder.event(&event, &mut out).unwrap();
    }
    assert!(!decoder.is_done() && decoder.input_seen().is_none());
    decoder.end(&mut out);
    out
}

/// What is read of a stream.
fn streamed(name: &str, events: &[Event]) -> Told {
    let mut told = Told::default();
    let (mut ids, mut arguments) = (Vec::new(), Vec::<String>::new());
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Start { id, model } => assert!(at == 0 && !model.is_empty(), "{name}: {id}"),
            Event::Finish { choice: 0, finish: reason } => told.finish = finish(reason),
            Event::Usage { usage, .. } => told.usage = Some(counts(*usage)),
            Event::Delta { choice: 0, delta } => match delta {
                Delta::Text(text) => told.text.push_str(text),
                Delta::Thinking(text) => told.thoughts.push_str(text),
                Delta::Signature(signature) => told.signatures.push(noted(signature)),
                Delta::ToolCall { index, id, name, signature } => {
                    assert_eq!(*index as usize, ids.len());
                    ids.push(id.clone());
                    arguments.push(String::new());
                    told.calls.push((name.clone(), Value::Null));
                    told.signatures.extend(signature.as_ref().map(noted));
                }
                Delta::Arguments { index, fragment } => arguments[*index as usize].push_str(fragment),
                Delta::Logprobs(logprobs) => assert!(logprobs.get().starts_with("{\"content\":[")),
                other => panic!("{name}: {other:?}"),
            },
            other => panic!("{name}: {other:?}"),
        }
    }
    for (call, arguments) in told.calls.iter_mut().zip(arguments) {
        call.1 = serde_json::from_str(&arguments).unwrap();
    }
    unique(name, ids);
    told
}

#[test]
fn whole_answers_are_read_as_recorded() {
    let mut count = 0;
    for exchange in generations() {
        let body = &exchange.response;
        if !exchange.is_success() || !body.trim_start().starts_with('{') {
            continue;
        }
        assert_eq!(answered(&exchange.name, body), recorded(&chunks(body)), "{}", exchange.name);
        count += 1;
    }
    println!("{count} whole answers");
}

#[test]
fn streams_are_read_as_recorded_wherever_they_are_cut() {
    let mut count = 0;
    for exchange in generations().into_iter().filter(Exchange::is_stream) {
        let expected = recorded(&chunks(&exchange.response));
        let whole = format!("{:?}", followed(&exchange.response, usize::MAX));
        for size in [1, 2, 3, 5, 7, 16, 61, 1000, usize::MAX] {
            let events = followed(&exchange.response, size);
            assert_eq!(format!("{events:?}"), whole, "{} in pieces of {size}", exchange.name);
            assert_eq!(streamed(&exchange.name, &events), expected, "{} in pieces of {size}", exchange.name);
        }
        // A cut just inside of a line end.
        for at in exchange.response.match_indices("\r\n").map(|(at, _)| at + 1) {
            let (front, back) = exchange.response.split_at(at);
            let mut splitter = Splitter::new(1 << 20);
            splitter.feed(Bytes::copy_from_slice(front.as_bytes()));
            let mut events = Vec::new();
            let mut take = |splitter: &mut Splitter| {
                events.extend(std::iter::from_fn(|| splitter.next_event()).map(Result::unwrap))
            };
            take(&mut splitter);
            splitter.feed(Bytes::copy_from_slice(back.as_bytes()));
            take(&mut splitter);
            let mut decoder = Google.stream(&Memo::default());
            let mut out = Vec::new();
            for event in &events {
                decoder.event(event, &mut out).unwrap();
            }
            decoder.end(&mut out);
            assert_eq!(streamed(&exchange.name, &out), expected, "{} cut at {at}", exchange.name);
        }
        count += 1;
    }
    println!("{count} streams");
}

/// Without `alt=sse` the provider sends a list. Its elements are the chunks of a stream; the list itself must end as an error.
#[test]
fn a_list_instead_of_events_is_an_error_and_its_elements_are_chunks() {
    let mut count = 0;
    for exchange in generations().into_iter().filter(|exchange| exchange.is_success()) {
        if !exchange.response.trim_start().starts_with('[') {
            continue;
        }
        let mut splitter = Splitter::new(1 << 20);
        splitter.feed(Bytes::copy_from_slice(exchange.response.as_bytes()));
        let event = splitter.next_event().map(Result::unwrap).or_else(|| splitter.finish()).unwrap();
        let fault = Google.stream(&Memo::default()).event(&event, &mut Vec::new()).unwrap_err();
        assert_eq!((fault.kind, fault.in_answer), (FaultKind::Ambiguous, true), "{}", exchange.name);
        assert!(Google.answer(exchange.response.as_bytes(), &Memo::default()).is_err(), "{}", exchange.name);

        let chunks = chunks(&exchange.response);
        let stream = chunks.iter().fold(String::new(), |mut stream, chunk| {
            write!(stream, "data: {chunk}\r\n\r\n").unwrap();
            stream
        });
        assert_eq!(streamed(&exchange.name, &followed(&stream, 13)), recorded(&chunks), "{}", exchange.name);
        count += 1;
    }
    println!("{count} lists");
}

#[test]
fn failures_are_classified() {
    let mut failures = generations();
    failures.extend(exchanges("google", "embedContent"));
    for exchange in failures.into_iter().filter(|exchange| !exchange.is_success()) {
        let fault =
            fault::read(exchange.status, &exchange.headers, exchange.response.as_bytes(), Timestamp::from_millis(0));
        let wait = fault.retry_after.map(|wait| wait.as_secs());
        let (kinds, waits): (&[FaultKind], bool) = match exchange.status {
            429 => (&[FaultKind::Throttled, FaultKind::Closed], true),
            400 => (&[FaultKind::ClientError, FaultKind::Dead], false),
            401 | 403 => (&[FaultKind::Dead], false),
            404 => (&[FaultKind::NoModel], false),
            503 => (&[FaultKind::Overloaded], fault.retry_after.is_some()),
            _ => (&[FaultKind::ServerError, FaultKind::Ambiguous], fault.retry_after.is_some()),
        };
        assert!(kinds.contains(&fault.kind), "{}: {fault:?}", exchange.name);
        assert_eq!(wait.is_some(), waits, "{}: {fault:?}", exchange.name);
        if exchange.response.contains("\"retryDelay\": \"48s\"") {
            assert_eq!(wait, Some(48), "{}", exchange.name);
        }
        if exchange.status == 404 {
            assert_eq!(fault.code.as_deref(), Some("model_not_found"), "{}", exchange.name);
        }
        assert!(!fault.message.contains("fake-project"), "{}", fault.message);
    }
}

#[test]
fn embeddings_are_read_as_recorded() {
    for exchange in exchanges("google", "embedContent").into_iter().filter(Exchange::is_success) {
        let recorded: Value = serde_json::from_str(&exchange.response).unwrap();
        let read = Google.embedded(exchange.response.as_bytes(), &Memo::default()).unwrap();
        let lengths: Vec<_> = read.vectors.iter().map(Vec::len).collect();
        let expected: Vec<_> = recorded["embeddings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["values"].as_array().unwrap().len())
            .collect();
        assert_eq!(lengths, expected, "{}", exchange.name);
        assert!(
            (f64::from(read.vectors[0][0]) - recorded["embeddings"][0]["values"][0].as_f64().unwrap()).abs() < 1e-6
        );
        let counted = recorded["usageMetadata"]["promptTokenCount"].as_u64();
        assert_eq!(read.usage.map(|usage| usage.input_total()), counted, "{}", exchange.name);
    }
}
