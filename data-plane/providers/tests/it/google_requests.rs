//! What was asked of Google in recordings must be what a chat completion that asks the same becomes, and no prompt be larger than its bound.

use std::collections::BTreeMap;

use bytes::Bytes;
use keyforge_providers::bound::{InputBound, input_bound};
use keyforge_providers::exchange::{self, Destination, Stamp};
use keyforge_providers::metering;
use keyforge_providers::openai::request::scan;
use keyforge_providers::openai::rewrite::MaxTokensField;
use keyforge_providers::translate::Target;
use keyforge_shared::provider::Api;
use serde_json::{Value, json};

use crate::google::{chunks, generations, recorded};
use crate::money::assert_paid_for;
use crate::recorded::Exchange;

fn either(value: &Value, camel: &str, snake: &str) -> Value {
    if value[camel].is_null() { value[snake].clone() } else { value[camel].clone() }
}

fn first(value: &Value, names: [&str; 3]) -> Value {
    names.iter().map(|name| value[*name].clone()).find(|value| !value.is_null()).unwrap_or_default()
}

/// The system's texts: recorded clients write its parts as a list or as one.
fn system(request: &Value) -> Vec<Value> {
    let parts = either(request, "systemInstruction", "system_instruction")["parts"].clone();
    let parts = parts.as_array().cloned().unwrap_or_else(|| vec![parts]);
    parts.into_iter().map(|part| part["text"].clone()).filter(|text| !text.is_null()).collect()
}

/// A recorded request as a chat completion that asks for the same; `None` where a chat completion cannot.
fn as_chat(request: &Value) -> Option<Value> {
    if !request["cachedContent"].is_null() {
        return None;
    }
    let mut messages: Vec<_> = system(request).iter().map(|text| json!({"role": "system", "content": text})).collect();
    let (mut calls, mut open) = (0, Vec::<(String, String)>::new());
    for content in request["contents"].as_array()? {
        for part in content["parts"].as_array()?.iter().filter(|part| part["thought"] != true) {
            let (call, result) =
                (either(part, "functionCall", "function_call"), either(part, "functionResponse", "function_response"));
            messages.push(if let Some(text) = part["text"].as_str() {
                json!({"role": if content["role"] == "model" { "assistant" } else { "user" }, "content": text})
            } else if call.is_object() {
                calls += 1;
                open.push((call["name"].as_str()?.to_owned(), format!("c{calls}")));
                json!({"role": "assistant", "tool_calls": [{"id": format!("c{calls}"), "type": "function",
                    "function": {"name": call["name"], "arguments": if call["args"].is_null() { "{}".to_owned() } else { call["args"].to_string() }}}]})
            } else if result.is_object() {
                let at = open.iter().position(|(name, _)| result["name"] == **name)?;
                if !result["parts"].is_null() {
                    return None;
                }
                json!({"role": "tool", "tool_call_id": open.remove(at).1, "content": result["response"].to_string()})
            } else {
                json!({"role": "user", "content": [medium(part)?]})
            });
        }
    }
    let mut chat = json!({"model": "m", "messages": messages});
    let mut tools = Vec::new();
    for tool in request["tools"].as_array().into_iter().flatten() {
        for function in either(tool, "functionDeclarations", "function_declarations").as_array()? {
            let schema = first(function, ["parametersJsonSchema", "parameters_json_schema", "parameters"]);
            tools.push(json!({"type": "function",
                "function": {"name": function["name"], "description": function["description"], "parameters": schema}}));
        }
    }
    if !tools.is_empty() {
        chat["tools"] = tools.into();
    }
    let schema = first(&request["generationConfig"], ["responseJsonSchema", "responseSchema", "response_schema"]);
    if schema.is_object() {
        chat["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
    }
    Some(chat)
}

fn medium(part: &Value) -> Option<Value> {
    let (blob, file) = (&part["inlineData"], either(part, "fileData", "file_data"));
    let (media_type, url) = if blob.is_object() {
        let url = format!("data:{};base64,{}", blob["mimeType"].as_str()?, blob["data"].as_str()?);
        (blob["mimeType"].clone(), url)
    } else {
        (either(&file, "mimeType", "mime_type"), either(&file, "fileUri", "file_uri").as_str()?.to_owned())
    };
    // Files that were uploaded, which nobody gets to name.
    if url.starts_with("gs:") || url.starts_with("https://generativelanguage.googleapis.com/") {
        return None;
    }
    Some(match media_type.as_str()?.split('/').next()? {
        "image" | "video" => json!({"type": "image_url", "image_url": {"url": url}}),
        _ if blob.is_object() => json!({"type": "file", "file": {"file_data": url, "filename": "f"}}),
        _ => json!({"type": "file", "file": {"file_data": url}}),
    })
}

/// What a body in Google's form says, part by part.
fn said(request: &Value) -> Vec<Value> {
    let mut said: Vec<_> = system(request).iter().map(|text| json!(["system", text])).collect();
    for content in request["contents"].as_array().into_iter().flatten() {
        for part in content["parts"].as_array().into_iter().flatten().filter(|part| part["thought"] != true) {
            let (call, result) =
                (either(part, "functionCall", "function_call"), either(part, "functionResponse", "function_response"));
            let file = either(part, "fileData", "file_data");
            let what = if part["text"].is_string() {
                part["text"].clone()
            } else if call.is_object() {
                json!([call["name"], if call["args"].is_null() { json!({}) } else { call["args"].clone() }])
            } else if result.is_object() {
                json!([result["name"], result["response"]])
            } else if file.is_object() {
                either(&file, "fileUri", "file_uri")
            } else {
                json!([part["inlineData"]["mimeType"], part["inlineData"]["data"]])
            };
            said.push(json!([content["role"], what]));
        }
    }
    for tool in request["tools"].as_array().into_iter().flatten() {
        for function in either(tool, "functionDeclarations", "function_declarations").as_array().into_iter().flatten() {
            let schema = first(function, ["parametersJsonSchema", "parameters_json_schema", "parameters"]);
            said.push(json!([function["name"], function["description"], schema]));
        }
    }
    said.push(first(&request["generationConfig"], ["responseJsonSchema", "responseSchema", "response_schema"]));
    said.retain(|said| *said != json!(["model", ""]) && *said != json!(["system", ""]));
    said
}

fn model(exchange: &Exchange) -> &str {
    exchange.path.split("/models/").nth(1).and_then(|rest| rest.split(':').next()).unwrap()
}

/// What is sent for a chat completion, and how its answer is read.
fn prepared(exchange: &Exchange, chat: &Value) -> (Value, exchange::Exchange) {
    let body = Bytes::from(chat.to_string());
    let request = scan(&body).unwrap_or_else(|error| panic!("{}: {error}", exchange.name));
    let destination = Destination {
        api: Api::Google,
        target: Target { model: model(exchange), limit: None, model_limit: None },
        limit_field: MaxTokensField::Current,
        usage_option: true,
    };
    let (outgoing, reader) = exchange::chat(&request, body, &destination, Stamp::default())
        .unwrap_or_else(|error| panic!("{}: {error}", exchange.name));
    (serde_json::from_slice(&outgoing.body.to_bytes()).unwrap(), reader)
}

#[test]
fn what_a_chat_completion_asks_for_is_what_was_asked_of_google() {
    let mut count = 0;
    for exchange in generations().into_iter().filter(Exchange::is_success) {
        let Some(chat) = as_chat(&exchange.request) else { continue };
        let (sent, _) = prepared(&exchange, &chat);
        assert_eq!(said(&sent), said(&exchange.request), "{}", exchange.name);
        count += 1;
    }
    println!("{count} requests");
}

/// The texts, calls and signatures of parts in Google's form, as far as a model wants them back.
fn kept(parts: &[Value]) -> (String, Vec<(Value, Value, Value)>, Vec<Value>) {
    let mut kept = (String::new(), Vec::new(), Vec::new());
    for part in parts {
        let signature = &part["thoughtSignature"];
        if part["functionCall"].is_object() {
            kept.1.push((
                part["functionCall"]["name"].clone(),
                part["functionCall"]["args"].clone(),
                signature.clone(),
            ));
        } else if part["text"].is_string() && part["thought"] != true {
            kept.0.push_str(part["text"].as_str().unwrap());
            kept.2.extend((!signature.is_null()).then(|| signature.clone()));
        }
    }
    kept
}

#[test]
fn an_answer_that_is_sent_back_is_the_one_that_was_given() {
    let (mut count, mut signatures) = (0, 0);
    for exchange in generations().into_iter().filter(|exchange| exchange.is_success() && !exchange.is_stream()) {
        let recorded: Value = serde_json::from_str(&exchange.response).unwrap();
        let (Some(mut chat), Some(parts)) =
            (as_chat(&exchange.request), recorded["candidates"][0]["content"]["parts"].as_array())
        else {
            continue;
        };
        let (_, reader) = prepared(&exchange, &chat);
        let answer = reader.answer(Bytes::copy_from_slice(exchange.response.as_bytes())).unwrap();
        let completion: Value = serde_json::from_slice(&answer.body).unwrap();
        let message = completion["choices"][0]["message"].clone();
        chat["messages"].as_array_mut().unwrap().push(message.clone());
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            chat["messages"]
                .as_array_mut()
                .unwrap()
                .push(json!({"role": "tool", "tool_call_id": call["id"], "content": "ok"}));
        }
        let (again, _) = prepared(&exchange, &chat);
        let back = again["contents"].as_array().unwrap().iter().rfind(|content| content["role"] == "model").unwrap();
        let (given, got) = (kept(parts), kept(back["parts"].as_array().unwrap()));
        signatures += given.2.len() + given.1.iter().filter(|call| !call.2.is_null()).count();
        // The history may end with a turn of the model's, which the answer then continues.
        assert!(got.0.ends_with(&given.0), "{}: {} | {}", exchange.name, got.0, given.0);
        assert_eq!((&got.1, &got.2), (&given.1, &given.2), "{}", exchange.name);
        count += 1;
    }
    println!("{count} answers with {signatures} signatures");
}

#[test]
fn i_3_no_recorded_prompt_of_googles_is_larger_than_its_bound() {
    const WINDOW: u64 = 1_048_576;
    let mut ratios: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let (mut skipped, mut paid) = (Vec::new(), 0);
    for exchange in generations().into_iter().filter(Exchange::is_success) {
        let Some((input, ..)) = recorded(&chunks(&exchange.response)).usage else { continue };
        let Some(chat) = as_chat(&exchange.request) else {
            skipped.push(exchange.name);
            continue;
        };
        let request = scan(chat.to_string().as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", exchange.name));
        let host = metering::of("google", model(&exchange));
        match input_bound(&request, &host, None) {
            InputBound::Tokens(bound) => {
                assert!(input <= bound.total(), "{}: {input} > {}", exchange.name, bound.total());
                paid += usize::from(assert_paid_for(Api::Google, &exchange, &request, &chat, bound));
                let what = if request.content.is_text() { "text" } else { "pictures" };
                ratios.entry(what).or_default().push(bound.total() as f64 / input as f64);
            }
            InputBound::Unboundable(field) => {
                assert_eq!(field, "messages", "{}", exchange.name);
                let InputBound::Tokens(most) = input_bound(&request, &host, Some(WINDOW)) else {
                    panic!("{}: no bound by the window", exchange.name)
                };
                assert!(input <= most.total(), "{}: {input} > {}", exchange.name, most.total());
                paid += usize::from(assert_paid_for(Api::Google, &exchange, &request, &chat, most));
                ratios.entry("by window").or_default().push(1.0);
            }
        }
    }
    for (what, mut ratios) in ratios {
        ratios.sort_by(f64::total_cmp);
        println!(
            "{what}: {} prompts; bound by prompt: least {:.1}, median {:.1}",
            ratios.len(),
            ratios[0],
            ratios[ratios.len() / 2]
        );
    }
    println!("{paid} costs within their bounds");
    println!("{} with what no chat completion can ask for: {skipped:?}", skipped.len());
}
