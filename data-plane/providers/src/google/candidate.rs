//! What the parts of a candidate mean, the same in a whole answer and in a stream.

use std::collections::BTreeSet;

use serde_json::value::RawValue;

use super::reply;
use crate::chat::request::{Maker, Signature};
use crate::chat::response::Finish;

/// Longest id of a call that is passed on; chat completions allow 40 characters.
const MAX_ID: usize = 40;
/// Most characters of a reason that is not known.
const MAX_REASON: usize = 40;
/// How much of an answer's id goes into the ids made from it.
const MAX_STEM: usize = 24;

/// What one part is.
#[derive(Debug)]
pub(super) enum Said<'a> {
    Text {
        text: String,
        signature: Option<Signature<'static>>,
    },
    Thinking {
        text: String,
        signature: Option<Signature<'static>>,
    },
    Call {
        id: String,
        name: String,
        arguments: String,
        signature: Option<Signature<'static>>,
    },
    Media {
        media_type: String,
        base64: String,
        signature: Option<Signature<'static>>,
    },
    /// A tool of the provider's own, or what is not known.
    Native(&'a RawValue),
}

/// Ids of calls: those that Google gives, and made ones where it gives none, all different within an answer.
#[derive(Debug, Default)]
pub(super) struct CallIds {
    stem: String,
    used: BTreeSet<String>,
    made: u64,
}

impl CallIds {
    /// For the answer with this id, or if it has none with `own`: the same answer makes the same ids, and no other does.
    pub(super) fn of(answer: &str, own: &str) -> Self {
        let is_sound = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let stem = if answer.is_empty() {
            // What makes it unique is at its end.
            let surplus = own.len().saturating_sub(MAX_STEM);
            own.chars().skip(surplus).filter(is_sound).collect()
        } else {
            answer.chars().filter(is_sound).take(MAX_STEM).collect()
        };
        Self { stem, ..Self::default() }
    }

    fn next(&mut self, given: Option<String>) -> String {
        let is_sound = |id: &String| {
            let harmless = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte));
            !id.is_empty() && id.len() <= MAX_ID && harmless && !self.used.contains(id)
        };
        let id = given.filter(is_sound).unwrap_or_else(|| {
            loop {
                let made = format!("call_{}_{}", self.stem, self.made);
                self.made = self.made.saturating_add(1);
                if !self.used.contains(&made) {
                    return made;
                }
            }
        });
        self.used.insert(id.clone());
        id
    }
}

/// Reads one part; `None` for one that says nothing.
///
/// # Errors
/// If the part is not of Google's form.
pub(super) fn read<'a>(raw: &'a RawValue, ids: &mut CallIds) -> Result<Option<Said<'a>>, serde_json::Error> {
    let part: reply::Part<'a> = serde_json::from_str(raw.get())?;
    let signature = part.thought_signature.map(|value| Signature { maker: Maker::Google, value: value.into() });
    if let Some(call) = part.function_call {
        let id = ids.next(call.id);
        let arguments = call.args.map_or_else(|| "{}".to_owned(), |args| arguments(args.get()));
        return Ok(Some(Said::Call { id, name: call.name.unwrap_or_default(), arguments, signature }));
    }
    if let Some(blob) = part.inline_data {
        let (media_type, base64) = (blob.mime_type.unwrap_or_default(), blob.data.unwrap_or_default());
        return Ok(Some(Said::Media { media_type, base64, signature }));
    }
    let is_thought = part.thought == Some(true);
    match part.text {
        Some(text) if text.is_empty() && signature.is_none() => Ok(None),
        Some(text) if is_thought => Ok(Some(Said::Thinking { text, signature })),
        Some(text) => Ok(Some(Said::Text { text, signature })),
        None if raw.get().trim_ascii() == "{}" => Ok(None),
        None => Ok(Some(Said::Native(raw))),
    }
}

/// An object without the white space of pretty printing, its members in the model's order; `{}` for what is no object.
fn arguments(json: &str) -> String {
    let mut compact = Vec::with_capacity(json.len());
    let (mut inside, mut escaped) = (false, false);
    for byte in json.bytes() {
        let is_space = matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        if inside || !is_space {
            compact.push(byte);
        }
        match byte {
            b'"' if !escaped => inside = !inside,
            _ => {}
        }
        escaped = inside && byte == b'\\' && !escaped;
    }
    // Only single bytes of ASCII were left out.
    String::from_utf8(compact).ok().filter(|text| text.starts_with('{')).unwrap_or_else(|| "{}".to_owned())
}

/// Whether an answer that ended for this reason is none: the model's call cannot be read, or nothing was said for a reason that is neither the end
/// nor a filter. To a client it would look like one that has nothing more to say.
pub(super) fn is_none(reason: &str, has_calls: bool, has_text: bool) -> bool {
    match reason {
        "MALFORMED_FUNCTION_CALL"
        | "UNEXPECTED_TOOL_CALL"
        | "TOO_MANY_TOOL_CALLS"
        | "MISSING_THOUGHT_SIGNATURE"
        | "MALFORMED_RESPONSE" => !has_calls,
        other => !has_calls && !has_text && matches!(finish(other, false), Finish::Other(_)),
    }
}

/// What Google's reason means; it says `STOP` also when functions are called.
pub(super) fn finish(reason: &str, has_calls: bool) -> Finish {
    match reason {
        // The call of an undeclared function is passed on, and is for the client to answer; so are calls before one that cannot be read.
        "STOP"
        | "MALFORMED_FUNCTION_CALL"
        | "UNEXPECTED_TOOL_CALL"
        | "TOO_MANY_TOOL_CALLS"
        | "MISSING_THOUGHT_SIGNATURE"
        | "MALFORMED_RESPONSE"
            if has_calls =>
        {
            Finish::ToolCalls
        }
        "STOP" => Finish::Stop,
        "MAX_TOKENS" => Finish::Length,
        "SAFETY"
        | "RECITATION"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "MODEL_ARMOR"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION" => Finish::ContentFilter,
        other => Finish::Other(other.chars().take(MAX_REASON).collect()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn call(ids: &mut CallIds, json: &str) -> (String, String) {
        let raw = RawValue::from_string(json.to_owned()).unwrap();
        match read(&raw, ids).unwrap() {
            Some(Said::Call { id, arguments, .. }) => (id, arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn calls_without_an_id_get_one_that_is_unique_and_the_same_every_time() {
        let mut ids = CallIds::of("7cLI/aKiX DbSt1MkPq6TyyAo-and-much-more", "own");
        let made: Vec<_> = [
            r#"{"functionCall":{"name":"f","args":{}}}"#,
            r#"{"functionCall":{"name":"f","args":{},"id":"abc"}}"#,
            r#"{"functionCall":{"name":"f","args":{},"id":"abc"}}"#,
            r#"{"functionCall":{"name":"f","id":""}}"#,
            r#"{"functionCall":{"name":"f","id":"call_7cLIaKiXDbSt1MkPq6TyyAo-_3"}}"#,
            r#"{"functionCall":{"name":"f","args":null}}"#,
        ]
        .iter()
        .map(|json| call(&mut ids, json).0)
        .collect();
        let stem = "call_7cLIaKiXDbSt1MkPq6TyyAo-";
        let expected = [0, 9, 1, 2, 3, 4].map(|n| if n == 9 { "abc".to_owned() } else { format!("{stem}_{n}") });
        assert_eq!(made, expected);
        assert!(made.iter().all(|id| id.len() <= MAX_ID));
    }

    #[test]
    fn calls_of_an_answer_without_an_id_are_named_by_the_gateways_own() {
        let json = r#"{"functionCall":{"name":"f"}}"#;
        let of = |own: &str| call(&mut CallIds::of("", own), json).0;
        assert_eq!(of("chatcmpl-req_0198a1b2c3d47e5f8a9b0c1d2e3f4a5b"), "call_c3d47e5f8a9b0c1d2e3f4a5b_0");
        assert_eq!(of("chatcmpl-1"), "call_chatcmpl-1_0");
    }

    #[test]
    fn arguments_keep_their_order_and_lose_their_layout() {
        let json = "{\"functionCall\":{\"name\":\"f\",\"args\":{\n \"z\" : \"a \\\" b\\\\\",\n \"a\": [1, 2]\n}}}";
        assert_eq!(call(&mut CallIds::default(), json).1, r#"{"z":"a \" b\\","a":[1,2]}"#);
        for none in ["null", "[]", "7"] {
            let json = format!("{{\"functionCall\":{{\"name\":\"f\",\"args\":{none}}}}}");
            assert_eq!(call(&mut CallIds::default(), &json).1, "{}", "{none}");
        }
    }

    #[test]
    fn reasons_are_told_apart() {
        for (reason, has_calls, expected) in [
            ("STOP", false, Finish::Stop),
            ("STOP", true, Finish::ToolCalls),
            ("UNEXPECTED_TOOL_CALL", true, Finish::ToolCalls),
            ("UNEXPECTED_TOOL_CALL", false, Finish::Other("UNEXPECTED_TOOL_CALL".to_owned())),
            ("MALFORMED_FUNCTION_CALL", false, Finish::Other("MALFORMED_FUNCTION_CALL".to_owned())),
            ("MAX_TOKENS", true, Finish::Length),
            ("MODEL_ARMOR", false, Finish::ContentFilter),
            ("SAFETY", true, Finish::ContentFilter),
        ] {
            assert_eq!(finish(reason, has_calls), expected, "{reason} {has_calls}");
        }
        assert_eq!(finish(&"é".repeat(9000), false), Finish::Other("é".repeat(MAX_REASON)));
    }

    #[test]
    fn an_answer_of_nothing_is_none_unless_that_is_how_it_ends() {
        for (reason, has_calls, has_text, expected) in [
            ("MALFORMED_FUNCTION_CALL", false, false, true),
            ("MALFORMED_FUNCTION_CALL", false, true, true),
            ("MALFORMED_FUNCTION_CALL", true, false, false),
            ("UNEXPECTED_TOOL_CALL", false, true, true),
            ("UNEXPECTED_TOOL_CALL", true, false, false),
            ("OTHER", false, false, true),
            ("OTHER", false, true, false),
            ("FINISH_REASON_UNSPECIFIED", false, false, true),
            ("STOP", false, false, false),
            ("MAX_TOKENS", false, false, false),
            ("SAFETY", false, false, false),
        ] {
            assert_eq!(is_none(reason, has_calls, has_text), expected, "{reason} {has_calls} {has_text}");
        }
    }

    proptest! {
        #[test]
        fn compacting_changes_no_value(keys in prop::collection::vec("\\PC{0,8}", 0..5), pretty: bool) {
            let value: Value = keys.iter().map(|key| (key.clone(), Value::from(format!(" {key}\t\\\"")))).collect();
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            prop_assert_eq!(arguments(&text.unwrap()), value.to_string());
        }
    }
}
