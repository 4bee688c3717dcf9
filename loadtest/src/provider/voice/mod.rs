//! The other languages that the scripted provider speaks: Anthropic's and Google's, as strict as the real ones where a gateway could go wrong.
//!
//! A request is checked in its own language and then read as the chat completion that it amounts to, so that every language
//! gets the same answer; [`speech`] hands the answer out and charges for it.

mod anthropic;
mod check;
mod google;
pub(crate) mod speech;

use bytes::Bytes;
use http::{HeaderMap, Response};

use self::speech::Piece;
use super::answer::Answer;
use super::body::ProviderBody;
use super::errors::ApiError;
use super::faults;
use super::ratelimit::Window;

/// A language, by the path that a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Voice {
    /// `POST /v1/messages`.
    Anthropic,
    /// `POST /v1beta/models/MODEL:generateContent` or `:streamGenerateContent?alt=sse`.
    Google {
        /// The model named in the path.
        model: String,
        /// Whether a stream is wanted.
        stream: bool,
    },
}

impl Voice {
    /// The language of a path with its query; `None` for chat completions and everything else.
    pub(crate) fn of(path_and_query: &str) -> Option<Self> {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let path = ["/v1beta", "/v1"].iter().find_map(|version| path.strip_prefix(version))?;
        if path == "/messages" {
            return Some(Self::Anthropic);
        }
        let (model, method) = path.strip_prefix("/models/")?.rsplit_once(':')?;
        let stream = match method {
            "generateContent" => false,
            "streamGenerateContent" if query.split('&').any(|pair| pair == "alt=sse") => true,
            _ => return None,
        };
        Some(Self::Google { model: model.to_owned(), stream })
    }

    /// The model that the path names, where it does.
    pub(crate) fn model(&self) -> Option<&str> {
        match self {
            Self::Anthropic => None,
            Self::Google { model, .. } => Some(model),
        }
    }

    /// The request as a chat completion would put it.
    pub(crate) fn as_chat(&self, headers: &HeaderMap, body: &[u8]) -> Result<Bytes, ApiError> {
        let chat = match self {
            Self::Anthropic => anthropic::as_chat(headers, body),
            Self::Google { model, stream } => google::as_chat(model, *stream, body),
        };
        chat.map(|chat| chat.to_string().into())
    }

    /// A whole answer.
    pub(crate) fn body(&self, answer: &Answer, asked: &[u8]) -> Bytes {
        match self {
            Self::Anthropic => anthropic::body(answer, asked),
            Self::Google { .. } => google::body(answer),
        }
    }

    /// A streamed answer, event by event.
    pub(crate) fn pieces(&self, answer: &Answer, asked: &[u8]) -> Vec<Piece> {
        match self {
            Self::Anthropic => anthropic::pieces(answer, asked),
            Self::Google { .. } => google::pieces(answer),
        }
    }

    /// The event of an error inside a stream.
    pub(crate) fn error_event(&self, error: &ApiError) -> Bytes {
        match self {
            Self::Anthropic => anthropic::event("error", &anthropic::error(error)),
            Self::Google { .. } => google::event(&google::error(error, None)),
        }
    }

    /// An error response; `window` is the limit that it speaks of.
    pub(crate) fn error(&self, error: &ApiError, window: Option<Window>, cut: Option<usize>) -> Response<ProviderBody> {
        let body = match self {
            Self::Anthropic => anthropic::error(error),
            Self::Google { .. } => google::error(error, window),
        };
        faults::response(error.status, faults::JSON, ProviderBody::whole(body.to_string().into(), cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_tell_the_language() {
        let google = |stream| Some(Voice::Google { model: "gemini-2.5-pro".to_owned(), stream });
        assert_eq!(Voice::of("/v1/messages"), Some(Voice::Anthropic));
        assert_eq!(Voice::of("/v1beta/models/gemini-2.5-pro:generateContent"), google(false));
        assert_eq!(Voice::of("/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse"), google(true));
        for other in ["/v1/chat/completions", "/v1beta/models/m:streamGenerateContent", "/v1/models", "/messages"] {
            assert_eq!(Voice::of(other), None, "{other}");
        }
    }
}
