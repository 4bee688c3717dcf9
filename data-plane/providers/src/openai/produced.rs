//! What a model has produced, in an answer's message or in the pieces of a stream: whether there is anything, and how much.

use crate::json::{Cursor, JsonError, Kind};

/// Output seen so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Produced {
    /// Bytes of text, reasoning and tool calls. No output token is shorter than one byte.
    pub(super) bytes: u64,
    /// Whether there is anything that a client would show or act on; a role alone is nothing.
    pub(super) any: bool,
}

impl Produced {
    /// Reads a message, or a piece of one, that the cursor stands before; it is an object.
    pub(super) fn message(&mut self, cursor: &mut Cursor<'_>) -> Result<(), JsonError> {
        const TEXTS: [&str; 4] = ["content", "reasoning_content", "reasoning", "refusal"];
        let mut members = cursor.enter();
        while let Some(key) = cursor.key(&mut members)? {
            let kind = cursor.peek()?;
            if TEXTS.iter().any(|name| key.is(name)) {
                self.output(cursor)?;
            } else if key.is("tool_calls") && kind == Kind::Array {
                let mut calls = cursor.enter();
                while cursor.element(&mut calls)? {
                    self.any = true;
                    self.call(cursor)?;
                }
            } else if key.is("function_call") || key.is("audio") {
                self.any |= kind != Kind::Null;
                self.strings(cursor)?;
            } else {
                cursor.skip()?;
            }
        }
        Ok(())
    }

    /// A piece of a tool call: its name and arguments are output, its id and type are not.
    fn call(&mut self, cursor: &mut Cursor<'_>) -> Result<(), JsonError> {
        if cursor.peek()? != Kind::Object {
            return cursor.skip();
        }
        let mut members = cursor.enter();
        while let Some(key) = cursor.key(&mut members)? {
            if key.is("function") || key.is("custom") {
                self.strings(cursor)?;
            } else {
                cursor.skip()?;
            }
        }
        Ok(())
    }

    /// Every string that is directly in an object counts as output.
    fn strings(&mut self, cursor: &mut Cursor<'_>) -> Result<(), JsonError> {
        if cursor.peek()? != Kind::Object {
            return cursor.skip();
        }
        let mut members = cursor.enter();
        while cursor.key(&mut members)?.is_some() {
            self.output(cursor)?;
        }
        Ok(())
    }

    /// Output: a string by the length of what it means; a list of parts, as some hosts send, by the length of its JSON.
    pub(super) fn output(&mut self, cursor: &mut Cursor<'_>) -> Result<(), JsonError> {
        let length = match cursor.peek()? {
            Kind::String => cursor.string()?.decoded_len(),
            Kind::Array | Kind::Object => {
                let span = cursor.value()?;
                if span.len() > "[]".len() { span.len() } else { 0 }
            }
            Kind::Number | Kind::Bool(_) | Kind::Null => {
                cursor.skip()?;
                0
            }
        };
        self.any |= length > 0;
        self.bytes = self.bytes.saturating_add(length as u64);
        Ok(())
    }
}
