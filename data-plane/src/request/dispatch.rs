//! To the provider: the request is written in its language, a credential is chosen, the attempt is written down, and carried on for a moment if the
//! client leaves.

use std::sync::Arc;

use keyforge_providers::exchange::{Destination, Exchange, Outgoing, Stamp};
use keyforge_providers::translate::Target;
use keyforge_shared::money::NanoUsd;
use keyforge_shared::provider;
use sha2::{Digest, Sha256};

use super::answer::Answer;
use super::attempt::{Call, Held};
use super::carry_on::{CarryOn, ClientGone};
use super::failover::Failover;
use super::receive::{Head, Inbound};
use super::reservation::Reservation;
use crate::plane::Plane;
use crate::pool::Pool;
use crate::rejection::Rejection;

/// Sends the request with a credential of the pool, or with several in turn, and brings the answer back.
///
/// # Errors
/// A rejection when nothing was dispatched, and the reservation is given back then; every later failure is an answer, and settled.
pub async fn dispatch(
    plane: &Arc<Plane>,
    reservation: Reservation,
    pool: Arc<Pool>,
    head: &Arc<Head>,
    inbound: Inbound,
) -> Result<Answer, Rejection> {
    let digest = plane.body_digests.then(|| Sha256::digest(&inbound.body).into());
    let (outgoing, exchange) = prepare(plane, &reservation, head, &inbound)?;
    let Inbound { wanted, room, body } = inbound;
    drop(body);
    let gone = ClientGone::default();
    let call = Call {
        plane: Arc::clone(plane),
        head: Arc::clone(head),
        permit: reservation.permit().again(),
        terms: reservation.terms().ignoring(exchange.ignored()),
        exchange,
        is_streamed: wanted.is_streamed(),
        gone: gone.clone(),
        cost_before: NanoUsd::ZERO,
    };
    let held = Held::new(outgoing, room, pool.members.len() > 1);
    let mut failover = Box::new(Failover::new(call, pool, digest, held));
    let begun = failover.begin(reservation).await?;
    Ok(CarryOn::new(plane.shutdown.clone(), gone, failover.run(begun)).await)
}

/// The request as the model's provider wants it. It is the same for every credential of that provider.
fn prepare(
    plane: &Plane,
    reservation: &Reservation,
    head: &Head,
    inbound: &Inbound,
) -> Result<(Outgoing, Exchange), Rejection> {
    let (model, bound) = (reservation.permit().model(), reservation.bound());
    let destination = Destination {
        api: provider::of(&model.provider.0).api,
        target: Target {
            model: &model.upstream_name,
            limit: bound.limit_to_send(&inbound.wanted),
            model_limit: model.max_output_tokens,
        },
        limit_field: bound.limit_field(),
        usage_option: bound.usage_option(),
    };
    let stamp = Stamp {
        id: format!("chatcmpl-{}", head.id),
        created: u64::try_from(plane.clock.now().millis() / 1000).unwrap_or(0),
        model: inbound.wanted.model().to_owned(),
        most_input: bound.most_input(),
    };
    let prepared = inbound.wanted.prepare(inbound.body.clone(), &destination, stamp);
    prepared.map_err(|error| Rejection::BodyInvalid { field: error.field, message: error.message })
}
