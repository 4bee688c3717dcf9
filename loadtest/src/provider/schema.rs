//! A JSON value made to satisfy a JSON schema: the smallest honest answer of a model bound to that schema.
//!
//! Understands `type`, `properties`, `required`, `items`, `prefixItems`, `enum`, `const`, `anyOf`, `oneOf`, `allOf`,
//! `$ref` within the document, bounds of numbers, strings and arrays, and common string formats. Does not understand
//! `pattern`. Recursive schemas end: beyond a fixed depth only what is required and shortest is made.

use std::cell::Cell;

use serde_json::{Map, Number, Value, json};

/// Depth beyond which the last alternative is taken and arrays are as short as they may be.
const DEEP: usize = 8;

/// Depth at which a schema that demands itself is given up.
const TOO_DEEP: usize = 32;

/// The most values that are made; the rest is null. A schema that branches into itself would have no end of them.
const MAX_VALUES: u32 = 10_000;

/// Longest string and longest array that a schema's minimum can demand.
const MAX_SIZE: u64 = 1024;

/// A value that satisfies `schema`.
pub(crate) fn sample(schema: &Value) -> Value {
    Sampler { root: schema, left: Cell::new(MAX_VALUES) }.value(schema, 0)
}

struct Sampler<'a> {
    root: &'a Value,
    left: Cell<u32>,
}

impl Sampler<'_> {
    fn value(&self, schema: &Value, depth: usize) -> Value {
        let left = self.left.get();
        let Some(object) = schema.as_object().filter(|_| depth < TOO_DEEP && left > 0) else { return Value::Null };
        self.left.set(left - 1);
        if let Some(fixed) = object.get("const") {
            return fixed.clone();
        }
        if let Some(first) = object.get("enum").and_then(Value::as_array).and_then(|values| values.first()) {
            return first.clone();
        }
        if let Some(target) = object.get("$ref").and_then(Value::as_str).and_then(|path| self.resolve(path)) {
            return self.value(target, depth + 1);
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(options) = object.get(key).and_then(Value::as_array) {
                let chosen = if depth < DEEP { options.first() } else { options.last() };
                return chosen.map_or(Value::Null, |option| self.value(option, depth + 1));
            }
        }
        if let Some(all) = object.get("allOf").and_then(Value::as_array) {
            return self.merged(object, all, depth);
        }
        match kind(object) {
            "object" => Value::Object(self.object(object, depth)),
            "array" => self.array(object, depth),
            "string" => Value::String(string(object)),
            "integer" => number(object, true),
            "number" => number(object, false),
            "boolean" => Value::Bool(true),
            _ => Value::Null,
        }
    }

    /// Follows `#`, `#/$defs/x` and other pointers into the same document.
    fn resolve(&self, path: &str) -> Option<&Value> {
        self.root.pointer(path.strip_prefix('#')?)
    }

    fn object(&self, schema: &Map<String, Value>, depth: usize) -> Map<String, Value> {
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = schema.get("properties").and_then(Value::as_object);
        let member = |name: &&str| {
            let value = properties.and_then(|all| all.get(*name)).map_or(Value::Null, |own| self.value(own, depth + 1));
            ((*name).to_owned(), value)
        };
        required.iter().map(member).collect()
    }

    fn array(&self, schema: &Map<String, Value>, depth: usize) -> Value {
        let least = schema.get("minItems").and_then(Value::as_u64);
        let most = schema.get("maxItems").and_then(Value::as_u64).unwrap_or(u64::MAX);
        let wanted = least.unwrap_or(u64::from(depth < DEEP)).min(most).min(MAX_SIZE);
        let prefix = schema.get("prefixItems").and_then(Value::as_array);
        let mut items: Vec<Value> = prefix.into_iter().flatten().map(|item| self.value(item, depth + 1)).collect();
        if let Some(each) = schema.get("items") {
            while (items.len() as u64) < wanted {
                items.push(self.value(each, depth + 1));
            }
        }
        Value::Array(items)
    }

    /// Members of all parts together; for parts that are not objects the first part decides.
    fn merged(&self, own: &Map<String, Value>, parts: &[Value], depth: usize) -> Value {
        let mut members = self.object(own, depth);
        for part in parts {
            match self.value(part, depth + 1) {
                Value::Object(more) => members.extend(more),
                other => return other,
            }
        }
        Value::Object(members)
    }
}

/// The type of a schema: the first that is not null of a list, or what its keywords imply.
fn kind(schema: &Map<String, Value>) -> &str {
    match schema.get("type") {
        Some(Value::String(one)) => one,
        Some(Value::Array(several)) => {
            several.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("null")
        }
        _ if schema.contains_key("properties") || schema.contains_key("required") => "object",
        _ if schema.contains_key("items") => "array",
        _ => "string",
    }
}

fn string(schema: &Map<String, Value>) -> String {
    let text = match schema.get("format").and_then(Value::as_str) {
        Some("date-time") => "2025-01-02T03:04:05Z",
        Some("date") => "2025-01-02",
        Some("time") => "03:04:05Z",
        Some("duration") => "PT1H",
        Some("email") => "someone@example.com",
        Some("hostname") => "example.com",
        Some("ipv4") => "192.0.2.1",
        Some("ipv6") => "2001:db8::1",
        Some("uri") => "https://example.com/",
        Some("uuid") => "00000000-0000-4000-8000-000000000000",
        _ => "sample",
    };
    let size = |key| schema.get(key).and_then(Value::as_u64);
    let least = usize::try_from(size("minLength").unwrap_or(0).min(MAX_SIZE)).unwrap_or(0);
    let most = usize::try_from(size("maxLength").unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let mut text: String = text.chars().take(most).collect();
    while text.chars().count() < least {
        text.push('x');
    }
    text
}

/// The least number that the bounds and `multipleOf` allow, 1 when there are none.
fn number(schema: &Map<String, Value>, whole: bool) -> Value {
    let bound = |key| schema.get(key).and_then(Value::as_f64);
    let step = bound("multipleOf").filter(|step| *step > 0.0).unwrap_or(1.0);
    let mut value = match (bound("minimum"), bound("exclusiveMinimum")) {
        (_, Some(low)) => (low / step).floor() * step + step,
        (Some(low), None) => (low / step).ceil() * step,
        (None, None) => step,
    };
    if let Some(high) = bound("maximum").filter(|high| value > *high) {
        value = if whole { (high / step).floor() * step } else { high };
    }
    if let Some(high) = bound("exclusiveMaximum").filter(|high| value >= *high) {
        let low = bound("minimum").or(bound("exclusiveMinimum"));
        value = if whole { high.ceil() - 1.0 } else { low.map_or(high - 1.0, |low| low.midpoint(high)) };
    }
    if whole { json!(value as i64) } else { Number::from_f64(value).map_or(Value::Null, Value::Number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_arrays_enums_and_references_are_followed() {
        let schema = json!({
            "type": "object",
            "required": ["name", "age", "tags", "home", "mood", "maybe"],
            "properties": {
                "name": {"type": "string"},
                "age": {"type": "integer", "minimum": 18},
                "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
                "home": {"$ref": "#/$defs/place"},
                "mood": {"enum": ["calm", "wild"]},
                "maybe": {"anyOf": [{"type": ["null", "number"]}, {"type": "null"}]},
                "skipped": {"type": "string"}
            },
            "$defs": {"place": {"type": "object", "required": ["zip"], "properties": {"zip": {"const": 7}}}}
        });
        let expected = json!({"name": "sample", "age": 18, "tags": [true, true], "home": {"zip": 7}, "mood": "calm",
            "maybe": 1.0});
        assert_eq!(sample(&schema), expected);
    }

    #[test]
    fn a_recursive_schema_ends() {
        let schema = json!({"type": "object", "required": ["next"], "properties":
            {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}});
        assert_eq!(sample(&schema), json!({"next": {"next": {"next": {"next": null}}}}));
        let demanding = json!({"type": "object", "required": ["next"], "properties": {"next": {"$ref": "#"}}});
        assert!(sample(&demanding).is_object());
        let own = json!({"$ref": "#"});
        let branching = json!({"required": ["a", "b", "c"], "properties": {"a": own, "b": own, "c": own}});
        assert!(sample(&branching).to_string().len() < 1_000_000);
    }

    #[test]
    fn bounds_are_kept() {
        let of = |schema: Value| sample(&schema);
        assert_eq!(of(json!({"type": "integer", "exclusiveMinimum": 3, "multipleOf": 5})), json!(5));
        assert_eq!(of(json!({"type": "integer", "maximum": -2})), json!(-2));
        assert_eq!(
            of(json!({"type": "number", "minimum": 0.5, "exclusiveMaximum": 0.75, "multipleOf": 0.25})),
            json!(0.5)
        );
        assert_eq!(of(json!({"type": "string", "maxLength": 3})), json!("sam"));
        assert_eq!(of(json!({"type": "string", "minLength": 8})), json!("samplexx"));
        assert_eq!(
            of(json!({"allOf": [{"required": ["a"], "properties": {"a": {"type": "string"}}}]})),
            json!({"a": "sample"})
        );
    }
}
