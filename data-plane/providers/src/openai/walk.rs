//! Walks over the members and elements of a request's JSON, and what is wrong with them, by the path to where it is.
//!
//! Every walk is one pass over the text and builds nothing but what its caller keeps. A member that is null is the same as none.

use std::borrow::Cow;

use serde_json::Number;
use serde_json::value::RawValue;

use super::echo::echo;
use crate::chat::request::MAX_FUNCTION_BYTES;
use crate::json::{Cursor, JsonError, Kind};
use crate::refusal::RequestError;

/// What is wrong, and where below the value being read.
#[derive(Debug)]
pub(super) enum Wrong {
    /// The text is not JSON.
    Syntax(JsonError),
    /// A value cannot be served.
    Value {
        /// The path down to it, e.g. `content[0].type`; empty for the value itself.
        path: String,
        /// The end of the sentence "`path` …".
        problem: String,
    },
}

impl From<JsonError> for Wrong {
    fn from(error: JsonError) -> Self {
        Self::Syntax(error)
    }
}

impl Wrong {
    /// Something wrong with the value that is being read.
    pub(super) fn here(problem: impl Into<String>) -> Self {
        Self::Value { path: String::new(), problem: problem.into() }
    }

    /// Something that no other provider has.
    pub(super) fn not_carried() -> Self {
        Self::here("cannot be carried to this provider")
    }

    /// The same, seen from the object whose member `name` it is, or from the list, as `[0]`.
    pub(super) fn under(self, name: &str) -> Self {
        match self {
            Self::Syntax(_) => self,
            Self::Value { path, problem } => {
                let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
                Self::Value { path: format!("{}{dot}{path}", echo(name)), problem }
            }
        }
    }

    fn kind(cursor: &mut Cursor<'_>, must: &str) -> Self {
        match cursor.value() {
            Ok(span) => Self::here(format!("{must}, got {}", echo(cursor.slice(span)))),
            Err(error) => Self::Syntax(error),
        }
    }

    /// For the client.
    pub(super) fn into_error(self) -> RequestError {
        match self {
            Self::Syntax(error) => {
                RequestError { field: None, message: format!("the body is not valid JSON: {}", error.problem) }
            }
            Self::Value { path, problem } if path.is_empty() => {
                RequestError { field: None, message: format!("the body {problem}") }
            }
            Self::Value { path, problem } => {
                let message = format!("`{path}` {problem}");
                RequestError { field: Some(path), message }
            }
        }
    }
}

/// How many more things there may be in the lists of a request, all of them together: what is read takes at most some tens of megabytes,
/// however short they are.
#[derive(Debug)]
pub(super) struct Room(usize);

/// Most things in lists.
pub(super) const MOST_LISTED: usize = 100_000;

impl Default for Room {
    fn default() -> Self {
        Self(MOST_LISTED)
    }
}

impl Room {
    /// Takes the place of one more.
    pub(super) fn take(&mut self) -> Result<(), Wrong> {
        let problem = || Wrong::here(format!("is one part or element more than {MOST_LISTED} in the whole request"));
        self.0 = self.0.checked_sub(1).ok_or_else(problem)?;
        Ok(())
    }
}

/// Calls `member` with the name of each member of the object that comes next, the cursor standing before its value.
pub(super) fn object<'a>(
    cursor: &mut Cursor<'a>,
    mut member: impl FnMut(&str, &mut Cursor<'a>) -> Result<(), Wrong>,
) -> Result<(), Wrong> {
    if cursor.peek()? != Kind::Object {
        return Err(Wrong::kind(cursor, "must be an object"));
    }
    let mut members = cursor.enter();
    while let Some(key) = cursor.key(&mut members)? {
        let Some(name) = key.decode() else { return Err(Wrong::here("has a key that is not Unicode text")) };
        if cursor.peek()? == Kind::Null {
            cursor.skip()?;
        } else {
            member(&name, cursor).map_err(|wrong| wrong.under(&name))?;
        }
    }
    Ok(())
}

/// Calls `element` before each element of the list that comes next.
pub(super) fn list<'a>(
    cursor: &mut Cursor<'a>,
    mut element: impl FnMut(&mut Cursor<'a>) -> Result<(), Wrong>,
) -> Result<(), Wrong> {
    if cursor.peek()? != Kind::Array {
        return Err(Wrong::kind(cursor, "must be a list"));
    }
    let mut elements = cursor.enter();
    let mut index = 0_usize;
    while cursor.element(&mut elements)? {
        element(cursor).map_err(|wrong| wrong.under(&format!("[{index}]")))?;
        index += 1;
    }
    Ok(())
}

/// A text, borrowed if nothing in it is escaped.
pub(super) fn text<'a>(cursor: &mut Cursor<'a>) -> Result<Cow<'a, str>, Wrong> {
    if cursor.peek()? != Kind::String {
        return Err(Wrong::kind(cursor, "must be a string"));
    }
    cursor.string()?.decode().ok_or_else(|| Wrong::here("is not Unicode text"))
}

/// A text that is not empty.
pub(super) fn name<'a>(cursor: &mut Cursor<'a>) -> Result<Cow<'a, str>, Wrong> {
    let text = text(cursor)?;
    if text.is_empty() { Err(Wrong::here("must not be empty")) } else { Ok(text) }
}

/// The name of a function.
pub(super) fn function_name<'a>(cursor: &mut Cursor<'a>) -> Result<Cow<'a, str>, Wrong> {
    let name = name(cursor)?;
    if name.len() > MAX_FUNCTION_BYTES {
        return Err(Wrong::here(format!("is longer than {MAX_FUNCTION_BYTES} bytes")));
    }
    Ok(name)
}

/// True or false.
pub(super) fn boolean(cursor: &mut Cursor<'_>) -> Result<bool, Wrong> {
    match cursor.peek()? {
        Kind::Bool(value) => {
            cursor.skip()?;
            Ok(value)
        }
        Kind::Object | Kind::Array | Kind::String | Kind::Number | Kind::Null => {
            Err(Wrong::kind(cursor, "must be true or false"))
        }
    }
}

/// A whole number from 0 on.
pub(super) fn whole(cursor: &mut Cursor<'_>) -> Result<u64, Wrong> {
    let span = cursor.clone().value()?;
    match cursor.slice(span).parse() {
        Ok(number) => {
            cursor.skip()?;
            Ok(number)
        }
        Err(_) => Err(Wrong::kind(cursor, "must be a whole number")),
    }
}

/// Any number, as it is written.
pub(super) fn number(cursor: &mut Cursor<'_>) -> Result<Number, Wrong> {
    let is_number = cursor.peek()? == Kind::Number;
    let span = cursor.clone().value()?;
    match serde_json::from_str(cursor.slice(span)) {
        Ok(number) if is_number => {
            cursor.skip()?;
            Ok(number)
        }
        _ => Err(Wrong::kind(cursor, "must be a number")),
    }
}

/// Any value, as it is written.
pub(super) fn raw<'a>(cursor: &mut Cursor<'a>) -> Result<&'a RawValue, Wrong> {
    let span = cursor.value()?;
    serde_json::from_str(cursor.slice(span)).map_err(|_| Wrong::here("is not JSON that can be passed on"))
}

/// An object, as it is written.
pub(super) fn raw_object<'a>(cursor: &mut Cursor<'a>) -> Result<&'a RawValue, Wrong> {
    if cursor.peek()? == Kind::Object { raw(cursor) } else { Err(Wrong::kind(cursor, "must be an object")) }
}

/// Passes over a value that the answer does not depend on.
pub(super) fn ignore(cursor: &mut Cursor<'_>) -> Result<(), Wrong> {
    Ok(cursor.skip()?)
}

/// Passes over a value that must be what it is without being said.
pub(super) fn only(cursor: &mut Cursor<'_>, allowed: &[&str]) -> Result<(), Wrong> {
    let span = cursor.value()?;
    let written = cursor.slice(span);
    if allowed.contains(&written) { Ok(()) } else { Err(Wrong::not_carried()) }
}
