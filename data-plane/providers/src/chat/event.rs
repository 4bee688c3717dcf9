//! An answer as it comes, in hub form.

use keyforge_shared::usage::{ServiceTier, Usage};
use serde_json::value::RawValue;

use super::request::Signature;
use super::response::Finish;

/// What a stream says next.
#[derive(Clone, Debug)]
pub enum Event {
    /// The first.
    Start {
        /// The provider's id of the answer; empty if it gives none.
        id: String,
        /// The model that answers, by its dated name; empty if the provider does not say.
        model: String,
    },
    /// More of one choice.
    Delta {
        /// Which choice, from 0.
        choice: u32,
        /// What comes.
        delta: Delta,
    },
    /// One choice is at its end; comes once for each.
    Finish {
        /// Which choice.
        choice: u32,
        /// Why.
        finish: Finish,
    },
    /// The last count of what the answer took, after all choices' ends.
    Usage {
        /// The counts.
        usage: Usage,
        /// The class of service that is billed, if the provider says so.
        tier: Option<ServiceTier>,
        /// Whether it was served within one region, for which the provider may ask more.
        in_region: bool,
    },
}

/// More of one choice.
#[derive(Clone, Debug)]
pub enum Delta {
    /// Text.
    Text(String),
    /// Words for not answering.
    Refusal(String),
    /// Thought.
    Thinking(String),
    /// The signature of the text or thought that came just before.
    Signature(Signature<'static>),
    /// Thought that only its maker can read; the signature's value is the data.
    RedactedThinking(Signature<'static>),
    /// A call begins.
    ToolCall {
        /// Which call of the choice, from 0, without gaps.
        index: u32,
        /// Its id, made by the decoder if the provider gives none.
        id: String,
        /// The function.
        name: String,
        /// What its maker wants back with the call.
        signature: Option<Signature<'static>>,
    },
    /// More of a call's arguments. A call gets at least `{}` before the choice's end.
    Arguments {
        /// Which call.
        index: u32,
        /// A piece of JSON text.
        fragment: String,
    },
    /// Log probabilities in chat completions' own form, `{"content":[…]}`.
    Logprobs(Box<RawValue>),
}
