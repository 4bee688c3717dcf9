//! Pictures, sound and files of a request.
//!
//! What is in the body goes inline. Addresses are passed on where Google fetches them itself: `https` and `gs` ("File input
//! methods", Gemini API, 2026-10; recordings show `https` at both of its hosts).

use std::borrow::Cow;

use super::wire::{Blob, Data, File};
use crate::chat::request::Source;

/// Types by the ending of a path, as far as Google's models take them.
const TYPES: [(&str, &str); 24] = [
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("webp", "image/webp"),
    ("gif", "image/gif"),
    ("heic", "image/heic"),
    ("heif", "image/heif"),
    ("bmp", "image/bmp"),
    ("pdf", "application/pdf"),
    ("json", "application/json"),
    ("txt", "text/plain"),
    ("md", "text/md"),
    ("csv", "text/csv"),
    ("html", "text/html"),
    ("css", "text/css"),
    ("xml", "text/xml"),
    ("wav", "audio/wav"),
    ("mp3", "audio/mp3"),
    ("aac", "audio/aac"),
    ("ogg", "audio/ogg"),
    ("flac", "audio/flac"),
    ("mp4", "video/mp4"),
    ("mov", "video/mov"),
    ("webm", "video/webm"),
];

/// The collection of files that were uploaded before.
const FILES: &str = "https://generativelanguage.googleapis.com/v1beta/files/";

/// A medium as a part; `Err` holds what is wrong with it.
pub(super) fn data<'r>(source: &'r Source<'r>) -> Result<Data<'r>, &'static str> {
    match source {
        Source::Data { media_type, base64 } => Ok(Data::Inline(Blob { mime_type: media_type, data: base64 })),
        Source::Url(url) => file(url),
        // Google's ids of files are addresses, and a file has no other place for one in chat completions.
        Source::FileId(id) if id.contains("://") => file(id),
        Source::FileId(id) => {
            let name = id.strip_prefix("files/").filter(|name| !name.is_empty() && name.bytes().all(is_file_letter));
            let name = name.ok_or("this provider does not know the file; send its content as a data URL")?;
            Ok(Data::Remote(File { mime_type: None, file_uri: Cow::Owned(format!("{FILES}{name}")) }))
        }
    }
}

fn is_file_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

fn file<'r>(url: &'r str) -> Result<Data<'r>, &'static str> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("https" | "gs") => Ok(Data::Remote(File { mime_type: media_type(url), file_uri: Cow::Borrowed(url) })),
        _ => Err("this provider fetches https addresses only; send the content as a data URL"),
    }
}

/// The type that the ending of the URL's path names. Without one Google looks for itself.
fn media_type(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    let ending = name.rsplit_once('.')?.1.to_ascii_lowercase();
    TYPES.iter().find(|(known, _)| *known == ending).map(|(_, media_type)| *media_type)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(source: &Source<'_>) -> Result<Value, &'static str> {
        data(source).map(|data| serde_json::to_value(data).unwrap())
    }

    #[test]
    fn what_google_can_fetch_is_passed_on_and_the_rest_refused() {
        for (url, expected) in [
            ("https://h/a/b.PNG?x=1.gif", json!({"mimeType": "image/png", "fileUri": "https://h/a/b.PNG?x=1.gif"})),
            ("gs://bucket/x.pdf", json!({"mimeType": "application/pdf", "fileUri": "gs://bucket/x.pdf"})),
            ("https://youtu.be/abc", json!({"fileUri": "https://youtu.be/abc"})),
            ("https://h.png", json!({"mimeType": "image/png", "fileUri": "https://h.png"})),
        ] {
            assert_eq!(written(&Source::Url(url.into())), Ok(json!({ "fileData": expected })), "{url}");
        }
        for url in ["http://h/a.png", "file:///etc/passwd", "a.png", ""] {
            assert!(written(&Source::Url(url.into())).is_err(), "{url}");
        }
    }

    #[test]
    fn only_googles_own_files_have_an_id() {
        let expected = json!({"fileData": {"fileUri": format!("{FILES}ab-1")}});
        assert_eq!(written(&Source::FileId("files/ab-1".into())), Ok(expected.clone()));
        assert_eq!(written(&Source::FileId(format!("{FILES}ab-1").into())), Ok(expected));
        for id in ["file-abc", "files/", "files/../x", "files/a?b", "http://h/x"] {
            assert!(written(&Source::FileId(id.into())).is_err(), "{id}");
        }
    }

    #[test]
    fn content_goes_inline_as_it_came() {
        let source = Source::Data { media_type: "audio/wav".into(), base64: "AAAA".into() };
        assert_eq!(written(&source), Ok(json!({"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}})));
    }
}
