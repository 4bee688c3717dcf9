//! The bytes of a buffered answer: one `chat.completion` object, written in a single pass into one buffer.

use std::io::Write;

use bytes::Bytes;

use super::answer::{Answer, CREATED, Content, Usage};
use super::filler;

/// The whole body of a buffered answer.
pub(crate) fn body(answer: &Answer) -> Bytes {
    let mut out = Vec::with_capacity(640 + estimate(&answer.content) * usize::try_from(answer.choices).unwrap_or(1));
    text(&mut out, "{\"id\":\"chatcmpl-");
    hex(&mut out, answer.id);
    text(&mut out, "\",\"object\":\"chat.completion\",\"created\":");
    number(&mut out, CREATED);
    text(&mut out, ",\"model\":");
    quoted(&mut out, &answer.model);
    text(&mut out, ",\"choices\":[");
    for index in 0..answer.choices {
        if index > 0 {
            out.push(b',');
        }
        choice(&mut out, answer, index);
    }
    text(&mut out, "]");
    if !answer.omit_usage {
        text(&mut out, ",\"usage\":");
        usage(&mut out, &answer.usage);
    }
    text(&mut out, ",\"service_tier\":\"default\",\"system_fingerprint\":");
    quoted(&mut out, answer.fingerprint());
    text(&mut out, "}");
    out.into()
}

fn choice(out: &mut Vec<u8>, answer: &Answer, index: u64) {
    text(out, "{\"index\":");
    number(out, index);
    text(out, ",\"message\":{\"role\":\"assistant\",\"content\":");
    match &answer.content {
        Content::Filler(tokens) => {
            out.push(b'"');
            filler::append(out, *tokens);
            out.push(b'"');
        }
        Content::Pieces(pieces) => quoted(out, &pieces.concat()),
        Content::Calls(calls) => {
            text(out, "null,\"tool_calls\":[");
            for (position, call) in calls.iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                text(out, "{\"id\":");
                quoted(out, &unique(&call.id, index));
                text(out, ",\"type\":\"function\",\"function\":{\"name\":");
                quoted(out, &call.name);
                text(out, ",\"arguments\":");
                quoted(out, &call.arguments.concat());
                text(out, "}}");
            }
            out.push(b']');
        }
    }
    text(out, ",\"refusal\":null,\"annotations\":[]},\"logprobs\":null,\"finish_reason\":");
    quoted(out, answer.finish);
    out.push(b'}');
}

/// The id of a call in this choice.
pub(crate) fn unique(call: &str, choice: u64) -> String {
    if choice == 0 { call.to_owned() } else { format!("{call}_{choice}") }
}

/// A usage object.
pub(crate) fn usage(out: &mut Vec<u8>, usage: &Usage) {
    let Usage { prompt, cached, completion, reasoning } = *usage;
    let total = prompt + completion;
    // Writing to a Vec cannot fail.
    drop(write!(
        out,
        "{{\"prompt_tokens\":{prompt},\"completion_tokens\":{completion},\"total_tokens\":{total},\
         \"prompt_tokens_details\":{{\"cached_tokens\":{cached},\"audio_tokens\":0}},\
         \"completion_tokens_details\":{{\"reasoning_tokens\":{reasoning},\"audio_tokens\":0,\
         \"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}}}"
    ));
}

pub(crate) fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn number(out: &mut Vec<u8>, number: u64) {
    drop(write!(out, "{number}"));
}

pub(crate) fn hex(out: &mut Vec<u8>, id: u64) {
    drop(write!(out, "{id:024x}"));
}

pub(crate) fn quoted(out: &mut Vec<u8>, text: &str) {
    drop(serde_json::to_writer(out, text));
}

fn estimate(content: &Content) -> usize {
    usize::try_from(content.tokens()).unwrap_or(0).saturating_mul(12)
}
