//! Which tools an answer calls, and with which arguments: the forced one, or the first (and second, if parallel calls
//! were asked for), with arguments made from the tool's own schema.

use serde::Deserialize;
use serde_json::Value;

use super::request::ChatRequest;
use super::schema;

/// Bytes of one streamed piece of arguments, rounded up to a whole character; each piece is a token.
pub(crate) const PIECE_BYTES: usize = 8;

/// One call of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToolCall {
    /// Unlike that of any other call of this provider.
    pub id: String,
    /// The function.
    pub name: String,
    /// Its arguments, a JSON text in pieces.
    pub arguments: Vec<String>,
}

#[derive(Deserialize)]
struct Tool {
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    #[serde(default)]
    parameters: Option<Value>,
}

enum Choice {
    None,
    Auto,
    Required,
    Function(String),
}

/// The calls that this request is answered with; empty means text. `id` makes the ids of the calls unique.
pub(crate) fn calls(request: &ChatRequest<'_>, id: u64) -> Vec<ToolCall> {
    let tools: Vec<Tool> = request.tools.iter().filter_map(|tool| serde_json::from_str(tool.get()).ok()).collect();
    let parallel = if request.parallel_tool_calls { 2 } else { 1 };
    let chosen: Vec<&Tool> = match choice(request) {
        Choice::None => Vec::new(),
        Choice::Auto if request.ends_with_tool_result => Vec::new(),
        Choice::Auto | Choice::Required => tools.iter().take(parallel).collect(),
        Choice::Function(name) => tools.iter().filter(|tool| tool.function.name == name).take(1).collect(),
    };
    chosen.into_iter().enumerate().map(|(index, tool)| call(&tool.function, id, index)).collect()
}

fn choice(request: &ChatRequest<'_>) -> Choice {
    let sent: Value = request.tool_choice.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    match sent.as_str() {
        Some("none") => Choice::None,
        Some("required") => Choice::Required,
        _ => match sent.pointer("/function/name").and_then(Value::as_str) {
            Some(name) => Choice::Function(name.to_owned()),
            None => Choice::Auto,
        },
    }
}

fn call(function: &Function, id: u64, index: usize) -> ToolCall {
    let arguments = function.parameters.as_ref().map_or_else(|| Value::Object(serde_json::Map::new()), schema::sample);
    ToolCall {
        id: format!("call_{id:016x}{index:02}"),
        name: function.name.clone(),
        arguments: pieces(&arguments.to_string()),
    }
}

/// A text in pieces of at least [`PIECE_BYTES`] bytes (but the last), cut between characters.
pub(crate) fn pieces(text: &str) -> Vec<String> {
    let mut pieces = Vec::with_capacity(text.len() / PIECE_BYTES + 1);
    let mut rest = text;
    while !rest.is_empty() {
        let end = (PIECE_BYTES..rest.len()).find(|end| rest.is_char_boundary(*end)).unwrap_or(rest.len());
        let (piece, more) = rest.split_at(end);
        pieces.push(piece.to_owned());
        rest = more;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_text_and_never_cut_a_character() {
        let text = "naïve 東京 tools and more";
        let cut = pieces(text);
        assert_eq!(cut.concat(), text);
        assert!(cut.len() > 2 && cut.iter().all(|piece| piece.len() < PIECE_BYTES + 4));
    }
}
