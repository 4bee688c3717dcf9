//! Bounds of requests, by what they hold and by who counts.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::metering;
use crate::openai::request::scan;
use crate::picture::tests::{encode, png_url};

fn bound_at(provider: &str, model: &str, body: &Value, window: Option<u64>) -> InputBound {
    input_bound(&scan(body.to_string().as_bytes()).unwrap(), &metering::of(provider, model), window)
}

fn text(tokens: u64) -> InputBound {
    InputBound::Tokens(InputTokens { text: tokens, audio: 0 })
}

fn user(content: Value) -> Value {
    json!({ "model": "m", "messages": [{ "role": "user", "content": content }] })
}

#[test]
fn text_is_bounded_by_the_bytes_it_means_and_by_the_window() {
    let body = user("hi\n\"é\u{1f600}\"".into());
    // 32 once, 8 for the message, 4 of its role.
    assert_eq!(bound_at("openai", "gpt-4o", &body, None), text(32 + 8 + 4 + 11));
    assert_eq!(bound_at("openai", "gpt-4o", &body, Some(20)), text(20));
    assert_eq!(bound_at("vllm", "m", &body, None), text(1024 + 8 + 4 + 11));
    let escaped = r#"{"model":"m","messages":[{"role":"user","content":"hi\n\"\u00e9\ud83d\ude00\""}]}"#;
    let escaped = input_bound(&scan(escaped.as_bytes()).unwrap(), &metering::of("openai", "gpt-4o"), None);
    assert_eq!(escaped, text(32 + 8 + 4 + 11));
}

#[test]
fn a_tools_result_counts_as_it_is_written() {
    let body = json!({ "model": "m", "messages": [{ "role": "tool", "content": "\n\n", "tool_call_id": "c" }] });
    let id = "tool_call_id".len() as u64 + "\"c\"".len() as u64;
    assert_eq!(bound_at("openai", "gpt-4o", &body, None), text(32 + 8 + 4 + 4 + id));
}

#[test]
fn what_is_shown_beside_the_messages_counts_and_what_is_not_does_not() {
    let mut body = user("".into());
    let bare = 32 + 8 + 4;
    for unshown in ["temperature", "metadata", "logit_bias", "user", "stop", "max_tokens"] {
        body[unshown] = json!(7);
    }
    assert_eq!(bound_at("openai", "gpt-4o", &body, None), text(bare));
    body["documents"] = json!(["abc"]);
    assert_eq!(bound_at("openai", "gpt-4o", &body, None), text(bare + 9 + 7 + 2));
    let mut body = user("".into());
    body["tools"] = json!([{ "type": "function" }]);
    let tools = 5 + 21 + 4 + 16 + 128;
    assert_eq!(bound_at("openai", "gpt-4o", &body, None), text(bare + tools));
}

#[test]
fn pictures_are_bounded_by_their_models_formula() {
    let image =
        |url: &str, detail: &str| user(json!([{ "type": "image_url", "image_url": { "url": url, "detail": detail } }]));
    let bare = 32 + 8 + 4 + 4;
    for (model, url, detail, tokens) in [
        ("gpt-4o", png_url(1024, 1024), "high", 765),
        ("gpt-4o", png_url(1024, 1024), "auto", 765),
        ("gpt-4o", png_url(1024, 1024), "low", 85),
        ("gpt-4o", "https://x/y.png".to_owned(), "high", 1445),
        ("gpt-4o-mini", "https://x/y.png".to_owned(), "low", 2833),
        ("gpt-4.1-mini", png_url(1024, 1024), "low", 1659),
        ("gpt-5.4", "https://x/y.png".to_owned(), "high", DEAREST_PICTURE + 41),
    ] {
        assert_eq!(bound_at("openai", model, &image(&url, detail), None), text(bare + tokens), "{model} {detail}");
    }
    let elsewhere = bound_at("mistral", "pixtral", &image("https://x/y.png", "low"), Some(128_000));
    assert_eq!(elsewhere, text(128_000 + DEAREST_PICTURE));
}

#[test]
fn i_3_a_file_at_a_host_that_says_nothing_of_pictures_is_bounded_by_the_dearest_that_it_may_hold() {
    let file = user(json!([{ "type": "file", "file": { "file_id": "file_1" } }]));
    for (provider, model) in [("azure", "gpt-4o-mini"), ("openrouter", "x/y"), ("openai", "gpt-6")] {
        assert_eq!(bound_at(provider, model, &file, Some(1_000)), text(34 * 1_000), "{provider} {model}");
    }
    assert_eq!(bound_at("openai", "gpt-4o", &file, Some(1_000)), text(1_000));
}

#[test]
fn sound_is_bounded_by_its_length_and_billed_as_sound() {
    let mp3 = encode(&[&[0xFF, 0xFB, 0x74, 0xC4][..], &[0; 996]].concat());
    let body =
        |format: &str| user(json!([{ "type": "input_audio", "input_audio": { "data": mp3, "format": format } }]));
    let bare = 32 + 8 + 4 + 4;
    let timed = bound_at("openai", "gpt-4o-audio-preview", &body("mp3"), None);
    assert_eq!(timed, InputBound::Tokens(InputTokens { text: bare, audio: 11 + 1 }));
    let mut with_file = body("mp3");
    with_file["messages"][0]["content"].as_array_mut().unwrap().push(json!({ "type": "file", "file": {} }));
    let both = bound_at("openai", "gpt-4o-audio-preview", &with_file, Some(128_000));
    assert_eq!(both, InputBound::Tokens(InputTokens { text: 34 * 128_000, audio: 12 }));
    let by_window = InputBound::Tokens(InputTokens { text: 0, audio: 128_000 });
    assert_eq!(bound_at("openai", "gpt-4o-audio-preview", &body("wav"), Some(128_000)), by_window);
    let earlier = json!({ "model": "m", "messages": [{ "role": "assistant", "audio": { "id": "audio_1" } }] });
    assert_eq!(bound_at("openai", "gpt-4o-audio-preview", &earlier, Some(128_000)), by_window);
    assert_eq!(bound_at("openai", "gpt-4o-audio-preview", &earlier, None), InputBound::Unboundable("messages"));
}

#[test]
fn i_3_what_google_takes_unseen_is_bounded_by_the_window_as_sound() {
    let by_window = |text: u64| InputBound::Tokens(InputTokens { text, audio: 1_000 });
    let picture = |url: &str| user(json!([{ "type": "image_url", "image_url": { "url": url } }]));
    let film = png_url(1, 1).replace("image/", "video/");
    for url in ["https://x/watch?v=1", "https://x/y.png", film.as_str()] {
        for model in ["gemini-3-flash-preview", "gemini-2.5-flash"] {
            let bound = bound_at("google", model, &picture(url), Some(1_000));
            assert_eq!(bound, by_window(DEAREST_PICTURE), "{model} {url}");
        }
    }
    let file = user(json!([{ "type": "file", "file": { "file_data": "data:audio/mp3;base64,AA" } }]));
    assert_eq!(bound_at("google", "gemini-2.5-flash", &file, Some(1_000)), by_window(0));
    let seen = picture(&png_url(384, 384));
    assert_eq!(bound_at("google", "gemini-2.5-flash", &seen, None), text(128 + 8 + 4 + 4 + 258));
    assert_eq!(bound_at("google", "gemini-3-flash-preview", &seen, None), text(128 + 8 + 4 + 4 + 1120));
}

#[test]
fn i_3_a_file_that_says_that_it_is_no_sound_is_bounded_by_the_window_as_text() {
    for data in ["data:application/pdf;base64,AA", "data:text/plain;base64,AA", "JVBERi0x"] {
        let file = user(json!([{ "type": "file", "file": { "file_data": data } }]));
        assert_eq!(bound_at("google", "gemini-2.5-flash", &file, Some(1_000)), text(1_000), "{data}");
    }
    for data in ["data:Application/PDF;base64,AA", "data:x/y;base64,AA", "https://x/y.pdf", ""] {
        let file = user(json!([{ "type": "file", "file": { "file_data": data } }]));
        let InputBound::Tokens(bound) = bound_at("google", "gemini-2.5-flash", &file, Some(1_000)) else { panic!() };
        assert_eq!(bound.audio, 1_000, "{data}");
    }
}

#[test]
fn i_3_the_name_that_google_wants_with_each_result_is_bounded() {
    let result = json!({ "role": "tool", "content": "", "tool_call_id": "c" });
    let body = |count: usize| json!({ "model": "m", "messages": vec![result.clone(); count] });
    let tokens = |provider: &str, model: &str, count: usize| {
        let InputBound::Tokens(bound) = bound_at(provider, model, &body(count), None) else { panic!("a bound") };
        bound.text
    };
    let more = |provider: &str, model: &str| tokens(provider, model, 2) - tokens(provider, model, 1);
    assert_eq!(more("google", "gemini-2.5-pro"), more("cerebras", "x") + 64);
}

#[test]
fn files_and_unknown_parts_are_bounded_by_the_window_alone() {
    for part in [json!({ "type": "file", "file": { "file_id": "f" } }), json!({ "type": "video_url", "video_url": {} })]
    {
        let body = user(json!([part]));
        assert_eq!(bound_at("openai", "gpt-4o", &body, Some(128_000)), text(128_000), "{part}");
        assert_eq!(bound_at("openai", "gpt-4o", &body, None), InputBound::Unboundable("messages"), "{part}");
    }
    // A file's pages are pictures, which this model bills at a multiple.
    let body = user(json!([{ "type": "file", "file": { "file_id": "f" } }]));
    assert_eq!(bound_at("openai", "gpt-4o-mini", &body, Some(128_000)), text(128_000 * 34));
}

#[test]
fn what_the_host_adds_has_no_bound() {
    let mut body = user("hi".into());
    assert_eq!(bound_at("openai", "gpt-5-search-api", &body, Some(1000)), InputBound::Unboundable("model"));
    body["web_search_options"] = json!({});
    let unbounded = bound_at("openai", "gpt-4o", &body, Some(1000));
    assert_eq!(unbounded, InputBound::Unboundable("web_search_options"));
    let mut body = user("hi".into());
    body["tools"] = json!([{ "type": "browser_search" }]);
    assert_eq!(bound_at("openai", "gpt-4o", &body, Some(1000)), InputBound::Unboundable("tools"));
}

#[test]
fn more_pictures_than_are_remembered_each_count_as_the_dearest() {
    let part = json!({ "type": "image_url", "image_url": { "url": png_url(1, 1), "detail": "low" } });
    let body = user(Value::from(vec![part; 600]));
    let expected = 128_000 + 512 * 85 + 88 * DEAREST_PICTURE;
    assert_eq!(bound_at("openai", "gpt-4o", &body, Some(128_000)), text(expected));
}

proptest! {
    #[test]
    fn i_3_no_text_has_more_tokens_than_its_bound(texts in prop::collection::vec("\\PC{0,40}", 1..5), in_parts: bool) {
        // The finest tokenizer there can be: every byte a token; and OpenAI's documented framing.
        let most: usize = texts.iter().map(|text| text.len() + "user".len() + 3).sum::<usize>() + 3;
        let messages: Vec<_> = texts.iter().map(|text| {
            let content = if in_parts { json!([{ "type": "text", "text": text }]) } else { json!(text) };
            json!({ "role": "user", "content": content })
        }).collect();
        let body = json!({ "model": "m", "messages": messages });
        let InputBound::Tokens(bound) = bound_at("openai", "gpt-4o", &body, None) else { panic!("a bound") };
        prop_assert!(most as u64 <= bound.text);
        prop_assert!(bound.text <= most as u64 + 32 + 9 * texts.len() as u64);
    }

    #[test]
    fn however_a_text_is_written_it_has_the_same_bound(text in "\\PC{0,40}") {
        let ascii: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        let written = |text: &str| format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":{text}}}]}}");
        let bound = |body: String| input_bound(&scan(body.as_bytes()).unwrap(), &metering::of("openai", "gpt-4o"), None);
        prop_assert_eq!(bound(written(&format!("\"{ascii}\""))), bound(written(&json!(text).to_string())));
    }
}
