//! Which JSON schemas the API can hold a model to. One that it cannot is shown to the model instead, which is better than a refusal of the request.
//!
//! Only what stands in the place of a schema is judged: a property that is called as a keyword is none, and neither is what an `enum` or a
//! `description` holds.

use std::collections::HashMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Longest schema that is looked into, in bytes: read, it takes many times as much memory. A longer one is not held to exactly.
pub(super) const MAX_EXACT_BYTES: usize = 1 << 18;

/// Keywords that the API refuses, or is not known to take.
///
/// Source: "Structured outputs", JSON Schema limitations (Anthropic, 2026).
const REFUSED: [&str; 26] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "patternProperties",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedProperties",
    "unevaluatedItems",
    "prefixItems",
    "contains",
    "oneOf",
    "if",
    "then",
    "else",
    "not",
    "$dynamicRef",
    "$recursiveRef",
];
/// Formats of texts that the API knows (the same source).
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"];
/// What the API's patterns lack (the same source): looking ahead and behind and other groups with a meaning of their own, edges of words, what was
/// matched before, classes by property.
const NO_PATTERNS: [&str; 7] = ["(?", "\\b", "\\B", "\\k", "\\p", "\\P", "\\x"];

/// How many members have several types; `None` if the schema holds what the API refuses, or too much.
pub(super) fn unions(schema: &RawValue) -> Option<usize> {
    if schema.get().len() > MAX_EXACT_BYTES {
        return None;
    }
    let schema: Value = serde_json::from_str(schema.get()).ok()?;
    let root = Found::below(&schema)?;
    ends(&schema, &root.references).then_some(root.unions)
}

/// What a schema and those within it hold.
#[derive(Default)]
struct Found<'v> {
    /// Members of several types.
    unions: usize,
    /// Where references lead.
    references: Vec<&'v str>,
}

impl<'v> Found<'v> {
    /// `None` if the API refuses one of them.
    fn below(schema: &'v Value) -> Option<Self> {
        let (mut open, mut found) = (vec![schema], Self::default());
        while let Some(schema) = open.pop() {
            let members = schema.as_object()?;
            if is_object(members) && members.get("additionalProperties") != Some(&Value::Bool(false)) {
                return None;
            }
            for (name, value) in members {
                found.keyword(name, value, &mut open)?;
            }
        }
        Some(found)
    }

    fn keyword(&mut self, name: &str, value: &'v Value, open: &mut Vec<&'v Value>) -> Option<()> {
        match name {
            _ if REFUSED.contains(&name) => return None,
            "properties" | "$defs" | "definitions" => open.extend(value.as_object()?.values()),
            "anyOf" => {
                self.unions += 1;
                open.extend(value.as_array()?);
            }
            "allOf" => {
                let parts = value.as_array()?;
                // It does not take the two together.
                if parts.iter().any(|part| part.get("$ref").is_some()) {
                    return None;
                }
                open.extend(parts);
            }
            "items" => open.push(value),
            "type" => self.unions += usize::from(value.is_array()),
            "$ref" => self.references.push(value.as_str()?.strip_prefix('#')?),
            "additionalProperties" if *value != Value::Bool(false) => return None,
            "minItems" if value.as_u64().is_none_or(|least| least > 1) => return None,
            "enum" if value.as_array()?.iter().any(|one| one.is_object() || one.is_array()) => return None,
            "format" if !FORMATS.contains(&value.as_str()?) => return None,
            "pattern" if !is_plain(value.as_str()?) => return None,
            _ => {}
        }
        Some(())
    }
}

fn is_object(members: &Map<String, Value>) -> bool {
    match members.get("type") {
        Some(Value::String(kind)) => kind == "object",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        _ => members.contains_key("properties"),
    }
}

fn is_plain(pattern: &str) -> bool {
    let is_matched_before = |pair: &[u8]| pair[0] == b'\\' && matches!(pair[1], b'1'..=b'9');
    !NO_PATTERNS.iter().any(|part| pattern.contains(part)) && !pattern.as_bytes().windows(2).any(is_matched_before)
}

/// Whether following `references` within `root` comes to an end: the API takes no schema that holds itself, by whatever way around.
fn ends<'v>(root: &'v Value, references: &[&'v str]) -> bool {
    let mut within: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut open = references.to_vec();
    while let Some(reference) = open.pop() {
        if within.contains_key(reference) {
            continue;
        }
        let Some(found) = root.pointer(reference).and_then(Found::below) else { return false };
        open.extend(&found.references);
        within.insert(reference, found.references);
    }
    // Whatever nothing refers to is taken away, again and again; what is left refers to itself.
    let mut count: HashMap<&str, usize> = within.keys().map(|name| (*name, 0)).collect();
    for target in within.values().flatten() {
        *count.entry(target).or_default() += 1;
    }
    let mut free: Vec<&str> = count.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
    let mut taken = 0;
    while let Some(name) = free.pop() {
        taken += 1;
        for target in within.get(name).into_iter().flatten() {
            let Some(count) = count.get_mut(target) else { continue };
            *count -= 1;
            if *count == 0 {
                free.push(target);
            }
        }
    }
    taken == within.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    fn counted(schema: &str) -> Option<usize> {
        unions(&raw(schema))
    }

    /// An object with a member of this schema.
    fn with(member: &str) -> String {
        format!(r#"{{"type":"object","properties":{{"a":{member}}},"additionalProperties":false}}"#)
    }

    #[test]
    fn what_the_api_refuses_in_exact_schemas_is_known() {
        for (member, expected) in [
            (r#"{"type":"string"}"#, Some(0)),
            (r#"{"type":["string","null"]}"#, Some(1)),
            (r#"{"anyOf":[{"type":["string","integer"]},{"type":"null"}]}"#, Some(2)),
            (r#"{"type":"array","items":{"type":"string"},"minItems":1}"#, Some(0)),
            (r#"{"type":"array","minItems":2}"#, None),
            (r#"{"type":"integer","minimum":0}"#, None),
            (r#"{"oneOf":[{"type":"string"}]}"#, None),
            (r#"{"type":"object","properties":{}}"#, None),
            (r#"{"properties":{}}"#, None),
            (r#"{"type":["object","null"]}"#, None),
            (r#"{"type":"object","additionalProperties":true}"#, None),
            (r#"{"type":"object","additionalProperties":{"type":"string"}}"#, None),
            (r#"{"type":"string","format":"email"}"#, Some(0)),
            (r#"{"type":"string","format":"binary"}"#, None),
            (r#"{"type":"string","pattern":"^[a-z]{2,3}(\\d+|x)$"}"#, Some(0)),
            (r#"{"type":"string","pattern":"^(?=a)b$"}"#, None),
            (r#"{"type":"string","pattern":"^(a)\\1$"}"#, None),
            (r#"{"enum":["a",1,null]}"#, Some(0)),
            (r#"{"enum":[{"a":1}]}"#, None),
            (r#"{"allOf":[{"type":"string"}]}"#, Some(0)),
            (r##"{"allOf":[{"$ref":"#/properties/a"}]}"##, None),
            ("true", None),
        ] {
            assert_eq!(counted(&with(member)), expected, "{member}");
        }
        assert_eq!(counted("[]"), None);
        let long = format!(r#"{{"enum":[{}1]}}"#, "1,".repeat(MAX_EXACT_BYTES / 2));
        assert_eq!(counted(&long), None);
    }

    #[test]
    fn what_is_only_called_as_a_keyword_is_none() {
        let named = r#"{"type":"object","additionalProperties":false,"required":["minimum","format","$ref"],"properties":{
            "minimum":{"type":"integer"},"format":{"type":"string"},"$ref":{"type":"string"},"oneOf":{"const":{"minimum":1}}}}"#;
        assert_eq!(counted(named), Some(0));
    }

    #[test]
    fn a_schema_that_holds_itself_in_any_way_is_not_exact() {
        let node = |next: &str| {
            format!(r##"{{"type":"object","properties":{{"next":{next}}},"additionalProperties":false}}"##)
        };
        let rooted = |definitions: &str| {
            format!(
                r##"{{"type":"object","properties":{{"first":{{"$ref":"#/$defs/a"}}}},"additionalProperties":false,"$defs":{{{definitions}}}}}"##
            )
        };
        let leaf = r#""b":{"type":"string"}"#;
        for definitions in [
            format!(r#""a":{}"#, node(r##"{"anyOf":[{"$ref":"#/$defs/a"},{"type":"null"}]}"##)),
            format!(r#""a":{},"b":{}"#, node(r##"{"$ref":"#/$defs/b"}"##), node(r##"{"$ref":"#/$defs/a"}"##)),
            format!(r#""a":{}"#, node(r##"{"$ref":"#"}"##)),
            format!(r#""a":{}"#, node(r##"{"$ref":"#/properties/first"}"##)),
            format!(r#""a":{}"#, node(r##"{"$ref":"#/$defs/missing"}"##)),
            format!(r#""a":{}"#, node(r##"{"$ref":"https://example.com/a"}"##)),
            format!(r##""a":{{"type":"string"}},"unused":{}"##, node(r##"{"$ref":"#/$defs/unused"}"##)),
        ] {
            assert_eq!(counted(&rooted(&definitions)), None, "{definitions}");
        }
        let twice =
            format!(r#""a":{},"c":{},{leaf}"#, node(r##"{"$ref":"#/$defs/b"}"##), node(r##"{"$ref":"#/$defs/b"}"##));
        assert_eq!(counted(&rooted(&twice)), Some(0), "the same twice is no circle");
    }
}
