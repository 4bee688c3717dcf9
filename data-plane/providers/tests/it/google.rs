//! Recorded traffic of Google's own API must be read as what it is, and no prompt be larger than its bound.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use keyforge_providers::bound::{InputBound, input_bound};
use keyforge_providers::chat::event::{Delta, Event};
use keyforge_providers::chat::request::{Content, Maker, Signature};
use keyforge_providers::chat::response::Finish;
use keyforge_providers::exchange::{self, Destination, Stamp};
use keyforge_providers::fault::FaultKind;
use keyforge_providers::google::{Google, fault};
use keyforge_providers::metering;
use keyforge_providers::openai::request::scan;
use keyforge_providers::openai::rewrite::MaxTokensField;
use keyforge_providers::sse::Splitter;
use keyforge_providers::translate::{Memo, Target, Translator};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::provider::Api;
use keyforge_shared::usage::Usage;
use serde_json::{Value, json};

use crate::money::assert_paid_for;
use crate::recorded::{Exchange, exchanges};

fn generations() -> Vec<Exchange> {
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
struct Told {
    text: String,
    thoughts: String,
    calls: Vec<(String, Value)>,
    signatures: Vec<String>,
    finish: String,
    /// Input, cached input, output, and of it reasoning.
    usage: Option<(u64, u64, u64, u64)>,
}

/// The chunks of a body, read independently of the code under test.
fn chunks(body: &str) -> Vec<Value> {
    match serde_json::from_str(body) {
        Ok(Value::Array(chunks)) => chunks,
        Ok(whole) => vec![whole],
        Err(_) => body.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok()).collect(),
    }
}

/// What is recorded, by the meaning of the members.
fn recorded(chunks: &[Value]) -> Told {
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

fn either(value: &Value, camel: &str, snake: &str) -> Value {
    if value[camel].is_null() { value[snake].clone() } else { value[camel].clone() }
}

fn first(value: &Value, names: [&str; 3]) -> Value {
    names.iter().map(|name| value[*name].clone()).find(|value| !value.is_null()).unwrap_or_default()
}

/// The system's texts: recorded clients write its parts as a list or as one.
fn system(request: &Value) -> Vec<Value> {
    let parts = either(request, "systemInstruction", "system_instruction")["parts"].clone();
    let parts = parts.as_array().cloned().unwrap_or_else(|| vec![parts]);
    parts.into_iter().map(|part| part["text"].clone()).filter(|text| !text.is_null()).collect()
}

/// A recorded request as a chat completion that asks for the same; `None` where a chat completion cannot.
fn as_chat(request: &Value) -> Option<Value> {
    if !request["cachedContent"].is_null() {
        return None;
    }
    let mut messages: Vec<_> = system(request).iter().map(|text| json!({"role": "system", "content": text})).collect();
    let (mut calls, mut open) = (0, Vec::<(String, String)>::new());
    for content in request["contents"].as_array()? {
        for part in content["parts"].as_array()?.iter().filter(|part| part["thought"] != true) {
            let (call, result) =
                (either(part, "functionCall", "function_call"), either(part, "functionResponse", "function_response"));
            messages.push(if let Some(text) = part["text"].as_str() {
                json!({"role": if content["role"] == "model" { "assistant" } else { "user" }, "content": text})
            } else if call.is_object() {
                calls += 1;
                open.push((call["name"].as_str()?.to_owned(), format!("c{calls}")));
                json!({"role": "assistant", "tool_calls": [{"id": format!("c{calls}"), "type": "function",
                    "function": {"name": call["name"], "arguments": if call["args"].is_null() { "{}".to_owned() } else { call["args"].to_string() }}}]})
            } else if result.is_object() {
                let at = open.iter().position(|(name, _)| result["name"] == **name)?;
                if !result["parts"].is_null() {
                    return None;
                }
                json!({"role": "tool", "tool_call_id": open.remove(at).1, "content": result["response"].to_string()})
            } else {
                json!({"role": "user", "content": [medium(part)?]})
            });
        }
    }
    let mut chat = json!({"model": "m", "messages": messages});
    let mut tools = Vec::new();
    for tool in request["tools"].as_array().into_iter().flatten() {
        for function in either(tool, "functionDeclarations", "function_declarations").as_array()? {
            let schema = first(function, ["parametersJsonSchema", "parameters_json_schema", "parameters"]);
            tools.push(json!({"type": "function",
                "function": {"name": function["name"], "description": function["description"], "parameters": schema}}));
        }
    }
    if !tools.is_empty() {
        chat["tools"] = tools.into();
    }
    let schema = first(&request["generationConfig"], ["responseJsonSchema", "responseSchema", "response_schema"]);
    if schema.is_object() {
        chat["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
    }
    Some(chat)
}

fn medium(part: &Value) -> Option<Value> {
    let (blob, file) = (&part["inlineData"], either(part, "fileData", "file_data"));
    let (media_type, url) = if blob.is_object() {
        let url = format!("data:{};base64,{}", blob["mimeType"].as_str()?, blob["data"].as_str()?);
        (blob["mimeType"].clone(), url)
    } else {
        (either(&file, "mimeType", "mime_type"), either(&file, "fileUri", "file_uri").as_str()?.to_owned())
    };
    // Files that were uploaded, which nobody gets to name.
    if url.starts_with("gs:") || url.starts_with("https://generativelanguage.googleapis.com/") {
        return None;
    }
    Some(match media_type.as_str()?.split('/').next()? {
        "image" | "video" => json!({"type": "image_url", "image_url": {"url": url}}),
        _ if blob.is_object() => json!({"type": "file", "file": {"file_data": url, "filename": "f"}}),
        _ => json!({"type": "file", "file": {"file_data": url}}),
    })
}

/// What a body in Google's form says, part by part.
fn said(request: &Value) -> Vec<Value> {
    let mut said: Vec<_> = system(request).iter().map(|text| json!(["system", text])).collect();
    for content in request["contents"].as_array().into_iter().flatten() {
        for part in content["parts"].as_array().into_iter().flatten().filter(|part| part["thought"] != true) {
            let (call, result) =
                (either(part, "functionCall", "function_call"), either(part, "functionResponse", "function_response"));
            let file = either(part, "fileData", "file_data");
            let what = if part["text"].is_string() {
                part["text"].clone()
            } else if call.is_object() {
                json!([call["name"], if call["args"].is_null() { json!({}) } else { call["args"].clone() }])
            } else if result.is_object() {
                json!([result["name"], result["response"]])
            } else if file.is_object() {
                either(&file, "fileUri", "file_uri")
            } else {
                json!([part["inlineData"]["mimeType"], part["inlineData"]["data"]])
            };
            said.push(json!([content["role"], what]));
        }
    }
    for tool in request["tools"].as_array().into_iter().flatten() {
        for function in either(tool, "functionDeclarations", "function_declarations").as_array().into_iter().flatten() {
            let schema = first(function, ["parametersJsonSchema", "parameters_json_schema", "parameters"]);
            said.push(json!([function["name"], function["description"], schema]));
        }
    }
    said.push(first(&request["generationConfig"], ["responseJsonSchema", "responseSchema", "response_schema"]));
    said.retain(|said| *said != json!(["model", ""]) && *said != json!(["system", ""]));
    said
}

fn model(exchange: &Exchange) -> &str {
    exchange.path.split("/models/").nth(1).and_then(|rest| rest.split(':').next()).unwrap()
}

/// What is sent for a chat completion, and how its answer is read.
fn prepared(exchange: &Exchange, chat: &Value) -> (Value, exchange::Exchange) {
    let body = Bytes::from(chat.to_string());
    let request = scan(&body).unwrap_or_else(|error| panic!("{}: {error}", exchange.name));
    let destination = Destination {
        api: Api::Google,
        target: Target { model: model(exchange), limit: None, model_limit: None },
        limit_field: MaxTokensField::Current,
        usage_option: true,
    };
    let (outgoing, reader) = exchange::chat(&request, body, &destination, Stamp::default())
        .unwrap_or_else(|error| panic!("{}: {error}", exchange.name));
    (serde_json::from_slice(&outgoing.body.to_bytes()).unwrap(), reader)
}

#[test]
fn what_a_chat_completion_asks_for_is_what_was_asked_of_google() {
    let mut count = 0;
    for exchange in generations().into_iter().filter(Exchange::is_success) {
        let Some(chat) = as_chat(&exchange.request) else { continue };
        let (sent, _) = prepared(&exchange, &chat);
        assert_eq!(said(&sent), said(&exchange.request), "{}", exchange.name);
        count += 1;
    }
    println!("{count} requests");
}

/// The texts, calls and signatures of parts in Google's form, as far as a model wants them back.
fn kept(parts: &[Value]) -> (String, Vec<(Value, Value, Value)>, Vec<Value>) {
    let mut kept = (String::new(), Vec::new(), Vec::new());
    for part in parts {
        let signature = &part["thoughtSignature"];
        if part["functionCall"].is_object() {
            kept.1.push((
                part["functionCall"]["name"].clone(),
                part["functionCall"]["args"].clone(),
                signature.clone(),
            ));
        } else if part["text"].is_string() && part["thought"] != true {
            kept.0.push_str(part["text"].as_str().unwrap());
            kept.2.extend((!signature.is_null()).then(|| signature.clone()));
        }
    }
    kept
}

#[test]
fn an_answer_that_is_sent_back_is_the_one_that_was_given() {
    let (mut count, mut signatures) = (0, 0);
    for exchange in generations().into_iter().filter(|exchange| exchange.is_success() && !exchange.is_stream()) {
        let recorded: Value = serde_json::from_str(&exchange.response).unwrap();
        let (Some(mut chat), Some(parts)) =
            (as_chat(&exchange.request), recorded["candidates"][0]["content"]["parts"].as_array())
        else {
            continue;
        };
        let (_, reader) = prepared(&exchange, &chat);
        let answer = reader.answer(Bytes::copy_from_slice(exchange.response.as_bytes())).unwrap();
        let completion: Value = serde_json::from_slice(&answer.body).unwrap();
        let message = completion["choices"][0]["message"].clone();
        chat["messages"].as_array_mut().unwrap().push(message.clone());
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            chat["messages"]
                .as_array_mut()
                .unwrap()
                .push(json!({"role": "tool", "tool_call_id": call["id"], "content": "ok"}));
        }
        let (again, _) = prepared(&exchange, &chat);
        let back = again["contents"].as_array().unwrap().iter().rfind(|content| content["role"] == "model").unwrap();
        let (given, got) = (kept(parts), kept(back["parts"].as_array().unwrap()));
        signatures += given.2.len() + given.1.iter().filter(|call| !call.2.is_null()).count();
        // The history may end with a turn of the model's, which the answer then continues.
        assert!(got.0.ends_with(&given.0), "{}: {} | {}", exchange.name, got.0, given.0);
        assert_eq!((&got.1, &got.2), (&given.1, &given.2), "{}", exchange.name);
        count += 1;
    }
    println!("{count} answers with {signatures} signatures");
}

#[test]
fn i_3_no_recorded_prompt_of_googles_is_larger_than_its_bound() {
    const WINDOW: u64 = 1_048_576;
    let mut ratios: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let (mut skipped, mut paid) = (Vec::new(), 0);
    for exchange in generations().into_iter().filter(Exchange::is_success) {
        let Some((input, ..)) = recorded(&chunks(&exchange.response)).usage else { continue };
        let Some(chat) = as_chat(&exchange.request) else {
            skipped.push(exchange.name);
            continue;
        };
        let request = scan(chat.to_string().as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", exchange.name));
        let host = metering::of("google", model(&exchange));
        match input_bound(&request, &host, None) {
            InputBound::Tokens(bound) => {
                assert!(input <= bound.total(), "{}: {input} > {}", exchange.name, bound.total());
                paid += usize::from(assert_paid_for(Api::Google, &exchange, &request, &chat, bound));
                let what = if request.content.is_text() { "text" } else { "pictures" };
                ratios.entry(what).or_default().push(bound.total() as f64 / input as f64);
            }
            InputBound::Unboundable(field) => {
                assert_eq!(field, "messages", "{}", exchange.name);
                let InputBound::Tokens(most) = input_bound(&request, &host, Some(WINDOW)) else {
                    panic!("{}: no bound by the window", exchange.name)
                };
                assert!(input <= most.total(), "{}: {input} > {}", exchange.name, most.total());
                paid += usize::from(assert_paid_for(Api::Google, &exchange, &request, &chat, most));
                ratios.entry("by window").or_default().push(1.0);
            }
        }
    }
    for (what, mut ratios) in ratios {
        ratios.sort_by(f64::total_cmp);
        println!(
            "{what}: {} prompts; bound by prompt: least {:.1}, median {:.1}",
            ratios.len(),
            ratios[0],
            ratios[ratios.len() / 2]
        );
    }
    println!("{paid} costs within their bounds");
    println!("{} with what no chat completion can ask for: {skipped:?}", skipped.len());
}
