//! Streamed answers: order of chunks, usage, tool calls in pieces, awkward writes, pace.

use std::time::Duration;

use http_body_util::BodyExt;
use keyforge_loadtest::provider::{Script, ScriptedProvider};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::client::{SOON, chat, post, send};

fn said(events: &[Value], choice: u64) -> String {
    let of_choice = events.iter().filter(|event| event["choices"][0]["index"] == choice);
    of_choice.filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

#[tokio::test]
async fn a_stream_says_what_the_buffered_answer_says() {
    let provider = ScriptedProvider::start(Script::default()).unwrap();
    let whole = post(&provider, "k", chat(json!({"n": 2}))).await.json();
    let answer = post(&provider, "k", chat(json!({"n": 2, "stream": true}))).await;
    let events = answer.events();
    assert!(answer.header("content-type").starts_with("text/event-stream"));
    for choice in 0..2 {
        assert_eq!(said(&events, choice), whole["choices"][0]["message"]["content"].as_str().unwrap());
    }
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": "", "refusal": null}));
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert!(events.iter().all(|event| event.get("usage").is_none()));
    assert_eq!(events.len(), 2 * (1 + 16 + 1));
}

#[tokio::test]
async fn usage_comes_last_and_only_when_asked_for() {
    let provider = ScriptedProvider::start(Script { reasoning_tokens: 4, ..Script::default() }).unwrap();
    let asked = json!({"stream": true, "stream_options": {"include_usage": true}});
    let mut events = post(&provider, "k", chat(asked)).await.events();
    let last = events.pop().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(20)));
    assert_eq!(last["usage"]["completion_tokens_details"]["reasoning_tokens"], 4);
    assert!(events.iter().all(|event| event.get("usage") == Some(&Value::Null)));
}

#[tokio::test]
async fn parallel_tool_calls_are_streamed_in_pieces_by_index() {
    let provider = ScriptedProvider::start(Script::default()).unwrap();
    let tool = |name: &str| {
        let parameters = json!({"required": ["text"], "properties": {"text": {"const": "naïve 東京 \"quoted\""}}});
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    };
    let asked = json!({"stream": true, "parallel_tool_calls": true, "tools": [tool("one"), tool("two")]});
    let events = post(&provider, "k", chat(asked)).await.events();
    let mut arguments = [String::new(), String::new()];
    let mut names = Vec::new();
    for call in events.iter().filter_map(|event| event["choices"][0]["delta"]["tool_calls"].get(0)) {
        let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
        arguments[index].push_str(call["function"]["arguments"].as_str().unwrap());
        names.extend(call["function"]["name"].as_str());
    }
    assert_eq!(names, ["one", "two"]);
    for whole in arguments {
        assert_eq!(serde_json::from_str::<Value>(&whole).unwrap(), json!({"text": "naïve 東京 \"quoted\""}));
    }
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn awkward_writes_carry_the_same_bytes() {
    let provider = ScriptedProvider::start(Script::default()).unwrap();
    let smooth = post(&provider, "k", chat(json!({"stream": true}))).await;
    provider.set_script(Script { chunk_bytes: Some(7), ..Script::default() });
    let response = send(&provider, "k", "/v1/chat/completions", &[], chat(json!({"stream": true}))).await.unwrap();
    let mut body = response.into_body();
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        pieces.push(frame.unwrap().into_data().unwrap());
    }
    assert!(pieces.iter().all(|piece| piece.len() <= 7));
    assert!(pieces.iter().any(|piece| str::from_utf8(piece).is_err()), "some piece ends inside a character");
    assert_eq!(pieces.concat().len(), smooth.body.len());
    let buffered = post(&provider, "k", chat(json!({}))).await;
    assert_eq!(buffered.json()["usage"]["completion_tokens"], 16);
}

#[tokio::test]
async fn tokens_come_at_the_pace_of_the_script() {
    let script = Script { first_token_ms: 30, token_interval_ms: 10, completion_tokens: 6, ..Script::default() };
    let provider = ScriptedProvider::start(script).unwrap();
    let start = Instant::now();
    let answer = timeout(SOON, post(&provider, "k", chat(json!({"stream": true})))).await.unwrap();
    assert_eq!(answer.events().len(), 8);
    assert!(start.elapsed() >= Duration::from_millis(30 + 5 * 10));
}
