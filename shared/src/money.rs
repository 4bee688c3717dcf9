//! Money: integer nano-dollars, and prices in integer pico-dollars per token.
//!
//! One nano-dollar is 1e-9 US dollars, so $0.0125 per million tokens is 12,500 pico-dollars per token. Amounts are never floats and never
//! negative. The largest amount a limit may have is [`NanoUsd::MAX_LIMIT`]: counters may live where integers are exact only up to 2^53.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An amount of money in nano-dollars (1e-9 US dollars).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NanoUsd(u64);

impl NanoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest spend limit: $9,000,000, below 2^53 nano-dollars, so every counter store keeps it exactly.
    pub const MAX_LIMIT: Self = Self(9_000_000_000_000_000);

    /// From nano-dollars.
    #[must_use]
    pub const fn new(nanos: u64) -> Self {
        Self(nanos)
    }

    /// In nano-dollars.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Sum, or `None` beyond the range.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// Sum, at most the largest amount there is. For reports; decisions use [`Self::checked_add`].
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Difference, at least zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for NanoUsd {
    /// Dollars with at least two decimals and no more than needed: `$0.01`, `$12.345678901`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}", self.decimal())
    }
}

impl NanoUsd {
    /// Dollars as a plain decimal number without a sign: `0.01`.
    #[must_use]
    pub fn decimal(self) -> String {
        let mut text = format!("{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        // Two of the nine decimals stay, whatever they are.
        let cents = text.len() - 7;
        text.truncate(text.trim_end_matches('0').len().max(cents));
        text
    }
}

/// Why a text is not an amount of money.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{given}` is not an amount in dollars such as 50, 0.01 or $12.50 (at most nine decimals)")]
pub struct MoneyError {
    given: String,
}

impl FromStr for NanoUsd {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let error = || MoneyError { given: text.chars().take(40).collect() };
        let plain = text.strip_prefix('$').unwrap_or(text);
        let (whole, decimals) = plain.split_once('.').unwrap_or((plain, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(decimals) || decimals.len() > 9 || plain.ends_with('.') {
            return Err(error());
        }
        let whole: u64 = whole.parse().map_err(|_| error())?;
        let rest: u64 = format!("{decimals:0<9}").parse().map_err(|_| error())?;
        whole.checked_mul(1_000_000_000).and_then(|nanos| nanos.checked_add(rest)).map(Self).ok_or_else(error)
    }
}

/// A price in pico-dollars (1e-12 US dollars) per token. 1,000,000 of it is one dollar per million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PicoUsdPerToken(pub u64);

/// A running sum of token charges in pico-dollars, rounded to nano-dollars once, at its end, and always up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Charge {
    pico_usd: u128,
}

impl Charge {
    /// Adds `tokens` at `price`. 128 bits cannot overflow here: 2^64 tokens times 2^64 pico-dollars is the most one call can add, and
    /// the sum saturates.
    #[must_use]
    pub const fn add(self, tokens: u64, price: PicoUsdPerToken) -> Self {
        Self { pico_usd: self.pico_usd.saturating_add(tokens as u128 * price.0 as u128) }
    }

    /// The amount in nano-dollars, rounded up; the largest amount there is when it would not fit.
    #[must_use]
    pub fn total(self) -> NanoUsd {
        NanoUsd(u64::try_from(self.pico_usd.div_ceil(1_000)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_read_and_printed_exactly() {
        for (text, nanos) in
            [("50", 50_000_000_000), ("$0.01", 10_000_000), ("0.000000001", 1), ("12.5", 12_500_000_000)]
        {
            assert_eq!(text.parse::<NanoUsd>().unwrap().nanos(), nanos, "{text}");
        }
        assert_eq!(NanoUsd::new(10_000_000).to_string(), "$0.01");
        assert_eq!(NanoUsd::new(1).to_string(), "$0.000000001");
        for bad in ["", ".", "1.", "-1", "1e3", "0.0000000001", "1,5", "$", "99999999999999999999"] {
            assert!(bad.parse::<NanoUsd>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_charge_is_rounded_up_once() {
        let charge = Charge::default().add(1, PicoUsdPerToken(1)).add(1, PicoUsdPerToken(998));
        assert_eq!(charge.total(), NanoUsd::new(1));
        assert_eq!(charge.add(1, PicoUsdPerToken(2)).total(), NanoUsd::new(2));
        assert_eq!(Charge::default().add(u64::MAX, PicoUsdPerToken(u64::MAX)).total(), NanoUsd::new(u64::MAX));
    }
}
