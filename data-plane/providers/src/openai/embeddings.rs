//! OpenAI's embeddings: the request as it is scanned, bounded and rewritten, the answer as it is metered, and both to and from the hub form.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use keyforge_shared::usage::Usage;
use serde::{Deserialize, Serialize};

use super::echo::resembles;
use super::fault;
use super::labels;
use super::response::Answer;
use super::scanner::MAX_MODEL_BYTES;
use super::usage::plausible;
use super::walk::{self, Wrong};
use crate::embeddings::{Input, Request, Response};
use crate::exchange::Stamp;
use crate::json::{Cursor, Kind};
use crate::patch::{Patch, Pieces};
use crate::refusal::{NotAnAnswer, RequestError};
use crate::tally;

/// Most inputs of one request, as at OpenAI.
pub const MOST_INPUTS: usize = 2048;
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

fn text(body: &[u8]) -> Result<&str, RequestError> {
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

/// Gives every input to `each`: a text, a list of texts, a list of tokens, or a list of those.
fn inputs<'a>(cursor: &mut Cursor<'a>, each: &mut dyn FnMut(Input<'a>)) -> Result<(), Wrong> {
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

/// Reads a body that [`scan`] has accepted into the hub form.
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

/// What is read of an answer; vectors are passed over.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    data: Option<Vec<serde::de::IgnoredAny>>,
    usage: Option<WireUsage>,
    error: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct WireUsage {
    prompt_tokens: Option<u64>,
    /// All that Voyage says.
    total_tokens: Option<u64>,
}

/// Reads the body of a response with a status of success, which must hold `wanted` vectors.
///
/// # Errors
/// [`NotAnAnswer`] if there is nothing that the client could use.
pub fn read_answer(body: &[u8], wanted: usize) -> Result<Answer, NotAnAnswer> {
    let text = std::str::from_utf8(body).map_err(|_| NotAnAnswer::Malformed)?;
    let wire: Wire<'_> = serde_json::from_str(text).map_err(|_| NotAnAnswer::Malformed)?;
    match wire.data {
        Some(data) if data.len() == wanted => {}
        None if wire.error.is_some() => return Err(NotAnAnswer::Refused(Box::new(fault::in_answer(text)))),
        _ => return Err(NotAnAnswer::NoEmbeddings),
    }
    let input = wire.usage.and_then(|usage| usage.prompt_tokens.max(usage.total_tokens));
    let usage = input.filter(|input| plausible(*input)).map(|input| Usage { input, ..Usage::default() });
    let model = wire.model.map(|model| model[..model.floor_char_boundary(128)].to_owned());
    Ok(Answer { usage, model, tier: None })
}

/// Writes an answer.
#[must_use]
pub fn write(answer: &Response, encoding: Encoding, stamp: &Stamp) -> Bytes {
    let vectors = answer.vectors.iter().enumerate();
    let data = vectors.map(|(index, vector)| Embedding {
        object: "embedding",
        index,
        embedding: Vector::of(vector, encoding),
    });
    let counted = answer.usage.map(|usage| usage.input_total());
    let written = Written {
        object: "list",
        data: data.collect(),
        model: labels::model(&answer.model, stamp),
        usage: WrittenUsage::of(counted, stamp),
    };
    // Serialising strings and numbers does not fail.
    Bytes::from(serde_json::to_vec(&written).unwrap_or_default())
}

#[derive(Serialize)]
struct Written<'a> {
    object: &'static str,
    data: Vec<Embedding<'a>>,
    model: &'a str,
    usage: WrittenUsage,
}

#[derive(Serialize)]
struct WrittenUsage {
    prompt_tokens: u64,
    total_tokens: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    estimated: bool,
}

impl WrittenUsage {
    /// Clients want the member. Where the provider does not count, it holds what is charged, and says that nobody counted it.
    fn of(counted: Option<u64>, stamp: &Stamp) -> Self {
        let tokens = counted.or(stamp.most_input).unwrap_or(0);
        Self { prompt_tokens: tokens, total_tokens: tokens, estimated: counted.is_none() }
    }
}

#[derive(Serialize)]
struct Embedding<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector<'a> {
    Numbers(&'a [f32]),
    Base64(String),
}

impl<'a> Vector<'a> {
    fn of(numbers: &'a [f32], encoding: Encoding) -> Self {
        match encoding {
            Encoding::Float | Encoding::Other => Self::Numbers(numbers),
            Encoding::Base64 => {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                Self::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

#[cfg(test)]
#[path = "embeddings_tests.rs"]
mod tests;
