//! Counters: what may still be spent, decided before a request is dispatched.
//!
//! A counter store holds slices of limits (grants) that the ledger has already written off for it. One decision takes from all counters of a
//! request and from its rates, or from none. What is unknown stays charged: a reservation whose end nobody reported is charged in full until it
//! is settled, and a counter without books is refused, never taken as zero.
//!
//! All books of one virtual key have one *life*, which begins empty and ends when they are lost, rolled back or given up. The ledger numbers the
//! lives of a key as *epochs* and writes off what it granted to each, so that no loss gives anything back.
//!
//! * [`store`]: the trait; [`reserve`], [`grant`], [`settle`]: what it is asked and what it answers
//! * [`memory`]: in this process, for one node; [`redis`]: in Redis, for as many as share it
//! * [`configured`]: the one that a node was configured with
//! * [`cooldowns`]: until when nobody uses what a provider has refused; no money matter, but nodes share it in the same place
//!
//! Every store passes the same suite, and the in-process store is what the other is compared with.

pub mod configured;
pub mod cooldowns;
pub mod grant;
pub mod memory;
pub mod redis;
pub mod reserve;
pub mod settle;
pub mod store;

pub use configured::Counters;
pub use cooldowns::{Cooldown, CooldownChange, CooldownClass, CooldownStore, Cooldowns, MemoryCooldowns};
pub use grant::{ClawBack, Grant, GrantSet};
pub use memory::MemoryCounters;
pub use redis::RedisCounters;
pub use reserve::{
    Admission, Concurrency, Need, Rate, RateLeft, RateLimited, Rates, RatesLeft, ReservationId, Reserve, Standing,
    TokenRate, Verdict,
};
pub use settle::{Settled, Settlement};
pub use store::{CounterError, CounterState, CounterStore, Freeze, Outage};
