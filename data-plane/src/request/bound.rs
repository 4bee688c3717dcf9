//! How much at most: the provable upper bound of what a request can cost, and how far its output may be cut to fit what the key can pay.

use std::borrow::Cow;

use keyforge_providers::bound::{InputBound, input_bound};
use keyforge_providers::openai::request::{ChatRequest, RequestedTier};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::usage::ServiceTier;

use super::authorize::Permit;
use crate::rejection::Rejection;

/// An output limit is not cut below this many tokens (or the client's own lower limit): an answer of a few words would only waste its prompt.
const LEAST_OUTPUT: u64 = 16;

/// The most that a request can cost, and what it is made of.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Nano-dollars.
    pub amount: NanoUsd,
    /// Whether the key has a spend limit, so that the amount is a promise and the output limit is sent upstream.
    pub capped: bool,
    /// Most input tokens.
    input: u64,
    /// Most output tokens of one choice.
    pub output: Option<u64>,
    /// Choices.
    choices: u64,
    /// Tiers that it may be billed at.
    tiers: &'static [ServiceTier],
    /// Whether the output limit was lowered below what client, model and policy allow.
    pub clamped: bool,
}

/// Computes the bound.
///
/// # Errors
/// On keys with a spend limit: [`Rejection::ModelNotPriced`] without a price, [`Rejection::CostUnbounded`] naming the field that could cost any amount.
pub fn bound(permit: &Permit, request: &ChatRequest) -> Result<Bound, Rejection> {
    let _step = tracing::debug_span!("bound").entered();
    let (model, policy) = (permit.model(), &permit.key().policy);
    let capped = policy.is_capped();
    let ceiling = least([model.max_output_tokens, policy.max_output_tokens]);
    let output = least([request.max_output_tokens(), ceiling]);
    let mut bound = Bound {
        amount: NanoUsd::ZERO,
        capped,
        input: 0,
        output,
        choices: request.n,
        tiers: tiers(request.service_tier.as_ref()),
        clamped: false,
    };
    if capped {
        if model.prices.is_none() {
            return Err(Rejection::ModelNotPriced(model.name.clone()));
        }
        if let Some(field) = request.billed_extras.first() {
            return Err(Rejection::CostUnbounded(Cow::Borrowed(field)));
        }
        if let Some(part) = request.content.unknown_parts.first() {
            return Err(Rejection::CostUnbounded(Cow::Owned(format!("messages: content of type {part}"))));
        }
    }
    match input_bound(request, model.context_tokens) {
        InputBound::Tokens(tokens) => bound.input = tokens,
        InputBound::Unboundable(field) if capped => return Err(Rejection::CostUnbounded(Cow::Borrowed(field))),
        InputBound::Unboundable(_) => {}
    }
    bound.amount = bound.price(permit, output);
    Ok(bound)
}

impl Bound {
    fn price(&self, permit: &Permit, output: Option<u64>) -> NanoUsd {
        let Some(prices) = &permit.model().prices else { return NanoUsd::ZERO };
        // Without any known limit the amount is beyond every budget, which the clamp then brings down.
        let output = if self.capped { output.unwrap_or(u64::MAX) } else { output.unwrap_or(0) };
        prices.bound(self.input, output.saturating_mul(self.choices), self.tiers)
    }

    /// The same request with its output cut to what `budget` pays for; `None` when too little would be left of it.
    #[must_use]
    pub fn cut_to(&self, permit: &Permit, budget: NanoUsd) -> Option<Self> {
        let prices = permit.model().prices.as_ref()?;
        let affordable = prices.affordable_output(self.input, budget, self.tiers)? / self.choices;
        let wanted = self.output.unwrap_or(u64::MAX);
        if affordable < wanted.min(LEAST_OUTPUT) {
            return None;
        }
        let output = affordable.min(wanted);
        let amount = self.price(permit, Some(output));
        Some(Self { amount, output: Some(output), clamped: self.clamped || output < wanted, ..*self })
    }

    /// The least that this request needs.
    #[must_use]
    pub fn least(&self, permit: &Permit) -> NanoUsd {
        self.price(permit, Some(self.output.unwrap_or(u64::MAX).min(LEAST_OUTPUT)))
    }
}

fn least(limits: [Option<u64>; 2]) -> Option<u64> {
    limits.into_iter().flatten().min()
}

/// Every tier that the request could be billed at. Unless it names one, the provider's project settings decide, which are not ours to know.
fn tiers(requested: Option<&RequestedTier>) -> &'static [ServiceTier] {
    use ServiceTier::{Flex, Priority, Standard};
    match requested {
        Some(RequestedTier::Default) => &[Standard],
        Some(RequestedTier::Flex) => &[Standard, Flex],
        Some(RequestedTier::Auto | RequestedTier::Priority | RequestedTier::Other(_)) | None => {
            &[Standard, Priority, Flex]
        }
    }
}
