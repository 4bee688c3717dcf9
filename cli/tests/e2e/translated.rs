//! Recorded answers of Anthropic's and Google's APIs, fetched through the gateway by chat completions: what the model said, why it ended and what it
//! took are the same as in the recording, read there by other code than the gateway's.
//!
//! As with the recordings of chat completions, every exchange gets a model of its own in the catalogue, named after it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use futures_util::{StreamExt, stream};
use keyforge_loadtest::provider::{FaultRule, Recording, Reply as Scripted, Script, load_folder};
use keyforge_proto::admin::v1 as admin;
use serde_json::{Value, json};

use crate::corpus::{RATES, add_models_of, corpus, ensure};
use crate::harness::{Gateway, Reply, provider};
use crate::sdk::add_credential;

/// What a model said and what it took, as far as chat completions can tell it.
#[derive(Debug, Default, PartialEq)]
struct Said {
    text: String,
    thought: String,
    /// Name and arguments.
    calls: Vec<(String, Value)>,
    finish: String,
    counts: Option<Counts>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    input: u64,
    input_audio: u64,
    cached: u64,
    written_5m: u64,
    written_1h: u64,
    output: u64,
    reasoning: u64,
}

impl Counts {
    const fn prompt(&self) -> u64 {
        self.input + self.input_audio + self.cached + self.written_5m + self.written_1h
    }

    fn nano_usd(&self) -> u64 {
        let rate = |price: Option<u64>| price.unwrap_or_default();
        let pico = self.input * RATES.input
            + self.input_audio * rate(RATES.input_audio)
            + self.cached * rate(RATES.cache_read)
            + self.written_5m * rate(RATES.cache_write_5m)
            + self.written_1h * rate(RATES.cache_write_1h)
            + self.output * RATES.output
            + self.reasoning * rate(RATES.reasoning);
        pico.div_ceil(1000)
    }
}

/// One API whose answers are translated.
#[derive(Clone, Copy)]
struct Source {
    provider: &'static str,
    /// Below the folder of recordings.
    folders: &'static [&'static str],
    read: fn(&Recording) -> Said,
}

const SOURCES: [Source; 2] = [
    Source { provider: "anthropic", folders: &["anthropic/messages"], read: anthropic },
    Source {
        provider: "google",
        folders: &[
            "google/generateContent",
            "google/streamGenerateContent",
            "vertex/generateContent",
            "vertex/streamGenerateContent",
        ],
        read: google,
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_answers_of_anthropic_mean_the_same_as_chat_completions() {
    replay(SOURCES[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_answers_of_google_mean_the_same_as_chat_completions() {
    replay(SOURCES[1]).await;
}

async fn replay(source: Source) {
    let Some(corpus) = corpus() else {
        eprintln!("skipped: no recordings; set KEYFORGE_CORPUS to their directory");
        return;
    };
    let mut recordings: Vec<_> =
        source.folders.iter().flat_map(|folder| load_folder(&Path::new(&corpus).join(folder)).unwrap()).collect();
    let all = recordings.len();
    let mut left_out = Vec::new();
    recordings.retain(|recording| match reason_to_leave_out(recording) {
        Some(reason) => {
            left_out.push(format!("{}: {reason}", recording.id));
            false
        }
        None => true,
    });
    let scripted = provider(Script::default());
    let gateway = Gateway::start(&scripted).await;
    let names: Vec<_> = recordings.iter().map(|recording| recording.id.as_str()).collect();
    add_credential(&gateway, source.provider, &scripted).await;
    add_models_of(&gateway, source.provider, &names).await;
    let (key, key_id) = gateway.create_key("replay", admin::Policy::default()).await;
    let mut problems = BTreeMap::new();
    let mut sent: HashMap<String, &Recording> = HashMap::new();
    for piece in [1000, 7, 1] {
        let rules = recordings.iter().map(|recording| rule(recording, piece)).collect();
        scripted.change_script(|script| script.faults = rules);
        let chosen = recordings.iter().filter(|recording| piece == 1000 || is_stream(recording));
        let replies = chosen.map(|recording| {
            let (gateway, key) = (&gateway, &key);
            async move { (recording, gateway.chat_as(key, &asked(recording)).await) }
        });
        let replies: Vec<_> = stream::iter(replies).buffer_unordered(8).collect().await;
        for (recording, reply) in replies {
            if let Err(problem) = check(&(source.read)(recording), &reply) {
                problems.entry(recording.id.clone()).or_insert(format!("pieces of {piece}: {problem}"));
            }
            sent.insert(reply.header("x-request-id").to_owned(), recording);
        }
    }
    for entry in gateway.entries(&key_id, sent.len()).await {
        let recording = sent.remove(&entry.request_id).expect("an entry of a request that was sent");
        if let Err(problem) = check_entry(&(source.read)(recording), &entry) {
            problems.entry(recording.id.clone()).or_insert(problem);
        }
    }
    assert!(sent.is_empty(), "without an entry: {sent:?}");
    let good = recordings.len() - problems.len();
    eprintln!("{}: {good} of {}, {} of {all} left out", source.provider, recordings.len(), left_out.len());
    left_out.iter().for_each(|line| eprintln!("left out: {line}"));
    let report: Vec<_> = problems.iter().map(|(id, problem)| format!("{id}: {problem}")).collect();
    assert!(report.is_empty(), "{}", report.join("\n"));
    assert!(recordings.len() > 100, "the recordings are incomplete: {}", recordings.len());
}

/// What is not an answer: refusals say something of the credential that all recordings share, and are tested where they are read.
fn reason_to_leave_out(recording: &Recording) -> Option<&'static str> {
    let body = &recording.response.body;
    if recording.response.status != 200 {
        Some("a refusal")
    } else if body.trim_start().starts_with('[') {
        Some("a stream in the form that is never asked for, one JSON array")
    } else if lines(body).any(|event| !event["error"].is_null()) {
        Some("an error inside a stream")
    } else {
        None
    }
}

fn rule(recording: &Recording, piece: usize) -> FaultRule {
    let mut reply = Scripted::from_recording(recording, Some(piece));
    if is_stream(recording) && !recording.response.headers.contains_key("content-type") {
        reply = reply.with_header("content-type", "text/event-stream");
    }
    FaultRule { model: Some(recording.id.clone()), ..FaultRule::always(reply) }
}

fn is_stream(recording: &Recording) -> bool {
    recording.request.body["stream"] == true || recording.endpoint == "streamGenerateContent"
}

fn asked(recording: &Recording) -> Value {
    let mut body = json!({ "model": recording.id, "messages": [{ "role": "user", "content": "Hello there" }] });
    if is_stream(recording) {
        body["stream"] = json!(true);
        body["stream_options"] = json!({ "include_usage": true });
    }
    body
}

/// The JSON of the events of a stream.
fn lines(body: &str) -> impl Iterator<Item = Value> {
    body.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok())
}

fn count(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}

/// What an Anthropic recording says.
fn anthropic(recording: &Recording) -> Said {
    let body = &recording.response.body;
    if !is_stream(recording) {
        return anthropic_message(&serde_json::from_str(body).unwrap());
    }
    let (mut message, mut partial): (Value, BTreeMap<u64, String>) = (json!({ "content": [] }), BTreeMap::new());
    for event in lines(body) {
        let index = count(&event, "index");
        let at = usize::try_from(index).unwrap();
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => message = event["message"].clone(),
            "content_block_start" => {
                message["content"].as_array_mut().unwrap().push(event["content_block"].clone());
                assert_eq!(message["content"].as_array().unwrap().len(), at + 1, "{}", recording.id);
            }
            "content_block_delta" => {
                let (delta, block) = (&event["delta"], &mut message["content"][at]);
                for name in ["text", "thinking"] {
                    if let Some(more) = delta[name].as_str() {
                        block[name] = json!(format!("{}{more}", block[name].as_str().unwrap_or_default()));
                    }
                }
                if let Some(more) = delta["partial_json"].as_str() {
                    partial.entry(index).or_default().push_str(more);
                }
            }
            "message_delta" => {
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                for (name, value) in event["usage"].as_object().unwrap() {
                    if !value.is_null() {
                        message["usage"][name] = value.clone();
                    }
                }
            }
            _ => {}
        }
    }
    for (index, text) in partial {
        let input = serde_json::from_str(&text).unwrap_or(if text.is_empty() { json!({}) } else { json!(text) });
        message["content"][usize::try_from(index).unwrap()]["input"] = input;
    }
    anthropic_message(&message)
}

fn anthropic_message(message: &Value) -> Said {
    let mut said = Said::default();
    for block in message["content"].as_array().unwrap() {
        match block["type"].as_str().unwrap_or_default() {
            "text" => said.text.push_str(block["text"].as_str().unwrap()),
            "thinking" => said.thought.push_str(block["thinking"].as_str().unwrap()),
            "tool_use" => said.calls.push((block["name"].as_str().unwrap().to_owned(), block["input"].clone())),
            _ => {}
        }
    }
    said.finish = match message["stop_reason"].as_str().unwrap_or_default() {
        "tool_use" => "tool_calls",
        "max_tokens" | "model_context_window_exceeded" => "length",
        "refusal" => "content_filter",
        _ => "stop",
    }
    .to_owned();
    let usage = &message["usage"];
    let written = count(usage, "cache_creation_input_tokens");
    let written_1h = count(&usage["cache_creation"], "ephemeral_1h_input_tokens").min(written);
    let output = count(usage, "output_tokens");
    let reasoning = count(&usage["output_tokens_details"], "thinking_tokens").min(output);
    said.counts = Some(Counts {
        input: count(usage, "input_tokens"),
        input_audio: 0,
        cached: count(usage, "cache_read_input_tokens"),
        written_5m: written - written_1h,
        written_1h,
        output: output - reasoning,
        reasoning,
    });
    said
}

/// What a Google recording says.
fn google(recording: &Recording) -> Said {
    let body = &recording.response.body;
    let chunks: Vec<Value> =
        if is_stream(recording) { lines(body).collect() } else { vec![serde_json::from_str(body).unwrap()] };
    let mut said = Said::default();
    let (mut finish, mut usage) = (String::new(), Value::Null);
    for chunk in &chunks {
        let candidate = &chunk["candidates"][0];
        for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
            let text = part["text"].as_str().unwrap_or_default();
            if part["thought"] == true {
                said.thought.push_str(text)
            } else {
                said.text.push_str(text)
            }
            if let Some(call) = part["functionCall"].as_object() {
                let arguments = call.get("args").cloned().unwrap_or_else(|| json!({}));
                said.calls.push((call["name"].as_str().unwrap().to_owned(), arguments));
            }
        }
        // Some recordings have the number of the enumeration's member.
        match &candidate["finishReason"] {
            Value::String(reason) => finish.clone_from(reason),
            Value::Number(number) => {
                let number = usize::try_from(number.as_u64().unwrap()).unwrap();
                finish = ["", "STOP", "MAX_TOKENS", "SAFETY"][number].to_owned();
            }
            _ => {}
        }
        if let Some(reason) = chunk["promptFeedback"]["blockReason"].as_str() {
            finish = reason.to_owned();
        }
        if chunk["usageMetadata"].is_object() {
            usage = chunk["usageMetadata"].clone();
        }
    }
    said.finish = match finish.as_str() {
        "MAX_TOKENS" => "length",
        "STOP" | "UNEXPECTED_TOOL_CALL" | "MALFORMED_FUNCTION_CALL" | "OTHER" if said.calls.is_empty() => "stop",
        "STOP" | "UNEXPECTED_TOOL_CALL" => "tool_calls",
        "" => "",
        _ => "content_filter",
    }
    .to_owned();
    let sound = |name: &str| {
        let details = usage[name].as_array().into_iter().flatten();
        details.filter(|one| one["modality"] == "AUDIO").map(|one| count(one, "tokenCount")).sum::<u64>()
    };
    let heard = sound("promptTokensDetails");
    let prompt = count(&usage, "promptTokenCount") + count(&usage, "toolUsePromptTokenCount");
    // Sound is billed as sound, cached or not.
    let cached = count(&usage, "cachedContentTokenCount") - sound("cacheTokensDetails");
    // What does not say how much it read is charged at its bound.
    said.counts = usage["promptTokenCount"].is_u64().then(|| Counts {
        input: prompt.checked_sub(cached + heard).unwrap_or_else(|| panic!("{}: {usage}", recording.id)),
        input_audio: heard,
        cached,
        output: count(&usage, "candidatesTokenCount"),
        reasoning: count(&usage, "thoughtsTokenCount"),
        ..Counts::default()
    });
    said
}

/// What the gateway's chat completion says.
fn told(reply: &Reply) -> Said {
    if reply.header("content-type").starts_with("text/event-stream") {
        return told_in_chunks(reply);
    }
    let answer = reply.json();
    let message = &answer["choices"][0]["message"];
    let mut said = Said { finish: finish(&answer["choices"][0]), ..Said::default() };
    said.text.push_str(message["content"].as_str().unwrap_or_default());
    said.thought.push_str(message["reasoning_content"].as_str().unwrap_or_default());
    for call in message["tool_calls"].as_array().into_iter().flatten() {
        assert!(!call["id"].as_str().unwrap().is_empty());
        said.calls.push(call_of(&call["function"]["name"], call["function"]["arguments"].as_str().unwrap()));
    }
    said.counts = counts_of(&answer["usage"]);
    said
}

fn told_in_chunks(reply: &Reply) -> Said {
    let (mut said, mut calls) = (Said::default(), BTreeMap::<u64, (Value, String)>::new());
    assert!(reply.text().trim_end().ends_with("data: [DONE]"), "{}", reply.text());
    for chunk in lines(&reply.text()) {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        said.counts = counts_of(&chunk["usage"]).or(said.counts);
        let Some(choice) = chunk["choices"].get(0) else { continue };
        let delta = &choice["delta"];
        said.text.push_str(delta["content"].as_str().unwrap_or_default());
        said.thought.push_str(delta["reasoning_content"].as_str().unwrap_or_default());
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let known = calls.entry(count(call, "index")).or_default();
            if call["function"]["name"].is_string() {
                known.0 = call["function"]["name"].clone();
            }
            known.1.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
        }
        if choice["finish_reason"].is_string() {
            said.finish = finish(choice);
        }
    }
    said.calls = calls.into_values().map(|(name, arguments)| call_of(&name, &arguments)).collect();
    said
}

fn finish(choice: &Value) -> String {
    choice["finish_reason"].as_str().unwrap_or_default().to_owned()
}

fn call_of(name: &Value, arguments: &str) -> (String, Value) {
    let parsed = serde_json::from_str(arguments).unwrap_or_else(|_| json!(arguments));
    (name.as_str().unwrap_or_default().to_owned(), parsed)
}

/// Only the totals that chat completions have; the entry has the rest.
fn counts_of(usage: &Value) -> Option<Counts> {
    usage.is_object().then(|| Counts {
        input: count(usage, "prompt_tokens"),
        cached: count(&usage["prompt_tokens_details"], "cached_tokens"),
        output: count(usage, "completion_tokens"),
        reasoning: count(&usage["completion_tokens_details"], "reasoning_tokens"),
        ..Counts::default()
    })
}

fn check(expected: &Said, reply: &Reply) -> Result<(), String> {
    ensure(reply.status == 200, || format!("status {}: {}", reply.status, reply.text()))?;
    let said = told(reply);
    ensure(said.text == expected.text, || format!("text {:?}, not {:?}", said.text, expected.text))?;
    ensure(said.thought == expected.thought, || format!("thought {:?}, not {:?}", said.thought, expected.thought))?;
    ensure(said.calls == expected.calls, || format!("calls {:?}, not {:?}", said.calls, expected.calls))?;
    ensure(said.finish == expected.finish, || format!("finish {:?}, not {:?}", said.finish, expected.finish))?;
    let totals = expected.counts.map(|counts| Counts {
        input: counts.prompt(),
        cached: counts.cached,
        output: counts.output + counts.reasoning,
        reasoning: counts.reasoning,
        ..Counts::default()
    });
    ensure(said.counts == totals, || format!("counts {:?}, not {totals:?}", said.counts))
}

fn check_entry(expected: &Said, entry: &admin::RequestEntry) -> Result<(), String> {
    let Some(counts) = expected.counts else { return Ok(()) };
    let written = entry.input_tokens + entry.cache_read_tokens + entry.cache_write_tokens;
    ensure(written == counts.prompt(), || format!("the entry's input: {entry:?}, not {counts:?}"))?;
    ensure(entry.cost_nano_usd == counts.nano_usd(), || format!("the cost: {entry:?}, not {}", counts.nano_usd()))
}
