//! What is written for each provider, and what clients get of its answers, compared byte for byte with the files in `golden/`.
//!
//! * `golden/requests/CASE/client.json`, a client's body; beside it, for each destination, what is sent there, or the refusal
//! * `golden/answers/PROVIDER-CASE/`: `answer.json` and `stream.sse`, the same answer twice; `asked.json`, if it is not an ordinary request
//!   that is answered; `whole.txt` and `stream.txt`, what the client gets; `back.txt`, what the provider gets when the client goes on
//!
//! After a change that is meant, `KEYFORGE_UPDATE_GOLDEN=1 cargo test -p keyforge-providers golden` writes the files anew; read the
//! difference before it is committed. A new case is a new directory with its first file, and the same command.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use keyforge_providers::exchange::{self, Destination, Exchange, Outgoing, Stamp, StreamReader};
use keyforge_providers::fault::Fault;
use keyforge_providers::openai::request::scan;
use keyforge_providers::openai::rewrite::MaxTokensField;
use keyforge_providers::refusal::RequestError;
use keyforge_providers::sse::Splitter;
use keyforge_providers::translate::Target;
use keyforge_providers::verdict::Verdict;
use keyforge_shared::provider::Api;
use serde_json::{Value, json};

/// Destinations by the names of their files.
const DESTINATIONS: [(&str, Api, &str); 6] = [
    ("openai", Api::OpenAi, "gpt-5-mini"),
    ("host-of-old-names", Api::OpenAi, "small-7b"),
    ("claude-3-7", Api::Anthropic, "claude-3-7-sonnet-20250219"),
    ("claude-5", Api::Anthropic, "claude-sonnet-5"),
    ("gemini-2-5", Api::Google, "gemini-2.5-flash"),
    ("gemini-3", Api::Google, "gemini-3-pro-preview"),
];

/// What the client of an answer asked, unless the case says so itself.
const ASKED: &str = r#"{"model":"m","messages":[{"role":"user","content":"Hello!"}],"stream":true,"stream_options":{"include_usage":true}}"#;

fn cases(kind: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(kind);
    let mut cases: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

fn called(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn send(asked: &str, destination: &str) -> Result<(Outgoing, Exchange), RequestError> {
    let (name, api, model) = *DESTINATIONS.iter().find(|(name, ..)| *name == destination).unwrap();
    let is_old = name == "host-of-old-names";
    let body = Bytes::copy_from_slice(asked.as_bytes());
    let mut destination = Destination {
        api,
        target: Target { model, limit: None, model_limit: Some(32_000) },
        limit_field: if is_old { MaxTokensField::Legacy } else { MaxTokensField::Current },
        usage_option: !is_old,
    };
    let request = scan(&body)?;
    destination.target.limit = request.max_output_tokens().map(|limit| limit.min(16_000)).or(Some(16_000));
    exchange::chat(&request, body, &destination, stamp())
}

fn stamp() -> Stamp {
    Stamp { id: "chatcmpl-stamp".to_owned(), created: 1_790_000_000, model: "m".to_owned(), most_input: None }
}

/// What goes over the wire and what the client is told to be ignored, or why nothing goes.
fn sent(asked: &str, destination: &str) -> String {
    match send(asked, destination) {
        Ok((outgoing, exchange)) => {
            let headers = outgoing.headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
            let body = outgoing.body.to_bytes();
            let ignored = Some(exchange.ignored().fields()).filter(|fields| !fields.is_empty());
            let ignored = ignored.map(|fields| format!("ignored: {fields}\n")).unwrap_or_default();
            format!("POST {}\n{}{ignored}\n{}", outgoing.path, headers.collect::<String>(), laid_out(&body))
        }
        Err(RequestError { field, message }) => {
            format!("refused for {}: {message}\n", field.as_deref().unwrap_or("the body"))
        }
    }
}

/// JSON with a line for each member: all but white space stays as it is, also the order of members.
fn laid_out(json: &[u8]) -> String {
    let json = std::str::from_utf8(json).unwrap();
    serde_json::from_str::<Value>(json).unwrap();
    let (mut out, mut depth, mut quoted, mut escaped) = (String::new(), 0_usize, false, false);
    for character in json.chars() {
        if quoted {
            out.push(character);
            quoted = escaped || character != '"';
            escaped = !escaped && character == '\\';
            continue;
        }
        match character {
            ' ' | '\t' | '\n' | '\r' => {}
            '{' | '[' => {
                depth += 1;
                write!(out, "{character}\n{:1$}", "", depth * 2).unwrap();
            }
            '}' | ']' => {
                depth -= 1;
                let is_empty = out.trim_end().ends_with(['{', '[']);
                out.truncate(out.trim_end().len());
                let line = if is_empty { String::new() } else { format!("\n{:1$}", "", depth * 2) };
                out.push_str(&line);
                out.push(character);
            }
            ',' => write!(out, ",\n{:1$}", "", depth * 2).unwrap(),
            ':' => out.push_str(": "),
            _ => {
                quoted = character == '"';
                out.push(character);
            }
        }
    }
    out + "\n"
}

/// Compares with the file, or writes it. What differs goes into `problems`.
fn compare(path: &Path, seen: &str, problems: &mut Vec<String>) {
    let updates = std::env::vars_os().any(|(name, value)| name == "KEYFORGE_UPDATE_GOLDEN" && value == "1");
    let golden = fs::read_to_string(path).unwrap_or_default();
    if golden == seen {
        return;
    }
    if updates {
        fs::write(path, seen).unwrap();
        return;
    }
    let at = golden.lines().zip(seen.lines()).take_while(|(one, other)| one == other).count();
    let line = |text: &str| text.lines().nth(at).unwrap_or("(the end)").to_owned();
    problems.push(format!("{}:{}:\n  - {}\n  + {}", path.display(), at + 1, line(&golden), line(seen)));
}

fn must_be_as_written(problems: &[String]) {
    assert!(problems.is_empty(), "see the head of golden.rs if this is meant:\n{}", problems.join("\n"));
}

#[test]
fn golden_requests_go_out_as_they_are_written() {
    let mut problems = Vec::new();
    let cases = cases("requests");
    assert!(cases.len() > 30, "cases are missing");
    for case in cases {
        let asked = fs::read_to_string(case.join("client.json")).unwrap();
        for (destination, ..) in DESTINATIONS {
            compare(&case.join(format!("{destination}.txt")), &sent(&asked, destination), &mut problems);
        }
    }
    must_be_as_written(&problems);
}

/// A case of an answer: where it lies, whose it is, and what was asked.
struct Answered {
    path: PathBuf,
    destination: &'static str,
    asked: String,
}

impl Answered {
    fn all() -> Vec<Self> {
        let of = |path: PathBuf| {
            let destination = match called(&path).split('-').next().unwrap() {
                "anthropic" => "claude-5",
                "google" => "gemini-3",
                "google2" => "gemini-2-5",
                _ => "openai",
            };
            let asked = fs::read_to_string(path.join("asked.json")).unwrap_or_else(|_| ASKED.to_owned());
            Self { path, destination, asked }
        };
        let all: Vec<Self> = cases("answers").into_iter().map(of).collect();
        assert!(all.len() > 20, "cases are missing");
        all
    }

    fn exchange(&self, asked: &str) -> Exchange {
        send(asked, self.destination).unwrap().1
    }

    fn file(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path.join(name)).ok()
    }

    /// The answer as the client gets it, or why there is none.
    fn whole(&self) -> Option<(String, Option<Value>)> {
        let answer = match self.exchange(&self.asked).answer(Bytes::from(self.file("answer.json")?)) {
            Ok(answer) => answer,
            Err(none) => return Some((format!("no answer: {none:?}\n"), None)),
        };
        let mut out = laid_out(&answer.body);
        writeln!(out, "usage: {:?}\nmodel: {:?}\ntier: {:?}", answer.usage, answer.model, answer.tier).unwrap();
        Some((out, serde_json::from_slice(&answer.body).unwrap()))
    }
}

#[test]
fn golden_answers_are_given_as_they_are_written() {
    let mut problems = Vec::new();
    for answered in Answered::all() {
        let Some((out, _)) = answered.whole() else { continue };
        compare(&answered.path.join("whole.txt"), &out, &mut problems);
    }
    must_be_as_written(&problems);
}

/// A stream as the client gets it, then what was learnt of it.
fn streamed(exchange: &Exchange, stream: String) -> (String, Option<Fault>) {
    let (mut out, mut fault) = (String::new(), None);
    let (mut splitter, mut reader) = (Splitter::new(1 << 20), exchange.stream());
    splitter.feed(Bytes::from(stream));
    while let Some(event) = splitter.next_event() {
        let event = event.unwrap();
        let told = match reader.on_event(&event) {
            Verdict::Forward | Verdict::Done => event.raw,
            Verdict::ForwardTrimmed(pieces) => pieces.to_bytes(),
            Verdict::Replace(bytes) | Verdict::DoneWith(bytes) => bytes,
            Verdict::Drop => Bytes::new(),
            Verdict::UpstreamError(error) => {
                fault = Some(error);
                break;
            }
        };
        out.push_str(std::str::from_utf8(&told).unwrap());
    }
    out.extend(reader.on_end().filter(|_| fault.is_none()).map(|last| String::from_utf8(last.to_vec()).unwrap()));
    learnt(&mut out, &reader, fault.as_ref());
    (out, fault)
}

fn learnt(out: &mut String, reader: &StreamReader, fault: Option<&Fault>) {
    let seen = (reader.has_content(), reader.finished(), reader.done());
    writeln!(out, "usage: {:?}\nmodel: {:?}\ntier: {:?}", reader.usage(), reader.model(), reader.tier()).unwrap();
    writeln!(out, "has content, finished, done: {seen:?}").unwrap();
    if let Some(fault) = fault {
        writeln!(out, "broken off: {fault:?}").unwrap();
    }
}

#[test]
fn golden_streams_are_given_as_they_are_written() {
    let mut problems = Vec::new();
    for answered in Answered::all() {
        let Some(stream) = answered.file("stream.sse") else { continue };
        let (mut out, _) = streamed(&answered.exchange(&answered.asked), stream.clone());
        if answered.destination == "openai" {
            let unasked = answered.asked.replace("\"include_usage\":true", "\"include_usage\":false");
            out.push_str("\nTo a client that does not ask for usage:\n\n");
            out.push_str(&streamed(&answered.exchange(&unasked), stream).0);
        }
        compare(&answered.path.join("stream.txt"), &out, &mut problems);
    }
    must_be_as_written(&problems);
}

/// The message of the chunks, as clients put it together: texts of one place are joined, everything else is set.
fn assembled(stream: &str) -> Value {
    let mut message = json!({ "content": null, "refusal": null });
    let chunks = stream.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    for choice in chunks.filter_map(|chunk| chunk["choices"].get(0).cloned()) {
        join(&mut message, &choice["delta"]);
        if !choice["finish_reason"].is_null() {
            message["finish_reason"] = choice["finish_reason"].clone();
        }
    }
    message
}

fn join(to: &mut Value, more: &Value) {
    for (name, value) in more.as_object().unwrap() {
        match (name.as_str(), value) {
            ("text" | "content" | "refusal" | "reasoning_content" | "arguments", Value::String(more)) => {
                let before = to[name].as_str().unwrap_or_default();
                to[name] = Value::from(format!("{before}{more}"));
            }
            ("function", _) if to[name].is_object() => join(&mut to[name], value),
            (_, Value::Array(elements)) => {
                if !to[name].is_array() {
                    to[name] = json!([]);
                }
                for element in elements {
                    let at = usize::try_from(element["index"].as_u64().unwrap()).unwrap();
                    let list = to[name].as_array_mut().unwrap();
                    list.resize(list.len().max(at + 1), json!({}));
                    join(&mut list[at], element);
                }
            }
            (_, Value::Null) => {}
            _ => to[name] = value.clone(),
        }
    }
}

#[test]
fn a_golden_stream_put_together_is_the_golden_answer() {
    let mut count = 0;
    for answered in Answered::all() {
        let (Some((_, Some(whole))), Some(stream)) = (answered.whole(), answered.file("stream.sse")) else { continue };
        let mut seen = assembled(&streamed(&answered.exchange(&answered.asked), stream).0);
        let mut expected = whole["choices"][0]["message"].clone();
        expected["finish_reason"] = whole["choices"][0]["finish_reason"].clone();
        for call in seen["tool_calls"].as_array_mut().into_iter().flatten() {
            call.as_object_mut().unwrap().remove("index");
        }
        // Nothing said is null in one and an empty text in the other.
        for message in [&mut seen, &mut expected] {
            message.as_object_mut().unwrap().retain(|_, value| !value.is_null() && value != "");
        }
        assert_eq!(seen, expected, "{}", called(&answered.path));
        count += 1;
    }
    assert!(count > 15);
}

/// The next request of a client that puts the answer into its history, with results for all calls.
fn continued(whole: &Value) -> Value {
    let message = whole["choices"][0]["message"].clone();
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    let mut messages = vec![json!({ "role": "user", "content": "Hello!" }), message];
    messages.extend(calls.iter().map(|call| json!({ "role": "tool", "tool_call_id": call["id"], "content": "done" })));
    if calls.is_empty() {
        messages.push(json!({ "role": "user", "content": "Go on." }));
    }
    let tools = ["get_time", "get_weather"]
        .map(|name| json!({ "type": "function", "function": { "name": name, "parameters": { "type": "object" } } }));
    json!({ "model": "m", "messages": messages, "tools": tools, "reasoning_effort": "high" })
}

#[test]
fn golden_answers_that_are_sent_back_reach_their_maker_as_they_are_written() {
    let mut problems = Vec::new();
    for answered in Answered::all().iter().filter(|answered| answered.destination != "openai") {
        let Some((_, Some(whole))) = answered.whole() else { continue };
        let back = sent(&continued(&whole).to_string(), answered.destination);
        compare(&answered.path.join("back.txt"), &back, &mut problems);
    }
    must_be_as_written(&problems);
}

#[test]
fn every_file_of_the_golden_cases_is_looked_at() {
    let mut names = vec!["client.json".to_owned()];
    names.extend(DESTINATIONS.map(|(name, ..)| format!("{name}.txt")));
    names.extend(["answer.json", "stream.sse", "asked.json", "whole.txt", "stream.txt", "back.txt"].map(str::to_owned));
    for case in cases("requests").into_iter().chain(cases("answers")) {
        for file in fs::read_dir(&case).unwrap().map(|entry| entry.unwrap().path()) {
            assert!(names.iter().any(|name| *name == called(&file)), "{} belongs to no case", file.display());
        }
    }
}
