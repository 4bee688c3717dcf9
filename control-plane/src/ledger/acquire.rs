//! Grants: slices of limits, written off for one life of a key's books before it may spend them.

use std::collections::BTreeMap;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{BootId, KeyId, LifeId, WorkspaceId};
use keyforge_shared::limit::{CounterId, Scope};
use keyforge_shared::period::{Calendar, Period};

use super::former::{self, Former};
use super::signs::expected_since;
use super::{Holder, Ledger, LedgerError, STAGING, history, is_active, limit_at, limited};
use crate::store::epochs;
use crate::store::ledger::{self, Books};
use crate::store::locks::{self, Hold};
use crate::store::sql::Conn;
use crate::store::{StoreError, boot_signs, boots, chains, keys};

/// A grant is at least this many times what is needed now, so that a burst does not ask for each request.
const NEEDS_PER_GRANT: u64 = 4;
/// A grant is at least this part of what is left, so that a large budget is not handed out in crumbs, and at most that part is lost to a crash.
const SHARES: u64 = 8;
/// Most holders that one answer names.
const MOST_HOLDERS: u32 = 8;

/// A boot's question for more of one key, on behalf of a life of its books.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// Who asks, and becomes or stays a member of the life's epoch.
    pub boot: BootId,
    /// The life.
    pub life: LifeId,
    /// The key.
    pub key: KeyId,
    /// Counters of that key. None: only the membership is wanted.
    pub wants: Vec<Want>,
}

/// What a life needs of one counter.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// The counter.
    pub counter: CounterId,
    /// Needed now, beyond what is free in the books: requests or nano-dollars.
    pub amount: u64,
}

/// What a life may spend.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The life's epoch.
    pub epoch: u32,
    /// Number of this answer among all of the epoch.
    pub serial: u64,
    /// One for each want, in the same order.
    pub grants: Vec<Grant>,
    /// Who else holds what of a workspace's limit that could not cover a want: at most 8, each life once, those with most first.
    pub holders: Vec<Holder>,
}

/// What a life may spend of one counter. Amounts are requests, or nano-dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The counter.
    pub counter: CounterId,
    /// Its period.
    pub period: Period,
    /// Cumulative in this epoch: asking again never takes anything away.
    pub granted: u64,
    /// The limit of the key or the workspace.
    pub limit: u64,
    /// What could still be granted to anyone.
    pub available: u64,
    /// What counts against the limit and is not in the life's own counter: what others have settled or were granted, and what was settled here
    /// before these books. The life may spend at most `limit - elsewhere`, whatever it was granted.
    pub elsewhere: u64,
    /// The part of `elsewhere` that was granted, is not settled, and is expected to be, or to come back.
    pub unsettled: u64,
}

/// How far one transaction came.
enum Step {
    Granted(Granted),
    /// What was used of a counter before is too much to be read in a write transaction; nothing was changed. With the workspace of its key.
    Unread(CounterId, WorkspaceId),
}

struct Due {
    want: Want,
    period: Period,
    limit: u64,
}

impl Ledger {
    /// Makes the boot a member of the life's epoch, which is opened if there is none, and grants what can be granted of each want, down to
    /// nothing, in one transaction. The first ask for a limit in a period with a long history waits until that is read; who does not wait for it
    /// finds it read later.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing was granted then, and no membership changed.
    pub async fn acquire(&self, ask: &Acquire) -> Result<Granted, LedgerError> {
        loop {
            match self.try_acquire(ask).await? {
                Step::Granted(granted) => return Ok(granted),
                Step::Unread(counter, workspace) => {
                    self.histories.make_known(counter, workspace).await.map_err(LedgerError::History)?;
                }
            }
        }
    }

    async fn try_acquire(&self, ask: &Acquire) -> Result<Step, LedgerError> {
        let now = self.clock.now();
        let mut tx = self.store.write().await?;
        hold(&mut tx, ask).await?;
        let (key, workspace) = limited(&mut tx, ask.key).await?;
        if !is_active(&key, now) {
            return Err(LedgerError::NotActive(ask.key));
        }
        let calendar = key.policy.calendar();
        let due = ask.wants.iter().map(|want| {
            let limit = limit_at(&key, &workspace, &want.counter, now).ok_or(LedgerError::NoSuchLimit(want.counter))?;
            let period = present_period(&calendar, &want.counter, now).ok_or(LedgerError::WrongPeriod(want.counter))?;
            Ok(Due { want: *want, period, limit })
        });
        let due = due.collect::<Result<Vec<_>, LedgerError>>()?;

        let (epoch, serial) = join(&mut tx, ask, now).await?;
        let mut grants = Vec::with_capacity(due.len());
        let mut holders = Vec::new();
        let mut budget = self.histories.reading.in_write;
        for due in &due {
            let former =
                former::of(&mut tx, (&key, &workspace), (&due.want.counter, &due.period), expected_since(now)).await?;
            let Some((grant, is_covered)) = grant(&mut tx, epoch, (due, now), (former, &mut budget)).await? else {
                return Ok(Step::Unread(due.want.counter, workspace.id));
            };
            if !is_covered && due.want.counter.scope == Scope::Workspace {
                holders.extend(ledger::holders(&mut tx, &due.want.counter, MOST_HOLDERS).await?);
            }
            grants.push(grant);
        }
        tx.commit().await.map_err(StoreError::from)?;
        Ok(Step::Granted(Granted { epoch, serial, grants, holders: largest(holders) }))
    }
}

/// Holds everything that the decision is about, until the transaction ends.
async fn hold(conn: &mut Conn, ask: &Acquire) -> Result<(), StoreError> {
    locks::life(conn, ask.boot, Hold::Shared).await?;
    if ask.wants.iter().any(|want| want.counter.scope == Scope::Workspace) {
        // What a key's chain and workspace are never changes, so that they can be looked up before.
        let chain = chains::chain_of_key(conn, ask.key).await?;
        let workspace = keys::workspaces_of(conn, chain.as_slice()).await?;
        locks::workspaces(conn, &workspace, Hold::Alone).await?;
    }
    locks::books(conn, &[ask.key]).await
}

/// Enters the boot into the epoch of the life. Gives the epoch, and the serial of this answer.
async fn join(conn: &mut Conn, ask: &Acquire, now: Timestamp) -> Result<(u32, u64), LedgerError> {
    if boots::is_over(conn, ask.boot).await? {
        return Err(LedgerError::BootOver(ask.boot));
    }
    let epoch = match epochs::of_life(conn, ask.key, ask.life).await? {
        Some(epoch) if epoch.open => epoch.epoch,
        Some(_) => return Err(LedgerError::Over(ask.life)),
        None => epochs::open(conn, ask.key, ask.life, now).await?,
    };
    let serial = epochs::next_serial(conn, ask.key, epoch, !ask.wants.is_empty()).await?;
    epochs::join(conn, ask.key, epoch, ask.boot, serial).await?;
    boot_signs::note(conn, &[ask.boot], now).await?;
    Ok((epoch, serial))
}

/// The period that the counter names, if it is the present one or close to it.
fn present_period(calendar: &Calendar, counter: &CounterId, now: Timestamp) -> Option<Period> {
    let staging = i64::try_from(STAGING.as_nanos()).unwrap_or(i64::MAX);
    let near = [0, -staging, staging].map(|offset| Timestamp::from_nanos(now.nanos().saturating_add(offset)));
    let mut days = near.into_iter().map(|moment| calendar.day_at(moment));
    let day = days.find(|day| counter.window.first_day(*day) == counter.first_day)?;
    Some(calendar.period(counter.window, day))
}

/// Grants a slice, and says whether it covers what is needed. `None` when `budget` did not suffice to read what was used before.
async fn grant(
    conn: &mut Conn,
    epoch: u32,
    (due, now): (&Due, Timestamp),
    (former, budget): (Former, &mut u32),
) -> Result<Option<(Grant, bool)>, LedgerError> {
    let Due { want: Want { counter, amount }, period, limit } = due;
    let books = match ledger::books(conn, counter, epoch).await? {
        Some(books) => Some(books),
        None => history::begin_books(conn, counter, epoch, budget).await?,
    };
    let Some(mut books) = books.map(Books::begun) else { return Ok(None) };
    let others = ledger::sums(conn, counter, Some(epoch), expected_since(now)).await?;
    let elsewhere = others.written_off().saturating_add(former.outstanding);
    // More may be settled than was granted: an attempt that was admitted before the limit, or one that cost more than its bound.
    let here = books.granted.max(books.settled);
    let spendable = limit.saturating_sub(elsewhere).saturating_sub(here);
    let slice = spendable.min(amount.saturating_mul(NEEDS_PER_GRANT).max(spendable / SHARES));
    books.granted = books.granted.saturating_add(slice);
    ledger::set_books(conn, counter, epoch, books).await?;
    let grant = Grant {
        counter: *counter,
        period: *period,
        granted: books.granted.saturating_sub(books.before),
        limit: *limit,
        available: spendable - slice,
        elsewhere: elsewhere.saturating_add(books.before),
        unsettled: others.expected.saturating_add(former.expected),
    };
    Ok(Some((grant, slice >= *amount)))
}

/// Each life once, with what it holds most of; the largest first, and no more than one answer names.
fn largest(holders: Vec<Holder>) -> Vec<Holder> {
    let mut lives: BTreeMap<(KeyId, LifeId), Holder> = BTreeMap::new();
    for holder in holders {
        let life = lives.entry((holder.key, holder.life)).or_insert(holder);
        life.unsettled = life.unsettled.max(holder.unsettled);
    }
    let mut holders: Vec<_> = lives.into_values().collect();
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.unsettled));
    holders.truncate(MOST_HOLDERS as usize);
    holders
}
