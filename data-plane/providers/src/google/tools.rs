//! Functions that the model may call, and which of them it must.

use super::model::Generation;
use super::wire::{Function, FunctionCallingConfig, ToolConfig, Tools};
use crate::chat::request::{Request, Tool, ToolChoice};

/// The functions with their schemas as the client wrote them.
pub(super) fn declare<'r>(tools: &'r [Tool<'r>]) -> Option<[Tools<'r>; 1]> {
    let functions = tools.iter().map(|tool| Function {
        name: &tool.name,
        description: tool.description.as_deref(),
        parameters_json_schema: tool.parameters,
    });
    (!tools.is_empty()).then(|| [Tools { function_declarations: functions.collect() }])
}

/// Which functions may or must be called; `None`: as the model likes.
///
/// A function marked strict is asked for by `VALIDATED`, which holds calls to their schemas without forcing one; models before
/// 2.5 do not know it. Source: Google, "Function calling", modes (2026-10).
pub(super) fn choose<'r>(request: &'r Request<'r>, generation: Generation) -> Option<ToolConfig<'r>> {
    if request.tools.is_empty() {
        return None;
    }
    let is_strict = generation.validates && has_strict(request);
    let names = |names: &'r [_]| names.iter().map(std::convert::AsRef::<str>::as_ref).collect();
    let (mode, allowed_function_names) = match &request.tool_choice {
        None | Some(ToolChoice::Auto) if is_strict => ("VALIDATED", Vec::new()),
        None => return None,
        Some(ToolChoice::Auto) => ("AUTO", Vec::new()),
        Some(ToolChoice::None) => ("NONE", Vec::new()),
        Some(ToolChoice::Required) => ("ANY", Vec::new()),
        Some(ToolChoice::Named(name)) => ("ANY", vec![name.as_ref()]),
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
