//! Former limits: what was granted under a limit that is gone, and may have been spent, counts against the limits that took its place.
//!
//! An operator who changes a limit per day into one in total has nodes give back what they were granted per day. What they do not give back they have
//! spent or are about to spend; entries will prove it, and settle every limit in whose period they are. Until then it is held against the limit that is
//! there now, so that no moment between the two limits lets anybody spend both. That is so in the period in which the limits were changed, and in one
//! that begins within a day of it, which is the longest that a node may go on with a former policy. A boot that never comes back gives nothing
//! back, and holds this until the period ends.

use std::collections::BTreeMap;
use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::KeyId;
use keyforge_shared::limit::{CounterId, Scope};
use keyforge_shared::period::{CivilDay, Period, Window};
use keyforge_shared::state::{KeyRecord, WorkspaceRecord};

use super::limit_of;
use crate::store::StoreError;
use crate::store::ledger::{self, Outstanding};
use crate::store::limit_changes::{self, Owner};
use crate::store::sql::Conn;

/// The longest that a node may serve without the control plane.
const LONGEST_STALENESS: Duration = Duration::from_secs(24 * 3600);

/// What former limits have outstanding, in requests or nano-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Former {
    /// All of it.
    pub outstanding: u64,
    /// The part that is expected to be settled or to come back.
    pub expected: u64,
}

/// What is outstanding under limits that are gone, in periods that have a day in common with the counter's, which is `period`.
pub(super) async fn of(
    conn: &mut Conn,
    (key, workspace): (&KeyRecord, &WorkspaceRecord),
    (counter, period): (&CounterId, &Period),
    heard_since: Timestamp,
) -> Result<Former, StoreError> {
    let owner = match counter.scope {
        Scope::Key => Owner::Key(key.id),
        Scope::Workspace => Owner::Workspace(workspace.id),
    };
    let changed_at = limit_changes::latest(conn, owner).await?;
    if changed_at.is_none_or(|at| at.saturating_add(LONGEST_STALENESS) < period.start) {
        return Ok(Former::default());
    }
    let mut rows = ledger::outstanding_in_others(conn, counter, heard_since).await?;
    rows.retain(|row| {
        let former = CounterId { window: row.window, first_day: row.first_day, ..*counter };
        limit_of(key, workspace, &former).is_none() && overlap(counter, row.window, row.first_day)
    });
    Ok(sum(&rows))
}

/// Whether two periods have a day in common. Each is where the other one's first day, or the later of both, belongs to it.
fn overlap(counter: &CounterId, window: Window, first_day: CivilDay) -> bool {
    let later = counter.first_day.max(first_day);
    counter.window.first_day(later) == counter.first_day && window.first_day(later) == first_day
}

/// An attempt was held back by every limit that there was, so of several former limits only the one with most counts; its periods are summed.
fn sum(rows: &[Outstanding]) -> Former {
    let mut epochs: BTreeMap<(KeyId, u32), BTreeMap<Window, (u64, bool)>> = BTreeMap::new();
    for row in rows {
        let (amount, is_expected) = epochs.entry((row.key, row.epoch)).or_default().entry(row.window).or_default();
        *amount = amount.saturating_add(row.amount);
        *is_expected = row.is_expected;
    }
    let mut former = Former::default();
    for windows in epochs.into_values() {
        let (most, is_expected) = windows.into_values().max().unwrap_or_default();
        former.outstanding = former.outstanding.saturating_add(most);
        former.expected = former.expected.saturating_add(if is_expected { most } else { 0 });
    }
    former
}

#[cfg(test)]
mod tests {
    use keyforge_shared::limit::Dimension;

    use super::*;

    fn row(epoch: u32, window: Window, day: u32, amount: u64) -> Outstanding {
        let first_day = window.first_day(CivilDay::from_number(day));
        Outstanding { key: key(), epoch, window, first_day, amount, is_expected: epoch == 1 }
    }

    fn key() -> KeyId {
        KeyId::from_ascii(b"key000000001").unwrap()
    }

    #[test]
    fn of_several_former_limits_the_largest_counts_in_each_epoch_and_all_its_periods() {
        let rows = [
            row(1, Window::Day, 20_000, 3),
            row(1, Window::Day, 20_001, 4),
            row(1, Window::Month, 20_001, 6),
            row(2, Window::Month, 20_001, 5),
        ];
        assert_eq!(sum(&rows), Former { outstanding: 12, expected: 7 });
        assert_eq!(sum(&[]), Former::default());
    }

    #[test]
    fn only_periods_with_a_day_in_common_are_held_against_each_other() {
        // 20,000 days after 1970-01-01 is 2024-10-04.
        let of = |window: Window, day: u32| {
            let first_day = window.first_day(CivilDay::from_number(day));
            CounterId { key: key(), scope: Scope::Key, dimension: Dimension::Spend, window, first_day }
        };
        let overlaps = |counter: CounterId, window: Window, day: u32| {
            overlap(&counter, window, window.first_day(CivilDay::from_number(day)))
        };
        assert!(overlaps(of(Window::Total, 20_000), Window::Day, 19_000));
        assert!(overlaps(of(Window::Day, 20_000), Window::Total, 19_000));
        assert!(overlaps(of(Window::Month, 20_000), Window::Day, 20_020));
        assert!(!overlaps(of(Window::Month, 20_000), Window::Day, 19_990));
        assert!(!overlaps(of(Window::Day, 20_000), Window::Day, 20_001));
        assert!(overlaps(of(Window::Week, 19_998), Window::Month, 20_000), "a week that reaches into the month");
    }
}
