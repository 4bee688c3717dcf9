//! One request to one provider and its answer back to the client, whatever either of them speaks: the face of this crate.
//!
//! A provider that speaks the client's dialect gets the client's bytes with a few fields set, and its answer passes as it came. For
//! any other the request is read into the [hub form](crate::chat), translated, and its answer translated back.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::provider::Api;
use keyforge_shared::usage::{ServiceTier, Usage};

use crate::anthropic::Anthropic;
use crate::chat::ignored::Ignored;
use crate::chat::response::Response;
use crate::fault::Fault;
use crate::google::Google;
use crate::openai::chunk::ChunkWriter;
use crate::openai::embeddings::{EmbeddingsRequest, Encoding};
use crate::openai::request::ChatRequest;
use crate::openai::response::{self};
use crate::openai::rewrite::{MaxTokensField, Rewrite, rewrite};
use crate::openai::stream::StreamMeter;
use crate::openai::{completion, conversation};
use crate::patch::Pieces;
use crate::refusal::{NotAnAnswer, RequestError};
use crate::sse::Event;
use crate::translate::{Call, Memo, Target, Translator};
use crate::translated::Translated;
use crate::verdict::Verdict;
use crate::{anthropic, google, openai};

/// What a request is sent to.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// What it speaks.
    pub api: Api,
    /// Which model, and its limits.
    pub target: Target<'a>,
    /// The field by which a host of OpenAI's API obeys a limit.
    pub limit_field: MaxTokensField,
    /// Whether a host of OpenAI's API takes the wish for usage at the end of a stream.
    pub usage_option: bool,
}

/// A request as it is sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Below the base URL.
    pub path: Cow<'static, str>,
    /// Headers besides the credential's and those of every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Pieces,
}

/// How the answer to one request is read, and written for its client.
#[derive(Clone, Debug)]
pub struct Exchange {
    api: Api,
    asked: Asked,
    memo: Memo,
    ignored: Ignored,
    stamp: Stamp,
}

/// What the client asked for, as far as the answer depends on it.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Chat { usage: bool },
    Embeddings { inputs: usize, encoding: Encoding },
}

/// What a translated answer says of itself that no provider tells.
#[derive(Clone, Debug, Default)]
pub struct Stamp {
    /// The answer's id where the provider gives none.
    pub id: String,
    /// When it was made, in seconds of Unix time.
    pub created: u64,
    /// The model that the client asked for.
    pub model: String,
    /// The most input tokens that it can have taken, which is what is charged where the provider does not count.
    pub most_input: Option<u64>,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// For the client, in its dialect.
    pub body: Bytes,
    /// What it took; `None` if the provider does not say, or not in a way that can be trusted.
    pub usage: Option<Usage>,
    /// The model that answered, by its dated name.
    pub model: Option<String>,
    /// The class of service that was billed, if the provider says so.
    pub tier: Option<ServiceTier>,
    /// Whether it was served within one region, for which the provider may ask more.
    pub in_region: bool,
}

impl Answer {
    /// An answer that the client gets as it came.
    fn same(read: response::Answer, body: Bytes) -> Self {
        Self { body, usage: read.usage, model: read.model, tier: read.tier, in_region: false }
    }
}

fn named(model: String) -> Option<String> {
    Some(model).filter(|model| !model.is_empty())
}

/// Prepares a chat completion.
///
/// # Errors
/// [`RequestError`] naming what the provider has nothing for.
pub fn chat(
    request: &ChatRequest,
    body: Bytes,
    destination: &Destination<'_>,
    stamp: Stamp,
) -> Result<(Outgoing, Exchange), RequestError> {
    let exchange = Exchange::new(destination.api, Asked::Chat { usage: request.asks_for_usage() }, stamp);
    let Some(translator) = exchange.translator() else {
        let to = Rewrite {
            upstream_model: destination.target.model,
            max_output_tokens: destination.target.limit,
            max_tokens_field: destination.limit_field,
            usage_option: destination.usage_option,
        };
        return Ok((Outgoing::same("/chat/completions", rewrite(request, body, to)), exchange));
    };
    let call = translator.call(&conversation::read(&body)?, &destination.target)?;
    Ok(exchange.translated(call))
}

/// Prepares a request for embeddings.
///
/// # Errors
/// [`RequestError`] naming what the provider has nothing for, or the model if it has no embeddings.
pub fn embeddings(
    request: &EmbeddingsRequest,
    body: Bytes,
    destination: &Destination<'_>,
    stamp: Stamp,
) -> Result<(Outgoing, Exchange), RequestError> {
    let asked = Asked::Embeddings { inputs: request.inputs, encoding: request.encoding };
    let exchange = Exchange::new(destination.api, asked, stamp);
    let Some(translator) = exchange.translator() else {
        let body = request.rewrite(body, destination.target.model);
        return Ok((Outgoing::same("/embeddings", body), exchange));
    };
    let call = translator.embeddings(&openai::embeddings::read(&body)?, &destination.target)?;
    Ok(exchange.translated(call))
}

impl Outgoing {
    fn same(path: &'static str, body: Pieces) -> Self {
        Self { path: Cow::Borrowed(path), headers: Vec::new(), body }
    }
}

impl Exchange {
    fn new(api: Api, asked: Asked, stamp: Stamp) -> Self {
        Self { api, asked, memo: Memo::default(), ignored: Ignored::default(), stamp }
    }

    fn translated(self, call: Call) -> (Outgoing, Self) {
        let outgoing = Outgoing { path: call.path, headers: call.headers, body: Pieces::from(call.body) };
        let memo = Memo { own_id: self.stamp.id.clone(), ..call.memo };
        (outgoing, Self { memo, ignored: call.ignored, ..self })
    }

    fn translator(&self) -> Option<&'static dyn Translator> {
        match self.api {
            Api::OpenAi => None,
            Api::Anthropic => Some(&Anthropic),
            Api::Google => Some(&Google),
        }
    }

    /// What the provider is not told of the request, although the answer may depend on it.
    #[must_use]
    pub const fn ignored(&self) -> Ignored {
        self.ignored
    }

    /// Reads a whole answer that came with a status of success, to a chat completion or to embeddings.
    ///
    /// # Errors
    /// [`NotAnAnswer`] if there is nothing that the client could use.
    pub fn answer(&self, body: Bytes) -> Result<Answer, NotAnAnswer> {
        match (self.translator(), self.asked) {
            (None, Asked::Chat { .. }) => Ok(Answer::same(response::read(&body)?, body)),
            (None, Asked::Embeddings { inputs, .. }) => {
                Ok(Answer::same(openai::embeddings::read_answer(&body, inputs)?, body))
            }
            (Some(translator), Asked::Chat { .. }) => {
                let answer = translator.answer(&body, &self.memo)?;
                let body = completion::write(&answer, &self.stamp);
                let Response { usage, model, tier, in_region, .. } = answer;
                Ok(Answer { body, usage, model: named(model), tier, in_region })
            }
            (Some(translator), Asked::Embeddings { inputs, encoding }) => {
                let answer = translator.embedded(&body, &self.memo)?;
                if answer.vectors.len() != inputs {
                    return Err(NotAnAnswer::NoEmbeddings);
                }
                let body = openai::embeddings::write(&answer, encoding, &self.stamp);
                Ok(Answer { body, usage: answer.usage, model: named(answer.model), tier: None, in_region: false })
            }
        }
    }

    /// Begins to read a stream.
    #[must_use]
    pub fn stream(&self) -> StreamReader {
        // There are no streams of embeddings.
        let asks_for_usage = matches!(self.asked, Asked::Chat { usage: true });
        StreamReader(match self.translator() {
            None => Reader::Same(StreamMeter::new(asks_for_usage)),
            Some(translator) => {
                let writer = ChunkWriter::new(self.stamp.clone(), asks_for_usage);
                Reader::Translated(Box::new(Translated::new(translator.stream(&self.memo), writer)))
            }
        })
    }

    /// Reads a response whose status is not a success.
    #[must_use]
    pub fn fault(&self, status: u16, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Fault {
        match self.api {
            Api::OpenAi => openai::fault::read(status, headers, body, now),
            Api::Anthropic => anthropic::fault::read(status, headers, body, now),
            Api::Google => google::fault::read(status, headers, body, now),
        }
    }
}

/// Follows one stream: what the client gets of each event, and what it took. Every event goes through [`Self::on_event`], and
/// [`Self::on_end`] is called when there are no more, in whatever way the stream ended.
pub struct StreamReader(Reader);

enum Reader {
    Same(StreamMeter),
    Translated(Box<Translated>),
}

impl StreamReader {
    /// Reads the next event of the stream.
    #[must_use]
    pub fn on_event(&mut self, event: &Event) -> Verdict {
        match &mut self.0 {
            Reader::Same(meter) => meter.on_event(event),
            Reader::Translated(translated) => translated.event(event),
        }
    }

    /// The provider closed the stream without saying that it is done. If its answer is complete all the same: the last bytes for the
    /// client. `None` as well if the end had come before.
    #[must_use]
    pub fn on_end(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            Reader::Same(meter) => meter.on_end(),
            Reader::Translated(translated) => translated.end(),
        }
    }

    /// The last usage that the stream gave, if it can be trusted.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        match &self.0 {
            Reader::Same(meter) => meter.usage(),
            Reader::Translated(translated) => translated.usage(),
        }
    }

    /// The input that the stream says it took, before it is at its end. Whether that can be relied on:
    /// [`Metering::reports_input_early`](crate::metering::Metering::reports_input_early).
    #[must_use]
    pub fn input_seen(&self) -> Option<Usage> {
        match &self.0 {
            Reader::Same(meter) => meter.input_seen(),
            Reader::Translated(translated) => translated.input_seen(),
        }
    }

    /// The class of service that is billed, if the stream says so.
    #[must_use]
    pub fn tier(&self) -> Option<ServiceTier> {
        match &self.0 {
            Reader::Same(meter) => meter.tier(),
            Reader::Translated(translated) => translated.tier(),
        }
    }

    /// Whether it is served within one region, for which the provider may ask more.
    #[must_use]
    pub fn in_region(&self) -> bool {
        match &self.0 {
            Reader::Same(_) => false,
            Reader::Translated(translated) => translated.in_region(),
        }
    }

    /// The model that answers, by its dated name.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        match &self.0 {
            Reader::Same(meter) => meter.model(),
            Reader::Translated(translated) => translated.model(),
        }
    }

    /// Whether anything has come that a client would show or act on; a role alone is nothing.
    #[must_use]
    pub fn has_content(&self) -> bool {
        match &self.0 {
            Reader::Same(meter) => meter.has_content(),
            Reader::Translated(translated) => translated.has_content(),
        }
    }

    /// Whether the provider has made anything that it may bill, also what no client is shown: signatures, thoughts that only it can read, media.
    #[must_use]
    pub fn has_made_something(&self) -> bool {
        match &self.0 {
            Reader::Same(meter) => meter.has_made_something(),
            Reader::Translated(translated) => translated.has_made_something(),
        }
    }

    /// Whether a choice has said why it ended.
    #[must_use]
    pub fn finished(&self) -> bool {
        match &self.0 {
            Reader::Same(meter) => meter.finished(),
            Reader::Translated(translated) => translated.finished(),
        }
    }

    /// Whether the stream's end has come: the provider has said so, or closed the stream after a complete answer.
    #[must_use]
    pub fn done(&self) -> bool {
        match &self.0 {
            Reader::Same(meter) => meter.done(),
            Reader::Translated(translated) => translated.done(),
        }
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
