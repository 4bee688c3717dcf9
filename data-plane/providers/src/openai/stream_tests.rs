//! Streams: what is forwarded, dropped, cut out and metered.

use bytes::Bytes;

use super::*;
use crate::fault::FaultKind;

fn event(raw: &str) -> Event {
    Event { raw: Bytes::copy_from_slice(raw.as_bytes()) }
}

/// What the client gets of one chunk, its framing taken off; `None` if nothing.
fn passed(meter: &mut StreamMeter, data: &str) -> Option<String> {
    let event = event(&format!("data: {data}\n\n"));
    let bytes = match meter.on_event(&event) {
        Verdict::Forward | Verdict::Done => event.raw,
        Verdict::ForwardTrimmed(pieces) => pieces.to_bytes(),
        Verdict::Drop => return None,
        other => panic!("{other:?}"),
    };
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    Some(text.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap().to_owned())
}

fn usage(input: u64, output: u64) -> Option<Usage> {
    Some(Usage { input, output, ..Usage::default() })
}

const USED: &str = r#"{"prompt_tokens":1,"completion_tokens":2}"#;

#[test]
fn a_client_that_did_not_ask_sees_no_usage() {
    let mut meter = StreamMeter::new(false);
    for (sent, seen) in [
        (r#"{"id":1,"choices":[{"delta":{}}],"usage":null}"#, Some(r#"{"id":1,"choices":[{"delta":{}}]}"#)),
        (r#"{"usage":null,"choices":[{}]}"#, Some(r#"{"choices":[{}]}"#)),
        (r#"{"id":1, "usage" : null , "choices":[{}]}"#, Some(r#"{"id":1 , "choices":[{}]}"#)),
        (r#"{"usage":null,"us\u0061ge":null,"choices":[{}],"usage":{},"usage":1}"#, Some(r#"{"choices":[{}]}"#)),
        (
            r#"{"choices":[{"delta":{"content":"\"usage\":null"}}]}"#,
            Some(r#"{"choices":[{"delta":{"content":"\"usage\":null"}}]}"#),
        ),
        (r#"{"choices":[{"delta":{"content":"usage"}}]}"#, Some(r#"{"choices":[{"delta":{"content":"usage"}}]}"#)),
        (
            r#"{"choices":[],"prompt_filter_results":[1],"usage":null}"#,
            Some(r#"{"choices":[],"prompt_filter_results":[1]}"#),
        ),
        (r#"{"choices":[],"prompt_filter_results":[1]}"#, Some(r#"{"choices":[],"prompt_filter_results":[1]}"#)),
        (r#"{"usage":null}"#, Some("{}")),
        ("[DONE]", Some("[DONE]")),
    ] {
        assert_eq!(passed(&mut meter, sent).as_deref(), seen, "{sent}");
    }
    for last in ["[]", "null"] {
        assert_eq!(passed(&mut meter, &format!(r#"{{"choices":{last},"usage":{USED}}}"#)), None);
    }
    assert_eq!(passed(&mut meter, &format!(r#"{{"usage":{USED}}}"#)), None);
    assert_eq!(meter.usage(), usage(1, 2));
    assert!(meter.done());
}

#[test]
fn usage_beside_choices_is_metered_and_only_the_member_is_cut() {
    let mut meter = StreamMeter::new(false);
    let sent = format!(r#"{{"choices":[{{"finish_reason":"stop"}}],"usage":{USED},"x":1}}"#);
    assert_eq!(passed(&mut meter, &sent).as_deref(), Some(r#"{"choices":[{"finish_reason":"stop"}],"x":1}"#));
    assert_eq!((meter.usage(), meter.finished()), (usage(1, 2), true));
}

#[test]
fn a_client_that_asked_gets_everything_untouched() {
    let mut meter = StreamMeter::new(true);
    for sent in [r#"{"choices":[{}],"usage":null}"#, &format!(r#"{{"choices":[],"usage":{USED}}}"#), "[DONE]"] {
        assert_eq!(passed(&mut meter, sent).as_deref(), Some(sent));
    }
    assert_eq!(meter.usage(), usage(1, 2));
}

#[test]
fn i_2_usage_that_comes_before_what_it_should_count_or_takes_output_back_is_not_the_last_word() {
    let says = |output: u64| format!(r#"{{"choices":[],"usage":{{"prompt_tokens":1,"completion_tokens":{output}}}}}"#);
    let content = r#"{"choices":[{"delta":{"content":"word"}}]}"#;
    let finish = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
    let metered = |chunks: &[&str]| {
        let mut meter = StreamMeter::new(true);
        chunks.iter().for_each(|chunk| drop(passed(&mut meter, chunk)));
        meter.usage()
    };
    assert_eq!(metered(&[&says(1), content, content, finish]), None, "the bound is charged");
    assert_eq!(metered(&[&says(1), content, finish, &says(2)]), usage(1, 2));
    assert_eq!(metered(&[content, &says(2), finish]), usage(1, 2));
    assert_eq!(metered(&[content, &says(500), &says(3)]), usage(1, 500));
    let groq = r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"x_groq":{"usage":{"prompt_tokens":1,"completion_tokens":2}}}"#;
    assert_eq!(metered(&[content, groq]), usage(1, 2));
}

#[test]
fn the_last_usage_that_is_not_null_counts() {
    let mut meter = StreamMeter::new(true);
    passed(&mut meter, &format!(r#"{{"choices":[{{}}],"usage":{USED}}}"#));
    passed(&mut meter, r#"{"x_groq":{"id":1,"usage":{"prompt_tokens":3,"completion_tokens":4}}}"#);
    passed(&mut meter, r#"{"choices":[{}],"usage":null}"#);
    assert_eq!(meter.usage(), usage(3, 4));
    passed(&mut meter, r#"{"usage":{"prompt_tokens":-3,"completion_tokens":4}}"#);
    assert_eq!(meter.usage(), None);
}

#[test]
fn input_is_seen_before_the_end_if_every_chunk_says_the_same() {
    let mut meter = StreamMeter::new(true);
    let chunk = |prompt: u64, completion: u64| {
        format!(r#"{{"choices":[{{}}],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{completion}}}}}"#)
    };
    passed(&mut meter, r#"{"choices":[{}],"usage":null}"#);
    assert_eq!(meter.input_seen(), None);
    passed(&mut meter, &chunk(12, 0));
    passed(&mut meter, &chunk(12, 5));
    assert_eq!(meter.input_seen(), Some(Usage { input: 12, ..Usage::default() }));
    passed(&mut meter, &chunk(257, 6));
    assert_eq!((meter.input_seen(), meter.usage()), (None, usage(257, 6)));
    passed(&mut meter, &chunk(257, 7));
    assert_eq!(meter.input_seen(), None, "what has changed once may change again");
}

#[test]
fn only_what_a_client_would_show_is_content() {
    let mut meter = StreamMeter::new(true);
    for nothing in [
        r#"{"choices":[{"delta":{"role":"assistant","content":"","refusal":null}}],"obfuscation":"abc"}"#,
        r#"{"choices":[{"delta":{"role":"assistant","content":null,"tool_calls":[]},"finish_reason":null}]}"#,
        r#"{"choices":[{"delta":{}}]}"#,
        r#"{"choices":[]}"#,
    ] {
        passed(&mut meter, nothing);
        assert!(!meter.has_content() && !meter.has_made_something() && !meter.finished(), "{nothing}");
    }
    for delta in [
        r#"{"content":"h\u00e9\n"}"#,
        r#"{"reasoning_content":"ab"}"#,
        r#"{"refusal":"no"}"#,
        r#"{"tool_calls":[{"index":0,"id":"call","type":"function","function":{"name":"f","arguments":"{}"}}]}"#,
        r#"{"tool_calls":[{"custom":{"name":"f","input":"xy"}}]}"#,
        r#"{"function_call":{"name":"f","arguments":"1"}}"#,
        r#"{"content":[{"type":"text","text":"a"}]}"#,
    ] {
        let mut meter = StreamMeter::new(true);
        passed(&mut meter, &format!(r#"{{"choices":[{{"delta":{delta}}}]}}"#));
        assert!(meter.has_content() && meter.has_made_something(), "{delta}");
    }
    let sealed = r#"{"choices":[{"delta":{"reasoning_details":[{"type":"reasoning.encrypted","data":"x"}]}}]}"#;
    passed(&mut meter, sealed);
    assert!(!meter.has_content() && meter.has_made_something(), "nobody can read it, but it was made");
}

#[test]
fn model_and_tier_are_read_from_the_chunks() {
    let mut meter = StreamMeter::new(true);
    passed(&mut meter, r#"{"model":"gpt-4o-2024-08-06","service_tier":"auto"}"#);
    assert_eq!((meter.model(), meter.tier()), (Some("gpt-4o-2024-08-06"), None));
    passed(&mut meter, r#"{"model":"gpt-4o-2024-08-06","service_tier":"default"}"#);
    assert_eq!(meter.tier(), Some(ServiceTier::Standard));
}

#[test]
fn errors_in_every_form_end_the_stream() {
    for (raw, kind, status) in [
        ("data: {\"error\":{\"message\":\"x\",\"type\":\"server_error\"}}\n\n", FaultKind::ServerError, None),
        (
            "data: {\"choices\":[{\"delta\":{}}],\"error\":{\"code\":429,\"message\":\"x\"}}\n\n",
            FaultKind::Throttled,
            Some(429),
        ),
        (
            "event: error\r\ndata: {\"error\":{\"code\":\"tool_use_failed\",\"status_code\":400,\"message\":\"x\"}}\r\n\r\n",
            FaultKind::ClientError,
            Some(400),
        ),
        (
            "data: {\"object\":\"error\",\"message\":\"x\",\"type\":\"t\",\"code\":\"1300\"}\n\n",
            FaultKind::Ambiguous,
            None,
        ),
        ("event: error\ndata: {\"message\":\"x\"}\n\n", FaultKind::Ambiguous, None),
        ("event: error\ndata: no JSON\n\n", FaultKind::Ambiguous, None),
        ("data: {\"error\":\"x\"}\n\n", FaultKind::Ambiguous, None),
    ] {
        let Verdict::UpstreamError(fault) = StreamMeter::new(false).on_event(&event(raw)) else { panic!("{raw}") };
        assert_eq!((fault.kind, fault.status, fault.in_answer), (kind, status, true), "{raw}");
        assert_eq!(fault.billed(), crate::fault::Billed::Unknown);
    }
    for nothing in ["null", "false", "\"\""] {
        let raw = format!("data: {{\"error\":{nothing}}}\n\n");
        assert!(matches!(StreamMeter::new(false).on_event(&event(&raw)), Verdict::Forward), "{nothing}");
    }
}

#[test]
fn a_stream_that_is_complete_gets_the_end_that_its_host_leaves_out() {
    let mut meter = StreamMeter::new(true);
    passed(&mut meter, r#"{"choices":[{"delta":{"content":"x"},"finish_reason":null}]}"#);
    assert_eq!(meter.on_end(), None, "cut off");
    passed(&mut meter, r#"{"choices":[{"delta":{},"finish_reason":"eos"}]}"#);
    assert_eq!(meter.on_end().unwrap(), "data: [DONE]\n\n");
    passed(&mut meter, "[DONE]");
    assert_eq!(meter.on_end(), None, "the end has come");
}

#[test]
fn a_message_beside_the_delta_changes_nothing() {
    let mut meter = StreamMeter::new(true);
    passed(
        &mut meter,
        r#"{"choices":[{"delta":{"content":"b"},"message":{"role":"assistant","content":"ab"},"finish_reason":null}],"citations":["x"]}"#,
    );
    assert!(meter.has_content());
}

#[test]
fn what_comes_on_the_chunk_of_an_error_does_not_make_it_an_answer() {
    let raw = "data: {\"choices\":[{\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}],\"error\":{\"code\":502,\"message\":\"x\"},\"usage\":null}\n\n";
    let mut meter = StreamMeter::new(false);
    let Verdict::UpstreamError(fault) = meter.on_event(&event(raw)) else { panic!() };
    assert_eq!((fault.kind, fault.status, meter.has_content()), (FaultKind::ServerError, Some(502), false));
    assert_eq!(meter.on_end(), None, "an error is no end");
}

#[test]
fn what_is_not_understood_is_forwarded() {
    for raw in [
        ": comment\n\n",
        "\n",
        "event: ping\n\n",
        "data:\n\n",
        "data: {\"choices\"\n\n",
        "data: [1]\n\n",
        "data: {} x\n\n",
    ] {
        assert!(matches!(StreamMeter::new(false).on_event(&event(raw)), Verdict::Forward), "{raw}");
    }
    assert!(matches!(StreamMeter::new(false).on_event(&event("data:[DONE]\n\n")), Verdict::Done));
}

#[test]
fn data_over_several_lines_is_trimmed_too() {
    let raw = ": c\ndata: {\"choices\":[{}],\ndata: \"usage\":null,\ndata: \"x\":1}\n\n";
    let Verdict::ForwardTrimmed(pieces) = StreamMeter::new(false).on_event(&event(raw)) else { panic!() };
    assert_eq!(pieces.to_bytes(), ": c\ndata: {\"choices\":[{}],\ndata: \"x\":1}\n\n");
}
