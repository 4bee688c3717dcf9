//! Google's Gemini API, from and to the hub form.
//!
//! Paths are below a base URL such as `https://generativelanguage.googleapis.com/v1beta`; what the answers look like was learnt from
//! recordings where Google's documents are silent. In reading order:
//!
//! * [`Google`]: the translator
//! * `model`: names, what a path may hold, and which generation thinks in which terms; `thinking`: how much
//! * `wire`, `request`, `contents`, `media`, `tools`: a request
//! * `reply`, `candidate`, `usage`, `logprobs`, `response`, `stream`: its answer
//! * `embeddings`: vectors
//! * `pictures`: what pictures are billed
//! * [`fault`] and `account`: failures, and what they say of the account

mod account;
mod candidate;
mod contents;
mod embeddings;
pub mod fault;
mod logprobs;
mod media;
mod model;
mod pictures;
mod reply;
mod request;
mod response;
mod stream;
mod thinking;
mod tools;
mod usage;
mod wire;

use std::borrow::Cow;

use crate::chat::ignored::Ignored;
use crate::chat::request::Request;
use crate::chat::response::Response;
use crate::refusal::{NotAnAnswer, RequestError};
use crate::translate::{Call, Decoder, Memo, Target, Translator};

pub(crate) use pictures::pictures;

/// Google's language.
pub struct Google;

impl Translator for Google {
    fn call(&self, request: &Request<'_>, target: &Target<'_>) -> Result<Call, RequestError> {
        let method = if request.stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
        let path = model::path(target.model, method)?;
        let (written, memo, ignored) = request::generate(request, target)?;
        let body = wire::bytes(&written)?;
        Ok(Call { path: Cow::Owned(path), headers: Vec::new(), body, memo, ignored })
    }

    fn answer<'a>(&self, body: &'a [u8], memo: &Memo) -> Result<Response<'a>, NotAnAnswer> {
        response::read(body, memo)
    }

    fn stream(&self, memo: &Memo) -> Box<dyn Decoder> {
        Box::new(stream::Stream::new(memo))
    }

    fn embeddings(&self, request: &crate::embeddings::Request<'_>, target: &Target<'_>) -> Result<Call, RequestError> {
        let path = model::path(target.model, "batchEmbedContents")?;
        let body = wire::bytes(&embeddings::batch(request, target)?)?;
        Ok(Call {
            path: Cow::Owned(path),
            headers: Vec::new(),
            body,
            memo: Memo::default(),
            ignored: Ignored::default(),
        })
    }

    fn embedded(&self, body: &[u8], _memo: &Memo) -> Result<crate::embeddings::Response, NotAnAnswer> {
        embeddings::read(body)
    }
}

#[cfg(test)]
mod request_tests;
