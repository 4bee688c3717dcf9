//! Forms of an answer that a provider cannot be asked for as they are: a function whose arguments are the answer, and an object around what is none.
//!
//! What is put around an answer is taken off again before a client sees it, whole and in a stream alike: both go through [`Unwrapper`].

use std::borrow::Cow;
use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::chat::request::Tool;
use crate::json::Cursor;
use crate::refusal::RequestError;
use crate::translate::Wrapped;

/// The function that stands for a form. Underscores are added if the client has one of that name.
const FUNCTION: &str = "give_answer";
/// What it is for, unless the client says so.
pub(crate) const PURPOSE: &str = "Gives the answer. Its arguments, one JSON object, are the whole answer.";
/// The schema of an object without a schema, where a model that is held to it could say nothing else than `{}`.
pub(crate) const ANY_OBJECT: &str = r#"{"type":"object","properties":{"answer":{"type":"string","description":"The whole answer: the text of one JSON object."}},"required":["answer"]}"#;
/// How an object around an answer begins, but for white space.
const OPENING: [&str; 3] = ["{", "\"answer\"", ":"];
/// Longest such beginning that is waited for, in bytes.
const MAX_OPENING: usize = 256;
/// Members of a schema that references name from its root, and that therefore must stay there.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];
/// Members without a `type` beside them that may stand for something else than an object.
const OPEN: [&str; 6] = ["anyOf", "oneOf", "enum", "const", "items", "prefixItems"];

/// The name of the function that stands for a form beside the client's own.
pub(crate) fn function_beside(tools: &[Tool<'_>]) -> String {
    let taken: HashSet<&str> = tools.iter().map(|tool| &*tool.name).filter(|name| name.starts_with(FUNCTION)).collect();
    let mut name = FUNCTION.to_owned();
    while taken.contains(name.as_str()) {
        name.push('_');
    }
    name
}

/// The schema of an object around the answer, if the answer's own schema is not one of an object.
///
/// # Errors
/// [`RequestError`] if the schema refers to itself in a way that has no meaning within another.
pub(crate) fn wrap(schema: &RawValue) -> Result<Option<Box<RawValue>>, RequestError> {
    let Some(members) = members(schema.get()).filter(|members| may_be_no_object(members)) else { return Ok(None) };
    if refers_to_its_root(schema.get()) {
        return Err(refused(
            "refers to itself other than by `$defs`, which this provider does not take outside an object",
        ));
    }
    let list = |wanted: bool| -> String {
        let chosen = members.iter().filter(|(name, _)| DEFINITIONS.contains(&&**name) == wanted);
        let written = chosen.map(|(name, value)| format!("{}:{value}", serde_json::Value::from(&**name)));
        written.collect::<Vec<_>>().join(",")
    };
    let (inner, definitions) = (list(false), list(true));
    let comma = if definitions.is_empty() { "" } else { "," };
    let made = format!(
        "{{\"type\":\"object\",\"properties\":{{\"answer\":{{{inner}}}}},\"required\":[\"answer\"],\
        \"additionalProperties\":false{comma}{definitions}}}"
    );
    RawValue::from_string(made).map(Some).map_err(|_| refused("is not JSON that can be passed on"))
}

/// The schema with what the answer is for, where a provider takes no such words beside it; and whether there was no place for them. A schema with words
/// of its own keeps those, and beside a reference some take nothing.
pub(crate) fn described<'r>(schema: Cow<'r, RawValue>, purpose: Option<&str>) -> (Cow<'r, RawValue>, bool) {
    let Some(purpose) = purpose.filter(|purpose| !purpose.trim().is_empty()) else { return (schema, false) };
    let made = members(schema.get()).and_then(|members| {
        if members.iter().any(|(name, _)| name == "description" || name == "$ref") {
            return None;
        }
        let rest = schema.get().strip_prefix('{')?;
        let comma = if members.is_empty() { "" } else { "," };
        RawValue::from_string(format!("{{\"description\":{}{comma}{rest}", serde_json::Value::from(purpose))).ok()
    });
    match made {
        Some(made) => (Cow::Owned(made), false),
        None => (schema, true),
    }
}

fn refused(problem: &str) -> RequestError {
    let field = "response_format.json_schema.schema";
    RequestError { field: Some(field.to_owned()), message: format!("`{field}` {problem}") }
}

/// The members of an object, as they are written.
fn members(object: &str) -> Option<Vec<(String, &str)>> {
    let mut cursor = Cursor::new(object);
    let (mut open, mut members) = (cursor.enter(), Vec::new());
    while let Some(key) = cursor.key(&mut open).ok()? {
        let name = key.decode()?.into_owned();
        let span = cursor.value().ok()?;
        members.push((name, cursor.slice(span)));
    }
    Some(members)
}

fn may_be_no_object(members: &[(String, &str)]) -> bool {
    let of = |name: &str| members.iter().rev().find(|(given, _)| given == name).map(|(_, value)| *value);
    match of("type") {
        Some(kind) => kind != "\"object\"",
        None => of("properties").is_none() && OPEN.iter().any(|name| of(name).is_some()),
    }
}

/// Whether a reference leads to the root of the schema or to a place in it that moves when an object is put around.
fn refers_to_its_root(schema: &str) -> bool {
    let references = schema.match_indices("\"$ref\"").filter_map(|(at, key)| {
        let value = schema.get(at + key.len()..)?.trim_ascii_start().strip_prefix(':')?;
        value.trim_ascii_start().strip_prefix('"')
    });
    references
        .filter_map(|target| target.strip_prefix('#'))
        .any(|path| !DEFINITIONS.iter().any(|name| path.strip_prefix('/').is_some_and(|path| path.starts_with(name))))
}

/// The answer of arguments that came whole.
pub(crate) fn unwrapped(arguments: String, wrapped: Wrapped) -> String {
    #[derive(Deserialize)]
    struct Around {
        answer: String,
    }
    match wrapped {
        Wrapped::Not => arguments,
        Wrapped::Value => {
            let mut unwrapper = Unwrapper::default();
            unwrapper.feed(&arguments)
        }
        Wrapped::Text => serde_json::from_str::<Around>(&arguments).map_or(arguments, |around| around.answer),
    }
}

/// Takes the object off an answer that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct Unwrapper {
    state: State,
    /// What came before the answer began.
    held: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Before,
    Inside {
        depth: u32,
        is_text: bool,
        is_escaped: bool,
    },
    /// The object is at its end.
    After,
    /// It is no such object, but words.
    Plain,
}

impl Unwrapper {
    /// What of the answer is known after this piece.
    pub(crate) fn feed(&mut self, piece: &str) -> String {
        match self.state {
            State::Before => {
                self.held.push_str(piece);
                match opening(&self.held) {
                    Some(Opening::Whole(end)) => {
                        self.state = State::Inside { depth: 0, is_text: false, is_escaped: false };
                        let held = std::mem::take(&mut self.held);
                        self.inside(held.get(end..).unwrap_or_default())
                    }
                    Some(Opening::Begun) if self.held.len() <= MAX_OPENING => String::new(),
                    Some(Opening::Begun) | None => {
                        self.state = State::Plain;
                        std::mem::take(&mut self.held)
                    }
                }
            }
            State::Inside { .. } => self.inside(piece),
            State::After => String::new(),
            State::Plain => piece.to_owned(),
        }
    }

    fn inside(&mut self, piece: &str) -> String {
        let State::Inside { mut depth, mut is_text, mut is_escaped } = self.state else { return String::new() };
        for (at, byte) in piece.bytes().enumerate() {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' if is_text => is_escaped = true,
                b'"' => is_text = !is_text,
                _ if is_text => {}
                b'{' | b'[' => depth = depth.saturating_add(1),
                b'}' | b',' if depth == 0 => {
                    self.state = State::After;
                    return piece.get(..at).unwrap_or_default().to_owned();
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        self.state = State::Inside { depth, is_text, is_escaped };
        piece.to_owned()
    }
}

enum Opening {
    /// The answer begins here.
    Whole(usize),
    /// It may yet become one.
    Begun,
}

/// How far a text is the beginning of an object around an answer; `None` if it is none.
fn opening(text: &str) -> Option<Opening> {
    let mut rest = text;
    for token in OPENING {
        rest = rest.trim_ascii_start();
        match rest.strip_prefix(token) {
            Some(after) => rest = after,
            None if token.starts_with(rest) => return Some(Opening::Begun),
            None => return None,
        }
    }
    rest = rest.trim_ascii_start();
    Some(if rest.is_empty() { Opening::Begun } else { Opening::Whole(text.len() - rest.len()) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn wrapped(schema: &str) -> Result<Option<Value>, RequestError> {
        let schema = RawValue::from_string(schema.to_owned()).unwrap();
        Ok(wrap(&schema)?.map(|schema| serde_json::from_str(schema.get()).unwrap()))
    }

    fn fed(pieces: &[&str]) -> String {
        let mut unwrapper = Unwrapper::default();
        pieces.iter().map(|piece| unwrapper.feed(piece)).collect()
    }

    #[test]
    fn what_is_no_object_is_put_into_one_and_its_definitions_stay_where_references_look_for_them() {
        let around = |inner: Value| json!({ "type": "object", "properties": { "answer": inner }, "required": ["answer"], "additionalProperties": false });
        for inner in [
            json!({ "type": "array", "items": { "type": "string" } }),
            json!({ "type": ["object", "null"] }),
            json!({ "anyOf": [{ "type": "string" }] }),
            json!({ "enum": ["a", "b"] }),
        ] {
            assert_eq!(wrapped(&inner.to_string()), Ok(Some(around(inner.clone()))), "{inner}");
        }
        let listed =
            r##"{"$defs":{"A":{"type":"object"}},"type":"array","items":{"$ref":"#/$defs/A"},"definitions":{}}"##;
        let mut expected = around(json!({ "type": "array", "items": { "$ref": "#/$defs/A" } }));
        expected["$defs"] = json!({ "A": { "type": "object" } });
        expected["definitions"] = json!({});
        assert_eq!(wrapped(listed), Ok(Some(expected)));
        for object in [r#"{"type":"object"}"#, r#"{"properties":{},"anyOf":[]}"#, "{}", r##"{"$ref":"#/$defs/A"}"##] {
            assert_eq!(wrapped(object), Ok(None), "{object}");
        }
    }

    #[test]
    fn what_an_answer_is_for_goes_into_its_schema_where_there_is_a_place() {
        let of = |schema: &str, purpose| {
            let schema = RawValue::from_string(schema.to_owned()).unwrap();
            let (made, is_lost) = described(Cow::Owned(schema), purpose);
            (made.get().to_owned(), is_lost)
        };
        let kept = |schema: &str, is_lost| (schema.to_owned(), is_lost);
        let purpose = Some("A \"city\"");
        assert_eq!(of(r#"{"type":"object"}"#, purpose), kept(r#"{"description":"A \"city\"","type":"object"}"#, false));
        assert_eq!(of("{ }", purpose), kept(r#"{"description":"A \"city\"" }"#, false));
        for schema in [r#"{"description":"Mine"}"#, r##"{"$ref":"#/$defs/A"}"##] {
            assert_eq!(of(schema, purpose), kept(schema, true));
        }
        for nothing in [None, Some(" ")] {
            assert_eq!(of("{}", nothing), kept("{}", false));
        }
    }

    #[test]
    fn a_schema_that_refers_to_its_own_root_is_refused_by_name() {
        for schema in [
            r##"{"type":"array","items":{"$ref":"#"}}"##,
            r##"{"type":"array","items":{"$ref" : "#/items"}}"##,
            r##"{"anyOf":[{"type":"null"},{"$ref":"#/anyOf/0"}]}"##,
        ] {
            let error = wrapped(schema).unwrap_err();
            assert_eq!(error.field.as_deref(), Some("response_format.json_schema.schema"), "{schema}");
        }
    }

    #[test]
    fn what_is_around_an_answer_is_taken_off_and_words_stay_words() {
        for (text, expected) in [
            (r#"{"answer":[1,"}",{"a":[]}]}"#, r#"[1,"}",{"a":[]}]"#),
            (r#" { "answer" : "a\"}" } "#, r#""a\"}" "#),
            ("{\"answer\":\n ", ""),
            (r#"{"answer":5,"more":6}"#, "5"),
            (r#"{"answer":[1,2"#, "[1,2"),
            (r#"{"ans"#, ""),
            ("", ""),
            (r#"{"question":1}"#, r#"{"question":1}"#),
            ("I cannot do that.", "I cannot do that."),
        ] {
            assert_eq!(fed(&[text]), expected, "{text}");
            assert_eq!(unwrapped(text.to_owned(), Wrapped::Value), expected);
            assert_eq!(unwrapped(text.to_owned(), Wrapped::Not), text);
        }
        let blank = " ".repeat(MAX_OPENING + 1);
        assert_eq!(fed(&[&blank, "x"]), format!("{blank}x"), "nothing is waited for without end");
        let text = json!({ "answer": r#"{"a":1}"# }).to_string();
        assert_eq!(unwrapped(text, Wrapped::Text), r#"{"a":1}"#);
        assert_eq!(unwrapped(r#"{"answer":7}"#.to_owned(), Wrapped::Text), r#"{"answer":7}"#);
    }

    proptest! {
        #[test]
        fn pieces_say_what_the_whole_says(value in "\\PC{0,20}", more in "\\PC{0,8}", size in 1..9_usize, known: bool) {
            let answer = json!([value, { "k}": more }]).to_string();
            let text = if known { format!("{{\"answer\":{answer}}}") } else { format!("{value}{{\"answer\":{more}") };
            let characters: Vec<char> = text.chars().collect();
            let pieces: Vec<String> = characters.chunks(size).map(|piece| piece.iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = fed(&[&text]);
            prop_assert_eq!(fed(&pieces), whole.clone());
            if known {
                prop_assert_eq!(whole, answer);
            }
        }
    }
}
