//! Anthropic's messages: refuses what the real API refuses, and answers in its blocks and events.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Map, Value, json};

use super::check::{list, object, only, refuse, text};
use super::speech::Piece;
use crate::provider::answer::{Answer, Content};
use crate::provider::errors::ApiError;
use crate::provider::filler;

const MEMBERS: [&str; 17] = [
    "model",
    "messages",
    "max_tokens",
    "stream",
    "system",
    "tools",
    "tool_choice",
    "temperature",
    "top_p",
    "top_k",
    "thinking",
    "output_config",
    "stop_sequences",
    "metadata",
    "service_tier",
    "container",
    "cache_control",
];
/// What this provider signs its thoughts with, and wants back.
const SIGNATURE: &str = "c2NyaXB0ZWQtc2lnbmF0dXJl";
const THOUGHT: &str = "Let me think about this.";

/// The request as a chat completion would put it.
pub(super) fn as_chat(headers: &HeaderMap, body: &[u8]) -> Result<Value, ApiError> {
    if !headers.contains_key("anthropic-version") {
        return refuse("anthropic-version", "header is required");
    }
    let asked = object(body)?;
    only("body", &asked, &MEMBERS)?;
    let max_tokens = asked.get("max_tokens").and_then(Value::as_u64).unwrap_or(0);
    if max_tokens == 0 {
        return refuse("max_tokens", "Field required, at least 1");
    }
    thinking(&asked, max_tokens)?;
    let mut messages = Vec::new();
    if let Some(system) = asked.get("system") {
        messages.push(json!({ "role": "system", "content": system_text(system)? }));
    }
    conversation(list("messages", asked.get("messages"))?, &mut messages)?;
    let mut chat = json!({
        "model": text("model", asked.get("model"))?,
        "messages": messages,
        "max_tokens": max_tokens,
        "stream": asked.get("stream").and_then(Value::as_bool).unwrap_or(false),
    });
    if let Some(tools) = asked.get("tools") {
        chat["tools"] = list("tools", Some(tools))?.iter().map(tool).collect::<Result<_, _>>()?;
        let choice = &asked.get("tool_choice").cloned().unwrap_or_else(|| json!({ "type": "auto" }));
        chat["tool_choice"] = tool_choice(choice)?;
        chat["parallel_tool_calls"] = json!(choice["disable_parallel_tool_use"] != true);
    }
    let format = asked.get("output_config").map_or(&Value::Null, |config| &config["format"]);
    if !format.is_null() {
        if format["type"] != "json_schema" || !format["schema"].is_object() {
            return refuse("output_config.format", "must be a json_schema with a schema");
        }
        chat["response_format"] = json!({ "type": "json_schema", "json_schema": { "schema": format["schema"] } });
    }
    Ok(chat)
}

fn thinking(asked: &Map<String, Value>, max_tokens: u64) -> Result<(), ApiError> {
    let Some(thinking) = asked.get("thinking") else { return Ok(()) };
    match thinking["type"].as_str() {
        Some("disabled" | "adaptive") => return Ok(()),
        Some("enabled") => {}
        _ => return refuse("thinking.type", "must be enabled, disabled or adaptive"),
    }
    let budget = thinking["budget_tokens"].as_u64().unwrap_or(0);
    if budget < 1024 {
        return refuse("thinking.enabled.budget_tokens", "Input should be greater than or equal to 1024");
    }
    if budget >= max_tokens {
        return refuse("max_tokens", "must be greater than thinking.budget_tokens");
    }
    if asked.get("temperature").is_some_and(|temperature| temperature.as_f64() != Some(1.0)) {
        return refuse("temperature", "may only be set to 1 when thinking is enabled");
    }
    let forced = asked.get("tool_choice").and_then(|choice| choice["type"].as_str());
    if forced.is_some_and(|kind| kind == "any" || kind == "tool") {
        return refuse("tool_choice", "Thinking may not be enabled when tool_choice forces tool use.");
    }
    Ok(())
}

fn system_text(system: &Value) -> Result<String, ApiError> {
    if let Some(said) = system.as_str() {
        return Ok(said.to_owned());
    }
    let blocks = list("system", Some(system))?;
    blocks.iter().map(|block| text("system.text", block.get("text")).map(str::to_owned)).collect()
}

/// Turns must begin with the user's, and every call must be answered in the very next turn.
fn conversation(turns: &[Value], messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let mut open: BTreeSet<String> = BTreeSet::new();
    for (index, turn) in turns.iter().enumerate() {
        let at = format!("messages.{index}");
        let role = text(&at, turn.get("role"))?;
        if index == 0 && role != "user" {
            return refuse(&at, "first message must use the \"user\" role");
        }
        let content = match turn.get("content") {
            Some(Value::String(said)) if !said.is_empty() => vec![json!({ "type": "text", "text": said })],
            Some(Value::Array(blocks)) if !blocks.is_empty() || role == "assistant" => blocks.clone(),
            _ => return refuse(&at, "content must not be empty"),
        };
        let mut turn = Turn { said: String::new(), results: Vec::new(), calls: Vec::new() };
        for (position, block) in content.iter().enumerate() {
            let at = format!("{at}.content.{position}");
            match role {
                "user" => turn.user_block(&at, block, &mut open)?,
                "assistant" => turn.assistant_block(&at, block)?,
                _ => return refuse(&at, "role must be user or assistant"),
            }
        }
        if !open.is_empty() {
            return refuse(&at, &format!("`tool_use` ids were found without `tool_result` blocks: {open:?}"));
        }
        open.extend(turn.calls);
        messages.extend(turn.results);
        if !turn.said.is_empty() || role == "assistant" {
            messages.push(json!({ "role": role, "content": turn.said }));
        }
    }
    Ok(())
}

struct Turn {
    said: String,
    results: Vec<Value>,
    calls: Vec<String>,
}

impl Turn {
    fn user_block(&mut self, at: &str, block: &Value, open: &mut BTreeSet<String>) -> Result<(), ApiError> {
        match block["type"].as_str() {
            Some("text") => self.said.push_str(text(&format!("{at}.text"), block.get("text"))?),
            Some("image" | "document") => {
                let source = text(&format!("{at}.source.type"), block["source"].get("type"))?;
                if !["base64", "url", "text", "file", "content"].contains(&source) {
                    return refuse(&format!("{at}.source.type"), "unknown");
                }
                self.said.push_str("(a medium)");
            }
            Some("tool_result") => {
                let id = text(&format!("{at}.tool_use_id"), block.get("tool_use_id"))?;
                if !open.remove(id) {
                    return refuse(at, &format!("unexpected `tool_use_id` found in `tool_result` blocks: {id}"));
                }
                self.results.push(json!({ "role": "tool", "content": block["content"].to_string() }));
            }
            kind => return refuse(at, &format!("Input tag {kind:?} is not expected of a user")),
        }
        Ok(())
    }

    fn assistant_block(&mut self, at: &str, block: &Value) -> Result<(), ApiError> {
        match block["type"].as_str() {
            Some("text") => self.said.push_str(text(&format!("{at}.text"), block.get("text"))?),
            Some("tool_use") => {
                let id = text(&format!("{at}.id"), block.get("id"))?;
                if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)) {
                    return refuse(&format!("{at}.id"), "String should match pattern '^[a-zA-Z0-9_-]+$'");
                }
                text(&format!("{at}.name"), block.get("name"))?;
                if !block["input"].is_object() {
                    return refuse(&format!("{at}.input"), "Input should be a valid dictionary");
                }
                self.calls.push(id.to_owned());
            }
            Some("thinking") => {
                if block["signature"] != SIGNATURE || block["thinking"] != THOUGHT {
                    return refuse(at, "Invalid `signature` in `thinking` block");
                }
            }
            Some("redacted_thinking") => {}
            kind => return refuse(at, &format!("Input tag {kind:?} is not expected of the assistant")),
        }
        Ok(())
    }
}

fn tool(tool: &Value) -> Result<Value, ApiError> {
    let schema = &tool["input_schema"];
    if schema["type"] != "object" {
        return refuse("tools.input_schema.type", "Field required, \"object\"");
    }
    Ok(
        json!({ "type": "function", "function": { "name": text("tools.name", tool.get("name"))?, "parameters": schema } }),
    )
}

fn tool_choice(choice: &Value) -> Result<Value, ApiError> {
    Ok(match choice["type"].as_str() {
        Some("auto") => json!("auto"),
        Some("any") => json!("required"),
        Some("none") => json!("none"),
        Some("tool") => {
            json!({ "type": "function", "function": { "name": text("tool_choice.name", choice.get("name"))? } })
        }
        _ => return refuse("tool_choice.type", "must be auto, any, tool or none"),
    })
}

fn wants_thinking(asked: &[u8]) -> bool {
    let asked: Value = serde_json::from_slice(asked).unwrap_or_default();
    ["enabled", "adaptive"].iter().any(|kind| asked["thinking"]["type"] == *kind)
}

fn stop_reason(answer: &Answer) -> &'static str {
    match answer.finish {
        "tool_calls" => "tool_use",
        "length" => "max_tokens",
        _ => "end_turn",
    }
}

fn usage(answer: &Answer, output: u64) -> Value {
    json!({
        "input_tokens": answer.usage.prompt - answer.usage.cached,
        "cache_read_input_tokens": answer.usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_creation": { "ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0 },
        "output_tokens": output,
        "output_tokens_details": { "thinking_tokens": answer.usage.reasoning },
        "service_tier": "standard",
    })
}

fn call_id(id: &str) -> String {
    id.replacen("call_", "toolu_", 1)
}

fn words(count: u64) -> Vec<String> {
    (0..count).map(|token| filler::word(token).to_owned()).collect()
}

/// The texts of an answer in the pieces that it is streamed in; empty for calls.
fn texts(content: &Content) -> Vec<String> {
    match content {
        Content::Filler(count) => words(*count),
        Content::Pieces(pieces) => pieces.clone(),
        Content::Calls(_) => Vec::new(),
    }
}

/// A whole message.
pub(super) fn body(answer: &Answer, asked: &[u8]) -> Bytes {
    let mut content = Vec::new();
    if wants_thinking(asked) {
        content.push(json!({ "type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE }));
    }
    if let Content::Calls(calls) = &answer.content {
        for call in calls {
            let input: Value = serde_json::from_str(&call.arguments.concat()).unwrap_or_else(|_| json!({}));
            content.push(json!({ "type": "tool_use", "id": call_id(&call.id), "name": call.name, "input": input }));
        }
    } else {
        content.push(json!({ "type": "text", "text": texts(&answer.content).concat() }));
    }
    let mut message = message(answer, &content, answer.usage.completion);
    message["stop_reason"] = json!(stop_reason(answer));
    message.to_string().into()
}

fn message(answer: &Answer, content: &[Value], output: u64) -> Value {
    json!({
        "id": format!("msg_{:024x}", answer.id), "type": "message", "role": "assistant", "model": answer.model,
        "content": content, "stop_reason": null, "stop_sequence": null, "usage": usage(answer, output),
    })
}

/// One event, with its name and trailing spaces in its data as the real ones have.
pub(super) fn event(name: &str, data: &Value) -> Bytes {
    format!("event: {name}\ndata: {data}   \n\n").into()
}

/// A streamed message.
pub(super) fn pieces(answer: &Answer, asked: &[u8]) -> Vec<Piece> {
    let mut out = Blocks { pieces: Vec::new(), index: 0 };
    let start = json!({ "type": "message_start", "message": message(answer, &[], 1) });
    let reasoning = answer.usage.reasoning;
    out.pieces.push(Piece { bytes: event("message_start", &start), tokens: reasoning, reasoning });
    if wants_thinking(asked) {
        let empty = json!({ "type": "thinking", "thinking": "", "signature": "" });
        let deltas = [
            (json!({ "type": "thinking_delta", "thinking": THOUGHT }), 0),
            (json!({ "type": "signature_delta", "signature": SIGNATURE }), 0),
        ];
        out.block(&empty, deltas);
    }
    match &answer.content {
        Content::Calls(calls) => {
            for call in calls {
                let empty = json!({ "type": "tool_use", "id": call_id(&call.id), "name": call.name, "input": {} });
                let is_bare = call.arguments.concat() == "{}";
                let arguments = call.arguments.iter().map(|piece| (if is_bare { "" } else { piece.as_str() }, 1));
                let named = std::iter::once(("", 1)).chain(arguments);
                out.block(
                    &empty,
                    named.map(|(piece, tokens)| (json!({ "type": "input_json_delta", "partial_json": piece }), tokens)),
                );
            }
        }
        Content::Filler(_) | Content::Pieces(_) => {
            let deltas =
                texts(&answer.content).into_iter().map(|piece| (json!({ "type": "text_delta", "text": piece }), 1));
            out.block(&json!({ "type": "text", "text": "" }), deltas);
        }
    }
    let delta = json!({ "stop_reason": stop_reason(answer), "stop_sequence": null });
    let end = json!({ "type": "message_delta", "delta": delta, "usage": usage(answer, answer.usage.completion) });
    out.pieces.push(Piece::free(event("message_delta", &end)));
    out.pieces.push(Piece::free(event("message_stop", &json!({ "type": "message_stop" }))));
    out.pieces
}

struct Blocks {
    pieces: Vec<Piece>,
    index: u64,
}

impl Blocks {
    fn block(&mut self, empty: &Value, deltas: impl IntoIterator<Item = (Value, u64)>) {
        let index = self.index;
        let start = json!({ "type": "content_block_start", "index": index, "content_block": empty });
        self.pieces.push(Piece::free(event("content_block_start", &start)));
        if index == 0 {
            self.pieces.push(Piece::free(event("ping", &json!({ "type": "ping" }))));
        }
        for (delta, tokens) in deltas {
            let data = json!({ "type": "content_block_delta", "index": index, "delta": delta });
            self.pieces.push(Piece { bytes: event("content_block_delta", &data), tokens, reasoning: 0 });
        }
        let stop = json!({ "type": "content_block_stop", "index": index });
        self.pieces.push(Piece::free(event("content_block_stop", &stop)));
        self.index += 1;
    }
}

/// An error body.
pub(super) fn error(error: &ApiError) -> Value {
    let kind = match error.status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    };
    json!({ "type": "error", "error": { "type": kind, "message": error.message }, "request_id": "req_scripted" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::tools;

    fn versioned() -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static("anthropic-version"),
            http::HeaderValue::from_static("2023-06-01"),
        )])
    }

    fn problem(body: &Value) -> String {
        as_chat(&versioned(), body.to_string().as_bytes()).err().map(|error| error.message).unwrap_or_default()
    }

    #[test]
    fn what_the_real_one_refuses_is_refused() {
        let hello = json!([{ "role": "user", "content": "hello" }]);
        let calls = json!([
            { "role": "user", "content": "hello" },
            { "role": "assistant", "content": [{ "type": "tool_use", "id": "toolu_1", "name": "f", "input": {} }] },
            { "role": "user", "content": "no result" },
        ]);
        for (body, expected) in [
            (json!({ "model": "m", "messages": hello }), "max_tokens"),
            (json!({ "model": "m", "messages": [], "max_tokens": 1 }), "messages: must not be empty"),
            (
                json!({ "model": "m", "messages": [{ "role": "assistant", "content": "x" }], "max_tokens": 1 }),
                "first message",
            ),
            (
                json!({ "model": "m", "messages": [{ "role": "user", "content": "" }], "max_tokens": 1 }),
                "content must not be empty",
            ),
            (json!({ "model": "m", "messages": calls, "max_tokens": 1 }), "without `tool_result`"),
            (json!({ "model": "m", "messages": hello, "max_tokens": 1, "n": 2 }), "unknown member `n`"),
            (
                json!({ "model": "m", "messages": hello, "max_tokens": 9, "thinking": { "type": "enabled", "budget_tokens": 1024 } }),
                "max_tokens: must be greater",
            ),
        ] {
            assert!(problem(&body).contains(expected), "{expected}: {:?}", problem(&body));
        }
        assert_eq!(problem(&json!({ "model": "m", "messages": hello, "max_tokens": 1 })), "");
        assert!(as_chat(&HeaderMap::new(), b"{}").is_err());
    }

    #[test]
    fn whole_and_streamed_answers_cost_the_same() {
        let answer = Answer {
            id: 1,
            model: "m".to_owned(),
            sandbox: false,
            choices: 1,
            content: Content::Calls(vec![tools::ToolCall {
                id: "call_1".to_owned(),
                name: "f".to_owned(),
                arguments: vec!["{\"a\":".to_owned(), "1}".to_owned()],
            }]),
            finish: "tool_calls",
            usage: crate::provider::answer::Usage { prompt: 9, cached: 2, completion: 8, reasoning: 5 },
            omit_usage: false,
        };
        let pieces = pieces(&answer, b"{}");
        assert_eq!(pieces.iter().map(|piece| piece.tokens).sum::<u64>(), 8);
        let whole: Value = serde_json::from_slice(&body(&answer, b"{}")).unwrap();
        assert_eq!((&whole["usage"]["output_tokens"], &whole["content"][0]["input"]["a"]), (&json!(8), &json!(1)));
    }
}
