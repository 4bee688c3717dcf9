//! A whole answer in hub form.

use keyforge_shared::usage::{ServiceTier, Usage};
use serde_json::value::RawValue;

use super::request::Part;

/// What a provider answered.
#[derive(Debug)]
pub struct Response<'a> {
    /// The provider's id of the answer; empty if it gives none.
    pub id: String,
    /// The model that answered, by its dated name; empty if the provider does not say.
    pub model: String,
    /// The answers, by rising index.
    pub choices: Vec<Choice<'a>>,
    /// What it took; `None` if the provider does not say, or not in a way that can be trusted.
    pub usage: Option<Usage>,
    /// The class of service that was billed, if the provider says so.
    pub tier: Option<ServiceTier>,
    /// Whether it was served within one region, for which the provider may ask more.
    pub in_region: bool,
}

/// One answer.
#[derive(Debug)]
pub struct Choice<'a> {
    /// Which, from 0.
    pub index: u32,
    /// What the model said, in order: texts, thoughts, calls.
    pub parts: Vec<Part<'a>>,
    /// Why it ended.
    pub finish: Finish,
    /// Log probabilities in chat completions' own form, `{"content":[…]}`.
    pub logprobs: Option<Box<RawValue>>,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model was done, or met a stop text.
    Stop,
    /// The output limit.
    Length,
    /// It waits for results of tools.
    ToolCalls,
    /// The provider withheld the answer, or the rest of it.
    ContentFilter,
    /// For another reason, by the provider's word.
    Other(String),
}
