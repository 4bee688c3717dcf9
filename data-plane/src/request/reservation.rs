//! What an admitted request holds before it is dispatched. Dropped, it gives everything back; committed, it will be charged.

use std::sync::Arc;

use keyforge_counters::{Settlement, Standing};
use keyforge_providers::chat::ignored::Ignored;
use keyforge_shared::audit::request::Flags;
use keyforge_shared::limit::Dimension;
use keyforge_shared::money::NanoUsd;

use super::authorize::Permit;
use super::bound::Bound;
use super::settle::{Commitment, Open, seconds};
use crate::audit::{Asked, Intent, SpoolError};
use crate::leases::Lease;
use crate::memberships::Pass;
use crate::plane::Plane;
use crate::pool::Candidate;
use crate::rate_headers::RateHeaders;
use crate::settlements::{About, Kept};
use keyforge_counters::{Need, ReservationId};

/// What the counter store holds for an attempt, and what keeps it there: the membership of its epoch and the lease of its run.
///
/// Dropped, it is cancelled.
pub(super) struct Hold {
    plane: Arc<Plane>,
    /// `None` for a key without limits and rates, and once the store was told of the end.
    about: Option<About>,
    epoch: u32,
    lease: Option<Lease>,
    pass: Option<Pass>,
    /// Until the intent is written, what a later life would find of it.
    asked: Option<Asked>,
}

impl Hold {
    /// Nothing, for a key that nothing is counted of.
    pub const fn nothing(plane: Arc<Plane>) -> Self {
        Self { plane, about: None, epoch: 0, lease: None, pass: None, asked: None }
    }

    /// What the store admitted.
    pub fn new(plane: Arc<Plane>, about: About, pass: Option<Pass>, lease: Option<Lease>) -> Self {
        Self { plane, about: Some(about), epoch: about.epoch, lease, pass, asked: None }
    }

    /// The same, with what is on disk of its question.
    pub fn asked(mut self, asked: Option<Asked>) -> Self {
        self.asked = asked;
        self
    }

    /// Whether a store that outlives this process holds it.
    fn outlives(&self) -> bool {
        self.about.is_some() && !self.plane.settlements.are_told_at_once()
    }

    /// What the store knows it by; `None` when it holds nothing.
    pub const fn about(&self) -> Option<About> {
        self.about
    }

    /// The epoch that it was made in; 0 without limits.
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Lets go of what the request no longer needs. First of all it is written down that it needs no more: an end that nobody sees is charged by what
    /// was written, and must not cost what others hold by then.
    pub fn shrink(&self, intent: &Intent, tokens: Option<u64>) {
        let Some(about) = self.about else { return };
        match self.plane.spool.lower(intent) {
            Ok(()) => self.plane.settlements.shrink(about, intent.bound, tokens),
            Err(error) => tracing::debug!(request = %about.id.request, %error, "a bound stays as high as it is"),
        }
    }

    /// The attempt ended so, which was recorded before under the number `recorded`, or may be later.
    pub fn end(mut self, settlement: Settlement, recorded: Option<u64>) {
        drop(self.lease.take());
        let kept = recorded.filter(|_| self.outlives()).map_or(Kept::Nothing, Kept::Record);
        if let Some(about) = self.about.take() {
            self.plane.settlements.settle(about, settlement, kept);
        }
        if let (None, Some(pass)) = (recorded, self.pass.take()) {
            pass.keep();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(about) = self.about.take() {
            let kept = self.asked.take().map_or(Kept::Nothing, Kept::Question);
            self.plane.settlements.cancel(about, kept);
        }
    }
}

/// What an answer says about the limits that its request was admitted under.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// The output limit, in tokens, if it is less than what was asked for.
    pub output_limit: Option<u64>,
    /// What the provider is not told of the request.
    ignored: Ignored,
    /// What is left of the key's rates.
    pub rate_headers: RateHeaders,
    /// Nano-dollars left of the tightest spend limit before this request cost anything; below zero when the limit was lowered.
    budget: Option<i128>,
}

impl Terms {
    pub(super) fn new(bound: &Bound, rate_headers: RateHeaders, needs: &[Need], standings: &[Standing]) -> Self {
        let spend = needs.iter().zip(standings).filter(|(need, _)| need.counter.dimension == Dimension::Spend);
        let left = spend.map(|(need, standing)| {
            let gone = [standing.elsewhere, standing.used, standing.held].map(i128::from).iter().sum::<i128>();
            i128::from(need.limit) - gone + i128::from(need.amount)
        });
        Self { output_limit: bound.limit_to_show(), ignored: Ignored::default(), rate_headers, budget: left.min() }
    }

    /// The same of a request of which its provider is not told everything.
    #[must_use]
    pub const fn ignoring(self, ignored: Ignored) -> Self {
        Self { ignored, ..self }
    }

    /// What the provider is not told of the request.
    #[must_use]
    pub const fn ignored(&self) -> Ignored {
        self.ignored
    }

    /// What is left of the key's tightest spend limit when this request cost so much, as far as this node knows: what others were granted counts
    /// as spent. `None` without one.
    #[must_use]
    pub fn budget_after(&self, cost: NanoUsd) -> Option<NanoUsd> {
        let left = self.budget?.saturating_sub(i128::from(cost.nanos()));
        Some(NanoUsd::new(u64::try_from(left).unwrap_or(0)))
    }
}

/// Which attempt it is, and since when its request is here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    /// Its name.
    pub id: ReservationId,
    /// When the request's head came, in nanoseconds of the monotonic clock.
    pub started: u64,
}

/// An admitted attempt that was not dispatched.
pub struct Reservation {
    plane: Arc<Plane>,
    hold: Hold,
    permit: Permit,
    attempt: Attempt,
    bound: Bound,
    terms: Terms,
}

impl Reservation {
    /// Called by [`super::reserve`] alone, with what was admitted.
    pub(super) fn new(
        plane: &Arc<Plane>,
        hold: Hold,
        permit: Permit,
        attempt: Attempt,
        bound: Bound,
        terms: Terms,
    ) -> Self {
        Self { plane: Arc::clone(plane), hold, permit, attempt, bound, terms }
    }

    /// What it was made for.
    #[must_use]
    pub const fn permit(&self) -> &Permit {
        &self.permit
    }

    /// What it holds.
    #[must_use]
    pub const fn bound(&self) -> &Bound {
        &self.bound
    }

    /// What the answer says about limits.
    #[must_use]
    pub const fn terms(&self) -> Terms {
        self.terms
    }

    /// Writes down that the attempt is about to be dispatched. From here on it is charged unless it is settled otherwise.
    ///
    /// # Errors
    /// [`SpoolError`] when it cannot be written down; what was held is given back then.
    pub fn commit_to(
        self,
        candidate: &Candidate,
        streamed: bool,
        digest: Option<[u8; 32]>,
    ) -> Result<Commitment, SpoolError> {
        let Self { plane, mut hold, permit, attempt: Attempt { id, started }, bound, .. } = self;
        let mut flags = if bound.clamped { Flags::CLAMPED } else { Flags(0) };
        if streamed {
            flags = flags.with(Flags::STREAMED);
        }
        let under: Vec<_> = permit.counters().map(|touched| touched.counter).collect();
        flags = flags.under(&under);
        let intent = Intent {
            request: id.request,
            attempt: id.attempt,
            chain: permit.key().chain,
            key: permit.key().id,
            model: permit.model().name.clone(),
            credential: candidate.credential.id,
            period: permit.day().number(),
            quota_epoch: hold.epoch(),
            bound: bound.amount,
            flags,
            t_node: plane.clock.now(),
            holds: hold.outlives(),
        };
        plane.spool.intent(&intent)?;
        drop(hold.asked.take());
        plane.metrics.dispatched(seconds(plane.clock.monotonic_nanos().saturating_sub(started)));
        let open = Open { permit, id, hold, intent, bound, started, request_digest: digest };
        Ok(Commitment::new(plane, open))
    }
}
