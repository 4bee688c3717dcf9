//! The life of one request, in one line that can be read aloud: [`handle`].
//!
//! Each step is a type that only its step can make, so none can be skipped: no [`Permit`](authorize::Permit) without [`authorize`], no upstream call
//! without a [`Commitment`](settle::Commitment), which only a [`Reservation`](reservation::Reservation) becomes. In reading order:
//!
//! * [`authenticate`]: token → key record
//! * [`receive`]: the body, within limits, and what it asks for
//! * [`authorize`]: status, expiry, model
//! * [`route`]: the credentials that can serve it
//! * [`bound`]: the most that it can cost
//! * [`reserve`]: that much is taken from the key's counters, or nothing; [`reservation`] is what was taken
//! * [`dispatch`]: to the provider, and the whole answer back
//! * [`relay`]: or the answer as a stream, metered as it passes
//! * [`settle`]: the truth replaces the reservation, and is recorded
//! * [`refuse`]: what is recorded of those that end before they are dispatched
//! * [`carry_on`]: what was dispatched is finished even when its client is gone

pub mod answer;
pub mod authenticate;
pub mod authorize;
pub mod bound;
pub mod carry_on;
pub mod dispatch;
pub mod feed;
#[cfg(test)]
mod fixture;
mod join;
mod question;
pub mod receive;
mod record;
pub mod refuse;
pub mod relay;
pub mod reservation;
pub mod reserve;
pub mod route;
pub mod settle;

use std::sync::Arc;

use hyper::body::Incoming;
use tracing::Instrument;

use self::answer::Answer;
use self::receive::Head;
use crate::plane::Plane;
use crate::rejection::Rejection;

/// Serves one chat completion: the answer of the provider, or the refusal that says why not.
pub async fn handle(plane: &Arc<Plane>, head: Arc<Head>, body: Incoming) -> Answer {
    let caller = match authenticate::authenticate(plane, &head) {
        Ok(caller) => caller,
        // Nobody to record it for: an unknown key has no chain.
        Err(rejection) => return Answer::refusal(&head, &rejection),
    };
    let mut model = String::new();
    match admit(plane, &caller, &head, body, &mut model).await {
        Ok(answer) => answer,
        Err(rejection) => {
            refuse::refuse(plane, &caller, &head, model, &rejection);
            Answer::refusal(&head, &rejection).to(caller.key().id)
        }
    }
}

/// The straight line. An error means that nothing was dispatched and nothing is held.
async fn admit(
    plane: &Arc<Plane>,
    caller: &authenticate::Caller,
    head: &Arc<Head>,
    body: Incoming,
    model: &mut String,
) -> Result<Answer, Rejection> {
    authorize::standing(caller.key(), plane.clock.now())?;
    let inbound = receive::receive(plane, head, body).instrument(tracing::debug_span!("receive")).await?;
    model.clone_from(&inbound.request.model);
    let permit = authorize::authorize(plane, caller, &inbound)?;
    let candidates = route::route(plane, &permit, head)?;
    let bound = bound::bound(&permit, &inbound.request)?;
    let reservation = reserve::reserve(plane, &permit, head, bound).instrument(tracing::debug_span!("reserve")).await?;
    // Reserving may have waited for the ledger, and the key may have been revoked meanwhile.
    authorize::still_stands(plane, &permit)?;
    let dispatched = dispatch::dispatch(plane, reservation, &candidates, head, inbound);
    dispatched.instrument(tracing::debug_span!("dispatch", otel.kind = "client")).await
}
