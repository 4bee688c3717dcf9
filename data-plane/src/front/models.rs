//! `GET /v1/models`: what the key may call, and nothing it may not.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body_util::Full;
use keyforge_providers::redact;
use keyforge_shared::catalog::{Model, ProviderName};
use keyforge_shared::endpoint::Endpoint;
use keyforge_shared::state::KeyRecord;
use serde_json::json;

use crate::plane::Plane;
use crate::rejection::Rejection;
use crate::request::answer::{Answer, AnswerBody};
use crate::request::authenticate::{Caller, authenticate};
use crate::request::authorize::{can_be_called, entry as may_enter};
use crate::request::receive::Head;
use crate::request::refuse::refuse;

/// Every model that the key may call and the node can reach.
#[must_use]
pub fn list(plane: &Plane, head: &Head) -> Answer {
    answer(
        plane,
        head,
        with_key(plane, head, |key| {
            let data: Vec<_> = callable(plane, key).iter().map(|model| entry(model)).collect();
            Ok(json!({ "object": "list", "data": data }))
        }),
    )
}

/// One model, if the key may call it.
#[must_use]
pub fn get(plane: &Plane, head: &Head, name: &str) -> Answer {
    answer(
        plane,
        head,
        with_key(plane, head, |key| {
            let found = plane.replica.model_called(name).filter(|model| is_callable(key, model, &reachable(plane)));
            let found = found
                .ok_or_else(|| Rejection::ModelUnknown(redact::message(&name.chars().take(64).collect::<String>())))?;
            Ok(entry(&found))
        }),
    )
}

fn with_key(
    plane: &Plane,
    head: &Head,
    read: impl FnOnce(&KeyRecord) -> Result<serde_json::Value, Rejection>,
) -> Result<(Caller, serde_json::Value), Rejection> {
    let caller = authenticate(plane, head)?;
    may_enter(plane, &caller, head, Endpoint::Models)
        .inspect_err(|rejection| refuse(plane, caller.key(), head, String::new(), rejection))?;
    let value = read(caller.key())?;
    Ok((caller, value))
}

fn callable(plane: &Plane, key: &KeyRecord) -> Vec<Arc<Model>> {
    let reachable = reachable(plane);
    plane.replica.models(|model| is_callable(key, model, &reachable))
}

fn is_callable(key: &KeyRecord, model: &Model, reachable: &HashSet<ProviderName>) -> bool {
    can_be_called(model) && reachable.contains(&model.provider) && key.policy.allows_model(&model.name)
}

/// The providers that there are credentials for.
fn reachable(plane: &Plane) -> HashSet<ProviderName> {
    let enabled = plane.replica.credentials(|credential| credential.enabled);
    enabled.iter().map(|credential| credential.provider.clone()).collect()
}

fn entry(model: &Model) -> serde_json::Value {
    // Clients want a creation time; the catalogue knows only when its facts were read, which changes with them.
    json!({ "id": model.name, "object": "model", "created": 0, "owned_by": model.provider })
}

fn answer(plane: &Plane, head: &Head, result: Result<(Caller, serde_json::Value), Rejection>) -> Answer {
    match result {
        Ok((caller, value)) => {
            let mut response = Response::new(AnswerBody::Whole(Full::new(Bytes::from(value.to_string()))));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if let Ok(id) = HeaderValue::from_str(&head.id.to_string()) {
                response.headers_mut().insert("x-request-id", id);
            }
            let key = Some(caller.key().id);
            let answer = Answer { response, code: "", key, model: String::new(), cost: None };
            answer.with_token_until(caller.token_until(plane.clock.as_ref()))
        }
        Err(rejection) => Answer::refusal(head, &rejection),
    }
}
