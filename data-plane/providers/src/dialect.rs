//! What KeyForge itself says to a client, in the dialect that the client speaks: errors, errors inside a stream, keep-alives.

use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's `POST /v1/chat/completions`, spoken by most clients and hosts.
    ChatCompletions,
}

/// What an error says; each dialect gives it its own form.
#[derive(Clone, Copy, Debug)]
pub struct ErrorBody<'a> {
    /// What is wrong and what to do, for a human.
    pub message: &'a str,
    /// The class of error, `type` in the body, e.g. `invalid_request_error`.
    pub kind: &'a str,
    /// What a program decides by, e.g. `budget_exceeded`. Empty: null in the body.
    pub code: &'a str,
    /// The field of the request that is at fault.
    pub param: Option<&'a str>,
    /// Further members of the error object, after the others.
    pub extra: &'a [(&'static str, serde_json::Value)],
}

impl Dialect {
    /// The body of an error response.
    #[must_use]
    pub fn error_body(self, error: &ErrorBody<'_>) -> Bytes {
        match self {
            Self::ChatCompletions => Bytes::from(envelope(error)),
        }
    }

    /// The event that ends a stream which has already begun.
    #[must_use]
    pub fn stream_error(self, error: &ErrorBody<'_>) -> Bytes {
        match self {
            // The JSON holds no line ends: the serialiser escapes those in strings and writes none itself.
            Self::ChatCompletions => Bytes::from(format!("data: {}\n\n", envelope(error))),
        }
    }

    /// What keeps a silent stream from being taken for dead. Clients ignore it.
    #[must_use]
    pub fn keep_alive(self) -> &'static [u8] {
        match self {
            Self::ChatCompletions => b": keep-alive\n\n",
        }
    }
}

fn envelope(error: &ErrorBody<'_>) -> String {
    // Serialising strings and JSON values into a string does not fail.
    serde_json::to_string(&Envelope(error)).unwrap_or_default()
}

/// `{"error":{…}}` with the members in OpenAI's order.
struct Envelope<'a>(&'a ErrorBody<'a>);

impl Serialize for Envelope<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut outer = serializer.serialize_map(Some(1))?;
        outer.serialize_entry("error", &Members(self.0))?;
        outer.end()
    }
}

struct Members<'a>(&'a ErrorBody<'a>);

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let error = self.0;
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry("message", error.message)?;
        members.serialize_entry("type", error.kind)?;
        members.serialize_entry("param", &error.param)?;
        members.serialize_entry("code", &(!error.code.is_empty()).then_some(error.code))?;
        for (name, value) in error.extra {
            members.serialize_entry(name, value)?;
        }
        members.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_form_that_openai_clients_read() {
        let extra = [("held", serde_json::json!(7)), ("reset_at", serde_json::json!("2026-12-01T00:00:00Z"))];
        let error = ErrorBody {
            message: "a \"b\"\nc",
            kind: "insufficient_quota",
            code: "budget_exceeded",
            param: None,
            extra: &extra,
        };
        let body = r#"{"error":{"message":"a \"b\"\nc","type":"insufficient_quota","param":null,"code":"budget_exceeded","held":7,"reset_at":"2026-12-01T00:00:00Z"}}"#;
        assert_eq!(Dialect::ChatCompletions.error_body(&error), body);
        assert_eq!(Dialect::ChatCompletions.stream_error(&error), format!("data: {body}\n\n"));
        let bare = ErrorBody { message: "m", kind: "t", code: "", param: Some("n"), extra: &[] };
        assert_eq!(
            Dialect::ChatCompletions.error_body(&bare),
            r#"{"error":{"message":"m","type":"t","param":"n","code":null}}"#
        );
    }

    #[test]
    fn keep_alive_is_one_comment() {
        let mut splitter = crate::sse::Splitter::new(64);
        splitter.feed(Bytes::from_static(Dialect::ChatCompletions.keep_alive()));
        assert!(!splitter.next_event().unwrap().unwrap().has_data());
        assert!(splitter.finish().is_none());
    }
}
