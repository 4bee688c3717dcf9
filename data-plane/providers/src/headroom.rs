//! What is left of an account's limits at a provider, as its responses tell.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use keyforge_shared::clock::Timestamp;

use crate::credible::MAX_COUNT;

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dimension {
    /// Requests.
    Requests,
    /// Tokens of input and output together.
    Tokens,
    /// Input tokens.
    InputTokens,
    /// Output tokens.
    OutputTokens,
}

/// One limit and what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// What is counted.
    pub dimension: Dimension,
    /// How much there is when nothing is used; never zero.
    pub limit: u64,
    /// How much is left; never more than the limit.
    pub remaining: u64,
    /// When all of it is there again, if the provider says so: always later than now.
    pub resets_at: Option<Timestamp>,
}

/// The longest period that providers limit by. A reset beyond it is taken for nonsense.
const LONGEST: Duration = Duration::from_secs(32 * 24 * 60 * 60);

impl Window {
    /// A window, unless its counts are absurd; without its reset, if that is.
    fn sound(
        dimension: Dimension,
        limit: u64,
        remaining: u64,
        reset: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<Self> {
        let resets_at = reset.filter(|reset| *reset > now && *reset <= now.saturating_add(LONGEST));
        let is_sound = (1..=MAX_COUNT).contains(&limit) && remaining <= limit;
        is_sound.then_some(Self { dimension, limit, remaining, resets_at })
    }
}

/// The headers of one limit. Made once, because they are looked for in every answer.
pub(crate) struct Names {
    dimension: Dimension,
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

impl Names {
    /// Lower-case names: of the limit, of what remains, and of when all is there again.
    pub(crate) const fn new(dimension: Dimension, [limit, remaining, reset]: [&'static str; 3]) -> Self {
        Self {
            dimension,
            limit: HeaderName::from_static(limit),
            remaining: HeaderName::from_static(remaining),
            reset: HeaderName::from_static(reset),
        }
    }
}

/// The windows that headers tell of; `reset` reads when all is there again. A window that is absurd is left out.
pub(crate) fn windows(
    headers: &HeaderMap,
    now: Timestamp,
    names: &[Names],
    reset: impl Fn(&str) -> Option<Timestamp>,
) -> Vec<Window> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let count = |name: &HeaderName| text(name)?.parse().ok();
    let window = |of: &Names| {
        Window::sound(of.dimension, count(&of.limit)?, count(&of.remaining)?, text(&of.reset).and_then(&reset), now)
    };
    names.iter().filter_map(window).collect()
}
