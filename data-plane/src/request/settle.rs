//! The end of an attempt: the truth replaces the reservation, and the attempt is recorded.
//!
//! A reservation is settled exactly once, by value. One that is dropped unsettled settles itself: at nothing when it was never dispatched, else at its
//! bound, since what is unknown is charged.

use std::sync::Arc;

use keyforge_shared::audit::request::{Flags, Outcome, PrivateTag, PrivateValue, RequestRecord, day_of};
use keyforge_shared::id::CredentialId;
use keyforge_shared::limit::{Dimension, touched};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::usage::{ServiceTier, Usage};
use tracing::Instrument;

use super::authorize::Permit;
use super::bound::Bound;
use super::carry_on::now_or_spawn;
use super::receive::Head;
use crate::audit::{Intent, SpoolError};
use crate::counters::{Admission, CounterStore, ReservationId, Settled, Settlement};
use crate::plane::Plane;
use crate::pool::Candidate;
use crate::rejection::Rejection;

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
    /// The status that the client got.
    pub status: u16,
    /// The class of service that was billed.
    pub tier: Option<ServiceTier>,
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

/// What a key holds for one attempt.
pub struct Reservation {
    open: Option<Open>,
    plane: Arc<Plane>,
}

struct Open {
    permit: Permit,
    id: ReservationId,
    epoch: u32,
    bound: Bound,
    started: u64,
    flags: Flags,
    credential: Option<CredentialId>,
    request_digest: Option<[u8; 32]>,
}

impl Reservation {
    /// Called by [`super::reserve`] alone, with what the counters admitted.
    pub(super) fn new(
        plane: &Arc<Plane>,
        permit: &Permit,
        head: &Head,
        id: ReservationId,
        bound: Bound,
        admission: &Admission,
    ) -> Self {
        let open = Open {
            permit: permit.again(),
            id,
            epoch: admission.epoch,
            bound,
            started: head.started,
            flags: if bound.clamped { Flags::CLAMPED } else { Flags(0) },
            credential: None,
            request_digest: None,
        };
        Self { open: Some(open), plane: Arc::clone(plane) }
    }

    /// What it was made for; `None` once it is settled.
    #[must_use]
    pub fn permit(&self) -> Option<&Permit> {
        self.open.as_ref().map(|open| &open.permit)
    }

    /// What it holds.
    #[must_use]
    pub fn bound(&self) -> Option<Bound> {
        self.open.as_ref().map(|open| open.bound)
    }

    /// Writes down that the attempt is about to be dispatched. From here on it is charged unless it is settled otherwise.
    ///
    /// # Errors
    /// [`SpoolError`] when it cannot be written down; it must not be dispatched then.
    pub fn commit_to(
        &mut self,
        candidate: &Candidate,
        streamed: bool,
        digest: Option<[u8; 32]>,
    ) -> Result<(), SpoolError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if streamed {
            open.flags = open.flags.with(Flags::STREAMED);
        }
        open.request_digest = digest;
        let (key, model) = (open.permit.key(), open.permit.model());
        self.plane.spool.intent(&Intent {
            request: open.id.request,
            attempt: open.id.attempt,
            chain: key.chain,
            key: key.id,
            model: model.name.clone(),
            credential: candidate.credential.id,
            period: day_of(open.permit.at()),
            quota_epoch: open.epoch,
            bound: open.bound.amount,
            flags: open.flags,
            t_node: self.plane.clock.now(),
        })?;
        open.credential = Some(candidate.credential.id);
        let elapsed = self.plane.clock.monotonic_nanos().saturating_sub(open.started);
        self.plane.metrics.dispatched(seconds(elapsed));
        Ok(())
    }

    /// Settles and records. Returns what was charged.
    pub async fn settle(mut self, ending: Ending) -> NanoUsd {
        match self.open.take() {
            Some(open) => settle(&self.plane, open, ending).instrument(tracing::debug_span!("settle")).await,
            None => NanoUsd::ZERO,
        }
    }

    /// As [`Self::settle`], without waiting for it.
    pub fn settle_soon(self, ending: Ending) {
        let shutdown = self.plane.shutdown.clone();
        now_or_spawn(&shutdown, "settle", async move {
            self.settle(ending).await;
        });
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        let plane = Arc::clone(&self.plane);
        now_or_spawn(&self.plane.shutdown, "settle", async move {
            if open.credential.is_some() {
                settle(&plane, open, Ending::new(Charge::Unknown, 499).with(Flags::CLIENT_GONE)).await;
            } else if let Err(error) = plane.counters.cancel(open.permit.key().id, open.epoch, open.id).await {
                // Whoever was refused is recorded as refused; here only the hold is given back.
                tracing::warn!(request = %open.id.request, %error, "a hold could not be given back; it expires by itself");
            }
        });
    }
}

async fn settle(plane: &Plane, open: Open, ending: Ending) -> NanoUsd {
    let (key, model) = (open.permit.key().clone(), open.permit.model().clone());
    let (cost, mut flags) = price(&open, &ending);
    let settled = match ending.charge {
        Charge::NotDispatched => plane.counters.cancel(key.id, open.epoch, open.id).await,
        _ => plane.counters.settle(key.id, open.epoch, open.id, Settlement { cost, counted: true }).await,
    };
    match settled {
        Ok(Settled::Done { over_bound: false } | Settled::Late { over_bound: false }) => {}
        Ok(Settled::Done { over_bound: true } | Settled::Late { over_bound: true }) => {
            flags = flags.with(Flags::BOUND_EXCEEDED);
            plane.metrics.bound_exceeded();
            tracing::error!(key = %key.id, request = %open.id.request, model = %model.name, bound = %open.bound.amount, %cost,
                "a request cost more than its bound; its key is frozen until an operator looks at it");
            if plane.counters.freeze(key.id).await.is_err() {
                tracing::error!(key = %key.id, "the key could not be frozen");
            }
        }
        // The record below reaches the ledger whatever became of the counters.
        Ok(Settled::Duplicate | Settled::Unknown) | Err(_) => {
            tracing::warn!(key = %key.id, request = %open.id.request, "a settlement found no reservation");
        }
    }
    let usage = match &ending.charge {
        Charge::Known(usage) => Some(*usage),
        Charge::Unknown | Charge::NotBilled | Charge::NotDispatched => None,
    };
    let elapsed = plane.clock.monotonic_nanos().saturating_sub(open.started);
    plane.metrics.charged(&model, usage.as_ref(), cost.nanos(), seconds(elapsed));
    let record = record(plane, &open, &ending, usage.unwrap_or_default(), cost, flags);
    if let Err(error) = plane.spool.record(record) {
        plane.metrics.failed_closed("spool");
        tracing::error!(request = %open.id.request, %error, "an attempt could not be recorded; its intent stands and charges the bound");
    }
    cost
}

fn price(open: &Open, ending: &Ending) -> (NanoUsd, Flags) {
    let flags = open.flags.with(ending.flags);
    match &ending.charge {
        Charge::Known(usage) => {
            let prices = open.permit.model().prices.as_ref();
            let cost = prices.map_or(NanoUsd::ZERO, |prices| prices.cost(usage, ending.tier.unwrap_or_default()));
            (cost, flags.with(Flags::USAGE_KNOWN))
        }
        Charge::Unknown => (open.bound.amount, flags),
        Charge::NotBilled => (NanoUsd::ZERO, flags.with(Flags::NOT_BILLED)),
        Charge::NotDispatched => (NanoUsd::ZERO, flags.with(Flags::NOT_BILLED).with(Flags::NOT_COUNTED)),
    }
}

fn record(plane: &Plane, open: &Open, ending: &Ending, usage: Usage, cost: NanoUsd, flags: Flags) -> RequestRecord {
    let mut private = Vec::new();
    let mut add = |tag, value: Vec<u8>| private.extend(private_value(tag, value));
    for (tag, tokens) in [
        (PrivateTag::REASONING_TOKENS, usage.reasoning),
        (PrivateTag::INPUT_AUDIO_TOKENS, usage.input_audio),
        (PrivateTag::OUTPUT_AUDIO_TOKENS, usage.output_audio),
    ] {
        if tokens > 0 {
            add(tag, tokens.to_be_bytes().to_vec());
        }
    }
    if let Some(answered) = &ending.answered_model {
        add(PrivateTag::ANSWERED_MODEL, answered.as_bytes().to_vec());
    }
    if let Some(code) = ending.rejection {
        add(PrivateTag::REJECTION, code.as_bytes().to_vec());
    }
    let digests = open.request_digest.zip(ending.response_digest.or(Some([0; 32])));
    RequestRecord {
        deployment: plane.identity.deployment,
        chain: open.permit.key().chain,
        outcome: Outcome::Completed,
        node: plane.identity.node,
        boot: plane.identity.boot,
        node_seq: 0,
        request: open.id.request,
        attempt: open.id.attempt,
        period: day_of(open.permit.at()),
        quota_epoch: open.epoch,
        t_node: plane.clock.now(),
        t_mono_ns: plane.clock.monotonic_nanos(),
        model: open.permit.model().name.clone(),
        credential: open.credential.unwrap_or(CredentialId::from_bytes([0; 16])),
        status: ending.status,
        input_tokens: usage.input.saturating_add(usage.input_audio),
        output_tokens: usage.output_total(),
        cache_read_tokens: usage.cache_read,
        cache_write_tokens: usage.cache_write_5m.saturating_add(usage.cache_write_1h),
        cost,
        bound: open.bound.amount,
        flags: if digests.is_some() { flags.with(Flags::DIGESTS) } else { flags },
        request_digest: digests.map_or([0; 32], |(request, _)| request),
        response_digest: digests.map_or([0; 32], |(_, response)| response),
        private,
    }
}

/// A private value with a fresh salt; left out when there is no randomness, since without a salt it would not be private.
pub(super) fn private_value(tag: PrivateTag, value: Vec<u8>) -> Option<PrivateValue> {
    Some(PrivateValue { tag, salt: *keyforge_shared::id::RequestId::generate().ok()?.as_bytes(), value })
}

/// What is left of the key's tightest spend limit, as far as this node knows: what other nodes were granted counts as spent. `None` without one.
pub async fn budget_left(plane: &Plane, permit: &Permit) -> Option<NanoUsd> {
    let key = permit.key();
    let limits =
        touched(key.id, &key.policy, permit.at()).filter(|touched| touched.counter.dimension == Dimension::Spend);
    let books = if key.policy.is_capped() { plane.counters.books(key.id).await.ok()? } else { return None };
    let left = limits.filter_map(|touched| {
        let book = books.iter().find(|book| book.counter == touched.counter)?;
        Some(touched.limit.saturating_sub(book.elsewhere).saturating_sub(book.used).saturating_sub(book.held))
    });
    left.min().map(NanoUsd::new)
}

/// Nanoseconds as seconds, for metrics.
#[expect(clippy::cast_precision_loss, reason = "a metric needs no more than 53 bits")]
#[must_use]
pub fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
