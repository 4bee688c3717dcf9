//! Settlement: chained entries prove what was used.
//!
//! Called in the transaction that chains the entries, so that books and chains never differ. An entry settles every known counter, its key's own
//! and its workspace's, whose period contains the day of its reservation: so a request counts in the period that it began in, whenever it ends.
//! Entries for closed epochs, and such that name none, settle as well: books say the truth.

use std::collections::{BTreeMap, HashMap};

use keyforge_shared::audit::request::RequestRecord;
use keyforge_shared::id::KeyId;
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::period::Window;

use super::evidence::Tally;
use crate::store::StoreError;
use crate::store::ledger::{self, Settlement};
use crate::store::sql::Conn;

/// Settles what new entries prove.
///
/// # Errors
/// [`StoreError`].
pub async fn from_records(conn: &mut Conn, records: &[(KeyId, RequestRecord)]) -> Result<(), StoreError> {
    let mut tallies: HashMap<KeyId, Tally> = HashMap::new();
    for (key, record) in records {
        tallies.entry(*key).or_default().add(record);
    }
    let mut amounts: BTreeMap<(CounterId, u32), u64> = BTreeMap::new();
    for (key, tally) in tallies {
        for (epoch, day, used) in tally.iter() {
            for window in Window::ALL {
                let first_day = window.first_day(day);
                for dimension in Dimension::ALL {
                    for scope in Scope::ALL {
                        let counter = CounterId { key, scope, dimension, window, first_day };
                        let amount = amounts.entry((counter, epoch)).or_default();
                        *amount = amount.saturating_add(used.of(dimension));
                    }
                }
            }
        }
    }
    let settlements: Vec<_> = amounts
        .into_iter()
        .filter(|(_, amount)| *amount > 0)
        .map(|((counter, epoch), amount)| Settlement { counter, epoch, amount })
        .collect();
    if settlements.is_empty() { Ok(()) } else { ledger::settle(conn, &settlements).await }
}
