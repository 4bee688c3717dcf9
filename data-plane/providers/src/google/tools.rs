//! Functions that the model may call, and which of them it must.
//!
//! Models before the third generation refuse functions beside a form of the answer (Google, "Structured outputs", with tools, 2026-10). There a function stands for the form, and the model must
//! call one or the other; the decoder gives its arguments back as text. If the client itself forces a call, the answer is a call and has no
//! other form.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::model::Generation;
use super::wire::{Function, FunctionCallingConfig, ToolConfig, Tools};
use crate::chat::request::{Format, Request, Tool, ToolChoice};
use crate::form;
use crate::refusal::RequestError;
use crate::translate::{Memo, Wrapped};

/// What a request says of functions and the form of the answer.
#[derive(Debug, Default)]
pub(super) struct Plan<'r> {
    pub(super) tools: Option<[Tools<'r>; 1]>,
    pub(super) config: Option<ToolConfig<'r>>,
    /// Whether the form of the answer is asked for by itself.
    pub(super) has_native_form: bool,
    pub(super) memo: Memo,
}

/// Plans both.
///
/// # Errors
/// [`RequestError`] naming a function whose name Google does not take ("FunctionDeclaration", Gemini API reference, 2026-10), or a schema that cannot
/// be had beside functions.
pub(super) fn plan<'r>(request: &'r Request<'r>, generation: Generation) -> Result<Plan<'r>, RequestError> {
    let is_name = |tool: &Tool<'_>| tool.name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if let Some(at) = request.tools.iter().position(|tool| !is_name(tool)) {
        let field = format!("tools[{at}].function.name");
        let message = format!("{field}: this provider takes names that begin with a letter or an underscore");
        return Err(RequestError { field: Some(field), message });
    }
    let memo = Memo { one_call: request.parallel_tool_calls == Some(false), ..Memo::default() };
    let mut plan = Plan {
        tools: declare(&request.tools),
        config: choose(request, generation),
        has_native_form: request.tools.is_empty() || generation.is_third,
        memo,
    };
    let (false, Some(tools)) = (plan.has_native_form, &mut plan.tools) else { return Ok(plan) };
    let (purpose, (schema, wrapped)) = match &request.format {
        Format::Text => return Ok(plan),
        Format::JsonObject => (None, any_object()?),
        Format::JsonSchema { schema: None, description, .. } => (description.as_deref(), any_object()?),
        Format::JsonSchema { schema: Some(schema), description, .. } => (
            description.as_deref(),
            match form::wrap(schema)? {
                Some(around) => (Cow::Owned(around), Wrapped::Value),
                None => (Cow::Borrowed(*schema), Wrapped::Not),
            },
        ),
    };
    let name = form::function_beside(&request.tools);
    let Some(allowed) = allowed_beside(request.tool_choice.as_ref(), &name) else { return Ok(plan) };
    let [Tools { function_declarations }] = tools;
    function_declarations.push(Function {
        name: Cow::Owned(name.clone()),
        description: Some(purpose.unwrap_or(form::PURPOSE)),
        parameters_json_schema: Some(schema),
    });
    plan.config = Some(ToolConfig {
        function_calling_config: FunctionCallingConfig { mode: "ANY", allowed_function_names: allowed },
    });
    (plan.memo.json_tool, plan.memo.wrapped) = (Some(name), wrapped);
    Ok(plan)
}

/// The functions of which one must be called beside the one that stands for the answer; none are all. `None` if the client forces a call.
fn allowed_beside<'r>(choice: Option<&'r ToolChoice<'r>>, answer: &str) -> Option<Vec<Cow<'r, str>>> {
    let answer = || Cow::Owned(answer.to_owned());
    match choice {
        None | Some(ToolChoice::Auto) => Some(Vec::new()),
        Some(ToolChoice::None) => Some(vec![answer()]),
        Some(ToolChoice::Allowed { names, required: false }) => {
            Some(names.iter().map(|name| Cow::Borrowed(name.as_ref())).chain([answer()]).collect())
        }
        Some(ToolChoice::Required | ToolChoice::Named(_) | ToolChoice::Allowed { required: true, .. }) => None,
    }
}

/// An object without a schema is the text of one: a model that must fit its arguments to no schema at all gives none.
fn any_object() -> Result<(Cow<'static, RawValue>, Wrapped), RequestError> {
    let schema = RawValue::from_string(form::ANY_OBJECT.to_owned());
    let schema = schema.map_err(|error| RequestError { field: None, message: error.to_string() })?;
    Ok((Cow::Owned(schema), Wrapped::Text))
}

/// The functions with their schemas as the client wrote them.
fn declare<'r>(tools: &'r [Tool<'r>]) -> Option<[Tools<'r>; 1]> {
    let functions = tools.iter().map(|tool| Function {
        name: Cow::Borrowed(&tool.name),
        description: tool.description.as_deref(),
        parameters_json_schema: tool.parameters.map(Cow::Borrowed),
    });
    (!tools.is_empty()).then(|| [Tools { function_declarations: functions.collect() }])
}

/// Which functions may or must be called; `None`: as the model likes.
///
/// A function marked strict is asked for by `VALIDATED`, which holds calls to their schemas without forcing one; models before
/// 2.5 do not know it. Source: Google, "Function calling", modes (2026-10).
fn choose<'r>(request: &'r Request<'r>, generation: Generation) -> Option<ToolConfig<'r>> {
    if request.tools.is_empty() {
        return None;
    }
    let is_strict = generation.validates && has_strict(request);
    let names = |names: &'r [Cow<'r, str>]| names.iter().map(|name| Cow::Borrowed(name.as_ref())).collect();
    let (mode, allowed_function_names) = match &request.tool_choice {
        None | Some(ToolChoice::Auto) if is_strict => ("VALIDATED", Vec::new()),
        None => return None,
        Some(ToolChoice::Auto) => ("AUTO", Vec::new()),
        Some(ToolChoice::None) => ("NONE", Vec::new()),
        Some(ToolChoice::Required) => ("ANY", Vec::new()),
        Some(ToolChoice::Named(name)) => ("ANY", vec![Cow::Borrowed(name.as_ref())]),
        Some(ToolChoice::Allowed { names: allowed, required: true }) => ("ANY", names(allowed)),
        // The only mode that takes names and forces no call.
        Some(ToolChoice::Allowed { names: allowed, required: false }) => ("VALIDATED", names(allowed)),
    };
    Some(ToolConfig { function_calling_config: FunctionCallingConfig { mode, allowed_function_names } })
}

/// Whether a function is marked strict whose calls the model is not held to its schema: one before 2.5 that may call it or not.
pub(super) fn is_not_held_to_schemas(request: &Request<'_>, generation: Generation) -> bool {
    let may = matches!(request.tool_choice, None | Some(ToolChoice::Auto));
    may && !generation.validates && has_strict(request)
}

fn has_strict(request: &Request<'_>) -> bool {
    request.tools.iter().any(|tool| tool.strict == Some(true))
}
