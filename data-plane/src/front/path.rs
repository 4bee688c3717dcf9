//! Path and method → operation. Only exact paths are known; everything else is refused with a hint, never passed on.

use http::Method;

use crate::rejection::Rejection;
use crate::request::wanted::Endpoint;

/// What a request asks this node to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Something that a provider makes and bills.
    Generate(Endpoint),
    /// The models that the key may call.
    Models,
    /// One of them.
    Model(String),
    /// Whether the process lives.
    Health,
    /// Whether it can serve.
    Ready,
}

const CHAT: &str = "/chat/completions";
const EMBEDDINGS: &str = "/embeddings";
const MODELS: &str = "/models";

const NO_SUCH_PATH: &str = "No such path. KeyForge serves POST /v1/chat/completions, POST /v1/embeddings and GET /v1/models; is the client's base URL this server's address with /v1 at its end?";
const NO_LEGACY: &str =
    "The legacy completions API is not served: use POST /v1/chat/completions (in LlamaIndex: is_chat_model=True).";
const NO_RESPONSES: &str = "The responses API is not served by this version: use POST /v1/chat/completions (in the OpenAI Agents SDK: set_default_openai_api(\"chat_completions\")).";

/// What a request asks for.
///
/// # Errors
/// A rejection with status 404 or 405 that says what there is.
pub fn operation(method: &Method, path: &str) -> Result<Operation, Rejection> {
    let (operation, expected) = match path {
        "/healthz" => (Operation::Health, Method::GET),
        "/readyz" => (Operation::Ready, Method::GET),
        _ => match api_path(path).ok_or(Rejection::PathUnknown(NO_SUCH_PATH))? {
            CHAT => (Operation::Generate(Endpoint::ChatCompletions), Method::POST),
            EMBEDDINGS => (Operation::Generate(Endpoint::Embeddings), Method::POST),
            MODELS => (Operation::Models, Method::GET),
            "/completions" => return Err(Rejection::PathUnknown(NO_LEGACY)),
            "/responses" => return Err(Rejection::PathUnknown(NO_RESPONSES)),
            other => match other.strip_prefix("/models/") {
                Some(name) if !name.is_empty() => (Operation::Model(percent_decoded(name)), Method::GET),
                _ => return Err(Rejection::PathUnknown(NO_SUCH_PATH)),
            },
        },
    };
    let head_for_get = expected == Method::GET && *method == Method::HEAD;
    if *method == expected || head_for_get {
        return Ok(operation);
    }
    Err(Rejection::MethodNotAllowed(if expected == Method::GET { "GET" } else { "POST" }))
}

/// The path below the API's version. Base URLs of different clients end in different places, so an `/openai` in front and a doubled `/v1` are taken.
fn api_path(path: &str) -> Option<&str> {
    let path = path.strip_prefix("/openai").unwrap_or(path);
    let path = path.strip_prefix("/v1")?;
    let path = path.strip_prefix("/v1").unwrap_or(path);
    path.starts_with('/').then_some(path)
}

/// How a request is called in traces, by OpenTelemetry's names of what models do where there is one.
#[must_use]
pub const fn span_name(operation: &Result<Operation, Rejection>) -> &'static str {
    match operation {
        Ok(Operation::Generate(Endpoint::ChatCompletions)) => "chat",
        Ok(Operation::Generate(Endpoint::Embeddings)) => "embeddings",
        Ok(Operation::Models | Operation::Model(_)) => "models",
        Ok(Operation::Health | Operation::Ready) | Err(_) => "other",
    }
}

/// A known path for the log; others are not repeated there.
#[must_use]
pub fn known(path: &str) -> &'static str {
    match api_path(path) {
        Some(CHAT) => Endpoint::ChatCompletions.path(),
        Some(EMBEDDINGS) => Endpoint::Embeddings.path(),
        Some(path) if path.starts_with(MODELS) => "/v1/models",
        _ => "other",
    }
}

/// Model names may hold characters that clients escape in paths, such as `:` and `/`. What is not a valid escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let mut byte = [0];
        let escape = (*first == b'%').then(|| after.get(..2)).flatten();
        if escape.is_some_and(|digits| hex_pair(digits, &mut byte)) {
            bytes.push(byte[0]);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex_pair(digits: &[u8], out: &mut [u8; 1]) -> bool {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match digits.iter().map(|byte| digit(*byte)).collect::<Option<Vec<_>>>().as_deref() {
        Some([high, low]) => {
            out[0] = high << 4 | low;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_of_every_client_lead_to_the_same_operation() {
        for prefix in ["/v1", "/openai/v1", "/v1/v1"] {
            let path = format!("{prefix}/chat/completions");
            assert_eq!(operation(&Method::POST, &path), Ok(Operation::Generate(Endpoint::ChatCompletions)), "{path}");
            let path = format!("{prefix}/embeddings");
            assert_eq!(operation(&Method::POST, &path), Ok(Operation::Generate(Endpoint::Embeddings)), "{path}");
        }
        assert_eq!(operation(&Method::GET, "/v1/models"), Ok(Operation::Models));
        let slash = Operation::Model("openai/gpt-5".to_owned());
        assert_eq!(operation(&Method::GET, "/v1/models/openai%2Fgpt-5"), Ok(slash.clone()));
        assert_eq!(operation(&Method::GET, "/v1/models/openai/gpt-5"), Ok(slash));
    }

    #[test]
    fn what_is_not_served_is_refused_with_what_is() {
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v1x/models",
            "/v1/embeddings/",
            "/v2/chat/completions",
            "/v1/models/",
            "/chat/completions",
        ] {
            assert_eq!(operation(&Method::POST, path), Err(Rejection::PathUnknown(NO_SUCH_PATH)), "{path}");
        }
        assert_eq!(operation(&Method::GET, "/v1/chat/completions"), Err(Rejection::MethodNotAllowed("POST")));
        assert_eq!(operation(&Method::DELETE, "/v1/models"), Err(Rejection::MethodNotAllowed("GET")));
        assert_eq!(operation(&Method::POST, "/v1/completions"), Err(Rejection::PathUnknown(NO_LEGACY)));
    }
}
