//! To the provider and back: the attempt is written down, sent, and its answer read, whatever becomes of the client meanwhile.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use keyforge_providers::fault::{Billed, Fault, FaultKind};
use keyforge_providers::openai::response::NotAnAnswer;
use keyforge_providers::openai::rewrite::{Rewrite, rewrite};
use keyforge_providers::openai::{fault, response};
use keyforge_shared::audit::request::Flags;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::answer::{Answer, AnswerBody};
use super::authorize::Permit;
use super::carry_on::{CarryOn, ClientGone};
use super::join::Join;
use super::receive::{Head, Inbound, Room};
use super::relay::{Relay, Running, Started};
use super::reservation::{Reservation, Terms};
use super::route::Candidates;
use super::settle::{Charge, Commitment, Ending};
use crate::plane::Plane;
use crate::rejection::Rejection;
use crate::upstream::{self, UpstreamError};

/// Where chat completions are, below a credential's base URL.
const PATH: &str = "/chat/completions";
/// Most bytes of an error's body that are read.
const MOST_ERROR_BYTES: u64 = 256 * 1024;

/// Everything that one attempt needs, so that it can outlive the client.
struct Attempt {
    plane: Arc<Plane>,
    head: Arc<Head>,
    commitment: Commitment,
    permit: Permit,
    terms: Terms,
    request: http::Request<Full<keyforge_providers::patch::Pieces>>,
    room: Room,
    streamed: bool,
    usage_asked: bool,
    gone: ClientGone,
}

/// Sends the request with the first candidate's secret and brings the answer back.
///
/// # Errors
/// A rejection when nothing was dispatched; every later failure is an answer, and settled.
pub async fn dispatch(
    plane: &Arc<Plane>,
    reservation: Reservation,
    candidates: &Candidates,
    head: &Arc<Head>,
    inbound: Inbound,
) -> Result<Answer, Rejection> {
    let (permit, bound, terms) = (reservation.permit().again(), *reservation.bound(), reservation.terms());
    let candidate = candidates.first();
    let (streamed, usage_asked) = (inbound.request.stream, inbound.request.asks_for_usage());
    let digest = plane.body_digests.then(|| Sha256::digest(&inbound.body).into());
    let rewrite_to = Rewrite {
        upstream_model: &permit.model().upstream_name,
        max_output_tokens: bound.limit_to_send(&inbound.request),
        max_tokens_field: bound.limit_field(),
    };
    let body = rewrite(&inbound.request, inbound.body, rewrite_to);
    let base_url = &candidate.credential.base_url;
    let mut request = upstream::request(base_url, PATH, &head.parts.headers, &candidate.authorization, body)
        .map_err(|_| Rejection::NoCredential(permit.model().provider.to_string()))?;
    keyforge_runtime::propagation::inject(&tracing::Span::current(), request.headers_mut());
    let commitment = reservation.commit_to(candidate, streamed, digest).map_err(|error| {
        plane.metrics.failed_closed("spool");
        tracing::debug!(%error, "a request was refused because it could not be written down");
        Rejection::AuditUnavailable
    })?;
    let gone = ClientGone::default();
    let attempt = Attempt {
        plane: Arc::clone(plane),
        head: Arc::clone(head),
        commitment,
        permit,
        terms,
        request,
        room: inbound.room,
        streamed,
        usage_asked,
        gone: gone.clone(),
    };
    Ok(CarryOn::new(plane.shutdown.clone(), gone, attempt.run()).await)
}

impl Attempt {
    async fn run(self) -> Answer {
        let Self { plane, head, commitment, permit, terms, request, room, streamed, usage_asked, gone } = self;
        let deadline = Instant::now() + plane.times.total;
        let sent = plane.upstream.send(request, plane.times.first_byte.min(plane.times.total)).await;
        // The body is sent, or never will be: others may have its room.
        drop(room);
        let ended = Ended { plane: &plane, head: &head, permit: &permit, terms: &terms, gone: &gone };
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => return ended.unsent(commitment, &error),
        };
        let status = answer.status();
        if !status.is_success() {
            return ended.refused(commitment, answer).await;
        }
        if streamed {
            if !may_be_event_stream(answer.headers()) {
                return ended.not_a_stream(commitment, answer, deadline).await;
            }
            let (parts, body) = answer.into_parts();
            let running = Running { permit: permit.again(), commitment, usage_asked, deadline };
            return match Relay::start(&plane, &head, body, running).await {
                Started::Stream(relay) => {
                    let body = AnswerBody::Stream(relay);
                    Answer::success(&head, &permit, status, &parts.headers, body).streaming().under(&terms)
                }
                Started::Failed(rejection, cost) => Answer::failure(&head, &permit, &rejection, cost),
            };
        }
        ended.whole(commitment, answer, deadline).await
    }
}

/// The ways in which an attempt without a stream ends; each settles.
struct Ended<'a> {
    plane: &'a Plane,
    head: &'a Head,
    permit: &'a Permit,
    terms: &'a Terms,
    gone: &'a ClientGone,
}

impl Ended<'_> {
    fn flags(&self) -> Flags {
        if self.gone.is_set() { Flags::CLIENT_GONE } else { Flags(0) }
    }

    fn fail(&self, commitment: Commitment, charge: Charge, flags: Flags, rejection: &Rejection) -> Answer {
        let ending = Ending::rejected(charge, rejection).with(flags).with(self.flags());
        let cost = commitment.settle(ending);
        Answer::failure(self.head, self.permit, rejection, cost)
    }

    fn unsent(&self, commitment: Commitment, error: &UpstreamError) -> Answer {
        tracing::warn!(request = %self.head.id, provider = %self.permit.model().provider, %error, "the provider did not answer");
        match error {
            UpstreamError::Connect(_) | UpstreamError::Url => {
                self.fail(commitment, Charge::NotDispatched, Flags(0), &Rejection::UpstreamUnreachable)
            }
            UpstreamError::Broken(_) => self.broken(commitment, None),
            UpstreamError::Timeout => {
                self.fail(commitment, Charge::Unknown, Flags::UPSTREAM_BROKEN, &Rejection::UpstreamTimeout)
            }
        }
    }

    fn broken(&self, commitment: Commitment, rejection: Option<Rejection>) -> Answer {
        let rejection = rejection.unwrap_or(Rejection::UpstreamBroken);
        self.fail(commitment, Charge::Unknown, Flags::UPSTREAM_BROKEN, &rejection)
    }

    /// An error status: our own words in the client's dialect, never the provider's body.
    async fn refused(&self, commitment: Commitment, answer: Response<Incoming>) -> Answer {
        let (parts, body) = answer.into_parts();
        let deadline = Instant::now() + self.plane.times.idle;
        let body = collect(body, MOST_ERROR_BYTES, self.plane.times.idle, deadline).await.unwrap_or_default();
        let fault = fault::read(parts.status.as_u16(), &parts.headers, &body, self.plane.clock.now());
        let rejection = rejection_for(&fault, self.permit);
        let charge = charge_for(&fault);
        tracing::info!(request = %self.head.id, provider = %self.permit.model().provider, status = parts.status.as_u16(),
            kind = ?fault.kind, "the provider refused");
        self.fail(commitment, charge, Flags(0), &rejection)
    }

    /// A whole answer where a stream was asked for: no client of a stream can read it, but it may say what it cost.
    async fn not_a_stream(&self, commitment: Commitment, answer: Response<Incoming>, deadline: Instant) -> Answer {
        let (most, idle) = (self.plane.times.answer_bytes, self.plane.times.idle);
        let body = collect(answer.into_body(), most, idle, deadline).await.unwrap_or_default();
        let (charge, rejection) = match response::read(&body) {
            Ok(read) => (read.usage.map_or(Charge::Unknown, Charge::Known), Rejection::UpstreamBroken),
            Err(NotAnAnswer::Refused(fault)) => (charge_for(&fault), rejection_for(&fault, self.permit)),
            Err(NotAnAnswer::Malformed | NotAnAnswer::NoChoices) => (Charge::Unknown, Rejection::UpstreamBroken),
        };
        self.fail(commitment, charge, Flags::UPSTREAM_BROKEN, &rejection)
    }

    async fn whole(&self, commitment: Commitment, answer: Response<Incoming>, deadline: Instant) -> Answer {
        let (parts, body) = answer.into_parts();
        let (most, idle) = (self.plane.times.answer_bytes, self.plane.times.idle);
        let body = match collect(body, most, idle, deadline).await {
            Ok(body) => body,
            Err(Unreadable::Broken) => return self.broken(commitment, None),
            Err(Unreadable::Late) => return self.broken(commitment, Some(Rejection::UpstreamTimeout)),
        };
        let read = match response::read(&body) {
            Ok(read) => read,
            Err(NotAnAnswer::Refused(fault)) => {
                let (charge, rejection) = (charge_for(&fault), rejection_for(&fault, self.permit));
                return self.fail(commitment, charge, Flags(0), &rejection);
            }
            Err(NotAnAnswer::Malformed | NotAnAnswer::NoChoices) => return self.broken(commitment, None),
        };
        let mut ending = Ending::new(read.usage.map_or(Charge::Unknown, Charge::Known), parts.status.as_u16());
        ending.tier = read.tier;
        ending.answered_model = read.model;
        ending.response_digest = self.plane.body_digests.then(|| Sha256::digest(&body).into());
        let cost = commitment.settle(ending.with(self.flags()));
        let body = AnswerBody::Whole(Full::new(body));
        Answer::success(self.head, self.permit, parts.status, &parts.headers, body)
            .costing(cost, self.terms)
            .under(self.terms)
    }
}

/// What the client is told about a provider's failure.
#[must_use]
pub fn rejection_for(fault: &Fault, permit: &Permit) -> Rejection {
    match fault.kind {
        FaultKind::Throttled => {
            Rejection::ProviderRateLimited { retry_after: fault.retry_after.unwrap_or(Duration::from_secs(1)) }
        }
        FaultKind::Closed | FaultKind::Dead => Rejection::NoCredential(permit.model().provider.to_string()),
        FaultKind::ClientError => Rejection::UpstreamRefused {
            status: fault.status.filter(|status| (400..500).contains(status)).unwrap_or(400),
            code: fault.code.clone(),
            param: fault.param.clone(),
            message: fault.message.clone(),
        },
        FaultKind::Overloaded | FaultKind::ServerError | FaultKind::Ambiguous => {
            Rejection::UpstreamFailed(fault.status.unwrap_or(200))
        }
    }
}

/// What is known of the cost of a provider's failure.
#[must_use]
pub fn charge_for(fault: &Fault) -> Charge {
    match fault.billed() {
        Billed::No => Charge::NotBilled,
        Billed::Unknown => Charge::Unknown,
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
