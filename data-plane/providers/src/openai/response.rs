//! Reads a whole answer: is it one, what did it cost. The choices are skipped over without being built.

use keyforge_shared::usage::{ServiceTier, Usage};

use super::fault;
use super::produced::Produced;
use super::reading::Reading;
use crate::json::{Cursor, JsonError, Kind};
use crate::refusal::NotAnAnswer;

/// What an answer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it took; `None` if it does not say, or not in a way that can be trusted: no answer that holds something took no output.
    pub usage: Option<Usage>,
    /// The model that answered, by its dated name.
    pub model: Option<String>,
    /// The class of service that was billed; `None` if it does not say or the name has no price.
    pub tier: Option<ServiceTier>,
}

/// Reads the body of a response with a status of success.
///
/// # Errors
/// [`NotAnAnswer`] if there is nothing that the client could use.
pub fn read(body: &[u8]) -> Result<Answer, NotAnAnswer> {
    let text = std::str::from_utf8(body).map_err(|_| NotAnAnswer::Malformed)?;
    let mut cursor = Cursor::new(text);
    let walked = walk(&mut cursor).map_err(|_| NotAnAnswer::Malformed)?.ok_or(NotAnAnswer::Malformed)?;
    match walked.choices {
        // An error beside an empty list is no answer.
        Some(Choices { produced, count }) if count > 0 || !walked.error => {
            let Reading { usage, model, tier } = walked.reading;
            let usage = usage.filter(|usage| usage.output_total() > 0 || !produced.any);
            Ok(Answer { usage, model, tier })
        }
        _ if walked.error => Err(NotAnAnswer::Refused(Box::new(fault::in_answer(text)))),
        _ => Err(NotAnAnswer::NoChoices),
    }
}

#[derive(Default)]
struct Walked {
    reading: Reading,
    /// `None` if there is no list of choices.
    choices: Option<Choices>,
    error: bool,
}

#[derive(Default)]
struct Choices {
    produced: Produced,
    count: usize,
}

/// `None`: not an object.
fn walk(cursor: &mut Cursor<'_>) -> Result<Option<Walked>, JsonError> {
    if cursor.peek()? != Kind::Object {
        return Ok(None);
    }
    let mut walked = Walked::default();
    let mut members = cursor.enter();
    while let Some(key) = cursor.key(&mut members)? {
        if walked.reading.member(key, cursor)? {
            continue;
        }
        let kind = cursor.peek()?;
        if key.is("choices") && kind == Kind::Array {
            walked.choices = Some(choices(cursor)?);
            continue;
        }
        walked.error |= key.is("error") && kind != Kind::Null;
        if key.is("object") && kind == Kind::String {
            walked.error |= cursor.string()?.is("error");
        } else {
            cursor.skip()?;
        }
    }
    cursor.end()?;
    Ok(Some(walked))
}

fn choices(cursor: &mut Cursor<'_>) -> Result<Choices, JsonError> {
    let mut choices = Choices::default();
    let mut elements = cursor.enter();
    while cursor.element(&mut elements)? {
        choices.count += 1;
        if cursor.peek()? != Kind::Object {
            cursor.skip()?;
            continue;
        }
        let mut members = cursor.enter();
        while let Some(key) = cursor.key(&mut members)? {
            if key.is("message") && cursor.peek()? == Kind::Object {
                choices.produced.message(cursor)?;
            } else if key.is("text") {
                choices.produced.output(cursor)?;
            } else {
                cursor.skip()?;
            }
        }
    }
    Ok(choices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultKind;

    #[test]
    fn an_answer_is_read_whatever_its_members_order() {
        let body = br#" {"usage":{"prompt_tokens":3,"completion_tokens":4},"choices":[{"message":{"content":"\"usage\":{}"},"finish_reason":"stop"}],
            "model":"gpt-4o-mini-2024-07-18","service_tier":"priority","error":null} "#;
        let answer = read(body).unwrap();
        assert_eq!(answer.usage, Some(Usage { input: 3, output: 4, ..Usage::default() }));
        assert_eq!(answer.model.as_deref(), Some("gpt-4o-mini-2024-07-18"));
        assert_eq!(answer.tier, Some(ServiceTier::Priority));
    }

    #[test]
    fn an_answer_without_usage_says_so() {
        let answer = read(br#"{"choices":[{"finish_reason":null}],"service_tier":"new"}"#).unwrap();
        assert_eq!(answer, Answer { usage: None, model: None, tier: None });
    }

    #[test]
    fn an_answer_that_holds_something_and_counts_no_output_does_not_count() {
        let answer = |message: &str, output: u64| {
            let usage = format!(r#"{{"prompt_tokens":9,"completion_tokens":{output}}}"#);
            let body = format!(r#"{{"choices":[{{"message":{message},"finish_reason":"stop"}}],"usage":{usage}}}"#);
            read(body.as_bytes()).unwrap().usage.map(|usage| usage.output_total())
        };
        for something in [
            r#"{"content":"hi"}"#,
            r#"{"content":[{"type":"text","text":"hi"}]}"#,
            r#"{"content":"","reasoning":"hm"}"#,
            r#"{"content":null,"refusal":"no"}"#,
            r#"{"content":null,"tool_calls":[{"function":{"name":"f","arguments":""}}]}"#,
            r#"{"content":null,"audio":{"id":"a"}}"#,
        ] {
            assert_eq!((answer(something, 0), answer(something, 3)), (None, Some(3)), "{something}");
        }
        for nothing in [r#"{"role":"assistant","content":""}"#, r#"{"content":null,"tool_calls":[]}"#, "null"] {
            assert_eq!(answer(nothing, 0), Some(0), "{nothing}");
        }
    }

    #[test]
    fn what_is_not_an_answer_is_named() {
        for garbage in
            [&b""[..], b"null", b"[]", b"<html>", b"{\"choices\":[", b"{\"choices\":[]} x", b"{\"a\":\"\xff\"}"]
        {
            assert_eq!(read(garbage), Err(NotAnAnswer::Malformed));
        }
        assert_eq!(read(b"{}"), Err(NotAnAnswer::NoChoices));
        assert_eq!(read(br#"{"choices":null}"#), Err(NotAnAnswer::NoChoices));
        for beside in ["", r#","choices":null"#, r#","choices":[]"#] {
            let body = format!(r#"{{"error":{{"message":"busy","code":429}}{beside}}}"#);
            let Err(NotAnAnswer::Refused(fault)) = read(body.as_bytes()) else { panic!("{beside}") };
            assert_eq!((fault.kind, fault.status), (FaultKind::Throttled, Some(429)));
        }
    }
}
