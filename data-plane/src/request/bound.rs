//! How much at most: the provable upper bound of what a request can cost, and how far its output may be cut to fit what the key can pay.

use std::borrow::Cow;

use keyforge_providers::bound::{InputBound, InputTokens, embedding_bound, input_bound};
use keyforge_providers::chat::request::RequestedTier;
use keyforge_providers::metering::{self, Metering};
use keyforge_providers::openai::embeddings::EmbeddingsRequest;
use keyforge_providers::openai::request::ChatRequest;
use keyforge_providers::openai::rewrite::MaxTokensField;
use keyforge_shared::admission;
use keyforge_shared::catalog::{Model, Most, Prices, ProviderName, Rates};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::policy::Policy;
use keyforge_shared::usage::{ServiceTier, Usage};

use super::authorize::Permit;
use super::ceiling;
use super::wanted::Wanted;
use crate::pool::Need;
use crate::rejection::Rejection;

/// An output limit is not cut below this many tokens (or the client's own lower limit): an answer of a few words would only waste its prompt.
const LEAST_OUTPUT: u64 = 16;

/// Bytes of a token of text, on average; the bound counts one.
const BYTES_OF_A_TOKEN: u64 = 4;
/// Output tokens that an answer is not expected to exceed.
const MOST_EXPECTED: u64 = 4_096;

/// The most that a request can cost, and what it is made of.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Nano-dollars.
    pub amount: NanoUsd,
    /// Whether the key has a spend limit, so that the amount is a promise and the output limit is sent upstream.
    pub capped: bool,
    /// Most input tokens; `None` if nothing bounds them, which is admitted only where neither money nor tokens are limited.
    input: Option<InputTokens>,
    /// Most output tokens of one choice.
    pub output: Option<u64>,
    /// Choices.
    choices: u64,
    /// Output tokens that are billed beyond the limit: those of a prediction that the answer does not use.
    prediction: u64,
    /// Whether the answer may be sound.
    spoken: bool,
    /// Tiers that it may be billed at.
    tiers: &'static [ServiceTier],
    /// Whether the output limit was lowered below what client, model and policy allow.
    pub clamped: bool,
    /// What the client asked for, if that is more than the model or the policy allows.
    lowered_from: Option<u64>,
    /// Whether anything depends on the output limit: money, tokens, or the policy's own.
    limited: bool,
    metering: Metering,
}

/// Computes the bound.
///
/// # Errors
/// On keys with a spend limit: [`Rejection::ModelNotPriced`] without a price, [`Rejection::CostUnbounded`] naming the field that could cost any
/// amount. The latter also on keys with a limit of tokens per minute, when nothing bounds the tokens. [`Rejection::BodyInvalid`] on keys with a
/// limit of output, when it has not a token for each choice.
pub fn bound(permit: &Permit, wanted: &Wanted) -> Result<Bound, Rejection> {
    let _step = tracing::debug_span!("bound").entered();
    match wanted {
        Wanted::Chat(request) => compute(permit.model(), &permit.key().policy, permit.is_capped(), request),
        Wanted::Embeddings(request) => embedding(permit.model(), &permit.key().policy, permit.is_capped(), request),
    }
}

/// What is not bounded is refused where money or tokens are limited.
fn within_limits(input: InputBound, policy: &Policy, capped: bool) -> Result<Option<InputTokens>, Rejection> {
    match input {
        InputBound::Tokens(tokens) => Ok(Some(tokens)),
        InputBound::Unboundable(field) if capped || policy.tokens_per_minute.is_some() => {
            Err(Rejection::CostUnbounded(Cow::Borrowed(field)))
        }
        InputBound::Unboundable(_) => Ok(None),
    }
}

/// Vectors are not billed as output, so there is nothing to cut.
fn embedding(model: &Model, policy: &Policy, capped: bool, request: &EmbeddingsRequest) -> Result<Bound, Rejection> {
    if capped {
        admission::prices(model)?;
    }
    let metering = metering::of(&model.provider.0, &model.upstream_name);
    let input = within_limits(embedding_bound(request, &metering, model.context_tokens), policy, capped)?;
    let mut bound = Bound {
        amount: NanoUsd::ZERO,
        capped,
        input,
        output: Some(0),
        choices: 1,
        prediction: 0,
        spoken: false,
        tiers: &[ServiceTier::Standard],
        clamped: false,
        lowered_from: None,
        limited: false,
        metering,
    };
    bound.amount = bound.price(model, bound.output);
    Ok(bound)
}

fn compute(model: &Model, policy: &Policy, capped: bool, request: &ChatRequest) -> Result<Bound, Rejection> {
    let asked = request.max_output_tokens();
    let ceiling = least([model.max_output_tokens, ceiling::each_choice(policy, model, request)?]);
    let output = least([asked, ceiling]);
    let metering = metering::of(&model.provider.0, &model.upstream_name);
    if capped {
        priced(model, request)?;
    }
    let input = within_limits(input_bound(request, &metering, model.context_tokens), policy, capped)?;
    if capped {
        has_prices(model, request, &metering, input)?;
    }
    let mut bound = Bound {
        amount: NanoUsd::ZERO,
        capped,
        input,
        output,
        choices: request.n,
        prediction: request.prediction_bytes,
        spoken: request.spoken.is_some(),
        tiers: tiers(&model.provider, request.service_tier.as_ref()),
        clamped: false,
        lowered_from: asked.filter(|asked| output.is_some_and(|output| output < *asked)),
        limited: capped || policy.tokens_per_minute.is_some() || policy.max_output_tokens.is_some(),
        metering,
    };
    bound.amount = bound.price(model, output);
    Ok(bound)
}

/// Whether everything that the request can be billed for has a price.
fn priced(model: &Model, request: &ChatRequest) -> Result<(), Rejection> {
    let prices = admission::prices(model)?;
    let unbounded = |what: Cow<'static, str>| Err(Rejection::CostUnbounded(what));
    if let Some(field) = request.billed_extras.first() {
        return unbounded(Cow::Borrowed(field));
    }
    if let Some(field) = request.spoken.filter(|_| !prices.has_output_audio()) {
        return unbounded(Cow::Borrowed(field));
    }
    if request.content.audio_parts > 0 && !prices.has_input_audio() {
        return unbounded(Cow::Borrowed("messages: content of type input_audio"));
    }
    match request.content.unknown_parts.first() {
        Some(part) => unbounded(Cow::Owned(format!("messages: content of type {part}"))),
        None => Ok(()),
    }
}

/// Whether the model has prices for what this host makes of the request: sound that passes for something else, and a cache that is written.
fn has_prices(
    model: &Model,
    request: &ChatRequest,
    metering: &Metering,
    input: Option<InputTokens>,
) -> Result<(), Rejection> {
    let Some(prices) = &model.prices else { return Ok(()) };
    let unbounded = |what: &'static str| Err(Rejection::CostUnbounded(Cow::Borrowed(what)));
    if input.is_some_and(|input| input.audio > 0) && !prices.has_input_audio() {
        return unbounded("messages: content that may be sound");
    }
    if (request.cache_marks && metering.caches_on_demand) && !lists(prices).all(has_cache_writes) {
        return unbounded("cache_control");
    }
    Ok(())
}

fn lists(prices: &Prices) -> impl Iterator<Item = &Rates> {
    let long = prices.long_context.iter().map(|long| &long.rates);
    [Some(&prices.standard), prices.priority.as_ref(), prices.flex.as_ref()].into_iter().flatten().chain(long)
}

/// The mark may ask for either.
const fn has_cache_writes(rates: &Rates) -> bool {
    rates.cache_write_5m.is_some() && rates.cache_write_1h.is_some()
}

impl Bound {
    /// What a known use of `model` costs, within one region if the provider said so. A class of service that nobody has named is the dearest that it can
    /// have been.
    #[must_use]
    pub fn cost(&self, model: &Model, usage: &Usage, tier: Option<ServiceTier>, in_region: bool) -> NanoUsd {
        let cost = self.list_cost(model, usage, tier);
        if in_region { self.with_region(cost) } else { cost }
    }

    fn list_cost(&self, model: &Model, usage: &Usage, tier: Option<ServiceTier>) -> NanoUsd {
        let Some(prices) = &model.prices else { return NanoUsd::ZERO };
        let at = |tier: &ServiceTier| prices.cost(usage, *tier);
        match tier {
            Some(tier) => at(&tier),
            None => self.tiers.iter().map(at).max().unwrap_or_else(|| at(&ServiceTier::Standard)),
        }
    }

    fn price(&self, model: &Model, output: Option<u64>) -> NanoUsd {
        let Some(prices) = &model.prices else { return NanoUsd::ZERO };
        // Without any known limit the amount is beyond every budget, which the clamp then brings down.
        let output = if self.capped { output.unwrap_or(u64::MAX) } else { output.unwrap_or(0) };
        // Which region serves it is the account's setting, which is not ours to know.
        self.with_region(prices.bound(&self.most(output), self.tiers))
    }

    /// The amount with what the host adds to it within one region, rounded up.
    fn with_region(&self, amount: NanoUsd) -> NanoUsd {
        let percent = u128::from(self.metering.region_percent).saturating_add(100);
        let nanos = u128::from(amount.nanos()).saturating_mul(percent).div_ceil(100);
        NanoUsd::new(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The largest amount that is at most this one within one region.
    fn without_region(&self, amount: NanoUsd) -> NanoUsd {
        let percent = u128::from(self.metering.region_percent).saturating_add(100);
        let nanos = u128::from(amount.nanos()).saturating_mul(100) / percent;
        NanoUsd::new(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The most tokens with so many output tokens in each choice.
    fn most(&self, output: u64) -> Most {
        let input = self.input.unwrap_or_default();
        Most {
            input: input.text,
            input_audio: input.audio,
            output: output.saturating_mul(self.choices).saturating_add(self.prediction),
            spoken: self.spoken,
        }
    }

    /// The same request with its output cut to what `budget` pays for; `None` when too little would be left of it.
    #[must_use]
    pub fn cut_to(&self, permit: &Permit, budget: NanoUsd) -> Option<Self> {
        self.cut_to_budget(permit.model(), budget)
    }

    fn cut_to_budget(&self, model: &Model, budget: NanoUsd) -> Option<Self> {
        let prices = model.prices.as_ref()?;
        let affordable = prices.affordable_output(&self.most(0), self.without_region(budget), self.tiers)?;
        self.cut_to_output(model, affordable)
    }

    /// The same request with its output cut so that input and output together are at most `limit` tokens, the most that a limit of tokens per
    /// minute admits at once; `None` when too little would be left of it.
    #[must_use]
    pub fn cut_to_tokens(&self, permit: &Permit, limit: u64) -> Option<Self> {
        self.cut_to_room(permit.model(), limit)
    }

    fn cut_to_room(&self, model: &Model, limit: u64) -> Option<Self> {
        let room = limit.checked_sub(self.input?.total())?;
        self.cut_to_output(model, room)
    }

    /// Cut to `total` output tokens of all choices and the prediction together.
    fn cut_to_output(&self, model: &Model, total: u64) -> Option<Self> {
        let each = total.checked_sub(self.prediction)? / self.choices.max(1);
        let wanted = self.output.unwrap_or(u64::MAX);
        if each < wanted.min(LEAST_OUTPUT) {
            return None;
        }
        let output = each.min(wanted);
        let amount = self.price(model, Some(output));
        Some(Self { amount, output: Some(output), clamped: self.clamped || output < wanted, ..*self })
    }

    /// What it takes of its provider's own limits, by estimate: a token of text has about four bytes, and who sets no low limit rarely uses all of it.
    #[must_use]
    pub fn need(&self) -> Need {
        let input = self.input.map_or(0, |input| input.total()) / BYTES_OF_A_TOKEN;
        let output = self.output.unwrap_or(MOST_EXPECTED).min(MOST_EXPECTED).saturating_mul(self.choices);
        Need { input, output }
    }

    /// The most input tokens that it can take; `None` when nothing bounds them.
    #[must_use]
    pub fn most_input(&self) -> Option<u64> {
        self.input.map(InputTokens::total)
    }

    /// The least that this request needs.
    #[must_use]
    pub fn least(&self, permit: &Permit) -> NanoUsd {
        self.price(permit.model(), Some(self.output.unwrap_or(u64::MAX).min(LEAST_OUTPUT)))
    }

    /// The most tokens that it can take, input and output of all choices together: what it counts with in a limit of tokens per minute. `None`
    /// when nothing bounds them; [`Self::cut_to_tokens`] may then still.
    #[must_use]
    pub fn tokens(&self) -> Option<u64> {
        Some(self.most(self.output?).output.saturating_add(self.input?.total()))
    }

    /// The same bound now that the provider has said what the input is, with the output still unknown: what is to be held from here on. `None`
    /// when that would be no less, or when this host's word on its input is not its last.
    #[must_use]
    pub fn with_known_input(&self, permit: &Permit, seen: &Usage) -> Option<Self> {
        self.with_input(permit.model(), seen)
    }

    fn with_input(&self, model: &Model, seen: &Usage) -> Option<Self> {
        if !self.capped || !self.metering.reports_input_early {
            return None;
        }
        let total = seen.input_total();
        let input = InputTokens { text: total.saturating_sub(seen.input_audio), audio: seen.input_audio };
        let known = Self { input: Some(input), ..*self };
        let amount = known.price(model, self.output);
        (amount < self.amount).then_some(Self { amount, ..known })
    }

    /// The output limit that must be written into the body, so that no field which the host might obey says more; `None` when the client's own
    /// will do, or when nothing depends on it. A client that asks for more than the model can give gets what it can, as with every provider.
    #[must_use]
    pub fn limit_to_send(&self, wanted: &Wanted) -> Option<u64> {
        match wanted {
            Wanted::Chat(request) => self.chat_limit_to_send(request),
            Wanted::Embeddings(_) => None,
        }
    }

    fn chat_limit_to_send(&self, request: &ChatRequest) -> Option<u64> {
        let output = self.output.filter(|_| self.limited || self.lowered_from.is_some())?;
        let given = [&request.max_completion_tokens, &request.max_tokens];
        let all_say_so = given.into_iter().flatten().all(|field| field.value == output);
        let is_obeyed = match self.limit_field() {
            MaxTokensField::Current => given.into_iter().any(Option::is_some),
            MaxTokensField::Legacy => request.max_tokens.is_some(),
        };
        (!all_say_so || !is_obeyed).then_some(output)
    }

    /// The field that the host obeys as the limit of the output.
    #[must_use]
    pub const fn limit_field(&self) -> MaxTokensField {
        self.metering.limit_field
    }

    /// Whether the host takes the wish for usage at the end of a stream.
    #[must_use]
    pub const fn usage_option(&self) -> bool {
        self.metering.usage_option
    }

    /// The output limit that the client is told of: it is less than what the client asked for, or than the model and the policy allow.
    #[must_use]
    pub fn limit_to_show(&self) -> Option<u64> {
        self.output.filter(|_| self.clamped || self.lowered_from.is_some())
    }
}

fn least(limits: [Option<u64>; 2]) -> Option<u64> {
    limits.into_iter().flatten().min()
}

/// Every tier that the request could be billed at. Unless it names one, the provider's project settings decide, which are not ours to know;
/// Google has no such setting.
fn tiers(provider: &ProviderName, requested: Option<&RequestedTier>) -> &'static [ServiceTier] {
    use ServiceTier::{Flex, Priority, Standard};
    match requested {
        Some(RequestedTier::Default) => &[Standard],
        Some(RequestedTier::Auto) | None if provider.0 == "google" => &[Standard],
        Some(RequestedTier::Flex) => &[Standard, Flex],
        Some(RequestedTier::Auto | RequestedTier::Priority | RequestedTier::Other(_)) | None => {
            &[Standard, Priority, Flex]
        }
    }
}

#[cfg(test)]
#[path = "bound_tests.rs"]
mod tests;
