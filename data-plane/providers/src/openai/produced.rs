//! What a model has produced, in an answer's message or in the pieces of a stream: whether there is anything.

use crate::json::{Cursor, JsonError, Kind};

/// Output seen so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Produced {
    /// Whether there is anything that a client would show or act on; a role alone is nothing.
    pub(super) any: bool,
    /// Whether there is anything else beside a role, such as thoughts that only the provider can read.
    pub(super) other: bool,
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
                let holds = matches!(kind, Kind::Object | Kind::Array | Kind::String) && !key.is("role");
                let span = cursor.value()?;
                self.other |= holds && span.len() > "[]".len();
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

    /// Output: a string, or a list of parts, as some hosts send.
    pub(super) fn output(&mut self, cursor: &mut Cursor<'_>) -> Result<(), JsonError> {
        let may_hold = matches!(cursor.peek()?, Kind::String | Kind::Array | Kind::Object);
        let span = cursor.value()?;
        self.any |= may_hold && span.len() > "[]".len();
        Ok(())
    }
}
