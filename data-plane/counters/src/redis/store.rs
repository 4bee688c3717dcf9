//! The questions, as scripts are asked them.
//!
//! Amounts are exact in scripts up to 2^53 - 1 and stop there, which is above every limit that a policy may have. Durations are cut to whole
//! milliseconds.

use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::money::NanoUsd;
use redis::Cmd;

use super::RedisCounters;
use super::call::About;
use super::key_names::{counter, parse_counter, reservation};
use super::link::Link;
use super::reply::{self, Answer, Reply, nonsense};
use crate::grant::{ClawBack, GrantSet};
use crate::reserve::{ReservationId, Reserve, Verdict};
use crate::settle::{Settled, Settlement};
use crate::store::{CounterError, CounterState, CounterStore, Freeze};

/// The largest amount that scripts keep exactly.
const EXACT: u64 = (1 << 53) - 1;
/// How many leases one call renews.
const RENEWED_AT_ONCE: usize = 512;

impl CounterStore for RedisCounters {
    async fn reserve(&self, reserve: Reserve<'_>) -> Result<Verdict, CounterError> {
        let deadline = self.deadline();
        let about = About { script: &self.scripts.reserve, key: reserve.key, ids: &[reserve.id] };
        let patience = self.shards.timeout().saturating_mul(2);
        let mut not_after = reserve.not_after;
        for may_be_late in [true, false] {
            let put = |command: &mut Cmd, link: &Link| {
                // Nobody waits for the answer any more when it would come after this: the question may have waited in a stopped server.
                let bound = || self.time.is_server().then(|| link.clock().saturating_add(patience));
                put_reserve(command, &reserve, self.lives.next(), not_after.or_else(bound));
            };
            let (answer, link) = self.call(about, deadline, put).await?;
            let Answer { verdict, clock, late_at } = reply::answer(&answer)?;
            link.learn_clock(clock);
            match late_at {
                // The bound was ours, and what it was made from was wrong, or this key's time is ahead of its server's.
                Some(now) if may_be_late && reserve.not_after.is_none() => {
                    not_after = Some(now.saturating_add(patience))
                }
                _ => return Ok(verdict),
            }
        }
        Ok(Verdict::Late)
    }

    async fn settle(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        settlement: Settlement,
    ) -> Result<Settled, CounterError> {
        let about = About { script: &self.scripts.settle, key, ids: &[id] };
        let put = |command: &mut Cmd, _: &Link| {
            command.arg(epoch).arg(reservation(id)).arg(exact(settlement.cost.nanos()));
            command.arg(u8::from(settlement.counted));
            put_optional(command, settlement.tokens);
        };
        let (answer, _) = self.call(about, self.deadline(), put).await?;
        reply::settled(&answer)?.map_err(|current| CounterError::Epoch { key, given: epoch, current })
    }

    async fn shrink(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        bound: NanoUsd,
        tokens: Option<u64>,
    ) -> Result<bool, CounterError> {
        let about = About { script: &self.scripts.shrink, key, ids: &[id] };
        let put = |command: &mut Cmd, _: &Link| {
            command.arg(epoch).arg(reservation(id)).arg(exact(bound.nanos()));
            put_optional(command, tokens);
        };
        let (answer, _) = self.call(about, self.deadline(), put).await?;
        match answer.number(0)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CounterError::Epoch { key, given: epoch, current: reply::epoch(&answer, 1)? }),
        }
    }

    async fn renew(&self, key: KeyId, ids: &[ReservationId], lease: Duration) -> Result<(), CounterError> {
        for some in ids.chunks(RENEWED_AT_ONCE) {
            let about = About { script: &self.scripts.renew, key, ids: some };
            let put = |command: &mut Cmd, _: &Link| {
                command.arg(millis(lease)).arg(some.len());
                for id in some {
                    command.arg(reservation(*id));
                }
            };
            self.call(about, self.deadline(), put).await?;
        }
        Ok(())
    }

    async fn grant(&self, key: KeyId, grants: &GrantSet) -> Result<(), CounterError> {
        if let Some(foreign) = grants.grants.iter().find(|grant| grant.counter.key != key) {
            return Err(CounterError::ForeignCounter { key, owner: foreign.counter.key });
        }
        let about = About { script: &self.scripts.grant, key, ids: &[] };
        let put = |command: &mut Cmd, _: &Link| {
            command.arg(self.lives.next().to_string()).arg(grants.life.to_string()).arg(grants.epoch);
            command.arg(exact(grants.serial)).arg(grants.grants.len());
            for grant in &grants.grants {
                command.arg(counter(key, &grant.counter)).arg(unix_millis(grant.period.end));
                command.arg(exact(grant.granted)).arg(exact(grant.elsewhere));
            }
        };
        let (answer, _) = self.call(about, self.deadline(), put).await?;
        match answer.number(0)? {
            1 => Ok(()),
            2 => Err(CounterError::Life { key, current: answer.life(1)? }),
            _ => Err(CounterError::Epoch { key, given: grants.epoch, current: reply::epoch(&answer, 1)? }),
        }
    }

    async fn claw_back(&self, key: KeyId) -> Result<Option<ClawBack>, CounterError> {
        let about = About { script: &self.scripts.claw_back, key, ids: &[] };
        let (answer, _) = self.call(about, self.deadline(), |_, _| {}).await?;
        if answer.len() == 0 {
            return Ok(None);
        }
        let holding = |at| {
            let counter = parse_counter(key, answer.text(at)?).ok_or_else(|| nonsense("a counter that is none"))?;
            Ok((counter, answer.number(at + 1)?))
        };
        Ok(Some(ClawBack {
            life: answer.life(0)?,
            epoch: reply::epoch(&answer, 1)?,
            serial: answer.number(2)?,
            holdings: (3..answer.len()).step_by(2).map(holding).collect::<Result<_, CounterError>>()?,
        }))
    }

    async fn vacate(&self, key: KeyId, life: LifeId) -> Result<LifeId, CounterError> {
        let about = About { script: &self.scripts.vacate, key, ids: &[] };
        let put = |command: &mut Cmd, _: &Link| {
            command.arg(self.lives.next().to_string()).arg(life.to_string());
        };
        let (answer, _) = self.call(about, self.deadline(), put).await?;
        answer.life(0)
    }

    async fn freeze(&self, key: KeyId, freeze: Freeze) -> Result<(), CounterError> {
        let what = if freeze.lasting { 1 } else { 2 };
        self.set_frozen(key, what, freeze.revision).await.map(drop)
    }

    async fn unfreeze(&self, key: KeyId, revision: u64) -> Result<bool, CounterError> {
        self.set_frozen(key, 0, revision).await
    }

    async fn life(&self, key: KeyId) -> Result<Option<LifeId>, CounterError> {
        let seen = self.look(key).await?;
        if seen.len() == 0 { Ok(None) } else { seen.life(0).map(Some) }
    }

    async fn books(&self, key: KeyId) -> Result<Vec<CounterState>, CounterError> {
        let seen = self.look(key).await?;
        let counter = |at| {
            let counter = parse_counter(key, seen.text(at)?).ok_or_else(|| nonsense("a counter that is none"))?;
            stored(counter, seen.text(at + 1)?)
        };
        (1..seen.len()).step_by(2).map(counter).collect()
    }
}

impl RedisCounters {
    /// What the books say: nothing without an epoch, else their life, and each counter with its text.
    async fn look(&self, key: KeyId) -> Result<Reply, CounterError> {
        let about = About { script: &self.scripts.look, key, ids: &[] };
        Ok(self.call(about, self.deadline(), |_, _| {}).await?.0)
    }

    async fn set_frozen(&self, key: KeyId, what: u8, revision: u64) -> Result<bool, CounterError> {
        let about = About { script: &self.scripts.freeze, key, ids: &[] };
        let put = |command: &mut Cmd, _: &Link| {
            command.arg(what).arg(exact(revision));
        };
        let (answer, _) = self.call(about, self.deadline(), put).await?;
        Ok(answer.number(0)? == 1)
    }
}

fn put_reserve(command: &mut Cmd, reserve: &Reserve<'_>, next_life: LifeId, not_after: Option<Timestamp>) {
    let Reserve { id, key, epoch, needs, rates, expires_after, .. } = *reserve;
    command.arg(next_life.to_string()).arg(epoch).arg(reservation(id)).arg(millis(expires_after));
    put_optional(command, not_after.map(unix_millis));
    put_optional(command, rates.requests_per_minute.map(u64::from));
    put_optional(command, rates.tokens.map(|tokens| tokens.per_minute));
    command.arg(rates.tokens.map_or(0, |tokens| exact(tokens.amount)));
    put_optional(command, rates.concurrency.map(|running| u64::from(running.limit)));
    command.arg(rates.concurrency.map_or(0, |running| millis(running.lease)));
    let fields: Vec<_> = needs.iter().map(|need| (counter(key, &need.counter), need)).collect();
    let takes: Vec<_> = fields.iter().map(|(field, need)| format!("{field}={}", exact(need.amount))).collect();
    command.arg(takes.join(" ")).arg(needs.len());
    for (field, need) in fields {
        command.arg(field).arg(unix_millis(need.period.start)).arg(unix_millis(need.period.end));
        command.arg(exact(need.limit)).arg(exact(need.amount));
    }
}

/// A counter as the books hold it: `used held orphaned granted elsewhere serial end`.
fn stored(counter: keyforge_shared::limit::CounterId, text: &str) -> Result<CounterState, CounterError> {
    let numbers = text.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>();
    match numbers.as_deref() {
        Ok(&[used, held, orphaned, granted, elsewhere, _, _]) => {
            Ok(CounterState { counter, granted, used, held, orphaned, elsewhere })
        }
        _ => Err(nonsense("a counter that is none")),
    }
}

fn put_optional(command: &mut Cmd, number: Option<u64>) {
    match number {
        Some(number) => command.arg(exact(number)),
        None => command.arg(-1),
    };
}

fn exact(amount: u64) -> u64 {
    amount.min(EXACT)
}

fn millis(duration: Duration) -> u64 {
    exact(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Whole milliseconds since 1970; times before that are 1970.
fn unix_millis(time: Timestamp) -> u64 {
    u64::try_from(time.millis()).unwrap_or(0)
}
