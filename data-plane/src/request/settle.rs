//! The end of an attempt: the truth replaces the reservation, and the attempt is recorded.
//!
//! An attempt that was committed is settled exactly once, by value. One that is dropped unsettled settles itself at its bound, since what is
//! unknown is charged. The record goes to the spool first; the counter store is told after that, and nobody waits for it.

use std::sync::Arc;

use keyforge_counters::{CounterStore, ReservationId, Settlement};
use keyforge_shared::audit::request::Flags;
use keyforge_shared::money::NanoUsd;
use keyforge_shared::usage::{ServiceTier, Usage};

use super::authorize::Permit;
use super::bound::Bound;
use super::record::record;
use super::reservation::Hold;
use crate::audit::Intent;
use crate::plane::Plane;
use crate::rejection::Rejection;
use crate::settlements::About;

/// What is known of an attempt's cost when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// The provider said what it took.
    Known(Usage),
    /// Nobody knows: the bound is charged.
    Unknown,
    /// The provider refused before it began: nothing was billed, but the request counts.
    NotBilled,
    /// Nothing was sent: nothing was billed and nothing counts.
    NotDispatched,
}

/// How an attempt ended.
pub struct Ending {
    /// What is known of its cost.
    pub charge: Charge,
    /// The status that the client got; of an attempt that made way for another, the provider's if it gave one.
    pub status: u16,
    /// The class of service that was billed.
    pub tier: Option<ServiceTier>,
    /// Whether it was served within one region, for which the provider may ask more.
    pub in_region: bool,
    /// The model that says it answered.
    pub answered_model: Option<String>,
    /// Further facts.
    pub flags: Flags,
    /// SHA-256 of the provider's answer, where digests are kept.
    pub response_digest: Option<[u8; 32]>,
    /// The rejection that the client got, if it got one.
    pub rejection: Option<&'static str>,
}

impl Ending {
    /// An ending with this much known and nothing else.
    #[must_use]
    pub const fn new(charge: Charge, status: u16) -> Self {
        Self {
            charge,
            status,
            tier: None,
            in_region: false,
            answered_model: None,
            flags: Flags(0),
            response_digest: None,
            rejection: None,
        }
    }

    /// The same, with the client told `rejection`.
    #[must_use]
    pub fn rejected(charge: Charge, rejection: &Rejection) -> Self {
        Self { rejection: Some(rejection.code()), ..Self::new(charge, rejection.status().as_u16()) }
    }

    /// The same, with further facts.
    #[must_use]
    pub const fn with(mut self, flags: Flags) -> Self {
        self.flags = self.flags.with(flags);
        self
    }
}

/// An attempt that is written down and may be sent. It is charged.
pub struct Commitment {
    plane: Arc<Plane>,
    /// `None` once it is settled.
    open: Option<Box<Open>>,
}

/// What is known of an attempt while it runs.
pub(super) struct Open {
    pub permit: Permit,
    pub id: ReservationId,
    pub hold: Hold,
    /// What was written down before it was dispatched.
    pub intent: Intent,
    /// The most that it can cost by now.
    pub bound: Bound,
    pub started: u64,
    pub request_digest: Option<[u8; 32]>,
}

impl Commitment {
    pub(super) fn new(plane: Arc<Plane>, open: Open) -> Self {
        Self { plane, open: Some(Box::new(open)) }
    }

    /// The provider said early what the input took: what was held beyond that is let go.
    pub fn input_known(&mut self, input: &Usage) {
        let Some(open) = &mut self.open else { return };
        let Some(lower) = open.bound.with_known_input(&open.permit, input) else { return };
        open.bound = lower;
        let tokens = open.permit.key().policy.tokens_per_minute.and_then(|_| lower.tokens());
        open.hold.shrink(&Intent { bound: lower.amount, ..open.intent.clone() }, tokens);
    }

    /// Settles and records. Returns what was charged.
    pub fn settle(mut self, ending: Ending) -> NanoUsd {
        let open = self.open.take();
        open.map_or(NanoUsd::ZERO, |open| settle(&self.plane, *open, ending).cost)
    }

    /// The same, and waits until the counter store has been told, which it is in any case: whoever asks it next must not find this attempt in the way.
    /// Returns what was charged.
    pub async fn make_way(mut self, ending: Ending) -> NanoUsd {
        let Some(open) = self.open.take() else { return NanoUsd::ZERO };
        let about = open.hold.about();
        let settlement = settle(&self.plane, *open, ending);
        if let Some(About { key, epoch, id }) = about.filter(|_| !self.plane.settlements.are_told_at_once()) {
            // Telling it twice does no harm. If it is away, it is told later.
            drop(self.plane.counters.settle(key, epoch, id, settlement).await);
        }
        settlement.cost
    }
}

impl Drop for Commitment {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            settle(&self.plane, *open, Ending::new(Charge::Unknown, 499).with(Flags::CLIENT_GONE));
        }
    }
}

fn settle(plane: &Plane, open: Open, ending: Ending) -> Settlement {
    let _step = tracing::debug_span!("settle").entered();
    let (cost, mut flags) = price(&open, &ending);
    if open.bound.capped && cost > open.bound.amount {
        flags = flags.with(Flags::BOUND_EXCEEDED);
        stop(plane, &open, cost);
    }
    let usage = match &ending.charge {
        Charge::Known(usage) => Some(*usage),
        Charge::Unknown | Charge::NotBilled | Charge::NotDispatched => None,
    };
    let elapsed = plane.clock.monotonic_nanos().saturating_sub(open.started);
    plane.metrics.charged(open.permit.model(), usage.as_ref(), cost.nanos(), seconds(elapsed));
    let record = record(plane, &open, &ending, usage.unwrap_or_default(), (cost, flags));
    let recorded = plane.spool.record(record);
    if let Err(error) = &recorded {
        plane.metrics.failed_closed("spool");
        tracing::error!(request = %open.id.request, %error, "an attempt could not be recorded; its intent stands and charges the bound");
    }
    let tokens = match &ending.charge {
        Charge::NotDispatched | Charge::NotBilled => Some(0),
        Charge::Unknown => None,
        Charge::Known(usage) => Some(usage.input_total().saturating_add(usage.output_total())),
    };
    let settlement = Settlement { cost, counted: !flags.has(Flags::NOT_COUNTED), tokens };
    open.hold.end(settlement, recorded.ok());
    settlement
}

/// A request cost more than its bound: until somebody has looked at it, its key does nothing more.
fn stop(plane: &Plane, open: &Open, cost: NanoUsd) {
    let (key, model) = (open.permit.key().id, &open.permit.model().name);
    plane.metrics.bound_exceeded();
    tracing::error!(%key, request = %open.id.request, model, bound = %open.bound.amount, %cost,
        "a request cost more than its bound; its key is stopped until an operator looks at it and resumes it");
    plane.settlements.freeze(key, plane.replica.revision());
}

fn price(open: &Open, ending: &Ending) -> (NanoUsd, Flags) {
    let flags = open.intent.flags.with(ending.flags);
    match &ending.charge {
        Charge::Known(usage) => {
            let cost = open.bound.cost(open.permit.model(), usage, ending.tier, ending.in_region);
            (cost, flags.with(Flags::USAGE_KNOWN))
        }
        Charge::Unknown => (open.bound.amount, flags),
        Charge::NotBilled => (NanoUsd::ZERO, flags.with(Flags::NOT_BILLED)),
        Charge::NotDispatched => (NanoUsd::ZERO, flags.with(Flags::NOT_BILLED).with(Flags::NOT_COUNTED)),
    }
}

/// Nanoseconds as seconds, for metrics.
#[expect(clippy::cast_precision_loss, reason = "a metric needs no more than 53 bits")]
#[must_use]
pub fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
