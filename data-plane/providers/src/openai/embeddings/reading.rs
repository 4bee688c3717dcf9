//! Reads an embeddings body into the hub form.

use super::super::walk::{self, Wrong};
use super::inputs::inputs;
use super::scan::text;
use crate::embeddings::Request;
use crate::json::Cursor;
use crate::refusal::RequestError;

/// Reads a body that [`scan`](super::scan()) has accepted into the hub form.
///
/// # Errors
/// [`RequestError`] naming the field that only a host of OpenAI's API could carry.
pub fn read(body: &[u8]) -> Result<Request<'_>, RequestError> {
    let mut cursor = Cursor::new(text(body)?);
    let mut request = Request::default();
    walk::object(&mut cursor, |name, cursor| {
        match name {
            "model" => walk::ignore(cursor)?,
            "input" => inputs(cursor, &mut |input| request.inputs.push(input))?,
            "dimensions" => request.dimensions = Some(walk::whole(cursor)?),
            "encoding_format" => walk::only(cursor, &["\"float\"", "\"base64\""])?,
            "user" => request.user = Some(walk::text(cursor)?),
            _ => return Err(Wrong::not_carried()),
        }
        Ok(())
    })
    .map_err(Wrong::into_error)?;
    Ok(request)
}
