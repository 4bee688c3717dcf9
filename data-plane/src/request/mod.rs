//! The life of one request, in one line that can be read aloud: [`handle`].
//!
//! Each step is a type that only its step can make, so none can be skipped: no [`Permit`](authorize::Permit) without [`authorize`], no upstream call
//! without a [`Commitment`](settle::Commitment), which only a [`Reservation`](reservation::Reservation) becomes. In reading order:
//!
//! * [`authenticate`]: token → key record
//! * [`receive`]: the body, within limits, and what it asks for: [`wanted`]
//! * [`authorize`]: status, expiry, token, address, endpoint, model; [`origin`] is where it comes from
//! * [`route`]: the credentials that can serve it
//! * [`bound`]: the most that it can cost; [`ceiling`] is what its policy allows of output
//! * [`reserve`]: that much is taken from the key's counters, or nothing; [`reservation`] is what was taken
//! * [`dispatch`]: to the provider, in its own language
//! * [`failover`]: with one credential after another, until one serves it
//! * [`attempt`]: sent, and the whole answer back; [`outcome`] is what came of it
//! * [`relay`]: or the answer as a stream, metered as it passes
//! * [`settle`]: the truth replaces the reservation, and is recorded
//! * [`refuse`]: what is recorded of those that end before they are dispatched
//! * [`carry_on`]: what was dispatched goes on for a moment when its client is gone

pub mod answer;
pub mod attempt;
pub mod authenticate;
pub mod authorize;
pub mod bound;
pub mod carry_on;
mod ceiling;
pub mod dispatch;
pub mod failover;
pub mod feed;
#[cfg(test)]
mod fixture;
mod join;
pub mod origin;
pub mod outcome;
mod question;
pub mod receive;
mod record;
pub mod refuse;
pub mod relay;
pub mod reservation;
pub mod reserve;
pub mod route;
pub mod settle;
pub mod wanted;

use std::sync::Arc;

use hyper::body::Incoming;
use tracing::Instrument;

use self::answer::Answer;
use self::receive::Head;
use self::wanted::Endpoint;
use crate::plane::Plane;
use crate::rejection::Rejection;

/// Serves one request that came to `endpoint`: the answer of the provider, or the refusal that says why not.
pub async fn handle(plane: &Arc<Plane>, endpoint: Endpoint, head: Arc<Head>, body: Incoming) -> Answer {
    let caller = match authenticate::authenticate(plane, &head) {
        Ok(caller) => caller,
        // Nobody to record it for: an unknown key has no chain.
        Err(rejection) => {
            receive::discard(plane, body);
            return Answer::refusal(&head, &rejection);
        }
    };
    let (mut model, token_until) = (String::new(), caller.token_until(plane.clock.as_ref()));
    let answer = match admit(plane, &caller, endpoint, &head, body, &mut model).await {
        Ok(answer) => answer,
        Err(rejection) => {
            refuse::refuse(plane, caller.key(), &head, model, &rejection);
            Answer::refusal(&head, &rejection).to(caller.key())
        }
    };
    answer.with_token_until(token_until)
}

/// The straight line. An error means that nothing was dispatched and nothing is held.
async fn admit(
    plane: &Arc<Plane>,
    caller: &authenticate::Caller,
    endpoint: Endpoint,
    head: &Arc<Head>,
    body: Incoming,
    model: &mut String,
) -> Result<Answer, Rejection> {
    if let Err(rejection) = authorize::entry(plane, caller, head, endpoint.named()) {
        receive::discard(plane, body);
        return Err(rejection);
    }
    let inbound = receive::receive(plane, endpoint, head, body).instrument(tracing::debug_span!("receive")).await?;
    inbound.wanted.model().clone_into(model);
    let permit = authorize::authorize(plane, caller, head, &inbound.wanted)?;
    model.clone_from(&permit.model().name);
    let pool = route::route(plane, &permit, head)?;
    let bound = bound::bound(&permit, &inbound.wanted)?;
    let reservation = reserve::reserve(plane, &permit, head, bound).instrument(tracing::debug_span!("reserve")).await?;
    // Reserving may have waited for the ledger, and the key may have been revoked meanwhile.
    authorize::still_stands(plane, &permit)?;
    // In a box, because it is large and would be copied into each of the futures around it.
    let dispatched = Box::pin(dispatch::dispatch(plane, reservation, pool, head, inbound));
    dispatched.instrument(tracing::debug_span!("dispatch", otel.kind = "client")).await
}
