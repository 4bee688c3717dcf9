//! One attempt at the provider: sent, and its answer read, to an [`Outcome`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use keyforge_providers::exchange::{Exchange, Outgoing};
use keyforge_providers::fault::Fault;
use keyforge_providers::patch::Pieces;
use keyforge_providers::refusal::NotAnAnswer;
use keyforge_shared::audit::request::Flags;
use keyforge_shared::money::NanoUsd;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::answer::{Answer, AnswerBody};
use super::authorize::Permit;
use super::carry_on::ClientGone;
use super::join::Join;
use super::outcome::{Failed, Outcome, Stood, charge_for, rejection_for};
use super::receive::{Head, Room};
use super::relay::{Relay, Running, Started};
use super::reservation::Terms;
use super::settle::{Charge, Commitment, Ending};
use crate::plane::Plane;
use crate::pool::Turn;
use crate::rejection::Rejection;
use crate::upstream::UpstreamError;

/// Most bytes of an error's body that are read.
const MOST_ERROR_BYTES: u64 = 256 * 1024;

/// The request as the provider wants it, for as long as it may be sent again.
pub struct Held {
    /// What is sent, and its share of the room for bodies: neither stays without the other.
    kept: Option<(Outgoing, Room)>,
    /// Whether it may still be needed after it was sent.
    pub may_be_sent_again: bool,
}

impl Held {
    /// Holds a request in its room.
    #[must_use]
    pub const fn new(outgoing: Outgoing, room: Room, may_be_sent_again: bool) -> Self {
        Self { kept: Some((outgoing, room)), may_be_sent_again }
    }

    /// What is sent; `None` once it was let go.
    #[must_use]
    pub fn outgoing(&self) -> Option<&Outgoing> {
        self.kept.as_ref().map(|(outgoing, _)| outgoing)
    }

    /// Others may have its room.
    fn let_go(&mut self) {
        self.kept = None;
    }
}

/// What is the same for every attempt at one request, so that it can outlive the client.
pub struct Call {
    /// The node.
    pub plane: Arc<Plane>,
    /// What came.
    pub head: Arc<Head>,
    /// For whom.
    pub permit: Permit,
    /// What the answer says about limits.
    pub terms: Terms,
    /// How answers are read.
    pub exchange: Exchange,
    /// Whether an event stream is asked for.
    pub is_streamed: bool,
    /// Whether the client is still there.
    pub gone: ClientGone,
    /// What earlier attempts cost: what failed may have been billed.
    pub cost_before: NanoUsd,
}

impl Call {
    /// Sends a request that is written down as `commitment`, and reads what comes back.
    pub async fn attempt(
        &self,
        commitment: Commitment,
        request: http::Request<Full<Pieces>>,
        turn: &mut Turn,
        held: &mut Held,
    ) -> Outcome {
        let times = &self.plane.times;
        let deadline = Instant::now() + times.total;
        let sent = self.plane.upstream.send(request, times.first_byte.min(times.total)).await;
        if !held.may_be_sent_again {
            // The body is sent, or never will be.
            held.let_go();
        }
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => return self.unsent(commitment, &error),
        };
        turn.answered(answer.headers());
        if answer.status().is_success() && !self.is_streamed {
            held.let_go();
        }
        if !answer.status().is_success() {
            return self.refused(commitment, answer).await;
        }
        match (self.is_streamed, may_be_event_stream(answer.headers())) {
            (true, true) => self.stream(commitment, answer, deadline).await,
            (true, false) => self.not_a_stream(commitment, answer, deadline).await,
            (false, _) => self.whole(commitment, answer, deadline).await,
        }
    }

    fn flags(&self) -> Flags {
        if self.gone.is_set() { Flags::CLIENT_GONE } else { Flags(0) }
    }

    fn fail(&self, commitment: Commitment, charge: Charge, flags: Flags, rejection: Rejection) -> Outcome {
        let ending = Ending::rejected(charge, &rejection).with(flags).with(self.flags());
        Outcome::Failed(Box::new(Failed { commitment, ending, rejection, fault: None }))
    }

    fn fault(&self, commitment: Commitment, fault: Box<Fault>, flags: Flags) -> Outcome {
        let (charge, rejection) = (charge_for(&fault, Stood::Elsewhere), rejection_for(&fault, &self.permit));
        let ending = Ending::rejected(charge, &rejection).with(flags).with(self.flags());
        Outcome::Failed(Box::new(Failed { commitment, ending, rejection, fault: Some(fault) }))
    }

    fn unsent(&self, commitment: Commitment, error: &UpstreamError) -> Outcome {
        tracing::warn!(request = %self.head.id, provider = %self.permit.model().provider, %error, "the provider did not answer");
        match error {
            UpstreamError::Connect(_) | UpstreamError::Url => {
                self.fail(commitment, Charge::NotDispatched, Flags(0), Rejection::UpstreamUnreachable)
            }
            UpstreamError::Broken(_) => self.broken(commitment),
            UpstreamError::Timeout => self.late(commitment),
        }
    }

    fn broken(&self, commitment: Commitment) -> Outcome {
        self.fail(commitment, Charge::Unknown, Flags::UPSTREAM_BROKEN, Rejection::UpstreamBroken)
    }

    fn late(&self, commitment: Commitment) -> Outcome {
        self.fail(commitment, Charge::Unknown, Flags::UPSTREAM_BROKEN, Rejection::UpstreamTimeout)
    }

    /// An error status: our own words in the client's dialect, never the provider's body.
    async fn refused(&self, commitment: Commitment, answer: Response<Incoming>) -> Outcome {
        let (parts, body) = answer.into_parts();
        let deadline = Instant::now() + self.plane.times.idle;
        let body = collect(body, MOST_ERROR_BYTES, self.plane.times.idle, deadline).await.unwrap_or_default();
        let fault = self.exchange.fault(parts.status.as_u16(), &parts.headers, &body, self.plane.clock.now());
        tracing::info!(request = %self.head.id, provider = %self.permit.model().provider, status = parts.status.as_u16(),
            kind = ?fault.kind, "the provider refused");
        self.fault(commitment, Box::new(fault), Flags(0))
    }

    async fn stream(&self, commitment: Commitment, answer: Response<Incoming>, deadline: Instant) -> Outcome {
        let (parts, body) = answer.into_parts();
        let (permit, gone) = (self.permit.again(), self.gone.clone());
        let running = Running { permit, commitment, reader: self.exchange.stream(), gone, deadline };
        match Relay::start(&self.plane, &self.head, body, running).await {
            Started::Failed(failed) => Outcome::Failed(failed),
            Started::Stream(relay) => {
                let body = AnswerBody::Stream(relay);
                let answer = Answer::success(&self.head, &self.permit, parts.status, &parts.headers, body);
                Outcome::Answered(Box::new(answer.streaming().under(&self.terms)))
            }
        }
    }

    /// A whole answer where a stream was asked for: no client of a stream can read it, but it may say what it cost.
    async fn not_a_stream(&self, commitment: Commitment, answer: Response<Incoming>, deadline: Instant) -> Outcome {
        let (most, idle) = (self.plane.times.answer_bytes, self.plane.times.idle);
        let body = collect(answer.into_body(), most, idle, deadline).await.unwrap_or_default();
        let charge = match self.exchange.answer(body) {
            Ok(answer) => answer.usage.map_or(Charge::Unknown, Charge::Known),
            Err(NotAnAnswer::Refused(fault)) => return self.fault(commitment, fault, Flags::UPSTREAM_BROKEN),
            Err(NotAnAnswer::Malformed | NotAnAnswer::NoChoices | NotAnAnswer::NoEmbeddings) => Charge::Unknown,
        };
        self.fail(commitment, charge, Flags::UPSTREAM_BROKEN, Rejection::UpstreamBroken)
    }

    async fn whole(&self, commitment: Commitment, answer: Response<Incoming>, deadline: Instant) -> Outcome {
        let (parts, body) = answer.into_parts();
        let (most, idle) = (self.plane.times.answer_bytes, self.plane.times.idle);
        let body = match collect(body, most, idle, deadline).await {
            Ok(body) => body,
            Err(Unreadable::Broken) => return self.broken(commitment),
            Err(Unreadable::Late) => return self.late(commitment),
        };
        let digest = self.plane.body_digests.then(|| Sha256::digest(&body).into());
        let answer = match self.exchange.answer(body) {
            Ok(answer) => answer,
            Err(NotAnAnswer::Refused(fault)) => return self.fault(commitment, fault, Flags(0)),
            Err(NotAnAnswer::Malformed | NotAnAnswer::NoChoices | NotAnAnswer::NoEmbeddings) => {
                return self.broken(commitment);
            }
        };
        let mut ending = Ending::new(answer.usage.map_or(Charge::Unknown, Charge::Known), parts.status.as_u16());
        (ending.tier, ending.in_region) = (answer.tier, answer.in_region);
        ending.answered_model = answer.model;
        ending.response_digest = digest;
        let cost = commitment.settle(ending.with(self.flags()));
        let body = AnswerBody::Whole(Full::new(answer.body));
        let answer = Answer::success(&self.head, &self.permit, parts.status, &parts.headers, body);
        let cost = self.cost_before.saturating_add(cost);
        Outcome::Answered(Box::new(answer.costing(cost, &self.permit, &self.terms).under(&self.terms)))
    }
}

/// Whether an answer says that it is an event stream, or does not say what it is.
fn may_be_event_stream(headers: &HeaderMap<HeaderValue>) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// Why a body cannot be read to its end.
enum Unreadable {
    /// It broke off or is too large.
    Broken,
    /// It stopped coming.
    Late,
}

/// The whole body. One that comes in one piece is not copied.
async fn collect(mut body: Incoming, limit: u64, idle: Duration, deadline: Instant) -> Result<Bytes, Unreadable> {
    let mut join = Join::default();
    while !body.is_end_stream() {
        let due = deadline.min(Instant::now() + idle);
        let frame = tokio::time::timeout_at(due, body.frame()).await.map_err(|_| Unreadable::Late)?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| Unreadable::Broken)?.into_data() else { continue };
        if (join.len() + data.len()) as u64 > limit {
            return Err(Unreadable::Broken);
        }
        join.push(data, 0);
    }
    Ok(join.finish())
}
