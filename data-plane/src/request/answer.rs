//! What goes back to the client: a whole body, or a stream that is metered as it passes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::KeyId;
use keyforge_shared::money::NanoUsd;
use keyforge_shared::state::KeyRecord;

use super::authorize::Permit;
use super::receive::Head;
use super::relay::Relay;
use super::reservation::Terms;
use crate::pool::Served;
use crate::rate_headers::RateHeaders;
use crate::rejection::Rejection;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEY_ID: HeaderName = HeaderName::from_static("x-keyforge-key-id");
const PROVIDER: HeaderName = HeaderName::from_static("x-keyforge-provider");
const MODEL: HeaderName = HeaderName::from_static("x-keyforge-model");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-keyforge-attempts");
const POOL_SLOT: HeaderName = HeaderName::from_static("x-keyforge-pool-slot");
const COST: HeaderName = HeaderName::from_static("x-keyforge-cost-usd");
const BUDGET_LEFT: HeaderName = HeaderName::from_static("x-keyforge-budget-remaining-usd");
const TOKEN_UNTIL: HeaderName = HeaderName::from_static("x-keyforge-token-valid-until");
const CLAMPED_TO: HeaderName = HeaderName::from_static("x-keyforge-output-limit");
const IGNORED: HeaderName = HeaderName::from_static("x-keyforge-ignored");

/// Headers of the provider's answer that the client gets to see. Everything else stays here: organisation names, cookies, rate limits of a
/// credential that others share.
static PASSED_ON: [HeaderName; 3] = [
    HeaderName::from_static("openai-processing-ms"),
    HeaderName::from_static("openai-version"),
    HeaderName::from_static("x-keyforge-sandbox"),
];

/// Headers that an answer rarely has more of.
const MOST_HEADERS: usize = 24;

/// An answer on its way to the client.
pub struct Answer {
    /// What is sent.
    pub response: Response<AnswerBody>,
    /// The rejection that it says, for the log and metrics; empty when it says none.
    pub code: &'static str,
    /// Whose request it was, once that is known.
    pub key: Option<KeyId>,
    /// The model asked for; empty when unknown.
    pub model: String,
    /// What it cost, once that is known.
    pub cost: Option<NanoUsd>,
}

/// The body of an answer.
pub enum AnswerBody {
    /// All of it.
    Whole(Full<Bytes>),
    /// As it comes.
    Stream(Box<Relay>),
}

impl AnswerBody {
    const fn content_type(&self) -> HeaderValue {
        match self {
            Self::Whole(_) => HeaderValue::from_static("application/json"),
            Self::Stream(_) => HeaderValue::from_static("text/event-stream"),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Stream(relay) => relay.poll_next(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

impl Answer {
    /// The answer that says a rejection.
    #[must_use]
    pub fn refusal(head: &Head, rejection: &Rejection) -> Self {
        let mut response = Response::new(AnswerBody::Whole(Full::new(rejection.body(head.dialect))));
        *response.status_mut() = rejection.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        insert(headers, REQUEST_ID, head.id.to_string());
        rejection.write_headers(headers);
        Self { response, code: rejection.code(), key: None, model: String::new(), cost: None }
    }

    /// The same, saying whose request it was, and the limits of the key's rates unless the rejection said more about them. A key that does not work
    /// has none.
    #[must_use]
    pub fn to(mut self, key: &KeyRecord) -> Self {
        let is_dead = self.response.status() == StatusCode::UNAUTHORIZED;
        let headers = self.response.headers_mut();
        insert(headers, KEY_ID, key.id.to_string());
        if !is_dead {
            RateHeaders::limits_of(&key.policy).write_unless_told(headers);
        }
        self.key = Some(key.id);
        self
    }

    /// The same, saying until when the token works that it was asked with, if that was replaced.
    #[must_use]
    pub fn with_token_until(mut self, until: Option<Timestamp>) -> Self {
        if let Some(until) = until {
            insert(self.response.headers_mut(), TOKEN_UNTIL, until.rfc3339());
        }
        self
    }

    /// A rejection of a request that was admitted, with what it cost and the limits that it was admitted under.
    #[must_use]
    pub fn failure(head: &Head, permit: &Permit, rejection: &Rejection, cost: NanoUsd, terms: &Terms) -> Self {
        let mut answer = Self::refusal(head, rejection);
        describe(answer.response.headers_mut(), permit);
        answer.key = Some(permit.key().id);
        answer.model.clone_from(&permit.model().name);
        answer.costing(cost, permit, terms).under(terms)
    }

    /// The provider's answer. What it is, is known by now: it was read, and perhaps written anew.
    #[must_use]
    pub fn success(head: &Head, permit: &Permit, status: StatusCode, provider: &HeaderMap, body: AnswerBody) -> Self {
        let content_type = body.content_type();
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.reserve(MOST_HEADERS);
        for name in &PASSED_ON {
            if let Some(value) = provider.get(name) {
                headers.insert(name, value.clone());
            }
        }
        headers.insert(CONTENT_TYPE, content_type);
        insert(headers, REQUEST_ID, head.id.to_string());
        describe(headers, permit);
        Self { response, code: "", key: Some(permit.key().id), model: permit.model().name.clone(), cost: None }
    }

    /// The same, saying what of the request did not hold: an output limit that is lower than what was asked for, and what the provider was not told;
    /// and what is left of the key's rates.
    #[must_use]
    pub fn under(mut self, terms: &Terms) -> Self {
        let headers = self.response.headers_mut();
        if let Some(limit) = terms.output_limit {
            headers.insert(CLAMPED_TO, HeaderValue::from(limit));
        }
        let ignored = terms.ignored().fields();
        if !ignored.is_empty() {
            insert(headers, IGNORED, &ignored);
        }
        terms.rate_headers.write(headers);
        self
    }

    /// The same, saying what it cost and what is left. What a model without a price costs nobody knows, which is not nothing.
    #[must_use]
    pub fn costing(mut self, cost: NanoUsd, permit: &Permit, terms: &Terms) -> Self {
        if permit.model().prices.is_some() {
            insert(self.response.headers_mut(), COST, cost.decimal());
        }
        if let Some(left) = terms.budget_after(cost) {
            insert(self.response.headers_mut(), BUDGET_LEFT, left.decimal());
        }
        self.cost = Some(cost);
        self
    }

    /// The same, not to be kept or held back by anything in between.
    #[must_use]
    pub fn streaming(mut self) -> Self {
        let headers = self.response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        self
    }
}

impl Answer {
    /// The same, of this credential: what a stream of it still meets is told to the pool.
    #[must_use]
    pub fn served_by(mut self, served: Served) -> Self {
        if let AnswerBody::Stream(relay) = self.response.body_mut() {
            relay.served_by(served);
        }
        self
    }

    /// The same, saying how many attempts it took, and which place of the pool it came from.
    #[must_use]
    pub fn after(mut self, attempts: u16, slot: &str) -> Self {
        let headers = self.response.headers_mut();
        headers.insert(ATTEMPTS, HeaderValue::from(attempts));
        insert(headers, POOL_SLOT, slot);
        self
    }
}

fn describe(headers: &mut HeaderMap, permit: &Permit) {
    insert(headers, KEY_ID, permit.key().id.to_string());
    insert(headers, PROVIDER, permit.model().provider.0.as_str());
    insert(headers, MODEL, permit.model().name.as_str());
    headers.insert(ATTEMPTS, HeaderValue::from_static("1"));
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: impl TryInto<HeaderValue>) {
    if let Ok(value) = value.try_into() {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use keyforge_shared::catalog::Model;
    use keyforge_shared::clock::ManualClock;
    use keyforge_shared::policy::Policy;
    use keyforge_shared::state::Resource;

    use super::super::fixture::{head, permit_for};
    use super::*;
    use crate::fixture::{FakeLedger, Parts, START, key, model, workspace};

    #[tokio::test]
    async fn what_a_model_without_a_price_costs_is_not_told_as_nothing() {
        let Resource::Model(priced) = model() else { panic!("a model") };
        let unpriced = Model { name: "unpriced".to_owned(), prices: None, ..Model::clone(&priced) };
        let state = vec![
            workspace(Vec::new(), Vec::new()),
            key(1, Policy::default()),
            Resource::Model(priced),
            Resource::Model(Arc::new(unpriced)),
        ];
        let ledger = Arc::new(FakeLedger::default());
        let node = Parts::in_memory(ledger.serve().await, &Arc::new(ManualClock::at(START)), state).build();
        for (name, expected) in [("m", Some("0.00")), ("unpriced", None)] {
            let permit = permit_for(&node, 1, name).unwrap();
            let answer =
                Answer::failure(&head(&node), &permit, &Rejection::UpstreamBroken, NanoUsd::ZERO, &Terms::default());
            let told = answer.response.headers().get(COST).map(|value| value.to_str().unwrap());
            assert_eq!(told, expected, "{name}");
        }
    }

    #[test]
    fn an_answer_says_what_it_is_and_not_what_the_provider_called_it() {
        assert_eq!(AnswerBody::Whole(Full::new(Bytes::new())).content_type(), "application/json");
        assert!(!PASSED_ON.contains(&CONTENT_TYPE));
    }
}
