//! How much of a limit is used in its current period, as it is shown of keys and of workspaces.

use keyforge_proto::admin::v1 as proto;
use keyforge_shared::money::NanoUsd;
use serde::Serialize;

use super::period_limits;
use crate::output::{Row, moment, or_dash};

/// A limit in its current period: requests or dollars.
#[derive(Debug, Serialize)]
pub(super) struct BalanceView {
    /// Whose limit it is: the key's own, or its workspace's.
    scope: String,
    dimension: String,
    window: &'static str,
    /// First day of the period in the key's time zone; none for its whole life.
    first_day: Option<String>,
    /// Requests or nano-dollars, by `dimension`.
    limit: u64,
    settled: u64,
    granted: u64,
    left: u64,
    /// In dollars, when money is limited.
    limit_usd: Option<String>,
    settled_usd: Option<String>,
    granted_usd: Option<String>,
    left_usd: Option<String>,
    resets_at: Option<String>,
}

impl BalanceView {
    pub(super) fn of(balance: proto::Balance) -> Self {
        let left = balance.limit.saturating_sub(balance.settled).saturating_sub(balance.granted);
        let money = balance.dimension == "spend";
        let usd = |nanos: u64| money.then(|| NanoUsd::new(nanos).decimal());
        Self {
            window: period_limits::window(balance.window),
            first_day: balance.first_day,
            scope: balance.scope,
            limit_usd: usd(balance.limit),
            settled_usd: usd(balance.settled),
            granted_usd: usd(balance.granted),
            left_usd: usd(left),
            dimension: balance.dimension,
            limit: balance.limit,
            settled: balance.settled,
            granted: balance.granted,
            left,
            resets_at: balance.resets_at_ms.map(moment),
        }
    }
}

impl Row for BalanceView {
    const COLUMNS: &'static [&'static str] =
        &["of", "limit", "period", "since", "at most", "settled", "with nodes", "left", "resets"];

    fn cells(&self) -> Vec<String> {
        let amount =
            |number: u64, usd: &Option<String>| usd.as_ref().map_or(number.to_string(), |usd| format!("${usd}"));
        vec![
            self.scope.clone(),
            self.dimension.clone(),
            self.window.to_owned(),
            or_dash(self.first_day.as_ref()),
            amount(self.limit, &self.limit_usd),
            amount(self.settled, &self.settled_usd),
            amount(self.granted, &self.granted_usd),
            amount(self.left, &self.left_usd),
            or_dash(self.resets_at.as_ref()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balance(dimension: &str) -> BalanceView {
        BalanceView::of(proto::Balance {
            scope: "workspace".to_owned(),
            dimension: dimension.to_owned(),
            window: proto::Window::Month.into(),
            first_day: Some("2026-11-01".to_owned()),
            limit: 5_000_000_000,
            settled: 1_000_000_000,
            granted: 500_000_000,
            resets_at_ms: None,
        })
    }

    #[test]
    fn what_is_left_of_a_limit_is_neither_settled_nor_with_a_node() {
        let money = balance("spend");
        assert_eq!((money.left, money.left_usd.as_deref()), (3_500_000_000, Some("3.50")));
        assert_eq!(money.cells()[..4], ["workspace", "spend", "month", "2026-11-01"]);
        assert_eq!(money.cells()[4..], ["$5.00", "$1.00", "$0.50", "$3.50", "-"]);
        assert_eq!(balance("requests").cells()[4], "5000000000");
        assert_eq!(money.cells().len(), BalanceView::COLUMNS.len());
    }
}
