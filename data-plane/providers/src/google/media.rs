//! Pictures, sound and files of a request.
//!
//! What is in the body goes inline. Addresses are passed on where Google fetches them itself, which is `https` ("File input methods", Gemini
//! API, 2026-10), and only where nothing but the public can be: what Google would read with the credential that it is called with, buckets
//! and uploaded files, belongs to the operator.

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

/// Google's own hosts, of which only this one gives everybody what it gives the caller.
const OWN_HOSTS: &str = "googleapis.com";
const PUBLIC_HOST: &str = "storage.googleapis.com";

/// A medium as a part; `Err` holds what is wrong with it.
pub(super) fn data<'r>(source: &'r Source<'r>) -> Result<Data<'r>, &'static str> {
    match source {
        Source::Data { media_type, base64 } => Ok(Data::Inline(Blob { mime_type: media_type, data: base64 })),
        Source::Url(url) => file(url),
    }
}

fn file<'r>(url: &'r str) -> Result<Data<'r>, &'static str> {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    if scheme.eq_ignore_ascii_case("gs") || (scheme.eq_ignore_ascii_case("https") && !is_public(rest)) {
        return Err("files uploaded to the provider belong to the credential, which others share; send it as data");
    }
    if !scheme.eq_ignore_ascii_case("https") {
        return Err("this provider fetches https addresses only; send the content as a data URL");
    }
    Ok(Data::Remote(File { mime_type: media_type(url), file_uri: Cow::Borrowed(url) }))
}

/// Whether what comes after the scheme of a URL begins with a host that is not one of Google's own interfaces. A host that is not written in
/// plain letters, or behind a name and `@`, may be any.
fn is_public(rest: &str) -> bool {
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_plain) {
        return false;
    }
    let name = host.split(':').next().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    let is_own = name.strip_suffix(OWN_HOSTS).is_some_and(|before| before.is_empty() || before.ends_with('.'));
    !is_own || name == PUBLIC_HOST
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
            (
                "https://storage.googleapis.com/b/x.pdf",
                json!({"mimeType": "application/pdf", "fileUri": "https://storage.googleapis.com/b/x.pdf"}),
            ),
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
    fn what_only_the_credential_can_read_is_refused() {
        for url in [
            "gs://bucket/x.pdf",
            "GS://bucket/x.pdf",
            "https://generativelanguage.googleapis.com/v1beta/files/ab-1",
            "https://me@Generativelanguage.GoogleApis.com.:443/v1beta/files/ab-1",
            "https://h\\@generativelanguage.googleapis.com/v1beta/files/ab-1",
            "https://generativelanguage%2egoogleapis.com/v1beta/files/ab-1",
            "https://generativelanguage。googleapis.com/v1beta/files/ab-1",
            "https:///generativelanguage.googleapis.com/v1beta/files/ab-1",
            "https://us-central1-aiplatform.googleapis.com/v1/x",
        ] {
            let refused = written(&Source::Url(url.into()));
            assert!(refused.is_err_and(|why| why.contains("belong to the credential")), "{url}");
        }
    }

    #[test]
    fn content_goes_inline_as_it_came() {
        let source = Source::Data { media_type: "audio/wav".into(), base64: "AAAA".into() };
        assert_eq!(written(&source), Ok(json!({"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}})));
    }
}
