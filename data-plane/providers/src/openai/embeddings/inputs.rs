//! The inputs of an embeddings body, in the four forms that they may have.

use super::super::walk::{self, Wrong};
use crate::embeddings::Input;
use crate::json::{Cursor, Kind};

/// Most inputs of one request, as at OpenAI.
pub const MOST_INPUTS: usize = 2048;
/// Gives every input to `each`: a text, a list of texts, a list of tokens, or a list of those.
pub(super) fn inputs<'a>(cursor: &mut Cursor<'a>, each: &mut dyn FnMut(Input<'a>)) -> Result<(), Wrong> {
    if cursor.peek()? == Kind::String {
        each(Input::Text(walk::name(cursor)?));
        return Ok(());
    }
    let (mut count, mut flat) = (0, Vec::new());
    walk::list(cursor, |cursor| {
        let kind = cursor.peek()?;
        if kind == Kind::Number && count == 0 {
            flat.push(token(cursor)?);
            return Ok(());
        }
        count += 1;
        if count > MOST_INPUTS || !flat.is_empty() {
            let problem =
                if flat.is_empty() { format!("is one input more than {MOST_INPUTS}") } else { MIXED.to_owned() };
            return Err(Wrong::here(problem));
        }
        match kind {
            Kind::String => each(Input::Text(walk::name(cursor)?)),
            Kind::Array => each(Input::Tokens(tokens(cursor)?)),
            Kind::Object | Kind::Number | Kind::Bool(_) | Kind::Null => return Err(Wrong::here(MIXED)),
        }
        Ok(())
    })?;
    match (count, flat.is_empty()) {
        (0, true) => Err(Wrong::here("must not be empty")),
        (_, true) => Ok(()),
        (_, false) => {
            each(Input::Tokens(flat));
            Ok(())
        }
    }
}

const MIXED: &str = "must be a string, or a list of strings, of tokens, or of lists of tokens";

fn tokens(cursor: &mut Cursor<'_>) -> Result<Vec<u32>, Wrong> {
    let mut tokens = Vec::new();
    walk::list(cursor, |cursor| {
        tokens.push(token(cursor)?);
        Ok(())
    })?;
    if tokens.is_empty() { Err(Wrong::here("must not be empty")) } else { Ok(tokens) }
}

fn token(cursor: &mut Cursor<'_>) -> Result<u32, Wrong> {
    u32::try_from(walk::whole(cursor)?).map_err(|_| Wrong::here("is no token"))
}
