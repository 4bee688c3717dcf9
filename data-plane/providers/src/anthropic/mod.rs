//! Anthropic's `/messages`, from and to the hub form.
//!
//! In the order of a request's life: `request` with what its models can do, then the answer, whole or streamed, or else
//! [`fault`]; [`headroom`] reads what is left of the account's limits.
//!
//! What has no counterpart is refused by name where leaving it out would break a promise. Mere wishes are ignored, and that is told: `seed`,
//! `verbosity`, the detail of pictures, how much to think where a model cannot, and how to sample where a model does not let itself be told:
//! most clients send a temperature with every request. A temperature above 1, Anthropic's highest, is the default, 1.
//! A reasoning effort on a model that thinks by budget becomes a budget.

mod exact;
pub mod fault;
pub mod headroom;
mod messages;
mod model;
mod request;
mod response;
mod schemas;
mod stream;
mod thinking;
mod tools;
mod usage;
mod wire;

pub(crate) use model::{has_regions, sees_finely};

use crate::chat::request::{Maker, Request, Signature};
use crate::chat::response::{Finish, Response};
use crate::refusal::{NotAnAnswer, RequestError};
use crate::translate::{Call, Decoder, Memo, Target, Translator};

/// Anthropic's language.
pub struct Anthropic;

impl Translator for Anthropic {
    fn call(&self, request: &Request<'_>, target: &Target<'_>) -> Result<Call, RequestError> {
        request::write(request, target)
    }

    fn answer<'a>(&self, body: &'a [u8], memo: &Memo) -> Result<Response<'a>, NotAnAnswer> {
        response::read(body, memo)
    }

    fn stream(&self, memo: &Memo) -> Box<dyn Decoder> {
        Box::new(stream::MessageDecoder::new(memo))
    }
}

/// Why an answer ended, by its `stop_reason`. A model that calls functions of the client waits for them, whatever it says.
fn finish(stop_reason: &str, calls_tools: bool) -> Finish {
    match stop_reason {
        // `tool_use` without a call: the call was the form of the answer.
        "end_turn" | "stop_sequence" | "tool_use" if calls_tools => Finish::ToolCalls,
        "end_turn" | "stop_sequence" | "tool_use" => Finish::Stop,
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "refusal" => Finish::ContentFilter,
        other => Finish::Other(other.chars().take(40).collect()),
    }
}

fn signature<'a>(value: impl Into<std::borrow::Cow<'a, str>>) -> Signature<'a> {
    Signature { maker: Maker::Anthropic, value: value.into() }
}
