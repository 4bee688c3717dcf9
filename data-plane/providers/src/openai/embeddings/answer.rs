//! Reads what a host of the same API answered, as far as it is metered; vectors are passed over.

use std::borrow::Cow;

use keyforge_shared::usage::Usage;
use serde::Deserialize;

use super::super::fault;
use super::super::response::Answer;
use super::super::usage::plausible;
use crate::credible::brief;
use crate::refusal::NotAnAnswer;

/// What is read of an answer.
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
    let model = wire.model.map(|model| brief(&model).to_owned());
    Ok(Answer { usage, model, tier: None })
}
