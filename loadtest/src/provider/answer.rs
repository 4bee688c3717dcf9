//! What will be said, before a byte of it is written: content, why it ends, and what it costs.
//!
//! A token is one piece of content: a word of text, a piece of JSON, a tool's name or a piece of its arguments. An
//! answer never has more tokens per choice than the request allows; if it had to be cut, it ends with `length`.

use super::errors::ApiError;
use super::request::ChatRequest;
use super::schema;
use super::script::Script;
use super::tools::{self, ToolCall};
use serde_json::{Value, json};

/// The most tokens of one answer, whatever a request or script asks for.
const MAX_TOKENS: u64 = 1_000_000;

/// The fixed moment that answers were "created" at, in seconds since 1970: equal requests get equal answers.
pub(crate) const CREATED: u64 = 1_750_000_000;

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// So many words of the fixed text.
    Filler(u64),
    /// These pieces of text.
    Pieces(Vec<String>),
    /// These calls.
    Calls(Vec<ToolCall>),
}

/// Tokens of one answer, over all choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub prompt: u64,
    pub cached: u64,
    pub completion: u64,
    pub reasoning: u64,
}

/// One answer. Every choice says the same.
#[derive(Debug)]
pub(crate) struct Answer {
    pub id: u64,
    pub model: String,
    pub sandbox: bool,
    pub choices: u64,
    pub content: Content,
    pub finish: &'static str,
    pub usage: Usage,
    pub omit_usage: bool,
}

impl Answer {
    /// Decides the answer to `request`.
    pub(crate) fn plan(request: &ChatRequest<'_>, script: &Script, id: u64) -> Result<Self, ApiError> {
        if request.model.starts_with("missing-") {
            return Err(ApiError::model_not_found(&request.model));
        }
        let budget = request.max_tokens.unwrap_or(MAX_TOKENS).min(MAX_TOKENS / request.choices);
        let reasoning = script.reasoning_tokens.min(budget);
        let left = budget - reasoning;
        let (mut content, natural_finish) = content(request, script, id, left);
        let cut = content.truncate(left);
        let completion = (content.tokens() + reasoning) * request.choices;
        Ok(Self {
            id,
            model: format!("{}{}", request.model, script.model_suffix),
            sandbox: script.sandbox,
            choices: request.choices,
            finish: if cut { "length" } else { natural_finish },
            content,
            usage: Usage {
                prompt: request.prompt_tokens,
                cached: script.cached_tokens.min(request.prompt_tokens),
                completion,
                reasoning: reasoning * request.choices,
            },
            omit_usage: script.omit_usage,
        })
    }

    /// Names the configuration that made the answer.
    pub(crate) fn fingerprint(&self) -> &'static str {
        if self.sandbox { "keyforge-sandbox" } else { "fp_scripted" }
    }
}

fn content(request: &ChatRequest<'_>, script: &Script, id: u64, left: u64) -> (Content, &'static str) {
    let calls = tools::calls(request, id);
    if !calls.is_empty() {
        return (Content::Calls(calls), "tool_calls");
    }
    if let Some(value) = request.response_format.and_then(|raw| formatted(raw.get(), request)) {
        return (Content::Pieces(tools::pieces(&value.to_string())), "stop");
    }
    if script.sandbox {
        let said = &request.last_user_text;
        let text = format!("This is the KeyForge sandbox, not a real model. You said: {said}");
        return (Content::Pieces(tools::pieces(&text)), "stop");
    }
    let filled = script.fill && request.max_tokens.is_some();
    let wanted = if filled { left } else { script.completion_tokens };
    (Content::Filler(wanted), if filled { "length" } else { "stop" })
}

/// The JSON that a response format asks for; nothing for text.
fn formatted(raw: &str, request: &ChatRequest<'_>) -> Option<Value> {
    let format: Value = serde_json::from_str(raw).ok()?;
    match format.get("type")?.as_str()? {
        "json_object" => Some(json!({"echo": request.last_user_text, "scripted": true})),
        "json_schema" => Some(schema::sample(format.pointer("/json_schema/schema")?)),
        _ => None,
    }
}

impl Content {
    /// Tokens of one choice.
    pub(crate) fn tokens(&self) -> u64 {
        match self {
            Self::Filler(tokens) => *tokens,
            Self::Pieces(pieces) => pieces.len() as u64,
            Self::Calls(calls) => calls.iter().map(|call| 1 + call.arguments.len() as u64).sum(),
        }
    }

    /// Keeps the first `most` tokens; tells whether any were cut.
    fn truncate(&mut self, most: u64) -> bool {
        let cut = self.tokens() > most;
        let size = usize::try_from(most).unwrap_or(usize::MAX);
        match self {
            Self::Filler(tokens) => *tokens = most.min(*tokens),
            Self::Pieces(pieces) => pieces.truncate(size),
            Self::Calls(calls) if cut => truncate_calls(calls, size),
            Self::Calls(_) => {}
        }
        cut
    }
}

fn truncate_calls(calls: &mut Vec<ToolCall>, mut left: usize) {
    calls.retain_mut(|call| {
        let Some(arguments) = left.checked_sub(1) else { return false };
        call.arguments.truncate(arguments);
        left = arguments - call.arguments.len();
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(body: &str, script: &Script) -> Answer {
        Answer::plan(&ChatRequest::parse(body.as_bytes()).ok().unwrap(), script, 1).ok().unwrap()
    }

    #[test]
    fn an_answer_never_has_more_tokens_than_allowed() {
        let tools = r#""tools":[{"type":"function","function":{"name":"f","parameters":{"required":["abcdefgh"]}}}]"#;
        for limit in 1..6 {
            for extra in [tools, r#""response_format":{"type":"json_object"}"#, r#""n":3"#] {
                let body = format!(r#"{{"model":"m","messages":[{{"role":"user"}}],"max_tokens":{limit},{extra}}}"#);
                let script = Script { reasoning_tokens: 2, ..Script::default() };
                let answer = plan(&body, &script);
                assert!(answer.usage.completion <= limit * answer.choices, "{body}");
                assert!(answer.usage.reasoning <= answer.usage.completion);
            }
        }
    }

    #[test]
    fn fill_uses_up_exactly_what_is_allowed() {
        let script = Script { fill: true, reasoning_tokens: 5, ..Script::default() };
        let answer = plan(r#"{"model":"m","messages":[{"role":"user"}],"max_tokens":77,"n":2}"#, &script);
        assert_eq!((answer.usage.completion, answer.finish), (154, "length"));
    }

    #[test]
    fn a_cut_answer_ends_with_length() {
        let answer = plan(r#"{"model":"m","messages":[{"role":"user"}],"max_tokens":3}"#, &Script::default());
        assert_eq!((answer.content, answer.finish), (Content::Filler(3), "length"));
    }
}
