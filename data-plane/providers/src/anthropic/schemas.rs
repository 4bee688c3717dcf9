//! JSON schemas as the API takes them: of arguments, and of what a model is held to exactly.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::exact::unions;
use crate::refusal::RequestError;

const EMPTY_SCHEMA: &str = r#"{"type":"object","properties":{}}"#;
/// The same of a function whose calls are held to it.
const EXACTLY_EMPTY: &str = r#"{"type":"object","properties":{},"additionalProperties":false}"#;
/// How much a request may still hold its model to.
///
/// Source: "Structured outputs", limitations (Anthropic, 2026): in all of a request's exact schemas at most 16 members of several types,
/// at most 20 exact tools, and none of some keywords.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    unions: usize,
    tools: usize,
}

impl Room {
    /// All of it, for models that can be held to a schema.
    pub(super) const fn of(has_schemas: bool) -> Self {
        if has_schemas { Self { unions: 16, tools: 20 } } else { Self { unions: 0, tools: 0 } }
    }

    /// Takes the room for the schema of an answer, if there is enough.
    pub(super) fn take(&mut self, schema: &RawValue) -> bool {
        let needed = if self.tools == 0 { None } else { unions(schema) };
        let left = needed.and_then(|needed| self.unions.checked_sub(needed));
        self.unions = left.unwrap_or(self.unions);
        left.is_some()
    }

    /// Takes the room for a tool, if there is enough.
    pub(super) fn take_tool(&mut self, schema: &RawValue) -> bool {
        let is_taken = self.take(schema);
        self.tools -= usize::from(is_taken);
        is_taken
    }
}

/// The schema of a function's arguments with the `type` that the API insists on. The rest stays as the client wrote it.
pub(super) fn of_arguments(
    schema: Option<&RawValue>,
    field: impl Fn() -> String,
) -> Result<Cow<'_, RawValue>, RequestError> {
    #[derive(Deserialize)]
    struct Peek<'a> {
        #[serde(borrow, rename = "type")]
        kind: Option<&'a RawValue>,
    }
    let schema = schema.filter(|schema| schema.get() != "null");
    let written = schema.map_or(EMPTY_SCHEMA, RawValue::get);
    let refuse = || {
        let field = field();
        RequestError { message: format!("`{field}` must be a JSON schema that is an object"), field: Some(field) }
    };
    let members = written.strip_prefix('{').ok_or_else(refuse)?;
    // A member given twice is for the provider to judge.
    let has_type = serde_json::from_str::<Peek<'_>>(written).map_or(true, |peek| peek.kind.is_some());
    match schema {
        Some(schema) if has_type => Ok(Cow::Borrowed(schema)),
        _ => {
            let comma = if members.trim_start().starts_with('}') { "" } else { "," };
            let made = if has_type { written.to_owned() } else { format!("{{\"type\":\"object\"{comma}{members}") };
            RawValue::from_string(made).map(Cow::Owned).map_err(|_| refuse())
        }
    }
}

/// The same of a function whose calls are to fit it exactly: one without a schema takes nothing.
pub(super) fn of_exact_arguments(
    schema: Option<&RawValue>,
    field: impl Fn() -> String,
) -> Result<Cow<'_, RawValue>, RequestError> {
    let nothing = || RawValue::from_string(EXACTLY_EMPTY.to_owned()).ok().map(Cow::Owned);
    let is_given = schema.is_some_and(|schema| schema.get() != "null");
    let exact = if is_given { None } else { nothing() };
    exact.map_or_else(|| of_arguments(schema, field), Ok)
}

/// The schema of an answer that is the arguments of a function.
pub(super) fn of_answer(schema: Option<Cow<'_, RawValue>>) -> Result<Cow<'_, RawValue>, RequestError> {
    let field = || "response_format.json_schema.schema".to_owned();
    match schema {
        // What was put around it is an object.
        Some(Cow::Owned(around)) => Ok(Cow::Owned(around)),
        Some(Cow::Borrowed(schema)) => of_arguments(Some(schema), field),
        None => of_arguments(None, field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn there_is_room_for_as_much_as_the_api_takes() {
        let (plain, union) = (raw("{}"), raw(r#"{"anyOf":[]}"#));
        let mut room = Room::of(true);
        assert_eq!((0..30).filter(|_| room.take_tool(&plain)).count(), 20);
        let mut room = Room::of(true);
        assert_eq!((0..30).filter(|_| room.take(&union)).count(), 16);
        assert!(room.take_tool(&plain), "one without unions still fits");
        assert!(!Room::of(false).take(&plain));
    }
}
