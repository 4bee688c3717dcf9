//! How many tokens a request took, as disjoint counts: no token is in two fields, and totals are always derived.

use serde::{Deserialize, Serialize};

/// Token counts of one attempt. Disjoint: `prompt_tokens` of a provider is the sum of the input side, whatever the provider includes in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Input tokens read afresh, text and images.
    pub input: u64,
    /// Audio input tokens read afresh.
    pub input_audio: u64,
    /// Input tokens served from the provider's cache.
    pub cache_read: u64,
    /// Input tokens written to a cache that lives five minutes (or for the provider's default time).
    pub cache_write_5m: u64,
    /// Input tokens written to a cache that lives one hour.
    pub cache_write_1h: u64,
    /// Output tokens that the client sees as text or tool calls.
    pub output: u64,
    /// Audio output tokens.
    pub output_audio: u64,
    /// Output tokens spent on reasoning.
    pub reasoning: u64,
}

impl Usage {
    /// All input tokens.
    #[must_use]
    pub const fn input_total(&self) -> u64 {
        self.input
            .saturating_add(self.input_audio)
            .saturating_add(self.cache_read)
            .saturating_add(self.cache_write_5m)
            .saturating_add(self.cache_write_1h)
    }

    /// All output tokens, reasoning included.
    #[must_use]
    pub const fn output_total(&self) -> u64 {
        self.output.saturating_add(self.output_audio).saturating_add(self.reasoning)
    }
}

/// The class of service that a request was billed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceTier {
    /// The provider's ordinary prices.
    #[default]
    Standard,
    /// Dearer and faster.
    Priority,
    /// Cheaper and slower.
    Flex,
    /// Cheaper and asynchronous.
    Batch,
}
