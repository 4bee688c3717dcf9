//! Reads a whole answer.

use std::borrow::Cow;

use keyforge_shared::usage::Usage;
use serde_json::value::RawValue;

use super::candidate::{self, CallIds, Said};
use super::reply::{self, Candidate, Reason, Reply};
use super::{fault, logprobs, usage};
use crate::chat::request::{Content, MOST_CHOICES, Maker, Part, Source, ToolCall};
use crate::chat::response::{Choice, Finish, Response};
use crate::form;
use crate::refusal::NotAnAnswer;
use crate::translate::Memo;

/// Reads the body of a response with a status of success. A prompt that Google would not read is an answer without content, which
/// is what clients of chat completions expect of a filter.
///
/// # Errors
/// [`NotAnAnswer`] if there is nothing that the client could use.
pub(super) fn read<'a>(body: &'a [u8], memo: &Memo) -> Result<Response<'a>, NotAnAnswer> {
    let text = std::str::from_utf8(body).map_err(|_| NotAnAnswer::Malformed)?;
    if fault::is_error(text) {
        return Err(NotAnAnswer::Refused(Box::new(fault::in_answer(text))));
    }
    let mut reply: Reply<'_> = reply::object(text).ok_or(NotAnAnswer::Malformed)?;
    let is_blocked = reply.is_blocked();
    let (id, model) = reply.names();
    let mut ids = CallIds::of(&id, &memo.own_id);
    let candidates = reply.candidates.unwrap_or_default();
    if candidates.len() > MOST_CHOICES {
        return Err(NotAnAnswer::Malformed);
    }
    let choices: Result<Vec<_>, _> =
        candidates.into_iter().map(|candidate| choice(candidate, &mut ids, memo)).collect();
    let choices = choices.map_err(|_| NotAnAnswer::Malformed)?;
    let (usage, tier) = reply.usage_metadata.and_then(|json| usage::read(json.get())).unzip();
    if let (Some((_, Some(reason))), true) = (choices.first(), choices.iter().all(|(_, failure)| failure.is_some())) {
        let has_content = choices.iter().any(|(choice, _)| choice.parts.iter().any(says_something));
        let fault = fault::no_answer(reason, trusted(usage, has_content));
        return Err(NotAnAnswer::Refused(Box::new(fault)));
    }
    let mut choices: Vec<_> = choices.into_iter().map(|(choice, _)| choice).collect();
    if choices.is_empty() {
        if !is_blocked {
            return Err(NotAnAnswer::NoChoices);
        }
        choices.push(Choice { index: 0, parts: Vec::new(), finish: Finish::ContentFilter, logprobs: None });
    }
    choices.sort_by_key(|choice| choice.index);
    let has_content = choices.iter().any(|choice| choice.parts.iter().any(says_something));
    Ok(Response { id, model, choices, usage: trusted(usage, has_content), tier: tier.flatten(), in_region: false })
}

/// Who said something cannot have counted nothing.
fn trusted(usage: Option<Usage>, has_content: bool) -> Option<Usage> {
    usage.filter(|usage| usage.output_total() > 0 || !has_content)
}

/// A candidate, and Google's word for why it is no answer if it is none.
fn choice<'a>(
    candidate: Candidate<'a>,
    ids: &mut CallIds,
    memo: &Memo,
) -> Result<(Choice<'a>, Option<String>), serde_json::Error> {
    let mut parts: Vec<Part<'a>> = Vec::new();
    for raw in candidate.parts() {
        let raw: &'a RawValue = raw;
        parts.extend(candidate::read(raw, ids)?.map(part));
    }
    if let Some(answer) = memo.json_tool.as_deref().and_then(|name| take_answer(&mut parts, name)) {
        // What was said in words besides is not of the form that was asked for.
        parts.retain(|part| !matches!(part.content, Content::Text(_)));
        parts.push(Part::text(form::unwrapped(answer, memo.wrapped)));
    }
    let is_call = |part: &Part<'_>| matches!(part.content, Content::ToolCall(_));
    let has_calls = parts.iter().any(is_call);
    if memo.one_call {
        let mut calls = 0;
        parts.retain(|part| {
            calls += usize::from(is_call(part));
            calls < 2 || !is_call(part)
        });
    }
    let reason = candidate.finish_reason.map_or_else(|| "FINISH_REASON_UNSPECIFIED".to_owned(), Reason::into_word);
    let has_text = parts.iter().any(|part| matches!(&part.content, Content::Text(text) if !text.is_empty()));
    let choice = Choice {
        index: candidate.index.unwrap_or(0),
        parts,
        finish: candidate::finish(&reason, has_calls),
        logprobs: candidate.logprobs_result.and_then(logprobs::written),
    };
    Ok((choice, candidate::is_none(&reason, has_calls, has_text).then_some(reason)))
}

/// The arguments of the function that stands for the form of the answer. A second answer would make one text that is no JSON.
fn take_answer(parts: &mut Vec<Part<'_>>, function: &str) -> Option<String> {
    let mut answer = None;
    parts.retain(|part| match &part.content {
        Content::ToolCall(call) if call.name == function => {
            answer.get_or_insert_with(|| call.arguments.to_string());
            false
        }
        _ => true,
    });
    answer
}

fn part(said: Said<'_>) -> Part<'_> {
    let (content, signature) = match said {
        Said::Text { text, signature } => (Content::Text(text.into()), signature),
        Said::Thinking { text, signature } => (Content::Thinking(text.into()), signature),
        Said::Call { id, name, arguments, signature } => {
            (Content::ToolCall(ToolCall { id: id.into(), name: name.into(), arguments: arguments.into() }), signature)
        }
        Said::Media { media_type, base64, signature } => (media(media_type, base64), signature),
        Said::Native(block) => (Content::Native { maker: Maker::Google, block: Cow::Borrowed(block) }, None),
    };
    Part { content, cache: None, signature }
}

fn media(media_type: String, base64: String) -> Content<'static> {
    let begins = |kind: &str| media_type.starts_with(kind);
    let (is_image, is_audio) = (begins("image/"), begins("audio/"));
    let source = Source::Data { media_type: media_type.into(), base64: base64.into() };
    match (is_image, is_audio) {
        (true, _) => Content::Image { source, detail: None },
        (_, true) => Content::Audio { source },
        _ => Content::Document { source, name: None },
    }
}

fn says_something(part: &Part<'_>) -> bool {
    !matches!(&part.content, Content::Text(text) | Content::Thinking(text) if text.is_empty())
}

#[cfg(test)]
mod tests {
    use keyforge_shared::usage::ServiceTier;
    use serde_json::json;

    use super::*;
    use crate::fault::FaultKind;

    fn read(body: &[u8]) -> Result<Response<'_>, NotAnAnswer> {
        super::read(body, &Memo::default())
    }

    #[test]
    fn every_part_is_read_with_its_signature() {
        let body = json!({
            "responseId": "r-1", "modelVersion": "gemini-x-001",
            "candidates": [{"content": {"role": "model", "parts": [
                {"text": "hm", "thought": true},
                {"text": "Hello"},
                {"text": "", "thoughtSignature": "sig1"},
                {"text": ""},
                {},
                {"functionCall": {"name": "f", "args": {"b": 1, "a": 2}}, "thoughtSignature": "sig2"},
                {"functionCall": {"name": "f"}},
                {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
                {"executableCode": {"code": "1"}},
            ]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4, "totalTokenCount": 7, "serviceTier": "standard"},
        })
        .to_string();
        let answer = read(body.as_bytes()).unwrap();
        assert_eq!((answer.id.as_str(), answer.model.as_str()), ("r-1", "gemini-x-001"));
        assert_eq!(answer.usage, Some(Usage { input: 3, output: 4, ..Usage::default() }));
        assert_eq!(answer.tier, Some(ServiceTier::Standard));
        let [choice] = answer.choices.as_slice() else { panic!("one choice") };
        assert_eq!((choice.index, &choice.finish), (0, &Finish::ToolCalls));
        let parts: Vec<_> = choice
            .parts
            .iter()
            .map(|part| {
                let what = match &part.content {
                    Content::Text(text) => format!("text {text}"),
                    Content::Thinking(text) => format!("thought {text}"),
                    Content::ToolCall(call) => format!("{} {} {}", call.id, call.name, call.arguments),
                    Content::Image { .. } => "image".to_owned(),
                    Content::Native { block, .. } => block.get().to_owned(),
                    other => format!("{other:?}"),
                };
                (what, part.signature.as_ref().map(|signature| signature.value.to_string()))
            })
            .collect();
        let expected = [
            ("thought hm", None),
            ("text Hello", None),
            ("text ", Some("sig1")),
            ("call_r-1_0 f {\"a\":2,\"b\":1}", Some("sig2")),
            ("call_r-1_1 f {}", None),
            ("image", None),
            (r#"{"executableCode":{"code":"1"}}"#, None),
        ];
        assert_eq!(parts, expected.map(|(what, signature)| (what.to_owned(), signature.map(str::to_owned))));
    }

    #[test]
    fn a_prompt_that_is_blocked_is_an_answer_that_was_filtered() {
        let body = br#"{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"},"usageMetadata":{"promptTokenCount":9,"totalTokenCount":9}}"#;
        let answer = read(body).unwrap();
        assert_eq!((answer.choices.len(), &answer.choices[0].finish), (1, &Finish::ContentFilter));
        assert_eq!(answer.usage, Some(Usage { input: 9, ..Usage::default() }));
    }

    #[test]
    fn several_candidates_are_ordered_and_their_calls_told_apart() {
        let body = br#"{"candidates":[
            {"index":1,"content":{"parts":[{"functionCall":{"name":"f","args":{}}}]},"finishReason":"STOP"},
            {"content":{"parts":[{"functionCall":{"name":"f","args":{}}}]},"finishReason":"MAX_TOKENS"}]}"#;
        let answer = read(body).unwrap();
        let indices: Vec<_> = answer.choices.iter().map(|choice| (choice.index, choice.finish.clone())).collect();
        assert_eq!(indices, [(0, Finish::Length), (1, Finish::ToolCalls)]);
        let ids: Vec<_> = answer
            .choices
            .iter()
            .filter_map(|choice| match &choice.parts[0].content {
                Content::ToolCall(call) => Some(call.id.as_ref()),
                _ => None,
            })
            .collect();
        assert_eq!(ids, ["call__1", "call__0"]);
    }

    #[test]
    fn who_wants_one_call_at_a_time_gets_the_first_of_each_candidate() {
        let body = br#"{"candidates":[
            {"content":{"parts":[{"functionCall":{"name":"f"}},{"text":"and"},{"functionCall":{"name":"g"}}]},"finishReason":"STOP"},
            {"index":1,"content":{"parts":[{"functionCall":{"name":"h"}}]},"finishReason":"STOP"}]}"#;
        let answer = super::read(body, &Memo { one_call: true, ..Memo::default() }).unwrap();
        let said: Vec<Vec<&str>> =
            answer.choices.iter().map(|choice| choice.parts.iter().map(shown).collect()).collect();
        assert_eq!(said, [vec!["f", "and"], vec!["h"]]);
        assert!(answer.choices.iter().all(|choice| choice.finish == Finish::ToolCalls));
    }

    fn shown<'p>(part: &'p Part<'_>) -> &'p str {
        match &part.content {
            Content::ToolCall(call) => &call.name,
            Content::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn candidates_that_end_without_an_answer_are_a_failure_that_says_what_it_took() {
        let body = |reasons: [&str; 2]| {
            let candidates = reasons.map(|reason| format!(r#"{{"content":{{}},"finishReason":"{reason}"}}"#)).join(",");
            format!(
                r#"{{"candidates":[{candidates}],"usageMetadata":{{"promptTokenCount":3,"thoughtsTokenCount":4}}}}"#
            )
        };
        let failed = body(["MALFORMED_FUNCTION_CALL", "OTHER"]);
        let Err(NotAnAnswer::Refused(fault)) = read(failed.as_bytes()) else { panic!("an answer") };
        assert_eq!((fault.kind, fault.code.as_deref()), (FaultKind::NoAnswer, Some("MALFORMED_FUNCTION_CALL")));
        assert_eq!(fault.usage.as_deref(), Some(&Usage { input: 3, reasoning: 4, ..Usage::default() }));
        let one = body(["STOP", "OTHER"]);
        let finishes: Vec<_> = read(one.as_bytes()).unwrap().choices.into_iter().map(|choice| choice.finish).collect();
        assert_eq!(finishes, [Finish::Stop, Finish::Other("OTHER".to_owned())]);
    }

    #[test]
    fn content_that_took_no_output_has_no_usage_that_can_be_trusted() {
        let body = |text: &str| {
            format!(
                r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}]}},"finishReason":"STOP"}}],"usageMetadata":{{"promptTokenCount":3}}}}"#
            )
        };
        assert_eq!(read(body("x").as_bytes()).unwrap().usage, None);
        assert!(read(body("").as_bytes()).unwrap().usage.is_some());
    }

    #[test]
    fn what_is_no_answer_says_so() {
        assert_eq!(read(b"\xff").err(), Some(NotAnAnswer::Malformed));
        assert_eq!(read(b"[{\"candidates\":[]}]").err(), Some(NotAnAnswer::Malformed));
        assert_eq!(read(br#"{"candidates":[{"content":{"parts":[7]}}]}"#).err(), Some(NotAnAnswer::Malformed));
        assert_eq!(read(b"{}").err(), Some(NotAnAnswer::NoChoices));
        assert_eq!(read(br#"{"candidates":[],"promptFeedback":{}}"#).err(), Some(NotAnAnswer::NoChoices));
        for error in [r#"{"error":{"code":500,"message":"m","status":"INTERNAL"}}"#, r#"[{"error":{"code":500}}]"#] {
            let Err(NotAnAnswer::Refused(fault)) = read(error.as_bytes()) else { panic!("{error}") };
            assert!(fault.in_answer);
        }
    }
}
