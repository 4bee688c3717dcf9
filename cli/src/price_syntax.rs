//! Prices as price lists write them, in dollars per million tokens, and as the catalogue keeps them, in pico-dollars per token.
//!
//! One dollar per million tokens is 1,000,000 pico-dollars per token, so six decimals are exact and a seventh would be lost: it is refused.

use keyforge_shared::money::PicoUsdPerToken;

const PICO_USD: u64 = 1_000_000;
const DECIMALS: usize = 6;

/// Reads dollars per million tokens, such as `2.50`.
///
/// # Errors
/// A message with an example when the text is not such a number.
pub fn dollars_per_million(text: &str) -> Result<PicoUsdPerToken, String> {
    parse(text).map(PicoUsdPerToken).ok_or_else(|| {
        "not a price in dollars per million tokens such as 2.50 or 0.0375 (at most six decimals)".to_owned()
    })
}

fn parse(text: &str) -> Option<u64> {
    let plain = text.strip_prefix('$').unwrap_or(text);
    let (whole, decimals) = plain.split_once('.').unwrap_or((plain, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > DECIMALS {
        return None;
    }
    let fraction: u64 = format!("{decimals:0<DECIMALS$}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(PICO_USD)?.checked_add(fraction)
}

/// Writes a price in dollars per million tokens, with at least two decimals and no more than needed: `2.50`.
#[must_use]
pub fn show(price: PicoUsdPerToken) -> String {
    let mut decimals = format!("{:06}", price.0 % PICO_USD);
    while decimals.len() > 2 && decimals.ends_with('0') {
        decimals.pop();
    }
    format!("{}.{decimals}", price.0 / PICO_USD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_per_million_are_exact_pico_dollars_per_token_both_ways() {
        let cases = [
            ("2.50", 2_500_000),
            ("10.00", 10_000_000),
            ("0.0125", 12_500),
            ("0.000001", 1),
            ("0.00", 0),
            ("1.00", 1_000_000),
        ];
        for (text, pico) in cases {
            assert_eq!(dollars_per_million(text), Ok(PicoUsdPerToken(pico)), "{text}");
            assert_eq!(show(PicoUsdPerToken(pico)), text);
        }
        assert_eq!(dollars_per_million("$10"), Ok(PicoUsdPerToken(10_000_000)));
    }

    #[test]
    fn what_is_not_exact_or_not_a_price_is_refused() {
        for wrong in ["", "-1", "1e3", "2,50", "2.", ".5", "0.0000001", "99999999999999999", "free", "2.5/M", "+1"] {
            assert!(dollars_per_million(wrong).unwrap_err().contains("2.50"), "{wrong}");
        }
    }
}
