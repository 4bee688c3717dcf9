//! What a request offers the model and wants of it: tools, which of them may be called, and the form of the answer.

use std::borrow::Cow;

use super::parts::cache_mark;
use super::walk::{self, Room, Wrong};
use crate::chat::request::{Format, Tool, ToolChoice};
use crate::json::{Cursor, Kind};

/// Most tools, which is more than any provider takes.
const MOST_TOOLS: usize = 1024;

/// `tools`: functions; what the provider would run itself, or OpenAI's models alone can call, is refused.
pub(super) fn tools<'a>(cursor: &mut Cursor<'a>) -> Result<Vec<Tool<'a>>, Wrong> {
    let mut tools = Vec::new();
    walk::list(cursor, |cursor| {
        room_for_one_more(&tools)?;
        let (mut tool, mut cache) = (None, None);
        walk::object(cursor, |name, cursor| {
            match name {
                "type" => walk::only(cursor, &["\"function\""])?,
                "function" => tool = Some(function(cursor)?),
                "cache_control" => cache = Some(cache_mark(cursor)?),
                _ => return Err(Wrong::not_carried()),
            }
            Ok(())
        })?;
        let mut tool = tool.ok_or_else(|| Wrong::here("is missing").under("function"))?;
        tool.cache = cache.or(tool.cache);
        tools.push(tool);
        Ok(())
    })?;
    Ok(tools)
}

/// `functions`, the predecessor of `tools`.
pub(super) fn functions<'a>(cursor: &mut Cursor<'a>) -> Result<Vec<Tool<'a>>, Wrong> {
    let mut tools = Vec::new();
    walk::list(cursor, |cursor| {
        room_for_one_more(&tools)?;
        tools.push(function(cursor)?);
        Ok(())
    })?;
    Ok(tools)
}

fn room_for_one_more(tools: &[Tool<'_>]) -> Result<(), Wrong> {
    if tools.len() < MOST_TOOLS { Ok(()) } else { Err(Wrong::here(format!("is one more than {MOST_TOOLS}"))) }
}

fn function<'a>(cursor: &mut Cursor<'a>) -> Result<Tool<'a>, Wrong> {
    let mut tool = Tool { name: Cow::Borrowed(""), description: None, parameters: None, strict: None, cache: None };
    walk::object(cursor, |name, cursor| {
        match name {
            "name" => tool.name = walk::function_name(cursor)?,
            "description" => tool.description = Some(walk::text(cursor)?),
            "parameters" => tool.parameters = Some(walk::raw_object(cursor)?),
            "strict" => tool.strict = Some(walk::boolean(cursor)?),
            "cache_control" => tool.cache = Some(cache_mark(cursor)?),
            _ => return Err(Wrong::not_carried()),
        }
        Ok(())
    })?;
    if tool.name.is_empty() { Err(Wrong::here("is missing").under("name")) } else { Ok(tool) }
}

/// `tool_choice`.
pub(super) fn choice<'a>(cursor: &mut Cursor<'a>, room: &mut Room) -> Result<ToolChoice<'a>, Wrong> {
    if cursor.peek()? == Kind::String {
        return mode(&walk::text(cursor)?);
    }
    let (mut kind, mut named, mut allowed) = (None, None, None);
    walk::object(cursor, |name, cursor| {
        match name {
            "type" => kind = Some(walk::text(cursor)?),
            "function" => named = Some(named_function(cursor)?),
            "allowed_tools" => allowed = Some(allowed_tools(cursor, room)?),
            _ => return Err(Wrong::not_carried()),
        }
        Ok(())
    })?;
    match (kind.as_deref(), named, allowed) {
        (Some("function") | None, Some(name), None) => Ok(ToolChoice::Named(name)),
        (Some("allowed_tools"), None, Some(allowed)) => Ok(allowed),
        (Some("function"), None, _) => Err(Wrong::here("is missing").under("function")),
        (Some("allowed_tools"), _, None) => Err(Wrong::here("is missing").under("allowed_tools")),
        (Some(kind), None, None) => mode(kind).map_err(|_| Wrong::not_carried().under("type")),
        _ => Err(Wrong::here("must name a function or allowed tools")),
    }
}

fn mode<'a>(name: &str) -> Result<ToolChoice<'a>, Wrong> {
    match name {
        "auto" => Ok(ToolChoice::Auto),
        "none" => Ok(ToolChoice::None),
        // Mistral says `any`.
        "required" | "any" => Ok(ToolChoice::Required),
        _ => Err(Wrong::here("must be auto, none, required, or an object that names a function")),
    }
}

fn named_function<'a>(cursor: &mut Cursor<'a>) -> Result<Cow<'a, str>, Wrong> {
    let mut named = None;
    walk::object(cursor, |name, cursor| {
        if name != "name" {
            return Err(Wrong::not_carried());
        }
        named = Some(walk::name(cursor)?);
        Ok(())
    })?;
    named.ok_or_else(|| Wrong::here("is missing").under("name"))
}

fn allowed_tools<'a>(cursor: &mut Cursor<'a>, room: &mut Room) -> Result<ToolChoice<'a>, Wrong> {
    let (mut names, mut required) = (Vec::new(), false);
    walk::object(cursor, |name, cursor| match name {
        "mode" => {
            required = match mode(&walk::text(cursor)?)? {
                ToolChoice::Required => true,
                ToolChoice::Auto => false,
                _ => return Err(Wrong::here("must be auto or required")),
            };
            Ok(())
        }
        "tools" => walk::list(cursor, |cursor| {
            room.take()?;
            let mut named = None;
            walk::object(cursor, |name, cursor| {
                match name {
                    "type" => walk::only(cursor, &["\"function\""])?,
                    "function" => named = Some(named_function(cursor)?),
                    "name" => named = Some(walk::name(cursor)?),
                    _ => return Err(Wrong::not_carried()),
                }
                Ok(())
            })?;
            names.push(named.ok_or_else(|| Wrong::here("is missing").under("function"))?);
            Ok(())
        }),
        _ => Err(Wrong::not_carried()),
    })?;
    if names.is_empty() {
        Err(Wrong::here("must name at least one").under("tools"))
    } else {
        Ok(ToolChoice::Allowed { names, required })
    }
}

/// `function_call`, the predecessor of `tool_choice`.
pub(super) fn function_call<'a>(cursor: &mut Cursor<'a>) -> Result<ToolChoice<'a>, Wrong> {
    if cursor.peek()? == Kind::String {
        return mode(&walk::text(cursor)?);
    }
    named_function(cursor).map(ToolChoice::Named)
}

/// `response_format`.
pub(super) fn format<'a>(cursor: &mut Cursor<'a>) -> Result<Format<'a>, Wrong> {
    let (mut kind, mut schema) = (None, None);
    walk::object(cursor, |name, cursor| {
        match name {
            "type" => kind = Some(walk::text(cursor)?),
            "json_schema" => schema = Some(json_schema(cursor)?),
            _ => return Err(Wrong::not_carried()),
        }
        Ok(())
    })?;
    match (kind.as_deref(), schema) {
        (Some("text"), _) => Ok(Format::Text),
        (Some("json_object"), _) => Ok(Format::JsonObject),
        (Some("json_schema"), Some(schema)) => Ok(schema),
        (Some("json_schema"), None) => Err(Wrong::here("is missing").under("json_schema")),
        (Some(_), _) => Err(Wrong::not_carried().under("type")),
        (None, _) => Err(Wrong::here("is missing").under("type")),
    }
}

fn json_schema<'a>(cursor: &mut Cursor<'a>) -> Result<Format<'a>, Wrong> {
    let (mut called, mut description, mut schema, mut strict) = (Cow::Borrowed("response"), None, None, None);
    walk::object(cursor, |name, cursor| {
        match name {
            "name" => called = walk::name(cursor)?,
            "description" => description = Some(walk::text(cursor)?),
            "schema" => schema = Some(walk::raw_object(cursor)?),
            "strict" => strict = Some(walk::boolean(cursor)?),
            _ => return Err(Wrong::not_carried()),
        }
        Ok(())
    })?;
    Ok(Format::JsonSchema { name: called, description, schema, strict })
}

#[cfg(test)]
#[path = "offer_tests.rs"]
mod tests;
