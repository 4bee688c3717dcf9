//! Settlement: chained entries prove what was used.
//!
//! Called in the transaction that chains the entries, so that books and chains never differ. An entry settles every known counter, its key's own
//! and its workspace's, whose period contains the day of its reservation: so a request counts in the period that it began in, whenever it ends.
//! Entries for closed epochs, and such that name none, settle as well: books say the truth. What an entry's attempt was not admitted under is in no
//! life's counter of it, so that the life is told of it as spent elsewhere.

use std::collections::{BTreeMap, HashMap};

use keyforge_shared::audit::request::{Flags, RequestRecord};
use keyforge_shared::id::KeyId;
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::period::{CivilDay, Window};

use super::evidence::Used;
use crate::store::StoreError;
use crate::store::ledger::{self, Settlement};
use crate::store::sql::Conn;

/// What the attempts of one day used that were admitted in one epoch under the same limits.
type Group = (KeyId, u32, CivilDay, Flags);

/// Settles what new entries prove.
///
/// # Errors
/// [`StoreError`].
pub async fn from_records(conn: &mut Conn, records: &[(KeyId, RequestRecord)]) -> Result<(), StoreError> {
    let mut groups: HashMap<Group, Used> = HashMap::new();
    for (key, record) in records {
        let day = CivilDay::from_number(record.period);
        groups.entry((*key, record.quota_epoch, day, record.flags.limits())).or_default().add(record.into());
    }
    let mut settled: BTreeMap<(CounterId, u32), u64> = BTreeMap::new();
    let mut outside: BTreeMap<(CounterId, u32), u64> = BTreeMap::new();
    for ((key, epoch, day, limits), used) in groups {
        for counter in counters(key, day) {
            let amount = used.of(counter.dimension);
            let add = |to: &mut BTreeMap<_, u64>| {
                let sum = to.entry((counter, epoch)).or_default();
                *sum = sum.saturating_add(amount);
            };
            if amount > 0 {
                add(&mut settled);
            }
            if amount > 0 && epoch > 0 && !limits.is_under(&counter) {
                add(&mut outside);
            }
        }
    }
    let listed = |amounts: BTreeMap<(CounterId, u32), u64>| {
        let rows = amounts.into_iter().map(|((counter, epoch), amount)| Settlement { counter, epoch, amount });
        rows.collect::<Vec<_>>()
    };
    if !outside.is_empty() {
        ledger::spent_outside(conn, &listed(outside)).await?;
    }
    if settled.is_empty() { Ok(()) } else { ledger::settle(conn, &listed(settled)).await }
}

/// Every counter that a key's request of this day can be in.
fn counters(key: KeyId, day: CivilDay) -> impl Iterator<Item = CounterId> {
    let windows = Window::ALL.into_iter().map(move |window| (window, window.first_day(day)));
    windows.flat_map(move |(window, first_day)| {
        let dimensions = Dimension::ALL.into_iter();
        dimensions.flat_map(move |dimension| {
            Scope::ALL.into_iter().map(move |scope| CounterId { key, scope, dimension, window, first_day })
        })
    })
}
