//! Google's generateContent: refuses what the real API refuses, and answers in its candidates.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::check::{list, object, only, refuse};
use super::speech::Piece;
use crate::provider::answer::{Answer, Content};
use crate::provider::errors::ApiError;
use crate::provider::filler;
use crate::provider::ratelimit::Window;

const MEMBERS: [&str; 7] =
    ["contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings", "cachedContent"];
/// What this provider signs calls with, and wants back from models of the third generation on.
const SIGNATURE: &str = "c2NyaXB0ZWQtdGhvdWdodA==";
/// Google's documented stand-in for a signature that was never made.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

/// The request as a chat completion would put it.
pub(super) fn as_chat(model: &str, stream: bool, body: &[u8]) -> Result<Value, ApiError> {
    let asked = object(body)?;
    only("body", &asked, &MEMBERS)?;
    let mut messages = Vec::new();
    if let Some(system) = asked.get("systemInstruction") {
        messages.push(json!({ "role": "system", "content": said(system, "systemInstruction")? }));
    }
    let mut calls = 0_usize;
    for (index, content) in list("contents", asked.get("contents"))?.iter().enumerate() {
        turn(model, content, &format!("contents[{index}]"), &mut calls, &mut messages)?;
    }
    let config = asked.get("generationConfig").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut chat = json!({ "model": model, "messages": messages, "stream": stream, "parallel_tool_calls": true });
    generation(&config, &mut chat)?;
    if let Some(tools) = asked.get("tools") {
        let declared =
            list("tools", Some(tools))?.iter().flat_map(|tool| tool["functionDeclarations"].as_array()).flatten();
        chat["tools"] = declared.map(declaration).collect::<Result<_, _>>()?;
    }
    let calling = asked.get("toolConfig").map_or(&Value::Null, |config| &config["functionCallingConfig"]);
    let allowed = calling["allowedFunctionNames"].as_array().map(Vec::as_slice).unwrap_or_default();
    chat["tool_choice"] = match (calling["mode"].as_str(), allowed) {
        (None | Some("AUTO" | "VALIDATED"), _) => json!("auto"),
        (Some("NONE"), _) => json!("none"),
        (Some("ANY"), [name]) => json!({ "type": "function", "function": { "name": name } }),
        (Some("ANY"), _) => json!("required"),
        (Some(mode), _) => return refuse("toolConfig.functionCallingConfig.mode", mode),
    };
    Ok(chat)
}

fn said(content: &Value, at: &str) -> Result<String, ApiError> {
    let parts = list(&format!("{at}.parts"), content.get("parts"))?;
    Ok(parts.iter().filter_map(|part| part["text"].as_str()).collect())
}

/// A turn of results must answer as many calls as the turn before it made.
fn turn(model: &str, content: &Value, at: &str, calls: &mut usize, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let role = content["role"].as_str().unwrap_or("user");
    if !["user", "model", "function"].contains(&role) {
        return refuse(&format!("{at}.role"), "Please use a valid role: user, model.");
    }
    let parts = list(&format!("{at}.parts"), content.get("parts"))?;
    let results = parts.iter().filter(|part| part.get("functionResponse").is_some()).count();
    if *calls != results {
        let message = "the number of function response parts must be equal to the number of function call parts";
        return refuse(at, message);
    }
    let made: Vec<_> = parts.iter().filter(|part| part.get("functionCall").is_some()).collect();
    *calls = made.len();
    let signed = |part: &Value| part["thoughtSignature"] == SIGNATURE || part["thoughtSignature"] == NO_SIGNATURE;
    if model.starts_with("gemini-3") && made.first().is_some_and(|part| !signed(part)) {
        return refuse(at, "Function call is missing a thought_signature in functionCall parts.");
    }
    for part in parts {
        one_kind(part, at)?;
        if let Some(result) = part.get("functionResponse") {
            if !result["response"].is_object() || !result["name"].is_string() {
                return refuse(at, "functionResponse wants a name and an object as its response");
            }
            messages.push(json!({ "role": "tool", "content": result["response"].to_string() }));
        }
    }
    let role = if role == "model" { "assistant" } else { "user" };
    if results == 0 {
        messages.push(json!({ "role": role, "content": said(content, at)? }));
    }
    Ok(())
}

fn one_kind(part: &Value, at: &str) -> Result<(), ApiError> {
    const KINDS: [&str; 5] = ["text", "inlineData", "fileData", "functionCall", "functionResponse"];
    match KINDS.iter().filter(|kind| part.get(**kind).is_some()).count() {
        1 => Ok(()),
        _ => refuse(&format!("{at}.parts"), "required oneof field 'data' must have one initialized field"),
    }
}

fn generation(config: &Map<String, Value>, chat: &mut Value) -> Result<(), ApiError> {
    if let Some(most) = config.get("maxOutputTokens") {
        chat["max_tokens"] = most.clone();
    }
    if let Some(count) = config.get("candidateCount") {
        chat["n"] = count.clone();
    }
    if config.get("stopSequences").and_then(Value::as_array).is_some_and(|stops| stops.len() > 5) {
        return refuse("generationConfig.stopSequences", "at most 5");
    }
    if config.get("responseMimeType").is_some_and(|kind| kind == "application/json") {
        let schema = config.get("responseJsonSchema").or_else(|| config.get("responseSchema"));
        chat["response_format"] = match schema {
            Some(schema) => json!({ "type": "json_schema", "json_schema": { "schema": schema } }),
            None => json!({ "type": "json_object" }),
        };
    }
    Ok(())
}

fn declaration(declared: &Value) -> Result<Value, ApiError> {
    if !declared["name"].is_string() {
        return refuse("tools.functionDeclarations.name", "required");
    }
    let schema = declared.get("parametersJsonSchema").or_else(|| declared.get("parameters")).cloned();
    Ok(
        json!({ "type": "function", "function": { "name": declared["name"], "parameters": schema.unwrap_or_else(|| json!({ "type": "object" })) } }),
    )
}

fn finish(answer: &Answer) -> &'static str {
    if answer.finish == "length" { "MAX_TOKENS" } else { "STOP" }
}

fn usage(answer: &Answer, completion: u64) -> Value {
    let usage = &answer.usage;
    let spoken = completion.saturating_sub(usage.reasoning);
    let mut said = json!({ "promptTokenCount": usage.prompt, "totalTokenCount": usage.prompt + completion });
    for (name, count) in [
        ("candidatesTokenCount", spoken),
        ("thoughtsTokenCount", usage.reasoning.min(completion)),
        ("cachedContentTokenCount", usage.cached),
    ] {
        if count > 0 {
            said[name] = json!(count);
        }
    }
    said
}

fn chunk(answer: &Answer, candidates: &[Value], completion: u64) -> Value {
    json!({
        "candidates": candidates, "usageMetadata": usage(answer, completion),
        "modelVersion": answer.model, "responseId": format!("{:022x}", answer.id),
    })
}

/// The parts of one candidate, each with its tokens.
fn parts(answer: &Answer) -> Vec<(Value, u64)> {
    match &answer.content {
        Content::Filler(count) => (0..*count).map(|token| (json!({ "text": filler::word(token) }), 1)).collect(),
        Content::Pieces(pieces) => pieces.iter().map(|piece| (json!({ "text": piece }), 1)).collect(),
        Content::Calls(calls) => {
            let part = |(index, call): (usize, &crate::provider::tools::ToolCall)| {
                let arguments: Value = serde_json::from_str(&call.arguments.concat()).unwrap_or_else(|_| json!({}));
                let mut part = json!({ "functionCall": { "name": call.name, "args": arguments } });
                if index == 0 {
                    part["thoughtSignature"] = json!(SIGNATURE);
                }
                (part, 1 + call.arguments.len() as u64)
            };
            calls.iter().enumerate().map(part).collect()
        }
    }
}

/// A whole answer.
pub(super) fn body(answer: &Answer) -> Bytes {
    let parts: Vec<_> = match &answer.content {
        Content::Calls(_) => parts(answer).into_iter().map(|(part, _)| part).collect(),
        Content::Filler(_) | Content::Pieces(_) => {
            let texts = parts(answer).into_iter().filter_map(|(part, _)| part["text"].as_str().map(str::to_owned));
            vec![json!({ "text": texts.collect::<String>() })]
        }
    };
    let content = json!({ "parts": parts, "role": "model" });
    let candidates: Vec<_> = (0..answer.choices)
        .map(|index| json!({ "content": content, "finishReason": finish(answer), "index": index }))
        .collect();
    serde_json::to_vec_pretty(&chunk(answer, &candidates, answer.usage.completion)).unwrap_or_default().into()
}

/// One event, with the line ends of the real ones.
pub(super) fn event(data: &Value) -> Bytes {
    format!("data: {data}\r\n\r\n").into()
}

/// A streamed answer. Whole calls come at once, and the last event of each candidate has an empty text.
pub(super) fn pieces(answer: &Answer) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let reasoning = answer.usage.reasoning;
    let mut made = reasoning;
    for (part, tokens) in parts(answer) {
        for index in 0..answer.choices {
            let extra = if pieces.is_empty() { reasoning } else { 0 };
            made += tokens;
            let candidate = json!({ "content": { "parts": [&part], "role": "model" }, "index": index });
            let bytes = event(&chunk(answer, &[candidate], made));
            pieces.push(Piece { bytes, tokens: tokens + extra, reasoning: extra });
        }
    }
    for index in 0..answer.choices {
        let content = json!({ "parts": [{ "text": "" }], "role": "model" });
        let candidate = json!({ "content": content, "finishReason": finish(answer), "index": index });
        pieces.push(Piece::free(event(&chunk(answer, &[candidate], answer.usage.completion))));
    }
    pieces
}

/// An error body; one of a full window says when it ends.
pub(super) fn error(error: &ApiError, window: Option<Window>) -> Value {
    let status = match error.status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        400..500 => "INVALID_ARGUMENT",
        _ => "INTERNAL",
    };
    let mut body = json!({ "error": { "code": error.status, "message": error.message, "status": status } });
    if let Some(full) = window.filter(|window| !window.admitted) {
        let delay = format!("{}.{:03}s", full.reset_ms / 1000, full.reset_ms % 1000);
        body["error"]["details"] =
            json!([{ "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay }]);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(model: &str, body: &Value) -> String {
        as_chat(model, false, body.to_string().as_bytes()).err().map(|error| error.message).unwrap_or_default()
    }

    #[test]
    fn what_the_real_one_refuses_is_refused() {
        let user = json!({ "role": "user", "parts": [{ "text": "hello" }] });
        let call = json!({ "role": "model", "parts": [{ "functionCall": { "name": "f", "args": {} } }] });
        let result = json!({ "role": "user", "parts": [{ "functionResponse": { "name": "f", "response": {} } }] });
        for (model, contents, expected) in [
            ("gemini-2.5-pro", json!([]), "must not be empty"),
            ("gemini-2.5-pro", json!([user, call]), ""),
            ("gemini-2.5-pro", json!([user, call, user]), "number of function response parts"),
            ("gemini-2.5-pro", json!([user, call, result]), ""),
            ("gemini-3-pro", json!([user, call, result]), "thought_signature"),
            ("gemini-3-pro", json!([{ "role": "assistant", "parts": [] }]), "valid role"),
            ("gemini-3-pro", json!([{ "role": "user", "parts": [{}] }]), "oneof"),
        ] {
            let problem = problem(model, &json!({ "contents": contents }));
            assert!(problem.contains(expected) && problem.is_empty() == expected.is_empty(), "{expected}: {problem}");
        }
    }

    #[test]
    fn whole_and_streamed_answers_cost_the_same() {
        let usage = crate::provider::answer::Usage { prompt: 9, cached: 2, completion: 11, reasoning: 5 };
        let answer = Answer {
            id: 1,
            model: "m".to_owned(),
            sandbox: false,
            choices: 2,
            content: Content::Filler(3),
            finish: "stop",
            usage,
            omit_usage: false,
        };
        assert_eq!(pieces(&answer).iter().map(|piece| piece.tokens).sum::<u64>(), 11);
        let whole: Value = serde_json::from_slice(&body(&answer)).unwrap();
        let counts = &whole["usageMetadata"];
        assert_eq!((&counts["candidatesTokenCount"], &counts["totalTokenCount"]), (&json!(6), &json!(20)));
    }
}
