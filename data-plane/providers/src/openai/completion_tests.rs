//! Whole answers: what clients read, and that what they send back is what was answered.

use std::borrow::Cow;

use keyforge_shared::usage::{ServiceTier, Usage};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::chat::request::{Signature, ToolCall};
use crate::chat::response::Finish;
use crate::openai::conversation;

fn stamp() -> Stamp {
    Stamp { id: "made".to_owned(), created: 7, model: "asked".to_owned(), most_input: None }
}

fn response(parts: Vec<Part<'static>>, finish: Finish) -> Response<'static> {
    let choices = vec![Choice { index: 0, parts, finish, logprobs: None }];
    Response { id: String::new(), model: String::new(), choices, usage: None, tier: None, in_region: false }
}

fn written(answer: &Response<'_>) -> Value {
    serde_json::from_slice(&write(answer, &stamp())).unwrap()
}

fn signed(content: Content<'static>, maker: Maker, value: impl Into<Cow<'static, str>>) -> Part<'static> {
    Part { signature: Some(Signature { maker, value: value.into() }), ..Part::new(content) }
}

fn call(id: &str, arguments: &str) -> Content<'static> {
    let (id, arguments) = (id.to_owned().into(), arguments.to_owned().into());
    Content::ToolCall(ToolCall { id, name: "f".into(), arguments })
}

#[test]
fn an_answer_is_a_completion_as_openai_writes_it() {
    let usage = Usage { input: 5, cache_read: 3, cache_write_1h: 2, output: 4, reasoning: 6, ..Usage::default() };
    let mut answer = response(vec![Part::text("a"), Part::text("b")], Finish::Stop);
    answer.usage = Some(usage);
    answer.tier = Some(ServiceTier::Standard);
    answer.id = "msg_1".to_owned();
    answer.model = "claude-x".to_owned();
    let expected = json!({
        "id": "chatcmpl-msg_1", "object": "chat.completion", "created": 7, "model": "claude-x",
        "choices": [{
            "index": 0, "message": { "role": "assistant", "content": "ab", "refusal": null }, "logprobs": null, "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20,
            "prompt_tokens_details": { "cached_tokens": 3, "audio_tokens": 0, "cache_write_tokens": 2 },
            "completion_tokens_details": { "reasoning_tokens": 6, "audio_tokens": 0 },
        },
        "service_tier": "default",
    });
    assert_eq!(written(&answer), expected);
}

#[test]
fn content_is_null_only_beside_calls_or_a_refusal() {
    let message = |parts| written(&response(parts, Finish::Stop))["choices"][0]["message"].clone();
    assert_eq!(message(vec![])["content"], "");
    assert_eq!(message(vec![Part::new(Content::Thinking("t".into()))])["content"], "");
    let refusal = message(vec![Part::new(Content::Refusal("no".into()))]);
    assert_eq!((&refusal["content"], &refusal["refusal"]), (&Value::Null, &json!("no")));
    let called = message(vec![Part::new(call("c", ""))]);
    assert_eq!(called["content"], Value::Null);
    let expected = json!([{ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" } }]);
    assert_eq!(called["tool_calls"], expected);
}

#[test]
fn the_reason_is_one_that_clients_know() {
    let reasons = |parts, finish| {
        let choice = written(&response(parts, finish))["choices"][0].clone();
        (choice["finish_reason"].clone(), choice["native_finish_reason"].clone())
    };
    assert_eq!(reasons(vec![], Finish::Length), (json!("length"), Value::Null));
    assert_eq!(reasons(vec![], Finish::ContentFilter), (json!("content_filter"), Value::Null));
    assert_eq!(reasons(vec![], Finish::Other("pause_turn".to_owned())), (json!("stop"), json!("pause_turn")));
    assert_eq!(reasons(vec![Part::new(call("c", "{}"))], Finish::Stop).0, json!("tool_calls"));
}

#[test]
fn usage_that_is_not_known_is_not_written() {
    let answer = written(&response(vec![], Finish::Stop));
    assert!(answer.get("usage").is_none() && answer.get("service_tier").is_none());
    assert_eq!((&answer["id"], &answer["model"]), (&json!("chatcmpl-made"), &json!("asked")));
}

#[test]
fn thoughts_keep_their_places_and_signatures() {
    let parts = vec![
        signed(Content::Thinking("one".into()), Maker::Anthropic, "s1"),
        Part::text("said"),
        signed(Content::Thinking("two".into()), Maker::Anthropic, "s2"),
        signed(call("c", "{}"), Maker::Google, "g"),
        signed(Content::Text("".into()), Maker::Google, "t"),
    ];
    let message = written(&response(parts, Finish::ToolCalls))["choices"][0]["message"].clone();
    assert_eq!(message["reasoning_content"], "onetwo");
    let expected = json!([
        { "type": "reasoning.text", "text": "one", "signature": "s1", "format": "anthropic-claude-v1", "index": 0 },
        { "type": "reasoning.text", "text": "two", "signature": "s2", "format": "anthropic-claude-v1", "index": 1, "id": "part-2" },
        { "type": "reasoning.encrypted", "data": "t", "format": "google-gemini-v1", "index": 2, "id": "part-4" },
    ]);
    assert_eq!(message["reasoning_details"], expected);
    assert_eq!(message["tool_calls"][0]["extra_content"]["google"]["thought_signature"], "g");
}

/// A part in words, signature included, so that parts can be compared.
fn told(part: &Part<'_>) -> String {
    let what = match &part.content {
        Content::Text(text) => format!("text {text}"),
        Content::Refusal(text) => format!("refusal {text}"),
        Content::Thinking(text) => format!("thinking {text}"),
        Content::RedactedThinking(data) => format!("sealed {data}"),
        Content::ToolCall(call) => format!("call {} {} {}", call.id, call.name, call.arguments),
        other => panic!("{other:?}"),
    };
    format!("{what} {:?}", part.signature.as_ref().map(|signature| (signature.maker, signature.value.to_string())))
}

/// What no answer may lose: all text, and in their order calls, thoughts and signatures of texts.
fn kept(parts: &[Part<'_>]) -> (String, Vec<String>, Vec<String>) {
    let (mut texts, mut others, mut signatures) = (String::new(), Vec::new(), Vec::new());
    for part in parts {
        match &part.content {
            Content::Text(text) => {
                texts.push_str(text);
                signatures.extend(part.signature.as_ref().map(|signature| signature.value.to_string()));
            }
            _ => others.push(told(part)),
        }
    }
    (texts, others, signatures)
}

fn any_part() -> impl Strategy<Value = Part<'static>> {
    let word = || "[a-zé\"\\\\\n]{1,6}";
    let maker = || prop::sample::select(vec![Maker::Anthropic, Maker::Google, Maker::OpenAi]);
    let google = || prop::option::of(word());
    prop_oneof![
        word().prop_map(Part::text),
        ("[a-z]{0,3}", word()).prop_map(|(text, value)| signed(Content::Text(text.into()), Maker::Google, value)),
        (word(), prop::option::of((maker(), word()))).prop_map(|(text, signature)| Part {
            signature: signature.map(|(maker, value)| Signature { maker, value: value.into() }),
            ..Part::new(Content::Thinking(text.into()))
        }),
        (word(), prop::bool::ANY).prop_map(|(data, own)| {
            let maker = if own { Maker::Anthropic } else { Maker::OpenAi };
            signed(Content::RedactedThinking(data.into()), maker, "")
        }),
        ("[{}a-z\\\\\"]{1,6}", google()).prop_map(|(arguments, signature)| Part {
            signature: signature.map(|value| Signature { maker: Maker::Google, value: value.into() }),
            ..Part::new(call("", &arguments))
        }),
    ]
}

/// Parts as a decoder makes them: calls have ids of their own, and what comes after a text or thought of the same kind is told from it by a
/// signature.
pub(in crate::openai) fn any_parts() -> impl Strategy<Value = Vec<Part<'static>>> {
    prop::collection::vec(any_part(), 0..7).prop_map(|mut parts| {
        for index in 0..parts.len() {
            if let Content::ToolCall(call) = &mut parts[index].content {
                call.id = format!("call_{index}").into();
            }
            let same = parts.get(index + 1).is_some_and(|next| {
                std::mem::discriminant(&next.content) == std::mem::discriminant(&parts[index].content)
            });
            let joins = matches!(parts[index].content, Content::Text(_) | Content::Thinking(_));
            if same && joins && parts[index].signature.is_none() {
                parts[index].signature = Some(Signature { maker: Maker::Google, value: "s".into() });
            }
        }
        parts
    })
}

proptest! {
    #[test]
    fn an_answer_that_is_sent_back_is_the_one_that_was_given(parts in any_parts()) {
        let answer = response(parts, Finish::Stop);
        let message = written(&answer)["choices"][0]["message"].clone();
        let body = json!({ "messages": [message] }).to_string();
        let request = conversation::read(body.as_bytes()).unwrap();
        let (before, after) = (&answer.choices[0].parts, &request.turns[0].parts);
        // A second text goes where the first is, so what was between them may end up on its other side; nothing is lost.
        let (mut one, mut two) = (kept(before), kept(after));
        prop_assert_eq!(&one.0, &two.0);
        one.1.sort();
        two.1.sort();
        prop_assert_eq!(&one, &two);
        let texts = before.iter().filter(|part| matches!(part.content, Content::Text(_))).count();
        let after_call = before.iter().skip_while(|part| !matches!(part.content, Content::ToolCall(_)));
        let text_after_call = after_call.filter(|part| matches!(&part.content, Content::Text(text) if !text.is_empty())).count();
        if texts <= 1 && text_after_call == 0 {
            let (before, after): (Vec<_>, Vec<_>) = (before.iter().map(told).collect(), after.iter().map(told).collect());
            prop_assert_eq!(before, after);
        }
    }
}
