//! Reading JSON with the words of a strict provider when it is not what it should be.

use serde_json::{Map, Value};

use crate::provider::errors::ApiError;

/// A refusal of what stands at `at`.
pub(super) fn refuse<T>(at: &str, problem: &str) -> Result<T, ApiError> {
    Err(ApiError::invalid(format!("{at}: {problem}"), None, None))
}

/// The body as an object.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => refuse("body", "must be an object"),
        Err(error) => refuse("body", &error.to_string()),
    }
}

/// Refuses members that the provider does not know.
pub(super) fn only(at: &str, object: &Map<String, Value>, known: &[&str]) -> Result<(), ApiError> {
    match object.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => refuse(at, &format!("unknown member `{name}`")),
        None => Ok(()),
    }
}

/// A list that must not be empty.
pub(super) fn list<'a>(at: &str, value: Option<&'a Value>) -> Result<&'a [Value], ApiError> {
    match value.and_then(Value::as_array) {
        Some(list) if !list.is_empty() => Ok(list),
        Some(_) => refuse(at, "must not be empty"),
        None => refuse(at, "must be a list"),
    }
}

/// A string that must not be empty.
pub(super) fn text<'a>(at: &str, value: Option<&'a Value>) -> Result<&'a str, ApiError> {
    match value.and_then(Value::as_str) {
        Some("") => refuse(at, "must not be empty"),
        Some(text) => Ok(text),
        None => refuse(at, "must be a string"),
    }
}
