//! Streams as Google writes them, whole and broken.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::fault::FaultKind;
use crate::sse::Splitter;

/// What a body means, event by event, and its last words at the end of the body.
fn read(body: &[u8]) -> (Vec<String>, Result<Vec<String>, Box<Fault>>) {
    let mut splitter = Splitter::new(1 << 16);
    splitter.feed(Bytes::copy_from_slice(body));
    let mut stream = Stream::default();
    let mut out = Vec::new();
    let mut events: Vec<_> = std::iter::from_fn(|| splitter.next_event()).map(Result::unwrap).collect();
    events.extend(splitter.finish());
    for event in events {
        if let Err(fault) = stream.event(&event, &mut out) {
            return (out.iter().map(shown).collect(), Err(fault));
        }
        assert!(!stream.is_done() && stream.input_seen().is_none());
    }
    let mut last = Vec::new();
    stream.end(&mut last);
    (out.iter().map(shown).collect(), Ok(last.iter().map(shown).collect()))
}

fn shown(event: &Event) -> String {
    match event {
        Event::Start { id, model } => format!("start {id} {model}"),
        Event::Finish { choice, finish } => format!("{choice} {finish:?}"),
        Event::Usage { usage, .. } => format!("usage {} {}", usage.input_total(), usage.output_total()),
        Event::Delta { choice, delta } => match delta {
            Delta::Text(text) => format!("{choice} text {text}"),
            Delta::Thinking(text) => format!("{choice} thought {text}"),
            Delta::Signature(signature) => format!("{choice} signature {}", signature.value),
            Delta::ToolCall { index, id, name, signature } => {
                format!("{choice} call {index} {id} {name} {}", signature.as_ref().map_or("-", |s| s.value.as_ref()))
            }
            Delta::Arguments { index, fragment } => format!("{choice} arguments {index} {fragment}"),
            other => format!("{choice} {other:?}"),
        },
    }
}

fn sse(chunks: &[&str]) -> Vec<u8> {
    chunks.iter().flat_map(|chunk| format!("data: {chunk}\r\n\r\n").into_bytes()).collect()
}

const HELLO: &str = r#"{"candidates":[{"content":{"parts":[{"text":"Hel"}]}}],"usageMetadata":{"promptTokenCount":5,"totalTokenCount":5},"responseId":"r","modelVersion":"m"}"#;
const LAST: &str = r#"{"candidates":[{"content":{"parts":[{"text":"","thoughtSignature":"s"}]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":2,"totalTokenCount":11},"responseId":"r"}"#;

#[test]
fn the_end_of_the_body_ends_a_stream_whose_candidates_are_finished() {
    let (events, end) = read(&sse(&[HELLO, LAST]));
    assert_eq!(events, ["start r m", "0 text Hel", "0 text ", "0 signature s"]);
    assert_eq!(end.unwrap(), ["0 Stop", "usage 9 2"]);
}

#[test]
fn the_signature_of_an_empty_text_is_not_that_of_the_thought_before_it() {
    let thought = r#"{"candidates":[{"content":{"parts":[{"text":"hm","thought":true}]}}],"responseId":"r"}"#;
    let (events, _) = read(&sse(&[thought, LAST]));
    assert_eq!(events, ["start r ", "0 thought hm", "0 text ", "0 signature s"]);
}

#[test]
fn names_that_each_chunk_repeats_are_kept_short() {
    let long = "é".repeat(1000);
    let (events, _) = read(&sse(&[&format!(r#"{{"responseId":"{long}","modelVersion":"{long}"}}"#)]));
    let kept = "é".repeat(64);
    assert_eq!(events, [format!("start {kept} {kept}")]);
}

#[test]
fn a_stream_that_is_cut_off_has_no_end() {
    assert_eq!(read(&sse(&[HELLO])).1.unwrap(), [""; 0]);
    assert_eq!(read(b"").1.unwrap(), [""; 0]);
    let one_of_two = r#"{"candidates":[{"index":1,"content":{"parts":[{"text":"x"}]}}]}"#;
    assert_eq!(read(&sse(&[LAST, one_of_two])).1.unwrap(), [""; 0]);
}

#[test]
fn the_last_reason_and_the_last_counts_hold() {
    let stop = r#"{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":5,"candidatesTokenCount":9}}"#;
    let limit = r#"{"candidates":[{"content":{},"finishReason":"MAX_TOKENS"}],"usageMetadata":{"promptTokenCount":7,"candidatesTokenCount":3}}"#;
    assert_eq!(read(&sse(&[stop, limit])).1.unwrap(), ["0 Length", "usage 7 3"]);
}

#[test]
fn calls_come_whole_and_are_numbered() {
    let first = r#"{"responseId":"r","candidates":[{"content":{"parts":[{"text":"t","thought":true},{"functionCall":{"name":"f","args":{"b":1,"a":2}},"thoughtSignature":"s"}]}}]}"#;
    let second = r#"{"responseId":"r","candidates":[{"content":{"parts":[{"functionCall":{"name":"f","id":"own"}}]},"finishReason":"STOP"}]}"#;
    let (events, end) = read(&sse(&[first, second]));
    let expected = [
        "start r ",
        "0 thought t",
        "0 call 0 call_r_0 f s",
        "0 arguments 0 {\"b\":1,\"a\":2}",
        "0 call 1 own f -",
        "0 arguments 1 {}",
    ];
    assert_eq!(events, expected);
    assert_eq!(end.unwrap(), ["0 ToolCalls"]);
}

#[test]
fn a_prompt_that_is_blocked_ends_as_filtered() {
    let blocked =
        r#"{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":4,"totalTokenCount":4}}"#;
    assert_eq!(read(&sse(&[blocked])).1.unwrap(), ["0 ContentFilter", "usage 4 0"]);
}

#[test]
fn content_without_a_count_of_output_has_no_usage() {
    let uncounted = r#"{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":5}}"#;
    assert_eq!(read(&sse(&[uncounted])).1.unwrap(), ["0 Stop"]);
}

#[test]
fn what_no_client_is_shown_was_made_all_the_same() {
    for (part, made) in [
        (r#"{"inlineData":{"mimeType":"image/png","data":"AA"}}"#, true),
        (r#"{"text":"","thoughtSignature":"s"}"#, true),
        (r#"{"executableCode":{}}"#, true),
        (r#"{"text":""}"#, false),
        ("{}", false),
    ] {
        let body = sse(&[&format!(r#"{{"candidates":[{{"content":{{"parts":[{part}]}}}}]}}"#)]);
        let mut stream = Stream::default();
        stream.event(&sse::Event { raw: body.into() }, &mut Vec::new()).unwrap();
        assert_eq!(stream.has_made_something(), made, "{part}");
    }
}

#[test]
fn errors_end_the_stream_in_whatever_form_they_come() {
    let error = r#"{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}"#;
    let bare = [sse(&[HELLO]), error.as_bytes().to_vec()].concat();
    let listed = format!("[{error}]");
    for body in [sse(&[HELLO, error]), bare, listed.into_bytes()] {
        let fault = read(&body).1.unwrap_err();
        assert_eq!((fault.kind, fault.status, fault.in_answer), (FaultKind::Overloaded, Some(503), true));
        assert_eq!(fault.message, "The model is overloaded.");
    }
}

#[test]
fn what_is_no_stream_of_chunks_is_a_fault() {
    for body in
        [format!("[{HELLO}\r\n,\r\n{LAST}\r\n]"), "data: {\"candidates\":7}\n\n".to_owned(), "data: x\n\n".to_owned()]
    {
        let fault = read(body.as_bytes()).1.unwrap_err();
        assert_eq!((fault.kind, fault.in_answer), (FaultKind::Ambiguous, true), "{body}");
    }
    // What is neither data nor JSON is skipped, as the standard says.
    assert_eq!(read(b": comment\n\ndata: [DONE]\n\n").1.unwrap(), [""; 0]);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes: Vec<u8>, at in 0usize..200) {
        std::hint::black_box(read(&bytes).0);
        let mut damaged = sse(&[HELLO, LAST]);
        let at = at.min(damaged.len());
        damaged.splice(at..at, bytes);
        std::hint::black_box(read(&damaged).0);
    }
}

#[test]
fn more_candidates_than_can_be_asked_for_are_no_answer() {
    let chunk = |count: usize| {
        let candidates: Vec<_> =
            (0..count).map(|index| format!(r#"{{"index":{index},"content":{{"parts":[{{"text":"x"}}]}}}}"#)).collect();
        format!(r#"{{"candidates":[{}]}}"#, candidates.join(","))
    };
    assert!(read(&sse(&[&chunk(MOST_CHOICES)])).1.is_ok());
    assert!(read(&sse(&[&chunk(MOST_CHOICES + 1)])).1.is_err());
    let later = r#"{"candidates":[{"index":9999,"content":{}}]}"#;
    assert!(read(&sse(&[&chunk(MOST_CHOICES), later])).1.is_err());
}
