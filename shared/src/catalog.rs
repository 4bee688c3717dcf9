//! The model catalogue: which provider serves a model, how much it can take and give, and what it costs.
//!
//! Prices are pico-dollars per token with their source and date; nothing is ever assumed to be free. From prices follow two amounts: the cost
//! of a finished request, and the bound: the most that a request could cost, which is what a reservation takes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::money::{Charge, NanoUsd, PicoUsdPerToken};
use crate::usage::{ServiceTier, Usage};

/// A company whose API serves models, by its lower-case word: `openai`, `anthropic`, `google`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProviderName(pub String);

impl fmt::Display for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a model is called through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Chat completions.
    #[default]
    Chat,
    /// The provider's responses API only.
    Responses,
    /// Embeddings.
    Embedding,
}

/// One set of prices, in pico-dollars per token. What is absent is charged at `input` or `output`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Fresh input tokens.
    pub input: PicoUsdPerToken,
    /// Output tokens.
    pub output: PicoUsdPerToken,
    /// Input tokens read from the provider's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<PicoUsdPerToken>,
    /// Input tokens written to a five-minute cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_5m: Option<PicoUsdPerToken>,
    /// Input tokens written to a one-hour cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_1h: Option<PicoUsdPerToken>,
    /// Audio input tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_audio: Option<PicoUsdPerToken>,
    /// Audio output tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_audio: Option<PicoUsdPerToken>,
    /// Reasoning tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<PicoUsdPerToken>,
}

impl Rates {
    fn dearest_text_input(&self) -> PicoUsdPerToken {
        let others = [self.cache_read, self.cache_write_5m, self.cache_write_1h];
        others.into_iter().flatten().fold(self.input, PicoUsdPerToken::max)
    }

    fn dearest_input(&self) -> PicoUsdPerToken {
        self.input_audio.into_iter().fold(self.dearest_text_input(), PicoUsdPerToken::max)
    }

    fn dearest_output(&self, spoken: bool) -> PicoUsdPerToken {
        let spoken = self.output_audio.filter(|_| spoken);
        [spoken, self.reasoning].into_iter().flatten().fold(self.output, PicoUsdPerToken::max)
    }

    fn most(&self, most: &Most) -> Charge {
        Charge::default()
            .add(most.input, self.dearest_text_input())
            .add(most.input_audio, self.dearest_input())
            .add(most.output, self.dearest_output(most.spoken))
    }

    fn charge(&self, usage: &Usage) -> Charge {
        Charge::default()
            .add(usage.input, self.input)
            .add(usage.input_audio, self.input_audio.unwrap_or(self.input))
            .add(usage.cache_read, self.cache_read.unwrap_or(self.input))
            .add(usage.cache_write_5m, self.cache_write_5m.unwrap_or(self.input))
            .add(usage.cache_write_1h, self.cache_write_1h.or(self.cache_write_5m).unwrap_or(self.input))
            .add(usage.output, self.output)
            .add(usage.output_audio, self.output_audio.unwrap_or(self.output))
            .add(usage.reasoning, self.reasoning.unwrap_or(self.output))
    }
}

/// The most tokens that a request can be billed, by what they can be billed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Most {
    /// Input tokens that are not sound: text, pictures, whatever came from a cache or went to one.
    pub input: u64,
    /// Input tokens that are sound, or may be.
    pub input_audio: u64,
    /// Output tokens of all choices together, reasoning included.
    pub output: u64,
    /// Whether output may be sound.
    pub spoken: bool,
}

impl Most {
    /// All input tokens.
    #[must_use]
    pub const fn input_total(&self) -> u64 {
        self.input.saturating_add(self.input_audio)
    }
}

/// Prices of a whole request once its input passes a number of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongContext {
    /// These prices hold for requests with more input tokens than this.
    pub above_input_tokens: u64,
    /// The prices, for every token of such a request.
    pub rates: Rates,
}

/// What a model costs, by class of service and length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// Ordinary prices.
    pub standard: Rates,
    /// Prices of the priority tier, where the provider has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Rates>,
    /// Prices of the flex tier, where the provider has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flex: Option<Rates>,
    /// Dearer prices for long inputs, by rising threshold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub long_context: Vec<LongContext>,
}

impl Prices {
    /// What `usage` costs at `tier`, in nano-dollars, rounded up once. Above a long-context threshold the dearer of tier and long price counts.
    #[must_use]
    pub fn cost(&self, usage: &Usage, tier: ServiceTier) -> NanoUsd {
        let by_tier = self.rates(tier).charge(usage).total();
        match self.long_rates(usage.input_total()) {
            Some(long) => by_tier.max(long.charge(usage).total()),
            None => by_tier,
        }
    }

    /// The most that a request of at most so many tokens can cost at any of `tiers`.
    #[must_use]
    pub fn bound(&self, most: &Most, tiers: &[ServiceTier]) -> NanoUsd {
        let by_tier = tiers.iter().map(|tier| self.rates(*tier));
        let by_length = self.reachable_long_rates(most.input_total());
        by_tier.chain(by_length).map(|rates| rates.most(most).total()).max().unwrap_or(NanoUsd::ZERO)
    }

    /// The largest number of output tokens whose [`Self::bound`] with the input of `most` is at most `budget`; `None` when not even the
    /// input fits. When output is free and so unlimited by money, [`u64::MAX`]. The output of `most` is not looked at.
    #[must_use]
    pub fn affordable_output(&self, most: &Most, budget: NanoUsd, tiers: &[ServiceTier]) -> Option<u64> {
        let fits_budget = |output| self.bound(&Most { output, ..*most }, tiers) <= budget;
        if !fits_budget(0) {
            return None;
        }
        let (mut fits, mut too_many) = (0, u64::MAX);
        if fits_budget(too_many) {
            return Some(u64::MAX);
        }
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            if fits_budget(middle) { fits = middle } else { too_many = middle }
        }
        Some(fits)
    }

    /// Whether sound that is sent has a price of its own in every list. Without one nobody knows what it costs.
    #[must_use]
    pub fn has_input_audio(&self) -> bool {
        self.lists().all(|rates| rates.input_audio.is_some())
    }

    /// Whether sound that comes back has a price of its own in every list.
    #[must_use]
    pub fn has_output_audio(&self) -> bool {
        self.lists().all(|rates| rates.output_audio.is_some())
    }

    fn lists(&self) -> impl Iterator<Item = &Rates> {
        let long = self.long_context.iter().map(|long| &long.rates);
        [Some(&self.standard), self.priority.as_ref(), self.flex.as_ref()].into_iter().flatten().chain(long)
    }

    fn rates(&self, tier: ServiceTier) -> &Rates {
        let special = match tier {
            ServiceTier::Priority => self.priority.as_ref(),
            ServiceTier::Flex => self.flex.as_ref(),
            ServiceTier::Standard | ServiceTier::Batch => None,
        };
        special.unwrap_or(&self.standard)
    }

    fn long_rates(&self, input: u64) -> Option<&Rates> {
        self.reachable_long_rates(input).last()
    }

    fn reachable_long_rates(&self, input: u64) -> impl Iterator<Item = &Rates> {
        self.long_context.iter().filter(move |long| input > long.above_input_tokens).map(|long| &long.rates)
    }
}

/// One entry of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The name agents use, unique in the catalogue. By default the provider's own.
    pub name: String,
    /// Who serves it.
    pub provider: ProviderName,
    /// The name the provider knows it by.
    pub upstream_name: String,
    /// What it is called through.
    #[serde(default)]
    pub operation: Operation,
    /// Most input tokens of a request, where known.
    #[serde(default)]
    pub context_tokens: Option<u64>,
    /// Most output tokens of a request, where known.
    #[serde(default)]
    pub max_output_tokens: Option<u64>,
    /// What it costs. Without prices it is refused on every key that has a spend limit.
    #[serde(default)]
    pub prices: Option<Prices>,
    /// Where limits and prices were read.
    pub source: String,
    /// When they were read, `YYYY-MM-DD`.
    pub as_of: String,
}

impl Model {
    /// Every problem of this entry, each with the field it is in.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |ok: bool, problem: &str| {
            if !ok {
                problems.push(problem.to_owned());
            }
        };
        let word = |text: &str| !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic());
        require(word(&self.name), "name: 1 to 128 printable characters without spaces");
        require(word(&self.upstream_name), "upstream_name: 1 to 128 printable characters without spaces");
        require(word(&self.provider.0), "provider: 1 to 128 printable characters without spaces");
        require(!self.source.is_empty(), "source: say where limits and prices were read");
        require(self.as_of.parse::<jiff::civil::Date>().is_ok(), "as_of: a date such as 2026-11-22");
        require(self.context_tokens != Some(0), "context_tokens: at least 1");
        require(self.max_output_tokens != Some(0), "max_output_tokens: at least 1");
        let thresholds = self.prices.iter().flat_map(|prices| &prices.long_context).map(|long| long.above_input_tokens);
        require(thresholds.is_sorted(), "prices.long_context: thresholds must rise");
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prices() -> Prices {
        let rates = |input, output| Rates {
            input: PicoUsdPerToken(input),
            output: PicoUsdPerToken(output),
            cache_read: Some(PicoUsdPerToken(input / 10)),
            cache_write_5m: Some(PicoUsdPerToken(input * 5 / 4)),
            ..Rates::default()
        };
        Prices {
            standard: rates(2_500_000, 15_000_000),
            priority: Some(rates(5_000_000, 30_000_000)),
            flex: None,
            long_context: vec![LongContext { above_input_tokens: 272_000, rates: rates(5_000_000, 22_500_000) }],
        }
    }

    #[test]
    fn cost_charges_each_kind_of_token_at_its_own_price() {
        let usage = Usage { input: 100, cache_read: 1_000, output: 10, reasoning: 5, ..Usage::default() };
        // 100 x 2.5 + 1000 x 0.25 + 15 x 15 dollars per million = 725 micro-dollars
        assert_eq!(prices().cost(&usage, ServiceTier::Standard), NanoUsd::new(725_000));
        assert_eq!(prices().cost(&usage, ServiceTier::Priority), NanoUsd::new(1_450_000));
    }

    #[test]
    fn the_whole_request_is_dearer_once_its_input_is_long() {
        let usage = |input| Usage { input, output: 1, ..Usage::default() };
        assert_eq!(prices().cost(&usage(272_000), ServiceTier::Standard), NanoUsd::new(272_000 * 2_500 + 15_000));
        assert_eq!(prices().cost(&usage(272_001), ServiceTier::Standard), NanoUsd::new(272_001 * 5_000 + 22_500));
    }

    fn audio_prices() -> Prices {
        let mut prices = prices();
        prices.standard.input_audio = Some(PicoUsdPerToken(40_000_000));
        prices.standard.output_audio = Some(PicoUsdPerToken(80_000_000));
        (prices.priority, prices.long_context) = (None, Vec::new());
        prices
    }

    #[test]
    fn sound_is_dear_only_where_there_can_be_any() {
        let most = Most { input: 1000, input_audio: 10, output: 100, spoken: false };
        let tiers = [ServiceTier::Standard];
        // 1000 x 3.125 (cache writes) + 10 x 40 + 100 x 15 dollars per million.
        assert_eq!(audio_prices().bound(&most, &tiers), NanoUsd::new(3_125_000 + 400_000 + 1_500_000));
        let spoken = Most { spoken: true, ..most };
        assert_eq!(audio_prices().bound(&spoken, &tiers), NanoUsd::new(3_125_000 + 400_000 + 8_000_000));
        assert!(audio_prices().has_input_audio() && audio_prices().has_output_audio());
        assert!(!prices().has_input_audio() && !prices().has_output_audio());
        let one_list_is_silent = Prices { priority: prices().priority, ..audio_prices() };
        assert!(!one_list_is_silent.has_input_audio() && !one_list_is_silent.has_output_audio());
    }

    #[test]
    fn bounds_saturate() {
        let most = Most { input: u64::MAX, input_audio: u64::MAX, output: u64::MAX, spoken: true };
        assert_eq!(prices().bound(&most, &[ServiceTier::Standard]), NanoUsd::new(u64::MAX));
        assert_eq!(most.input_total(), u64::MAX);
        assert_eq!(prices().affordable_output(&most, NanoUsd::new(1), &[ServiceTier::Standard]), None);
    }

    proptest! {
        #[test]
        fn i_3_no_usage_within_the_limits_costs_more_than_the_bound(
            fresh in 0u64..300_000, read in 0u64..300_000, write in 0u64..300_000, heard in 0u64..10_000,
            out in 0u64..200_000, think in 0u64..200_000, said in 0u64..10_000, spare: [u16; 3], has_audio: bool,
        ) {
            let (heard, said) = if has_audio { (heard, said) } else { (0, 0) };
            let usage = Usage {
                input: fresh, cache_read: read, cache_write_5m: write, input_audio: heard, output: out, reasoning: think,
                output_audio: said, ..Usage::default()
            };
            let most = Most {
                input: fresh + read + write + u64::from(spare[0]),
                input_audio: heard + u64::from(spare[1]),
                output: usage.output_total() + u64::from(spare[2]),
                spoken: has_audio,
            };
            for prices in [prices(), audio_prices()] {
                for tier in [ServiceTier::Standard, ServiceTier::Priority] {
                    prop_assert!(prices.cost(&usage, tier) <= prices.bound(&most, &[tier]));
                }
            }
        }

        #[test]
        fn affordable_output_is_the_exact_edge(input in 0u64..400_000, budget in 0u64..20_000_000_000) {
            let (prices, budget, tiers) = (prices(), NanoUsd::new(budget), [ServiceTier::Standard]);
            let with = |output| Most { input, output, ..Most::default() };
            match prices.affordable_output(&with(7), budget, &tiers) {
                None => prop_assert!(prices.bound(&with(0), &tiers) > budget),
                Some(tokens) => {
                    prop_assert!(prices.bound(&with(tokens), &tiers) <= budget);
                    prop_assert!(prices.bound(&with(tokens + 1), &tiers) > budget);
                }
            }
        }
    }
}
