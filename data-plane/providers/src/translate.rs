//! The seam to a provider whose API is not chat completions: a request in hub form out, its answers in hub form back.
//!
//! Each provider is one [`Translator`]; all of them are total on any bytes and remember nothing between requests but their [`Memo`].

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use crate::chat::event::Event;
use crate::chat::ignored::Ignored;
use crate::chat::request::Request;
use crate::chat::response::Response;
use crate::embeddings;
use crate::fault::Fault;
use crate::refusal::{NotAnAnswer, RequestError};
use crate::sse;

/// What a request is sent to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The provider's name of the model.
    pub model: &'a str,
    /// The most output tokens per choice that admission allows; `None`: what the client wrote holds.
    pub limit: Option<u64>,
    /// The most that the model can give, for providers that want a limit with every request.
    pub model_limit: Option<u64>,
}

/// A request as the provider wants it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Below the base URL, with a query if there is one: e.g. `/messages`.
    pub path: Cow<'static, str>,
    /// Headers besides the credential's and those of every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// JSON.
    pub body: Bytes,
    /// What must be known to read the answer.
    pub memo: Memo,
    /// What the provider is not told, although the answer may depend on it.
    pub ignored: Ignored,
}

/// What a translator must remember to read the answer to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memo {
    /// The answer's id where the provider gives none. No other answer has it.
    pub own_id: String,
    /// The function that stands for a form that the provider cannot enforce: its arguments are the answer's text.
    pub json_tool: Option<String>,
    /// What is around the answer that is no part of it.
    pub wrapped: Wrapped,
    /// Whether only the first call of an answer is passed on: the client wants one at a time, and the provider cannot be told.
    pub one_call: bool,
}

/// What is around an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wrapped {
    /// Nothing.
    #[default]
    Not,
    /// An object of which the one member is the answer.
    Value,
    /// The same, the member being the answer's text.
    Text,
}

/// One provider's language.
pub trait Translator: Send + Sync {
    /// Writes a request.
    ///
    /// # Errors
    /// [`RequestError`] naming the field or part that this provider has nothing for, where leaving it out would change the answer.
    fn call(&self, request: &Request<'_>, target: &Target<'_>) -> Result<Call, RequestError>;

    /// Reads a whole answer that came with a status of success.
    ///
    /// # Errors
    /// [`NotAnAnswer`] if there is nothing that the client could use.
    fn answer<'a>(&self, body: &'a [u8], memo: &Memo) -> Result<Response<'a>, NotAnAnswer>;

    /// Begins to read a stream.
    fn stream(&self, memo: &Memo) -> Box<dyn Decoder>;

    /// Writes a request for embeddings. A provider that has none need not say anything.
    ///
    /// # Errors
    /// [`RequestError`] naming the field that this provider has nothing for, or `model` if it has no embeddings.
    fn embeddings(&self, request: &embeddings::Request<'_>, target: &Target<'_>) -> Result<Call, RequestError> {
        let _ = request;
        let message = format!("the provider of `{}` has no embeddings; ask for another model", target.model);
        Err(RequestError { field: Some("model".to_owned()), message })
    }

    /// Reads the embeddings that came with a status of success.
    ///
    /// # Errors
    /// [`NotAnAnswer`] if there is nothing that the client could use.
    fn embedded(&self, body: &[u8], memo: &Memo) -> Result<embeddings::Response, NotAnAnswer> {
        let _ = (body, memo);
        Err(NotAnAnswer::NoEmbeddings)
    }
}

/// Reads one stream.
pub trait Decoder: Send {
    /// Reads the next event and adds what it means to `out`; some mean nothing.
    ///
    /// # Errors
    /// A [`Fault`] if the provider reports one; the stream will not go on.
    fn event(&mut self, event: &sse::Event, out: &mut Vec<Event>) -> Result<(), Box<Fault>>;

    /// The provider closed the stream: adds what that means, for providers that say so in no other way.
    fn end(&mut self, out: &mut Vec<Event>);

    /// Whether the provider has said that the answer is complete, so that nothing more will come.
    fn is_done(&self) -> bool;

    /// Whether the provider has made anything that it may bill, also what no client is shown.
    fn has_made_something(&self) -> bool;

    /// The input that the stream says it took before its end, if that can be relied on.
    fn input_seen(&self) -> Option<keyforge_shared::usage::Usage>;
}
