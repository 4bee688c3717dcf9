//! Tools and the form of the answer. Where a form cannot be had natively, a function stands for it that the model must call.
//!
//! A strict schema goes into `output_config.format` on models that have it. A schema that is not strict may hold what that refuses, and
//! a mere JSON object has no schema: for these the arguments of a function are the answer, which the decoder gives back as text. Beside
//! tools of the client the model must call one or the other; if the client itself forces a call, the answer is a call and has no other form.
//! What is no object gets one around it, which the decoder takes off. A strict tool beyond what the API takes is sent as one that is not: the model is still shown its schema.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::value::RawValue;

use super::model::Model;
use super::schemas::{self, Room};
use super::wire;
use crate::chat::ignored::{Ignored, Wish};
use crate::chat::request::{Format, Request, Tool, ToolChoice};
use crate::form;
use crate::refusal::RequestError;
use crate::translate::Wrapped;

/// What a request says of tools and form.
#[derive(Debug)]
pub(super) struct Plan<'r> {
    pub(super) tools: Vec<wire::Tool<'r>>,
    pub(super) choice: Option<wire::Choice<'r>>,
    /// The schema that the answer is held to natively.
    pub(super) schema: Option<Cow<'r, RawValue>>,
    /// What is around the answer.
    pub(super) wrapped: Wrapped,
    /// The function whose arguments are the answer.
    pub(super) json_tool: Option<String>,
    /// Where something is to fit a schema exactly to which the model cannot be held.
    pub(super) ignored: Ignored,
}

impl Plan<'_> {
    /// Whether a call must come.
    pub(super) fn is_forced(&self) -> bool {
        matches!(self.choice, Some(wire::Choice::Any { .. } | wire::Choice::Tool { .. }))
    }
}

pub(super) fn plan<'r>(request: &'r Request<'r>, model: &Model) -> Result<Plan<'r>, RequestError> {
    let mut room = Room::of(model.has_schemas);
    let (asked, wrapped) = asked_for(&request.format)?;
    let is_strict = matches!(request.format, Format::JsonSchema { strict: Some(true), .. });
    let schema = asked.clone().filter(|schema| is_strict && room.take(schema));
    let allowed: Option<HashSet<&str>> = match &request.tool_choice {
        Some(ToolChoice::Allowed { names, .. }) => Some(names.iter().map(AsRef::as_ref).collect()),
        _ => None,
    };
    let offered = |tool: &Tool<'_>| allowed.as_ref().is_none_or(|names| names.contains(&*tool.name));
    let offered = request.tools.iter().enumerate().filter(|(_, tool)| offered(tool));
    let strict: Vec<bool> = offered.clone().map(|(_, tool)| tool.strict == Some(true)).collect();
    let tools: Result<Vec<_>, _> = offered.map(|(at, tool)| write(at, tool, &mut room)).collect();
    let is_native = schema.is_some();
    let purpose = match &request.format {
        Format::JsonSchema { description, .. } => description.as_deref(),
        Format::Text | Format::JsonObject => None,
    };
    let (schema, is_lost) = schema.map(|schema| form::described(schema, purpose)).unzip();
    let mut plan = Plan { tools: tools?, choice: None, schema, wrapped, json_tool: None, ignored: Ignored::default() };
    let is_loose = plan.tools.iter().zip(strict).any(|(written, is_strict)| is_strict && !written.strict);
    plan.ignored.note(Wish::StrictTool, is_loose);
    plan.ignored.note(Wish::FormDescription, is_lost == Some(true));
    let choice = request.tool_choice.as_ref();
    let form = match &request.format {
        Format::Text => None,
        _ if is_native => None,
        Format::JsonObject => Some((None, None)),
        Format::JsonSchema { .. } => Some((asked, purpose)),
    };
    let is_call_anyway = matches!(
        choice,
        Some(ToolChoice::Required | ToolChoice::Named(_) | ToolChoice::Allowed { required: true, .. })
    );
    match form.filter(|_| !is_call_anyway || plan.tools.is_empty()) {
        Some((schema, purpose)) => plan.stand_in(request, schema, purpose)?,
        None if plan.tools.is_empty() => {}
        None => plan.choice = write_choice(choice, request.parallel_tool_calls == Some(false)),
    }
    if !is_native && plan.json_tool.is_none() {
        plan.wrapped = Wrapped::Not;
    }
    Ok(plan)
}

impl<'r> Plan<'r> {
    /// Adds the function that stands for the form, and forces a call.
    fn stand_in(
        &mut self,
        request: &Request<'_>,
        schema: Option<Cow<'r, RawValue>>,
        purpose: Option<&'r str>,
    ) -> Result<(), RequestError> {
        let name = form::function_beside(&request.tools);
        let is_alone = self.tools.is_empty() || request.tool_choice == Some(ToolChoice::None);
        self.choice = Some(if is_alone {
            wire::Choice::Tool { name: Cow::Owned(name.clone()), disable_parallel_tool_use: true }
        } else {
            wire::Choice::Any { disable_parallel_tool_use: request.parallel_tool_calls == Some(false) }
        });
        self.tools.push(wire::Tool {
            name: Cow::Owned(name.clone()),
            description: Some(purpose.filter(|text| !text.trim().is_empty()).unwrap_or(form::PURPOSE)),
            input_schema: schemas::of_answer(schema)?,
            strict: false,
            cache_control: None,
        });
        let is_strict = matches!(request.format, Format::JsonSchema { strict: Some(true), .. });
        self.ignored.note(Wish::StrictAnswer, is_strict);
        self.json_tool = Some(name);
        Ok(())
    }
}

/// The schema that the answer is to fit, with an object around it where the API takes none but objects.
fn asked_for<'r>(format: &Format<'r>) -> Result<(Option<Cow<'r, RawValue>>, Wrapped), RequestError> {
    let Format::JsonSchema { schema: Some(schema), .. } = format else { return Ok((None, Wrapped::Not)) };
    Ok(match form::wrap(schema)? {
        Some(around) => (Some(Cow::Owned(around)), Wrapped::Value),
        None => (Some(Cow::Borrowed(*schema)), Wrapped::Not),
    })
}

fn write<'r>(at: usize, tool: &'r Tool<'r>, room: &mut Room) -> Result<wire::Tool<'r>, RequestError> {
    let field = || format!("tools[{at}].function.parameters");
    let input_schema = match tool.strict {
        Some(true) => schemas::of_exact_arguments(tool.parameters, field)?,
        Some(false) | None => schemas::of_arguments(tool.parameters, field)?,
    };
    Ok(wire::Tool {
        name: Cow::Borrowed(&tool.name),
        description: tool.description.as_deref().filter(|text| !text.trim().is_empty()),
        strict: tool.strict == Some(true) && room.take_tool(&input_schema),
        input_schema,
        cache_control: tool.cache.map(Into::into),
    })
}

fn write_choice<'r>(choice: Option<&'r ToolChoice<'r>>, disable_parallel_tool_use: bool) -> Option<wire::Choice<'r>> {
    Some(match choice {
        None if !disable_parallel_tool_use => return None,
        None | Some(ToolChoice::Auto | ToolChoice::Allowed { required: false, .. }) => {
            wire::Choice::Auto { disable_parallel_tool_use }
        }
        Some(ToolChoice::None) => wire::Choice::None,
        Some(ToolChoice::Required | ToolChoice::Allowed { required: true, .. }) => {
            wire::Choice::Any { disable_parallel_tool_use }
        }
        Some(ToolChoice::Named(name)) => wire::Choice::Tool { name: Cow::Borrowed(name), disable_parallel_tool_use },
    })
}

#[cfg(test)]
#[path = "tools_tests.rs"]
mod tests;
