//! Parts of messages read into the hub form, with their media.

use serde_json::{Value, json};

use super::super::conversation::read;
use super::super::conversation::tests::{messages, refused, refused_in_content, with};
use crate::chat::request::{Content, Source};

#[test]
fn media_are_read_by_address_and_in_place() {
    let content = json!([
        { "type": "image_url", "image_url": { "url": "https://x/y.png", "detail": "low" } },
        { "type": "image_url", "image_url": { "url": "data:image/PNG;base64,QUJD" } },
        { "type": "image_url", "image_url": "data:image/jpeg;charset=x;base64,QUJD" },
        { "type": "input_audio", "input_audio": { "data": "QUJD", "format": "mp3" } },
        { "type": "file", "file": { "file_data": "data:application/pdf;base64,QUJD", "filename": "a.pdf" } },
        { "type": "file", "file": { "file_data": "JVBERi0x" } },
        { "image_url": { "url": "HTTPS://x" } },
    ]);
    messages(json!([{ "role": "user", "content": content }]), |request| {
        let sources: Vec<String> = request.turns[0]
            .parts
            .iter()
            .map(|part| {
                let source = match &part.content {
                    Content::Image { source, .. } | Content::Audio { source } | Content::Document { source, .. } => {
                        source
                    }
                    other => panic!("{other:?}"),
                };
                match source {
                    Source::Url(url) => format!("url {url}"),
                    Source::Data { media_type, base64 } => format!("{media_type} {base64}"),
                }
            })
            .collect();
        let expected = [
            "url https://x/y.png",
            "image/png QUJD",
            "image/jpeg QUJD",
            "audio/mpeg QUJD",
            "application/pdf QUJD",
            "application/pdf JVBERi0x",
            "url HTTPS://x",
        ];
        assert_eq!(sources, expected);
    });
}

#[test]
fn parts_that_cannot_be_carried_are_refused_by_their_path() {
    for (part, path) in [
        (json!({ "type": "image_url", "image_url": { "url": "ftp://x" } }), "messages[0].content[0].image_url.url"),
        (
            json!({ "type": "image_url", "image_url": { "url": "data:image/png,x" } }),
            "messages[0].content[0].image_url.url",
        ),
        (
            json!({ "type": "image_url", "image_url": { "url": "data:;base64,x" } }),
            "messages[0].content[0].image_url.url",
        ),
        (json!({ "type": "image_url", "image_url": {} }), "messages[0].content[0].image_url.url"),
        (json!({ "type": "image_url" }), "messages[0].content[0].image_url"),
        (json!({ "type": "video_url", "video_url": { "url": "x" } }), "messages[0].content[0].type"),
        (json!({ "type": "file", "file": { "file_data": "QUJD" } }), "messages[0].content[0].file.file_data"),
        (json!({ "type": "file", "file": {} }), "messages[0].content[0].file.file_data"),
        (json!({ "type": "file", "file": { "file_id": "files/ab-1" } }), "messages[0].content[0].file.file_id"),
        (
            json!({ "type": "image_url", "image_url": { "url": "data:Audio/wav;base64,QUJD" } }),
            "messages[0].content[0].image_url.url",
        ),
        (json!({ "type": "image_url", "image_url": "data:video/mp4;base64,QUJD" }), "messages[0].content[0].image_url"),
        (
            json!({ "type": "image_url", "image_url": "data:image/p\"ng;base64,QUJD" }),
            "messages[0].content[0].image_url",
        ),
        (json!({ "type": "image_url", "image_url": "data:image;base64,QUJD" }), "messages[0].content[0].image_url"),
        (
            json!({ "type": "input_audio", "input_audio": { "data": "QUJD", "format": "../x" } }),
            "messages[0].content[0].input_audio.format",
        ),
        (
            json!({ "type": "text", "text": "x", "image_url": { "url": "https://x" } }),
            "messages[0].content[0].image_url",
        ),
        (
            json!({ "type": "image_url", "image_url": { "url": "https://x" }, "text": "x" }),
            "messages[0].content[0].text",
        ),
        (json!({ "type": "thinking", "thinking": "x", "data": "y" }), "messages[0].content[0].data"),
        (json!({ "type": "text", "text": 7 }), "messages[0].content[0].text"),
        (json!({ "type": "text", "text": "x", "colour": 1 }), "messages[0].content[0].colour"),
        (json!(null), "messages[0].content[0]"),
    ] {
        assert_eq!(refused_in_content(part.clone()), path, "{part}");
    }
}

#[test]
fn all_lists_of_a_request_share_one_room() {
    let calls = Value::from(vec![json!({ "id": "a", "function": { "name": "f" } }); 40_000]);
    let details = Value::from(vec![json!({ "type": "reasoning.text", "text": "x" }); 40_000]);
    let stop = Value::from(vec!["x"; 40_000]);
    let message = json!({ "role": "assistant", "content": "x", "tool_calls": calls, "reasoning_details": details });
    assert!(read(with(json!({ "messages": [message] })).as_bytes()).is_ok());
    let (field, problem) = refused(&with(json!({ "messages": [message], "stop": stop })));
    assert!(field.starts_with("stop[") && problem.contains("100000"), "{field}: {problem}");
}

#[test]
fn more_parts_than_anybody_takes_are_refused() {
    let content = Value::from(vec!["x"; 100_001]);
    let (field, _) = refused(&with(json!({ "messages": [{ "role": "user", "content": content }] })));
    assert_eq!(field, "messages[0].content[100000]");
    // A name is repeated with each result of its call.
    let call = json!({ "id": "c", "function": { "name": "f".repeat(257) } });
    let (field, _) = refused(&with(json!({ "messages": [{ "role": "assistant", "tool_calls": [call] }] })));
    assert_eq!(field, "messages[0].tool_calls[0].function.name");
    let deep = format!(r#"{{"messages":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(read(deep.as_bytes()).is_err());
}
