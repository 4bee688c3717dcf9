//! What limits one key's pace: requests and tokens of the last minute, and requests at the same time.
//!
//! It outlives the books: a new life of them changes nothing here. A question is answered before anything is taken, and only what is taken forgets
//! what counts no more, because only then time cannot go back.

use std::time::Duration;

use keyforge_shared::clock::Timestamp;

use super::leases::Leases;
use super::rate::SlidingLog;
use super::reservation::TokenHold;
use super::tokens::TokenRing;
use crate::reserve::{Rate, RateLeft, RateLimited, Rates, RatesLeft, ReservationId};

/// The pace of one key.
#[derive(Debug, Default)]
pub(super) struct Pace {
    log: SlidingLog,
    tokens: TokenRing,
    leases: Leases,
}

impl Pace {
    /// The rate without room that has to be waited for longest. `now` is never before an earlier one.
    pub(super) fn refusal(&mut self, rates: &Rates, now: Timestamp) -> Option<RateLimited> {
        let (rate, retry_after) = self.full(rates, now)?;
        Some(RateLimited { rate, retry_after, left: self.left(rates, now) })
    }

    fn full(&mut self, rates: &Rates, now: Timestamp) -> Option<(Rate, Option<Duration>)> {
        let requests = rates.requests_per_minute.map(|limit| (Rate::Requests, self.log.wait(limit, now)));
        let tokens = rates.tokens.map(|rate| (Rate::Tokens, self.tokens.wait(rate.per_minute, rate.amount, now)));
        let full = [requests, tokens].into_iter().flatten().filter(|(_, wait)| *wait != Some(Duration::ZERO));
        // What never fits is waited for longer than anything.
        let wait = |full: &(Rate, Option<Duration>)| full.1.unwrap_or(Duration::MAX);
        let longest = full.reduce(|longest, next| if wait(&next) > wait(&longest) { next } else { longest });
        if longest.is_some() {
            return longest;
        }
        // A place among what runs has no time, so it is told only when nothing else is full.
        let limit = usize::try_from(rates.concurrency?.limit).unwrap_or(usize::MAX);
        (self.leases.running(now) >= limit).then_some((Rate::Concurrency, None))
    }

    /// Takes what [`Self::refusal`] found free, and says what a settlement can replace of it.
    pub(super) fn take(&mut self, id: ReservationId, rates: &Rates, now: Timestamp) -> Option<TokenHold> {
        if rates.requests_per_minute.is_some() {
            self.log.admit(now);
        }
        if let Some(concurrency) = rates.concurrency {
            self.leases.renew(id, concurrency.lease, now);
        }
        let amount = rates.tokens?.amount;
        self.tokens.take(amount, now);
        Some(TokenHold { second: now.seconds(), amount })
    }

    pub(super) fn left(&self, rates: &Rates, now: Timestamp) -> RatesLeft {
        let requests = rates.requests_per_minute.map(|limit| RateLeft {
            remaining: u64::from(limit).saturating_sub(u64::try_from(self.log.count(now)).unwrap_or(u64::MAX)),
            reset: self.log.reset(now),
        });
        let tokens = rates.tokens.map(|tokens| RateLeft {
            remaining: tokens.per_minute.saturating_sub(self.tokens.sum(now)),
            reset: self.tokens.reset(now),
        });
        RatesLeft { requests, tokens }
    }

    pub(super) fn replace_tokens(&mut self, hold: TokenHold, actual: u64) {
        self.tokens.replace(hold.second, hold.amount, actual);
    }

    pub(super) fn renew(&mut self, id: ReservationId, lease: Duration, now: Timestamp) {
        self.leases.renew(id, lease, now);
    }

    pub(super) fn end(&mut self, id: &ReservationId) {
        self.leases.end(id);
    }

    /// Whether nothing counts any more.
    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        self.log.is_idle(now) && self.tokens.is_idle(now) && self.leases.is_idle(now)
    }
}
