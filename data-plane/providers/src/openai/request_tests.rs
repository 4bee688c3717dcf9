//! Requests: what is read, and what is refused by field.

use super::*;

const LEAST: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;

/// The least body with more members at its end.
fn with(members: &str) -> String {
    format!("{},{members}}}", LEAST.strip_suffix('}').unwrap())
}

fn found(members: &str) -> ChatRequest {
    scan(with(members).as_bytes()).unwrap_or_else(|error| panic!("{members}: {error}"))
}

/// Field and message of the refusal.
fn refused(body: &str) -> (Option<String>, String) {
    let error = scan(body.as_bytes()).expect_err(body);
    (error.field, error.message)
}

#[test]
fn every_field_is_found_with_its_place() {
    let body = r#" { "mod\u0065l" : "gpt\u002d4o" , "messages":[{},{}],"stream":true,"stream_options": {"x":1,"include_usage":false},
        "max_tokens":7,"max_completion_tokens":9, "n":2,"service_tier":"flex","tools":[{"type":"function"}],"unknown":{"n":[0]}} "#;
    let request = scan(body.as_bytes()).unwrap();
    assert_eq!(request.model, "gpt-4o");
    assert_eq!(&body[request.model_span.clone()], r#""gpt\u002d4o""#);
    let options = request.stream_options.clone().unwrap();
    assert_eq!(&body[options.span], r#"{"x":1,"include_usage":false}"#);
    assert_eq!(&body[options.include_usage_span.unwrap()], "false");
    assert!(request.stream && !options.include_usage && options.has_members && !request.asks_for_usage());
    assert_eq!(&body[request.max_tokens.clone().unwrap().span], "7");
    assert_eq!(request.max_completion_tokens.clone().unwrap().value, 9);
    assert_eq!(request.max_output_tokens(), Some(7));
    assert_eq!((request.n, request.tools, request.content.messages), (2, true, 2));
    assert_eq!(request.service_tier, Some(RequestedTier::Flex));
    assert_eq!((request.insert_at, request.body_len), (2, body.len()));
    assert!(request.billed_extras.is_empty() && request.content.is_text());
}

#[test]
fn absent_and_null_mean_the_default() {
    let least = scan(LEAST.as_bytes()).unwrap();
    assert_eq!((least.n, least.stream, least.tools, &least.service_tier), (1, false, false, &None));
    let nulls = found(
        r#""n":null,"stream":null,"stream_options":null,"max_tokens":null,"max_completion_tokens":null,
        "service_tier":null,"tools":null,"functions":null,"audio":null,"modalities":null"#,
    );
    assert_eq!((nulls.n, nulls.stream, nulls.tools, nulls.max_tokens.is_none()), (1, false, false, true));
    assert!(nulls.null_max_tokens.is_some() && nulls.null_max_completion_tokens.is_some());
    assert!(nulls.billed_extras.is_empty());
    assert!(!found(r#""stream_options":{"include_usage":null}"#).asks_for_usage());
}

#[test]
fn wrong_types_and_ranges_name_the_field_and_what_was_given() {
    for (members, field, message) in [
        (r#""max_tokens":"12""#, "max_tokens", r#"`max_tokens` must be a positive whole number, got "12""#),
        (r#""max_tokens":0"#, "max_tokens", "`max_tokens` must be a positive whole number, got 0"),
        (r#""max_tokens":-1"#, "max_tokens", "`max_tokens` must be a positive whole number, got -1"),
        (r#""max_tokens":1.5"#, "max_tokens", "`max_tokens` must be a positive whole number, got 1.5"),
        (r#""max_tokens":1e3"#, "max_tokens", "`max_tokens` must be a positive whole number, got 1e3"),
        (
            r#""max_completion_tokens":99999999999999999999"#,
            "max_completion_tokens",
            "`max_completion_tokens` must be a positive whole number, got 99999999999999999999",
        ),
        (r#""n":0"#, "n", "`n` must be a positive whole number, got 0"),
        (r#""n":129"#, "n", "`n` must be at most 128, got 129"),
        (r#""stream":"true""#, "stream", r#"`stream` must be true or false, got "true""#),
        (r#""stream_options":[]"#, "stream_options", "`stream_options` must be an object, got []"),
        (
            r#""stream_options":{"include_usage":1}"#,
            "stream_options.include_usage",
            "`stream_options.include_usage` must be true or false, got 1",
        ),
        (r#""service_tier":3"#, "service_tier", "`service_tier` must be a string, got 3"),
        (r#""tools":{}"#, "tools", "`tools` must be a list, got {}"),
    ] {
        assert_eq!(refused(&with(members)), (Some(field.to_owned()), message.to_owned()));
    }
    let long = with(&format!("\"stream\":\"{}\"", "x".repeat(1000)));
    assert_eq!(refused(&long).1, format!("`stream` must be true or false, got \"{}…", "x".repeat(39)));
}

#[test]
fn model_and_messages_are_required() {
    for (body, field, message) in [
        (r#"{}"#, "model", "`model` is missing"),
        (r#"{"model":"m"}"#, "messages", "`messages` is missing"),
        (r#"{"model":null,"messages":[{}]}"#, "model", "`model` must be a string, got null"),
        (r#"{"model":"","messages":[{}]}"#, "model", "`model` must not be empty"),
        (r#"{"model":"\ud800","messages":[{}]}"#, "model", "`model` is not Unicode text"),
        (r#"{"model":"m","messages":[]}"#, "messages", "`messages` must hold at least one message"),
        (r#"{"model":"m","messages":"hi"}"#, "messages", r#"`messages` must be a list of messages, got "hi""#),
        (r#"{"model":"m","messages":[{},"hi"]}"#, "messages[1]", r#"`messages[1]` must be an object, got "hi""#),
    ] {
        assert_eq!(refused(body), (Some(field.to_owned()), message.to_owned()));
    }
    let long = format!(r#"{{"model":"{}","messages":[{{}}]}}"#, "m".repeat(257));
    assert_eq!(refused(&long).1, "`model` is longer than 256 bytes");
}

#[test]
fn a_field_given_twice_is_refused_however_it_is_written() {
    for (members, field) in [
        (r#""model":"n""#, "model"),
        (r#""mod\u0065l":"n""#, "model"),
        (r#""messages":[]"#, "messages"),
        (r#""n":1,"n":1"#, "n"),
        (r#""max_tokens":null,"max_tokens":1"#, "max_tokens"),
        (r#""stream":true,"stre\u0061m":false"#, "stream"),
        (r#""stream_options":{},"stream_options":null"#, "stream_options"),
        (r#""stream_options":{"include_usage":true,"includ\u0065_usage":false}"#, "stream_options.include_usage"),
        (r#""tools":[],"tools":[]"#, "tools"),
    ] {
        assert_eq!(refused(&with(members)), (Some(field.to_owned()), format!("`{field}` is given twice")));
    }
    assert!(scan(with(r#""user":"a","user":"b""#).as_bytes()).is_ok());
}

#[test]
fn a_key_that_differs_in_case_only_is_refused() {
    for (members, field) in [
        (r#""Model":"n""#, "model"),
        (r#""MAX_TOKENS":1"#, "max_tokens"),
        ("\"\u{17f}tream\":true", "stream"),
        (r#""to\u006fl\u017f":[]"#, "tools"),
        (r#""stream_options":{"Include_Usage":true}"#, "include_usage"),
        ("\"max_to\u{212a}ens\":1", "max_tokens"),
    ] {
        let (refused_field, message) = refused(&with(members));
        assert_eq!(refused_field.as_deref(), Some(field));
        assert!(message.ends_with(&format!("must be written `{field}`")), "{message}");
    }
    assert!(scan(with(r#""User":"a","Ñ":1,"MODELLING":2"#).as_bytes()).is_ok());
}

#[test]
fn what_is_not_one_json_object_is_refused_with_its_place() {
    for (body, message) in [
        ("", "the body is not valid JSON: it ends where a value is expected (line 1, column 1)"),
        ("[1]", "the body must be a JSON object"),
        ("\"text\"", "the body must be a JSON object"),
        ("[1", "the body is not valid JSON: it ends inside an array or object (line 1, column 3)"),
        ("{\n  'a': 1}", "the body is not valid JSON: a key in double quotes is expected (line 2, column 3)"),
    ] {
        assert_eq!(refused(body), (None, message.to_owned()));
    }
    assert!(refused(&format!("{LEAST} x")).1.starts_with("the body is not valid JSON: something follows"));
    for length in 0..LEAST.len() {
        assert!(scan(&LEAST.as_bytes()[..length]).is_err(), "cut to {length}");
    }
    let mut bytes = LEAST.as_bytes().to_vec();
    bytes[50] = 0xff;
    assert_eq!(scan(&bytes).unwrap_err().message, "the body is not UTF-8 text: byte 50 does not belong there");
}

#[test]
fn a_syntax_error_outranks_what_is_wrong_with_the_request() {
    assert!(refused(r#"{"model":1,"messages":[}"#).1.starts_with("the body is not valid JSON"));
}

#[test]
fn parts_are_counted_by_kind() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":[
        {"type":"text","text":"a"},{"type":"refusal","refusal":"b"},"bare",
        {"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}},
        {"type":"input_audio","input_audio":{"data":"AA","format":"wav"}},
        {"type":"file","file":{"file_data":"data:application/pdf;base64,AA"}},
        {"type":"video_url","video_url":{"url":"x"}},{"type":"video_url"},{"text":"untyped"}]},{"content":null},{"content":{}}]}"#;
    let content = scan(body.as_bytes()).unwrap().content;
    assert_eq!((content.messages, content.image_parts, content.audio_parts, content.file_parts), (3, 1, 1, 1));
    assert!(!content.has_remote && !content.is_text());
    assert_eq!(
        content.unknown_parts,
        ["video_url", "a part without a type", "content that is neither text nor a list"]
    );
}

#[test]
fn media_outside_the_body_are_seen() {
    for message in [
        r#"{"content":[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]}"#,
        r#"{"content":[{"type":"image_url","image_url":"https://x/y.png"}]}"#,
        r#"{"content":[{"type":"file","file":{"file_id":"file-1"}}]}"#,
        r#"{"content":null,"audio":{"id":"audio_1"}}"#,
    ] {
        let content = scan(format!(r#"{{"model":"m","messages":[{message}]}}"#).as_bytes()).unwrap().content;
        assert!(content.has_remote && !content.is_text(), "{message}");
    }
}

#[test]
fn a_part_that_can_be_read_in_two_ways_counts_as_both() {
    for part in [
        r#"{"type":"text","type":"image_url"}"#,
        r#"{"type":"image_url","type":"text"}"#,
        r#"{"type":"text","image_url":{}}"#,
        r#"{"typ\u0065":"image_\u0075rl"}"#,
    ] {
        let body = format!(r#"{{"model":"m","messages":[{{"content":[{part}],"content":"x"}}]}}"#);
        assert_eq!(scan(body.as_bytes()).unwrap().content.image_parts, 1, "{part}");
    }
}

#[test]
fn unknown_part_types_are_remembered_only_so_far() {
    let parts: Vec<String> = (0..100).map(|n| format!("{{\"type\":\"{n}{}\"}}", "x".repeat(100))).collect();
    let body = format!(r#"{{"model":"m","messages":[{{"content":[{}]}}]}}"#, parts.join(","));
    let unknown = scan(body.as_bytes()).unwrap().content.unknown_parts;
    assert_eq!((unknown.len(), unknown[0].chars().count()), (8, 41));
}

#[test]
fn fields_that_cost_more_than_tokens_are_named() {
    for (members, extras) in [
        (r#""web_search_options":{}"#, vec!["web_search_options"]),
        (r#""audio":{"voice":"x"},"modalities":["text","audio"]"#, vec![]),
        (r#""modalities":["text"]"#, vec![]),
        (r#""modalities":["text","image"]"#, vec!["modalities"]),
        (r#""modalities":"audio""#, vec!["modalities"]),
        (r#""prediction":{},"models":["x"],"plugins":[]"#, vec!["models", "plugins"]),
        (r#""enable_search":false,"web_search":null"#, vec![]),
        (r#""enable_search":true"#, vec!["enable_search"]),
        (r#""extra_body":{"google":{"thinking_config":{"thinking_budget":1}}}"#, vec![]),
        (r#""extra_body":{"google":{"google":{}}}"#, vec!["google"]),
        (r#""google":{"thinking_config":{},"cached_content":"x"}"#, vec!["google"]),
        (r#""extra_body":{"tools":[]}"#, vec!["extra_body"]),
        (r#""tools":[{"type":"function"},{"type":"custom"}]"#, vec![]),
        (r#""tools":[{"type":"function"},{"type":"browser_search"},{"type":"x"}]"#, vec!["tools"]),
        (r#""functions":[{"name":"f","type":"x"}]"#, vec![]),
    ] {
        assert_eq!(found(members).billed_extras, extras, "{members}");
    }
}

#[test]
fn a_spoken_answer_is_asked_for_by_either_field() {
    assert_eq!(found(r#""audio":{"voice":"x"}"#).spoken, Some("audio"));
    assert_eq!(found(r#""modalities":["text","audio"]"#).spoken, Some("modalities"));
    assert_eq!(found(r#""modalities":["text"],"audio":null"#).spoken, None);
}

#[test]
fn a_prediction_counts_with_its_bytes() {
    let prediction = r#"{"type":"content","content":"abc"}"#;
    assert_eq!(found(&format!("\"prediction\":{prediction}")).prediction_bytes, prediction.len() as u64);
    assert_eq!(found(r#""prediction":null"#).prediction_bytes, 0);
}

#[test]
fn pictures_are_known_only_if_there_is_no_doubt() {
    let picture = |value: &str| {
        let body = format!(r#"{{"model":"m","messages":[{{"content":[{{"image_url":{value}}}]}}]}}"#);
        scan(body.as_bytes()).unwrap().content.pictures[0]
    };
    let (small, large) = (crate::picture::tests::png_url(10, 20), crate::picture::tests::png_url(1000, 2000));
    let known = picture(&format!(r#"{{"detail":"low","url":"{small}"}}"#));
    assert_eq!((known.size.map(|size| (size.width, size.height)), known.is_low_detail), (Some((10, 20)), true));
    assert!(picture(&format!("\"{small}\"")).size.is_some());
    for doubtful in [
        format!(r#"{{"detail":"low","url":"{small}","url":"{large}"}}"#),
        format!(r#"{{"detail":"low","detail":"high","url":"{small}"}}"#),
        format!(r#"{{"url":"{small}"}},"image_url":{{"url":"{large}","detail":"low"}}"#),
    ] {
        let picture = picture(&doubtful);
        assert!(!picture.is_low_detail && (picture.size.is_none() || !doubtful.contains(&large)), "{doubtful}");
    }
}

#[test]
fn tiers_are_told_apart() {
    for (written, tier) in [
        ("auto", RequestedTier::Auto),
        ("default", RequestedTier::Default),
        ("priority", RequestedTier::Priority),
        ("scale", RequestedTier::Other("scale".to_owned())),
    ] {
        assert_eq!(found(&format!("\"service_tier\":\"{written}\"")).service_tier, Some(tier));
    }
}

#[test]
fn i_3_fields_that_multiply_store_or_route_are_named() {
    let extras = |fields: &str| {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],{fields}}}"#);
        scan(body.as_bytes()).unwrap().billed_extras
    };
    for (field, value) in [
        ("prompt", r#"{"id":"pmpt_1"}"#),
        ("previous_response_id", r#""resp_1""#),
        ("conversation", r#""conv_1""#),
        ("best_of", "2"),
        ("best_of", "1.5"),
        ("num_return_sequences", "3"),
        ("background", "true"),
        ("web_search", "{}"),
        ("provider", r#"{"sort":"throughput"}"#),
    ] {
        assert_eq!(extras(&format!(r#""{field}":{value}"#)), [field], "{value}");
    }
    for harmless in
        [r#""best_of":1"#, r#""best_of":null"#, r#""background":false"#, r#""prompt":null"#, r#""candidate_count": 1"#]
    {
        assert!(extras(harmless).is_empty(), "{harmless}");
    }
}
