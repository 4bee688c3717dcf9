//! Admission is the reservation: one decision takes the bound from every counter of the key, or nothing from any.

use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::limit::{Dimension, touched};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::Window;

use super::authorize::Permit;
use super::bound::Bound;
use super::receive::Head;
use super::settle::Reservation;
use crate::counters::{CounterStore, Need, ReservationId, Reserve, Verdict};
use crate::grants::Want;
use crate::plane::Plane;
use crate::rejection::{Exhausted, Rejection};

/// Rounds of reserve and grant before giving up. One is the rule, two when a counter runs short; more only while others of the same key race for what
/// was granted.
const ROUNDS: usize = 256;
/// How much longer a reservation lives than the request it is for may run.
const EXPIRY_MARGIN: Duration = Duration::from_secs(120);

/// Reserves what a request may cost at most, cut to what the key can pay.
///
/// # Errors
/// A rejection with status 402, 429 or 503; nothing is held then.
pub async fn reserve(
    plane: &Arc<Plane>,
    permit: &Permit,
    head: &Head,
    mut bound: Bound,
) -> Result<Reservation, Rejection> {
    let mut permit = permit.again();
    let mut renewed = false;
    let id = ReservationId { request: head.id, attempt: 1 };
    for _ in 0..ROUNDS {
        let needs = needs(&permit, &bound);
        let verdict = plane.counters.reserve(Reserve {
            id,
            key: permit.key().id,
            needs: &needs,
            requests_per_minute: permit.key().policy.requests_per_minute,
            expires_after: plane.times.total + EXPIRY_MARGIN,
            not_after: None,
        });
        let short = match verdict.await.map_err(|_| unavailable(plane, "counters"))? {
            Verdict::Admitted(admission) => return Ok(Reservation::new(plane, &permit, head, id, bound, &admission)),
            Verdict::RateLimited { retry_after } => {
                let limit = permit.key().policy.requests_per_minute.unwrap_or(0);
                return Err(Rejection::RateLimited { retry_after, limit });
            }
            Verdict::Frozen => return Err(Rejection::KeyFrozen),
            // A period ended since the permit was made: the request belongs to the one in which it is admitted.
            Verdict::OutsidePeriod if !renewed => {
                renewed = true;
                permit = permit.made_at(plane.clock.now());
                continue;
            }
            // The wall clock was set back over the boundary, and the store's clock never goes back: until it catches up nobody knows the period.
            Verdict::OutsidePeriod => return Err(unavailable(plane, "period")),
            // Ids are made here and used once, and no delivery is delayed in this process.
            Verdict::Duplicate | Verdict::Late => return Err(Rejection::Internal),
            Verdict::NoBooks(missing) => missing.into_iter().map(|index| (index, 0)).collect(),
            Verdict::Short(shortage) => shortage.needs,
        };
        // A counter that the ledger has nothing left for decides; the others would only be asked for in vain.
        let Some((index, free)) = short.iter().find(|(index, _)| plane.grants.is_exhausted(&needs[*index].counter))
        else {
            let wants: Vec<_> = short.iter().map(|(index, free)| want(&needs[*index], *free)).collect();
            plane.grants.acquire(permit.key().id, &wants).await.map_err(|_| unavailable(plane, "grants"))?;
            continue;
        };
        let need = &needs[*index];
        match need.counter.dimension {
            Dimension::Requests => return Err(exhausted(plane, &permit, need, 1).await),
            Dimension::Spend => match bound.cut_to(&permit, NanoUsd::new(*free)) {
                Some(cut) => bound = cut,
                None => return Err(exhausted(plane, &permit, need, bound.least(&permit).nanos()).await),
            },
        }
    }
    // The ledger has more each time and others of this key take it each time: nothing is exhausted, so nothing may say so.
    Err(unavailable(plane, "contention"))
}

fn needs(permit: &Permit, bound: &Bound) -> Vec<Need> {
    let key = permit.key();
    touched(key.id, &key.policy, permit.at())
        .map(|touched| Need {
            counter: touched.counter,
            period: touched.period,
            limit: touched.limit,
            amount: match touched.counter.dimension {
                Dimension::Requests => 1,
                Dimension::Spend => bound.amount.nanos(),
            },
        })
        .collect()
}

fn want(need: &Need, free: u64) -> Want {
    Want { counter: need.counter, amount: need.amount.min(need.limit).saturating_sub(free).max(1) }
}

fn unavailable(plane: &Plane, missing: &'static str) -> Rejection {
    plane.metrics.failed_closed(missing);
    Rejection::EnforcementUnavailable
}

async fn exhausted(plane: &Plane, permit: &Permit, need: &Need, least: u64) -> Rejection {
    let books = plane.counters.books(permit.key().id).await.unwrap_or_default();
    let book = books.iter().find(|book| book.counter == need.counter);
    let (spent, held) = book.map_or((0, 0), |book| (book.used.saturating_add(book.elsewhere), book.held));
    Rejection::Exhausted(Box::new(Exhausted {
        dimension: need.counter.dimension,
        window: need.counter.window,
        limit: need.limit,
        spent,
        held,
        needed: least,
        resets_at: (need.counter.window != Window::Total).then_some(need.period.end),
    }))
}
