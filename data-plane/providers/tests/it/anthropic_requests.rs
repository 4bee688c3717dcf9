//! Recorded requests to Anthropic, read into the hub form, must come out as they were recorded, and their bound must cover what they were billed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyforge_providers::anthropic::Anthropic;
use keyforge_providers::bound::{InputBound, input_bound};
use keyforge_providers::chat::request::{
    CacheMark, Content, Effort, Format, Maker, Part, Reasoning, Request, Role, Sampling, Signature, Source, Tool,
    ToolCall, ToolChoice, ToolResult, Turn,
};
use keyforge_providers::metering;
use keyforge_providers::openai::request;
use keyforge_providers::translate::{Target, Translator};
use keyforge_shared::provider::Api;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::anthropic::{assembled, messages, recorded_usage};
use crate::money::assert_paid_for;
use crate::recorded::Exchange;

/// A recorded request in hub form; `None` if it holds what only a client of Anthropic's own API can ask for.
fn hub(body: &Value) -> Option<Request<'_>> {
    let known = [
        "model",
        "max_tokens",
        "messages",
        "system",
        "tools",
        "tool_choice",
        "thinking",
        "temperature",
        "stop_sequences",
        "stream",
        "output_config",
    ];
    if !body.as_object()?.keys().all(|name| known.contains(&name.as_str())) {
        return None;
    }
    let mut request = Request {
        max_output_tokens: body["max_tokens"].as_u64(),
        stream: body["stream"] == true,
        sampling: Sampling { temperature: body["temperature"].as_number().cloned(), ..Sampling::default() },
        ..Request::default()
    };
    request.stop = list(&body["stop_sequences"]).iter().filter_map(Value::as_str).map(Into::into).collect();
    request.reasoning = match (body["thinking"]["type"].as_str(), body["thinking"]["budget_tokens"].as_u64()) {
        (None, _) => None,
        (Some("enabled"), Some(budget)) => Some(Reasoning::Budget(budget)),
        (Some("adaptive"), _) => Some(Reasoning::Adaptive),
        _ => return None,
    };
    request.turns.extend(turn(Role::System, &body["system"]));
    for message in list(&body["messages"]) {
        let role = if message["role"] == "user" { Role::User } else { Role::Assistant };
        request.turns.push(turn(role, &message["content"]).filter(|_| message["role"] != "system")?);
    }
    for tool in list(&body["tools"]) {
        request.tools.push(Tool {
            name: tool["name"].as_str()?.into(),
            description: tool["description"].as_str().map(Into::into),
            parameters: Some(leak(tool.get("input_schema")?)),
            strict: tool["strict"].as_bool(),
            cache: mark(tool),
        });
    }
    request.tool_choice = match body["tool_choice"]["type"].as_str() {
        None => None,
        Some("auto") => Some(ToolChoice::Auto),
        Some("any") => Some(ToolChoice::Required),
        Some("none") => Some(ToolChoice::None),
        Some(_) => Some(ToolChoice::Named(body["tool_choice"]["name"].as_str()?.into())),
    };
    request.parallel_tool_calls = (body["tool_choice"]["disable_parallel_tool_use"] == true).then_some(false);
    let config = &body["output_config"];
    request.reasoning = match (config["effort"].as_str(), request.reasoning) {
        (None, reasoning) => reasoning,
        (Some("high"), Some(Reasoning::Adaptive)) => Some(Reasoning::Effort(Effort::High)),
        (Some("xhigh"), Some(Reasoning::Adaptive)) => Some(Reasoning::Effort(Effort::ExtraHigh)),
        _ => return None,
    };
    if let Some(schema) = config["format"].get("schema") {
        request.format =
            Format::JsonSchema { name: "n".into(), description: None, schema: Some(leak(schema)), strict: Some(true) };
    }
    Some(request)
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The text of a value, kept until the test ends: the hub form borrows it from the client's body.
fn leak(value: &Value) -> &'static RawValue {
    Box::leak(RawValue::from_string(value.to_string()).unwrap())
}

fn mark(value: &Value) -> Option<CacheMark> {
    let ttl = value.get("cache_control")?.get("ttl").and_then(Value::as_str);
    Some(if ttl == Some("1h") { CacheMark::OneHour } else { CacheMark::FiveMinutes })
}

fn turn(role: Role, content: &Value) -> Option<Turn<'_>> {
    Some(Turn { role, name: None, parts: parts(content)?, at: 0 })
}

fn parts(content: &Value) -> Option<Vec<Part<'_>>> {
    match content {
        Value::String(text) => Some(vec![Part::text(text)]),
        Value::Array(blocks) => blocks.iter().map(part).collect(),
        _ => None,
    }
}

fn part(block: &Value) -> Option<Part<'_>> {
    let text = |name: &str| block[name].as_str();
    let signed = |value: &'static str| Some(Signature { maker: Maker::Anthropic, value: value.into() });
    let mut signature = None;
    let content = match text("type")? {
        "text" if block.get("citations").is_none_or(Value::is_null) => Content::Text(text("text")?.into()),
        "image" => Content::Image { source: source(&block["source"])?, detail: None },
        "document" => Content::Document { source: source(&block["source"])?, name: text("title").map(Into::into) },
        "tool_use" => Content::ToolCall(ToolCall {
            id: text("id")?.into(),
            name: text("name")?.into(),
            arguments: block["input"].to_string().into(),
        }),
        "tool_result" => Content::ToolResult(ToolResult {
            call_id: text("tool_use_id")?.into(),
            name: None,
            parts: parts(&block["content"])?,
            is_error: block["is_error"] == true,
        }),
        "thinking" => {
            signature = signed(text("signature").map(|value| &*Box::leak(value.to_owned().into_boxed_str()))?);
            Content::Thinking(text("thinking")?.into())
        }
        _ => return None,
    };
    Some(Part { content, cache: mark(block), signature })
}

fn source(source: &Value) -> Option<Source<'_>> {
    let text = |name: &str| source[name].as_str();
    Some(match text("type")? {
        "url" => Source::Url(text("url")?.into()),
        "base64" => Source::Data { media_type: text("media_type")?.into(), base64: text("data")?.into() },
        "text" => Source::Data { media_type: "text/plain".into(), base64: STANDARD.encode(text("data")?).into() },
        _ => return None,
    })
}

/// A request in the one form that its several spellings have in common.
fn plain(value: &Value) -> Value {
    match value {
        // White space alone is refused in most places, and left out in all.
        Value::Array(elements) => {
            let said = |block: &&Value| {
                block["type"] != "text" || block["text"].as_str().is_none_or(|text| !text.trim().is_empty())
            };
            Value::from(elements.iter().filter(said).map(plain).collect::<Vec<_>>())
        }
        Value::Object(members) => {
            let mut plain: serde_json::Map<String, Value> =
                members.iter().map(|(name, value)| (name.clone(), plain(value))).collect();
            let (is_result, has_content) =
                (plain.get("type") == Some(&json!("tool_result")), plain.contains_key("content"));
            for name in ["content", "system"] {
                if let Some(text) = plain.get(name).filter(|value| value.is_string()).cloned() {
                    let is_empty = text.as_str().is_some_and(str::is_empty);
                    let blocks = if is_empty { json!([]) } else { json!([{ "type": "text", "text": text }]) };
                    plain.insert(name.to_owned(), blocks);
                }
            }
            if is_result && !has_content {
                plain.insert("content".to_owned(), json!([]));
            }
            // Defaults, and members that answers have but requests need not give back.
            let defaults = [
                ("stream", json!(false)),
                ("is_error", json!(false)),
                ("strict", json!(false)),
                ("description", json!("")),
                ("citations", Value::Null),
                ("caller", json!({ "type": "direct" })),
                ("ttl", json!("5m")),
                ("temperature", json!(1.0)),
                ("temperature", json!(1)),
                ("display", json!("summarized")),
                ("tools", json!([])),
                ("system", json!([])),
                ("stop_sequences", json!([])),
                ("type", json!("custom")),
            ];
            plain.retain(|name, value| !defaults.iter().any(|(default, is)| name == default && value == is));
            Value::Object(plain)
        }
        other => other.clone(),
    }
}

#[test]
fn recorded_requests_come_out_as_they_were() {
    let (mut same, mut beyond) = (0, 0);
    for exchange in messages().into_iter().filter(Exchange::is_success) {
        let recorded = &exchange.request;
        let Some(request) = hub(recorded) else {
            beyond += 1;
            continue;
        };
        let model = recorded["model"].as_str().unwrap();
        let target = Target { model, limit: None, model_limit: None };
        let call = Anthropic.call(&request, &target).unwrap();
        let sent: Value = serde_json::from_slice(&call.body).unwrap();
        // Thinking is left out where the API would refuse it, as it did not here: the recording is older than that rule.
        assert_eq!(plain(&sent), plain(recorded), "{}", exchange.name);
        same += 1;
    }
    println!("{same} requests, {beyond} with what only Anthropic's own API has");
}

/// The chat completions request that says the same as a recorded one; `None` if there is none, or none with a bound.
fn as_chat(body: &Value) -> Option<Value> {
    if ["mcp_servers", "container", "context_management"].iter().any(|name| body.get(name).is_some()) {
        return None;
    }
    let mut messages = Vec::new();
    let text = |content: &Value| match content {
        Value::Array(_) => content.clone(),
        other => json!([{ "type": "text", "text": other }]),
    };
    if !body["system"].is_null() {
        messages.push(json!({ "role": "system", "content": text(&body["system"]) }));
    }
    for message in list(&body["messages"]) {
        let (mut content, mut calls) = (Vec::new(), Vec::new());
        for block in list(&text(&message["content"])) {
            match block["type"].as_str()? {
                "text" => content.push(json!({ "type": "text", "text": block["text"] })),
                "image" if block["source"]["type"] == "base64" => {
                    let (kind, data) = (block["source"]["media_type"].as_str()?, block["source"]["data"].as_str()?);
                    content.push(
                        json!({ "type": "image_url", "image_url": { "url": format!("data:{kind};base64,{data}") } }),
                    );
                }
                "image" => {
                    content.push(json!({ "type": "image_url", "image_url": { "url": "https://host.example/i" } }))
                }
                "tool_use" => calls.push(json!({
                    "id": block["id"], "type": "function",
                    "function": { "name": block["name"], "arguments": block["input"].to_string() }
                })),
                // What a file holds has no bound but the window.
                "tool_result" if list(&block["content"]).iter().all(|inner| inner["type"] == "text") => {
                    messages.push(json!({ "role": "tool", "tool_call_id": block["tool_use_id"], "content": text(&block["content"]) }));
                }
                "thinking" => content.push(json!({ "type": "text", "text": block["thinking"] })),
                _ => return None,
            }
        }
        if !content.is_empty() || !calls.is_empty() {
            let mut written = json!({ "role": message["role"], "content": content });
            if !calls.is_empty() {
                written["tool_calls"] = Value::from(calls);
            }
            messages.push(written);
        }
    }
    let mut chat = json!({ "model": body["model"], "messages": messages });
    let mut tools = Vec::new();
    for tool in list(&body["tools"]) {
        let function = json!({ "name": tool["name"], "description": tool["description"], "parameters": tool.get("input_schema")? });
        tools.push(json!({ "type": "function", "function": function }));
    }
    if !tools.is_empty() {
        chat["tools"] = Value::from(tools);
    }
    for form in [&body["output_config"]["format"], &body["output_format"]] {
        if form.is_object() {
            chat["response_format"] =
                json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": form["schema"] } });
        }
    }
    Some(chat)
}

#[test]
fn i_3_no_recorded_input_exceeds_its_bound() {
    let (mut ratios, mut paid) = (Vec::new(), 0);
    for exchange in messages().into_iter().filter(Exchange::is_success) {
        let answer = if exchange.is_stream() {
            assembled(&exchange.response)
        } else {
            serde_json::from_str(&exchange.response).ok()
        };
        let (Some(answer), Some(chat)) = (answer, as_chat(&exchange.request)) else { continue };
        let usage = recorded_usage(&answer["usage"]);
        let request = request::scan(chat.to_string().as_bytes()).unwrap();
        let host = metering::of("anthropic", &request.model);
        let InputBound::Tokens(bound) = input_bound(&request, &host, None) else {
            panic!("{}: no bound", exchange.name)
        };
        assert!(usage.input_total() <= bound.total(), "{}: {} > {}", exchange.name, usage.input_total(), bound.total());
        paid += usize::from(assert_paid_for(Api::Anthropic, &exchange, &request, &chat, bound));
        if usage.input_total() > 0 {
            ratios.push(bound.total() as f64 / usage.input_total() as f64);
        }
    }
    ratios.sort_by(f64::total_cmp);
    let at = |share: f64| ratios.get((ratios.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!(
        "{} inputs, {paid} costs; bound by input: least {:.2}, median {:.1}, 90 % {:.1}",
        ratios.len(),
        at(0.0),
        at(0.5),
        at(0.9)
    );
}
