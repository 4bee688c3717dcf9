//! What a chat request asks for: read once, borrowed from its bytes, with the prompt's token count.
//!
//! Prompt tokens are a fixed function of the contents: 4 per message, and one per started 4 bytes of each text, tool
//! definition and earlier tool call; other content parts count 10. The sum never exceeds the body's length in bytes,
//! because a message takes more than 4 bytes and a part more than 10 besides its text.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::errors::ApiError;

/// Most choices of one request, as OpenAI has it.
const MAX_CHOICES: u64 = 128;

/// Tokens of a content part that is not text.
const OTHER_PART_TOKENS: u64 = 10;

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    messages: Option<Vec<Message<'a>>>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    n: Option<u64>,
    #[serde(borrow)]
    tools: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    tool_choice: Option<&'a RawValue>,
    parallel_tool_calls: Option<bool>,
    #[serde(borrow)]
    response_format: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

/// A chat request that can be answered.
pub(crate) struct ChatRequest<'a> {
    /// The model as asked for.
    pub model: Cow<'a, str>,
    /// Whether the answer is an event stream.
    pub stream: bool,
    /// Whether a stream ends with its usage.
    pub include_usage: bool,
    /// The most tokens of one choice.
    pub max_tokens: Option<u64>,
    /// Choices, at least 1.
    pub choices: u64,
    /// Tool definitions as sent.
    pub tools: Vec<&'a RawValue>,
    /// Tool choice as sent.
    pub tool_choice: Option<&'a RawValue>,
    /// Whether one answer may call several tools: only if asked for in so many words.
    pub parallel_tool_calls: bool,
    /// Response format as sent.
    pub response_format: Option<&'a RawValue>,
    /// Whether the last message is a tool's result.
    pub ends_with_tool_result: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// The text of the last user message; empty if there is none.
    pub last_user_text: Cow<'a, str>,
}

impl<'a> ChatRequest<'a> {
    /// Reads a request body.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, ApiError> {
        let wire: Wire<'a> = serde_json::from_slice(body).map_err(|cause| {
            ApiError::invalid(format!("We could not parse the JSON body of your request: {cause}"), None, None)
        })?;
        let missing = |name: &'static str| {
            let message = format!("Missing required parameter: '{name}'.");
            ApiError::invalid(message, Some(name), Some("missing_required_parameter"))
        };
        let model = wire.model.filter(|model| !model.is_empty()).ok_or_else(|| missing("model"))?;
        let messages = wire.messages.filter(|messages| !messages.is_empty()).ok_or_else(|| missing("messages"))?;
        let choices = in_range(wire.n.unwrap_or(1), MAX_CHOICES, "n")?;
        let max_tokens = match (wire.max_completion_tokens, wire.max_tokens) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let max_tokens = max_tokens.map(|max| in_range(max, u64::MAX, "max_completion_tokens")).transpose()?;
        let tools = wire.tools.unwrap_or_default();
        let prompt_tokens = messages.iter().map(message_tokens).sum::<u64>()
            + tools.iter().map(|tool| quarter(tool.get().len())).sum::<u64>();
        let last_user = messages.iter().rfind(|message| message.role == "user").and_then(|message| message.content);
        Ok(Self {
            model,
            stream: wire.stream.unwrap_or(false),
            include_usage: wire.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
            max_tokens,
            choices,
            tools,
            tool_choice: wire.tool_choice,
            parallel_tool_calls: wire.parallel_tool_calls.unwrap_or(false),
            response_format: wire.response_format,
            ends_with_tool_result: messages.last().is_some_and(|message| message.role == "tool"),
            prompt_tokens,
            last_user_text: last_user.map(whole_text).unwrap_or_default(),
        })
    }
}

/// Whether a body asks for a stream; for faults, which do not need the rest to make sense.
pub(crate) fn wants_stream(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Peek {
        stream: Option<bool>,
    }
    serde_json::from_slice::<Peek>(body).is_ok_and(|peek| peek.stream == Some(true))
}

fn in_range(value: u64, max: u64, name: &'static str) -> Result<u64, ApiError> {
    if (1..=max).contains(&value) {
        return Ok(value);
    }
    let message = format!("Invalid '{name}': integer out of range. Got {value}.");
    Err(ApiError::invalid(message, Some(name), Some("integer_out_of_range")))
}

fn quarter(bytes: usize) -> u64 {
    bytes.div_ceil(4) as u64
}

fn message_tokens(message: &Message<'_>) -> u64 {
    let content = message.content.map_or(0, content_tokens);
    4 + content + message.tool_calls.map_or(0, |calls| quarter(calls.get().len()))
}

fn content_tokens(content: &RawValue) -> u64 {
    if let Ok(Text(text)) = serde_json::from_str(content.get()) {
        return quarter(text.len());
    }
    let parts: Vec<Part<'_>> = serde_json::from_str(content.get()).unwrap_or_default();
    parts.iter().map(|part| part.text.as_ref().map_or(OTHER_PART_TOKENS, |text| quarter(text.len()))).sum()
}

fn whole_text(content: &RawValue) -> Cow<'_, str> {
    if let Ok(Text(text)) = serde_json::from_str(content.get()) {
        return text;
    }
    let parts: Vec<Part<'_>> = serde_json::from_str(content.get()).unwrap_or_default();
    parts.into_iter().filter_map(|part| part.text).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompt_tokens_never_exceed_the_body() {
        let bodies = [
            r#"{"model":"m","messages":[{"role":"user","content":"hello world"}]}"#,
            r#"{"model":"m","messages":[{"role":""},{"role":""},{"role":""},{"role":""}]}"#,
            r#"{"model":"m","messages":[{"role":"u","content":[{"type":"text","text":"ab"},{"type":"image_url"}]}]}"#,
            r#"{"model":"m","messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"c"}]}],"tools":[{"a":1}]}"#,
        ];
        let counts = bodies.map(|body| {
            let request = ChatRequest::parse(body.as_bytes()).ok().unwrap();
            assert!(request.prompt_tokens <= body.len() as u64, "{body}");
            request.prompt_tokens
        });
        assert_eq!(counts, [4 + 3, 16, 4 + 1 + 10, 4 + 3 + 2]);
    }

    #[test]
    fn the_smaller_of_two_token_limits_binds() {
        let body = br#"{"model":"m","messages":[{"role":"user"}],"max_tokens":9,"max_completion_tokens":4}"#;
        assert_eq!(ChatRequest::parse(body).ok().unwrap().max_tokens, Some(4));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = ChatRequest::parse(br#"{"model":"m","messages":[]}"#).err().unwrap();
        assert_eq!((error.status, error.param), (400, Some("messages")));
        assert_eq!(ChatRequest::parse(b"{").err().unwrap().status, 400);
    }
}
