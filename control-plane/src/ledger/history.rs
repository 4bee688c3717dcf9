//! History: what was used in a period before anybody asked for a limit of it.
//!
//! A counter becomes known in one write transaction, which settles all that is chained by then; from there on each new entry settles it. A short
//! history is read in that transaction. A long one is read before it, page by page and outside of any write transaction, by a task that does not
//! end with who asked, one for each limit and period; the transaction then reads only what was chained meanwhile. Places in chains say what
//! was read, so every entry is counted once.
//!
//! Reading goes back from a chain's end, and ends at what the entries themselves say: the time of chaining, which their hashes cover and which never
//! falls along a chain. What was chained an hour before a period began is not of it, unless the node's clock was that far ahead; the books then
//! differ from the chain, and [`Ledger::reconcile`](super::Ledger::reconcile) tells it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::audit::record::Record;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{ChainId, KeyId, WorkspaceId};
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::period::{Calendar, CivilDay, Window};

use super::evidence::{Tally, decode};
use crate::store::entries::{self, End};
use crate::store::ledger::{self, Books, Settlement};
use crate::store::locks::{self, Hold};
use crate::store::sql::Conn;
use crate::store::{Store, StoreError};

/// How far a node's clock may be ahead, so that a record of a period is chained before it begins.
const CLOCKS: Duration = Duration::from_hours(1);
/// Entries of a chain that are looked at first. Most chains have none or few that count.
const FIRST_PAGE: u32 = 16;

/// How many entries are read at a time.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// In one read transaction; at least 1.
    pub page: u32,
    /// In one write transaction, in which nobody else can write; at least 1.
    pub in_write: u32,
}

impl Default for Reading {
    fn default() -> Self {
        Self { page: 500, in_write: 2_000 }
    }
}

/// A part of a chain that is still to be read: places after `after` and before `before`.
struct Due {
    key: KeyId,
    chain: ChainId,
    /// Entries that were chained before are of no use.
    since: Timestamp,
    newest: i64,
    after: i64,
    before: i64,
    page: u32,
}

/// The entries of one limit's period, as far as they are read.
struct History {
    counter: CounterId,
    /// Up to which place the chain of each key is read.
    read: BTreeMap<KeyId, i64>,
    tallies: BTreeMap<KeyId, Tally>,
    due: Vec<Due>,
}

impl History {
    const fn of(counter: CounterId) -> Self {
        Self { counter, read: BTreeMap::new(), tallies: BTreeMap::new(), due: Vec::new() }
    }

    /// Finds what was chained since, once all that was due is read.
    async fn look(&mut self, conn: &mut Conn) -> Result<(), StoreError> {
        for End { key, chain, zone, seq, t_cp } in entries::ends(conn, &self.counter).await? {
            let after = self.read.get(&key).copied().unwrap_or(0);
            if seq <= after {
                continue;
            }
            let period = Calendar::of(zone.as_ref()).period(self.counter.window, self.counter.first_day);
            let slack = i64::try_from(CLOCKS.as_nanos()).unwrap_or(i64::MAX);
            let since = Timestamp::from_nanos(period.start.nanos().saturating_sub(slack));
            if t_cp >= since.nanos() {
                let before = seq.saturating_add(1);
                self.due.push(Due { key, chain, since, newest: seq, after, before, page: FIRST_PAGE });
            }
        }
        Ok(())
    }

    /// Reads one page of what is due, of at most `most` entries. Returns how many it read.
    async fn page(&mut self, conn: &mut Conn, most: u32) -> Result<u32, StoreError> {
        let Some(due) = self.due.last_mut() else { return Ok(0) };
        let size = due.page.min(most).max(1);
        let rows = entries::between(conn, due.chain, (due.after, due.before), size).await?;
        let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let mut is_over = count < size;
        for row in &rows {
            due.before = row.seq;
            if row.t_cp < due.since.nanos() {
                is_over = true;
                break;
            }
            let Record::Request(record) = decode(&row.record)? else { continue };
            let day = CivilDay::from_number(record.period);
            if self.counter.window.first_day(day) == self.counter.first_day {
                self.tallies.entry(due.key).or_default().add(&record);
            }
        }
        due.page = due.page.saturating_mul(2);
        if is_over {
            self.read.insert(due.key, due.newest);
            self.due.pop();
        }
        Ok(count)
    }

    /// Reads what is due and takes it from `budget`. False when that did not suffice.
    async fn read_within(&mut self, conn: &mut Conn, budget: &mut u32) -> Result<bool, StoreError> {
        while !self.due.is_empty() {
            if *budget == 0 {
                return Ok(false);
            }
            *budget -= self.page(conn, *budget).await?;
        }
        Ok(true)
    }

    /// Settles what was read, so that the counter is known.
    async fn settle(self, conn: &mut Conn) -> Result<(), StoreError> {
        let mut before = Vec::new();
        for (key, tally) in &self.tallies {
            let counter = CounterId { key: *key, ..self.counter };
            let used = tally.epochs().into_iter().map(|epoch| (epoch, tally.of(&counter, |of| of == epoch)));
            let used = used.filter(|(_, amount)| *amount > 0);
            before.extend(used.map(|(epoch, amount)| Settlement { counter, epoch, amount }));
        }
        ledger::settle(conn, &before).await
    }
}

/// Begins a counter's books in an epoch that has none. Of a known counter everything is settled that has no books yet, so these begin at nothing.
/// When the counter becomes known by this, all that its period's entries say is settled first: of the key, or of all keys of the workspace. What is
/// read for that is taken from `budget`; `None` when it did not suffice, and then nothing may be committed.
pub(super) async fn begin_books(
    conn: &mut Conn,
    counter: &CounterId,
    epoch: u32,
    budget: &mut u32,
) -> Result<Option<Books>, StoreError> {
    if ledger::is_known(conn, counter).await? {
        ledger::set_books(conn, counter, epoch, Books::default()).await?;
        return Ok(Some(Books::default()));
    }
    let mut history = History::of(*counter);
    history.look(conn).await?;
    if !history.read_within(conn, budget).await? {
        return Ok(None);
    }
    ledger::set_books(conn, counter, epoch, Books::default()).await?;
    history.settle(conn).await?;
    ledger::books(conn, counter, epoch).await
}

/// Makes a counter known that has a long history.
async fn make_known(store: &Store, reading: Reading, counter: CounterId, owner: Owner) -> Result<(), StoreError> {
    let mut history = History::of(counter);
    history.look(&mut *store.read().await?).await?;
    let mut budget = reading.in_write;
    loop {
        while !history.due.is_empty() {
            history.page(&mut *store.read().await?, reading.page).await?;
        }
        let mut tx = store.write().await?;
        hold(&mut tx, &counter, owner).await?;
        if ledger::is_known(&mut tx, &counter).await? {
            return Ok(());
        }
        history.look(&mut tx).await?;
        if history.read_within(&mut tx, &mut budget.clone()).await? {
            // The row alone makes it known, whatever was used.
            ledger::set_books(&mut tx, &counter, 0, Books::default()).await?;
            history.settle(&mut tx).await?;
            tx.commit().await?;
            return Ok(());
        }
        // Entries come faster than they are read: a longer transaction the next time, so that this ends.
        budget = budget.saturating_mul(2);
    }
}

/// Nobody chains entries of the limit's keys, or makes books of it, until the transaction ends.
async fn hold(conn: &mut Conn, counter: &CounterId, owner: Owner) -> Result<(), StoreError> {
    if let Owner::Workspace(workspace) = owner {
        locks::workspaces(conn, &[workspace], Hold::Alone).await?;
    }
    locks::books(conn, &[counter.key]).await
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Owner {
    Key(KeyId),
    Workspace(WorkspaceId),
}

/// A limit in one period, whichever of a workspace's keys asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct LimitPeriod(Owner, Dimension, Window, CivilDay);

type Work = Shared<BoxFuture<'static, Result<(), Arc<StoreError>>>>;
type UnderWay = Mutex<HashMap<LimitPeriod, Work>>;

fn entered(under_way: &UnderWay) -> MutexGuard<'_, HashMap<LimitPeriod, Work>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets work that has ended, however it ended.
struct Ended(Weak<UnderWay>, LimitPeriod);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(under_way) = self.0.upgrade() {
            entered(&under_way).remove(&self.1);
        }
    }
}

/// Reads long histories, each once at a time. Clones share it.
#[derive(Clone)]
pub(super) struct Histories {
    store: Store,
    pub(super) reading: Reading,
    under_way: Arc<UnderWay>,
    tasks: Shutdown,
}

impl Histories {
    pub(super) fn new(store: Store, reading: Reading) -> Self {
        Self { store, reading, under_way: Arc::default(), tasks: Shutdown::new() }
    }

    /// Makes a counter known, or waits for whoever is at it. The work goes on when the caller is gone.
    pub(super) async fn make_known(&self, counter: CounterId, workspace: WorkspaceId) -> Result<(), Arc<StoreError>> {
        let owner = match counter.scope {
            Scope::Key => Owner::Key(counter.key),
            Scope::Workspace => Owner::Workspace(workspace),
        };
        let work = self.work(LimitPeriod(owner, counter.dimension, counter.window, counter.first_day), counter);
        work.await
    }

    fn work(&self, limit: LimitPeriod, counter: CounterId) -> Work {
        let mut under_way = entered(&self.under_way);
        if let Some(work) = under_way.get(&limit) {
            return work.clone();
        }
        // It holds what it leaves only weakly: nothing may keep the store open when the runtime drops it half done.
        let (ended, store, reading) = (Ended(Arc::downgrade(&self.under_way), limit), self.store.clone(), self.reading);
        let owner = limit.0;
        let work = async move {
            let _ended = ended;
            make_known(&store, reading, counter, owner).await.map_err(Arc::new)
        };
        let work = work.boxed().shared();
        under_way.insert(limit, work.clone());
        let driven = work.clone();
        // No drain waits for it: what it leaves undone is done when it is asked for again.
        drop(self.tasks.spawn_background("history", async move {
            if let Err(error) = driven.await {
                tracing::warn!(key = %counter.key, %error, "what was used before a limit could not be read");
            }
        }));
        work
    }
}
