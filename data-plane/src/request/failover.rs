//! One attempt after another, each with another credential of the same provider and for the same model, until one is answered or no other may be made.
//!
//! Another attempt is made only while the client has got nothing, only after a refusal or a failure to connect, and only within the provider's budget of
//! further attempts. Each has its own reservation, its own intent and its own entry; a request is counted once, with its last attempt.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::Full;
use keyforge_providers::fault::FaultKind;
use keyforge_providers::patch::Pieces;
use tokio::time::Instant;

use super::answer::Answer;
use super::attempt::{Call, Held};
use super::authorize;
use super::bound::Bound;
use super::outcome::{A_MOMENT, Failed, Outcome, is_refusal};
use super::refuse::refuse;
use super::reservation::Reservation;
use super::reserve::{FIRST, reserve_again};
use super::route;
use super::settle::{Charge, Commitment};
use crate::plane::Plane;
use crate::pool::{Asking, Blame, LONGEST_WAIT, Pool, Turn, Unserved};
use crate::rejection::Rejection;
use crate::upstream;

/// Most attempts at one request.
const MOST_ATTEMPTS: usize = 4;

/// The attempts at one request.
pub struct Failover {
    call: Call,
    pool: Arc<Pool>,
    digest: Option<[u8; 32]>,
    held: Held,
    /// Credentials that failed it.
    tried: Vec<usize>,
    /// What that said about them.
    blame: Blame,
    /// How much longer it may wait for a credential.
    patience: Duration,
    /// Whether it was refused by all that it may try and has got in line as others do.
    has_come_back: bool,
}

/// An attempt that is written down and may be sent.
pub struct Begun {
    commitment: Commitment,
    bound: Bound,
    request: Request<Full<Pieces>>,
    turn: Turn,
}

/// What a failed attempt leaves.
enum Next {
    Again(Box<Begun>),
    /// No other may be made; this is what the client is told.
    Over(Box<Answer>),
}

impl Failover {
    /// Nothing was attempted yet.
    pub fn new(call: Call, pool: Arc<Pool>, digest: Option<[u8; 32]>, held: Held) -> Self {
        let patience = route::patience(&call.head).min(LONGEST_WAIT);
        Self { call, pool, digest, held, tried: Vec::new(), blame: Blame::default(), patience, has_come_back: false }
    }

    /// Waits for a credential if it must, and writes the attempt down.
    ///
    /// # Errors
    /// A rejection; the reservation is given back.
    pub async fn begin(&mut self, reservation: Reservation) -> Result<Box<Begun>, Rejection> {
        let turn = self.turn(&reservation).await.map_err(|unserved| route::unserved(&self.pool, unserved))?;
        self.write_down(reservation, turn)
    }

    fn write_down(&self, reservation: Reservation, turn: Turn) -> Result<Box<Begun>, Rejection> {
        // The key may have been revoked while the request waited.
        authorize::still_stands(&self.call.plane, &self.call.permit)?;
        if self.tried.is_empty() {
            self.call.plane.pools.first_attempt(&self.pool);
        }
        let bound = *reservation.bound();
        // It is held for as long as another attempt may be made.
        let outgoing = self.held.outgoing().ok_or(Rejection::Internal)?.clone();
        let mut request = upstream::request(turn.candidate(), outgoing, &self.call.head.parts.headers)
            .map_err(|_| Rejection::NoCredential(self.pool.provider.clone()))?;
        keyforge_runtime::propagation::inject(&tracing::Span::current(), request.headers_mut());
        let commitment =
            reservation.commit_to(turn.candidate(), self.call.is_streamed, self.digest).map_err(|error| {
                self.call.plane.metrics.failed_closed("spool");
                tracing::debug!(%error, "a request was refused because it could not be written down");
                Rejection::AuditUnavailable
            })?;
        Ok(Box::new(Begun { commitment, bound, request, turn }))
    }

    /// Sends one attempt after another and brings the answer back.
    pub async fn run(mut self: Box<Self>, mut begun: Box<Begun>) -> Answer {
        loop {
            let Begun { commitment, bound, request, mut turn } = *begun;
            self.held.may_be_sent_again = self.tried.len() + 1 < self.most_attempts() || self.may_come_back_later();
            let outcome = self.call.attempt(commitment, request, &mut turn, &mut self.held).await;
            let slot = turn.slot().to_owned();
            let failed = match outcome {
                Outcome::Answered(answer) => {
                    self.blame.is_served();
                    return answer.served_by(turn.passed()).after(self.number(), &slot);
                }
                Outcome::Failed(failed) => failed,
            };
            self.tried.push(turn.index());
            match &failed.fault {
                Some(fault) => turn.failed(fault, &mut self.blame),
                None if was_not_sent(&failed) => turn.unreached(),
                None => drop(turn),
            }
            match self.next(*failed, bound).await {
                Next::Again(again) => begun = again,
                Next::Over(answer) => return answer.after(self.number_of_last(), &slot),
            }
        }
    }

    async fn turn(&mut self, reservation: &Reservation) -> Result<Turn, Unserved> {
        let since = Instant::now();
        let asking = Asking {
            key: reservation.permit().key().id,
            need: reservation.bound().need(),
            tried: &self.tried,
            patience: self.patience,
        };
        let turn = self.call.plane.pools.turn(&self.pool, asking).await;
        self.patience = self.patience.saturating_sub(since.elapsed());
        turn
    }

    /// Another attempt, if one may be made.
    async fn next(&mut self, failed: Failed, bound: Bound) -> Next {
        let Some(class) = self.may_be_replayed(&failed) else { return Next::Over(Box::new(self.over(failed))) };
        let (pools, pool) = (&self.call.plane.pools, &self.pool);
        if self.held.outgoing().is_none() || pools.glance(pool, self.patience).is_err() || !pools.may_try_again(pool) {
            return Next::Over(Box::new(self.over(failed)));
        }
        let rejection = self.shown(&failed);
        self.has_come_back |= self.tried.len() >= self.most_attempts();
        let cost = failed.make_way().await;
        self.call.cost_before = self.call.cost_before.saturating_add(cost);
        match self.again(bound).await {
            Ok(begun) => {
                self.call.plane.metrics.replayed(class);
                Next::Again(begun)
            }
            // A key that works no more is told so, and of a pool when it can serve again.
            Err(Some(
                now @ (Rejection::PoolExhausted { .. }
                | Rejection::KeyRevoked
                | Rejection::TokenReplaced(_)
                | Rejection::KeyPaused
                | Rejection::KeyExpired(_)),
            )) => Next::Over(Box::new(self.refused(&now))),
            // That there is no room for another attempt is not why it failed.
            Err(_) => Next::Over(Box::new(self.refused(&rejection))),
        }
    }

    /// A further attempt with a reservation of its own. It must hold as much as the first: the body says what the provider may make.
    async fn again(&mut self, bound: Bound) -> Result<Box<Begun>, Option<Rejection>> {
        let (plane, permit) = (&self.call.plane, self.call.permit.made_at(self.call.plane.clock.now()));
        authorize::still_stands(plane, &permit).map_err(Some)?;
        let number = self.number();
        let reservation = reserve_again(plane, &permit, &self.call.head, bound, number).await.map_err(Some)?;
        if reservation.bound().output != bound.output {
            return Err(None);
        }
        let turn = self.turn(&reservation).await.map_err(|unserved| Some(route::unserved(&self.pool, unserved)))?;
        if self.call.gone.is_set() {
            // It left while this waited: nobody would get the answer, which would be charged.
            return Err(None);
        }
        self.write_down(reservation, turn).map_err(Some)
    }

    /// What a failed attempt met, if another may be served.
    fn may_be_replayed(&self, failed: &Failed) -> Option<&'static str> {
        let has_attempts = self.tried.len() < self.most_attempts() || self.may_come_back(failed);
        if !has_attempts || self.call.gone.is_set() {
            return None;
        }
        match &failed.fault {
            // What a second credential lacks as well is not tried with a third.
            Some(fault) if fault.kind == FaultKind::NoModel && self.blame.is_no_model() => None,
            Some(fault) if is_refusal(fault) => Some("refused"),
            None if was_not_sent(failed) => Some("not_connected"),
            Some(_) | None => None,
        }
    }

    /// Whoever finds a pool shut waits for it. So does once who finds out that it is, if that cost nothing.
    fn may_come_back(&self, failed: &Failed) -> bool {
        !self.has_come_back
            && matches!(failed.ending.charge, Charge::NotBilled)
            && failed.fault.as_ref().is_some_and(|fault| is_of_the_moment(fault.kind))
            && matches!(self.call.plane.pools.glance(&self.pool, Duration::ZERO), Err(Unserved::Later(_)))
    }

    /// Whether its body may be kept for that: while the node has room to spare.
    fn may_come_back_later(&self) -> bool {
        let Plane { body_room, limits, .. } = &*self.call.plane;
        !self.has_come_back && body_room.available_permits() as u64 > limits.buffered_bytes / 2
    }

    /// The last attempt failed: what the client gets.
    fn over(&self, mut failed: Failed) -> Answer {
        let rejection = self.shown(&failed);
        (failed.ending.status, failed.ending.rejection) = (rejection.status().as_u16(), Some(rejection.code()));
        let cost = self.call.cost_before.saturating_add(failed.settle());
        Answer::failure(&self.call.head, &self.call.permit, &rejection, cost, &self.call.terms)
    }

    /// Every attempt is settled and made way for one that may not be made. None of them counts, so the request is recorded as what it is to its client.
    fn refused(&self, rejection: &Rejection) -> Answer {
        let Call { plane, head, permit, terms, cost_before, .. } = &self.call;
        refuse(plane, permit.key(), head, permit.model().name.clone(), rejection);
        if rejection.status() == StatusCode::UNAUTHORIZED {
            // A key that does not work has no limits to tell of.
            return Answer::refusal(head, rejection).to(permit.key());
        }
        Answer::failure(head, permit, rejection, *cost_before, terms)
    }

    /// What a failed attempt tells the client: of what a pool can be shut for, when the pool can serve it, and not when that one credential can.
    fn shown(&self, failed: &Failed) -> Rejection {
        let is_overload = failed.fault.as_ref().is_some_and(|fault| fault.kind == FaultKind::Overloaded);
        let (is_limit, is_denied) = match failed.rejection {
            Rejection::PoolExhausted { .. } => (true, false),
            Rejection::NoCredential(_) => (false, true),
            _ => (false, false),
        };
        match self.call.plane.pools.glance(&self.pool, Duration::ZERO) {
            Err(unserved) if is_limit || is_denied || is_overload => route::unserved(&self.pool, unserved),
            // One can be used at this moment: this request has used up its attempts.
            Ok(()) if is_limit => Rejection::PoolExhausted { retry_after: A_MOMENT },
            // No limit, so no time helps: another credential may, if there is one that has not denied it.
            Ok(()) if is_denied && !self.has_tried_all() => {
                Rejection::UpstreamFailed(failed.fault.as_ref().and_then(|fault| fault.status).unwrap_or(200))
            }
            Ok(()) | Err(_) => failed.rejection.clone(),
        }
    }

    fn has_tried_all(&self) -> bool {
        (0..self.pool.members.len()).all(|index| self.tried.contains(&index))
    }

    fn most_attempts(&self) -> usize {
        self.pool.members.len().clamp(1, MOST_ATTEMPTS)
    }

    /// The number of the attempt that is made, or would be.
    fn number(&self) -> u16 {
        FIRST.saturating_add(u16::try_from(self.tried.len()).unwrap_or(u16::MAX))
    }

    fn number_of_last(&self) -> u16 {
        u16::try_from(self.tried.len()).unwrap_or(u16::MAX)
    }
}

/// What a pool is shut for of which the provider says that it passes.
const fn is_of_the_moment(kind: FaultKind) -> bool {
    matches!(kind, FaultKind::Throttled | FaultKind::Overloaded)
}

/// No connection: whoever is asked next gets it for the first time.
const fn was_not_sent(failed: &Failed) -> bool {
    failed.fault.is_none() && matches!(failed.ending.charge, Charge::NotDispatched)
}

#[cfg(test)]
#[path = "failover_tests.rs"]
mod tests;
