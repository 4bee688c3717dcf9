//! An answer as Google's API writes it, whole or a chunk of a stream. What is not read is skipped over.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::credible::brief;

/// Reads an object. What is derived for structs would take a list of their members as well.
pub(super) fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    let is_object = text.trim_ascii_start().starts_with('{');
    if is_object { serde_json::from_str(text).ok() } else { None }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reply<'a> {
    #[serde(default, borrow)]
    pub(super) candidates: Option<Vec<Candidate<'a>>>,
    #[serde(default, borrow)]
    pub(super) prompt_feedback: Option<Feedback<'a>>,
    #[serde(default, borrow)]
    pub(super) usage_metadata: Option<&'a RawValue>,
    pub(super) model_version: Option<String>,
    pub(super) response_id: Option<String>,
}

/// A name as far as it is kept; empty for none.
fn name(given: Option<String>) -> String {
    given.map(|name| brief(&name).to_owned()).unwrap_or_default()
}

impl Reply<'_> {
    /// The answer's id and the model's dated name, empty if Google does not say.
    pub(super) fn names(&mut self) -> (String, String) {
        (name(self.response_id.take()), name(self.model_version.take()))
    }

    /// Whether the provider would not even read the prompt.
    pub(super) fn is_blocked(&self) -> bool {
        self.prompt_feedback.as_ref().is_some_and(|feedback| feedback.block_reason.is_some())
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Feedback<'a> {
    /// Any word, or a number at hosts that were asked for such.
    #[serde(default, borrow)]
    pub(super) block_reason: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Candidate<'a> {
    /// Often absent, which means 0.
    pub(super) index: Option<u32>,
    #[serde(default, borrow)]
    pub(super) content: Option<Content<'a>>,
    pub(super) finish_reason: Option<Reason>,
    #[serde(default, borrow)]
    pub(super) logprobs_result: Option<&'a RawValue>,
}

impl<'a> Candidate<'a> {
    pub(super) fn parts(&self) -> &[&'a RawValue] {
        self.content.as_ref().and_then(|content| content.parts.as_deref()).unwrap_or_default()
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Content<'a> {
    #[serde(default, borrow)]
    pub(super) parts: Option<Vec<&'a RawValue>>,
}

/// Why a candidate ended: a word, or its number at hosts that were asked for such.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Reason {
    Word(String),
    Number(u64),
}

impl Reason {
    pub(super) fn into_word(self) -> String {
        match self {
            Self::Word(word) => word,
            Self::Number(1) => "STOP".to_owned(),
            Self::Number(2) => "MAX_TOKENS".to_owned(),
            Self::Number(3) => "SAFETY".to_owned(),
            Self::Number(4) => "RECITATION".to_owned(),
            Self::Number(5) => "OTHER".to_owned(),
            Self::Number(other) => other.to_string(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part<'a> {
    pub(super) text: Option<String>,
    #[serde(default)]
    pub(super) thought: Option<bool>,
    pub(super) thought_signature: Option<String>,
    #[serde(default, borrow)]
    pub(super) function_call: Option<FunctionCall<'a>>,
    pub(super) inline_data: Option<Blob>,
}

#[derive(Debug, Deserialize)]
pub(super) struct FunctionCall<'a> {
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    #[serde(default, borrow)]
    pub(super) args: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Blob {
    pub(super) mime_type: Option<String>,
    pub(super) data: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogprobsResult {
    #[serde(default)]
    pub(super) chosen_candidates: Vec<Token>,
    #[serde(default)]
    pub(super) top_candidates: Vec<Alternatives>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Alternatives {
    #[serde(default)]
    pub(super) candidates: Vec<Token>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Token {
    #[serde(default)]
    pub(super) token: String,
    #[serde(default)]
    pub(super) log_probability: f64,
}
