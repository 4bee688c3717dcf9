//! Admission is the reservation: one decision takes the bound from every counter of the key, or nothing from any.

use std::sync::Arc;
use std::time::Duration;

use keyforge_counters::{
    Admission, Concurrency, Need, Rate, RateLimited, Rates, ReservationId, Reserve, Standing, TokenRate, Verdict,
};
use keyforge_shared::id::LifeId;
use keyforge_shared::limit::Dimension;
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::Window;
use keyforge_shared::plan::Plan;

use super::authorize::Permit;
use super::bound::Bound;
use super::question::Question;
use super::receive::Head;
use super::reservation::{Attempt, Hold, Reservation, Terms};
use crate::grants::{AsOf, Brought, GrantError, Left};
use crate::leases::LEASE;
use crate::ledger::Want;
use crate::memberships::Pass;
use crate::plane::Plane;
use crate::rate_headers::RateHeaders;
use crate::rejection::{Exhausted, RateLimit, Rejection};
use crate::settlements::About;

/// How long rounds of reserve and grant may take in all. One is the rule, two when a counter runs short; more only while others of the same key race
/// for what was granted.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many rounds, too: a store and a ledger that answer at once are not to be asked for as long.
const ROUNDS: usize = 256;
/// Of these, at most so many that change the ground: another life, another period. More mean that something else is wrong.
const NEW_GROUNDS: usize = 8;
/// How much longer a reservation lives than the request it is for may run.
const EXPIRY_MARGIN: Duration = Duration::from_secs(120);
/// How long a request waits, each time, for what may have ended already: a shared store hears of an end a moment after the client does.
const MOMENTS: [Duration; 4] =
    [Duration::from_millis(3), Duration::from_millis(8), Duration::from_millis(16), Duration::from_millis(32)];
/// The number of a request's first attempt.
pub const FIRST: u16 = 1;
/// When to ask again for a place among the requests that run at the same time: nobody knows when one ends.
const PLACE: Duration = Duration::from_secs(1);

/// Reserves what a request may cost at most, cut to what the key can pay.
///
/// # Errors
/// A rejection with status 401, 402, 429 or 503; nothing is held then, or it is given back.
pub async fn reserve(plane: &Arc<Plane>, permit: &Permit, head: &Head, bound: Bound) -> Result<Reservation, Rejection> {
    reserve_within(PATIENCE, plane, permit, head, bound).await
}

/// Reserves the same for a further attempt, which has this number. Its request was counted in the minute's requests before.
///
/// # Errors
/// As [`reserve`].
pub async fn reserve_again(
    plane: &Arc<Plane>,
    permit: &Permit,
    head: &Head,
    bound: Bound,
    attempt: u16,
) -> Result<Reservation, Rejection> {
    let id = ReservationId { request: head.id, attempt };
    ask(PATIENCE, plane, permit, Attempt { id, started: head.started }, bound).await
}

async fn reserve_within(
    patience: Duration,
    plane: &Arc<Plane>,
    permit: &Permit,
    head: &Head,
    bound: Bound,
) -> Result<Reservation, Rejection> {
    let id = ReservationId { request: head.id, attempt: FIRST };
    ask(patience, plane, permit, Attempt { id, started: head.started }, bound).await
}

async fn ask(
    patience: Duration,
    plane: &Arc<Plane>,
    permit: &Permit,
    attempt: Attempt,
    bound: Bound,
) -> Result<Reservation, Rejection> {
    if plane.settlements.is_frozen(permit.key().id) {
        return Err(Rejection::KeyPaused);
    }
    let bound = within_a_minute(permit, bound)?;
    let id = attempt.id;
    let mut asking = Asking {
        plane,
        permit: permit.again(),
        bound,
        attempt,
        question: Question::new(Arc::clone(plane), permit.key().id, id),
        new_grounds: 0,
        moments: 0,
    };
    // The ledger may have more each time and others of this key take it each time: nothing is exhausted then, so nothing may say so.
    let asked = tokio::time::timeout(patience, asking.rounds()).await;
    asked.unwrap_or_else(|_elapsed| Err(unavailable(plane, "contention")))
}

/// The bound, cut to the tokens that the key may take in a minute: what needs more is never admitted.
fn within_a_minute(permit: &Permit, bound: Bound) -> Result<Bound, Rejection> {
    let Some(limit) = permit.key().policy.tokens_per_minute else { return Ok(bound) };
    let needed = bound.tokens();
    if needed.is_some_and(|needed| needed <= limit) {
        return Ok(bound);
    }
    let rate_headers = RateHeaders::limits_of(&permit.key().policy);
    bound.cut_to_tokens(permit, limit).ok_or(Rejection::TooManyTokens { needed, limit, rate_headers })
}

/// A request on its way to a reservation.
struct Asking<'a> {
    plane: &'a Arc<Plane>,
    permit: Permit,
    bound: Bound,
    attempt: Attempt,
    question: Question,
    new_grounds: usize,
    /// Of [`MOMENTS`], those that were waited for.
    moments: usize,
}

impl Asking<'_> {
    async fn rounds(&mut self) -> Result<Reservation, Rejection> {
        for _ in 0..ROUNDS {
            if let Some(reservation) = self.round().await? {
                return Ok(reservation);
            }
        }
        Err(unavailable(self.plane, "contention"))
    }

    /// Asks the store once, and gets it what it lacks. `None`: look again.
    async fn round(&mut self) -> Result<Option<Reservation>, Rejection> {
        let (plane, key) = (self.plane, self.permit.key().id);
        let (needs, rates) = (self.needs(), self.rates());
        if needs.is_empty() && rates == Rates::default() {
            return Ok(Some(self.unlimited()));
        }
        let asked_at = plane.grants.as_of();
        let pass = if needs.is_empty() { None } else { plane.memberships.enter(key) };
        let asked = self.question.ask(Reserve {
            id: self.attempt.id,
            key,
            epoch: pass.as_ref().map_or(0, Pass::epoch),
            needs: &needs,
            rates,
            expires_after: plane.times.total + EXPIRY_MARGIN,
            not_after: None,
        });
        match asked.await.map_err(|_| unavailable(plane, "counters"))? {
            Verdict::Admitted(admission) => return Ok(Some(self.admitted(pass, &needs, rates, &admission))),
            Verdict::NotJoined(life) => {
                drop(pass);
                self.on_new_ground("books")?;
                let wants: Vec<_> = needs.iter().map(|need| want(need, Standing::default())).collect();
                self.acquire(life, &wants).await?;
            }
            Verdict::NoBooks(missing) => {
                let wants: Vec<_> = missing.into_iter().map(|index| want(&needs[index], Standing::default())).collect();
                self.acquire(joined(plane, pass)?, &wants).await?;
            }
            Verdict::Short(short) => self.short(joined(plane, pass)?, asked_at, &needs, &short).await?,
            // A period ended since the permit was made, or the clocks differ: the request belongs to the one in which it is admitted.
            Verdict::OutsidePeriod { now } => {
                self.on_new_ground("period")?;
                self.permit = self.permit.made_at(now);
            }
            Verdict::RateLimited(RateLimited { rate: Rate::Concurrency, .. }) if self.wait_a_moment().await => {}
            Verdict::RateLimited(limited) => return Err(self.rate_limited(rates, &limited)),
            Verdict::Frozen => self.thaw().await?,
            // Nothing here is asked with a time after which it may not be admitted; a store that thinks so cannot be believed.
            Verdict::Late => return Err(unavailable(plane, "late")),
            Verdict::Duplicate => {
                let id = self.attempt.id;
                tracing::error!(request = %id.request, attempt = id.attempt, %key, "the counter store says that this id is over, but ids are made here and used once; please report it");
                return Err(Rejection::Internal);
            }
        }
        Ok(None)
    }

    /// The store refuses a key that works by the node's state. The freeze may be older than that: then it goes.
    async fn thaw(&mut self) -> Result<(), Rejection> {
        let (plane, key) = (self.plane, self.permit.key());
        let thawed = plane.settlements.thaw(key.id, key.status_revision).await;
        if !thawed.map_err(|_| unavailable(plane, "counters"))? {
            return Err(Rejection::KeyPaused);
        }
        tracing::info!(key = %key.id, "a freeze was lifted that is older than the key's resumption");
        self.on_new_ground("freeze")
    }

    fn needs(&self) -> Vec<Need> {
        let amount = |dimension| match dimension {
            Dimension::Requests => 1,
            Dimension::Spend => self.bound.amount.nanos(),
        };
        let counters = self.permit.counters().map(|touched| Need {
            counter: touched.counter,
            period: touched.period,
            limit: touched.limit,
            amount: amount(touched.counter.dimension),
        });
        counters.collect()
    }

    fn rates(&self) -> Rates {
        let policy = &self.permit.key().policy;
        // What nothing bounds was cut to the minute before.
        let tokens = |per_minute| TokenRate { per_minute, amount: self.bound.tokens().unwrap_or(per_minute) };
        Rates {
            requests_per_minute: policy.requests_per_minute.filter(|_| self.attempt.id.attempt == FIRST),
            tokens: policy.tokens_per_minute.map(tokens),
            concurrency: policy.concurrent_requests.map(|limit| Concurrency { limit, lease: LEASE }),
        }
    }

    fn unlimited(&self) -> Reservation {
        let terms = Terms::new(&self.bound, RateHeaders::default(), &[], &[]);
        let hold = Hold::nothing(Arc::clone(self.plane));
        Reservation::new(self.plane, hold, self.permit.again(), self.attempt, self.bound, terms)
    }

    fn admitted(&mut self, pass: Option<Pass>, needs: &[Need], rates: Rates, admission: &Admission) -> Reservation {
        let (key, id) = (self.permit.key().id, self.attempt.id);
        let about = About { key, epoch: pass.as_ref().map_or(0, Pass::epoch), id };
        let lease = rates.concurrency.map(|_| self.plane.leases.enter(key, id));
        let asked = self.question.take_asked();
        let hold = Hold::new(Arc::clone(self.plane), about, pass, lease).asked(asked);
        let rate_headers = RateHeaders::new(&rates, &admission.rates);
        let terms = Terms::new(&self.bound, rate_headers, needs, &admission.counters);
        Reservation::new(self.plane, hold, self.permit.again(), self.attempt, self.bound, terms)
    }

    /// Life, epoch or period are others than was thought.
    fn on_new_ground(&mut self, what: &'static str) -> Result<(), Rejection> {
        self.new_grounds += 1;
        if self.new_grounds > NEW_GROUNDS { Err(unavailable(self.plane, what)) } else { Ok(()) }
    }

    async fn acquire(&mut self, life: LifeId, wants: &[Want]) -> Result<(), Rejection> {
        let missing = match self.plane.grants.acquire(self.permit.key().id, life, wants).await {
            Ok(Brought::Answer) => return Ok(()),
            Ok(Brought::NewLife) => return self.on_new_ground("books"),
            Err(GrantError::Ledger | GrantError::Refused) => "grants",
            Err(GrantError::Store) => "counters",
        };
        Err(unavailable(self.plane, missing))
    }

    /// Some counters are too small. One that the ledger has nothing left for decides; the others would only be asked for in vain.
    async fn short(
        &mut self,
        life: LifeId,
        asked_at: AsOf,
        needs: &[Need],
        short: &[(usize, Standing)],
    ) -> Result<(), Rejection> {
        let mut decides = None;
        for (index, standing) in short {
            match self.plane.grants.left(&needs[*index].counter, asked_at) {
                Left::Unknown => {}
                Left::NothingSince => return Ok(()),
                Left::Nothing { unsettled } => {
                    decides = Some((&needs[*index], standing, unsettled));
                    break;
                }
            }
        }
        let Some((need, standing, unsettled)) = decides else {
            let wants: Vec<_> = short.iter().map(|(index, standing)| want(&needs[*index], *standing)).collect();
            return self.acquire(life, &wants).await;
        };
        // A request that runs stays a request. Of the money that it holds, some comes back.
        let may_come_back = need.counter.dimension == Dimension::Spend && standing.held > 0;
        if may_come_back && self.wait_a_moment().await {
            return Ok(());
        }
        let least = match need.counter.dimension {
            Dimension::Requests => need.amount,
            Dimension::Spend => match self.bound.cut_to(&self.permit, NanoUsd::new(standing.free)) {
                Some(cut) => {
                    self.bound = cut;
                    return Ok(());
                }
                None => self.bound.least(&self.permit).nanos(),
            },
        };
        let plan = self.permit.plan_behind(&need.counter, need.limit);
        if proof_is_wanting(standing, least) {
            tracing::info!(key = %self.permit.key().id, %life, "the books hold charges that nobody proved, and are given up for what the records say");
            let given_up = self.plane.grants.give_up(self.permit.key().id, life).await;
            given_up.map_err(|_| unavailable(self.plane, "counters"))?;
            return Err(Rejection::Settling(Box::new(Exhausted { plan, ..used_up(need, standing, unsettled, least) })));
        }
        Err(exhausted(need, standing, unsettled, least, plan))
    }

    /// Gives what has ended time to be told to the store, a few times; false when that was enough.
    async fn wait_a_moment(&mut self) -> bool {
        if self.plane.settlements.are_told_at_once() {
            return false;
        }
        let Some(moment) = MOMENTS.get(self.moments) else { return false };
        self.moments += 1;
        tokio::time::sleep(*moment).await;
        true
    }

    fn rate_limited(&self, rates: Rates, limited: &RateLimited) -> Rejection {
        let limit = match limited.rate {
            Rate::Requests => rates.requests_per_minute.map(u64::from),
            Rate::Tokens => rates.tokens.map(|rate| rate.per_minute),
            Rate::Concurrency => rates.concurrency.map(|concurrency| u64::from(concurrency.limit)),
        };
        let limit = limit.unwrap_or(0);
        let rate_headers = RateHeaders::new(&rates, &limited.left);
        if let (Rate::Tokens, None) = (limited.rate, limited.retry_after) {
            return Rejection::TooManyTokens { needed: self.bound.tokens(), limit, rate_headers };
        }
        Rejection::RateLimited(Box::new(RateLimit {
            rate: limited.rate,
            limit,
            retry_after: limited.retry_after.unwrap_or(PLACE),
            rate_headers,
        }))
    }
}

fn want(need: &Need, standing: Standing) -> Want {
    Want {
        counter: need.counter,
        amount: need.amount.min(need.limit).saturating_sub(standing.free).max(1),
        ceiling: standing.used.saturating_add(standing.held).saturating_add(need.amount),
        limit: need.limit,
    }
}

fn joined(plane: &Plane, pass: Option<Pass>) -> Result<LifeId, Rejection> {
    // Without a pass no epoch was named, and the books cannot have looked any further.
    pass.map(|pass| pass.life()).ok_or_else(|| unavailable(plane, "books"))
}

fn unavailable(plane: &Plane, missing: &'static str) -> Rejection {
    plane.metrics.failed_closed(missing);
    Rejection::EnforcementUnavailable
}

/// A limit does not cover a request that needs at least `least`. It is exhausted if it would not even if all that runs ended without a charge and
/// others gave back all that they were granted and have not settled.
fn exhausted(need: &Need, standing: &Standing, unsettled: u64, least: u64, plan: Option<Plan>) -> Rejection {
    let gone = standing.elsewhere.saturating_add(standing.used);
    let would_fit = gone.saturating_add(least) <= need.limit.saturating_add(unsettled);
    let exhausted = Box::new(Exhausted { plan, ..used_up(need, standing, unsettled, least) });
    if would_fit { Rejection::Settling(exhausted) } else { Rejection::Exhausted(exhausted) }
}

/// Whether only charges of expired reservations stand in the way. What they really cost, the ledger learns from records; if they were never
/// dispatched there will be none, and nobody else would ever give them back.
const fn proof_is_wanting(standing: &Standing, least: u64) -> bool {
    standing.orphaned > 0 && standing.free.saturating_add(standing.orphaned) >= least
}

fn used_up(need: &Need, standing: &Standing, unsettled: u64, least: u64) -> Exhausted {
    Exhausted {
        plan: None,
        scope: need.counter.scope,
        dimension: need.counter.dimension,
        window: need.counter.window,
        limit: need.limit,
        spent: standing.used.saturating_add(standing.elsewhere.saturating_sub(unsettled)),
        held: standing.held.saturating_add(unsettled),
        needed: least,
        resets_at: (need.counter.window != Window::Total).then_some(need.period.end),
    }
}

#[cfg(test)]
#[path = "reserve_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "used_up_tests.rs"]
mod used_up_tests;

#[cfg(test)]
#[path = "lives_tests.rs"]
mod lives_tests;

#[cfg(test)]
#[path = "rates_tests.rs"]
mod rates_tests;

#[cfg(test)]
#[path = "shared_store_tests.rs"]
mod shared_store_tests;
