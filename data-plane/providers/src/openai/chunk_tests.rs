//! Streams: chunk by chunk as OpenAI writes them, and together the same as a whole answer.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::chat::request::{Content, Part};
use crate::chat::response::{Choice as WholeChoice, Response};
use crate::openai::completion;
use crate::openai::completion::tests::any_parts;
use crate::sse::Splitter;

fn stamp() -> Stamp {
    Stamp { id: "made".to_owned(), created: 7, model: "asked".to_owned(), most_input: None }
}

/// The data of each event of a stream.
fn data(stream: Bytes) -> Vec<String> {
    let mut splitter = Splitter::new(1 << 20);
    splitter.feed(stream);
    let mut all = Vec::new();
    while let Some(event) = splitter.next_event() {
        all.push(String::from_utf8(event.unwrap().data().to_vec()).unwrap());
    }
    assert!(splitter.finish().is_none());
    all
}

fn stream(events: Vec<Event>, asks_for_usage: bool) -> Vec<String> {
    let mut writer = ChunkWriter::new(stamp(), asks_for_usage);
    for event in events {
        writer.event(event);
    }
    writer.done();
    data(writer.take())
}

fn of(delta: Delta) -> Event {
    Event::Delta { choice: 0, delta }
}

fn choices(stream: &[String]) -> Vec<Value> {
    stream
        .iter()
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .map(|chunk| chunk["choices"].clone())
        .collect()
}

#[test]
fn a_text_comes_as_openai_sends_it() {
    let events = || {
        vec![
            Event::Start { id: "msg_1".to_owned(), model: "dated".to_owned() },
            of(Delta::Text("h\"i".to_owned())),
            of(Delta::Text(String::new())),
            Event::Finish { choice: 0, finish: Finish::Stop },
            Event::Usage {
                usage: Usage { input: 1, output: 2, ..Usage::default() },
                tier: Some(ServiceTier::Flex),
                in_region: false,
            },
        ]
    };
    let head = r#"{"id":"chatcmpl-msg_1","object":"chat.completion.chunk","created":7,"model":"dated","choices":["#;
    let pieces = [
        r#"{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}"#,
        r#"{"index":0,"delta":{"content":"h\"i"},"logprobs":null,"finish_reason":null}"#,
        r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}"#,
    ];
    let mut expected: Vec<_> = pieces.iter().map(|piece| format!("{head}{piece}]}}")).collect();
    expected.push("[DONE]".to_owned());
    assert_eq!(stream(events(), false), expected);
    let mut expected: Vec<_> = pieces.iter().map(|piece| format!("{head}{piece}],\"usage\":null}}")).collect();
    let usage = r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0}}"#;
    expected.push(format!("{head}],\"service_tier\":\"flex\",\"usage\":{usage}}}"));
    expected.push("[DONE]".to_owned());
    assert_eq!(stream(events(), true), expected);
}

#[test]
fn calls_say_their_id_and_name_once_and_have_arguments() {
    let call =
        |index: u32, id: &str| of(Delta::ToolCall { index, id: id.to_owned(), name: "f".to_owned(), signature: None });
    let more = |index: u32, fragment: &str| of(Delta::Arguments { index, fragment: fragment.to_owned() });
    let events = vec![
        call(0, "a"),
        more(0, "{\"x\""),
        more(0, ":1}"),
        call(1, "b"),
        more(1, ""),
        Event::Finish { choice: 0, finish: Finish::Stop },
    ];
    let deltas: Vec<Value> =
        choices(&stream(events, false)).iter().map(|choices| choices[0]["delta"].clone()).collect();
    let first = |index: u32, id: &str| json!({ "tool_calls": [{ "index": index, "id": id, "type": "function", "function": { "name": "f", "arguments": "" } }] });
    let then = |index: u32, arguments: &str| json!({ "tool_calls": [{ "index": index, "function": { "arguments": arguments } }] });
    let expected = [
        json!({ "role": "assistant", "content": null, "refusal": null }),
        first(0, "a"),
        then(0, "{\"x\""),
        then(0, ":1}"),
        first(1, "b"),
        then(1, "{}"),
        json!({}),
    ];
    assert_eq!(deltas, expected);
}

#[test]
fn each_choice_opens_with_its_role_even_if_nothing_follows() {
    let events = vec![
        Event::Delta { choice: 1, delta: Delta::Text("x".to_owned()) },
        Event::Finish { choice: 0, finish: Finish::Other("odd".to_owned()) },
        Event::Finish { choice: 1, finish: Finish::Length },
    ];
    let choices = choices(&stream(events, false));
    let indexes: Vec<_> = choices.iter().map(|choices| choices[0]["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [1, 1, 0, 0, 1]);
    assert_eq!(choices[2][0]["delta"]["role"], "assistant");
    assert_eq!(
        (&choices[3][0]["finish_reason"], &choices[3][0]["native_finish_reason"]),
        (&json!("stop"), &json!("odd"))
    );
}

#[test]
fn a_client_that_asked_gets_no_usage_that_is_not_known() {
    let stream = stream(vec![Event::Finish { choice: 0, finish: Finish::Stop }], true);
    assert_eq!(stream.last().unwrap(), "[DONE]");
    assert!(stream.iter().all(|data| data == "[DONE]" || data.ends_with(r#""usage":null}"#)));
}

#[test]
fn probabilities_stand_beside_an_empty_piece() {
    let logprobs = serde_json::value::to_raw_value(&json!({ "content": [] })).unwrap();
    let choices = choices(&stream(vec![of(Delta::Text("a".to_owned())), of(Delta::Logprobs(logprobs))], false));
    assert_eq!(choices[2][0], json!({ "index": 0, "delta": {}, "logprobs": { "content": [] }, "finish_reason": null }));
}

/// Puts pieces together as OpenAI's own libraries do: lists by index, texts one after the other.
fn join(whole: &mut Map<String, Value>, piece: &Map<String, Value>) {
    for (name, value) in piece {
        match (whole.get_mut(name), value) {
            (None | Some(Value::Null), _) => {
                whole.insert(name.clone(), value.clone());
            }
            (Some(_), _) if name == "index" || name == "type" => {}
            (Some(Value::String(text)), Value::String(more)) => text.push_str(more),
            (Some(Value::Object(whole)), Value::Object(piece)) => join(whole, piece),
            (Some(Value::Array(list)), Value::Array(entries)) => {
                for entry in entries {
                    let index = usize::try_from(entry["index"].as_u64().unwrap()).unwrap();
                    match list.get_mut(index) {
                        Some(Value::Object(whole)) => join(whole, entry.as_object().unwrap()),
                        _ => list.insert(index.min(list.len()), entry.clone()),
                    }
                }
            }
            (Some(old), new) => assert!(new.is_null(), "{name}: {old} then {new}"),
        }
    }
}

/// The events that a decoder makes of these parts, texts in two pieces.
fn events(parts: &[Part<'static>]) -> Vec<Event> {
    let mut events = Vec::new();
    let mut calls = 0;
    let halves = |text: &str| {
        let middle = text.floor_char_boundary(text.len() / 2);
        [text[..middle].to_owned(), text[middle..].to_owned()]
    };
    for part in parts {
        let mut sign = part.signature.clone();
        match &part.content {
            Content::Text(text) => events.extend(halves(text).map(Delta::Text)),
            Content::Thinking(text) => events.extend(halves(text).map(Delta::Thinking)),
            Content::RedactedThinking(data) => {
                let maker = sign.take().unwrap().maker;
                events.push(Delta::RedactedThinking(Signature { maker, value: data.clone() }));
            }
            Content::ToolCall(call) => {
                let (id, name) = (call.id.to_string(), call.name.to_string());
                events.push(Delta::ToolCall { index: calls, id, name, signature: sign.take() });
                events.extend(halves(&call.arguments).map(|fragment| Delta::Arguments { index: calls, fragment }));
                calls += 1;
            }
            other => panic!("{other:?}"),
        }
        events.extend(sign.map(Delta::Signature));
    }
    events.into_iter().map(of).chain([Event::Finish { choice: 0, finish: Finish::Stop }]).collect()
}

proptest! {
    #[test]
    fn the_chunks_of_a_stream_are_the_whole_answer(parts in any_parts()) {
        let mut joined = Map::new();
        let chunks = choices(&stream(events(&parts), false));
        for choices in &chunks {
            join(&mut joined, choices[0]["delta"].as_object().unwrap());
        }
        let choice = WholeChoice { index: 0, parts, finish: Finish::Stop, logprobs: None };
        let answer = Response { id: String::new(), model: String::new(), choices: vec![choice], usage: None, tier: None, in_region: false };
        let whole: Value = serde_json::from_slice(&completion::write(&answer, &stamp())).unwrap();
        let whole = &whole["choices"][0];
        prop_assert_eq!(&chunks.last().unwrap()[0]["finish_reason"], &whole["finish_reason"]);
        let mut message = whole["message"].as_object().unwrap().clone();
        let without_index = |entry: &Value| { let mut entry = entry.clone(); entry.as_object_mut().unwrap().remove("index"); entry };
        if let Some(calls) = joined.get_mut("tool_calls") {
            *calls = calls.as_array().unwrap().iter().map(without_index).collect();
        }
        for message in [&mut joined, &mut message] {
            // A stream that begins with a thought does not know whether text will come.
            message.retain(|name, value| !(name == "content" && (value.is_null() || value == "")));
        }
        prop_assert_eq!(joined, message);
    }
}

#[test]
fn no_more_choices_are_written_than_can_be_asked_for() {
    let text = |choice| Event::Delta { choice, delta: Delta::Text("x".to_owned()) };
    let finish = |choice| Event::Finish { choice, finish: Finish::Stop };
    let most = u32::try_from(MOST_CHOICES).unwrap();
    let events = (0..most + 9).flat_map(|choice| [text(choice), finish(choice)]).collect();
    let mut begun: Vec<_> =
        choices(&stream(events, false)).iter().filter_map(|choices| choices[0]["index"].as_u64()).collect();
    begun.dedup();
    assert!(begun.into_iter().eq(0..u64::from(most)));
}
