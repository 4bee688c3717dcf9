//! One pass over an embeddings body: is it JSON throughout, what does it ask for, and where does the model lie. And the body as a host of the same API
//! gets it, with its own name of the model.

use std::ops::Range;

use bytes::Bytes;

use super::super::echo::resembles;
use super::super::scanner::MAX_MODEL_BYTES;
use super::super::walk::{self, Wrong};
use super::inputs::inputs;
use crate::embeddings::Input;
use crate::json::Cursor;
use crate::patch::{Patch, Pieces};
use crate::refusal::RequestError;
use crate::tally;

/// The fields that are read, each of which must be given at most once and under exactly this name.
const FIELDS: [&str; 5] = ["model", "input", "dimensions", "encoding_format", "user"];

/// What an embeddings body asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmbeddingsRequest {
    /// The model's name as the client wrote it, escapes resolved. Never empty.
    pub model: String,
    /// Where the model's value lies, quotes included.
    pub model_span: Range<usize>,
    /// How many vectors are wanted: 1 to 2,048.
    pub inputs: usize,
    /// Bytes of all texts.
    pub text_bytes: u64,
    /// Those of them in texts that are not plain ASCII.
    pub wide_bytes: u64,
    /// Tokens of inputs that are given as tokens.
    pub tokens: u64,
    /// How many numbers a vector shall have.
    pub dimensions: Option<u64>,
    /// How vectors are to be written.
    pub encoding: Encoding,
    /// A field that is not OpenAI's.
    pub extra: Option<String>,
    /// Bytes of all such fields.
    pub extra_bytes: u64,
    /// Length of the body in bytes.
    pub body_len: usize,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Lists of numbers.
    #[default]
    Float,
    /// Base64 of 32-bit floats, least significant byte first: what OpenAI's own libraries ask for.
    Base64,
    /// Something else, which some hosts have.
    Other,
}

/// Reads an embeddings body in one pass.
///
/// # Errors
/// If the body is not UTF-8 or not JSON in any part, is not an object, lacks `model` or `input`, gives a field the wrong type or range,
/// or gives one twice or under a name that differs in case only.
pub fn scan(body: &[u8]) -> Result<EmbeddingsRequest, RequestError> {
    let mut cursor = Cursor::new(text(body)?);
    let mut found = EmbeddingsRequest { body_len: body.len(), ..EmbeddingsRequest::default() };
    let mut seen = 0_u8;
    walk::object(&mut cursor, |name, cursor| {
        let index = FIELDS.iter().position(|field| *field == name);
        if index.is_none() && FIELDS.iter().any(|field| resembles(name, field)) {
            return Err(Wrong::here(format!("must be written `{}`", name.to_ascii_lowercase())));
        }
        if let Some(index) = index {
            if seen & (1 << index) != 0 {
                return Err(Wrong::here("is given twice"));
            }
            seen |= 1 << index;
        }
        field(name, cursor, &mut found)
    })
    .and_then(|()| Ok(cursor.end()?))
    .and_then(|()| match () {
        () if found.model.is_empty() => Err(Wrong::here("is missing").under("model")),
        () if found.inputs == 0 => Err(Wrong::here("is missing").under("input")),
        () => Ok(()),
    })
    .map_err(Wrong::into_error)?;
    Ok(found)
}

pub(super) fn text(body: &[u8]) -> Result<&str, RequestError> {
    std::str::from_utf8(body)
        .map_err(|_| RequestError { field: None, message: "the body is not UTF-8 text".to_owned() })
}

fn field(name: &str, cursor: &mut Cursor<'_>, found: &mut EmbeddingsRequest) -> Result<(), Wrong> {
    match name {
        "model" => {
            cursor.peek()?;
            let start = cursor.at();
            found.model = walk::name(cursor)?.into_owned();
            found.model_span = start..cursor.at();
            if found.model.len() > MAX_MODEL_BYTES {
                return Err(Wrong::here(format!("is longer than {MAX_MODEL_BYTES} bytes")));
            }
        }
        "input" => inputs(cursor, &mut |input| found.count(&input))?,
        "dimensions" => found.dimensions = Some(walk::whole(cursor)?),
        "encoding_format" => {
            found.encoding = match &*walk::text(cursor)? {
                "float" => Encoding::Float,
                "base64" => Encoding::Base64,
                _ => Encoding::Other,
            };
        }
        "user" => walk::ignore(cursor)?,
        other => {
            let span = cursor.value()?;
            let bytes = tally::rendered(cursor.slice(span)).saturating_add(other.len() as u64);
            found.extra_bytes = found.extra_bytes.saturating_add(bytes);
            found.extra.get_or_insert_with(|| other.to_owned());
        }
    }
    Ok(())
}

impl EmbeddingsRequest {
    fn count(&mut self, input: &Input<'_>) {
        self.inputs += 1;
        match input {
            Input::Text(text) => {
                let bytes = text.len() as u64;
                self.text_bytes = self.text_bytes.saturating_add(bytes);
                self.wide_bytes = self.wide_bytes.saturating_add(if text.is_ascii() { 0 } else { bytes });
            }
            Input::Tokens(tokens) => self.tokens = self.tokens.saturating_add(tokens.len() as u64),
        }
    }

    /// The body for a host of the same API: with its own name of the model, and no other byte changed.
    #[must_use]
    pub fn rewrite(&self, body: Bytes, upstream_model: &str) -> Pieces {
        let mut patch = Patch::new();
        if upstream_model != self.model {
            // Serialising a string does not fail.
            patch.replace(self.model_span.clone(), serde_json::to_string(upstream_model).unwrap_or_default());
        }
        patch.apply(body)
    }
}
