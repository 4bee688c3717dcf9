//! Recorded traffic must be read as what it is.

use std::collections::BTreeMap;

use bytes::Bytes;
use keyforge_providers::bound::{InputBound, embedding_bound, input_bound};
use keyforge_providers::chat::request::{Content, Role};
use keyforge_providers::fault::FaultKind;
use keyforge_providers::metering;
use keyforge_providers::openai::rewrite::{MaxTokensField, Rewrite, rewrite};
use keyforge_providers::openai::stream::StreamMeter;
use keyforge_providers::openai::{conversation, embeddings, fault, request, response};
use keyforge_providers::sse::{Event, Splitter};
use keyforge_providers::verdict::Verdict;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::provider::Api;
use keyforge_shared::usage::Usage;
use serde_json::Value;

use crate::money::assert_paid_for;
use crate::recorded::{Exchange, chat_exchanges, exchanges};

fn events(stream: &str, size: usize) -> Vec<Event> {
    let mut splitter = Splitter::new(1 << 20);
    let mut events = Vec::new();
    for piece in stream.as_bytes().chunks(size) {
        splitter.feed(Bytes::copy_from_slice(piece));
        while let Some(event) = splitter.next_event() {
            events.push(event.unwrap());
        }
    }
    events.extend(splitter.finish());
    events
}

/// The chunks of a stream, read line by line, independently of the code under test.
fn chunks(stream: &str) -> Vec<Value> {
    stream.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok()).collect()
}

/// The last usage among answers or chunks as (prompt, completion), by the meaning of its members.
fn recorded_totals(answers: &[Value]) -> Option<(u64, u64)> {
    let mut usages = answers.iter().flat_map(|answer| [&answer["usage"], &answer["x_groq"]["usage"]]);
    let usage = usages.rfind(|usage| usage.is_object())?;
    let (prompt, completion) = (usage["prompt_tokens"].as_u64()?, usage["completion_tokens"].as_u64()?);
    let reasoning = usage["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap_or(0);
    // Some hosts count reasoning in the total alone.
    let completion = match usage["total_tokens"].as_u64() {
        Some(total) => completion.max(total.saturating_sub(prompt)),
        None if reasoning > completion => completion + reasoning,
        None => completion,
    };
    Some((prompt, completion))
}

fn totals(usage: Option<Usage>) -> Option<(u64, u64)> {
    usage.map(|usage| (usage.input_total(), usage.output_total()))
}

/// What the client gets of a stream, and its meter.
fn through(stream: &str, size: usize, client_asked: bool) -> (Vec<u8>, StreamMeter) {
    let mut meter = StreamMeter::new(client_asked);
    let mut out = Vec::new();
    for event in events(stream, size) {
        match meter.on_event(&event) {
            Verdict::Forward | Verdict::Done => out.extend_from_slice(&event.raw),
            Verdict::ForwardTrimmed(pieces) => pieces.iter().for_each(|piece| out.extend_from_slice(piece)),
            Verdict::Drop => {}
            Verdict::Replace(_) | Verdict::DoneWith(_) => panic!("nothing is translated"),
            Verdict::UpstreamError(_) => break,
        }
    }
    (out, meter)
}

fn streams() -> Vec<Exchange> {
    chat_exchanges(None).into_iter().filter(Exchange::is_stream).collect()
}

#[test]
fn streams_pass_untouched_wherever_they_are_cut() {
    for exchange in chat_exchanges(Some("openai")).into_iter().filter(Exchange::is_stream) {
        let whole = events(&exchange.response, usize::MAX);
        for size in 1..=17 {
            assert_eq!(events(&exchange.response, size), whole, "{} in pieces of {size}", exchange.name);
            let (out, meter) = through(&exchange.response, size, true);
            assert_eq!(out, exchange.response.as_bytes(), "{} in pieces of {size}", exchange.name);
            assert_eq!(totals(meter.usage()), recorded_totals(&chunks(&exchange.response)), "{}", exchange.name);
        }
    }
}

#[test]
fn streams_of_every_host_are_metered_as_recorded() {
    for exchange in streams() {
        let (out, meter) = through(&exchange.response, usize::MAX, true);
        let chunks = chunks(&exchange.response);
        let has_error = chunks.iter().any(|chunk| !chunk["error"].is_null());
        if !has_error {
            assert_eq!(out, exchange.response.as_bytes(), "{}", exchange.name);
            assert_eq!(meter.done(), exchange.response.contains("data: [DONE]"), "{}", exchange.name);
        }
        let reasons = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().into_iter().flatten());
        let finished = reasons.filter(|choice| choice["finish_reason"].is_string()).count() > 0;
        assert_eq!(meter.finished(), finished, "{}", exchange.name);
        assert_eq!(totals(meter.usage()), recorded_totals(&chunks), "{}", exchange.name);
        assert_eq!(meter.model(), chunks.iter().rev().find_map(|chunk| chunk["model"].as_str()), "{}", exchange.name);
    }
}

#[test]
fn a_client_that_did_not_ask_gets_the_stream_it_would_have_got() {
    for exchange in streams() {
        let (out, _) = through(&exchange.response, usize::MAX, false);
        let seen = chunks(std::str::from_utf8(&out).unwrap());
        let errors = |chunk: &Value| !chunk["error"].is_null();
        let mut expected: Vec<Value> =
            chunks(&exchange.response).into_iter().take_while(|chunk| !errors(chunk)).collect();
        expected
            .retain(|chunk| !(chunk["usage"].is_object() && chunk["choices"].as_array().is_some_and(Vec::is_empty)));
        for chunk in &mut expected {
            chunk.as_object_mut().unwrap().remove("usage");
        }
        assert_eq!(seen, expected, "{}", exchange.name);
    }
}

#[test]
fn content_is_counted_as_recorded() {
    for exchange in chat_exchanges(Some("openai")).into_iter().filter(Exchange::is_stream) {
        let (_, meter) = through(&exchange.response, usize::MAX, true);
        let text = |value: &Value| value.as_str().map_or(0, str::len);
        let mut expected = 0;
        for chunk in chunks(&exchange.response) {
            for choice in chunk["choices"].as_array().unwrap() {
                let delta = &choice["delta"];
                expected += text(&delta["content"]) + text(&delta["refusal"]);
                for call in delta["tool_calls"].as_array().into_iter().flatten().chain([delta]) {
                    for function in [&call["function"], &call["custom"], &call["function_call"]] {
                        expected += text(&function["name"]) + text(&function["arguments"]) + text(&function["input"]);
                    }
                }
            }
        }
        if let Some((_, completion)) = totals(meter.usage()) {
            assert_eq!(meter.has_content(), expected > 0, "{}: {completion} tokens", exchange.name);
        }
    }
}

#[test]
fn answers_are_read_as_recorded() {
    for exchange in chat_exchanges(None).into_iter().filter(|exchange| exchange.is_success() && !exchange.is_stream()) {
        let value: Value = match serde_json::from_str(&exchange.response) {
            Ok(value) => value,
            Err(_) => {
                assert!(response::read(exchange.response.as_bytes()).is_err(), "{}", exchange.name);
                continue;
            }
        };
        let answer = response::read(exchange.response.as_bytes()).unwrap_or_else(|e| panic!("{}: {e}", exchange.name));
        assert_eq!(totals(answer.usage), recorded_totals(std::slice::from_ref(&value)), "{}", exchange.name);
        assert_eq!(answer.model.as_deref(), value["model"].as_str(), "{}", exchange.name);
        let cached = value["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
        if let (Some(cached), Some(usage)) = (cached, answer.usage) {
            assert_eq!(usage.cache_read, cached, "{}", exchange.name);
        }
    }
}

#[test]
fn recorded_requests_are_scanned_and_rewritten() {
    for exchange in chat_exchanges(None).into_iter().filter(|exchange| exchange.request.is_object()) {
        let body = Bytes::from(exchange.request.to_string());
        let request = match request::scan(&body) {
            Ok(request) => request,
            Err(error) => panic!("{}: {error}", exchange.name),
        };
        assert_eq!(request.model, exchange.request["model"], "{}", exchange.name);
        assert_eq!(request.stream, exchange.request["stream"] == true, "{}", exchange.name);
        let edit = Rewrite {
            upstream_model: "other",
            max_output_tokens: Some(7),
            max_tokens_field: MaxTokensField::Current,
            usage_option: true,
        };
        let rewritten: Value = serde_json::from_slice(&rewrite(&request, body, edit).to_bytes()).unwrap();
        assert_eq!(rewritten["model"], "other", "{}", exchange.name);
        assert_eq!(rewritten["messages"], exchange.request["messages"], "{}", exchange.name);
        assert!(rewritten["max_tokens"] == 7 || rewritten["max_completion_tokens"] == 7, "{}", exchange.name);
        assert_eq!(rewritten["stream_options"]["include_usage"] == true, request.stream, "{}", exchange.name);
    }
}

#[test]
fn recorded_requests_are_read_whole_or_refused_by_what_only_their_host_has() {
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    let (mut read, mut all) = (0, 0);
    for exchange in chat_exchanges(None).into_iter().filter(|exchange| exchange.request.is_object()) {
        all += 1;
        let body = exchange.request.to_string();
        match conversation::read(body.as_bytes()) {
            Ok(hub) => {
                read += 1;
                let messages = exchange.request["messages"].as_array().unwrap();
                let role = |name: &str| messages.iter().filter(|message| message["role"] == name).count();
                let turns = |role: Role| hub.turns.iter().filter(|turn| turn.role == role).count();
                assert_eq!(turns(Role::Assistant), role("assistant"), "{}", exchange.name);
                assert_eq!(turns(Role::System), role("system"), "{}", exchange.name);
                let called: Vec<_> = messages
                    .iter()
                    .flat_map(|message| message["tool_calls"].as_array().into_iter().flatten())
                    .collect();
                let parts = || hub.turns.iter().flat_map(|turn| &turn.parts);
                let calls = parts().filter_map(|part| match &part.content {
                    Content::ToolCall(call) => Some(&*call.id),
                    _ => None,
                });
                assert!(calls.eq(called.iter().map(|call| call["id"].as_str().unwrap())), "{}", exchange.name);
                let results = parts().filter(|part| matches!(part.content, Content::ToolResult(_))).count();
                assert_eq!(results, role("tool"), "{}", exchange.name);
                let offered = |field: &str| exchange.request[field].as_array().map_or(0, Vec::len);
                assert_eq!(hub.tools.len(), offered("tools") + offered("functions"), "{}", exchange.name);
            }
            Err(error) => *refused.entry(error.field.unwrap_or(error.message)).or_default() += 1,
        }
    }
    println!("{read} of {all} recorded requests are read; refused: {refused:#?}");
    assert!(read * 10 >= all * 9, "{read} of {all}: {refused:#?}");
}

/// The context windows of the models in the recordings whose media have no formula.
fn window(exchange: &Exchange) -> u64 {
    match exchange.request["model"].as_str() {
        Some(name) if name.contains("llama") || name.contains("gpt-4-vision") => 128_000,
        _ => 131_072,
    }
}

#[test]
fn i_3_no_recorded_prompt_is_larger_than_its_bound() {
    let mut paid = 0;
    let mut ratios: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for exchange in chat_exchanges(None).into_iter().filter(Exchange::is_success) {
        let answers = match serde_json::from_str(&exchange.response) {
            Ok(answer) => vec![answer],
            Err(_) => chunks(&exchange.response),
        };
        let Some((prompt, _)) = recorded_totals(&answers) else { continue };
        let Ok(request) = request::scan(exchange.request.to_string().as_bytes()) else {
            assert!(exchange.request.is_null(), "{}", exchange.name);
            continue;
        };
        let host = metering::of(&exchange.provider, &request.model);
        let bound = input_bound(&request, &host, None);
        let what = match (request.content.is_text(), exchange.provider.as_str()) {
            (true, "openai") => "text at OpenAI",
            (true, _) => "text elsewhere",
            (false, _) => "media by formula",
        };
        match bound {
            InputBound::Tokens(bound) => {
                assert!(prompt <= bound.total(), "{}: {prompt} > {}", exchange.name, bound.total());
                paid += usize::from(assert_paid_for(Api::OpenAi, &exchange, &request, &exchange.request, bound));
                ratios.entry(what).or_default().push(bound.total() as f64 / prompt as f64);
            }
            InputBound::Unboundable("messages") => {
                let InputBound::Tokens(most) = input_bound(&request, &host, Some(window(&exchange))) else {
                    panic!("{}: no bound by the window", exchange.name)
                };
                assert!(prompt <= most.total(), "{}", exchange.name);
                paid += usize::from(assert_paid_for(Api::OpenAi, &exchange, &request, &exchange.request, most));
            }
            InputBound::Unboundable("model") => assert!(host.searches, "{}", exchange.name),
            InputBound::Unboundable(field) => assert!(!exchange.request[field].is_null(), "{}", exchange.name),
        }
    }
    for (what, mut ratios) in ratios {
        ratios.sort_by(f64::total_cmp);
        let at = |share: f64| ratios.get((ratios.len() as f64 * share) as usize).copied().unwrap_or_default();
        println!("{what}: {} prompts; bound by prompt: median {:.1}, 90 % {:.1}", ratios.len(), at(0.5), at(0.9));
    }
    println!("{paid} costs within their bounds");
}

#[test]
fn recorded_failures_are_classified() {
    for exchange in chat_exchanges(None).into_iter().filter(|exchange| !exchange.is_success()) {
        let fault =
            fault::read(exchange.status, &exchange.headers, exchange.response.as_bytes(), Timestamp::from_millis(0));
        let kinds: &[FaultKind] = match exchange.status {
            400 | 413 | 422 => &[FaultKind::ClientError],
            404 => &[FaultKind::NoModel],
            401 | 403 => &[FaultKind::Dead],
            408 => &[FaultKind::Ambiguous],
            429 => &[FaultKind::Throttled, FaultKind::ClientError],
            _ => &[FaultKind::ServerError],
        };
        assert!(kinds.contains(&fault.kind), "{}: {fault:?}", exchange.name);
        for secret in ["REDACTED", "sk-", "****", "org-"] {
            assert!(!fault.message.contains(secret), "{}: {fault:?}", exchange.name);
        }
        if exchange.name.contains("request-too-large") {
            assert_eq!(fault.kind, FaultKind::ClientError);
            assert_eq!(fault.code.as_deref(), Some("rate_limit_exceeded"));
        }
    }
}

#[test]
fn recorded_embeddings_are_bounded_and_metered() {
    let all =
        ["openai", "azure", "mistral", "voyage"].into_iter().flat_map(|provider| exchanges(provider, "embeddings"));
    for exchange in all.filter(|exchange| exchange.request.is_object()) {
        let request = match embeddings::scan(exchange.request.to_string().as_bytes()) {
            Ok(request) => request,
            Err(error) => panic!("{}: {error}", exchange.name),
        };
        if !exchange.is_success() {
            continue;
        }
        let answer = embeddings::read_answer(exchange.response.as_bytes(), request.inputs);
        let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", exchange.name));
        let recorded: Value = serde_json::from_str(&exchange.response).unwrap();
        let input = answer.usage.unwrap().input;
        assert_eq!(Some(input), recorded["usage"]["total_tokens"].as_u64(), "{}", exchange.name);
        assert_eq!(answer.model.as_deref(), recorded["model"].as_str(), "{}", exchange.name);
        let host = metering::of(&exchange.provider, &request.model);
        let InputBound::Tokens(bound) = embedding_bound(&request, &host, None) else { panic!("{}", exchange.name) };
        assert!(input <= bound.total(), "{}: {input} > {}", exchange.name, bound.total());
    }
}
