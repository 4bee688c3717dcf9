//! How much of a provider's limit is left: what the provider said last, what has come back since, less what is on its way.
//!
//! Providers' limits refill all the time: between two statements the level is taken to rise evenly up to the moment at which the provider says that it
//! will be full. A provider that says nothing is learned from its refusals: the rate at which it refused is lowered, and rises again slowly.
//!
//! Pure: time is given.

use std::collections::VecDeque;
use std::time::Duration;

use keyforge_providers::headroom::{Dimension, Window};
use keyforge_shared::clock::Timestamp;

use super::learned::Learned;
use super::moment::Moment;

/// A request is sent where so much more than it needs is left.
const MARGIN: f64 = 1.1;

/// How many kinds of limits there are.
const DIMENSIONS: usize = 4;
/// A limit of which nobody says when it is full again is one of a minute.
const A_MINUTE: Duration = Duration::from_secs(60);

/// What a request takes of a provider's limits, as far as can be told before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Tokens of input.
    pub input: u64,
    /// Most tokens of output; providers set so much aside when the request comes.
    pub output: u64,
}

impl Need {
    #[expect(clippy::cast_precision_loss, reason = "a limit of 2^53 tokens is none")]
    fn of(self, dimension: Dimension) -> f64 {
        match dimension {
            // Output is counted when it is there, so a request needs none of it to begin.
            Dimension::Requests | Dimension::OutputTokens => 1.0,
            Dimension::Tokens => self.input.saturating_add(self.output) as f64,
            Dimension::InputTokens => self.input as f64,
        }
    }
}

/// A limit as it is known.
#[derive(Clone, Copy, Debug)]
struct Known {
    dimension: Dimension,
    limit: f64,
    remaining: f64,
    at: Moment,
    full_at: Moment,
}

impl Known {
    /// What comes back in a second; `None` when it is full.
    fn refill(&self) -> Option<f64> {
        let missing = self.limit - self.remaining;
        let seconds = self.full_at.since(self.at).as_secs_f64();
        (missing > 0.0 && seconds > 0.0).then(|| missing / seconds)
    }

    fn level(&self, now: Moment) -> f64 {
        if now >= self.full_at {
            return self.limit;
        }
        let back = self.refill().unwrap_or(0.0) * now.since(self.at).as_secs_f64();
        (self.remaining + back).min(self.limit)
    }

    /// When the level is `wanted`, if nothing is taken.
    fn reaches(&self, wanted: f64, now: Moment) -> Moment {
        let missing = wanted - self.level(now);
        match self.refill() {
            _ if missing <= 0.0 => now,
            Some(refill) => now.plus(Duration::try_from_secs_f64(missing / refill).unwrap_or(Duration::MAX)),
            None => self.full_at.max(now),
        }
    }
}

/// A request on its way that no statement of the provider can have counted.
#[derive(Clone, Copy, Debug)]
struct OnItsWay {
    number: u64,
    sent: Moment,
    need: Need,
}

/// Names a request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    number: u64,
    at: Moment,
}

/// What is left of one limit group's limits.
#[derive(Clone, Debug, Default)]
pub struct Headroom {
    known: [Option<Known>; DIMENSIONS],
    on_their_way: VecDeque<OnItsWay>,
    numbers: u64,
    learned: Learned,
}

impl Headroom {
    /// Whether a request that needs this can be sent now; else when to look again.
    ///
    /// # Errors
    /// The moment at which enough will be there if nothing else is sent.
    pub fn fits(&self, need: Need, now: Moment) -> Result<(), Moment> {
        if !self.is_told() {
            return self.learned.fits(now);
        }
        let mut ready = now;
        for known in self.known.iter().flatten() {
            let wanted = self.wanted(known, need);
            if known.level(now) < wanted {
                ready = ready.max(known.reaches(wanted, now));
            }
        }
        // What is on its way may turn out to be less.
        if ready > now { Err(ready) } else { Ok(()) }
    }

    /// The least part of any limit that is left, from 0 to 1; 1 where nothing is known.
    #[must_use]
    pub fn ratio(&self, now: Moment) -> f64 {
        let part = |known: &Known| ((known.level(now) - self.taken(known.dimension)) / known.limit.max(1.0)).max(0.0);
        self.known.iter().flatten().map(part).fold(1.0, f64::min).min(self.learned.ratio(now))
    }

    /// Requests that need this and that the limits let through in a second, if the provider says enough to tell.
    #[must_use]
    pub fn per_second(&self, need: Need, now: Moment) -> Option<f64> {
        let rate = |known: &Known| Some(known.refill()? / need.of(known.dimension).max(1.0));
        let told = self.known.iter().flatten().filter_map(rate).reduce(f64::min);
        told.or_else(|| self.learned.per_second(now))
    }

    /// Requests on their way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.on_their_way.len()
    }

    /// A request is sent.
    pub fn send(&mut self, need: Need, now: Moment) -> Sent {
        self.learned.take(now);
        self.numbers += 1;
        self.on_their_way.push_back(OnItsWay { number: self.numbers, sent: now, need });
        Sent { number: self.numbers, at: now }
    }

    /// The request was answered, or will never be.
    pub fn answered(&mut self, sent: Sent) {
        if let Ok(at) = self.on_their_way.binary_search_by_key(&sent.number, |one| one.number) {
            self.on_their_way.remove(at);
        }
    }

    /// The provider stated its limits with the answer to a request. The freshest statement counts: of two that may have been made in any order, the
    /// lower one. `wall` is what the statement's moments in time are measured by.
    #[expect(clippy::cast_precision_loss, reason = "a limit of 2^53 tokens is none")]
    pub fn told(&mut self, sent: Sent, stated: &[Window], now: Moment, wall: Timestamp) {
        for window in stated {
            let slot = &mut self.known[place(window.dimension)];
            let full_in = window.resets_at.map_or(A_MINUTE, |at| at.since(wall));
            let new = Known {
                dimension: window.dimension,
                limit: window.limit as f64,
                remaining: window.remaining as f64,
                at: now,
                full_at: now.plus(full_in),
            };
            let is_newer = slot.is_none_or(|old| {
                #[expect(clippy::float_cmp, reason = "both are the same whole number or another")]
                let another = old.limit != new.limit;
                sent.at >= old.at || another || new.remaining <= old.level(now)
            });
            if is_newer {
                *slot = Some(new);
            }
        }
        // Whatever left here before this request did had arrived before it.
        if !stated.is_empty() {
            while self.on_their_way.front().is_some_and(|one| one.sent < sent.at) {
                self.on_their_way.pop_front();
            }
        }
    }

    /// A cooldown began: the provider refused although this seemed to be left.
    pub fn refused(&mut self, now: Moment) {
        if !self.is_told() {
            self.learned.refused(now);
        }
    }

    fn is_told(&self) -> bool {
        self.known.iter().any(Option::is_some)
    }

    /// The level at which a request that needs this may be sent. One that needs more than the whole limit waits for all of it.
    fn wanted(&self, known: &Known, need: Need) -> f64 {
        (self.taken(known.dimension) + MARGIN * need.of(known.dimension)).min(known.limit)
    }

    fn taken(&self, dimension: Dimension) -> f64 {
        self.on_their_way.iter().map(|one| one.need.of(dimension)).sum()
    }
}

const fn place(dimension: Dimension) -> usize {
    match dimension {
        Dimension::Requests => 0,
        Dimension::Tokens => 1,
        Dimension::InputTokens => 2,
        Dimension::OutputTokens => 3,
    }
}

#[cfg(test)]
#[path = "headroom_tests.rs"]
mod tests;
